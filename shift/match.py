"""How the unlabelled test images differ from the training images, and the augmentation that makes
the two alike.

    report = match_shift(train_paths, train_labels, test_paths, seed=42, workers=2, embed=pretrained_features)
    report.policy                                   # a ShiftPolicy for modeling.augment

By simulation: training images are distorted with known random values (a *bank*); a classifier
learns to read from an image's statistics which distortion it got and how strongly; its answers on
the test images, corrected by what it answers on distorted training images it never saw (label shift
estimation: arXiv 1802.03916, and by likelihood arXiv 1901.06852), give each distortion's
probability and range. What a clean set of that size could also give is dropped. Letters: n images,
d statistics, K bins of a distortion's value with bin 0 = not distorted.
"""
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from contest.decoding import decode_bytes
from contest.pixels import shrunk
from shift.bank import DISTORTED_PX, MEASURED_PX, Sample, draw_values, trace_row
from shift.distortions import (
    DISTORTIONS,
    GEOMETRY,
    SYMMETRIES,
    Distortion,
    ShiftPolicy,
    draw,
    is_grey,
    resized_by_area,
)
from shift.groups import find_styles, make_groups
from shift.orientation import (
    ORIENTATIONS,
    count_orientations,
    features,
    linear_ratios,
    natural_symmetries,
    orientation_row,
    orientations_differ,
)
from shift.report import ShiftReport
from shift.search import by_style, search, separability, styles_of_test
from shift.traces import jpeg_quality, statistics
from system.log import Timer
from system.parallel import parallel_map, process_map
from utils import seed_of

FEWEST_PX = 8            # a side has at that size: less is no block of a JPEG
FEWEST = 20              # images a side that tell anything about a shift
COMPARED = 400           # images a side for the adversarial AUC
VISIBLE_QUALITY = 70   # a JPEG of higher quality is no damage worth training on


def match_shift(train_paths, train_labels, test_paths, *, seed, workers, embed=None,
                max_images=1000, rows=1000, classes=None, groups="off"):
    """Measure the shift from train to test and fit the policy that undoes it: about 50 s for 1,000
    + 1,000 images of 336 px on two cores, however many files there are more.

    train_paths, test_paths: image files, at most `max_images` of each are read; with fewer than
    FEWEST on a side only the natural symmetries are found. train_labels (n,): numbers of `classes`,
    or any labels where those are left out. `rows`: most distorted images per round of the search
    (twice that in the second). `embed`: images -> (n, d) pretrained features, or None. `groups`: as
    the setting augment.groups.
    """
    if classes is None:
        classes, train_labels = np.unique(train_labels, return_inverse=True)
    classes = tuple(map(str, classes))
    train_labels = np.asarray(train_labels)
    with Timer() as timer, threadpool_limits(1, user_api="blas"):
        train = load(train_paths, seed, workers, max_images, DISTORTED_PX)
        labels = train_labels[train.index]
        images = [shrunk(image, MEASURED_PX) for image in train.images]
        styles = find_styles(images, labels, len(classes), workers) if groups != "off" else None
        report = ShiftReport(groups=make_groups(classes,
                                                np.bincount(train_labels, minlength=len(classes)),
                                                styles, groups), n_train=len(train.images))
        style = styles_of_train(report.groups, classes, labels)
        report = with_natural(report, images, labels, style, embed, seed, workers)
        if min(len(test_paths), len(train.images)) >= FEWEST:
            test = load(test_paths, seed + 1, workers, max_images, MEASURED_PX)
            if len(test.images) < FEWEST:
                return replace(report, seconds=timer.seconds)
            n = min(rows, max(400, len(train.images) + len(test.images)))
            report = measured(report, train, style, test, embed, seed, workers, n)
            report = replace(report,
                             examples={"train": [str(train_paths[i]) for i in train.index[:8]],
                                       "test": [str(test_paths[i]) for i in test.index[:8]],
                                       "seed": seed})
    return replace(report, seconds=timer.seconds)


