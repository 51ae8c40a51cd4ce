"""A score on few rows, moved by what another model scores on many: on invented predictions."""
import numpy as np
import pytest

from ensemble.control import Control, control_variate
from ensemble.metrics import METRICS

ACCURACY = METRICS["accuracy"]
N, FEW = 500, 100


def predictions(labels, luck, own, share):
    """(n, 2), right where a mean of shared and own luck is above -0.8 sd."""
    right = np.sqrt(share) * luck + np.sqrt(1 - share) * own > -0.8
    picked = np.where(right, labels, 1 - labels)
    return np.eye(2)[picked] * 0.8 + 0.1


def drawn(seed, share):
    """(labels, one model's predictions, another's, the few rows)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, N)
    luck = rng.standard_normal(N)
    one, other = (predictions(labels, luck, rng.standard_normal(N), share) for _ in range(2))
    return labels, one, other, rng.permutation(N)[:FEW]


def errors(share, n=200):
    """(errors of the plain score, of the moved one, share of intervals that hold the truth)."""
    plain, moved, held = [], [], []
    for seed in range(n):
        labels, one, other, few = drawn(seed, share)
        truth = 0.7881      # P(z > -0.8)
        score = ACCURACY(labels[few], one[few])
        control = control_variate(ACCURACY, labels, one[few], other, few, groups=np.arange(FEW),
                                  draws=100, seed=seed)
        plain.append(score - truth)
        moved.append(score + control.change - truth)
        half = 1.645 * np.sqrt(score * (1 - score) / FEW) * control.width
        held.append(abs(moved[-1]) <= half)
    return np.array(plain), np.array(moved), np.mean(held)


def test_a_score_is_nearer_to_the_truth_the_more_alike_the_models_are():
    ratios = []
    for share in (0.0, 0.7, 0.95):
        plain, moved, held = errors(share)
        ratios.append(np.sqrt(np.mean(moved**2) / np.mean(plain**2)))
        assert abs(moved.mean()) < 0.01
        assert held > 0.83      # of 0.9: a normal interval of a share of 100
    assert ratios[0] < 1.05 and ratios[0] > ratios[1] > ratios[2]
    assert ratios[2] < 0.8


def test_the_same_model_scores_the_few_rows_as_it_scores_all():
    labels, one, _, few = drawn(0, 0.5)
    control = control_variate(ACCURACY, labels, one[few], one, few, groups=np.arange(FEW), draws=50,
                              seed=0)
    assert control.strength == pytest.approx(1)
    assert ACCURACY(labels[few], one[few]) + control.change == pytest.approx(ACCURACY(labels, one))
    assert control.width == pytest.approx(np.sqrt(FEW / N))


def test_no_rows_beside_the_few_and_no_luck_to_share_change_nothing():
    labels, one, other, few = drawn(1, 0.5)
    every = np.arange(N)
    assert control_variate(ACCURACY, labels, one, other, every, groups=every, draws=20,
                           seed=0) == Control()
    right = np.eye(2)[labels]
    assert control_variate(ACCURACY, labels, one[few], right, few, groups=np.arange(FEW), draws=20,
                           seed=0) == Control()


def test_a_model_that_is_right_where_the_other_is_wrong_counts_as_nothing():
    labels, one, _, few = drawn(2, 0.5)
    control = control_variate(ACCURACY, labels, one[few], 1 - one, few, groups=np.arange(FEW),
                              draws=50, seed=0)
    assert control == Control(0.0, 1.0, 0.0)


def test_whole_groups_are_resampled():
    labels, one, other, few = drawn(3, 0.8)
    alone, pairs = (control_variate(ACCURACY, labels, one[few], other, few, groups=groups,
                                    draws=300, seed=0)
                    for groups in (np.arange(FEW), np.arange(FEW) // 50))
    assert alone.strength != pairs.strength
