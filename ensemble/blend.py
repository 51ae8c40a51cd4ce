"""Out-of-fold predictions -> views, temperatures and weights -> one prediction, scored on rows that
nothing was fitted to.

    blend, nested = fit_blend({"r0-vit": {"identity": probs, "rotate_180": probs}}, labels, folds, metric)
    test = blend.apply({"r0-vit": {"identity": predictions, "rotate_180": predictions}})

A source is one backbone, seed and round over all its folds. Of its views those that hurt are
dropped, their mean is calibrated by one temperature, and sources that know nothing or repeat
another are left out. Then candidates are compared by *nested* cross-validation: all of that is
fitted on all parts but one and scored on that one, so that the score of the winner holds what
choosing it has cost.
"""
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ensemble.metrics import (
    fit_temperature,
    least_loss_weights,
    log_loss,
    normalized,
    paired_change,
    with_temperature,
)
from modeling.inference import Predictions
from utils import RunError

GREEDY_STEPS = 30
# standard errors of a paired difference in log loss that count as one
CLEAR_STANDARD_ERRORS = 2.5
SAME = 0.005            # mean total variation below which two sources are one
MOST_ROWS = 4000        # that views are chosen on


@dataclass(frozen=True)
class Recipe:
    """What makes one prediction of many, by source: kept views, temperature, weight; and why a
    source has weight 0."""

    views: dict[str, tuple[str, ...]]
    temperature: dict[str, float]
    weights: dict[str, float]
    left_out: dict[str, str]

    def probs(self, sources):
        """(n, C) of {source: {view: probs (n, C)}}; sources of weight 0 are not read."""
        used = [name for name, weight in self.weights.items() if weight > 0]
        each = [with_temperature(mean_of(sources[name], self.views[name]), self.temperature[name])
                for name in used]
        return np.tensordot([self.weights[name] for name in used], np.stack(each), axes=1)


@dataclass(frozen=True)
class Blend(Recipe):
    """The Recipe of one method, weights >= 0 and summing to 1: its score on its own rows, nested,
    and that of all methods.

    cuts: thresholds between grades where fitted ones are better, else (): halfway, or the metric
    wants no grades.
    """

    method: str
    score: float
    score_nested: float
    nested_by_method: dict[str, float]
    cuts: tuple[float, ...] = ()

    def __post_init__(self):
        values = list(self.weights.values())
        if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
            raise RunError(f"Blend.weights must be >= 0 and sum to 1, got {self.weights}")

    def apply(self, predictions):
        """The blend of {source: {view: Predictions of the same samples}}, joined by id."""
        used = [name for name, weight in self.weights.items() if weight > 0]
        first = next(iter(predictions[used[0]].values()))
        ids = first.sample_id.tolist()
        probs = self.probs({name: {v: p.align(ids) for v, p in predictions[name].items()}
                            for name in used})
        return Predictions(first.sample_id, normalized(probs).astype(np.float32), first.classes,
                           first.split, tuple(used))


# ---------------------------------------------------------------- one source

def mean_of(views, names):
    return np.mean([views[name] for name in names], axis=0, dtype=np.float64).astype(np.float32)


def row_losses(probs, labels):
    """(n,) log loss of each row at the temperature that suits all of them."""
    scaled = with_temperature(probs, fit_temperature(labels, probs))
    return -np.log(np.maximum(scaled[np.arange(len(labels)), labels], 1e-7))


def clearly(difference, sign):
    """Whether the mean of paired differences (n,) is above (1) or below (-1) zero by SURE standard
    errors."""
    return sign * difference.mean() > CLEAR_STANDARD_ERRORS * difference.std() / np.sqrt(
        len(difference))


def choose_views(views, labels):
    """The views of {name: probs (n, C)} whose mean is kept: the first, and all others but those
    that clearly hurt."""
    rows = np.random.default_rng(0).permutation(len(labels))[:MOST_ROWS]
    views, labels, kept = {name: p[rows] for name, p in views.items()}, labels[rows], list(views)
    losses = row_losses(mean_of(views, kept), labels)
    while len(kept) > 1:
        without = {v: row_losses(mean_of(views, [k for k in kept if k != v]), labels) - losses
                   for v in kept[1:]}
        worst = min(without, key=lambda v: without[v].mean())
        if not clearly(without[worst], -1):
            break
        kept.remove(worst)
        losses += without[worst]
    return tuple(kept)


