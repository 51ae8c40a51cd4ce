"""What a run leaves for programs, and the lines it closes with. Nothing here computes a score; the
page is in page.py."""
from pathlib import Path

from system.log import duration
from utils import write_json


def training_results(config, fits, path):
    """training_results.json: every fit with every epoch."""
    write_json(path,
               {"config": config, "fits": [{"name": f.spec.name, "backbone": f.spec.backbone,
                                            "seed": f.spec.seed, "round": f.spec.round,
                                            "fold": f.spec.fold, "folder": f.folder.name,
                                            "seconds": f.seconds,
                                            "peak_memory_bytes": f.peak_memory_bytes,
                                            "skipped_steps": f.skipped_steps,
                                            "valid_scores": scores, "epochs": list(f.epochs)} for f,
                                           scores in fits]})


def closing_lines(final, table, folder):
    """What a run prints last. table: SourceRows."""
    width = max(len("source"), *(len(row.name) for row in table))
    yield f"\nscores are {final['metric']}, {final['better']} is better"
    yield f"{'source':<{width}}  folds  out of fold  fold sd  views  weight  seconds"
    for r in table:
        sd = "-" if r.fold_sd is None else f"{r.fold_sd:.4f}"
        yield (
            f"{r.name:<{width}}  {r.folds:>5}  {r.score:>11.4f}  {sd:>7}  {r.views:>5}  {r.weight:>6.3f}  {r.seconds:>7.0f}"
            + (f"  {r.note}" if r.note else "")
        )
    for r in table:
        if r.views_dropped:
            yield f"{r.name}: dropped as they hurt on out-of-fold rows: {', '.join(r.views_dropped)}"
    if len(table) > 1:
        blend = final["blend"]
        each = ", ".join(f"{m} {v:.4f}" for m, v in blend.nested_by_method.items())
        yield f"{'blend by ' + blend.method + ', nested':<36} {blend.score_nested:.4f}  (of {each})"
    for r in final["rounds"][1:]:
        taught = [f"{sum(r['pseudo_labels'].values()):.0f} test images as pseudo-labels"] if r[
            "pseudo_labels"] else []
        taught += [f"distillation for {r['distillation']:.0%} of the loss"] if r[
            "distillation"] else []
        yield (f"round {r['round']}: {', '.join(taught) or 'nothing to teach'}; with it the blend "
               f"{r['change']:+.4f} ({r['change_ci90'][0]:+.4f} to {r['change_ci90'][1]:+.4f}), "
               + ("used" if r["used"] else "not used"))
    score = final["score"]
    for key, text in (("oof_clean", "out of fold, images as they are"),
                      ("oof_testlike", "out of fold, made like the test set"),
                      ("expected", f"expected {final['metric']} of the submission")):
        yield f"{text:<36} {score[key]:.4f}  (90 % interval {score[key + '_ci90'][0]:.4f} to {score[key + '_ci90'][1]:.4f})"
    if "by_confidence" in score:
        yield f"{'  by sureness on the test images':<36} {score['by_confidence']:.4f}"
    if "test" in score:
        yield f"{'got on the test set':<36} {score['test']:.4f}"
    if final["plan"]["estimated_seconds"]:
        yield f"{'fits':<36} {duration(final['plan']['seconds'])}, planned were {duration(final['plan']['estimated_seconds'])}"
    if final["submission"]:
        yield f"submission  {Path(folder) / final['submission']}"
    yield f"report      {Path(folder) / 'report.html'}  ({len(final['warnings'])} warning(s), {final['seconds']:.0f} s)"
