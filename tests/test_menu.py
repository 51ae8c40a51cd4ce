"""The menu through a real pseudo-terminal, and through pipes, over a folder of experiments."""
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import run_training
from run_training import (
    TEXTS,
    ask_more,
    ask_path,
    experiments,
    language,
    menu,
    started_by,
    time_words,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(tmp_path):
    """A finished experiment and one that was interrupted."""
    for name, started in (("ended", "--mode quick_test"),
                          ("cut", "--mode debug --data_path '/no such folder'")):
        (tmp_path / name).mkdir()
        start = {"event": "start", "command": f"python grandmaster_train.py {started}"}
        (tmp_path / name / "events.jsonl").write_text(json.dumps(start) + "\n")
    (tmp_path / "ended/report.html").write_text("page")
    final = {"mode": "quick_test", "metric": "macro_f1", "score": {"expected": 0.8123}, "n_fits": 1,
             "seconds": 754.0, "sources": []}
    (tmp_path / "ended/final_results.json").write_text(json.dumps(final))
    os.utime(tmp_path / "cut/events.jsonl", (1, 1))
    return tmp_path


def typed(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_the_menu_is_used_with_a_keyboard_alone_in_korean_and_english(results):
    """l, r, the first experiment, q, at a terminal: the list is there, the page's path is printed,
    status 0."""
    (results / "training_results").mkdir()
    (results / "ended").rename(results / "training_results/ended")
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, ROOT / "run_training.py"],
        cwd=results,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"LANG": "ko_KR.UTF-8", "LC_ALL": "", "PYTHONUTF8": "1"},
    ) as process:
        os.close(slave)
        os.write(master, b"l\nr\n1\nq\n")
        out = b""
        try:
            while part := os.read(master, 4096):
                out += part
        except OSError:              # what Linux says at the end of a terminal
            pass
    os.close(master)
    out = out.decode()
    assert process.returncode == 0 and TEXTS["ko"]["quick_test"] in out and TEXTS["en"][
        "quick_test"] in out
    assert f"report: {results / 'training_results/ended/report.html'}" in out
    assert "expected 0.812" in out
    assert out.index(TEXTS["ko"]["quick_test"]) < out.index(TEXTS["en"]["quick_test"])


def test_a_mode_shows_what_its_last_run_here_has_cost(results, monkeypatch, capsys):
    typed(monkeypatch, "q\n")
    assert menu(results) == 0
    assert "last run here: 1 fit(s) in 13 min (ended)" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_by_its_own_command(results, monkeypatch, capsys):
    monkeypatch.setattr(run_training.subprocess, "Popen", lambda words: SimpleNamespace(
        wait=lambda: len(words) - 2))
    typed(monkeypatch, "r\n2\ny\n")
    assert [e.folder.name for e in experiments(results)] == ["ended", "cut"]
    assert menu(results) == 4
    out = capsys.readouterr().out
    assert (
        "python grandmaster_train.py --mode debug --data_path '/no such folder'" in out
        and "it has no report yet" in out
    )


def test_a_run_that_was_started_again_after_it_ended_has_not_ended(results):
    log = results / "ended/events.jsonl"
    assert experiments(results)[0].final["n_fits"] == 1
    for started, has_ended in (("2001-01-01T00:00:00.000+00:00", True),
                               ("2101-01-01T00:00:00.000+00:00", False)):
        log.write_text(log.read_text() + json.dumps({"time": started, "event": "start",
                                                     "command": "python x"}) + "\n")
        assert bool(experiments(results)[0].final) == has_ended


def test_the_plan_of_a_mode_is_asked_for_and_nothing_is_trained(results, monkeypatch, capsys):
    monkeypatch.setattr(run_training.subprocess, "Popen", lambda words: SimpleNamespace(
        wait=lambda: print(words[2:]) or 0))
    typed(monkeypatch, "d\n2\n/data\nx\n--weights_dir '/my\n--weights_dir '/my weights'\n")
    assert menu(results) == 0
    out = capsys.readouterr().out
    assert str(["--mode", "full_training", "--data_path", "/data", "--experiment_name", "x",
                "--weights_dir", "/my weights",
                "--dry_run"]) in out and "words or quoted text" in out
    typed(monkeypatch, "1\n\n\n")
    assert menu(results) == 0 and str(["--mode", "quick_test"]) in capsys.readouterr().out


