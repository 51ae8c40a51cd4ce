"""Tables of a contest folder, as strings: which of them is what, and the class of each row.

A sample submission is found by its name first. Names also rule tables out as label tables; among
the rest, content decides.
"""
import csv
import io
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from typing import NamedTuple

from contest.decoding import ZERO_BYTES, read_bytes
from contest.files import (
    IMAGE_SUFFIXES,
    PLAIN,
    Naming,
    candidates,
    is_cp949,
    naming_of,
    normal,
    path_parts,
    split_of,
    without_suffix,
)
from contest.host import VALIDATION_WORD, columns_of_folds
from contest.sheets import how_to_read, is_sheet, sheets_of, title_of
from contest.submission import match_columns
from contest.targets import (
    SEPARATOR,
    are_measurements,
    are_shares,
    are_whole_numbers,
    is_no_number,
    joined_set,
    mark_of,
    number_of,
    parts_of_cell,
    sets_in,
)
from utils import counted, first_few, nearest

SUPPORTED = (
    "supported are contests with one class per image, several, or numbers: a table with an id "
    "column and a class column, one column of 0 and 1 per class or columns of numbers, folders "
    "train/<class>/, or the class in the file name as cat.0.jpg"
)
# columns that the program itself writes: its tables are no labels
OWN_COLUMNS = (("id", "confidence"), ("sample_id", "fold"), ("sample_id", "sha256", "left_out"),
               ("epoch", "loss", "lr"))
SPLIT_WORDS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation",
                         "dev", "public", "private", "holdout"))
NAMES_SPLIT = re.compile(rf"(?:^|[^a-z])(?:test|train|(?:{'|'.join(SPLIT_WORDS)})(?![a-z]))")
ROW_NUMBER = re.compile(r"index|level_\d+|unnamed: ?\d+|row|row_?id|no\.?|nr\.?|#|number|x")
CLASS_WORD = re.compile(r"label|class|target|categor|diagnos")
AT_THE_END = "unexpected end of data"      # what csv says of a quote that is never closed
MOST_FOUND = 0.9        # of the files that a column names, if it is surely one of files
MOST_WITHOUT_CLASS = 0.2    # more one-hot rows without a 1 are images of none of the classes
COCO = ("images", "annotations", "categories")
LABEL_SOURCES = ("folders", "subfolders", "names")  # values of data.label_table besides tables


@dataclass(frozen=True, eq=False)
class Table:
    """A csv or tsv file as strings: column name -> values.

    `id_column` is the column with the most ids of images, '' = none; `naming` says how they name
    them.
    """

    path: str
    columns: dict[str, tuple[str, ...]]
    n_rows: int
    id_column: str = ""
    images: frozenset = frozenset()
    n_in: Counter = field(default_factory=Counter)  # images by the split of their folder
    rivals: tuple[str, ...] = ()    # other columns that could hold the ids just as well
    separator: str = ","
    naming: Naming = PLAIN
    joined: tuple[str, ...] = ()    # tables of other folders, whose rows are here too
    n_wrappers: int = 0             # as in Files
    file_columns: tuple[str, ...] = ()  # several, each of other images
    lost_columns: tuple[str, ...] = ()  # sentences on columns of files that are all missing
    unit: str = ""      # column of ids that have several images, with a row for each image
    unmatched: str = ""     # column of file names without images, where row numbers are the ids

    @property
    def name(self):
        return self.path.rsplit("/", 1)[-1].lower()

    @property
    def folder(self):
        return self.path.rpartition("/")[0]

    @property
    def split_name(self):
        """The sheet's title if it names a split, else the file's name with it, in lower case."""
        title = title_of(self.name)
        return title if NAMES_SPLIT.search(title) else self.name

    @property
    def is_of_test(self):
        """Whether the file's name, or its folder, says that it lists test images, and its images
        are not those of train/."""
        if self.share_in("train") == 1:
            return False
        if split_of(self.path, self.n_wrappers) == "test":
            return True
        says_test = re.search(r"(?:^|[^a-z])test", self.split_name) is not None
        return says_test and "train" not in self.split_name

    @property
    def is_ours(self):
        """Whether this program wrote it: predict.py's answers, or a part of a run."""
        return any(set(names) <= set(self.columns) for names in OWN_COLUMNS)

    def others(self, *but):
        """Names of the columns except those of ids and `but`."""
        return [c for c in self.columns if c not in (self.id_column, self.unit, *but)]

    def share_in(self, split):
        """Share of the table's images that lie in folders of a split."""
        return self.n_in[split] / max(1, len(self.images))


# ---------------------------------------------------------------- reading

