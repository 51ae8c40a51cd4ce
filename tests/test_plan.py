import math
from types import SimpleNamespace

import pytest

from config import FitSpec, build_config
from running import planner
from running.plan import Cost, Devices, Plan, Work, longest_first, make_plan, measured_cost
from running.run import Prepared, Setup

COSTS = {"a": Cost(1.0, 0.0, 0.0, 0), "b": Cost(1.0, 0.0, 0.0, 0), "c": Cost(2.0, 0.1, 10.0, 0)}


def works(backbones=("a", "b"), folds=(0, 1, 2), n_epochs=10, n_images=0):
    return [Work(FitSpec(b, 42, 0, k), 10, n_epochs, n_images) for k in folds for b in backbones]


def left(plan):
    return sorted((spec.backbone, spec.fold, n) for spec, n in plan.epochs.items())


def test_without_a_budget_everything_is_done_and_its_seconds_add_up():
    plan = make_plan(works(("c",), (0, 1), 3, 100), COSTS)
    assert plan.seconds == 2 * (10 + 3 * 10 * 2.0 + 100 * 0.1) and plan.dropped == ()


def test_first_epochs_are_dropped_evenly_and_what_is_left_is_used():
    plan = make_plan(works(), COSTS, seconds_left=455)
    assert 445 <= plan.seconds <= 455 and len(plan.epochs) == 6
    assert {n for _, _, n in left(plan)} == {7, 8}
    assert plan.dropped == ("a: 7 to 8 of 10 epochs", "b: 7 to 8 of 10 epochs")


def test_then_the_last_folds_of_the_weakest_backbone():
    plan = make_plan(works(), COSTS, seconds_left=165, weakest=["a"])
    assert left(plan) == [("a", 0, 4), ("b", 0, 4), ("b", 1, 4),
                          ("b", 2, 4)] and plan.seconds == 160
    assert "a: folds 1, 2" in plan.dropped
    # then the last listed is taken for the weakest
    unknown = make_plan(works(), COSTS, seconds_left=165)
    assert left(unknown) == [("a", 0, 4), ("a", 1, 4), ("a", 2, 4), ("b", 0, 4)]


def test_then_backbones_and_last_of_all_epochs_below_the_floor():
    plan = make_plan(works(), COSTS, seconds_left=75, weakest=["a", "b"])
    assert left(plan) == [("b", 0, 7)] and "a: all its fits" in plan.dropped
    assert left(make_plan(works(), COSTS, seconds_left=15, weakest=["a", "b"])) == [("b", 0, 1)]
    assert left(make_plan(works(), COSTS, seconds_left=-math.inf, weakest=["a", "b"])) == [("b", 0,
                                                                                            1)]
    assert left(make_plan(works(), COSTS, seconds_left=15, at_least_one=False)) == []


def test_refits_and_later_rounds_go_before_the_only_fit_is_cut_below_the_floor():
    both = [Work(FitSpec("a", 42, r, fold), 10, 10, 0) for r in (0, 1) for fold in (0, None)]
    plan = make_plan(both, COSTS, seconds_left=75)
    assert {(s.round, s.fold): n for s, n in plan.epochs.items()} == {(0, 0): 7}
    plan = make_plan(both, COSTS, seconds_left=90)
    assert {(s.round, s.fold): n for s, n in plan.epochs.items()} == {(0, 0): 5, (1, 0): 4}


def test_teachers_cost_their_forward_passes_and_the_memory_of_their_weights():
    costs = {"a": Cost(1.0, 0.0, 5.0, 100), "b": Cost(2.0, 0.0, 0.0, 50, teach_seconds=0.5,
                                                      weight_bytes=7)}
    work = Work(FitSpec("a", 42, 1, 0), 10, 4, 0, teachers=("b", "left out"))
    assert work.seconds(costs, 4) == 5 + 4 * 10 * (1.0 + 0.5)
    assert work.peak_memory_bytes(costs) == 107
    assert costs["b"].scaled(2.0) == Cost(4.0, 0.0, 0.0, 50, teach_seconds=1.0, weight_bytes=7)
    plan = make_plan([work], costs, seconds_left=50)
    assert left(plan) == [("a", 0, 3)] and plan.seconds == 50


@pytest.mark.parametrize(("n_epochs", "step_seconds", "is_large", "n_saves"), [
    (12, 1.0, False, 11), (1, 1.0, False, 0),
    (12, 1.0, True, 0),         # two minutes
    (12, 14.0, True, 2),        # epochs of 140 s: after the 5th and the 10th
    (12, 90.0, True, 11)])      # epochs of 15 minutes
