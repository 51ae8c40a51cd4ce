"""The member that reads the words in images. The recogniser is a stand-in where it is not asked
for by name."""
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import predict as predicting
from config import Config, build_config
from contest.catalog import Catalog
from ensemble import blend
from ensemble.tasks import TASKS
from grandmaster_train import main
from modeling import words
from modeling.inference import Predictions
from modeling.texts import TextHead, fit_text_heads, text_of
from modeling.words import Line
from predict import main as predict
from running import pipeline, predictor, text
from running import words as reading
from running.export import export_onnx
from running.first import members_of
from running.forecast import words_seconds
from running.predictor import load_predictor
from running.prune import EARLIER, spare_folders
from system.parallel import Lost, guarded_map
from tests.conftest import darker, make_contest, small_argv
from tests.kills import outcome
from utils import UserError, read_json

TITLES = ("DIAGNOSIS", "STATEMENT OF OPINION", "RECEIPT")


ROOT = Path(__file__).resolve().parents[1]
FONTS = Path("/usr/share/fonts")
REAL_READER = words.reader
ALONE = ("model.text=on", "model.backbones=", "model.frozen=")      # nothing is trained


def line(words, confidence=0.95):
    return Line(words, confidence, (0.1, 0.1, 0.9, 0.2))


def says_corners(language=""):
    """A recogniser of images with a grey corner, whose level tells the title."""
    def read(rgb, mirrored):
        return [line(f"{TITLES[int(rgb[0, 0, 0]) // 86]} of one patient in hospital")]
    return read


def with_corners(folder):
    """The images of a contest with a grey corner, by their class."""
    labels = dict(row.split(",") for row in (folder / "train.csv").read_text().splitlines()[1:])
    for path in sorted(folder.glob("t*/*.png")):
        image = cv2.imread(str(path))
        number = int(labels[path.name]) if path.name in labels else int(path.stem[1:]) % 3
        image[:2, :2] = 40 + 80 * number
        cv2.imwrite(str(path), image)
    return folder


@pytest.fixture(scope="module")
def titled(tmp_path_factory):
    """A contest whose images say their class to the stand-in, and to hardly anything else."""
    return with_corners(make_contest(tmp_path_factory.mktemp("titled") / "forms"))


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    """The stand-in, as if the packages were installed."""
    monkeypatch.setattr(words, "reader", says_corners)
    for module in (text, predictor):
        monkeypatch.setattr(module, "what_is_missing", lambda language="": "")
    reading.opened.cache_clear()
    yield
    reading.opened.cache_clear()


