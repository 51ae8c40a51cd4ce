"""What happens to an image before the network sees it: distortions with units, policies made of
them, batch mixing.

    policy = ShiftPolicy((Distortion("blur", 0.5, 0.8, 2.0, "measured"),))
    group = ClassGroup("all", "any", classes, n_images=1000, policy=policy)
    augment = train_augment(config.augment, group, image_size_px=224, resize="letterbox", native_scale=0.8)
    image = augment(image, seed=7, donor=lambda seed: other_image)      # (H, W, 3) uint8 -> (224, 224, 3) uint8

Everything random follows from the seed of the call. Order of `distort`: damage (ghost, resolution,
blur, tone, noise), symmetry, geometry, patch, JPEG; or with `geometry_first` the damage after the
geometry (noise then lies on the fill too). About 1 ms an image at 200 px on one core. Letters: (H,
W) an image, S the side of the network's input, B a batch.
"""
import functools
import math
import os
import random
from dataclasses import dataclass, field

import albumentations as A
import cv2
import numpy as np
import torch

from data_loader import LETTERBOX_FILL, to_square
from shift.distortions import ShiftPolicy, distort, resized_by_area, turn
from shift.groups import Jitter

# it asks the network for a newer version when imported
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@dataclass(frozen=True)
class Augment:
    """(H, W, 3) uint8 -> (S, S, 3) uint8: the policy's damage, then, with a jitter, random framing,
    tone and erasing."""

    image_size_px: int
    resize: str
    policy: ShiftPolicy = field(default_factory=ShiftPolicy)
    native_scale: float = 1.0
    jitter: Jitter | None = None
    share: float = 1.0      # of images that the policy is for; the others go without damage

    def __call__(self, image, seed=0, donor=None):
        rng = np.random.default_rng([seed, 1])
        if self.share == 1 or rng.random() < self.share:
            image = distort(image, self.policy, seed, donor, self.native_scale)
        if self.jitter is None:
            return to_square(image, self.image_size_px, self.resize)
        natural = self.policy.natural
        image = turn(image, (None, *natural)[rng.integers(1 + len(natural))])
        image = framed(image, self.image_size_px, self.resize, self.jitter, rng)
        pipeline = jitter_pipeline(self.jitter)
        # of one stream: by set_random_seed all transforms draw the same numbers, and albumentations
        # ignores numpy's global seed
        pipeline.set_random_state(rng, random.Random(int(rng.integers(2**31))))
        return pipeline(image=image)["image"]


@functools.cache
def jitter_pipeline(jitter):
    """Colour jitter and random erasing by albumentations, one pipeline per process and jitter."""
    low = 1 - jitter.tone
    high = 1 + jitter.tone
    return A.Compose([A.ColorJitter(brightness=(low, high), contrast=(low, high),
                                    saturation=(low, high), hue=(0, 0), p=1.0),
                      A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(0.1, 0.4),
                                      hole_width_range=(0.1, 0.4), fill="random_uniform",
                                      p=min(1.0, jitter.erase))])


def framed(image, size_px, resize, jitter, rng):
    """`to_square` with a random zoom, stretch, rotation and shift, as one warp."""
    h, w = image.shape[:2]
    fit = {"letterbox": max(h, w), "crop": min(h, w)}
    scale = np.array([size_px / fit.get(resize, w), size_px / fit.get(resize, h)])
    if min(scale) < 0.6:
        shape = [max(1, round(h * scale[1] * 1.25)), max(1, round(w * scale[0] * 1.25))]
        image = resized_by_area(image, shape)
        scale = scale * (w / shape[1], h / shape[0])
        h, w = shape
    zoom, stretch, rotate, shift = (rng.uniform(-1, 1, n) * half for half, n in (
        (jitter.zoom, 1), (jitter.stretch, 1), (jitter.rotate, 1), (jitter.shift, 2)))
    a = math.radians(rotate[0])
    side = np.exp([zoom[0] + stretch[0] / 2, zoom[0] - stretch[0] / 2])
    linear = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]) @ np.diag(scale
                                                                                           * side)
    centre = np.array([w, h]) / 2 - 0.5
    offset = size_px * (0.5 + shift) - 0.5 - linear @ centre
    return cv2.warpAffine(image, np.column_stack([linear, offset]), (size_px, size_px),
                          flags=cv2.INTER_LINEAR, borderValue=LETTERBOX_FILL)


def train_augment(augment, group, *, image_size_px, resize, native_scale=1.0, share=1.0):
    """The training augmentation of an AugmentConfig for a ClassGroup; `matched` is the group's
    jitter after its test images' distortions, a bit wider, on a share of the images."""
    if augment.policy == "none":
        return plain_view(image_size_px, resize)
    policy = group.policy.widened() if augment.policy == "matched" else ShiftPolicy(
        natural=group.policy.natural)
    return Augment(image_size_px, resize, policy, native_scale, group.jitter, share)


def plain_view(image_size_px, resize):
    """Only made square: how valid and test images are seen."""
    return Augment(image_size_px, resize)


def testlike_view(shift, *, image_size_px, resize, native_scale=1.0):
    """Valid images as the test set would have them: the measured policy, nothing wider."""
    return Augment(image_size_px, resize, shift, native_scale)


# ---------------------------------------------------------------- batches

class BatchMix:
    """mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899) of a share of the batches, with soft
    targets."""

    def __init__(self, augment):
        self.share = augment.mix_share
        self.methods = [m for m in ((self.mixup, augment.mixup_alpha),
                                    (self.cutmix, augment.cutmix_alpha)) if m[1] > 0]

    def __call__(self, batch, generator):
        """`batch`: images (B, 3, H, W), targets (B, C), weight (B,); `generator`: a torch.Generator
        on the CPU."""
        seed = int(torch.randint(2**31, (), generator=generator))
        rng = np.random.default_rng(seed)
        if not self.methods or rng.random() >= self.share:
            return batch
        method, alpha = self.methods[rng.integers(len(self.methods))]
        order = torch.from_numpy(rng.permutation(len(batch.targets))).to(batch.targets.device)
        images, kept = method(batch.images, order, rng.beta(alpha, alpha), rng)
        return batch._replace(images=images,
                              targets=kept * batch.targets + (1 - kept) * batch.targets[order],
                              weight=kept * batch.weight + (1 - kept) * batch.weight[order])

    @staticmethod
    def mixup(images, order, kept, rng):
        mixed = kept * images.float() + (1 - kept) * images[order].float()
        return (mixed if images.is_floating_point() else mixed.round()).to(images.dtype), kept

    @staticmethod
    def cutmix(images, order, kept, rng):
        h, w = images.shape[-2:]
        half_h = h * math.sqrt(1 - kept) / 2
        half_w = w * math.sqrt(1 - kept) / 2
        y = rng.uniform(0, h)
        x = rng.uniform(0, w)
        top, bottom = (int(np.clip(v, 0, h)) for v in (y - half_h, y + half_h))
        left, right = (int(np.clip(v, 0, w)) for v in (x - half_w, x + half_w))
        images = images.clone()
        images[..., top:bottom, left:right] = images[order, ..., top:bottom, left:right]
        return images, 1 - (bottom - top) * (right - left) / (h * w)
