"""Train on a contest folder as downloaded and leave a submission, a score estimate and a readable
record.

    python grandmaster_train.py                                         # draws the embedded contest and trains on it
    python grandmaster_train.py --mode quick_test --data_path DIR       # your contest
    python grandmaster_train.py --mode full_training --data_path DIR --set optim.epochs=20 data.image_size_px=224
    python grandmaster_train.py --verify EXPERIMENT                     # are its files as they were written?

Run the same command again to continue a run that was interrupted. Exit status: 0 done, 1 the run
failed, 2 bad arguments or data, 130 interrupted.
"""
import argparse
import csv
import sys
from pathlib import Path

import demo_contest
from config import PRESETS, SCALES, Config, build_config, settings_text
from ensemble.metrics import METRICS
from running.checks import run_checks
from running.conclusion import RESULTS_MANIFEST
from running.pipeline import run
from system.command import DONE, FAILED, Parser, run_command
from system.log import printable
from system.stages import changed_files
from utils import UserError


def make_parser():
    parser = Parser(prog="grandmaster_train.py", description=__doc__.split("\n\n")[0],
                    allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
                    epilog="settings of --set, with their defaults (a mode has some of its own):\n"
                    + settings_text().replace("%", "%%"))
    parser.add_argument("--mode", default="quick_test",
                        help=f"one of {', '.join(PRESETS)} (default quick_test)")
    parser.add_argument("--data_path", metavar="DIR",
                        help="contest folder as downloaded; without it the embedded contest")
    parser.add_argument("--experiment_name", metavar="NAME",
                        help="folder of the run (default MODE_FOLDER)")
    parser.add_argument("--results_dir", metavar="DIR",
                        help="where experiments go (default training_results)")
    parser.add_argument("--weights_dir", metavar="DIR",
                        help="folder with <timm model name>*.safetensors or .pth")
    parser.add_argument("--scale", help=f"size of the backbones: auto, {', '.join(SCALES)}")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--metric", help=f"{', '.join(METRICS)} (default macro_f1; log_loss for a "
                        "submission with one column per class)")
    parser.add_argument("--group_column", help="column whose equal values must stay in one fold")
    parser.add_argument("--time_budget", type=float, metavar="HOURS",
                        help="hours that the run may take")
    parser.add_argument("--engine",
                        help="where fits run: local, or side by side on every GPU or core: ray")
    parser.add_argument(
        "--demo_size",
        type=float,
        default=demo_contest.DEFAULT_SIZE,
        metavar="SHARE",
        help=f"size of the embedded contest, 1 is 1,570 + 3,140 images (default {demo_contest.DEFAULT_SIZE})",
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="any other setting")
    parser.add_argument("--quiet", action="store_const", const=True,
                        help="print warnings and the closing table only")
    parser.add_argument("--dry_run", action="store_true",
                        help="print the plan with each stage's state and stop")
    parser.add_argument("--verify", metavar="EXPERIMENT",
                        help="compare a run's files with what was written, and stop")
    return parser


FLAGS = {"results_dir": "runtime.results_dir", "weights_dir": "runtime.weights_dir",
         "scale": "scale", "device": "runtime.device", "metric": "metric",
         "group_column": "data.group_column", "time_budget": "runtime.time_budget_hours",
         "engine": "runtime.engine", "quiet": "runtime.quiet"}


def config_of(args) -> Config:
    values = {key: getattr(args, flag) for flag, key in FLAGS.items() if getattr(args,
                                                                                 flag) is not None}
    return build_config(args.mode, args.set, values)


def experiment_folder(args, config, data_path):
    name = args.experiment_name or f"{config.mode}_{Path(data_path).resolve().name}"
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--experiment_name must be a plain folder name, got {name!r}")
    return Path(config.runtime.results_dir) / name


def contest_folder(args, config):
    """(folder, answers): the user's, or the embedded contest, drawn on first use, with its known
    answers."""
    if args.data_path is not None:
        return Path(args.data_path), None
    folder = Path(config.runtime.results_dir) / f"demo_contest_{args.demo_size:g}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not config.runtime.quiet:
        print(f"no --data_path: using the embedded contest in {folder}", flush=True)
    demo_contest.draw_contest(folder, args.demo_size)
    with open(demo_contest.answers_path(folder), newline="", encoding="utf-8") as f:
        return folder, {row["ID"]: row["target"] for row in csv.DictReader(f)}


def verify(folder):
    """Print which files of a run changed after they were written; returns the exit status."""
    n_files, changed = changed_files(folder, RESULTS_MANIFEST)
    if not n_files:
        raise UserError(
            f"--verify must name an experiment that has completed a stage, and there is none in {str(folder)!r}: "
            "check the name and --results_dir"
        )
    for name in changed:
        print(f"changed: {printable(name)}")
    print(f"{n_files - len(changed)} of {n_files} files of {folder} are as they were written"
          + ("; the command that made the run makes the others again" if changed else ""))
    return FAILED if changed else DONE


def command(argv):
    """What the arguments ask for; returns the exit status."""
    args = make_parser().parse_args(argv)
    for flag in ("data_path", "results_dir", "experiment_name", "verify"):
        if getattr(args, flag) == "":
            raise UserError(
                f"--{flag} must name something, got '': check the variable in its place, or leave the flag out"
            )
    config = config_of(args)
    if args.verify:
        return verify(Path(config.runtime.results_dir) / args.verify)
    data_path, answers = contest_folder(args, config)
    folder = experiment_folder(args, config, data_path)
    if config.mode == "debug":
        return run_checks(config, data_path, folder)
    run(config, data_path, folder, answers=answers, dry_run=args.dry_run,
        command=["python", "grandmaster_train.py", *argv])
    return DONE


def main(argv=None):
    """Run the command; returns the exit status."""
    return run_command(command, argv)


if __name__ == "__main__":
    sys.exit(main())
