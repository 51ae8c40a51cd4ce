"""What a label is: a class, a set of classes, numbers, or shares of classes; text -> arrays.

    reading = READINGS["multilabel"]
    classes, label, target = reading.build(labels, columns)     # labels: n texts

A label of several parts is one text, its parts joined by SEPARATOR. Letters: n samples, C columns
of the target: classes, or columns of numbers.
"""
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

SEPARATOR = "\x1f"
EMPTY_SET = SEPARATOR      # '' is a missing label
SURE_MARKS = ("|", ";")      # in hardly any name of a class
MARKS = ("|", ";", ",")    # between the classes of a cell, before blanks


@dataclass(frozen=True)
class Reading:
    """How labels of one task are read.

    one_class: an image shows one class, so that classes divide the images. values: what rows of the
    target hold, of data_loader.VALUES. fewest: columns of the target. parts(label): the class
    values in a label. build(labels, columns) -> (classes, label (n,), target (n, C) or None).
    title(row of the target, label, names): a label for people. words(columns, classes, is_table):
    how labels are written. line(words, counts (C,), target, classes, names, named): what a run says
    of them; names: the first few, named: where names come from.
    """

    one_class: bool
    values: str
    fewest: int
    parts: Callable
    build: Callable
    title: Callable
    words: Callable
    line: Callable


def line_of_classes(words, counts, target, classes, names, named):
    low = counts.min()
    high = counts.max()
    each = str(low) if low == high else f"{low} to {high}"
    return (f"classes:    {len(classes)}, {words}, {each} images each"
            f"{named}: {names} (--set data.target_column=NAME)")


# ---------------------------------------------------------------- one class

def of_class(label):
    return (label,)


def classes_and_labels(labels, columns):
    """The sorted classes, and the index of each label among them."""
    classes = sorted_classes(labels)
    index = {c: k for k, c in enumerate(classes)}
    return classes, [index[label] for label in labels], None


def sorted_classes(labels):
    """The distinct labels: whole numbers by value, anything else as text."""
    found = set(labels)
    if are_whole_numbers(found):
        return tuple(sorted(found, key=lambda c: (int(c), c)))
    return tuple(sorted(found))


def are_whole_numbers(texts):
    return all(re.fullmatch(r"[+-]?\d{1,18}", text) for text in texts)


def name_of_class(target, label, names):
    return names[label]


def words_of_classes(columns, classes, is_table):
    """What the class is written as, and where."""
    if len(columns) > 1:
        return f"one-hot in {len(columns)} columns"
    kind = "whole numbers" if are_whole_numbers(classes) else "names"
    if len(classes) == 2:
        kind = f"binary, {kind}"
    if not is_table:
        return kind
    where = f"{kind} in column {columns[0]!r}"
    may_measure = len(classes) > FEW_INTEGERS and are_whole_numbers(classes)
    return where + (" (--task regression: numbers to predict)" if may_measure else "")


# ---------------------------------------------------------------- sets of classes

def joined_set(names):
    """The label of a set of classes: the same for the same set."""
    return SEPARATOR.join(sorted(set(names))) or EMPTY_SET


def of_set(label):
    return tuple(part for part in label.split(SEPARATOR) if part)


def sets_and_targets(labels, columns):
    """The classes of all sets; the number of each image's set; 1 for each class in it (n, C)."""
    sets = [of_set(label) for label in labels]
    classes = sorted_classes(part for found in sets for part in found)
    index = {c: k for k, c in enumerate(classes)}
    target = np.zeros((len(sets), len(classes)), dtype=np.float32)
    for row, found in enumerate(sets):
        target[row, [index[c] for c in found]] = 1
    number = {label: k for k, label in enumerate(sorted(set(labels)))}
    return classes, [number[label] for label in labels], target


def names_of_set(target, label, names):
    return ", ".join(name for name, has in zip(names, target, strict=True) if has) or "none of them"


def words_of_sets(columns, classes, is_table):
    where = f"column {columns[0]!r}" if len(columns) == 1 else f"{len(columns)} columns of 0 and 1"
    return f"any number of them an image, in {where} (--task single: one an image)"


def mark_of(values):
    """What stands between the classes of a cell: the first of MARKS that any holds, '' for blanks.
    """
    return next((mark for mark in MARKS if any(mark in value for value in values)), "")


