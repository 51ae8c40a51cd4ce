"""What a machine does to a run, really done: full disks, killed processes, changed files, signals.
docs/faults.md is the table.

Every test ends in the outcome of an undisturbed run, after one more start of the same command where
the fault ended it.
"""
import ast
import contextlib
import csv
import errno
import io
import json
import multiprocessing
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import run_training
import utils
from config import DataConfig
from contest.intake import read_contest
from grandmaster_train import main
from modeling.train import train_step
from predict import find_images
from predict import main as predict
from system import log, machine, stages
from system.command import run_command
from tests.conftest import (
    CLASSES,
    cut_before,
    identity,
    make_contest,
    permissions_hold,
    small_argv,
)
from tests.test_layers import PRODUCT
from tests.test_resume import outcome
from utils import UserError, csv_text, quoted_cell, unquoted_cell

ROOT = Path(__file__).resolve().parent.parent
AGAIN = "run the same command again to continue"


@pytest.fixture(scope="module")
def watched(contest, tmp_path_factory):
    """(outcome, names that files and folders got, files that were not on the disk by then) of a run
    that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    fsync = os.fsync
    replace = os.replace
    on_disk = {}
    renamed = []
    late = []

    def content(status):
        return status.st_size, status.st_mtime_ns

    def sync(number):
        fsync(number)
        status = os.fstat(number)
        on_disk[status.st_ino] = content(status)

    def rename(source, target):
        files = [path for path in (Path(source), *Path(source).rglob("*")) if path.is_file()]
        statuses = {path: path.stat() for path in files}
        late.extend(p for p, s in statuses.items() if on_disk.get(s.st_ino) != content(s))
        renamed.append(Path(target).name)
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        patch.setattr(os, "replace", rename)
        assert main(small_argv(contest, folder)) == 0
    return outcome(folder / "run"), renamed, late


@pytest.fixture(scope="module")
def undisturbed(watched):
    """The outcome of a run that nothing happens to."""
    return watched[0]


def ended(folder, undisturbed, *expected_warnings):
    """Whether a run ended as the undisturbed one, but for the warnings that hold these texts."""
    (submission, final), (its_submission, its_final) = outcome(folder), undisturbed
    more = [w for w in final["warnings"] if w not in its_final["warnings"]]
    return (
        submission == its_submission
        and final | {"warnings": []} == its_final | {"warnings": []}
        and len(more) == len(expected_warnings)
        and all(t in w for t, w in zip(expected_warnings, more, strict=True))
    )


@contextlib.contextmanager
def mounted(folder, *options):
    """A tmpfs with these options at `folder`; the test is skipped where that is not allowed."""
    folder.mkdir(exist_ok=True)
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", *options, "none",
                                                  str(folder)], capture_output=True,
                                                 check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def in_step(number, monkeypatch, do, lasting=False):
    """Call `do` in the n-th step of training; lasting: and in each attempt after it."""
    left = [number]

    def step(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 or (lasting and left[0] < 0):
            do()
        return train_step(*args, **kwargs)

    monkeypatch.setattr("modeling.train.train_step", step)


def fail(error):
    raise error


# ---------------------------------------------------------------- disk

@pytest.mark.parametrize("size_kib", [
    5000, *(pytest.param(size, marks=pytest.mark.slow) for size in (100, 300, 1500, 9000))])
def test_a_full_disk_is_one_sentence_leaves_nothing_half_written_and_the_run_goes_on(
        contest, undisturbed, tmp_path, monkeypatch, capsys, size_kib):
    with mounted(tmp_path / "disk", "-o", f"size={size_kib}k") as disk:
        with monkeypatch.context() as patch:
            # as if another program took the space meanwhile
            patch.setattr("running.pipeline.need_space", lambda *_: None)
            patch.setattr("running.preparing.need_space", lambda *_: None)
            assert main(small_argv(contest, disk)) == 1
        error = capsys.readouterr().err
        assert error.startswith("the run failed: the disk is full (") and error.count(
            "\n") == 1 and AGAIN in error
        sealed = [p.parent for p in disk.glob("run/**/manifest.json") if ".partial" not in str(p)]
        assert all(stages.damaged_files(folder) == [] for folder in sealed)
        assert not list(disk.glob("run/submission_*")) and not list(
            disk.glob("run/final_results.json"))
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert main(small_argv(contest, disk)) == 0
        assert ended(disk / "run", undisturbed)


@pytest.mark.parametrize(("size_kib", "what"), [(100, "46 reduced images"), (4000, "1 fit(s)")])
def test_a_disk_that_will_not_do_is_named_before_it_is_full(contest, tmp_path, capsys, size_kib,
                                                            what):
    with mounted(tmp_path / "disk", "-o", f"size={size_kib}k") as disk:
        assert main(small_argv(contest, disk)) == 1
        error = capsys.readouterr().err
        assert f"GiB free for {what}, and 0.00 GiB are: free some" in error
        assert not list(disk.glob("run/fold_0/*"))


def test_a_read_only_contest_folder_is_enough(contest, undisturbed, tmp_path):
    with mounted(tmp_path / "data") as data:
        shutil.copytree(contest, data / "shapes")
        subprocess.run(["mount", "-o", "remount,ro", str(data)], check=True)
        with pytest.raises(OSError):
            (data / "shapes" / "x").write_text("")
        assert main(small_argv(data / "shapes", tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed)


def test_a_results_folder_that_cannot_be_written_is_one_sentence(contest, tmp_path, capsys):
    with mounted(tmp_path / "disk", "-o", "ro") as disk:
        assert main(small_argv(contest, disk)) == 1
    assert (
        "the run failed: a file could not be used ([Errno 30] Read-only file system"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_every_file_of_a_run_has_the_access_rights_that_the_umask_leaves(contest, tmp_path, umask):
    before = os.umask(umask)
    try:
        assert main(small_argv(contest, tmp_path)) == 0
    finally:
        os.umask(before)
    rights = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.glob("run/**/*") if p.is_file()}
    assert "weights.safetensors" in rights
    assert {name for name, mode in rights.items() if mode != 0o666 & ~umask} == set()


def test_a_results_folder_that_is_a_link_is_followed_and_anything_else_is_one_sentence(
        contest, undisturbed, tmp_path, capsys):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far")
    assert main(small_argv(contest, tmp_path / "link")) == 0
    assert ended(tmp_path / "far" / "run", undisturbed)
    assert os.readlink(tmp_path / "link") == "far"
    capsys.readouterr()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to("no folder")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "nowhere", "pipe"):
        before = identity(tmp_path / name)
        assert main(small_argv(contest, tmp_path / name)) == 1
        error = capsys.readouterr().err
        assert error.startswith("the run failed: a file could not be used") and error.count(
            "\n") == 1
        assert identity(tmp_path / name) == before


# ---------------------------------------------------------------- permissions

def class_folders(contest, above="train"):
    """Turn the contest's table of labels into class folders below `above`."""
    for i, image in enumerate(sorted((contest / "train").iterdir())):
        folder = contest / above / CLASSES[i // 12]
        folder.mkdir(parents=True, exist_ok=True)
        image.rename(folder / image.name)
    (contest / "train.csv").unlink()
    (contest / "meta.csv").unlink()
    return contest


@pytest.fixture
def closed():
    """A function that makes a folder, with an image in it, and takes its permissions away."""
    folders = []

    def close(folder, mode=0):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "image.png").touch()
        folder.chmod(mode)
        folders.append(folder)

    yield close
    for folder in folders:
        folder.chmod(0o700)


