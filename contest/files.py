"""The files of a contest folder, and which image file an id means.

    files = scan_folder("contest")
    # with or without a suffix, by path, name or stem, at any depth
    locate(files, ["0001", "0002"], "train").paths

Nothing outside the contest folder is opened.
"""
import functools
import os
import posixpath
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from contest.decoding import first_bytes, format_of
from utils import UserError, counted, first_few

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".dib",
                  ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic",
                  ".heif")
FOREIGN_SUFFIXES = {
    ".dcm": "DICOM", ".dicom": "DICOM", ".tfrec": "TFRecord", ".tfrecord": "TFRecord",
    ".npy": "npy", ".npz": "npz", ".h5": "HDF5", ".parquet": "Parquet", ".bson": "BSON",
    ".zip": "zip", ".tar": "tar", ".gz": "gz", ".tgz": "tgz", ".bz2": "bz2", ".xz": "xz",
    ".7z": "7z", ".rar": "rar"}
# neither images nor worth a word beside them
OTHER_SUFFIXES = frozenset({
    ".csv", ".tsv", ".json", ".jsonl", ".geojson", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg",
    ".txt", ".log", ".xls", ".xlsx", ".ods", ".doc", ".docx", ".odt", ".ppt", ".pptx", ".pdf",
    ".md", ".rst", ".tex", ".bib", ".rtf", ".html", ".htm", ".css", ".js", ".py", ".pyc", ".ipynb",
    ".sh", ".bat", ".r", ".m", ".c", ".h", ".cpp", ".java", ".url", ".lnk", ".db", ".sqlite",
    ".md5", ".sha1", ".sha256", ".lock", ".names", ".data", ".pkl", ".pt", ".pth", ".onnx",
    ".safetensors", ".ckpt"})
LARGEST_MAP_BYTES = 2**20
TABLE_DEPTH = 2     # tables are looked for in the folder and its direct subfolders

# train, test, training_data, "test images", testset 2, ...
SPLIT_IN_A_NAME = re.compile(
    r"(?:^|[_\- ])(train|test)(?:ing)?(?:set|data|images?)?(?=$|[_\- \d])")
FILES_OF_A_RUN = ("events.jsonl", "environment.json", "config.json")


@dataclass(frozen=True, eq=False)
class Files:
    """What lies in a contest folder, as '/'-separated paths relative to it.

    Links are followed only inside the folder.
    """

    root: Path
    images: tuple[str, ...]
    tables: tuple[str, ...]
    maps: tuple[str, ...]       # small json files
    # links that lead outside, FIFOs, devices, undecodable names, folders without access
    refused: tuple[str, ...]
    foreign: tuple[str, ...]    # formats that must be converted first
    unread: tuple[str, ...]     # of kinds that nothing here reads
    by_name: dict
    by_stem: dict
    n_wrappers: int = 0         # leading folders that say nothing about an image: `wrappers_of`

    def split_of(self, path):
        """'train' or 'test' by the outermost folder with such a name (train_images, Test,
        stage1_test, ...), else ''."""
        return split_of(path, self.n_wrappers)


