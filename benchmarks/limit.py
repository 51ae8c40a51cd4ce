"""How near training comes to the machine's limit: real epochs beside epochs of one resident batch.

    python -m benchmarks.limit DATA_DIR [--repeats 5] \\
        -- --weights_dir W --set data.image_size_px=160 model.backbones=mobilenetv2_100

The real program fits the first fold, with a loader that alternates real and resident epochs; the
first of each is not counted. Prints images/s of both and the share of the limit, per pair.
"""
import argparse
import csv
import statistics
import sys
import tempfile
from pathlib import Path
from unittest import mock

from benchmarks.seeds import split_argv
from data_loader import make_loader
from grandmaster_train import main as train


class Alternating:
    """The loader's epochs, every second one repeating its first batch."""

    def __init__(self, dataset, sampler, workers, in_bursts):
        self.loader, self.sampler, self.n_epochs = make_loader(dataset, sampler, workers,
                                                               in_bursts), sampler, 0
        self.resident = next(iter(make_loader(dataset, sampler, 0)))

    def __iter__(self):
        self.n_epochs += 1
        return iter(self.loader) if self.n_epochs % 2 else iter([self.resident] * len(self.sampler))


def epoch_rates(argv, folder):
    """Images/s of each epoch of a run's one fit."""
    with mock.patch("running.fits.make_loader", Alternating):
        if status := train(argv):
            sys.exit(status)
    history, = Path(folder).glob("*/fold_0/r0-*/history.csv")
    with open(history, newline="", encoding="utf-8") as f:
        return [float(row["images_per_second"]) for row in csv.DictReader(f)]


def main():
    own, passed = split_argv()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_path")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(own)
    with tempfile.TemporaryDirectory() as folder:
        rates = epoch_rates(["--mode", "quick_test", "--data_path", args.data_path, "--results_dir",
                             folder, *passed, "--set", f"optim.epochs={2 * args.repeats + 2}",
                             "predict.tta_views=1"], folder)
    real, resident = rates[2::2], rates[3::2]
    shares = [a / b for a, b in zip(real, resident, strict=True)]
    print(
        f"{statistics.median(real):.1f} images/s of "
        f"{statistics.median(resident):.1f} on a resident batch: "
        f"{statistics.median(shares):.3f} of the limit "
        f"(median of {len(shares)}, {min(shares):.3f} to {max(shares):.3f})"
    )


if __name__ == "__main__":
    main()