@pytest.fixture(scope="module")
def run(titled, tmp_path_factory):
    """The folder of a run with a text member in 3 folds and a network in one."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "reader", says_corners)
        patch.setattr(text, "what_is_missing", lambda language="": "")
        patch.setattr(blend, "useless", lambda *_: {})      # it hardly learns
        reading.opened.cache_clear()
        assert main(small_argv(titled, results, "model.text=on", "optim.epochs=1",
                               "ensemble.method=mean")) == 0
    return results / "run"


# ---------------------------------------------------------------- in a run

def test_a_text_member_has_every_fold_and_is_blended_like_any_other(run):
    final = read_json(run / "final_results.json")
    said, trained = final["sources"]
    assert (said["name"], said["folds"], trained["folds"]) == ("text-s42", 3, 1)
    assert said["score"] == 1 and said["weight"] == 0.5
    assert final["n_fits"] == 1 and final["warnings"] == []


def test_a_folds_texts_are_judged_by_a_classifier_that_did_not_see_them(run, titled):
    rows = {}
    for fold in range(3):
        file, = run.glob(f"fold_{fold}/predict-text-*/valid.npz")
        rows |= dict.fromkeys(Predictions.load(file).sample_id.tolist(), fold)
        stored, = run.glob(f"fold_{fold}/text-s42-*/text.npz")
        assert TextHead.load(stored).linear.weight.shape[0] == 3
    assert len(rows) == 36


def test_the_page_shows_what_words_speak_for_a_class_and_the_text_that_decides(run):
    page = (run / "report.html").read_text()
    assert "Words in the images" in page and "Images that the words decide" in page
    table = page[page.index("parts of words</th>"):page.index("Images that the words decide")]
    for name, title in zip(("circle", "cross", "stripes"), TITLES, strict=True):
        grams = re.search(f"<td>[^<]*{name}</td><td>(.*?)</td>", table)[1].split(" · ")
        assert all(gram in title.lower() for gram in grams[:2])
    # the network, which has hardly learnt, answers one class: words decide those of the two others
    decided = page[page.index("Images that the words decide"):]
    assert sum(f"{title} of one patient in hospital" in decided for title in TITLES) >= 2


def test_new_images_are_read_and_predicted_as_the_run_predicted_its_own(run, titled):
    stored = Predictions.load(next(run.glob("ensemble-*/test.npz")))
    ids = stored.sample_id.tolist()
    found = load_predictor(run, Config())
    none = [""] * len(ids)
    catalog = Catalog(ids, [str(titled / "test" / name) for name in ids], none, [-1] * len(ids),
                      none, found.classes)
    predictions, _ = found.predict(catalog)
    assert any(spec.text for spec in found.fits)
    np.testing.assert_allclose(predictions.align(ids), stored.probs, atol=1e-5)
    assert not any(spec.text for spec in found.fast().fits)      # a network


def test_without_the_packages_new_images_need_the_fast_way(run, titled, tmp_path, monkeypatch,
                                                           capsys):
    monkeypatch.setattr(predictor, "what_is_missing", lambda language: "nothing reads: pip")
    argv = [str(run), str(titled / "test"), "--out", str(tmp_path / "p.csv")]
    assert predict(argv) == 2
    said = capsys.readouterr().err
    assert "a text member, and nothing reads: pip, or predict with --fast" in said
    assert predict([*argv, "--fast"]) == 0


def test_an_export_says_that_it_leaves_the_text_member_out(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predicting, "export_onnx", lambda best, path: f"{path}: {best.best.title}")
    argv = [str(run), "--export", "onnx", "--out", str(tmp_path / "p.csv")]
    assert predict(argv) == 0
    file, left_out = capsys.readouterr().out.splitlines()
    assert "text" not in file      # a network was written
    assert left_out == (
        "the text member of the run's blend is left out: an ONNX model is one network")


def test_a_run_of_the_text_member_alone_has_no_network_to_export():
    alone = SimpleNamespace(best=SimpleNamespace(text=True))
    with pytest.raises(UserError, match="the run's blend has only the text member"):
        export_onnx(alone, Path("model.onnx"))


def test_a_run_with_a_text_member_is_verified_file_by_file(run, titled, capsys):
    verify = ["--verify", "run", "--results_dir", str(run.parent)]
    assert main(verify) == 0
    file, = run.glob("fold_0/text-s42-*/text.npz")
    before = file.read_bytes()
    file.write_bytes(before[:-1])
    assert main(verify) == 1
    with pytest.raises(UserError, match=r"text.npz must be as its run wrote it, but is damaged"):
        TextHead.load(file)
    file.write_bytes(before)


def test_prune_offers_the_words_of_earlier_settings_alone(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    earlier = shutil.copytree(next(copy.glob("words/test-*")), copy / "words/test-0000")
    spares = [spare.folder for spare in spare_folders(copy) if spare.reason == EARLIER]
    assert spares == [earlier]


def test_training_texts_are_also_read_from_images_made_like_the_test_images(
    titled, tmp_path, monkeypatch
):
    monkeypatch.setattr("running.preparing.match_shift", darker)
    argv = small_argv(titled, tmp_path, *ALONE, "augment.policy=matched")
    assert main(argv) == 0
    texts = {path.parent.name.split("-")[0]: reading.load_texts(path.parent)
             for path in tmp_path.glob("run/words/*/words.jsonl")}
    assert {name: len(each) for name, each in texts.items()} == {
        "train": 36, "testlike": 36, "test": 10}
    assert texts["train"] != texts["testlike"]


# ---------------------------------------------------------------- faults

def test_an_image_whose_reading_hangs_or_dies_counts_as_one_without_words(
    titled, tmp_path, monkeypatch, capsys
):
    seen = {path.name: cv2.imread(str(path)).tobytes() for path in (titled / "train").glob("*")}

    def faulty(language=""):
        def read(rgb, mirrored):
            name = next((n for n, b in seen.items() if b == rgb[..., ::-1].tobytes()), "")
            if name == "a001.png":
                os._exit(9)
            if name == "a002.png":
                time.sleep(30)
            if name == "a003.png":
                raise RuntimeError("no session")
            return says_corners()(rgb, mirrored)
        return read

    monkeypatch.setattr(words, "reader", faulty)
    monkeypatch.setattr(reading, "SECONDS", 0.5)
    assert main(small_argv(titled, tmp_path, *ALONE)) == 0
    said = read_json(tmp_path / "run/final_results.json")["warnings"]
    assert said == ["the words in 3 train images ('a001.png (its process ended)', 'a002.png (it "
                    "took more than 0.5 s)', 'a003.png (RuntimeError: no session)') could not be "
                    "read"]


KILLED_AT_SEVEN = """
import os, signal, sys
from tests.test_text import main, reading, says_corners, text, words

