"""Whether two images show one picture: turned, mirrored, cropped, brightened or stored again.

    pairs, is_upright = same_pictures(n, thumbnails, pixels, agreement=0.94, workers=2)

Three steps, each stricter and dearer than the one before. Candidates agree in their low
frequencies, in one of eight symmetries, after the best small move to first order. Registration
finds that move, an affine one. Two pictures are one if their details then agree everywhere.

Coordinates run from -1 to 1 in both directions, whatever the size. Letters: n images, m pairs,
P side of a square image in px.
"""
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from system.parallel import parallel_map

SYMMETRIES = 8              # 1: columns mirrored, 2: rows mirrored, 4: transposed before that
UPRIGHT = 0
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)

# candidates
FREQUENCIES = 8             # of each direction
CORRELATION = 0.75          # at least, of low frequencies
EXPLAINED = 0.9             # share of low frequencies that a small move of the other image has
MOST_CANDIDATES = 32        # of an image among the later ones: bounds time, joins chains
UNIT = 1000                 # length of low frequencies in whole numbers, whose products are exact
IMAGES_AT_ONCE = 512

# registration
REGISTERED = 0.97           # share of the variance that registration must explain, at least
BLUR_PX = 1.0
RIDGE = 1e-3
LARGEST_STEP = 0.2
LARGEST_MOVE = np.array([[0.17, 0.2, 0.16], [0.2, 0.17, 0.16]])     # crops of 5 %, turns of 5°
FREE_SHIFT = 0.03

# agreement
SIDES_PX = (48, 64, 128)    # compared at: the first if an image is smaller than the second, else
                            # the second, then the third if both are LONG_PX long
LONG_PX = 192
STRICTER = (0.6, 1.0, 0.5)     # share of the gap between the asked agreement and 1 that is left
SAME = 0.98                 # share of the variance that is the same after a change of tones
LARGEST_CONTRAST = 1.8      # of one image's details over the other's
BLOCKS = 8                  # of each direction
# standard deviations of the blurs between which details lie; the second for blurred pictures
DETAILS_PX = ((1.0, 3.0), (2.0, 6.0))
TEXTURE_LEVELS = 3.0        # below this deviation a block's details may be noise
FEWEST_BLOCKS = 4
INNER = 0.9                 # of a side: what a small crop or turn keeps
SEEN = 0.6                  # of a block, at least, or it does not count
TONES = 40
COLOUR_SHARE = 0.4          # colours may differ by this share of both and so many levels
COLOUR_LEVELS = 1.0
GREY_LEVELS = 2.0           # an image with less colour is grey: a copy without colours
PAIRS_AT_ONCE = 256


def mirrored(images, symmetry):
    """Images (..., P, P, channels) or (..., P, P) with axes 1 and 2 in one of eight symmetries."""
    if symmetry & 4:
        images = images.swapaxes(1, 2)
    if symmetry & 2:
        images = images[:, ::-1]
    if symmetry & 1:
        images = images[:, :, ::-1]
    return images


# ---------------------------------------------------------------- all three steps

def same_pictures(n, thumbnails, pixels, agreement, workers):
    """Pairs of images that show one picture: (m, 2) int64, the earlier first; (m,) bool.

    thumbnails(rows) -> uint8 (k, P, P). pixels(row) -> uint8 (H, W, 3). The mask says which pairs
    match neither mirrored nor turned by 90 or 180 degrees. The order of the images decides which of
    two is moved: give one that their places in the contest do not change.
    """
    found = candidates(n, thumbnails, workers)

    def confirmed_from(start):
        rows = found[start:start + PAIRS_AT_ONCE]
        affine, explained = roughly_registered(thumbnails, rows)
        near = (explained >= REGISTERED) & is_small(affine)
        return confirmed(pixels, rows[near], affine[near], agreement)

    starts = range(0, len(found), PAIRS_AT_ONCE)
    none = np.zeros((0, 3), np.int64)
    found = np.concatenate([none, *parallel_map(confirmed_from, starts, workers,
                                                "near-duplicates, compared")])
    pairs, first = np.unique(found[:, :2], axis=0, return_inverse=True)
    is_upright = np.zeros(len(pairs), dtype=bool)
    is_upright[first.ravel()[found[:, 2] == UPRIGHT]] = True
    return pairs, is_upright


