"""How the fits of a run are computed and what they cost, by a few steps of each backbone on the
machine where they run.

    costs = find_costs(run, ["convnext_atto"], executor)      # {backbone: Cost}; fills run.computes
"""
import copy
import functools
import math
import os
import platform
import tempfile
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from config import FitSpec, key_settings, model_settings
from data_loader import noise_batch
from ensemble.teachers import distillers
from modeling.compute import Compute, fastest, pick_device, precisions
from modeling.losses import Distilled, Supervised
from modeling.network import build_network
from modeling.norms import fused
from modeling.train import fit, seed_everything, split_batch, train_step
from modeling.weights import WeightsSource
from running.executor import Job
from running.fits import at_site, fit_targets, new_network, training, training_rows
from running.plan import UNKNOWN, Cost, Work, measured_cost
from running.predicting import (
    predict_batch_size,
    predict_images,
    predicted_splits,
    split_loader,
    views_of,
)
from running.run import round_epochs, round_specs, teachers_of
from system.log import EventLog
from system.stages import Stage, discard
from utils import read_json, write_json

FEWEST_IMAGES = 2000           # to be trained on, from which it pays to time how
MEASURED_STEPS = 4
MEASURED_BATCHES = (1, 4)      # of predicted images
# network, EMA and AdamW's two moments, in the last checkpoint and in the one that replaces it
CHECKPOINT_WEIGHTS = 8


def work_of(this, spec, available=None):
    """The Work of a fit, before it is known how many test images its teachers, of those
    `available`, are sure of."""
    round_ = this.config.rounds[spec.round]
    n = len(training_rows(this, spec)) + (len(this.audit.test) if round_.unlabelled else 0)
    teachers = distillers(spec, teachers_of(this, spec, available),
                          round_.max_teachers) if round_.alpha else []
    return Work(spec, math.ceil(n / this.config.optim.batch_size),
                round_epochs(this.config, spec.round),
                sum(len(ids) for ids, _, _ in predicted_splits(this, spec).values()),
                tuple(t.backbone for t in teachers))


def machine_facts(device_name):
    """What a machine has that decides how a fit is computed there and what it costs."""
    device = pick_device(device_name)
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {"device": str(device), "node": platform.node(), "gpu": gpu.name if gpu else "",
            "precision": precisions(device)[0], "gpu_memory_bytes": gpu.total_memory if gpu else 0}


def needed_bytes(this, works, n_at_once=1):
    """Disk space that these fits will take: weights, predictions, and the largest checkpoints of as
    many as run at once."""
    weights = {backbone: weights_bytes(this, backbone) for backbone in {work.spec.backbone
                                                                        for work in works}}
    row_bytes = 4 * len(this.contest.train.classes) * (1 + len(views_of(this)))
    return (sum(weights[work.spec.backbone] + row_bytes * work.n_images for work in works)
            + CHECKPOINT_WEIGHTS
            * sum(sorted(weights[work.spec.backbone] for work in works)[-n_at_once:]))


def weights_bytes(this, backbone):
    """Size of a fit's weights, from a network without any."""
    with torch.device("meta"):
        network = build_network(backbone, n_classes=len(this.contest.train.classes),
                                model=this.config.model,
                                image_size_px=this.config.data.image_size_px,
                                weights=WeightsSource(backbone, "random"))
    return sum(value.nbytes for value in network.state_dict().values())


def compute_stage(this, backbone):
    """How the steps of a backbone are computed. Not of one machine: a run that goes on elsewhere
    keeps its fits, see `has_compute`."""
    config = this.config
    return Stage.of(this.folder / "compute", backbone, version=4, inputs=[], settings={
        "model": model_settings(config), "image_size_px": config.data.image_size_px,
        "micro_batch_size": config.optim.micro_batch_size, "precision": config.runtime.precision,
        "compile": config.runtime.compile})


def steps_ahead(this, backbone):
    """Steps of a micro-batch that all fits of a backbone take; 0 where they are too few to pay for
    timing them."""
    optim = this.config.optim
    rounds = range(len(this.config.rounds))
    works = [work_of(this, spec) for number in rounds for spec in round_specs(this.config, number)
             if spec.backbone == backbone]
    n_images = sum(work.n_steps * work.n_epochs for work in works) * optim.batch_size
    return math.ceil(n_images / optim.micro_batch_size) if n_images >= FEWEST_IMAGES else 0


def has_compute(this, backbone):
    """Whether it is known how the steps of a backbone are computed, which is then in
    `this.computes`."""
    if backbone in this.computes or not this.config.runtime.measure or not steps_ahead(this,
                                                                                       backbone):
        return True
    stage = compute_stage(this, backbone)
    if this.is_intact(stage):
        known = read_json(stage.folder / "compute.json")
        if known["device"] != device_type(this) and not any(
            this.folder.glob(f"fold_*/*-{backbone}-*")):
            discard(stage)      # no fit is bound to what was fast on another kind of machine
            return False
        this.computes[backbone] = Compute(**known["chosen"])
    return backbone in this.computes


def device_type(this):
    """Where fits are computed: cpu, cuda or mps."""
    return torch.device(this.machine["device"]).type


