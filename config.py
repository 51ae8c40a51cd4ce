"""Every setting with its type and a sentence; the four modes as values; backbone families by scale;
what one fit is.

    config = build_config("quick_test", overrides=["optim.epochs=8", "model.backbones=mobilenetv2_100"])

A mode is BASE with a page of differences (PRESETS): no code asks which mode it is in. `0` or "auto"
in a setting means: decided by `resolve` from the scale and the data before anything is keyed, so
that keys hold plain values.
"""
import math
import textwrap
import typing
from dataclasses import dataclass, field, fields, is_dataclass, replace

from utils import UserError, nearest

# the best single one first: trained from random weights too, which transformers need far more
# images for
FAMILIES = ("efficientnetv2", "convnext", "swin", "beit", "maxvit", "resnext", "vit")
SCALES = ("large", "base", "small", "tiny")
# of classes that are augmented alike; minority goes with either look
GROUPS = ("document", "photo", "minority")
# family -> timm model name at (large, base, small, tiny). `tiny` members train on two CPU cores:
# where a family has no
# small enough member of its own, its nearest relative stands in (TinyViT: windowed attention in
# stages, as Swin;
# EVA-02: BEiT's masked-image recipe, continued).
BACKBONES = {"convnext": ("convnext_large", "convnext_base", "convnext_tiny", "convnext_atto"),
             "swin": ("swin_large_patch4_window12_384", "swin_base_patch4_window12_384",
                      "swin_tiny_patch4_window7_224", "tiny_vit_5m_224"),
             "beit": ("beit_large_patch16_384", "beit_base_patch16_384", "eva02_small_patch14_224",
                      "eva02_tiny_patch14_224"), "efficientnetv2": ("tf_efficientnetv2_xl",
                                                                    "tf_efficientnetv2_m",
                                                                    "tf_efficientnetv2_s",
                                                                    "tf_efficientnetv2_b0"),
             "maxvit": ("maxvit_large_tf_384", "maxvit_base_tf_384", "maxvit_tiny_tf_224",
                        "maxvit_rmlp_pico_rw_256"), "resnext": ("resnext101_32x32d",
                                                                "resnext101_32x8d",
                                                                "resnext50_32x4d", "resnext26ts"),
             "vit": ("vit_large_patch16_384", "vit_base_patch16_384", "vit_small_patch16_384",
                     "vit_tiny_patch16_224"),}
IMAGE_SIZE_PX = {"large": 384, "base": 384, "small": 224, "tiny": 128}
# a fit's, in at most MOST_EPOCHS (benchmarks/RESULTS.md); not measured for large networks, of which
# more would take days
FEWEST_STEPS = {"large": 0, "base": 0, "small": 1000, "tiny": 1000}
EPOCHS = 12
MOST_EPOCHS = 60
MICRO_BATCH_SIZE = {"large": 8, "base": 16, "small": 32, "tiny": 64}
# members that take over 15 GB with that (python -m benchmarks.memory): with gradient checkpointing
# on GPUs smaller than this
GRAD_CHECKPOINTING_BELOW_GIB = {"resnext101_32x32d": 20}


def setting(default, doc, *, choices=None, low=None, high=None):
    """A dataclass field with a sentence and what its value must be."""
    return field(default=default, metadata={"doc": doc, "choices": choices, "low": low,
                                            "high": high})


@dataclass(frozen=True)
class DataConfig:
    image_size_px: int = setting(
        0,
        "side of the square the network sees, pixels, a multiple of 32; 0: by scale",
        low=0,
        high=2048,
    )
    n_folds: int = setting(5, "number of stratified folds", low=2, high=50)
    run_folds: int = setting(0, "how many of the folds are trained, from fold 0; 0: all", low=0,
                             high=50)
    resize: str = setting("letterbox",
                          "how an image becomes square: padded, stretched, or its centre cut out",
                          choices=("letterbox", "squash", "crop"))
    test_usage: str = setting(
        "train",
        "what test images may be used for before predicting: rounds and shift matching "
        "(train), shift matching only (statistics), nothing (none)",
        choices=("train", "statistics", "none"),
    )
    group_column: str = setting(
        "", "column whose equal values must stay in one fold; '': none but near-duplicates"
    )
    label_table: str = setting(
        "",
        "file of the labels, relative to the contest folder, or folders, or subfolders "
        "(those in them), or names (the class in the file name); '': found",
    )
    id_column: str = setting("",
                             "column of the image ids; '': the one whose values are image files")
    target_column: str = setting(
        "", "column of the class, or a comma list of columns of 0 and 1, one per class; '': found"
    )
    sample_submission: str = setting(
        "", "file that the submission must look like, relative to the contest folder; '': found"
    )
    near_duplicate_bits: int = setting(
        3,
        "two images are near-duplicates when at most this many of the 64 bits of "
        "their perceptual hashes differ",
        low=0,
        high=16,
    )


