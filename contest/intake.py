"""A contest folder as downloaded -> Contest: the label of each image, the ids that need a
prediction. No image is decoded.

    contest = read_contest("contest", DataConfig())
    print(*contest.understood, sep="\n")

files.py finds which file an id means, tables.py which table is what. Letters: n samples, C classes.
"""
import os
import re
import stat
from collections import Counter
from dataclasses import replace as with_fields

import numpy as np

from contest.catalog import OPTIONAL, Catalog, Contest
from contest.files import (
    PLAIN,
    Located,
    by_suffix,
    locate,
    may_hold_images,
    normal,
    path_inside,
    report_heic,
    report_packed,
    report_undecodable,
    report_unlocated,
    report_unread,
    scan_folder,
    split_of,
    without_suffix,
)
from contest.fixes import find_fixes, mended, without_fixes
from contest.host import columns_of_folds, numbers_of_folds
from contest.labels import (
    fail_without_images,
    is_shard,
    labelled_rows,
    rows_of_folders,
    rows_of_names,
    says_split_alone,
    with_host_folds,
)
from contest.problems import Findings
from contest.sheets import how_to_read, is_sheet
from contest.submission import Form, match_columns
from contest.tables import (
    are_row_numbers,
    check_used_table,
    find_class_names,
    find_form,
    find_label_table,
    find_sample,
    find_test_table,
    is_no_number,
    read_tables,
    says_split,
)
from contest.targets import number_of
from contest.units import numbered, with_units
from system.parallel import parallel_map
from utils import (
    OF_THE_PATH,
    UserError,
    counted,
    digest_file,
    digest_json,
    first_few,
    quoted_cell,
)

# kinds of warnings that say why rows were left out
LOST_ROWS = ("contradicted_id", "missing_file", "ambiguous_id", "other_split", "refused_path",
             "missing_label")
NO_CLASS = re.compile(r"_*(?:un(?:labell?ed|sorted|used|annotated|assigned)|to[ _-]?(?:do|sort)|"
                      r"rejected|trash|deleted|backup|duplicates?|assets?|docs?|figures?|screenshots?)_*")

# what else the name of a folder of test images holds: test, test_images, public-test-2, stage1_test
WORDS_OF_TEST = frozenset((
    "", "test", "testing", "tests", "testset", "testdata", "testimages", "testimage", "set", "data",
    "image", "images", "img", "imgs", "pictures", "photos", "files", "jpg", "jpeg", "png", "public",
    "private", "final", "new", "stage", "part", "phase", "round", "crops", "a", "b"))


def read_contest(folder, data):
    """The Contest in a folder. data: DataConfig. UserError with all fatal problems at once."""
    files = scan_folder(folder)
    fixes = find_fixes(files, data.label_fixes)
    try:
        return mended(read_files(without_fixes(files), data), fixes)
    except UserError as error:
        if not files.closed_folders or closed_folders(files) in error.args:
            raise
        raise UserError(*error.args, closed_folders(files)) from None


def read_files(files, data):
    """The Contest in the Files of a folder."""
    findings = Findings()
    report_files(files, findings)

    # which table holds the labels, which is the sample submission
    tables = read_tables(files, data, findings)
    files = without_read(files, tables)
    sample = find_sample(tables, data.sample_submission, findings)
    tables, of_test = with_units(files, tables, sample, data)
    folders = rows_of_folders(files)
    in_folders = frozenset(folders.paths if folders and len(set(folders.labels)) > 1 else ())
    are_classes = bool(folders) and not all(map(is_shard, set(folders.labels)))
    label_table = find_label_table(tables, sample, data.label_table, len(in_folders), are_classes,
                                   findings)
    sample = sample or find_form(files, tables, label_table, in_folders or in_names(files),
                                 findings)
    check_used_table(files, label_table, findings)
    if label_table is None and not folders and all(
            files.split_of(p) == "test" for p in files.images):
        fail_without_images(files, findings)

    # training images and their classes
    labelled = labelled_rows(files, tables, label_table, sample, folders, data, findings)
    labelled = with_host_folds(files, labelled, data, findings)
    findings.stop_if_fatal()
    refuse_classes_like_test(files, labelled, findings)
    findings.stop_if_fatal()
    others = [t for t in tables if t not in (label_table, sample)]
    values = [part for label in labelled.labels for part in labelled.reading.parts(label)]
    names, names_path = find_class_names(files, others, values, findings)
    train = train_catalog(files.root, labelled, names, findings)
    class_names = tuple(names.get(c, c) for c in train.classes)
    report_classes_of_one_fold(train, class_names, data, findings)

    # test images and the form of the submission
    unused = [t for t in others if t.path != names_path]
    test_list = sample or find_test_table(unused, label_table)
    check_used_table(files, test_list, findings)
    test, ids = test_catalog(files, test_list, of_test, labelled, train.classes, findings)
    report_closed_folders(files, labelled, test_list, findings)
    report_extra_files(files, set(labelled.paths), test, findings)
    if test_list is not None and not data.sample_submission:
        refuse_short_list(files, test_list, labelled, test, findings)
    report_folders(files, labelled, findings)
    report_packed(files, findings, labelled.setting in ("folders", "subfolders"))
    report_side_columns(label_table, labelled, data, findings)
    report_closed_sample(files, sample, findings)
    used = (label_table, sample, test_list, of_test)
    for text in dict.fromkeys(text for table in used if table for text in table.lost_columns):
        findings.warn("lost_column", text)
    report_unused([t for t in unused if t not in used], set(ids), labelled, findings)
    form = make_form(sample, labelled, ids, train.classes, class_names, findings)
    report_formulas(form, train.classes, findings)
    refuse_groups_of_classes(train, data.group_column, findings)
    findings.stop_if_fatal()

    understood = understood_lines(labelled, train, class_names, names_path, data)
    return Contest(files.root, train, test, class_names, form, tuple(findings.problems), understood)


