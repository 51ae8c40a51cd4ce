"""How predictions are judged whatever the metric, by what their rows hold.

    judge = JUDGES[predictions.values]
    losses = judge.row_losses(truth, judge.tempered(probs, judge.fit_temperature(truth, probs)))

shares: probabilities of classes, which sum to 1; truth (n,), the class. chances: a probability of
each class by itself; truth (n, C) of 0 and 1. n*C chances are judged as n*C rows of two classes.
numbers: truth (n, C) of numbers, judged by squared errors over the variance of their column.
soft: predictions as shares; truth (n, C), the share that each class has of an image.
"""
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from ensemble import metrics
from ensemble.metrics import (
    MOST_DRAWN_ROWS,
    equal_weights,
    greedy_selection,
    normalized,
    without_least,
)

NO = 1e-7      # the least chance


@dataclass(frozen=True)
class Judge:
    """Functions of truth, as above, and predictions (n, C).

    rows(truth, stack (m, n, C)) -> (labels, stack): what methods that find weights read.
    methods: {name: (stack, labels) -> weights (m,)}; {} for those of ensemble.blend.
    least(stack, labels) -> the weights of the least loss.
    row_losses(truth, predictions) -> (n,). loss(truth, predictions): their mean.
    tempered(predictions, T): less sure if T > 1. fit_temperature(truth, predictions) -> T.
    sureness(truth, predictions) -> the T at which they are as sure as right.
    constant(truth, C) -> (C,): the best answer that is the same for all rows.
    distance(one, other): mean distance of two predictions, 0 to 1. tidy(predictions): rows that a
    submission may hold. right(truth, predictions) -> (n,) bool; None where nothing is right or
    wrong. draw(predictions, rng) -> truth, drawn from them; None if they do not say how sure they
    are.
    """

    rows: Callable
    row_losses: Callable
    loss: Callable
    tempered: Callable
    fit_temperature: Callable
    sureness: Callable
    constant: Callable
    distance: Callable
    tidy: Callable
    right: Callable | None
    draw: Callable | None
    methods: dict = field(default_factory=dict)
    least: Callable = metrics.least_loss_weights

    def calibrated(self, truth, predictions):
        """The predictions at the temperature that fits all rows best."""
        return self.tempered(predictions, self.fit_temperature(truth, predictions))


def confident_scores(metric, truth, probs, others, *, n_scored, seed, draws=200):
    """(here, alike, there): mean scores against truth drawn from the predictions themselves.

    here: on `n_scored` rows like the labelled ones (n, C), because averages over classes grow with
    the number of rows. alike: on as many such rows as there are `others`. there: on the unlabelled
    `others` (m, C), predicted by the same models. alike and there differ by confidence alone.

    One temperature first makes the mean confidence on the labelled rows equal their accuracy
    (calibrated confidence, arXiv 2401.08348).
    """
    judge = JUDGES[metric.values]
    rng = np.random.default_rng(seed)
    temperature = judge.sureness(truth, probs)
    ours = judge.tempered(probs, temperature)
    theirs = judge.tempered(others, temperature)

    def mean_score(probs, n):
        scores = []
        for _ in range(draws):
            rows = probs[rng.integers(len(probs), size=n)]
            scores.append(metric(judge.draw(rows, rng), rows))
        return float(np.mean(scores))

    m = min(len(others), MOST_DRAWN_ROWS)
    here = mean_score(ours, n_scored)
    alike = mean_score(ours, m)
    there = mean_score(theirs, m)
    return here, alike, there


def spread_by_rows(metric, truth, probs, others, *, seed, draws=100, answers=4):
    """How `there` of `confident_scores` varies between samples of so many rows, as a deviation.

    Of the variance over resampled rows, what the drawn answers add is taken away: `there` is a mean
    over many of them.
    """
    judge = JUDGES[metric.values]
    rng = np.random.default_rng(seed)
    theirs = judge.tempered(others, judge.sureness(truth, probs))
    m = min(len(others), MOST_DRAWN_ROWS)
    scores = np.empty((draws, answers))
    for i in range(draws):
        rows = theirs[rng.integers(len(theirs), size=m)]
        scores[i] = [metric(judge.draw(rows, rng), rows) for _ in range(answers)]
    of_answers = scores.var(1, ddof=1).mean() / answers
    return float(np.sqrt(max(0.0, scores.mean(1).var(ddof=1) - of_answers)))


# ---------------------------------------------------------------- shares

def same_rows(truth, stack):
    return truth, stack


def class_shares(truth, n_classes):
    """(C,) share of each class among labels (n,)."""
    return np.bincount(truth, minlength=n_classes) / len(truth)


def right_classes(truth, probs):
    return truth == probs.argmax(1)


def total_variation(one, other):
    return np.abs(one - other).sum(1).mean() / 2


def drawn_classes(probs, rng):
    """(n,) a class of each row."""
    return (rng.random((len(probs), 1)) > probs.cumsum(1)[:, :-1]).sum(1)


# ---------------------------------------------------------------- shares that are shared

def likeliest_rows(truth, stack):
    return truth.argmax(1), stack


def temperature_of_shares(truth, probs):
    """The temperature of least cross-entropy, between 0.1 and 10."""
    return metrics.fit_temperature(truth, probs, metrics.share_losses)


