"""Paper, ink and light: what all drawers of the contest share.

A drawer is a function `draw(rng) -> uint8 (H, W, 3) RGB` of a `random.Random`; the image depends on
nothing else. Text uses Pillow's built-in font, so the contest looks the same on every machine.
Lengths are in pixels.
"""
import functools
import math
import random

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# (width, height), each about 261,800 px
PORTRAIT = (443, 591)
LANDSCAPE = (591, 443)
CARD = (612, 432)
BLACK = (0, 0, 0)
DESKS = ((58, 40, 30), (40, 42, 48), (84, 66, 48), (110, 106, 100), (34, 48, 42), (72, 58, 50),
         (26, 26, 30))
DESK_SHARE = 0.6        # forms that show the desk around them
MASKED = "#"            # a grid cell with a sensitive value

_VOCABULARY = """the of and for with from this that patient hospital clinic department treatment
date period number name address issued doctor license insurance amount total charge paid balance due
rate cover share claim office region city street north south east west center general medical record
history chronic acute left right upper lower knee back shoulder spine heart lung liver stomach blood
pressure sugar test image result follow advised rest care weeks days month year visit review surgery
injection physical therapy drug dose daily after meals before sleep tablet capsule syrup purpose
submit company school public service form line item code class type model engine vehicle owner use
seat weight length width height fuel displacement check valid until inspection certify above facts
true hereby apply pursuant article section attached document account bank holder sign seal reference
page copy notice request approval"""
WORDS = _VOCABULARY.split()


@functools.lru_cache(maxsize=64)
def font(size):
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=64)
def cap_font(cap_height):
    """The font whose capitals are `cap_height` high; titles are measured like this."""
    return font(cap_height * 100 / -font(100).getbbox("H", anchor="ls")[1])


@functools.lru_cache(maxsize=4096)
def _picture(word, size):
    """A word and a space after it, as a mask.

    Pasting running text from these is three times as fast as setting it.
    """
    face = font(size)
    mask = Image.new("L", (round(face.getlength(word) + 0.3 * size), math.ceil(1.3 * size)))
    ImageDraw.Draw(mask).text((0, 0), word, fill=255, font=face, stroke_width=0.5)
    return mask


