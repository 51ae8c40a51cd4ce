"""Frozen members: pretrained networks that are not trained, with a classifier in every fold."""
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.special import expit
from sklearn.metrics import r2_score, roc_auc_score

from config import Config, FitSpec, build_config, resolve
from contest.catalog import Catalog
from data_loader import load_folds
from grandmaster_train import main
from modeling import frozen
from modeling.frozen import STRENGTHS, few_enough, fit_heads
from modeling.inference import Features, Predictions
from modeling.network import forward_operations
from modeling.weights import WeightsSource
from running import pipeline
from running.export import export_onnx
from running.frozen import share
from running.networks import with_networks
from running.predictor import load_predictor
from running.prune import EARLIER, spare_folders
from running.stored import StoredFit, refuse_other_stages
from tests.conftest import darker, small_argv
from tests.kills import outcome
from tests.test_formats import FAST
from tests.test_tasks import pasture, submitted, xray
from utils import RunError, UserError, read_json, write_json

NAME = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with weights of the network: random ones, which count as pretrained."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(timm.create_model(NAME).state_dict(), folder / f"{NAME}.safetensors")
    return folder


def argv_of(contest, results, weights, *more, name="run"):
    return [*small_argv(contest, results, "model.pretrained=auto", f"model.frozen={NAME}", *more,
                        name=name), "--weights_dir", str(weights)]


@pytest.fixture(scope="module")
def blended(contest, weights, tmp_path_factory):
    """The folder of a run of a frozen member in 3 folds and the same network trained in one."""
    results = tmp_path_factory.mktemp("results")
    assert main(argv_of(contest, results, weights)) == 0
    return results / "run"


# ---------------------------------------------------------------- the classifiers

def rows(n=90, d=12, n_classes=3, spread=1.0):
    """(features (2, n, d), labels, folds): two noisy versions of each row."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    centres = spread * rng.standard_normal((n_classes, d))
    features = centres[labels] + rng.standard_normal((2, n, d))
    return features.astype(np.float32), labels, np.arange(n) // n_classes % 5


def even(labels):
    return np.ones(3)


def accuracy(heads, features, labels, folds):
    """Of each fold's rows by its own classifier."""
    right = [(features[0][folds == k] @ head.weight.T + head.bias).argmax(1) == labels[folds == k]
             for k, head in heads.items()]
    return np.concatenate(right).mean()


def test_nothing_of_a_folds_rows_reaches_its_classifier():
    features, labels, folds = rows()
    heads = fit_heads(features, labels, folds, even)
    for fold in (0, 3):
        others = features.copy()
        others[:, folds == fold] = 100.0
        changed = np.where(folds == fold, 0, labels)
        head = fit_heads(others, changed, folds, even)[fold]
        np.testing.assert_array_equal(head.weight, heads[fold].weight)
        assert head.strength == heads[fold].strength


def test_rows_that_are_always_trained_on_have_no_classifier_of_their_own(monkeypatch):
    features, labels, folds = rows()
    folds = folds - 1
    fitted = []
    fit_head = frozen.fit_head
    monkeypatch.setattr(frozen, "fit_head", lambda *args, layer: fitted.append(args[3]) or fit_head(
        *args, layer=layer))
    heads = fit_heads(features, labels, folds, even)
    assert list(heads) == [0, 1, 2, 3]
    assert not any(np.array_equal(own, folds != -1) for own in fitted)


def test_classifiers_know_what_features_tell_and_stay_at_chance_on_noise():
    features, labels, folds = rows(spread=2.0)
    assert accuracy(fit_heads(features, labels, folds, even), features, labels, folds) > 0.9
    shuffled = np.random.default_rng(1).permutation(labels)
    heads = fit_heads(features, shuffled, folds, even)
    chance = accuracy(heads, features, shuffled, folds)
    assert abs(chance - 1 / 3) < 3 * (1 / 3 * 2 / 3 / len(labels)) ** 0.5
    assert {head.strength for head in heads.values()} == {STRENGTHS[0]}      # the weakest


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_classifier_without_rows_of_a_class_finds_it_unlikely(n_classes):
    features, labels, folds = rows(n_classes=n_classes)
    folds[labels == 1] = 0      # no other fold holds the class
    head = fit_heads(features, labels, folds, even)[0]
    logits = features[0] @ head.weight.T + head.bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    probs = odds / odds.sum(1, keepdims=True)
    assert 0 < probs[:, 1].mean() < 0.05
    assert np.isfinite(probs).all()


