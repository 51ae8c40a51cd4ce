"""Catalog -> Folds -> Targets -> ImageDataset -> Batch: what a fit reads, from an audited contest.

    folds = make_folds(audit.train, n_folds=5, seed=42)
    targets = Targets.from_labels(audit.train)
    dataset = ImageDataset(audit.train_pixels, audit.train.sample_id, transform, (42, "fit"),
                           targets.probs, targets.weight)
    for batch in make_loader(dataset, EpochSampler(len(dataset), 64, (42, "fit")), workers=2): ...

The way from a folder to an audited contest is files.py, tables.py, intake.py, audit.py; their names
are here too. Letters: n samples, C classes, B batch, H x W pixels, S side of the square.
"""
import csv
import itertools
import math
import warnings
from collections import defaultdict
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import NamedTuple

import cv2
import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch.utils.data import DataLoader, Dataset

from contest.catalog import as_strings
from system.machine import return_freed_memory, stop_is_asked, usable_cores
from system.parallel import start_worker
from utils import (
    RunError,
    UserError,
    csv_text,
    first_few,
    quoted_cell,
    seed_of,
    unquoted_cell,
    write_atomic,
)

LETTERBOX_FILL = (124, 116, 104)     # ImageNet's mean
# loaded at a time, see `Bursts`
BURST_BYTES = 2**27
BURST_BATCHES = 64


# ---------------------------------------------------------------- folds

@dataclass(frozen=True, eq=False)
class Folds:
    """Which fold each sample is validated in: sample_id (n,) str, fold (n,) int8 in 0..n_folds-1.
    """

    sample_id: np.ndarray
    fold: np.ndarray
    n_folds: int

    def __post_init__(self):
        object.__setattr__(self, "sample_id", as_strings(self.sample_id))
        object.__setattr__(self, "fold", np.asarray(self.fold, dtype=np.int8))
        if len(self.sample_id) != len(self.fold) or len(set(self.sample_id.tolist())) != len(
            self.fold):
            raise UserError(
                f"Folds need one fold for each of different samples, got {len(self.sample_id)} ids and "
                f"{len(self.fold)} folds"
            )
        if sorted(set(self.fold.tolist())) != list(range(self.n_folds)):
            raise UserError(
                f"every fold from 0 to {self.n_folds - 1} must hold samples and no other may, got "
                f"{sorted(set(self.fold.tolist()))}: ask for fewer by --set data.n_folds=N data.run_folds=N"
            )

    def train_rows(self, fold):
        """Rows of all samples that are not validated in `fold`; all rows for fold None (a refit).
        """
        return np.arange(len(self.fold)) if fold is None else np.flatnonzero(self.fold != fold)

    def valid_rows(self, fold):
        """Rows of the samples validated in `fold`; none for fold None."""
        return np.zeros(0, dtype=np.int64) if fold is None else np.flatnonzero(self.fold == fold)


def make_folds(catalog, n_folds, seed):
    """Stratified folds of a labelled Catalog that split no group; every class in every fold where
    its groups allow.

    Of 20 seeded attempts the first that spreads all classes is taken, else the one that misses
    least.
    """
    groups = len(set(catalog.group.tolist()))
    largest = int(np.bincount(catalog.label, minlength=1).max()) if len(catalog) else 0
    if min(groups, largest) < n_folds:
        raise UserError(
            f"data.n_folds must be at most {min(groups, largest)}, the size of the largest class or the "
            f"number of groups, got {n_folds}: --set data.n_folds={max(2, min(groups, largest))}, "
            "or add images"
        )
    repeats = groups < len(catalog)
    splitter = StratifiedGroupKFold if repeats else StratifiedKFold
    best = None
    for attempt in range(20):
        split = splitter(n_folds, shuffle=True, random_state=seed_of(seed, "folds", attempt)
                         if attempt else seed)
        fold = np.zeros(len(catalog), dtype=np.int8)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class",
                                    category=UserWarning)
            for k, (_, rows) in enumerate(split.split(fold, catalog.label,
                                                      catalog.group if repeats else None)):
                fold[rows] = k
        gaps = spread_gaps(catalog, fold, n_folds)
        if best is None or gaps < best[0]:
            best = gaps, fold
        if gaps == 0:
            break
    folds = Folds(catalog.sample_id, best[1], n_folds)
    check_groups(catalog, folds)
    return folds


def spread_gaps(catalog, fold, n_folds):
    """How many (class, fold) pairs lack samples although the class has groups enough; an empty fold
    weighs most."""
    gaps = 1000 * (n_folds - len(set(fold.tolist())))
    for k in set(catalog.label.tolist()):
        rows = catalog.label == k
        possible = min(n_folds, len(set(catalog.group[rows].tolist())))
        gaps += max(0, possible - len(set(fold[rows].tolist())))
    return gaps


