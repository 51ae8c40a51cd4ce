"""Kaggle's cell, a run folder copied between machines, spawned loading processes, GPUs that only
emulate bf16."""
import multiprocessing
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from grandmaster_train import main
from modeling.compute import precisions
from tests.conftest import SMALL, small_argv
from tests.test_resume import outcome, stages

CELL = Path(__file__).resolve().parent.parent / "notebooks" / "kaggle.py"


def test_kaggles_cell_goes_on_from_an_earlier_versions_output(contest, tmp_path, monkeypatch,
                                                              capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    flags = ["--mode", "quick_test", "--time_budget", "1", "--set", *SMALL]
    cell = re.sub(r"FLAGS = \[.*?\]", f"FLAGS = {flags!r}", CELL.read_text()).replace(
        "/kaggle/", f"{tmp_path.as_posix()}/"
    )
    (tmp_path / "input" / "WEIGHTS").mkdir(parents=True)
    (tmp_path / "working").mkdir()
    shutil.copytree(contest, tmp_path / "input" / "CONTEST")
    exec(compile(cell, "cell", "exec"), {})
    run, previous = tmp_path / "working" / "training_results", tmp_path / "input" / "MY-NOTEBOOK"
    before, result = stages(run), outcome(run / "kaggle")
    assert (tmp_path / "working" / "submission.csv").read_bytes() == result[0]
    (tmp_path / "working").rename(previous)
    (tmp_path / "working").mkdir()
    capsys.readouterr()
    exec(compile(cell, "cell", "exec"), {})
    assert stages(run) == before and outcome(run / "kaggle") == result
    assert "done before" in capsys.readouterr().out


def test_a_gpu_that_emulates_bf16_computes_in_fp16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: including_emulation)
    assert precisions(torch.device("cuda")) == ("fp16",)


@pytest.mark.slow
def test_spawned_workers_give_the_same_submission(contest, tmp_path, monkeypatch):
    assert main(small_argv(contest, tmp_path, "optim.epochs=1", name="alone")) == 0
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert main(small_argv(contest, tmp_path, "optim.epochs=1", "runtime.workers=1",
                               name="spawned")) == 0
    finally:
        multiprocessing.set_start_method(method, force=True)
    assert outcome(tmp_path / "spawned") == outcome(tmp_path / "alone")
