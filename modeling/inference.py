"""Predictions and features found by sample_id, views of test-time augmentation, one inference loop.

    views = predict(network, loader, sample_id, classes, views=views_for(["rotate_180"], 4),
                    room=Room(32, device), ...)
    # the only join is by id, never by row order
    probs = Predictions.mean(list(views.values())).align(ids)
"""
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from data_loader import VALUES, are_rows_of
from system.log import progress
from utils import RunError


@dataclass(frozen=True)
class Predictions:
    """Predictions of the samples of one split.

    sample_id (n,) str; probs (n, C) float32; classes (C,); sources: names of the fits. values: what
    rows of `probs` hold, of VALUES: probabilities of classes, which sum to 1, or other numbers.
    """

    sample_id: np.ndarray
    probs: np.ndarray
    classes: tuple[str, ...]
    split: str
    sources: tuple[str, ...]
    values: str = "shares"

    def __post_init__(self):
        if self.probs.shape != (len(self.sample_id), len(self.classes)):
            raise RunError(
                f"Predictions.probs must be of shape ({len(self.sample_id)}, {len(self.classes)}), "
                f"got {self.probs.shape}")
        if len(set(self.sample_id.tolist())) != len(self.sample_id):
            raise RunError(f"Predictions.sample_id of {self.split} must be unique")
        if not are_rows_of(self.probs, self.values).all():
            raise RunError(
                f"Predictions.probs of {self.split} by {', '.join(self.sources)} must be finite "
                f"{VALUES[self.values]}")

    def align(self, ids):
        """probs in the order of `ids`. RunError with the first missing and the first extra id,
        unless the sets are equal."""
        row = {sample: i for i, sample in enumerate(self.sample_id.tolist())}
        asked = set(ids)
        missing = [i for i in ids if i not in row]
        extra = [i for i in row if i not in asked]
        if missing or extra:
            raise RunError(
                f"predictions of {self.split} must be for exactly the asked ids: {len(missing)} "
                f"missing (first {missing[:1]}), {len(extra)} extra (first {extra[:1]})")
        return self.probs[[row[i] for i in ids]]

    def by_unit(self, unit_of):
        """The mean of each unit's images under its id, in the order of first images.

        unit_of: {sample id: its unit}; {} where each image is one.
        """
        if not unit_of:
            return self
        units = [unit_of[sample] for sample in self.sample_id.tolist()]
        row_of = {unit: row for row, unit in enumerate(dict.fromkeys(units))}
        rows = np.array([row_of[unit] for unit in units], dtype=np.int64)
        sums = np.zeros((len(row_of), self.probs.shape[1]))
        np.add.at(sums, rows, self.probs)
        means = (sums / np.bincount(rows)[:, None]).astype(np.float32)
        return replace(self, sample_id=np.array(list(row_of)), probs=means)

    def save(self, path, **more):
        """Write them as one file, with `more` arrays."""
        if self.values != Predictions.values:      # files of earlier versions do not say
            more["values"] = self.values
        np.savez(path, sample_id=self.sample_id, probs=self.probs, classes=np.array(self.classes),
                 split=self.split, sources=np.array(self.sources), **more)

    @classmethod
    def load(cls, path):
        with np.load(path, allow_pickle=False) as f:
            values = str(f["values"]) if "values" in f else Predictions.values
            return cls(f["sample_id"], f["probs"], tuple(f["classes"].tolist()), str(f["split"]),
                       tuple(f["sources"].tolist()), values)

    @classmethod
    def mean(cls, many):
        """The equal-weight mean of predictions for the same samples, joined by id."""
        first = many[0]
        aligned = [p.align(first.sample_id.tolist()) for p in many]
        probs = np.mean(aligned, axis=0, dtype=np.float64).astype(np.float32)
        sources = tuple(dict.fromkeys(s for p in many for s in p.sources))
        return replace(first, probs=probs, sources=sources)

    @classmethod
    def concat(cls, many):
        """Predictions for different samples, one below the other."""
        first = many[0]
        ids = np.concatenate([p.sample_id for p in many])
        probs = np.concatenate([p.probs for p in many])
        sources = tuple(s for p in many for s in p.sources)
        return replace(first, sample_id=ids, probs=probs, sources=sources)


