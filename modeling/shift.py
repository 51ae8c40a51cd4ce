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

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from audit import shrunk
from data_loader import decode_bytes, process_map
from modeling.augment import (
    DISTORTIONS,
    FILLS,
    GEOMETRY,
    SYMMETRIES,
    ClassGroup,
    Distortion,
    ShiftPolicy,
    apply,
    compress,
    draw,
    is_grey,
    resized,
)
from modeling.groups import find_looks, make_groups
from modeling.metrics import mixture_weights
from modeling.orientation import (
    MIN_GAIN,
    ORIENTATIONS,
    count_orientations,
    features,
    linear_ratios,
    natural_symmetries,
    orientation_row,
    orientations_differ,
    resampled,
)
from modeling.traces import jpeg_quality, statistics
from utils import Timer, parallel_map, plain, seed_of

MEASURED_PX = 448        # long side at which images are compared
DISTORTED_PX = 768       # and at which training images are distorted, to be reduced after that as the test images are
FEWEST_PX = 8            # a side has at that size: less is no block of a JPEG
FEWEST = 20              # images a side that tell anything about a shift
COMPARED = 400           # images a side for the adversarial AUC
PURE_SHARE = 0.3   # of a bank's rows
NEARLY = 0.02      # of adversarial AUC: what the usual kind of a group, or one kind less, may be worse by and is still taken
SURE_LOOK = 0.85   # share of the bank's rows whose look must be read rightly before looks are compared
UNEXPLAINED_AUC = 0.9      # adversarial AUC after matching, above which the policy is not trusted with every training image
UNEXPLAINED_SHARE = 0.5    # of them then get it (benchmarks/RESULTS.md)
VISIBLE_QUALITY = 70   # a JPEG of higher quality is no damage worth training on


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
    "grain": axis(3, 30, 6, "noise", log=True),
    "scale": axis(0.55, 1.8, 6, "geometry", (0.92, 1.09), log=True),
    "shift": axis(0.05, 0.25, 4, "geometry"),
    "rotate": axis(-45, 45, 12, "geometry", (-2, 2)),
    "perspective": axis(0.04, 0.2, 4, "geometry"),
    "patch": axis(0.15, 0.6, 4, "patch"),
    "jpeg": axis(6, 70, 6, "jpeg", log=True),
}
# of a group, in this order: taken where another is not clearly likelier
USUAL = {"sharpness": ("blur",), "tone": ("brightness",), "geometry": ("rotate", "shift", "scale"), "noise": ("noise",)}


# ---------------------------------------------------------------- a bank of distorted training images

class Sample(NamedTuple):
    """n images of a split, read for measuring: training images of at most DISTORTED_PX a side, test of MEASURED_PX."""

    images: list
    index: np.ndarray     # (n,) which of the paths
    scale: np.ndarray     # (n,) side of the original over side of the kept image
    quality: np.ndarray   # (n,) of the JPEG compression that the file was, or is to be, saved with; 100: not a JPEG

    def distorted(self, drawn, seed, read, workers):
        """[read(image)]: image i % n under the values drawn[i], saved and reduced as test files are."""
        seeds = np.random.default_rng(seed).integers(2**31, size=len(drawn))

        def one(i):
            k = i % len(self.images)
            image = apply(self.images[k], drawn[i], np.random.default_rng(seeds[i]),
                          lambda s: self.images[s % len(self.images)])
            image = compress(image, self.quality[k], 1 / self.scale[k]) if self.quality[k] < 100 else image
            return read(shrunk(image, MEASURED_PX))

        return process_map(one, range(len(drawn)), workers)


class Bank(NamedTuple):
    """n distorted training images: what was done, to which image, and the statistics of the outcome (n, d)."""

    values: list
    source: np.ndarray
    statistics: np.ndarray
    pure: np.ndarray      # (n,) bool: drawn as the test set is believed to be, nothing tried on top

    def __add__(self, other):
        return Bank(*(a + b if isinstance(a, list) else np.concatenate([a, b]) for a, b in zip(self, other, strict=True)))