def test_the_first_look_trains_nothing(results, monkeypatch, capsys):
    monkeypatch.setattr(run_training.subprocess, "Popen", lambda words: SimpleNamespace(
        wait=lambda: print(words[2:]) or 0))
    typed(monkeypatch, "f\n/data\n\n--weights_dir /w\n")
    assert menu(results) == 0
    assert str(["--mode", "quick_test", "--data_path", "/data", "--weights_dir", "/w", "--set",
                "model.frozen=auto", "model.backbones="]) in capsys.readouterr().out


def test_predict_is_there_when_its_command_is(results, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run_training, "PREDICT", tmp_path / "predict.py")
    typed(monkeypatch, "p\nq\n")
    assert menu(results) == 0 and "got 'p'" in capsys.readouterr().out
    (tmp_path / "predict.py").write_text("import sys; sys.exit(len(sys.argv[1:]) + 5)")
    typed(monkeypatch, "p\n1\nimages\n")
    assert menu(results) == 7
    assert f"python predict.py {results / 'ended'} images" in capsys.readouterr().out


def test_paths_are_read_as_a_shell_reads_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    typed(monkeypatch, "~/my contest\n'/data/my contest'\n\"it's\n")
    assert [ask_path("?") for _ in range(3)] == [str(tmp_path / "my contest"), "/data/my contest",
                                                 '"it\'s']
    typed(monkeypatch, "--weights_dir ~/w\n")
    assert ask_more(TEXTS["en"]) == ["--weights_dir", str(tmp_path / "w")]


def test_nothing_to_resume_and_wrong_numbers_lead_back(results, monkeypatch, capsys):
    typed(monkeypatch, "r\n9\nr\n\nq\n")
    assert menu(results) == 0 and "there is no experiment '9'" in capsys.readouterr().out
    typed(monkeypatch, "r\nq\n")
    assert menu(results / "none") == 0 and "no experiments in" in capsys.readouterr().out


def test_both_languages_say_the_same_things(monkeypatch):
    assert set(TEXTS["ko"]) == set(TEXTS["en"])
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    for locale, expected in (("ko_KR.UTF-8", "ko"), ("en_US.UTF-8", "en"), ("", "en")):
        monkeypatch.setenv("LANG", locale)
        assert language() == expected
    assert [time_words(s, TEXTS["ko"]) for s in (45, 754, 11100)] == ["45초", "13분", "3시간 05분"]


def test_the_command_of_a_run_is_read_from_a_log_with_a_torn_line(tmp_path):
    whole = '{"event": "start", "command": "python grandmaster_train.py --mode debug"}\n'
    (tmp_path / "events.jsonl").write_text(whole + '{"event": "start", "comm\n')
    assert started_by(tmp_path) == ["--mode", "debug"]


def test_show_me_is_listed_first_and_runs_the_embedded_contest(results, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(run_training, "command", lambda *argv: commands.append(argv) or 0)
    typed(monkeypatch, "s\n")
    assert menu(results) == 0 and commands == [(run_training.TRAIN, [])]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["s", "u", "1"]


@pytest.mark.parametrize("answers", ["u\nb\n", "1\nb\n", "1\n/data\nb\n", "d\nb\n",
                                     "r\n2\nb\n"])
def test_every_question_says_how_to_go_back_and_goes(answers, results, monkeypatch, capsys):
    monkeypatch.setattr(run_training, "command", lambda *_: pytest.fail("it went on"))
    typed(monkeypatch, answers + "q\n")
    assert menu(results) == 0
    out = capsys.readouterr().out
    assert "(b: back)" in out and out.count(TEXTS["en"]["s"]) == 2


def test_what_is_understood_is_shown_with_pictures_and_leads_back(contest, tmp_path, monkeypatch,
                                                                  capfd):
    typed(monkeypatch, f"u\n{contest}\nq\n")
    assert menu(tmp_path) == 0
    out = capfd.readouterr().out
    assert "classes:    3, " in out
    page = tmp_path / f"look_{contest.name}.html"
    assert f"pictures of each class: {page}" in out
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 9 and "0 circle, 12 images" in text
    assert not list(tmp_path.glob("*/audit-*"))
