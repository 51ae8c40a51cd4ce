"""Classes 0, 2 and 16: a note with an account number, a car's dashboard, the front of a car."""
import math

import cv2

from .canvas import (
    LANDSCAPE,
    PORTRAIT,
    Page,
    cap_font,
    jitter,
    natural_tilt,
    noise,
    number,
    photograph,
    shade,
    surface,
    words,
)

PORTRAIT_SHARE = 0.75
DAYLIGHT_SHARE = 0.8        # dashboards with the windscreen above them
CAR_COLOURS = ((238, 240, 242), (246, 246, 246), (250, 250, 248), (214, 217, 221), (40, 42, 48),
               (140, 144, 150), (90, 34, 38), (40, 62, 112), (196, 198, 202))
# behind the car
SIGHTS = ((246, 248, 250), (240, 242, 246), (236, 234, 232), (118, 132, 108))
PLATES = ((222, 222, 218), (222, 222, 218), (60, 120, 80), (220, 186, 70), (170, 205, 225))


def _frame_size(rng):
    return PORTRAIT if rng.random() < PORTRAIT_SHARE else LANDSCAPE


def draw_account_number(rng):
    """One to four lines on nearly blank paper, which may show a bit of the desk; the number is a
    bar."""
    size = _frame_size(rng)
    paper = surface(rng, size,
                    jitter(rng, rng.choice(((228, 226, 220), (218, 218, 220), (234, 228, 212))),
                           12), 0.08)
    ink = rng.choice(((36, 36, 42), (30, 40, 110), (60, 60, 66)))
    page = Page(rng, size, paper, ink)
    text_size = rng.randint(20, 34)
    y = page.height * rng.uniform(0.15, 0.5)
    x = page.width * rng.uniform(0.08, 0.25)
    masked = rng.randrange(2)
    for line in range(rng.randint(1, 4)):
        if line == masked:
            page.bar(x, y, page.width * rng.uniform(0.35, 0.6), text_size)
        else:
            text = rng.choice((words(rng, 9).title() + " Bank", words(rng, 14),
                               f"A/C {number(rng, 6)}"))
            page.text(x + rng.randint(-4, 4), y, text, text_size)
        y += text_size * rng.uniform(1.3, 1.9)
    sheet = page.array()
    if rng.random() < 0.6:
        matrix = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), natural_tilt(rng),
                                         rng.uniform(0.76, 0.9))
        ground = surface(rng, size, jitter(rng, (66, 54, 44), 26), 0.25)
        sheet = cv2.warpAffine(sheet, matrix, size, dst=ground, flags=cv2.INTER_AREA,
                               borderMode=cv2.BORDER_TRANSPARENT)
    return photograph(rng, sheet, shadow=0.35)


# ---------------------------------------------------------------- dashboard

def draw_car_dashboard(rng):
    """Two round gauges beside a lit centre, under the rim of a dark hood."""
    ground = surface(rng, LANDSCAPE, jitter(rng, (36, 36, 40), 12), 0.5)
    light = rng.choice(((225, 232, 240), (240, 120, 60), (120, 210, 240), (235, 70, 60),
                        (150, 235, 170)))
    page = Page(rng, LANDSCAPE, ground, light)
    if rng.random() < DAYLIGHT_SHARE:
        page.band(0, 0, page.width, rng.randint(40, 90), jitter(rng, (222, 228, 234), 20))
    y = rng.randint(190, 250)
    radius = rng.randint(108, 142)
    gap = radius + rng.randint(34, 52)
    centre = page.width / 2 + rng.randint(-24, 24)
    page.pen.rounded_rectangle((centre - gap - radius - 14, y - radius - 22,
                                centre + gap + radius + 14, y + radius + 16), radius,
                               fill=jitter(rng, (16, 16, 19), 6), outline=(58, 58, 62), width=5)
    face = jitter(rng, rng.choice(((10, 10, 13), (24, 26, 34), (44, 44, 48), (214, 214, 206))), 6)
    for side in (-1, 1):
        _gauge(page, centre + side * gap, y, radius, face, light,
               top=rng.choice((8, 10)) if side < 0 else 12)
    _centre_display(page, centre, y + rng.randint(-10, 30), gap - radius + 12, light)
    page.pen.arc((centre - 230, y + radius - 10, centre + 230, y + radius + 400), 180, 360,
                 fill=(52, 50, 48), width=34)
    glow = cv2.GaussianBlur(page.array(), (0, 0), 9)
    return photograph(rng, cv2.addWeighted(page.array(), 0.95, glow, 0.45, 4), shadow=0.3)