def parts_of_cell(value, mark):
    """The class values in a cell of a column of sets."""
    if not mark:
        return value.split()
    return [part.strip() for part in value.split(mark) if part.strip()]


def sets_in(values):
    """(the distinct values that hold several classes, whether that is unsure).

    As `rust scab` beside `rust` and `scab`, `3 17`, or `rust;scab` beside `scab;mildew`. A value of
    several words is one class if the words are not classes themselves. Few words in all
    combinations are unsure where they look like names: all of one length, or with a word in common,
    as `9 of clubs`.
    """
    mark = mark_of(values)
    parts = {value: parts_of_cell(value, mark) for value in set(values)}
    lists = {value: found for value, found in parts.items() if len(found) > 1}
    words = {word for found in parts.values() for word in found}
    lengths = {len(found) for found in parts.values()}
    uses = Counter(word for found in parts.values() for word in set(found))
    if mark in SURE_MARKS and any(uses[word] > 1 for found in lists.values() for word in found):
        return set(lists), False
    if lists and len(lengths) > 1 and 2 * len(words) < len(parts):
        are_alike = len({len(found) for found in lists.values()}) == 1
        are_names = are_alike or set.intersection(*map(set, lists.values()))
        are_classes = words <= parts.keys() or are_whole_numbers(words)
        return set(lists), not (mark or are_classes) and bool(are_names)
    return {value for value, found in lists.items()
            if set(found) <= parts.keys() or are_whole_numbers(found)}, False


def how_written(values):
    """(what stands between the classes of a cell, whether they stand in descending order)."""
    mark = mark_of(values)
    joints = Counter(joint for value in values for joint in re.findall(
        rf"\s*{re.escape(mark)}\s*" if mark else r"\s+", value.strip()))
    several = [found for value in set(values) if len(found := parts_of_cell(value, mark)) > 1]
    classes = sorted_classes(part for found in several for part in found)
    place = {c: k for k, c in enumerate(classes)}
    descend = [sorted(found, key=place.get, reverse=True) == found for found in several]
    joint = joints.most_common(1)[0][0] if joints else " "
    return joint, bool(descend) and all(descend)


# ---------------------------------------------------------------- numbers

MOST_BINS = 10
FEWEST_IN_A_BIN = 10
FEW_INTEGERS = 20       # as many different whole numbers, or fewer, are classes
LEAST_FRACTIONS = 0.05  # of the labels, if they are measurements
FEW_ROWS = 3            # of a whole number, at the median, if they are measurements


def is_no_number(cell):
    """Whether a cell of numbers is empty, or a word that programs write there."""
    return cell.strip().lower() in ("", "nan", "na", "n/a", "<na>", "null", "none")


