"""Classifiers on the features of a network that is not trained: one linear layer per fold.

    heads = fit_heads(features, labels, folds, weigh)      # {fold: Linear}
    logits = heads[0].logits(images_features)

A logistic regression of one class an image, one of each class where images show several, a ridge
regression of numbers: LAYERS.

Blind: a fold's classifier, its standardisation and its strength come from the other folds' rows.

Letters: n images, m versions of each (views, as they are and distorted), D features, C classes.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logsumexp, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from system.parallel import parallel_map

# tried inverse penalties: of the mean loss of an image against half the squared weights
STRENGTHS = (3.0, 10.0, 30.0, 100.0)
MOST_ITERATIONS = 2000
MOST_CELLS = 1_000_000      # rows times classes that a classifier is fitted on
# of an image that is predicted; classifiers learn from the first. Chosen out of fold:
# benchmarks/records/2026-11-30-frozen-members.md
MOST_VIEWS = 2
UNSEEN = 0.5      # images that a class without any counts as


@dataclass(frozen=True)
class Linear:
    """logits (n, C) = features (n, D) @ weight.T + bias. weight (C, D), bias (C,) float32.

    strength: of STRENGTHS. loss: the mean of its Layer's on the rows that it was fitted on.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float = 0.0
    loss: float = 0.0

    def logits(self, features):
        return features @ self.weight.T + self.bias

    def losses(self, features, labels):
        """Log loss (n,) of rows (n, D)."""
        return log_losses(self.logits(features), labels)


class Layer(NamedTuple):
    """How targets of one kind are fitted. fit(features (n, D), targets, weigh, strength) ->
    (weight (C, D), bias (C,)) float64; weigh() -> the weights of classes. losses(logits, targets)
    -> (n,). decode(logits) -> (n, C).
    """

    fit: Callable
    losses: Callable
    decode: Callable


def fit_heads(features, labels, folds, weigh, workers=1, values="shares"):
    """{fold: Linear} on features (m, n, D), each fitted on the rows of all other folds.

    labels (n,), or targets (n, C) of other values than shares, of LAYERS. folds (n,).
    weigh(labels) -> (C,): the weight of an image of each class in the loss of shares.
    """
    layer = LAYERS[values]
    return fit_by_fold(partial(fit_head, features, labels, weigh, layer=layer),
                       lambda head, rows: mean_loss(layer, head, features, labels, rows),
                       folds, STRENGTHS, workers)


