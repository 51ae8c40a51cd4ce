"""Work in parallel: threads for work that releases the interpreter lock, processes for the rest."""
import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from typing import NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from system.log import progress
from system.machine import HANGUP, end_with_parent, return_freed_memory, usable_cores


def fork_without_opencv_threads():
    """From now on no thread of OpenCV lives while this process is forked.

    Such a thread may hold a lock just then, for which the new process would wait forever. OpenCV
    ends its threads where it is told to use one, and starts them again where it needs them.
    """
    n_threads = []

    def before():
        n_threads.append(cv2.getNumThreads())
        cv2.setNumThreads(1)

    def after():
        cv2.setNumThreads(n_threads.pop())

    if hasattr(os, "register_at_fork"):      # not on Windows
        os.register_at_fork(before=before, after_in_parent=after)


fork_without_opencv_threads()


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


# ---------------------------------------------------------------- where a call may hang or die

class Lost(NamedTuple):
    """In place of a result, why there is none."""

    reason: str


def guarded_map(function, items, workers, seconds):
    """Yields (i, function(items[i])) as each is done in one of `workers` processes, at least one.

    (i, Lost) where the call raised ValueError, took more than `seconds` or ended its process; only
    that item is lost. Any other exception is raised here. function: picklable outside Linux.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    items = list(items)
    left = collections.deque(range(len(items)))
    busy = {}      # {pipe: (process, index of its item, when it must be done)}
    return_freed_memory()

    def begin():
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(function, there), daemon=True)
        process.start()
        there.close()
        i = left.popleft()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):     # heard of below
            here.send(items[i])
        busy[here] = process, i, time.monotonic() + seconds

    def give(pipe, process):
        try:
            pipe.send(items[left[0]])
        except (BrokenPipeError, ConnectionResetError):      # it ended after its last answer
            end(pipe, process)
            begin()
        else:
            busy[pipe] = process, left.popleft(), time.monotonic() + seconds

    try:
        for _ in range(min(max(1, workers), len(items))):
            begin()
        while busy:
            soonest = min(due for _, _, due in busy.values())
            ready = wait(list(busy), timeout=max(0.0, soonest - time.monotonic()))
            late = [] if ready else [p for p in busy if busy[p][2] <= time.monotonic()]
            for pipe in [*ready, *late]:
                process, i, _ = busy[pipe]
                result = Lost(f"it took more than {seconds:g} s") if late else heard(pipe)
                if isinstance(result, Exception):
                    raise result
                del busy[pipe]
                is_gone = bool(late) or result is None
                if is_gone or not left:
                    end(pipe, process)
                if left:
                    begin() if is_gone else give(pipe, process)
                yield i, Lost("its process ended") if result is None else result
    finally:
        for pipe, (process, _, _) in busy.items():
            end(pipe, process)


def serve(function, pipe):
    """Answer each item of a pipe with what the function makes of it, until it is closed."""
    start_worker(0)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            result = function(item)
        except ValueError as error:
            result = Lost(str(error))
        except Exception as error:      # raised by the other process
            result = error
        pipe.send(result)


def heard(pipe):
    """What a process answers, None if it ended before."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None


def end(pipe, process):
    """End a process that serves."""
    pipe.close()
    process.kill()
    process.join()