def report_files(files, findings):
    """What the names of files say. Stops where no image can be read."""
    report_refused(files, findings)
    report_undecodable(files, findings)
    report_unread(files, findings)
    report_heic(files, findings)
    report_aside(files, findings)
    findings.stop_if_fatal()
    if not files.images:
        fail_without_images(files, findings)


def without_read(files, tables):
    """The Files without the sheets that were read: they are tables as any other."""
    read = {path.split("#")[0] for table in tables for path in (table.path, *table.joined)}
    return with_fields(files, closed=tuple(path for path in files.closed if path not in read))


def in_names(files):
    """The images whose class stands in their names."""
    names = rows_of_names(files)
    return frozenset(names.paths if names else ())


# ---------------------------------------------------------------- catalogs

def train_catalog(root, labelled, names, findings):
    """Catalog of the training rows. If classes have `names`, rows with other labels are left out.
    """
    reading = labelled.reading
    known = [i for i, label in enumerate(labelled.labels)
             if not names or all(part in names for part in reading.parts(label))]
    classes, label, target = reading.build([labelled.labels[i] for i in known],
                                           labelled.target_columns)
    alike = [c for c in classes if sum(c.casefold() == other.casefold() for other in classes) > 1]
    if alike:
        findings.warn("classes_alike",
                      f"{counted(alike, 'class')} differ in case alone and are kept apart: give "
                      "them one spelling if they are one class", alike)
    empty = [c for c in names if c not in classes]
    if empty:
        findings.warn("class_without_images",
                      f"{counted(empty, 'class')} of the class list without any training image: "
                      "they are never predicted", empty)
    if len(classes) < reading.fewest or not known:
        lost = [p.text for p in findings.problems if p.kind in LOST_ROWS]
        advice = lost[0] if lost else "check the label table and that the images lie in the folder"
        findings.fail(
            "too_few_classes",
            f"training needs images of at least 2 classes, got {len(classes)} "
            f"({first_few(classes) or 'no labelled image was found'}) from {labelled.source}: "
            f"{advice}",
        )
    units = [labelled.units[i] for i in known] if labelled.units else []
    ids = numbered(units) if units else [labelled.ids[i] for i in known]
    folds, _ = numbers_of_folds(labelled.folds)
    rows = [{"sample_id": ids[k], "path": str(root / labelled.paths[i]),
             "label": label[k], "group": labelled.groups[i],
             "target": None if target is None else target[k],
             **({"unit": units[k]} if units else {}),
             **({"fold": folds[i]} if folds else {})} for k, i in enumerate(known)]
    return Catalog.of(rows, classes, labelled.task)


