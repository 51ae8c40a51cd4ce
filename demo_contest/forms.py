"""Classes 1, 6, 10, 11, 12, 13 and 15: forms that differ by their layout.

6 and 11 are receipts in coloured tables. They differ only in bands and sizes, and a few of each
look like the other.
"""
import functools

from demo_contest.canvas import (
    LANDSCAPE,
    MASKED,
    PORTRAIT,
    Page,
    columns_of,
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
LANDSCAPE_SHARE = 0.65          # receipts printed across the page
BAND_COLOURS = ((120, 160, 205), (130, 185, 150), (215, 150, 150), (205, 180, 120),
                (170, 150, 200), (120, 180, 190))


@functools.lru_cache(maxsize=1)
def _pregnancy_form():
    """The printed part of class 1, the same for everybody, on white to be multiplied with paper."""
    rng = rng_of("pregnancy form")
    page = Page(rng, PORTRAIT, (255, 255, 255))
    page.text(30, 20, "[ Form No. 17 ]", 7)
    y = page.title(page.width / 2, 34, "APPLICATION FOR PAYMENT OF PREGNANCY MEDICAL EXPENSES", 10,
                   max_width=400)
    labels = [words(rng, 14).title() for _ in range(40)]

    def applicant(row, column):
        return labels[4 * row + column] if column % 2 == 0 else ""

    def item(row, column):
        return str(row + 1) if column == 0 else words(rng, 96)

    def visit(row, column):
        return words(rng, 12) if row == 0 or column == 0 else ""

    def notice(row, column):
        return words(rng, 88)

    y = page.grid(26, y + 4, [60, 100, 60, 171], 7, 17, applicant, 6, side=(205, 205, 205))
    y = page.grid(26, y + 6, [22, 369], 5, 20, item, 6, heading=(215, 215, 215),
                  side=(220, 220, 220))
    for row in range(4):
        for column in range(3):
            page.box(34 + column * 128, y + 8 + row * 13, 7, 7)
            page.text(45 + column * 128, y + 7 + row * 13, words(rng, 22), 7)
    y = page.grid(26, y + 66, [48, 98, 98, 98, 49], 6, 15, visit, 6, heading=(205, 205, 205))
    y = page.prose(26, y + 6, 390, 6, 6, 1.35)
    page.text(page.width / 2, y + 10, "Year        Month        Day", 8, anchor="ma")
    page.text(250, y + 26, "Applicant             (seal)", 8)
    y = page.grid(26, y + 42, [391], 2, 26, notice, 6, heading=(225, 225, 225))
    page.prose(26, y + 4, 390, max(1, int((578 - y) // 9)), 6, 1.35)
    return page.array()


def draw_pregnancy_application(rng):
    """The form above, filled in: bars, a few dates, ticks, a signature."""
    paper = paper_colour(rng)
    ink = jitter(rng, (40, 40, 90), 30)
    printed = _pregnancy_form().astype("uint16") * paper // 255
    page = Page(rng, PORTRAIT, printed.astype("uint8"), ink)
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


def _lines_below(page, y, used):
    """How many lines of 9 px fit below y, less `used` px."""
    return max(1, int((page.height - y - used) // 9))


# ---------------------------------------------------------------- receipts

def draw_receipt(rng, pharmacy):
    """Class 6 (a medical bill) or 11 (a pharmacy's); a lookalike has the other's layout."""
    size = LANDSCAPE if rng.random() < LANDSCAPE_SHARE else PORTRAIT
    page = Page(rng, size, paper_colour(rng))
    colour = jitter(rng, rng.choice(BAND_COLOURS), 14)
    lookalike = rng.random() < LOOKALIKE_SHARE
    if pharmacy != lookalike:
        _pharmacy_body(page, colour)
    else:
        _bill_body(page, colour)
    return photograph_sheet(rng, page.array())


def _bill_body(page, colour):
    """Thin rows under thin bands over nearly the whole page, and a column of sums at the right."""
    rng = page.rng
    margin = rng.randint(14, 26)
    width = page.width - 2 * margin
    rows = rng.randint(11, 15)
    title = rng.choice(("MEDICAL BILL RECEIPT", "RECEIPT OF MEDICAL EXPENSES"))
    page.text(margin, margin, title, 15, bold=True)
    kind = rng.choice(("Inpatient [ ]  Outpatient [v]", "Copy", ""))
    page.text(page.width - margin, margin + 4, kind, 8, anchor="ra")

    def patient(row, column):
        if column % 2 == 0:
            return words(rng, 10)
        return MASKED if row == 0 else date(rng)

    def amount(row, column):
        if column == 0 or row == 0:
            return labels[row]
        if rng.random() < 0.6:
            return number(rng, rng.randint(3, 6))
        return ""

    widths = columns_of(width, 0.2, 0.3, 0.2, 0.3)
    y = page.grid(margin, margin + 24, widths, 2, 18, patient, side=colour)
    step = (page.height - margin - 40 - y) / (rows + 1)
    left = width * 0.66
    labels = [words(rng, 12) for _ in range(rows)]
    widths = columns_of(left, 0.31, 0.23, 0.23, 0.23)
    page.grid(margin, y + 6, widths, rows, step, amount, heading=colour, side=shade(colour, 1.15))

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
    """A smaller form: thick bands, a list of drugs with their colours, a large sum."""
    rng = page.rng
    height = page.height * rng.uniform(0.6, 0.85)
    margin = rng.randint(22, 50)
    width = page.width - 2 * margin
    top = rng.randint(18, 40)
    page.band(margin, top, width, 34, colour)
    title = rng.choice(("PHARMACY RECEIPT", "DRUG RECEIPT"))
    page.text(margin + 10, top + 9, title, 16, ink=(245, 245, 245), bold=True)
    page.bar(margin + width - 96, top + 10, 84, 14)

    y = top + 40
    drugs = rng.randint(3, 6)
    step = (height - 170) / drugs
    for _ in range(drugs):
        package = jitter(rng, rng.choice(BAND_COLOURS), 40)
        page.band(margin + 4, y + 3, min(34, step * 1.2), step - 8, package)
        page.text(margin + 46, y + 3, words(rng, 18).title(), 10, bold=True)
        page.prose(margin + 46, y + 17, width * 0.45, max(1, int((step - 18) // 10)), 7)
        dose = f"{rng.randint(1, 3)} x {rng.randint(1, 3)}    {rng.randint(3, 30)} days"
        page.text(margin + width * 0.68, y + 4, dose, 9)
        page.box(margin, y + step - 2, width, 0, outline=colour)
        y += step

    def insurance(row, column):
        return words(rng, 9) if row == 0 else number(rng, 5)

    page.band(margin, y + 4, width, 26, shade(colour, 1.1))
    page.text(margin + 8, y + 11, "Total", 12)
    page.text(margin + width - 8, y + 8, number(rng, 5), 17, bold=True, anchor="ra")
    y = page.grid(margin, y + 36, [width / 4] * 4, 2, 20, insurance, 8)
    page.text(margin + width, y + 8, date(rng), 9, anchor="ra")
    y = page.office(margin, y + 7, ("Pharmacy", "Tax No."), width * 0.7)
    page.box(margin - 4, top - 4, width + 8, y + 8 - top, outline=colour, line=3)
    page.prose(margin, y + 14, width, _lines_below(page, y, 30), 7)


# ---------------------------------------------------------------- other forms

def draw_payment_confirmation(rng):
    """A table of months and amounts with a sum below."""
    page = Page(rng, PORTRAIT, paper_colour(rng))
    margin = rng.randint(28, 44)
    width = page.width - 2 * margin
    heading = rng.choice(((195, 205, 215), (205, 205, 205), (205, 212, 195), None))
    top = rng.randint(28, 50)
    title = rng.choice(("PAYMENT CONFIRMATION", "CONFIRMATION OF PAYMENT",
                        "MEDICAL EXPENSE PAYMENTS"))
    y = page.title(page.width / 2, top, title, rng.randint(14, 18))

    def patient(row, column):
        if row == 0:
            return ("Name", MASKED, "Resident No.", MASKED)[column]
        return ("Period", date(rng), "Use", words(rng, 14))[column]

    widths = columns_of(width, 0.2, 0.3, 0.2, 0.3)
    y = page.grid(margin, y + 10, widths, rng.randint(2, 3), 20, patient, 8, side=heading)
    columns = rng.randint(4, 6)
    year = rng.randint(2015, 2024)

    def payment(row, column):
        if row == 0:
            return ("Month", "Total", "Insurer", "Paid", "Cash", "Card")[column]
        if row == 13:
            return "Sum" if column == 0 else number(rng, 7)
        if column == 0:
            return f"{year}.{row:02d}"
        if rng.random() < 0.8:
            return number(rng, rng.randint(4, 6))
        return "0"

    y += rng.randint(12, 24)
    row_height = rng.randint(17, 21)
    y = page.grid(margin, y, [width / columns] * columns, 14, row_height, payment, 8, heading)
    page.prose(margin, y + 4, width, 3, 7)
    page.text(page.width / 2, y + 36, date(rng), 10, anchor="ma")
    page.office(margin + 40, y + 56, ("Hospital", "Tax No.", "Director"), 240, step=20)
    page.seal(margin + 310, y + 80, 18, square=rng.random() < 0.5)
    page.prose(margin, y + 120, width, _lines_below(page, y, 136), 7)
    return photograph_sheet(rng, page.array())


def draw_prescription(rng):
    """Patient beside hospital, a long, half empty list of drugs, then the pharmacist's part."""
    page = Page(rng, PORTRAIT, paper_colour(rng))
    x = rng.randint(20, 32)
    width = page.width - 2 * x
    top = rng.randint(18, 30)
    title = rng.choice(("PRESCRIPTION", "P R E S C R I P T I O N"))
    y = page.title(page.width / 2, top, title, 15)
    page.text(x, y, f"[v] Insured  [ ] Aid  [ ] Other      No. {rng.randint(1000, 99999)}", 7)
    patient_end, y = _prescription_head(page, x, y + 14, width)
    n_rows = rng.randint(11, 13)
    n_drugs = rng.randint(2, 7)

    def drug(row, column):
        if row == 0:
            return ("Drug", "Dose", "Times", "Days", "Usage")[column]
        if row > n_drugs:
            return ""
        return words(rng, 30) if column in (0, 4) else str(rng.randint(1, 9))

    def pharmacist(row, column):
        if column == 0:
            return words(rng, 12)
        return MASKED if column == 1 and row < 2 else ""

    y = page.grid(x, y + 6, columns_of(width, 0.5, 0.1, 0.1, 0.1, 0.2), n_rows, 16, drug,
                  heading=(210, 210, 210))
    page.text(x, y + 5, f"Valid for {rng.randint(3, 7)} days from the date of issue", 8)
    y = page.grid(x, y + 20, columns_of(width, 0.2, 0.3, 0.5), 5, 20, pharmacist,
                  heading=(220, 220, 220))
    page.seal(x + width * 0.85, patient_end - 14, 14)
    page.prose(x, y + 6, width, _lines_below(page, y, 20), 7)
    return photograph_sheet(rng, page.array())


def _prescription_head(page, x, y, width):
    """The patient's grid, the clinic's beside it and the codes below; (y below each of the two)."""
    rng = page.rng

    def patient(row, column):
        if column == 0:
            return ("Patient", "Number", "Visit")[row]
        return MASKED if row < 2 else date(rng)

    def clinic(row, column):
        if column == 0:
            return ("Clinic", "Phone", "Fax", "E-mail")[row]
        return words(rng, 16) if row == 0 else MASKED

    def code(row, column):
        if column == 0:
            return "Code"
        if column < 6:
            return rng.choice("JKMR0123456789")
        return "Doctor" if column == 6 else MASKED

    patient_end = page.grid(x, y, columns_of(width, 0.14, 0.34), 3, 24, patient)
    page.grid(x + width * 0.5, y, columns_of(width, 0.16, 0.34), 4, 18, clinic)
    widths = columns_of(width, 0.1, *[0.06] * 5, 0.3, 0.3)
    return patient_end, page.grid(x, patient_end + 6, widths, 2, 20, code)


def draw_resume(rng):
    """A barred portrait beside the name, tables of schools and employers, then a paragraph."""
    page = Page(rng, PORTRAIT, paper_colour(rng))
    x = rng.randint(30, 44)
    width = page.width - 2 * x
    top = rng.randint(28, 44)
    title = rng.choice(("RESUME", "R E S U M E", "CURRICULUM VITAE"))
    y = page.title(page.width / 2, top, title, 18) + 10

    photo_x = x
    table_x = x + 92
    if rng.random() < 0.3:
        photo_x = x + width - 84
        table_x = x
    page.band(photo_x, y, 84, 106, jitter(rng, (150, 160, 175), 30))
    page.bar(photo_x + 14, y + 16, 56, 62)
    page.box(photo_x, y, 84, 106)

    def person(row, column):
        if column == 0:
            return ("Name", "Birth", "Phone", "E-mail", "Address")[row]
        return MASKED

    def station(row, column):
        if row == 0:
            return ("Period", "Name", "Note")[column]
        if column == 0:
            return f"{date(rng)[:7]} - {date(rng)[:7]}"
        return words(rng, 24 if column == 1 else 10)

    side = rng.choice(((205, 205, 205), (195, 205, 215), None))
    page.grid(table_x, y, [56, width - 148], 5, 21, person, 8, side=side)
    y += 118
    tables = (("Education", rng.randint(3, 5)), ("Career", rng.randint(4, 7)),
              ("Licenses", rng.randint(2, 4)))
    for title, n_rows in tables:
        page.text(x, y, title, 10, bold=True)
        y = page.grid(x, y + 14, columns_of(width, 0.3, 0.45, 0.25), n_rows, 17, station,
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
    masked = {0, 2, 3, 4, 6, rng.randrange(10)}

    def entry(row, column):
        i = 2 * row + column // 2
        if column % 2 == 0:
            return labels[i]
        return MASKED if i in masked else words(rng, 16)

    def measure(row, column):
        if column == 0:
            return words(rng, 12)
        return rng.choice((number(rng, 4) + " mm", date(rng), ""))

    widths = columns_of(width, 0.18, 0.32, 0.18, 0.32)
    y = page.grid(x, y + 14, widths, 5, 22, entry, 7, side=shade(paper, 0.9))
    page.text(x, y + 8, "The vehicle is registered as above under the Motor Vehicle Act.", 8)
    page.text(page.width / 2, y + 28, date(rng), 11, anchor="ma")
    mayor = f"Mayor of {words(rng, 10).title()}"
    page.text(page.width / 2 - 20, y + 48, mayor, 14, bold=True, anchor="ma")
    page.seal(page.width / 2 + 90, y + 54, rng.randint(20, 24), square=True)

    y += 86
    for left in (x, x + width / 2):
        page.grid(left, y, columns_of(width, 0.2, 0.28), rng.randint(11, 12), 20, measure, 7,
                  heading=shade(paper, 0.85))
    y = page.office(x, y + 248, ("Mortgage", "Keeper"), width * 0.8, step=16)
    page.prose(x, y, width, _lines_below(page, y, 14), 7)
    return photograph_sheet(rng, page.array())
