"""A tiny contest that every test may train on: three classes of coloured shapes, a few images each,
40 x 56 px."""
import contextlib
import ctypes
import importlib
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from shift.distortions import Distortion, ShiftPolicy
from shift.match import match_shift
from system.machine import usable_cores

with warnings.catch_warnings():
    # before torch 2.14 this module of its own warns of itself where it is first imported
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("torch.utils.mkldnn")

# before anything imports the hub's client: the suite works offline
os.environ["HF_HUB_OFFLINE"] = "1"

CLASSES = ("circle", "cross", "stripes")
DEFAULT_SUITE = "not slow and not long"      # in pyproject.toml


def draw(label, rng):
    image = rng.integers(150, 220, 3).astype(np.uint8) * np.ones((40, 56, 3), np.uint8)
    image += rng.integers(0, 30, image.shape, dtype=np.uint8)
    x, y, r = int(rng.integers(16, 40)), int(rng.integers(14, 26)), int(rng.integers(7, 12))
    colour = tuple(int(v) for v in rng.integers(0, 90, 3))
    if label == 0:
        cv2.circle(image, (x, y), r, colour, -1)
    elif label == 1:
        cv2.line(image, (x - r, y - r), (x + r, y + r), colour, 4)
        cv2.line(image, (x - r, y + r), (x + r, y - r), colour, 4)
    else:
        for i in range(-r, r, 5):
            cv2.line(image, (x - r, y + i), (x + r, y + i), colour, 2)
    return image


def make_contest(folder, per_class=12, n_test=10, seed=0):
    """train/, test/, train.csv, meta.csv, sample_submission.csv in `folder`; returns it."""
    folder, rng = Path(folder), np.random.default_rng(seed)
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    rows = []
    for i, label in enumerate(np.repeat(np.arange(3), per_class)):
        cv2.imwrite(str(folder / "train" / f"a{i:03}.png"), draw(label, rng))
        rows.append(f"a{i:03}.png,{label}")
    tests = [f"t{i:03}.png" for i in range(n_test)]
    for i, name in enumerate(tests):
        cv2.imwrite(str(folder / "test" / name), draw(i % 3, rng))
    (folder / "train.csv").write_text("ID,target\n" + "\n".join(rows) + "\n")
    (folder / "meta.csv").write_text("target,class_name\n" + "".join(f"{i},{c}\n" for i,
                                                                     c in enumerate(CLASSES)))
    (folder / "sample_submission.csv").write_text("ID,target\n" + "".join(f"{name},0\n"
                                                                          for name in reversed(
                                                                              tests)))
    return folder


def pytest_xdist_auto_num_workers(config):
    """The processes that share the default suite, of one thread each: one a core.

    0 for named files, and for slow tests: these use several cores themselves.
    """
    is_part = any(Path(arg.partition("::")[0]).suffix for arg in config.args)
    if is_part or config.option.markexpr != DEFAULT_SUITE:
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    return usable_cores()


def darker(train_paths, labels, test_paths, **named):
    """Stands in for `match_shift`: the test images of every group are found to be dark."""
    policy = ShiftPolicy((Distortion("brightness", 1.0, 0.3, 0.4),))
    report = match_shift(train_paths, labels, [], **named)
    groups = tuple(replace(group, policy=policy) for group in report.groups)
    return replace(report, policy=policy, groups=groups)


@contextlib.contextmanager
def permissions_hold():
    """File permissions bind this thread inside the block, even where the tests run as root.

    Skips the test where that cannot be had.
    """
    if os.name == "nt" or (os.geteuid() == 0 and sys.platform != "linux"):
        pytest.skip("permissions cannot be made to hold here")
    if os.geteuid():
        yield
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)      # version 3 of capset(2), this thread
    before = (ctypes.c_uint32 * 6)()      # effective, permitted, inheritable, twice
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, before) == 0
    fewer = (ctypes.c_uint32 * 6)(*before)
    fewer[0] &= ~0b110      # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


SMALL = ["model.backbones=mobilenetv3_small_050", "data.image_size_px=32", "data.n_folds=3",
         "optim.epochs=2", "optim.batch_size=8", "predict.tta_views=2",
         "ensemble.bootstrap_draws=20", "runtime.workers=0", "augment.policy=standard",
         "model.pretrained=off", "runtime.measure=off", "model.text=off"]


def small_argv(contest, results, *more, mode="quick_test", name="run"):
    """argv of a run that takes seconds."""
    return ["--mode", mode, "--data_path", str(contest), "--results_dir", str(results),
            "--experiment_name", name, "--set", *SMALL, *more]


@pytest.fixture(scope="session")
def contest(tmp_path_factory):
    return make_contest(tmp_path_factory.mktemp("contest") / "shapes")


def identity(path):
    """What a file is, links not followed; reading it changes nothing of that."""
    status = os.lstat(path)
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns


def interrupt():
    raise KeyboardInterrupt


def cut_before(step, monkeypatch, do=interrupt):
    """Call `do` before a step of `running.preparing`, then the step itself."""
    from running import preparing
    real = getattr(preparing, step)

    def cut(*args):
        do()
        return real(*args)

    monkeypatch.setattr(preparing, step, cut)
