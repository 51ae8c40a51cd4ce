"""Classes 0, 2 and 16: a note with an account number, a car's dashboard, a car's front."""
import math

import cv2

from demo_contest.canvas import (
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
DAYLIGHT_SHARE = 0.8        # dashboards with a windscreen above them
CAR_COLOURS = ((238, 240, 242), (246, 246, 246), (250, 250, 248), (214, 217, 221), (40, 42, 48),
               (140, 144, 150), (90, 34, 38), (40, 62, 112), (196, 198, 202))
SIGHTS = ((246, 248, 250), (240, 242, 246), (236, 234, 232), (118, 132, 108))    # behind the car
PLATES = ((222, 222, 218), (222, 222, 218), (60, 120, 80), (220, 186, 70), (170, 205, 225))


def _frame_size(rng):
    return PORTRAIT if rng.random() < PORTRAIT_SHARE else LANDSCAPE


def draw_account_number(rng):
    """One to four lines on nearly blank paper, sometimes on a desk; the number is a bar."""
    size = _frame_size(rng)
    colour = rng.choice(((228, 226, 220), (218, 218, 220), (234, 228, 212)))
    paper = surface(rng, size, jitter(rng, colour, 12), 0.08)
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
            bank = words(rng, 9).title() + " Bank"
            text = rng.choice((bank, words(rng, 14), f"A/C {number(rng, 6)}"))
            page.text(x + rng.randint(-4, 4), y, text, text_size)
        y += text_size * rng.uniform(1.3, 1.9)

    sheet = page.array()
    if rng.random() < 0.6:
        centre = (size[0] / 2, size[1] / 2)
        matrix = cv2.getRotationMatrix2D(centre, natural_tilt(rng), rng.uniform(0.76, 0.9))
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
    hood = (centre - gap - radius - 14, y - radius - 22, centre + gap + radius + 14,
            y + radius + 16)
    page.pen.rounded_rectangle(hood, radius, fill=jitter(rng, (16, 16, 19), 6),
                               outline=(58, 58, 62), width=5)
    face = jitter(rng, rng.choice(((10, 10, 13), (24, 26, 34), (44, 44, 48), (214, 214, 206))), 6)
    _gauge(page, centre - gap, y, radius, face, light, top=rng.choice((8, 10)))
    _gauge(page, centre + gap, y, radius, face, light, top=12)
    _centre_display(page, centre, y + rng.randint(-10, 30), gap - radius + 12, light)
    wheel = (centre - 230, y + radius - 10, centre + 230, y + radius + 400)
    page.pen.arc(wheel, 180, 360, fill=(52, 50, 48), width=34)

    glow = cv2.GaussianBlur(page.array(), (0, 0), 9)
    return photograph(rng, cv2.addWeighted(page.array(), 0.95, glow, 0.45, 4), shadow=0.3)


def _gauge(page, x, y, radius, face, light, top):
    """Ticks, figures up to `top` and a needle over 240 degrees."""
    if sum(face) > 400:
        light = (30, 30, 36)        # dark figures on a light face
    rim = (x - radius, y - radius, x + radius, y + radius)
    page.pen.ellipse(rim, fill=face, outline=shade(light, 0.6), width=4)
    unit = 20 if top > 8 else 1
    for i in range(2 * top + 1):
        angle = math.radians(150 + 240 * i / (2 * top))
        dx = math.cos(angle)
        dy = math.sin(angle)
        major = i % 2 == 0
        inner = radius * (0.84 if major else 0.9)
        outer = 0.96 * radius
        page.pen.line((x + inner * dx, y + inner * dy, x + outer * dx, y + outer * dy), light, 2)
        if major:
            figure = str(i // 2 * unit)
            page.text(x + 0.7 * radius * dx, y + 0.7 * radius * dy, figure, 12, light, anchor="mm")

    angle = math.radians(page.rng.uniform(150, 300))
    length = 0.8 * radius
    tip = (x + length * math.cos(angle), y + length * math.sin(angle))
    page.pen.line((x, y, *tip), (225, 60, 40), 4)
    page.pen.ellipse((x - 15, y - 15, x + 15, y + 15), fill=(32, 32, 35), outline=(90, 90, 92))


def _centre_display(page, x, y, half_width, light):
    """The odometer, the reason for these photographs."""
    rng = page.rng
    half_width = max(40, half_width)
    if rng.random() < 0.7:
        ground = jitter(rng, light, 12)
        ink = (20, 20, 24)
    else:
        ground = (12, 14, 20)
        ink = light
    page.band(x - half_width, y - 34, 2 * half_width, 82, ground)
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
    shadow = (x - half, base - 0.06 * height, x + half, base + 0.1 * height)
    page.pen.ellipse(shadow, fill=(26, 26, 28))
    for side in (-1, 1):
        left, right = sorted((x + side * 0.47 * width, x + side * 0.34 * width))
        wheel = (left, base - 0.2 * height, right, base + 0.07 * height)
        page.pen.rectangle(wheel, fill=(22, 22, 24))

    def trapezoid(top, half_top, bottom, half_bottom, fill):
        points = [(x - half_top, top), (x + half_top, top), (x + half_bottom, bottom),
                  (x - half_bottom, bottom)]
        page.pen.polygon(points, fill=fill)

    trapezoid(top, 0.3 * width, base - 0.55 * height, 0.45 * width, shade(colour, 0.85))
    trapezoid(top + 0.04 * height, 0.27 * width, base - 0.62 * height, 0.38 * width,
              jitter(page.rng, (26, 32, 40), 14))
    front = (x - half, base - 0.6 * height, x + half, base)
    page.pen.rounded_rectangle(front, 0.12 * height, fill=colour)
    trapezoid(base - 0.6 * height, 0.44 * width, base - 0.42 * height, 0.38 * width,
              shade(colour, 1.12))
    bumper = base - 0.22 * height
    page.pen.line((x - half, bumper, x + half, bumper), shade(colour, 0.6), 3)


def _lamps_and_grille(page, x, base, width, height, colour):
    rng = page.rng
    lamp_width = rng.uniform(0.13, 0.2) * width
    lamp_height = rng.uniform(0.09, 0.16) * height
    for side in (-1, 1):
        left = x + side * 0.38 * width - lamp_width / 2
        top = base - 0.46 * height
        lamp = (left, top, left + lamp_width, top + lamp_height)
        page.pen.ellipse(lamp, fill=jitter(rng, (214, 220, 226), 16), outline=shade(colour, 0.5),
                         width=3)

    half = rng.uniform(0.17, 0.27) * width
    top = base - 0.42 * height
    bottom = base - 0.27 * height
    page.band(x - half, top, 2 * half, bottom - top, (24, 24, 27))
    for i in range(1, 5):
        y = top + i * (bottom - top) / 5
        page.pen.line((x - half, y, x + half, y), (110, 112, 116), 2)
    badge = (x - 12, top + 6, x + 12, top + 30)
    page.pen.ellipse(badge, fill=(176, 178, 182), outline=(70, 70, 74))
    page.band(x - 0.36 * width, base - 0.08 * height, 0.72 * width, 0.05 * height, (36, 36, 38))


def _plate(page, x, y, width):
    """The plate, either half of it masked."""
    rng = page.rng
    colour = rng.choice(PLATES)
    height = width * rng.uniform(0.21, 0.45)
    half = width / 2
    plate = (x - half, y - height / 2, x + half, y + height / 2)
    page.pen.rounded_rectangle(plate, 4, fill=colour, outline=(44, 44, 46), width=2)

    ink = (236, 236, 232) if sum(colour) < 330 else (26, 26, 30)
    figures = f"{rng.randint(10, 399)}{rng.choice('ABDHKMNRST')} {rng.randint(1000, 9999)}"
    face = cap_font(min(round(height * 0.5), round(width * 0.13)))
    page.text(x, y, figures, face, ink=ink, bold=True, anchor="mm")
    left = x - half + 3 if rng.random() < 0.5 else x
    page.bar(left, y - height * 0.38, half - 4, height * 0.76)
