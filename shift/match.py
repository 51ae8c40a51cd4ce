"""How the unlabelled test images differ from the training images, and the augmentation that makes
the two alike.

    report = match_shift(train_paths, train_labels, test_paths, seed=42, workers=2)
    report.policy                                   # a ShiftPolicy for modeling.augment

By simulation: training images are distorted with known random values (a *bank*), and a classifier
learns to read from an image's statistics which distortion it got and how strongly. Its answers on
the test images give each distortion's probability and range, corrected by its answers on distorted
training images that it never saw (label shift estimation: arXiv 1802.03916, and by likelihood arXiv
1901.06852). What a clean set of that size could also give is dropped. Letters: n images, d
statistics, K bins of a distortion's value with bin 0 = not distorted.
"""
import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from contest.decoding import WHITE_LEVEL, decode, read_bytes
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
    UPRIGHT,
    count_orientations,
    features,
    linear_ratios,
    natural_symmetries,
    orientation_row,
    orientations_differ,
)
from shift.reading import Belief
from shift.report import LEAST_EXPLAINED, ShiftReport
from shift.search import by_style, energy_distance, search, separability, styles_of_test
from shift.traces import jpeg_quality, statistic_names
from system.log import Timer
from system.parallel import parallel_map, process_map
from utils import RunError, seed_of

FEWEST_PX = 8           # least side of a measured image: one block of a JPEG
FEWEST = 20             # images of each split, at least, to tell anything about a shift
COMPARED = 400          # images of each split for the adversarial AUC
MAX_IMAGES = 1000       # of each split that are read
MAX_ROWS = 1000         # of a round of the search, twice as many in the second
FEWEST_ROWS = 300       # of a round of the search, however little time it has
# a search with so many rows a round takes as long as the statistics of this many times as many
# images (the embedded contest on two cores: 36)
IMAGES_A_ROW = 40
TURNED_BY_MISFIT = 0.05    # of the strongest kind's gain may be what turned images seem to gain
VISIBLE_QUALITY = 70    # a JPEG of higher quality is no damage worth training on


def match_shift(train_paths, train_labels, test_paths, *, seed, workers, embed=None,
                max_images=MAX_IMAGES, rows=MAX_ROWS, classes=None, groups="off",
                white_level=WHITE_LEVEL, read=read_bytes, seconds=math.inf):
    """Measure the shift from train to test. Returns a ShiftReport; its policy distorts training
    images until they look like test images.

    About 50 s for 1,000 + 1,000 images of 336 px on two cores, however many more files there are.
    train_paths, test_paths: image files, at most `max_images` of each are read; with fewer than
    FEWEST of either only the natural symmetries are found. train_labels: (n,) numbers of `classes`,
    or any labels without `classes`. `rows`: most distorted images per round of the search, twice
    that in the second. `embed`: images -> (n, d) pretrained features, or None. `groups`: the
    setting augment.groups. `white_level`: of 16-bit images, as the audit found it. `read`: path ->
    its bytes. `seconds`: about how long it may take; with too few, rounds have fewer rows.
    """
    if classes is None:
        classes, train_labels = np.unique(train_labels, return_inverse=True)
    classes = tuple(map(str, classes))
    train_labels = np.asarray(train_labels)

    with Timer() as timer, threadpool_limits(1, user_api="blas"):
        train = load(train_paths, seed, workers, max_images, DISTORTED_PX, white_level, read)
        labels = train_labels[train.index]
        images = [shrunk(image, MEASURED_PX) for image in train.images]
        class_styles = None
        if groups != "off":
            class_styles = find_styles(images, labels, len(classes), workers)
        counts = np.bincount(train_labels, minlength=len(classes))
        report = ShiftReport(groups=make_groups(classes, counts, class_styles, groups),
                             n_train=len(train.images))
        train_style = styles_of_train(report.groups, classes, labels)
        report = with_natural(report, images, labels, train_style, embed, seed, workers)

        if min(len(test_paths), len(train.images)) >= FEWEST:
            test = load(test_paths, seed + 1, workers, max_images, MEASURED_PX, white_level, read)
            if len(test.images) >= FEWEST:
                n = min(rows, max(400, len(train.images) + len(test.images)))
                with Timer() as reading:
                    test_rows = trace_rows(test.images, workers)
                left = seconds - timer.seconds
                n = rows_in_time(n, left, reading.seconds / len(test.images))
                report = with_match(report, train, train_style, test, test_rows, embed, seed,
                                    workers, n)
                examples = {"train": [str(train_paths[i]) for i in train.index[:8]],
                            "test": [str(test_paths[i]) for i in test.index[:8]], "seed": seed}
                report = replace(report, examples=examples)
    return replace(report, seconds=timer.seconds)


