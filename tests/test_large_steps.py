"""Real steps of the large networks, at their size, on a CPU: hours on two cores, so marked long.

    python -m pytest tests/test_large_steps.py -m long -s -k efficientnetv2
"""
import gc
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from config import BACKBONES, build_config, resolve
from data_loader import noise_batch
from modeling.losses import Supervised
from modeling.memory import peak_memory_bytes
from modeling.network import build_network
from modeling.norms import checkpoint_gradients
from modeling.optim import clip_norm_of, lr_at, make_optimizer, peak_lr, set_lr
from modeling.train import seed_everything, train_step
from modeling.weights import WeightsSource

CPU = torch.device("cpu")
N_STEPS = 3
# weight, gradient and two moments, and what two images keep
BYTES_PER_PARAMETER, ACTIVATION_BYTES = 16, 8e9
CONFIG = resolve(build_config("full_training", ["scale=large", "model.drop_rate=0",
                                                "model.drop_path_rate=0"]),
                 gpu_memory_bytes=0, n_train=1570)


def free_bytes():
    """Memory that may be taken, with what only caches files."""
    facts = Path("/proc/meminfo")
    if facts.exists():
        values = dict(line.split(":") for line in facts.read_text().splitlines())
        return 1024 * int(values["MemAvailable"].split()[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def losses_of(name, is_checkpointed):
    """The losses of the same batch before each of three steps, and after them."""
    seed_everything("large", name)
    size_px = CONFIG.data.image_size_px
    network = build_network(name, n_classes=2, image_size_px=size_px, model=CONFIG.model,
                            weights=WeightsSource(name, "random")).train()
    if is_checkpointed:
        assert checkpoint_gradients(network)
    optim = CONFIG.optim
    optimizer = make_optimizer(network, optim, pretrained=True)
    peak = peak_lr(network, optim, pretrained=True)
    batch = noise_batch(2, 2, size_px)
    objective = Supervised(optim, torch.ones(2))
    losses = []
    for step in range(N_STEPS + 1):
        start = time.perf_counter()
        # the first steps of a fit of 12 epochs
        set_lr(optimizer, lr_at(step, 12 * 32, optim, peak) if step < N_STEPS else 0.0)
        loss, taken = train_step(network, objective, optimizer,
                                 torch.amp.GradScaler("cpu", enabled=False), [batch],
                                 autocast=lambda: torch.autocast("cpu", enabled=False),
                                 clip_norm=clip_norm_of(network, optim))
        assert taken
        losses.append(float(loss))
        print(f"{name} {'checkpointed' if is_checkpointed else 'plain'} step {step}: loss "
              f"{losses[-1]:.5f}, {time.perf_counter() - start:.0f} s, peak "
              f"{peak_memory_bytes(CPU) / 1e9:.1f} GB", flush=True)
    return losses


@pytest.mark.long
@pytest.mark.parametrize("family", BACKBONES)
def test_three_steps_each_lower_the_loss_with_and_without_checkpointing(family):
    name = BACKBONES[family][0]
    with torch.device("meta"):
        network = build_network(name, n_classes=2, image_size_px=384, model=CONFIG.model,
                                weights=WeightsSource(name, "random"))
    needed = BYTES_PER_PARAMETER * sum(p.numel() for p in network.parameters()) + ACTIVATION_BYTES
    if free_bytes() < needed:
        pytest.skip(f"{needed / 1e9:.0f} GB are needed, and {free_bytes() / 1e9:.0f} are free")
    found = []
    for is_checkpointed in (True, False):
        found.append(losses_of(name, is_checkpointed))
        gc.collect()
    for losses in found:
        assert all(after < before for before, after in pairwise(losses))
    assert found[0] == pytest.approx(found[1], rel=0.01)
