"""How the unlabelled test images differ from the training images, and the augmentation that makes the two alike.

    report = match_shift(train_paths, train_labels, test_paths, seed=42, workers=2, embed=pretrained_features)
    report.policy                                   # a ShiftPolicy for modeling.augment

By simulation: training images are distorted with known random values (a *bank*); a classifier learns to read from an
image's statistics which distortion it got and how strongly; its answers on the test images, corrected by what it
answers on distorted training images it never saw (label shift estimation: arXiv 1802.03916, and by likelihood arXiv
1901.06852), give each distortion's probability and range. What a clean set of that size could also give is dropped.
Letters: n images, d statistics, K bins of a distortion's value with bin 0 = not distorted.
"""
import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling.augment import FILLS, SYMMETRIES, apply, compress
from utils import parallel_map, seed_of

LONG_SIDE_PX = 512
MIN_GAIN = 8.0    # log likelihood above chance


# ---------------------------------------------------------------- statistics of one image

def statistics(image):
    """{name: value} of an (H, W, 3) uint8 image: no content, only how the picture was made."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    g = grey.astype(np.float32)
    return {**size_statistics(image), **tone_statistics(image, grey), **sharpness_statistics(g),
            **noise_statistics(image, g), **block_statistics(g), **direction_statistics(g), **border_statistics(grey)}


def log(x):
    return np.log(np.maximum(x, 1e-3))


def size_statistics(image):
    h, w = image.shape[:2]
    return {"log_aspect": math.log(w / h), "log_side": math.log(max(h, w))}


def tone_statistics(image, grey):
    histogram = np.bincount(grey.ravel(), minlength=256) / grey.size
    cumulative = np.cumsum(histogram)
    quantiles = np.searchsorted(cumulative, (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98))
    mean, std = cv2.meanStdDev(grey)
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).reshape(-1, 3).astype(np.float32)
    value = small.max(1)
    bright = small[np.argsort(value)[-200:]].mean(0)
    return {"brightness": mean[0, 0], "contrast": std[0, 0],
            **{f"grey_q{q}": v for q, v in zip((2, 10, 25, 50, 75, 90, 98), quantiles, strict=True)},
            "share_0": histogram[0], "share_255": histogram[255],
            "share_dark": cumulative[12], "share_bright": 1 - cumulative[242], "levels": (histogram > 0).sum(),
            "saturation": np.mean((value - small.min(1)) / (value + 1)), "colourful": np.mean(value - small.min(1)),
            "red_green": np.mean(small[:, 0] - small[:, 1]), "blue_green": np.mean(small[:, 2] - small[:, 1]),
            "bright_red_green": bright[0] - bright[1], "bright_blue_green": bright[2] - bright[1]}


def sharpness_statistics(g):
    """Laplacian variance at three scales, and how differences grow with distance in four directions."""
    values, level = {}, g
    for scale in (1, 2, 4):
        values[f"log_laplacian_{scale}"] = log(cv2.meanStdDev(cv2.Laplacian(level, cv2.CV_32F))[1][0, 0] ** 2)
        level = cv2.resize(level, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) if min(level.shape) > 8 else level
    for name, direction in {"x": (0, 1), "y": (1, 0), "d": (1, 1), "e": (1, -1)}.items():
        near, mid, far = (step(g, k * direction[0], k * direction[1]) for k in (1, 2, 4))
        means = [log(cv2.mean(s)[0]) for s in (near, mid, far)]
        values |= {f"log_step_{name}": means[0], f"grow2_{name}": means[1] - means[0],
                   f"grow4_{name}": means[2] - means[1], f"edge_{name}": quantile(near[::3, ::3], 0.99)}
    return values


def quantile(values, q):
    k = int(q * (values.size - 1))
    return np.partition(values.ravel(), k)[k]


def step(g, dy, dx):
    """|difference| between pixels that far apart."""
    h, w = g.shape
    a, b = g[:h - dy], g[dy:]
    return cv2.absdiff(a[:, :w - dx], b[:, dx:]) if dx >= 0 else cv2.absdiff(a[:, -dx:], b[:, :w + dx])


def noise_statistics(image, g):
    """Immerkaer's noise estimate (1996), and high-frequency energy in the flattest tiles, grey and colour."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    red, green = cv2.extractChannel(image, 0), cv2.extractChannel(image, 1)
    planes = {"flat": g, "noise": cv2.filter2D(g, -1, mask),
              "colour_noise": cv2.filter2D(cv2.subtract(red, green, dtype=cv2.CV_32F), -1, mask)}
    values = {}
    for name, plane in planes.items():
        std = np.sort(tile_std(plane, 8).ravel())
        values |= {f"log_{name}_q{q}": log(std[int(q / 100 * (len(std) - 1))]) for q in (2, 10, 25, 50, 75, 95)}
        if name == "flat":
            values["blank_share"] = np.searchsorted(std, 3) / len(std)
        else:
            values[f"log_{name}"] = log(cv2.mean(cv2.absdiff(plane, 0))[0] * 1.2533)
    return values


