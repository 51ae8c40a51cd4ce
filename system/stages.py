"""Atomic stages: a stage turns values into files under one key, and survives a kill.

    stage = Stage.of(run_folder, "folds", version=1, settings={...}, inputs=[audit.key])
    run_stage(stage, lambda folder: (folder / "folds.csv").write_text(...))     # does nothing when it is complete
"""
import contextlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from system.machine import return_freed_memory
from utils import UserError, digest_file, digest_json, first_few, read_json, sync, write_json


@dataclass(frozen=True)
class Stage:
    """A unit of work: its name, its key and the folder it will have. Complete if and only if that
    folder exists."""

    name: str
    key: str
    folder: Path

    @classmethod
    def of(cls, root, name, *, version, settings, inputs):
        """`settings`: the part of the configuration that is read; `inputs`: the keys of the stages
        that are read."""
        key = digest_json({"stage": name, "version": version, "settings": settings,
                           "inputs": list(inputs)})
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
    """Call `build(partial folder)`, seal it with a manifest of sha256s, rename it. Complete stages
    return at once.

    A killed build is called again in the same partial folder and may go on from what it finds
    there. A complete stage whose files are not those of its manifest is made again, after
    changed(their names).
    """
    drop_if_changed(stage, changed)
    if stage.is_done:
        return stage
    stage.partial.mkdir(parents=True, exist_ok=True)
    manifest = stage.partial / MANIFEST
    if not manifest.exists() or damaged_files(stage.partial):
        manifest.unlink(missing_ok=True)
        build(stage.partial)
        write_manifest(manifest,
                       [p for p in stage.partial.rglob("*") if p.is_file()
                        and p.suffix not in (SCRATCH, BEGUN)], stage=stage.name, key=stage.key)
    for path in [*stage.partial.rglob("*" + SCRATCH), *stage.partial.rglob("*" + BEGUN)]:
        path.unlink()
    os.replace(stage.partial, stage.folder)
    return_freed_memory()
    return stage


def drop_if_changed(stage, changed):
    """Discard a complete stage whose files are not those of its manifest, after changed(their
    names)."""
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
    write_json(path,
               {**about, "sha256": {p.relative_to(path.parent).as_posix(): digest_file(p)
                                    for p in sorted(files)}})


def digests_in(manifest):
    """{name: sha256} of a manifest; None where it is missing or damaged."""
    try:
        return dict(read_json(manifest)["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def damaged_files(folder, manifest=MANIFEST):
    """Names of files under `folder` whose content is not what the manifest says; the manifest's own
    where it is damaged."""
    folder = Path(folder)
    digests = digests_in(folder / manifest)
    if digests is None:
        return [manifest]
    return [name for name, digest in digests.items() if not (folder / name).is_file()
            or digest_file(folder / name) != digest]


def changed_files(folder, top):
    """(how many files the manifests under `folder` name, the names of those that changed); top: the
    folder's own manifest."""
    folder = Path(folder)
    manifests = [folder / top] * (folder / top).is_file() + sorted(folder.rglob(MANIFEST))
    manifests = [path for path in manifests if not any(part.endswith(".partial")
                                                       for part in path.parts)]
    named = {path.parent / name for path in manifests for name in digests_in(path) or [path.name]}
    changed = {path.parent / name for path in manifests for name in damaged_files(path.parent,
                                                                                  path.name)}
    return len(named), sorted(path.relative_to(folder).as_posix() for path in changed)


OWNER = ".owner.json"
ORPHAN_SECONDS = 20


def is_alive(owner):
    """Whether the process that an owner file names may still run; one on another host may."""
    try:
        who = read_json(owner)
        # there os.kill(pid, 0) interrupts the process
        if who["host"] == platform.node() and os.name != "nt":
            os.kill(who["pid"], 0)
        return True
    except (OSError, ValueError, KeyError):
        return False


@contextlib.contextmanager
def exclusive(folder):
    """Hold `folder` for this process; a second process is refused with the first one's pid and
    host.

    The lock is the operating system's, so that a killed process leaves nothing to clean up.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    owner = folder / OWNER
    try:
        # loading processes of a killed run hold its lock for the seconds in which they notice that
        # it is gone
        lock.acquire(timeout=0 if is_alive(owner) else ORPHAN_SECONDS)
    except Timeout:
        try:
            who = "process {pid} on {host}".format(**read_json(owner))
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise UserError(
            f"the experiment folder {folder} must be used by one run at a time, and {who} is using it: "
            "wait for it, or choose another --experiment_name"
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
