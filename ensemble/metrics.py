"""Scores as scikit-learn defines them, bootstrap intervals, and calibration by one temperature.

    metric = METRICS["macro_f1"]
    score = metric(labels, probs)           # labels (n,) int, probs (n, C)

    # groups (n,): rows of one group are drawn together
    low, high = bootstrap_ci90(metric, labels, probs, groups=groups, draws=1000, seed=0)
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import xlogy
from scipy.stats import rankdata
from sklearn import metrics as sk

from shift.mixtures import mixture_weights

MOST_DRAWN_ROWS = 4000      # in one draw of confident_scores
GREEDY_STEPS = 30
LEAST_WEIGHT = 0.01     # below it a weight is set to 0


@dataclass(frozen=True)
class Metric:
    """metric(labels, probs) -> float, the score as a contest reports it.

    sign: 1 if larger is better, else -1. answer: what is scored: the likeliest `class`, the
    `grade` (a class on a scale, cut from the expected grade), the `ranking` of the five likeliest
    classes, the `probability`; of several classes an image, the `set` of them or the `chance` of
    each; or a `number`. limits: lowest and highest possible score. values: of
    ensemble.judges.JUDGES.
    """

    name: str
    function: object
    sign: int = 1
    answer: str = "class"
    limits: tuple[float, float] = (0.0, 1.0)
    values: str = "shares"

    @property
    def is_cut(self):
        """Whether thresholds turn predictions into answers."""
        return self.answer in CUTS

    @property
    def always_cut(self):
        """Whether cuts are used whether they score better or not."""
        return self.answer == "number"

    @property
    def better(self):
        """Whether larger or smaller scores are better."""
        return "larger" if self.sign > 0 else "smaller"

    def __call__(self, labels, probs):
        return float(self.function(np.asarray(labels), np.asarray(probs)))

    def fit_cuts(self, labels, probs):
        """Thresholds that score best here, as many as `n_cuts` says; () if answers are not cut."""
        if not self.is_cut:
            return ()
        return CUTS[self.answer].fit(labels, probs)

    def final_cuts(self, truth, cuts):
        """What cuts the submission: ranges of numbers are those of all training labels (n, C)."""
        return CUTS[self.answer].fit(truth, truth) if self.always_cut and cuts else cuts

    def n_cuts(self, n_classes):
        """How many thresholds this metric fits for so many classes."""
        return CUTS[self.answer].count(n_classes) if self.is_cut else 0

    def with_cuts(self, cuts):
        """This metric, scoring rows cut at these thresholds."""
        def score(labels, probs):
            return self.function(labels, self.cut(probs, cuts))

        return replace(self, function=score)

    def cut(self, probs, cuts):
        """Rows (n, C), the answers: of 0 and 1, or clipped numbers. `probs` if they are not cut."""
        if not self.is_cut:
            return probs
        return CUTS[self.answer].cut(probs, cuts)


def macro_f1(labels, probs):
    """F1 averaged over classes in the labels or predictions, scikit-learn's default."""
    right, labelled, answered = counts(labels, probs)
    occurs = labelled + answered > 0
    return (2 * right[occurs] / (labelled + answered)[occurs]).mean()


def counts(labels, probs):
    """Rows per class that are answered right, labelled and answered, (C,) each.

    An interval needs thousands of scores, and scikit-learn takes 2.5 ms for each to check its
    arguments, a hundred times as long as this.
    """
    answers = probs.argmax(1)
    right = labels[labels == answers]
    return [np.bincount(rows, minlength=probs.shape[1]) for rows in (right, labels, answers)]


def accuracy(labels, probs):
    return float((probs.argmax(1) == labels).mean())


def log_loss(labels, probs):
    return row_losses(labels, normalized(probs)).mean()


def balanced_accuracy(labels, probs):
    """Recall averaged over the classes in the labels."""
    right, labelled, _ = counts(labels, probs)
    return (right[labelled > 0] / labelled[labelled > 0]).mean()


def auc(labels, probs):
    """Area under the ROC curve of the second of two classes, or the mean over more classes.

    A class that no row or every row has is left out; 0.5 if none remains.
    """
    n_classes = probs.shape[1]
    classes = [1] if n_classes == 2 else range(n_classes)
    scored = [k for k in classes if 0 < (labels == k).sum() < len(labels)]
    if not scored:
        return 0.5
    return np.mean([sk.roc_auc_score(labels == k, probs[:, k]) for k in scored])


