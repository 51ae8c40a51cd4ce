"""report.html: what a run has done so far, or did, on one self-contained page. Nothing is fetched,
all text is escaped.

    page = Page(run, metric)
    page.show(fitted, specs)                                   # while the run goes on: after each fit
    page.show(fitted, specs, final=final, results=results)     # at the end: the same page with more filled in

What it shows comes from stored files: predictions by sample_id, the audit, the shift. A page that
cannot be written is a line in the log and never ends the run.
"""
import json
import time
from pathlib import Path

import jinja2
import numpy as np

from ensemble.scores import fold_scores
from modeling.inference import Predictions
from reporting import review
from reporting.figures import (
    STRIP_PX,
    learning_curves,
    nice_ticks,
    padded,
    place,
    quantile_bars,
    reliability_points,
    thumbnail,
)
from shift.distortions import DISTORTIONS, distort
from shift.groups import ClassGroup, by_class
from system.log import Timer, duration
from utils import plain, read_json, write_atomic

# while a run goes on, the page is written in less than this share of the time
PAUSE_FACTOR = 20
MOST_CLASSES = 30
MOST_PAIRS = 6
PAIR_IMAGES = 4
MOST_IMAGES = 12
MOST_SETS = 8
SET_IMAGES = 4
STRIP_IMAGES = 8
MOST_STATISTICS = 12
SPLITS = {"valid": "as they are", "valid_testlike": "made like the test set"}
SCORES = {"oof_clean": "out of fold, images as they are",
          "oof_testlike": "out of fold, made like the test set",
          "by_confidence": "by sureness on the test images",
          "expected": "expected of the submission", "test": "got on the test set (answers known)"}


def is_non_commercial(licence):
    return "nc" in licence.lower().split("-")


class Page:
    """The page of one run, and when it was last written."""

    def __init__(self, this, metric):
        self.this = this
        self.metric = metric
        self.pause_until = 0.0

    def show(self, fitted, specs, final=None, results=None):
        """Write the page of {FitSpec: Fitted} out of all specs; at most every now and then until
        there is a `final`."""
        if final is None and time.perf_counter() < self.pause_until:
            return
        with Timer() as timer:
            try:
                write_page(self.this.folder / "report.html", self.content(fitted, specs, final,
                                                                          results))
            except Exception as error:   # whatever it is: the run is worth more than its page
                self.this.events.say(
                    f"warning: report.html could not be written ({type(error).__name__}: {error})",
                    event="warning")
        self.pause_until = time.perf_counter() + PAUSE_FACTOR * timer.seconds

    def content(self, fitted, specs, final, results):
        this = self.this
        scores = {spec: fold_scores(this, done, self.metric) for spec, done in fitted.items()}
        oof = stored_oof(results["folder"]) if results else oof_so_far(fitted)
        return {"name": this.folder.name, "mode": this.config.mode, "metric": self.metric.name,
                "final": final, "understood": this.contest.describe(self.metric,
                                                                    this.config.metric != "auto"),
                "folder": str(this.contest.folder), "written": time.strftime("%Y-%m-%d %H:%M"),
                "better": "larger" if self.metric.sign > 0 else "smaller", "n_done": len(fitted),
                "n_fits": len(specs),
                "trained": duration(sum(done.result.seconds for done in fitted.values())),
                "warnings": this.warnings, "weights": weight_rows(this.weights.values()),
                "score_rows": score_rows(final["score"], self.metric) if final else [],
                "panels": curve_panels(fitted), "fits": fit_rows(specs, fitted, scores),
                "sources": source_rows(specs, scores, results, self.metric),
                "blend": results["blend"] if results else None, **oof_content(this.audit, oof,
                                                                              self.metric,
                                                                              this.shift),
                **duplicates(this.audit), **shift_content(this, this.shift.to_json()),
                "command": this.command, "config": json.dumps(plain(this.config), indent=1),
                "environment": json.dumps(read_json(this.folder / "environment.json"), indent=1)}


def write_page(path, content):
    template = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent),
                                  autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                  undefined=jinja2.StrictUndefined).get_template(
                                      "report.html.jinja")
    write_atomic(path, template.render(content))


# ---------------------------------------------------------------- scores, fits, sources

def score_rows(score, metric):
    """The scores on one scale, each with its interval where it has one, in the order of SCORES."""
    known = {key: text for key, text in SCORES.items() if key in score}
    intervals = {key: score.get(f"{key}_ci90") for key in known}
    low, high = padded([v for key in known for v in (score[key], *(intervals[key] or ()))],
                       limits=metric.limits)
    rows = [{"key": key, "text": text, "value": score[key], "ci90": intervals[key],
             "at": percent(score[key], low, high),
             "ends": [percent(v, low, high) for v in intervals[key] or ()]} for key,
            text in known.items()]
    return {"rows": rows, **axis(low, high)}


def percent(value, low, high):
    return round(place(value, low, high, 0, 100), 2)


