"""What a whole ensemble costs over its single steps: seconds of all fits, training and predicting, beside their steps' sum.

    python -m benchmarks.overhead DATA_DIR -- --mode full_training --set data.image_size_px=96 optim.epochs=4

A run of the real program. When a backbone comes first, its training step and its predicting of a batch in all views are timed
alone, on one batch that is there already, with no process that loads beside them (median of 5); the sum counts each step and
each predicted image at that price. What is over is loading, augmentation, building networks, checkpoints, adapting to the
test images, writing and hashing. Reading the contest, the shift, the plan and the blend are no part of it.
"""
import argparse
import copy
import statistics
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

from benchmarks.seeds import split_argv
from data_loader import make_loader
from grandmaster_train import main as train
from modeling import fits, planner
from modeling.optim import make_ema, make_optimizer
from modeling.train import TrainState, room_of
from utils import Timer

REPEATS = 5


def median_seconds(step):
    """Of REPEATS after the first two."""
    timers = [Timer() for _ in range(REPEATS + 2)]
    for timer in timers:
        with timer:
            step()
    return statistics.median(timer.seconds for timer in timers[2:])


class Prices:
    """Seconds of a step and of predicting an image, by backbone, measured once each; what all fits cost by them."""

    def __init__(self):
        self.step, self.image, self.sums, self.walls, self.measuring, self.in_fit = {}, {}, {}, {}, 0.0, False

    def fit(self, spec, network, objective, loader, sampler, **values):
        """In place of `modeling.fits.fit`."""
        if spec.backbone not in self.step:
            with Timer() as timer, torch.random.fork_rng():
                self.step[spec.backbone] = self.step_seconds(spec, network, objective, loader, sampler, **values)
            self.measuring += timer.seconds
        result = fit(spec, network, objective, loader, sampler, **values)
        self.add(spec.backbone, len(result.epochs) * len(sampler) * self.step[spec.backbone])
        return result

    def step_seconds(self, spec, network, objective, loader, sampler, *, mix, config, compute, device, events, pretrained, **_):
        network, objective = compute.prepare(copy.deepcopy(network).to(device)).train(), objective.to(device)
        optimizer = make_optimizer(network, config.optim, pretrained)
        state = TrainState(network, make_ema(network, config.optim, 100), optimizer, compute.scaler(device),
                           room_of(spec, network, config, device, events))
        batch = mix(next(iter(make_loader(loader.dataset, sampler, 0))), torch.Generator().manual_seed(0), 100)
        return median_seconds(lambda: state.step(0, objective, batch, compute.autocast(device), config.optim.clip_norm))

    def predict(self, network, loader, sample_id, classes, *, source, views, room, **values):
        """In place of `modeling.fits.predict`."""
        backbone = source.split("-")[1]
        if (backbone, len(views)) not in self.image:
            images = next(iter(make_loader(loader.dataset, loader.batch_sampler, 0)))
            with Timer() as timer:
                self.image[backbone, len(views)] = median_seconds(lambda: predict(
                    network, [images], sample_id, classes, source=source, views=views, room=room, **values)) / len(images.index)
            self.measuring += timer.seconds
        self.add(backbone, len(sample_id) * self.image[backbone, len(views)])
        return predict(network, loader, sample_id, classes, source=source, views=views, room=room, **values)

    def run_fit(self, site, this, spec, **values):
        """In place of `modeling.planner.run_fit`."""
        before, self.in_fit = self.measuring, True
        with Timer() as timer:
            run_fit(site, this, spec, **values)
        self.in_fit = False
        self.walls.setdefault(spec.backbone, []).append(timer.seconds - (self.measuring - before))

    def add(self, backbone, seconds):
        if self.in_fit:      # and not where the plan is measured
            self.sums[backbone] = self.sums.get(backbone, 0.0) + seconds


fit, predict, run_fit = fits.fit, fits.predict, planner.run_fit


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the run there")
    args, prices = parser.parse_args(own), Prices()
    with (tempfile.TemporaryDirectory() as scratch, mock.patch.multiple(fits, fit=prices.fit, predict=prices.predict),
          mock.patch.object(planner, "run_fit", prices.run_fit)):
        if status := train(["--data_path", args.data_path, "--results_dir", str(args.keep or scratch), *passed]):
            sys.exit(status)
    print("\nbackbone                          fits  seconds  their steps  ratio")
    for backbone, walls in prices.walls.items():
        print(f"{backbone:<32}  {len(walls):>4}  {sum(walls):>7.1f}  {prices.sums[backbone]:>11.1f}  "
              f"{sum(walls) / prices.sums[backbone]:.3f}")
    n = sum(map(len, prices.walls.values()))
    wall, steps = sum(map(sum, prices.walls.values())), sum(prices.sums.values())
    print(f"all {n} fits: {wall:.1f} s, their steps alone {steps:.1f} s, ratio {wall / steps:.3f}")


if __name__ == "__main__":
    main()