def check_groups(catalog, folds):
    """RunError naming the groups that lie in two folds."""
    fold_of = defaultdict(set)
    for group, fold in zip(catalog.group.tolist(), folds.fold.tolist(), strict=True):
        fold_of[group].add(fold)
    split = [group for group, found in fold_of.items() if len(found) > 1]
    if split:
        raise RunError(f"no group may lie in two folds, but these do: {first_few(split)}")


def save_folds(folds, path):
    """csv: sample_id, fold."""
    rows = zip(map(quoted_cell, folds.sample_id.tolist()), folds.fold.tolist(), strict=True)
    write_atomic(path, csv_text([("sample_id", "fold"), *rows]))


def load_folds(path):
    """Folds from the csv of save_folds."""
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    fold = [int(row["fold"]) for row in rows]
    return Folds([unquoted_cell(row["sample_id"]) for row in rows], fold, max(fold, default=-1) + 1)


# ---------------------------------------------------------------- targets

@dataclass(frozen=True, eq=False)
class Targets:
    """What to learn: sample_id (n,), probs (n, C) float32 whose rows sum to 1, weight (n,) float32.

    taught: some rows come from teachers; then blind_fold names the fold whose labels no teacher has
    seen, and only that fold's students may use them (None: the teachers have seen all folds).
    """

    sample_id: np.ndarray
    probs: np.ndarray
    weight: np.ndarray
    blind_fold: int | None = None
    taught: bool = False

    def __post_init__(self):
        object.__setattr__(self, "sample_id", as_strings(self.sample_id))
        object.__setattr__(self, "probs", np.asarray(self.probs, dtype=np.float32))
        object.__setattr__(self, "weight", np.asarray(self.weight, dtype=np.float32))
        n = len(self.sample_id)
        if self.probs.ndim != 2 or len(self.probs) != n or self.weight.shape != (n,):
            raise RunError(
                f"Targets of {n} samples need probs (n, C) and weight (n,), got {self.probs.shape} and "
                f"{self.weight.shape}"
            )
        is_row = (np.abs(self.probs.sum(axis=1) - 1) <= 1e-3) & (self.probs >= 0).all(axis=1)
        wrong = ~(is_row & np.isfinite(self.weight) & (self.weight >= 0))
        if wrong.any():
            raise RunError(
                f"rows of Targets must be probabilities that sum to 1, with finite weights >= 0; wrong for "
                f"{first_few(self.sample_id[wrong])}"
            )
        if self.blind_fold is not None and not self.taught:
            raise RunError(
                f"blind_fold {self.blind_fold} belongs to targets made by teachers, and these are plain "
                f"labels"
            )

    def __len__(self):
        return len(self.sample_id)

    @classmethod
    def from_labels(cls, catalog):
        """One-hot targets of weight 1 from a Catalog whose samples are all labelled."""
        missing = catalog.sample_id[catalog.label < 0]
        if len(missing):
            raise RunError(
                f"targets from labels need a label for every sample; none for {first_few(missing)}")
        return cls(catalog.sample_id, np.eye(len(catalog.classes), dtype=np.float32)[catalog.label],
                   np.ones(len(catalog)))

    def for_fold(self, fold):
        """These targets, if a student validated on `fold` may see them; a refit (None) may see any.
        Else RunError."""
        if fold is None or not self.taught or self.blind_fold == fold:
            return self
        seen = (
            "teachers of all folds"
            if self.blind_fold is None
            else f"teachers blind to fold {self.blind_fold} only"
        )
        raise RunError(
            f"targets for fold {fold} must come from teachers that are blind to fold {fold}, got {seen}: "
            "this would leak validation labels"
        )

    def take(self, rows):
        """The targets at `rows` (indices or a mask)."""
        return with_fields(self, sample_id=self.sample_id[rows], probs=self.probs[rows],
                           weight=self.weight[rows])

    def concat(self, other):
        """These rows, then the other's; taught ones must be blind to the same fold."""
        if self.taught and other.taught and self.blind_fold != other.blind_fold:
            raise RunError(
                f"targets blind to fold {self.blind_fold} and to fold {other.blind_fold} must not be joined"
            )
        taught = self if self.taught else other
        return Targets(np.concatenate([self.sample_id, other.sample_id]),
                       np.concatenate([self.probs, other.probs]),
                       np.concatenate([self.weight, other.weight]), taught.blind_fold,
                       taught.taught)


# ---------------------------------------------------------------- batches

