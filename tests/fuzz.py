"""Damaged contests by a seeded generator, each through debug mode: a finished check or a named
problem, no traceback, no hang.

    OMP_NUM_THREADS=1 python -m tests.fuzz --n 300
    OMP_NUM_THREADS=1 python -m tests.fuzz --only 137 --keep DIR

Exit status 1 if one of them ends in anything else. The second command runs one of them again and
keeps its folder and output.

A variant is one of five layouts with one to three damages to its tables, images, folders or
weights. Each is checked in a process of its own, forked from one that has imported everything (no
Windows), within --seconds. Wrong is: an exit status that does not fit the table, an error that is
no sentence of ours, a raw control character, no end in time, a crash, or an image that was
destroyed and is named by no problem although the check went on.
"""
import argparse
import contextlib
import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from contest import audit, intake
from contest.files import ascii_safe
from grandmaster_train import main as train
from running import checks
from system.log import Timer
from tests.kills import killed_after

NAME = "mobilenetv3_small_050"
SETTINGS = (f"model.backbones={NAME}", "data.n_folds=2")
CLASSES = ("cat", "dog", "old owl")
KINDS = {"tables": [], "images": [], "folders": [], "weights": []}
# damages to tables after which each image still has its own label, or none
HARMLESS = frozenset((
    "bom_and_crlf", "carriage_returns", "other_encoding", "open_quote", "other_separator",
    "doubled", "header_only", "no_header", "empty_lines", "equal_column_names", "doubled_column",
    "shuffled_columns", "ragged", "lost_labels", "table_gone"))
# beside nothing of the contest: folders that begin with a dot are not searched
WEIGHTS = ".weights"


def damage(kind):
    """Register a function (root, rng) as a damage; it returns the paths of the images that it
    destroyed, or None."""
    def register(function):
        KINDS[kind].append(function)
        return function

    return register


# ---------------------------------------------------------------- whole contests

def picture(rng, size=(32, 24)):
    coarse = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.BICUBIC)


