"""The first ten minutes on a card: what was only forecast so far, measured by the product's steps.

    python -m benchmarks.gpu --out gpu.json          # ends by itself after nine minutes
    python -m benchmarks.gpu --out dry.json --dry    # a small network on a CPU, in seconds

It prints a table and writes one JSON, after each part, in this order: the card; memory and speed of
the seven large networks at 384 px, with and without checkpointing; layouts; learning at the default
rate; checkpointed against plain; fp16; checkpoints; predicting; a matrix product; teachers; a
compiled network; loading processes. A part that fails is a line, and the others go on. Weights are
random, images are noise (tinted by class where something is learnt).
"""
import argparse
import gc
import json
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from config import BACKBONES, FAMILIES, build_config, resolve
from data_loader import EpochSampler, ImageDataset, make_loader, noise_batch
from modeling.augment import plain_view
from modeling.compute import Compute, pick_device
from modeling.guard import Learning
from modeling.losses import Distilled, Supervised
from modeling.memory import Room, peak_memory_bytes, reset_peak_memory
from modeling.network import build_network
from modeling.norms import fused, norm_statistics
from modeling.optim import clip_norm_of, lr_at, make_ema, make_optimizer, peak_lr, set_lr
from modeling.train import TrainState, seed_everything
from modeling.weights import WeightsSource
from system.log import Timer

SECONDS = 540
GRACE_SECONDS = 60      # for the row that is being measured then
CLASSES = 17
# GB at micro-batch 8, without and with checkpointing (benchmarks/records/2026-11-27-memory.md)
FORECAST_GB = {"convnext": (8.9, 5.2), "swin": (11.5, 5.2), "beit": (16.3, 7.8),
               "efficientnetv2": (11.8, 5.0), "maxvit": (21.4, 7.3), "resnext": (18.9, 11.2),
               "vit": (10.9, 7.3)}


@dataclass(frozen=True)
class Lab:
    """Where and on what is measured. names: {family: timm name}."""

    device: torch.device
    names: dict
    size_px: int
    micro: int
    n_steps: int           # of each measured series
    n_learning: int
    matmul_seconds: float
    predict_sizes: tuple
    workers: tuple
    precision: str
    until: float           # by time.monotonic()

    @property
    def config(self):
        config = resolve(build_config("full_training"), gpu_memory_bytes=16 * 2**30, n_train=1570)
        return replace(config, optim=replace(config.optim, micro_batch_size=self.micro))

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, work, n=1):
        """Seconds of one of n calls, after one that is not counted."""
        work()
        self.sync()
        with Timer() as timer:
            for _ in range(n):
                work()
            self.sync()
        return timer.seconds / n

    def is_over(self):
        return time.monotonic() > self.until


class Subject:
    """A network with what a fit makes of it."""

    def __init__(self, lab, family, compute=None, checkpointed=False, teachers=()):
        self.lab = lab
        self.compute = compute or Compute(lab.precision)
        seed_everything("gpu", family)
        name = lab.names[family]
        with lab.device:
            network = build_network(name, n_classes=CLASSES, image_size_px=lab.size_px,
                                    weights=WeightsSource(name, "random"), model=lab.config.model)
        self.network = self.compute.prepare(network.to(lab.device)).train()
        optim = lab.config.optim
        room = Room(lab.micro, lab.device, self.network, "on" if checkpointed else "off")
        self.state = TrainState(self.network, make_ema(self.network, optim, 100),
                                make_optimizer(self.network, optim, True),
                                self.compute.scaler(lab.device), room)
        self.objective = Supervised(optim, torch.ones(CLASSES)).to(lab.device)
        if teachers:
            self.objective = Distilled(self.objective, teachers, 0.5, 2.0)
        self.peak = peak_lr(self.network, optim, True)
        self.number = 0

    def batch(self, n=None):
        """Two micro-batches of noise."""
        return noise_batch(n or 2 * self.lab.micro, CLASSES, self.lab.size_px)

    def step(self, batch, lr=None):
        """(loss, whether it was taken)"""
        set_lr(self.state.optimizer, lr or self.peak / 10)
        self.number += 1
        return self.state.step(self.number, self.objective, batch,
                               self.compute.autocast(self.lab.device),
                               clip_norm_of(self.network, self.lab.config.optim))

    def images_per_second(self):
        batch = self.batch()
        seconds = self.lab.timed(lambda: self.step(batch), self.lab.n_steps)
        return len(batch.index) / seconds


def freed(lab):
    """Give back what the last part left."""
    gc.collect()
    if lab.device.type == "cuda":
        torch.cuda.empty_cache()
    reset_peak_memory(lab.device)


# ---------------------------------------------------------------- parts: each yields (row, values)

