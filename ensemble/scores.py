"""The predictions of a run's fits -> one blend, its scores out of fold, and the score to expect.

    result = blended(prepared, metric, fits, log)
    result.blend, result.score["expected"], result.test
"""
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import key_settings
from ensemble.blend import (
    Blend,
    OutOfFold,
    aligned,
    fit_rounds,
    mean_of,
    nested_cut,
    what_each_adds,
)
from ensemble.judges import JUDGES, confident_scores, spread_by_rows
from ensemble.metrics import bootstrap_ci90
from ensemble.teachers import PSEUDO_LABELS, load_pseudo_labels
from modeling.inference import Predictions, joined_views
from system.stages import Stage, make
from utils import seed_of, write_json

Z90 = 1.645      # standard deviations to either end of a 90 % interval
FEWEST_GROUPS = 5      # of valid images, before intervals resample groups
MOST_PARTS = 5         # to nest the blend over: its cost grows by their square


class SourceRow(NamedTuple):
    """A source of the blend in the summary.

    folds: how many it was trained in. score: out of fold, in the folds that all sources have.
    fold_sd: the score's standard deviation over those folds, None with a single fold.
    note: why its weight is 0. adds, adds_ci90: how much better the blend is than without it, None
    and () without a weight or others. rescues: {other source: share of the rows that this one
    answers right and the other wrong}.
    """

    name: str
    folds: int
    score: float
    fold_sd: float | None
    weight: float
    views: int
    views_dropped: tuple[str, ...]
    note: str
    seconds: float
    adds: float | None = None
    adds_ci90: tuple[float, ...] = ()
    rescues: dict[str, float] | None = None


class FoldScores:
    """Scores of fits on their own valid images, each computed once."""

    def __init__(self, label_of, metric):
        """label_of: {sample id: its truth}, as of running.run.Prepared."""
        self.label_of = label_of
        self.metric = metric
        self.known = {}

    def of(self, fitted):
        """{split: score} of a Fitted; {} for a refit."""
        key = fitted.predict_stage.key
        if key not in self.known:
            self.known[key] = {split: self.score(fitted.predictions(split))
                               for split in ("valid", "valid_testlike") if fitted.has(split)}
        return self.known[key]

    def score(self, predictions):
        labels = np.array([self.label_of[sample] for sample in predictions.sample_id.tolist()])
        return self.metric(labels, predictions.probs)

    def goodness(self, fitted):
        """The test-like score, larger is better; 0 for a refit."""
        scores = self.of(fitted)
        return self.metric.sign * scores.get("valid_testlike", scores.get("valid", 0))


# ---------------------------------------------------------------- rows out of fold

def by_source(fits):
    """{source name: [(fold, Fitted)]}, in the order they were trained."""
    sources = {}
    for spec, fitted in fits.items():
        sources.setdefault(spec.name, []).append((spec.fold, fitted))
    return sources


def folds_of(sources):
    """The folds of each source without refits. A source that ran out of time has fewer."""
    return [{fold for fold, _ in members if fold is not None} for members in sources.values()]


def comparable(sources, log):
    """The sources that share at least one fold: without the shortest ones while there is none."""
    kept = dict(sources)
    while not set.intersection(*folds_of(kept)):
        lengths = dict(zip(kept, map(len, folds_of(kept)), strict=True))
        shortest = min(reversed(kept), key=lengths.get)
        del kept[shortest]
        log.warn(f"{shortest} is not blended: it shares no fold with the others, in which a score "
                 "could be taken")
    return kept


def out_of_fold(members, split_of, of_folds):
    """{view: Predictions} over the valid images of these folds. split_of(Fitted): which split."""
    return joined_views([fitted.views(split_of(fitted)) for fold, fitted in members
                         if fold in of_folds], Predictions.concat)


@dataclass(frozen=True, eq=False)
class Rows:
    """The valid images of the folds that all sources have: n of them.

    labels: Catalog.truth (n,) or (n, C). folds, groups (n,). parts (n,): what the blend is nested
    over.
    clean: {source: {view: Predictions}}. testlike: {source: {view: probs (n, C)}}.
    """

    ids: list[str]
    labels: np.ndarray
    folds: np.ndarray
    groups: np.ndarray
    parts: np.ndarray
    clean: dict
    testlike: dict


