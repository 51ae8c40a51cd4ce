"""model.json: what a finished run left to predict with, checked before anything is computed.

    run = read_run("training_results/docs", Config())      # UserError: a value cannot be right
    refuse_changed(run.folder, run.fits.values())          # UserError: a file is not as it was
"""
import math
import typing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import UnionType

import timm
import torch

from config import Config, FitSpec, with_values
from contest.decoding import WHITE_LEVEL
from ensemble.blend import Blend
from ensemble.metrics import Metric
from ensemble.tasks import TASKS, Task
from modeling.compute import Compute
from modeling.inference import SYMMETRIES, View
from modeling.network import stages_named
from modeling.train import SHARED
from modeling.weights import WeightsSource
from system.machine import usable_cores
from system.parallel import parallel_map
from system.stages import MANIFEST, RESULTS_MANIFEST, digest_there, digests_in
from utils import RunError, UserError, first_few, read_json

NAME = "model.json"
LARGEST_MICRO_BATCH = 2**20
PRECISIONS = ("fp32", "bf16", "fp16")
AGAIN = "copy the run's folder again, or run its training command again"


@dataclass(frozen=True)
class StoredFit:
    """A fit of a finished run, as far as predicting needs it.

    adapted: a file, or None. shared: a file beside the weights, with what they lack, or None.
    stages: of a frozen fit's backbone, which its classifier reads beside the last features; None of
    a run before 2026-12-01.
    """

    source: WeightsSource
    compute: Compute
    weights: Path
    adapted: Path | None
    shared: Path | None = None
    stages: tuple[int, ...] | None = None

    @property
    def files(self):
        """What predicting reads of it."""
        return [path for path in (self.weights, self.adapted, self.shared) if path]


@dataclass(frozen=True)
class StoredRun:
    """What model.json says. made_on: the device of the run."""

    folder: Path
    config: Config
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    fits: dict[FitSpec, StoredFit]
    views: tuple[View, ...]
    blend: Blend
    metric: Metric
    task: Task
    long_side_px: int
    made_on: torch.device
    white_level: int
    unit: str
    mirrored_text: bool = False


def read_run(folder, config):
    """The StoredRun of a finished run's folder. config: its `runtime` says on which device.

    UserError if model.json or a file that it names is missing, or a value cannot be right.
    """
    folder = Path(folder)
    try:
        run = stored_run(read_json(folder / NAME), folder, config)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"RUN_FOLDER must be the folder of a finished run, which holds {NAME}, got "
            f"{str(folder)!r}: finish the run by its training command (a run of an older version "
            "too), or check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RunError,
            UserError) as error:
        # of json, of a dataclass, of Config, of torch.device
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise unlike_written(folder, reason) from None

    if problem := next(problems_of(run), ""):
        raise unlike_written(folder, problem)
    refuse_missing(run)
    refuse_other_stages(run)
    return run


def refuse_other_stages(run):
    """UserError if a frozen fit's classifier was made for other stages than are read now."""
    for spec, fit in run.fits.items():
        if not spec.frozen:
            continue
        now, n = stages_named(spec.backbone)
        read = fit.stages
        if read is None:      # at first the last two of any backbone
            read = (n - 2, n - 1)
        if now and read != now:
            raise UserError(
                f"{run.folder / NAME}: the classifier of {spec.name} was made by an older version, "
                "for other layers than this one reads: run the run's training command again")


def unlike_written(folder, problem):
    return UserError(f"{folder / NAME} must be as its run wrote it, but {problem}: {AGAIN}")


# ---------------------------------------------------------------- model.json's values

