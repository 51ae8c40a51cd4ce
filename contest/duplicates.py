"""Which images show the same picture: by perceptual hash, confirmed by thumbnail and mean colour.
"""
from collections import defaultdict

import numpy as np

from contest.catalog import as_strings
from system.parallel import parallel_map

FLAT_LEVELS = 3.0           # below this deviation of its grey levels a thumbnail's hash is noise
# near-duplicates have at least this correlation of their thumbnails, and at most this difference of
# their mean colours, in levels of 255
SAME_CORRELATION = 0.98
SAME_COLOUR_LEVELS = 16.0
PAIRS_AT_ONCE = 512         # 2 MB of thumbnails on each side
HASHES_AT_ONCE = 512        # a block that fits a core's cache


def close_hashes(hashes, bits, workers):
    """(m, 2) int64: all pairs i < j of `hashes` (n,) uint64 that differ in at most `bits` bits.

    Exact. 100,000 hashes take seconds.
    """
    def pairs_from(start):
        rows = hashes[start:start + HASHES_AT_ONCE, None]
        found = []
        for other in range(start, len(hashes), HASHES_AT_ONCE):
            columns = hashes[None, other:other + HASHES_AT_ONCE]
            near = np.bitwise_count(rows ^ columns) <= bits
            if near.any():
                found.append(np.argwhere(near) + np.array((start, other)))
        pairs = np.concatenate([none, *found])
        return pairs[pairs[:, 0] < pairs[:, 1]]

    none = np.zeros((0, 2), np.int64)
    starts = range(0, len(hashes), HASHES_AT_ONCE)
    found = parallel_map(pairs_from, starts, workers, "near-duplicates")
    return np.concatenate([none, *found])


def alike_pairs(pairs, thumbnails, colours):
    """Mask (m,) of the pairs whose thumbnails and mean colours confirm their hashes."""
    confirmed = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        left, right = pairs[start:start + PAIRS_AT_ONCE].T
        a = centred(thumbnails[left])
        b = centred(thumbnails[right])
        norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        is_alike = (a * b).sum(axis=1) >= SAME_CORRELATION * norm
        colour_difference = np.abs(colours[left] - colours[right]).max(axis=1)
        is_same_colour = colour_difference <= SAME_COLOUR_LEVELS
        confirmed[start:start + PAIRS_AT_ONCE] = is_alike & is_same_colour
    return confirmed


def centred(thumbnails):
    """float32 (n, H*W): each thumbnail's levels minus their mean."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    return flat - flat.mean(axis=1, keepdims=True)


def near_duplicates(train, test, bits, workers):
    """Pairs of near-duplicate images of two Looks as (m, 2) rows; test rows follow the train rows.

    Of files with equal bytes only the first takes part. Flat images (blank pages) take no part,
    because their hashes are noise.
    """
    sha256 = np.concatenate([train.sha256, test.sha256])
    is_readable = np.concatenate([train.is_readable, test.is_readable])
    is_flat = np.concatenate([train.is_flat, test.is_flat])
    is_first = np.zeros(len(sha256), dtype=bool)
    is_first[np.unique(sha256, return_index=True)[1]] = True

    rows = np.flatnonzero(is_first & is_readable & ~is_flat)
    hashes = np.concatenate([train.phash, test.phash])[rows]
    pairs = rows[close_hashes(hashes, bits, workers)]

    # only the thumbnails that are compared are copied
    compared = np.unique(pairs)
    n = len(train.sha256)
    of_train = compared[compared < n]
    of_test = compared[compared >= n] - n
    thumbnails = np.concatenate([train.thumbnail[of_train], test.thumbnail[of_test]])
    colours = np.concatenate([train.colour[of_train], test.colour[of_test]])
    return pairs[alike_pairs(np.searchsorted(compared, pairs), thumbnails, colours)]


def equal_rows(values, usable):
    """Lists of two or more usable rows with equal `values` (n,), such as digests of files."""
    return [rows for rows in rows_by_value(values, usable).values() if len(rows) > 1]


def rows_by_value(values, usable):
    """{value: its usable rows, [] for any other}."""
    rows_of = defaultdict(list)
    for row in np.flatnonzero(usable).tolist():
        rows_of[str(values[row])].append(row)
    return rows_of


def joined_groups(group, usable, sets):
    """`group` (n,) with the groups of all usable rows in one of the `sets` merged.

    Merged groups take the name that sorts first.
    """
    leader = {}

    def find(name):
        while leader.get(name, name) != name:
            leader[name] = leader.get(leader[name], leader[name])
            name = leader[name]
        return name

    for rows in sets:
        names = [find(str(group[row])) for row in rows if usable[row]]
        for name in names[1:]:
            low, high = sorted((find(names[0]), find(name)))
            leader[high] = low
    return as_strings([find(str(g)) for g in group])


def train_test_twins(contest, train, test, near):
    """[[train id, test id, "exact" or "near"], ...], sorted."""
    train_rows = rows_by_value(train.sha256, train.is_readable)
    exact = set()
    for other in np.flatnonzero(test.is_readable).tolist():
        exact.update((row, other) for row in train_rows[str(test.sha256[other])])

    n = len(contest.train)
    across = {(int(i), int(j) - n) for i, j in near if i < n <= j} - exact
    kinds = [(pair, "exact") for pair in exact] + [(pair, "near") for pair in across]
    train_ids = contest.train.sample_id
    test_ids = contest.test.sample_id
    return sorted([str(train_ids[i]), str(test_ids[j]), kind] for (i, j), kind in kinds)
