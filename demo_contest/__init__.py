"""The embedded contest: 17 document classes, clean train images and distorted test images.

    folder = draw_contest("demo", size=0.25)        # 392 train + 784 test images
    answers_path(folder)                            # demo_answers.csv, beside the contest

Reading order: classes.py (who draws what), canvas.py, hospital.py, forms.py, cards.py, photos.py,
distort.py.
"""
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
from filelock import FileLock

from demo_contest.classes import CLASS_NAMES, TRAIN_COUNTS, draw_clean
from demo_contest.distort import apply, draw_distortion, needs_other
from system.machine import usable_cores
from utils import RunError, UserError, canonical_json, read_json, seed_of, write_atomic, write_json

VERSION = 1                 # raise when a drawn byte changes: other versions are refused
DEFAULT_SIZE = 0.25         # share of the full contest (1,570 + 3,140 images)
SMALL_SIZE = 0.1            # for machines on which even few epochs of that would take minutes
# CPU seconds of drawing a test image, on two cores, from which a machine is one: 2.5 times those of
# the machine that the times in README are of
SLOW_SECONDS = 0.045
MAX_SIZE = 4
MARK = ".demo.json"         # says what a drawn folder was made of
MIN_CLASS_COUNT = 5         # train images of a class, however small the contest
WRONG_LABEL_SHARE = 0.006
TRAIN_JPEG_QUALITY = 95
HOSPITAL = (3, 4, 7, 14)    # classes that are mislabelled as each other
RECEIPT_AS_PAYMENT = (11, 10)


@dataclass(frozen=True)
class Sample:
    """One image to draw: what it shows, and what train.csv says it shows."""

    name: str               # 16 hex digits and .jpg; reveals neither class nor order
    split: str              # train or test
    shown: int
    label: int
    seed: int


def draw_contest(folder, size=DEFAULT_SIZE, seed=0, workers=None):
    """Draw train/, test/ and the csv files of a contest in `folder`, unless done; return it.

    The same (size, seed) gives the same bytes for any number of `workers` (processes; None for one
    a core).
    """
    folder = Path(folder)
    made_of = {"version": VERSION, "size": _checked_size(size), "seed": seed}
    samples = plan(size, seed)
    # the lock makes a second start wait for the first
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not _is_drawn(folder, made_of):
            partial = folder.with_name(folder.name + ".partial")
            if partial.exists():
                shutil.rmtree(partial)
            _draw_images(partial, made_of["size"], seed, workers or usable_cores())
            _write_tables(partial, samples)
            write_json(partial / MARK, made_of)
            os.replace(partial, folder)
        if not answers_path(folder).is_file():
            answers = [(s.name, s.shown) for s in samples if s.split == "test"]
            write_atomic(answers_path(folder), _csv("ID,target", answers))
    return folder


def size_for(results_dir, cores=None):
    """The size that this machine ends with in minutes, and that is drawn already if one is.

    results_dir: where `folder_of` puts the contest. Timed by CPU time, which other programs leave
    alone.
    """
    for size in (DEFAULT_SIZE, SMALL_SIZE):
        if (folder_of(results_dir, size) / MARK).is_file():
            return size
    cores = cores or usable_cores()
    seconds = drawing_seconds() * 2 / min(2, cores)
    return SMALL_SIZE if seconds > SLOW_SECONDS else DEFAULT_SIZE


def folder_of(results_dir, size):
    """Where the embedded contest of a size is drawn."""
    return Path(results_dir) / f"demo_contest_{size:g}"


def drawing_seconds():
    """CPU seconds of drawing a test image of each class, the mean."""
    first = {sample.label: sample for sample in plan(SMALL_SIZE, 0) if sample.split == "test"}
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    start = time.process_time()
    for sample in first.values():
        draw_sample(sample)
    seconds = time.process_time() - start
    cv2.setNumThreads(threads)
    return seconds / len(first)


def answers_path(folder):
    """The csv of test answers, outside the contest's folder, so no reader of it sees them."""
    folder = Path(folder)
    return folder.with_name(folder.name + "_answers.csv")


def _checked_size(size):
    number = isinstance(size, (int, float)) and not isinstance(size, bool)
    if not (number and 0 < size <= MAX_SIZE):
        raise UserError(
            f"--demo_size must be above 0 and at most {MAX_SIZE} (1 is the full contest of "
            f"1,570 + 3,140 images), got {size!r}: leave it out for {DEFAULT_SIZE}"
        )
    return float(size)


