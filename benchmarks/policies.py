"""What does a setting gain on pretended contests? By default: is it worth matching the test set?

    python -m benchmarks.policies ../shared/data/docmix ../shared/data/signs26 --only dark fog -- \\
        --weights_dir ../shared/weights --set model.backbones=mobilenetv2_100 \\
        data.image_size_px=128 optim.epochs=8

Half of a contest's labelled training images play the test set, damaged by a recipe of
`benchmarks.damages`. Each of --variants is a run with these settings on top. Prints their macro-F1
and what the last one expected, then the mean and the worst gain of each over the first.
"""
import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.damages import DAMAGES
from benchmarks.pretend import add_sides, write_pretended
from benchmarks.seeds import read_pairs, run_seed, split_argv

VARIANTS = ("augment.policy=standard", "augment.policy=matched")


def scores(data_dir, recipe, seed, argv, variants, sides_px=None):
    """([macro-F1 of each variant], expected of the last) on one pretended contest."""
    settings = argv if "--set" in argv else [*argv, "--set"]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_pretended(data_dir, folder, DAMAGES.get(recipe), seed, sides_px=sides_px)
        answers = read_pairs(folder / "answers.csv")
        for variant in variants:      # in one folder: fits that are alike are made once
            score, final, _ = run_seed(folder / "contest", answers, seed,
                                       [*settings, *variant.split()], folder / "runs")
            found.append(score)
    return found, final["score"]["expected"]


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dirs", type=Path, nargs="+")
    parser.add_argument("--only", nargs="*", default=[*DAMAGES], choices=[*DAMAGES, "none"])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, metavar="'KEY=VALUE ...'")
    parser.add_argument("--seed", type=int, default=0)
    add_sides(parser)
    args = parser.parse_args(own)

    rows = []
    for recipe in args.only:
        for data_dir in args.data_dirs:
            found, expected = scores(data_dir, recipe, args.seed, passed, args.variants,
                                     args.sides)
            rows.append(found)
            print(f"row  {recipe:8}  {data_dir.name:10}"
                  + "".join(f"  {score:.4f}" for score in found)
                  + f"  expected {expected:.4f}", flush=True)

    print(f"\nover {args.variants[0]}, n={len(rows)}:")
    for k, variant in enumerate(args.variants[1:], 1):
        gains = [found[k] - found[0] for found in rows]
        print(f"{variant}: mean {statistics.mean(gains):+.4f}, worst {min(gains):+.4f}")


if __name__ == "__main__":
    main()
