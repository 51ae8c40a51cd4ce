"""The private parts of torch that this program needs, each behind a function of its own.

An update of torch may remove any of them; tests/test_torch_private.py says what to do then.
"""
import torch


def in_backward_pass():
    """Whether this code runs inside a backward pass.

    Missing in torch: a public function that says so. torch.utils.checkpoint asks this way too.
    """
    return torch._C._current_graph_task_id() != -1


def forget_unscaling(scaler):
    """Let a GradScaler forget which optimizers it has unscaled, as `update` does after a step.

    Missing in torch: a public way to give up a step after `unscale_`. A second `unscale_` raises.
    """
    scaler._per_optimizer_states.clear()


def cpu_has_avx512_bf16():
    """Whether this CPU has avx512 instructions for bf16.

    Missing in torch: a public question that all versions from 2.11 on answer.
    torch.cpu.get_capabilities is public in 2.15.
    """
    return torch.cpu._is_avx512_bf16_supported()


def cpu_has_amx():
    """Whether this CPU has AMX, which multiplies bf16 matrices in tiles.

    Missing in torch: as for `cpu_has_avx512_bf16`.
    """
    return torch.cpu._is_amx_tile_supported()
