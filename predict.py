#!/usr/bin/env python3
"""Predict new images with a finished run: a csv of probabilities, label and confidence.

    python predict.py training_results/NAME IMAGES_OR_FOLDER         # the submission's blend
    python predict.py training_results/NAME IMAGES_OR_FOLDER --fast  # the best single fit, one view
    python predict.py training_results/NAME --export onnx            # that fit as an ONNX model

Needs only the run's folder. Exit status: 0 done (unreadable images are named and left out), 1 it
failed, 2 bad arguments or no readable image, 130 interrupted.
"""
import os
import stat
import sys
from pathlib import Path

from system import installed  # noqa: F401  (first: it says which packages are missing)

# isort: split
from config import Config, with_values
from contest.catalog import Catalog
from contest.files import (
    IMAGE_SUFFIXES,
    SHEET_SUFFIXES,
    TABLE_SUFFIXES,
    ascii_safe,
    kind_of,
    walk,
)
from contest.units import images_of_table, numbered
from modeling.memory import SMALLER
from running.export import export_onnx
from running.makers import other_versions
from running.predictor import load_predictor
from running.stored import refuse_changed
from system.command import DONE, Parser, run_command
from system.log import Timer, show
from system.machine import is_out_of_memory
from utils import NoRoom, UserError, counted, csv_text, first_few, quoted_cell, write_atomic


def make_parser():
    parser = Parser(prog="predict.py", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("run_folder", metavar="RUN_FOLDER",
        help="folder of a finished run, or a copy of it; nothing else of the run is needed")
    add("images", metavar="IMAGES_OR_FOLDER", nargs="*",
        help="image files, or folders that are searched; a table of ids and files where the run "
        "averages over several images of an id")
    add("--out", metavar="FILE.csv", help="where the table goes (default predictions_RUN.csv)")
    add("--fast", action="store_true",
        help="use the best single fit and one view instead of the blend")
    add("--no_verify", action="store_true",
        help="do not check first that the run's files are as the run wrote them")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--export", choices=("onnx",),
        help="also write the best single fit as RUN.onnx beside --out")
    return parser


def find_images(paths, classes):
    """Find the images of files and folders.

    Returns (Catalog of the images, named relative to their folder; paths that are not followed;
    files of other kinds).
    """
    paths_by_id = {}
    refused = []
    others = []
    for path in map(Path, paths):
        if not os.path.isdir(path):
            paths_by_id[ascii_safe(str(path))] = path
            continue

        found = []
        closed_folders = []
        for name in walk(path.resolve(), refused, closed_folders):
            kind = kind_of(name, path)
            kept = {"images": found, "refused": refused}.get(kind, others)
            kept.append(name)
        refused += [(path / name).as_posix() for name in closed_folders]
        if not found:
            may = ", of which parts may not be read" if closed_folders else ""
            raise UserError(
                f"IMAGES_OR_FOLDER must hold images ({', '.join(IMAGE_SUFFIXES)}), but there are "
                f"none in {str(path)!r}{may}: check the path"
            )
        for name in found:
            sample_id = name if len(paths) == 1 else (path / name).as_posix()
            paths_by_id[sample_id] = path.resolve() / name

    rows = [{"sample_id": i, "path": str(path)} for i, path in paths_by_id.items()]
    return Catalog.of(rows, classes), refused, others


def is_table(paths):
    """Whether one table is named in place of images."""
    suffix = Path(paths[0]).suffix.lower()
    return len(paths) == 1 and suffix in (*TABLE_SUFFIXES, *SHEET_SUFFIXES)


def find_ids(path, predictor):
    """The Catalog of the images of a table's ids. Names files that are missing, and ids without an
    image, which are left out.
    """
    rows, problems = images_of_table(path, predictor.unit)
    for text in problems:
        warn(text)
    found = [(unit, image) for unit, _, image in rows if image]
    with_image = {unit for unit, _ in found}
    if lost := list(dict.fromkeys(unit for unit, _, _ in rows if unit not in with_image)):
        warn(f"left out: {counted(lost, 'id')} without an image file")
    if missing := [file for unit, file, image in rows if not image and unit in with_image]:
        warn(f"{counted(missing, 'file')} not found: their ids are predicted from fewer images")
    ids = numbered([unit for unit, _ in found])
    return Catalog.of([{"sample_id": sample_id, "unit": unit, "path": image}
                       for sample_id, (unit, image) in zip(ids, found, strict=True)],
                      predictor.classes)


def table(predictor, predictions):
    """The csv's text. Columns: id, then what the task says: of one class an image prob_<class> of
    each class, label, class_name if the classes have names, confidence.
    """
    classes = predictor.classes
    answers = predictor.answers(predictions.probs)
    rows = []
    for sample, probs, answer in zip(
        predictions.sample_id.tolist(), predictions.probs, answers, strict=True
    ):
        said = predictor.task.row(answer, probs, classes, predictor.class_names)
        if not rows:
            rows.append(["id", *said])
        rows.append([quoted_cell(sample), *map(quoted_cell, said.values())])
    return csv_text(rows)


