"""The training loop. One function, `fit`, trains one network; what differs between modes, rounds and folds is its values.

Measured: see benchmarks/RESULTS.md. A fit is resumed at its last epoch from the checkpoint in its folder and then ends
with the same bytes as an undisturbed one on a CPU: all randomness of an epoch is a function of the fit's name and the epoch.
"""
import contextlib
import csv
import math
import os
import random
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

try:
    import resource
except ImportError:      # Windows
    resource = None

from config import FitSpec
from modeling.optim import lr_at, make_ema, make_optimizer, peak_lr, set_lr
from utils import RunError, UserError, progress, seed_of


@dataclass(frozen=True)
class FitResult:
    """What a finished fit leaves: its weights are `folder/weights.safetensors` (the EMA at the last step)."""

    spec: FitSpec
    folder: Path
    epochs: tuple[dict, ...]
    seconds: float
    peak_memory_bytes: int
    skipped_steps: int

    def __post_init__(self):
        if not all(math.isfinite(e["loss"]) for e in self.epochs):
            raise RunError(f"FitResult of {self.spec.name} must have finite losses")


def seed_everything(*names):
    """Seed python, numpy and torch by names."""
    seed = seed_of(*names)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# ---------------------------------------------------------------- device and precision

def pick_device(name):
    """torch.device of runtime.device; auto: cuda, else mps, else cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device must be auto or a device of this machine (cpu, cuda, cuda:1, mps), got {name!r} "
                        f"({reason})") from None
    return device


def pick_precision(precision, device):
    """fp32 on a CPU; on a GPU bf16 where it has it, fp16 otherwise; what was asked for where it was."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"     # a T4 emulates it, slowly