def test_classifiers_of_sets_are_scikit_learns_one_by_one_and_stay_at_chance_on_noise():
    features, labels, folds = rows(n=150, spread=2.0)
    targets = np.stack([labels > 0, labels == 2, np.zeros(len(labels))], axis=1).astype(np.float32)
    heads = fit_heads(features, targets, folds, even, values="chances")
    chances = np.concatenate([expit(heads[k].logits(features[0][folds == k])) for k in range(5)])
    truth = np.concatenate([targets[folds == k] for k in range(5)])
    assert roc_auc_score(truth[:, :2], chances[:, :2]) > 0.9
    assert 0 < chances[:, 2].max() < 0.02      # a class that no image has
    shuffled = np.random.default_rng(1).permutation(targets)
    heads = fit_heads(features, shuffled, folds, even, values="chances")
    chances = np.concatenate([expit(heads[k].logits(features[0][folds == k])) for k in range(5)])
    truth = np.concatenate([shuffled[folds == k] for k in range(5)])
    assert roc_auc_score(truth[:, :2], chances[:, :2]) < 0.6


def test_layers_of_numbers_answer_in_their_units_and_know_nothing_of_noise():
    features, _, folds = rows(n=150)
    own = features[0] @ np.ones((12, 1)) * 30 + 500
    targets = np.hstack([own, np.full_like(own, 7)]).astype(np.float32)      # one is constant
    heads = fit_heads(features[:1], targets, folds, even, values="numbers")
    said = np.concatenate([heads[k].logits(features[0][folds == k]) for k in range(5)])
    truth = np.concatenate([targets[folds == k] for k in range(5)])
    assert r2_score(truth[:, 0], said[:, 0]) > 0.95
    np.testing.assert_allclose(said[:, 1], 7, rtol=1e-4)
    shuffled = np.random.default_rng(1).permutation(targets)
    heads = fit_heads(features[:1], shuffled, folds, even, values="numbers")
    said = np.concatenate([heads[k].logits(features[0][folds == k]) for k in range(5)])
    assert r2_score(np.concatenate([shuffled[folds == k] for k in range(5)])[:, 0],
                    said[:, 0]) < 0.05


@pytest.mark.parametrize("layout", [xray, pasture], ids=lambda layout: layout.__name__)
def test_a_frozen_member_of_sets_and_of_numbers_is_predicted_as_the_run_did(layout, weights,
                                                                            tmp_path, capsys):
    asked = layout(tmp_path / "contest")
    argv = argv_of(tmp_path / "contest", tmp_path, weights, *FAST, "model.backbones=")
    assert main([*argv, *asked.flags]) == 0
    final = read_json(tmp_path / "run" / "final_results.json")
    assert len(final["sources"]) == 1
    submitted(tmp_path / "run", final, asked, 10)
    test = Predictions.load(tmp_path / "run" / final["predictions"]["test"])
    predictor = load_predictor(tmp_path / "run", Config())
    catalog = Catalog.of([{"sample_id": i, "path": str(tmp_path / "contest/test" / i)}
                          for i in test.sample_id.tolist()], predictor.classes)
    said, _ = predictor.predict(catalog)
    np.testing.assert_allclose(said.align(test.sample_id.tolist()), test.probs, rtol=1e-3,
                               atol=1e-4)


def test_features_are_found_by_id():
    values = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    features = Features(np.array(["a", "b", "c"]), ("identity",), values)
    np.testing.assert_array_equal(features.of(["c", "a"]), values[:, [2, 0]])
    with pytest.raises(RunError, match="1 are missing \\(first 'x'\\)"):
        features.of(["a", "x"])


# ---------------------------------------------------------------- a run with one

