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
import urllib.parse
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from contest import decoding
from contest.decoding import first_bytes, format_of, open_at_once
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
    ".txt", ".log", ".xls", ".xlsx", ".ods", ".doc", ".docx", ".odt", ".ppt", ".pptx",
    ".md", ".rst", ".tex", ".bib", ".rtf", ".html", ".htm", ".css", ".js", ".py", ".pyc", ".ipynb",
    ".sh", ".bat", ".r", ".m", ".c", ".h", ".cpp", ".java", ".url", ".lnk", ".db", ".sqlite",
    ".aae", ".md5", ".sha1", ".sha256", ".lock", ".names", ".data", ".pkl", ".pt", ".pth", ".onnx",
    ".safetensors", ".ckpt"})
# begin as TIFF or JPEG files do, and hold another picture than Pillow would read
CAMERA_SUFFIXES = frozenset({
    ".dng", ".cr2", ".nef", ".nrw", ".arw", ".sr2", ".srw", ".orf", ".rw2", ".pef", ".raf", ".thm",
    ".svs", ".ndpi", ".scn", ".lif", ".czi"})
LARGEST_MAP_BYTES = 2**20
# texts that are no table, though commas may make them look like one
TEXTS_ABOUT = frozenset(("readme", "read_me", "license", "licence", "copying", "changelog",
                         "citation", "notice", "authors", "requirements"))
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".psv", ".txt")
# archives, and the module of Python that unpacks them
PACKED = {".zip": "zipfile", ".tar": "tarfile", ".tgz": "tarfile", ".gz": "tarfile",
          ".bz2": "tarfile", ".xz": "tarfile"}
MAP_SUFFIXES = (".json", ".jsonl", ".ndjson")
# tables that are no text, and the package that reads them
SHEET_SUFFIXES = {".parquet": "pyarrow", ".xlsx": "openpyxl", ".xlsm": "openpyxl"}
# may hold labels and are not read
CLOSED_SUFFIXES = (".xls", ".ods", ".feather", ".pkl", ".pickle", ".mat", ".xml", ".arff",
                   ".sqlite", ".sqlite3", ".db", ".dat", ".lst", ".list", ".yaml", ".yml", ".rds",
                   ".sav", ".dta")
# a table that was packed or set aside: train.csv.gz, labels.csv.bak
PACKED_TABLE = re.compile(r"\.(?:csv|tsv|txt|jsonl?|xlsx?|parquet)\.\w+$")
TABLE_DEPTH = 2     # with many tables only those in the folder and its direct subfolders are read
MOST_DEEP_TABLES = 30

# train, test, training_data, "test images", testset 2, ...
SPLIT_IN_A_NAME = re.compile(
    r"(?:^|[_\- ])(train|test)(?:ing|val)?(?:set|data|images?)?(?=$|[_\- \d])")
THUMBNAIL_WORDS = frozenset(("thumb", "thumbs", "thumbnail", "thumbnails", "preview", "previews"))
# folders of pictures that belong to other images, and of those images
AUXILIARY_WORDS = frozenset((
    "mask", "masks", "seg", "segmentation", "segmentations", "annotation", "annotations", "trimaps",
    "groundtruth", "gt", "label", "labels", "overlay", "overlays", "heatmap", "heatmaps",
    *THUMBNAIL_WORDS))
ORIGINAL_WORDS = frozenset((
    "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pics", "rgb",
    "original", "originals", "raw", "data", "input", "inputs", "scans", "jpg", "jpeg", "png",
    "train", "training", "test", "testing", "val", "valid", "validation"))
