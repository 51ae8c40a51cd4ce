"""Versions are in no key: a run goes on after an update, and says what other versions made."""

import pytest

from grandmaster_train import main
from predict import main as predict
from running.makers import credits_of, other_versions
from system import stages
from system.versions import PACKAGES, changes, here
from tests.conftest import small_argv
from tests.test_resume import stages as stages_of
from utils import read_json, write_json


def with_versions(**versions):
    """What `here` says, with other versions of some packages."""
    packages = {name.replace("_", "-"): version for name, version in versions.items()}
    return here() | {"packages": here()["packages"] | packages}


def in_other_versions(patch, **versions):
    """Let stages be made, and told apart, as if these versions ran."""
    for place in ("system.stages.here", "running.makers.here"):
        patch.setattr(place, lambda: with_versions(**versions))


def made(folder):
    stage = stages.Stage.of(folder, "s", version=1, settings={}, inputs=[])
    return stages.run_stage(stage, lambda partial: (partial / "a.txt").write_text("a"))


def test_a_stage_keeps_what_made_it(tmp_path):
    stage = made(tmp_path)
    assert stages.makers_of(stage.folder) == [here()]
    assert set(here()["packages"]) == set(PACKAGES) and here()["python"].startswith("3.")
    assert [p.name for p in sorted(stage.folder.iterdir())] == ["a.txt", "manifest.json"]


def test_a_stage_that_two_versions_worked_on_keeps_both(tmp_path, monkeypatch):
    """A fit that was interrupted, and goes on after an update."""
    stage = stages.Stage.of(tmp_path, "s", version=1, settings={}, inputs=[])

    def interrupted(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        in_other_versions(patch, torch="1.0")
        stages.run_stage(stage, interrupted)
    stages.run_stage(stage, lambda folder: None)
    assert stages.makers_of(stage.folder) == [with_versions(torch="1.0"), here()]
    assert other_versions(tmp_path, [stage.folder]) == [
        (f"1 stage ('{stage.folder.name}')", f"torch 1.0, now {here()['packages']['torch']}")]


def test_only_versions_that_both_know_are_compared():
    assert changes(here(), here()) == []
    assert changes(with_versions(timm="0.9"), here()) == [
        ("timm", "0.9", here()["packages"]["timm"])]
    assert changes(here() | {"python": "3.9.1"}, here()) == [("python", "3.9.1", here()["python"])]
    assert changes({"packages": {"gone": "1"}}, here()) == []
    assert changes({"packages": None, "python": None}, here()) == []


@pytest.mark.parametrize("made_by", [None, "x", [3], {}, ["a"]])
def test_a_stage_of_an_earlier_version_is_used_and_its_maker_is_unknown(tmp_path, made_by):
    stage = made(tmp_path)
    manifest = read_json(stage.folder / "manifest.json")
    write_json(stage.folder / "manifest.json", manifest | {"made_by": made_by})
    assert stages.damaged_files(stage.folder) == []
    assert other_versions(tmp_path, [stage.folder]) == []
    assert credits_of(tmp_path, [stage.folder]) == [
        {"python": None, "packages": {}, "stages": [stage.folder.name]}]


def test_a_run_after_an_update_uses_what_is_done_and_says_what_made_it(contest, tmp_path,
                                                                       monkeypatch, capsys):
    argv = small_argv(contest, tmp_path, "optim.epochs=1")
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        in_other_versions(patch, torch="1.0", timm="0.9")
        assert main(argv) == 0
    before = stages_of(run)
    assert read_json(run / "final_results.json")["warnings"] == []
    capsys.readouterr()

    # one fit more: results of both mix
    assert main(small_argv(contest, tmp_path, "optim.epochs=1", "data.run_folds=2")) == 0
    after = stages_of(run)
    assert before.items() < after.items()      # nothing is made again
    told = (f"torch 1.0, now {here()['packages']['torch']}; "
            f"timm 0.9, now {here()['packages']['timm']}")
    [warning] = [w for w in read_json(run / "final_results.json")["warnings"] if "versions" in w]
    assert "other versions made 5 stages (" in warning and told in warning
    assert "fold_0/predict-" in warning and "--experiment_name" in warning
    said = capsys.readouterr().out
    assert said.index(warning) < said.index("fit 2/2") and said.count(warning) == 1
    assert told in (run / "report.html").read_text()

    old, new = read_json(run / "environment.json")["made_by"]
    assert old["packages"]["torch"] == "1.0" and new["packages"] == here()["packages"]
    parts = [[name.partition("-")[0] for name in maker["stages"]] for maker in (old, new)]
    assert parts == [["audit", "shift", "folds", "fold_0/r0", "fold_0/predict"],
                     ["fold_1/r0", "fold_1/predict", "ensemble"]]

    image = next((contest / "test").iterdir())
    assert predict([str(run), str(image), "--out", str(tmp_path / "p.csv")]) == 0
    error = capsys.readouterr().err
    assert "warning: other versions made 1 stage ('fold_0/r0-" in error and told in error


def test_a_run_by_one_version_has_one_maker(contest, tmp_path, capsys):
    assert main(small_argv(contest, tmp_path, "optim.epochs=1")) == 0
    [maker] = read_json(tmp_path / "run" / "environment.json")["made_by"]
    assert maker["packages"] == here()["packages"] and len(maker["stages"]) == 6
