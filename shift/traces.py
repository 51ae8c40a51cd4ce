"""What an image tells about how it was made, whatever it shows: statistics for shift.match.

    names, row = zip(*statistics(image).items())      # (H, W, 3) uint8 -> 117 numbers

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
    return {**size_statistics(image), **tone_statistics(image, grey),
            **sharpness_statistics(grey, g), **noise_statistics(image, g),
            **block_statistics(grey, g), **direction_statistics(g), **border_statistics(grey)}


def log(x):
    return np.log(np.maximum(x, 1e-3))


def size_statistics(image):
    h, w = image.shape[:2]
    return {"log_aspect": math.log(w / h), "log_side": math.log(max(h, w))}


def tone_statistics(image, grey):
    histogram = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel() / grey.size
    cumulative = np.cumsum(histogram)
    mean, std = cv2.meanStdDev(grey)

    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    small = small.reshape(-1, 3).astype(np.float32)
    red, green, blue = small.T
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    bright = small[np.argsort(value)[-200:]].mean(0)
    return {
        "brightness": mean[0, 0], "contrast": std[0, 0],
        **{f"grey_q{q}": np.searchsorted(cumulative, q / 100) for q in (2, 10, 25, 50, 75, 90, 98)},
        "share_0": histogram[0], "share_255": histogram[255],
        "share_dark": cumulative[12], "share_bright": 1 - cumulative[242],
        "levels": (histogram > 0).sum(),
        "saturation": np.mean(chroma / (value + 1)),
        "colourful": np.mean(chroma),
        "red_green": np.mean(red - green),
        "blue_green": np.mean(blue - green),
        **light_statistics(small.mean(1).reshape(32, 32)),
        "bright_red_green": bright[0] - bright[1], "bright_blue_green": bright[2] - bright[1],
    }


def light_statistics(small):
    """How unevenly an image is lit: by the halves of a (32, 32) copy, and by its best plane."""
    rows = small.mean(1) + 4
    columns = small.mean(0) + 4
    vertical = abs(math.log(rows[:16].mean() / rows[16:].mean()))
    horizontal = abs(math.log(columns[:16].mean() / columns[16:].mean()))
    ramp = np.linspace(-1, 1, 32)
    slope = math.hypot(ramp @ rows, ramp @ columns) / (ramp @ ramp)
    return {"lit_most": max(vertical, horizontal), "lit_least": min(vertical, horizontal),
            "lit_slope": slope / (small.std() + 4)}


def sharpness_statistics(grey, g):
    """Laplacian variance at three scales; how differences grow with distance in four directions."""
    values = {}
    level = g
    for scale in (1, 2, 4):
        _, std = cv2.meanStdDev(cv2.Laplacian(level, cv2.CV_32F))
        values[f"log_laplacian_{scale}"] = log(std[0, 0] ** 2)
        if min(level.shape) > 8:
            level = cv2.resize(level, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)

    for name, (dy, dx) in {"x": (0, 1), "y": (1, 0), "d": (1, 1), "e": (1, -1)}.items():
        steps = [step(grey, k * dy, k * dx) for k in (1, 2, 4)]
        near, mid, far = (log(cv2.mean(s)[0]) for s in steps)
        values[f"log_step_{name}"] = near
        values[f"grow2_{name}"] = mid - near
        values[f"grow4_{name}"] = far - mid
        values[f"edge_{name}"] = quantile(steps[0][::3, ::3], 0.99)
        values[f"equal_{name}"] = 1 - cv2.countNonZero(steps[0]) / steps[0].size
    return values


def quantile(values, q):
    """The quantile of uint8 values."""
    k = int(q * (values.size - 1))
    return np.searchsorted(np.cumsum(np.bincount(values.ravel())), k, "right")


def step(grey, dy, dx):
    """(H - dy, W - |dx|) absolute differences of pixels (dy, dx) apart."""
    h, w = grey.shape
    a = grey[:h - dy]
    b = grey[dy:]
    if dx >= 0:
        return cv2.absdiff(a[:, :w - dx], b[:, dx:])
    return cv2.absdiff(a[:, -dx:], b[:, :w + dx])


def noise_statistics(image, g):
    """Immerkaer's noise estimate (1996), and high-frequency energy in the flattest tiles, both grey
    and colour."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    red = cv2.extractChannel(image, 0)
    green = cv2.extractChannel(image, 1)
    planes = {
        "flat": g,
        "noise": cv2.filter2D(g, -1, mask),
        "colour_noise": cv2.filter2D(cv2.subtract(red, green, dtype=cv2.CV_32F), -1, mask),
    }

    values = {}
    for name, plane in planes.items():
        std = np.sort(tile_std(plane, 8).ravel())
        for q in (2, 10, 25, 50, 75, 95):
            values[f"log_{name}_q{q}"] = log(std[int(q / 100 * (len(std) - 1))])
        if name == "flat":
            values["blank_share"] = np.searchsorted(std, 3) / len(std)
            values["constant_share"] = np.searchsorted(std, 0.05) / len(std)
        else:
            values[f"log_{name}"] = log(cv2.mean(cv2.absdiff(plane, 0))[0] * 1.2533)

    lonely = cv2.absdiff(green, cv2.medianBlur(green, 3))
    for levels in (40, 100):
        values[f"log_lonely_{levels}"] = log(cv2.countNonZero(lonely // levels) / lonely.size)
    return values


def tile_std(plane, side):
    """Standard deviation within each tile of side x side pixels."""
    columns = max(1, plane.shape[1] // side)
    rows = max(1, plane.shape[0] // side)
    plane = plane[:rows * side, :columns * side]
    mean = cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_AREA)
    square = cv2.resize(plane * plane, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.sqrt(np.maximum(square - mean * mean, 0))


# (8, 8) matrix of the discrete cosine transform, row k is frequency k
DCT = np.array([[math.sqrt((2 if k else 1) / 8) * math.cos(math.pi * (2 * i + 1) * k / 16)
                 for i in range(8)] for k in range(8)], np.float32)
BAND = np.add.outer(np.arange(8), np.arange(8))    # the diagonal of each coefficient


def mean_of_lines(values, across):
    """Means of uint8 columns, or of rows if `across`."""
    sums = cv2.reduce(values, across, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    return (sums / values.shape[across]).astype(np.float32)


def block_statistics(grey, g):
    """JPEG: steps at the 8-pixel grid against steps elsewhere; the size of coefficients, and the
    share of zeros, by diagonals of the block."""
    values = {}
    for name, (dy, dx) in {"x": (0, 1), "y": (1, 0)}.items():
        d = mean_of_lines(step(grey, dy, dx), across=dy)
        on_grid = d[7::8].sum() / max(1, len(d) // 8)
        values[f"blocking_{name}"] = log(on_grid / (d.mean() + 1e-3))

    h = g.shape[0] // 8
    w = g.shape[1] // 8
    columns = (DCT @ g[:8 * h, :8 * w].reshape(h, 8, 8 * w)).reshape(-1, 8)
    coefficients = cv2.absdiff(columns @ DCT.T, 0).reshape(h, 8, w, 8)
    energy = coefficients.mean((0, 2))
    is_zero = (coefficients < 1).view(np.uint8).reshape(h, 64 * w)
    zero = cv2.reduce(is_zero, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    zero = zero.reshape(8, w, 8).sum(1) / (h * w)
    for low, high in ((1, 2), (3, 4), (5, 6), (7, 9), (10, 14)):
        band = (low <= BAND) & (high >= BAND)
        values[f"log_dct_{low}"] = log(energy[band].mean())
        values[f"zero_dct_{low}"] = zero[band].mean()
    return values


def direction_statistics(g):
    """Moments of the gradient's direction: order 4 shows a tilt modulo 90 degrees, order 2 modulo
    180."""
    smooth = cv2.resize(g, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    magnitude, angle = cv2.cartToPolar(dx, dy)
    bins = (angle.ravel() * (90 / math.pi)).astype(int) % 90      # of 2 degrees, modulo 180
    histogram = np.bincount(bins, magnitude.ravel(), 90)
    histogram /= histogram.sum() + 1e-3

    theta = np.arange(90) * math.pi / 45
    values = {}
    for order in (1, 2, 4, 6):
        moment = np.sum(histogram * np.exp(1j * order * theta))
        values[f"turn{order}_cos"] = moment.real
        values[f"turn{order}_sin"] = moment.imag
        values[f"turn{order}"] = abs(moment)

    quarter = histogram.reshape(2, 45).sum(0)
    peak = quarter + np.roll(quarter, 1) + np.roll(quarter, -1)
    best = int(np.argmax(peak))
    values["tilt"] = (best if best < 23 else best - 45) * 2.0
    values["tilt_peak"] = peak[best]
    return values


def border_statistics(grey):
    """Outline and corners. Runs of one colour from a corner along its two sides are the legs of a
    rotation's wedge."""
    scale = 96 / max(grey.shape)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32)
    outline = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    values = {
        "outline_white": (outline > 235).mean(), "outline_black": (outline < 20).mean(),
        "outline_mean": outline.mean(), "outline_std": outline.std(),
    }

    areas = []
    tilts = []
    corners = {
        "tl": (small, 1), "tr": (small[:, ::-1], -1),
        "bl": (small[::-1], -1), "br": (small[::-1, ::-1], 1),
    }
    for name, (view, sign) in corners.items():
        x = run_length(view[0])
        y = run_length(view[:, 0])
        tilt = math.degrees(math.atan2(y, x))
        tilts.append(sign * (tilt if tilt < 45 else tilt - 90))
        areas.append(x * y)
        values[f"corner_{name}"] = view[:3, :3].mean()
        values[f"leg_x_{name}"] = x / 96
        values[f"leg_y_{name}"] = y / 96

    # the median tilt, weighted by area
    order = np.argsort(tilts)
    middle = np.searchsorted(np.cumsum(np.array(areas)[order]), sum(areas) / 2)
    values["wedge_tilt"] = tilts[order[min(middle, 3)]]
    values["wedge_area"] = log(sum(areas))
    values["wedge_spread"] = np.std(tilts)
    return values


def run_length(line, tolerance=16):
    """Pixels from the start of `line` that keep its first colour."""
    off = np.abs(line - line[:2].mean()) > tolerance
    return int(np.argmax(off)) if off.any() else len(line)


def statistic_names():
    """The names of `statistics`, in the order of a row."""
    # not computed at import: OpenCV would start threads, which no process that forks later survives
    return tuple(statistics(np.zeros((8, 8, 3), np.uint8)))


# ---------------------------------------------------------------- how the file was saved

def jpeg_quality(data):
    """libjpeg's quality 1..100, by the file's first quantization table; 100 if it is no JPEG."""
    with Image.open(io.BytesIO(data)) as image:
        tables = getattr(image, "quantization", None)
    if not tables:
        return 100
    scale = 100 * sum(tables[0]) / LUMINANCE_TABLE_SUM
    quality = 100 - scale / 2 if scale <= 100 else 5000 / scale
    return int(np.clip(round(quality), 1, 99))
