"""--dry_run: the plan of a run, without reading an image."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from data_loader import make_folds
from modeling.weights import WeightsSource
from running.planner import Planner, specs_left
from running.preparing import (
    audit_stage,
    cache_side_px,
    run_audit,
    run_folds,
    run_shift,
    run_weights,
    shift_stage,
)
from running.run import allowed_rounds
from shift.groups import make_groups
from shift.report import ShiftReport

# ---------------------------------------------------------------- the plan before a run

class NoiseImages:
    """n noise images in place of a PixelStore, for timing."""

    def __init__(self, n, side_px):
        self.n = n
        self.image = np.random.default_rng(0).integers(256, size=(side_px * 3 // 4, side_px, 3),
                                                       dtype=np.uint8)

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return self.image

    def take(self, rows):
        return NoiseImages(len(rows), self.image.shape[1])


def print_plan(this, metric, executor):
    """--dry_run: every fit with its state, epochs, seconds and memory. What is not done yet is
    timed on noise images.

    Of the run's folder it changes nothing but what is kept of the timing.
    """
    ready = audit_stage(this).is_done
    if ready:
        run_audit(this)
        run_weights(this)
        ready = shift_stage(this).is_done
    if ready:
        run_shift(this)
        run_folds(this)
    else:
        rehearse(this)
        this.events.say(
            "the images were not read yet: steps are timed on noise images, and reading them and measuring the "
            "shift come on top"
        )
    this.config = replace(this.config, rounds=allowed_rounds(this))
    for line in Planner(this, specs_left(this), metric, executor, is_asked=True).describe():
        this.events.say(line, event="result")


def rehearse(this):
    """Fill a Run as if its first stages were done: no image read, no shift known, no weights
    loaded."""
    contest = this.contest
    side_px = cache_side_px(this.config)
    this.audit = SimpleNamespace(train=contest.train, test=contest.test,
                                 train_pixels=NoiseImages(len(contest.train), side_px),
                                 test_pixels=NoiseImages(len(contest.test), side_px),
                                 summary={"long_side_px": side_px,
                                          "size_px": {"train": {"height_px": [0, 0, 0],
                                                                "width_px": [side_px] * 3}}})
    this.shift = ShiftReport(groups=make_groups(contest.train.classes, [len(contest.train)], None,
                                                "off"))
    this.folds = make_folds(contest.train, this.config.data.n_folds, this.config.seed)
    this.weights = {name: WeightsSource(name, "random") for name in this.weights}
    this.digests = dict.fromkeys(this.weights, "")
    this.keys = dict.fromkeys(("audit", "shift", "folds"), "")