def draw(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(rng).save(path)


def names(letter, n):
    return [f"{letter}{i:02}.png" for i in range(n)]


def write(path, rows):
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def with_table(root, rng, header=("ID", "target"), cells=lambda k: (k,)):
    for name in names("a", 12):
        draw(root / "train" / name, rng)
    write(root / "train.csv",
          [header, *((name, *cells(i % 3)) for i, name in enumerate(names("a", 12)))])
    write(root / "sample_submission.csv", [header, *((name, *cells(0)) for name in names("t", 4))])


def numbered(root, rng):
    with_table(root, rng)
    write(root / "meta.csv", [("target", "class_name"), *enumerate(CLASSES)])


def named(root, rng):
    with_table(root, rng, cells=lambda k: (CLASSES[k],))
    (root / "classes.json").write_text(json.dumps({c: i for i, c in enumerate(CLASSES)}))


def one_hot(root, rng):
    with_table(root, rng, header=("ID", *CLASSES), cells=lambda k: [int(k == j) for j in range(3)])


def folders(root, rng):
    for i, name in enumerate(names("a", 12)):
        draw(root / "train" / CLASSES[i % 3] / name, rng)


def in_file_names(root, rng):
    for i in range(12):
        draw(root / "train" / f"{CLASSES[i % 2]}.{i}.png", rng)


LAYOUTS = (numbered, named, one_hot, folders, in_file_names)
WITH_TABLE = ("numbered", "named", "one_hot")


# ---------------------------------------------------------------- damages to tables

def some_table(root, rng):
    """A table that is there, or a new one. Raises FileExistsError where something else has its
    name: a link to /dev/zero has no end."""
    found = sorted(p for p in root.rglob("*.csv") if p.is_file() and not p.is_symlink())
    new = root / "train.csv"
    if not found:
        if os.path.lexists(new):
            raise FileExistsError(new)
        write(new, [("ID", "target"), *((n, i % 3) for i, n in enumerate(names("a", 12)))])
    return rng.choice(found or [new])


def edit_bytes(change):
    """A damage to the bytes of a table."""
    def edit(root, rng):
        path = some_table(root, rng)
        path.write_bytes(change(path.read_bytes(), rng))

    edit.__name__ = change.__name__
    KINDS["tables"].append(edit)
    return change


def edit_rows(change):
    """A damage to the rows of a table, as lists of cells."""
    def edit(root, rng):
        path = some_table(root, rng)
        rows = [line.split(",") for line in path.read_text(encoding="utf-8",
                                                           errors="replace").splitlines()]
        write(path, change(rows or [["ID", "target"]], rng))

    edit.__name__ = change.__name__
    KINDS["tables"].append(edit)
    return change


@edit_bytes
def cut_off(data, rng):
    return data[:rng.randrange(len(data) + 1)]


@edit_bytes
def flipped_bits(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@edit_bytes
def noise(data, rng):
    return rng.randbytes(rng.randrange(400))


@edit_bytes
def bom_and_crlf(data, rng):
    return b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") + b"\r\n" * rng.randrange(3)


@edit_bytes
def carriage_returns(data, rng):
    return data.replace(b"\n", b"\r")


@edit_bytes
def zero_characters(data, rng):
    return data.replace(b",", b",\0" if rng.random() < 0.5 else b"\0,", rng.randint(1, 9))


@edit_bytes
def other_encoding(data, rng):
    text = data.decode("utf-8", "replace").replace("cat",
                                                   rng.choice(("고양이", "café", "кот",
                                                               "猫"))).replace("\ufffd", "?")
    return text.encode(rng.choice(("utf-16", "utf-16-be", "utf-32", "cp949", "latin-1", "utf-7")),
                       "ignore")


@edit_bytes
def open_quote(data, rng):
    place = rng.randrange(len(data) + 1)
    return data[:place] + b'"' + data[place:]


@edit_bytes
def other_separator(data, rng):
    return data.replace(b",", rng.choice((b";", b"\t", b"|", b" ", b",,")))


@edit_bytes
def doubled(data, rng):
    return data + data


@edit_bytes
def very_long_cell(data, rng):
    return data + b"x" * rng.choice((1000, 140_000, 2_000_000)) + b",1\n"


@edit_rows
def header_only(rows, rng):
    return rows[:1]


@edit_rows
def no_header(rows, rng):
    return rows[1:]


@edit_rows
def empty_lines(rows, rng):
    return [*rows[:2], [], [""], *rows[2:], [], [" "] * len(rows[0])]


@edit_rows
def equal_column_names(rows, rng):
    return [[rows[0][0]] * len(rows[0]), *rows[1:]]


@edit_rows
def doubled_column(rows, rng):
    return [[*row, *row[-1:]] for row in rows]


@edit_rows
def shuffled_columns(rows, rng):
    order = rng.sample(range(len(rows[0])), len(rows[0]))
    return [[row[i] for i in order if i < len(row)] for row in rows]


@edit_rows
def ragged(rows, rng):
    return [row + ["9"] * rng.choice((0, 0, 0, 1, 3)) if rng.random() < 0.9 else row[:1]
            for row in rows]


@edit_rows
def lost_labels(rows, rng):
    return [rows[0],
            *(row if rng.random() < 0.6 else [*row[:1], *[rng.choice(("", "nan", "None", "NULL"))]
                                              * (len(row) - 1)] for row in rows[1:])]


@edit_rows
def odd_labels(rows, rng):
    odd = ("1.5", "-1", "1e3", "inf", "", "0,1", "cat dog", "[1, 2]", "{'a': 1}", "١", "²", "1_000",
           "True", "0x10", "00", "1.0")
    return [rows[0], *(row if rng.random() < 0.6 else [*row[:-1], rng.choice(odd)]
                       for row in rows[1:])]


@edit_rows
def one_class(rows, rng):
    return [rows[0], *([*row[:1], *rows[-1][1:]] for row in rows[1:])]


@edit_rows
def a_class_each(rows, rng):
    return [rows[0], *([*row[:-1], f"c{i}"] for i, row in enumerate(rows[1:]))]


@edit_rows
def evil_labels(rows, rng):
    evil = rng.choice(("\x1b[2J\x1b]0;x\x07", "<script>alert(1)</script>", "=cmd|' /C calc'!A0",
                       "\u202egnp", "a\u0000b", "{{7*7}}", "${jndi:ldap://x}", "%s%n",
                       "../../etc/passwd", "🦉🦉", "'; DROP TABLE x;--", "\ud7ff", "\x85\u2028"))
    old = rows[-1][-1] if rows[-1] else ""
    return [[evil if cell == old else cell for cell in row] for row in rows]


@edit_rows
def ids_that_leave(rows, rng):
    bad = ("../secret.png", "/etc/passwd", "C:\\x.png", "train/../../secret.png", "\\\\host\\x.png",
           "~/x.png", "file:///etc/passwd", "")
    return [rows[0], *([rng.choice(bad), *row[1:]] if rng.random() < 0.3 else row
                       for row in rows[1:])]


@edit_rows
def other_ids(rows, rng):
    change = rng.choice((str.upper, lambda i: i.removesuffix(".png"), lambda i: f" {i} ",
                         lambda i: f"train/{i}", lambda i: i + ".png",
                         lambda i: i.replace("a", "b"), lambda i: "x" * 300, lambda i: "1"))
    return [rows[0], *([change(row[0]), *row[1:]] for row in rows[1:] if row)]


@edit_rows
def contradictions(rows, rng):
    return rows + [[row[0], *rows[1 if len(rows) > 1 else 0][1:]] for row in rows[1:]
                   if rng.random() < 0.4]


@edit_rows
def formulas(rows, rng):
    return [[rng.choice("=+-@") + cell if rng.random() < 0.3 else cell for cell in row]
            for row in rows]


@edit_rows
def many_rows(rows, rng):
    return rows + [[f"ghost{i}.png", *rows[-1][1:]] for i in range(20_000)]


@edit_rows
def many_columns(rows, rng):
    return [[*row, *(f"f{j}" if i == 0 else f"0.{j}" for j in range(500))] for i,
            row in enumerate(rows)]


@damage("tables")
def table_that_is_no_file(root, rng):
    path = some_table(root, rng)
    path.unlink()
    rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"),
                lambda: path.symlink_to("/etc/passwd"), lambda: path.symlink_to(path),
                lambda: path.symlink_to("nowhere")))()


