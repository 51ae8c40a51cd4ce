"""What a contest wants to get: which columns and rows, what their cells hold; from predictions to
the checked file.

    form = contest.form.for_metric("log_loss", "probability", classes)      # UserError where the columns cannot hold that
    rows = form.rows(probs)                                                  # probs (n, C), rows as form.ids
    form.write(rows, path)

Letters: n rows, C classes.
"""
import csv
import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils import RunError, UserError, csv_text, first_few, write_atomic

RANKED = 5      # classes in a cell that holds a ranking


def plain_name(text):
    """A name less case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_\-]+", "", text).casefold()


def match_columns(columns, *namings):
    """(the class index of each column, -1 = none) by the naming of the classes that fits most
    columns.

    Names are compared as they are, then as `plain_name`; each also without what all columns begin
    with (`prob_cat`), which may be longer than the prefix that was meant (`prob_ca` of `prob_cat`
    and `prob_car`); of a single column without its first words (`is_cat`): `prediction` does not
    name the class `n`.
    """
    readings = [(-1,) * len(columns)]
    prefix = os.path.commonprefix(columns)     # noqa: RUF071 (characters are meant)
    cuts = [n for n in range(len(prefix) + 1) if len(columns) > 1 or n == 0
            or not prefix[n - 1].isalnum()]
    for names in namings:
        for key in (str, plain_name):
            for cut in cuts:
                index = {key(name): k for k, name in enumerate(names)}
                keys = [key(c[cut:]) for c in columns]
                if len(index) == len(names) and len(set(keys)) == len(keys):
                    readings.append(tuple(index.get(k, -1) for k in keys))
    return max(readings, key=lambda found: len(set(found) - {-1}))


@dataclass(frozen=True)
class Form:
    """Columns, rows and cells of a submission.

    header: column names in order; ids: of the rows, in order; class_of: index of the class that
    each column but the id's is named after (-1 = a class without training images), () = none is;
    source: the table that dictates this, '' = none does; kind: what the cells hold, '' until
    `for_metric` decides: class, ranking, positive, probabilities; separator: of cells.
    """

    header: tuple[str, ...]
    id_column: str
    ids: tuple[str, ...]
    class_of: tuple[int, ...] = ()
    source: str = ""
    kind: str = ""
    classes: tuple[str, ...] = ()
    separator: str = ","

    @property
    def columns(self):
        """Names of the columns besides the ids'."""
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
        """This form with its kind, decided by its columns and what the metric scores: class, grade,
        ranking, probability."""
        form = replace(self, classes=classes)
        if self.has_class_columns:
            if answer in ("grade", "ranking"):
                raise UserError(
                    f"--metric {metric} needs a submission with one column beside the ids, but {self.source!r} has "
                    f"{len(self.columns)}, one per class: choose log_loss or auc"
                )
            return replace(form, kind="probabilities")
        if answer == "probability":
            if len(classes) == 2:
                return replace(form, kind="positive")
            if self.source:
                raise UserError(
                    f"--metric {metric} needs one probability column for each of the {len(classes)} classes, but "
                    f"{self.source!r} has the column {first_few(self.columns)} alone: choose another metric"
                )
            return replace(form, kind="probabilities", header=(self.id_column, *classes),
                           class_of=tuple(range(len(classes))))
        spaced = [c for c in classes if re.search(r"\s", c)]
        if answer == "ranking" and spaced:
            raise UserError(
                f"--metric {metric} needs class names without spaces, which separate them in a cell, got "
                f"{first_few(spaced)}: rename these classes in the label table"
            )
        if answer == "grade" and not are_grades(classes):
            raise UserError(
                f"--metric {metric} needs classes that are consecutive whole numbers, got {first_few(classes)}: "
                "choose another metric"
            )
        return replace(form, kind="ranking" if answer == "ranking" else "class")

    def describe(self):
        """What will be written, in one line."""
        if not self.ids:
            return "none, as there are no test images"
        named = ",".join(self.header[:3]) + (f",.. ({len(self.header)} columns)" if len(self.header)
                                             > 3 else "")
        holds = {"class": "the class value",
                 "ranking": f"the {min(RANKED, len(self.classes))} likeliest class values, "
                 "separated by spaces",
                 "positive": f"the probability of {self.classes[self.positive]!r}",
                 "probabilities": "the probability of each class"}[self.kind]
        if self.kind == "class" and len(self.classes) == 2:
            holds += (
                f" (--metric auc or log_loss: the probability of {self.classes[self.positive]!r})"
            )
        return f"{len(self.ids)} rows {named} {f'as {self.source}' if self.source else 'of the test images'}, {holds}"

    # ------------------------------------------------------------ from predictions to rows and back

    def rows(self, probs):
        """Rows of text, cells in the header's order. probs: (n, C), rows as `ids`."""
        place = self.header.index(self.id_column)
        probs = np.asarray(probs, dtype=np.float64)
        # float32 rows sum to 1 roughly
        cells = [self.cells(row) for row in probs / probs.sum(1, keepdims=True)]
        return [(*c[:place], sample, *c[place:]) for sample, c in zip(self.ids, cells, strict=True)]

    def cells(self, row):
        """One row's cells besides the id, from its probabilities (C,)."""
        if self.kind == "class":
            return (self.classes[int(row.argmax())],)
        if self.kind == "ranking":
            return (" ".join(self.classes[k] for k in np.argsort(-row, kind="stable")[:RANKED]),)
        if self.kind == "positive":
            return (f"{row[self.positive]:.12g}",)
        return tuple(f"{row[k]:.12g}" if k >= 0 else "0" for k in self.class_of)

    def probs(self, rows):
        """(n, C) that rows say: one class for sure, falling shares down a ranking, or the
        probabilities themselves."""
        index = {c: k for k, c in enumerate(self.classes)}
        out = np.zeros((len(rows), len(self.classes)))
        for i, row in enumerate(rows):
            cells = self.answers(row)
            if self.kind == "positive":
                out[i] = 1 - float(cells[0])
                out[i, self.positive] = float(cells[0])
            elif self.kind == "probabilities":
                for k, cell in zip(self.class_of, cells, strict=True):
                    if k >= 0:
                        out[i, k] = float(cell)
            else:
                ranked = cells[0].split(" ") if self.kind == "ranking" else cells
                out[i, [index[c] for c in ranked]] = np.arange(len(ranked), 0,
                                                               -1) / math.comb(len(ranked) + 1, 2)
        return out

    def answers(self, row):
        """A row's cells besides the id."""
        place = self.header.index(self.id_column)
        return row[:place] + row[place + 1:]

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
                f"the submission must hold the {len(self.ids)} asked ids in their order, got {len(ids)}"
            )
        known = frozenset(self.classes)
        for row in rows:
            if problem := self.problem_of(self.answers(row), known):
                raise RunError(
                    f"the submission's row of {row[place]!r} {problem}, got {first_few(self.answers(row))}"
                )

    def problem_of(self, cells, known):
        """What is wrong with a row's cells, '' for nothing. known: the classes."""
        if self.kind in ("class", "ranking"):
            named, wanted = (cells, 1) if self.kind == "class" else (cells[0].split(" "),
                                                                     min(RANKED, len(self.classes)))
            right = len(set(named)) == len(named) == wanted and known.issuperset(named)
            return "" if right else f"must name {wanted} known class(es)"
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            return "must hold numbers"
        if not all(0 <= v <= 1 for v in values):
            return "must hold probabilities from 0 to 1"
        return "must sum to 1" if self.kind == "probabilities" and abs(sum(values)
                                                                       - 1) > 1e-4 else ""

    def write(self, rows, path):
        """The checked rows as csv, under the final name in one move."""
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
    return [int(c) - int(classes[0]) for c in classes] == list(range(len(classes)))


def probs_of_ids(ids, predictions, prior):
    """(n, C) of the predictions (None: there are none) by id; the class shares `prior` (C,) where
    an id has none."""
    row = {sample: i for i,
           sample in enumerate(predictions.sample_id.tolist())} if predictions else {}
    return np.array([predictions.probs[row[i]] if i in row else prior for i in ids])
