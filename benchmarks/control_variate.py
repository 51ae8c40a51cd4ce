"""How near a one-fold score comes to that of all folds, with and without a control variate.

    python grandmaster_train.py --data_path DIR --weights_dir W --results_dir R --set \\
        model.frozen=mobilenetv2_100,vit_small_patch14_dinov2 model.backbones= \\
        data.test_usage=none data.image_size_px=128
    python -m benchmarks.control_variate R/RUN [R/RUN ...]

Each of two frozen members plays the trained one in turn: its score on one fold's rows, alone and
moved by what the other scores on all folds (`ensemble.control`), against its score on all. Prints
root mean square errors and how many 90 % intervals hold that score, over folds and members.
"""
import argparse
import csv
from pathlib import Path

import numpy as np

from ensemble.control import control_variate
from ensemble.metrics import METRICS, bootstrap_ci90
from modeling.inference import Predictions, load_views


def members(run):
    """{member: (sample ids, probs (n, C), folds (n,))} of the run's frozen members."""
    found = {}
    for file in sorted(run.glob("fold_*/predict-frozen-*/valid.npz")):
        name = file.parent.name.removeprefix("predict-").rsplit("-", 1)[0]
        mean = Predictions.mean(list(load_views(file).values()))
        fold = int(file.parent.parent.name.removeprefix("fold_"))
        found.setdefault(name, []).append((mean.sample_id, mean.probs,
                                           np.full(len(mean.probs), fold)))
    return {name: tuple(map(np.concatenate, zip(*parts, strict=True)))
            for name, parts in found.items()}


def catalog(run):
    """({sample id: label}, {sample id: group})"""
    with open(next(run.glob("audit-*/catalog_train.csv")), newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return ({row["sample_id"]: int(row["label"]) for row in rows},
            {row["sample_id"]: row["group"] for row in rows})


def cases(run, metric):
    """(truth, score, its interval, moved score, its interval, strength) for each member and fold.
    """
    label_of, group_of = catalog(run)
    found = members(run)
    for name, (ids, probs, folds) in found.items():
        ids = ids.tolist()
        labels = np.array([label_of[sample] for sample in ids])
        groups = np.array([group_of[sample] for sample in ids])
        truth = metric(labels, probs)
        for other, (their_ids, theirs, _) in found.items():
            if other == name:
                continue
            place = {sample: row for row, sample in enumerate(their_ids.tolist())}
            aligned = theirs[[place[sample] for sample in ids]]
            for fold in np.unique(folds):
                few = np.flatnonzero(folds == fold)
                score = metric(labels[few], probs[few])
                ci90 = np.array(bootstrap_ci90(metric, labels[few], probs[few], groups=groups[few],
                                               draws=1000, seed=0))
                control = control_variate(metric, labels, probs[few], aligned, few,
                                          groups=groups[few], draws=1000, seed=0)
                moved = score + control.change
                yield (truth, score, ci90, moved, moved + control.width * (ci90 - score),
                       control.strength)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--metric", default="macro_f1", choices=METRICS)
    args = parser.parse_args()
    print("run                        n   rmse   moved  width  strength  in 90 %  moved in 90 %")
    everything = []
    for run in args.runs:
        found = list(cases(run, METRICS[args.metric]))
        everything += found
        print(f"{run.name:22}  {row(found)}")
    print(f"{'all':22}  {row(everything)}")


def row(found):
    truth, score, ci90, moved, moved_ci90, strength = map(np.array, zip(*found, strict=True))

    def holds(interval):
        return ((interval[:, 0] <= truth) & (truth <= interval[:, 1])).mean()

    def rmse(values):
        return np.sqrt(np.mean((values - truth) ** 2))

    width = np.ptp(moved_ci90, axis=1).mean() / np.ptp(ci90, axis=1).mean()
    return (f"{len(found):4}  {rmse(score):.4f}  {rmse(moved):.4f}  {width:.2f}   "
            f"{strength.mean():.2f}      {holds(ci90):.2f}     {holds(moved_ci90):.2f}")


if __name__ == "__main__":
    main()
