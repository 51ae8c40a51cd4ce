"""Which kinds of distortion a test set is said to have, from banks whose statistics are the values
themselves with a little noise: no images."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from shift import reading, search
from shift.bank import AXES, Bank, classes_of, trace_row
from shift.distortions import FILLS, SYMMETRIES
from shift.orientation import MIN_GAIN
from shift.reading import (
    CHANCE_FACTOR,
    MISFIT,
    Belief,
    KindReading,
    fit_range,
    kind_ratios,
    likelihood_ratios,
    read_kind,
    read_kinds,
    read_setting,
    uniform_ranges,
)
from shift.search import (
    by_style,
    chosen,
    decided,
    earned,
    separability,
    simpler,
    split_kind,
    styles_of_test,
    told_apart,
    unlikeness,
    with_settings,
)
from utils import seed_of

N_SOURCES = 60


def reading_of(kind, gain=100.0, chance=0.0, probability=0.5):
    return KindReading(kind, probability, 1.0, 2.0, gain, chance)


def readings(**gains):
    return {kind: reading_of(kind, gain) for kind, gain in gains.items()}


def statistics_of(values, rng, spread=0.15):
    """(n, 3): the blur, the noise, and nothing."""
    columns = [[v.get("blur", 0.0) for v in values], [v.get("noise", 0.0) / 10 for v in values],
               np.zeros(len(values))]
    return np.stack(columns, 1) + rng.normal(0, spread, (len(values), 3))


def drawn_values(n, rng, **shares):
    """n times {kind: value}: each kind with its share, anywhere in its range."""
    ranges = {"blur": (0.5, 4.0), "noise": (4.0, 50.0)}
    return [{kind: rng.uniform(*ranges[kind]) for kind, share in shares.items()
             if rng.random() < share} for _ in range(n)]


def bank_of(n, seed, blur=0.5, noise=0.0):
    rng = np.random.default_rng(seed)
    values = drawn_values(n, rng, blur=blur, noise=noise)
    return Bank(values, np.arange(n) % N_SOURCES, statistics_of(values, rng), np.ones(n, bool))


# ---------------------------------------------------------------- ratios

def test_ratios_are_likelihoods_whatever_the_share_of_a_class():
    """Of two overlapping classes, one three times as frequent: the ratio at the middle is 1."""
    rng = np.random.default_rng(0)
    y = (rng.random(900) < 0.25).astype(int)
    rows = rng.normal(2.0 * y[:, None], 1.0, (900, 2))
    bank = Bank([], np.arange(900) % N_SOURCES, rows, np.ones(900, bool))
    test = np.array([[1.0, 1.0], [-1.0, -1.0], [3.0, 3.0]] * 20)
    ours, theirs = likelihood_ratios(bank, y, test, 3, seed=1)
    assert ours.shape == (900, 3) and theirs.shape == (60, 3)
    prior = np.bincount(y) / 900
    np.testing.assert_allclose(ours[:, :2] @ prior, 1, atol=1e-4)
    assert (ours[:, 2] == 1e-6).all() and (theirs[:, 2] == 1e-6).all()     # never in the bank
    ratio = np.log(theirs[:, 1] / theirs[:, 0])
    assert ratio[0::3].mean() == pytest.approx(0, abs=1.0)
    assert (ratio[1::3] < -1.5).all() and (ratio[2::3] > 1.5).all()
    assert ((ours[:, 1] > ours[:, 0]) == y).mean() > 0.9


def test_rows_of_a_bank_are_read_by_forests_that_saw_no_row_of_their_image():
    """Statistics that tell the image, and a class that hangs on the image alone: chance."""
    rng = np.random.default_rng(1)
    source = np.arange(600) % N_SOURCES
    rows = rng.normal(0, 1, (N_SOURCES, 4))[source] + rng.normal(0, 0.01, (600, 4))
    y = rng.integers(0, 2, N_SOURCES)[source]
    ours, _ = likelihood_ratios(Bank([], source, rows, np.ones(600, bool)), y, rows, 2, seed=0)
    assert ((ours[:, 1] > ours[:, 0]) == y).mean() < 0.7


def test_a_kind_is_read_by_the_classes_of_its_axis():
    bank = bank_of(500, seed=2)
    other = bank_of(90, seed=3)
    y, ours, theirs = kind_ratios("blur", bank, other.statistics, 0)
    np.testing.assert_array_equal(y, classes_of(bank.values, "blur"))
    assert ours.shape[1] == theirs.shape[1] == AXES["blur"].classes.max() + 1
    truth = classes_of(other.values, "blur")
    assert np.abs(theirs.argmax(1) - truth).mean() < 1
    again = kind_ratios("blur", bank, other.statistics, 0)
    np.testing.assert_array_equal(theirs, again[2])
    assert (kind_ratios("blur", bank, other.statistics, 1)[2] != theirs).any()


# ---------------------------------------------------------------- ranges

@pytest.mark.parametrize("kind", ["blur", "rotate", "brightness"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_ranges_classes_are_those_of_values_drawn_from_it(kind, parts):
    edges, classes, _ = AXES[kind]
    ranges, share = uniform_ranges(kind, parts)
    n_edges = parts * (len(edges) - 1) + 1
    assert ranges.shape == (n_edges * (n_edges - 1) // 2, 2)
    assert share.shape == (classes.max() + 1, len(ranges))
    assert (ranges[:, 0] < ranges[:, 1]).all() and len({tuple(r) for r in ranges}) == len(ranges)
    assert ranges.min() == edges[0] and ranges.max() == edges[-1]
    np.testing.assert_allclose(share.sum(0), 1)
    rng = np.random.default_rng(0)
    for r in rng.choice(len(ranges), 6):
        values = [{kind: value} for value in rng.uniform(*ranges[r], 3000)]
        found = np.bincount(classes_of(values, kind), minlength=len(share)) / 3000
        np.testing.assert_allclose(share[:, r], found, atol=0.05)


def perfect(values, kind):
    """(n, K) ratios of a reader that is never wrong."""
    return 1e-3 + 5.0 * np.eye(AXES[kind].classes.max() + 1)[classes_of(values, kind)]


def test_the_likeliest_share_and_range_are_found():
    rng = np.random.default_rng(0)
    values = [{"blur": rng.uniform(1.0, 2.2)} if rng.random() < 0.6 else {} for _ in range(800)]
    ratios = perfect(values, "blur")
    probability, low, high, gain = fit_range(ratios, "blur")
    assert probability == pytest.approx(0.6, abs=0.051)
    assert low == pytest.approx(1.0, abs=0.3) and high == pytest.approx(2.2, abs=0.6)

    # its gain: the log likelihood of the rows under the likeliest mixture, over no distortion
    def gain_of(steps, parts):
        _, share = uniform_ranges("blur", parts)
        mixed = [(1 - p) * ratios[:, :1] + p * (ratios @ share)
                 for p in np.arange(1, steps + 1) / steps]
        return max(np.log(each / ratios[:, :1]).sum(0).max() for each in mixed)

    assert gain == pytest.approx(gain_of(20, 2))
    assert fit_range(ratios, "blur", steps=2, parts=1)[3] == pytest.approx(gain_of(2, 1))
    assert gain_of(2, 1) < gain


@pytest.mark.parametrize("n", [6, 300])
def test_values_are_the_posterior_mean_of_a_likelihood_that_is_tempered_by_its_size(n):
    rng = np.random.default_rng(n)
    values = [{"blur": rng.uniform(1.0, 2.2)} if rng.random() < 0.6 else {} for _ in range(n)]
    ratios = perfect(values, "blur")
    ranges, share = uniform_ranges("blur", 1)
    rows = []
    for p in (0.25, 0.5, 0.75, 1.0):
        for (low, high), classes in zip(ranges, share.T, strict=True):
            likelihood = (1 - p) + p * (ratios @ classes) / ratios[:, 0]
            rows.append((np.log(np.maximum(likelihood, 1e-6)).sum(), p, low, high))
    gains, *columns = np.array(rows).T
    weight = np.exp((gains - gains.max()) / (2 + MISFIT * gains.max()))
    means = [np.average(column, weights=weight) for column in columns]
    assert fit_range(ratios, "blur", steps=4, parts=1) == pytest.approx((*means, gains.max()))


def test_rows_without_a_kind_give_no_gain():
    probability, _, _, gain = fit_range(perfect([{}] * 100, "blur"), "blur")
    assert gain < 0 and 0.05 <= probability < 0.15


def test_what_cannot_be_is_bounded():
    """A row that rules a range out leaves its likelihood above 0."""
    ratios = np.tile([1.0, *[0.0] * 7], (10, 1))
    assert np.isfinite(fit_range(ratios, "blur")[3])
    sure = np.tile([1e-12, *[1.0] * 7], (10, 1))
    probability, low, high, gain = fit_range(sure, "blur")
    assert 0.5 < probability <= 1 and low < high and np.isfinite(gain)


# ---------------------------------------------------------------- readings

def test_a_reading_holds_above_chance_and_on_enough_images():
    edge = CHANCE_FACTOR * 10 + MIN_GAIN
    assert reading_of("blur", edge + 0.1, chance=10).holds
    assert not reading_of("blur", edge, chance=10).holds
    assert reading_of("blur", edge + 0.1, 10, probability=0.05).holds
    assert not reading_of("blur", edge + 0.1, 10, probability=0.049).holds
    assert not reading_of("blur", MIN_GAIN, 0).holds and reading_of("blur", MIN_GAIN + 1, 0).holds


def test_a_belief_lists_each_setting_with_shares_that_sum_to_1():
    belief = Belief({}, fill=(0.1, 0.2, 0.3, 0.4), expand=0.2, geometry_first=0.9, blocky=0.75)
    assert belief.settings() == {
        "fill": (FILLS, (0.1, 0.2, 0.3, 0.4)), "expand": ((False, True), (0.8, 0.2)),
        "geometry_first": ((False, True), (pytest.approx(0.1), 0.9)),
        "blocky": ((False, True), (0.25, 0.75)),
        "symmetry": ((None, *SYMMETRIES), (1 / 8,) * 8)}


def test_a_kind_is_read_with_its_share_its_range_and_what_chance_gives():
    bank = bank_of(700, seed=4)
    rng = np.random.default_rng(5)
    values = [{"blur": rng.uniform(1.5, 3.0)} if rng.random() < 0.7 else {} for _ in range(120)]
    blurred = read_kind("blur", bank, statistics_of(values, rng), seed=0)
    assert blurred.kind == "blur" and blurred.holds
    assert blurred.probability == pytest.approx(0.7, abs=0.12)
    assert 1.0 < blurred.low < 1.9 and 2.4 < blurred.high < 3.6
    assert blurred.gain > 5 * blurred.chance >= 0

    clean = read_kind("blur", bank, statistics_of([{}] * 120, rng), seed=0)
    assert not clean.holds and clean.gain < blurred.gain / 5
    both = read_kinds(["blur", "noise"], bank_of(700, 6, 0.4, 0.4), statistics_of(values, rng), 0,
                      1)
    assert list(both) == ["blur", "noise"] and both["noise"].kind == "noise"
    assert both["blur"].holds and not both["noise"].holds


def test_chance_is_measured_on_rows_without_the_kind_pure_ones_if_there_are_enough(monkeypatch):
    bank = bank_of(300, seed=7)
    y = classes_of(bank.values, "blur")
    seen = []

    def resampled(source, allowed, n, rng):
        seen.append((allowed.copy(), n))
        return np.flatnonzero(allowed)[:n]

    monkeypatch.setattr(reading, "resampled", resampled)
    test = np.zeros((30, 3))
    none = np.flatnonzero(y == 0)
    for n_pure in (50, 51):
        pure = np.zeros(300, bool)
        pure[none[:n_pure]] = True
        pure[np.flatnonzero(y > 0)] = True
        read = read_kind("blur", bank._replace(pure=pure), test, 0)
        allowed, n = seen[-1]
        assert allowed.sum() == (len(none) if n_pure == 50 else 51) and n == 30
        assert not (y[allowed] > 0).any() and read.chance >= 0
    assert len(seen) == 20


def test_a_setting_is_counted_on_images_that_show_it():
    rng = np.random.default_rng(8)

    def rows(values):
        return np.array([[3.0 * FILLS.index(v["fill"]) * ("rotate" in v), "rotate" in v]
                         for v in values]) + rng.normal(0, 0.3, (len(values), 2))

    def drawn(n, fills):
        return [{"fill": FILLS[rng.choice(4, p=fills)]}
                | ({"rotate": 10.0} if rng.random() < 0.6 else {}) for _ in range(n)]

    values = drawn(800, (0.25,) * 4)
    bank = Bank(values, np.arange(800) % N_SOURCES, rows(values), np.ones(800, bool))
    shares = read_setting("fill", FILLS, {"rotate", "scale"}, bank,
                          rows(drawn(200, (0.0, 0.7, 0.3, 0.0))), 0)
    assert shares == pytest.approx((0.01, 0.7, 0.29, 0.01), abs=0.09)
    assert sum(shares) == pytest.approx(1) and min(shares) > 0


# ---------------------------------------------------------------- which kinds stay

def test_of_each_group_at_most_one_kind_comes_and_one_goes():
    read = readings(blur=300.0, downscale=200.0, motion_blur=100.0, noise=250.0, jpeg=95.0)
    assert set(chosen(read, {})) == {"blur", "noise", "jpeg"}
    # no newcomer with less than 0.3 of the best one's gain: it may be the trace of that
    assert set(chosen(read | readings(jpeg=90.0), {})) == {"blur", "noise"}
    assert set(chosen(read | readings(jpeg=91.0), {"blur": None})) == {"blur", "downscale", "noise",
                                                                      "jpeg"}
    # gains count above chance
    lucky = read | {"blur": reading_of("blur", 300.0, chance=110.0)}
    assert set(chosen(lucky, {})) == {"downscale", "noise", "jpeg"}
    weak = readings(blur=3.0, downscale=2.0, noise=250.0)
    before = {"blur": None, "downscale": None, "noise": None}
    assert set(chosen(weak, before)) == {"blur", "noise"}       # the weaker of both goes first
    assert set(chosen(weak, {"blur": None})) == {"noise"}
    kept = chosen(read, before)
    assert kept["noise"] is read["noise"] and set(kept) == set(read)
    assert chosen({}, {}) == {}


def decided_by(monkeypatch, auc, read, kept, before=()):
    """(kinds, beliefs that were simulated) with these AUCs by the kind that is new."""
    asked = []

    def told(belief, *passed):
        assert passed == ("train", "test", 4, 1, {})
        asked.append(set(belief.kinds))
        new, = set(belief.kinds) & set(auc)
        return auc[new]

    monkeypatch.setattr(search, "told_apart", told)
    belief = Belief({kind: read[kind] for kind in before})
    found = decided({kind: read[kind] for kind in kept}, read, belief, "train", "test", 4, 1)
    return found, asked


def test_the_rival_that_is_hardest_to_tell_from_the_test_set_is_taken(monkeypatch):
    read = readings(blur=200.0, downscale=250.0, motion_blur=76.0, noise=90.0)
    auc = {"blur": 0.8, "downscale": 0.7, "motion_blur": 0.6}
    found, asked = decided_by(monkeypatch, auc, read, ("downscale", "noise"))
    assert found == {"noise": read["noise"], "motion_blur": read["motion_blur"]}
    assert sorted(map(sorted, asked)) == [["blur", "noise"], ["downscale", "noise"],
                                          ["motion_blur", "noise"]]
    # a usual kind that comes close is taken
    close = auc | {"blur": 0.62}
    assert set(decided_by(monkeypatch, close, read, ("downscale", "noise"))[0]) == {"blur", "noise"}
    # where only some of the usual kinds are rivals, too
    moved = readings(scale=200.0, perspective=250.0)
    assert set(decided_by(monkeypatch, {"scale": 0.7, "perspective": 0.69}, moved,
                          ("perspective",))[0]) == {"scale"}
    far = auc | {"blur": 0.621}
    assert set(decided_by(monkeypatch, far, read, ("downscale",))[0]) == {"motion_blur"}
    # a usual kind that is no rival is not taken, however surely all rivals are told apart
    alone = readings(downscale=250.0, motion_blur=200.0)
    assert set(decided_by(monkeypatch, {"downscale": 1.0, "motion_blur": 0.99}, alone,
                          ("downscale",))[0]) == {"motion_blur"}


def test_no_rival_is_one_that_does_not_hold_is_weak_or_was_there(monkeypatch):
    read = readings(blur=75.0, downscale=250.0, motion_blur=2.0)
    auc = {"blur": 0.6, "downscale": 0.9, "motion_blur": 0.5}
    found, asked = decided_by(monkeypatch, auc, read, ("downscale",))
    assert set(found) == {"downscale"} and asked == []
    read = readings(blur=200.0, downscale=250.0)
    found, asked = decided_by(monkeypatch, auc, read, ("blur", "downscale"), before=("blur",))
    assert set(found) == {"blur", "downscale"} and asked == []
    # a kind of a group without usual ones, and kinds that were there, are not decided anew
    read = readings(saturation=200.0, colour_cast=210.0)
    assert decided_by(monkeypatch, {}, read, ("colour_cast",))[1] == []
    read = readings(blur=200.0, downscale=250.0)
    assert decided_by(monkeypatch, auc, read, ("downscale",), before=("downscale",))[1] == []


def test_several_groups_are_decided_one_after_the_other(monkeypatch):
    read = readings(colour_cast=200.0, downscale=250.0, blur=240.0, grain=200.0, noise=190.0)
    auc = {"downscale": 0.8, "blur": 0.7, "grain": 0.8, "noise": 0.7}

    shared = []

    def told(belief, *passed):
        shared.append(passed[-1])
        return sum(auc.get(kind, 0) for kind in belief.kinds)

    monkeypatch.setattr(search, "told_apart", told)
    kept = {kind: read[kind] for kind in ("colour_cast", "downscale", "grain")}
    assert set(decided(kept, read, Belief({}), None, None, 0, 1)) == {"colour_cast", "blur",
                                                                      "noise"}
    assert all(known is shared[0] for known in shared)      # images drawn alike are distorted once


class Train:
    """Images that are their own statistics; remembers how it was asked."""

    def __init__(self, n_images):
        self.images = [None] * n_images
        self.asked = []

    def distorted(self, drawn, seed, read, workers, only):
        assert read is trace_row
        self.asked.append((drawn, seed, workers))
        self.made = len(only)
        rng = np.random.default_rng(seed)
        rows = list(statistics_of(drawn, rng))
        return [rows[i] for i in only]


def test_a_simulation_is_as_unlike_the_test_set_as_it_differs():
    rng = np.random.default_rng(0)
    blurred = Belief({"blur": KindReading("blur", 1.0, 1.0, 2.0, 99, 0)})
    test = statistics_of([{"blur": rng.uniform(1.0, 2.0)} for _ in range(500)], rng)
    train = Train(n_images=40)
    alike = unlikeness(blurred, train, test, 3, 1)
    apart = unlikeness(Belief({}), train, test, 3, 1)
    assert alike < 0.03 and apart > 0.2
    # twice as many as there are images, at most COMPARED
    for drawn, seed, workers in train.asked:
        assert len(drawn) == 80 and (seed, workers) == (3, 1)
    assert all(1 <= values["blur"] <= 2 for values in train.asked[0][0])
    many = Train(n_images=300)
    unlikeness(blurred, many, test, 3, 2)
    assert len(many.asked[0][0]) == search.COMPARED
    # as many test rows count
    rest = np.concatenate([test[:80], 9 + test[80:]])
    assert unlikeness(blurred, train, rest, 3, 1) == pytest.approx(
        unlikeness(blurred, train, test[:80], 3, 1))
    assert told_apart(Belief({}), train, test, 3, 1, {}) > 0.95
    assert told_apart(blurred, train, test, 3, 1, {}) < 0.62
    for seed in (3, 4):
        unlikeness(blurred, train, test, seed, 2)
    *_, first, same, other = (drawn for drawn, _, _ in train.asked)
    assert first == same != other


def test_images_drawn_alike_in_two_beliefs_are_distorted_once():
    half = KindReading("noise", 0.5, 5.0, 9.0, 99, 0)
    blur = KindReading("blur", 1.0, 1.0, 2.0, 99, 0)
    both = Belief({"blur": blur, "noise": half})
    train = Train(n_images=40)
    known = {}
    unlikeness(both, train, np.zeros((50, 3)), 3, 1, known)
    assert train.made == 80
    unlikeness(Belief({"blur": blur}), train, np.zeros((50, 3)), 3, 1, known)
    assert 25 < train.made < 55      # those that had noise
    unlikeness(both, train, np.zeros((50, 3)), 3, 1, known)
    assert train.made == 0


def simpler_by(monkeypatch, distance, gains, holds=True):
    """Kinds that are left of `gains` with the distance of each set of kinds, and the calls."""
    calls = []
    shared = []

    def make_bank(train, n, belief, kinds, free, seed, workers):
        assert (train, workers) == ("train", 1)
        calls.append((frozenset(belief.kinds), tuple(kinds), free, seed, n))
        return "bank"

    def read_kinds(kinds, bank, test, seed, workers):
        assert (bank, test, seed, workers) == ("bank", "test", 5, 1)
        return {kind: reading_of(kind, 500.0 if holds else 0.0) for kind in kinds}

    def unlike(belief, *passed):
        *passed, known = passed
        assert passed == ["train", "test", 5, 1]
        shared.append(known)
        assert known is shared[0]      # images drawn alike are distorted once
        return distance[frozenset(belief.kinds)]

    monkeypatch.setattr(search, "make_bank", make_bank)
    monkeypatch.setattr(search, "read_kinds", read_kinds)
    monkeypatch.setattr(search, "unlikeness", unlike)
    return simpler(Belief(readings(**gains)), "train", "test", 5, 1, 70).kinds, calls


def test_a_kind_goes_if_its_group_makes_up_for_it(monkeypatch):
    both, blur, motion = (frozenset(kinds) for kinds in (
        {"blur", "motion_blur", "noise"}, {"blur", "noise"}, {"motion_blur", "noise"}))
    gains = {"blur": 300.0, "motion_blur": 100.0, "noise": 50.0}
    left, calls = simpler_by(monkeypatch, {both: 0.6, blur: 0.66, motion: 0.5}, gains)
    assert set(left) == blur and left["blur"].gain == 500.0 and left["noise"].gain == 50.0
    # the weakest is tried first, on a bank of its siblings; noise has none
    assert calls == [(blur, ("blur",), 0.3, seed_of(5, "motion_blur"), 70)]
    left, calls = simpler_by(monkeypatch, {both: 0.6, blur: 0.661, motion: 0.661}, gains)
    assert set(left) == both and left["blur"].gain == 300.0 and len(calls) == 2
    left, _ = simpler_by(monkeypatch, {both: 0.6, blur: 0.6, motion: 0.6}, gains, holds=False)
    assert set(left) == both
    assert simpler_by(monkeypatch, {}, {"blur": 9.0, "noise": 8.0})[1] == []


def test_leaving_kinds_out_one_after_the_other_does_not_drift(monkeypatch):
    """The limit is that of the first belief."""
    three = frozenset({"blur", "motion_blur", "downscale"})
    two, one = frozenset({"motion_blur", "downscale"}), frozenset({"downscale"})
    gains = {"blur": 1.0, "motion_blur": 2.0, "downscale": 3.0}
    distance = {three: 0.6, two: 0.64, one: 0.67, frozenset({"motion_blur"}): 0.67}
    left, _ = simpler_by(monkeypatch, distance, gains)
    assert set(left) == two
    assert set(simpler_by(monkeypatch, distance | {one: 0.66}, gains)[0]) == one


def test_fill_canvas_and_order_are_read_where_geometry_shows_them(monkeypatch):
    asked = []

    def read(name, choices, needs, *passed):
        assert passed == ("bank", "test", 8)
        asked.append((name, choices, needs))
        return {"fill": (0.1, 0.2, 0.3, 0.4), "geometry_first": (0.3, 0.7),
                "expand": (0.6, 0.4), "blocky": (0.2, 0.8)}[name]

    monkeypatch.setattr(search, "read_setting", read)
    plain = Belief(readings(blur=9.0), expand=0.3, blocky=0.1)
    assert with_settings(plain, "bank", "test", 8, 1) == plain and asked == []
    turned = with_settings(Belief(readings(blur=9.0, rotate=9.0, scale=9.0)), "bank", "test", 8,
                           1)
    assert (turned.fill, turned.geometry_first, turned.expand) == ((0.1, 0.2, 0.3, 0.4), 0.7, 0.4)
    either = (False, True)
    assert sorted(asked) == [("expand", either, {"rotate"}), ("fill", FILLS, {"rotate", "scale"}),
                             ("geometry_first", either, {"rotate", "scale"})]
    del asked[:]
    scaled = with_settings(Belief(readings(scale=9.0)), "bank", "test", 8, 1)
    assert scaled.expand == 0.0 and sorted(name for name, *_ in asked) == ["fill", "geometry_first"]
    del asked[:]
    reduced = with_settings(replace(plain, kinds=readings(downscale=9.0)), "bank", "test", 8,
                            1)
    assert reduced.blocky == 0.8 and asked == [("blocky", either, {"downscale"})]
    assert reduced.expand == 0.3 and reduced.fill == plain.fill


def test_a_kind_earns_its_place_by_a_simulation_that_is_more_like_the_test_set(monkeypatch):
    three, two, one = ({"blur", "jpeg", "noise"}, {"blur", "noise"}, {"blur"})
    distances = {frozenset(three): 1.0, frozenset(two): 1.09, frozenset(one): 1.11,
                 frozenset({"noise"}): 1.5}
    asked = []

    def unlike(belief, *passed):
        assert passed == ("train", "test", 6, 1, {})
        asked.append(set(belief.kinds))
        return distances[frozenset(belief.kinds)]

    monkeypatch.setattr(search, "unlikeness", unlike)
    belief = Belief(readings(blur=300.0, jpeg=10.0, noise=20.0), expand=0.3)
    left = earned(belief, "train", "test", 6, 1)
    # jpeg, the weakest, earns 0.09; noise 0.11 of the least distance, which does not drift
    assert set(left.kinds) == two and left.expand == 0.3
    assert asked == [three, two, one, {"noise"}, one, {"noise"}]      # until none goes
    # a kind that makes it worse goes, and sets the limit for the others
    distances |= {frozenset(two): 0.9, frozenset(one): 1.0}
    assert set(earned(belief, "train", "test", 6, 1).kinds) == two
    # a kind that stood for another goes in the second turn
    distances |= {frozenset({"jpeg", "noise"}): 2.0, frozenset({"jpeg", "blur"}): 2.0,
                  frozenset(two): 3.0, frozenset({"jpeg"}): 2.0}
    odd = Belief(readings(noise=10.0, blur=20.0, jpeg=300.0))
    distances |= {frozenset({"jpeg", "blur"}): 1.2, frozenset({"jpeg", "noise"}): 0.5,
                  frozenset({"jpeg"}): 0.5, frozenset({"noise"}): 9.0, frozenset(): 9.0}
    assert set(earned(odd, "train", "test", 6, 1).kinds) == {"jpeg"}


# ---------------------------------------------------------------- rounds of the search

def searched(monkeypatch, rounds_of_gains, rounds=4):
    """(Belief, the rows of its bank, calls of make_bank) of readings given round by round."""
    banks = []
    left = list(rounds_of_gains)

    def make_bank(train, n, belief, kinds, free, seed, workers):
        assert (train, workers) == ("train", 1)
        banks.append(SimpleNamespace(n=n, belief=set(belief.kinds), kinds=list(kinds), free=free,
                                     seed=seed))
        number = np.full(n, len(banks))
        return Bank([{}] * n, number, np.zeros((n, 1)), np.ones(n, bool))

    def read_kinds(kinds, bank, test, seed, workers):
        assert (test, seed, workers) == ("test", 9, 1) and len(bank.source) == len(bank.pure)
        gains = left.pop(0)
        assert set(gains) <= set(kinds)
        return {kind: reading_of(kind, gains.get(kind, 0.0), chance=1.0) for kind in kinds}

    monkeypatch.setattr(search, "make_bank", make_bank)
    monkeypatch.setattr(search, "read_kinds", read_kinds)
    seeds = []

    def decided(kept, read, belief, train, test, seed, workers):
        assert (train, test, workers) == ("train", "test", 1) and kept.keys() <= read.keys()
        seeds.append(seed)
        return kept

    def with_settings(belief, bank, test, seed, workers):
        assert (test, seed, workers) == ("test", 9, 1) and isinstance(bank, Bank)
        return replace(belief, expand=0.25)

    def simpler(belief, train, test, seed, workers, n):
        assert (train, test, workers, n) == ("train", "test", 1, 10)
        seeds.append(seed)
        return replace(belief, fill=(1, 0, 0, 0))

    def earned(belief, train, test, seed, workers):
        assert (train, test, workers) == ("train", "test", 1) and belief.fill == (1, 0, 0, 0)
        seeds.append(seed)
        return belief

    for function in (decided, with_settings, simpler, earned):
        monkeypatch.setattr(search, function.__name__, function)
    belief, bank = search.search("train", "test", 9, 1, 10, rounds)
    # every step draws by a seed of its own
    rounds_done = range(len(banks))
    assert seeds == [*(seed_of(9, "decide", r) for r in rounds_done), seed_of(9, "simpler"),
                     seed_of(9, "earned")]
    return belief, bank, banks


def test_the_search_ends_once_a_round_changes_nothing(monkeypatch):
    """Without a find after two rounds, with one after three; the second has twice the images."""
    belief, bank, banks = searched(monkeypatch, [{}, {}])
    assert belief.kinds == {} and [b.n for b in banks] == [10, 20] and len(bank.values) == 20
    assert [b.free for b in banks] == [0.3, 0.15]
    assert all(b.kinds == list(AXES) for b in banks)
    assert [b.seed for b in banks] == [seed_of(9, "bank", r) for r in (0, 1)]

    blur = {"blur": 300.0, "jpeg": 3.0}
    belief, bank, banks = searched(monkeypatch, [blur, blur, blur])
    assert set(belief.kinds) == {"blur"} and belief.expand == 0.25
    assert [b.n for b in banks] == [10, 20, 10]
    assert [b.belief for b in banks] == [set(), {"blur"}, {"blur"}]
    # the third looks for what it believes and for what may still be there
    assert banks[2].kinds == ["blur", "jpeg"]
    # rows of the second help to read, but only new ones are pure
    assert bank.source.tolist() == [2] * 20 + [3] * 10
    assert bank.pure.tolist() == [False] * 20 + [True] * 10


def test_the_search_goes_on_while_rounds_change_what_is_believed(monkeypatch):
    gains = [{"blur": 300.0, "noise": 3.0}, {"blur": 300.0, "noise": 200.0},
             {"blur": 2.0, "noise": 200.0}, {"noise": 200.0}]
    belief, bank, banks = searched(monkeypatch, gains)
    assert [b.belief for b in banks] == [set(), {"blur"}, {"blur", "noise"}, {"noise"}]
    assert set(belief.kinds) == {"noise"} and len(banks) == 4
    assert banks[3].kinds == ["blur", "noise"]
    assert bank.source.tolist() == [2] * 20 + [3] * 10 + [4] * 10
    assert bank.pure.tolist() == [False] * 30 + [True] * 10
    assert len(searched(monkeypatch, gains, rounds=1)[2]) == 1


# ---------------------------------------------------------------- styles

def styled(n, seed, blur_of_style, tell=2.0):
    """(rows, style, values): the third statistic tells the style, blur by the style."""
    rng = np.random.default_rng(seed)
    style = np.arange(n) % 2
    values = [{"blur": rng.uniform(1.5, 3.0)} if rng.random() < blur_of_style[k] else {}
              for k in style]
    rows = statistics_of(values, rng)
    rows[:, 2] += tell * style
    return rows, style, values


def styled_bank(n, seed, tell=2.0):
    rng = np.random.default_rng(seed)
    source = np.arange(n) % N_SOURCES
    values = drawn_values(n, rng, blur=0.5, noise=0.3)
    rows = statistics_of(values, rng)
    rows[:, 2] += tell * (source % 2)
    return Bank(values, source, rows, np.ones(n, bool)), np.arange(N_SOURCES) % 2


def test_the_style_of_test_images_is_read_if_that_of_training_images_can_be():
    bank, style = styled_bank(500, 0)
    rows, truth, _ = styled(80, 1, (0.5, 0.5))
    assert (styles_of_test(bank, style, rows, 0) == truth).mean() > 0.95
    # in doubt it is the frequent one
    bank, style = styled_bank(500, 6, tell=0.45)
    rng = np.random.default_rng(7)
    truth = (np.arange(200) < 10).astype(int)
    rare = statistics_of([{}] * 200, rng)
    rare[:, 2] += 0.45 * truth
    assert (styles_of_test(bank, style, rare, 0) != truth).mean() < 0.05
    bank, style = styled_bank(500, 0, tell=0.0)
    assert styles_of_test(bank, style, rows, 0) is None


def test_a_kind_of_one_style_alone_is_believed_of_it_alone():
    bank, style = styled_bank(700, 2)
    rows, test_style, _ = styled(160, 3, (0.0, 0.9))
    apart = split_kind("blur", bank, style[bank.source], rows, test_style, 0)
    none, most = apart
    assert none.probability <= 0.1 and most.probability > 0.75 and most.kind == none.kind == "blur"
    assert most.chance == none.chance and most.gain > CHANCE_FACTOR * most.chance
    both = Belief(readings(blur=200.0, noise=90.0), expand=0.3)
    of_none, of_most = by_style(both, bank, style, rows, test_style, 0)
    assert set(of_none.kinds) == {"noise"} and set(of_most.kinds) == {"blur", "noise"}
    assert of_most.kinds["blur"].probability == most.probability and of_most.expand == 0.3
    assert of_none.kinds["noise"] == both.kinds["noise"] and set(both.kinds) == {"blur", "noise"}


def test_a_kind_of_both_styles_is_one_reading():
    bank, style = styled_bank(700, 4)
    rows, test_style, _ = styled(160, 5, (0.6, 0.6))
    assert split_kind("blur", bank, style[bank.source], rows, test_style, 0) == []
    both = Belief(readings(blur=200.0))
    assert by_style(both, bank, style, rows, test_style, 0) == [both, both]


# ---------------------------------------------------------------- telling rows apart

def test_separability_is_cross_validated():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (60, 5)), rng.normal(0.4, 1, (50, 5))
    forest = ExtraTreesClassifier(100, min_samples_leaf=3, random_state=7)
    y, folds = np.repeat([0, 1], [60, 50]), StratifiedKFold(4, shuffle=True, random_state=7)
    score = cross_val_predict(forest, np.concatenate([one, other]), y, cv=folds,
                              method="predict_proba")[:, 1]
    found = separability(one, other, 7, 2)
    assert found["value"] == roc_auc_score(y, score)
    assert found["ci90"][0] < found["value"] < found["ci90"][1]
    # Hanley and McNeil's standard error of such an AUC is 0.05: 90 % are within 1.64 of it
    low, high = found["ci90"]
    assert 0.12 < high - low < 0.22
    assert separability(one, other, 7, 1) == found