@damage("tables")
def table_gone(root, rng):
    some_table(root, rng).unlink()


@damage("tables")
def second_table(root, rng):
    shutil.copy(some_table(root, rng),
                root / rng.choice(("train_2.csv", "labels.csv", "sample_submission_b.csv",
                                   "test.csv")))


@damage("tables")
def bad_json(root, rng):
    deep = "[" * 100_000
    (root / "classes.json").write_text(rng.choice((
        deep, "{", '{"0": {"a": 1}}', '{"0": 1e999, "1": NaN}', "null", '{"0": "a", "0": "b"}',
        '{"0": "cat", "1": "cat", "2": "cat"}', "\ufeff{}", "9" * 5000)))


# ---------------------------------------------------------------- damages to images

def some_images(root, rng, most=3):
    found = sorted(p for p in root.rglob("*.png") if p.is_file() and not p.is_symlink())
    return rng.sample(found, min(len(found), rng.randint(1, most)))


def destroyed(change):
    """A damage after which some images cannot be read any more: each must be named."""
    def edit(root, rng):
        paths = some_images(root, rng)
        for path in paths:
            change(path, rng)
        return paths

    edit.__name__ = change.__name__
    KINDS["images"].append(edit)
    return change


def replaced(change):
    """A damage after which images may still be readable. change(path, rng)."""
    def edit(root, rng):
        for path in some_images(root, rng):
            change(path, rng)

    edit.__name__ = change.__name__
    KINDS["images"].append(edit)
    return change