def rows_of(prepared, sources, log):
    """The Rows of these sources."""
    common = set.intersection(*folds_of(sources))
    # members that are not trained have all folds, also those that the run was asked to leave out
    trained = {name: members for name, members in sources.items()
               if all(fitted.result.spec.is_trained for _, fitted in members)}
    every = set.union(*folds_of(trained or sources))
    if common < every:
        log.warn(f"scores and weights are those of {len(common)} of {len(every)} folds, which all "
                 "backbones were trained on: the others lack some")
    testlike = {name: out_of_fold(members, lambda fitted: fitted.testlike, common)
                for name, members in sources.items()}
    clean = testlike
    if not prepared.shift.is_empty:
        clean = {name: out_of_fold(members, lambda _: "valid", common)
                 for name, members in sources.items()}

    first_view = next(iter(next(iter(clean.values())).values()))
    ids = first_view.sample_id.tolist()
    train = prepared.audit.train
    row_of = {sample: row for row, sample in enumerate(train.sample_id.tolist())}
    rows = [row_of[sample] for sample in ids]
    folds = prepared.folds.fold[rows]
    groups = groups_to_resample(train.group[rows], log)
    return Rows(ids, train.truth[rows], folds, groups,
                blend_parts(folds, groups, seed_of(prepared.config.seed, "blend")), clean,
                aligned(testlike, ids))


def groups_to_resample(groups, log):
    """The groups (n,) that intervals resample; each image its own where groups are too few."""
    n_groups = len(set(groups.tolist()))
    if n_groups >= FEWEST_GROUPS:
        return groups
    log.warn(f"the valid images are of {n_groups} group(s): intervals resample images, as so few "
             "groups say nothing about how much others differ")
    return np.arange(len(groups))


def blend_parts(folds, groups, seed):
    """What the blend is nested over (n,): at most five parts, of whole folds, or of whole groups.

    Fewer than three folds are too few to choose on some and score on another.
    """
    units = folds
    if len(np.unique(folds)) < 3:
        units = groups
    names, unit = np.unique(units, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(names))[unit] % MOST_PARTS


# ---------------------------------------------------------------- the blend of a run

@dataclass(frozen=True, eq=False)
class Blended:
    """The blend of a run and what it is worth.

    score: as in final_results.json. test: the blend's Predictions, None without test images.
    folder: of the ensemble stage. rounds: what each round changed.
    """

    score: dict
    blend: Blend
    table: list[SourceRow]
    test: Predictions | None
    folder: Path
    rounds: list[dict]


def blended(prepared, metric, fits, log, is_kept=True):
    """The Blended of a run, fitted on test-like out-of-fold rows.

    prepared: running.run.Prepared. fits: {FitSpec: Fitted}. is_kept: its stage is made.
    """
    config = prepared.config
    sources = comparable(by_source(fits), log)
    fits = {spec: done for spec, done in fits.items() if spec.name in sources}
    rows = rows_of(prepared, sources, log)
    blend, nested, rounds = fit_rounds(
        rows.testlike, {spec.name: spec.round for spec in fits}, rows.labels, rows.parts, metric,
        config.ensemble.method, groups=rows.groups, draws=config.ensemble.bootstrap_draws,
        seed=seed_of(config.seed, "rounds"))
    blend = replace(blend, cuts=metric.final_cuts(prepared.audit.train.truth, blend.cuts))
    warn_of_rounds(rounds, metric, log)
    clean = nested
    if not prepared.shift.is_empty:
        probs = blend.apply(rows.clean).align(rows.ids)
        answers = nested_cut(metric, rows.labels, probs, rows.parts) if blend.cuts else probs
        clean = OutOfFold(probs, answers)

    score = out_of_fold_scores(config, metric, rows, clean, nested)
    test = None
    has_test = len(prepared.audit.test) > 0
    if has_test and JUDGES[metric.values].draw:
        *sureness, spread = by_confidence(config.seed, sources, blend, nested.probs, rows, metric)
        score |= expectation(score["oof_testlike"], score["oof_testlike_ci90"], *sureness,
                             metric.limits)
        change = score["confidence_shift"]
        score["confidence_shift_ci90"] = [change - Z90 * spread, change + Z90 * spread]
        warn_of_sureness(score, metric, log)
    else:
        score |= {"expected": score["oof_testlike"], "expected_ci90": score["oof_testlike_ci90"]}
    if has_test:
        test = blend.apply({
            name: joined_views([fitted.views("test") for _, fitted in sources[name]],
                               Predictions.mean)
            for name in blend.weighted_names()})

    stage = ensemble_stage(prepared, metric, fits)
    tables = {"oof_clean": clean.probs, "oof_testlike": nested.probs}
    if is_kept:
        make(stage, lambda folder: save_blend(folder, blend, tables, test, rows.ids, Predictions(
            np.array([]), np.zeros((0, len(prepared.classes))), prepared.classes, "valid",
            tuple(sources), prepared.task.values)), log)
    adds = what_each_adds(blend, rows.testlike, rows.labels, rows.parts, metric, groups=rows.groups,
                          draws=config.ensemble.bootstrap_draws, seed=seed_of(config.seed, "adds"))
    right = rows_right(metric, rows, blend)
    table = [source_row(name, members, blend, rows, metric)._replace(
        **adds.get(name, {}), rescues=rescues(name, right)) for name, members in sources.items()]
    return Blended(score, blend, table, test, stage.folder,
                   [round_row(config, fits, result, prepared.classes) for result in rounds])


