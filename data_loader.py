"""Catalog -> Folds -> Targets -> ImageDataset -> Batch: what a fit reads, from an audited contest.

    folds = make_folds(audit.train, n_folds=5, seed=42)
    targets = Targets.from_labels(audit.train)
    dataset = ImageDataset(audit.train_pixels, audit.train.sample_id, transform, (42, "fit"),
                           targets.probs, targets.weight)
    for batch in make_loader(dataset, EpochSampler(len(dataset), 64, (42, "fit")), workers=2): ...

contest/ leads from a folder to an audited contest. Letters: n samples, C classes, B batch, H x W
pixels, S side of the square.
"""
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
    csv_rows,
    csv_text,
    first_few,
    quoted_cell,
    seed_of,
    unquoted_cell,
    write_atomic,
)

LETTERBOX_FILL = (124, 116, 104)     # ImageNet's mean
# at most so much in one burst, see `Bursts`
BURST_BYTES = 2**27
BURST_BATCHES = 64
# seeded attempts at folds that hold every class
FOLD_ATTEMPTS = 20


# ---------------------------------------------------------------- folds

@dataclass(frozen=True, eq=False)
class Folds:
    """The fold that validates each sample: sample_id (n,) str, fold (n,) int8 in 0..n_folds-1, or
    -1 for a sample that a host's folds leave to training."""

    sample_id: np.ndarray
    fold: np.ndarray
    n_folds: int

    def __post_init__(self):
        object.__setattr__(self, "sample_id", as_strings(self.sample_id))
        object.__setattr__(self, "fold", np.asarray(self.fold, dtype=np.int8))

        n = len(self.fold)
        if len(self.sample_id) != n or len(set(self.sample_id.tolist())) != n:
            raise UserError(
                f"Folds need one fold for each of different samples, got {len(self.sample_id)} ids "
                f"and {n} folds")
        found = sorted(set(self.fold.tolist()) - {-1})
        if found != list(range(self.n_folds)):
            raise UserError(
                f"every fold from 0 to {self.n_folds - 1} must hold samples and no other may, got "
                f"{found}: ask for fewer by --set data.n_folds=N data.run_folds=N")

    def train_rows(self, fold):
        """Rows of the samples that `fold` does not validate. All rows for fold None (a refit)."""
        if fold is None:
            return np.arange(len(self.fold))
        return np.flatnonzero(self.fold != fold)

    def valid_rows(self, fold):
        """Rows of the samples that `fold` validates. No rows for fold None."""
        if fold is None:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self.fold == fold)


def make_folds(catalog, n_folds, seed):
    """The host's folds of a labelled Catalog if it has them. Else stratified folds that split no
    group, with every class in every fold if its groups allow that.

    Images of several classes each are spread by `spread_sets`. For all others it takes the first of
    20 seeded attempts that spreads all classes, or quantile bins of numbers, else the one with the
    fewest gaps (`spread_gaps`).
    """
    if catalog.fold is not None:
        return host_folds(catalog, n_folds)
    n_groups = len(set(catalog.group.tolist()))
    sizes = [catalog.of_class(k).sum() for k in range(len(catalog.classes))]
    most = min(n_groups, int(max(sizes, default=0)))
    if most < n_folds:
        fewer = f"--set data.n_folds={most}, or add images" if most > 1 else "add images"
        raise UserError(
            f"data.n_folds must be at most {most}, the size of the largest class or the number of "
            f"groups, got {n_folds}: {fewer}")

    if catalog.reading.values == "chances":
        fold = spread_sets(catalog.target, catalog.group, n_folds, seed)
        return Folds(catalog.sample_id, fold, n_folds)
    best = None
    fewest_gaps = math.inf
    for attempt in range(FOLD_ATTEMPTS):
        attempt_seed = seed_of(seed, "folds", attempt) if attempt else seed
        fold = stratified(catalog, n_folds, attempt_seed)
        gaps = spread_gaps(catalog, fold, n_folds)
        if gaps < fewest_gaps:
            best = fold
            fewest_gaps = gaps
        if gaps == 0:
            break

    folds = Folds(catalog.sample_id, best, n_folds)
    check_groups(catalog, folds)
    return folds


