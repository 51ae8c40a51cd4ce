"""While a fit trains: loss and score of some of its valid images, for the report.

    watch = Watch(log, check=curve_of(job, place, epoch_images=1000))

Nothing is chosen by them, and the training goes on as if they were not computed.
"""
import math
import random
from dataclasses import replace

import numpy as np
import torch

from modeling.inference import views_for
from reporting.curves import Point, curve_path, prior_loss, read_curve, write_curve
from running.predicting import Inference, splits_of
from system.log import no_bars
from utils import RunError, seed_of

MOST_IMAGES = 512
MOST_POINTS = 20
COST = 0.05                 # of the training, at most
STEP_OVER_FORWARD = 3       # what a training step costs, in forward passes


def curve_of(job, place, epoch_images, objective=None):
    """The Curve of a FitJob; None for a refit, or where none is asked for.

    epoch_images: of an epoch of training. objective: what the network is trained by.
    """
    rows = job.prepared.folds.valid_rows(job.spec.fold) if job.spec.fold is not None else []
    if job.metric is None or not job.prepared.config.runtime.curves or not len(rows):
        return None
    return Curve(job, place, rows, epoch_images, objective)


class Curve:
    """Call it after each epoch: curve(network, epoch, n_epochs)."""

    def __init__(self, job, place, rows, epoch_images, objective=None):
        self.objective = objective
        prepared = job.prepared
        rng = np.random.default_rng(seed_of("curve"))
        self.rows = np.sort(rng.permutation(rows)[:MOST_IMAGES])
        self.job = job
        self.log = place.log
        self.inference = Inference(prepared.config, prepared.classes, replace(place, workers=0),
                                   prepared.task)
        self.loader = self.inference.loader(
            {"valid": splits_of(prepared, self.rows)["valid"]})
        self.judge = prepared.task.judge
        self.every = math.ceil(len(self.rows) / (COST * STEP_OVER_FORWARD * epoch_images))
        self.path = curve_path(prepared.folder, job.stages.training.folder.name)
        self.points = {point.epoch: point for point in read_curve(self.path)}

    def __call__(self, network, epoch, n_epochs):
        """Add a point if it is time for one. network: the average of the weights so far."""
        every = max(self.every, math.ceil(n_epochs / MOST_POINTS))
        if epoch % every and epoch < n_epochs:
            return
        try:
            point = self.point(network, epoch)
        except RunError as error:      # short of memory, or nothing finite yet
            self.log.say(f"{self.job.spec.title}: no curve after epoch {epoch} ({error})")
            return
        self.points[epoch] = point
        write_curve(self.path, [self.points[k] for k in sorted(self.points)])
        self.log.record("valid", fit=self.job.spec.name, fold=self.job.spec.fold,
                        **point._asdict())

    def point(self, network, epoch):
        """The Point of an epoch; network and random state are left as they were."""
        job = self.job
        is_training = network.training
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            with no_bars():
                views = self.inference.predict(job.spec, job.compute, network, self.loader, "valid",
                                               views_for(("identity",), 1))
        finally:
            network.train(is_training)
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
        said = views["identity"]
        if self.objective:
            said = replace(said, probs=self.objective.in_units(said.probs))
        said = said.by_unit(job.prepared.unit_of("valid"))
        truth = np.array([job.prepared.label_of[sample] for sample in said.sample_id.tolist()])
        loss = float(self.judge.row_losses(truth, said.probs).mean())
        return Point(epoch, loss, job.metric(truth, said.probs),
                     prior_loss(truth, said.probs.shape[1], self.judge))
