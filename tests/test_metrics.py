import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, log_loss, recall_score, roc_auc_score

from ensemble.judges import confident_scores
from ensemble.metrics import (
    METRICS,
    accuracy_temperature,
    bootstrap_ci90,
    calibrated,
    fit_cuts,
    fit_temperature,
    least_loss_weights,
    likelihoods,
    paired_change,
    percentile_ci90,
    resamples,
    row_losses,
    with_temperature,
)
from ensemble.tasks import SINGLE
from shift.mixtures import mixture_weights
from utils import UserError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 200)
PROBS = RNG.dirichlet(np.ones(4), 200) * 0.7 + np.eye(4)[LABELS] * 0.3


@pytest.mark.parametrize("rows", [slice(None), LABELS != 2, PROBS.argmax(1) != 1, slice(1)])
def test_scores_of_any_rows_are_scikit_learns(rows):
    labels, probs = LABELS[rows], PROBS[rows]
    answers = probs.argmax(1)
    assert METRICS["macro_f1"](labels, probs) == f1_score(labels, answers, average="macro")
    assert METRICS["micro_f1"](labels, probs) == pytest.approx(f1_score(labels, answers,
                                                                        average="micro"))
    assert METRICS["log_loss"](labels, probs) == pytest.approx(
        log_loss(labels, probs, labels=range(4)))
    assert METRICS["balanced_accuracy"](labels, probs) == pytest.approx(
        recall_score(labels, answers, labels=np.unique(labels), average="macro"))


def test_the_bootstrap_interval_holds_the_score_and_narrows_with_n():
    metric = METRICS["accuracy"]
    alone = np.arange(len(LABELS))
    low, high = bootstrap_ci90(metric, LABELS, PROBS, groups=alone, draws=300, seed=1)
    assert low < metric(LABELS, PROBS) < high
    labels, probs = np.tile(LABELS, 9), np.tile(PROBS, (9, 1))
    many = bootstrap_ci90(metric, labels, probs, groups=np.arange(len(labels)), draws=300, seed=1)
    assert (many[1] - many[0]) < 0.5 * (high - low)
    # nine copies of a row, kept together, tell no more than one
    together = bootstrap_ci90(metric, labels, probs, groups=np.tile(alone.astype(str), 9),
                              draws=300, seed=1)
    assert together == pytest.approx([low, high], abs=0.01)


def test_rows_of_a_group_are_drawn_together():
    groups, rng = np.array(["b", "a", "b", "c", "a", "b"]), np.random.default_rng(0)
    for rows in resamples(groups, 50, rng):
        counts = np.bincount(rows, minlength=6)
        assert counts[0] == counts[2] == counts[5] and counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    alone = next(resamples(np.array(["z", "y", "x"]), 1, np.random.default_rng(1)))
    np.testing.assert_array_equal(alone, np.random.default_rng(1).integers(0, 3, 3))


def test_the_temperature_of_a_calibrated_prediction_is_1_and_an_overconfident_one_is_undone():
    probs = RNG.dirichlet(np.ones(3), 20000)
    labels = np.array([RNG.choice(3, p=p) for p in probs])
    assert fit_temperature(labels, probs) == pytest.approx(1, abs=0.05)
    assert fit_temperature(labels, with_temperature(probs, 0.5)) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", ["macro_f1", "accuracy", "log_loss"])
def test_harder_rows_are_seen_without_their_labels(name):
    rng, metric = np.random.default_rng(1), METRICS[name]

    def rows(n, spread):
        probs = rng.dirichlet(np.full(4, spread), n)
        return (rng.random((n, 1)) > probs.cumsum(1)[:, :-1]).sum(1), probs

    labels, easy = rows(2000, 0.2)
    truth, hard = rows(2000, 0.6)
    for sharpened in (1.0, 0.5):       # overconfident predictions are calibrated first
        here, alike, there = confident_scores(metric, labels, with_temperature(easy, sharpened),
                                              with_temperature(hard, sharpened), n_scored=2000,
                                              seed=0)
        assert here == pytest.approx(metric(labels, easy),
                                     abs=0.03) and alike == pytest.approx(here, abs=0.01)
        assert there == pytest.approx(metric(truth, hard), abs=0.03)


