"""The words in an image: where lines of text are, which way up they read, what they say.

    read = reader()                           # UserError says what to install
    lines = read(rgb, mirrored=True)          # rgb (H, W, 3) uint8 -> [Line], in reading order

Lines are found once in the image as it is. The largest are read in each way that the text may lie,
until one of them is sure, and the others in the same way. RapidOCR's package brings its models;
Tesseract reads the languages whose data the system has. Nothing is fetched or sent.
"""
import csv
import importlib.util
import io
import os
import shutil
import subprocess
from dataclasses import dataclass

import cv2
import numpy as np

from shift.distortions import turn
from utils import UserError, import_extra

DETECT_PX = 640          # long side at which lines are looked for
MOST_LINES = 10          # that are read of an image, the highest: titles are
PROBED = 3               # largest lines, which tell how the text lies
WIDEST = 8               # of a line over its height, as far as it makes it large
SURE = 0.9               # mean confidence of a letter from which no other way is tried
FEWEST_LETTERS = 6       # of the probed lines, for that
WAYS = ("", "rotate_180", "flip_horizontal", "flip_vertical")      # the first two if not mirrored
TESSERACT_HEIGHT_PX = 40     # of a line as Tesseract gets it
TESSERACT_SECONDS = 60
INSTALL = "pip install rapidocr onnxruntime"


@dataclass(frozen=True)
class Line:
    """A line of text. confidence: 0 to 1. place: left, top, right, bottom as shares of the upright
    image."""

    text: str
    confidence: float
    place: tuple[float, float, float, float]


def what_is_missing(language=""):
    """A sentence on what must be installed to read words; '' if nothing."""
    if any(importlib.util.find_spec(name) is None for name in ("rapidocr", "onnxruntime")):
        return f"the words in images are read by an optional package: {INSTALL}"
    if not language:
        return ""
    if shutil.which("tesseract") is None:
        return (f"model.text_language={language} is read by Tesseract, which is not installed: on "
                f"Debian and Ubuntu apt-get install tesseract-ocr-{language.split('+')[0]}")
    said = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True,
                          timeout=TESSERACT_SECONDS, check=False).stdout.split()
    for name in language.split("+"):
        if name not in said:
            return (f"model.text_language={language} needs Tesseract's data of {name!r}: on Debian "
                    f"and Ubuntu apt-get install tesseract-ocr-{name.replace('_', '-')}")
    return ""


def reader(language=""):
    """A function read(rgb, mirrored) -> [Line]. UserError if something is not installed.

    language: Tesseract's names, such as kor+eng; '': RapidOCR's Latin, Chinese and Japanese.
    mirrored: whether the image may be. One thread; may be called in a forked process.
    """
    if missing := what_is_missing(language):
        raise UserError(missing)
    rapidocr = import_extra("rapidocr", "model.text")
    engine = rapidocr.RapidOCR(params={
        "Global.log_level": "critical", "Global.use_cls": False,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        "Det.limit_side_len": DETECT_PX, "Det.limit_type": "max"})

    def boxes(bgr):
        found = engine(bgr, use_det=True, use_cls=False, use_rec=False).boxes
        return np.zeros((0, 4, 2), np.float32) if found is None else np.asarray(found, np.float32)

    def by_rapidocr(crops):
        read = engine.recognize_txt(crops)
        return list(zip(read.txts, map(float, read.scores), strict=True))

    def read(rgb, mirrored):
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        says = (lambda crops: by_tesseract(crops, language)) if language else by_rapidocr
        return lines_of(bgr, boxes, says, mirrored)

    return read


