"""What every part needs and no part owns: digests, named seeds, atomic stages, a lock, signals, an event log, a timer.

Nothing here knows about images, classes or fits. A stage turns values into files under one key:

    stage = Stage.of(run_folder, "folds", version=1, settings={...}, inputs=[audit.key])
    run_stage(stage, lambda folder: (folder / "folds.csv").write_text(...))     # does nothing when it is complete
"""
import contextlib
import ctypes
import difflib
import errno
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path

import joblib
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
PR_SET_PDEATHSIG = 1     # of linux/prctl.h


class UserError(Exception):
    """A bad argument or bad data: one sentence that says which value, what it must be, what was got, what to do. Exit 2."""


class RunError(Exception):
    """The run itself failed (non-finite losses, no memory, no disk). Exit 1."""


class NoRoom(RunError, MemoryError):
    """Not even the smallest part of the work fits into memory; with more of it, it may (see executor.py)."""


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
    def digest():
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()

    return patiently(path, digest)


def seed_of(*names):
    """A 32-bit seed that is a function of names only: seed_of(42, "fit", "convnext", fold, epoch, index)."""
    return int.from_bytes(hashlib.sha256(canonical_json(names).encode()).digest()[:4], "little")


# ---------------------------------------------------------------- files

NETWORK_ERRORS = (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH)
NETWORK_PAUSES_SECONDS = (0.1, 1.0, 5.0)


def patiently(path, read):
    """read(), tried again after a pause where a network file system has lost its handle; RunError where it stays lost."""
    for pause_seconds in (*NETWORK_PAUSES_SECONDS, None):
        try:
            return read()
        except OSError as error:
            if error.errno not in NETWORK_ERRORS:
                raise
            if pause_seconds is None:
                raise RunError(f"{path} could not be read ({error.strerror}), and not after {sum(NETWORK_PAUSES_SECONDS):.0f} "
                               "seconds either: check the network drive, then run the same command again to continue") from None
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


MANIFEST = "manifest.json"
SCRATCH = ".scratch"      # how files end that a stage needs only until it is complete
BEGUN = ".partial"        # and those that `write_atomic` was killed in


def run_stage(stage, build, changed=lambda names: None):
    """Call `build(partial folder)`, seal it with a manifest of sha256s, rename it. Complete stages return at once.

    A killed build is called again in the same partial folder and may go on from what it finds there. A complete stage whose
    files are not those of its manifest is made again, after changed(their names).
    """
    drop_if_changed(stage, changed)
    if stage.is_done:
        return stage
    stage.partial.mkdir(parents=True, exist_ok=True)
    manifest = stage.partial / MANIFEST
    if not manifest.exists() or damaged_files(stage.partial):
        manifest.unlink(missing_ok=True)
        build(stage.partial)
        write_manifest(manifest, [p for p in stage.partial.rglob("*") if p.is_file() and p.suffix not in (SCRATCH, BEGUN)],
                       stage=stage.name, key=stage.key)
    for path in [*stage.partial.rglob("*" + SCRATCH), *stage.partial.rglob("*" + BEGUN)]:
        path.unlink()
    os.replace(stage.partial, stage.folder)
    return_freed_memory()
    return stage


def drop_if_changed(stage, changed):
    """Discard a complete stage whose files are not those of its manifest, after changed(their names)."""
    if stage.is_done and (names := damaged_files(stage.folder)):
        changed(names)
        discard(stage)


