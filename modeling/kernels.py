"""Operations that torch computes slowly in bf16 on a CPU, computed another way. The numbers are the
same up to rounding; benchmarks/RESULTS.md says what each gains.

    with_fast_kernels(network)      # for training; prediction keeps torch's own
"""
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import pad_same
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

# oneDNN's bf16 gradient of a depthwise kernel is slow from this side on
LARGE_KERNEL = 5
# up to so many positions in a batch's feature maps, a matrix product beats a 1 x 1 convolution
FEW_POSITIONS = 4096
# values in a vector register: torch's layer norm is slow if the channels leave part of one empty
BF16_LANES = 32
RELU6_BITS = 0x40C0      # 6.0 in bf16


# ---------------------------------------------------------------- depthwise convolutions

class DepthwiseConv2d(torch.autograd.Function):
    """conv2d of one channel a group, with the gradients of `depthwise_input_grad` and
    `depthwise_weight_grad`."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, images, weight, bias, stride, padding):
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        ctx.padding = padding
        return F.conv2d(images, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad):
        images, weight = ctx.saved_tensors
        of_images = None
        of_weight = None
        of_bias = None
        if ctx.needs_input_grad[0]:
            of_images = depthwise_input_grad(grad, images, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = depthwise_weight_grad(grad, images, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3), dtype=torch.float32)
        return of_images, of_weight, of_bias, None, None


def depthwise_input_grad(grad, images, weight, stride, padding):
    """The gradient of a depthwise convolution's images (n, C, H, W). `grad`: (n, C, H', W'), the
    output's.

    That is the output's gradient, with zeros between its values for a stride, convolved with the
    turned kernel. With a stride, oneDNN's own takes 20 to 200 times as long as the convolution;
    with a large kernel, twice as long.
    """
    height, width = weight.shape[2:]
    pad_y, pad_x = padding
    if max(stride) > 1:
        n, n_channels, image_height, image_width = images.shape
        shape = (n, n_channels, image_height + 2 * pad_y - height + 1,
                 image_width + 2 * pad_x - width + 1)
        spread = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last).zero_()
        spread[:, :, ::stride[0], ::stride[1]] = grad
        grad = spread
    return F.conv2d(grad, weight.flip(2, 3), padding=(height - 1 - pad_y, width - 1 - pad_x),
                    groups=len(weight))


def depthwise_weight_grad(grad, images, weight, stride, padding):
    """The gradient of a depthwise convolution's weight (C, 1, h, w). images (n, C, H, W); `grad`:
    (n, C, H', W'), the output's.

    It is itself a convolution: of each image with the gradient of its output, the channels of all
    images side by side. With a large kernel, oneDNN's takes 20 to 60 times as long as the
    convolution.
    """
    height, width = weight.shape[2:]
    if max(height, width) < LARGE_KERNEL:
        _, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, images, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight),
            (False, True, False))
        return of_weight

    n, n_channels = images.shape[:2]
    found = F.conv2d(side_by_side(images)[None], side_by_side(grad)[:, None], padding=padding,
                     dilation=stride, groups=n * n_channels)[0]
    found = found[:, :height, :width].permute(1, 2, 0).unflatten(2, (n, n_channels))
    return found.sum(2, dtype=torch.float32).permute(2, 0, 1)[:, None]


def side_by_side(maps):
    """(n, C, H, W) -> (n * C, H, W), in memory by position."""
    return maps.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1)


def depthwise(module, images):
    """The forward pass of a convolution for which `is_slow_depthwise` holds."""
    padding = module.padding
    if isinstance(module, Conv2dSame):
        images = pad_same(images, module.kernel_size, module.stride)
        padding = (0, 0)
    return DepthwiseConv2d.apply(images, module.weight, module.bias, module.stride, padding)


def is_slow_depthwise(conv):
    """Whether oneDNN is slow in this convolution's gradients and `depthwise` can compute it."""
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    is_slow = max(conv.stride) > 1 or max(conv.kernel_size) >= LARGE_KERNEL
    paddings_fit = all(pad < k for pad, k in zip(conv.padding, conv.kernel_size, strict=True))
    return is_depthwise and is_slow and paddings_fit and conv.dilation == (1, 1)


# ---------------------------------------------------------------- the others

class Rectified(torch.autograd.Function):
    """ReLU and ReLU6 of bf16 values, in place.

    Read as integers, the bits of bf16 are in the order of the values from 0 up, and negative below.
    Clamping integers is four times as fast: torch turns each bf16 into an fp32 and back. A NaN
    becomes 0 or the upper end; the batch norm before it then has NaN gradients, and the step is not
    taken.
    """

    @staticmethod
    def forward(ctx, values, is_relu6):
        highest = RELU6_BITS if is_relu6 else None
        values.view(torch.int16).clamp_(min=0, max=highest)
        ctx.mark_dirty(values)
        ctx.save_for_backward(values)
        ctx.is_relu6 = is_relu6
        return values

    @staticmethod
    def backward(ctx, grad):
        values, = ctx.saved_tensors
        if ctx.is_relu6:
            return torch.ops.aten.hardtanh_backward(grad, values, 0, 6), None
        return torch.ops.aten.threshold_backward(grad, values, 0), None


def rectified(module, values):
    if values.dtype != torch.bfloat16 or not module.inplace:
        return type(module).forward(module, values)
    return Rectified.apply(values, isinstance(module, nn.ReLU6))


def layer_norm(module, values):
    return type(module).forward(module, values.float()).to(values.dtype)


def pointwise(module, images):
    n, _, height, width = images.shape
    is_channels_last = images.is_contiguous(memory_format=torch.channels_last)
    if n * height * width > FEW_POSITIONS or not is_channels_last:
        return type(module).forward(module, images)
    rows = images.permute(0, 2, 3, 1)
    return F.linear(rows, module.weight.flatten(1), module.bias).permute(0, 3, 1, 2)


def is_pointwise(conv):
    return (conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
            and conv.groups == 1)


# ---------------------------------------------------------------- which module gets which

def fast_forward(module, is_compiled):
    """The function (module, input) to replace the module's own forward, None to keep that."""
    kind = type(module)      # a subclass may compute something else
    if kind in (nn.Conv2d, Conv2dSame) and is_padded_with_zeros(module):
        if is_slow_depthwise(module):
            return depthwise
        if is_pointwise(module):
            return pointwise
    if isinstance(module, nn.LayerNorm) and module.normalized_shape[-1] % BF16_LANES:
        return layer_norm
    # a compiler fuses them with the operation before
    if kind in (nn.ReLU, nn.ReLU6) and not is_compiled:
        return rectified
    return None


def is_padded_with_zeros(conv):
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def with_fast_kernels(network, is_compiled=False):
    """Train the network's modules in a faster way, where there is one. Changes it in place."""

    def forward(fast, module, values):
        if torch.is_grad_enabled():
            return fast(module, values)
        return type(module).forward(module, values)

    for module in network.modules():
        if fast := fast_forward(module, is_compiled):
            module.forward = partial(forward, fast, module)
