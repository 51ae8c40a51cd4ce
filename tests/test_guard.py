"""A fit that does not learn begins again at a quarter of its rate, and is given up in the end."""
import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from config import FitSpec, build_config, resolve, with_values
from data_loader import Batch, EpochSampler, ImageDataset, make_loader
from ensemble.metrics import METRICS
from ensemble.scores import blended
from modeling.compute import Compute
from modeling.guard import Learning, knows_nothing, may_judge
from modeling.losses import Supervised
from modeling.train import Restart, Training, Watch, fit, load_result, read_tensors
from running.pipeline import kept_fits
from running.run import usable
from system.log import EventLog
from tests.test_scores import fits_of, prepared_of
from utils import RunError

N_EPOCHS, RATE = 12, 0.01
CPU, SPEC = torch.device("cpu"), FitSpec("toy", 42, 0, 0)
RNG = np.random.default_rng(0)
CLASS = np.arange(64) % 4
IMAGES = [RNG.integers(0, 120, (4, 4, 3)).astype(np.uint8) + np.uint8(40 * k) for k in CLASS]


class Toy(nn.Module):
    """Two layers and a layer norm, which a far too high rate leaves dead."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.LayerNorm(16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def set_memory_format(self, memory_format):
        pass

    def forward(self, images):
        return self.head(self.backbone(images.float() / 128 - 1))


def run(folder, rate=RATE, at_epoch=lambda n_left, n_restarts: None, images=IMAGES):
    """(network, FitResult, log) of a fit of 12 epochs of 8 steps.

    at_epoch(epochs left, restarts so far): called in each step.
    """
    folder.mkdir(exist_ok=True)
    config = resolve(with_values(build_config("quick_test"), {"optim.lr": rate,
                                                              "optim.batch_size": 8}),
                     gpu_memory_bytes=0, n_train=64)
    network = Toy()
    data = ImageDataset(images, [f"i{i}" for i in range(64)], lambda image, *_: image,
                        ("t",), np.eye(4, dtype=np.float32)[CLASS])
    sampler = EpochSampler(64, 8, ("t",))
    log = EventLog(folder / "events.jsonl", echo=False)

    def mix(batch, generator, n_left):
        at_epoch(n_left, len(log.warnings))
        return batch._replace(weight=batch.weight * torch.rand((), generator=generator))

    training = Training(network, Supervised(config.optim, torch.ones(4)),
                        make_loader(data, sampler, 0), sampler, mix, Compute(), is_pretrained=True)
    result = fit(SPEC, training, config, N_EPOCHS, CPU, folder, Watch(log))
    return network, result, log


def accuracy(folder):
    network = Toy()
    network.load_state_dict(read_tensors(folder / "weights.safetensors"))
    with torch.no_grad():
        logits = network(torch.from_numpy(np.stack(IMAGES)).permute(0, 3, 1, 2))
    return float((logits.argmax(1).numpy() == CLASS).mean())


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in ("weights.safetensors", "restarts.json")}


def test_a_fit_at_a_hundred_times_its_rate_begins_again_and_ends_like_an_undisturbed_one(tmp_path):
    _, undisturbed, _ = run(tmp_path / "plain")
    _, result, log = run(tmp_path / "wild", 100 * RATE)
    assert undisturbed.restarts == () and not (tmp_path / "plain/restarts.json").exists()
    assert result.restarts and not result.is_given_up
    assert len(result.epochs) == N_EPOCHS
    assert abs(accuracy(tmp_path / "wild") - accuracy(tmp_path / "plain")) <= 0.03
    assert "begins again at a quarter of it" in log.warnings[0]
    events = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [e["peak"] for e in events if e["event"] == "restart"] == [100 * RATE]
    highest = max(epoch["lr"] for epoch in result.epochs)
    assert 20 * RATE < highest <= 25 * RATE
    assert load_result(SPEC, tmp_path / "wild").restarts == result.restarts


@pytest.mark.parametrize(("n_left", "n_restarts"), [(9, 0), (8, 0), (12, 1), (11, 1), (3, 1)])
def test_a_fit_killed_before_or_after_it_began_again_ends_with_the_same_bytes(
        tmp_path, n_left, n_restarts):
    """Really killed: in the epoch that shows the collapse, in the one after it, and later on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)      # a forked process has no others
    try:
        run(tmp_path / "whole", 100 * RATE)
        child = os.fork()
        if not child:
            run(tmp_path / "cut", 100 * RATE, lambda left, restarts: os.kill(
                os.getpid(), signal.SIGKILL) if (left, restarts) == (n_left, n_restarts) else None)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        _, result, log = run(tmp_path / "cut", 100 * RATE)
    finally:
        torch.set_num_threads(threads)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert len(log.warnings) == len(result.restarts)      # also of a restart before the kill