def tile_std(plane, side):
    """Standard deviation within each tile of side x side pixels."""
    size = (max(1, plane.shape[1] // side), max(1, plane.shape[0] // side))
    plane = plane[:size[1] * side, :size[0] * side]
    mean, square = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (plane, plane * plane))
    return np.sqrt(np.maximum(square - mean * mean, 0))


def tiled(plane, side):
    """(h, w) -> (n tiles, side, side); what does not fill a tile is left out."""
    h, w = plane.shape[0] // side, plane.shape[1] // side
    if not h or not w:
        return np.zeros((1, side, side), np.float32)
    return plane[:h * side, :w * side].reshape(h, side, w, side).swapaxes(1, 2).reshape(-1, side, side)


DCT = np.array([[math.sqrt((2 if k else 1) / 8) * math.cos(math.pi * (2 * i + 1) * k / 16) for i in range(8)]
                for k in range(8)], np.float32)
BAND = np.add.outer(np.arange(8), np.arange(8))


def block_statistics(g):
    """JPEG: steps at the 8-pixel grid against steps elsewhere; zero and mean coefficients by diagonal of the block."""
    dx, dy = np.abs(np.diff(g, axis=1)).mean(0), np.abs(np.diff(g, axis=0)).mean(1)
    values = {f"blocking_{name}": log(d[7::8].mean() / (np.delete(d, slice(7, None, 8)).mean() + 1e-3) if len(d) > 8 else 1.0)
              for name, d in (("x", dx), ("y", dy))}
    coefficients = np.abs(DCT @ tiled(g - 128, 8) @ DCT.T)
    energy, zero = coefficients.mean(0), (coefficients < 1).mean(0)
    for low, high in ((1, 2), (3, 4), (5, 6), (7, 9), (10, 14)):
        band = (low <= BAND) & (high >= BAND)
        values |= {f"log_dct_{low}": log(energy[band].mean()), f"zero_dct_{low}": zero[band].mean()}
    return values


def direction_statistics(g):
    """Moments of the gradient's direction: order 4 knows a tilt modulo 90 degrees, order 2 modulo 180."""
    smooth = cv2.GaussianBlur(g, (0, 0), 1.5)
    magnitude, angle = cv2.cartToPolar(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    histogram = np.bincount((angle.ravel() * (90 / math.pi)).astype(int) % 90, magnitude.ravel(), 90)
    histogram /= histogram.sum() + 1e-3
    theta = np.arange(90) * math.pi / 45 / 1
    values = {}
    for order in (1, 2, 4, 6):
        moment = np.sum(histogram * np.exp(1j * order * theta))
        values |= {f"turn{order}_cos": moment.real, f"turn{order}_sin": moment.imag, f"turn{order}": abs(moment)}
    peak = np.convolve(np.concatenate([histogram, histogram]), np.ones(3), "same").reshape(2, 90).sum(0).reshape(2, 45).sum(0)
    best = int(np.argmax(peak))
    return values | {"tilt": (best if best < 23 else best - 45) * 2.0, "tilt_peak": peak[best]}


def border_statistics(grey):
    """Outline and corners: runs of one colour from a corner along its two sides are the legs of a rotation's wedge."""
    scale = 96 / max(grey.shape)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    outline = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    values = {"outline_white": (outline > 235).mean(), "outline_black": (outline < 20).mean(),
              "outline_mean": outline.mean(), "outline_std": outline.std()}
    area, tilts = [], []
    for name, view, sign in (("tl", small, 1), ("tr", small[:, ::-1], -1), ("bl", small[::-1], -1), ("br", small[::-1, ::-1], 1)):
        a, b = run_length(view[0]), run_length(view[:, 0])
        t = math.degrees(math.atan2(b, a))
        tilts.append(sign * (t if t < 45 else t - 90))
        area.append(a * b)
        values |= {f"corner_{name}": view[:3, :3].mean(), f"leg_x_{name}": a / 96, f"leg_y_{name}": b / 96}
    order = np.argsort(tilts)
    middle = np.searchsorted(np.cumsum(np.array(area)[order]), sum(area) / 2)
    return values | {"wedge_tilt": tilts[order[min(middle, 3)]], "wedge_area": log(sum(area)), "wedge_spread": np.std(tilts)}


def run_length(line, tolerance=16):
    """Pixels from the start of `line` that keep its first colour."""
    off = np.abs(line - line[:2].mean()) > tolerance
    return int(np.argmax(off)) if off.any() else len(line)


# ---------------------------------------------------------------- which values are looked for

class Axis(NamedTuple):
    """The values of a kind cut at `edges`; interval i is class `classes[i]`, 0 where the eye would see no difference."""

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


# Kinds of one group look alike: the likeliest of a group is taken first, another only if it explains what is left.
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
    "scale": axis(0.55, 1.8, 6, "geometry", (0.92, 1.09), log=True),
    "shift": axis(0.05, 0.25, 4, "geometry"),
    "rotate": axis(-45, 45, 12, "geometry", (-2, 2)),
    "perspective": axis(0.04, 0.2, 4, "geometry"),
    "patch": axis(0.15, 0.6, 4, "patch"),
    "jpeg": axis(6, 70, 6, "jpeg", log=True),
}
GEOMETRY = ("rotate", "scale", "shift", "perspective")


# ---------------------------------------------------------------- a bank of distorted training images

class Bank(NamedTuple):
    """n distorted training images: what was done, to which image, and the statistics of the outcome (n, d)."""

    values: list
    source: np.ndarray
    statistics: np.ndarray


def draw_values(rng, found, free=0.15):
    """{kind: value} of one image: each kind as found so far, or freely (half the time, anywhere in its range)."""
    values = {}
    for kind, (edges, classes, _) in AXES.items():
        d = found.distortion(kind)
        if rng.random() < free:
            if rng.random() < 0.5:
                i = rng.choice(np.flatnonzero(classes))
                values[kind] = rng.uniform(edges[i], edges[i + 1])
        elif d and rng.random() < d.probability:
            values[kind] = rng.uniform(d.low, d.high)
    for name, (choices, shares) in found.settings().items():
        p = np.full(len(choices), 1 / len(choices)) if rng.random() < 2 * free else shares
        values[name] = choices[rng.choice(len(choices), p=p)]
    return values


def make_bank(images, n, found, free, seed, workers, resave=0.5):
    """`resave`: share that is also saved as a good JPEG, which is no damage but leaves traces."""
    rng = np.random.default_rng(seed)
    values = [draw_values(rng, found, free) for _ in range(n)]
    source = np.arange(n) % len(images)
    seeds = rng.integers(2**31, size=n)
    save = np.where(rng.random(n) < resave, rng.uniform(85, 100, n), 0)

    def row(i):
        image = apply(images[source[i]], values[i], np.random.default_rng(seeds[i]), lambda s: images[s % len(images)])
        image = compress(image, save[i]) if save[i] else image
        return list(statistics(image).values())

    return Bank(values, source, np.array(parallel_map(row, range(n), workers), np.float32))


def classes_of(values, kind):
    edges, classes, _ = AXES[kind]
    where = [np.searchsorted(edges, v[kind], "right") - 1 if kind in v else -1 for v in values]
    return np.array([classes[np.clip(i, 0, len(classes) - 1)] if i >= 0 else 0 for i in where])


# ---------------------------------------------------------------- reading a test set with a bank

def likelihood_ratios(rows, y, source, test, n_classes, seed, folds=2):
    """P(class | row) / P(class), up to a factor per row: (n, K) for the bank, out of fold, and (m, K) for the test rows."""
    p_bank, p_test = np.full((len(rows), n_classes), 1e-3), np.full((len(test), n_classes), 1e-3)
    splits = GroupKFold(folds, shuffle=True, random_state=seed).split(rows, y, source)
    for fold, (fit, held) in enumerate(splits):
        forest = ExtraTreesClassifier(80, min_samples_leaf=4, max_features=0.2, n_jobs=2, random_state=seed + fold)
        forest.fit(rows[fit], y[fit])
        p_bank[np.ix_(held, forest.classes_)] += forest.predict_proba(rows[held])
        mine = np.arange(fold, len(test), folds)
        p_test[np.ix_(mine, forest.classes_)] += forest.predict_proba(test[mine])
    calibration = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200, tol=1e-3)).fit(np.log(p_bank), y)
    prior = np.bincount(y, minlength=n_classes) / len(y)
    out = []
    for p in (p_bank, p_test):
        ratio = np.full((len(p), n_classes), 1e-6)
        ratio[:, calibration.classes_] = calibration.predict_proba(np.log(p)) / prior[calibration.classes_] + 1e-6
        out.append(ratio)
    return out


