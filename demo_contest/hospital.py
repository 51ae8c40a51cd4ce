"""Classes 3, 4, 7 and 14: four certificates that hospitals print on the same letter paper.

A hospital's style says nothing about the class. The title does, when it can be read. So does a
block that most papers of the class have and few others: an admission period, a grid of disease
codes, a list of visit dates, or a long free text.
"""
from dataclasses import dataclass

from demo_contest.canvas import (
    MASKED,
    PORTRAIT,
    Page,
    columns_of,
    date,
    jitter,
    paper_colour,
    photograph_sheet,
    shade,
    words,
)

CONFIRMATION = 3
DIAGNOSIS = 4
OUTPATIENT = 7
OPINION = 14

TITLES = {
    CONFIRMATION: ("CONFIRMATION OF ADMISSION AND DISCHARGE", "ADMISSION AND DISCHARGE RECORD",
                   "CERTIFICATE OF HOSPITALIZATION", "INPATIENT CONFIRMATION",
                   "ADMISSION CONFIRMATION"),
    DIAGNOSIS: ("DIAGNOSIS", "MEDICAL DIAGNOSIS"),
    OUTPATIENT: ("OUTPATIENT CERTIFICATE", "CERTIFICATE OF OUTPATIENT VISITS",
                 "TREATMENT CERTIFICATE", "CONFIRMATION OF VISIT", "OUTPATIENT CONFIRMATION",
                 "CONFIRMATION OF TREATMENT", "VISIT RECORD"),
    OPINION: ("STATEMENT OF OPINION", "MEDICAL OPINION"),
}
CUE_SHARE = 0.75            # papers with their own class's block
OTHER_CUE_SHARE = 0.10      # papers with a given other class's block


@dataclass(frozen=True)
class Style:
    """One hospital's letter paper."""

    frame: str              # none, single, double, rules (above and below)
    title: str              # m: centred; l: left; boxed
    tint: tuple | None      # fill of table labels
    head: str               # above the title: none, logo, band, number
    patient_rows: int
    text_size: int
    foot: str               # seal, square, line
    body_first: bool        # the common text comes before the class's block


STYLES = (
    Style("single", "m", (205, 205, 205), "number", 4, 8, "seal", False),
    Style("none", "m", None, "logo", 3, 8, "seal", True),
    Style("double", "m", (190, 205, 190), "none", 5, 8, "square", False),
    Style("rules", "l", (190, 200, 215), "logo", 3, 9, "line", True),
    Style("none", "boxed", None, "number", 4, 7, "square", False),
    Style("single", "m", (215, 205, 180), "band", 3, 8, "seal", True),
    Style("none", "l", (200, 200, 210), "band", 6, 7, "line", False),
    Style("double", "boxed", None, "logo", 2, 9, "seal", True),
    Style("rules", "m", (215, 195, 195), "number", 5, 7, "square", True),
    Style("single", "boxed", (185, 205, 210), "none", 2, 8, "line", False),
)
PATIENT_LABELS = ("Name", "Resident No.", "Address", "Phone", "Chart No.", "Department")


def draw_certificate(rng, class_id):
    """One certificate of class 3, 4, 7 or 14."""
    style = rng.choice(STYLES)
    page = Page(rng, PORTRAIT, paper_colour(rng))
    margin = rng.randint(26, 42)
    width = page.width - 2 * margin
    y = _head(page, style, margin, rng.randint(22, 40))
    y = _title(page, style, margin, y, rng.choice(TITLES[class_id]))
    y = _patient(page, style, margin, y + rng.randint(4, 12), width)

    cues = []
    for other in TITLES:
        share = CUE_SHARE if other == class_id else OTHER_CUE_SHARE
        if rng.random() < share:
            cues.append(CUES[other])
    blocks = [_common, *cues] if style.body_first else [*cues, _common]
    for block in blocks:
        if y < 400:
            y = block(page, style, margin, y + rng.randint(5, 12), width)

    _foot(page, style, margin, max(y + 10, rng.randint(440, 480)), width)
    _frame(page, style, margin)
    return photograph_sheet(rng, page.array())


# ---------------------------------------------------------------- what all four share

def _head(page, style, x, y):
    rng = page.rng
    if style.head == "logo":
        colour = (rng.randint(20, 120), rng.randint(60, 140), rng.randint(80, 180))
        page.pen.ellipse((x, y, x + 22, y + 22), fill=colour)
        page.text(x + 28, y + 6, f"{words(rng, 12).title()} Hospital", 11, ink=colour)
        return y + 34
    if style.head == "band":
        page.band(x - 6, y, page.width - 2 * x + 12, 12, jitter(rng, (90, 120, 160), 40))
        return y + 24
    if style.head == "number":
        page.text(x, y, f"No. {rng.randint(1000, 99999)}", 8)
        page.text(page.width - x, y, date(rng), 8, anchor="ra")
        return y + 18
    return y + 6


