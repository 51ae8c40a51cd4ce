"""Beside other busy programs one thread fewer computes, and a resumed run keeps to that."""
import time
from types import SimpleNamespace

import pytest
import torch

from config import build_config
from running import threads
from running.threads import fewer_if_faster, settle_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that steps alone advance, so that other programs change nothing."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.seconds)
    return clock


@pytest.fixture
def taking(clock):
    """(one, two) -> a step of so many seconds with one thread, and with two."""
    def step_taking(one, two):
        def step():
            clock.seconds += two if torch.get_num_threads() == 2 else one
        return step
    return step_taking


@pytest.mark.parametrize(("one", "two", "n_threads"), [
    (0.002, 0.006, 1),      # a busy program takes a core
    (0.006, 0.005, 2),      # a quiet machine
    (0.005, 0.005, 2),      # nothing gained
])
def test_one_thread_fewer_is_taken_where_it_is_clearly_faster(one, two, n_threads, taking):
    assert fewer_if_faster(2, taking(one, two), seconds=0.05) == n_threads
    assert torch.get_num_threads() == 2


def settled(folder, step, monkeypatch, *settings):
    """How many threads there are after `settle_threads`."""
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "TIMED_SECONDS", 0.05)
    monkeypatch.setattr(threads, "steps_ahead", lambda *_: 1000)
    monkeypatch.setattr(threads, "step_of", lambda *_: step)
    prepared = SimpleNamespace(config=build_config("quick_test", settings), folder=folder)
    said = []
    log = SimpleNamespace(say=lambda text, **_: said.append(text), warn=said.append)
    settle_threads(SimpleNamespace(device=torch.device("cpu")), prepared, log)
    return torch.get_num_threads(), said


def test_a_resumed_run_computes_with_as_many_threads_as_when_it_began(tmp_path, taking,
                                                                      monkeypatch):
    n, said = settled(tmp_path / "busy", taking(0.002, 0.006), monkeypatch)
    assert n == 1 and "other programs are busy here: training with 1 of 2 threads" in said[-1]
    assert settled(tmp_path / "busy", taking(0.006, 0.002), monkeypatch)[0] == 1
    assert settled(tmp_path / "quiet", taking(0.006, 0.002), monkeypatch)[0] == 2
    assert settled(tmp_path / "quiet", taking(0.002, 0.006), monkeypatch)[0] == 2


def test_a_run_that_has_begun_with_all_threads_keeps_them(tmp_path, taking, monkeypatch):
    (tmp_path / "fold_0/r0-a").mkdir(parents=True)
    assert settled(tmp_path, taking(0.002, 0.006), monkeypatch) == (2, [])


@pytest.mark.parametrize("setting", ["runtime.measure=off", "runtime.engine=ray"])
def test_threads_stay_where_nothing_is_timed(setting, tmp_path, taking, monkeypatch):
    assert settled(tmp_path, taking(0.002, 0.006), monkeypatch, setting) == (2, [])
