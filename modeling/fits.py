"""One fit: what it learns from, how it is trained, what it predicts. planner.py asks for it, blend.py reads what it leaves.

    run_fit(site, run, spec := FitSpec("convnext_atto", 42, 0, 0), before, n_epochs=12, title="fit 1/5", ...)
    finished_fit(run, spec, before).predictions("valid").align(ids)
"""
import errno
import functools
import math
import re
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from config import Config, FitSpec, key_settings, model_settings
from data_loader import (
    Audit,
    Contest,
    EpochSampler,
    Folds,
    ImageDataset,
    SplitLoader,
    Targets,
    load_audit,
    make_loader,
)
from files import first_few
from modeling.augment import BatchMix, by_class, plain_view, testlike_view, train_augment
from modeling.compute import Compute, pick_device, untimed
from modeling.inference import Predictions, load_views, predict, save_views, views_for
from modeling.losses import Distilled, Supervised, class_weights
from modeling.memory import Room
from modeling.network import WeightsSource, adapted_to, build_network, fused, norm_statistics
from modeling.plan import UNKNOWN, Cost
from modeling.shift import ShiftReport
from modeling.targets import able, distillers, pseudo_targets, save_pseudo_labels, teachers_temperature
from modeling.train import drop_damaged_checkpoints, fit, load_result, load_weights, seed_everything
from utils import (
    EventLog,
    Stage,
    Timer,
    discard,
    drop_if_changed,
    free_bytes,
    keep_freed_memory,
    read_json,
    run_stage,
    usable_cores,
    write_json,
)

PREDICT_BATCH_SIZE = 32
# in the folder of a fit
PSEUDO_LABELS = "pseudo_labels.csv"
WARNINGS = "warnings.json"
ADAPTED = "adapted.safetensors"          # in that of its predictions: statistics of the test images
ADAPTED_IMAGES = 512
ADAPTED_BATCH_SIZE = 64


