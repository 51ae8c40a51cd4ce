"""A timm backbone with a head, and where its weights come from.

    source = find_weights("mobilenetv2_100", weights_dir="weights", pretrained="auto")
    network = build_network("mobilenetv2_100", n_classes=17, image_size_px=160, weights=source, model=config.model)
    logits = network(images)            # images (B, 3, H, W) uint8 RGB or float 0..255 -> (B, C)

The network holds its backbone's own mean and standard deviation, so everything before it stays uint8.
"""
import copy
import functools
import math
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import huggingface_hub
import timm
import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from timm.layers import SelectAdaptivePool2d
from timm.models import is_model_in_modules, load_state_dict
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from config import size_problem
from files import first_few
from utils import UserError, digest_file, nearest

WEIGHT_SUFFIXES = (".safetensors", ".pth")
PAD_TYPE_MODULES = ("efficientnet", "mobilenetv3")      # of timm.models, whose convolutions take pad_type
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


# ---------------------------------------------------------------- where weights come from

@dataclass(frozen=True)
class WeightsSource:
    """kind: weights_dir, hub_cache, hub (not downloaded yet), random. `path` is '' for hub and random.

    pad_type: '' (timm's default for the model) or 'same', see `with_padding`; global_pool: '' or 'max', see `pool_of`.
    """

    model_name: str
    kind: str
    path: str = ""
    licence: str = ""
    pad_type: str = ""
    global_pool: str = ""

    @property
    def is_pretrained(self):
        return self.kind != "random"

    def describe(self):
        where = {"weights_dir": self.path, "hub_cache": f"the local hub cache ({self.path})",
                 "hub": "the hub (to be downloaded)", "random": "RANDOM WEIGHTS"}
        return f"{self.model_name}: {where[self.kind]}"


def check_model_name(model_name):
    if not timm.is_model(model_name):
        raise UserError(f"model.backbones must hold family names or timm model names, got {model_name!r}"
                        f"{nearest(model_name, timm.list_models())}")
    try:
        timm.get_pretrained_cfg(model_name)
    except RuntimeError:      # a model that timm knows, with a tag that it does not
        tagged = timm.list_pretrained(model_name.split(".")[0] + ".*")
        raise UserError("model.backbones must hold timm model names with a tag that timm knows, if with one, got "
                        f"{model_name!r}{nearest(model_name, tagged)}: known are {first_few(tagged)}") from None


def find_weights(model_name, weights_dir, pretrained):
    """The first of: file in weights_dir, local hub cache, hub, random. Raises UserError where `require` finds none."""
    check_model_name(model_name)
    cfg = timm.get_pretrained_cfg(model_name)
    licence = (cfg.license if cfg else "") or ""
    if pretrained == "off":
        return WeightsSource(model_name, "random", global_pool=pool_of(model_name))
    if path := file_in(weights_dir, model_name):
        tagged = path.stem if timm.models.is_model_pretrained(path.stem) else model_name      # the hub's files are named so
        return WeightsSource(model_name, "weights_dir", str(path), timm.get_pretrained_cfg(tagged).license or "" if cfg else "")
    if cfg is not None and cfg.hf_hub_id:
        if path := cached_file(cfg.hf_hub_id):
            return WeightsSource(model_name, "hub_cache", str(path), licence)
        if hub_reachable():
            return WeightsSource(model_name, "hub", "", licence)
    if pretrained == "require":
        raise UserError(
            f"model.pretrained=require needs weights for {model_name}, and none were found in --weights_dir "
            f"{weights_dir or '(not given)'}, the hub cache or the hub: put {model_name}.safetensors or .pth "
            + (f"(from {cfg.hf_hub_id}) " if cfg is not None and cfg.hf_hub_id else "") + "into --weights_dir")
    return WeightsSource(model_name, "random", global_pool=pool_of(model_name))


def file_in(weights_dir, model_name):
    """<model_name>*.safetensors or .pth, but not the file of a model whose longer name begins alike; None if none."""
    if not weights_dir:
        return None
    if not Path(weights_dir).is_dir():
        raise UserError(f"--weights_dir must be an existing folder, got {weights_dir!r}: create it or leave the flag out")
    longer = timm.list_models(f"{model_name}?*")
    found = [p for p in sorted(Path(weights_dir).iterdir())
             if p.name.startswith(model_name) and p.suffix in WEIGHT_SUFFIXES and p.is_file()
             and not any(p.name.startswith(name) for name in longer)]
    return min(found, key=lambda p: (WEIGHT_SUFFIXES.index(p.suffix), p.name)) if found else None


def cached_file(hub_id):
    """The weights of a hub repository in the local cache, without asking the network; None if not there."""
    for name in HUB_FILES:
        path = huggingface_hub.try_to_load_from_cache(hub_id, name)
        if isinstance(path, str):
            return path
    return None


