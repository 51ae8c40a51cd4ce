"""Out-of-fold predictions -> views, temperatures and weights -> one prediction, scored by nested
cross-validation.

    sources = {"r0-vit": {"identity": probs, "rotate_180": probs}}
    blend, nested = fit_blend(sources, labels, folds, metric)
    test = blend.apply({"r0-vit": {"identity": predictions, "rotate_180": predictions}})

A source is one backbone, seed and round over all its folds. A view that clearly hurts is dropped,
and one temperature calibrates the mean of the others. A source that knows nothing or repeats
another is left out. *Nested*: views, temperatures, the method, its weights, whether to cut, the
cuts and which rounds join are all found on all parts but one, and scored on that one.
"""
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ensemble.judges import JUDGES
from ensemble.metrics import (
    equal_weights,
    greedy_selection,
    least_loss_weights,
    likelihoods,
    paired_change,
    without_least,
)
from utils import RunError

CLEAR_STANDARD_ERRORS = 2.5     # from which a paired difference in log loss is clear
SAME = 0.005            # mean distance below which two sources are the same
SHARES = JUDGES["shares"]
MOST_ROWS = 4000        # to choose views on


@dataclass(frozen=True)
class Recipe:
    """Kept views, temperature and weight by source, and why a source has weight 0 (`left_out`)."""

    views: dict[str, tuple[str, ...]]
    temperature: dict[str, float]
    weights: dict[str, float]
    left_out: dict[str, str]

    def probs(self, sources, judge=SHARES):
        """Blend {source: {view: probs (n, C)}} to (n, C); sources of weight 0 are not read."""
        names = self.weighted_names()
        each = []
        for name in names:
            mean = mean_of(sources[name], self.views[name])
            each.append(judge.tempered(mean, self.temperature[name]))
        return np.tensordot([self.weights[name] for name in names], np.stack(each), axes=1)

    def weighted_names(self):
        """Names of the sources with a weight above 0."""
        return [name for name, weight in self.weights.items() if weight > 0]


