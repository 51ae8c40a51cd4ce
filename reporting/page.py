"""report.html: what a run has done so far, on one page. It fetches nothing; text is escaped.

    page = Page(setup, prepared, scores, log)
    page.show(fitted, specs)                    # after each fit, while the run goes on
    page.show(fitted, specs, final, blended)    # at the end: the same page with more filled in

It shows what stored files hold: predictions by sample_id, the audit, the shift. A page that cannot
be written is a line in the log and never ends the run.
"""
import base64
import functools
import hashlib
import json
import os
import re
import time
import uuid
from collections import Counter

import numpy as np

from contest.catalog import titles_of
from contest.duplicates import equal_rows
from contest.files import path_inside
from contest.fixes import in_words
from modeling.inference import Predictions
from modeling.licences import class_of, sentence
from reporting import review
from reporting.curves import curve_path, read_curve, verdict
from reporting.figures import (
    STRIP_PX,
    learning_curves,
    nice_ticks,
    padded,
    place,
    quantile_bars,
    thumbnail,
)
from reporting.numbers import numbers_content
from reporting.pictures import (
    MOST_IMAGES,
    SPLITS,
    class_names,
    image_of,
    reliability_rows,
    whole_image_of,
)
from reporting.render import HERE, render
from reporting.sets import sets_content
from reporting.summary import SCORES
from shift.distortions import DISTORTIONS, distort
from shift.groups import by_class
from system.log import Timer, duration
from utils import json_text, read_json

# after t seconds of writing, wait 20 t: under 5 % of the run
PAUSE_FACTOR = 20
MOST_SAMPLES = 40
MOST_CLASSES = 30
MOST_PAIRS = 6
PAIR_IMAGES = 4
MOST_SUSPECTS = 100
OPEN_SUSPECTS = 24      # of them, before the rest is folded
MOST_SETS = 8
SET_IMAGES = 4
STRIP_IMAGES = 8
MOST_STATISTICS = 12


