"""The parts of a blend, each alone: views, sources, weights, and what no row may have been fitted
to."""
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ensemble import blend
from ensemble.blend import (
    Blend,
    Fits,
    OutOfFold,
    Recipe,
    aligned,
    choose,
    choose_views,
    clearly_below_zero,
    fit_blend,
    fit_recipes,
    fit_rounds,
    fitted,
    greedy_weights,
    nested,
    nested_cut,
    only_rows,
    simplex_weights,
    useless,
    what_each_adds,
)
from ensemble.judges import JUDGES
from ensemble.metrics import METRICS, equal_weights, fit_temperature, with_temperature
from modeling.inference import Predictions
from utils import RunError

N = 90
LABELS = np.arange(N) % 3
PARTS = np.arange(N) // 3 % 3
ACCURACY = METRICS["accuracy"]
KAPPA = METRICS["quadratic_kappa"]


def answers(strength, seed, labels=LABELS):
    """(n, C) of noise: the better, the larger `strength`."""
    noise = np.random.default_rng(seed).standard_normal((len(labels), 3))
    odds = np.exp(noise + strength * np.eye(3)[labels])
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def stack_of(*strengths, seed=0):
    """(m, n, C) float64 of sources, rows that sum to 1."""
    stack = np.stack([answers(s, 10 * seed + i) for i, s in enumerate(strengths)]).astype(float)
    return stack / stack.sum(2, keepdims=True)


# ---------------------------------------------------------------- one source

@pytest.mark.parametrize(("mean", "clear"), [(-0.26, True), (-0.24, False), (0.26, False)])
def test_a_mean_is_clear_from_two_and_a_half_standard_errors(mean, clear):
    difference = np.tile([-1.0, 1.0], 50)       # of 100: a standard error of 0.1
    assert clearly_below_zero(difference + mean) == clear


def test_views_that_hurt_go_one_by_one_the_worst_first_and_the_first_view_stays():
    good = {f"good {i}": answers(1.5, i) for i in range(2)}
    bad = {"bad": answers(-1.0, 7), "worse": answers(-2.0, 8)}
    assert choose_views(good | bad, LABELS) == ("good 0", "good 1")
    assert choose_views({"bad": bad["bad"]} | good, LABELS)[0] == "bad"
    assert choose_views({"worse": bad["worse"]}, LABELS) == ("worse",)
    assert choose_views({"good 1": good["good 1"], "slightly": answers(1.3, 9)}, LABELS) == (
        "good 1", "slightly")


def test_views_are_chosen_on_a_sample_of_many_rows(monkeypatch):
    """Which needs no more than its own rows."""
    monkeypatch.setattr(blend, "MOST_ROWS", 60)
    sample = np.random.default_rng(0).permutation(N)[:60]
    views = {"good": answers(1.5, 0), "hurts": answers(-2.0, 1)}
    assert choose_views(views, LABELS) == ("good",)
    views["hurts"][sample] = answers(1.5, 2)[sample]      # only outside of the sample
    assert choose_views(views, LABELS) == ("good", "hurts")


def test_a_source_that_knows_the_class_shares_or_another_source_is_useless():
    labels = np.repeat([0, 1, 2], [60, 20, 10])
    shares = np.tile(np.float32([60, 20, 10]) / 90, (90, 1))
    one, other = answers(2.0, 1, labels), answers(2.0, 2, labels)
    near = one * 0.999 + other * 0.001
    stack = np.stack([shares, one, shares, near, other, one])
    names = ["shares", "one", "shares too", "near", "other", "again"]
    assert useless(stack, labels, names) == {
        **dict.fromkeys(("shares", "shares too"), "no better than the class shares"),
        **dict.fromkeys(("near", "again"), "the same as one")}
    assert useless(np.stack([shares, shares]), labels, ["a", "b"]) == {}
    wrong = np.eye(3, dtype=np.float32)[(labels + 1) % 3] * 0.7 + 0.1      # sure and wrong
    assert list(useless(np.stack([wrong, one]), labels, ["wrong", "one"])) in ([], ["wrong"])