def number_of(text):
    """The finite number that a text is, else None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def are_measurements(labels, are_asked=False):
    """Whether labels, each a text, are numbers to predict rather than classes.

    They are with fractions in more than a few. Whole numbers are if there are many of few rows
    each, with gaps, or if numbers that are no classes are asked for.
    """
    numbers = [number_of(label) for label in labels]
    if not numbers or None in numbers:
        return False
    if sum(not number.is_integer() for number in numbers) >= LEAST_FRACTIONS * len(numbers):
        return True
    counts = Counter(numbers)
    if are_asked and len(counts) > FEW_INTEGERS:
        return True
    has_gaps = len(counts) < 0.9 * (max(counts) - min(counts) + 1)
    is_rare = np.median(list(counts.values())) <= FEW_ROWS
    return len(counts) > FEW_INTEGERS and has_gaps and bool(is_rare)


def without_names(label):
    return ()


def numbers_and_bins(labels, columns):
    """The columns; the quantile bin of each row; its numbers (n, C)."""
    target = np.array([[float(part) for part in label.split(SEPARATOR)] for label in labels],
                      dtype=np.float32).reshape(len(labels), len(columns))
    return tuple(columns), bins_of(target).tolist(), target


def bins_of(target):
    """(n,) int: the quantile bin of each row (n, C), by the mean rank over the columns."""
    n_bins = min(MOST_BINS, max(1, len(target) // FEWEST_IN_A_BIN))
    ranks = rankdata(target, axis=0).mean(1)
    order = np.argsort(ranks, kind="stable")
    bins = np.empty(len(target), dtype=np.int64)
    bins[order] = np.arange(len(target)) * n_bins // max(1, len(target))
    return bins


def numbers_of(target, label, names):
    if len(target) == 1:
        return f"{target[0]:.6g}"
    return ", ".join(f"{name} {value:.6g}" for name, value in zip(names, target, strict=True))


def words_of_numbers(columns, classes, is_table):
    where = f"column {columns[0]!r}" if len(columns) == 1 else f"{len(columns)} columns"
    return f"numbers in {where}"


def line_of_numbers(words, counts, target, classes, names, named):
    ranges = (f"{c!r} {low:.6g} to {high:.6g}" for c, low, high in zip(
        classes, target.min(0), target.max(0), strict=True))
    return (f"classes:    none, {words} to predict: {', '.join(list(ranges)[:4])} (--task single: "
            "each value is a class; --set data.target_column=NAME)")


# ---------------------------------------------------------------- shares of classes

SUM_OF_SHARES = 0.02       # rows of shares may miss 1 by so much
FEWEST_ANNOTATED = 0.5     # least share of ids with several rows that annotators wrote


def are_shares(labels):
    """Whether labels of several numbers are rows of probabilities that sum to 1."""
    rows = np.array([[float(part) for part in label.split(SEPARATOR)] for label in labels if label])
    if not len(rows) or rows.shape[1] < 2:
        return False
    sums_to_1 = np.abs(rows.sum(1) - 1) <= SUM_OF_SHARES
    return bool((rows >= 0).all() and sums_to_1.all())


def shares_and_classes(labels, columns):
    """The columns; the likeliest class of each row; its shares (n, C)."""
    _, _, target = numbers_and_bins(labels, columns)
    target = target / target.sum(1, keepdims=True)
    return tuple(columns), target.argmax(1).tolist(), target


def title_of_shares(target, label, names):
    return f"{names[label]} {target[label]:.2f}"


def words_of_shares(columns, classes, is_table):
    return "a share of each an image, that sum to 1 (--task regression: numbers)"


def merged(task, ids, labels):
    """(task, columns, ids, labels) of one row an id, where annotators wrote several of most ids.

    Their classes become shares, their numbers and shares a mean. columns: the classes, () as they
    were.
    Rows without a label are left out. Unchanged where few ids have several rows.
    """
    own = {}
    for sample_id, label in zip(ids, labels, strict=True):
        if label:
            own.setdefault(sample_id, []).append(label)
    n_several = sum(len(found) > 1 for found in own.values())
    differ = any(len(set(found)) > 1 for found in own.values())
    fewest = 0 if task == "multilabel" else FEWEST_ANNOTATED
    if not differ or n_several < fewest * len(own):
        return task, (), ids, labels
    new_task, columns, texts = MERGED[task](list(own.values()))
    return new_task, columns, tuple(own), texts


def shares_of_votes(votes):
    """The labels of each image -> soft labels."""
    classes = sorted_classes(label for found in votes for label in found)
    texts = tuple(SEPARATOR.join(f"{found.count(c) / len(found):.9g}" for c in classes)
                  for found in votes)
    return "soft", classes, texts


def means_of(task):
    """A function: the numbers of each image -> their means."""
    def mean(votes):
        rows = [np.mean([[float(part) for part in label.split(SEPARATOR)] for label in found], 0)
                for found in votes]
        return task, (), tuple(SEPARATOR.join(f"{v:.9g}" for v in row) for row in rows)

    return mean


def unions(votes):
    """The sets of each image -> the classes of all of them."""
    return "multilabel", (), tuple(joined_set(c for label in found for c in of_set(label))
                                   for found in votes)


MERGED = {"single": shares_of_votes, "regression": means_of("regression"),
          "soft": means_of("soft"), "multilabel": unions}
READINGS = {
    "soft": Reading(True, "shares", 2, without_names, shares_and_classes, title_of_shares,
                    words_of_shares, line_of_classes),
    "single": Reading(True, "shares", 2, of_class, classes_and_labels, name_of_class,
                      words_of_classes, line_of_classes),
    "multilabel": Reading(False, "chances", 2, of_set, sets_and_targets, names_of_set,
                          words_of_sets, line_of_classes),
    "regression": Reading(False, "numbers", 1, without_names, numbers_and_bins, numbers_of,
                          words_of_numbers, line_of_numbers),
}
