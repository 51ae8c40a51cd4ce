"""A run that nobody gave a size ends in minutes: its epochs are chosen once, by the rate here."""
import math
import re
import time

import pytest

import demo_contest
import grandmaster_train
from config import FitSpec
from grandmaster_train import FIRST_SECONDS, config_of, main, make_parser
from running import pipeline
from running.hurry import FEWEST_EPOCHS, most_epochs
from running.plan import Cost, Work
from shift.match import FEWEST_ROWS, rows_in_time
from tests.conftest import interrupt, small_argv
from utils import read_json

COSTS = {"a": Cost(0.1, 0.01, 5.0, 0)}
WORK = Work(FitSpec("a", 42, 0, 0), n_steps=40, n_epochs=25, n_images=500)


@pytest.mark.parametrize(("seconds_left", "n_epochs"),
                         [(110, 25), (109, 24), (50, 10), (0, FEWEST_EPOCHS), (-9, FEWEST_EPOCHS)])
def test_as_many_epochs_as_end_in_time_are_chosen(seconds_left, n_epochs):
    assert most_epochs([WORK], COSTS, seconds_left + 1e-6, 25) == n_epochs


def test_no_more_epochs_than_asked_are_chosen_however_few_those_are():
    assert most_epochs([WORK], COSTS, 0, 2) == 2


def test_a_search_that_has_little_time_reads_fewer_rows():
    assert rows_in_time(1000, math.inf, 0.005) == 1000
    assert rows_in_time(1000, 500, 0.005) == 1000
    assert rows_in_time(1000, 100, 0.005) == 500
    assert rows_in_time(1000, -3, 0.005) == FEWEST_ROWS
    assert rows_in_time(200, -3, 0.005) == 200


def test_the_epochs_chosen_first_hold_after_an_interruption(contest, tmp_path, monkeypatch, capsys):
    argv = small_argv(contest, tmp_path, "optim.epochs=6", "runtime.measure=on")
    args = make_parser().parse_args(argv)

    monkeypatch.setattr("running.hurry.FEWEST_EPOCHS", 3)

    def run_for(seconds):
        return pipeline.run(config_of(args), contest, tmp_path / "run",
                            ends_by=time.perf_counter() + seconds)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run_rounds", lambda *_: interrupt())
        with pytest.raises(KeyboardInterrupt):
            run_for(0)
    assert "3 of 6 epochs, in about " in capsys.readouterr().out
    run_for(1000)
    fit, = read_json(tmp_path / "run/training_results.json")["fits"]
    assert len(fit["epochs"]) == 3
    assert "--set optim.epochs=6 trains all" in capsys.readouterr().out
    assert read_json(tmp_path / "run/config.json")["optim"]["epochs"] == 3      # what was trained
    run_for(1000)
    assert "other settings" not in capsys.readouterr().out


def test_a_plan_of_the_first_command_has_the_epochs_that_it_would_choose(
        contest, tmp_path, monkeypatch, capsys):
    argv = small_argv(contest, tmp_path, "optim.epochs=6", "runtime.measure=on")
    monkeypatch.setattr("running.hurry.FEWEST_EPOCHS", 3)
    plan = pipeline.run(config_of(make_parser().parse_args(argv)), contest, tmp_path / "run",
                        dry_run=True, ends_by=time.perf_counter())["plan"]
    assert "about 3 of 6 epochs" in capsys.readouterr().out
    assert any(re.search(r"fold 0  to do +3 ", line) for line in plan)
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize(("words", "is_hurried"), [
    ([], True),
    (["--experiment_name", "mine", "--set", "seed=7"], True),
    (["--demo_size", "1"], False),
    (["--time_budget", "2"], False),
    (["--set", "optim.epochs=25"], False),
    (["--mode", "full_training"], False),
])
def test_only_the_embedded_contest_without_a_size_of_training_ends_in_minutes(
    words, is_hurried, tmp_path, monkeypatch
):
    ended_by = []
    compiles = []

    def run(config, *_, ends_by, **__):
        ended_by.append(ends_by)
        compiles.append(config.runtime.compile)
        return {}

    monkeypatch.setattr(demo_contest, "draw_contest", lambda *_: None)
    monkeypatch.setattr(demo_contest, "drawing_seconds", lambda: 0.01)
    monkeypatch.setattr(grandmaster_train, "csv_rows", lambda _: [])
    monkeypatch.setattr(grandmaster_train, "run", run)
    assert main([*words, "--results_dir", str(tmp_path)]) == 0
    limit = time.perf_counter() + FIRST_SECONDS if is_hurried else math.inf
    assert ended_by == [pytest.approx(limit, abs=10)]
    assert compiles == ["off" if is_hurried else "auto"]
