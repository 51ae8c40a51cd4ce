#!/usr/bin/env python3
"""Train on a contest folder as downloaded. Leaves a submission, a score estimate and a report.

    python grandmaster_train.py                                     # the embedded contest
    python grandmaster_train.py --mode quick_test --data_path DIR   # your contest
    python grandmaster_train.py --mode full_training --data_path DIR --set optim.epochs=20 seed=7
    python grandmaster_train.py --verify EXPERIMENT                 # did any of its files change?

Run the same command again to continue an interrupted run. Exit status: 0 done, 1 the run failed,
2 bad arguments or data, 130 interrupted.
"""
import argparse
import math
import os
import platform
import sys
import time
from html import escape
from importlib.metadata import version
from pathlib import Path

from system import installed  # noqa: F401  (first: it says which packages are missing)

# isort: split
import demo_contest
from config import (
    AUTO,
    PRESETS,
    SCALES,
    Config,
    build_config,
    resolve,
    settings_text,
    with_values,
)
from contest.files import ascii_safe
from contest.intake import read_contest
from ensemble.tasks import EVERY_METRIC, TASKS
from reporting.compare import compare, lines_of
from running.checks import run_checks
from running.costs import machine_facts
from running.fetching import fetch_into
from running.look import look
from running.pipeline import run
from running.prune import prune
from system.command import (
    DONE,
    FAILED,
    JSON,
    Parser,
    asks_for_json,
    failure_of,
    run_command,
    set_up_packages,
)
from system.log import show
from system.machine import signals_interrupt
from system.stages import RESULTS_MANIFEST, changed_files
from utils import UserError, csv_rows, json_text, plain

VERSION = "1.0"
# what a shell offers after a flag; the checks of values are elsewhere
CHOICES = {"help": ["all"], "mode": [*PRESETS], "scale": [AUTO, *SCALES], "metric": [*EVERY_METRIC],
           "device": ["auto", "cpu", "cuda", "mps"], "engine": ["local", "ray"],
           "print_completion": ["bash", "zsh", "tcsh", "fish"]}
# of the first command, without a size of training: with the imports before it under 4 minutes
FIRST_SECONDS = 215


class ShowHelp(argparse.Action):
    """--help: a screen of flags; --help all: every setting too."""

    def __call__(self, parser, namespace, value, option_string=None):
        if value not in (None, "all"):
            raise UserError(f"--help is followed by all or nothing, got {value!r}")
        lines = parser.format_help().splitlines()
        if value == "all":
            lines += ["", "settings for --set, with their defaults (a mode changes some):",
                      *settings_text().splitlines()]
        for line in lines:
            show(line)
        parser.exit()


class ShowVersion(argparse.Action):
    """--version: of the program and of what its numbers depend on."""

    def __call__(self, parser, namespace, value, option_string=None):
        packages = [f"{name} {version(name)}" for name in ("torch", "timm", "albumentations")]
        show(f"grandmaster-train {VERSION}, Python {platform.python_version()}, "
             + ", ".join(packages))
        parser.exit()


class PrintCompletion(argparse.Action):
    """--print-completion bash: what a shell must read to complete flags and their values."""

    def __call__(self, parser, namespace, value, option_string=None):
        import shtab  # here, because only this needs it

        if value not in shtab.SUPPORTED_SHELLS:
            raise UserError(f"--print-completion must be one of {', '.join(shtab.SUPPORTED_SHELLS)}"
                            f", got {value!r}")
        for action in parser._actions:
            action.choices = CHOICES.get(action.dest)
            if action.metavar == "DIR":
                action.complete = shtab.DIRECTORY
        for line in shtab.complete(parser, value).splitlines():
            show(line)
        parser.exit()