def warn(text):
    show(f"warning: {text}", to=sys.stderr)


def output_path(args, name):
    """Where the table goes. UserError unless it can be a file there."""
    out = Path(args.out or f"predictions_{name}.csv")
    if not out.is_dir() and out.parent.is_dir():
        return out
    advice = "create the folder first"
    if out.is_dir():
        advice = "add a file name to it"
    elif os.path.lexists(out.parent):
        advice = f"{str(out.parent)!r} is no folder, choose another"
    raise UserError(f"--out must be a file in an existing folder, got {str(out)!r}: {advice}")


def file_at(path):
    """The file that a path means, links followed, whether it is there yet or not.

    UserError for a device, a pipe or a socket, which a file must not replace.
    """
    target = Path(os.path.realpath(path))
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode) and target.exists()
    except FileNotFoundError:
        is_file = target.parent.is_dir()
    except OSError:      # links that lead in a circle
        is_file = False
    if not is_file:
        raise UserError(
            f"--out must lead to a file or a new name in an existing folder, and {str(path)!r} "
            "leads to a device, a pipe, a socket or nowhere: name a file")
    return target


def warn_left_out(refused, others):
    """Name the paths that `find_images` did not take."""
    if refused:
        why = "they lead out of their folder, are not files or may not be read"
        warn(f"left out, because {why}: {counted(refused, 'path')}")
    if others:
        why = f"their names do not end like those of images ({', '.join(IMAGE_SUFFIXES)})"
        warn(f"left out, because {why}: {counted(others, 'file')}")


def warn_of_versions(folder, fits):
    """Say which other versions made the fits that are used."""
    stages = dict.fromkeys(path.parent for fit in fits for path in fit.files)
    for named, words in other_versions(Path(folder), stages):
        warn(f"other versions made {named} of the run ({words}): probabilities may differ from "
             "the run's own")


def predict(argv):
    """Do what the arguments ask for; returns the exit status."""
    args = make_parser().parse_intermixed_args(argv)      # images may follow a flag
    config = with_values(Config(), {"runtime.device": args.device, "runtime.workers": 0})
    predictor = load_predictor(args.run_folder, config)
    reads_text = any(spec.text for spec in predictor.fits)
    if args.fast or not args.images:
        predictor = predictor.fast()      # all that is read
    if not args.no_verify:
        refuse_changed(args.run_folder, predictor.fits.values())
    warn_of_versions(args.run_folder, predictor.fits.values())
    name = Path(args.run_folder).resolve().name
    out = output_path(args, name)
    table_file = file_at(out)
    if args.export:
        show(export_onnx(predictor.fast(), file_at(out.with_name(f"{name}.onnx"))))
        if reads_text:
            show("the text member of the run's blend is left out: an ONNX model is one network")
    if not args.images:
        if args.export:
            return DONE
        raise UserError("IMAGES_OR_FOLDER must name at least one image or folder; see --help")

    if predictor.unit and is_table(args.images):
        catalog = find_ids(args.images[0], predictor)
    else:
        catalog, refused, others = find_images(args.images, predictor.classes)
        warn_left_out(refused, others)
        if predictor.unit:
            warn(f"each image is predicted by itself: name a table of ids in column "
                 f"{predictor.unit!r} and their files to average over an id's images, as the run "
                 "did")
    show(f"{len(catalog)} image(s), {predictor.describe()}")
    with Timer() as timer:
        predictions, reasons = predictor.predict(catalog)

    unread = [f"{sample} ({why})" for sample, why in reasons.items()]
    if predictions is None:
        raise UserError(
            f"IMAGES_OR_FOLDER must hold images that can be read, got none: {first_few(unread)}"
        )
    if unread:
        warn(f"left out: {counted(unread, 'image')}")
    write_atomic(table_file, table(predictor, predictions))
    n = len(predictions.sample_id)
    show(f"{n} image(s) in {timer.seconds:.1f} s, {n / timer.seconds:.0f} images/s: {out}")
    return DONE


def predict_within_memory(argv):
    """`predict`. NoRoom says what takes less memory here, where no setting can be given."""
    try:
        return predict(argv)
    except Exception as error:      # torch, numpy and python each have their own for it
        if not is_out_of_memory(error):
            raise
        said = str(error).removesuffix(f": {SMALLER}") or type(error).__name__
        less = [flag for flag in ("--fast", "--device cpu") if flag not in " ".join(argv)]
    add = f"add {' or '.join(less)}, or " if less else ""
    raise NoRoom(f"predicting takes more memory than is free ({said}): {add}close other programs")


def main(argv=None):
    """Run the command; returns the exit status."""
    return run_command(predict_within_memory, argv, goes_on="run the same command again")


if __name__ == "__main__":
    sys.exit(main())