def scan_folder(folder):
    """The Files of a contest folder. UserError if there is no folder or nothing usable in it."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        refuse_folder(folder, "is a file" if root.exists() else "does not exist")
    root = root.resolve()

    found = {"images": [], "tables": [], "maps": [], "refused": [], "foreign": [], "unread": []}
    for path in walk(root, found["refused"]):
        kind = kind_of(path, root)
        if kind:
            found[kind].append(path)
    if not any(paths for kind, paths in found.items() if kind != "unread"):
        others = f" ({by_suffix(found['unread'])})" if found["unread"] else ""
        refuse_folder(folder, f"holds neither tables nor images{others}")
    found = {kind: tuple(sorted(paths)) for kind, paths in found.items()}

    by_name = defaultdict(list)
    by_stem = defaultdict(list)
    for path in found["images"]:
        name = normal(path.rsplit("/", 1)[-1])
        by_name[name].append(path)
        by_stem[without_suffix(name)].append(path)
    return Files(root=root, **found, by_name=dict(by_name), by_stem=dict(by_stem),
                 n_wrappers=wrappers_of(found["images"]))


def refuse_folder(folder, why):
    raise UserError(
        "--data_path must be a contest folder (a label table and its images, or train/<class>/ "
        f"with images), but {str(folder)!r} {why}: check the path"
    )


def walk(root, refused):
    """Yields the relative paths of all regular files under root.

    Paths that must not be opened are appended to `refused`.
    """
    def relative(path):
        return os.path.relpath(path, root).replace(os.sep, "/")

    def refuse_unlisted(error):
        refused.append(ascii_safe(relative(error.filename)))

    for folder, subfolders, names in os.walk(root, onerror=refuse_unlisted):
        subfolders[:] = sorted(s for s in subfolders if not is_skipped(folder, s))
        links = [s for s in subfolders if os.path.islink(os.path.join(folder, s))]
        for name in sorted(names) + links:
            if name.startswith("."):
                continue
            full = os.path.join(folder, name)
            path = relative(full)
            mode = os.lstat(full).st_mode
            is_allowed = stat.S_ISREG(mode)

            if stat.S_ISLNK(mode):
                target = os.path.realpath(full)
                is_allowed = target.startswith(str(root) + os.sep)
                if is_allowed and not os.path.isfile(target):
                    continue    # a linked folder is read where it lies

            if is_allowed and ascii_safe(path) == path:
                yield path
            else:
                refused.append(ascii_safe(path))


def is_skipped(folder, subfolder):
    """Whether a subfolder is hidden, is macOS's archive metadata or is one of our runs."""
    return subfolder.startswith((".", "__MACOSX")) or is_run(Path(folder, subfolder))


def is_run(folder):
    """Whether a folder is one of our runs, whose submission and pictures belong to no contest."""
    return all((folder / name).is_file() for name in FILES_OF_A_RUN)


def ascii_safe(path):
    """The path itself if it can be encoded, else its escaped form."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return ascii(path)
    return path


def kind_of(path, root):
    """The field of Files that a path belongs to, '' for none."""
    suffix = suffix_of(path)
    near_top = path.count("/") < TABLE_DEPTH
    if suffix in IMAGE_SUFFIXES:
        return "images"
    if suffix in FOREIGN_SUFFIXES:
        return "foreign"
    if suffix in (".csv", ".tsv") and near_top:
        return "tables"
    if suffix == ".json" and near_top and (root / path).stat().st_size <= LARGEST_MAP_BYTES:
        return "maps"
    if suffix:
        return "" if suffix in OTHER_SUFFIXES else "unread"

    # a file without a suffix is known by its first bytes
    head = first_bytes(root / path)
    if format_of(head):
        return "images"
    return "unread" if b"\0" in head else ""


def suffix_of(path):
    """The suffix in lower case, '' for none. The number of IM.0001 is none."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if re.fullmatch(r"\.\w*[^\W\d]\w*", suffix) else ""


def by_suffix(paths):
    """'5 .svg and 2 .psd files', the most frequent suffixes first."""
    counts = Counter(suffix_of(path) or "suffixless" for path in paths)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{n} {suffix}" for suffix, n in ordered[:3]]
    if len(ordered) > 3:
        words.append(f"{sum(n for _, n in ordered[3:])} other")
    noun = "file" if len(paths) == 1 else "files"
    return f"{listed(words)} {noun}"


