"""Frozen members: what pretrained networks say of all images, and a classifier on it in each fold.

A member's features are read once. What its folds keep is a classifier, and one network for all.
"""
import functools
import itertools
import math
import os
import shutil
import time
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import torch

from modeling.frozen import MOST_VIEWS, Linear, few_enough, fit_heads
from modeling.inference import Features
from modeling.memory import peak_memory_bytes, reset_peak_memory
from modeling.network import forward_operations
from modeling.norms import fused
from modeling.train import SHARED, WEIGHTS, seed_everything, write_history, write_tensors
from running.fits import augments_of
from running.members import Member
from running.place import Notes, need_weights, with_loading
from running.predicting import Inference, network_of, splits_of, views_of
from running.rounds import frozen_specs
from running.run import keep_warnings
from system.log import Timer, duration
from system.machine import need_space
from system.stages import Stage, is_intact, make
from utils import read_json, seed_of, write_json

BUDGET_SHARE = 0.25     # of the time that is left, for all frozen members but the first
AUGMENTED = "augmented"      # training images as a fit would see them


def in_time(setup, members, log):
    """The first of [Frozen] that BUDGET_SHARE of the time until the last fit must end allows, by
    what the run's first frozen member took. Without a deadline or before it: all."""
    if setup.ends_by == setup.deadline == math.inf or not members:
        return members
    first = replace(members[0], backbone=members[0].prepared.config.model.frozen[0])
    if not first.heads.is_done:
        return members
    seconds_left = min(setup.deadline, setup.ends_by) - time.perf_counter()
    taken = sum(read_json(stage.folder / "cost.json")["seconds"]
                for stage in (first.features, first.heads))
    pace = taken / first.operations
    planned = itertools.accumulate(pace * member.operations for member in members)
    allowed = [member for member, seconds in zip(members, planned, strict=True)
               if seconds <= BUDGET_SHARE * seconds_left]
    if late := [member.backbone for member in members[len(allowed):]]:
        log.warn(f"{', '.join(late)} left out of the networks that are read without training: of "
                 f"the time left, {duration(max(0.0, seconds_left))}, they would take more than "
                 f"{BUDGET_SHARE:.0%}")
    return allowed


# ---------------------------------------------------------------- stages

def features_stage(prepared, backbone, compute):
    """What a frozen network says of all images."""
    config = prepared.config
    settings = {"augment": config.augment, "image_size_px": config.data.image_size_px,
                "resize": config.data.resize, "n_views": n_views(config), "seed": config.seed,
                "compute": compute, "pad_type": prepared.weights[backbone].pad_type}
    if tagged := prepared.weights[backbone].tagged:
        settings["tagged"] = tagged      # another mean and standard deviation
    inputs = [*prepared.keys, prepared.digests[backbone]]
    return Stage.of(prepared.folder / "frozen", backbone, version=3, settings=settings,
                    inputs=inputs)


def heads_stage(prepared, backbone, compute):
    """The classifiers of all folds."""
    features = features_stage(prepared, backbone, compute)
    return Stage.of(prepared.folder / "frozen", f"heads-{backbone}", version=2,
                    settings={"class_weight_power": prepared.config.optim.class_weight_power},
                    inputs=[features.key])


def operations_of(config, model_name):
    """Operations of a forward pass of one image."""
    return forward_operations(model_name, config.data.image_size_px)


def n_views(config):
    return min(MOST_VIEWS, config.predict.tta_views)


# ---------------------------------------------------------------- the work

