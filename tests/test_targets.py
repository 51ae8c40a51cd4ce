import math
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from config import FitSpec, Round, build_config
from data_loader import Targets
from ensemble.teachers import (
    able,
    distillers,
    load_pseudo_labels,
    pseudo_targets,
    save_pseudo_labels,
    teachers_temperature,
    within_quota,
)
from modeling.compute import Compute
from modeling.inference import Predictions
from modeling.train import FitResult
from running.fits import FitJob, able_teachers, taught_targets, warm_start
from running.plan import UNKNOWN
from running.rounds import frozen_specs, read_by, teachers_of
from running.run import Fitted, Prepared
from system.stages import Stage
from utils import RunError

IDS = np.array(["t0", "t1", "t2", "t3"])


def teacher(first):
    first = np.array(first, np.float32)
    return Predictions(IDS, np.stack([first, 1 - first], 1), ("a", "b"), "test", ("m",))


TEACHERS = [teacher([0.99, 0.9, 0.02, 0.6]), teacher([0.97, 1.0, 0.04, 0.4])]


def test_sure_and_agreed_rows_are_kept_with_their_confidence():
    targets = pseudo_targets(TEACHERS, Round(unlabelled=True, min_confidence=0.95), fold=2)
    assert targets.sample_id.tolist() == ["t0", "t1", "t2"]
    np.testing.assert_allclose(targets.weight, [0.98, 0.95, 0.97], atol=1e-6)
    disagreed = pseudo_targets(TEACHERS, Round(unlabelled=True, min_confidence=0.0), fold=2)
    assert disagreed.sample_id.tolist() == ["t0", "t1", "t2"]


def test_targets_of_one_fold_are_refused_by_another():
    targets = pseudo_targets(TEACHERS, Round(unlabelled=True), fold=2)
    assert targets.for_fold(2) is targets
    with pytest.raises(RunError, match=r"fold 1 .*blind to fold 2"):
        targets.for_fold(1)
    assert Targets(IDS[:1], np.array([[1.0, 0.0]]), np.ones(1)).for_fold(1)


def test_a_fit_is_distilled_from_the_other_backbones_of_its_own_fold():
    student, (a, b, c) = FitSpec("a", 42, 1, 2), (FitSpec(name, 42, 0, 2) for name in "abc")
    assert distillers(student, [a, b, c]) == distillers(student, [a, b, c], 2) == [b, c]
    assert distillers(student, [a, b, c], 1) == [b]
    assert distillers(student, [a]) == [a] and distillers(student, []) == []
    with pytest.raises(RunError,
                       match=r"r1-a-s42 fold 2 must be fits of fold 2, .*got r0-b-s42 of fold 1"):
        distillers(student, [FitSpec("b", 42, 0, 1), c])
    everything = FitSpec("a", 42, 1, None)
    assert distillers(everything, [FitSpec("b", 42, 0, None)]) == [FitSpec("b", 42, 0, None)]


def test_a_fold_is_taught_by_its_own_models_and_a_refit_by_those_of_all_folds():
    config = build_config("full_training", ["model.backbones=vit,swin", "data.run_folds=2",
                                            "rounds=2", "model.frozen="])
    student = FitSpec("vit", 42, 1, 1)
    assert teachers_of(config, student) == [FitSpec("vit", 42, 0, 1), FitSpec("swin", 42, 0, 1)]
    assert teachers_of(config, replace(student, round=0)) == []
    refit, of_all = replace(student, fold=None), [FitSpec(b, 42, 0, fold) for fold in (0, 1, None)
                                                  for b in ("vit", "swin")]
    assert teachers_of(config, refit) == of_all
    assert teachers_of(config, refit, of_all[1:4]) == of_all[1:4]
    assert distillers(refit, of_all, 2) == [FitSpec("swin", 42, 0, 0), FitSpec("swin", 42, 0, 1)]


def weights_in(folder, network):
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return FitResult(FitSpec("a", 42, 0, 1), folder, ({"loss": 1.0},), 1.0, 0, 0)


class Said(list):
    """A log of which only warnings are kept."""

    warn = list.append


def job_of(config, spec, before):
    """A FitJob as far as its warm start reads it."""
    prepared = Prepared(config, None, None, None, None, {}, {}, None)
    return FitJob(spec, prepared, Compute(), UNKNOWN, before, None, 1, math.inf, "fit 1/1")