def test_checkpoints_count_after_each_epoch_or_every_ten_minutes(n_epochs, step_seconds, is_large,
                                                                n_saves):
    cost = Cost(step_seconds, 0.0, 0.0, 0, save_seconds=30.0, is_large=is_large)
    work = Work(FitSpec("a", 42, 0, 0), 10, n_epochs, 0)
    assert work.seconds({"a": cost}, n_epochs) == n_epochs * 10 * step_seconds + n_saves * 30.0


@pytest.mark.parametrize("is_large", [False, True])
def test_the_checkpoint_of_a_measured_fit_is_timed_and_not_counted_twice(monkeypatch, is_large):
    now = 0.0
    monkeypatch.setattr("system.log.time.perf_counter", lambda: now)

    def takes(seconds, result=None):
        nonlocal now
        now += seconds
        return result

    epochs = [{"seconds": 8.0}, {"seconds": 4.0, "peak_memory_bytes": 5, "micro_batch_size": 8,
                                 "grad_checkpointing": 0}]
    trained = SimpleNamespace(epochs=epochs)
    # 12 s of epochs and a checkpoint, unless it is large
    cost = measured_cost(lambda: takes(12.0 if is_large else 15.0, trained),
                         lambda: takes(3.0, is_large), lambda n: takes(0.5 * n),
                         lambda: takes(2.0), 4, (2, 6))
    assert cost == Cost(1.0, 0.5, 4.0, 5, 2.0, micro_batch_size=8, save_seconds=3.0,
                        is_large=is_large)


def test_a_fold_goes_in_all_rounds():
    both = works() + [Work(FitSpec(b, 42, 1, k), 10, 10, 0) for k in (0, 1, 2) for b in ("a", "b")]
    plan = make_plan(both, COSTS, seconds_left=10 * 4 * 11)
    assert {(s.backbone, s.fold) for s in plan.epochs if s.round == 0} == {(s.backbone, s.fold)
                                                                           for s in plan.epochs
                                                                           if s.round}
    assert len(plan.epochs) == 10


def test_fits_side_by_side_end_with_the_last_of_the_busiest_device():
    assert Devices(2).seconds([("a", 3.0), ("a", 1.0), ("a", 1.0), ("a", 4.0)]) == 6.0
    assert Devices(2, busy=((5.0, 1.0),)).seconds([("a", 3.0), ("a", 1.0)]) == 5.0
    shared = Devices(1, {"small": 0.4, "large": 0.7})
    # the third begins as the first ends
    assert shared.seconds([("small", 2.0), ("small", 3.0), ("small", 4.0)]) == 6.0
    assert shared.seconds([("small", 2.0), ("large", 3.0)]) == 5.0
    plan = make_plan(works(), COSTS, devices=Devices(3))
    assert plan.seconds == 200 and make_plan(works(), COSTS, seconds_left=200,
                                             devices=Devices(3)).dropped == ()
    assert Devices(100).seconds([("a", float(n)) for n in range(35)]) == 34.0


def test_longest_first_keeps_rounds_apart_and_equal_works_in_order():
    later = [Work(FitSpec("c", 42, 1, 0), 10, 10, 0)]
    order = [(w.spec.backbone, w.spec.round, w.spec.fold)
             for w in longest_first([*later, *works(("a", "c"), (0, 1))], COSTS)]
    assert order == [("c", 0, 0), ("c", 0, 1), ("a", 0, 0), ("a", 0, 1), ("c", 1, 0)]
    assert longest_first(works(), {}) == works()
    refit = Work(FitSpec("c", 42, 0, None), 10, 10, 0)
    assert longest_first([refit, *works(("a",), (0,))], COSTS)[-1] == refit


class Timed(planner.Planner):
    """A planner by a clock that only the test moves, of works whose costs are known."""

    seconds_left = 0.0

    def states(self, specs):
        return dict.fromkeys(specs, "to do")

    def finished(self, spec, fitted):
        return None

    def fit_job(self, spec, fitted, n_epochs, title):
        return n_epochs


class Known:
    """Measurements whose costs are COSTS."""

    def __init__(self, *_):
        self.costs = {}

    def find(self, *_):
        self.costs = COSTS


