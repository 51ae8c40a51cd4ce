"""Numbers -> places on the page. The marks themselves are drawn by report.html.jinja, as inline SVG
and HTML.

    panel = learning_curves({"r0-vit fold 0": [2.0, 1.1, 0.7]}, low=0.5, high=2.2)
"""
import base64
import math

import cv2

THUMBNAIL_PX = 132
STRIP_PX = 192
# of a learning curve, and its margins
PANEL_WIDTH = 320
PANEL_HEIGHT = 190
LEFT = 36
RIGHT = 10
TOP = 10
BOTTOM = 24
# of the reliability figure
SQUARE = 300
EDGE = 36


def place(value, low, high, start, end):
    """Where between start and end a value between low and high lies."""
    return start + (end - start) * (value - low) / max(high - low, 1e-9)


def nice_ticks(low, high, about=4):
    """Round numbers from low to high, about so many."""
    raw = max(high - low, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    return [round(k * step, 10) for k in range(math.ceil(low / step - 1e-6),
                                               math.floor(high / step + 1e-6) + 1)]


def padded(values, share=0.08, limits=(-math.inf, math.inf)):
    """(low, high) around the values with some room, inside the limits."""
    low = min(values)
    high = max(values)
    room = share * (high - low) or 0.05
    return max(limits[0], low - room), min(limits[1], high + room)


def learning_curves(losses, low, high):
    """One panel of {name: loss by epoch}: [(name, SVG points)], ticks of both axes as [(place,
    text)]."""
    most = max(map(len, losses.values()))

    def x(epoch):
        return place(epoch, 1, max(2, most), LEFT, PANEL_WIDTH - RIGHT)

    def y(loss):
        return place(loss, low, high, PANEL_HEIGHT - BOTTOM, TOP)

    epochs = [t for t in nice_ticks(1, max(2, most)) if t == int(t)]
    return {"lines": [(name, " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(fit, 1)))
                      for name, fit in losses.items()],
            "x_ticks": [(round(x(t), 1), f"{t:g}") for t in epochs],
            "y_ticks": [(round(y(t), 1), f"{t:g}") for t in nice_ticks(low, high)]}


def reliability_points(bins):
    """[(x, y, radius, Bin)] in a square whose diagonal is perfect calibration; areas go by counts.
    """
    largest = max(b.count for b in bins)
    return [(round(place(b.confidence, 0, 1, EDGE, SQUARE - 8), 1),
             round(place(b.accuracy, 0, 1, SQUARE - EDGE, 8), 1),
             round(3 + 7 * math.sqrt(b.count / largest), 1), b) for b in bins]


def quantile_bars(values, width=180):
    """{split: (x of the 10, 50 and 90 % quantile)} on one scale for the three splits of a
    statistic."""
    splits = ("train", "test", "matched")
    low, high = (f([f(values[split]) for split in splits]) for f in (min, max))
    return {split: [place(q, low, high, 4, width - 4) for q in values[split]] for split in splits}


def thumbnail(image, side_px=THUMBNAIL_PX):
    """uint8 (H, W, 3) RGB as a small base64 JPEG, its long side at most `side_px`."""
    scale = min(1.0, side_px / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return base64.b64encode(cv2.imencode(".jpg", small[..., ::-1],
                                         [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()).decode()
