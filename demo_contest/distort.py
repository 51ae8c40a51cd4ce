"""What happens to test images, and to no train image, on their way into the contest.

`draw_distortion` draws the parameters as values and `apply` uses them, so a test can read a
thousand distortions without an image.
"""
from dataclasses import dataclass

import cv2
import numpy as np

from demo_contest.canvas import noise, rng_of

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
    darken: bool            # blend its darker pixels only
    flips: tuple            # of the other page, as in Distortion


@dataclass(frozen=True)
class Damage:
    """One pass of copying: thin ink, blur, fading, light, grain."""

    thin: float             # weight of a 3 x 3 max filter, 0 for none
    blur_px: float
    fade: float             # share of the ink that is missing
    paper: float            # target of the 80th grey percentile, by a factor of at most 1.4
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
    """All steps in the order they are applied; None or () for a step that is skipped."""

    ghost: Ghost | None
    damage: tuple
    patch: Patch | None
    flips: tuple            # transpose, horizontal, vertical
    frame: Frame | None
    jpeg_quality: int


# ---------------------------------------------------------------- parameters

def draw_distortion(rng):
    """A random Distortion, with the shares and ranges of the contest."""
    ghost = _ghost(rng) if rng.random() < GHOST_SHARE else None
    damage = ()
    if rng.random() < DAMAGE_SHARE:
        damage = (_damage(rng),)
        if rng.random() < SECOND_PASS_SHARE:
            damage += (_damage(rng, illegible=True),)
    patch = _patch(rng) if rng.random() < PATCH_SHARE else None
    flips = _flips(rng)
    frame = _frame(rng) if rng.random() < ROTATE_SHARE else None
    return Distortion(ghost, damage, patch, flips, frame, rng.randint(85, 95))


def _ghost(rng):
    weight = rng.uniform(0.05, 0.35)
    darken = rng.random() < 0.5
    return Ghost(weight, darken, _flips(rng))


def _flips(rng):
    return tuple(rng.random() < 0.5 for _ in range(3))


def _damage(rng, illegible=False):
    """One pass; the illegible second one, a copy of a copy, thins and blurs more, and fades."""
    if illegible:
        thin = rng.uniform(0.7, 1.0)
        blur_px = rng.uniform(1.5, 3.0)
        fade = rng.uniform(0.1, 0.4)
    else:
        thin = rng.uniform(0, 0.8) if rng.random() < 0.6 else 0.0
        blur_px = rng.uniform(0.5, 1.2)
        fade = 0.0
    return Damage(thin, blur_px, fade, rng.uniform(203, 230), rng.uniform(6, 10),
                  rng.uniform(0.7, 1.5), rng.getrandbits(32))


def _patch(rng):
    width = rng.uniform(0.2, 0.5)
    height = rng.uniform(0.2, 0.5)
    box = (rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height)
    brightness = rng.uniform(0.6, 1.4) if rng.random() < 0.5 else None
    return Patch(box, brightness)


def _frame(rng):
    degrees = rng.uniform(-15, 15)
    if rng.random() < LARGE_ANGLE_SHARE:
        degrees = rng.choice((-1, 1)) * rng.uniform(15, 35)
    shift = (rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06))
    return Frame(degrees, shift, rng.uniform(0.95, 1.10))


# ---------------------------------------------------------------- images

def needs_other(distortion):
    """Whether the distortion uses a second image."""
    patch = distortion.patch
    return distortion.ghost is not None or (patch is not None and patch.brightness is None)


def apply(distortion, image, other=None):
    """The distorted image, uint8 (H, W, 3) or, transposed, (W, H, 3); JPEG comes with the file."""
    if distortion.ghost:
        image = _add_ghost(distortion.ghost, image, other)
    for damage in distortion.damage:
        image = _copy_badly(damage, image)
    if distortion.patch:
        image = _add_patch(distortion.patch, image, other)
    image = flipped(image, distortion.flips)
    if distortion.frame:
        image = _move(distortion.frame, image)
    return image


def flipped(image, flips):
    """The image after flips (transpose, horizontal, vertical)."""
    transpose, horizontal, vertical = flips
    if transpose:
        image = cv2.transpose(image)
    if horizontal:
        image = cv2.flip(image, 1)
    if vertical:
        image = cv2.flip(image, 0)
    return image


def _like(other, image):
    """The other image at the size of `image`."""
    return cv2.resize(other, image.shape[1::-1], interpolation=cv2.INTER_AREA)


def _add_ghost(ghost, image, other):
    other = _like(flipped(other, ghost.flips), image)
    if ghost.darken:
        other = cv2.min(image, other)
    return cv2.addWeighted(image, 1 - ghost.weight, other, ghost.weight, 0)


def _copy_badly(damage, image):
    height, width = image.shape[:2]
    if damage.thin:
        lightest = cv2.dilate(image, np.ones((3, 3), np.uint8))
        image = cv2.addWeighted(image, 1 - damage.thin, lightest, damage.thin, 0)
    image = cv2.GaussianBlur(image, (0, 0), damage.blur_px)
    paper = np.percentile(cv2.cvtColor(image[::3, ::3], cv2.COLOR_RGB2GRAY), 80)
    if damage.fade:
        image = cv2.convertScaleAbs(image, alpha=1 - damage.fade, beta=damage.fade * paper)

    grain = cv2.GaussianBlur(noise(rng_of(damage.seed), (height, width)), (0, 0), damage.grain_px)
    mean, deviation = cv2.meanStdDev(grain)
    # value x (1 + grain / 220): grain grows with the light, as on a copy, and black stays black
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