def make_parser():
    parser = Parser(
        prog="grandmaster_train.py",
        description=__doc__.split("\n\n")[0],
        epilog="--help all also lists the settings for --set. README.md begins at the beginning.",
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add("-h", "--help", nargs="?", action=ShowHelp, metavar="all",
        help="show this and exit; with all, every setting too")
    add("--version", nargs=0, action=ShowVersion, help="show the versions and exit")
    add("--print-completion", action=PrintCompletion, metavar="SHELL",
        help="print completion for bash, zsh, tcsh or fish and exit")

    # the run
    add("--mode", default="quick_test", help=f"one of {', '.join(PRESETS)} (default quick_test)")
    add("--data_path", metavar="DIR",
        help="contest folder as downloaded (default: the embedded contest)")
    add("--experiment_name", metavar="NAME", help="folder of the run (default MODE_FOLDER)")
    add("--results_dir", metavar="DIR", help="folder of all experiments (default training_results)")
    add("--weights_dir", metavar="DIR", help="folder with <timm model name>*.safetensors or .pth")
    add("--demo_size", type=float, metavar="SHARE",
        help="size of the embedded contest; 1 is 1,570 training and 3,140 test images (default "
        f"{demo_contest.DEFAULT_SIZE}, or {demo_contest.SMALL_SIZE} on a very slow machine)")

    # settings
    add("--scale", help=f"size of the backbones: auto, {', '.join(SCALES)}")
    add("--device", help="auto, cpu, cuda, cuda:1, mps")
    add("--metric", help=f"{', '.join(EVERY_METRIC)} (default macro_f1, or log_loss if the "
        "submission has one column per class; of several classes an image samples_f1, or auc; of "
        "numbers rmse)")
    add("--task", help="auto (by the labels), single (one class an image), multilabel, regression")
    add("--label_fixes", metavar="FILE", help="labels mended in a report, which saves the file "
        "(default: label_fixes.csv in the contest folder, if it is there)")
    add("--group_column", metavar="NAME", help="rows of one value in this column share a fold")
    add("--fold_column", metavar="NAME", help="column with the host's folds")
    add("--valid_folder", metavar="HOW", help="val/: use (to validate on) or merge (the default)")
    add("--time_budget", type=float, metavar="HOURS", help="hours that the run may take")
    add("--engine", help="where fits run: local, or ray for side by side on every GPU or core")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="see --help all")
    add("--quiet", action="store_const", const=True,
        help="print only warnings and the closing table")
    add(JSON, action="store_const", const=True,
        help="print one JSON object a line, the last one the result")

    # instead of a run
    add("--look", action="store_true",
        help="say what is understood of the folder, leave a page with pictures of each class, stop")
    add("--dry_run", action="store_true", help="print the plan with each stage's state and stop")
    add("--compare", nargs=2, metavar=("A", "B"),
        help="print how much better experiment B is than A, with its interval, and stop")
    add("--verify", metavar="EXPERIMENT",
        help="check that a run's files are as it wrote them, and stop")
    add("--fetch_weights", metavar="DIR",
        help="download the weights that --mode and --scale need into a folder for --weights_dir")
    add("--prune", metavar="EXPERIMENT",
        help="say what of a finished run can be deleted and what that saves; --yes deletes it")
    add("--yes", action="store_true", help="with --prune: delete")
    return parser


FLAGS = {
    "results_dir": "runtime.results_dir",
    "weights_dir": "runtime.weights_dir",
    "scale": "scale",
    "device": "runtime.device",
    "metric": "metric",
    "label_fixes": "data.label_fixes",
    "group_column": "data.group_column",
    "fold_column": "data.fold_column",
    "valid_folder": "data.valid_folder",
    "task": "data.task",
    "time_budget": "runtime.time_budget_hours",
    "engine": "runtime.engine",
    "quiet": "runtime.quiet",
    "json": "runtime.json",
}


def config_of(args) -> Config:
    """The checked Config of the mode, the flags and --set."""
    values = {}
    for flag, key in FLAGS.items():
        value = getattr(args, flag)
        if value is not None:
            values[key] = value
    config = build_config(args.mode, args.set, values)
    # a shell leaves the ~ of --results_dir=~/x as it is
    folders = {f"runtime.{name}": os.path.expanduser(getattr(config.runtime, name))
               for name in ("results_dir", "weights_dir")}
    return with_values(config, folders)


