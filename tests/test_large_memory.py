"""A card of 16 GB, simulated: what the product does on it with each large network, on fake tensors.

    python -m pytest tests/test_large_memory.py -m long -s -k vit

Nothing is computed. An allocation beyond LIMIT_BYTES raises as torch does on a GPU.
"""
import copy
import functools
import gc
import math
import time
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.memory import Tracker, as_on_a_gpu, network_of
from config import (
    BACKBONES,
    GRAD_CHECKPOINTING_BELOW_GIB,
    FitSpec,
    build_config,
    resolve,
    with_values,
)
from data_loader import Batch
from modeling import compute
from modeling.compute import Compute, halve
from modeling.inference import View
from modeling.losses import Distilled, Supervised
from modeling.memory import Room
from modeling.network import Network
from modeling.norms import adapted_to, checkpoint_gradients, fused
from modeling.optim import clip_norm_of
from modeling.train import new_state
from running import costs
from running.fits import with_room
from running.predicting import ADAPTED_BATCH_SIZE, predict_batch_size

LIMIT_BYTES = 15.0e9
LARGEST = ("resnext", "beit", "vit")      # the families with the most parameters, as teachers
GIB = 16
CPU = torch.device("cpu")
GPU = torch.device("cuda")      # only named
BF16 = Compute("bf16")
CLASSES = 17
VIEWS = (View(), View("flip_horizontal"), View("identity", 1.1))
CONFIG = with_values(resolve(build_config("competition_ready", ["scale=large"]),
                             gpu_memory_bytes=GIB * 2**30, n_train=1570),
                     {"runtime.compile": "off", "optim.batch_size": 16})
SIZE_PX = CONFIG.data.image_size_px
LOG = SimpleNamespace(say=lambda text, **_: print(text, flush=True))


class Card(Tracker):
    """Counts living tensors and refuses what no longer fits."""

    def __init__(self):
        super().__init__([])
        self.n_refused = 0

    def add(self, tensors):
        peak = self.peak
        super().add(tensors)
        if self.now > LIMIT_BYTES:
            self.peak = peak      # it is not given
            self.n_refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")


def is_too_large(name, device):
    return GRAD_CHECKPOINTING_BELOW_GIB.get(name.split(".")[0], 0) > GIB


def on_card(name, dtype=None):
    """A network of fake tensors, whose memory the Card counts from here on. dtype: a teacher's."""
    with _disable_current_modes(), torch.device("meta"):      # fake tensors cannot change format
        network = network_of(name, SIZE_PX)
        if dtype:
            halve(network, dtype)
    return network.to_empty(device=CPU)


def batch_of(n):
    images = torch.empty(n, 3, SIZE_PX, SIZE_PX, dtype=torch.uint8)
    return Batch(images, torch.empty(n, CLASSES), torch.empty(n), torch.empty(n, dtype=torch.int64))


def choose(name):
    """Time one micro-batch in each way, as `costs.choose_compute`."""
    micro = batch_of(CONFIG.optim.micro_batch_size)
    objective = Supervised(CONFIG.optim, torch.empty(CLASSES))

    def step_of(way, is_checkpointed):
        network = on_card(name)
        if is_checkpointed:
            assert checkpoint_gradients(network)
        step = costs.still_step(network, objective, [micro], BF16, CONFIG.optim, CPU)
        return functools.cache(step)      # the second one needs what the first one does

    job = SimpleNamespace(prepared=SimpleNamespace(config=CONFIG), backbone=name)
    _, seconds = costs.fastest_that_fits(job, GPU, step_of)
    assert min(seconds.values()) < math.inf


