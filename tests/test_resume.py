"""A run that is interrupted anywhere and started again ends with the bytes of an undisturbed run.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grandmaster_train import main
from tests.conftest import small_argv
from tests.kills import final_without_times

ROOT = Path(__file__).resolve().parent.parent


def outcome(folder):
    """(submission bytes, final_results.json without times and paths)."""
    return next(folder.glob("submission_*.csv")).read_bytes(), final_without_times(folder)


def stages(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns
            for p in folder.rglob("manifest.json")}


def test_a_finished_run_trains_nothing_and_says_so(contest, tmp_path, capsys):
    argv = small_argv(contest, tmp_path)
    assert main(argv) == 0
    before, result = stages(tmp_path / "run"), outcome(tmp_path / "run")
    capsys.readouterr()
    assert main(argv) == 0
    assert stages(tmp_path / "run") == before and outcome(tmp_path / "run") == result
    assert "done before" in capsys.readouterr().out


def test_a_changed_setting_redoes_only_what_depends_on_it(contest, tmp_path):
    def run(*more):
        assert main(small_argv(contest, tmp_path, *more)) == 0
        return set(stages(tmp_path / "run"))
    first = run()
    names = {name.split("/manifest")[0].rsplit("-", 1)[0].split("/")[-1]
             for name in run("optim.lr=0.001") - first}
    assert names == {"r0-mobilenetv3_small_050-s42", "predict-r0-mobilenetv3_small_050-s42",
                     "ensemble"}
    names = {name.split("/manifest")[0].rsplit("-", 1)[0].split("/")[-1]
             for name in run("predict.tta_views=1") - first}
    assert names >= {"predict-r0-mobilenetv3_small_050-s42",
                     "ensemble"} and "folds" not in names and "audit" not in names
    assert run("runtime.workers=1") - first - run() == set()


def test_an_interruption_at_any_write_is_recovered(contest, tmp_path, monkeypatch):
    """Every os.replace is a moment at which something becomes final: fail at each of them in turn.
    """
    argv = small_argv(contest, tmp_path, "data.run_folds=2", name="whole")
    replace, count = os.replace, [0]

    def counted(*args):
        count[0] += 1
        return replace(*args)

    monkeypatch.setattr(os, "replace", counted)
    assert main(argv) == 0
    argv = small_argv(contest, tmp_path, "data.run_folds=2", name="cut")
    for stop in range(1, count[0] + 1, 3):
        left = [stop]

        def cut(*args, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return replace(*args)

        monkeypatch.setattr(os, "replace", cut)
        assert main(argv) in (0, 130)
    monkeypatch.setattr(os, "replace", replace)
    assert main(argv) == 0
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.long
def test_ten_random_kills_of_a_run_on_the_embedded_contest(tmp_path):
    command = [sys.executable, "grandmaster_train.py", "--demo_size", "0.03", "--results_dir",
               str(tmp_path), "--set", "model.backbones=mobilenetv3_small_050",
               "data.image_size_px=64", "optim.epochs=6", "predict.tta_views=2", "data.run_folds=2",
               "ensemble.bootstrap_draws=50"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def start(name):
        return subprocess.Popen([*command[:2], "--experiment_name", name, *command[2:]], cwd=ROOT,
                                env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    begin = time.monotonic()
    whole = start("whole")
    assert whole.wait() == 0, whole.stderr.read()
    whole.stderr.close()
    duration, rng, kills = time.monotonic() - begin, random.Random(0), 0
    while kills < 10:
        process = start("killed")
        time.sleep(rng.uniform(0.1, 0.7) * duration)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stderr.close()
        # it ended before the kill: begin again with less left to chance
        if process.returncode == 0:
            (tmp_path / "killed").rename(tmp_path / f"done{time.monotonic_ns()}")
    last = start("killed")
    assert last.wait() == 0, last.stderr.read()
    last.stderr.close()
    done = [tmp_path / "killed", *tmp_path.glob("done*")]
    assert all(outcome(folder) == outcome(tmp_path / "whole") for folder in done)


TAUGHT = ["model.backbones=mobilenetv3_small_050,mobilenetv3_small_075", "data.n_folds=2",
          "data.run_folds=2", "optim.epochs=6", "rounds=2", "rounds.alpha=0.5",
          "rounds.warm_start=on", "rounds.min_confidence=0", "rounds.min_agreement=0"]


@pytest.mark.slow
def test_a_kill_inside_a_taught_round_is_recovered_with_the_same_bytes(contest, tmp_path):
    """Each fit of round 1 is killed once, after it has saved an epoch: with teachers loaded and
    pseudo-labels chosen."""
    def argv(name):
        return small_argv(contest, tmp_path, *TAUGHT, mode="full_training", name=name)

    command, killed = [sys.executable, "grandmaster_train.py", *argv("killed")], set()
    while True:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        while process.poll() is None:
            begun = {p.parent.name
                     for p in tmp_path.glob("killed/fold_*/r1-*.partial/checkpoint-*")}
            if begun - killed:
                process.send_signal(signal.SIGKILL)
                killed |= begun
                break
            time.sleep(0.01)
        status = process.wait()
        assert status in (0, -signal.SIGKILL), process.stderr.read()
        process.stderr.close()
        if status == 0:
            break
    assert len(killed) == 4
    assert main(argv("whole")) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    weights = [{p.relative_to(tmp_path / name): p.read_bytes()
                for p in (tmp_path / name).glob("fold_*/r*/weights.safetensors")}
               for name in ("killed", "whole")]
    assert len(weights[0]) == 8 and weights[0] == weights[1]
    assert len(list(tmp_path.glob("whole/fold_*/r1-*/pseudo_labels.csv"))) == 4


def test_another_metric_redoes_the_blend_alone(contest, tmp_path):
    assert main(small_argv(contest, tmp_path)) == 0
    before = {p.name for p in (tmp_path / "run").glob("**/*-*/")
              if not p.name.startswith("ensemble")}
    assert main([*small_argv(contest, tmp_path), "--metric", "quadratic_kappa"]) == 0
    assert {p.name for p in (tmp_path / "run").glob("**/*-*/")
            if not p.name.startswith("ensemble")} == before
    assert json.loads((tmp_path / "run" / "final_results.json").read_text())[
        "metric"] == "quadratic_kappa"
