"""label_fixes.csv: labels mended in a report, applied to the training images.

    fixes = find_fixes(files, "label_fixes.csv")        # None without a file
    contest = mended(contest, fixes)                    # contest.fixes says what it changed

A row an image: its id, its label ('' leaves the image out), a note, which is not read.
"""
import csv
import re
from dataclasses import replace as with_fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contest.tables import read_table
from utils import UserError, counted, first_few, nearest, unquoted_cell

NAME = "label_fixes.csv"
COLUMNS = ("id", "label")
SAVED = "a report saves it with columns id, label and note"


class Fix(NamedTuple):
    """What the file says of one training image. before, label: class values; label '' = left out.
    """

    sample_id: str
    before: str
    label: str

    @property
    def is_kept(self):
        return self.label == self.before


def find_fixes(files, asked):
    """The Table that `asked` names, else the one in the contest folder; None if there is none.

    asked: data.label_fixes. UserError if it cannot be read or several are found.
    """
    if asked:
        path = Path(asked).expanduser()
        table = readable(path.parent, path.name, asked)
        if not is_fixes(table):
            raise UserError(f"--label_fixes must name a csv with the columns id and label, got "
                            f"{asked!r} with {first_few(table.columns) or 'none'}: {SAVED}")
        return table
    found = fixes_in(files)
    tables = [readable(files.root, path, path) for path in found]
    if len(tables) > 1:
        raise UserError(f"the contest folder must hold one {NAME}, got {first_few(found)}: "
                        "--label_fixes FILE takes one")
    return tables[0] if tables else None


def readable(folder, name, given):
    """The Table in a file. UserError names it as it was `given`."""
    try:
        if not (folder / name).is_file():
            raise UserError(f"--label_fixes must name a file, and {given!r} is none: check the "
                            "path, or save the file from report.html")
        return read_table(folder, name)[0]
    except (ValueError, csv.Error, OSError) as error:      # said as it is: the file is a person's
        raise UserError(f"{given!r} must be a csv of mended labels, and cannot be read ({error}): "
                        f"{SAVED}") from None


def is_fixes(table):
    return set(COLUMNS) <= set(table.columns)


def fixes_in(files):
    """The paths of the contest folder's files of that name and those columns."""
    found = []
    for path in files.tables:
        if path.rsplit("/", 1)[-1].lower() != NAME:
            continue
        with open(files.root / path, encoding="utf-8-sig", errors="replace") as f:
            header = f.readline(4096)
        if set(COLUMNS) <= {cell.strip(' "\r\n') for cell in re.split(r"[,;\t]", header)}:
            found.append(path)
    return found


def without_fixes(files):
    """The Files without such files: they are no label tables."""
    found = fixes_in(files)
    return with_fields(files, tables=tuple(path for path in files.tables if path not in found))


# ---------------------------------------------------------------- applied

def mended(contest, table):
    """The Contest with the labels of a Table of fixes. UserError for ids or classes it lacks."""
    if table is None or not table.n_rows:
        return contest
    if contest.train.target is not None:
        raise UserError(f"{table.path!r} mends labels of one class an image, and these are "
                        f"{contest.train.task}: mend the label table itself and take the file away")
    fixes = fixes_of(contest, table)
    train = contest.train
    label_of = {fix.sample_id: fix.label for fix in fixes}
    index = {value: k for k, value in enumerate(train.classes)} | {"": -1}
    label = train.label.copy()
    is_used = np.ones(len(train), dtype=bool)
    for row, sample in enumerate(units_of(train).tolist()):
        if sample in label_of:
            label[row] = index[label_of[sample]]
            is_used[row] = label_of[sample] != ""
    counts = np.bincount(label[is_used], minlength=len(train.classes))
    if np.count_nonzero(counts) < 2:
        raise UserError(f"{table.path!r} must leave images of at least 2 classes, and leaves "
                        f"{np.count_nonzero(counts)}: take rows out of it")
    line = f"fixes:      {table.path}: {in_words(fixes)} (--label_fixes FILE)"
    return with_fields(contest, train=with_fields(train, label=label).take(is_used),
                       fixes=fixes, understood=(*contest.understood, line))


def units_of(train):
    """(n,) the id that a fix of each image names: of all images of a unit."""
    return train.sample_id if train.unit is None else train.unit


def in_words(fixes):
    """12 labels changed, 3 images left out, 2 labels kept."""
    n_out = sum(fix.label == "" for fix in fixes)
    n_kept = sum(fix.is_kept for fix in fixes)
    parts = [(len(fixes) - n_out - n_kept, "label", "changed"), (n_out, "image", "left out"),
             (n_kept, "label", "kept")]
    said = [f"{n} {noun}{'' if n == 1 else 's'} {done}" for n, noun, done in parts if n]
    return ", ".join(said)


def fixes_of(contest, table):
    """(Fix of each row). A class may be given by its value or by its name."""
    train = contest.train
    unit_of = dict(zip(train.sample_id.tolist(), units_of(train).tolist(), strict=True))
    ids = [unit_of.get(name, name) for name in map(unquoted_cell, table.columns["id"])]
    labels = [unquoted_cell(cell) for cell in table.columns["label"]]
    before = {sample: train.classes[k] for sample, k in
              zip(units_of(train).tolist(), train.label.tolist(), strict=True)}
    unknown = [sample for sample in dict.fromkeys(ids) if sample not in before]
    if unknown:
        raise UserError(f"{table.path!r} must name training images, but this contest has none of "
                        f"{counted(unknown, 'id')}: take the rows out, or use the file with the "
                        "contest it was saved for")
    value_of = dict(zip(contest.class_names, train.classes, strict=True))
    value_of |= {value: value for value in train.classes} | {"": ""}
    wrong = [label for label in dict.fromkeys(labels) if label not in value_of]
    if wrong:
        raise UserError(f"{table.path!r} must give labels of this contest, but "
                        f"{first_few(wrong)} is no class{nearest(wrong[0], value_of)}: use one of "
                        f"{first_few(train.classes)}, or nothing to leave the image out")
    given = {}
    for sample, label in zip(ids, labels, strict=True):
        if given.setdefault(sample, value_of[label]) != value_of[label]:
            raise UserError(f"{table.path!r} must give each image one label, but gives {sample!r} "
                            f"both {given[sample]!r} and {label!r}: take one of its rows out")
    return tuple(Fix(sample, before[sample], label) for sample, label in given.items())
