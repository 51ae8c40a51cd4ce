"""A contest folder as downloaded -> Contest: which image has which label, which ids want a
prediction. Nothing is decoded.

    contest = read_contest("contest", DataConfig())
    print(*contest.understood, sep="\n")

The way there is files.py (which file an id means), then tables.py (which table is what). Letters: n
samples, C classes.
"""
import os
import stat
from collections import Counter
from dataclasses import replace as with_fields

import numpy as np

from contest.catalog import Catalog, Contest
from contest.files import Located, locate, report_unlocated, scan_folder, without_suffix
from contest.labels import fail_without_images, labelled_rows, rows_of_folders
from contest.problems import Findings
from contest.submission import Form, match_columns
from contest.tables import (
    are_whole_numbers,
    check_used_table,
    find_class_names,
    find_form,
    find_label_table,
    find_sample,
    find_test_table,
    read_tables,
)
from system.parallel import parallel_map
from utils import counted, digest_file, digest_json, first_few, quoted_cell


def read_contest(folder, data):
    """What a contest folder holds; UserError with all fatal problems at once. `data`: DataConfig.
    """
    files = scan_folder(folder)
    findings = Findings()
    if files.refused:
        findings.warn(
            "refused_path",
            f"the folder holds {counted(files.refused, 'link or special file')} that lead out of it, are no regular "
            "files or may not be read: they are not opened; copy what is missing into the folder",
            files.refused,
        )
    if not files.images:
        fail_without_images(files, findings)
    tables = read_tables(files, data, findings)
    sample = find_sample(tables, data.sample_submission, findings)
    folders = rows_of_folders(files)
    n_in_folders = len(folders.paths) if folders and len(set(folders.labels)) > 1 else 0
    label_table = find_label_table(tables, sample, data.label_table, n_in_folders, findings)
    sample = sample or find_form(files, tables, label_table, findings)
    check_used_table(files, label_table, findings)
    if label_table is None and not any(files.split_of(p) != "test" for p in files.images):
        fail_without_images(files, findings)
    labelled = labelled_rows(files, tables, label_table, sample, data, findings)
    findings.stop_if_fatal()
    others = [t for t in tables if t not in (label_table, sample)]
    names, names_path = find_class_names(files, others, labelled.labels, findings)
    train, labelled_images = train_catalog(files.root, labelled, names, findings)
    test_list = sample or find_test_table([t for t in others if t.path != names_path], label_table)
    check_used_table(files, test_list, findings)
    test, ids = test_catalog(files, test_list, labelled, train.classes, findings)
    report_extra_files(files, labelled_images, test, findings)
    class_names = tuple(names.get(c, c) for c in train.classes)
    form = make_form(sample, labelled, ids, train.classes, class_names, findings)
    report_formulas(form, train.classes, findings)
    findings.stop_if_fatal()
    return Contest(files.root, train, test, class_names, form, tuple(findings.problems),
                   understood_lines(labelled, train, class_names, names_path, data))


# ---------------------------------------------------------------- catalogs and form

def sorted_classes(labels):
    """Whole numbers by value, anything else as text."""
    found = set(labels)
    if are_whole_numbers(found):
        return tuple(sorted(found, key=lambda c: (int(c), c)))
    return tuple(sorted(found))


def train_catalog(root, labelled, names, findings):
    """(Catalog of the training rows whose label is known, relative paths of all rows)."""
    known = [i for i, label in enumerate(labelled.labels) if not names or label in names]
    classes = sorted_classes(labelled.labels[i] for i in known)
    empty = [c for c in names if c not in classes]
    if empty:
        findings.warn("class_without_images",
                      f"{counted(empty, 'class')} of the class list without any training image: "
                      "they are never predicted", empty)
    if len(classes) < 2:
        findings.fail(
            "too_few_classes",
            f"training needs images of at least 2 classes, got {len(classes)} "
            f"({first_few(classes) or 'no labelled image was found'}) from {labelled.source}: check the "
            "label table and that the images lie in the folder",
        )
    index = {c: k for k, c in enumerate(classes)}
    rows = [{"sample_id": labelled.ids[i], "path": str(root / labelled.paths[i]),
             "label": index[labelled.labels[i]], "group": labelled.groups[i]} for i in known]
    return Catalog.of(rows, classes), set(labelled.paths)


def test_catalog(files, test_list, labelled, classes, findings):
    """(Catalog of the test images, ids in the submission's order) by sample submission, test table
    or folder."""
    if test_list is None:
        labelled_paths = set(labelled.paths)
        paths = [p for p in files.images if files.split_of(p) == "test" and p not in labelled_paths]
        names = [p.rsplit("/", 1)[-1] for p in paths]
        if all(without_suffix(i) == i for i in labelled.ids):   # as in the label table
            names = [without_suffix(name) for name in names]
        ids = names if len(set(names)) == len(names) else paths
        located = Located(tuple(paths), (), (), ())
    else:
        ids = test_list.columns[id_column_of(test_list, labelled)]
        located = locate(files, ids, "test",
                         taken={p for p in labelled.paths if files.split_of(p) == "train"})
    if not any(located.paths):
        why = ("no folder test*/" if test_list is None
               else f"none of the {len(ids)} ids of {test_list.path!r} is an image file")
        findings.warn(
            "no_test_images",
            f"there are no test images ({why}): the run trains and validates, but makes no "
            "submission",
        )
        return Catalog.of([], classes), ()
    repeated = [i for i, count in Counter(ids).items() if count > 1]
    if repeated:
        findings.warn(
            "repeated_id",
            f"the test list repeats {counted(repeated, 'id')}: each row gets the same prediction",
            repeated,
        )
    report_unlocated(files, located, "the test list", "their submission rows get the class prior",
                     findings)
    path_of = dict(zip(ids, located.paths, strict=True))
    rows = [{"sample_id": i, "path": str(files.root / p) if p else ""} for i, p in path_of.items()]
    return Catalog.of(rows, classes), tuple(ids)