def draw_values(rng, found, kinds=(), free=0.15):
    """{kind: value} of one image: each kind as found so far, or freely for `kinds` (half the time, anywhere in its range)."""
    values = {}
    for kind, (edges, classes, _) in AXES.items():
        d = found.distortion(kind)
        u = rng.random(2)
        if kind in kinds and u[0] < free:
            if u[1] < 0.5:
                i = rng.choice(np.flatnonzero(classes))
                values[kind] = rng.uniform(edges[i], edges[i + 1])
        elif d and u[1] < d.probability:
            values[kind] = rng.uniform(d.low, d.high)
    for name, (choices, shares) in found.settings().items():
        p = np.full(len(choices), 1 / len(choices)) if kinds and rng.random() < 2 * free else shares
        values[name] = choices[rng.choice(len(choices), p=p)]
    return values


def make_bank(train, n, found, kinds, free, seed, workers):
    rng = np.random.default_rng(seed)
    pure = rng.random(n) < PURE_SHARE
    values = [draw_values(rng, found, () if p else kinds, free) for p in pure]
    rows = train.distorted(values, seed, trace_row, workers)
    return Bank(values, np.arange(n) % len(train.images), np.array(rows), pure)


def trace_row(image):
    return np.array(list(statistics(image).values()), np.float32)


def classes_of(values, kind):
    edges, classes, _ = AXES[kind]
    where = [np.searchsorted(edges, v[kind], "right") - 1 if kind in v else -1 for v in values]
    return np.array([classes[np.clip(i, 0, len(classes) - 1)] if i >= 0 else 0 for i in where])


# ---------------------------------------------------------------- reading a test set with a bank

def likelihood_ratios(rows, y, source, test, n_classes, seed, folds=2):
    """P(class | row) / P(class), up to a factor per row: (n, K) for the bank, out of fold, and (m, K) for the test rows."""
    p_bank = np.full((len(rows), n_classes), 1e-3)
    p_test = np.full((len(test), n_classes), 1e-3)
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
        shares = {name: getattr(self, name) for name in ("expand", "geometry_first")}
        return {"fill": (FILLS, self.fill), **{name: ((False, True), (1 - share, share)) for name, share in shares.items()},
                "symmetry": ((None, *SYMMETRIES), (0.125,) * 8)}


def read_kind(kind, bank, test, seed):
    y = classes_of(bank.values, kind)
    ours, theirs = likelihood_ratios(bank.statistics, y, bank.source, test, AXES[kind].classes.max() + 1, seed)
    rng = np.random.default_rng(seed)
    none = (y == 0) & bank.pure
    none = none if none.sum() > 50 else y == 0
    chance = max(fit_range(ours[resampled(bank.source, none, len(test), rng)], kind, 10, parts=1)[3] for _ in range(10))
    return Finding(kind, *fit_range(theirs, kind), max(chance, 0.0))


def read_kinds(kinds, bank, test, seed, workers):
    """{kind: Finding}."""
    return dict(zip(kinds, process_map(lambda kind: read_kind(kind, bank, test, seed), kinds, workers), strict=True))


def read_setting(name, choices, needs, bank, test, seed):
    """Shares of a setting's choices among the test rows that show it (a fill needs geometry)."""
    y = np.array([1 + choices.index(v[name]) if needs & v.keys() else 0 for v in bank.values])
    _, theirs = likelihood_ratios(bank.statistics, y, bank.source, test, len(choices) + 1, seed)
    weights = mixture_weights(theirs)[1:] + 0.01
    return tuple(weights / weights.sum())


