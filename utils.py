"""What every part needs and no part owns: digests, named seeds, atomic stages, a lock, an event log, a timer.

Nothing here knows about images, classes or fits. A stage turns values into files under one key:

    stage = Stage.of(run_folder, "folds", version=1, settings={...}, inputs=[audit.key])
    run_stage(stage, lambda folder: (folder / "folds.csv").write_text(...))     # does nothing when it is complete
"""
import contextlib
import ctypes
import difflib
import hashlib
import importlib
import json
import os
import platform
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3     # of malloc.h


class UserError(Exception):
    """A bad argument or bad data: one sentence that says which value, what it must be, what was got, what to do. Exit 2."""


class RunError(Exception):
    """The run itself failed (non-finite losses, no memory, no disk). Exit 1."""


def nearest(name, names):
    """'; did you mean X?' for the closest of `names`, or '' when none is close."""
    match = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def import_extra(module, wanted_by):
    """An optional package; where it is missing, a sentence that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{wanted_by} needs the optional package {module.split('.')[-1]}, which is not installed: "
                        "pip install -r requirements-extras.txt") from None


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
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def seed_of(*names):
    """A 32-bit seed that is a function of names only: seed_of(42, "fit", "convnext", fold, epoch, index)."""
    return int.from_bytes(hashlib.sha256(canonical_json(names).encode()).digest()[:4], "little")


# ---------------------------------------------------------------- files

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
    write_atomic(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Stage:
    """A unit of work: its name, its key and the folder it will have. Complete if and only if that folder exists."""

    name: str
    key: str
    folder: Path

    @classmethod
    def of(cls, root, name, *, version, settings, inputs):
        """`settings`: the part of the configuration that is read; `inputs`: the keys of the stages that are read."""
        key = digest_json({"stage": name, "version": version, "settings": settings, "inputs": list(inputs)})
        return cls(name, key, Path(root) / f"{name}-{key}")

    @property
    def partial(self):
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def is_done(self):
        return self.folder.is_dir()


def run_stage(stage, build):
    """Call `build(partial folder)`, seal it with a manifest of sha256s, rename it. Complete stages return at once.

    A killed build is called again in the same partial folder and may go on from what it finds there.
    """
    if stage.is_done:
        return stage
    stage.partial.mkdir(parents=True, exist_ok=True)
    build(stage.partial)
    files = sorted(p for p in stage.partial.rglob("*") if p.is_file() and p.name != "manifest.json")
    write_json(stage.partial / "manifest.json", {
        "stage": stage.name, "key": stage.key,
        "sha256": {p.relative_to(stage.partial).as_posix(): digest_file(p) for p in files}})
    os.replace(stage.partial, stage.folder)
    return stage


def damaged_files(folder):
    """Names of a complete stage's files whose content is not what its manifest says."""
    digests = read_json(Path(folder) / "manifest.json")["sha256"]
    return [name for name, digest in digests.items()
            if not (Path(folder) / name).is_file() or digest_file(Path(folder) / name) != digest]


ORPHAN_SECONDS = 20


def is_alive(owner):
    """Whether the process that an owner file names may still run; one on another host may."""
    try:
        who = read_json(owner)
        if who["host"] == platform.node() and os.name != "nt":      # there os.kill(pid, 0) interrupts the process
            os.kill(who["pid"], 0)
        return True
    except (OSError, ValueError, KeyError):
        return False


@contextlib.contextmanager
def exclusive(folder):
    """Hold `folder` for this process; a second process is refused with the first one's pid and host.

    The lock is the operating system's, so that a killed process leaves nothing to clean up.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / ".lock"), folder / ".owner.json"
    try:
        # loading processes of a killed run hold its lock for the seconds in which they notice that it is gone
        lock.acquire(timeout=0 if is_alive(owner) else ORPHAN_SECONDS)
    except Timeout:
        try:
            who = "process {pid} on {host}".format(**read_json(owner))
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise UserError(f"the experiment folder {folder} must be used by one run at a time, and {who} is using it: "
                        "wait for it, or choose another --experiment_name") from None
    try:
        write_json(owner, {"pid": os.getpid(), "host": platform.node()})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def free_bytes(folder):
    """Free disk space where `folder` is or will be."""
    folder = Path(folder).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


# ---------------------------------------------------------------- log, clock, work in parallel

class EventLog:
    """Appends one JSON object a line to events.jsonl; `say` also prints the sentence for the person who waits.

    events: the kinds of which sentences are printed, None for all; also(event, values): called with each, for trackers.
    """

    def __init__(self, path, echo=True, events=None, also=lambda event, values: None):
        self.path, self.echo, self.events, self.also = Path(path), echo, events, also
        self.warnings = []

    def record(self, event, **values):
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **plain(values)}
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.also(event, plain(values))

    def say(self, text, event="note", **values):
        self.record(event, text=text, **values)
        if self.echo and (self.events is None or event in self.events):
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def warn(self, text):
        """Say a warning and keep it, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.say(f"warning: {text}", event="warning")


class Timer:
    """`with Timer() as t: ...` then `t.seconds`."""

    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.stop = time.perf_counter()

    @property
    def seconds(self):
        return getattr(self, "stop", time.perf_counter()) - self.start


def duration(seconds):
    """'45 s', '12 min', '3 h 05 min'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def progress(iterable=None, **kwargs):
    """A tqdm bar on standard error, silent where that is not a terminal (logs stay readable) or bars are hidden."""
    return tqdm(iterable, disable=Bars.hidden or None, leave=False, dynamic_ncols=True, **kwargs)


class Bars:
    """Whether this process draws bars: a terminal is the process's, like standard error."""

    hidden = False


@contextlib.contextmanager
def no_bars(hidden=True):
    """Hide all bars inside the block."""
    before, Bars.hidden = Bars.hidden, hidden
    try:
        yield
    finally:
        Bars.hidden = before


class Overall:
    """The bar below all others: how much of the whole is done, and the time left at the pace so far."""

    def __init__(self, description):
        self.bar = progress(total=0, desc=description, position=1, smoothing=0,
                            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left")

    @property
    def is_hidden(self):
        return self.bar.disable

    def plan(self, left):
        """`left` is still to be done, in the unit of `advance`."""
        self.bar.total = self.bar.n + left
        self.bar.refresh()

    def advance(self, done):
        self.bar.update(done)

    def close(self):
        self.bar.close()


def keep_freed_memory():
    """Let glibc keep large freed blocks: a training step on the CPU otherwise returns and faults in gigabytes a second."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, size_bytes in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, size_bytes)


def parallel_map(function, items, workers, description=""):
    """[function(item) for item in items] over `workers` threads, for work that releases the interpreter lock."""
    items = list(items)
    if workers <= 1 or len(items) < 2:
        return [function(item) for item in progress(items, desc=description)]
    with ThreadPoolExecutor(workers) as executor:
        return list(progress(executor.map(function, items), desc=description, total=len(items)))