@destroyed
def zero_bytes(path, rng):
    path.write_bytes(b"")


@destroyed
def no_image(path, rng):
    path.write_bytes(rng.choice((b"text", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                                 b"%!PS-Adobe-3.0", b"GIF89a", b"\xff\xd8\xff",
                                 b"<?php system($_GET[0]);", b"\0" * 5000, pickle.dumps({"a": 1}),
                                 b"II*\0" + b"\xff" * 40)))


@destroyed
def half_an_image(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[:rng.randrange(len(data) // 2)])


@destroyed
def image_bomb(path, rng):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4,
                                                                                             "big")

    side = rng.choice((20_000, 60_000, 2**31 - 1))
    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT",
                                                                           zlib.compress(
                                                                               bytes(10**6)))
                     + chunk(b"IEND", b""))


@destroyed
def link_out(path, rng):
    path.unlink()
    path.symlink_to(rng.choice(("/etc/passwd", "/dev/zero", "/dev/random", "/proc/self/mem",
                                "../../../../etc/hosts")))


@destroyed
def pipe(path, rng):
    path.unlink()
    os.mkfifo(path)


@replaced
def flipped_image_bits(path, rng):
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 30)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


@replaced
def other_mode(path, rng):
    mode = rng.choice(("1", "L", "LA", "P", "RGBA", "I;16", "I", "CMYK", "F", "YCbCr"))
    image = picture(rng).convert("L").convert("I").convert(mode) if mode in ("I;16", "I",
                                                                             "F") else picture(
                                                                                 rng).convert(mode)
    image.save(path, format="TIFF" if mode in ("F", "CMYK", "YCbCr") else "PNG")


@replaced
def other_format(path, rng):
    picture(rng).save(path, format=rng.choice(("JPEG", "GIF", "BMP", "WEBP", "TIFF", "ICO", "PPM",
                                               "TGA")))


@replaced
def odd_size(path, rng):
    picture(rng, rng.choice(((1, 1), (1, 3000), (3000, 1), (2, 2), (9000, 3)))).save(path)


@replaced
def same_bytes(path, rng):
    path.write_bytes(next(p for p in sorted(path.parent.iterdir()) if p.is_file()).read_bytes())


@replaced
def blank(path, rng):
    Image.new("RGB", (30, 30), rng.choice(("white", "black"))).save(path)


@replaced
def odd_name(path, rng):
    odd = (
        "고양이.png",
        unicodedata.normalize("NFD", "고양이.png"),
        "🦉.PNG",
        "a b.png",
        "-rf.png",
        "a\nb.png",
        "\x1b[31m.png",
        "x" * 240 + ".png",
        "=1+1.png",
        "a.png.png",
        ".png",
        "%00.png",
        "a..png",
        "con.png",
        "<b>.png",
        "a'b\"c.png",
        b"\xff\xfe.png".decode("utf-8", "surrogateescape"),
    )
    os.replace(path, path.with_name(rng.choice(odd)))


# ---------------------------------------------------------------- damages to folders

@damage("folders")
def folder_gone(root, rng):
    shutil.rmtree(root / rng.choice(("train", "test")), ignore_errors=True)


@damage("folders")
def folder_renamed(root, rng):
    for old in rng.sample(("train", "test"), rng.randint(1, 2)):
        if (root / old).is_dir():
            new = rng.choice(("Train", "images", "test_images", "훈련", "train set", "x", "testing",
                              "a\nb"))
            (root / old).rename(root / new)


@damage("folders")
def nested(root, rng):
    inner = root / Path(*rng.choices(("data", "train", "a b", "x", "test"), k=rng.randint(1, 6)))
    shutil.copytree(root, root.parent / "copy", symlinks=True)
    shutil.rmtree(root)
    inner.parent.mkdir(parents=True, exist_ok=True)
    (root.parent / "copy").rename(inner)


