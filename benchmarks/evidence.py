"""Do heat maps tell two things in one image apart, in networks of each family, and at what cost?

    python -m benchmarks.evidence ../shared/data/flowers5 OUT.png --classes 1 2

Each backbone learns two classes from half of their training images. Images of the other half, the
left half of one class beside the right half of the other, are then asked for both. Printed are the
accuracy on whole images, the share of a map on the half of its class (mean over 2 n maps, and how
often it is more than half), and what a map takes in predictions. OUT.png has a row for each
backbone: four images, each with both maps.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.shift_recovery import halves
from config import BACKBONES, ModelConfig, build_config
from contest.decoding import decode_image
from data_loader import Batch
from modeling.augment import plain_view
from modeling.compute import Compute
from modeling.evidence import evidence
from modeling.losses import Supervised
from modeling.network import build_network
from modeling.optim import lr_at, make_optimizer, peak_lr, set_lr
from modeling.train import seed_everything, train_step
from modeling.weights import find_weights
from reporting.figures import heated
from system.log import Timer

SHOWN = 4
BATCH_SIZE = 16
CPU = torch.device("cpu")


def images_of(half, classes, square):
    """(N, 3, S, S) uint8 and (N,) index of the class, of (paths, labels)."""
    rows = [(square(decode_image(path)), classes.index(label))
            for path, label in zip(*half, strict=True) if label in classes]
    images, index = zip(*rows, strict=True)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(index)


def learnt(source, images, index, n_steps, seed):
    """A network that has learnt two classes, half of its images mirrored."""
    optim = build_config("quick_test", [f"optim.batch_size={BATCH_SIZE}"]).optim
    seed_everything(seed, "evidence", source.model_name)
    network = build_network(source.model_name, n_classes=2, image_size_px=images.shape[-1],
                            weights=source, model=ModelConfig()).train()
    is_pretrained = source.kind != "random"
    optimizer = make_optimizer(network, optim, is_pretrained)
    peak = peak_lr(network, optim, is_pretrained)
    objective = Supervised(optim, torch.ones(2))
    compute = Compute()
    rng = np.random.default_rng(seed)
    for step in range(n_steps):
        rows = torch.from_numpy(rng.choice(len(index), BATCH_SIZE))
        shown = images[rows].flip(3) if step % 2 else images[rows]
        set_lr(optimizer, lr_at(step, n_steps, optim, peak))
        batch = Batch(shown, F.one_hot(index[rows], 2).float(), torch.ones(BATCH_SIZE), rows)
        train_step(network, objective, optimizer, compute.scaler(CPU), [batch],
                   autocast=compute.autocast(CPU), clip_norm=5.0)
    return network.eval()


def side_by_side(images, index, n, seed):
    """(n, 3, S, S): left the half of an image of class 0, right of one of class 1."""
    rng = np.random.default_rng(seed)
    left, right = (rng.choice(np.flatnonzero(index == k), n) for k in (0, 1))
    middle = images.shape[-1] // 2
    return torch.cat([images[left, ..., :middle], images[right, ..., middle:]], 3)


def maps_of(network, images, k):
    """(n, S, S) of class k."""
    maps = evidence(network, images, torch.full((len(images),), k))
    return F.interpolate(maps[:, None], size=images.shape[2:], mode="bicubic")[:, 0].clamp(min=0)


def cost_of(network, images):
    """Seconds of maps over those of predictions, the least of three times each."""
    def seconds(work):
        timers = []
        for _ in range(3):
            with Timer() as timer:
                work()
            timers.append(timer.seconds)
        return min(timers)

    with torch.inference_mode():
        plain = seconds(lambda: network(images))
    return seconds(lambda: maps_of(network, images, 0)) / plain


def row_of(images, both):
    """(S, W, 3): images, each followed by its maps of both classes."""
    shown = []
    for image, *maps in zip(images.permute(0, 2, 3, 1).numpy(), *both, strict=True):
        shown += [image, *(heated(image, each.numpy()) for each in maps)]
    return np.concatenate(shown, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--classes", nargs=2, required=True, help="as in train.csv")
    parser.add_argument("--backbones", nargs="+", help="the tiny member of each family")
    parser.add_argument("--weights_dir", default="", help="without a file there: random weights")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--n", type=int, default=40, help="images of two halves")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seen, held = (images_of(half, args.classes, plain_view(args.size, "squash"))
                  for half in halves(args.data_dir, args.seed))
    mixed = side_by_side(*held, args.n, args.seed)
    middle = args.size // 2
    rows = []
    print("| backbone | weights | accuracy | mean share | more than half | map, in predictions |\n"
          "|---|---|---|---|---|---|")
    for name in args.backbones or [members[-1] for members in BACKBONES.values()]:
        source = find_weights(name, args.weights_dir, "auto" if args.weights_dir else "off")
        network = learnt(source, *seen, args.steps, args.seed)
        with torch.inference_mode():
            said = torch.cat([network(part).argmax(1) for part in held[0].split(64)])
        both = [maps_of(network, mixed, k) for k in (0, 1)]
        sides = [(both[0][..., :middle], both[0]), (both[1][..., middle:], both[1])]
        share = torch.cat([own.sum((1, 2)) / every.sum((1, 2)).clamp(min=1e-12)
                           for own, every in sides])
        print(f"| {name} | {source.kind} | {(said == held[1]).float().mean():.2f} | "
              f"{share.mean():.2f} | {int((share > 0.5).sum())} of {len(share)} | "
              f"{cost_of(network, mixed[:BATCH_SIZE]):.1f} |", flush=True)
        rows.append(row_of(mixed[:SHOWN], [maps[:SHOWN] for maps in both]))
        Image.fromarray(np.concatenate(rows)).save(args.out)


if __name__ == "__main__":
    main()
