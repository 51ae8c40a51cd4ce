"""One look at every image: hashes, problems, near-duplicates, and the cache of reduced pixels that all fits read.

    audit_contest(contest, DataConfig(), 320, folder, workers=2)       # every image decoded once
    audit = load_audit(folder, contest.folder)                         # usable samples only, near-duplicates grouped
    audit.train_pixels[0]                                              # uint8 (H, W, 3) RGB

Letters: n samples, H x W pixels.
"""
import csv
import os
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from files import Findings, Problem, counted, csv_text, decode_bytes, quoted_cell, read_bytes, unquoted_cell
from intake import Catalog, as_strings
from utils import (
    RunError,
    digest_bytes,
    parallel_map,
    read_json,
    write_atomic,
    write_json,
)

THUMBNAIL_PX = 32
FLAT_LEVELS = 3.0               # the perceptual hash of a thumbnail whose grey levels deviate less than this is noise
SAME_CORRELATION = 0.98         # near-duplicate candidates are confirmed from this correlation of their thumbnails on
SAME_COLOUR_LEVELS = 16.0       # and up to this difference of their mean colours, levels of 255
PAIRS_AT_ONCE = 512             # compared: 2 MB of thumbnails on each side


# ---------------------------------------------------------------- pixels

class PixelStore:
    """n images of different sizes in memory-mapped files: store[row] -> uint8 (H, W, 3) RGB, a copy.

    file, offset (n,) int64: where each image begins; shape (n, 2) int64: its height and width, 0 = unreadable.
    Picklable for processes started by spawn: the files are opened on first use.
    """

    def __init__(self, paths, file, offset, shape):
        self.paths = tuple(str(p) for p in paths)
        self.file, self.offset, self.shape = (np.asarray(a, dtype=np.int64) for a in (file, offset, shape))
        self.maps = {}

    @classmethod
    def open(cls, path):
        """The store that PixelWriter made at `path` (.bin and .npz)."""
        with np.load(f"{path}.npz") as index:
            return cls((f"{path}.bin",), np.zeros(len(index["offset"])), index["offset"], index["shape"])

    def __len__(self):
        return len(self.offset)

    def __getitem__(self, row):
        height, width = self.shape[row].tolist()
        if height == 0:
            raise RunError(f"row {row} of the pixel store {self.paths} holds no image: it was unreadable in the audit")
        file = int(self.file[row])
        start = int(self.offset[row])
        if file not in self.maps:
            self.maps[file] = np.memmap(self.paths[file], dtype=np.uint8, mode="r")
        return np.array(self.maps[file][start:start + height * width * 3]).reshape(height, width, 3)

    def take(self, rows):
        """The images at `rows` (indices or a mask), in that order."""
        return PixelStore(self.paths, self.file[rows], self.offset[rows], self.shape[rows])

    def concat(self, other):
        """This store's images, then the other's."""
        return PixelStore(self.paths + other.paths, np.concatenate([self.file, other.file + len(self.paths)]),
                          np.concatenate([self.offset, other.offset]), np.concatenate([self.shape, other.shape]))

    def __getstate__(self):
        return {**self.__dict__, "maps": {}}


class PixelWriter:
    """Writes n images in any order from many threads to path.bin, then their places to path.npz."""

    def __init__(self, path, n):
        self.path = path
        self.lock = threading.Lock()
        self.offset = np.zeros(n, dtype=np.int64)
        self.shape = np.zeros((n, 2), dtype=np.int64)

    def __enter__(self):
        self.file = open(f"{self.path}.bin", "wb")  # closed in __exit__
        return self

    def write(self, row, image):
        with self.lock:
            self.offset[row] = self.file.tell()
            self.shape[row] = image.shape[:2]
            self.file.write(np.ascontiguousarray(image).data)

    def __exit__(self, *_):
        self.file.close()
        np.savez(f"{self.path}.npz", offset=self.offset, shape=self.shape)


def shrunk(image, long_side_px):
    """The image with a long side of at most `long_side_px`, by area averaging; never enlarged."""
    height, width = image.shape[:2]
    scale = long_side_px / max(height, width)
    if scale >= 1:
        return image
    return cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))),
                      interpolation=cv2.INTER_AREA)


# ---------------------------------------------------------------- audit: one look at every image

class Look(NamedTuple):
    """What one image shows: why it is unusable ('' = fine), digest, full size, hash, grey thumbnail, mean colour, and whether
    it is flat: a blank page, whose hash is noise."""

    reason: str
    sha256: str = ""
    size_px: tuple[int, int] = (0, 0)
    phash: int = 0
    thumbnail: np.ndarray = np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    colour: np.ndarray = np.zeros(3, np.float32)
    is_flat: bool = True


