"""A contest folder as downloaded -> Contest: which image has which label, which ids want a prediction. Nothing is decoded.

    contest = read_contest("contest", DataConfig())
    print(*contest.understood, sep="\n")

The way there is files.py (which file an id means), then tables.py (which table is what). Letters: n samples, C classes.
"""
import os
import re
import stat
from collections import Counter, defaultdict
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path

import numpy as np

from files import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    Findings,
    Located,
    Problem,
    counted,
    first_few,
    locate,
    quoted_cell,
    report_unlocated,
    scan_folder,
    split_of,
    without_suffix,
)
from submission import Form, match_columns
from tables import (
    SUPPORTED,
    are_whole_numbers,
    check_used_table,
    find_class_names,
    find_form,
    find_label_table,
    find_sample,
    find_target,
    find_test_table,
    is_fraction,
    labels_of,
    read_tables,
    says_sample,
)
from utils import UserError, digest_file, digest_json, nearest, parallel_map

CROSSED = 0.8       # share of the pairs of outer and inner folders that exist, from which either may be the class
# a folder's name that has a split's in it and yet is that of a class, among other classes
IS_A_THING = re.compile(r"train|(?:test|train)(?:ing)?[_\- ]"
                        r"(?!(?:image|img|pic|photo|set|data|file|jpe?g|png|tif|small|large|\d)).+")

# ---------------------------------------------------------------- catalogs

def as_strings(values):
    return np.asarray(values, dtype=str) if len(values) else np.zeros(0, dtype="<U1")


@dataclass(frozen=True, eq=False)
class Catalog:
    """n samples, sorted by id. All fields but `classes` have shape (n,).

    path: absolute, '' = no file; sha256: of the file's bytes, '' = not read; label: index in classes, -1 = missing;
    group: samples with one value stay in one fold.
    """

    sample_id: np.ndarray
    path: np.ndarray
    sha256: np.ndarray
    label: np.ndarray
    group: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self):
        for name in ("sample_id", "path", "sha256", "group"):
            object.__setattr__(self, name, as_strings(getattr(self, name)))
        object.__setattr__(self, "label", np.asarray(self.label, dtype=np.int64))
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))
        lengths = {name: len(getattr(self, name)) for name in ("sample_id", "path", "sha256", "label", "group")}
        if len(set(lengths.values())) > 1:
            raise UserError(f"the fields of a Catalog must have one length, got {lengths}")
        repeated = [i for i, count in Counter(self.sample_id.tolist()).items() if count > 1]
        if repeated:
            raise UserError(f"sample ids must be unique, but these repeat: {first_few(repeated)}")
        if np.any(self.sample_id[:-1] > self.sample_id[1:]):
            raise UserError("the samples of a Catalog must be sorted by id")
        wrong = self.sample_id[(self.label < -1) | (self.label >= len(self.classes))]
        if len(wrong):
            raise UserError(f"labels must be -1 or an index of the {len(self.classes)} classes; wrong for "
                            f"{first_few(wrong)}")

    def __len__(self):
        return len(self.sample_id)

    def take(self, rows):
        """The samples at `rows` (indices or a mask) as a Catalog; rows must keep the order by id."""
        return Catalog(self.sample_id[rows], self.path[rows], self.sha256[rows], self.label[rows], self.group[rows],
                       self.classes)

    @classmethod
    def of(cls, rows, classes):
        """From dicts with sample_id, path, and perhaps label and group; sorted here."""
        rows = sorted(rows, key=lambda r: r["sample_id"])
        ids = [r["sample_id"] for r in rows]
        return cls(ids, [r["path"] for r in rows], [""] * len(rows), [r.get("label", -1) for r in rows],
                   [r.get("group") or r["sample_id"] for r in rows], classes)


@dataclass(frozen=True, eq=False)
class Contest:
    """A contest folder as understood, before any image is decoded.

    class_names: of train.classes, in their order; form: what the submission must look like; understood: how labels, classes
    and groups were read, one line each.
    """

    folder: Path
    train: Catalog
    test: Catalog
    class_names: tuple[str, ...]
    form: Form
    problems: tuple[Problem, ...]
    understood: tuple[str, ...]

    @property
    def submission_ids(self):
        return self.form.ids

    def for_metric(self, metric):
        """The contest with the form of its submission decided by the metric's name and answer."""
        return with_fields(self, form=self.form.for_metric(metric.name, metric.answer, self.train.classes))

    def describe(self, metric, is_asked):
        """The five lines printed before anything else, each with what overrides it. `form` must be decided by the metric."""
        why = "as asked" if is_asked else "by the submission's class columns" if self.form.has_class_columns else "the default"
        scale = ", classes are grades on a scale" if metric.answer == "grade" else ""
        return (*self.understood, f"metric:     {metric.name}, {why}{scale} (--metric NAME)",
                f"submission: {self.form.describe()} (--set data.sample_submission=FILE)")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Training rows as found: ids, relative paths ('' = none), labels as text, group values ('' = none), and how."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    id_column: str
    target_columns: tuple[str, ...]
    source: str
    offered_groups: tuple[str, ...] = ()


