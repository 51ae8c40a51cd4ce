"""How the steps of each backbone are computed, and what its fits cost, measured where they run.

    known = Measurements(prepared, machine, executor, log)
    known.find(["convnext_atto"])
    known.compute_of("convnext_atto"), known.costs["convnext_atto"]
"""
import copy
import functools
import math
import os
import platform
import tempfile
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from config import FitSpec, key_settings, model_settings
from data_loader import noise_batch
from ensemble.teachers import distillers
from modeling.compute import (
    Compute,
    LoneStep,
    fastest,
    pick_device,
    precisions,
    suits_channels_last,
    untimed,
)
from modeling.losses import Distilled, Supervised
from modeling.memory import is_too_large
from modeling.network import build_network
from modeling.norms import checkpoint_gradients, fused
from modeling.optim import clip_norm_of
from modeling.train import Watch, fit, new_state, seed_everything, split_batch, train_step
from modeling.weights import WeightsSource
from running.executor import Job
from running.fits import fit_targets, new_network, new_training, training_rows
from running.place import need_weights, with_loading
from running.plan import UNKNOWN, Cost, Work, measured_cost
from running.predicting import Inference, predict_batch_size, predicted_splits, views_of
from running.rounds import planned_specs, round_epochs, teachers_of
from running.run import Prepared
from system.log import EventLog
from system.stages import Stage, discard, is_intact, make
from utils import read_json, write_json

FEWEST_IMAGES = 2000           # to be trained on before it pays to time how
MEASURED_STEPS = 4
MEASURED_BATCHES = (1, 4)      # of predicted images
# network, EMA and AdamW's two moments: in the last checkpoint, and in the one that replaces it
CHECKPOINT_WEIGHTS = 8


def machine_facts(device_name):
    """What of a machine decides how a fit is computed there and what it costs."""
    device = pick_device(device_name)
    gpu_name = ""
    gpu_memory_bytes = 0
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        gpu_name = gpu.name
        gpu_memory_bytes = gpu.total_memory
    return {"device": str(device), "node": platform.node(), "gpu": gpu_name,
            "precision": precisions(device)[0], "gpu_memory_bytes": gpu_memory_bytes}


# ---------------------------------------------------------------- what is to be done

def work_of(prepared, spec, available=None):
    """The Work of a fit, as if its teachers were sure of all test images.

    available: the fits that may teach it, None for all.
    """
    config = prepared.config
    round_ = config.rounds[spec.round]
    n_images = len(training_rows(prepared, spec))
    if round_.unlabelled:
        n_images += len(prepared.audit.test)
    teachers = []
    if round_.alpha:
        teachers = distillers(spec, teachers_of(config, spec, available), round_.max_teachers)
    n_predicted = sum(len(ids) for ids, _, _ in predicted_splits(prepared, spec).values())
    n_steps = math.ceil(n_images / config.optim.batch_size)
    return Work(spec, n_steps, round_epochs(config, spec.round), n_predicted,
                tuple(teacher.backbone for teacher in teachers))


def steps_ahead(prepared, backbone):
    """Micro-batches that all fits of a backbone train on; 0 if too few to pay for timing them."""
    optim = prepared.config.optim
    works = [work_of(prepared, spec) for spec in planned_specs(prepared.config)
             if spec.backbone == backbone]
    n_images = sum(work.n_steps * work.n_epochs for work in works) * optim.batch_size
    if n_images < FEWEST_IMAGES:
        return 0
    return math.ceil(n_images / optim.micro_batch_size)


def needed_bytes(prepared, works, n_at_once=1):
    """Disk space of these fits: weights, predictions, the largest checkpoints of n_at_once."""
    weights = {name: weights_bytes(prepared, name) for name in {w.spec.backbone for w in works}}
    row_bytes = 4 * len(prepared.classes) * (1 + len(views_of(prepared.config, prepared.shift)))
    kept = sum(weights[work.spec.backbone] + row_bytes * work.n_images for work in works)
    largest = sorted(weights[work.spec.backbone] for work in works)[-n_at_once:]
    return kept + CHECKPOINT_WEIGHTS * sum(largest)


