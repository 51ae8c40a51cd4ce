"""The page's part on the member that reads words in images.

    content = texts_content(audit, heads, texts, judged)     # for texts.html.jinja
"""
from typing import NamedTuple

import numpy as np

from reporting.pictures import class_names, image_of

MOST_GRAMS = 8        # that speak for a class
FEWEST_LETTERS = 4    # of such an n-gram: shorter ones cannot be read
MOST_DECIDED = 12     # images
MOST_LETTERS = 200    # of an image's text


class Judged(NamedTuple):
    """Out-of-fold rows: ids, and what the blend, the blend without words, and the words alone say.

    ids [n]; each of the others (n, C).
    """

    ids: list
    blend: np.ndarray
    others: np.ndarray
    words: np.ndarray


def texts_content(audit, heads, texts, judged):
    """What the page shows of the words in images.

    heads: [TextHead] of the folds. texts: {sample id: its words}. judged: Judged, None without
    other sources or a weight.
    """
    names = class_names(audit)
    return {"spoken": [(name, grams) for name, grams in zip(names, spoken(heads), strict=True)],
            "decided": decided(audit, names, texts, judged) if judged else []}


def spoken(heads):
    """[the n-grams that speak most for a class] of each class: the mean over the folds.

    An n-gram within one that is listed already is left out.
    """
    total = {}
    for head in heads:
        for gram, weight in zip(head.grams.tolist(), (head.linear.weight * head.idf).T,
                                strict=True):
            total[gram] = total.get(gram, 0) + weight
    grams = list(total)
    weights = np.array([total[gram] for gram in grams])
    weights = weights - weights.mean(1, keepdims=True)
    found = []
    for column in weights.T:
        kept = []
        for row in np.argsort(-column, kind="stable"):
            gram = grams[row].strip()
            is_new = not any(gram in other or other in gram for other in kept)
            if len(gram) >= FEWEST_LETTERS and is_new and column[row] > 0:
                kept.append(gram)
            if len(kept) == MOST_GRAMS:
                break
        found.append(kept)
    return found


def decided(audit, names, texts, judged):
    """Images whose answer is that of the words and not of the other sources, the surest first."""
    answer = judged.blend.argmax(1)
    before = judged.others.argmax(1)
    rows = np.flatnonzero((answer != before) & (judged.words.argmax(1) == answer))
    surest = rows[np.argsort(-judged.words[rows, answer[rows]], kind="stable")][:MOST_DECIDED]
    row_of = {sample: row for row, sample in enumerate(audit.train.sample_id.tolist())}
    shown = []
    for row in surest.tolist():
        sample = judged.ids[row]
        shown.append({
            **image_of(audit, row_of[sample], names), "answer": names[answer[row]],
            "before": names[before[row]], "sure": float(judged.words[row, answer[row]]),
            "text": texts.get(sample, "")[:MOST_LETTERS]})
    return shown