def listed(words):
    """a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def report_unread(files, findings):
    """A warning for files that may be images of a kind that nothing here reads: those beside images
    or below a folder of a split, and DICOM beside images."""
    folders = {path.rpartition("/")[0] for path in files.images}
    dicom = [path for path in files.foreign if FOREIGN_SUFFIXES[suffix_of(path)] == "DICOM"]
    beside = [path for path in (*files.unread, *dicom) if path.rpartition("/")[0] in folders]
    below = [path for path in files.unread if files.split_of(path)]
    unread = sorted({*beside, *below})
    if unread:
        are = "is" if len(unread) == 1 else "are"
        them = "it" if len(unread) == 1 else "them"
        findings.warn(
            "unread_file",
            f"{by_suffix(unread)} beside the images {are} not read: convert {them} to PNG",
            unread,
        )


def normal(text):
    """The text in one Unicode form (NFC): file systems and tables often write it differently."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def without_suffix(name):
    """The name without its image suffix. Other dots belong to the name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def split_of(path, n_wrappers=0):
    """'train' or 'test' by the outermost folder with such a name below the first n_wrappers, else
    ''. A folder named after both says nothing."""
    return split_of_folder("/".join(path.split("/")[n_wrappers:-1]))


@functools.cache
def split_of_folder(folder):
    for part in folder.split("/"):
        splits = set(SPLIT_IN_A_NAME.findall(part.lower()))
        if len(splits) == 1:
            return splits.pop()
    return ""


def wrappers_of(images):
    """The number of leading folders that all images share, if both splits lie below them, as in
    training_data/train/.. and training_data/test/..; else 0."""
    if not images:
        return 0
    shared = posixpath.commonpath([path.rpartition("/")[0] for path in images])
    n = shared.count("/") + 1 if shared else 0
    splits = {split_of(path, n) for path in images}
    return n if {"train", "test"} <= splits else 0


# ---------------------------------------------------------------- ids -> files

def is_unsafe(sample_id):
    """Whether an id is a path that could leave the contest folder."""
    path = sample_id.replace("\\", "/")
    is_absolute = path.startswith("/") or re.match(r"[A-Za-z]:", path) is not None
    return is_absolute or ".." in path.split("/") or "\0" in path


def candidates(files, sample_id):
    """Paths that an id may mean, by the best kind of match only: the exact path, the name, the
    name plus a suffix, the stem."""
    if not sample_id or is_unsafe(sample_id):
        return []
    wanted = normal(sample_id.replace("\\", "/").removeprefix("./"))
    name = wanted.rsplit("/", 1)[-1]
    found = (files.by_name.get(name)
             or files.by_stem.get(name)
             or files.by_stem.get(without_suffix(name), []))
    if len(found) == 1 and "/" not in wanted:
        return found

    exact = [p for p in found if normal(p) == wanted]
    tail = "/" + without_suffix(wanted)
    inside = [p for p in found if ("/" + without_suffix(normal(p))).endswith(tail)]
    return exact or inside or found


@dataclass(frozen=True)
class Located:
    """One path per id ('' = none), and the ids without one, by reason."""

    paths: tuple[str, ...]
    missing: tuple[str, ...]
    refused: tuple[str, ...]
    ambiguous: tuple[str, ...]


def locate(files, ids, split, labels=None, taken=()):
    """The image file of each id of a train or test list, never one that is `taken`.

    Where names repeat, files in folders of the right split win, then files in a folder named after
    the row's label.
    """
    options = [[p for p in candidates(files, i) if p not in taken] for i in ids]
    n_found = sum(map(bool, options))
    n_here = sum(any(files.split_of(p) == split for p in found) for found in options)
    is_sorted = n_here > 0 and 2 * n_here >= n_found    # images lie in folders of their split
    refused_stems = {without_suffix(path.rsplit("/", 1)[-1]) for path in files.refused}

    paths = []
    missing = []
    refused = []
    ambiguous = []
    for row, (sample_id, found) in enumerate(zip(ids, options, strict=True)):
        if is_sorted:
            found = [p for p in found if files.split_of(p) == split]
        else:
            found = [p for p in found if files.split_of(p) in (split, "")] or found
        if len(found) > 1 and labels is not None:
            found = [p for p in found if labels[row] in p.split("/")[:-1]] or found

        paths.append(found[0] if len(found) == 1 else "")
        stem = without_suffix(sample_id.rsplit("/", 1)[-1])
        if is_unsafe(sample_id) or (not found and stem in refused_stems):
            refused.append(sample_id)
        elif not found:
            missing.append(sample_id)
        elif len(found) > 1:
            ambiguous.append(sample_id)
    return Located(tuple(paths), tuple(missing), tuple(refused), tuple(ambiguous))


def report_unlocated(files, located, where, consequence, findings):
    """A warning for each reason why ids have no file; an error if most ids fit several files."""
    if 2 * len(located.ambiguous) > len(located.paths):
        example = located.ambiguous[0]
        findings.fail(
            "ambiguous_id",
            f"each id of {where} must fit one image file, but {counted(located.ambiguous, 'id')} "
            f"fit several: {example!r} fits {first_few(candidates(files, example))}; leave one "
            "copy of the images in the contest folder",
        )
        return

    reasons = (
        ("missing_file", located.missing, "without an image file"),
        ("refused_path", located.refused,
         "that lead out of the contest folder, which is refused"),
        ("ambiguous_id", located.ambiguous, "that fit several image files"),
    )
    for kind, ids, what in reasons:
        if ids:
            findings.warn(kind, f"{where} has {counted(ids, 'id')} {what}: {consequence}", ids)
