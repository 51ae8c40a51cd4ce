"""What the fits of a round learn: the labels, and in later rounds what the round before sees in
test images and in its own.

Blind by construction: a fit of fold k is taught by fold k's models alone, which never saw fold k's
valid images; a refit, of which no score is taken, by those of all folds. Pseudo-labels carry
`blind_fold=k`, and a fit of another fold refuses them; distillation refuses teachers of another
fold. Which backbones are able to teach, equally weighted, and the one temperature of pseudo-labels
come from the other folds' valid images.

Pseudo-labels do not shift the class shares. Easy classes have far more sure images than hard ones
(docmix: 92 of the largest class, 3 of the smallest, where labelled images are 6 to 1). So a class
may give no larger a share of its unlabelled images than the median class gives (`within_quota`),
and what is left of the difference is taken up by the class weights, which leave each class the part
in the loss that its labelled images alone would have (`losses.class_weights`). Lower thresholds for
hard classes (FlexMatch, arXiv 2110.08263) would fill them up with wrong ones.
"""
import csv

import numpy as np

from data_loader import Targets
from ensemble.metrics import fit_temperature, least_loss_weights, with_temperature
from modeling.inference import Predictions
from utils import RunError, csv_text, quoted_cell, unquoted_cell, write_atomic


def teachers_temperature(folds, label_of):
    """The temperature that calibrates the mean of a fold's teachers; 1.0 without any folds to fit
    it on.

    folds: for each *other* fold, its teachers' Predictions of its own valid images; label_of:
    {sample id: label}.
    """
    if not folds:
        return 1.0
    rows = Predictions.concat([Predictions.mean(teachers) for teachers in folds])
    return fit_temperature(np.array([label_of[i] for i in rows.sample_id.tolist()]), rows.probs)


def able(names, folds, label_of):
    """Those of `names` that are worth being taught by: with at least half of an equal weight in the
    likeliest mixture of them.

    A backbone that learnt little (random weights, too few epochs, diverged) would otherwise be
    heard as loud as the best, and with it hardly any image would be agreed on. folds: for each
    *other* fold {name: its Predictions of its own valid images}, of which count those that have
    every name; without any all of them teach.
    """
    folds = [fold for fold in folds if set(names) <= fold.keys()]
    if not folds or len(names) < 2:
        return list(names)
    each = [Predictions.concat([fold[name] for fold in folds]) for name in names]
    ids = each[0].sample_id.tolist()
    labels = np.array([label_of[i] for i in ids])
    stack = [predictions.align(ids) for predictions in each]
    weights = least_loss_weights(np.stack([with_temperature(p, fit_temperature(labels, p))
                                           for p in stack]), labels)
    return [name for name, weight in zip(names, weights, strict=True) if weight >= 0.5 / len(names)]


def distillers(spec, teachers, max_teachers=0):
    """Whom the fit `spec` is distilled from, among the FitSpecs of its teachers: the other
    backbones, at most `max_teachers` where that is not 0, itself where there is no other. RunError
    where one has seen labels that `spec` is validated on.

    The first ones, not the best ones: what is best in a fold is known from labels that the student
    must not be chosen by.
    """
    seen = [f"{t.name} of fold {t.fold}" for t in teachers if spec.fold is not None
            and t.fold != spec.fold]
    if seen:
        raise RunError(
            f"the teachers of {spec.name} fold {spec.fold} must be fits of fold {spec.fold}, which are blind to it, "
            f"got {', '.join(seen)}: this would leak validation labels"
        )
    others = [t for t in teachers if t.backbone != spec.backbone] or list(teachers)
    return others[:max_teachers or None]


def pseudo_targets(teachers, round_, fold, temperature=1.0):
    """Targets for the test images on which the fold's teachers are sure and agree.

    teachers: the test Predictions of fold `fold`'s models, equally weighted, their mean calibrated
    by `temperature`; round_: a Round. Kept are rows whose mean probability reaches min_confidence
    and whose class at least min_agreement of the teachers vote for, within the quota of their
    class; their weight is that probability.
    """
    mean = Predictions.mean(teachers)
    ids = mean.sample_id.tolist()
    winner = mean.probs.argmax(1)
    votes = np.mean([t.align(ids).argmax(1) == winner for t in teachers], axis=0)
    probs = with_temperature(mean.probs, temperature)
    confidence = probs.max(1)
    keep = (confidence >= round_.min_confidence) & (votes >= round_.min_agreement)
    keep &= within_quota(probs, keep, round_.class_quota) if round_.class_quota else True
    return Targets(mean.sample_id[keep], probs[keep], confidence[keep], blind_fold=fold,
                   taught=True)


def within_quota(probs, keep, quota):
    """(n,) bool: the surest of the kept rows of each class, at most `quota` times the median
    class's share of the images expected in it, so that easy classes do not swamp the others. probs
    (n, C), keep (n,) bool."""
    winner = probs.argmax(1)
    expected = probs.sum(0)
    counts = np.bincount(winner[keep], minlength=probs.shape[1])
    found = counts > 0
    if not found.any():
        return keep
    most = np.ceil(quota * np.median((counts / expected)[found]) * expected)
    # by class, kept ones first, the surest of them first
    order = np.lexsort((-probs.max(1), ~keep, winner))
    rank = np.empty(len(probs), dtype=np.int64)
    rank[order] = np.arange(len(probs)) - np.searchsorted(winner[order], winner[order])
    return rank < most[winner]


def save_pseudo_labels(targets, classes, path):
    """csv: sample_id, class, confidence of each."""
    rows = [(quoted_cell(sample), quoted_cell(classes[int(row.argmax())]), f"{row.max():.6f}")
            for sample, row in zip(targets.sample_id.tolist(), targets.probs, strict=True)]
    write_atomic(path, csv_text([("sample_id", "class", "confidence"), *rows]))


def load_pseudo_labels(path):
    """{sample id: class} of a file of `save_pseudo_labels`; {} where there is none."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as f:
        return {unquoted_cell(row["sample_id"]): unquoted_cell(row["class"])
                for row in csv.DictReader(f)}


# in the folder of a fit
PSEUDO_LABELS = "pseudo_labels.csv"
