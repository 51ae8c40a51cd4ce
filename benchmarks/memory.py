"""Peak memory of training a backbone, a FORECAST from the product's own step on fake tensors.

    python -m benchmarks.memory [--scale large] [--size 384] [--micro 1 2 4 8] \\
        [--backbones vit_large_patch16_384 ..]

Nothing is computed. The step has two micro-batches of one batch in bf16, as in `fit`: weights,
gradients, AdamW's moments, the EMA, what the backward pass keeps and computes. CUDA's own memory,
workspaces and what the allocator cannot fill are left out. CPU kernels stand for those of a GPU,
with layer norms and softmax in fp32 as on a GPU. GB are 10^9 bytes. --device cuda measures the same
on a GPU capped at 15 GB, with images per second; that has not been tried on one.
"""
import argparse
import contextlib
import time
import weakref
from functools import partial
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from config import BACKBONES, MICRO_BATCH_SIZE, SCALES, build_config
from data_loader import Batch
from modeling.compute import Compute
from modeling.losses import Supervised
from modeling.memory import peak_memory_bytes, reset_peak_memory
from modeling.network import build_network
from modeling.norms import checkpoint_gradients
from modeling.optim import clip_norm_of, make_ema, make_optimizer
from modeling.train import train_step
from modeling.weights import WeightsSource
from system.log import Timer

LIMIT_BYTES, CLASSES, BATCH_SIZE, STEPS = 15.0e9, 17, 64, 3
CONFIG = build_config("full_training")


@contextlib.contextmanager
def as_on_a_gpu():
    """Use fp32 where CUDA's autocast does and that of a CPU does not.

    A TorchFunctionMode would not reach backward passes.
    """
    def widened(function):
        return lambda x, *args, **kwargs: function(x.float(), *args, **kwargs)

    with (mock.patch.object(F, "layer_norm", widened(F.layer_norm)),
          mock.patch.object(torch.Tensor, "softmax", widened(torch.Tensor.softmax))):
        yield


class Tracker(TorchDispatchMode):
    """Bytes of all living tensors and their peak, as torch's MemTracker but without modules.

    A fake tensor has no value, so the question whether a loss is finite is answered with yes.
    """

    def __init__(self, tensors):
        super().__init__()
        self.now, self.peak, self.alive = 0, 0, {}
        self.add(tensors)

    def add(self, tensors):
        for storage in (t.untyped_storage() for t in tensors):
            if storage._cdata not in self.alive:
                self.now += storage.nbytes()
                self.alive[storage._cdata] = weakref.ref(storage,
                                                         partial(self.freed, storage._cdata,
                                                                 storage.nbytes()))
        self.peak = max(self.peak, self.now)

    def freed(self, key, n_bytes, _):
        self.now -= n_bytes
        del self.alive[key]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        made = func(*args, **kwargs or {})
        self.add(t for t in tree_leaves(made) if isinstance(t, torch.Tensor))
        return made


class Training:
    """What `fit` makes of a network, with one step of it."""

    def __init__(self, network, device):
        self.network, self.device = network, device
        self.optimizer, self.ema = (
            make_optimizer(network, CONFIG.optim, True),
            make_ema(network, CONFIG.optim, 100),
        )
        self.supervised = Supervised(CONFIG.optim, torch.ones(CLASSES)).to(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=False)

    def batch(self, n, size_px):
        device = self.device
        return Batch(torch.empty(n, 3, size_px, size_px, dtype=torch.uint8, device=device),
                     torch.full((n, CLASSES), 1 / CLASSES, device=device),
                     torch.ones(n, device=device), torch.arange(n))

    def step(self, micro_batches):
        train_step(self.network, self.supervised, self.optimizer, self.scaler, micro_batches,
                   autocast=Compute("bf16").autocast(self.device),
                   clip_norm=clip_norm_of(self.network, CONFIG.optim))
        self.ema.update(self.network, step=2)


def network_of(name, size_px):
    return build_network(name, n_classes=CLASSES, image_size_px=size_px,
                         weights=WeightsSource(name, "random"), model=CONFIG.model).train()


def forecast(name, size_px, micro, checkpointed):
    """Peak bytes of a step; None if the model has no gradient checkpointing."""
    # not fake: timm reads drop path rates from a tensor as it builds
    with torch.device("meta"):
        network = network_of(name, size_px)
    if checkpointed and not checkpoint_gradients(network):
        return None
    with FakeTensorMode(allow_non_fake_inputs=True):
        training = Training(network.to_empty(device="cpu"), torch.device("cpu"))
        batch = [training.batch(micro, size_px) for _ in range(2)]
        moments = [value for state in training.optimizer.state.values() for value in state.values()]
        tracker = Tracker([*tensors_of(network), *tensors_of(training.ema.module), *moments,
                           *batch[0], *batch[1]])
        with tracker, as_on_a_gpu():
            training.step(batch)
    return tracker.peak


def tensors_of(module):
    return [*module.parameters(), *module.buffers()]


def measured(name, size_px, micro, checkpointed):
    """(peak bytes, images per second) of whole batches on a GPU; (None, 0.0) if they do not fit."""
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0,
                                                   LIMIT_BYTES
                                                   / torch.cuda.get_device_properties(
                                                       device).total_memory))
    try:
        network = network_of(name, size_px).to(device)
        if checkpointed and not checkpoint_gradients(network):
            return None, 0.0
        training = Training(network, device)
        batch = [training.batch(micro, size_px) for _ in range(BATCH_SIZE // micro)]
        reset_peak_memory(device)
        training.step(batch)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(STEPS):
            training.step(batch)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return None, 0.0
    return peak_memory_bytes(device), STEPS * BATCH_SIZE / (time.perf_counter() - start)


def row(name, args, micro, checkpointed):
    """A line of the table."""
    with Timer() as timer:
        peak, rate = (measured(name, args.size, micro, checkpointed) if args.device == "cuda" else
                      (forecast(name, args.size, micro, checkpointed), 0.0))
    fits = "" if peak is None else "yes" if peak < LIMIT_BYTES else "NO"
    return (
        f"| {name} | {micro} | {'on' if checkpointed else 'off'} | "
        f"{f'{peak / 1e9:.1f}' if peak else '-'} | {fits} | "
        + (f"{rate:.1f} |" if args.device == "cuda" else f"{timer.seconds:.0f} |")
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="large", choices=SCALES)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--micro", type=int, nargs="+")
    parser.add_argument("--backbones", nargs="+")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    names = args.backbones or [members[SCALES.index(args.scale)] for members in BACKBONES.values()]
    print(
        f"| backbone at {args.size} px | micro-batch | gradient checkpointing | peak, GB | "
        "under 15.0 GB | "
        + ("images/s |" if args.device == "cuda" else "s to trace |")
        + "\n"
        + "|---|---|---|---|---|---|"
    )
    for name in names:
        for micro in args.micro or [MICRO_BATCH_SIZE[args.scale]]:
            for checkpointed in (False, True):
                print(row(name, args, micro, checkpointed), flush=True)


if __name__ == "__main__":
    main()
