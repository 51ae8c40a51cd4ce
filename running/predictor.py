"""A finished run as one predictor for images that it never saw.

    write_predictor(setup, prepared, fits, blend)      # at the end of a run -> model.json
    predictor = load_predictor("training_results/docs", Config())
    predictions, reasons = predictor.predict(catalog)  # (n, C); {id: why it could not be read}

A copy of the run's folder is enough: model.json and the weights that it names. Images go the way of
the run's own: decoded, shrunk and cached by the audit, made square by the plain view, predicted by
the one inference loop.
"""
import functools
import os
import tempfile
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax
from torch.nn import functional as F

from config import Config, FitSpec, ModelConfig
from contest.audit import look_at_all
from contest.decoding import WHITE_LEVEL
from contest.pixels import PixelStore
from ensemble.blend import Blend
from ensemble.metrics import Metric
from modeling.augment import plain_view
from modeling.compute import precisions, untimed
from modeling.inference import Predictions, View, by_units, joined_views
from modeling.network import input_size_px, stages_named, timm_arguments
from modeling.norms import fused
from modeling.texts import TextHead, text_of
from modeling.train import SHARED, load_statistics, read_tensors
from modeling.words import what_is_missing
from running.costs import machine_facts
from running.place import place_on
from running.predicting import ADAPTED, Inference, source_of, square_of, views_of
from running.stored import NAME, StoredFit, read_run
from running.words import (
    TEST,
    WordReader,
    is_mirrored,
    line_of,
    lines_in,
    lost_in,
    pictures_in,
    read_pictures,
)
from system.log import EventLog, progress
from system.machine import usable_cores
from utils import UserError, counted, write_json

CHUNK_IMAGES = 4096      # read at a time, so that their cached pixels stay within a few GB of disk
NO_MODEL_SETTINGS = ("backbones", "frozen", "pretrained", "text")
SETTINGS = ("data.image_size_px", "data.resize", "optim.micro_batch_size",
            *(f"model.{f.name}" for f in fields(ModelConfig) if f.name not in NO_MODEL_SETTINGS))


# ---------------------------------------------------------------- model.json

def write_predictor(setup, prepared, fits, blend):
    """Write model.json: all that predicting needs beside the weights.

    fits: {FitSpec: Fitted}, the best single one first.
    """
    views = [*views_of(prepared.config, prepared.shift),
             *views_of(prepared.config, prepared.shift, with_adapted=True)]
    write_json(setup.folder / NAME, {
        "experiment_name": setup.folder.name,
        "task": prepared.task.name,
        "metric": setup.metric.name,
        "classes": prepared.classes,
        "class_names": setup.contest.class_names,
        "device": setup.machine["device"],
        "settings": {key: setting_of(prepared.config, key) for key in SETTINGS},
        "long_side_px": prepared.audit.summary["long_side_px"],
        "white_level": prepared.audit.white_level,
        "unit": setup.contest.unit_column,
        "blend": blend,
        "views": list(dict.fromkeys(views)),
        "mirrored_text": is_mirrored(prepared, TEST),
        "fits": [fit_facts(prepared, spec, fitted) for spec, fitted in fits.items()],
    })


def setting_of(config, key):
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def fit_facts(prepared, spec, fitted):
    """Where a fit's weights lie in the run's folder, and what takes them.

    tagged: timm's name of the weights that its own began with, '' for those of the backbone's name.
    timm: the arguments of timm.create_model. adapted: the statistics of its adapted views, or ''.
    stages: of the backbone, which its classifier reads beside the last features.
    is_shared: whether SHARED lies beside the weights, with what they lack.
    A fit on words has no network.
    """
    weights = fitted.result.weights.relative_to(prepared.folder).as_posix()
    if spec.text:
        return {"backbone": spec.backbone, "tagged": "", "compute": fitted.compute, "timm": {},
                "weights": weights, "adapted": "", "spec": spec}
    adapted = fitted.predict_stage.folder / ADAPTED
    side_px = input_size_px(spec.backbone, prepared.config.data.image_size_px)
    return {
        "backbone": spec.backbone,
        "tagged": prepared.weights[spec.backbone].tagged,
        "compute": fitted.compute,
        "timm": timm_arguments(prepared.weights[spec.backbone], side_px),
        "weights": weights,
        "adapted": adapted.relative_to(prepared.folder).as_posix() if adapted.exists() else "",
        "stages": stages_named(spec.backbone)[0] if spec.frozen else (),
        "is_shared": fitted.result.weights.with_name(SHARED).exists(),
        "spec": spec,
    }


