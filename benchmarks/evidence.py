"""Do heat maps tell two things in one image apart, in networks of each family, and at what cost?

    python -m benchmarks.evidence drawn OUT.png
    python -m benchmarks.evidence ../shared/data/trashnet OUT.png --weights_dir W --steps 0 \\
        --size 160 --n_seen 300 --backbones mobilenetv2_100

`drawn`: patterned squares of four kinds on noise, which every network tells in a few steps. Else
the training images of a contest: half of them are learnt from, the other half is asked. An image
that is asked shows two kinds, one on its left and one on its right (of photos, half of each).
Printed are the accuracy on images of one kind, the share of a map on the side of its kind (mean
over 2 n maps, and how often it is more than half), and what a map takes in predictions. OUT.png has
a row for each backbone: four images, each with both maps.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from benchmarks.shift_recovery import halves
from config import BACKBONES, ModelConfig, build_config
from contest.decoding import decode_image
from data_loader import Batch
from modeling.augment import plain_view
from modeling.compute import Compute
from modeling.evidence import evidence
from modeling.frozen import fit_head
from modeling.losses import Supervised
from modeling.network import build_network
from modeling.optim import lr_at, make_optimizer, peak_lr, set_lr
from modeling.train import seed_everything, train_step
from modeling.weights import find_weights
from reporting.figures import heated

SHOWN = 4
BATCH_SIZE = 16
STRENGTH = 10.0      # of the classifier of a frozen backbone
CPU = torch.device("cpu")
COLOURS = ((220, 50, 40), (50, 80, 220), (60, 180, 60), (230, 200, 40))


# ---------------------------------------------------------------- images

def pattern(k, side_px, rng):
    """(side, side) bool: stripes, dots, rings or squares."""
    y, x = np.mgrid[:side_px, :side_px] + rng.uniform(0, side_px, 2)[:, None, None]
    turn = 2 * np.pi / (side_px * rng.uniform(0.25, 0.35))
    wave_x = np.sin(turn * x)
    wave_y = np.sin(turn * y)
    centre = np.hypot(x - x.mean(), y - y.mean())
    return (wave_x > 0, wave_x * wave_y > 0.4, np.sin(turn * centre) > 0,
            (wave_x > 0) ^ (wave_y > 0))[k]


def drawn(kinds, centres, side_px, rng):
    """(S, S, 3) uint8: things of these kinds at these centres (x, y) on noise."""
    image = rng.integers(70, 190, (side_px, side_px, 3), dtype=np.uint8)
    for k, (x, y) in zip(kinds, centres, strict=True):
        size = round(side_px * rng.uniform(0.28, 0.36))
        left, top = (int(np.clip(at - size // 2, 0, side_px - size)) for at in (x, y))
        colour = np.array(COLOURS[k]) * rng.uniform(0.7, 1)
        is_lit = pattern(k, size, rng)[..., None]
        image[top:top + size, left:left + size] = np.where(is_lit, colour, 0.25 * colour)
    return image


def as_tensor(images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


class Drawn:
    """Things that are drawn. As Photos."""

    def __init__(self, side_px, n_seen, seed):
        self.side_px = side_px
        self.n_classes = len(COLOURS)
        self.rng = np.random.default_rng(seed)
        self.seen, self.held = (self.of_one(n) for n in (n_seen or 600, 200))

    def of_one(self, n):
        """(images (n, 3, S, S) uint8, their kinds (n,))."""
        kinds = self.rng.integers(self.n_classes, size=n)
        images = [drawn([k], [self.rng.uniform(0, self.side_px, 2)], self.side_px, self.rng)
                  for k in kinds]
        return as_tensor(images), torch.from_numpy(kinds)

    def of_two(self, n):
        """(images (n, 3, S, S) uint8, kinds (n, 2)): of the thing on the left, and on the right."""
        kinds = two_kinds(n, self.n_classes, self.rng)
        middle = self.side_px / 2
        images = []
        for pair in kinds:
            x, y = self.rng.uniform(0.35, 0.65, (2, 2)) * ((middle,), (self.side_px,))
            images.append(drawn(pair, [(x[0], y[0]), (middle + x[1], y[1])], self.side_px,
                                self.rng))
        return as_tensor(images), torch.from_numpy(kinds)


class Photos:
    """Training images of a contest. seen, held: (images (N, 3, S, S) uint8, classes (N,))."""

    def __init__(self, data_dir, classes, side_px, n_seen, seed):
        self.rng = np.random.default_rng(seed)
        both = halves(data_dir, seed)
        classes = classes or sorted(set(both[0][1]))
        self.n_classes = len(classes)
        square = plain_view(side_px, "squash")
        self.seen, self.held = (self.read(*half, classes, square, most)
                                for half, most in zip(both, (n_seen, 0), strict=True))

    def read(self, paths, labels, classes, square, most):
        """At most `most` of them, 0: all."""
        rows = [(path, classes.index(label)) for path, label in zip(paths, labels, strict=True)
                if label in classes]
        rows = [rows[i] for i in self.rng.permutation(len(rows))[:most or None]]
        images, index = zip(*((square(decode_image(path)), k) for path, k in rows), strict=True)
        return as_tensor(images), torch.tensor(index)

    def of_two(self, n):
        """(images (n, 3, S, S) uint8, kinds (n, 2)): half of an image of each, side by side."""
        images, index = self.held
        kinds = two_kinds(n, self.n_classes, self.rng)
        left, right = (torch.tensor([self.rng.choice(np.flatnonzero(index == k)) for k in side])
                       for side in kinds.T)
        middle = images.shape[-1] // 2
        return (torch.cat([images[left, ..., :middle], images[right, ..., middle:]], 3),
                torch.from_numpy(kinds))


def two_kinds(n, n_classes, rng):
    """(n, 2) int: two different ones each."""
    return np.stack([rng.choice(n_classes, 2, replace=False) for _ in range(n)])


# ---------------------------------------------------------------- networks

def learnt(source, images, index, n_classes, n_steps, seed):
    """A network that has learnt the classes in some steps; in 0 steps: its backbone as it is, with
    a logistic regression."""
    seed_everything(seed, "evidence", source.model_name)
    network = build_network(source.model_name, n_classes=n_classes, weights=source,
                            image_size_px=images.shape[-1], model=ModelConfig())
    if not n_steps:
        return with_regression(network.eval(), images, index, n_classes)
    return taught(network, images, index, n_classes, n_steps, source.kind != "random", seed)


def taught(network, images, index, n_classes, n_steps, is_pretrained=False, seed=0, lr=0):
    """The network after some steps, half of them on mirrored images. lr: as optim.lr."""
    optim = build_config("quick_test", [f"optim.batch_size={BATCH_SIZE}", f"optim.lr={lr}"]).optim
    optimizer = make_optimizer(network.train(), optim, is_pretrained)
    peak = peak_lr(network, optim, is_pretrained)
    objective = Supervised(optim, torch.ones(n_classes))
    compute = Compute()
    rng = np.random.default_rng(seed)
    for step in range(n_steps):
        rows = torch.from_numpy(rng.choice(len(index), BATCH_SIZE))
        shown = images[rows].flip(3) if step % 2 else images[rows]
        set_lr(optimizer, lr_at(step, n_steps, optim, peak))
        batch = Batch(shown, F.one_hot(index[rows], n_classes).float(), torch.ones(BATCH_SIZE),
                      rows)
        train_step(network, objective, optimizer, compute.scaler(CPU), [batch],
                   autocast=compute.autocast(CPU), clip_norm=5.0)
    return network.eval()


@torch.no_grad()
def with_regression(network, images, index, n_classes):
    """The network with a logistic regression on its features as its head."""
    features = torch.cat([network.features(part) for part in images.split(64)]).numpy()
    fitted = fit_head(features[None], index.numpy(), lambda labels: np.ones(n_classes),
                      np.full(len(index), True), STRENGTH)
    head = nn.Linear(features.shape[1], n_classes)
    head.weight.copy_(torch.from_numpy(fitted.weight))
    head.bias.copy_(torch.from_numpy(fitted.bias))
    network.head = head
    return network


# ---------------------------------------------------------------- maps

def maps_of(network, images, classes):
    """(n, S, S) of a class an image."""
    maps = torch.cat([evidence(network, *part) for part in
                      zip(images.split(BATCH_SIZE), classes.split(BATCH_SIZE), strict=True)])
    return F.interpolate(maps[:, None], size=images.shape[2:], mode="bicubic")[:, 0].clamp(min=0)


def shares_of(both):
    """(2 n,) of maps (n, S, S) of the kind on the left and of that on the right: the share on its
    side, 0 of an empty one."""
    middle = both[0].shape[-1] // 2
    sides = both[0][..., :middle], both[1][..., middle:]
    return torch.cat([own.sum((1, 2)) / every.sum((1, 2)).clamp(min=1e-12)
                      for own, every in zip(sides, both, strict=True)])


def cost_of(network, images):
    """The processor's seconds of maps over those of predictions, the least of three times each."""
    def seconds(work):
        spent = []
        for _ in range(3):
            begun = time.process_time()
            work()
            spent.append(time.process_time() - begun)
        return min(spent)

    with torch.inference_mode():
        plain = seconds(lambda: network(images))
    return seconds(lambda: maps_of(network, images, torch.zeros(len(images), dtype=int))) / plain


