"""Distortions with units, and policies made of them.

    policy = ShiftPolicy((Distortion("blur", 0.5, 0.8, 2.0, "measured"),))
    image = distort(image, policy, seed=7, donor=lambda seed: other_image)      # (H, W, 3) uint8

Everything random follows from the seed. Order of `distort`: damage (ghost, resolution, blur, tone,
noise), symmetry, geometry, patches, JPEG. With `geometry_first` the damage comes after the
geometry: noise then lies on the fill too.
"""
import functools
import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import cv2
import numpy as np

from utils import UserError, nearest, plain

# kind -> (lowest, highest value, unit). A value is drawn uniformly from a distortion's low..high.
# Lengths are pixels of the original image: a pixel of a copy of a tenth of its size counts as ten.
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
    "offset": (-200, 200, "added to every pixel and clipped, grey levels"),
    "gamma": (0.2, 5, "exponent on pixel / 255"),
    "colour_cast": (0.4, 2.5, "factor on red, and its inverse on blue"),
    "saturation": (0, 4, "factor on the distance from grey"),
    "shadow": (0, 0.95, "share of the light that is missing at the darkest side"),
    "noise": (0, 1000, "standard deviation of Gaussian noise, grey levels"),
    "grain": (0, 600, "standard deviation of grey noise as coarse as paper or film, grey levels"),
    "impulse": (0, 0.9, "share of the pixels that are black or white"),
    "scale": (0.2, 4, "factor on the content, in the frame"),
    "shift": (0, 0.5, "largest move per axis, share of the side, random sign"),
    "rotate": (-180, 180, "degrees counter-clockwise, in the frame"),
    "perspective": (0, 0.3, "largest move of a corner, share of the side"),
    "patch": (0, 0.9, "side of a rectangle of another image, share of the side"),
    "erase": (0, 0.9, "side of rectangles of one colour, share of the side"),
    "jpeg": (-2000, 100, "JPEG quality; below 1 where a copy, much reduced, was compressed"),
}
SYMMETRIES = tuple(DISTORTIONS)[:7]
GEOMETRY = ("rotate", "scale", "shift", "perspective")
# what geometry leaves empty is filled with; border: the median colour of the outline
FILLS = ("white", "black", "border", "reflect")
TRUSTED_SHARE = 0.08     # a symmetry on fewer test images may be a misreading
NOISE_SIDE_PX = 2048
GRAIN_PX = 1.0           # sigma that blurs noise into grain
HIDDEN_SHARE = 0.25      # of an image under small rectangles of one colour, at most
MOST_RECTANGLES = 8


@dataclass(frozen=True)
class Distortion:
    """One kind of damage: its share of the images, and its range in the unit of DISTORTIONS."""

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
    """How test images are damaged. `natural`: symmetries of the training images, no damage."""

    distortions: tuple[Distortion, ...] = ()
    fill: tuple[float, ...] = (0.0, 0.0, 1.0, 0.0)    # shares of FILLS
    # share of rotations that shrink the image to keep all of it, on a canvas of the same long side
    expand: float = 0.0
    # share of images whose ghost, blur, tone and noise come after the geometry
    geometry_first: float = 0.0
    natural: tuple[str, ...] = ()
    grey_noise: float = 0.5    # share of noisy grey images whose noise is grey too
    blocky: float = 0.0        # share of reduced images that are enlarged to squares of one colour

    def __post_init__(self):
        kinds = [d.kind for d in self.distortions]
        if len(set(kinds)) < len(kinds):
            raise UserError(f"the kinds of a ShiftPolicy must differ, got {', '.join(kinds)}")

        turned = sum(d.probability for d in self.distortions if d.kind in SYMMETRIES)
        if turned > 1 + 1e-6:
            raise UserError("the probabilities of a ShiftPolicy's symmetries must sum to at most 1")

        if len(self.fill) != len(FILLS) or min(self.fill) < 0 or abs(sum(self.fill) - 1) > 1e-6:
            raise UserError(
                f"ShiftPolicy.fill must be shares of {', '.join(FILLS)} that sum to 1, "
                f"got {self.fill}")
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
        return plain(self)

    @classmethod
    def from_json(cls, values):
        distortions = tuple(Distortion(**d) for d in values["distortions"])
        fill = tuple(values["fill"])
        natural = tuple(values["natural"])
        return cls(**(values | {"distortions": distortions, "fill": fill, "natural": natural}))

    def widened(self, share=0.15):
        """The policy for training: too strong hurts less than too weak.

        Ranges grow by `share` of their width at both ends. Counts of symmetries are uncertain, so
        these go half way to equal shares of the group that they generate.
        """
        measured = {d.kind: d.probability for d in self.distortions if d.kind in SYMMETRIES}
        group = generated({kind for kind, p in measured.items() if p >= TRUSTED_SHARE})
        even = 0.5 / (1 + len(group))
        distortions = [Distortion(kind, measured.get(kind, 0) / 2 + even, 0, 0, "evened")
                       for kind in SYMMETRIES if kind in group]

        for d in self.distortions:
            if d.kind not in SYMMETRIES:
                distortions.append(wider(d, share))
            elif d.kind not in group:
                distortions.append(replace(d, probability=d.probability / 2))
        return replace(self, distortions=tuple(distortions))


