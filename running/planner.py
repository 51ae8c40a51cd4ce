"""The fits of a run, planned anew before each one, so that a run ends in time and people see when.

    planner = Planner(run, planned_specs(run), metric, executor)
    for line in planner.describe(): print(line)
    for spec, seconds in executor.run(planner.jobs(round_number, fitted := {}, overall), events): ...
"""
import functools
import math
import time
from functools import partial

import numpy as np

from config import key_settings
from ensemble.scores import fold_scores
from running.costs import find_costs, has_compute, needed_bytes, work_of
from running.executor import Job
from running.fits import run_fit
from running.plan import Devices, differences, longest_first, make_plan
from running.run import finished_fit, fit_state, round_specs
from system.log import duration
from system.stages import Stage
from utils import read_json

BUDGETED = ("data", "model", "augment", "optim", "predict", "rounds", "ensemble", "seed")


# ---------------------------------------------------------------- fits

def plan_stage(this):
    """What a time budget left out of a run that ended, and leaves out when it is started again."""
    return Stage.of(this.folder, "plan", version=1, inputs=[this.keys["folds"], this.keys["shift"]],
                    settings=[this.config.runtime.time_budget_hours,
                              key_settings(this.config, *BUDGETED)])


def specs_left(this):
    """The FitSpecs of all rounds but what `plan_stage` has left out."""
    specs = planned_specs(this)
    stage = plan_stage(this)
    if not stage.is_done:
        return specs
    chosen = read_json(stage.folder / "plan.json")["fits"]
    return [s for s in specs if [s.name, s.fold] in chosen]


# of a fit that is the only one, from which it pays to measure beforehand how long it takes
MEASURED_FROM_STEPS = 1000


def planned_specs(this):
    """The FitSpecs of all rounds, in the order in which one device trains them."""
    return [spec for r in range(len(this.config.rounds)) for spec in round_specs(this.config, r)]


