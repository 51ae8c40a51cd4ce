"""Which kinds of distortion the test set has: rounds of bank and reading."""
from dataclasses import replace

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import pairwise_distances, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from shift.bank import AXES, USUAL, draw_values, make_bank, trace_row
from shift.distortions import FILLS, GEOMETRY
from shift.mixtures import mixture_weights
from shift.orientation import MIN_GAIN, resampled
from shift.reading import (
    CHANCE_FACTOR,
    MIN_PROBABILITY,
    Belief,
    KindReading,
    fit_range,
    kind_ratios,
    likelihood_ratios,
    read_kinds,
    read_setting,
)
from system.parallel import process_map
from utils import seed_of

NEARLY = 0.02          # a usual kind may cost this much of adversarial AUC and is still taken
TREES = 50             # of the forests behind it
# a kind earns its place if the energy distance is larger without it by this share
EARNED = 0.1
COMPARED = 400         # images of each side for it, at most
MIN_STYLE_ACCURACY = 0.85     # of reading the style of the bank's rows, before styles are compared


def search(train, test, seed, workers, n, rounds=4):
    """(Belief, the last Bank), by rounds of bank and reading.

    Each bank is drawn as the round before believes the test set to be. The first round tries much
    at once and finds what is plain. The second looks for single kinds on top of that, in twice the
    images. Later ones only look for what may still be there.
    """
    belief = Belief({})
    kinds = list(AXES)
    bank = None
    for r in range(rounds):
        size = 2 * n if r == 1 else n
        free = 0.3 if r == 0 else 0.15
        new = make_bank(train, size, belief, kinds, free, seed_of(seed, "bank", r), workers)
        if r < 2:
            bank = new
        else:      # rows of earlier rounds still help to read, but are no longer pure
            bank = bank._replace(pure=bank.pure & False) + new

        read = read_kinds(kinds, bank, test, seed, workers)
        kept = chosen(read, belief.kinds)
        kept = decided(kept, read, belief, train, test, seed_of(seed, "decide", r), workers)
        before = belief
        belief = with_settings(Belief(kept), bank, test, seed, workers)
        if set(before.kinds) == set(belief.kinds) and r >= (2 if belief.kinds else 1):
            break
        kinds = [kind for kind, reading in read.items()
                 if r == 0 or kind in belief.kinds or reading.gain > reading.chance]
    belief = simpler(belief, train, test, seed_of(seed, "simpler"), workers, n)
    return earned(belief, train, test, seed_of(seed, "earned"), workers), bank


def chosen(read, before):
    """{kind: KindReading} to go on with.

    Kinds of a group explain each other, so in each group at most one comes and one goes. What looks
    like a second distortion is often the trace of the first, so only the likeliest come.
    """
    kept = {}
    best = max((reading.gain for kind, reading in read.items() if kind not in before), default=0)
    for group in dict.fromkeys(axis.group for axis in AXES.values()):
        members = [reading for kind, reading in read.items() if AXES[kind].group == group]
        members.sort(key=lambda reading: reading.gain - reading.chance)

        old = [reading for reading in members if reading.kind in before]
        if old and not old[0].holds:
            old = old[1:]
        new = [reading for reading in members if reading.kind not in before and reading.holds
               and reading.gain > 0.3 * best]
        kept |= {reading.kind: reading for reading in [*old, *new[-1:]]}
    return kept


def decided(kept, read, belief, train, test, seed, workers):
    """`kept` with the right newcomer of each group that has usual kinds.

    That is the rival whose simulation is hardest to tell from the test rows; a usual kind wins if
    it comes close.
    """
    newcomers = [k for k in kept if k not in belief.kinds and AXES[k].group in USUAL]
    known = {}
    for kind in newcomers:
        group = AXES[kind].group
        rivals = [f for f in read.values() if AXES[f.kind].group == group
                  and f.kind not in belief.kinds and f.holds and f.gain > 0.3 * kept[kind].gain]
        if len(rivals) < 2:
            continue

        others = {k: f for k, f in kept.items() if k != kind}
        auc = {}
        for f in rivals:
            simulated = replace(belief, kinds=others | {f.kind: f})
            auc[f.kind] = told_apart(simulated, train, test, seed, workers, known)
        limit = min(auc.values()) + NEARLY
        usual = [k for k in USUAL[group] if k in auc and auc[k] <= limit]
        winner = usual[0] if usual else min(auc, key=auc.get)
        kept = others | {winner: read[winner]}
    return kept