def wider(distortion, share):
    lowest, highest, _ = DISTORTIONS[distortion.kind]
    margin = share * (distortion.high - distortion.low)
    low = max(lowest, distortion.low - margin)
    high = min(highest, distortion.high + margin)
    return replace(distortion, low=low, high=high)


def generated(kinds):
    """The symmetries that combinations of `kinds` make, without the identity."""
    index = np.arange(9).reshape(3, 3, 1)
    names = {turn(index, kind).tobytes(): kind for kind in SYMMETRIES}
    found = set()
    images = [index]
    while images:
        image = images.pop()
        for kind in kinds:
            turned = turn(image, kind)
            name = names.get(turned.tobytes())     # None for the identity
            if name and name not in found:
                found.add(name)
                images.append(turned)
    return found


def draw(policy, rng):
    """{kind: value} of one image, beside the settings "symmetry", "fill", "expand",
    "geometry_first", "grey_noise" and "blocky"; {} for an image left as it is."""
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
        fill = np.searchsorted(np.cumsum(policy.fill), rng.random(), "right")
        values["fill"] = FILLS[min(fill, len(FILLS) - 1)]
        values["expand"] = rng.random() < policy.expand
        values["geometry_first"] = rng.random() < policy.geometry_first
        values["grey_noise"] = policy.grey_noise
        values["blocky"] = rng.random() < policy.blocky
    return values


