"""Several images an id: the id on several rows, columns of files, or folders named after ids.

    tables, of_test = with_units(files, tables, sample, data)

Afterwards a Table with a `unit` has a row for each image, and `unit` is its column of ids. An id's
images stay in one fold, and what is predicted of them is averaged.
"""
import csv
from collections import defaultdict
from dataclasses import replace as with_fields
from pathlib import Path

from contest.files import locate, normal, scan_folder
from contest.sheets import how_to_read, is_sheet
from contest.tables import Table, is_fraction, read_table, tables_of_sheets, with_id_column
from utils import UserError, first_few

FILE = "file"      # column of an image's path in a table of one row an image
MOST = 0.5         # of the ids must fit


def with_units(files, tables, sample, data):
    """(tables, the Table of the test images or None), both of one row an image where ids have
    several. The sample submission stays as it is.

    An id has several images where `data.id_column` names a column of ids beside one of files, where
    the sample submission's first column does, or where several columns of a table name files.
    """
    folders = folders_of(files, "test")
    key = key_of(tables, sample, data, folders)
    found = [table if table is sample else per_image(files, table, key) for table in tables]
    if sample is None:
        return found, None
    ids = set(sample.columns[first_of(sample)])
    lists = [table for table in found if table is not sample and table.unit
             and names_most(ids, table.columns[table.unit])]
    if lists:
        return found, max(lists, key=lambda table: len(table.images))
    if key and names_most(ids, folders) and not sample.id_column:
        return found, of_folders(files, sample, key, folders)
    return found, None


def first_of(table):
    return next(iter(table.columns))


def names_most(ids, values):
    return bool(ids) and len(ids.intersection(values)) >= MOST * len(ids)


def folders_of(files, split):
    """{folder: the images in it}, by its name; without images of the other split than `split`, if
    that is not ''."""
    other = {"test": "train", "train": "test", "": None}[split]
    found = defaultdict(list)
    for path in files.images:
        if files.split_of(path) != other:
            for name in dict.fromkeys(path.split("/")[:-1]):
                found[normal(name)].append(path)
    return found


def key_of(tables, sample, data, folders):
    """The column of ids that have images of their own names in other columns or as folders, or ''.
    """
    asked = data.id_column
    if asked and not any(asked == table.id_column for table in tables):
        return asked
    if sample is None or sample.id_column:
        return ""
    key = first_of(sample)
    ids = set(sample.columns[key])
    beside = [table for table in tables if table is not sample and table.id_column not in ("", key)
              and names_most(ids, table.columns.get(key, ()))]
    return key if beside or names_most(ids, folders) else ""


def per_image(files, table, key, split=None):
    """The table with a row for each image, if its ids have several; else as it is. split: of the
    folders that ids may name, None by the table's name."""
    if len(table.file_columns) > 1:
        return of_columns(files, table, key)
    if key not in table.columns or table.id_column == key:
        return table
    if table.id_column:
        return with_fields(table, unit=key)
    if split is None:
        split = "test" if table.is_of_test else "train"
    folders = folders_of(files, split)
    is_named = names_most(set(table.columns[key]), folders)
    return of_folders(files, table, key, folders) if is_named else table


def of_columns(files, table, key):
    """A table of several columns of files. Ids are in column `key`, else in the first column if
    that has another value in each row, else they are the first files. An id without a file keeps a
    row."""
    names = table.file_columns
    if key not in table.columns or key in names:
        first = table.columns[first_of(table)]
        is_key = len(set(first)) == table.n_rows and not any(map(is_fraction, first))
        key = first_of(table) if is_key and first_of(table) not in names else names[0]
    rows = zip(*(table.columns[name] for name in names), strict=True)
    pairs = [(row, name) for row, cells in enumerate(rows)
             for name in [cell for cell in cells if cell] or [table.columns[key][row]] if name]
    return with_files(files, table, key, pairs, names)


def of_folders(files, table, key, folders):
    """A table whose ids name folders, {folder: its images}. One without a folder keeps its row."""
    pairs = [(row, path) for row, name in enumerate(table.columns[key])
             for path in folders.get(normal(name), [name])]
    return with_files(files, table, key, pairs, ())


def with_files(files, table, key, pairs, names):
    """A table of [(row of `table`, file)], without the columns `names` but for `key`."""
    column = FILE
    while column in table.columns:
        column += "_"
    columns = {name: tuple(values[row] for row, _ in pairs)
               for name, values in table.columns.items() if name == key or name not in names}
    columns[column] = tuple(file for _, file in pairs)
    made = with_id_column(files, Table(table.path, columns, len(pairs), separator=table.separator,
                                       joined=table.joined, n_wrappers=table.n_wrappers), column)
    return with_fields(made, unit=key, lost_columns=table.lost_columns)


def images_of_table(path, key):
    """([(id, name of a file, path of the image or '')] of a table of new images, what is wrong).

    path: of a table that lies beside them. key: its column of ids. UserError if it has none.
    """
    path = Path(path).resolve()
    files = scan_folder(path.parent)
    try:
        tables = (tables_of_sheets(path.parent, path.name)[0] if is_sheet(path.name)
                  else [read_table(path.parent, path.name)[0]])
    except (ValueError, csv.Error) as error:
        raise UserError(f"{str(path)!r} must be a table of ids and files, and cannot be read "
                        f"({error}): {how_to_read(path.name)}") from None
    known = [with_id_column(files, table) for table in tables if key in table.columns]
    found = [per_image(files, table, key, split="") for table in known]
    if not known or not found[0].id_column:
        raise UserError(
            f"{str(path)!r} must have the column {key!r} of the run's ids, and files beside it or "
            f"folders named after them, got {first_few(c for t in tables for c in t.columns)}: "
            "rename its columns, or name images or folders to predict each image")
    table = found[0]
    names = table.columns[table.id_column]
    located = locate(files, names, "test", naming=table.naming)
    paths = [str(files.root / place) if place else "" for place in located.paths]
    return list(zip(table.columns[key], names, paths, strict=True)), table.lost_columns


def numbered(units):
    """A sample id for each image: the id itself for its first one, then `id [2]`, `id [3]`."""
    taken = set(units)
    seen = set()
    ids = []
    for unit in units:
        sample_id = unit
        number = 1
        while sample_id in seen or (number > 1 and sample_id in taken):
            number += 1
            sample_id = f"{unit} [{number}]"
        seen.add(sample_id)
        ids.append(sample_id)
    return ids