@dataclass
class Run:
    """What the stages of one run share. Filled from top to bottom by `run`."""

    config: Config
    contest: Contest
    folder: Path
    events: EventLog
    device: torch.device
    weights: dict[str, WeightsSource]
    digests: dict[str, str]
    audit: Audit = None
    shift: ShiftReport = None
    folds: Folds = None
    keys: dict[str, str] = field(default_factory=dict)
    computes: dict[str, Compute] = field(default_factory=dict)      # of the backbones whose steps were timed
    scores: dict[str, dict[str, float]] = field(default_factory=dict)      # of fits, see `fold_scores`
    command: str = ""                    # that a person types to repeat it
    deadline: float = math.inf           # by time.perf_counter(), for the last fit; --time_budget sets it
    cores: int = field(default_factory=usable_cores)      # that a fit may use
    machine: dict = field(default_factory=dict)      # where fits run, see `costs.look`
    costs: dict[str, Cost] = field(default_factory=dict)      # of backbones, as far as they were measured
    said: list[str] = field(default_factory=list)        # warnings since the last stage of a fit here began

    def compute_of(self, backbone):
        """The Compute of a backbone's steps."""
        return self.computes.get(backbone) or untimed(self.config.runtime, self.machine["precision"])

    @property
    def workers(self):
        """Processes that load images."""
        workers = self.config.runtime.workers
        if workers >= 0:
            return workers
        return min(8, self.cores if self.loads_in_bursts else self.cores // 2)

    @property
    def loads_in_bursts(self):
        """Whether loading beside computing would take cores from it."""
        return self.device.type == "cpu" and torch.get_num_threads() > self.cores - self.cores // 2

    @functools.cached_property
    def label_of(self):
        """{sample id: label} of the training images."""
        return dict(zip(self.audit.train.sample_id.tolist(), self.audit.train.label.tolist(), strict=True))

    @property
    def native_scale(self):
        """Long side of a cached training image over that of the original, at the median."""
        size = self.audit.summary["size_px"]["train"]
        return min(1.0, self.audit.summary["long_side_px"] / max(size["height_px"][2], size["width_px"][2]))

    @property
    def seconds_left(self):
        return self.deadline - time.perf_counter()

    @property
    def warnings(self):
        return self.events.warnings

    def warn(self, text):
        self.said.append(text)
        self.events.warn(text)

    def __getstate__(self):
        """What goes to another process: neither the log nor what is read from files there, see `at_site`."""
        left_out = {"events": None, **({"audit": None} if self.keys.get("audit") else {})}
        return {k: v for k, v in self.__dict__.items() if k != "label_of"} | left_out

    def run_stage(self, stage, build, *readers):
        """utils.run_stage; a complete stage that has changed on the disk is named and made again, its `readers` too."""
        return run_stage(stage, build, self.on_change(stage, *readers))

    def is_intact(self, stage, *readers):
        """Whether a stage is complete and as it was made; a changed one is named and discarded, its `readers` too."""
        drop_if_changed(stage, self.on_change(stage, *readers))
        return stage.is_done

    def on_change(self, stage, *readers):
        """What to do when a stage has changed on the disk, by the names of its changed files."""
        def changed(names):
            self.warn(f"{stage.folder.name} is made again: {first_few(names)} changed on the disk after it was complete")
            for reader in readers:
                discard(reader)

        return changed

    def with_workers(self, work):
        """work(), once more without loading processes where one was killed or had no shared memory; results are the same."""
        try:
            return work()
        except (RuntimeError, OSError) as error:
            is_elsewhere = getattr(error, "errno", None) == errno.ENOSPC and free_bytes(self.folder) > 2**20      # in /dev/shm
            if not self.workers or not (is_elsewhere or re.search(r"DataLoader worker \(pid|shared memory", str(error))):
                raise
            reason = str(error).splitlines()[0]
        # out here: the error has held the loader, its processes and what they loaded
        self.warn("loading processes were ended by the system (killed, or /dev/shm too small) and are done without, which "
                  f"is slower and gives the same results ({reason})")
        self.config = replace(self.config, runtime=replace(self.config.runtime, workers=0))
        return work()


@dataclass(frozen=True)
class Fitted:
    """A finished fit with its predictions on disk."""

    result: object
    predict_stage: Stage

    def predictions(self, split):
        return Predictions.load(self.predict_stage.folder / f"{split}.npz")

    def views(self, split):
        return load_views(self.predict_stage.folder / f"{split}.npz")

    @property
    def testlike(self):
        """The split of the valid images that is made like the test set: themselves where that is no change."""
        return "valid_testlike" if self.has("valid_testlike") else "valid"

    def has(self, split):
        return (self.predict_stage.folder / f"{split}.npz").exists()


def allowed_rounds(this):
    """The rounds without test images to learn from where the contest forbids it or has none: what is left of a round is its
    distillation, or nothing."""
    rounds = this.config.rounds
    usage = this.config.data.test_usage
    if (usage == "train" and len(this.audit.test)) or not any(r.unlabelled for r in rounds):
        return rounds
    kept = tuple(replace(r, unlabelled=False) for r in rounds if r.alpha or not r.unlabelled)
    this.warn(f"no pseudo-labels are learnt from, and {len(rounds) - len(kept)} of {len(rounds) - 1} later round(s) that teach "
              "nothing else were switched off: " + (f"data.test_usage={usage}" if len(this.audit.test) else
                                                    "there are no test images"))
    return kept


def round_specs(config, round_number):
    """The FitSpecs of a round, fold by fold, so that all backbones are there early (several devices: see
    `longest_first`); refits on all labelled images last."""
    folds = [*range(config.data.run_folds), *([None] if config.ensemble.refit else [])]
    return [FitSpec(backbone, config.seed, round_number, fold) for fold in folds for backbone in config.model.backbones]


def round_epochs(config, round_number):
    return config.rounds[round_number].epochs or config.optim.epochs


def teachers_of(this, spec, available=None):
    """The fits that teach `spec`, of those `available` (FitSpecs; None: all): of the round before its fold with every backbone;
    a refit, of which no score is taken, is taught by all folds."""
    if not this.config.rounds[spec.round].is_taught:
        return []
    folds = [spec.fold] if spec.fold is not None else [*range(this.config.data.run_folds), None]
    teachers = [replace(spec, backbone=b, round=spec.round - 1, fold=f) for f in folds for b in this.config.model.backbones]
    return [t for t in teachers if available is None or t in available]


def calibrators_of(this, spec, available=None):
    """[[FitSpec]]: the teachers of each other fold, whose valid images tell which are able and how sure they may be."""
    folds = [teachers_of(this, replace(spec, fold=fold), available)
             for fold in range(this.config.data.run_folds) if fold != spec.fold]
    return [teachers for teachers in folds if teachers]


def fit_stages(this, spec, available=None, known=None):
    """The two stages of a fit, training and prediction. Their keys need nothing to have run. known: {FitSpec: its stages}, to
    ask for each once.

    Under a time budget the epochs are an outcome of the run and not in the key, but the budget is.
    """
    known = {} if known is None else known
    if spec in known:
        return known[spec]
    config = this.config
    weights = this.weights[spec.backbone]
    hours = this.config.runtime.time_budget_hours
    settings = {"spec": spec, "model": model_settings(config), "augment": config.augment,
                "optim": config.optim, "round": config.rounds[spec.round], "image_size_px": config.data.image_size_px,
                "resize": config.data.resize, "pad_type": weights.pad_type,
                "compute": this.compute_of(spec.backbone), **({"time_budget_hours": hours} if hours else {})}
    parent = this.folder / (f"fold_{spec.fold}" if spec.fold is not None else "refit")
    training = Stage.of(parent, spec.name, version=8, settings=settings, inputs=[
        this.keys["audit"], this.keys["shift"], this.keys["folds"], this.digests[spec.backbone],
        *(fit_stages(this, teacher, available, known)[1].key for teacher in dict.fromkeys(sum(
            calibrators_of(this, spec, available), teachers_of(this, spec, available))))])
    known[spec] = training, Stage.of(parent, f"predict-{spec.name}", version=7, inputs=[training.key],
                                     settings=key_settings(config, "predict"))
    return known[spec]


def fit_state(this, spec, available=None):
    """done, begun or to do; available: as for `fit_stages`."""
    training, prediction = fit_stages(this, spec, available)
    return "done" if prediction.is_done else "begun" if training.is_done or training.partial.exists() else "to do"


def at_site(site, this, spec, fitted=None):
    """(Run, fitted) as a job at `site` has them: its log and device, and the files that the fit of `spec` reads where they can
    be read there."""
    fitted = fitted or {}
    if site.is_home:
        return this, fitted
    keep_freed_memory()
    torch.set_num_threads(site.cores)
    cv2.setNumThreads(site.cores)
    source = this.weights[spec.backbone]
    here = replace(
        this, folder=site.folder, events=site.events, device=pick_device(this.config.runtime.device), cores=site.cores,
        audit=this.audit or load_audit(site.fetch(this.folder / f"audit-{this.keys['audit']}"), this.contest.folder),
        weights={**this.weights, spec.backbone: replace(source, path=str(site.fetch(source.path)) if source.path else "")})

    def fetched(other, before):
        if other.round != spec.round - 1:
            return before
        stage = before.predict_stage
        result = before.result
        teaches = this.config.rounds[spec.round].alpha and spec.fold in (other.fold, None)
        if teaches or other == start_of(this, spec):      # its network is read
            result = replace(result, folder=site.fetch(result.folder))
        return Fitted(result, replace(stage, folder=site.fetch(stage.folder)))

    return here, {other: fetched(other, before) for other, before in fitted.items()}


def run_fit(site, this, spec, fitted, n_epochs, seconds, title):
    """Fit, then predict: two stages. A finished one is read, not run.

    site: where it runs; fitted: {FitSpec: Fitted} of the rounds before; seconds: the fit is shortened to end within
    them, math.inf: it is not.
    """
    train_until = time.perf_counter() + seconds
    this, fitted = at_site(site, this, spec, fitted)
    training, prediction = fit_stages(this, spec, fitted)
    site.recall(training.folder)
    this.said.clear()
    this.with_workers(lambda: this.run_stage(training, lambda folder: train_fit(
        this, spec, fitted, folder, n_epochs, train_until, title, site.advance), prediction))
    site.deliver(training.folder)
    this.said.clear()
    this.with_workers(lambda: this.run_stage(prediction, lambda folder: predict_fit(
        this, spec, training.folder, folder, title)))
    site.deliver(prediction.folder)


def finished_fit(this, spec, fitted):
    """The Fitted of a fit whose two stages are complete and as they were made, or None; what was to be warned of it is, also in
    a run that found it done."""
    training, prediction = fit_stages(this, spec, fitted)
    if this.is_intact(training, prediction) and this.is_intact(prediction):
        result = load_result(spec, training.folder)
        for kept in (training.folder / WARNINGS, prediction.folder / WARNINGS):
            for text in read_json(kept) if kept.exists() else []:
                this.warn(text)
        if note := memory_note(result, this.config.optim):
            this.warn(note)
        if result.skipped_steps:
            this.warn(f"{spec.title}: {result.skipped_steps} non-finite step(s) were skipped")
        return Fitted(result, prediction)
    return None


def memory_note(result, optim):
    """How a fit went on where memory ran out, in it or as its cost was measured; '' where there was enough."""
    last = result.epochs[-1]
    micro = last["micro_batch_size"]
    if micro >= optim.micro_batch_size and not last["out_of_memory"]:
        return ""
    return (f"{result.spec.title}: memory ran out, so that each batch of {optim.batch_size} was made of "
            f"micro-batches of {micro} (asked: {optim.micro_batch_size}"
            + (", with gradient checkpointing" if last["grad_checkpointing"] else "")
            + ("); batch norms averaged over fewer images" if micro < optim.micro_batch_size else ")"))


def fit_rows(this, spec):
    """Rows of the training catalog that this fit learns from."""
    return np.arange(len(this.audit.train)) if spec.fold is None else this.folds.train_rows(spec.fold)


def able_teachers(this, spec, fitted):
    """([FitSpec] that teach a fit, among the `fitted` of the rounds before, the temperature of their mean)."""
    teachers = teachers_of(this, spec, fitted)
    folds = [{t.backbone: fitted[t].predictions(fitted[t].testlike) for t in fold}
             for fold in calibrators_of(this, spec, fitted)]
    names = able(list(dict.fromkeys(t.backbone for t in teachers)), folds, this.label_of)
    heard = [[fold[name] for name in names if name in fold] for fold in folds]
    return [t for t in teachers if t.backbone in names], teachers_temperature([fold for fold in heard if fold], this.label_of)


def taught_targets(this, spec, fitted, teachers, temperature):
    """Targets of test images by the teachers of a fit; None in a round without."""
    round_ = this.config.rounds[spec.round]
    if not teachers or not round_.unlabelled:
        return None
    if not calibrators_of(this, spec, fitted):
        this.warn("how sure the teachers of pseudo-labels may be is not calibrated: that takes a second fold")
    backbones = list(dict.fromkeys(t.backbone for t in teachers))
    said = [Predictions.mean([fitted[t].predictions("test") for t in teachers if t.backbone == name]) for name in backbones]
    taught = pseudo_targets(said, round_, spec.fold, temperature)
    this.events.say(f"{spec.title}: {len(taught)} of {len(this.audit.test)} test images as pseudo-labels of "
                    f"{', '.join(backbones)} at temperature {temperature:.2f}")
    return taught.for_fold(spec.fold)


def distilled_from(this, spec, fitted, teachers):
    """The networks that a fit is distilled from, of its teachers; [] in a round without distillation."""
    round_ = this.config.rounds[spec.round]
    if not round_.alpha:
        return []
    teachers = distillers(spec, teachers, round_.max_teachers)
    if not teachers:
        this.warn(f"{spec.title} learns without distillation: no fit of the round before was made in its fold")
    return [fused(new_network_with(this, teacher, fitted[teacher].result.folder)) for teacher in teachers]


def fit_targets(this, spec, taught=None):
    """(PixelStore, Targets) of a fit: its fold's labelled images, and those that it was taught."""
    audit = this.audit
    rows = fit_rows(this, spec)
    pixels = audit.train_pixels.take(rows)
    labelled = Targets.from_labels(audit.train.take(rows))
    if taught is None:
        return pixels, labelled
    row = {sample: i for i, sample in enumerate(audit.test.sample_id.tolist())}
    test_rows = np.array([row[s] for s in taught.sample_id.tolist()], dtype=np.int64)
    return pixels.concat(audit.test_pixels.take(test_rows)), labelled.concat(taught)


def new_network(this, spec):
    return build_network(spec.backbone, n_classes=len(this.contest.train.classes),
                         image_size_px=this.config.data.image_size_px, weights=this.weights[spec.backbone],
                         model=this.config.model)


def training(this, spec, pixels, targets, n_epochs, teachers=()):
    """What `fit` needs of this spec, from values: (network, objective, loader, sampler, mix). teachers: networks that it is
    distilled from."""
    config = this.config
    names = (this.config.seed, spec.name, spec.fold)
    augments = by_class(this.shift.groups, this.audit.train.classes, lambda group: train_augment(
        config.augment, group, native_scale=this.native_scale, share=this.shift.trained_share, **square_of(config)))
    dataset = ImageDataset(pixels, targets.sample_id, [augments[k] for k in targets.probs.argmax(1)], names,
                           targets.probs, targets.weight)
    sampler = EpochSampler(len(dataset), config.optim.batch_size, names)
    seed_everything(*names, "init")
    network = new_network(this, spec)
    labelled = np.bincount(this.audit.train.label[fit_rows(this, spec)], minlength=targets.probs.shape[1])
    weights = class_weights(labelled, config.optim.class_weight_power, (targets.probs * targets.weight[:, None]).sum(0))
    objective = Supervised(config.optim, weights, network.head.with_margin)
    round_ = config.rounds[spec.round]
    if teachers:
        objective = Distilled(objective, teachers, round_.alpha, round_.temperature)
    mix = BatchMix(config.augment)
    n_clean = config.augment.clean_epochs
    return (network, objective, make_loader(dataset, sampler, this.workers, this.loads_in_bursts), sampler,
            lambda batch, generator, n_left: mix(batch, generator) if n_left > n_clean else batch)


def train_fit(this, spec, fitted, folder, n_epochs, train_until, title, advance):
    """Build everything a fit needs and train it in `folder`."""
    if damaged := drop_damaged_checkpoints(folder):
        this.warn(f"{spec.title} is trained from an earlier state: {first_few(damaged)} changed on the disk")
    teachers, temperature = able_teachers(this, spec, fitted)
    taught = taught_targets(this, spec, fitted, teachers, temperature)
    if taught is not None:
        save_pseudo_labels(taught, this.audit.train.classes, folder / PSEUDO_LABELS)
    pixels, targets = fit_targets(this, spec, taught)
    networks = distilled_from(this, spec, fitted, teachers)
    network, objective, loader, sampler, mix = training(this, spec, pixels, targets, n_epochs, networks)
    warm_start(this, spec, fitted, network)
    config = with_room(this.config, this.costs.get(spec.backbone, UNKNOWN))
    result = fit(spec, network, objective, loader, sampler, mix=mix, config=config, n_epochs=n_epochs,
                 compute=this.compute_of(spec.backbone), pretrained=this.weights[spec.backbone].is_pretrained,
                 device=this.device, folder=folder, events=this.events,
                 description=f"{title} {spec.title}", shorten=partial(in_time, train_until),
                 advance=partial(advance, 1 / (n_epochs * len(sampler))))
    n_done = len(result.epochs)
    this.events.say(f"{title} {spec.title}: loss {result.epochs[-1]['loss']:.4f} after {n_done} epochs, "
                    f"{result.seconds:.0f} s, {result.epochs[-1]['images_per_second']:.0f} images/s")
    if n_done < n_epochs:
        this.warn(f"{spec.title}: ended after {n_done} of {n_epochs} planned epochs to stay in --time_budget")
    keep_warnings(this, folder)


def keep_warnings(this, folder):
    """Leave in a stage's folder what was warned of while it was made, for a run that finds it done."""
    if this.said:
        write_json(folder / WARNINGS, this.said)


def start_of(this, spec):
    """The fit whose weights a fit begins with; None in a round that does not begin with those of the one before."""
    return replace(spec, round=spec.round - 1) if this.config.rounds[spec.round].warm_start else None


def warm_start(this, spec, fitted, network):
    """Load the weights that a fit begins with, in a round that begins with those of the one before."""
    start = start_of(this, spec)
    if start in fitted:
        load_weights(network, fitted[start].result.folder)
    elif start:
        this.warn(f"{spec.title} begins like the first round: there is no {start.name} of that fold")


def with_room(config, cost):
    """The Config of a fit, to begin with what its backbone fitted into memory with as its Cost was measured."""
    runtime = config.runtime
    micro = cost.micro_batch_size or config.optim.micro_batch_size
    return replace(config, optim=replace(config.optim, micro_batch_size=micro),
                   runtime=replace(runtime, grad_checkpointing="on") if cost.grad_checkpointing else runtime)


def in_time(train_until, history, n_epochs):
    """`n_epochs`, or as many as end before `train_until`, by time.perf_counter(), at the last epoch's pace."""
    if train_until == math.inf:
        return n_epochs
    return min(n_epochs, len(history) + max(0, int((train_until - time.perf_counter()) / history[-1]["seconds"])))


def square_of(config):
    """How every image of a fit becomes square."""
    return {"image_size_px": config.data.image_size_px, "resize": config.data.resize}


def predicted_splits(this, spec):
    """{split: (sample ids, PixelStore, transform or one per image)} of what a fit predicts."""
    audit = this.audit
    plain = plain_view(**square_of(this.config))
    splits = {"test": (audit.test.sample_id, audit.test_pixels, plain)} if len(audit.test) else {}
    if spec.fold is None:
        return splits
    rows = this.folds.valid_rows(spec.fold)
    valid = audit.train.take(rows)
    pixels = audit.train_pixels.take(rows)
    splits["valid"] = (valid.sample_id, pixels, plain)
    if not this.shift.is_empty:
        testlike = by_class(this.shift.groups, valid.classes, lambda group: testlike_view(
            group.policy, native_scale=this.native_scale, **square_of(this.config)))
        splits["valid_testlike"] = (valid.sample_id, pixels, [testlike[k] for k in valid.label])
    return splits


def predict_fit(this, spec, weights_folder, folder, title):
    """valid.npz, valid_testlike.npz and test.npz of a finished fit, each with its views and their mean."""
    network = new_network_with(this, spec, weights_folder)
    splits = predicted_splits(this, spec)
    with Timer() as timer:
        loader = split_loader(this, splits | adapting_split(this))
        adapted = adapted_to_test(this, spec, network, loader)
        if adapted:
            save_file(norm_statistics(adapted), folder / ADAPTED)
        network = fused(network)
        adapted = adapted and fused(adapted)
        views = views_of(this, adapted is not None)
        for split in splits:
            save_views(predict_images(this, spec, network, loader, split, views, adapted), folder / f"{split}.npz")
    keep_warnings(this, folder)
    n = sum(len(ids) for ids, _, _ in splits.values())
    n_views = len(views)
    this.events.say(f"{title} {spec.title}: predicted {n} images x {n_views} views, {timer.seconds:.0f} s",
                    event="predicted", fit=spec.name, fold=spec.fold, images=n, seconds=timer.seconds)


def views_of(this, with_adapted=False):
    """The views of a network alone, or of one with its adapted one."""
    return views_for(this.shift.symmetries, this.config.predict.tta_views, turned=this.shift.policy.get("rotate") is not None,
                     with_adapted=with_adapted)


def adapting_split(this):
    """Some test images, where they were found to differ from the training images: as `predicted_splits`, else {}."""
    if this.shift.is_empty:
        return {}
    audit = this.audit
    rows = np.random.default_rng(0).permutation(len(audit.test))[:ADAPTED_IMAGES]
    return {"adapting": (audit.test.sample_id[rows], audit.test_pixels.take(rows), plain_view(**square_of(this.config)))}


def adapted_to_test(this, spec, network, loader):
    """`adapted_to` the loader's split "adapting", if it has one; fewer images at a time where memory runs out."""
    if "adapting" not in loader.datasets:
        return None
    n = len(loader.datasets["adapting"])
    room = Room(ADAPTED_BATCH_SIZE, this.device, told=lambda text: this.warn(f"adapting {spec.title} to test images: {text}"))

    def adapt():
        even = math.ceil(n / math.ceil(n / room.micro_batch_size))      # batches of about one size: each counts alike
        return adapted_to(network, (batch.images.to(this.device) for batch in loader.batches("adapting", even)))

    return room.find(adapt)


def predict_batch_size(config):
    """Nothing is kept for a backward pass, so that more fits than in training."""
    return max(PREDICT_BATCH_SIZE, config.optim.micro_batch_size)


def split_loader(this, splits):
    """The SplitLoader of splits as `predicted_splits` gives them."""
    return SplitLoader({split: ImageDataset(pixels, sample_id, transform, (this.config.seed, "predict", split))
                        for split, (sample_id, pixels, transform) in splits.items()},
                       predict_batch_size(this.config), this.workers, this.loads_in_bursts)


def predict_images(this, spec, network, loader, split, views, adapted=None):
    """{view name: Predictions} of a split of a SplitLoader in these views; in smaller batches where memory runs out."""
    room = Room(loader.batch_size, this.device, told=lambda text: this.warn(
        f"predicting with {spec.title}: {text}, with the same results"))
    return predict(network, loader.batches(split), loader.datasets[split].sample_id, this.contest.train.classes, split=split,
                   source=f"{spec.name}-fold{spec.fold}", views=views, room=room, adapted=adapted,
                   autocast=this.compute_of(spec.backbone).autocast(this.device))


def new_network_with(this, spec, weights_folder):
    """The trained network of a finished fit."""
    network = build_network(spec.backbone, n_classes=len(this.contest.train.classes),
                            image_size_px=this.config.data.image_size_px, model=this.config.model,
                            weights=replace(this.weights[spec.backbone], path=""))
    load_weights(network, weights_folder)
    return replace(this.compute_of(spec.backbone), compiled=False).prepare(network.to(this.device))


def fold_scores(this, fitted, metric):
    """{split: score} of one fit on its own valid images; computed once."""
    key = fitted.predict_stage.key
    if key not in this.scores:
        each = {split: fitted.predictions(split) for split in ("valid", "valid_testlike") if fitted.has(split)}
        this.scores[key] = {split: metric(np.array([this.label_of[i] for i in p.sample_id.tolist()]), p.probs)
                            for split, p in each.items()}
    return this.scores[key]