def test_a_fit_that_never_learns_is_given_up_with_the_weights_it_began_with(tmp_path):
    _, result, log = run(tmp_path / "a", images=[IMAGES[0]] * 64)
    assert result.is_given_up and [r.is_last for r in result.restarts] == [False, False, True]
    assert result.restarts[2].peak == pytest.approx(RATE / 16)
    assert log.warnings[2].endswith("and is given up: its weight is 0")
    began_with = Toy().state_dict()
    for name, value in read_tensors(result.weights).items():
        assert torch.equal(value, began_with[name])
    assert load_result(SPEC, tmp_path / "a").is_given_up


@pytest.mark.parametrize("answers", ["constant", "right", "wrong"])
def test_explained_is_zero_for_the_class_shares_and_one_for_sure_right_answers(answers):
    learning = Learning(Supervised(build_config("quick_test").optim, torch.tensor([1.0, 3.0])))
    labels = torch.tensor([0, 0, 0, 1])
    targets = torch.eye(2)[labels]
    sureness = {"constant": 0.0, "right": 50.0, "wrong": -50.0}[answers]
    learning.add(sureness * targets, Batch(None, targets, torch.ones(4), None))
    # by their weights the two classes are as frequent
    expected = {"constant": 0.0, "right": 1.0, "wrong": 1 - 50 / np.log(2)}[answers]
    assert learning.explained() == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert Learning(None).explained() == 1.0


def test_rows_that_are_not_finite_do_not_count():
    learning = Learning(Supervised(build_config("quick_test").optim, torch.ones(2)))
    targets = torch.eye(2)[torch.tensor([0, 1, 0])]
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [torch.nan, torch.inf]])
    learning.add(logits, Batch(None, targets, torch.ones(3), None))
    assert learning.explained() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("explained", "expected"), [
    ([-0.3], False), ([-0.10, -0.05], False), ([0.004, 0.010], False), ([0.0, 0.0], True),
    ([0.5, -3.0], True), ([0.01, 0.011], True), ([0.3, 0.1], False)])
def test_a_slow_start_that_explains_more_each_epoch_is_left_alone(explained, expected):
    assert knows_nothing(explained) == expected


def test_a_verdict_takes_epochs_and_steps_and_more_of_them_from_random_weights():
    assert not may_judge(1, 400, 12, is_pretrained=True)
    assert may_judge(2, 80, 12, is_pretrained=True)
    assert not may_judge(2, 8, 12, is_pretrained=True)
    assert not may_judge(9, 900, 60, is_pretrained=True)
    assert may_judge(30, 900, 60, is_pretrained=True)
    assert not may_judge(30, 900, 60, is_pretrained=False)
    assert not may_judge(12, 900, 12, is_pretrained=True)      # nothing is left to begin again for


def given_up(done):
    last = Restart(1e-3, "knew nothing of the classes after 2 epochs", is_last=True)
    return replace(done, result=replace(done.result, restarts=(last,)))


def test_a_fit_that_was_given_up_weighs_nothing_and_the_others_go_on(tmp_path):
    """Its fold is left out of the comparison; a backbone without a fit left, of the blend."""
    fits = fits_of(tmp_path, {("x", 0): 3.0, ("y", 0): 2.5, ("z", 0): 2.5}, test_strength=2.0)
    dead = {FitSpec("y", 1, 0, 1), *(FitSpec("z", 1, 0, fold) for fold in range(3))}
    fits = {spec: given_up(done) if spec in dead else done for spec, done in fits.items()}
    log = EventLog(tmp_path / "events.jsonl", echo=False)
    result = blended(prepared_of(tmp_path), METRICS["accuracy"], kept_fits(fits), log)
    assert result.blend.weights.keys() == {"r0-x-s1", "r0-y-s1"}
    assert [row.folds for row in result.table] == [3, 2]
    assert any("2 of 3 folds" in text for text in log.warnings)
    assert not usable(fits).keys() & dead


def test_sources_that_share_no_fold_are_not_compared(tmp_path):
    fits = fits_of(tmp_path, {("x", 0): 3.0, ("y", 0): 2.5}, test_strength=2.0)
    dead = {FitSpec("x", 1, 0, 0), FitSpec("y", 1, 0, 1), FitSpec("y", 1, 0, 2)}
    fits = {spec: given_up(done) if spec in dead else done for spec, done in fits.items()}
    log = EventLog(tmp_path / "events.jsonl", echo=False)
    result = blended(prepared_of(tmp_path), METRICS["accuracy"], kept_fits(fits), log)
    assert result.blend.weights.keys() == {"r0-x-s1"}
    assert any(text.startswith("r0-y-s1 is not blended") for text in log.warnings)


def test_a_run_whose_fits_were_all_given_up_ends_with_a_sentence():
    done = SimpleNamespace(result=SimpleNamespace(
        is_given_up=True, restarts=(Restart(1e-3, "learnt nothing", is_last=True),)))
    with pytest.raises(RunError, match=r"^no fit has learnt anything.*--set optim\.lr=1\.0e-04"):
        kept_fits({SPEC: done})
