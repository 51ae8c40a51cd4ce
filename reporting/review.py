"""What out-of-fold predictions say about classes, labels and images.

No model has seen the rows it predicts here.

    matrix = confusion(labels, probs)                   # labels (n,) int, probs (n, C)
    rows = suspect_labels(labels, probs, most=12)       # images whose label may be wrong
"""
from typing import NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix

# how many times as likely as the label another class makes it suspect. Where predictions are
# calibrated about half of the images listed then have a wrong label, and most wrong labels are
# listed (benchmarks/records/2026-11-30-mended-labels.md).
SUSPECT_RATIO = 5


def confusion(labels, probs):
    """(C, C) counts, by label (row) and likeliest class (column)."""
    return confusion_matrix(labels, probs.argmax(1), labels=np.arange(probs.shape[1]))


def per_class(matrix):
    """(C, 3): recall, precision and F1 of each class; 0 for a class without labels or answers."""
    hits = np.diag(matrix)
    of_label = matrix.sum(1)
    of_answer = matrix.sum(0)
    recall = hits / np.maximum(of_label, 1)
    precision = hits / np.maximum(of_answer, 1)
    f1 = 2 * hits / np.maximum(of_label + of_answer, 1)
    return np.stack([recall, precision, f1], axis=1)


def most_mistaken(matrices, most):
    """At most `most` classes, in class order: those with the most mistakes over the matrices.

    A mistake counts for the label and for the answer.
    """
    wrong = sum(m + m.T for m in matrices).astype(np.int64)
    np.fill_diagonal(wrong, 0)
    return np.sort(np.argsort(-wrong.sum(1), kind="stable")[:most])


def confused_pairs(matrices, most):
    """At most `most` pairs [(label, answer)] with the most mistakes over the matrices together."""
    wrong = sum(matrices).astype(np.int64)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = np.stack(np.unravel_index(order, wrong.shape), axis=1)
    return [(i, j) for i, j in pairs.tolist() if wrong[i, j]]


def examples_of(pair, labels, probs, most):
    """Rows of a pair (label, answer): labelled the one, taken for the other, the surest first."""
    label, answer = pair
    rows = np.flatnonzero((labels == label) & (probs.argmax(1) == answer))
    return rows[np.argsort(-probs[rows, answer], kind="stable")][:most]


def suspect_labels(labels, probs, most, without=()):
    """Rows with a class SUSPECT_RATIO times as likely as the label, the largest ratio first, except
    rows `without`."""
    own = np.maximum(probs[np.arange(len(labels)), labels], 1e-7)
    ratio = probs.max(1) / own
    rows = np.flatnonzero(ratio >= SUSPECT_RATIO)
    rows = rows[~np.isin(rows, without)]
    return rows[np.argsort(-ratio[rows], kind="stable")][:most]


def hardest(labels, probs, most, without=()):
    """Rows with the least probability of their label, the least first, except rows `without`."""
    order = np.argsort(probs[np.arange(len(labels)), labels], kind="stable")
    return order[~np.isin(order, without)][:most]


class Bin(NamedTuple):
    """Predictions of similar confidence: mean confidence, share that is right, number."""

    confidence: float
    accuracy: float
    count: int


def reliability(labels, probs, n_bins=10):
    """([Bin], expected calibration error) with bins of equal width; empty ones are left out.

    The error is the mean over rows of |confidence - accuracy| of the row's bin.
    """
    confidence = probs.max(1)
    right = probs.argmax(1) == labels
    index = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    bins = []
    for k in np.unique(index):
        rows = index == k
        mean = float(confidence[rows].mean())
        bins.append(Bin(mean, float(right[rows].mean()), int(rows.sum())))
    error = sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / len(labels)
    return bins, error


def duplicate_sets(sample_id, label, sets):
    """Rows of each set of sample ids with at least two rows here, different labels first."""
    row_of = {sample: row for row, sample in enumerate(sample_id.tolist())}
    found = [[row_of[i] for i in ids if i in row_of] for ids in sets]
    several = [rows for rows in found if len(rows) > 1]
    return sorted(several, key=lambda rows: len(set(label[rows].tolist())) == 1)
