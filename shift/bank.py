"""A bank: training images distorted with known random values, and the statistics of the outcome."""
import math
from typing import NamedTuple

import numpy as np

from contest.pixels import shrunk
from shift.distortions import apply, compress
from shift.traces import statistics
from system.parallel import process_map

MEASURED_PX = 448        # long side at which images are compared
# and at which training images are distorted, to be reduced after that as the test images are
DISTORTED_PX = 768
PURE_SHARE = 0.3   # of a bank's rows


# ---------------------------------------------------------------- which values are looked for

class Axis(NamedTuple):
    """The values of a kind cut at `edges`; interval i is class `classes[i]`, 0 where the eye would
    see no difference."""

    edges: np.ndarray
    classes: np.ndarray
    group: str


def axis(low, high, n, group, gap=None, log=False):
    """n intervals from low to high; those inside `gap` (too near to no change) are class 0."""
    space = np.geomspace if log else np.linspace
    if gap is None:
        edges = space(low, high, n + 1)
        return Axis(edges, np.arange(1, n + 1), group)
    below = max(1, round(n * (gap[0] - low) / (high - gap[1] + gap[0] - low))) if not log else max(
        1, round(n * math.log(gap[0] / low) / math.log(high / gap[1] * gap[0] / low)))
    edges = np.concatenate([space(low, gap[0], below + 1), space(gap[1], high, n - below + 1)])
    return Axis(edges, np.array([*range(1, below + 1), 0, *range(below + 1, n + 1)]), group)


# Kinds of one group look alike: the likeliest of a group is taken first, another only if it
# explains what is left.
AXES = {
    "ghost": axis(0.08, 0.5, 5, "ghost"),
    "downscale": axis(0.15, 0.75, 5, "sharpness"),
    "blur": axis(0.5, 4, 7, "sharpness", log=True),
    "motion_blur": axis(3, 20, 5, "sharpness", log=True),
    "brightness": axis(0.35, 1.9, 9, "tone", (0.9, 1.11), log=True),
    "contrast": axis(0.35, 1.7, 8, "tone", (0.85, 1.18), log=True),
    "gamma": axis(0.4, 2.5, 8, "tone", (0.8, 1.25), log=True),
    "colour_cast": axis(0.7, 1.43, 8, "colour", (0.94, 1.06), log=True),
    "saturation": axis(0, 2.2, 7, "colour", (0.75, 1.3)),
    "noise": axis(4, 50, 7, "noise", log=True),
    "grain": axis(3, 30, 6, "noise", log=True),
    "scale": axis(0.55, 1.8, 6, "geometry", (0.92, 1.09), log=True),
    "shift": axis(0.05, 0.25, 4, "geometry"),
    "rotate": axis(-45, 45, 12, "geometry", (-2, 2)),
    "perspective": axis(0.04, 0.2, 4, "geometry"),
    "patch": axis(0.15, 0.6, 4, "patch"),
    "jpeg": axis(6, 70, 6, "jpeg", log=True),
}
# of a group, in this order: taken where another is not clearly likelier
USUAL = {"sharpness": ("blur",), "tone": ("brightness",), "geometry": ("rotate", "shift", "scale"),
         "noise": ("noise",)}


# ---------------------------------------------------------------- a bank of distorted training images

class Sample(NamedTuple):
    """n images of a split, read for measuring: training images of at most DISTORTED_PX a side, test
    of MEASURED_PX."""

    images: list
    index: np.ndarray     # (n,) which of the paths
    scale: np.ndarray     # (n,) side of the original over side of the kept image
    # (n,) of the JPEG compression that the file was, or is to be, saved with; 100: not a JPEG
    quality: np.ndarray

    def distorted(self, drawn, seed, read, workers):
        """[read(image)]: image i % n under the values drawn[i], saved and reduced as test files
        are."""
        seeds = np.random.default_rng(seed).integers(2**31, size=len(drawn))

        def one(i):
            k = i % len(self.images)
            image = apply(self.images[k], drawn[i], np.random.default_rng(seeds[i]),
                          lambda s: self.images[s % len(self.images)])
            image = compress(image, self.quality[k],
                             1 / self.scale[k]) if self.quality[k] < 100 else image
            return read(shrunk(image, MEASURED_PX))

        return process_map(one, range(len(drawn)), workers)


class Bank(NamedTuple):
    """n distorted training images: what was done, to which image, and the statistics of the outcome
    (n, d)."""

    values: list
    source: np.ndarray
    statistics: np.ndarray
    pure: np.ndarray      # (n,) bool: drawn as the test set is believed to be, nothing tried on top

    def __add__(self, other):
        return Bank(*(a + b if isinstance(a, list) else np.concatenate([a, b]) for a,
                      b in zip(self, other, strict=True)))


def draw_values(rng, found, kinds=(), free=0.15):
    """{kind: value} of one image: each kind as found so far, or freely for `kinds` (half the time,
    anywhere in its range)."""
    values = {}
    for kind, (edges, classes, _) in AXES.items():
        d = found.distortion(kind)
        u = rng.random(2)
        if kind in kinds and u[0] < free:
            if u[1] < 0.5:
                i = rng.choice(np.flatnonzero(classes))
                values[kind] = rng.uniform(edges[i], edges[i + 1])
        elif d and u[1] < d.probability:
            values[kind] = rng.uniform(d.low, d.high)
    for name, (choices, shares) in found.settings().items():
        p = np.full(len(choices), 1 / len(choices)) if kinds and rng.random() < 2 * free else shares
        values[name] = choices[rng.choice(len(choices), p=p)]
    return values


def make_bank(train, n, found, kinds, free, seed, workers):
    rng = np.random.default_rng(seed)
    pure = rng.random(n) < PURE_SHARE
    values = [draw_values(rng, found, () if p else kinds, free) for p in pure]
    rows = train.distorted(values, seed, trace_row, workers)
    return Bank(values, np.arange(n) % len(train.images), np.array(rows), pure)


def trace_row(image):
    return np.array(list(statistics(image).values()), np.float32)


def classes_of(values, kind):
    edges, classes, _ = AXES[kind]
    where = [np.searchsorted(edges, v[kind], "right") - 1 if kind in v else -1 for v in values]
    return np.array([classes[np.clip(i, 0, len(classes) - 1)] if i >= 0 else 0 for i in where])
