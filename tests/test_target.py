"""The estimate of hours: what a step, a save, a prediction and a teacher count."""
from types import SimpleNamespace

import pytest

from benchmarks.target import (
    cost_of,
    frozen_seconds,
    is_checkpointed_on,
    resolved,
    works_of,
)

ARGS = SimpleNamespace(scale="large", tflops=30.0, train=1570, test=3140, gib=16.0, write=1.0)


def test_a_checkpointed_step_counts_four_forwards_and_saves_and_views_come_on_top():
    config = resolved("full_training", ARGS)
    batch = config.optim.batch_size
    plain, again = (cost_of(30e12, 0, 0, checkpointed, config, ARGS)
                    for checkpointed in (False, True))
    assert (plain.step_seconds, again.step_seconds) == (3 * batch, 4 * batch)
    assert plain.image_seconds == 8 and plain.teach_seconds == batch
    large, small = (cost_of(30e12, n, 0, False, config, ARGS) for n in (2e9 / 16, 0.5e9 / 16))
    assert (large.save_seconds, large.is_large) == (pytest.approx(2.0), True)
    assert (small.save_seconds, small.is_large) == (pytest.approx(0.5), False)


def test_the_fits_are_those_of_the_mode():
    works = works_of(resolved("competition_ready", ARGS), 1570, 3140)
    assert len(works) == 84
    taught = [work for work in works if work.spec.round == 1 and work.spec.fold == 0]
    assert {(work.n_epochs, work.n_steps, len(work.teachers)) for work in taught} == {(1, 110, 2)}


def test_large_networks_that_do_not_fit_are_checkpointed_whatever_their_tag():
    assert is_checkpointed_on(16, "maxvit_large_tf_384.in21k_ft_in1k")
    assert is_checkpointed_on(16, "resnext101_32x32d") and not is_checkpointed_on(24, "vit_x")


def test_the_networks_that_a_mode_trains_are_read_before_its_fits():
    config = resolved("full_training", ARGS)
    flops = dict.fromkeys(config.model.backbones, 30e12)
    read = frozen_seconds(config, flops, ARGS)
    assert read == [(name, 4 * 1570 + 2 * 3140) for name in config.model.backbones]
    assert frozen_seconds(config, flops, SimpleNamespace(**vars(ARGS) | {"train": 10**6})) == []