def search(train, test, seed, workers, n, rounds=4):
    """(Found, the last Bank). Rounds of bank and reading; each bank is drawn as the round before believes the test set to be.

    The first tries much at once and finds what is plain; the second looks for single kinds on top of that, in more
    images; the next ones only for what may still be there.
    """
    found = Found({})
    kinds = list(AXES)
    bank = None
    for r in range(rounds):
        size, free = ((n, 0.3), (2 * n, 0.15), (n, 0.15))[min(r, 2)]
        new = make_bank(train, size, found, kinds, free, seed_of(seed, "bank", r), workers)
        bank = new if r < 2 else bank._replace(pure=bank.pure & False) + new
        read = read_kinds(kinds, bank, test, seed, workers)
        kept = chosen(read, found.kinds)
        kept = decided(kept, read, found, train, test, seed_of(seed, "decide", r), workers)
        before = found
        found = with_settings(Found(kept), bank, test, seed, workers)
        if set(before.kinds) == set(found.kinds) and r >= (2 if found.kinds else 1):
            break
        kinds = [kind for kind, f in read.items() if r == 0 or kind in found.kinds or f.gain > f.chance]
    return simpler(found, train, test, seed_of(seed, "simpler"), workers, n), bank


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
        kept |= {f.kind: f for f in [*old, *new[-1:]]}
    return kept


def decided(kept, read, found, train, test, seed, workers):
    """`kept`, with each newcomer of a group with a usual kind replaced by the one of the group that, simulated, is hardest
    to tell from the test rows; the usual ones first."""
    for kind in [k for k in kept if k not in found.kinds and AXES[k].group in USUAL]:
        usual = USUAL[AXES[kind].group]
        rivals = [f for f in read.values() if AXES[f.kind].group == AXES[kind].group and f.kind not in found.kinds
                  and f.holds and f.gain > 0.3 * kept[kind].gain]
        if len(rivals) < 2:
            continue
        others = {k: f for k, f in kept.items() if k != kind}
        auc = {f.kind: told_apart(replace(found, kinds=others | {f.kind: f}), train, test, seed, workers) for f in rivals}
        near = [k for k in (*usual, *auc) if k in auc and auc[k] <= min(auc.values()) + NEARLY]
        kept = others | {near[0]: read[near[0]]}
    return kept


def told_apart(found, train, test, seed, workers, n=300):
    """AUC of telling test rows from training images distorted as `found` says."""
    rng = np.random.default_rng(seed)
    drawn = [draw_values(rng, found) for _ in range(n)]
    rows = np.array(train.distorted(drawn, seed, trace_row, workers))
    return separability(rows, test[:n], seed, workers)["value"]


def simpler(found, train, test, seed, workers, n):
    """`found` without each kind that the others of its group, read anew, explain the test rows as well without."""
    limit = None
    for kind in sorted(found.kinds, key=lambda kind: found.kinds[kind].gain):
        siblings = [k for k in found.kinds if k != kind and AXES[k].group == AXES[kind].group]
        if not siblings:
            continue
        without = replace(found, kinds={k: f for k, f in found.kinds.items() if k != kind})
        bank = make_bank(train, n, without, siblings, 0.3, seed_of(seed, kind), workers)
        read = read_kinds(siblings, bank, test, seed, workers)
        without = replace(without, kinds=without.kinds | read)
        limit = limit or told_apart(found, train, test, seed, workers) + NEARLY      # of what was found first: no drift
        if all(f.holds for f in read.values()) and told_apart(without, train, test, seed, workers) <= limit:
            found = without
    return found


def with_settings(found, bank, test, seed, workers):
    """Fill, canvas and order, which only show on images with geometry."""
    shown = set(GEOMETRY) & set(found.kinds)
    if not shown:
        return found
    asked = [("fill", FILLS, shown), ("geometry_first", (False, True), shown)]
    asked += [("expand", (False, True), {"rotate"})] if "rotate" in shown else []
    shares = process_map(lambda setting: read_setting(*setting, bank, test, seed), asked, workers)
    shares = {name: share for (name, *_), share in zip(asked, shares, strict=True)}
    return replace(found, fill=shares["fill"], geometry_first=shares["geometry_first"][1],
                   expand=shares["expand"][1] if "expand" in shares else 0.0)


# ---------------------------------------------------------------- groups of classes

def looks_of_test(bank, look, test, seed):
    """(m,) the look of each test row, read with the bank; None where that is unsure. look: (n_images,) int."""
    y = look[bank.source]
    ours, theirs = likelihood_ratios(bank.statistics, y, bank.source, test, y.max() + 1, seed)
    if (ours.argmax(1) == y).mean() < SURE_LOOK:
        return None
    return (theirs * mixture_weights(theirs)).argmax(1)