def weights_bytes(prepared, backbone):
    """Size of a fit's weights, from a network that holds none."""
    with torch.device("meta"):
        network = build_network(backbone, n_classes=len(prepared.classes),
                                image_size_px=prepared.config.data.image_size_px,
                                weights=WeightsSource(backbone, "random"),
                                model=prepared.config.model)
    return sum(value.nbytes for value in network.state_dict().values())


# ---------------------------------------------------------------- two stages of each backbone

def compute_stage(prepared, backbone):
    """How a backbone's steps are computed. Not of one machine: a run that moves keeps its fits."""
    config = prepared.config
    return Stage.of(prepared.folder / "compute", backbone, version=4, inputs=[], settings={
        "model": model_settings(config), "image_size_px": config.data.image_size_px,
        "micro_batch_size": config.optim.micro_batch_size, "precision": config.runtime.precision,
        "compile": config.runtime.compile})


def cost_stage(prepared, machine, backbone, compute):
    """What a backbone's fits cost on this machine."""
    config = prepared.config
    inputs = [prepared.keys.shift, prepared.keys.folds]
    return Stage.of(prepared.folder / "costs", backbone, version=7, inputs=inputs, settings={
        **key_settings(config, "augment", "optim", "predict"), "model": model_settings(config),
        "image_size_px": config.data.image_size_px, "compute": compute, "machine": machine,
        "grad_checkpointing": config.runtime.grad_checkpointing})


class Measurements:
    """What a run has learnt of its backbones. Only `find` adds to it.

    computes: {backbone: Compute} of those whose steps were timed. costs: {backbone: Cost}.
    """

    def __init__(self, prepared, machine, executor, log):
        self.prepared = prepared
        self.machine = machine
        self.executor = executor
        self.log = log
        self.computes = {}
        self.costs = {}

    def compute_of(self, backbone):
        """The Compute of a backbone's steps: as timed, else as the settings and the machine say."""
        if backbone in self.computes:
            return self.computes[backbone]
        device_type = torch.device(self.machine.get("device", "cpu")).type
        return untimed(self.prepared.config.runtime, self.machine["precision"],
                       suits_channels_last(backbone, device_type))

    def knows_compute(self, backbone):
        """Whether it is known how a backbone's steps are computed. Reads what was timed before."""
        runtime = self.prepared.config.runtime
        if backbone in self.computes or not runtime.measure:
            return True
        if not steps_ahead(self.prepared, backbone):
            return True

        stage = compute_stage(self.prepared, backbone)
        if not is_intact(stage, self.log):
            return False
        known = read_json(stage.folder / "compute.json")
        has_fits = any(self.prepared.folder.glob(f"fold_*/*r[0-9]*-{backbone}-*"))
        if known["device"] != torch.device(self.machine["device"]).type and not has_fits:
            discard(stage)      # no fit is bound to what was fast on another kind of machine
            return False
        self.computes[backbone] = Compute(**known["chosen"])
        return True

    def cost_stage(self, backbone):
        return cost_stage(self.prepared, self.machine, backbone, self.compute_of(backbone))

    def find(self, backbones, wants_costs=True, goes_on=lambda costs: True):
        """Fill `costs`, UNKNOWN each unless wants_costs. Measures where fits run, but once.

        goes_on(costs so far): asked before each measurement but the first. A no leaves out the
        backbones that remain.
        """
        def jobs():
            for backbone in backbones:
                known = self.knows_compute(backbone)
                if known and (not wants_costs or is_intact(self.cost_stage(backbone), self.log)):
                    self.read(backbone, wants_costs)
                elif not self.costs or goes_on(self.costs):
                    job = MeasureJob(backbone, self.prepared, self.machine,
                                     self.compute_of(backbone) if known else None, wants_costs)
                    yield Job(backbone, job, f"measuring {backbone}")

        for backbone, _ in self.executor.run(jobs(), self.log):
            self.knows_compute(backbone)
            self.read(backbone, wants_costs)

    def read(self, backbone, wants_costs):
        """Take what a backbone's stages say."""
        cost = UNKNOWN
        if wants_costs:
            cost = Cost(**read_json(self.cost_stage(backbone).folder / "cost.json"))
        self.costs[backbone] = cost