def test_a_warm_start_has_the_weights_of_the_same_fit_of_the_round_before(tmp_path):
    config = build_config("full_training", ["rounds=2", "rounds.warm_start=on"])
    said, first = Said(), torch.nn.Linear(3, 2)
    student, before = FitSpec("a", 42, 1, 1), FitSpec("a", 42, 0, 1)
    other = weights_in(tmp_path / "other", torch.nn.Linear(3, 2))
    fitted = {before: Fitted(weights_in(tmp_path / "own", first), None, Compute()),
              replace(before, fold=0): Fitted(other, None, Compute())}
    network = torch.nn.Linear(3, 2)
    warm_start(job_of(config, student, fitted), network, said)
    assert torch.equal(network.weight, first.weight) and said == []
    network, cold = torch.nn.Linear(3, 2), replace(config, rounds=(Round(), Round(alpha=0.5)))
    own = network.weight.clone()
    warm_start(job_of(cold, student, fitted), network, said)
    warm_start(job_of(config, replace(student, fold=2), fitted), network, said)
    assert torch.equal(network.weight, own)
    assert said == [
        "r1-a-s42 fold 2 begins like the first round: there is no r0-a-s42 of that fold"]


def test_a_fit_that_runs_elsewhere_carries_what_it_reads_and_no_more(tmp_path):
    """Its teachers, those that calibrate them, the fit that it begins with; of two rounds before
    nothing but frozen members. What it carries can be pickled."""
    config = build_config("full_training", ["model.backbones=vit,swin", "data.run_folds=2",
                                            "rounds=3", "rounds.warm_start=on",
                                            "model.frozen=lite"])
    specs = [FitSpec(backbone, 42, number, fold) for number in (0, 1) for fold in (0, 1)
             for backbone in ("vit", "swin")]
    specs += frozen_specs(config)
    fitted = {spec: Fitted(FitResult(spec, tmp_path, (), 0.0, 0, 0),
                           Stage("predict", "", tmp_path), Compute()) for spec in specs}
    student = FitSpec("vit", 42, 2, 1)
    before = read_by(config, student, fitted)
    assert set(before) == {spec for spec in specs
                           if spec.round == 1 or (spec.frozen and spec.fold in (0, 1))}
    job = job_of(config, student, before)
    assert pickle.loads(pickle.dumps(job)) == job
    alone = build_config("full_training", ["model.backbones=vit,swin", "data.run_folds=2"])
    assert read_by(alone, FitSpec("vit", 42, 0, 1), fitted) == {}


def test_teachers_too_sure_of_other_folds_images_are_calibrated_before_they_teach():
    rng = np.random.default_rng(0)
    ids = np.array([f"v{i:03}" for i in range(400)])
    first = rng.random(400).astype(np.float32)
    label_of = {i: int(rng.random() > p) for i, p in zip(ids.tolist(), first, strict=True)}
    # three times as sure as is right
    odds = (first / (1 - first)) ** 3
    sure = (odds / (1 + odds)).astype(np.float32)
    valid = Predictions(ids, np.stack([sure, 1 - sure], 1), ("a", "b"), "valid", ("m",))
    assert teachers_temperature([[valid, valid]], label_of) == pytest.approx(3, abs=0.6)
    assert teachers_temperature([], label_of) == 1.0
    round_ = Round(unlabelled=True, min_confidence=0.95, class_quota=0.0)
    assert pseudo_targets(TEACHERS, round_, 2, temperature=3.0).sample_id.tolist() == []


def test_a_teacher_that_knows_little_is_not_heard_and_equals_are():
    rng = np.random.default_rng(0)
    ids, labels = np.array([f"v{i:03}" for i in range(300)]), rng.integers(0, 3, 300)
    label_of = dict(zip(ids.tolist(), labels.tolist(), strict=True))

    def predictions(share_right, seed):
        noise = np.random.default_rng(seed)
        said = np.where(noise.random(300) < share_right, labels, noise.integers(0, 3, 300))
        return Predictions(ids, (np.eye(3)[said] * 0.7 + 0.1).astype(np.float32), ("a", "b", "c"),
                           "valid", ("m",))

    fold = {"good": predictions(0.8, 1), "poor": predictions(0.05, 2), "equal": predictions(0.8, 3)}
    assert able(["good", "poor", "equal"], [fold], label_of) == ["good", "equal"]
    assert able(["poor", "good"], [fold, {"good": fold["good"]}], label_of) == ["good"]
    # no other fold has both
    assert able(["poor", "good"], [], label_of) == ["poor", "good"]
    assert able(["poor", "good"], [{"good": fold["good"]}], label_of) == ["poor", "good"]
    assert able(["poor"], [fold], label_of) == ["poor"] and able([], [fold], label_of) == []