def test_a_small_sample_of_many_classes_scores_lower_than_a_large_one_of_the_same():
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.full(17, 0.1), 2000)
    labels = (rng.random((2000, 1)) > probs.cumsum(1)[:, :-1]).sum(1)
    here, alike, _ = confident_scores(METRICS["macro_f1"], labels[:80], probs[:80], probs,
                                      n_scored=80, seed=0)
    assert here < alike - 0.01
    pooled, again, _ = confident_scores(METRICS["macro_f1"], labels[:80], probs[:80], probs,
                                        n_scored=2000, seed=0)
    # a fold's rows stand for all that were scored
    assert pooled == pytest.approx(again, abs=0.005)


@pytest.mark.parametrize(("right", "temperature"), [(1.0, 0.1), (0.0, 10.0)])
def test_a_sureness_that_cannot_equal_the_accuracy_comes_as_near_as_it_can(right, temperature):
    probs = np.tile([0.6, 0.4], (20, 1))
    assert accuracy_temperature(np.full(20, 0 if right else 1), probs) == pytest.approx(temperature)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_best_where_it_should_be_and_within_its_limits(name):
    metric = METRICS[name]
    best, worst = metric(LABELS, np.eye(4)[LABELS]), metric(LABELS, np.eye(4)[(LABELS + 2) % 4])
    low, high = metric.limits
    assert best == pytest.approx(high if metric.sign > 0 else low, abs=1e-6)
    assert low <= min(best, worst) and metric.sign * (best - metric(LABELS,
                                                                    PROBS)) > 0 < metric.sign * (
                                                                        best - worst)


def test_scores_are_scikit_learns():
    assert METRICS["auc"](LABELS, PROBS) == pytest.approx(roc_auc_score(LABELS, PROBS,
                                                                        multi_class="ovr"))
    binary = np.stack([1 - PROBS[:, 0], PROBS[:, 0]], axis=1)
    assert METRICS["auc"](LABELS == 0, binary) == pytest.approx(roc_auc_score(LABELS == 0,
                                                                              PROBS[:, 0]))
    assert METRICS["quadratic_kappa"](LABELS, np.eye(4)[(LABELS + 1) % 4]) == pytest.approx(
        cohen_kappa_score(LABELS, (LABELS + 1) % 4, weights="quadratic"))


def test_auc_of_rows_that_lack_classes():
    auc, rows = METRICS["auc"], LABELS < 2
    seen = [roc_auc_score(LABELS[rows] == k, PROBS[rows][:, k]) for k in (0, 1)]
    assert auc(LABELS[rows], PROBS[rows]) == pytest.approx(np.mean(seen))
    assert auc(np.ones(5, int), np.full((5, 2), 0.5)) == 0.5


def test_map_at_5_counts_ranks():
    probs = np.array([[6, 5, 4, 3, 2, 1, 0]] * 4) / 21
    assert METRICS["map_at_5"](np.array([0, 1, 4, 5]),
                               probs) == pytest.approx((1 + 1 / 2 + 1 / 5 + 0) / 4)


def test_fitted_thresholds_undo_a_grade_that_is_seen_too_low():
    rng, kappa = np.random.default_rng(0), METRICS["quadratic_kappa"]
    labels = rng.integers(0, 5, 2000)
    seen = np.clip(0.6 * labels + rng.normal(0, 0.2, 2000), 0, 4)
    # the expected grade is `seen`
    probs = np.maximum(0, 1 - np.abs(seen[:, None] - np.arange(5)))
    cuts = kappa.fit_cuts(labels[:1000], probs[:1000])
    assert cuts == pytest.approx((0.3, 0.9, 1.5, 2.1), abs=0.15) and list(cuts) == sorted(cuts)
    fitted = kappa.with_cuts(cuts)(labels[1000:], probs[1000:])
    assert fitted > kappa(labels[1000:], probs[1000:]) + 0.2
    assert fitted == kappa(labels[1000:], kappa.cut(probs, cuts)[1000:])


def test_an_unknown_metric_names_the_nearest():
    assert SINGLE.find_metric("auto") is SINGLE.find_metric("macro-F1") is METRICS["macro_f1"]
    assert SINGLE.find_metric("auto",
                       has_class_columns=True) is METRICS["log_loss"] and SINGLE.find_metric(
                           "MAP@5") is METRICS["map_at_5"]
    with pytest.raises(UserError, match="did you mean 'macro_f1'"):
        SINGLE.find_metric("macrof1")


def test_mixture_recovers_shares_through_a_blurry_classifier():
    rng = np.random.default_rng(0)
    confusion = np.array([[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]])
    true = rng.choice(3, 5000, p=(0.2, 0.5, 0.3))
    seen = np.array([rng.choice(3, p=confusion[t]) for t in true])
    assert mixture_weights(confusion[:, seen].T) == pytest.approx((0.2, 0.5, 0.3), abs=0.06)


