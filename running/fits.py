"""One fit as a job: what it learns from, how it is trained. planner.py asks for it.

    job = FitJob(spec, prepared, compute, cost, before={}, stages=stages, n_epochs=12, ...)
    job(site)                          # trains and predicts; finished stages are left as they are
"""
import math
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from config import FitSpec
from data_loader import EpochSampler, ImageDataset, Targets, make_loader
from ensemble.metrics import Metric
from ensemble.teachers import (
    PSEUDO_LABELS,
    able,
    distillers,
    pseudo_targets,
    save_pseudo_labels,
    teachers_temperature,
)
from modeling.augment import BatchMix, train_augment
from modeling.compute import Compute
from modeling.inference import Predictions
from modeling.losses import Distilled
from modeling.network import build_network
from modeling.norms import fused
from modeling.train import (
    Training,
    Watch,
    drop_damaged_checkpoints,
    fit,
    load_weights,
    seed_everything,
)
from running.curves import curve_of
from running.place import Notes, need_weights, with_loading
from running.plan import Cost
from running.predicting import Inference, predict_fit, square_of
from running.rounds import calibrators_of, start_of, teachers_of
from running.run import FitStages, Fitted, Prepared, keep_warnings
from shift.groups import by_class
from system.stages import make
from utils import first_few


@dataclass(frozen=True)
class FitJob:
    """All that one fit reads, so that it can run in another process. Call it with a Site.

    before: {FitSpec: Fitted} of the fits that it reads, all of the round before.
    cost: what its backbone was measured to cost, UNKNOWN if it was not.
    seconds: the fit is shortened to end within them; infinite to train all epochs.
    metric: of the curve on valid images, None for no curve.
    """

    spec: FitSpec
    prepared: Prepared
    compute: Compute
    cost: Cost
    before: dict[FitSpec, Fitted]
    stages: FitStages
    n_epochs: int
    seconds: float
    title: str
    metric: Metric | None = None

    def __call__(self, site):
        """Train, then predict: two stages. A finished one is left as it is."""
        train_until = time.perf_counter() + self.seconds
        need_weights(self.prepared.weights[self.spec.backbone])
        runtime = self.prepared.config.runtime
        training, prediction = self.stages

        def train(place):
            def build(folder):
                train_fit(self, place, folder, train_until, site.advance)

            return make(training, build, place.log, prediction)

        def predict(place):
            return make(prediction, partial(predict_fit, self, place), place.log)

        with_loading(site, runtime, Notes(site.log), train)
        with_loading(site, runtime, Notes(site.log), predict)


# ---------------------------------------------------------------- what a fit learns from

def training_rows(prepared, spec):
    """Rows of the training catalog that this fit learns from; all of them for a refit."""
    return prepared.folds.train_rows(spec.fold)


def fit_targets(prepared, spec, taught=None):
    """(PixelStore, Targets) of a fit: its fold's labelled images, then the `taught` ones."""
    audit = prepared.audit
    rows = training_rows(prepared, spec)
    pixels = audit.train_pixels.take(rows)
    labelled = Targets.from_labels(audit.train.take(rows))
    if taught is None:
        return pixels, labelled

    test = audit.test
    rows_of = defaultdict(list)
    for row, unit in enumerate((test.sample_id if test.unit is None else test.unit).tolist()):
        rows_of[unit].append(row)
    pairs = [(k, row) for k, unit in enumerate(taught.sample_id.tolist()) for row in rows_of[unit]]
    which, test_rows = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    taught = replace(taught.take(which), sample_id=test.sample_id[test_rows])
    return pixels.concat(audit.test_pixels.take(test_rows)), labelled.concat(taught)