def load_predictor(folder, config):
    """The Predictor of a finished run's folder. config: its `runtime` says on which device."""
    return predictor_of(read_run(folder, config))


def predictor_of(stored):
    """The Predictor of a StoredRun on this machine."""
    runtime = stored.config.runtime
    machine = machine_facts(runtime.device)
    device = torch.device(machine["device"])
    otherwise = untimed(runtime, machine["precision"])
    fits = {}
    for spec, fit in stored.fits.items():
        can_do = can_compute(device, stored.made_on, fit.compute)
        fits[spec] = fit if can_do else replace(fit, compute=otherwise)

    place = place_on(device, runtime, usable_cores(), EventLog(os.devnull, echo=False))
    inference = Inference(stored.config, stored.classes, place, stored.task)
    return Predictor(inference, fits, stored.views,
                     stored.blend, stored.metric, stored.long_side_px, stored.class_names,
                     stored.white_level, stored.unit, stored.mirrored_text)


def can_compute(device, made_on, compute):
    """Whether a device should compute as the run did.

    On a device of another kind, what was fast for the run may be slow or missing.
    """
    possible = {"fp32", *precisions(device)}
    if device.type == "cuda":
        possible.add("fp16")
    return device.type == made_on.type and compute.precision in possible


# ---------------------------------------------------------------- predicting

def chunks_of(catalog):
    """Rows that are predicted together, in order: about CHUNK_IMAGES, and all of a unit."""
    units = catalog.sample_id if catalog.unit is None else catalog.unit
    _, first, place = np.unique(units, return_index=True, return_inverse=True)
    order = np.argsort(first[place], kind="stable")      # the images of a unit side by side
    begins = np.flatnonzero(np.append(True, np.diff(first[place][order]) != 0))
    ends = [*begins[np.searchsorted(begins, range(CHUNK_IMAGES, len(order), CHUNK_IMAGES),
                                    side="right") - 1], len(order)]
    return [np.sort(order[start:end]) for start, end in pairwise([0, *ends]) if start < end]


