"""Wall time of the same run on both engines: one fit after another, and Ray with a worker per core.

    python -m benchmarks.engines [--repeats 3] [--data_path DATA_DIR] [--backbones A,B] \\
        [--keep DIR] -- --weights_dir W --set optim.epochs=12 data.image_size_px=128

A quick run of 2 backbones x 3 folds, by default on the embedded contest. Each fit of both engines
uses one thread of torch and of OpenCV and loads images in its process. The engines alternate; each
run is a command of its own, timed with its start and end. Prints seconds and whether the
submissions are equal byte by byte.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import demo_contest
from benchmarks.seeds import split_argv
from system.log import Timer

ENGINES = ("local", "ray")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}


def command(engine, results, args, passed):
    words = [sys.executable, "grandmaster_train.py"]
    words += ["--engine", engine, "--results_dir", str(results), "--experiment_name", "run"]
    words += ["--data_path", args.data_path] if args.data_path else ["--demo_size",
                                                                     str(args.demo_size)]
    own = [f"model.backbones={args.backbones}", "data.n_folds=3", "data.run_folds=3",
           "runtime.workers=0"]
    return [*words, *passed, "--set", *own]


def timed(engine, args, passed, results):
    """(seconds, bytes of the submission) of one run in its own folder, the contest drawn before."""
    results.mkdir(parents=True, exist_ok=True)
    if not args.data_path:
        demo_contest.draw_contest(results / f"demo_contest_{args.demo_size:g}", args.demo_size)
    words = command(engine, results, args, passed)
    with Timer() as timer:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=os.environ | ONE_THREAD)
    return timer.seconds, next(results.glob("run/submission_*.csv")).read_bytes()


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data_path")
    parser.add_argument("--demo_size", type=float, default=0.2)
    parser.add_argument("--backbones", default="efficientnetv2,convnext")
    parser.add_argument("--keep", metavar="DIR", help="leave the runs there")
    args = parser.parse_args(own)
    seconds, written = {engine: [] for engine in ENGINES}, set()
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(args.repeats):
            for engine in ENGINES:
                folder = Path(args.keep or scratch) / f"{engine}{repeat}"
                taken, submission = timed(engine, args, passed, folder)
                seconds[engine].append(taken)
                written.add(submission)
                print(f"{repeat + 1}  {engine:<5}  {taken:6.1f} s  load {os.getloadavg()[0]:.1f}",
                      flush=True)
    means = {engine: statistics.mean(taken) for engine, taken in seconds.items()}
    ratios = [ray / local for local, ray in zip(*seconds.values(), strict=True)]
    print(
        f"means {means['local']:.1f} and {means['ray']:.1f} s, "
        f"ray over local {statistics.mean(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}), n={args.repeats}; "
        + ("the submissions are equal" if len(written) == 1 else "THE SUBMISSIONS DIFFER")
    )


if __name__ == "__main__":
    main()
