"""How many threads compute: one fewer than cores where other programs keep a core busy.

    settle_threads(setup, prepared, log)      # before anything is trained

OpenMP's threads wait for each other after each operation. If another program takes the core of one,
all wait: with a thread for each of two cores, training falls to a third beside one busy program,
and with one thread to two thirds (benchmarks/records/2026-11-30-busy-machine.md).
"""
import contextlib
import time

import torch

from config import FitSpec
from modeling.compute import WORTH, Compute
from modeling.train import seed_everything
from running.costs import noise_for, steps_ahead, still_step
from running.fits import new_network
from system.log import Timer
from system.stages import Stage, make
from utils import read_json, write_json

TIMED_IMAGES = 8
TIMED_SECONDS = 3.0      # of both ways together; single steps show only how busy a moment was


@contextlib.contextmanager
def same_threads_after():
    """torch computes with as many threads after it as before: a notebook goes on."""
    n_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def settle_threads(setup, prepared, log):
    """Let torch compute with as many threads as pay here. Kept: a resumed run has as many.

    Only for training in this process, on a CPU, that is long enough to pay for a few timed steps.
    """
    runtime = prepared.config.runtime
    n_threads = torch.get_num_threads()
    backbones = prepared.config.model.backbones
    if not (setup.device.type == "cpu" and runtime.engine == "local" and runtime.measure
            and n_threads > 1 and backbones and steps_ahead(prepared, backbones[0])):
        return
    stage = Stage.of(prepared.folder, "threads", version=1, settings=n_threads, inputs=[])
    if not stage.is_done and any(prepared.folder.glob("fold_*/*")):
        return      # a fit has begun with all of them

    def measure(folder):
        chosen = fewer_if_faster(n_threads, step_of(prepared, backbones[0]), TIMED_SECONDS)
        write_json(folder / "threads.json", {"threads": chosen})

    make(stage, measure, log)
    chosen = read_json(stage.folder / "threads.json")["threads"]
    if chosen < n_threads:
        log.say(f"other programs are busy here: training with {chosen} of {n_threads} threads is "
                "faster", event="threads", threads=chosen)
        torch.set_num_threads(chosen)


def step_of(prepared, backbone, compute=None):
    """A function that takes one training step on TIMED_IMAGES of noise."""
    config = prepared.config
    device = torch.device("cpu")
    seed_everything(config.seed, "threads", backbone)
    network = new_network(prepared, FitSpec(backbone, config.seed, 0, 0)).train()
    compute = compute or Compute()
    compute.prepare(network)
    noise = noise_for(prepared, network, TIMED_IMAGES, device)
    return still_step(network, *noise, compute, config.optim, device)


def fewer_if_faster(n_threads, step, seconds):
    """`n_threads`, or one fewer if the same steps then take clearly less time together.

    Both are timed by turns. torch has `n_threads` afterwards.
    """
    total = {n_threads: 0.0, n_threads - 1: 0.0}
    step()      # the first one allocates memory
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not all(total.values()):
        for n in total:
            torch.set_num_threads(n)
            step()      # its threads start
            with Timer() as timer:
                step()
                step()
            total[n] += timer.seconds
    torch.set_num_threads(n_threads)
    return n_threads - 1 if total[n_threads - 1] * WORTH < total[n_threads] else n_threads
