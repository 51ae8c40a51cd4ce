"""Tables of a contest folder as strings, which of them is what, and the class of each row. By
content; names break ties."""
import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from dataclasses import replace as with_fields

from contest.decoding import read_bytes
from contest.files import candidates
from contest.submission import match_columns
from utils import counted, first_few, nearest

SUPPORTED = (
    "supported are contests with one class per image: a table with an id column and a class column or one column "
    "of 0 and 1 per class, folders train/<class>/, or the class in the file name as cat.0.jpg"
)
MOST_WITHOUT_CLASS = 0.2            # share of one-hot rows without a 1 that are taken for gaps
LABEL_SOURCES = ("folders", "subfolders", "names")    # values of data.label_table that are no table


@dataclass(frozen=True, eq=False)
class Table:
    """A csv or tsv file as strings: column name -> values. `id_column` holds most ids of images (''
    = none)."""

    path: str
    columns: dict[str, tuple[str, ...]]
    n_rows: int
    id_column: str = ""
    images: frozenset = frozenset()
    # how many of the images lie in folders of a split
    n_in: Counter = field(default_factory=Counter)
    rivals: tuple[str, ...] = ()    # other columns that could hold the ids just as well
    separator: str = ","

    @property
    def name(self):
        return self.path.rsplit("/", 1)[-1].lower()

    @property
    def is_of_test(self):
        """Whether the file's name says that it lists test images."""
        return re.search(r"(?:^|[^a-z])test", self.name) is not None

    def others(self, *but):
        """Names of the columns besides the id column and `but`."""
        return [c for c in self.columns if c != self.id_column and c not in but]

    def share_in(self, split):
        """Share of the table's images that lie in folders of a split."""
        return self.n_in[split] / max(1, len(self.images))


def read_tables(files, data, findings):
    """All tables of the folder, each with its id column; unreadable ones become problems."""
    tables = []
    for path in files.tables:
        try:
            table, encoding = read_table(files.root, path)
        except (ValueError, csv.Error) as error:
            findings.warn(
                "unreadable_table",
                f"table {path!r} cannot be read ({error}): it is not used; repair or remove it",
            )
            continue
        if encoding:
            findings.warn(
                "encoding",
                f"table {path!r} is not UTF-8 and was read as {encoding}: save it as UTF-8 if "
                f"names look wrong",
            )
        tables.append(with_id_column(files, table, data.id_column))
    if data.id_column and not any(data.id_column in t.columns for t in tables):
        fail_setting("id_column", "a column of a table", data.id_column,
                     {c for t in tables for c in t.columns}, findings)
    return tables


def fail_setting(key, what, got, choices, findings):
    """The fatal problem of a setting that names what the folder does not have."""
    findings.fail(key, f"data.{key} must be {what}, got {got!r}{nearest(got, choices)}; there are "
                  f"{first_few(sorted(choices), 8) or 'none'}")


def asked_table(tables, key, path, findings):
    """The table that the setting data.`key` names by path or name, or None (a fatal problem)."""
    found = [t for t in tables if path in (t.path, t.path.rsplit("/", 1)[-1])]
    if len(found) != 1:
        fail_setting(key, "the path of one table in the contest folder", path,
                     [t.path for t in tables], findings)
    return found[0] if len(found) == 1 else None


def read_table(root, path):
    """(Table, encoding if not UTF-8). Cells stay strings; empty lines, nameless and repeated equal
    columns go."""
    try:
        data = read_bytes(root / path)
    except ValueError as error:
        if str(error) == "zero bytes":
            return Table(path, {}, 0), ""
        raise
    text, encoding = decoded_text(data)
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    separator = max("\t,;" if path.lower().endswith(".tsv") else ",;\t", key=first_line.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""),
                                                                 delimiter=separator)]
    rows = [row for row in rows if any(row)]
    header = rows.pop(0) if rows else []
    for number, row in enumerate(rows, start=2):
        if any(row[len(header):]):
            raise ValueError(f"row {number} has {len(row)} cells, its header has {len(header)}")
        row.extend([""] * (len(header) - len(row)))
    columns = {}
    for i, name in enumerate(header):
        values = tuple(row[i] for row in rows)
        if name and columns.get(name) != values:
            columns[name if name not in columns else f"{name}.{i}"] = values
    return Table(path, columns, len(rows), separator=separator), encoding


