"""One command over several seeds, scored against known answers: the last number, never a tuning signal.

    python -m benchmarks.seeds DATA_DIR ANSWERS.csv --seeds 0 1 2 -- --weights_dir W --set model.backbones=mobilenetv2_100 \\
        data.image_size_px=160 optim.epochs=8

Prints, per seed, the macro-F1 of the submission, the score that the run expected and the seconds it took, then mean and sd.
"""
import argparse
import csv
import statistics
import sys
import tempfile
from pathlib import Path

from sklearn.metrics import f1_score

from grandmaster_train import main as train
from utils import read_json


def read_pairs(path):
    """{id: class} of a two-column csv."""
    with open(path, newline="", encoding="utf-8") as f:
        return {row[0]: row[1] for row in list(csv.reader(f))[1:]}


def run_seed(data_path, answers, seed, argv, results_dir):
    """(macro-F1, final_results.json's content) of one run."""
    name = f"seed{seed}"
    argv = [*argv, "--set", f"seed={seed}"] if "--set" not in argv else [*argv, f"seed={seed}"]
    status = train(["--data_path", str(data_path), "--results_dir", str(results_dir), "--experiment_name", name, *argv])
    if status:
        sys.exit(status)
    submission = read_pairs(results_dir / name / f"submission_{name}.csv")
    ids = list(answers)
    score = f1_score([answers[i] for i in ids], [submission[i] for i in ids], average="macro")
    return score, read_json(results_dir / name / "final_results.json")


def main():
    argv = sys.argv[1:]
    own, passed = (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(own)
    answers, rows = read_pairs(args.answers), []
    with tempfile.TemporaryDirectory() as results_dir:
        for seed in args.seeds:
            score, final = run_seed(args.data_path, answers, seed, passed, Path(results_dir))
            rows.append((seed, score, final["score"]["expected"], final["score"]["expected_ci90"], final["seconds"]))
    print(f"\nmacro-F1 on {len(answers)} test images of {args.data_path.name}: {' '.join(passed)}")
    print("seed  macro-F1  expected  (90 % interval)   seconds")
    for seed, score, expected, (low, high), seconds in rows:
        print(f"{seed:>4}  {score:.4f}    {expected:.4f}    ({low:.3f} to {high:.3f})  {seconds:.0f}")
    scores = [row[1] for row in rows]
    print(f"mean {statistics.mean(scores):.4f}, sd {statistics.stdev(scores) if len(scores) > 1 else 0:.4f}, n={len(scores)}")


if __name__ == "__main__":
    main()
