from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from config import ModelConfig, OptimConfig, build_config, resolve
from modeling.network import build_network, drop_path_of
from modeling.optim import (
    clip_norm_of,
    layer_decay_of,
    lr_at,
    make_ema,
    make_optimizer,
    parameter_groups,
    peak_lr,
    set_lr,
    traits_named,
    weight_decay_of,
)
from modeling.weights import WeightsSource, without_weights

OPTIM = OptimConfig(batch_size=64)


def network(name="convnext_atto"):
    return build_network(name, n_classes=4, image_size_px=64, weights=WeightsSource(name, "random"),
                         model=ModelConfig())


def test_the_learning_rate_is_a_pure_function_with_warm_up_and_cosine():
    lrs = [lr_at(step, 100, OPTIM, 1.0) for step in range(100)]
    assert lrs == [lr_at(step, 100, OPTIM, 1.0) for step in range(100)]
    assert lrs[0] == pytest.approx(0.1) and max(lrs) == lrs[9] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(lrs[9:])) and 0.01 <= lrs[-1] < 0.012


def test_the_peak_follows_the_kind_of_network_the_batch_and_the_setting():
    layer_norm, batch_norm = network(), network("mobilenetv3_small_050")
    assert peak_lr(batch_norm, OPTIM, True) > peak_lr(layer_norm, OPTIM, True)
    assert peak_lr(layer_norm, OptimConfig(batch_size=16),
                   True) == pytest.approx(peak_lr(layer_norm, OPTIM, True) / 2)
    assert peak_lr(layer_norm, OptimConfig(batch_size=16, lr=0.3), True) == 0.3