def told_apart(belief, train, test, seed, workers, known):
    """AUC of telling test rows from training images distorted as in `belief`.

    Of two kinds that explain each other, it tells the right one more often than a distance.
    """
    rows, test = compared_rows(belief, train, test, seed, workers, known)
    return roc_auc_score(*held_out_scores(rows, test, seed, workers, TREES))


def unlikeness(belief, train, test, seed, workers, known=None):
    """Energy distance of test rows and training images distorted as in `belief`.

    It sees a second difference, which AUC hardly does once a forest tells the rows by a first.
    """
    return energy_distance(*compared_rows(belief, train, test, seed, workers, known))


def compared_rows(belief, train, test, seed, workers, known):
    """(rows of training images distorted as in `belief`, as many test rows).

    known: as for `simulated_rows`.
    """
    n = min(COMPARED, 2 * len(train.images))
    return simulated_rows(belief, train, seed, workers, n, known), test[:n]


def simulated_rows(belief, train, seed, workers, n, known=None):
    """(n, d) statistics of training images distorted as in `belief`.

    known: {(place, values): row} of other beliefs with the same seed, which is added to. Most
    images are drawn alike in beliefs that differ in one kind.
    """
    known = {} if known is None else known
    rng = np.random.default_rng(seed)
    drawn = [draw_values(rng, belief) for _ in range(n)]
    keys = [(i, *sorted(map(str, values.items()))) for i, values in enumerate(drawn)]
    new = [i for i, key in enumerate(keys) if key not in known]
    rows = train.distorted(drawn, seed, trace_row, workers, new)
    known.update(zip([keys[i] for i in new], rows, strict=True))
    return np.array([known[key] for key in keys])


def simpler(belief, train, test, seed, workers, n):
    """`belief` without the kinds that others of their group, read anew, make up for."""
    limit = None
    known = {}
    for kind in sorted(belief.kinds, key=lambda kind: belief.kinds[kind].gain):
        group = AXES[kind].group
        siblings = [k for k in belief.kinds if k != kind and AXES[k].group == group]
        if not siblings:
            continue

        without = replace(belief, kinds={k: f for k, f in belief.kinds.items() if k != kind})
        bank = make_bank(train, n, without, siblings, 0.3, seed_of(seed, kind), workers)
        read = read_kinds(siblings, bank, test, seed, workers)
        without = replace(without, kinds=without.kinds | read)
        if limit is None:      # set once, by the first belief: no drift
            limit = unlikeness(belief, train, test, seed, workers, known) * (1 + EARNED)
        if (all(f.holds for f in read.values())
                and unlikeness(without, train, test, seed, workers, known) <= limit):
            belief = without
    return belief


def earned(belief, train, test, seed, workers):
    """`belief` without the kinds that make its simulation no more like the test rows.

    What the program does not know looks like kinds that it knows. Such a kind has a gain, but it
    does not help once the others are there. The weakest are tried first, each with equal draws of
    all others. A kind may have stood for another that is gone, so all are tried until none goes.
    """
    known = {}
    nearest = None
    tried = None
    while tried != set(belief.kinds):
        tried = set(belief.kinds)
        for kind in sorted(belief.kinds, key=lambda kind: belief.kinds[kind].gain):
            if nearest is None:
                nearest = unlikeness(belief, train, test, seed, workers, known)
            without = replace(belief, kinds={k: f for k, f in belief.kinds.items() if k != kind})
            distance = unlikeness(without, train, test, seed, workers, known)
            if distance <= nearest * (1 + EARNED):
                belief = without
                nearest = min(nearest, distance)
    return belief


def energy_distance(rows, test):
    """Energy distance (Szekely and Rizzo, 2013) of (n, d) rows and (m, d) test rows.

    Each statistic is taken as its quantile among the test rows, so that no scale or outlier counts.
    """
    in_order = np.sort(test, axis=0)

    def quantiles(values):
        ranks = [np.searchsorted(in_order[:, k], values[:, k], side)
                 for side in ("left", "right") for k in range(values.shape[1])]
        below, up_to = np.split(np.array(ranks).T / len(test), 2, axis=1)
        return (below + up_to) / 2

    one = quantiles(rows)
    other = quantiles(test)
    between = pairwise_distances(one, other).mean()
    return 2 * between - pairwise_distances(one).mean() - pairwise_distances(other).mean()