# ---------------------------------------------------------------- measuring

@dataclass(frozen=True)
class MeasureJob:
    """Measures one backbone. compute: how its steps are computed, None to time that first."""

    backbone: str
    prepared: Prepared
    machine: dict
    compute: Compute | None
    wants_costs: bool

    def __call__(self, site):
        """Leaves the stage of how steps are computed and, if asked, that of their costs."""
        need_weights(self.prepared.weights[self.backbone])
        compute = self.compute
        if compute is None:
            stage = compute_stage(self.prepared, self.backbone)
            self.make_json(site, stage, "compute.json",
                           lambda place, _: choose_compute(self, place))
            compute = Compute(**read_json(stage.folder / "compute.json")["chosen"])
        if self.wants_costs:
            stage = cost_stage(self.prepared, self.machine, self.backbone, compute)
            self.make_json(site, stage, "cost.json",
                           lambda place, folder: measure_cost(self, compute, place, folder))

    def make_json(self, site, stage, name, measure):
        """Make a stage that holds what measure(Place, its folder) returns, as a file of that name.
        """
        with_loading(site, self.prepared.config.runtime, site.log, lambda place: make(
            stage, lambda folder: write_json(folder / name, measure(place, folder)),
            site.log))

    @property
    def spec(self):
        """The fit that is measured."""
        return FitSpec(self.backbone, self.prepared.config.seed, 0, 0)


def noise_for(prepared, network, n_images, device):
    """(objective, one micro-batch of noise) to time training steps of a network with."""
    n_classes = len(prepared.classes)
    batch = noise_batch(n_images, n_classes, prepared.config.data.image_size_px)
    micro_batches = split_batch(batch, n_images, device)
    objective = Supervised(prepared.config.optim, torch.ones(n_classes), network.head.with_margin)
    return objective.to(device), micro_batches


def still_step(network, objective, micro_batches, compute, optim, device):
    """A function that takes a training step at a rate of 0: updating weights takes the same time.
    """
    still = torch.optim.SGD(network.parameters(), lr=0.0)
    return lambda: train_step(network, objective, still, compute.scaler(device), micro_batches,
                              autocast=compute.autocast(device),
                              clip_norm=clip_norm_of(network, optim))


def choose_compute(job, place):
    """Time one micro-batch of noise in all ways; returns the content of compute.json."""
    prepared = job.prepared
    config = prepared.config
    device = place.device
    n_images = config.optim.micro_batch_size
    seed_everything(config.seed, "compute", job.backbone)
    network = new_network(prepared, job.spec).train()
    noise = noise_for(prepared, network, n_images, device)

    def step_of(compute, is_checkpointed):
        own = compute.prepare(copy.deepcopy(network).to(device))
        if is_checkpointed:
            checkpoint_gradients(own)
        return still_step(own, *noise, compute, config.optim, device)

    chosen, seconds = fastest_that_fits(job, device, step_of)
    rates = {way.describe(): round(n_images / taken, 1) for way, taken in seconds.items()}
    others = [f"{rate:.0f} {way}" for way, rate in rates.items() if way != chosen.describe()]
    place.log.say(f"{job.backbone}: {rates[chosen.describe()]:.0f} images/s of training "
                  f"{chosen.describe()} ({', '.join(others)})",
                  event="compute", backbone=job.backbone, images_per_second=rates)
    return {"chosen": chosen, "images_per_second": rates,
            "device": torch.device(job.machine["device"]).type}


