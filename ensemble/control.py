"""A score on few rows, moved by what another model scores on those and on many (control variate).

    control = control_variate(metric, labels, answers, other, few, groups=..., draws=..., seed=...)
    score + control.change

Rows that are easy for one model are easy for another. A model that was scored on all rows says how
easy the few are. (Owen, Monte Carlo theory, methods and examples, 2013, section 8.9.)
"""
from typing import NamedTuple

import numpy as np

from ensemble.metrics import resamples


class Control(NamedTuple):
    """change: to add to the score. width: factor of its interval's width, above 0 and at most 1.

    strength: how much of the other model's change counts, from 0 to 1.
    """

    change: float = 0.0
    width: float = 1.0
    strength: float = 0.0


def control_variate(metric, labels, answers, other, few, *, groups, draws, seed):
    """The Control of a score of `answers` (m, C) on the rows `few` (m,) of n.

    labels (n,) and other (n, C), the other model's predictions: of all rows. How alike the two
    scores change is taken from `draws` resamples of whole `groups` (m,) of the few rows.
    """
    if len(few) == len(labels):
        return Control()
    rng = np.random.default_rng(seed)
    alike = other[few]
    known = labels[few]
    drawn = np.array([(metric(known[rows], answers[rows]), metric(known[rows], alike[rows]))
                      for rows in resamples(groups, draws, rng)])
    (own, both), (_, theirs) = np.cov(drawn.T)
    if own <= 0 or theirs <= 0:
        return Control()
    strength = float(np.clip(both / theirs, 0, 1))
    change = strength * (metric(labels, other) - metric(known, alike))
    # variance of score + change, over that of the score: the other's rows hold the few
    left = 1 - len(few) / len(labels)
    variance = 1 + left * strength * (strength * theirs - 2 * both) / own
    return Control(float(change), float(np.sqrt(max(variance, 0.0))), strength)