def to_square(image, size_px, resize, fill=LETTERBOX_FILL):
    """uint8 (H, W, 3) -> (S, S, 3): padded ("letterbox"), stretched ("squash"), or its centre cut
    out ("crop")."""
    if resize == "letterbox":
        return letterbox(image, size_px, fill)
    if resize == "squash":
        return resized(image, size_px, size_px)
    if resize != "crop":
        raise UserError(f"data.resize must be letterbox, squash or crop, got {resize!r}")
    side = min(image.shape[:2])
    top = (image.shape[0] - side) // 2
    left = (image.shape[1] - side) // 2
    return resized(image[top:top + side, left:left + side], size_px, size_px)


def letterbox(image, size_px, fill=LETTERBOX_FILL):
    """uint8 (H, W, 3) -> (S, S, 3): the whole image as large as fits, centred on a ground of colour
    `fill`."""
    scale = size_px / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    square = np.empty((size_px, size_px, 3), dtype=np.uint8)
    square[:] = fill
    top = (size_px - height) // 2
    left = (size_px - width) // 2
    square[top:top + height, left:left + width] = resized(image, height, width)
    return square


def resized(image, height, width):
    """Area averaging where it shrinks, linear where it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(np.ascontiguousarray(image), (width, height),
                      interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class Batch(NamedTuple):
    """images (B, 3, H, W) uint8 channels last, targets (B, C) float32, weight (B,) float32, index
    (B,) int64, rows."""

    images: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor
    index: torch.Tensor


def noise_batch(n, n_classes, size_px):
    """A Batch of noise, its classes in turn: to try or time a step where no image is needed. Uses
    torch's random state."""
    images = torch.randint(256, (n, 3, size_px, size_px), dtype=torch.uint8)
    return Batch(images, torch.eye(n_classes)[torch.arange(n) % n_classes], torch.ones(n),
                 torch.arange(n))


class ImageDataset(Dataset):
    """dataset[(epoch, i)]: image i as its transform shows it in that epoch, a function of names
    only.

    transform(image (H, W, 3) uint8, seed, donor) -> (S, S, 3) uint8; donor(seed) is another image
    of the store, for transforms that paste one into another. `transform` may be a list of n, one
    per image. probs None: targets of width 0 (prediction).
    """

    def __init__(self, store, sample_id, transform, seed_names, probs=None, weight=None):
        self.store = store
        self.sample_id = as_strings(sample_id)
        n = len(store)
        self.transforms = [transform] * n if callable(transform) else list(transform)
        self.seed_names = tuple(seed_names)
        self.probs = np.zeros((n, 0), np.float32) if probs is None else np.asarray(probs,
                                                                                   dtype=np.float32)
        self.weight = np.ones(n, np.float32) if weight is None else np.asarray(weight,
                                                                               dtype=np.float32)
        if not len(self.sample_id) == len(self.probs) == len(self.weight) == len(
            self.transforms) == n:
            raise RunError(
                f"a dataset needs one row of each per image, got {n} images, {len(self.sample_id)} ids, "
                f"{len(self.probs)} probs, {len(self.weight)} weights, {len(self.transforms)} transforms"
            )

    def __len__(self):
        return len(self.store)

    def __getitem__(self, key):
        epoch, i = key
        seed = seed_of(*self.seed_names, epoch, str(self.sample_id[i]))

        def donor(seed):
            return self.store[(i + 1 + seed % max(1, len(self) - 1)) % len(self)]

        return self.transforms[i](self.store[i], seed, donor), self.probs[i], self.weight[i], i


class EpochSampler:
    """Lists of (epoch, i), shuffled anew in each epoch by the names alone.

    full_batches: the last short batch is topped up from the start of the epoch's order, so that all
    have `batch_size`.
    """

    def __init__(self, n, batch_size, seed_names, full_batches=True):
        self.n = n
        self.batch_size = batch_size
        self.seed_names = tuple(seed_names)
        self.full_batches = full_batches
        self.epoch = self.first = 0

    def set_epoch(self, epoch, first=0):
        """first: the batch to begin with, where the ones before were trained on already."""
        self.epoch = epoch
        self.first = first

    def __len__(self):
        return math.ceil(self.n / self.batch_size)

    def __iter__(self):
        order = np.random.default_rng(seed_of(*self.seed_names, "order",
                                              self.epoch)).permutation(self.n)
        if self.full_batches:
            order = np.resize(order, len(self) * self.batch_size)
        for start in range(self.first * self.batch_size, len(order), self.batch_size):
            yield [(self.epoch, int(i)) for i in order[start:start + self.batch_size]]


