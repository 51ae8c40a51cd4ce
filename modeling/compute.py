"""How a network's steps are computed on this machine: arithmetic, memory format, torch.compile;
found by timing a few.

    chosen, timed = fastest(config.runtime, device, step_of, n_steps_ahead=2000)

No rule fits all backbones and machines.
"""
import contextlib
import math
from dataclasses import dataclass, replace
from functools import partial

import torch

from modeling.kernels import with_fast_kernels
from modeling.torch_private import cpu_has_amx, cpu_has_avx512_bf16
from system.log import Timer
from utils import UserError

# a way is left for one that is this much faster: less may be noise, and other numbers for nothing
WORTH = 1.1
# a way this much slower than the fastest is not timed a second, a third time; the first pays memory
HOPELESS = (3, 1.3)
# of training a backbone, from which compiling is tried: it takes a minute or more, once a process
COMPILE_SECONDS = 600


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
        return partial(torch.autocast, device.type,
                       dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision])

    def scaler(self, device):
        """Scales the loss where the range of fp16 asks for it."""
        return torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def prepare(self, network):
        """The network in this memory format; compiled at its next call or not."""
        network.set_memory_format(torch.channels_last if self.channels_last
                                  else torch.contiguous_format)
        if self.precision == "bf16" and next(network.parameters()).device.type == "cpu":
            with_fast_kernels(network, self.compiled)
        if self.compiled:
            network.compile()
        return network

    def describe(self):
        return f"{self.precision}{', channels last' * self.channels_last}{', compiled' * self.compiled}"


def pick_device(name):
    """torch.device of runtime.device; auto: cuda, else mps, else cpu."""
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device must be auto or a device of this machine (cpu, cuda, cuda:1, mps), got {name!r} "
            f"({reason})"
        ) from None
    return device


def precisions(device):
    """What `runtime.precision=auto` chooses from, the one that is taken without timing first; on a
    CPU that computes bf16 itself, mobilenetv2_100 scored as well in it as in fp32 (n=3,
    benchmarks/RESULTS.md)."""
    if device.type == "cuda":      # a T4 emulates bf16, slowly
        return ("bf16",) if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp16",)
    return ("fp32", "bf16") if device.type == "cpu" and cpu_computes_bf16() else ("fp32",)


def cpu_computes_bf16():
    """Whether this CPU has bf16 arithmetic of its own. ATEN_CPU_CAPABILITY=avx2 hides it, as it
    does from torch."""
    if torch.backends.cpu.get_cpu_capability() in ("NO AVX", "DEFAULT", "AVX2"):
        return False
    return cpu_has_avx512_bf16() or cpu_has_amx()


def untimed(runtime, precision):
    """The Compute of a RuntimeConfig where nothing is timed; precision: what its `auto` is on the
    machine that computes."""
    return Compute(precision if runtime.precision == "auto" else runtime.precision,
                   compiled=runtime.compile == "on")


def fastest(runtime, device, step_of, n_steps_ahead):
    """(the Compute to train with, {Compute: seconds of a step, math.inf where it cannot be done}).

    step_of(Compute) -> a function that does a step; n_steps_ahead: steps of all fits together.
    Compiling has to be made up for by them: later fits find the compiled code in their process, or
    on disk in a sixth of the time (benchmarks/RESULTS.md).
    """
    (precision, *others) = precisions(device)
    timed = {}
    best = untimed(runtime, precision)
    if device.type == "cuda":
        # loads the libraries, which the first way that is timed would pay for
        seconds_of(step_of(best))
    if runtime.precision == "auto" and others:
        best = faster_of(best, [replace(best, precision=other) for other in others], step_of, timed)
    best = faster_of(best, [replace(best, channels_last=False)], step_of, timed)
    if runtime.compile == "auto" and timed[best] * n_steps_ahead > COMPILE_SECONDS:
        compiled = replace(best, compiled=True)
        steps = {best: step_of(best), compiled: step_of(compiled)}
        compiling = seconds_of(steps[compiled])      # the first step
        is_faster = faster_of(best, [compiled], steps.get, timed) == compiled
        if is_faster and compiling < n_steps_ahead * (timed[best] - timed[compiled]):
            best = compiled
    return best, timed


def faster_of(best, others, step_of, timed):
    """`best`, or the one of the others that is faster by WORTH; all are timed by turns, up to three
    times, into `timed`."""
    steps = {way: step_of(way) for way in [best, *others]}
    for hopeless in (math.inf, *HOPELESS):
        limit = hopeless * min((timed[way] for way in steps if way in timed), default=math.inf)
        open_ = [way for way in steps if timed.get(way, 0.0) <= limit]
        if len(open_) == 1:
            break
        for way in open_:
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
    except RuntimeError:
        # of torch: no compiler, an operation that is not there in this precision
        return math.inf