def useless(stack, labels, names):
    """{name: why} of the calibrated sources (m, n, C) that know no more than the class shares, or
    what an earlier one knows."""
    out = {}
    prior = np.bincount(labels, minlength=stack.shape[2]) / len(labels)
    for i, name in enumerate(names):
        gain = row_losses(stack[i], labels) + np.log(np.maximum(prior[labels], 1e-7))
        if not clearly(gain, -1):
            out[name] = "no better than the class shares"
            continue
        same = [k for k in range(i) if names[k] not in out
                and np.abs(stack[k] - stack[i]).sum(1).mean() / 2 < SAME]
        if same:
            out[name] = f"the same as {names[same[0]]}"
    return {} if len(out) == len(names) else out


# ---------------------------------------------------------------- weights

def mean_weights(stack, labels):
    """1/m each. stack (m, n, C) -> (m,)"""
    return np.full(len(stack), 1 / len(stack))


def greedy_weights(stack, labels):
    """Ensemble selection with replacement (Caruana et al., ICML 2004): add the member that helps
    most, count, normalise.

    It goes by log loss whatever the metric: macro-F1 on a few hundred rows rewards members that are
    noise.
    """
    counts = np.zeros(len(stack))
    total = np.zeros(stack.shape[1:])
    best_counts = None
    best = np.inf
    for step in range(1, GREEDY_STEPS + 1):
        losses = [log_loss(labels, (total + member) / step) for member in stack]
        pick = int(np.argmin(losses))
        counts[pick] += 1
        total += stack[pick]
        if losses[pick] < best:
            best = losses[pick]
            best_counts = counts.copy()
    return best_counts / best_counts.sum()


def simplex_weights(stack, labels):
    """The weights of least log loss; below 0.01 they are 0."""
    weights = least_loss_weights(stack, labels)
    weights = np.where(weights < 0.01, 0.0, weights)
    return weights / weights.sum()


METHODS = {"mean": mean_weights, "greedy": greedy_weights, "simplex": simplex_weights}


# ---------------------------------------------------------------- the blend

def fit_recipes(sources, labels, methods):
    """{method: Recipe} fitted on {source: {view: probs (n, C)}} and labels (n,)."""
    names = list(sources)
    views = {name: choose_views(sources[name], labels) for name in names}
    means = [mean_of(sources[name], views[name]) for name in names]
    temperature = {name: fit_temperature(labels, probs) for name,
                   probs in zip(names, means, strict=True)}
    stack = np.stack([with_temperature(p, t) for p, t in zip(means, temperature.values(),
                                                             strict=True)])
    left_out = useless(stack, labels, names) if len(names) > 1 else {}
    used = [name not in left_out for name in names]
    recipes = {}
    for method in methods:
        weights = np.zeros(len(names))
        weights[used] = METHODS[method](stack[used], labels)
        recipes[method] = Recipe(views, temperature,
                                 dict(zip(names, weights.tolist(), strict=True)), left_out)
    return recipes


def fit_blend(sources, labels, parts, metric, method="auto"):
    """The Blend of {source: {view: probs (n, C)}} on labels (n,), and its nested probs (n, C) over
    parts (n,) (fold numbers).

    `method` auto takes the winner of the nested comparison; one source needs no weights.
    """
    methods = [method] if method in METHODS else ["mean"] if len(sources) == 1 else list(METHODS)
    nested = nested_probs(sources, labels, parts, methods)
    plain = {m: metric(labels, probs) for m, probs in nested.items()}
    cut = {m: metric(labels, nested_cut(metric, labels, probs, parts)) for m,
           probs in nested.items()}
    scores = {m: max(plain[m], cut[m], key=lambda score: metric.sign * score) for m in methods}
    winner = max(methods, key=lambda m: (metric.sign * scores[m], -log_loss(labels, nested[m])))
    recipe = fit_recipes(sources, labels, methods)[winner]
    cuts = metric.fit_cuts(labels, recipe.probs(sources)) if scores[winner] != plain[winner] else ()
    return Blend(**vars(recipe), method=winner, score=metric.with_cuts(cuts)(labels,
                                                                             recipe.probs(sources)),
                 score_nested=scores[winner], nested_by_method=scores, cuts=cuts), nested[winner]


