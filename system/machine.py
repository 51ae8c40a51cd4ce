"""What a machine does to a run: disk space, memory, signals, faults, cores."""
import contextlib
import ctypes
import errno
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import joblib

from utils import NETWORK_ERRORS, RunError

# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
PR_SET_PDEATHSIG = 1     # of linux/prctl.h


def free_bytes(folder):
    """Free disk space where `folder` is or will be."""
    folder = Path(folder).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def need_space(folder, n_bytes, what):
    """RunError unless so much disk space is free, before something is written that would not fit.
    """
    if (free := free_bytes(folder)) < n_bytes:
        raise RunError(
            f"the disk of {folder} must have {n_bytes / 2**30:.2f} GiB free for {what}, and {free / 2**30:.2f} GiB "
            "are: free some, or choose another --results_dir, then run the same command again"
        )


# ---------------------------------------------------------------- what a machine does to a run

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OF_THE_SYSTEM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE,
                 errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, *NETWORK_ERRORS)
GO_ON = "then run the same command again to continue"


def fault_of(error):
    """A sentence for an exception that the machine is to blame for (disk, memory, GPU), '' for any
    other."""
    while error:
        if sentence := fault_sentence(error):
            return sentence
        # torch.save hides a full disk behind an error of its own
        error = error.__cause__ or error.__context__
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
        return (
            f"there was not enough memory ({text}): close other programs and run the same command again to continue, also "
            "with --set runtime.grad_checkpointing=on, which takes less; --set optim.micro_batch_size=N (half of what "
            "config.json says) and a smaller --scale take less too, but train all fits anew"
        )
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
    """The first SIGINT or SIGTERM within `stops_after_a_step` waits; any other one interrupts at
    once."""
    if not Stopping.may_wait or Stopping.is_asked:
        raise KeyboardInterrupt
    Stopping.is_asked = True
    # print is not for signal handlers
    os.write(2, b"\nstopping after this step; once more stops at once\n")


@contextlib.contextmanager
def signals_interrupt():
    """SIGINT and SIGTERM as `on_signal` wants them, inside the block, where this is the main
    thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT,
                                                                      signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stops_after_a_step():
    """Around, or as the decorator of, a loop that asks `stop_is_asked()` after each step, saves,
    and raises KeyboardInterrupt.

    An exception after such a signal is an interruption too: loading processes may have got the same
    signal.
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


def keep_freed_memory():
    """Let glibc keep large freed blocks: a training step on the CPU otherwise returns and faults in
    gigabytes a second."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, size_bytes in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, size_bytes)


def return_freed_memory():
    """Give back what `keep_freed_memory` kept: when a stage ends, and before a fork, as pages that
    parent and child share are copied one by one when the parent writes them again, gigabytes a fit;
    new ones come empty."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def usable_cores():
    """Cores that this process may use, by its affinity and by the quota of its container."""
    return joblib.cpu_count()


def end_with_parent():
    """End this process by SIGKILL when the one that started it ends, however that ended (Linux,
    prctl(2)).

    A loading process outlives a `kill -9` of its run otherwise: its queue's pipe is full, and it
    waits to write for ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # it ended before this
        if (parent := multiprocessing.parent_process()) and os.getppid() != parent.pid:
            os._exit(1)