class Page:
    """The page of one run, and when it may be written again."""

    def __init__(self, setup, prepared, scores, log):
        """setup, prepared: running.run's. scores: ensemble.scores.FoldScores."""
        self.setup = setup
        self.prepared = prepared
        self.scores = scores
        self.log = log
        self.pause_until = 0.0
        self.first = None      # running.conclusion.first_look's
        self.seen = None       # running.heatmaps.HeatMaps, at the end
        self.texts = None      # reporting.texts.texts_content, at the end

    def show(self, fitted, specs, final=None, blended=None):
        """Write the page of {FitSpec: Fitted} out of all specs.

        final: the dict of final_results.json; blended: Blended. Without them, at most now and then.
        """
        if final is None and time.perf_counter() < self.pause_until:
            return
        with Timer() as timer:
            try:
                content = self.content(fitted, specs, final, blended)
                write_page(self.setup.folder / "report.html", content)
            except Exception as error:   # whatever it is: the run is worth more than its page
                self.log.say("warning: report.html could not be written "
                             f"({type(error).__name__}: {error})", event="warning")
        self.pause_until = time.perf_counter() + PAUSE_FACTOR * timer.seconds

    def content(self, fitted, specs, final, blended):
        """The values of report.html.jinja."""
        prepared = self.prepared
        metric = self.setup.metric
        scores = {spec: self.scores.of(done) for spec, done in fitted.items()}
        out_of_fold = stored_oof(blended.folder) if blended else oof_so_far(fitted)
        oof = oof_content(prepared, out_of_fold, metric, blended.blend.cuts if blended else (),
                          {fix.sample_id for fix in self.setup.contest.fixes if fix.is_kept})
        if oof and final:
            self.show_maps(oof)
        return {
            **self.heading(),
            **self.fixed,
            "final": final,
            "first": self.first,
            "texts": self.texts,
            "n_done": sum(spec.is_trained for spec in fitted),
            "n_fits": sum(spec.is_trained for spec in specs),
            "untrained": list(dict.fromkeys(s.name for s in specs if not s.is_trained)),
            "trained": duration(sum(done.result.seconds for spec, done in fitted.items()
                                    if spec.is_trained)),
            "warnings": self.log.warnings,
            "score_chart": score_chart(final["score"], metric) if final else None,
            "panels": curve_panels(fitted, self.setup.folder, metric),
            "fits": fit_rows(specs, fitted, scores),
            "source_chart": source_chart(specs, scores, blended, metric),
            "blend": blended.blend if blended else None,
            "oof": oof,
            "mend": self.mend(oof, is_running=final is None),
        }

    def show_maps(self, oof):
        """Give suspect images and those of confused pairs what the networks looked at."""
        if self.seen is None:
            return
        asked = [*oof["suspects"][:OPEN_SUSPECTS],
                 *(image for pair in oof.get("pairs", ()) for image in pair["images"])]
        maps = self.seen(list(dict.fromkeys((str(p["id"]), p["answer_index"]) for p in asked)))
        for p in asked:
            if (key := (str(p["id"]), p["answer_index"])) in maps:
                p["heat"] = thumbnail(maps[key])

    @functools.cached_property
    def fixed(self):
        """What no fit changes."""
        prepared = self.prepared
        return {
            **samples(prepared.audit, self.setup.contest.folder),
            **duplicates(prepared.audit),
            **shift_content(prepared),
            "weights": self.setup.short(weight_rows(prepared.weights.values())),
        }

    def mend(self, oof, is_running):
        """What report.js reads: JSON. Each picture to check gets its place in it as `n`.

        stamp: of this page, which is loaded again and again while the run goes on.
        """
        setup = self.setup
        train = setup.contest.train
        images = {}
        pictures = [*(oof["suspects"] + oof["hardest"] if oof else []),
                    *(image for each in self.fixed["sets"] for image in each["images"])]
        may_mend = train.target is None      # a fix names one class
        for image in pictures if may_mend else ():
            of_id = images.setdefault(image["id"], {"n": len(images), **image})
            image["n"] = of_id["n"]
        value_of = dict(zip(class_names(self.prepared.audit), train.classes, strict=True))
        command = setup.short(setup.command)
        words = re.sub(r" --label_fixes[ =]('[^']*'|\S+)", "", command)
        command = words + " --label_fixes label_fixes.csv"
        return json.dumps({
            "running": is_running, "stamp": uuid.uuid4().hex, "name": setup.folder.name,
            "command": command, "classes": train.classes if may_mend else [],
            "titles": list(value_of), "fixes": [fix._asdict() for fix in setup.contest.fixes],
            "images": [[str(sample), *(value_of.get(image.get(key)) for key in ("label", "answer"))]
                       for sample, image in images.items()]})

    def heading(self):
        """What is known before the first fit."""
        setup = self.setup
        config = self.prepared.config
        environment = read_json(setup.folder / "environment.json")
        return {
            "name": setup.folder.name,
            "mode": config.mode,
            "metric": setup.metric.name,
            "better": setup.metric.better,
            "understood": setup.contest.describe(setup.metric, config.metric != "auto"),
            "folder": setup.short(str(setup.contest.folder)),
            "fixes": in_words(setup.contest.fixes),
            "mend_titles": titles_of(setup.contest.train.classes, setup.contest.class_names)[:9],
            "written": time.strftime("%Y-%m-%d %H:%M"),
            "command": setup.short(setup.command),
            "config": json_text(setup.short(config), indent=1).split("\n"),
            "environment": json_text(environment, indent=1).split("\n"),
        }


def write_page(path, content):
    """Fill the template."""
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    render("report.html.jinja", path, content | {
        "script": script, "script_sha256": base64.b64encode(digest).decode()})


# ---------------------------------------------------------------- scores, fits, sources

def score_chart(score, metric):
    """Rows and ticks of the scores on one scale, in the order of SCORES, with intervals if known.
    """
    known = [key for key in SCORES if key in score]
    intervals = {key: score.get(f"{key}_ci90") or () for key in known}
    values = [value for key in known for value in (score[key], *intervals[key])]
    low, high = padded(values, limits=metric.limits)
    rows = [{"key": key, "text": SCORES[key], "value": score[key], "ci90": intervals[key] or None,
             "at": percent(score[key], low, high),
             "ends": [percent(value, low, high) for value in intervals[key]]} for key in known]
    return {"rows": rows, "ticks": ticks(low, high)}


def percent(value, low, high):
    return round(place(value, low, high, 0, 100), 2)


def ticks(low, high):
    """Of a horizontal scale: [(place in %, text)]."""
    return [(percent(t, low, high), f"{t:g}") for t in nice_ticks(low, high)]


def fold_name(spec):
    return "refit" if spec.fold is None else spec.fold


def losses_of(done):
    """[(epoch, training loss)] of a Fitted."""
    return [(epoch["epoch"], epoch["loss"]) for epoch in done.result.epochs]