@dataclass(frozen=True)
class Features:
    """What a network's backbone says of samples: sample_id (n,) str, names of the views (V,),
    values (V, n, D) float32."""

    sample_id: np.ndarray
    views: tuple[str, ...]
    values: np.ndarray

    def of(self, ids):
        """values (V, len(ids), D) of these samples. RunError with the first that is missing."""
        row = {sample: i for i, sample in enumerate(self.sample_id.tolist())}
        missing = [i for i in ids if i not in row]
        if missing:
            raise RunError(f"features must be there for each asked id: {len(missing)} are missing "
                           f"(first {missing[0]!r})")
        return self.values[:, [row[i] for i in ids]]

    @classmethod
    def concat(cls, many):
        """Features of different samples in the same views, one below the other."""
        return cls(np.concatenate([features.sample_id for features in many]), many[0].views,
                   np.concatenate([features.values for features in many], axis=1))

    def save(self, path):
        np.savez(path, sample_id=self.sample_id, views=np.array(self.views), values=self.values)

    @classmethod
    def load(cls, path):
        with np.load(path, allow_pickle=False) as f:
            return cls(f["sample_id"], tuple(f["views"].tolist()), f["values"])


def save_views(views, path):
    """Write {view name: Predictions of the same samples in one order} as one file.
    `Predictions.load` reads it as their mean."""
    mean = Predictions.mean(list(views.values()))
    mean.save(path, views=np.array(list(views)),
              view_probs=np.stack([p.probs for p in views.values()]))


def load_views(path):
    """{view name: Predictions} of a file of `save_views`."""
    mean = Predictions.load(path)
    with np.load(path, allow_pickle=False) as f:
        names = f["views"].tolist()
        view_probs = f["view_probs"]
    return {name: replace(mean, probs=probs)
            for name, probs in zip(names, view_probs, strict=True)}


def by_units(views, unit_of):
    """{view name: Predictions} of units, of those of their images. unit_of as `by_unit`."""
    return {name: each.by_unit(unit_of) for name, each in views.items()}


def joined_views(many, join):
    """One {view name: Predictions} of many, joined view by view.

    join([Predictions]) -> Predictions: `Predictions.mean` or `Predictions.concat`.
    """
    return {name: join([views[name] for views in many]) for name in many[0]}


# ---------------------------------------------------------------- views

# the eight symmetries of the square on (B, C, H, W); names as in ShiftPolicy
SYMMETRIES = {
    "identity": lambda x: x,
    "flip_horizontal": lambda x: x.flip(3),
    "flip_vertical": lambda x: x.flip(2),
    "rotate_180": lambda x: x.flip(2, 3),
    "transpose": lambda x: x.transpose(2, 3),
    "rotate_90": lambda x: x.rot90(1, (2, 3)),
    "rotate_270": lambda x: x.rot90(3, (2, 3)),
    "transverse": lambda x: x.transpose(2, 3).flip(2, 3),
}


@dataclass(frozen=True)
class View:
    """One test-time transform: a symmetry of the square, then a zoom and a turn about the centre.

    adapted: for the network whose batch norms hold the test images' statistics
    (`norms.adapted_to`).
    """

    symmetry: str = "identity"
    scale: float = 1.0
    angle_degrees: float = 0.0
    adapted: bool = False

    @property
    def name(self):
        words = [self.symmetry]
        if self.scale != 1.0:
            words.append(f"x{self.scale:g}")
        if self.angle_degrees:
            words.append(f"{self.angle_degrees:+g} degrees")
        if self.adapted:
            words.append("adapted")
        return " ".join(words)

    def __call__(self, images):
        images = SYMMETRIES[self.symmetry](images)
        if self.scale == 1.0 and self.angle_degrees == 0.0:
            return images
        return warp(images, self.scale, self.angle_degrees)


