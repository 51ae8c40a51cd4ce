"""Which images show the same picture: equal files, and near-duplicates by their likeness."""
from collections import defaultdict

import numpy as np

from contest.catalog import as_strings
from contest.likeness import same_pictures

FLAT_LEVELS = 3.0           # below this deviation of its grey levels a thumbnail holds only noise


def near_duplicates(train, test, pixels, agreement, workers):
    """Near-duplicate images of two Looks: (m, 2) rows, (m,) bool; test rows follow the train rows.

    pixels: the PixelStore of both. The mask says which pairs are neither mirrored nor turned by 90
    or 180 degrees. Of files with equal bytes only the first takes part. Flat images
    (blank pages) take no part. Of two images the one with fewer clipped levels tells the other's
    tones.
    """
    sha256 = np.concatenate([train.sha256, test.sha256])
    is_readable = np.concatenate([train.is_readable, test.is_readable])
    is_flat = np.concatenate([train.is_flat, test.is_flat])
    n_clipped = np.concatenate([train.n_clipped, test.n_clipped])
    is_first = np.zeros(len(sha256), dtype=bool)
    is_first[np.unique(sha256, return_index=True)[1]] = True
    rows = np.flatnonzero(is_first & is_readable & ~is_flat)
    rows = rows[np.lexsort((sha256[rows], n_clipped[rows]))]
    n_train = len(train.sha256)

    def thumbnails(places):
        wanted = rows[places]
        found = np.empty((len(wanted), *train.thumbnail.shape[1:]), np.uint8)
        is_train = wanted < n_train
        found[is_train] = train.thumbnail[wanted[is_train]]
        found[~is_train] = test.thumbnail[wanted[~is_train] - n_train]
        return found

    pairs, is_upright = same_pictures(len(rows), thumbnails, lambda place: pixels[rows[place]],
                                      agreement, workers)
    pairs = np.sort(rows[pairs], axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], is_upright[order]


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