_reachable = {}


def hub_reachable(timeout_seconds=3.0):
    """Whether the hub, or the proxy that leads to it, answers; asked once per process and not at all when HF_HUB_OFFLINE is
    set."""
    hub = urlsplit(hub_constants.ENDPOINT)
    if hub not in _reachable:
        try:
            if hub_constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1":
                raise OSError("offline by HF_HUB_OFFLINE")
            socket.create_connection(address_towards(hub), timeout=timeout_seconds).close()
            _reachable[hub] = True
        except (OSError, ValueError):
            _reachable[hub] = False
    return _reachable[hub]


def address_towards(url):
    """(host, port) that a request for a split URL connects to: its own, or a proxy's that the environment names."""
    proxies = {} if proxy_bypass(url.hostname or "") else getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    near = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else url
    return near.hostname, near.port or (443 if near.scheme == "https" else 80)


def fetch_weights(source):
    """A source whose file is on this machine: downloads a `hub` source; the others as they are."""
    if source.kind != "hub":
        return source
    hub_id = timm.get_pretrained_cfg(source.model_name).hf_hub_id
    for name in HUB_FILES:
        try:
            path = huggingface_hub.hf_hub_download(hub_id, name)
            return WeightsSource(source.model_name, "hub_cache", path, source.licence)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
            continue
    raise UserError(f"the weights of {source.model_name} could not be downloaded from {hub_id}: put the file into "
                    "--weights_dir, or go on with random weights by --set model.pretrained=off")


def without_weights(model_name, **kwargs):
    """timm's model without classifier, to look at: it takes no memory and leaves torch's random state as it is."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return timm.create_model(model_name, num_classes=0, **kwargs)


@functools.cache
def pool_of(model_name):
    """How a network with random weights pools its last feature maps: 'max' where it has no batch norms, '' its own way (or no
    such maps).

    Layer norms leave the means over an image of random features all but alike, and few epochs do not tell them apart; maxima,
    batch-normed by the head, they do (benchmarks/RESULTS.md).
    """
    network = without_weights(model_name)
    has_maps = any(isinstance(m, SelectAdaptivePool2d) for m in network.modules())
    return "max" if has_maps and not batch_norms(network) else ""


def weights_digest(source):
    """What a fit's key holds of its weights: the file's sha256, or 'random'."""
    return digest_file(source.path) if source.path else source.kind


# ---------------------------------------------------------------- the network

class LinearHead(nn.Module):
    """Dropout and a linear classifier: (B, D) -> (B, C). On pretrained weights it begins with zeros: the first steps then turn
    no feature towards where random weights happen to look. From random weights that costs a lot (benchmarks/RESULTS.md).

    is_normed: features go through a batch norm before, which `fold` puts into the linear layer once it is trained.
    """

    def __init__(self, n_features, n_classes, drop_rate, is_pretrained=False, is_normed=False):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features) if is_normed else None
        self.drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(n_features, n_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        if is_pretrained:
            nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features):
        if self.norm and self.training and len(features) == 1:      # which has no statistics
            norm = self.norm
            features = F.batch_norm(features.float(), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        elif self.norm:
            features = self.norm(features.float())
        return self.linear(self.drop(features))

    @torch.no_grad()
    def fold(self):
        """The same function of features without a batch norm, as it predicts."""
        if self.norm:
            scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
            self.linear.bias += self.linear.weight @ (self.norm.bias - self.norm.running_mean * scale)
            self.linear.weight *= scale
            self.norm = None

    def with_margin(self, logits, targets):
        """A linear head asks for no margin."""
        return logits


class ArcFaceHead(nn.Module):
    """s cos(theta), theta the angle to the nearest of a class's centres: (B, D) -> (B, C). One centre is ArcFace (arXiv
    1801.07698), more are its sub-centre form (Deng et al., ECCV 2020): images unlike the rest of their class, mislabelled
    ones too, gather around a centre of their own."""

    def __init__(self, n_features, n_classes, drop_rate, n_centers=1, scale=16.0, margin=0.2):
        super().__init__()
        self.n_centers = n_centers
        self.scale = scale
        self.margin = margin
        self.drop = nn.Dropout(drop_rate)
        self.weight = nn.Parameter(torch.empty(n_classes * n_centers, n_features))      # the centres of a class side by side
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features):
        with torch.autocast(features.device.type, enabled=False):      # cosines near 1 lose the angle in half precision
            cosine = F.linear(F.normalize(self.drop(features).float()), F.normalize(self.weight.float()))
        return self.scale * cosine.unflatten(1, (-1, self.n_centers)).amax(2)

    def with_margin(self, logits, targets):
        """s cos(theta + m) for the true class, which the loss is taken of; for soft targets t (B, C) in proportion:
        s ((1 - t) cos(theta) + t cos(theta + m)). Beyond pi - m it goes on falling, as in the paper's code."""
        cosine = logits.float() / self.scale
        sine = (1 - cosine.square()).clamp(min=1e-7).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine <= math.cos(math.pi - self.margin)
        shifted = torch.where(beyond, cosine - self.margin * math.sin(self.margin), shifted)
        return self.scale * ((1 - targets) * cosine + targets * shifted)