def rows_in_time(n, seconds, image_seconds):
    """`n` rows a round, or as many as are searched in `seconds`, at least FEWEST_ROWS.

    image_seconds: of one image's statistics.
    """
    if seconds == math.inf:
        return n
    return min(n, max(FEWEST_ROWS, int(seconds / (IMAGES_A_ROW * image_seconds))))


def names_of_styles(groups):
    return sorted({g.style for g in groups})


def styles_of_train(groups, classes, labels):
    """(n,) int: which of `names_of_styles` each image has, by its class."""
    names = names_of_styles(groups)
    number = {c: names.index(g.style) for g in groups for c in g.classes}
    return np.array([number[c] for c in classes])[labels]


def with_natural(report, images, labels, train_style, embed, seed, workers):
    """The report with the natural symmetries of each style, and those common to all."""
    names = names_of_styles(report.groups)
    n = 240 if len(names) == 1 else 160     # images of each
    natural = {}
    for k, name in enumerate(names):
        picked = np.flatnonzero(train_style == k)
        natural[name] = natural_symmetries([images[i] for i in picked], labels[picked], embed, seed,
                                           workers, n)

    common = tuple(s for s in SYMMETRIES if all(s in own for own in natural.values()))
    groups = tuple(replace(g, policy=ShiftPolicy(natural=natural[g.style])) for g in report.groups)
    return replace(report, groups=groups, natural_symmetries=common,
                   policy=ShiftPolicy(natural=common))


def load(paths, seed, workers, most, long_side_px, white_level=WHITE_LEVEL, read=read_bytes):
    """A random Sample of at most `most` images of at most that size; broken files are left out.

    RunError for a file that cannot be read: the audit has read it, and a later start may.
    """
    def read_image(i):
        try:
            data = read(paths[i])
        except ValueError as error:
            raise RunError(f"{paths[i]} was read before, but {error} now: put it back as it was, "
                           "then run the same command again to continue") from None
        try:
            image, full, _ = decode(data, long_side_px, white_level)
        except ValueError:
            return None
        kept = thickened(shrunk(image, long_side_px))
        return kept, i, max(full) / max(kept.shape), jpeg_quality(data)

    picked = np.random.default_rng(seed).permutation(len(paths))[:most]
    loaded = [values for values in parallel_map(read_image, picked, workers) if values is not None]
    images, *columns = zip(*loaded, strict=True) if loaded else ([], [], [], [])
    return Sample(list(images), *map(np.array, columns))


def thickened(image):
    """The image, its sides stretched to at least FEWEST_PX at the size it is measured at."""
    fewest = math.ceil(FEWEST_PX * max(1.0, max(image.shape) / MEASURED_PX))
    if min(image.shape[:2]) >= fewest:
        return image
    return resized_by_area(image, [max(fewest, side) for side in image.shape[:2]])