@pytest.mark.parametrize(("distance", "same"), [(0.0049, True), (0.0051, False)])
def test_sources_are_the_same_within_half_a_percent_of_probability(distance, same):
    one = 0.8 * np.eye(3)[LABELS] + 0.2 / 3
    moved = one + distance * (np.eye(3)[LABELS] - np.eye(3)[(LABELS + 1) % 3])
    out = useless(np.stack([one, moved]), LABELS, ["one", "moved"])
    assert out == ({"moved": "the same as one"} if same else {})


# ---------------------------------------------------------------- weights

def test_equal_weights():
    assert equal_weights(np.zeros((4, 2, 3)), None).tolist() == [0.25] * 4


def greedy_by_hand(stack, labels):
    """Ensemble selection with replacement, by scikit-learn's log loss."""
    picked, best, kept = [], np.inf, None
    for _ in range(30):
        losses = [log_loss(labels, np.mean([stack[i] for i in [*picked, k]], axis=0),
                           labels=range(3)) for k in range(len(stack))]
        picked.append(int(np.argmin(losses)))
        if min(losses) < best:
            best, kept = min(losses), list(picked)
    return np.bincount(kept, minlength=len(stack)) / len(kept)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_weights_are_those_of_ensemble_selection(seed):
    stack = stack_of(1.0, 1.3, 0.2, seed=seed)
    weights = greedy_weights(stack, LABELS)
    np.testing.assert_allclose(weights, greedy_by_hand(stack, LABELS))
    assert weights.sum() == pytest.approx(1)


def test_simplex_weights_have_the_least_loss_and_none_is_tiny():
    stack = stack_of(1.0, 1.2, -0.5, 0.9)
    weights = simplex_weights(stack, LABELS)
    assert weights.sum() == pytest.approx(1) and weights[2] == 0

    def loss(weights):
        return log_loss(LABELS, np.tensordot(weights, stack, axes=1))

    rng = np.random.default_rng(0)
    others = [*rng.dirichlet(np.ones(4), 100), *np.eye(4)]
    assert all(loss(weights) <= loss(other) + 1e-4 for other in others)


@pytest.mark.parametrize(("weights", "kept"), [
    ([0.989, 0.0099, 0.0011], [1, 0, 0]), ([0.5, 0.49, 0.01], [0.5, 0.49, 0.01])])
def test_weights_below_a_hundredth_are_none(monkeypatch, weights, kept):
    monkeypatch.setattr(blend, "least_loss_weights", lambda stack, labels: np.array(weights))
    assert simplex_weights(None, None) == pytest.approx(kept)


# ---------------------------------------------------------------- recipes

def test_a_recipe_blends_calibrated_means_of_views_and_reads_no_source_of_weight_0():
    sources = {"a": {"v": answers(1.0, 0), "w": answers(1.0, 1), "x": answers(1.0, 2)},
               "b": {"v": answers(0.5, 3)}}
    recipe = Recipe({"a": ("v", "x"), "b": ("v",), "c": ("v",)}, {"a": 2.0, "b": 0.5, "c": 1.0},
                    {"a": 0.75, "b": 0.25, "c": 0.0}, {"c": "why"})
    assert recipe.weighted_names() == ["a", "b"]
    mean = (sources["a"]["v"].astype(float) + sources["a"]["x"]) / 2
    by_hand = 0.75 * np.sqrt(mean) / np.sqrt(mean).sum(1, keepdims=True)
    squares = sources["b"]["v"].astype(float) ** 2
    by_hand += 0.25 * squares / squares.sum(1, keepdims=True)
    np.testing.assert_allclose(recipe.probs(sources), by_hand, atol=1e-6)