def fold_heads(network):
    """As a finished fit keeps its network."""
    for module in network.modules():
        if isinstance(module, LinearHead):
            module.fold()


def build_head(model, n_features, n_classes, weights):
    """The head of a ModelConfig."""
    if model.head == "linear":
        return LinearHead(n_features, n_classes, model.drop_rate, weights.is_pretrained, weights.global_pool == "max")
    return ArcFaceHead(n_features, n_classes, model.drop_rate, model.arcface_centers)


class Network(nn.Module):
    """backbone -> pooled features (B, D) -> head -> logits (B, C); takes raw pixels 0..255 of any square size."""

    def __init__(self, backbone, head, mean, std, input_size_px):
        super().__init__()
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
        return self.backbone(images.contiguous(memory_format=self.memory_format))

    def forward(self, images):
        return self.head(self.features(images))


def input_size_px(model_name, image_size_px):
    """The size the backbone takes: image_size_px, or the nearest multiple of a patch that does not divide it."""
    patch = 14 if "patch14" in model_name else 32
    if problem := size_problem(image_size_px):
        raise UserError(problem)
    return max(patch, round(image_size_px / patch) * patch)


def timm_arguments(source, size_px):
    """What timm.create_model needs beside the name to take the weights of a fit that began with this source's."""
    cfg = timm.get_pretrained_cfg(source.model_name)
    wanted = {"img_size": size_px if cfg is not None and cfg.fixed_input_size else 0, "pad_type": source.pad_type,
              "global_pool": source.global_pool}
    return {name: value for name, value in wanted.items() if value}


def build_backbone(model_name, size_px, weights, drop_path_rate):
    """The timm model without classifier, with the source's weights in it."""
    kwargs = {"num_classes": 0, **timm_arguments(weights, size_px)}
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
    except Exception as error:   # timm and torch raise many kinds here; each means the file is not this model's weights
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"the weights file {weights.path} must hold a plain state dict of timm's {model_name}, and could "
                        f"not be loaded ({reason}): replace it, or use --set model.pretrained=off") from error


@functools.cache
def takes(model_name, **kwargs):
    """Whether timm's model has these arguments."""
    try:
        without_weights(model_name, **kwargs)
    except TypeError:
        return False
    return True


def unchanged_share(backbone, fresh):
    """Share of the randomly initialised elements of `fresh` that `backbone` still holds: timm skips unknown names."""
    same = total = 0
    for loaded, random in zip(backbone.parameters(), fresh.parameters(), strict=True):
        if random.numel() > 1 and random.std() > 0:
            same = same + int((loaded == random).sum())
            total = total + random.numel()
    return same / max(1, total)


def build_network(model_name, *, n_classes, image_size_px, weights, model):
    """A Network ready to train. `weights`: a WeightsSource; `model`: a ModelConfig. Uses torch's random state."""
    check_model_name(model_name)
    size_px = input_size_px(model_name, image_size_px)
    backbone = build_backbone(model_name, size_px, weights, model.drop_path_rate)
    n_features = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    cfg = backbone.pretrained_cfg
    head = build_head(model, n_features, n_classes, weights)
    return Network(backbone, head, cfg["mean"], cfg["std"], size_px)


# ---------------------------------------------------------------- gradient checkpointing

def checkpoint_gradients(network):
    """Whether timm's model could be set to keep few activations and compute the others again in the backward pass.

    About a third more time for a fraction of the memory; the results are the same up to rounding. Dropout and drop path draw
    the same again (torch sets back the random state), and batch norms count no image twice: see `hold_statistics`.
    """
    try:
        network.backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):      # timm's two ways of saying that a model has none
        return False
    for norm in batch_norms(network):
        norm.register_forward_pre_hook(hold_statistics)
        norm.register_forward_hook(release_statistics, always_call=True)      # torch ends a second computation by an exception
    return True


def batch_norms(network):
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def is_computed_again():
    """Whether this forward pass is part of a backward pass, asked as torch.utils.checkpoint does."""
    return torch._C._current_graph_task_id() != -1


def hold_statistics(norm, inputs):
    if is_computed_again():
        norm.held = norm.momentum
        norm.momentum = 0.0


