"""Predict new images by a finished run: a csv of probabilities, label and confidence. Only the
run's folder is needed.

    python predict.py training_results/NAME IMAGES_OR_FOLDER                  # the blend, as for the submission
    python predict.py training_results/NAME IMAGES_OR_FOLDER --fast           # the best single fit, one view
    python predict.py training_results/NAME --export onnx                     # what --fast does, as an ONNX model

Exit status: 0 done (images that cannot be read are named and left out), 1 it failed, 2 bad
arguments or no readable image, 130 interrupted.
"""
import sys
from pathlib import Path

from config import Config, with_values
from contest.catalog import Catalog
from contest.files import IMAGE_SUFFIXES, ascii_safe, kind_of, walk
from running.export import export_onnx
from running.predictor import load_predictor
from system.command import DONE, Parser, run_command
from system.log import Timer, printable
from utils import UserError, counted, csv_text, first_few, quoted_cell, write_atomic


def make_parser():
    parser = Parser(prog="predict.py", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("run_folder", metavar="RUN_FOLDER",
                        help="folder of a finished run, or a copy of it")
    parser.add_argument("images", metavar="IMAGES_OR_FOLDER", nargs="*",
                        help="image files, or folders that are searched")
    parser.add_argument("--out", metavar="FILE.csv",
                        help="where the table goes (default predictions_RUN.csv)")
    parser.add_argument("--fast", action="store_true",
                        help="by the best single fit in one view instead of the blend")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--export", choices=("onnx",),
                        help="also write the best single fit as RUN.onnx beside --out")
    return parser


def find_images(paths, classes):
    """(Catalog of all images that the paths mean, named relative to their folder; paths that are
    not followed; files of other kinds)."""
    rows = {}
    refused = []
    others = []
    for path in map(Path, paths):
        if not path.is_dir():
            rows[ascii_safe(str(path))] = path
            continue
        found = []
        for name in walk(path.resolve(), refused):
            (found if kind_of(name, path) == "images" else others).append(name)
        if not found:
            raise UserError(
                f"IMAGES_OR_FOLDER must hold images ({', '.join(IMAGE_SUFFIXES)}), but there are none in "
                f"{str(path)!r}: check the path"
            )
        for name in found:
            rows[name if len(paths) == 1 else (path / name).as_posix()] = path.resolve() / name
    return Catalog.of([{"sample_id": i, "path": str(path)} for i, path in rows.items()],
                      classes), refused, others


def table(predictor, predictions):
    """The csv's text: id, prob_<class> each, label, its name where the classes have names,
    confidence."""
    classes = predictor.classes
    names = predictor.class_names
    named = names != classes
    rows = [["id", *(f"prob_{c}" for c in classes), "label", *(["class_name"] if named else []),
             "confidence"]]
    for sample, row, label in zip(predictions.sample_id.tolist(), predictions.probs,
                                  predictor.labels(predictions.probs), strict=True):
        said = [classes[label], *([names[label]] if named else [])]
        rows.append([quoted_cell(sample), *(f"{p:.9g}" for p in row), *map(quoted_cell, said),
                     f"{row[label]:.9g}"])
    return csv_text(rows)


def warn(text):
    print(f"warning: {printable(text)}", file=sys.stderr)


def predict(argv):
    """What the arguments ask for."""
    args = make_parser().parse_intermixed_args(argv)      # images may stand behind a flag
    predictor = load_predictor(args.run_folder,
                               with_values(Config(), {"runtime.device": args.device,
                                                      "runtime.workers": 0}))
    name = Path(args.run_folder).resolve().name
    out = Path(args.out or f"predictions_{name}.csv")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out must be a file in an existing folder, got {str(out)!r}: "
                        + ("add a file name to it" if out.is_dir() else "create the folder first"))
    if args.export:
        print(export_onnx(predictor.fast(), out.with_name(f"{name}.onnx")))
    if not args.images:
        if args.export:
            return DONE
        raise UserError("IMAGES_OR_FOLDER must name at least one image or folder; see --help")
    catalog, refused, others = find_images(args.images, predictor.classes)
    if refused:
        warn(
            f"left out, as they lead out of their folder or are no files: {counted(refused, 'path')}"
        )
    if others:
        warn(
            f"left out, as their names do not end as those of images do ({', '.join(IMAGE_SUFFIXES)}): "
            f"{counted(others, 'file')}"
        )
    predictor = predictor.fast() if args.fast else predictor
    print(f"{len(catalog)} image(s), {predictor.describe()}", flush=True)
    with Timer() as timer:
        predictions, reasons = predictor.predict(catalog)
    unread = [f"{sample} ({why})" for sample, why in reasons.items()]
    if predictions is None:
        raise UserError(
            f"IMAGES_OR_FOLDER must hold images that can be read, got none: {first_few(unread)}")
    if unread:
        warn(f"left out: {counted(unread, 'image')}")
    write_atomic(out, table(predictor, predictions))
    n = len(predictions.sample_id)
    print(f"{n} image(s) in {timer.seconds:.1f} s, {n / timer.seconds:.0f} images/s: {out}")
    return DONE


def main(argv=None):
    """Run the command; returns the exit status."""
    return run_command(predict, argv, goes_on="run the same command again")


if __name__ == "__main__":
    sys.exit(main())
