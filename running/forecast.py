"""How long a run on a CPU will take, said in its first seconds, and what would halve that.

    forecast(setup, log)      # a few images are read, a few steps taken on noise

The planner measures more exactly, once the images were read and the shift was measured.
"""
import contextlib
import itertools
import math
import os
from dataclasses import dataclass, replace

import numpy as np

from contest.decoding import decode, read_bytes
from contest.pixels import shrunk
from modeling.compute import Compute, precisions
from running.costs import work_of
from running.frozen import operations_of
from running.networks import reading_operations
from running.plan import FLOOR_SHARE
from running.preparing import reads_test
from running.rehearsal import rehearsed
from running.rounds import planned_specs
from running.threads import TIMED_IMAGES, step_of
from running.words import Picture, WordReader
from shift.bank import DISTORTED_PX, MEASURED_PX, trace_row
from shift.match import IMAGES_A_ROW, MAX_IMAGES, MAX_ROWS
from system.log import EventLog, Timer, duration
from system.machine import usable_cores
from utils import seed_of

SAMPLED = 6             # images that are read
SAMPLED_WORDS = 2       # of them, whose words are read
AUDITED = 2.0           # times an image is as good as decoded before it is trained on
PREDICTED = 0.4         # of a training step's seconds, per image and view
FITTED = 1.5            # times as long as reading its features a frozen member takes
SOON_SECONDS = 60       # below this nothing is said


@dataclass(frozen=True)
class Parts:
    """Seconds of a run's parts. frozen: of networks that are not trained. words: of reading them.
    epochs: that training takes; views: of each predicted image."""

    reading: float
    shift: float
    training: float
    predicting: float
    epochs: int
    views: int
    frozen: float = 0.0
    words: float = 0.0

    @property
    def total(self):
        return (self.reading + self.shift + self.words + self.frozen + self.training
                + self.predicting)

    def describe(self):
        parts = [("reading", self.reading), ("measuring the shift", self.shift),
                 ("reading words", self.words), ("frozen members", self.frozen),
                 ("training", self.training), ("predicting", self.predicting)]
        return ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts if seconds >= 1)


def forecast(setup, log):
    """Say how long a new run of one backbone on a CPU will take and what would halve that."""
    runtime = setup.config.runtime
    is_new = not any(any(setup.folder.glob(part)) for part in ("audit-*", "fold_*"))
    if not (setup.device.type == "cpu" and runtime.measure and is_new and runtime.engine == "local"
            and len(setup.config.model.backbones) == 1
            and setup.ends_by == setup.deadline == math.inf):
        return
    parts = parts_of(setup)
    if parts is None or parts.total < SOON_SECONDS:
        return
    log.say(f"about {duration(parts.total)} on this machine ({parts.describe()}); half of that "
            f"with --set {' '.join(halving(parts))}, at a lower score", event="forecast",
            seconds=parts.total)


def parts_of(setup):
    """The Parts of a run. None if no image could be read."""
    config = setup.config
    contest = setup.contest
    read = read_some([*contest.train.path, *contest.test.path], setup.config.seed)
    if read is None:
        return None
    decoding, statistics = read
    prepared = rehearsed(setup, EventLog(os.devnull, echo=False))
    works = [work_of(prepared, spec) for spec in planned_specs(config)]
    image_seconds = min(seconds_of_step(prepared, way) for way in precisions(setup.device))
    trained = sum(work.n_steps * work.n_epochs for work in works) * config.optim.batch_size
    predicted = sum(work.n_images for work in works) * config.predict.tta_views

    n_train = len(contest.train)
    n_test = len(contest.test)
    cores = usable_cores()
    shift = 0.0
    n_texts = n_train + n_test
    if reads_test(config, prepared.audit):
        n_texts += n_train      # training images also made like test images
        n_images = min(n_train, MAX_IMAGES) + min(n_test, MAX_IMAGES)
        n_rows = min(MAX_ROWS, max(400, n_images))
        shift = (IMAGES_A_ROW * n_rows * statistics + n_images * decoding) / cores
    return Parts(AUDITED * (n_train + n_test) * decoding / cores, shift, trained * image_seconds,
                 predicted * PREDICTED * image_seconds, max(work.n_epochs for work in works),
                 config.predict.tta_views,
                 frozen_seconds(config, PREDICTED * image_seconds, n_train, n_test),
                 n_texts * words_seconds(config, contest.train.path) / cores)