def release_statistics(norm, inputs, output):
    if is_computed_again():
        norm.momentum = norm.held
        norm.num_batches_tracked -= 1


# ---------------------------------------------------------------- for prediction alone

@torch.no_grad()
def fused(network):
    """A copy for prediction whose convolutions hold the batch norms that follow them: the same function up to rounding, in
    50 to 80 % of the time on a CPU (benchmarks/RESULTS.md). The network itself without any, and where outputs would differ."""
    if not batch_norms(network):
        return network.eval()
    plain = network.eval()
    copied = twin(network)
    device = next(network.parameters()).device
    shape = (2, 3, plain.input_size_px, plain.input_size_px)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)
    pairs = norms_after_convolutions(copied, images)
    parts = {conv: fuse_conv_bn_eval(conv, norm) for norm, conv in pairs.items()}
    # timm's batch norms hold the activation that follows
    parts |= {norm: nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity() for norm in pairs}
    for parent in list(copied.modules()):
        for name, part in list(parent.named_children()):
            if part in parts:
                setattr(parent, name, parts[part])
    copied.set_memory_format(plain.memory_format)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):      # else its rounding would hide or make differences
        # a head may begin with zeros
        expected = plain.features(images)
        found = copied.features(images)
    return copied if pairs and torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())) else plain


def norms_after_convolutions(network, images):
    """{batch norm: the convolution whose output it reads, as no other module does} in a forward pass."""
    outputs = {}
    readers = {}

    def keep(conv, inputs, output):
        outputs[id(output)] = conv, output

    def read(module, inputs):
        if inputs and id(inputs[0]) in outputs:
            readers.setdefault(outputs[id(inputs[0])][0], []).append(module)

    norms = batch_norms(network)
    hooks = [m.register_forward_hook(keep) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(read) for m in network.modules() if m in norms or not any(m.children())]
    network(images)
    for hook in hooks:
        hook.remove()
    return {found[0]: conv for conv, found in readers.items() if len(found) == 1 and found[0] in norms}


# ---------------------------------------------------------------- statistics of other images

def twin(network):
    """A copy with buffers of its own and the same parameters."""
    return copy.deepcopy(network, {id(p): p for p in network.parameters()}).eval()


@torch.no_grad()
def adapted_to(network, batches):
    """The network with the statistics of these images, (B, 3, H, W) each, in its batch norms in place of those of the
    training images (AdaBN, arXiv 1603.04779); it shares the parameters. None for a network without batch norm."""
    adapted = twin(network)
    norms = batch_norms(adapted)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None      # the plain mean over batches
        norm.train()
    if norms:
        for images in batches:
            adapted.features(images)
    return adapted.eval() if norms else None


def norm_statistics(network):
    """{name: running mean or variance} of all batch norms."""
    return {name: value for name, value in network.named_buffers() if name.endswith(("running_mean", "running_var"))}


def with_statistics(network, statistics):
    """The network with these `norm_statistics`; it shares the parameters."""
    other = twin(network)
    other.load_state_dict(statistics, strict=False)
    return other


# ---------------------------------------------------------------- padding

@torch.inference_mode()
def with_padding(source, images, image_size_px, model):
    """The source with the padding its weights were trained with: timm's default or TensorFlow's 'same'.

    A state dict does not say which, and the wrong one moves every feature map by half a pixel (ImageNet top-1 of the
    mobilenetv2_100 release that this was found on: 81 % against 89 %). The batch norms tell: of the two paddings the right
    one gives batch statistics of `images` (n, 3, H, W) uint8, natural full-frame pictures, nearer to the stored ones.
    """
    if not source.path or not is_model_in_modules(source.model_name, PAD_TYPE_MODULES):
        return source
    candidates = [replace(source, pad_type=pad_type) for pad_type in ("", "same")]
    networks = [build_network(source.model_name, n_classes=2, image_size_px=image_size_px, weights=c, model=model)
                for c in candidates]
    mismatch = [norm_mismatch(network.eval(), images) for network in networks]
    return candidates[int(mismatch[1] < mismatch[0])]


def norm_mismatch(network, images):
    """Mean over batch norms and channels of |log(batch variance / running variance)|; 0.0 without batch norms."""
    distances = []

    def compare(module, inputs, output):
        variance = inputs[0].float().var((0, 2, 3))
        ratio = variance.clamp(min=module.eps) / module.running_var.clamp(min=module.eps)
        distances.append(float(ratio.log().abs().mean()))

    hooks = [m.register_forward_hook(compare) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for batch in images.split(64):
        network.features(batch)
    for hook in hooks:
        hook.remove()
    return sum(distances) / max(1, len(distances))
