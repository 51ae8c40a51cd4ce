"""Which images show the same picture: by perceptual hash, confirmed by thumbnail and mean colour.
"""
from collections import defaultdict

import numpy as np

from contest.catalog import as_strings
from system.parallel import parallel_map

# the perceptual hash of a thumbnail whose grey levels deviate less than this is noise
FLAT_LEVELS = 3.0
# near-duplicate candidates are confirmed from this correlation of their thumbnails on
SAME_CORRELATION = 0.98
SAME_COLOUR_LEVELS = 16.0       # and up to this difference of their mean colours, levels of 255
PAIRS_AT_ONCE = 512             # compared: 2 MB of thumbnails on each side


# ---------------------------------------------------------------- audit: the same picture twice

def close_hashes(hashes, bits, workers):
    """(m, 2) int64: all pairs i < j of `hashes` (n,) uint64 that differ in at most `bits` bits.
    Exact; 100,000 hashes take seconds (blocks that fit a core's cache)."""
    size = 512
    starts = range(0, len(hashes), size)

    def pairs_from(start):
        rows = hashes[start:start + size, None]
        found = []
        for other in range(start, len(hashes), size):
            near = np.bitwise_count(rows ^ hashes[None, other:other + size]) <= bits
            if near.any():
                found.append(np.argwhere(near) + np.array((start, other)))
        pairs = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
        return pairs[pairs[:, 0] < pairs[:, 1]]

    found = parallel_map(pairs_from, starts, workers, "near-duplicates")
    return np.concatenate([np.zeros((0, 2), np.int64), *found])


def alike_pairs(pairs, thumbnails, colours):
    """Mask (m,) of the pairs whose thumbnails and mean colours confirm what their hashes say."""
    confirmed = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        left, right = pairs[start:start + PAIRS_AT_ONCE].T
        a, b = (thumbnails[side].reshape(len(side), -1).astype(np.float32) for side in (left,
                                                                                        right))
        a = a - a.mean(axis=1, keepdims=True)
        b = b - b.mean(axis=1, keepdims=True)
        norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        colour = np.abs(colours[left] - colours[right]).max(axis=1)
        alike = (a * b).sum(axis=1) >= SAME_CORRELATION * norm
        confirmed[start:start + PAIRS_AT_ONCE] = alike & (colour <= SAME_COLOUR_LEVELS)
    return confirmed


def near_duplicates(train, test, bits, workers):
    """Pairs of near-duplicate images of two Looks as (m, 2) rows, test rows counted on after the
    train rows.

    Of files with equal bytes only the first takes part; flat images (blank pages) take no part:
    their hashes are noise.
    """
    sha256 = np.concatenate([train.sha256, test.sha256])
    readable = np.concatenate([train.is_readable, test.is_readable])
    is_flat = np.concatenate([train.is_flat, test.is_flat])
    first = np.zeros(len(sha256), dtype=bool)
    first[np.unique(sha256, return_index=True)[1]] = True
    rows = np.flatnonzero(first & readable & ~is_flat)
    pairs = close_hashes(np.concatenate([train.phash, test.phash])[rows], bits, workers)
    pairs = rows[pairs]
    n = len(train.sha256)
    rows = np.unique(pairs)
    thumbnails, colours = (np.concatenate([ours[rows[rows < n]], theirs[rows[rows >= n] - n]])
                           for ours, theirs in ((train.thumbnail, test.thumbnail),
                                                (train.colour, test.colour)))
    return pairs[alike_pairs(np.searchsorted(rows, pairs), thumbnails, colours)]


def equal_rows(values, usable):
    """Lists of usable rows with equal values (n,), as digests of files, two or more in each."""
    rows_of = defaultdict(list)
    for row in np.flatnonzero(usable).tolist():
        rows_of[str(values[row])].append(row)
    return [rows for rows in rows_of.values() if len(rows) > 1]


def joined_groups(group, usable, sets):
    """`group` (n,) with the groups of all usable rows in one of the `sets` merged; the first name
    of a set stays."""
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
    rows_of = defaultdict(list)
    for row in np.flatnonzero(train.is_readable).tolist():
        rows_of[str(train.sha256[row])].append(row)
    exact = {(row, other) for other in np.flatnonzero(test.is_readable).tolist()
             for row in rows_of.get(str(test.sha256[other]), ())}
    n = len(contest.train)
    across = {(int(i), int(j) - n) for i, j in near if i < n <= j} - exact
    ids = contest.train.sample_id, contest.test.sample_id
    return sorted([str(ids[0][i]), str(ids[1][j]), kind]
                  for pairs, kind in ((exact, "exact"), (across, "near")) for i, j in pairs)