def lines_of(image, find, says, mirrored):
    """[Line] of an image (H, W, 3) uint8, in reading order.

    find(image) -> corners (n, 4, 2) in pixels. says(crops) -> [(text, confidence)].
    """
    scale = DETECT_PX / max(image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    corners = find(cv2.resize(image, size, interpolation=how)) / scale
    crops = [cut_out(image, each) for each in corners]
    order = sorted(range(len(crops)), key=lambda i: -size_of(crops[i][0]))
    probed = order[:PROBED]
    if not probed:
        return []

    best = None
    for way in WAYS if mirrored else WAYS[:2]:
        read = says([turned(crops[i][0], way) for i in probed])
        n_letters = sum(len(text) for text, _ in read)
        score = sum(len(text) * confidence**2 for text, confidence in read)
        if best is None or score > best[0]:
            best = score, way, read
        sure = sum(len(text) * confidence for text, confidence in read)
        if n_letters >= FEWEST_LETTERS and sure >= SURE * n_letters:
            break

    _, way, read = best
    others = sorted(order[PROBED:], key=lambda i: -crops[i][0].shape[0])[:MOST_LINES - PROBED]
    if others:
        read = [*read, *says([turned(crops[i][0], way) for i in others])]
    kept = [*probed, *others]
    on_side = np.mean([crops[i][1] for i in kept]) > 0.5
    lines = [Line(text.strip(), round(confidence, 3),
                  place_of(corners[i], image.shape, on_side, way))
             for i, (text, confidence) in zip(kept, read, strict=True) if text.strip()]
    return sorted(lines, key=lambda line: (round(line.place[1], 2), line.place[0]))


def size_of(crop):
    """What makes a line large: its area, as far as it is not long."""
    height, width = crop.shape[:2]
    return height * min(width, WIDEST * height)


def turned(crop, way):
    return np.ascontiguousarray(turn(crop, way))


def cut_out(image, corners):
    """(The line within four corners (4, 2) as an upright rectangle, whether it stood on its side).
    """
    width = max(1, round(max(np.linalg.norm(corners[0] - corners[1]),
                             np.linalg.norm(corners[2] - corners[3]))))
    height = max(1, round(max(np.linalg.norm(corners[0] - corners[3]),
                              np.linalg.norm(corners[1] - corners[2]))))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    crop = cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_CUBIC,
                               borderMode=cv2.BORDER_REPLICATE)
    on_side = height >= 1.5 * width
    return (cv2.rotate(crop, cv2.ROTATE_90_COUNTERCLOCKWISE) if on_side else crop), on_side


def place_of(corners, shape, on_side, way):
    """(left, top, right, bottom) of corners (4, 2) in the image once it is upright, as shares."""
    x, y = np.clip(corners / (shape[1], shape[0]), 0, 1).T
    if on_side:      # turned back by 90 degrees against the clock
        x, y = y, 1 - x
    if way in ("rotate_180", "flip_horizontal"):
        x = 1 - x
    if way in ("rotate_180", "flip_vertical"):
        y = 1 - y
    return tuple(round(float(value), 3) for value in (x.min(), y.min(), x.max(), y.max()))


# ---------------------------------------------------------------- Tesseract

def by_tesseract(crops, language):
    """[(text, confidence)] of lines (H, W, 3), read as one page, a line below the other."""
    page, tops = page_of(crops)
    _, png = cv2.imencode(".png", page)
    command = ["tesseract", "stdin", "stdout", "-l", language, "--psm", "6", "tsv"]
    done = subprocess.run(command, input=png.tobytes(), capture_output=True, check=True,
                          timeout=TESSERACT_SECONDS,
                          env={**os.environ, "OMP_THREAD_LIMIT": "1"})
    words = [[] for _ in crops]
    rows = csv.DictReader(io.StringIO(done.stdout.decode("utf-8", "replace")), delimiter="\t",
                          quoting=csv.QUOTE_NONE)
    for row in rows:
        if row["level"] == "5" and row["text"].strip():
            middle = int(row["top"]) + int(row["height"]) / 2
            line = int(np.searchsorted(tops, middle, side="right")) - 1
            words[max(0, line)].append((int(row["left"]), row["text"], float(row["conf"]) / 100))
    return [joined(sorted(each)) for each in words]


def joined(words):
    """(text, confidence) of [(left, word, confidence)] of a line: the mean of its letters."""
    text = " ".join(word for _, word, _ in words)
    n_letters = sum(len(word) for _, word, _ in words)
    sure = sum(len(word) * confidence for _, word, confidence in words)
    return text, max(0.0, sure / n_letters) if words else 0.0


def page_of(crops):
    """(Lines of one height below each other on white (H, W, 3), the row at which each begins)."""
    high = TESSERACT_HEIGHT_PX
    each = [cv2.resize(crop, (max(1, round(crop.shape[1] * high / crop.shape[0])), high),
                       interpolation=cv2.INTER_CUBIC) for crop in crops]
    gap = high // 2
    page = np.full((len(each) * (high + 2 * gap), max(line.shape[1] for line in each) + 2 * high,
                    3), 255, np.uint8)
    tops = []
    for number, line in enumerate(each):
        top = number * (high + 2 * gap)
        tops.append(top)
        page[top + gap:top + gap + high, high:high + line.shape[1]] = line
    return page, tops
