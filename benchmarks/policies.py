"""Is it worth matching the test set? Matched against standard augmentation on pretended contests.

    python -m benchmarks.policies ../shared/data/docmix ../shared/data/signs26 --only dark fog -- \\
        --weights_dir ../shared/weights --set model.backbones=mobilenetv2_100 \\
        data.image_size_px=128 optim.epochs=8

Half of a contest's labelled training images play the test set, damaged by a recipe of
`benchmarks.damages`. Prints both macro-F1 for each set and recipe, then their mean difference and
the worst.
"""
import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.damages import DAMAGES
from benchmarks.pretend import write_pretended
from benchmarks.seeds import read_pairs, run_seed, split_argv

POLICIES = ("matched", "standard")


def scores(data_dir, recipe, seed, argv):
    """{policy: (macro-F1, expected)} on one pretended contest."""
    settings = argv if "--set" in argv else [*argv, "--set"]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_pretended(data_dir, folder, DAMAGES.get(recipe), seed)
        answers = read_pairs(folder / "answers.csv")
        for policy in POLICIES:
            score, final, _ = run_seed(folder / "contest", answers, seed,
                                       [*settings, f"augment.policy={policy}"], folder / policy)
            found[policy] = (score, final["score"]["expected"])
    return found


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dirs", type=Path, nargs="+")
    parser.add_argument("--only", nargs="*", default=[*DAMAGES], choices=[*DAMAGES, "none"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(own)

    rows = []
    for recipe in args.only:
        for data_dir in args.data_dirs:
            rows.append((recipe, data_dir.name, scores(data_dir, recipe, args.seed, passed)))

    print("\nrecipe    set         matched  standard  difference  expected")
    for recipe, name, found in rows:
        matched, standard = (found[policy][0] for policy in POLICIES)
        print(f"{recipe:8}  {name:10}  {matched:.4f}   {standard:.4f}    {matched - standard:+.4f}"
              f"     {found['matched'][1]:.4f}")
    differences = [found["matched"][0] - found["standard"][0] for *_, found in rows]
    print(f"mean {statistics.mean(differences):+.4f}, worst {min(differences):+.4f}, "
          f"n={len(differences)}")


if __name__ == "__main__":
    main()