def host_folds(catalog, n_folds):
    """The Folds that the host gives. UserError if one is empty or divides the images of an id."""
    empty = sorted(set(range(n_folds)) - set(catalog.fold.tolist()))
    if empty:
        raise UserError(f"each of the host's {n_folds} folds must hold usable images, and {empty} "
                        "hold none: leave --fold_column out, and the folds are drawn")
    if catalog.unit is not None and (split := divided(catalog.unit, catalog.fold)):
        raise UserError(f"the images of an id must lie in one fold, and the host's folds divide "
                        f"{first_few(split)}: leave --fold_column out, and the folds are drawn")
    return Folds(catalog.sample_id, catalog.fold, n_folds)


def stratified(catalog, n_folds, seed):
    """The fold (n,) int8 of each sample, by scikit-learn's stratified splitters."""
    fold = np.zeros(len(catalog), dtype=np.int8)
    if len(set(catalog.group.tolist())) < len(catalog):
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        splits = splitter.split(fold, catalog.label, catalog.group)
    else:
        splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
        splits = splitter.split(fold, catalog.label)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for k, (_, rows) in enumerate(splits):
            fold[rows] = k
    return fold


def spread_sets(target, groups, n_folds, seed):
    """The fold (n,) int8 of each sample: iterative stratification of whole groups (n,).

    target (n, C) of 0 and 1. The class with the fewest images left is spread first, each of its
    groups to the fold that lacks most of it, then to the one that lacks most images (Sechidis et
    al., ECML 2011, algorithm 1; scikit-multilearn has it for single rows).
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(groups, return_inverse=True)
    n_groups = group.max() + 1
    n_images = np.bincount(group).astype(float)
    counts = np.stack([np.bincount(group, weights=column, minlength=n_groups)
                       for column in target.T], axis=1)
    # images of no class are spread like those of one more
    counts = np.column_stack([counts, np.bincount(group, weights=~target.any(1),
                                                  minlength=n_groups)])
    lacks = np.tile(counts.sum(0) / n_folds, (n_folds, 1))
    lacks_images = np.full(n_folds, n_images.sum() / n_folds)
    fold_of = np.full(n_groups, -1)
    order = rng.permutation(n_groups)
    while (left := order[fold_of[order] < 0]).size:
        of_class = (counts[left] > 0).sum(0)
        k = np.where(of_class > 0, of_class, np.inf).argmin()
        mine = left[counts[left, k] > 0]
        # the largest first: later ones even out what they leave
        for one in mine[np.argsort(-n_images[mine], kind="stable")]:
            fold = max(range(n_folds), key=lambda f: (lacks[f, k], lacks_images[f], rng.random()))
            fold_of[one] = fold
            lacks[fold] -= counts[one]
            lacks_images[fold] -= n_images[one]
    return fold_of[group].astype(np.int8)


def spread_gaps(catalog, fold, n_folds):
    """How many (class, fold) pairs lack samples although the class has enough groups. An empty fold
    weighs most."""
    gaps = 1000 * (n_folds - len(set(fold.tolist())))
    for k in set(catalog.label.tolist()):
        rows = catalog.label == k
        possible = min(n_folds, len(set(catalog.group[rows].tolist())))
        gaps += max(0, possible - len(set(fold[rows].tolist())))
    return gaps


def check_groups(catalog, folds):
    """RunError with the groups that lie in two folds, if any."""
    if split := divided(catalog.group, folds.fold):
        raise RunError(f"no group may lie in two folds, but these do: {first_few(split)}")


def divided(groups, fold):
    """The values of `groups` (n,) that lie in two folds."""
    folds_of = defaultdict(set)
    for group, k in zip(groups.tolist(), fold.tolist(), strict=True):
        folds_of[group].add(k)
    return [group for group, found in folds_of.items() if len(found) > 1]


def save_folds(folds, path):
    """csv: sample_id, fold."""
    rows = zip(map(quoted_cell, folds.sample_id.tolist()), folds.fold.tolist(), strict=True)
    write_atomic(path, csv_text([("sample_id", "fold"), *rows]))


def load_folds(path):
    """Folds from the csv of `save_folds`."""
    rows = csv_rows(path)
    fold = [int(row["fold"]) for row in rows]
    return Folds([unquoted_cell(row["sample_id"]) for row in rows], fold, max(fold, default=-1) + 1)


# ---------------------------------------------------------------- targets

# what a row of targets or predictions may hold
VALUES = {"shares": "probabilities that sum to 1", "chances": "probabilities",
          "numbers": "finite numbers"}


def are_rows_of(rows, values):
    """(n,) bool: whether rows (n, C) are finite and hold `values`, of VALUES."""
    is_row = np.isfinite(rows).all(axis=1)
    if values != "numbers":
        is_row &= ((rows >= 0) & (rows <= 1.001)).all(axis=1)
    if values == "shares":
        is_row &= np.abs(rows.sum(axis=1) - 1) <= 1e-3
    return is_row


@dataclass(frozen=True, eq=False)
class Targets:
    """What to learn: sample_id (n,), probs (n, C) float32, weight (n,) float32.

    values: what rows of `probs` hold, of VALUES: probabilities of classes, which sum to 1, or other
    numbers. taught: some rows come from teachers. blind_fold: the fold whose labels no teacher has
    seen; only its students may use these targets. None if the teachers have seen all folds.
    """

    sample_id: np.ndarray
    probs: np.ndarray
    weight: np.ndarray
    blind_fold: int | None = None
    taught: bool = False
    values: str = "shares"

    def __post_init__(self):
        object.__setattr__(self, "sample_id", as_strings(self.sample_id))
        object.__setattr__(self, "probs", np.asarray(self.probs, dtype=np.float32))
        object.__setattr__(self, "weight", np.asarray(self.weight, dtype=np.float32))
        n = len(self.sample_id)
        if self.probs.ndim != 2 or len(self.probs) != n or self.weight.shape != (n,):
            raise RunError(
                f"Targets of {n} samples need probs (n, C) and weight (n,), got "
                f"{self.probs.shape} and {self.weight.shape}")

        is_row = are_rows_of(self.probs, self.values)
        is_weight = np.isfinite(self.weight) & (self.weight >= 0)
        wrong = ~(is_row & is_weight)
        if wrong.any():
            raise RunError(
                f"rows of Targets must be {VALUES[self.values]}, with finite weights >= 0; "
                f"wrong for {first_few(self.sample_id[wrong])}")
        if self.blind_fold is not None and not self.taught:
            raise RunError(
                f"blind_fold {self.blind_fold} belongs to targets made by teachers, and these are "
                "plain labels")

    def __len__(self):
        return len(self.sample_id)

    @classmethod
    def from_labels(cls, catalog):
        """Targets of weight 1 from a Catalog whose samples are all labelled: its own, or one-hot.
        """
        missing = catalog.sample_id[catalog.label < 0]
        if len(missing):
            raise RunError(
                f"targets from labels need a label for every sample; none for {first_few(missing)}")
        values = catalog.reading.values
        if catalog.target is not None:
            return cls(catalog.sample_id, catalog.target, np.ones(len(catalog)), values=values)
        one_hot = np.eye(len(catalog.classes), dtype=np.float32)[catalog.label]
        return cls(catalog.sample_id, one_hot, np.ones(len(catalog)))

    @property
    def kind(self):
        """(n,) int: as Catalog.kind."""
        if self.values != "shares":
            return np.zeros(len(self), dtype=np.int64)
        return self.probs.argmax(1)

    def for_fold(self, fold):
        """These targets, if a student validated on `fold` may see them; RunError if not. A refit
        (None) may see any."""
        if fold is None or not self.taught or self.blind_fold == fold:
            return self
        if self.blind_fold is None:
            teachers = "teachers of all folds"
        else:
            teachers = f"teachers blind to fold {self.blind_fold} only"
        raise RunError(
            f"targets for fold {fold} must come from teachers that are blind to fold {fold}, got "
            f"{teachers}: this would leak validation labels")

    def take(self, rows):
        """The targets at `rows` (indices or a mask)."""
        return with_fields(self, sample_id=self.sample_id[rows], probs=self.probs[rows],
                           weight=self.weight[rows])

    def concat(self, other):
        """These rows, then the other's. If both are taught, they must be blind to the same fold."""
        if self.taught and other.taught and self.blind_fold != other.blind_fold:
            raise RunError(
                f"targets blind to fold {self.blind_fold} and to fold {other.blind_fold} must not "
                "be joined")
        taught = self if self.taught else other
        return Targets(
            sample_id=np.concatenate([self.sample_id, other.sample_id]),
            probs=np.concatenate([self.probs, other.probs]),
            weight=np.concatenate([self.weight, other.weight]),
            blind_fold=taught.blind_fold,
            taught=taught.taught,
            values=self.values,
        )


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
    height, width = image.shape[:2]
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    return resized(image[top:top + side, left:left + side], size_px, size_px)