def map_at_5(labels, probs):
    """Mean of 1 / rank of the label among the five likeliest classes, 0 below the fifth.

    Of classes with equal probability the first ranks higher.
    """
    own = probs[np.arange(len(labels)), labels][:, None]
    tied = (probs == own) & (np.arange(probs.shape[1]) < labels[:, None])
    ahead = (probs > own).sum(1) + tied.sum(1)
    return np.where(ahead < 5, 1 / (1 + ahead), 0.0).mean()


def quadratic_kappa(labels, probs):
    """Cohen's kappa of the grades, quadratic weights; 0 if all labels and grades are one class."""
    graded = grades(probs)
    if len(np.unique(np.concatenate([labels, graded]))) < 2:
        return 0.0
    return sk.cohen_kappa_score(labels, graded, weights="quadratic",
                                labels=np.arange(probs.shape[1]))


METRICS = {m.name: m for m in (
    Metric("macro_f1", macro_f1),
    Metric("micro_f1", accuracy),       # equal when each row has one class
    Metric("accuracy", accuracy),
    Metric("balanced_accuracy", balanced_accuracy),
    Metric("log_loss", log_loss, sign=-1, answer="probability", limits=(0.0, math.inf)),
    Metric("auc", auc, answer="probability"),
    Metric("map_at_5", map_at_5, answer="ranking"),
    Metric("quadratic_kappa", quadratic_kappa, answer="grade", limits=(-1.0, 1.0)),
)}


# ---------------------------------------------------------------- of sets of classes

def truth_and_taken(truth, probs):
    """Two (n, C) bool: what rows have, and what they are said to have."""
    return np.asarray(truth) > 0.5, np.asarray(probs) >= 0.5


def f1_of(truth, taken, axis):
    """F1 along an axis, 0 where there is nothing and nothing is said, as in scikit-learn."""
    right = (truth & taken).sum(axis)
    both = truth.sum(axis) + taken.sum(axis)
    return 2 * right / np.maximum(both, 1)


def samples_f1(truth, probs):
    return f1_of(*truth_and_taken(truth, probs), axis=1).mean()


def macro_f1_of_sets(truth, probs):
    return f1_of(*truth_and_taken(truth, probs), axis=0).mean()


def micro_f1_of_sets(truth, probs):
    return float(f1_of(*truth_and_taken(truth, probs), axis=None))


def exact_match(truth, probs):
    """Share of rows whose set is right as a whole."""
    truth, taken = truth_and_taken(truth, probs)
    return (truth == taken).all(1).mean()


def mean_column_auc(truth, probs):
    """Area under the ROC curve, the mean over classes that some rows have and some have not; 0.5
    if there is none."""
    truth = np.asarray(truth) > 0.5
    positive = truth.sum(0)
    scored = (positive > 0) & (positive < len(truth))
    if not scored.any():
        return 0.5
    positive = positive[scored]
    ranks = rankdata(np.asarray(probs)[:, scored], axis=0)
    above = (ranks * truth[:, scored]).sum(0) - positive * (positive + 1) / 2
    return (above / (positive * (len(truth) - positive))).mean()


def mean_average_precision(truth, probs):
    """Average precision, the mean over classes that some rows have; 0 if there is none."""
    truth = np.asarray(truth) > 0.5
    scored = np.flatnonzero(truth.any(0))
    if not len(scored):
        return 0.0
    return np.mean([sk.average_precision_score(truth[:, k], probs[:, k]) for k in scored])


def mean_column_log_loss(truth, probs):
    """Binary log loss, the mean over rows and classes."""
    probs = np.clip(np.asarray(probs, dtype=np.float64), 1e-7, 1 - 1e-7)
    return -(truth * np.log(probs) + (1 - truth) * np.log(1 - probs)).mean()


def log_loss_of_shares(truth, probs):
    """Cross-entropy of probabilities with the shares (n, C) that annotators gave the classes."""
    return share_losses(truth, normalized(probs)).mean()


def share_losses(truth, probs):
    """(n,) cross-entropy of each row."""
    return -(truth * np.log(np.maximum(probs, 1e-7))).sum(1)