def train(name, config, teachers=()):
    """A step of two micro-batches, as a fit takes it; returns (training, the Room's state)."""
    objective = Supervised(config.optim, torch.empty(CLASSES))
    if teachers:
        halved = [on_card(teacher, torch.bfloat16) for teacher in teachers]
        objective = Distilled(objective, halved, 0.5, 2.0)
    training = SimpleNamespace(network=on_card(name), objective=objective, compute=BF16,
                               is_pretrained=True)
    state = new_state(FitSpec(name, 0, 0, 0), training, config, 100, CPU, LOG)
    state.step(0, objective, batch_of(config.optim.batch_size), BF16.autocast(CPU),
               clip_norm_of(training.network, config.optim))
    return training, state.room.state_dict()


@torch.no_grad()
def predict(network, adapted=None):
    """All views of a batch, by the network and the adapted one."""
    room = Room(predict_batch_size(CONFIG), CPU, told=print)
    images = batch_of(room.micro_batch_size).images

    def see():
        with BF16.autocast(CPU)():
            for part in images.split(room.micro_batch_size):
                _ = [seeing(view(part)).float() for view in VIEWS
                     for seeing in (network, adapted or network)]

    room.run_within_memory(see)


def measure(name):
    """As `costs.measure_cost`: a fit, a checkpoint, predictions, answers as a teacher. Returns the
    Config of the fits that follow."""
    training, room = train(name, CONFIG)
    new_state(FitSpec(name, 0, 0, 0), training, CONFIG, 1, CPU, LOG)
    network = fused(training.network)
    predict(network)
    taught = Distilled(training.objective, [copy.deepcopy(network)], 1.0, 1.0)
    costs.teaching(taught, CONFIG, BF16, CPU)
    return with_room(CONFIG, SimpleNamespace(**room))


def predict_fit(name):
    """As `predicting.predict_fit`, with the test images' statistics."""
    network = on_card(name).eval()
    room = Room(ADAPTED_BATCH_SIZE, CPU, told=print)
    adapted = room.run_within_memory(
        lambda: adapted_to(network, [batch_of(room.micro_batch_size).images]))
    network = fused(network)
    predict(network, adapted and fused(adapted))


# torch's own: how it copies a fake tensor
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor is deprecated")
@pytest.mark.long
@pytest.mark.parametrize("family", BACKBONES)
def test_a_card_of_16_gb_is_enough_for_all_that_is_done_with_a_large_network(family, monkeypatch):
    name = BACKBONES[family][0]
    for module in ("modeling.train", "running.costs"):
        monkeypatch.setattr(f"{module}.is_too_large", is_too_large)
    monkeypatch.setattr(Compute, "prepare", lambda self, network: network)      # for real tensors
    for moved in (Network, Distilled):      # fake tensors are on no other device
        monkeypatch.setattr(moved, "to", lambda self, *_, **named: self)
    monkeypatch.setattr(torch, "allclose", lambda *_, **named: True)      # of `fused`: no values
    monkeypatch.setattr(compute, "precisions", lambda device: ("bf16",))
    monkeypatch.setattr(compute, "HOPELESS", ())      # one time each
    monkeypatch.setattr(costs, "steps_ahead", lambda *_: 1)
    cards = {}

    def on(title, work):
        start = time.process_time()
        cards[title] = card = Card()
        with FakeTensorMode(allow_non_fake_inputs=True), card, as_on_a_gpu():
            result = work()
        gc.collect()
        print(f"{name}, {title}: {card.peak / 1e9:.1f} GB, refused {card.n_refused} times, "
              f"{time.process_time() - start:.0f} s", flush=True)
        return result

    on("choosing", lambda: choose(name))
    config = on("measuring", lambda: measure(name))
    teachers = [BACKBONES[other][0] for other in LARGEST if other != family][:2]
    on("taught", lambda: train(name, config, teachers))
    on("predicting", lambda: predict_fit(name))
    # a Room tries again with half of the images, and a fit knows what was measured
    assert {title: card.n_refused for title, card in cards.items() if card.n_refused} == {
        "beit": {"measuring": 1}, "maxvit": {"predicting": 1}}.get(family, {})