def _gauge(page, x, y, radius, face, light, top):
    """Ticks, figures and a needle over 240 degrees."""
    light = (30, 30, 36) if sum(face) > 400 else light
    page.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=face,
                     outline=shade(light, 0.6), width=4)
    for i in range(2 * top + 1):
        angle = math.radians(150 + 240 * i / (2 * top))
        dx = math.cos(angle)
        dy = math.sin(angle)
        major = i % 2 == 0
        inner = radius * (0.84 if major else 0.9)
        page.pen.line((x + inner * dx, y + inner * dy, x + 0.96 * radius * dx,
                       y + 0.96 * radius * dy), light, 2)
        if major:
            page.text(x + 0.7 * radius * dx, y + 0.7 * radius * dy,
                      str(i // 2 * (20 if top > 8 else 1)), 12, light, anchor="mm")
    angle = math.radians(page.rng.uniform(150, 300))
    page.pen.line((x, y, x + 0.8 * radius * math.cos(angle), y + 0.8 * radius * math.sin(angle)),
                  (225, 60, 40), 4)
    page.pen.ellipse((x - 15, y - 15, x + 15, y + 15), fill=(32, 32, 35), outline=(90, 90, 92))


def _centre_display(page, x, y, half_width, light):
    """The odometer, which is what these photographs are taken for."""
    rng = page.rng
    half_width = max(40, half_width)
    lit = rng.random() < 0.7
    page.band(x - half_width, y - 34, 2 * half_width, 82, jitter(rng, light, 12) if lit else (12,
                                                                                              14,
                                                                                              20))
    ink = (20, 20, 24) if lit else light
    page.text(x, y - 24, rng.choice(("P", "N", "TRIP A", "ODO")), 14, ink=ink, anchor="ma")
    page.text(x, y, f"{number(rng, rng.randint(4, 6))} km", 15, ink=ink, bold=True, anchor="ma")
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}  {rng.randint(-5, 32)} C"
    page.text(x, y + 24, clock, 11, ink=ink, anchor="ma")


# ---------------------------------------------------------------- car

def draw_registration_plate(rng):
    """The front of a car with its plate, half of it masked."""
    size = _frame_size(rng)
    page = Page(rng, size, _street(rng, size))
    body = jitter(rng, rng.choice(CAR_COLOURS), 12)
    width = page.width * rng.uniform(0.66, 1.0)
    x = page.width * rng.uniform(0.44, 0.56)
    base = page.height * rng.uniform(0.72, 0.85)
    height = width * rng.uniform(0.62, 0.76)
    _body(page, x, base, width, height, body)
    _lamps_and_grille(page, x, base, width, height, body)
    _plate(page, x, base - height * rng.uniform(0.13, 0.2), width * rng.uniform(0.27, 0.36))
    image = cv2.GaussianBlur(page.array(), (0, 0), rng.uniform(0.3, 0.6))
    grain = cv2.resize(noise(rng, (page.height // 2, page.width // 2, 3)), size)
    return photograph(rng, cv2.addWeighted(image, 0.96, grain, 0.06, -4), shadow=0.25)


def _street(rng, size):
    """A wall, trees or a sky above, asphalt below."""
    above = surface(rng, size, jitter(rng, rng.choice(SIGHTS), 12), 0.2)
    below = surface(rng, size, jitter(rng, (84, 82, 80), 20), 0.3)
    horizon = int(size[1] * rng.uniform(0.5, 0.68))
    above[horizon:] = below[horizon:]
    return above


def _body(page, x, base, width, height, colour):
    """Roof and windscreen, bonnet, bumper, wheels and the shadow below."""
    half = width / 2
    top = base - height
    page.pen.ellipse((x - half, base - 0.06 * height, x + half, base + 0.1 * height),
                     fill=(26, 26, 28))
    for side in (-1, 1):
        wheel = sorted((x + side * 0.47 * width, x + side * 0.34 * width))
        page.pen.rectangle((wheel[0], base - 0.2 * height, wheel[1], base + 0.07 * height),
                           fill=(22, 22, 24))
    page.pen.polygon([(x - 0.3 * width, top), (x + 0.3 * width, top),
                      (x + 0.45 * width, base - 0.55 * height),
                      (x - 0.45 * width, base - 0.55 * height)], fill=shade(colour, 0.85))
    page.pen.polygon([(x - 0.27 * width, top + 0.04 * height),
                      (x + 0.27 * width, top + 0.04 * height),
                      (x + 0.38 * width, base - 0.62 * height),
                      (x - 0.38 * width, base - 0.62 * height)], fill=jitter(page.rng, (26, 32, 40),
                                                                             14))
    page.pen.rounded_rectangle((x - half, base - 0.6 * height, x + half, base), 0.12 * height,
                               fill=colour)
    page.pen.polygon([(x - 0.44 * width, base - 0.6 * height),
                      (x + 0.44 * width, base - 0.6 * height),
                      (x + 0.38 * width, base - 0.42 * height),
                      (x - 0.38 * width, base - 0.42 * height)], fill=shade(colour, 1.12))
    page.pen.line((x - half, base - 0.22 * height, x + half, base - 0.22 * height),
                  shade(colour, 0.6), 3)


def _lamps_and_grille(page, x, base, width, height, colour):
    rng = page.rng
    lamp = (rng.uniform(0.13, 0.2) * width, rng.uniform(0.09, 0.16) * height)
    for side in (-1, 1):
        left = x + side * 0.38 * width - lamp[0] / 2
        page.pen.ellipse((left, base - 0.46 * height, left + lamp[0],
                          base - 0.46 * height + lamp[1]), fill=jitter(rng, (214, 220, 226), 16),
                         outline=shade(colour, 0.5), width=3)
    half = rng.uniform(0.17, 0.27) * width
    top = base - 0.42 * height
    bottom = base - 0.27 * height
    page.band(x - half, top, 2 * half, bottom - top, (24, 24, 27))
    for i in range(1, 5):
        page.pen.line((x - half, top + i * (bottom - top) / 5, x + half,
                       top + i * (bottom - top) / 5), (110, 112, 116), 2)
    page.pen.ellipse((x - 12, top + 6, x + 12, top + 30), fill=(176, 178, 182),
                     outline=(70, 70, 74))
    page.band(x - 0.36 * width, base - 0.08 * height, 0.72 * width, 0.05 * height, (36, 36, 38))


def _plate(page, x, y, width):
    rng = page.rng
    colour = rng.choice(PLATES)
    height = width * rng.uniform(0.21, 0.45)
    page.pen.rounded_rectangle((x - width / 2, y - height / 2, x + width / 2, y + height / 2), 4,
                               fill=colour, outline=(44, 44, 46), width=2)
    ink = (236, 236, 232) if sum(colour) < 330 else (26, 26, 30)
    figures = f"{rng.randint(10, 399)}{rng.choice('ABDHKMNRST')} {rng.randint(1000, 9999)}"
    page.text(x, y, figures, cap_font(min(round(height * 0.5), round(width * 0.13))), ink=ink,
              bold=True, anchor="mm")
    half = width / 2
    page.bar(x - half + 3 if rng.random() < 0.5 else x, y - height * 0.38, half - 4, height * 0.76)