def by_look(found, bank, look, test, part, seed):
    """One Found per look: `found`, but for the kinds in which the test rows of the looks clearly differ."""
    kinds = [dict(found.kinds) for _ in range(look.max() + 1)]
    for kind in found.kinds:
        for k, finding in enumerate(split_kind(kind, bank, look[bank.source], test, part, seed)):
            kinds[k].pop(kind)
            if finding.probability >= 0.05 and finding.gain > MIN_GAIN:
                kinds[k][kind] = finding
    return [replace(found, kinds=k) for k in kinds]


def split_kind(kind, bank, look, test, part, seed):
    """A Finding per look, where together they explain the test rows better than one by more than chance; else none."""
    y = classes_of(bank.values, kind)
    ours, theirs = likelihood_ratios(bank.statistics, y, bank.source, test, AXES[kind].classes.max() + 1, seed)

    def gain(ratios, part):
        fits = [fit_range(ratios[part == k], kind) for k in range(look.max() + 1)]
        return sum(f[3] for f in fits) - fit_range(ratios, kind)[3], fits

    rng = np.random.default_rng(seed)
    drawn = [resampled(bank.source, bank.pure, len(test), rng) for _ in range(5)]
    chance = max(gain(ours[rows], look[rows])[0] for rows in drawn)
    apart, fits = gain(theirs, part)
    return [Finding(kind, *f, chance) for f in fits] if apart > 2.5 * max(chance, 0.0) + MIN_GAIN else []


# ---------------------------------------------------------------- the report

def separability(one, other, seed, workers):
    """{"value", "ci90"}: AUC of telling the two sets of rows apart, cross-validated (adversarial validation)."""
    rows = np.concatenate([one, other])
    y = np.repeat([0, 1], [len(one), len(other)])

    def read(split):
        fit, held = split
        forest = ExtraTreesClassifier(100, min_samples_leaf=3, random_state=seed).fit(rows[fit], y[fit])
        return forest.predict_proba(rows[held])[:, 1]

    splits = list(StratifiedKFold(4, shuffle=True, random_state=seed).split(rows, y))
    score = np.zeros(len(y))
    for (_, held), part in zip(splits, process_map(read, splits, workers), strict=True):
        score[held] = part
    rng = np.random.default_rng(seed)
    draws = [roc_auc_score(y[i], score[i]) for i in (rng.integers(len(y), size=len(y)) for _ in range(100))]
    return {"value": roc_auc_score(y, score), "ci90": np.quantile(draws, (0.05, 0.95)).tolist()}


@dataclass(frozen=True)
class ShiftReport:
    """What was measured and found; plain values only, so that it is a JSON object as it stands."""

    policy: ShiftPolicy = field(default_factory=ShiftPolicy)
    natural_symmetries: tuple = ()       # of all groups
    groups: tuple[ClassGroup, ...] = ()  # each with the policy of its own
    auc_before: dict | None = None       # value, ci90; None where no test images were read
    auc_after: dict | None = None
    statistics: dict = field(default_factory=dict)     # name -> train, test, matched: quantiles 10, 50, 90 %; auc
    orientation: dict = field(default_factory=dict)    # symmetry -> share, ci90 among the test images
    examples: dict = field(default_factory=dict)       # train, test: paths; seed
    n_train: int = 0
    n_test: int = 0
    seconds: float = 0.0

    @property
    def is_empty(self):
        return all(policy.is_empty for policy in (self.policy, *(g.policy for g in self.groups)))

    @property
    def trained_share(self):
        """Share of the training images that the policy is for: where the test images are easily told apart after matching too,
        part of what was found may stand for something else, and doing without it is taught as well."""
        is_apart = not self.is_empty and self.auc_after is not None and self.auc_after["value"] > UNEXPLAINED_AUC
        return UNEXPLAINED_SHARE if is_apart else 1.0

    @property
    def symmetries(self):
        """Identity, the natural symmetries and those that the test images show."""
        shown = [d.kind for d in self.policy.distortions if d.kind in SYMMETRIES]
        return ("identity", *dict.fromkeys([*self.natural_symmetries, *shown]))

    def to_json(self):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain(values | {"policy": self.policy.to_json(), "groups": [g.to_json() for g in self.groups]})

    @classmethod
    def from_json(cls, values):
        return cls(**(values | {"policy": ShiftPolicy.from_json(values["policy"]),
                                "groups": tuple(ClassGroup.from_json(g) for g in values["groups"]),
                                "natural_symmetries": tuple(values["natural_symmetries"])}))

    def describe(self):
        """Sentences for the person who waits."""
        if len(self.groups) > 1:
            yield "augmentation groups: " + "; ".join(
                f"{g.name}: {len(g.classes)} classes, {g.n_images} images" for g in self.groups)
        looks = {g.look: g.policy for g in self.groups} or {"": self.policy}
        for names, symmetry in shared_items(looks, lambda policy: policy.natural):
            yield f"natural symmetry of {names or 'the training images'}: {symmetry}"
        if self.auc_before is None:
            return
        yield (f"train and test images are told apart with AUC {self.auc_before['value']:.2f}, "
               f"after matching {self.auc_after['value']:.2f} (0.5: alike)")
        for names, d in shared_items(looks, lambda policy: policy.distortions):
            values = "" if d.kind in SYMMETRIES else f" {d.low:.3g}..{d.high:.3g}"
            yield (f"test images{f' of {names}' if names else ''}: {d.kind}{values}, {d.probability:.0%} of them "
                   f"({DISTORTIONS[d.kind][2]}; {d.evidence})")
        if self.is_empty:
            yield "test images show no distortion that training images lack"