@pytest.mark.parametrize("mode", [0, 0o400, 0o100])      # neither; listed alone; entered alone
@pytest.mark.parametrize("name", ["private", "notes/private"])
@pytest.mark.parametrize("make", [make_contest, lambda path: class_folders(make_contest(path))])
def test_a_folder_without_access_where_no_image_belongs_is_a_warning(tmp_path, closed, mode, name,
                                                                     make):
    contest = make(tmp_path / "shapes")
    closed(contest / name, mode)
    with permissions_hold():
        read = read_contest(contest, DataConfig())
    [text] = [p.text for p in read.problems if p.kind == "closed_folder"]
    assert text.startswith(f"1 folder ('{name}') may not be read (no permission): left out")
    assert len(read.train) == 36 and len(read.test) == 10


@pytest.mark.parametrize("mode", [0, 0o400, 0o100])
@pytest.mark.parametrize(("make", "name"), [
    (make_contest, "train"), (make_contest, "test"),
    (lambda path: class_folders(make_contest(path)), "train/star"),
    (lambda path: class_folders(make_contest(path)), "train"),
    (lambda path: class_folders(make_contest(path)), "test/part 2"),
    (lambda path: class_folders(make_contest(path), "images"), "images/star"),
    (lambda path: class_folders(make_contest(path), ""), "star"),
])
def test_a_folder_without_access_where_images_belong_stops_the_run_in_one_sentence(
        tmp_path, closed, mode, make, name):
    contest = make(tmp_path / "shapes")
    if name == "test/part 2":      # only the folder says which test images there are
        (contest / "sample_submission.csv").unlink()
    if name == "star":      # as beside class folders
        shutil.rmtree(contest / "test")
        (contest / "train").rmdir()
    closed(contest / name, mode)
    with permissions_hold(), pytest.raises(UserError) as error:
        read_contest(contest, DataConfig())
    sentences = [text for text in error.value.args if "(no permission)" in text]
    assert len(sentences) == 1 and f"1 folder ('{name}') may not be read" in sentences[0]
    assert "chmod -R u+rX" in sentences[0]


