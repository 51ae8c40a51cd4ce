"""Fine-tuning settings compared on small training sets, for the defaults of config.py and optim.py.

    python -m benchmarks.recipe DATA_DIR WEIGHTS_DIR --per_class 40 "optim.lr=0.001" \\
        "optim.lr=0.002 augment.mix_share=0"

Each argument is one variant, as --set pairs. A few labelled images per class train; all other
labelled images of the contest judge, without near-duplicates of training images. The real test
images are audited, never trained or scored on. One view, no shift matching.
"""
import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from config import build_config
from contest.audit import audit_contest, load_audit
from contest.intake import read_contest
from ensemble.metrics import METRICS
from grandmaster_train import main as train


def few_per_class(catalog, per_class, seed):
    """Rows of at most `per_class` images (and half) of each class, and rows that judge them."""
    rng, few = np.random.default_rng(seed), []
    for label in range(len(catalog.classes)):
        rows = rng.permutation(np.flatnonzero(catalog.label == label))
        few += rows[:min(per_class, len(rows) // 2)].tolist()
    few = np.sort(few)
    return few, np.flatnonzero(~np.isin(catalog.group, catalog.group[few]))


def write_contest(catalog, few, judged, folder):
    """Write a contest folder: the few images as train, the judging ones as test."""
    for split, rows in (("train", few), ("test", judged)):
        (folder / split).mkdir(parents=True)
        for row in rows:
            target = folder / split / Path(catalog.path[row]).name
            target.write_bytes(Path(catalog.path[row]).read_bytes())
    lines = [f"{Path(catalog.path[r]).name},{catalog.classes[catalog.label[r]]}" for r in few]
    (folder / "train.csv").write_text("ID,target\n" + "\n".join(lines) + "\n", encoding="utf-8")
    lines = [f"{Path(catalog.path[r]).name},{catalog.classes[0]}" for r in judged]
    (folder / "sample_submission.csv").write_text("ID,target\n" + "\n".join(lines) + "\n",
                                                  encoding="utf-8")


def score_variant(catalog, judged, contest, results, name, argv):
    """Macro-F1 on the judging images."""
    if train(["--data_path", str(contest), "--results_dir", str(results), "--experiment_name", name,
              *argv]):
        raise SystemExit(f"the variant {name} failed")
    rows = (results / name / f"submission_{name}.csv").read_text(encoding="utf-8").splitlines()[1:]
    index = {c: i for i, c in enumerate(catalog.classes)}
    decoded = {line.rsplit(",", 1)[0]: index[line.rsplit(",", 1)[1]] for line in rows}
    probs = np.eye(len(catalog.classes))[[decoded[Path(catalog.path[r]).name] for r in judged]]
    return METRICS["macro_f1"](catalog.label[judged], probs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path")
    parser.add_argument("weights_dir")
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--per_class", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    data = build_config("quick_test").data
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        contest = read_contest(args.data_path, data)
        audit_contest(contest, data, 64, work, 2)
        catalog, table = load_audit(work, contest.folder).train, {variant: []
                                                                  for variant in args.variants}
        for seed in args.seeds:
            few, judged = few_per_class(catalog, args.per_class, seed)
            write_contest(catalog, few, judged, work / f"contest{seed}")
            for i, variant in enumerate(args.variants):
                argv = ["--weights_dir", args.weights_dir, "--set", f"seed={seed}",
                        "model.backbones=mobilenetv2_100", "model.frozen=", "data.n_folds=10",
                        "optim.epochs=8", "predict.tta_views=1", "augment.policy=standard",
                        *variant.split()]
                table[variant].append(score_variant(catalog, judged, work / f"contest{seed}", work,
                                                    f"v{i}s{seed}", argv))
    print(f"\nmacro-F1, {args.per_class} a class, {len(args.seeds)} seeds")
    for variant, scores in table.items():
        print(f"{statistics.mean(scores):.4f}  {' '.join(f'{s:.3f}' for s in scores)}  {variant}")


if __name__ == "__main__":
    main()
