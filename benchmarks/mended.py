"""Does mending what the report lists pay? Labels are flipped, listed, mended, and learnt again.

    python grandmaster_train.py --data_path ../shared/data/trashnet --weights_dir W \\
        --experiment_name froz --set model.frozen=mobilenetv2_100 model.backbones= \\
        augment.policy=standard
    python -m benchmarks.mended training_results/froz ../shared/answers/trashnet.csv --seeds 0 1 2

RUN_FOLDER: a finished run of one frozen member without a measured shift, whose features are used
again, so that a seed takes seconds. A share of the training labels is flipped at random to another
class. A pretended person looks at each image that the report would list as a label that may be
wrong, gives a flipped one its label back and keeps the others. Prints the precision and recall of
the list, and macro-F1 on the test set before and after mending and with no label flipped.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.special import softmax
from sklearn.metrics import f1_score

from benchmarks.seeds import read_pairs
from contest.audit import load_audit
from data_loader import load_folds
from modeling.frozen import fit_head
from modeling.inference import Features
from modeling.losses import class_weights
from reporting.page import MOST_SUSPECTS
from reporting.review import suspect_labels
from utils import read_json

STRENGTH = 10.0      # of the classifiers, as the record of frozen members has it


class Member:
    """What a frozen member's classifiers learn from, and what they are asked."""

    def __init__(self, run_folder, answers):
        """answers: {id: class value} of the test images."""
        audit = load_audit(only(run_folder.glob("audit-*")), run_folder)
        folder = only(path for path in run_folder.glob("frozen/*")
                      if not path.name.startswith("heads-"))
        train = audit.train
        self.labels = train.label
        self.classes = len(train.classes)
        self.folds = load_folds(only(run_folder.glob("folds-*")) / "folds.csv").fold
        self.train = Features.load(folder / "valid.npz").of(train.sample_id.tolist())[:1]
        test = Features.load(folder / "test.npz")
        ids = [i for i in test.sample_id.tolist() if i in answers]
        self.test = test.of(ids)
        self.answers = [train.classes.index(answers[i]) for i in ids]
        self.power = read_json(run_folder / "config.json")["optim"]["class_weight_power"]

    def learnt(self, labels):
        """(probs (n, C) out of fold, macro-F1 of the mean of the folds' classifiers on test)."""
        probs = np.zeros((len(labels), self.classes), np.float32)
        test = 0
        for fold in np.unique(self.folds).tolist():
            rows = self.folds == fold
            head = fit_head(self.train, labels, self.weigh, ~rows, STRENGTH)
            probs[rows] = said(head, self.train[0, rows])
            test = test + np.mean([said(head, view) for view in self.test], axis=0)
        return probs, f1_score(self.answers, test.argmax(1), average="macro")

    def weigh(self, labels):
        counts = np.bincount(labels, minlength=self.classes)
        return class_weights(counts, self.power).numpy()


def said(head, features):
    return softmax(features @ head.weight.T + head.bias, axis=1)


def only(paths):
    """The one of some paths."""
    path, = paths
    return path


def flipped(labels, share, n_classes, seed):
    """labels (n,) with `share` of them changed to another class at random."""
    rng = np.random.default_rng([seed, 7])
    changed = labels.copy()
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    changed[rows] = (labels[rows] + rng.integers(1, n_classes, len(rows))) % n_classes
    return changed


def mended(labels, true_labels, listed):
    """labels (n,) with those of the rows `listed` as they truly are."""
    fixed = labels.copy()
    fixed[listed] = true_labels[listed]
    return fixed


def run_seed(member, share, seed):
    """(flipped labels found, listed, flipped, macro-F1 flipped, macro-F1 mended)."""
    wrong = flipped(member.labels, share, member.classes, seed)
    probs, before = member.learnt(wrong)
    listed = suspect_labels(wrong, probs, MOST_SUSPECTS)
    after = member.learnt(mended(wrong, member.labels, listed))[1]
    is_wrong = wrong != member.labels
    return int(is_wrong[listed].sum()), len(listed), int(is_wrong.sum()), before, after


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are flipped")
    args = parser.parse_args()
    member = Member(args.run_folder, read_pairs(args.answers))
    print(f"{len(member.labels)} training images, {len(member.answers)} test images; macro-F1 with "
          f"no label flipped {member.learnt(member.labels)[1]:.4f}")
    rows = []
    for seed in args.seeds:
        n_found, n_listed, n_wrong, before, after = run_seed(member, args.share, seed)
        rows.append((n_found / max(n_listed, 1), n_found / n_wrong, before, after, after - before))
        print(f"seed {seed}: {n_found} of {n_wrong} flipped labels among {n_listed} listed; "
              f"macro-F1 {before:.4f} flipped, {after:.4f} mended ({after - before:+.4f})",
              flush=True)
    precision, recall, before, after, gain = np.mean(rows, axis=0)
    print(f"mean of {len(rows)}: precision {precision:.2f}, recall {recall:.2f}, macro-F1 "
          f"{before:.4f} flipped, {after:.4f} mended ({gain:+.4f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