def test_catalog(files, test_list, of_test, labelled, classes, findings):
    """(Catalog of the test images, ids in the submission's order), by the sample submission, the
    test table or the test folder. of_test: the Table of the images of ids that have several."""
    naming = PLAIN
    if test_list is not None and of_test is None and test_list.unit:
        of_test = test_list
    if test_list is None:
        ids, located = images_of_test_folder(files, labelled)
        why = "no folder test*/"
    else:
        ids = test_list.columns[test_list.unit or id_column_of(test_list, labelled)]
        if of_test is test_list:
            ids = tuple(dict.fromkeys(ids))
        if of_test is not None:
            return units_of_test(files, of_test, ids, labelled, classes, findings)
        taken = {p for p in labelled.paths if files.split_of(p) == "train"}
        naming = test_list.naming
        located = locate(files, ids, "test", taken=taken, naming=naming)
        why = f"none of the {len(ids)} ids of {test_list.path!r} is an image file"

    if not any(located.paths):
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
                     findings, naming)
    path_of = dict(zip(ids, located.paths, strict=True))
    rows = [{"sample_id": i, "path": str(files.root / p) if p else ""} for i, p in path_of.items()]
    return Catalog.of(rows, classes), tuple(ids)


def units_of_test(files, table, ids, labelled, classes, findings):
    """(Catalog of the images of each id, the ids). table: of one row an image."""
    wanted = set(ids)
    pairs = [(unit, file) for unit, file in zip(
        table.columns[table.unit], table.columns[table.id_column], strict=True) if unit in wanted]
    taken = {p for p in labelled.paths if files.split_of(p) == "train"}
    located = locate(files, [file for _, file in pairs], "test", taken=taken, naming=table.naming)
    report_unlocated(files, located, table.path, "their ids are predicted from fewer images",
                     findings, table.naming, "file")
    found = [(unit, path) for (unit, _), path in zip(pairs, located.paths, strict=True) if path]
    without = sorted(wanted - {unit for unit, _ in found})
    if without:
        findings.warn("missing_file", f"the test list has {counted(without, 'id')} without an "
                      "image file: their submission rows get the class prior", without)
    found += [(unit, "") for unit in without]
    units = [unit for unit, _ in found]
    rows = [{"sample_id": sample_id, "unit": unit, "path": str(files.root / path) if path else ""}
            for sample_id, (unit, path) in zip(numbered(units), found, strict=True)]
    return Catalog.of(rows, classes), tuple(ids)


def images_of_test_folder(files, labelled):
    """(ids, Located) of the unlabelled images in test folders. Ids are names if these are unique,
    else paths."""
    labelled_paths = set(labelled.paths)
    paths = [p for p in files.images if files.split_of(p) == "test" and p not in labelled_paths]
    names = [p.rsplit("/", 1)[-1] for p in paths]
    if all(without_suffix(i) == i for i in labelled.ids):   # as in the label table
        names = [without_suffix(name) for name in names]
    ids = names if len(set(names)) == len(names) else paths
    return ids, Located(tuple(paths))


def id_column_of(test_list, labelled):
    """The column of a test list that holds its ids, even if none of them is an image."""
    if test_list.id_column:
        return test_list.id_column
    if labelled.id_column in test_list.columns:
        return labelled.id_column
    return next(iter(test_list.columns))


# ---------------------------------------------------------------- warnings

def report_refused(files, findings):
    """A warning for links and special files."""
    if files.refused:
        findings.warn(
            "refused_path",
            f"the folder holds {counted(files.refused, 'link or special file')} left unopened "
            "(out of the folder, not a regular file or not readable): copy what is missing into "
            "the folder",
            files.refused,
        )


def closed_folders(files):
    """That images may lie in folders without access, and what to do about it."""
    return (f"{counted(files.closed_folders, 'folder')} may not be read (no permission), and "
            "images may lie there: give yourself access (chmod -R u+rX FOLDER), or move away what "
            "does not belong to the contest")


def report_closed_folders(files, labelled, test_list, findings):
    """An error for folders without access where images are missing or may lie there, else a
    warning.

    They may lie there if an id has no image, or if folders decide which images there are.
    """
    if not files.closed_folders:
        return
    lacks = findings.of_kind("missing_file") or findings.of_kind("no_test_images")
    by_folder = not labelled.source.startswith("table") or test_list is None
    if lacks or (by_folder and any(may_hold_images(files, f) for f in files.closed_folders)):
        findings.fail("closed_folder", closed_folders(files))
    else:
        findings.warn("closed_folder", f"{counted(files.closed_folders, 'folder')} may not be read "
                      "(no permission): left out, no image of the contest seems to lie there")


def report_aside(files, findings):
    """A warning for masks and thumbnails of other images."""
    if files.aside:
        findings.warn(
            "aside",
            f"{counted(files.aside, 'image file')} repeat the names of other images in folders of "
            "masks or thumbnails, or end in `_mask`: not used",
            files.aside,
        )


