"""Where the labels are: a table, class folders, or the class in each file's name."""
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from contest.files import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    locate,
    report_unlocated,
    split_of,
    without_suffix,
)
from contest.tables import SUPPORTED, find_target, is_fraction, labels_of, says_sample
from utils import counted, first_few, nearest

# either level of folders may be the class if this share of all (outer, inner) pairs exists
CROSSED = 0.8
# a name like a split that is a class among other classes: train, test_tube, but not test_images
IS_A_THING = re.compile(r"train|(?:test|train)(?:ing)?[_\- ]"
                        r"(?!(?:image|img|pic|photo|set|data|file|jpe?g|png|tif|small|large|\d)).+")
PIXEL_COLUMN = re.compile(r"\bpixels?[\d_]*\b|\b\d+x\d+\b")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Training rows as found: ids, relative paths, labels as text, group values ('' = none), and
    where they come from.

    offered_groups: columns that could be --group_column.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    id_column: str
    target_columns: tuple[str, ...]
    source: str
    offered_groups: tuple[str, ...] = ()


def fail_without_images(files, findings):
    """Stops at a folder without usable images, and says what to do about the formats found."""
    pixels = [path for path in files.tables if PIXEL_COLUMN.search(header_of(files.root / path))]
    formats = sorted({FOREIGN_SUFFIXES[Path(path).suffix.lower()] for path in files.foreign})
    if pixels:
        formats.append("pixel csv")

    if formats:
        findings.fail(
            "unsupported",
            f"{str(files.root)!r} holds no training images but {', '.join(formats)} files "
            f"({first_few([*pixels, *files.foreign])}): unpack or convert them to JPEG or PNG "
            "first",
        )
    else:
        advice = "put them beside their table"
        if files.refused:
            advice += (f"; links out of it and special files ({first_few(files.refused)}) are not "
                       "opened: copy what they lead to")
        findings.fail(
            "no_images",
            f"{str(files.root)!r} must hold training images ({', '.join(IMAGE_SUFFIXES)}), but has "
            f"none: {advice}",
        )
    findings.stop_if_fatal()


def header_of(path):
    """The first line of a table, at most 4,096 characters: the table may be too large to read."""
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.readline(4096)


# ---------------------------------------------------------------- which source gives the labels

def labelled_rows(files, tables, label_table, sample, data, findings):
    """Labelled from the label table, else from class folders, else from file names; else None and
    an error."""
    if label_table is not None:
        return rows_of_table(files, label_table, sample, data, findings)
    empty = [t.path for t in tables
             if not t.n_rows and t is not sample and not says_sample(t) and not t.is_of_test]
    if empty and not data.label_table:
        findings.fail(
            "empty_table",
            f"the label table must have rows, but {first_few(empty)} is empty: restore it",
        )
        return None

    rows = rows_without_table(files, data.label_table, findings)
    if rows is None:
        fail_without_labels(files, tables, findings)
    elif data.group_column:
        findings.fail(
            "group_column",
            f"--group_column {data.group_column!r} needs a label table, and this contest has "
            f"{rows.source}: leave it out",
        )
    return rows


def rows_without_table(files, asked, findings):
    """Labelled of class folders or of file names, or None; an error if both give labels that
    differ. asked: data.label_table."""
    folders = rows_of_folders(files) if asked in ("", "folders") else None
    inner = rows_of_folders(files, is_inner=True) if asked in ("", "subfolders") else None
    names = rows_of_names(files) if asked in ("", "names") else None
    if folders and inner and are_crossed(folders, inner):
        fail_two_readings(folders, inner, findings)
    if asked == "subfolders":
        return inner
    if not folders or not names:
        return folders or names
    if len(set(folders.labels)) < 2:
        return names
    if not same_split(folders.labels, names.labels):
        fail_two_readings(folders, names, findings)
    return folders


def fail_without_labels(files, tables, findings):
    """The error if nothing says which image has which class."""
    for broken in [p for p in findings.problems if p.kind == "unreadable_table"]:
        findings.fail(broken.kind, broken.text)
    known = first_few([t.path for t in tables]) or "it has none"
    findings.fail(
        "no_labels",
        f"{str(files.root)!r} must say which image has which class, but none of its tables "
        f"({known}) has a column of image ids beside a class column, and neither folders nor file "
        f"names do; {SUPPORTED}",
    )


