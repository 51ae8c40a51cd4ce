"""What the networks looked at, for the pictures of the report.

    seen = HeatMaps(setup, prepared, fits, blend, log)
    seen([("a001.jpg", 2)])             # {("a001.jpg", 2): RGB square with the map over it}

Each image is asked of the fit that has not trained on it and weighs most. Maps take at most COST of
what predicting took.
"""
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from modeling.augment import plain_view
from modeling.evidence import evidence
from reporting.figures import heated
from running.place import place_on
from running.predicting import Inference, square_of
from system.log import Timer
from system.machine import usable_cores

COST = 0.05
MAP_OVER_FORWARD = 2      # what a map costs, in predictions of one view
BATCH_SIZE = 4      # of a class token the attention of all blocks is kept


class HeatMaps:
    """Makes the maps of a run's images at its end."""

    def __init__(self, setup, prepared, fits, blend, log):
        """fits: {FitSpec: Fitted}. blend: ensemble.blend.Blend."""
        self.setup = setup
        self.prepared = prepared
        self.blend = blend
        self.log = log
        self.best = {}      # {fold: (spec, Fitted)}
        for spec, done in fits.items():
            weight = blend.weights.get(spec.name, 0)
            if spec.fold is not None and weight > 0 and not spec.text:
                kept = self.best.setdefault(spec.fold, (spec, done))
                if weight > blend.weights[kept[0].name]:
                    self.best[spec.fold] = (spec, done)
        train = prepared.audit.train
        self.row_of = {sample: row for row, sample in enumerate(train.sample_id.tolist())}

    def __call__(self, asked):
        """{(id, class index): uint8 (S, S, 3)} of [(id, class index)], the first ones if they are
        too many. {} if anything is wrong: the page is worth more than its maps."""
        if not self.prepared.config.runtime.heatmaps:
            return {}
        by_fold = {}
        for sample, k in asked:
            fold = int(self.prepared.folds.fold[self.row_of[sample]])
            if fold in self.best:
                by_fold.setdefault(fold, []).append((sample, k))
        made = {}
        try:
            with Timer() as timer:
                for fold, mine in by_fold.items():
                    made |= self.of_fold(fold, mine[:self.most(fold)])
        except Exception as error:      # memory, or a network of another build
            self.log.say(f"no heat maps in report.html ({type(error).__name__}: {error})")
            return {}
        self.log.record("heatmaps", images=len(made), seconds=timer.seconds)
        return made

    def most(self, fold):
        """How many maps of a fold stay within the cost."""
        done = self.best[fold][1]
        n_seen = 0
        for split in ("valid", "valid_testlike", "test"):
            if done.has(split):
                views = done.views(split)
                n_seen += len(views) * len(next(iter(views.values())).sample_id)
        return max(1, int(COST * n_seen / MAP_OVER_FORWARD))

    def of_fold(self, fold, asked):
        """The maps of images that one fit has not seen."""
        spec, done = self.best[fold]
        prepared = self.prepared
        place = place_on(self.setup.device, prepared.config.runtime, usable_cores(), self.log)
        inference = Inference(prepared.config, prepared.classes, place)
        network = inference.network(spec, prepared.weights[spec.backbone],
                                    replace(done.compute, precision="fp32"), done.result.weights)
        square = plain_view(**square_of(prepared.config))
        made = {}
        for start in range(0, len(asked), BATCH_SIZE):
            part = asked[start:start + BATCH_SIZE]
            squares = np.stack([square(prepared.audit.train_pixels[self.row_of[sample]])
                                for sample, _ in part])
            images = torch.from_numpy(squares).permute(0, 3, 1, 2).to(place.device)
            maps = evidence(network, images, torch.tensor([k for _, k in part]),
                            prepared.task.values == "shares")
            if maps is None:
                return {}
            maps = F.interpolate(maps[:, None], size=squares.shape[1:3], mode="bicubic")[:, 0]
            for each, image, values in zip(part, squares, maps.cpu().numpy(), strict=True):
                made[each] = heated(image, values)
        return made
