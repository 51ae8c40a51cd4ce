"""The stages of a run, in order. Nothing here asks for the mode: modes, folds, rounds are values.

audit -> weights -> shift -> folds -> members that are not trained -> for each round x fold x
backbone: fit, predict -> blend -> submission and report
"""
import contextlib
import math
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from huggingface_hub import constants as hub_constants

from config import resolve, with_host_folds
from contest.intake import read_contest
from ensemble.scores import FoldScores, blended
from ensemble.tasks import TASKS
from modeling.compute import pick_device
from reporting.page import Page
from reporting.runs import write_index
from reporting.summary import closing_lines
from running.conclusion import conclude, first_look
from running.costs import machine_facts
from running.executor import CODE, make_executor
from running.first import affordable, frozen_stages, members_of
from running.forecast import forecast
from running.heatmaps import HeatMaps
from running.hurry import hurried
from running.introduction import begin, introduce
from running.makers import stages_used, warn_of_other_versions
from running.members import member_fits
from running.networks import with_networks
from running.planner import Planner, nothing_planned, plan_stage, specs_left
from running.preparing import prepare
from running.rehearsal import print_plan
from running.run import Setup, usable
from running.text import refuse_without_readers, with_text, words_shown
from running.threads import same_threads_after, settle_threads
from running.trackers import tracker
from shift.groups import named_classes
from system.command import TYPED
from system.log import EventLog, Overall, Timer, no_bars
from system.machine import keep_freed_memory, need_space
from system.privacy import ShortPaths
from system.stages import exclusive, make
from utils import RunError, UserError, read_json, write_json

# of a time budget, for starting, blending and the report
RESERVE_SECONDS = 12
RESERVE_SHARE = 0.03
QUIET_EVENTS = ("warning", "result")      # whose sentences --quiet leaves


def run(config, data_path, folder, answers=None, dry_run=False, command=(), ends_by=math.inf):
    """From a contest folder to a submission; returns the content of final_results.json, or {"plan":
    lines} of a dry run.

    answers: {id: class value} of the test images where they are known (the embedded contest), for
    the last number only. command: what was typed, word by word, for the record. ends_by: when the
    run should have ended, by time.perf_counter(): it trains for as many epochs as that leaves.
    """
    keep_freed_memory()
    with (Timer() as timer, no_bars(is_silent(config)), same_threads_after(),
          executor_of(config, folder) as executor):
        setup = understand(config, data_path, Path(folder), executor, timer.start, command)
        setup = replace(setup, ends_by=ends_by)
        with exclusive(setup.folder), opened_log(setup, dry_run) as log:
            if dry_run:
                introduce(setup, log)
                return print_plan(setup, executor, log)

            begin(setup, data_path, log)
            introduce(setup, log)
            forecast(setup, log)
            prepared = prepare(setup, log)
            scores = FoldScores(prepared.label_of, setup.metric)
            settle_threads(setup, prepared, log)
            prepared = with_text(setup, prepared, executor.cores, log)
            untrained, first = first_of_all(setup, prepared, executor, log, answers)
            known = None
            if setup.ends_by < math.inf and specs_left(prepared):
                prepared, known = hurried(setup, prepared, executor, log)
            page = Page(setup, prepared, scores, log)
            page.first = first
            trained, planned = run_rounds(setup, prepared, executor, scores, page, untrained, log,
                                          known)
            fits = untrained | trained
            result = blended(prepared, setup.metric, kept_fits(fits), log)
            final = conclude(setup, prepared, fits, result, scores, log, answers=answers,
                             planned=planned, seconds=timer.seconds)
            page.texts = words_shown(prepared, usable(fits), result.blend, log)
            page.seen = HeatMaps(setup, prepared, usable(fits), result.blend, log)
            page.show(fits, list(fits), final, result)
            list_runs(setup.folder.parent, log)
            (setup.folder / TYPED).unlink(missing_ok=True)
            lines = closing_lines(final, result.table, setup.folder)
            for number, line in enumerate(lines):
                log.say(line, event="result", above="" if number else "\n")
            return final


def is_silent(config):
    """Whether no bars are shown."""
    return config.runtime.quiet or config.runtime.json


def list_runs(results_dir, log):
    """Write the page of all runs. One that cannot be written never ends a run."""
    try:
        write_index(results_dir)
    except Exception as error:      # whatever is wrong with other runs, this one is done
        log.say(f"warning: index.html could not be written ({type(error).__name__}: {error})",
                event="warning")


def kept_fits(fits):
    """The fits that the blend is made of. RunError if all of {FitSpec: Fitted} were given up."""
    kept = {spec: done for spec, done in usable(fits).items() if spec.fold is not None}
    if not kept:
        peak = min(done.result.restarts[-1].peak for done in fits.values() if done.result.restarts)
        raise RunError(
            "no fit has learnt anything, the last ones at a peak learning rate of "
            f"{peak:.1e}: look at the images and labels in report.html, then use "
            f"--set optim.lr={peak / 10:.1e}, or other backbones by --set model.backbones=NAME")
    return usable(fits)


def executor_of(config, folder):
    """The executor of a run, as a context."""
    return make_executor(config.runtime.engine, folder, config.runtime.device)


