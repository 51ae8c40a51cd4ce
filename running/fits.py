"""One fit: what it learns from, how it is trained, what it predicts. planner.py asks for it,
blend.py reads what it leaves.

    run_fit(site, run, spec := FitSpec("convnext_atto", 42, 0, 0), before, n_epochs=12, title="fit 1/5", ...)
    finished_fit(run, spec, before).predictions("valid").align(ids)
"""
import math
import time
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import torch

from contest.audit import load_audit
from data_loader import EpochSampler, ImageDataset, Targets, make_loader
from ensemble.teachers import (
    PSEUDO_LABELS,
    able,
    distillers,
    pseudo_targets,
    save_pseudo_labels,
    teachers_temperature,
)
from modeling.augment import BatchMix, train_augment
from modeling.compute import pick_device
from modeling.inference import Predictions
from modeling.losses import Distilled, Supervised, class_weights
from modeling.network import build_network
from modeling.norms import fused
from modeling.train import drop_damaged_checkpoints, fit, load_weights, seed_everything
from running.plan import UNKNOWN
from running.predicting import keep_warnings, new_network_with, predict_fit, square_of
from running.run import Fitted, calibrators_of, fit_stages, teachers_of
from shift.groups import by_class
from system.machine import keep_freed_memory
from utils import first_few


def at_site(site, this, spec, fitted=None):
    """(Run, fitted) as a job at `site` has them: its log and device, and the files that the fit of
    `spec` reads where they can be read there."""
    fitted = fitted or {}
    if site.is_home:
        return this, fitted
    keep_freed_memory()
    torch.set_num_threads(site.cores)
    cv2.setNumThreads(site.cores)
    source = this.weights[spec.backbone]
    here = replace(
        this,
        folder=site.folder,
        events=site.events,
        device=pick_device(this.config.runtime.device),
        cores=site.cores,
        audit=this.audit
        or load_audit(site.fetch(this.folder / f"audit-{this.keys['audit']}"), this.contest.folder),
        weights={
            **this.weights,
            spec.backbone: replace(
                source, path=str(site.fetch(source.path)) if source.path else ""
            ),
        },
    )

    def fetched(other, before):
        if other.round != spec.round - 1:
            return before
        stage = before.predict_stage
        result = before.result
        teaches = this.config.rounds[spec.round].alpha and spec.fold in (other.fold, None)
        if teaches or other == start_of(this, spec):      # its network is read
            result = replace(result, folder=site.fetch(result.folder))
        return Fitted(result, replace(stage, folder=site.fetch(stage.folder)))

    return here, {other: fetched(other, before) for other, before in fitted.items()}


def run_fit(site, this, spec, fitted, n_epochs, seconds, title):
    """Fit, then predict: two stages. A finished one is read, not run.

    site: where it runs; fitted: {FitSpec: Fitted} of the rounds before; seconds: the fit is
    shortened to end within them, math.inf: it is not.
    """
    train_until = time.perf_counter() + seconds
    this, fitted = at_site(site, this, spec, fitted)
    training, prediction = fit_stages(this, spec, fitted)
    site.recall(training.folder)
    this.said.clear()
    this.with_workers(lambda: this.run_stage(training, lambda folder: train_fit(
        this, spec, fitted, folder, n_epochs, train_until, title, site.advance), prediction))
    site.deliver(training.folder)
    this.said.clear()
    this.with_workers(lambda: this.run_stage(prediction, lambda folder: predict_fit(
        this, spec, training.folder, folder, title)))
    site.deliver(prediction.folder)


def training_rows(this, spec):
    """Rows of the training catalog that this fit learns from."""
    return np.arange(len(this.audit.train)) if spec.fold is None else this.folds.train_rows(
        spec.fold)


def able_teachers(this, spec, fitted):
    """([FitSpec] that teach a fit, among the `fitted` of the rounds before, the temperature of
    their mean)."""
    teachers = teachers_of(this, spec, fitted)
    folds = [{t.backbone: fitted[t].predictions(fitted[t].testlike) for t in fold}
             for fold in calibrators_of(this, spec, fitted)]
    names = able(list(dict.fromkeys(t.backbone for t in teachers)), folds, this.label_of)
    heard = [[fold[name] for name in names if name in fold] for fold in folds]
    return [t for t in teachers if t.backbone in names], teachers_temperature([fold
                                                                               for fold in heard
                                                                               if fold],
                                                                              this.label_of)


def taught_targets(this, spec, fitted, teachers, temperature):
    """Targets of test images by the teachers of a fit; None in a round without."""
    round_ = this.config.rounds[spec.round]
    if not teachers or not round_.unlabelled:
        return None
    if not calibrators_of(this, spec, fitted):
        this.warn(
            "how sure the teachers of pseudo-labels may be is not calibrated: that takes a second fold"
        )
    backbones = list(dict.fromkeys(t.backbone for t in teachers))
    said = [Predictions.mean([fitted[t].predictions("test") for t in teachers
                              if t.backbone == name]) for name in backbones]
    taught = pseudo_targets(said, round_, spec.fold, temperature)
    this.events.say(
        f"{spec.title}: {len(taught)} of {len(this.audit.test)} test images as pseudo-labels of "
        f"{', '.join(backbones)} at temperature {temperature:.2f}")
    return taught.for_fold(spec.fold)


def distilled_from(this, spec, fitted, teachers):
    """The networks that a fit is distilled from, of its teachers; [] in a round without
    distillation."""
    round_ = this.config.rounds[spec.round]
    if not round_.alpha:
        return []
    teachers = distillers(spec, teachers, round_.max_teachers)
    if not teachers:
        this.warn(
            f"{spec.title} learns without distillation: no fit of the round before was made in its fold"
        )
    return [fused(new_network_with(this, teacher, fitted[teacher].result.folder))
            for teacher in teachers]


