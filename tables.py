"""Tables of a contest folder as strings, and which of them is what. By content; names only break ties.
"""
import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from dataclasses import replace as with_fields

from files import candidates, counted, first_few, read_bytes, split_of

SUPPORTED = ("supported are single-label contests: a table with an id column and one class column, or folders "
             "train/<class>/")


@dataclass(frozen=True, eq=False)
class Table:
    """A csv or tsv file as strings: column name -> values. `id_column` holds most ids of images ('' = none)."""

    path: str
    columns: dict[str, tuple[str, ...]]
    n_rows: int
    id_column: str = ""
    images: frozenset = frozenset()
    rivals: tuple[str, ...] = ()    # other columns that could hold the ids just as well

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
        return sum(split_of(p) == split for p in self.images) / max(1, len(self.images))


def read_tables(files, findings):
    """All tables of the folder, each with its id column; unreadable ones become problems."""
    tables = []
    for path in files.tables:
        try:
            table, encoding = read_table(files.root, path)
        except (ValueError, csv.Error) as error:
            findings.warn("unreadable_table",
                          f"table {path!r} cannot be read ({error}): it is not used; repair or remove it")
            continue
        if encoding:
            findings.warn("encoding", f"table {path!r} is not UTF-8 and was read as {encoding}: save it as UTF-8 if "
                                      f"names look wrong")
        tables.append(with_id_column(files, table))
    return tables


def read_table(root, path):
    """(Table, encoding if not UTF-8). Cells stay strings; empty lines, nameless and repeated equal columns go."""
    try:
        data = read_bytes(root / path)
    except ValueError as error:
        if str(error) == "zero bytes":
            return Table(path, {}, 0), ""
        raise
    text, encoding = decoded_text(data)
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    separator = max("\t,;" if path.lower().endswith(".tsv") else ",;\t", key=first_line.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator)]
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
    return Table(path, columns, len(rows)), encoding


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


def with_id_column(files, table):
    """The table with the column that resolves to the most image files, if one does."""
    found = {}                                                  # column -> {value: paths it may mean}
    for column, values in table.columns.items():
        options = {value: candidates(files, value) for value in dict.fromkeys(values)}
        found[column] = {value: paths for value, paths in options.items() if paths}
    best = max(found, key=lambda c: len(found[c]), default="")
    if not best or not found[best]:
        return table

    def means_other_images(column):
        rows = zip(table.columns[column], table.columns[best], strict=True)
        return any(found[column].get(a) != found[best].get(b) for a, b in rows)

    rivals = tuple(c for c in found if c != best and len(found[c]) >= 0.9 * len(found[best]) and means_other_images(c))
    images = frozenset(path for paths in found[best].values() for path in paths)
    return with_fields(table, id_column=best, images=images, rivals=rivals)


def check_used_table(files, table, findings):
    """Fatal problems of a table that is used: no header row, or two columns that could hold the ids."""
    if table is None:
        return
    if candidates(files, table.id_column):
        findings.fail("no_header",
                      f"table {table.path!r} must begin with a row of column names, got {first_few(table.columns)}, "
                      "which names an image: add a header")
    if table.rivals:
        findings.fail("ambiguous_id_column",
                      f"table {table.path!r} must have one column of image ids, but {table.id_column!r} and "
                      f"{table.rivals[0]!r} both name image files: remove one of these columns")


def same_content(tables):
    return all(t.columns == tables[0].columns for t in tables)


def find_sample(tables, findings):
    """The sample submission among tables that say so in their name, or None."""
    filled = [t for t in tables if t.n_rows]
    hinted = [t for t in filled if "submi" in t.name] or [t for t in filled if "sample" in t.name]
    hinted = [t for t in hinted if "sample" in t.name] or hinted
    if len(hinted) > 1 and not same_content(hinted):
        findings.fail("ambiguous_sample", f"one sample submission must decide the rows, but {hinted[0].path!r} and "
                      f"{hinted[1].path!r} both look like it: remove one of them")
    return hinted[0] if hinted else None