def test_a_frozen_member_has_every_fold_and_is_blended_with_what_is_trained(blended):
    final = read_json(blended / "final_results.json")
    frozen, trained = final["sources"]
    assert (frozen["name"], frozen["folds"]) == (f"frozen-{NAME}-s42", 3)
    assert (trained["name"], trained["folds"]) == (f"r0-{NAME}-s42", 1)
    assert frozen["weight"] + trained["weight"] == pytest.approx(1)
    assert final["warnings"] == []
    page = (blended / "report.html").read_text()
    assert f"frozen-{NAME}-s42" in page


def test_what_is_counted_as_fits_was_trained_and_frozen_members_are_named_apart(blended):
    assert read_json(blended / "final_results.json")["n_fits"] == 1
    page = (blended / "report.html").read_text()
    assert "1 fit(s), trained in" in page
    assert f"beside frozen-{NAME}-s42, of which only a classifier is trained" in page
    assert f"1 of 1 fit(s) and the folds of frozen-{NAME}-s42: time" in page
    epochs = re.findall(rf"<td>(frozen|r0)-{NAME}-s42</td>.*?</td><td class=\"n\">(.*?)</td>", page)
    assert epochs[:4] == [("frozen", "-")] * 3 + [("r0", "2")]
    legend = re.search(r"Fold:(.*?)\. Dashed", page)[1]
    assert legend.count("class=\"key\"") == 1      # of folds that have curves


@pytest.mark.parametrize(("backbone", "stages", "is_refused"), [
    (NAME, None, False), ("vit_tiny_patch16_224", None, True),
    ("vit_tiny_patch16_224", (5, 8), False), ("vit_tiny_patch16_224", (10, 11), True)])
def test_a_classifier_made_for_other_layers_is_refused(backbone, stages, is_refused):
    """stages: as model.json says, None of an older run."""
    spec = FitSpec(backbone, 42, 0, 0, frozen=True)
    fit = StoredFit(WeightsSource(backbone, "random"), None, Path("w"), None, stages=stages)
    run = SimpleNamespace(fits={spec: fit}, folder=Path("runs"))
    if not is_refused:
        return refuse_other_stages(run)
    with pytest.raises(UserError, match=r"older version.*run the run's training command again"):
        refuse_other_stages(run)


def test_the_layers_that_a_classifier_reads_are_kept(blended):
    frozen_fit, *_ = (fit for fit in read_json(blended / "model.json")["fits"]
                      if fit["spec"]["frozen"])
    assert len(frozen_fit["stages"]) == 2


def test_a_folds_rows_come_from_its_own_classifier(blended, contest):
    folds = load_folds(next(blended.glob("folds-*/folds.csv")))
    for fold in range(3):
        folder, = blended.glob(f"fold_{fold}/predict-frozen-*")
        valid = Predictions.load(folder / "valid.npz")
        assert set(valid.sample_id) == set(folds.sample_id[folds.valid_rows(fold)])
        assert valid.sources == (f"frozen-{NAME}-s42-fold{fold}",)


def test_new_images_are_predicted_as_the_run_predicted_its_own(blended, contest):
    predictor = load_predictor(blended, Config())
    stored = Predictions.load(next(blended.glob("ensemble-*/test.npz")))
    ids = stored.sample_id.tolist()
    paths = [str(Path(contest) / "test" / name) for name in ids]
    none = [""] * len(ids)
    catalog = Catalog(ids, paths, none, [-1] * len(ids), none, predictor.classes)
    found, _ = predictor.predict(catalog)
    assert any(spec.frozen for spec in predictor.fits)
    np.testing.assert_allclose(found.align(ids), stored.probs, atol=1e-5)