def test_recipes_hold_what_was_fitted_on_their_rows():
    sources = {"good": {"v": answers(1.5, 0), "hurts": answers(-1.5, 1)},
               "also": {"v": answers(1.0, 2)}, "noise": {"v": answers(0.0, 3)}}
    recipes = fit_recipes(sources, LABELS, ["mean", "simplex"])
    assert list(recipes) == ["mean", "simplex"]
    mean, simplex = recipes["mean"], recipes["simplex"]
    assert mean.views == simplex.views == {"good": ("v",), "also": ("v",), "noise": ("v",)}
    assert mean.weights == {"good": 0.5, "also": 0.5, "noise": 0.0}
    assert mean.left_out == {"noise": "no better than the class shares"}
    for name, of in mean.temperature.items():
        assert of == fit_temperature(LABELS, sources[name]["v"])
    stack = np.stack([with_temperature(sources[name]["v"], mean.temperature[name])
                      for name in ("good", "also")])
    assert list(simplex.weights.values()) == pytest.approx([*simplex_weights(stack, LABELS), 0.0])
    lone = fit_recipes({"noise": sources["noise"]}, LABELS, ["mean"])["mean"]
    assert lone.weights == {"noise": 1.0} and lone.left_out == {}


@pytest.mark.parametrize("weights", [{"a": 1.1, "b": -0.1}, {"a": 0.5, "b": 0.4},
                                     {"a": 0.6, "b": 0.5}])
def test_weights_of_a_blend_are_shares(weights):
    with pytest.raises(RunError, match="must be >= 0 and sum to 1, got"):
        Blend({}, {}, weights, {}, "mean", 0.5, 0.5, {})
    assert Blend({}, {}, {"a": 1.0, "b": 1e-8}, {}, "mean", 0.5, 0.5, {}).cuts == ()


def test_predictions_are_blended_by_id_and_named_by_their_sources():
    ids = [f"i{i}" for i in range(N)]
    order = np.random.default_rng(0).permutation(N)
    probs = {"a": answers(1.0, 0), "b": answers(1.0, 1)}
    predictions = {
        "a": {"v": Predictions(np.array(ids), probs["a"], ("x", "y", "z"), "test", ("a",))},
        "b": {"v": Predictions(np.array(ids)[order], probs["b"][order], ("x", "y", "z"), "test",
                               ("b",))}}
    assert (aligned(predictions, ids)["b"]["v"] == probs["b"]).all()
    mixed = Blend({"a": ("v",), "b": ("v",), "c": ("v",)}, dict.fromkeys("abc", 1.0),
                  {"a": 0.25, "b": 0.75, "c": 0.0}, {}, "mean", 0.5, 0.5, {}).apply(predictions)
    assert mixed.sample_id.tolist() == ids and mixed.sources == ("a", "b")
    assert mixed.classes == ("x", "y", "z") and mixed.split == "test"
    assert mixed.probs.dtype == np.float32
    np.testing.assert_allclose(mixed.probs, 0.25 * probs["a"] + 0.75 * probs["b"], atol=1e-6)


# ---------------------------------------------------------------- nested

class Seen:
    """A recipe that knows its rows, and refuses to blend one of them."""

    def __init__(self, method, rows, log):
        self.method = method
        self.rows = rows
        self.log = log

    def probs(self, sources, judge):
        rows = sources["m"]["v"]
        held = set(rows[:, 0].astype(int).tolist())
        self.log.append((self.method, self.rows, held))
        return rows