AUXILIARY_STEM = re.compile(
    r"(.*?)[ _\-]+(?:mask|seg|segmentation|gt|overlay|thumb|thumbnail)(?:[ _\-]?\d+)?")
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
    closed: tuple[str, ...]     # may hold labels: sheets, and kinds that nothing here reads
    refused: tuple[str, ...]    # links that lead outside, FIFOs, devices
    closed_folders: tuple[str, ...]     # without permission to list or to open what is in them
    undecodable: tuple[str, ...]    # whose names are not UTF-8
    foreign: tuple[str, ...]    # formats that must be converted first
    unread: tuple[str, ...]     # of kinds that nothing here reads
    others: tuple[str, ...]     # of kinds that are no images
    aside: tuple[str, ...]      # masks and thumbnails of other images, which are no images
    by_name: dict
    by_stem: dict
    n_wrappers: int = 0         # leading folders that say nothing about an image: `wrappers_of`

    @functools.cached_property
    def folder_names(self):
        """The names of all folders that hold images, at any depth."""
        return {normal(part) for path in self.images for part in path.split("/")[:-1]}

    @functools.cached_property
    def aside_set(self):
        return frozenset(self.aside)

    def split_of(self, path):
        """'train' or 'test' by the outermost folder with such a name (train_images, Test,
        stage1_test, ...), else ''."""
        return split_of(path, self.n_wrappers)


def scan_folder(folder):
    """The Files of a contest folder. UserError if there is no folder or nothing usable in it."""
    root = Path(folder).expanduser()
    try:
        if not stat.S_ISDIR(os.stat(root).st_mode):
            if root.suffix.lower() in PACKED:
                refuse_folder(folder, "is an archive", "unpack it (python -m "
                              f"{PACKED[root.suffix.lower()]} -e FILE DIR), then name DIR")
            refuse_folder(folder, "is a file")
    except (FileNotFoundError, NotADirectoryError):
        refuse_folder(folder, "does not exist")
    except OSError as error:      # any fault here is the folder's or its disk's, and is said
        refuse_folder(folder, f"cannot be opened ({error.strerror})")
    root = root.resolve()

    found = {"images": [], "tables": [], "maps": [], "closed": [], "refused": [],
             "closed_folders": [], "foreign": [], "unread": [], "others": []}
    undecodable = []
    for path in walk(root, found["refused"], found["closed_folders"]):
        if ascii_safe(path) == path:
            found[kind_of(path, root)].append(path)
        else:
            undecodable.append(path)
    if "." in found["closed_folders"]:
        refuse_folder(folder, "may not be read (no permission)", "give yourself access to it")
    if not undecodable and not any(
            paths for kind, paths in found.items() if kind not in ("unread", "others")):
        others = f" ({by_suffix(found['unread'])})" if found["unread"] else ""
        refuse_folder(folder, f"holds neither tables nor images{others}")
    deep = [path for path in found["tables"] if not is_near_top(path)]
    if len(deep) > MOST_DEEP_TABLES:
        found["tables"] = [path for path in found["tables"] if is_near_top(path)]
    aside = images_aside(found["images"])
    found = {kind: tuple(sorted(paths)) for kind, paths in found.items()}

    by_name = defaultdict(list)
    by_stem = defaultdict(list)
    for path in found["images"]:
        name = normal(path.rsplit("/", 1)[-1]).strip()
        by_name[name].append(path)
        by_stem[without_suffix(name).strip()].append(path)
    found["images"] = tuple(path for path in found["images"] if path not in aside)
    return Files(root=root, **found, aside=tuple(sorted(aside)), by_name=dict(by_name),
                 by_stem=dict(by_stem), n_wrappers=wrappers_of(found["images"]),
                 undecodable=tuple(sorted(undecodable)))


def images_aside(images):
    """The images that belong to others: those in masks/ beside images/, or in a folder of
    thumbnails, that repeat most of their names, and 7_mask.png beside 7.png."""
    stems = {normal(without_suffix(path)) for path in images}
    inside = defaultdict(set)       # folder -> names of its folders
    below = defaultdict(list)       # auxiliary folder -> its images
    aside = set()
    for path in images:
        parts = path.split("/")
        for depth, part in enumerate(parts[:-1]):
            inside["/".join(parts[:depth])].add(part)
        at = [depth for depth, part in enumerate(parts[:-1], start=1) if is_auxiliary(part)]
        if at:
            below["/".join(parts[:at[-1]])].append(path)
        original = AUXILIARY_STEM.fullmatch(normal(without_suffix(path)))
        if original and original[1] in stems:
            aside.add(path)

    holders = {path.rpartition("/")[0] for path in images}
    for folder, paths in below.items():
        above, _, name = folder.rpartition("/")
        if above in holders and not THUMBNAIL_WORDS.isdisjoint(words_of(name)):
            aside.update(paths)
        originals = [above, *(f"{above}/{other}" for other in inside[above] if is_original(other))]
        tails = [without_suffix(normal(path[len(folder) + 1:])) for path in paths]
        tails = [(tail, (AUXILIARY_STEM.fullmatch(tail) or ("", tail))[1]) for tail in tails]
        n_repeated = sum(any(f"{place}/{name}".lstrip("/") in stems
                             for place in originals for name in names) for names in tails)
        if 2 * n_repeated >= len(paths):
            aside.update(paths)
    return aside


