"""Classes 5, 8 and 9: a driver licence, an identity card and a passport's page, each on a desk.

They differ by colour, heading, and two machine-readable lines that only the passport has.
"""
from demo_contest.canvas import CARD, Page, cap_font, date, desk, jitter, lay, photograph, words


def _on_desk(rng, card):
    """A photograph of the card lying on a desk."""
    image = lay(rng, card, desk(rng, CARD), share=rng.uniform(0.82, 0.97))
    return photograph(rng, image, shadow=0.24)


def _guilloche(page, colour, n_waves):
    """The fine waves that make a card hard to forge."""
    for i in range(n_waves):
        y = (i + 0.5) * page.height / n_waves
        wave = 7 if i % 2 else -7
        points = [(x, y + wave * (x // 30 % 2)) for x in range(0, page.width + 30, 30)]
        page.pen.line(points, fill=colour, width=1)


def _portrait(page, x, y, width, height):
    """A portrait with a bar over the face."""
    rng = page.rng
    page.band(x, y, width, height, jitter(rng, (150, 165, 180), 35))
    shoulders = (0.1, 0.68, 0.9, 1.3, (50, 50, 70))
    head = (0.25, 0.15, 0.75, 0.75, (60, 48, 42))
    for left, top, right, bottom, colour in (shoulders, head):
        box = (x + width * left, y + height * top, x + width * right, y + height * bottom)
        page.pen.ellipse(box, fill=jitter(rng, colour, 25))
    # the card's own colour hides the shoulders below the portrait
    paper = page.image.getpixel((x + width / 2, y + height + 2))
    page.band(x, y + height, width, height * 0.32, paper)
    page.bar(x + width * 0.2, y + height * 0.2, width * 0.6, height * 0.5)


def _fields(page, x, y, n_lines, step, size, masked, width=220):
    """Lines of text `step` px apart; those whose number is in `masked` are bars."""
    rng = page.rng
    n_chars = min(24, int(width / size / 0.6))
    for i in range(n_lines):
        if i in masked:
            page.bar(x, y, rng.uniform(0.45, 1) * width, size)
        else:
            text = rng.choice((date(rng), words(rng, n_chars).title()))
            page.text(x, y, text, size)
        y += step
    return y


def draw_driver_license(rng):
    """A green heading, the portrait, the class of licence, barred fields."""
    paper = jitter(rng, rng.choice(((226, 238, 220), (238, 238, 228), (220, 236, 234))), 8)
    page = Page(rng, (560, 352), paper)
    green = jitter(rng, (38, 104, 70), 22)
    _guilloche(page, (186, 208, 192), rng.randint(12, 22))
    page.band(0, 0, page.width, 50, green if rng.random() < 0.6 else paper)
    ink = (235, 240, 235) if page.image.getpixel((300, 4)) == green else green
    left = rng.randint(24, 150)
    page.text(left, 38, "DRIVER'S LICENSE", cap_font(20), ink=ink, bold=True, anchor="ls")
    _portrait(page, 24, 76, 128, 160)
    licence = rng.choice(("CLASS 1 ORDINARY", "CLASS 2 ORDINARY", "CLASS 2 SMALL"))
    page.text(172, 70, licence, 17, ink=green)
    page.bar(172, 96, rng.randint(190, 250), 20)
    _fields(page, 172, 128, 6, 26, 15, masked={0, 1, 2, rng.randint(3, 4)})
    page.seal(page.width - 62, 292, 24, square=True)
    page.text(172, 302, words(rng, 14).title() + " Police Agency", 15)
    return _on_desk(rng, page.array())


def draw_national_id_card(rng):
    """Pale, with few lines: the name, the number and the address are bars."""
    paper = jitter(rng, rng.choice(((244, 236, 220), (234, 234, 242), (244, 230, 230))), 7)
    page = Page(rng, (560, 352), paper)
    _guilloche(page, (216, 204, 202), rng.randint(5, 10))
    page.pen.ellipse((190, 70, 390, 270), outline=(196, 170, 176), width=rng.randint(8, 22))
    left = rng.randint(40, 70)
    title = rng.choice(("IDENTITY CARD", "RESIDENT CARD"))
    page.text(left, 50, title, cap_font(22), bold=True, anchor="ls")
    _portrait(page, 388, 66, 136, 170)
    _fields(page, 44, 84, 5, 34, 18, masked={0, 1, 2, 3})
    page.text(150, 276, date(rng), 18)
    page.text(110, 308, words(rng, 16).title(), 20, bold=True)
    page.seal(400, 312, 22, square=True)
    return _on_desk(rng, page.array())


def draw_passport(rng):
    """A page of two tints: the portrait at the left, two machine-readable lines below."""
    paper = jitter(rng, rng.choice(((222, 226, 240), (230, 224, 232), (216, 232, 236))), 8)
    page = Page(rng, (560, 396), paper)
    _guilloche(page, (184, 192, 216), rng.randint(16, 26))
    ink = jitter(rng, (70, 50, 90), 20)
    page.text(24, 34, "PASSPORT", cap_font(17), ink=ink, bold=True, anchor="ls")
    sex = "M" if rng.random() < 0.5 else "F"
    page.text(180, 20, f"P   KOR   {sex}", 14)
    page.bar(380, 18, 140, 18)
    _portrait(page, 22, 62, 132, 168)
    _fields(page, 176, 62, 4, 44, 15, masked={0, 1, 3}, width=180)
    _fields(page, 372, 106, 3, 44, 15, masked={1}, width=150)
    for row in range(8):
        page.text(176, 50 + row * 22, words(rng, 14), 8)
    page.band(0, 308, page.width, 88, jitter(rng, (228, 228, 228), 8))
    # the machine-readable lines
    page.text(20, 328, "P<KOR" + "<" * 30, 22)
    page.bar(100, 329, rng.randint(120, 190), 22)
    page.text(20, 358, "<" * 14 + "M" + "<" * 20, 22)
    page.bar(20, 359, rng.randint(120, 190), 22)
    return _on_desk(rng, page.array())
