"""Which estimate of the test score is best, tested on random halves of finished runs' valid images.

    python -m benchmarks.estimates RUN_FOLDER [RUN_FOLDER ...] [--draws 80]

One half plays the test set. Prints, per run and split, bias and root mean square error of each
estimate against that half's score. The score itself is noisy, so only differences between
estimates count.
"""
import argparse
import csv
from pathlib import Path

import numpy as np

from ensemble.judges import confident_scores
from ensemble.metrics import METRICS
from modeling.inference import Predictions


def labelled_predictions(run, split):
    """(labels, probs) of fold 0's valid images; None if the run has none of that split."""
    found = sorted(run.glob(f"fold_0/predict-*/{split}.npz"))
    if not found:
        return None
    p = Predictions.load(found[0])
    with open(next(run.glob("audit-*/catalog_train.csv")), newline="", encoding="utf-8") as f:
        label = {row["sample_id"]: int(row["label"]) for row in csv.DictReader(f)}
    return np.array([label[i] for i in p.sample_id.tolist()]), p.probs


def estimates(metric, labels, probs, others, seed):
    """{name: estimate of the metric on the rows `others`}"""
    score, accuracy = metric(labels, probs), METRICS["accuracy"](labels, probs)
    here, _, there = confident_scores(metric, labels, probs, others, n_scored=len(labels),
                                      seed=seed, draws=30)
    surer = (others.max(1) > np.quantile(probs.max(1), 1 - accuracy)).mean() if accuracy else 0.0
    return {"score of the labelled half": score, "moved by sureness": score + there - here,
            "by sureness": there, "mean of the last two (used)": (score + there - here + there) / 2,
            "moved by thresholded confidence": score * surer / max(accuracy, 1e-9)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=80)
    args = parser.parse_args()
    metric = METRICS["macro_f1"]
    for run in args.runs:
        for split in ("valid", "valid_testlike"):
            if not (found := labelled_predictions(run, split)):
                continue
            labels, probs = found
            errors = {}
            for draw in range(args.draws):
                order = np.random.default_rng(draw).permutation(len(labels))
                one, other = order[:len(order) // 2], order[len(order) // 2:]
                truth = metric(labels[other], probs[other])
                for name, value in estimates(metric, labels[one], probs[one], probs[other],
                                             draw).items():
                    errors.setdefault(name, []).append(value - truth)
            print(f"{run.name} {split}, {len(labels)} images, {args.draws} halves")
            for name, e in errors.items():
                print(
                    f"  {name:32} bias {np.mean(e):+.3f}  rmse {np.sqrt(np.mean(np.square(e))):.4f}"
                )


if __name__ == "__main__":
    main()
