"""The values that pass between the parts of a run. Each is complete when it is made.

    Setup      what was asked and understood, before an image is read
    Prepared   what every fit reads: audited images, the measured shift, folds, weights
    Fitted     what a finished fit leaves
"""
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from config import Config, key_settings, key_spec, model_settings
from contest.audit import Audit
from contest.catalog import Contest
from data_loader import Folds
from ensemble.metrics import Metric
from ensemble.tasks import SINGLE, Task
from modeling.compute import Compute
from modeling.inference import Predictions, load_views
from modeling.train import FitResult, load_result
from modeling.weights import WeightsSource
from running.rounds import calibrators_of, teachers_of
from shift.report import ShiftReport
from system.privacy import ShortPaths
from system.stages import Stage, is_intact
from utils import read_json, write_json

WARNINGS = "warnings.json"      # in the folder of a stage: what was warned of while it was made


@dataclass(frozen=True)
class Setup:
    """What was asked and understood, and where it runs.

    device: of this process. machine: the smallest machine on which fits run, by `machine_facts`.
    weights: {backbone: where its weights lie}. instead_of: the mode's networks, without weights,
    that the ones at hand are trained for. too_long: networks at hand that take too long to be read
    without training, unless they are named. command: what a person types to repeat the run.
    deadline: of the last fit, by time.perf_counter(); infinite without a time budget. ends_by: when
    a run of a size that nobody gave should have ended; infinite for other runs.
    short: what is kept of a value, with shorter paths. adapted: sentences on what the task changed
    and on weights at hand that are not used.
    """

    config: Config
    contest: Contest
    metric: Metric
    folder: Path
    device: torch.device
    machine: dict
    weights: dict[str, WeightsSource]
    instead_of: tuple[str, ...] = ()
    too_long: tuple[str, ...] = ()
    command: str = ""
    deadline: float = math.inf
    ends_by: float = math.inf
    short: ShortPaths = field(default_factory=ShortPaths)
    adapted: tuple[str, ...] = ()


class Keys(NamedTuple):
    """The keys of the stages that every fit reads."""

    audit: str
    shift: str
    folds: str


@dataclass(frozen=True)
class Prepared:
    """What every fit of a run reads. config: with the rounds that the contest allows.

    weights: {backbone: its weights on this machine, with the padding they were trained with}.
    digests: {backbone: digest of those weights}.
    """

    config: Config
    folder: Path
    audit: Audit
    shift: ShiftReport
    folds: Folds
    weights: dict[str, WeightsSource]
    digests: dict[str, str]
    keys: Keys
    task: Task = SINGLE

    def __getstate__(self):
        """Without what is worked out of it, which another process can do by itself."""
        return {name: value for name, value in vars(self).items()
                if name not in ("label_of", "known_of")}

    @property
    def classes(self):
        return self.audit.train.classes

    @functools.cached_property
    def label_of(self):
        """{sample id: its label, or row of the target} of the training images."""
        train = self.audit.train
        return dict(zip(train.sample_id.tolist(), train.truth.tolist(), strict=True))

    @functools.cached_property
    def known_of(self):
        """As `label_of`, what teachers are judged by."""
        train = self.audit.train
        return dict(zip(train.sample_id.tolist(), train.known.tolist(), strict=True))

    def unit_of(self, split):
        """`Catalog.unit_of` of the images of a split that fits predict."""
        catalog = self.audit.test if split == "test" else self.audit.train
        return catalog.unit_of

    @property
    def native_scale(self):
        """Long side of a cached training image over that of the original, at the median."""
        size = self.audit.summary["size_px"]["train"]
        original_px = max(size["height_px"][2], size["width_px"][2])
        return min(1.0, self.audit.summary["long_side_px"] / original_px)


@dataclass(frozen=True)
class Fitted:
    """A finished fit with its predictions on disk."""

    result: FitResult
    predict_stage: Stage
    compute: Compute

    def predictions(self, split):
        return Predictions.load(self.predict_stage.folder / f"{split}.npz")

    def views(self, split):
        return load_views(self.predict_stage.folder / f"{split}.npz")

    @property
    def testlike(self):
        """The split of valid images made like the test set; the plain one where they are equal."""
        return "valid_testlike" if self.has("valid_testlike") else "valid"

    def has(self, split):
        return (self.predict_stage.folder / f"{split}.npz").exists()


