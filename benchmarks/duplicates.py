"""Which copies of an image are found as near-duplicates, and which images are joined falsely?

    python -m benchmarks.duplicates DIR... [--images 150] [--side 280] [--sheets FOLDER]

DIR: a contest folder with images in train/ and test/. Prints the share found of each kind of copy
of images drawn at random, and the pairs found in the set as it is, which a person must judge:
--sheets saves them as FOLDER/NAME.png, each pair side by side as it was matched. Labels and answers
are not read.
"""
import argparse
from pathlib import Path

import cv2
import numpy as np

from contest.audit import Looks, look_of
from contest.decoding import decode_image
from contest.duplicates import near_duplicates
from contest.files import IMAGE_SUFFIXES
from contest.pixels import shrunk
from system.log import Timer
from utils import digest_bytes

AGREEMENT = 0.94            # the product's default
SHEET_PX, SHEET_PAIRS, SHEET_COLUMNS = 90, 400, 8


def cropped(image, left, top, right, bottom):
    """Without these shares of the width and height."""
    height, width = image.shape[:2]
    return image[round(top * height):height - round(bottom * height),
                 round(left * width):width - round(right * width)]


def turned(image, degrees, border=cv2.BORDER_CONSTANT, level=0, scale=1.0):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR,
                          borderMode=border, borderValue=(level,) * 3)


def turned_within(image, degrees):
    """Turned, and enlarged until no corner is empty."""
    height, width = image.shape[:2]
    angle = np.radians(abs(degrees))
    longer = max(height, width) / min(height, width)
    return turned(image, degrees, cv2.BORDER_REFLECT, 0, np.cos(angle) + np.sin(angle) * longer)


def levels(image, factor=1.0, shift=0.0):
    return np.clip(np.rint(image * factor + shift), 0, 255).astype(np.uint8)