def axis(low, high):
    """Ticks of a horizontal scale: [(place in %, text)]."""
    return {"ticks": [(percent(t, low, high), f"{t:g}") for t in nice_ticks(low, high)]}


def fold_name(spec):
    return "refit" if spec.fold is None else spec.fold


def curve_panels(fitted):
    """[(backbone, panel)] of the training loss of every fit, all on one scale of losses."""
    losses = [e["loss"] for done in fitted.values() for e in done.result.epochs]
    names = dict.fromkeys(spec.backbone for spec in fitted)
    return [(name,
             learning_curves({(fold_name(spec), spec.round): [e["loss"] for e in done.result.epochs]
                              for spec, done in fitted.items() if spec.backbone == name},
                             *padded(losses))) for name in names]


def fit_rows(specs, fitted, scores):
    """One row per fit, done or not: time, memory, scores."""
    longest = max([done.result.seconds for done in fitted.values()], default=1.0)
    rows = []
    for spec in specs:
        done = fitted.get(spec)
        rows.append({"name": spec.name, "fold": fold_name(spec), "done": done is not None}
                    | ({} if done is None else {"epochs": len(done.result.epochs),
                                                "seconds": duration(done.result.seconds),
                                                "share": 100 * done.result.seconds / longest,
                                                "gib": done.result.peak_memory_bytes / 2**30,
                                                "rate": done.result.epochs[-1]["images_per_second"],
                                                "scores": scores[spec]}))
    return rows


def source_rows(specs, scores, results, metric):
    """One row per backbone, seed and round: its score in each fold on one scale, and once it is
    there its part in the blend."""
    values = [v for each in scores.values() for v in each.values()]
    if not values:
        return {"rows": [], "ticks": []}
    low, high = padded(values, limits=metric.limits)
    table = {row.name: row for row in results["table"]} if results else {}
    rows = []
    for name in dict.fromkeys(spec.name for spec in specs):
        dots = [{"split": split, "fold": spec.fold, "value": value, "at": percent(value, low, high),
                 "words": SPLITS[split]} for spec, each in scores.items() if spec.name == name
                for split, value in each.items()]
        rows.append({"name": name, "dots": dots, "blend": table.get(name)})
    return {"rows": rows, **axis(low, high)}


def weight_rows(sources):
    """Where each backbone's weights come from and under which licence."""
    return [{"name": s.model_name, "where": s.describe().removeprefix(f"{s.model_name}: "),
             "licence": s.licence or ("not recorded" if s.is_pretrained
                                      else "none needed: random weights"),
             "non_commercial": s.is_pretrained and is_non_commercial(s.licence)} for s in sources]


# ---------------------------------------------------------------- what out-of-fold rows show

def stored_oof(folder):
    """{split: Predictions} of the blend, out of fold."""
    return {split: Predictions.load(folder / f"{name}.npz")
            for split, name in (("valid", "oof_clean"), ("valid_testlike", "oof_testlike"))}


def oof_so_far(fitted):
    """{split: Predictions}: in each fold the plain mean of the fits that are done; {} while there
    are none."""
    folds = {}
    for spec, done in fitted.items():
        if spec.fold is not None:
            folds.setdefault(spec.fold, []).append(done)
    if not folds:
        return {}
    return {
        split: Predictions.concat([Predictions.mean([f.predictions(split if f.has(split)
                                                                   else "valid") for f in members])
                                   for members in folds.values()]) for split in SPLITS}


def oof_content(audit, oof, metric, shift):
    """Confusions, suspect labels, hard images, calibration: the sections that read out-of-fold
    predictions."""
    if not oof:
        return {"oof": None}
    row_of = {sample: row for row, sample in enumerate(audit.train.sample_id.tolist())}
    ids = oof["valid"].sample_id.tolist()
    rows = np.array([row_of[i] for i in ids])
    labels = audit.train.label[rows]
    probs = {split: p.align(ids) for split, p in oof.items()}
    if shift.is_empty:      # nothing was found that test images differ by
        del probs["valid_testlike"]
    matrices = {split: review.confusion(labels, p) for split, p in probs.items()}
    both, surest, names = *(f(list(probs.values()), axis=0) for f in (np.mean,
                                                                      np.max)), class_names(audit)
    suspect = review.suspect_labels(labels, probs["valid"], MOST_IMAGES)

    def picture(k, probs, answer=None):
        answer = int(probs[k].argmax()) if answer is None else answer
        return {**image_of(audit, rows[k], names), "answer": names[answer],
                "sure": float(probs[k, answer])}

    return {"oof": {"n": len(ids), "scores": [(SPLITS[split], metric(labels, p)) for split,
                                              p in probs.items()], "names": names,
                    "classes": list(audit.train.classes), "matrices": matrix_tables(matrices),
                    "by_class": [(names[k], int(rows.sum()),
                                  [m[k].tolist() for m in map(review.per_class, matrices.values())])
                                 for k, rows in enumerate(next(iter(matrices.values())))],
                    "pairs": [{"label": names[i], "answer": names[j],
                               "of": int((labels == i).sum()),
                               "counts": [(SPLITS[split], int(m[i, j])) for split,
                                          m in matrices.items()],
                               "images": [picture(k, surest, j) for k in pair_examples((i, j),
                                                                                       labels,
                                                                                       probs)]}
                              for i, j in review.confused_pairs(list(matrices.values()),
                                                                MOST_PAIRS)],
                    "suspects": [picture(k, probs["valid"]) for k in suspect],
                    "sure": review.SUSPECT_PROBABILITY,
                    "hardest": [picture(k, both) for k in review.hardest(labels, both, MOST_IMAGES,
                                                                         suspect)],
                    "reliability": [(SPLITS[split], ece, reliability_points(bins)) for split,
                                    (bins, ece) in ((split, review.reliability(labels, p))
                                                    for split, p in probs.items())]}}


