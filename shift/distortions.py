"""Distortions with units, and policies made of them.

    policy = ShiftPolicy((Distortion("blur", 0.5, 0.8, 2.0, "measured"),))
    image = distort(image, policy, seed=7, donor=lambda seed: other_image)      # (H, W, 3) uint8

Everything random follows from the seed. Order of `distort`: damage (ghost, resolution, blur, tone,
noise), symmetry, geometry, patch, JPEG. With `geometry_first` the damage comes after the geometry,
so that noise lies on the fill too.
"""
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np

from utils import UserError, nearest

# kind -> (lowest, highest value, unit). A value is drawn uniformly from a distortion's low..high.
# Lengths are pixels of the original image, so that what is seen on a copy of a tenth of its size is
# ten times as large.
DISTORTIONS = {
    "flip_horizontal": (0, 0, "left and right exchanged (no value)"),
    "flip_vertical": (0, 0, "top and bottom exchanged (no value)"),
    "rotate_180": (0, 0, "upside down (no value)"),
    "transpose": (0, 0, "rows and columns exchanged (no value)"),
    "rotate_90": (0, 0, "a quarter turn clockwise (no value)"),
    "rotate_270": (0, 0, "a quarter turn counter-clockwise (no value)"),
    "transverse": (0, 0, "mirrored at the other diagonal (no value)"),
    "ghost": (0, 0.9, "weight of another image blended in"),
    "downscale": (0.05, 1, "factor by which the image was reduced and enlarged again"),
    "blur": (0, 100, "sigma of a Gaussian, pixels"),
    "motion_blur": (1, 400, "length of a straight motion in a random direction, pixels"),
    "brightness": (0.1, 4, "factor on every pixel"),
    "contrast": (0.1, 4, "factor on the distance from the image's mean grey"),
    "gamma": (0.2, 5, "exponent on pixel / 255"),
    "colour_cast": (0.4, 2.5, "factor on red, and its inverse on blue"),
    "saturation": (0, 4, "factor on the distance from grey"),
    "noise": (0, 1000, "standard deviation of Gaussian noise, grey levels"),
    "grain": (0, 600, "standard deviation of grey noise as coarse as paper or film, grey levels"),
    "scale": (0.2, 4, "factor on the content, in the frame"),
    "shift": (0, 0.5, "largest move per axis, share of the side, random sign"),
    "rotate": (-180, 180, "degrees counter-clockwise, in the frame"),
    "perspective": (0, 0.3, "largest move of a corner, share of the side"),
    "patch": (0, 0.9, "side of a rectangle of another image, share of the side"),
    "jpeg": (-2000, 100, "JPEG quality; below 1 where a copy, much reduced, was compressed"),
}
SYMMETRIES = tuple(DISTORTIONS)[:7]
GEOMETRY = ("rotate", "scale", "shift", "perspective")
# what geometry leaves empty: border = median colour of the outline
FILLS = ("white", "black", "border", "reflect")
# a symmetry of at least this share of the test images is no misreading
SURE_SHARE = 0.08
NOISE_SIDE_PX = 2048
GRAIN_PX = 1.0
Donor = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Distortion:
    """One kind of damage: its share of the images and the range of its value, in the unit of
    DISTORTIONS."""

    kind: str
    probability: float
    low: float
    high: float
    evidence: str = ""

    def __post_init__(self):
        if self.kind not in DISTORTIONS:
            raise UserError(
                f"Distortion.kind must be one of {', '.join(DISTORTIONS)}, got {self.kind!r}"
                f"{nearest(self.kind, DISTORTIONS)}")
        lowest, highest, _ = DISTORTIONS[self.kind]
        if not 0 <= self.probability <= 1:
            raise UserError(
                f"the probability of {self.kind} must be 0..1, got {self.probability!r}")
        if not lowest <= self.low <= self.high <= highest:
            raise UserError(
                f"the range of {self.kind} must be low <= high within {lowest}..{highest}, "
                f"got {self.low!r}..{self.high!r}")


