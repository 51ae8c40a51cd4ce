"""The private parts of torch still do what modeling/torch_private.py says. An update of torch may
take them away: each failure then says what to do."""
import re
from contextlib import contextmanager

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from modeling import torch_private
from tests.test_layers import PRODUCT


@contextmanager
def advice(text):
    """A failure within this block says what to do."""
    try:
        yield
    except (AttributeError, AssertionError, RuntimeError) as error:
        pytest.fail(f"torch {torch.__version__} changed ({error}): {text}", pytrace=False)


def test_a_forward_pass_knows_that_it_is_part_of_a_backward_pass():
    asked = []

    def forward(values):
        asked.append(torch_private.in_backward_pass())
        return values.square().sum()

    with advice(
            "see how torch.utils.checkpoint or torch.utils.module_tracker.ModuleTracker.is_bw now "
            "tells a backward pass, and do so in in_backward_pass(); if nothing can, "
            "checkpoint_gradients() must return False for networks with batch norms, which would "
            "count images twice"):
        values = torch.ones(2, requires_grad=True)
        torch.autograd.grad(checkpoint(forward, values, use_reentrant=False), values)
        assert asked == [False, True]
        assert not torch_private.in_backward_pass()


def test_a_scaler_forgets_that_it_has_unscaled():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with advice(
            "see what GradScaler.update clears after a step, and clear that in "
            "forget_unscaling(); if nothing can, TrainState.forget must make a new GradScaler and "
            "load the old one's state_dict into it"):
        for _ in range(2):
            optimizer.zero_grad()
            weight.grad = torch.full((1,), 8.0) * scaler.scale(torch.ones(()))
            scaler.unscale_(optimizer)
            assert weight.grad.item() == 8.0
            torch_private.forget_unscaling(scaler)

    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.unscale_(optimizer)


@pytest.mark.parametrize("question", ["cpu_has_avx512_bf16", "cpu_has_amx"])
def test_a_cpu_says_how_it_computes_bf16(question):
    with advice(
            f"ask torch.cpu.get_capabilities() in {question}(), once every supported torch has it; "
            "returning False is safe: runtime.precision=auto then stays fp32 on such a CPU"):
        assert getattr(torch_private, question)() in (True, False)


def test_private_parts_of_torch_are_named_in_one_file():
    private = re.compile(r"\btorch(?:\.\w+)*\._(?!_)\w+|_per_optimizer_states")
    users = {path.name: found for path in PRODUCT if (found := private.findall(path.read_text()))}
    assert set(users) == {"torch_private.py"}, (
        f"{users}: put each behind a function of modeling/torch_private.py, with a test here")