def decoded_text(data):
    """(text, encoding if it was not UTF-8)."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16"), "UTF-16"
    for encoding in ("utf-8-sig", "cp949"):
        try:
            return data.decode(encoding), "" if encoding == "utf-8-sig" else encoding
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1"), "latin-1"


def with_id_column(files, table, asked=""):
    """The table with the column that resolves to the most image files, if one does, or with the one
    that is asked for."""
    # column -> {value: paths it may mean}
    found = {}
    for column, values in table.columns.items():
        options = {value: candidates(files, value) for value in dict.fromkeys(values)}
        found[column] = {value: paths for value, paths in options.items() if paths}
    best = asked if asked in found else max(found, key=lambda c: len(found[c]), default="")
    if not best or not found[best]:
        return table

    def means_other_images(column):
        rows = zip(table.columns[column], table.columns[best], strict=True)
        return any(found[column].get(a) != found[best].get(b) for a, b in rows)

    rivals = tuple(c for c in found if c != best != asked and len(found[c]) >= 0.9
                   * len(found[best]) and means_other_images(c))
    images = frozenset(path for paths in found[best].values() for path in paths)
    return with_fields(table, id_column=best, images=images,
                       n_in=Counter(map(files.split_of, images)), rivals=rivals)


def check_used_table(files, table, findings):
    """Fatal problems of a table that is used: no header row, or two columns that could hold the
    ids."""
    if table is None:
        return
    if candidates(files, table.id_column):
        findings.fail(
            "no_header",
            f"table {table.path!r} must begin with a row of column names, got {first_few(table.columns)}, "
            "which names an image: add a header",
        )
    if table.rivals:
        findings.fail(
            "ambiguous_id_column",
            f"table {table.path!r} must have one column of image ids, but {table.id_column!r} and "
            f"{table.rivals[0]!r} both name image files: --set data.id_column=NAME takes one",
        )


def same_content(tables):
    return all(t.columns == tables[0].columns for t in tables)


def says_sample(table):
    """Whether a table's name says that it is a sample submission."""
    return "submi" in table.name or "sample" in table.name


def find_sample(tables, asked, findings):
    """The sample submission: the table that is asked for, or the one that says so in its name, or
    None."""
    if asked:
        return asked_table(tables, "sample_submission", asked, findings)
    filled = [t for t in tables if t.n_rows]
    hinted = [t for t in filled if "submi" in t.name] or [t for t in filled if "sample" in t.name]
    for table in tables if not hinted else ():
        if says_sample(table):
            findings.warn(
                "empty_sample",
                f"the sample submission {table.path!r} has no rows and is not followed: the "
                "submission gets the ids of the test images and the label table's columns, so compare its first line",
            )
    return the_one([t for t in hinted if "sample" in t.name] or hinted, findings)


def find_form(files, tables, label_table, findings):
    """A sample submission that does not say so in its name: it lists other images than the labelled
    ones, under columns of the label table or names of its classes. Without a label table, the one
    table of most images outside train/."""
    n_images = sum(files.split_of(path) != "train" for path in files.images)

    def is_form(table):
        others = table.others()
        if not table.id_column or table.is_of_test or not others:
            return False
        if label_table is None:
            return table.share_in("train") == 0 and 2 * len(table.images) > n_images
        if table.images & label_table.images:
            return False
        if len(others) == 1 or are_one_hot(label_table,
                                           [c for c in others if c in label_table.columns]):
            return set(table.columns) <= set(label_table.columns)
        return any(are_named(others, label_table.columns[c]) for c in label_table.others())

    return the_one([t for t in tables if t is not label_table and is_form(t)], findings)


def the_one(samples, findings):
    """The sample submission among those that look like one; a fatal problem where they differ."""
    if len(samples) > 1 and not same_content(samples):
        findings.fail(
            "ambiguous_sample",
            f"one sample submission must decide the rows, but {samples[0].path!r} and "
            f"{samples[1].path!r} both look like it: --set data.sample_submission=FILE takes one",
        )
    return samples[0] if samples else None


def narrow(found, keep):
    """Those of the found that `keep` is true for, or all where it is for none."""
    return [one for one in found if keep(one)] or found


