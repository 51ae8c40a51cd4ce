"""Operations whose torch kernels are slow in bf16 on a CPU, computed another way to the same
numbers up to rounding.

    with_fast_kernels(network)      # for training; prediction keeps torch's own

What each gains: benchmarks/RESULTS.md.
"""
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import pad_same
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

# side of a depthwise kernel from which oneDNN's bf16 gradient of it is slow
LARGE_KERNEL = 5
# of a batch's feature maps, up to which a matrix product beats a convolution of 1 x 1
FEW_POSITIONS = 4096
# values in a vector register: torch's layer norm is slow for channels that leave part of one empty
BF16_LANES = 32
RELU6_BITS = 0x40C0      # of 6.0 in bf16


# ---------------------------------------------------------------- depthwise convolutions

class DepthwiseConv2d(torch.autograd.Function):
    """conv2d of groups with one channel each, with the gradients of `depthwise_input_grad` and
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
        of_images = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_images = depthwise_input_grad(grad, images, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = depthwise_weight_grad(grad, images, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3), dtype=torch.float32)
        return of_images, of_weight, of_bias, None, None


def depthwise_input_grad(grad, images, weight, stride, padding):
    """The gradient of a depthwise convolution's images (n, C, H, W); grad (n, C, H', W') of the
    output.

    The output's gradient, with the zeros that a stride leaves between its values, convolved with
    the turned kernel: oneDNN's own takes 20 to 200 times as long as the convolution where there is
    a stride, twice as long with large kernels.
    """
    kernel = weight.shape[2:]
    if max(stride) > 1:
        sides = [side + 2 * pad - k + 1 for side, pad, k in zip(images.shape[2:], padding, kernel,
                                                                strict=True)]
        spread = torch.empty((*images.shape[:2], *sides), dtype=grad.dtype,
                             memory_format=torch.channels_last).zero_()
        spread[:, :, ::stride[0], ::stride[1]] = grad
        grad = spread
    return F.conv2d(grad, weight.flip(2, 3),
                    padding=[k - 1 - pad for k, pad in zip(kernel, padding, strict=True)],
                    groups=len(weight))


def depthwise_weight_grad(grad, images, weight, stride, padding):
    """The gradient of a depthwise convolution's weight (C, 1, h, w); images (n, C, H, W), grad (n,
    C, H', W') of the output.

    With large kernels oneDNN's takes 20 to 60 times as long as the convolution. It is one itself:
    each image convolved with the gradient of its output, all images' channels as channels of one.
    """
    height, width = weight.shape[2:]
    if max(height, width) < LARGE_KERNEL:
        return torch.ops.aten.convolution_backward(grad, images, weight, None, stride, padding,
                                                   (1, 1), False, (0, 0), len(weight),
                                                   (False, True, False))[1]
    n, n_channels = images.shape[:2]
    # (n * C, H, W)
    images, kernels = (t.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1) for t in (images, grad))
    found = F.conv2d(images[None], kernels[:, None], padding=padding, dilation=stride,
                     groups=n * n_channels)[0]
    found = found[:, :height, :width].permute(1, 2, 0).unflatten(2, (n, n_channels))
    return found.sum(2, dtype=torch.float32).permute(2, 0, 1)[:, None]


def depthwise(module, images):
    padding = module.padding
    if isinstance(module, Conv2dSame):
        images = pad_same(images, module.kernel_size, module.stride)
        padding = (0, 0)
    return DepthwiseConv2d.apply(images, module.weight, module.bias, module.stride, padding)


def is_slow_depthwise(conv):
    return (conv.groups == conv.in_channels == conv.out_channels > 1 and conv.dilation == (1, 1)
            and (max(conv.stride) > 1 or max(conv.kernel_size) >= LARGE_KERNEL)
            and all(pad < k for pad, k in zip(conv.padding, conv.kernel_size, strict=True)))


# ---------------------------------------------------------------- the others

class Rectified(torch.autograd.Function):
    """ReLU and ReLU6 of bf16 values, in place. Read as integers, bf16 bits are in the order of the
    values from 0 up and negative below: integers are clamped four times as fast, where torch makes
    each bf16 an fp32 and back. A NaN becomes 0 or the upper end; the batch norm before it then has
    NaN gradients, and the step is not taken."""

    @staticmethod
    def forward(ctx, values, is_relu6):
        values.view(torch.int16).clamp_(min=0, max=RELU6_BITS if is_relu6 else None)
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
    if n * height * width > FEW_POSITIONS or not images.is_contiguous(
        memory_format=torch.channels_last):
        return type(module).forward(module, images)
    return F.linear(images.permute(0, 2, 3, 1), module.weight.flatten(1), module.bias).permute(0, 3,
                                                                                               1, 2)


def fast_forward(module, is_compiled):
    """The function (module, input) in place of the module's own forward, None to keep that."""
    if type(module) in (nn.Conv2d,
                        Conv2dSame) and module.padding_mode == "zeros" and not isinstance(
                            module.padding, str):
        if is_slow_depthwise(module):
            return depthwise
        if (module.kernel_size, module.stride, module.padding, module.groups) == ((1, 1), (1, 1),
                                                                                  (0, 0), 1):
            return pointwise
    if isinstance(module, nn.LayerNorm) and module.normalized_shape[-1] % BF16_LANES:
        return layer_norm
    # a compiler joins them with what stands before
    if type(module) in (nn.ReLU, nn.ReLU6) and not is_compiled:
        return rectified
    return None


def with_fast_kernels(network, is_compiled=False):
    """Have the modules of the network for which there is a faster way trained in that."""

    def forward(fast, module, values):
        return fast(module, values) if torch.is_grad_enabled() else type(module).forward(module,
                                                                                         values)

    for module in network.modules():
        if fast := fast_forward(module, is_compiled):
            module.forward = partial(forward, fast, module)
