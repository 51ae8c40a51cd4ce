"""Of the kinds of distortion that the program finds, how many are there? And how many does it find?

    python -m benchmarks.finds ../shared/data/docmix ../shared/data/signs26 [--only dark none]

Half of a contest's labelled training images play the test set, damaged by a recipe of
`benchmarks.damages`. Prints a row for each set and recipe, then precision and recall over the
recipes of known kinds, and on how many runs without a shift nothing was found.
"""
import argparse
import tempfile
from pathlib import Path

from benchmarks.damages import DAMAGES, KINDS_OF
from benchmarks.pretend import add_sides, write_pretended
from benchmarks.shift_recovery import halves
from shift.match import match_shift

FEWEST = 0.1      # of the images have a kind that counts as found


def precision_and_recall(runs):
    """(share of found kinds that are there, share of kinds that are there and were found).

    runs: [(recipe, set of found kinds)], recipes of KINDS_OF. A kind that a recipe may be read as
    counts as right, and is not asked for. None without a kind to count.
    """
    n_found = n_right = n_true = n_hits = 0
    for recipe, found in runs:
        true, allowed = KINDS_OF[recipe]
        n_found += len(found)
        n_right += len(found & (true | allowed))
        n_true += len(true)
        n_hits += len(found & true)
    return (n_right / n_found if n_found else None, n_hits / n_true if n_true else None)


def measure(data_dir, damage, seed, sides_px=None, **limits):
    """The ShiftReport of a pretended contest. limits: of `match_shift`."""
    with tempfile.TemporaryDirectory() as folder:
        write_pretended(data_dir, Path(folder), damage, seed, sides_px=sides_px)
        contest = Path(folder) / "contest"
        paths, labels = halves(data_dir, seed)[0]
        train = [contest / "train" / path.name for path in paths]
        test = sorted((contest / "test").iterdir())
        return match_shift(train, labels, test, seed=seed, workers=2, **limits)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dirs", type=Path, nargs="+")
    parser.add_argument("--only", nargs="*", default=[*DAMAGES, "none"],
                        choices=[*DAMAGES, "none"])
    parser.add_argument("--seed", type=int, default=0)
    add_sides(parser)
    args = parser.parse_args()

    runs = []
    for recipe in args.only:
        for data_dir in args.data_dirs:
            report = measure(data_dir, DAMAGES.get(recipe), args.seed, args.sides)
            distortions = report.policy.distortions
            runs.append((recipe, {d.kind for d in distortions if d.probability >= FEWEST}))
            listed = ", ".join(f"{d.kind} p {d.probability:.2f} {d.low:.3g}..{d.high:.3g}"
                               for d in distortions)
            print(f"{recipe:8} {data_dir.name:10} AUC {report.auc_before['value']:.2f} -> "
                  f"{report.auc_after['value']:.2f}  {report.seconds:4.0f} s  "
                  f"{listed or 'empty'}", flush=True)

    known = [run for run in runs if run[0] in KINDS_OF]
    print("precision, recall:", precision_and_recall(known), f"n={len(known)} runs")
    unshifted = [found for recipe, found in runs if recipe == "none"]
    print(f"no shift, nothing found: {sum(not found for found in unshifted)} of {len(unshifted)}")


if __name__ == "__main__":
    main()
