"""--prune: what a finished run can do without, and how much disk that saves.

    for line in prune(folder, is_sure=False): print(line)      # is_sure: delete it

Results, weights, the predictor and the report stay. The run's own command makes the rest again.
"""
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from running.introduction import ENVIRONMENT, kept
from system.stages import MANIFEST, RESULTS_MANIFEST, digests_in, exclusive
from utils import UserError, read_json, size_text, write_json

EARLIER = "of earlier settings: starting them again would take their whole time"
IMAGES = ("reduced images and labels: starting the run again reads all images again, and --compare "
          "needs that first")
REPEATED = ("audit", "shift", "folds", "ensemble")     # roots of long stages
READ_BY = {"frozen": "frozen-", "words": "text-"}      # folder of stages: the fits that read them


@dataclass(frozen=True)
class Spare:
    """A folder that can go, why, and how much the disk gets back if all that can go does."""

    folder: Path
    reason: str
    n_bytes: int


def prune(folder, is_sure):
    """Sentences about what can be deleted or, if `is_sure`, was.

    UserError unless the folder holds a finished run that nobody is using.
    """
    folder = Path(folder)
    if not (folder / "final_results.json").is_file():
        raise UserError(
            f"--prune must name a finished experiment, and there is none in {str(folder)!r}: check "
            "the name and --results_dir, or finish the run by its own command")
    with exclusive(folder):
        spares = spare_folders(folder)
        saved = 0
        for spare in spares:
            saved += spare.n_bytes
            name = spare.folder.relative_to(folder).as_posix()
            yield f"{size_text(spare.n_bytes):>9}  {name}  ({spare.reason})"
        if is_sure:
            forget(folder, [spare.folder for spare in spares])
            yield f"{size_text(saved)} deleted in {folder}"
        elif spares:
            yield f"{size_text(saved)} can be deleted in {folder}: add --yes to delete"
        else:
            yield f"nothing to delete in {folder}: it holds only what its results need"


def spare_folders(folder):
    """[Spare] of a finished run, the largest first."""
    makers = kept(folder / ENVIRONMENT).get("made_by", [])
    used = {folder / name for maker in makers for name in maker["stages"]}
    if not used:
        raise UserError(f"{folder / ENVIRONMENT} must name the stages of the run, and names none: "
                        "start the run again by its own command, which writes it anew")
    reason_of = {}
    for stage in stage_folders(folder):
        if stage not in used and not is_untold(stage, folder, used):
            reason_of[stage] = EARLIER
        elif stage.parent == folder and stage.name.startswith("audit-"):
            reason_of[stage] = IMAGES
    sizes = freed_bytes(reason_of)
    spares = [Spare(stage, reason, sizes[stage]) for stage, reason in reason_of.items()]
    return sorted(spares, key=lambda spare: (-spare.n_bytes, spare.folder))


def is_untold(stage, folder, used):
    """Whether a stage may have been read by a member of the run, which a version finished that did
    not say so."""
    holder = stage.parent
    fits = READ_BY.get(holder.name)
    if holder.parent != folder or fits is None:
        return False
    return (any(path.name.startswith(fits) for path in used)
            and not any(path.parent == holder for path in used))


def stage_folders(folder):
    """Folders of the stages that take long to make, complete or begun. No link is followed."""
    for top in sorted(folder.iterdir()):
        if top.is_symlink() or not top.is_dir():
            continue
        inner = []
        if top.name.startswith(("fold_", "refit")) or top.name in READ_BY:
            inner = sorted(top.iterdir())
        elif top.name.startswith(REPEATED):
            inner = [top]
        yield from (path for path in inner if path.is_dir() and not path.is_symlink()
                    and ((path / MANIFEST).is_file() or path.name.endswith(".partial")))


def freed_bytes(folders):
    """{folder: bytes that the disk gets back}. A file with names in several folders counts in the
    first, one with a name elsewhere in none."""
    sizes = dict.fromkeys(folders, 0)
    n_seen = Counter()
    first = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                stat = path.stat()
                file = stat.st_dev, stat.st_ino
                n_seen[file] += 1
                first.setdefault(file, folder)
                if n_seen[file] == stat.st_nlink:
                    sizes[first[file]] += stat.st_size
    return sizes


def forget(folder, stages):
    """Delete stages, and first their names in the manifest of the run, for --verify."""
    manifest = folder / RESULTS_MANIFEST
    if digests_in(manifest):
        gone = {(stage / MANIFEST).relative_to(folder).as_posix() for stage in stages}
        content = read_json(manifest)
        content["sha256"] = {name: digest for name, digest in content["sha256"].items()
                             if name not in gone}
        write_json(manifest, content)
    for stage in stages:
        # a kill leaves a begun stage, not one that looks complete
        begun = stage
        if not stage.name.endswith(".partial"):
            begun = stage.with_name(stage.name + ".partial")
            os.replace(stage, begun)
        shutil.rmtree(begun)
