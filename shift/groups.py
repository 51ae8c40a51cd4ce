"""Which classes are augmented alike: by the style of their images, and by how few there are.

    styles = find_styles(images, labels, n_classes)         # (C,) "document" or "photo"
    groups = make_groups(classes, counts, styles, "auto")   # ClassGroups that share out all classes

A document is thin strokes on an even ground; everything else is a photo. A class has the style of
most of its images.
"""
from dataclasses import dataclass, field, fields

import cv2
import numpy as np

from config import groups_by_hand
from shift.distortions import ShiftPolicy
from system.parallel import parallel_map
from utils import UserError, first_few

SIDE_PX = 384
STROKE_LEVELS = 24       # a stroke is at least this much darker or lighter than the ground around
STROKE_SHARE = 0.04      # of a document's pixels lie on strokes, at least
EVEN_SHARE = 0.5         # of a document's pixels lie on even ground, at least
MINORITY_SHARE = 0.6     # a minority class has fewer images than this share of the median class


def is_document(image):
    """Whether an (H, W, 3) uint8 image is mostly thin strokes on an even ground: text, tables,
    codes, drawings."""
    strokes, even = stroke_and_ground(image)
    return strokes >= STROKE_SHARE and even >= EVEN_SHARE


def stroke_and_ground(image):
    """(share of pixels on thin strokes, share of pixels on even ground), each 0..1."""
    scale = SIDE_PX / max(image.shape)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    # closed over dark strokes, opened over light ones: what is left is the ground
    kernel = np.ones((9, 9), np.uint8)
    closed = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, kernel)
    opened = cv2.morphologyEx(grey, cv2.MORPH_OPEN, kernel)
    dark = cv2.subtract(closed, grey) > STROKE_LEVELS
    light = cv2.subtract(grey, opened) > STROKE_LEVELS

    ground = closed if dark.mean() >= light.mean() else opened
    steps = cv2.morphologyEx(ground, cv2.MORPH_GRADIENT, kernel)
    return max(dark.mean(), light.mean()), (steps <= STROKE_LEVELS).mean()


def find_styles(images, labels, n_classes, workers=2):
    """(C,) "document" or "photo": the style of most images of a class, or of all if it has none."""
    votes = np.array(parallel_map(is_document, images, workers), dtype=float)
    labels = np.asarray(labels)
    overall = float(2 * votes.sum() >= len(votes))

    styles = []
    for c in range(n_classes):
        mine = votes[labels == c]
        share = mine.mean() if len(mine) else overall
        styles.append("document" if share >= 0.5 else "photo")
    return tuple(styles)


def minorities(counts):
    """(C,) bool: classes with far fewer images than the median class."""
    counts = np.asarray(counts)
    has_images = counts > 0
    if not has_images.any():
        return has_images
    return counts < MINORITY_SHARE * np.median(counts[has_images])


def named_classes(setting, classes):
    """{group name: classes} that augment.groups sets by hand.

    Raises UserError for a class that the contest lacks.
    """
    by_hand = groups_by_hand(setting)
    unknown = [c for named in by_hand.values() for c in named if c not in classes]
    if unknown:
        raise UserError(
            f"augment.groups must name classes of the contest, got {first_few(unknown)}; its "
            f"{len(classes)} classes are {first_few(classes, 20)}")
    return by_hand


def make_groups(classes, counts, styles, setting):
    """The ClassGroups of `setting` (augment.groups); each class is in exactly one.

    styles: (C,) from `find_styles`; unused, and may be None, with "off".
    """
    if setting == "off":
        return (ClassGroup("all", "any", tuple(classes), int(np.sum(counts))),)

    by_hand = named_classes(setting, classes)
    style_of = dict(zip(classes, styles, strict=True))
    for style in ("document", "photo"):
        style_of |= dict.fromkeys(by_hand.get(style, ()), style)
    if "minority" in by_hand:
        few = set(by_hand["minority"])
    else:
        few = set(np.array(classes)[minorities(counts)].tolist())

    members = {}
    for c, n in zip(classes, counts, strict=True):
        members.setdefault((style_of[c], c in few), []).append((c, int(n)))

    groups = []
    for (style, is_few), rows in sorted(members.items()):
        name = f"{style}, few images" if is_few else style
        names, numbers = zip(*rows, strict=True)
        groups.append(ClassGroup(name, style, names, sum(numbers), is_few))
    return tuple(groups)


# ---------------------------------------------------------------- what the loader calls

@dataclass(frozen=True)
class Jitter:
    """The broad standard for fine-tuning with few images; values are half widths of uniform draws.

    Random framing as in RandomResizedCrop, but milder (Szegedy et al., 2015), colour jitter, random
    erasing (Zhong et al., 2017).
    """

    zoom: float = 0.2       # log of the scale
    stretch: float = 0.1    # log of the aspect
    rotate: float = 8.0     # degrees
    shift: float = 0.06     # share of the side
    tone: float = 0.2       # brightness, contrast and saturation, share
    erase: float = 0.25     # probability of one erased rectangle

    def times(self, factor):
        return Jitter(**{f.name: getattr(self, f.name) * factor for f in fields(self)})


MINORITY_JITTER = 1.25     # few images are shown in more ways


@dataclass(frozen=True)
class ClassGroup:
    """Classes augmented alike, and the policy that damages their images like test images."""

    name: str
    style: str    # any, document or photo
    classes: tuple[str, ...]
    n_images: int
    is_minority: bool = False
    policy: ShiftPolicy = field(default_factory=ShiftPolicy)

    @property
    def jitter(self):
        return Jitter().times(MINORITY_JITTER if self.is_minority else 1.0)

    def to_json(self):
        """Plain values; files call the style "look"."""
        values = {"name": self.name, "look": self.style} | vars(self)
        del values["style"]
        return values | {"policy": self.policy.to_json()}

    @classmethod
    def from_json(cls, values):
        values = values | {
            "style": values["look"],
            "classes": tuple(values["classes"]),
            "policy": ShiftPolicy.from_json(values["policy"]),
        }
        del values["look"]
        return cls(**values)


def by_class(groups, classes, make):
    """[make(group)] for each of the classes, one object per group."""
    made = {}
    for group in groups:
        made |= dict.fromkeys(group.classes, make(group))
    return [made[c] for c in classes]
