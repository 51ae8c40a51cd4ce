"""The files of a contest folder: what lies there, which image file an id means, and one image file
-> pixels.

    files = scan_folder("contest")
    locate(files, ["0001", "0002"], "train").paths       # ids as they are, with any suffix, by name or stem, recursively
    decode_image("contest/train/0001.tif")               # uint8 (H, W, 3)

Nothing outside the contest folder is opened. Letters: H x W pixels.
"""
import functools
import os
import posixpath
import re
import stat
import unicodedata
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from utils import UserError, counted, first_few

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
FOREIGN_SUFFIXES = {".dcm": "DICOM", ".dicom": "DICOM", ".tfrec": "TFRecord",
                    ".tfrecord": "TFRecord", ".npy": "npy", ".npz": "npz", ".bson": "BSON",
                    ".parquet": "Parquet", ".zip": "zip", ".h5": "HDF5"}
LARGEST_MAP_BYTES = 2**20
TABLE_DEPTH = 2                 # tables are looked for in the folder and its direct subfolders
Image.init()                    # all decoders now: threads must not load them at the same time
# decode_bytes checks the size itself, before it decodes and without a warning
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged metadata of a file that still decodes


@dataclass(frozen=True, eq=False)
class Files:
    """What lies in a contest folder, as '/'-separated paths relative to it. Links are followed only
    inside of it."""

    root: Path
    images: tuple[str, ...]
    tables: tuple[str, ...]
    maps: tuple[str, ...]       # small json files
    # links that lead outside, FIFOs, devices, names that are no text, folders without access
    refused: tuple[str, ...]
    foreign: tuple[str, ...]    # formats that must be converted first
    by_name: dict
    by_stem: dict
    # leading folders of every image that say nothing about it, see `wrappers_of`
    n_wrappers: int = 0

    def split_of(self, path):
        """'train' or 'test' by the outermost folder of that name (train_images, Test, stage1_test,
        ...), else ''."""
        return split_of(path, self.n_wrappers)


def scan_folder(folder):
    """Files of a contest folder; UserError where there is none or nothing in it."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(
            f"--data_path must be a contest folder (a label table and its images, or train/<class>/ with "
            f"images), but {str(folder)!r} {'is a file' if root.exists() else 'does not exist'}: check it"
        )
    root = root.resolve()
    found = {"images": [], "tables": [], "maps": [], "refused": [], "foreign": []}
    for path in walk(root, found["refused"]):
        kind = kind_of(path, root)
        if kind:
            found[kind].append(path)
    if not any(found.values()):
        raise UserError(
            f"--data_path must be a contest folder (a label table and its images, or train/<class>/ with "
            f"images), but {str(folder)!r} holds neither tables nor images: check the path"
        )
    found = {kind: tuple(sorted(paths)) for kind, paths in found.items()}
    by_name = defaultdict(list)
    by_stem = defaultdict(list)
    for path in found["images"]:
        name = normal(path.rsplit("/", 1)[-1])
        by_name[name].append(path)
        by_stem[without_suffix(name)].append(path)
    return Files(root=root, **found, by_name=dict(by_name), by_stem=dict(by_stem),
                 n_wrappers=wrappers_of(found["images"]))


def walk(root, refused):
    """Relative paths of all regular files under root; what must not be opened is appended to
    `refused`."""
    def unlisted(error):
        refused.append(ascii_safe(os.path.relpath(error.filename, root).replace(os.sep, "/")))

    for folder, subfolders, names in os.walk(root, onerror=unlisted):
        subfolders[:] = sorted(s for s in subfolders if not (s.startswith((".", "__MACOSX"))
                                                             or is_run(Path(folder, s))))
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
    """Whether a folder is that of one of our runs, whose submission and pictures are no part of a
    contest."""
    return all((folder / name).is_file() for name in ("events.jsonl", "environment.json",
                                                      "config.json"))


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
    """'train' or 'test' by the outermost folder of that name below the first n_wrappers, else ''; a
    folder named after both says nothing."""
    return split_of_folder("/".join(path.split("/")[n_wrappers:-1]))


@functools.cache
def split_of_folder(folder):
    for part in folder.split("/"):
        splits = set(
            re.findall(r"(?:^|[_\- ])(train|test)(?:ing)?(?:set|data|images?)?(?=$|[_\- \d])",
                       part.lower()))
        if len(splits) == 1:
            return splits.pop()
    return ""


def wrappers_of(images):
    """How many leading folders hold all images and in them both splits, as training_data/train/..
    and training_data/test/.."""
    shared = posixpath.commonpath([path.rpartition("/")[0] for path in images]) if images else ""
    n = shared.count("/") + 1 if shared else 0
    return n if {"train", "test"} <= {split_of(path, n) for path in images} else 0


# ---------------------------------------------------------------- ids -> files

def is_unsafe(sample_id):
    """Whether an id is a path that could leave the contest folder."""
    path = sample_id.replace("\\", "/")
    return path.startswith("/") or re.match(r"[A-Za-z]:",
                                            path) is not None or ".." in path.split(
                                                "/") or "\0" in path


def candidates(files, sample_id):
    """Paths that an id may mean, best kind of match only: the very path, the name, the name plus a
    suffix, the stem."""
    if not sample_id or is_unsafe(sample_id):
        return []
    wanted = normal(sample_id.replace("\\", "/").removeprefix("./"))
    name = wanted.rsplit("/", 1)[-1]
    for index, key in ((files.by_name, name), (files.by_stem, name),
                       (files.by_stem, without_suffix(name))):
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

    Where names repeat, files in folders of the right split win, then files in a folder named as the
    row's label.
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
        if is_unsafe(sample_id) or (
            not found and without_suffix(sample_id.rsplit("/", 1)[-1]) in refused_stems
        ):
            refused.append(sample_id)
        elif len(found) != 1:
            (ambiguous if found else missing).append(sample_id)
    return Located(tuple(paths), tuple(missing), tuple(refused), tuple(ambiguous))


def report_unlocated(files, located, where, consequence, findings):
    """One problem for each reason why ids have no file; a fatal one where most fit several."""
    if 2 * len(located.ambiguous) > len(located.paths):
        example = located.ambiguous[0]
        findings.fail(
            "ambiguous_id",
            f"each id of {where} must fit one image file, but {counted(located.ambiguous, 'id')} fit "
            f"several: {example!r} fits {first_few(candidates(files, example))}; leave one copy of the images in the "
            "contest folder",
        )
        return
    for kind, ids, what in (("missing_file", located.missing, "without an image file"),
                            ("refused_path", located.refused,
                             "that lead out of the contest folder, which is refused"),
                            ("ambiguous_id", located.ambiguous, "that fit several image files")):
        if ids:
            findings.warn(kind, f"{where} has {counted(ids, 'id')} {what}: {consequence}", ids)
