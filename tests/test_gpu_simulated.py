"""What a run does on a GPU, simulated: nothing here has run on a card."""
import copy
import math
import os
import stat
import time
import weakref
from types import SimpleNamespace

import pytest
import torch

from config import build_config
from modeling import compute
from modeling.compute import (
    Compute,
    LoneStep,
    fastest,
    halve,
    has_kernels,
    seconds_of,
    set_up_gpu,
    suits_channels_last,
    unseen_gpu,
)
from modeling.network import build_network
from modeling.train import FIRST_OVERFLOWS, Tally, TrainState, limit
from modeling.weights import WeightsSource
from running import checks, costs
from utils import UserError

GPU = torch.device("cuda")      # only named


@pytest.mark.parametrize(("capability", "architectures", "expected"), [
    ((8, 9), ["sm_75", "sm_80", "sm_86", "sm_90"], True), ((6, 0), ["sm_75", "sm_80"], False),
    ((12, 0), ["sm_80", "sm_90"], False), ((12, 0), ["sm_90", "compute_90"], True),
    ((12, 0), ["sm_120a"], True), ((7, 0), ["sm_75"], False), ((10, 3), ["sm_100"], True)])
def test_binaries_run_within_their_major_version_and_ptx_on_newer_gpus(
        capability, architectures, expected):
    assert has_kernels(capability, architectures) == expected


def fake_gpu(monkeypatch, capability=(8, 9)):
    """Makes torch.cuda describe an RTX 4090 Laptop; returns what is set on it."""
    done = {}
    answers = {"get_device_capability": capability, "get_arch_list": ["sm_75", "sm_80", "sm_86"],
               "get_device_name": "Some GPU"}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction",
                        lambda share, device: done.update(share=share))
    return done


def test_a_gpu_gets_a_cap_of_its_memory_and_timed_convolutions(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    done = fake_gpu(monkeypatch)
    set_up_gpu(GPU)
    assert torch.backends.cudnn.benchmark
    assert 15e9 < done["share"] * 16376 * 2**20 < 16e9      # of a card sold as 16 GB


def test_a_gpu_without_kernels_in_this_torch_is_one_sentence(monkeypatch):
    done = fake_gpu(monkeypatch, capability=(6, 0))
    with pytest.raises(UserError, match=r"no kernels for this GPU, Some GPU \(sm_60\): install a "):
        set_up_gpu(GPU)
    assert not done


def test_a_gpu_that_the_driver_lists_and_torch_does_not_see_is_named(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = unseen_gpu()
    assert said.startswith("THE GPU IS NOT USED: nvidia-smi lists GPU 0: NVIDIA GeForce RTX 4090")
    assert "UUID" not in said and "install torch with CUDA" in said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert unseen_gpu() == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    program.write_text("#!/bin/sh\nexit 9\n")
    assert unseen_gpu() == ""


def test_choosing_holds_one_network_at_a_time_and_warms_each_up(monkeypatch):
    alive = weakref.WeakSet()
    most = 0
    n_steps = []

    class Weights:
        pass

    def run_of(way):
        nonlocal most
        weights = Weights()
        alive.add(weights)
        most = max(most, len(alive))

        def run():
            n_steps.append(way)
            return weights

        return run

    monkeypatch.setattr(compute, "precisions", lambda device: ("fp32", "bf16"))
    held = {}
    best, timed = fastest(build_config("quick_test").runtime, GPU,
                          lambda way: LoneStep(lambda: run_of(way), held), 100)
    assert most == 1 and len(alive) == 1
    assert len(timed) == 3 and best in timed
    assert all(n_steps.count(way) >= 2 for way in timed)      # the first one is not timed


def test_steps_that_fit_only_with_checkpointing_are_timed_with_it(monkeypatch):
    monkeypatch.setattr(compute, "precisions", lambda device: ("bf16",))
    monkeypatch.setattr(costs, "steps_ahead", lambda *_: 100)
    monkeypatch.setattr(costs, "is_too_large", lambda *_: False)
    asked = []

    def step_of(way, is_checkpointed):
        asked.append(is_checkpointed)
        if not is_checkpointed:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda: None

    config = build_config("full_training")
    job = SimpleNamespace(prepared=SimpleNamespace(config=config), backbone="convnext_atto")
    chosen, seconds = costs.fastest_that_fits(job, GPU, step_of)
    assert True in asked and min(seconds.values()) < math.inf
    assert chosen in seconds


@pytest.mark.parametrize(("name", "device", "expected"), [
    ("resnext26ts", "cuda", False), ("resnext101_32x32d", "cuda", False),
    ("tf_efficientnetv2_b0", "cuda", True), ("convnext_atto", "cuda", True),
    ("resnext26ts", "cpu", True)])
def test_grouped_convolutions_begin_in_the_layout_that_is_fast_on_a_gpu(name, device, expected):
    assert suits_channels_last(name, device) == expected


def test_the_first_overflows_of_fp16_do_not_end_a_fit():
    optim = SimpleNamespace(nonfinite_limit=5)
    on = SimpleNamespace(is_enabled=lambda: True)
    off = SimpleNamespace(is_enabled=lambda: False)

    def of(scaler, history, losses):
        return limit(SimpleNamespace(scaler=scaler, history=history), Tally(losses), optim)

    assert of(on, [], []) == 5 + FIRST_OVERFLOWS
    assert of(on, [], [1.0]) == of(on, [{}], []) == of(off, [], []) == 5
    assert 65536 / 2 ** FIRST_OVERFLOWS == 1


def test_a_large_checkpoint_is_written_every_ten_minutes_and_a_small_one_each_epoch(monkeypatch):
    with torch.device("meta"):
        large = torch.nn.Linear(10_000, 7_000)
    ema = SimpleNamespace(module=None)
    state = TrainState(large, ema, None, None, None)
    assert not state.is_due()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 601)
    assert state.is_due()
    assert TrainState(torch.nn.Linear(2, 2), ema, None, None, None).is_due()


def test_a_teacher_in_half_precision_answers_as_autocast_does():
    torch.manual_seed(0)
    name = "convnext_atto"
    network = build_network(name, n_classes=3, image_size_px=32,
                            weights=WeightsSource(name, "random"),
                            model=build_config("quick_test").model).eval()
    halved = copy.deepcopy(network)
    halve(halved, torch.bfloat16)
    size, before = (sum(p.numel() * p.element_size() for p in each.parameters())
                    for each in (halved, network))
    assert size < 0.55 * before
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(halved(images).float(), network(images).float(), rtol=0.02,
                                   atol=0.02)
    assert Compute("bf16").as_teacher(network, torch.device("cpu")) is network
    assert next(network.parameters()).dtype == torch.float32


def test_debug_takes_a_real_step_of_the_member_that_the_mode_would_train_on_a_gpu(monkeypatch):
    taken = []

    def one_step(config, source, device, *size):
        taken.append((source.model_name, *size))
        return 1.0

    monkeypatch.setattr(checks, "one_step", one_step)
    config = build_config("debug", ["model.pretrained=off", "scale=large"])
    checks.check_backbone(config, "vit")
    monkeypatch.setattr(checks, "takes_real_step", lambda device: True)
    checks.check_backbone(config, "vit")
    assert taken == [("vit_tiny_patch16_224",), ("vit_large_patch16_384", 384, 8)]


def test_a_step_without_memory_takes_forever_and_frees_what_was_held():
    held = {"step": "another", "run": lambda: None}

    def make():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert seconds_of(LoneStep(make, held)) == math.inf
    assert not held