@dataclass(frozen=True)
class Predictor:
    """A finished run's blend, ready for new images.

    fits: {FitSpec: StoredFit}, the best single one first. views: all of the run's.
    long_side_px: of the images' cache. white_level: of 16-bit images. unit: the column of ids that
    have several images, '' if none have. mirrored_text: whether words in images may be mirrored.
    """

    inference: Inference
    fits: dict[FitSpec, StoredFit]
    views: tuple[View, ...]
    blend: Blend
    metric: Metric
    long_side_px: int
    class_names: tuple[str, ...]
    white_level: int = WHITE_LEVEL
    unit: str = ""
    mirrored_text: bool = False

    @property
    def config(self) -> Config:
        return self.inference.config

    @property
    def classes(self):
        return self.inference.classes

    @property
    def best(self):
        """The FitSpec of the best single fit, of a network if there is one."""
        return min(self.fits, key=lambda spec: spec.text)

    def fast(self):
        """The best single fit in the plain view, at its temperature."""
        name = self.best.name
        alone = replace(self.blend, weights={name: 1.0}, views={name: (self.views[0].name,)})
        return replace(self, fits={self.best: self.fits[self.best]}, blend=alone)

    def network(self, spec):
        """The network of a fit."""
        fit = self.fits[spec]
        return self.inference.network(spec, fit.source, fit.compute, fit.weights).eval()

    @property
    def task(self):
        return self.inference.task

    def answers(self, probs):
        """Rows (n, C) that are largest at the answers to rows of probs (n, C), as in the
        submission."""
        return self.metric.cut(probs, self.blend.cuts)

    def describe(self):
        n_views = [len(self.blend.views[spec.name]) for spec in self.fits]
        return (f"{len(n_views)} fit(s), {sum(n_views)} prediction(s) an image, on "
                f"{self.inference.place.device}")

    def predict(self, catalog):
        """(Predictions of the readable images, or of their units, or None; {sample_id: why it
        cannot be read})."""
        parts = []
        reasons = {}
        for rows in chunks_of(catalog):
            part, unread = self.predict_chunk(catalog.take(rows))
            reasons |= unread
            if part:
                parts.append(part)
        return Predictions.concat(parts) if parts else None, reasons

    def predict_chunk(self, catalog):
        """As `predict`, of a Catalog whose pixels fit on the disk."""
        # Windows keeps mapped files
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            pixels = Path(folder) / "pixels"
            looks = look_at_all(catalog, pixels, self.long_side_px, usable_cores(), "read images",
                                self.white_level)
            reasons = {str(catalog.sample_id[row]): str(looks.reason[row])
                       for row in np.flatnonzero(~looks.is_readable)}
            rows = np.flatnonzero(looks.is_readable)
            if not len(rows):
                return None, reasons
            store = PixelStore.open(pixels).take(rows)
            return self.predict_pixels(catalog.take(rows), store), reasons

    def predict_pixels(self, catalog, pixels):
        """The blend's Predictions of images in a PixelStore."""
        plain = plain_view(**square_of(self.config))
        loader = self.inference.loader({"new": (catalog.sample_id, pixels, plain)})
        by_source = {}
        read = functools.cache(partial(self.read_frozen, loader))
        texts = functools.cache(partial(self.texts, catalog))
        for spec in progress(self.fits, desc="fits"):
            predict = self.predict_fit
            if spec.frozen:
                predict = partial(self.predict_frozen, read)
            if spec.text:
                predict = partial(self.predict_texts, texts)
            views = by_units(predict(spec, loader), catalog.unit_of)
            by_source.setdefault(spec.name, []).append(views)
        return self.blend.apply({name: joined_views(each, Predictions.mean)
                                 for name, each in by_source.items()})

    def blended_views(self, spec):
        """The Views of a fit that the blend uses."""
        view_of = {view.name: view for view in self.views}
        return [view_of[name] for name in self.blend.views[spec.name]]

    def predict_frozen(self, read, spec, loader):
        """As `predict_fit`; folds share what `read`(name) says of all images."""
        features = read(spec.name)
        head = read_tensors(self.fits[spec].weights)
        probs = [self.task.decode(F.linear(torch.from_numpy(values), head["head.linear.weight"],
                                           head["head.linear.bias"])).numpy()
                 for values in features.values]
        return {view: Predictions(features.sample_id, each, self.classes, "new", (source_of(spec),),
                                  self.task.values)
                for view, each in zip(features.views, probs, strict=True)}

    def read_frozen(self, loader, name):
        """The Features of a frozen member, which are those of all its folds."""
        spec = next(spec for spec in self.fits if spec.name == name)
        network = fused(self.network(spec))
        return self.inference.features(spec.backbone, self.fits[spec].compute, network, loader,
                                       "new", self.blended_views(spec))

    def texts(self, catalog):
        """(sample ids, [text]) of the images. UserError if they cannot be read here."""
        language = self.config.model.text_language
        if missing := what_is_missing(language):
            fast = "" if self.best.text else ", or predict with --fast"
            raise UserError(f"the run's blend has a text member, and {missing}{fast}")
        reader = WordReader(language, self.mirrored_text, self.white_level)
        found = read_pictures(reader, pictures_in(catalog), usable_cores())
        if lost := lost_in(catalog.sample_id, found):
            self.inference.place.log.warn(f"the words in {counted(lost, 'image')} could not be "
                                          "read: they count as images without words")
        return catalog.sample_id, [text_of(map(line_of, lines_in(each))) for each in found]

    def predict_texts(self, read, spec, loader):
        """As `predict_fit`; folds share what `read`() says of all images."""
        sample_id, texts = read()
        logits = TextHead.load(self.fits[spec].weights).logits(texts)
        view, = self.blend.views[spec.name]
        return {view: Predictions(np.asarray(sample_id), softmax(logits, axis=-1), self.classes,
                                  "new", (source_of(spec),))}

    def predict_fit(self, spec, loader):
        """{view name: Predictions} of one fit in the views that the blend uses."""
        fit = self.fits[spec]
        network = self.network(spec)
        adapted = None
        if fit.adapted:
            adapted = load_statistics(network, fit.adapted)
        network = fused(network)
        adapted = adapted and fused(adapted)
        return self.inference.predict(spec, fit.compute, network, loader, "new",
                                      self.blended_views(spec), adapted)
