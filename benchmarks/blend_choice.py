"""How much the choice among blend methods, or rounds, flatters the score, on simulated sources.

    python -m benchmarks.blend_choice [--seeds 100] [--rows 100 300] [--metrics macro_f1 log_loss]
    python -m benchmarks.blend_choice --rounds

Each seed draws sources of random quality, with errors in common, for a few labelled rows and 20,000
others, whose score is the truth. Optimism is the reported score less the truth, in standard
deviations of the score over resampled rows, larger is too good. What it is for a method that nobody
chose, on average over the methods, is subtracted: it is the luck of the rows. Prints mean and
standard error over seeds, for the best method's own score and for the nested one that is reported.
--rounds: the same of whether a second round joins, which knows as much as the first.
"""
import argparse

import numpy as np

from ensemble.blend import METHODS, fit_blend, fit_recipes, fit_rounds
from ensemble.metrics import METRICS, resamples

N_CLASSES = 5
N_SOURCES = 6
N_FRESH = 20000


def simulated(n, rng):
    """(labels (n,), {source: {view: probs (n, C)}}) of a few rows, then of many."""
    strengths = rng.uniform(0.2, 1.5, N_SOURCES)
    shares = rng.uniform(0.3, 0.9, N_SOURCES)     # of a source's errors that all have
    labels = rng.integers(0, N_CLASSES, n + N_FRESH)
    common = rng.standard_normal((len(labels), N_CLASSES))
    sources = {}
    for i, (strength, share) in enumerate(zip(strengths, shares, strict=True)):
        own = rng.standard_normal(common.shape)
        noise = np.sqrt(share) * common + np.sqrt(1 - share) * own
        odds = np.exp(noise + strength * np.eye(N_CLASSES)[labels])
        sources[f"m{i}"] = odds / odds.sum(1, keepdims=True)

    def part(rows):
        return labels[rows], {name: {"identity": probs[rows]} for name, probs in sources.items()}

    return part(slice(n)), part(slice(n, None))


def optimism(metric, n, seed):
    """(of the best method's own score, of the nested score), in standard deviations."""
    rng = np.random.default_rng(seed)
    (labels, sources), (fresh_labels, fresh) = simulated(n, rng)
    parts = rng.permutation(n) % 5
    blend, nested = fit_blend(sources, labels, parts, metric)
    recipes = fit_recipes(sources, labels, list(METHODS))
    truth = {method: metric(fresh_labels, recipe.probs(fresh))
             for method, recipe in recipes.items()}
    luck = np.mean([blend.nested_by_method[method] - truth[method] for method in METHODS])
    draws = [metric(labels[rows], nested.answers[rows])
             for rows in resamples(np.arange(n), 200, rng)]

    def too_good(reported):
        return metric.sign * (reported - truth[blend.method] - luck) / np.std(draws)

    return too_good(blend.nested_by_method[blend.method]), too_good(blend.score_nested)


def optimism_of_rounds(metric, n, seed):
    """`optimism` of the choice whether the second half of the sources joins the first."""
    rng = np.random.default_rng(seed)
    (labels, sources), (fresh_labels, fresh) = simulated(n, rng)
    parts = rng.permutation(n) % 5
    first = list(sources)[:N_SOURCES // 2]
    blend, nested, (_, second) = fit_rounds(
        sources, {name: int(name not in first) for name in sources}, labels, parts, metric,
        "mean", groups=np.arange(n), draws=200, seed=seed)
    scores = {}
    truth = {}
    for joins, names in ((False, first), (True, list(sources))):
        own, _ = fit_blend({name: sources[name] for name in names}, labels, parts, metric, "mean")
        scores[joins] = own.score_nested
        truth[joins] = metric(fresh_labels, own.probs(fresh))
    luck = np.mean([scores[joins] - truth[joins] for joins in scores])
    draws = [metric(labels[rows], nested.answers[rows])
             for rows in resamples(np.arange(n), 200, rng)]

    def too_good(reported):
        return metric.sign * (reported - truth[second.used] - luck) / np.std(draws)

    return too_good(scores[second.used]), too_good(blend.score_nested)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--metrics", nargs="+", default=["macro_f1", "log_loss"],
                        choices=[name for name, m in METRICS.items() if m.answer != "grade"])
    parser.add_argument("--rounds", action="store_true", help="the choice of a second round")
    args = parser.parse_args()
    measure = optimism_of_rounds if args.rounds else optimism
    for name in args.metrics:
        for n in args.rows:
            found = np.array([measure(METRICS[name], n, seed) for seed in range(args.seeds)])
            own, nested = [f"{mean:+.3f} ± {error:.3f}" for mean, error in zip(
                found.mean(0), found.std(0, ddof=1) / np.sqrt(args.seeds), strict=True)]
            what = "score of the rounds that join" if args.rounds else "best method's own score"
            print(f"{name:18} {n:4} rows, n={args.seeds}: {what} {own}, nested {nested}",
                  flush=True)


if __name__ == "__main__":
    main()