def curve_panels(fitted, folder, metric):
    """[(backbone, panels, sentences)]: training loss, then loss and score of valid images.

    All panels of a kind share a scale. What is not trained has none. folder: of the run.
    """
    fitted = {spec: done for spec, done in fitted.items() if spec.is_trained}
    valid = {spec: read_curve(curve_path(folder, done.result.folder.name))
             for spec, done in fitted.items()}
    kinds = {
        "training loss": {spec: losses_of(done) for spec, done in fitted.items()},
        "loss on valid images": {spec: [(p.epoch, p.loss) for p in points]
                                 for spec, points in valid.items() if points},
        f"{metric.name} on valid images": {spec: [(p.epoch, p.score) for p in points]
                                           for spec, points in valid.items() if points}}
    found = {spec.backbone: [] for spec in fitted}
    for kind, curves in kinds.items():
        if not curves:
            continue
        low, high = padded([value for curve in curves.values() for _, value in curve])
        for backbone, panels in found.items():
            lines = {(fold_name(spec), spec.round): curve for spec, curve in curves.items()
                     if spec.backbone == backbone}
            if lines:
                panels.append((kind, learning_curves(lines, low, high)))
    return [(backbone, panels, sentences_of(backbone, valid, metric))
            for backbone, panels in found.items()]


def sentences_of(backbone, valid, metric):
    """What the curves of a backbone's fits say, those of its last round."""
    mine = {spec: points for spec, points in valid.items()
            if spec.backbone == backbone and spec.fold is not None}
    last = max((spec.round for spec in mine), default=0)
    return verdict({fold_name(spec): points for spec, points in mine.items()
                    if spec.round == last}, metric.sign)


def fit_rows(specs, fitted, scores):
    """One row per fit, done or not: time, memory, scores."""
    longest = max([done.result.seconds for done in fitted.values()], default=1.0)
    rows = []
    for spec in specs:
        row = {"name": spec.name, "fold": fold_name(spec), "done": spec in fitted,
               "is_trained": spec.is_trained, "began_again": 0, "given_up": False}
        if spec in fitted:
            result = fitted[spec].result
            row |= {"epochs": len(result.epochs), "seconds": duration(result.seconds),
                    "share": 100 * result.seconds / longest,
                    "gib": result.peak_memory_bytes / 2**30,
                    "rate": result.epochs[-1]["images_per_second"], "scores": scores[spec],
                    "began_again": len(result.restarts), "given_up": result.is_given_up}
        rows.append(row)
    return rows


def source_chart(specs, scores, blended, metric):
    """Rows and ticks: one row per backbone, seed and round with its score in each fold, and once
    `blended` its part in the blend."""
    values = [value for each in scores.values() for value in each.values()]
    if not values:
        return {"rows": [], "ticks": []}
    low, high = padded(values, limits=metric.limits)
    table = {row.name: row for row in blended.table} if blended else {}
    dots = {spec.name: [] for spec in specs}
    for spec, each in scores.items():
        for split, value in each.items():
            dots[spec.name].append({"split": split, "fold": spec.fold, "value": value,
                                    "at": percent(value, low, high), "words": SPLITS[split]})
    rows = [{"name": name, "dots": mine, "blend": table.get(name)} for name, mine in dots.items()]
    return {"rows": rows, "ticks": ticks(low, high)}


def weight_rows(sources):
    """Where each backbone's weights come from and under which licence."""
    rows = []
    for source in sources:
        unknown = "not recorded" if source.is_pretrained else "none needed: random weights"
        rows.append({
            "name": source.model_name,
            "where": source.describe().removeprefix(f"{source.model_name}: "),
            "licence": source.licence or unknown,
            "kind": class_of(source.licence) if source.is_pretrained else "permissive",
            "loud": sentence(source.timm_name, source.licence) if source.is_pretrained else ""})
    return rows


# ---------------------------------------------------------------- what out-of-fold rows show

def stored_oof(folder):
    """{split: Predictions} of the blend, out of fold."""
    return {split: Predictions.load(folder / f"{name}.npz")
            for split, name in (("valid", "oof_clean"), ("valid_testlike", "oof_testlike"))}


def oof_so_far(fitted):
    """{split: Predictions}: in each fold the mean of its finished fits; {} while there are none.

    Images as they are stand in for test-like ones where a fit has none.
    """
    folds = {}
    for spec, done in fitted.items():
        if spec.fold is not None and not done.result.is_given_up:
            folds.setdefault(spec.fold, []).append(done)
    if not folds:
        return {}

    def joined(split_of):
        means = [Predictions.mean([done.predictions(split_of(done)) for done in members])
                 for members in folds.values()]
        return Predictions.concat(means)

    return {"valid": joined(lambda done: "valid"),
            "valid_testlike": joined(lambda done: done.testlike)}


