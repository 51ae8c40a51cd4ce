"""Work in parallel: threads for work that releases the interpreter lock, processes for the rest."""
import os
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from system.log import progress
from system.machine import HANGUP, end_with_parent, return_freed_memory, usable_cores


def start_worker(_):
    """Set up a loading process: one thread. Ctrl-C and a hangup are left to the process it serves.

    It ends if it cannot send a batch because /dev/shm is full. By default it would drop the batch,
    and the other process would wait for it forever.
    """
    end_with_parent()
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANGUP:
        signal.signal(HANGUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class Calls(Dataset):
    """Calls(function, items)[i] is function(items[i])."""

    def __init__(self, function, items):
        self.function = function
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.function(self.items[i])


def process_map(function, items, workers):
    """[function(item) for item in items] in `workers` forked processes.

    For work that holds the interpreter lock. Any function will do; its results are pickled. Falls
    back to threads where the system cannot fork or kills such a process.
    """
    items = list(items)
    workers = min(workers, usable_cores(), len(items))
    if workers < 2 or sys.platform != "linux":
        return parallel_map(function, items, workers)

    return_freed_memory()
    loader = DataLoader(
        Calls(function, items), batch_size=max(1, min(16, len(items) // (8 * workers))),
        collate_fn=list, num_workers=workers, worker_init_fn=start_worker,
        multiprocessing_context="fork", generator=torch.Generator(),
    )
    try:
        return [result for results in loader for result in results]
    except BaseException as error:
        # interruptions too: the frames hold the loader's iterator, and clearing them ends its
        # processes now
        traceback.clear_frames(error.__traceback__)
        if not isinstance(error, OSError) and "DataLoader worker (pid" not in str(error):
            raise

    # a process was killed or could not be started
    return parallel_map(function, items, workers)


def parallel_map(function, items, workers, description=""):
    """[function(item) for item in items] in `workers` threads.

    For work that releases the interpreter lock.
    """
    items = list(items)
    if workers <= 1 or len(items) < 2:
        return [function(item) for item in progress(items, desc=description)]
    with ThreadPoolExecutor(workers) as executor:
        return list(progress(executor.map(function, items), desc=description, total=len(items)))