def uniform_ranges(kind, parts=2):
    """All ranges between edges cut `parts` times finer, (R, 2), and what they give to each class, (K, R)."""
    edges, classes, _ = AXES[kind]
    fine = np.interp(np.arange(0, len(edges) - 1 + 1e-9, 1 / parts), np.arange(len(edges)), edges)
    ranges = np.array([(a, b) for i, a in enumerate(fine) for b in fine[i + 1:]])
    overlap = np.clip(np.minimum(ranges[:, 1:], edges[1:]) - np.maximum(ranges[:, :1], edges[:-1]), 0, None)
    share = overlap / overlap.sum(1, keepdims=True)
    return ranges, np.stack([share[:, classes == c].sum(1) for c in range(classes.max() + 1)])


def fit_range(ratios, kind, steps=20):
    """(probability, low, high, gain): the likeliest for these rows; gain in log likelihood over no distortion."""
    ranges, share = uniform_ranges(kind)
    against_none = ratios @ share / ratios[:, :1] - 1
    probabilities = np.arange(1, steps + 1) / steps
    gains = np.array([np.log(np.maximum(1 + p * against_none, 1e-6)).sum(0) for p in probabilities])
    i, j = np.unravel_index(np.argmax(gains), gains.shape)
    return probabilities[i], *ranges[j], gains[i, j]