def warp(images, scale, angle_degrees):
    """Zoom and turn (B, C, H, W) about the centre. Beyond the image its border repeats.

    In fp32 throughout: half precision moves a grid's points by up to a pixel.
    """
    angle = np.deg2rad(angle_degrees)
    theta = torch.tensor([[np.cos(angle), -np.sin(angle), 0.0],
                          [np.sin(angle), np.cos(angle), 0.0]], dtype=torch.float32)
    theta = (theta / scale).to(images.device).expand(len(images), 2, 3)
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(theta, images.shape, align_corners=False)
        return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border",
                             align_corners=False)


def views_for(symmetries, n_views, turned=False, with_adapted=False):
    """`n_views` views: the given symmetries, plain first, then the same zoomed.

    turned: the test images are, so turns are among the views. with_adapted: every second view is
    adapted; two networks that err differently are worth more than twice the views of one.
    """
    names = ["identity", *(s for s in symmetries if s != "identity")]
    turns = [(1.0, 8.0), (1.0, -8.0)] if turned else []
    warps = [(1.0, 0.0), (1.1, 0.0), *turns, (0.93, 0.0)]      # (scale, degrees)
    views = [View(name, scale, angle) for scale, angle in warps for name in names]

    if with_adapted:
        views = [replace(view, adapted=i % 2 == 1) for i, view in enumerate(views)]
        # the same views by the other network, if more are asked for
        views += [replace(view, adapted=not view.adapted) for view in views]
    return tuple(views[:n_views])


# ---------------------------------------------------------------- the inference loop

@torch.inference_mode()
def see(loader, out, read, *, views, room, autocast, title):
    """Fill `out` (views, n, D) with read(view, images (B, 3, H, W)) -> (B, D) of a loader's images.

    `loader` yields Batch; its `index` points into the rows of `out`. The views of an image share
    its decoding. room: the Room that says where, and how much of a batch at a time.
    """
    def read_part(images):      # (B, 3, H, W) -> (views, B, D)
        images = images.to(room.device, non_blocking=True)
        with autocast():
            each = [read(view, images).float() for view in views]
        return torch.stack(each).cpu()

    def read_all(images):
        return [read_part(part) for part in images.split(room.micro_batch_size)]

    for batch in progress(loader, desc=title):
        parts = room.run_within_memory(partial(read_all, batch.images))
        out[:, batch.index.numpy()] = torch.cat(parts, dim=1).numpy()


def softmax(logits):
    """Shares of the classes, (B, C)."""
    return logits.softmax(1)


def predict(network, loader, sample_id, classes, *, split, source, views, room, autocast,
            adapted=None, decode=softmax, values=Predictions.values):
    """What each image of `loader` is in each of `views`: {view name: Predictions}.

    As `see`; the rows are those of `sample_id`. adapted: the network of the adapted views.
    decode(logits (B, C)) -> (B, C), which holds `values`.
    """
    network.eval()
    probs = np.zeros((len(views), len(sample_id), len(classes)), dtype=np.float32)

    def answer(view, images):
        seeing = adapted if view.adapted else network
        return decode(seeing(view(images)).float())

    see(loader, probs, answer, views=views, room=room, autocast=autocast, title=f"predict {split}")
    return {view.name: Predictions(np.asarray(sample_id), p, tuple(classes), split, (source,),
                                   values)
            for view, p in zip(views, probs, strict=True)}


def read_features(network, loader, sample_id, *, split, views, room, autocast):
    """The Features of each image of `loader` in each of `views`, as `predict`.

    network: with a linear head.
    """
    network.eval()
    n_features = network.head.linear.in_features
    values = np.zeros((len(views), len(sample_id), n_features), dtype=np.float32)

    def look(view, images):
        return network.features(view(images))

    see(loader, values, look, views=views, room=room, autocast=autocast, title=f"features {split}")
    return Features(np.asarray(sample_id), tuple(view.name for view in views), values)
