"""Folds that the host gives: a column of them, or a folder or a column that says what to validate.

    fold_of = folds_by_id(table, ids, data, findings)      # {id: the text of its fold, '' for none}

An image without a fold is always trained on.
"""
import re

from contest.targets import are_whole_numbers

# names of splits that a host may mean for validation, in folders, tables and columns
VALIDATION_WORD = re.compile(r"(?:^|[^a-z])(?:val|valid|validation|dev)(?=$|[^a-z])")
FOLD_NAME = re.compile(r"(?:k|cv)?[_\- ]?folds?(?:[_\- ]?(?:id|no|nr|num|number|index))?")
MOST_FOLDS = 50
NO_FOLD = ("", "-1", "-1.0")
VALIDATED = "val"      # the one fold of a folder that is validated on


def looks_like_folds(name, values):
    """Whether a column's name and its few whole numbers say that it holds the host's folds."""
    found = {value.removesuffix(".0") for value in values} - {""}
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
        found = {value for value in values if value not in NO_FOLD}
        if not 0 < len(found) <= MOST_FOLDS:
            findings.fail("fold_column", f"--fold_column must hold 1 to {MOST_FOLDS} folds, and "
                          f"{data.fold_column!r} has {len(found)} different values: name another "
                          "column")
            return {}
        return {i: "" if value in NO_FOLD else value
                for i, value in zip(ids, values, strict=True)}
    if data.valid_folder != "use":
        return {}
    for name in table.others():
        held = [VALIDATION_WORD.fullmatch(value.lower()) is not None
                for value in table.columns[name]]
        if 0 < sum(held) < len(held) and len(set(table.columns[name])) <= 4:
            return {i: VALIDATED if is_held else ""
                    for i, is_held in zip(ids, held, strict=True)}
    return {}


def folds_by_folder(files, paths):
    """(n,) the text of each image's fold: those in val/, valid/, validation/ or dev/ are one."""
    return tuple(VALIDATED if any(VALIDATION_WORD.search(part.lower())
                                  for part in path.split("/")[files.n_wrappers:-1]) else ""
                 for path in paths)


def numbers_of_folds(texts):
    """(n,) list: the number of each fold's text, -1 for none; the texts in order."""
    found = sorted(set(texts) - {""})
    if are_whole_numbers(found):
        found.sort(key=int)
    number = {text: k for k, text in enumerate(found)} | {"": -1}
    return [number[text] for text in texts], found
