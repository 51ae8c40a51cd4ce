"""Which test images the first round would teach under several class quotas, and how many are right.

    python -m benchmarks.pseudo_labels RUN_FOLDER DATA_DIR ANSWERS.csv --quotas 0 2 1 0.5

Reads a finished run. The last two columns are the classes' parts in the loss over their parts
without pseudo-labels: if class weights counted all images learnt from, and as
`losses.class_weights` has them. Means over the run's folds.
"""
import argparse
from pathlib import Path

import numpy as np

from benchmarks.seeds import read_pairs
from config import DataConfig, OptimConfig, Round
from contest.intake import read_contest
from ensemble.teachers import pseudo_targets, teachers_temperature
from modeling.inference import Predictions
from modeling.losses import class_weights


def teachers(fold, split):
    """The Predictions of a split by each first-round fit of a fold.

    Falls back to valid images as they are if no test-like ones were made.
    """
    folders = sorted(fold.glob("predict-r0-*[0-9a-f]"))
    return [Predictions.load(path if (path := f / f"{split}.npz").exists() else f / "valid.npz")
            for f in folders]


def parts(counts, weights):
    """(C,) each class's part in the loss."""
    total = np.asarray(counts) * weights.numpy()
    return total / total.sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("data_path")
    parser.add_argument("answers", type=Path)
    parser.add_argument("--quotas", type=float, nargs="+", default=[0, 2, 1, 0.5])
    args = parser.parse_args()
    train, answers = read_contest(args.data_path, DataConfig()).train, read_pairs(args.answers)
    power = OptimConfig().class_weight_power
    label_of = dict(zip(train.sample_id.tolist(), train.label.tolist(), strict=True))
    folds = sorted(args.run_folder.glob("fold_*"))
    valid = {fold: teachers(fold, "valid_testlike") for fold in folds}
    print(
        "| class_quota | pseudo-labels | most of a class | fewest | right | "
        "class parts by all images | as they are |"
    )
    print("|---|---|---|---|---|---|---|")
    for quota in args.quotas:
        rows = []
        for k, fold in enumerate(folds):
            temperature = teachers_temperature([valid[other] for other in folds if other != fold],
                                               label_of)
            taught = pseudo_targets(teachers(fold, "test"),
                                    Round(unlabelled=True, class_quota=quota), k, temperature)
            winner, held = taught.probs.argmax(1), set(valid[fold][0].sample_id.tolist())
            labelled = np.bincount([y for i, y in label_of.items() if i not in held],
                                   minlength=len(train.classes))
            learnt = labelled + (taught.probs * taught.weight[:, None]).sum(0)
            before = parts(labelled, class_weights(labelled, power))
            ratios = [parts(learnt, w) / before for w in (class_weights(learnt, power),
                                                          class_weights(labelled, power, learnt))]
            right = np.mean([answers[i] == train.classes[c] for i,
                             c in zip(taught.sample_id.tolist(), winner, strict=True)])
            rows.append((np.bincount(winner, minlength=len(train.classes)), right, *ratios))
        counts, right, by_all, now = (np.mean(column, axis=0) for column in zip(*rows, strict=True))
        print(
            f"| {quota:g} | {counts.sum():.0f} | {counts.max():.0f} | {counts.min():.0f} | "
            f"{right:.3f} | "
            f"{by_all.min():.2f} to {by_all.max():.2f} | {now.min():.2f} to {now.max():.2f} |"
        )


if __name__ == "__main__":
    main()
