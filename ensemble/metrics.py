"""Scores as scikit-learn defines them, their bootstrap intervals, and calibration by one
temperature.

    metric = METRICS["macro_f1"]
    score = metric(labels, probs)                        # labels (n,) int, probs (n, C)
    low, high = bootstrap_ci90(metric, labels, probs, groups=groups, draws=1000, seed=0)     # groups (n,): drawn as a whole
"""
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from sklearn import metrics as sk

from shift.mixtures import mixture_weights
from utils import UserError, nearest

MOST_DRAWN_ROWS = 4000      # of which a score by sureness is the mean


@dataclass(frozen=True)
class Metric:
    """score(labels, probs) -> float, larger is better when `sign` is 1. Scores are reported as the
    contest does.

    answer: what is scored of a prediction: its likeliest class, its grade (a class on a scale, cut
    from the expected one), its ranking (the five likeliest), or its probability. limits: what a
    score can be.
    """

    name: str
    function: object
    sign: int = 1
    answer: str = "class"
    limits: tuple[float, float] = (0.0, 1.0)

    def __call__(self, labels, probs):
        return float(self.function(np.asarray(labels), np.asarray(probs)))

    def fit_cuts(self, labels, probs):
        """Thresholds (C-1) between grades that score best on these rows; () where there are no
        grades."""
        return fit_cuts(labels, probs) if self.answer == "grade" else ()

    def with_cuts(self, cuts):
        """This metric, of rows cut at these thresholds."""
        return replace(self, function=lambda labels,
                       probs: self.function(labels, self.cut(probs, cuts)))

    def cut(self, probs, cuts):
        """(n, C): rows sure of the grade that the thresholds give them, halfway ones without any;
        as they are where no grades are scored."""
        return (
            np.eye(probs.shape[1], dtype=np.float32)[grades(probs, cuts)]
            if self.answer == "grade"
            else probs
        )


def macro_f1(labels, probs):
    """F1 averaged over the classes that occur in labels or predictions, as scikit-learn's default.
    """
    right, labelled, answered = counts(labels, probs)
    occurs = labelled + answered > 0
    return (2 * right[occurs] / (labelled + answered)[occurs]).mean()


def counts(labels, probs):
    """Of each class (C,): rows answered right, labelled, answered. scikit-learn's scores take 2.5
    ms to check their arguments, a hundred times as long as this, and intervals ask for thousands.
    """
    answers = probs.argmax(1)
    return [np.bincount(rows, minlength=probs.shape[1]) for rows in (labels[labels == answers],
                                                                     labels, answers)]


def accuracy(labels, probs):
    return float((probs.argmax(1) == labels).mean())


def log_loss(labels, probs):
    return sk.log_loss(labels, normalized(probs), labels=np.arange(probs.shape[1]))


def balanced_accuracy(labels, probs):
    """Recall averaged over the classes that have rows."""
    right, labelled, _ = counts(labels, probs)
    return (right[labelled > 0] / labelled[labelled > 0]).mean()


def auc(labels, probs):
    """Area under the ROC curve: of the last of two classes, else the mean over the classes'
    columns. Columns whose class no row has, or every row, tell nothing and are left out; 0.5 where
    that leaves none."""
    n_classes = probs.shape[1]
    told = [k for k in ([1] if n_classes == 2 else range(n_classes)) if 0 < (labels == k).sum()
            < len(labels)]
    return np.mean([sk.roc_auc_score(labels == k, probs[:, k]) for k in told]) if told else 0.5


def map_at_5(labels, probs):
    """Mean of 1 / rank of the label among the five likeliest classes, 0 below; of equal ones the
    first class is ahead."""
    own = probs[np.arange(len(labels)), labels][:, None]
    ahead = (probs > own).sum(1) + (
        (probs == own) & (np.arange(probs.shape[1]) < labels[:, None])
    ).sum(1)
    return np.where(ahead < 5, 1 / (1 + ahead), 0.0).mean()


def quadratic_kappa(labels, probs):
    """Cohen's kappa with quadratic weights of the grades; 0 where labels and grades are one and the
    same class."""
    graded = grades(probs)
    if len(np.unique(np.concatenate([labels, graded]))) < 2:
        return 0.0
    return sk.cohen_kappa_score(labels, graded, weights="quadratic",
                                labels=np.arange(probs.shape[1]))


METRICS = {m.name: m for m in (
    # one class a row: they are the same
    Metric("macro_f1", macro_f1), Metric("micro_f1", accuracy),
    Metric("accuracy", accuracy), Metric("balanced_accuracy", balanced_accuracy),
    Metric("log_loss", log_loss, sign=-1, answer="probability", limits=(0.0, math.inf)),
    Metric("auc", auc, answer="probability"), Metric("map_at_5", map_at_5, answer="ranking"),
    Metric("quadratic_kappa", quadratic_kappa, answer="grade", limits=(-1.0, 1.0)))}


def find_metric(name, has_class_columns=False):
    """The metric of that name; `auto` is macro-F1, or log loss for a submission with one column per
    class. Raises UserError naming the nearest."""
    if name == "auto":
        return METRICS["log_loss" if has_class_columns else "macro_f1"]
    name = name.lower().replace("-", "_").replace("@", "_at_")
    if name not in METRICS:
        raise UserError(
            f"--metric must be one of {', '.join(METRICS)}, got {name!r}{nearest(name, METRICS)}")
    return METRICS[name]


