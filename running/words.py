"""Reading the words in a run's images: a file of lines per split, one image after the other.

    read_words(prepared, "test", workers, log)      # in processes; goes on where a kill left it
    texts = load_texts(words_stage(prepared, "test").folder)      # {sample id: what it says}

Images are read as they are on the disk, at their full size. What was read of an image is kept by
its pixels in a file beside the runs, for a run that goes on and for other runs. An image whose
reading hangs or ends its process counts as one without words.
"""
import contextlib
import functools
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contest.decoding import WHITE_LEVEL, decode, read_bytes
from contest.pixels import shrunk
from modeling import words
from modeling.texts import text_of
from modeling.words import Line
from running.run import keep_warnings
from shift.distortions import ShiftPolicy, distort
from shift.groups import by_class
from system.log import Timer, progress
from system.machine import is_out_of_memory
from system.parallel import Lost, guarded_map
from system.stages import Stage, make
from utils import (
    RunError,
    UserError,
    counted,
    digest_bytes,
    digest_json,
    read_json,
    seed_of,
    write_atomic,
    write_json,
)

VERSION = 1                # of what is read of an image's pixels
LARGEST_SIDE_PX = 3200     # larger images are reduced to it
SECONDS = 120              # that reading an image may take
TRAIN, TESTLIKE, TEST = "train", "testlike", "test"
MIRRORS = ("flip_horizontal", "flip_vertical", "transpose", "transverse")
FILE = "words.jsonl"
SAMPLE_IMAGES = 60
FEWEST_WORDS = 5           # in an image, of SURE or more, of LETTERS or more
SURE = 0.8
LETTERS = 2


# ---------------------------------------------------------------- one image

class Picture(NamedTuple):
    """An image to read. policy: how it is distorted first, with other images of its fold."""

    path: str
    sha256: str
    sample_id: str
    policy: ShiftPolicy | None = None
    fold: int = 0


@dataclass(frozen=True)
class WordReader:
    """Picture -> {"pixels", "seconds", "lines"}. ValueError says why it cannot be read. Picklable.

    known: {digest of pixels: what was read of them}. mates: {fold: [(path, sha256)]}.
    """

    language: str
    mirrored: bool
    white_level: int = WHITE_LEVEL
    known: dict = field(default_factory=dict)
    mates: dict = field(default_factory=dict)

    def __call__(self, picture):
        rgb = self.pixels(picture.path, picture.sha256)
        if picture.policy is not None:
            mates = self.mates[picture.fold]
            rgb = distort(rgb, picture.policy, seed_of("words", picture.sample_id),
                          donor=lambda seed: self.pixels(*mates[seed % len(mates)]))
        key = digest_bytes(repr(rgb.shape).encode() + rgb.tobytes()) + "m" * self.mirrored
        if key in self.known:
            return self.known[key]
        try:
            with Timer() as timer:
                lines = opened(self.language)(rgb, self.mirrored)
        except Exception as error:      # recognisers raise anything
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            raise ValueError(f"{type(error).__name__}: {error}") from None
        return {"pixels": key, "seconds": timer.seconds, "lines": [asdict(line) for line in lines]}

    def pixels(self, path, sha256):
        """uint8 (H, W, 3). RunError unless the file is the one that the run saw before."""
        data = read_bytes(path)
        if sha256 and digest_bytes(data) != sha256:
            raise RunError(f"{path} has changed, and the run has read it before: put it back as it "
                           "was, then run the same command again to continue")
        return shrunk(decode(data, white_level=self.white_level).rgb, LARGEST_SIDE_PX)


@functools.cache
def opened(language):
    """The reader of a process."""
    return words.reader(language)


# ---------------------------------------------------------------- what was read before

class Cache:
    """What was read of pixels, by their digest, in a file that runs share: a JSON object a line."""

    def __init__(self, folder, language):
        made_of = {"version": VERSION, "language": language}
        self.path = Path(folder) / f".words-{digest_json(made_of)}.jsonl"
        self.known = {}
        if self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                # a kill has left half of a line, or somebody edited it
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    self.known[entry["pixels"]] = {
                        "pixels": entry["pixels"], "seconds": float(entry["seconds"]),
                        "lines": [asdict(line_of(each)) for each in entry["lines"]]}

    def add(self, entry):
        if entry["pixels"] not in self.known:
            self.known[entry["pixels"]] = entry
            text = json.dumps(entry, ensure_ascii=False) + "\n"
            with open(self.path, "ab") as f:
                # begin a new line after half of one
                f.write((b"" if self.ends_whole() else b"\n") + text.encode())

    def ends_whole(self):
        with open(self.path, "rb") as f:
            if not f.seek(0, os.SEEK_END):
                return True
            f.seek(-1, os.SEEK_END)
            return f.read() == b"\n"


# ---------------------------------------------------------------- a split

def is_mirrored(prepared, split):
    """Whether images of a split may be mirrored: test images, where the measured shift says so."""
    policies = [prepared.shift.policy, *(group.policy for group in prepared.shift.groups)]
    return split != TRAIN and any(policy.get(kind) for policy in policies for kind in MIRRORS)


def splits_to_read(prepared):
    """Training images as they are, and distorted like test images; test images."""
    splits = [TRAIN]
    if not prepared.shift.is_empty:
        splits.append(TESTLIKE)
    if len(prepared.audit.test):
        splits.append(TEST)
    return splits


def words_stage(prepared, split):
    """The stage of what a split's images say."""
    settings = {"read": VERSION, "language": prepared.config.model.text_language,
                "mirrored": is_mirrored(prepared, split)}
    inputs = [prepared.keys.audit]
    if split == TESTLIKE:
        inputs += [prepared.keys.shift, prepared.keys.folds]
    return Stage.of(prepared.folder / "words", split, version=1, settings=settings, inputs=inputs)