def choose_compute(this, backbone):
    """Time steps of one micro-batch of noise, the same in all ways; returns what is to be known of
    it."""
    config = this.config
    optim = this.config.optim
    device = this.device
    n = optim.micro_batch_size
    n_classes = len(this.contest.train.classes)
    side_px = config.data.image_size_px
    seed_everything(config.seed, "compute", backbone)
    network = new_network(this, FitSpec(backbone, config.seed, 0, 0)).to(device).train()
    micro_batches = split_batch(noise_batch(n, n_classes, side_px), n, device)
    objective = Supervised(optim, torch.ones(n_classes), network.head.with_margin).to(device)

    def step_of(compute):
        own = compute.prepare(copy.deepcopy(network))
        # updating weights takes the same time in all ways
        still = torch.optim.SGD(own.parameters(), lr=0.0)
        return lambda: train_step(own, objective, still, compute.scaler(device), micro_batches,
                                  autocast=compute.autocast(device), clip_norm=optim.clip_norm)

    chosen, seconds = fastest(config.runtime, device, step_of, steps_ahead(this, backbone))
    rates = {way.describe(): round(n / taken, 1) for way, taken in seconds.items()}
    others = ", ".join(f"{rate:.0f} {way}" for way,
                       rate in rates.items() if way != chosen.describe())
    this.events.say(
        f"{backbone}: {rates[chosen.describe()]:.0f} images/s of training {chosen.describe()} ({others})",
        event="compute",
        backbone=backbone,
        images_per_second=rates,
    )
    return {"chosen": chosen, "images_per_second": rates, "device": device_type(this)}


def cost_stage(this, backbone):
    config = this.config
    return Stage.of(this.folder / "costs", backbone, version=6,
                    inputs=[this.keys["shift"], this.keys["folds"]],
                    settings={**key_settings(config, "augment", "optim", "predict"),
                              "model": model_settings(config),
                              "image_size_px": config.data.image_size_px,
                              "compute": this.compute_of(backbone), "machine": this.machine,
                              "grad_checkpointing": config.runtime.grad_checkpointing})


def find_costs(this, backbones, executor, wanted=True, goes_on=lambda costs: True):
    """{backbone: Cost}, measured where fits run unless that was done before, UNKNOWN where that is
    not `wanted`; before it is found how their steps are computed. goes_on(costs so far): asked
    before each that is to be measured but the first; those after a no are left out."""
    costs = this.costs

    def read(backbone):
        costs[backbone] = Cost(**read_json(cost_stage(this, backbone).folder
                                           / "cost.json")) if wanted else UNKNOWN

    def jobs():
        for backbone in backbones:
            if has_compute(this, backbone) and (not wanted
                                                or this.is_intact(cost_stage(this, backbone))):
                read(backbone)
            elif not costs or goes_on(costs):
                measure = partial(run_measuring, this=this, backbone=backbone, wanted=wanted)
                yield Job(backbone, measure, f"measuring {backbone}")

    for backbone, _ in executor.run(jobs(), this.events):
        has_compute(this, backbone)
        read(backbone)
    return costs


def run_measuring(site, this, backbone, wanted):
    """The stages of how a backbone's steps are computed and, where that is `wanted`, of what they
    cost so."""
    this, _ = at_site(site, this, FitSpec(backbone, this.config.seed, 0, 0))
    if not has_compute(this, backbone):
        chosen = this.run_stage(compute_stage(this, backbone), lambda folder: write_json(
            folder / "compute.json", choose_compute(this, backbone)))
        site.deliver(chosen.folder)
        has_compute(this, backbone)
    if not wanted:
        return
    stage = this.with_workers(
        lambda: this.run_stage(
            cost_stage(this, backbone),
            lambda folder: write_json(folder / "cost.json", measure_cost(this, backbone)),
        )
    )
    site.deliver(stage.folder)


def measure_cost(this, backbone):
    """The Cost of a backbone: the real training and prediction of a few batches, of which nothing
    stays."""
    config = this.config
    optim = this.config.optim
    spec = FitSpec(backbone, this.config.seed, 0, 0)
    compute = this.compute_of(backbone)
    pixels, targets = fit_targets(this, spec)
    rows = np.arange(MEASURED_STEPS * optim.batch_size) % len(targets)
    pixels = pixels.take(rows)
    targets = targets.take(rows)
    splits = predicted_splits(this, spec)
    ids, images, transform = splits.get("test", splits["valid"])
    network, objective, loader, sampler, mix = training(this, spec, pixels, targets, 2)

    def train():
        with tempfile.TemporaryDirectory() as folder:
            return fit(spec, network, objective, loader, sampler, mix=mix, config=config,
                       compute=compute, n_epochs=2, device=this.device,
                       pretrained=this.weights[backbone].is_pretrained, folder=folder,
                       events=EventLog(os.devnull, echo=False), description="measuring")

    @functools.cache
    def folded():
        return fused(network)

    def predict_some(n):
        some = {"measuring": (ids[:n], images.take(np.arange(n)), transform)}
        predict_images(this, spec, folded(), split_loader(this, some), "measuring", views_of(this))

    def teach():
        distilled = Distilled(objective, [folded()], 1.0, 1.0)
        side_px = config.data.image_size_px
        micro = optim.micro_batch_size
        images = torch.zeros(micro, 3, side_px, side_px, dtype=torch.uint8, device=this.device)
        with compute.autocast(this.device)():
            return sum(distilled.teacher_probs(images).sum().item()
                       for _ in range(optim.batch_size // micro))

    n_images = [min(k * predict_batch_size(config), len(ids) - 1 + (k > 1))
                for k in MEASURED_BATCHES]
    weight_bytes = sum(p.numel() * p.element_size() for p in network.parameters())
    return replace(measured_cost(train, predict_some, teach, MEASURED_STEPS, n_images),
                   weight_bytes=weight_bytes)