def oof_content(prepared, out_of_fold, metric, cuts=(), confirmed=frozenset()):
    """The sections that read out-of-fold predictions; None without any.

    Confusions, suspect labels, hard images, calibration: as the task's part of the page shows them.
    confirmed: ids whose labels someone has looked at and kept.
    """
    if not out_of_fold:
        return None
    audit = prepared.audit
    row_of = {sample: row for row, sample in enumerate(audit.train.sample_id.tolist())}
    ids = out_of_fold["valid"].sample_id.tolist()
    rows = np.array([row_of[sample] for sample in ids])
    probs = {split: predictions.align(ids) for split, predictions in out_of_fold.items()}
    if prepared.shift.is_empty:      # test images were not found to differ
        del probs["valid_testlike"]
    sure = np.flatnonzero([sample in confirmed for sample in ids])
    return PARTS[prepared.task.part](audit, rows, probs, metric, cuts, sure)


def classes_content(audit, rows, probs, metric, cuts, sure):
    """What the page shows of out-of-fold rows of images of one class each. As `sets_content`."""
    labels = audit.train.label[rows]
    names = class_names(audit)
    matrices = {split: review.confusion(labels, each) for split, each in probs.items()}
    stack = list(probs.values())
    mean = np.mean(stack, axis=0)
    suspect = review.suspect_labels(labels, probs["valid"], MOST_SUSPECTS, sure)
    hardest = review.hardest(labels, mean, MOST_IMAGES, [*suspect, *sure])

    return {
        "part": "classes",
        "n": len(rows),
        "scores": [(SPLITS[split], metric(audit.train.truth[rows], each))
                   for split, each in probs.items()],
        "names": names,
        "classes": list(audit.train.classes),
        "matrices": matrix_tables(matrices),
        "by_class": class_rows(matrices, names),
        "pairs": pair_rows(audit, rows, probs, matrices, names),
        "suspects": [picture(audit, rows[k], names, probs["valid"][k]) for k in suspect],
        "n_open": OPEN_SUSPECTS,
        "sure": review.SUSPECT_RATIO,
        "hardest": [picture(audit, rows[k], names, mean[k]) for k in hardest],
        "reliability": reliability_rows(labels, probs),
    }


# how a task's out-of-fold rows are shown; each but the first has a template of its name
PARTS = {"classes": classes_content, "sets": sets_content, "numbers": numbers_content}


def class_rows(matrices, names):
    """[(class, its images, [recall, precision, F1] per split)]."""
    scores = [review.per_class(matrix) for matrix in matrices.values()]
    n_images = next(iter(matrices.values())).sum(1)
    return [(name, int(n_images[k]), [each[k].tolist() for each in scores])
            for k, name in enumerate(names)]


def pair_rows(audit, rows_of_images, probs, matrices, names):
    """The classes most often taken for each other: counts per split and example images."""
    labels = audit.train.label[rows_of_images]
    surest = np.max(list(probs.values()), axis=0)
    rows = []
    for i, j in review.confused_pairs(list(matrices.values()), MOST_PAIRS):
        counts = [(SPLITS[split], int(matrix[i, j])) for split, matrix in matrices.items()]
        images = [picture(audit, rows_of_images[k], names, surest[k], answer=j)
                  for k in pair_examples((i, j), labels, probs)]
        rows.append({"label": names[i], "answer": names[j], "of": int((labels == i).sum()),
                     "counts": counts, "images": images})
    return rows


def pair_examples(pair, labels, probs):
    """At most PAIR_IMAGES rows of a confused pair: first those mistaken in the clean images."""
    each = [review.examples_of(pair, labels, p, PAIR_IMAGES).tolist() for p in probs.values()]
    return list(dict.fromkeys(row for rows in each for row in rows))[:PAIR_IMAGES]


def matrix_tables(matrices):
    """Each split's matrix of the classes that are shown: counts, and shares of the label's row."""
    kept = review.most_mistaken(list(matrices.values()), MOST_CLASSES).tolist()
    tables = []
    for split, matrix in matrices.items():
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        rows = [(k, [(j, int(matrix[k, j]), round(float(share[k, j]), 3)) for j in kept])
                for k in kept]
        tables.append({"words": SPLITS[split], "right": int(np.trace(matrix)), "rows": rows})
    return tables


# ---------------------------------------------------------------- images