def styles_of_train(groups, classes, labels):
    """(n,) number of each image's style among the sorted styles of the groups."""
    names = sorted({g.style for g in groups})
    number = {c: names.index(g.style) for g in groups for c in g.classes}
    return np.array([number[c] for c in classes])[labels]


def with_natural(report, images, labels, style, embed, seed, workers):
    """The report with the natural symmetries of each style, and of all."""
    names = sorted({g.style for g in report.groups})
    natural = []
    for k in range(len(names)):
        rows = np.flatnonzero(style == k)
        natural.append(natural_symmetries([images[i] for i in rows], labels[rows], embed, seed,
                                          workers, n=240 if len(names) == 1 else 160))
    shared = tuple(g for g in SYMMETRIES if all(g in n for n in natural))
    groups = tuple(replace(g, policy=ShiftPolicy(natural=natural[names.index(g.style)]))
                   for g in report.groups)
    return replace(report, groups=groups, natural_symmetries=shared,
                   policy=ShiftPolicy(natural=shared))


def load(paths, seed, workers, most, long_side_px):
    """A random Sample of at most `most` images of at most that size, lines made thicker; broken
    files are left out."""
    def read(i):
        try:
            data = Path(paths[i]).read_bytes()
            image, full = decode_bytes(data, long_side_px)
        except (ValueError, OSError):
            return None
        kept = shrunk(image, long_side_px)
        fewest = math.ceil(FEWEST_PX * max(1.0, max(kept.shape) / MEASURED_PX))
        if min(kept.shape[:2]) < fewest:
            kept = resized_by_area(kept, [max(fewest, side) for side in kept.shape[:2]])
        return kept, i, max(full) / max(kept.shape), jpeg_quality(data)

    picked = np.random.default_rng(seed).permutation(len(paths))[:most]
    rows = [row for row in parallel_map(read, picked, workers) if row is not None]
    images, *columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    return Sample(list(images), *(np.array(c) for c in columns))