def kl_divergence(truth, probs):
    """Log loss less the entropy of the shares."""
    truth = np.asarray(truth, dtype=np.float64)
    return log_loss_of_shares(truth, probs) + xlogy(truth, truth).sum(1).mean()


def of_likeliest(score, truth, probs):
    """The score of labels, which are the likeliest class of each row of shares."""
    return score(truth.argmax(1), probs)


SOFT_METRICS = {m.name: m for m in (
    Metric("log_loss", log_loss_of_shares, sign=-1, answer="probability", limits=(0.0, math.inf),
           values="soft"),
    Metric("kl_divergence", kl_divergence, sign=-1, answer="probability", limits=(0.0, math.inf),
           values="soft"),
    *(replace(METRICS[name], function=partial(of_likeliest, METRICS[name].function), values="soft")
      for name in ("macro_f1", "micro_f1", "accuracy", "balanced_accuracy", "auc", "map_at_5")),
)}


SET_METRICS = {m.name: m for m in (
    Metric("samples_f1", samples_f1, answer="set", values="chances"),
    Metric("micro_f1", micro_f1_of_sets, answer="set", values="chances"),
    Metric("macro_f1", macro_f1_of_sets, answer="set", values="chances"),
    Metric("exact_match", exact_match, answer="set", values="chances"),
    Metric("auc", mean_column_auc, answer="chance", values="chances"),
    Metric("map", mean_average_precision, answer="chance", values="chances"),
    Metric("log_loss", mean_column_log_loss, sign=-1, answer="chance", limits=(0.0, math.inf),
           values="chances"),
)}


# ---------------------------------------------------------------- of numbers

def rmse(truth, numbers):
    """Root of the mean squared error, the mean over columns."""
    return np.sqrt(((truth - numbers) ** 2).mean(0)).mean()


def mae(truth, numbers):
    return np.abs(truth - numbers).mean()


def r2(truth, numbers):
    """1 - squared error over variance, the mean over columns; 0 for a constant column."""
    error = ((truth - numbers) ** 2).mean(0)
    variance = truth.var(0)
    return np.where(variance > 0, 1 - error / np.where(variance > 0, variance, 1), 0.0).mean()


def weighted_r2(truth, numbers):
    """As `r2`, each column weighted by its variance; 0 if all are constant."""
    error = ((truth - numbers) ** 2).sum()
    variance = ((truth - truth.mean(0)) ** 2).sum()
    return float(1 - error / variance) if variance > 0 else 0.0


def rmsle(truth, numbers):
    """RMSE of log(1 + number); numbers below 0 count as 0."""
    return rmse(np.log1p(np.maximum(truth, 0)), np.log1p(np.maximum(numbers, 0)))


NUMBER_METRICS = {name: Metric(name, function, sign, "number", limits, "numbers")
                  for name, function, sign, limits in (
    ("rmse", rmse, -1, (0.0, math.inf)),
    ("mae", mae, -1, (0.0, math.inf)),
    ("r2", r2, 1, (-math.inf, 1.0)),
    ("weighted_r2", weighted_r2, 1, (-math.inf, 1.0)),
    ("rmsle", rmsle, -1, (0.0, math.inf)),
)}


def fit_range(truth, numbers):
    """The least and the largest number of each column of the truth, 2 C of them."""
    return (*truth.min(0).tolist(), *truth.max(0).tolist())


def clipped(numbers, cuts):
    """(n, C) within the ranges of `fit_range`."""
    if not len(cuts):
        return numbers
    n_columns = len(cuts) // 2
    return np.clip(numbers, cuts[:n_columns], cuts[n_columns:])


# ---------------------------------------------------------------- grades

def grades(probs, cuts=()):
    """Grade (n,) from 0 to C-1: how many thresholds the row's expected grade reaches.

    Without `cuts` the thresholds are halfway between the grades.
    """
    steps = np.arange(probs.shape[1])
    if not len(cuts):
        cuts = steps[1:] - 0.5
    return np.searchsorted(cuts, probs @ steps, side="right")