def test_a_contest_folder_without_access_is_one_sentence(tmp_path, closed):
    contest = make_contest(tmp_path / "above" / "shapes")
    for folder, mode, why in ((contest, 0, "may not be read"), (contest, 0o400, "may not be read"),
                              (contest, 0o100, "may not be read"),
                              (tmp_path / "above", 0, "cannot be opened (Permission denied)")):
        closed(folder, mode)
        with permissions_hold(), pytest.raises(UserError, match=re.escape(why)) as error:
            read_contest(contest, DataConfig())
        assert str(error.value).startswith("--data_path must be") and "\n" not in str(error.value)
        folder.chmod(0o700)


def test_predict_names_what_it_may_not_read_and_reads_the_rest(tmp_path, closed):
    contest = make_contest(tmp_path / "shapes")
    closed(contest / "test" / "private")
    (contest / "test" / "t000.png").rename(contest / "test" / "t000")      # no suffix
    (contest / "test" / "t000").chmod(0)
    with permissions_hold():
        catalog, refused, _ = find_images([str(contest / "test")], ("a", "b"))
    assert len(catalog) == 9
    assert refused == ["t000", (contest / "test" / "private").as_posix()]


# ---------------------------------------------------------------- files that change

def damage(path, how):
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:len(data) // 2],
                      "changed": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}[how])


def test_stages_that_changed_on_the_disk_are_named_and_made_again(contest, undisturbed, tmp_path,
                                                                  capsys):
    assert main(small_argv(contest, tmp_path)) == 0
    run = tmp_path / "run"
    for damages in ((("audit-*/pixels_train.bin", "truncated"), ("shift-*/shift.json", "changed"),
                     ("folds-*/folds.csv", "empty")), (("fold_0/predict-*/test.npz", "truncated"),
                                                       ("ensemble-*/blend.json", "changed")),
                    (("fold_0/r0-*/weights.safetensors", "changed"), ("ensemble-*/manifest.json",
                                                                      "empty"))):
        paths = [next(run.glob(pattern)) for pattern, _ in damages]
        for path, (_, how) in zip(paths, damages, strict=True):
            damage(path, how)
        assert main(["--verify", "run", "--results_dir", str(tmp_path)]) == 1
        said = capsys.readouterr().out
        assert all(f"changed: {path.relative_to(run).as_posix()}" in said for path in paths)
        assert main(small_argv(contest, tmp_path)) == 0
        assert ended(run, undisturbed,
                     *(f"{p.parent.name} is made again: '{p.name}' changed on the disk"
                       for p in paths))
        assert main(["--verify", "run", "--results_dir", str(tmp_path)]) == 0


def test_verify_names_every_change_and_a_run_that_is_none(contest, tmp_path, capsys):
    assert main(small_argv(contest, tmp_path)) == 0
    run, verify = tmp_path / "run", ["--verify", "run", "--results_dir", str(tmp_path)]
    capsys.readouterr()
    assert main(verify) == 0
    n_files = int(capsys.readouterr().out.split()[0])
    damage(run / "submission_run.csv", "changed")
    damage(run / "model.json", "empty")
    shutil.rmtree(next(run.glob("folds-*")))
    assert main(verify) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("-")[0] for line in lines[:-1]] == ["changed: folds", "changed: model.json",
                                                           "changed: submission_run.csv"]
    # folds.csv is named by no manifest any more
    assert lines[-1].startswith(f"{n_files - 4} of {n_files - 1} files of ")
    assert main(["--verify", "nothing", "--results_dir", str(tmp_path)]) == 2
    assert "--verify must name an experiment that has completed a stage" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_fit_begins_again(contest, undisturbed, tmp_path,
                                                                monkeypatch):
    in_step(5, monkeypatch, lambda: fail(KeyboardInterrupt))      # in the second epoch of 3 steps
    assert main(small_argv(contest, tmp_path)) == 130
    [checkpoint] = tmp_path.glob("run/fold_0/*.partial/checkpoint-*")
    damage(checkpoint, "changed")
    monkeypatch.undo()
    assert main(small_argv(contest, tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed,
                 f"is trained from an earlier state: '{checkpoint.name}' changed on the disk")


def test_a_sealed_stage_that_was_not_renamed_is_not_made_again(tmp_path):
    stage, calls = stages.Stage.of(tmp_path, "s", version=1, settings={}, inputs=[]), []

    def build(folder):
        calls.append(1)
        (folder / "a.txt").write_text("a")
        (folder / f"checkpoint{stages.SCRATCH}").write_text("b")

    stages.run_stage(stage, build)
    assert [p.name for p in sorted(stage.folder.iterdir())] == ["a.txt", "manifest.json"]
    os.replace(stage.folder, stage.partial)
    stages.run_stage(stage, build)
    os.replace(stage.folder, stage.partial)
    (stage.partial / "a.txt").write_text("changed")
    stages.run_stage(stage, build)
    assert len(calls) == 2 and stages.damaged_files(stage.folder) == []


def test_whatever_a_run_renames_is_on_the_disk_before(watched):
    """A power cut may follow any rename at once: of a file, of a checkpoint, of a whole stage."""
    _, renamed, late = watched
    assert late == []
    for name in ("audit", "folds", "r0", "predict", "ensemble", "checkpoint-00001", "model.json"):
        assert any(text.startswith(name) for text in renamed), name


def test_a_log_whose_last_line_was_cut_off_goes_on_with_a_new_line(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"event": "start"}\n{"event": "ep')
    log.EventLog(tmp_path / "events.jsonl").record("note")
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"event": "start"}',
                         '{"event": "ep'] and json.loads(lines[2])["event"] == "note"


