"""The fits of a run in order, planned anew before each one: it ends in time, and people see when.

    planner = Planner(setup, prepared, specs, executor, scores, log)
    for line in planner.describe(): print(line)
    for spec, seconds in executor.run(planner.jobs(round_number, fitted := {}, overall), log): ...
"""
import functools
import math
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from running.choice import budgeted_stage, known_choice, make_choice
from running.costs import Measurements, needed_bytes, work_of
from running.executor import Job
from running.fits import FitJob
from running.plan import UNKNOWN, Devices, differences, longest_first, make_plan
from running.rounds import planned_specs, read_by
from running.run import finished_fit, fit_stages, usable
from system.log import duration
from utils import read_json

MEASURED_FROM_STEPS = 1000      # of a single fit, before it pays to measure how long it takes


def plan_stage(prepared):
    """What a time budget left out of a run that ended; left out again when it is started again."""
    return budgeted_stage(prepared, "plan")


def specs_left(prepared):
    """The FitSpecs of all rounds but what `plan_stage` has left out."""
    specs = planned_specs(prepared.config)
    stage = plan_stage(prepared)
    if not stage.is_done:
        return specs
    chosen = read_json(stage.folder / "plan.json")["fits"]
    return [spec for spec in specs if [spec.name, spec.fold] in chosen]


def nothing_planned(prepared):
    """`Planner.outcome` of a run that trains nothing."""
    return {"budget_hours": prepared.config.runtime.time_budget_hours, "estimated_seconds": None,
            "seconds": 0.0, "dropped": []}


@dataclass
class Load:
    """A running fit's share of the overall bar: planned seconds or steps, and how many are done."""

    planned: float
    done: float = 0.0

    @property
    def left(self):
        return max(0.0, self.planned - self.done)      # a fit that began again does more


