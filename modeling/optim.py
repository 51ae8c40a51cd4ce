"""AdamW with layer-wise decay, the learning rate of a step, the average of the weights."""
import math

import torch
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3

# peaks for batches of 64 and more
LR_BATCH_NORM = 2e-3      # measured on mobilenetv2_100, see benchmarks/RESULTS.md
LR_LAYER_NORM = 1e-3      # the usual one, e.g. arXiv 2106.08254
LR_RANDOM = 2e-3
# layer_decay suits networks of 12 (arXiv 2106.08254, 2201.03545) to 17 (measured) blocks
LAYERS = 20


def peak_lr(network, optim, pretrained):
    """optim.lr, or by default the peak for this kind of network. Below a batch of 64 that scales
    with the square root of the batch."""
    if optim.lr:
        return optim.lr
    if not pretrained:
        peak = LR_RANDOM
    elif any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()):
        peak = LR_BATCH_NORM
    else:
        peak = LR_LAYER_NORM
    return peak * min(1.0, optim.batch_size / 64) ** 0.5


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

    Pretrained: layer_decay ** (depth from the output), and head_lr_scale for the head. Random
    weights learn at one rate everywhere.
    """
    layer_decay = optim.layer_decay if pretrained else 1.0
    head_scale = optim.head_lr_scale if pretrained else 1.0
    groups = [{name: group[name] for name in ("params", "weight_decay", "lr_scale")}
              for group in decayed_groups(network.backbone, optim, layer_decay)]

    matrices = [p for p in network.head.parameters() if p.ndim > 1]
    vectors = [p for p in network.head.parameters() if p.ndim <= 1]
    for params, weight_decay in ((matrices, optim.weight_decay), (vectors, 0.0)):
        if params:
            groups.append({"params": params, "weight_decay": weight_decay, "lr_scale": head_scale})
    return groups


def decayed_groups(backbone, optim, layer_decay):
    """timm's groups by blocks; all blocks together decay at most as much as LAYERS would.

    Otherwise the first of tf_efficientnetv2_xl's 100 blocks would learn at 2e-10 of the rate.
    """
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
    if 0 < smallest < 0.999 * least:
        groups = groups_by(layer_decay ** (math.log(least) / math.log(smallest)))
    return groups


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