def report_formulas(form, classes, findings):
    """A warning for cells that the contest wants in the submission and that a spreadsheet would
    run."""
    risky = [text for text in dict.fromkeys([*form.ids, *classes]) if quoted_cell(text) != text]
    if risky:
        findings.warn(
            "formula_cell",
            f"the submission needs {counted(risky, 'cell')} that a spreadsheet would run as a "
            "formula: do not open it in one",
            risky,
        )


def report_extra_files(files, labelled_images, test, findings):
    """A warning for image files that belong to no id."""
    used = labelled_images | {os.path.relpath(p, files.root).replace(os.sep, "/")
                              for p in test.path.tolist() if p}
    extra = [p for p in files.images if p not in used]
    if extra:
        findings.warn(
            "file_without_id",
            f"{counted(extra, 'image file')} with no id in the tables or class folders: not used",
            extra,
        )


def id_column_of(test_list, labelled):
    """The column of a test list that holds its ids, also where none of them is an image."""
    known = labelled.id_column if labelled.id_column in test_list.columns else next(
        iter(test_list.columns))
    return test_list.id_column or known


def make_form(table, labelled, ids, classes, class_names, findings):
    """The Form of a sample submission, or of none (None); class columns that do not fit the classes
    are problems."""
    target = labelled.target_columns[0] if len(labelled.target_columns) == 1 else "target"
    if table is None or len(table.columns) < 2:
        return Form((labelled.id_column, target), labelled.id_column, ids)
    form = Form(tuple(table.columns), id_column_of(table, labelled), ids, source=table.path,
                separator=table.separator)
    class_of = match_columns(form.columns, classes, class_names)
    if not form.has_class_columns:
        return form if -1 in class_of else with_fields(form, class_of=class_of)
    lacking = [c for k, c in enumerate(class_names) if k not in class_of]
    idle = [c for c, k in zip(form.columns, class_of, strict=True) if k < 0]
    if lacking or len(idle) > len(form.columns) / 2:
        findings.fail(
            "class_columns",
            f"the sample submission {table.path!r} must have one class column beside its ids, or "
            f"one per class with its name, got {first_few(form.columns)} for the classes {first_few(class_names)}; "
            f"without a column: {first_few(lacking) or 'none'}; without a class: {first_few(idle) or 'none'}: rename "
            "them, or --set data.sample_submission=FILE data.label_table=FILE data.target_column=NAME",
        )
    elif idle:
        findings.warn("class_without_images",
                      f"{counted(idle, 'column')} of {table.path!r} without any training image: "
                      "0 is written there", idle)
    return with_fields(form, class_of=class_of)


def understood_lines(labelled, train, class_names, names_path, data):
    """How labels, classes and groups were read, one line each, with the flag that changes it."""
    counts = np.bincount(train.label, minlength=len(train.classes))
    group = (
        f"column {data.group_column!r}, and near-duplicates"
        if data.group_column
        else "near-duplicates only"
    )
    if labelled.offered_groups and not data.group_column:
        group += f"; columns that repeat over images: {first_few(labelled.offered_groups)}"
    named = f", named by {names_path}" if names_path else ""
    return (
        f"labels:     {labelled.source}, {len(train)} images (--set data.label_table=FILE data.id_column=NAME)",
        f"classes:    {len(train.classes)}, {target_kind(labelled, train.classes)}, {counts.min()} to {counts.max()} "
        f"images each{named}: {first_few(class_names)} (--set data.target_column=NAME)",
        f"groups:     {group} (--group_column NAME)",
    )


def target_kind(labelled, classes):
    """What the class is written as, and where."""
    columns = labelled.target_columns
    if len(columns) > 1:
        return f"one-hot in {len(columns)} columns"
    kind = ("binary, " if len(classes) == 2 else "") + ("whole numbers"
                                                        if are_whole_numbers(classes) else "names")
    return f"{kind} in column {columns[0]!r}" if labelled.source.startswith("table") else kind


def contest_digests(contest, workers):
    """[sha256 of each train and test file in catalog order ('' = unreadable), then one digest of
    all else read]."""
    paths = contest.train.path.tolist() + contest.test.path.tolist()
    rest = {"train": [contest.train.sample_id, contest.train.label, contest.train.group,
                      contest.train.classes], "test": contest.test.sample_id,
            "class_names": contest.class_names, "submission_ids": contest.submission_ids}
    return [*parallel_map(digest_or_empty, paths, workers, "content hashes"), digest_json(rest)]


def digest_or_empty(path):
    try:
        return digest_file(path) if path and stat.S_ISREG(os.stat(path).st_mode) else ""
    except OSError:
        return ""
