"""The predictions of a run's fits -> one blend, its scores out of fold, and the score that the
submission may expect.

    results = run_ensemble(run, fits, metric)      # {"score", "blend", "table", "test", "folder", "rounds"}
"""
from collections import Counter
from typing import NamedTuple

import numpy as np

from config import key_settings
from ensemble import scores
from ensemble.blend import fit_rounds, mean_of, nested_cut
from ensemble.metrics import bootstrap_ci90, confident_scores, normalized
from ensemble.teachers import PSEUDO_LABELS, load_pseudo_labels
from modeling.inference import Predictions, joined_views
from system.stages import Stage
from utils import seed_of, write_json


class SourceRow(NamedTuple):
    """A source of the blend in the summary: its folds, its out-of-fold score in those that all
    sources have, and that score's standard deviation over them (None: there is one)."""

    name: str
    folds: int
    score: float
    fold_sd: float | None
    weight: float
    views: int
    views_dropped: tuple[str, ...]
    note: str               # why it has weight 0
    seconds: float


def fold_scores(this, fitted, metric):
    """{split: score} of one fit on its own valid images; computed once."""
    key = fitted.predict_stage.key
    if key not in this.scores:
        each = {split: fitted.predictions(split) for split in ("valid", "valid_testlike")
                if fitted.has(split)}
        this.scores[key] = {split: metric(np.array([this.label_of[i]
                                                    for i in p.sample_id.tolist()]), p.probs)
                            for split, p in each.items()}
    return this.scores[key]


FEWEST_GROUPS = 5      # of valid images, from which intervals resample groups


def by_source(fits):
    """{source name: its Fitted over folds}, in the order they were trained."""
    groups = {}
    for spec, fitted in fits.items():
        groups.setdefault(spec.name, []).append((spec.fold, fitted))
    return groups


def folds_of(groups):
    """The folds of each source, refits left out: with less time for some sources they may be fewer
    than for others."""
    return [{fold for fold, _ in members if fold is not None} for members in groups.values()]


def out_of_fold(members, split, of_folds):
    """{view: Predictions} over the valid images of these folds; clean ones where test-like would be
    equal."""
    folds = [f for fold, f in members if fold in of_folds]
    split = split if folds[0].has(split) else "valid"
    return joined_views([f.views(split) for f in folds], Predictions.concat)


def run_ensemble(this, fits, metric):
    """Blend on test-like out-of-fold rows; returns the scores, the table's rows and the blended
    test Predictions."""
    config = this.config
    audit = this.audit
    groups = by_source(fits)
    row = {sample: i for i, sample in enumerate(audit.train.sample_id.tolist())}
    stage = Stage.of(this.folder, "ensemble", version=7,
                     settings={**key_settings(config, "ensemble", "seed"), "metric": metric.name},
                     inputs=[f.predict_stage.key for f in fits.values()])
    common = set.intersection(*folds_of(groups))
    every = set.union(*folds_of(groups))
    if common < every:
        this.warn(
            f"scores and weights are those of {len(common)} of {len(every)} folds, which all backbones were trained on: "
            "the others lack some"
        )
    oof = {split: {name: out_of_fold(m, split, common) for name, m in groups.items()}
           for split in ("valid", "valid_testlike")}
    ids = next(iter(next(iter(oof["valid"].values())).values())).sample_id.tolist()
    rows = [row[i] for i in ids]
    labels = audit.train.label[rows]
    folds = this.folds.fold[rows]
    kin = audit.train.group[rows]
    if (n_groups := len(set(kin.tolist()))) < FEWEST_GROUPS:
        kin = np.arange(len(rows))
        this.warn(
            f"the valid images are of {n_groups} group(s): intervals resample images, as so few groups say nothing about "
            "how much others differ"
        )
    stacked = {name: {view: p.align(ids) for view, p in views.items()} for name,
               views in oof["valid_testlike"].items()}
    parts = blend_parts(folds, seed_of(config.seed, "blend"))
    blend, nested, rounds = fit_rounds(stacked, {spec.name: spec.round for spec in fits}, labels,
                                       parts, metric, config.ensemble.method, groups=kin,
                                       draws=config.ensemble.bootstrap_draws,
                                       seed=seed_of(config.seed, "rounds"))
    for r in rounds:
        if not r.used:
            this.warn(
                f"round {r.round} is not used for the submission: with it the blend's {metric.name} out of fold changes "
                f"by {r.change:+.4f} ({r.change_ci90[0]:+.4f} to {r.change_ci90[1]:+.4f}, larger is better), and a round "
                "is left out where none of that interval is above 0"
            )
    # the same images where nothing differs
    clean = nested if this.shift.is_empty else blend.apply(oof["valid"]).align(ids)
    score = {}
    for name, probs in (("oof_clean", clean), ("oof_testlike", nested)):
        probs = nested_cut(metric, labels, probs, parts) if blend.cuts else probs
        score[name] = metric(labels, probs)
        score[f"{name}_ci90"] = bootstrap_ci90(metric, labels, probs, groups=kin,
                                               draws=config.ensemble.bootstrap_draws,
                                               seed=seed_of(config.seed, "bootstrap"))
    if len(audit.test):
        sureness = by_confidence(this, groups, blend, nested, labels, folds,
                                 metric.with_cuts(blend.cuts))
        score |= expectation(score["oof_testlike"], score["oof_testlike_ci90"], *sureness,
                             metric.limits)
        warn_of_sureness(this, score, metric)
    else:
        score |= {"expected": score["oof_testlike"], "expected_ci90": score["oof_testlike_ci90"]}
    test = blend.apply({name: joined_views([f.views("test") for _, f in members], Predictions.mean)
                        for name, members in groups.items()}) if len(audit.test) else None

    def build(folder):
        write_json(folder / "blend.json", blend)
        for name, probs in (("oof_clean", clean), ("oof_testlike", nested)):
            probs = normalized(probs).astype(np.float32)
            Predictions(np.array(ids), probs, audit.train.classes, "valid",
                        tuple(groups)).save(folder / f"{name}.npz")
        if test:
            test.save(folder / "test.npz")

    this.run_stage(stage, build)
    table = [source_row(name, members, blend, stacked[name], labels, folds, metric) for name,
             members in groups.items()]
    return {"score": score, "blend": blend, "table": table, "test": test, "folder": stage.folder,
            "rounds": [r._asdict() | {"distillation": config.rounds[r.round].alpha}
                       | pseudo_labels(fits, r.round, audit.train.classes) for r in rounds]}


