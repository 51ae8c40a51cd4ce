"""Predictions found by sample_id, the views of test-time augmentation, and the one inference loop.

    views = predict(network, loader, sample_id, classes, views=views_for(["rotate_180"], 4), room=Room(32, device), ...)
    probs = Predictions.mean(list(views.values())).align(ids)          # the only join: by id, never by row order
"""
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from system.log import progress
from utils import RunError


@dataclass(frozen=True)
class Predictions:
    """sample_id (n,) str; probs (n, C) float32, rows sum to 1; classes (C,); split; sources: names
    of the fits."""

    sample_id: np.ndarray
    probs: np.ndarray
    classes: tuple[str, ...]
    split: str
    sources: tuple[str, ...]

    def __post_init__(self):
        if self.probs.shape != (len(self.sample_id), len(self.classes)):
            raise RunError(
                f"Predictions.probs must be of shape ({len(self.sample_id)}, {len(self.classes)}), "
                f"got {self.probs.shape}")
        if len(set(self.sample_id.tolist())) != len(self.sample_id):
            raise RunError(f"Predictions.sample_id of {self.split} must be unique")
        if not np.isfinite(self.probs).all() or np.abs(self.probs.sum(1) - 1).max(initial=0) > 1e-3:
            raise RunError(
                f"Predictions.probs of {self.split} by {', '.join(self.sources)} must be finite rows that sum to 1"
            )

    def align(self, ids):
        """probs in the order of `ids`; RunError with the first missing and extra id unless the sets
        are equal."""
        row = {sample: i for i, sample in enumerate(self.sample_id.tolist())}
        asked = set(ids)
        missing = [i for i in ids if i not in row]
        extra = [i for i in row if i not in asked]
        if missing or extra:
            raise RunError(
                f"predictions of {self.split} must be for exactly the asked ids: {len(missing)} missing "
                f"(first {missing[:1]}), {len(extra)} extra (first {extra[:1]})"
            )
        return self.probs[[row[i] for i in ids]]

    def save(self, path):
        np.savez(path, sample_id=self.sample_id, probs=self.probs, classes=np.array(self.classes),
                 split=self.split, sources=np.array(self.sources))

    @classmethod
    def load(cls, path):
        with np.load(path, allow_pickle=False) as f:
            return cls(f["sample_id"], f["probs"], tuple(f["classes"].tolist()), str(f["split"]),
                       tuple(f["sources"].tolist()))

    @classmethod
    def mean(cls, many):
        """The equal-weight mean of predictions for the same samples, joined by id."""
        ids = many[0].sample_id
        probs = np.mean([p.align(ids.tolist()) for p in many], axis=0,
                        dtype=np.float64).astype(np.float32)
        return cls(ids, probs, many[0].classes, many[0].split,
                   tuple(dict.fromkeys(s for p in many for s in p.sources)))

    @classmethod
    def concat(cls, many):
        """Predictions for different samples, one below the other."""
        return cls(np.concatenate([p.sample_id for p in many]),
                   np.concatenate([p.probs for p in many]), many[0].classes, many[0].split,
                   tuple(s for p in many for s in p.sources))


def save_views(views, path):
    """{view name: Predictions of the same samples in one order} as one file, which
    `Predictions.load` reads as their mean."""
    mean = Predictions.mean(list(views.values()))
    np.savez(path, sample_id=mean.sample_id, probs=mean.probs, classes=np.array(mean.classes),
             split=mean.split, sources=np.array(mean.sources), views=np.array(list(views)),
             view_probs=np.stack([p.probs for p in views.values()]))


def load_views(path):
    """{view name: Predictions} of a file of `save_views`."""
    mean = Predictions.load(path)
    with np.load(path, allow_pickle=False) as f:
        return {name: replace(mean, probs=probs) for name, probs in zip(f["views"].tolist(),
                                                                        f["view_probs"],
                                                                        strict=True)}


def joined_views(each, join):
    """{view name: join([Predictions of each])} of several {view name: Predictions}."""
    return {name: join([views[name] for views in each]) for name in each[0]}


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

    adapted: seen by the network whose batch norms hold the statistics of the test images
    (`network.adapted_to`).
    """

    symmetry: str = "identity"
    scale: float = 1.0
    angle_degrees: float = 0.0
    adapted: bool = False

    @property
    def name(self):
        return (
            self.symmetry
            + (f" x{self.scale:g}" if self.scale != 1.0 else "")
            + (f" {self.angle_degrees:+g} degrees" if self.angle_degrees else "")
            + (" adapted" if self.adapted else "")
        )

    def __call__(self, images):
        images = SYMMETRIES[self.symmetry](images)
        return (
            images
            if self.scale == 1.0 and self.angle_degrees == 0.0
            else warp(images, self.scale, self.angle_degrees)
        )


def warp(images, scale, angle_degrees):
    """Zoom and turn (B, C, H, W) about the centre, in fp32 throughout: half precision puts a grid's
    points up to a pixel aside. What comes in from outside repeats the border."""
    angle = np.deg2rad(angle_degrees)
    theta = torch.tensor([[np.cos(angle), -np.sin(angle), 0.0],
                          [np.sin(angle), np.cos(angle), 0.0]], dtype=torch.float32)
    theta = (theta / scale).to(images.device).expand(len(images), 2, 3)
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(theta, images.shape, align_corners=False)
        return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border",
                             align_corners=False)


def views_for(symmetries, n_views, turned=False, with_adapted=False):
    """`n_views` views over the given symmetries, plain first; zooms and, where test images are
    `turned`, turns fill up.

    with_adapted: every second one is adapted; two networks that err differently are worth more than
    twice the views of one.
    """
    names = ["identity", *(s for s in symmetries if s != "identity")]
    extra = [(1.1, 0.0), (1.0, 8.0), (1.0, -8.0), (0.93, 0.0)] if turned else [(1.1, 0.0),
                                                                               (0.93, 0.0)]
    views = [View(name, scale, angle) for scale, angle in [(1.0, 0.0), *extra] for name in names]
    if with_adapted:
        views = [replace(view, adapted=i % 2 == 1) for i, view in enumerate(views)]
        views += [replace(view, adapted=not view.adapted) for view in views]
    return tuple(views[:n_views])


# ---------------------------------------------------------------- the inference loop

@torch.inference_mode()
def predict(network, loader, sample_id, classes, *, split, source, views, room, autocast,
            adapted=None):
    """{view name: Predictions of len(loader.dataset) rows}: softmax of each image of `loader` in
    each of `views`.

    `loader` yields Batch whose `index` points into `sample_id`; the views of one image share its
    decoding. adapted: the network of the adapted views. room: the Room that says how much of a
    batch is computed at a time, and where.
    """
    network.eval()
    probs = np.zeros((len(views), len(sample_id), len(classes)), dtype=np.float32)

    def probs_of(images):      # (B, 3, H, W) of one part -> (views, B, C)
        images = images.to(room.device, non_blocking=True)
        with autocast():
            each = [(adapted if view.adapted else network)(view(images)).float().softmax(1)
                    for view in views]
        return torch.stack(each).cpu()

    for batch in progress(loader, desc=f"predict {split}"):
        parts = room.run_within_memory(lambda images=batch.images: [probs_of(part)
                                                       for part in images.split(
                                                           room.micro_batch_size)])
        probs[:, batch.index.numpy()] = torch.cat(parts, dim=1).numpy()
    return {view.name: Predictions(np.asarray(sample_id), p, tuple(classes), split, (source,))
            for view, p in zip(views, probs, strict=True)}
