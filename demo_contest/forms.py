"""Classes 1, 6, 10, 11, 12, 13 and 15: forms that are told apart by their layout.

6 and 11, two receipts in coloured tables, differ by their bands and sizes only, and a few of each
look like the other.
"""
import functools

from .canvas import (
    LANDSCAPE,
    MASKED,
    PORTRAIT,
    Page,
    date,
    jitter,
    number,
    paper_colour,
    photograph_sheet,
    rng_of,
    shade,
    words,
)

LOOKALIKE_SHARE = 0.035         # receipts that look like the other class's
LANDSCAPE_SHARE = 0.65          # receipts that are printed across the page
BAND_COLOURS = ((120, 160, 205), (130, 185, 150), (215, 150, 150), (205, 180, 120), (170, 150, 200),
                (120, 180, 190))


@functools.lru_cache(maxsize=1)
def _pregnancy_form():
    """The printed part of class 1: one layout, the same for everybody. White, to be multiplied with
    the paper."""
    rng = rng_of("pregnancy form")
    page = Page(rng, PORTRAIT, (255, 255, 255))
    page.text(30, 20, "[ Form No. 17 ]", 7)
    y = page.title(page.width / 2, 34, "APPLICATION FOR PAYMENT OF PREGNANCY MEDICAL EXPENSES", 10,
                   max_width=400)
    labels = [words(rng, 14).title() for _ in range(40)]
    y = page.grid(26, y + 4, [60, 100, 60, 171], 7, 17, lambda r, c: labels[4 * r + c] if c % 2 == 0
                  else "", 6, side=(205, 205, 205))
    y = page.grid(26, y + 6, [22, 369], 5, 20, lambda r, c: str(r + 1) if c == 0 else words(rng,
                                                                                            96), 6,
                  heading=(215, 215, 215), side=(220, 220, 220))
    for row in range(4):
        for column in range(3):
            page.box(34 + column * 128, y + 8 + row * 13, 7, 7)
            page.text(45 + column * 128, y + 7 + row * 13, words(rng, 22), 7)
    y = page.grid(26, y + 66, [48, 98, 98, 98, 49], 6, 15, lambda r, c: words(rng, 12) if r == 0
                  or c == 0 else "", 6, heading=(205, 205, 205))
    y = page.prose(26, y + 6, 390, 6, 6, 1.35)
    page.text(page.width / 2, y + 10, "Year        Month        Day", 8, anchor="ma")
    page.text(250, y + 26, "Applicant             (seal)", 8)
    y = page.grid(26, y + 42, [391], 2, 26, lambda r, c: words(rng, 88), 6, heading=(225, 225, 225))
    page.prose(26, y + 4, 390, max(1, int((578 - y) // 9)), 6, 1.35)
    return page.array()


def draw_pregnancy_application(rng):
    """The form above, filled in: bars, a few dates, ticks, a signature."""
    paper = paper_colour(rng)
    ink = jitter(rng, (40, 40, 90), 30)
    page = Page(rng, PORTRAIT, (_pregnancy_form().astype("uint16") * paper // 255).astype("uint8"),
                ink)
    for row in range(7):
        for x, width in ((88, 92), (248, 160)):
            y = 68 + row * 17
            if rng.random() < 0.85:
                page.bar(x + 1, y + 2, rng.uniform(0.6, 0.98) * width, 13)
            else:
                page.text(x + 4, y + 3, rng.choice((date(rng), words(rng, 16))), 9)
    for _ in range(rng.randint(2, 5)):
        x = 34 + 128 * rng.randrange(3)
        y = 300 + 13 * rng.randrange(4)
        page.text(x, y - 1, "v", 12)
    for row in range(rng.randint(1, 5)):
        for x in (78, 176, 274):
            page.text(x, 378 + 15 * row, rng.choice((date(rng), number(rng, 6))), 8)
    page.bar(300, 486 + rng.randint(-2, 2), rng.randint(40, 70), 11)
    return photograph_sheet(rng, page.array())


# ---------------------------------------------------------------- receipts

def draw_receipt(rng, pharmacy):
    """Class 6 (a medical bill) or 11 (a pharmacy's); a lookalike has the other one's bands and
    sizes."""
    size = LANDSCAPE if rng.random() < LANDSCAPE_SHARE else PORTRAIT
    page = Page(rng, size, paper_colour(rng))
    colour = jitter(rng, rng.choice(BAND_COLOURS), 14)
    lookalike = rng.random() < LOOKALIKE_SHARE
    (_pharmacy_body if pharmacy != lookalike else _bill_body)(page, colour)
    return photograph_sheet(rng, page.array())


def _bill_body(page, colour):
    """Many thin rows under thin bands over nearly the whole page, and a column of sums at the
    right."""
    rng = page.rng
    margin = page.rng.randint(14, 26)
    width = page.width - 2 * margin
    rows = page.rng.randint(11, 15)
    page.text(margin, margin, rng.choice(("MEDICAL BILL RECEIPT", "RECEIPT OF MEDICAL EXPENSES")),
              15, bold=True)
    page.text(page.width - margin, margin + 4,
              rng.choice(("Inpatient [ ]  Outpatient [v]", "Copy", "")), 8, anchor="ra")
    y = page.grid(margin, margin + 24, [width * s for s in (0.2, 0.3, 0.2, 0.3)], 2, 18, lambda r,
                  c: words(rng, 10) if c % 2 == 0 else (MASKED if r == 0 else date(rng)),
                  side=colour)
    step = (page.height - margin - 40 - y) / (rows + 1)
    left = width * 0.66
    labels = [words(rng, 12) for _ in range(rows)]
    page.grid(margin, y + 6, [left * s for s in (0.31, 0.23, 0.23, 0.23)], rows, step, lambda r,
              c: (labels[r] if c == 0 or r == 0 else number(rng, rng.randint(3, 6))
                  if rng.random() < 0.6 else ""), heading=colour, side=shade(colour, 1.15))
    x = margin + left + 6
    for i in range(5):
        top = y + 6 + i * rows * step / 5
        page.band(x, top, width - left - 6, step * 0.9, colour)
        page.box(x, top, width - left - 6, rows * step / 5)
        page.text(x + 4, top + 2, words(rng, 16), 8)
        page.text(x + width - left - 14, top + step + 6, number(rng, 6), 12, anchor="ra")
    page.office(margin, page.height - margin - 30, ("Hospital", "Tax No."), width * 0.7, step=16)
    page.seal(page.width - margin - 24, page.height - margin - 18, 16, square=True)


def _pharmacy_body(page, colour):
    """A smaller form of two or three thick bands, a list of drugs with their colours, a large sum.
    """
    rng = page.rng
    height = page.height * page.rng.uniform(0.6, 0.85)
    margin = rng.randint(22, 50)
    width = page.width - 2 * margin
    top = rng.randint(18, 40)
    page.band(margin, top, width, 34, colour)
    page.text(margin + 10, top + 9, rng.choice(("PHARMACY RECEIPT", "DRUG RECEIPT")), 16,
              ink=(245, 245, 245), bold=True)
    page.bar(margin + width - 96, top + 10, 84, 14)
    y = top + 40
    drugs = rng.randint(3, 6)
    step = (height - 170) / drugs
    for _ in range(drugs):
        page.band(margin + 4, y + 3, min(34, step * 1.2), step - 8,
                  jitter(rng, rng.choice(BAND_COLOURS), 40))
        page.text(margin + 46, y + 3, words(rng, 18).title(), 10, bold=True)
        page.prose(margin + 46, y + 17, width * 0.45, max(1, int((step - 18) // 10)), 7)
        page.text(margin + width * 0.68, y + 4,
                  f"{rng.randint(1, 3)} x {rng.randint(1, 3)}    {rng.randint(3, 30)} days", 9)
        page.box(margin, y + step - 2, width, 0, outline=colour)
        y += step
    page.band(margin, y + 4, width, 26, shade(colour, 1.1))
    page.text(margin + 8, y + 11, "Total", 12)
    page.text(margin + width - 8, y + 8, number(rng, 5), 17, bold=True, anchor="ra")
    y = page.grid(margin, y + 36, [width / 4] * 4, 2, 20, lambda r,
                  c: number(rng, 5) if r else words(rng, 9), 8)
    page.text(margin + width, y + 8, date(rng), 9, anchor="ra")
    y = page.office(margin, y + 7, ("Pharmacy", "Tax No."), width * 0.7)
    page.box(margin - 4, top - 4, width + 8, y + 8 - top, outline=colour, line=3)
    page.prose(margin, y + 14, width, max(1, int((page.height - y - 30) // 9)), 7)


# ---------------------------------------------------------------- other forms

def draw_payment_confirmation(rng):
    """A table of months and amounts with a sum below."""
    page = Page(rng, PORTRAIT, paper_colour(rng))
    margin = rng.randint(28, 44)
    width = page.width - 2 * margin
    heading = rng.choice(((195, 205, 215), (205, 205, 205), (205, 212, 195), None))
    y = page.title(page.width / 2, rng.randint(28, 50),
                   rng.choice(("PAYMENT CONFIRMATION", "CONFIRMATION OF PAYMENT",
                               "MEDICAL EXPENSE PAYMENTS")), rng.randint(14, 18))
    y = page.grid(margin, y + 10, [width * s for s in (0.2, 0.3, 0.2, 0.3)], rng.randint(2, 3), 20,
                  lambda r, c: ("Name", MASKED, "Resident No.", MASKED)[c] if r == 0 else
                  ("Period", date(rng), "Use", words(rng, 14))[c], 8, side=heading)
    columns = rng.randint(4, 6)
    year = rng.randint(2015, 2024)

    def cell(row, column):
        if row == 0:
            return ("Month", "Total", "Insurer", "Paid", "Cash", "Card")[column]
        if row == 13:
            return "Sum" if column == 0 else number(rng, 7)
        return (
            f"{year}.{row:02d}"
            if column == 0
            else number(rng, rng.randint(4, 6))
            if rng.random() < 0.8
            else "0"
        )
    y = page.grid(margin, y + rng.randint(12, 24), [width / columns] * columns, 14,
                  rng.randint(17, 21), cell, 8, heading)
    page.prose(margin, y + 4, width, 3, 7)
    page.text(page.width / 2, y + 36, date(rng), 10, anchor="ma")
    page.office(margin + 40, y + 56, ("Hospital", "Tax No.", "Director"), 240, step=20)
    page.seal(margin + 310, y + 80, 18, square=rng.random() < 0.5)
    page.prose(margin, y + 120, width, max(1, int((page.height - y - 136) // 9)), 7)
    return photograph_sheet(rng, page.array())


def draw_prescription(rng):
    """The patient beside the hospital, then a long, half empty list of drugs, then what the
    pharmacist fills in."""
    page = Page(rng, PORTRAIT, paper_colour(rng))
    x = rng.randint(20, 32)
    width = page.width - 2 * x
    y = page.title(page.width / 2, rng.randint(18, 30),
                   rng.choice(("PRESCRIPTION", "P R E S C R I P T I O N")), 15)
    page.text(x, y, f"[v] Insured  [ ] Aid  [ ] Other      No. {rng.randint(1000, 99999)}", 7)
    patient = page.grid(x, y + 14, [width * 0.14, width * 0.34], 3, 24, lambda r,
                        c: ("Patient", "Number", "Visit")[r] if c == 0
                        else (MASKED if r < 2 else date(rng)))
    page.grid(x + width * 0.5, y + 14, [width * 0.16, width * 0.34], 4, 18, lambda r,
              c: ("Clinic", "Phone", "Fax", "E-mail")[r] if c == 0 else (words(rng, 16) if r == 0
                                                                         else MASKED))
    y = page.grid(
        x,
        patient + 6,
        [width * 0.1] + [width * 0.06] * 5 + [width * 0.3, width * 0.3],
        2,
        20,
        lambda r, c: (
            rng.choice("JKMR0123456789")
            if 0 < c < 6
            else ("Code", "Doctor")[c == 6]
            if c < 7
            else MASKED
        ),
    )
    n_rows = rng.randint(11, 13)
    n_drugs = rng.randint(2, 7)

    def cell(row, column):
        if row == 0:
            return ("Drug", "Dose", "Times", "Days", "Usage")[column]
        if row > n_drugs:
            return ""
        return words(rng, 30) if column in (0, 4) else str(rng.randint(1, 9))
    y = page.grid(x, y + 6, [width * s for s in (0.5, 0.1, 0.1, 0.1, 0.2)], n_rows, 16, cell,
                  heading=(210, 210, 210))
    page.text(x, y + 5, f"Valid for {rng.randint(3, 7)} days from the date of issue", 8)
    y = page.grid(x, y + 20, [width * s for s in (0.2, 0.3, 0.5)], 5, 20, lambda r,
                  c: words(rng, 12) if c == 0 else MASKED if c == 1 and r < 2 else "",
                  heading=(220, 220, 220))
    page.seal(x + width * 0.85, patient - 14, 14)
    page.prose(x, y + 6, width, max(1, int((page.height - y - 20) // 9)), 7)
    return photograph_sheet(rng, page.array())


def draw_resume(rng):
    """A portrait (barred) beside the name, then tables of schools and of employers, then a
    paragraph."""
    page = Page(rng, PORTRAIT, paper_colour(rng))
    x = rng.randint(30, 44)
    width = page.width - 2 * x
    y = page.title(page.width / 2, rng.randint(28, 44),
                   rng.choice(("RESUME", "R E S U M E", "CURRICULUM VITAE")), 18) + 10
    at_right = rng.random() < 0.3
    photo = x + width - 84 if at_right else x
    page.band(photo, y, 84, 106, jitter(rng, (150, 160, 175), 30))
    page.bar(photo + 14, y + 16, 56, 62)
    page.box(photo, y, 84, 106)
    page.grid(x if at_right else x + 92, y, [56, width - 148], 5, 21, lambda r,
              c: ("Name", "Birth", "Phone", "E-mail", "Address")[r] if c == 0 else MASKED, 8,
              side=rng.choice(((205, 205, 205), (195, 205, 215), None)))
    y += 118
    for title, n_rows in (("Education", rng.randint(3, 5)), ("Career", rng.randint(4, 7)),
                          ("Licenses", rng.randint(2, 4))):
        page.text(x, y, title, 10, bold=True)
        y = page.grid(x, y + 14, [width * s for s in (0.3, 0.45, 0.25)], n_rows, 17, lambda r,
                      c: ("Period", "Name", "Note")[c] if r == 0
                      else f"{date(rng)[:7]} - {date(rng)[:7]}" if c == 0 else words(rng,
                                                                                     24 if c == 1
                                                                                     else 10),
                      heading=(210, 210, 210)) + 9
    page.prose(x, y + 2, width, max(1, int((page.height - 40 - y) // 12)), 8)
    return photograph_sheet(rng, page.array())


def draw_vehicle_registration(rng):
    """Numbered cells in two columns on tinted paper, a wide seal at the foot."""
    tint = rng.choice(((0.97, 1, 0.96), (1, 0.99, 0.94), (0.95, 0.98, 1)))
    paper = tuple(round(c * t) for c, t in zip(paper_colour(rng), tint, strict=True))
    page = Page(rng, PORTRAIT, paper)
    x = rng.randint(18, 28)
    width = page.width - 2 * x
    y = page.title(page.width / 2, rng.randint(24, 36), "VEHICLE REGISTRATION CERTIFICATE", 13)
    page.text(x, y, f"No. {rng.randint(1000, 9999)}-{rng.randint(100000, 999999)}", 8)
    page.text(page.width - x, y, f"First registered {date(rng)}", 8, anchor="ra")
    labels = [f"{i + 1} {words(rng, 12)}" for i in range(10)]
    masked = {0, 2, 3, 4, 6} | {rng.randrange(10)}
    y = page.grid(x, y + 14, [width * s for s in (0.18, 0.32, 0.18, 0.32)], 5, 22, lambda r,
                  c: labels[2 * r + c // 2] if c % 2 == 0 else MASKED if 2 * r + c // 2 in masked
                  else words(rng, 16), 7, side=shade(paper, 0.9))
    page.text(x, y + 8, "The vehicle is registered as above under the Motor Vehicle Act.", 8)
    page.text(page.width / 2, y + 28, date(rng), 11, anchor="ma")
    page.text(page.width / 2 - 20, y + 48, f"Mayor of {words(rng, 10).title()}", 14, bold=True,
              anchor="ma")
    page.seal(page.width / 2 + 90, y + 54, rng.randint(20, 24), square=True)
    y += 86
    for column in range(2):
        page.grid(x + column * width / 2, y, [width * 0.2, width * 0.28], rng.randint(11, 12), 20,
                  lambda r, c: words(rng, 12) if c == 0 else rng.choice((number(rng, 4) + " mm",
                                                                         date(rng), "")), 7,
                  heading=shade(paper, 0.85))
    y = page.office(x, y + 248, ("Mortgage", "Keeper"), width * 0.8, step=16)
    page.prose(x, y, width, max(1, int((page.height - y - 14) // 9)), 7)
    return photograph_sheet(rng, page.array())