def look_at(path, row, writer, long_side_px):
    """Read, hash, decode and shrink one image; its pixels go to the writer."""
    if not path:
        return Look("no file")
    sha256 = ""
    try:
        data = read_bytes(path)
        sha256 = digest_bytes(data)
        rgb, size_px = decode_bytes(data, long_side_px)
    except ValueError as error:
        return Look(str(error), sha256)
    image = shrunk(rgb, long_side_px)
    writer.write(row, image)
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (THUMBNAIL_PX, THUMBNAIL_PX),
                      interpolation=cv2.INTER_AREA)
    return Look("", sha256, size_px, perceptual_hash(grey), grey, np.array(cv2.mean(image)[:3], dtype=np.float32),
                grey.std() < FLAT_LEVELS)


def perceptual_hash(grey):
    """64 bits: which of the 8 x 8 lowest DCT frequencies of a thumbnail (32, 32) lie above their median."""
    low = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


@dataclass(frozen=True, eq=False)
class Looks:
    """The looks at n images: reason, sha256 (n,) str; size_px (n, 2); phash (n,) uint64; thumbnail (n, 32, 32); colour
    (n, 3); is_flat (n,) bool."""

    reason: np.ndarray
    sha256: np.ndarray
    size_px: np.ndarray
    phash: np.ndarray
    thumbnail: np.ndarray
    colour: np.ndarray
    is_flat: np.ndarray

    @classmethod
    def of(cls, looks):
        n = len(looks)
        return cls(as_strings([k.reason for k in looks]), as_strings([k.sha256 for k in looks]),
                   np.array([k.size_px for k in looks], dtype=np.int64).reshape(n, 2),
                   np.array([k.phash for k in looks], dtype=np.uint64),
                   np.array([k.thumbnail for k in looks]).reshape(n, THUMBNAIL_PX, THUMBNAIL_PX),
                   np.array([k.colour for k in looks]).reshape(n, 3), np.array([k.is_flat for k in looks], dtype=bool))

    @property
    def is_readable(self):
        return self.reason == ""


def look_at_all(catalog, path, long_side_px, workers, description):
    """Looks at all images of a catalog, in parallel; their pixels go to path.bin and path.npz."""
    def look(row):
        return look_at(str(catalog.path[row]), row, writer, long_side_px)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)                                        # the images are what is spread over the cores
    try:
        with PixelWriter(path, len(catalog)) as writer:
            return Looks.of(parallel_map(look, range(len(catalog)), workers, description))
    finally:
        cv2.setNumThreads(threads)


# ---------------------------------------------------------------- audit: the same picture twice

def close_hashes(hashes, bits, workers):
    """(m, 2) int64: all pairs i < j of `hashes` (n,) uint64 that differ in at most `bits` bits. Exact; 100,000 hashes
    take seconds (blocks that fit a core's cache)."""
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


def look_alike(pairs, thumbnails, colours):
    """Mask (m,) of the pairs whose thumbnails and mean colours confirm what their hashes say."""
    confirmed = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        left, right = pairs[start:start + PAIRS_AT_ONCE].T
        a, b = (thumbnails[side].reshape(len(side), -1).astype(np.float32) for side in (left, right))
        a = a - a.mean(axis=1, keepdims=True)
        b = b - b.mean(axis=1, keepdims=True)
        norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        colour = np.abs(colours[left] - colours[right]).max(axis=1)
        alike = (a * b).sum(axis=1) >= SAME_CORRELATION * norm
        confirmed[start:start + PAIRS_AT_ONCE] = alike & (colour <= SAME_COLOUR_LEVELS)
    return confirmed