class RoundResult(NamedTuple):
    """What a round of teaching gave: the nested score of the blend with its sources, how much
    better that is than without (larger is better) with its 90 % interval over resampled rows, and
    whether it is used."""

    round: int
    score: float
    change: float
    change_ci90: list
    used: bool


def fit_rounds(sources, round_of, labels, parts, metric, method="auto", *, groups, draws=1000,
               seed=0):
    """(Blend, its nested probs (n, C), [RoundResult]): round by round, a later one's sources join
    unless the nested score clearly falls by that: the whole interval of the change is below 0, or
    there is no change. round_of: {source: round}; groups (n,): rows that the interval keeps
    together; else as `fit_blend`. Sources of rounds that are not used have weight 0.

    Why not where it clearly rises: what a round learnt of the test images helps there, and rows
    made like them show little of it (benchmarks/RESULTS.md). Why not wherever it rises: rows are
    few, and the score of what is chosen on them is reported. Of rounds that change nothing every
    other one rises by chance, and taking those alone adds 0.40 standard errors to the reported
    score, on average; leaving out those below -1.64 standard errors, as the interval asks, adds
    0.10 (normal errors).
    """
    first, *later = sorted(set(round_of.values()))
    used = [name for name in sources if round_of[name] == first]
    blend, nested = fit_blend({name: sources[name] for name in used}, labels, parts, metric, method)
    results = [RoundResult(first, blend.score_nested, 0.0, [0.0, 0.0], True)]
    for number in later:
        joined = [name for name in sources if name in used or round_of[name] == number]
        candidate, probs = fit_blend({name: sources[name] for name in joined}, labels, parts,
                                     metric, method)
        before, after = (nested_cut(metric, labels, each, parts) if of.cuts else each
                         for of, each in ((blend, nested), (candidate, probs)))
        change, ci90 = paired_change(metric, labels, before, after, groups=groups, draws=draws,
                                     seed=seed)
        results.append(RoundResult(number, candidate.score_nested, change, ci90, ci90[1] > 0))
        if results[-1].used:
            used = joined
            blend = candidate
            nested = probs
    return with_unused(blend, sources), nested, results


def with_unused(blend, sources):
    """The Blend over all sources: those of rounds that are not used with weight 0."""
    out = {name: "its round does not help" for name in sources if name not in blend.weights}
    return replace(blend, views=blend.views | {name: tuple(sources[name]) for name in out},
                   temperature=blend.temperature | dict.fromkeys(out, 1.0),
                   weights=blend.weights | dict.fromkeys(out, 0.0), left_out=blend.left_out | out)


def nested_cut(metric, labels, probs, parts):
    """probs (n, C) of which each part's rows are sure of the grade by thresholds fitted on the
    others; as they are where the metric wants no grades."""
    out = np.array(probs)
    for part in np.unique(parts):
        held = parts == part
        out[held] = metric.cut(probs[held], metric.fit_cuts(labels[~held], probs[~held]))
    return out


def nested_probs(sources, labels, parts, methods):
    """{method: blended probs (n, C)} of which each part's rows come from a Recipe fitted on the
    others."""
    if len(np.unique(parts)) < 2:
        raise RunError("a blend must be nested over at least two parts, got one")
    shape = next(iter(next(iter(sources.values())).values())).shape
    out = {m: np.zeros(shape) for m in methods}
    for part in np.unique(parts):
        held, rest = [{name: {v: p[rows] for v, p in views.items()} for name,
                       views in sources.items()} for rows in (parts == part, parts != part)]
        for method, recipe in fit_recipes(rest, labels[parts != part], methods).items():
            out[method][parts == part] = recipe.probs(held)
    return out