def killed(self, entry, add=reading.Cache.add):
    add(self, entry)
    if len(self.known) == 7:
        os.kill(os.getpid(), signal.SIGKILL)

reading.Cache.add = killed
words.reader = says_corners
text.what_is_missing = lambda language="": ""
main(sys.argv[1:])
"""


def test_a_killed_reading_goes_on_with_the_images_left_and_ends_with_the_same_bytes(
    titled, tmp_path, monkeypatch
):
    argv = small_argv(titled, tmp_path / "whole", *ALONE, "data.n_folds=2")
    assert main(argv) == 0
    argv[argv.index(str(tmp_path / "whole"))] = str(tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    # in a process of its own: a fork of this one would have its locks, but not its threads
    ended = subprocess.run([sys.executable, "-c", KILLED_AT_SEVEN, *argv], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    cache, = (tmp_path / "cut").glob(".words-*.jsonl")
    assert len(cache.read_text().splitlines()) == 7
    with open(cache, "ab") as f:
        f.write('{"pixels": "진'.encode()[:-1])      # half of a line and of a letter
    asked = []
    monkeypatch.setattr(words, "reader", lambda language="": lambda rgb, mirrored: (
        (tmp_path / "asked").open("a").write("x"), says_corners()(rgb, mirrored))[1])
    reading.opened.cache_clear()
    assert main(argv) == 0 and not asked
    assert len((tmp_path / "asked").read_text()) == 46 - 7
    assert outcome(tmp_path / "cut/run") == outcome(tmp_path / "whole/run")


# ---------------------------------------------------------------- when

@pytest.fixture
def decided(titled, tmp_path, monkeypatch, capsys):
    """A function of settings: what a run says until it knows whether it has a text member."""
    found = []

    def stops(setup, prepared):
        found[:] = members_of(setup, prepared)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "members_of", stops)

    def said(*settings, name="run"):
        main(small_argv(titled, tmp_path / name, "model.text=auto", *settings))
        return f"{''.join(capsys.readouterr())}members: {[member.name for member in found]}"

    return said


def test_auto_reads_where_a_sample_holds_words_and_not_elsewhere(decided, monkeypatch):
    said = decided()
    assert "a text member: 100% of 36 training images hold 5 sure words or more" in said
    assert "members: ['text']" in said
    monkeypatch.setattr(words, "reader", lambda language="": lambda rgb, mirrored: [
        line("a sure line of five words", 0.5), line("OPEN")])
    reading.opened.cache_clear()
    said = decided(name="other")
    assert "no text member: 0% of 36 training images hold 5 sure words or more" in said
    assert "members: []" in said


def test_auto_leaves_it_out_where_the_budget_is_too_small(decided, monkeypatch):
    monkeypatch.setattr(text, "seconds_to_read", lambda *_: 4000.0)
    said = decided("runtime.time_budget_hours=1")
    assert "reading all takes about 67 min, more than 20% of --time_budget" in said
    assert "members: []" in said


def test_without_the_packages_auto_goes_on_and_on_stops(decided, monkeypatch):
    missing = "the words in images are read by an optional package: pip install rapidocr"
    monkeypatch.setattr(text, "what_is_missing", lambda language: missing)
    said = decided()
    assert f"warning: no text member: {missing}" in said and "members: []" in said
    assert f"model.text=on cannot be had here: {missing}" in decided("model.text=on")


def test_only_competition_ready_looks_for_words_by_itself():
    assert [build_config(mode).model.text for mode in (
        "quick_test", "full_training", "competition_ready", "debug")] == ["off", "off", "auto",
                                                                          "off"]


def test_the_plan_shows_what_reading_costs(run, decided, titled, tmp_path, capsys):
    argv = [*small_argv(titled, tmp_path / "run", "model.text=auto"), "--dry_run"]
    assert main(argv) == 0
    assert "is found when the run starts" in capsys.readouterr().out
    decided()
    assert main(argv) == 0
    assert ("text-s42  3 folds without training, before all fits: to do, reading in about 0 s"
            in capsys.readouterr().out)
    assert main([*small_argv(titled, run.parent, "model.text=on"), "--dry_run"]) == 0
    assert "before all fits: done" in capsys.readouterr().out


def test_the_forecast_counts_what_reading_takes(titled, monkeypatch):
    monkeypatch.setattr(words, "reader", lambda language="": slow)
    paths = sorted(map(str, (titled / "train").glob("*.png")))
    assert words_seconds(build_config("quick_test", ["model.text=on"]), paths) > 0.02
    assert words_seconds(build_config("quick_test"), paths) == 0


def slow(rgb, mirrored):
    """A recogniser that takes its time."""
    time.sleep(0.03)
    return []


def test_sets_and_numbers_have_no_text_member():
    config = build_config("competition_ready", ["model.text=on"])
    config, said = TASKS["multilabel"].adapt(config)
    assert config.model.text == "off" and any("text member" in each for each in said)


# ---------------------------------------------------------------- the classifiers

def even(labels):
    return np.ones(3)


def test_classifiers_know_what_words_tell_and_find_nothing_in_none():
    labels = np.arange(90) % 3
    folds = np.arange(90) // 3 % 3
    rng = np.random.default_rng(0)
    texts = [text_of([line(f"{TITLES[k]} {''.join(rng.choice(list('abcdefgh'), 9))}")])
             for k in labels]
    heads = fit_text_heads([texts], labels, folds, even)
    for fold, head in heads.items():
        own = [texts[i] for i in np.flatnonzero(folds == fold)]
        assert (head.logits(own).argmax(1) == labels[folds == fold]).mean() > 0.9
        assert np.ptp(head.logits([text_of([])])) < np.ptp(head.logits(own))
    blank = fit_text_heads([[text_of([])] * 90], labels, folds, even)[0]
    np.testing.assert_allclose(blank.logits(["<0>", "x"]), 0, atol=1e-6)


def test_a_classifier_of_words_is_blind_to_its_fold():
    labels = np.arange(60) % 3
    folds = np.arange(60) // 3 % 3
    texts = [text_of([line(f"{TITLES[k]} {i % 7}")]) for i, k in enumerate(labels)]
    heads = fit_text_heads([texts], labels, folds, even)
    for fold in range(3):
        others = [f"other {i}" if folds[i] == fold else said for i, said in enumerate(texts)]
        head = fit_text_heads([others], np.where(folds == fold, 0, labels), folds, even)[fold]
        assert head.grams.tolist() == heads[fold].grams.tolist()
        np.testing.assert_array_equal(head.linear.weight, heads[fold].linear.weight)


def test_digits_count_as_digits_and_unsure_lines_do_not_count():
    assert text_of([line("No. 2024-11"), line("Ghost", 0.3)]) == "no. 0000-00\n<1>"


# ---------------------------------------------------------------- the recogniser

def test_lines_are_found_in_every_way_that_they_may_lie():
    """By stand-ins: a line is a box of one grey level, whose gradient is read from left to right.
    """
    strip = np.linspace(60, 180, 120, dtype=np.uint8)
    upright = np.full((200, 300, 3), 255, np.uint8)
    upright[20:40, 50:170] = strip[None, :, None]

    def find(image):
        dark = image[..., 0] < 220
        y, x = np.where(dark)
        left, top, right, bottom = x.min(), y.min(), x.max() + 1, y.max() + 1
        return np.array([[[left, top], [right, top], [right, bottom], [left, bottom]]], float)

    def says(crops):
        rows = [crop.mean((0, 2)) for crop in crops]
        is_up = [row[-5:].mean() > row[:5].mean() for row in rows]
        return [("DIAGNOSIS", 0.99) if up else ("zzzzzzzz", 0.2) for up in is_up]

    for turned_by in ("", "rotate_180", "flip_horizontal", "rotate_90", "transpose"):
        image = np.ascontiguousarray(words.turn(upright, turned_by))
        found, = words.lines_of(image, find, says, mirrored=True)
        assert found.text == "DIAGNOSIS"
    assert words.lines_of(upright, lambda image: np.zeros((0, 4, 2)), says, mirrored=False) == []


def drawn(lines, font):
    """A form (420, 560, 3) with lines of text below each other, the first as a title.

    font(size) -> a font of Pillow.
    """
    image = Image.new("RGB", (560, 420), "white")
    pen = ImageDraw.Draw(image)
    for row, text_line in enumerate(lines):
        pen.text((40, 40 + 60 * row), text_line, fill=(20, 20, 20), font=font(24 if row else 34))
    return np.asarray(image)


def test_rapidocr_reads_a_drawn_form_whichever_way_it_lies():
    if missing := words.what_is_missing():
        pytest.skip(missing)
    said = ["STATEMENT OF OPINION", "Hospital 2024.11.30"]
    image = drawn(said, ImageFont.load_default)
    read = REAL_READER()
    for turned_by in ("", "transpose", "rotate_180"):
        lines = read(np.ascontiguousarray(words.turn(image, turned_by)), True)
        assert [line.text for line in lines] == said
        assert all(line.confidence > 0.9 for line in lines)
        assert lines[0].place[1] < 0.15 < lines[0].place[3] < 0.25 < lines[1].place[3]


def test_tesseract_reads_korean_with_its_language_data():
    if missing := words.what_is_missing("kor+eng"):
        pytest.skip(missing)
    font = next(FONTS.glob("**/NanumGothic.ttf"), None)
    if font is None:
        pytest.skip("no Korean font lies here: apt-get install fonts-nanum")
    image = drawn(["진단서", "입원 확인서", "병원 2024.11.30"], partial(ImageFont.truetype, font))
    lines = REAL_READER("kor+eng")(image, False)
    assert [line.text.replace(" ", "") for line in lines][:2] == ["진단서", "입원확인서"]
    assert "2024.11.30" in lines[2].text


def test_what_must_be_installed_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setattr(words.importlib.util, "find_spec", lambda name: None)
    assert words.what_is_missing() == ("the words in images are read by an optional package: pip "
                                       "install rapidocr onnxruntime")
    monkeypatch.setattr(words.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(words.shutil, "which", lambda name: None)
    assert "apt-get install tesseract-ocr-kor" in words.what_is_missing("kor+eng")


def test_a_call_that_hangs_or_dies_loses_its_item_only():
    def square(x):
        if x == 3:
            os._exit(3)
        if x == 5:
            time.sleep(9)
        if x == 6:
            raise ValueError("no")
        return x * x

    found = dict(guarded_map(square, range(8), 2, 0.4))
    assert found == {0: 0, 1: 1, 2: 4, 4: 16, 7: 49, 3: Lost("its process ended"),
                     5: Lost("it took more than 0.4 s"), 6: Lost("no")}

    def dies_after(x):
        threading.Timer(0.5, lambda: os._exit(9)).start()
        return x

    answers = guarded_map(dies_after, range(2), 1, 9)
    assert next(answers) == (0, 0)
    time.sleep(1.5)      # until the process that answered is gone
    assert list(answers) == [(1, 1)]

    def broken(x):
        raise UserError("this is for the user")

    with pytest.raises(UserError, match="this is for the user"):
        list(guarded_map(broken, [1, 2], 2, 5))