def read_contest(folder, data):
    """What a contest folder holds; UserError with all fatal problems at once. `data`: DataConfig."""
    files = scan_folder(folder)
    findings = Findings()
    if files.refused:
        findings.warn("refused_path",
                      f"the folder holds {counted(files.refused, 'link or special file')} that lead out of it, are no regular "
                      "files or may not be read: they are not opened; copy what is missing into the folder", files.refused)
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


def fail_without_images(files, findings):
    """The fatal problem of a folder without usable images, with what to do about the formats found."""
    pixels = [path for path in files.tables if re.search(r"\bpixels?[\d_]*\b|\b\d+x\d+\b", header_of(files.root / path))]
    formats = sorted({FOREIGN_SUFFIXES[Path(p).suffix.lower()] for p in files.foreign}) + ["pixel csv"] * bool(pixels)
    if formats:
        findings.fail("unsupported", f"{str(files.root)!r} holds no training images but {', '.join(formats)} files "
                      f"({first_few([*pixels, *files.foreign])}): unpack or convert them to JPEG or PNG first")
    else:
        findings.fail("no_images",
                      f"{str(files.root)!r} must hold training images ({', '.join(IMAGE_SUFFIXES)}), but has none: put them "
                      "beside their table" + (f"; {counted(files.refused, 'link or special file')} out of it are not "
                                              "opened: copy what they lead to" if files.refused else ""))
    findings.stop_if_fatal()


def header_of(path):
    """The first characters of a table, which may be too large to be read when it is no use."""
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.readline(4096)


# ---------------------------------------------------------------- labels

def labelled_rows(files, tables, label_table, sample, data, findings):
    """Labelled from the label table, else from class folders, else from file names; a fatal problem where all lack."""
    if label_table is not None:
        return rows_of_table(files, label_table, sample, data, findings)
    empty = [t.path for t in tables if not t.n_rows and t is not sample and not says_sample(t) and not t.is_of_test]
    if empty and not data.label_table:
        findings.fail("empty_table", f"the label table must have rows, but {first_few(empty)} is empty: restore it")
        return None
    asked = data.label_table
    folders = rows_of_folders(files) if asked in ("", "folders") else None
    inner = rows_of_folders(files, is_inner=True) if asked in ("", "subfolders") else None
    names = rows_of_names(files) if asked in ("", "names") else None
    if folders and inner and are_crossed(folders, inner):
        fail_two_readings(folders, inner, findings)
    elif asked == "subfolders":
        folders = inner
    if folders and names and len(set(folders.labels)) > 1 and not same_split(folders.labels, names.labels):
        fail_two_readings(folders, names, findings)
    rows = names if names and (not folders or len(set(folders.labels)) < 2) else folders
    if rows is None:
        for broken in [p for p in findings.problems if p.kind == "unreadable_table"]:
            findings.fail(broken.kind, broken.text)
        findings.fail("no_labels", f"{str(files.root)!r} must say which image has which class, but none of its tables "
                      f"({first_few([t.path for t in tables]) or 'it has none'}) has a column of image ids beside a "
                      f"class column, and neither folders nor file names do; {SUPPORTED}")
    elif data.group_column:
        findings.fail("group_column",
                      f"--group_column {data.group_column!r} needs a label table, and this contest has {rows.source}: "
                      "leave it out")
    return rows


def same_split(labels, others):
    """Whether two labellings differ in the names of the classes alone."""
    return len(set(zip(labels, others, strict=True))) == len(set(labels)) == len(set(others))


def fail_two_readings(one, other, findings):
    ways = [f"from {rows.source} ({first_few(sorted(set(rows.labels)))})" for rows in (one, other)]
    findings.fail("ambiguous_labels", f"the labels can be read in two ways, {ways[0]} and {ways[1]}: "
                  "--set data.label_table=FILE, folders, subfolders or names takes one")


