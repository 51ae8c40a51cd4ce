"""What a test set's statistics say about each kind of distortion, read with a bank."""
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shift.bank import AXES, classes_of
from shift.distortions import FILLS, SYMMETRIES
from shift.mixtures import mixture_weights
from shift.orientation import MIN_GAIN, resampled
from system.parallel import process_map

MIN_PROBABILITY = 0.05     # a kind on fewer of the test images is dropped
MISFIT = 0.015             # share of a gain by which our likelihoods may be wrong
CHANCE_FACTOR = 2.5        # a gain counts from this multiple of what chance gives


# ---------------------------------------------------------------- reading a test set with a bank

def likelihood_ratios(bank, y, test, n_classes, seed, folds=2):
    """P(class | row) / P(class), up to a factor per row. y (n,): the classes of the bank's rows.

    Returns (n, K) for the rows of the bank, out of fold, and (m, K) for the test rows.
    """
    rows = bank.statistics
    p_bank = np.full((len(rows), n_classes), 1e-3)
    p_test = np.full((len(test), n_classes), 1e-3)
    splits = GroupKFold(folds, shuffle=True, random_state=seed).split(rows, y, bank.source)
    for fold, (fit, held) in enumerate(splits):
        forest = ExtraTreesClassifier(50, min_samples_leaf=4, max_features=0.2,
                                      random_state=seed + fold)
        forest.fit(rows[fit], y[fit])
        p_bank[np.ix_(held, forest.classes_)] += forest.predict_proba(rows[held])
        mine = np.arange(fold, len(test), folds)
        p_test[np.ix_(mine, forest.classes_)] += forest.predict_proba(test[mine])

    calibration = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200, tol=1e-3))
    calibration.fit(np.log(p_bank), y)
    seen = calibration.classes_
    prior = np.bincount(y, minlength=n_classes) / len(y)

    def ratios(p):
        ratio = np.full((len(p), n_classes), 1e-6)
        ratio[:, seen] = calibration.predict_proba(np.log(p)) / prior[seen] + 1e-6
        return ratio

    return ratios(p_bank), ratios(p_test)


def kind_ratios(kind, bank, test, seed):
    """(y (n,): the class of each row of the bank, ratios of those rows, ratios of the test rows) of
    a kind of distortion."""
    y = classes_of(bank.values, kind)
    return y, *likelihood_ratios(bank, y, test, AXES[kind].classes.max() + 1, seed)


def uniform_ranges(kind, parts=2):
    """All ranges between edges cut `parts` times finer, (R, 2), and the share of each class in
    them, (K, R)."""
    edges, classes, _ = AXES[kind]
    fine = np.interp(np.arange(0, len(edges) - 1 + 1e-9, 1 / parts), np.arange(len(edges)), edges)
    ranges = np.array([(a, b) for i, a in enumerate(fine) for b in fine[i + 1:]])

    low = np.maximum(ranges[:, :1], edges[:-1])
    high = np.minimum(ranges[:, 1:], edges[1:])
    overlap = np.clip(high - low, 0, None)
    share = overlap / overlap.sum(1, keepdims=True)
    return ranges, np.stack([share[:, classes == c].sum(1) for c in range(classes.max() + 1)])


def fit_range(ratios, kind, steps=20, parts=2):
    """(probability, low, high, gain): how these rows got a kind's values.

    The gain is that of the likeliest values, in log likelihood over no distortion. The values are
    a tempered posterior mean: where rows hardly tell a value, the likeliest range is narrow by
    chance.
    """
    ranges, share = uniform_ranges(kind, parts)
    against_none = ratios @ share / ratios[:, :1] - 1
    probabilities = np.arange(1, steps + 1) / steps
    gains = np.array([np.log(np.maximum(1 + p * against_none, 1e-6)).sum(0) for p in probabilities])
    temper = 2 + MISFIT * max(gains.max(), 0)
    weight = np.exp((gains - gains.max()) / temper)
    weight /= weight.sum()
    low, high = weight.sum(0) @ ranges
    return weight.sum(1) @ probabilities, low, high, gains.max()


@dataclass(frozen=True)
class KindReading:
    """What the test rows say about one kind: its share of the images and the range of its value."""

    kind: str
    probability: float
    low: float
    high: float
    gain: float      # in log likelihood over no such distortion
    chance: float    # gain that rows without it reach by chance

    @property
    def holds(self):
        is_sure = self.gain > CHANCE_FACTOR * self.chance + MIN_GAIN
        return is_sure and self.probability >= MIN_PROBABILITY


@dataclass(frozen=True)
class Belief:
    """What a round of the search believes the test set to be; the next bank is drawn from it."""

    kinds: dict                     # kind -> KindReading
    fill: tuple = (0.25,) * 4       # shares of FILLS
    expand: float = 0.5             # as in ShiftPolicy
    geometry_first: float = 0.5
    blocky: float = 0.5

    def settings(self):
        """{name: (choices, shares)}."""
        return {
            "fill": (FILLS, self.fill),
            "expand": ((False, True), (1 - self.expand, self.expand)),
            "geometry_first": ((False, True), (1 - self.geometry_first, self.geometry_first)),
            "blocky": ((False, True), (1 - self.blocky, self.blocky)),
            "symmetry": ((None, *SYMMETRIES), (0.125,) * 8),
        }


def read_kind(kind, bank, test, seed):
    y, ours, theirs = kind_ratios(kind, bank, test, seed)

    # chance is measured on pure rows, if enough of them lack the kind
    without = (y == 0) & bank.pure
    if without.sum() <= 50:
        without = y == 0
    rng = np.random.default_rng(seed)
    drawn = [ours[resampled(bank.source, without, len(test), rng)] for _ in range(10)]
    chance = max(fit_range(ratios, kind, 10, parts=1)[3] for ratios in drawn)
    return KindReading(kind, *fit_range(theirs, kind), max(chance, 0.0))


def read_kinds(kinds, bank, test, seed, workers):
    """{kind: KindReading}."""
    def read(kind):
        return read_kind(kind, bank, test, seed)

    return dict(zip(kinds, process_map(read, kinds, workers), strict=True))


def read_setting(name, choices, needs, bank, test, seed):
    """Shares of a setting's choices among the test rows that show it: a fill needs geometry.

    needs: set of kinds, one of which an image must have.
    """
    y = np.array([1 + choices.index(v[name]) if needs & v.keys() else 0 for v in bank.values])
    _, theirs = likelihood_ratios(bank, y, test, len(choices) + 1, seed)
    weights = mixture_weights(theirs)[1:] + 0.01
    return tuple(weights / weights.sum())
