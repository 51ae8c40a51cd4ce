"""The embedded contest: what is drawn is what DEMO_CONTEST promises, measured on the drawn files.
"""
import hashlib
import os
import random
import re
from collections import Counter
from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest

import demo_contest
from demo_contest import CLASS_NAMES, DEFAULT_SIZE, SMALL_SIZE, answers_path, draw_contest, plan
from demo_contest.canvas import natural_tilt
from demo_contest.distort import draw_distortion
from system.parallel import parallel_map
from utils import UserError

# where the figures still move by a third of their bands by chance
SIZE = 0.25
HOSPITAL = {3, 4, 7, 14}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(the contest's folder, processor seconds it took: a busy machine changes them less than the
    clock)."""
    before = processor_seconds()
    folder = draw_contest(tmp_path_factory.mktemp("demo") / "contest", SIZE, seed=0, workers=2)
    return folder, processor_seconds() - before


def processor_seconds():
    """Of this process's finished children."""
    used = os.times()
    return used.children_user + used.children_system


def figures_of(path):
    """Mean grey, grey standard deviation, Laplacian variance, width, height of one file."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return grey.mean(), grey.std(), cv2.Laplacian(grey,
                                                  cv2.CV_32F).var(), grey.shape[1], grey.shape[0]


@pytest.fixture(scope="module")
def figures(drawn):
    """{split: figures of all its images (n, 5)}."""
    return {split: np.array(parallel_map(figures_of, sorted((drawn[0] / split).iterdir()), 2))
            for split in ("train", "test")}


def sha256s(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def landscape_share(rows):
    longer, shorter = rows[:, 3:].max(axis=1), rows[:, 3:].min(axis=1)
    of_forms = rows[np.abs(longer / shorter - 4 / 3) < 0.02]
    return np.mean(of_forms[:, 3] > of_forms[:, 4])


# ---------------------------------------------------------------- acceptance figures, train to test

def test_brightness_rises(figures):
    assert 20 <= figures["test"][:, 0].mean() - figures["train"][:, 0].mean() <= 25


def test_contrast_stays(figures):
    assert abs(figures["test"][:, 1].mean() - figures["train"][:, 1].mean()) <= 2


def test_sharpness_is_lost(figures):
    """The ratio of the mean (over images) Laplacian variances."""
    assert 0.38 <= figures["test"][:, 2].mean() / figures["train"][:, 2].mean() <= 0.47


def test_orientation_becomes_random(figures):
    assert landscape_share(figures["train"]) == pytest.approx(0.22, abs=0.04)
    assert landscape_share(figures["test"]) == pytest.approx(0.49, abs=0.04)


def test_a_quarter_of_the_test_images_are_almost_straight():
    rng = random.Random(0)
    degrees = [natural_tilt(rng) + (d.frame.degrees if (d := draw_distortion(rng)).frame else 0)
               for _ in range(20_000)]
    assert 0.22 <= np.mean(np.abs(degrees) < 1.5) <= 0.27


def test_distortions_have_their_shares():
    rng = random.Random(1)
    drawn = [draw_distortion(rng) for _ in range(20_000)]
    near = partial(pytest.approx, abs=0.012)
    assert np.mean([d.ghost is not None for d in drawn]) == near(0.27)
    assert np.mean([len(d.damage) > 0 for d in drawn]) == near(0.46)
    assert np.mean([len(d.damage) > 1 for d in drawn]) == near(0.46 * 0.25)
    assert np.mean([d.patch is not None for d in drawn]) == near(0.04)
    assert np.mean([d.flips for d in drawn], axis=0) == near(0.5)
    assert np.mean([d.frame is not None for d in drawn]) == near(0.78)
    assert {d.jpeg_quality for d in drawn} == set(range(85, 96))


def test_images_have_the_contest_s_area(figures):
    for rows in figures.values():
        assert np.abs(rows[:, 3] * rows[:, 4] / 261_800 - 1).max() < 0.02


# ---------------------------------------------------------------- files and tables

def test_counts_are_a_quarter_of_the_contest(drawn):
    folder, _ = drawn
    train, answers = pd.read_csv(folder / "train.csv"), pd.read_csv(answers_path(folder))
    labels = train.target.value_counts()
    assert labels.drop([1, 13, 14]).eq(25).all()
    assert labels[[1, 13, 14]].tolist() == [12, 18, 12]
    assert answers.target.value_counts().sort_index().equals(2 * labels.sort_index())
    assert {p.name for p in (folder / "train").iterdir()} == set(train.ID)
    assert {p.name for p in (folder / "test").iterdir()} == set(answers.ID)


def test_the_full_contest_is_the_origin_s():
    samples = plan(1, seed=0)
    assert Counter(s.split for s in samples) == {"train": 1570, "test": 3140}
    assert len({s.name for s in samples}) == len({s.seed for s in samples}) == 4710


def test_tables(drawn):
    folder, _ = drawn
    meta, submission = pd.read_csv(folder / "meta.csv"), pd.read_csv(folder
                                                                     / "sample_submission.csv")
    assert list(meta.columns) == ["target", "class_name"]
    assert tuple(meta.class_name) == CLASS_NAMES and meta.target.tolist() == list(range(17))
    assert list(submission.columns) == ["ID", "target"] and submission.target.eq(0).all()
    assert submission.ID.tolist() == pd.read_csv(answers_path(folder)).ID.tolist()


def test_names_and_order_tell_nothing(drawn):
    train = pd.read_csv(drawn[0] / "train.csv")
    assert all(re.fullmatch(r"[0-9a-f]{16}\.jpg", name) for name in train.ID)
    assert train.ID.is_monotonic_increasing
    assert abs(np.corrcoef(np.arange(len(train)), train.target)[0, 1]) < 0.15


def test_the_answers_lie_outside_the_contest(drawn):
    folder, _ = drawn
    assert answers_path(folder).parent == folder.parent
    assert not any("answer" in p.name for p in folder.rglob("*"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_six_in_a_thousand_train_labels_are_wrong_and_no_test_label(seed):
    wrong = [s for s in plan(1, seed) if s.shown != s.label]
    assert len(wrong) == 9 and {s.split for s in wrong} == {"train"}
    receipts = [s for s in wrong if (s.shown, s.label) == (11, 10)]
    assert len(receipts) == 2
    assert all({s.shown, s.label} <= HOSPITAL for s in wrong if s not in receipts)


# ---------------------------------------------------------------- determinism, refusals, time

def test_the_bytes_depend_on_seed_and_size_alone(tmp_path):
    one = draw_contest(tmp_path / "one", 0.01, seed=5, workers=1)
    two = draw_contest(tmp_path / "two", 0.01, seed=5, workers=2)
    assert sha256s(one) == sha256s(two)
    assert answers_path(one).read_bytes() == answers_path(two).read_bytes()
    assert len(sha256s(one)) == 17 * 5 * 3 + 4
    assert {s.name for s in plan(0.01, 5)}.isdisjoint(s.name for s in plan(0.01, 6))


def test_a_drawn_contest_is_not_drawn_again(drawn):
    folder, _ = drawn
    before = folder.stat().st_mtime_ns
    answers = answers_path(folder).read_bytes()
    answers_path(folder).unlink()
    assert draw_contest(folder, SIZE, seed=0) == folder
    assert folder.stat().st_mtime_ns == before and answers_path(folder).read_bytes() == answers


def test_another_contest_s_folder_is_refused(drawn):
    with pytest.raises(
        UserError, match=r"contest must be new, empty or hold the demo of .*choose another folder"
    ):
        draw_contest(drawn[0], SIZE, seed=1)


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError,
                       match="holds something else: delete it, or choose another folder"):
        draw_contest(tmp_path, 0.01)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("size", [0, -1, 4.01, float("nan"), "0.25", True, None])
def test_sizes_out_of_range_are_refused(tmp_path, size):
    with pytest.raises(
        UserError,
        match=f"--demo_size must be above 0 and at most 4 .*leave it out for {DEFAULT_SIZE}",
    ):
        draw_contest(tmp_path / "never", size)
    assert not any(tmp_path.iterdir())


def test_drawing_is_quick(drawn):
    """30 seconds on two cores; the bound allows for the busiest machine."""
    assert drawn[1] < 60


@pytest.mark.slow
def test_two_starts_at_once_draw_one_contest(tmp_path):
    folders = parallel_map(lambda _: draw_contest(tmp_path / "demo", 0.01, workers=1), range(2),
                           workers=2)
    assert folders == [tmp_path / "demo"] * 2 and not (tmp_path / "demo.partial").exists()
    assert len(list((tmp_path / "demo" / "train").iterdir())) == len(pd.read_csv(tmp_path / "demo"
                                                                                 / "train.csv"))


@pytest.mark.parametrize(("seconds", "cores", "size"), [
    (0.02, 2, DEFAULT_SIZE), (0.05, 2, SMALL_SIZE), (0.02, 8, DEFAULT_SIZE), (0.03, 1, SMALL_SIZE),
])
def test_a_very_slow_machine_gets_a_smaller_contest(seconds, cores, size, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_contest, "drawing_seconds", lambda: seconds)
    assert demo_contest.size_for(tmp_path, cores) == size


def test_the_size_that_is_drawn_already_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_contest, "drawing_seconds", lambda: 0.001)
    folder = demo_contest.folder_of(tmp_path, SMALL_SIZE)
    folder.mkdir()
    (folder / demo_contest.MARK).touch()
    assert demo_contest.size_for(tmp_path, 2) == SMALL_SIZE


def test_drawing_is_timed_in_cpu_seconds():
    assert 0.001 < demo_contest.drawing_seconds() < 1
