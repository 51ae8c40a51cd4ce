"""How a network's steps are computed on this machine: arithmetic, memory format, torch.compile.

    chosen, timed = fastest(config.runtime, device, step_of, n_steps_ahead=2000)

No rule fits all backbones and machines, so a few ways are timed.
"""
import contextlib
import functools
import math
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import partial

import torch

from modeling.kernels import with_fast_kernels
from modeling.torch_private import cpu_has_amx, cpu_has_avx512_bf16
from modeling.weights import without_weights
from system.log import Timer
from system.machine import fault_of, is_out_of_memory
from utils import UserError

# another way must be this much faster: less may be noise, and would change numbers for nothing
WORTH = 1.1
# a way this much slower than the fastest gets no second, no third timing; the first timing also
# pays for allocating memory
HOPELESS = (3, 1.3)
# compiling takes a minute or more, once a process: tried if a backbone trains longer than this
COMPILE_SECONDS = 600
# of a GPU's memory: beyond it the driver of Windows would move memory to the machine's, where a
# step takes minutes, and never say that memory ran out
MOST_GPU_MEMORY = 0.92


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
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return partial(torch.autocast, device.type, dtype=dtype)

    def scaler(self, device):
        """Scales the loss for fp16, whose range is small; does nothing for the others."""
        return torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def prepare(self, network):
        """The network in this memory format. If compiled, torch compiles it at its next call."""
        if self.channels_last:
            network.set_memory_format(torch.channels_last)
        else:
            network.set_memory_format(torch.contiguous_format)
        if self.precision == "bf16" and next(network.parameters()).device.type == "cpu":
            with_fast_kernels(network, self.compiled)
        if self.compiled:
            network.compile()
        return network

    def as_teacher(self, network, device):
        """The network with half of its memory where it only answers on a GPU in half precision:
        autocast rounds the weights of these layers anyway. In place."""
        if device.type == "cuda" and self.precision != "fp32":
            halve(network, {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision])
        return network

    def describe(self):
        words = [self.precision]
        if self.channels_last:
            words.append("channels last")
        if self.compiled:
            words.append("compiled")
        return ", ".join(words)


def halve(network, dtype):
    """Keep the weights of convolutions and linear layers in `dtype`, in which autocast uses them.
    """
    for module in network.modules():
        if type(module) in (torch.nn.Conv2d, torch.nn.Linear):
            module.to(dtype)


def pick_device(name):
    """torch.device of runtime.device; auto: cuda, else mps, else cpu."""
    if name == "auto":
        name = best_device()
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("its tensors hold no values")
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"--device must be auto or a device of this machine ({', '.join(devices_here())}), got "
            f"{name!r} ({reason})"
        ) from None
    if device.type == "cuda":
        set_up_gpu(device)
    return device


def set_up_gpu(device):
    """Cap the memory of a GPU and let cuDNN time its algorithms. UserError if this torch has no
    kernels for it."""
    capability = torch.cuda.get_device_capability(device)
    if not has_kernels(capability, torch.cuda.get_arch_list()):
        name = torch.cuda.get_device_name(device)
        raise UserError(
            f"torch {torch.__version__} has no kernels for this GPU, {name} (sm_{capability[0]}"
            f"{capability[1]}): install a torch that lists it in torch.cuda.get_arch_list(), often "
            "an older one, or use --device cpu")
    torch.cuda.set_per_process_memory_fraction(MOST_GPU_MEMORY, device)
    torch.backends.cudnn.benchmark = True      # images of one size


def has_kernels(capability, architectures):
    """Whether a torch built for `architectures` (sm_80, compute_90, ..) runs on a GPU of this
    (major, minor) capability."""
    for architecture in architectures:
        kind, _, digits = architecture.rstrip("af").partition("_")
        built_for = int(digits[:-1]), int(digits[-1])
        # binaries run within their major version, PTX on anything newer
        if built_for <= capability and (kind == "compute" or built_for[0] == capability[0]):
            return True
    return not architectures


