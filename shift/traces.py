"""What an image tells about how it was made, whatever it shows: statistics for modeling.shift.

    names, row = zip(*statistics(image).items())      # (H, W, 3) uint8 -> 107 numbers

About 5 ms an image of 336 px on one core.
"""
import io
import math

import cv2
import numpy as np
from PIL import Image

LUMINANCE_TABLE_SUM = 3688  # of libjpeg's table at quality 50


def statistics(image):
    """{name: value} of an (H, W, 3) uint8 image: no content, only how the picture was made."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    g = grey.astype(np.float32)
    return {**size_statistics(image), **tone_statistics(image, grey), **sharpness_statistics(g),
            **noise_statistics(image, g), **block_statistics(g), **direction_statistics(g),
            **border_statistics(grey)}


def log(x):
    return np.log(np.maximum(x, 1e-3))


def size_statistics(image):
    h, w = image.shape[:2]
    return {"log_aspect": math.log(w / h), "log_side": math.log(max(h, w))}


def tone_statistics(image, grey):
    histogram = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel() / grey.size
    cumulative = np.cumsum(histogram)
    quantiles = np.searchsorted(cumulative, (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98))
    mean, std = cv2.meanStdDev(grey)
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).reshape(-1,
                                                                              3).astype(np.float32)
    value = small.max(1)
    bright = small[np.argsort(value)[-200:]].mean(0)
    return {"brightness": mean[0, 0], "contrast": std[0, 0],
            **{f"grey_q{q}": v for q, v in zip((2, 10, 25, 50, 75, 90, 98), quantiles,
                                               strict=True)}, "share_0": histogram[0],
            "share_255": histogram[255], "share_dark": cumulative[12],
            "share_bright": 1 - cumulative[242], "levels": (histogram > 0).sum(),
            "saturation": np.mean((value - small.min(1)) / (value + 1)),
            "colourful": np.mean(value - small.min(1)),
            "red_green": np.mean(small[:, 0] - small[:, 1]),
            "blue_green": np.mean(small[:, 2] - small[:, 1]),
            "bright_red_green": bright[0] - bright[1], "bright_blue_green": bright[2] - bright[1]}


def sharpness_statistics(g):
    """Laplacian variance at three scales, and how differences grow with distance in four
    directions."""
    values = {}
    level = g
    for scale in (1, 2, 4):
        values[f"log_laplacian_{scale}"] = log(cv2.meanStdDev(cv2.Laplacian(level,
                                                                            cv2.CV_32F))[1][0,
                                                                                            0] ** 2)
        level = cv2.resize(level, None, fx=0.5, fy=0.5,
                           interpolation=cv2.INTER_AREA) if min(level.shape) > 8 else level
    for name, direction in {"x": (0, 1), "y": (1, 0), "d": (1, 1), "e": (1, -1)}.items():
        near, mid, far = (step(g, k * direction[0], k * direction[1]) for k in (1, 2, 4))
        means = [log(cv2.mean(s)[0]) for s in (near, mid, far)]
        values |= {f"log_step_{name}": means[0], f"grow2_{name}": means[1] - means[0],
                   f"grow4_{name}": means[2] - means[1], f"edge_{name}": quantile(near[::3, ::3],
                                                                                  0.99)}
    return values


def quantile(values, q):
    k = int(q * (values.size - 1))
    return np.partition(values.ravel(), k)[k]


def step(g, dy, dx):
    """|difference| between pixels that far apart."""
    h, w = g.shape
    a = g[:h - dy]
    b = g[dy:]
    return cv2.absdiff(a[:, :w - dx], b[:, dx:]) if dx >= 0 else cv2.absdiff(a[:, -dx:],
                                                                             b[:, :w + dx])


def noise_statistics(image, g):
    """Immerkaer's noise estimate (1996), and high-frequency energy in the flattest tiles, grey and
    colour."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    red = cv2.extractChannel(image, 0)
    green = cv2.extractChannel(image, 1)
    planes = {"flat": g, "noise": cv2.filter2D(g, -1, mask),
              "colour_noise": cv2.filter2D(cv2.subtract(red, green, dtype=cv2.CV_32F), -1, mask)}
    values = {}
    for name, plane in planes.items():
        std = np.sort(tile_std(plane, 8).ravel())
        values |= {f"log_{name}_q{q}": log(std[int(q / 100 * (len(std) - 1))]) for q in (2, 10, 25,
                                                                                         50, 75,
                                                                                         95)}
        if name == "flat":
            values["blank_share"] = np.searchsorted(std, 3) / len(std)
        else:
            values[f"log_{name}"] = log(cv2.mean(cv2.absdiff(plane, 0))[0] * 1.2533)
    return values


