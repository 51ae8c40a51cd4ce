"""Does mending what the report lists pay? Labels are flipped, listed, mended, and the run repeated.

    python -m benchmarks.mended ../shared/data/trashnet ../shared/answers/trashnet.csv \\
        --seeds 0 1 2 -- --weights_dir W --set model.frozen=mobilenetv2_100 model.backbones= \\
        data.image_size_px=160 augment.policy=standard

A share of the training labels is flipped at random to another class. A pretended person looks at
every image under `Labels that may be wrong`, gives a flipped one its label and keeps the others.
Prints the precision and recall of that list, and the submission's macro-F1 before and after mending
and with no label flipped. DATA_DIR: train.csv with columns ID and target, train/, test/.
"""
import argparse
import json
import re
import shutil
import sys
import tempfile
from html import unescape
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from benchmarks.seeds import read_pairs, split_argv
from grandmaster_train import train
from utils import csv_text

SECTION = re.compile(r"Labels that may be wrong</h3>(.*?)<h3>", re.DOTALL)


def flipped(labels, share, seed):
    """{id: label} with `share` of the labels changed to another class at random."""
    rng = np.random.default_rng([seed, 7])
    classes = sorted(set(labels.values()))
    ids = sorted(labels)
    chosen = rng.choice(len(ids), round(share * len(ids)), replace=False)
    changed = dict(labels)
    for k in chosen:
        others = [c for c in classes if c != labels[ids[k]]]
        changed[ids[k]] = others[rng.integers(len(others))]
    return changed


def write_contest(data_dir, folder, labels):
    """The contest with these labels."""
    shutil.copytree(data_dir, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    (folder / "train.csv").unlink()
    (folder / "train.csv").write_text(csv_text([("ID", "target"), *labels.items()]))


def listed(page):
    """The ids that a report lists as labels that may be wrong."""
    text = page.read_text(encoding="utf-8")
    images = json.loads(unescape(re.search(r'data-mend="([^"]*)"', text)[1]))["images"]
    section = SECTION.search(text)
    return [images[int(n)][0] for n in re.findall(r'data-image="(\d+)"', section[1])]


def macro_f1(result, answers):
    """Of the submission on the test set."""
    submission = read_pairs(Path(result["folder"]) / result["submission"])
    return f1_score(list(answers.values()), [submission[i] for i in answers], average="macro")


def run_seed(data_dir, answers, seed, share, argv, folder):
    """(found, listed, flipped, macro-F1 with no label flipped, with some, and with these mended).

    argv: of grandmaster_train.py.
    """
    labels = read_pairs(data_dir / "train.csv")
    wrong = flipped(labels, share, seed)
    contest = folder / f"flipped{seed}"
    write_contest(data_dir, contest, wrong)
    flags, settings = flags_of(argv)
    settings |= {"seed": seed}

    def run(name, data_path, **more):
        return train(data_path, settings=settings, results_dir=folder / "results", quiet=True,
                     experiment_name=f"{name}{seed}", **flags, **more)

    whole = macro_f1(run("whole", data_dir), answers)
    before = run("flipped", contest)
    ids = listed(Path(before["folder"]) / "report.html")
    fixes = folder / f"label_fixes{seed}.csv"
    fixes.write_text(csv_text([("id", "label", "note"), *((i, labels[i], "") for i in ids)]))
    after = run("mended", contest, label_fixes=fixes)
    n_found = sum(wrong[i] != labels[i] for i in ids)
    n_wrong = sum(wrong[i] != labels[i] for i in labels)
    return n_found, len(ids), n_wrong, whole, macro_f1(before, answers), macro_f1(after, answers)


def flags_of(argv):
    """(flags, settings) of `train`, of the command's arguments: --name value ..., then --set."""
    at = argv.index("--set") if "--set" in argv else len(argv)
    flags = dict(zip((name.lstrip("-") for name in argv[:at:2]), argv[1:at:2], strict=True))
    return flags, dict(setting.split("=", 1) for setting in argv[at + 1:])


def main():
    own, argv = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are flipped")
    args = parser.parse_args(own)
    answers = read_pairs(args.answers)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            row = run_seed(args.data_dir.resolve(), answers, seed, args.share, argv, Path(folder))
            n_found, n_listed, n_wrong, whole, before, after = row
            rows.append((n_found / max(n_listed, 1), n_found / n_wrong, whole, before, after,
                         after - before))
            print(f"seed {seed}: {n_found} of {n_wrong} flipped labels among {n_listed} listed; "
                  f"macro-F1 {whole:.4f} with none flipped, {before:.4f} flipped, {after:.4f} "
                  f"mended ({after - before:+.4f})", flush=True)
    means = np.mean(rows, axis=0)
    print("mean: precision {:.2f}, recall {:.2f}, macro-F1 {:.4f}, {:.4f}, {:.4f} ({:+.4f})".format(
        *means))
    return 0


if __name__ == "__main__":
    sys.exit(main())
