"""Batch norms: under gradient checkpointing, folded for prediction, adapted to other images."""
import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from modeling.torch_private import in_backward_pass

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


# ---------------------------------------------------------------- gradient checkpointing

def checkpoint_gradients(network):
    """Let timm's model keep few activations and compute the others again in the backward pass.
    False if the model cannot.

    About a third more time for a fraction of the memory. The results are the same up to rounding:
    dropout and drop path draw the same again (torch restores the random state), and batch norms
    count no image twice (`hold_statistics`).
    """
    try:
        network.backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):      # timm's two ways to say that a model cannot
        return False
    for norm in batch_norms(network):
        norm.register_forward_pre_hook(hold_statistics)
        # always: torch ends the second computation by an exception
        norm.register_forward_hook(release_statistics, always_call=True)
    return True


def batch_norms(network):
    """The batch norms of a network that keep running statistics."""
    return [m for m in network.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]


def hold_statistics(norm, inputs):
    """Before a forward pass: the second computation of an activation changes no statistics."""
    if in_backward_pass():
        norm.held = norm.momentum
        norm.momentum = 0.0


def release_statistics(norm, inputs, output):
    if in_backward_pass():
        norm.momentum = norm.held
        norm.num_batches_tracked -= 1


# ---------------------------------------------------------------- for prediction alone

@torch.no_grad()
def fused(network):
    """A copy for prediction whose convolutions hold the batch norms after them.

    The same function up to rounding, in 50 to 80 % of the time on a CPU (benchmarks/RESULTS.md).
    Returns the network itself if there is nothing to fuse or the outputs would differ.
    """
    plain = network.eval()
    if not batch_norms(network):
        return plain

    device = next(network.parameters()).device
    shape = (2, 3, plain.input_size_px, plain.input_size_px)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)

    copied = twin(network)
    pairs = norms_after_convolutions(copied, images)
    fuse_pairs(copied, pairs)
    copied.set_memory_format(plain.memory_format)

    # TF32's rounding would hide differences, or make some
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        # not the logits: a head may begin with zeros
        expected = plain.features(images)
        found = copied.features(images)
    tolerance = 1e-3 * float(expected.abs().max())
    is_same = torch.allclose(found, expected, rtol=1e-3, atol=tolerance)
    return copied if pairs and is_same else plain


def fuse_pairs(network, pairs):
    """Put each batch norm of {batch norm: convolution} into its convolution, in place."""
    replacements = {}
    for norm, conv in pairs.items():
        replacements[conv] = fuse_conv_bn_eval(conv, norm)
        # timm's batch norms hold the activation after them
        if hasattr(norm, "act"):
            replacements[norm] = nn.Sequential(norm.drop, norm.act)
        else:
            replacements[norm] = nn.Identity()

    for parent in list(network.modules()):
        for name, part in list(parent.named_children()):
            if part in replacements:
                setattr(parent, name, replacements[part])


def norms_after_convolutions(network, images):
    """{batch norm: the convolution before it}, where in a forward pass nothing else reads the
    convolution's output."""
    outputs = {}      # {id of a tensor: (convolution, the tensor)}, which keeps the ids in use
    readers = {}      # {convolution: [modules that read its output]}

    def keep(conv, inputs, output):
        outputs[id(output)] = conv, output

    def read(module, inputs):
        if inputs and id(inputs[0]) in outputs:
            conv, _ = outputs[id(inputs[0])]
            readers.setdefault(conv, []).append(module)

    norms = batch_norms(network)
    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(keep))
        if module in norms or not any(module.children()):
            hooks.append(module.register_forward_pre_hook(read))
    network(images)
    for hook in hooks:
        hook.remove()

    only_readers = {conv: found[0] for conv, found in readers.items() if len(found) == 1}
    return {reader: conv for conv, reader in only_readers.items() if reader in norms}


# ---------------------------------------------------------------- statistics of other images

def twin(network):
    """A copy in eval mode that shares the parameters and has its own buffers."""
    return copy.deepcopy(network, {id(p): p for p in network.parameters()}).eval()


@torch.no_grad()
def adapted_to(network, batches):
    """A twin whose batch norms hold the statistics of these batches (B, 3, H, W) instead of the
    training images' (AdaBN, arXiv 1603.04779). None without batch norms."""
    adapted = twin(network)
    norms = batch_norms(adapted)
    if not norms:
        return None
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None      # the plain mean over batches
        norm.train()
    for images in batches:
        adapted.features(images)
    return adapted.eval()


def norm_statistics(network):
    """{name: running mean or variance} of all batch norms."""
    return {name: value for name, value in network.named_buffers()
            if name.endswith(("running_mean", "running_var"))}


def with_statistics(network, statistics):
    """A twin with these `norm_statistics`. RuntimeError, as torch's own, if they are another's."""
    other = twin(network)
    named = norm_statistics(other).keys()
    if named != statistics.keys():
        first = min(named ^ statistics.keys())
        raise RuntimeError(f"statistics of batch norms do not fit the network, first {first!r}")
    other.load_state_dict(statistics, strict=False)
    return other
