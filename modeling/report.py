"""What a run leaves for people and programs: two JSON files, the submission, the page. Nothing here computes a score.

The submission appears under its final name only after it was checked against what the contest asks for.
"""
import csv
import io
from pathlib import Path

import numpy as np

from utils import RunError, write_atomic, write_json


def training_results(config, fits, path):
    """training_results.json: every fit with every epoch."""
    write_json(path, {
        "config": config,
        "fits": [{"name": f.spec.name, "backbone": f.spec.backbone, "seed": f.spec.seed, "round": f.spec.round,
                  "fold": f.spec.fold, "folder": f.folder.name, "seconds": f.seconds,
                  "peak_memory_bytes": f.peak_memory_bytes, "skipped_steps": f.skipped_steps,
                  "valid_scores": scores, "epochs": list(f.epochs)} for f, scores in fits]})


def submission_table(contest, predictions, prior):
    """[(id, class value)] in the contest's order; an id without a usable image gets the most frequent class.

    predictions: Predictions of the readable test images; prior (C,): class shares of the training images.
    """
    winner = dict(zip(predictions.sample_id.tolist(), predictions.probs.argmax(1).tolist(), strict=True)) if predictions else {}
    fallback = int(np.argmax(prior))
    return [(sample, contest.train.classes[winner.get(sample, fallback)]) for sample in contest.submission_ids]


def check_submission(rows, contest):
    """RunError unless ids, order, count and classes are what the contest asks for."""
    ids = [sample for sample, _ in rows]
    if ids != list(contest.submission_ids):
        raise RunError(f"the submission must hold the {len(contest.submission_ids)} asked ids in their order, got {len(ids)}")
    if len(set(ids)) != len(ids):
        raise RunError("the submission must name each id once")
    if unknown := {value for _, value in rows} - set(contest.train.classes):
        raise RunError(f"the submission must hold known classes only, got {sorted(unknown)[:3]}")


def write_submission(rows, contest, path):
    """The checked rows as csv, under the final name in one move."""
    check_submission(rows, contest)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([contest.id_column, contest.target_column])
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
    with open(path, newline="", encoding="utf-8") as f:
        written = [tuple(row) for row in csv.reader(f)][1:]
    if written != rows:
        Path(path).unlink()
        raise RunError(f"the submission {path} could not be read back as it was written: check the disk")


def source_table(rows):
    """Lines of the closing table. rows: (source, folds, oof, weight, seconds)."""
    width = max([len("backbone"), *(len(r[0]) for r in rows)])
    lines = [f"{'backbone':<{width}}  folds    OOF   weight  seconds"]
    return lines + [f"{name:<{width}}  {folds:>5}  {oof:.4f}  {weight:>6.3f}  {seconds:>7.0f}"
                    for name, folds, oof, weight, seconds in rows]


def score_line(name, value, ci90=None):
    interval = f"  (90 % interval {ci90[0]:.4f} to {ci90[1]:.4f})" if ci90 else ""
    return f"{name:<34} {value:.4f}{interval}"
