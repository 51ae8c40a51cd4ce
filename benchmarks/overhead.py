"""What a whole ensemble costs over its single steps: seconds of all fits beside their steps' sum.

    python -m benchmarks.overhead DATA_DIR \\
        -- --mode full_training --set data.image_size_px=96 optim.epochs=4

Runs the real program. A machine's pace changes within minutes, so each fit is priced itself: at its
start the training step is timed alone, at its end the prediction of a batch in all views, both on
one batch in memory, without loading processes (median of 5). The sum counts each step and each
predicted image of a fit at these prices. The rest is loading, augmentation, building networks,
checkpoints, adapting to the test images, writing and hashing. Reading the contest, the shift, the
plan and the blend are left out.
"""
import argparse
import contextlib
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
from modeling import inference
from modeling.optim import make_ema, make_optimizer
from modeling.train import TrainState, room_of
from running import fits, planner
from system.log import Timer
from system.machine import return_freed_memory

REPEATS = 5


def median_seconds(step):
    """Median of REPEATS calls after two uncounted ones."""
    timers = [Timer() for _ in range(REPEATS + 2)]
    for timer in timers:
        with timer:
            step()
    return statistics.median(timer.seconds for timer in timers[2:])


class Prices:
    """Seconds of a step and of predicting an image in all views, measured in each fit.

    fits: what each fit took, and what its steps cost at these prices.
    """

    def __init__(self):
        self.fits, self.measuring, self.running = [], 0.0, None

    def fit(self, spec, network, objective, loader, sampler, **values):
        """In place of `fit` in running.fits."""
        if self.running is None:      # steps measured for the plan
            return fit(spec, network, objective, loader, sampler, **values)
        with self.unseen(), torch.random.fork_rng():
            price = self.step_seconds(spec, network, objective, loader, sampler, **values)
            # else it is copied page by page once loading processes are forked, which is not yet
            return_freed_memory()
        result = fit(spec, network, objective, loader, sampler, **values)
        self.running["steps"] += len(result.epochs) * len(sampler) * price
        return result

    def step_seconds(self, spec, network, objective, loader, sampler, *, mix, config, compute,
                     device, events, pretrained, **_):
        network, objective = compute.prepare(
            copy.deepcopy(network).to(device)).train(), objective.to(device)
        optimizer = make_optimizer(network, config.optim, pretrained)
        state = TrainState(network, make_ema(network, config.optim, 100), optimizer,
                           compute.scaler(device), room_of(spec, network, config, device, events))
        batch = mix(next(iter(make_loader(loader.dataset, sampler, 0))),
                    torch.Generator().manual_seed(0), 100)
        return median_seconds(lambda: state.step(0, objective, batch, compute.autocast(device),
                                                 config.optim.clip_norm))

    def predict(self, network, loader, sample_id, classes, *, source, views, room, **values):
        """In place of `predict` in running.fits."""

        def once(batches, ids=sample_id):
            return predict(network, batches, ids, classes, source=source, views=views, room=room,
                           **values)

        if self.running:
            self.running["images"] += len(sample_id)
            if "image_seconds" not in self.running:
                with self.unseen():
                    images = next(iter(make_loader(loader.dataset, loader.batch_sampler, 0)))
                n = len(images.index)      # the first rows
                self.running["image_seconds"] = lambda: median_seconds(lambda: once([images],
                                                                                    sample_id[
                                                                                        :n])) / n
        return once(loader)

    def run_fit(self, site, this, spec, **values):
        """In place of `run_fit` in running.planner."""
        self.measuring, self.running = 0.0, {"backbone": spec.backbone, "steps": 0.0, "images": 0}
        with Timer() as timer:
            run_fit(site, this, spec, **values)
        done, self.running = self.running, None
        if done["images"]:
            done["steps"] += done["images"] * done["image_seconds"]()
        self.fits.append({**done, "wall": timer.seconds - self.measuring})
        print("so far", list(rows(self.fits))[-1], flush=True)

    @contextlib.contextmanager
    def unseen(self):
        """Take this time off the fit's seconds."""
        with Timer() as timer:
            yield
        self.measuring += timer.seconds


def rows(fits):
    """Lines of the table: one per backbone, one for all fits."""
    for backbone in [*dict.fromkeys(f["backbone"] for f in fits), None]:
        own = [f for f in fits if backbone in (None, f["backbone"])]
        wall, steps = (sum(f[part] for f in own) for part in ("wall", "steps"))
        yield (f"{backbone or 'all':<32}  {len(own):>4}  {wall:>7.1f}  {steps:>11.1f}  "
               f"{wall / steps:.3f}")


fit, predict, run_fit = train.fit, inference.predict, fits.run_fit


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the run there")
    args, prices = parser.parse_args(own), Prices()
    with (tempfile.TemporaryDirectory() as scratch, mock.patch.multiple(fits, fit=prices.fit,
                                                                        predict=prices.predict),
          mock.patch.object(planner, "run_fit", prices.run_fit)):
        if status := train(["--data_path", args.data_path, "--results_dir",
                            str(args.keep or scratch), *passed]):
            sys.exit(status)
    print("\nbackbone                          fits  seconds  their steps  ratio",
          *rows(prices.fits), sep="\n")


if __name__ == "__main__":
    main()
