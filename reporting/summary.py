"""What a run leaves for programs, and the lines it closes with. No score is computed here."""
import shlex
from pathlib import Path

from system.log import duration
from utils import write_json

# of a run's scores, in the order they are shown
SCORES = {"oof_clean": "out of fold, images as they are",
          "oof_testlike": "out of fold, made like the test set",
          "by_confidence": "by sureness on the test images",
          "expected": "expected of the submission", "test": "got on the test set (answers known)"}


def training_results(config, fits, path):
    """training_results.json: every fit with every epoch. fits: [(FitResult, {split: score})]."""
    rows = [{"name": result.spec.name, "backbone": result.spec.backbone, "seed": result.spec.seed,
             "round": result.spec.round, "fold": result.spec.fold, "folder": result.folder.name,
             "seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes,
             "skipped_steps": result.skipped_steps, "valid_scores": scores,
             "epochs": list(result.epochs)} for result, scores in fits]
    write_json(path, {"config": config, "fits": rows})


# ---------------------------------------------------------------- the closing lines

def closing_lines(final, table, folder):
    """What a run prints last. final: of final_results.json. table: SourceRows."""
    yield f"scores are {final['metric']}, {final['better']} is better"
    yield from source_lines(table)
    if len(table) > 1:
        yield blend_line(final["blend"])
    yield from map(round_line, final["rounds"][1:])
    yield from score_lines(final["score"], final["metric"])
    plan = final["plan"]
    if plan["estimated_seconds"]:
        yield (f"{'fits':<36} {duration(plan['seconds'])}, planned were "
               f"{duration(plan['estimated_seconds'])}")
    if final["submission"]:
        yield f"submission  {Path(folder) / final['submission']}"
    else:
        run = shlex.quote(str(folder))
        yield f"new images  python predict.py {run} IMAGES_OR_FOLDER"
    yield (f"report      {Path(folder) / 'report.html'}  ({len(final['warnings'])} warning(s), "
           f"{final['seconds']:.0f} s)")


def source_lines(table):
    """The table of sources, then what each adds and which views it has dropped."""
    width = max(len("source"), *(len(row.name) for row in table))
    yield f"{'source':<{width}}  folds  out of fold  fold sd  views  weight  seconds"
    for row in table:
        fold_sd = "-" if row.fold_sd is None else f"{row.fold_sd:.4f}"
        line = (f"{row.name:<{width}}  {row.folds:>5}  {row.score:>11.4f}  {fold_sd:>7}  "
                f"{row.views:>5}  {row.weight:>6.3f}  {row.seconds:>7.0f}")
        yield f"{line}  {row.note}" if row.note else line
    for row in table:
        if row.adds is not None:
            low, high = row.adds_ci90
            yield f"{row.name}: adds {row.adds:+.4f} to the blend ({low:+.4f} to {high:+.4f})"
    for row in table:
        if row.views_dropped:
            yield (f"{row.name}: dropped as they hurt on out-of-fold rows: "
                   f"{', '.join(row.views_dropped)}")


def blend_line(blend):
    """How the sources are blended, its nested score, and each method's that it was chosen by."""
    each = ", ".join(f"{method} {score:.4f}" for method, score in blend.nested_by_method.items())
    title = f"blend by {blend.method}, nested"
    return f"{title:<36} {blend.score_nested:.4f}  (each alone: {each})"


def round_line(row):
    """What a later round was taught and what it changed."""
    taught = []
    if row["pseudo_labels"]:
        taught.append(f"{sum(row['pseudo_labels'].values()):.0f} test images as pseudo-labels")
    if row["distillation"]:
        taught.append(f"distillation for {row['distillation']:.0%} of the loss")
    low, high = row["change_ci90"]
    return (f"round {row['round']}: {', '.join(taught) or 'nothing to teach'}; with it the blend "
            f"{row['change']:+.4f} ({low:+.4f} to {high:+.4f}), "
            f"{'used' if row['used'] else 'not used'}")


def score_lines(score, metric):
    """The scores, those out of fold and the expected one with their intervals."""
    texts = {"oof_clean": SCORES["oof_clean"], "oof_testlike": SCORES["oof_testlike"],
             "expected": f"expected {metric} of the submission"}
    for key, text in texts.items():
        low, high = score[f"{key}_ci90"]
        yield f"{text:<36} {score[key]:.4f}  (90 % interval {low:.4f} to {high:.4f})"
    if "by_confidence" in score:
        yield f"{'  ' + SCORES['by_confidence']:<36} {score['by_confidence']:.4f}"
    if "test" in score:
        yield f"{'got on the test set':<36} {score['test']:.4f}"
