"""Every setting with its type and a sentence; the four modes; backbone families by scale; a fit.

    config = build_config("quick_test", overrides=["optim.epochs=8", "model.backbones=vit,swin"])

A mode is BASE with a page of differences (PRESETS): no code asks which mode it is in. `0` or "auto"
leaves a setting to `resolve`, which chooses by the scale and the data before any key is made, so
keys hold plain values.
"""
import math
import textwrap
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace

from utils import UserError, closest, nearest

# the best single family first; it also trains from random weights, for which transformers need far
# more images
FAMILIES = ("efficientnetv2", "convnext", "swin", "beit", "maxvit", "resnext", "vit")
SCALES = ("large", "base", "small", "tiny")
AUTO = "auto"
# classes augmented alike; a minority class is also a document or a photo
GROUPS = ("document", "photo", "minority")

# family -> timm model name at each of SCALES. `tiny` members train on two CPU cores. A family
# without a small enough member uses its nearest relative: TinyViT for Swin (windowed attention in
# stages), EVA-02 for BEiT (masked-image pretraining). A tag picks the strongest weights under a
# permissive licence where timm's own choice is weaker (docs/networks.md).
BACKBONES = {
    "convnext": ("convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_384",
                 "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384",
                 "convnext_tiny", "convnext_atto"),
    "swin": ("swin_large_patch4_window12_384", "swin_base_patch4_window12_384",
             "swin_tiny_patch4_window7_224", "tiny_vit_5m_224.dist_in22k_ft_in1k"),
    "beit": ("beit_large_patch16_384", "beit_base_patch16_384",
             "eva02_small_patch14_336.mim_in22k_ft_in1k",
             "eva02_tiny_patch14_336.mim_in22k_ft_in1k"),
    "efficientnetv2": ("tf_efficientnetv2_xl", "tf_efficientnetv2_m",
                       "tf_efficientnetv2_s", "tf_efficientnetv2_b0"),
    "maxvit": ("maxvit_large_tf_384.in21k_ft_in1k", "maxvit_base_tf_384.in21k_ft_in1k",
               "maxvit_tiny_tf_224", "maxvit_rmlp_pico_rw_256"),
    "resnext": ("resnext101_32x32d", "resnext101_32x8d.tv2_in1k", "resnext50_32x4d",
                "resnext26ts"),
    "vit": ("vit_large_patch16_384", "vit_base_patch16_384",
            "vit_small_patch16_384", "vit_tiny_patch16_224"),
}
IMAGE_SIZE_PX = {"large": 384, "base": 384, "small": 224, "tiny": 128}
MICRO_BATCH_SIZE = {"large": 8, "base": 16, "small": 32, "tiny": 64}
# members that need over 15 GB with that (python -m benchmarks.memory) use gradient checkpointing on
# GPUs smaller than this
GRAD_CHECKPOINTING_BELOW_GIB = {"resnext101_32x32d": 20, "maxvit_large_tf_384": 24}
# steps of a fit, within MOST_EPOCHS (benchmarks/RESULTS.md); not measured for large networks, where
# more would take days
FEWEST_STEPS = {"large": 0, "base": 0, "small": 1000, "tiny": 1000}
# of a later round that learns from test images, with its teachers beside it: 12 epochs of large
# networks would take 30 of competition_ready's 10 to 15 hours (python -m benchmarks.target). It
# goes on from the first round's weights. 0: as many as the first round
TAUGHT_EPOCHS = {"large": 1, "base": 1, "small": 0, "tiny": 0}
EPOCHS = 12
EPOCHS_BEFORE_TAUGHT = 10      # of the first round, where TAUGHT_EPOCHS follow
MOST_EPOCHS = 60