def stored_run(stored, folder, config):
    """The StoredRun of model.json's content. Those of older versions have no task."""
    task = TASKS[stored.get("task", "single")]
    fits = [stored_fit(fit, folder) for fit in stored["fits"]]
    if len(dict(fits)) < len(fits):
        raise ValueError("it names a fit twice")
    return StoredRun(
        folder=folder,
        config=with_values(config, stored["settings"]),
        classes=checked("classes", stored["classes"], tuple[str, ...]),
        class_names=checked("class_names", stored["class_names"], tuple[str, ...]),
        fits=dict(fits),
        views=tuple(made(View, view) for view in stored["views"]),
        blend=made(Blend, stored["blend"]),
        metric=task.metrics[stored["metric"]],
        task=task,
        long_side_px=checked("long_side_px", stored["long_side_px"], int),
        made_on=torch.device(checked("device", stored["device"], str)),
        white_level=checked("white_level", stored.get("white_level", WHITE_LEVEL), int),
        unit=checked("unit", stored.get("unit", ""), str),
        mirrored_text=checked("mirrored_text", stored.get("mirrored_text", False), bool))


def stored_fit(fit, folder):
    """(FitSpec, StoredFit) of an entry of model.json."""
    arguments = checked("timm", fit["timm"], dict)
    timm = {name: arguments.get(name, "") for name in ("pad_type", "global_pool")}
    source = made(WeightsSource, {"model_name": fit["backbone"], "kind": "random",
                                  "tagged": fit.get("tagged", ""), **timm})
    spec = made(FitSpec, fit["spec"])
    if spec.backbone != source.model_name:
        raise ValueError(f"a fit is of {source.model_name!r} and of {spec.backbone!r}")
    weights = folder / checked("weights", fit["weights"], str)
    adapted = folder / fit["adapted"] if checked("adapted", fit["adapted"], str) else None
    # of a run before 2026-11-30 the weights of a frozen fit are whole
    is_shared = checked("is_shared", fit.get("is_shared", False), bool)
    shared = weights.with_name(SHARED) if is_shared else None
    stages = checked("stages", fit["stages"], tuple[int, ...]) if "stages" in fit else None
    return spec, StoredFit(source, made(Compute, fit["compute"]), weights, adapted, shared,
                           stages)


