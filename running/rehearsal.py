"""--dry_run: the plan of a run, as far as it can be known without reading an image."""
import math
from dataclasses import replace

import numpy as np

from contest.audit import Audit
from data_loader import make_folds
from ensemble.scores import FoldScores
from ensemble.tasks import TASKS
from modeling.weights import WeightsSource
from running.first import frozen_stages, members_of
from running.hurry import foreseen
from running.members import described
from running.planner import Planner, specs_left
from running.preparing import cache_side_px, prepare, unmeasured_shift
from running.rounds import allowed_rounds
from running.run import Keys, Prepared
from running.text import rehearsed_text


class NoiseImages:
    """n noise images in place of a PixelStore, for timing."""

    def __init__(self, n, side_px):
        self.n = n
        shape = (side_px * 3 // 4, side_px, 3)
        self.image = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        return self.image

    def take(self, rows):
        return NoiseImages(len(rows), self.image.shape[1])


def print_plan(setup, executor, log):
    """Every fit with its state, epochs, seconds and memory. Unfinished fits are timed.

    Changes nothing in the run's folder but what is kept of the timing. Returns {"plan": lines}.
    """
    lines = []

    def say(line):
        lines.append(line)
        log.say(line, event="result")

    prepared = prepare(setup, log, may_measure=False)
    if prepared is None:
        log.say("timing training steps on noise images, for about a minute; reading the images "
                "and measuring the shift come on top")
        prepared = rehearsed(setup, log)
    prepared, unknown = rehearsed_text(prepared)
    members = described(members_of(setup, prepared), executor.cores)
    for line in [*members, *filter(None, [unknown])]:
        say(line)
    specs = specs_left(prepared)
    if not specs:
        return {"plan": lines}
    known = None
    if setup.ends_by < math.inf:
        prepared, known = foreseen(setup, prepared, executor, log)
    scores = FoldScores(prepared.label_of, setup.metric)
    planner = Planner(setup, prepared, specs, executor, scores, log, is_asked=True, known=known,
                      frozen=frozen_stages(setup, prepared))
    for line in planner.describe():
        say(line)
    return {"plan": lines}


def rehearsed(setup, log):
    """A Prepared of noise: no image read, no shift known, no weights loaded."""
    config = setup.config
    contest = setup.contest
    side_px = cache_side_px(config)
    size_px = {"height_px": [0, 0, 0], "width_px": [side_px] * 3}
    audit = Audit(contest.train, contest.test, problems=(),
                  summary={"long_side_px": side_px, "size_px": {"train": size_px}},
                  train_pixels=NoiseImages(len(contest.train), side_px),
                  test_pixels=NoiseImages(len(contest.test), side_px), bad_test_ids=())
    return Prepared(
        replace(config, rounds=allowed_rounds(config, len(contest.test), log)), setup.folder, audit,
        shift=unmeasured_shift(contest.train.kinds, len(contest.train)),
        folds=make_folds(contest.train, config.data.n_folds, config.seed),
        weights={name: WeightsSource(name, "random") for name in setup.weights},
        digests=dict.fromkeys(setup.weights, ""), keys=Keys("", "", ""),
        task=TASKS[contest.train.task])