def distort(image, policy, seed, donor=None, native_scale=1.0):
    """The uint8 (H, W, 3) `image` under `policy`, at its own resolution.

    `native_scale`: side of this image over that of the original (the cache keeps 1.25 x the
    network's input). Blur, noise and the rest look as if the original had been damaged and then
    reduced. `donor(seed)` gives another image for ghosts and patches; without it there are none.
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

    if values.get("geometry_first"):
        image = damage(move(image))
    else:
        image = move(damage(image))
    if "patch" in values and donor:
        image = paste(image, donor(int(rng.integers(2**31))), values["patch"], rng)
    if "erase" in values:
        image = erased(image, values["erase"], rng)
    if "jpeg" in values:
        image = compress(image, values["jpeg"], native_scale)
    return image


# ---------------------------------------------------------------- single distortions
# of (H, W, 3) uint8 images

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


def erased(image, side_share, rng):
    """Rectangles at random places in one random colour, black or white more often than others.

    Small ones come in numbers: together they hide at most HIDDEN_SHARE unless one hides more.
    """
    h, w = image.shape[:2]
    ph = max(1, round(h * side_share))
    pw = max(1, round(w * side_share))
    most = np.clip(int(HIDDEN_SHARE / max(side_share, 0.01) ** 2), 1, MOST_RECTANGLES)
    kind = rng.random()
    if kind < 0.6:
        colour = np.full(3, 0 if kind < 0.4 else 255)
    else:
        colour = rng.integers(256, size=3)

    image = image.copy()
    for _ in range(rng.integers(1, most + 1)):
        y = rng.integers(h - ph + 1)
        x = rng.integers(w - pw + 1)
        image[y:y + ph, x:x + pw] = colour
    return image


def resized_by_area(image, shape):
    return cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)


def photometric(image, values, rng, native_scale=1.0):
    """Resolution, blur, tone and noise, as if the original had been damaged and then reduced."""
    s = native_scale
    if values.get("downscale", 1) < 0.95 * s:
        image = reduced_and_enlarged(image, values["downscale"] / s, values.get("blocky"))
    if values.get("blur", 0) * s > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), values["blur"] * s)
    if values.get("motion_blur", 0) * s > 1.2:
        kernel = motion_kernel(values["motion_blur"] * s, rng.uniform(0, math.pi))
        image = cv2.filter2D(image, -1, kernel)

    image = tone(image, values)
    if values.get("saturation", 1) != 1:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, values["saturation"], grey, 1 - values["saturation"], 0)

    if values.get("shadow", 0) > 0.02:
        image = shaded(image, values["shadow"], rng)

    # reducing by area divides the noise of a pixel by 1 / native_scale
    if values.get("noise", 0) * s > 0.3:
        grey_share = values.get("grey_noise", ShiftPolicy.grey_noise)
        image = with_noise(image, values["noise"] * s, grey_share, rng)
    if values.get("grain", 0) > 0.3:
        image = with_grain(image, values["grain"], s, rng)
    if values.get("impulse", 0) > 0:
        image = with_impulses(image, values["impulse"], s, rng)
    return image


def reduced_and_enlarged(image, factor, is_blocky=False):
    h, w = image.shape[:2]
    size = (max(1, round(w * factor)), max(1, round(h * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    how = cv2.INTER_NEAREST if is_blocky else cv2.INTER_LINEAR
    return cv2.resize(small, (w, h), interpolation=how)


def shaded(image, missing, rng):
    """Light that falls off in a random direction: at once, or over up to the whole image."""
    h, w = image.shape[:2]
    angle = rng.uniform(0, 2 * math.pi)
    x = np.linspace(-0.5, 0.5, w, dtype=np.float32) * math.cos(angle)
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32) * math.sin(angle)
    width = rng.uniform(0.03, 1)
    centre = rng.uniform(-0.3, 0.3) * (1 - width)
    depth = np.clip((y[:, None] + x - centre) / width + 0.5, 0, 1)
    return cv2.multiply(image, cv2.merge([1 - missing * depth] * 3), dtype=cv2.CV_8U)


def with_noise(image, std, grey_share, rng):
    """Gaussian noise, the same in all channels of `grey_share` of the grey images."""
    shape = image.shape[:2]
    if is_grey(image) and rng.random() < grey_share:
        planes = [noise_plane(shape, rng)] * 3
    else:
        planes = [noise_plane(shape, rng) for _ in range(3)]
    return cv2.add(image, cv2.merge(planes) * np.float32(std), dtype=cv2.CV_8U)


def with_grain(image, std, native_scale, rng):
    """Grain of the original's resolution, reduced with it."""
    h, w = image.shape[:2]
    original = (round(h / native_scale), round(w / native_scale))
    plane = noise_plane(original, rng, GRAIN_PX) * np.float32(std)
    if native_scale < 1:
        plane = cv2.resize(plane, (w, h), interpolation=cv2.INTER_AREA)
    return cv2.add(image, cv2.merge([plane] * 3), dtype=cv2.CV_8U)


def with_impulses(image, share, native_scale, rng):
    """Black and white pixels of the original's resolution, reduced with it."""
    h, w = image.shape[:2]
    original = (round(h / native_scale), round(w / native_scale))
    plane = noise_plane(original, rng)
    limit = np.float32(NormalDist().inv_cdf(1 - share / 2))
    white = (plane > limit).astype(np.float32)
    black = (plane < -limit).astype(np.float32)
    if native_scale < 1:
        white = cv2.resize(white, (w, h), interpolation=cv2.INTER_AREA)
        black = cv2.resize(black, (w, h), interpolation=cv2.INTER_AREA)
    kept = cv2.multiply(image, cv2.merge([1 - white - black] * 3), dtype=cv2.CV_32F)
    return cv2.add(kept, cv2.merge([255 * white] * 3), dtype=cv2.CV_8U)