def make_autocast(precision, device):
    """A function that makes the context of each forward pass; a no-op for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext
    return partial(torch.autocast, device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])


# ---------------------------------------------------------------- one step

def train_step(network, objective, optimizer, scaler, micro_batches, *, autocast, clip_norm):
    """One optimiser step over the micro-batches of one batch. Returns (loss () tensor, whether the step was taken).

    A step whose loss or gradient is not finite changes nothing but, for fp16, the scale.
    """
    optimizer.zero_grad(set_to_none=True)
    n = sum(len(m.index) for m in micro_batches)
    total = torch.zeros((), device=micro_batches[0].images.device)
    for micro in micro_batches:
        with autocast():
            loss = objective(network, micro).loss * (len(micro.index) / n)
        scaler.scale(loss).backward()
        total += loss.detach()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm or math.inf)
    finite = bool(torch.isfinite(norm) & torch.isfinite(total))
    if finite or scaler.is_enabled():      # an enabled scaler skips non-finite steps itself and lowers its scale
        scaler.step(optimizer)
    scaler.update()
    return total, finite


def split_batch(batch, micro_batch_size, device):
    """A Batch as micro-batches on the device."""
    n = len(batch.index)
    return [type(batch)(*(field[i:i + micro_batch_size].to(device, non_blocking=True) for field in batch))
            for i in range(0, n, micro_batch_size)]


# ---------------------------------------------------------------- the loop

def fit(spec, network, objective, loader, sampler, *, mix, config, n_epochs, pretrained, device, folder, events,
        description="", shorten=None, advance=lambda: None):
    """Train `network` in place for `n_epochs` over `loader`; returns a FitResult. Resumable by epoch in `folder`.

    mix(batch, generator, epoch) -> Batch: mixup and cutmix; sampler.set_epoch(epoch) gives the epoch's order.
    shorten(history, n_epochs) -> n_epochs: asked after each epoch, so that a fit can end in time; the learning rate
    then goes on from where its schedule over the fewer steps would be. advance(): called after each step.
    """
    optim, n_steps = config.optim, n_epochs * len(sampler)
    autocast = make_autocast(pick_precision(config.runtime.precision, device), device)
    scaler = torch.amp.GradScaler(device.type, enabled=pick_precision(config.runtime.precision, device) == "fp16")
    network.to(device)
    objective.to(device)
    optimizer = make_optimizer(network, optim, pretrained)
    peak, ema = peak_lr(network, optim, pretrained), make_ema(network, optim, n_steps)
    state = TrainState(network, ema, optimizer, scaler)
    history = state.load(folder)
    if config.runtime.compile == "on":
        network.compile()
    reset_peak_memory(device)
    in_a_row = 0

    bar = progress(total=n_steps, initial=len(history) * len(sampler), desc=description,
                   bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left{postfix}")
    while (epoch := len(history)) < n_epochs:
        bar.total = n_steps = n_epochs * len(sampler)
        seed_everything(config.seed, spec.name, spec.fold, epoch)
        generator = torch.Generator().manual_seed(seed_of(config.seed, spec.name, spec.fold, epoch, "mix"))
        sampler.set_epoch(epoch)
        network.train()
        start, losses, skipped = time.perf_counter(), [], 0
        for i, batch in enumerate(loader):
            step = epoch * len(sampler) + i
            lr = lr_at(step, n_steps, optim, peak)
            set_lr(optimizer, lr)
            micro_batches = split_batch(mix(batch, generator, epoch), optim.micro_batch_size, device)
            loss, taken = train_step(network, objective, optimizer, scaler, micro_batches,
                                     autocast=autocast, clip_norm=optim.clip_norm)
            if taken:
                ema.update(network, step=step + 1)
                losses.append(loss)
            skipped, in_a_row = skipped + (not taken), 0 if taken else in_a_row + 1
            if in_a_row >= optim.nonfinite_limit:
                raise diverged(spec, in_a_row, lr)
            if not bar.disable and i % 10 == 0:
                bar.set_postfix_str(f"epoch {epoch + 1}/{n_epochs} loss {float(loss):.3f}", refresh=False)
            bar.update()
            advance()
        if not losses:
            raise diverged(spec, skipped, lr)
        seconds = time.perf_counter() - start
        history.append({"epoch": epoch + 1, "loss": float(torch.stack(losses).mean()), "lr": lr, "skipped_steps": skipped,
                        "seconds": seconds, "images_per_second": len(sampler) * optim.batch_size / seconds,
                        "peak_memory_bytes": peak_memory_bytes(device)})
        state.save(folder, history)
        events.record("epoch", fit=spec.name, fold=spec.fold, n_epochs=n_epochs, **history[-1])
        n_epochs = shorten(history, n_epochs) if shorten else n_epochs
    bar.close()
    return finish(spec, ema.module, history, folder)


def diverged(spec, in_a_row, lr):
    return RunError(f"the fit {spec.name} of fold {spec.fold} had {in_a_row} non-finite steps in a row at learning rate "
                    f"{lr:.2e}: lower optim.lr, or use --set runtime.precision=fp32")


def finish(spec, network, history, folder):
    """Write the averaged weights and the history; drop the checkpoint."""
    weights = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    save_file(weights, Path(folder) / "weights.safetensors")
    with open(Path(folder) / "history.csv", "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    (Path(folder) / TrainState.NAME).unlink(missing_ok=True)
    return result_of(spec, folder, history)


def result_of(spec, folder, history):
    return FitResult(spec, Path(folder), tuple(history), sum(e["seconds"] for e in history),
                     max(e["peak_memory_bytes"] for e in history), sum(e["skipped_steps"] for e in history))


def load_result(spec, folder):
    """The FitResult of a finished fit, from its history.csv."""
    whole = ("epoch", "skipped_steps", "peak_memory_bytes")
    with open(Path(folder) / "history.csv", newline="", encoding="utf-8") as f:
        history = [{k: int(v) if k in whole else float(v) for k, v in row.items()} for row in csv.DictReader(f)]
    return result_of(spec, folder, history)


# ---------------------------------------------------------------- checkpoint

class TrainState:
    """Everything that the next epoch depends on, in one file that is replaced as a whole after each epoch."""

    NAME = "checkpoint.pt"

    def __init__(self, network, ema, optimizer, scaler):
        self.parts = {"network": network, "ema": ema.module, "optimizer": optimizer, "scaler": scaler}

    def save(self, folder, history):
        path = Path(folder) / self.NAME
        partial_path = path.with_suffix(".partial")
        torch.save({"history": history, **{k: v.state_dict() for k, v in self.parts.items()}}, partial_path)
        os.replace(partial_path, path)

    def load(self, folder):
        """Restore the last epoch's state; returns its history, [] when there is none."""
        path = Path(folder) / self.NAME
        if not path.exists():
            return []
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        return saved["history"]


# ---------------------------------------------------------------- memory

def reset_peak_memory(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device):
    """Most memory allocated on a GPU since `reset_peak_memory`; on a CPU the process's peak, 0 where the system has none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if resource else 0
