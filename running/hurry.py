"""How many epochs a run trains that nobody gave a size: it ends in minutes on any machine.

    prepared, known = hurried(setup, prepared, executor, log)      # if setup.ends_by is finite

The choice is a stage: a resumed run trains as many epochs as were chosen when it began.
"""
import time
from dataclasses import replace

from config import key_settings
from running.costs import Measurements, work_of
from running.planner import specs_left
from running.preparing import SHIFT_SHARE
from system.log import duration
from system.stages import Stage, make
from utils import read_json, write_json

FEWEST_EPOCHS = 8      # with 3 the first score was 0.14, beside a busy program
CLOSING_SECONDS = 6      # of blend and report


def epochs_stage(prepared):
    """The number of epochs that was chosen."""
    config = prepared.config
    settings = {**key_settings(config, "data", "model", "augment", "optim", "predict"),
                "backbones": config.model.backbones}
    return Stage.of(prepared.folder, "epochs", version=1, settings=settings, inputs=prepared.keys)


def hurried(setup, prepared, executor, log):
    """(the Prepared with the epochs that end by setup.ends_by, the Measurements behind them)."""
    known = Measurements(prepared, setup.machine, executor, log)
    backbones = prepared.config.model.backbones
    known.find(backbones)
    stage = epochs_stage(prepared)
    asked = prepared.config.optim.epochs
    works = [work_of(prepared, spec) for spec in specs_left(prepared)]

    def choose(folder):
        left = setup.ends_by - time.perf_counter() - CLOSING_SECONDS
        n_epochs = most_epochs(works, known.costs, left, asked)
        write_json(folder / "epochs.json", {"epochs": n_epochs, "asked": asked})

    make(stage, choose, log)
    n_epochs = read_json(stage.folder / "epochs.json")["epochs"]
    if n_epochs < asked:
        seconds = sum(work.seconds(known.costs, n_epochs) for work in works)
        log.say(f"{n_epochs} of {asked} epochs, in about {duration(seconds)} at this machine's "
                f"rate, so that nobody waits long for a first result (--set optim.epochs={asked} "
                "trains all)", event="hurried", epochs=n_epochs)
    write_json(setup.folder / "config.json", setup.short(with_epochs(setup.config, n_epochs)))
    return replace(prepared, config=with_epochs(prepared.config, n_epochs)), known


def foreseen(setup, prepared, executor, log):
    """As `hurried`, for a plan: keeps nothing but what was measured.

    The shift, unless it was measured before, takes its share of the time that is left.
    """
    known = Measurements(prepared, setup.machine, executor, log)
    known.find(prepared.config.model.backbones)
    stage = epochs_stage(prepared)
    if stage.is_done:
        n_epochs = read_json(stage.folder / "epochs.json")["epochs"]
    else:
        left = setup.ends_by - time.perf_counter()
        if prepared.shift.auc_before is None:
            left *= 1 - SHIFT_SHARE
        works = [work_of(prepared, spec) for spec in specs_left(prepared)]
        n_epochs = most_epochs(works, known.costs, left - CLOSING_SECONDS,
                               prepared.config.optim.epochs)
        log.say(f"about {n_epochs} of {prepared.config.optim.epochs} epochs, by this machine's "
                "rate now: a run chooses once, when it begins to train")
    return replace(prepared, config=with_epochs(prepared.config, n_epochs)), known


def with_epochs(config, n_epochs):
    return replace(config, optim=replace(config.optim, epochs=n_epochs))


def most_epochs(works, costs, seconds_left, asked):
    """The most epochs, up to `asked`, with which all [Work] end in time, FEWEST_EPOCHS if none."""
    for n_epochs in range(asked, FEWEST_EPOCHS, -1):
        if sum(work.seconds(costs, n_epochs) for work in works) <= seconds_left:
            return n_epochs
    return min(asked, FEWEST_EPOCHS)
