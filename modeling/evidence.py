"""Where in an image a network sees a class.

    maps = evidence(network, images, classes)       # (B, 3, S, S) uint8, (B,) -> (B, h, w), >= 0

HiResCAM (Draelos and Carin, arXiv 2011.08891): the activations of the last maps times the gradient
of the class's logit, summed over channels. With a linear classifier on the means of the maps it is
CAM and Grad-CAM. Of a network of tokens: the patches as the last attention reads them, since a
class token reads no patch after it, each less the mean of all patches: of two things side by side
that tells them apart more often (60 of 80 times, 55 without). The logit counts over the mean of
all, which is what softmax sees; by itself where each class is told, or a number, by itself.
"""
import contextlib
import math

import torch


@contextlib.contextmanager
def held(backbone):
    """Cut the graph before the last maps of a timm backbone; yields a list that gets them."""
    found = []

    def hold(maps):
        found[:] = [maps.detach().requires_grad_()]
        return found[0]

    def hold_tokens(module, args, output):
        return hold(output)

    def wrapped(real):
        def forward(*args, **named):
            result = real(*args, **named)
            last = result[0] if isinstance(result, tuple) else result
            if last.dim() != 4:      # tokens: those of the last attention are held
                return result
            last = hold(last)
            return (last, *result[1:]) if isinstance(result, tuple) else last

        return forward

    hooks = []
    norm = getattr(last_block(backbone), "norm1", None)
    if norm is not None:
        hooks.append(norm.register_forward_hook(hold_tokens))
    names = [name for name in ("forward_features", "forward_intermediates")
             if hasattr(backbone, name)]
    for name in names:
        setattr(backbone, name, wrapped(getattr(backbone, name)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for name in names:
            delattr(backbone, name)


def last_block(backbone):
    """The last of a backbone's blocks, None if it has no plain list of them."""
    blocks = getattr(backbone, "blocks", None)
    return blocks[-1] if blocks is not None and len(blocks) else None


def evidence(network, images, classes, over_mean=True):
    """(B, h, w) float: what speaks for each image's class, by place. None if nothing does so.

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
        gradient, = torch.autograd.grad(score, found, allow_unused=True)
    if gradient is None:
        return None
    return as_grid(found[0].detach().float(), gradient.float(), network.backbone).clamp(min=0)


def as_grid(maps, gradient, backbone):
    """The sum over channels (B, h, w) of maps (B, C, h, w) or (B, h, w, C), or of tokens (B, N, C),
    times their gradient."""
    if maps.dim() == 4:
        is_last = maps.shape[-1] == backbone.num_features != maps.shape[1]
        return (maps * gradient).sum(-1 if is_last else 1)
    n_others = getattr(backbone, "num_prefix_tokens", 0)
    patches = maps[:, n_others:]
    patches = ((patches - patches.mean(1, keepdim=True)) * gradient[:, n_others:]).sum(-1)
    side = math.isqrt(patches.shape[1])
    return patches[:, :side * side].reshape(-1, side, side)
