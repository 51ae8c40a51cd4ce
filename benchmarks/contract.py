"""The work that benchmarks/peers.py hands to every competitor: same images, split, network, epochs.

    folder/settings.json    a Job: backbone, weights file ('' for random), size, batch, epochs, ..
    folder/classes.json     the class values; a label is an index into them
    folder/train.csv        path,label of the images to train on; valid.csv: of those held out
    folder/test.csv         id,path of the images to predict

A peer runs as `python benchmarks/peer_NAME.py CONTRACT OUT` in an environment without the product,
with this folder first on its path, and writes OUT/predictions.csv (id,label) and OUT/timing.json.
This file imports only the standard library and what every peer has.
"""
import contextlib
import csv
import json
import os
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """What is trained and for how long.

    weights: a file, '' for random. bf16, channels_last: whether a step is faster with it.
    """

    backbone: str
    image_size_px: int
    batch_size: int
    epochs: int
    weights: str = ""
    workers: int = 2
    seed: int = 42
    bf16: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class Contract:
    """A Job with its images.

    train, valid: (path, index of the class); test: (path, id); classes: values as text.
    """

    job: Job
    classes: tuple[str, ...]
    train: tuple[tuple[str, int], ...]
    valid: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, str], ...]

    @property
    def n_steps(self):
        """Full batches in an epoch."""
        return len(self.train) // self.job.batch_size


def write_rows(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *rows])


def read_rows(path):
    """The rows of a csv below its header."""
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.reader(f))[1:]


def write_contract(folder, contract):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(asdict(contract.job), indent=1))
    (folder / "classes.json").write_text(json.dumps(contract.classes))
    for split in ("train", "valid"):
        rows = ((path, contract.classes[label]) for path, label in getattr(contract, split))
        write_rows(folder / f"{split}.csv", ("path", "label"), rows)
    write_rows(folder / "test.csv", ("id", "path"), ((name, path) for path, name in contract.test))


def read_contract(folder):
    folder = Path(folder)
    classes = tuple(json.loads((folder / "classes.json").read_text()))
    train, valid = (tuple((path, classes.index(label)) for path,
                          label in read_rows(folder / f"{split}.csv")) for split in ("train",
                                                                                     "valid"))
    test = tuple((path, name) for name, path in read_rows(folder / "test.csv"))
    return Contract(Job(**json.loads((folder / "settings.json").read_text())), classes, train,
                    valid, test)


class Peer:
    """Times and writes for a peer script:

        with Peer() as peer:
            with peer.timed("train"):
                ..
            peer.write(labels)
    """

    def __init__(self, argv=None):
        folder, out = argv or sys.argv[1:]
        self.contract, self.out, self.seconds = read_contract(folder), Path(out), {}
        self.job = self.contract.job

    def __enter__(self):
        self.out.mkdir(parents=True, exist_ok=True)
        seed_all(self.job.seed)
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            (self.out / "timing.json").write_text(json.dumps(self.seconds))
            print(json.dumps(self.seconds))

    @contextlib.contextmanager
    def timed(self, what):
        start = time.perf_counter()
        yield
        self.seconds[what] = time.perf_counter() - start

    def write(self, labels):
        """Write predictions.csv: one class index per test image, in the order of contract.test."""
        rows = [(name, self.contract.classes[int(k)]) for (_, name),
                k in zip(self.contract.test, labels, strict=True)]
        write_rows(self.out / "predictions.csv", ("id", "label"), rows)


def seed_all(seed):
    import numpy
    import torch
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def weights_kwargs(job):
    """Arguments that make timm load the weights from a file instead of a download."""
    return {"pretrained": True,
            "pretrained_cfg_overlay": {"file": job.weights}} if job.weights else {
                "pretrained": False}


def make_model(job, n_classes):
    """timm's network with a new head and the weights of the job's file, if it has one."""
    import timm
    import torch
    model = timm.create_model(job.backbone, num_classes=n_classes, **weights_kwargs(job))
    return model.to(memory_format=torch.channels_last) if job.channels_last else model


def autocast(job):
    """bf16 if it is faster."""
    import torch
    return torch.autocast("cpu", torch.bfloat16) if job.bf16 else contextlib.nullcontext()


class Images:
    """A data set of (path, target) rows; a loader may set `transform`, of an RGB PIL image."""

    def __init__(self, rows, transform=None):
        self.rows, self.transform = rows, transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        from PIL import Image
        path, target = self.rows[row]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), target


def untargeted(test):
    """Test rows as Images takes them, with a dummy target."""
    return tuple((path, 0) for path, _ in test)


def step_seconds(job, steps=3):
    """Seconds of a training step on noise, after one warm-up step.

    It chooses how a peer computes, before any timed run.
    """
    import torch
    model = make_model(job, 10).train()
    images = torch.randn(job.batch_size, 3, job.image_size_px, job.image_size_px)
    if job.channels_last:
        images = images.to(memory_format=torch.channels_last)
    taken = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        with autocast(job):
            loss = model(images).float().logsumexp(1).sum()
        torch.autograd.grad(loss, list(model.parameters()))
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def main():
    """`python contract.py CONTRACT` prints seconds of a step here, per way of computing, as JSON.
    """
    from dataclasses import replace
    job = read_contract(sys.argv[1]).job
    ways = [{"bf16": bf16, "channels_last": last} for bf16 in (False, True) for last in (False,
                                                                                         True)]
    print(json.dumps([{**way, "seconds": step_seconds(replace(job, weights="", **way))}
                      for way in ways]))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
