"""What fits knew of valid images while they trained: read, and said in a sentence.

    points = read_curve(curve_path(folder, "r0-vit-s42-1a2b3c4d5e6f"))
    verdict("vit", {0: points}, sign=1)
"""
import math
from typing import NamedTuple

import numpy as np

from utils import csv_rows, csv_text, write_atomic

FOLDER = "curves"           # in a run's folder: what is watched is part of no stage
NOTHING_KNOWN = 0.98        # of the loss of the class shares, from which a fit knows no more
CLEARLY = 0.1               # share of a loss by which a rise or a fall is told
LAST_PART = 0.75            # of the epochs, after which a fall says that more would help


class Point(NamedTuple):
    """Some valid images after an epoch: log loss, score, and the log loss of the class shares."""

    epoch: int
    loss: float
    score: float
    prior_loss: float


def curve_path(folder, stage):
    """Where the curve of a fit lies. folder: of the run. stage: the name of its stage's folder."""
    return folder / FOLDER / f"{stage}.csv"


def read_curve(path):
    """[Point] by epoch; [] without a file, or if someone changed it."""
    try:
        points = [Point(int(row["epoch"]), *(float(row[name]) for name in Point._fields[1:]))
                  for row in csv_rows(path)]
    except (OSError, ValueError, KeyError, TypeError):      # cut short or edited: no curve
        return []
    return [p for p in points if math.isfinite(p.loss + p.score)]


def write_curve(path, points):
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, csv_text([Point._fields, *points]))


def prior_loss(truth, n_columns, judge):
    """The loss of the best answer that is the same for all of these images, as the class shares.

    truth: Catalog.truth. judge: an ensemble.judges.Judge.
    """
    constant = judge.constant(truth, n_columns)
    return float(judge.row_losses(truth, np.broadcast_to(constant, (len(truth), n_columns))).mean())


# ---------------------------------------------------------------- in a sentence

def verdict(curves, sign):
    """Sentences about the fits of a backbone: which collapsed, overfit or had too few epochs.

    curves: {fold: [Point]}. sign: the metric's. '' if no curve is long enough.
    """
    found = {}
    for fold, points in curves.items():
        if kind := kind_of(points, sign):
            found.setdefault(kind, []).append((fold, points))
    said = [SENTENCES[kind](folds_of(those, curves), those) for kind, those in found.items()]
    return " ".join(said)


def kind_of(points, sign):
    """collapsed, overfit, underfit or level; '' if a curve is too short to say."""
    if not points:
        return ""
    last = points[-1]
    if last.loss >= NOTHING_KNOWN * last.prior_loss:
        return "collapsed"
    if len(points) < 3:
        return ""
    best = best_of(points)
    is_better = sign * (last.score - best.score) > 0
    if last.loss >= (1 + CLEARLY) * best.loss and not is_better:
        return "overfit"
    if best is last and fall_of(points) >= CLEARLY:
        return "underfit"
    return "level"


def best_of(points):
    return min(points, key=lambda p: p.loss)


def fall_of(points):
    """By which share the loss has fallen in the last part of the epochs."""
    last = points[-1]
    before = [p for p in points if p.epoch <= LAST_PART * last.epoch] or points[:1]
    return 1 - last.loss / max(before[-1].loss, 1e-9)


def folds_of(those, curves):
    """Which of the fits a sentence is about."""
    if len(those) == len(curves):
        return "This fit" if len(curves) == 1 else f"All {len(curves)} fits"
    names = ", ".join(str(fold) for fold, _ in those)
    return f"The fit of fold {names}" if len(those) == 1 else f"The fits of folds {names}"


def say_collapsed(who, those):
    return (f"{who} collapsed: on valid images no more is known than the class shares. Look at the "
            "labels and lower the rate (optim.lr).")


def say_overfit(who, those):
    epoch = round(np.median([best_of(points).epoch for _, points in those]))
    rise = np.mean([points[-1].loss / best_of(points).loss - 1 for _, points in those])
    return (f"{who} overfit: the loss on valid images was lowest after epoch {epoch}, is "
            f"{rise:.0%} higher at the end, and the score is no better. Fewer epochs or stronger "
            "augmentation may score higher.")


def say_underfit(who, those):
    fall = np.mean([fall_of(points) for _, points in those])
    return (f"{who} underfit: the loss on valid images still fell by {fall:.0%} in the last "
            "quarter. More epochs may score higher (optim.epochs).")


def say_level(who, those):
    return f"{who} levelled off."


SENTENCES = {"collapsed": say_collapsed, "overfit": say_overfit, "underfit": say_underfit,
             "level": say_level}
