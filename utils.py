"""Small helpers that know nothing of images, contests or fits: errors, digests, seeds, files, text.

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

RUNS_IN_A_SPREADSHEET = re.compile(r"'*[=+\-@\t\r]")
IS_NUMBER = re.compile(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?")


def quoted_cell(text):
    """A cell of our csv files for people: begun by ' where a spreadsheet would run it as a formula.
    """
    text = str(text)
    return "'" + text if RUNS_IN_A_SPREADSHEET.match(text) and not IS_NUMBER.fullmatch(
        text) else text


def unquoted_cell(text):
    """The text that `quoted_cell` made a cell of."""
    return text[1:] if text.startswith("'") and RUNS_IN_A_SPREADSHEET.match(text) else text


def csv_text(rows, separator=","):
    """Rows as csv whose cells are read back as they are: of themselves, writers leave a carriage
    return without quotes."""
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


class UserError(Exception):
    """A bad argument or bad data: one sentence that says which value, what it must be, what was
    got, what to do. Exit 2."""


class RunError(Exception):
    """The run itself failed (non-finite losses, no memory, no disk). Exit 1."""


class NoRoom(RunError, MemoryError):
    """Not even the smallest part of the work fits into memory; with more of it, it may (see
    executor.py)."""


def nearest(name, names):
    """'; did you mean X?' for the closest of `names`, or '' when none is close."""
    match = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def import_extra(module, wanted_by):
    """An optional package; where it is missing, a sentence that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"{wanted_by} needs the optional package {module.split('.')[-1]}, which is not installed: "
            "pip install -r requirements-extras.txt"
        ) from None


# ---------------------------------------------------------------- digests and seeds

def canonical_json(value):
    """One string for one value: keys sorted, no spaces, dataclasses as objects, NaN refused."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value):
    """Dataclasses, tuples, paths and numpy scalars as what JSON knows."""
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
    return str(value) if isinstance(value, Path) else value


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
    """A 32-bit seed that is a function of names only: seed_of(42, "fit", "convnext", fold, epoch,
    index)."""
    return int.from_bytes(hashlib.sha256(canonical_json(names).encode()).digest()[:4], "little")


# ---------------------------------------------------------------- files

NETWORK_ERRORS = (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN,
                  errno.EHOSTUNREACH)
NETWORK_PAUSES_SECONDS = (0.1, 1.0, 5.0)


def patiently(path, read):
    """read(), tried again after a pause where a network file system has lost its handle; RunError
    where it stays lost."""
    for pause_seconds in (*NETWORK_PAUSES_SECONDS, None):
        try:
            return read()
        except OSError as error:
            if error.errno not in NETWORK_ERRORS:
                raise
            if pause_seconds is None:
                raise RunError(
                    f"{path} could not be read ({error.strerror}), and not after {sum(NETWORK_PAUSES_SECONDS):.0f} "
                    "seconds either: check the network drive, then run the same command again to continue"
                ) from None
            time.sleep(pause_seconds)


def sync(path):
    """Return when a file's content is on the disk and would survive a power cut."""
    with open(path, "rb+") as f:
        os.fsync(f.fileno())


def write_atomic(path, data):
    """Write text or bytes so that `path` holds either the old content or the new, never a part."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(partial, path)


def write_json(path, value):
    write_atomic(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
                 + "\n")


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))
