"""Two finished runs on the images that both have predicted out of fold: which one is better?

    compared = compare(folder_a, folder_b)
    print(*lines_of(compared), sep="\\n")
"""
import zipfile
from pathlib import Path

import numpy as np

from contest.audit import TARGET, read_catalog
from ensemble.metrics import paired_change
from ensemble.scores import FEWEST_GROUPS
from ensemble.tasks import TASKS
from modeling.inference import Predictions
from reporting.summary import SCORES
from utils import UserError, read_json, seed_of

SPLITS = {"out_of_fold": "oof_testlike", "out_of_fold_clean": "oof_clean"}
DRAWS = 1000
FEWEST_ROWS = 2


def compare(one, other, metric=""):
    """{"a", "b", "metric", "n", "n_relabelled", "splits"} of two run folders.

    splits: {split: {"a", "b": scores, "change": how much better b is, "change_ci90"}}. The labels
    are b's. metric: its name, '' for the runs' own.
    """
    finals = [final_of(folder) for folder in (one, other)]
    metric = common_metric(finals, metric)
    labels, groups, n_relabelled = truth(one, other, finals)
    splits = {}
    for split in SPLITS:
        said = [predicted(folder, final, split)
                for folder, final in zip((one, other), finals, strict=True)]
        of_first = set(said[0].sample_id.tolist())
        ids = [sample for sample in said[1].sample_id.tolist()
               if sample in of_first and sample in labels]
        if len(ids) < FEWEST_ROWS:
            raise UserError("--compare needs two runs with out-of-fold predictions of the same "
                            f"images, and {Path(one).name!r} and {Path(other).name!r} share "
                            f"{len(ids)}: name two runs on one contest folder")
        cuts = [final.get("blend", {}).get("cuts", ()) for final in finals]
        splits[split] = paired(metric, ids, said, labels, groups, cuts)
    return {"a": Path(one).name, "b": Path(other).name, "metric": metric.name,
            "better": metric.better, "n": len(ids), "n_relabelled": n_relabelled,
            "splits": splits}


def final_of(folder):
    """final_results.json of a finished run."""
    try:
        final = read_json(Path(folder) / "final_results.json")
    except (OSError, ValueError):      # the sentence below says so
        final = {}
    if not isinstance(final, dict) or set(SPLITS) - set(final.get("predictions", ())):
        raise UserError(f"--compare must name two finished runs, and {str(folder)!r} is none: "
                        "check the name and --results_dir, or finish it by its own command")
    return final


def predicted(folder, final, split):
    """The out-of-fold Predictions of a run's blend."""
    path = Path(folder) / final["predictions"][split]
    try:
        return Predictions.load(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:      # whatever it lacks
        raise UserError(f"--compare needs {str(path)!r} as its run wrote it ({error}): run its own "
                        "command again") from None


def common_metric(finals, asked):
    """The Metric of both runs, or the one that is asked for."""
    names = {asked} if asked else {final["metric"] for final in finals}
    if len(names) > 1:
        raise UserError("--compare needs one metric for both runs, got "
                        f"{' and '.join(sorted(names))}: add --metric NAME")
    name, = names
    tasks = {final.get("task", "single") for final in finals}
    if len(tasks) > 1:
        raise UserError(f"--compare needs two runs of one task, got {' and '.join(sorted(tasks))}: "
                        "name two runs on one contest folder")
    return TASKS[tasks.pop()].find_metric(name)


def truth(one, other, finals):
    """({id: label}, {id: group}, how many common labels differ) of the later run."""
    classes = [final["classes"] for final in finals]
    if sorted(classes[0]) != sorted(classes[1]):
        raise UserError(f"--compare needs two runs with the same classes, and {Path(one).name!r} "
                        f"has {len(classes[0])}, {Path(other).name!r} {len(classes[1])}, not all "
                        "alike: name two runs on one contest folder")
    first, second = (labelled(folder, final)
                     for folder, final in zip((one, other), finals, strict=True))
    n_relabelled = sum(first[i][0] != second[i][0] for i in first.keys() & second.keys())
    index = {name: k for k, name in enumerate(classes[1])}
    return ({i: index.get(label, label) for i, (label, _) in second.items()},
            {i: group for i, (_, group) in second.items()}, n_relabelled)


def labelled(folder, final):
    """{id: (class value or row of the target, group)} of the labelled images of a run, by its
    latest audit."""
    found = sorted(Path(folder).glob("audit-*/catalog_train.csv"),
                   key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"--compare needs the labels of {str(folder)!r}, whose audit-* is gone: "
                        "run its own command again")
    catalog, left_out = read_catalog(found[-1], final["classes"], "/", final.get("task", "single"),
                                     found[-1].with_name(TARGET))
    said = [catalog.classes[k] for k in catalog.label.tolist()] if catalog.target is None else (
        map(tuple, catalog.target.tolist()))
    return {sample: (label, group) for sample, label, group, reason in zip(
        catalog.sample_id.tolist(), said, catalog.group.tolist(), left_out.tolist(), strict=True)
        if not reason}


def paired(metric, ids, said, labels, groups, cuts):
    """The scores of two Predictions on these images, each cut as its blend's are, and the interval
    of their difference."""
    truth = np.array([labels[sample] for sample in ids])
    names = said[1].classes
    probs = []
    for each, own_cuts in zip(said, cuts, strict=True):
        row_of = {sample: row for row, sample in enumerate(each.sample_id.tolist())}
        columns = [each.classes.index(name) for name in names]
        own = each.probs[[row_of[sample] for sample in ids]]
        probs.append((metric.cut(own, own_cuts) if own_cuts else own)[:, columns])
    own = np.array([groups[sample] for sample in ids])
    if len(set(own.tolist())) < FEWEST_GROUPS:
        own = np.arange(len(ids))
    change, ci90 = paired_change(metric, truth, *probs, groups=own, draws=DRAWS,
                                 seed=seed_of("compare"))
    return {"a": metric(truth, probs[0]), "b": metric(truth, probs[1]), "change": change,
            "change_ci90": ci90}


def lines_of(compared):
    """What is printed of it."""
    a, b, metric = compared["a"], compared["b"], compared["metric"]
    yield (f"{metric} on the {compared['n']} images that {a} and {b} both predicted out of fold "
           f"({compared['better']} is better)")
    for split, key in SPLITS.items():
        row = compared["splits"][split]
        low, high = row["change_ci90"]
        yield (f"{SCORES[key]:<36} {a} {row['a']:.4f}, {b} {row['b']:.4f}: {row['change']:+.4f} "
               f"(90 % interval {low:+.4f} to {high:+.4f}), {verdict(b, row)}")
    if compared["n_relabelled"]:
        yield (f"{compared['n_relabelled']} images have another label in {b} than in {a}: both "
               f"are scored by the labels of {b}")


def verdict(name, row):
    """What an interval says of the difference."""
    low, high = row["change_ci90"]
    if low == high == 0:
        return "no difference"
    if low > 0:
        return f"{name} is better"
    if high < 0:
        return f"{name} is worse"
    return "no clear difference"
