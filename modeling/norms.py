"""Batch norms: under gradient checkpointing, folded for prediction, adapted to other images."""
import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from modeling.torch_private import in_backward_pass

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


# ---------------------------------------------------------------- gradient checkpointing

def checkpoint_gradients(network):
    """Whether timm's model could be set to keep few activations and compute the others again in the
    backward pass.

    About a third more time for a fraction of the memory; the results are the same up to rounding.
    Dropout and drop path draw the same again (torch sets back the random state), and batch norms
    count no image twice: see `hold_statistics`.
    """
    try:
        network.backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):      # timm's two ways of saying that a model has none
        return False
    for norm in batch_norms(network):
        norm.register_forward_pre_hook(hold_statistics)
        # torch ends a second computation by an exception
        norm.register_forward_hook(release_statistics, always_call=True)
    return True


def batch_norms(network):
    return [m for m in network.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]


def hold_statistics(norm, inputs):
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
    """A copy for prediction whose convolutions hold the batch norms that follow them: the same
    function up to rounding, in 50 to 80 % of the time on a CPU (benchmarks/RESULTS.md). The network
    itself without any, and where outputs would differ."""
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
    parts |= {norm: nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()
              for norm in pairs}
    for parent in list(copied.modules()):
        for name, part in list(parent.named_children()):
            if part in parts:
                setattr(parent, name, parts[part])
    copied.set_memory_format(plain.memory_format)
    # else its rounding would hide or make differences
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        # a head may begin with zeros
        expected = plain.features(images)
        found = copied.features(images)
    return copied if pairs and torch.allclose(found, expected, rtol=1e-3,
                                              atol=1e-3 * float(expected.abs().max())) else plain


def norms_after_convolutions(network, images):
    """{batch norm: the convolution whose output it reads, as no other module does} in a forward
    pass."""
    outputs = {}
    readers = {}

    def keep(conv, inputs, output):
        outputs[id(output)] = conv, output

    def read(module, inputs):
        if inputs and id(inputs[0]) in outputs:
            readers.setdefault(outputs[id(inputs[0])][0], []).append(module)

    norms = batch_norms(network)
    hooks = [m.register_forward_hook(keep) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(read) for m in network.modules() if m in norms
              or not any(m.children())]
    network(images)
    for hook in hooks:
        hook.remove()
    return {found[0]: conv for conv, found in readers.items() if len(found) == 1
            and found[0] in norms}


# ---------------------------------------------------------------- statistics of other images

def twin(network):
    """A copy with buffers of its own and the same parameters."""
    return copy.deepcopy(network, {id(p): p for p in network.parameters()}).eval()


@torch.no_grad()
def adapted_to(network, batches):
    """The network with the statistics of these images, (B, 3, H, W) each, in its batch norms in
    place of those of the training images (AdaBN, arXiv 1603.04779); it shares the parameters. None
    for a network without batch norm."""
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
    return {name: value for name, value in network.named_buffers()
            if name.endswith(("running_mean", "running_var"))}


def with_statistics(network, statistics):
    """The network with these `norm_statistics`; it shares the parameters."""
    other = twin(network)
    other.load_state_dict(statistics, strict=False)
    return other