@dataclass(frozen=True)
class ModelConfig:
    backbones: tuple[str, ...] = setting(
        FAMILIES[:1], "family names (a member is chosen by scale) or timm model names"
    )
    head: str = setting("linear", "classifier on the pooled features",
                        choices=("linear", "arcface"))
    arcface_centers: int = setting(
        1,
        "centres per class of the arcface head, of which the nearest counts; 1: plain ArcFace",
        low=1,
        high=16,
    )
    pretrained: str = setting(
        "auto",
        "weights: the best found (auto), stop when none (require), random (off)",
        choices=("auto", "require", "off"),
    )
    drop_rate: float = setting(0.1, "dropout before the classifier, share", low=0.0, high=0.9)
    drop_path_rate: float = setting(0.0, "stochastic depth, share; ignored by backbones without it",
                                    low=0.0, high=0.9)


@dataclass(frozen=True)
class AugmentConfig:
    policy: str = setting("matched", "matched to the test set's shift, a standard policy, or none",
                          choices=("matched", "standard", "none"))
    mixup_alpha: float = setting(0.2, "Beta parameter of mixup; 0 switches it off", low=0.0,
                                 high=10.0)
    cutmix_alpha: float = setting(1.0, "Beta parameter of cutmix; 0 switches it off", low=0.0,
                                  high=10.0)
    mix_share: float = setting(
        0.3,
        "share of batches that are mixed (half mixup, half cutmix when both are on)",
        low=0.0,
        high=1.0,
    )
    clean_epochs: int = setting(1, "last epochs without mixing", low=0, high=1000)
    groups: str = setting(
        "auto",
        "classes augmented alike: found from their images and counts (auto), all in one (off), or "
        "NAME=CLASS,CLASS;NAME=.. with the names document, photo, minority (the others are found)",
    )


@dataclass(frozen=True)
class OptimConfig:
    epochs: int = setting(
        0,
        "passes over the training images of one fit; 0: 12, with tiny and small networks up to 60 until a "
        "fit has 1,000 steps",
        low=0,
        high=10000,
    )
    batch_size: int = setting(
        0, "samples per optimiser step; 0: 64, less where an epoch would have under 40 steps", low=0
    )
    micro_batch_size: int = setting(0, "samples per forward pass, divides the batch; 0: by scale",
                                    low=0)
    lr: float = setting(
        0.0,
        "peak learning rate of the backbone's last layers; 0: by weights, kind of network and "
        "batch",
        low=0.0,
        high=10.0,
    )
    head_lr_scale: float = setting(
        2.0,
        "learning rate of the head over that of the backbone (pretrained weights)",
        low=0.01,
        high=1000.0,
    )
    layer_decay: float = setting(
        0.8,
        "factor on the learning rate per block towards the input (pretrained weights); more than "
        "20 blocks get as much in all as 20",
        low=0.01,
        high=1.0,
    )
    weight_decay: float = setting(0.05, "AdamW weight decay; none on biases and norms", low=0.0,
                                  high=10.0)
    warmup_share: float = setting(0.1,
                                  "share of all steps in which the learning rate rises linearly",
                                  low=0.0, high=0.9)
    final_lr_share: float = setting(0.01, "learning rate at the end of the cosine over its peak",
                                    low=0.0, high=1.0)
    clip_norm: float = setting(5.0, "largest norm of the gradient; 0 switches clipping off",
                               low=0.0)
    ema_share: float = setting(
        0.1,
        "averaging horizon of the weights' EMA as a share of all steps; 0 switches it off",
        low=0.0,
        high=1.0,
    )
    focal_gamma: float = setting(0.0, "focusing exponent of the focal loss; 0: cross-entropy",
                                 low=0.0, high=10.0)
    label_smoothing: float = setting(0.1, "share of each target spread over all classes", low=0.0,
                                     high=0.9)
    class_weight_power: float = setting(
        -1.0,
        "class weights are (mean count / count) to this power, 0: none; a "
        "class's pseudo-labels share its weight; -1: 0 for log loss, which asks for "
        "probabilities as they are, else 0.5",
        low=-1.0,
        high=2.0,
    )
    nonfinite_limit: int = setting(5,
                                   "consecutive non-finite steps that end the fit; each is skipped",
                                   low=1)