# ---------------------------------------------------------------- grades

def grades(probs, cuts=()):
    """(n,) class on a scale 0 .. C-1: how many of the thresholds, halfway between the grades by
    default, the row's expected grade reaches."""
    steps = np.arange(probs.shape[1])
    return np.searchsorted(cuts if len(cuts) else steps[1:] - 0.5, probs @ steps, side="right")


def fit_cuts(labels, probs, candidates=64, sweeps=3):
    """Thresholds (C-1) of the expected grade with the best quadratic kappa, one moved at a time."""
    expected = probs @ np.arange(probs.shape[1])
    points = np.unique(np.quantile(expected, np.linspace(0, 1, candidates)))
    points = np.concatenate([[-1.0], (points[1:] + points[:-1]) / 2, [probs.shape[1]]])
    cuts = np.arange(1, probs.shape[1]) - 0.5

    def kappa(cuts):
        graded = np.searchsorted(cuts, expected, side="right")
        chance = labels.var() + graded.var() + (labels.mean() - graded.mean()) ** 2
        return 1 - ((labels - graded) ** 2).mean() / chance if chance else 0.0

    for _ in range(sweeps):
        for k in range(len(cuts)):
            low, high = np.concatenate([[-1.0], cuts, [probs.shape[1]]])[[k, k + 2]]
            between = points[(points >= low) & (points <= high)]
            cuts = max((np.concatenate([cuts[:k], [p], cuts[k + 1:]]) for p in (cuts[k], *between)),
                       key=kappa)
    return tuple(cuts.tolist())


# ---------------------------------------------------------------- how sure a score is

def bootstrap_ci90(metric, labels, probs, *, groups, draws, seed):
    """5th and 95th percentile of the metric over resamples of the rows (Efron's percentile
    interval), whole `groups` (n,)."""
    return percentile_ci90(lambda rows: metric(labels[rows], probs[rows]), groups, draws, seed)


def percentile_ci90(score, groups, draws, seed):
    """[5th, 95th percentile] of score(rows) over resamples: as many groups as there are, each with
    all of its rows."""
    rng = np.random.default_rng(seed)
    return [float(v) for v in np.percentile([score(rows) for rows in resamples(groups, draws, rng)],
                                            [5, 95])]


def resamples(groups, draws, rng):
    """`draws` times the rows of groups (n,) drawn with replacement; rows without relatives are a
    group each."""
    _, first, of = np.unique(groups, return_index=True, return_inverse=True)
    leader = first[of]      # a group's first row: rows of their own are drawn as they stand
    order = np.argsort(leader, kind="stable")
    sizes = np.unique(leader, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    for _ in range(draws):
        drawn = rng.integers(0, len(sizes), len(sizes))
        n = sizes[drawn]
        yield order[np.repeat(starts[drawn] - (np.cumsum(n) - n), n) + np.arange(n.sum())]


def paired_change(metric, labels, before, after, *, groups, draws, seed):
    """(change, [low, high]): how much better `after` (n, C) scores than `before`, larger is better
    whatever the metric, and its 90 % interval over resamples of the same rows for both, whole
    `groups` (n,)."""
    def change(rows):
        return metric.sign * (metric(labels[rows], after[rows]) - metric(labels[rows],
                                                                         before[rows]))

    return change(np.arange(len(labels))), percentile_ci90(change, groups, draws, seed)


def confident_scores(metric, labels, probs, others, *, n_scored, seed, draws=200):
    """(here, alike, there): the score where labels are drawn from the predictions themselves: of
    `n_scored` rows like the labelled ones (n, C), of as many as there are `others`, and of the
    unlabelled `others` (m, C) by the same models. The two last differ by sureness alone; the first
    has the number of rows that the score has, as averages over classes grow with it.

    Predictions are tempered first so that their mean sureness equals the accuracy on the labelled
    rows (calibrated confidence, arXiv 2401.08348).
    """
    rng = np.random.default_rng(seed)
    temperature = accuracy_temperature(labels, probs)
    ours = with_temperature(probs, temperature)
    theirs = with_temperature(others, temperature)

    def drawn_score(probs, n):
        rows = probs[rng.integers(len(probs), size=n)]
        return metric((rng.random((n, 1)) > rows.cumsum(1)[:, :-1]).sum(1), rows)

    m = min(len(others), MOST_DRAWN_ROWS)
    return tuple(float(np.mean([drawn_score(rows, n) for _ in range(draws)]))
                 for rows, n in ((ours, n_scored), (ours, m), (theirs, m)))


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
    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)),
                                        method="bounded").x))


def accuracy_temperature(labels, probs):
    """The temperature at which the mean largest probability is the accuracy, or the nearest between
    0.1 and 10."""
    right = accuracy(labels, probs)

    def excess(log_temperature):
        return with_temperature(probs, np.exp(log_temperature)).max(1).mean() - right

    ends = np.log([0.1, 10.0])
    if excess(ends[0]) <= 0 or excess(ends[1]) >= 0:
        return float(np.exp(min(ends, key=lambda end: abs(excess(end)))))
    return float(np.exp(brentq(excess, *ends, xtol=1e-3)))


def least_loss_weights(stack, labels):
    """Weights (m,) on the simplex under which the mean of `stack` (m, n, C) has the least log loss.
    """
    return mixture_weights(np.maximum(stack[:, np.arange(len(labels)), labels], 1e-7).T)
