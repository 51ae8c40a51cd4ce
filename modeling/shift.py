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
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from data_loader import decode_bytes
from modeling.augment import (
    DISTORTIONS,
    FILLS,
    SYMMETRIES,
    Distortion,
    ShiftPolicy,
    apply,
    compress,
    distort,
    resized,
    turn,
)
from utils import Timer, parallel_map, plain, seed_of

LONG_SIDE_PX = 512
MIN_GAIN = 8.0     # log likelihood above chance
PURE_SHARE = 0.3   # of a bank's rows


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
    histogram = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel() / grey.size
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


DCT = np.array([[math.sqrt((2 if k else 1) / 8) * math.cos(math.pi * (2 * i + 1) * k / 16) for i in range(8)]
                for k in range(8)], np.float32)
BAND = np.add.outer(np.arange(8), np.arange(8))


def block_statistics(g):
    """JPEG: steps at the 8-pixel grid against steps elsewhere; zero and mean coefficients by diagonal of the block."""
    dx, dy = np.abs(np.diff(g, axis=1)).mean(0), np.abs(np.diff(g, axis=0)).mean(1)
    on_grid = {"x": dx[7::8].sum() / max(1, len(dx) // 8), "y": dy[7::8].sum() / max(1, len(dy) // 8)}
    values = {f"blocking_{name}": log(on_grid[name] / (d.mean() + 1e-3)) for name, d in (("x", dx), ("y", dy))}
    h, w = g.shape[0] // 8, g.shape[1] // 8
    columns = (DCT @ g[:8 * h, :8 * w].reshape(h, 8, 8 * w)).reshape(-1, 8)
    coefficients = cv2.absdiff(columns @ DCT.T, 0).reshape(h, 8, w, 8)
    energy, zero = coefficients.mean((0, 2)), (coefficients < 1).mean((0, 2))
    for low, high in ((1, 2), (3, 4), (5, 6), (7, 9), (10, 14)):
        band = (low <= BAND) & (high >= BAND)
        values |= {f"log_dct_{low}": log(energy[band].mean()), f"zero_dct_{low}": zero[band].mean()}
    return values


def direction_statistics(g):
    """Moments of the gradient's direction: order 4 knows a tilt modulo 90 degrees, order 2 modulo 180."""
    smooth = cv2.resize(g, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    magnitude, angle = cv2.cartToPolar(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    histogram = np.bincount((angle.ravel() * (90 / math.pi)).astype(int) % 90, magnitude.ravel(), 90)
    histogram /= histogram.sum() + 1e-3
    theta = np.arange(90) * math.pi / 45
    values = {}
    for order in (1, 2, 4, 6):
        moment = np.sum(histogram * np.exp(1j * order * theta))
        values |= {f"turn{order}_cos": moment.real, f"turn{order}_sin": moment.imag, f"turn{order}": abs(moment)}
    quarter = histogram.reshape(2, 45).sum(0)
    peak = quarter + np.roll(quarter, 1) + np.roll(quarter, -1)
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
    corners = {"tl": (small, 1), "tr": (small[:, ::-1], -1), "bl": (small[::-1], -1), "br": (small[::-1, ::-1], 1)}
    for name, (view, sign) in corners.items():
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
USUAL = {"sharpness": "blur", "tone": "brightness", "geometry": "rotate"}   # taken where another is not clearly likelier


# ---------------------------------------------------------------- a bank of distorted training images

class Bank(NamedTuple):
    """n distorted training images: what was done, to which image, and the statistics of the outcome (n, d)."""

    values: list
    source: np.ndarray
    statistics: np.ndarray
    pure: np.ndarray      # (n,) bool: drawn as the test set is believed to be, nothing tried on top


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
    pure = rng.random(n) < PURE_SHARE
    values = [draw_values(rng, found, 0.0 if p else free) for p in pure]
    source = np.arange(n) % len(images)
    seeds = rng.integers(2**31, size=n)
    save = np.where(rng.random(n) < resave, rng.uniform(85, 100, n), 0)

    def row(i):
        image = apply(images[source[i]], values[i], np.random.default_rng(seeds[i]), lambda s: images[s % len(images)])
        image = compress(image, save[i]) if save[i] else image
        return list(statistics(image).values())

    return Bank(values, source, np.array(parallel_map(row, range(n), workers), np.float32), pure)


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
        forest = ExtraTreesClassifier(50, min_samples_leaf=4, max_features=0.2, random_state=seed + fold)
        forest.fit(rows[fit], y[fit])
        p_bank[np.ix_(held, forest.classes_)] += forest.predict_proba(rows[held])
        mine = np.arange(fold, len(test), folds)
        p_test[np.ix_(mine, forest.classes_)] += forest.predict_proba(test[mine])
    calibration = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200, tol=1e-3))
    calibration.fit(np.log(p_bank), y)
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


def fit_range(ratios, kind, steps=20, parts=2):
    """(probability, low, high, gain): the likeliest for these rows; gain in log likelihood over no distortion."""
    ranges, share = uniform_ranges(kind, parts)
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
        return self.gain > 2.5 * self.chance + MIN_GAIN and self.probability >= 0.05


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
    rng, none = np.random.default_rng(seed), (y == 0) & bank.pure
    none = none if none.sum() > 50 else y == 0
    chance = max(fit_range(ours[resampled(bank.source, none, len(test), rng)], kind, 10, parts=1)[3] for _ in range(10))
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


def search(images, test, seed, workers, n, rounds=4):
    """Rounds of bank and reading; each bank is drawn as the round before believes the test set to be."""
    found, kinds = Found({}), list(AXES)
    for r in range(rounds):
        bank = make_bank(images, n, found, 0.15 if r else 0.3, seed_of(seed, "bank", r), workers)
        read = {kind: read_kind(kind, bank, test, seed) for kind in kinds}
        before, found = found, with_settings(Found(chosen(read, found.kinds)), bank, test, seed)
        kinds = [kind for kind, f in read.items() if kind in found.kinds or f.gain > f.chance]
        if not found.kinds or (r and set(before.kinds) == set(found.kinds)):
            break
    return found


def chosen(read, before):
    """The kinds to go on with. In each group at most one comes and at most one goes, as its kinds explain each other;
    and only the likeliest come, as what looks like a second distortion is often the trace of the first."""
    kept = {}
    best = max((f.gain for kind, f in read.items() if kind not in before), default=0)
    for group in dict.fromkeys(a.group for a in AXES.values()):
        members = sorted((f for k, f in read.items() if AXES[k].group == group), key=lambda f: f.gain - f.chance)
        old = [f for f in members if f.kind in before]
        old = old[1:] if old and not old[0].holds else old
        new = [f for f in members if f.kind not in before and f.holds and f.gain > 0.3 * best]
        usual = [f for f in new if f.kind == USUAL.get(group) and f.gain > 0.7 * new[-1].gain]
        kept |= {f.kind: f for f in [*old, *(usual or new[-1:])]}
    return kept


def with_settings(found, bank, test, seed):
    """Fill, canvas and order, which only show on images with geometry."""
    shown = set(GEOMETRY) & set(found.kinds)
    if not shown:
        return found
    return replace(
        found, fill=read_setting("fill", FILLS, shown, bank, test, seed),
        expand=read_setting("expand", (False, True), {"rotate"}, bank, test, seed)[1] if "rotate" in shown else 0.0,
        geometry_first=read_setting("geometry_first", (False, True), shown, bank, test, seed)[1])


# ---------------------------------------------------------------- orientation

def layout(image):
    """Histograms of signed gradient directions in 8 x 8 cells, a thumbnail and the aspect: where things are."""
    h, w = image.shape[:2]
    g = cv2.cvtColor(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    magnitude, angle = cv2.cartToPolar(cv2.Sobel(g, cv2.CV_32F, 1, 0), cv2.Sobel(g, cv2.CV_32F, 0, 1))
    which = np.rint(angle * (4 / math.pi)).astype(int) % 8
    by_direction = np.where(which[..., None] == np.arange(8), magnitude[..., None], 0)
    cells = cv2.resize(by_direction, (8, 8), interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(g, (8, 8), interpolation=cv2.INTER_AREA)
    return np.concatenate([np.sqrt(cells / (cells.mean() + 1)).ravel(), ((thumbnail - g.mean()) / (g.std() + 8)).ravel(),
                           [3 * math.log(w / h)]])


def levelled(image):
    """The image turned back by the angle of its corner wedges, where it has any, and a little smoothed."""
    tilt = wedge_tilt(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    image = cv2.GaussianBlur(image, (0, 0), 0.8)
    if abs(tilt) < 2:
        return image
    h, w = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((w / 2 - 0.5, h / 2 - 0.5), -tilt, 1.0)
    return cv2.warpAffine(image, matrix, (w, h), borderMode=cv2.BORDER_REPLICATE)


def wedge_tilt(grey):
    values = border_statistics(grey)
    return values["wedge_tilt"] if values["wedge_area"] > 3 and values["wedge_spread"] < 8 else 0.0


def local_patterns(image):
    """Local binary patterns (Ojala et al., 2002) with a threshold, at two scales: strokes of text know left and up."""
    g = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.int16)
    rows = []
    for _ in range(2):
        if min(g.shape) < 5:
            rows.append(np.zeros(255))
            continue
        centre = g[1:-1, 1:-1] + 12
        code = np.zeros(centre.shape, np.uint8)
        for bit, (y, x) in enumerate(((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))):
            code |= (g[y:y + centre.shape[0], x:x + centre.shape[1]] > centre).astype(np.uint8) << bit
        histogram = np.bincount(code.ravel(), minlength=256)[1:].astype(float)
        rows.append(np.sqrt(histogram / (histogram.sum() + 1)))
        g = cv2.resize(g, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.concatenate(rows)


def orientation_row(image):
    image = levelled(image)
    return np.concatenate([layout(image), 6 * local_patterns(image)])


def features(images, embed, workers=2):
    """(n, d) layout and local patterns, beside pretrained features."""
    rows = np.array(parallel_map(orientation_row, images, workers), np.float32)
    return rows if embed is None else np.concatenate([rows, np.asarray(embed(images), np.float32)], 1)


def turned(image, symmetry):
    return turn(image, None if symmetry == "identity" else symmetry)


ORIENTATIONS = ("identity", *SYMMETRIES)


def count_orientations(images, test_features, found, embed, seed, n, workers):
    """{symmetry: share} of the test images; one is added at a time, while the likelihood rises by more than chance."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.maximum(np.arange(n) % 10 - 2, 0))
    source = np.arange(n) % len(images)
    seeds = rng.integers(2**31, size=n)

    def row(i):
        draws = np.random.default_rng(seeds[i])
        values = draw_values(draws, found, 0.0) | {"symmetry": None if y[i] == 0 else ORIENTATIONS[y[i]]}
        return apply(images[source[i]], values, draws, lambda s: images[s % len(images)])

    bank = features(parallel_map(row, range(n), workers), embed, workers)
    ours, theirs = linear_ratios(bank, y, source, test_features, seed)
    shares, penalty = orientation_mixtures()
    upright = [ours[resampled(source, y == 0, len(theirs), rng)] for _ in range(10)]
    chance = max(likeliest(r, shares, penalty)[1] for r in upright)
    if likeliest(theirs, shares, penalty)[1] < chance + MIN_GAIN:
        return {"identity": {"share": 1.0, "ci90": [1.0, 1.0]}}
    share = expected_shares(theirs, shares, penalty)
    draws = [expected_shares(theirs[rng.integers(len(theirs), size=len(theirs))], shares, penalty) for _ in range(50)]
    spread = np.quantile(draws, (0.05, 0.95), axis=0)
    return {g: {"share": float(share[k]), "ci90": spread[:, k].tolist()}
            for k, g in enumerate(ORIENTATIONS) if share[k] >= 0.03}


def orientation_mixtures(step=0.05):
    """(M, 8) shares of the orientations that a test set may have, and (M,) penalties by their number of free values.

    One symmetry at any share; horizontal, vertical flip and transpose, each independent at any probability (as pipelines
    have them); quarter turns at any shares.
    """
    grid = np.arange(0, 1 + 1e-9, step)
    coarse = grid[::2]
    single = [(np.eye(8)[0] * (1 - p) + np.eye(8)[k] * p, 1) for k in range(1, 8) for p in grid]
    flips = [(flip_shares(h, v, t), (h > 0) + (v > 0) + (t > 0)) for h in coarse for v in coarse for t in coarse]
    turns = [(np.eye(8)[[0, 5, 3, 6]].T @ (1 - a - b - c, a, b, c), (a > 0) + (b > 0) + (c > 0))
             for a in coarse for b in coarse for c in coarse if a + b + c <= 1 + 1e-9]
    shares, free = zip(*single, *flips, *turns, strict=True)
    return np.clip(shares, 0, 1), 2.0 * np.array(free)


def flip_shares(horizontal, vertical, transpose):
    """(8,) shares of ORIENTATIONS when a horizontal flip, a vertical flip and a transpose are drawn independently."""
    mirror = np.outer((1 - horizontal, horizontal), (1 - vertical, vertical)).ravel()   # none, v, h, both
    after = mirror[[0, 2, 1, 3]]                                                        # none, h, v, both
    # a transpose before: none -> transpose, h -> rotate_90, v -> rotate_270, both -> transverse
    return np.concatenate([after * (1 - transpose), after[[0, 1, 2, 3]] * transpose])


def expected_shares(ratios, shares, penalty):
    """(8,) posterior mean over the mixtures: what the images cannot decide (a mirror, often) is spread, not guessed."""
    score = np.log(ratios @ shares.T + 1e-9).sum(0) - penalty
    weight = np.exp((score - score.max()) / 2)
    return weight @ shares / weight.sum()


def likeliest(ratios, shares, penalty):
    """(shares, gain in log likelihood over all upright) of the best mixture."""
    score = np.log(ratios @ shares.T + 1e-9).sum(0) - np.log(ratios[:, 0] + 1e-9).sum() - penalty
    best = int(np.argmax(score))
    return shares[best], float(score[best])


def resampled(source, allowed, n, rng):
    """About n of the allowed rows, drawn by whole source images with replacement."""
    rows = {s: np.flatnonzero((source == s) & allowed) for s in np.unique(source[allowed])}
    per_source = allowed.sum() / len(rows)
    picked = rng.choice(list(rows), max(1, round(n / per_source)))
    return np.concatenate([rows[s] for s in picked])


def linear_ratios(rows, y, source, test, seed, folds=3):
    """As `likelihood_ratios`, with a linear classifier for many smooth features."""
    p_bank, p_test = np.zeros((len(rows), 8)), np.zeros((len(test), 8))
    for fold, (fit, held) in enumerate(GroupKFold(folds, shuffle=True, random_state=seed).split(rows, y, source)):
        model = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3))
        model.fit(rows[fit], y[fit])
        p_bank[held] = model.predict_proba(rows[held])
        p_test[fold::folds] = model.predict_proba(test[fold::folds])
    prior = np.bincount(y) / len(y)
    half = source % 2 == 0
    log_bank, log_test = np.log(p_bank + 1e-4), np.log(p_test + 1e-4)
    ours, theirs = np.empty_like(p_bank), np.empty_like(p_test)
    for k, part in enumerate((half, ~half)):
        model = LogisticRegression(C=1.0, max_iter=500, tol=1e-2).fit(log_bank[part], y[part])
        ours[~part], theirs[k::2] = model.predict_proba(log_bank[~part]), model.predict_proba(log_test[k::2])
    return ours / prior, theirs / prior


def natural_symmetries(images, labels, embed, seed, workers, n=240):
    """Symmetries under which the images of each class look like themselves: safe to add to any augmentation.

    Two tests per symmetry, because a class may have its own mirror (b and d) or all classes one (text): does the
    nearest neighbour within the class tell original from turned (Schilling, 1986), and does a linear classifier?
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    picked = rng.permutation(len(images))[:n]
    picked = picked[np.argsort(labels[picked], kind="stable")]
    y = labels[picked]
    originals = [images[i] for i in picked]
    rows = {g: features([turned(image, g) for image in originals], embed, workers) for g in ORIENTATIONS}
    scaler = make_pipeline(StandardScaler(), PCA(min(60, len(picked) // 2), whiten=True, random_state=seed))
    scaler.fit(np.concatenate(list(rows.values())))
    rows = {g: scaler.transform(r) for g, r in rows.items()}
    return tuple(g for g in SYMMETRIES if is_natural(rows["identity"], rows[g], y, seed))


def is_natural(original, mirrored, y, seed):
    classes = [c for c in np.unique(y) if (y == c).sum() > 2]
    nearer = np.concatenate([[0.5], *(nearest_share(original[y == c], mirrored[y == c]) for c in classes)])
    centre = {c: (original[y == c].mean(0) + mirrored[y == c].mean(0)) / 2 for c in np.unique(y)}
    middle = np.array([centre[c] for c in y])
    rows, side = np.concatenate([original - middle, mirrored - middle]), np.repeat([0, 1], len(y))
    guess = cross_val_predict(LogisticRegression(C=0.01), rows, side, cv=GroupKFold(5), groups=np.tile(np.arange(len(y)), 2))
    limit = 0.5 + max(0.07, 1.4 / math.sqrt(len(y)))
    return max(nearer.mean(), (guess == side).mean()) < limit


def nearest_share(original, mirrored):
    """For each row of a class: 1 where its nearest other is an original, 0 where mirrored, its own mirror left out."""
    to_original, to_mirrored = (np.linalg.norm(original[:, None] - other[None], axis=2) for other in (original, mirrored))
    np.fill_diagonal(to_original, np.inf)
    np.fill_diagonal(to_mirrored, np.inf)
    return (to_original.min(1) < to_mirrored.min(1)).astype(float)


# ---------------------------------------------------------------- the report

def separability(one, other, seed):
    """{"value", "ci90"}: AUC of telling the two sets of rows apart, cross-validated (adversarial validation)."""
    rows, y = np.concatenate([one, other]), np.repeat([0, 1], [len(one), len(other)])
    forest = ExtraTreesClassifier(100, min_samples_leaf=3, random_state=seed)
    folds = StratifiedKFold(4, shuffle=True, random_state=seed)
    score = cross_val_predict(forest, rows, y, cv=folds, method="predict_proba")[:, 1]
    rng = np.random.default_rng(seed)
    draws = [roc_auc_score(y[i], score[i]) for i in (rng.integers(len(y), size=len(y)) for _ in range(100))]
    return {"value": roc_auc_score(y, score), "ci90": np.quantile(draws, (0.05, 0.95)).tolist()}


@dataclass(frozen=True)
class ShiftReport:
    """What was measured and found; plain values only, so that it is a JSON object as it stands."""

    policy: ShiftPolicy = field(default_factory=ShiftPolicy)
    natural_symmetries: tuple = ()
    auc_before: dict | None = None       # value, ci90; None where no test images were read
    auc_after: dict | None = None
    statistics: dict = field(default_factory=dict)     # name -> train, test, matched: quantiles 10, 50, 90 %; auc
    orientation: dict = field(default_factory=dict)    # symmetry -> share, ci90 among the test images
    examples: dict = field(default_factory=dict)       # train, test: paths; seed
    n_train: int = 0
    n_test: int = 0
    seconds: float = 0.0

    @classmethod
    def empty(cls):
        return cls()

    @property
    def symmetries(self):
        """Identity, the natural symmetries and those that the test images show."""
        shown = [d.kind for d in self.policy.distortions if d.kind in SYMMETRIES]
        return ("identity", *dict.fromkeys([*self.natural_symmetries, *shown]))

    def to_json(self):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain(values | {"policy": self.policy.to_json()})

    @classmethod
    def from_json(cls, values):
        return cls(**(values | {"policy": ShiftPolicy.from_json(values["policy"]),
                                "natural_symmetries": tuple(values["natural_symmetries"])}))

    def describe(self):
        """Sentences for the person who waits."""
        if self.natural_symmetries:
            yield f"natural symmetries of the training images: {', '.join(self.natural_symmetries)}"
        if self.auc_before is None:
            return
        yield (f"train and test images are told apart with AUC {self.auc_before['value']:.2f}, "
               f"after matching {self.auc_after['value']:.2f} (0.5: alike)")
        for d in self.policy.distortions:
            unit = DISTORTIONS[d.kind][2]
            values = "" if d.kind in SYMMETRIES else f" {d.low:.3g}..{d.high:.3g}"
            yield f"test images: {d.kind}{values}, {d.probability:.0%} of them ({unit}; {d.evidence})"
        if self.policy.is_empty:
            yield "test images show no distortion that training images lack"


def match_shift(train_paths, train_labels, test_paths, *, seed, workers, embed=None, max_images=1000, rows=1400):
    """Measure the shift from train to test and fit the policy that undoes it.

    train_paths, test_paths: image files, at most `max_images` of each are read; test_paths may be empty, then only the
    natural symmetries are found. `embed`: images -> (n, d) pretrained features, or None.
    """
    with Timer() as timer, threadpool_limits(1, user_api="blas"):
        train, kept, native = load(train_paths, seed, workers, max_images)
        labels = np.asarray(train_labels)[kept]
        natural = natural_symmetries(train, labels, embed, seed, workers) if len(train) > 8 else ()
        report = ShiftReport(ShiftPolicy(natural=natural), natural, n_train=len(train))
        if len(test_paths) and len(train) > 8:
            test, shown, _ = load(test_paths, seed + 1, workers, max_images)
            report = measured(report, train, test, native, embed, seed, workers, rows)
            report = replace(report, examples={"train": [str(train_paths[i]) for i in kept[:8]],
                                               "test": [str(test_paths[i]) for i in shown[:8]], "seed": seed})
    return replace(report, seconds=timer.seconds)


def load(paths, seed, workers, most):
    """(images of at most LONG_SIDE_PX, their indices, median of original over kept size); broken files are left out."""
    def read(i):
        try:
            image, full = decode_bytes(Path(paths[i]).read_bytes(), LONG_SIDE_PX)
        except (ValueError, OSError):
            return None
        scale = min(1.0, LONG_SIDE_PX / max(image.shape))
        shape = [max(8, round(side * scale)) for side in image.shape[:2]]
        return (resized(image, shape) if scale < 1 or min(image.shape[:2]) < 8 else image), max(full) / max(shape)

    picked = np.random.default_rng(seed).permutation(len(paths))[:most]
    read_images = parallel_map(read, picked, workers)
    kept = [k for k, item in enumerate(read_images) if item is not None]
    return [read_images[k][0] for k in kept], picked[kept], float(np.median([read_images[k][1] for k in kept]))


def measured(report, train, test, native, embed, seed, workers, n):
    """The report with the policy and what stands for it."""
    table = [statistics(image) for image in test]
    names = list(table[0])
    rows = {"test": np.array([list(t.values()) for t in table], np.float32)}
    found = search(train, rows["test"], seed_of(seed, "search"), workers, n)
    orientation = count_orientations(train, features(test, None, workers), found, None, seed_of(seed, "turn"), n, workers)
    policy = policy_of(found, orientation, report.natural_symmetries, native)
    local = policy_of(found, orientation, (), 1.0)
    sample = train[:600]
    matched = [distort(image, local, seed_of(seed, i), lambda s: train[s % len(train)]) for i, image in enumerate(sample)]
    for name, images in (("train", sample), ("matched", matched)):
        rows[name] = np.array(parallel_map(lambda image: list(statistics(image).values()), images, workers), np.float32)
    is_test = np.repeat([0, 1], [len(sample), len(test)])
    table = {name: {split: np.quantile(rows[split][:, k], (0.1, 0.5, 0.9)).tolist() for split in rows}
             | {"auc": roc_auc_score(is_test, np.r_[rows["train"][:, k], rows["test"][:, k]])}
             for k, name in enumerate(names)}
    if embed is not None:
        for name, images in (("train", sample), ("matched", matched), ("test", test[:600])):
            rows[name] = np.concatenate([rows[name][:600], embed(images)], 1)
    return replace(report, policy=policy, orientation=orientation, statistics=table, n_test=len(test),
                   auc_before=separability(rows["train"], rows["test"][:600], seed),
                   auc_after=separability(rows["matched"], rows["test"][:600], seed))


def policy_of(found, orientation, natural, native):
    """The findings as a ShiftPolicy, lengths in pixels of the original images."""
    to_native = {"blur": native, "motion_blur": native, "noise": native}
    distortions = [Distortion(g, o["share"], 0, 0, f"share {o['ci90'][0]:.2f}..{o['ci90'][1]:.2f}")
                   for g, o in orientation.items() if g != "identity"]
    for f in found.kinds.values():
        low, high = np.clip(np.array([f.low, f.high]) * to_native.get(f.kind, 1), *DISTORTIONS[f.kind][:2]).tolist()
        distortions.append(Distortion(f.kind, float(f.probability), low, high,
                                      f"log likelihood +{f.gain:.0f}, by chance +{f.chance:.0f}"))
    geometry = set(GEOMETRY) & set(found.kinds)
    fill = tuple(float(x) for x in found.fill) if geometry else ShiftPolicy().fill
    return ShiftPolicy(tuple(distortions), fill, float(found.expand) if geometry else 0.0,
                       float(found.geometry_first) if geometry else 0.0, natural)