def pair_examples(pair, labels, probs):
    """Rows of a confused pair, at most PAIR_IMAGES: those mistaken as they are before those
    mistaken as test-like only."""
    each = [review.examples_of(pair, labels, p, PAIR_IMAGES).tolist() for p in probs.values()]
    return list(dict.fromkeys(row for rows in each for row in rows))[:PAIR_IMAGES]


def matrix_tables(matrices):
    """Each split's matrix with only the classes that are shown: counts and their shares of the
    label's row."""
    kept = review.most_mistaken(list(matrices.values()), MOST_CLASSES)
    tables = []
    for split, matrix in matrices.items():
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        tables.append({"words": SPLITS[split], "right": int(np.trace(matrix)),
                       "rows": [(k, [(j, int(matrix[k, j]), round(float(share[k, j]), 3))
                                     for j in kept.tolist()]) for k in kept.tolist()]})
    return tables


def class_names(audit):
    """Class values with their names, where the contest has names for them."""
    pairs = zip(audit.train.classes, audit.summary["class_names"], strict=True)
    return [value if value == name else f"{value} {name}" for value, name in pairs]


def image_of(audit, row, names, split="train"):
    catalog, pixels = (audit.train, audit.train_pixels) if split == "train" else (audit.test,
                                                                                  audit.test_pixels)
    return {"id": catalog.sample_id[row], "data": thumbnail(pixels[row]),
            "label": names[catalog.label[row]] if split == "train" else "test image"}


def duplicates(audit):
    """Sets of training images that are the same picture, and pairs of a training and a test image
    that are."""
    names = class_names(audit)
    train = audit.train
    sets = review.duplicate_sets(train.sample_id, train.label, audit.summary["same_pictures"])
    row_of = [
        {sample: row for row, sample in enumerate(c.sample_id.tolist())}
        for c in (train, audit.test)
    ]
    twins = [(row_of[0][a], row_of[1][b]) for a, b, _ in audit.summary["twins"] if a in row_of[0]
             and b in row_of[1]]
    return {"n_sets": len(sets), "n_twins": len(twins),
            "sets": [{"differ": len(set(train.label[rows].tolist())) > 1,
                      "more": max(0, len(rows) - SET_IMAGES),
                      "images": [image_of(audit, row, names) for row in rows[:SET_IMAGES]]}
                     for rows in sets[:MOST_SETS]],
            "twins": [[image_of(audit, a, names), image_of(audit, b, names, "test")] for a,
                      b in twins[:MOST_SETS]]}


# ---------------------------------------------------------------- from train to test

def shift_content(this, shift):
    statistics = sorted(shift["statistics"].items(),
                        key=lambda item: -abs(item[1]["auc"] - 0.5))[:MOST_STATISTICS]
    return {"shift": shift, "units": {kind: values[2] for kind, values in DISTORTIONS.items()},
            "statistics": [(name, values, quantile_bars(values)) for name, values in statistics],
            "strips": strips(this, shift) if shift["auc_before"] else []}


def strips(this, shift):
    """[(caption, base64 JPEGs)] of training images, test images and training images under the
    policy."""
    audit = this.audit
    policies = by_class([ClassGroup.from_json(g) for g in shift["groups"]], audit.train.classes,
                        lambda group: group.policy)
    rng = np.random.default_rng(shift["examples"].get("seed", 0))
    train = audit.train_pixels
    test = audit.test_pixels
    rows = rng.permutation(len(train))[:STRIP_IMAGES].tolist()
    matched = [distort(train[r], policies[audit.train.label[r]], r,
                       lambda seed: train[seed % len(train)], this.native_scale) for r in rows]
    return [("Training images", [thumbnail(train[r], STRIP_PX) for r in rows]),
            ("Test images",
             [thumbnail(test[r], STRIP_PX)
              for r in rng.permutation(len(test))[:STRIP_IMAGES].tolist()]),
            ("The training images above, matched",
             [thumbnail(image, STRIP_PX) for image in matched])]