def test_the_onnx_model_of_a_frozen_fit_gives_what_torch_gives(blended, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    predictor = load_predictor(blended, Config())
    frozen = {spec: fit for spec, fit in predictor.fits.items() if spec.frozen}
    said = export_onnx(replace(predictor, fits=frozen).fast(), tmp_path / "frozen.onnx")
    assert re.search("probabilities as torch's to [0-9.e-]+$", said)


def test_without_backbones_nothing_is_trained_and_every_row_counts(contest, weights, tmp_path,
                                                                   capsys):
    argv = argv_of(contest, tmp_path, weights, "model.backbones=")
    assert main([*argv, "--dry_run"]) == 0
    assert f"frozen-{NAME}-s42  3 folds without training" in capsys.readouterr().out
    assert main(argv) == 0
    assert not list(tmp_path.glob("run/fold_*/*r0-*"))
    oof = Predictions.load(next(tmp_path.glob("run/ensemble-*/oof_clean.npz")))
    assert len(oof.sample_id) == 36
    assert len((tmp_path / "run/submission_run.csv").read_text().splitlines()) == 11
    assert main([*argv, "--dry_run"]) == 0
    assert "before all fits: done" in capsys.readouterr().out


def test_a_frozen_member_needs_pretrained_weights(contest, tmp_path, capsys):
    argv = [*small_argv(contest, tmp_path, f"model.frozen={NAME}")]
    assert main(argv) == 2
    assert (f"none were found for {NAME} (model.pretrained=off): put them as {NAME}.safetensors"
            in capsys.readouterr().err)


def test_where_test_images_differ_a_classifier_also_learns_from_images_made_like_them(
    contest, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr("running.preparing.match_shift", darker)
    assert main(argv_of(contest, tmp_path, weights, "model.backbones=",
                        "augment.policy=matched")) == 0
    read = {path.stem: Features.load(path) for path in tmp_path.glob("run/frozen/*/*.npz")
            if path.stem != "heads"}
    assert {name: each.values.shape[:2] for name, each in read.items()} == {
        "valid": (2, 36), "valid_testlike": (2, 36), "augmented": (1, 36), "test": (2, 10)}
    with np.load(next(tmp_path.glob("run/frozen/heads-*/heads.npz"))) as heads:
        # the network's own features and the means of its last two stages
        assert heads["weight"].shape == (3, 3, 1024 + 24 + 288) == (
            3, 3, read["valid"].values.shape[2])
    testlike = Predictions.load(next(tmp_path.glob("run/fold_0/predict-*/valid_testlike.npz")))
    plain = Predictions.load(next(tmp_path.glob("run/fold_0/predict-*/valid.npz")))
    assert np.abs(testlike.align(plain.sample_id.tolist()) - plain.probs).max() > 1e-3


def test_of_very_many_rows_a_classifier_sees_as_many_of_each_class(monkeypatch):
    labels = np.repeat([0, 1, 2], [5, 400, 600])
    rng = np.random.default_rng(0)
    assert few_enough(labels, 2, 3, rng).tolist() == list(range(1005))
    monkeypatch.setattr("modeling.frozen.MOST_CELLS", 6 * 205)
    kept = few_enough(labels, 2, 3, rng)
    assert np.bincount(labels[kept]).tolist() == [5, 100, 100] and np.all(np.diff(kept) > 0)


def test_the_folds_of_a_frozen_member_share_one_network_on_the_disk(blended):
    files = list(blended.glob("fold_*/frozen-*/shared.safetensors"))
    assert len(files) == 3 and len({file.stat().st_ino for file in files}) == 1
    small = [file.stat().st_size for file in blended.glob("fold_*/frozen-*/weights.safetensors")]
    assert max(small) < files[0].stat().st_size / 10


def test_prune_offers_what_frozen_members_of_earlier_settings_left(blended, tmp_path):
    run = shutil.copytree(blended, tmp_path / "run")
    earlier = shutil.copytree(next(run.glob(f"frozen/{NAME}-*")), run / f"frozen/{NAME}-0000")

    def offered():
        return [spare.folder for spare in spare_folders(run) if spare.reason == EARLIER]

    assert offered() == [earlier]
    # a run of a version that did not keep what its members read
    record = read_json(run / "environment.json")
    [maker] = record["made_by"]
    maker["stages"] = [name for name in maker["stages"] if not name.startswith("frozen/")]
    write_json(run / "environment.json", record)
    assert offered() == []
    # a run without members has no use for any
    maker["stages"] = [name for name in maker["stages"] if "/frozen-" not in name]
    write_json(run / "environment.json", record)
    assert set(offered()) >= {earlier, *run.glob("frozen/*")}


def test_within_a_budget_only_members_that_take_a_quarter_of_it_follow_the_first(
    contest, two, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("running.frozen.BUDGET_SHARE", 1e-6)
    argv = argv_of(contest, tmp_path / "results", two, "model.frozen=auto", "optim.epochs=4")
    assert main([*argv, "--time_budget", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "mobilenetv3_small_075 left out of the networks that are read without training" in said
    final = read_json(tmp_path / "results/run/final_results.json")
    assert [source["name"] for source in final["sources"]] == [f"frozen-{NAME}-s42",
                                                               f"r0-{NAME}-s42"]


# ---------------------------------------------------------------- the first minute

def networks(weights, *settings):
    config = build_config("quick_test", ["model.frozen=auto", *settings],
                          {"runtime.weights_dir": str(weights)})
    config = resolve(config, gpu_memory_bytes=0, n_train=100)
    found = with_networks(config, 100, 100)
    return found.config, found.weights


def test_auto_takes_what_is_trained_or_lies_there_with_pretrained_weights(weights):
    config, sources = networks(weights, f"model.backbones=resnet10t,{NAME}")
    assert config.model.frozen == (NAME,) and list(sources) == ["resnet10t", NAME]
    assert networks(weights, "model.backbones=resnet10t")[0].model.frozen == (NAME,)
    off = networks(weights, f"model.backbones={NAME}", "model.pretrained=off")
    assert off[0].model.frozen == ()


def test_auto_without_backbones_takes_the_first_family_with_pretrained_weights(weights, tmp_path):
    with pytest.raises(UserError, match="none were found for tf_efficientnetv2_b0, convnext_atto"):
        networks(tmp_path, "model.backbones=")
    for name in ("vit_tiny_patch16_224", "convnext_atto"):
        (tmp_path / f"{name}.pth").touch()
    config, sources = networks(tmp_path, "model.backbones=")
    assert config.model.frozen == ("convnext_atto",) == tuple(sources)


def test_auto_takes_what_lies_in_the_folder_if_no_family_has_weights(weights):
    config, _ = networks(weights, "model.backbones=")
    assert config.model.frozen == (NAME,)


@pytest.fixture
def two(weights, tmp_path):
    """A folder with the weights of two networks, and a file that holds none."""
    for file in weights.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    save_file(timm.create_model("mobilenetv3_small_075").state_dict(),
              tmp_path / "mobilenetv3_small_075.safetensors")
    (tmp_path / "resnet10t.pth").write_bytes(b"not weights")
    return tmp_path


def at_hand(folder, *settings, n_train=100, n_test=100):
    config = build_config("quick_test", [f"model.backbones={NAME}", "data.image_size_px=64",
                                         *settings], {"runtime.weights_dir": str(folder)})
    return with_networks(resolve(config, gpu_memory_bytes=0, n_train=n_train), n_train, n_test)


def test_networks_at_hand_are_read_as_long_as_they_take_less_than_training(two):
    assert at_hand(two).config.model.frozen == (NAME, "mobilenetv3_small_075")
    short = at_hand(two, "optim.epochs=1")
    assert short.config.model.frozen == (NAME,)
    assert short.too_long == ("mobilenetv3_small_075", "resnet10t")
    named = at_hand(two, "optim.epochs=1", "model.frozen=auto,mobilenetv3_small_075")
    assert named.config.model.frozen == (NAME, "mobilenetv3_small_075")
    large = at_hand(two, n_train=40_000, n_test=20_000)
    assert large.config.model.frozen == () and "more than 50000 images" in large.left_out[0]


def test_a_network_is_loaded_only_once_its_time_is_known(two, monkeypatch):
    built = []
    monkeypatch.setattr("running.networks.build_network", lambda name, **_: built.append(name))
    assert at_hand(two, "optim.epochs=1").too_long == ("mobilenetv3_small_075", "resnet10t")
    assert built == []


def test_a_file_is_read_under_one_name(two):
    tagged = two / "mobilenetv3_small_075.lamb_in1k.safetensors"
    (two / "mobilenetv3_small_075.safetensors").rename(tagged)
    found = at_hand(two, "model.backbones=mobilenetv3_small_075.lamb_in1k").config.model.frozen
    assert found == ("mobilenetv3_small_075.lamb_in1k", NAME)


@pytest.mark.parametrize("name", ["pit_ti_224", "cait_xxs24_224"])
def test_a_network_that_takes_parameters_as_images_can_be_counted(name):
    assert forward_operations(name, 224) > 1e9


def test_a_weights_folder_that_does_not_exist_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="--weights_dir must be an existing folder, got"):
        at_hand(tmp_path / "none")
    assert at_hand(tmp_path / "none", "model.pretrained=off").config.model.frozen == ()


def test_a_network_that_was_half_kept_is_kept_again(tmp_path):
    source = tmp_path / "a"
    source.write_bytes(b"network")
    for _ in range(2):
        share(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"network"


def test_a_file_at_hand_that_holds_no_weights_is_left_out_and_named(two):
    said, = at_hand(two).left_out
    assert said.startswith(f"resnet10t lies in {two} and is left out of the networks that are read "
                           "without training: the weights file")


def test_weights_that_a_contest_may_not_allow_are_not_read_unless_they_are_named(two):
    (two / "resnet10t.pth").rename(two / "convnextv2_atto.pth")
    said, = at_hand(two).left_out
    assert "convnextv2_atto lies in" in said and "NOT FOR COMMERCIAL USE" in said


def test_a_submission_and_an_expected_score_are_there_before_anything_is_trained(
    contest, weights, tmp_path, monkeypatch, capsys
):
    def interrupted(*args):
        args[4].show({}, [])      # the page
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_rounds", interrupted)
    argv = argv_of(contest, tmp_path, weights, "model.frozen=auto")
    assert main(argv) == 130
    said = capsys.readouterr().out
    assert f"first look by frozen-{NAME}-s42, nothing trained yet: macro_f1 expected 0." in said
    assert len((tmp_path / "run/submission_run.csv").read_text().splitlines()) == 11
    page = (tmp_path / "run/report.html").read_text()
    assert f"First look by frozen-{NAME}-s42, before any training" in page
    assert not (tmp_path / "run/final_results.json").exists()


def test_the_first_look_leaves_the_submission_of_a_finished_run(blended, contest, weights,
                                                                monkeypatch):
    monkeypatch.setattr(pipeline, "run_rounds", lambda *_: (_ for _ in ()).throw(
        KeyboardInterrupt))
    submission = blended / "submission_run.csv"
    before = submission.stat().st_mtime_ns
    assert main(argv_of(contest, blended.parent, weights)) == 130
    assert submission.stat().st_mtime_ns == before


def test_a_frozen_member_that_is_interrupted_ends_with_the_same_bytes(contest, weights, tmp_path,
                                                                      monkeypatch):
    """While features, classifiers, a network and predictions become final, in turn."""
    argv = argv_of(contest, tmp_path, weights, "model.backbones=", "data.n_folds=2", name="whole")
    assert main(argv) == 0
    argv[argv.index("whole")] = "cut"
    left = [f"/{NAME}-", "/heads-", "fold_0/frozen-", "fold_1/predict-frozen-"]
    real = os.replace

    def cut(source, target):
        if left and left[0] in str(target) and Path(source).is_dir():
            del left[0]
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", cut)
    for _ in range(4):
        assert main(argv) == 130
    assert main(argv) == 0 and not left
    whole = outcome(tmp_path / "whole")
    assert any("frozen" in str(name) for name in whole)
    assert outcome(tmp_path / "cut") == whole


def test_a_frozen_member_teaches_in_a_later_round_and_a_second_start_makes_nothing_anew(
    contest, weights, tmp_path, capsys
):
    argv = argv_of(contest, tmp_path, weights, "data.n_folds=2", "data.run_folds=2", "rounds=2",
                   "rounds.min_confidence=0", "optim.epochs=1")
    assert main(argv) == 0
    said = capsys.readouterr().out
    teachers = set(re.findall("fold ([01]): [0-9]+ of 10 test images as pseudo-labels of (.*) at",
                              said))
    assert {fold for fold, _ in teachers} == {"0", "1"}
    assert any(f"frozen-{NAME}-s42" in names for _, names in teachers)
    whole = outcome(tmp_path / "run")
    assert main(argv) == 0
    assert capsys.readouterr().out.count(": done before") == 4
    assert outcome(tmp_path / "run") == whole