def read_tables(files, data, findings):
    """All tables of the folder, each with its id column. Unreadable ones become problems."""
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
        if path.lower().endswith(".txt") and len(table.columns) < 2:
            continue    # a text, not a table
        if encoding:
            findings.warn(
                "encoding",
                f"table {path!r} is not UTF-8 and was read as {encoding}: save it as UTF-8 if "
                "names look wrong",
            )
        tables.append(table)
    found = []
    for table in [*tables, *read_sheets(files, data, findings)]:
        if table.is_ours:
            findings.warn("own_table",
                          f"table {table.path!r} was written by this program and is not used: move "
                          "it out of the contest folder", [table.path])
            continue
        if says_sample(table):
            table = without_row_numbers(table, findings)
        found.append(with_id_column(files, table, data.id_column))
    tables = [*found, *tables_of_maps(files)]
    report_broken_maps(files, findings)
    tables = [with_fields(table, n_wrappers=files.n_wrappers) for table in tables]
    tables = joined_parts(files, tables)

    if data.id_column and not any(data.id_column in t.columns for t in tables):
        all_columns = {c for t in tables for c in t.columns}
        fail_setting("id_column", "a column of a table", data.id_column, all_columns, findings)
    return tables


def read_sheets(files, data, findings):
    """The Tables of Parquet files and Excel sheets that can be read. An error for one that a
    setting names and that cannot."""
    found = []
    asked = (data.label_table, data.sample_submission)
    for path in files.closed:
        if not is_sheet(path):
            continue
        try:
            tables, unread, broken = tables_of_sheets(files.root, path)
        except ValueError as error:
            if path in asked or path.rsplit("/", 1)[-1] in asked:
                findings.fail("unread_sheet", f"table {path!r} cannot be read ({error}): "
                              f"{how_to_read(path)}")
            continue
        found += tables
        if unread:
            findings.warn("unread_columns", f"{counted(unread, 'column')} of {path!r} cannot be "
                          "read as text, as bytes and structures: save a csv with their values "
                          "if the labels stand there")
        for name, reason in broken:
            asks = name in asked or name.rsplit("/", 1)[-1] in asked
            (findings.fail if asks else findings.warn)(
                "unread_sheet",
                f"table {name!r} cannot be read ({reason}): it is not used; repair or remove it")
    return found


def tables_of_sheets(root, path):
    """(Tables of a Parquet file or an Excel file, names of its columns that are not read, [(name,
    reason)] of its sheets that cannot be). ValueError if the file cannot be read."""
    tables = []
    columns = []
    broken = []
    for name, rows, unread in sheets_of(root, path):
        columns += unread
        try:
            tables.append(table_of_rows(name, list(enumerate(rows, start=1))))
        except ValueError as error:
            broken.append((name, str(error)))
    return tables, columns, broken


def fail_setting(key, what, got, choices, findings):
    """The error of a setting whose value is not in the folder."""
    known = first_few(sorted(choices), 8) or "none"
    findings.fail(
        key, f"data.{key} must be {what}, got {got!r}{nearest(got, choices)}; there are {known}")


def asked_table(tables, key, path, findings):
    """The table that the setting data.`key` gives by path or name; None and an error if there is
    not exactly one."""
    found = [t for t in tables if path in (t.path, t.path.rsplit("/", 1)[-1])]
    if len(found) == 1:
        return found[0]
    paths = [t.path for t in tables]
    fail_setting(key, "the path of one table in the contest folder", path, paths, findings)
    return None


