"""The page's part on out-of-fold rows of images that show any number of classes.

    content = sets_content(audit, rows, probs, metric, cuts, sure)     # for sets.html.jinja
"""
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from ensemble.judges import cell_losses, cells_as_rows
from ensemble.metrics import f1_of, sets
from reporting.pictures import MOST_IMAGES, SPLITS, class_names, image_of, reliability_rows

MOST_CLASSES = 30
SUSPECT_CHANCE = 0.9      # of a class that the label lacks; 1 less it of one that it has


def sets_content(audit, rows, probs, metric, cuts, sure):
    """What the page shows of out-of-fold rows.

    rows (n,): of the training catalog. probs: {split: (n, C)}. cuts: of the blend, () for 0.5.
    sure: those rows whose label someone has kept, which are not named again.
    """
    truth = audit.train.target[rows]
    names = class_names(audit)
    first = probs["valid"]
    mean = np.mean(list(probs.values()), axis=0)
    suspect = suspects(truth, first)[:MOST_IMAGES]
    hardest = np.argsort(-cell_losses(truth, mean), kind="stable")
    taken = {row for row, _ in suspect}
    hardest = [row for row in hardest.tolist() if row not in taken][:MOST_IMAGES]

    labels, pairs = cells_as_rows(truth, list(probs.values()))

    def shown(row, k, each):
        return {**image_of(audit, rows[row], names), "answer": names[k],
                "answer_index": int(k), "sure": float(each[row, k])}

    return {
        "part": "sets",
        "n": len(rows),
        "scores": [(SPLITS[split], metric(truth, each)) for split, each in probs.items()],
        "splits": [SPLITS[split] for split in probs],
        "by_class": class_rows(truth, probs, names, cuts),
        "together": together(truth, sets(first, cuts), names),
        "n_classes": len(names),
        "suspects": [shown(row, k, first) for row, k in suspect],
        "sure": SUSPECT_CHANCE,
        "hardest": [shown(row, int(np.abs(truth[row] - mean[row]).argmax()), mean)
                    for row in hardest],
        "reliability": reliability_rows(labels, dict(zip(probs, pairs, strict=True))),
    }


def suspects(truth, probs):
    """[(row, class)] of the cells that are most likely wrong, the surest first."""
    doubt = np.abs(truth - probs)
    found = np.argwhere(doubt > SUSPECT_CHANCE)
    order = np.argsort(-doubt[tuple(found.T)], kind="stable")
    return list(map(tuple, found[order].tolist()))


def class_rows(truth, probs, names, cuts):
    """[(class, its images, its threshold, [AUC, average precision, F1 per split])]."""
    thresholds = cuts[:-1] if cuts else [0.5] * len(names)
    rows = []
    for k, name in enumerate(names):
        own = truth[:, k] > 0
        each = []
        for p in probs.values():
            has_both = own.any() and not own.all()
            each.append([roc_auc_score(own, p[:, k]) if has_both else None,
                         average_precision_score(own, p[:, k]) if own.any() else None,
                         float(f1_of(own, sets(p, cuts)[:, k] > 0, axis=0))])
        rows.append((name, int(own.sum()), thresholds[k], each))
    return rows


def together(truth, answers, names):
    """[(class, [(share of its images that have the other too, the same of the answers)])] of the
    most frequent classes."""
    shown = np.sort(np.argsort(-truth.sum(0), kind="stable")[:MOST_CLASSES]).tolist()
    rows = []
    for k in shown:
        cells = []
        for j in shown:
            both = [float((each[:, k] * each[:, j]).sum() / max(1, each[:, k].sum()))
                    for each in (truth, answers)]
            cells.append((names[j], *both))
        rows.append((names[k], cells))
    return rows
