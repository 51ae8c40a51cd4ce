"""Loss and score of valid images while a fit trains: for the report alone."""
import pytest

from grandmaster_train import main
from reporting.curves import Point, read_curve, verdict
from tests.conftest import small_argv
from utils import csv_rows


@pytest.fixture(scope="module")
def runs(contest, tmp_path_factory):
    """{name: folder} of a run with and one without curves."""
    folder = tmp_path_factory.mktemp("curves")
    for name in ("on", "off"):
        argv = small_argv(contest, folder, f"runtime.curves={name}", "optim.epochs=3", name=name)
        assert main(["--quiet", *argv]) == 0
    return {name: folder / name for name in ("on", "off")}


def test_curves_change_no_byte_of_a_fit(runs):
    files = {name: {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")
                    if "fold_0" in path.parts and path.is_file()} for name, folder in runs.items()}
    assert files["on"].keys() == files["off"].keys()
    weights = [name for name in files["on"] if name.endswith(("weights.safetensors", ".npz"))]
    assert len(weights) >= 3
    for name in weights:
        assert files["on"][name].read_bytes() == files["off"][name].read_bytes(), name
    losses = {key: [row["loss"] for name, path in found.items() if name.endswith("history.csv")
                    for row in csv_rows(path)] for key, found in files.items()}
    assert losses["on"] == losses["off"] and len(losses["on"]) == 3


def test_a_curve_ends_with_the_score_that_the_fit_has(runs):
    path, = (runs["on"] / "curves").iterdir()
    points = read_curve(path)
    assert points[-1].epoch == 3 and 0 <= points[-1].score <= 1
    assert points[0].prior_loss == pytest.approx(1.0986, abs=0.05)
    assert not (runs["off"] / "curves").exists()
    text = (runs["on"] / "report.html").read_text()
    assert "loss on valid images by epoch" in text and "macro_f1 on valid images" in text
    assert "on valid images by epoch" not in (runs["off"] / "report.html").read_text()


def test_a_changed_file_of_a_curve_is_no_curve(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("epoch,loss\n1,oops\n")
    assert read_curve(path) == read_curve(tmp_path / "none.csv") == []


def curve(losses, scores=None, prior=1.1):
    scores = scores or [0.5] * len(losses)
    return [Point(k + 1, loss, score, prior)
            for k, (loss, score) in enumerate(zip(losses, scores, strict=True))]


@pytest.mark.parametrize(("losses", "scores", "words"), [
    ([0.9, 0.5, 0.6, 0.7], None, "This fit overfit: the loss on valid images was lowest after "
                                 "epoch 2, is 40% higher at the end"),
    ([0.9, 0.5, 0.6, 0.7], [0.5, 0.6, 0.7, 0.8], "This fit levelled off."),
    ([1.0, 0.9, 0.8, 0.5], None, "This fit underfit: the loss on valid images still fell by 38% in "
                                 "the last quarter"),
    ([1.0, 0.6, 0.5, 0.49], None, "This fit levelled off."),
    ([1.1, 1.1, 1.09], None, "This fit collapsed: on valid images no more is known"),
    ([0.9, 0.5], None, ""),
])
def test_a_curve_is_said_in_a_sentence(losses, scores, words):
    said = verdict({0: curve(losses, scores)}, sign=1)
    assert said.startswith(words) and bool(said) == bool(words)


def test_sentences_name_the_folds_they_are_about():
    level = curve([1.0, 0.6, 0.5, 0.49])
    bad = curve([0.9, 0.5, 0.6, 0.7])
    said = verdict({0: level, 1: bad, 2: bad}, sign=1)
    assert "The fit of fold 0 levelled off." in said and "The fits of folds 1, 2 overfit" in said
    assert verdict({0: level, 1: level}, sign=1) == "All 2 fits levelled off."
    # a smaller score is better: it still improves
    assert "levelled off" in verdict({0: curve([0.9, 0.5, 0.6, 0.7], [3, 2, 1, 0.5])}, sign=-1)