@pytest.mark.parametrize("n_parts", [3, 5])
def test_no_row_is_blended_or_chosen_for_by_what_was_fitted_on_it(monkeypatch, n_parts):
    n = 30
    numbers = np.tile(np.arange(n, dtype=float)[:, None], (1, 3))
    labels, parts = np.arange(n) % 3, np.arange(n) % n_parts + 4
    fits_made, blended, scored = [], [], []

    def fit_recipes(sources, labels, methods, judge):
        rows = frozenset(sources["m"]["v"][:, 0].astype(int).tolist())
        assert labels.tolist() == [i % 3 for i in sorted(rows)]
        fits_made.append(rows)
        return {method: Seen(method, rows, blended) for method in methods}

    def score(labels, probs):
        scored.append(frozenset(np.asarray(probs)[:, 0].astype(int).tolist()))
        return 0.5

    monkeypatch.setattr(blend, "fit_recipes", fit_recipes)
    metric = replace(ACCURACY, function=score)
    judge = replace(JUDGES["shares"], loss=lambda labels, probs: 0.0)
    fits = Fits({"m": {"v": numbers}}, labels, parts, ["mean", "greedy"], judge)
    rows = nested(fits, metric)
    np.testing.assert_array_equal(rows.probs, numbers)
    np.testing.assert_array_equal(rows.answers, numbers)
    assert all(trained.isdisjoint(held) for _, trained, held in blended)

    every = [frozenset(np.flatnonzero(parts == part).tolist()) for part in np.unique(parts)]
    # each choice is made on the rows of all parts but one
    assert set(scored) == {frozenset(range(n)) - held for held in every}
    # and what blends a part is fitted on all rows of the others
    for held in every:
        assert any(trained == frozenset(range(n)) - held == frozenset(range(n)) - frozenset(rows)
                   for _, trained, rows in blended)
    # each pair of parts is left out by one fit, each part by one
    assert len(fits_made) == len(set(fits_made)) == n_parts * (n_parts - 1) // 2 + n_parts
    choose(fits, metric)
    assert len(fits_made) == n_parts * (n_parts - 1) // 2 + n_parts
    assert scored[-1] == frozenset(range(n))
    fitted(fits, metric, blend.Choice("greedy", False, {}))
    assert fits_made[-1] == frozenset(range(n))
    held_out = fits.held_out(frozenset([4]))["greedy"]
    assert (held_out[parts == 4] == 0).all() and (held_out[parts != 4] == numbers[parts != 4]).all()


def choice_of(monkeypatch, metric, probs_of, labels=LABELS):
    """The Choice among methods whose held-out rows are these."""
    fits = Fits({"m": {"v": np.zeros((len(labels), 3))}}, labels, np.arange(len(labels)) // 3 % 3,
                list(probs_of))
    monkeypatch.setattr(fits, "held_out", lambda left_out: probs_of)
    return choose(fits, metric)


def test_the_best_method_is_chosen_and_of_equal_ones_that_of_the_least_log_loss(monkeypatch):
    right = 0.6 * np.eye(3)[LABELS] + 0.4 / 3
    surer = 0.9 * np.eye(3)[LABELS] + 0.1 / 3
    worse = np.where(np.arange(N)[:, None] < 9, np.roll(surer, 1, axis=1), surer)
    choice = choice_of(monkeypatch, ACCURACY, {"a": right, "b": surer, "c": worse})
    assert choice.method == "b" and not choice.cuts_help
    assert choice.scores == {"a": 1.0, "b": 1.0, "c": 0.9}
    losses = choice_of(monkeypatch, METRICS["log_loss"], {"a": right, "b": worse, "c": surer})
    assert losses.method == "c"


def graded(scale, seed=0):
    """(n, C) whose expected grade is `scale` of the label's."""
    expected = np.clip(scale * LABELS + np.random.default_rng(seed).normal(0, 0.1, N), 0, 2)
    return np.maximum(0, 1 - np.abs(expected[:, None] - np.arange(3)))