def coupled(train_values, test_values):
    """The test value at the rank of each training value: equal if both are distributed alike."""
    rank = np.argsort(np.argsort(train_values, kind="stable"), kind="stable")
    return np.sort(test_values)[rank * len(test_values) // len(train_values)]


# ---------------------------------------------------------------- the test images

class Part(NamedTuple):
    """What was read of all test images, or of those of one style."""

    belief: Belief
    orientation: dict      # {symmetry: its share}


class Reading(NamedTuple):
    """What was read of the test images."""

    whole: Part
    of_styles: list[Part]
    grey_shares: tuple     # of grey images in train and test


def with_match(report, train, train_style, test, test_rows, embed, seed, workers, n):
    """The report with the policies, of all test images and of each group, and what they achieve.

    train_style: (n_images,) int. test_rows: (m, d) statistics of the test images.
    """
    simulated = train._replace(quality=coupled(train.quality, test.quality))
    n_styles = len(names_of_styles(report.groups))
    reading = read_test(simulated, train_style, n_styles, test, test_rows, seed, workers, n)

    # for images as measured, with the compression of test files
    of_all, measured = policies_of(reading, 1.0)
    images = compared_images(simulated, train_style, test, measured, seed, workers)
    report = with_comparison(report, images, test_rows, embed, seed, workers)

    found = kinds_in([of_all, *measured])
    if set(found) <= set(SYMMETRIES):      # which the statistics hardly show
        report = replace(report, distance_before=None, distance_after=None)
    elif (report.explained or 0.0) < LEAST_EXPLAINED:
        report = replace(report, left_out=found)
        reading = nothing_in(reading)

    # and for the original images
    native = float(np.median(train.scale))
    qualities = (train.quality, simulated.quality)
    whole, of_styles = policies_of(reading, native, qualities)
    report = replace(report, orientation=reading.whole.orientation, n_test=len(test.images))
    return with_policies(report, whole, of_styles)


def kinds_in(policies):
    """The names of the kinds in any of the policies."""
    return tuple(dict.fromkeys(d.kind for policy in policies for d in policy.distortions))


def nothing_in(reading):
    """The Reading of test images that do not differ; how files are compressed and whether images
    are grey stays."""
    nothing = Part(Belief({}), UPRIGHT)
    return reading._replace(whole=nothing, of_styles=[nothing] * len(reading.of_styles))


def trace_rows(images, workers):
    return np.array(process_map(trace_row, images, workers))


def read_test(train, train_style, n_styles, test, test_rows, seed, workers, n):
    """The Reading of the test images; its styles are alike unless they clearly differ."""
    belief, bank = search(train, test_rows, seed_of(seed, "search"), workers, n)
    test_style = None
    if len(np.unique(train_style)) > 1:
        test_style = styles_of_test(bank, train_style, test_rows, seed)
    beliefs = [belief] * n_styles
    if test_style is not None:
        beliefs = by_style(belief, bank, train_style, test_rows, test_style, seed)

    n_turned = min(8 * len(train.images), 4 * n)
    whole, own = orientations(train, train_style, test, test_style, belief, seed_of(seed, "turn"),
                              n_turned, workers)
    own = own or [whole] * n_styles
    of_styles = [Part(*values) for values in zip(beliefs, own, strict=True)]
    grey_shares = tuple(np.mean([is_grey(image) for image in s.images]) for s in (train, test))
    return Reading(Part(belief, whole), of_styles, grey_shares)


def policies_of(reading, native, qualities=None):
    """(ShiftPolicy of all test images, [ShiftPolicy of those of each style]).

    For images with sides `native` times the measured ones. qualities: (train_quality, test_quality)
    of `with_compression`, None if training images are saved like test files already.
    """
    def policy_for(part):
        policy = policy_of(part.belief, part.orientation, native)
        if qualities is not None:
            policy = with_compression(policy, *qualities)
        return with_grey_noise(policy, *reading.grey_shares)

    return policy_for(reading.whole), [policy_for(part) for part in reading.of_styles]


def compared_images(train, train_style, test, policies, seed, workers):
    """{"test", "train", "matched": at most COMPARED images}; matched: train under the policies."""
    some = [shrunk(image, MEASURED_PX) for image in train.images[:COMPARED]]
    drawn = [draw(policies[train_style[i]], np.random.default_rng(seed_of(seed, i)))
             for i in range(len(some))]
    matched = train.distorted(drawn, seed_of(seed, "matched"), lambda image: image, workers)
    return {"test": test.images[:COMPARED], "train": some, "matched": matched}


def with_comparison(report, images, test_rows, embed, seed, workers):
    """The report with the statistics of each split, and the AUC before and after matching."""
    rows = {"test": test_rows, "train": trace_rows(images["train"], workers),
            "matched": trace_rows(images["matched"], workers)}
    table = statistics_table(rows, statistic_names())

    compared = rows | {"test": test_rows[:COMPARED]}
    distances = {f"distance_{when}": energy_distance(rows[name], compared["test"])
                 for when, name in (("before", "train"), ("after", "matched"))}
    if embed is not None:
        compared = {name: np.concatenate([part, embed(images[name])], 1)
                    for name, part in compared.items()}
    return replace(report, statistics=table,
                   **distances,
                   auc_before=separability(compared["train"], compared["test"], seed, workers),
                   auc_after=separability(compared["matched"], compared["test"], seed, workers))


def with_policies(report, whole, of_styles):
    """The report with these policies, which keep its natural symmetries."""
    own = dict(zip(names_of_styles(report.groups), of_styles, strict=True))
    groups = tuple(replace(g, policy=replace(own[g.style], natural=g.policy.natural))
                   for g in report.groups)
    return replace(report, policy=replace(whole, natural=report.natural_symmetries), groups=groups)


def statistics_table(rows, names):
    """{statistic: {split: its quantiles 10, 50, 90 %; "auc": of telling train from test by it}}."""
    is_test = np.repeat([0, 1], [len(rows["train"]), len(rows["test"])])
    table = {}
    for k, name in enumerate(names):
        table[name] = {split: np.quantile(values[:, k], (0.1, 0.5, 0.9)).tolist()
                       for split, values in rows.items()}
        both = np.r_[rows["train"][:, k], rows["test"][:, k]]
        table[name]["auc"] = roc_auc_score(is_test, both)
    return table


def orientations(train, train_style, test, test_style, belief, seed, n, workers):
    """({symmetry: share} of all test images, [the same of each style]); [] unless styles differ.

    Read with a bank of training images, turned and distorted as believed. train_style: (n_images,)
    int; test_style: (m,) int or None.
    """
    rng = np.random.default_rng(seed)
    # of ten images three stay as they are, and each symmetry gets one
    y = rng.permutation(np.resize([0, 0, *range(len(ORIENTATIONS))], n))
    drawn = [draw_values(rng, belief) | {"symmetry": None if k == 0 else ORIENTATIONS[k]}
             for k in y]
    is_shaded = "shadow" in belief.kinds
    row = partial(orientation_row, is_shaded=is_shaded)
    bank = np.array(train.distorted(drawn, seed, row, workers), np.float32)
    source = np.arange(n) % len(train.images)
    test_rows = features(test.images, None, workers, is_shaded)
    ours, theirs = linear_ratios(bank, y, source, test_rows, seed)
    misfit = TURNED_BY_MISFIT * max((f.gain for f in belief.kinds.values()), default=0.0)
    whole = count_orientations(ours, theirs, y, source, seed, misfit)
    if test_style is None or not orientations_differ(theirs, test_style):
        return whole, []

    own = []
    for k in range(train_style.max() + 1):
        mine = train_style[source] == k
        share = float(np.mean(test_style == k))
        own.append(count_orientations(ours[mine], theirs[test_style == k], y[mine], source[mine],
                                      seed, misfit * share))
    return whole, own


# ---------------------------------------------------------------- policies

def with_compression(policy, train_quality, test_quality):
    """The policy with the compression in test files' headers, if it shows and train lacks it.

    train_quality, test_quality: (n,) JPEG quality of each training file, and with test files' own.
    """
    coarser = (test_quality <= VISIBLE_QUALITY) & (test_quality < train_quality - 5)
    if policy.get("jpeg") or coarser.mean() < 0.05:
        return policy
    low, high = np.quantile(test_quality[coarser], (0.02, 0.98)).tolist()
    jpeg = Distortion("jpeg", float(coarser.mean()), low, high,
                      "as the headers of the test files say")
    return replace(policy, distortions=(*policy.distortions, jpeg))


def with_grey_noise(policy, train_grey, test_grey):
    """The policy with the share of grey noise that turns the share of grey images in train into
    that in test."""
    noise = policy.get("noise")
    if not noise or not train_grey:
        return policy
    # coloured noise ungreys an image: test_grey = train_grey * (1 - p * (1 - share)), solved for
    # share
    share = np.clip(1 - (1 - test_grey / train_grey) / noise.probability, 0, 1)
    return replace(policy, grey_noise=float(share))


def policy_of(belief, orientation, native):
    """The ShiftPolicy of what was read, for images with sides `native` times the measured ones."""
    distortions = [Distortion(name, o["share"], 0, 0, "share {:.2f}..{:.2f}".format(*o["ci90"]))
                   for name, o in orientation.items() if name != "identity"]
    for f in belief.kinds.values():
        values = [as_native(f.kind, value, native) for value in (f.low, f.high)]
        low, high = np.clip(values, *DISTORTIONS[f.kind][:2]).tolist()
        distortions.append(Distortion(f.kind, float(f.probability), low, high,
                                      f"log likelihood +{f.gain:.0f}, by chance +{f.chance:.0f}"))

    blocky = float(belief.blocky) if "downscale" in belief.kinds else 0.0
    policy = ShiftPolicy(tuple(distortions), blocky=blocky)
    if not set(GEOMETRY) & set(belief.kinds):
        return policy
    return replace(
        policy,
        fill=tuple(float(x) for x in belief.fill),
        expand=float(belief.expand),
        geometry_first=float(belief.geometry_first),
    )


def as_native(kind, value, native):
    """A measured value of `kind`, for images with sides `native` times the measured ones."""
    if kind in ("blur", "motion_blur", "noise", "grain"):
        return value * native
    if kind == "impulse":
        # reducing an image by area averages its pixels: their variance is divided by their number
        return value * native**2
    if kind == "downscale":
        return value / native
    if kind == "jpeg":
        # artefacts shrink with the image: the same look at full size takes proportionally stronger
        # compression
        return 100 - (100 - value) * native
    return float(value)
