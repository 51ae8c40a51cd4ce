"""Scores by scikit-learn, their bootstrap intervals, and calibration by one temperature.

    metric = METRICS["macro_f1"]
    score = metric(labels, probs)                        # labels (n,) int, probs (n, C)
    low, high = bootstrap_ci90(metric, labels, probs, draws=1000, seed=0)
"""
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from sklearn import metrics as sk

from utils import UserError, nearest

MOST_DRAWN_ROWS = 4000      # of which a score by sureness is the mean

@dataclass(frozen=True)
class Metric:
    """score(labels, probs) -> float, larger is better when `sign` is 1. Scores are reported as the contest does."""

    name: str
    function: object
    sign: int = 1

    def __call__(self, labels, probs):
        return float(self.function(np.asarray(labels), np.asarray(probs)))


def macro_f1(labels, probs, average="macro"):
    """F1 averaged over the classes that occur in labels or predictions, as scikit-learn's default."""
    return sk.f1_score(labels, probs.argmax(1), average=average, zero_division=0.0)


def accuracy(labels, probs):
    return float((probs.argmax(1) == labels).mean())


def log_loss(labels, probs):
    return sk.log_loss(labels, normalized(probs), labels=np.arange(probs.shape[1]))


def balanced_accuracy(labels, probs):
    present = np.unique(labels)
    return sk.recall_score(labels, probs.argmax(1), labels=present, average="macro", zero_division=0.0)


METRICS = {m.name: m for m in (
    Metric("macro_f1", macro_f1), Metric("micro_f1", partial(macro_f1, average="micro")),
    Metric("accuracy", accuracy), Metric("balanced_accuracy", balanced_accuracy), Metric("log_loss", log_loss, sign=-1))}


def find_metric(name):
    """The metric of that name; `auto` is macro-F1. Raises UserError naming the nearest."""
    name = "macro_f1" if name == "auto" else name.lower().replace("-", "_")
    if name not in METRICS:
        raise UserError(f"--metric must be one of {', '.join(METRICS)}, got {name!r}{nearest(name, METRICS)}")
    return METRICS[name]


def bootstrap_ci90(metric, labels, probs, *, draws, seed):
    """5th and 95th percentile of the metric over resamples of the rows (Efron's percentile interval)."""
    rng = np.random.default_rng(seed)
    n = len(labels)
    scores = [metric(labels[rows], probs[rows]) for rows in (rng.integers(0, n, n) for _ in range(draws))]
    return [float(v) for v in np.percentile(scores, [5, 95])]


def confident_scores(metric, labels, probs, others, *, seed, draws=200):
    """(here, alike, there): the score where labels are drawn from the predictions themselves: of the labelled rows (n, C),
    of as many rows like them as there are `others`, and of the unlabelled `others` (m, C) by the same models. The two last
    differ by sureness alone; the first has the number of rows that the score has, as averages over classes grow with it.

    Predictions are tempered first so that their mean sureness equals the accuracy on the labelled rows (calibrated
    confidence, arXiv 2401.08348).
    """
    rng, temperature = np.random.default_rng(seed), accuracy_temperature(labels, probs)
    ours, theirs = with_temperature(probs, temperature), with_temperature(others, temperature)

    def drawn_score(probs, n):
        rows = probs[rng.integers(len(probs), size=n)]
        return metric((rng.random((n, 1)) > rows.cumsum(1)[:, :-1]).sum(1), rows)

    m = min(len(others), MOST_DRAWN_ROWS)
    return tuple(float(np.mean([drawn_score(rows, n) for _ in range(draws)]))
                 for rows, n in ((ours, len(labels)), (ours, m), (theirs, m)))


def normalized(probs, floor=1e-7):
    """Rows clipped away from 0 that sum to 1 in float64."""
    probs = np.clip(np.asarray(probs, dtype=np.float64), floor, None)
    return probs / probs.sum(1, keepdims=True)


def with_temperature(probs, temperature):
    """softmax(log p / T): T > 1 makes a prediction less sure. (n, C) -> (n, C) float32"""
    logits = np.log(normalized(probs)) / temperature
    logits -= logits.max(1, keepdims=True)
    scaled = np.exp(logits)
    return (scaled / scaled.sum(1, keepdims=True)).astype(np.float32)


def fit_temperature(labels, probs):
    """The temperature of least log loss (arXiv 1706.04599), between 0.1 and 10."""
    def loss(log_temperature):
        scaled = with_temperature(probs, np.exp(log_temperature))
        return -np.log(np.maximum(scaled[np.arange(len(labels)), labels], 1e-7)).mean()
    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded").x))


def accuracy_temperature(labels, probs):
    """The temperature at which the mean largest probability is the accuracy, or the nearest between 0.1 and 10."""
    right = accuracy(labels, probs)

    def excess(log_temperature):
        return with_temperature(probs, np.exp(log_temperature)).max(1).mean() - right

    ends = np.log([0.1, 10.0])
    if excess(ends[0]) <= 0 or excess(ends[1]) >= 0:
        return float(np.exp(min(ends, key=lambda end: abs(excess(end)))))
    return float(np.exp(brentq(excess, *ends, xtol=1e-3)))


def mixture_weights(likelihoods, iterations=300):
    """Weights (K,) on the simplex under which the rows (n, K) of likelihoods are likeliest, by EM (Saerens et al., 2002)."""
    weights = np.full(likelihoods.shape[1], 1 / likelihoods.shape[1])
    for _ in range(iterations):
        posterior = likelihoods * weights
        weights = (posterior / posterior.sum(1, keepdims=True)).mean(0)
    return weights
