"""From the predictions that fits leave to the score to expect, on invented ones: no training."""
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from config import FitSpec, build_config
from contest.catalog import Catalog
from data_loader import Folds, ImageDataset, Targets
from ensemble.blend import nested_cut
from ensemble.judges import JUDGES, spread_by_rows
from ensemble.metrics import METRICS, bootstrap_ci90
from ensemble.scores import (
    FoldScores,
    blended,
    by_confidence,
    expectation,
    groups_to_resample,
    pseudo_labels,
    rescues,
    rows_of,
    warn_of_rounds,
    warn_of_sureness,
)
from ensemble.tasks import TASKS
from ensemble.teachers import PSEUDO_LABELS, save_pseudo_labels
from modeling.compute import Compute
from modeling.inference import Predictions, load_views, save_views
from modeling.train import FitResult
from running.predicting import predicted_splits
from running.run import Fitted
from shift.distortions import Distortion, ShiftPolicy
from shift.groups import ClassGroup
from shift.report import ShiftReport
from system.log import EventLog
from system.stages import Stage, damaged_files
from utils import seed_of

CLASSES = ("a", "b", "c")
N, N_TEST, N_FOLDS = 72, 40, 3
IDS = [f"s{i:03}" for i in range(N)]
LABELS = np.arange(N) % 3
FOLDS = np.arange(N) // 3 % N_FOLDS
TEST_IDS = [f"t{i:03}" for i in range(N_TEST)]
ACCURACY = METRICS["accuracy"]
BLUR = ShiftPolicy((Distortion("blur", 1.0, 2.0, 3.0),))


def answers(labels, strength, *names):
    """(n, C) by noise, the better the larger `strength`; the names alone draw the noise."""
    noise = np.random.default_rng(seed_of(*names)).standard_normal((len(labels), 3))
    odds = np.exp(noise + strength * np.eye(3)[labels])
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def finished(folder, spec, splits, seconds=1.0):
    """A Fitted of {split: {view: (ids, probs)}}."""
    folder = folder / f"{spec.name}-{spec.fold}"
    folder.mkdir(parents=True)
    for split, views in splits.items():
        save_views({view: Predictions(np.array(ids), probs.astype(np.float32), CLASSES, split,
                                      (spec.name,)) for view, (ids, probs) in views.items()},
                   folder / f"{split}.npz")
    result = FitResult(spec, folder, (), seconds, 0, 0)
    return Fitted(result, Stage("predict", f"{spec.name}-{spec.fold}", folder), Compute())


def fits_of(folder, strengths, testlike_loss=None, test_strength=None, folds=range(N_FOLDS)):
    """{FitSpec: Fitted} of sources {(backbone, round): strength}, each with two views.

    testlike_loss: how much weaker they are on valid images made like the test set, if they are.
    """
    fits = {}
    for (backbone, number), strength in strengths.items():
        for fold in folds:
            spec = FitSpec(backbone, 1, number, fold)
            rows = np.flatnonzero(fold == FOLDS)[::-1]
            ids = [IDS[i] for i in rows]

            def views(split, ids, labels, strength, spec=spec):
                return {view: (ids, answers(labels, strength, spec.name, spec.fold, split, view))
                        for view in ("identity", "flip_horizontal")}

            splits = {"valid": views("valid", ids, LABELS[rows], strength)}
            if testlike_loss is not None:
                splits["valid_testlike"] = views("testlike", ids, LABELS[rows],
                                                 strength - testlike_loss)
            if test_strength is not None:
                splits["test"] = views("test", TEST_IDS, np.arange(N_TEST) % 3, test_strength)
            fits[spec] = finished(folder, spec, splits, seconds=1.0 + fold)
    return fits


def prepared_of(folder, shift=None, groups=None, tested=True, settings=()):
    config = build_config("full_training", ["ensemble.bootstrap_draws=60", "rounds=2", *settings])
    train = Catalog(IDS, [""] * N, [""] * N, LABELS, groups or IDS, CLASSES)
    audit = SimpleNamespace(train=train, test=TEST_IDS if tested else [])
    return SimpleNamespace(config=config, folder=folder, audit=audit, classes=CLASSES,
                           shift=shift or ShiftReport(), folds=Folds(IDS, FOLDS, N_FOLDS),
                           task=TASKS["single"])


