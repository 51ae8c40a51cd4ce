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

    python -m benchmarks.mended ../shared/data/trashnet ../shared/answers/trashnet.csv --keep DIR \\
        -- --weights_dir W --set model.backbones=mobilenetv2_100 data.run_folds=0

With --keep whole runs are made, two a seed, with the arguments after `--`: one on flipped labels,
and the same with `--label_fixes` of a file such as its report saves, in which that person has
looked at every image that the report lets one mend.
"""
import argparse
import json
import re
import shutil
import sys
from html import unescape
from pathlib import Path

import numpy as np
from scipy.special import softmax
from sklearn.metrics import f1_score

from benchmarks.seeds import read_pairs, split_argv
from benchmarks.seeds import run_seed as whole_run
from contest.audit import load_audit
from data_loader import load_folds
from modeling.frozen import fit_head
from modeling.inference import Features
from modeling.losses import class_weights
from reporting.page import MOST_SUSPECTS
from reporting.review import suspect_labels
from utils import csv_text, read_json

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


class HeadsAlone:
    """Seeds of a frozen member's classifiers."""

    def __init__(self, run_folder, answers):
        self.member = Member(run_folder, answers)
        print(f"{len(self.member.labels)} training images, {len(self.member.answers)} test images; "
              f"macro-F1 with no label flipped {self.member.learnt(self.member.labels)[1]:.4f}")

    def run_seed(self, share, seed):
        """(flipped labels found, listed, flipped, macro-F1 flipped, macro-F1 mended)."""
        true = self.member.labels
        wrong = flipped(true, share, self.member.classes, seed)
        probs, before = self.member.learnt(wrong)
        listed = suspect_labels(wrong, probs, MOST_SUSPECTS)
        after = self.member.learnt(mended(wrong, true, listed))[1]
        is_wrong = wrong != true
        return int(is_wrong[listed].sum()), len(listed), int(is_wrong.sum()), before, after


class WholeRuns:
    """Seeds of two runs each in one folder, as by a person who mends labels and runs again."""

    def __init__(self, data_path, answers, keep, argv):
        self.data_path = data_path
        self.answers = answers
        self.keep = keep
        self.argv = argv

    def run_seed(self, share, seed):
        """As HeadsAlone.run_seed."""
        contest = self.keep / f"contest{seed}"
        folder = self.keep / f"seed{seed}"
        true = read_pairs(self.data_path / "train.csv")
        wrong = flip_contest(self.data_path, contest, true, share, seed)
        before = self.score(contest, seed, "flipped", [])
        fits = keys_of_fits(folder)
        fixes = fixes_of((folder / "report.html").read_text(encoding="utf-8"), wrong, true)
        path = self.keep / f"label_fixes{seed}.csv"
        path.write_text(csv_text([("id", "label", "note"), *fixes]), encoding="utf-8")
        after = self.score(contest, seed, "mended", ["--label_fixes", str(path)])
        self.say_difference(folder, fits, [(i, wrong[i], label) for i, label, _ in fixes])
        n_found = sum(label != wrong[i] for i, label, _ in fixes)
        return n_found, len(fixes), sum(wrong[i] != true[i] for i in true), before, after

    def score(self, contest, seed, name, more):
        """The submission's macro-F1 on the test set; prints that of each member."""
        score, _, members = whole_run(contest, self.answers, seed, [*more, *self.argv], self.keep)
        alone = ", ".join(f"{member} {value:.4f}" for member, value in members.items())
        print(f"seed {seed}, {name}: {score:.4f}; alone: {alone}", flush=True)
        return score

    def say_difference(self, folder, fits, fixes):
        """Whether the second run's audit names the fixes, and how many fits have other keys."""
        audit = max(folder.glob("audit-*/audit.json"), key=lambda path: path.stat().st_mtime)
        named = [tuple(fix.values()) for fix in read_json(audit)["summary"]["label_fixes"]]
        n_new = len(keys_of_fits(folder) - fits)
        print(f"the audit names {'the' if named == fixes else 'other than the'} {len(fixes)} "
              f"fixes; {n_new} of {len(fits)} fits have other keys", flush=True)


def flip_contest(data_path, folder, true, share, seed):
    """{id: label} of a copy of the contest with some of the labels {id: label} flipped."""
    if not folder.exists():
        shutil.copytree(data_path, folder, copy_function=shutil.copyfile)
    classes = sorted(set(true.values()))
    labels = np.array([classes.index(label) for label in true.values()])
    changed = flipped(labels, share, len(classes), seed)
    wrong = {sample: classes[k] for sample, k in zip(true, changed, strict=True)}
    (folder / "train.csv").write_text(csv_text([("ID", "target"), *wrong.items()]),
                                      encoding="utf-8")
    return wrong


def fixes_of(page, wrong, true):
    """[(id, label, note)] that a person who knows the labels `true` saves from a report."""
    mend = json.loads(unescape(re.search(r'data-mend="([^"]*)"', page)[1]))
    return [(sample, true[sample], "kept" if true[sample] == wrong[sample] else
             f"relabelled, was {wrong[sample]}") for sample, *_ in mend["images"]]


def keys_of_fits(run_folder):
    """The folder, named by its key, of every fit that a run's results tell of."""
    fits = read_json(run_folder / "training_results.json")["fits"]
    return {(fit["fold"], fit["folder"]) for fit in fits}


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run's, or with --keep a contest's")
    parser.add_argument("answers", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are flipped")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make whole runs there")
    args = parser.parse_args(own)
    answers = read_pairs(args.answers)
    if args.keep:
        of = WholeRuns(args.folder, answers, args.keep, passed)
    else:
        of = HeadsAlone(args.folder, answers)
    rows = []
    for seed in args.seeds:
        n_found, n_listed, n_wrong, before, after = of.run_seed(args.share, seed)
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