@dataclass(frozen=True)
class Finding:
    """What the test rows say about one kind, and the gain that rows without it reach by chance."""

    kind: str
    probability: float
    low: float
    high: float
    gain: float
    chance: float

    @property
    def holds(self):
        return self.gain > self.chance + MIN_GAIN and self.probability >= 0.05


@dataclass(frozen=True)
class Found:
    """What is believed between two rounds of the search."""

    kinds: dict
    fill: tuple = (0.25,) * 4
    expand: float = 0.5
    geometry_first: float = 0.5

    def distortion(self, kind):
        return self.kinds.get(kind)

    def settings(self):
        """name -> (choices, shares)."""
        return {"fill": (FILLS, self.fill), "expand": ((False, True), (1 - self.expand, self.expand)),
                "geometry_first": ((False, True), (1 - self.geometry_first, self.geometry_first)),
                "symmetry": ((None, *SYMMETRIES), (0.125,) * 8)}


def read_kind(kind, bank, test, seed):
    y = classes_of(bank.values, kind)
    ours, theirs = likelihood_ratios(bank.statistics, y, bank.source, test, AXES[kind].classes.max() + 1, seed)
    rng, none = np.random.default_rng(seed), np.flatnonzero(y == 0)
    chance = max(fit_range(ours[rng.choice(none, len(test))], kind, 10)[3] for _ in range(10))
    return Finding(kind, *fit_range(theirs, kind), max(chance, 0.0))


def read_setting(name, choices, needs, bank, test, seed):
    """Shares of a setting's choices among the test rows that show it (a fill needs geometry)."""
    y = np.array([1 + choices.index(v[name]) if needs & v.keys() else 0 for v in bank.values])
    _, theirs = likelihood_ratios(bank.statistics, y, bank.source, test, len(choices) + 1, seed)
    weights = mixture(theirs)[1:] + 0.01
    return tuple(weights / weights.sum())


def mixture(ratios, iterations=300):
    """Shares (K,) of the classes under which the rows are likeliest, by EM (Saerens et al., 2002)."""
    weights = np.full(ratios.shape[1], 1 / ratios.shape[1])
    for _ in range(iterations):
        posterior = ratios * weights
        weights = (posterior / posterior.sum(1, keepdims=True)).mean(0)
    return weights


def search(images, test, seed, workers, n=2000, rounds=3, verbose=False):
    """Rounds of bank and reading; each bank is drawn as the round before believes the test set to be."""
    found = Found({})
    for r in range(rounds):
        bank = make_bank(images, n, found, 0.15 if r else 0.3, seed_of(seed, "bank", r), workers)
        read = {kind: read_kind(kind, bank, test, seed) for kind in AXES}
        if verbose:
            for f in read.values():
                if f.holds or f.kind in found.kinds: print(r, f"{f.kind:12s} p {f.probability:.2f} {f.low:6.2f} {f.high:6.2f} gain {f.gain:.0f} chance {f.chance:.0f}", f.holds)
        best = max(f.gain for f in read.values())
        holds = [f for f in read.values() if f.holds and (r or f.gain > 0.1 * best)]
        if r == 0:
            holds = [f for f in holds if f.gain == max(h.gain for h in holds if AXES[h.kind].group == AXES[f.kind].group)]
        found = Found({f.kind: f for f in holds})
        shown = set(GEOMETRY) & set(found.kinds)
        if shown:
            fill = read_setting("fill", FILLS, shown, bank, test, seed)
            expand = read_setting("expand", (False, True), {"rotate"}, bank, test, seed)[1] if "rotate" in shown else 0.0
            first = read_setting("geometry_first", (False, True), shown, bank, test, seed)[1]
            found = replace(found, fill=fill, expand=expand, geometry_first=first)
            if verbose: print(r, 'fill', np.round(fill, 2), 'expand', round(expand, 2), 'first', round(first, 2))
    return found