def roughly_registered(thumbnails, rows):
    """`registered` of the thumbnails of candidates (m, 3)."""
    fixed = thumbnails(rows[:, 0]).astype(np.float32)
    moving = symmetric(thumbnails(rows[:, 1]), rows[:, 2]).astype(np.float32)
    return registered(fixed, moving, unmoved(len(rows)), steps=4)


def symmetric(images, symmetries):
    """Images (m, P, P, ...), each in its own of eight symmetries."""
    made = images.copy()
    for symmetry in range(1, SYMMETRIES):
        there = symmetries == symmetry
        made[there] = mirrored(images[there], symmetry)
    return made


def confirmed(pixels, rows, affine, agreement):
    """The candidates (m, 3) whose details, tones and colours agree, at each size that they have."""
    images = {row: pixels(row) for row in np.unique(rows[:, :2]).tolist()}

    def smaller(of):
        return np.array([min(of(images[i].shape[:2]), of(images[j].shape[:2]))
                         for i, j in rows[:, :2].tolist()], dtype=int)

    def agreeing(places, number):
        """The places, of those given, whose pairs agree at a side."""
        if not len(places):
            return places
        side = SIDES_PX[number]
        one = np.stack([square(images[i], side) for i in rows[places, 0].tolist()])
        other = np.stack([square(images[j], side) for j in rows[places, 1].tolist()])
        other = symmetric(other, rows[places, 2])
        least = 1 - STRICTER[number] * (1 - agreement)
        return places[agrees(one, other, affine[places], least)]

    is_tiny = smaller(min) < SIDES_PX[1]
    is_large = ~is_tiny & (smaller(max) >= LONG_PX)
    same_tiny = agreeing(np.flatnonzero(is_tiny), 0)
    same = agreeing(np.flatnonzero(~is_tiny), 1)
    same_large = agreeing(same[is_large[same]], 2)
    return rows[np.concatenate([same_tiny, same[~is_large[same]], same_large])]


def square(image, side):
    """float32 (P, P, 3): the whole image in a square."""
    shrinks = min(image.shape[:2]) >= side
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=way).astype(np.float32)


def agrees(one, other, affine, agreement):
    """Mask (m,) of colour images (m, P, P, 3) that are one picture, moved about so."""
    affine, _ = registered(one @ GREY, other @ GREY, affine, steps=2)
    there = moved(other, affine)
    inside = overlap(affine, one.shape[1])
    alike, is_grey = same_colours(one, there, inside)
    fixed = one @ GREY
    image = there @ GREY
    grey = is_grey[:, None, None]
    fixed = np.where(grey, toned(fixed, image, inside), toned_colours(one, there, inside) @ GREY)
    details = details_of(fixed, image, inside)
    return ((details.agreement > agreement) & (details.same >= SAME) & is_small(affine)
            & (details.contrast <= LARGEST_CONTRAST) & (alike | is_grey))


# ---------------------------------------------------------------- small moves

@cache
def window(side):
    """float32 (P, P): 1 in the centre, 0 at the edges, which crops and turns change."""
    centres = (np.arange(side) + 0.5) / side
    row = np.sin(np.pi * centres).astype(np.float32)
    return np.outer(row, row)


@cache
def coordinates(side):
    """(x, y), each float32 (P, P)."""
    centres = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    return np.meshgrid(centres, centres)


def move_fields(images):
    """float32 (m, 8, P, P): how images (m, P, P) change with contrast, gamma and six affine moves.
    """
    side = images.shape[-1]
    x, y = coordinates(side)
    weight = window(side)
    mean = (images * weight).sum((1, 2), keepdims=True) / weight.sum()
    level = images - mean
    along_y, along_x = np.gradient(images, 2 / side, axis=(1, 2))
    return np.stack([level, level * level, x * along_x, y * along_x, along_x,
                     x * along_y, y * along_y, along_y], axis=1)


# ---------------------------------------------------------------- candidates

@cache
def cosines(side):
    """float32 (FREQUENCIES, P): the lowest cosines under the window's root."""
    centres = (np.arange(side) + 0.5) / side
    waves = np.cos(np.pi * np.outer(np.arange(FREQUENCIES), centres))
    return (waves * np.sin(np.pi * centres)).astype(np.float32)


def low_frequencies(images):
    """float32 (..., 64): the lowest frequencies of (..., P, P), windowed, of length 1."""
    side = images.shape[-1]
    basis = cosines(side)
    weight = window(side)
    mean = (images * weight).sum((-2, -1), keepdims=True) / weight.sum()
    values = basis @ (images - mean) @ basis.T
    flat = values.reshape(*values.shape[:-2], -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-6)


