"""What a whole ensemble costs over its single steps: seconds of all fits, training and predicting,
beside their steps' sum.

    python -m benchmarks.overhead DATA_DIR -- --mode full_training \\
        --set data.image_size_px=96 optim.epochs=4

A run of the real program. At the start of each fit its training step, and at its end its predicting
of a batch in all views, are timed alone, on one batch that is there already, with no process that
loads beside them (median of 5): a machine's pace changes within minutes. The sum counts each step
and each predicted image of a fit at its prices. What is over is loading, augmentation, building
networks, checkpoints, adapting to the test images, writing and hashing. Reading the contest, the
shift, the plan and the blend are no part of it.
"""
import argparse
import contextlib
import copy
import statistics
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from benchmarks.seeds import split_argv
from data_loader import make_loader
from grandmaster_train import main as train
from modeling.inference import predict
from modeling.optim import clip_norm_of
from modeling.train import fit, new_state
from running.fits import FitJob
from system.log import Timer
from system.machine import return_freed_memory

REPEATS = 5


def median_seconds(step):
    """Of REPEATS after the first two."""
    timers = [Timer() for _ in range(REPEATS + 2)]
    for timer in timers:
        with timer:
            step()
    return statistics.median(timer.seconds for timer in timers[2:])


class Prices:
    """Seconds of a step and of predicting an image in all views, measured in each fit; what all
    fits cost by them."""

    def __init__(self):
        self.fits, self.measuring, self.running = [], 0.0, None

    def fit(self, spec, training, config, n_epochs, device, folder, watch):
        """In place of `running.fits.fit`."""
        with self.unseen(), torch.random.fork_rng():
            price = self.step_seconds(spec, training, config, device, watch.log)
            # else it is copied page by page once loading processes are forked, which is not yet
            return_freed_memory()
        result = fit(spec, training, config, n_epochs, device, folder, watch)
        self.running["steps"] += len(result.epochs) * len(training.sampler) * price
        return result

    def step_seconds(self, spec, training, config, device, log):
        network = training.compute.prepare(copy.deepcopy(training.network).to(device)).train()
        objective = training.objective.to(device)
        state = new_state(spec, replace(training, network=network), config, 100, device, log)
        first = next(iter(make_loader(training.loader.dataset, training.sampler, 0)))
        batch = training.mix(first, torch.Generator().manual_seed(0), 100)
        return median_seconds(lambda: state.step(
            0, objective, batch, training.compute.autocast(device),
            clip_norm_of(training.network, config.optim)))

    def predict(self, network, loader, sample_id, classes, *, source, views, room, **values):
        """In place of `running.predicting.predict`."""

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

    def job(self, *values, **named):
        """In place of `running.planner.FitJob`."""
        return partial(self.run, FitJob(*values, **named))

    def run(self, job, site):
        """The job, and what its steps alone would take."""
        self.measuring = 0.0
        self.running = {"backbone": job.spec.backbone, "steps": 0.0, "images": 0}
        with Timer() as timer:
            job(site)
        done, self.running = self.running, None
        if done["images"]:
            done["steps"] += done["images"] * done["image_seconds"]()
        self.fits.append({**done, "wall": timer.seconds - self.measuring})
        print("so far", list(rows(self.fits))[-1], flush=True)

    @contextlib.contextmanager
    def unseen(self):
        """What it takes is no part of the fit's seconds."""
        with Timer() as timer:
            yield
        self.measuring += timer.seconds


def rows(fits):
    """Lines of the table: a backbone's fits, all fits."""
    for backbone in [*dict.fromkeys(f["backbone"] for f in fits), None]:
        own = [f for f in fits if backbone in (None, f["backbone"])]
        wall, steps = (sum(f[part] for f in own) for part in ("wall", "steps"))
        yield (f"{backbone or 'all':<32}  {len(own):>4}  {wall:>7.1f}  {steps:>11.1f}  "
               f"{wall / steps:.3f}")


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the run there")
    args, prices = parser.parse_args(own), Prices()
    with (tempfile.TemporaryDirectory() as scratch, mock.patch("running.fits.fit", prices.fit),
          mock.patch("running.predicting.predict", prices.predict),
          mock.patch("running.planner.FitJob", prices.job)):
        if status := train(["--data_path", args.data_path, "--results_dir",
                            str(args.keep or scratch), *passed]):
            sys.exit(status)
    print("\nbackbone                          fits  seconds  their steps  ratio",
          *rows(prices.fits), sep="\n")


if __name__ == "__main__":
    main()