def made(kind, values):
    """A dataclass of a JSON object. TypeError names a value that is not of its field's type."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: checked(name, value, hints[name]) for name, value in values.items()})


def checked(name, value, hint):
    """The value, a list as a tuple. TypeError unless it has the type of a hint."""
    if not is_of(value, hint):
        text = hint.__name__ if isinstance(hint, type) else str(hint)
        raise TypeError(f"{name} must be {text}, got {value!r}")
    return tuple(value) if typing.get_origin(hint) is tuple else value


def is_of(value, hint):
    """Whether a value of JSON has the type of a hint. A bool is no number, NaN is no float."""
    inside = typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    if kind is UnionType:
        return any(is_of(value, one) for one in inside)
    if kind is tuple:
        return isinstance(value, list) and all(is_of(one, inside[0]) for one in value)
    if kind is dict and inside:
        return isinstance(value, dict) and all(is_of(one, inside[1]) for one in value.values())
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, kind)


def problems_of(run):
    """Sentences about values of a StoredRun that are each of their type but cannot be right."""
    n_classes = len(run.classes)
    if len(set(run.classes)) < n_classes or len(run.class_names) != n_classes:
        yield f"{n_classes} classes must differ and have a name each, got {len(run.class_names)}"
    if run.long_side_px < 1 or not 0 < run.white_level <= WHITE_LEVEL:
        yield (f"long_side_px and white_level must be above 0, got {run.long_side_px} and "
               f"{run.white_level}")
    side_px = run.config.data.image_size_px
    micro = run.config.optim.micro_batch_size
    if not side_px or micro > LARGEST_MICRO_BATCH:
        yield (f"settings must hold the images' side and a micro-batch of at most "
               f"{LARGEST_MICRO_BATCH}, got {side_px} and {micro}")
    for view in run.views:
        if view.symmetry not in SYMMETRIES or view.scale <= 0:
            yield f"a view must be one of this program's, got {view}"
    for spec, fit in run.fits.items():
        if spec.text:
            continue
        if not timm.is_model(spec.backbone):
            yield f"a backbone must be a model of timm, got {spec.backbone!r}"
        tagged = fit.source.tagged
        plain = spec.backbone.split(".")[0]
        is_its_own = tagged.split(".")[0] == plain and timm.models.is_model_pretrained(tagged)
        if tagged and not is_its_own:
            yield f"tagged must be a name of {plain} that timm knows, got {tagged!r}"
        if fit.compute.precision not in PRECISIONS:
            yield f"compute.precision must be one of {', '.join(PRECISIONS)}, got {fit.compute}"
        if fit.source.pad_type not in ("", "same") or fit.source.global_pool not in ("", "max"):
            yield f"timm's arguments must be those of its run, got {fit.source}"
    yield from problems_of_blend(run)


def problems_of_blend(run):
    """As `problems_of`, of the blend and what it takes from fits and views."""
    blend = run.blend
    named = {spec.name for spec in run.fits}
    if named != set(blend.weighted_names()):
        yield f"blend.weights must weigh the fits {first_few(sorted(named))}, got {blend.weights}"
        return
    if len(blend.cuts) not in (0, run.metric.n_cuts(len(run.classes))):
        yield f"blend.cuts must be those of {len(run.classes)} classes, got {blend.cuts}"

    view_of = {view.name: view for view in run.views}
    for name in named:
        kept = blend.views.get(name, ())
        if not kept or not set(kept) <= set(view_of):
            yield f"blend.views must name views of the run for {name}, got {kept}"
            return
        if not blend.temperature.get(name, 0) > 0:
            yield f"blend.temperature must be above 0 for {name}, got {blend.temperature}"
    for spec, fit in run.fits.items():
        if fit.adapted is None and any(view_of[v].adapted for v in blend.views[spec.name]):
            yield f"the adapted views of {spec.title} need its statistics, and none are named"


# ---------------------------------------------------------------- the files that it names

def refuse_missing(run):
    """UserError unless the files of all fits are there, inside the run's folder."""
    files = [path for fit in run.fits.values() for path in fit.files]
    inside = run.folder.resolve()
    outside = [str(path) for path in files if not path.resolve().is_relative_to(inside)]
    if outside:
        raise UserError(f"{run.folder / NAME} must name weights in its own folder, got "
                        f"{outside[0]!r}: run its training command again")
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise UserError(f"RUN_FOLDER must hold the weights of {len(run.fits)} fit(s), but "
                        f"{len(missing)} are missing, first {missing[0]!r}: {AGAIN}")


def refuse_changed(folder, fits):
    """UserError unless model.json and the files of these StoredFits are as the run wrote them.

    The run's own manifest names model.json and the manifests of its stages, which name the rest.
    """
    folder = Path(folder)
    files = [path.relative_to(folder).as_posix() for fit in fits for path in fit.files]
    stages = list(dict.fromkeys(PurePosixPath(name).parent.as_posix() for name in files))
    manifests = [f"{stage}/{MANIFEST}" for stage in stages]
    known = digests_in(folder / RESULTS_MANIFEST) or {}
    expected = {name: known.get(name) for name in (NAME, *manifests)}
    for stage in stages:
        known = digests_in(folder / stage / MANIFEST) or {}
        expected |= {name: known.get(PurePosixPath(name).name) for name in files
                     if PurePosixPath(name).parent.as_posix() == stage}

    there = parallel_map(digest_there, [folder / name for name in expected], usable_cores())
    changed = [name for (name, digest), now in zip(expected.items(), there, strict=True)
               if digest != now]
    if changed:
        raise UserError(
            f"{folder} must be as its run wrote it, but by its {RESULTS_MANIFEST} and the "
            f"{MANIFEST} of its stages, {first_few(changed)} changed: {AGAIN}, or add --no_verify "
            "to predict with what is there")
