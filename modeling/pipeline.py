"""The stages of a run, in order. Modes, folds and rounds are values in the Config; nothing here asks which mode it is.

audit -> shift -> folds -> for each round x backbone x seed x fold: targets -> fit -> predict -> ensemble -> report
"""
import math
import os
import platform
import shlex
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from config import Config, FitSpec, key_settings, resolve
from data_loader import (
    Audit,
    Contest,
    EpochSampler,
    Folds,
    ImageDataset,
    InOrderSampler,
    Targets,
    audit_contest,
    contest_digests,
    load_audit,
    load_folds,
    make_folds,
    make_loader,
    read_contest,
    save_folds,
)
from modeling import report
from modeling.augment import BatchMix, by_class, plain_view, testlike_view, train_augment
from modeling.ensemble import fit_blend, mean_of
from modeling.executor import make_executor
from modeling.groups import make_groups, named_classes
from modeling.inference import Predictions, load_views, predict, save_views, views_for
from modeling.losses import Supervised, class_weights
from modeling.metrics import bootstrap_ci90, confident_scores, find_metric, normalized
from modeling.network import WeightsSource, build_network, fetch_weights, find_weights, weights_digest, with_padding
from modeling.shift import FEWEST, ShiftReport, match_shift
from modeling.targets import pseudo_targets
from modeling.train import fit, load_result, make_autocast, pick_device, pick_precision, seed_everything
from utils import EventLog, Stage, Timer, exclusive, keep_freed_memory, read_json, run_stage, seed_of, write_json