def near_duplicates(train, test, bits, workers):
    """Pairs of near-duplicate images of two Looks as (m, 2) rows, test rows counted on after the train rows.

    Of files with equal bytes only the first takes part; flat images (blank pages) take no part: their hashes are noise.
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
    thumbnails, colours = (np.concatenate([ours[rows[rows < n]], theirs[rows[rows >= n] - n]]) for ours, theirs in (
        (train.thumbnail, test.thumbnail), (train.colour, test.colour)))
    return pairs[look_alike(np.searchsorted(rows, pairs), thumbnails, colours)]


def equal_rows(values, usable):
    """Lists of usable rows with equal values (n,), as digests of files, two or more in each."""
    rows_of = defaultdict(list)
    for row in np.flatnonzero(usable).tolist():
        rows_of[str(values[row])].append(row)
    return [rows for rows in rows_of.values() if len(rows) > 1]


def joined_groups(group, usable, sets):
    """`group` (n,) with the groups of all usable rows in one of the `sets` merged; the first name of a set stays."""
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


# ---------------------------------------------------------------- audit: the stage

def audit_contest(contest, data, long_side_px, folder, workers):
    """Decode every image once and write into `folder`: audit.json, catalog_train.csv, catalog_test.csv, pixels_train
    and pixels_test (.bin + .npz, rows as in the catalog, long side at most `long_side_px`).

    data: DataConfig. UserError with all problems when too little is left to train on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    train = look_at_all(contest.train, folder / "pixels_train", long_side_px, workers, "audit: training images")
    test = look_at_all(contest.test, folder / "pixels_test", long_side_px, workers, "audit: test images")
    findings = Findings()
    report_unreadable(contest, train, test, findings)
    copies = equal_rows(train.sha256, train.is_readable)
    contradicted = [rows for rows in copies if len(set(contest.train.label[rows].tolist())) > 1]
    usable = train.is_readable.copy()
    usable[[row for rows in contradicted for row in rows]] = False
    near = near_duplicates(train, test, data.near_duplicate_bits, workers)
    near_train = near[(near < len(contest.train)).all(axis=1)]
    near_train = near_train[usable[near_train].all(axis=1)]
    report_copies(contest.train, copies, contradicted, near_train, findings)
    twins = train_test_twins(contest, train, test, near)
    report_twins(twins, findings)
    same = [*copies, *near_train.tolist()]
    ids = contest.train.sample_id
    group = joined_groups(contest.train.group, usable, same)
    report_classes(contest, usable, group, data.n_folds, findings)
    summary = {**summary_of(contest, train, test, usable, group), "n_exact_duplicates": sum(map(len, copies)),
               "n_near_duplicate_pairs": len(near_train), "twins": twins, "long_side_px": long_side_px,
               "same_pictures": [ids[rows].tolist() for rows in equal_rows(joined_groups(ids, usable, same), usable)]}
    left_out = np.where(train.is_readable, np.where(usable, "", "equal files with different labels"), train.reason)
    write_catalog(folder / "catalog_train.csv", with_fields(contest.train, sha256=train.sha256, group=group), left_out,
                  contest.folder)
    write_catalog(folder / "catalog_test.csv", with_fields(contest.test, sha256=test.sha256), test.reason,
                  contest.folder)
    write_json(folder / "audit.json",
               {"problems": findings.problems, "summary": summary, "classes": contest.train.classes})
    findings.stop_if_fatal()


def report_unreadable(contest, train, test, findings):
    """Warnings that name the unreadable images of each split with their reasons."""
    for split, catalog, looks, consequence in (("training", contest.train, train, "they are left out"),
                                               ("test", contest.test, test,
                                                "their submission rows get the class prior")):
        rows = np.flatnonzero(~looks.is_readable & (catalog.path != ""))
        if len(rows):
            named = [f"{catalog.sample_id[row]} ({looks.reason[row]})" for row in rows]
            findings.warn(f"unreadable_{split}_image",
                          f"{counted(named, f'{split} image')} cannot be decoded: {consequence}",
                          catalog.sample_id[rows])


def report_copies(catalog, copies, contradicted, near, findings):
    """Warnings for training images that are the same picture."""
    ids = catalog.sample_id
    label = catalog.label
    agreed = [row for rows in copies if rows not in contradicted for row in rows]
    if agreed:
        findings.warn("exact_duplicates",
                      f"{counted(ids[agreed], 'training image')} with equal bytes: kept, each set in one fold",
                      ids[agreed])
    out = [row for rows in contradicted for row in rows]
    if out:
        findings.warn("contradicted_image",
                      f"{counted(ids[out], 'training image')} with equal bytes but different labels: "
                      "all are left out", ids[out])
    rows = np.unique(near)
    if len(rows):
        findings.warn("near_duplicates",
                      f"{counted(ids[rows], 'training image')} are near-duplicates of others: each set stays in "
                      "one fold", ids[rows])
    mixed = np.unique(near[label[near[:, 0]] != label[near[:, 1]]])
    if len(mixed):
        findings.warn("near_duplicate_labels",
                      f"{counted(ids[mixed], 'training image')} are near-duplicates of images with another "
                      "label: kept, look at them", ids[mixed])


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


def report_twins(twins, findings):
    for kind, words in (("exact", "the very file"), ("near", "a near-duplicate")):
        found = [f"{a} = {b}" for a, b, k in twins if k == kind]
        if found:
            findings.warn(f"{kind}_twins",
                          f"{counted(found, 'pair')} of a training image and a test image that is {words}: "
                          "reported only", sorted({b for _, b, k in twins if k == kind}))


