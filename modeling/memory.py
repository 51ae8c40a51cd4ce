"""What is done where memory is short: the same batch in smaller parts, or activations that are
computed twice.

    room = Room(8, device, network)
    loss = room.run_within_memory(lambda: step(split_batch(batch, room.micro_batch_size, device)))     # with 8, after an error with 4, ..

Halving is exact but for rounding, except that batch norms then average over fewer images, and that
dropout and drop path draw for each forward pass. Batch norms have also seen the images of the
attempt that failed.
"""
import gc
import resource
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
# images: with fewer their mean and variance are noise, and a third more time is the better price
FEWEST_FOR_BATCH_NORM = 8


class Room:
    """How much is computed at a time. network: one that is trained, None: images are predicted.

    grad_checkpointing: auto (once memory runs out, from the start where `is_too_large`), on, off.
    told(text): called with what was changed, each time.
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
            told(
                "runtime.grad_checkpointing=on has no effect: timm's model has no gradient checkpointing"
            )

    def run_within_memory(self, work, forget=lambda: None):
        """work(), after each out-of-memory error again with less at a time; NoRoom where that is
        not possible.

        forget(): called before, to drop what the failed attempt has left.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = (str(error).strip()
                          or type(error).__name__).splitlines()[0].split(". GPU ")[0]
            forget()      # out here: the error has held the tensors of all its frames
            self.shrink(reason)

    find = run_within_memory      # until running/ is moved over

    def shrink(self, reason):
        """Checkpointing first where fewer images would harm batch norms, else once there is one
        image left."""
        self.out_of_memory += 1
        fewest = FEWEST_FOR_BATCH_NORM if self.network is not None and batch_norms(
            self.network) else 1
        if self.micro_batch_size <= fewest and self.may_checkpoint and self.checkpoint():
            self.told(
                f"memory ran out ({reason}): goes on with gradient checkpointing, which takes longer"
            )
        elif self.micro_batch_size > 1:
            self.micro_batch_size //= 2
            self.told(
                f"memory ran out ({reason}): goes on with {self.micro_batch_size} image(s) at a time"
            )
        else:
            raise NoRoom(
                f"there was not enough memory for one image at a time ({reason}): use a smaller --set "
                "data.image_size_px or a smaller --scale, or end other programs"
            )
        gc.collect()
        torch.cuda.empty_cache()
        reset_peak_memory(self.device)

    def checkpoint(self):
        """Switch gradient checkpointing on; False where it is on already, or the network has none.
        """
        if self.network is None or self.grad_checkpointing:
            return False
        self.grad_checkpointing = checkpoint_gradients(self.network)
        return self.grad_checkpointing

    def state_dict(self):
        """Also what a fit's history says of each epoch."""
        return {"micro_batch_size": self.micro_batch_size,
                "grad_checkpointing": int(self.grad_checkpointing),
                "out_of_memory": self.out_of_memory}

    def load_state_dict(self, state):
        self.micro_batch_size = state["micro_batch_size"]
        self.out_of_memory = state["out_of_memory"]
        if state["grad_checkpointing"]:
            self.checkpoint()


def is_too_large(backbone, device):
    """Whether a backbone's step is forecast to need more than this GPU has, without gradient
    checkpointing."""
    gib = GRAD_CHECKPOINTING_BELOW_GIB.get(backbone, 0)
    return device.type == "cuda" and torch.cuda.get_device_properties(
        device).total_memory < gib * 2**30


# ---------------------------------------------------------------- peaks

def reset_peak_memory(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device):
    """Most memory allocated on a GPU since `reset_peak_memory`; on a CPU the process's peak, 0
    where the system has none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if resource else 0
