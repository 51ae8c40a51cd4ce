"""Wall time of the same run by both engines: one fit after the other, and Ray with a one-core worker per core; the bytes too.

    OMP_NUM_THREADS=1 python -m benchmarks.engines [--repeats 3] [--epochs 8] [--demo_size 0.2]

A quick 2-backbone x 3-fold run on the embedded contest. One core per fit in both: one thread, images loaded in the process.
Each is a command of its own, start and end included, by turns. Prints seconds and whether the submissions are equal.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import demo_contest
from utils import Timer

ENGINES = ("local", "ray")


def command(engine, results, args):
    return [sys.executable, "grandmaster_train.py", "--engine", engine, "--results_dir", str(results),
            "--experiment_name", "run", "--demo_size", str(args.demo_size), "--set",
            "model.backbones=mobilenetv3_small_050,mobilenetv2_035", "data.n_folds=3", "data.run_folds=3",
            f"optim.epochs={args.epochs}", "predict.tta_views=2", "augment.policy=standard", "model.pretrained=off",
            "runtime.measure=off", "runtime.workers=0", "data.image_size_px=96"]


def timed(engine, args):
    """(seconds, bytes of the submission) of one run in a folder of its own, the contest drawn before."""
    with tempfile.TemporaryDirectory() as results:
        words = command(engine, results, args)
        demo_contest.draw_contest(Path(results) / f"demo_contest_{args.demo_size:g}", args.demo_size)
        with Timer() as timer:
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return timer.seconds, next(Path(results).glob("run/submission_*.csv")).read_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--demo_size", type=float, default=0.2)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds, written = {engine: [] for engine in ENGINES}, set()
    for repeat in range(args.repeats):
        for engine in ENGINES:
            taken, submission = timed(engine, args)
            seconds[engine].append(taken)
            written.add(submission)
            print(f"{repeat + 1}  {engine:<5}  {taken:6.1f} s  load {os.getloadavg()[0]:.1f}", flush=True)
    means = {engine: statistics.mean(taken) for engine, taken in seconds.items()}
    ratios = [ray / local for local, ray in zip(*seconds.values(), strict=True)]
    print(f"means {means['local']:.1f} and {means['ray']:.1f} s, ray over local {statistics.mean(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f}), n={args.repeats}; "
          + ("the submissions are equal" if len(written) == 1 else "THE SUBMISSIONS DIFFER"))


if __name__ == "__main__":
    main()