def report_classes(contest, usable, group, n_folds, findings):
    """Problems of the classes that the usable images leave."""
    classes = contest.train.classes
    label = contest.train.label[usable]
    counts = np.bincount(label, minlength=len(classes))
    if not usable.any():
        findings.fail("no_usable_images",
                      f"none of the {len(usable)} training images can be used: check that the files are complete")
    elif (counts > 0).sum() < 2:
        findings.fail("too_few_classes",
                      f"training needs usable images of at least 2 classes, got {(counts > 0).sum()}")
    gone = [c for c, count in zip(classes, counts, strict=True) if count == 0]
    if gone and usable.any():
        findings.warn("class_without_images",
                      f"{counted(gone, 'class')} without a usable training image: never predicted", gone)
    n_groups = [len(set(group[usable][label == k].tolist())) for k in range(len(classes))]
    small = [c for c, n in zip(classes, n_groups, strict=True) if 0 < n < n_folds]
    if small:
        findings.warn("small_class",
                      f"{counted(small, 'class')} with fewer images or groups than the {n_folds} folds: missing from "
                      "some folds (--set data.n_folds=... makes fewer)", small)


def summary_of(contest, train, test, usable, group):
    """Numbers for the report: counts, sizes in px (0, 25, 50, 75, 100 % quantiles), groups."""
    def quantiles(looks):
        sizes = looks.size_px[looks.is_readable]
        values = np.quantile(sizes, (0, 0.25, 0.5, 0.75, 1), axis=0).tolist() if len(sizes) else []
        return {"height_px": [v[0] for v in values], "width_px": [v[1] for v in values]}

    counts = np.bincount(contest.train.label[usable], minlength=len(contest.train.classes)).tolist()
    sizes = Counter(group[usable].tolist())
    return {"n_train": int(usable.sum()), "n_train_left_out": int((~usable).sum()),
            "n_test": int(test.is_readable.sum()),
            "n_test_unreadable": int((~test.is_readable).sum()), "class_names": contest.class_names,
            "class_counts": dict(zip(contest.train.classes, counts, strict=True)),
            "size_px": {"train": quantiles(train), "test": quantiles(test)},
            "groups": {"n_groups": len(sizes), "n_shared": sum(n > 1 for n in sizes.values()),
                       "largest": max(sizes.values(), default=0)},
            "submission_ids": contest.submission_ids, "understood": contest.understood}


CATALOG_COLUMNS = ("sample_id", "path", "sha256", "label", "group", "left_out")


def write_catalog(path, catalog, left_out, contest_folder):
    """csv of all samples, paths relative to the contest folder; left_out says why one is not used ('' = used)."""
    rows = [CATALOG_COLUMNS]
    for row in range(len(catalog)):
        full = str(catalog.path[row])
        relative = os.path.relpath(full, contest_folder).replace(os.sep, "/") if full else ""
        rows.append([quoted_cell(cell) for cell in (catalog.sample_id[row], relative, catalog.sha256[row], catalog.label[row],
                                                    catalog.group[row], left_out[row])])
    write_atomic(path, csv_text(rows))


def read_catalog(path, classes, contest_folder):
    """(Catalog, left_out (n,) str) that write_catalog wrote."""
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    columns = {name: [unquoted_cell(row[name]) for row in rows] for name in CATALOG_COLUMNS}
    paths = [str(Path(contest_folder) / p) if p else "" for p in columns["path"]]
    catalog = Catalog(columns["sample_id"], paths, columns["sha256"], [int(v) for v in columns["label"]],
                      columns["group"], classes)
    return catalog, as_strings(columns["left_out"])


@dataclass(frozen=True, eq=False)
class Audit:
    """What training may use: usable training images and readable test images; pixel stores with the catalogs' rows.

    bad_test_ids: test ids without a readable image, in the submission's order; each still needs a row there.
    """

    train: Catalog
    test: Catalog
    problems: tuple[Problem, ...]
    summary: dict
    train_pixels: PixelStore
    test_pixels: PixelStore
    bad_test_ids: tuple[str, ...]


def load_audit(folder, contest_folder):
    """The Audit of a folder that audit_contest wrote."""
    folder = Path(folder)
    contest_folder = Path(contest_folder).expanduser().resolve()
    stored = read_json(folder / "audit.json")
    problems = tuple(Problem(**{**p, "sample_ids": tuple(p["sample_ids"])}) for p in stored["problems"])
    parts = {}
    for split in ("train", "test"):
        catalog, left_out = read_catalog(folder / f"catalog_{split}.csv", stored["classes"], contest_folder)
        rows = np.flatnonzero(left_out == "")
        pixels = PixelStore.open(folder / f"pixels_{split}").take(rows)
        parts[split] = catalog.take(rows), pixels, catalog.sample_id[left_out != ""]
    bad = set(parts["test"][2].tolist())
    bad_test_ids = tuple(dict.fromkeys(i for i in stored["summary"]["submission_ids"] if i in bad))
    return Audit(parts["train"][0], parts["test"][0], problems, stored["summary"], parts["train"][1], parts["test"][1],
                 bad_test_ids)