def words_of(name):
    return [word for word in re.split(r"[_\-. \d]+", name.lower()) if word]


def is_auxiliary(folder):
    """Whether a folder's name says that it holds masks or thumbnails."""
    return not AUXILIARY_WORDS.isdisjoint(words_of(folder))


def is_original(folder):
    """Whether a folder's name says no more than that it holds images."""
    words = words_of(folder)
    return bool(words) and ORIGINAL_WORDS.issuperset(words)


def path_inside(path, folder):
    """A path relative to a folder, '/'-separated on every system."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


def refuse_folder(folder, why, advice="check the path"):
    raise UserError(
        "--data_path must be a contest folder (a label table and its images, or train/<class>/ "
        f"with images), but {str(folder)!r} {why}: {advice}"
    )


def walk(root, refused, closed_folders):
    """Yields the relative paths of all regular files under root.

    A link to a folder inside root is followed: its files have the link's path, and not also the
    one where they lie. Paths that must not be opened are appended to `refused`, folders without
    access to `closed_folders`.
    """
    links = linked_folders(root, refused)
    aliased = [str(target) + os.sep for target in links.values()]
    for folder in [root, *links]:
        for full in files_below(folder, root, closed_folders):
            real = os.path.realpath(full) if os.path.islink(full) else full
            path = path_inside(full, root)
            if folder == root and real.startswith(tuple(aliased)):
                continue    # read under its link
            is_allowed = os.path.isfile(real) and stat.S_ISREG(os.stat(real).st_mode)
            is_inside = real.startswith(str(root) + os.sep)
            if is_allowed and is_inside:
                yield path
            else:
                refused.append(ascii_safe(path))


def linked_folders(root, refused):
    """{link: the folder inside root that it leads to}. Others are appended to `refused`.

    A link to a folder that holds the link, or that another link reads, is no folder of images.
    """
    links = {}
    for folder, subfolders, _ in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if not is_skipped(folder, s))
        for name in subfolders:
            link = Path(folder, name)
            if not os.path.islink(link):    # False without access, where Path's raises
                continue
            target = Path(os.path.realpath(link))
            is_inside = root in target.parents and target not in link.parents
            if is_inside and target.parent == link.parent != root:
                continue    # another name of a folder beside it
            if is_inside and target not in links.values():
                links[link] = target
            else:
                refused.append(ascii_safe(link.relative_to(root).as_posix()))
    return links


def files_below(folder, root, closed_folders):
    """Yields the full paths of everything below a folder that is no folder.

    Folders without access are appended to `closed_folders`. Any other fault raises OSError.
    """
    def close(error):
        if isinstance(error, PermissionError):
            closed_folders.append(ascii_safe(path_inside(error.filename, root)))
        elif not isinstance(error, FileNotFoundError):      # it was removed meanwhile
            raise error

    for parent, subfolders, names in os.walk(folder, onerror=close):
        if not may_enter(parent):
            closed_folders.append(ascii_safe(path_inside(parent, root)))
            subfolders.clear()
            continue
        subfolders[:] = sorted(s for s in subfolders if not is_skipped(parent, s))
        for name in sorted(names):
            if not name.startswith(".") and name not in SYSTEM_FILES:
                yield os.path.join(parent, name)


def may_enter(folder):
    """Whether what a folder lists may also be opened."""
    try:
        os.stat(os.path.join(folder, "."))
    except PermissionError:
        return False
    except OSError:      # whoever opens its files says so
        return True
    return True


# thumbnails and metadata that systems leave behind
SYSTEM_FILES = ("Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "Icon\r")
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information",
                  "lost+found", "__pycache__", "node_modules")


def is_skipped(folder, subfolder):
    """Whether a subfolder is hidden, is the system's own, is one of our runs, or holds the files
    that the links in snapshots/ beside it lead to."""
    if subfolder == "blobs" and Path(folder, "snapshots").is_dir():
        return True
    return subfolder.startswith((".", *SYSTEM_FOLDERS)) or is_run(Path(folder, subfolder))


def is_run(folder):
    """Whether a folder is one of our runs, whose submission and pictures belong to no contest; a
    part of a run too."""
    try:
        return ((folder / FILES_OF_A_RUN[0]).is_file()
                or all((folder / name).is_file() for name in FILES_OF_A_RUN[1:]))
    except OSError:      # it cannot be entered: whoever walks it says so
        return False


def ascii_safe(path):
    """The path itself if it can be encoded, else its escaped form."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return ascii(path)
    return path