def _title(page, style, margin, y, text):
    cap_height = page.rng.randint(16, 22)
    if style.title == "l":
        return page.title(margin, y, text, cap_height, "l", max_width=page.width - 2 * margin) + 4
    below = page.title(page.width / 2, y + 4, text, cap_height)
    if style.title == "boxed":
        page.box(margin, y - 4, page.width - 2 * margin, below - y + 2, line=2)
    return below + 4


def _patient(page, style, x, y, width):
    """A table of labels and black bars; departments and dates are legible."""
    rng = page.rng
    labels = rng.sample(PATIENT_LABELS, k=min(style.patient_rows, len(PATIENT_LABELS)))
    values = [words(rng, 18) if label == "Department" else MASKED for label in labels]
    others = [date(rng) if i % 2 else MASKED for i in range(len(labels))]

    def cell(row, column):
        second = ("Sex / Age", "Visit", "Ward")[row % 3]
        return (labels[row], values[row], second, others[row])[column]

    row_height = rng.randint(20, 26)
    widths = columns_of(width, 0.17, 0.33, 0.17, 0.33)
    return page.grid(x, y, widths, len(labels), row_height, cell, style.text_size, side=style.tint)


def _common(page, style, x, y, width):
    """The disease and a text about it, which every certificate has."""
    heading = page.rng.choice(("Disease", "Name of disease", "Findings", "Remarks"))
    page.text(x, y, heading, style.text_size, bold=True)
    return page.prose(x + 12, y + 14, width - 16, page.rng.randint(8, 13), style.text_size)


def _foot(page, style, x, y, width):
    rng = page.rng
    page.prose(x, y - 4, width, 2, 6)
    page.text(page.width / 2, y + 22, date(rng), 10, anchor="ma")
    page.office(x, y + 38, ("Hospital", "License", "Doctor"), width * rng.uniform(0.5, 0.65))
    if style.foot == "line":
        page.box(x + width * 0.55, y + 70, width * 0.4, 0)
    else:
        left = x + width * rng.uniform(0.75, 0.92)
        page.seal(left, y + 58, rng.randint(15, 21), square=style.foot == "square")


def _frame(page, style, margin):
    inset = margin - 12
    width = page.width - 2 * inset
    height = page.height - 2 * inset
    if style.frame == "rules":
        for y in (inset, inset + height):
            page.box(inset, y, width, 0, line=2)
    elif style.frame != "none":
        page.box(inset, inset, width, height, line=2)
        if style.frame == "double":
            page.box(inset + 4, inset + 4, width - 8, height - 8, outline=shade(page.ink, 2))


# ---------------------------------------------------------------- one weak cue each

def _admission(page, style, x, y, width):
    """An admission period: from, to, number of days."""
    rng = page.rng
    cells = ("Admitted", date(rng), "Discharged", date(rng), f"{rng.randint(2, 60)} days")
    widths = columns_of(width, 0.17, 0.24, 0.19, 0.24, 0.16)

    def cell(row, column):
        return cells[column]

    return page.grid(x, y, widths, 1, rng.randint(22, 30), cell, style.text_size, side=style.tint)


def _codes(page, style, x, y, width):
    """A grid of disease codes: a letter and four digits, one character a cell."""
    rng = page.rng
    rows = [f"{rng.choice('ABCEGHIJKLMNRSTZ')}{rng.randint(0, 9999):04d}"
            for _ in range(rng.randint(2, 4))]
    side = 15
    name = rng.choice(("Code", "KCD", "Disease code"))
    page.text(x, y + 3, name, style.text_size)
    left = x + width - 5 * side if rng.random() < 0.6 else x + 70

    def cell(row, column):
        return rows[row][column]

    return page.grid(left, y, [side] * 5, len(rows), side, cell, 9)


def _visits(page, style, x, y, width):
    """The dates of visits, three or four a line."""
    rng = page.rng
    columns = rng.randint(3, 4)
    n_rows = rng.randint(3, 7)
    page.text(x, y, f"Visits: {columns * n_rows}", style.text_size, bold=True)
    for row in range(n_rows):
        for column in range(columns):
            left = x + 8 + column * width / columns
            page.text(left, y + 15 + row * 13, date(rng), style.text_size + 1)
    return y + 18 + n_rows * 13


def _opinion(page, style, x, y, width):
    """A long free text."""
    heading = page.rng.choice(("Opinion", "Course and opinion"))
    page.text(x, y, heading, style.text_size, bold=True)
    return page.prose(x + 4, y + 14, width - 8, page.rng.randint(16, 22), style.text_size)


CUES = {CONFIRMATION: _admission, DIAGNOSIS: _codes, OUTPATIENT: _visits, OPINION: _opinion}