def test_images_moved_after_the_audit_are_found_where_they_lie_now(contest, tmp_path, monkeypatch):
    argv = small_argv("X", tmp_path, "augment.policy=matched", "optim.epochs=1")
    there = shutil.copytree(contest, tmp_path / "there")
    argv[argv.index("X")] = str(there)
    with monkeypatch.context() as patch:
        cut_before("measure_shift", patch)
        assert main(argv) == 130
    for split in ("train", "test"):
        (there / split).rename(there / f"{split}_images")
        for path in [*(there / f"{split}_images").iterdir()][::2]:
            (there / f"{split}_images" / "more").mkdir(exist_ok=True)
            path.rename(path.parent / "more" / path.name)
    assert main(argv) == 0
    assert len(list(tmp_path.glob("run/audit-*"))) == 1
    whole = small_argv(contest, tmp_path, "augment.policy=matched", "optim.epochs=1", name="whole")
    assert main(whole) == 0
    assert outcome(tmp_path / "run")[0] == outcome(tmp_path / "whole")[0]


def other_pixel(path):
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))


@pytest.mark.parametrize("step", ["audit_contest", "measure_shift"])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b""), other_pixel])
def test_an_image_that_changes_in_mid_run_is_named_and_never_silently_left_out(
        contest, tmp_path, monkeypatch, capsys, step, change):
    argv = small_argv("X", tmp_path, "augment.policy=matched", "optim.epochs=1")
    there = shutil.copytree(contest, tmp_path / "there")
    argv[argv.index("X")] = str(there)
    with monkeypatch.context() as patch:
        cut_before(step, patch, lambda: change(there / "train" / "a004.png"))
        assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("the run failed: ") and error.count("\n") == 1
    assert "train/a004.png" in error and "run the same command again" in error
    sealed = {p.name.split("-")[0] for p in (tmp_path / "run").iterdir() if p.suffix == ""}
    assert sealed & {"audit", "shift"} == ({"audit"} if step == "measure_shift" else set())


# ---------------------------------------------------------------- signals