@damage("folders")
def all_in_one(root, rng):
    for path in sorted(p for p in root.rglob("*.png") if p.is_file()):
        os.replace(path, root / path.name)


@damage("folders")
def loops(root, rng):
    (root / "train" / "loop").parent.mkdir(exist_ok=True)
    (root / "train" / "loop").symlink_to(rng.choice((root, root / "train", "loop", "/", "/proc",
                                                     root.parent)))


@damage("folders")
def strangers(root, rng):
    for name in rng.sample(("Thumbs.db", "x.dcm", "a.npy", "train.zip", "__MACOSX/._a.png",
                            ".hidden.png", "a.tfrec", "README.md", "b.bson", "train.parquet",
                            "images.h5", "a.csv.gz", "empty/"), 4):
        (root / name).parent.mkdir(exist_ok=True)
        if name.endswith("/"):
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).write_bytes(rng.randbytes(50))


@damage("folders")
def only_strangers(root, rng):
    shutil.rmtree(root)
    root.mkdir()
    for i in range(rng.randrange(4)):
        (root / f"{i}{rng.choice(('.dcm', '.npy', '.tfrecord', '.txt', '.zip', ''))}").write_bytes(
            b"x")


@damage("folders")
def image_is_a_folder(root, rng):
    for path in some_images(root, rng):
        path.unlink()
        path.mkdir()


@damage("folders")
def a_file_for_a_folder(root, rng):
    shutil.rmtree(root / "test", ignore_errors=True)
    (root / "test").write_text("x")


@damage("folders")
def no_folder(root, rng):
    shutil.rmtree(root)
    if rng.random() < 0.5:
        root.write_text("x")


@damage("folders")
def empty_class(root, rng):
    (root / "train" / "nobody").mkdir(parents=True, exist_ok=True)


# ---------------------------------------------------------------- damages to weights

class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


STATE = {}


def state_dict():
    """A fitting state dict, made once."""
    if not STATE:
        STATE.update(timm.create_model(NAME).state_dict())
    return dict(STATE)


def weights_file(change):
    """A damage: a weights file that change(path, rng) writes; path is without suffix."""
    def edit(root, rng):
        (root / WEIGHTS).mkdir(parents=True)
        change(root / WEIGHTS / NAME, rng)

    edit.__name__ = change.__name__
    KINDS["weights"].append(edit)
    return change


@weights_file
def good_weights(path, rng):
    save_file(state_dict(), path.with_suffix(".safetensors"))


@weights_file
def pickle_with_code(path, rng):
    owned, target = path.parent.parent.parent / "owned", path.with_suffix(".pth")
    if rng.random() < 0.5:
        torch.save({"conv_stem.weight": Code(owned)}, target)
    else:
        target.write_bytes(pickle.dumps(Code(owned)))


@weights_file
def damaged_weights(path, rng):
    suffix = rng.choice((".safetensors", ".pth"))
    target = path.with_suffix(suffix)
    save_file(state_dict(), target) if suffix == ".safetensors" else torch.save(state_dict(),
                                                                                target)
    data = bytearray(target.read_bytes())
    if rng.random() < 0.5:
        data = data[:rng.randrange(len(data))]
    else:
        for _ in range(20):
            data[rng.randrange(min(len(data), rng.choice((64, 4000, len(data)))))] = rng.randrange(
                256)
    target.write_bytes(data)


@weights_file
def no_weights(path, rng):
    path.with_suffix(rng.choice((".safetensors", ".pth"))).write_bytes(rng.choice((b"", b"text",
                                                                                   b"\xff" * 100,
                                                                                   (2**60).to_bytes(
                                                                                       8, "little")
                                                                                   + b"{}",
                                                                                   b"PK\x03\x04"
                                                                                   + bytes(50),
                                                                                   b"\x80\x04N.")))


