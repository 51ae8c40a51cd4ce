"""Which networks lose their later rounds to a time budget: those that may add nothing to the blend.

    choice = make_choice(setup, prepared, fits, fits_in_time, log)      # once, before a later round
    choice                             # {"swin": "as its weight in the blend is 0 (...)"}

The choice is a stage: it stands when a run is started again.
"""
import math

from config import key_settings
from ensemble.scores import blended
from running.run import usable
from system.stages import Stage, make
from utils import read_json, write_json

BUDGETED = ("data", "model", "augment", "optim", "predict", "rounds", "ensemble", "seed")


def budgeted_stage(prepared, name):
    """A Stage of what a time budget decides."""
    config = prepared.config
    return Stage.of(prepared.folder, name, version=1,
                    inputs=[prepared.keys.folds, prepared.keys.shift],
                    settings=[config.runtime.time_budget_hours, key_settings(config, *BUDGETED)])


def choice_stage(prepared):
    """The choice of this run."""
    return budgeted_stage(prepared, "choice")


def known_choice(prepared):
    """{backbone: why it has no later rounds}; {} before it was chosen."""
    stage = choice_stage(prepared)
    return read_json(stage.folder / "choice.json") if stage.is_done else {}


def make_choice(setup, prepared, fits, fits_in_time, log):
    """{backbone: why it has no later rounds}: as many as it takes to train all others as asked.

    fits: {FitSpec: Fitted} of what was made. fits_in_time(backbones) -> whether all works still to
    be done end in time as asked for, without the later rounds of these.
    """
    stage = choice_stage(prepared)

    def choose(folder):
        chosen = {}
        if not fits_in_time([]):
            candidates = idle_members(setup, prepared, usable(fits), log)
            while candidates and not fits_in_time(list(chosen)):
                backbone, why = candidates.pop(0)
                chosen[backbone] = why
                log.say(f"{backbone} is left out of the later rounds, {why}", event="left_out",
                        backbone=backbone)
        write_json(folder / "choice.json", chosen)

    make(stage, choose, log)
    return known_choice(prepared)


def idle_members(setup, prepared, fits, log):
    """`adding_least` of the blend of these fits."""
    backbone_of = {spec.name: spec.backbone for spec in fits if spec.is_trained}
    if len(backbone_of) < 2:
        return []
    result = blended(prepared, setup.metric, fits, Unheard(log), is_kept=False)
    return adding_least(result.table, backbone_of, setup.metric.sign)


class Unheard:
    """A log for what the end of the run judges again: it warns of nothing."""

    def __init__(self, log):
        self.log = log

    def warn(self, text):
        self.log.record("note", text=text)


def adding_least(table, backbone_of, sign):
    """[(backbone, why)] of the trained sources that may add nothing to a blend, the least first.

    Those have no weight, or not all of the interval of what they add is above 0. The best trained
    source is never one. table: [SourceRow]. backbone_of: {name of a trained source: its backbone}.
    sign: of the metric.
    """
    def worth(row):
        return -math.inf if row.adds is None else row.adds, sign * row.score

    trained = sorted((row for row in table if row.name in backbone_of), key=worth)
    found = []
    for row in trained[:-1]:
        if row.adds is None:
            found.append((backbone_of[row.name], f"as its weight in the blend is 0 ({row.note})"))
        elif row.adds_ci90[0] <= 0:
            low, high = row.adds_ci90
            found.append((backbone_of[row.name], "as what it adds to the blend may be nothing "
                          f"({row.adds:+.4f}, 90 % interval {low:+.4f} to {high:+.4f})"))
    return found