def letterbox(image, size_px, fill=LETTERBOX_FILL):
    """uint8 (H, W, 3) -> (S, S, 3): the whole image, as large as fits, centred on colour `fill`."""
    scale = size_px / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    square = np.empty((size_px, size_px, 3), dtype=np.uint8)
    square[:] = fill
    top = (size_px - height) // 2
    left = (size_px - width) // 2
    square[top:top + height, left:left + width] = resized(image, height, width)
    return square


def resized(image, height, width):
    """The image at this size: by area averaging if it shrinks, cubic if it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=interpolation)


class Batch(NamedTuple):
    """images (B, 3, H, W) uint8 channels last, targets (B, C) float32, weight (B,) float32, index
    (B,) int64: rows of the dataset."""

    images: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor
    index: torch.Tensor


def noise_batch(n, n_classes, size_px):
    """A Batch of noise, its classes in turn, to try or time a step without images. Draws from
    torch's random state."""
    images = torch.randint(256, (n, 3, size_px, size_px), dtype=torch.uint8)
    index = torch.arange(n)
    targets = torch.eye(n_classes)[index % n_classes]
    return Batch(images, targets, torch.ones(n), index)


class ImageDataset(Dataset):
    """dataset[(epoch, i)]: image i as its transform shows it in that epoch, which depends on names
    only.

    transform(image (H, W, 3) uint8, seed, donor, epoch) -> (S, S, 3) uint8, or a list of n, one per
    image. donor(seed) is another image of the store, for transforms that paste one into another.
    probs None: targets of width 0 (prediction).
    """

    def __init__(self, store, sample_id, transform, seed_names, probs=None, weight=None):
        self.store = store
        self.sample_id = as_strings(sample_id)
        n = len(store)
        self.transforms = [transform] * n if callable(transform) else list(transform)
        self.seed_names = tuple(seed_names)
        if probs is None:
            probs = np.zeros((n, 0))
        if weight is None:
            weight = np.ones(n)
        self.probs = np.asarray(probs, dtype=np.float32)
        self.weight = np.asarray(weight, dtype=np.float32)

        lengths = {len(self.sample_id), len(self.probs), len(self.weight), len(self.transforms)}
        if lengths != {n}:
            raise RunError(
                f"a dataset needs one row of each per image, got {n} images, "
                f"{len(self.sample_id)} ids, {len(self.probs)} probs, {len(self.weight)} weights, "
                f"{len(self.transforms)} transforms")

    def __len__(self):
        return len(self.store)

    def __getitem__(self, key):
        epoch, i = key
        seed = seed_of(*self.seed_names, epoch, str(self.sample_id[i]))

        def donor(seed):
            n_others = max(1, len(self) - 1)
            return self.store[(i + 1 + seed % n_others) % len(self)]

        shown = self.transforms[i](self.store[i], seed, donor, epoch)
        return shown, self.probs[i], self.weight[i], i


