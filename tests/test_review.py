import numpy as np
import pytest

from reporting.review import (
    confused_pairs,
    confusion,
    duplicate_sets,
    examples_of,
    hardest,
    most_mistaken,
    reliability,
    suspect_labels,
)

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBS = np.array([[.9, .1, .0], [.1, .9, .0], [.4, .6, .0], [.2, .8, .0], [.7, .2, .1],
                  [.0, .1, .9]])


def test_the_confusion_matrix_counts_labels_by_answers():
    assert confusion(LABELS, PROBS).tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert confused_pairs([confusion(LABELS, PROBS)], 5) == [(0, 1), (1, 0)]
    assert most_mistaken([confusion(LABELS, PROBS)], 2).tolist() == [0, 1]


def test_the_rows_to_look_at_come_surest_first():
    assert examples_of((0, 1), LABELS, PROBS, 5).tolist() == [1, 2]
    labels = np.array([0, 0, 1, 1, 0])
    probs = np.array([[.02, .9, .08], [.12, .5, .38], [.0, .6, .4], [.39, .01, .6], [.01, .5, .49]])
    assert suspect_labels(labels, probs, 5).tolist() == [3, 4, 0]
    assert suspect_labels(labels, probs, 2, without=[3]).tolist() == [4, 0]
    assert hardest(LABELS, PROBS, 2, without=[1]).tolist() == [4, 2]


def test_reliability_of_predictions_that_are_right_as_often_as_they_say():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 20000)
    bins, error = reliability((rng.random(20000) > sure).astype(int),
                              np.stack([sure, 1 - sure], axis=1))
    assert error < 0.02 and sum(b.count for b in bins) == 20000
    assert all(b.accuracy == pytest.approx(b.confidence, abs=0.03) for b in bins)
    assert reliability(LABELS, np.eye(3)[[1, 1, 1, 0, 0, 0]])[1] == 1.0


def test_duplicates_are_sets_of_one_picture_with_different_labels_first():
    ids, sets = np.array(list("abcdefg")), [["a", "b", "f"], ["c", "d"], ["e", "gone"]]
    assert duplicate_sets(ids, np.array([0, 0, 1, 2, 0, 0, 0]), sets) == [[2, 3], [0, 1, 5]]