def tile_std(plane, side):
    """Standard deviation within each tile of side x side pixels."""
    size = (max(1, plane.shape[1] // side), max(1, plane.shape[0] // side))
    plane = plane[:size[1] * side, :size[0] * side]
    mean, square = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (plane,
                                                                                plane * plane))
    return np.sqrt(np.maximum(square - mean * mean, 0))


DCT = np.array([[math.sqrt((2 if k else 1) / 8) * math.cos(math.pi * (2 * i + 1) * k / 16)
                 for i in range(8)] for k in range(8)], np.float32)
BAND = np.add.outer(np.arange(8), np.arange(8))


def block_statistics(g):
    """JPEG: steps at the 8-pixel grid against steps elsewhere; zero and mean coefficients by
    diagonal of the block."""
    dx = np.abs(np.diff(g, axis=1)).mean(0)
    dy = np.abs(np.diff(g, axis=0)).mean(1)
    on_grid = {"x": dx[7::8].sum() / max(1, len(dx) // 8),
               "y": dy[7::8].sum() / max(1, len(dy) // 8)}
    values = {f"blocking_{name}": log(on_grid[name] / (d.mean() + 1e-3)) for name,
              d in (("x", dx), ("y", dy))}
    h = g.shape[0] // 8
    w = g.shape[1] // 8
    columns = (DCT @ g[:8 * h, :8 * w].reshape(h, 8, 8 * w)).reshape(-1, 8)
    coefficients = cv2.absdiff(columns @ DCT.T, 0).reshape(h, 8, w, 8)
    energy = coefficients.mean((0, 2))
    zero = (coefficients < 1).mean((0, 2))
    for low, high in ((1, 2), (3, 4), (5, 6), (7, 9), (10, 14)):
        band = (low <= BAND) & (high >= BAND)
        values |= {f"log_dct_{low}": log(energy[band].mean()), f"zero_dct_{low}": zero[band].mean()}
    return values


def direction_statistics(g):
    """Moments of the gradient's direction: order 4 knows a tilt modulo 90 degrees, order 2 modulo
    180."""
    smooth = cv2.resize(g, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    magnitude, angle = cv2.cartToPolar(cv2.Sobel(smooth, cv2.CV_32F, 1, 0),
                                       cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    histogram = np.bincount((angle.ravel() * (90 / math.pi)).astype(int) % 90, magnitude.ravel(),
                            90)
    histogram /= histogram.sum() + 1e-3
    theta = np.arange(90) * math.pi / 45
    values = {}
    for order in (1, 2, 4, 6):
        moment = np.sum(histogram * np.exp(1j * order * theta))
        values |= {f"turn{order}_cos": moment.real, f"turn{order}_sin": moment.imag,
                   f"turn{order}": abs(moment)}
    quarter = histogram.reshape(2, 45).sum(0)
    peak = quarter + np.roll(quarter, 1) + np.roll(quarter, -1)
    best = int(np.argmax(peak))
    return values | {"tilt": (best if best < 23 else best - 45) * 2.0, "tilt_peak": peak[best]}


def border_statistics(grey):
    """Outline and corners: runs of one colour from a corner along its two sides are the legs of a
    rotation's wedge."""
    scale = 96 / max(grey.shape)
    small = cv2.resize(grey, None, fx=scale, fy=scale,
                       interpolation=cv2.INTER_AREA).astype(np.float32)
    outline = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    values = {"outline_white": (outline > 235).mean(), "outline_black": (outline < 20).mean(),
              "outline_mean": outline.mean(), "outline_std": outline.std()}
    area = []
    tilts = []
    corners = {"tl": (small, 1), "tr": (small[:, ::-1], -1), "bl": (small[::-1], -1),
               "br": (small[::-1, ::-1], 1)}
    for name, (view, sign) in corners.items():
        a = run_length(view[0])
        b = run_length(view[:, 0])
        t = math.degrees(math.atan2(b, a))
        tilts.append(sign * (t if t < 45 else t - 90))
        area.append(a * b)
        values |= {f"corner_{name}": view[:3, :3].mean(), f"leg_x_{name}": a / 96,
                   f"leg_y_{name}": b / 96}
    order = np.argsort(tilts)
    middle = np.searchsorted(np.cumsum(np.array(area)[order]), sum(area) / 2)
    return values | {"wedge_tilt": tilts[order[min(middle, 3)]], "wedge_area": log(sum(area)),
                     "wedge_spread": np.std(tilts)}


def run_length(line, tolerance=16):
    """Pixels from the start of `line` that keep its first colour."""
    off = np.abs(line - line[:2].mean()) > tolerance
    return int(np.argmax(off)) if off.any() else len(line)


# ---------------------------------------------------------------- how the file was saved

def jpeg_quality(data):
    """libjpeg's quality 1..100 by the file's first quantization table; 100 for anything else than a
    JPEG."""
    with Image.open(io.BytesIO(data)) as image:
        tables = getattr(image, "quantization", None)
    if not tables:
        return 100
    scale = 100 * sum(tables[0]) / LUMINANCE_TABLE_SUM
    return int(np.clip(round(100 - scale / 2 if scale <= 100 else 5000 / scale), 1, 99))
