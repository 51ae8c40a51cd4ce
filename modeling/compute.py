"""How a network's steps are computed on this machine: arithmetic, memory format, torch.compile; found by timing a few.

    chosen, timed = fastest(config.runtime, device, step_of, n_steps_ahead=2000)

No rule fits all backbones and machines.
"""
import contextlib
import math
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import pad_same
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from utils import Timer, UserError

ROUNDS = 3               # each way is timed so many times, by turns; the first also pays for memory
WORTH = 1.1              # a way is left for one that is this much faster: less may be noise, and other numbers for nothing
HOPELESS = 3             # a way this much slower than the best is not timed again
LARGE_KERNEL = 5         # side of a depthwise kernel from which oneDNN's bf16 gradient of it is slow
COMPILE_SECONDS = 600    # of training in each fit, from which compiling is tried: it takes a minute or more, in each fit again


@dataclass(frozen=True)
class Compute:
    """Part of a fit's key: other roundings are other numbers."""

    precision: str = "fp32"
    channels_last: bool = True
    compiled: bool = False

    def autocast(self, device):
        """A function that makes the context of each forward pass."""
        if self.precision == "fp32":
            return contextlib.nullcontext
        return partial(torch.autocast, device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision])

    def scaler(self, device):
        """Scales the loss where the range of fp16 asks for it."""
        return torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def prepare(self, network):
        """The network in this memory format; compiled at its next call or not."""
        network.set_memory_format(torch.channels_last if self.channels_last else torch.contiguous_format)
        if self.precision == "bf16" and next(network.parameters()).device.type == "cpu":
            with_fast_gradients(network)
        if self.compiled:
            network.compile()
        return network

    def describe(self):
        return f"{self.precision}{', channels last' * self.channels_last}{', compiled' * self.compiled}"


class DepthwiseConv2d(torch.autograd.Function):
    """conv2d of groups with one channel each, whose gradients a CPU computes fast in bf16 too (benchmarks/RESULTS.md).

    oneDNN's gradient of the input of a strided one takes 20 to 200 times as long in bf16 as in fp32, and that of a weight of
    5 x 5 and more 20 to 60 times as long as the convolution itself. The one is computed in fp32 here; the other as what it is:
    each image convolved with the gradient of its output, all images' channels as channels of one.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, images, weight, bias, stride, padding):
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad):
        images, weight = ctx.saved_tensors
        of_images = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            dtype = torch.float32 if max(ctx.stride) > 1 else grad.dtype
            of_images = depthwise_grads(grad.to(dtype), torch.empty_like(images, dtype=dtype), weight.to(dtype), ctx.stride,
                                        ctx.padding, (True, False, False))[0].to(images.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = depthwise_weight_grad(grad, images, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3), dtype=torch.float32)
        return of_images, of_weight, of_bias, None, None


def depthwise_grads(grad, images, weight, stride, padding, wanted):
    """torch's gradients of images, weight and bias, None for each that is not wanted."""
    return torch.ops.aten.convolution_backward(grad, images, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight),
                                               wanted)


def depthwise_weight_grad(grad, images, weight, stride, padding):
    """The gradient of a depthwise convolution's weight (C, 1, h, w); images (n, C, H, W), grad (n, C, H', W') of the output."""
    height, width = weight.shape[2:]
    if max(height, width) < LARGE_KERNEL:
        return depthwise_grads(grad, images, weight, stride, padding, (False, True, False))[1]
    n, n_channels = images.shape[:2]
    images, kernels = (t.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1) for t in (images, grad))      # (n * C, H, W)
    found = F.conv2d(images[None], kernels[:, None], padding=padding, dilation=stride, groups=n * n_channels)[0]
    found = found[:, :height, :width].permute(1, 2, 0).unflatten(2, (n, n_channels))
    return found.sum(2, dtype=torch.float32).permute(2, 0, 1)[:, None]


def with_fast_gradients(network):
    """Have the depthwise convolutions whose gradients are slow, strided ones and large kernels, trained by DepthwiseConv2d."""

    def forward(module, images):
        if not torch.is_grad_enabled():
            return type(module).forward(module, images)
        padding = module.padding
        if isinstance(module, Conv2dSame):
            images, padding = pad_same(images, module.kernel_size, module.stride), (0, 0)
        return DepthwiseConv2d.apply(images, module.weight, module.bias, module.stride, padding)

    for module in network.modules():
        if (type(module) in (nn.Conv2d, Conv2dSame) and module.groups == module.in_channels == module.out_channels > 1
                and (max(module.stride) > 1 or max(module.kernel_size) >= LARGE_KERNEL)
                and module.dilation == (1, 1) and module.padding_mode == "zeros" and not isinstance(module.padding, str)):
            module.forward = partial(forward, module)


def pick_device(name):
    """torch.device of runtime.device; auto: cuda, else mps, else cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device must be auto or a device of this machine (cpu, cuda, cuda:1, mps), got {name!r} "
                        f"({reason})") from None
    return device


def precisions(device):
    """What `runtime.precision=auto` chooses from, the one that is taken without timing first; on a CPU that computes bf16
    itself, mobilenetv2_100 scored as well in it as in fp32 (n=3, benchmarks/RESULTS.md)."""
    if device.type == "cuda":      # a T4 emulates bf16, slowly
        return ("bf16",) if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp16",)
    has_bf16 = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return ("fp32", "bf16") if has_bf16 else ("fp32",)


def untimed(runtime, precision):
    """The Compute of a RuntimeConfig where nothing is timed; precision: what its `auto` is on the machine that computes."""
    return Compute(precision if runtime.precision == "auto" else runtime.precision, compiled=runtime.compile == "on")


def fastest(runtime, device, step_of, n_steps_ahead):
    """(the Compute to train with, {Compute: seconds of a step, math.inf where it cannot be done}).

    step_of(Compute) -> a function that does a step; n_steps_ahead: steps that each fit has to do. Compiling has to be made up
    for by its steps in each.
    """
    (precision, *others), timed = precisions(device), {}
    best = untimed(runtime, precision)
    if runtime.precision == "auto" and others:
        best = faster_of(best, [replace(best, precision=other) for other in others], step_of, timed)
    best = faster_of(best, [replace(best, channels_last=False)], step_of, timed)
    if runtime.compile == "auto" and timed[best] * n_steps_ahead > COMPILE_SECONDS:
        compiled = replace(best, compiled=True)
        steps = {best: step_of(best), compiled: step_of(compiled)}
        compiling = seconds_of(steps[compiled])      # the first step of a fit
        is_faster = faster_of(best, [compiled], steps.get, timed) == compiled
        if is_faster and compiling < n_steps_ahead * (timed[best] - timed[compiled]):
            best = compiled
    return best, timed


def faster_of(best, others, step_of, timed):
    """`best`, or the one of the others that is faster by WORTH; all are timed by turns, into `timed`."""
    steps = {way: step_of(way) for way in [best, *others]}
    for _ in range(ROUNDS):
        for way in [way for way in steps if timed.get(way, 0.0) <= HOPELESS * timed.get(best, math.inf)]:
            timed[way] = min(timed.get(way, math.inf), seconds_of(steps[way]))
    for way in others:
        best = way if timed[way] * WORTH < timed[best] else best
    return best


def seconds_of(step):
    """How long a step takes, math.inf where this machine cannot do it."""
    try:
        with Timer() as timer:
            step()
        return timer.seconds
    except RuntimeError:      # of torch: no compiler, an operation that is not there in this precision
        return math.inf