def test_an_easy_class_does_not_swamp_the_others():
    probs = np.array([[0.99, 0.01, 0.0]] * 40 + [[0.01, 0.98, 0.01]] * 4 + [[0.3, 0.4, 0.3]] * 36
                     + [[0.0, 0.03, 0.97]] * 8)
    probs[:40, 0] += np.linspace(0, 0.009, 40)
    keep = probs.max(1) > 0.9
    kept = within_quota(probs, keep, quota=1.0)
    counts = np.bincount(probs[keep & kept].argmax(1), minlength=3)
    assert counts[1] == 4 and counts[2] == 8 and counts[0] < 30
    assert kept[39] and not kept[0]                                    # the surest stay
    assert (keep & within_quota(probs, keep, quota=100.0)).sum() == keep.sum()


def test_pseudo_labels_are_found_again_by_id(tmp_path):
    targets = pseudo_targets(TEACHERS, Round(unlabelled=True), fold=2)
    save_pseudo_labels(targets, ("a", "b, c"), tmp_path / "p.csv")
    assert load_pseudo_labels(tmp_path / "p.csv") == {"t0": "a", "t1": "a", "t2": "b, c"}
    assert load_pseudo_labels(tmp_path / "none.csv") == {}


def kept_by_hand(probs, keep, quota):
    """As `within_quota` says it: class by class, the surest first."""
    winner = probs.argmax(1)
    shares = {c: (keep & (winner == c)).sum() / probs[:, c].sum() for c in range(probs.shape[1])}
    median = np.median([share for share in shares.values() if share > 0])
    kept = set()
    for c in range(probs.shape[1]):
        most = math.ceil(quota * median * probs[:, c].sum())
        mine = [i for i in np.argsort(-probs.max(1), kind="stable").tolist()
                if keep[i] and winner[i] == c]
        kept |= set(mine[:most])
    return kept


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quota", [0.7, 1.0, 1.5])
def test_no_class_gives_more_than_its_quota_and_gives_its_surest(seed, quota):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet([2.0, 0.5, 0.3, 0.2, 0.0001], 120)
    keep = probs.max(1) > 0.8
    keep &= probs.argmax(1) != 3
    if seed == 1:
        keep &= (probs.argmax(1) != 1) | (np.arange(120) == np.argmax(probs[:, 1]))   # one alone
    kept = np.flatnonzero(keep & within_quota(probs, keep, quota)).tolist()
    assert set(kept) == kept_by_hand(probs, keep, quota) and 0 < len(kept) <= keep.sum()


def test_where_nothing_is_sure_nothing_is_kept():
    keep = np.zeros(4, bool)
    assert not within_quota(np.full((4, 3), 1 / 3), keep, 1.0).any()


def test_pseudo_labels_are_sure_agreed_and_within_the_quota():
    first = [0.999, 0.995, 0.99, 0.98, 0.97, 0.03, 0.6]
    ids = np.array([f"t{i}" for i in range(7)])
    teachers = [Predictions(ids, np.stack([p, 1 - p], 1).astype(np.float32), ("a", "b"), "test",
                            ("m",)) for p in (np.array(first), np.array([*first[:6], 0.3]))]

    def taught(**settings):
        round_ = Round(unlabelled=True, **settings)
        return pseudo_targets(teachers, round_, fold=1)

    free = taught(min_confidence=0.95, class_quota=0.0)
    assert free.sample_id.tolist() == ["t0", "t1", "t2", "t3", "t4", "t5"]
    assert free.blind_fold == 1 and free.taught
    np.testing.assert_allclose(free.weight, free.probs.max(1))
    np.testing.assert_allclose(free.probs[:, 0], first[:6], atol=1e-6)
    # class b: one of 1.5 expected images; class a: five of 5.4, so a quota of 0.5 leaves 3
    few = taught(min_confidence=0.95, class_quota=0.5)
    assert few.sample_id.tolist() == ["t0", "t1", "t2", "t5"]
    # a quota that is never reached lets in no row that is not sure
    ample = taught(min_confidence=0.95, class_quota=99.0)
    assert ample.sample_id.tolist() == free.sample_id.tolist()
    # of t6 one teacher says a, the other b
    assert len(taught(min_confidence=0.5, min_agreement=0.6, class_quota=0.0)) == 6
    assert len(taught(min_confidence=0.5, min_agreement=0.5, class_quota=0.0)) == 7


def test_pseudo_labels_are_a_table_of_ids_classes_and_confidences(tmp_path):
    targets = Targets(["=t0", "t1"], [[0.25, 0.75], [1.0, 0.0]], [0.75, 1.0])
    save_pseudo_labels(targets, ("a", "+b"), tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "sample_id,class,confidence", "'=t0,'+b,0.750000", "t1,a,1.000000"]
    assert load_pseudo_labels(tmp_path / "p.csv") == {"=t0": "+b", "t1": "a"}