@dataclass(frozen=True)
class PredictConfig:
    tta_views: int = setting(8, "views averaged per image, chosen from flips, turns and scales",
                             low=1, high=8)


@dataclass(frozen=True)
class EnsembleConfig:
    method: str = setting("auto", "blend weights: the nested winner, or one method",
                          choices=("auto", "mean", "greedy", "simplex"))
    refit: bool = setting(False,
                          "also train each backbone on all labelled images for the submission")
    bootstrap_draws: int = setting(1000, "resamples behind each 90 % interval", low=10, high=100000)


@dataclass(frozen=True)
class Round:
    """One pass over all backbones and folds. The first has labels only; later ones are taught by
    the round before, by its models of the same fold: with test images as pseudo-labels, by
    distillation on every image, or both."""

    unlabelled: bool = setting(False, "test images are added with the teachers' targets")
    alpha: float = setting(
        0.0,
        "share of distillation in the loss: what the other backbones' models (its own where it is the "
        "only one) say of the same augmented image; 0: none",
        low=0.0,
        high=1.0,
    )
    temperature: float = setting(2.0, "softens teachers and student in distillation", low=0.1,
                                 high=20.0)
    max_teachers: int = setting(
        2,
        "other backbones that distil into one, the first able ones of model.backbones: each adds a "
        "forward pass and its weights to the device's memory; 0: all",
        low=0,
        high=1000,
    )
    min_confidence: float = setting(
        0.95, "an unlabelled image is used from this calibrated probability on", low=0.0, high=1.0
    )
    min_agreement: float = setting(1.0, "and when this share of the teachers agrees on its class",
                                   low=0.0, high=1.0)
    class_quota: float = setting(
        1.0,
        "a class gives at most this many times the share of its unlabelled images that the "
        "median class gives, the surest first; 0: no limit",
        low=0.0,
        high=1000.0,
    )
    epochs: int = setting(0, "epochs of this round's fits; 0: optim.epochs", low=0)
    warm_start: bool = setting(
        False,
        "each fit begins with the weights of its own fit of the round before, at a learning rate "
        "that begins anew",
    )

    @property
    def is_taught(self):
        return self.unlabelled or self.alpha > 0


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how fast, never what: no part of any key. What precision and compile become, a
    Compute, is."""

    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps")
    workers: int = setting(-1, "processes that load images; -1: by the number of cores", low=-1,
                           high=256)
    precision: str = setting(
        "auto",
        "arithmetic of the forward pass; auto: bf16 or fp16 on a GPU; on a CPU "
        "fp32, or bf16 where a few steps say that it is faster",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: str = setting(
        "auto",
        "torch.compile of the training step; auto: where a few steps say that it pays",
        choices=("auto", "on", "off"),
    )
    grad_checkpointing: str = setting(
        "auto",
        "activations are computed again in the backward pass: less memory, a third more "
        "time; auto: where memory is too small without",
        choices=("auto", "on", "off"),
    )
    weights_dir: str = setting("", "folder with <timm model name>*.safetensors or .pth")
    results_dir: str = setting("training_results", "folder of all experiments")
    engine: str = setting("local",
                          "where fits run: one after the other here, or side by side as Ray tasks",
                          choices=("local", "ray"))
    time_budget_hours: float = setting(0.0, "hours that the run may take; 0: no limit", low=0.0)
    quiet: bool = setting(False, "print warnings and the closing table only")
    tracker: str = setting(
        "none",
        "also log to TensorBoard or MLflow, in the run's folder; their packages are optional",
        choices=("none", "tensorboard", "mlflow"),
    )
    measure: bool = setting(
        True,
        "time a few steps of each backbone first, for the plan and to choose how they are "
        "computed; off: fp32 on a CPU, half precision on a GPU",
    )


# ---------------------------------------------------------------- checks

def sections(config):
    """[(dotted prefix, dataclass)] of every part of a Config: itself first, its rounds last."""
    parts = [(f"{f.name}.", getattr(config, f.name)) for f in fields(config)
             if is_dataclass(getattr(config, f.name))]
    return [("", config), *parts,
            *((f"rounds[{i}].", item) for i, item in enumerate(config.rounds))]


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
        plain_kind = tuple if typing.get_origin(kind) is tuple else kind
        if not isinstance(value, plain_kind) or (isinstance(value, bool)
                                                 and plain_kind is not bool):
            yield f"{name} must be of type {type_name(kind)}, got {value!r}"
        elif want["choices"] and value not in want["choices"]:
            yield f"{name} must be one of {', '.join(want['choices'])}, got {value!r}{nearest(value, want['choices'])}"
        elif want["low"] is not None and not value >= want["low"]:
            yield f"{name} must be at least {want['low']}, got {value!r}"
        elif want["high"] is not None and not value <= want["high"]:
            yield f"{name} must be at most {want['high']}, got {value!r}"
        elif value == math.inf:
            yield f"{name} must be a finite number, got {value!r} ({want['doc']})"


def pair_problems(config):
    """Settings that are each allowed but not together."""
    data = config.data
    optim = config.optim
    if problem := size_problem(data.image_size_px):
        yield problem
    if data.run_folds > data.n_folds:
        yield (
            f"data.run_folds must be at most data.n_folds = {data.n_folds}, got {data.run_folds}: "
            "train fewer folds or make more")
    if optim.batch_size and optim.micro_batch_size and optim.batch_size % optim.micro_batch_size:
        yield (
            f"optim.batch_size must be a multiple of optim.micro_batch_size = {optim.micro_batch_size}, "
            f"got {optim.batch_size}"
        )
    if not config.model.backbones or len(set(config.model.backbones)) < len(config.model.backbones):
        yield f"model.backbones must be different names, at least one, got {','.join(config.model.backbones)!r}"
    yield from group_problems(config.augment.groups)
    if not config.rounds or config.rounds[0].is_taught or config.rounds[0].warm_start:
        yield "rounds must begin with a round of labels only: unlabelled off, alpha 0 and warm_start off"
    for i, r in enumerate(config.rounds[1:], 1):
        if not r.is_taught:
            yield (
                f"rounds[{i}] must be taught something by the round before, got unlabelled off and alpha 0: set "
                "rounds.unlabelled=on, or rounds.alpha above 0"
            )


def size_problem(image_size_px):
    """What is wrong with the side of a network's images; '' where it is a multiple of 32."""
    below = image_size_px // 32 * 32
    return (
        ""
        if image_size_px == below
        else (
            f"data.image_size_px must be a multiple of 32, got {image_size_px}: use {below or 32} or {below + 32}"
        )
    )