def kind_of(path, root):
    """The field of Files that a path belongs to."""
    suffix = suffix_of(path)
    if suffix in IMAGE_SUFFIXES:
        return "images"
    if PACKED_TABLE.search(path.lower()) and suffix not in TABLE_SUFFIXES:
        return "closed" if is_near_top(path) else "others"
    if suffix in SHEET_SUFFIXES and is_near_top(path):
        return "closed"
    if suffix in FOREIGN_SUFFIXES:
        return "foreign"
    if suffix == ".txt" and path.rpartition("/")[2][:-4].lower() in TEXTS_ABOUT:
        return "others"
    if suffix in TABLE_SUFFIXES and (suffix != ".txt" or is_near_top(path)):
        return "tables"
    if suffix in MAP_SUFFIXES and is_near_top(path):
        return "maps" if (root / path).stat().st_size <= LARGEST_MAP_BYTES else "closed"
    if suffix in CLOSED_SUFFIXES and is_near_top(path):
        return "closed"
    if suffix in OTHER_SUFFIXES:
        return "others"

    # a file whose suffix says nothing is known by its first bytes
    try:
        open_at_once(root / path).close()
    except PermissionError:
        return "refused"
    head = first_bytes(root / path)
    if format_of(head) and suffix not in CAMERA_SUFFIXES:
        return "images"
    return "unread" if suffix or b"\0" in head else "others"


def is_near_top(path):
    """Whether a path lies in the contest folder itself or in a direct subfolder."""
    return path.count("/") < TABLE_DEPTH


def suffix_of(path):
    """The suffix in lower case, '' for none. The number of IM.0001 is none."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if re.fullmatch(r"\.\w*[^\W\d]\w*", suffix) else ""


def report_undecodable(files, findings):
    """A warning for a few images whose names are not UTF-8, which no table or result could name; an
    error for a folder or a table of such a name, or for a tenth of the images."""
    if not files.undecodable:
        return
    is_image = [suffix_of(path) in IMAGE_SUFFIXES for path in files.undecodable]
    folders = [path.rpartition("/")[0] for path in files.undecodable]
    has_folder = any(ascii_safe(folder) != folder for folder in folders)
    has_table = any(suffix_of(path) in TABLE_SUFFIXES for path in files.undecodable)
    are_many = 10 * sum(is_image) > len(files.images) + sum(is_image)
    name = os.fsencode(files.undecodable[0])
    encoding = "cp949" if is_cp949(name) else "latin-1"
    n = len(files.undecodable)
    them = f"{n} files have names" if n > 1 else "1 file has a name"
    them += " not in UTF-8"
    example = f"{name!r}, {name.decode(encoding)!r} in {encoding}"
    rename = f"rename them, as `convmv -f {encoding} -t utf-8 -r --notest DIR` does"
    if has_folder or has_table or are_many:
        findings.fail("undecodable_name",
                      f"{them} ({example}), which no table or result could hold: {rename}")
    else:
        findings.warn("undecodable_name", f"{them} ({example}): left out; {rename}",
                      [ascii_safe(path) for path in files.undecodable])


def is_cp949(data):
    """Whether bytes are Korean text in CP949, rather than letters with accents in Latin-1."""
    try:
        return re.search("[가-힣]", data.decode("cp949")) is not None
    except UnicodeDecodeError:
        return False


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


def may_hold_images(files, folder):
    """Whether a folder lies where this contest has its images: in a split, beside the folders of
    its classes, or beside other images."""
    if files.split_of(f"{folder}/name"):
        return True
    above = folder.rpartition("/")[0]
    if folder.count("/") > files.n_wrappers:
        return any(path.startswith(f"{above}/") for path in files.images)
    return not any(files.split_of(path) for path in files.images)


def report_packed(files, findings, are_classes):
    """A word on each zip of images that the folder lacks. An error if they may be of a class:
    are_classes says whether the classes are folders."""
    for path in files.foreign:
        packed = images_in(files.root / path) if suffix_of(path) == ".zip" else []
        lacking = [name for name in packed if normal(posixpath.basename(name)) not in files.by_name]
        if not lacking:
            continue
        stem = posixpath.splitext(path)[0]
        inside = {split_of(f"{stem}/"), *(split_of(f"{stem}/{name}") for name in lacking)}
        say = findings.fail if are_classes and inside != {"test"} else findings.warn
        say("packed", f"{path!r} holds {counted(lacking, 'image')} that the contest folder lacks: "
            "unpack it there, or move it away if they do not belong to the contest", lacking)


def images_in(path):
    """The names of the images in a zip, [] if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
    # whatever is wrong with it, it names no image; if the disk fails, the images will tell
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []
    return [name for name in names
            if suffix_of(name) in IMAGE_SUFFIXES and not name.startswith(SYSTEM_FOLDERS)
            and not posixpath.basename(name).startswith(".")]