def card(lab):
    """The machine, and whether memory past the cap is refused at once."""
    values = {"torch": torch.__version__, "cuda": torch.version.cuda, "precision": lab.precision,
              "python": platform.python_version(), "system": platform.system()}
    if program := shutil.which("nvidia-smi"):
        fields = "name,driver_version,power.limit,memory.total,memory.free"
        done = subprocess.run([program, f"--query-gpu={fields}", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=20, check=False)
        values["nvidia_smi"] = done.stdout.strip()
    if lab.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(lab.device)
        values |= {"free_gb": free / 1e9, "total_gb": total / 1e9,
                   "bf16": torch.cuda.is_bf16_supported(including_emulation=False)}
        with Timer() as timer:
            try:
                torch.empty(int(0.97 * total), dtype=torch.uint8, device=lab.device)
                values["past_the_cap"] = "WAS ALLOCATED"
            except torch.OutOfMemoryError:
                values["past_the_cap"] = "refused"
        values["refused_seconds"] = timer.seconds
    yield "card", values


def memory(lab):
    """Peak memory against the forecast, and images/s, with and without checkpointing."""
    for family in lab.names:
        for checkpointed in (False, True):
            freed(lab)
            subject = Subject(lab, family, checkpointed=checkpointed)
            rate = subject.images_per_second()
            yield f"{family}{' checkpointed' * checkpointed}", {
                "peak_gb": peak_memory_bytes(lab.device) / 1e9, "images_per_second": rate,
                "forecast_gb": FORECAST_GB[family][checkpointed],
                "micro_batch_size": subject.state.room.micro_batch_size}
            del subject


def layouts(lab):
    """Both memory formats, with and without cuDNN's timing."""
    before = torch.backends.cudnn.benchmark
    for family in ("resnext", "efficientnetv2", "convnext"):
        for channels_last in (True, False):
            for benchmark in ((True, False) if lab.device.type == "cuda" else (False,)):
                if family not in lab.names:
                    continue
                freed(lab)
                torch.backends.cudnn.benchmark = benchmark
                compute = Compute(lab.precision, channels_last)
                subject = Subject(lab, family, compute, checkpointed=family == "resnext")
                layout = "channels last" if channels_last else "contiguous"
                yield f"{family} {layout}{' benchmark' * benchmark}", {
                    "images_per_second": subject.images_per_second()}
                del subject
    torch.backends.cudnn.benchmark = before


def tinted(lab, n=80):
    """A Batch of n noise images, each tinted by its class."""
    batch = noise_batch(n, CLASSES, lab.size_px)
    tint = torch.rand(CLASSES, 3, generator=torch.Generator().manual_seed(0)) * 200
    images = batch.images.float() / 5 + tint[batch.index % CLASSES][:, :, None, None]
    return batch._replace(images=images.to(torch.uint8))


def learning(lab):
    """40 steps on 80 images at the default rate: what they explain of the classes."""
    data = tinted(lab)
    size = 2 * lab.micro
    optim = lab.config.optim
    for family in lab.names:
        freed(lab)
        subject = Subject(lab, family, checkpointed=True)
        watched = subject.objective = Learning(subject.objective)
        rng = np.random.default_rng(0)
        for step in range(lab.n_learning):
            if step == lab.n_learning * 3 // 4:
                watched.begin()
            rows = torch.from_numpy(rng.permutation(len(data.index))[:size])
            batch = type(data)(*(field[rows] for field in data))
            loss, _ = subject.step(batch, lr_at(step, lab.n_learning, optim, subject.peak))
        yield family, {"explained": watched.explained(), "loss": float(loss), "peak": subject.peak}
        del subject


def recomputed(lab):
    """A plain step against a checkpointed one."""
    for family in ("convnext", "efficientnetv2"):
        if family not in lab.names:
            continue
        found = []
        for checkpointed in (False, True):
            freed(lab)
            subject = Subject(lab, family, checkpointed=checkpointed)
            batch = noise_batch(lab.micro, CLASSES, lab.size_px)
            seed_everything("step")
            loss, _ = subject.step(batch)
            statistics = {k: v.cpu() for k, v in norm_statistics(subject.network).items()}
            found.append((float(loss), statistics))
            del subject
        (plain, one), (again, other) = found
        worst = max((float((one[k] - other[k]).abs().max()) for k in one), default=0.0)
        yield family, {"loss_change": again / plain - 1, "batch_norms_differ_by": worst}


def half(lab):
    """20 steps in fp16: how many are skipped until the loss's scale is found."""
    if lab.device.type != "cuda":
        return
    family = next(iter(lab.names))
    subject = Subject(lab, family, Compute("fp16"), checkpointed=True)
    batch = subject.batch()
    taken = [subject.step(batch)[1] for _ in range(20)]
    yield family, {"skipped": taken.count(False), "scale": subject.state.scaler.get_scale()}


def checkpoints(lab):
    """Seconds and bytes of saving a fit's state and of going on from it."""
    family = list(lab.names)[-1]
    subject = Subject(lab, family)
    subject.step(subject.batch())
    with tempfile.TemporaryDirectory() as folder:
        with Timer() as saving:
            subject.state.save(folder)
        n_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        with Timer() as loading:
            subject.state.load(folder)
    yield family, {"save_seconds": saving.seconds, "load_seconds": loading.seconds,
                   "gb": n_bytes / 1e9}


def predicting(lab):
    """Images/s of predicting, and how far half precision is from fp32."""
    for family in ("convnext", "vit"):
        if family not in lab.names:
            continue
        freed(lab)
        network = fused(Subject(lab, family).network.eval())
        values = {}
        with torch.inference_mode():
            for n in lab.predict_sizes:
                images = noise_batch(n, CLASSES, lab.size_px).images.to(lab.device)

                def answer(images=images, network=network):
                    with Compute(lab.precision).autocast(lab.device)():
                        return network(images).float().softmax(1)

                values[f"images_per_second_at_{n}"] = n / lab.timed(answer, lab.n_steps)
            exact = network(images[:8]).softmax(1)
            values["differs_from_fp32_by"] = float((answer()[:8] - exact).abs().max())
        yield family, values


def product(lab):
    """The device's own rate: a product of bf16 matrices."""
    side = 8192 if lab.device.type == "cuda" else 256
    a = torch.randn(side, side, device=lab.device, dtype=torch.bfloat16)
    n = 0
    a @ a
    lab.sync()
    with Timer() as timer:
        while timer.seconds < lab.matmul_seconds:
            for _ in range(20):
                a @ a
            lab.sync()
            n += 20
    yield "bf16", {"tflops": 2 * side**3 * n / timer.seconds / 1e12, "seconds": timer.seconds}


def teachers(lab):
    """The peak of a student beside two teachers."""
    student, *others = list(lab.names)[:3]
    compute = Compute(lab.precision)
    networks = []
    for family in others:
        own = Subject(lab, family).network.eval()
        networks.append(compute.as_teacher(fused(own), lab.device))
        freed(lab)
    subject = Subject(lab, student, checkpointed=True, teachers=networks)
    rate = subject.images_per_second()
    yield f"{student} by {len(networks)}", {"peak_gb": peak_memory_bytes(lab.device) / 1e9,
                                            "images_per_second": rate}


def compiled(lab):
    """A compiled network: its first step, then images/s."""
    if lab.device.type != "cuda":
        return
    subject = Subject(lab, "vit", Compute(lab.precision, compiled=True))
    batch = subject.batch()
    with Timer() as first:
        subject.step(batch)
        lab.sync()
    yield "vit", {"first_step_seconds": first.seconds,
                  "images_per_second": subject.images_per_second()}


def loading(lab):
    """Images/s that processes load and turn into batches."""
    images = list(np.random.default_rng(0).integers(256, size=(64, 360, 480, 3), dtype=np.uint8))
    view = plain_view(lab.size_px, "letterbox")
    for workers in lab.workers:
        data = ImageDataset(images, [f"i{i}" for i in range(64)],
                            lambda image, *_: view(image), ("gpu",))
        sampler = EpochSampler(64, 16, ("gpu",))
        loader = make_loader(data, sampler, workers)
        seconds = lab.timed(lambda loader=loader: [batch.images.shape for batch in loader],
                            lab.n_steps)
        yield f"{workers} processes", {"images_per_second": 64 / seconds}


PARTS = (card, memory, layouts, learning, recomputed, half, checkpoints, predicting, product,
         teachers, compiled, loading)


# ---------------------------------------------------------------- all of it

def measured(lab, path, show=print):
    """{part: {row: values}} of all parts until the time is over; written to `path` on the way."""
    results = {}
    for part in PARTS:
        rows = results[part.__name__] = {}
        freed(lab)
        try:
            for name, values in part(lab):
                rows[name] = values
                show(f"{part.__name__:<12} {name:<28} " + "  ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in values.items()))
                path.write_text(json.dumps(results, indent=1))
                if lab.is_over():
                    break
        except Exception as error:   # the rest is worth measuring
            rows["FAILED"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            show(f"{part.__name__:<12} FAILED {rows['FAILED']}")
        if lab.is_over():
            results["ended"] = f"after {part.__name__}, as {SECONDS} s were over"
            show(results["ended"])
            break
    path.write_text(json.dumps(results, indent=1))
    return results


def lab_of(is_dry):
    """The Lab of the card, or of a CPU with small members."""
    if is_dry:
        names = dict.fromkeys(("efficientnetv2", "convnext"), "mobilenetv3_small_050")
        return Lab(torch.device("cpu"), names, 32, 2, 1, 4, 0.05, (2, 4), (0,), "fp32",
                   time.monotonic() + SECONDS)
    device = pick_device("cuda")
    names = {family: BACKBONES[family][0] for family in FAMILIES}
    precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return Lab(device, names, 384, 8, 3, 40, 20.0, (32, 64), (2, 4, 8), precision,
               time.monotonic() + SECONDS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    # a row that hangs must not hold a rented card; the rows before it are written
    last = threading.Timer(SECONDS + GRACE_SECONDS, os._exit, [1])
    last.daemon = True
    last.start()
    measured(lab_of(args.dry), args.out)


if __name__ == "__main__":
    main()