def mirrored_frequencies(values, symmetry):
    """Low frequencies (n, 64) of the images in one of eight symmetries."""
    square = values.reshape(-1, FREQUENCIES, FREQUENCIES)
    sign = (-1.0) ** np.arange(FREQUENCIES, dtype=np.float32)
    if symmetry & 4:
        square = square.swapaxes(1, 2)
    if symmetry & 2:
        square = square * sign[:, None]
    if symmetry & 1:
        square = square * sign
    return np.ascontiguousarray(square).reshape(len(values), -1)


def candidates(n, thumbnails, workers):
    """(m, 3) int64 of n images: an image, a later one, the symmetry in which that is like the
    first. An image has at most MOST_CANDIDATES, the likest. thumbnails(rows) -> uint8 (k, P, P).
    """
    blocks = [np.arange(start, min(n, start + IMAGES_AT_ONCE))
              for start in range(0, n, IMAGES_AT_ONCE)]
    low = [np.rint(UNIT * low_frequencies(thumbnails(rows).astype(np.float32))) for rows in blocks]

    def candidates_from(number):
        images = thumbnails(blocks[number]).astype(np.float32)
        moves = low_frequencies(move_fields(images))
        basis = np.linalg.qr(moves.swapaxes(1, 2))[0].swapaxes(1, 2)
        found = [none]
        for other in range(number, len(blocks)):
            for symmetry in range(SYMMETRIES):
                values = mirrored_frequencies(low[other], symmetry)
                i, j = np.nonzero(low[number] @ values.T > CORRELATION * UNIT**2)
                later = blocks[number][i] < blocks[other][j]
                i = i[later]
                j = j[later]
                shares = explained_shares(basis, values, i, j)
                rows = np.stack([blocks[number][i], blocks[other][j], np.full(len(i), symmetry),
                                 np.rint(UNIT**2 * shares).astype(np.int64)], axis=1)
                found.append(rows[shares >= EXPLAINED])
        return likest(np.concatenate(found))

    none = np.zeros((0, 4), np.int64)
    found = parallel_map(candidates_from, range(len(blocks)), workers, "near-duplicates")
    return np.concatenate([none, *found])[:, :3]


def explained_shares(basis, values, i, j):
    """(m,): the share of values[j] (., 64) that lies in the span of basis[i] (., 8, 64)."""
    shares = np.zeros(len(i))
    for start in range(0, len(i), IMAGES_AT_ONCE * 8):
        rows = slice(start, start + IMAGES_AT_ONCE * 8)
        inside = (basis[i[rows]] @ values[j[rows], :, None])[:, :, 0]
        shares[rows] = (inside * inside).sum(1) / UNIT**2
    return shares


def likest(found):
    """Of rows (image, later image, symmetry, likeness) the MOST_CANDIDATES likest of each image."""
    found = found[np.lexsort((found[:, 2], found[:, 1], -found[:, 3], found[:, 0]))]
    first = np.searchsorted(found[:, 0], found[:, 0])
    return found[np.arange(len(found)) - first < MOST_CANDIDATES]


# ---------------------------------------------------------------- registration

def moved(images, affine):
    """float32 (m, P, P, ...): images sampled at affine (m, 2, 3) of each coordinate."""
    side = images.shape[1]
    half = side / 2
    shift = half - 0.5
    matrix = affine.copy()
    matrix[:, :, 2] = affine[:, :, 2] * half + shift - shift * affine[:, :, :2].sum(2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack([cv2.warpAffine(image, one, (side, side), flags=flags,
                                    borderMode=cv2.BORDER_REPLICATE)
                     for image, one in zip(images, matrix, strict=True)])


def blurred(images, sigma):
    return np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])


def unmoved(n):
    """float64 (n, 2, 3): affine moves that change nothing."""
    return np.tile(np.eye(2, 3), (n, 1, 1))


