"""One fit: what it learns from, how it is trained, what it predicts, what it costs. The stages around it are in pipeline.py.

    fitted = run_fit(run, FitSpec("convnext_atto", 42, 0, 0), before, n_epochs=12, title="fit 1/5", ...)
    fitted.predictions("valid").align(ids)
"""
import errno
import functools
import math
import os
import platform
import re
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from config import Config, FitSpec, key_settings
from data_loader import Audit, Contest, EpochSampler, Folds, ImageDataset, InOrderSampler, Targets, make_loader
from files import first_few
from modeling.augment import BatchMix, by_class, plain_view, testlike_view, train_augment
from modeling.inference import Predictions, load_views, predict, save_views, views_for
from modeling.losses import Supervised, class_weights
from modeling.network import WeightsSource, build_network
from modeling.plan import Cost, Work, measured_cost
from modeling.shift import ShiftReport
from modeling.targets import pseudo_targets, save_pseudo_labels, teachers_temperature
from modeling.train import drop_damaged_checkpoints, fit, load_result, make_autocast, pick_precision, seed_everything
from utils import EventLog, Stage, Timer, discard, free_bytes, read_json, run_stage, write_json

PREDICT_BATCH_SIZE = 32
PSEUDO_LABELS = "pseudo_labels.csv"      # in the folder of a fit


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
    warnings: list[str] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)      # of fits, see `fold_scores`
    command: str = ""                    # that a person types to repeat it
    deadline: float = math.inf           # by time.perf_counter(), for the last fit; --time_budget sets it

    @property
    def workers(self):
        workers = self.config.runtime.workers
        return max(1, min(8, (os.cpu_count() or 1) // 2)) if workers < 0 else workers

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

    def warn(self, text):
        if text not in self.warnings:
            self.warnings.append(text)
            self.events.say(f"warning: {text}", event="warning")

    def run_stage(self, stage, build, *readers):
        """utils.run_stage; a complete stage that has changed on the disk is named and made again, its `readers` too."""
        def changed(names):
            self.warn(f"{stage.folder.name} is made again: {first_few(names)} changed on the disk after it was complete")
            for reader in readers:
                discard(reader)

        return run_stage(stage, build, changed)

    def with_workers(self, work):
        """work(), once more without loading processes where one was killed or had no shared memory; results are the same."""
        try:
            return work()
        except (RuntimeError, OSError) as error:
            is_elsewhere = getattr(error, "errno", None) == errno.ENOSPC and free_bytes(self.folder) > 2**20      # in /dev/shm
            if not self.workers or not (is_elsewhere or re.search(r"DataLoader worker \(pid|shared memory", str(error))):
                raise
            self.warn("loading processes were ended by the system (killed, or /dev/shm too small) and are done without, which "
                      f"is slower and gives the same results ({str(error).splitlines()[0]})")
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


def usable_rounds(this):
    """Round numbers; later rounds that teach on test images are switched off where the contest forbids it."""
    rounds = this.config.rounds
    if len(rounds) > 1 and (this.config.data.test_usage != "train" or not len(this.audit.test)):
        this.warn(f"the {len(rounds) - 1} later round(s) were switched off: they train on test images, and "
                  + (f"data.test_usage={this.config.data.test_usage}" if len(this.audit.test) else "there are none"))
        return range(1)
    return range(len(rounds))


def round_specs(config, round_number):
    """The FitSpecs of a round, fold by fold, so that all backbones are there early; refits on all labelled images last."""
    folds = [*range(config.data.run_folds), *([None] if config.ensemble.refit else [])]
    return [FitSpec(backbone, config.seed, round_number, fold) for fold in folds for backbone in config.model.backbones]


def round_epochs(config, round_number):
    return config.rounds[round_number].epochs or config.optim.epochs


def teachers_of(this, spec, available=None):
    """The fits whose predictions the targets of `spec` come from: the round before, the same fold, every backbone that is
    `available` (FitSpecs; None: all)."""
    if not this.config.rounds[spec.round].teacher:
        return []
    teachers = [replace(spec, backbone=b, round=spec.round - 1) for b in this.config.model.backbones]
    return [t for t in teachers if available is None or t in available]


def calibrators_of(this, spec, available=None):
    """The teachers of each other fold, whose valid images tell how sure a mean of teachers may be: [[FitSpec]]."""
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
    config, weights, hours = this.config, this.weights[spec.backbone], this.config.runtime.time_budget_hours
    settings = {"spec": spec, "model": replace(config.model, backbones=(), pretrained=""), "augment": config.augment,
                "optim": config.optim, "round": config.rounds[spec.round], "image_size_px": config.data.image_size_px,
                "resize": config.data.resize, "pad_type": weights.pad_type, **({"time_budget_hours": hours} if hours else {})}
    parent = this.folder / (f"fold_{spec.fold}" if spec.fold is not None else "refit")
    training = Stage.of(parent, spec.name, version=1, settings=settings, inputs=[
        this.keys["audit"], this.keys["shift"], this.keys["folds"], this.digests[spec.backbone],
        *(fit_stages(this, teacher, available, known)[1].key for teacher in sum(
            calibrators_of(this, spec, available), teachers_of(this, spec, available)))])
    known[spec] = training, Stage.of(parent, f"predict-{spec.name}", version=2, inputs=[training.key],
                                     settings=key_settings(config, "predict"))
    return known[spec]


def fit_state(this, spec):
    """done, begun or to do."""
    training, prediction = fit_stages(this, spec)
    return "done" if prediction.is_done else "begun" if training.is_done or training.partial.exists() else "to do"


def run_fit(this, spec, fitted, n_epochs, train_until, title, advance):
    """Fit, then predict: two stages. A finished one is read, not run.

    fitted: {FitSpec: Fitted} of the rounds before; train_until: by time.perf_counter(), the fit is shortened to it;
    advance(share): called with the share of the training that was done since the last call.
    """
    training, prediction = fit_stages(this, spec, fitted)
    if training.is_done:
        this.events.say(f"{title} {spec.name} fold {spec.fold}: done before", event="reused", stage=training.folder.name)
    this.with_workers(lambda: this.run_stage(training, lambda folder: train_fit(
        this, spec, fitted, folder, n_epochs, train_until, title, advance), prediction))
    result = load_result(spec, training.folder)
    if result.skipped_steps:
        this.warn(f"{spec.name} fold {spec.fold}: {result.skipped_steps} non-finite step(s) were skipped")
    this.with_workers(lambda: this.run_stage(prediction, lambda folder: predict_fit(
        this, spec, training.folder, folder, title)))
    return Fitted(result, prediction)


def fit_rows(this, spec):
    """Rows of the training catalog that this fit learns from."""
    return np.arange(len(this.audit.train)) if spec.fold is None else this.folds.train_rows(spec.fold)


def taught_targets(this, spec, fitted):
    """Targets of test images by the teachers of a fit, among the `fitted` of the rounds before; None in a round without."""
    round_ = this.config.rounds[spec.round]
    teachers = [fitted[t] for t in teachers_of(this, spec, fitted)]
    others = [[fitted[t] for t in fold] for fold in calibrators_of(this, spec, fitted)]
    if not teachers or not round_.unlabelled:
        return None
    temperature = teachers_temperature([[t.predictions(t.testlike) for t in fold] for fold in others], this.label_of)
    taught = pseudo_targets([t.predictions("test") for t in teachers], round_, spec.fold, temperature)
    this.events.say(f"{spec.name} fold {spec.fold}: {len(taught)} of {len(this.audit.test)} test images as pseudo-labels, "
                    f"teachers at temperature {temperature:.2f}")
    return taught.for_fold(spec.fold)


def fit_targets(this, spec, taught=None):
    """(PixelStore, Targets) of a fit: its fold's labelled images, and those that it was taught."""
    audit, rows = this.audit, fit_rows(this, spec)
    pixels, labelled = audit.train_pixels.take(rows), Targets.from_labels(audit.train.take(rows))
    if taught is None:
        return pixels, labelled
    row = {sample: i for i, sample in enumerate(audit.test.sample_id.tolist())}
    test_rows = np.array([row[s] for s in taught.sample_id.tolist()], dtype=np.int64)
    return pixels.concat(audit.test_pixels.take(test_rows)), labelled.concat(taught)


def new_network(this, spec):
    return build_network(spec.backbone, n_classes=len(this.contest.train.classes),
                         image_size_px=this.config.data.image_size_px, weights=this.weights[spec.backbone],
                         model=this.config.model)


def training(this, spec, pixels, targets, n_epochs):
    """What `fit` needs of this spec, from values: (network, objective, loader, sampler, mix)."""
    config, names = this.config, (this.config.seed, spec.name, spec.fold)
    augments = by_class(this.shift.groups, this.audit.train.classes, lambda group: train_augment(
        config.augment, group, native_scale=this.native_scale, **square_of(config)))
    dataset = ImageDataset(pixels, targets.sample_id, [augments[k] for k in targets.probs.argmax(1)], names,
                           targets.probs, targets.weight)
    sampler = EpochSampler(len(dataset), config.optim.batch_size, names)
    seed_everything(*names, "init")
    network = new_network(this, spec)
    counts = (targets.probs * targets.weight[:, None]).sum(0)      # of what is learnt from, pseudo-labels too
    objective = Supervised(config.optim, class_weights(counts, config.optim.class_weight_power))
    mix, clean_from = BatchMix(config.augment), n_epochs - config.augment.clean_epochs
    return (network, objective, make_loader(dataset, sampler, this.workers), sampler,
            lambda batch, generator, epoch: mix(batch, generator) if epoch < clean_from else batch)


def train_fit(this, spec, fitted, folder, n_epochs, train_until, title, advance):
    """Build everything a fit needs and train it in `folder`."""
    if damaged := drop_damaged_checkpoints(folder):
        this.warn(f"{spec.name} fold {spec.fold} is trained from an earlier state: {first_few(damaged)} changed on the disk")
    taught = taught_targets(this, spec, fitted)
    if taught is not None:
        save_pseudo_labels(taught, this.audit.train.classes, folder / PSEUDO_LABELS)
    pixels, targets = fit_targets(this, spec, taught)
    network, objective, loader, sampler, mix = training(this, spec, pixels, targets, n_epochs)
    result = fit(spec, network, objective, loader, sampler, mix=mix, config=this.config, n_epochs=n_epochs,
                 pretrained=this.weights[spec.backbone].is_pretrained, device=this.device, folder=folder, events=this.events,
                 description=f"{title} {spec.name} fold {spec.fold}", shorten=partial(in_time, train_until),
                 advance=partial(advance, 1 / (n_epochs * len(sampler))))
    n_done = len(result.epochs)
    this.events.say(f"{title} {spec.name} fold {spec.fold}: loss {result.epochs[-1]['loss']:.4f} after {n_done} epochs, "
                    f"{result.seconds:.0f} s, {result.epochs[-1]['images_per_second']:.0f} images/s")
    if n_done < n_epochs:
        this.warn(f"{spec.name} fold {spec.fold}: ended after {n_done} of {n_epochs} planned epochs to stay in --time_budget")


def in_time(train_until, history, n_epochs):
    """`n_epochs`, or as many as end before `train_until` at the last epoch's pace."""
    if train_until == math.inf:
        return n_epochs
    return min(n_epochs, len(history) + max(0, int((train_until - time.perf_counter()) / history[-1]["seconds"])))


def square_of(config):
    """How every image of a fit becomes square."""
    return {"image_size_px": config.data.image_size_px, "resize": config.data.resize}


def predicted_splits(this, spec):
    """{split: (Catalog, PixelStore, transform or one per image)} of what a fit predicts."""
    audit, plain = this.audit, plain_view(**square_of(this.config))
    splits = {"test": (audit.test, audit.test_pixels, plain)} if len(audit.test) else {}
    if spec.fold is None:
        return splits
    rows = this.folds.valid_rows(spec.fold)
    valid, pixels = audit.train.take(rows), audit.train_pixels.take(rows)
    splits["valid"] = (valid, pixels, plain)
    if not this.shift.is_empty:
        testlike = by_class(this.shift.groups, valid.classes, lambda group: testlike_view(
            group.policy, native_scale=this.native_scale, **square_of(this.config)))
        splits["valid_testlike"] = (valid, pixels, [testlike[k] for k in valid.label])
    return splits


def predict_fit(this, spec, weights_folder, folder, title):
    """valid.npz, valid_testlike.npz and test.npz of a finished fit, each with its views and their mean."""
    network, splits = new_network_with(this, spec, weights_folder), predicted_splits(this, spec)
    with Timer() as timer:
        for split, (catalog, pixels, transform) in splits.items():
            views = predict_images(this, spec, network, catalog, pixels, transform, split, views_of(this))
            save_views(views, folder / f"{split}.npz")
    n, n_views = sum(len(c) for c, _, _ in splits.values()), len(views_of(this))
    this.events.say(f"{title} {spec.name} fold {spec.fold}: predicted {n} images x {n_views} views, {timer.seconds:.0f} s",
                    event="predicted", fit=spec.name, fold=spec.fold, images=n, seconds=timer.seconds)


def views_of(this):
    return views_for(this.shift.symmetries, this.config.predict.tta_views, turned=this.shift.policy.get("rotate") is not None)


def predict_batch_size(config):
    """Nothing is kept for a backward pass, so that more fits than in training."""
    return max(PREDICT_BATCH_SIZE, config.optim.micro_batch_size)


def predict_images(this, spec, network, catalog, pixels, transform, split, views):
    """{view name: Predictions} of a catalog's images in these views."""
    config = this.config
    dataset = ImageDataset(pixels, catalog.sample_id, transform, (config.seed, "predict", split))
    loader = make_loader(dataset, InOrderSampler(len(dataset), predict_batch_size(config)), this.workers)
    return predict(network, loader, catalog.sample_id, catalog.classes, split=split, source=f"{spec.name}-fold{spec.fold}",
                   views=views, device=this.device,
                   autocast=make_autocast(pick_precision(config.runtime.precision, this.device), this.device))


def new_network_with(this, spec, weights_folder):
    """The trained network of a finished fit."""
    network = build_network(spec.backbone, n_classes=len(this.contest.train.classes),
                            image_size_px=this.config.data.image_size_px, model=this.config.model,
                            weights=replace(this.weights[spec.backbone], path=""))
    network.load_state_dict(load_file(weights_folder / "weights.safetensors"))
    return network.to(this.device)


def fold_scores(this, fitted, metric):
    """{split: score} of one fit on its own valid images; computed once."""
    key = fitted.predict_stage.key
    if key not in this.scores:
        each = {split: fitted.predictions(split) for split in ("valid", "valid_testlike") if fitted.has(split)}
        this.scores[key] = {split: metric(np.array([this.label_of[i] for i in p.sample_id.tolist()]), p.probs)
                            for split, p in each.items()}
    return this.scores[key]


# ---------------------------------------------------------------- what a fit costs

MEASURED_STEPS = 4
MEASURED_BATCHES = (1, 4)      # of predicted images
CHECKPOINT_WEIGHTS = 8         # network, EMA and AdamW's two moments, in the last checkpoint and in the one that replaces it


def work_of(this, spec):
    """The Work of a fit, before it is known how many test images its teachers are sure of."""
    n = len(fit_rows(this, spec)) + (len(this.audit.test) if this.config.rounds[spec.round].unlabelled else 0)
    return Work(spec, math.ceil(n / this.config.optim.batch_size), round_epochs(this.config, spec.round),
                sum(len(catalog) for catalog, _, _ in predicted_splits(this, spec).values()))


def needed_bytes(this, specs):
    """Disk space that these fits will take: weights, predictions, and once the largest checkpoints."""
    weights = {backbone: weights_bytes(this, backbone) for backbone in {spec.backbone for spec in specs}}
    row_bytes = 4 * len(this.contest.train.classes) * (1 + len(views_of(this)))
    return (sum(weights[spec.backbone] + row_bytes * work_of(this, spec).n_images for spec in specs)
            + CHECKPOINT_WEIGHTS * max(weights.values(), default=0))


def weights_bytes(this, backbone):
    """Size of a fit's weights, from a network without any."""
    with torch.device("meta"):
        network = build_network(backbone, n_classes=len(this.contest.train.classes), model=this.config.model,
                                image_size_px=this.config.data.image_size_px, weights=WeightsSource(backbone, "random"))
    return sum(value.nbytes for value in network.state_dict().values())


def cost_stage(this, backbone):
    config = this.config
    machine = {"device": str(this.device), "cores": os.cpu_count(), "workers": this.workers, "node": platform.node(),
               "gpu": torch.cuda.get_device_name(this.device) if this.device.type == "cuda" else ""}
    return Stage.of(this.folder / "costs", backbone, version=1, inputs=[this.keys["shift"], this.keys["folds"]], settings={
        **key_settings(config, "augment", "optim", "predict"), "model": replace(config.model, backbones=()),
        "image_size_px": config.data.image_size_px, "precision": config.runtime.precision, "machine": machine})


def find_costs(this, backbones, goes_on=lambda costs: True):
    """{backbone: Cost}, measured where this machine has not done so before. goes_on(costs so far): asked before each but
    the first; the backbones after a no are left out."""
    costs = {}
    for backbone in backbones:
        if costs and not goes_on(costs):
            break
        stage = cost_stage(this, backbone)
        this.with_workers(lambda stage=stage, backbone=backbone: this.run_stage(stage, lambda folder: write_json(
            folder / "cost.json", measure_cost(this, backbone))))
        costs[backbone] = Cost(**read_json(stage.folder / "cost.json"))
    return costs


def measure_cost(this, backbone):
    """The Cost of a backbone: the real training and prediction of a few batches, of which nothing stays."""
    config, spec = this.config, FitSpec(backbone, this.config.seed, 0, 0)
    pixels, targets = fit_targets(this, spec)
    rows = np.arange(MEASURED_STEPS * config.optim.batch_size) % len(targets)
    pixels, targets = pixels.take(rows), targets.take(rows)
    splits = predicted_splits(this, spec)
    catalog, images, transform = splits.get("test", splits["valid"])
    network, objective, loader, sampler, mix = training(this, spec, pixels, targets, 2)

    def train():
        with tempfile.TemporaryDirectory() as folder:
            return fit(spec, network, objective, loader, sampler, mix=mix, config=config, n_epochs=2, device=this.device,
                       pretrained=this.weights[backbone].is_pretrained, folder=folder, description="measuring",
                       events=EventLog(os.devnull, echo=False))

    def predict_some(n):
        predict_images(this, spec, network, catalog.take(np.arange(n)), images.take(np.arange(n)), transform, "measuring",
                       views_of(this))

    n_images = [min(k * predict_batch_size(config), len(catalog) - 1 + (k > 1)) for k in MEASURED_BATCHES]
    return measured_cost(train, predict_some, MEASURED_STEPS, n_images)
