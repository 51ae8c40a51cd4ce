"""A bank: training images distorted with known random values, and their statistics after it."""
import math
from typing import NamedTuple

import numpy as np

from contest.pixels import shrunk
from shift.distortions import apply, compress
from shift.traces import statistics
from system.parallel import process_map

MEASURED_PX = 448      # long side at which images are compared
DISTORTED_PX = 768     # and at which training images are distorted, then reduced like test images
PURE_SHARE = 0.3       # of a bank's rows


# ---------------------------------------------------------------- which values are looked for

class Axis(NamedTuple):
    """A kind's values, cut at `edges`: interval i is class `classes[i]`, 0 if no eye sees it."""

    edges: np.ndarray
    classes: np.ndarray
    group: str


def axis(low, high, n, group, gap=None, log=False):
    """An Axis of n intervals from low to high, around a `gap` of class 0: too near to no change."""
    space = np.geomspace if log else np.linspace
    if gap is None:
        edges = space(low, high, n + 1)
        return Axis(edges, np.arange(1, n + 1), group)

    if log:
        below = n * math.log(gap[0] / low) / math.log(high / gap[1] * gap[0] / low)
    else:
        below = n * (gap[0] - low) / (high - gap[1] + gap[0] - low)
    below = max(1, round(below))

    edges = np.concatenate([space(low, gap[0], below + 1), space(gap[1], high, n - below + 1)])
    classes = np.array([*range(1, below + 1), 0, *range(below + 1, n + 1)])
    return Axis(edges, classes, group)


# Kinds of a group are easily mistaken for each other: the likeliest is taken first, another only if
# it explains what is left.
AXES = {
    "ghost": axis(0.08, 0.5, 5, "ghost"),
    "downscale": axis(0.15, 0.75, 5, "sharpness"),
    "blur": axis(0.5, 4, 7, "sharpness", log=True),
    "motion_blur": axis(3, 20, 5, "sharpness", log=True),
    "brightness": axis(0.35, 1.9, 9, "tone", (0.9, 1.11), log=True),
    "contrast": axis(0.35, 1.7, 8, "tone", (0.85, 1.18), log=True),
    "offset": axis(-120, 120, 10, "tone", (-10, 10)),
    "gamma": axis(0.4, 2.5, 8, "tone", (0.8, 1.25), log=True),
    "colour_cast": axis(0.7, 1.43, 8, "colour", (0.94, 1.06), log=True),
    "saturation": axis(0, 2.2, 7, "colour", (0.75, 1.3)),
    "shadow": axis(0.2, 0.9, 5, "shadow"),
    "noise": axis(4, 50, 7, "noise", log=True),
    "grain": axis(3, 30, 6, "noise", log=True),
    "impulse": axis(0.004, 0.2, 6, "noise", log=True),
    "scale": axis(0.55, 1.8, 6, "geometry", (0.92, 1.09), log=True),
    "shift": axis(0.05, 0.25, 4, "geometry"),
    "rotate": axis(-45, 45, 12, "geometry", (-2, 2)),
    "perspective": axis(0.04, 0.2, 4, "geometry"),
    "patch": axis(0.15, 0.6, 4, "patch"),
    "erase": axis(0.06, 0.6, 5, "patch", log=True),
    "jpeg": axis(6, 70, 6, "jpeg", log=True),
}
# usual kinds of a group, in order: taken unless another is clearly likelier
USUAL = {"sharpness": ("blur",), "tone": (), "noise": ("noise",),
         "geometry": ("rotate", "shift", "scale")}


# ---------------------------------------------------------------- distorted training images

class Sample(NamedTuple):
    """n images of a split, read for measuring.

    The long side is at most DISTORTED_PX for training images, MEASURED_PX for test images.
    """

    images: list
    index: np.ndarray      # (n,) which of the paths
    scale: np.ndarray      # (n,) side of the original over side of the kept image
    quality: np.ndarray    # (n,) JPEG quality to save with, at first the file's own; 100: no JPEG

    def distorted(self, drawn, seed, read, workers, only=None):
        """[read(image)] of image i % n under drawn[i], saved and reduced like test files.

        only: the places i that are wanted, all if None.
        """
        seeds = np.random.default_rng(seed).integers(2**31, size=len(drawn))
        n = len(self.images)

        def donor(number):
            return self.images[number % n]

        def one(i):
            k = i % n
            image = apply(self.images[k], drawn[i], np.random.default_rng(seeds[i]), donor)
            if self.quality[k] < 100:
                image = compress(image, self.quality[k], 1 / self.scale[k])
            return read(shrunk(image, MEASURED_PX))

        return process_map(one, range(len(drawn)) if only is None else only, workers)


class Bank(NamedTuple):
    """n distorted training images: what was done to them, and the statistics of the outcome."""

    values: list              # n times {kind: value}
    source: np.ndarray        # (n,) which training image
    statistics: np.ndarray    # (n, d)
    pure: np.ndarray          # (n,) bool: drawn as the test set is believed to be, nothing on top

    def __add__(self, other):
        arrays = zip(self[1:], other[1:], strict=True)
        return Bank(self.values + other.values, *map(np.concatenate, arrays))


def draw_values(rng, belief, kinds=(), free=0.15):
    """{kind: value} of one image, as `belief` has them.

    A kind in `kinds` is drawn freely with probability `free`: half of the time it is left out, else
    it lies anywhere in its range.
    """
    values = {}
    for kind, (edges, classes, _) in AXES.items():
        # as many numbers for each kind, so that a belief without it draws all others alike
        u = rng.random(4)
        reading = belief.kinds.get(kind)
        if kind in kinds and u[0] < free:
            if u[1] < 0.5:
                visible = np.flatnonzero(classes)
                i = visible[int(u[2] * len(visible))]
                values[kind] = edges[i] + u[3] * (edges[i + 1] - edges[i])
        elif reading and u[1] < reading.probability:
            values[kind] = reading.low + u[3] * (reading.high - reading.low)

    for name, (choices, shares) in belief.settings().items():
        if kinds and rng.random() < 2 * free:
            shares = np.full(len(choices), 1 / len(choices))
        values[name] = choices[rng.choice(len(choices), p=shares)]
    return values


def make_bank(train, n, belief, kinds, free, seed, workers):
    """A Bank of n rows: PURE_SHARE of them as believed, the rest with free `kinds` on top."""
    rng = np.random.default_rng(seed)
    pure = rng.random(n) < PURE_SHARE
    values = [draw_values(rng, belief, () if is_pure else kinds, free) for is_pure in pure]
    rows = train.distorted(values, seed, trace_row, workers)
    source = np.arange(n) % len(train.images)
    return Bank(values, source, np.array(rows), pure)


def trace_row(image):
    """(d,) float32 statistics of an image."""
    return np.array(list(statistics(image).values()), np.float32)


def classes_of(values, kind):
    """(n,) class of each image's value on the axis of `kind`, 0 without a value."""
    edges, classes, _ = AXES[kind]
    drawn = [value.get(kind, -np.inf) for value in values]
    i = np.searchsorted(edges, drawn, "right") - 1
    return np.where(i < 0, 0, classes[np.clip(i, 0, len(classes) - 1)])
