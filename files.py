"""The files of a contest folder: what lies there, which image file an id means, and one image file -> pixels.

    files = scan_folder("contest")
    locate(files, ["0001", "0002"], "train").paths       # ids as they are, with any suffix, by name or stem, recursively
    decode_image("contest/train/0001.tif")               # uint8 (H, W, 3)

Nothing outside the contest folder is opened. Letters: H x W pixels.
"""
import csv
import functools
import io
import os
import posixpath
import re
import stat
import unicodedata
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils import UserError, patiently

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
FOREIGN_SUFFIXES = {".dcm": "DICOM", ".dicom": "DICOM", ".tfrec": "TFRecord", ".tfrecord": "TFRecord", ".npy": "npy",
                    ".npz": "npz", ".bson": "BSON", ".parquet": "Parquet", ".zip": "zip", ".h5": "HDF5"}
LARGEST_IMAGE_PX = 100_000_000
LARGEST_FILE_BYTES = 2**30
LARGEST_MAP_BYTES = 2**20
TABLE_DEPTH = 2                 # tables are looked for in the folder and its direct subfolders

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

    def read():
        with open(os.open(path, flags), "rb") as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file")
            if status.st_size == 0:
                raise ValueError("zero bytes")
            if status.st_size > LARGEST_FILE_BYTES:
                raise ValueError("larger than 1 GiB")
            return f.read()

    try:
        return patiently(path, read)
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
    low = deep.min()
    high = deep.max()
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


RUNS_IN_A_SPREADSHEET = re.compile(r"'*[=+\-@\t\r]")
IS_NUMBER = re.compile(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?")


def quoted_cell(text):
    """A cell of our csv files for people: begun by ' where a spreadsheet would run it as a formula."""
    text = str(text)
    return "'" + text if RUNS_IN_A_SPREADSHEET.match(text) and not IS_NUMBER.fullmatch(text) else text


def unquoted_cell(text):
    """The text that `quoted_cell` made a cell of."""
    return text[1:] if text.startswith("'") and RUNS_IN_A_SPREADSHEET.match(text) else text


def csv_text(rows, separator=","):
    """Rows as csv whose cells are read back as they are: of themselves, writers leave a carriage return without quotes."""
    out = io.StringIO(newline="")
    plain, quoted = (csv.writer(out, delimiter=separator, lineterminator="\n", quoting=how)
                     for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    return out.getvalue()


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
    refused: tuple[str, ...]    # links that lead outside, FIFOs, devices, names that are no text, folders without access
    foreign: tuple[str, ...]    # formats that must be converted first
    by_name: dict
    by_stem: dict
    n_wrappers: int = 0     # leading folders of every image that say nothing about it, see `wrappers_of`

    def split_of(self, path):
        """'train' or 'test' by the outermost folder of that name (train_images, Test, stage1_test, ...), else ''."""
        return split_of(path, self.n_wrappers)


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
    by_name = defaultdict(list)
    by_stem = defaultdict(list)
    for path in found["images"]:
        name = normal(path.rsplit("/", 1)[-1])
        by_name[name].append(path)
        by_stem[without_suffix(name)].append(path)
    return Files(root=root, **found, by_name=dict(by_name), by_stem=dict(by_stem), n_wrappers=wrappers_of(found["images"]))


def walk(root, refused):
    """Relative paths of all regular files under root; what must not be opened is appended to `refused`."""
    def unlisted(error):
        refused.append(ascii_safe(os.path.relpath(error.filename, root).replace(os.sep, "/")))

    for folder, subfolders, names in os.walk(root, onerror=unlisted):
        subfolders[:] = sorted(s for s in subfolders if not (s.startswith((".", "__MACOSX")) or is_run(Path(folder, s))))
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


def is_run(folder):
    """Whether a folder is that of one of our runs, whose submission and pictures are no part of a contest."""
    return all((folder / name).is_file() for name in ("events.jsonl", "environment.json", "config.json"))


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


def split_of(path, n_wrappers=0):
    """'train' or 'test' by the outermost folder of that name below the first n_wrappers, else ''; a folder named after both
    says nothing."""
    return split_of_folder("/".join(path.split("/")[n_wrappers:-1]))


@functools.cache
def split_of_folder(folder):
    for part in folder.split("/"):
        splits = set(re.findall(r"(?:^|[_\- ])(train|test)(?:ing)?(?:set|data|images?)?(?=$|[_\- \d])", part.lower()))
        if len(splits) == 1:
            return splits.pop()
    return ""


def wrappers_of(images):
    """How many leading folders hold all images and in them both splits, as training_data/train/.. and training_data/test/.."""
    shared = posixpath.commonpath([path.rpartition("/")[0] for path in images]) if images else ""
    n = shared.count("/") + 1 if shared else 0
    return n if {"train", "test"} <= {split_of(path, n) for path in images} else 0


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


def locate(files, ids, split, labels=None, taken=()):
    """The image file of every id of a train or test list; none of those that are `taken`.

    Where names repeat, files in folders of the right split win, then files in a folder named as the row's label.
    """
    options = [[p for p in candidates(files, i) if p not in taken] for i in ids]
    here = sum(any(files.split_of(p) == split for p in found) for found in options)
    elsewhere = sum(bool(found) for found in options) - here
    refused_stems = {without_suffix(path.rsplit("/", 1)[-1]) for path in files.refused}
    paths = []
    missing = []
    refused = []
    ambiguous = []
    for row, (sample_id, found) in enumerate(zip(ids, options, strict=True)):
        if here and here >= elsewhere:
            found = [p for p in found if files.split_of(p) == split]
        else:
            found = [p for p in found if files.split_of(p) in (split, "")] or found
        if len(found) > 1 and labels is not None:
            found = [p for p in found if labels[row] in p.split("/")[:-1]] or found
        paths.append(found[0] if len(found) == 1 else "")
        if is_unsafe(sample_id) or (not found and without_suffix(sample_id.rsplit("/", 1)[-1]) in refused_stems):
            refused.append(sample_id)
        elif len(found) != 1:
            (ambiguous if found else missing).append(sample_id)
    return Located(tuple(paths), tuple(missing), tuple(refused), tuple(ambiguous))


def report_unlocated(files, located, where, consequence, findings):
    """One problem for each reason why ids have no file; a fatal one where most fit several."""
    if 2 * len(located.ambiguous) > len(located.paths):
        example = located.ambiguous[0]
        findings.fail("ambiguous_id", f"each id of {where} must fit one image file, but {counted(located.ambiguous, 'id')} fit "
                      f"several: {example!r} fits {first_few(candidates(files, example))}; leave one copy of the images in the "
                      "contest folder")
        return
    for kind, ids, what in (
            ("missing_file", located.missing, "without an image file"),
            ("refused_path", located.refused, "that lead out of the contest folder, which is refused"),
            ("ambiguous_id", located.ambiguous, "that fit several image files")):
        if ids:
            findings.warn(kind, f"{where} has {counted(ids, 'id')} {what}: {consequence}", ids)
