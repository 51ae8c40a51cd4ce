"""A contest folder as downloaded -> Contest: which image has which label, which ids want a prediction. Nothing is decoded.

    contest = read_contest("contest", DataConfig())
    print(*contest.understood, sep="\n")

Tables are found by content, never by name alone; names only break ties. Nothing outside the contest folder is opened.
Also here: one image file -> pixels (`decode_image`). Letters: n samples, C classes, H x W pixels.
"""
import csv
import functools
import io
import json
import os
import re
import stat
import unicodedata
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path

import numpy as np
from PIL import Image

from utils import (
    UserError,
    digest_file,
    digest_json,
    nearest,
    parallel_map,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
FOREIGN_SUFFIXES = {".dcm": "DICOM", ".dicom": "DICOM", ".tfrec": "TFRecord", ".tfrecord": "TFRecord", ".npy": "npy",
                    ".npz": "npz", ".bson": "BSON", ".parquet": "Parquet", ".zip": "zip", ".h5": "HDF5"}
LARGEST_IMAGE_PX = 100_000_000
LARGEST_FILE_BYTES = 2**30
LARGEST_MAP_BYTES = 2**20
TABLE_DEPTH = 2                 # tables are looked for in the folder and its direct subfolders
SUPPORTED = ("supported are single-label contests: a table with an id column and one class column, or folders "
             "train/<class>/")

Image.init()                    # all decoders now: threads must not load them at the same time
Image.MAX_IMAGE_PIXELS = None   # decode_bytes checks the size itself, before it decodes and without a warning
warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata of a file that still decodes



# ---------------------------------------------------------------- one file

def decode_image(path):
    """uint8 (H, W, 3) RGB of one image file.

    Turned by its EXIF orientation; 16-bit and float scaled to 8 bits; grey, palette and CMYK converted; alpha on white;
    the first frame of several. Raises ValueError with a short reason (zero bytes, truncated, not an image, ...).
    """
    return decode_bytes(read_bytes(path))[0]


def read_bytes(path):
    """All bytes of a regular file; ValueError with a short reason. FIFOs and devices are never waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file")
            if status.st_size == 0:
                raise ValueError("zero bytes")
            if status.st_size > LARGEST_FILE_BYTES:
                raise ValueError("larger than 1 GiB")
            return f.read()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None


def decode_bytes(data, long_side_px=0):
    """(uint8 (H, W, 3) RGB, (height_px, width_px) of the full image) from the bytes of an image file.

    long_side_px > 0 lets a large JPEG be decoded at a lower resolution, never below twice that length.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST_IMAGE_PX:
                raise ValueError(f"{width} x {height} px, over the limit of 100 megapixels")
            if 0 < 2 * long_side_px < max(width, height):
                shrink = 2 * long_side_px / max(width, height)
                image.draft(None, (max(1, int(width * shrink)), max(1, int(height * shrink))))
            image.load()
            turn = orientation_of(image)
            rgb = turned(rgb_of(image), turn)
    except Image.UnidentifiedImageError:
        raise ValueError("not an image") from None
    except ValueError:
        raise
    except Exception as error:  # decoders of damaged files raise anything: SyntaxError, struct.error, EOFError, ...
        reason = "truncated" if "truncated" in str(error) else f"damaged ({str(error) or type(error).__name__})"
        raise ValueError(reason) from None
    return rgb, ((width, height) if turn >= 5 else (height, width))


def orientation_of(image):
    """EXIF orientation 1 to 8; 1 where it is absent or unreadable."""
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata of a readable image
        return 1
    return turn if turn in range(1, 9) else 1


def turned(rgb, orientation):
    """The image (H, W, 3) as its EXIF orientation wants it seen."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)


def rgb_of(image):
    """uint8 (H, W, 3) of a loaded Pillow image of any mode."""
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(scaled_to_8_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def scaled_to_8_bits(values):
    """uint8 of 16-bit levels (over 257), of floats in 0..1 (times 255), or of any other range (stretched)."""
    deep = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = deep.min(), deep.max()
    if values.dtype.kind == "u" or (values.dtype.kind == "i" and low >= 0 and 255 < high <= 65535):
        deep = deep / 257.0
    elif values.dtype.kind == "f" and low >= 0 and high <= 1:
        deep = deep * 255.0
    elif low < 0 or high > 255:
        deep = (deep - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.rint(deep), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- the folder

@dataclass(frozen=True)
class Problem:
    """Something wrong with the data: severity "warning" (the run goes on) or "error" (it cannot)."""

    kind: str
    severity: str
    text: str
    sample_ids: tuple[str, ...] = ()


class Findings:
    """Collects problems, so that all are reported at once."""

    def __init__(self, problems=()):
        self.problems = list(problems)

    def warn(self, kind, text, sample_ids=()):
        self.problems.append(Problem(kind, "warning", text, tuple(str(s) for s in sample_ids)))

    def fail(self, kind, text, sample_ids=()):
        self.problems.append(Problem(kind, "error", text, tuple(str(s) for s in sample_ids)))

    def stop_if_fatal(self):
        errors = [p.text for p in self.problems if p.severity == "error"]
        if errors:
            raise UserError("\n".join(errors))


def first_few(names, limit=3):
    """'a', 'b', 'c' and 5 more."""
    names = [str(n) for n in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(n) for n in names[:limit]) + more


def counted(names, noun):
    """3 ids ('a', 'b', 'c')."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{len(names)} {noun if len(names) == 1 else plural} ({first_few(names)})"


@dataclass(frozen=True, eq=False)
class Files:
    """What lies in a contest folder, as '/'-separated paths relative to it. Links are followed only inside of it."""

    root: Path
    images: tuple[str, ...]
    tables: tuple[str, ...]
    maps: tuple[str, ...]       # small json files
    refused: tuple[str, ...]    # links that lead outside, FIFOs, devices, names that are no text
    foreign: tuple[str, ...]    # formats that must be converted first
    by_name: dict
    by_stem: dict


def scan_folder(folder):
    """Files of a contest folder; UserError where there is none or nothing in it."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"--data_path must be a contest folder (a label table and its images, or train/<class>/ with "
                        f"images), but {str(folder)!r} {'is a file' if root.exists() else 'does not exist'}: check it")
    root = root.resolve()
    found = {"images": [], "tables": [], "maps": [], "refused": [], "foreign": []}
    for path in walk(root, found["refused"]):
        kind = kind_of(path, root)
        if kind:
            found[kind].append(path)
    if not any(found.values()):
        raise UserError(f"--data_path must be a contest folder (a label table and its images, or train/<class>/ with "
                        f"images), but {str(folder)!r} holds neither tables nor images: check the path")
    found = {kind: tuple(sorted(paths)) for kind, paths in found.items()}
    by_name, by_stem = defaultdict(list), defaultdict(list)
    for path in found["images"]:
        name = normal(path.rsplit("/", 1)[-1])
        by_name[name].append(path)
        by_stem[without_suffix(name)].append(path)
    return Files(root=root, **found, by_name=dict(by_name), by_stem=dict(by_stem))


def walk(root, refused):
    """Relative paths of all regular files under root; what must not be opened is appended to `refused`."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith((".", "__MACOSX")))
        links = [s for s in subfolders if os.path.islink(os.path.join(folder, s))]
        for name in sorted(names) + links:
            if name.startswith("."):
                continue
            full = os.path.join(folder, name)
            path = os.path.relpath(full, root).replace(os.sep, "/")
            mode = os.lstat(full).st_mode
            if stat.S_ISLNK(mode):
                target = os.path.realpath(full)
                if not target.startswith(str(root) + os.sep):
                    refused.append(ascii_safe(path))
                    continue
                if not os.path.isfile(target):
                    continue
            if (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) and ascii_safe(path) == path:
                yield path
            else:
                refused.append(ascii_safe(path))


def ascii_safe(path):
    """The path itself where it is text, else its escaped form."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return ascii(path)
    return path


def kind_of(path, root):
    """Which list of Files a path belongs to, '' for none."""
    suffix = Path(path).suffix.lower()
    near_top = path.count("/") < TABLE_DEPTH
    if suffix in IMAGE_SUFFIXES:
        return "images"
    if suffix in (".csv", ".tsv"):
        return "tables" if near_top else ""
    if suffix == ".json":
        return "maps" if near_top and (root / path).stat().st_size <= LARGEST_MAP_BYTES else ""
    return "foreign" if suffix in FOREIGN_SUFFIXES else ""


def normal(text):
    """One Unicode form for names that look alike (file systems and tables often differ in it)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def without_suffix(name):
    """The name less an image suffix; any other dots belong to the name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def split_of(path):
    """'train' or 'test' by the outermost folder of that name (train_images, Test, stage1_test, ...), else ''."""
    return split_of_folder(path.rpartition("/")[0])


@functools.cache
def split_of_folder(folder):
    for part in folder.split("/"):
        match = re.search(r"(?:^|[_\- ])(train|test)(?:ing)?(?:$|[_\- \d])", part.lower())
        if match:
            return match[1]
    return ""


# ---------------------------------------------------------------- ids -> files

def is_unsafe(sample_id):
    """Whether an id is a path that could leave the contest folder."""
    path = sample_id.replace("\\", "/")
    return path.startswith("/") or re.match(r"[A-Za-z]:", path) is not None or ".." in path.split("/") or "\0" in path


def candidates(files, sample_id):
    """Paths that an id may mean, best kind of match only: the very path, the name, the name plus a suffix, the stem."""
    if not sample_id or is_unsafe(sample_id):
        return []
    wanted = normal(sample_id.replace("\\", "/").removeprefix("./"))
    name = wanted.rsplit("/", 1)[-1]
    for index, key in ((files.by_name, name), (files.by_stem, name), (files.by_stem, without_suffix(name))):
        found = index.get(key)
        if found:
            break
    else:
        return []
    if len(found) == 1 and "/" not in wanted:
        return found
    exact = [p for p in found if normal(p) == wanted]
    tail = "/" + without_suffix(wanted)
    inside = [p for p in found if ("/" + without_suffix(normal(p))).endswith(tail)]
    return exact or inside or found


@dataclass(frozen=True)
class Located:
    """One path per id ('' = none), and the ids that have none by reason."""

    paths: tuple[str, ...]
    missing: tuple[str, ...]
    refused: tuple[str, ...]
    ambiguous: tuple[str, ...]


def locate(files, ids, split, labels=None):
    """The image file of every id of a train or test list.

    Where names repeat, files in folders of the right split win, then files in a folder named as the row's label.
    """
    options = [candidates(files, i) for i in ids]
    here = sum(any(split_of(p) == split for p in found) for found in options)
    elsewhere = sum(bool(found) for found in options) - here
    refused_stems = {without_suffix(path.rsplit("/", 1)[-1]) for path in files.refused}
    paths, missing, refused, ambiguous = [], [], [], []
    for row, (sample_id, found) in enumerate(zip(ids, options, strict=True)):
        if here and here >= elsewhere:
            found = [p for p in found if split_of(p) == split]
        else:
            found = [p for p in found if split_of(p) in (split, "")] or found
        if len(found) > 1 and labels is not None:
            found = [p for p in found if labels[row] in p.split("/")[:-1]] or found
        paths.append(found[0] if len(found) == 1 else "")
        if is_unsafe(sample_id) or (not found and without_suffix(sample_id.rsplit("/", 1)[-1]) in refused_stems):
            refused.append(sample_id)
        elif len(found) != 1:
            (ambiguous if found else missing).append(sample_id)
    return Located(tuple(paths), tuple(missing), tuple(refused), tuple(ambiguous))


def report_unlocated(located, where, consequence, findings):
    """One problem for each reason why ids have no file."""
    for kind, ids, what in (
            ("missing_file", located.missing, "without an image file"),
            ("refused_path", located.refused, "that lead out of the contest folder, which is refused"),
            ("ambiguous_id", located.ambiguous, "that fit several image files")):
        if ids:
            findings.warn(kind, f"{where} has {counted(ids, 'id')} {what}: {consequence}", ids)


# ---------------------------------------------------------------- tables

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

    class_names: of train.classes, in their order; submission_ids: rows and order that the submission must have;
    understood: about five lines to print.
    """

    folder: Path
    train: Catalog
    test: Catalog
    class_names: tuple[str, ...]
    id_column: str
    target_column: str
    submission_ids: tuple[str, ...]
    problems: tuple[Problem, ...]
    understood: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Training rows as found: ids, relative paths ('' = none), labels as text, group values ('' = none), and how."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    id_column: str
    target_column: str
    source: str
    offered_groups: tuple[str, ...] = ()


def read_contest(folder, data):
    """What a contest folder holds; UserError with all fatal problems at once. `data`: DataConfig."""
    files, findings = scan_folder(folder), Findings()
    tables = read_tables(files, findings)
    if files.refused:
        findings.warn("refused_path",
                      f"the folder holds {counted(files.refused, 'link or special file')} that lead out of it or "
                      "are no regular files: they are not opened", files.refused)
    sample = find_sample(tables, findings)
    label_table = find_label_table(tables, sample, findings)
    check_used_table(files, label_table, findings)
    if not files.images or (label_table is None and not any(split_of(p) != "test" for p in files.images)):
        fail_without_images(files, tables, findings)
    labelled = labelled_rows(files, tables, label_table, sample, data, findings)
    findings.stop_if_fatal()
    others = [t for t in tables if t not in (label_table, sample)]
    names, names_path = find_class_names(files, others, labelled.labels, findings)
    train, labelled_images = train_catalog(files.root, labelled, names, findings)
    test_list, is_form = find_test_list([t for t in others if t.path != names_path], label_table, sample)
    check_used_table(files, test_list, findings)
    test, submission_ids = test_catalog(files, test_list, labelled, train.classes, findings)
    report_extra_files(files, labelled_images, test, findings)
    findings.stop_if_fatal()
    form = test_list if is_form else None
    id_column = form.id_column or labelled.id_column if form else labelled.id_column
    target = next((c for c in form.columns if c != id_column), "") if form else ""
    class_names = tuple(names.get(c, c) for c in train.classes)
    return Contest(files.root, train, test, class_names, id_column, target or labelled.target_column, submission_ids,
                   tuple(findings.problems),
                   understood_lines(labelled, train, class_names, names_path, data, test_list, test, submission_ids))


def fail_without_images(files, tables, findings):
    """The fatal problem of a folder without usable images, with what to do about the formats found."""
    formats = sorted({FOREIGN_SUFFIXES[Path(p).suffix.lower()] for p in files.foreign})
    if formats:
        findings.fail("unsupported", f"{str(files.root)!r} holds no training images but {', '.join(formats)} files "
                      f"({first_few(files.foreign)}): unpack or convert them to JPEG or PNG first")
    else:
        findings.fail("no_images",
                      f"{str(files.root)!r} must hold training images ({', '.join(IMAGE_SUFFIXES)}), but has none: "
                      "put them beside their table")
    findings.stop_if_fatal()


def labelled_rows(files, tables, label_table, sample, data, findings):
    """Labelled from the label table, else from class folders; a fatal problem where there is neither."""
    if label_table is not None:
        return rows_of_table(files, label_table, sample, data, findings)
    empty = [t.path for t in tables if not t.n_rows and t is not sample and not t.is_of_test]
    if empty:
        findings.fail("empty_table", f"the label table must have rows, but {first_few(empty)} is empty: restore it")
        return None
    rows = rows_of_folders(files)
    if rows is None:
        for broken in [p for p in findings.problems if p.kind == "unreadable_table"]:
            findings.fail(broken.kind, broken.text)
        findings.fail("no_labels", f"{str(files.root)!r} must say which image has which class, but none of its tables "
                      f"({first_few([t.path for t in tables]) or 'it has none'}) has a column of image ids beside a "
                      f"class column and there are no class folders; {SUPPORTED}")
    elif data.group_column:
        findings.fail("group_column",
                      f"--group_column {data.group_column!r} needs a label table, and this contest has class folders")
    return rows


def rows_of_table(files, table, sample, data, findings):
    """Labelled of a label table; rows without a label, with a refused id or repeated with other labels are left out."""
    group = data.group_column
    if group and group not in table.others():
        findings.fail("group_column", f"--group_column must be a column of {table.path!r}, got {group!r}"
                      f"{nearest(group, table.others())}; columns: {', '.join(table.others())}")
        return None
    target = find_target_column(table, sample, group, findings)
    if not target:
        return None
    ids, labels = table.columns[table.id_column], table.columns[target]
    groups = table.columns[group] if group else ("",) * len(ids)
    refuse_regression(table, target, labels, findings)
    keep = unrepeated_rows(table.path, ids, labels, findings)
    ids, labels, groups = (tuple(values[i] for i in keep) for values in (ids, labels, groups))
    located = locate(files, ids, "train", labels)
    report_unlocated(located, table.path, "these rows are left out", findings)
    rows = [i for i, path in enumerate(located.paths) if path]
    ids, labels, groups, paths = (tuple(values[i] for i in rows) for values in (ids, labels, groups, located.paths))
    offered = tuple(c for c in table.others(target, group) if 1 < len(set(table.columns[c])) <= table.n_rows / 2)
    return Labelled(ids, paths, labels, tuple(f"{group}={g}" if g else "" for g in groups), table.id_column, target,
                    f"table {table.path}, {table.n_rows} rows, ids in column {table.id_column!r}", offered)


def refuse_regression(table, target, labels, findings):
    """A fatal problem where the target column holds measurements or one value per row instead of classes."""
    def is_fraction(text):
        return re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*(?:[eE][+-]?\d+)?", text) is not None

    values = {v for v in labels if v}
    if sum(map(is_fraction, values)) > 0.5 * len(values) or (len(values) == len(labels) > 20):
        findings.fail("unsupported",
                      f"column {target!r} of {table.path!r} has {len(values)} different values in {len(labels)} rows "
                      f"({first_few(sorted(values))}), which are no classes; {SUPPORTED}")


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


def rows_of_folders(files):
    """Labelled of class folders train/<class>/... (or <class>/... in the folder itself), or None."""
    train = [p for p in files.images if split_of(p) == "train"]
    base = train or [p for p in files.images if split_of(p) != "test"]
    parts = [p.split("/") for p in base]
    depth = next((i + 1 for i, part in enumerate(parts[0]) if split_of(part + "/")), 0) if train else 0
    while len({tuple(p[:depth + 1]) for p in parts}) == 1 and all(len(p) > depth + 2 for p in parts):
        depth += 1                                              # a wrapper: its only content is one folder of folders
    found = [(path, p[depth]) for path, p in zip(base, parts, strict=True) if len(p) > depth + 1]
    if not found:
        return None
    paths, labels = zip(*found, strict=True)
    where = "/".join([*parts[0][:depth], "<class>/"])
    return Labelled(paths, paths, labels, ("",) * len(paths), "ID", "target",
                    f"class folders {where}, {len(paths)} images")


def are_whole_numbers(texts):
    return all(re.fullmatch(r"[+-]?\d{1,18}", text) for text in texts)


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
        paths = [p for p in files.images if split_of(p) == "test" and p not in labelled_paths]
        names = [p.rsplit("/", 1)[-1] for p in paths]
        ids = names if len(set(names)) == len(names) else paths
        located = Located(tuple(paths), (), (), ())
    else:
        ids = test_list.columns[test_list.id_column or (labelled.id_column if labelled.id_column in test_list.columns
                                                       else next(iter(test_list.columns)))]
        located = locate(files, ids, "test")
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
    report_unlocated(located, "the test list", "their submission rows get the class prior", findings)
    path_of = dict(zip(ids, located.paths, strict=True))
    rows = [{"sample_id": i, "path": str(files.root / p) if p else ""} for i, p in path_of.items()]
    return Catalog.of(rows, classes), tuple(ids)


def report_extra_files(files, labelled_images, test, findings):
    """A warning for image files that belong to no id."""
    used = labelled_images | {os.path.relpath(p, files.root).replace(os.sep, "/") for p in test.path.tolist() if p}
    extra = [p for p in files.images if p not in used]
    if extra:
        findings.warn("file_without_id",
                      f"{counted(extra, 'image file')} with no id in the tables or class folders: not used", extra)


def understood_lines(labelled, train, class_names, names_path, data, test_list, test, submission_ids):
    """About five lines that say how the folder was read, each with the flag that changes it where there is one."""
    counts = np.bincount(train.label, minlength=len(train.classes))
    group = f"column {data.group_column!r}, and near-duplicates" if data.group_column else "near-duplicates only"
    if labelled.offered_groups and not data.group_column:
        group += f"; columns that repeat over images: {', '.join(labelled.offered_groups)} (--group_column takes one)"
    where = f"table {test_list.path}" if test_list is not None else "the test folder"
    return (f"labels:  {labelled.source}",
            f"classes: {len(train.classes)} in column {labelled.target_column!r}, {counts.min()} to {counts.max()} "
            f"images each"
            f"{f', named by {names_path}' if names_path else ''}: {first_few(class_names)}",
            f"train:   {len(train)} images",
            f"test:    {f'{len(test)} images by {where}' if len(submission_ids) else 'none, so no submission'}",
            f"groups:  {group}")


def contest_digests(contest, workers):
    """[sha256 of each train and test file in catalog order ('' = unreadable), then one digest of all else read]."""
    paths = contest.train.path.tolist() + contest.test.path.tolist()
    rest = {"train": [contest.train.sample_id, contest.train.label, contest.train.group, contest.train.classes],
            "test": contest.test.sample_id, "class_names": contest.class_names,
            "columns": [contest.id_column, contest.target_column],
            "submission_ids": contest.submission_ids, "problems": contest.problems, "understood": contest.understood}
    return [*parallel_map(digest_or_empty, paths, workers, "content hashes"), digest_json(rest)]


def digest_or_empty(path):
    try:
        return digest_file(path) if path and stat.S_ISREG(os.stat(path).st_mode) else ""
    except OSError:
        return ""
