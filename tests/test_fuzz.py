"""Slices of tests/fuzz.py and tests/kills.py, each in a process that may fork; and the
fuzz's judge can say no."""
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import NAME, content_of, some_table, wrong_in, wrong_labels

ROOT = Path(__file__).resolve().parent.parent
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def said_by(*command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
                          capture_output=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@forks
def test_thirty_damaged_contests_end_in_a_finished_check_or_a_named_problem():
    assert "30 of 30 variants" in said_by("tests.fuzz", "--n", "30", "--seed", "7")


@forks
@pytest.mark.slow
def test_twelve_kills_of_a_competition_ready_run_end_in_the_same_bytes():
    said = said_by("tests.kills", "--kills", "12", "--seed", "1")
    assert "12 kills over" in said and " 0 differ" in said


FINE = f"data              passed   8 images\n{NAME} passed  x\n7 passed, 0 failed, 0 warnings\n"


@pytest.mark.parametrize(("status", "said", "named", "lost", "wrong"), [
    (0, FINE, [], [], ""),
    (0, FINE, ["train/a.png"], ["a.png"], ""),
    (0, FINE, ["b.png"], ["a.png"], "destroyed images that no problem names: ['a.png']"),
    (1, FINE, [], [], "exit status 1"),
    (0, FINE.replace("0 failed", "1 failed"), [], [], "exit status 0"),
    (-1, "Traceback (most recent call last):\n", [], [], "a traceback"),
    (1, "data              FAILED   KeyError: 'a'\n6 passed, 1 failed, 0 warnings\n", [], [],
     "an error that is no sentence"),
    (0, FINE + "\x1b[2J", [], [], "a raw control character"),
])
def test_the_judge_can_say_no(tmp_path, status, said, named, lost, wrong):
    got = wrong_in(status, said, named, lost, tmp_path)
    assert got.startswith(wrong) and bool(got) == bool(wrong)
    (tmp_path / "owned").mkdir()
    assert wrong_in(status, said, named, lost, tmp_path)


@pytest.mark.parametrize(("done", "labels", "is_wrong"), [
    (["folders", "nested"], {"a00.png": "x", "a03.png": "x", "a01.png": "y"}, False),
    (["folders", "nested"], {"a00.png": "x", "a03.png": "y"}, True),
    (["folders", "nested"], {"a00.png": "x", "a01.png": "x"}, True),
    (["numbered", "no_header"], {"a00.png": "1", "a03.png": "2"}, True),
    (["numbered", "one_class"], {"a00.png": "1", "a01.png": "1"}, False),
    (["in_file_names"], {"cat.0.png": "cat", "dog.1.png": "dog", "cat.2.png": "cat"}, False)])
def test_the_judge_knows_the_true_classes(done, labels, is_wrong):
    assert bool(wrong_labels(done, labels, has_table=True)) == is_wrong


@pytest.mark.parametrize(("done", "has_table"), [
    (["folders", "all_in_one"], True), (["one_hot", "a_file_for_a_folder"], False)])
def test_the_judge_knows_where_nothing_says_the_classes_any_more(done, has_table):
    labels = {"a00.png": "a", "a01.png": "a", "a02.png": "a"}
    assert wrong_labels(done, labels, has_table) == ""
    assert wrong_labels(done, labels, not has_table) == "" or "one_hot" in done


def test_an_image_that_a_second_damage_makes_whole_is_not_destroyed(tmp_path):
    path = tmp_path / "a00.png"
    path.write_bytes(b"")
    before = content_of(path)
    assert content_of(path) == before
    path.write_bytes(b"whole")
    assert content_of(path) != before
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert content_of(path) not in (before, b"whole", None)


def test_a_damage_does_not_read_a_table_without_end(tmp_path):
    (tmp_path / "train.csv").symlink_to("/dev/zero")
    with pytest.raises(FileExistsError):
        some_table(tmp_path, random.Random(0))