def test_grades_are_cut_only_where_that_is_better_and_each_part_by_the_others(monkeypatch):
    low, exact = graded(0.6), graded(1.0)
    choice = choice_of(monkeypatch, KAPPA, {"low": low, "exact": 0.97 * exact + 0.01})
    assert choice.cuts_help == (choice.method == "low")
    assert choice.scores["low"] > KAPPA(LABELS, low) + 0.1
    assert not choice_of(monkeypatch, KAPPA, {"exact": np.eye(3)[LABELS]}).cuts_help
    for seed in range(4):       # thresholds fitted to noise may harm
        noise = answers(0.0, seed)
        plain = KAPPA(LABELS, noise)
        cut = KAPPA(LABELS, nested_cut(KAPPA, LABELS, noise, np.arange(N) // 3 % 3))
        choice = choice_of(monkeypatch, KAPPA, {"noise": noise})
        assert choice.scores == {"noise": max(plain, cut)} and choice.cuts_help == (cut > plain)

    parts = np.arange(N) // 3 % 3
    cut = nested_cut(KAPPA, LABELS, low, parts)
    for part in range(3):
        held = parts == part
        cuts = KAPPA.fit_cuts(LABELS[~held], low[~held])
        np.testing.assert_array_equal(cut[held], KAPPA.cut(low[held], cuts))
    np.testing.assert_array_equal(nested_cut(ACCURACY, LABELS, low, parts), low)


def test_a_blend_of_grades_is_scored_as_it_was_cut_without_each_part():
    sources = {"m": {"v": graded(0.6).astype(np.float32)}}
    parts = np.arange(N) // 3 % 3
    found, rows = fit_blend(sources, LABELS, parts, KAPPA)
    assert found.method == "mean" and len(found.cuts) == 2
    assert set(np.unique(rows.answers).tolist()) == {0, 1} and 0 < rows.probs.max() < 1
    assert found.score_nested == KAPPA(LABELS, rows.answers) > KAPPA(LABELS, rows.probs) + 0.1
    assert found.score == KAPPA.with_cuts(found.cuts)(LABELS, found.probs(sources))
    assert found.cuts == KAPPA.fit_cuts(LABELS, found.probs(sources))
    for part in range(3):
        held = parts == part
        recipe = fit_recipes(only_rows(sources, ~held), LABELS[~held], ["mean"])["mean"]
        probs = recipe.probs(only_rows(sources, held))
        np.testing.assert_array_equal(rows.probs[held], probs)
        cuts = KAPPA.fit_cuts(LABELS[~held], recipe.probs(only_rows(sources, ~held)))
        np.testing.assert_array_equal(rows.answers[held], KAPPA.cut(probs, cuts))


def test_two_parts_are_too_few_to_choose_and_one_to_score():
    sources = {"a": {"v": answers(1.0, 0)}, "b": {"v": answers(1.0, 1)}}
    found, rows = fit_blend(sources, LABELS, np.arange(N) // 3 % 2, ACCURACY)
    assert found.method == "mean" and found.score_nested == ACCURACY(LABELS, rows.probs)
    assert list(found.nested_by_method) == ["mean"]
    found, rows = fit_blend({"m": {"v": graded(0.6)}}, LABELS, np.arange(N) // 3 % 2, KAPPA)
    np.testing.assert_array_equal(rows.answers, rows.probs)
    with pytest.raises(RunError, match="at least two parts, got one"):
        fit_blend(sources, LABELS, np.zeros(N), ACCURACY)


def test_a_method_that_was_asked_for_is_the_only_one():
    sources = {"a": {"v": answers(1.0, 0)}, "b": {"v": answers(1.0, 1)}}
    parts = np.arange(N) // 3 % 3
    for method in ("greedy", "mean"):
        found, _ = fit_blend(sources, LABELS, parts, ACCURACY, method=method)
        assert found.method == method and list(found.nested_by_method) == [method]
    found, _ = fit_blend(sources, LABELS, parts, ACCURACY)
    assert list(found.nested_by_method) == ["mean", "greedy", "simplex"]
    lone, _ = fit_blend({"a": sources["a"]}, LABELS, parts, ACCURACY)
    assert list(lone.nested_by_method) == ["mean"] and lone.weights == {"a": 1.0}
    assert lone.score == ACCURACY(LABELS, lone.probs({"a": sources["a"]}))


# ---------------------------------------------------------------- rounds

def rounds_of(monkeypatch, right_by_names, draws=200, parts=PARTS):
    """(Blend, rows, results, names that were fitted) where a blend is right from a row to a row."""
    asked = []

    def nested(fits, metric, left_out):
        names = tuple(fits.sources)
        if not left_out:
            asked.append(names)
        assert metric is ACCURACY and fits.labels is LABELS and fits.methods == ["greedy"]
        assert fits.parts.tolist() == parts.tolist()
        first, last = right_by_names[names]
        is_right = (np.arange(N) >= first) & (np.arange(N) < last)
        said = np.where(is_right, LABELS, (LABELS + 1) % 3)
        probs = np.eye(3)[said] * ~np.isin(parts, list(left_out))[:, None]
        return OutOfFold(probs, probs)

    def blend_of(fits, metric, out_of_fold):
        names = tuple(fits.sources)
        weights = dict.fromkeys(names, 1 / len(names))
        return Blend(dict.fromkeys(names, ("v",)), dict.fromkeys(names, 2.0), weights, {}, "mean",
                     0.9, metric(fits.labels, out_of_fold.answers), {})

    monkeypatch.setattr(blend, "nested", nested)
    monkeypatch.setattr(blend, "blend_of", blend_of)
    sources = {name: {"v": None, "w": None} for name in ("a0", "b0", "a1", "a2")}
    found, rows, results = fit_rounds(
        sources, {"a0": 0, "b0": 0, "a1": 1, "a2": 2}, LABELS, parts, ACCURACY, "greedy",
        groups=np.arange(N), draws=draws, seed=3)
    return found, rows, results, asked


FIRST = ("a0", "b0")


def test_a_round_joins_unless_it_is_clearly_no_better(monkeypatch):
    found, rows, results, asked = rounds_of(monkeypatch, {
        FIRST: (0, 60), (*FIRST, "a1"): (0, 40), (*FIRST, "a2"): (0, 80)})
    assert asked == [FIRST, (*FIRST, "a1"), (*FIRST, "a2")]
    assert [result.used for result in results] == [True, False, True]
    assert [result.round for result in results] == [0, 1, 2]
    assert [result.score for result in results] == pytest.approx([60 / 90, 40 / 90, 80 / 90])
    assert [result.change for result in results] == pytest.approx([0, -20 / 90, 20 / 90])
    assert results[0].change_ci90 == [0.0, 0.0]
    for result in results[1:]:
        low, high = result.change_ci90
        # 20 of 90 rows differ: a standard error of 0.044
        assert low < result.change < high and high - low == pytest.approx(2 * 1.645 * 0.044,
                                                                         rel=0.25)
    assert ACCURACY(LABELS, rows.answers) == pytest.approx(80 / 90)
    assert found.weights == {"a0": 1 / 3, "b0": 1 / 3, "a2": 1 / 3, "a1": 0.0}
    assert found.left_out == {"a1": "its round does not help"}
    again = rounds_of(monkeypatch, {
        FIRST: (0, 60), (*FIRST, "a1"): (0, 40), (*FIRST, "a2"): (0, 80)})
    assert again[2] == results      # the seed's own
    assert found.views["a1"] == ("v", "w") and found.temperature["a1"] == 1.0
    assert found.views["a0"] == ("v",) and found.temperature["a0"] == 2.0


def test_a_round_that_may_help_joins_and_the_next_is_compared_with_it(monkeypatch):
    found, _, results, asked = rounds_of(monkeypatch, {
        FIRST: (0, 60), (*FIRST, "a1"): (7, 66), (*FIRST, "a1", "a2"): (7, 66)})
    assert asked[-1] == (*FIRST, "a1", "a2")
    # a row less in all, which may be chance; then none that differs, so nothing says that it helps
    assert [result.used for result in results] == [True, True, False]
    assert results[1].change == pytest.approx(-1 / 90) and results[1].change_ci90[1] > 0
    assert results[2].change == 0 and results[2].change_ci90 == [0, 0]
    assert list(found.left_out) == ["a2"]


def test_rows_of_a_group_are_kept_together_in_the_interval_of_a_round(monkeypatch):
    def width(groups):
        metric = ACCURACY
        before = np.eye(3)[np.where(np.arange(N) % 9 < 5, LABELS, (LABELS + 1) % 3)]
        after = np.eye(3)[np.where(np.arange(N) % 9 < 7, LABELS, (LABELS + 1) % 3)]
        rows = {1: OutOfFold(before, before), 2: OutOfFold(after, after)}
        monkeypatch.setattr(blend, "nested", lambda fits, *_: rows[len(fits.sources)])
        monkeypatch.setattr(blend, "blend_of", lambda *_: None)
        monkeypatch.setattr(blend, "with_unused", lambda blend, sources: blend)
        _, _, (_, second) = fit_rounds({"a": {}, "b": {}}, {"a": 0, "b": 1}, LABELS, PARTS, metric,
                                       groups=groups, draws=300)
        low, high = second.change_ci90
        return high - low

    assert width(np.arange(N) % 9) > 2 * width(np.arange(N))


def test_rows_are_reported_by_the_rounds_that_the_other_parts_choose(monkeypatch):
    """The second round is right where the first is not in one part alone, and wrong elsewhere."""
    parts = np.arange(N) * 3 // N
    found, rows, results, _ = rounds_of(monkeypatch, {
        FIRST: (30, 90), (*FIRST, "a1"): (0, 80), (*FIRST, "a2"): (30, 90),
        (*FIRST, "a1", "a2"): (0, 80)}, parts=parts)
    assert [result.used for result in results] == [True, True, False]
    is_right = (rows.answers.argmax(1) == LABELS)
    # by the last two parts, the second round only costs ten rows
    assert not is_right[:30].any() and is_right[30:80].all() and not is_right[80:].any()
    assert found.score_nested == ACCURACY(LABELS, rows.answers) < results[1].score
    assert found.weights["a1"] > 0      # all rows choose it for the test images


def test_on_two_parts_rows_are_those_of_the_rounds_that_join(monkeypatch):
    _, rows, results, _ = rounds_of(monkeypatch, {
        FIRST: (30, 90), (*FIRST, "a1"): (0, 80), (*FIRST, "a2"): (30, 90),
        (*FIRST, "a1", "a2"): (0, 80)}, parts=np.arange(N) * 2 // N)
    assert [result.used for result in results] == [True, True, False]
    assert ACCURACY(LABELS, rows.answers) == results[1].score


def test_what_is_nested_without_a_part_is_fitted_on_no_row_of_it():
    """The same rows whatever that part says, and none of it."""
    sources = {f"m{i}": {"v": answers(1.0, i)} for i in range(3)}
    parts = np.arange(N) % 4
    held = parts == 2
    spoilt = {name: {"v": np.where(held[:, None], 1 / 3, views["v"])}
              for name, views in sources.items()}
    labels = np.where(held, 0, LABELS)
    methods = ["mean", "greedy"]
    for metric in (ACCURACY, KAPPA):
        rows = blend.nested(Fits(sources, LABELS, parts, methods), metric, frozenset([2]))
        other = blend.nested(Fits(spoilt, labels, parts, methods), metric, frozenset([2]))
        assert not rows.probs[held].any() and rows.probs[~held].any(1).all()
        np.testing.assert_array_equal(rows.probs, other.probs)
        np.testing.assert_array_equal(rows.answers, other.answers)


def test_what_a_source_adds_is_the_blend_less_the_blend_of_the_others():
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    half = np.arange(240) % 2 == 0
    parts = np.arange(240) // 48

    def source(known):
        """Right on the rows `known`, a guess elsewhere."""
        odds = np.exp(rng.standard_normal((240, 3)) + 4.0 * np.eye(3)[labels] * known[:, None])
        return {"v": odds / odds.sum(1, keepdims=True)}

    sources = {"even": source(half), "odd": source(~half)}
    blend, rows = fit_blend(sources, labels, parts, METRICS["accuracy"], "mean")
    adds = what_each_adds(blend, sources, labels, parts, METRICS["accuracy"],
                          groups=np.arange(240), draws=50)
    alone = METRICS["accuracy"](labels, sources["odd"]["v"])
    both = METRICS["accuracy"](labels, rows.answers)
    assert adds["even"]["adds"] == pytest.approx(both - alone)
    low, high = adds["even"]["adds_ci90"]
    assert 0 < low < adds["even"]["adds"] < high
    single = replace(blend, weights={"even": 1.0, "odd": 0.0})
    assert what_each_adds(single, sources, labels, parts, METRICS["accuracy"],
                          groups=np.arange(240)) == {}
