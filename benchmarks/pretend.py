"""A contest with known test answers: half of another's labelled training images, distorted.

    python -m benchmarks.pretend ../shared/data/docmix /tmp/doc --damage paper
    python -m benchmarks.seeds /tmp/doc/contest /tmp/doc/answers.csv --seeds 0 1 -- --weights_dir W

You may look at these answers while working. DATA_DIR: train.csv with columns ID and target, and the
images in train/. None of the distortions is the product's own: `paper` is that of the embedded
contest's test set, `phone` and `street` use Pillow, `scan` is noise of one channel, `none` changes
nothing. --grey first makes all images grey, training images too.
"""
import argparse
import io
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from benchmarks.shift_recovery import halves
from contest.decoding import decode_image
from demo_contest.distort import apply, draw_distortion, needs_other


def paper(image, rng, others):
    distortion = draw_distortion(random.Random(int(rng.integers(2**31))))
    return apply(distortion, image, others[rng.integers(len(others))] if needs_other(distortion)
                 else None)


def phone(image, rng, others):
    """Turned on black, blurred, dark, flat, with dead pixels, and saved small."""
    picture = Image.fromarray(image)
    if rng.random() < 0.6:
        picture = picture.rotate(rng.uniform(-30, 30), resample=Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.4, 0.9))
    image = np.array(ImageEnhance.Contrast(picture).enhance(rng.uniform(0.6, 1.1)))
    if rng.random() < 0.4:
        where, share = rng.random(image.shape[:2]), rng.uniform(0.01, 0.06)
        image[where < share / 2], image[where > 1 - share / 2] = 0, 255
    coded = io.BytesIO()
    Image.fromarray(image).save(coded, "JPEG", quality=int(rng.uniform(25, 60)))
    return np.array(Image.open(coded))


def street(image, rng, others):
    """Seen at a slant, grey, moved or in large pixels, in a shadow, behind a post."""
    picture = Image.fromarray(image)
    width, height = picture.size
    if rng.random() < 0.7:
        corners = (
            np.array([(0, 0), (0, height), (width, height), (width, 0)])
            + rng.uniform(-0.12, 0.12, (4, 2)) * picture.size
        )
        picture = picture.transform(picture.size, Image.Transform.QUAD, corners.ravel().tolist(),
                                    Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
    if rng.random() < 0.3:
        picture = ImageOps.grayscale(picture).convert("RGB")
    if (seen := rng.random()) < 0.2:
        picture = picture.filter(ImageFilter.Kernel((5, 5), np.eye(5).ravel().tolist(), 5))
    elif seen < 0.4:
        factor = rng.uniform(2, 5)
        small = picture.resize((max(1, round(width / factor)), max(1, round(height / factor))),
                               Image.Resampling.NEAREST)
        picture = small.resize((width, height), Image.Resampling.NEAREST)
    image = np.array(picture, dtype=np.float32)
    if rng.random() < 0.6:
        shadow = np.linspace(1, rng.uniform(0.2, 0.7), width)[::rng.choice([-1, 1])]
        image *= shadow[:, None]
    if rng.random() < 0.4:
        left, share = rng.uniform(0, 0.8), rng.uniform(0.05, 0.2)
        image[:, int(left * width):int((left + share) * width)] = rng.uniform(0, 255, 3)
    return image.astype(np.uint8)


def scan(image, rng, others):
    """Every other image with noise that is equal in all channels."""
    if rng.random() < 0.5:
        return image
    noise = rng.normal(0, rng.uniform(8, 25), (*image.shape[:2], 1))
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


DAMAGES = {"paper": paper, "phone": phone, "street": street, "scan": scan, "none": None}


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
    parser.add_argument("--damage", choices=list(DAMAGES), default="paper")
    parser.add_argument("--grey", action="store_true", help="not with --damage none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.grey and args.damage == "none":
        parser.error("--grey needs a --damage")
    write_pretended(args.data_dir, args.folder, DAMAGES[args.damage], args.seed, args.grey)


if __name__ == "__main__":
    main()
