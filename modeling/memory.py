"""What to do when memory is short: the same batch in smaller parts, or activations computed twice.

    room = Room(8, device, network)
    # with 8 images at a time; after an out-of-memory error with 4, ..
    loss = room.run_within_memory(
        lambda: step(split_batch(batch, room.micro_batch_size, device)))

Halving is exact up to rounding, with two exceptions. Batch norms average over fewer images, and
have also seen those of the failed attempt. Dropout and drop path draw for each forward pass.
"""
import gc
import sys

import torch

from config import GRAD_CHECKPOINTING_BELOW_GIB
from modeling.norms import batch_norms, checkpoint_gradients
from system.machine import is_out_of_memory
from utils import NoRoom

try:
    import resource
except ImportError:      # Windows
    resource = None

# with fewer images, mean and variance are noise: checkpointing's third more time costs less
FEWEST_FOR_BATCH_NORM = 8
SMALLER = "use a smaller --set data.image_size_px or a smaller --scale, or end other programs"


class Room:
    """How much is computed at a time. network: the one in training, None for prediction.

    grad_checkpointing: on, off, or auto (once memory runs out). told(text): called with each
    change.
    """

    def __init__(self, micro_batch_size, device, network=None, grad_checkpointing="off",
                 told=lambda text: None):
        self.micro_batch_size = micro_batch_size
        self.device = device
        self.network = network
        self.told = told
        self.may_checkpoint = grad_checkpointing != "off"
        self.grad_checkpointing = False
        self.out_of_memory = 0
        if grad_checkpointing == "on" and not self.checkpoint():
            told("runtime.grad_checkpointing=on has no effect: timm's model has no gradient "
                 "checkpointing")

    def run_within_memory(self, work, forget=lambda: None):
        """Returns work(). After each out-of-memory error, tries again with less at a time; NoRoom
        if there is no less.

        forget(): called before each new attempt, to drop what the failed one has left.
        """
        while True:
            try:
                return work()
            except Exception as error:      # torch, numpy and python each have their own for it
                if not is_out_of_memory(error):
                    raise
                words = str(error).strip() or type(error).__name__
                reason = words.splitlines()[0].split(". GPU ")[0]
            # not in the except clause: there the error still holds the tensors of all its frames
            forget()
            self.shrink(reason)

    def shrink(self, reason):
        """Halve the images at a time. Gradient checkpointing comes first if fewer images would harm
        batch norms, else once one image is left."""
        self.out_of_memory += 1
        has_batch_norms = self.network is not None and batch_norms(self.network)
        fewest = FEWEST_FOR_BATCH_NORM if has_batch_norms else 1
        if self.micro_batch_size <= fewest and self.may_checkpoint and self.checkpoint():
            self.told(f"memory ran out ({reason}): goes on with gradient checkpointing, which "
                      "takes longer")
        elif self.micro_batch_size > 1:
            self.micro_batch_size //= 2
            self.told(f"memory ran out ({reason}): goes on with {self.micro_batch_size} image(s) "
                      "at a time")
        else:
            raise NoRoom(
                f"there was not enough memory for one image at a time ({reason}): {SMALLER}")

        gc.collect()
        torch.cuda.empty_cache()
        reset_peak_memory(self.device)

    def checkpoint(self):
        """Switch gradient checkpointing on. False if it is on already or the network has none."""
        if self.network is None or self.grad_checkpointing:
            return False
        self.grad_checkpointing = checkpoint_gradients(self.network)
        return self.grad_checkpointing

    def state_dict(self):
        """What a checkpoint keeps, and what a fit's history says of each epoch."""
        return {"micro_batch_size": self.micro_batch_size,
                "grad_checkpointing": int(self.grad_checkpointing),
                "out_of_memory": self.out_of_memory}

    def load_state_dict(self, state):
        self.micro_batch_size = state["micro_batch_size"]
        self.out_of_memory = state["out_of_memory"]
        if state["grad_checkpointing"]:
            self.checkpoint()


def is_too_large(backbone, device):
    """Whether a backbone's step is forecast to need more memory than this GPU has, without gradient
    checkpointing."""
    if device.type != "cuda":
        return False
    gib = GRAD_CHECKPOINTING_BELOW_GIB.get(backbone.split(".")[0], 0)      # whatever its tag
    return torch.cuda.get_device_properties(device).total_memory < gib * 2**30


# ---------------------------------------------------------------- peaks

def reset_peak_memory(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device):
    """Most memory allocated on a GPU since `reset_peak_memory`. On a CPU the process's peak, 0 if
    the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