CACHE_FACTOR = 1.25      # cached images are this much larger than the network's input, for zooms and turns
PROBE_SIZE_PX = 128      # input where pretrained features are used as they are: to measure the shift and the padding
PROBE_IMAGES = 192


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

    @property
    def workers(self):
        workers = self.config.runtime.workers
        return max(1, min(8, (os.cpu_count() or 1) // 2)) if workers < 0 else workers

    @property
    def native_scale(self):
        """Long side of a cached training image over that of the original, at the median."""
        size = self.audit.summary["size_px"]["train"]
        return min(1.0, self.audit.summary["long_side_px"] / max(size["height_px"][2], size["width_px"][2]))

    def warn(self, text):
        if text not in self.warnings:
            self.warnings.append(text)
            self.events.say(f"warning: {text}", event="warning")


def run(config, data_path, folder, answers=None, dry_run=False):
    """From a contest folder to a submission; returns the content of final_results.json.

    answers: {id: class value} of the test images where they are known (the embedded contest), for the last number only.
    """
    keep_freed_memory()
    with Timer() as timer:
        contest = read_contest(data_path, config.data)
        device = pick_device(config.runtime.device)
        config = resolve(config, gpu_memory_bytes=gpu_memory_bytes(device), n_train=len(contest.train))
        metric = find_metric(config.metric)
        named_classes(config.augment.groups, contest.train.classes)
        weights = {name: find_weights(name, config.runtime.weights_dir, config.model.pretrained)
                   for name in config.model.backbones}
        with exclusive(folder):
            this = Run(config, contest, Path(folder), EventLog(Path(folder) / "events.jsonl"), device, weights, {})
            begin(this, data_path)
            if dry_run:
                return print_plan(this)
            run_audit(this)
            run_weights(this)
            run_shift(this)
            run_folds(this)
            fits = run_rounds(this)
            results = run_ensemble(this, fits, metric)
            return conclude(this, fits, results, metric, answers, timer)


# ---------------------------------------------------------------- before the first stage

def gpu_memory_bytes(device):
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def environment():
    """Versions and hardware, for environment.json."""
    import importlib.metadata as metadata
    packages = ("torch", "torchvision", "timm", "albumentations", "numpy", "scikit-learn", "opencv-python-headless",
                "pillow", "safetensors")
    return {"python": sys.version.split()[0], "platform": platform.platform(), "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "packages": {p: metadata.version(p) for p in packages}}


def begin(this, data_path):
    """Say what was understood and where weights come from; write config.json and environment.json."""
    config = this.config
    write_json(this.folder / "config.json", config)
    write_json(this.folder / "environment.json", environment())
    this.events.record("start", mode=config.mode, argv=sys.argv[1:], data_path=str(data_path))
    for line in this.contest.understood:
        this.events.say(line)
    n_fits = len(config.rounds) * len(config.model.backbones) * config.data.run_folds
    this.events.say(f"{config.mode}: {len(config.model.backbones)} backbone(s) x {config.data.run_folds} fold(s) x "
                    f"{len(config.rounds)} round(s) = {n_fits} fits of {config.optim.epochs} epochs at "
                    f"{config.data.image_size_px} px, batch {config.optim.batch_size}, on {this.device}")
    for source in this.weights.values():
        this.events.say(f"weights: {source.describe()}")
    random = [s.model_name for s in this.weights.values() if not s.is_pretrained]
    if random and config.model.pretrained != "off":
        this.warn(f"{', '.join(random)} start(s) from RANDOM WEIGHTS and will score far lower: put "
                  f"{random[0]}.safetensors or .pth into a folder and pass it as --weights_dir")
    for problem in this.contest.problems:
        this.warn(problem.text)


def print_plan(this):
    """--dry_run: every stage with its state."""
    for name, state in plan(this):
        this.events.say(f"{state:<16} {name}")
    return None


def plan(this):
    """(name, state) of each stage; keys that depend on stages still to do are shown without one."""
    yield "audit", "done" if audit_stage(this).is_done else "to do"
    specs = [s for r in range(len(this.config.rounds)) for s in round_specs(this.config, r)]
    for spec in specs:
        folder = this.folder / f"fold_{spec.fold}"
        done = sorted(folder.glob(f"{spec.name}-" + "?" * 12))
        partial = sorted(folder.glob(f"{spec.name}-*.partial"))
        state = "done" if done else "begun" if partial else "to do"
        yield f"fold {spec.fold} {spec.name}, {round_epochs(this.config, spec.round)} epochs", state


# ---------------------------------------------------------------- audit, shift, folds

def audit_stage(this):
    data = this.config.data
    settings = {"near_duplicate_bits": data.near_duplicate_bits, "group_column": data.group_column, "n_folds": data.n_folds,
                "long_side_px": cache_side_px(this.config)}
    return Stage.of(this.folder, "audit", version=1, settings=settings, inputs=contest_digests(this.contest, this.workers))


def cache_side_px(config):
    return round(config.data.image_size_px * CACHE_FACTOR)


def run_audit(this):
    stage = audit_stage(this)
    run_stage(stage, lambda folder: audit_contest(
        this.contest, this.config.data, cache_side_px(this.config), folder, os.cpu_count() or 1))
    this.audit = load_audit(stage.folder, this.contest.folder)
    this.keys["audit"] = stage.key
    for problem in this.audit.problems:
        this.warn(problem.text)


def run_shift(this):
    """Measure how test images differ and match it; with `data.test_usage=none` training images are measured alone."""
    config, audit = this.config, this.audit
    reads_test = config.augment.policy == "matched" and config.data.test_usage != "none" and len(audit.test) > 0
    source = next((s for s in this.weights.values() if s.is_pretrained), None)
    settings = {"reads_test": reads_test, "seed": config.seed, "augment": config.augment.policy != "none",
                "groups": config.augment.groups}
    stage = Stage.of(this.folder, "shift", version=2, settings=settings,
                     inputs=[this.keys["audit"], this.digests[source.model_name] if source else "none"])
    run_stage(stage, lambda folder: write_json(
        folder / "shift.json", measure_shift(this, reads_test, source, config.augment.policy != "none").to_json()))
    this.shift = ShiftReport.from_json(read_json(stage.folder / "shift.json"))
    this.keys["shift"] = stage.key
    for line in this.shift.describe():
        this.events.say(line)
    if config.augment.policy == "matched" and not reads_test:
        this.warn("the augmentation is not matched to the test set: "
                  + ("data.test_usage=none" if len(audit.test) else "there are no test images"))
    elif reads_test and this.shift.auc_before is None:
        this.warn(f"the augmentation is not matched to the test set: {len(audit.train)} training and {len(audit.test)} test "
                  f"images, and a shift shows in {FEWEST} readable ones of each at the earliest")


def measure_shift(this, reads_test, source, wanted):
    """The ShiftReport of this contest's images, from files at their own resolution."""
    audit = this.audit
    if not wanted:
        return ShiftReport(groups=make_groups(audit.train.classes, [len(audit.train)], None, "off"))
    return match_shift(audit.train.path, audit.train.label, audit.test.path if reads_test else [],
                       seed=this.config.seed, workers=os.cpu_count() or 1, embed=make_embed(this, source),
                       classes=audit.train.classes, groups=this.config.augment.groups)


def make_embed(this, source):
    """images -> pooled pretrained features (n, D), or None where all weights are random."""
    if source is None:
        return None
    seed_everything("embed")
    network = build_network(source.model_name, n_classes=2, image_size_px=PROBE_SIZE_PX, weights=source,
                            model=this.config.model).to(this.device).eval()
    square = plain_view(PROBE_SIZE_PX, this.config.data.resize)

    @torch.inference_mode()
    def embed(images):
        batches = (images[i:i + 64] for i in range(0, len(images), 64))
        return np.concatenate([network.features(torch.from_numpy(
            np.stack([square(image) for image in batch])).permute(0, 3, 1, 2).to(this.device)).float().cpu().numpy()
            for batch in batches])

    return embed


def run_folds(this):
    config = this.config
    stage = Stage.of(this.folder, "folds", version=1, settings={"n_folds": config.data.n_folds, "seed": config.seed},
                     inputs=[this.keys["audit"]])
    run_stage(stage, lambda folder: save_folds(
        make_folds(this.audit.train, config.data.n_folds, config.seed), folder / "folds.csv"))
    this.folds = load_folds(stage.folder / "folds.csv")
    this.keys["folds"] = stage.key


def run_weights(this):
    """Get every backbone's weights onto this machine, their digests, and the padding they were trained with."""
    config, square = this.config, plain_view(PROBE_SIZE_PX, "crop")
    rows = np.random.default_rng(seed_of("probe")).permutation(len(this.audit.train))[:PROBE_IMAGES]
    images = np.stack([square(this.audit.train_pixels[row]) for row in rows]).transpose(0, 3, 1, 2)
    for name, source in this.weights.items():
        source = fetch_weights(source)
        this.weights[name] = with_padding(source, torch.from_numpy(images.copy()), PROBE_SIZE_PX, config.model)
        this.digests[name] = weights_digest(source)
        if this.weights[name].pad_type:
            this.events.say(f"weights: {name} was trained with '{this.weights[name].pad_type}' padding, by its batch norms")


# ---------------------------------------------------------------- fits

@dataclass(frozen=True)
class Fitted:
    """A finished fit with its predictions on disk."""

    result: object
    predict_stage: Stage

    def predictions(self, split):
        return Predictions.load(self.predict_stage.folder / f"{split}.npz")

    def views(self, split):
        return load_views(self.predict_stage.folder / f"{split}.npz")

    def has(self, split):
        return (self.predict_stage.folder / f"{split}.npz").exists()


def run_rounds(this):
    """{FitSpec: Fitted} of all rounds; each round reads only the rounds before it."""
    executor, fitted = make_executor(this.config.runtime.engine), {}
    for round_number in usable_rounds(this):
        specs = round_specs(this.config, round_number)
        titles = [f"fit {len(fitted) + i + 1}/{len(specs) * len(this.config.rounds)}" for i in range(len(specs))]
        jobs = [partial(run_fit, this, spec, dict(fitted), title) for spec, title in zip(specs, titles, strict=True)]
        fitted |= dict(zip(specs, executor.run(jobs), strict=True))
    return fitted


def usable_rounds(this):
    """Round numbers; later rounds that teach on test images are switched off where the contest forbids it."""
    rounds = this.config.rounds
    if len(rounds) > 1 and (this.config.data.test_usage != "train" or not len(this.audit.test)):
        this.warn(f"the {len(rounds) - 1} later round(s) were switched off: they train on test images, and "
                  + (f"data.test_usage={this.config.data.test_usage}" if len(this.audit.test) else "there are none"))
        return range(1)
    return range(len(rounds))


def round_specs(config, round_number):
    """The FitSpecs of a round, backbone by backbone; refits on all labelled images last."""
    folds = [*range(config.data.run_folds), *([None] if config.ensemble.refit else [])]
    return [FitSpec(backbone, config.seed, round_number, fold) for backbone in config.model.backbones for fold in folds]


def round_epochs(config, round_number):
    return config.rounds[round_number].epochs or config.optim.epochs


def teachers_of(this, spec, fitted):
    """The fits whose predictions the targets of `spec` come from: the round before, the same fold, every backbone."""
    if not this.config.rounds[spec.round].teacher:
        return []
    return [fitted[replace(spec, backbone=b, round=spec.round - 1)] for b in this.config.model.backbones]


def run_fit(this, spec, fitted, title):
    """Fit, then predict: two stages. A finished one is read, not run."""
    config, teachers, weights = this.config, teachers_of(this, spec, fitted), this.weights[spec.backbone]
    parent = this.folder / (f"fold_{spec.fold}" if spec.fold is not None else "refit")
    settings = {"spec": spec, "model": replace(config.model, backbones=(), pretrained=""), "augment": config.augment,
                "optim": config.optim, "round": config.rounds[spec.round], "image_size_px": config.data.image_size_px,
                "resize": config.data.resize, "pad_type": weights.pad_type}
    stage = Stage.of(parent, spec.name, version=1, settings=settings, inputs=[
        this.keys["audit"], this.keys["shift"], this.keys["folds"], this.digests[spec.backbone],
        *(t.predict_stage.key for t in teachers)])
    if stage.is_done:
        this.events.say(f"{title} {spec.name} fold {spec.fold}: done before", event="reused", stage=stage.folder.name)
    run_stage(stage, lambda folder: train_fit(this, spec, teachers, folder, title))
    result = load_result(spec, stage.folder)
    if result.skipped_steps:
        this.warn(f"{spec.name} fold {spec.fold}: {result.skipped_steps} non-finite step(s) were skipped")
    predict_stage = Stage.of(parent, f"predict-{spec.name}", version=2, inputs=[stage.key],
                             settings=key_settings(config, "predict", "metric"))
    run_stage(predict_stage, lambda folder: predict_fit(this, spec, stage.folder, folder, title))
    return Fitted(result, predict_stage)


def fit_rows(this, spec):
    """Rows of the training catalog that this fit learns from."""
    return np.arange(len(this.audit.train)) if spec.fold is None else this.folds.train_rows(spec.fold)


def fit_targets(this, spec, teachers):
    """(PixelStore, Targets) of a fit: its fold's labelled images, and what its teachers add."""
    audit, rows = this.audit, fit_rows(this, spec)
    labelled = Targets.from_labels(audit.train.take(rows))
    if not teachers or not this.config.rounds[spec.round].unlabelled:
        return audit.train_pixels.take(rows), labelled
    taught = pseudo_targets([t.predictions("test") for t in teachers], this.config.rounds[spec.round], spec.fold)
    taught = taught.for_fold(spec.fold)
    row = {sample: i for i, sample in enumerate(audit.test.sample_id.tolist())}
    test_rows = np.array([row[s] for s in taught.sample_id.tolist()], dtype=np.int64)
    this.events.say(f"{spec.name} fold {spec.fold}: {len(test_rows)} of {len(row)} test images as pseudo-labels")
    return audit.train_pixels.take(rows).concat(audit.test_pixels.take(test_rows)), labelled.concat(taught)


def new_network(this, spec):
    return build_network(spec.backbone, n_classes=len(this.contest.train.classes),
                         image_size_px=this.config.data.image_size_px, weights=this.weights[spec.backbone],
                         model=this.config.model)


def train_fit(this, spec, teachers, folder, title):
    """Build everything a fit needs from values and train it in `folder`."""
    config = this.config
    pixels, targets = fit_targets(this, spec, teachers)
    augments = by_class(this.shift.groups, this.audit.train.classes, lambda group: train_augment(
        config.augment, group, native_scale=this.native_scale, **square_of(config)))
    names = (config.seed, spec.name, spec.fold)
    dataset = ImageDataset(pixels, targets.sample_id, [augments[k] for k in targets.probs.argmax(1)], names,
                           targets.probs, targets.weight)
    sampler = EpochSampler(len(dataset), config.optim.batch_size, names)
    n_epochs = round_epochs(config, spec.round)
    seed_everything(*names, "init")
    network = new_network(this, spec)
    counts = np.bincount(this.audit.train.label[fit_rows(this, spec)], minlength=len(this.contest.train.classes))
    objective = Supervised(config.optim, class_weights(counts, config.optim.class_weight_power))
    mix = BatchMix(config.augment)
    clean_from = n_epochs - config.augment.clean_epochs
    result = fit(spec, network, objective, make_loader(dataset, sampler, this.workers), sampler,
                 mix=lambda batch, generator, epoch: mix(batch, generator) if epoch < clean_from else batch,
                 config=config, n_epochs=n_epochs, pretrained=this.weights[spec.backbone].is_pretrained,
                 device=this.device, folder=folder, events=this.events, description=title)
    this.events.say(f"{title} {spec.name} fold {spec.fold}: loss {result.epochs[-1]['loss']:.4f} after {n_epochs} epochs, "
                    f"{result.seconds:.0f} s, {result.epochs[-1]['images_per_second']:.0f} images/s")


def square_of(config):
    """How every image of a fit becomes square."""
    return {"image_size_px": config.data.image_size_px, "resize": config.data.resize}


def predict_fit(this, spec, fit_folder, folder, title):
    """valid.npz, valid_testlike.npz and test.npz of a finished fit, each with its views and their mean."""
    config, audit = this.config, this.audit
    network = new_network_with(this, spec, fit_folder)
    plain = plain_view(**square_of(config))
    splits = {"test": (audit.test, audit.test_pixels, plain)} if len(audit.test) else {}
    if spec.fold is not None:
        rows = this.folds.valid_rows(spec.fold)
        valid, pixels = audit.train.take(rows), audit.train_pixels.take(rows)
        splits["valid"] = (valid, pixels, plain)
        if not this.shift.is_empty:
            testlike = by_class(this.shift.groups, valid.classes, lambda group: testlike_view(
                group.policy, native_scale=this.native_scale, **square_of(config)))
            splits["valid_testlike"] = (valid, pixels, [testlike[k] for k in valid.label])
    views = views_for(this.shift.symmetries, config.predict.tta_views, turned=this.shift.policy.get("rotate") is not None)
    autocast = make_autocast(pick_precision(config.runtime.precision, this.device), this.device)
    with Timer() as timer:
        for split, (catalog, pixels, transform) in splits.items():
            dataset = ImageDataset(pixels, catalog.sample_id, transform, (config.seed, "predict", split))
            sampler = InOrderSampler(len(dataset), config.optim.micro_batch_size)
            save_views(predict(network, make_loader(dataset, sampler, this.workers), catalog.sample_id, catalog.classes,
                               split=split, source=f"{spec.name}-fold{spec.fold}", views=views, device=this.device,
                               autocast=autocast), folder / f"{split}.npz")
    n = sum(len(c) for c, _, _ in splits.values())
    this.events.say(f"{title} {spec.name} fold {spec.fold}: predicted {n} images x {len(views)} views, {timer.seconds:.0f} s")


def new_network_with(this, spec, fit_folder):
    """The trained network of a finished fit."""
    network = build_network(spec.backbone, n_classes=len(this.contest.train.classes),
                            image_size_px=this.config.data.image_size_px, model=this.config.model,
                            weights=replace(this.weights[spec.backbone], path=""))
    network.load_state_dict(load_file(fit_folder / "weights.safetensors"))
    return network.to(this.device)


# ---------------------------------------------------------------- ensemble and result

def by_source(fits):
    """{source name: its Fitted over folds}, in the order they were trained."""
    groups = {}
    for spec, fitted in fits.items():
        groups.setdefault(spec.name, []).append((spec.fold, fitted))
    return groups


def joined(members, split, join):
    """{view: join([Predictions of each of the fits])}."""
    each = [f.views(split) for f in members]
    return {view: join([views[view] for views in each]) for view in each[0]}


def out_of_fold(members, split):
    """{view: Predictions} over the valid images of all trained folds; clean ones where test-like would be equal."""
    folds = [f for fold, f in members if fold is not None]
    return joined(folds, split if folds[0].has(split) else "valid", Predictions.concat)


def run_ensemble(this, fits, metric):
    """Blend on test-like out-of-fold rows; returns the scores, the table's rows and the blended test Predictions."""
    config, audit, groups = this.config, this.audit, by_source(fits)
    row = {sample: i for i, sample in enumerate(audit.train.sample_id.tolist())}
    stage = Stage.of(this.folder, "ensemble", version=2, settings=key_settings(config, "ensemble", "metric", "seed"),
                     inputs=[f.predict_stage.key for f in fits.values()])
    oof = {split: {name: out_of_fold(m, split) for name, m in groups.items()} for split in ("valid", "valid_testlike")}
    ids = next(iter(next(iter(oof["valid"].values())).values())).sample_id.tolist()
    rows = [row[i] for i in ids]
    labels, parts = audit.train.label[rows], this.folds.fold[rows]
    stacked = {name: {view: p.align(ids) for view, p in views.items()} for name, views in oof["valid_testlike"].items()}
    parts = blend_parts(parts, seed_of(config.seed, "blend"))
    blend, nested = fit_blend(stacked, labels, parts, metric, config.ensemble.method)
    clean = blend.apply(oof["valid"]).align(ids)
    score = {}
    for name, probs in (("oof_clean", clean), ("oof_testlike", nested)):
        score[name] = metric(labels, probs)
        score[f"{name}_ci90"] = bootstrap_ci90(metric, labels, probs, draws=config.ensemble.bootstrap_draws,
                                               seed=seed_of(config.seed, "bootstrap"))
    here, there = by_confidence(this, groups, blend, nested, labels, this.folds.fold[rows], metric)
    score |= expectation(score["oof_testlike"], score["oof_testlike_ci90"], here, there,
                         most=1.0 if metric.sign > 0 else math.inf)
    low, high = score["oof_testlike_ci90"]
    if not low <= score["expected"] <= high:
        this.warn(f"the models are {'less' if there < here else 'more'} sure on the test images than on training images made "
                  f"like them, as if {metric.name} were {there - here:+.3f} there: something about the test set is not matched")
    test = blend.apply({name: joined([f for _, f in members], "test", Predictions.mean)
                        for name, members in groups.items()}) if len(audit.test) else None

    def build(folder):
        write_json(folder / "blend.json", blend)
        for name, probs in (("oof_clean", clean), ("oof_testlike", normalized(nested).astype(np.float32))):
            Predictions(np.array(ids), probs, audit.train.classes, "valid", tuple(groups)).save(folder / f"{name}.npz")
        if test:
            test.save(folder / "test.npz")

    run_stage(stage, build)
    folds = this.folds.fold[rows]
    table = [source_row(name, members, blend, mean_of(stacked[name], blend.views[name]), labels, folds, metric)
             for name, members in groups.items()]
    return {"score": score, "blend": blend, "table": table, "test": test}


def source_row(name, members, blend, probs, labels, folds, metric):
    """The SourceRow of a source by its test-like out-of-fold probs (n, C)."""
    each = [metric(labels[folds == k], probs[folds == k]) for k in np.unique(folds)]
    views = list(members[0][1].views("valid"))
    return report.SourceRow(
        name, len(each), metric(labels, probs), float(np.std(each, ddof=1)) if len(each) > 1 else 0.0, blend.weights[name],
        len(blend.views[name]), tuple(v for v in views if v not in blend.views[name]), blend.left_out.get(name, ""),
        sum(f.result.seconds for _, f in members))


def by_confidence(this, groups, blend, nested, labels, folds, metric):
    """`metrics.confident_scores` on test-like rows and on the test images, as each fold's own models see them; without
    test images the score of the rows twice."""
    if not len(this.audit.test):
        return (metric(labels, nested),) * 2
    scores = []
    for fold in np.unique(folds):
        test = blend.apply({name: fitted.views("test") for name, members in groups.items()
                            for number, fitted in members if number == fold})
        scores.append(confident_scores(metric, labels[folds == fold], nested[folds == fold], test.probs,
                                       seed=seed_of(this.config.seed, "confidence", int(fold))))
    return tuple(np.mean(scores, axis=0).tolist())


def expectation(score, ci90, here, there, most):
    """Two estimates averaged: the test-like score moved by how much surer the models are on the test images (`there`, in
    scores) than on those rows (`here`), and `there` itself. The interval holds both, as wide as the score's around each.

    All within what the metric can be: 0 to `most`.
    """
    moved = score + there - here
    values = np.clip([(moved + there) / 2, min(score, moved, there) + ci90[0] - score,
                      max(score, moved, there) + ci90[1] - score], 0.0, most).tolist()
    return {"by_confidence": there, "confidence_shift": there - here, "expected": values[0], "expected_ci90": values[1:]}


def blend_parts(folds, seed):
    """What the blend is nested over: the folds, or five random parts of a single fold's rows."""
    if len(np.unique(folds)) > 1:
        return folds
    return np.random.default_rng(seed).permutation(len(folds)) % 5


def conclude(this, fits, results, metric, answers, timer):
    """Write the submission, the result files and the page; returns final_results.json's content."""
    config, folder, audit, score, shift = this.config, this.folder, this.audit, results["score"], this.shift.to_json()
    submission = ""
    if this.contest.submission_ids:
        prior = np.bincount(audit.train.label, minlength=len(audit.train.classes)) / len(audit.train)
        rows = report.submission_table(this.contest, results["test"], prior)
        submission = f"submission_{folder.name}.csv"
        report.write_submission(rows, this.contest, folder / submission)
        if answers:
            score["test"] = score_against(rows, answers, audit.train.classes, metric)
    all_fits = [(f.result, fold_scores(this, f, metric)) for f in fits.values()]
    report.training_results(config, all_fits, folder / "training_results.json")
    final = {"mode": config.mode, "experiment_name": folder.name, "metric": metric.name,
             "classes": list(audit.train.classes), "n_fits": len(fits), "seconds": timer.seconds,
             "peak_memory_bytes": max(f.peak_memory_bytes for f, _ in all_fits), "submission": submission, "score": score,
             "blend": results["blend"], "sources": [row._asdict() for row in results["table"]],
             "shift": {k: shift[k] for k in ("policy", "auc_before", "auc_after")},
             "warnings": this.warnings}
    write_json(folder / "final_results.json", final)
    report.write_page(folder / "report.html", final=final, table=results["table"], fits=[f for f, _ in all_fits],
                      shift=shift, audit=audit, config=config, command=shlex.join(["python", *sys.argv]))
    for line in report.closing_lines(final, results["table"], folder):
        this.events.say(line)
    return final


def fold_scores(this, fitted, metric):
    """{split: score} of one fit on its own valid images."""
    scores = {}
    for split in ("valid", "valid_testlike"):
        if fitted.has(split):
            p = fitted.predictions(split)
            label = dict(zip(this.audit.train.sample_id.tolist(), this.audit.train.label.tolist(), strict=True))
            scores[split] = metric(np.array([label[i] for i in p.sample_id.tolist()]), p.probs)
    return scores


def score_against(rows, answers, classes, metric):
    """The submission's score where the answers are known. Decoded classes only: no probabilities are scored."""
    index = {c: i for i, c in enumerate(classes)}
    labels = np.array([index[answers[sample]] for sample, _ in rows])
    probs = np.eye(len(classes))[[index[value] for _, value in rows]]
    return metric(labels, probs)
