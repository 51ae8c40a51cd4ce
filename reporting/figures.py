"""Numbers -> places on the page. report.html.jinja draws the marks, as inline SVG and HTML.

    panel = learning_curves({"r0-vit fold 0": [(1, 2.0), (2, 1.1)]}, low=0.5, high=2.2)
"""
import base64
import math

import cv2
import numpy as np

THUMBNAIL_PX = 132
STRIP_PX = 192
WHOLE_PX = 400           # of an image that is shown whole at a click
WHOLE_BYTES = 14_000     # of its JPEG: the page shows up to MOST_SUSPECTS and others

# a panel of learning curves and its margins, px
PANEL_WIDTH = 320
PANEL_HEIGHT = 190
LEFT = 36
RIGHT = 10
TOP = 10
BOTTOM = 24

# the reliability figure and its margin, px
SQUARE = 300
EDGE = 36


def place(value, low, high, start, end):
    """Map a value between low and high to a place between start and end."""
    return start + (end - start) * (value - low) / max(high - low, 1e-9)


def nice_ticks(low, high, about=4):
    """Round numbers from low to high, `about` of them."""
    raw = max(high - low, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(raw))
    steps = [m * power for m in (1, 2, 5, 10)]
    step = min(steps, key=lambda s: abs(math.log(s / raw)))
    first = math.ceil(low / step - 1e-6)
    last = math.floor(high / step + 1e-6)
    return [round(k * step, 10) for k in range(first, last + 1)]


def padded(values, share=0.08, limits=(-math.inf, math.inf)):
    """(low, high) around the values with some room, within the limits."""
    low = min(values)
    high = max(values)
    room = share * (high - low) or 0.05
    return max(limits[0], low - room), min(limits[1], high + room)


def learning_curves(curves, low, high):
    """One panel of {name: [(epoch, value)]}: lines [(name, SVG points)], ticks [(place, text)]."""
    last = max(2, *(points[-1][0] for points in curves.values()))

    def x(epoch):
        return place(epoch, 1, last, LEFT, PANEL_WIDTH - RIGHT)

    def y(value):
        return place(value, low, high, PANEL_HEIGHT - BOTTOM, TOP)

    def points(fit):
        return " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in fit)

    epochs = [t for t in nice_ticks(1, last) if t == int(t)]
    return {
        "lines": [(name, points(fit)) for name, fit in curves.items()],
        "x_ticks": [(round(x(t), 1), f"{t:g}") for t in epochs],
        "y_ticks": [(round(y(t), 1), f"{t:g}") for t in nice_ticks(low, high)],
    }


def reliability_points(bins):
    """[(x, y, radius, Bin)] in a square whose diagonal is perfect calibration.

    The radius grows with the square root of the count.
    """
    largest = max(b.count for b in bins)
    points = []
    for b in bins:
        x = place(b.confidence, 0, 1, EDGE, SQUARE - 8)
        y = place(b.accuracy, 0, 1, SQUARE - EDGE, 8)
        radius = 3 + 7 * math.sqrt(b.count / largest)
        points.append((round(x, 1), round(y, 1), round(radius, 1), b))
    return points


def quantile_bars(values, width=180):
    """{split: [x of its 10, 50 and 90 % quantile]}, one scale for the splits of a statistic."""
    splits = ("train", "test", "matched")
    low = min(min(values[split]) for split in splits)
    high = max(max(values[split]) for split in splits)
    return {split: [place(q, low, high, 4, width - 4) for q in values[split]] for split in splits}


def thumbnail(image, side_px=THUMBNAIL_PX):
    """uint8 (H, W, 3) RGB as a small base64 JPEG, its long side at most `side_px`."""
    return base64.b64encode(jpeg_of(image, side_px)).decode()


def whole(image):
    """uint8 (H, W, 3) RGB as a base64 JPEG of at most WHOLE_PX and WHOLE_BYTES."""
    side_px = WHOLE_PX
    while len(jpeg := jpeg_of(image, side_px)) > WHOLE_BYTES and side_px > THUMBNAIL_PX / 2:
        side_px = 0.8 * min(side_px, max(image.shape[:2]))
    return base64.b64encode(jpeg).decode()


def heated(image, values):
    """uint8 (S, S, 3) RGB with a map (S, S) over it: grey where it is lowest, glowing where it is
    highest."""
    values = np.clip(values, 0, None)
    share = values / max(float(values.max()), 1e-12)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    colours = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    alpha = 0.75 * share[..., None]
    return ((1 - alpha) * grey + alpha * colours).astype(np.uint8)


def jpeg_of(image, side_px):
    """The bytes of a JPEG, its long side at most `side_px`."""
    scale = min(1.0, side_px / max(image.shape[:2]))
    width = max(1, round(image.shape[1] * scale))
    height = max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return jpeg.tobytes()
