"""Which way up an image is: the eight symmetries of the square, counted in a test set, and those
natural to a class.

    ours, theirs = linear_ratios(bank_rows, y, source, test_rows, seed)    # rows: features(..)
    shares = count_orientations(ours, theirs, y, source, seed, misfit=0.0)
    # {"flip_vertical": {"share": 0.5, "ci90": [0.42, 0.58]}, ..}

A linear classifier learns orientations from training images turned on purpose. Its answers on the
test images are explained by the likeliest mixture (label shift by likelihood: arXiv 1901.06852), so
a weak classifier widens the interval but does not bend the share. Letters: n images, d features.
"""
import itertools
import math
from functools import partial

import cv2
import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shift.distortions import SYMMETRIES, turn
from shift.traces import border_statistics
from system.parallel import process_map

ORIENTATIONS = ("identity", *SYMMETRIES)
OF_A_CLASS = 6          # images of each class, if there are too many classes to see all
MIN_GAIN = 8.0          # log likelihood above chance
MIN_SHARE = 0.03        # of the test images have a symmetry, at least
MIN_SHARE_LOW = 0.01    # low end of that share's interval, at least: else there may be none at all
# of what images turned as it seems would gain, at least: rows that gain less are unlike any of
# them, so something else makes them look turned
LEAST_OF_TURNED = 0.75
UPRIGHT = {"identity": {"share": 1.0, "ci90": [1.0, 1.0]}}


def layout(image):
    """Where things are: signed gradient directions in 8 x 8 cells, a thumbnail and the aspect."""
    h, w = image.shape[:2]
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    g = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    dx = cv2.Sobel(g, cv2.CV_32F, 1, 0)
    dy = cv2.Sobel(g, cv2.CV_32F, 0, 1)
    magnitude, angle = cv2.cartToPolar(dx, dy)

    which = np.rint(angle * (4 / math.pi)).astype(int) % 8
    by_direction = np.where(which[..., None] == np.arange(8), magnitude[..., None], 0)
    cells = cv2.resize(by_direction, (8, 8), interpolation=cv2.INTER_AREA)
    cells = np.sqrt(cells / (cells.mean() + 1))
    thumbnail = cv2.resize(g, (8, 8), interpolation=cv2.INTER_AREA)
    thumbnail = (thumbnail - g.mean()) / (g.std() + 8)
    return np.concatenate([cells.ravel(), thumbnail.ravel(), [3 * math.log(w / h)]])


def levelled(image):
    """The image turned back by the tilt of its corner wedges, if any, and smoothed a little."""
    tilt = wedge_tilt(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    image = cv2.GaussianBlur(image, (0, 0), 0.8)
    if abs(tilt) < 2:
        return image
    h, w = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((w / 2 - 0.5, h / 2 - 0.5), -tilt, 1.0)
    return cv2.warpAffine(image, matrix, (w, h), borderMode=cv2.BORDER_REPLICATE)


def wedge_tilt(grey):
    values = border_statistics(grey)
    has_wedges = values["wedge_area"] > 3 and values["wedge_spread"] < 8
    return values["wedge_tilt"] if has_wedges else 0.0


def local_patterns(image):
    """Local binary patterns (Ojala et al., 2002) with a threshold, at two scales: strokes of text
    tell left from right and up from down."""
    g = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.int16)
    around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    rows = []
    for _ in range(2):
        if min(g.shape) < 5:
            rows.append(np.zeros(255))
            continue
        centre = g[1:-1, 1:-1] + 12
        h, w = centre.shape
        code = np.zeros((h, w), np.uint8)
        for bit, (y, x) in enumerate(around):
            above = cv2.compare(g[y:y + h, x:x + w], centre, cv2.CMP_GT)     # 0 or 255
            code = cv2.bitwise_or(code, cv2.bitwise_and(above, 1 << bit))
        histogram = cv2.calcHist([code], [0], None, [256], [0, 256]).ravel()[1:].astype(float)
        rows.append(np.sqrt(histogram / (histogram.sum() + 1)))
        g = cv2.resize(g, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.concatenate(rows)


def evenly_lit(image):
    """The image without the slope of its brightness, of which a shadow leaves nothing to read: it
    is dark on any side."""
    light = np.log(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) + 8.0)
    y, x = (np.linspace(-1, 1, n) for n in light.shape)
    down = light.mean(1) @ y / (y @ y)
    right = light.mean(0) @ x / (x @ x)
    slope = np.exp(down * y[:, None] + right * x)
    return np.clip(image / slope[..., None], 0, 255).astype(np.uint8)


def orientation_row(image, is_shaded=False):
    """What tells which way up an image is. is_shaded: it may be in a shadow."""
    image = levelled(evenly_lit(image) if is_shaded else image)
    return np.concatenate([layout(image), 6 * local_patterns(image)])


def features(images, embed, workers=2, is_shaded=False):
    """(n, d) layout and local patterns, and the pretrained features of `embed` if there is one."""
    row = partial(orientation_row, is_shaded=is_shaded)
    rows = np.array(process_map(row, images, workers), np.float32)
    if embed is None:
        return rows
    return np.concatenate([rows, np.asarray(embed(images), np.float32)], 1)


