"""One command over several seeds, scored against known answers: for a last number, never to tune.

    python -m benchmarks.seeds DATA_DIR ANSWERS.csv --seeds 0 1 2 -- --weights_dir W \\
        --set model.backbones=mobilenetv2_100 data.image_size_px=160 optim.epochs=8

Prints per seed the submission's macro-F1, the score the run expected and its seconds, then mean and
sd; for a blend also its members' scores. With --keep also what `--compare` says of each pair of
seeds: how many intervals hold zero.
"""
import argparse
import csv
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

from sklearn.metrics import f1_score

from grandmaster_train import main as train
from modeling.inference import Predictions, load_views
from reporting.compare import compare
from utils import read_json


def read_pairs(path):
    """{id: class} of a two-column csv."""
    with open(path, newline="", encoding="utf-8") as f:
        return {row[0]: row[1] for row in list(csv.reader(f))[1:]}


def run_seed(data_path, answers, seed, argv, results_dir):
    """(macro-F1, final_results.json's content) of one run."""
    name = f"seed{seed}"
    argv = [*argv, "--set", f"seed={seed}"] if "--set" not in argv else [*argv, f"seed={seed}"]
    status = train(["--data_path", str(data_path), "--results_dir", str(results_dir),
                    "--experiment_name", name, *argv])
    if status:
        sys.exit(status)
    submission = read_pairs(results_dir / name / f"submission_{name}.csv")
    ids = list(answers)
    score = f1_score([answers[i] for i in ids], [submission[i] for i in ids], average="macro")
    final = read_json(results_dir / name / "final_results.json")
    members = {source["name"].removesuffix(f"-s{seed}"): member_score(results_dir / name,
                                                                      source["name"], final,
                                                                      answers)
               for source in final["sources"]}
    return score, final, members


def member_score(folder, source, final, answers):
    """Test macro-F1 of one source alone: the mean over its folds and the views it keeps."""
    files = {}      # of each fold, the newest: runs with other settings may have left theirs
    for file in sorted(folder.glob(f"fold_*/predict-{source}-*[0-9a-f]/test.npz"),
                       key=lambda file: file.stat().st_mtime):
        files[file.parent.parent] = file
    kept = final["blend"]["views"][source]
    views = [load_views(file)[view] for file in files.values() for view in kept]
    mean = Predictions.mean(views)
    ids = mean.sample_id.tolist()
    return f1_score([answers[i] for i in ids], [final["classes"][k] for k in mean.probs.argmax(1)],
                    average="macro")


def print_pairs(folder, seeds):
    """What --compare says of each pair of seeds in a folder of runs."""
    n_zero = 0
    pairs = list(itertools.combinations(seeds, 2))
    for one, other in pairs:
        compared = compare(folder / f"seed{one}", folder / f"seed{other}")
        row = compared["splits"]["out_of_fold"]
        low, high = row["change_ci90"]
        n_zero += low <= 0 <= high
        print(f"{one} to {other} on {compared['n']} images: {row['change']:+.4f} "
              f"({low:+.4f} to {high:+.4f})")
    print(f"{n_zero} of {len(pairs)} intervals hold zero")


def split_argv():
    """(the benchmark's own arguments, those after `--` to pass on)"""
    argv = sys.argv[1:]
    return (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, metavar="DIR",
                        help="leave the runs there, and go on with those begun")
    args = parser.parse_args(own)
    answers, rows, each = read_pairs(args.answers), [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in args.seeds:
            score, final, members = run_seed(args.data_path, answers, seed, passed,
                                             args.keep or Path(scratch))
            rows.append((seed, score, final["score"]["expected"], final["score"]["expected_ci90"],
                         final["seconds"]))
            each[seed] = members
    print(f"\nmacro-F1 on {len(answers)} test images of {args.data_path.name}: {' '.join(passed)}")
    print("seed  macro-F1  expected  (90 % interval)   seconds")
    for seed, score, expected, (low, high), seconds in rows:
        print(
            f"{seed:>4}  {score:.4f}    {expected:.4f}    ({low:.3f} to {high:.3f})  {seconds:.0f}")
    scores = [row[1] for row in rows]
    print(
        f"mean {statistics.mean(scores):.4f}, "
        f"sd {statistics.stdev(scores) if len(scores) > 1 else 0:.4f}, n={len(scores)}"
    )
    if args.keep and len(rows) > 1:
        print_pairs(args.keep, args.seeds)
    if len(each[args.seeds[0]]) > 1:
        print("\nits members alone, by seed")
        for name in each[args.seeds[0]]:
            print(f"{name:<36}" + "".join(f"  {each[seed].get(name, float('nan')):.4f}"
                                          for seed in args.seeds))
        gains = [score - max(each[seed].values()) for seed, score, *_ in rows]
        print(f"{'blend minus its best member':<36}" + "".join(f" {g:+.4f}" for g in gains)
              + f", mean {statistics.mean(gains):+.4f}")


if __name__ == "__main__":
    main()