def right_likeliest(truth, probs):
    return truth.argmax(1) == probs.argmax(1)


# ---------------------------------------------------------------- chances

def cells_as_rows(truth, stack):
    """Each cell as a row of two classes: truth (n, C), stack (m, n, C) -> (n*C,), (m, n*C, 2)."""
    chances = np.asarray(stack).reshape(len(stack), -1)
    return truth.astype(np.int64).ravel(), np.stack([1 - chances, chances], axis=2)


def cell_losses(truth, chances):
    """(n,) log loss of each row, the mean over its cells."""
    chances = np.clip(np.asarray(chances, dtype=np.float64), NO, 1 - NO)
    return -(truth * np.log(chances) + (1 - truth) * np.log(1 - chances)).mean(1)


def mean_cell_loss(truth, chances):
    return cell_losses(truth, chances).mean()


def tempered_chances(chances, temperature):
    """sigmoid(logit(p) / T), (n, C) -> (n, C) float32."""
    _, pairs = cells_as_rows(np.zeros(0), [chances])
    return metrics.with_temperature(pairs[0], temperature)[:, 1].reshape(np.shape(chances))


def cell_temperature(truth, chances):
    labels, pairs = cells_as_rows(truth, [chances])
    return metrics.fit_temperature(labels, pairs[0])


def cell_sureness(truth, chances):
    labels, pairs = cells_as_rows(truth, [chances])
    return metrics.accuracy_temperature(labels, pairs[0])


def column_shares(truth, n_columns):
    return truth.mean(0)


def mean_difference(one, other):
    return np.abs(one - other).mean()


def right_sets(truth, chances):
    """Whether all cells are on their side of 0.5."""
    return ((chances >= 0.5) == (truth > 0.5)).all(1)


def within_chances(chances):
    return np.clip(np.asarray(chances, dtype=np.float64), 0, 1)


def drawn_cells(chances, rng):
    """(n, C) of 0 and 1."""
    return (rng.random(chances.shape) < chances).astype(np.float32)


# ---------------------------------------------------------------- numbers

def spread(truth):
    """(C,) variance of each column; 1 for a constant one."""
    variance = np.asarray(truth, dtype=np.float64).var(0)
    return np.where(variance > 0, variance, 1.0)


def squared_errors(truth, numbers):
    """(n,) squared error over the variance of the column, the mean over columns."""
    return ((truth - np.asarray(numbers, dtype=np.float64)) ** 2 / spread(truth)).mean(1)


def mean_squared_error(truth, numbers):
    return squared_errors(truth, numbers).mean()


def as_they_are(numbers, temperature):
    return np.asarray(numbers, dtype=np.float32)


def no_temperature(truth, numbers):
    return 1.0


def column_means(truth, n_columns):
    return truth.mean(0)


def distance_of_numbers(one, other):
    return (np.abs(one - other) / np.sqrt(spread(one))).mean()


def untouched(numbers):
    return np.asarray(numbers, dtype=np.float64)


def greedy_on_squares(stack, truth):
    """`greedy_selection` by squared errors."""
    return greedy_selection(stack, lambda means: [mean_squared_error(truth, each)
                                                  for each in means])


def least_squares(stack, truth):
    """Weights (m,) >= 0 that sum to 1, of the least squared error; those below 0.01 set to 0."""
    scale = np.sqrt(spread(truth))
    columns = np.asarray(stack, dtype=np.float64) / scale - truth.mean(0) / scale
    wanted = ((truth - truth.mean(0)) / scale).ravel()
    columns = columns.reshape(len(stack), -1).T
    heavy = 1e3 * np.sqrt(len(wanted))      # so that the weights sum to 1
    weights, _ = nnls(np.vstack([columns, np.full((1, len(stack)), heavy)]),
                      np.append(wanted, heavy))
    weights = without_least(weights)
    return weights / weights.sum() if weights.any() else equal_weights(stack, truth)


JUDGES = {
    "shares": Judge(
        rows=same_rows, row_losses=metrics.row_losses, loss=metrics.log_loss,
        tempered=metrics.with_temperature, fit_temperature=metrics.fit_temperature,
        sureness=metrics.accuracy_temperature, constant=class_shares, distance=total_variation,
        tidy=normalized, right=right_classes, draw=drawn_classes),
    "soft": Judge(
        rows=likeliest_rows, row_losses=metrics.share_losses, loss=metrics.log_loss_of_shares,
        tempered=metrics.with_temperature, fit_temperature=temperature_of_shares,
        sureness=temperature_of_shares, constant=column_shares, distance=total_variation,
        tidy=normalized, right=right_likeliest, draw=None),
    "chances": Judge(
        rows=cells_as_rows, row_losses=cell_losses, loss=mean_cell_loss,
        tempered=tempered_chances, fit_temperature=cell_temperature, sureness=cell_sureness,
        constant=column_shares, distance=mean_difference, tidy=within_chances, right=right_sets,
        draw=drawn_cells),
    "numbers": Judge(
        rows=same_rows, row_losses=squared_errors, loss=mean_squared_error, tempered=as_they_are,
        fit_temperature=no_temperature, sureness=no_temperature, constant=column_means,
        distance=distance_of_numbers, tidy=untouched, right=None, draw=None,
        methods={"mean": equal_weights, "greedy": greedy_on_squares, "simplex": least_squares},
        least=least_squares),
}