def registered(fixed, moving, affine, steps):
    """(affine (m, 2, 3), explained (m,)): the move after which `moving` is most like `fixed`.

    fixed, moving: float32 (m, P, P). affine: where to begin. explained: the share of the variance
    of the moved image that `fixed` has after contrast, gamma and another small move. Gauss-Newton;
    pixels that fit badly count less, such as the black corners of a turned image.
    """
    fixed = blurred(fixed, BLUR_PX)
    moving = blurred(moving, BLUR_PX)
    m, side, _ = fixed.shape
    fields = move_fields(fixed).reshape(m, 8, -1)
    weight = np.tile((window(side) ** 2).ravel(), (m, 1))
    for step in range(steps + 1):
        image = moved(moving, affine).reshape(m, -1)
        change, explained, residual = fitted_fields(fields, image, weight)
        if step == steps:
            return affine, explained
        affine = composed(affine, change)
        typical = np.sqrt((residual**2 * weight).sum(1) / weight.sum(1))[:, None] + 1e-6
        weight = (window(side) ** 2).ravel() / (1 + (residual / (1.5 * typical)) ** 2)


def fitted_fields(fields, image, weight):
    """Weighted least squares of image (m, P*P) on fields (m, 8, P*P).

    Returns the affine change (m, 2, 3), the share of variance explained (m,), the residual.
    """
    total = weight.sum(1)
    image = image - ((image * weight).sum(1) / total)[:, None]
    fields = fields - ((fields @ weight[:, :, None])[:, :, 0] / total[:, None])[:, :, None]
    weighted = fields * weight[:, None]
    normal = weighted @ fields.swapaxes(1, 2)
    scale = np.sqrt(np.diagonal(normal, axis1=1, axis2=2)) + 1e-6
    normal = normal / (scale[:, :, None] * scale[:, None]) + RIDGE * np.eye(8, dtype=np.float32)
    right = (weighted @ image[:, :, None]) / scale[:, :, None]
    factor = np.linalg.solve(normal, right)[:, :, 0] / scale

    residual = image - (factor[:, None] @ fields)[:, 0]
    variance = np.maximum((image**2 * weight).sum(1), 1e-6)
    explained = 1 - (residual**2 * weight).sum(1) / variance
    contrast = np.maximum(factor[:, :1], 1e-3)
    change = np.clip(factor[:, 2:] / contrast, -LARGEST_STEP, LARGEST_STEP)
    return change.reshape(-1, 2, 3), explained, residual


def composed(affine, change):
    """The move `affine` after the inverse of the identity plus `change`, both (m, 2, 3)."""
    last = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (len(affine), 1, 3))
    step = np.concatenate([np.eye(2, 3) + change, last], axis=1)
    after = (np.concatenate([affine, last], axis=1) @ np.linalg.inv(step))[:, :2]
    return np.clip(after, np.eye(2, 3) - 2 * LARGEST_MOVE, np.eye(2, 3) + 2 * LARGEST_MOVE)


def is_small(affine):
    """Mask (m,) of the moves of at most LARGEST_MOVE that a crop or a turn makes.

    A crop shifts a picture at most by as much as it enlarges it, a turn by as much as it turns it.
    Two forms with one text box shift it alone.
    """
    move = np.abs(affine - np.eye(2, 3))
    is_explained = move[:, :, 2] <= move[:, :, :2].sum(2) + FREE_SHIFT
    return (move <= LARGEST_MOVE).all((1, 2)) & is_explained.all(1)


# ---------------------------------------------------------------- agreement

class Details(NamedTuple):
    """What is measured of m pairs, each (m,).

    agreement: mean correlation of details over textured blocks, 0 if there are too few. contrast:
    the larger deviation of details over the smaller. same: share of the variance that is the same.
    """

    agreement: np.ndarray
    contrast: np.ndarray
    same: np.ndarray


def by_block(values):
    """float32 (m, BLOCKS**2): the sums of (m, P, P) over each block."""
    m, side, _ = values.shape
    size = side // BLOCKS
    return values.reshape(m, BLOCKS, size, BLOCKS, size).sum((2, 4)).reshape(m, -1)