class EpochSampler:
    """Lists of (epoch, i), shuffled anew in each epoch by the names alone.

    full_batches: the start of the epoch's order tops up a short last batch, so all have
    `batch_size`.
    """

    def __init__(self, n, batch_size, seed_names, full_batches=True):
        self.n = n
        self.batch_size = batch_size
        self.seed_names = tuple(seed_names)
        self.full_batches = full_batches
        self.epoch = 0
        self.first = 0

    def set_epoch(self, epoch, first=0):
        """first: the batch to begin with, in an epoch whose earlier batches are done."""
        self.epoch = epoch
        self.first = first

    def __len__(self):
        return math.ceil(self.n / self.batch_size)

    def __iter__(self):
        rng = np.random.default_rng(seed_of(*self.seed_names, "order", self.epoch))
        order = rng.permutation(self.n)
        if self.full_batches:
            order = np.resize(order, len(self) * self.batch_size)
        for start in range(self.first * self.batch_size, len(order), self.batch_size):
            yield [(self.epoch, int(i)) for i in order[start:start + self.batch_size]]


class InOrderSampler:
    """Lists of (number, i) in order, for prediction. The last may be short. number: which of
    `Several` datasets, else 0."""

    def __init__(self, n, batch_size):
        self.n = n
        self.batch_size = batch_size
        self.number = 0

    def __len__(self):
        return math.ceil(self.n / self.batch_size)

    def __iter__(self):
        for start in range(0, self.n, self.batch_size):
            end = min(start + self.batch_size, self.n)
            yield [(self.number, i) for i in range(start, end)]


