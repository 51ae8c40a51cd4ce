"""What the fits of a round learn from: labels, and in later rounds the models of the round before.

Blind by construction: a fit of fold k learns only from fold k's models, which never saw fold k's
valid images. A refit learns from the models of all folds, because no score is taken of it.
Pseudo-labels carry `blind_fold=k`, and a fit of another fold refuses them; distillation refuses
teachers of another fold. The other folds' valid images decide which members may teach, all with
equal weight, and the one temperature of pseudo-labels.

Pseudo-labels do not shift the class shares. Easy classes have far more sure images than hard ones
(docmix: 92 of the largest class, 3 of the smallest, where labelled images are 6 to 1). So a class
may give no larger a share of its unlabelled images than the median class gives (`within_quota`).
Class weights make up for the rest: each class keeps the part in the loss that its labelled images
alone would have (`losses.class_weights`). Lower thresholds for hard classes (FlexMatch, arXiv
2110.08263) would add wrong labels to them.
"""

import numpy as np

from data_loader import Targets
from ensemble.judges import JUDGES
from ensemble.metrics import with_temperature
from modeling.inference import Predictions
from utils import RunError, csv_rows, csv_text, quoted_cell, unquoted_cell, write_atomic


def teachers_temperature(folds, label_of):
    """The temperature that calibrates the mean of a fold's teachers; 1.0 if `folds` is empty.

    folds: for each *other* fold, its teachers' Predictions of its own valid images. label_of:
    {sample id: label}.
    """
    if not folds:
        return 1.0
    rows = Predictions.concat([Predictions.mean(teachers) for teachers in folds])
    labels = np.array([label_of[i] for i in rows.sample_id.tolist()])
    return JUDGES[rows.values].fit_temperature(labels, rows.probs)


def able(names, folds, label_of):
    """The `names` that may teach: those with at least half of an equal weight in the best mixture.

    Teachers count equally, so a member that learnt little (random weights, too few epochs,
    diverged) would count as much as the best, and the teachers would agree on hardly any image.

    folds: for each *other* fold {name: its Predictions of its own valid images}. Folds that lack
    a name are ignored; all names teach if no fold remains.
    """
    folds = [fold for fold in folds if set(names) <= fold.keys()]
    if not folds or len(names) < 2:
        return list(names)

    predictions = [Predictions.concat([fold[name] for fold in folds]) for name in names]
    ids = predictions[0].sample_id.tolist()
    labels = np.array([label_of[i] for i in ids])
    judge = JUDGES[predictions[0].values]
    stack = np.stack([judge.calibrated(labels, each.align(ids)) for each in predictions])
    labels, stack = judge.rows(labels, stack)
    weights = judge.least(stack, labels)
    least = 0.5 / len(names)
    return [name for name, weight in zip(names, weights, strict=True) if weight >= least]


def distillers(spec, teachers, max_teachers=0):
    """The FitSpecs among `teachers` that the fit `spec` is distilled from.

    These are the other backbones, or its own backbone if there is no other; at most `max_teachers`
    unless that is 0. It takes the first, not the best: the labels that tell which is best in a
    fold must not influence the student. Frozen members teach by pseudo-labels alone. Raises
    RunError if a teacher has seen labels that `spec` is validated on.
    """
    seen = []
    if spec.fold is not None:
        seen = [f"{t.name} of fold {t.fold}" for t in teachers if t.fold != spec.fold]
    if seen:
        raise RunError(
            f"the teachers of {spec.name} fold {spec.fold} must be fits of fold {spec.fold}, "
            f"which are blind to it, got {', '.join(seen)}: this would leak validation labels"
        )
    teachers = [t for t in teachers if t.is_trained]
    others = [t for t in teachers if t.backbone != spec.backbone] or teachers
    return others[:max_teachers or None]


def pseudo_targets(teachers, round_, fold, temperature=1.0):
    """Targets for the test images on which the fold's teachers are sure and agree.

    teachers: the test Predictions of fold `fold`'s models, equally weighted; `temperature`
    calibrates their mean. round_: a Round. A row is kept if its mean probability reaches
    min_confidence, at least min_agreement of the teachers vote for its class, and it is within
    the quota of its class. Its weight is that probability.
    """
    mean = Predictions.mean(teachers)
    ids = mean.sample_id.tolist()
    winner = mean.probs.argmax(1)
    votes = np.mean([t.align(ids).argmax(1) == winner for t in teachers], axis=0)
    probs = with_temperature(mean.probs, temperature)
    confidence = probs.max(1)
    keep = (confidence >= round_.min_confidence) & (votes >= round_.min_agreement)
    if round_.class_quota:
        keep &= within_quota(probs, keep, round_.class_quota)
    return Targets(mean.sample_id[keep], probs[keep], confidence[keep], blind_fold=fold,
                   taught=True)


def within_quota(probs, keep, quota):
    """(n,) bool: the surest kept rows of each class, so that easy classes do not swamp the others.

    A class's share is its kept rows by its expected number of images. No class keeps more than
    `quota` times the median share. probs (n, C), keep (n,) bool.
    """
    winner = probs.argmax(1)
    expected = probs.sum(0)
    counts = np.bincount(winner[keep], minlength=probs.shape[1])
    found = counts > 0
    if not found.any():
        return keep
    most = np.ceil(quota * np.median((counts / expected)[found]) * expected)

    # rank within the class: kept rows first, the surest of them first
    order = np.lexsort((-probs.max(1), ~keep, winner))
    rank = np.empty(len(probs), dtype=np.int64)
    rank[order] = np.arange(len(probs)) - np.searchsorted(winner[order], winner[order])
    return rank < most[winner]


def save_pseudo_labels(targets, classes, path):
    """Write a csv of sample_id, class and confidence."""
    rows = [("sample_id", "class", "confidence")]
    for sample, row in zip(targets.sample_id.tolist(), targets.probs, strict=True):
        name = classes[int(row.argmax())]
        rows.append((quoted_cell(sample), quoted_cell(name), f"{row.max():.6f}"))
    write_atomic(path, csv_text(rows))


def load_pseudo_labels(path):
    """{sample id: class} from a file of `save_pseudo_labels`; {} if there is none."""
    if not path.exists():
        return {}
    return {unquoted_cell(row["sample_id"]): unquoted_cell(row["class"]) for row in csv_rows(path)}


PSEUDO_LABELS = "pseudo_labels.csv"     # in the folder of a fit
