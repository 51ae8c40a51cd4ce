"""Which kinds of distortion the test set has: rounds of bank and reading."""
from dataclasses import replace

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from shift.bank import AXES, USUAL, classes_of, draw_values, make_bank, trace_row
from shift.distortions import FILLS, GEOMETRY
from shift.mixtures import mixture_weights
from shift.orientation import MIN_GAIN, resampled
from shift.reading import (
    Belief,
    KindReading,
    fit_range,
    likelihood_ratios,
    read_kinds,
    read_setting,
)
from system.parallel import process_map
from utils import seed_of

# of adversarial AUC: what the usual kind of a group, or one kind less, may be worse by and is still
# taken
NEARLY = 0.02
# share of the bank's rows whose style must be read rightly before styles are compared
SURE_STYLE = 0.85


def search(train, test, seed, workers, n, rounds=4):
    """(Found, the last Bank). Rounds of bank and reading; each bank is drawn as the round before
    believes the test set to be.

    The first tries much at once and finds what is plain; the second looks for single kinds on top
    of that, in more images; the next ones only for what may still be there.
    """
    found = Belief({})
    kinds = list(AXES)
    bank = None
    for r in range(rounds):
        size, free = ((n, 0.3), (2 * n, 0.15), (n, 0.15))[min(r, 2)]
        new = make_bank(train, size, found, kinds, free, seed_of(seed, "bank", r), workers)
        bank = new if r < 2 else bank._replace(pure=bank.pure & False) + new
        read = read_kinds(kinds, bank, test, seed, workers)
        kept = chosen(read, found.kinds)
        kept = decided(kept, read, found, train, test, seed_of(seed, "decide", r), workers)
        before = found
        found = with_settings(Belief(kept), bank, test, seed, workers)
        if set(before.kinds) == set(found.kinds) and r >= (2 if found.kinds else 1):
            break
        kinds = [kind for kind, f in read.items() if r == 0 or kind in found.kinds
                 or f.gain > f.chance]
    return simpler(found, train, test, seed_of(seed, "simpler"), workers, n), bank


def chosen(read, before):
    """The kinds to go on with. In each group at most one comes and at most one goes, as its kinds
    explain each other; and only the likeliest come, as what looks like a second distortion is often
    the trace of the first."""
    kept = {}
    best = max((f.gain for kind, f in read.items() if kind not in before), default=0)
    for group in dict.fromkeys(a.group for a in AXES.values()):
        members = sorted((f for k, f in read.items() if AXES[k].group == group),
                         key=lambda f: f.gain - f.chance)
        old = [f for f in members if f.kind in before]
        old = old[1:] if old and not old[0].holds else old
        new = [f for f in members if f.kind not in before and f.holds and f.gain > 0.3 * best]
        kept |= {f.kind: f for f in [*old, *new[-1:]]}
    return kept


def decided(kept, read, found, train, test, seed, workers):
    """`kept`, with each newcomer of a group with a usual kind replaced by the one of the group
    that, simulated, is hardest to tell from the test rows; the usual ones first."""
    for kind in [k for k in kept if k not in found.kinds and AXES[k].group in USUAL]:
        usual = USUAL[AXES[kind].group]
        rivals = [f for f in read.values() if AXES[f.kind].group == AXES[kind].group
                  and f.kind not in found.kinds and f.holds and f.gain > 0.3 * kept[kind].gain]
        if len(rivals) < 2:
            continue
        others = {k: f for k, f in kept.items() if k != kind}
        auc = {f.kind: told_apart(replace(found, kinds=others | {f.kind: f}), train, test, seed,
                                  workers) for f in rivals}
        near = [k for k in (*usual, *auc) if k in auc and auc[k] <= min(auc.values()) + NEARLY]
        kept = others | {near[0]: read[near[0]]}
    return kept


def told_apart(found, train, test, seed, workers, n=300):
    """AUC of telling test rows from training images distorted as `found` says."""
    rng = np.random.default_rng(seed)
    drawn = [draw_values(rng, found) for _ in range(n)]
    rows = np.array(train.distorted(drawn, seed, trace_row, workers))
    return separability(rows, test[:n], seed, workers)["value"]


