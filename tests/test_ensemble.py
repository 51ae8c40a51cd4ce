import numpy as np
import pytest

from ensemble import blend
from ensemble.blend import METHODS, choose_views, fit_blend, fit_rounds
from ensemble.metrics import METRICS
from ensemble.scores import blend_parts
from modeling.inference import Predictions

RNG = np.random.default_rng(0)
N, C = 600, 5
LABELS = RNG.integers(0, C, N)
PARTS = RNG.integers(0, 5, N)
ALONE = np.arange(N)
METRIC = METRICS["macro_f1"]


def probabilities(strength, seed):
    """With independent noise: the larger `strength`, the better."""
    logits = np.random.default_rng(seed).standard_normal((N, C)) + strength * np.eye(C)[LABELS]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def member(strength, seed):
    return {"identity": probabilities(strength, seed)}


def shuffled(views):
    return {name: probs[RNG.permutation(N)] for name, probs in views.items()}


def test_a_blend_beats_its_best_member_and_its_nested_score_is_that_of_its_nested_rows():
    sources = {f"m{i}": member(1.5, i) for i in range(3)}
    blend, nested = fit_blend(sources, LABELS, PARTS, METRIC)
    assert METRIC(LABELS, nested.answers) == blend.score_nested
    assert blend.score_nested > max(METRIC(LABELS, p["identity"]) for p in sources.values()) + 0.05
    assert sum(blend.weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_a_useless_member_gets_weight_0_and_is_named(method):
    sources = {"good": member(2.0, 1), "also": member(2.0, 2), "noise": shuffled(member(2.0, 3))}
    blend, _ = fit_blend(sources, LABELS, PARTS, METRIC, method=method)
    assert blend.weights["noise"] == 0 and list(blend.left_out) == ["noise"]


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_a_duplicate_member_changes_nothing(method):
    sources = {f"m{i}": member(1.0 + 0.3 * i, i) for i in range(4)}
    alone, _ = fit_blend(sources, LABELS, PARTS, METRIC, method=method)
    blend, _ = fit_blend(sources | {"again": sources["m3"]}, LABELS, PARTS, METRIC, method=method)
    assert abs(blend.score_nested - alone.score_nested) < 0.002
    assert blend.left_out == {"again": "the same as m3"}


def test_a_view_that_hurts_is_dropped_and_one_that_helps_is_kept():
    views = member(1.5, 0) | {"rotate_180": probabilities(1.5, 1),
                              "flip_horizontal": probabilities(-1.5, 2)}
    assert choose_views(views, LABELS) == ("identity", "rotate_180")
    blend, _ = fit_blend({"m": views}, LABELS, PARTS, METRIC)
    assert blend.views == {"m": ("identity", "rotate_180")}
    assert blend.score_nested > METRIC(LABELS, np.mean(list(views.values()), axis=0)) + 0.05


def test_weights_fitted_to_noise_are_not_rewarded_by_the_nested_score():
    sources = {f"m{i}": member(0.0, i) for i in range(10)}
    blend, _ = fit_blend(sources, LABELS, PARTS, METRIC, method="greedy")
    assert blend.score > blend.score_nested
    assert blend.score_nested == pytest.approx(1 / C, abs=0.06)


def test_applying_joins_by_id():
    sources = {f"m{i}": member(1.0, i) for i in range(2)}
    blend, _ = fit_blend(sources, LABELS, PARTS, METRIC)
    ids, order = np.array([f"i{i}" for i in range(N)]), RNG.permutation(N)
    classes = tuple("abcde")
    one = {n: {"identity": Predictions(ids, p["identity"].astype(np.float32), classes, "valid",
                                       (n,))} for n, p in sources.items()}
    other = one | {"m1": {"identity": Predictions(ids[order], one["m1"]["identity"].probs[order],
                                                  classes, "valid", ("m1",))}}
    np.testing.assert_array_equal(blend.apply(one).probs, blend.apply(other).probs)


def test_one_source_is_its_own_blend():
    blend, nested = fit_blend({"only": member(1.0, 0)}, LABELS, PARTS, METRIC)
    assert blend.weights == {"only": 1.0}
    assert METRIC(LABELS, nested.probs) == METRIC(LABELS, member(1.0, 0)["identity"])


def test_thresholds_between_grades_are_scored_on_rows_that_they_were_not_fitted_to():
    kappa = METRICS["quadratic_kappa"]
    rng = np.random.default_rng(0)
    low = np.clip(0.6 * LABELS + rng.normal(0, 0.3, N), 0, C - 1)
    views = {"identity": np.maximum(1e-3, 1 - np.abs(low[:, None] - np.arange(C)))}
    views["identity"] /= views["identity"].sum(1, keepdims=True)
    blend, nested = fit_blend({"m": views}, LABELS, PARTS, kappa)
    assert len(blend.cuts) == C - 1 and blend.score_nested == kappa(LABELS, nested.answers)
    assert blend.score_nested > kappa(LABELS, nested.probs) + 0.1
    noise, _ = fit_blend({"m": member(0.0, 1)}, LABELS, PARTS, kappa)
    assert abs(noise.score_nested) < 0.1


@pytest.mark.parametrize("name", METRICS)
def test_the_blend_goes_by_every_metric_also_where_a_part_lacks_a_class(name):
    rows = np.argsort(LABELS, kind="stable")
    sources = {"good": {"identity": member(2.0, 1)["identity"][rows]},
               "also": {"identity": member(1.0, 2)["identity"][rows]}}
    parts = np.arange(N) // (N // 3)
    blend, nested = fit_blend(sources, LABELS[rows], parts, METRICS[name])
    assert blend.score_nested == METRICS[name](LABELS[rows], nested.answers)
    assert blend.nested_by_method[blend.method] == max(blend.nested_by_method.values(),
                                                       key=lambda v: METRICS[name].sign * v)


def test_a_round_that_does_not_help_is_not_used_and_one_that_does_is():
    rounds = {"r0": 0, "r1": 1}
    worse = {"r0": member(2.0, 1), "r1": shuffled(member(2.0, 2))}
    blend, nested, (first, second) = fit_rounds(worse, rounds, LABELS, PARTS, METRIC, groups=ALONE,
                                                draws=50)
    assert blend.weights == {"r0": 1.0,
                             "r1": 0.0} and blend.left_out["r1"] == "its round does not help"
    assert first.used and not second.used and second.change <= 0
    assert METRIC(LABELS, nested.answers) == first.score
    better = worse | {"r1": member(3.0, 2)}
    blend, nested, (first, second) = fit_rounds(better, rounds, LABELS, PARTS, METRIC, groups=ALONE,
                                                draws=50)
    low, high = second.change_ci90
    assert second.used and 0 < low < second.change < high and second.score == pytest.approx(
        first.score + second.change)
    assert METRIC(LABELS, nested.answers) == second.score and blend.weights["r1"] > 0
    few = {name: {"identity": probabilities(2.0, seed)[:80]} for name,
           seed in (("r0", 1), ("r1", 4))}
    blend, _, (_, second) = fit_rounds(few, rounds, LABELS[:80], PARTS[:80], METRIC,
                                       groups=ALONE[:80], draws=200)
    # not clearly worse
    assert second.change_ci90[0] < 0 < second.change_ci90[1] and second.used and blend.weights[
        "r1"] > 0


def test_the_best_of_many_methods_that_know_nothing_scores_by_chance(monkeypatch):
    """Its own nested score is the largest of six, which is 1.3 standard errors too good."""
    def only(i):
        return lambda stack, labels: np.eye(len(stack))[i % len(stack)]

    monkeypatch.setattr(blend, "METHODS", {f"only {i}": only(i) for i in range(6)})
    n, n_seeds = 60, 8
    scores = []
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        sources = {f"m{i}": {"identity": rng.dirichlet([1, 1], n)} for i in range(6)}
        fitted, _ = fit_blend(sources, rng.integers(0, 2, n), np.arange(n) % 3,
                              METRICS["accuracy"])
        scores.append(fitted.score_nested)
    standard_error = 0.5 / np.sqrt(n * n_seeds)
    assert np.mean(scores) < 0.5 + 2 * standard_error


def test_parts_are_whole_folds_or_whole_groups_and_at_most_five():
    """Near-duplicates, a group, never lie in two parts."""
    folds = np.arange(70) % 7
    groups = np.array([f"g{i // 2}" for i in range(70)])
    for units, of_folds in ((folds, folds), (groups, folds % 2), (groups, np.zeros(70))):
        parts = blend_parts(of_folds, groups, seed=1)
        assert set(parts.tolist()) == set(range(5))
        assert all(len(set(parts[units == unit].tolist())) == 1 for unit in units)
    three = blend_parts(folds % 3, groups, seed=1)
    assert len(set(zip(three.tolist(), (folds % 3).tolist(), strict=True))) == 3
    assert (blend_parts(folds % 2, groups, 1) != blend_parts(folds % 2, groups, 2)).any()
