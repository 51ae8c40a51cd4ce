import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from config import FitSpec, build_config, resolve, with_values
from data_loader import Batch, EpochSampler, ImageDataset, make_loader
from modeling.compute import Compute
from modeling.losses import Supervised
from modeling.memory import Room
from modeling.network import build_network
from modeling.optim import make_ema
from modeling.train import (
    Training,
    TrainState,
    Watch,
    checkpoints,
    drop_damaged_checkpoints,
    fit,
    seed_everything,
    train_step,
)
from modeling.weights import WeightsSource
from system.log import EventLog
from system.machine import signals_interrupt
from utils import RunError

CPU, NAME = torch.device("cpu"), "mobilenetv3_small_050"


class Images(list):
    """Stands for a PixelStore: two classes, dark and light."""


RNG = np.random.default_rng(0)
LABELS = np.arange(20) % 2
IMAGES = Images(RNG.integers(0, 60, (32, 32, 3)).astype(np.uint8) + np.uint8(150 * label)
                for label in LABELS)
CONFIG = resolve(with_values(build_config("quick_test"), {"optim.batch_size": 8, "optim.epochs": 3,
                                                          "data.image_size_px": 32}),
                 gpu_memory_bytes=0, n_train=20)
SPEC = FitSpec(NAME, 42, 0, 0)


def jitter(image, seed, donor, epoch):
    return np.roll(image, seed % 5, axis=0)


def run(folder, config=CONFIG, stop_after=None, workers=0, n_epochs=3, shorten=None, seen=None):
    """One fit in `folder`; with stop_after it is cut off in the epoch after that many."""
    folder.mkdir(exist_ok=True)
    dataset = ImageDataset(IMAGES, [f"i{i}" for i in range(20)], jitter, ("t",),
                           np.eye(2, dtype=np.float32)[LABELS])
    sampler = EpochSampler(20, config.optim.batch_size, ("t",))
    seed_everything("init")
    network = build_network(NAME, n_classes=2, image_size_px=32,
                            weights=WeightsSource(NAME, "random"), model=config.model)

    def mix(batch, generator, n_left):
        if seen is not None:
            seen.append(n_left)
        if n_epochs - n_left == stop_after:
            raise KeyboardInterrupt
        return batch._replace(weight=batch.weight * torch.rand((), generator=generator))

    loader, objective = make_loader(dataset, sampler, workers,
                                    in_bursts=True), Supervised(config.optim, torch.ones(2))
    training = Training(network, objective, loader, sampler, mix, Compute(), is_pretrained=False)
    watch = Watch(EventLog(folder / "events.jsonl", echo=False),
                  shorten=shorten or (lambda history, n_epochs: n_epochs))
    return fit(SPEC, training, config, n_epochs, CPU, folder, watch)


def test_a_fit_that_is_shortened_knows_its_last_epoch(tmp_path):
    run(tmp_path / "a", n_epochs=4, shorten=lambda history, n_epochs: 2, seen=(seen := []))
    assert seen == [4, 4, 4, 1, 1, 1]


def test_a_fit_learns_and_leaves_its_weights(tmp_path):
    result = run(tmp_path / "a", n_epochs=12)
    losses = [e["loss"] for e in result.epochs]
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0]
    [last] = [p.name for p in checkpoints(tmp_path / "a")]
    assert last.startswith("checkpoint-00011-000000-")      # the last epoch leaves its weights
    assert [p.name for p in sorted((tmp_path / "a").iterdir())] == [
        last, "events.jsonl", "history.csv", "weights.safetensors"]


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_fit_cut_off_in_any_epoch_ends_with_the_same_bytes(tmp_path, stop_after):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_after=stop_after)
    run(tmp_path / "cut", workers=2)
    whole, cut = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole",
                                                                                      "cut"))
    assert whole == cut


def stop_after(n_steps, monkeypatch):
    """Sends this process a real SIGTERM in the n-th step."""
    left = [n_steps]

    def signalled(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args, **kwargs)

    monkeypatch.setattr("modeling.train.train_step", signalled)


@pytest.mark.parametrize(("n_steps", "workers"), [
    (1, 0), (3, 0), (5, 0), (1, 2),
    *(pytest.param(n, w, marks=pytest.mark.slow) for n, w in ((2, 0), (9, 0), (5, 2)))])
def test_a_signal_ends_the_fit_after_its_step_and_it_goes_on_to_the_same_bytes(tmp_path,
                                                                               monkeypatch, n_steps,
                                                                               workers):
    """An epoch has 3 steps: the first steps, the middle ones and the last of an epoch, and the last
    of all."""
    run(tmp_path / "whole")
    stop_after(n_steps, monkeypatch)
    with signals_interrupt(), pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", workers=workers)
    [name] = [p.name for p in checkpoints(tmp_path / "cut")]
    assert name.startswith(f"checkpoint-{n_steps // 3:05}-{n_steps % 3:06}-")
    monkeypatch.setattr("modeling.train.train_step", train_step)
    again = run(tmp_path / "cut", workers=2)
    assert [e["loss"] for e in again.epochs] == [e["loss"] for e in run(tmp_path / "whole").epochs]
    assert (tmp_path / "cut/weights.safetensors").read_bytes() == (
        tmp_path / "whole/weights.safetensors"
    ).read_bytes()