@pytest.fixture
def damaged(tmp_path):
    """(prepared, fits, log, Blended) of two sources; test-like images are harder than clean ones
    and the test images are harder still."""
    fits = fits_of(tmp_path, {("x", 0): 3.0, ("y", 0): 2.5}, testlike_loss=1.5, test_strength=0.2)
    prepared = prepared_of(tmp_path, ShiftReport(BLUR))
    log = EventLog(tmp_path / "events.jsonl")
    return prepared, fits, log, blended(prepared, ACCURACY, fits, log)


def by_hand(blend, fits, split):
    """{id: row} of the blend's weights and views over the folds' predictions of their own images.
    """
    total = {}
    for spec, fitted in fits.items():
        views = load_views(fitted.predict_stage.folder / f"{split}.npz")
        mean = np.mean([views[view].probs for view in blend.views[spec.name]], axis=0)
        scaled = mean.astype(np.float64) ** (1 / blend.temperature[spec.name])
        scaled /= scaled.sum(1, keepdims=True)
        for sample, row in zip(views["identity"].sample_id.tolist(), scaled, strict=True):
            total[sample] = total.get(sample, 0) + blend.weights[spec.name] * row
    return total


# ---------------------------------------------------------------- the score to expect

def test_expected_is_halfway_between_two_estimates_in_an_interval_of_all():
    score = expectation(0.8, [0.7, 0.85], 0.75, 0.74, 0.65, (0.0, 1.0))
    assert score["by_confidence"] == 0.65
    assert score["confidence_shift"] == pytest.approx(0.65 - 0.74)
    # moved by sureness: 0.8 + 0.65 - 0.75; by as many rows alone: 0.8 + 0.74 - 0.75
    assert score["expected"] == pytest.approx((0.7 + 0.65) / 2)
    assert score["expected_ci90"] == pytest.approx([0.65 - 0.1, 0.79 + 0.05])
    surer = expectation(0.8, [0.7, 0.85], 0.75, 0.76, 0.95, (0.0, 1.0))
    assert surer["expected"] == pytest.approx((1.0 + 0.95) / 2)
    assert surer["expected_ci90"] == pytest.approx([0.81 - 0.1, 1.0])
    low = expectation(0.1, [0.0, 0.2], 0.5, 0.5, 0.05, (0.0, 1.0))
    assert low["expected"] == 0.0 and low["expected_ci90"] == pytest.approx([0.0, 0.2])


@pytest.mark.parametrize(("name", "change", "said"), [
    ("accuracy", -0.3, "less sure .* accuracy were 0.300 .* lower there"),
    ("accuracy", 0.2, "more sure .* accuracy were 0.200 .* higher there"),
    ("log_loss", -0.3, "more sure .* log_loss were 0.300 .* lower there"),
    ("log_loss", 0.2, "less sure .* log_loss were 0.200 .* higher there"),
    ("accuracy", -0.25, None), ("accuracy", 0.125, None), ("accuracy", 0.0, None)])
def test_a_sureness_outside_of_the_interval_is_said(tmp_path, name, change, said):
    log = EventLog(tmp_path / "events.jsonl")
    score = {"oof_testlike": 0.5, "oof_testlike_ci90": [0.25, 0.625], "confidence_shift": change,
             "confidence_shift_ci90": [change, change]}
    warn_of_sureness(score, METRICS[name], log)
    assert len(log.warnings) == (said is not None)
    assert all(np.char.count(text, "the models are") == 1 for text in log.warnings)
    if said:
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(log.warnings[0])