class Planner:
    """The fits of a run in order, planned anew before each one: only then is it known how long
    those before took."""

    def __init__(self, this, specs, metric, executor, is_asked=False):
        """is_asked: what the fits cost is wanted for its own sake."""
        self.this = this
        self.metric = metric
        self.executor = executor
        known = {
            backbone
            for backbone in {spec.backbone for spec in specs}
            if has_compute(this, backbone)
        }
        self.state = {spec: fit_state(this, spec, specs) if spec.backbone in known else "to do"
                      for spec in specs}
        self.works = {spec: work_of(this, spec, specs) for spec in specs}
        to_do = [s for s in specs if self.state[s] != "done"]
        open_ = dict.fromkeys([*(s.backbone for s in to_do),
                               *(t for s in to_do for t in self.works[s].teachers)])
        n_steps = max((self.works[s].n_steps * self.works[s].n_epochs for s in to_do), default=0)
        pays = is_asked or len(to_do) > 1 or n_steps >= MEASURED_FROM_STEPS
        measured = this.deadline < math.inf or (this.config.runtime.measure and pays)
        self.costs = find_costs(this, open_, executor, measured, self.has_time_for)
        # seconds over planned seconds, by backbone
        self.is_known = measured
        self.pace = {}
        # else what a budget leaves out must come last
        if executor.n_devices > 1 and this.deadline == math.inf:
            self.works = {work.spec: work for work in longest_first(self.works.values(),
                                                                    self.costs)}
        # {FitSpec: [planned seconds or steps, those done]}
        self.running = {}
        # (backbone, fold) left out, of all rounds that are still to come
        self.gone = set()
        self.first = self.plan(list(self.works), {})
        self.start = time.perf_counter()

    def has_time_for(self, costs):
        """Whether more than one shortest fit of each of these backbones can still be done: else
        measuring further ones, which would be dropped first, is time lost."""
        first = {work.spec.backbone: work for work in reversed(self.works.values())}
        seconds = sum(first[b].seconds(costs, first[b].floor_epochs) for b in costs)
        return seconds < self.executor.n_devices * self.this.seconds_left

    def plan(self, specs, fitted):
        """The Plan of those of the specs that are still to be done, of backbones whose costs are
        known."""
        typical = float(np.mean(list(self.pace.values()))) if self.pace else 1.0
        costs = {b: cost.scaled(self.pace.get(b, typical)) for b, cost in self.costs.items()}
        works = [self.works[s] for s in specs if s.backbone in costs and self.state[s] != "done"
                 and s not in fitted and (s.backbone, s.fold) not in self.gone]
        return make_plan(works, costs, self.this.seconds_left, weakest_first(self.this, fitted,
                                                                             self.metric),
                         devices=Devices(self.executor.n_devices,
                                         {b: self.executor.share(cost.peak_memory_bytes) for b,
                                          cost in costs.items()},
                                         tuple((load - done,
                                                self.executor.share(self.works[s].peak_memory_bytes(
                                                    self.costs))) for s,
                                               (load, done) in self.running.items())
                                         if self.is_known else ()), at_least_one=not fitted
                         and not self.running and "done" not in self.state.values())

    def jobs(self, round_number, fitted, overall):
        """Jobs one by one, as an executor asks for them; what they do goes to the `overall` bar. A
        fit that was finished before is read at once."""
        specs = list(self.works)
        for i, spec in enumerate(specs):
            if spec.round != round_number or (spec.backbone, spec.fold) in self.gone:
                continue
            title = f"fit {i + 1}/{len(specs)}"
            if before := finished_fit(self.this, spec, fitted):
                fitted[spec] = before
                self.this.events.say(f"{title} {spec.title}: done before", event="reused",
                                     stage=before.result.folder.name)
                continue
            plan = self.plan(specs[i:], fitted)
            if spec not in plan.epochs and self.state[spec] != "done":
                self.leave_out(spec, [*fitted, *self.running])
                continue
            n_epochs = plan.epochs.get(spec, self.works[spec].n_epochs)
            if overall.is_hidden and self.is_known and fitted:
                self.this.events.say(
                    f"{len(plan.epochs)} fit(s) to do in about {duration(plan.seconds)}")
            self.running[spec] = [self.load(spec, n_epochs), 0.0]
            overall.plan(sum(self.load(s, n) for s, n in plan.epochs.items() if s != spec) + sum(
                load - done for load, done in self.running.values()))
            seconds = self.this.seconds_left - self.works[spec].seconds(self.costs, 0)
            yield Job(spec, partial(run_fit, this=self.this, spec=spec, fitted=dict(fitted),
                                    n_epochs=n_epochs, seconds=seconds, title=title),
                      f"{title} {spec.title}", self.works[spec].peak_memory_bytes(self.costs),
                      partial(self.advance, spec, overall))

    def leave_out(self, spec, made):
        """Leave out a fit with its later folds, as a source lacks the last folds and never one
        between, in the rounds to come too, where they had nothing to begin from. made: fits so far;
        a backbone with none in this round gets no refit."""
        self.gone.add((spec.backbone, spec.fold))
        if spec.fold is None:
            return
        self.gone |= {(s.backbone, s.fold) for s in self.works
                      if s.backbone == spec.backbone and s.fold is not None and s.fold > spec.fold}
        if not any((s.backbone, s.round) == (spec.backbone, spec.round) for s in made):
            self.gone.add((spec.backbone, None))

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
        """How much of the overall bar a fit is: its planned seconds, or its steps where they are
        not known."""
        work = self.works[spec]
        return work.seconds(self.costs, n_epochs) if self.is_known else n_epochs * work.n_steps

    @functools.cached_property
    def needed_bytes(self):
        """Disk space that the first plan takes."""
        return needed_bytes(self.this, [self.works[spec] for spec in self.first.epochs],
                            self.executor.n_devices)

    def describe(self):
        """The plan as a table."""
        names = {spec: spec.title for spec in self.works}
        width = max(map(len, names.values()))
        yield f"{'plan':<{width}}  state  epochs  seconds  peak memory"
        for spec, work in self.works.items():
            n_epochs = self.first.epochs.get(spec)
            if n_epochs is None:
                yield f"{names[spec]:<{width}}  {'done' if self.state[spec] == 'done' else 'left out'}"
                continue
            known = (
                f"{work.seconds(self.costs, n_epochs):>7.0f}  {work.peak_memory_bytes(self.costs) / 2**30:>7.1f} GiB"
                if self.is_known
                else ""
            )
            yield f"{names[spec]:<{width}}  {self.state[spec]:<5}  {n_epochs:>6}  {known}".rstrip()
        if self.is_known and self.first.epochs:
            alone = sum(self.load(s, n) for s, n in self.first.epochs.items())
            n = self.executor.n_devices
            side = (
                f" with {n} {self.executor.kind}s, {duration(alone)} one after the other"
                if n > 1
                else ""
            )
            yield (
                f"{len(self.first.epochs)} fit(s) to do in about {duration(self.first.seconds)}{side}, writing "
                f"{self.needed_bytes / 2**30:.1f} GiB"
            )

    def outcome(self, fitted):
        """What was planned and what became of it."""
        n_epochs = {spec: len(done.result.epochs) for spec, done in fitted.items()}
        return {"budget_hours": self.this.config.runtime.time_budget_hours,
                "estimated_seconds": self.first.seconds if self.is_known else None,
                "seconds": time.perf_counter() - self.start,
                "dropped": list(differences(list(self.works.values()), n_epochs))}


def weakest_first(this, fitted, metric):
    """Backbones, the weakest first, as far as that is known: those of random weights beside
    pretrained ones, unless they have been scored; then the scored ones by their test-like score in
    fold 0 of round 0."""
    score = {spec.backbone: (scores := fold_scores(this, done, metric)).get("valid_testlike",
                                                                            scores["valid"])
             for spec, done in fitted.items() if (spec.round, spec.fold) == (0, 0)}
    random = [name for name, source in this.weights.items() if not source.is_pretrained
              and name not in score]
    behind = reversed(random) if len(random) < len(this.weights) else ()
    return [*behind, *sorted(score, key=lambda backbone: metric.sign * score[backbone])]
