"""Which way of computing is taken by the times of its steps, what of it a run keeps, and that
predicting takes the same way."""
import copy
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import LayerNorm2d
from timm.layers.conv2d_same import Conv2dSame

from config import BASE, RuntimeConfig, build_config
from contest.intake import read_contest
from grandmaster_train import main
from modeling import compute
from modeling.compute import Compute, fastest
from modeling.inference import Predictions
from modeling.kernels import with_fast_kernels
from modeling.network import build_network
from modeling.weights import WeightsSource
from running import costs
from running.place import loads_in_bursts, n_workers
from running.predictor import NAME, load_predictor
from running.run import Prepared
from system.log import EventLog
from system.stages import run_stage
from tests.conftest import small_argv
from utils import read_json, write_json

CPU = torch.device("cpu")
PLAIN, BF16 = Compute(), Compute("bf16")


def chosen(monkeypatch, seconds, n_steps_ahead=100, runtime=BASE.runtime):
    """(what `fastest` takes, how often each way was timed), with {Compute: seconds of a step};
    others take as long as fp32. The first step of a compiled one takes 100 s more."""
    calls = []

    def seconds_of(way):
        calls.append(way)
        return seconds.get(way, seconds[PLAIN]) + 100 * (way.compiled and way not in calls[:-1])

    monkeypatch.setattr(compute, "seconds_of", seconds_of)
    monkeypatch.setattr(compute, "precisions", lambda device: ("fp32", "bf16"))
    best, timed = fastest(runtime, CPU, lambda way: way, n_steps_ahead)
    assert set(timed) == set(calls)
    return best, {way: calls.count(way) for way in timed}


def test_the_fastest_way_is_taken_where_it_is_clearly_faster(monkeypatch):
    assert chosen(monkeypatch, {PLAIN: 1.0, BF16: 0.95})[0] == PLAIN
    assert chosen(monkeypatch, {PLAIN: 1.0, BF16: 0.7})[0] == BF16
    assert chosen(monkeypatch,
                  {PLAIN: 1.0,
                   Compute("fp32", channels_last=False): 0.5})[0] == Compute(channels_last=False)


def test_a_way_that_fails_or_is_far_slower_is_left(monkeypatch):
    assert chosen(monkeypatch, {PLAIN: 1.0, BF16: math.inf}) == (PLAIN,
                                                                 {PLAIN: 4, BF16: 1,
                                                                  Compute(channels_last=False): 3})
    assert chosen(monkeypatch, {PLAIN: 1.0, BF16: 4.0})[1][BF16] == 1
    assert chosen(monkeypatch, {PLAIN: 1.0, BF16: 1.5})[1][BF16] == 2
    best, timed = chosen(monkeypatch, {PLAIN: 1.0, BF16: 0.5})
    assert best == BF16 and timed[PLAIN] == 2


def test_compiling_is_tried_where_much_is_to_be_trained(monkeypatch):
    compiled = Compute(compiled=True)
    assert compiled not in chosen(monkeypatch, {PLAIN: 1.0, compiled: 0.5})[1]
    assert chosen(monkeypatch, {PLAIN: 1.0, compiled: 0.5}, n_steps_ahead=2000)[0] == compiled
    # 75 s for 100 of compiling
    assert chosen(monkeypatch, {PLAIN: 5.0, compiled: 4.5}, n_steps_ahead=150)[0] == PLAIN
    assert chosen(monkeypatch, {PLAIN: 1.0, compiled: math.inf}, n_steps_ahead=2000)[0] == PLAIN
    off = RuntimeConfig(compile="off")
    assert compiled not in chosen(monkeypatch, {PLAIN: 1.0, compiled: 0.5}, n_steps_ahead=2000,
                                  runtime=off)[1]


def test_what_was_asked_for_is_not_timed_against_others(monkeypatch):
    best, timed = chosen(monkeypatch, {PLAIN: 1.0, BF16: 0.5},
                         runtime=RuntimeConfig(precision="fp32", compile="on"))
    assert best == Compute(compiled=True) and BF16 not in timed
    assert timed[best] == 3      # beside the other memory format, and not once more before


def test_a_run_computes_as_the_machine_of_its_fits_does_not_as_the_one_that_started_it():
    prepared = Prepared(BASE, None, None, None, None, {}, {}, None)
    known = costs.Measurements(prepared, {"precision": "bf16"}, None, None)
    assert known.compute_of("convnext_atto") == BF16


@pytest.mark.parametrize("way", [
    BF16, Compute(channels_last=False), Compute("bf16", False)], ids=Compute.describe)