def of_size(n_parameters, *norms):
    """A network whose backbone has so many parameters, which take no memory."""
    with torch.device("meta"):
        backbone = torch.nn.Sequential(torch.nn.Linear(1000, n_parameters // 1000, bias=False))
    backbone.extend(norms)
    return SimpleNamespace(backbone=backbone)


@pytest.mark.parametrize(("millions", "norm", "expected"), [
    (2, "batch", 2e-3), (6, "batch", 2e-3), (24, "batch", 1e-3), (5, "layer", 1e-3),
    (12, "layer", 5e-4), (22, "layer", 2.727e-4), (22, "both", 2.727e-4), (304, "layer", 7.337e-5)])
def test_the_peak_falls_with_the_parameters_and_faster_with_layer_norms(
        millions, norm, expected):
    norms = {"batch": [torch.nn.BatchNorm2d(1)], "layer": [torch.nn.LayerNorm(1)]}
    norms["both"] = [*norms["batch"], *norms["layer"]]
    net = of_size(millions * 10**6, *norms[norm])
    assert peak_lr(net, OPTIM, True) == pytest.approx(expected, rel=1e-3)
    assert peak_lr(net, OPTIM, False) == 2e-3
    assert peak_lr(net, OptimConfig(batch_size=64, lr=0.3), True) == 0.3


def test_big_networks_are_clipped_and_decayed_as_published_and_settings_win():
    small, big = of_size(44 * 10**6), of_size(46 * 10**6)
    assert [clip_norm_of(net, OPTIM) for net in (small, big)] == [5.0, 1.0]
    assert clip_norm_of(big, OptimConfig(clip_norm=0.0)) == 0.0
    decays = [weight_decay_of(net.backbone, OPTIM) for net in (small, big)]
    assert decays == [0.05, 1e-8]
    assert weight_decay_of(big.backbone, OptimConfig(weight_decay=0.1)) == 0.1
    tiny = resolve(build_config("quick_test"), gpu_memory_bytes=0, n_train=100)
    assert (tiny.optim.clip_norm, tiny.optim.weight_decay, tiny.model.drop_path_rate) == (
        5.0, 0.05, 0.0)      # in the keys of runs made before


@pytest.mark.parametrize(("name", "share"), [
    ("vit_large_patch16_384", 0.2), ("convnext_base", 0.1), ("tf_efficientnetv2_m", 0.1),
    ("resnext101_32x32d", 0.0), ("convnext_tiny", 0.0), ("mobilenetv2_100", 0.0)])
def test_stochastic_depth_goes_by_kind_and_size(name, share):
    assert drop_path_of(name) == share


def test_maxvit_decays_by_its_blocks_not_by_its_stages():
    backbone = without_weights("maxvit_tiny_tf_224")      # 2 + 2 + 5 + 2 blocks
    with torch.device("meta"):
        net = SimpleNamespace(backbone=backbone, head=torch.nn.Linear(1, 1))
    scale = {id(p): g["lr_scale"] for g in parameter_groups(net, OPTIM, pretrained=True)
             for p in g["params"]}
    first, last = backbone.stages[0].blocks[0], backbone.stages[3].blocks[1]
    block_scales = [scale[id(next(block.parameters()))]
                    for stage in backbone.stages for block in stage.blocks]
    assert len(set(block_scales)) == 11
    assert block_scales == sorted(block_scales)
    assert scale[id(next(first.parameters()))] == pytest.approx(0.8 ** 11)
    assert scale[id(next(last.parameters()))] == pytest.approx(0.8)
    assert traits_named("maxvit_tiny_tf_224").by_stages


@pytest.mark.parametrize("name", ["cait_xxs24_224", "inception_v3"])
def test_a_network_that_timm_groups_by_a_function_decays_by_its_layers(name):
    with torch.device("meta"):
        net = SimpleNamespace(backbone=without_weights(name), head=torch.nn.Linear(1, 1))
    scales = {g["lr_scale"] for g in parameter_groups(net, OPTIM, pretrained=True)}
    assert len(scales) > 10 and min(scales) < 0.6
    assert not traits_named(name).by_stages


def test_the_first_layers_of_a_large_network_learn_at_a_twentieth():
    with torch.device("meta"):
        net = SimpleNamespace(backbone=without_weights("vit_large_patch16_384"),
                              head=torch.nn.Linear(1, 1))
    smallest = min(g["lr_scale"] for g in parameter_groups(net, OPTIM, pretrained=True))
    assert smallest == pytest.approx(0.8 ** 13)


@pytest.mark.parametrize(("name", "decay"), [
    ("mobilenetv2_100", 0.95), ("convnext_atto", 0.8), ("resnext101_32x8d", 0.8)])
def test_small_networks_of_batch_norms_alone_decay_less(name, decay):
    with torch.device("meta"):
        backbone = without_weights(name)
    assert layer_decay_of(backbone, OPTIM) == decay
    assert layer_decay_of(backbone, OptimConfig(layer_decay=0.7)) == 0.7


@pytest.mark.parametrize(("name", "n_blocks"), [
    ("convnext_atto", 13), ("mobilenetv2_100", 17), ("tf_efficientnetv2_s", 20)])
def test_the_first_layers_of_deep_networks_learn_too(name, n_blocks):
    """tf_efficientnetv2_s has 40 blocks, of which the first would learn at 0.0001 of the rate."""
    scales = [g["lr_scale"] for g in parameter_groups(network(name), OPTIM, pretrained=True)]
    assert min(scales) == pytest.approx(layer_decay_of(network(name).backbone, OPTIM) ** n_blocks)
    flat = parameter_groups(network(name), OptimConfig(batch_size=64, layer_decay=1.0),
                            pretrained=True)
    assert {g["lr_scale"] for g in flat} == {1.0, OPTIM.head_lr_scale}


def test_layers_near_the_input_learn_slower_and_norms_do_not_decay():
    net = network()
    groups = parameter_groups(net, OPTIM, pretrained=True)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert set(scale) == {id(p) for p in net.parameters()}
    assert scale[id(net.backbone.stem[0].weight)] < scale[
        id(net.backbone.stages[3].blocks[1].conv_dw.weight)] <= 1
    assert scale[id(net.head.linear.weight)] == OPTIM.head_lr_scale
    assert decay[id(net.head.linear.weight)] == 0.05
    assert all(decay[id(p)] == 0 for p in net.parameters() if p.ndim <= 1)


def test_random_weights_learn_at_one_rate():
    assert {g["lr_scale"] for g in parameter_groups(network(), OPTIM, pretrained=False)} == {1.0}


def test_set_lr_scales_each_group():
    net = network()
    optimizer = make_optimizer(net, OPTIM, pretrained=True)
    set_lr(optimizer, 0.5)
    assert all(g["lr"] == pytest.approx(0.5 * g["lr_scale"]) for g in optimizer.param_groups)


def test_the_ema_is_an_average_with_warm_up_and_a_copy_without_horizon():
    net = torch.nn.Linear(1, 1, bias=False)
    ema, copy = make_ema(net, OptimConfig(ema_share=0.5), 100), make_ema(net,
                                                                         OptimConfig(ema_share=0.0),
                                                                         100)
    for step in range(1, 6):
        with torch.no_grad():
            net.weight.fill_(float(step))
        ema.update(net, step)
        copy.update(net, step)
    # the plain mean while the horizon is not reached
    assert ema.module.weight.item() == pytest.approx(3.0)
    assert copy.module.weight.item() == 5.0