def same_split(labels, others):
    """Whether two labellings differ only in the names of the classes."""
    return len(set(zip(labels, others, strict=True))) == len(set(labels)) == len(set(others))


def fail_two_readings(one, other, findings):
    ways = [f"from {rows.source} ({first_few(sorted(set(rows.labels)))})" for rows in (one, other)]
    findings.fail("ambiguous_labels",
                  f"the labels can be read in two ways, {ways[0]} and {ways[1]}: "
                  "--set data.label_table=FILE, folders, subfolders or names takes one")


# ---------------------------------------------------------------- a table

def rows_of_table(files, table, sample, data, findings):
    """Labelled of a label table, or None and an error. Leaves out rows without a label, with a
    refused id, or repeated with another label."""
    group = data.group_column
    if not table.id_column:
        findings.fail(
            "no_ids",
            f"table {table.path!r} must have a column of image ids, but none of "
            f"{first_few(table.columns)} names image files: --set data.label_table=FILE takes "
            "another table",
        )
        return None
    if group and group not in table.others():
        findings.fail("group_column",
                      f"--group_column must be a column of {table.path!r}, got {group!r}"
                      f"{nearest(group, table.others())}; columns: {', '.join(table.others())}")
        return None

    form_columns = sample.others(table.id_column) if sample is not None else []
    if sample is not None and not sample.id_column and table.id_column not in sample.columns:
        form_columns = form_columns[1:]     # none of its ids is an image, so they stand first
    target = find_target(table, form_columns, data, findings)
    if not target:
        return None
    ids = table.columns[table.id_column]
    labels = labels_of(table, target, findings, bool(data.target_column))
    groups = table.columns[group] if group else ("",) * len(ids)
    offered = offered_groups(table, target, group, labels)

    def at(rows, *columns):
        return [tuple(values[row] for row in rows) for values in columns]

    keep = unrepeated_rows(table.path, ids, labels, findings)
    ids, labels, groups = at(keep, ids, labels, groups)
    located = locate(files, ids, "train", labels)
    report_unlocated(files, located, table.path, "these rows are left out", findings)
    with_file = [row for row, path in enumerate(located.paths) if path]
    ids, labels, groups, paths = at(with_file, ids, labels, groups, located.paths)
    groups = tuple(f"{group}={g}" if g else "" for g in groups)
    source = f"table {table.path}, {table.n_rows} rows, ids in column {table.id_column!r}"
    found = Labelled(ids, paths, labels, groups, table.id_column, target, source, offered)

    is_named_by_sample = set(target) & set(form_columns) or len(form_columns) > 1
    if not data.label_table and not data.target_column and not is_named_by_sample:
        refuse_other_names(found, [rows_of_folders(files), rows_of_names(files)], findings)
    return found


def refuse_other_names(found, others, findings):
    """An error if folders or file names give the table's classes other names, because it is unclear
    which of the names to write."""
    for other in filter(None, others):
        label_of = dict(zip(other.paths, other.labels, strict=True))
        labels = [label_of.get(path, "") for path in found.paths]
        if set(labels) != set(found.labels) and same_split(found.labels, labels):
            fail_two_readings(found, other, findings)


def offered_groups(table, target, group, labels):
    """Columns whose values repeat over images, finest first. Leaves out measurements and the class
    by another name."""
    n_values = {c: len(set(table.columns[c])) for c in table.others(*target, group)}
    offered = [c for c, n in n_values.items() if 1 < n <= table.n_rows / 2
               and not same_split(labels, table.columns[c])
               and not any(map(is_fraction, table.columns[c]))]
    return tuple(sorted(offered, key=lambda c: -n_values[c]))