def simpler(found, train, test, seed, workers, n):
    """`found` without each kind that the others of its group, read anew, explain the test rows as
    well without."""
    limit = None
    for kind in sorted(found.kinds, key=lambda kind: found.kinds[kind].gain):
        siblings = [k for k in found.kinds if k != kind and AXES[k].group == AXES[kind].group]
        if not siblings:
            continue
        without = replace(found, kinds={k: f for k, f in found.kinds.items() if k != kind})
        bank = make_bank(train, n, without, siblings, 0.3, seed_of(seed, kind), workers)
        read = read_kinds(siblings, bank, test, seed, workers)
        without = replace(without, kinds=without.kinds | read)
        # of what was found first: no drift
        limit = limit or told_apart(found, train, test, seed, workers) + NEARLY
        if all(f.holds for f in read.values()) and told_apart(without, train, test, seed,
                                                              workers) <= limit:
            found = without
    return found


def with_settings(found, bank, test, seed, workers):
    """Fill, canvas and order, which only show on images with geometry."""
    shown = set(GEOMETRY) & set(found.kinds)
    if not shown:
        return found
    asked = [("fill", FILLS, shown), ("geometry_first", (False, True), shown)]
    asked += [("expand", (False, True), {"rotate"})] if "rotate" in shown else []
    shares = process_map(lambda setting: read_setting(*setting, bank, test, seed), asked, workers)
    shares = {name: share for (name, *_), share in zip(asked, shares, strict=True)}
    return replace(found, fill=shares["fill"], geometry_first=shares["geometry_first"][1],
                   expand=shares["expand"][1] if "expand" in shares else 0.0)


# ---------------------------------------------------------------- groups of classes

def styles_of_test(bank, style, test, seed):
    """(m,) the style of each test row, read with the bank; None where that is unsure. style:
    (n_images,) int."""
    y = style[bank.source]
    ours, theirs = likelihood_ratios(bank.statistics, y, bank.source, test, y.max() + 1, seed)
    if (ours.argmax(1) == y).mean() < SURE_STYLE:
        return None
    return (theirs * mixture_weights(theirs)).argmax(1)


def by_style(found, bank, style, test, part, seed):
    """One Found per style: `found`, but for the kinds in which the test rows of the styles clearly
    differ."""
    kinds = [dict(found.kinds) for _ in range(style.max() + 1)]
    for kind in found.kinds:
        for k, finding in enumerate(split_kind(kind, bank, style[bank.source], test, part, seed)):
            kinds[k].pop(kind)
            if finding.probability >= 0.05 and finding.gain > MIN_GAIN:
                kinds[k][kind] = finding
    return [replace(found, kinds=k) for k in kinds]


def split_kind(kind, bank, style, test, part, seed):
    """A Finding per style, where together they explain the test rows better than one by more than
    chance; else none."""
    y = classes_of(bank.values, kind)
    ours, theirs = likelihood_ratios(bank.statistics, y, bank.source, test,
                                     AXES[kind].classes.max() + 1, seed)

    def gain(ratios, part):
        fits = [fit_range(ratios[part == k], kind) for k in range(style.max() + 1)]
        return sum(f[3] for f in fits) - fit_range(ratios, kind)[3], fits

    rng = np.random.default_rng(seed)
    drawn = [resampled(bank.source, bank.pure, len(test), rng) for _ in range(5)]
    chance = max(gain(ours[rows], style[rows])[0] for rows in drawn)
    apart, fits = gain(theirs, part)
    return (
        [KindReading(kind, *f, chance) for f in fits]
        if apart > 2.5 * max(chance, 0.0) + MIN_GAIN
        else []
    )


# ---------------------------------------------------------------- the report

def separability(one, other, seed, workers):
    """{"value", "ci90"}: AUC of telling the two sets of rows apart, cross-validated (adversarial
    validation)."""
    rows = np.concatenate([one, other])
    y = np.repeat([0, 1], [len(one), len(other)])

    def read(split):
        fit, held = split
        forest = ExtraTreesClassifier(100, min_samples_leaf=3, random_state=seed).fit(rows[fit],
                                                                                      y[fit])
        return forest.predict_proba(rows[held])[:, 1]

    splits = list(StratifiedKFold(4, shuffle=True, random_state=seed).split(rows, y))
    score = np.zeros(len(y))
    for (_, held), part in zip(splits, process_map(read, splits, workers), strict=True):
        score[held] = part
    rng = np.random.default_rng(seed)
    draws = [roc_auc_score(y[i], score[i]) for i in (rng.integers(len(y), size=len(y))
                                                     for _ in range(100))]
    return {"value": roc_auc_score(y, score), "ci90": np.quantile(draws, (0.05, 0.95)).tolist()}