def groups_by_hand(text):
    """{name: classes} of augment.groups; {} for auto and off."""
    if text in ("auto", "off"):
        return {}
    parts = (part.partition("=") for part in text.split(";") if part.strip())
    return {name.strip(): tuple(c.strip() for c in classes.split(",") if c.strip()) for name, _,
            classes in parts}


def group_problems(text):
    """What is wrong with augment.groups, apart from classes that the contest lacks."""
    groups = groups_by_hand(text)
    unknown = [name for name in groups if name not in GROUPS]
    if unknown or (text not in ("auto", "off") and not any(groups.values())):
        yield (
            f"augment.groups must be auto, off or NAME=CLASS,CLASS;NAME=.. with the names {', '.join(GROUPS)}, "
            f"got {text!r}{nearest(unknown[0], GROUPS) if unknown else ''}"
        )
    elif both := set(groups.get("document", ())) & set(groups.get("photo", ())):
        yield f"augment.groups must name a class as document or as photo, got both for {', '.join(sorted(both))}"


def type_name(kind):
    return "a comma list" if typing.get_origin(kind) is tuple else getattr(kind, "__name__",
                                                                           str(kind))


# ---------------------------------------------------------------- the whole

@dataclass(frozen=True)
class Config:
    """All settings of a run. Frozen; made by `build_config`, completed by `resolve`."""

    mode: str = setting("quick_test", "the preset this began as")
    seed: int = setting(42, "of everything random", low=0, high=2**31 - 1)
    scale: str = setting("auto", "size of the backbones", choices=("auto", *SCALES))
    metric: str = setting("auto", "what is reported and optimised")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    rounds: tuple[Round, ...] = (Round(),)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self):
        problems = [p for path, section in sections(self) for p in field_problems(path, section)]
        problems += pair_problems(self) if not problems else []
        if problems:
            raise UserError("\n".join(problems))