def unrepeated_rows(where, ids, labels, findings):
    """Rows to keep: the first of each id; none of an id with two labels, or without id or label."""
    labels_of_id = defaultdict(list)
    first_row = {}
    for row, (sample_id, label) in enumerate(zip(ids, labels, strict=True)):
        labels_of_id[sample_id].append(label)
        first_row.setdefault(sample_id, row)

    found_labels = labels_of_id.items()
    unlabelled = [i for i, found in found_labels if not i or not all(found)]
    repeated = [i for i, found in found_labels if len(found) > 1 and len(set(found)) == 1]
    contradicted = [i for i, found in found_labels if len(set(found)) > 1 and all(found)]

    if unlabelled:
        findings.warn(
            "missing_label",
            f"{where} has {counted(unlabelled, 'row')} without id or label: they are left out",
            unlabelled,
        )
    if repeated:
        findings.warn("repeated_id",
                      f"{where} repeats {counted(repeated, 'id')}: one row of each is kept",
                      repeated)
    if contradicted:
        findings.warn(
            "contradicted_id",
            f"{where} gives different labels to {counted(contradicted, 'id')}: all their rows are "
            "left out",
            contradicted,
        )
    out = {*unlabelled, *contradicted}
    return [row for sample_id, row in first_row.items() if sample_id not in out]


# ---------------------------------------------------------------- class folders and file names

def are_crossed(folders, inner):
    """Whether nearly all class folders hold folders of the same names, as <patient>/<class>/ or
    <class>/<patient>/."""
    if folders.paths != inner.paths:
        return False
    n_outer = len(set(folders.labels))
    n_inner = len(set(inner.labels))
    n_pairs = len(set(zip(folders.labels, inner.labels, strict=True)))
    return min(n_outer, n_inner) > 1 and n_pairs >= CROSSED * n_outer * n_inner


def rows_of_folders(files, is_inner=False):
    """Labelled of class folders train/<class>/... (or <class>/... in the folder itself), or None.

    is_inner: the folders inside these are the classes.
    """
    by_class = class_named_like_a_split(files.images)
    train = [] if by_class else [p for p in files.images if files.split_of(p) == "train"]
    base = train or [p for p in files.images if by_class or files.split_of(p) != "test"]
    parts = [p.split("/") for p in base]

    depth = 0       # of the class folders
    if train:       # below the folder of the split
        depth = 1 + next(i for i in range(files.n_wrappers, len(parts[0]))
                         if split_of(parts[0][i] + "/"))
    while is_wrapped(parts, depth):
        depth += 1
    wildcards = ["*"] if is_inner else []
    depth += len(wildcards)

    found = [(path, p[depth]) for path, p in zip(base, parts, strict=True) if len(p) > depth + 1]
    if not found:
        return None
    paths, labels = zip(*found, strict=True)
    where = "/".join([*parts[0][:depth - len(wildcards)], *wildcards, "<class>/"])
    return Labelled(paths, paths, labels, ("",) * len(paths), "ID", ("target",),
                    f"class folders {where}")


def is_wrapped(parts, depth):
    """Whether all paths, split into `parts`, share the folder at `depth` and go on below it."""
    return (len({tuple(p[:depth + 1]) for p in parts}) == 1
            and all(len(p) > depth + 2 for p in parts))


def class_named_like_a_split(paths):
    """Whether a folder named like a split is a class: the vehicle `train`, or a `test_tube`.

    All images must lie in three or more folders side by side, only one of them named like a split,
    and its name must not say that it holds test images.
    """
    folders = {p.rpartition("/")[0] for p in paths}
    parents = {folder.rpartition("/")[0] for folder in folders}
    names = {folder.rpartition("/")[2].lower() for folder in folders}
    alike = [name for name in names if split_of(f"{name}/")]
    if len(parents) != 1 or len(names) < 3 or len(alike) != 1:
        return False
    return IS_A_THING.fullmatch(alike[0]) is not None


def rows_of_names(files):
    """Labelled of file names that begin with the class and end with a number, as cat.0.jpg or
    maine_coon_12.jpg, or None."""
    paths = [p for p in files.images if files.split_of(p) == "train"]
    if not paths:
        paths = [p for p in files.images if files.split_of(p) != "test"]
    stems = [without_suffix(p.rsplit("/", 1)[-1]) for p in paths]
    labels = tuple(re.sub(r"[._\- (]*\d+\)?$", "", stem) for stem in stems)
    counts = Counter(labels)

    are_numbered = all(label != stem for label, stem in zip(labels, stems, strict=True))
    have_letters = all(re.search(r"[^\W\d_]", label) for label in counts)
    if len(counts) < 2 or min(counts.values()) < 2 or not are_numbered or not have_letters:
        return None
    return Labelled(tuple(paths), tuple(paths), labels, ("",) * len(paths), "ID", ("target",),
                    "file names <class>.<number>")