def shared_items(looks, items):
    """(the looks that have it, item) for each different item of {look: policy}; no names for what all have."""
    for item in dict.fromkeys(item for policy in looks.values() for item in items(policy)):
        having = [look for look, policy in looks.items() if item in items(policy)]
        yield ("" if len(having) == len(looks) else ", ".join(having)), item


def match_shift(train_paths, train_labels, test_paths, *, seed, workers, embed=None, max_images=1000, rows=1000,
                classes=None, groups="off"):
    """Measure the shift from train to test and fit the policy that undoes it: about 50 s for 1,000 + 1,000 images of 336 px
    on two cores, however many files there are more.

    train_paths, test_paths: image files, at most `max_images` of each are read; with fewer than FEWEST on a side only the
    natural symmetries are found. train_labels (n,): numbers of `classes`, or any labels where those are left out. `rows`:
    most distorted images per round of the search (twice that in the second). `embed`: images -> (n, d) pretrained
    features, or None. `groups`: as the setting augment.groups.
    """
    if classes is None:
        classes, train_labels = np.unique(train_labels, return_inverse=True)
    classes = tuple(map(str, classes))
    train_labels = np.asarray(train_labels)
    with Timer() as timer, threadpool_limits(1, user_api="blas"):
        train = load(train_paths, seed, workers, max_images, DISTORTED_PX)
        labels = train_labels[train.index]
        images = [shrunk(image, MEASURED_PX) for image in train.images]
        looks = find_looks(images, labels, len(classes), workers) if groups != "off" else None
        report = ShiftReport(groups=make_groups(
            classes, np.bincount(train_labels, minlength=len(classes)), looks, groups), n_train=len(train.images))
        look = looks_of_train(report.groups, classes, labels)
        report = with_natural(report, images, labels, look, embed, seed, workers)
        if min(len(test_paths), len(train.images)) >= FEWEST:
            test = load(test_paths, seed + 1, workers, max_images, MEASURED_PX)
            if len(test.images) < FEWEST:
                return replace(report, seconds=timer.seconds)
            n = min(rows, max(400, len(train.images) + len(test.images)))
            report = measured(report, train, look, test, embed, seed, workers, n)
            report = replace(report, examples={"train": [str(train_paths[i]) for i in train.index[:8]],
                                               "test": [str(test_paths[i]) for i in test.index[:8]], "seed": seed})
    return replace(report, seconds=timer.seconds)


def looks_of_train(groups, classes, labels):
    """(n,) number of each image's look among the sorted looks of the groups."""
    names = sorted({g.look for g in groups})
    number = {c: names.index(g.look) for g in groups for c in g.classes}
    return np.array([number[c] for c in classes])[labels]