def grey(image):
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def halved(image):
    height, width = image.shape[:2]
    return cv2.resize(image, (max(8, width // 2), max(8, height // 2)),
                      interpolation=cv2.INTER_AREA)


def as_jpeg(image, quality):
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def noisy(image, sigma):
    return levels(image + np.random.default_rng(0).normal(0, sigma, image.shape))


COPIES = {
    "mirrored": lambda x: x[:, ::-1],
    "upside down": lambda x: x[::-1],
    "quarter turn": lambda x: np.rot90(x),
    "half turn": lambda x: np.rot90(x, 2),
    "three quarters": lambda x: np.rot90(x, 3),
    "transposed": lambda x: x.swapaxes(0, 1),
    "transposed, half turn": lambda x: np.rot90(x.swapaxes(0, 1), 2),
    "brightness 0.7": lambda x: levels(x, 0.7),
    "brightness 1.2": lambda x: levels(x, 1.2),
    "brightness 1.4": lambda x: levels(x, 1.4),
    "40 levels brighter": lambda x: levels(x, shift=40),
    "crop 2 %": lambda x: cropped(x, 0.02, 0.02, 0.02, 0.02),
    "crop 5 %": lambda x: cropped(x, 0.05, 0.05, 0.05, 0.05),
    "crop 5 % of a corner": lambda x: cropped(x, 0.05, 0.05, 0, 0),
    "turn 3": lambda x: turned(x, 3),
    "turn 5": lambda x: turned(x, 5),
    "turn -5, white": lambda x: turned(x, -5, level=255),
    "turn 5, mirrored edge": lambda x: turned(x, 5, cv2.BORDER_REFLECT_101),
    "turn 5, enlarged": lambda x: turned_within(x, 5),
    "grey": grey,
    "half size": halved,
    "JPEG 50": lambda x: as_jpeg(x, 50),
    "noise 10": lambda x: noisy(x, 10),
    "noise 20": lambda x: noisy(x, 20),
    "mirrored, crop 5 %": lambda x: cropped(x[:, ::-1], 0.05, 0.05, 0.05, 0.05),
    "quarter turn, turn 5": lambda x: turned(np.ascontiguousarray(np.rot90(x)), 5),
    "brightness 1.4, crop 5 %": lambda x: cropped(levels(x, 1.4), 0.05, 0.05, 0.05, 0.05),
}


def looks_of(images):
    """The Looks at images in memory; equal ones count as different files."""
    return Looks.of([look_of(image, digest_bytes(f"{i} ".encode() + image.tobytes()),
                             image.shape[:2]) for i, image in enumerate(images)])


def found_pairs(images, agreement=AGREEMENT, workers=1):
    """((m, 2) rows, (m,) bool) of near-duplicates among images in memory."""
    return near_duplicates(looks_of(images), looks_of([]), images, agreement, workers)


def found_share(images, copy, agreement=AGREEMENT):
    """Share of the images whose copy is found as their near-duplicate."""
    copies = [np.ascontiguousarray(copy(image)) for image in images]
    pairs, _ = found_pairs([*images, *copies], agreement)
    n = len(images)
    return len({i for i, j in pairs.tolist() if j == i + n}) / n


def read_images(folder, side):
    """(names, images) of a contest folder, reduced as in the audit."""
    paths = [path for split in ("train", "test") for path in sorted((folder / split).rglob("*"))
             if path.suffix.lower() in IMAGE_SUFFIXES]
    names = [str(path.relative_to(folder)) for path in paths]
    return names, [shrunk(decode_image(path), side) for path in paths]


def save_sheet(path, images, pairs):
    """A PNG of pairs side by side, at most SHEET_PAIRS, each with its number."""
    def tile(image):
        return cv2.resize(image, (SHEET_PX, SHEET_PX), interpolation=cv2.INTER_AREA)

    cells = []
    for number, (i, j) in enumerate(pairs[:SHEET_PAIRS].tolist()):
        cell = np.hstack([tile(images[i]), tile(images[j])])
        cv2.putText(cell, str(number), (2, SHEET_PX - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4,
                    (255, 0, 0), 1)
        cells.append(np.pad(cell, ((0, 6), (0, 6), (0, 0)), constant_values=255))
    while len(cells) % SHEET_COLUMNS:
        cells.append(np.full_like(cells[0], 255))
    rows = [np.hstack(cells[k:k + SHEET_COLUMNS]) for k in range(0, len(cells), SHEET_COLUMNS)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--images", type=int, default=150, help="that are copied")
    parser.add_argument("--side", type=int, default=280, help="long side in px: 1.25 times the "
                        "network's input")
    parser.add_argument("--agreement", type=float, default=AGREEMENT)
    parser.add_argument("--only", nargs="*", default=list(COPIES), choices=list(COPIES))
    parser.add_argument("--sheets", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    for folder in args.folders:
        names, images = read_images(folder, args.side)
        with Timer() as timer:
            pairs, is_upright = found_pairs(images, args.agreement)
        print(f"{folder.name}: {len(images)} images, {len(pairs)} pairs found, "
              f"{np.count_nonzero(~is_upright)} of them turned, {timer.seconds:.1f} s", flush=True)
        if args.sheets and len(pairs):
            args.sheets.mkdir(parents=True, exist_ok=True)
            save_sheet(args.sheets / f"{folder.name}.png", images, pairs)
            lines = [f"{k} {names[i]} {names[j]}" for k, (i, j) in enumerate(pairs.tolist())]
            (args.sheets / f"{folder.name}.txt").write_text("\n".join(lines) + "\n")

        is_flat = looks_of(images).is_flat
        rows = np.random.default_rng(0).permutation(np.flatnonzero(~is_flat))[:args.images]
        chosen = [images[row] for row in rows.tolist()]
        for name in args.only:
            share = found_share(chosen, COPIES[name], args.agreement)
            print(f"    {name:26} {share:6.1%}", flush=True)


if __name__ == "__main__":
    main()
