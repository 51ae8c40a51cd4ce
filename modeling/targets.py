"""What the fits of a round learn: the labels, and in later rounds the test images as the round before sees them.

Blind by construction: the targets for fold k are made by fold k's models alone, which never saw fold k's valid images,
and carry `blind_fold=k`; a fit of another fold refuses them.
"""
import numpy as np

from data_loader import Targets
from modeling.inference import Predictions


def pseudo_targets(teachers, round_, fold):
    """Targets for the test images on which the fold's teachers are sure and agree.

    teachers: the test Predictions of fold `fold`'s models, equally weighted; round_: a Round. Kept are rows whose mean
    probability reaches min_confidence and whose class at least min_agreement of the teachers vote for; their weight is
    that probability.
    """
    mean = Predictions.mean(teachers)
    ids = mean.sample_id.tolist()
    winner = mean.probs.argmax(1)
    votes = np.mean([t.align(ids).argmax(1) == winner for t in teachers], axis=0)
    confidence = mean.probs.max(1)
    keep = (confidence >= round_.min_confidence) & (votes >= round_.min_agreement)
    return Targets(mean.sample_id[keep], mean.probs[keep], confidence[keep], blind_fold=fold, taught=True)