def fit_by_fold(fit, loss, folds, strengths, workers=1):
    """{fold: classifier}: fit(rows (n,) bool, strength) on the rows of all other folds (n,).

    Rows of fold -1 are always trained on: it has no classifier, and helps to choose strengths.
    The strength of fold k's classifier has the least loss(classifier, rows) on the neighbouring
    folds k - 1 and k + 1, predicted by classifiers that saw neither that fold nor k. A classifier
    without two neighbouring folds serves both. With two folds nothing is left to choose on: the
    middle one.
    """
    names = np.unique(folds).tolist()
    chosen = dict.fromkeys(names, strengths[len(strengths) // 2])
    if len(names) > 2:
        pairs = list(zip(names, [*names[1:], names[0]], strict=True))
        losses = {name: {} for name in names}

        def try_out(some):
            tried = [(pair, strength) for strength in some for pair in pairs]
            heads = parallel_map(lambda each: fit(~np.isin(folds, each[0]), each[1]), tried,
                                 workers)
            for (pair, strength), head in zip(tried, heads, strict=True):
                for name, other in (pair, pair[::-1]):
                    losses[name].setdefault(strength, []).append(loss(head, folds == other))
            return {name: min(own, key=lambda s, own=own: np.mean(own[s]))
                    for name, own in losses.items()}

        *most, last = strengths
        chosen = try_out(most)
        if most[-1] in chosen.values():      # the last takes longest
            chosen = try_out([last])
    predicted = [name for name in names if name != -1]
    heads = parallel_map(lambda name: fit(folds != name, chosen[name]), predicted, workers)
    return dict(zip(predicted, heads, strict=True))


def few_enough(labels, n_versions, n_classes, rng):
    """Rows (sorted) of labels (n,) whose versions are at most MOST_CELLS: all, or where those are
    more, as many of each class."""
    most = max(n_classes, MOST_CELLS // (n_versions * n_classes))
    if len(labels) <= most:
        return np.arange(len(labels))
    rows = rng.permutation(len(labels))
    seen = np.zeros(n_classes, dtype=int)
    rank = np.zeros(len(labels), dtype=int)      # of an image in its class
    for row in rows:
        rank[row] = seen[labels[row]]
        seen[labels[row]] += 1
    return np.sort(rows[np.argsort(rank[rows], kind="stable")[:most]])


def mean_loss(layer, head, features, labels, rows):
    """Mean loss of a Linear over the versions of these rows."""
    return float(np.mean([layer.losses(head.logits(version[rows]), labels[rows])
                          for version in features]))


def fit_head(features, labels, weigh, rows, strength, layer=None):
    """The Linear of these rows (a mask) of features (m, n, D), which it standardises, as one layer.

    A class without rows is as unlikely everywhere as half an image makes it.
    """
    layer = layer or LAYERS["shares"]
    own = np.concatenate([version[rows] for version in features])
    answers = np.concatenate([labels[rows]] * len(features))
    scaler = StandardScaler().fit(own)
    weight, bias = layer.fit(scaler.transform(own), answers, partial(weigh, labels[rows]),
                             strength)
    weight /= scaler.scale_
    bias -= weight @ scaler.mean_
    head = Linear(weight.astype(np.float32), bias.astype(np.float32), strength)
    return replace(head, loss=float(layer.losses(head.logits(own), answers).mean()))


# ---------------------------------------------------------------- kinds of targets

def fit_classes(features, answers, weigh, strength):
    """The logistic regression of labels (n,)."""
    return fit_layer(features, answers, weigh(), strength)


def fit_layer(features, answers, class_weight, strength):
    """(weight (C, D), bias (C,)) float64 of the logistic regression on rows (n, D)."""
    n_classes = len(class_weight)
    weight = np.zeros((n_classes, features.shape[1]))
    bias = np.zeros(n_classes)
    seen, counts = np.unique(answers, return_counts=True)
    if len(seen) > 1:
        row_weight = class_weight[answers]
        regression = LogisticRegression(C=strength / row_weight.sum(), max_iter=MOST_ITERATIONS)
        regression.fit(features, answers, sample_weight=row_weight)
        # of two classes scikit-learn gives one row: the logit of the second
        fitted = seen[-len(regression.coef_):]
        weight[fitted] = regression.coef_
        bias[fitted] = regression.intercept_

    logits = features @ weight[seen].T + bias[seen]
    unseen = np.setdiff1d(np.arange(n_classes), seen)
    bias[unseen] = logsumexp(logits, axis=1).mean() + np.log(UNSEEN / counts.sum())
    return weight, bias


def log_losses(logits, labels):
    return logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]


def fit_each_class(features, answers, weigh, strength):
    """A logistic regression of each column of 0 and 1 (n, C)."""
    n, n_classes = answers.shape
    weight = np.zeros((n_classes, features.shape[1]))
    bias = np.zeros(n_classes)
    for k in range(n_classes):
        n_positive = answers[:, k].sum()
        if 0 < n_positive < n:
            regression = LogisticRegression(C=strength / n, max_iter=MOST_ITERATIONS)
            regression.fit(features, answers[:, k] > 0)
            weight[k] = regression.coef_[0]
            bias[k] = regression.intercept_[0]
        else:
            bias[k] = np.log((n_positive + UNSEEN) / (n - n_positive + UNSEEN))
    return weight, bias


def cell_losses(logits, targets):
    return (np.logaddexp(0, logits) - targets * logits).mean(1)


def fit_numbers(features, answers, weigh, strength):
    """The ridge regression of columns of numbers (n, C), each standardised."""
    scaler = StandardScaler().fit(answers)
    regression = Ridge(alpha=len(answers) / strength)
    regression.fit(features, scaler.transform(answers).reshape(answers.shape))
    weight = regression.coef_.reshape(answers.shape[1], -1) * scaler.scale_[:, None]
    return weight, np.atleast_1d(regression.intercept_) * scaler.scale_ + scaler.mean_


def squared_losses(numbers, targets):
    """Squared errors over the variance of their column."""
    variance = targets.var(0)
    return ((numbers - targets) ** 2 / np.where(variance > 0, variance, 1)).mean(1)


LAYERS = {
    "shares": Layer(fit_classes, log_losses, partial(softmax, axis=-1)),
    "chances": Layer(fit_each_class, cell_losses, expit),
    "numbers": Layer(fit_numbers, squared_losses, np.asarray),
}