@dataclass(frozen=True)
class ShiftPolicy:
    """How test images are damaged, and which symmetries are natural to the training images (those
    are no damage)."""

    distortions: tuple[Distortion, ...] = ()
    fill: tuple[float, ...] = (0.0, 0.0, 1.0, 0.0)  # shares of FILLS
    # share of rotations shrunk to keep all of the image in a canvas of the same long side
    expand: float = 0.0
    # share of images whose ghost, blur, tone and noise come after the geometry
    geometry_first: float = 0.0
    natural: tuple[str, ...] = ()
    grey_noise: float = 0.5      # share of the grey images with noise whose noise is grey too

    def __post_init__(self):
        kinds = [d.kind for d in self.distortions]
        if len(set(kinds)) < len(kinds):
            raise UserError(f"the kinds of a ShiftPolicy must differ, got {', '.join(kinds)}")
        if sum(d.probability for d in self.distortions if d.kind in SYMMETRIES) > 1 + 1e-6:
            raise UserError("the probabilities of a ShiftPolicy's symmetries must sum to at most 1")
        if len(self.fill) != len(FILLS) or min(self.fill) < 0 or abs(sum(self.fill) - 1) > 1e-6:
            raise UserError(
                f"ShiftPolicy.fill must be shares of {', '.join(FILLS)} that sum to 1, got {self.fill}"
            )
        if not set(self.natural) <= set(SYMMETRIES):
            raise UserError(
                f"ShiftPolicy.natural must be of {', '.join(SYMMETRIES)}, got {self.natural}")

    @property
    def is_empty(self):
        return not self.distortions

    def get(self, kind):
        """The distortion of that kind, or None."""
        return next((d for d in self.distortions if d.kind == kind), None)

    def to_json(self):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"fill": list(self.fill), "natural": list(self.natural),
                         "distortions": [vars(d) | {} for d in self.distortions]}

    @classmethod
    def from_json(cls, values):
        return cls(**(values | {"fill": tuple(values["fill"]), "natural": tuple(values["natural"]),
                                "distortions": tuple(Distortion(**d)
                                                     for d in values["distortions"])}))

    def widened(self, share=0.15):
        """For training: ranges wider by `share` of their width at both ends, and symmetries half
        way to equal shares of the group that they generate. Too strong hurts less than too weak,
        and counts of symmetries are uncertain.
        """
        def wider(d):
            lowest, highest, _ = DISTORTIONS[d.kind]
            margin = share * (d.high - d.low)
            return replace(d, low=max(lowest, d.low - margin), high=min(highest, d.high + margin))
        measured = {d.kind: d.probability for d in self.distortions if d.kind in SYMMETRIES}
        group = generated({kind for kind, p in measured.items() if p >= SURE_SHARE})
        evened = tuple(Distortion(kind, measured.get(kind, 0) / 2 + 0.5 / (1 + len(group)), 0, 0,
                                  "evened") for kind in SYMMETRIES if kind in group)
        left = tuple(d for d in self.distortions if d.kind not in group)
        left = tuple(replace(d, probability=d.probability / 2) if d.kind in SYMMETRIES else wider(d)
                     for d in left)
        return replace(self, distortions=evened + left)


def generated(kinds):
    """The symmetries that combinations of `kinds` make, without the identity."""
    index = np.arange(9).reshape(3, 3, 1)
    codes = {turn(index, kind).tobytes(): kind for kind in SYMMETRIES}
    found = set()
    images = [index]
    while images:
        image = images.pop()
        for kind in kinds:
            turned = turn(image, kind)
            if (name := codes.get(turned.tobytes())) and name not in found:
                found.add(name)
                images.append(turned)
    return found


def draw(policy, rng):
    """{kind: value} of the distortions that one image gets, with the settings "fill", "expand",
    "geometry_first"."""
    values = {}
    left = rng.random()
    for d in policy.distortions:
        if d.kind in SYMMETRIES:
            if 0 <= left < d.probability:
                values["symmetry"] = d.kind
            left -= d.probability
        elif rng.random() < d.probability:
            values[d.kind] = rng.uniform(d.low, d.high)
    if values:
        values["fill"] = FILLS[min(np.searchsorted(np.cumsum(policy.fill), rng.random(), "right"),
                                   len(FILLS) - 1)]
        values["expand"] = rng.random() < policy.expand
        values["geometry_first"] = rng.random() < policy.geometry_first
        values["grey_noise"] = policy.grey_noise
    return values


