"""Frozen members: what pretrained networks say of all images, and a classifier on it in each fold.

    names = prepared.config.model.frozen
    fits = frozen_fits(setup, prepared, names, executor, log)    # {FitSpec: Fitted}, all folds

A member's features are read once. Then each fold has the two stages of any fit: the weights of a
whole network, whose head is the fold's classifier, and what it predicts.
"""
import functools
import itertools
import math
import os
import shutil
import time
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from scipy.special import softmax

from config import key_spec
from modeling.compute import Compute, untimed
from modeling.frozen import MOST_VIEWS, Linear, few_enough, fit_heads
from modeling.inference import Features, Predictions, by_units, save_views
from modeling.losses import class_weights
from modeling.memory import peak_memory_bytes, reset_peak_memory
from modeling.network import forward_operations
from modeling.norms import fused
from modeling.train import SHARED, WEIGHTS, seed_everything, write_history, write_tensors
from running.executor import Job
from running.fits import augments_of
from running.place import Notes, need_weights, with_loading
from running.predicting import Inference, network_of, source_of, splits_of, views_of
from running.rounds import frozen_specs
from running.run import FitStages, Prepared, finished_fit, keep_warnings
from system.log import Timer, duration
from system.machine import need_space
from system.stages import Stage, is_intact, make
from utils import read_json, seed_of, write_json

BUDGET_SHARE = 0.25     # of the time that is left, for all frozen members but the first
AUGMENTED = "augmented"      # training images as a fit would see them


def frozen_fits(setup, prepared, names, executor, log):
    """{FitSpec: Fitted} of the frozen members among `names`, those finished before too."""
    compute = compute_of(setup)
    specs = [spec for spec in frozen_specs(prepared.config) if spec.backbone in names]

    def finished():
        each = {spec: finished_fit(spec, frozen_stages(prepared, spec, compute), compute,
                                   prepared.config.optim, log) for spec in specs}
        return {spec: done for spec, done in each.items() if done}

    before = finished()
    to_do = dict.fromkeys(spec.backbone for spec in specs if spec not in before)
    jobs = [Job(name, FrozenJob(name, prepared, compute), f"frozen {name}")
            for name in in_time(setup, prepared, list(to_do), compute, log)]
    for _ in executor.run(jobs, log):
        pass
    return finished() if jobs else before


def in_time(setup, prepared, names, compute, log):
    """The first of `names` that BUDGET_SHARE of the time until the last fit must end allows, by
    what the run's first frozen member took. Without a deadline or before it: all."""
    first = prepared.config.model.frozen[0]
    heads = heads_stage(prepared, first, compute)
    if setup.ends_by == setup.deadline == math.inf or not heads.is_done:
        return names
    seconds_left = min(setup.deadline, setup.ends_by) - time.perf_counter()
    stages = [features_stage(prepared, first, compute), heads]
    taken = sum(read_json(stage.folder / "cost.json")["seconds"] for stage in stages)
    side_px = prepared.config.data.image_size_px
    pace = taken / forward_operations(first, side_px)
    planned = itertools.accumulate(pace * forward_operations(name, side_px) for name in names)
    allowed = [name for name, seconds in zip(names, planned, strict=True)
               if seconds <= BUDGET_SHARE * seconds_left]
    if late := names[len(allowed):]:
        log.warn(f"{', '.join(late)} left out of the networks that are read without training: of "
                 f"the time left, {duration(max(0.0, seconds_left))}, they would take more than "
                 f"{BUDGET_SHARE:.0%}")
    return allowed


def described(setup, prepared):
    """The frozen members in a plan, line by line."""
    compute = compute_of(setup)
    for name in prepared.config.model.frozen:
        mine = [spec for spec in frozen_specs(prepared.config) if spec.backbone == name]
        is_done = all(frozen_stages(prepared, spec, compute).state == "done" for spec in mine)
        state = "done" if is_done else "to do"
        yield f"{mine[0].name}  {len(mine)} folds without training, before all fits: {state}"


def compute_of(setup):
    """How frozen networks compute."""
    return untimed(setup.config.runtime, setup.machine["precision"])


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
    return Stage.of(prepared.folder / "frozen", backbone, version=2, settings=settings,
                    inputs=inputs)


def heads_stage(prepared, backbone, compute):
    """The classifiers of all folds."""
    features = features_stage(prepared, backbone, compute)
    return Stage.of(prepared.folder / "frozen", f"heads-{backbone}", version=2,
                    settings={"class_weight_power": prepared.config.optim.class_weight_power},
                    inputs=[features.key])