@weights_file
def odd_values(path, rng):
    value = rng.choice((float("nan"), float("inf"), 1e38))
    save_file({k: torch.full_like(v, value) if v.is_floating_point() else v for k,
               v in state_dict().items()}, path.with_suffix(".safetensors"))


@weights_file
def other_shapes(path, rng):
    state = state_dict()
    torch.save(rng.choice(({}, [1], {k: v[:1] if v.ndim else v for k, v in state.items()},
                           {"state_dict": state}, {"model": state},
                           {f"module.{k}": v for k, v in state.items()},
                           {f"x.{k}": v for k, v in state.items()},
                           {k: v.half() for k, v in state.items()}, dict.fromkeys(state, "x"),
                           state["conv_stem.weight"])), path.with_suffix(".pth"))


@weights_file
def weights_folder(path, rng):
    path.with_suffix(".pth").mkdir()


# ---------------------------------------------------------------- one variant

def make_variant(root, number, seed):
    """(names of what was done, names of images that were destroyed) of the variant's folder."""
    rng = random.Random(f"{seed}/{number}")
    layout = rng.choice(LAYOUTS)
    layout(root, rng)
    for name in names("t", 4):
        draw(root / "test" / name, rng)
    kinds = [list(KINDS)[number % len(KINDS)], *rng.choices(("tables", "images", "folders"),
                                                            k=rng.choice((0, 0, 1, 2)))]
    # so that destroyed images stay where they are
    kinds.sort(key=("weights", "tables", "folders", "images").index)
    done, lost = [layout.__name__], {}
    for kind in kinds:
        function = rng.choice(KINDS[kind])
        try:
            lost |= {path: content_of(path) for path in function(root, rng) or ()}
            done.append(function.__name__)
        except OSError:      # an earlier damage left nothing for this one
            done.append(f"({function.__name__})")
    # a later damage may have put a whole image there
    return done, [ascii_safe(path.name).strip("'") for path, content in lost.items()
                  if content_of(path) == content]


def content_of(path):
    """What tells whether a path was written again: its bytes, or what else lies there."""
    if path.is_file() and not path.is_symlink():
        return path.read_bytes()
    return path.lstat().st_mode if os.path.lexists(path) else None


def run_debug(root, results, output):
    """In a fork: debug mode on a folder; writes {status, said, named} to `output` and ends the
    process."""
    named, said, labels = set(), io.StringIO(), {}

    def recorded(function, *args):
        found = function(*args)
        named.update(sample for p in found.problems for sample in p.sample_ids)
        train = found.train
        labels.update({Path(path).name: train.classes[label] for path, label
                       in zip(train.path.tolist(), train.label.tolist(), strict=True)})
        return found

    for function in (intake.read_contest, audit.load_audit):
        setattr(checks, function.__name__, partial(recorded, function))
    argv = ["--mode", "debug", "--data_path", str(root), "--results_dir", str(results)]
    argv += ["--weights_dir", str(root / WEIGHTS)] if (root / WEIGHTS).is_dir() else []
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = train([*argv, "--set", *SETTINGS])
        except BaseException:
            traceback.print_exc()
            status = -1
    output.write_text(json.dumps({"status": status, "said": said.getvalue(),
                                  "named": sorted(named), "labels": labels}, ensure_ascii=True))
    os._exit(0)


def check_variant(folder, number, seed, seconds):
    """(names of what was done, what ended wrong or '', how it ended) of one variant."""
    root, output = folder / "contest", folder / "output.json"
    root.mkdir(parents=True)
    done, lost = make_variant(root, number, seed)
    pid = os.fork()
    if pid == 0:
        run_debug(root, folder / "results", output)
    status = killed_after(pid, seconds)
    if status:
        return (
            done,
            f"no end in {seconds} s"
            if status == -signal.SIGKILL
            else f"crashed with status {status}",
            "",
        )
    got = json.loads(output.read_text())
    wrong = wrong_in(got["status"], got["said"], got["named"], lost, folder)
    if not wrong and not re.search(r"^data +FAILED", got["said"], re.MULTILINE):
        has_table = root.is_dir() and any(root.rglob("*.csv"))
        wrong = wrong_labels(done, got["labels"], has_table)
    return done, wrong, ending(got["said"])