def rows_of_table(files, table, sample, data, findings):
    """Labelled of a label table; rows without a label, with a refused id or repeated with other labels are left out."""
    group = data.group_column
    if not table.id_column:
        findings.fail("no_ids", f"table {table.path!r} must have a column of image ids, but none of {first_few(table.columns)} "
                      f"names image files: --set data.label_table=FILE takes another table")
        return None
    if group and group not in table.others():
        findings.fail("group_column", f"--group_column must be a column of {table.path!r}, got {group!r}"
                      f"{nearest(group, table.others())}; columns: {', '.join(table.others())}")
        return None
    form_columns = sample.others(table.id_column) if sample is not None else []
    if sample is not None and not sample.id_column and table.id_column not in sample.columns:
        form_columns = form_columns[1:]                         # none of its ids is an image: they stand first
    target = find_target(table, form_columns, data, findings)
    if not target:
        return None
    ids = table.columns[table.id_column]
    labels = labels_of(table, target, findings, bool(data.target_column))
    groups = table.columns[group] if group else ("",) * len(ids)
    offered = offered_groups(table, target, group, labels)
    keep = unrepeated_rows(table.path, ids, labels, findings)
    ids, labels, groups = (tuple(values[i] for i in keep) for values in (ids, labels, groups))
    located = locate(files, ids, "train", labels)
    report_unlocated(files, located, table.path, "these rows are left out", findings)
    rows = [i for i, path in enumerate(located.paths) if path]
    ids, labels, groups, paths = (tuple(values[i] for i in rows) for values in (ids, labels, groups, located.paths))
    found = Labelled(ids, paths, labels, tuple(f"{group}={g}" if g else "" for g in groups), table.id_column, target,
                     f"table {table.path}, {table.n_rows} rows, ids in column {table.id_column!r}", offered)
    is_decided = data.label_table or data.target_column or set(target) & set(form_columns) or len(form_columns) > 1
    if not is_decided:
        refuse_other_names(found, [rows_of_folders(files), rows_of_names(files)], findings)
    return found


def refuse_other_names(found, others, findings):
    """A fatal problem where folders or file names give the table's classes other names: which are to be written?"""
    for other in filter(None, others):
        label_of = dict(zip(other.paths, other.labels, strict=True))
        labels = [label_of.get(path, "") for path in found.paths]
        if set(labels) != set(found.labels) and same_split(found.labels, labels):
            fail_two_readings(found, other, findings)


def offered_groups(table, target, group, labels):
    """Columns that repeat over images and are neither measurements nor the class by another name, finest first."""
    n_values = {c: len(set(table.columns[c])) for c in table.others(*target, group)}
    offered = [c for c, n in n_values.items() if 1 < n <= table.n_rows / 2 and not same_split(labels, table.columns[c])
               and not any(map(is_fraction, table.columns[c]))]
    return tuple(sorted(offered, key=lambda c: -n_values[c]))


def unrepeated_rows(where, ids, labels, findings):
    """Rows to keep: one of each id; none of an id with two labels, or without id or label."""
    labels_of = defaultdict(list)
    for sample_id, label in zip(ids, labels, strict=True):
        labels_of[sample_id].append(label)
    unlabelled = [i for i, found in labels_of.items() if not i or not all(found)]
    repeated = [i for i, found in labels_of.items() if len(found) > 1 and len(set(found)) == 1]
    contradicted = [i for i, found in labels_of.items() if len(set(found)) > 1 and all(found)]
    if unlabelled:
        findings.warn("missing_label",
                      f"{where} has {counted(unlabelled, 'row')} without id or label: they are left out", unlabelled)
    if repeated:
        findings.warn("repeated_id", f"{where} repeats {counted(repeated, 'id')}: one row of each is kept", repeated)
    if contradicted:
        findings.warn("contradicted_id",
                      f"{where} gives different labels to {counted(contradicted, 'id')}: all their rows are left out",
                      contradicted)
    out = {*unlabelled, *contradicted}
    first_row = {}
    for row, sample_id in enumerate(ids):
        first_row.setdefault(sample_id, row)
    return [row for sample_id, row in first_row.items() if sample_id not in out]


def are_crossed(folders, inner):
    """Whether folders of the same names lie in nearly all class folders, as <patient>/<class>/ or <class>/<patient>/."""
    outer = set(folders.labels)
    within = set(inner.labels)
    pairs = set(zip(folders.labels, inner.labels, strict=True)) if folders.paths == inner.paths else ()
    return min(len(outer), len(within)) > 1 and len(pairs) >= CROSSED * len(outer) * len(within)


