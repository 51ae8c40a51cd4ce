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

# share of the pairs of outer and inner folders that exist, from which either may be the class
CROSSED = 0.8
# a folder's name that has a split's in it and yet is that of a class, among other classes
IS_A_THING = re.compile(r"train|(?:test|train)(?:ing)?[_\- ]"
                        r"(?!(?:image|img|pic|photo|set|data|file|jpe?g|png|tif|small|large|\d)).+")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Training rows as found: ids, relative paths ('' = none), labels as text, group values ('' =
    none), and how."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    id_column: str
    target_columns: tuple[str, ...]
    source: str
    offered_groups: tuple[str, ...] = ()


def fail_without_images(files, findings):
    """The fatal problem of a folder without usable images, with what to do about the formats found.
    """
    pixels = [path for path in files.tables if re.search(r"\bpixels?[\d_]*\b|\b\d+x\d+\b",
                                                         header_of(files.root / path))]
    formats = sorted({FOREIGN_SUFFIXES[Path(p).suffix.lower()]
                      for p in files.foreign}) + ["pixel csv"] * bool(pixels)
    if formats:
        findings.fail(
            "unsupported",
            f"{str(files.root)!r} holds no training images but {', '.join(formats)} files "
            f"({first_few([*pixels, *files.foreign])}): unpack or convert them to JPEG or PNG first",
        )
    else:
        findings.fail(
            "no_images",
            f"{str(files.root)!r} must hold training images ({', '.join(IMAGE_SUFFIXES)}), but has none: put them "
            "beside their table"
            + (
                f"; {counted(files.refused, 'link or special file')} out of it are not "
                "opened: copy what they lead to"
                if files.refused
                else ""
            ),
        )
    findings.stop_if_fatal()


def header_of(path):
    """The first characters of a table, which may be too large to be read when it is no use."""
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.readline(4096)


# ---------------------------------------------------------------- labels

def labelled_rows(files, tables, label_table, sample, data, findings):
    """Labelled from the label table, else from class folders, else from file names; a fatal problem
    where all lack."""
    if label_table is not None:
        return rows_of_table(files, label_table, sample, data, findings)
    empty = [t.path for t in tables if not t.n_rows and t is not sample and not says_sample(t)
             and not t.is_of_test]
    if empty and not data.label_table:
        findings.fail(
            "empty_table",
            f"the label table must have rows, but {first_few(empty)} is empty: restore it",
        )
        return None
    asked = data.label_table
    folders = rows_of_folders(files) if asked in ("", "folders") else None
    inner = rows_of_folders(files, is_inner=True) if asked in ("", "subfolders") else None
    names = rows_of_names(files) if asked in ("", "names") else None
    if folders and inner and are_crossed(folders, inner):
        fail_two_readings(folders, inner, findings)
    elif asked == "subfolders":
        folders = inner
    if folders and names and len(set(folders.labels)) > 1 and not same_split(folders.labels,
                                                                             names.labels):
        fail_two_readings(folders, names, findings)
    rows = names if names and (not folders or len(set(folders.labels)) < 2) else folders
    if rows is None:
        for broken in [p for p in findings.problems if p.kind == "unreadable_table"]:
            findings.fail(broken.kind, broken.text)
        findings.fail(
            "no_labels",
            f"{str(files.root)!r} must say which image has which class, but none of its tables "
            f"({first_few([t.path for t in tables]) or 'it has none'}) has a column of image ids beside a "
            f"class column, and neither folders nor file names do; {SUPPORTED}",
        )
    elif data.group_column:
        findings.fail(
            "group_column",
            f"--group_column {data.group_column!r} needs a label table, and this contest has {rows.source}: "
            "leave it out",
        )
    return rows


def same_split(labels, others):
    """Whether two labellings differ in the names of the classes alone."""
    return len(set(zip(labels, others, strict=True))) == len(set(labels)) == len(set(others))


def fail_two_readings(one, other, findings):
    ways = [f"from {rows.source} ({first_few(sorted(set(rows.labels)))})" for rows in (one, other)]
    findings.fail("ambiguous_labels",
                  f"the labels can be read in two ways, {ways[0]} and {ways[1]}: "
                  "--set data.label_table=FILE, folders, subfolders or names takes one")


def rows_of_table(files, table, sample, data, findings):
    """Labelled of a label table; rows without a label, with a refused id or repeated with other
    labels are left out."""
    group = data.group_column
    if not table.id_column:
        findings.fail(
            "no_ids",
            f"table {table.path!r} must have a column of image ids, but none of {first_few(table.columns)} "
            f"names image files: --set data.label_table=FILE takes another table",
        )
        return None
    if group and group not in table.others():
        findings.fail("group_column",
                      f"--group_column must be a column of {table.path!r}, got {group!r}"
                      f"{nearest(group, table.others())}; columns: {', '.join(table.others())}")
        return None
    form_columns = sample.others(table.id_column) if sample is not None else []
    if sample is not None and not sample.id_column and table.id_column not in sample.columns:
        # none of its ids is an image: they stand first
        form_columns = form_columns[1:]
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
    ids, labels, groups, paths = (tuple(values[i] for i in rows) for values in (ids, labels, groups,
                                                                                located.paths))
    found = Labelled(ids, paths, labels, tuple(f"{group}={g}" if g else "" for g in groups),
                     table.id_column, target,
                     f"table {table.path}, {table.n_rows} rows, ids in column {table.id_column!r}",
                     offered)
    is_decided = data.label_table or data.target_column or set(target) & set(form_columns) or len(
        form_columns) > 1
    if not is_decided:
        refuse_other_names(found, [rows_of_folders(files), rows_of_names(files)], findings)
    return found


