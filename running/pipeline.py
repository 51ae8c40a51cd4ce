"""The stages of a run, in order. Modes, folds and rounds are values in the Config; nothing here
asks which mode it is.

audit -> shift -> folds -> for each round x backbone x seed x fold: targets -> fit -> predict ->
ensemble -> report
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

import numpy as np
import torch

from config import resolve
from contest.intake import read_contest
from contest.submission import probs_of_ids
from ensemble.metrics import find_metric
from ensemble.scores import fold_scores, run_ensemble
from modeling.compute import pick_device
from modeling.weights import find_weights
from reporting import summary
from reporting.page import Page, is_non_commercial
from running.costs import machine_facts
from running.executor import make_executor
from running.planner import Planner, plan_stage, specs_left
from running.predictor import NAME as PREDICTOR
from running.predictor import write_predictor
from running.preparing import run_audit, run_folds, run_shift, run_weights
from running.rehearsal import print_plan
from running.run import Run, allowed_rounds, finished_fit, round_specs
from running.trackers import tracker
from shift.groups import named_classes
from system.log import EventLog, Overall, Timer, no_bars
from system.machine import keep_freed_memory, need_space, usable_cores
from system.stages import MANIFEST, exclusive, write_manifest
from utils import UserError, plain, read_json, write_json

# of a time budget: for starting, blending and the report
RESERVE_SECONDS = 12
RESERVE_SHARE = 0.03
# of the result files and of all stages' manifests, for --verify
RESULTS_MANIFEST = "results_manifest.json"
# files of the blend
PREDICTIONS = {"out_of_fold": "oof_testlike", "out_of_fold_clean": "oof_clean", "test": "test"}
QUIET_EVENTS = ("warning", "result")      # whose sentences --quiet leaves


def run(config, data_path, folder, answers=None, dry_run=False, command=()):
    """From a contest folder to a submission; returns the content of final_results.json.

    answers: {id: class value} of the test images where they are known (the embedded contest), for
    the last number only. command: what was typed, word by word, for the record.
    """
    keep_freed_memory()
    with (Timer() as timer, no_bars(config.runtime.quiet),
          make_executor(config.runtime.engine, folder, config.runtime.device) as executor):
        contest = read_contest(data_path, config.data)
        device = pick_device(config.runtime.device)
        if device.type == "mps" and config.runtime.engine == "ray":
            raise UserError(
                "--engine ray starts a fit on each core, and they cannot share this machine's one GPU (mps): use "
                "--engine local, or --device cpu"
            )
        machine = min(executor.survey(partial(machine_facts, config.runtime.device)),
                      key=lambda m: m["gpu_memory_bytes"])
        metric = find_metric(config.metric, contest.form.has_class_columns)
        config = resolve(config, gpu_memory_bytes=machine["gpu_memory_bytes"],
                         n_train=len(contest.train), metric=metric.name)
        contest = contest.for_metric(metric)
        named_classes(config.augment.groups, contest.train.classes)
        weights = {name: find_weights(name, config.runtime.weights_dir, config.model.pretrained)
                   for name in config.model.backbones}
        folder = Path(folder)
        with exclusive(folder), tracker("none" if dry_run else config.runtime.tracker,
                                        folder) as track:
            events = EventLog(os.devnull if dry_run else folder / "events.jsonl",
                              events=QUIET_EVENTS if config.runtime.quiet else None, also=track)
            this = Run(config, contest, folder, events, device, weights, {},
                       command=shlex.join(command), machine={**machine, "cores": executor.cores,
                                                             "workers": config.runtime.workers})
            if config.runtime.time_budget_hours:
                budget_seconds = 3600 * config.runtime.time_budget_hours
                this.deadline = (
                    timer.start + budget_seconds - RESERVE_SECONDS - RESERVE_SHARE * budget_seconds
                )
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
    packages = ("torch", "torchvision", "timm", "albumentations", "numpy", "scikit-learn",
                "opencv-python-headless", "pillow", "safetensors")
    return {"python": sys.version.split()[0], "platform": platform.platform(),
            "cores": usable_cores(), "gpu": torch.cuda.get_device_name()
            if torch.cuda.is_available() else None,
            "packages": {p: metadata.version(p) for p in packages}}


def begin(this, data_path):
    """Keep what was asked and where it runs: config.json, environment.json, the first event."""
    warn_of_another(this, data_path)
    write_json(this.folder / "config.json", this.config)
    write_json(this.folder / "environment.json",
               environment() | {"data_path": str(Path(data_path).resolve())})
    this.events.record("start", mode=this.config.mode, argv=sys.argv[1:], command=this.command,
                       data_path=str(data_path))


def warn_of_another(this, data_path):
    """Say so where the folder holds the run of another contest folder, or a finished one of other
    settings: its submission and page will be replaced."""
    before, settings = (kept(this.folder / name) for name in ("environment.json", "config.json"))
    if before and before.get("data_path") != str(Path(data_path).resolve()):
        what = f"on {before.get('data_path')}"
    elif (
        settings
        and kept(this.folder / "final_results.json")
        and (changed := changed_settings(settings, plain(this.config)))
    ):
        what = f"with other settings ({', '.join(changed)})"
    else:
        return
    this.warn(
        f"{this.folder} holds a run {what}, whose submission and report are replaced: use another --experiment_name to "
        "keep both"
    )


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
    return ["--time_budget" if key == "runtime" else key for key in now
            if now[key] != before.get(key)]


def introduce(this, metric):
    """Say what was understood, what will be done and where weights come from."""
    config = this.config
    for line in this.contest.describe(metric, config.metric != "auto"):
        this.events.say(line)
    refit = " and a refit" * config.ensemble.refit
    n_fits = sum(len(round_specs(config, k)) for k in range(len(config.rounds)))
    this.events.say(
        f"{config.mode}: {len(config.model.backbones)} backbone(s) x {config.data.run_folds} fold(s){refit} x "
        f"{len(config.rounds)} round(s) = {n_fits} fits of {config.optim.epochs} epochs at "
        f"{config.data.image_size_px} px, batch {config.optim.batch_size}, on {this.machine['device']}"
    )
    for source in this.weights.values():
        this.events.say(f"weights: {source.describe()}")
    random = [s.model_name for s in this.weights.values() if not s.is_pretrained]
    if random and config.model.pretrained != "off":
        files = ", ".join(f"{name}.safetensors or .pth" for name in random)
        given = config.runtime.weights_dir
        this.warn(
            f"{', '.join(random)} start(s) from RANDOM WEIGHTS and will score far lower: put {files} into "
            + (
                f"{given}, where none was found"
                if given
                else "a folder and pass it as --weights_dir"
            )
        )
    for source in this.weights.values():
        if source.is_pretrained and is_non_commercial(source.licence):
            this.warn(
                f"NOT FOR COMMERCIAL USE: the weights of {source.model_name} are licensed {source.licence}"
            )
    for problem in this.contest.problems:
        this.warn(problem.text)


def run_rounds(this, metric, page, executor):
    """({FitSpec: Fitted} of all rounds, what was planned); each round reads only the rounds before
    it."""
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
            for spec, seconds in executor.run(planner.jobs(round_number, fitted, overall),
                                              this.events):
                fitted[spec] = finished_fit(this, spec, fitted)
                planner.learn(spec, fitted[spec], seconds)
                page.show(fitted, specs)
    # not in the order in which they ended
    fitted = {spec: fitted[spec] for spec in specs if spec in fitted}
    planned = planner.outcome(fitted)
    # what was left out stays so when the run is started again
    if this.config.runtime.time_budget_hours:
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
        prior = np.bincount(audit.train.label,
                            minlength=len(audit.train.classes)) / len(audit.train)
        probs = probs_of_ids(form.ids, results["test"], prior)
        rows = form.rows(metric.cut(probs, results["blend"].cuts))
        submission = f"submission_{folder.name}.csv"
        form.write(rows, folder / submission)
        if answers:
            score["test"] = score_against(form, rows, answers, metric)
    else:
        # of a run that had test images
        (folder / f"submission_{folder.name}.csv").unlink(missing_ok=True)
    all_fits = [(f.result, fold_scores(this, f, metric)) for f in fits.values()]
    summary.training_results(config, all_fits, folder / "training_results.json")
    final = {"mode": config.mode, "experiment_name": folder.name, "metric": metric.name,
             "better": "larger" if metric.sign > 0 else "smaller",
             "classes": list(audit.train.classes), "n_fits": len(fits), "seconds": timer.seconds,
             "peak_memory_bytes": max(f.peak_memory_bytes for f, _ in all_fits),
             "submission": submission, "score": score,
             "predictions": {split: f"{results['folder'].name}/{name}.npz" for split,
                             name in PREDICTIONS.items()
                             if (results["folder"] / f"{name}.npz").exists()}, "plan": planned,
             "rounds": results["rounds"], "blend": results["blend"],
             "sources": [row._asdict() for row in results["table"]],
             "shift": {k: shift[k] for k in ("policy", "auc_before", "auc_after")},
             "warnings": this.warnings}
    write_json(folder / "final_results.json", final)
    write_predictor(this, best_first(this, fits, results, metric), results["blend"], metric)
    page.show(fits, list(fits), final, results)
    names = [*([submission] if submission else []), "final_results.json", "training_results.json",
             PREDICTOR]
    write_manifest(folder / RESULTS_MANIFEST, [*(folder / name for name in names),
                                               *folder.rglob(MANIFEST)])
    this.events.record("scores", **score)
    for line in summary.closing_lines(final, results["table"], folder):
        this.events.say(line, event="result")
    return final


def best_first(this, fits, results, metric):
    """{FitSpec: Fitted} of those that the blend uses, the best single one first: of the best
    source, the refit on all labelled images, or else the fold with the best score on its own valid
    images."""
    score = {row.name: row.score for row in results["table"]}

    def goodness(spec):
        own = fold_scores(this, fits[spec], metric)
        return metric.sign * score[spec.name], spec.fold is None, metric.sign * own.get(
            "valid_testlike", own.get("valid", 0))

    used = [spec for spec in fits if results["blend"].weights[spec.name] > 0]
    return {spec: fits[spec] for spec in sorted(used, key=goodness, reverse=True)}


def score_against(form, rows, answers, metric):
    """The score of the submission's rows, as they are written, where the answers {id: class value}
    are known."""
    labels = np.array([form.classes.index(answers[sample]) for sample in form.ids])
    return metric(labels, form.probs(rows))