def picture(audit, row, names, probs, answer=None):
    """A training image with an answer and its probability among `probs` (C,); None: the likeliest.
    """
    if answer is None:
        answer = int(probs.argmax())
    return {**whole_image_of(audit.train, audit.train_pixels, row, names),
            "answer": names[answer], "answer_index": int(answer), "sure": float(probs[answer])}


def image_of_test(audit, row):
    return {"id": audit.test.sample_id[row], "data": thumbnail(audit.test_pixels[row]),
            "label": "test image"}


def samples(audit, folder):
    """One training image per class and source folder, so that a wrong reading is seen at a glance.

    A second folder of a class is shown only if every class has room for its first.
    """
    train = audit.train
    first_rows = {}
    for row, (label, path) in enumerate(zip(train.label.tolist(), train.path.tolist(),
                                            strict=True)):
        first_rows.setdefault((label, os.path.dirname(path)), row)

    n_folders = Counter()
    by_turn = []
    for (label, _), row in sorted(first_rows.items()):
        by_turn.append((n_folders[label], label, row))
        n_folders[label] += 1
    shown = sorted(by_turn)[:MOST_SAMPLES]

    names = class_names(audit)
    images = [{**image_of(audit, row, names), "id": path_inside(train.path[row], folder)}
              for _, _, row in sorted(shown, key=lambda item: (item[1], item[0]))]
    return {"samples": images, "n_more_samples": len(by_turn) - len(shown)}


def duplicates(audit):
    """Sets of training images that are the same picture; pairs of a training and a test image."""
    names = class_names(audit)
    train = audit.train
    lost = audit.contradicted
    sets = [(rows, lost, audit.contradicted_pixels) for rows in equal_rows(
        lost.sha256, np.ones(len(lost), dtype=bool))] if lost else []
    sets += [(rows, train, audit.train_pixels) for rows in review.duplicate_sets(
        train.sample_id, train.label, audit.summary["same_pictures"])]
    shown = [{"differ": len(set(catalog.label[rows].tolist())) > 1, "is_lost": catalog is lost,
              "more": max(0, len(rows) - SET_IMAGES),
              "images": [whole_image_of(catalog, pixels, row, names) for row in rows[:SET_IMAGES]]}
             for rows, catalog, pixels in sets[:MOST_SETS]]

    train_row = {sample: row for row, sample in enumerate(train.sample_id.tolist())}
    test_row = {sample: row for row, sample in enumerate(audit.test.sample_id.tolist())}
    twins = [(train_row[one], test_row[other]) for one, other, _ in audit.summary["twins"]
             if one in train_row and other in test_row]
    return {"n_sets": len(sets), "n_twins": len(twins), "sets": shown,
            "twins": [[image_of(audit, one, names), image_of_test(audit, other)]
                      for one, other in twins[:MOST_SETS]]}


# ---------------------------------------------------------------- from train to test

def shift_content(prepared):
    """The measured shift: its policy, the statistics that differ most, strips of images."""
    shift = prepared.shift.to_json()
    by_difference = sorted(shift["statistics"].items(),
                           key=lambda item: -abs(item[1]["auc"] - 0.5))
    statistics = [(name, values, quantile_bars(values))
                  for name, values in by_difference[:MOST_STATISTICS]]
    return {"shift": shift, "explained": prepared.shift.explained,
            "units": {kind: values[2] for kind, values in DISTORTIONS.items()},
            "statistics": statistics,
            "strips": strips(prepared) if shift["auc_before"] else []}


def strips(prepared):
    """[(caption, base64 JPEGs)]: training images, test images, training images as matched."""
    train = prepared.audit.train_pixels
    test = prepared.audit.test_pixels
    catalog = prepared.audit.train
    policies = by_class(prepared.shift.groups, catalog.kinds, lambda group: group.policy)
    rng = np.random.default_rng(prepared.shift.examples.get("seed", 0))
    rows = rng.permutation(len(train))[:STRIP_IMAGES].tolist()
    test_rows = rng.permutation(len(test))[:STRIP_IMAGES].tolist()

    def donor(seed):
        return train[seed % len(train)]

    matched = [distort(train[row], policies[catalog.kind[row]], row, donor, prepared.native_scale)
               for row in rows]
    return [("Training images", [thumbnail(train[row], STRIP_PX) for row in rows]),
            ("Test images", [thumbnail(test[row], STRIP_PX) for row in test_rows]),
            ("The training images above, matched",
             [thumbnail(image, STRIP_PX) for image in matched])]