def setting(default, doc, *, choices=None, low=None, high=None):
    """A dataclass field with a sentence and the values that it allows."""
    metadata = {"doc": doc, "choices": choices, "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataConfig:
    image_size_px: int = setting(
        0, "side of the network's square input in pixels, a multiple of 32; 0: by scale",
        low=0, high=2048,
    )
    n_folds: int = setting(5, "number of stratified folds", low=1, high=50)
    run_folds: int = setting(0, "folds that are trained, from fold 0; 0: all", low=0, high=50)
    resize: str = setting(
        "letterbox", "how an image becomes square: padded, stretched, or its centre cut out",
        choices=("letterbox", "squash", "crop"),
    )
    test_usage: str = setting(
        "train",
        "what may use the test images before predicting: later rounds and shift matching (train), "
        "shift matching only (statistics), or nothing (none)",
        choices=("train", "statistics", "none"),
    )
    group_column: str = setting(
        "", "rows with the same value in this column share a fold; '': only near-duplicates do"
    )
    fold_column: str = setting(
        "", "column of the label table with the host's folds, as many as it has values; '': drawn"
    )
    valid_folder: str = setting(
        "merge", "images of a folder val/, or that a column of splits gives to validation: trained "
        "on like others (merge), or validated on as the only fold (use)",
        choices=("merge", "use"),
    )
    label_table: str = setting(
        "",
        "where the labels are: a table's path in the contest folder, or folders (the class is the "
        "folder), subfolders (a folder inside those), names (the class begins the file name); "
        "'': found",
    )
    id_column: str = setting("", "column of the image ids; '': the one that names image files")
    task: str = setting(
        "auto",
        "what is predicted: one class an image (single), any number of them (multilabel), or "
        "numbers (regression); auto: by the labels",
        choices=("auto", "single", "multilabel", "regression"),
    )
    target_column: str = setting(
        "", "column of the class, or comma-separated columns of 0 and 1, one per class; '': found"
    )
    sample_submission: str = setting(
        "", "path in the contest folder of the file that the submission must look like; '': found"
    )
    label_fixes: str = setting(
        "", "csv of labels mended in a report: columns id and label, an empty label leaves the "
        "image out; '': label_fixes.csv in the contest folder, if it is there"
    )
    near_duplicate_agreement: float = setting(
        0.94, "correlation that the details of near-duplicates exceed; 1: only equal files share a "
        "fold", low=0.5, high=1.0,
    )


@dataclass(frozen=True)
class ModelConfig:
    backbones: tuple[str, ...] = setting(
        FAMILIES[:1], "timm model names, or family names, whose member is chosen by scale"
    )
    frozen: tuple[str, ...] = setting(
        ("auto",),
        "networks with pretrained weights, named as in model.backbones, that begin the run: they "
        "are not trained, only a classifier on their features, in all folds; auto: those that are "
        "trained or lie in runtime.weights_dir, up to the time that training takes; '': none",
    )
    text: str = setting(
        "off",
        "a member that reads the words in images: on, off, or where a sample of training images "
        "holds words enough (auto, as in competition_ready)",
        choices=("auto", "on", "off"),
    )
    text_language: str = setting(
        "",
        "languages of the words, by Tesseract's names as in kor+eng; '': RapidOCR's Latin, Chinese "
        "and Japanese",
    )
    head: str = setting("linear", "classifier on pooled features", choices=("linear", "arcface"))
    arcface_centers: int = setting(
        1, "arcface centres per class; the nearest counts; 1: plain ArcFace", low=1, high=16
    )
    pretrained: str = setting(
        "auto",
        "initial weights: the best found, else random (auto); the best found, else stop (require); "
        "random (off)",
        choices=("auto", "require", "off"),
    )
    drop_rate: float = setting(0.1, "dropout before the classifier, share", low=0.0, high=0.9)
    drop_path_rate: float = setting(
        -1.0,
        "stochastic depth, share; ignored by backbones without it; 0: as timm builds the backbone; "
        "-1: 0.2 or 0.1 for large and base transformers, ConvNeXt and EfficientNetV2, else 0",
        low=-1.0, high=0.9,
    )


@dataclass(frozen=True)
class AugmentConfig:
    policy: str = setting(
        "matched", "augmentation: matched to the test set's shift, a standard policy, or none",
        choices=("matched", "standard", "none"),
    )
    mixup_alpha: float = setting(0.2, "Beta parameter of mixup; 0: off", low=0.0, high=10.0)
    cutmix_alpha: float = setting(1.0, "Beta parameter of cutmix; 0: off", low=0.0, high=10.0)
    mix_share: float = setting(
        0.3, "share of batches that are mixed (half mixup, half cutmix when both are on)",
        low=0.0, high=1.0,
    )
    clean_epochs: int = setting(1, "number of epochs without mixing, at the end", low=0, high=1000)
    groups: str = setting(
        "auto",
        "classes augmented alike: found from their images and counts (auto), all in one (off), or "
        "NAME=CLASS,CLASS;NAME=.. with the names document, photo, minority (the others are found)",
    )


@dataclass(frozen=True)
class OptimConfig:
    epochs: int = setting(
        0,
        "passes over the training images per fit; 0: 12, or with tiny and small networks up to 60, "
        "until a fit has 1,000 steps, or 10 before a round of 1 (rounds.epochs)",
        low=0, high=10000,
    )
    batch_size: int = setting(
        0, "samples per optimiser step; 0: 64, less if an epoch would have under 40 steps", low=0
    )
    micro_batch_size: int = setting(
        0, "samples per forward pass, a divisor of the batch size; 0: by scale", low=0
    )
    lr: float = setting(
        0.0, "peak learning rate of the last backbone layers; 0: by weights, network, batch size",
        low=0.0, high=10.0,
    )
    head_lr_scale: float = setting(
        2.0, "head's learning rate over the backbone's (pretrained weights)", low=0.01, high=1000.0
    )
    layer_decay: float = setting(
        0.0,
        "factor on the learning rate per block towards the input (pretrained weights); deeper "
        "networks decay in total as much as one of 20 blocks; 0: 0.95, or 0.8 for networks with "
        "layer norms and for big ones", low=0.0, high=1.0,
    )
    weight_decay: float = setting(
        -1.0,
        "AdamW weight decay; none on biases and norms; -1: 0.05, or 1e-8 for networks of over 45 "
        "million parameters at scale large or base",
        low=-1.0, high=10.0,
    )
    warmup_share: float = setting(
        0.1, "share of all steps in which the learning rate rises linearly", low=0.0, high=0.9
    )
    final_lr_share: float = setting(
        0.01, "learning rate at the end of the cosine over its peak", low=0.0, high=1.0
    )
    clip_norm: float = setting(
        -1.0,
        "largest norm of the gradient; 0: no clipping; -1: 5, or 1 for networks of over 45 million "
        "parameters at scale large or base",
        low=-1.0,
    )
    ema_share: float = setting(
        0.1, "averaging horizon of the weights' EMA, share of all steps; 0: off", low=0.0, high=1.0
    )
    focal_gamma: float = setting(0.0, "focal loss's exponent; 0: cross-entropy", low=0.0, high=10.0)
    label_smoothing: float = setting(
        0.1, "share of each target spread over all classes", low=0.0, high=0.9
    )
    class_weight_power: float = setting(
        -1.0,
        "class weights are (mean count / count) to this power; a class's pseudo-labels share its "
        "weight; 0: no weights; -1: 0.5, or 0 for log loss, which needs unshifted probabilities",
        low=-1.0, high=2.0,
    )
    nonfinite_limit: int = setting(5, "skipped non-finite steps in a row that end the fit", low=1)


@dataclass(frozen=True)
class PredictConfig:
    tta_views: int = setting(
        8, "views averaged per image, chosen from flips, turns and scales", low=1, high=8
    )


@dataclass(frozen=True)
class EnsembleConfig:
    method: str = setting(
        "auto", "how blend weights are found: the best in nested validation (auto), or one method",
        choices=("auto", "mean", "greedy", "simplex"),
    )
    refit: bool = setting(
        False, "also train each backbone on all labelled images for the submission"
    )
    bootstrap_draws: int = setting(1000, "resamples behind each 90 % interval", low=10, high=100000)


@dataclass(frozen=True)
class Round:
    """One pass over all backbones and folds.

    The first has labels only. Later ones are taught by the round before, by its models of the same
    fold: through test images as pseudo-labels (by frozen members too), through distillation on
    every image, or both.
    """

    unlabelled: bool = setting(False, "also train on test images, with the teachers' targets")
    alpha: float = setting(
        0.0,
        "share of distillation in the loss: matching the other backbones' models (a lone "
        "backbone's own) on the same augmented image; 0: none",
        low=0.0, high=1.0,
    )
    temperature: float = setting(
        2.0, "temperature that softens teachers and student in distillation", low=0.1, high=20.0
    )
    max_teachers: int = setting(
        2,
        "other backbones that distil into one, the first able ones of model.backbones: each adds a "
        "forward pass and its weights to the device's memory; 0: all",
        low=0, high=1000,
    )
    min_confidence: float = setting(
        0.95, "least calibrated probability of a pseudo-label", low=0.0, high=1.0
    )
    min_agreement: float = setting(
        1.0, "least share of the teachers that agree on a pseudo-label", low=0.0, high=1.0
    )
    class_quota: float = setting(
        1.0,
        "a class may have this many times the median class's share of its test images "
        "pseudo-labelled, the surest first; 0: no limit",
        low=0.0, high=1000.0,
    )
    epochs: int = setting(
        0,
        "epochs of this round's fits; 0: optim.epochs, or 1 if large or base networks go on with "
        "test images from their weights of the round before",
        low=0,
    )
    warm_start: bool = setting(
        False, "fits start from their weights of the round before; the learning rate starts anew"
    )

    @property
    def is_taught(self):
        return self.unlabelled or self.alpha > 0


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how fast, never what: no part of any key.

    What precision and compile become, a Compute, is part of keys.
    """

    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps")
    workers: int = setting(-1, "processes that load images; -1: by cores", low=-1, high=256)
    precision: str = setting(
        "auto",
        "arithmetic of the forward pass; auto: on a GPU bf16 or fp16, on a CPU fp32, or bf16 if "
        "it is faster in a few timed steps",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: str = setting(
        "auto", "torch.compile of the training step; auto: if a few timed steps say that it pays",
        choices=("auto", "on", "off"),
    )
    grad_checkpointing: str = setting(
        "auto",
        "recompute activations in the backward pass: less memory, a third more time; auto: if "
        "memory is too small without",
        choices=("auto", "on", "off"),
    )
    weights_dir: str = setting("", "folder with <timm model name>*.safetensors or .pth")
    results_dir: str = setting("training_results", "folder of all experiments")
    engine: str = setting(
        "local", "fits run one by one here, or side by side as Ray tasks", choices=("local", "ray")
    )
    time_budget_hours: float = setting(0.0, "hours that the run may take; 0: no limit", low=0.0)
    quiet: bool = setting(False, "print only warnings and the closing table")
    json: bool = setting(False, "print one JSON object a line, the events, in place of sentences")
    record_paths: bool = setting(
        False,
        "keep absolute paths of this machine in what a run leaves; off: without what lies above "
        "its folders",
    )
    tracker: str = setting(
        "none",
        "also log to TensorBoard or MLflow, in the run's folder; their packages are optional",
        choices=("none", "tensorboard", "mlflow"),
    )
    heatmaps: bool = setting(
        True,
        "show in the report where the networks looked, for suspect labels and confused pairs",
    )
    curves: bool = setting(
        True,
        "while a fit trains, score at most 512 of its valid images every few epochs, for the "
        "report; nothing is chosen by it",
    )
    measure: bool = setting(
        True,
        "time a few steps of each backbone first, to plan and to choose how it computes; off: fp32 "
        "on a CPU, half precision on a GPU",
    )


# ---------------------------------------------------------------- checks

def sections(config):
    """[(dotted prefix, dataclass)] of every part of a Config: itself first, its rounds last."""
    found = [("", config)]
    for f in fields(config):
        part = getattr(config, f.name)
        if is_dataclass(part):
            found.append((f"{f.name}.", part))
    return found + [(f"rounds[{i}].", round_) for i, round_ in enumerate(config.rounds)]


def field_problems(prefix, section):
    """One sentence per field whose value is of the wrong type, not a choice, or out of range."""
    hints = typing.get_type_hints(type(section))
    for f in fields(section):
        value = getattr(section, f.name)
        want = f.metadata
        if is_dataclass(value) or f.name == "rounds" or not want:
            continue

        name = prefix + f.name
        kind = hints[f.name]
        choices = want["choices"]
        if not is_of_kind(value, kind):
            yield f"{name} must be {type_name(kind)}, got {value!r}"
        elif choices and value not in choices:
            hint = nearest(value, choices)
            yield f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}"
        elif want["low"] is not None and not value >= want["low"]:
            yield f"{name} must be at least {want['low']}, got {value!r}"
        elif want["high"] is not None and not value <= want["high"]:
            yield f"{name} must be at most {want['high']}, got {value!r}"
        elif value == math.inf:
            yield f"{name} must be a finite number, got {value!r} ({want['doc']})"


def is_of_kind(value, kind):
    """Whether a value has the type of its field. A bool is no int."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, typing.get_origin(kind) or kind)


def pair_problems(config):
    """Sentences about settings that are each allowed but not together."""
    data = config.data
    optim = config.optim
    backbones = config.model.backbones
    problem = size_problem(data.image_size_px)
    if problem:
        yield problem
    if data.run_folds > data.n_folds:
        yield (
            f"data.run_folds must be at most data.n_folds = {data.n_folds}, got {data.run_folds}: "
            f"--set data.run_folds={data.n_folds}, or data.n_folds={data.run_folds}"
        )
    if optim.batch_size and optim.micro_batch_size and optim.batch_size % optim.micro_batch_size:
        micro = optim.micro_batch_size
        multiple = max(1, optim.batch_size // micro) * micro
        yield (
            f"optim.batch_size must be a multiple of optim.micro_batch_size = {micro}, got "
            f"{optim.batch_size}: --set optim.batch_size={multiple}"
        )
    for key, names in (("backbones", backbones), ("frozen", config.model.frozen)):
        if len(set(names)) < len(names):
            yield f"model.{key} must be different names, got {','.join(names)!r}"
    if not backbones and not config.model.frozen and config.model.text != "on":
        yield ("model.backbones must name at least one network unless model.frozen does or "
               "model.text is on, got ''")
    yield from group_problems(config.augment.groups)
    yield from round_problems(config.rounds)


def round_problems(rounds):
    """Sentences about a first round that is taught and later ones that are not."""
    if not rounds or rounds[0].is_taught or rounds[0].warm_start:
        yield (
            "rounds must begin with a round of labels only: unlabelled off, alpha 0 and "
            "warm_start off"
        )
    for i, round_ in enumerate(rounds[1:], 1):
        if not round_.is_taught:
            yield (
                f"rounds[{i}] must be taught something by the round before, got unlabelled off and "
                "alpha 0: set rounds.unlabelled=on, or rounds.alpha above 0"
            )


def size_problem(image_size_px):
    """What is wrong with the side of a network's images; '' if it is a multiple of 32."""
    below = image_size_px // 32 * 32
    if image_size_px == below:
        return ""
    multiples = f"{below} or {below + 32}" if below else "32"
    return f"data.image_size_px must be a multiple of 32, got {image_size_px}: use {multiples}"


def groups_by_hand(text):
    """{name: classes} of augment.groups; {} for auto and off."""
    if text in ("auto", "off"):
        return {}
    groups = {}
    for part in text.split(";"):
        if part.strip():
            name, _, classes = part.partition("=")
            groups[name.strip()] = comma_list(classes)
    return groups


def comma_list(text):
    """The parts of a comma list without space around them, empty ones left out."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def group_problems(text):
    """Sentences about augment.groups. Whether the contest has its classes is checked elsewhere."""
    if text in ("auto", "off"):
        return
    groups = groups_by_hand(text)
    unknown = [name for name in groups if name not in GROUPS]
    both = set(groups.get("document", ())) & set(groups.get("photo", ()))
    if unknown or not any(groups.values()):
        close = closest(unknown[0], GROUPS) if unknown else ""
        hint = f"; did you mean {text.replace(unknown[0], close, 1)!r}?" if close else ""
        yield (
            "augment.groups must be auto, off or NAME=CLASS,CLASS;NAME=.. with the names "
            f"{', '.join(GROUPS)}, got {text!r}{hint}"
        )
    elif both:
        yield (
            "augment.groups must name a class as document or as photo, got both for "
            f"{', '.join(sorted(both))}"
        )


def type_name(kind):
    """What a field holds, in words."""
    words = {int: "a whole number", float: "a number", bool: "on or off", str: "a text"}
    return words.get(kind, "a comma list")


# ---------------------------------------------------------------- all settings, one fit, the modes

@dataclass(frozen=True)
class Config:
    """All settings of a run. Frozen; made by `build_config`, completed by `resolve`."""

    mode: str = setting("quick_test", "the preset that this began as")
    seed: int = setting(42, "seed of everything random", low=0, high=2**31 - 1)
    scale: str = setting(
        "auto", "size of the backbones; auto: by GPU memory", choices=("auto", *SCALES)
    )
    metric: str = setting("auto", "what is reported and optimised; auto: by the submission's form")
    loss: str = setting(
        "auto",
        "of several classes an image: binary cross-entropy (auto), or the asymmetric loss, which "
        "makes easy negatives count less",
        choices=("auto", "asymmetric"),
    )
    flips: str = setting(
        "auto",
        "flips and turns of training images and views, which may change a number: those that look "
        "natural (natural), for numbers none (auto)",
        choices=("auto", "natural"),
    )
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    rounds: tuple[Round, ...] = (Round(),)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self):
        problems = []
        for prefix, section in sections(self):
            problems += field_problems(prefix, section)
        is_drawn = not self.data.fold_column and self.data.valid_folder == "merge"
        if self.data.n_folds == 1 and is_drawn:      # a host may give one
            problems.append("data.n_folds must be at least 2, got 1")
        # pairs are compared only once each value is of its type
        if not problems:
            problems += pair_problems(self)
        if problems:
            raise UserError(*problems)


@dataclass(frozen=True)
class FitSpec:
    """One training. Fold None is a refit on all labelled images.

    frozen: only a classifier is trained, on the features of the pretrained network. text: on the
    words in the images.
    """

    backbone: str
    seed: int
    round: int
    fold: int | None
    frozen: bool = False
    text: bool = False

    @property
    def is_trained(self):
        """Whether a network is trained."""
        return not (self.frozen or self.text)

    @property
    def name(self):
        if self.text:
            return f"text-s{self.seed}"
        if self.frozen:
            return f"frozen-{self.backbone}-s{self.seed}"
        return f"r{self.round}-{self.backbone}-s{self.seed}"

    @property
    def title(self):
        """The name and the part that is held out, for people."""
        part = "refit" if self.fold is None else f"fold {self.fold}"
        return f"{self.name} {part}"


BASE = Config()
PSEUDO_ROUND = Round(unlabelled=True)
PRESETS = {
    # one backbone, one fold: an honest score and a submission soon
    "quick_test": replace(
        BASE,
        mode="quick_test",
        data=replace(BASE.data, run_folds=1),
        predict=replace(BASE.predict, tta_views=4),
    ),
    # seven backbones, five folds, blended
    "full_training": replace(
        BASE, mode="full_training", model=replace(BASE.model, backbones=FAMILIES)
    ),
    # the same with ArcFace's margin, focal loss beside label smoothing, refits, and a second round
    # that starts from the first one's weights and is taught by it in both ways
    "competition_ready": replace(
        BASE,
        mode="competition_ready",
        model=replace(BASE.model, backbones=FAMILIES, head="arcface", text=AUTO),
        optim=replace(BASE.optim, focal_gamma=1.0),
        ensemble=replace(BASE.ensemble, refit=True),
        rounds=(Round(), replace(PSEUDO_ROUND, alpha=0.5, warm_start=True)),
    ),
    # checks only: one step of every family
    "debug": replace(
        BASE,
        mode="debug",
        data=replace(BASE.data, run_folds=1),
        model=replace(BASE.model, backbones=FAMILIES),
        optim=replace(BASE.optim, epochs=1),
    ),
}


# ---------------------------------------------------------------- --set KEY=VALUE

# flags of grandmaster_train.py that are no settings
FLAGS_ONLY = ("mode", "data_path", "experiment_name", "demo_size", "look", "dry_run", "compare",
              "verify", "fetch_weights", "prune", "yes", "version", "print_completion")
SWITCHES = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


def known_keys(config=BASE):
    """{key: type} of all that --set takes. `rounds.NAME` sets NAME in all rounds but the first."""
    keys = {"rounds": int}
    for name, kind in typing.get_type_hints(Round).items():
        keys[f"rounds.{name}"] = kind
    for prefix, section in sections(config):
        if prefix.startswith("rounds"):
            continue
        for name, kind in typing.get_type_hints(type(section)).items():
            if not is_dataclass(kind) and name not in ("rounds", "mode"):
                keys[prefix + name] = kind
    return keys


def settings_text():
    """All that --set takes: key, default and choices, with the sentence on the next lines."""
    known = known_keys()
    lines = [
        "  rounds=1",
        sentence("passes over all backbones and folds, each later one taught by the one before"),
    ]
    parts = sections(BASE)[1:-len(BASE.rounds)]
    for prefix, section in [("", BASE), ("rounds.", PSEUDO_ROUND), *parts]:
        for f in fields(section):
            key = prefix + f.name
            if not f.metadata or key not in known:
                continue
            line = f"  {key}={value_text(getattr(section, f.name))}"
            if f.metadata["choices"]:
                line += f" ({', '.join(f.metadata['choices'])})"
            lines += [line, sentence(f.metadata["doc"])]
    return "\n".join(lines)


def sentence(doc):
    """A setting's sentence, indented and wrapped."""
    indent = " " * 6
    return textwrap.fill(doc, 100, initial_indent=indent, subsequent_indent=indent)


def value_text(value):
    """A setting's value as --set takes it."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def parse_value(key, text, kind):
    """The text of --set KEY=TEXT as the field's type."""
    try:
        if typing.get_origin(kind) is tuple:
            return comma_list(text)
        if kind is bool:
            return SWITCHES[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise UserError(f"{key} must be {type_name(kind)}, got {text!r}") from None


def apply_overrides(config, overrides):
    """A new Config with `KEY=VALUE` strings applied. One UserError reports all bad ones."""
    keys = known_keys()
    problems = []
    changes = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            problems.append(f"--set takes KEY=VALUE, got {item!r}")
        elif key not in keys:
            problems.append(unknown_key(key, keys))
        else:
            try:
                changes[key] = parse_value(key, text, keys[key])
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError(*problems)
    return with_values(config, changes)


def unknown_key(key, keys):
    """A sentence about a key that --set does not know: a flag, or the nearest setting."""
    if key in FLAGS_ONLY:
        return f"--set {key} is not a setting but a flag: use --{key}"
    names = {name: name for name in keys}
    if "." not in key:      # its section was left out
        names = {name.rpartition(".")[2]: name for name in sorted(keys, reverse=True)}
    close = names.get(closest(key, names))
    hint = f"; did you mean {close!r}?" if close else ""
    return f"--set {key} is not a setting{hint}; settings: {', '.join(sorted(keys))}"


def with_values(config, changes):
    """A new Config with {dotted key: value}.

    `rounds` is the number of rounds, `rounds.NAME` a setting of the later ones.
    """
    top = {}
    by_section = {}
    of_rounds = {}
    for key, value in changes.items():
        section, dot, name = key.partition(".")
        if section == "rounds":
            of_rounds[key] = value
        elif dot:
            by_section.setdefault(section, {})[name] = value
        else:
            top[key] = value

    if of_rounds:
        config = replace(config, rounds=changed_rounds(config.rounds, of_rounds))
    for section, values in by_section.items():
        top[section] = replace(getattr(config, section), **values)
    return replace(config, **top)


def changed_rounds(rounds, changes):
    """`rounds` with {key: value} applied: as many as "rounds" says, "rounds.NAME" in later ones."""
    changes = dict(changes)
    count = changes.pop("rounds", len(rounds))
    if count < 1:
        raise UserError(f"rounds must be at least 1, got {count}")
    if changes and count == 1:
        raise UserError(
            f"{next(iter(changes))} is for the rounds after the first, and there are none: "
            "add rounds=2, or leave it out"
        )

    # further rounds repeat the last one
    repeated = rounds[-1] if len(rounds) > 1 else PSEUDO_ROUND
    later = [*rounds[1:], *[repeated] * count][:count - 1]
    values = {key.removeprefix("rounds."): value for key, value in changes.items()}
    return (rounds[0], *(replace(round_, **values) for round_ in later))


def build_config(mode, overrides=(), values=None):
    """The checked Config of a preset, {key: value} from flags and KEY=VALUE strings from --set."""
    if mode not in PRESETS:
        raise UserError(
            f"--mode must be one of {', '.join(PRESETS)}, got {mode!r}{nearest(mode, PRESETS)}"
        )
    return apply_overrides(with_values(PRESETS[mode], values or {}), overrides)


# ---------------------------------------------------------------- by the machine and the data

def scale_for(gpu_memory_bytes):
    """The scale whose fits are made for this much GPU memory; tiny without a GPU."""
    gib = gpu_memory_bytes / 2**30
    if gib >= 15:
        return "large"
    if gib >= 8:
        return "base"
    if gib > 0:
        return "small"
    return "tiny"


def member(backbone, scale):
    """The timm model name of a family at a scale. Any other name is a timm model name already."""
    if backbone in BACKBONES:
        return BACKBONES[backbone][SCALES.index(scale)]
    return backbone


def has_own_backbones(config):
    """Whether the networks of a resolved Config are others than its mode trains by itself."""
    own = PRESETS[config.mode].model.backbones
    return config.model.backbones != tuple(member(name, config.scale) for name in own)


def with_host_folds(config, n_folds):
    """The Config of a contest whose host gives n_folds folds, 0 if it gives none."""
    if not n_folds:
        return config
    run_folds = min(config.data.run_folds or n_folds, n_folds)
    return replace(config, data=replace(config.data, n_folds=n_folds, run_folds=run_folds))


def resolve(config, *, gpu_memory_bytes, n_train, metric="macro_f1"):
    """A new Config whose automatic values that keys depend on are replaced by plain ones.

    `n_train`: number of labelled images; `metric`: its name.
    """
    scale = scale_for(gpu_memory_bytes) if config.scale == "auto" else config.scale
    # auto in model.frozen stays until weights were looked for
    names = {key: tuple(member(name, scale) for name in getattr(config.model, key))
             for key in ("backbones", "frozen")}
    data = replace(
        config.data,
        image_size_px=config.data.image_size_px or IMAGE_SIZE_PX[scale],
        run_folds=config.data.run_folds or config.data.n_folds,
    )
    rounds = tuple(resolve_round(round_, scale) for round_ in config.rounds)
    return replace(
        config,
        scale=scale,
        data=data,
        model=replace(config.model, **names, drop_path_rate=by_scale(
            config.model.drop_path_rate, scale, 0.0)),
        rounds=rounds,
        optim=resolve_optim(config.optim, scale, n_train, config.data.n_folds, metric,
                            EPOCHS_BEFORE_TAUGHT if rounds != config.rounds else EPOCHS),
    )


def resolve_round(round_, scale):
    """The Round with its epochs, where they go by the scale."""
    if round_.epochs or not (round_.unlabelled and round_.warm_start):
        return round_
    return replace(round_, epochs=TAUGHT_EPOCHS[scale])


def by_scale(value, scale, of_small):
    """A setting that -1 leaves to the size of each network: `of_small` at scales without big ones.
    """
    return of_small if value < 0 and scale in ("small", "tiny") else value


def resolve_optim(optim, scale, n_train, n_folds, metric, epochs=EPOCHS):
    """The optimiser's part of `resolve`.

    The batch is 64 unless an epoch would then have fewer than 40 steps. The epochs are `epochs`, or
    as many as FEWEST_STEPS take, at most MOST_EPOCHS.
    """
    batch = optim.batch_size or max(8, min(64, 8 * round(n_train / 40 / 8)))
    n_steps = math.ceil(n_train * (1 - 1 / max(2, n_folds)) / batch)
    enough = math.ceil(FEWEST_STEPS[scale] / max(1, n_steps))
    largest = MICRO_BATCH_SIZE[scale]
    micro = optim.micro_batch_size or max(
        size for size in range(1, batch + 1) if batch % size == 0 and size <= largest
    )
    power = optim.class_weight_power
    if power < 0:
        power = 0.0 if metric == "log_loss" else 0.5
    return replace(
        optim,
        epochs=optim.epochs or min(max(epochs, enough), MOST_EPOCHS),
        batch_size=batch,
        micro_batch_size=micro,
        class_weight_power=power,
        clip_norm=by_scale(optim.clip_norm, scale, 5.0),
        weight_decay=by_scale(optim.weight_decay, scale, 0.05),
    )


def model_settings(config):
    """The model part as a backbone's keys hold it.

    The run's other networks change nothing. Nor does `pretrained`, since keys hold the content of
    the weights.
    """
    return trained_model(replace(config.model, backbones=(), pretrained=""))


def trained_model(model):
    """{name: value} of the ModelConfig's settings that trained networks depend on."""
    settings = asdict(model)
    for name in ("frozen", "text", "text_language"):
        del settings[name]
    return settings


# settings of how labels are read: the audit's key has what was read
READ_BY_THE_AUDIT = ("task", "label_fixes", "fold_column", "valid_folder")


def key_settings(config, *names):
    """{name: part} of a Config for a stage's key, which `runtime` never enters."""
    assert "runtime" not in names
    parts = {name: getattr(config, name) for name in names}
    if "model" in parts:
        parts["model"] = trained_model(config.model)
    if "data" in parts:      # the labels themselves are in the keys of the stages that read them
        parts["data"] = {name: value for name, value in asdict(config.data).items()
                         if name not in READ_BY_THE_AUDIT}
    return parts


def key_spec(spec):
    """A FitSpec as a stage's key holds it: the keys of what is not trained have names of their own.
    """
    values = asdict(spec)
    for name in ("frozen", "text"):
        del values[name]
    return values