def report_heic(files, findings):
    """A warning for HEIC photos where no package reads them."""
    photos = [path for path in files.images if suffix_of(path) in (".heic", ".heif")]
    if photos and "HEIF" not in decoding.IMAGE_FORMATS:
        them = "it" if len(photos) == 1 else "them"
        findings.warn("heic", f"{counted(photos, 'HEIC photo')} cannot be read without "
                      "pillow-heif: pip install -r requirements-extras.txt -c constraints.txt, or "
                      f"convert {them} to JPEG", photos)


def report_unread(files, findings):
    """A warning for files that may be images of a kind that nothing here reads: those beside images
    or below a folder of a split, and DICOM, npy and the like beside images."""
    folders = {path.rpartition("/")[0] for path in files.images}
    foreign = [path for path in files.foreign if "/" in path]     # not train.zip beside train/
    beside = [path for path in (*files.unread, *foreign) if path.rpartition("/")[0] in folders]
    below = [path for path in files.unread if files.split_of(path)]
    unread = sorted({*beside, *below})
    if unread:
        are = "is" if len(unread) == 1 else "are"
        them = "it" if len(unread) == 1 else "them"
        they = "it is a picture" if len(unread) == 1 else "they are pictures"
        findings.warn(
            "unread_file",
            f"{by_suffix(unread)} beside the images {are} not read: convert {them} to PNG if "
            f"{they}",
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
    """The number of leading folders that all images share and that say nothing, else 0.

    They say nothing where splits lie below them: training_data/train/.., test_project/train/...
    Nor does the name of a project, as test_project/<class>/, where there are no other images.
    Images outside of folders named like a split, as assets/logo.png, do not count.
    """
    in_folders = [path for path in images if "/" in path]
    images = [path for path in images if split_of(path)]
    if not images:
        return 0
    shared = posixpath.commonpath([path.rpartition("/")[0] for path in images])
    folders = shared.split("/") if shared else []
    for n in range(len(folders), 0, -1):
        splits = {split_of(path, n) for path in images} - {""}
        if splits == {"test"} and not any(split_of(path, len(folders)) for path in images):
            break       # the shared folders alone say so
        if splits:
            return n
    named = [n for n, folder in enumerate(folders, start=1) if split_of(f"{folder}/") == "test"]
    is_project = bool(named) and not all(
        SPLIT_IN_A_NAME.fullmatch(folders[n - 1].lower()) for n in named)
    return named[-1] if is_project and len(images) == len(in_folders) else 0


# ---------------------------------------------------------------- ids -> files

@dataclass(frozen=True)
class Naming:
    """How the ids of a table name image files.

    cut: leading folders that all its ids share and that the contest folder lacks. below: the last
    of them, if folders of the contest have that name: the images lie below one. folder: of the
    table, whose images lie below it. digits: whole numbers have lost their leading zeros.
    is_exact: a suffix counts, as images lie beside others of their stems.
    """

    cut: int = 0
    folder: str = ""
    digits: int = 0
    below: str = ""
    is_exact: bool = False

    def describe(self):
        """How ids were read, '' if as they are."""
        if self.digits:
            return f" as numbers, with zeros added to {self.digits} digits"
        return f" without their first {self.cut} folder(s)" if self.cut else ""

    def wanted(self, sample_id):
        """The id as a path below the contest folder; '' if it could lead out of it."""
        parts = path_parts(sample_id)[self.cut:]
        if self.cut == 0 and is_unsafe(sample_id):
            return ""
        if not parts or ".." in parts or "\0" in sample_id:
            return ""
        if self.digits:
            number = re.fullmatch(r"(\d+)(?:\.0)?", parts[-1])
            parts[-1] = number[1].zfill(self.digits) if number else parts[-1]
        return normal("/".join(parts))


PLAIN = Naming()


def path_parts(sample_id):
    """The folders and the name of an id that is a path of any system."""
    path = sample_id.replace("\\", "/").removeprefix("./")
    if "://" in path:
        path = urllib.parse.unquote(re.split("[?#]", path)[0])
    return [part for part in path.split("/") if part not in ("", ".")]


def is_unsafe(sample_id):
    """Whether an id is a path that could leave the contest folder."""
    path = sample_id.replace("\\", "/")
    is_absolute = path.startswith("/") or re.match(r"[A-Za-z]:", path) is not None
    return is_absolute or ".." in path.split("/") or "\0" in path


def naming_of(files, ids, folder=""):
    """The Naming by which most of a table's ids name image files; the plainest of several."""
    ids = [sample_id for sample_id in dict.fromkeys(ids) if sample_id]
    if folder and not any(path.startswith(f"{folder}/") for path in files.images):
        folder = ""
    shared = shared_folders(ids)
    options = [Naming(folder=folder)]
    for n, name in enumerate(shared, start=1):
        below = normal(name) if normal(name) in files.folder_names else ""
        options.append(Naming(cut=n, folder=folder, below=below))
    if all(re.fullmatch(r"\d+(?:\.0)?", sample_id) for sample_id in ids):
        lengths = {len(stem) for stem in files.by_stem if stem.isdigit() and stem.startswith("0")}
        options += [Naming(folder=folder, digits=n) for n in sorted(lengths)]

    if repeat_stems(files, ids):
        options = [replace(naming, is_exact=True) for naming in options]

    def n_found(naming):
        return sum(bool(candidates(files, sample_id, naming)) for sample_id in ids)

    return max(options, key=n_found) if len(options) > 1 else options[0]


def repeat_stems(files, ids):
    """Whether most images that ids name with their suffixes have others of their stems beside them:
    7.jpg and its mask 7.png."""
    n_beside = 0
    n_named = 0
    for sample_id in ids:
        parts = path_parts(sample_id)
        name = normal(parts[-1]) if parts else ""
        for path in files.by_name.get(name, ()) if name != without_suffix(name) else ():
            folder = path.rpartition("/")[0]
            alike = files.by_stem[without_suffix(name).strip()]
            n_named += 1
            n_beside += sum(other.rpartition("/")[0] == folder for other in alike) > 1
    return 2 * n_beside > n_named


def shared_folders(ids):
    """The leading folders that all ids share."""
    folders = [path_parts(sample_id)[:-1] for sample_id in ids]
    return os.path.commonprefix(folders) if folders else []     # noqa: RUF071 (lists are meant)


def candidates(files, sample_id, naming=PLAIN):
    """Paths that an id may mean.

    A path means the file at that place, or below some folder; never one of the same name elsewhere.
    A bare name means any file of that name, first one below the table's own folder; no mask or
    thumbnail of another image.
    """
    wanted = naming.wanted(sample_id) if sample_id else ""
    if not wanted:
        return []
    name = wanted.rsplit("/", 1)[-1]
    found = []
    for known, key in ((files.by_name, name), (files.by_stem, name),
                       (files.by_stem, without_suffix(name))):
        is_cut_off = naming.is_exact and key != name
        if not found and not is_cut_off:
            found = [p for p in known.get(key, ()) if "/" in wanted or p not in files.aside_set]
    if naming.below:
        found = [p for p in found if naming.below in normal(p).split("/")[:-1]]
    own = [p for p in found if naming.folder and p.startswith(f"{naming.folder}/")]
    if "/" not in wanted:
        found = own or found
        if naming.cut:
            found = [p for p in found if not any(map(is_auxiliary, p.split("/")[:-1]))]
        return found

    def lies_at(path, tail):
        path = normal(path)
        return path == tail or without_suffix(path) == without_suffix(tail)

    exact = [p for p in found if lies_at(p, wanted) or lies_at(p, f"{naming.folder}/{wanted}")]
    tail = "/" + without_suffix(wanted)
    return exact or [p for p in found if without_suffix(normal(p)).endswith(tail)]


@dataclass(frozen=True)
class Located:
    """One path per id ('' = none), and the ids without one, by reason.

    elsewhere: paths of files in a folder of the other split.
    """

    paths: tuple[str, ...]
    missing: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


def locate(files, ids, split, labels=None, taken=(), naming=PLAIN):
    """The image file of each id of a train or test list, never one that is `taken`.

    An id that is a path decides by itself. Where names repeat, files in folders of the right split
    win, then files in a folder named after the row's label.
    """
    options = [[p for p in candidates(files, i, naming) if p not in taken] for i in ids]
    other = "test" if split == "train" else "train"
    n_found = sum(map(bool, options))
    n_here = sum(any(files.split_of(p) == split for p in found) for found in options)
    is_sorted = n_here > 0 and 2 * n_here >= n_found    # images lie in folders of their split
    # names that no two folders of images share: an image of val/ belongs to the table of train/
    anywhere = replace(naming, folder="")
    are_unique = split == "train" and all(
        len({files.split_of(p) for p in candidates(files, i, anywhere)} - {other}) < 2 for i in ids)
    refused_stems = {without_suffix(path.rsplit("/", 1)[-1]) for path in files.refused}

    paths = []
    reasons = {"missing": [], "refused": [], "ambiguous": [], "elsewhere": []}
    for row, (sample_id, found) in enumerate(zip(ids, options, strict=True)):
        is_path = "/" in naming.wanted(sample_id)
        anywhere = found
        if is_path:
            found = [p for p in found if files.split_of(p) != other]
        elif is_sorted:
            here = [p for p in found if files.split_of(p) == split]
            beside = [p for p in found if files.split_of(p) != other]
            found = beside if are_unique else here
        else:
            found = [p for p in found if files.split_of(p) in (split, "")] or found
        if len(found) > 1 and labels is not None:
            label = normal(labels[row])
            found = [p for p in found if label in normal(p).split("/")[:-1]] or found

        paths.append(found[0] if len(found) == 1 else "")
        if len(found) == 1:
            continue
        stem = without_suffix(sample_id.rsplit("/", 1)[-1])
        if found:
            reason = "ambiguous"
        elif not naming.wanted(sample_id) or stem in refused_stems:
            reason = "refused"
        else:
            reason = "elsewhere" if anywhere and is_path else "missing"
        reasons[reason].append(sample_id)
    return Located(tuple(paths), **{reason: tuple(found) for reason, found in reasons.items()})


def report_unlocated(files, located, where, consequence, findings, naming=PLAIN, noun="id"):
    """A warning for each reason why ids have no file; an error if most ids fit several files.

    noun: what they are, "file" where an id has several.
    """
    if 2 * len(located.ambiguous) > len(located.paths):
        example = located.ambiguous[0]
        findings.fail(
            "ambiguous_id",
            f"each {noun} of {where} must fit one image file, but "
            f"{counted(located.ambiguous, noun)} "
            f"fit several: {example!r} fits {first_few(candidates(files, example, naming))}; "
            "leave one copy of the images in the contest folder",
        )
        return

    reasons = (
        ("missing_file", located.missing,
         "without an image file" if noun == "id" else "not in the contest folder"),
        ("refused_path", located.refused,
         "that lead out of the contest folder, which is refused"),
        ("ambiguous_id", located.ambiguous, "that fit several image files"),
        ("other_split", located.elsewhere, "whose image files lie in a folder of the other split"),
    )
    for kind, ids, what in reasons:
        if ids:
            findings.warn(kind, f"{where} has {counted(ids, noun)} {what}: {consequence}", ids)
