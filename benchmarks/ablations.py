"""What each setting that competition_ready adds is worth alone, on top of plain cross-entropy.

    python -m benchmarks.ablations DATA_DIR ANSWERS.csv --seeds 0 1 2 --results_dir DIR \\
        -- --weights_dir W --set model.backbones=mobilenetv2_100 optim.epochs=8

Trains one fold and prints a markdown table: macro-F1 on the test set and out of fold (images made
like the test set), mean and sd over the seeds. The score is that of the last round's backbones
alone (the mean of several), whether or not a run would use that round. All variants are runs in one
folder, so their common stages (audit, shift, folds, the cross-entropy round that teaches) are done
once. A second call continues, reading finished variants from DIR/ablations.json.
"""
import argparse
import json
import statistics
import sys
from pathlib import Path

from benchmarks.seeds import member_score, read_pairs, split_argv
from grandmaster_train import main as train
from utils import read_json, write_json

PLAIN = (
    "model.head=linear optim.label_smoothing=0 optim.focal_gamma=0 optim.class_weight_power=0 "
    "augment.mix_share=0 optim.ema_share=0 data.run_folds=1 data.image_size_px=128 "
    "runtime.measure=off"
)
OF_FULL_TRAINING = (
    "optim.label_smoothing=0.1 optim.class_weight_power=0.5 augment.mix_share=0.3 "
    "optim.ema_share=0.1"
)
VARIANTS = {
    "CE": "",
    "+ class weights": "optim.class_weight_power=0.5",
    "+ label smoothing": "optim.label_smoothing=0.1",
    "+ focal": "optim.focal_gamma=1",
    "+ ArcFace": "model.head=arcface",
    "+ ArcFace, 3 centres": "model.head=arcface model.arcface_centers=3",
    "+ mixup": "augment.mix_share=0.3 augment.cutmix_alpha=0",
    "+ EMA": "optim.ema_share=0.1",
    "+ pseudo": "rounds=2",
    "+ distillation": "rounds=2 rounds.unlabelled=off rounds.alpha=0.5",
    "all of full_training": OF_FULL_TRAINING,
    "all of competition_ready but its second round": (
        f"{OF_FULL_TRAINING} optim.focal_gamma=1 model.head=arcface"),
}


def run_variant(args, passed, variant, seed, answers):
    """{"test", "oof", "seconds", "pseudo_labels"} of the last round of one run; seconds a fit."""
    argv = ["--mode", "full_training", "--data_path", args.data_path, "--results_dir",
            str(args.results_dir), "--experiment_name", "ablations", "--set", *PLAIN.split(),
            *passed, "--set", *variant.split(), f"seed={seed}"]
    if status := train(argv):
        sys.exit(status)
    folder = args.results_dir / "ablations"
    final = read_json(folder / "final_results.json")
    last = [s for s in final["sources"]
            if s["name"].startswith(f"r{final['rounds'][-1]['round']}-")]
    return {"test": statistics.mean(member_score(folder, s["name"], final, answers) for s in last),
            "oof": statistics.mean(s["score"] for s in last),
            "seconds": statistics.mean(s["seconds"] / s["folds"] for s in last),
            "pseudo_labels": final["rounds"][-1]["pseudo_labels"]}


def table(names, seeds, results):
    """Markdown lines: each variant's mean and sd over its seeds and mean gain over cross-entropy.

    The gain is taken on the same seeds.
    """
    yield ("| variant | test macro-F1 | sd | minus CE | out of fold | sd | minus CE | "
           "seconds a fit | n |")
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in names:
        rows, cells = {seed: results[name, seed] for seed in seeds}, [name]
        for key in ("test", "oof"):
            values = [row[key] for row in rows.values()]
            gains = [row[key] - results["CE", seed][key] for seed,
                     row in rows.items() if ("CE", seed) in results]
            cells += [f"{statistics.mean(values):.4f}", f"{statistics.stdev(values):.4f}"
                      if len(values) > 1 else "-", f"{statistics.mean(gains):+.4f}" if gains
                      and name != "CE" else ""]
        cells += [f"{statistics.mean(row['seconds'] for row in rows.values()):.0f}", str(len(rows))]
        yield f"| {' | '.join(cells)} |"


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path")
    parser.add_argument("answers", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS),
                        metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--results_dir", type=Path, default=Path("training_results"))
    args = parser.parse_args(own)
    answers, path, results = read_pairs(args.answers), args.results_dir / "ablations.json", {}
    stored = read_json(path) if path.exists() else {}
    for seed in args.seeds:
        for name in args.only:
            key = json.dumps([VARIANTS[name], seed, args.data_path, PLAIN, passed])
            if key not in stored:
                stored[key] = run_variant(args, passed, VARIANTS[name], seed, answers)
                write_json(path, stored)
            results[name, seed] = stored[key]
    print("\n" + "\n".join(table(args.only, args.seeds, results)))


if __name__ == "__main__":
    main()