@contextlib.contextmanager
def opened_log(setup, dry_run):
    """The run's log, which also feeds a tracker; a dry run leaves none."""
    runtime = setup.config.runtime
    with tracker("none" if dry_run else runtime.tracker, setup.folder) as track:
        path = os.devnull if dry_run else setup.folder / "events.jsonl"
        yield EventLog(path, events=QUIET_EVENTS if runtime.quiet else None, also=track,
                       short=setup.short, as_json=runtime.json)


def understand(config, data_path, folder, executor, start, command):
    """The Setup of a run. start: when it began, by time.perf_counter().

    UserError for anything that can be wrong before an image is read.
    """
    contest = read_contest(data_path, config.data)
    runtime = config.runtime
    device = pick_device(runtime.device)
    if device.type == "mps" and runtime.engine == "ray":
        raise UserError("--engine ray starts a fit on each core, and they cannot share this "
                        "machine's one GPU (mps): use --engine local, or --device cpu")
    machines = executor.survey(partial(machine_facts, runtime.device))
    machine = min(machines, key=lambda facts: facts["gpu_memory_bytes"])
    task = TASKS[contest.train.task]
    metric = task.find_metric(config.metric, contest.form.has_class_columns)
    config, adapted = task.adapt(config)
    config = with_host_folds(config, contest.train.n_host_folds)
    config = resolve(config, gpu_memory_bytes=machine["gpu_memory_bytes"],
                     n_train=len(contest.train), metric=metric.name)
    contest = contest.for_metric(metric)
    named_classes(config.augment.groups, contest.train.classes)
    refuse_without_readers(config.model)
    networks = with_networks(config, len(contest.train), len(contest.test))
    return Setup(networks.config, contest, metric, folder, device,
                 machine={**machine, "cores": executor.cores, "workers": runtime.workers},
                 weights=networks.weights, instead_of=networks.instead_of,
                 too_long=networks.too_long, command=shlex.join(command),
                 deadline=deadline_of(runtime, start),
                 short=short_paths(runtime, folder.parent, contest.folder, data_path,
                                   config.data.label_fixes or "."),
                 adapted=(*adapted, *networks.left_out))


def short_paths(runtime, *folders):
    """The ShortPaths of a run. folders: of all runs, and of the contest, also as it was typed."""
    if runtime.record_paths:
        return ShortPaths()
    here = [Path.home(), Path.cwd(), CODE, tempfile.gettempdir(), sys.prefix]
    return ShortPaths([*folders, runtime.weights_dir or ".", hub_constants.HF_HUB_CACHE,
                       *(Path(folder) / "file" for folder in here)])


def deadline_of(runtime, start):
    """When the last fit must have ended, by time.perf_counter()."""
    if not runtime.time_budget_hours:
        return math.inf
    budget_seconds = 3600 * runtime.time_budget_hours
    return start + budget_seconds - RESERVE_SECONDS - RESERVE_SHARE * budget_seconds


def first_of_all(setup, prepared, executor, log, answers):
    """({FitSpec: Fitted} of what is not trained, what the page says of the submission by it).

    There is one after the first member, and a better one after all.
    """
    fits = {}
    first = None
    members = members_of(setup, prepared)
    for some in filter(None, (members[:1], members[1:])):
        made = member_fits(some, partial(affordable, setup, log), executor, log)
        fits |= made
        if made and specs_left(prepared):
            first = first_look(setup, prepared, fits, log, answers)
    return fits, first


def run_rounds(setup, prepared, executor, scores, page, untrained, log, known=None):
    """({FitSpec: Fitted} of all rounds, what was planned). A round reads only the ones before.

    untrained: {FitSpec: Fitted} that the page shows too. known: Measurements made before.
    """
    specs = specs_left(prepared)
    if not specs:
        return {}, nothing_planned(prepared)
    planner = Planner(setup, prepared, specs, executor, scores, log, known=known,
                      frozen=frozen_stages(setup, prepared), untrained=untrained)
    for line in planner.describe():
        log.say(line)
    warn_of_other_versions(setup.folder, stages_used(prepared, planner.folders_done()), log)
    need_space(setup.folder, planner.needed_bytes, f"{len(planner.first.epochs)} fit(s)")
    shown = [*untrained, *specs]
    page.show(untrained, shown)

    fitted = {}
    width = max(len(f"fit {len(specs)}/{len(specs)} {spec.title}") for spec in specs)
    with contextlib.closing(Overall(f"{'all fits':<{width}}")) as overall:
        for round_number in sorted({spec.round for spec in specs}):
            jobs = planner.jobs(round_number, fitted, overall)
            for spec, seconds in executor.run(jobs, log):
                fitted[spec] = planner.finished(spec, fitted)
                planner.learn(spec, fitted[spec], seconds)
                page.show(untrained | fitted, shown)

    in_order = {spec: fitted[spec] for spec in specs if spec in fitted}
    return in_order, kept_plan(prepared, planner.outcome(in_order), in_order, log)


def kept_plan(prepared, planned, fitted, log):
    """What was planned. A budget's plan is kept: what it left out stays out at the next start."""
    if prepared.config.runtime.time_budget_hours:
        stage = plan_stage(prepared)
        fits = [[spec.name, spec.fold] for spec in fitted]
        make(stage, lambda folder: write_json(folder / "plan.json", planned | {"fits": fits}), log)
        planned = read_json(stage.folder / "plan.json")
    for text in planned["dropped"]:
        log.warn(f"left out to stay in --time_budget: {text}")
    return planned
