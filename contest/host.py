"""Folds that the host gives: a column of them, or a folder or a column that says what to validate.

    fold_of = folds_by_id(table, ids, data, findings)      # {id: the text of its fold, '' for none}

An image without a fold is always trained on.
"""
import re

from contest.files import normal
from contest.targets import are_whole_numbers, is_no_number, number_of
from utils import counted

# names of splits that a host may mean for validation, in folders, tables and columns
VALIDATION_WORD = re.compile(r"(?:^|[^a-z])(?:val|valid|validation|dev)(?=$|[^a-z])")
FOLD_NAME = re.compile(r"(?:k|cv)?[_\- ]?folds?(?:[_\- ]?(?:id|no|nr|num|number|index))?")
MOST_FOLDS = 50
VALIDATED = "val"      # the one fold of a folder that is validated on


def is_no_fold(text):
    """Whether a cell of a column of folds says that its image is in none."""
    return is_no_number(text) or number_of(text) == -1


def looks_like_folds(name, values):
    """Whether a column's name and its few whole numbers say that it holds the host's folds."""
    found = {value.removesuffix(".0") for value in values if not is_no_number(value)}
    return (FOLD_NAME.fullmatch(name.lower()) is not None
            and 1 < len(found) <= MOST_FOLDS and are_whole_numbers(found))


def columns_of_folds(table):
    """Columns of a table that look like the host's folds."""
    return [name for name in table.others() if looks_like_folds(name, table.columns[name])]


def folds_by_id(table, ids, data, findings):
    """{id: its fold as text} by data.fold_column, or by a column of splits if data.valid_folder
    asks for it; {} without. ids: of the table's rows."""
    if data.fold_column:
        values = table.columns.get(data.fold_column)
        if values is None:
            findings.fail("fold_column", f"--fold_column must be a column of {table.path!r}, got "
                          f"{data.fold_column!r}; columns: {', '.join(table.others())}")
            return {}
        folds = ["" if is_no_fold(value) else value for value in values]
        found = set(folds) - {""}
        if not 0 < len(found) <= MOST_FOLDS:
            findings.fail("fold_column", f"--fold_column must hold 1 to {MOST_FOLDS} folds, and "
                          f"{data.fold_column!r} has {len(found)} different values: name another "
                          "column")
            return {}
        return one_each(table, data.fold_column, ids, folds, findings)
    if data.valid_folder != "use":
        return {}
    for name in table.others():
        held = [VALIDATION_WORD.fullmatch(value.lower()) is not None
                for value in table.columns[name]]
        if 0 < sum(held) < len(held) and len(set(table.columns[name])) <= 4:
            folds = [VALIDATED if is_held else "" for is_held in held]
            return one_each(table, name, ids, folds, findings)
    return {}


def one_each(table, name, ids, folds, findings):
    """{id: its fold}. An error if rows of one id lie in different folds."""
    fold_of = {}
    divided = {}
    for i, fold in zip(ids, folds, strict=True):
        if fold_of.setdefault(i, fold) != fold:
            divided[i] = None
    if divided:
        findings.fail("fold_column", f"column {name!r} of {table.path!r} must hold all rows of an "
                      f"id in one fold, and divides those of {counted(list(divided), 'id')}: mend "
                      "them, or leave --fold_column or --valid_folder out, and the folds are drawn",
                      list(divided))
        return {}
    return fold_of


def folds_by_folder(files, paths, labels):
    """(n,) the text of each image's fold: those in val/, valid/, validation/ or dev/ are one, but
    for a folder that is the image's class."""
    folds = []
    for path, label in zip(paths, labels, strict=True):
        folders = [normal(part).lower() for part in path.split("/")[files.n_wrappers:-1]]
        if (own := normal(label).lower()) in folders:
            folders.reverse()       # the class is the innermost of that name
            folders.remove(own)
        folds.append(VALIDATED if any(map(VALIDATION_WORD.search, folders)) else "")
    return tuple(folds)


def numbers_of_folds(texts):
    """(n,) list: the number of each fold's text, -1 for none; the texts in order."""
    found = sorted(set(texts) - {""})
    if all(number_of(text) is not None for text in found):
        found.sort(key=number_of)
    number = {text: k for k, text in enumerate(found)} | {"": -1}
    return [number[text] for text in texts], found
