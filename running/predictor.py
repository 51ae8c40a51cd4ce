"""A finished run as one predictor for images that it never saw: what `model.json` holds, and what
is made of it.

    write_predictor(run, fits, blend, metric)                        # at the end of a run; fits: the best single one first
    predictor = load_predictor("training_results/docs", Config())
    predictions, reasons = predictor.predict(catalog)                # Predictions (n, C); {id: why it could not be read}

A copied run folder is enough: model.json and the weights that it names. Images take the way of the
run's own: decoded, shrunk and cached by the audit, made square by the plain view, predicted by the
one inference loop.
"""
import os
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from config import FitSpec, ModelConfig, with_values
from contest.audit import look_at_all
from contest.pixels import PixelStore
from ensemble.blend import Blend
from ensemble.metrics import METRICS, Metric
from modeling.augment import plain_view
from modeling.compute import Compute, precisions
from modeling.inference import Predictions, View, joined_views
from modeling.network import input_size_px, timm_arguments
from modeling.norms import fused, with_statistics
from modeling.train import read_tensors
from modeling.weights import WeightsSource
from running.costs import machine_facts
from running.predicting import (
    ADAPTED,
    new_network_with,
    predict_images,
    split_loader,
    square_of,
    views_of,
)
from running.run import Run
from system.log import EventLog, progress
from system.machine import usable_cores
from utils import UserError, read_json, write_json

NAME = "model.json"
# read and predicted at a time, so that their cached pixels stay within a few GB of disk
CHUNK_IMAGES = 4096
SETTINGS = ("data.image_size_px", "data.resize", "optim.micro_batch_size",
            *(f"model.{f.name}" for f in fields(ModelConfig) if f.name not in ("backbones",
                                                                               "pretrained")))


def setting_of(config, key):
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def write_predictor(this, fits, blend, metric):
    """All that predicting needs beside the weights -> model.json. fits: {FitSpec: Fitted} of
    `best_first`."""
    write_json(this.folder / NAME, {"experiment_name": this.folder.name, "metric": metric.name,
                                    "classes": this.contest.train.classes,
                                    "class_names": this.contest.class_names,
                                    "device": this.machine["device"],
                                    "settings": {key: setting_of(this.config, key)
                                                 for key in SETTINGS},
                                    "long_side_px": this.audit.summary["long_side_px"],
                                    "blend": blend,
                                    "views": list(dict.fromkeys([*views_of(this),
                                                                 *views_of(this,
                                                                           with_adapted=True)])),
                                    "fits": [fit_facts(this, spec, fitted) for spec,
                                             fitted in fits.items()]})


def fit_facts(this, spec, fitted):
    """Where the weights of a fit lie in the run's folder, and the statistics of its adapted views
    ('': it has none), and what takes them; `timm` as timm.create_model wants it."""
    weights = fitted.result.folder / "weights.safetensors"
    adapted = fitted.predict_stage.folder / ADAPTED
    side_px = input_size_px(spec.backbone, this.config.data.image_size_px)
    return {"backbone": spec.backbone, "compute": this.compute_of(spec.backbone),
            "timm": timm_arguments(this.weights[spec.backbone], side_px),
            "weights": weights.relative_to(this.folder).as_posix(),
            "adapted": adapted.relative_to(this.folder).as_posix() if adapted.exists() else "",
            "spec": spec}