def frozen_stages(prepared, spec, compute):
    """The FitStages of a frozen fit."""
    heads = heads_stage(prepared, spec.backbone, compute)
    parent = prepared.folder / f"fold_{spec.fold}"
    training = Stage.of(parent, spec.name, version=2, settings=key_spec(spec), inputs=[heads.key])
    prediction = Stage.of(parent, f"predict-{spec.name}", version=1, settings={},
                          inputs=[training.key])
    return FitStages(training, prediction)


def n_views(config):
    return min(MOST_VIEWS, config.predict.tta_views)


# ---------------------------------------------------------------- the work

@dataclass(frozen=True)
class FrozenJob:
    """Makes all stages of one frozen member. Call it with a Site."""

    backbone: str
    prepared: Prepared
    compute: Compute

    def __call__(self, site):
        need_weights(self.prepared.weights[self.backbone])
        for stage in (self.features, self.heads):
            is_intact(stage, site.log)      # a damaged one is made again
        runtime = self.prepared.config.runtime
        with_loading(site, runtime, Notes(site.log), self.make_features)
        make(self.heads, partial(self.train, site), site.log)
        for spec in self.specs:
            training, prediction = frozen_stages(self.prepared, spec, self.compute)
            make(training, partial(self.keep_network, spec), site.log, prediction)
            make(prediction, partial(self.predict, spec), site.log)

    @functools.cached_property
    def specs(self):
        return [spec for spec in frozen_specs(self.prepared.config)
                if spec.backbone == self.backbone]

    @property
    def features(self):
        return features_stage(self.prepared, self.backbone, self.compute)

    def load(self, split):
        return Features.load(self.features.folder / f"{split}.npz")

    # ------------------------------------------------------------ features

    def make_features(self, place):
        return make(self.features, partial(self.read, place), place.log)

    def read(self, place, folder):
        """Leave a file of Features per split."""
        prepared = self.prepared
        config = prepared.config
        views = views_of(config, prepared.shift)[:n_views(config)]
        inference = Inference(config, prepared.classes, place)
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
                                     [augments[k] for k in train.label[rows]])
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
        rows = few_enough(train.label, len(splits), len(prepared.classes), rng)
        versions = np.concatenate([self.load(split).of(ids[rows].tolist())[:1] for split in splits])
        weigh = partial(weights_of_classes, prepared)
        with Timer() as timer:
            heads = fit_heads(versions, train.label[rows], prepared.folds.fold[rows], weigh,
                              site.cores)
        site.log.say(f"frozen {self.backbone}: classifiers of {len(heads)} folds, strength "
                     f"{', '.join(f'{head.strength:g}' for head in heads.values())}, "
                     f"{timer.seconds:.0f} s")
        save_heads(heads, folder / "heads.npz")
        network = {name: tensor for name, tensor in self.network().state_dict().items()
                   if not name.startswith("head.")}
        write_tensors(network, folder / SHARED)
        write_json(folder / "cost.json", {"seconds": timer.seconds})

    def keep_network(self, spec, folder):
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

    def predict(self, spec, folder):
        """Leave valid.npz, valid_testlike.npz, test.npz as any fit, from the features."""
        prepared = self.prepared
        head = load_heads(self.heads.folder / "heads.npz")[spec.fold]
        valid = prepared.folds.sample_id[prepared.folds.valid_rows(spec.fold)].tolist()
        for split in splits_of(prepared, prepared.folds.valid_rows(spec.fold)):
            features = self.load(split)
            ids = features.sample_id.tolist() if split == "test" else valid
            probs = softmax(features.of(ids) @ head.weight.T + head.bias, axis=-1)
            views = {view: Predictions(np.array(ids), each, tuple(prepared.classes), split,
                                       (source_of(spec),))
                     for view, each in zip(features.views, probs, strict=True)}
            save_views(by_units(views, prepared.unit_of(split)), folder / f"{split}.npz")


def weights_of_classes(prepared, labels):
    """The weight (C,) of an image of each class in the loss, by labels (n,)."""
    counts = np.bincount(labels, minlength=len(prepared.classes))
    return class_weights(counts, prepared.config.optim.class_weight_power).numpy()


def share(source, target):
    """Let `target` be the file `source`: one on the disk where links are possible, else a copy."""
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