def distort(image, policy, seed, donor=None, native_scale=1.0):
    """The uint8 (H, W, 3) `image` under `policy`, at its own resolution.

    `native_scale`: side of this image over that of the original (1.25 x the network's input is kept
    in the cache); blur, noise and the rest are converted so that they look as if the original had
    been damaged and then reduced. `donor(seed)` gives another image, for ghosts and patches;
    without it those are left out.
    """
    rng = np.random.default_rng(seed)
    return apply(image, draw(policy, rng), rng, donor, native_scale)


def apply(image, values, rng, donor=None, native_scale=1.0):
    """`distort` with the values already drawn."""
    def damage(image):
        if "ghost" in values and donor:
            image = blend(image, donor(int(rng.integers(2**31))), values["ghost"])
        return photometric(image, values, rng, native_scale)

    def move(image):
        return geometric(turn(image, values.get("symmetry")), values, rng)

    image = damage(move(image)) if values.get("geometry_first") else move(damage(image))
    if "patch" in values and donor:
        image = paste(image, donor(int(rng.integers(2**31))), values["patch"], rng)
    return compress(image, values["jpeg"], native_scale) if "jpeg" in values else image


# ---------------------------------------------------------------- single distortions, (H, W, 3) uint8 in and out

def blend(image, other, weight):
    """Alpha blend with another image, stretched to this one's size."""
    return cv2.addWeighted(image, 1 - weight, resized_by_area(other, image.shape), weight, 0)


def paste(image, other, side_share, rng):
    """A rectangle at a random place replaced by the same place of another image."""
    h, w = image.shape[:2]
    ph = max(1, round(h * side_share))
    pw = max(1, round(w * side_share))
    y = rng.integers(h - ph + 1)
    x = rng.integers(w - pw + 1)
    image = image.copy()
    image[y:y + ph, x:x + pw] = resized_by_area(other, image.shape)[y:y + ph, x:x + pw]
    return image


def resized_by_area(image, shape):
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)


def photometric(image, values, rng, native_scale=1.0):
    """Resolution, blur, tone and noise; area averaging by 1 / native_scale divides the noise of a
    pixel by that."""
    s = native_scale
    if values.get("downscale", 1) < 0.95 * s:
        h, w = image.shape[:2]
        f = values["downscale"] / s
        small = cv2.resize(image, (max(1, round(w * f)), max(1, round(h * f))),
                           interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    if values.get("blur", 0) * s > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), values["blur"] * s)
    if values.get("motion_blur", 0) * s > 1.2:
        image = cv2.filter2D(image, -1, motion_kernel(values["motion_blur"] * s,
                                                      rng.uniform(0, math.pi)))
    image = tone(image, values)
    if values.get("saturation", 1) != 1:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, values["saturation"], grey, 1 - values["saturation"], 0)
    if values.get("noise", 0) * s > 0.3:
        has_one = is_grey(image) and rng.random() < values.get("grey_noise", ShiftPolicy.grey_noise)
        planes = [noise_plane(image.shape[:2], rng) for _ in range(1 if has_one else 3)] * (
            3 if has_one else 1
        )
        image = cv2.add(image, cv2.merge(planes) * np.float32(values["noise"] * s), dtype=cv2.CV_8U)
    if values.get("grain", 0) > 0.3:
        h, w = image.shape[:2]
        plane = noise_plane((round(h / s), round(w / s)), rng,
                            GRAIN_PX) * np.float32(values["grain"])
        plane = cv2.resize(plane, (w, h), interpolation=cv2.INTER_AREA) if s < 1 else plane
        image = cv2.add(image, cv2.merge([plane] * 3), dtype=cv2.CV_8U)
    return image


def is_grey(image):
    """Whether the channels are equal, by every eighth row and column."""
    some = image[::8, ::8]
    return bool((some[..., :2] == some[..., 1:]).all())


@functools.cache
def noise_source(sigma_px):
    """(N, N) float32 normal noise of standard deviation 1, blurred by `sigma_px`: drawn once, as
    drawing it takes longest."""
    plane = np.random.default_rng(0).standard_normal((NOISE_SIDE_PX, NOISE_SIDE_PX), np.float32)
    plane = cv2.GaussianBlur(plane, (0, 0), sigma_px) if sigma_px else plane
    return plane / plane.std()