def with_natural(report, images, labels, look, embed, seed, workers):
    """The report with the natural symmetries of each look, and of all."""
    names = sorted({g.look for g in report.groups})
    natural = []
    for k in range(len(names)):
        rows = np.flatnonzero(look == k)
        natural.append(natural_symmetries([images[i] for i in rows], labels[rows], embed, seed, workers,
                                          n=240 if len(names) == 1 else 160))
    shared = tuple(g for g in SYMMETRIES if all(g in n for n in natural))
    groups = tuple(replace(g, policy=ShiftPolicy(natural=natural[names.index(g.look)])) for g in report.groups)
    return replace(report, groups=groups, natural_symmetries=shared, policy=ShiftPolicy(natural=shared))


def load(paths, seed, workers, most, long_side_px):
    """A random Sample of at most `most` images of at most that size, lines made thicker; broken files are left out."""
    def read(i):
        try:
            data = Path(paths[i]).read_bytes()
            image, full = decode_bytes(data, long_side_px)
        except (ValueError, OSError):
            return None
        kept = shrunk(image, long_side_px)
        fewest = math.ceil(FEWEST_PX * max(1.0, max(kept.shape) / MEASURED_PX))
        if min(kept.shape[:2]) < fewest:
            kept = resized(kept, [max(fewest, side) for side in kept.shape[:2]])
        return kept, i, max(full) / max(kept.shape), jpeg_quality(data)

    picked = np.random.default_rng(seed).permutation(len(paths))[:most]
    rows = [row for row in parallel_map(read, picked, workers) if row is not None]
    images, *columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    return Sample(list(images), *(np.array(c) for c in columns))