class InOrderSampler:
    """Lists of (number, i) in order, the last one may be short: for prediction. number: 0, or of
    one of several datasets."""

    def __init__(self, n, batch_size):
        self.n = n
        self.batch_size = batch_size
        self.number = 0

    def __len__(self):
        return math.ceil(self.n / self.batch_size)

    def __iter__(self):
        for start in range(0, self.n, self.batch_size):
            yield [(self.number, i) for i in range(start, min(start + self.batch_size, self.n))]


def make_loader(dataset, sampler, workers, in_bursts=False):
    """Batches of `sampler`'s keys, anew in each iteration; with workers > 0 by processes that live
    as long as the loader, at most one per usable core. in_bursts: where the cores that load are
    those that compute, see `Bursts`."""
    workers = max(0, min(workers, usable_cores()))
    return Bursts(dataset, sampler, workers) if in_bursts and workers else torch_loader(dataset,
                                                                                        sampler,
                                                                                        workers,
                                                                                        collate)


def torch_loader(dataset, batch_sampler, workers, collate):
    """The DataLoader of what `collate` makes of the dataset's rows."""
    if workers:
        return_freed_memory()
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=start_worker if workers else None,
        pin_memory=torch.cuda.is_available(),
        # its own: the global random state must not depend on the loader
        generator=torch.Generator(),
    )


class Several(Dataset):
    """several[(number, i)]: row i of the dataset of that number."""

    def __init__(self, datasets):
        self.datasets = list(datasets)

    def __getitem__(self, key):
        number, i = key
        return self.datasets[number][0, i]


class SplitLoader:
    """Batches of any of several datasets, {split: ImageDataset}, in order, by one set of processes:
    to fork them costs.

        for batch in loader.batches("test"): ...
    """

    def __init__(self, datasets, batch_size, workers, in_bursts=False):
        self.datasets = datasets
        self.batch_size = batch_size
        self.sampler = InOrderSampler(0, batch_size)
        self.loader = make_loader(Several(datasets.values()), self.sampler, workers, in_bursts)

    def batches(self, split, batch_size=None):
        """Of one split, of `batch_size` images if given; valid until another's are asked for."""
        sampler = self.sampler
        sampler.number = list(self.datasets).index(split)
        sampler.n = len(self.datasets[split])
        sampler.batch_size = batch_size or self.batch_size
        return self.loader


class Bursts:
    """Batches loaded many at a time, by all workers, while nothing is computed.

    A process that loads beside computing takes a core from it, and the other cores wait for that
    one at the end of each operation. Batches come as arrays through a pipe: cheaper, at the size of
    a part, than a file, its descriptor and its pages for each tensor that processes share
    (benchmarks/RESULTS.md).
    """

    def __init__(self, dataset, sampler, workers):
        self.dataset = dataset
        self.batch_sampler = sampler
        self.workers = workers
        # of each batch of a burst at most one per worker, so that all end at the same time
        self.parts = []
        # of a batch so far; before the first one is there, a burst is that one
        self.largest_bytes = 0
        self.loader = torch_loader(dataset, self.parts, workers, collate_arrays)

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        batches = iter(self.batch_sampler)
        while burst := list(itertools.islice(batches, self.n_batches)):
            loaded = self.load(burst)
            batches = itertools.chain(burst[len(loaded):], batches)
            self.largest_bytes = max(self.largest_bytes,
                                     *(sum(field.nbytes for field in batch) for batch in loaded))
            loaded.reverse()
            while loaded:      # none is kept after its use
                yield loaded.pop()

    @property
    def n_batches(self):
        """Of the next burst."""
        return max(1,
                   min(BURST_BATCHES,
                       BURST_BYTES // self.largest_bytes)) if self.largest_bytes else 1

    def load(self, burst):
        """[Batch] of lists of keys; the first alone once the run is asked to stop, which it does
        after the next step."""
        each = [split_evenly(keys, self.workers) for keys in burst]
        whole = []
        self.parts[:] = itertools.chain(*each)
        loaded = iter(self.loader)
        for parts in each:
            whole.append(concatenated([next(loaded) for _ in parts]))
            if stop_is_asked():
                break
        return whole


def split_evenly(items, n):
    """At most n parts of a list, in its order, of equal length but for the last."""
    size = math.ceil(len(items) / n)
    return [items[i:i + size] for i in range(0, len(items), size)]


def concatenated(parts):
    """One Batch of several of `collate_arrays`."""
    return as_tensors(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def collate(rows):
    """Batch of the dataset's rows."""
    return as_tensors(*collate_arrays(rows))


def collate_arrays(rows):
    """The fields of a Batch as arrays, images as they come: (B, H, W, 3)."""
    return [np.stack(field) for field in zip(*rows, strict=True)]


def as_tensors(images, *others):
    """Batch of arrays; images stay where they are, which is torch's memory format channels last."""
    return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), *map(torch.from_numpy, others))
