"""AdamW with layer-wise decay, the learning rate of a step, the average of the weights."""
import functools
import math
import re
from typing import NamedTuple

import torch
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3

from modeling.weights import without_weights

# peaks for batches of 64 and more, of networks of at most MEASURED_PARAMETERS
LR_BATCH_NORM = 2e-3      # measured on mobilenetv2_100, see benchmarks/RESULTS.md
LR_LAYER_NORM = 1e-3      # the usual one, e.g. arXiv 2106.08254
LR_RANDOM = 2e-3
MEASURED_PARAMETERS = 6e6
# a transformer of this size was measured: there the rate has fallen in proportion
MEASURED_LAYER_NORM = 22e6
# from so many parameters on, networks are tuned as published ones of their size
BIG_PARAMETERS = 45e6
LARGE_PARAMETERS = 150e6
# layer_decay suits networks of 12 (arXiv 2106.08254, 2201.03545) to 17 (measured) blocks; of big
# ones the first layers learn at 0.8 ** 13 = 0.055 of the rate, as in ConvNeXt's recipe
LAYERS = 20
LAYERS_OF_BIG = 13


# ---------------------------------------------------------------- by kind and size of network

class Traits(NamedTuple):
    """What of a backbone decides how it is tuned."""

    n_parameters: int
    has_layer_norm: bool
    has_batch_norm: bool
    by_stages: bool      # timm groups its parameters by whole stages, see `ByBlocks`

    @property
    def is_big(self):
        return self.n_parameters >= BIG_PARAMETERS


def traits_of(backbone):
    """The Traits of a timm model without classifier."""
    modules = list(backbone.modules())
    return Traits(sum(p.numel() for p in backbone.parameters()),
                  any(isinstance(m, torch.nn.LayerNorm) for m in modules),
                  any(isinstance(m, torch.nn.BatchNorm2d) for m in modules),
                  groups_by_stages(backbone))


@functools.cache
def traits_named(model_name):
    """The Traits of a timm model by its name."""
    return traits_of(without_weights(model_name))


def peak_lr(network, optim, pretrained):
    """optim.lr, or by default the peak for this kind and size of network and this batch.

    A network with any layer norm learns at LR_LAYER_NORM, any other at LR_BATCH_NORM. Both fall
    with the square root of the parameters beyond MEASURED_PARAMETERS, and of the batch below 64;
    with layer norms in proportion up to MEASURED_LAYER_NORM: vit_small_patch14_dinov2 scores 0.740
    at 1.25e-4 (batch 16), 0.613 at 2.5e-4 and 0.481 at 5e-4 (n=1,
    benchmarks/records/2026-11-30-large-networks.md).

    Published fine-tuning rates of large networks are far lower than what suits small ones, mostly
    for batches of 512 and 30 epochs: AdamW 2e-5 (microsoft/Swin-Transformer; microsoft/unilm,
    BEiT), 5e-5 (facebookresearch/ConvNeXt, TRAINING.md; tensorflow/models,
    finetune_maxvitl_imagenet_i384.yaml), RMSProp 5e-4 (google/automl, EfficientNetV2); 1e-4 for any
    network (AutoGluon MultiModal). docs/networks.md has each member's rate beside it.
    """
    if optim.lr:
        return optim.lr
    batch = min(1.0, optim.batch_size / 64) ** 0.5
    if not pretrained:
        return LR_RANDOM * batch
    traits = traits_of(network.backbone)
    root = min(1.0, MEASURED_PARAMETERS / traits.n_parameters) ** 0.5
    if not traits.has_layer_norm:
        return LR_BATCH_NORM * root * batch
    steeper = MEASURED_PARAMETERS / min(MEASURED_LAYER_NORM, traits.n_parameters)
    return LR_LAYER_NORM * root * min(1.0, steeper) ** 0.5 * batch


def clip_norm_of(network, optim):
    """optim.clip_norm, or by default 1.0 for big networks (MaxViT, AugReg, AutoGluon) and 5.0 for
    others."""
    if optim.clip_norm >= 0:
        return optim.clip_norm
    return 1.0 if traits_of(network.backbone).is_big else 5.0


def weight_decay_of(backbone, optim):
    """optim.weight_decay, or by default 1e-8 for big networks (Swin, BEiT, ConvNeXt) and 0.05 for
    others."""
    if optim.weight_decay >= 0:
        return optim.weight_decay
    return 1e-8 if traits_of(backbone).is_big else 0.05


