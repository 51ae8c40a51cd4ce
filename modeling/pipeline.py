"""The stages of a run, in order. Modes, folds and rounds are values in the Config; nothing here asks which mode it is.

audit -> shift -> folds -> for each round x backbone x seed x fold: targets -> fit -> predict -> ensemble -> report
"""
import contextlib
import importlib.metadata as metadata
import math
import platform
import shlex
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from config import key_settings, resolve
from data_loader import audit_contest, contest_digests, load_audit, load_folds, make_folds, read_contest, save_folds
from modeling import report
from modeling.augment import plain_view
from modeling.compute import pick_device
from modeling.costs import find_costs, has_compute, look, needed_bytes, work_of
from modeling.ensemble import fit_rounds, mean_of, nested_cut
from modeling.executor import Job, make_executor
from modeling.fits import PSEUDO_LABELS, Run, allowed_rounds, finished_fit, fit_state, fold_scores, round_specs, run_fit
from modeling.groups import make_groups, named_classes
from modeling.inference import Predictions, joined
from modeling.metrics import bootstrap_ci90, confident_scores, find_metric, normalized
from modeling.network import WeightsSource, build_network, fetch_weights, find_weights, fused, weights_digest, with_padding
from modeling.page import Page, is_non_commercial
from modeling.plan import UNKNOWN, Devices, differences, longest_first, make_plan
from modeling.predictor import NAME as PREDICTOR
from modeling.predictor import write_predictor
from modeling.shift import FEWEST, ShiftReport, match_shift
from modeling.targets import load_pseudo_labels
from modeling.trackers import tracker
from modeling.train import seed_everything
from submission import probs_of_ids
from utils import (
    MANIFEST,
    EventLog,
    Overall,
    Stage,
    Timer,
    duration,
    exclusive,
    keep_freed_memory,
    need_space,
    no_bars,
    read_json,
    seed_of,
    usable_cores,
    write_json,
    write_manifest,
)

CACHE_FACTOR = 1.25      # cached images are this much larger than the network's input, for zooms and turns
PROBE_SIZE_PX = 128      # input where pretrained features are used as they are: to measure the shift and the padding
PROBE_IMAGES = 192
RESERVE_SECONDS, RESERVE_SHARE = 12, 0.03      # of a time budget: for starting, blending and the report
RESULTS_MANIFEST = "results_manifest.json"     # of the result files and of all stages' manifests, for --verify
QUIET_EVENTS = ("warning", "result")      # whose sentences --quiet leaves
BUDGETED = ("data", "model", "augment", "optim", "predict", "rounds", "ensemble", "seed")


def run(config, data_path, folder, answers=None, dry_run=False, command=()):
    """From a contest folder to a submission; returns the content of final_results.json.

    answers: {id: class value} of the test images where they are known (the embedded contest), for the last number only.
    command: what was typed, word by word, for the record.
    """
    keep_freed_memory()
    with (Timer() as timer, no_bars(config.runtime.quiet),
          make_executor(config.runtime.engine, folder, config.runtime.device) as executor):
        contest = read_contest(data_path, config.data)
        device = pick_device(config.runtime.device)
        machine = min(executor.survey(partial(look, config.runtime.device)), key=lambda m: m["gpu_memory_bytes"])
        config = resolve(config, gpu_memory_bytes=machine["gpu_memory_bytes"], n_train=len(contest.train))
        metric = find_metric(config.metric, contest.form.has_class_columns)
        contest = contest.for_metric(metric)
        named_classes(config.augment.groups, contest.train.classes)
        weights = {name: find_weights(name, config.runtime.weights_dir, config.model.pretrained)
                   for name in config.model.backbones}
        folder = Path(folder)
        with exclusive(folder), tracker("none" if dry_run else config.runtime.tracker, folder) as track:
            events = EventLog(folder / "events.jsonl", events=QUIET_EVENTS if config.runtime.quiet else None, also=track)
            this = Run(config, contest, folder, events, device, weights, {}, command=shlex.join(command), machine={
                **machine, "cores": executor.cores, "workers": config.runtime.workers})
            if config.runtime.time_budget_hours:
                budget_seconds = 3600 * config.runtime.time_budget_hours
                this.deadline = timer.start + budget_seconds - RESERVE_SECONDS - RESERVE_SHARE * budget_seconds
            begin(this, data_path, metric)
            if dry_run:
                return print_plan(this, metric, executor)
            run_audit(this)
            run_weights(this)
            run_shift(this)
            run_folds(this)
            this.config = replace(this.config, rounds=allowed_rounds(this))
            page = Page(this, metric)
            fits, planned = run_rounds(this, metric, page, executor)
            results = run_ensemble(this, fits, metric)
            return conclude(this, fits, planned, results, metric, answers, timer, page)