def test_grades_are_cut_halfway_where_no_thresholds_were_fitted():
    probs = np.array([[0.45, 0.1, 0.45], [0.6, 0.4, 0.0]])
    assert METRICS["quadratic_kappa"].cut(probs, ()).argmax(1).tolist() == [1, 0]
    assert METRICS["macro_f1"].cut(probs, ()) is probs


def test_a_class_of_one_row_counts_as_much_as_any():
    labels, probs = np.array([0, 0, 1, 2, 2]), np.eye(4)[[0, 0, 0, 2, 2]]
    assert METRICS["macro_f1"](labels, probs) == f1_score(labels, probs.argmax(1), average="macro")
    assert METRICS["macro_f1"](labels, probs) == pytest.approx((0.8 + 0 + 1) / 3)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_auc_is_scikit_learns_for_any_number_of_classes(n_classes):
    rng = np.random.default_rng(n_classes)
    probs = rng.dirichlet(np.ones(n_classes), 40)
    labels = np.array([rng.choice(n_classes, p=p) for p in probs])
    labels[labels == n_classes - 1] = 0
    labels[7] = n_classes - 1           # a class of one row
    scored = probs[:, 1] if n_classes == 2 else probs
    assert METRICS["auc"](labels, probs) == pytest.approx(
        roc_auc_score(labels, scored, multi_class="ovr"))


@pytest.mark.parametrize(("labels", "said"), [
    ([0, 3, 3, 0, 3], [0, 3, 1, 0, 3]), ([0, 1, 1, 0, 1], [0, 1, 0, 0, 1]),
    ([3, 3, 3, 2, 2], [0, 3, 3, 2, 3])])
def test_kappa_counts_the_steps_between_grades_that_nobody_has(labels, said):
    assert METRICS["quadratic_kappa"](np.array(labels), np.eye(4)[said]) == pytest.approx(
        cohen_kappa_score(labels, said, weights="quadratic", labels=range(4)))


def test_one_grade_for_all_is_no_agreement():
    kappa = METRICS["quadratic_kappa"]
    assert kappa(np.full(5, 2), np.eye(4)[np.full(5, 2)]) == 0
    assert kappa(np.full(5, 2), np.eye(4)[np.full(5, 1)]) == 0
    # one grade for all says nothing about thresholds: they stay halfway
    for row in ([0.0, 1.0, 0.0], [0.7, 0.3, 0.0]):
        assert fit_cuts(np.ones(5, int), np.tile(row, (5, 1))) == (0.5, 1.5)


@pytest.mark.parametrize("seed", range(6))
def test_no_single_threshold_can_be_moved_to_a_better_kappa(seed):
    rng = np.random.default_rng(seed)
    n = 40
    labels = rng.integers(0, 4, n) * (rng.random(n) < 0.8)
    expected = np.clip(0.5 * labels + rng.normal(0.3, 0.4, n), 0, 3)
    probs = np.maximum(0, 1 - np.abs(expected[:, None] - np.arange(4)))
    cuts = fit_cuts(labels, probs, sweeps=9)

    def kappa(cuts):
        return cohen_kappa_score(labels, np.searchsorted(cuts, expected, side="right"),
                                 weights="quadratic", labels=range(4))

    best = METRICS["quadratic_kappa"].with_cuts(cuts)(labels, probs)
    assert best == pytest.approx(kappa(cuts)) and list(cuts) == sorted(cuts)
    ordered = np.sort(expected)
    places = (ordered[1:] + ordered[:-1]) / 2
    for k in range(3):
        for place in [*places, *(np.arange(1, 4) - 0.5)]:
            moved = list(cuts)
            moved[k] = place
            if moved == sorted(moved):
                assert kappa(moved) <= best + 1e-9
    assert METRICS["accuracy"].fit_cuts(labels, probs) == ()
    assert METRICS["accuracy"].cut(probs, ()) is probs


def test_a_grade_is_reached_at_its_threshold():
    probs = np.array([[0.5, 0.5], [0.51, 0.49], [0.2, 0.8]])
    assert METRICS["quadratic_kappa"].cut(probs, ()).argmax(1).tolist() == [1, 0, 1]
    assert METRICS["quadratic_kappa"].cut(probs, (0.8,)).argmax(1).tolist() == [0, 0, 1]
    assert fit_cuts(np.array([1, 0, 1]), probs) == (0.5,)      # nothing is better than halfway


