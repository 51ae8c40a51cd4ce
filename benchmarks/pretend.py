"""A contest with known test answers: half of another's labelled training images, distorted.

    python -m benchmarks.pretend ../shared/data/docmix /tmp/doc --damage paper
    python -m benchmarks.seeds /tmp/doc/contest /tmp/doc/answers.csv --seeds 0 1 -- --weights_dir W

You may look at these answers while working. DATA_DIR: train.csv with columns ID and target, and the
images in train/. `benchmarks.damages` lists the recipes; `none` changes nothing. --grey first makes
all images grey, --sides shrinks each to a longer side of its own in that range, training images
too.
"""
import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.damages import DAMAGES
from benchmarks.shift_recovery import halves
from contest.decoding import decode_image
from contest.pixels import shrunk


def as_grey(image):
    return np.array(ImageOps.grayscale(Image.fromarray(image)).convert("RGB"))


def write_pretended(data_dir, folder, damage, seed, is_grey=False, sides_px=None):
    """Write folder/contest from one half and folder/answers.csv for the other.

    damage: of `benchmarks.damages` or None. sides_px: (least, most) of the longer sides to which
    images are shrunk, or None.
    """
    (train, labels), (held, answers) = halves(data_dir, seed)
    contest = folder / "contest"
    # images are never enlarged
    sides = np.linspace(*(sides_px or (10**6, 10**6)), len(train) + len(held)).round().astype(int)
    sides = np.random.default_rng([seed, 1]).permutation(sides)

    def changed(path, side):
        image = shrunk(decode_image(path), side)
        return as_grey(image) if is_grey else image

    is_changed = is_grey or sides_px is not None
    for split, paths, own in (("train", train, sides), ("test", held, sides[len(train):])):
        (contest / split).mkdir(parents=True)
        harm = damage if split == "test" else None
        images = []
        if is_changed or harm:
            images = [changed(path, side) for path, side in zip(paths, own, strict=False)]
        for i, path in enumerate(paths):
            target = contest / split / path.name
            if not images:
                target.write_bytes(path.read_bytes())
                continue
            image = images[i]
            if harm:
                image = harm(image, np.random.default_rng([seed, i]), images)
            Image.fromarray(image).save(target, quality=90 if harm else 95)
    for name, paths, column in (("contest/train.csv", train, labels),
                                ("answers.csv", held, answers), ("contest/sample_submission.csv",
                                                                 held, [labels[0]] * len(held))):
        rows = [f"{path.name},{label}" for path, label in zip(paths, column, strict=True)]
        (folder / name).write_text("\n".join(["ID,target", *rows, ""]), encoding="utf-8")


def add_sides(parser):
    parser.add_argument("--sides", type=int, nargs=2, metavar=("LEAST", "MOST"),
                        help="first shrink each image to a longer side in this range, px")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("folder", type=Path, help="is made, with contest/ and answers.csv in it")
    parser.add_argument("--damage", choices=[*DAMAGES, "none"], default="paper")
    parser.add_argument("--grey", action="store_true")
    add_sides(parser)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_pretended(args.data_dir, args.folder, DAMAGES.get(args.damage), args.seed, args.grey,
                    args.sides)


if __name__ == "__main__":
    main()