@dataclass(frozen=True)
class FitSpec:
    """One training: fold None is a refit on all labelled images."""

    backbone: str
    seed: int
    round: int
    fold: int | None

    @property
    def name(self):
        return f"r{self.round}-{self.backbone}-s{self.seed}"

    @property
    def title(self):
        """The name and the part that is held out, for people."""
        return f"{self.name} {'refit' if self.fold is None else f'fold {self.fold}'}"


BASE = Config()
PSEUDO_ROUND = Round(unlabelled=True)
PRESETS = {
    # one backbone, one fold: an honest number and a submission soon
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
    # the same with a margin and focal loss beside label smoothing, refits, and a second round that
    # begins where the first ends,
    # taught by it in both ways
    "competition_ready": replace(
        BASE,
        mode="competition_ready",
        model=replace(BASE.model, backbones=FAMILIES, head="arcface"),
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

def known_keys(config=BASE):
    """Every key that --set takes, with its type. `rounds.NAME` is that setting of all rounds but
    the first."""
    keys = {"rounds": int, **{f"rounds.{name}": kind for name,
                              kind in typing.get_type_hints(Round).items()}}
    for prefix, section in sections(config):
        if prefix.startswith("rounds"):
            continue
        hints = typing.get_type_hints(type(section))
        keys |= {prefix + f.name: hints[f.name] for f in fields(section)
                 if not is_dataclass(hints[f.name]) and f.name not in ("rounds", "mode")}
    return keys


def settings_text():
    """All that --set takes: key, default, choices, and below it the sentence."""
    def shown(value):
        return (
            ",".join(value)
            if isinstance(value, tuple)
            else ("off", "on")[value]
            if isinstance(value, bool)
            else value
        )

    rows = [("rounds=1",
             "passes over all backbones and folds, the later ones taught by the one before")]
    for prefix, section in [("", BASE), ("rounds.", PSEUDO_ROUND),
                            *sections(BASE)[1:-len(BASE.rounds)]]:
        rows += [(f"{prefix}{f.name}={shown(getattr(section, f.name))}"
                  + (f" ({', '.join(f.metadata['choices'])})" if f.metadata["choices"] else ""),
                  f.metadata["doc"]) for f in fields(section) if f.metadata
                 and prefix + f.name in known_keys()]
    return "\n".join(
        f"  {key}\n{textwrap.fill(doc, 100, initial_indent=' ' * 6, subsequent_indent=' ' * 6)}"
        for key, doc in rows)


def parse_value(key, text, kind):
    """The text of --set KEY=TEXT as the field's type."""
    try:
        if typing.get_origin(kind) is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if kind is bool:
            return {"true": True, "on": True, "1": True, "false": False, "off": False,
                    "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise UserError(f"{key} must be of type {type_name(kind)}, got {text!r}") from None


def apply_overrides(config, overrides):
    """A new Config with `KEY=VALUE` strings applied; all bad ones are reported together."""
    keys = known_keys()
    problems = []
    changes = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            problems.append(f"--set takes KEY=VALUE, got {item!r}")
        elif key not in keys:
            problems.append(
                f"--set {key} is not a setting{nearest(key, keys)}; settings: {', '.join(sorted(keys))}"
            )
        else:
            try:
                changes[key] = parse_value(key, text, keys[key])
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return with_values(config, changes)


def with_values(config, changes):
    """A new Config with {dotted key: value}; `rounds` is a number of rounds, `rounds.NAME` a
    setting of the later ones."""
    changes = dict(changes)
    of_rounds = {key: changes.pop(key) for key in list(changes) if key.partition(".")[0]
                 == "rounds"}
    if of_rounds:
        config = replace(config, rounds=changed_rounds(config.rounds, of_rounds))
    top = {key: value for key, value in changes.items() if "." not in key}
    for key, value in changes.items():
        if "." in key:
            section, name = key.split(".")
            top[section] = {**top.get(section, {}), name: value}
    parts = {name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
             for name, value in top.items()}
    return replace(config, **parts)


def changed_rounds(rounds, changes):
    """The rounds, as many as `rounds` says, the later ones with the `rounds.NAME` settings."""
    changes = dict(changes)
    count = changes.pop("rounds", len(rounds))
    if count < 1:
        raise UserError(f"rounds must be at least 1, got {count}")
    if changes and count == 1:
        raise UserError(
            f"{next(iter(changes))} is of the rounds after the first and there is none: add rounds=2"
        )
    later = (*rounds[1:], *[rounds[-1] if len(rounds) > 1 else PSEUDO_ROUND] * count)[:count - 1]
    values = {key.removeprefix("rounds."): value for key, value in changes.items()}
    return (rounds[0], *(replace(r, **values) for r in later))


def build_config(mode, overrides=(), values=None):
    """The preset of `mode`, with {key: value} from flags and KEY=VALUE strings from --set applied,
    checked."""
    if mode not in PRESETS:
        raise UserError(
            f"--mode must be one of {', '.join(PRESETS)}, got {mode!r}{nearest(mode, PRESETS)}")
    return apply_overrides(with_values(PRESETS[mode], values or {}), overrides)


# ---------------------------------------------------------------- what is decided from the machine and the data

def scale_for(gpu_memory_bytes):
    """The scale whose fits are made for this much GPU memory; tiny without a GPU."""
    gib = gpu_memory_bytes / 2**30
    return "large" if gib >= 15 else "base" if gib >= 8 else "small" if gib > 0 else "tiny"


def member(backbone, scale):
    """The timm model name of a family at a scale; any other name is a timm model name already."""
    return BACKBONES[backbone][SCALES.index(scale)] if backbone in BACKBONES else backbone


def resolve(config, *, gpu_memory_bytes, n_train, metric="macro_f1"):
    """Replace every automatic value that a key depends on by the value it takes here.

    `n_train`: labelled images; `metric`: its name. The batch is 64 unless an epoch would then have
    fewer than 40 steps; the epochs are EPOCHS, or as many as FEWEST_STEPS take.
    """
    scale = scale_for(gpu_memory_bytes) if config.scale == "auto" else config.scale
    batch = config.optim.batch_size or max(8, min(64, 8 * round(n_train / 40 / 8)))
    n_steps = math.ceil(n_train * (1 - 1 / config.data.n_folds) / batch)
    epochs = config.optim.epochs or min(max(EPOCHS,
                                            math.ceil(FEWEST_STEPS[scale] / max(1, n_steps))),
                                        MOST_EPOCHS)
    micro = config.optim.micro_batch_size or max(
        d for d in range(1, batch + 1) if batch % d == 0 and d <= MICRO_BATCH_SIZE[scale])
    power = config.optim.class_weight_power
    return replace(
        config,
        scale=scale,
        data=replace(
            config.data,
            image_size_px=config.data.image_size_px or IMAGE_SIZE_PX[scale],
            run_folds=config.data.run_folds or config.data.n_folds,
        ),
        model=replace(
            config.model, backbones=tuple(member(b, scale) for b in config.model.backbones)
        ),
        optim=replace(
            config.optim,
            epochs=epochs,
            batch_size=batch,
            micro_batch_size=micro,
            class_weight_power=power if power >= 0 else 0.0 if metric == "log_loss" else 0.5,
        ),
    )


def model_settings(config):
    """The model part as a backbone's keys hold it: which others the run has changes nothing, nor
    whether its weights, which keys hold by their content, had to be found."""
    return replace(config.model, backbones=(), pretrained="")


def key_settings(config, *names):
    """The named parts of a Config as they enter a stage's key; `runtime` never does."""
    assert "runtime" not in names
    return {name: getattr(config, name) for name in names}