def rows_of_folders(files, is_inner=False):
    """Labelled of class folders train/<class>/... (or <class>/... in the folder itself), or None; is_inner: of the folders in
    them."""
    by_class = class_named_like_a_split(files.images)
    train = [] if by_class else [p for p in files.images if files.split_of(p) == "train"]
    base = train or [p for p in files.images if by_class or files.split_of(p) != "test"]
    parts = [p.split("/") for p in base]
    depth = 1 + next(i for i in range(files.n_wrappers, len(parts[0])) if split_of(parts[0][i] + "/")) if train else 0
    while len({tuple(p[:depth + 1]) for p in parts}) == 1 and all(len(p) > depth + 2 for p in parts):
        depth += 1                                              # a wrapper: its only content is one folder of folders
    depth += is_inner
    found = [(path, p[depth]) for path, p in zip(base, parts, strict=True) if len(p) > depth + 1]
    if not found:
        return None
    paths, labels = zip(*found, strict=True)
    where = "/".join([*parts[0][:depth - is_inner], *["*"] * is_inner, "<class>/"])
    return Labelled(paths, paths, labels, ("",) * len(paths), "ID", ("target",),
                    f"class folders {where}")


def class_named_like_a_split(paths):
    """Whether all images lie in folders side by side, one of them named like a split and at least two not, and that one is a
    class: the vehicle `train`, or a `test_tube`, which is no way to say test images."""
    folders = {p.rpartition("/")[0] for p in paths}
    names = {folder.rpartition("/")[2].lower() for folder in folders}
    alike = [name for name in names if split_of(f"{name}/")]
    return (len({folder.rpartition("/")[0] for folder in folders}) == 1 and len(names) >= 3 and len(alike) == 1
            and bool(IS_A_THING.fullmatch(alike[0])))


def rows_of_names(files):
    """Labelled of file names that begin with the class and end with a number, as cat.0.jpg or maine_coon_12.jpg, or None."""
    paths = ([p for p in files.images if files.split_of(p) == "train"]
             or [p for p in files.images if files.split_of(p) != "test"])
    labels = tuple(re.sub(r"[._\- (]*\d+\)?$", "", without_suffix(p.rsplit("/", 1)[-1])) for p in paths)
    is_numbered = all(label != without_suffix(p.rsplit("/", 1)[-1]) for p, label in zip(paths, labels, strict=True))
    counts = Counter(labels)
    if len(counts) < 2 or not is_numbered or min(counts.values()) < 2 or not all(re.search(r"[^\W\d_]", c) for c in counts):
        return None
    return Labelled(tuple(paths), tuple(paths), labels, ("",) * len(paths), "ID", ("target",),
                    "file names <class>.<number>")


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
        findings.fail("too_few_classes", f"training needs images of at least 2 classes, got {len(classes)} "
                      f"({first_few(classes) or 'no labelled image was found'}) from {labelled.source}: check the "
                      "label table and that the images lie in the folder")
    index = {c: k for k, c in enumerate(classes)}
    rows = [{"sample_id": labelled.ids[i], "path": str(root / labelled.paths[i]), "label": index[labelled.labels[i]],
             "group": labelled.groups[i]} for i in known]
    return Catalog.of(rows, classes), set(labelled.paths)


def test_catalog(files, test_list, labelled, classes, findings):
    """(Catalog of the test images, ids in the submission's order) by sample submission, test table or folder."""
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
        located = locate(files, ids, "test", taken={p for p in labelled.paths if files.split_of(p) == "train"})
    if not any(located.paths):
        why = ("no folder test*/" if test_list is None
               else f"none of the {len(ids)} ids of {test_list.path!r} is an image file")
        findings.warn("no_test_images", f"there are no test images ({why}): the run trains and validates, but makes no "
                      "submission")
        return Catalog.of([], classes), ()
    repeated = [i for i, count in Counter(ids).items() if count > 1]
    if repeated:
        findings.warn("repeated_id",
                      f"the test list repeats {counted(repeated, 'id')}: each row gets the same prediction", repeated)
    report_unlocated(files, located, "the test list", "their submission rows get the class prior", findings)
    path_of = dict(zip(ids, located.paths, strict=True))
    rows = [{"sample_id": i, "path": str(files.root / p) if p else ""} for i, p in path_of.items()]
    return Catalog.of(rows, classes), tuple(ids)


