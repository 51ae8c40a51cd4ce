"""All four modes to the end on a small embedded contest at scale tiny, through the command that
people run."""
import csv
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from config import FAMILIES, build_config
from grandmaster_train import main
from run_training import menu
from running.introduction import run_to_replace
from shift.distortions import Distortion, ShiftPolicy
from shift.match import match_shift
from tests.conftest import make_contest, small_argv
from utils import write_json

TINY = ["data.image_size_px=64", "optim.epochs=1", "optim.batch_size=16", "predict.tta_views=1",
        "ensemble.bootstrap_draws=10", "runtime.workers=0", "model.text=off"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def run_demo(results, mode, *more):
    argv = ["--mode", mode, "--demo_size", "0.03", "--scale", "tiny", "--results_dir", str(results)]
    argv += ["--experiment_name", mode]
    assert main([*argv, "--set", *TINY, *more]) == 0
    return results / mode


def check_complete(folder, n_folds, n_fits, n_refits=0):
    final = json.loads((folder / "final_results.json").read_text())
    assert final["n_fits"] == n_fits == len(json.loads((folder
                                                        / "training_results.json").read_text())[
                                                            "fits"])
    for name in ("oof_clean", "oof_testlike", "expected"):
        low, high = final["score"][f"{name}_ci90"]
        assert 0 <= low <= final["score"][name] <= 1 and low <= high <= 1
    assert 0 <= final["score"]["test"] <= 1 and final["metric"] == "macro_f1" and len(
        final["classes"]) == 17
    for fold in range(n_folds):
        stages = [p.name for p in (folder / f"fold_{fold}").iterdir()]
        assert len([s for s in stages if s.startswith("predict-")]) == (n_fits - n_refits) / n_folds
        assert not [s for s in stages if s.endswith(".partial")]
    rows, sample = (list(csv.DictReader(io.StringIO(path.read_text()))) for path in (
        folder / final["submission"], demo_folder(folder) / "sample_submission.csv"))
    assert [r["ID"] for r in rows] == [r["ID"] for r in sample]
    assert {r["target"] for r in rows} <= {str(i) for i in range(17)}


def demo_folder(folder):
    return folder.parent / "demo_contest_0.03"


def test_quick_test(results, capsys):
    folder = run_demo(results, "quick_test")
    check_complete(folder, 1, 1)
    assert "got on the test set" in capsys.readouterr().out


@pytest.mark.slow
def test_full_training_trains_all_35_fits(results):
    check_complete(run_demo(results, "full_training", "augment.policy=standard"), 5, 35)


def test_competition_ready_trains_its_second_round(results):
    folder = run_demo(results, "competition_ready", "data.n_folds=2", "augment.policy=standard",
                      "model.backbones=efficientnetv2,vit")
    check_complete(folder, 2, 12, n_refits=4)
    rounds = json.loads((folder / "final_results.json").read_text())["rounds"]
    assert [r["round"] for r in rounds] == [0,
                                            1] and rounds[0]["used"] and rounds[0][
                                                "pseudo_labels"] == {}
    assert [r["distillation"] for r in rounds] == [0.0,
                                                   0.5] and rounds[1]["used"] == (
                                                       rounds[1]["change_ci90"][1] > 0)
    assert "<h3>Rounds</h3>" in (folder / "report.html").read_text()


def test_a_refit_of_a_taught_round_learns_from_the_models_of_all_folds(contest, tmp_path):
    argv = small_argv(contest, tmp_path, "rounds=2", "rounds.min_confidence=0", "data.n_folds=2",
                      "optim.epochs=1", "ensemble.refit=on", mode="full_training")
    assert main(argv) == 0
    taught = {path.parent.parent.name for path in tmp_path.glob("run/*/r1-*/pseudo_labels.csv")}
    assert taught == {"fold_0", "fold_1",
                      "refit"} and len(list(tmp_path.glob("run/refit/predict-r?-*/test.npz"))) == 2


def test_without_leave_to_learn_from_test_images_only_distillation_is_left_of_a_later_round(
    contest, tmp_path, capsys
):
    argv = [*small_argv(contest, tmp_path, "rounds=2", "data.run_folds=1"),
            "data.test_usage=statistics"]
    assert main([*argv, "--dry_run"]) == 0
    said = ("1 of 1 later round(s) that teach nothing else were switched off: "
            "data.test_usage=statistics")
    assert said in capsys.readouterr().out
    assert main([*argv, "rounds.alpha=0.5"]) == 0
    final = json.loads((tmp_path / "run/final_results.json").read_text())
    assert [s["name"][:2] for s in final["sources"]] == ["r0",
                                                         "r1"] and final["rounds"][1][
                                                             "pseudo_labels"] == {}
    assert not list((tmp_path / "run").rglob("pseudo_labels.csv"))
    assert any(w.startswith("no pseudo-labels are learnt from, and 0 of 1 later round(s)")
               for w in final["warnings"])
    assert "distillation for 50% of the loss; with it the blend" in capsys.readouterr().out


def test_debug_checks_every_family_and_trains_nothing(results, capsys):
    assert main(["--mode", "debug", "--demo_size", "0.03", "--results_dir", str(results)]) == 0
    out = capsys.readouterr().out
    assert all(f"{family} " in out for family in FAMILIES) and "passed" in out
    assert "-> proof:      train/" in out
    assert not (results / "debug_demo_contest_0.03").exists()


def test_debug_fails_on_bad_data(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["--mode", "debug", "--data_path", str(tmp_path / "empty")]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_the_menu_works_through_a_pipe(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"nine\n4\n{tmp_path / 'none'}\nmy run\n"))
    assert menu() == 1
    out = capsys.readouterr().out
    assert "the mode must be a number from 1 to 4, got 'nine'" in out
    assert (
        f"python grandmaster_train.py --mode debug --data_path {tmp_path / 'none'} "
        "--experiment_name 'my run'"
        in out
    )


def test_the_menu_ends_cleanly_when_the_pipe_does(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n"))
    assert menu() == 2
    assert "the input ended" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    assert menu() == 0


@pytest.mark.parametrize(("argv", "message"), [
    (["--mode", "quik_test"], "did you mean 'quick_test'"),
    (["--no_such_flag"], "unrecognized arguments: --no_such_flag"),
    (["--set", "optim.epoch=3"], "did you mean 'optim.epochs'"),
    (["--data_path", "/no/such/folder"], "/no/such/folder"),
    (["--demo_size", "-1"], "-1"),
    (["--experiment_name", "../x"], "must be a plain folder name"),
    (["--experiment_name", ""], "--experiment_name must name something, got ''"),
    (["--verify", ""], "--verify must name something, got ''"),
    (["--data_path", ""], "--data_path must name something, got ''"),
    (["--set", "optim.clip_norm=inf"],
     "optim.clip_norm must be a finite number, got inf (largest norm of the gradient; 0"),
    (["--metric", "macro_g1"], "did you mean 'macro_f1'"),
    (["--set", "model.backbones=resnet18.in99k"],
     "without a tag or with one that timm knows, got 'resnet18.in99k'"),
])
def test_a_users_mistake_is_one_sentence_and_status_2(argv, message, capsys, tmp_path, contest):
    data = [] if "--data_path" in argv or "--demo_size" in argv else ["--data_path", str(contest)]
    assert main([*argv, *data, "--results_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_dry_run_prints_each_stages_state_and_trains_nothing(contest, tmp_path, capsys):
    argv = small_argv(contest, tmp_path)
    assert main([*argv, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "to do" in said and re.search(r"^proof: +train/a\d+.png is [012] \w+; ", said, re.M)
    left = {"fold_0", "config.json", "environment.json", "events.jsonl"} & {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert not left
    assert main([*argv, "--dry_run", "--quiet"]) == 0
    assert "to do" in capsys.readouterr().out
    assert main(argv) == 0
    capsys.readouterr()
    assert main([*argv, "--dry_run"]) == 0
    assert "to do" not in capsys.readouterr().out


def test_a_run_on_another_folder_under_the_same_name_is_named(tmp_path):
    config = build_config("quick_test")
    assert run_to_replace(tmp_path, config, "a/data") == ""
    (tmp_path
     / "environment.json").write_text(json.dumps({"data_path": str(Path("a/data").resolve())}))
    assert run_to_replace(tmp_path, config, "a/data") == ""
    assert run_to_replace(tmp_path, config, "b/data") == f"on {Path('a/data').resolve()}"


def test_a_finished_run_with_other_settings_under_the_same_name_is_named(tmp_path):
    said = []

    def start(*settings):
        config = build_config("quick_test", settings)
        if other := run_to_replace(tmp_path, config, "a/data"):
            said.append(other)

    write_json(tmp_path / "environment.json", {"data_path": str(Path("a/data").resolve())})
    write_json(tmp_path / "config.json", build_config("quick_test", []))
    start("optim.lr=0.1")      # it has no result to lose
    write_json(tmp_path / "final_results.json", {"mode": "quick_test"})
    start()
    start("runtime.workers=0", "runtime.quiet=on")
    assert said == []
    start("optim.lr=0.1", "runtime.time_budget_hours=1")
    assert said == ["with other settings (optim, --time_budget)"]
    (tmp_path / "config.json").write_text("[")
    start("optim.lr=0.1")
    assert len(said) == 1


def test_the_blends_score_is_that_of_the_stored_files(contest, tmp_path):
    """A few lines that share nothing with the product but the files."""
    backbones = "model.backbones=mobilenetv3_small_050,mobilenetv3_small_075"
    assert main(small_argv(contest, tmp_path, backbones, mode="full_training")) == 0
    run = tmp_path / "run"
    blend = json.loads(next(run.glob("ensemble-*/blend.json")).read_text())
    label = {r["ID"]: int(r["target"])
             for r in csv.DictReader((contest / "train.csv").read_text().splitlines())}
    total = {}
    for file in run.glob("fold_*/predict-*/valid.npz"):
        source = file.parent.name.removeprefix("predict-").rsplit("-", 1)[0]
        with np.load(file) as z:
            kept, ids = [view in blend["views"][source]
                         for view in z["views"]], z["sample_id"].tolist()
            probs = np.clip(z["view_probs"][kept].mean(0), 1e-7,
                            None) ** (1 / blend["temperature"][source])
        for i, row in zip(ids, probs / probs.sum(1, keepdims=True), strict=True):
            total[i] = total.get(i, 0) + blend["weights"][source] * row
    assert set(total) == set(label)
    guess = [int(np.argmax(total[i])) for i in label]
    score = f1_score(list(label.values()), guess, average="macro")
    assert score == pytest.approx(blend["score"], abs=1e-9)
    final = json.loads((run / "final_results.json").read_text())
    # without a shift
    assert final["score"]["oof_clean"] == final["score"]["oof_testlike"] == blend["score_nested"]
    for split, path in final["predictions"].items():
        with np.load(run / path) as z:
            assert len(z["sample_id"]) == len(z["probs"]) > 0 and split in ("out_of_fold",
                                                                            "out_of_fold_clean",
                                                                            "test")


def test_one_group_and_no_test_images_claim_nothing(tmp_path):
    """Intervals are of images, not of zero width; no score is said to be that of test images."""
    folder = make_contest(tmp_path / "shapes", per_class=15)
    shutil.rmtree(folder / "test")
    (folder / "sample_submission.csv").unlink()
    header, *rows = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([f"{header},who",
                                                 *(f"{row},w{i % 3}" for i,
                                                   row in enumerate(rows))]))
    argv = small_argv(folder, tmp_path, "data.near_duplicate_agreement=1")
    assert main([*argv, "--group_column", "who"]) == 0
    final = json.loads((tmp_path / "run/final_results.json").read_text())
    score, (low, high) = final["score"], final["score"]["oof_testlike_ci90"]
    assert low < high and any("are of 1 group(s): intervals resample images" in text
                              for text in final["warnings"])
    assert "by_confidence" not in score and score["expected"] == score["oof_testlike"] and score[
        "expected_ci90"] == [low, high]


def test_a_time_budget_leaves_out_what_does_not_fit_and_says_so(contest, tmp_path, capsys):
    backbones = "model.backbones=mobilenetv3_small_050,mobilenetv3_small_075"
    argv = [*small_argv(contest, tmp_path, backbones, "optim.epochs=50", mode="full_training"),
            "--time_budget", "0.001"]
    assert main(argv) == 0
    final = json.loads((tmp_path / "run/final_results.json").read_text())
    assert final["n_fits"] == 1 and (tmp_path / "run" / final["submission"]).exists()
    assert final["plan"]["dropped"] == ["mobilenetv3_small_050: folds 1, 2",
                                        "mobilenetv3_small_050: 1 of 50 epochs",
                                        "mobilenetv3_small_075: all its fits"]
    assert sum("left out to stay in --time_budget" in w for w in final["warnings"]) == 3
    capsys.readouterr()
    assert main(argv) == 0
    assert "fit 1/1 r0-mobilenetv3_small_050-s42 fold 0: done before" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/final_results.json").read_text())["plan"] == final["plan"]


def test_a_dry_run_says_what_each_fit_costs(contest, tmp_path, capsys):
    argv = [*small_argv(contest, tmp_path), "runtime.measure=on", "--dry_run"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "noise images" in out and re.search(
        r"fold 0  to do +2 +[0-9]+ +[0-9.]+ GiB\n1 fit\(s\) to do in about \d+ s", out)


def test_a_shift_that_the_measured_distortions_do_not_explain_is_said(contest, tmp_path,
                                                                      monkeypatch):
    policy = ShiftPolicy((Distortion("brightness", 1.0, 0.3, 0.3),))

    def unexplained(*values, **named):
        report, auc = match_shift(*values, **named), {"value": 0.97, "ci90": [0.96, 0.98]}
        groups = tuple(replace(group, policy=policy) for group in report.groups)
        return replace(report, policy=policy, groups=groups, auc_before=auc, auc_after=auc,
                       distance_before=1.0, distance_after=0.5)

    monkeypatch.setattr("running.preparing.match_shift", unexplained)
    argv = small_argv(contest, tmp_path, "augment.policy=matched")
    for _ in range(2):      # also where it was measured before
        assert main(argv) == 0
        warnings = json.loads((tmp_path / "run" / "final_results.json").read_text())["warnings"]
        assert any("explain 50% of how test images differ, so that only 67% of the training "
                   "images have them" in text for text in warnings)