def read_table(root, path):
    """(Table, its encoding if that is not UTF-8). Cells stay strings.

    Empty lines, columns without a name and equal columns of the same name are dropped. Unequal
    columns of one name get their place appended, as `label.3`. Raises ValueError or csv.Error with
    a short reason.
    """
    try:
        data = read_bytes(root / path)
    except ValueError as error:
        if str(error) == ZERO_BYTES:
            return Table(path, {}, 0), ""
        raise
    text, encoding = decoded_text(data)
    separator, text = separator_of(text, path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    numbered = []
    try:
        for row in reader:
            numbered.append((reader.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        if str(error) == AT_THE_END:
            last = numbered[-1][0] if numbered else 0
            raise ValueError(f"a quote in row {last + 1} is not closed") from None
        raise
    refuse_open_quote([row for _, row in numbered if any(row)], separator)
    return table_of_rows(path, numbered, separator), encoding


def table_of_rows(path, numbered, separator=","):
    """The Table of [(number of its line, cells)], the names of the columns first. Empty lines and
    columns are as `read_table` says."""
    numbered = [(number, row) for number, row in numbered if any(row)]
    rows = [row for _, row in numbered]
    header = rows.pop(0) if rows else []
    if len(header) > 1 and header[0] and not any(header[1:]) and any(any(row[1:]) for row in rows):
        raise ValueError(f"its first row names one of {len(header)} columns, {header[0]!r}")
    for number, row in numbered[1:]:
        if any(row[len(header):]):
            raise ValueError(f"row {number} has {len(row)} cells, its header has {len(header)}")
        row.extend([""] * (len(header) - len(row)))

    columns = {}
    for i, name in enumerate(header):
        values = tuple(row[i] for row in rows)
        if name and columns.get(name) != values:
            columns[f"{name}.{i}" if name in columns else name] = values
    return Table(path, columns, len(rows), separator=separator)


def separator_of(text, path):
    """(the separator of a table, its text without a line that only names it, as Excel writes)."""
    first_line, _, rest = text.partition("\n")
    if named := re.fullmatch(r'"?sep ?=(.)\1?"?\s*', first_line, re.IGNORECASE):
        return named[1], rest
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    by_suffix = "\t,;|" if path.lower().endswith((".tsv", ".tab")) else ",;\t|"
    return max(by_suffix, key=first_line.count), text   # the first one on a tie


def refuse_open_quote(rows, separator):
    """ValueError if a cell has swallowed whole rows, because a quote was never closed."""
    for number, row in enumerate(rows, start=1):
        for cell in row:
            lines = cell.splitlines()
            n_cells = sum(line.count(separator) == len(row) - 1 > 0 for line in lines)
            if n_cells >= 2:
                raise ValueError(f"a quote in row {number} is not closed before {len(lines)} more "
                                 "lines")


def without_row_numbers(table, findings):
    """A sample submission without the column by which a program has numbered its rows."""
    numbered = [c for c, values in table.columns.items()
                if ROW_NUMBER.fullmatch(c.lower()) and are_row_numbers(values)]
    if not numbered or len(table.columns) < 3:
        return table
    findings.warn("row_numbers",
                  f"column {numbered[0]!r} of {table.path!r} only numbers its rows and is left out "
                  "of the submission")
    return with_fields(table, columns={c: v for c, v in table.columns.items() if c not in numbered})


def are_row_numbers(values):
    """Whether values are 0, 1, 2, ... or 1, 2, 3, ... in any order."""
    numbers = [re.fullmatch(r"(\d{1,9})(?:\.0)?", value) for value in values]
    if not values or not all(numbers):
        return False
    found = sorted(int(number[1]) for number in numbers)
    return found[0] in (0, 1) and found == list(range(found[0], found[0] + len(found)))


def tables_of_maps(files):
    """A Table of each json file that names images: {id: class}, {id: [classes]}, {class: [ids]},
    objects with one value a name, in a list or one a line, or COCO's images, annotations and
    categories."""
    tables = []
    for path in files.maps:
        columns = columns_of_json(files.root / path)
        if not columns:
            continue
        n_rows = len(next(iter(columns.values())))
        table = with_id_column(files, Table(path, columns, n_rows))
        others = [values for name, values in columns.items() if name != table.id_column]
        repeats = any(n_rows > len(set(values)) > 1 for values in others)
        if table.id_column and 2 * len(table.images) >= n_rows and repeats:
            tables.append(table)
    return tables


def report_broken_maps(files, findings):
    """A warning for json files that cannot be read: they may name the classes."""
    broken = [path for path in files.maps if json_value(files.root / path) is None]
    if broken:
        them = "it" if len(broken) == 1 else "them"
        findings.warn("unreadable_json", f"{counted(broken, 'file')} cannot be read as JSON and "
                      f"{'is' if len(broken) == 1 else 'are'} not used: repair {them} if the names "
                      f"of the classes stand there, or remove {them}", broken)


def columns_of_json(full):
    """{column: values} of a json file that holds rows, {} of any other."""
    value = json_value(full)
    if isinstance(value, dict) and set(COCO) <= set(value):
        return columns_of_coco(value)
    if isinstance(value, dict) and value:
        if all(isinstance(v, (str, int)) for v in value.values()):
            return {"file": tuple(value), "label": tuple(map(str, value.values()))}
        if all(isinstance(v, list) and all(isinstance(i, str) for i in v) for v in value.values()):
            if all(name.lower().endswith(IMAGE_SUFFIXES) for name in value):
                return {"file": tuple(value), "label": tuple(map("|".join, value.values()))}
            pairs = [(name, key) for key, names in value.items() for name in names]
            columns = zip(*pairs, strict=True)
            return dict(zip(("file", "label"), columns, strict=True)) if pairs else {}
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        names = [name for name in value[0]
                 if all(isinstance(row.get(name, ""), (str, int, float)) for row in value)]
        return {name: tuple(str(row.get(name, "")) for row in value) for name in names}
    return {}


def columns_of_coco(value):
    """{column: values} of COCO's json: each image and the names of its annotations' categories,
    {} if its parts are not as COCO's."""
    try:
        name_of = {category["id"]: str(category["name"]) for category in value["categories"]}
        file_of = {image["id"]: str(image["file_name"]) for image in value["images"]}
        labels = {key: set() for key in file_of}
        for annotation in value["annotations"]:
            labels[annotation["image_id"]].add(name_of[annotation["category_id"]])
    except (KeyError, TypeError):
        return {}
    return {"file": tuple(file_of.values()),
            "label": tuple("|".join(sorted(labels[key])) for key in file_of)}


def json_value(full):
    """What a json file holds, or a list of what its lines hold; None if it is neither."""
    try:
        text = read_bytes(full).decode("utf-8-sig")
    except ValueError:
        return None
    for read in (json.loads, lambda text: [json.loads(line) for line in text.splitlines() if line]):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return None


def joined_parts(files, tables):
    """Tables of one kind as one: train/_classes.csv with valid/_classes.csv, part1/labels.csv with
    part2/labels.csv, train.csv with val.csv. The one of the test images stays by itself."""
    parts = {}
    for table in tables:
        if table.is_of_test or not table.id_column:
            continue
        name = without_split(table.name)
        if table.folder and table.naming.folder:
            parts.setdefault((name, tuple(table.columns)), []).append(table)
        elif name != table.name:
            parts.setdefault((table.folder, name, tuple(table.columns)), []).append(table)
    joined = {}
    for key, found in parts.items():
        are_splits = len(key) == 2 or all(map(split_words_of, found))
        if len(found) > 1 and are_splits and are_apart(found):
            joined[found[0].path] = join(files, found)
            joined |= {table.path: None for table in found[1:]}
    kept = [joined.get(table.path, table) for table in tables]
    return [table for table in kept if table is not None]


def without_split(name):
    """A table's name without the words that say a split: `_labels.csv` of train_labels.csv."""
    return re.sub(r"[a-z]+", lambda word: "" if word[0] in SPLIT_WORDS else word[0], name)


def split_words_of(table):
    """The words of a table's name, or else of its folder, that say its split."""
    words = set(re.findall("[a-z]+", table.split_name)) & SPLIT_WORDS
    return words or SPLIT_WORDS & {table.folder.rsplit("/", 1)[-1].lower()}


def are_apart(tables):
    """Whether no image is named by two of the tables."""
    return len(set().union(*(t.images for t in tables))) == sum(len(t.images) for t in tables)


def join(files, parts):
    """The rows of several tables of the same columns, their ids as paths from the top."""
    first = parts[0]
    columns = {name: tuple(value for part in parts for value in part.columns[name])
               for name in first.columns}
    columns[first.id_column] = tuple(
        own_path(files, value, part.naming)
        for part in parts for value in part.columns[part.id_column])
    table = Table(first.path, columns, sum(part.n_rows for part in parts),
                  separator=first.separator, joined=tuple(part.path for part in parts[1:]),
                  n_wrappers=first.n_wrappers)
    return with_id_column(files, table, first.id_column)


def decoded_text(data):
    """(text, its encoding if that is not UTF-8)."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16"), "UTF-16"
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        encoding = "cp949" if is_cp949(data) else "latin-1"
    return data.decode(encoding), encoding


def own_path(files, sample_id, naming):
    """The one file that an id means, else the id itself."""
    found = candidates(files, sample_id, naming)
    return found[0] if len(found) == 1 else sample_id


def with_id_column(files, table, asked=""):
    """The table with its id column: `asked` if it has that column, else the column that resolves
    to the most image files. Unchanged if none of the column's values names an image.

    Of columns that find nearly as many, one of paths or file names wins over one of numbers, and
    one that names files as it is over one that has lost its zeros.
    """
    folder = own_folder(files, table)
    namings = {column: naming_of(files, values, folder)
               for column, values in table.columns.items()}
    found = {}      # column -> {value: paths it may mean}
    for column, values in table.columns.items():
        options = {value: candidates(files, value, namings[column])
                   for value in dict.fromkeys(values)}
        found[column] = {value: paths for value, paths in options.items() if paths}
    most = max(map(len, found.values()), default=0)
    if not most:
        return table

    near = [c for c in found if len(found[c]) >= 0.9 * most]
    near = narrow(near, lambda c: are_file_names(table.columns[c]))
    near = narrow(near, lambda c: not namings[c].digits)
    best = asked if found.get(asked) else max(near, key=lambda c: len(found[c]))

    def is_rival(column):
        """Whether a column finds nearly as many images, and others than the best one."""
        if column == best or column not in near:
            return False
        rows = zip(table.columns[column], table.columns[best], strict=True)
        return any(found[column].get(a) != found[best].get(b) for a, b in rows)

    of_files = {} if best == asked else columns_of_files(files, table, found)
    apart = columns_apart(of_files, best)
    lost = columns_lost(table, of_files, best, found)
    rivals = () if best == asked or best in apart else tuple(filter(is_rival, found))
    images = frozenset(path for paths in found[best].values() for path in paths)
    n_in = Counter(map(files.split_of, images))
    unmatched = ""
    if best != asked and are_row_numbers(table.columns[best]):
        unmatched = next((c for c in table.columns if 2 * len(found[c]) < most
                          and are_ids(table.columns[c])), "")
    return with_fields(table, id_column=best, images=images, n_in=n_in, rivals=rivals,
                       naming=namings[best], file_columns=apart, unmatched=unmatched,
                       lost_columns=lost)


def columns_apart(columns, best):
    """Columns of file names, each of other images than the rest; () unless there are several.

    Some of their files may be missing. columns: {name: FileColumn}. best: the one that finds the
    most.
    """
    names = [c for c, column in columns.items() if column.share >= MOST_FOUND]
    names = names or [c for c in columns if c == best]
    known = set().union(*(columns[c].paths for c in names))
    if sum(len(columns[c].paths) for c in names) != len(known):
        return ()
    for name, column in columns.items():
        if name not in names and column.paths and known.isdisjoint(column.paths):
            names.append(name)
            known |= column.paths
    return tuple(c for c in columns if c in names) if len(names) > 1 else ()


def columns_lost(table, columns, best, found):
    """A sentence on each column of names of image files that are all missing, if column `best`
    names others. columns: {name: FileColumn}. found: {column: {value: paths it may mean}}."""
    if best not in columns:
        return ()
    lost = [name for name, column in columns.items()
            if not found[name] and len(column.named) > MOST_FOUND * table.n_rows
            and all(without_suffix(file) != file and "://" not in file for file in column.named)]
    return tuple(f"column {name!r} of {table.path!r} is not used, as all its "
                 f"{counted(columns[name].named, 'file')} are missing: put them into the contest "
                 "folder, or remove the column" for name in lost)


class FileColumn(NamedTuple):
    """A column of file names: those named, the images that they may mean."""

    named: tuple
    paths: set

    @property
    def share(self):
        """How many of its files are there."""
        return len(self.paths) / len(self.named)


def columns_of_files(files, table, found):
    """{name: FileColumn} of a table. found: {column: {value: paths it may mean}}."""
    columns = {}
    for name, options in found.items():
        named = tuple(dict.fromkeys(value for value in table.columns[name] if value))
        if named and are_file_names(named):
            columns[name] = FileColumn(
                named, set(itertools.chain(*options.values())) - files.aside_set)
    return columns


def own_folder(files, table):
    """The folder that holds a table's images: its own, else val/ beside val.csv."""
    words = set(re.findall("[a-z]+", table.split_name)) & SPLIT_WORDS
    if len(words) != 1:
        return table.folder
    word = words.pop()
    start = f"{table.folder}/" if table.folder else ""
    names = {path[len(start):].split("/")[0] for path in files.images
             if path.startswith(start) and "/" in path[len(start):]}
    split = split_of(f"{word}/")
    own = [name for name in names
           if name.lower() == word or (split and split_of(f"{name}/") == split)]
    is_exact = len(own) == 1 and own[0].lower() == word
    return start + own[0] if is_exact else table.folder


def are_ids(values):
    """Whether values are file names, paths or codes as `img 7`, another one in each row."""
    if len(set(values)) < 0.95 * len(values) or len(values) < 5:
        return False
    return are_file_names(values) or all(
        re.fullmatch(r"[A-Za-z]+[ _\-]?\d+[\w\-]*", value) for value in values)


def are_file_names(values):
    """Whether most values end as image files do, or are paths."""
    values = [value for value in values if value]
    n = sum(without_suffix(value) != value or len(path_parts(value)) > 1 for value in values)
    return 2 * n > len(values)


# ---------------------------------------------------------------- which table is what

def check_used_table(files, table, findings):
    """Errors of a table that is used: no header row, or two columns that could hold the ids."""
    if table is None:
        return
    if candidates(files, table.id_column):
        findings.fail(
            "no_header",
            f"table {table.path!r} must begin with a row of column names, got "
            f"{first_few(table.columns)}, which names an image: add a header",
        )
    if table.unmatched:
        value = table.columns[table.unmatched][0]
        findings.fail(
            "row_numbers_as_ids",
            f"table {table.path!r} must name its images, but its column {table.unmatched!r} "
            f"({value!r}) names none, and {table.id_column!r} may only number the rows: mend "
            f"{table.unmatched!r}, or --set data.id_column={table.id_column} takes the numbers",
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
    """Whether a table's name says that it is a sample submission, not a sample of the labels."""
    if "submi" in table.name:
        return True
    return "sample" in table.name and not re.search("label|train|meta|info|data", table.name)


def find_sample(tables, asked, findings):
    """The sample submission: the table that `asked` names, else one whose own name says so, else
    None."""
    if asked:
        return asked_table(tables, "sample_submission", asked, findings)
    filled = [t for t in tables if t.n_rows]
    hinted = [t for t in filled if "submi" in t.name] or list(filter(says_sample, filled))
    if not any(t.id_column and t not in hinted for t in filled):    # it lists training images
        hinted = [t for t in hinted if t.share_in("train") < 1]
    if not hinted:
        for table in filter(says_sample, tables):
            findings.warn(
                "empty_sample",
                f"the sample submission {table.path!r} has no rows and is not followed: the "
                "submission gets the ids of the test images and the label table's columns, so "
                "check its first line against the contest's",
            )
    return the_one(narrow(hinted, lambda t: "sample" in t.name), findings)


def find_form(files, tables, label_table, labelled, findings):
    """The sample submission among tables whose names do not say so, or None.

    It lists other images than the labelled ones, under columns of the label table or names of its
    classes. Without a label table, it is the one table of most images outside train/, and of none
    that is `labelled` by its folder or name. A table of splits alone is none.
    """
    n_images = sum(files.split_of(path) != "train" for path in files.images)

    def is_form(table):
        others = table.others()
        if not table.id_column or table.is_of_test or not others:
            return False
        if VALIDATION_WORD.search(f"{table.folder.lower()}/{table.split_name}"):
            return False
        if all(says_split(table.columns[c]) for c in others):
            return False
        if label_table is None:
            is_free = table.share_in("train") == 0 and not table.images & labelled
            return is_free and 2 * len(table.images) > n_images
        if table.images & label_table.images:
            return False
        shared = [c for c in others if c in label_table.columns]
        if len(others) == 1 or are_one_hot(label_table, shared):
            return set(table.columns) <= set(label_table.columns)
        return any(are_named(others, label_table.columns[c])
                   or are_named(others, in_sets(label_table.columns[c]))
                   for c in label_table.others())

    return the_one([t for t in tables if t is not label_table and is_form(t)], findings)


def the_one(samples, findings):
    """The first of the tables that look like a sample submission, or None; an error if they
    differ."""
    if len(samples) > 1 and not same_content(samples):
        findings.fail(
            "ambiguous_sample",
            f"one sample submission must decide the rows, but {samples[0].path!r} and "
            f"{samples[1].path!r} both look like it: --set data.sample_submission=FILE takes one",
        )
    return samples[0] if samples else None


def narrow(found, keep):
    """The items that `keep` accepts, or all if it accepts none."""
    return [one for one in found if keep(one)] or found


def find_label_table(tables, sample, asked, n_in_folders, are_classes, findings):
    """The table that gives training images their labels, or None: then class folders and file
    names are tried.

    n_in_folders: images in class folders. A table that names less than half as many gives no
    labels, unless the sample submission names its class column. are_classes: these folders are not
    named like sites, so that a table of numbers alone says less than they do.
    """
    if asked in LABEL_SOURCES:
        return None
    if asked:
        return asked_table(tables, "label_table", asked, findings)

    found = [t for t in tables if t is not sample and t.id_column and t.others()
             and not t.is_of_test and t.share_in("test") <= 0.5
             and ("submi" not in t.name or t.share_in("train") == 1)]
    found = [t for t in found if not all(says_split(t.columns[c]) for c in t.others())]
    several = [t for t in found if any(may_be_classes(t.columns[c]) for c in t.others())]
    found = several if n_in_folders and are_classes else several or found
    if sample is not None:
        found = narrow(found, lambda t: set(t.others()) & set(sample.columns))
    found = narrow(found, lambda t: re.search("train|label", t.name))
    if len({frozenset(t.columns) for t in found}) > 1:
        most = max(len(t.images) for t in found)
        found = narrow(found, lambda t: len(t.images) >= 0.9 * most)
    if not found:
        return None

    best = found[0]
    if not same_content(found):
        findings.fail(
            "ambiguous_label_table",
            f"one table must give the labels, but {best.path!r} and {found[1].path!r} both could: "
            "--set data.label_table=FILE takes one",
        )
    n_named = min(len(best.images), best.n_rows)    # an id may fit several files: count a row once
    is_named_by_sample = sample is not None and set(best.others()) & set(sample.columns)
    if not is_named_by_sample and 2 * n_named < n_in_folders:
        findings.warn(
            "small_table",
            f"table {best.path!r} names {n_named} images, but {n_in_folders} lie in class folders, "
            "which give the labels: --set data.label_table=FILE takes the table",
        )
        return None
    return best


def may_be_classes(values):
    """Whether a column holds several values, few of them fractions, and not another in each row."""
    found = set(values) - {""}
    is_key = len(found) == len(values) > 20
    return len(found) > 1 and not is_key and 2 * sum(map(is_fraction, found)) <= len(found)


def find_test_table(tables, label_table):
    """The test table with the most images, or None."""
    def lists_test(table):
        if not table.id_column:
            return False
        is_labelled = label_table is not None and table.images & label_table.images
        return table.is_of_test or (table.share_in("test") > 0.5 and not is_labelled)

    return max(filter(lists_test, tables), key=lambda t: len(t.images), default=None)


# ---------------------------------------------------------------- the class of each row

def find_target(table, form_columns, data, findings):
    """Columns of the label table that hold the class: one of class values, or one of 0 and 1 per
    class. () and an error if they are not clear.

    form_columns: columns of the sample submission besides its ids. They decide if they can, else
    the content does.
    """
    choices = [c for c in table.others(data.group_column, data.fold_column)
               if not says_split(table.columns[c])]
    if data.target_column:
        return asked_target(table, choices, data.target_column, findings)
    choices = without_folds(table, choices, form_columns)

    readings = [c for c in choices if c in form_columns]
    if readings and len(readings) == len(form_columns):
        return tuple(readings)
    if len(form_columns) > 1:   # a column per class
        readings = ([c for c in choices if are_named(form_columns, table.columns[c])]
                    or [c for c in choices if are_named(form_columns, in_sets(table.columns[c]))])
        readings = narrow(readings, lambda c: set(table.columns[c]) <= {*form_columns, ""})

    flags = [c for c in choices if are_flags(table.columns[c])]
    if not readings and data.task == "multilabel" and len(flags) > 1:
        return tuple(flags)
    numbers = [c for c in choices if are_measurements(
        [cell for cell in table.columns[c] if not is_no_number(cell)])]
    if not readings and data.task == "regression" and numbers:
        return tuple(numbers)
    left = readings or choices
    if len(left) == 1 or len({table.columns[c] for c in readings}) == 1:
        return (left[0],)
    if not readings and are_one_hot(table, choices):
        return tuple(choices)
    classlike = [c for c in choices if not any(map(is_fraction, table.columns[c]))
                 and not numbers_rows(table.columns[c])]
    if not readings and len(classlike) == 1:
        return tuple(classlike)
    values = [table.columns[c] for c in readings or classlike]
    if len(values) > 1 and all(same_split(values[0], other) for other in values[1:]):
        names = narrow(readings or classlike, lambda c: not are_whole_numbers(
            set(table.columns[c]) - {""}))      # a class by its number and by its name
        return (names[0],)

    findings.fail(
        "ambiguous_target",
        f"table {table.path!r} must have one class column, got "
        f"{first_few(readings or classlike, 8) or 'none'} beside the ids in {table.id_column!r}: "
        "--set data.target_column=NAME takes one" + (
            f", --task regression the numbers in {first_few(numbers)}" if numbers else ""),
    )
    return ()


def without_folds(table, choices, form_columns):
    """The columns that may hold the class, without those that look like a host's folds, if one of
    the others reads like classes."""
    hosts = columns_of_folds(table)
    left = [c for c in choices if c not in hosts or c in form_columns]
    are_clear = any(CLASS_WORD.search(c.lower()) or not are_whole_numbers(
        set(table.columns[c]) - {""}) for c in left)
    return left if are_clear else choices


def same_split(labels, others):
    """Whether two labellings of the same images differ only in the names of the classes."""
    return len(set(zip(labels, others, strict=True))) == len(set(labels)) == len(set(others))


def numbers_rows(values):
    """Whether a column has another value in each row, as a row's number."""
    return len(values) >= 10 and len(set(values)) == len(values)


def says_split(values):
    """Whether a column says in which split each image is."""
    found = {value.lower() for value in values} - {""}
    return bool(found) and found <= SPLIT_WORDS


def asked_target(table, choices, target_column, findings):
    """The columns that data.target_column names: one, or several separated by commas."""
    asked = (target_column,) if target_column in choices else tuple(target_column.split(","))
    unknown = [c for c in asked if c not in choices]
    for column in unknown:
        what = f"a column of {table.path!r} besides ids and group"
        fail_setting("target_column", what, column, choices, findings)
    return () if unknown else asked


def are_named(columns, values):
    """Whether each class among the `values` has a column named after it, and at least half of the
    columns are named after one."""
    classes = sorted(set(values) - {""})
    if len(classes) > len(columns):
        return False
    found = set(match_columns(columns, classes)) - {-1}
    return len(found) == len(classes) >= len(columns) / 2


def in_sets(values):
    """The class values in a column of sets; () in another."""
    if not sets_in([value for value in values if value])[0]:
        return ()
    mark = mark_of(values)
    return tuple(part for value in set(values) for part in parts_of_cell(value, mark))


def as_flag(cell):
    """0 or 1 from a cell of a one-hot column ('' is 0), None for anything else."""
    match = re.fullmatch(r"([01]?)(?:\.0*)?", cell)
    return int(match[1] or 0) if match else None


def are_flags(values):
    """Whether a column holds only 0 and 1."""
    return all(as_flag(value) is not None for value in set(values))


def are_one_hot(table, columns):
    """Whether two or more columns hold only 0 and 1, and a 1 in most rows."""
    if len(columns) < 2 or not all(are_flags(table.columns[c]) for c in columns):
        return False
    rows = zip(*(table.columns[c] for c in columns), strict=True)
    return sum(any(map(as_flag, row)) for row in rows) > table.n_rows / 2


def labels_of(table, columns, data, findings, sample=None):
    """(task, the label of each row as text, '' = missing), from one column or from one-hot columns.

    sample: the sample submission's table, or None. data: DataConfig. Its `task` decides what labels
    are, else their content does.
    """
    if len(columns) > 1:
        return flag_labels(table, columns, data.task, findings)
    labels = tuple(map(normal, table.columns[columns[0]]))
    task = data.task
    if task == "auto" and holds_sets(table, columns[0], labels, data.target_column, findings):
        task = "multilabel"
    if task == "auto" and are_measurements(
            [label for label in labels if not is_no_number(label)], asks_for_numbers(sample)):
        task = "regression"
    if task == "regression":
        return task, numbers_in(table, columns, findings)
    if task == "multilabel":
        mark = mark_of(labels)
        return task, tuple(
            joined_set(parts_of_cell(label, mark)) if label else "" for label in labels)
    if data.task != "single":
        refuse_regression(table, columns[0], labels, findings)
    return "single", labels


def asks_for_numbers(sample):
    """Whether a sample submission holds fractions above 1, which are no probabilities."""
    cells = () if sample is None else {v for c in sample.others() for v in sample.columns[c]}
    return any(is_fraction(cell) and abs(float(cell)) > 1 for cell in cells)


def numbers_in(table, columns, findings):
    """The numbers of each row as one text, '' where one is missing. An error for other texts."""
    for column in columns:
        odd = [v for v in table.columns[column] if not is_no_number(v) and number_of(v) is None]
        if odd:
            findings.fail(
                "no_number", f"column {column!r} of {table.path!r} must hold numbers, got "
                f"{odd[0]!r}: mend it, or --task single or multilabel reads classes")
            return ("",) * table.n_rows
    rows = zip(*(table.columns[column] for column in columns), strict=True)
    return tuple("" if any(map(is_no_number, row)) else SEPARATOR.join(row) for row in rows)


LEAST_SETS = 0.01      # share of the cells that hold several classes, if they are meant to


def holds_sets(table, column, labels, is_named, findings):
    """Whether cells of a column hold several classes; an error if that is unsure. Of a column that
    a setting names, words in all combinations are names, with a warning."""
    given = [label for label in labels if label]
    if given and all(number_of(label.replace(",", ".")) is not None for label in given):
        return False      # 12,5 and 1,250 are numbers
    several, is_unsure = sets_in(given)
    found = [label for label in labels if label in several]
    if is_unsure and is_named:
        findings.warn("names_of_words", f"column {column!r} of {table.path!r} is read as one class "
                      f"an image, as it is named, though {first_few(dict.fromkeys(found))} may be "
                      "several: --task multilabel reads sets of classes, --task single says so "
                      "and ends this warning")
        return False
    if is_unsure or 0 < len(found) < LEAST_SETS * len(given):
        findings.fail(
            "ambiguous_sets",
            f"column {column!r} of {table.path!r} may give several classes to {len(found)} of "
            f"{table.n_rows} images ({first_few(dict.fromkeys(found))}): --task multilabel reads "
            "sets of classes, --task single each value as one class")
    return bool(several)


def flag_labels(table, columns, asked, findings):
    """As `labels_of`, from columns of 0 and 1. Several 1s in a row, or none in many, make sets.

    asked: data.task. Errors for other values, and for rows with several 1s if one is asked for.
    """
    cells = sorted((v for c in columns for v in table.columns[c]), key=is_no_number)
    odd = next((v for v in cells if as_flag(v) is None), None)      # an empty one if all else fits
    are_numbers = any(map(is_fraction, cells)) and all(
        number_of(v) is not None or is_no_number(v) for v in cells)
    if asked == "regression" or (asked == "auto" and are_numbers):
        numbers = numbers_in(table, columns, findings)
        is_soft = asked == "auto" and are_shares(numbers)
        return "soft" if is_soft else "regression", numbers
    if odd is not None:
        findings.fail(
            "unsupported",
            f"the columns {first_few(columns)} of {table.path!r} must hold 0 or 1, got {odd!r}; "
            f"--task regression predicts them as numbers; {SUPPORTED}",
        )
        return "single", ("",) * table.n_rows

    rows = zip(*(table.columns[c] for c in columns), strict=True)
    found = [[c for c, v in zip(columns, row, strict=True) if as_flag(v)] for row in rows]
    several = [" ".join(names) for names in found if len(names) > 1]
    n_none = sum(not names for names in found)
    are_sets = several or n_none > MOST_WITHOUT_CLASS * len(found)
    if asked == "multilabel" or (asked == "auto" and are_sets):
        return "multilabel", tuple(joined_set(map(normal, names)) for names in found)
    if several:
        findings.fail(
            "multi_label",
            f"--task single needs one 1 in each row, but {table.path!r} gives several classes to "
            f"{len(several)} of {table.n_rows} images ({first_few(dict.fromkeys(several))}): use "
            "--task multilabel",
        )
    return "single", tuple(normal(names[0]) if names else "" for names in found)


def is_fraction(text):
    return re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*(?:[eE][+-]?\d+)?", text) is not None


def refuse_regression(table, column, labels, findings):
    """An error if the class column holds measurements or a different value in each row."""
    values = {v for v in labels if v}
    if sum(map(is_fraction, values)) > 0.5 * len(values) or len(values) == len(labels) > 20:
        findings.fail(
            "unsupported",
            f"column {column!r} of {table.path!r} has {len(values)} different values in "
            f"{len(labels)} rows ({first_few(sorted(values))}), which are not classes; {SUPPORTED}",
        )


# ---------------------------------------------------------------- names of the classes

def find_class_names(files, tables, labels, findings):
    """({class value: name}, path) of a table or json map whose keys are the class values, or
    ({}, '')."""
    readings = [(t.path, tuple(map(normal, t.columns[key])), tuple(map(normal, t.columns[name])))
                for t in tables if not t.is_of_test
                for key in t.columns for name in t.columns if key != name]
    for path in files.maps:
        readings += map_readings(files.root / path, path)

    present = Counter(labels)
    best = ({}, "", 0)
    for path, keys, names in readings:
        known = present.keys() & set(keys)
        covered = sum(present[k] for k in known)
        is_map = len(set(keys)) == len(keys) and len(set(names)) == len(names) and all(names)
        fewest = max(2, 2 / 3 * len(present), 0.5 * len(keys))
        fits = covered >= 0.8 * len(labels) and len(known) >= fewest
        if is_map and fits and covered > best[2]:
            # labels that are names keep them: a map to numbers adds nothing
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
    """(path, keys, names) of a flat json object, both ways round; [] for any other json."""
    value = json_value(full)
    if not isinstance(value, dict) or not all(isinstance(v, (str, int)) for v in value.values()):
        return []
    keys = tuple(map(str, value))
    names = tuple(map(str, value.values()))
    return [(path, keys, names), (path, names, keys)]
