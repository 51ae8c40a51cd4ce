"""Out of memory at any place of a fit, and gradient checkpointing. The errors are injected: no test
fills real memory."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from config import FitSpec, build_config, resolve, with_values
from data_loader import EpochSampler, ImageDataset, InOrderSampler, SplitLoader, make_loader
from modeling.compute import Compute
from modeling.inference import predict, views_for
from modeling.losses import Supervised
from modeling.memory import Room
from modeling.network import build_network
from modeling.norms import checkpoint_gradients, norm_statistics
from modeling.optim import make_ema, make_optimizer
from modeling.train import Training, TrainState, Watch, checkpoints, fit, seed_everything
from modeling.weights import WeightsSource
from running import predicting
from running.place import Place
from system.log import EventLog
from system.machine import is_out_of_memory
from utils import NoRoom

CPU = torch.device("cpu")
LABELS = np.arange(20) % 2
IMAGES = [np.random.default_rng(i).integers(0, 60 + 150 * k, (32, 32, 3)).astype(np.uint8)
          for i, k in enumerate(LABELS)]
CONFIG = resolve(with_values(build_config("quick_test"),
                             {"optim.batch_size": 8, "data.image_size_px": 32,
                              "model.drop_rate": 0.0}), gpu_memory_bytes=0, n_train=20)
SPEC = FitSpec("tiny", 42, 0, 0)
CUDA_ERROR = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 1 MiB")


class Tiny(nn.Module):
    """Neither batch norm nor dropout: a step in halves is the step up to rounding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.GELU(),
                                      nn.LayerNorm([4, 8, 8]), nn.Flatten())
        self.head = nn.Linear(256, 2)

    def set_memory_format(self, memory_format):
        pass

    def forward(self, images):
        return self.head(self.backbone(images.float() / 255))