def row_of(images, both):
    """(S, W, 3): images, each followed by its maps of both kinds."""
    shown = []
    for image, *maps in zip(images.permute(0, 2, 3, 1).numpy(), *both, strict=True):
        shown += [image, *(heated(image, each.numpy()) for each in maps)]
    return np.concatenate(shown, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path, help="of a contest, or the word drawn")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--classes", nargs="+", help="as in train.csv; default: all")
    parser.add_argument("--backbones", nargs="+", help="default: the tiny member of each family")
    parser.add_argument("--weights_dir", default="", help="without a file there: random weights")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200, help="0: a logistic regression")
    parser.add_argument("--n_seen", type=int, default=0, help="images to learn from, 0: all")
    parser.add_argument("--n", type=int, default=40, help="images of two kinds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    more = (args.size, args.n_seen, args.seed)
    is_drawn = str(args.data_dir) == "drawn"
    data = Drawn(*more) if is_drawn else Photos(args.data_dir, args.classes, *more)
    mixed, kinds = data.of_two(args.n)
    rows = []
    print("| backbone | weights | accuracy | mean share | more than half | map, in predictions |\n"
          "|---|---|---|---|---|---|")
    for name in args.backbones or [members[-1] for members in BACKBONES.values()]:
        source = find_weights(name, args.weights_dir, "auto" if args.weights_dir else "off")
        network = learnt(source, *data.seen, data.n_classes, args.steps, args.seed)
        images, index = data.held
        with torch.inference_mode():
            said = torch.cat([network(part).argmax(1) for part in images.split(64)])
        both = [maps_of(network, mixed, k) for k in kinds.T]
        share = shares_of(both)
        print(f"| {name} | {source.kind} | {(said == index).float().mean():.2f} | "
              f"{share.mean():.2f} | {int((share > 0.5).sum())} of {len(share)} | "
              f"{cost_of(network, mixed[:BATCH_SIZE]):.1f} |", flush=True)
        rows.append(row_of(mixed[:SHOWN], [maps[:SHOWN] for maps in both]))
        Image.fromarray(np.concatenate(rows)).save(args.out)


if __name__ == "__main__":
    main()
