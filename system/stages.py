"""Atomic stages: a stage turns values into files under one key, and survives a kill.

    stage = Stage.of(run_folder, "folds", version=1, settings={...}, inputs=[audit.key])
    run_stage(stage, lambda folder: (folder / "folds.csv").write_text(...))   # nothing if complete
"""
import contextlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from system.machine import return_freed_memory
from system.versions import here
from utils import (
    UserError,
    digest_file,
    digest_json,
    first_few,
    patiently,
    read_json,
    replace_path,
    sync,
    write_json,
)

MANIFEST = "manifest.json"
# in a run's folder: digests of the result files and of all stages' manifests
RESULTS_MANIFEST = "results_manifest.json"
SCRATCH = ".scratch"      # suffix of files that a stage needs only until it is complete
BEGUN = ".partial"        # suffix of files that a kill left half-written by `write_atomic`


@dataclass(frozen=True)
class Stage:
    """A unit of work: its name, key and folder. It is complete if and only if the folder exists."""

    name: str
    key: str
    folder: Path

    @classmethod
    def of(cls, root, name, *, version, settings, inputs):
        """The stage with the key of these values.

        `settings`: the part of the configuration that it reads; `inputs`: the keys of the stages
        that it reads.
        """
        key = digest_json(
            {"stage": name, "version": version, "settings": settings, "inputs": list(inputs)}
        )
        return cls(name, key, Path(root) / f"{name}-{key}")

    @property
    def partial(self):
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def is_done(self):
        return self.folder.is_dir()


def run_stage(stage, build, changed=lambda names: None):
    """Call `build(partial folder)`, write a manifest of sha256s and makers, rename the folder.

    Returns the stage, at once if it is complete. After a kill, `build` is called again in the same
    partial folder and may continue from what it finds there. A complete stage whose files no longer
    match its manifest is made again, after changed(names of the files).
    """
    drop_if_changed(stage, changed)
    if stage.is_done:
        return stage

    stage.partial.mkdir(parents=True, exist_ok=True)
    manifest = stage.partial / MANIFEST
    if not manifest.exists() or damaged_files(stage.partial):
        manifest.unlink(missing_ok=True)
        made_by = makers_so_far(stage.partial)
        build(stage.partial)
        files = [
            path for path in stage.partial.rglob("*")
            if path.is_file() and path.suffix not in (SCRATCH, BEGUN)
        ]
        write_manifest(manifest, files, stage=stage.name, key=stage.key, made_by=made_by)

    for path in [*stage.partial.rglob("*" + SCRATCH), *stage.partial.rglob("*" + BEGUN)]:
        path.unlink()
    replace_path(stage.partial, stage.folder)
    return_freed_memory()
    return stage


def makers_so_far(partial):
    """What `versions.here` says of all processes that worked on a partial stage, this one last."""
    path = partial / f"made_by{SCRATCH}"
    try:
        makers = read_json(path)
    except (FileNotFoundError, ValueError):
        makers = []
    if here() not in makers:
        makers.append(here())
        write_json(path, makers)
    return makers