def fit_cuts(labels, probs, candidates=64, sweeps=3):
    """Thresholds (C-1) of the expected grade with the best quadratic kappa, moved one at a time."""
    n_classes = probs.shape[1]
    expected = probs @ np.arange(n_classes)
    points = np.unique(np.quantile(expected, np.linspace(0, 1, candidates)))
    points = np.concatenate([[-1.0], (points[1:] + points[:-1]) / 2, [n_classes]])
    cuts = np.arange(1, n_classes) - 0.5

    def kappa(cuts):
        graded = np.searchsorted(cuts, expected, side="right")
        chance = labels.var() + graded.var() + (labels.mean() - graded.mean()) ** 2
        if chance == 0:
            return 0.0
        return 1 - ((labels - graded) ** 2).mean() / chance

    for _ in range(sweeps):
        for k in range(len(cuts)):
            low, high = np.concatenate([[-1.0], cuts, [n_classes]])[[k, k + 2]]
            places = (cuts[k], *points[(points >= low) & (points <= high)])
            moved = [np.concatenate([cuts[:k], [place], cuts[k + 1:]]) for place in places]
            cuts = max(moved, key=kappa)
    return tuple(cuts.tolist())


def cut_grades(probs, cuts):
    """One-hot rows (n, C) of the `grades`."""
    return np.eye(probs.shape[1], dtype=np.float32)[grades(probs, cuts)]


# ---------------------------------------------------------------- sets

def sets(probs, cuts=()):
    """(n, C) of 0 and 1: the classes whose chance reaches their threshold, 0.5 without `cuts`.

    cuts: a threshold per class, then the least share of it that a row's best class must reach. Of
    a row without any class at its threshold, the best one is taken if it reaches that share.
    """
    thresholds = np.asarray(cuts[:-1]) if len(cuts) else 0.5
    least = cuts[-1] if len(cuts) else 1.0
    ratio = probs / thresholds
    taken = ratio >= 1
    best = ratio.argmax(1)
    rows = np.flatnonzero(~taken.any(1) & (ratio.max(1) >= least))
    taken[rows, best[rows]] = True
    return taken.astype(np.float32)


def fit_sets(truth, probs, candidates=40):
    """Cuts (C+1) for `sets`: per class the threshold of the best F1, halfway between chances.

    A class without images keeps 0.5. Where each image has a class, so has each answer.
    """
    cuts = []
    for k in range(probs.shape[1]):
        own = probs[:, k]
        points = np.unique(np.quantile(own, np.linspace(0, 1, candidates)))
        places = (points[1:] + points[:-1]) / 2
        if not truth[:, k].any() or not len(places):
            cuts.append(0.5)
            continue
        taken = own[:, None] >= places
        right = taken[truth[:, k] > 0].sum(0)
        f1 = 2 * right / (taken.sum(0) + truth[:, k].sum())
        best = np.flatnonzero(f1 >= f1.max() - 1e-12)
        cuts.append(float(places[best[np.abs(places[best] - 0.5).argmin()]]))
    cuts = [min(max(cut, 1e-6), 1.0) for cut in cuts]
    return (*cuts, 0.0 if (truth.sum(1) > 0).all() else 1.0)


class Cutting(NamedTuple):
    """fit(truth, probs) -> cuts. cut(probs, cuts) -> rows of 0 and 1. count(C): how many cuts."""

    fit: Callable
    cut: Callable
    count: Callable


CUTS = {"grade": Cutting(fit_cuts, cut_grades, lambda n_classes: n_classes - 1),
        "set": Cutting(fit_sets, sets, lambda n_classes: n_classes + 1),
        "number": Cutting(fit_range, clipped, lambda n_columns: 2 * n_columns)}


# ---------------------------------------------------------------- how sure a score is

def bootstrap_ci90(metric, labels, probs, *, groups, draws, seed):
    """[5th, 95th percentile] over resamples of whole `groups` (n,), Efron's percentile interval."""
    def score(rows):
        return metric(labels[rows], probs[rows])

    return percentile_ci90(score, groups, draws, seed)


def percentile_ci90(score, groups, draws, seed):
    """[5th, 95th percentile] of score(rows) over resamples of whole `groups` (n,)."""
    rng = np.random.default_rng(seed)
    scores = [score(rows) for rows in resamples(groups, draws, rng)]
    return np.percentile(scores, [5, 95]).tolist()