def test_every_teacher_that_saw_the_labels_is_named():
    student = FitSpec("a", 42, 1, 2)
    with pytest.raises(RunError, match=r"got r0-b-s42 of fold 1, r0-c-s42 of fold None: this"):
        distillers(student, [FitSpec("b", 42, 0, 1), FitSpec("c", 42, 0, None)])


# ---------------------------------------------------------------- frozen members as teachers

def fitted_in(folder, spec, answers):
    """A Fitted that says answers["valid"] of its fold's images and answers["test"] of test images,
    {split: {sample id: class}}, with a probability of 0.98."""
    folder.mkdir(exist_ok=True)
    for split, class_of in answers.items():
        probs = np.eye(3, dtype=np.float32)[list(class_of.values())] * 0.97 + 0.01
        Predictions(np.array(list(class_of)), probs, ("a", "b", "c"), split,
                    (spec.name,)).save(folder / f"{split}.npz")
    return Fitted(FitResult(spec, folder, (), 0.0, 0, 0), Stage("predict", "", folder), Compute())


@pytest.fixture
def taught_job(tmp_path):
    """taught_job(settings, shares right of {name: share}) -> a FitJob of round 1, fold 0.

    Six test images; the member of fold k says that all are of class k.
    """
    rng = np.random.default_rng(0)
    known = {f"v{k}-{i:02}": int(rng.integers(3)) for k in (0, 1) for i in range(60)}

    def make(right, *settings):
        config = build_config("full_training", ["model.backbones=vit", "data.run_folds=2",
                                                "rounds=2", "model.frozen=lite", *settings])
        specs = [FitSpec("vit", 42, 0, 0), FitSpec("vit", 42, 0, 1), *frozen_specs(config)]
        before = {}
        for spec in specs:
            if spec.fold > 1 or (spec.fold >= config.data.run_folds and spec.is_trained):
                continue
            own = {i: label if rng.random() < right[spec.backbone] else int(rng.integers(3))
                   for i, label in known.items() if i.startswith(f"v{spec.fold}")}
            before[spec] = fitted_in(tmp_path / spec.title, spec, {
                "valid": own, "test": {f"t{i}": spec.fold for i in range(6)}})
        audit = SimpleNamespace(test=range(6))
        prepared = Prepared(config, None, audit, None, None, {}, {}, None)
        prepared.__dict__["known_of"] = known
        student = FitSpec("vit", 42, 1, 0)
        return FitJob(student, prepared, Compute(), UNKNOWN, before, None, 1, math.inf, "fit 1/1")

    return make


class Heard(list):
    """A log of all that it is told."""

    say = warn = list.append


def test_a_frozen_member_of_the_same_fold_teaches_by_pseudo_labels(taught_job):
    job = taught_job({"vit": 0.8, "lite": 0.8}, "rounds.min_confidence=0.5")
    log = Heard()
    teachers, temperature = able_teachers(job, job.before)
    assert teachers == [FitSpec("vit", 42, 0, 0), FitSpec("lite", 42, 0, 0, frozen=True)]
    taught = taught_targets(job, teachers, temperature, log)
    # those of fold 1 say class 1: they saw the labels of fold 0
    assert taught.probs.argmax(1).tolist() == [0] * 6 and taught.blind_fold == 0
    assert "pseudo-labels of r0-vit-s42, frozen-lite-s42 at" in log[0]
    # none distils from a network that is not trained
    assert distillers(job.spec, teachers) == [FitSpec("vit", 42, 0, 0)]


def test_a_frozen_member_that_knows_little_does_not_teach(taught_job):
    job = taught_job({"vit": 0.8, "lite": 0.0})
    assert able_teachers(job, job.before)[0] == [FitSpec("vit", 42, 0, 0)]
    # nor is one that knows more the only one that a student is distilled from
    job = taught_job({"vit": 0.0, "lite": 0.9})
    trained = {spec: done for spec, done in job.before.items() if spec.is_trained}
    assert able_teachers(job, trained)[0] == [FitSpec("vit", 42, 0, 0)]


def test_a_frozen_member_does_not_teach_where_no_other_fold_tells_how_able_it_is(taught_job):
    job = taught_job({"vit": 0.8, "lite": 0.8}, "data.run_folds=1")
    assert able_teachers(job, job.before)[0] == [FitSpec("vit", 42, 0, 0)]


def test_frozen_members_do_not_teach_in_rounds_without_test_images():
    config = build_config("full_training", ["model.backbones=vit", "model.frozen=lite", "rounds=2",
                                            "rounds.unlabelled=off", "rounds.alpha=0.5"])
    assert teachers_of(config, FitSpec("vit", 42, 1, 0)) == [FitSpec("vit", 42, 0, 0)]