def fit_targets(this, spec, taught=None):
    """(PixelStore, Targets) of a fit: its fold's labelled images, and those that it was taught."""
    audit = this.audit
    rows = training_rows(this, spec)
    pixels = audit.train_pixels.take(rows)
    labelled = Targets.from_labels(audit.train.take(rows))
    if taught is None:
        return pixels, labelled
    row = {sample: i for i, sample in enumerate(audit.test.sample_id.tolist())}
    test_rows = np.array([row[s] for s in taught.sample_id.tolist()], dtype=np.int64)
    return pixels.concat(audit.test_pixels.take(test_rows)), labelled.concat(taught)


def new_network(this, spec):
    return build_network(spec.backbone, n_classes=len(this.contest.train.classes),
                         image_size_px=this.config.data.image_size_px,
                         weights=this.weights[spec.backbone], model=this.config.model)


def training(this, spec, pixels, targets, n_epochs, teachers=()):
    """What `fit` needs of this spec, from values: (network, objective, loader, sampler, mix).
    teachers: networks that it is distilled from."""
    config = this.config
    names = (this.config.seed, spec.name, spec.fold)
    augments = by_class(this.shift.groups, this.audit.train.classes,
                        lambda group: train_augment(config.augment, group,
                                                    native_scale=this.native_scale,
                                                    share=this.shift.trained_share,
                                                    **square_of(config)))
    dataset = ImageDataset(pixels, targets.sample_id,
                           [augments[k] for k in targets.probs.argmax(1)], names, targets.probs,
                           targets.weight)
    sampler = EpochSampler(len(dataset), config.optim.batch_size, names)
    seed_everything(*names, "init")
    network = new_network(this, spec)
    labelled = np.bincount(this.audit.train.label[training_rows(this, spec)],
                           minlength=targets.probs.shape[1])
    weights = class_weights(labelled, config.optim.class_weight_power,
                            (targets.probs * targets.weight[:, None]).sum(0))
    objective = Supervised(config.optim, weights, network.head.with_margin)
    round_ = config.rounds[spec.round]
    if teachers:
        objective = Distilled(objective, teachers, round_.alpha, round_.temperature)
    mix = BatchMix(config.augment)
    n_clean = config.augment.clean_epochs
    return (network, objective, make_loader(dataset, sampler, this.workers, this.loads_in_bursts),
            sampler, lambda batch, generator, n_left: mix(batch, generator) if n_left > n_clean
            else batch)


def train_fit(this, spec, fitted, folder, n_epochs, train_until, title, advance):
    """Build everything a fit needs and train it in `folder`."""
    if damaged := drop_damaged_checkpoints(folder):
        this.warn(
            f"{spec.title} is trained from an earlier state: {first_few(damaged)} changed on the disk"
        )
    teachers, temperature = able_teachers(this, spec, fitted)
    taught = taught_targets(this, spec, fitted, teachers, temperature)
    if taught is not None:
        save_pseudo_labels(taught, this.audit.train.classes, folder / PSEUDO_LABELS)
    pixels, targets = fit_targets(this, spec, taught)
    networks = distilled_from(this, spec, fitted, teachers)
    network, objective, loader, sampler, mix = training(this, spec, pixels, targets, n_epochs,
                                                        networks)
    warm_start(this, spec, fitted, network)
    config = with_room(this.config, this.costs.get(spec.backbone, UNKNOWN))
    result = fit(spec, network, objective, loader, sampler, mix=mix, config=config,
                 n_epochs=n_epochs, compute=this.compute_of(spec.backbone),
                 pretrained=this.weights[spec.backbone].is_pretrained, device=this.device,
                 folder=folder, events=this.events, description=f"{title} {spec.title}",
                 shorten=partial(in_time, train_until),
                 advance=partial(advance, 1 / (n_epochs * len(sampler))))
    n_done = len(result.epochs)
    this.events.say(
        f"{title} {spec.title}: loss {result.epochs[-1]['loss']:.4f} after {n_done} epochs, "
        f"{result.seconds:.0f} s, {result.epochs[-1]['images_per_second']:.0f} images/s")
    if n_done < n_epochs:
        this.warn(
            f"{spec.title}: ended after {n_done} of {n_epochs} planned epochs to stay in --time_budget"
        )
    keep_warnings(this, folder)


def start_of(this, spec):
    """The fit whose weights a fit begins with; None in a round that does not begin with those of
    the one before."""
    return replace(spec,
                   round=spec.round - 1) if this.config.rounds[spec.round].warm_start else None


def warm_start(this, spec, fitted, network):
    """Load the weights that a fit begins with, in a round that begins with those of the one before.
    """
    start = start_of(this, spec)
    if start in fitted:
        load_weights(network, fitted[start].result.folder)
    elif start:
        this.warn(
            f"{spec.title} begins like the first round: there is no {start.name} of that fold")


def with_room(config, cost):
    """The Config of a fit, to begin with what its backbone fitted into memory with as its Cost was
    measured."""
    runtime = config.runtime
    micro = cost.micro_batch_size or config.optim.micro_batch_size
    return replace(config, optim=replace(config.optim, micro_batch_size=micro),
                   runtime=replace(runtime, grad_checkpointing="on") if cost.grad_checkpointing
                   else runtime)


def in_time(train_until, history, n_epochs):
    """`n_epochs`, or as many as end before `train_until`, by time.perf_counter(), at the last
    epoch's pace."""
    if train_until == math.inf:
        return n_epochs
    return min(n_epochs,
               len(history) + max(0,
                                  int((train_until - time.perf_counter())
                                      / history[-1]["seconds"])))