@dataclass(frozen=True)
class Blend(Recipe):
    """The Recipe of the winning method, with weights >= 0 that sum to 1, and its scores.

    score: on the rows it was fitted on. score_nested: on held-out parts, each by the method that
    won on the others. nested_by_method: on held-out parts by one method, from which the winner is
    taken. cuts: fitted thresholds (Metric.fit_cuts); () if plain ones are better or the metric cuts
    nothing.
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
        """Blend {source: {view: Predictions}} of the same samples, joined by id, to Predictions."""
        names = self.weighted_names()
        first = next(iter(predictions[names[0]].values()))
        ids = first.sample_id.tolist()
        weighted = {name: predictions[name] for name in names}
        judge = JUDGES[first.values]
        probs = judge.tidy(self.probs(aligned(weighted, ids), judge)).astype(np.float32)
        return replace(first, probs=probs, sources=tuple(names))


def aligned(sources, ids):
    """{source: {view: probs (n, C)}} of {source: {view: Predictions}}, in the order of ids."""
    return {name: {view: predictions.align(ids) for view, predictions in views.items()}
            for name, views in sources.items()}


# ---------------------------------------------------------------- one source

def mean_of(views, names):
    """Mean (n, C) of the named views of {view: probs (n, C)}, float32."""
    mean = np.mean([views[name] for name in names], axis=0, dtype=np.float64)
    return mean.astype(np.float32)


def clearly_below_zero(difference):
    """Whether the mean of paired differences (n,) is clearly below zero."""
    bound = CLEAR_STANDARD_ERRORS * difference.std() / np.sqrt(len(difference))
    return difference.mean() < -bound


def choose_views(views, labels, judge=SHARES):
    """Views of {name: probs (n, C)} to average: the first, and all others that do not hurt."""
    if len(views) == 1:
        return tuple(views)

    rows = np.random.default_rng(0).permutation(len(labels))[:MOST_ROWS]
    views = {name: p[rows] for name, p in views.items()}
    labels = labels[rows]
    kept = list(views)
    losses = judge.row_losses(labels, judge.calibrated(labels, mean_of(views, kept)))

    while len(kept) > 1:
        changes = {}
        for view in kept[1:]:
            others = [v for v in kept if v != view]
            probs = judge.calibrated(labels, mean_of(views, others))
            changes[view] = judge.row_losses(labels, probs) - losses
        worst = min(changes, key=lambda view: changes[view].mean())
        if not clearly_below_zero(changes[worst]):
            break
        kept.remove(worst)
        losses = losses + changes[worst]      # of the views that are left
    return tuple(kept)


def useless(stack, labels, names, judge=SHARES):
    """{name: why} of the calibrated sources (m, n, C) to leave out.

    A source is useless if it knows no more than a constant answer, or the same as an earlier one.
    Returns {} if that would leave none.
    """
    out = {}
    constant = judge.constant(labels, stack.shape[2])
    least = judge.row_losses(labels, np.broadcast_to(constant, stack.shape[1:]))
    for i, name in enumerate(names):
        # over the loss of always answering the class shares
        excess = judge.row_losses(labels, judge.calibrated(labels, stack[i])) - least
        if not clearly_below_zero(excess):
            out[name] = "no better than the class shares"
            continue
        for k in range(i):
            if names[k] not in out and judge.distance(stack[k], stack[i]) < SAME:
                out[name] = f"the same as {names[k]}"
                break

    if len(out) == len(names):
        return {}
    return out


# ---------------------------------------------------------------- weights

def greedy_weights(stack, labels):
    """`greedy_selection` by log loss for every metric, because macro-F1 on a few hundred rows
    rewards members that are noise."""
    return greedy_selection(likelihoods(stack, labels), lambda means: -np.log(means).mean(1))


def simplex_weights(stack, labels):
    """The weights of least log loss, without those that are tiny."""
    weights = without_least(least_loss_weights(stack, labels))
    return weights / weights.sum()


METHODS = {"mean": equal_weights, "greedy": greedy_weights, "simplex": simplex_weights}


# ---------------------------------------------------------------- the blend

def fit_recipes(sources, labels, methods, judge=SHARES):
    """{method: Recipe} fitted on {source: {view: probs (n, C)}} and labels (n,)."""
    names = list(sources)
    views = {}
    temperature = {}
    calibrated = []
    for name in names:
        views[name] = choose_views(sources[name], labels, judge)
        mean = mean_of(sources[name], views[name])
        temperature[name] = judge.fit_temperature(labels, mean)
        calibrated.append(judge.tempered(mean, temperature[name]))

    stack = np.stack(calibrated)
    left_out = useless(stack, labels, names, judge) if len(names) > 1 else {}
    is_kept = [name not in left_out for name in names]
    recipes = {}
    for method in methods:
        weights = np.zeros(len(names))
        rows, kept = judge.rows(labels, stack[is_kept])
        weights[is_kept] = (judge.methods or METHODS)[method](kept, rows)
        weight_of = dict(zip(names, weights.tolist(), strict=True))
        recipes[method] = Recipe(views, temperature, weight_of, left_out)
    return recipes


class OutOfFold(NamedTuple):
    """A blend's rows out of fold, (n, C) each.

    probs: as blended. answers: as scored, cut into grades where fitted cuts are used.
    """

    probs: np.ndarray
    answers: np.ndarray


class Choice(NamedTuple):
    """The method that scores best on held-out parts, whether cuts help it, and all scores."""

    method: str
    cuts_help: bool
    scores: dict[str, float]


def methods_of(method, sources, parts):
    """The methods to choose among, as `fit_blend` says."""
    n_parts = len(np.unique(parts))
    if n_parts < 2:
        raise RunError("a blend must be nested over at least two parts, got one")
    if method in METHODS:
        return [method]
    if len(sources) == 1 or n_parts == 2:
        return ["mean"]
    return list(METHODS)


class Fits:
    """Recipes of rows (n,) in `parts` (n,), each fitted once, by the parts that are left out."""

    def __init__(self, sources, labels, parts, methods, judge=SHARES):
        self.judge = judge
        self.sources = sources
        self.labels = labels
        self.parts = parts
        self.methods = methods
        self.known = {}

    @property
    def shape(self):
        """(n, C)"""
        first_source = next(iter(self.sources.values()))
        return next(iter(first_source.values())).shape

    def without(self, left_out):
        """{method: Recipe} fitted on the rows of the other parts. left_out: a set of parts."""
        key = frozenset(left_out)
        if key not in self.known:
            rows = self.rows_without(left_out)
            self.known[key] = fit_recipes(only_rows(self.sources, rows), self.labels[rows],
                                          self.methods, self.judge)
        return self.known[key]

    def rows_without(self, left_out):
        """(n,) bool"""
        return ~np.isin(self.parts, list(left_out))

    def held_out(self, left_out):
        """{method: probs (n, C)}: each part's rows by the Recipes fitted without it and `left_out`.

        Rows of `left_out` are 0.
        """
        out = {method: np.zeros(self.shape) for method in self.methods}
        for part in np.unique(self.parts[self.rows_without(left_out)]).tolist():
            held = self.parts == part
            held_sources = only_rows(self.sources, held)
            for method, recipe in self.without(left_out | {part}).items():
                out[method][held] = recipe.probs(held_sources, self.judge)
        return out


def choose(fits, metric, left_out=frozenset()):
    """The Choice among the methods of `fits`, without the rows in `left_out` parts."""
    rows = fits.rows_without(left_out)
    labels = fits.labels[rows]
    scores = {}
    cuts_help = {}
    losses = {}
    for method, every in fits.held_out(left_out).items():
        probs = every[rows]
        plain = metric(labels, probs)
        cut = metric(labels, nested_cut(metric, labels, probs, fits.parts[rows]))
        cuts_help[method] = metric.always_cut or metric.sign * cut > metric.sign * plain
        scores[method] = cut if cuts_help[method] else plain
        losses[method] = fits.judge.loss(labels, probs)
    winner = max(fits.methods, key=lambda method: (metric.sign * scores[method], -losses[method]))
    return Choice(winner, cuts_help[winner], scores)


def fitted(fits, metric, choice, left_out=frozenset()):
    """(Recipe, its cuts) of a Choice, fitted without the rows in `left_out` parts."""
    recipe = fits.without(left_out)[choice.method]
    if not choice.cuts_help:
        return recipe, ()
    rows = fits.rows_without(left_out)
    probs = recipe.probs(only_rows(fits.sources, rows), fits.judge)
    return recipe, metric.fit_cuts(fits.labels[rows], probs)


def nested(fits, metric, left_out=frozenset()):
    """OutOfFold rows: each part's by what is chosen and fitted on the other parts alone.

    Rows of `left_out` parts are 0, and nothing is fitted on them.
    """
    parts = np.unique(fits.parts[fits.rows_without(left_out)]).tolist()
    is_choice = len(parts) > 2 and (len(fits.methods) > 1 or metric.is_cut)
    choice = Choice(fits.methods[0], cuts_help=metric.always_cut, scores={})
    probs = np.zeros(fits.shape)
    answers = np.zeros(fits.shape)
    for part in parts:
        others_out = left_out | {part}
        if is_choice:
            choice = choose(fits, metric, others_out)
        recipe, cuts = fitted(fits, metric, choice, others_out)
        held = fits.parts == part
        probs[held] = recipe.probs(only_rows(fits.sources, held), fits.judge)
        answers[held] = metric.cut(probs[held], cuts) if cuts else probs[held]
    return OutOfFold(probs, answers)


def fit_blend(sources, labels, parts, metric, method="auto"):
    """(Blend, its nested OutOfFold) of {source: {view: probs (n, C)}} on labels (n,).

    parts (n,): what the blend is nested over. `method` auto takes the best; a single source needs
    no weights, and a choice needs three parts: it is made on two of them and scored on the third.
    """
    fits = Fits(sources, labels, parts, methods_of(method, sources, parts), JUDGES[metric.values])
    out_of_fold = nested(fits, metric)
    return blend_of(fits, metric, out_of_fold), out_of_fold


def blend_of(fits, metric, out_of_fold):
    """The Blend of all rows. out_of_fold: the OutOfFold rows that it is reported by."""
    choice = choose(fits, metric)
    recipe, cuts = fitted(fits, metric, choice)
    return Blend(
        **vars(recipe), method=choice.method,
        score=metric.with_cuts(cuts)(fits.labels, recipe.probs(fits.sources, fits.judge)),
        score_nested=metric(fits.labels, out_of_fold.answers),
        nested_by_method=choice.scores, cuts=cuts)


# ---------------------------------------------------------------- rounds

class RoundResult(NamedTuple):
    """What one round adds to the blend.

    score: nested, of the blend with the round's sources. change: how much better than without
    them, larger is better. change_ci90: its 90 % interval over resampled rows.
    """

    round: int
    score: float
    change: float
    change_ci90: list
    used: bool


def fit_rounds(sources, round_of, labels, parts, metric, method="auto", *, groups, draws=1000,
               seed=0):
    """(Blend, its nested OutOfFold, [RoundResult]), adding the sources round by round.

    A later round joins only if the upper end of its change's interval is above 0; sources of other
    rounds get weight 0. round_of: {source: round}. groups (n,): rows that the interval keeps
    together. The rest as in `fit_blend`.

    Joining only on a clear rise would ask too much: what a round learnt from the test images helps
    there, and rows made like them show little of it (benchmarks/RESULTS.md). Which rounds join is
    nested too: a part's rows are those of the rounds that join by the other parts. That needs three
    parts; on two, the rounds that join by both flatter the score by 0.10 standard errors (normal
    errors).
    """
    ladder = Ladder(sources, round_of, labels, parts, metric, method,
                    {"groups": groups, "draws": draws, "seed": seed})
    used, results = ladder.climb()
    out_of_fold = ladder.rows(used)
    names = np.unique(parts).tolist()
    if len(results) > 1 and len(names) > 2:
        probs = np.array(out_of_fold.probs)
        answers = np.array(out_of_fold.answers)
        for part in names:
            held = parts == part
            rows = ladder.rows(ladder.climb(frozenset([part]))[0])
            probs[held] = rows.probs[held]
            answers[held] = rows.answers[held]
        out_of_fold = OutOfFold(probs, answers)
    blend = blend_of(ladder.fits(used), metric, out_of_fold)
    return with_unused(blend, sources), out_of_fold, results


class Ladder:
    """Blends of the sources of some rounds, each fitted once, and which rounds join."""

    def __init__(self, sources, round_of, labels, parts, metric, method, interval):
        """interval: {"groups", "draws", "seed"} as in `fit_rounds`. The rest as there."""
        self.sources = sources
        self.round_of = round_of
        self.labels = labels
        self.parts = parts
        self.metric = metric
        self.method = method
        self.interval = interval
        self.known_fits = {}
        self.known_rows = {}

    def fits(self, rounds):
        """Fits of the sources of `rounds`, a tuple."""
        if rounds not in self.known_fits:
            mine = {name: views for name, views in self.sources.items()
                    if self.round_of[name] in rounds}
            methods = methods_of(self.method, mine, self.parts)
            self.known_fits[rounds] = Fits(mine, self.labels, self.parts, methods,
                                           JUDGES[self.metric.values])
        return self.known_fits[rounds]

    def rows(self, rounds, left_out=frozenset()):
        """`nested` rows of the blend of `rounds`."""
        key = rounds, left_out
        if key not in self.known_rows:
            self.known_rows[key] = nested(self.fits(rounds), self.metric, left_out)
        return self.known_rows[key]

    def climb(self, left_out=frozenset()):
        """(rounds that join, [RoundResult] of all) by the rows without the `left_out` parts."""
        here = ~np.isin(self.parts, list(left_out))
        labels = self.labels[here]
        interval = self.interval | {"groups": self.interval["groups"][here]}
        first, *later = sorted(set(self.round_of.values()))
        used = (first,)
        before = self.rows(used, left_out).answers[here]
        results = [RoundResult(first, self.metric(labels, before), 0.0, [0.0, 0.0], used=True)]
        for number in later:
            joined = (*used, number)
            after = self.rows(joined, left_out).answers[here]
            change, ci90 = paired_change(self.metric, labels, before, after, **interval)
            may_help = ci90[1] > 0
            score = self.metric(labels, after)
            results.append(RoundResult(number, score, change, ci90, used=may_help))
            if may_help:
                used = joined
                before = after
        return used, results


def what_each_adds(blend, sources, labels, parts, metric, *, groups, draws=1000, seed=0):
    """{source: {"adds", "adds_ci90"}} of each source with a weight: how much better the blend is
    than without it, larger is better, and the 90 % interval; {} of a single one.

    Both blends are nested over `parts` (n,) and made by the blend's method; the others' views,
    temperatures and weights are found anew.
    """
    names = blend.weighted_names()
    if len(names) < 2:
        return {}

    def answers(kept):
        fits = Fits({name: sources[name] for name in kept}, labels, parts, [blend.method],
                    JUDGES[metric.values])
        return nested(fits, metric).answers

    whole = answers(names)
    found = {}
    for name in names:
        before = answers([other for other in names if other != name])
        change, ci90 = paired_change(metric, labels, before, whole, groups=groups, draws=draws,
                                     seed=seed)
        found[name] = {"adds": change, "adds_ci90": tuple(ci90)}
    return found


def with_unused(blend, sources):
    """The Blend over all sources, with weight 0 for sources of unused rounds."""
    out = {name: "its round does not help" for name in sources if name not in blend.weights}
    return replace(
        blend,
        views=blend.views | {name: tuple(sources[name]) for name in out},
        temperature=blend.temperature | dict.fromkeys(out, 1.0),
        weights=blend.weights | dict.fromkeys(out, 0.0),
        left_out=blend.left_out | out,
    )


def nested_cut(metric, labels, probs, parts):
    """probs (n, C), each part cut by thresholds fitted on the others if answers are cut."""
    out = np.array(probs)
    for part in np.unique(parts):
        held = parts == part
        out[held] = metric.cut(probs[held], metric.fit_cuts(labels[~held], probs[~held]))
    return out


def only_rows(sources, rows):
    """{source: {view: probs[rows]}}"""
    return {name: {v: p[rows] for v, p in views.items()} for name, views in sources.items()}