def discard(stage):
    """Remove a complete stage; killed on the way, what is left is no complete stage."""
    if stage.is_done:
        (stage.folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(stage.partial, ignore_errors=True)
        os.replace(stage.folder, stage.partial)
        shutil.rmtree(stage.partial)


def write_manifest(path, files, **about):
    """The sha256 of each of the files, all of which are on the disk by then."""
    for file in files:
        sync(file)
    write_json(path, {**about, "sha256": {p.relative_to(path.parent).as_posix(): digest_file(p) for p in sorted(files)}})


def digests_in(manifest):
    """{name: sha256} of a manifest; None where it is missing or damaged."""
    try:
        return dict(read_json(manifest)["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def damaged_files(folder, manifest=MANIFEST):
    """Names of files under `folder` whose content is not what the manifest says; the manifest's own where it is damaged."""
    folder = Path(folder)
    digests = digests_in(folder / manifest)
    if digests is None:
        return [manifest]
    return [name for name, digest in digests.items() if not (folder / name).is_file() or digest_file(folder / name) != digest]


def changed_files(folder, top):
    """(how many files the manifests under `folder` name, the names of those that changed); top: the folder's own manifest."""
    folder = Path(folder)
    manifests = [folder / top] * (folder / top).is_file() + sorted(folder.rglob(MANIFEST))
    manifests = [path for path in manifests if not any(part.endswith(".partial") for part in path.parts)]
    named = {path.parent / name for path in manifests for name in digests_in(path) or [path.name]}
    changed = {path.parent / name for path in manifests for name in damaged_files(path.parent, path.name)}
    return len(named), sorted(path.relative_to(folder).as_posix() for path in changed)


OWNER = ".owner.json"
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
    lock = FileLock(folder / ".lock")
    owner = folder / OWNER
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


def need_space(folder, n_bytes, what):
    """RunError unless so much disk space is free, before something is written that would not fit."""
    if (free := free_bytes(folder)) < n_bytes:
        raise RunError(f"the disk of {folder} must have {n_bytes / 2**30:.2f} GiB free for {what}, and {free / 2**30:.2f} GiB "
                       "are: free some, or choose another --results_dir, then run the same command again")


# ---------------------------------------------------------------- what a machine does to a run

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OF_THE_SYSTEM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EISDIR, errno.ENOTDIR,
                 errno.EEXIST, errno.ENAMETOOLONG, *NETWORK_ERRORS)
GO_ON = "then run the same command again to continue"


def fault_of(error):
    """A sentence for an exception that the machine is to blame for (disk, memory, GPU), '' for any other."""
    while error:
        if sentence := fault_sentence(error):
            return sentence
        error = error.__cause__ or error.__context__      # torch.save hides a full disk behind an error of its own
    return ""


def fault_sentence(error):
    kind = type(error).__name__
    code = getattr(error, "errno", None)
    text = (str(error).splitlines() or [kind])[0]
    if code in FULL or re.search(r"No space left|quota exceeded|requested and \d+ written", text):
        return f"the disk is full ({text}): free some space, {GO_ON}"
    if code in OF_THE_SYSTEM:
        return f"a file could not be used ({text}): mend that, {GO_ON}"
    if is_out_of_memory(error):
        return (f"there was not enough memory ({text}): close other programs and run the same command again to continue, also "
                "with --set runtime.grad_checkpointing=on, which takes less; --set optim.micro_batch_size=N (half of what "
                "config.json says) and a smaller --scale take less too, but train all fits anew")
    if kind == "AcceleratorError" or re.search(r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS", text):
        return f"the GPU failed ({text}): restart the machine if it stays away, {GO_ON} from the last epoch"
    return ""


def is_out_of_memory(error):
    """Whether a device, or the machine, had less memory than was asked for."""
    said = r"can't allocate|not enough memory|ALLOC_FAILED|out of memory"
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and bool(re.search(said, str(error))))


class Stopping:
    """Whether a signal may wait for the end of a step, and whether one does."""

    may_wait = is_asked = False


def on_signal(number, frame):
    """The first SIGINT or SIGTERM within `stops_after_a_step` waits; any other one interrupts at once."""
    if not Stopping.may_wait or Stopping.is_asked:
        raise KeyboardInterrupt
    Stopping.is_asked = True
    os.write(2, b"\nstopping after this step; once more stops at once\n")      # print is not for signal handlers


@contextlib.contextmanager
def signals_interrupt():
    """SIGINT and SIGTERM as `on_signal` wants them, inside the block, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stops_after_a_step():
    """Around, or as the decorator of, a loop that asks `stop_is_asked()` after each step, saves, and raises KeyboardInterrupt.

    An exception after such a signal is an interruption too: loading processes may have got the same signal.
    """
    Stopping.may_wait = True
    Stopping.is_asked = False
    try:
        yield
    except Exception as error:
        if Stopping.is_asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        Stopping.may_wait = False
    if Stopping.is_asked:
        raise KeyboardInterrupt


def stop_is_asked():
    return Stopping.is_asked


# ---------------------------------------------------------------- log, clock, work in parallel

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text):
    """The text with escapes in place of control characters, which names in a data set may hold to rule a terminal."""
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


class EventLog:
    """Appends one JSON object a line to events.jsonl; `say` also prints the sentence for the person who waits.

    events: the kinds of which sentences are printed, None for all; also(event, values): called with each, for trackers.
    """

    def __init__(self, path, echo=True, events=None, also=lambda event, values: None):
        self.path = Path(path)
        self.echo = echo
        self.events = events
        self.also = also
        self.warnings = []
        self.end_torn_line()

    def end_torn_line(self):
        """Begin a new line where a killed process has left half of one."""
        if self.path.is_file() and self.path.stat().st_size:
            with open(self.path, "rb+") as f:
                f.seek(-1, os.SEEK_END)
                if f.read() != b"\n":
                    f.write(b"\n")

    def record(self, event, **values):
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **plain(values)}
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.also(event, plain(values))

    def say(self, text, event="note", **values):
        self.record(event, text=text, **values)
        if self.echo and (self.events is None or event in self.events):
            tqdm.write(printable(text), file=sys.stdout)
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
    before = Bars.hidden
    Bars.hidden = hidden
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


def return_freed_memory():
    """Give back what `keep_freed_memory` kept: when a stage ends, and before a fork, as pages that parent and child share are
    copied one by one when the parent writes them again, gigabytes a fit; new ones come empty."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def usable_cores():
    """Cores that this process may use, by its affinity and by the quota of its container."""
    return joblib.cpu_count()


def end_with_parent():
    """End this process by SIGKILL when the one that started it ends, however that ended (Linux, prctl(2)).

    A loading process outlives a `kill -9` of its run otherwise: its queue's pipe is full, and it waits to write for ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if (parent := multiprocessing.parent_process()) and os.getppid() != parent.pid:      # it ended before this
            os._exit(1)


def parallel_map(function, items, workers, description=""):
    """[function(item) for item in items] over `workers` threads, for work that releases the interpreter lock."""
    items = list(items)
    if workers <= 1 or len(items) < 2:
        return [function(item) for item in progress(items, desc=description)]
    with ThreadPoolExecutor(workers) as executor:
        return list(progress(executor.map(function, items), desc=description, total=len(items)))