def ensemble_stage(prepared, metric, fits):
    settings = {**key_settings(prepared.config, "ensemble", "seed"), "metric": metric.name}
    if metric.always_cut:
        settings["ranges"] = "of all training labels"
    return Stage.of(prepared.folder, "ensemble", version=9, settings=settings,
                    inputs=[fitted.predict_stage.key for fitted in fits.values()])


def save_blend(folder, blend, out_of_fold_probs, test, ids, empty):
    """blend.json, and the blend's predictions out of fold and of the test images.

    empty: the Predictions out of fold without their rows.
    """
    write_json(folder / "blend.json", blend)
    for name, probs in out_of_fold_probs.items():
        probs = JUDGES[empty.values].tidy(probs).astype(np.float32)
        replace(empty, sample_id=np.array(ids), probs=probs).save(folder / f"{name}.npz")
    if test:
        test.save(folder / "test.npz")


def rows_right(metric, rows, blend):
    """{source: (n,) bool, the rows that it answers right}; {} where no answer is right or wrong."""
    is_right = JUDGES[metric.values].right
    return {name: is_right(rows.labels, mean_of(rows.testlike[name], blend.views[name]))
            for name in blend.weighted_names() if is_right}


def rescues(name, right):
    """{other source: share of the rows that `name` answers right and the other wrong}.

    right: {source: (n,) bool}.
    """
    return {other: float((right[name] & ~theirs).mean()) for other, theirs in right.items()
            if name in right and other != name}


def source_row(name, members, blend, rows, metric):
    """The SourceRow of a source, by its test-like out-of-fold rows."""
    views = rows.testlike[name]
    kept = blend.views[name]
    probs = mean_of(views, kept)
    folds = [rows.folds == fold for fold in np.unique(rows.folds)]
    each = [metric(rows.labels[mine], probs[mine]) for mine in folds]
    return SourceRow(
        name,
        folds=sum(fold is not None for fold, _ in members),
        score=metric(rows.labels, probs),
        fold_sd=float(np.std(each, ddof=1)) if len(each) > 1 else None,
        weight=blend.weights[name],
        views=len(kept),
        views_dropped=tuple(view for view in views if view not in kept),
        note=blend.left_out.get(name, ""),
        seconds=sum(fitted.result.seconds for _, fitted in members))


# ---------------------------------------------------------------- rounds

def warn_of_rounds(rounds, metric, log):
    """Say which rounds the blend leaves out."""
    for result in rounds:
        if not result.used:
            low, high = result.change_ci90
            log.warn(f"round {result.round} is not used for the submission: with it the blend's "
                     f"{metric.name} out of fold changes by {result.change:+.4f} ({low:+.4f} to "
                     f"{high:+.4f}, larger is better), and a round is left out where none of that "
                     "interval is above 0")


