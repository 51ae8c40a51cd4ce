"""The last stage of a run: its submission, its result files, its predictor."""
import numpy as np

from contest.submission import probs_of_ids
from ensemble.scores import blended
from reporting.summary import training_results
from running.first import stages_of_members
from running.introduction import ENVIRONMENT, kept
from running.makers import credits_of, stages_used, warn_of_other_versions
from running.predictor import write_predictor
from running.run import usable
from running.stored import NAME as PREDICTOR
from system.stages import MANIFEST, RESULTS_MANIFEST, write_manifest
from utils import write_json

# in final_results.json: {split: file of the blend's predictions}
PREDICTIONS = {"out_of_fold": "oof_testlike", "out_of_fold_clean": "oof_clean", "test": "test"}


def conclude(setup, prepared, fits, result, scores, log, *, answers, planned, seconds):
    """Write the submission and the result files; returns final_results.json's content.

    fits: {FitSpec: Fitted}. result: ensemble.scores.Blended. scores: FoldScores.
    """
    folder = setup.folder
    score = dict(result.score)
    (folder / RESULTS_MANIFEST).unlink(missing_ok=True)
    submission = write_submission(setup, prepared, result, score, answers)
    used = stages_used(prepared, stages_of_members(setup, prepared) + [
        stage for done in fits.values()
        for stage in (done.result.folder, done.predict_stage.folder)])
    warn_of_other_versions(folder, used, log)
    write_json(folder / ENVIRONMENT, kept(folder / ENVIRONMENT) | {
        "made_by": credits_of(folder, [*used, result.folder])})
    all_fits = [(done.result, scores.of(done)) for done in fits.values()]
    training_results(setup.short(prepared.config), all_fits, folder / "training_results.json")

    final = final_results(setup, prepared, result, log.warnings) | {
        "n_fits": sum(spec.is_trained for spec in fits), "seconds": seconds,
        "submission": submission, "score": score,
        "peak_memory_bytes": max(done.peak_memory_bytes for done, _ in all_fits), "plan": planned}
    write_json(folder / "final_results.json", final)
    best = best_first(usable(fits), result, scores, setup.metric)
    write_predictor(setup, prepared, best, result.blend)

    files = ["final_results.json", "training_results.json", PREDICTOR]
    if submission:
        files.append(submission)
    manifests = folder.rglob(MANIFEST)
    write_manifest(folder / RESULTS_MANIFEST, [*(folder / name for name in files), *manifests])
    log.record("scores", **score)
    return final


class Aside:
    """A log for what the end of the run judges again: its warnings are said, and not kept."""

    def __init__(self, log):
        self.log = log

    def warn(self, text):
        self.log.say(f"first look: {text}")


def first_look(setup, prepared, fits, log, answers):
    """A submission by what is there before any training; returns what the page says of it.

    The end of the run replaces it. A submission of a finished run in the folder stays until then.
    """
    result = blended(prepared, setup.metric, fits, Aside(log), is_kept=False)
    score = dict(result.score)
    submission = ""
    if not (setup.folder / RESULTS_MANIFEST).exists():
        submission = write_submission(setup, prepared, result, score, answers)
    low, high = score["expected_ci90"]
    names = ", ".join(row.name for row in result.table)
    written = f"; {submission} holds it until the run ends" if submission else ""
    log.say(f"first look by {names}, nothing trained yet: {setup.metric.name} expected "
            f"{score['expected']:.4f} (90 % interval {low:.4f} to {high:.4f}){written}",
            event="first_look", **score)
    return {"score": score, "submission": submission, "names": names}


def write_submission(setup, prepared, result, score, answers):
    """Write the submission, if the contest has test images; returns its name, or ''.

    answers: {id: class value} or None. Where they are known, score["test"] is set.
    """
    form = setup.contest.form
    name = f"submission_{setup.folder.name}.csv"
    if not form.ids:
        (setup.folder / name).unlink(missing_ok=True)      # of a run that had test images
        return ""
    train = prepared.audit.train
    prior = prepared.task.judge.constant(train.truth, len(train.classes))
    probs = probs_of_ids(form.ids, result.test, prior)
    rows = form.rows(setup.metric.cut(probs, result.blend.cuts))
    form.write(rows, setup.folder / name)
    if answers:
        score["test"] = score_against(form, rows, answers, setup.metric)
    return name


def score_against(form, rows, answers, metric):
    """The score of the submission's rows as they are written. answers: {id: class value}."""
    labels = np.array([form.classes.index(answers[sample]) for sample in form.ids])
    return metric(labels, form.probs(rows))


def final_results(setup, prepared, result, warnings):
    """What final_results.json says of the run but for its fits."""
    metric = setup.metric
    shift = prepared.shift.to_json()
    predictions = {split: f"{result.folder.name}/{name}.npz" for split, name in PREDICTIONS.items()
                   if (result.folder / f"{name}.npz").exists()}
    return {"mode": prepared.config.mode, "experiment_name": setup.folder.name,
            "task": prepared.task.name, "metric": metric.name, "better": metric.better,
            "classes": list(prepared.classes), "predictions": predictions,
            "rounds": result.rounds, "blend": result.blend,
            "sources": [row._asdict() for row in result.table],
            "shift": {key: shift[key] for key in ("policy", "auc_before", "auc_after")},
            "warnings": warnings}


def best_first(fits, result, scores, metric):
    """{FitSpec: Fitted} of the fits that the blend uses, the best single one first.

    That is, of the best source, the refit on all labelled images, else the fold with the best score
    on its own valid images.
    """
    score = {row.name: row.score for row in result.table}

    def goodness(spec):
        return metric.sign * score[spec.name], spec.fold is None, scores.goodness(fits[spec])

    used = [spec for spec in fits if result.blend.weights.get(spec.name, 0) > 0]
    return {spec: fits[spec] for spec in sorted(used, key=goodness, reverse=True)}