@dataclass(frozen=True, eq=False)
class Frozen(Member):
    """A pretrained network as it is."""

    backbone: str
    version = 2

    @property
    def name(self):
        return f"frozen {self.backbone}"

    @property
    def operations(self):
        """Of its forward pass on an image."""
        return operations_of(self.prepared.config, self.backbone)

    def read(self, site):
        need_weights(self.prepared.weights[self.backbone])
        for stage in (self.features, self.heads):
            is_intact(stage, site.log)      # a damaged one is made again
        with_loading(site, self.prepared.config.runtime, Notes(site.log), self.make_features)

    @functools.cached_property
    def specs(self):
        return [spec for spec in frozen_specs(self.prepared.config)
                if spec.backbone == self.backbone]

    @property
    def features(self):
        return features_stage(self.prepared, self.backbone, self.compute)

    @property
    def seen(self):
        return [self.features]

    def load(self, split):
        return Features.load(self.features.folder / f"{split}.npz")

    # ------------------------------------------------------------ features

    def make_features(self, place):
        return make(self.features, partial(self.see, place), place.log)

    def see(self, place, folder):
        """Leave a file of Features per split."""
        prepared = self.prepared
        config = prepared.config
        views = views_of(config, prepared.shift)[:n_views(config)]
        inference = Inference(config, prepared.classes, place, prepared.task)
        reset_peak_memory(place.device)
        network = fused(self.compute.prepare(self.network().to(place.device)))
        parts = list(self.parts())
        n_images = sum(len(ids) for splits in parts for ids, _, _ in splits.values())
        n_bytes = 4 * n_images * len(views) * network.head.linear.in_features
        need_space(folder, n_bytes, f"features of {n_images} images")

        found = {}
        with Timer() as timer:
            for splits in parts:
                loader = inference.loader(splits)
                for split in splits:
                    seen = views[:1] if split == AUGMENTED else views
                    found.setdefault(split, []).append(inference.features(
                        self.backbone, self.compute, network, loader, split, seen))
        for split, features in found.items():
            Features.concat(features).save(folder / f"{split}.npz")
        write_json(folder / "cost.json", {"seconds": timer.seconds, "images": n_images,
                                          "peak_memory_bytes": peak_memory_bytes(place.device)})
        keep_warnings(place.log.warnings, folder)
        place.log.say(f"frozen {self.backbone}: features of {n_images} images, up to "
                      f"{len(views)} views each, {timer.seconds:.0f} s")

    def parts(self):
        """What is read together, as by `splits_of`: each fold's images, then the test images.

        A distortion may paste an image into another, which must be of the same fold. Where test
        images differ, training images are also seen as augmented.
        """
        prepared = self.prepared
        train = prepared.audit.train
        for fold in np.unique(prepared.folds.fold):      # also -1, of what is always trained on
            rows = prepared.folds.valid_rows(fold)
            splits = splits_of(prepared, rows)
            test = splits.pop("test", None)
            if not prepared.shift.is_empty:
                augments = augments_of(prepared)
                splits[AUGMENTED] = (train.sample_id[rows], prepared.audit.train_pixels.take(rows),
                                     [augments[k] for k in train.kind[rows]])
            yield splits
        if test:
            yield {"test": test}

    def network(self):
        """The pretrained network with a linear head."""
        config = self.prepared.config
        seed_everything(config.seed, "frozen", self.backbone)
        return network_of(config, self.specs[0], self.prepared.classes,
                          self.prepared.weights[self.backbone])

    # ------------------------------------------------------------ classifiers

    @property
    def heads(self):
        return heads_stage(self.prepared, self.backbone, self.compute)

    def train(self, site, folder):
        """Leave the classifiers of all folds, and the network that they share."""
        prepared = self.prepared
        train = prepared.audit.train
        ids = train.sample_id
        splits = ["valid"]
        if not prepared.shift.is_empty:
            splits += ["valid_testlike", AUGMENTED]
        rng = np.random.default_rng(seed_of(prepared.config.seed, "frozen", self.backbone))
        rows = few_enough(train.kind, len(splits), len(prepared.classes), rng)
        versions = np.concatenate([self.load(split).of(ids[rows].tolist())[:1] for split in splits])
        with Timer() as timer:
            heads = fit_heads(versions, train.known[rows], prepared.folds.fold[rows],
                              self.weigh, site.cores, prepared.task.values)
        self.say_fitted(site.log, heads.values(), timer.seconds)
        save_heads(heads, folder / "heads.npz")
        network = {name: tensor for name, tensor in self.network().state_dict().items()
                   if not name.startswith("head.")}
        write_tensors(network, folder / SHARED)
        write_json(folder / "cost.json", {"seconds": timer.seconds})

    def keep(self, spec, folder):
        """Leave the weights and the history of a fit: its fold's classifier, and the network that
        all folds share."""
        head = load_heads(self.heads.folder / "heads.npz")[spec.fold]
        share(self.heads.folder / SHARED, folder / SHARED)
        write_tensors({"head.linear.weight": torch.from_numpy(head.weight),
                       "head.linear.bias": torch.from_numpy(head.bias)}, folder / WEIGHTS)
        reading, fitting = (read_json(stage.folder / "cost.json")
                            for stage in (self.features, self.heads))
        seconds = (reading["seconds"] + fitting["seconds"]) / self.prepared.folds.n_folds
        write_history([{
            "epoch": 1, "loss": head.loss, "skipped_steps": 0, "seconds": seconds,
            "images_per_second": reading["images"] / reading["seconds"],
            "micro_batch_size": self.prepared.config.optim.micro_batch_size,
            "grad_checkpointing": 0, "out_of_memory": 0,
            "peak_memory_bytes": reading["peak_memory_bytes"], "strength": head.strength}], folder)

    def logits(self, spec, split, ids):
        """{view: (n, C)} of samples."""
        head = load_heads(self.heads.folder / "heads.npz")[spec.fold]
        features = self.load(split)
        logits = head.logits(features.of(ids))
        return dict(zip(features.views, logits, strict=True))


def share(source, target):
    """Let `target` be the file `source`: one on the disk where links are possible, else a copy."""
    target.unlink(missing_ok=True)      # of a start that was killed
    try:
        os.link(source, target)
    except OSError:      # not every file system links; whatever else it is, the copy tells
        shutil.copyfile(source, target)


def save_heads(heads, path):
    """Write {fold: Linear} as one file."""
    arrays = {f.name: np.stack([getattr(head, f.name) for head in heads.values()])
              for f in fields(Linear)}
    np.savez(path, fold=list(heads), **arrays)


def load_heads(path):
    """{fold: Linear} of a file of `save_heads`."""
    with np.load(path, allow_pickle=False) as f:
        rows = zip(f["weight"], f["bias"], f["strength"].tolist(), f["loss"].tolist(), strict=True)
        return dict(zip(f["fold"].tolist(), (Linear(*row) for row in rows), strict=True))
