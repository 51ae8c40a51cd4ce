"""The keys of all stages are those of earlier versions: a run made before a change is found done.

A change of a stage's result raises its version, and its key here. Nothing else may change a key.
"""
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from config import FitSpec, build_config, resolve
from ensemble.scores import ensemble_stage
from ensemble.tasks import SINGLE
from modeling.compute import Compute
from modeling.weights import WeightsSource
from running import preparing
from running.costs import compute_stage, cost_stage
from running.planner import plan_stage
from running.run import Keys, Prepared, Setup, fit_stages

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("mobilenetv2_100", "vit_tiny_patch16_224")
MACHINE = {"precision": "fp32", "device": "cpu", "node": "n", "gpu": "", "gpu_memory_bytes": 0,
           "cores": 2, "workers": -1}


@pytest.fixture(scope="module")
def config():
    settings = [f"model.backbones={','.join(NAMES)}", "data.run_folds=2",
                "runtime.time_budget_hours=2", "model.frozen="]
    return resolve(build_config("competition_ready", settings), gpu_memory_bytes=0, n_train=1000,
                   metric="macro_f1")


@pytest.fixture(scope="module")
def weights():
    return {NAMES[0]: WeightsSource(NAMES[0], "weights_dir", path="x", pad_type="same"),
            NAMES[1]: WeightsSource(NAMES[1], "random")}


@pytest.fixture(scope="module")
def prepared(config, weights):
    return Prepared(config, Path("run"), None, None, None, weights,
                    dict(zip(NAMES, ("d0", "d1"), strict=True)), Keys("a", "s", "f"))


def test_stages_before_the_first_fit(config, weights, monkeypatch):
    monkeypatch.setattr(preparing, "undecoded_formats", lambda contest, workers: [])
    setup = Setup(config, None, None, Path("run"), torch.device("cpu"), MACHINE, weights)
    audit = SimpleNamespace(test=[1, 2, 3])
    digests = {NAMES[0]: "d0"}
    assert preparing.stage_of_audit(setup, ["contest"]).key == "b75a19e308ab"
    assert preparing.stage_of_shift(setup, audit, "a", weights, digests).key == "2035ae745f31"
    assert preparing.stage_of_folds(setup, "a").key == "b80becd49f42"
    monkeypatch.setattr(preparing, "undecoded_formats", lambda contest, workers: ["HEIF"])
    # made anew with a decoder
    assert preparing.stage_of_audit(setup, ["contest"]).key != "b75a19e308ab"


@pytest.mark.parametrize(("number", "fold", "training", "prediction"), [
    (0, 0, "ea6c869559e4", "d0123cf860ae"), (0, None, "0bb45bde0c41", "b08c8d8709fa"),
    (1, 1, "d48e3efda776", "6625b4c8abc7"), (1, None, "fa7d207060d5", "33353d711c8f")])
def test_fits(prepared, number, fold, training, prediction):
    spec = FitSpec(NAMES[0], 42, number, fold)
    stages = fit_stages(prepared, spec, lambda backbone: Compute())
    assert (stages.training.key, stages.prediction.key) == (training, prediction)


def test_what_is_measured_planned_and_blended(prepared):
    assert compute_stage(prepared, NAMES[1]).key == "2b0ca6e49952"
    assert cost_stage(prepared, MACHINE, NAMES[1], Compute()).key == "6cdad1ee2dea"
    assert plan_stage(prepared).key == "ecc9c197b8b3"
    fits = {name: SimpleNamespace(predict_stage=SimpleNamespace(key=name)) for name in ("p0", "p1")}
    assert ensemble_stage(prepared, SINGLE.find_metric("macro_f1"), fits).key == "7550715a15d4"


def first_of_these_versions():
    """The commit that last changed the version of a stage: its runs are found done. '' if none."""
    log = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%H", "-G", r"version=[0-9]", "--",
         "running", "ensemble"], check=False, capture_output=True, text=True)
    return log.stdout.strip()


@pytest.mark.long
def test_a_run_of_the_earlier_commit_is_found_done(tmp_path):
    """By a clone of it: minutes of training, then none; the submission has the same bytes."""
    commit = first_of_these_versions()
    if not commit:
        pytest.skip("there is no history")
    before = tmp_path / "before"
    subprocess.run(["git", "clone", "-q", ROOT, before], check=True)
    subprocess.run(["git", "-C", before, "checkout", "-q", commit], check=True)

    def run_by(code):
        subprocess.run([sys.executable, code / "grandmaster_train.py", "--demo_size", "0.05",
                        "--results_dir", "results"], cwd=tmp_path, check=True)
        folder = tmp_path / "results/quick_test_demo_contest_0.05"
        submission, = folder.glob("submission_*.csv")
        return sorted(path.relative_to(folder) for path in folder.rglob("*-*/")), submission

    stages, submission = run_by(before)
    kept = shutil.copy(submission, tmp_path / "kept.csv")
    stages_after, submission = run_by(ROOT)
    assert stages_after == stages
    assert submission.read_bytes() == Path(kept).read_bytes()