def able_teachers(job, before):
    """([FitSpec] of {FitSpec: Fitted} that teach a fit, the temperature of their mean).

    Frozen members teach only where another fold tells how able they are.
    """
    config = job.prepared.config
    label_of = job.prepared.known_of
    calibrators = calibrators_of(config, job.spec, before)
    teachers = [teacher for teacher in teachers_of(config, job.spec, before)
                if teacher.is_trained or calibrators]
    folds = []
    for fold in calibrators:
        done = {teacher.name: before[teacher] for teacher in fold}
        folds.append({name: fitted.predictions(fitted.testlike) for name, fitted in done.items()})

    names = able(list(dict.fromkeys(t.name for t in teachers)), folds, label_of)
    heard = [[fold[name] for name in names if name in fold] for fold in folds]
    temperature = teachers_temperature([fold for fold in heard if fold], label_of)
    return [teacher for teacher in teachers if teacher.name in names], temperature


def taught_targets(job, teachers, temperature, log):
    """Targets of test images by the teachers of a fit; None in a round without."""
    spec = job.spec
    config = job.prepared.config
    round_ = config.rounds[spec.round]
    if not teachers or not round_.unlabelled:
        return None
    if not calibrators_of(config, spec, job.before):
        log.warn("how sure the teachers of pseudo-labels may be is not calibrated: that takes a "
                 "second fold")

    names = list(dict.fromkeys(teacher.name for teacher in teachers))
    said = [Predictions.mean([job.before[teacher].predictions("test") for teacher in teachers
                              if teacher.name == name]) for name in names]
    taught = pseudo_targets(said, round_, spec.fold, temperature)
    log.say(f"{spec.title}: {len(taught)} of {len(job.prepared.audit.test)} test images as "
            f"pseudo-labels of {', '.join(names)} at temperature {temperature:.2f}")
    return taught.for_fold(spec.fold)


def distilled_from(job, place):
    """The networks that a fit is distilled from; [] in a round without distillation."""
    prepared = job.prepared
    round_ = prepared.config.rounds[job.spec.round]
    if not round_.alpha:
        return []
    trained = {spec: done for spec, done in job.before.items() if spec.is_trained}
    teachers, _ = able_teachers(job, trained)      # as a frozen one may outweigh them all
    teachers = distillers(job.spec, teachers, round_.max_teachers)
    if not teachers:
        place.log.warn(f"{job.spec.title} learns without distillation: no fit of the round before "
                       "was made in its fold")

    inference = Inference(prepared.config, prepared.classes, place, prepared.task)
    networks = []
    for teacher in teachers:
        done = job.before[teacher]
        source = prepared.weights[teacher.backbone]
        network = inference.network(teacher, source, done.compute, done.result.weights)
        compute = Compute() if prepared.task.is_exact else done.compute
        networks.append(compute.as_teacher(fused(network), place.device))
    return networks


# ---------------------------------------------------------------- training

def new_network(prepared, spec):
    """The network of a fit before its first step."""
    return build_network(spec.backbone, n_classes=len(prepared.classes),
                         image_size_px=prepared.config.data.image_size_px,
                         weights=prepared.weights[spec.backbone], model=prepared.config.model)


def augments_of(prepared, n_epochs=1):
    """The training augmentation of each class, for a fit of `n_epochs`."""
    config = prepared.config
    return by_class(prepared.shift.groups, prepared.audit.train.kinds, lambda group: train_augment(
        config.augment, group, native_scale=prepared.native_scale,
        share=prepared.shift.trained_share, n_epochs=n_epochs, turns=prepared.task.turns(config),
        **square_of(config)))


def new_training(prepared, spec, compute, pixels, targets, place, n_epochs, teachers=()):
    """The Training of a fit of `n_epochs`. teachers: networks that it is distilled from."""
    config = prepared.config
    names = (config.seed, spec.name, spec.fold)
    # what begins with trained weights knows the classes already
    n_rising = 1 if start_of(config, spec) else n_epochs
    augments = augments_of(prepared, n_rising)
    transforms = [augments[k] for k in targets.kind]
    dataset = ImageDataset(pixels, targets.sample_id, transforms, names, targets.probs,
                           targets.weight)
    sampler = EpochSampler(len(dataset), config.optim.batch_size, names)

    seed_everything(*names, "init")
    network = new_network(prepared, spec)
    objective = new_objective(prepared, spec, network, targets, teachers)
    # last: it gives back what building the network has freed, before it forks
    loader = make_loader(dataset, sampler, place.workers, place.in_bursts)
    return Training(network, objective, loader, sampler, last_epochs_clean(config.augment), compute,
                    prepared.weights[spec.backbone].is_pretrained)