def coupled(ours, theirs):
    """For each of `ours` the value of `theirs` at the same rank: equal where the two are
    distributed alike."""
    rank = np.argsort(np.argsort(ours, kind="stable"), kind="stable")
    return np.sort(theirs)[rank * len(theirs) // len(ours)]


def measured(report, train, style, test, embed, seed, workers, n):
    """The report with the policy, those of the styles, and what stands for them. style: (n_images,)
    int."""
    train, own_quality = train._replace(quality=coupled(train.quality, test.quality)), train.quality
    rows = {"test": np.array(process_map(trace_row, test.images, workers))}
    found, bank = search(train, rows["test"], seed_of(seed, "search"), workers, n)
    part = styles_of_test(bank, style, rows["test"], seed) if len(np.unique(style)) > 1 else None
    each = [found] if part is None else by_style(found, bank, style, rows["test"], part, seed)
    whole, turned = orientations(train, style, test, part, found, seed_of(seed, "turn"),
                                 min(8 * len(train.images), 4 * n), workers)
    names = sorted({g.style for g in report.groups})
    native = float(np.median(train.scale))

    shares = [np.mean([is_grey(image) for image in split.images]) for split in (train, test)]

    def policies(native, quality):
        """(of all, [of each style]) with lengths in pixels of the original images divided by
        `native`."""
        both = zip(each * (len(names) // len(each)), turned * (len(names) // len(turned)),
                   strict=True)
        return [with_grey_noise(with_compression(policy_of(f, o, (), native), *quality), *shares)
                for f, o in ((found, whole), *both)]

    some = [shrunk(image, MEASURED_PX) for image in train.images[:COMPARED]]
    local = policies(1.0, (train.quality, train.quality))[1:]
    drawn = [draw(local[style[i]], np.random.default_rng(seed_of(seed, i)))
             for i in range(len(some))]
    images = {
        "train": some,
        "test": test.images[:COMPARED],
        "matched": train.distorted(drawn, seed_of(seed, "matched"), lambda image: image, workers),
    }
    for name in ("train", "matched"):
        rows[name] = np.array(process_map(trace_row, images[name], workers))
    table = statistics_table(rows, list(statistics(some[0])))
    if embed is not None:
        rows = {name: np.concatenate([rows[name][:COMPARED], embed(images[name])], 1)
                for name in rows}
    policy, *own = policies(native, (own_quality, train.quality))
    groups = tuple(replace(g, policy=replace(own[names.index(g.style)], natural=g.policy.natural))
                   for g in report.groups)
    return replace(report, policy=replace(policy, natural=report.natural_symmetries), groups=groups,
                   orientation=whole, statistics=table, n_test=len(test.images),
                   auc_before=separability(rows["train"], rows["test"][:COMPARED], seed, workers),
                   auc_after=separability(rows["matched"], rows["test"][:COMPARED], seed, workers))


def statistics_table(rows, names):
    """{statistic: {split: quantiles 10, 50, 90 %} and the AUC of telling train and test apart by it
    alone}."""
    is_test = np.repeat([0, 1], [len(rows["train"]), len(rows["test"])])
    return {name: {split: np.quantile(rows[split][:, k], (0.1, 0.5, 0.9)).tolist()
                   for split in rows} | {"auc": roc_auc_score(is_test,
                                                              np.r_[rows["train"][:, k],
                                                                    rows["test"][:, k]])} for k,
            name in enumerate(names)}


def orientations(train, style, test, part, found, seed, n, workers):
    """({symmetry: share} of all test images, [that of each style, or of all where the styles do not
    differ]).

    Read with a bank of training images turned and distorted as was found. part: (m,) style of the
    test images, or None.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.maximum(np.arange(n) % 10 - 2, 0))
    drawn = [draw_values(rng, found) | {"symmetry": None if k == 0 else ORIENTATIONS[k]} for k in y]
    bank = train.distorted(drawn, seed, orientation_row, workers)
    source = np.arange(n) % len(train.images)
    ours, theirs = linear_ratios(np.array(bank, np.float32), y, source,
                                 features(test.images, None, workers), seed)
    whole = count_orientations(ours, theirs, y, source, seed)
    if part is None or not orientations_differ(theirs, part):
        return whole, [whole]
    mine = style[source]
    return whole, [count_orientations(ours[mine == k], theirs[part == k], y[mine == k],
                                      source[mine == k], seed) for k in range(style.max() + 1)]


def with_compression(policy, ours, theirs):
    """With the compression that the test files' headers state, where the eye would see it and
    training files lack it."""
    coarser = (theirs <= VISIBLE_QUALITY) & (theirs < ours - 5)
    if policy.get("jpeg") or coarser.mean() < 0.05:
        return policy
    low, high = np.quantile(theirs[coarser], (0.02, 0.98)).tolist()
    return replace(policy, distortions=(*policy.distortions, Distortion(
        "jpeg", float(coarser.mean()), low, high, "as the headers of the test files say")))


def with_grey_noise(policy, ours, theirs):
    """With the share of grey noise that makes the share of grey training images, `ours`, that of
    grey test images."""
    noise = policy.get("noise")
    if not noise or not ours:
        return policy
    return replace(policy, grey_noise=float(np.clip(1 - (1 - theirs / ours) / noise.probability, 0,
                                                    1)))


def policy_of(found, orientation, natural, native):
    """The findings as a ShiftPolicy, of original images whose side is `native` times that of the
    measured ones."""
    as_native = dict.fromkeys(("blur", "motion_blur", "noise", "grain"),
                              lambda value: value * native) | {"downscale": lambda value: value
                                                               / native, "jpeg": lambda value: 100
                                                               - (100 - value) * native}
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