def count_orientations(ours, theirs, y, source, seed, misfit):
    """{symmetry: its share of the test rows and the 90 % interval}.

    All are upright unless the rows say otherwise by more than chance. ours (n, 8), theirs (m, 8):
    `linear_ratios` of bank and test rows; y (n,): which of ORIENTATIONS a bank row has; source
    (n,): its training image. misfit: log likelihood that turned images may seem to gain because the
    test images have more than the bank.
    """
    rng = np.random.default_rng(seed)
    shares, penalty = orientation_mixtures()

    upright = [ours[resampled(source, y == 0, len(theirs), rng)] for _ in range(10)]
    chance = max(likeliest(ratios, shares, penalty)[1] for ratios in upright)
    gain = likeliest(theirs, shares, penalty)[1]
    if gain < chance + MIN_GAIN + misfit:
        return UPRIGHT

    share = expected_shares(theirs, shares, penalty)
    m = len(theirs)
    turned = [turned_rows(ours, y, share, m, rng) for _ in range(10)]
    usual = np.mean([likeliest(ratios, shares, penalty)[1] for ratios in turned])
    if gain < LEAST_OF_TURNED * usual:
        return UPRIGHT

    drawn = [theirs[rng.integers(m, size=m)] for _ in range(50)]
    draws = [expected_shares(ratios, shares, penalty) for ratios in drawn]
    interval = np.quantile(draws, (0.05, 0.95), axis=0)

    shown = {}
    for k, name in enumerate(ORIENTATIONS):
        if share[k] >= MIN_SHARE and interval[0, k] >= MIN_SHARE_LOW:
            shown[name] = {"share": float(share[k]), "ci90": interval[:, k].tolist()}
    return shown if shown.keys() - {"identity"} else UPRIGHT


def orientations_differ(theirs, part):
    """Whether one mixture for each part of the test rows explains them better than one for all.

    part: (m,) int.
    """
    shares, penalty = orientation_mixtures()
    apart = sum(likeliest(theirs[part == k], shares, penalty)[1] for k in np.unique(part))
    return apart > likeliest(theirs, shares, penalty)[1] + 2 * MIN_GAIN


def orientation_mixtures(step=0.05):
    """(M, 8) shares of the orientations that a test set may have; (M,) penalties by free values.

    One symmetry at any share; horizontal flip, vertical flip and transpose, each independent at any
    probability (as pipelines have them); quarter turns at any shares.
    """
    grid = np.arange(0, 1 + 1e-9, step)
    coarse = grid[::2]
    upright = np.eye(8)[0]
    quarter_turns = np.eye(8)[[0, 5, 3, 6]].T
    mixtures = [(upright * (1 - p) + np.eye(8)[k] * p, 1) for k in range(1, 8) for p in grid]
    for a, b, c in itertools.product(coarse, repeat=3):
        mixtures.append((flip_shares(a, b, c), (a > 0) + (b > 0) + (c > 0)))
    for a, b, c in itertools.product(coarse, repeat=3):
        if a + b + c <= 1 + 1e-9:
            shares = quarter_turns @ (1 - a - b - c, a, b, c)
            mixtures.append((shares, (a > 0) + (b > 0) + (c > 0)))

    shares, free = zip(*mixtures, strict=True)
    return np.clip(shares, 0, 1), 2.0 * np.array(free)


def flip_shares(horizontal, vertical, transpose):
    """(8,) shares of ORIENTATIONS if a horizontal flip, a vertical flip and a transpose are drawn
    independently."""
    # none, v, h, both
    mirror = np.outer((1 - horizontal, horizontal), (1 - vertical, vertical)).ravel()
    # none, h, v, both
    after = mirror[[0, 2, 1, 3]]
    # a transpose before: none -> transpose, h -> rotate_90, v -> rotate_270, both -> transverse
    return np.concatenate([after * (1 - transpose), after * transpose])


def expected_shares(ratios, shares, penalty):
    """(8,) posterior mean over the mixtures. What images cannot decide, often a mirror, is spread,
    not guessed."""
    score = np.log(ratios @ shares.T + 1e-9).sum(0) - penalty
    weight = np.exp((score - score.max()) / 2)
    return weight @ shares / weight.sum()


def likeliest(ratios, shares, penalty):
    """(shares of the best mixture, its gain in log likelihood over all upright)."""
    upright = np.log(ratios[:, 0] + 1e-9).sum()
    score = np.log(ratios @ shares.T + 1e-9).sum(0) - upright - penalty
    best = int(np.argmax(score))
    return shares[best], float(score[best])


def resampled(source, allowed, n, rng):
    """About n of the allowed rows, drawn by whole source images, with replacement."""
    at = np.flatnonzero(allowed)
    at = at[np.argsort(source[at], kind="stable")]
    _, first = np.unique(source[at], return_index=True)
    rows = np.split(at, first[1:])
    per_source = len(at) / len(rows)
    picked = rng.choice(len(rows), max(1, round(n / per_source)))
    return np.concatenate([rows[i] for i in picked])