def makers_of(folder):
    """The makers of a complete stage; [] if an earlier version of this program kept none."""
    path = Path(folder) / MANIFEST
    try:
        makers = patiently(path, lambda: read_json(path))["made_by"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return []
    is_list = isinstance(makers, list) and all(isinstance(maker, dict) for maker in makers)
    return makers if is_list else []


def drop_if_changed(stage, changed):
    """Discard a complete stage whose files no longer match its manifest, after changed(names)."""
    if not stage.is_done:
        return
    names = damaged_files(stage.folder)
    if names:
        changed(names)
        discard(stage)


def discard(stage):
    """Remove a complete stage. A kill on the way leaves no complete stage."""
    if stage.is_done:
        (stage.folder / MANIFEST).unlink(missing_ok=True)
        if stage.partial.exists():
            shutil.rmtree(stage.partial)
        os.replace(stage.folder, stage.partial)
        shutil.rmtree(stage.partial)


def write_manifest(path, files, **about):
    """Write the sha256 of each file and what `about` says, once all files are on the disk."""
    for file in files:
        sync(file)
    digests = {
        file.relative_to(path.parent).as_posix(): digest_file(file) for file in sorted(files)
    }
    write_json(path, {**about, "sha256": digests})


def digests_in(manifest):
    """{name: sha256} of a manifest, None if it is missing or damaged.

    Raises OSError for a fault of the machine: no stage is made again for that.
    """
    try:
        digests = patiently(manifest, lambda: read_json(manifest))["sha256"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    is_plain = isinstance(digests, dict) and all(isinstance(v, str) for v in digests.values())
    return digests if is_plain else None


def damaged_files(folder, manifest=MANIFEST):
    """Names of files under `folder` that do not match the manifest, or of a damaged manifest."""
    folder = Path(folder)
    digests = digests_in(folder / manifest)
    if digests is None:
        return [manifest]
    return [name for name, digest in digests.items() if digest_there(folder / name) != digest]


def digest_there(path):
    """The sha256 of a file, '' if there is none. Raises OSError for a fault of the machine."""
    try:
        return digest_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""


def changed_files(folder, top):
    """(number of files that the manifests under `folder` name, sorted names of the changed ones).

    `top`: the name of the folder's own manifest.
    """
    folder = Path(folder)
    manifests = sorted(folder.rglob(MANIFEST))
    if (folder / top).is_file():
        manifests.insert(0, folder / top)

    named = set()
    changed = set()
    for manifest in manifests:
        if any(part.endswith(".partial") for part in manifest.parts):
            continue
        names = digests_in(manifest) or [manifest.name]
        named.update(manifest.parent / name for name in names)
        damaged = damaged_files(manifest.parent, manifest.name)
        changed.update(manifest.parent / name for name in damaged)
    return len(named), sorted(path.relative_to(folder).as_posix() for path in changed)


# ---------------------------------------------------------------- one process a folder


OWNER = ".owner.json"
ORPHAN_SECONDS = 20      # a killed run's loading processes hold its lock until they notice


def is_alive(owner):
    """Whether the process that an owner file names may still run. One on another host may."""
    try:
        who = read_json(owner)
        # on Windows os.kill(pid, 0) interrupts the process
        if who["host"] == platform.node() and os.name != "nt":
            os.kill(who["pid"], 0)
        return True
    except PermissionError:      # of os.kill: it is another user's
        return True
    except (FileNotFoundError, ProcessLookupError, ValueError, KeyError, TypeError,
            OverflowError):
        return False


@contextlib.contextmanager
def exclusive(folder):
    """Hold `folder` for this process. UserError names the pid and host that hold it already.

    The lock is the operating system's, so a killed process leaves nothing to clean up.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    owner = folder / OWNER
    try:
        lock.acquire(timeout=0 if is_alive(owner) else ORPHAN_SECONDS)
    except Timeout:
        try:
            who = "process {pid} on {host}".format(**read_json(owner))
        except (FileNotFoundError, PermissionError, ValueError, KeyError, TypeError):
            who = "another process"
        raise UserError(
            f"the experiment folder {folder} must be used by one run at a time, and {who} is using "
            "it: wait for it, or choose another --experiment_name"
        ) from None
    try:
        write_json(owner, {"pid": os.getpid(), "host": platform.node()})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def make(stage, build, log, *readers):
    """`run_stage` that tells the log when a complete stage had changed on the disk.

    Such a stage is made again. Its `readers`, stages made from it, are discarded.
    """
    return run_stage(stage, build, told_of_change(stage, log, readers))


def is_intact(stage, log, *readers):
    """Whether a stage is complete and as it was made. A changed one is discarded, readers too."""
    drop_if_changed(stage, told_of_change(stage, log, readers))
    return stage.is_done


def told_of_change(stage, log, readers):
    """A function of the names of changed files: warns of them and discards the stage's readers."""
    def changed(names):
        log.warn(f"{stage.folder.name} is made again: {first_few(names)} changed on the disk after "
                 "it was complete")
        for reader in readers:
            discard(reader)

    return changed