class Planner:
    """The fits of a run in order. It owns what the run learns of them: costs, pace, what is gone.

    works: {FitSpec: Work} in the order of the fits. state: {FitSpec: done, begun or to do} before
    the first one. first: the Plan before the first one.
    """

    def __init__(self, setup, prepared, specs, executor, scores, log, is_asked=False, known=None,
                 frozen=None, untrained=None):
        """is_asked: what the fits cost is wanted for its own sake. scores: ensemble.FoldScores.

        known: Measurements that were made before. frozen: {FitSpec: FitStages} of frozen members.
        untrained: {FitSpec: Fitted} of what was made before all rounds.
        """
        self.setup = setup
        self.prepared = prepared
        self.executor = executor
        self.scores = scores
        self.log = log
        self.frozen = frozen or {}
        self.untrained = untrained or {}
        self.known = known or Measurements(prepared, setup.machine, executor, log)
        self.state = self.states(specs)
        self.works = {spec: work_of(prepared, spec, specs) for spec in specs}
        self.is_known = self.wants_costs(is_asked or known is not None)
        self.known.find(self.open_backbones(), self.is_known, self.has_time_for)
        if executor.n_devices > 1 and setup.deadline == math.inf:
            # under a budget what may be left out must come last instead
            longest = longest_first(self.works.values(), self.costs)
            self.works = {work.spec: work for work in longest}

        self.pace = {}         # {backbone: seconds over planned seconds}
        self.running = {}      # {FitSpec: Load}
        self.gone = set()      # (backbone, fold) left out of all rounds still to come
        self.idle = known_choice(prepared) if setup.deadline < math.inf else {}
        self.first = self.plan(list(self.works), {})
        self.start = time.perf_counter()

    @property
    def costs(self):
        """{backbone: Cost} of the backbones that are trained here."""
        return self.known.costs

    @property
    def seconds_left(self):
        return self.setup.deadline - time.perf_counter()

    # ------------------------------------------------------------ before the first fit

    def states(self, specs):
        """{FitSpec: done, begun or to do}."""
        backbones = dict.fromkeys(spec.backbone for spec in specs)
        known = {backbone for backbone in backbones if self.known.knows_compute(backbone)}
        made = dict(self.frozen)
        return {spec: self.stages(spec, specs, made).state if spec.backbone in known else "to do"
                for spec in specs}

    def stages(self, spec, available, made=None):
        """The FitStages of a fit that only the `available` fits and frozen members may teach.

        made: those of earlier calls with the same `available`, filled here. A key holds every
        frozen member, though a time budget may leave out some.
        """
        made = dict(self.frozen) if made is None else made
        return fit_stages(self.prepared, spec, self.known.compute_of,
                          [*available, *self.frozen], made)

    def folders_done(self):
        """The folders of the stages of all fits that were done before."""
        specs = list(self.works)
        return [stage.folder for spec in specs if self.state[spec] == "done"
                for stage in self.stages(spec, specs)]

    def to_do(self):
        return [spec for spec in self.works if self.state[spec] != "done"]

    def open_backbones(self):
        """Backbones of the fits to do, then those of their teachers."""
        to_do = self.to_do()
        teachers = [name for spec in to_do for name in self.works[spec].teachers]
        return list(dict.fromkeys([*(spec.backbone for spec in to_do), *teachers]))

    def wants_costs(self, is_asked):
        """Whether to measure what fits cost: for a budget, or where it pays."""
        if self.setup.deadline < math.inf:
            return True
        works = [self.works[spec] for spec in self.to_do()]
        n_steps = max((work.n_steps * work.n_epochs for work in works), default=0)
        pays = is_asked or len(works) > 1 or n_steps >= MEASURED_FROM_STEPS
        return self.prepared.config.runtime.measure and pays

    def has_time_for(self, costs):
        """Whether more than one shortest fit of each of these backbones can still be done.

        If not, measuring further ones is time lost: they would be dropped first.
        """
        first = {work.spec.backbone: work for work in reversed(self.works.values())}
        seconds = sum(first[name].seconds(costs, first[name].floor_epochs) for name in costs)
        return seconds < self.executor.n_devices * self.seconds_left

    # ------------------------------------------------------------ before each fit

    def plan(self, specs, fitted):
        """The Plan of the specs still to be done, of backbones whose costs are known."""
        typical = float(np.mean(list(self.pace.values()))) if self.pace else 1.0
        costs = {name: cost.scaled(self.pace.get(name, typical))
                 for name, cost in self.costs.items()}
        works = [self.works[spec] for spec in specs
                 if spec.backbone in costs and self.state[spec] != "done" and spec not in fitted
                 and not self.is_left_out(spec)]
        has_one = fitted or self.running or "done" in self.state.values()
        weakest = weakest_first(self.prepared.weights, fitted, self.scores)
        return make_plan(works, costs, self.seconds_left, weakest, devices=self.devices(costs),
                         at_least_one=not has_one)

    def is_left_out(self, spec):
        """Whether a fit was left out before its turn."""
        return ((spec.backbone, spec.fold) in self.gone
                or (spec.round > 0 and spec.backbone in self.idle))

    def choose(self, fitted):
        """Before the first later round: who has none, if the budget does not allow all."""
        later = [spec for spec in self.works if spec.round > 0]

        def fits_in_time(backbones):
            self.idle = dict.fromkeys(backbones)
            return not self.plan(later, fitted).dropped

        self.idle = make_choice(self.setup, self.prepared, self.untrained | fitted, fits_in_time,
                                self.log)

    def devices(self, costs):
        """The Devices on which fits run, busy with those that run now."""
        share = self.executor.share
        shares = {name: share(cost.peak_memory_bytes) for name, cost in costs.items()}
        busy = ()
        if self.is_known:
            busy = tuple((load.left, share(self.works[spec].peak_memory_bytes(self.costs)))
                         for spec, load in self.running.items())
        return Devices(self.executor.n_devices, shares, busy)

    def jobs(self, round_number, fitted, overall):
        """Jobs one by one, as an executor asks for them.

        Adds to `fitted` at once what was finished before. The `overall` bar shows their progress.
        """
        specs = list(self.works)
        if round_number == 1 and self.setup.deadline < math.inf:
            self.choose(fitted)
        for i, spec in enumerate(specs):
            if spec.round != round_number or self.is_left_out(spec):
                continue
            title = f"fit {i + 1}/{len(specs)}"
            if before := self.finished(spec, fitted):
                fitted[spec] = before
                self.log.say(f"{title} {spec.title}: done before", event="reused",
                             stage=before.result.folder.name)
                continue

            plan = self.plan(specs[i:], fitted)
            if spec not in plan.epochs and self.state[spec] != "done":
                self.leave_out(spec, [*fitted, *self.running])
                continue
            if overall.is_hidden and self.is_known and fitted:
                self.log.say(f"{len(plan.epochs)} fit(s) to do in about {duration(plan.seconds)}")
            n_epochs = plan.epochs.get(spec, self.works[spec].n_epochs)
            self.running[spec] = Load(self.load(spec, n_epochs))
            later = sum(self.load(s, n) for s, n in plan.epochs.items() if s != spec)
            overall.plan(later + sum(load.left for load in self.running.values()))
            yield Job(spec, self.fit_job(spec, fitted, n_epochs, title), f"{title} {spec.title}",
                      self.works[spec].peak_memory_bytes(self.costs),
                      partial(self.advance, spec, overall))

    def finished(self, spec, fitted):
        """The Fitted of a fit that was finished before, else None."""
        stages = self.stages(spec, usable(fitted))
        return finished_fit(spec, stages, self.known.compute_of(spec.backbone),
                            self.prepared.config.optim, self.log)

    def fit_job(self, spec, fitted, n_epochs, title):
        """The FitJob of a fit: it trains until only the time for its prediction is left."""
        fitted = usable(fitted)
        return FitJob(spec, self.prepared, compute=self.known.compute_of(spec.backbone),
                      cost=self.costs.get(spec.backbone, UNKNOWN),
                      before=read_by(self.prepared.config, spec, self.untrained | fitted),
                      stages=self.stages(spec, fitted), n_epochs=n_epochs,
                      seconds=self.seconds_left - self.works[spec].seconds(self.costs, 0),
                      title=title, metric=self.setup.metric)

    def leave_out(self, spec, made):
        """Leave out a fit with its later folds, in this round and in those to come.

        A source may miss its last folds, never one in the middle. Later rounds would have nothing
        to begin from. made: fits so far; a backbone with none in this round gets no refit.
        """
        self.gone.add((spec.backbone, spec.fold))
        if spec.fold is None:
            return
        folds = {s.fold for s in self.works if s.backbone == spec.backbone and s.fold is not None}
        self.gone |= {(spec.backbone, fold) for fold in folds if fold > spec.fold}
        if not any((s.backbone, s.round) == (spec.backbone, spec.round) for s in made):
            self.gone.add((spec.backbone, None))

    # ------------------------------------------------------------ while a fit runs, and after

    def advance(self, spec, overall, share):
        """A share of a running fit was done."""
        load = self.running[spec]
        load.done += share * load.planned
        overall.advance(share * load.planned)

    def learn(self, spec, fitted, seconds):
        """A fit ended and took this long."""
        del self.running[spec]
        if self.state[spec] == "to do" and self.is_known and not fitted.result.restarts:
            planned = self.works[spec].seconds(self.costs, len(fitted.result.epochs))
            self.pace[spec.backbone] = seconds / planned

    def load(self, spec, n_epochs):
        """A fit's part of the overall bar: its planned seconds, or its steps if those are unknown.
        """
        work = self.works[spec]
        return work.seconds(self.costs, n_epochs) if self.is_known else n_epochs * work.n_steps

    # ------------------------------------------------------------ what is said of the plan

    @functools.cached_property
    def needed_bytes(self):
        """Disk space that the first plan takes."""
        return needed_bytes(self.prepared, [self.works[spec] for spec in self.first.epochs],
                            self.executor.n_devices)

    def describe(self):
        """The plan as a table, line by line."""
        width = max(len(spec.title) for spec in self.works)
        yield f"{'plan':<{width}}  state  epochs  seconds  peak memory"
        for spec in self.works:
            yield f"{spec.title:<{width}}  {self.described(spec)}".rstrip()
        if self.is_known and self.first.epochs:
            yield (f"{len(self.first.epochs)} fit(s) to do in about {duration(self.first.seconds)}"
                   f"{self.side_by_side()}, writing {self.needed_bytes / 2**30:.1f} GiB")

    def described(self, spec):
        """A fit's state and, if it is to be done, its epochs, seconds and memory."""
        n_epochs = self.first.epochs.get(spec)
        if n_epochs is None:
            return "done" if self.state[spec] == "done" else "left out"
        row = f"{self.state[spec]:<5}  {n_epochs:>6}  "
        if self.is_known:
            work = self.works[spec]
            gib = work.peak_memory_bytes(self.costs) / 2**30
            row += f"{work.seconds(self.costs, n_epochs):>7.0f}  {gib:>7.1f} GiB"
        return row

    def side_by_side(self):
        """On how many devices the fits run, and how long they take one after the other."""
        n = self.executor.n_devices
        if n == 1:
            return ""
        alone = sum(self.load(spec, n_epochs) for spec, n_epochs in self.first.epochs.items())
        return f" with {n} {self.executor.kind}s, {duration(alone)} one after the other"

    def outcome(self, fitted):
        """What was planned and what became of it, for final_results.json."""
        n_epochs = {spec: len(done.result.epochs) for spec, done in fitted.items()}
        works = [work for spec, work in self.works.items()
                 if spec.round == 0 or spec.backbone not in self.idle]
        idle = [f"{backbone}: its later rounds, {why}" for backbone, why in self.idle.items()]
        return {"budget_hours": self.prepared.config.runtime.time_budget_hours,
                "estimated_seconds": self.first.seconds if self.is_known else None,
                "seconds": time.perf_counter() - self.start,
                "dropped": [*differences(works, n_epochs), *idle]}


def weakest_first(weights, fitted, scores):
    """Backbones, the weakest first, as far as that is known.

    First those with random weights beside pretrained ones, unless they were scored. Then the
    scored ones, by their test-like score in fold 0 of round 0.
    """
    goodness = {}
    for spec, done in fitted.items():
        if (spec.round, spec.fold) == (0, 0):
            goodness[spec.backbone] = scores.goodness(done)
    random = [name for name, source in weights.items()
              if not source.is_pretrained and name not in goodness]
    behind = reversed(random) if len(random) < len(weights) else ()
    return [*behind, *sorted(goodness, key=goodness.get)]