def coupled(ours, theirs):
    """For each of `ours` the value of `theirs` at the same rank: equal where the two are distributed alike."""
    rank = np.argsort(np.argsort(ours, kind="stable"), kind="stable")
    return np.sort(theirs)[rank * len(theirs) // len(ours)]


def measured(report, train, look, test, embed, seed, workers, n):
    """The report with the policy, those of the looks, and what stands for them. look: (n_images,) int."""
    train, own_quality = train._replace(quality=coupled(train.quality, test.quality)), train.quality
    rows = {"test": np.array(process_map(trace_row, test.images, workers))}
    found, bank = search(train, rows["test"], seed_of(seed, "search"), workers, n)
    part = looks_of_test(bank, look, rows["test"], seed) if len(np.unique(look)) > 1 else None
    each = [found] if part is None else by_look(found, bank, look, rows["test"], part, seed)
    whole, turned = orientations(train, look, test, part, found, seed_of(seed, "turn"),
                                 min(8 * len(train.images), 4 * n), workers)
    names = sorted({g.look for g in report.groups})
    native = float(np.median(train.scale))

    shares = [np.mean([is_grey(image) for image in split.images]) for split in (train, test)]

    def policies(native, quality):
        """(of all, [of each look]) with lengths in pixels of the original images divided by `native`."""
        both = zip(each * (len(names) // len(each)), turned * (len(names) // len(turned)), strict=True)
        return [with_grey_noise(with_compression(policy_of(f, o, (), native), *quality), *shares)
                for f, o in ((found, whole), *both)]

    some = [shrunk(image, MEASURED_PX) for image in train.images[:COMPARED]]
    local = policies(1.0, (train.quality, train.quality))[1:]
    drawn = [draw(local[look[i]], np.random.default_rng(seed_of(seed, i))) for i in range(len(some))]
    images = {"train": some, "test": test.images[:COMPARED],
              "matched": train.distorted(drawn, seed_of(seed, "matched"), lambda image: image, workers)}
    for name in ("train", "matched"):
        rows[name] = np.array(process_map(trace_row, images[name], workers))
    table = statistics_table(rows, list(statistics(some[0])))
    if embed is not None:
        rows = {name: np.concatenate([rows[name][:COMPARED], embed(images[name])], 1) for name in rows}
    policy, *own = policies(native, (own_quality, train.quality))
    groups = tuple(replace(g, policy=replace(own[names.index(g.look)], natural=g.policy.natural)) for g in report.groups)
    return replace(report, policy=replace(policy, natural=report.natural_symmetries), groups=groups, orientation=whole,
                   statistics=table, n_test=len(test.images),
                   auc_before=separability(rows["train"], rows["test"][:COMPARED], seed, workers),
                   auc_after=separability(rows["matched"], rows["test"][:COMPARED], seed, workers))


def statistics_table(rows, names):
    """{statistic: {split: quantiles 10, 50, 90 %} and the AUC of telling train and test apart by it alone}."""
    is_test = np.repeat([0, 1], [len(rows["train"]), len(rows["test"])])
    return {name: {split: np.quantile(rows[split][:, k], (0.1, 0.5, 0.9)).tolist() for split in rows}
            | {"auc": roc_auc_score(is_test, np.r_[rows["train"][:, k], rows["test"][:, k]])}
            for k, name in enumerate(names)}


def orientations(train, look, test, part, found, seed, n, workers):
    """({symmetry: share} of all test images, [that of each look, or of all where the looks do not differ]).

    Read with a bank of training images turned and distorted as was found. part: (m,) look of the test images, or None.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.maximum(np.arange(n) % 10 - 2, 0))
    drawn = [draw_values(rng, found) | {"symmetry": None if k == 0 else ORIENTATIONS[k]} for k in y]
    bank = train.distorted(drawn, seed, orientation_row, workers)
    source = np.arange(n) % len(train.images)
    ours, theirs = linear_ratios(np.array(bank, np.float32), y, source, features(test.images, None, workers), seed)
    whole = count_orientations(ours, theirs, y, source, seed)
    if part is None or not orientations_differ(theirs, part):
        return whole, [whole]
    mine = look[source]
    return whole, [count_orientations(ours[mine == k], theirs[part == k], y[mine == k], source[mine == k], seed)
                   for k in range(look.max() + 1)]


def with_compression(policy, ours, theirs):
    """With the compression that the test files' headers state, where the eye would see it and training files lack it."""
    coarser = (theirs <= VISIBLE_QUALITY) & (theirs < ours - 5)
    if policy.get("jpeg") or coarser.mean() < 0.05:
        return policy
    low, high = np.quantile(theirs[coarser], (0.02, 0.98)).tolist()
    return replace(policy, distortions=(*policy.distortions, Distortion(
        "jpeg", float(coarser.mean()), low, high, "as the headers of the test files say")))


def with_grey_noise(policy, ours, theirs):
    """With the share of grey noise that makes the share of grey training images, `ours`, that of grey test images."""
    noise = policy.get("noise")
    if not noise or not ours:
        return policy
    return replace(policy, grey_noise=float(np.clip(1 - (1 - theirs / ours) / noise.probability, 0, 1)))


def policy_of(found, orientation, natural, native):
    """The findings as a ShiftPolicy, of original images whose side is `native` times that of the measured ones."""
    as_native = dict.fromkeys(("blur", "motion_blur", "noise", "grain"), lambda value: value * native) | {
        "downscale": lambda value: value / native, "jpeg": lambda value: 100 - (100 - value) * native}
    distortions = [Distortion(g, o["share"], 0, 0, f"share {o['ci90'][0]:.2f}..{o['ci90'][1]:.2f}")
                   for g, o in orientation.items() if g != "identity"]
    for f in found.kinds.values():
        values = [as_native.get(f.kind, float)(value) for value in (f.low, f.high)]
        low, high = np.clip(values, *DISTORTIONS[f.kind][:2]).tolist()
        distortions.append(Distortion(f.kind, float(f.probability), low, high,
                                      f"log likelihood +{f.gain:.0f}, by chance +{f.chance:.0f}"))
    geometry = set(GEOMETRY) & set(found.kinds)
    fill = tuple(float(x) for x in found.fill) if geometry else ShiftPolicy().fill
    return ShiftPolicy(tuple(distortions), fill, float(found.expand) if geometry else 0.0,
                       float(found.geometry_first) if geometry else 0.0, natural)