# ---------------------------------------------------------------- before the first stage

def environment():
    """Versions and hardware, for environment.json."""
    packages = ("torch", "torchvision", "timm", "albumentations", "numpy", "scikit-learn", "opencv-python-headless",
                "pillow", "safetensors")
    return {"python": sys.version.split()[0], "platform": platform.platform(), "cores": usable_cores(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "packages": {p: metadata.version(p) for p in packages}}


def begin(this, data_path, metric):
    """Say what was understood and where weights come from; write config.json and environment.json."""
    config = this.config
    write_json(this.folder / "config.json", config)
    write_json(this.folder / "environment.json", environment())
    this.events.record("start", mode=config.mode, argv=sys.argv[1:], command=this.command, data_path=str(data_path))
    for line in this.contest.describe(metric, config.metric != "auto"):
        this.events.say(line)
    refit, n_fits = " and a refit" * config.ensemble.refit, sum(len(round_specs(config, k)) for k in range(len(config.rounds)))
    this.events.say(f"{config.mode}: {len(config.model.backbones)} backbone(s) x {config.data.run_folds} fold(s){refit} x "
                    f"{len(config.rounds)} round(s) = {n_fits} fits of {config.optim.epochs} epochs at "
                    f"{config.data.image_size_px} px, batch {config.optim.batch_size}, on {this.machine['device']}")
    for source in this.weights.values():
        this.events.say(f"weights: {source.describe()}")
    random = [s.model_name for s in this.weights.values() if not s.is_pretrained]
    if random and config.model.pretrained != "off":
        this.warn(f"{', '.join(random)} start(s) from RANDOM WEIGHTS and will score far lower: put "
                  f"{random[0]}.safetensors or .pth into a folder and pass it as --weights_dir")
    for source in this.weights.values():
        if source.is_pretrained and is_non_commercial(source.licence):
            this.warn(f"NOT FOR COMMERCIAL USE: the weights of {source.model_name} are licensed {source.licence}")
    for problem in this.contest.problems:
        this.warn(problem.text)


# ---------------------------------------------------------------- the plan before a run

class NoiseImages:
    """n noise images in place of a PixelStore, for timing."""

    def __init__(self, n, side_px):
        self.n, self.image = n, np.random.default_rng(0).integers(256, size=(side_px * 3 // 4, side_px, 3), dtype=np.uint8)

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return self.image

    def take(self, rows):
        return NoiseImages(len(rows), self.image.shape[1])


def print_plan(this, metric, executor):
    """--dry_run: every fit with its state, epochs, seconds and memory. What is not done yet is timed on noise images."""
    ready = audit_stage(this).is_done
    if ready:
        run_audit(this)
        run_weights(this)
        ready = shift_stage(this).is_done
    if ready:
        run_shift(this)
        run_folds(this)
    else:
        rehearse(this)
        this.events.say("the images were not read yet: steps are timed on noise images, and reading them and measuring the "
                        "shift come on top")
    this.config = replace(this.config, rounds=allowed_rounds(this))
    for line in Planner(this, planned_specs(this), metric, executor).describe():
        this.events.say(line)


def rehearse(this):
    """Fill a Run as if its first stages were done: no image read, no shift known, no weights loaded."""
    contest, side_px = this.contest, cache_side_px(this.config)
    this.audit = SimpleNamespace(
        train=contest.train, test=contest.test, train_pixels=NoiseImages(len(contest.train), side_px),
        test_pixels=NoiseImages(len(contest.test), side_px),
        summary={"long_side_px": side_px, "size_px": {"train": {"height_px": [0, 0, 0], "width_px": [side_px] * 3}}})
    this.shift = ShiftReport(groups=make_groups(contest.train.classes, [len(contest.train)], None, "off"))
    this.folds = make_folds(contest.train, this.config.data.n_folds, this.config.seed)
    this.weights = {name: WeightsSource(name, "random") for name in this.weights}
    this.digests = dict.fromkeys(this.weights, "")
    this.keys = dict.fromkeys(("audit", "shift", "folds"), "")


# ---------------------------------------------------------------- audit, shift, folds

def audit_stage(this):
    data = this.config.data
    settings = {"near_duplicate_bits": data.near_duplicate_bits, "group_column": data.group_column, "n_folds": data.n_folds,
                "long_side_px": cache_side_px(this.config)}
    return Stage.of(this.folder, "audit", version=1, settings=settings, inputs=contest_digests(this.contest, this.workers))


def cache_side_px(config):
    return round(config.data.image_size_px * CACHE_FACTOR)


def run_audit(this):
    stage, contest = audit_stage(this), this.contest
    if not stage.is_done:
        n_images = len(contest.train) + len(contest.test)
        need_space(this.folder, 3 * cache_side_px(this.config)**2 * n_images, f"{n_images} reduced images")
    this.run_stage(stage, lambda folder: audit_contest(
        this.contest, this.config.data, cache_side_px(this.config), folder, usable_cores()))
    this.audit = load_audit(stage.folder, this.contest.folder)
    this.keys["audit"] = stage.key
    for problem in this.audit.problems:
        this.warn(problem.text)


def reads_test(this):
    return (this.config.augment.policy == "matched" and this.config.data.test_usage != "none" and len(this.audit.test) > 0)


def pretrained_source(this):
    """The first backbone with pretrained weights, whose features help to measure; None where all are random."""
    return next((s for s in this.weights.values() if s.is_pretrained), None)


def shift_stage(this):
    config, source = this.config, pretrained_source(this)
    settings = {"reads_test": reads_test(this), "seed": config.seed, "augment": config.augment.policy != "none",
                "groups": config.augment.groups}
    return Stage.of(this.folder, "shift", version=4, settings=settings,
                    inputs=[this.keys["audit"], this.digests[source.model_name] if source else "none"])


def run_shift(this):
    """Measure how test images differ and match it; with `data.test_usage=none` training images are measured alone."""
    config, audit, stage = this.config, this.audit, shift_stage(this)
    this.run_stage(stage, lambda folder: write_json(
        folder / "shift.json", measure_shift(this, config.augment.policy != "none").to_json()))
    this.shift = ShiftReport.from_json(read_json(stage.folder / "shift.json"))
    this.keys["shift"] = stage.key
    for line in this.shift.describe():
        this.events.say(line)
    if config.augment.policy == "matched" and not reads_test(this):
        this.warn("the augmentation is not matched to the test set: "
                  + ("data.test_usage=none" if len(audit.test) else "there are no test images"))
    elif reads_test(this) and this.shift.auc_before is None:
        this.warn(f"the augmentation is not matched to the test set: {len(audit.train)} training and {len(audit.test)} test "
                  f"images, and a shift shows in {FEWEST} readable ones of each at the earliest")


def measure_shift(this, wanted):
    """The ShiftReport of this contest's images, from files at their own resolution."""
    audit = this.audit
    if not wanted:
        return ShiftReport(groups=make_groups(audit.train.classes, [len(audit.train)], None, "off"))
    return match_shift(audit.train.path, audit.train.label, audit.test.path if reads_test(this) else [],
                       seed=this.config.seed, workers=usable_cores(), embed=make_embed(this, pretrained_source(this)),
                       classes=audit.train.classes, groups=this.config.augment.groups)


def make_embed(this, source):
    """images -> pooled pretrained features (n, D), or None where all weights are random."""
    if source is None:
        return None
    seed_everything("embed")
    network = fused(build_network(source.model_name, n_classes=2, image_size_px=PROBE_SIZE_PX, weights=source,
                                  model=this.config.model).to(this.device))
    square = plain_view(PROBE_SIZE_PX, this.config.data.resize)

    @torch.inference_mode()
    def embed(images):
        batches = (images[i:i + 32] for i in range(0, len(images), 32))
        return np.concatenate([network.features(torch.from_numpy(
            np.stack([square(image) for image in batch])).permute(0, 3, 1, 2).to(this.device)).float().cpu().numpy()
            for batch in batches])

    return embed


def run_folds(this):
    config = this.config
    stage = Stage.of(this.folder, "folds", version=1, settings={"n_folds": config.data.n_folds, "seed": config.seed},
                     inputs=[this.keys["audit"]])
    this.run_stage(stage, lambda folder: save_folds(
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

def run_rounds(this, metric, page, executor):
    """({FitSpec: Fitted} of all rounds, what was planned); each round reads only the rounds before it."""
    specs = planned_specs(this)
    stage = Stage.of(this.folder, "plan", version=1, inputs=[this.keys["folds"], this.keys["shift"]], settings=[
        this.config.runtime.time_budget_hours, key_settings(this.config, *BUDGETED)])
    if stage.is_done:
        chosen = read_json(stage.folder / "plan.json")["fits"]
        specs = [s for s in specs if [s.name, s.fold] in chosen]
    planner = Planner(this, specs, metric, executor)
    for line in planner.describe():
        this.events.say(line)
    to_do = [planner.works[spec] for spec in planner.first.epochs]
    need_space(this.folder, needed_bytes(this, to_do), f"{len(to_do)} fit(s)")
    page.show({}, specs)
    fitted = {}
    width = max(len(f"fit {len(specs)}/{len(specs)} {spec.name} fold {spec.fold}") for spec in specs)
    with contextlib.closing(Overall(f"{'all fits':<{width}}")) as overall:
        for round_number in sorted({spec.round for spec in specs}):
            for spec, seconds in executor.run(planner.jobs(round_number, fitted, overall), this.events):
                fitted[spec] = finished_fit(this, spec, fitted)
                planner.learn(spec, fitted[spec], seconds)
                page.show(fitted, specs)
    fitted = {spec: fitted[spec] for spec in specs if spec in fitted}      # not in the order in which they ended
    planned = planner.outcome(fitted)
    if this.config.runtime.time_budget_hours:      # what was left out stays so when the run is started again
        this.run_stage(stage, lambda folder: write_json(folder / "plan.json", planned | {
            "fits": [[s.name, s.fold] for s in fitted]}))
        planned = read_json(stage.folder / "plan.json")
    for text in planned["dropped"]:
        this.warn(f"left out to stay in --time_budget: {text}")
    return fitted, planned


def planned_specs(this):
    """The FitSpecs of all rounds, in the order in which one device trains them."""
    return [spec for r in range(len(this.config.rounds)) for spec in round_specs(this.config, r)]


class Planner:
    """The fits of a run in order, planned anew before each one: only then is it known how long those before took."""

    def __init__(self, this, specs, metric, executor):
        self.this, self.metric, self.executor = this, metric, executor
        known = {backbone for backbone in {spec.backbone for spec in specs} if has_compute(this, backbone)}
        self.state = {spec: fit_state(this, spec) if spec.backbone in known else "to do" for spec in specs}
        self.works = {spec: work_of(this, spec) for spec in specs}
        to_do = [s for s in specs if self.state[s] != "done"]
        open_ = dict.fromkeys([*(s.backbone for s in to_do), *(t for s in to_do for t in self.works[s].teachers)])
        measured = this.config.runtime.measure or this.deadline < math.inf
        self.costs = find_costs(this, open_, executor, self.has_time_for) if measured else dict.fromkeys(open_, UNKNOWN)
        self.is_known, self.pace = measured, {}       # seconds over planned seconds, by backbone
        if executor.n_devices > 1 and this.deadline == math.inf:      # else what a budget leaves out must come last
            self.works = {work.spec: work for work in longest_first(self.works.values(), self.costs)}
        self.running = {}                             # {FitSpec: [planned seconds or steps, those done]}
        self.first = self.plan(list(self.works), {})
        self.start = time.perf_counter()

    def has_time_for(self, costs):
        """Whether more than one shortest fit of each of these backbones can still be done: else measuring further ones, which
        would be dropped first, is time lost."""
        first = {work.spec.backbone: work for work in reversed(self.works.values())}
        return sum(first[b].seconds(costs, first[b].floor_epochs) for b in costs) < self.this.seconds_left

    def plan(self, specs, fitted):
        """The Plan of those of the specs that are still to be done, of backbones whose costs are known."""
        typical = float(np.mean(list(self.pace.values()))) if self.pace else 1.0
        costs = {b: cost.scaled(self.pace.get(b, typical)) for b, cost in self.costs.items()}
        works = [self.works[s] for s in specs if s.backbone in costs and self.state[s] != "done" and s not in fitted]
        return make_plan(works, costs, self.this.seconds_left, weakest_first(self.this, fitted, self.metric), devices=Devices(
            self.executor.n_devices, {b: self.executor.share(cost.peak_memory_bytes) for b, cost in costs.items()},
            tuple((load - done, self.executor.share(self.works[s].peak_memory_bytes(self.costs)))
                  for s, (load, done) in self.running.items()) if self.is_known else ()),
            at_least_one=not fitted and not self.running and "done" not in self.state.values())

    def jobs(self, round_number, fitted, overall):
        """Jobs one by one, as an executor asks for them; what they do goes to the `overall` bar. A fit that was finished before
        is read at once."""
        specs, gone = list(self.works), set()
        for i, spec in enumerate(specs):
            if spec.round != round_number or spec.backbone in gone:
                continue
            title = f"fit {i + 1}/{len(specs)}"
            if before := finished_fit(self.this, spec, fitted):
                fitted[spec] = before
                self.this.events.say(f"{title} {spec.name} fold {spec.fold}: done before", event="reused",
                                     stage=before.result.folder.name)
                continue
            plan = self.plan(specs[i:], fitted)
            if spec not in plan.epochs and self.state[spec] != "done":
                gone.add(spec.backbone)      # with its later folds: a source lacks the last folds, never one between
                continue
            n_epochs = plan.epochs.get(spec, self.works[spec].n_epochs)
            if overall.is_hidden and self.is_known and fitted:
                self.this.events.say(f"{len(plan.epochs)} fit(s) to do in about {duration(plan.seconds)}")
            self.running[spec] = [self.load(spec, n_epochs), 0.0]
            overall.plan(sum(self.load(s, n) for s, n in plan.epochs.items() if s != spec) + sum(
                load - done for load, done in self.running.values()))
            seconds = self.this.seconds_left - self.works[spec].seconds(self.costs, 0)
            yield Job(spec, partial(run_fit, this=self.this, spec=spec, fitted=dict(fitted), n_epochs=n_epochs,
                                    seconds=seconds, title=title), f"{title} {spec.name} fold {spec.fold}",
                      self.works[spec].peak_memory_bytes(self.costs), partial(self.advance, spec, overall))

    def advance(self, spec, overall, share):
        load = self.running[spec]
        load[1] += share * load[0]
        overall.advance(share * load[0])

    def learn(self, spec, fitted, seconds):
        """A fit ended and took this long."""
        del self.running[spec]
        if self.state[spec] == "to do" and self.is_known:
            planned = self.works[spec].seconds(self.costs, len(fitted.result.epochs))
            self.pace[spec.backbone] = seconds / planned

    def load(self, spec, n_epochs):
        """How much of the overall bar a fit is: its planned seconds, or its steps where they are not known."""
        work = self.works[spec]
        return work.seconds(self.costs, n_epochs) if self.is_known else n_epochs * work.n_steps

    def describe(self):
        """The plan as a table."""
        names = {spec: f"{spec.name} fold {'all' if spec.fold is None else spec.fold}" for spec in self.works}
        width = max(map(len, names.values()))
        yield f"{'plan':<{width}}  state  epochs  seconds  peak memory"
        for spec, work in self.works.items():
            n_epochs = self.first.epochs.get(spec)
            if n_epochs is None:
                yield f"{names[spec]:<{width}}  {'done' if self.state[spec] == 'done' else 'left out'}"
                continue
            known = (f"{work.seconds(self.costs, n_epochs):>7.0f}  {work.peak_memory_bytes(self.costs) / 2**30:>7.1f} GiB"
                     if self.is_known else "")
            yield f"{names[spec]:<{width}}  {self.state[spec]:<5}  {n_epochs:>6}  {known}".rstrip()
        if self.is_known and self.first.epochs:
            alone = sum(self.load(s, n) for s, n in self.first.epochs.items())
            n = self.executor.n_devices
            side = f" with {n} {self.executor.kind}s, {duration(alone)} one after the other" if n > 1 else ""
            yield f"{len(self.first.epochs)} fit(s) to do in about {duration(self.first.seconds)}{side}"

    def outcome(self, fitted):
        """What was planned and what became of it."""
        n_epochs = {spec: len(done.result.epochs) for spec, done in fitted.items()}
        return {"budget_hours": self.this.config.runtime.time_budget_hours,
                "estimated_seconds": self.first.seconds if self.is_known else None,
                "seconds": time.perf_counter() - self.start,
                "dropped": list(differences(list(self.works.values()), n_epochs))}


def weakest_first(this, fitted, metric):
    """Backbones, the weakest first, as far as that is known: those of random weights beside pretrained ones, unless they have
    been scored; then the scored ones by their test-like score in fold 0 of round 0."""
    score = {spec.backbone: (scores := fold_scores(this, done, metric)).get("valid_testlike", scores["valid"])
             for spec, done in fitted.items() if (spec.round, spec.fold) == (0, 0)}
    random = [name for name, source in this.weights.items() if not source.is_pretrained and name not in score]
    behind = reversed(random) if len(random) < len(this.weights) else ()
    return [*behind, *sorted(score, key=lambda backbone: metric.sign * score[backbone])]


# ---------------------------------------------------------------- ensemble and result

def by_source(fits):
    """{source name: its Fitted over folds}, in the order they were trained."""
    groups = {}
    for spec, fitted in fits.items():
        groups.setdefault(spec.name, []).append((spec.fold, fitted))
    return groups


def common_folds(groups):
    """The folds that every source was trained on: with less time for some sources they may be fewer than for others."""
    return set.intersection(*({fold for fold, _ in members if fold is not None} for members in groups.values()))


def out_of_fold(members, split, of_folds):
    """{view: Predictions} over the valid images of these folds; clean ones where test-like would be equal."""
    folds = [f for fold, f in members if fold in of_folds]
    split = split if folds[0].has(split) else "valid"
    return joined([f.views(split) for f in folds], Predictions.concat)


def run_ensemble(this, fits, metric):
    """Blend on test-like out-of-fold rows; returns the scores, the table's rows and the blended test Predictions."""
    config, audit, groups = this.config, this.audit, by_source(fits)
    row = {sample: i for i, sample in enumerate(audit.train.sample_id.tolist())}
    stage = Stage.of(this.folder, "ensemble", version=4, settings=key_settings(config, "ensemble", "metric", "seed"),
                     inputs=[f.predict_stage.key for f in fits.values()])
    oof = {split: {name: out_of_fold(m, split, common_folds(groups)) for name, m in groups.items()}
           for split in ("valid", "valid_testlike")}
    ids = next(iter(next(iter(oof["valid"].values())).values())).sample_id.tolist()
    rows = [row[i] for i in ids]
    labels, folds = audit.train.label[rows], this.folds.fold[rows]
    stacked = {name: {view: p.align(ids) for view, p in views.items()} for name, views in oof["valid_testlike"].items()}
    parts = blend_parts(folds, seed_of(config.seed, "blend"))
    blend, nested, rounds = fit_rounds(stacked, {spec.name: spec.round for spec in fits}, labels, parts, metric,
                                       config.ensemble.method, config.ensemble.bootstrap_draws, seed_of(config.seed, "rounds"))
    for r in rounds:
        if not r.used:
            this.warn(f"round {r.round} is not used for the submission: with it the blend's {metric.name} out of fold changes "
                      f"by {r.change:+.4f} ({r.change_ci90[0]:+.4f} to {r.change_ci90[1]:+.4f}, larger is better), and a round "
                      "is left out where none of that interval is above 0")
    clean = blend.apply(oof["valid"]).align(ids)
    score = {}
    for name, probs in (("oof_clean", clean), ("oof_testlike", nested)):
        probs = nested_cut(metric, labels, probs, parts) if blend.cuts else probs
        score[name] = metric(labels, probs)
        score[f"{name}_ci90"] = bootstrap_ci90(metric, labels, probs, draws=config.ensemble.bootstrap_draws,
                                               seed=seed_of(config.seed, "bootstrap"))
    here, alike, there = by_confidence(this, groups, blend, nested, labels, folds, metric.with_cuts(blend.cuts))
    score |= expectation(score["oof_testlike"], score["oof_testlike_ci90"], here, alike, there, metric.limits)
    low, high = score["oof_testlike_ci90"]
    if not low <= score["expected"] <= high:
        surer = metric.sign * (there - alike) > 0
        this.warn(f"the models are {'more' if surer else 'less'} sure on the test images than on training images made like "
                  f"them, as if {metric.name} were {there - alike:+.3f} there: something about the test set is not matched")
    test = blend.apply({name: joined([f.views("test") for _, f in members], Predictions.mean)
                        for name, members in groups.items()}) if len(audit.test) else None

    def build(folder):
        write_json(folder / "blend.json", blend)
        for name, probs in (("oof_clean", clean), ("oof_testlike", normalized(nested).astype(np.float32))):
            Predictions(np.array(ids), probs, audit.train.classes, "valid", tuple(groups)).save(folder / f"{name}.npz")
        if test:
            test.save(folder / "test.npz")

    this.run_stage(stage, build)
    table = [source_row(name, members, blend, stacked[name], labels, folds, metric) for name, members in groups.items()]
    return {"score": score, "blend": blend, "table": table, "test": test, "folder": stage.folder, "rounds": [
        r._asdict() | {"distillation": config.rounds[r.round].alpha} | pseudo_labels(fits, r.round, audit.train.classes)
        for r in rounds]}


def pseudo_labels(fits, round_number, classes):
    """{"pseudo_labels": {class: how many test images were taught as it, mean over folds}, "agreement": share of those taught in
    the round before too that have the same class, None where there are none}. All fits of a fold are taught the same."""
    taught, before = ({spec.fold: load_pseudo_labels(f.result.folder / PSEUDO_LABELS) for spec, f in fits.items()
                       if spec.round == number} for number in (round_number, round_number - 1))
    counts = Counter(label for labels in taught.values() for label in labels.values())
    same = [labels[i] == before[fold][i] for fold, labels in taught.items() if fold in before
            for i in labels.keys() & before[fold].keys()]
    return {"pseudo_labels": {c: counts[c] / len(taught) for c in classes} if counts else {},
            "agreement": float(np.mean(same)) if same else None}


def source_row(name, members, blend, views, labels, folds, metric):
    """The SourceRow of a source by its test-like out-of-fold {view: probs (n, C)}."""
    kept = blend.views[name]
    probs = mean_of(views, kept)
    each = [metric(labels[folds == k], probs[folds == k]) for k in np.unique(folds)]
    return report.SourceRow(
        name, sum(fold is not None for fold, _ in members), metric(labels, probs),
        float(np.std(each, ddof=1)) if len(each) > 1 else 0.0, blend.weights[name], len(kept),
        tuple(v for v in views if v not in kept), blend.left_out.get(name, ""), sum(f.result.seconds for _, f in members))


def by_confidence(this, groups, blend, nested, labels, folds, metric):
    """`metrics.confident_scores` on test-like rows and on the test images, as each fold's own models see them; without
    test images the score of the rows twice."""
    if not len(this.audit.test):
        return (metric(labels, nested),) * 3
    scores = []
    for fold in np.unique(folds):
        test = blend.apply({name: fitted.views("test") for name, members in groups.items()
                            for number, fitted in members if number == fold})
        scores.append(confident_scores(metric, labels[folds == fold], nested[folds == fold], test.probs,
                                       seed=seed_of(this.config.seed, "confidence", int(fold))))
    return tuple(np.mean(scores, axis=0).tolist())


def expectation(score, ci90, here, alike, there, limits):
    """Two estimates averaged: the test-like score moved by how much surer the models are on the test images (`there`, in
    scores) than on those rows (`here`), and `there` itself. The interval holds both, as wide as the score's around each.

    alike: what rows like those would give if they were as many as the test images. All within what the metric can be, its
    `limits`.
    """
    moved = score + there - here
    values = np.clip([(moved + there) / 2, min(score + alike - here, moved, there) + ci90[0] - score,
                      max(score + alike - here, moved, there) + ci90[1] - score], *limits).tolist()
    return {"by_confidence": there, "confidence_shift": there - alike, "expected": values[0], "expected_ci90": values[1:]}


def blend_parts(folds, seed):
    """What the blend is nested over: the folds, or five random parts of a single fold's rows."""
    if len(np.unique(folds)) > 1:
        return folds
    return np.random.default_rng(seed).permutation(len(folds)) % 5


def conclude(this, fits, planned, results, metric, answers, timer, page):
    """Write the submission, the result files and the page; returns final_results.json's content."""
    config, folder, audit, score, shift = this.config, this.folder, this.audit, results["score"], this.shift.to_json()
    submission, form = "", this.contest.form
    (folder / RESULTS_MANIFEST).unlink(missing_ok=True)
    if form.ids:
        prior = np.bincount(audit.train.label, minlength=len(audit.train.classes)) / len(audit.train)
        probs = probs_of_ids(form.ids, results["test"], prior)
        rows = form.rows(metric.cut(probs, results["blend"].cuts))
        submission = f"submission_{folder.name}.csv"
        form.write(rows, folder / submission)
        if answers:
            score["test"] = score_against(form, rows, answers, metric)
    all_fits = [(f.result, fold_scores(this, f, metric)) for f in fits.values()]
    report.training_results(config, all_fits, folder / "training_results.json")
    final = {"mode": config.mode, "experiment_name": folder.name, "metric": metric.name,
             "better": "larger" if metric.sign > 0 else "smaller",
             "classes": list(audit.train.classes), "n_fits": len(fits), "seconds": timer.seconds,
             "peak_memory_bytes": max(f.peak_memory_bytes for f, _ in all_fits), "submission": submission, "score": score,
             "plan": planned, "rounds": results["rounds"], "blend": results["blend"],
             "sources": [row._asdict() for row in results["table"]],
             "shift": {k: shift[k] for k in ("policy", "auc_before", "auc_after")},
             "warnings": this.warnings}
    write_json(folder / "final_results.json", final)
    write_predictor(this, best_first(this, fits, results, metric), results["blend"], metric)
    page.show(fits, list(fits), final, results)
    names = [*([submission] if submission else []), "final_results.json", "training_results.json", PREDICTOR]
    write_manifest(folder / RESULTS_MANIFEST, [*(folder / name for name in names), *folder.rglob(MANIFEST)])
    this.events.record("scores", **score)
    for line in report.closing_lines(final, results["table"], folder):
        this.events.say(line, event="result")
    return final


def best_first(this, fits, results, metric):
    """{FitSpec: Fitted} of those that the blend uses, the best single one first: of the best source, the refit on all labelled
    images, or else the fold with the best score on its own valid images."""
    score = {row.name: row.score for row in results["table"]}

    def goodness(spec):
        own = fold_scores(this, fits[spec], metric)
        return metric.sign * score[spec.name], spec.fold is None, metric.sign * own.get("valid_testlike", own.get("valid", 0))

    used = [spec for spec in fits if results["blend"].weights[spec.name] > 0]
    return {spec: fits[spec] for spec in sorted(used, key=goodness, reverse=True)}


def score_against(form, rows, answers, metric):
    """The score of the submission's rows, as they are written, where the answers {id: class value} are known."""
    labels = np.array([form.classes.index(answers[sample]) for sample in form.ids])
    return metric(labels, form.probs(rows))