def test_a_sureness_of_few_test_images_may_be_chance(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for half in (0.08, 0.03):      # of few test images and of many
        score = {"oof_testlike": 0.5, "oof_testlike_ci90": [0.45, 0.55], "confidence_shift": -0.1,
                 "confidence_shift_ci90": [-0.1 - half, -0.1 + half]}
        warn_of_sureness(score, ACCURACY, log)
    said, = log.warnings
    assert "as if accuracy were 0.100 (0.070 to 0.130) lower there" in said


@pytest.mark.parametrize("n", [25, 400])
def test_the_spread_of_a_sureness_is_that_of_the_mean_of_so_many_rows(n):
    sure = np.random.default_rng(0).uniform(0.5, 1, n)
    rows = np.stack([sure, 1 - sure], 1)
    spread = spread_by_rows(ACCURACY, np.zeros(4, int), np.tile([1 - 1e-9, 1e-9], (4, 1)), rows,
                            seed=0, draws=2000)
    tempered = JUDGES["shares"].tempered(rows, 0.1)      # labelled rows are right, and that sure
    assert spread == pytest.approx(tempered.max(1).std() / np.sqrt(n), rel=0.2)


def test_test_images_that_the_models_are_less_sure_of_are_said_by_the_run(damaged):
    *_, log, result = damaged
    assert result.score["confidence_shift"] < -0.1
    assert [text for text in log.warnings if "the models are less sure on the test images" in text]


def test_each_fold_is_asked_how_sure_its_own_models_are(tmp_path):
    """Three of four rows are right in both folds. Fold 0 is as sure as that, so 0.95 on test images
    is 0.95. Fold 1 says 0.95 there too, so its 0.55 is less: a temperature of 2.68 undoes it."""
    labels = np.tile([0, 0, 0, 1], 20)
    folds = np.repeat([0, 1], 40)
    nested = np.where(folds[:, None] == 0, [0.75, 0.25], [0.95, 0.05])
    sources = {"m": []}
    for fold, sure in ((0, 0.95), (1, 0.55)):
        views = {"identity": Predictions(np.array(TEST_IDS), np.tile(
            np.float32([[sure, 1 - sure]]), (N_TEST, 1)), ("a", "b"), "test", ("m",))}
        sources["m"].append((fold, SimpleNamespace(views=lambda split, views=views: views)))
    blend = SimpleNamespace(cuts=(), weighted_names=lambda: ["m"],
                            apply=lambda predictions: predictions["m"]["identity"])
    rows = SimpleNamespace(labels=labels, folds=folds)
    here, alike, there, spread = by_confidence(0, sources, blend, nested, rows, ACCURACY)
    assert here == pytest.approx(0.75, abs=0.01) and alike == pytest.approx(0.75, abs=0.02)
    odds = (0.55 / 0.45) ** (1 / 2.68)
    assert spread == pytest.approx(0, abs=0.01)      # all test images are alike
    assert there == pytest.approx((0.95 + odds / (1 + odds)) / 2, abs=0.02)


def test_expected_is_made_of_the_sureness_of_the_runs_own_folds(damaged):
    prepared, fits, _, result = damaged
    sources = {}
    for spec, fitted in fits.items():
        sources.setdefault(spec.name, []).append((spec.fold, fitted))
    rows = rows_of(prepared, sources, None)
    nested = Predictions.load(result.folder / "oof_testlike.npz").align(rows.ids)
    *sureness, _ = by_confidence(prepared.config.seed, sources, result.blend, nested, rows,
                                 ACCURACY)
    said = expectation(result.score["oof_testlike"], result.score["oof_testlike_ci90"], *sureness,
                       ACCURACY.limits)
    assert result.score["expected"] == pytest.approx(said["expected"], abs=1e-3)
    assert result.score["by_confidence"] == pytest.approx(said["by_confidence"], abs=1e-3)


def test_a_source_rescues_the_rows_that_it_answers_right_and_the_other_wrong():
    right = {"a": np.array([True, True, False, False]), "b": np.array([True, False, True, False]),
             "c": np.array([True, True, True, True])}
    assert rescues("a", right) == {"b": 0.25, "c": 0.0}
    assert rescues("c", right) == {"a": 0.5, "b": 0.5}
    assert rescues("of no weight", right) == {}


def test_the_table_says_what_each_source_adds_and_rescues(damaged):
    _, _, _, result = damaged
    by_name = {row.name: row for row in result.table}
    weighted = set(result.blend.weighted_names())
    assert len(weighted) == 2
    for name in weighted:
        low, high = by_name[name].adds_ci90
        assert low <= by_name[name].adds <= high
        assert set(by_name[name].rescues) == weighted - {name}


# ---------------------------------------------------------------- out of fold

def test_the_scores_are_of_images_as_they_are_and_of_images_made_like_the_test_set(damaged):
    _, fits, _, result = damaged
    clean = by_hand(result.blend, fits, "valid")
    assert result.score["oof_clean"] == pytest.approx(
        ACCURACY(LABELS, np.array([clean[i] for i in IDS])))
    assert result.score["oof_testlike"] == result.blend.score_nested
    assert result.score["oof_testlike"] < result.score["oof_clean"] - 0.1
    testlike = by_hand(result.blend, fits, "valid_testlike")
    assert result.blend.score == pytest.approx(
        ACCURACY(LABELS, np.array([testlike[i] for i in IDS])))
    for name in ("oof_clean", "oof_testlike"):
        stored = Predictions.load(result.folder / f"{name}.npz")
        assert sorted(stored.sample_id.tolist()) == IDS and stored.classes == CLASSES
        assert stored.sources == ("r0-x-s1", "r0-y-s1") and stored.split == "valid"
        probs = stored.align(IDS)
        assert result.score[name] == ACCURACY(LABELS, probs)
        assert result.score[f"{name}_ci90"] == pytest.approx(bootstrap_ci90(
            ACCURACY, LABELS, probs, groups=np.array(IDS), draws=60, seed=3), abs=0.06)
    np.testing.assert_allclose(Predictions.load(result.folder / "oof_clean.npz").align(IDS),
                               [clean[i] for i in IDS], atol=1e-5)


def test_the_test_images_get_the_mean_of_all_folds(damaged):
    _, fits, _, result = damaged
    stored = Predictions.load(result.folder / "test.npz")
    assert stored.sample_id.tolist() == TEST_IDS == result.test.sample_id.tolist()
    np.testing.assert_array_equal(stored.probs, result.test.probs)
    each = {}
    for spec, fitted in fits.items():
        views = fitted.views("test")
        each.setdefault(spec.name, []).append(
            np.mean([views[view].probs for view in result.blend.views[spec.name]], axis=0))
    total = 0
    for name, probs in each.items():
        scaled = np.mean(probs, axis=0) ** (1 / result.blend.temperature[name])
        total = total + result.blend.weights[name] * scaled / scaled.sum(1, keepdims=True)
    np.testing.assert_allclose(result.test.probs, total, atol=1e-5)


def test_the_blend_is_kept_as_a_stage_and_made_again_if_it_changed(damaged):
    prepared, fits, log, result = damaged
    assert damaged_files(result.folder) == []
    stored = json.loads((result.folder / "blend.json").read_text())
    assert stored["weights"] == result.blend.weights
    assert stored["method"] == result.blend.method
    (result.folder / "blend.json").write_text("{}")
    assert blended(prepared, ACCURACY, fits, log).folder == result.folder
    assert f"{result.folder.name} is made again: 'blend.json' changed" in log.warnings[-1]
    assert json.loads((result.folder / "blend.json").read_text()) == stored


def test_a_source_is_described_by_its_own_rows(damaged):
    _, fits, _, result = damaged
    row, other = result.table
    assert (row.name, other.name) == ("r0-x-s1", "r0-y-s1")
    each = []
    for spec, fitted in fits.items():
        if spec.name == row.name:
            views = fitted.views("valid_testlike")
            probs = np.mean([views[view].probs for view in result.blend.views[row.name]], axis=0)
            labels = [LABELS[IDS.index(i)] for i in views["identity"].sample_id.tolist()]
            each.append(ACCURACY(labels, probs))
    assert row.score == pytest.approx(np.mean(each)) and row.folds == N_FOLDS
    assert row.fold_sd == pytest.approx(np.std(each, ddof=1))
    assert row.weight == result.blend.weights[row.name] and row.note == ""
    assert row.views + len(row.views_dropped) == 2 and row.seconds == 1.0 + 2.0 + 3.0
    assert set(row.views_dropped).isdisjoint(result.blend.views[row.name])


def test_copies_of_an_image_widen_the_intervals_of_scores_and_rounds(tmp_path):
    """They tell no more than one image, so they are drawn together."""
    said = {0: [0, 1, 2, 0, 2, 0], 1: [1, 1, 2, 0, 1, 2]}      # of images whose labels are 012012
    widths = []
    for name in ("alone", "together"):
        fits = {}
        for number, fold in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)):
            spec = FitSpec("x", 1, number, fold)
            rows = np.flatnonzero(fold == FOLDS)
            probs = 0.2 + 0.4 * np.eye(3)[np.array(said[number])[rows % 6]]
            fits[spec] = finished(tmp_path / name, spec, {
                "valid": {"identity": ([IDS[i] for i in rows], probs)},
                "test": {"identity": (TEST_IDS, np.full((N_TEST, 3), 1 / 3))}})
        groups = [f"g{i % 6}" for i in range(N)] if name == "together" else None
        prepared = prepared_of(tmp_path / name, groups=groups)
        result = blended(prepared, ACCURACY, fits, EventLog(tmp_path / f"{name}.jsonl"))
        assert result.blend.score == pytest.approx(5 / 6)
        intervals = [result.score["oof_testlike_ci90"], result.score["oof_clean_ci90"],
                     result.rounds[1]["change_ci90"]]
        widths.append([high - low for low, high in intervals])
    alone, together = np.array(widths)
    assert (together > 2 * alone).all() and (alone > 0).all()


