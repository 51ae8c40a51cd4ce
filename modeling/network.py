"""A timm backbone with a head.

    source = find_weights("mobilenetv2_100", weights_dir="weights", pretrained="auto")
    network = build_network("mobilenetv2_100", n_classes=17, image_size_px=160, weights=source,
                            model=config.model)
    logits = network(images)            # images (B, 3, H, W) uint8 RGB or float 0..255 -> (B, C)

The network normalises by its backbone's own mean and standard deviation, so everything before it
stays uint8.
"""
import functools
from dataclasses import replace

import timm
import torch
from timm.models import is_model_in_modules, load_state_dict
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from config import size_problem
from modeling.heads import build_head
from modeling.norms import batch_norms
from modeling.optim import LARGE_PARAMETERS, traits_named
from modeling.weights import WeightsSource, check_model_name, without_weights
from system.machine import fault_of
from utils import UserError, first_line

# modules of timm.models whose convolutions take pad_type
PAD_TYPE_MODULES = ("efficientnet", "mobilenetv3")
FEWEST_BLOCKS = 8      # of one width: a ViT, not a few stages


class Network(nn.Module):
    """backbone -> pooled features (B, D) -> head -> logits (B, C). Takes raw pixels 0..255 of any
    square size.

    stages: of timm's feature_info, whose maps' means join the features.
    """

    def __init__(self, backbone, head, mean, std, input_size_px, stages=()):
        super().__init__()
        self.stages = stages
        self.backbone = backbone
        self.head = head
        self.input_size_px = input_size_px
        self.set_memory_format(torch.channels_last)
        self.register_buffer("mean", torch.tensor(mean).mul(255).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).mul(255).view(1, 3, 1, 1), persistent=False)

    def set_memory_format(self, memory_format):
        """torch.channels_last or torch.contiguous_format, of weights and images."""
        self.memory_format = memory_format
        self.to(memory_format=memory_format)

    def features(self, images):
        images = (images.float() - self.mean) / self.std
        if images.shape[-1] != self.input_size_px:
            images = F.interpolate(images, size=self.input_size_px, mode="bilinear", antialias=True)
        images = images.contiguous(memory_format=self.memory_format)
        if not self.stages:
            return self.backbone(images)
        last, maps = self.backbone.forward_intermediates(images, indices=list(self.stages))
        pooled = self.backbone.forward_head(last)
        return torch.cat([pooled, *(each.mean((2, 3)) for each in maps)], dim=1)

    def forward(self, images):
        return self.head(self.features(images))


def input_size_px(model_name, image_size_px):
    """The size the backbone takes: image_size_px, or the nearest multiple of its patch."""
    patch = 14 if "patch14" in model_name else 32
    if problem := size_problem(image_size_px):
        raise UserError(problem)
    return max(patch, round(image_size_px / patch) * patch)


def timm_arguments(source, size_px):
    """What timm.create_model needs beside the name, for this source's weights or those of a fit
    that began with them."""
    cfg = timm.get_pretrained_cfg(source.timm_name)
    is_fixed = cfg is not None and cfg.fixed_input_size
    arguments = {"img_size": size_px if is_fixed else 0,
                 "pad_type": source.pad_type, "global_pool": source.global_pool}
    return {name: value for name, value in arguments.items() if value}


def build_backbone(size_px, weights, drop_path_rate):
    """The timm model without classifier, with the source's weights in it."""
    model_name = weights.timm_name
    kwargs = {"num_classes": 0, **timm_arguments(weights, size_px)}
    if drop_path_rate < 0:
        drop_path_rate = drop_path_of(model_name)
    if drop_path_rate and takes(model_name, drop_path_rate=drop_path_rate):
        kwargs["drop_path_rate"] = drop_path_rate
    if not weights.path:
        return timm.create_model(model_name, **kwargs)
    try:
        state = load_state_dict(weights.path, weights_only=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            backbone = timm.create_model(model_name, pretrained=True,
                                         pretrained_cfg_overlay={"state_dict": state}, **kwargs)
            torch.manual_seed(0)
            left_random = unchanged_share(backbone, timm.create_model(model_name, **kwargs))
        if left_random > 0.1:
            raise ValueError(f"it leaves {left_random:.0%} of the parameters random")
        return backbone
    except Exception as error:
        # timm and torch raise many kinds here; each means the file is not this model's weights,
        # unless the machine is to blame: then a later start may load it
        if fault_of(error):
            raise
        reason = first_line(error)[:200]
        raise UserError(
            f"the weights file {weights.path} must hold a plain state dict of timm's {model_name}, "
            f"and could not be loaded ({reason}): replace it, or use --set model.pretrained=off"
        ) from error


def drop_path_of(model_name):
    """The stochastic depth of a backbone by its kind and size.

    As published or less, since fits are short: 0.2 (Swin-L), 0.3 (MaxViT-L, ConvNeXt-L), 0.4
    (BEiT-L), 0.2 (EfficientNetV2's survival of 0.8). ResNeXt has none.
    """
    traits = traits_named(model_name)
    if not (traits.has_layer_norm or "efficientnetv2" in model_name) or not traits.is_big:
        return 0.0
    return 0.2 if traits.n_parameters >= LARGE_PARAMETERS else 0.1


@functools.cache
def takes(model_name, **kwargs):
    """Whether timm's model takes these arguments."""
    try:
        without_weights(model_name, **kwargs)
    except TypeError:
        return False
    return True


@functools.cache
def forward_operations(model_name, image_size_px):
    """Multiplications and additions of a forward pass of one image, without the classifier."""
    size_px = input_size_px(model_name, image_size_px)
    source = WeightsSource(model_name, "random")
    backbone = without_weights(model_name, **timm_arguments(source, size_px))
    backbone.eval().requires_grad_(False)      # the counter takes no gradients of some networks
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.empty(1, 3, size_px, size_px, device="meta"))
    return counter.get_total_flops()