def report_folders(files, labelled, findings):
    """Warnings for folders beside the class folders without an image that is read, for those whose
    name says that they hold no class, and for names that differ in blanks alone."""
    if labelled.setting not in ("folders", "subfolders"):
        return
    classes = set(labelled.labels)
    places = places_of_classes(labelled)
    others = {}
    for path in (*files.others, *files.unread, *files.foreign, *files.tables):
        for place in places:
            name, _, rest = path[len(place) + 1 if place else 0:].partition("/")
            if path.startswith(place) and rest and place and normal(name).strip() not in classes:
                others.setdefault(f"{place}/{name}", []).append(path)
    for folder, paths in others.items():
        if not any(path.startswith(f"{folder}/") for path in (*files.images, *files.aside)):
            findings.warn("class_without_images", f"folder {folder!r} beside the class folders "
                          f"holds {by_suffix(paths)} and no image that is read: it is no class")
    idle = sorted(name for name in classes if NO_CLASS.fullmatch(name.lower()))
    if idle:
        are = "is named as if it held no class: move it" if len(idle) == 1 else (
            "are named as if they held no class: move those without one")
        findings.warn("no_class", f"{counted(idle, 'class folder')} {are} out of the contest folder"
                      f"{' if so' * (len(idle) == 1)}", idle)
    names = {name for found in places.values() for name in found}
    blank = sorted(name for name in names if name != name.strip() and name.strip() in names)
    if blank:
        findings.warn("classes_alike", f"{counted(blank, 'class folder')} differ from another in "
                      "blanks alone: each is read as one class with it", blank)


def report_side_columns(table, labelled, data, findings):
    """A warning for columns of numbers beside the labels, which no network reads."""
    if table is None or labelled.setting != table.path:
        return
    known = (*labelled.target_columns, data.group_column, data.fold_column)
    side = [name for name in table.others(*known, *columns_of_folds(table))
            if are_side_numbers(table.columns[name])]
    if side:
        them = "it is" if len(side) == 1 else "they are"
        findings.warn("side_columns", f"{counted(side, 'column')} of numbers in {table.path!r} "
                      f"beside the labels: {them} not used, as networks read images alone")


def are_side_numbers(values):
    """Whether a column holds several numbers, and does not only number its rows."""
    found = {value for value in values if not is_no_number(value)}
    return (len(found) > 2 and all(number_of(value) is not None for value in found)
            and not are_row_numbers(values))


def places_of_classes(labelled):
    """{folder that holds class folders: their names}, of labels that are folder names."""
    places = {}
    for path, label in zip(labelled.paths, labelled.labels, strict=True):
        parts = path.split("/")
        at = next(i for i, part in enumerate(parts[:-1]) if normal(part).strip() == label)
        places.setdefault("/".join(parts[:at]), set()).add(parts[at])
    return places


def refuse_classes_like_test(files, labelled, findings):
    """An error for folders whose names hold `test` that may be classes, where no folder below says
    which images are to train on: `rapid_test/` beside a plain `test/`, or `train/test/` beside
    `train/exam/`."""
    is_by_folder = labelled.setting in ("folders", "subfolders")
    if not is_by_folder or any(files.split_of(path) == "train" for path in labelled.paths):
        return
    named = set()
    taken = set(labelled.paths)
    for path in files.images:
        if files.split_of(path) == "test" and path not in taken:
            folders = path.split("/")[files.n_wrappers:-1]
            named.add(next(name for name in folders if split_of(f"{name}/")))
    above = labelled.paths[0].split("/")[:files.n_wrappers]
    is_in_train = any(split_of(f"{name}/") == "train" and says_split_alone(name) for name in above)
    if named and (is_in_train or len(set(labelled.labels)) < 2):
        where = repr("/".join(above)) if above else "the contest folder"
        findings.fail(
            "class_or_test",
            f"{counted(sorted(named), 'folder')} in {where} beside the class folders may hold a "
            "class or test images: rename it without 'test' if it is a class, or put it beside "
            "the folder of the training images if it holds test images")
        return
    unclear = sorted(name for name in named
                     if not WORDS_OF_TEST.issuperset(re.split(r"[\W\d_]+", name.lower())))
    if unclear and len(unclear) < len(named):
        findings.fail(
            "class_or_test",
            f"{counted(unclear, 'folder')} beside a folder of test images may hold a class or test "
            "images: rename those that are classes so that their names do not hold 'test', and "
            "move test images into the folder of the others")