class NormedTiny(Tiny):
    """With batch norm, dropout and gradient checkpointing, as timm has it."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4),
                                      nn.Dropout(0.5), nn.Flatten())
        self.is_checkpointed = False
        self.backbone.set_grad_checkpointing = self.set_grad_checkpointing

    def set_grad_checkpointing(self, enable):
        self.is_checkpointed = enable


def dataset_of(n=20):
    return ImageDataset(IMAGES[:n], [f"i{i}" for i in range(n)], lambda image, *_: image, ("t",),
                        np.eye(2, dtype=np.float32)[LABELS[:n]])


def run(folder, network=None, config=CONFIG, stop_in=None, n_epochs=2):
    """(network, FitResult, log) of one fit of 3 steps an epoch; it is cut off in the epoch
    `stop_in`."""
    folder.mkdir(exist_ok=True)
    network = network or Tiny()
    sampler = EpochSampler(20, 8, ("t",))
    log = EventLog(folder / "events.jsonl", echo=False)

    def mix(batch, generator, n_left):
        if n_epochs - n_left == stop_in:
            raise KeyboardInterrupt
        # drawn once a batch, as mixup is
        return batch._replace(weight=batch.weight * torch.rand((), generator=generator))

    objective = Supervised(config.optim, torch.ones(2))
    training = Training(network, objective, make_loader(dataset_of(), sampler, 0), sampler, mix,
                        Compute(), is_pretrained=False)
    result = fit(SPEC, training, config, n_epochs, CPU, folder, Watch(log))
    return network, result, log


@pytest.fixture
def out_of_memory(monkeypatch):
    """fails(place, number, times=1): from the number-th call on, `times` calls at the place raise.
    """
    targets = {
        "forward": (Supervised, "forward"),
        "backward": (torch.Tensor, "backward"),
        "clip": (torch.nn.utils, "clip_grad_norm_"),
        "optimizer": (torch.optim.AdamW, "step"),
        "ema": (torch, "_foreach_lerp_"),
    }

    def fails(place, number, times=1, error=CUDA_ERROR):
        owner, name = targets[place]
        real = getattr(owner, name)
        n_calls = 0

        def called(*args, **kwargs):
            nonlocal n_calls
            n_calls += 1
            if number <= n_calls < number + times:
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, called)

    return fails


def weights_of(folder):
    return (folder / "weights.safetensors").read_bytes()


PLACES = [("forward", 1), ("forward", 4), ("backward", 1), ("backward", 6), ("clip", 2),
          ("optimizer", 1), ("optimizer", 3), ("ema", 1), ("ema", 6)]


@pytest.mark.parametrize(("place", "number"), PLACES)
def test_a_step_that_runs_out_of_memory_is_taken_again_in_halves_and_the_fit_is_the_same(
        tmp_path, out_of_memory, place, number):
    whole, before, _ = run(tmp_path / "whole")
    out_of_memory(place, number)
    halved, result, log = run(tmp_path / "halved")
    for name, value in halved.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name])
    for epoch, other in zip(result.epochs, before.epochs, strict=True):
        assert epoch["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert epoch["skipped_steps"] == 0
    assert [e["micro_batch_size"] for e in before.epochs] == [8, 8]
    assert (result.epochs[-1]["micro_batch_size"], result.epochs[-1]["out_of_memory"]) == (4, 1)
    said = ("memory ran out (CUDA out of memory. Tried to allocate 2.00 MiB): "
            "goes on with 4 image(s) at a time")
    assert said in log.path.read_text()


def test_what_is_halved_stays_so_in_a_resumed_fit_which_ends_with_the_same_bytes(
        tmp_path, out_of_memory):
    out_of_memory("backward", 2, times=2)
    run(tmp_path / "whole", n_epochs=3)
    out_of_memory("backward", 2, times=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_in=1, n_epochs=3)
    assert checkpoints(tmp_path / "cut")
    _, result, _ = run(tmp_path / "cut", n_epochs=3)      # by now nothing fails
    assert [e["micro_batch_size"] for e in result.epochs] == [2, 2, 2]
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_the_smallest_part_is_one_image_and_then_a_sentence(tmp_path, out_of_memory):
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate "
                         "memory: you tried to allocate 9 bytes.")
    out_of_memory("forward", 2, times=99, error=error)
    sentence = r"^there was not enough memory for one image at a time .*image_size_px or a smaller"
    with pytest.raises(NoRoom, match=sentence):
        run(tmp_path / "a")


@pytest.mark.parametrize(("setting", "images_at_a_time", "is_checkpointed"), [
    ("auto", 8, True), ("off", 4, False)])
def test_few_images_are_not_made_fewer_for_batch_norms_where_checkpointing_helps(
        tmp_path, out_of_memory, setting, images_at_a_time, is_checkpointed):
    out_of_memory("backward", 2)
    network, result, _ = run(tmp_path / "a", NormedTiny(),
                             with_values(CONFIG, {"runtime.grad_checkpointing": setting}))
    assert result.epochs[-1]["micro_batch_size"] == images_at_a_time
    assert result.epochs[-1]["grad_checkpointing"] == is_checkpointed
    assert network.is_checkpointed == is_checkpointed
    again = NormedTiny()
    run(tmp_path / "a", again, n_epochs=3)      # resumed from the last epoch
    assert again.is_checkpointed == is_checkpointed


def test_checkpointing_that_is_asked_for_and_not_there_is_said(tmp_path):
    _, result, log = run(tmp_path / "a",
                         config=with_values(CONFIG, {"runtime.grad_checkpointing": "on"}))
    assert "runtime.grad_checkpointing=on has no effect" in log.path.read_text()
    assert not result.epochs[-1]["grad_checkpointing"]


def test_an_fp16_step_that_fails_after_its_gradients_were_unscaled_is_taken_again(out_of_memory):
    """What `TrainState.forget` is for: unscaling twice is an error of GradScaler."""
    network = Tiny()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    ema = make_ema(network, CONFIG.optim, 10)
    optimizer = make_optimizer(network, CONFIG.optim, False)
    state = TrainState(network, ema, optimizer, scaler, Room(8, CPU, network))
    out_of_memory("clip", 1)
    batch = next(iter(make_loader(dataset_of(8), InOrderSampler(8, 8), 0)))
    loss, taken = state.step(0, Supervised(CONFIG.optim, torch.ones(2)), batch,
                             Compute().autocast(CPU), 1.0)
    assert taken and torch.isfinite(loss)
    assert state.room.micro_batch_size == 4


def test_moments_made_beforehand_are_those_of_torch():
    """Two steps as a plain AdamW takes them, to the bit."""
    ours = Tiny()
    theirs = Tiny()
    made = make_optimizer(ours, CONFIG.optim, False)
    plain = torch.optim.AdamW([{**g, "params": []} for g in made.param_groups], betas=(0.9, 0.999),
                              fused=True)
    same = dict(zip(ours.parameters(), theirs.parameters(), strict=True))
    for mine, other in zip(made.param_groups, plain.param_groups, strict=True):
        mine["lr"] = other["lr"] = 1e-2
        other["params"] = [same[p] for p in mine["params"]]
    for _ in range(2):
        for network, optimizer in ((ours, made), (theirs, plain)):
            optimizer.zero_grad()
            loss = network(torch.ones(4, 3, 32, 32)).square().sum()
            grads = torch.autograd.grad(loss, list(network.parameters()))
            for p, grad in zip(network.parameters(), grads, strict=True):
                p.grad = grad
            optimizer.step()
    for p, q in same.items():
        assert torch.equal(p, q)
        assert all(torch.equal(v, plain.state[q][k]) for k, v in made.state[p].items())


@pytest.mark.parametrize("name", [
    "resnext26ts", "maxvit_rmlp_pico_rw_256", "tf_efficientnetv2_b0", "tiny_vit_5m_224"])
def test_checkpointing_changes_neither_gradients_nor_statistics_of_batch_norms(name):
    """Of the tiny members that have batch norms; dropout and drop path draw the same again."""
    model = with_values(build_config("quick_test"), {"model.drop_path_rate": 0.2}).model
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    targets = torch.eye(5)[:4]
    found = []
    for is_checkpointed in (False, True):
        seed_everything("test")
        network = build_network(name, n_classes=5, image_size_px=64,
                                weights=WeightsSource(name, "random"), model=model).train()
        assert not is_checkpointed or checkpoint_gradients(network)
        seed_everything("step")
        for _ in range(2):
            grads = torch.autograd.grad(nn.functional.cross_entropy(network(images), targets),
                                        list(network.parameters()), allow_unused=True)
        counts = [value for key, value in network.state_dict().items()
                  if key.endswith("num_batches_tracked")]
        found.append((grads, list(norm_statistics(network).values()), counts))
    assert len(found[0][1]) > 10 and all(count == 2 for count in found[1][2])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_prediction_that_runs_out_of_memory_goes_on_in_halves_with_the_same_results(monkeypatch):
    network = Tiny()
    ids = [f"i{i}" for i in range(20)]
    told = []
    loader = make_loader(dataset_of(), InOrderSampler(20, 8), 0)

    def predicted():
        return predict(network, loader, ids, ("a", "b"), split="test", source="s",
                       views=views_for(["rotate_180"], 2), room=Room(8, CPU, told=told.append),
                       autocast=Compute().autocast(CPU))

    whole = predicted()
    real = network.forward
    n_calls = 0

    def short(images):
        nonlocal n_calls
        n_calls += 1
        fails_in_first_batch = n_calls == 2
        fails_in_second_batch = n_calls > 4 and len(images) > 2
        if fails_in_first_batch or fails_in_second_batch:
            raise CUDA_ERROR
        return real(images)

    monkeypatch.setattr(network, "forward", short)
    halved = predicted()
    assert len(told) == 2
    assert "2 image(s) at a time" in told[1]
    for name, rows in whole.items():
        np.testing.assert_allclose(halved[name].probs, rows.probs, atol=1e-6)


@pytest.mark.parametrize(("error", "expected"), [
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
    (CUDA_ERROR, True), (MemoryError(), True), (NoRoom("x"), True),
    (RuntimeError("MPS backend out of memory"), True),
    (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), True), (RuntimeError("shape"), False),
    (ValueError("out of memory"), False)])
def test_which_errors_say_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) == expected


@pytest.mark.slow
def test_a_real_allocation_that_fails_is_one_of_them():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)


def test_adapting_to_test_images_goes_on_with_fewer_at_a_time(monkeypatch):
    sizes = []
    warnings = []

    def adapted(network, batches):
        sizes.append([len(images) for images in batches])
        if len(sizes) == 1:
            raise CUDA_ERROR
        return "adapted"

    monkeypatch.setattr(predicting, "adapted_to", adapted)
    images = ImageDataset(np.zeros((100, 8, 8, 3), np.uint8), [f"i{i}" for i in range(100)],
                          lambda image, *_: image, ("t",))
    place = Place(CPU, 0, False, SimpleNamespace(warn=warnings.append))
    both = SplitLoader({"test": images, "adapting": images}, 40, 0)
    assert predicting.adapted_to_test(SPEC, None, both, place) == "adapted"
    assert sizes == [[50, 50], [25, 25, 25, 25]]
    assert "goes on with 32 image(s) at a time" in warnings[0]
    alone = SplitLoader({"test": images}, 40, 0)
    assert predicting.adapted_to_test(SPEC, None, alone, place) is None
