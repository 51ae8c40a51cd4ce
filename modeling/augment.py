"""What happens to an image before the network sees it: damage as in the test images, random
framing, batch mixing.

    policy = ShiftPolicy((Distortion("blur", 0.5, 0.8, 2.0, "measured"),))
    group = ClassGroup("all", "any", classes, n_images=1000, policy=policy)
    augment = train_augment(config.augment, group, image_size_px=224, resize="letterbox",
                            native_scale=0.8)
    # (H, W, 3) uint8 -> (224, 224, 3) uint8
    image = augment(image, seed=7, donor=lambda seed: other_image)

All randomness follows from the seed of the call. `distort` goes in this order: damage (ghost,
resolution, blur, tone, noise), symmetry, geometry, patch, JPEG. With `geometry_first` the damage
comes after the geometry, so noise lies on the fill too. About 1 ms an image at 200 px on one core.

Letters: (H, W) an image, S the side of the network's input, B a batch.
"""
import functools
import math
import os
import random
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch

# albumentations asks the network for a newer version when imported
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from data_loader import LETTERBOX_FILL, to_square
from shift.distortions import ShiftPolicy, distort, resized_by_area, turn
from shift.groups import Jitter


@dataclass(frozen=True)
class Augment:
    """(H, W, 3) uint8 -> (S, S, 3) uint8: the policy's damage. With a jitter, random framing, tone
    and erasing follow."""

    image_size_px: int
    resize: str
    policy: ShiftPolicy = field(default_factory=ShiftPolicy)
    native_scale: float = 1.0
    jitter: Jitter | None = None
    share: float = 1.0      # of the images get the policy's damage, the others none
    whole_from: int = 0     # the epoch that has that share; it rises from none in the first

    def __call__(self, image, seed=0, donor=None, epoch=None):
        rng = np.random.default_rng([seed, 1])
        share = self.share
        if epoch is not None and epoch < self.whole_from:
            share *= epoch / self.whole_from
        if share == 1 or rng.random() < share:
            image = distort(image, self.policy, seed, donor, self.native_scale)
        if self.jitter is None:
            return to_square(image, self.image_size_px, self.resize)

        symmetries = (None, *self.policy.natural)
        image = turn(image, symmetries[rng.integers(len(symmetries))])
        image = framed(image, self.image_size_px, self.resize, self.jitter, rng)

        pipeline = jitter_pipeline(self.jitter)
        # One shared stream: after set_random_seed all transforms would draw the same numbers, and
        # albumentations ignores numpy's global seed.
        pipeline.set_random_state(rng, random.Random(int(rng.integers(2**31))))
        return pipeline(image=image)["image"]


@functools.cache
def jitter_pipeline(jitter):
    """Colour jitter and random erasing by albumentations, one pipeline per process and jitter."""
    tone = (1 - jitter.tone, 1 + jitter.tone)
    colour = A.ColorJitter(brightness=tone, contrast=tone, saturation=tone, hue=(0, 0), p=1.0)
    erasing = A.CoarseDropout(
        num_holes_range=(1, 1), hole_height_range=(0.1, 0.4), hole_width_range=(0.1, 0.4),
        fill="random_uniform", p=min(1.0, jitter.erase))
    return A.Compose([colour, erasing])