def warn_of_sureness(this, score, metric):
    """Say it where sureness alone takes the score of rows made like the test images out of its
    interval."""
    (low, high) = score["oof_testlike_ci90"]
    change = score["confidence_shift"]
    if not low <= score["oof_testlike"] + change <= high:
        surer = metric.sign * change > 0
        this.warn(
            f"the models are {'more' if surer else 'less'} sure on the test images than on training images made like "
            f"them, as if {metric.name} were {abs(change):.3f} {'higher' if change > 0 else 'lower'} there: something "
            "about the test set is not matched"
        )


def pseudo_labels(fits, round_number, classes):
    """{"pseudo_labels": {class: how many test images were taught as it, mean over folds},
    "agreement": share of those taught in the round before too that have the same class, None where
    there are none}. All fits of a fold are taught the same."""
    taught, before = ({spec.fold: load_pseudo_labels(f.result.folder / PSEUDO_LABELS) for spec,
                       f in fits.items() if spec.round == number} for number in (round_number,
                                                                                 round_number - 1))
    counts = Counter(label for labels in taught.values() for label in labels.values())
    same = [labels[i] == before[fold][i] for fold, labels in taught.items() if fold in before
            for i in labels.keys() & before[fold].keys()]
    return {"pseudo_labels": {c: counts[c] / len(taught) for c in classes} if counts else {},
            "agreement": float(np.mean(same)) if same else None}


def source_row(name, members, blend, views, labels, folds, metric):
    """The SourceRow of a source by its test-like out-of-fold {view: probs (n, C)}."""
    kept = blend.views[name]
    probs = mean_of(views, kept)
    each = [metric(labels[folds == k], probs[folds == k]) for k in np.unique(folds)]
    return scores.SourceRow(name, sum(fold is not None for fold, _ in members),
                            metric(labels, probs), float(np.std(each, ddof=1)) if len(each) > 1
                            else None, blend.weights[name], len(kept),
                            tuple(v for v in views if v not in kept), blend.left_out.get(name, ""),
                            sum(f.result.seconds for _, f in members))


def by_confidence(this, groups, blend, nested, labels, folds, metric):
    """`metrics.confident_scores` on test-like rows and on the test images, as each fold's own
    models see them."""
    scores = []
    for fold in np.unique(folds):
        test = blend.apply({name: fitted.views("test") for name, members in groups.items()
                            for number, fitted in members if number == fold})
        scores.append(confident_scores(metric, labels[folds == fold], nested[folds == fold],
                                       test.probs, n_scored=len(labels),
                                       seed=seed_of(this.config.seed, "confidence", int(fold))))
    return tuple(np.mean(scores, axis=0).tolist())


def expectation(score, ci90, here, alike, there, limits):
    """Two estimates averaged: the test-like score moved by how much surer the models are on the
    test images (`there`, in scores) than on those rows (`here`), and `there` itself. The interval
    holds both, as wide as the score's around each.

    alike: what rows like those would give if they were as many as the test images. All within what
    the metric can be, its `limits`.
    """
    moved = score + there - here
    values = np.clip([(moved + there) / 2, min(score + alike - here, moved, there) + ci90[0]
                      - score, max(score + alike - here, moved, there) + ci90[1] - score],
                     *limits).tolist()
    return {"by_confidence": there, "confidence_shift": there - alike, "expected": values[0],
            "expected_ci90": values[1:]}


def blend_parts(folds, seed):
    """What the blend is nested over: the folds, or five random parts of a single fold's rows."""
    if len(np.unique(folds)) > 1:
        return folds
    return np.random.default_rng(seed).permutation(len(folds)) % 5
