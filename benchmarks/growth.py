"""How time and memory of audit, shift, folds and epochs grow with the number of images.

    python -m benchmarks.growth [--sizes 1000 10000 100000] [-- --set data.image_size_px=32]

Draws that many training images of 64 px in ten classes, and a tenth as many blurred test images.
The real program runs each size in its own process. Memory is read after each stage and epoch:
first the process's own, then with the mapped pages of libraries and of the image cache, which the
system takes back when it needs them. Prints a table and each time's exponent, log t / log n.
"""
import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

from benchmarks.seeds import split_argv
from grandmaster_train import main as train
from modeling.train import Tally
from running import preparing
from system.log import Timer
from utils import read_json, write_json

STAGES = {"audit": "audited", "shift": "matched", "folds": "folded"}      # of running.preparing
SIDE_PX, CLASSES, EPOCHS = 64, 10, 3
ARGV = ["--mode", "quick_test", "--set", f"optim.epochs={EPOCHS}",
        "model.backbones=mobilenetv3_small_050", "model.pretrained=off", "predict.tta_views=1",
        "runtime.measure=off", "data.image_size_px=32"]


def drawn(label, rng):
    """uint8 (S, S, 3): `label` + 1 discs on a ground of noise."""
    image = rng.integers(120, 200, 3) + rng.normal(0, 12, (SIDE_PX, SIDE_PX, 3))
    image = np.clip(image, 0, 255).astype(np.uint8)
    for x, y, radius in zip(*rng.integers(6, SIDE_PX - 6, (2, label + 1)),
                            rng.integers(3, 8, label + 1), strict=True):
        cv2.circle(image, (int(x), int(y)), int(radius), rng.integers(0, 110, 3).tolist(), -1)
    return image


def draw_contest(folder, n):
    """Write n training images in class folders and n / 10 images in a test folder."""
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / "train" / f"class{i % CLASSES}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), drawn(i % CLASSES, rng))
    (folder / "test").mkdir()
    for i in range(n // 10):
        cv2.imwrite(str(folder / "test" / f"{i:06}.jpg"), cv2.GaussianBlur(drawn(i % CLASSES, rng),
                                                                           (0, 0), 1.2))


def memory():
    """Memory of this process in MB: (its own, with mapped pages)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(round(int(lines[name].split()[0]) / 1000) for name in ("RssAnon", "VmRSS"))


def watched(folder, passed):
    """{"seconds", "memory"} of stages and epochs of a run in this process."""
    seconds, used = {}, {"start": memory()}

    def timed(name, function):
        def run(*values):
            with Timer() as timer:
                made = function(*values)
            seconds[name], used[name] = timer.seconds, memory()
            return made
        return run

    def row(self, *args, row=Tally.row):
        found = row(self, *args)
        name = f"epoch {sum(name.startswith('epoch') for name in seconds) + 1}"
        seconds[name], used[name] = found["seconds"], memory()
        return found

    stages = {function: timed(name, getattr(preparing, function))
              for name, function in STAGES.items()}
    with (mock.patch.multiple(preparing, **stages), mock.patch.object(Tally, "row", row),
          Timer() as timer):
        if status := train(["--data_path", str(folder / "data"), "--results_dir",
                            str(folder / "results"), *ARGV, *passed]):
            sys.exit(status)
    seconds["whole run"], used["whole run"] = timer.seconds, memory()
    return {"seconds": seconds, "memory": used}


def measured(n, passed):
    """`watched` of n images, in its own process."""
    with tempfile.TemporaryDirectory() as scratch:
        draw_contest(Path(scratch) / "data", n)
        subprocess.run([sys.executable, "-m", "benchmarks.growth", "--run", scratch, "--", *passed],
                       check=True, stdout=subprocess.DEVNULL)
        return read_json(Path(scratch) / "measured.json")


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(own)
    if args.run:
        write_json(args.run / "measured.json", watched(args.run, passed))
        return
    found = {n: measured(n, passed) for n in args.sizes}
    print(f"{'seconds':<12}" + "".join(f"{n:>16,}" for n in found) + "   exponent")
    for name in found[args.sizes[0]]["seconds"]:
        times = [found[n]["seconds"][name] for n in found]
        grown = math.log(times[-1] / times[0]) / math.log(args.sizes[-1]
                                                          / args.sizes[0]) if len(
                                                              times) > 1 else math.nan
        print(f"{name:<12}" + "".join(f"{t:>16.2f}" for t in times) + f"   {grown:8.2f}")
    print("\nMB of the main process: its own, with mapped pages")
    for name in found[args.sizes[0]]["memory"]:
        print(f"{name:<12}" + "".join(f"{own:>9} {whole:>6}" for own,
                                      whole in (found[n]["memory"][name] for n in found)))


if __name__ == "__main__":
    main()
