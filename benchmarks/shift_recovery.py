"""Does match_shift find a known distortion of half a contest's training images?

    python -m benchmarks.shift_recovery DATA_DIR [--only blur noise] [--seed 0] [--quality 90]

The distorted half plays the test set. DATA_DIR: train.csv with columns ID and target, and the
images in train/. Prints one row per distortion: what was done, what was found, and whether that is
within 0.15 of the probability and 30 % of the range with nothing else over 0.15.
"""
import argparse
import csv
import tempfile
from pathlib import Path

import cv2
import numpy as np

from contest.decoding import decode_image
from shift.distortions import SYMMETRIES, Distortion, ShiftPolicy, distort
from shift.match import match_shift

WHITE, BLACK = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)


def single(*values, **settings):
    return ShiftPolicy((Distortion(*values),), **settings)


CASES = {
    "none": ShiftPolicy(),
    "flip_vertical": single("flip_vertical", 0.5, 0, 0),
    "transpose": single("transpose", 0.5, 0, 0),
    "rotate_white": single("rotate", 1.0, -25, 25, fill=WHITE),
    "rotate_black": single("rotate", 1.0, -25, 25, fill=BLACK),
    "blur_all": single("blur", 1.0, 0.8, 2.0),
    "blur_half": single("blur", 0.5, 0.8, 2.0),
    "downscale": single("downscale", 1.0, 0.25, 0.5),
    "motion_blur": single("motion_blur", 0.5, 6, 14),
    "noise": single("noise", 1.0, 8, 25),
    "grain": single("grain", 0.5, 6, 14),
    "dark": single("brightness", 1.0, 0.5, 0.8),
    "jpeg": single("jpeg", 1.0, 15, 30),
    "ghost": single("ghost", 0.3, 0.2, 0.4),
}


def halves(data_dir, seed):
    """(paths, labels) of two halves of the training images, each class split at random."""
    with open(data_dir / "train.csv", newline="", encoding="utf-8") as f:
        rows = [(data_dir / "train" / row["ID"], row["target"]) for row in csv.DictReader(f)]
    order = np.random.default_rng(seed).permutation(len(rows))
    rows = sorted((rows[i] for i in order), key=lambda row: row[1])
    return [list(zip(*rows[k::2], strict=True)) for k in (0, 1)]


def save_distorted(paths, policy, folder, seed, quality=100):
    """Save the distorted images as JPEG files of that quality, or as PNG files at 100."""
    images = [decode_image(path) for path in paths]
    for i, image in enumerate(images):
        out = distort(image, policy, seed * 100_000 + i, lambda s: images[s % len(images)])
        name = f"{folder}/{i:05}.{'png' if quality == 100 else 'jpg'}"
        cv2.imwrite(name, out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality] if quality < 100
                    else [])
    return sorted(Path(folder).iterdir())


def verdict(true, found):
    """"ok", or what is wrong."""
    wrong = [f"{d.kind} {d.probability:.2f} not there" for d in found.distortions
             if d.probability > 0.15 and true.get(d.kind) is None]
    for d in true.distortions:
        f = found.get(d.kind)
        if f is None:
            wrong.append("not found")
        elif abs(f.probability - d.probability) > 0.15:
            wrong.append(f"probability {f.probability:.2f}")
        elif d.kind not in SYMMETRIES and (abs(f.low - d.low) > 0.3 * abs(d.low)
                                           or abs(f.high - d.high) > 0.3 * d.high):
            wrong.append("range")
    return "; ".join(wrong) or "ok"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quality", type=int, default=100,
                        help="of the JPEG files written; 100: PNG")
    args = parser.parse_args()
    (train, labels), (held, _) = halves(args.data_dir, args.seed)
    print(
        f"{args.data_dir.name}: {len(train)} training images, "
        f"{len(held)} pretended test images, seed {args.seed}"
    )
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            paths = save_distorted(held, CASES[name], folder, args.seed, args.quality)
            report = match_shift(train, labels, paths, seed=args.seed, workers=2)
        found = ", ".join(f"{d.kind} p {d.probability:.2f} {d.low:.3g}..{d.high:.3g}"
                          for d in report.policy.distortions)
        print(
            f"{name:14} {verdict(CASES[name], report.policy):34} "
            f"AUC {report.auc_before['value']:.2f} -> "
            f"{report.auc_after['value']:.2f}  {report.seconds:4.0f} s  {found or 'empty'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