def usable(fitted):
    """{FitSpec: Fitted} without the fits that were given up: they teach nothing and weigh nothing.
    """
    return {spec: done for spec, done in fitted.items() if not done.result.is_given_up}


# ---------------------------------------------------------------- the stages of a fit

class FitStages(NamedTuple):
    """The two stages of a fit: training, and predicting with what was trained."""

    training: Stage
    prediction: Stage

    @property
    def state(self):
        """done, begun or to do."""
        if self.prediction.is_done:
            return "done"
        has_begun = self.training.is_done or self.training.partial.exists()
        return "begun" if has_begun else "to do"


def fit_stages(prepared, spec, compute_of, available=None, known=None):
    """The FitStages of a fit. Their keys need nothing to have run.

    compute_of(backbone) -> Compute. available: the fits that may teach it, None for all.
    known: {FitSpec: FitStages}, filled here, to make each key once.
    Under a time budget the epochs are an outcome of the run: the key holds the budget instead.
    """
    known = {} if known is None else known
    if spec in known:
        return known[spec]

    config = prepared.config
    settings = {
        "spec": key_spec(spec), "model": model_settings(config), "augment": config.augment,
        "optim": config.optim, "round": config.rounds[spec.round],
        "image_size_px": config.data.image_size_px, "resize": config.data.resize,
        "pad_type": prepared.weights[spec.backbone].pad_type, "compute": compute_of(spec.backbone),
    }
    if tagged := prepared.weights[spec.backbone].tagged:
        settings["tagged"] = tagged      # another mean and standard deviation
    settings |= prepared.task.settings(config)
    if config.runtime.time_budget_hours:
        settings["time_budget_hours"] = config.runtime.time_budget_hours

    heard = sum(calibrators_of(config, spec, available), teachers_of(config, spec, available))
    taught_by = [fit_stages(prepared, teacher, compute_of, available, known).prediction.key
                 for teacher in dict.fromkeys(heard)]
    inputs = [*prepared.keys, prepared.digests[spec.backbone], *taught_by]

    parent = prepared.folder / ("refit" if spec.fold is None else f"fold_{spec.fold}")
    training = Stage.of(parent, spec.name, version=10, settings=settings, inputs=inputs)
    prediction = Stage.of(parent, f"predict-{spec.name}", version=7, inputs=[training.key],
                          settings=key_settings(config, "predict"))
    known[spec] = FitStages(training, prediction)
    return known[spec]


def finished_fit(spec, stages, compute, optim, log):
    """The Fitted of a fit whose stages are complete and as they were made, else None.

    Repeats the warnings of the time when it was made, for a run that finds it done.
    """
    training, prediction = stages
    if not (is_intact(training, log, prediction) and is_intact(prediction, log)):
        return None

    result = load_result(spec, training.folder)
    for stage in stages:
        for text in kept_warnings(stage.folder):
            log.warn(text)
    if note := memory_note(result, optim):
        log.warn(note)
    if result.skipped_steps:
        log.warn(f"{spec.title}: {result.skipped_steps} non-finite step(s) were skipped")
    return Fitted(result, prediction, compute)


def keep_warnings(texts, folder):
    """Leave in a stage's folder what was warned of while it was made."""
    if texts:
        write_json(folder / WARNINGS, texts)


def kept_warnings(folder):
    path = folder / WARNINGS
    return read_json(path) if path.exists() else []


def memory_note(result, optim):
    """How a fit went on after memory ran out, or while its cost was measured; '' if it did not."""
    last = result.epochs[-1]
    micro = last["micro_batch_size"]
    if micro >= optim.micro_batch_size and not last["out_of_memory"]:
        return ""
    checkpointing = ", with gradient checkpointing" if last["grad_checkpointing"] else ""
    norms = "; batch norms averaged over fewer images" if micro < optim.micro_batch_size else ""
    return (f"{result.spec.title}: memory ran out, so that each batch of {optim.batch_size} was "
            f"made of micro-batches of {micro} (asked: {optim.micro_batch_size}{checkpointing})"
            f"{norms}")