def refuse_other_names(found, others, findings):
    """A fatal problem where folders or file names give the table's classes other names: which are
    to be written?"""
    for other in filter(None, others):
        label_of = dict(zip(other.paths, other.labels, strict=True))
        labels = [label_of.get(path, "") for path in found.paths]
        if set(labels) != set(found.labels) and same_split(found.labels, labels):
            fail_two_readings(found, other, findings)


def offered_groups(table, target, group, labels):
    """Columns that repeat over images and are neither measurements nor the class by another name,
    finest first."""
    n_values = {c: len(set(table.columns[c])) for c in table.others(*target, group)}
    offered = [c for c, n in n_values.items() if 1 < n <= table.n_rows / 2
               and not same_split(labels, table.columns[c])
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
            f"{where} gives different labels to {counted(contradicted, 'id')}: all their rows are left out",
            contradicted,
        )
    out = {*unlabelled, *contradicted}
    first_row = {}
    for row, sample_id in enumerate(ids):
        first_row.setdefault(sample_id, row)
    return [row for sample_id, row in first_row.items() if sample_id not in out]


def are_crossed(folders, inner):
    """Whether folders of the same names lie in nearly all class folders, as <patient>/<class>/ or
    <class>/<patient>/."""
    outer = set(folders.labels)
    within = set(inner.labels)
    pairs = set(zip(folders.labels, inner.labels,
                    strict=True)) if folders.paths == inner.paths else ()
    return min(len(outer), len(within)) > 1 and len(pairs) >= CROSSED * len(outer) * len(within)


def rows_of_folders(files, is_inner=False):
    """Labelled of class folders train/<class>/... (or <class>/... in the folder itself), or None;
    is_inner: of the folders in them."""
    by_class = class_named_like_a_split(files.images)
    train = [] if by_class else [p for p in files.images if files.split_of(p) == "train"]
    base = train or [p for p in files.images if by_class or files.split_of(p) != "test"]
    parts = [p.split("/") for p in base]
    depth = 1 + next(i for i in range(files.n_wrappers, len(parts[0]))
                     if split_of(parts[0][i] + "/")) if train else 0
    while len({tuple(p[:depth + 1]) for p in parts}) == 1 and all(len(p) > depth + 2
                                                                  for p in parts):
        # a wrapper: its only content is one folder of folders
        depth += 1
    depth += is_inner
    found = [(path, p[depth]) for path, p in zip(base, parts, strict=True) if len(p) > depth + 1]
    if not found:
        return None
    paths, labels = zip(*found, strict=True)
    where = "/".join([*parts[0][:depth - is_inner], *["*"] * is_inner, "<class>/"])
    return Labelled(paths, paths, labels, ("",) * len(paths), "ID", ("target",),
                    f"class folders {where}")


def class_named_like_a_split(paths):
    """Whether all images lie in folders side by side, one of them named like a split and at least
    two not, and that one is a class: the vehicle `train`, or a `test_tube`, which is no way to say
    test images."""
    folders = {p.rpartition("/")[0] for p in paths}
    names = {folder.rpartition("/")[2].lower() for folder in folders}
    alike = [name for name in names if split_of(f"{name}/")]
    return (len({folder.rpartition("/")[0] for folder in folders}) == 1 and len(names) >= 3
            and len(alike) == 1 and bool(IS_A_THING.fullmatch(alike[0])))


def rows_of_names(files):
    """Labelled of file names that begin with the class and end with a number, as cat.0.jpg or
    maine_coon_12.jpg, or None."""
    paths = ([p for p in files.images if files.split_of(p) == "train"]
             or [p for p in files.images if files.split_of(p) != "test"])
    labels = tuple(re.sub(r"[._\- (]*\d+\)?$", "", without_suffix(p.rsplit("/", 1)[-1]))
                   for p in paths)
    is_numbered = all(label != without_suffix(p.rsplit("/", 1)[-1]) for p,
                      label in zip(paths, labels, strict=True))
    counts = Counter(labels)
    if len(counts) < 2 or not is_numbered or min(counts.values()) < 2 or not all(
        re.search(r"[^\W\d_]", c) for c in counts):
        return None
    return Labelled(tuple(paths), tuple(paths), labels, ("",) * len(paths), "ID", ("target",),
                    "file names <class>.<number>")
