"""Trackers get the numbers of events.jsonl, in the run's folder; a missing package ends the command
before it trains."""
import socket
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from grandmaster_train import main
from running.trackers import numbers_of
from tests.conftest import small_argv

FIT = "r0-mobilenetv3_small_050-s42"


def test_numbers_are_named_after_their_fit_and_their_step_is_its_epoch():
    event = {"fit": "m", "fold": None, "epoch": 3, "loss": 0.5, "text": "x", "list": [1]}
    assert list(numbers_of("epoch", event)) == [("m/fold None/loss", 0.5, 3)]
    assert list(numbers_of("scores", {"expected": 0.9})) == [("scores/expected", 0.9, 0)]


def test_a_missing_package_is_one_sentence_before_anything_is_trained(contest, tmp_path,
                                                                      monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(small_argv(contest, tmp_path, "runtime.tracker=mlflow")) == 2
    assert "runtime.tracker=mlflow needs the optional package mlflow" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/audit*"))


def test_mlflow_gets_every_epoch_and_the_scores(contest, tmp_path, monkeypatch):
    calls = []
    fake = SimpleNamespace(set_tracking_uri=lambda uri: calls.append(("uri", uri)),
                           start_run=lambda run_name, tags: nullcontext(
                               calls.append(("run", run_name)) or calls.append(tags)),
                           log_metric=lambda name, value, step: calls.append((name, step)))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    assert main(small_argv(contest, tmp_path, "runtime.tracker=mlflow")) == 0
    assert calls[:2] == [("uri",
                          f"sqlite:///{(tmp_path / 'run/mlruns/mlflow.db').resolve().as_posix()}"),
                         ("run", "run")]
    assert calls.pop(2) == {"mlflow.user": "", "mlflow.source.name": "grandmaster_train.py"}
    assert [step for name, step in calls[2:] if name == f"{FIT}/fold 0/loss"] == [1, 2]
    assert [step for name, step in calls[2:] if name == f"{FIT}/fold 0/valid/loss"][-1] == 2
    assert ("scores/expected", 0) in calls


def test_tensorboard_gets_every_epoch_and_the_scores(contest, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    assert main(small_argv(contest, tmp_path, "runtime.tracker=tensorboard")) == 0
    seen = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.step for e in seen.Scalars(f"{FIT}/fold 0/loss")] == [
        1,
        2,
    ] and "scores/expected" in seen.Tags()["scalars"]
    [file] = (tmp_path / "run" / "tensorboard").iterdir()
    assert socket.gethostname() not in file.name
