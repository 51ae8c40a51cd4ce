"""The program as a function and as lines of JSON: what scripts, agents and notebooks read."""
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import grandmaster_train as g
from tests.conftest import SMALL, small_argv
from tests.test_readme import blocks

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = dict(setting.split("=", 1) for setting in SMALL)


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def done(contest, tmp_path_factory):
    """(lines of --json of a process, its run's folder)."""
    folder = tmp_path_factory.mktemp("json")
    argv = ["--json", *small_argv(contest, folder, "optim.epochs=1")]
    done = subprocess.run([sys.executable, "grandmaster_train.py", *argv], cwd=ROOT,
                          capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return lines_of(done.stdout), folder / "run"


def test_every_line_of_json_is_an_event_and_the_last_one_is_the_result(done):
    lines, folder = done
    events = [line["event"] for line in lines]
    assert events[0] == "start" and events[-1] == "final" and events.count("final") == 1
    assert {"note", "epoch", "predicted", "scores", "result"} <= set(events)
    final = json.loads((folder / "final_results.json").read_text())
    assert lines[-1] == final | {"event": "final", "status": 0, "folder": str(folder)}
    kept = lines_of((folder / "events.jsonl").read_text())
    assert [line["event"] for line in kept] == events[:-1]


def test_the_page_names_every_event_and_every_field_of_the_result(done):
    text = (ROOT / "docs/python.md").read_text()
    lines, _ = done
    assert [name for name in {line["event"] for line in lines} if f"| `{name}` |" not in text] == []
    own = {"event", "status", "folder", "mode", "experiment_name"}
    assert [name for name in lines[-1] if name not in own and f"`{name}`" not in text] == []


def test_the_function_finds_the_run_done_and_returns_the_same(done, contest, capsys):
    lines, folder = done
    result = g.train(contest, "quick_test", {**SETTINGS, "optim.epochs": 1}, quiet=True,
                     results_dir=folder.parent, experiment_name="run")
    assert {**result, "seconds": 0, "plan": 0} == {**lines[-1], "seconds": 0, "plan": 0}
    assert "fit 1/1" not in capsys.readouterr().out
    page = result._repr_html_()
    assert page.startswith("<iframe srcdoc=") and "&lt;!doctype html&gt;" in page


def test_errors_are_of_one_type_and_of_one_last_line(contest, tmp_path, capsys):
    with pytest.raises(g.TrainError, match="did you mean 'quick_test'") as raised:
        g.train(contest, "quick_tset")
    assert raised.value.status == 2 and len(raised.value.sentences) == 1
    with pytest.raises(g.TrainError, match="unrecognized arguments: --metrik auc"):
        g.train(contest, metrik="auc")
    with pytest.raises(g.TrainError, match="does not exist"):
        g.train(tmp_path / "nothing")
    with pytest.raises(g.TrainError, match=r"optim\.lr must be"):
        g.train(contest, settings={"optim.lr": -1})

    capsys.readouterr()
    assert g.main(["--json", "--data_path", str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr()
    line, = lines_of(said.out)
    assert line["event"] == "error" and line["status"] == 2
    assert said.err == f"error: {line['sentences'][0]}\n"


def test_a_mistake_of_ours_is_raised_as_it_is(contest, monkeypatch):
    monkeypatch.setattr(g, "run", lambda *args, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        g.train(contest)


def test_plans_and_checks_of_a_run_are_lines_of_json(done, contest, capsys):
    _, folder = done
    argv = small_argv(contest, folder.parent, "optim.epochs=1")
    assert g.main(["--json", "--dry_run", *argv]) == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines[-1]["event"] == "final" and "done" in lines[-1]["plan"][-1]
    assert g.main(["--json", "--verify", "run", "--results_dir", str(folder.parent)]) == 0
    assert lines_of(capsys.readouterr().out)[-1]["changed"] == []


@pytest.mark.parametrize("words", [["--set", "runtime.json=on"], ["--set=runtime.json=TRUE"]])
def test_the_setting_gives_the_last_line_as_the_flag_does(done, words, capsys):
    _, folder = done
    results = ["--results_dir", str(folder.parent)]
    assert g.main(["--verify", "run", *results, *words]) == 0
    line, = lines_of(capsys.readouterr().out)
    assert line["event"] == "final" and line["changed"] == []
    assert g.main(["--verify", "gone", *results, *words]) == 2
    line, = lines_of(capsys.readouterr().out)
    assert line["event"] == "error" and line["status"] == 2
    assert g.main(["--verify", "run", *results, "--set", "runtime.json=off"]) == 0
    assert "event" not in capsys.readouterr().out


def test_the_checks_of_debug_are_lines_of_json(contest, tmp_path, capsys):
    argv = small_argv(contest, tmp_path, mode="debug")
    assert g.main(["--json", *argv]) == 0
    *checks, final = lines_of(capsys.readouterr().out)
    assert {check["event"] for check in checks} == {"check"} and final["failed"] == 0


def test_the_code_of_the_page_runs_in_one_session(done, contest, monkeypatch):
    folder = done[1]
    train = g.train
    asked = []

    def small(data_path, mode="quick_test", settings=None, **flags):
        asked.append((data_path, mode, settings, flags))
        if flags.get("metric"):
            raise g.TrainError(1, ["no more"])
        return train(contest, mode, {**SETTINGS, "optim.epochs": 1}, quiet=True,
                     results_dir=folder.parent, experiment_name="run")

    monkeypatch.setattr(g, "train", small)
    session = {}
    with redirect_stdout(io.StringIO()) as said:
        for block in blocks("docs/python.md", "python"):
            exec(block, session)
    assert [each[0] for each in asked] == ["DIR", "DIR"]
    assert "submission_run.csv" in said.getvalue() and "1 ['no more']" in said.getvalue()
    flags = g.make_parser().parse_args(["--metric", "accuracy", "--experiment_name", "again"])
    assert set(asked[1][3]) <= set(vars(flags))
