"""Where in an image a network sees a class.

    maps = evidence(network, images, classes)       # (B, 3, S, S) uint8, (B,) -> (B, h, w), >= 0

What the classifier reads, times the gradient of the class's logit, by place:

- The last maps, or the tokens of all patches, where it reads their mean. Summed over channels that
  is HiResCAM (Draelos and Carin, arXiv 2011.08891), and CAM of a linear classifier.
- The attention that a class token pays to the patches, in every block: the last block alone misses
  what the token has read before. Gradients count less their mean over patches.

A place counts less the mean of all places. What all have in common tells none from another; it can
outweigh the rest, so that nothing at all would speak for a class.

The logit counts over the mean of all, which is what softmax sees; by itself where each class is
told, or a number, by itself. benchmarks/records/2026-11-30-mended-labels.md compares other ways.
"""
import contextlib
import math

import torch

# a backbone's blocks in which the class token alone attends: of CaiT, XCiT and VOLO
TOKEN_BLOCKS = ("blocks_token_only", "cls_attn_blocks", "post_network")


@contextlib.contextmanager
def held(backbone):
    """Keep what the classifier reads of a timm backbone; yields a list that gets it: the last maps
    or tokens, or each block's attention (B, heads, prefix tokens, N) of the tokens that are no
    patches."""
    found = []

    def hold(read):
        if not read.requires_grad:
            read = read.detach().requires_grad_()
        found.append(read)
        return read

    def hold_attention(module, args, weights):
        n_others = n_prefix_tokens(backbone)
        others = hold(weights[:, :, :n_others])
        return torch.cat([others, weights[:, :, n_others:]], 2)

    def hold_last(real):
        def forward(*args, **named):
            result = real(*args, **named)
            if isinstance(result, tuple):      # of forward_intermediates
                return hold(result[0]), *result[1:]
            return hold(result)

        return forward

    layers = attention_of_token(backbone)
    hooks = [layer.attn_drop.register_forward_hook(hold_attention) for layer in layers]
    fused = [getattr(layer, "fused_attn", False) for layer in layers]
    names = [] if layers else [name for name in ("forward_features", "forward_intermediates")
                               if hasattr(backbone, name)]
    for name in names:
        setattr(backbone, name, hold_last(getattr(backbone, name)))
    for layer in layers:
        layer.fused_attn = False      # else there are no weights to hold
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for name in names:
            delattr(backbone, name)
        for layer, is_fused in zip(layers, fused, strict=True):
            layer.fused_attn = is_fused


def attention_of_token(backbone):
    """The attention layer of each block in which a backbone's class token attends; [] where the
    classifier reads none."""
    if getattr(backbone, "global_pool", "") != "token":
        return []
    named = next((name for name in TOKEN_BLOCKS if getattr(backbone, name, None)), "blocks")
    layers = [getattr(block, "attn", None) for block in getattr(backbone, named, ())]
    return [layer for layer in layers if hasattr(layer, "attn_drop")
            and (named != "blocks" or hasattr(layer, "fused_attn"))]


def n_prefix_tokens(backbone):
    """How many of a backbone's tokens stand before those of the patches; VOLO does not say its."""
    return getattr(backbone, "num_prefix_tokens", 1 if attention_of_token(backbone) else 0)


def evidence(network, images, classes, over_mean=True):
    """(B, h, w) float: what speaks for each image's class, by place. None of a network that does
    not say it, or has one place.

    over_mean: a logit counts over the mean of all, for one class an image; else by itself.
    network: a modeling.network.Network, left in evaluation mode, its parameters without gradients.
    classes (B,) int.
    """
    network.eval().requires_grad_(False)
    with torch.enable_grad(), held(network.backbone) as found:
        logits = network(images).float()
        if not found:
            return None
        rows = torch.arange(len(images), device=logits.device)
        own = logits[rows, classes.to(logits.device)]
        score = (own - logits.mean(1) if over_mean else own).sum()
        gradients = torch.autograd.grad(score, found, allow_unused=True)
    places = [by_place(read.detach().float(), gradient.float(), network.backbone)
              for read, gradient in zip(found, gradients, strict=True) if gradient is not None]
    if not places:
        return None
    total = sum(places)
    if total[0].numel() == 1:
        return None
    return (total - total.mean((1, 2), keepdim=True)).clamp(min=0)


def by_place(read, gradient, backbone):
    """(B, h, w): what is read times its gradient, of maps (B, C, h, w) or (B, h, w, C), tokens
    (B, N, C), or attention (B, heads, prefix tokens, N)."""
    n_others = n_prefix_tokens(backbone)
    if attention_of_token(backbone):
        gradient = gradient[..., n_others:]
        gradient = gradient - gradient.mean(-1, keepdim=True)
        return as_grid((read[..., n_others:] * gradient).sum((1, 2)))
    if read.dim() == 3:
        return as_grid((read * gradient).sum(-1)[:, n_others:])
    is_last = read.shape[-1] == backbone.num_features != read.shape[1]
    return (read * gradient).sum(-1 if is_last else 1)


def as_grid(patches):
    """(B, h, w) of patches (B, h * w) of a square."""
    side = math.isqrt(patches.shape[1])
    return patches[:, :side * side].reshape(-1, side, side)