def find_label_table(tables, sample, asked, n_in_folders, findings):
    """The table that gives training images their labels, or None (then class folders and file names
    are tried).

    Where `n_in_folders` images lie in class folders, a table of less than half as many gives no
    labels, unless the sample submission names its class column.
    """
    if asked:
        return None if asked in LABEL_SOURCES else asked_table(tables, "label_table", asked,
                                                               findings)
    found = [t for t in tables if t is not sample and t.id_column and t.others()
             and not t.is_of_test and "submi" not in t.name and t.share_in("test") <= 0.5]
    found = narrow(found, lambda t: any(len(set(t.columns[c])) > 1 for c in t.others()))
    if sample is not None:
        found = narrow(found, lambda t: set(t.others()) & set(sample.columns))
    found = narrow(found, lambda t: re.search("train|label", t.name))
    if len({frozenset(t.columns) for t in found}) > 1:
        most = max(len(t.images) for t in found)
        found = narrow(found, lambda t: len(t.images) >= 0.9 * most)
    if len(found) > 1 and not same_content(found):
        findings.fail(
            "ambiguous_label_table",
            f"one table must give the labels, but {found[0].path!r} and {found[1].path!r} "
            "both could: --set data.label_table=FILE takes one",
        )
    n_named = min(len(found[0].images), found[0].n_rows) if found else 0
    is_asked_for = found and sample is not None and set(found[0].others()) & set(sample.columns)
    if found and not is_asked_for and 2 * n_named < n_in_folders:
        findings.warn(
            "small_table",
            f"table {found[0].path!r} names {n_named} images where {n_in_folders} lie in "
            "class folders, which give the labels: --set data.label_table=FILE takes the table",
        )
        return None
    return found[0] if found else None


def find_test_table(tables, label_table):
    """The table that lists most test images, or None."""
    rest = [t for t in tables if t.id_column
            and (t.is_of_test
                 or (t.share_in("test") > 0.5
                     and not (label_table and t.images & label_table.images)))]
    return max(rest, key=lambda t: len(t.images), default=None)


# ---------------------------------------------------------------- the class of each row

def find_target(table, form_columns, data, findings):
    """Columns of the label table that hold the class: one of class values, or one of 0 and 1 per
    class; () = a problem.

    form_columns: of the sample submission, besides its ids. They decide where they can; else the
    content does.
    """
    choices = table.others(data.group_column)
    if data.target_column:
        asked = (data.target_column,) if data.target_column in choices else tuple(
            data.target_column.split(","))
        unknown = [c for c in asked if c not in choices]
        for column in unknown:
            fail_setting("target_column", f"a column of {table.path!r} besides ids and group",
                         column, choices, findings)
        return () if unknown else asked
    readings = [c for c in choices if c in form_columns]
    if readings and len(readings) == len(form_columns):
        return tuple(readings)
    if len(form_columns) > 1:
        readings = narrow([c for c in choices if are_named(form_columns, table.columns[c])],
                          lambda c: set(table.columns[c]) <= {*form_columns, ""})
    if len(readings or choices) == 1 or len({table.columns[c] for c in readings}) == 1:
        return (readings or choices)[0],
    if not readings and are_one_hot(table, choices):
        return tuple(choices)
    classlike = [c for c in choices if not any(map(is_fraction, table.columns[c]))]
    if not readings and len(classlike) == 1:
        return tuple(classlike)
    findings.fail(
        "ambiguous_target",
        f"table {table.path!r} must have one class column, got {first_few(readings or classlike, 8) or 'none'} "
        f"beside the ids in {table.id_column!r}: --set data.target_column=NAME takes one",
    )
    return ()


def are_named(columns, values):
    """Whether at least half of the columns are named after values of a class column, and no value
    lacks a column."""
    classes = sorted(set(values) - {""})
    if len(classes) > len(columns):
        return False
    found = set(match_columns(columns, classes)) - {-1}
    return len(found) == len(classes) >= len(columns) / 2


def as_flag(cell):
    """0 or 1 that a cell of a one-hot column means ('' is 0), None for anything else."""
    match = re.fullmatch(r"([01]?)(?:\.0*)?", cell)
    return int(match[1] or 0) if match else None


def are_one_hot(table, columns):
    """Whether columns, two or more, hold 0 and 1 only, and a 1 in most rows."""
    if len(columns) < 2 or any(as_flag(v) is None for c in columns for v in set(table.columns[c])):
        return False
    rows = zip(*(table.columns[c] for c in columns), strict=True)
    return sum(any(map(as_flag, row)) for row in rows) > table.n_rows / 2