def test_few_groups_are_not_resampled(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    five = np.array(["p", "q", "r", "s", "t", "t"])
    np.testing.assert_array_equal(groups_to_resample(five, log), five)
    assert log.warnings == []
    four = np.array(["p", "q", "r", "s", "s", "s"])
    assert groups_to_resample(four, log).tolist() == list(range(6))
    assert "of 4 group(s): intervals resample images" in log.warnings[0]


def test_without_test_images_what_is_out_of_fold_is_expected(tmp_path):
    fits = fits_of(tmp_path, {("x", 0): 2.0})
    log = EventLog(tmp_path / "events.jsonl")
    result = blended(prepared_of(tmp_path, tested=False), ACCURACY, fits, log)
    assert result.test is None and not (result.folder / "test.npz").exists()
    assert result.score["expected"] == result.score["oof_testlike"] == result.score["oof_clean"]
    assert result.score["expected_ci90"] == result.score["oof_testlike_ci90"]
    assert "by_confidence" not in result.score and log.warnings == []
    assert len(result.rounds) == 1 and result.table[0].fold_sd > 0


def test_a_single_fold_has_no_spread_over_folds(tmp_path):
    fits = fits_of(tmp_path, {("x", 0): 2.0}, folds=[1])
    log = EventLog(tmp_path / "events.jsonl")
    result = blended(prepared_of(tmp_path, tested=False), ACCURACY, fits, log)
    stored = Predictions.load(result.folder / "oof_clean.npz")
    assert sorted(stored.sample_id.tolist()) == [i for i, f in zip(IDS, FOLDS, strict=True)
                                                 if f == 1]
    assert result.table[0].fold_sd is None and result.table[0].folds == 1


def test_folds_that_some_backbones_lack_are_left_out_and_said(tmp_path):
    fits = fits_of(tmp_path, {("x", 0): 2.0, ("y", 0): 2.0})
    del fits[FitSpec("y", 1, 0, 2)]
    refit = FitSpec("x", 1, 0, None)
    fits[refit] = finished(tmp_path, refit, {"test": {
        view: (TEST_IDS, answers(np.arange(N_TEST) % 3, 1.0, view)) for view in ("identity", "b")}})
    sources = {}
    for spec, fitted in fits.items():
        sources.setdefault(spec.name, []).append((spec.fold, fitted))
    log = EventLog(tmp_path / "events.jsonl")
    rows = rows_of(prepared_of(tmp_path), sources, log)
    assert sorted(rows.ids) == [i for i, f in zip(IDS, FOLDS, strict=True) if f < 2]
    assert log.warnings[0].startswith("scores and weights are those of 2 of 3 folds")
    number = [IDS.index(i) for i in rows.ids]
    assert rows.labels.tolist() == LABELS[number].tolist()
    assert rows.folds.tolist() == FOLDS[number].tolist()
    assert rows.groups.tolist() == rows.ids
    for name in ("r0-x-s1", "r0-y-s1"):
        for view, probs in rows.testlike[name].items():
            one = fits[FitSpec(name[3], 1, 0, 0)].views("valid")[view]
            mine = [i for i in rows.ids if FOLDS[IDS.index(i)] == 0]
            np.testing.assert_array_equal(probs[rows.folds == 0], one.align(mine))
    assert not log.warnings[1:]


def test_a_fit_is_judged_on_images_made_like_the_test_set(tmp_path):
    spec = FitSpec("x", 1, 0, 0)
    label_of = dict(zip(IDS, LABELS.tolist(), strict=True))
    right = np.eye(3, dtype=np.float32)[LABELS[:9]]
    wrong = np.roll(right, 1, axis=1)
    both = finished(tmp_path / "0", spec, {"valid": {"i": (IDS[:9], right)},
                                           "valid_testlike": {"i": (IDS[:9], wrong)}})
    plain = finished(tmp_path / "1", replace(spec, fold=1), {"valid": {"i": (IDS[:9], right)}})
    refit = finished(tmp_path / "2", replace(spec, fold=None), {"test": {"i": (IDS[:9], right)}})
    scores = FoldScores(label_of, ACCURACY)
    assert scores.of(both) == {"valid": 1.0, "valid_testlike": 0.0}
    assert [scores.goodness(each) for each in (both, plain, refit)] == [0.0, 1.0, 0]
    losses = FoldScores(label_of, METRICS["log_loss"])
    assert losses.goodness(both) < losses.goodness(plain) <= 0
    (both.predict_stage.folder / "valid.npz").unlink()
    assert scores.of(both)["valid"] == 1.0      # computed once


def test_grades_are_cut_by_thresholds_of_other_parts_also_on_images_as_they_are(tmp_path):
    """Where every grade is seen too low."""
    kappa = METRICS["quadratic_kappa"]
    fits = {}
    for fold in range(N_FOLDS):
        spec = FitSpec("x", 1, 0, fold)
        rows = np.flatnonzero(fold == FOLDS)
        splits = {}
        for split, scale in (("valid", 0.6), ("valid_testlike", 0.5)):
            noise = np.random.default_rng(seed_of(split, fold)).normal(0, 0.1, len(rows))
            seen = np.clip(scale * LABELS[rows] + noise, 0, 2)
            probs = np.maximum(1e-6, 1 - np.abs(seen[:, None] - np.arange(3)))
            splits[split] = {"identity": ([IDS[i] for i in rows],
                                          probs / probs.sum(1, keepdims=True))}
        fits[spec] = finished(tmp_path, spec, splits)
    prepared = prepared_of(tmp_path, ShiftReport(BLUR), tested=False)
    log = EventLog(tmp_path / "events.jsonl")
    result = blended(prepared, kappa, fits, log)
    assert len(result.blend.cuts) == 2 and result.score["oof_testlike"] > 0.8
    rows = rows_of(prepared, {"r0-x-s1": [(spec.fold, each) for spec, each in fits.items()]}, log)
    clean = Predictions.load(result.folder / "oof_clean.npz").align(rows.ids)
    cut = nested_cut(kappa, rows.labels, clean, rows.parts)
    assert result.score["oof_clean"] == kappa(rows.labels, cut) > kappa(rows.labels, clean) + 0.1
    low, high = result.score["oof_clean_ci90"]
    assert low <= result.score["oof_clean"] <= high


def test_a_run_has_the_method_and_the_seed_that_were_asked_for(tmp_path):
    fits = fits_of(tmp_path, {("x", 0): 1.0, ("y", 0): 1.0, ("x", 1): 1.0})

    def made(*settings):
        prepared = prepared_of(tmp_path, tested=False, settings=settings)
        result = blended(prepared, ACCURACY, fits, EventLog(tmp_path / "events.jsonl"))
        return result.blend.method, result.rounds[1]["change_ci90"], result.score

    greedy = made("ensemble.method=greedy", "seed=1")
    assert greedy[0] == "greedy" and greedy == made("ensemble.method=greedy", "seed=1")
    mean = made("ensemble.method=mean", "seed=1")
    other = made("ensemble.method=mean", "seed=2")
    assert mean[0] == other[0] == "mean"
    assert mean[1] != other[1] and mean[2]["oof_clean_ci90"] != other[2]["oof_clean_ci90"]


# ---------------------------------------------------------------- rounds

def test_a_round_that_does_harm_is_said_and_unused(tmp_path):
    fits = fits_of(tmp_path, {("x", 0): 3.0, ("x", 1): -2.0}, test_strength=2.0)
    log = EventLog(tmp_path / "events.jsonl")
    result = blended(prepared_of(tmp_path), ACCURACY, fits, log)
    first, second = result.rounds
    assert first["used"] and result.blend.weights == {"r0-x-s1": 1.0, "r1-x-s1": 0.0}
    assert second["distillation"] == 0.0 and second["pseudo_labels"] == {}
    assert second["agreement"] is None
    if not second["used"]:
        low, high = second["change_ci90"]
        assert high <= 0 and any(
            f"round 1 is not used for the submission: with it the blend's accuracy out of fold "
            f"changes by {second['change']:+.4f} ({low:+.4f} to {high:+.4f}" in text
            for text in log.warnings)
    assert [name for name, note in ((row.name, row.note) for row in result.table) if note] == [
        "r1-x-s1"]


def test_only_unused_rounds_are_said(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    used = SimpleNamespace(round=1, used=True, change=0.1, change_ci90=[0.0, 0.2])
    warn_of_rounds([used], ACCURACY, log)
    assert log.warnings == []
    warn_of_rounds([used, SimpleNamespace(round=2, used=False, change=-0.1,
                                          change_ci90=[-0.2, -0.05])], ACCURACY, log)
    assert len(log.warnings) == 1 and "-0.1000 (-0.2000 to -0.0500" in log.warnings[0]


def test_pseudo_labels_are_counted_by_fold_and_compared_with_the_round_before(tmp_path):
    taught = {(1, 0): "aab", (1, 1): "abb", (2, 0): "abb", (2, 1): "ab"}
    fits = {}
    for number, fold in [(0, 0), (0, 1), *taught]:
        spec = FitSpec("x", 1, number, fold)
        fits[spec] = finished(tmp_path, spec, {})
        labels = taught.get((number, fold), "")
        if labels:
            probs = np.eye(3)[[CLASSES.index(c) for c in labels]]
            save_pseudo_labels(Targets(TEST_IDS[:len(labels)], probs, np.ones(len(labels))),
                               CLASSES, fits[spec].result.folder / PSEUDO_LABELS)
    assert pseudo_labels(fits, 0, CLASSES) == {"pseudo_labels": {}, "agreement": None}
    # fold 0: t000 a, t001 a, t002 b; fold 1: a, b, b: a mean of 1.5 each
    assert pseudo_labels(fits, 1, CLASSES) == {
        "pseudo_labels": {"a": 1.5, "b": 1.5, "c": 0.0}, "agreement": None}
    # fold 0: t001 changed of three; fold 1: none of two
    assert pseudo_labels(fits, 2, CLASSES) == {
        "pseudo_labels": {"a": 1.0, "b": 1.5, "c": 0.0}, "agreement": pytest.approx(4 / 5)}


# ---------------------------------------------------------------- images made like the test set

class Pixels(list):
    def take(self, rows):
        return Pixels(self[i] for i in rows)


def test_images_made_like_the_test_set_are_distorted_by_the_policy_of_their_class():
    rng = np.random.default_rng(0)
    images = Pixels(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(6))
    ids = IDS[:6]
    train = Catalog(ids, [""] * 6, [""] * 6, [0, 1, 2] * 2, ids, CLASSES)
    dark = ShiftPolicy((Distortion("brightness", 1.0, 0.4, 0.5),))
    groups = (ClassGroup("document", "document", ("a", "b"), 4, policy=dark),
              ClassGroup("photo", "photo", ("c",), 2))
    config = build_config("quick_test", ["data.image_size_px=32"])
    prepared = SimpleNamespace(
        config=config, native_scale=1.0, shift=ShiftReport(groups=groups),
        audit=SimpleNamespace(train=train, train_pixels=images, test=Catalog([], [], [], [], [],
                                                                             CLASSES),
                              test_pixels=Pixels()),
        folds=Folds(ids, [0, 0, 0, 1, 1, 1], 2))

    def shown(split, fold):
        sample_id, pixels, transform = predicted_splits(prepared, FitSpec("x", 1, 0, fold))[split]
        dataset = ImageDataset(pixels, sample_id, transform, ("seed", split))
        return sample_id.tolist(), np.array([dataset[0, i][0] for i in range(len(dataset))])

    for fold in (0, 1):
        names, plain = shown("valid", fold)
        assert names == ids[3 * fold:3 * fold + 3]
        again, testlike = shown("valid_testlike", fold)
        assert again == names
        brightness = testlike.mean((1, 2, 3)) / plain.mean((1, 2, 3))
        assert (brightness[:2] < 0.75).all()
        np.testing.assert_array_equal(testlike[2], plain[2])
    assert predicted_splits(prepared, FitSpec("x", 1, 0, None)) == {}
    alike = SimpleNamespace(**vars(prepared) | {"shift": ShiftReport(groups=groups[1:])})
    assert list(predicted_splits(alike, FitSpec("x", 1, 0, 0))) == ["valid"]