@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_command_is_status_130_and_the_same_command_goes_on(contest,
                                                                                  undisturbed,
                                                                                  tmp_path, number):
    """As a terminal or a scheduler sends it: to all processes, in the midst of an epoch with a
    loading process."""
    argv = small_argv(contest, tmp_path, "runtime.workers=1")
    code = (
        "import os, signal, sys, modeling.train as t; from grandmaster_train import main\n"
        "step, n = t.train_step, [0]\n"
        "def slow(*a, **k):\n"
        f"    n[0] += 1; n[0] == 5 and os.killpg(0, {int(number)}); return step(*a, **k)\n"
        "t.train_step = slow; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, start_new_session=True,
                          capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 130, done.stderr
    assert f"interrupted: {AGAIN}" in done.stderr and "Traceback" not in done.stderr
    [checkpoint] = tmp_path.glob("run/fold_0/*.partial/checkpoint-*")
    # SIGTERM ends the loading process too
    n_steps = 0 if number == signal.SIGTERM else 2
    assert checkpoint.name.startswith(f"checkpoint-00001-{n_steps:06}-")
    assert main(argv) == 0
    assert ended(tmp_path / "run", undisturbed)


def test_ctrl_c_in_a_fit_is_status_130_with_a_checkpoint_and_the_same_command_goes_on(
        contest, undisturbed, tmp_path, monkeypatch, capsys):
    # the second step of the second epoch
    in_step(5, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert main(small_argv(contest, tmp_path)) == 130
    assert f"interrupted: {AGAIN}" in capsys.readouterr().err
    assert len(list(tmp_path.glob("run/fold_0/*.partial/checkpoint-00001-000002-*"))) == 1
    monkeypatch.undo()
    assert main(small_argv(contest, tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_signal_outside_of_a_fit_stops_at_once(contest, undisturbed, tmp_path, monkeypatch,
                                                 capsys):
    with monkeypatch.context() as patch:
        patch.setattr("running.predicting.save_views", lambda *_: os.kill(
            os.getpid(), signal.SIGTERM) or fail(AssertionError))
        assert main(small_argv(contest, tmp_path)) == 130
    assert AGAIN in capsys.readouterr().err
    assert main(small_argv(contest, tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed)


# ---------------------------------------------------------------- nobody listens

def command_line(argv):
    return [sys.executable, str(ROOT / "grandmaster_train.py"), *argv]


def ignore_hangup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def read_until(descriptor, text):
    """Read what a process says until the text appears."""
    said = b""
    while text not in said:
        said += os.read(descriptor, 4096)


def pipe_closed(argv):
    """The status of a command whose output and errors go to a pipe that nobody reads to its end."""
    with subprocess.Popen(command_line(argv), cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as run:
        read_until(run.stdout.fileno(), b"submission:")
        run.stdout.close()
        return run.wait(timeout=100)


def streams_closed(argv):
    """The status of a command that has neither standard output nor standard error."""
    script = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command_line(argv)]
    return subprocess.run(script, cwd=ROOT, timeout=100, check=False).returncode


def terminal_closed(argv, before=ignore_hangup, after=b"submission:"):
    """The status of a command whose terminal goes away once a text appeared.

    before: called in its process first.
    """
    master, slave = pty.openpty()
    code = ("import fcntl, sys, termios; from grandmaster_train import main\n"
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0); sys.exit(main(sys.argv[1:]))")
    with subprocess.Popen([sys.executable, "-c", code, *argv], cwd=ROOT, start_new_session=True,
                          stdin=slave, stdout=slave, stderr=slave, preexec_fn=before) as run:
        os.close(slave)
        read_until(master, after)
        os.close(master)
        return run.wait(timeout=100)


@pytest.mark.parametrize("run", [
    pipe_closed, pytest.param(streams_closed, marks=pytest.mark.slow), terminal_closed])
def test_a_run_that_nobody_listens_to_ends_as_any_other(contest, undisturbed, tmp_path, run):
    assert run(small_argv(contest, tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed)
    assert "report  " in (tmp_path / "run" / "events.jsonl").read_text()


def test_a_closed_terminal_interrupts_the_run_and_the_same_command_goes_on(contest, undisturbed,
                                                                           tmp_path):
    argv = small_argv(contest, tmp_path)
    assert terminal_closed(argv, before=None, after=b"fit 1/1") == 130
    assert main(argv) == 0
    assert ended(tmp_path / "run", undisturbed)


def test_the_menu_goes_on_when_nobody_listens():
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([sys.executable, "run_training.py"], cwd=ROOT, input=b"q\n",
                          stdout=write_end, stderr=subprocess.PIPE, timeout=100, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_users_mistake_has_its_exit_status_when_nobody_listens():
    assert streams_closed(["--mode", "none"]) == 2


def test_what_is_written_to_a_closed_stream_lands_in_no_file(tmp_path):
    """The next file that a process opens would get its number."""
    code = ("import os, sys; from system.log import safe_streams\n"
            "with safe_streams(), open(sys.argv[1], 'wb'):\n"
            "    [os.write(number, b'said') for number in (1, 2)]")
    script = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    subprocess.run([*script, str(tmp_path / "a.bin")], cwd=ROOT, timeout=100, check=True)
    assert (tmp_path / "a.bin").read_bytes() == b""


# ---------------------------------------------------------------- processes, memory, GPU

def test_a_killed_loading_process_is_done_without(contest, undisturbed, tmp_path, monkeypatch):
    def kill_one():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        time.sleep(0.5)

    in_step(4, monkeypatch, kill_one)
    assert main(small_argv(contest, tmp_path, "runtime.workers=1")) == 0
    assert ended(tmp_path / "run", undisturbed, "loading processes were ended by the system")


@pytest.mark.parametrize(("size_kib", "in_bursts", "warnings"), [
    (4, True, ["loading processes were ended by the system"]),
    (64, False, ["loading processes were ended by the system"]),
    (64, True, [])])      # not a semaphore; not a batch; no batch is in shared memory
@pytest.mark.slow
def test_too_little_shared_memory_is_done_without(contest, undisturbed, tmp_path, size_kib,
                                                  in_bursts, warnings):
    argv = small_argv(contest, tmp_path, "runtime.workers=1")
    code = (f"import sys; from running import place; place.loads_in_bursts = lambda *_: {in_bursts}"
            "; from grandmaster_train import main; sys.exit(main(sys.argv[1:]))")
    script = f'mount -t tmpfs -o size={size_kib}k none /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code, *argv]
    if sys.platform != "linux" or subprocess.run(["unshare", "-m", "true"], capture_output=True,
                                                 check=False).returncode:
        pytest.skip("a /dev/shm of one's own is not allowed here")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert ended(tmp_path / "run", undisturbed, *warnings)


@pytest.mark.parametrize(("error", "message"), [
    pytest.param(lambda: torch.empty(1 << 60), "there was not enough memory",
                 marks=pytest.mark.slow),
    (lambda: fail(RuntimeError("CUDA error: unspecified launch failure\n"
                               "CUDA kernel errors might be")), "the GPU failed (CUDA"),
])
def test_no_memory_a_lost_gpu_or_a_dying_disk_is_one_sentence_and_the_last_epoch_is_kept(
        contest, undisturbed, tmp_path, monkeypatch, capsys, error, message):
    # where it passes, less at a time is tried: the test below
    in_step(5, monkeypatch, error, lasting=True)
    assert main(small_argv(contest, tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.startswith("the run failed: ") and message in said and said.count("\n") == 1
    assert next(tmp_path.glob("run/fold_0/*.partial/checkpoint-00001-*"))
    monkeypatch.undo()
    assert main(small_argv(contest, tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed)


def test_a_step_without_memory_is_taken_again_with_less_and_the_run_ends(contest, tmp_path,
                                                                         monkeypatch):
    in_step(5, monkeypatch, lambda: torch.empty(1 << 60))
    assert main(small_argv(contest, tmp_path)) == 0
    final = utils.read_json(tmp_path / "run" / "final_results.json")
    assert any("memory ran out, so that each batch of 8 was made of micro-batches of" in text
               for text in final["warnings"])
    assert (tmp_path / "run" / final["submission"]).exists()


@pytest.mark.parametrize(("error", "sentence"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
     "grad_checkpointing=on, which takes less"),
    (MemoryError(), "there was not enough memory (MemoryError)"),
    (OSError(errno.EIO, "Input/output error"), "a file could not be used"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
    (OSError("8 requested and 2 written"), "the disk is full"),
    (KeyError("a"), ""), (ValueError("an error of ours"), ""),
    (FileNotFoundError(errno.ENOENT, "No such file"), ""),
])
def test_the_machine_is_blamed_for_its_own_faults_alone(error, sentence):
    assert sentence in machine.fault_of(error)
    assert bool(machine.fault_of(error)) == bool(sentence)


def test_non_finite_losses_end_the_run_in_one_sentence(contest, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("modeling.train.train_step", lambda *args,
                        **kwargs: (torch.tensor(torch.nan), False))
    assert main(small_argv(contest, tmp_path)) == 1
    assert "non-finite steps in a row" in capsys.readouterr().err


def warnings_of_two(argv, folder):
    """The warnings in the results of two runs of one command, the second of which finds all done.
    """
    found = []
    for _ in range(2):
        assert main(argv) == 0
        found.append(outcome(folder)[1]["warnings"])
    return found


def test_a_skipped_step_is_named_by_the_run_that_finds_the_fit_done_too(contest, tmp_path,
                                                                        monkeypatch):
    argv, calls = small_argv(contest, tmp_path), [0]

    def skipped_once(*args, **kwargs):
        calls[0] += 1
        return (torch.zeros(()), False) if calls[0] == 2 else train_step(*args, **kwargs)

    monkeypatch.setattr("modeling.train.train_step", skipped_once)
    warnings = warnings_of_two(argv, tmp_path / "run")
    assert warnings[0] == warnings[1] and any("1 non-finite step(s) were skipped" in text
                                              for text in warnings[0])


def test_what_was_warned_of_while_a_fit_was_trained_is_said_by_the_run_that_finds_it_done_too(
    contest, tmp_path):
    argv = small_argv(contest, tmp_path, "rounds=2", "data.run_folds=1", "rounds.min_confidence=0",
                      "optim.epochs=1")
    warnings = warnings_of_two(argv, tmp_path / "run")
    assert warnings[0] == warnings[1] and any("is not calibrated: that takes a second fold" in text
                                              for text in warnings[0])


# ---------------------------------------------------------------- clock, network, two at once

@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(contest, undisturbed, tmp_path, monkeypatch):
    rng, real = np.random.default_rng(0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + float(rng.uniform(-1e7, 1e7)))
    assert main([*small_argv(contest, tmp_path), "--time_budget", "1"]) == 0
    monkeypatch.undo()
    assert outcome(tmp_path / "run")[0] == undisturbed[0]


def test_durations_and_deadlines_are_of_no_clock_that_jumps():
    for path in PRODUCT:
        text = path.read_text()
        assert not re.search(r"\btime\.time(_ns)?\b|^from time ", text, re.MULTILINE), path


@pytest.mark.parametrize(("n_failures", "status"), [
    pytest.param(2, 0, marks=pytest.mark.slow), (99, 1)])
def test_a_stale_handle_is_tried_again_then_named(contest, undisturbed, tmp_path, monkeypatch,
                                                  capsys, n_failures, status):
    real, left = os.open, [n_failures]

    def stale(path, *args, **kwargs):
        if str(path).endswith("train/a004.png") and left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", stale)
    assert round(sum(utils.NETWORK_PAUSES_SECONDS)) == 6      # as docs/faults.md promises
    monkeypatch.setattr(utils, "NETWORK_PAUSES_SECONDS", (0.01, 0.01, 0.01))
    assert main(small_argv(contest, tmp_path)) == status and left[0] in (0, 95)
    if status:
        error = capsys.readouterr().err
        assert (
            "a004.png could not be read (Stale file handle)" in error
            and AGAIN in error
            and error.count("\n") == 1
        )
        left[0] = 0
        assert main(small_argv(contest, tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed)


def test_a_second_start_is_refused_by_pid_and_host_and_a_killed_ones_lock_is_taken_over(contest,
                                                                                        undisturbed,
                                                                                        tmp_path,
                                                                                        capsys):
    hold = ("import sys\nfrom system.stages import exclusive\nwith exclusive(sys.argv[1]):\n"
            " print('held', flush=True); sys.stdin.readline()")
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "run")], cwd=ROOT,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"held"
        assert main(small_argv(contest, tmp_path)) == 2
        assert (
            f"process {other.pid} on {os.uname().nodename} is using it" in capsys.readouterr().err
        )
        other.kill()
    assert main(small_argv(contest, tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed)


# ---------------------------------------------------------------- hostile names

EVIL = "\x1b]2 owned\x07\x1b[2Jcat\r\u202eexe\u2066\u061c\x85\u2028\x0bb\nforged: \tall is well\n"


EVIL_CELL = EVIL.replace("\n", "")      # a cell of several lines is refused


def is_harmless(text):
    """Whether a text holds EVIL and neither controls a terminal nor has a line that it forged."""
    rest = text.replace("\n", "").replace("\t", "")
    lines = text.splitlines()
    return "owned" in text and utils.printable(rest) == rest and len(lines) == text.count(
        "\n") and not any(line.lstrip().startswith("forged") for line in lines)


def evil_contest(folder, table):
    """A contest with EVIL in every name that it may hold; with class folders if not `table`."""
    contest = make_contest(folder)
    (contest / "test" / "t000.png").rename(contest / "test" / f"t{EVIL}.png")
    (contest / "meta.csv").unlink()
    name = f'"{EVIL}"'
    sample = (contest / "sample_submission.csv").read_text()
    (contest / "sample_submission.csv").write_text(
        sample.replace("t000.png", f'"t{EVIL}.png"').replace("target", f'"target{EVIL}"'))
    (contest / f"x{EVIL}.csv").write_text(f"{name},b\n1,{name}\n")
    (contest / f"x{EVIL}.svg").touch()
    (contest / "test" / f"link{EVIL}").symlink_to("/")
    if not table:
        (contest / "meta.csv").touch()
        class_folders(contest)
        (contest / "train" / "circle").rename(contest / "train" / EVIL.strip())
        return contest
    (contest / "train" / "a001.png").rename(contest / "train" / f"a{EVIL_CELL}.png")
    shutil.copy(contest / "train" / "a000.png", contest / "train" / f"copy{EVIL}.png")
    text = (contest / "train.csv").read_text().replace("a001.png", f'"a{EVIL_CELL}.png"')
    text = text.replace(",0\n", f',"{EVIL_CELL}"\n').replace("target", f'"target{EVIL}"')
    (contest / "train.csv").unlink()
    (contest / f"train{EVIL}.csv").write_text(text + f'"gone{EVIL_CELL}.png",1\n')
    return contest


@pytest.mark.parametrize("table", [True, False])
def test_names_forge_no_line_and_rule_no_terminal(tmp_path, capsys, table):
    contest = evil_contest(tmp_path / f"shapes{EVIL}", table)
    results = tmp_path / f"results{EVIL}"
    argv = small_argv(contest, results, "optim.epochs=1", name=f"run{EVIL}")
    for mode in ("debug", "quick_test"):
        argv[1] = mode
        assert main(argv) == 0
        assert is_harmless("".join(capsys.readouterr()))
    run = results / f"run{EVIL}"
    for name in ("report.html", "events.jsonl", "final_results.json", "model.json"):
        assert is_harmless((run / name).read_text(encoding="utf-8").removesuffix("</html>"))
    for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["event"]
    [submission] = run.glob("submission_*")
    with open(submission, newline="", encoding="utf-8") as f:
        assert [row[0] for row in csv.reader(f)][-1] == f"t{EVIL}.png"

    damage(run / "model.json", "changed")
    assert main(["--verify", f"run{EVIL}", "--results_dir", str(results)]) == 1
    assert is_harmless("".join(capsys.readouterr()))
    (contest / "test" / f"new{EVIL}.png").touch()
    (contest / "test" / f"new{EVIL}.txt").touch()
    assert main(argv) == 0
    capsys.readouterr()
    assert predict([str(run), str(contest / "test"), "--out", str(tmp_path / f"p{EVIL}")]) == 0
    assert is_harmless("".join(capsys.readouterr()))
    assert predict([str(run), str(contest / "test"), "--out", str(contest)]) == 2
    assert is_harmless("".join(capsys.readouterr()))


@pytest.mark.parametrize("argv", [
    ["--mode", EVIL], ["--scale", EVIL], ["--device", EVIL], ["--metric", EVIL], [EVIL],
    ["--set", EVIL], ["--set", f"optim.lr={EVIL}"], ["--set", f"{EVIL}=1", "optim.lr=x"],
    ["--set", f"model.backbones={EVIL}"], ["--set", f"augment.groups={EVIL}"],
    ["--group_column", EVIL], ["--weights_dir", EVIL], ["--engine", EVIL], ["--demo_size", EVIL],
    ["--verify", EVIL], ["--experiment_name", f"a/{EVIL}"], ["--data_path", EVIL], [f"--{EVIL}"]])
def test_words_of_the_command_line_forge_no_line(contest, tmp_path, capsys, argv):
    folder = ["--data_path", str(contest), "--results_dir", str(tmp_path)]
    assert main([*folder, *argv]) == 2
    said = capsys.readouterr()
    assert is_harmless(said.err)


def test_every_line_is_printed_by_show_which_escapes_names():
    for path in PRODUCT:
        called = [node for node in ast.walk(ast.parse(path.read_text()))
                  if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"]
        assert len(called) == (path.name == "log.py"), path


def test_a_mistake_of_ours_names_what_it_fell_over_in_one_line(capsys):
    def command(argv):
        try:
            raise KeyError(EVIL)
        except KeyError:
            raise ValueError(f"no {EVIL}") from None

    assert run_command(command, []) == 1
    said = capsys.readouterr().err
    assert is_harmless(said) and "Traceback" in said and "in command" in said


def test_bars_and_the_menu_forge_no_line(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(log, "tqdm", lambda *_, desc, **__: desc)
        assert utils.printable(EVIL) in log.progress(desc=f"fit {EVIL}")
    (tmp_path / f"run{EVIL}").mkdir()
    (tmp_path / f"run{EVIL}" / "events.jsonl").write_text("{}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("r\n1\nn\nq\n"))
    assert run_training.menu(str(tmp_path)) == 0
    assert is_harmless("".join(capsys.readouterr()) + "\n")


def test_our_own_csv_files_hold_no_cell_that_a_spreadsheet_runs(tmp_path):
    contest, formula = make_contest(tmp_path / "shapes"), "=cmd|' -C calc'!A0"
    for split, old in (("train", "a003"), ("test", "t003")):
        (contest / split / f"{old}.png").rename(contest / split / f"{formula}{split}.png")
    for name, old in (("train.csv", "a003"), ("sample_submission.csv", "t003")):
        text = (contest / name).read_text()
        (contest / name).write_text(
            text.replace(f"{old}.png", f"{formula}{'train' if old == 'a003' else 'test'}.png")
        )
    assert main(small_argv(contest, tmp_path)) == 0
    final = json.loads((tmp_path / "run/final_results.json").read_text())
    files = [p for p in tmp_path.glob("run/**/*.csv") if not p.name.startswith("submission")]
    cells = [cell for path in files for line in path.read_text().splitlines()
             for cell in line.split(",")]
    assert sum(cell.startswith("'=cmd") for cell in cells) >= 3 and not any(cell.startswith("=")
                                                                            for cell in cells)
    # the contest asks for it
    assert f"{formula}test.png" in (tmp_path / "run" / final["submission"]).read_text()
    assert any("a spreadsheet would run" in w for w in final["warnings"])


@pytest.mark.parametrize("text", [
    "=1+1", "+x", "@a", "-a.png", "'=x", "''=x", "\t=x", "'plain", "plain", "-1.5", "+3", ""])
def test_quoted_cells_are_read_back(text):
    assert unquoted_cell(quoted_cell(text)) == text
    assert quoted_cell(text)[:1] not in ("=", "@", "\t")
    assert list(csv.reader(io.StringIO(csv_text([[text, "a\rb", "c\nd", 'e"f,g']]),
                                       newline=""))) == [[text, "a\rb", "c\nd", 'e"f,g']]


def test_no_setting_and_no_file_is_evaluated(contest, tmp_path, monkeypatch, capsys):
    code = f"__import__('os').mkdir('{tmp_path}/owned')"
    for argv in (["--set", f"model.backbones={code}"], ["--set", f"optim.lr={code}"],
                 ["--set", f"augment.groups={code}"], ["--set", f"{code}=1"],
                 ["--group_column", code], ["--metric", code], ["--scale", code],
                 ["--device", code]):
        assert main([*argv, "--data_path", str(contest), "--results_dir", str(tmp_path)]) == 2
    assert not (tmp_path / "owned").exists() and "Traceback" not in capsys.readouterr().err
    for path in PRODUCT:
        called = {n.func.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n,
                                                                                         ast.Call)
                  and isinstance(n.func, ast.Name)}
        assert not called & {"eval", "exec", "compile", "__import__"}, path
        assert not re.search(
            r"import (pickle|yaml)|allow_pickle=True|weights_only=False|shell=True",
            path.read_text()), path