def labels_of(table, columns, findings, is_asked=False):
    """The class of each row as text ('' = missing), from one class column or from one-hot columns;
    is_asked: by a setting, so that each value of the column is a class."""
    if len(columns) == 1:
        labels = table.columns[columns[0]]
        refuse_regression(table, columns[0], labels, findings)
        if not is_asked:
            refuse_sets(table, columns[0], labels, findings)
        return labels
    odd = next((v for c in columns for v in table.columns[c] if as_flag(v) is None), None)
    if odd is not None:
        findings.fail(
            "unsupported",
            f"the columns {first_few(columns)} of {table.path!r} must hold 0 or 1, got {odd!r}; "
            f"{SUPPORTED}",
        )
        return ("",) * table.n_rows
    found = [[c for c, v in zip(columns, row, strict=True) if as_flag(v)]
             for row in zip(*(table.columns[c] for c in columns), strict=True)]
    fail_multi_label(table, [" ".join(names) for names in found if len(names) > 1], findings)
    if (n_none := sum(not names for names in found)) > MOST_WITHOUT_CLASS * len(found):
        findings.fail(
            "unsupported",
            f"{n_none} of {table.n_rows} rows of {table.path!r} have no 1 in the columns "
            f"{first_few(columns)}: 'none of them' would be a class of its own, which has no column; add one, or "
            "remove those rows",
        )
    return tuple(names[0] if names else "" for names in found)


def is_fraction(text):
    return re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*(?:[eE][+-]?\d+)?", text) is not None


def refuse_regression(table, column, labels, findings):
    """A fatal problem where the class column holds measurements or one value per row instead of
    classes."""
    values = {v for v in labels if v}
    if sum(map(is_fraction, values)) > 0.5 * len(values) or (len(values) == len(labels) > 20):
        findings.fail(
            "unsupported",
            f"column {column!r} of {table.path!r} has {len(values)} different values in {len(labels)} rows "
            f"({first_few(sorted(values))}), which are no classes; {SUPPORTED}",
        )


def refuse_sets(table, column, labels, findings):
    """A fatal problem where a cell holds several classes, as `rust scab` beside `rust` and `scab`,
    or `3 17`.

    Names of several words are classes: their words are no classes of their own.
    """
    parts = {value: re.split(r"[\s,;|]+", value) for value in set(labels)}
    sets = {value: found for value, found in parts.items() if len(found) > 1 and all(found)}
    several = [v for v, found in sets.items() if set(found) <= set(parts)
               or are_whole_numbers(found)]
    words = {word for found in parts.values() for word in found}
    lengths = {len(found) for found in parts.values()}
    # few words, in all combinations
    if sets and len(lengths) > 1 and 2 * len(words) < len(parts):
        several = list(sets)
    fail_multi_label(
        table,
        [label for label in labels if label in set(several)],
        findings,
        f"; where each value is one class all the same, --set data.target_column={column} takes them so",
    )


def fail_multi_label(table, several, findings, advice=""):
    """The fatal problem of rows with several classes, if there are any."""
    if several:
        findings.fail(
            "multi_label",
            f"table {table.path!r} gives several classes to {len(several)} of {table.n_rows} images "
            f"({first_few(dict.fromkeys(several))}), and multi-label contests are not built; {SUPPORTED}{advice}",
        )


def are_whole_numbers(texts):
    return all(re.fullmatch(r"[+-]?\d{1,18}", text) for text in texts)


def find_class_names(files, tables, labels, findings):
    """({class value: name}, where from) of a table or json map whose keys are the class values;
    ({}, '') for none."""
    present = Counter(labels)
    best = ({}, "", 0)
    readings = [(t.path, t.columns[key], t.columns[name]) for t in tables if not t.is_of_test
                for key in t.columns for name in t.columns if key != name]
    for path in files.maps:
        readings += map_readings(files.root / path, path)
    for path, keys, names in readings:
        known = present.keys() & set(keys)
        covered = sum(present[k] for k in known)
        is_map = len(set(keys)) == len(keys) and len(set(names)) == len(names) and all(names)
        fits = covered >= 0.8 * len(labels) and 2 <= len(known) >= max(2 / 3 * len(present),
                                                                       0.5 * len(keys))
        if is_map and fits and covered > best[2]:
            readable = keys if are_whole_numbers(names) and not are_whole_numbers(keys) else names
            best = (dict(zip(keys, readable, strict=True)), path, covered)
    names, path, _ = best
    unknown = [c for c in present if c not in names] if names else []
    if unknown:
        findings.warn(
            "unknown_label",
            f"{path!r} does not name {counted(sorted(unknown), 'label')} of the label table: "
            f"{sum(present[c] for c in unknown)} rows are left out",
        )
    return names, path


def map_readings(full, path):
    """(path, keys, names) of a flat json object, both ways round; nothing for any other json."""
    try:
        value = json.loads(read_bytes(full).decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    if not isinstance(value, dict) or not all(isinstance(v, (str, int)) for v in value.values()):
        return []
    keys = tuple(map(str, value))
    names = tuple(map(str, value.values()))
    return [(path, keys, names), (path, names, keys)]