def test_the_interval_of_a_mean_is_the_normal_one_and_its_seeds_own():
    values = np.random.default_rng(0).normal(0, 1, 400)
    values -= values.mean()

    def mean(rows):
        return values[rows].mean()

    low, high = percentile_ci90(mean, np.arange(400), 4000, 1)
    error = values.std() / np.sqrt(400)
    assert (low / error, high / error) == pytest.approx((-1.645, 1.645), abs=0.06)
    assert percentile_ci90(mean, np.arange(400), 50, 1) == percentile_ci90(
        mean, np.arange(400), 50, 1) != percentile_ci90(mean, np.arange(400), 50, 2)


@pytest.mark.parametrize("name", ["accuracy", "log_loss"])
def test_a_change_is_scored_on_the_same_rows_and_larger_is_better(name):
    metric = METRICS[name]
    worse = np.roll(PROBS, 1, axis=1)
    groups = np.arange(200) // 2
    change, (low, high) = paired_change(metric, LABELS, worse, PROBS, groups=groups, draws=60,
                                        seed=5)
    assert change == pytest.approx(metric.sign * (metric(LABELS, PROBS) - metric(LABELS, worse)))
    assert 0 < low < change < high
    back, interval = paired_change(metric, LABELS, PROBS, worse, groups=groups, draws=60, seed=5)
    assert (back, *interval) == pytest.approx((-change, -high, -low))
    same, interval = paired_change(metric, LABELS, PROBS, PROBS, groups=groups, draws=9, seed=5)
    assert (same, *interval) == (0, 0, 0)
    other = paired_change(metric, LABELS, worse, PROBS, groups=groups, draws=60, seed=6)
    assert other[0] == change and other[1] != [low, high]


@pytest.mark.parametrize(("labels", "temperature"), [(0, 0.1), (1, 10.0)])
def test_a_temperature_lies_between_a_tenth_and_ten(labels, temperature):
    probs = np.tile([0.6, 0.4], (20, 1))
    assert fit_temperature(np.full(20, labels), probs) == pytest.approx(temperature, rel=1e-3)


def test_a_temperature_softens_log_probabilities():
    probs = np.array([[0.8, 0.2], [0.5, 0.5], [1.0, 0.0]])
    softer = with_temperature(probs, 2.0)
    odds = (0.8 / 0.2) ** 0.5
    assert softer[0] == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])
    assert softer.dtype == np.float32 and softer[1].tolist() == [0.5, 0.5]
    assert softer[2, 1] == pytest.approx(1e-7 ** 0.5, rel=1e-3) and np.isfinite(softer).all()
    assert with_temperature(probs, 1.0) == pytest.approx(probs, abs=1e-6)


def test_calibrated_rows_have_the_least_loss_of_any_temperature():
    found = calibrated(LABELS, PROBS)
    assert fit_temperature(LABELS, found) == pytest.approx(1, abs=0.01)
    for temperature in (0.5, 0.9, 1.1, 2.0):
        other = with_temperature(PROBS, temperature * fit_temperature(LABELS, PROBS))
        assert row_losses(LABELS, found).mean() < row_losses(LABELS, other).mean()


def test_losses_and_likelihoods_are_of_the_label_and_bounded():
    probs = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    assert row_losses(np.array([1, 1, 0]), probs) == pytest.approx(
        -np.log([0.75, 1e-7, 0.5]))
    stack = np.stack([probs, probs[::-1]])
    assert likelihoods(stack, np.array([1, 1, 0])).tolist() == [[0.75, 1e-7, 0.5],
                                                               [0.5, 1e-7, 0.25]]


def test_weights_of_least_loss_are_better_than_any_others():
    rng = np.random.default_rng(1)
    stack = np.stack([PROBS, with_temperature(rng.dirichlet(np.ones(4), 200), 1.0),
                      0.5 * np.eye(4)[LABELS] + 0.5 * rng.dirichlet(np.ones(4), 200)])
    weights = least_loss_weights(stack, LABELS)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()

    def loss(weights):
        return row_losses(LABELS, np.tensordot(weights, stack, axes=1)).mean()

    assert all(loss(weights) <= loss(other) + 1e-5 for other in rng.dirichlet(np.ones(3), 200))


def test_confident_scores_are_their_seeds_own():
    def scores(seed):
        return confident_scores(METRICS["accuracy"], LABELS, PROBS, PROBS[:50], n_scored=200,
                                seed=seed, draws=5)

    assert scores(1) == scores(1) != scores(2)