def fastest_that_fits(job, device, step_of):
    """`fastest` of step_of(Compute, whether gradients are checkpointed), as the fit will do it.

    Off the CPU one network at a time is on the device, and gradients are checkpointed if no way
    fits into memory without.
    """
    runtime = job.prepared.config.runtime
    n_steps = steps_ahead(job.prepared, job.backbone)
    channels_last = suits_channels_last(job.backbone, device.type)
    is_on = runtime.grad_checkpointing == "on" or is_too_large(job.backbone, device)
    held = {}

    def timed(is_checkpointed):
        def make(compute):
            if device.type == "cpu":
                return step_of(compute, is_checkpointed)
            return LoneStep(partial(step_of, compute, is_checkpointed), held)

        return fastest(runtime, device, make, n_steps, channels_last)

    chosen, seconds = timed(is_on)
    if not is_on and runtime.grad_checkpointing == "auto" and min(seconds.values()) == math.inf:
        chosen, seconds = timed(True)
    held.clear()
    return chosen, seconds


def measure_cost(job, compute, place, folder):
    """The Cost of a backbone: a real training and prediction of a few batches; nothing stays.

    folder: on the disk that fits are saved to.
    """
    prepared = job.prepared
    config = prepared.config
    spec = job.spec
    training = measured_training(prepared, spec, compute, place)
    splits = predicted_splits(prepared, spec)
    ids, images, transform = splits.get("test", splits["valid"])
    inference = Inference(config, prepared.classes, place, prepared.task)
    log = EventLog(os.devnull, echo=False)

    def train():
        with tempfile.TemporaryDirectory() as scratch:
            watch = Watch(log, "measuring")
            return fit(spec, training, config, 2, place.device, scratch, watch)

    def save():
        state = new_state(spec, training, config, 1, place.device, log)
        state.save(folder)
        return state.is_large

    @functools.cache
    def folded():
        return fused(training.network)

    @functools.cache
    def teacher():
        return compute.as_teacher(copy.deepcopy(folded()), place.device)

    def predict_some(n_images):
        some = {"measuring": (ids[:n_images], images.take(np.arange(n_images)), transform)}
        inference.predict(spec, compute, folded(), inference.loader(some), "measuring",
                          views_of(config, prepared.shift))

    def teach():
        distilled = Distilled(training.objective, [teacher()], 1.0, 1.0)
        return teaching(distilled, config, compute, place.device)

    batch_size = predict_batch_size(config)
    few, many = MEASURED_BATCHES
    # two different numbers, however few images there are
    n_images = [min(few * batch_size, len(ids) - 1), min(many * batch_size, len(ids))]
    cost = measured_cost(train, save, predict_some, teach, MEASURED_STEPS, n_images)
    weight_bytes = sum(p.numel() * p.element_size() for p in teacher().parameters())
    return replace(cost, weight_bytes=weight_bytes)


def measured_training(prepared, spec, compute, place):
    """The Training of MEASURED_STEPS steps on images of fold 0, damaged as in a last epoch."""
    pixels, targets = fit_targets(prepared, spec)
    n_images = MEASURED_STEPS * prepared.config.optim.batch_size
    rows = np.arange(n_images) % len(targets)
    return new_training(prepared, spec, compute, pixels.take(rows), targets.take(rows), place, 1)


def teaching(distilled, config, compute, device):
    """What a teacher does in one step, a batch in micro-batches; returns a number to wait for."""
    side_px = config.data.image_size_px
    micro = config.optim.micro_batch_size
    images = torch.zeros(micro, 3, side_px, side_px, dtype=torch.uint8, device=device)
    with compute.autocast(device)():
        return sum(distilled.teacher_probs(images).sum().item()
                   for _ in range(config.optim.batch_size // micro))
