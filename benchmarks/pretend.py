"""A contest with known test answers: half of another's labelled training images, distorted.

    python -m benchmarks.pretend ../shared/data/docmix /tmp/doc --damage paper
    python -m benchmarks.seeds /tmp/doc/contest /tmp/doc/answers.csv --seeds 0 1 -- --weights_dir W

You may look at these answers while working. DATA_DIR: train.csv with columns ID and target, and the
images in train/. `benchmarks.damages` lists the recipes; `none` changes nothing. --grey first makes
all images grey, training images too.
"""
import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.damages import DAMAGES
from benchmarks.shift_recovery import halves
from contest.decoding import decode_image


def as_grey(image):
    return np.array(ImageOps.grayscale(Image.fromarray(image)).convert("RGB"))


def write_pretended(data_dir, folder, damage, seed, is_grey=False):
    """Write folder/contest from one half and folder/answers.csv for the other."""
    (train, labels), (held, answers) = halves(data_dir, seed)
    contest = folder / "contest"
    for split in ("train", "test"):
        (contest / split).mkdir(parents=True)
    for path in train:
        if is_grey:
            Image.fromarray(as_grey(decode_image(path))).save(contest / "train" / path.name,
                                                              quality=95)
        else:
            (contest / "train" / path.name).write_bytes(path.read_bytes())
    images = [decode_image(path) for path in held] if damage else []
    images = [as_grey(image) for image in images] if is_grey else images
    for i, path in enumerate(held):
        target = contest / "test" / path.name
        if damage:
            Image.fromarray(damage(images[i], np.random.default_rng([seed, i]),
                                   images)).save(target, quality=90)
        else:
            target.write_bytes(path.read_bytes())
    for name, paths, column in (("contest/train.csv", train, labels),
                                ("answers.csv", held, answers), ("contest/sample_submission.csv",
                                                                 held, [labels[0]] * len(held))):
        rows = [f"{path.name},{label}" for path, label in zip(paths, column, strict=True)]
        (folder / name).write_text("\n".join(["ID,target", *rows, ""]), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("folder", type=Path, help="is made, with contest/ and answers.csv in it")
    parser.add_argument("--damage", choices=[*DAMAGES, "none"], default="paper")
    parser.add_argument("--grey", action="store_true", help="not with --damage none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.grey and args.damage == "none":
        parser.error("--grey needs a --damage")
    write_pretended(args.data_dir, args.folder, DAMAGES.get(args.damage), args.seed, args.grey)


if __name__ == "__main__":
    main()
