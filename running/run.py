"""Run: what the stages of one run share. Fitted: what a finished fit leaves."""
import errno
import functools
import math
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from config import Config, FitSpec, key_settings, model_settings
from contest.audit import Audit
from contest.catalog import Contest
from data_loader import Folds
from modeling.compute import Compute, untimed
from modeling.inference import Predictions, load_views
from modeling.train import load_result
from modeling.weights import WeightsSource
from running.plan import Cost
from shift.report import ShiftReport
from system.log import EventLog
from system.machine import free_bytes, usable_cores
from system.stages import Stage, discard, drop_if_changed, run_stage
from utils import first_few, read_json

WARNINGS = "warnings.json"


@dataclass
class Run:
    """What the stages of one run share. Filled from top to bottom by `run`."""

    config: Config
    contest: Contest
    folder: Path
    events: EventLog
    device: torch.device
    weights: dict[str, WeightsSource]
    digests: dict[str, str]
    audit: Audit = None
    shift: ShiftReport = None
    folds: Folds = None
    keys: dict[str, str] = field(default_factory=dict)
    # of the backbones whose steps were timed
    computes: dict[str, Compute] = field(default_factory=dict)
    # of fits, see `fold_scores`
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    command: str = ""                    # that a person types to repeat it
    # by time.perf_counter(), for the last fit; --time_budget sets it
    deadline: float = math.inf
    cores: int = field(default_factory=usable_cores)      # that a fit may use
    machine: dict = field(default_factory=dict)      # where fits run, see `costs.look`
    # of backbones, as far as they were measured
    costs: dict[str, Cost] = field(default_factory=dict)
    # warnings since the last stage of a fit here began
    said: list[str] = field(default_factory=list)

    def compute_of(self, backbone):
        """The Compute of a backbone's steps."""
        return self.computes.get(backbone) or untimed(self.config.runtime,
                                                      self.machine["precision"])

    @property
    def workers(self):
        """Processes that load images."""
        workers = self.config.runtime.workers
        if workers >= 0:
            return workers
        return min(8, self.cores if self.loads_in_bursts else self.cores // 2)

    @property
    def loads_in_bursts(self):
        """Whether loading beside computing would take cores from it."""
        return self.device.type == "cpu" and torch.get_num_threads() > self.cores - self.cores // 2

    @functools.cached_property
    def label_of(self):
        """{sample id: label} of the training images."""
        return dict(zip(self.audit.train.sample_id.tolist(), self.audit.train.label.tolist(),
                        strict=True))

    @property
    def native_scale(self):
        """Long side of a cached training image over that of the original, at the median."""
        size = self.audit.summary["size_px"]["train"]
        return min(1.0, self.audit.summary["long_side_px"] / max(size["height_px"][2],
                                                                 size["width_px"][2]))

    @property
    def seconds_left(self):
        return self.deadline - time.perf_counter()

    @property
    def warnings(self):
        return self.events.warnings

    def warn(self, text):
        self.said.append(text)
        self.events.warn(text)

    def __getstate__(self):
        """What goes to another process: neither the log nor what is read from files there, see
        `at_site`."""
        left_out = {"events": None, **({"audit": None} if self.keys.get("audit") else {})}
        return {k: v for k, v in self.__dict__.items() if k != "label_of"} | left_out

    def run_stage(self, stage, build, *readers):
        """utils.run_stage; a complete stage that has changed on the disk is named and made again,
        its `readers` too."""
        return run_stage(stage, build, self.on_change(stage, *readers))

    def is_intact(self, stage, *readers):
        """Whether a stage is complete and as it was made; a changed one is named and discarded, its
        `readers` too."""
        drop_if_changed(stage, self.on_change(stage, *readers))
        return stage.is_done

    def on_change(self, stage, *readers):
        """What to do when a stage has changed on the disk, by the names of its changed files."""
        def changed(names):
            self.warn(
                f"{stage.folder.name} is made again: {first_few(names)} changed on the disk after it was complete"
            )
            for reader in readers:
                discard(reader)

        return changed

    def with_workers(self, work):
        """work(), once more without loading processes where one was killed or had no shared memory;
        results are the same."""
        try:
            return work()
        except (RuntimeError, OSError) as error:
            # in /dev/shm
            is_elsewhere = getattr(error, "errno",
                                   None) == errno.ENOSPC and free_bytes(self.folder) > 2**20
            if not self.workers or not (is_elsewhere
                                        or re.search(r"DataLoader worker \(pid|shared memory",
                                                     str(error))):
                raise
            reason = str(error).splitlines()[0]
        # out here: the error has held the loader, its processes and what they loaded
        self.warn(
            "loading processes were ended by the system (killed, or /dev/shm too small) and are done without, which "
            f"is slower and gives the same results ({reason})"
        )
        self.config = replace(self.config, runtime=replace(self.config.runtime, workers=0))
        return work()


@dataclass(frozen=True)
class Fitted:
    """A finished fit with its predictions on disk."""

    result: object
    predict_stage: Stage

    def predictions(self, split):
        return Predictions.load(self.predict_stage.folder / f"{split}.npz")

    def views(self, split):
        return load_views(self.predict_stage.folder / f"{split}.npz")

    @property
    def testlike(self):
        """The split of the valid images that is made like the test set: themselves where that is no
        change."""
        return "valid_testlike" if self.has("valid_testlike") else "valid"

    def has(self, split):
        return (self.predict_stage.folder / f"{split}.npz").exists()


def allowed_rounds(this):
    """The rounds without test images to learn from where the contest forbids it or has none: what
    is left of a round is its distillation, or nothing."""
    rounds = this.config.rounds
    usage = this.config.data.test_usage
    if (usage == "train" and len(this.audit.test)) or not any(r.unlabelled for r in rounds):
        return rounds
    kept = tuple(replace(r, unlabelled=False) for r in rounds if r.alpha or not r.unlabelled)
    this.warn(
        f"no pseudo-labels are learnt from, and {len(rounds) - len(kept)} of {len(rounds) - 1} later round(s) that teach "
        "nothing else were switched off: "
        + (f"data.test_usage={usage}" if len(this.audit.test) else "there are no test images")
    )
    return kept


def round_specs(config, round_number):
    """The FitSpecs of a round, fold by fold, so that all backbones are there early (several
    devices: see `longest_first`); refits on all labelled images last."""
    folds = [*range(config.data.run_folds), *([None] if config.ensemble.refit else [])]
    return [FitSpec(backbone, config.seed, round_number, fold) for fold in folds
            for backbone in config.model.backbones]


def round_epochs(config, round_number):
    return config.rounds[round_number].epochs or config.optim.epochs


def teachers_of(this, spec, available=None):
    """The fits that teach `spec`, of those `available` (FitSpecs; None: all): of the round before
    its fold with every backbone; a refit, of which no score is taken, is taught by all folds."""
    if not this.config.rounds[spec.round].is_taught:
        return []
    folds = [spec.fold] if spec.fold is not None else [*range(this.config.data.run_folds), None]
    teachers = [replace(spec, backbone=b, round=spec.round - 1, fold=f) for f in folds
                for b in this.config.model.backbones]
    return [t for t in teachers if available is None or t in available]


def calibrators_of(this, spec, available=None):
    """[[FitSpec]]: the teachers of each other fold, whose valid images tell which are able and how
    sure they may be."""
    folds = [teachers_of(this, replace(spec, fold=fold), available)
             for fold in range(this.config.data.run_folds) if fold != spec.fold]
    return [teachers for teachers in folds if teachers]


def fit_stages(this, spec, available=None, known=None):
    """The two stages of a fit, training and prediction. Their keys need nothing to have run. known:
    {FitSpec: its stages}, to ask for each once.

    Under a time budget the epochs are an outcome of the run and not in the key, but the budget is.
    """
    known = {} if known is None else known
    if spec in known:
        return known[spec]
    config = this.config
    weights = this.weights[spec.backbone]
    hours = this.config.runtime.time_budget_hours
    settings = {"spec": spec, "model": model_settings(config), "augment": config.augment,
                "optim": config.optim, "round": config.rounds[spec.round],
                "image_size_px": config.data.image_size_px, "resize": config.data.resize,
                "pad_type": weights.pad_type, "compute": this.compute_of(spec.backbone),
                **({"time_budget_hours": hours} if hours else {})}
    parent = this.folder / (f"fold_{spec.fold}" if spec.fold is not None else "refit")
    training = Stage.of(parent, spec.name, version=8, settings=settings, inputs=[
        this.keys["audit"], this.keys["shift"], this.keys["folds"], this.digests[spec.backbone],
        *(fit_stages(this, teacher, available, known)[1].key for teacher in dict.fromkeys(sum(
            calibrators_of(this, spec, available), teachers_of(this, spec, available))))])
    known[spec] = training, Stage.of(parent, f"predict-{spec.name}", version=7,
                                     inputs=[training.key], settings=key_settings(config,
                                                                                  "predict"))
    return known[spec]


def fit_state(this, spec, available=None):
    """done, begun or to do; available: as for `fit_stages`."""
    training, prediction = fit_stages(this, spec, available)
    return (
        "done"
        if prediction.is_done
        else "begun"
        if training.is_done or training.partial.exists()
        else "to do"
    )


def finished_fit(this, spec, fitted):
    """The Fitted of a fit whose two stages are complete and as they were made, or None; what was to
    be warned of it is, also in a run that found it done."""
    training, prediction = fit_stages(this, spec, fitted)
    if this.is_intact(training, prediction) and this.is_intact(prediction):
        result = load_result(spec, training.folder)
        for kept in (training.folder / WARNINGS, prediction.folder / WARNINGS):
            for text in read_json(kept) if kept.exists() else []:
                this.warn(text)
        if note := memory_note(result, this.config.optim):
            this.warn(note)
        if result.skipped_steps:
            this.warn(f"{spec.title}: {result.skipped_steps} non-finite step(s) were skipped")
        return Fitted(result, prediction)
    return None


def memory_note(result, optim):
    """How a fit went on where memory ran out, in it or as its cost was measured; '' where there was
    enough."""
    last = result.epochs[-1]
    micro = last["micro_batch_size"]
    if micro >= optim.micro_batch_size and not last["out_of_memory"]:
        return ""
    return (
        f"{result.spec.title}: memory ran out, so that each batch of {optim.batch_size} was made of "
        f"micro-batches of {micro} (asked: {optim.micro_batch_size}"
        + (", with gradient checkpointing" if last["grad_checkpointing"] else "")
        + ("); batch norms averaged over fewer images" if micro < optim.micro_batch_size else ")")
    )