def layer_decay_of(backbone, optim):
    """optim.layer_decay, or by default 0.95 for pure batch-norm networks that are not big, and 0.8
    for others.

    The former is measured on five data sets with mobilenetv2_100 (benchmarks/RESULTS.md), the
    latter is usual (arXiv 2106.08254, 2201.03545).
    """
    if optim.layer_decay:
        return optim.layer_decay
    traits = traits_of(backbone)
    return 0.8 if traits.has_layer_norm or traits.is_big else 0.95


def lr_at(step, n_steps, optim, peak):
    """The learning rate of a step: linear warm-up over warmup_share of all steps, then a cosine
    down to final_lr_share of the peak."""
    warmup = round(optim.warmup_share * n_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, n_steps - warmup)
    low = optim.final_lr_share
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(network, optim, pretrained):
    """The optimizer's groups, each with an `lr_scale`. No weight decay on biases and norms.

    Pretrained: `layer_decay_of` ** (depth from the output), and head_lr_scale for the head. Random
    weights learn at one rate everywhere.
    """
    layer_decay = layer_decay_of(network.backbone, optim) if pretrained else 1.0
    head_scale = optim.head_lr_scale if pretrained else 1.0
    decay = weight_decay_of(network.backbone, optim)
    groups = [{name: group[name] for name in ("params", "weight_decay", "lr_scale")}
              for group in decayed_groups(network.backbone, decay, layer_decay)]

    matrices = [p for p in network.head.parameters() if p.ndim > 1]
    vectors = [p for p in network.head.parameters() if p.ndim <= 1]
    for params, weight_decay in ((matrices, decay), (vectors, 0.0)):
        if params:
            groups.append({"params": params, "weight_decay": weight_decay, "lr_scale": head_scale})
    return groups


def decayed_groups(backbone, weight_decay, layer_decay):
    """timm's groups by blocks; all together decay at most as much as LAYERS or LAYERS_OF_BIG would.

    Otherwise the first of tf_efficientnetv2_xl's 100 blocks would learn at 2e-10 of the rate.
    """
    def groups_by(decay):
        return param_groups_layer_decay(
            ByBlocks(backbone) if groups_by_stages(backbone) else backbone,
            weight_decay=weight_decay,
            layer_decay=decay,
            no_weight_decay_list=getattr(backbone, "no_weight_decay", set)(),
        )

    groups = groups_by(layer_decay)
    smallest = min(group["lr_scale"] for group in groups)
    least = layer_decay ** (LAYERS_OF_BIG if traits_of(backbone).is_big else LAYERS)
    if 0 < smallest < 0.999 * least:
        groups = groups_by(layer_decay ** (math.log(least) / math.log(smallest)))
    return groups


def groups_by_stages(backbone):
    """Whether timm groups a backbone's parameters by whole stages although these have blocks.

    Layer decay would then hardly protect it: MaxViT has 24 blocks in 4 stages.
    """
    matcher = getattr(backbone, "group_matcher", lambda coarse: {})(coarse=False)
    if callable(matcher):      # of CaiT and Inception, which group by a function of the name
        return False
    blocks = matcher.get("blocks", "")
    patterns = [blocks] if isinstance(blocks, str) else [pattern for pattern, _ in blocks]
    return WHOLE_STAGES in patterns and any(
        re.match(BLOCKS_OF_STAGES, name) for name, _ in backbone.named_parameters())


WHOLE_STAGES = r"^stages\.(\d+)"
BLOCKS_OF_STAGES = r"^stages\.(\d+)\.blocks\.(\d+)"


class ByBlocks:
    """A backbone as timm's grouping reads it, with the blocks of its stages told apart."""

    def __init__(self, backbone):
        self.backbone = backbone
        self.named_parameters = backbone.named_parameters

    def group_matcher(self, coarse):
        return {**self.backbone.group_matcher(coarse),
                "blocks": [(BLOCKS_OF_STAGES, None), (WHOLE_STAGES, (0,)), (r"^norm", (99999,))]}


def make_optimizer(network, optim, pretrained):
    """A fused AdamW; `set_lr` sets its groups' `lr` at each step.

    Its moments exist from the start (torch makes them group by group in the first step), so running
    out of memory cannot leave a half-applied step.
    """
    groups = parameter_groups(network, optim, pretrained)
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=(0.9, 0.999), fused=True)
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
    return optimizer


def set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def make_ema(network, optim, n_steps):
    """timm's EMA with a horizon of ema_share of all steps, warmed up as 1 - 1/(1 + step). A horizon
    of 0 is a copy."""
    decay = 1 - 1 / max(1.0, optim.ema_share * n_steps)
    return ModelEmaV3(network, decay=decay, use_warmup=True, warmup_power=1.0)