def report_formulas(form, classes, findings):
    """A warning for cells that the contest wants in the submission and that a spreadsheet would run."""
    risky = [text for text in dict.fromkeys([*form.ids, *classes]) if quoted_cell(text) != text]
    if risky:
        findings.warn("formula_cell", f"the submission needs {counted(risky, 'cell')} that a spreadsheet would run as a "
                      "formula: do not open it in one", risky)


def report_extra_files(files, labelled_images, test, findings):
    """A warning for image files that belong to no id."""
    used = labelled_images | {os.path.relpath(p, files.root).replace(os.sep, "/") for p in test.path.tolist() if p}
    extra = [p for p in files.images if p not in used]
    if extra:
        findings.warn("file_without_id",
                      f"{counted(extra, 'image file')} with no id in the tables or class folders: not used", extra)


def id_column_of(test_list, labelled):
    """The column of a test list that holds its ids, also where none of them is an image."""
    known = labelled.id_column if labelled.id_column in test_list.columns else next(iter(test_list.columns))
    return test_list.id_column or known


def make_form(table, labelled, ids, classes, class_names, findings):
    """The Form of a sample submission, or of none (None); class columns that do not fit the classes are problems."""
    target = labelled.target_columns[0] if len(labelled.target_columns) == 1 else "target"
    if table is None or len(table.columns) < 2:
        return Form((labelled.id_column, target), labelled.id_column, ids)
    form = Form(tuple(table.columns), id_column_of(table, labelled), ids, source=table.path, separator=table.separator)
    class_of = match_columns(form.columns, classes, class_names)
    if not form.has_class_columns:
        return form if -1 in class_of else with_fields(form, class_of=class_of)
    lacking = [c for k, c in enumerate(class_names) if k not in class_of]
    idle = [c for c, k in zip(form.columns, class_of, strict=True) if k < 0]
    if lacking or len(idle) > len(form.columns) / 2:
        findings.fail("class_columns", f"the sample submission {table.path!r} must have one class column beside its ids, or "
                      f"one per class with its name, got {first_few(form.columns)} for the classes {first_few(class_names)}; "
                      f"without a column: {first_few(lacking) or 'none'}; without a class: {first_few(idle) or 'none'}: rename "
                      "them, or --set data.sample_submission=FILE data.label_table=FILE data.target_column=NAME")
    elif idle:
        findings.warn("class_without_images", f"{counted(idle, 'column')} of {table.path!r} without any training image: "
                      "0 is written there", idle)
    return with_fields(form, class_of=class_of)


def understood_lines(labelled, train, class_names, names_path, data):
    """How labels, classes and groups were read, one line each, with the flag that changes it."""
    counts = np.bincount(train.label, minlength=len(train.classes))
    group = f"column {data.group_column!r}, and near-duplicates" if data.group_column else "near-duplicates only"
    if labelled.offered_groups and not data.group_column:
        group += f"; columns that repeat over images: {first_few(labelled.offered_groups)}"
    named = f", named by {names_path}" if names_path else ""
    return (f"labels:     {labelled.source}, {len(train)} images (--set data.label_table=FILE data.id_column=NAME)",
            f"classes:    {len(train.classes)}, {target_kind(labelled, train.classes)}, {counts.min()} to {counts.max()} "
            f"images each{named}: {first_few(class_names)} (--set data.target_column=NAME)",
            f"groups:     {group} (--group_column NAME)")


def target_kind(labelled, classes):
    """What the class is written as, and where."""
    columns = labelled.target_columns
    if len(columns) > 1:
        return f"one-hot in {len(columns)} columns"
    kind = ("binary, " if len(classes) == 2 else "") + ("whole numbers" if are_whole_numbers(classes) else "names")
    return f"{kind} in column {columns[0]!r}" if labelled.source.startswith("table") else kind


def contest_digests(contest, workers):
    """[sha256 of each train and test file in catalog order ('' = unreadable), then one digest of all else read]."""
    paths = contest.train.path.tolist() + contest.test.path.tolist()
    rest = {"train": [contest.train.sample_id, contest.train.label, contest.train.group, contest.train.classes],
            "test": contest.test.sample_id, "class_names": contest.class_names,
            "submission_ids": contest.submission_ids}
    return [*parallel_map(digest_or_empty, paths, workers, "content hashes"), digest_json(rest)]


def digest_or_empty(path):
    try:
        return digest_file(path) if path and stat.S_ISREG(os.stat(path).st_mode) else ""
    except OSError:
        return ""