def make_loader(dataset, sampler, workers, in_bursts=False):
    """Batches of `sampler`'s keys, anew in each iteration.

    workers: processes that live as long as the loader, at most one per usable core; 0 for none.
    in_bursts: for cores that both load and compute, see `Bursts`.
    """
    workers = max(0, min(workers, usable_cores()))
    if in_bursts and workers:
        return Bursts(dataset, sampler, workers)
    return torch_loader(dataset, sampler, workers, collate)


def torch_loader(dataset, batch_sampler, workers, collate):
    """torch's DataLoader with our settings."""
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
        # of its own, so the loader does not change the global random state
        generator=torch.Generator(),
    )


class Several(Dataset):
    """several[(number, i)]: row i of the dataset with that number."""

    def __init__(self, datasets):
        self.datasets = list(datasets)

    def __getitem__(self, key):
        number, i = key
        return self.datasets[number][0, i]


class SplitLoader:
    """Batches of any of several datasets {split: ImageDataset}, in order.

        for batch in loader.batches("test"): ...

    One set of processes loads them all, because forking costs.
    """

    def __init__(self, datasets, batch_size, workers, in_bursts=False):
        self.datasets = datasets
        self.batch_size = batch_size
        self.sampler = InOrderSampler(0, batch_size)
        self.loader = make_loader(Several(datasets.values()), self.sampler, workers, in_bursts)

    def batches(self, split, batch_size=None):
        """Batches of one split, of `batch_size` images if given. Valid until the next call."""
        sampler = self.sampler
        sampler.number = list(self.datasets).index(split)
        sampler.n = len(self.datasets[split])
        sampler.batch_size = batch_size or self.batch_size
        return self.loader


class Bursts:
    """Batches loaded many at a time, by all workers, while nothing is computed.

    A process that loads during computing takes a core from it, and the other cores wait for that
    one at the end of each operation. Batches come as arrays through a pipe. For parts this small
    that is cheaper than torch's shared tensors, each with a file, a descriptor and pages
    (benchmarks/RESULTS.md).
    """

    def __init__(self, dataset, sampler, workers):
        self.dataset = dataset
        self.batch_sampler = sampler
        self.workers = workers
        # keys: each batch of a burst in at most one part per worker, so that all end together
        self.parts = []
        self.largest_bytes = 0      # of a batch so far
        self.loader = torch_loader(dataset, self.parts, workers, collate_arrays)

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        batches = iter(self.batch_sampler)
        while burst := list(itertools.islice(batches, self.n_batches)):
            loaded = self.load(burst)
            batches = itertools.chain(burst[len(loaded):], batches)
            sizes = [sum(field.nbytes for field in batch) for batch in loaded]
            self.largest_bytes = max(self.largest_bytes, *sizes)

            # pop: no batch is kept after its use
            loaded.reverse()
            while loaded:
                yield loaded.pop()

    @property
    def n_batches(self):
        """Of the next burst. The first holds one batch, whose size is then known."""
        if not self.largest_bytes:
            return 1
        return max(1, min(BURST_BATCHES, BURST_BYTES // self.largest_bytes))

    def load(self, burst):
        """[Batch] of lists of keys. Ends early once the run is asked to stop, which it does after
        the next step."""
        parts_of_batches = [split_evenly(keys, self.workers) for keys in burst]
        self.parts[:] = itertools.chain(*parts_of_batches)
        loaded = iter(self.loader)
        batches = []
        for parts in parts_of_batches:
            batches.append(batch_of_parts([next(loaded) for _ in parts]))
            if stop_is_asked():
                break
        return batches


def split_evenly(items, n):
    """At most n parts of a list, in its order; all but the last of equal length."""
    size = math.ceil(len(items) / n)
    return [items[i:i + size] for i in range(0, len(items), size)]


def batch_of_parts(parts):
    """One Batch of several results of `collate_arrays`."""
    return batch_of_arrays(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def collate(rows):
    """Batch of the dataset's rows."""
    return batch_of_arrays(*collate_arrays(rows))


def collate_arrays(rows):
    """The fields of a Batch as arrays. Images stay (B, H, W, 3)."""
    return [np.stack(field) for field in zip(*rows, strict=True)]


def batch_of_arrays(images, *others):
    """Batch of arrays. Images (B, H, W, 3) are not copied: their order is channels last."""
    return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), *map(torch.from_numpy, others))