def pictures_in(catalog):
    """The Pictures of a catalog, as they are."""
    return [Picture(*values) for values in zip(
        catalog.path.tolist(), catalog.sha256.tolist(), catalog.sample_id.tolist(), strict=True)]


def pictures_of(prepared, split, rows=None):
    """The Pictures of a split's images, or of some rows."""
    catalog = prepared.audit.test if split == TEST else prepared.audit.train
    found = pictures_in(catalog)
    if split == TESTLIKE:
        policies = by_class(prepared.shift.groups, catalog.kinds, lambda group: group.policy)
        found = [picture._replace(policy=policies[k], fold=fold) for picture, k, fold in zip(
            found, catalog.kind, prepared.folds.fold.tolist(), strict=True)]
    return found if rows is None else [found[row] for row in rows]


def mates_of(prepared):
    """{fold: [(path, sha256)] of its training images}: a distortion may paste one into another."""
    train = prepared.audit.train
    files = zip(prepared.folds.fold.tolist(), train.path.tolist(), train.sha256.tolist(),
                strict=True)
    mates = {}
    for fold, *file in files:
        mates.setdefault(fold, []).append(file)
    return mates


def read_words(prepared, split, workers, log):
    """Read a split's images unless that is done."""
    def build(folder):
        with Timer() as timer:
            found, seconds = read_all(prepared, split, pictures, workers)
        pairs = list(zip(pictures, found, strict=True))
        if lost := lost_in([picture.sample_id for picture in pictures], found):
            text = f"the words in {counted(lost, f'{split} image')} could not be read"
            log.warn(text)
            keep_warnings([text], folder)
        rows = [{"sample_id": picture.sample_id, "lines": lines_in(each)}
                for picture, each in pairs]
        write_atomic(folder / FILE, "".join(
            json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_json(folder / "cost.json", {"seconds": timer.seconds, "images": len(rows),
                                          "seconds_each": seconds})
        log.say(f"words of {len(rows)} {split} images: {timer.seconds:.0f} s")

    pictures = pictures_of(prepared, split)
    make(words_stage(prepared, split), build, log)


def read_pictures(reader, pictures, workers, keep=lambda each: None):
    """[what was read of each Picture, or Lost]. keep(what was read): called as each is done."""
    found = [None] * len(pictures)
    for i, each in progress(guarded_map(reader, pictures, workers, SECONDS), desc="words",
                            total=len(pictures)):
        found[i] = each
        if not isinstance(each, Lost):
            keep(each)
    return found


def lost_in(names, found):
    """[name and why] of those of `read_pictures` that were Lost."""
    return [f"{name} ({each.reason})" for name, each in zip(names, found, strict=True)
            if isinstance(each, Lost)]


def lines_in(each):
    """The lines of what was read of an image; none of one that was Lost."""
    return [] if isinstance(each, Lost) else each["lines"]


def read_all(prepared, split, pictures, workers):
    """([what was read of each Picture, or Lost], mean seconds of an image)."""
    language = prepared.config.model.text_language
    cache = Cache(prepared.folder.parent, language)
    reader = WordReader(language, is_mirrored(prepared, split), prepared.audit.white_level,
                        cache.known, mates_of(prepared))
    found = read_pictures(reader, pictures, workers, cache.add)
    seconds = [each["seconds"] for each in found if not isinstance(each, Lost)]
    return found, float(np.mean(seconds)) if seconds else 0.0


def load_lines(folder):
    """{sample id: [Line]} of a stage."""
    with open(folder / FILE, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    return {row["sample_id"]: [line_of(each) for each in row["lines"]] for row in rows}


def line_of(values):
    return Line(values["text"], values["confidence"], tuple(values["place"]))


def load_texts(folder):
    """{sample id: its text, as a classifier takes it} of a stage."""
    return {sample: text_of(lines) for sample, lines in load_lines(folder).items()}


# ---------------------------------------------------------------- are there words at all?

@dataclass(frozen=True)
class Sample:
    """share: of images with words enough. seconds: of an image, on one core."""

    images: int
    share: float
    seconds: float


def sample_stage(prepared):
    settings = {"read": VERSION, "language": prepared.config.model.text_language}
    return Stage.of(prepared.folder / "words", "sample", version=1, settings=settings,
                    inputs=[prepared.keys.audit])


def sampled(prepared, workers, log):
    """The Sample of some training images as they are."""
    train = prepared.audit.train
    rows = some_rows(len(train))

    def build(folder):
        pictures = pictures_of(prepared, TRAIN, rows)
        found, seconds = read_all(prepared, TRAIN, pictures, workers)
        write_json(folder / "sample.json", {"images": len(rows), "share": share_of(found)})
        write_json(folder / "cost.json", {"seconds": seconds})

    folder = make(sample_stage(prepared), build, log).folder
    return load_sample(folder)


def load_sample(folder):
    return Sample(**read_json(folder / "sample.json"), **read_json(folder / "cost.json"))


def some_rows(n):
    """Rows of at most SAMPLE_IMAGES of n images."""
    return np.random.default_rng(seed_of("words")).permutation(n)[:SAMPLE_IMAGES]


def share_of(found):
    """The share of what was read of images that holds words enough."""
    lines = [map(line_of, lines_in(each)) for each in found]
    return float(np.mean([n_words(each) >= FEWEST_WORDS for each in lines]))


def n_words(lines):
    """How many words of [Line] are sure."""
    return sum(sum(map(str.isalnum, word)) >= LETTERS
               for line in lines if line.confidence >= SURE for word in line.text.split())