def unseen_gpu():
    """A sentence about an NVIDIA GPU that the driver lists and torch does not see; '' if none."""
    program = shutil.which("nvidia-smi")
    if not program or torch.cuda.is_available():
        return ""
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=10,
                              check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""      # a driver that does not answer: torch has said what it sees
    found = [line.split(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU")]
    if not found:
        return ""
    built = torch.version.cuda or "a CPU alone"
    return (f"THE GPU IS NOT USED: nvidia-smi lists {found[0]}, and torch {torch.__version__}, "
            f"built for {built}, does not see it: install torch with CUDA by the command that "
            "pytorch.org/get-started gives for this system, and update the driver")


def devices_here():
    """What --device may name on this machine."""
    gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def best_device():
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def precisions(device):
    """What `runtime.precision=auto` chooses from. The first is taken if nothing is timed.

    On a CPU with bf16 arithmetic, mobilenetv2_100 scored as well in bf16 as in fp32 (n=3,
    benchmarks/RESULTS.md).
    """
    if device.type == "cuda":
        # a T4 emulates bf16, slowly
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return ("bf16",)
        return ("fp16",)
    if device.type == "cpu" and cpu_computes_bf16():
        return ("fp32", "bf16")
    return ("fp32",)


def cpu_computes_bf16():
    """Whether this CPU has bf16 arithmetic. ATEN_CPU_CAPABILITY=avx2 hides it, as it does from
    torch."""
    if torch.backends.cpu.get_cpu_capability() in ("NO AVX", "DEFAULT", "AVX2"):
        return False
    return cpu_has_avx512_bf16() or cpu_has_amx()


def untimed(runtime, precision, channels_last=True):
    """The Compute of a RuntimeConfig if nothing is timed. `precision`: what auto is on the machine
    that computes."""
    if runtime.precision != "auto":
        precision = runtime.precision
    return Compute(precision, channels_last, compiled=runtime.compile == "on")


@functools.cache
def suits_channels_last(model_name, device_type):
    """The layout to begin with. On a GPU grouped convolutions are slow in channels last:
    resnext101_32x32d trains 21 images/s there and 63 in the other one (timm's table of an RTX
    3090; pytorch issue 34977). Depthwise ones are not meant."""
    if device_type != "cuda":
        return True
    return not any(isinstance(m, torch.nn.Conv2d) and 1 < m.groups < m.in_channels
                   for m in without_weights(model_name).modules())


def fastest(runtime, device, step_of, n_steps_ahead, channels_last=True):
    """(the Compute to train with, {Compute: seconds of a step}); math.inf for a step that fails.

    step_of(Compute) -> a function that does one step. n_steps_ahead: steps of all fits together,
    which must make up for compiling. channels_last: the layout unless the other is faster.
    Later fits find the compiled code in their process, or on disk in a sixth of the time
    (benchmarks/RESULTS.md).
    """
    precision, *others = precisions(device)
    timed = {}
    best = untimed(runtime, precision, channels_last)
    if device.type == "cuda":
        # loads the libraries: the first way timed would pay for it
        seconds_of(step_of(best))

    if runtime.precision == "auto" and others:
        best = faster_of(best, [replace(best, precision=other) for other in others], step_of, timed)
    best = faster_of(best, [replace(best, channels_last=not channels_last)], step_of, timed)

    if runtime.compile == "auto" and timed[best] * n_steps_ahead > COMPILE_SECONDS:
        compiled = replace(best, compiled=True)
        steps = {best: step_of(best), compiled: step_of(compiled)}
        compiling = seconds_of(steps[compiled])      # the first step
        is_faster = faster_of(best, [compiled], steps.get, timed) == compiled
        if is_faster and compiling < n_steps_ahead * (timed[best] - timed[compiled]):
            best = compiled
    return best, timed


def faster_of(best, others, step_of, timed):
    """`best`, or whichever of the others is faster by WORTH. Times all by turns, up to three times
    each, into `timed`."""
    steps = {way: step_of(way) for way in [best, *others]}
    for hopeless in (math.inf, *HOPELESS):
        fastest_yet = min((timed[way] for way in steps if way in timed), default=math.inf)
        hopeful = [way for way in steps if timed.get(way, 0.0) <= hopeless * fastest_yet]
        if len(hopeful) == 1:
            break
        for way in hopeful:
            timed[way] = min(timed.get(way, math.inf), seconds_of(steps[way]))

    for way in others:
        if timed[way] * WORTH < timed[best]:
            best = way
    return best


class LoneStep:
    """A step whose network is on the device only while it is the one that is timed.

    make() -> a function that does one step. held: {"step": of whom, "run": its function}, shared
    by all steps that take turns.
    """

    def __init__(self, make, held):
        self.make = make
        self.held = held

    def prepare(self):
        """Free the one before, and take a first step, which allocates memory and is not timed."""
        if self.held.get("step") is self:
            return
        self.held.clear()
        torch.cuda.empty_cache()
        run = self.make()
        run()
        self.held.update(step=self, run=run)

    def __call__(self):
        self.held["run"]()


def seconds_of(step):
    """How long a step takes; math.inf if this machine cannot do it."""
    try:
        if isinstance(step, LoneStep):
            step.prepare()
        with Timer() as timer:
            step()
        return timer.seconds
    except RuntimeError as error:
        # of torch: no compiler, too little memory, or an operation missing in this precision
        if fault_of(error) and not is_out_of_memory(error):
            raise
        return math.inf