def new_objective(prepared, spec, network, targets, teachers):
    """What the network is asked to do: its targets, and its teachers' answers where it has any."""
    config = prepared.config
    truth = prepared.audit.train.truth[training_rows(prepared, spec)]
    objective = prepared.task.objective(config, truth, targets, network.head.with_margin)
    if not teachers:
        return objective
    round_ = config.rounds[spec.round]
    return Distilled(objective, teachers, round_.alpha, round_.temperature)


def last_epochs_clean(augment):
    """BatchMix as a function of (batch, generator, epochs left): none in the last clean_epochs."""
    mix = BatchMix(augment)

    def mixed(batch, generator, n_left):
        return mix(batch, generator) if n_left > augment.clean_epochs else batch

    return mixed


def train_fit(job, place, folder, train_until, advance):
    """Build everything that a FitJob needs and train it in `folder`."""
    prepared = job.prepared
    spec = job.spec
    log = place.log
    if damaged := drop_damaged_checkpoints(folder):
        log.warn(f"{spec.title} is trained from an earlier state: {first_few(damaged)} changed on "
                 "the disk")

    teachers, temperature = able_teachers(job, job.before)
    taught = taught_targets(job, teachers, temperature, log)
    if taught is not None:
        save_pseudo_labels(taught, prepared.classes, folder / PSEUDO_LABELS)
    pixels, targets = fit_targets(prepared, spec, taught)

    networks = distilled_from(job, place)
    training = new_training(prepared, spec, job.compute, pixels, targets, place,
                            job.n_epochs, networks)
    warm_start(job, training.network, log, training.objective)

    n_steps = job.n_epochs * len(training.sampler)
    watch = Watch(log, f"{job.title} {spec.title}", shorten=partial(in_time, train_until),
                  advance=partial(advance, 1 / n_steps),
                  check=curve_of(job, place, len(targets.sample_id), training.objective))
    config = with_room(prepared.config, job.cost)
    result = fit(spec, training, config, job.n_epochs, place.device, folder, watch)

    n_done = len(result.epochs)
    last = result.epochs[-1]
    log.say(f"{job.title} {spec.title}: loss {last['loss']:.4f} after {n_done} epochs, "
            f"{result.seconds:.0f} s, {last['images_per_second']:.0f} images/s")
    if n_done < job.n_epochs and not result.is_given_up:
        log.warn(f"{spec.title}: ended after {n_done} of {job.n_epochs} planned epochs to stay in "
                 "--time_budget")
    keep_warnings(log.warnings, folder)


def warm_start(job, network, log, objective=None):
    """Load the weights that a fit begins with, in a round that begins with those of the last."""
    start = start_of(job.prepared.config, job.spec)
    if start in job.before:
        load_weights(network, job.before[start].result.weights)
        if objective:
            objective.unsettle(network)
    elif start:
        log.warn(f"{job.spec.title} begins like the first round: there is no {start.name} of that "
                 "fold")


def with_room(config, cost):
    """The Config of a fit that begins with what its backbone fitted into memory when measured."""
    micro = cost.micro_batch_size or config.optim.micro_batch_size
    runtime = config.runtime
    if cost.grad_checkpointing:
        runtime = replace(runtime, grad_checkpointing="on")
    return replace(config, optim=replace(config.optim, micro_batch_size=micro), runtime=runtime)


def in_time(train_until, history, n_epochs):
    """`n_epochs`, or as many as end before `train_until` (perf_counter) at the last one's pace."""
    if train_until == math.inf:
        return n_epochs
    seconds_left = train_until - time.perf_counter()
    more = max(0, int(seconds_left / history[-1]["seconds"]))
    return min(n_epochs, len(history) + more)