def noise_plane(shape, rng, sigma_px=0.0):
    """An (H, W) piece of the noise from a random place; a larger one repeats it."""
    source = noise_source(sigma_px)
    half = NOISE_SIDE_PX // 2
    more = [max(0, side - half) for side in shape]
    if any(more):
        source = cv2.copyMakeBorder(source, 0, more[0], 0, more[1], cv2.BORDER_WRAP)
    y, x = rng.integers(half, size=2)
    return source[y:y + shape[0], x:x + shape[1]]


def motion_kernel(length_px, angle):
    """A line of that length through the centre, weights summing to 1."""
    half = (length_px - 1) / 2
    size = 2 * math.ceil(half) + 1
    kernel = np.zeros((size, size), np.float32)
    steps = np.linspace(-half, half, 4 * size)
    x = steps * math.cos(angle) + size // 2
    y = steps * math.sin(angle) + size // 2
    np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1)
    return kernel / kernel.sum()


def tone(image, values):
    """Gamma, contrast, brightness and colour cast as one table per channel."""
    brightness = values.get("brightness", 1)
    contrast = values.get("contrast", 1)
    gamma = values.get("gamma", 1)
    cast = values.get("colour_cast", 1)
    if brightness == contrast == gamma == cast == 1:
        return image
    table = 255 * (np.arange(256) / 255) ** gamma
    mean = np.mean(cv2.mean(image)[:3])
    table = ((table - mean) * contrast + mean) * brightness
    table = table[:, None] * np.array([cast, 1, 1 / cast])
    return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None])


def turn(image, symmetry):
    """One of the symmetries of the square; None is the identity."""
    return TURNS[symmetry](image) if symmetry else image


TURNS = {     # by OpenCV, five times as fast as a contiguous copy of numpy's view
    "flip_horizontal": lambda x: cv2.flip(x, 1), "flip_vertical": lambda x: cv2.flip(x, 0),
    "rotate_180": lambda x: cv2.rotate(x, cv2.ROTATE_180), "transpose": cv2.transpose,
    "rotate_90": lambda x: cv2.rotate(x, cv2.ROTATE_90_CLOCKWISE),
    "rotate_270": lambda x: cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE),
    "transverse": lambda x: cv2.rotate(cv2.transpose(x), cv2.ROTATE_180)}


def geometric(image, values, rng):
    """Rotation, scale, shift and perspective in the frame as one warp."""
    if not set(GEOMETRY) & values.keys():
        return image
    h, w = image.shape[:2]
    angle = values.get("rotate", 0)
    scale = values.get("scale", 1)
    matrix = np.eye(3)
    out_w = w
    out_h = h
    if values.get("expand") and angle:
        a = math.radians(angle)
        wide = h * abs(math.sin(a)) + w * abs(math.cos(a))
        high = h * abs(math.cos(a)) + w * abs(math.sin(a))
        fit = max(h, w) / max(wide, high)
        out_w = round(wide * fit)
        out_h = round(high * fit)
        scale = scale * fit
    matrix[:2] = cv2.getRotationMatrix2D((w / 2 - 0.5, h / 2 - 0.5), angle, scale)
    matrix[:2, 2] += values.get("shift", 0) * rng.uniform(-1, 1, 2) * (w,
                                                                       h) + np.array([out_w - w,
                                                                                      out_h
                                                                                      - h]) / 2
    if "perspective" in values:
        corners = np.array([[0, 0], [out_w, 0], [out_w, out_h], [0, out_h]], np.float32)
        moved = corners + values["perspective"] * rng.uniform(-1, 1, (4, 2)) * (out_w, out_h)
        matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32)) @ matrix
    fill = values.get("fill", "border")
    border = cv2.BORDER_REFLECT_101 if fill == "reflect" else cv2.BORDER_CONSTANT
    how = {"flags": cv2.INTER_LINEAR, "borderMode": border, "borderValue": fill_colour(image, fill)}
    if "perspective" in values:
        return cv2.warpPerspective(image, matrix, (out_w, out_h), **how)
    return cv2.warpAffine(image, matrix[:2], (out_w, out_h), **how)


def fill_colour(image, fill):
    if fill in ("white", "black"):
        return (255,) * 3 if fill == "white" else (0,) * 3
    outline = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return np.median(outline, axis=0).tolist()


def compress(image, quality, native_scale=1.0):
    """JPEG there and back; on a reduced image the artefacts are averaged, so the quality is milder.
    """
    quality = max(1, round(100 - (100 - quality) * native_scale))
    coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                         [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)
