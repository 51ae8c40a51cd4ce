"""--fetch_weights: the pretrained weights of a mode, in a folder that can be carried elsewhere.

    for line in fetch_into(folder, ["convnext_atto"], scale="tiny"): print(line)

Files are named as `--weights_dir` finds them. What is there already stays; what was begun goes on.
"""
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub
import timm
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.file_download import http_get

from modeling.licences import sentence
from modeling.weights import (
    HUB_FILES,
    OF_THE_CACHE,
    WEIGHT_SUFFIXES,
    cached_file,
    check_model_name,
    file_in,
    hub_reachable,
    into_weights_dir,
    licence_of,
)
from system.machine import need_space
from utils import (
    UserError,
    digest_file,
    digest_json,
    first_line,
    replace_path,
    size_text,
    write_atomic,
)

BEGUN = ".download"           # in the folder: what was begun
LICENCES = "LICENCES.txt"
IS_SHA256 = re.compile(r"[0-9a-f]{64}").fullmatch
SUFFIX_OF = dict(zip(HUB_FILES, WEIGHT_SUFFIXES, strict=True))


@dataclass(frozen=True)
class Wanted:
    """The weights of one model.

    file: its name at the hub. path: where it lies here, '' if nowhere. url, etag: where it is
    downloaded from, and what tells it from other versions: its sha256 if it is a large file.
    """

    model_name: str
    hub_id: str
    licence: str
    file: str
    n_bytes: int
    path: str = ""
    url: str = ""
    etag: str = ""

    @property
    def target(self):
        return self.model_name + SUFFIX_OF[self.file]

    def describe(self):
        where = f"hub {self.hub_id}" if not self.path else "the hub cache here"
        return (f"{self.target}: {size_text(self.n_bytes)} from {where}, licence "
                f"{self.licence or 'not recorded'}")


def fetch_into(folder, names, scale):
    """Sentences about sizes and licences, then about each file that has come.

    UserError if the hub cannot be reached or has no weights of a model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        check_model_name(name)
    missing = [name for name in names if not file_in(str(folder), name)]
    wanted = [find(name) for name in missing]
    there = len(names) - len(missing)
    yield (f"scale {scale}: {len(names)} network(s), {there} in {folder} already, "
           f"{size_text(sum(w.n_bytes for w in wanted))} to fetch")
    for w in wanted:
        yield w.describe()
        if text := sentence(w.model_name, w.licence):
            yield f"warning: {text}"
    need_space(folder, sum(w.n_bytes for w in wanted), f"{len(wanted)} file(s) of weights")
    for w in wanted:
        fetch(w, folder)
        note_licence(w, folder)
        yield f"fetched {folder / w.target}"
    if (folder / BEGUN).exists():
        shutil.rmtree(folder / BEGUN)
    yield f"pass it on as --weights_dir {folder}"


def find(name):
    """The Wanted of a model: in the hub's cache, else at the hub."""
    cfg = timm.get_pretrained_cfg(name)
    hub_id = cfg.hf_hub_id if cfg is not None else None
    if not hub_id:
        raise UserError(f"--fetch_weights found no weights of {name}: timm names no repository for "
                        "them; leave it out of model.backbones")
    if path := cached_file(hub_id):
        return Wanted(name, hub_id, licence_of(name), Path(path).name, os.path.getsize(path), path)
    if not hub_reachable():
        raise unreachable(name, hub_id, "it does not answer, or HF_HUB_OFFLINE is set")
    for file in HUB_FILES:
        try:
            return located(Wanted(name, hub_id, licence_of(name), file, 0))
        except EntryNotFoundError:
            continue
    raise UserError(f"--fetch_weights found neither {' nor '.join(HUB_FILES)} of {name} at {hub_id}"
                    f": put weights {into_weights_dir(name)}")


def located(wanted):
    """The Wanted with its size, version and address at the hub now: an address soon expires.

    EntryNotFoundError if the hub has no such file.
    """
    try:
        found = huggingface_hub.get_hf_file_metadata(
            huggingface_hub.hf_hub_url(wanted.hub_id, wanted.file))
    except EntryNotFoundError:
        raise
    except Exception as error:      # the client's, whose kinds change from version to version
        raise unreachable(wanted.model_name, wanted.hub_id, first_line(error)) from None
    return replace(wanted, n_bytes=found.size or 0, url=found.location, etag=found.etag or "")


def unreachable(name, hub_id, reason):
    return UserError(f"--fetch_weights must reach the hub for {name} ({hub_id}), but {reason}: run "
                     "it where there is a network; what was begun goes on")


def fetch(wanted, folder):
    """Put the file of a Wanted into the folder, all at once when it is complete.

    The client's own downloads begin anew after an interruption, so the file is kept here.
    """
    (folder / BEGUN).mkdir(exist_ok=True)
    if not wanted.path:
        wanted = located(wanted)
    begun = folder / BEGUN / f"{wanted.target}.{digest_json(wanted.etag)}"
    if wanted.path:
        shutil.copyfile(wanted.path, begun)
    else:
        download(wanted, begun)
    replace_path(begun, folder / wanted.target)


def download(wanted, begun):
    """Add what `begun` lacks of the file of a Wanted. UserError if the network does not let it."""
    try:
        with open(begun, "ab") as f:
            if (there := f.tell()) < wanted.n_bytes or not wanted.n_bytes:
                http_get(wanted.url, f, resume_size=there, expected_size=wanted.n_bytes or None)
    except Exception as error:      # the client's kinds change with its version
        # a full disk is not the hub's fault
        if getattr(error, "errno", None) in OF_THE_CACHE:
            raise
        raise unreachable(wanted.model_name, wanted.hub_id, first_line(error)) from None
    if IS_SHA256(wanted.etag) and digest_file(begun) != wanted.etag:
        begun.unlink()
        raise UserError(f"{wanted.file} of {wanted.hub_id} must be as the hub says, but its sha256 "
                        "is another: run the same command again to download it anew")


def note_licence(wanted, folder):
    """Add a file's origin and licence to the list that goes along."""
    path = folder / LICENCES
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    lines = [line for line in lines if not line.startswith(f"{wanted.target}:")]
    lines.append(f"{wanted.target}: {wanted.hub_id}, licence {wanted.licence or 'not recorded'}")
    write_atomic(path, "\n".join(sorted(lines)) + "\n")
