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

# ---------------------------------------------------------------- reading a test set with a bank

def likelihood_ratios(rows, y, source, test, n_classes, seed, folds=2):
    """P(class | row) / P(class), up to a factor per row: (n, K) for the bank, out of fold, and (m,
    K) for the test rows."""
    p_bank = np.full((len(rows), n_classes), 1e-3)
    p_test = np.full((len(test), n_classes), 1e-3)
    splits = GroupKFold(folds, shuffle=True, random_state=seed).split(rows, y, source)
    for fold, (fit, held) in enumerate(splits):
        forest = ExtraTreesClassifier(50, min_samples_leaf=4, max_features=0.2,
                                      random_state=seed + fold)
        forest.fit(rows[fit], y[fit])
        p_bank[np.ix_(held, forest.classes_)] += forest.predict_proba(rows[held])
        mine = np.arange(fold, len(test), folds)
        p_test[np.ix_(mine, forest.classes_)] += forest.predict_proba(test[mine])
    calibration = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200, tol=1e-3))
    calibration.fit(np.log(p_bank), y)
    prior = np.bincount(y, minlength=n_classes) / len(y)
    out = []
    for p in (p_bank, p_test):
        ratio = np.full((len(p), n_classes), 1e-6)
        ratio[:,
              calibration.classes_] = calibration.predict_proba(np.log(p)) / prior[
                  calibration.classes_] + 1e-6
        out.append(ratio)
    return out


def uniform_ranges(kind, parts=2):
    """All ranges between edges cut `parts` times finer, (R, 2), and what they give to each class,
    (K, R)."""
    edges, classes, _ = AXES[kind]
    fine = np.interp(np.arange(0, len(edges) - 1 + 1e-9, 1 / parts), np.arange(len(edges)), edges)
    ranges = np.array([(a, b) for i, a in enumerate(fine) for b in fine[i + 1:]])
    overlap = np.clip(np.minimum(ranges[:, 1:], edges[1:]) - np.maximum(ranges[:, :1], edges[:-1]),
                      0, None)
    share = overlap / overlap.sum(1, keepdims=True)
    return ranges, np.stack([share[:, classes == c].sum(1) for c in range(classes.max() + 1)])


def fit_range(ratios, kind, steps=20, parts=2):
    """(probability, low, high, gain): the likeliest for these rows; gain in log likelihood over no
    distortion."""
    ranges, share = uniform_ranges(kind, parts)
    against_none = ratios @ share / ratios[:, :1] - 1
    probabilities = np.arange(1, steps + 1) / steps
    gains = np.array([np.log(np.maximum(1 + p * against_none, 1e-6)).sum(0) for p in probabilities])
    i, j = np.unravel_index(np.argmax(gains), gains.shape)
    return probabilities[i], *ranges[j], gains[i, j]


@dataclass(frozen=True)
class KindReading:
    """What the test rows say about one kind, and the gain that rows without it reach by chance."""

    kind: str
    probability: float
    low: float
    high: float
    gain: float
    chance: float

    @property
    def holds(self):
        return self.gain > 2.5 * self.chance + MIN_GAIN and self.probability >= 0.05


@dataclass(frozen=True)
class Belief:
    """What is believed between two rounds of the search."""

    kinds: dict
    fill: tuple = (0.25,) * 4
    expand: float = 0.5
    geometry_first: float = 0.5

    def distortion(self, kind):
        return self.kinds.get(kind)

    def settings(self):
        """name -> (choices, shares)."""
        shares = {name: getattr(self, name) for name in ("expand", "geometry_first")}
        return {"fill": (FILLS, self.fill), **{name: ((False, True), (1 - share, share)) for name,
                                               share in shares.items()},
                "symmetry": ((None, *SYMMETRIES), (0.125,) * 8)}


def read_kind(kind, bank, test, seed):
    y = classes_of(bank.values, kind)
    ours, theirs = likelihood_ratios(bank.statistics, y, bank.source, test,
                                     AXES[kind].classes.max() + 1, seed)
    rng = np.random.default_rng(seed)
    none = (y == 0) & bank.pure
    none = none if none.sum() > 50 else y == 0
    chance = max(fit_range(ours[resampled(bank.source, none, len(test), rng)], kind, 10, parts=1)[3]
                 for _ in range(10))
    return KindReading(kind, *fit_range(theirs, kind), max(chance, 0.0))


def read_kinds(kinds, bank, test, seed, workers):
    """{kind: Finding}."""
    return dict(zip(kinds, process_map(lambda kind: read_kind(kind, bank, test, seed), kinds,
                                       workers), strict=True))


def read_setting(name, choices, needs, bank, test, seed):
    """Shares of a setting's choices among the test rows that show it (a fill needs geometry)."""
    y = np.array([1 + choices.index(v[name]) if needs & v.keys() else 0 for v in bank.values])
    _, theirs = likelihood_ratios(bank.statistics, y, bank.source, test, len(choices) + 1, seed)
    weights = mixture_weights(theirs)[1:] + 0.01
    return tuple(weights / weights.sum())