def turned_rows(ours, y, share, n, rng):
    """n bank rows, drawn with replacement, of which `share` (8,) have each orientation."""
    counts = rng.multinomial(n, share / share.sum())
    return np.concatenate([ours[rng.choice(np.flatnonzero(y == k), count)]
                           for k, count in enumerate(counts) if count])


def linear_ratios(rows, y, source, test, seed, folds=3):
    """As `shift.reading.likelihood_ratios`, by a linear classifier for many smooth features."""
    p_bank = np.zeros((len(rows), 8))
    p_test = np.zeros((len(test), 8))
    splits = GroupKFold(folds, shuffle=True, random_state=seed).split(rows, y, source)
    for fold, (fit, held) in enumerate(splits):
        discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)
        model = make_pipeline(StandardScaler(), discriminant).fit(rows[fit], y[fit])
        p_bank[held] = model.predict_proba(rows[held])
        p_test[fold::folds] = model.predict_proba(test[fold::folds])

    # calibrated on one half of the training images, for the other
    prior = np.bincount(y) / len(y)
    half = source % 2 == 0
    log_bank = np.log(p_bank + 1e-4)
    log_test = np.log(p_test + 1e-4)
    ours = np.empty_like(p_bank)
    theirs = np.empty_like(p_test)
    for k, part in enumerate((half, ~half)):
        model = LogisticRegression(C=1.0, max_iter=500, tol=1e-2).fit(log_bank[part], y[part])
        ours[~part] = model.predict_proba(log_bank[~part])
        theirs[k::2] = model.predict_proba(log_test[k::2])
    return ours / prior, theirs / prior


def natural_symmetries(images, labels, embed, seed, workers, n=240):
    """Symmetries under which the images of each class look like themselves: safe in augmentation.

    Two tests per symmetry, because a class may have its own mirror (b and d) or all classes one
    (text). Does the nearest neighbour within the class tell original from turned (Schilling, 1986)?
    Does a linear classifier? Few images cannot show that any is safe, so then there is none.
    """
    if len(images) < 40:
        return ()
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    picked = some_of_classes(rng.permutation(len(images)), labels, n)
    picked = picked[np.argsort(labels[picked], kind="stable")]
    y = labels[picked]
    originals = [images[i] for i in picked]
    turned = [turn(image, None if name == "identity" else name)
              for name in ORIENTATIONS for image in originals]

    rows = features(turned, embed, workers)
    components = PCA(min(60, len(picked) // 2), whiten=True, random_state=seed)
    rows = make_pipeline(StandardScaler(), components).fit_transform(rows)
    original, *others = np.split(rows, len(ORIENTATIONS))
    return tuple(name for name, mirrored in zip(SYMMETRIES, others, strict=True)
                 if is_natural(original, mirrored, y))


def some_of_classes(rows, labels, n):
    """The first n of shuffled rows.

    If that is fewer than OF_A_CLASS of each class: OF_A_CLASS of as many classes as n allows.
    """
    _, first, of = np.unique(labels[rows], return_index=True, return_inverse=True)
    if n >= OF_A_CLASS * len(first):
        return rows[:n]
    order = np.argsort(first[of], kind="stable")      # class by class, as they come first
    starts = np.searchsorted(first[of][order], first[of][order])
    return rows[order[np.arange(len(rows)) - starts < OF_A_CLASS]][:n]


def is_natural(original, mirrored, y):
    """Whether neither test tells (n, d) original rows from mirrored ones; y (n,): their classes."""
    nearer = [[0.5]]
    for c in np.unique(y):
        if (y == c).sum() > 2:
            nearer.append(nearest_share(original[y == c], mirrored[y == c]))
    nearer = np.concatenate(nearer)

    centre = {c: (original[y == c].mean(0) + mirrored[y == c].mean(0)) / 2 for c in np.unique(y)}
    middle = np.array([centre[c] for c in y])
    rows = np.concatenate([original - middle, mirrored - middle])
    side = np.repeat([0, 1], len(y))
    image = np.tile(np.arange(len(y)), 2)
    guess = cross_val_predict(LogisticRegression(C=0.01), rows, side, cv=GroupKFold(5),
                              groups=image)
    right = guess == side
    return is_chance(nearer, len(nearer)) and is_chance(right, len(y))


def is_chance(hits, n):
    """Whether a test of n images is right hardly more often than half of the time."""
    return hits.mean() < 0.5 + max(0.07, 1.4 / math.sqrt(n))


def nearest_share(original, mirrored):
    """For each row of a class: 1 if its nearest other row is an original, 0 if it is mirrored.

    Its own mirror is left out.
    """
    to_original = np.linalg.norm(original[:, None] - original[None], axis=2)
    to_mirrored = np.linalg.norm(original[:, None] - mirrored[None], axis=2)
    np.fill_diagonal(to_original, np.inf)
    np.fill_diagonal(to_mirrored, np.inf)
    return (to_original.min(1) < to_mirrored.min(1)).astype(float)