def seen_blocks(inside):
    """(pixels inside each block, mask of the blocks that count), both (m, BLOCKS**2)."""
    count = by_block(inside)
    return np.maximum(count, 1), count >= SEEN * (inside.shape[1] // BLOCKS) ** 2


def details_of(fixed, image, inside):
    """The Details of `fixed` in the tones of `image`, and `image`, moved: float32 (m, P, P)."""
    agreement = np.zeros(len(fixed))
    contrast = np.ones(len(fixed))
    is_known = np.zeros(len(fixed), dtype=bool)
    for fine, coarse in DETAILS_PX:
        a = (blurred(fixed, fine) - blurred(fixed, coarse)) * inside
        b = (blurred(image, fine) - blurred(image, coarse)) * inside
        correlation, ratio, n = compared_blocks(a, b, inside)
        is_new = ~is_known & (n >= FEWEST_BLOCKS)
        agreement[is_new] = correlation[is_new]
        contrast[is_new] = ratio[is_new]
        is_known |= is_new
    fine = DETAILS_PX[0][0]
    same = same_share(blurred(fixed, fine), blurred(image, fine), inside)
    return Details(agreement, contrast, same)


def compared_blocks(a, b, inside):
    """(mean correlation of textured blocks, contrast, number of those blocks), each (m,)."""
    count, is_seen = seen_blocks(inside)
    aa = by_block(a * a)
    bb = by_block(b * b)
    correlation = by_block(a * b) / np.sqrt(aa * bb + 1e-6)
    power_a = (aa * is_seen).sum(1) + 1e-6
    power_b = (bb * is_seen).sum(1) + 1e-6
    power = np.maximum(aa, bb * (power_a / power_b)[:, None]) / count
    textured = is_seen & (power > TEXTURE_LEVELS**2)
    n = textured.sum(1)
    contrast = np.sqrt(np.maximum(power_a / power_b, power_b / power_a))
    return (correlation * textured).sum(1) / np.maximum(n, 1), contrast, n


def same_share(fixed, image, inside):
    """(m,): 1 minus the mean squared difference of (m, P, P) over the variance of `image`."""
    total = np.maximum(inside.sum((1, 2)), 1)
    mean = (image * inside).sum((1, 2)) / total
    variance = ((image - mean[:, None, None]) ** 2 * inside).sum((1, 2))
    return 1 - ((fixed - image) ** 2 * inside).sum((1, 2)) / np.maximum(variance, 1e-6)


def same_colours(one, other, inside):
    """Masks (m,) of colour images (m, P, P, 3): the same colours in the same blocks; one is grey.
    """
    count, is_seen = seen_blocks(inside)

    def colours(image):
        grey = image @ GREY
        return np.stack([by_block((image[..., channel] - grey) * inside) / count * is_seen
                         for channel in (0, 2)], axis=-1)

    def size(values):
        return np.sqrt((values**2).sum((1, 2)) / np.maximum(is_seen.sum(1), 1))

    a = colours(one)
    b = colours(other)
    alike = size(a - b) <= COLOUR_SHARE * (size(a) + size(b)) + COLOUR_LEVELS
    return alike, np.minimum(size(a), size(b)) < GREY_LEVELS


def overlap(affine, side):
    """float32 (m, P, P): 1 where both images show what a small crop or turn keeps."""
    x, y = coordinates(side)
    there = affine[:, :, 0, None, None] * x + affine[:, :, 1, None, None] * y
    there = np.abs(there + affine[:, :, 2, None, None]).max(1)
    here = np.maximum(np.abs(x), np.abs(y))
    return ((there < INNER) & (here < INNER)).astype(np.float32)


def toned(fixed, image, inside):
    """`toned_image` of each of (m, P, P)."""
    return np.array([toned_image(*one) for one in zip(fixed, image, inside, strict=True)],
                    dtype=np.float32).reshape(fixed.shape)


def toned_colours(fixed, image, inside):
    """`toned` of each channel of (m, P, P, 3): too bright an image is cut off channel by channel.
    """
    return np.stack([toned(fixed[..., channel], image[..., channel], inside)
                     for channel in range(3)], axis=-1)


def toned_image(fixed, image, inside):
    """`fixed` (P, P) with the levels of `image` in the same places: a line, then a tone curve."""
    is_inside = inside > 0
    if np.count_nonzero(is_inside) < 2 * TONES:
        return fixed
    values = fixed[is_inside]
    aims = image[is_inside]
    slope = np.cov(values, aims)[0, 1] / max(values.var(), 1e-6)
    slope = max(slope, 0.0)
    line = aims.mean() + slope * (fixed - values.mean())

    order = np.argsort(values, kind="stable")
    edges = np.linspace(0, len(order), TONES + 1).astype(int)[:-1]
    counts = np.diff([*edges, len(order)])
    levels = np.add.reduceat(values[order], edges) / counts
    rest = np.add.reduceat((aims - line[is_inside])[order], edges) / counts
    return (line + np.interp(fixed, levels, rest)).astype(np.float32)
