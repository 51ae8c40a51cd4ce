"""New images by a finished run whose folder was copied to a place without the contest: csv, --fast,
ONNX, plain timm."""
import csv
import json
import os
import re
import shutil
import socket
import stat
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from config import Config
from contest.decoding import decode_image
from data_loader import letterbox
from grandmaster_train import main as train
from predict import main as predict
from running.predictor import load_predictor
from tests.conftest import CLASSES, darker, identity, make_contest, small_argv

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    folder = make_contest(tmp_path_factory.mktemp("contest") / "shapes")
    (folder / "test" / "t003.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def copied(contest, tmp_path_factory):
    """A run of two backbones, two folds and a refit, copied away; the original is gone."""
    results, elsewhere = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp(
        "elsewhere") / "shapes"
    more = ("model.backbones=mobilenetv3_small_050,efficientvit_b0", "data.n_folds=2",
            "ensemble.refit=on", "optim.epochs=1", "ensemble.method=mean")
    assert train(small_argv(contest, results, *more, mode="full_training")) == 0
    shutil.move(results / "run", elsewhere)
    return elsewhere


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def probs_of(row):
    return [float(row[f"prob_{k}"]) for k in range(3)]


def test_the_runs_own_test_folder_gives_the_runs_own_test_probabilities(contest, copied, tmp_path,
                                                                        capsys):
    out = tmp_path / "p.csv"
    assert predict([str(copied), str(contest / "test"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "warning: left out: 1 image ('t003.png (not an image)')" in said.err
    assert re.search(
        r"10 image\(s\), 6 fit\(s\), 12 prediction\(s\).*\n9 image\(s\) in [0-9.]+ s, \d+ images/s",
        said.out)
    rows = rows_of(out)
    with np.load(next(copied.glob("ensemble-*/test.npz"))) as stored:
        expected = dict(zip(stored["sample_id"].tolist(), stored["probs"], strict=True))
    assert set(expected) == {row["id"] for row in rows} and len(rows) == 9
    for row in rows:
        np.testing.assert_allclose(probs_of(row), expected[row["id"]], atol=1e-5)
        k = int(np.argmax(probs_of(row)))
        assert (row["label"], row["class_name"], row["confidence"]) == (str(k), CLASSES[k],
                                                                        row[f"prob_{k}"])


def test_where_the_test_images_differ_some_views_are_adapted_to_them(tmp_path, monkeypatch):
    monkeypatch.setattr("running.preparing.match_shift", darker)
    contest = make_contest(tmp_path / "shapes", n_test=40)
    for path in (contest / "test").iterdir():
        cv2.imwrite(str(path), cv2.rotate(cv2.imread(str(path)), cv2.ROTATE_180) // 3)
    assert train(small_argv(contest, tmp_path, "augment.policy=matched", "optim.epochs=1")) == 0
    model = json.loads((tmp_path / "run" / "model.json").read_text())
    assert any(view["adapted"] for view in model["views"]) and model["fits"][0]["adapted"]
    assert predict([str(tmp_path / "run"), str(contest / "test"), "--out",
                    str(tmp_path / "p.csv")]) == 0
    with np.load(next((tmp_path / "run").glob("ensemble-*/test.npz"))) as stored:
        expected = dict(zip(stored["sample_id"].tolist(), stored["probs"], strict=True))
    for row in rows_of(tmp_path / "p.csv"):
        np.testing.assert_allclose(probs_of(row), expected[row["id"]], atol=1e-5)


def test_16_bit_images_are_read_in_the_range_of_the_run(contest, copied, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(copied, run)
    model = json.loads((run / "model.json").read_text())
    assert model["white_level"] == 65535
    model["white_level"] = 4095
    (run / "model.json").write_text(json.dumps(model))

    grey = cv2.imread(str(contest / "test" / "t001.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    cv2.imwrite(str(tmp_path / "b.png"), np.rint(grey * (4095 / 255)).astype(np.uint16))
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert predict([str(run), *images, "--fast", "--no_verify", "--out",
                    str(tmp_path / "p.csv")]) == 0
    plain, deep = rows_of(tmp_path / "p.csv")
    assert probs_of(plain) == probs_of(deep)

    del model["white_level"]        # a run of an earlier version
    (run / "model.json").write_text(json.dumps(model))
    assert predict([str(run), *images, "--fast", "--no_verify", "--out",
                    str(tmp_path / "p.csv")]) == 0
    plain, deep = rows_of(tmp_path / "p.csv")
    assert probs_of(plain) != probs_of(deep)


def test_fast_is_one_fit_in_one_view(contest, copied, tmp_path, capsys):
    assert predict([str(copied), "--fast", str(contest / "test" / "t001.png"), "--out",
                    str(tmp_path / "p.csv")]) == 0
    assert "1 image(s), 1 fit(s), 1 prediction(s)" in capsys.readouterr().out
    assert rows_of(tmp_path / "p.csv")[0]["id"] == str(contest / "test" / "t001.png")


def test_labels_follow_the_cuts_of_a_scale(contest, copied, tmp_path):
    graded = tmp_path / "graded"
    shutil.copytree(copied, graded)
    model = json.loads((graded / "model.json").read_text())
    model["metric"], model["blend"]["cuts"] = "quadratic_kappa", [-1.0, -0.5]
    (graded / "model.json").write_text(json.dumps(model))
    assert predict([str(graded), str(contest / "test"), "--no_verify", "--out",
                    str(tmp_path / "p.csv")]) == 0
    assert {row["label"] for row in rows_of(tmp_path / "p.csv")} == {"2"}


def test_files_that_are_no_images_by_their_names_are_named(copied, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jfif", "b.jpg"):
        cv2.imwrite(str(tmp_path / "image.jpg"), np.full((20, 30, 3), 128, np.uint8))
        shutil.copy(tmp_path / "image.jpg", folder / name)
    (folder / "c.svg").write_bytes(b"")
    assert predict([str(copied), str(folder), "--fast", "--out", str(tmp_path / "p.csv")]) == 0
    error = capsys.readouterr().err
    assert "1 file ('c.svg')" in error and "like those of images (.jpg, .jpeg, .jfif," in error
    assert [row["id"] for row in rows_of(tmp_path / "p.csv")] == ["a.jfif", "b.jpg"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="no such names there")
def test_an_image_whose_name_is_not_utf8_has_an_escaped_id(copied, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(tmp_path / "image.png"), np.full((20, 30, 3), 128, np.uint8))
    shutil.copy(tmp_path / "image.png", folder / os.fsdecode(b"a\xff.png"))
    assert predict([str(copied), str(folder), "--fast", "--out", str(tmp_path / "p.csv")]) == 0
    assert [row["id"] for row in rows_of(tmp_path / "p.csv")] == ["a\\udcff.png"]


@pytest.mark.parametrize(("damage", "images", "message"), [
    (lambda run: (run / "model.json").unlink(), ["test"],
     "RUN_FOLDER must be the folder of a finished run"),
    (lambda run: (run / "model.json").write_text("{}"), ["test"], "must be as its run wrote it"),
    (lambda run: shutil.rmtree(run / "fold_0"), ["test"], "2 are missing"),
    (lambda run: [path.write_bytes(path.read_bytes()[:999])
                  for path in run.rglob("weights.safetensors")], ["test"],
     "and 3 more changed: copy the run's folder again, or run its training"),
    (lambda run: (run / "model.json").write_text(
        (run / "model.json").read_text().replace('"fold_0/', '"../x/fold_0/')),
     ["test"], "must name weights in its own folder"),
    (lambda run: None, ["test/t003.png", "test/none.png"], "images that can be read, got none: "),
    (lambda run: None, ["empty"], "there are none in"),
    (lambda run: None, [], "at least one image or folder"),
])
def test_a_users_mistake_is_one_sentence_and_status_2(contest, copied, tmp_path, capsys, damage,
                                                      images, message):
    (tmp_path / "empty").mkdir()
    run = tmp_path / "run"
    shutil.copytree(copied, run)
    damage(run)
    paths = [str(tmp_path / i if i == "empty" else contest / i) for i in images]
    assert predict([str(run), *paths, "--out", str(tmp_path / "p.csv")]) == 2
    assert predict([str(run), *paths, "--out", str(tmp_path)]) == 2
    assert predict([str(run), "--no_such_flag"]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (tmp_path / "p.csv").exists()


def device_at(path):
    """A device node as /dev/null; the test is skipped where that is not allowed."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except (AttributeError, PermissionError):
        pytest.skip("a device node is not allowed here")


def bind_at(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def link_to_device(path):
    device_at(path.with_name("device"))
    path.symlink_to("device")


@pytest.mark.skipif(os.name == "nt", reason="such files cannot be made there")
@pytest.mark.parametrize("make", [device_at, os.mkfifo, bind_at, link_to_device,
                                  lambda path: path.symlink_to(path),
                                  lambda path: path.symlink_to("no_folder/p.csv")])
def test_out_never_replaces_a_device_a_pipe_a_socket_or_a_link_to_one(contest, copied, tmp_path,
                                                                      capsys, make):
    out = tmp_path / "out"
    make(out)
    before = {path: identity(path) for path in tmp_path.iterdir()}
    assert predict([str(copied), str(contest / "test"), "--fast", "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: --out must lead to a file or a new name") and not said.out
    assert {path: identity(path) for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(os.name == "nt", reason="links are rare there")
@pytest.mark.parametrize("is_there", [True, False])
def test_a_linked_out_is_followed(contest, copied, tmp_path, is_there):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "table.csv"
    if is_there:
        target.write_text("old")
    (tmp_path / "out.csv").symlink_to("far/table.csv")
    out = str(tmp_path / "out.csv")
    assert predict([str(copied), str(contest / "test"), "--fast", "--out", out]) == 0
    assert os.readlink(out) == "far/table.csv" and len(rows_of(target)) == 9
    assert os.listdir(tmp_path / "far") == ["table.csv"]


@pytest.mark.slow
def test_the_onnx_model_gives_what_fast_gives(contest, copied, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    out = tmp_path / "p.csv"
    assert predict([str(copied), str(contest / "test"), "--export", "onnx", "--fast", "--out",
                    str(out)]) == 0
    assert "probabilities as torch's to" in capsys.readouterr().out
    facts = json.loads((tmp_path / "shapes.json").read_text())
    stored = {p.key: p.value for p in onnx.load(tmp_path / "shapes.onnx").metadata_props}
    assert str(ROOT).encode() not in (tmp_path / "shapes.onnx").read_bytes()      # lines of code
    assert json.loads(stored["classes"]) == facts["classes"] == ["0", "1",
                                                                 "2"] and stored[
                                                                     "resize"] == "letterbox"
    session = runtime.InferenceSession(tmp_path / "shapes.onnx")
    assert [session.get_inputs()[0].name, *session.get_inputs()[0].shape[1:]] == ["images", 3, 32,
                                                                                  32]
    images = np.stack([letterbox(decode_image(contest / "test" / row["id"]), 32)
                       for row in rows_of(out)])
    got, = session.run(None, {"images": images.transpose(0, 3, 1, 2)})
    # the cache shrinks once more
    np.testing.assert_allclose(got, [probs_of(row) for row in rows_of(out)], atol=2e-2)


def test_a_missing_onnx_is_named(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert predict([str(copied), "--export", "onnx", "--out", str(tmp_path / "p.csv")]) == 2
    assert (
        "--export onnx needs the optional package onnx, which is not installed"
        in capsys.readouterr().err
    )


def test_the_lines_of_the_docs_load_the_weights_in_plain_timm(copied, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/predict.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(code.replace("training_results/NAME", str(copied)), names)
    network = names["network"]
    ours = load_predictor(copied, Config()).fast()
    ours = ours.network(ours.best)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()((images - ours.mean) / ours.std), ours(images))