def resamples(groups, draws, rng):
    """Yield `draws` times the rows of groups (n,) drawn with replacement, all rows of a group.

    Groups are numbered by their first row, so groups of one row are drawn like plain rows.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    leader = first[group]
    order = np.argsort(leader, kind="stable")
    sizes = np.unique(leader, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    for _ in range(draws):
        drawn = rng.integers(0, len(sizes), len(sizes))
        n = sizes[drawn]
        offset = starts[drawn] - (np.cumsum(n) - n)
        yield order[np.repeat(offset, n) + np.arange(n.sum())]


def paired_change(metric, labels, before, after, *, groups, draws, seed):
    """(change, [low, high]): how much better `after` (n, C) scores than `before`, 90 % interval.

    Larger is better for every metric. Both are scored on the same resampled groups (n,) of rows.
    """
    def change(rows):
        old = metric(labels[rows], before[rows])
        new = metric(labels[rows], after[rows])
        return metric.sign * (new - old)

    return change(np.arange(len(labels))), percentile_ci90(change, groups, draws, seed)


def normalized(probs, floor=1e-7):
    """Rows clipped at `floor` and scaled to sum to 1, float64."""
    probs = np.clip(np.asarray(probs, dtype=np.float64), floor, None)
    return probs / probs.sum(1, keepdims=True)


def with_temperature(probs, temperature):
    """softmax(log p / T): T > 1 makes a prediction less sure. (n, C) -> (n, C) float32"""
    logits = np.log(normalized(probs)) / temperature
    logits -= logits.max(1, keepdims=True)
    scaled = np.exp(logits)
    return (scaled / scaled.sum(1, keepdims=True)).astype(np.float32)


def row_losses(labels, probs):
    """(n,) log loss of each row."""
    return -np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-7))


def likelihoods(stack, labels):
    """(m, n) probability of each row's label in each of `stack` (m, n, C), at least 1e-7."""
    return np.maximum(stack[:, np.arange(len(labels)), labels], 1e-7)


def calibrated(labels, probs):
    """The probs (n, C) at the temperature that fits all rows best."""
    return with_temperature(probs, fit_temperature(labels, probs))


def fit_temperature(labels, probs, losses=row_losses):
    """The temperature of least log loss (arXiv 1706.04599), between 0.1 and 10.

    losses(labels, probs) -> (n,).
    """
    def loss(log_temperature):
        return losses(labels, with_temperature(probs, np.exp(log_temperature))).mean()

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded")
    return float(np.exp(found.x))


def accuracy_temperature(labels, probs):
    """The temperature at which the mean largest probability equals the accuracy.

    Between 0.1 and 10; the nearer end if there is none.
    """
    right = accuracy(labels, probs)

    def excess(log_temperature):
        confidence = with_temperature(probs, np.exp(log_temperature)).max(1)
        return confidence.mean() - right

    ends = np.log([0.1, 10.0])
    if excess(ends[0]) <= 0 or excess(ends[1]) >= 0:
        nearer = min(ends, key=lambda end: abs(excess(end)))
        return float(np.exp(nearer))
    return float(np.exp(brentq(excess, *ends, xtol=1e-3)))


def least_loss_weights(stack, labels):
    """Weights (m,) >= 0 summing to 1: the mean of `stack` (m, n, C) with the least log loss."""
    return mixture_weights(likelihoods(stack, labels).T)


def equal_weights(stack, truth):
    """Weight 1/m each. stack (m, n, C) -> (m,)"""
    return np.full(len(stack), 1 / len(stack))


def greedy_selection(own, losses_of):
    """Weights (m,) by ensemble selection with replacement (Caruana et al., ICML 2004).

    Each step adds the member of `own` (m, ...) that helps most; counts become weights.
    losses_of(the m means that a step may lead to) -> (m,).
    """
    counts = np.zeros(len(own))
    total = np.zeros(own.shape[1:])
    best_counts = None
    best = np.inf
    for step in range(1, GREEDY_STEPS + 1):
        losses = losses_of((total + own) / step)
        pick = int(np.argmin(losses))
        counts[pick] += 1
        total += own[pick]
        if losses[pick] < best:
            best = losses[pick]
            best_counts = counts.copy()
    return best_counts / best_counts.sum()


def without_least(weights):
    """The weights (m,), those below LEAST_WEIGHT set to 0."""
    return np.where(weights < LEAST_WEIGHT, 0.0, weights)
