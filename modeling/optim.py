"""AdamW over groups with layer-wise decay, the learning rate as a pure function of the step, the
weights' average."""
import math

import torch
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3

# Peaks for batches of 64 and more. Networks with batch norm fine-tune at higher rates than those
# with layer norm
# (measured on mobilenetv2_100, see benchmarks/RESULTS.md; the rate for layer norm is the usual one,
# e.g. arXiv 2106.08254).
LR_BATCH_NORM = 2e-3
LR_LAYER_NORM = 1e-3
LR_RANDOM = 2e-3
# the layer decay is one for networks of 12 (arXiv 2106.08254, 2201.03545) to 17 (measured) blocks
LAYERS = 20


def peak_lr(network, optim, pretrained):
    """optim.lr, or by default the peak for this kind of network, scaled with the square root of the
    batch below 64."""
    if optim.lr:
        return optim.lr
    has_batch_norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    peak = LR_RANDOM if not pretrained else LR_BATCH_NORM if has_batch_norm else LR_LAYER_NORM
    return peak * min(1.0, optim.batch_size / 64) ** 0.5


def lr_at(step, n_steps, optim, peak):
    """Linear warm-up over warmup_share of all steps, then a cosine to final_lr_share of the peak.
    Pure."""
    warmup = round(optim.warmup_share * n_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, n_steps - warmup)
    low = optim.final_lr_share
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(network, optim, pretrained):
    """Groups with an `lr_scale` each: layer_decay ** depth from the output for pretrained weights,
    the head above it.

    No weight decay on biases and norms. Random weights learn at one rate everywhere.
    """
    backbone = decayed_groups(network.backbone, optim, optim.layer_decay if pretrained else 1.0)
    head_scale = optim.head_lr_scale if pretrained else 1.0
    head = [{"params": [p for p in network.head.parameters() if p.ndim > 1],
             "weight_decay": optim.weight_decay},
            {"params": [p for p in network.head.parameters() if p.ndim <= 1], "weight_decay": 0.0}]
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"], "lr_scale": g["lr_scale"]}
              for g in backbone]
    return groups + [{**g, "lr_scale": head_scale} for g in head if g["params"]]


def decayed_groups(backbone, optim, layer_decay):
    """timm's groups, by blocks, of which tf_efficientnetv2_xl has 100: the first would learn at
    2e-10 of the rate. So a network of more than LAYERS decays over all of them as much as one of
    LAYERS."""
    def groups_by(decay):
        return param_groups_layer_decay(
            backbone,
            weight_decay=optim.weight_decay,
            layer_decay=decay,
            no_weight_decay_list=getattr(backbone, "no_weight_decay", set)(),
        )

    groups = groups_by(layer_decay)
    smallest = min(group["lr_scale"] for group in groups)
    least = layer_decay ** LAYERS
    return groups_by(layer_decay ** (math.log(least)
                                     / math.log(
                                         smallest))) if 0 < smallest < 0.999 * least else groups


def make_optimizer(network, optim, pretrained):
    """AdamW (fused where the device has it); its groups' `lr` is set at each step by `set_lr`.

    Its moments are there from the start, as torch would make them group by group in the first step:
    a step then asks for no memory that it could lack with half of the groups changed.
    """
    groups = parameter_groups(network, optim, pretrained)
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=(0.9, 0.999), fused=True)
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[p] = {"step": torch.zeros((), device=p.device),
                              "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    return optimizer


def set_lr(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def make_ema(network, optim, n_steps):
    """timm's EMA whose horizon is ema_share of all steps, warmed up as 1 - 1/(1 + step); a horizon
    of 0 is a copy."""
    decay = 1 - 1 / max(1.0, optim.ema_share * n_steps)
    return ModelEmaV3(network, decay=decay, use_warmup=True, warmup_power=1.0)