def round_row(config, fits, result, classes):
    """A round in final_results.json: what it was taught, what it changed."""
    return (result._asdict() | {"distillation": config.rounds[result.round].alpha}
            | pseudo_labels(fits, result.round, classes))


def pseudo_labels(fits, round_number, classes):
    """How many test images a round was taught as each class, and whether the last one agrees.

    pseudo_labels: {class: images, mean over folds}, {} if nothing was taught.
    agreement: share of the images taught in both rounds that have the same class, None if none are.
    All fits of a fold are taught the same.
    """
    def taught_in(number):
        return {spec.fold: load_pseudo_labels(fitted.result.folder / PSEUDO_LABELS)
                for spec, fitted in fits.items() if spec.round == number}

    taught = taught_in(round_number)
    before = taught_in(round_number - 1)
    counts = Counter(label for labels in taught.values() for label in labels.values())
    same = [labels[sample] == before[fold][sample] for fold, labels in taught.items()
            if fold in before for sample in labels.keys() & before[fold].keys()]
    per_fold = {name: counts[name] / len(taught) for name in classes} if counts else {}
    return {"pseudo_labels": per_fold, "agreement": float(np.mean(same)) if same else None}


# ---------------------------------------------------------------- what the blend is worth

def out_of_fold_scores(config, metric, rows, clean, nested):
    """{"oof_clean", "oof_testlike"} and the 90 % interval of each. clean, nested: OutOfFold."""
    score = {}
    for name, (_, answers) in (("oof_clean", clean), ("oof_testlike", nested)):
        score[name] = metric(rows.labels, answers)
        score[f"{name}_ci90"] = bootstrap_ci90(
            metric, rows.labels, answers, groups=rows.groups, draws=config.ensemble.bootstrap_draws,
            seed=seed_of(config.seed, "bootstrap"))
    return score


def by_confidence(seed, sources, blend, nested, rows, metric):
    """`judges.confident_scores` of test-like rows and test images, as each fold's models see them,
    and `judges.spread_by_rows` of the last.

    Means over folds.
    """
    metric = metric.with_cuts(blend.cuts)
    scores = []
    for fold in np.unique(rows.folds):
        mine = rows.folds == fold
        test = blend.apply({name: fitted.views("test") for name in blend.weighted_names()
                            for number, fitted in sources[name] if number == fold})
        seen = metric, rows.labels[mine], nested[mine], test.probs
        scores.append((
            *confident_scores(*seen, n_scored=len(rows.labels),
                              seed=seed_of(seed, "confidence", int(fold))),
            spread_by_rows(*seen, seed=seed_of(seed, "spread", int(fold)))))
    return tuple(np.mean(scores, axis=0).tolist())


def expectation(score, ci90, here, alike, there, limits):
    """The mean of two estimates of the test score, with an interval that holds both.

    score, ci90: of test-like rows. here: what their sureness says it is. there: what the sureness
    on the test images says. alike: what rows like `here` would say if they were as many.
    One estimate moves the score by how much surer the models are on the test images; the other is
    `there`. All values stay within the metric's `limits`.
    """
    moved = score + there - here
    lowest = min(score + alike - here, moved, there)
    highest = max(score + alike - here, moved, there)
    low = lowest + ci90[0] - score
    high = highest + ci90[1] - score
    values = np.clip([(moved + there) / 2, low, high], *limits).tolist()
    return {"by_confidence": there, "confidence_shift": there - alike, "expected": values[0],
            "expected_ci90": values[1:]}


def warn_of_sureness(score, metric, log):
    """Warn where sureness alone takes the score of test-like rows out of its interval, by more than
    other test images would change it."""
    low, high = score["oof_testlike_ci90"]
    change = score["confidence_shift"]
    least, most = score["confidence_shift_ci90"]
    if score["oof_testlike"] + most >= low and score["oof_testlike"] + least <= high:
        return
    surer = "more" if metric.sign * change > 0 else "less"
    higher = "higher" if change > 0 else "lower"
    nearer, farther = sorted((abs(least), abs(most)))
    log.warn(f"the models are {surer} sure on the test images than on training images made like "
             f"them, as if {metric.name} were {abs(change):.3f} ({nearer:.3f} to {farther:.3f}) "
             f"{higher} there: something about the test set is not matched")