def with_settings(belief, bank, test, seed, workers):
    """The belief with the settings of its kinds: fill, canvas and order of geometry, how a reduced
    image was enlarged. They only show on images with such a kind."""
    moved = set(GEOMETRY) & set(belief.kinds)
    turned = {"rotate"} & moved
    reduced = {"downscale"} & set(belief.kinds)
    either = (False, True)
    asked = [("fill", FILLS, moved), ("geometry_first", either, moved),
             ("expand", either, turned), ("blocky", either, reduced)]
    asked = [setting for setting in asked if setting[2]]

    def read(setting):
        return read_setting(*setting, bank, test, seed)

    shares = dict(zip([name for name, *_ in asked], process_map(read, asked, workers), strict=True))
    fill = shares.pop("fill", belief.fill)
    if moved and not turned:
        shares["expand"] = (1.0, 0.0)
    return replace(belief, fill=fill, **{name: share[1] for name, share in shares.items()})


# ---------------------------------------------------------------- groups of classes

def styles_of_test(bank, style, test, seed):
    """(m,) style of each test row, read with the bank; None if it is unsure.

    style: (n_images,) int, of the training images.
    """
    y = style[bank.source]
    ours, theirs = likelihood_ratios(bank, y, test, y.max() + 1, seed)
    if (ours.argmax(1) == y).mean() < MIN_STYLE_ACCURACY:
        return None
    return (theirs * mixture_weights(theirs)).argmax(1)


def by_style(belief, bank, style, test, test_style, seed):
    """[Belief] of each style: they differ in the kinds in which their test rows clearly differ.

    style: (n_images,) int, of the training images; test_style: (m,) int.
    """
    kinds = [dict(belief.kinds) for _ in range(style.max() + 1)]
    for kind in belief.kinds:
        readings = split_kind(kind, bank, style[bank.source], test, test_style, seed)
        for k, reading in enumerate(readings):
            kinds[k].pop(kind)
            if reading.probability >= MIN_PROBABILITY and reading.gain > MIN_GAIN:
                kinds[k][kind] = reading
    return [replace(belief, kinds=k) for k in kinds]


def split_kind(kind, bank, style, test, test_style, seed):
    """[KindReading] of each style, if together they explain the test rows better than one reading
    by more than chance; else [].

    style: (n,) int, of the bank's rows; test_style: (m,) int.
    """
    _, ours, theirs = kind_ratios(kind, bank, test, seed)

    def fit_apart(ratios, style_of_row):
        fits = [fit_range(ratios[style_of_row == k], kind) for k in range(style.max() + 1)]
        return fits, sum(fit[3] for fit in fits) - fit_range(ratios, kind)[3]

    rng = np.random.default_rng(seed)
    drawn = [resampled(bank.source, bank.pure, len(test), rng) for _ in range(5)]
    chance = max(fit_apart(ours[rows], style[rows])[1] for rows in drawn)
    fits, gain = fit_apart(theirs, test_style)
    if gain > CHANCE_FACTOR * max(chance, 0.0) + MIN_GAIN:
        return [KindReading(kind, *fit, chance) for fit in fits]
    return []


# ---------------------------------------------------------------- telling rows apart

def separability(one, other, seed, workers):
    """{"value", "ci90"}: cross-validated AUC of telling two sets of rows apart (adversarial
    validation)."""
    y, score = held_out_scores(one, other, seed, workers)
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(len(y), size=len(y)) for _ in range(100)]
    draws = [roc_auc_score(y[i], score[i]) for i in drawn]
    return {"value": roc_auc_score(y, score), "ci90": np.quantile(draws, (0.05, 0.95)).tolist()}


def held_out_scores(one, other, seed, workers, n_trees=100):
    """(0 for each row of one, 1 for each of the other; how much a forest that saw neither row takes
    it for one of the other)."""
    rows = np.concatenate([one, other])
    y = np.repeat([0, 1], [len(one), len(other)])

    def read(split):
        fit, held = split
        forest = ExtraTreesClassifier(n_trees, min_samples_leaf=3, random_state=seed)
        forest.fit(rows[fit], y[fit])
        return forest.predict_proba(rows[held])[:, 1]

    splits = list(StratifiedKFold(4, shuffle=True, random_state=seed).split(rows, y))
    score = np.zeros(len(y))
    for (_, held), part in zip(splits, process_map(read, splits, workers), strict=True):
        score[held] = part
    return y, score
