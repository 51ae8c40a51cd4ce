"""The training loop. One function, `fit`, trains one network; modes, rounds and folds differ only
in the values it is given. Measured in benchmarks/RESULTS.md.

A fit resumes from the checkpoint in its folder: of its last epoch, or of the step after which a
signal stopped it. On a CPU it then ends with the same bytes as an undisturbed fit, because all
randomness of an epoch is a function of the fit's name and the epoch.
"""
import csv
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from config import FitSpec
from data_loader import EpochSampler
from modeling.compute import Compute
from modeling.guard import MOST_RESTARTS, SLOWER, Learning, knows_nothing, may_judge
from modeling.heads import fold_heads
from modeling.memory import Room, is_too_large, peak_memory_bytes, reset_peak_memory
from modeling.norms import norm_statistics, with_statistics
from modeling.optim import clip_norm_of, lr_at, make_ema, make_optimizer, peak_lr, set_lr
from modeling.torch_private import forget_unscaling
from system.log import SHARE_BAR, progress
from system.machine import fault_of, stop_is_asked, stops_after_a_step
from system.stages import SCRATCH
from utils import (
    RunError,
    UserError,
    csv_rows,
    digest_file,
    patiently,
    read_json,
    replace_path,
    seed_of,
    sync,
    write_atomic,
    write_json,
)

WEIGHTS = "weights.safetensors"
SHARED = "shared.safetensors"    # beside them, if several fits share all but the head
TEXT = "text.npz"      # in their place, of a fit on words
RESTARTS = "restarts.json"      # of a fit that began again
FIRST_OVERFLOWS = 16            # of fp16, until the loss's scale is 1
# a checkpoint this large is written at most so often, and when a signal stops the fit
LARGE_CHECKPOINT_BYTES = 1e9
SAVED_PER_PARAMETER = 16        # bytes: network, EMA and two moments
SAVE_SECONDS = 600
# columns of history.csv; the others are floats
WHOLE_NUMBERS = ("epoch", "skipped_steps", "micro_batch_size", "grad_checkpointing",
                 "out_of_memory", "peak_memory_bytes")


@dataclass(frozen=True)
class Restart:
    """Why a fit begins again at SLOWER of this peak rate, or is given up."""

    peak: float
    reason: str
    is_last: bool

    def describe(self):
        does = "is given up: its weight is 0" if self.is_last else "begins again at a quarter of it"
        return f"{self.reason} at a peak learning rate of {self.peak:.2e}, and {does}"


@dataclass(frozen=True)
class FitResult:
    """What a finished fit leaves. Its weights are the EMA at the last step; if it was given up,
    those that it began with."""

    spec: FitSpec
    folder: Path
    epochs: tuple[dict, ...]
    seconds: float
    peak_memory_bytes: int
    skipped_steps: int
    restarts: tuple[Restart, ...] = ()

    def __post_init__(self):
        if not all(math.isfinite(e["loss"]) for e in self.epochs):
            raise RunError(f"FitResult of {self.spec.name} must have finite losses")

    @property
    def weights(self):
        """The file of its weights."""
        return self.folder / (TEXT if self.spec.text else WEIGHTS)

    @property
    def is_given_up(self):
        return any(restart.is_last for restart in self.restarts)


def seed_everything(*names):
    """Seed python, numpy and torch by names."""
    seed = seed_of(*names)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_epoch(seed, spec, epoch):
    """Seed everything for one epoch of a fit; returns the generator that `mix` draws from."""
    seed_everything(seed, spec.name, spec.fold, epoch)
    return torch.Generator().manual_seed(seed_of(seed, spec.name, spec.fold, epoch, "mix"))


# ---------------------------------------------------------------- one step