def test_all_ways_compute_the_same(way):
    torch.manual_seed(0)
    network = build_network("mobilenetv3_small_050", n_classes=3, image_size_px=32,
                            model=build_config("quick_test").model,
                            weights=WeightsSource("mobilenetv3_small_050", "random")).eval()
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        plain = PLAIN.prepare(network)(images)
        with way.autocast(CPU)():
            other = way.prepare(network)(images).float()
    assert torch.allclose(plain, other, rtol=0.05, atol=0.05 * float(plain.abs().max()))


@pytest.mark.parametrize(("kernel", "stride", "is_same", "height"), [
    (3, 2, False, 9), (3, 2, True, 10), (5, 1, False, 4), (5, 2, True, 11), (7, 1, False, 9),
    (7, 2, False, 12)])
def test_gradients_of_depthwise_convolutions_in_bf16_are_those_of_fp32(kernel, stride, is_same,
                                                                       height):
    torch.manual_seed(0)
    kind, padding = (Conv2dSame, 0) if is_same else (torch.nn.Conv2d, kernel // 2)
    exact = kind(6, 6, kernel, stride, padding, groups=6)
    fast = copy.deepcopy(exact)
    with_fast_kernels(fast)
    images = torch.randn(3, 6, height, 8).to(memory_format=torch.channels_last)
    share, found = torch.rand_like(exact(images)).detach(), []
    for module, precision in ((exact, PLAIN), (fast, BF16)):
        own = images.clone().requires_grad_()
        with precision.autocast(CPU)():
            answers = module(own)
        grads = torch.autograd.grad((answers * share).sum(), (own, module.weight, module.bias))
        assert {grad.dtype for grad in grads} == {torch.float32}
        found.append((answers.float(), *grads))
    assert answers.dtype == torch.bfloat16
    for right, near in zip(*found, strict=True):
        assert right.shape == near.shape and (right - near).abs().max() < 0.02 * right.abs().max()


@pytest.mark.parametrize(("module", "shape"), [
    (torch.nn.ReLU(inplace=True), (2, 6, 5, 5)), (torch.nn.ReLU6(inplace=True), (2, 6, 5, 5)),
    (torch.nn.ReLU(), (2, 6, 5, 5)),
    (torch.nn.Conv2d(6, 9, 1), (2, 6, 5, 5)), (torch.nn.Conv2d(6, 9, 1, bias=False), (2, 6, 1, 1)),
    (torch.nn.LayerNorm(40), (3, 5, 40)), (LayerNorm2d(6), (2, 6, 5, 5))], ids=str)
def test_other_fast_ways_give_the_same_values_and_gradients(module, shape):
    torch.manual_seed(0)
    fast, found = copy.deepcopy(module), []
    with_fast_kernels(fast)
    assert "forward" in vars(fast)
    memory_format = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    values = (4 * torch.randn(shape)).bfloat16().to(memory_format=memory_format)
    for each in (module, fast):
        own = values.clone().requires_grad_()
        with BF16.autocast(CPU)():
            answers = each(own * 1)
        grads = torch.autograd.grad((answers.float() * answers.detach().float().cos()).sum(),
                                    (own, *each.parameters()))
        assert answers.dtype == torch.bfloat16 and (len(shape) == 3
                                                    or answers.is_contiguous(
                                                        memory_format=memory_format))
        found.append((answers, *grads))
    for right, near in zip(*found, strict=True):
        assert right.shape == near.shape and right.dtype == near.dtype
        assert (right - near).abs().max() <= 0.03 * right.abs().max()


def test_the_ends_of_a_rectifier_in_bits():
    values = torch.tensor([-math.inf, -2.0, -0.0, 0.0, 1e-38, 3.0, 6.0, 7.0, math.inf],
                          dtype=torch.bfloat16)
    for module in (torch.nn.ReLU(inplace=True), torch.nn.ReLU6(inplace=True)):
        right = module(values.clone())
        with_fast_kernels(module)
        assert module(values.clone().requires_grad_() * 1).tolist() == right.tolist()


def test_only_slow_parts_are_replaced_and_a_copy_has_its_own():
    torch.manual_seed(0)
    network = build_network("mobilenetv3_small_050", n_classes=3, image_size_px=32,
                            model=build_config("quick_test").model,
                            weights=WeightsSource("mobilenetv3_small_050", "random")).eval()
    own, compiled = (replace(BF16, compiled=c).prepare(copy.deepcopy(network)) for c in (False,
                                                                                         True))
    replaced, if_compiled = ({name for name, m in n.named_modules() if "forward" in vars(m)}
                             for n in (own, compiled))
    convs = {name: m for name, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    slow = {name for name, m in convs.items() if m.groups == m.in_channels
            and (m.stride == (2, 2) or m.kernel_size == (5, 5))}
    pointwise = {name for name, m in convs.items() if m.kernel_size == (1, 1)}
    rectifiers = {name for name, m in network.named_modules() if type(m) is torch.nn.ReLU}
    assert if_compiled == slow | pointwise and len(slow) > 2
    assert replaced == if_compiled | rectifiers and len(rectifiers) > 2
    again = copy.deepcopy(BF16.prepare(own))      # a copy computes with its own weights
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        again.get_submodule(min(slow)).weight.zero_()
        before = own(images)
        assert torch.allclose(before, network(images), atol=1e-5) and not torch.allclose(
            before, again(images), atol=1e-5
        )


def test_a_run_times_once_and_predicts_as_it_trained(contest, tmp_path, monkeypatch):
    monkeypatch.setattr("running.costs.FEWEST_IMAGES", 1)
    monkeypatch.setattr(compute, "cpu_computes_bf16", lambda: True)
    monkeypatch.setattr(compute, "seconds_of", lambda step: step() or 1.0)
    monkeypatch.setattr(compute, "faster_of", lambda best, others, step_of,
                        timed: timed.update({best: 1.0})
                        or (next((way for way in others if way == BF16), best)))
    argv = small_argv(contest, tmp_path, "runtime.measure=on", "data.run_folds=1")
    assert main(argv) == 0
    folder = tmp_path / "run"
    stage, = folder.glob("compute/*")
    assert read_json(stage / "compute.json")["chosen"] == vars(BF16)
    assert not any(folder.glob("costs/*"))      # one short fit
    before = sorted(p.name for p in folder.glob("fold_0/*"))
    monkeypatch.setattr(compute, "faster_of", lambda *args: pytest.fail("timed again"))
    assert main(argv) == 0 and sorted(p.name for p in folder.glob("fold_0/*")) == before

    predictor = load_predictor(folder, build_config("quick_test"))
    assert predictor.fits[predictor.best].compute == BF16
    stored = read_json(folder / NAME)
    # what a GPU chose is not taken on a CPU
    write_json(folder / NAME, stored | {"device": "cuda:0"})
    elsewhere = load_predictor(folder, build_config("quick_test"))
    assert elsewhere.fits[elsewhere.best].compute == PLAIN
    test = read_contest(contest, build_config("quick_test").data).test
    predicted, _ = predictor.predict(test)
    stored = Predictions.load(next(folder.glob("ensemble-*")) / "test.npz")
    assert np.abs(predicted.align(stored.sample_id.tolist()) - stored.probs).max() < 1e-6


def test_a_hidden_capability_leaves_fp32_alone():
    code = ("import torch; from modeling.compute import precisions; "
            "print(*precisions(torch.device('cpu')))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parent.parent,
                          env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2"})
    assert done.stdout.split() == ["fp32"]


def test_what_another_kind_of_machine_chose_is_kept_for_its_fits_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "steps_ahead", lambda *_: 1000)
    log = EventLog(os.devnull, echo=False)
    prepared = Prepared(BASE, tmp_path, None, None, None, {}, {}, None)
    known = costs.Measurements(prepared, {"device": "cpu", "precision": "fp32"}, None, log)
    stage = costs.compute_stage(prepared, "convnext_atto")

    def choose():
        run_stage(stage, lambda folder: write_json(folder / "compute.json",
                                                   {"chosen": BF16, "device": "cuda"}))

    choose()
    assert not known.knows_compute("convnext_atto") and not stage.is_done
    choose()
    (tmp_path / "fold_0" / "r0-convnext_atto-s42-0123456789ab").mkdir(parents=True)
    assert known.knows_compute("convnext_atto") and known.compute_of("convnext_atto") == BF16


@pytest.mark.parametrize(("device", "cores", "threads", "n", "in_bursts"), [
    ("cpu", 1, 1, 0, False), ("cpu", 2, 2, 2, True), ("cpu", 2, 1, 1, False),
    ("cpu", 64, 64, 8, True),
    ("cpu", 64, 8, 8, False), ("cuda", 1, 1, 0, False), ("cuda", 2, 2, 1, False),
    ("cuda", 64, 64, 8, False)])
def test_loading_processes_go_by_the_cores_and_whether_they_compute_too(monkeypatch, device, cores,
                                                                        threads, n, in_bursts):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    device = torch.device(device)
    assert n_workers(BASE.runtime, device, cores) == n
    assert loads_in_bursts(device, cores) == in_bursts
    assert n_workers(RuntimeConfig(workers=3), device, cores) == 3
