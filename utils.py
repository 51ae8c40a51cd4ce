"""Small helpers that know nothing of images, contests or fits: text, errors, digests, seeds, files.

    write_json(path, {"seed": seed_of(42, "fit", "convnext", 0)})
"""
import csv
import difflib
import errno
import hashlib
import importlib
import io
import json
import os
import re
import time
from dataclasses import asdict, is_dataclass
from pathlib import Path

import numpy as np

# ---------------------------------------------------------------- text

RUNS_IN_A_SPREADSHEET = re.compile(r"'*[=+\-@\t\r]")
# line breaks of every kind, control characters, marks of text direction, lone surrogates
UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e"
                         "\u2066-\u206f\ud800-\udfff]")
IS_NUMBER = re.compile(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?")


def quoted_cell(text):
    """A text as a cell of our csv files: a leading ' keeps spreadsheets from running a formula."""
    text = str(text)
    if RUNS_IN_A_SPREADSHEET.match(text) and not IS_NUMBER.fullmatch(text):
        return "'" + text
    return text


def unquoted_cell(text):
    """The text that `quoted_cell` was given."""
    if text.startswith("'") and RUNS_IN_A_SPREADSHEET.match(text):
        return text[1:]
    return text


def csv_rows(path):
    """[{column: text}] of a csv file that the program wrote."""
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def csv_text(rows, separator=","):
    """Rows as csv that reads back unchanged.

    A row that holds a carriage return is quoted whole, since csv.writer alone leaves it bare.
    """
    out = io.StringIO(newline="")
    layout = {"delimiter": separator, "lineterminator": "\n"}
    minimal = csv.writer(out, quoting=csv.QUOTE_MINIMAL, **layout)
    quoted = csv.writer(out, quoting=csv.QUOTE_ALL, **layout)
    for row in rows:
        has_return = any("\r" in str(cell) for cell in row)
        writer = quoted if has_return else minimal
        writer.writerow(row)
    return out.getvalue()


def printable(text):
    """The text in one line, with control characters escaped: names in a data set can neither rule
    a terminal nor forge a line."""
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


def json_text(value, **layout):
    """A value as JSON that is readable in any script, with the characters of `printable` escaped.
    """
    text = json.dumps(plain(value), ensure_ascii=False, **layout)
    # json escapes line breaks inside texts itself; those that are left lay it out
    return "\n".join(UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)
                     for line in text.split("\n"))


def first_line(error):
    """The first line of an error's text; its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def first_few(names, limit=3):
    """'a', 'b', 'c' and 5 more."""
    names = [str(name) for name in names]
    shown = ", ".join(repr(name) for name in names[:limit])
    if len(names) > limit:
        return f"{shown} and {len(names) - limit} more"
    return shown


def counted(names, noun):
    """3 ids ('a', 'b', 'c')."""
    if len(names) != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{len(names)} {noun} ({first_few(names)})"


def size_text(n_bytes):
    """'1.2 GB', '65 MB', '3 kB'."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}" if n_bytes < 10 * unit else (
                f"{n_bytes / unit:.0f} {name}")
    return f"{n_bytes / 1e3:.0f} kB"


# ---------------------------------------------------------------- errors

class UserError(Exception):
    """A bad argument or bad data. Exit status 2.

    Its sentences, one an argument, say which value, what it must be, what was got and what to do.
    """

    def __str__(self):
        return "\n".join(map(str, self.args))


class RunError(Exception):
    """The run itself failed (non-finite losses, no memory, no disk). Exit status 1."""


class NoRoom(RunError, MemoryError):
    """Even the smallest part of the work does not fit into memory.

    It may with more memory: see running/executor.py.
    """


def closest(name, names):
    """The shortest of `names` that begins with `name`, else the most alike; '' if none is close."""
    asked = str(name).lower()
    known = {str(n).lower(): str(n) for n in names}
    longer = sorted((n for n in known if asked and n.startswith(asked)), key=lambda n: (len(n), n))
    close = longer or difflib.get_close_matches(asked, known, n=1, cutoff=0.5)
    return known[close[0]] if close else ""


def nearest(name, names):
    """'; did you mean X?' for the `closest` of `names`, or '' when none is close."""
    close = closest(name, names)
    return f"; did you mean {close!r}?" if close else ""


def import_extra(module, wanted_by):
    """Import an optional package. If it is missing, a UserError says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[-1]
        raise UserError(
            f"{wanted_by} needs the optional package {package}, which is not installed: "
            "pip install -r requirements-extras.txt"
        ) from None


# ---------------------------------------------------------------- digests and seeds

def canonical_json(value):
    """One string for one value: keys sorted, no spaces, dataclasses as objects, NaN refused."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value):
    """A value as JSON knows it, from dataclasses, tuples, paths, numpy arrays and scalars."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return value


def digest_json(value):
    """First 12 hex digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def digest_bytes(data):
    return hashlib.sha256(data).hexdigest()


def digest_file(path):
    def digest():
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()

    return patiently(path, digest)


def seed_of(*names):
    """A 32-bit seed from names alone: seed_of(42, "fit", "convnext", fold, epoch, index)."""
    digest = hashlib.sha256(canonical_json(names).encode()).digest()
    return int.from_bytes(digest[:4], "little")


# ---------------------------------------------------------------- files

NETWORK_ERRORS = (
    errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH
)
NETWORK_PAUSES_SECONDS = (0.1, 1.0, 5.0)
# what a path itself explains: no file, no right to it, a device. Any other error of opening or
# reading a file is a fault of the machine, and a later start may read the file
OF_THE_PATH = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP,
)


def patiently(path, read):
    """read(), retried after pauses if a network file system fails. RunError if it keeps failing."""
    for pause_seconds in (*NETWORK_PAUSES_SECONDS, None):
        try:
            return read()
        except OSError as error:
            if error.errno not in NETWORK_ERRORS:
                # an error of reading, unlike one of opening, names no file
                error.filename = error.filename or str(path)
                raise
            if pause_seconds is None:
                waited_seconds = sum(NETWORK_PAUSES_SECONDS)
                raise RunError(
                    f"{path} could not be read ({error.strerror}), even after {waited_seconds:.0f} "
                    "seconds of retries: check the network drive, then run the same command again "
                    "to continue"
                ) from None
            time.sleep(pause_seconds)


def sync(path):
    """Return once a file's content is on the disk and would survive a power cut."""
    with open(path, "rb+") as f:
        os.fsync(f.fileno())


def write_atomic(path, data):
    """Write text or bytes so that `path` holds either the old content or the new, never a part.

    A name that is not UTF-8 is written as an escape, as `\\udcff`, which JSON reads back.
    """
    path = Path(path)
    if isinstance(data, str):
        data = data.encode(errors="backslashreplace")
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    replace_path(partial, path)


def replace_path(source, target):
    """Give a file or a folder the name `target`, in a way that would survive a power cut.

    Windows cannot open a folder, and some network drives cannot sync one.
    """
    os.replace(source, target)
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        folder = os.open(Path(target).parent, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:      # one that may be written into, but not listed
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)


def write_json(path, value):
    write_atomic(path, json_text(value, indent=1, allow_nan=False) + "\n")


def read_json(path):
    """The value of a JSON file. ValueError if it holds none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