def experiment_folder(args, config, data_path):
    name = args.experiment_name or f"{config.mode}_{Path(data_path).resolve().name}"
    if Path(name).name != name or name.startswith("."):
        raise UserError("--experiment_name must be a plain folder name without a dot at its "
                        f"beginning, got {name!r}: give another name")
    folder = Path(config.runtime.results_dir) / name
    if ascii_safe(str(folder)) != str(folder):
        raise UserError("--results_dir and --experiment_name must be UTF-8, since weights are not "
                        f"written elsewhere, got {str(folder)!r}: give other names")
    return folder


def contest_folder(args, config):
    """(folder, answers): the user's folder and None, or the embedded contest with its answers.

    The embedded contest is drawn on first use. answers: {id: class value} of its test images.
    """
    if args.data_path is not None:
        return Path(args.data_path).expanduser(), None
    results_dir = config.runtime.results_dir
    size = args.demo_size
    if size is None:
        size = demo_contest.DEFAULT_SIZE
        if is_first_command(args, config):
            size = demo_contest.size_for(results_dir)
    folder = demo_contest.folder_of(results_dir, size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not (config.runtime.quiet or config.runtime.json):
        show(f"no --data_path: using the embedded contest in {folder}")

    demo_contest.draw_contest(folder, size)
    rows = csv_rows(demo_contest.answers_path(folder))
    return folder, {row["ID"]: row["target"] for row in rows}


def verify(folder, as_json):
    """Print which files of a run changed after they were written; returns {"n_files", "changed"}.
    """
    n_files, changed = changed_files(folder, RESULTS_MANIFEST)
    if not n_files:
        raise UserError(
            f"--verify must name an experiment that has completed a stage, and there is none in "
            f"{str(folder)!r}: check the name and --results_dir"
        )
    if not as_json:
        for name in changed:
            show(f"changed: {name}")
        also = "; the run's own command makes the others again" if changed else ""
        show(f"{n_files - len(changed)} of {n_files} files of {folder} are as they were written"
             f"{also}")
    return {"n_files": n_files, "changed": changed}


def answered(argv):
    """Do what the arguments ask for; returns (exit status, what --json prints last)."""
    start = time.perf_counter()
    args = make_parser().parse_args(argv)
    instead = ("verify", "prune", "fetch_weights")
    for flag in ("data_path", "results_dir", "experiment_name", *instead):
        if getattr(args, flag) == "":
            other = "" if flag in instead else ", or leave the flag out"
            raise UserError(
                f"--{flag} must name something, got '': check the variable in its place{other}"
            )

    config = config_of(args)
    if args.verify:
        found = verify(Path(config.runtime.results_dir) / args.verify, config.runtime.json)
        return FAILED if found["changed"] else DONE, found
    if args.compare:
        folders = [Path(config.runtime.results_dir) / name for name in args.compare]
        compared = compare(*folders, metric="" if config.metric == "auto" else config.metric)
        for line in [] if config.runtime.json else lines_of(compared):
            show(line)
        return DONE, compared
    if args.fetch_weights:
        return DONE, {"lines": told(fetch(config, Path(args.fetch_weights).expanduser()), config)}
    if args.prune:
        lines = prune(Path(config.runtime.results_dir) / args.prune, args.yes)
        return DONE, {"lines": told(lines, config)}
    data_path, answers = contest_folder(args, config)
    folder = experiment_folder(args, config, data_path)
    if args.look:
        return DONE, {"lines": told(looked(config, data_path), config)}
    if config.mode == "debug":
        counts = run_checks(config, data_path, folder)
        return FAILED if counts["FAILED"] else DONE, {k.lower(): n for k, n in counts.items()}
    words = ["python", "grandmaster_train.py", *argv]
    ends_by = math.inf
    if is_first_command(args, config):
        ends_by = start + FIRST_SECONDS
        if config.runtime.compile == "auto":      # a minute of compiling could not pay in that time
            config = with_values(config, {"runtime.compile": "off"})
    final = run(config, data_path, folder, answers=answers, dry_run=args.dry_run, command=words,
                ends_by=ends_by)
    return DONE, {**plain(final), "folder": str(folder)}


def command(argv):
    """Do what the arguments ask for; returns the exit status."""
    status, final = answered(argv)
    if asks_for_json(argv):
        show(json_text({"event": "final", "status": status, **final}))
    return status


# ---------------------------------------------------------------- from Python

class TrainError(Exception):
    """Why `train` has not finished, in sentences. status: as the command's exit status."""

    def __init__(self, status, sentences):
        super().__init__("\n".join(sentences))
        self.status = status
        self.sentences = sentences


class Result(dict):
    """What the last line of --json holds. A notebook shows its report below the cell."""

    def _repr_html_(self):
        page = Path(self.get("folder", "")) / "report.html"
        if not page.is_file():
            return None
        text = escape(page.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{text}" style="width:100%;height:48rem;border:0"></iframe>'


def train(data_path=None, mode="quick_test", settings=None, **flags):
    """Train as the command does; returns its Result. TrainError if it does not finish.

    data_path: the contest folder, None for the embedded contest. settings: {"optim.epochs": 20}, as
    --set. flags: as the command's, without dashes: metric="auc", quiet=True, time_budget=2.
    """
    argv = ["--mode", str(mode)]
    if data_path is not None:
        argv += ["--data_path", str(data_path)]
    for name, value in flags.items():
        if value is True:
            argv += [f"--{name}"]
        elif value is not None and value is not False:
            argv += [f"--{name}", str(value)]
    if settings:
        argv += ["--set", *(f"{key}={word_of(value)}" for key, value in settings.items())]
    set_up_packages()
    try:
        with signals_interrupt():
            status, final = answered(argv)
    except Exception as error:      # as the command ends: a mistake of ours is raised
        failure = failure_of(error, "call train again to continue")
        if failure.is_ours:
            raise
        raise TrainError(failure.status, failure.sentences) from None
    return Result(event="final", status=status, **final)


def word_of(value):
    """A value as --set takes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)


def fetch(config, folder):
    """`fetch_into` a folder what a Config needs on this machine, or at its scale."""
    gpu_memory_bytes = machine_facts(config.runtime.device)["gpu_memory_bytes"]
    config = resolve(config, gpu_memory_bytes=gpu_memory_bytes, n_train=1000)
    frozen = [name for name in config.model.frozen if name != AUTO]
    names = list(dict.fromkeys([*config.model.backbones, *frozen]))
    yield from fetch_into(folder, names, config.scale)


def looked(config, data_path):
    """`look` at a contest folder; the page lies in the folder of all experiments."""
    contest = read_contest(data_path, config.data)
    metric = TASKS[contest.train.task].find_metric(config.metric, contest.form.has_class_columns)
    folder = Path(config.runtime.results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"look_{Path(data_path).resolve().name}.html"
    yield from look(contest.for_metric(metric), metric, config.metric != "auto", page)


def told(lines, config):
    """[line], each shown as it comes unless --json shows them all at the end."""
    kept = []
    for line in lines:
        kept.append(line)
        if not config.runtime.json:
            show(line)
    return kept


def is_first_command(args, config):
    """Whether this is quick_test on the embedded contest, and nobody gave a size of training."""
    has_size = (args.data_path is not None or args.demo_size is not None
                or config.optim.epochs or config.runtime.time_budget_hours
                or len(config.model.backbones) != 1 or len(config.rounds) != 1
                or config.data.run_folds != 1)
    return config.mode == "quick_test" and config.runtime.measure and not has_size


def main(argv=None):
    """Run the command; returns the exit status."""
    return run_command(command, argv)


if __name__ == "__main__":
    sys.exit(main())
