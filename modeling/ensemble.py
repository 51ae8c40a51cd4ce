"""Out-of-fold predictions -> blend weights -> one prediction, scored on rows that no weight was fitted to.

Each source is one backbone, seed and round over all its folds. Its probabilities are first calibrated by one
temperature; then candidates are compared by *nested* cross-validation: weights are fitted on all parts but one and
scored on that one, so that the score of the winner holds what choosing it has cost.
"""
from dataclasses import dataclass

import numpy as np

from modeling.inference import Predictions
from modeling.metrics import fit_temperature, log_loss, normalized, with_temperature
from utils import RunError

GREEDY_STEPS = 30


@dataclass(frozen=True)
class Blend:
    """weights by source, >= 0 and summing to 1; temperature by source; score of the blend on its own rows and nested."""

    method: str
    weights: dict[str, float]
    temperature: dict[str, float]
    score: float
    score_nested: float
    nested_by_method: dict[str, float]

    def __post_init__(self):
        values = list(self.weights.values())
        if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
            raise RunError(f"Blend.weights must be >= 0 and sum to 1, got {self.weights}")

    def apply(self, predictions):
        """The blend of {source: Predictions of the same samples}, joined by id; sources of weight 0 are not read."""
        used = [name for name, weight in self.weights.items() if weight > 0]
        first = predictions[used[0]]
        stack = [with_temperature(predictions[name].align(first.sample_id.tolist()), self.temperature[name])
                 for name in used]
        probs = np.tensordot([self.weights[name] for name in used], np.stack(stack), axes=1)
        return Predictions(first.sample_id, normalized(probs).astype(np.float32), first.classes, first.split, tuple(used))


def mean_weights(stack, labels, metric):
    """1/m each. stack (m, n, C) -> (m,)"""
    return np.full(len(stack), 1 / len(stack))


def greedy_weights(stack, labels, metric):
    """Ensemble selection with replacement (Caruana et al., ICML 2004): add the member that helps most, count, normalise.

    It goes by log loss whatever the metric: macro-F1 on a few hundred rows rewards members that are noise.
    """
    counts, total = np.zeros(len(stack)), np.zeros(stack.shape[1:])
    best_counts, best = None, np.inf
    for step in range(1, GREEDY_STEPS + 1):
        losses = [log_loss(labels, (total + member) / step) for member in stack]
        pick = int(np.argmin(losses))
        counts[pick] += 1
        total += stack[pick]
        if losses[pick] < best:
            best, best_counts = losses[pick], counts.copy()
    return best_counts / best_counts.sum()


METHODS = {"mean": mean_weights, "greedy": greedy_weights}


def goodness(metric, labels, probs):
    """(metric with larger better, minus log loss): equal scores are told apart."""
    return metric.sign * metric(labels, probs), -log_loss(labels, probs)


def fit_blend(sources, labels, parts, metric, method="auto"):
    """The Blend of {name: probs (n, C)} on labels (n,), nested over parts (n,) (fold numbers), and its nested probs (n, C).

    `method` auto takes the winner of the nested comparison. One source needs no weights and has no nesting to pay for.
    """
    names, raw = list(sources), np.stack(list(sources.values()))
    methods = [method] if method in METHODS else ["mean"] if len(names) == 1 else list(METHODS)
    nested = {m: nested_probs(raw, labels, parts, metric, METHODS[m]) for m in methods}
    scores = {m: metric(labels, probs) for m, probs in nested.items()}
    winner = max(methods, key=lambda m: goodness(metric, labels, nested[m]))
    temperature, stack = calibrated(raw, labels)
    weights = METHODS[winner](stack, labels, metric)
    blend = Blend(winner, dict(zip(names, weights.tolist(), strict=True)), dict(zip(names, temperature, strict=True)),
                  metric(labels, np.tensordot(weights, stack, axes=1)), scores[winner], scores)
    return blend, nested[winner]


def calibrated(raw, labels):
    """A temperature per source and the calibrated (m, n, C)."""
    temperature = [fit_temperature(labels, probs) for probs in raw]
    return temperature, np.stack([with_temperature(p, t) for p, t in zip(raw, temperature, strict=True)])


def nested_probs(raw, labels, parts, metric, weigh):
    """Blended probabilities (n, C) of which each part's rows come from weights and temperatures fitted on the others."""
    if len(np.unique(parts)) < 2:
        if len(raw) > 1:
            raise RunError("a blend of several sources must be nested over at least two parts, got one: train two folds")
        return raw[0]
    out = np.zeros(raw.shape[1:])
    for part in np.unique(parts):
        held, rest = parts == part, parts != part
        temperature, stack = calibrated(raw[:, rest], labels[rest])
        weights = weigh(stack, labels[rest], metric)
        held_stack = [with_temperature(p, t) for p, t in zip(raw[:, held], temperature, strict=True)]
        out[held] = np.tensordot(weights, np.stack(held_stack), axes=1)
    return out
