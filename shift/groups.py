"""Which classes are augmented alike: by how their images look, and by how few there are.

    looks = find_looks(images, labels, n_classes)                # ("document", "photo", ..), one per class
    groups = make_groups(classes, counts, looks, "auto")         # ClassGroups that share out all classes

A document is thin strokes on an even ground; everything else is a photo. A class has the look of
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
# a stroke is at least this much darker (or lighter) than the ground that closes over it
STROKE_LEVELS = 24
STROKE_SHARE = 0.04        # of a document's pixels lie on strokes, at least
EVEN_SHARE = 0.5           # of a document's pixels lie on even ground, at least
# a class with fewer images than this share of the median class is a minority
MINORITY_SHARE = 0.6


def is_document(image):
    """Whether an (H, W, 3) uint8 image is mostly thin strokes on an even ground: text, tables,
    codes, drawings."""
    strokes, even = stroke_and_ground(image)
    return strokes >= STROKE_SHARE and even >= EVEN_SHARE


def stroke_and_ground(image):
    """(share of pixels on thin strokes, share of pixels on even ground), each 0..1."""
    scale = SIDE_PX / max(image.shape)
    grey = cv2.cvtColor(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA),
                        cv2.COLOR_RGB2GRAY)
    kernel = np.ones((9, 9), np.uint8)
    closed = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, kernel)
    opened = cv2.morphologyEx(grey, cv2.MORPH_OPEN, kernel)
    dark = cv2.subtract(closed, grey) > STROKE_LEVELS
    light = cv2.subtract(grey, opened) > STROKE_LEVELS
    ground = cv2.morphologyEx(closed if dark.mean() >= light.mean() else opened, cv2.MORPH_GRADIENT,
                              kernel)
    return max(dark.mean(), light.mean()), (ground <= STROKE_LEVELS).mean()


def find_styles(images, labels, n_classes, workers=2):
    """(C,) "document" or "photo": the look of most images of each class; of most images where a
    class has none."""
    votes = np.array(parallel_map(is_document, images, workers), dtype=float)
    labels = np.asarray(labels)
    usual = 2 * votes.sum() >= len(votes)
    shares = [votes[labels == c].mean() if (labels == c).any() else float(usual)
              for c in range(n_classes)]
    return tuple("document" if share >= 0.5 else "photo" for share in shares)


def minorities(counts):
    """(C,) bool: classes with far fewer images than the median class."""
    counts = np.asarray(counts)
    return counts < MINORITY_SHARE * np.median(counts[counts > 0]) if (counts
                                                                       > 0).any() else counts > 0


def named_classes(setting, classes):
    """{group name: classes} that augment.groups sets by hand. Raises UserError for a class that the
    contest lacks."""
    by_hand = groups_by_hand(setting)
    if unknown := [c for named in by_hand.values() for c in named if c not in classes]:
        raise UserError(
            f"augment.groups must name classes of the contest, got {first_few(unknown)}; its "
            f"{len(classes)} classes are {first_few(classes, 20)}")
    return by_hand


def make_groups(classes, counts, looks, setting):
    """The ClassGroups of `setting` (augment.groups): each class is in exactly one. looks: of
    `find_looks`, or None with off."""
    if setting == "off":
        return (ClassGroup("all", "any", tuple(classes), int(np.sum(counts))),)
    by_hand = named_classes(setting, classes)
    look = dict(zip(classes, looks, strict=True))
    look |= {c: name for name in ("document", "photo") for c in by_hand.get(name, ())}
    few = set(by_hand["minority"] if "minority" in by_hand
              else np.array(classes)[minorities(counts)].tolist())
    members = {}
    for c, n in zip(classes, counts, strict=True):
        members.setdefault((look[c], c in few), []).append((c, int(n)))
    return tuple(
        ClassGroup(
            name + (", few images" if is_few else ""),
            name,
            tuple(c for c, _ in rows),
            sum(n for _, n in rows),
            is_few,
        )
        for (name, is_few), rows in sorted(members.items())
    )


# ---------------------------------------------------------------- what the loader calls

@dataclass(frozen=True)
class Jitter:
    """The broad standard for fine-tuning with few images: random framing as in RandomResizedCrop
    but milder (Szegedy et al., 2015), colour jitter, random erasing (Zhong et al., 2017). Values
    are half widths of uniform draws."""

    zoom: float = 0.2       # log of the scale
    stretch: float = 0.1    # log of the aspect
    rotate: float = 8.0     # degrees
    shift: float = 0.06     # share of the side
    tone: float = 0.2       # brightness, contrast and saturation, share
    erase: float = 0.25     # probability of one erased rectangle

    def times(self, factor):
        return Jitter(**{f.name: getattr(self, f.name) * factor for f in fields(self)})


JITTER = {"any": Jitter(), "document": Jitter(), "photo": Jitter()}
MINORITY_JITTER = 1.25     # few images are shown in more ways


@dataclass(frozen=True)
class ClassGroup:
    """Classes that are augmented alike; `policy`: how test images of these classes are damaged."""

    name: str
    look: str               # a key of JITTER
    classes: tuple[str, ...]
    n_images: int
    is_minority: bool = False
    policy: ShiftPolicy = field(default_factory=ShiftPolicy)

    @property
    def jitter(self):
        return JITTER[self.look].times(MINORITY_JITTER if self.is_minority else 1.0)

    def to_json(self):
        return vars(self) | {"policy": self.policy.to_json()}

    @classmethod
    def from_json(cls, values):
        return cls(**(values | {"classes": tuple(values["classes"]),
                                "policy": ShiftPolicy.from_json(values["policy"])}))


def by_class(groups, classes, make):
    """[make(group)] for each of the classes, one object per group."""
    made = {c: one for group in groups for one in [make(group)] for c in group.classes}
    return [made[c] for c in classes]
