"""Where a job computes: its device, the processes that load images for it, and its log.

    with_loading(site, runtime, log, lambda place: train(place))
"""
import errno
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import torch

from modeling.compute import pick_device
from system.machine import free_bytes, keep_freed_memory
from utils import UserError


@dataclass(frozen=True)
class Place:
    """workers: processes that load images, 0 for none. in_bursts: they load while no step runs."""

    device: torch.device
    workers: int
    in_bursts: bool
    log: object


def place_at(site, runtime, log):
    """The Place of a job at a Site. Away from home it also sets up the process."""
    if not site.is_home:
        keep_freed_memory()
        torch.set_num_threads(site.cores)
        cv2.setNumThreads(site.cores)
    return place_on(pick_device(runtime.device), runtime, site.cores, log, site.may_fork)


def place_on(device, runtime, cores, log, may_fork=True):
    """The Place of a device beside so many cores."""
    workers = n_workers(runtime, device, cores) if may_fork else 0
    return Place(device, workers, loads_in_bursts(device, cores), log)


def need_weights(source):
    """UserError unless the file of a WeightsSource can be read here: a Ray node may lack it."""
    if source.path and not Path(source.path).exists():
        raise UserError(f"the weights of {source.model_name} must lie where every Ray node sees "
                        f"them, but {platform.node()} does not see {source.path}: put them into a "
                        "shared folder and pass it as --weights_dir")


def n_workers(runtime, device, cores):
    """Processes that load images: runtime.workers, or as many as the cores allow."""
    if runtime.workers >= 0:
        return runtime.workers
    return min(8, cores if loads_in_bursts(device, cores) else cores // 2)


def loads_in_bursts(device, cores):
    """Whether loading beside computing would take cores from it."""
    return device.type == "cpu" and torch.get_num_threads() > cores - cores // 2


def with_loading(site, runtime, log, work):
    """work(Place); once more without loading processes where the system ended one of them.

    Results are the same. The site remembers it for its next jobs.
    """
    place = place_at(site, runtime, log)
    try:
        return work(place)
    except (RuntimeError, OSError) as error:      # as torch tells of a lost process, with others
        if not place.workers or not lost_a_worker(error, site.folder):
            raise
        reason = str(error).splitlines()[0]
    # out here: the error has held the loader, its processes and what they loaded
    log.warn("loading processes were ended by the system (killed, or /dev/shm too small) and are "
             f"done without, which is slower and gives the same results ({reason})")
    site.may_fork = False
    return work(replace(place, workers=0))


def lost_a_worker(error, folder):
    """Whether an error says that a loading process was killed or had no shared memory."""
    is_full = getattr(error, "errno", None) == errno.ENOSPC
    if is_full and free_bytes(folder) > 2**20:      # /dev/shm is full, not the disk
        return True
    return bool(re.search(r"DataLoader worker \(pid|shared memory", str(error)))


class Notes:
    """A log that also keeps the warnings of one stage, for runs that find the stage done."""

    def __init__(self, log):
        self.log = log
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)
        self.log.warn(text)

    def say(self, text, event="note", **values):
        self.log.say(text, event=event, **values)

    def record(self, event, **values):
        self.log.record(event, **values)
