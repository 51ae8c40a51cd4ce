"""Scores as scikit-learn defines them, bootstrap intervals, and calibration by one temperature.

    metric = METRICS["macro_f1"]
    score = metric(labels, probs)           # labels (n,) int, probs (n, C)

    # groups (n,): rows of one group are drawn together
    low, high = bootstrap_ci90(metric, labels, probs, groups=groups, draws=1000, seed=0)
"""
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from sklearn import metrics as sk

from shift.mixtures import mixture_weights
from utils import UserError, nearest

MOST_DRAWN_ROWS = 4000      # in one draw of confident_scores


@dataclass(frozen=True)
class Metric:
    """metric(labels, probs) -> float, the score as a contest reports it.

    sign: 1 if larger is better, else -1. answer: what is scored: the likeliest `class`, the
    `grade` (a class on a scale, cut from the expected grade), the `ranking` of the five likeliest
    classes, or the `probability`. limits: lowest and highest possible score.
    """

    name: str
    function: object
    sign: int = 1
    answer: str = "class"
    limits: tuple[float, float] = (0.0, 1.0)

    @property
    def better(self):
        """Whether larger or smaller scores are better."""
        return "larger" if self.sign > 0 else "smaller"

    def __call__(self, labels, probs):
        return float(self.function(np.asarray(labels), np.asarray(probs)))

    def fit_cuts(self, labels, probs):
        """Thresholds (C-1) between grades that score best here; () unless grades are scored."""
        if self.answer != "grade":
            return ()
        return fit_cuts(labels, probs)

    def with_cuts(self, cuts):
        """This metric, scoring rows cut at these thresholds."""
        def score(labels, probs):
            return self.function(labels, self.cut(probs, cuts))

        return replace(self, function=score)

    def cut(self, probs, cuts):
        """One-hot rows (n, C) of the `grades`; `probs` itself unless grades are scored."""
        if self.answer != "grade":
            return probs
        return np.eye(probs.shape[1], dtype=np.float32)[grades(probs, cuts)]


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


def find_metric(name, has_class_columns=False):
    """The metric of that name; `auto` is macro-F1, or log loss with a submission column per class.

    Raises UserError, with the nearest name, for an unknown one.
    """
    plain = name.lower().replace("-", "_").replace("@", "_at_")
    if plain == "auto":
        return METRICS["log_loss" if has_class_columns else "macro_f1"]
    if plain not in METRICS:
        choices = ("auto", *METRICS)
        raise UserError(
            f"--metric must be one of {', '.join(choices)}, got {name!r}{nearest(plain, choices)}")
    return METRICS[plain]


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


def confident_scores(metric, labels, probs, others, *, n_scored, seed, draws=200):
    """(here, alike, there): mean scores against labels drawn from the predictions themselves.

    here: on `n_scored` rows like the labelled ones (n, C), because averages over classes grow with
    the number of rows. alike: on as many such rows as there are `others`. there: on the unlabelled
    `others` (m, C), predicted by the same models. alike and there differ by confidence alone.

    One temperature first makes the mean confidence on the labelled rows equal their accuracy
    (calibrated confidence, arXiv 2401.08348).
    """
    rng = np.random.default_rng(seed)
    temperature = accuracy_temperature(labels, probs)
    ours = with_temperature(probs, temperature)
    theirs = with_temperature(others, temperature)

    def mean_score(probs, n):
        scores = []
        for _ in range(draws):
            rows = probs[rng.integers(len(probs), size=n)]
            drawn = (rng.random((n, 1)) > rows.cumsum(1)[:, :-1]).sum(1)
            scores.append(metric(drawn, rows))
        return float(np.mean(scores))

    m = min(len(others), MOST_DRAWN_ROWS)
    here = mean_score(ours, n_scored)
    alike = mean_score(ours, m)
    there = mean_score(theirs, m)
    return here, alike, there


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


def fit_temperature(labels, probs):
    """The temperature of least log loss (arXiv 1706.04599), between 0.1 and 10."""
    def loss(log_temperature):
        return row_losses(labels, with_temperature(probs, np.exp(log_temperature))).mean()

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
