"""What happens to a test image on its way into the contest, and to no train image.

Parameters are drawn first, as values (`draw_distortion`), and applied after (`apply`): a test can
read a thousand distortions without an image. U(a, b) is uniform.
"""
from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import noise, rng_of

GHOST_SHARE = 0.27
DAMAGE_SHARE = 0.46
SECOND_PASS_SHARE = 0.25
PATCH_SHARE = 0.04
ROTATE_SHARE = 0.78
LARGE_ANGLE_SHARE = 0.36


@dataclass(frozen=True)
class Ghost:
    """Another page that shines through."""

    weight: float
    darken: bool            # else an alpha blend
    flips: tuple            # its own, as in Distortion


@dataclass(frozen=True)
class Damage:
    """One pass of copying: thin ink, blur, fading, light, grain."""

    thin: float             # weight of a 3 x 3 max filter, 0 for none
    blur_px: float
    fade: float             # share of the ink that the copier was short of
    # the grey level that the 80th percentile is brought to, by a factor of at most 1.4
    paper: float
    grain: float            # standard deviation of the grain at level 220
    grain_px: float
    seed: int


@dataclass(frozen=True)
class Patch:
    """A rectangle from another image, or of another brightness."""

    box: tuple              # left, top, width, height as shares of the sides
    brightness: float | None


@dataclass(frozen=True)
class Frame:
    """Rotation, shift (shares of the sides) and scale about the centre, filled with white."""

    degrees: float
    shift: tuple
    scale: float


@dataclass(frozen=True)
class Distortion:
    """Everything, in the order in which it is applied; None or () for what this image is spared."""

    ghost: Ghost | None
    damage: tuple
    patch: Patch | None
    flips: tuple            # transpose, horizontal, vertical
    frame: Frame | None
    jpeg_quality: int


# ---------------------------------------------------------------- parameters

def draw_distortion(rng):
    """A random Distortion, with the shares and ranges of the contest."""
    ghost = Ghost(rng.uniform(0.05, 0.35), rng.random() < 0.5,
                  _flips(rng)) if rng.random() < GHOST_SHARE else None
    damage = ()
    if rng.random() < DAMAGE_SHARE:
        damage = (_damage(rng),)
        if rng.random() < SECOND_PASS_SHARE:
            damage += (_damage(rng, illegible=True),)
    patch = _patch(rng) if rng.random() < PATCH_SHARE else None
    flips = _flips(rng)
    frame = _frame(rng) if rng.random() < ROTATE_SHARE else None
    return Distortion(ghost, damage, patch, flips, frame, rng.randint(85, 95))


def _flips(rng):
    return tuple(rng.random() < 0.5 for _ in range(3))


def _damage(rng, illegible=False):
    """The second, illegible pass is a copy of a copy: it thins and blurs further, and its black is
    a grey."""
    thin = rng.uniform(0.7, 1.0) if illegible else rng.uniform(0,
                                                               0.8) if rng.random() < 0.6 else 0.0
    blur_px = rng.uniform(1.5, 3.0) if illegible else rng.uniform(0.5, 1.2)
    fade = rng.uniform(0.1, 0.4) if illegible else 0.0
    return Damage(thin, blur_px, fade, rng.uniform(203, 230), rng.uniform(6, 10),
                  rng.uniform(0.7, 1.5), rng.getrandbits(32))


def _patch(rng):
    width = rng.uniform(0.2, 0.5)
    height = rng.uniform(0.2, 0.5)
    box = (rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height)
    return Patch(box, rng.uniform(0.6, 1.4) if rng.random() < 0.5 else None)


def _frame(rng):
    degrees = rng.uniform(-15, 15)
    if rng.random() < LARGE_ANGLE_SHARE:
        degrees = rng.choice((-1, 1)) * rng.uniform(15, 35)
    return Frame(degrees, (rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)),
                 rng.uniform(0.95, 1.10))


# ---------------------------------------------------------------- images

def needs_other(distortion):
    """Whether a second image takes part."""
    return distortion.ghost is not None or (distortion.patch is not None
                                            and distortion.patch.brightness is None)


def apply(distortion, image, other=None):
    """The distorted image, uint8 (H, W, 3) or, transposed, (W, H, 3); all but the JPEG, which is
    the file's."""
    if distortion.ghost:
        image = _add_ghost(distortion.ghost, image, other)
    for damage in distortion.damage:
        image = _copy_badly(damage, image)
    if distortion.patch:
        image = _add_patch(distortion.patch, image, other)
    image = flipped(image, distortion.flips)
    return _move(distortion.frame, image) if distortion.frame else image


def flipped(image, flips):
    transpose, horizontal, vertical = flips
    if transpose:
        image = cv2.transpose(image)
    if horizontal or vertical:
        image = cv2.flip(image, -1 if horizontal and vertical else 1 if horizontal else 0)
    return image


def _like(other, image):
    """The other image at this one's size."""
    return cv2.resize(other, image.shape[1::-1], interpolation=cv2.INTER_AREA)


def _add_ghost(ghost, image, other):
    other = _like(flipped(other, ghost.flips), image)
    if ghost.darken:
        other = cv2.min(image, other)
    return cv2.addWeighted(image, 1 - ghost.weight, other, ghost.weight, 0)


def _copy_badly(damage, image):
    height, width = image.shape[:2]
    if damage.thin:
        image = cv2.addWeighted(image, 1 - damage.thin,
                                cv2.dilate(image, np.ones((3, 3), np.uint8)), damage.thin, 0)
    image = cv2.GaussianBlur(image, (0, 0), damage.blur_px)
    paper = np.percentile(cv2.cvtColor(image[::3, ::3], cv2.COLOR_RGB2GRAY), 80)
    if damage.fade:
        image = cv2.convertScaleAbs(image, alpha=1 - damage.fade, beta=damage.fade * paper)
    grain = cv2.GaussianBlur(noise(rng_of(damage.seed), (height, width)), (0, 0), damage.grain_px)
    mean, deviation = cv2.meanStdDev(grain)
    # value x (1 + grain / 220): grain in proportion to the light, as on a copy, where black stays
    # black.
    light = min(1.4, damage.paper / max(paper, 1))
    share = damage.grain / 220 / deviation.item()
    factor = grain.astype(np.float32) * (light * share) + light * (1 - mean.item() * share)
    return cv2.multiply(image, cv2.merge([factor] * 3), dtype=cv2.CV_8U)


def _add_patch(patch, image, other):
    height, width = image.shape[:2]
    left = int(patch.box[0] * width)
    top = int(patch.box[1] * height)
    rows = slice(top, top + int(patch.box[3] * height))
    columns = slice(left, left + int(patch.box[2] * width))
    image = image.copy()
    if patch.brightness is None:
        image[rows, columns] = _like(other, image)[rows, columns]
    else:
        image[rows, columns] = cv2.convertScaleAbs(image[rows, columns], alpha=patch.brightness)
    return image


def _move(frame, image):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), frame.degrees, frame.scale)
    matrix[:, 2] += frame.shift[0] * width, frame.shift[1] * height
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR,
                          borderValue=(255, 255, 255))
