from itertools import pairwise

import pytest
import torch

from config import ModelConfig, OptimConfig
from modeling.network import build_network
from modeling.optim import lr_at, make_ema, make_optimizer, parameter_groups, peak_lr, set_lr
from modeling.weights import WeightsSource

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


@pytest.mark.parametrize(("name", "n_blocks"), [
    ("convnext_atto", 13), ("mobilenetv2_100", 17), ("tf_efficientnetv2_s", 20)])
def test_the_first_layers_of_deep_networks_learn_too(name, n_blocks):
    """tf_efficientnetv2_s has 40 blocks, of which the first would learn at 0.0001 of the rate."""
    scales = [g["lr_scale"] for g in parameter_groups(network(name), OPTIM, pretrained=True)]
    assert min(scales) == pytest.approx(OPTIM.layer_decay ** n_blocks)
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
    assert decay[id(net.head.linear.weight)] == OPTIM.weight_decay
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