def framed(image, size_px, resize, jitter, rng):
    """`to_square` with a random zoom, stretch, rotation and shift, as one warp."""
    height, width = image.shape[:2]
    fitted_side = {"letterbox": max(height, width), "crop": min(height, width)}
    scale_x = size_px / fitted_side.get(resize, width)
    scale_y = size_px / fitted_side.get(resize, height)
    scale = np.array([scale_x, scale_y])

    # a bilinear warp that shrinks this much aliases: shrink by area first
    if min(scale) < 0.6:
        shape = [max(1, round(height * scale[1] * 1.25)), max(1, round(width * scale[0] * 1.25))]
        image = resized_by_area(image, shape)
        scale = scale * (width / shape[1], height / shape[0])
        height, width = shape

    zoom = rng.uniform(-1, 1) * jitter.zoom
    stretch = rng.uniform(-1, 1) * jitter.stretch
    angle = math.radians(rng.uniform(-1, 1) * jitter.rotate)
    shift = rng.uniform(-1, 1, 2) * jitter.shift

    side = np.exp([zoom + stretch / 2, zoom - stretch / 2])
    rotation = np.array([[math.cos(angle), math.sin(angle)],
                         [-math.sin(angle), math.cos(angle)]])
    linear = rotation @ np.diag(scale * side)
    centre = np.array([width, height]) / 2 - 0.5
    offset = size_px * (0.5 + shift) - 0.5 - linear @ centre
    how = cv2.INTER_CUBIC if np.prod(scale) > 1 else cv2.INTER_LINEAR     # as `resized` grows
    return cv2.warpAffine(image, np.column_stack([linear, offset]), (size_px, size_px),
                          flags=how, borderValue=LETTERBOX_FILL)


def train_augment(augment, group, *, image_size_px, resize, native_scale=1.0, share=1.0,
                  n_epochs=1, turns=True):
    """The training augmentation of an AugmentConfig for a ClassGroup.

    `matched`: the distortions of the group's test images, a bit wider, on a share of the images,
    then the group's jitter. The share is whole in the last of `n_epochs`, and rises to it from none
    in the first: a network that has learnt the classes from clear images learns more from damaged
    ones (curriculum learning, Bengio et al., 2009). turns: whether an image may be turned a bit.
    """
    if augment.policy == "none":
        return plain_view(image_size_px, resize)
    if augment.policy == "matched":
        policy = group.policy.widened()
    else:
        policy = ShiftPolicy(natural=group.policy.natural)
    jitter = group.jitter if turns else replace(group.jitter, rotate=0.0)
    return Augment(image_size_px, resize, policy, native_scale, jitter, share,
                   whole_from=n_epochs - 1)


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
        methods = [(self.mixup, augment.mixup_alpha), (self.cutmix, augment.cutmix_alpha)]
        self.share = augment.mix_share
        self.methods = [(method, alpha) for method, alpha in methods if alpha > 0]

    def __call__(self, batch, generator):
        """`batch`: images (B, 3, H, W), targets (B, C), weight (B,). `generator`: a torch.Generator
        on the CPU."""
        seed = int(torch.randint(2**31, (), generator=generator))
        rng = np.random.default_rng(seed)
        if not self.methods or rng.random() >= self.share:
            return batch

        method, alpha = self.methods[rng.integers(len(self.methods))]
        order = torch.from_numpy(rng.permutation(len(batch.targets))).to(batch.targets.device)
        images, kept = method(batch.images, order, rng.beta(alpha, alpha), rng)
        targets = kept * batch.targets + (1 - kept) * batch.targets[order]
        weight = kept * batch.weight + (1 - kept) * batch.weight[order]
        return batch._replace(images=images, targets=targets, weight=weight)

    @staticmethod
    def mixup(images, order, kept, rng):
        mixed = kept * images.float() + (1 - kept) * images[order].float()
        if not images.is_floating_point():
            mixed = mixed.round()
        return mixed.to(images.dtype), kept

    @staticmethod
    def cutmix(images, order, kept, rng):
        height, width = images.shape[-2:]
        half_height = height * math.sqrt(1 - kept) / 2
        half_width = width * math.sqrt(1 - kept) / 2
        y = rng.uniform(0, height)
        x = rng.uniform(0, width)
        top = int(np.clip(y - half_height, 0, height))
        bottom = int(np.clip(y + half_height, 0, height))
        left = int(np.clip(x - half_width, 0, width))
        right = int(np.clip(x + half_width, 0, width))

        images = images.clone()
        images[..., top:bottom, left:right] = images[order, ..., top:bottom, left:right]
        return images, 1 - (bottom - top) * (right - left) / (height * width)
