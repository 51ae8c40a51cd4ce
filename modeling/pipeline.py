"""The stages of a run, in order. Modes, folds and rounds are values in the Config; nothing here asks which mode it is.

audit -> shift -> folds -> for each round x backbone x seed x fold: targets -> fit -> predict -> ensemble -> report
"""
import contextlib
import importlib.metadata as metadata
import os
import platform
import shlex
import sys
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
from modeling.blend import run_ensemble
from modeling.compute import Compute, pick_device, precisions
from modeling.costs import look
from modeling.executor import make_executor
from modeling.fits import Run, allowed_rounds, finished_fit, fold_scores, round_specs
from modeling.groups import make_groups, named_classes
from modeling.metrics import find_metric
from modeling.network import WeightsSource, build_network, fetch_weights, find_weights, fused, weights_digest, with_padding
from modeling.page import Page, is_non_commercial
from modeling.planner import Planner, planned_specs
from modeling.predictor import NAME as PREDICTOR
from modeling.predictor import write_predictor
from modeling.shift import FEWEST, ShiftReport, match_shift
from modeling.trackers import tracker
from modeling.train import seed_everything
from submission import probs_of_ids
from utils import (
    MANIFEST,
    EventLog,
    Overall,
    Stage,
    Timer,
    UserError,
    exclusive,
    keep_freed_memory,
    need_space,
    no_bars,
    plain,
    read_json,
    seed_of,
    usable_cores,
    write_json,
    write_manifest,
)

CACHE_FACTOR = 1.25      # cached images are this much larger than the network's input, for zooms and turns
PROBE_SIZE_PX = 128      # input where pretrained features are used as they are: to measure the shift and the padding
PROBE_IMAGES = 64
# of a time budget: for starting, blending and the report
RESERVE_SECONDS = 12
RESERVE_SHARE = 0.03
RESULTS_MANIFEST = "results_manifest.json"     # of the result files and of all stages' manifests, for --verify
PREDICTIONS = {"out_of_fold": "oof_testlike", "out_of_fold_clean": "oof_clean", "test": "test"}      # files of the blend
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
        if device.type == "mps" and config.runtime.engine == "ray":
            raise UserError("--engine ray starts a fit on each core, and they cannot share this machine's one GPU (mps): use "
                            "--engine local, or --device cpu")
        machine = min(executor.survey(partial(look, config.runtime.device)), key=lambda m: m["gpu_memory_bytes"])
        metric = find_metric(config.metric, contest.form.has_class_columns)
        config = resolve(config, gpu_memory_bytes=machine["gpu_memory_bytes"], n_train=len(contest.train), metric=metric.name)
        contest = contest.for_metric(metric)
        named_classes(config.augment.groups, contest.train.classes)
        weights = {name: find_weights(name, config.runtime.weights_dir, config.model.pretrained)
                   for name in config.model.backbones}
        folder = Path(folder)
        with exclusive(folder), tracker("none" if dry_run else config.runtime.tracker, folder) as track:
            events = EventLog(os.devnull if dry_run else folder / "events.jsonl",
                              events=QUIET_EVENTS if config.runtime.quiet else None, also=track)
            this = Run(config, contest, folder, events, device, weights, {}, command=shlex.join(command), machine={
                **machine, "cores": executor.cores, "workers": config.runtime.workers})
            if config.runtime.time_budget_hours:
                budget_seconds = 3600 * config.runtime.time_budget_hours
                this.deadline = timer.start + budget_seconds - RESERVE_SECONDS - RESERVE_SHARE * budget_seconds
            if not dry_run:
                begin(this, data_path)
            introduce(this, metric)
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


def begin(this, data_path):
    """Keep what was asked and where it runs: config.json, environment.json, the first event."""
    warn_of_another(this, data_path)
    write_json(this.folder / "config.json", this.config)
    write_json(this.folder / "environment.json", environment() | {"data_path": str(Path(data_path).resolve())})
    this.events.record("start", mode=this.config.mode, argv=sys.argv[1:], command=this.command, data_path=str(data_path))