@pytest.fixture
def planner_of(monkeypatch):
    """Planner of these works in so many seconds, without a run behind it. choose: stands in for
    `make_choice`."""
    def make(all_works, seconds_left, choose=lambda *_: {}):
        monkeypatch.setattr(planner, "work_of", lambda prepared, spec, available: {
            work.spec: work for work in all_works}[spec])
        monkeypatch.setattr(planner, "Measurements", Known)
        monkeypatch.setattr(planner, "weakest_first", lambda *_: [])
        monkeypatch.setattr(planner, "known_choice", lambda _: {})
        monkeypatch.setattr(planner, "make_choice", choose)
        monkeypatch.setattr(Timed, "seconds_left", seconds_left)
        config = build_config("competition_ready")
        setup = Setup(config, None, None, None, None, {}, {}, deadline=0.0)
        prepared = Prepared(config, None, None, None, None, {}, {}, None)
        executor = SimpleNamespace(n_devices=1, kind="core", share=lambda n_bytes: 1.0)
        return Timed(setup, prepared, [work.spec for work in all_works], executor, None, None)
    return make


@pytest.mark.parametrize(("seconds_left", "made", "dropped"), [
    (300, [(0, 0), (0, 1), (0, None), (1, 0), (1, 1), (1, None)], "a: fold 2"),
    (200, [(0, 0), (0, None), (1, 0), (1, None)], "a: folds 1, 2"),
    (1e9, [(r, fold) for r in (0, 1) for fold in (0, 1, 2, None)], None)])
def test_what_is_made_is_what_was_planned_refits_and_later_rounds_too(planner_of, seconds_left,
                                                                      made, dropped):
    all_works = [Work(FitSpec("a", 42, r, fold), 10, 10, 0) for r in (0, 1) for fold in (0, 1, 2,
                                                                                         None)]
    own, fitted, overall = (
        planner_of(all_works, seconds_left),
        {},
        SimpleNamespace(is_hidden=False, plan=lambda load: None),
    )
    planned = [(s.round, s.fold) for s in own.first.epochs]
    for round_number in (0, 1):
        for job in own.jobs(round_number, fitted, overall):
            n_epochs = job.function
            own.seconds_left -= own.works[job.name].seconds(COSTS, n_epochs)
            own.running.pop(job.name)
            fitted[job.name] = n_epochs
    assert [(s.round, s.fold) for s in fitted] == made == planned
    assert own.seconds_left >= 0 and (dropped is None or dropped in own.first.dropped)


def test_a_backbone_without_a_fold_gets_no_refit(planner_of):
    all_works = [Work(FitSpec(b, 42, 0, fold), 10, 10, 0) for fold in (0, 1, None) for b in ("a",
                                                                                             "b")]
    own = planner_of(all_works, 1e9)
    own.leave_out(FitSpec("b", 42, 0, 0), [FitSpec("a", 42, 0, 0)])
    assert own.gone == {("b", 0), ("b", 1), ("b", None)}
    own.leave_out(FitSpec("a", 42, 0, 1), [FitSpec("a", 42, 0, 0)])
    assert ("a", 1) in own.gone and ("a", None) not in own.gone


@pytest.mark.parametrize(("seconds_left", "made", "said"), [
    (1e9, [(0, "a"), (0, "b"), (1, "a"), (1, "b")], []),
    (305, [(0, "a"), (0, "b"), (1, "b")], ["a: its later rounds, as x"])])
def test_under_a_tight_budget_what_adds_nothing_trains_in_the_first_round_alone(
    planner_of, seconds_left, made, said
):
    def choose(setup, prepared, fits, fits_in_time, log):
        if fits_in_time([]):
            return {}
        assert fits_in_time(["a"])
        return {"a": "as x"}

    own = planner_of([Work(FitSpec(b, 42, r, 0), 10, 10, 0) for r in (0, 1) for b in "ab"],
                     seconds_left, choose)
    fitted, overall = {}, SimpleNamespace(is_hidden=False, plan=lambda load: None)
    for round_number in (0, 1):
        for job in own.jobs(round_number, fitted, overall):
            own.seconds_left -= own.works[job.name].seconds(COSTS, job.function)
            own.running.pop(job.name)
            fitted[job.name] = SimpleNamespace(result=SimpleNamespace(epochs=[0] * job.function))
    assert [(spec.round, spec.backbone) for spec in fitted] == made and own.seconds_left >= 0
    assert [text for text in own.outcome(fitted)["dropped"] if "later" in text] == said
    # what stays is trained as long as was asked
    assert len(fitted[FitSpec("b", 42, 1, 0)].result.epochs) == 10


def test_a_plan_of_nothing_takes_no_time_even_if_none_is_left():
    assert make_plan([], COSTS, seconds_left=-1) == Plan({}, 0.0)