def report_closed_sample(files, sample, findings):
    """A warning for a sample submission in a format that is not read, or that is not written."""
    if sample is not None and is_sheet(sample.path):
        findings.warn("sample_as_csv", "the submission is written as a csv: convert it if the "
                      f"contest, whose sample is {sample.path!r}, wants that format")
    closed = [p for p in (*files.closed, *files.foreign)
              if "submi" in p.lower().rsplit("/", 1)[-1]]
    if sample is None and closed:
        findings.warn("unread_sample", f"{closed[0]!r} may be the sample submission and is not "
                      f"read: {how_to_read(closed[0])}, or the submission gets other columns "
                      "and rows")


def refuse_groups_of_classes(train, group_column, findings):
    """An error if each class lies in one group, so that no fold could train on what it validates.
    """
    pairs = set(zip(train.label.tolist(), train.group.tolist(), strict=True))
    are_classes = train.reading.one_class
    if group_column and are_classes and len(train) > len(train.classes) == len(pairs):
        findings.fail(
            "group_column",
            f"--group_column must name groups within classes, but each of the "
            f"{len(train.classes)} classes lies in one group of {group_column!r}, so a fold "
            "would validate classes that it never trained on: leave it out",
        )


def report_classes_of_one_fold(train, class_names, data, findings):
    """A warning for classes that lie in one fold of the host, so that it has no model that saw
    them; an error if all do."""
    if train.fold is None:
        return
    lost = []
    for k, name in enumerate(class_names):
        folds = set(train.fold[train.of_class(k)].tolist())
        if len(folds) == 1 and folds != {-1}:
            lost.append(name)
    if not lost:
        return
    flag = f"--fold_column {data.fold_column}" if data.fold_column else "--valid_folder use"
    what = f"all images of {counted(lost, 'class')} lie in "
    if train.n_host_folds == 1:
        what += "the only fold: no model trains on such a class, and none predicts it"
    else:
        what += (f"one fold{' each' * (len(lost) > 1)}: the models that are scored on such a class "
                 "never trained on it, and miss all of it")
    say = findings.fail if len(lost) == len(class_names) else findings.warn
    say("class_of_one_fold",
        f"{what}; divide each class over the folds of {flag}, or leave that out, and the folds "
        "are drawn", lost)


def report_formulas(form, classes, findings):
    """A warning for cells of the submission that a spreadsheet would run."""
    risky = [text for text in dict.fromkeys([*form.ids, *classes]) if quoted_cell(text) != text]
    if risky:
        findings.warn(
            "formula_cell",
            f"the submission needs {counted(risky, 'cell')} that a spreadsheet would run as a "
            "formula: do not open it in one",
            risky,
        )


def report_unused(tables, test_ids, labelled, findings):
    """A warning that names each table that gave nothing, and why; none for a list of test ids."""
    for table in tables:
        if not table.n_rows or any(set(v) <= test_ids for v in table.columns.values()):
            continue
        n_images = min(len(table.images), table.n_rows)
        why = "none of its columns names image files"
        if table.others() and all(says_split(table.columns[c]) for c in table.others()):
            why = "it only says the split of each image"
        elif n_images:
            why = f"it names {n_images} images, and the labels are from {labelled.source}"
        taken = f" (--set data.label_table={table.path} takes it)" if table.id_column else ""
        findings.warn("unused_table", f"table {table.path!r} is not used: {why}{taken}")


def report_extra_files(files, labelled_images, test, findings):
    """A warning for image files that belong to no id."""
    test_images = {path_inside(p, files.root) for p in test.path.tolist() if p}
    used = labelled_images | test_images
    extra = [p for p in files.images if p not in used]
    if extra:
        findings.warn(
            "file_without_id",
            f"{counted(extra, 'image file')} with no id in the tables or class folders: not used",
            extra,
        )


def refuse_short_list(files, table, labelled, test, findings):
    """An error if what may be an older submission of the user lists some of the test images alone.

    A warning if its name says that it is the sample; neither if it says test images.
    """
    listed = {path_inside(p, files.root) for p in test.path.tolist() if p}
    folders = {path.rpartition("/")[0] for path in listed}
    used = listed | set(labelled.paths)
    missing = [path for path in files.images if path not in used and (
        files.split_of(path) == "test" or path.rpartition("/")[0] in folders)]
    if not missing or not listed:
        return
    what = f"{table.path!r} lists {len(listed)} of {len(listed) + len(missing)} test images"
    if "sample" in table.name:
        findings.warn("short_sample", f"the sample submission {what}: no others are predicted, so "
                      "move it away if it is not the contest's own", missing)
    elif "submi" in table.name or not table.is_of_test:
        findings.fail("short_sample", f"{what}: move it out of the contest folder if it is an "
                      f"older submission, or --set data.sample_submission={table.path} takes it "
                      "and predicts no others", missing)


