"""The page's part on out-of-fold rows of images with numbers.

    content = numbers_content(audit, rows, probs, metric, cuts, sure)     # for numbers.html.jinja
"""
import numpy as np

from ensemble.judges import spread, squared_errors
from ensemble.metrics import NUMBER_METRICS, clipped
from reporting.figures import nice_ticks, padded, place
from reporting.pictures import MOST_IMAGES, SPLITS, class_names, image_of

MOST_POINTS = 800
SUSPECT_DEVIATIONS = 4      # of the errors, from the label
PANEL = (36, 292, 264, 8)   # left, right, bottom, top


def numbers_content(audit, rows, probs, metric, cuts, sure):
    """What the page shows of out-of-fold rows.

    rows (n,): of the training catalog. probs: {split: (n, C)}. cuts: of the blend, its ranges.
    sure: those rows whose label someone has kept, which are not named again.
    """
    truth = audit.train.target[rows]
    names = class_names(audit)
    answers = {split: clipped(each, cuts) for split, each in probs.items()}
    first = answers["valid"]
    errors = squared_errors(truth, np.mean(list(answers.values()), axis=0))
    order = np.argsort(-errors, kind="stable")
    suspect = suspects(truth, first)
    hardest = order[~np.isin(order, suspect)][:MOST_IMAGES]

    def shown(row):
        said = ", ".join(f"{value:.4g}" for value in first[row])
        off = np.abs(truth[row] - first[row]) / np.sqrt(spread(truth))
        return {**image_of(audit, rows[row], names), "answer": said,
                "answer_index": int(off.argmax())}

    return {
        "part": "numbers",
        "n": len(rows),
        "scores": [(SPLITS[split], metric(truth, each)) for split, each in answers.items()],
        "panels": [(f"{name}, images {SPLITS[split]}", scatter(truth[:, k], each[:, k]))
                   for split, each in answers.items() for k, name in enumerate(names)],
        "measures": list(NUMBER_METRICS),
        "by_column": [(name, [measured(truth[:, [k]], each[:, [k]]) for each in answers.values()])
                      for k, name in enumerate(names)],
        "splits": [SPLITS[split] for split in answers],
        "suspects": [shown(row) for row in suspect[:MOST_IMAGES]],
        "sure": SUSPECT_DEVIATIONS,
        "hardest": [shown(row) for row in hardest],
        "reliability": [],
    }


def measured(truth, answers):
    """Every metric of one column (n, 1), as text."""
    return [f"{measure(truth, answers):.4g}" for measure in NUMBER_METRICS.values()]


def suspects(truth, answers):
    """Rows with an error of more than SUSPECT_DEVIATIONS robust standard deviations, largest first.
    """
    errors = np.abs(truth - answers)
    # of normal errors the median is 0.6745 deviations
    deviation = np.maximum(np.median(errors, axis=0) / 0.6745, 1e-9 * np.sqrt(spread(truth)))
    worst = (errors / deviation).max(1)
    rows = np.flatnonzero(worst > SUSPECT_DEVIATIONS)
    return rows[np.argsort(-worst[rows], kind="stable")]


def scatter(truth, answers):
    """Points, ticks and the diagonal of answers against truth, on one scale."""
    low, high = padded([*truth.tolist(), *answers.tolist()])
    left, right, bottom, top = PANEL
    some = np.random.default_rng(0).permutation(len(truth))[:MOST_POINTS]

    def x_of(value):
        return round(place(value, low, high, left, right), 1)

    def y_of(value):
        return round(place(value, low, high, bottom, top), 1)

    ticks = [(x_of(t), y_of(t), f"{t:g}") for t in nice_ticks(low, high)]
    points = [(x_of(truth[row]), y_of(answers[row])) for row in some.tolist()]
    return {"points": points, "ticks": ticks, "n": len(truth)}
