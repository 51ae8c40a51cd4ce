"""Folds that split no group, and targets that leak no label."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

import data_loader
from contest.catalog import Catalog
from data_loader import (
    Folds,
    Targets,
    check_groups,
    load_folds,
    make_folds,
    save_folds,
    spread_gaps,
    stratified,
)
from utils import RunError, UserError, seed_of


def catalog_of(labels, groups=None):
    n = len(labels)
    ids = [f"s{i:04d}" for i in range(n)]
    return Catalog(ids, [""] * n, [""] * n, labels, groups or ids,
                   tuple(str(c) for c in range(max(labels) + 1)))


# ---------------------------------------------------------------- folds

def test_folds_hold_every_class(tmp_path):
    catalog = catalog_of([0] * 50 + [1] * 10 + [2] * 5)
    folds = make_folds(catalog, 5, seed=42)
    for k in range(5):
        assert set(catalog.label[folds.valid_rows(k)].tolist()) == {0, 1, 2}
        assert sorted([*folds.train_rows(k), *folds.valid_rows(k)]) == list(range(65))
    save_folds(folds, tmp_path / "folds.csv")
    again = load_folds(tmp_path / "folds.csv")
    assert again.n_folds == 5 and np.array_equal(again.fold,
                                                 folds.fold) and np.array_equal(again.sample_id,
                                                                                folds.sample_id)
    assert np.array_equal(make_folds(catalog, 5, seed=42).fold, folds.fold)
    assert not np.array_equal(make_folds(catalog, 5, seed=43).fold, folds.fold)
    assert len(folds.train_rows(None)) == 65 and len(folds.valid_rows(None)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_no_group_lies_in_two_folds(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 120).tolist()
    groups = [f"g{g}" for g in rng.integers(0, 60, 120)]
    catalog = catalog_of(labels, groups)
    folds = make_folds(catalog, 4, seed)
    for k in range(4):
        inside, outside = set(catalog.group[folds.valid_rows(k)]), set(
            catalog.group[folds.train_rows(k)])
        assert not inside & outside
        assert set(catalog.label[folds.valid_rows(k)].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("grouped", [False, True])
def test_a_class_smaller_than_the_folds_is_no_obstacle(grouped):
    labels = [0] * 20 + [1] * 2 + [2]
    groups = [f"g{i // 2 if i < 6 else i}" for i in range(23)] if grouped else None
    folds = make_folds(catalog_of(labels, groups), 5, seed=0)
    assert set(folds.fold.tolist()) == set(range(5))
    assert len(set(folds.fold[20:22].tolist())) == 2


def test_folds_that_cannot_be_made():
    with pytest.raises(UserError,
                       match=r"data.n_folds must be at most 3.*got 5.*--set data.n_folds=3"):
        make_folds(catalog_of([0, 0, 0, 1, 1]), 5, seed=0)
    with pytest.raises(UserError, match="every fold from 0 to 2"):
        Folds(["a", "b"], [0, 1], 3)
    with pytest.raises(UserError, match="different samples"):
        Folds(["a", "a"], [0, 1], 2)


def test_every_class_is_shared_out_evenly():
    labels = np.repeat([0, 1, 2], [25, 13, 7])
    for groups in (None, [f"g{i}" for i in range(len(labels))]):
        folds = make_folds(catalog_of(labels.tolist(), groups), 5, seed=3)
        for label in range(3):
            counts = np.bincount(folds.fold[labels == label], minlength=5)
            assert counts.max() - counts.min() <= 1
    assert folds.fold.dtype == np.int8


def test_fold_none_is_a_refit_on_all_rows():
    folds = Folds(["a", "b", "c"], [1, 0, 1], 2)
    assert folds.train_rows(0).tolist() == [0, 2] and folds.valid_rows(0).tolist() == [1]
    assert folds.train_rows(1).tolist() == [1] and folds.valid_rows(1).tolist() == [0, 2]
    assert folds.train_rows(None).tolist() == [0, 1, 2] and folds.valid_rows(None).tolist() == []
    assert folds.valid_rows(None).dtype.kind == "i" and folds.fold.dtype == np.int8


@pytest.mark.parametrize(("ids", "fold", "n_folds", "message"), [
    (["a"], [0, 1], 2, "got 1 ids and 2 folds"), (["a", "a"], [0, 1], 2, "got 2 ids and 2 folds"),
    (["a", "b"], [0, 2], 2, r"from 0 to 1 must hold samples and no other may, got \[0, 2\]"),
    (["a", "b"], [1, 2], 3, r"from 0 to 2 .* got \[1, 2\]: ask for fewer by --set data.n_folds"),
    (["a", "b"], [-2, 0], 1, r"got \[-2, 0\]"), (["a", "b"], [-1, -1], 1, r"got \[\]")])
def test_folds_hold_each_sample_once_and_none_is_empty(ids, fold, n_folds, message):
    with pytest.raises(UserError, match=message):
        Folds(ids, fold, n_folds)


@pytest.mark.parametrize(("labels", "groups", "most"), [
    ([0] * 4 + [1] * 2, None, 4), ([0] * 9, [f"g{i % 3}" for i in range(9)], 3), ([0], None, 1)])
def test_as_many_folds_as_the_largest_class_or_the_groups_allow(labels, groups, most):
    catalog = catalog_of(labels, groups)
    if most > 1:
        assert make_folds(catalog, most, 0).n_folds == most
    advice = f"--set data.n_folds={most}, or add images" if most > 1 else "add images"
    with pytest.raises(UserError, match=f"must be at most {most}, .* got {most + 1}: {advice}"):
        make_folds(catalog, most + 1, 0)


def test_no_samples_make_no_folds():
    with pytest.raises(UserError, match="must be at most 0"):
        make_folds(Catalog([], [], [], [], [], ("a",)), 2, 0)


def test_gaps_are_classes_that_a_fold_lacks_without_need():
    groups = [*(f"g{i}" for i in range(6)), "h", "h", "k", "m"]
    catalog = catalog_of([0] * 6 + [1] * 3 + [2], groups)
    # class 0 may be in all three folds, class 1 has two groups, class 2 one sample
    assert spread_gaps(catalog, np.array([0, 1, 2, 0, 1, 2, 0, 0, 1, 2]), 3) == 0
    assert spread_gaps(catalog, np.array([0, 1, 1, 0, 1, 0, 0, 0, 0, 2]), 3) == 2
    assert spread_gaps(catalog, np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2]), 3) == 2
    assert spread_gaps(catalog, np.array([0, 1, 1, 0, 1, 0, 0, 0, 0, 1]), 3) == 1002


def test_the_attempt_with_the_fewest_gaps_is_taken_and_the_first_without_any_ends_them(
    monkeypatch):
    catalog = catalog_of([0] * 4 + [1] * 4)
    two, one, none = ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 1, 1, 0])

    def taken(*attempts):
        left = [*attempts, *[two] * 20]
        seeds = []

        def attempt(catalog, n_folds, seed):
            seeds.append(seed)
            return np.array(left.pop(0), np.int8)

        monkeypatch.setattr(data_loader, "stratified", attempt)
        return make_folds(catalog, 2, 7).fold.tolist(), seeds

    fold, seeds = taken(two, one, none)
    assert fold == none and seeds == [7, seed_of(7, "folds", 1), seed_of(7, "folds", 2)]
    other = one[::-1]
    fold, seeds = taken(two, one, other)
    assert fold == one and len(seeds) == len(set(seeds)) == 20
    assert taken(none, one) == (none, [7])


def test_a_group_in_two_folds_is_named():
    catalog = catalog_of([0, 1, 0, 1], ["x", "x", "y", "z"])
    check_groups(catalog, SimpleNamespace(fold=np.array([0, 0, 1, 1])))
    with pytest.raises(RunError, match=r"but these do: 'x'$"):
        check_groups(catalog, SimpleNamespace(fold=np.array([0, 1, 1, 1])))
    with pytest.raises(RunError, match="'x'"):
        broken = np.array([0, 1, 1, 0], np.int8)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_loader, "stratified", lambda *_: broken)
            make_folds(catalog, 2, 0)


def test_groups_are_kept_together_only_where_there_are_any():
    """One group of two samples among 40 is enough."""
    groups = [f"g{i}" for i in range(40)]
    groups[39] = groups[0]
    catalog = catalog_of([0, 1] * 20, groups)
    for seed in range(5):
        fold = stratified(catalog, 5, seed)
        assert fold[39] == fold[0] and fold.dtype == np.int8
        assert set(fold.tolist()) == set(range(5))
        np.testing.assert_array_equal(fold, stratified(catalog, 5, seed))
    alone = catalog_of([0, 1] * 20)
    splits = StratifiedKFold(5, shuffle=True, random_state=3).split(alone.label, alone.label)
    fold = stratified(alone, 5, 3)
    for k, (_, rows) in enumerate(splits):
        assert (fold[rows] == k).all()


def test_folds_are_read_back_with_any_ids(tmp_path):
    folds = Folds(["+1", "=a", "b,c"], [0, 1, 0], 2)
    save_folds(folds, tmp_path / "folds.csv")
    assert (tmp_path / "folds.csv").read_text() == (
        'sample_id,fold\n+1,0\n\'=a,1\n"b,c",0\n')
    again = load_folds(tmp_path / "folds.csv")
    assert again.sample_id.tolist() == ["+1", "=a", "b,c"] and again.fold.tolist() == [0, 1, 0]
    assert again.n_folds == 2
    (tmp_path / "folds.csv").write_text("sample_id,fold\n")
    assert load_folds(tmp_path / "folds.csv").n_folds == 0


# ---------------------------------------------------------------- targets

def test_targets_from_labels_serve_every_fold():
    targets = Targets.from_labels(catalog_of([1, 0, 2]))
    assert targets.probs.tolist() == [[0, 1, 0], [1, 0, 0],
                                      [0, 0, 1]] and targets.probs.dtype == np.float32
    assert targets.for_fold(3) is targets and targets.for_fold(
        None) is targets and not targets.taught
    with pytest.raises(RunError, match="none for 's0001'"):
        Targets.from_labels(replace(catalog_of([1, 0]), label=[1, -1]))


def test_taught_targets_serve_their_fold_only():
    taught = Targets(["u1"], [[0.3, 0.7]], [0.5], blind_fold=2, taught=True)
    assert taught.for_fold(2) is taught and taught.for_fold(None) is taught
    with pytest.raises(RunError, match=r"for fold 1 .*blind to fold 2 only"):
        taught.for_fold(1)
    with pytest.raises(RunError, match=r"for fold 1 .*teachers of all folds"):
        replace(taught, blind_fold=None).for_fold(1)
    both = Targets.from_labels(catalog_of([1, 0])).concat(taught)
    assert both.taught and both.blind_fold == 2 and both.sample_id.tolist() == ["s0000", "s0001",
                                                                                "u1"]
    assert both.take([2]).weight.tolist() == [0.5]
    with pytest.raises(RunError, match="fold 2 and to fold 0"):
        both.concat(replace(taught, blind_fold=0))
    with pytest.raises(RunError, match="plain labels"):
        replace(taught, taught=False)


@pytest.mark.parametrize("probs", [[[0.5, 0.4]], [[1.5, -0.5]], [[np.nan, 1.0]]])
def test_targets_that_are_no_probabilities(probs):
    with pytest.raises(RunError, match=r"sum to 1.*'a'"):
        Targets(["a"], probs, [1.0])
    with pytest.raises(RunError, match="weight"):
        Targets(["a"], [[0.5, 0.5]], [1.0, 2.0])


def test_rows_sum_to_1_within_a_thousandth_and_weights_are_finite():
    def made(probs, weight):
        return Targets(["b", "a", "c"][-len(probs):], probs, weight)

    kept = made([[0.5, 0.5005], [0.0, 1.0], [0.3, 0.6995]], [0.0, 1.0, 7.5])
    assert kept.weight.tolist() == [0.0, 1.0, 7.5] and len(kept) == 3
    assert kept.probs.dtype == kept.weight.dtype == np.float32
    for row in ([0.5, 0.502], [0.5, 0.498], [-0.1, 1.1]):
        with pytest.raises(RunError, match=r"wrong for 'a'$"):
            made([row, [0.0, 1.0]], [1.0, 1.0])
    for weight in (-0.1, np.inf, np.nan):
        with pytest.raises(RunError, match=r"wrong for 'a'$"):
            made([[0.0, 1.0], [0.5, 0.5]], [weight, 1.0])
    for probs, weight in (([0.5, 0.5], [1.0]), ([[0.5, 0.5]], [[1.0]]), ([[1.0], [1.0]], [1.0])):
        with pytest.raises(RunError, match=r"of 1 samples need probs \(n, C\) and weight \(n,\)"):
            Targets(["a"], probs, weight)


def test_targets_of_the_first_fold_are_blind_to_it_alone():
    first = Targets(["u"], [[1.0, 0.0]], [1.0], blind_fold=0, taught=True)
    assert first.for_fold(0) is first and first.for_fold(None) is first
    with pytest.raises(RunError, match=r"blind to fold 1, got teachers blind to fold 0 only"):
        first.for_fold(1)
    with pytest.raises(RunError, match="blind_fold 0 belongs to targets made by teachers"):
        replace(first, taught=False)
    refit = replace(first, blind_fold=None)
    assert refit.taught and refit.for_fold(None) is refit


def test_targets_are_joined_row_below_row():
    plain = Targets(["a", "b"], [[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0])
    taught = Targets(["u"], [[0.25, 0.75]], [0.5], blind_fold=1, taught=True)
    for one, other in ((plain, taught), (taught, plain)):
        both = one.concat(other)
        assert both.taught and both.blind_fold == 1
        assert both.sample_id.tolist() == [*one.sample_id, *other.sample_id]
        np.testing.assert_array_equal(both.probs, np.concatenate([one.probs, other.probs]))
        assert both.weight.tolist() == [*one.weight, *other.weight]
    assert not plain.concat(plain).taught and plain.concat(plain).blind_fold is None
    twice = taught.concat(taught)
    assert twice.taught and twice.blind_fold == 1
    some = both.take(np.array([False, True, True]))
    assert some.sample_id.tolist() == ["a", "b"] and some.weight.tolist() == [1.0, 2.0]
    assert some.probs.tolist() == [[1, 0], [0, 1]] and some.taught and some.blind_fold == 1