def train_step(network, objective, optimizer, scaler, micro_batches, *, autocast, clip_norm):
    """One optimizer step over the micro-batches of one batch. Returns (loss () tensor, whether it
    and the gradient's norm are finite).

    A step that is not finite changes no parameter. In fp16 the scaler decides instead: it skips the
    step and lowers its scale if a gradient is not finite, whatever the loss.
    """
    optimizer.zero_grad(set_to_none=True)
    n_images = sum(len(micro.index) for micro in micro_batches)
    total = torch.zeros((), device=micro_batches[0].images.device)
    for micro in micro_batches:
        with autocast():
            loss = objective(network, micro).loss * (len(micro.index) / n_images)
        scaler.scale(loss).backward()
        total += loss.detach()

    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm or math.inf)
    is_finite = bool(torch.isfinite(norm) & torch.isfinite(total))
    # an enabled scaler itself skips non-finite steps and lowers its scale
    if is_finite or scaler.is_enabled():
        scaler.step(optimizer)
    scaler.update()
    return total, is_finite


def split_batch(batch, micro_batch_size, device):
    """A Batch as micro-batches on the device."""
    micro_batches = []
    for start in range(0, len(batch.index), micro_batch_size):
        rows = slice(start, start + micro_batch_size)
        fields = [field[rows].to(device, non_blocking=True) for field in batch]
        micro_batches.append(type(batch)(*fields))
    return micro_batches


# ---------------------------------------------------------------- the loop

class Tally:
    """The steps of one epoch so far: the losses of those taken, how many were skipped, how many in
    a row up to now, the seconds."""

    def __init__(self, losses=(), n_skipped=0, in_a_row=0, seconds=0.0):
        self.losses = list(losses)
        self.n_skipped = n_skipped
        self.in_a_row = in_a_row
        self.start = time.perf_counter() - seconds

    @property
    def n_steps(self):
        return len(self.losses) + self.n_skipped

    @property
    def seconds(self):
        return time.perf_counter() - self.start

    def add(self, loss, taken):
        if taken:
            self.losses.append(loss)
            self.in_a_row = 0
        else:
            self.n_skipped += 1
            self.in_a_row += 1

    def row(self, lr, batch_size):
        """What the history keeps of a whole epoch."""
        seconds = self.seconds
        return {
            "loss": float(torch.stack(self.losses).mean()),
            "lr": lr,
            "skipped_steps": self.n_skipped,
            "seconds": seconds,
            "images_per_second": self.n_steps * batch_size / seconds,
        }

    def state(self):
        """Plain values to make the Tally again from."""
        return {
            "losses": [float(loss) for loss in self.losses],
            "n_skipped": self.n_skipped,
            "in_a_row": self.in_a_row,
            "seconds": self.seconds,
            "n_steps": self.n_steps,
        }

    @classmethod
    def of(cls, state, device):
        """The Tally that a `state` came from."""
        losses = torch.tensor(state["losses"], device=device)
        return cls(losses, state["n_skipped"], state["in_a_row"], state["seconds"])


