"""What out-of-fold predictions say about classes, labels and images; every row by models that did
not see it.

    matrix = confusion(labels, probs)                    # labels (n,) int, probs (n, C)
    rows = suspect_labels(labels, probs, most=12)        # look at these images: the label may be wrong
"""
from typing import NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix

SUSPECT_PROBABILITY = 0.8          # probability of another class from which on a label is suspect


def confusion(labels, probs):
    """(C, C) counts: row the label, column the likeliest class."""
    return confusion_matrix(labels, probs.argmax(1), labels=np.arange(probs.shape[1]))


def per_class(matrix):
    """(C, 3): recall, precision and F1 of each class by its counts; 0 where a class is never the
    label, or never the answer."""
    hits = np.diag(matrix)
    of_label = matrix.sum(1)
    of_answer = matrix.sum(0)
    return np.stack([hits / np.maximum(of_label, 1), hits / np.maximum(of_answer, 1),
                     2 * hits / np.maximum(of_label + of_answer, 1)], axis=1)


def most_mistaken(matrices, most):
    """Classes in their order, at most `most`: all, or those with the most mistakes as label or
    answer over the matrices."""
    wrong = sum(m + m.T for m in matrices).astype(np.int64)
    np.fill_diagonal(wrong, 0)
    return np.sort(np.argsort(-wrong.sum(1), kind="stable")[:most])


def confused_pairs(matrices, most):
    """[(label, answer)] with the most mistakes over the matrices together, at most `most`, none
    without a mistake."""
    wrong = sum(matrices).astype(np.int64)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = np.stack(np.unravel_index(order, wrong.shape), axis=1)
    return [(i, j) for i, j in pairs.tolist() if wrong[i, j]]


def examples_of(pair, labels, probs, most):
    """Rows with the pair's label that are taken for its other class, the surest first."""
    rows = np.flatnonzero((labels == pair[0]) & (probs.argmax(1) == pair[1]))
    return rows[np.argsort(-probs[rows, pair[1]], kind="stable")][:most]


def suspect_labels(labels, probs, most):
    """Rows whose likeliest class is another one than the label with a probability of at least SURE,
    the surest first."""
    rows = np.flatnonzero((probs.argmax(1) != labels) & (probs.max(1) >= SUSPECT_PROBABILITY))
    return rows[np.argsort(-probs[rows].max(1), kind="stable")][:most]


def hardest(labels, probs, most, without=()):
    """Rows with the least probability of their label, the least first; none of `without`."""
    order = np.argsort(probs[np.arange(len(labels)), labels], kind="stable")
    return order[~np.isin(order, without)][:most]


class Bin(NamedTuple):
    """Predictions of about the same confidence: its mean, the share that is right, how many."""

    confidence: float
    accuracy: float
    count: int


def reliability(labels, probs, n_bins=10):
    """(Bins of equal width that hold rows, expected calibration error: the mean |confidence -
    accuracy| over rows)."""
    confidence = probs.max(1)
    right = probs.argmax(1) == labels
    index = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    bins = [Bin(float(confidence[index == k].mean()), float(right[index == k].mean()),
                int((index == k).sum())) for k in np.unique(index)]
    return bins, sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / len(labels)


def duplicate_sets(sample_id, label, sets):
    """[rows] of each of the sets of sample ids, as far as they are there, those with different
    labels first."""
    row_of = {sample: row for row, sample in enumerate(sample_id.tolist())}
    found = [[row_of[i] for i in ids if i in row_of] for ids in sets]
    return sorted((rows for rows in found if len(rows) > 1),
                  key=lambda rows: len(set(label[rows].tolist())) == 1)