@dataclass(frozen=True)
class Predictor:
    """weights: {FitSpec: file}, the best single fit first; adapted: {FitSpec: file} of those with
    adapted views; views: all of the run's; long_side_px: of the images' cache."""

    this: Run
    weights: dict[FitSpec, Path]
    adapted: dict[FitSpec, Path]
    views: tuple[View, ...]
    blend: Blend
    metric: Metric
    long_side_px: int
    class_names: tuple[str, ...]

    @property
    def classes(self):
        return self.this.contest.train.classes

    @property
    def best(self):
        return next(iter(self.weights))

    def fast(self):
        """The best single fit in the plain view, at its temperature."""
        name = self.best.name
        alone = replace(self.blend, weights={name: 1.0}, views={name: (self.views[0].name,)})
        return replace(self, weights={self.best: self.weights[self.best]}, blend=alone)

    def network(self, spec):
        return new_network_with(self.this, spec, self.weights[spec].parent).eval()

    def labels(self, probs):
        """(n,) class index of each row of probs (n, C): the likeliest, or the grade, as in the
        submission."""
        return self.metric.cut(probs, self.blend.cuts).argmax(1)

    def describe(self):
        n_views = [len(self.blend.views[spec.name]) for spec in self.weights]
        return (
            f"{len(n_views)} fit(s), {sum(n_views)} prediction(s) an image, on {self.this.device}"
        )

    def predict(self, catalog):
        """(Predictions of the readable images or None, {sample_id: why it cannot be read}) of a
        Catalog."""
        chunks = [catalog.take(np.arange(len(catalog))[start:start + CHUNK_IMAGES])
                  for start in range(0, len(catalog), CHUNK_IMAGES)]
        parts, reasons = zip(*map(self.predict_chunk, chunks), strict=True)
        parts = [p for p in parts if p]
        return Predictions.concat(parts) if parts else None, {i: why for part in reasons for i,
                                                              why in part.items()}

    def predict_chunk(self, catalog):
        # Windows keeps mapped files
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            pixels = Path(folder) / "pixels"
            looks = look_at_all(catalog, pixels, self.long_side_px, usable_cores(), "read images")
            rows = np.flatnonzero(looks.is_readable)
            reasons = {str(catalog.sample_id[row]): str(looks.reason[row])
                       for row in np.flatnonzero(~looks.is_readable)}
            return self.predict_pixels(catalog.take(rows),
                                       PixelStore.open(pixels).take(rows)) if len(
                                           rows) else None, reasons

    def predict_pixels(self, catalog, pixels):
        """The blend's Predictions of images in a PixelStore."""
        view_of = {view.name: view for view in self.views}
        by_source = {}
        loader = split_loader(self.this,
                              {"new": (catalog.sample_id, pixels,
                                       plain_view(**square_of(self.this.config)))})
        for spec in progress(self.weights, desc="fits"):
            views = [view_of[name] for name in self.blend.views[spec.name]]
            network = self.network(spec)
            adapted = with_statistics(network,
                                      read_tensors(
                                          self.adapted[spec])) if spec in self.adapted else None
            network = fused(network)
            adapted = adapted and fused(adapted)
            by_source.setdefault(spec.name, []).append(
                predict_images(self.this, spec, network, loader, "new", views, adapted))
        return self.blend.apply({name: joined_views(each, Predictions.mean) for name,
                                 each in by_source.items()})


def load_predictor(folder, config):
    """The Predictor of a finished run's folder. config: a Config whose `runtime` says on which
    device."""
    folder = Path(folder)
    try:
        stored = read_json(folder / NAME)
        config = with_values(config, stored["settings"])
        weights = {FitSpec(**fit["spec"]): folder / fit["weights"] for fit in stored["fits"]}
        adapted = {FitSpec(**fit["spec"]): folder / fit["adapted"] for fit in stored["fits"]
                   if fit["adapted"]}
        sources = {fit["backbone"]: WeightsSource(fit["backbone"], "random",
                                                  **{name: fit["timm"].get(name, "")
                                                     for name in ("pad_type", "global_pool")})
                   for fit in stored["fits"]}
        computes = {fit["backbone"]: Compute(**fit["compute"]) for fit in stored["fits"]}
        device = torch.device(stored["device"])
        views = tuple(View(**view) for view in stored["views"])
        blend = Blend(**stored["blend"])
        metric = METRICS[stored["metric"]]
        classes = tuple(stored["classes"])
        class_names = tuple(stored["class_names"])
        long_side_px = stored["long_side_px"]
    except OSError:
        raise UserError(
            f"RUN_FOLDER must be the folder of a finished run, which holds {NAME}, got {str(folder)!r}: finish "
            "the run by its training command (a run of an older version too), or check the path"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / NAME} must be as its run wrote it, but cannot be read ({error!r}): run its training "
            "command again"
        ) from None
    files = (*weights.values(), *adapted.values())
    if outside := [str(path) for path in files
                   if not path.resolve().is_relative_to(folder.resolve())]:
        raise UserError(
            f"{folder / NAME} must name weights in its own folder, got {outside[0]!r}: run its training "
            "command again"
        )
    if missing := [str(path) for path in files if not path.is_file()]:
        raise UserError(
            f"RUN_FOLDER must hold the weights of {len(weights)} fit(s), but {len(missing)} are missing, first "
            f"{missing[0]!r}: copy the whole run folder"
        )
    contest = SimpleNamespace(train=SimpleNamespace(classes=classes))
    machine = machine_facts(config.runtime.device)
    # of another kind than the run's: what was fast there may be slow or not there
    here = torch.device(machine["device"])
    this = Run(config, contest, folder, EventLog(os.devnull, echo=False), here, sources, {},
               machine=machine, computes={name: compute for name, compute in computes.items()
                                          if here.type == device.type
                                          and compute.precision in ("fp32", *precisions(here),
                                                                    *(("fp16",) if here.type
                                                                      == "cuda" else ()))})
    return Predictor(this, weights, adapted, views, blend, metric, long_side_px, class_names)
