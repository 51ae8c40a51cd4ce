"""The form of a submission: its columns, rows and cells, and the checked file.

    # UserError if the columns cannot hold what the metric scores
    form = contest.form.for_metric("log_loss", "probability", classes)
    rows = form.rows(probs)     # probs (n, C), rows in the order of form.ids
    form.write(rows, path)

Letters: n rows, C classes.
"""
import csv
import math
import os
import re
import unicodedata
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from utils import RunError, UserError, csv_text, first_few, write_atomic

OF_A_CLASS = "macro_f1 or accuracy"      # metrics that any submission of one column holds
RANKED = 5      # classes in a cell that holds a ranking
KINDS = ("class", "ranking", "positive", "probabilities", "set", "flags", "chances", "numbers")
DIVIDED = KINDS[:4]     # of which the probabilities of a row sum to 1
BY_COLUMN = ("probabilities", "flags", "chances", "numbers")       # a column per class
NEGATION = re.compile(r"(?:.*[\W_])?(?:non?|not|without|is_?nt|un|anti)[\s_\-]*")


def plain_name(text):
    """A name in one Unicode form, without case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFC", text)).casefold()


def match_columns(columns, *namings):
    """The class index of each column (-1 = none), by the naming of the classes that fits most.

        match_columns(("prob_dog", "prob_cat"), ("cat", "dog"))     # (1, 0)

    Names are compared as they are, then as `plain_name`, each time also without a shared prefix of
    the columns. The prefix may be any part of their common beginning: `prob_cat` and `prob_car`
    begin with `prob_ca`. A single column loses whole words only: `is_cat` names the class `cat`,
    `prediction` does not name the class `n`.
    """
    common = os.path.commonprefix(columns)     # noqa: RUF071 (characters are meant)
    cuts = [n for n in range(len(common) + 1)
            if n == 0 or len(columns) > 1 or not common[n - 1].isalnum()]
    readings = [(-1,) * len(columns)]
    for names in namings:
        for key in (str, plain_name):
            index = {key(name): k for k, name in enumerate(names)}
            if len(index) < len(names):
                continue
            for cut in cuts:
                keys = [key(c[cut:]) for c in columns]
                if len(set(keys)) == len(keys):
                    found = tuple(index.get(k, -1) for k in keys)
                    readings.append(negated(found, columns, cut, names))
    return max(readings, key=lambda found: len(set(found) - {-1}))


def negated(found, columns, cut, names):
    """`found`, but the other class for one column that negates the name of a class, as no_tumor."""
    if len(columns) != 1 or found == (-1,) or not NEGATION.fullmatch(columns[0][:cut].lower()):
        return found
    return (1 - found[0],) if len(names) == 2 else (-1,)


@dataclass(frozen=True)
class Form:
    """Columns, rows and cells of a submission.

    header: column names, in order. ids: one per row, in order. class_of: for each column except the
    ids', the index of the class it is named after (-1 = a class without training images); () if
    columns are not named after classes. source: the table that dictates the form, '' = none.
    kind: what the cells hold, of KINDS; '' until `for_metric`. separator: between cells. joint:
    between the classes in a cell of kind set. backwards: these stand in descending order.
    """

    header: tuple[str, ...]
    id_column: str
    ids: tuple[str, ...]
    class_of: tuple[int, ...] = ()
    source: str = ""
    kind: str = ""
    classes: tuple[str, ...] = ()
    separator: str = ","
    joint: str = " "
    backwards: bool = False

    @property
    def columns(self):
        """Names of all columns except the ids'."""
        return tuple(c for c in self.header if c != self.id_column)

    @property
    def has_class_columns(self):
        return len(self.columns) > 1

    @property
    def positive(self):
        """The class whose probability a single column holds: the one it is named after, else the
        last."""
        return self.class_of[0] if self.class_of else len(self.classes) - 1

    def for_metric(self, metric, answer, classes):
        """This form with its kind, decided by its columns and by what the metric scores.

        answer: as ensemble.metrics.Metric says. UserError if the columns cannot hold it.
        """
        form = replace(self, classes=classes)
        if answer == "set" and self.has_class_columns:
            return replace(form, kind="flags")
        if answer == "set":
            held = [c for c in classes if self.joint in c]
            if held:
                raise UserError(
                    f"class names must not hold {self.joint!r}, which separates the names in a "
                    f"cell of the submission, got {first_few(held)}: rename these classes where "
                    "the labels are")
            return replace(form, kind="set")
        if answer == "chance":
            return form.for_chances(metric)
        if answer == "number":
            return form.for_numbers()
        if self.has_class_columns:
            if answer in ("grade", "ranking"):
                raise UserError(
                    f"--metric {metric} needs a submission with one column beside the ids, but "
                    f"{self.source!r} has {len(self.columns)}, one per class: choose log_loss or "
                    "auc"
                )
            return replace(form, kind="probabilities")

        if answer == "probability":
            return form.for_probabilities(metric)

        spaced = [c for c in classes if re.search(r"\s", c)]
        if answer == "ranking" and spaced:
            raise UserError(
                f"--metric {metric} needs class names without spaces, which separate the names in "
                f"a cell, got {first_few(spaced)}: rename these classes where the labels are, or "
                f"choose {OF_A_CLASS}"
            )
        if answer == "grade" and not are_grades(classes):
            raise UserError(
                f"--metric {metric} needs classes that are consecutive whole numbers, got "
                f"{first_few(classes)}: choose {OF_A_CLASS}"
            )
        return replace(form, kind="ranking" if answer == "ranking" else "class")

    def for_numbers(self):
        """This form, for a number in each column."""
        n_columns = len(self.columns)
        if n_columns != len(self.classes):
            raise UserError(
                f"{self.source!r} must have a column for each of the {len(self.classes)} numbers "
                f"{first_few(self.classes)}, got {first_few(self.columns)}: --set "
                "data.target_column=NAME,NAME names those to predict")
        is_named = len(self.class_of) == n_columns and -1 not in self.class_of
        return replace(self, kind="numbers",
                       class_of=self.class_of if is_named else tuple(range(n_columns)))

    def for_chances(self, metric):
        """This form, for a metric that scores a probability of each class by itself."""
        if self.has_class_columns:
            return replace(self, kind="chances")
        if self.source:
            raise UserError(
                f"--metric {metric} needs one column for each of the {len(self.classes)} classes, "
                f"but {self.source!r} has the column {first_few(self.columns)} alone: choose "
                "samples_f1")
        return replace(self, kind="chances", header=(self.id_column, *self.classes),
                       class_of=tuple(range(len(self.classes))))

    def for_probabilities(self, metric):
        """This form, with one column besides the ids, for a metric that scores probabilities."""
        if len(self.classes) == 2:
            return replace(self, kind="positive")
        if self.source:
            raise UserError(
                f"--metric {metric} needs one probability column for each of the "
                f"{len(self.classes)} classes, but {self.source!r} has the column "
                f"{first_few(self.columns)} alone: choose {OF_A_CLASS}"
            )
        return replace(self, kind="probabilities", header=(self.id_column, *self.classes),
                       class_of=tuple(range(len(self.classes))))

    def describe(self):
        """What will be written, in one line."""
        if not self.ids:
            return "none, as there are no test images"
        columns = ",".join(self.header[:3])
        if len(self.header) > 3:
            columns += f",.. ({len(self.header)} columns)"
        origin = f"as {self.source}" if self.source else "of the test images"
        return f"{len(self.ids)} rows {columns} {origin}, {self.describe_cells()}"

    def describe_cells(self):
        positive = f"the probability of {self.classes[self.positive]!r}"
        if self.kind == "class" and len(self.classes) == 2:
            return f"the class value (--metric auc or log_loss: {positive})"
        n_ranked = min(RANKED, len(self.classes))
        return {
            "class": "the class value",
            "ranking": f"the {n_ranked} likeliest class values, separated by spaces",
            "positive": positive,
            "probabilities": "the probability of each class",
            "set": f"the class values, separated by {self.joint!r}",
            "flags": "1 for each class in the image, else 0 (--metric auc: its probability)",
            "chances": "the probability of each class (--metric samples_f1: 1 or 0)",
            "numbers": "numbers within the range of the training labels",
        }[self.kind]

    # ------------------------------------------------------------ from predictions to rows and back

    def rows(self, probs):
        """Rows of text, cells in the header's order. probs: (n, C), rows as `ids`."""
        place = self.header.index(self.id_column)
        probs = np.asarray(probs, dtype=np.float64)
        if self.kind in DIVIDED:
            probs = probs / probs.sum(1, keepdims=True)     # float32 rows sum to 1 only roughly
        rows = []
        for sample_id, row in zip(self.ids, probs, strict=True):
            cells = self.cells(row)
            rows.append((*cells[:place], sample_id, *cells[place:]))
        return rows

    def cells(self, row):
        """One row's cells besides the id, from its probabilities (C,)."""
        if self.kind == "class":
            return (self.classes[int(row.argmax())],)
        if self.kind == "ranking":
            best = np.argsort(-row, kind="stable")[:RANKED]
            return (" ".join(self.classes[k] for k in best),)
        if self.kind == "positive":
            return (f"{row[self.positive]:.12g}",)
        if self.kind == "set":
            names = [c for c, has in zip(self.classes, row, strict=True) if has]
            return (self.joint.join(names[::-1] if self.backwards else names),)
        return tuple(f"{row[k]:.12g}" if k >= 0 else "0" for k in self.class_of)

    def probs(self, rows):
        """Probabilities (n, C) from rows of text.

        A class gets 1, the classes of a ranking falling shares; probabilities are taken as written.
        """
        index = {c: k for k, c in enumerate(self.classes)}
        out = np.zeros((len(rows), len(self.classes)))
        for i, row in enumerate(rows):
            cells = self.answers(row)
            if self.kind == "positive":
                out[i] = 1 - float(cells[0])
                out[i, self.positive] = float(cells[0])
            elif self.kind in BY_COLUMN:
                for k, cell in zip(self.class_of, cells, strict=True):
                    if k >= 0:
                        out[i, k] = float(cell)
            else:
                named = self.named_classes(cells)
                if self.kind == "set":
                    out[i, [index[c] for c in named]] = 1
                    continue
                shares = np.arange(len(named), 0, -1) / math.comb(len(named) + 1, 2)
                out[i, [index[c] for c in named]] = shares
        return out

    def answers(self, row):
        """A row's cells besides the id."""
        place = self.header.index(self.id_column)
        return row[:place] + row[place + 1:]

    def named_classes(self, cells):
        """The classes in the cells of a form of kind class, ranking or set."""
        if self.kind == "set":
            return cells[0].split(self.joint) if cells[0] else []
        return cells[0].split(" ") if self.kind == "ranking" else cells

    # ------------------------------------------------------------ the file

    def check(self, rows):
        """RunError unless ids, order, count and cells are what the contest asks for."""
        if bad := [row for row in rows if len(row) != len(self.header)]:
            raise RunError(
                f"each row of the submission must have {len(self.header)} cells, got {bad[0]}")
        place = self.header.index(self.id_column)
        ids = tuple(row[place] for row in rows)
        if ids != self.ids:
            raise RunError(
                f"the submission must hold the {len(self.ids)} requested ids in their order, got "
                f"{len(ids)}")
        known = frozenset(self.classes)
        for row in rows:
            cells = self.answers(row)
            if problem := self.problem_of(cells, known):
                raise RunError(
                    f"the submission's row of {row[place]!r} {problem}, got {first_few(cells)}")

    def problem_of(self, cells, known):
        """What is wrong with a row's cells, '' for nothing. known: the classes."""
        if self.kind == "set":
            named = self.named_classes(cells)
            is_set = len(named) == len(set(named)) and known.issuperset(named)
            return "" if is_set else "must name known classes, each once"
        if self.kind in ("class", "ranking"):
            named = self.named_classes(cells)
            wanted = 1 if self.kind == "class" else min(RANKED, len(self.classes))
            if len(named) == len(set(named)) == wanted and known.issuperset(named):
                return ""
            return f"must name {wanted} known class(es)"

        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            return "must hold numbers"
        if self.kind == "numbers":
            return "" if all(map(math.isfinite, values)) else "must hold finite numbers"
        if not all(0 <= v <= 1 for v in values):
            return "must hold probabilities from 0 to 1"
        if self.kind == "flags" and not set(values) <= {0, 1}:
            return "must hold 0 or 1"
        if self.kind == "probabilities" and abs(sum(values) - 1) > 1e-4:
            return "must sum to 1"
        return ""

    def write(self, rows, path):
        """Checks the rows and writes them as csv, under the final name in one move."""
        self.check(rows)
        write_atomic(path, csv_text([self.header, *rows], self.separator))
        with open(path, newline="", encoding="utf-8") as f:
            written = [tuple(row) for row in csv.reader(f, delimiter=self.separator)]
        if written != [self.header, *rows]:
            Path(path).unlink()
            raise RunError(
                f"the submission {path} could not be read back as it was written: check the disk")


def are_grades(classes):
    """Whether class values are whole numbers, each one more than the last."""
    if not all(re.fullmatch(r"[+-]?\d{1,9}", c) for c in classes):
        return False
    numbers = [int(c) for c in classes]
    return all(number == last + 1 for last, number in pairwise(numbers))


def probs_of_ids(ids, predictions, prior):
    """Probabilities (n, C) for each id, or the class shares `prior` (C,) for ids without a
    prediction. predictions: None if there are none at all."""
    row_of = {}
    if predictions:
        row_of = {sample_id: i for i, sample_id in enumerate(predictions.sample_id.tolist())}
    return np.array([predictions.probs[row_of[i]] if i in row_of else prior for i in ids])