def words_seconds(config, paths):
    """Seconds in which one core reads the words of an image, of a few images; 0 without words."""
    if config.model.text != "on":      # auto says it by itself, once it has read a sample
        return 0.0
    reader = WordReader(config.model.text_language, mirrored=False)
    seconds = []
    for path in some_of(paths, config.seed)[:SAMPLED_WORDS]:
        # the audit says which image is none, and why
        with contextlib.suppress(OSError, ValueError):
            seconds.append(reader(Picture(path, sha256="", sample_id=path))["seconds"])
    return float(np.mean(seconds)) if seconds else 0.0


def some_of(paths, seed):
    """SAMPLED of the paths."""
    picked = np.random.default_rng(seed_of(seed, "forecast")).permutation(len(paths))[:SAMPLED]
    return [paths[i] for i in picked]


def frozen_seconds(config, view_seconds, n_train, n_test):
    """Seconds of all frozen members. view_seconds: of an image that the trained network predicts.
    """
    if not config.model.frozen:
        return 0.0
    trained = operations_of(config, config.model.backbones[0])
    operations = sum(reading_operations(config, name, n_train, n_test)
                     for name in config.model.frozen)
    return FITTED * view_seconds * operations / trained


def read_some(paths, seed):
    """Seconds in which one core decodes an image and makes its statistics, of a few images.

    None if none of them can be read.
    """
    decoding = []
    statistics = []
    for path in some_of(paths, seed):
        try:
            with Timer() as timer:
                image, _, _ = decode(read_bytes(path), DISTORTED_PX)
        except (OSError, ValueError):      # the audit says which and why
            continue
        decoding.append(timer.seconds)
        with Timer() as timer:
            trace_row(shrunk(image, MEASURED_PX))
        statistics.append(timer.seconds)
    return (float(np.median(decoding)), float(np.median(statistics))) if decoding else None


def seconds_of_step(prepared, precision):
    """Seconds of a training step for each of its images."""
    step = step_of(prepared, prepared.config.model.backbones[0], Compute(precision))
    step()
    timers = []
    for _ in range(2):
        with Timer() as timer:
            step()
        timers.append(timer.seconds)
    return min(timers) / TIMED_IMAGES


def halving(parts):
    """The first settings, as --set takes them, that halve the Parts: fewer epochs, down to
    FLOOR_SHARE of them, alone or with the standard policy or one view; all if none is enough."""
    few = {"model.frozen=": {"frozen": 0.0}} if parts.frozen else {}
    few |= {"model.text=off": {"words": 0.0}} if parts.words else {}
    few |= {"augment.policy=standard": {"shift": 0.0},
            "predict.tta_views=1": {"predicting": parts.predicting / parts.views}}
    for n in range(len(few) + 1):
        for names in itertools.combinations(few, n):
            less = parts
            for name in names:
                less = replace(less, **few[name])
            epochs = epochs_for(less, parts.total / 2)
            if epochs >= FLOOR_SHARE * parts.epochs:
                return [f"optim.epochs={epochs}"] * (epochs < parts.epochs) + list(names)
    return [f"optim.epochs={math.ceil(FLOOR_SHARE * parts.epochs)}", *few]


def epochs_for(parts, seconds):
    """The most epochs of the Parts that end within so many seconds."""
    left = seconds - (parts.total - parts.training)
    return min(parts.epochs, int(left / parts.training * parts.epochs))