def warn_of_another(this, data_path):
    """Say so where the folder holds the run of another contest folder, or a finished one of other settings: its submission and
    page will be replaced."""
    before, settings = (kept(this.folder / name) for name in ("environment.json", "config.json"))
    if before and before.get("data_path") != str(Path(data_path).resolve()):
        what = f"on {before.get('data_path')}"
    elif settings and kept(this.folder / "final_results.json") and (changed := changed_settings(settings, plain(this.config))):
        what = f"with other settings ({', '.join(changed)})"
    else:
        return
    this.warn(f"{this.folder} holds a run {what}, whose submission and report are replaced: use another --experiment_name to "
              "keep both")


def kept(path):
    """What a JSON file of a run holds; {} in a new folder, or where someone changed it."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def changed_settings(before, now):
    """Names of the settings, or of their section, that change what a run finds."""
    def deciding(settings):      # of the runtime's only the time budget
        return settings | {"runtime": settings.get("runtime", {}).get("time_budget_hours")}

    before = deciding(before)
    now = deciding(now)
    return ["--time_budget" if key == "runtime" else key for key in now if now[key] != before.get(key)]


def introduce(this, metric):
    """Say what was understood, what will be done and where weights come from."""
    config = this.config
    for line in this.contest.describe(metric, config.metric != "auto"):
        this.events.say(line)
    refit = " and a refit" * config.ensemble.refit
    n_fits = sum(len(round_specs(config, k)) for k in range(len(config.rounds)))
    this.events.say(f"{config.mode}: {len(config.model.backbones)} backbone(s) x {config.data.run_folds} fold(s){refit} x "
                    f"{len(config.rounds)} round(s) = {n_fits} fits of {config.optim.epochs} epochs at "
                    f"{config.data.image_size_px} px, batch {config.optim.batch_size}, on {this.machine['device']}")
    for source in this.weights.values():
        this.events.say(f"weights: {source.describe()}")
    random = [s.model_name for s in this.weights.values() if not s.is_pretrained]
    if random and config.model.pretrained != "off":
        files = ", ".join(f"{name}.safetensors or .pth" for name in random)
        given = config.runtime.weights_dir
        this.warn(f"{', '.join(random)} start(s) from RANDOM WEIGHTS and will score far lower: put {files} into "
                  + (f"{given}, where none was found" if given else "a folder and pass it as --weights_dir"))
    for source in this.weights.values():
        if source.is_pretrained and is_non_commercial(source.licence):
            this.warn(f"NOT FOR COMMERCIAL USE: the weights of {source.model_name} are licensed {source.licence}")
    for problem in this.contest.problems:
        this.warn(problem.text)


# ---------------------------------------------------------------- the plan before a run

class NoiseImages:
    """n noise images in place of a PixelStore, for timing."""

    def __init__(self, n, side_px):
        self.n = n
        self.image = np.random.default_rng(0).integers(256, size=(side_px * 3 // 4, side_px, 3), dtype=np.uint8)

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return self.image

    def take(self, rows):
        return NoiseImages(len(rows), self.image.shape[1])


def print_plan(this, metric, executor):
    """--dry_run: every fit with its state, epochs, seconds and memory. What is not done yet is timed on noise images.

    Of the run's folder it changes nothing but what is kept of the timing.
    """
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
    for line in Planner(this, specs_left(this), metric, executor, is_asked=True).describe():
        this.events.say(line, event="result")


def rehearse(this):
    """Fill a Run as if its first stages were done: no image read, no shift known, no weights loaded."""
    contest = this.contest
    side_px = cache_side_px(this.config)
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
    return Stage.of(this.folder, "audit", version=3, settings=settings, inputs=contest_digests(this.contest, this.workers))


def cache_side_px(config):
    return round(config.data.image_size_px * CACHE_FACTOR)


def run_audit(this):
    stage = audit_stage(this)
    contest = this.contest
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
    config = this.config
    source = pretrained_source(this)
    settings = {"reads_test": reads_test(this), "seed": config.seed, "augment": config.augment.policy != "none",
                "groups": config.augment.groups}
    return Stage.of(this.folder, "shift", version=7, settings=settings,
                    inputs=[this.keys["audit"], this.digests[source.model_name] if source else "none"])


def run_shift(this):
    """Measure how test images differ and match it; with `data.test_usage=none` training images are measured alone."""
    config = this.config
    audit = this.audit
    stage = shift_stage(this)
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
    elif this.shift.trained_share < 1:
        this.warn("training images with the measured distortions are still told from test images (AUC "
                  f"{this.shift.auc_after['value']:.2f}), so that only {this.shift.trained_share:.0%} of those trained on have "
                  "them: compare the strips of images in report.html, and the score with --set augment.policy=standard")


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
    square = plain_view(PROBE_SIZE_PX, "letterbox")
    autocast = Compute(precisions(this.device)[-1]).autocast(this.device)

    @torch.inference_mode()
    def embed(images):
        def rows(batch):
            squares = torch.from_numpy(np.stack([square(image) for image in batch])).permute(0, 3, 1, 2)
            with autocast():
                return network.features(squares.to(this.device)).float().cpu().numpy()

        return np.concatenate([rows(images[i:i + 32]) for i in range(0, len(images), 32)])

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
    config = this.config
    square = plain_view(PROBE_SIZE_PX, "crop")
    rows = np.random.default_rng(seed_of("probe")).permutation(len(this.audit.train))[:PROBE_IMAGES]
    images = np.stack([square(this.audit.train_pixels[row]) for row in rows]).transpose(0, 3, 1, 2)
    for name, source in this.weights.items():
        source = fetch_weights(source)
        this.weights[name] = with_padding(source, torch.from_numpy(images.copy()), PROBE_SIZE_PX, config.model)
        this.digests[name] = weights_digest(source)
        if this.weights[name].pad_type:
            this.events.say(f"weights: {name} was trained with '{this.weights[name].pad_type}' padding, by its batch norms")


# ---------------------------------------------------------------- fits

def plan_stage(this):
    """What a time budget left out of a run that ended, and leaves out when it is started again."""
    return Stage.of(this.folder, "plan", version=1, inputs=[this.keys["folds"], this.keys["shift"]], settings=[
        this.config.runtime.time_budget_hours, key_settings(this.config, *BUDGETED)])


def specs_left(this):
    """The FitSpecs of all rounds but what `plan_stage` has left out."""
    specs = planned_specs(this)
    stage = plan_stage(this)
    if not stage.is_done:
        return specs
    chosen = read_json(stage.folder / "plan.json")["fits"]
    return [s for s in specs if [s.name, s.fold] in chosen]


def run_rounds(this, metric, page, executor):
    """({FitSpec: Fitted} of all rounds, what was planned); each round reads only the rounds before it."""
    specs = specs_left(this)
    stage = plan_stage(this)
    planner = Planner(this, specs, metric, executor)
    for line in planner.describe():
        this.events.say(line)
    need_space(this.folder, planner.needed_bytes, f"{len(planner.first.epochs)} fit(s)")
    page.show({}, specs)
    fitted = {}
    width = max(len(f"fit {len(specs)}/{len(specs)} {spec.title}") for spec in specs)
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


# ---------------------------------------------------------------- the result

def conclude(this, fits, planned, results, metric, answers, timer, page):
    """Write the submission, the result files and the page; returns final_results.json's content."""
    config = this.config
    folder = this.folder
    audit = this.audit
    score = results["score"]
    shift = this.shift.to_json()
    submission = ""
    form = this.contest.form
    (folder / RESULTS_MANIFEST).unlink(missing_ok=True)
    if form.ids:
        prior = np.bincount(audit.train.label, minlength=len(audit.train.classes)) / len(audit.train)
        probs = probs_of_ids(form.ids, results["test"], prior)
        rows = form.rows(metric.cut(probs, results["blend"].cuts))
        submission = f"submission_{folder.name}.csv"
        form.write(rows, folder / submission)
        if answers:
            score["test"] = score_against(form, rows, answers, metric)
    else:
        (folder / f"submission_{folder.name}.csv").unlink(missing_ok=True)      # of a run that had test images
    all_fits = [(f.result, fold_scores(this, f, metric)) for f in fits.values()]
    report.training_results(config, all_fits, folder / "training_results.json")
    final = {"mode": config.mode, "experiment_name": folder.name, "metric": metric.name,
             "better": "larger" if metric.sign > 0 else "smaller",
             "classes": list(audit.train.classes), "n_fits": len(fits), "seconds": timer.seconds,
             "peak_memory_bytes": max(f.peak_memory_bytes for f, _ in all_fits), "submission": submission, "score": score,
             "predictions": {split: f"{results['folder'].name}/{name}.npz" for split, name in PREDICTIONS.items()
                             if (results["folder"] / f"{name}.npz").exists()},
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