def _is_drawn(folder, made_of):
    """Whether `folder` holds this contest. Raises UserError if it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = read_json(folder / MARK)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        found = "something else"
    if found != made_of:
        raise UserError(
            f"the demo folder {folder} must be new, empty or hold the demo of {made_of}, but it "
            f"holds {found}: delete it, or choose another folder"
        )
    return True


# ---------------------------------------------------------------- what to draw

def plan(size, seed):
    """All samples, sorted by name so that neither csv rows nor file dates reveal a class."""
    counts = [max(MIN_CLASS_COUNT, round(size * n)) for n in TRAIN_COUNTS]
    wrong = _wrong_labels(counts, random.Random(seed_of("demo", seed, "wrong labels")))
    samples = []
    for split, factor in (("train", 1), ("test", 2)):
        for label, count in enumerate(counts):
            for i in range(factor * count):
                names = ("demo", VERSION, seed, split, label, i)
                digest = hashlib.sha256(canonical_json((*names, "name")).encode()).hexdigest()
                shown = wrong.get((label, i), label) if split == "train" else label
                sample = Sample(f"{digest[:16]}.jpg", split, shown, label, seed_of(*names))
                samples.append(sample)
    return sorted(samples, key=lambda sample: sample.name)


def _wrong_labels(counts, rng):
    """{(label, index in that label): class the image really shows} for about 0.6 % of train.

    A quarter are pharmacy receipts labelled as payment confirmations, the others hospital papers
    labelled as each other.
    """
    n_wrong = round(WRONG_LABEL_SHARE * sum(counts))
    n_receipts = (n_wrong + 2) // 4
    shown, label = RECEIPT_AS_PAYMENT
    wrong = {(label, i): shown for i in rng.sample(range(counts[label]), n_receipts)}
    slots = [(label, i) for label in HOSPITAL for i in range(counts[label])]
    for label, i in rng.sample(slots, n_wrong - n_receipts):
        wrong[label, i] = rng.choice([other for other in HOSPITAL if other != label])
    return wrong


# ---------------------------------------------------------------- drawing and writing

def _draw_images(folder, size, seed, workers):
    """Draw every image of the plan in `workers` fresh processes.

    They are not forked, since a fork of a process with threads may hang.
    """
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    command = [sys.executable, "-m", "demo_contest", str(folder.resolve()), str(size), str(seed)]
    root = Path(__file__).resolve().parent.parent
    children = [subprocess.Popen([*command, str(part), str(workers)], cwd=root)
                for part in range(workers)]
    try:
        statuses = [child.wait() for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    if any(statuses):
        raise RunError(
            f"drawing the demo in {folder} failed (exit statuses {statuses}): see the lines above")


def draw_part(folder, size, seed, part, parts):
    """Draw and write every `parts`-th image of the plan, from number `part` on."""
    cv2.setNumThreads(1)        # one process a core is faster than several threads
    for sample in plan(size, seed)[part::parts]:
        image, quality = draw_sample(sample)
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        (Path(folder) / sample.split / sample.name).write_bytes(encoded.tobytes())


def draw_sample(sample):
    """(uint8 (H, W, 3) RGB, JPEG quality) of a sample; test samples are distorted."""
    image = draw_clean(sample.shown, sample.seed)
    if sample.split == "train":
        return image, TRAIN_JPEG_QUALITY
    rng = random.Random(seed_of(sample.seed, "distortion"))
    distortion = draw_distortion(rng)
    other = None
    if needs_other(distortion):
        other = draw_clean(rng.randrange(len(CLASS_NAMES)), rng.getrandbits(32))
    return apply(distortion, image, other), distortion.jpeg_quality


def _write_tables(folder, samples):
    train = [(s.name, s.label) for s in samples if s.split == "train"]
    write_atomic(folder / "train.csv", _csv("ID,target", train))
    write_atomic(folder / "meta.csv", _csv("target,class_name", enumerate(CLASS_NAMES)))
    submission = [(s.name, 0) for s in samples if s.split == "test"]
    write_atomic(folder / "sample_submission.csv", _csv("ID,target", submission))


def _csv(header, rows):
    return "\n".join([header, *(f"{a},{b}" for a, b in rows)]) + "\n"