# ---------------------------------------------------------------- the form, and what was understood

def make_form(table, labelled, ids, classes, class_names, findings):
    """The Form of a sample submission, or the usual one if `table` is None. Class columns that do
    not fit the classes become problems."""
    target = labelled.target_columns[:1] if len(labelled.target_columns) == 1 else ("target",)
    if not labelled.reading.one_class:
        target = labelled.target_columns
    written = {"joint": labelled.joint, "backwards": labelled.backwards}
    if table is None or len(table.columns) < 2:
        form = Form((labelled.id_column, *target), labelled.id_column, ids, **written)
        class_of = match_columns(form.columns, classes) if form.has_class_columns else ()
        return with_fields(form, class_of=class_of)
    form = Form(tuple(table.columns), id_column_of(table, labelled), ids, source=table.path,
                separator=table.separator, **written)
    class_of = match_columns(form.columns, classes, class_names)
    if not form.has_class_columns:
        return form if -1 in class_of else with_fields(form, class_of=class_of)

    lacking = [c for k, c in enumerate(class_names) if k not in class_of]
    idle = [c for c, k in zip(form.columns, class_of, strict=True) if k < 0]
    if lacking or len(idle) > len(form.columns) / 2:
        findings.fail(
            "class_columns",
            f"the sample submission {table.path!r} must have one class column beside its ids, or "
            f"one per class with its name, got {first_few(form.columns)} for the classes "
            f"{first_few(class_names)}; without a column: {first_few(lacking) or 'none'}; without "
            f"a class: {first_few(idle) or 'none'}: rename them, or --set "
            "data.sample_submission=FILE data.label_table=FILE data.target_column=NAME",
        )
    elif idle:
        findings.warn("class_without_images",
                      f"{counted(idle, 'column')} of {table.path!r} without any training image: "
                      "0 is written there", idle)
    return with_fields(form, class_of=class_of)


def understood_lines(labelled, train, class_names, names_path, data):
    """How labels, classes and groups were read, one line each, with the flag that changes it."""
    is_table = labelled.source.startswith("table")
    words = labelled.reading.words(labelled.target_columns, train.classes, is_table)
    counts = np.array([train.of_class(k).sum() for k in range(len(train.classes))])
    named = f", named by {names_path}" if names_path else ""
    group = "near-duplicates stay in one fold"
    if data.group_column:
        group = f"column {data.group_column!r}, and near-duplicates"
    elif labelled.offered_groups:
        group += f"; columns that repeat over images: {first_few(labelled.offered_groups)}"
    group = "; ".join([group, *labelled.hints])
    if labelled.folds:
        _, names = numbers_of_folds(labelled.folds)
        group = (f"{len(names)} fold(s) of the host, {first_few(names)}; "
                 f"{sum(not fold for fold in labelled.folds)} images are trained on in each")
    return (
        f"labels:     {labelled.source}, {len(train)} images (--set data.label_table=FILE "
        "data.id_column=NAME)",
        labelled.reading.line(words, counts, train.target, train.classes,
                              first_few(class_names), named),
        f"groups:     {group} (--group_column NAME)",
    )


# ---------------------------------------------------------------- digests

def contest_digests(contest, workers):
    """[sha256 of each train and test file in catalog order ('' = unreadable), then one digest of
    everything else that was read]."""
    train = contest.train
    more = {} if train.target is None else {"task": train.task, "target": train.target.tolist()}
    for name in OPTIONAL:
        found = [getattr(catalog, name) for catalog in (train, contest.test)
                 if name in catalog.optional]
        if found:
            more[name] = found
    rest = {
        **more,
        "train": [train.sample_id, train.label, train.group, train.classes],
        "test": contest.test.sample_id,
        "class_names": contest.class_names,
        "submission_ids": contest.submission_ids,
    }
    paths = train.path.tolist() + contest.test.path.tolist()
    digests = parallel_map(digest_or_empty, paths, workers, "content hashes")
    return [*digests, digest_json(rest)]


def digest_or_empty(path):
    try:
        return digest_file(path) if path and stat.S_ISREG(os.stat(path).st_mode) else ""
    except OSError as error:
        if error.errno not in OF_THE_PATH:
            raise
        return ""
