"""Classifiers on the words in images: n-grams of letters and one logistic regression per fold.

    heads = fit_text_heads(texts, labels, folds, weigh)      # {fold: TextHead}
    logits = heads[0].logits(["diagnosis\\nhospital"])         # (n, C)

Blind: a fold's n-grams, their weights and its classifier's strength come from the other folds'
rows. Letters: n images, m readings of each (as it is, distorted), G n-grams, C classes.
"""
import io
import json
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from modeling.frozen import Linear, fit_by_fold, fit_layer
from utils import UserError

# tried inverse penalties, as frozen.STRENGTHS; rows have length 1 here and are not standardised
STRENGTHS = (300.0, 1000.0, 3000.0, 10000.0, 30000.0, 100000.0)
LETTERS = (2, 5)         # in an n-gram, which lies within a word and its spaces
LEAST_CONFIDENCE = 0.5   # of a line that counts
FEWEST_TEXTS = 2         # that an n-gram is in
MOST_GRAMS = 20000       # the most frequent


def text_of(lines):
    """What [Line] say, for a classifier: small letters, each digit as 0, a line below the other.

    The number of lines is a word of its own.
    """
    kept = [line.text.lower() for line in lines if line.confidence >= LEAST_CONFIDENCE]
    said = "\n".join("".join("0" if c.isdigit() else c for c in text) for text in kept)
    return f"{said}\n<{len(kept)}>"


def counter(vocabulary=None):
    """Counts the n-grams of texts."""
    return CountVectorizer(analyzer="char_wb", ngram_range=LETTERS, lowercase=False,
                           vocabulary=vocabulary)


@dataclass(frozen=True)
class TextHead:
    """grams (G,) str, their weight by rareness idf (G,), and the Linear on what they make."""

    grams: np.ndarray
    idf: np.ndarray
    linear: Linear

    def rows(self, texts):
        """Sparse (n, G) of length 1, or 0 without a known n-gram."""
        counts = counter(self.grams.tolist()).transform(texts)
        return weighted(counts, self.idf)

    def logits(self, texts):
        """(n, C)"""
        return self.rows(texts) @ self.linear.weight.T + self.linear.bias

    def says(self, text):
        """(C, G): how much each n-gram of a text speaks for each class."""
        return self.rows([text]).toarray() * self.linear.weight

    def save(self, path):
        """Write it as one file."""
        values = {f.name: getattr(self.linear, f.name) for f in fields(Linear)}
        # numpy's strings end at their last zero byte
        np.savez(path, grams=json.dumps(self.grams.tolist()), idf=self.idf, **values)

    @classmethod
    def load(cls, path):
        """What `save` wrote. UserError if it is damaged."""
        try:
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as f:
                linear = Linear(f["weight"], f["bias"], float(f["strength"]), float(f["loss"]))
                return cls(np.array(json.loads(str(f["grams"])), dtype=object), f["idf"], linear)
        except (ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(
                f"{path} must be as its run wrote it, but is damaged ({error}): copy the run's "
                "folder again, or run its training command again") from None


def weighted(counts, idf):
    """Rows of counts (n, G) as TF-IDF of length 1."""
    transformer = TfidfTransformer(sublinear_tf=True)
    transformer.idf_ = idf
    return transformer.transform(counts)


def fit_text_heads(texts, labels, folds, weigh, workers=1):
    """{fold: TextHead} on texts [m][n], each fitted on the rows of all other folds.

    The rest as in `frozen.fit_heads`.
    """
    vectorizer = counter().fit([text for version in texts for text in version])
    grams = vectorizer.get_feature_names_out()
    counts = [vectorizer.transform(version) for version in texts]

    def loss(head, rows):
        own = np.flatnonzero(rows)
        kept = np.searchsorted(grams, head.grams)
        return float(np.mean([
            head.linear.losses(weighted(version[own][:, kept], head.idf), labels[own])
            for version in counts]))

    return fit_by_fold(partial(fit_text_head, counts, grams, labels, weigh), loss, folds, STRENGTHS,
                       workers)


def fit_text_head(counts, grams, labels, weigh, rows, strength):
    """The TextHead of these rows (a mask). counts: m times sparse (n, G), of all n-grams."""
    own = vstack([version[np.flatnonzero(rows)] for version in counts]).tocsr()
    n_texts = np.bincount(own.indices, minlength=own.shape[1])
    order = np.argsort(-n_texts, kind="stable")[:MOST_GRAMS]
    n_kept = max(1, np.count_nonzero(n_texts[order] >= FEWEST_TEXTS))
    kept = np.sort(order[:n_kept])
    idf = TfidfTransformer().fit(own[:, kept]).idf_
    features = weighted(own[:, kept], idf)
    answers = np.tile(labels[rows], len(counts))
    weight, bias = fit_layer(features, answers, weigh(labels[rows]), strength)
    linear = Linear(weight.astype(np.float32), bias.astype(np.float32), strength)
    linear = replace(linear, loss=float(linear.losses(features, answers).mean()))
    return TextHead(grams[kept], idf, linear)