def random_states(generator, device):
    """{name: state} of all randomness that a step draws from."""
    return {
        "mix": generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_states(states, generator, device):
    generator.set_state(states["mix"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


@dataclass(frozen=True)
class Training:
    """What a fit trains, and on what. `fit` changes the network in place.

    sampler.set_epoch(epoch, step): the order of an epoch, from a step on.
    mix(batch, generator, n_left) -> Batch: mixup and cutmix, with n_left epochs to go, this one
    included.
    """

    network: nn.Module
    objective: nn.Module
    loader: Iterable
    sampler: EpochSampler
    mix: Callable
    compute: Compute
    is_pretrained: bool


@dataclass(frozen=True)
class Watch:
    """Who follows a fit.

    advance(): called after each step.
    shorten(history, n_epochs) -> n_epochs: asked after each epoch, so that a fit can end in time.
    check(network, epoch, n_epochs): sees the averaged weights after each epoch; changes nothing.
    """

    log: object
    description: str = ""
    shorten: Callable = lambda history, n_epochs: n_epochs
    advance: Callable = lambda: None
    check: Callable | None = None


@stops_after_a_step()
def fit(spec, training, config, n_epochs, device, folder, watch):
    """Train for `n_epochs`; returns a FitResult. Resumable in `folder`.

    A fit that does not learn begins again at SLOWER of its rate, at most MOST_RESTARTS times. Then
    it is given up, with the weights that it began with.
    """
    start = {name: value.cpu().clone() for name, value in training.network.state_dict().items()}
    n_steps = n_epochs * len(training.sampler)
    state = new_state(spec, training, config, n_steps, device, watch.log)
    state.load(folder)
    for restart in state.restarts:
        watch.log.warn(f"{spec.title} {restart.describe()}")

    while restart := train(spec, training, config, n_epochs, state, folder, watch):
        state.begin_again(start, restart)
        watch.log.record("restart", fit=spec.name, fold=spec.fold, **vars(restart))
        watch.log.warn(f"{spec.title} {restart.describe()}")
        if restart.is_last:
            break
        state.history = []
        state.save(folder)
    return finish(spec, state, folder, training.objective)


def train(spec, training, config, n_epochs, state, folder, watch):
    """The epochs after `state.history`, which grows. Returns the Restart that the fit needs, or
    None after the last epoch.

    A shortened fit's learning rate goes on from where its schedule over the fewer steps would be.
    """
    optim = config.optim
    sampler = training.sampler
    history = state.history
    peak = peak_lr(training.network, optim, training.is_pretrained) * SLOWER ** len(state.restarts)
    autocast = training.compute.autocast(state.room.device)
    clip_norm = clip_norm_of(training.network, optim)
    learning = Learning(training.objective)
    tally = Tally()
    reset_peak_memory(state.room.device)

    bar = StepBar(watch.description, len(history) * len(sampler) + steps_of(state.begun))
    while (epoch := len(history)) < n_epochs:
        n_steps = n_epochs * len(sampler)
        bar.set_total(n_steps)
        generator = seed_epoch(config.seed, spec, epoch)
        tally = begun_tally(state, learning, generator, tally.in_a_row)
        sampler.set_epoch(epoch, tally.n_steps)
        training.network.train()
        for batch in training.loader:
            step = epoch * len(sampler) + tally.n_steps
            lr = lr_at(step, n_steps, optim, peak)
            set_lr(state.optimizer, lr)
            mixed = training.mix(batch, generator, n_epochs - epoch)
            loss, taken = state.step(step, learning, mixed, autocast, clip_norm)
            tally.add(loss, taken)
            if tally.in_a_row >= limit(state, tally, optim):
                break
            bar.advance(tally, epoch, n_epochs, loss)
            watch.advance()
            if stop_is_asked() and tally.n_steps < len(sampler):
                state.save(folder, tally.state() | learning.state()
                           | random_states(generator, state.room.device))
                raise KeyboardInterrupt

        if tally.in_a_row >= limit(state, tally, optim) or not tally.losses:
            return restart_diverged(spec, state, tally, lr, peak, training.compute)
        history.append({"epoch": epoch + 1, **tally.row(lr, optim.batch_size),
                        **state.room.state_dict(),
                        "peak_memory_bytes": peak_memory_bytes(state.room.device)})
        if restart := end_epoch(spec, training, state, learning, peak, n_epochs, folder, watch):
            return restart
        n_epochs = watch.shorten(history, n_epochs)
    bar.close()
    return None


def limit(state, tally, optim):
    """Non-finite steps in a row that end the fit.

    In fp16 the first steps only find the loss's scale: each overflow halves it, from 65536.
    """
    is_searching = state.scaler.is_enabled() and not (state.history or tally.losses)
    return optim.nonfinite_limit + FIRST_OVERFLOWS * is_searching


def begun_tally(state, learning, generator, in_a_row):
    """The Tally of the epoch that begins, or of a stopped one that goes on."""
    begun = state.begun
    state.begun = None
    if not begun:
        learning.begin()
        return Tally(in_a_row=in_a_row)
    device = state.room.device
    learning.begin(begun.get("learning", ()), device)      # older versions kept none
    restore_random_states(begun, generator, device)
    return Tally.of(begun, device)


def end_epoch(spec, training, state, learning, peak, n_epochs, folder, watch):
    """Save and record an epoch. Returns the Restart that a fit needs that has collapsed, or None.
    """
    n_done = len(state.history)
    state.explained.append(learning.explained())
    restart = None
    if knows_nothing(state.explained) and may_judge(
            n_done, n_done * len(training.sampler), n_epochs, training.is_pretrained):
        restart = state.restart(peak, f"knew nothing of the classes after {n_done} epochs")
    must_stop = stop_is_asked()
    is_last = n_done == n_epochs      # it leaves its weights instead
    if not restart and (must_stop or (not is_last and state.is_due())):
        state.save(folder)
    watch.log.record("epoch", fit=spec.name, fold=spec.fold, n_epochs=n_epochs,
                     explained=state.explained[-1], **state.history[-1])
    if must_stop and not restart:
        raise KeyboardInterrupt
    if watch.check and not restart:
        watch.check(state.ema.module, n_done, n_epochs)
    return restart


def new_state(spec, training, config, n_steps, device, log):
    """The TrainState before the first step. Moves network and objective to the device."""
    network = training.network.to(device)
    training.compute.prepare(network)      # first: the EMA copies its memory format
    training.objective.to(device)
    optimizer = make_optimizer(network, config.optim, training.is_pretrained)
    ema = make_ema(network, config.optim, n_steps)
    room = room_of(spec, network, config, device, log)
    return TrainState(network, ema, optimizer, training.compute.scaler(device), room)


class StepBar:
    """The bar of a fit, one step at a time."""

    def __init__(self, description, n_done):
        self.bar = progress(total=n_done, initial=n_done, desc=description,
                            bar_format=SHARE_BAR + "{postfix}")

    def set_total(self, n_steps):
        """Set the steps of the whole fit, which may change after each epoch."""
        self.bar.total = n_steps

    def advance(self, tally, epoch, n_epochs, loss):
        """One step more. The loss is shown every tenth step, to keep the bar calm."""
        if not self.bar.disable and tally.n_steps % 10 == 1:
            self.bar.set_postfix_str(f"epoch {epoch + 1}/{n_epochs} loss {float(loss):.3f}",
                                     refresh=False)
        self.bar.update()

    def close(self):
        self.bar.close()


def room_of(spec, network, config, device, log):
    """The Room of a fit. With grad_checkpointing=auto, a backbone that `is_too_large` is
    checkpointed from the start."""
    checkpointing = config.runtime.grad_checkpointing
    if checkpointing == "auto" and is_too_large(spec.backbone, device):
        checkpointing = "on"
    return Room(config.optim.micro_batch_size, device, network, checkpointing,
                lambda text: log.say(f"{spec.title}: {text}", event="memory"))


def restart_diverged(spec, state, tally, lr, peak, compute):
    """The Restart of a fit with too many non-finite steps in a row.

    RunError if it began again before as often as it may: its images or its arithmetic may be to
    blame.
    """
    n_steps = tally.in_a_row or tally.n_skipped
    restart = state.restart(peak, f"had {n_steps} non-finite steps in a row")
    if restart.is_last:
        raise diverged(spec, n_steps, lr, peak, compute)
    return restart


def diverged(spec, n_steps, lr, peak, compute):
    """A RunError that says what to lower: a third of the `peak` learning rate."""
    exact = "" if compute.precision == "fp32" else ", or --set runtime.precision=fp32"
    return RunError(
        f"the fit {spec.title} had {n_steps} non-finite steps in a row at learning rate "
        f"{lr:.2e}: use --set optim.lr={peak / 3:.1e}{exact}")


def finish(spec, state, folder, objective):
    """Write the averaged weights, the history and restarts; returns the FitResult."""
    fold_heads(state.ema.module)
    objective.settle(state.ema.module)
    write_fit(state.ema.module, state.history, folder)
    if state.restarts:
        write_json(Path(folder) / RESTARTS, [vars(restart) for restart in state.restarts])
    return result_of(spec, folder, state.history, state.restarts)


def write_fit(network, history, folder):
    """Fold the head, write the weights of a network and a fit's history."""
    fold_heads(network)
    write_tensors(network.state_dict(), Path(folder) / WEIGHTS)
    write_history(history, folder)


def write_history(history, folder):
    """Write a fit's history, a row per epoch."""
    with open(Path(folder) / "history.csv", "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def load_weights(network, path):
    """Put the weights of a finished fit into a network of the same kind."""
    fold_heads(network)
    shared = Path(path).with_name(SHARED)
    tensors = read_tensors(shared) if shared.exists() else {}
    filled(lambda own: network.load_state_dict(tensors | own), path)


def load_statistics(network, path):
    """A twin of the network with the statistics of batch norms in a file."""
    return filled(partial(with_statistics, network), path)


def filled(fill, path):
    """fill({name: tensor} of a file that a fit left). UserError if the network takes other ones."""
    tensors = read_tensors(path)
    try:
        return fill(tensors)
    except RuntimeError as error:
        # torch's way to say that names or shapes differ
        if fault_of(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} must be as its run wrote it, but holds tensors of another network ({reason}): "
            "copy the run's folder again, or run its training command again") from None


def write_tensors(tensors, path):
    """Write {name: tensor} as a safetensors file.

    Its access rights are those of all other files. safetensors' own `save_file` gives 0600.
    """
    write_atomic(path, save({name: value.contiguous().cpu() for name, value in tensors.items()}))


def read_tensors(path):
    """{name: tensor} of a file that a fit left. UserError if it is damaged, as by a copy that broke
    off."""
    # safetensors' own `load_file` calls any fault of the disk a missing file
    data = patiently(path, Path(path).read_bytes)
    try:
        return load(data)
    except SafetensorError as error:
        raise UserError(
            f"{path} must be as its run wrote it, but is damaged ({error}): copy the run's folder "
            "again, or run its training command again"
        ) from None


def result_of(spec, folder, history, restarts):
    """The FitResult of a history, which has one row per epoch, and of [Restart]."""
    return FitResult(
        spec,
        Path(folder),
        epochs=tuple(history),
        seconds=sum(epoch["seconds"] for epoch in history),
        peak_memory_bytes=max(epoch["peak_memory_bytes"] for epoch in history),
        skipped_steps=sum(epoch["skipped_steps"] for epoch in history),
        restarts=tuple(restarts),
    )


def load_result(spec, folder):
    """The FitResult of a finished fit, from its history.csv and restarts.json."""
    history = [{name: int(text) if name in WHOLE_NUMBERS else float(text)
                for name, text in row.items()}
               for row in csv_rows(Path(folder) / "history.csv")]
    path = Path(folder) / RESTARTS
    restarts = read_json(path) if path.exists() else []
    return result_of(spec, folder, history, [Restart(**values) for values in restarts])


# ---------------------------------------------------------------- what changes from step to step

class TrainState:
    """Network, EMA, optimizer, scaler and room, with one checkpoint file.

    history, explained: a row per epoch done, and what it explains of the classes. begun: of a
    stopped epoch, what goes on with it, else None. restarts: [Restart] so far.

    The file is replaced after each epoch that is not planned to be the last, or every SAVE_SECONDS
    if it is large, and when a signal stops the fit. Its name holds the epochs and steps done, and
    the digest of its content, by which a damaged one is known.
    """

    def __init__(self, network, ema, optimizer, scaler, room):
        self.network = network
        self.ema = ema
        self.optimizer = optimizer
        self.scaler = scaler
        self.room = room
        self.history = []
        self.begun = None
        self.restarts = []
        self.explained = []
        self.saved_at = time.monotonic()
        self.parts = {
            "network": network,
            "ema": ema.module,
            "optimizer": optimizer,
            "scaler": scaler,
            "room": room,
        }

    def step(self, number, objective, batch, autocast, clip_norm):
        """Take `train_step` on a Batch, then update the EMA. Returns what `train_step` does.

        If memory runs out, `room` makes less room per attempt and the call is repeated. Neither
        changes a weight before it holds all its memory, so a failed attempt leaves no half-applied
        step. Only the statistics of batch norms have seen it.
        """
        network = self.network
        room = self.room

        def attempt():
            micro_batches = split_batch(batch, room.micro_batch_size, room.device)
            return train_step(network, objective, self.optimizer, self.scaler, micro_batches,
                              autocast=autocast, clip_norm=clip_norm)

        def average():
            self.ema.update(network, step=number + 1)

        loss, taken = room.run_within_memory(attempt, self.forget)
        if taken:
            room.run_within_memory(average, self.forget)
        else:
            # batch norms have seen the overflow: fall back on the average's statistics, the last
            # known to be finite
            network.load_state_dict(norm_statistics(self.ema.module), strict=False)
        return loss, taken

    def forget(self):
        """Drop what a failed step left: gradients and, in fp16, the note that they are unscaled."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            forget_unscaling(self.scaler)

    def restart(self, peak, reason):
        """The next Restart, of a fit with this peak rate."""
        return Restart(peak, reason, is_last=len(self.restarts) == MOST_RESTARTS)

    def begin_again(self, start, restart):
        """Go back to the weights {name: value} that the fit began with. The Room stays."""
        self.restarts = [*self.restarts, restart]
        self.explained = []
        self.forget()
        for network in (self.network, self.ema.module):
            network.load_state_dict(start)
        for moments in self.optimizer.state.values():
            for value in moments.values():
                value.zero_()
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(torch.amp.GradScaler(self.room.device.type).state_dict())

    def is_due(self):
        """Whether to save after this epoch. The large networks of a full_training would write
        terabytes if each epoch did."""
        return not self.is_large or time.monotonic() - self.saved_at >= SAVE_SECONDS

    @property
    def is_large(self):
        """Whether its checkpoint is."""
        n_parameters = sum(p.numel() for p in self.network.parameters())
        return SAVED_PER_PARAMETER * n_parameters >= LARGE_CHECKPOINT_BYTES

    def save(self, folder, begun=None):
        """Replace the checkpoint in `folder`.

        begun: the states of Tally, Learning and randomness in a stopped epoch, None after a whole
        one.
        """
        partial = Path(folder) / f"checkpoint{SCRATCH}"
        before = checkpoints(folder)
        states = {name: part.state_dict() for name, part in self.parts.items()}
        with open(partial, "wb") as f:
            torch.save({"history": self.history, "begun": begun, "explained": self.explained,
                        "restarts": [vars(restart) for restart in self.restarts], **states}, f)
        sync(partial)

        digest = digest_file(partial)[:12]
        path = partial.with_name(
            f"checkpoint-{len(self.history):05}-{steps_of(begun):06}-{digest}{SCRATCH}")
        replace_path(partial, path)
        self.saved_at = time.monotonic()
        for old in before:
            if old != path:
                old.unlink()

    def load(self, folder):
        """Restore the last saved state, if there is a checkpoint."""
        found = checkpoints(folder)
        if not found:
            return
        saved = torch.load(found[-1], map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.history = saved["history"]
        self.begun = saved["begun"]
        # older versions kept neither
        self.explained = saved.get("explained", [])
        self.restarts = [Restart(**values) for values in saved.get("restarts", ())]


def steps_of(unfinished):
    """How many steps of an unfinished epoch are done; 0 with None."""
    return unfinished["n_steps"] if unfinished else 0


def checkpoints(folder):
    """The checkpoints of a fit, the newest last. A kill between writing one and removing the one
    before leaves both."""
    return sorted(Path(folder).glob(f"checkpoint-*{SCRATCH}"))


def drop_damaged_checkpoints(folder):
    """Remove the checkpoints whose content does not match their name's digest; returns their names.
    """
    damaged = []
    for path in checkpoints(folder):
        named_digest = path.stem.rpartition("-")[2]
        if digest_file(path)[:12] != named_digest:
            path.unlink()
            damaged.append(path.name)
    return damaged