def test_a_second_signal_stops_at_once_and_the_last_epoch_is_kept(tmp_path, monkeypatch):
    n_begun = 0
    goes_on = []

    def signalled(*args, **kwargs):
        nonlocal n_begun
        n_begun += 1
        if n_begun == 5:      # in the second epoch
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            goes_on.append(n_begun)
        return train_step(*args, **kwargs)

    monkeypatch.setattr("modeling.train.train_step", signalled)
    with signals_interrupt(), pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a")
    assert goes_on == []
    [name] = [p.name for p in checkpoints(tmp_path / "a")]
    assert name.startswith("checkpoint-00001-000000-")


def test_a_hangup_ends_the_fit_after_its_step_however_often_it_comes(tmp_path, monkeypatch):
    def hang_up(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        return train_step(*args, **kwargs)

    monkeypatch.setattr("modeling.train.train_step", hang_up)
    before = signal.getsignal(signal.SIGHUP)
    with signals_interrupt(), pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", workers=2)
    [name] = [p.name for p in checkpoints(tmp_path / "a")]
    assert name.startswith("checkpoint-00000-000001-")
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("damage", [
    lambda data: data[:len(data) // 2], lambda data: data[:-9] + b"x" + data[-8:]])
def test_a_damaged_checkpoint_is_known_by_its_name(tmp_path, damage):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_after=2)
    [path] = checkpoints(tmp_path / "cut")
    path.write_bytes(damage(path.read_bytes()))
    assert drop_damaged_checkpoints(tmp_path / "cut") == [path.name] and not path.exists()
    run(tmp_path / "cut")
    assert (tmp_path / "cut/weights.safetensors").read_bytes() == (
        tmp_path / "whole/weights.safetensors"
    ).read_bytes()


def step(network, batches, clip_norm=0.0, scaler=None, precision="fp32", lr=0.1):
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    objective = Supervised(CONFIG.optim, torch.ones(2))
    return train_step(network, objective, optimizer, scaler or torch.amp.GradScaler("cpu",
                                                                                    enabled=False),
                      batches, autocast=Compute(precision).autocast(CPU), clip_norm=clip_norm)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 2)

    def forward(self, images):
        return self.linear(images)


def batch(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 4, generator=generator)
    return Batch(images, torch.eye(2)[torch.arange(n) % 2], torch.ones(n), torch.arange(n))


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch():
    whole, parts = Toy(), Toy()
    full = batch(10)
    loss, taken = step(whole, [full])
    part_loss, _ = step(parts, [Batch(*(f[:4] for f in full)), Batch(*(f[4:8] for f in full)),
                                Batch(*(f[8:] for f in full))])
    assert taken
    torch.testing.assert_close(loss, part_loss)
    torch.testing.assert_close(whole.linear.weight, parts.linear.weight)


def test_the_gradient_is_clipped():
    net = Toy()
    before = net.linear.weight.detach().clone()
    step(net, [batch(8)], clip_norm=1e-3, lr=1.0)
    assert 0 < float((net.linear.weight.detach() - before).norm()) <= 1e-3 * 1.01


def test_a_non_finite_step_changes_nothing():
    net = Toy()
    before = net.linear.weight.detach().clone()
    bad = batch(4)
    bad.images[0, 0] = torch.inf
    _, taken = step(net, [bad])
    assert not taken
    torch.testing.assert_close(net.linear.weight, before, rtol=0, atol=0)


def test_repeated_non_finite_steps_end_the_fit_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling.train.train_step", lambda *args,
                        **kwargs: (torch.tensor(torch.nan), False))
    with pytest.raises(RunError,
                       match=r"non-finite steps in a row at learning rate .*use --set optim\.lr="):
        run(tmp_path / "a")


def test_non_finite_steps_in_a_row_end_a_fit_that_took_others_over_the_end_of_an_epoch(
        tmp_path, monkeypatch):
    n_steps = 0

    def step(*args, **kwargs):
        nonlocal n_steps
        n_steps += 1
        return torch.tensor(1.0), n_steps == 1

    monkeypatch.setattr("modeling.train.train_step", step)
    with pytest.raises(RunError, match="had 3 non-finite steps in a row"):
        run(tmp_path / "a", with_values(CONFIG, {"optim.nonfinite_limit": 3}))
    assert n_steps == 4 + 3 + 3      # of 3 an epoch; it begins again twice


def test_bf16_autocast_runs_on_a_cpu():
    loss, taken = step(Toy(), [batch(4)], precision="bf16")
    assert taken and torch.isfinite(loss)


def test_what_overflowed_leaves_nothing_in_the_batch_norms():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    net.train()
    state = TrainState(net, make_ema(net, CONFIG.optim, 10), torch.optim.SGD(net.parameters(),
                                                                             lr=0.1),
                       torch.amp.GradScaler("cpu", enabled=False), Room(4, CPU))
    bad = batch(4)
    bad.images[0, 0] = torch.inf
    for number, each in enumerate((batch(4), bad, batch(4))):
        _, taken = state.step(number, Supervised(CONFIG.optim, torch.ones(2)), each,
                              Compute().autocast(CPU), 1.0)
        assert taken == (each is not bad)
        assert all(torch.isfinite(value).all() for part in (net, state.ema.module)
                   for value in part.state_dict().values())