def wrong_labels(done, labels, has_table):
    """What is wrong with the classes that images were read with, '' for nothing.

    has_table: whether a table is left. Where a damage took the last thing that says the classes,
    nothing is wrong.

    The layouts give image a07.png or cat.7.png the class of 7 modulo 3 or 2. Which images are of
    one class must be right; what the class is called may change with a folder.
    """
    layout, *damages = done
    tables = {function.__name__ for function in KINDS["tables"]}
    is_lost = not has_table if layout in WITH_TABLE else "all_in_one" in damages
    if is_lost or set(damages) & (tables - HARMLESS):
        return ""
    n_classes = 2 if layout == "in_file_names" else 3
    pairs = set()
    for name, label in labels.items():
        if number := re.fullmatch(r"(?:a|\w+\.)(\d+)\.png", name):
            pairs.add((int(number[1]) % n_classes, label))
    mixed = len({truth for truth, _ in pairs}) < len(pairs) or len(
        {label for _, label in pairs}) < len(pairs)
    return f"wrong labels: {sorted(pairs)}" if mixed else ""


def wrong_in(status, said, named, lost, folder):
    """What is wrong with an answer, '' for nothing."""
    n_failed = re.search(r"(\d+) failed", said)
    if "Traceback" in said or "a mistake of ours" in said:
        return "a traceback"
    if unnamed := re.search(r"FAILED +(\w+(?:Error|Exception|Interrupt)): .*", said):
        return f"an error that is no sentence: {unnamed[0][:200]}"
    if n_failed is None or status != (1 if int(n_failed[1]) else 0):
        return f"exit status {status} with {said[-200:]!r}"
    if raw := re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said):
        return f"a raw control character {raw[0]!r}"
    if (folder / "owned").exists():
        return "code of the weights file ran"
    if re.search(r"^data +FAILED", said, re.MULTILINE):
        return ""
    silent = [name for name in lost if not any(sample.endswith(name) or Path(name).stem in sample
                                               for sample in named)]
    return f"destroyed images that no problem names: {silent}" if silent else ""


def ending(said):
    states = re.findall(rf"^(data|{NAME}) +(\w+)", said, re.MULTILINE)
    return ", ".join(f"{'weights' if name == NAME else name} {state}" for name, state in states)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=300, help="number of variants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="for one variant")
    parser.add_argument("--only", type=int, help="this variant alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave folders and outputs there")
    args = parser.parse_args(argv)
    state_dict()
    numbers, wrong, endings, used, slowest = range(args.n) if args.only is None else [
        args.only], [], Counter(), Counter(), 0.0
    with tempfile.TemporaryDirectory() as scratch, Timer() as timer:
        for number in numbers:
            folder, start = (args.keep or Path(scratch)) / str(number), time.perf_counter()
            done, problem, how = check_variant(folder, number, args.seed, args.seconds)
            slowest = max(slowest, time.perf_counter() - start)
            used.update(done[1:])
            endings[how] += 1
            if problem:
                wrong.append(number)
                print(f"wrong: variant {number} ({', '.join(done)}): {problem}", flush=True)
            if not args.keep:
                shutil.rmtree(folder)
    for how, count in endings.most_common():
        print(f"{count:>4}  {how}")
    damages = {name for name in used if not name.startswith("(")}
    print(
        f"{len(numbers) - len(wrong)} of {len(numbers)} variants (seed {args.seed}, "
        f"{len(damages)} of {sum(map(len, KINDS.values()))} damages) ended in a finished check "
        f"or a named problem, in {timer.seconds:.0f} s, the slowest in {slowest:.1f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