def is_grey(image):
    """Whether the channels are equal, by every eighth row and column."""
    some = image[::8, ::8]
    return bool((some[..., :2] == some[..., 1:]).all())


@functools.cache
def noise_source(sigma_px):
    """(N, N) float32 noise of standard deviation 1, blurred by `sigma_px`; drawn once, as drawing
    takes longest."""
    plane = np.random.default_rng(0).standard_normal((NOISE_SIDE_PX, NOISE_SIDE_PX), np.float32)
    if sigma_px:
        plane = cv2.GaussianBlur(plane, (0, 0), sigma_px)
    return plane / plane.std()


def noise_plane(shape, rng, sigma_px=0.0):
    """An (H, W) piece of the noise from a random place; a large piece repeats it."""
    source = noise_source(sigma_px)
    half = NOISE_SIDE_PX // 2
    more = [max(0, side - half) for side in shape]
    if any(more):
        source = cv2.copyMakeBorder(source, 0, more[0], 0, more[1], cv2.BORDER_WRAP)
    y, x = rng.integers(half, size=2)
    return source[y:y + shape[0], x:x + shape[1]]


def motion_kernel(length_px, angle):
    """A line of that length through the centre; the weights sum to 1."""
    half = (length_px - 1) / 2
    size = 2 * math.ceil(half) + 1
    kernel = np.zeros((size, size), np.float32)
    steps = np.linspace(-half, half, 4 * size)
    x = steps * math.cos(angle) + size // 2
    y = steps * math.sin(angle) + size // 2
    np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1)
    return kernel / kernel.sum()


def tone(image, values):
    """Gamma, contrast, brightness, offset and colour cast as one table per channel."""
    brightness = values.get("brightness", 1)
    contrast = values.get("contrast", 1)
    gamma = values.get("gamma", 1)
    cast = values.get("colour_cast", 1)
    offset = values.get("offset", 0)
    if brightness == contrast == gamma == cast == 1 and offset == 0:
        return image
    table = 255 * (np.arange(256) / 255) ** gamma
    mean = np.mean(cv2.mean(image)[:3])
    table = ((table - mean) * contrast + mean) * brightness + offset
    table = table[:, None] * np.array([cast, 1, 1 / cast])
    return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None])


def turn(image, symmetry):
    """One of the symmetries of the square; None is the identity."""
    return TURNS[symmetry](image) if symmetry else image


TURNS = {     # by OpenCV, five times as fast as a contiguous copy of numpy's view
    "flip_horizontal": lambda x: cv2.flip(x, 1),
    "flip_vertical": lambda x: cv2.flip(x, 0),
    "rotate_180": lambda x: cv2.rotate(x, cv2.ROTATE_180),
    "transpose": cv2.transpose,
    "rotate_90": lambda x: cv2.rotate(x, cv2.ROTATE_90_CLOCKWISE),
    "rotate_270": lambda x: cv2.rotate(x, cv2.ROTATE_90_COUNTERCLOCKWISE),
    "transverse": lambda x: cv2.rotate(cv2.transpose(x), cv2.ROTATE_180),
}


def geometric(image, values, rng):
    """Rotation, scale, shift and perspective in the frame as one warp."""
    if not set(GEOMETRY) & values.keys():
        return image
    h, w = image.shape[:2]
    out_w, out_h, matrix = framed_move(w, h, values, rng)
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


def framed_move(w, h, values, rng):
    """(width, height, (3, 3) matrix) of a rotation, scale and shift; "expand" changes the size."""
    angle = values.get("rotate", 0)
    scale = values.get("scale", 1)
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

    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D((w / 2 - 0.5, h / 2 - 0.5), angle, scale)
    shift = values.get("shift", 0) * rng.uniform(-1, 1, 2) * (w, h)
    matrix[:2, 2] += shift + np.array([out_w - w, out_h - h]) / 2
    return out_w, out_h, matrix


def fill_colour(image, fill):
    if fill == "white":
        return (255,) * 3
    if fill == "black":
        return (0,) * 3
    outline = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return np.median(outline, axis=0).tolist()


def compress(image, quality, native_scale=1.0):
    """JPEG there and back; a reduced image averages the artefacts, so its quality is milder."""
    quality = max(1, round(100 - (100 - quality) * native_scale))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)