def words(rng, n_chars):
    """Random words of about `n_chars` letters, never longer."""
    text = " ".join(rng.choices(WORDS, k=n_chars // 5 + 1))
    return text[:n_chars].rstrip()


def number(rng, n_digits):
    """An amount such as 12,340."""
    return f"{rng.randrange(10 ** (n_digits - 1), 10 ** n_digits):,}"


def date(rng):
    """A date such as 2019.04.01."""
    return f"{rng.randint(2015, 2024)}.{rng.randint(1, 12):02d}.{rng.randint(1, 28):02d}"


def shade(colour, factor):
    """The colour made darker (factor below 1) or lighter."""
    return tuple(max(0, min(255, round(c * factor))) for c in colour)


def jitter(rng, colour, spread):
    """The colour with each channel moved by up to `spread`."""
    return tuple(max(0, min(255, c + rng.randint(-spread, spread))) for c in colour)


def columns_of(width, *shares):
    """Widths of a table's columns."""
    return [width * share for share in shares]


class Page:
    """A sheet to print on. Methods that move down the page return the y below what they drew."""

    def __init__(self, rng, size, paper, ink=(16, 16, 20)):
        self.rng = rng
        self.ink = ink
        self.width, self.height = size
        if isinstance(paper, tuple):
            self.image = Image.new("RGB", size, paper)
        else:
            self.image = Image.fromarray(paper)
        self.pen = ImageDraw.Draw(self.image)

    def text(self, x, y, text, size=8, ink=None, bold=False, anchor="la"):
        """Write `text`; `size` is a number of pixels or a font."""
        face = font(size) if isinstance(size, (int, float)) else size
        self.pen.text((x, y), text, fill=ink or self.ink, font=face, anchor=anchor,
                      stroke_width=0.4 if bold else 0)

    def prose(self, x, y, width, n_lines, size=8, leading=1.2):
        """Write lines of random words, the last one short."""
        for line in range(n_lines):
            left = x
            right = x + width
            if line == n_lines - 1:
                right = x + width * self.rng.uniform(0.3, 1)
            while (picture := _picture(self.rng.choice(WORDS), size)).width + left <= right:
                self.pen.bitmap((round(left), round(y)), picture, fill=self.ink)
                left += picture.width
            y += size * leading
        return y

    def title(self, x, y, text, cap_height, anchor="m", max_width=None, bold=True):
        """Write a title with capitals `cap_height` high, on two lines if one is too long.

        `anchor`: l (left) or m (centred).
        """
        face = cap_font(cap_height)
        lines = [text]
        if face.getlength(text) > (max_width or self.width * 0.86):
            lines = _halves(text)
        for line in lines:
            y += cap_height
            self.text(x, y, line, face, bold=bold, anchor=anchor + "s")
            y += cap_height * 0.5
        return y

    def box(self, x, y, width, height, fill=None, outline=None, line=1):
        """Draw a rectangle; a line if a side is 0."""
        self.pen.rectangle((x, y, x + width, y + height), fill=fill, outline=outline or self.ink,
                           width=line)

    def band(self, x, y, width, height, fill):
        """Fill a rectangle."""
        self.pen.rectangle((x, y, x + width, y + height), fill=fill)

    def bar(self, x, y, width, height):
        """Cover a name, number or face, as the contest's owner did."""
        self.pen.rectangle((x, y, x + width, y + height), fill=BLACK)

    def office(self, x, y, labels, width, step=17):
        """Say who issued this: labels and bars, since names and licence numbers are sensitive."""
        for label in labels:
            self.text(x, y + 2, label, 9)
            self.bar(x + 50, y, (width - 50) * self.rng.uniform(0.5, 1), step - 4)
            y += step
        return y

    def grid(self, x, y, widths, n_rows, row_height, cell, size=7, heading=None, side=None):
        """Draw a ruled table, column by column.

        `cell(row, column)` returns a text, '' or MASKED. `heading`, `side`: fill of the first row,
        of the first column.
        """
        total = sum(widths)
        height = n_rows * row_height
        if side:
            self.band(x, y, widths[0], height, side)
        if heading:
            self.band(x, y, total, row_height, heading)
        for row in range(n_rows + 1):
            self.box(x, y + row * row_height, total, 0)
        left = x
        for column, width in enumerate(widths):
            self.box(left, y, 0, height)
            for row in range(n_rows):
                self._cell(left, y + row * row_height, width, row_height, cell(row, column), size)
            left += width
        self.box(left, y, 0, height)
        return y + height

    def _cell(self, x, y, width, height, text, size):
        if text == MASKED:
            self.bar(x + 2, y + 1, width * self.rng.uniform(0.6, 0.98) - 4, height - 2)
            return
        if not text:
            return
        text = text[:max(1, int((width - 3) / (0.56 * size)))]
        # pictures of numbers would never be reused
        if not text[0].isalpha():
            self.text(x + 3, y + height / 2, text, size, anchor="lm")
            return
        for word in text.split():
            picture = _picture(word, size)
            top = y + (height - picture.height) / 2
            self.pen.bitmap((round(x + 3), round(top)), picture, fill=self.ink)
            x += picture.width

    def seal(self, x, y, radius, colour=(190, 40, 45), square=False):
        """Draw the stamp of an office or a doctor."""
        shape = self.pen.rectangle if square else self.pen.ellipse
        shape((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2)
        for row in (-0.45, 0.1):
            text = words(self.rng, 6)
            self.text(x, y + row * radius, text, max(6, radius * 0.5), ink=colour, anchor="ma")

    def array(self):
        """The page as uint8 (H, W, 3) RGB."""
        return np.array(self.image)


def _halves(text):
    """The words of `text` on two lines of about equal length."""
    parts = text.split()
    pairs = [(" ".join(parts[:k]), " ".join(parts[k:])) for k in range(1, len(parts))]
    return min(pairs, key=lambda pair: abs(len(pair[0]) - len(pair[1])))


# ---------------------------------------------------------------- light

def natural_tilt(rng):
    """Degrees of tilt of a sheet that is scanned or photographed with care, always under 2."""
    return max(-1.9, min(1.9, rng.gauss(0, 0.6)))


def photograph(rng, image, shadow=0.42):
    """The drawing as a careful person photographs it: a small tilt, a soft shadow on a part."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), natural_tilt(rng), 1)
    image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)

    levels = [[255 * (1 - rng.uniform(0, shadow))] * 3 for _ in range(9)]
    light = np.array(levels, np.float32).reshape(3, 3, 3)
    light = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, light.astype(np.uint8), scale=1 / 255)


def desk(rng, size):
    """The top of a desk, uint8 (H, W, 3)."""
    return surface(rng, size, jitter(rng, rng.choice(DESKS), 15), contrast=0.3)


def photograph_sheet(rng, image):
    """A form as it was handed in: the sheet on a desk, or the sheet alone."""
    if rng.random() < DESK_SHARE:
        image = lay(rng, image, desk(rng, image.shape[1::-1]), share=rng.uniform(0.8, 0.95))
    return photograph(rng, image)


def noise(rng, shape):
    """Uniform bytes of this shape, drawn from the drawer's rng."""
    return np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape)


def surface(rng, size, colour, contrast=0.25):
    """A desk, a wall or a street, uint8 (H, W, 3).

    It has large soft spots of light, a little colour, and half the time a grain along one side.
    """
    # nothing here is sharp, and half the size takes a quarter of the time
    half = (size[0] // 2, size[1] // 2)
    spots = _spread(rng, (5, 5), half)
    if rng.random() < 0.5:
        shape = (half[1], 4) if rng.random() < 0.5 else (4, half[0])
        spots = 0.5 * spots + 0.5 * _spread(rng, shape, half)

    hue = cv2.resize(noise(rng, (3, 3, 3)), half, interpolation=cv2.INTER_LINEAR)
    hue = hue.astype(np.float32) / 127.5 - 1
    factor = 1 + contrast * (spots[..., None] + 0.2 * hue)
    small = np.clip(factor * np.float32(colour), 0, 255).astype(np.uint8)
    return cv2.resize(small, size)


def _spread(rng, shape, size):
    """Noise of a few cells enlarged to `size`, between -1 and 1."""
    cells = cv2.resize(noise(rng, shape), size, interpolation=cv2.INTER_CUBIC)
    return cells.astype(np.float32) / 127.5 - 1


def lay(rng, sheet, ground, share, wobble=0.012):
    """Put a sheet roughly in the middle of a ground, its corners not quite square.

    The sheet fills `share` of the ground's width or height, whichever it reaches first.
    """
    h, w = sheet.shape[:2]
    height, width = ground.shape[:2]
    scale = share * min(width / w, height / h)
    left = (width - scale * w) * rng.uniform(0.25, 0.75)
    top = (height - scale * h) * rng.uniform(0.25, 0.75)
    right = left + scale * w
    bottom = top + scale * h
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    reach = wobble * min(width, height)
    corners = [(x + rng.uniform(-reach, reach), y + rng.uniform(-reach, reach)) for x, y in corners]

    own = np.float32([(0, 0), (w, 0), (w, h), (0, h)])
    matrix = cv2.getPerspectiveTransform(own, np.float32(corners))
    return cv2.warpPerspective(sheet, matrix, (width, height), dst=ground, flags=cv2.INTER_AREA,
                               borderMode=cv2.BORDER_TRANSPARENT)


def paper_colour(rng):
    """Photographed paper is grey and slightly warm or cold, never white."""
    level = rng.randint(212, 242)
    warmth = rng.randint(-6, 10)
    return level + warmth // 2, level, level - warmth


def rng_of(seed):
    """A `random.Random` of this seed."""
    return random.Random(seed)
