"""A run's blend with and without its text member, and where model.text=auto has one.

    python -m benchmarks.text DATA_DIR ANSWERS.csv RESULTS_DIR --seeds 0 1 2 --classes 3 4 7 \\
        -- --weights_dir W --set model.backbones=mobilenetv2_100 data.n_folds=3
    python -m benchmarks.text --sample ../shared/data/docmix ../shared/data/trashnet

Each seed trains once, blends without the member and then with it. Prints the macro-F1 of both
submissions, the mean F1 of the named classes, and what reading took. The answers are for these
numbers alone. --sample: the share of training images with words enough, and seconds an image.
"""
import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from benchmarks.seeds import read_pairs, run_seed, split_argv
from config import DataConfig
from contest.intake import read_contest
from running.text import LEAST_SHARE
from running.words import WordReader, pictures_in, read_pictures, share_of, some_rows
from system.machine import usable_cores
from utils import read_json


def class_f1(submission, answers, classes):
    """Mean F1 of some classes; of all classes without any named."""
    ids = list(answers)
    wanted = classes or sorted(set(answers.values()))
    return f1_score([answers[i] for i in ids], [submission[i] for i in ids], labels=wanted,
                    average="macro")


def compare(args):
    """Rows of (macro-F1 without, with, F1 of the classes without, with), one per seed."""
    answers = read_pairs(args.answers)
    rows = []
    for seed in args.seeds:
        found = {}
        for text in ("off", "on"):
            score, final, _ = run_seed(args.data_path, answers, seed,
                                       [*args.argv, f"model.text={text}"], args.results_dir)
            folder = args.results_dir / f"seed{seed}"
            submission = read_pairs(folder / f"submission_seed{seed}.csv")
            found[text] = score, class_f1(submission, answers, args.classes), final
        (without, f1_without, _), (with_it, f1_with, final) = found["off"], found["on"]
        costs = [read_json(path) for path in folder.glob("words/*/cost.json")
                 if "images" in read_json(path)]
        n_images = sum(cost["images"] for cost in costs)
        each = sum(cost["seconds_each"] * cost["images"] for cost in costs) / max(1, n_images)
        said = next(row for row in final["sources"] if row["name"].startswith("text-"))
        print(f"seed {seed}: macro-F1 without {without:.4f}, with {with_it:.4f} "
              f"({with_it - without:+.4f}), expected {final['score']['expected']:.4f}; F1 of "
              f"{','.join(args.classes) or 'all classes'} {f1_without:.4f}, {f1_with:.4f}; text "
              f"alone out of fold {said['score']:.4f}, weight {said['weight']:.2f}; {n_images} "
              f"images read, {each:.2f} s each", flush=True)
        rows.append((without, with_it, f1_without, f1_with))
    return rows


def sample(folder):
    """A sentence on how many of a contest's training images hold words enough."""
    contest = read_contest(folder, DataConfig())
    pictures = pictures_in(contest.train)
    rows = some_rows(len(pictures))
    found = read_pictures(WordReader("", mirrored=False), [pictures[row] for row in rows],
                          usable_cores())
    seconds = np.mean([each["seconds"] for each in found if isinstance(each, dict)])
    share = share_of(found)
    decision = "text" if share >= LEAST_SHARE else "none"
    return f"{Path(folder).name}: {share:.0%} of {len(rows)}, {seconds:.2f} s each: {decision}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path", type=Path, nargs="?")
    parser.add_argument("answers", type=Path, nargs="?")
    parser.add_argument("results_dir", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--classes", nargs="+", default=[], help="that are confusable")
    parser.add_argument("--sample", type=Path, nargs="+", metavar="DIR", default=[])
    own, argv = split_argv()
    args = parser.parse_args(own)
    args.argv = argv if "--set" in argv else [*argv, "--set"]
    for folder in args.sample:
        print(sample(folder), flush=True)
    if args.results_dir:
        rows = compare(args)
        means = [statistics.mean(column) for column in zip(*rows, strict=True)]
        print(f"mean of {len(rows)}: macro-F1 {means[0]:.4f} without, {means[1]:.4f} with "
              f"({means[1] - means[0]:+.4f}); F1 of the classes {means[2]:.4f}, {means[3]:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