def unchanged_share(backbone, fresh):
    """Share of the randomly initialised elements of `fresh` that `backbone` still holds. timm skips
    unknown names without an error."""
    same = 0
    total = 0
    for loaded, random in zip(backbone.parameters(), fresh.parameters(), strict=True):
        if random.numel() > 1 and random.std() > 0:
            same += int((loaded == random).sum())
            total += random.numel()
    return same / max(1, total)


def telling_stages(feature_info):
    """The two stages whose maps tell most beside the last features: the last two; of blocks that
    are all alike, as a ViT's, those at half and three quarters of the depth
    (benchmarks/records/2026-11-30-frozen-members.md)."""
    n = len(feature_info)
    if n >= FEWEST_BLOCKS and len({stage["num_chs"] for stage in feature_info}) == 1:
        return n // 2 - 1, 3 * n // 4 - 1
    return n - 2, n - 1


def stages_read(backbone):
    """The stages whose maps join the features of a backbone that is not trained."""
    can_say = hasattr(backbone, "forward_intermediates")
    return telling_stages(backbone.feature_info) if can_say else ()


@functools.cache
def stages_named(model_name):
    """(`stages_read` of a backbone of this name, how many stages it has)."""
    backbone = without_weights(model_name)
    return stages_read(backbone), len(backbone.feature_info)


def build_network(model_name, *, n_classes, image_size_px, weights, model, reads_stages=False):
    """A Network ready to train. `weights`: a WeightsSource. `model`: a ModelConfig. reads_stages:
    the `telling_stages` join its features. Draws from torch's random state."""
    check_model_name(model_name)
    size_px = input_size_px(model_name, image_size_px)
    backbone = build_backbone(size_px, weights, model.drop_path_rate)
    n_features = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    cfg = backbone.pretrained_cfg
    stages = ()
    if reads_stages:
        stages = stages_read(backbone)
        n_features += sum(backbone.feature_info[k]["num_chs"] for k in stages)
    head = build_head(model, n_features, n_classes, weights)
    return Network(backbone, head, cfg["mean"], cfg["std"], size_px, stages)


# ---------------------------------------------------------------- padding

@torch.inference_mode()
def with_padding(source, images, model):
    """The source with the padding its weights were trained with: timm's default or TensorFlow's
    'same'.

    A state dict does not say which. The wrong one moves every feature map by half a pixel: 81 %
    instead of 89 % ImageNet top-1 for a release of mobilenetv2_100. The batch norms tell: with the
    right one, batch statistics of `images` (n, 3, S, S) uint8, full-frame pictures, are nearer to
    the stored ones. They differ at borders alone, so that small images tell most.
    """
    if not source.path or not is_model_in_modules(source.model_name, PAD_TYPE_MODULES):
        return source

    default = replace(source, pad_type="")
    same = replace(source, pad_type="same")
    networks = [build_network(source.model_name, n_classes=2, image_size_px=images.shape[-1],
                              weights=weights, model=model) for weights in (default, same)]
    of_default, of_same = (norm_mismatch(network.eval(), images) for network in networks)
    return same if of_same < of_default else default


def norm_mismatch(network, images):
    """How far batch statistics of `images` are from the stored ones: the Kullback-Leibler
    divergence of normal distributions, averaged over channels and batch norms. 0.0 without these.
    """
    distances = []

    def compare(module, inputs, output):
        values = inputs[0].float()
        variance = values.var((0, 2, 3)).clamp(min=module.eps)
        stored = module.running_var.clamp(min=module.eps)
        move = values.mean((0, 2, 3)) - module.running_mean
        ratio = variance / stored
        distances.append(float((ratio - 1 - ratio.log() + move**2 / stored).mean() / 2))

    hooks = [norm.register_forward_hook(compare) for norm in batch_norms(network)]
    for batch in images.split(64):
        network.features(batch)
    for hook in hooks:
        hook.remove()
    return sum(distances) / max(1, len(distances))
