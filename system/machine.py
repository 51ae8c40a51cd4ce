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

M_TRIM_THRESHOLD = -1    # from malloc.h
M_MMAP_THRESHOLD = -3    # from malloc.h
PR_SET_PDEATHSIG = 1     # from linux/prctl.h


# ---------------------------------------------------------------- disk space

def free_bytes(folder):
    """Free disk space where `folder` is or will be."""
    folder = Path(folder).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def need_space(folder, n_bytes, what):
    """RunError unless n_bytes of disk space are free for `what`, before any of it is written."""
    free = free_bytes(folder)
    if free < n_bytes:
        raise RunError(
            f"the disk of {folder} must have {n_bytes / 2**30:.2f} GiB free for {what}, "
            f"and {free / 2**30:.2f} GiB are: free some, then run the same command again to "
            "continue, or begin anew with a --results_dir on another disk"
        )


# ---------------------------------------------------------------- faults

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OF_THE_SYSTEM = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EISDIR,
    errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EBUSY, errno.EAGAIN,
    errno.ENOLCK, errno.ENODEV, errno.ENXIO, *NETWORK_ERRORS,
)
GO_ON = "then run the same command again to continue"


def fault_of(error):
    """A sentence for an exception that the machine is to blame for (disk, memory, GPU), else ''."""
    while error:
        if sentence := fault_sentence(error):
            return sentence
        # torch.save hides a full disk behind an error of its own
        error = error.__cause__ or error.__context__
    return ""


def fault_sentence(error):
    """`fault_of` for one exception without its causes."""
    kind = type(error).__name__
    code = getattr(error, "errno", None)
    lines = str(error).splitlines()
    text = lines[0] if lines else kind

    if code in FULL or re.search(r"No space left|quota exceeded|requested and \d+ written", text):
        return f"the disk is full ({text}): free some space, {GO_ON}"
    if code in OF_THE_SYSTEM:
        return f"a file could not be used ({text}): fix that, {GO_ON}"
    if is_out_of_memory(error):
        return (
            f"there was not enough memory ({text}): close other programs, or add "
            "--set runtime.grad_checkpointing=on, which takes less, and run the same command again "
            "to continue; --set optim.micro_batch_size=N (half of what config.json says) and "
            "a smaller --scale take less too, but train all fits anew"
        )
    if kind == "AcceleratorError" or re.search(r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS", text):
        advice = f"restart the machine if the GPU stays away, {GO_ON} from the last epoch"
        return f"the GPU failed ({text}): {advice}"
    return ""


def is_out_of_memory(error):
    """Whether a device or the machine ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    code = getattr(error, "errno", None)
    if code is not None:
        return code == errno.ENOMEM
    # an OSError without a code is of a decoder of images
    said = r"can't allocate|[Cc]annot allocate|not enough memory|ALLOC_FAILED|out of memory"
    return isinstance(error, (RuntimeError, OSError)) and bool(re.search(said, str(error)))


# ---------------------------------------------------------------- signals

class Stopping:
    """Whether a signal may wait for the end of a step, and whether one waits."""

    may_wait = False
    is_asked = False


HANGUP = getattr(signal, "SIGHUP", None)    # None on Windows


def on_signal(number, frame):
    """Let the first signal in `stops_after_a_step` wait; interrupt at once on any other.

    A hangup never counts as the second: the shell and the kernel each tell of a closed terminal.
    """
    if number == HANGUP:
        signal.signal(HANGUP, signal.SIG_IGN)
    if not Stopping.may_wait or (Stopping.is_asked and number != HANGUP):
        raise KeyboardInterrupt
    Stopping.is_asked = True
    # print is not safe in a signal handler, and the terminal may be gone
    with contextlib.suppress(OSError):
        os.write(2, b"\nstopping after this step; once more stops at once\n")


@contextlib.contextmanager
def signals_interrupt():
    """Handle SIGINT, SIGTERM and SIGHUP by `on_signal` inside the block, if in the main thread.

    A SIGHUP that is ignored (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if HANGUP and signal.getsignal(HANGUP) != signal.SIG_IGN:
        numbers.append(HANGUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stops_after_a_step():
    """Let a signal wait for the end of a step. A context manager or decorator for a loop.

    The loop asks `stop_is_asked()` after each step; if so it saves and raises KeyboardInterrupt. An
    exception after such a signal is an interruption too, since loading processes may have got the
    same signal.
    """
    Stopping.may_wait = True
    Stopping.is_asked = False
    try:
        yield
    except Exception as error:      # whatever it is, it is raised again
        if Stopping.is_asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        Stopping.may_wait = False
    if Stopping.is_asked:
        raise KeyboardInterrupt


def stop_is_asked():
    return Stopping.is_asked


# ---------------------------------------------------------------- memory, cores, processes

def keep_freed_memory():
    """Let glibc keep large freed blocks.

    Otherwise training steps on a CPU return gigabytes a second and fault them in again.
    """
    mallopt = linux_function("mallopt")
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def return_freed_memory():
    """Give back what `keep_freed_memory` kept, when a stage ends and before a fork.

    After a fork, the parent copies each page shared with a child when it writes to it, gigabytes a
    fit. New pages come empty.
    """
    malloc_trim = linux_function("malloc_trim")
    if malloc_trim:
        malloc_trim(0)


def linux_function(name):
    """A function of Linux's C library by its name, None elsewhere."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)


def usable_cores():
    """Cores that this process may use, by its affinity and its container's quota."""
    return joblib.cpu_count()


def end_with_parent():
    """End this process by SIGKILL when its parent ends, however that ends (Linux, prctl(2)).

    Otherwise a loading process outlives a `kill -9` of its run: its queue's pipe is full, and it
    waits forever to write.
    """
    prctl = linux_function("prctl")
    if not prctl:
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    # the parent may have ended before prctl took hold
    if parent and os.getppid() != parent.pid:
        os._exit(1)