def find_label_table(tables, sample, findings):
    """The table that gives training images their labels, or None (then class folders are tried)."""
    def narrow(found, keep):
        return [t for t in found if keep(t)] or found

    found = [t for t in tables if t is not sample and t.id_column and t.others() and not t.is_of_test
             and "submi" not in t.name and t.share_in("test") <= 0.5]
    found = narrow(found, lambda t: any(len(set(t.columns[c])) > 1 for c in t.others()))
    if sample is not None:
        found = narrow(found, lambda t: set(t.others()) & set(sample.columns))
    found = narrow(found, lambda t: re.search("train|label", t.name))
    if len({frozenset(t.columns) for t in found}) > 1:
        most = max(len(t.images) for t in found)
        found = narrow(found, lambda t: len(t.images) >= 0.9 * most)
    if len(found) > 1 and not same_content(found):
        findings.fail("ambiguous_label_table",
                      f"one table must give the labels, but {found[0].path!r} and {found[1].path!r} "
                      "both could: remove one of them")
    return found[0] if found else None


def find_test_list(tables, label_table, sample):
    """(table that lists the test images or None, whether it has the form of a submission)."""
    if sample is not None:
        return sample, True
    rest = [t for t in tables if t.id_column
            and (t.is_of_test or not label_table or not t.images & label_table.images)]
    for table in rest:
        if label_table and len(table.columns) == 2 and set(table.columns) <= set(label_table.columns):
            return table, not table.is_of_test
    rest = [t for t in rest if t.is_of_test or t.share_in("test") > 0.5]
    return (max(rest, key=lambda t: len(t.images)), False) if rest else (None, False)


def find_target_column(table, sample, group_column, findings):
    """The class column of the label table: named as in the sample submission, else the only one there is."""
    choices = table.others(group_column)
    wanted = [c for c in sample.columns if c not in (sample.id_column, table.id_column)] if sample is not None else []
    if len(wanted) > 1:
        findings.fail("unsupported", f"the sample submission {sample.path!r} has {len(wanted)} columns besides its ids "
                      f"({first_few(wanted)}), a form that is not built yet; {SUPPORTED}")
        return ""
    shared = [c for c in choices if c in wanted]
    if len(shared) == 1 or len(choices) == 1:
        return (shared or choices)[0]
    if len(choices) > 1 and all(set(table.columns[c]) <= {"0", "1", "0.0", "1.0"} for c in choices):
        findings.fail("unsupported",
                      f"table {table.path!r} has one 0/1 column per class ({first_few(choices)}), which is not "
                      f"built yet; {SUPPORTED}")
        return ""
    findings.fail("ambiguous_target",
                  f"table {table.path!r} must have one class column, got {first_few(choices, 8) or 'none'} "
                  f"beside the ids in {table.id_column!r}: remove the other columns, or add a sample submission that "
                  f"names it")
    return ""


def are_whole_numbers(texts):
    return all(re.fullmatch(r"[+-]?\d{1,18}", text) for text in texts)


def find_class_names(files, tables, labels, findings):
    """({class value: name}, where from) of a table or json map whose keys are the class values; ({}, '') for none."""
    present, best = Counter(labels), ({}, "", 0)
    readings = [(t.path, t.columns[key], t.columns[name])
                for t in tables if not t.is_of_test for key in t.columns for name in t.columns if key != name]
    for path in files.maps:
        readings += map_readings(files.root / path, path)
    for path, keys, names in readings:
        covered = sum(present[k] for k in set(keys))
        is_map = len(set(keys)) == len(keys) and len(set(names)) == len(names) and all(names)
        fits = covered >= 0.5 * len(labels) and sum(k in present for k in keys) >= 0.5 * len(keys)
        if is_map and fits and covered > best[2]:
            readable = keys if are_whole_numbers(names) and not are_whole_numbers(keys) else names
            best = (dict(zip(keys, readable, strict=True)), path, covered)
    names, path, _ = best
    unknown = [c for c in present if c not in names] if names else []
    if unknown:
        findings.warn("unknown_label",
                      f"{path!r} does not name {counted(sorted(unknown), 'label')} of the label table: "
                      f"{sum(present[c] for c in unknown)} rows are left out")
    return names, path


def map_readings(full, path):
    """(path, keys, names) of a flat json object, both ways round; nothing for any other json."""
    try:
        value = json.loads(read_bytes(full).decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    if not isinstance(value, dict) or not all(isinstance(v, (str, int)) for v in value.values()):
        return []
    keys, names = tuple(map(str, value)), tuple(map(str, value.values()))
    return [(path, keys, names), (path, names, keys)]
