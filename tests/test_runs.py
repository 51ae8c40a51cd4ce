"""All runs of a folder on one page, and two of them compared."""
import json
import time

import numpy as np
import pytest

from contest.audit import write_catalog
from contest.catalog import Catalog
from grandmaster_train import main
from modeling.inference import Predictions
from reporting import compare
from reporting.runs import write_index
from run_training import menu
from tests.conftest import small_argv
from tests.test_menu import typed
from tests.test_page import EVIL, Tags

N = 200
CLASSES = ("a", "b", "c")


def write_run(folder, probs=None, labels=None, ids=None, classes=CLASSES, metric="macro_f1"):
    """What --compare and the index read of a finished run."""
    folder.mkdir(parents=True)
    score = {"expected": 0.8, "expected_ci90": [0.7, 0.9], "oof_clean": 0.81}
    final = {"mode": "quick_test", "metric": metric, "score": score, "n_fits": 1, "seconds": 61.0,
             "classes": classes, "warnings": [], "submission": f"submission_{folder.name}.csv",
             "predictions": {"out_of_fold": "oof.npz", "out_of_fold_clean": "oof.npz"}}
    (folder / "final_results.json").write_text(json.dumps(final))
    (folder / "config.json").write_text(json.dumps(
        {"mode": "quick_test", "seed": 0, "optim": {"epochs": 12}, "runtime": {"device": "cpu"}}))
    (folder / "environment.json").write_text(json.dumps({"data_path": ".../shapes"}))
    if probs is not None:
        Predictions(np.array(ids), probs, classes, "valid", ("x",)).save(folder / "oof.npz")
        (folder / "audit-x").mkdir()
        catalog = Catalog(ids, [""] * len(ids), [""] * len(ids), labels, ids, classes)
        write_catalog(folder / "audit-x/catalog_train.csv", catalog, [""] * len(ids), "/")


def guesses(labels, right, rng):
    """Probabilities (n, 3) of which about the share `right` are right."""
    answers = np.where(rng.random(len(labels)) < right, labels, rng.integers(3, size=len(labels)))
    probs = np.full((len(labels), 3), 0.1, np.float32)
    probs[np.arange(len(labels)), answers] = 0.8
    return probs


@pytest.fixture
def two(tmp_path):
    """Runs `worse` and `better`, which share 150 of 200 images."""
    rng = np.random.default_rng(0)
    ids = [f"i{k:03}" for k in range(N)]
    labels = rng.integers(3, size=N)
    write_run(tmp_path / "worse", guesses(labels, 0.5, rng), labels, ids)
    write_run(tmp_path / "better", guesses(labels, 0.9, rng)[50:], labels[50:], ids[50:])
    return tmp_path


def compared(folder, *names, more=()):
    return main(["--results_dir", str(folder), "--compare", *names, *more])


def test_a_better_run_is_told_from_a_worse_one_on_their_common_images(two, capsys):
    assert compared(two, "worse", "better") == 0
    text = capsys.readouterr().out
    assert "macro_f1 on the 150 images that worse and better both predicted" in text
    assert text.count("better is better") == 2
    compared(two, "better", "worse", more=["--json"])
    final = json.loads(capsys.readouterr().out)
    assert final["splits"]["out_of_fold"]["change_ci90"][1] < 0 and final["n_relabelled"] == 0


def test_a_run_does_not_differ_from_itself(two, capsys):
    compared(two, "worse", "worse")
    assert capsys.readouterr().out.count(
        "+0.0000 (90 % interval +0.0000 to +0.0000), no difference") == 2


def test_two_runs_as_good_as_each_other_seldom_differ_clearly(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "DRAWS", 200)
    rng = np.random.default_rng(1)
    ids = [f"i{k:03}" for k in range(N)]
    labels = rng.integers(3, size=N)
    for k in range(11):
        write_run(tmp_path / str(k), guesses(labels, 0.7, rng), labels, ids)
    for k in range(10):
        compared(tmp_path, str(k), str(k + 1))
    lines = capsys.readouterr().out.splitlines()
    assert sum("made like the test set" in line and "no clear" in line for line in lines) >= 8


def test_relabelled_images_are_named(two, capsys):
    path = two / "worse/audit-x/catalog_train.csv"
    rows = path.read_text().splitlines()
    label = rows[100].split(",")[3]
    path.write_text("\n".join([*rows[:100], rows[100].replace(f",,{label},", ",,1," if label == "0"
                                                              else ",,0,"), *rows[101:]]) + "\n")
    compared(two, "worse", "better")
    assert "1 images have another label in better than in worse" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_sentence(two, capsys):
    write_run(two / "other", np.full((2, 2), 0.5, np.float32), [0, 1], ["x", "y"], ("a", "b"))
    write_run(two / "strange", np.full((2, 3), 1 / 3, np.float32), [0, 1], ["x", "y"])
    write_run(two / "graded", np.full((2, 3), 1 / 3, np.float32), [0, 1], ["x", "y"],
              metric="accuracy")
    for names, sentence in ((("worse", "gone"), "must name two finished runs"),
                            (("worse", "other"), "with the same classes"),
                            (("worse", "strange"), "share 0"),
                            (("worse", "graded"), "one metric for both runs, got accuracy and")):
        assert compared(two, *names) == 2
        said = capsys.readouterr().err
        assert sentence in said and len(said.splitlines()) == 1


def test_the_index_of_thirty_runs_is_small_fast_and_asks_for_nothing(tmp_path):
    for k in range(30):
        write_run(tmp_path / f"run {k:02}{EVIL if k == 3 else ''}".replace("/", "|"))
    (tmp_path / "run 29/config.json").write_text(json.dumps({"seed": 1, "optim": {"epochs": 20}}))
    (tmp_path / "run 28/final_results.json").write_text("cut o")
    start = time.perf_counter()
    write_index(tmp_path)
    assert time.perf_counter() - start < 1
    text = (tmp_path / "index.html").read_text()
    page = Tags(text)
    assert len(text) < 1_000_000 and "script" not in page.tags and "<script" not in text
    assert "default-src 'none'" in page.policy
    assert all(v.startswith(("data:", "run%20")) for v in page.fetched)
    assert text.count("not finished") == 1 and "seed <s>0</s> → 1" in text
    assert "optim.epochs <s>12</s> → 20" in text and "0.700 to 0.900" in text


def test_a_run_rewrites_the_index_at_its_end_and_the_menu_names_it(contest, tmp_path, monkeypatch,
                                                                   capsys):
    write_run(tmp_path / "before")
    assert main(["--quiet", *small_argv(contest, tmp_path, "optim.epochs=1")]) == 0
    text = (tmp_path / "index.html").read_text()
    assert "2 run(s)" in text and 'href="run/report.html"' in text
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("LC_ALL", "C")
    typed(monkeypatch, "a\nq\n")
    assert menu(str(tmp_path)) == 0
    assert f"report: {tmp_path.resolve() / 'index.html'}" in capsys.readouterr().out
