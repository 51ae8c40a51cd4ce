"""What a run leaves for people and programs: two JSON files, the closing lines, the page. Nothing here computes a score."""
import base64
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import jinja2
import numpy as np

from modeling.augment import DISTORTIONS, ClassGroup, by_class, distort
from utils import duration, plain, read_json, write_atomic, write_json

STRIP_IMAGES, STRIP_HEIGHT_PX, MOST_STATISTICS = 8, 104, 12


class SourceRow(NamedTuple):
    """A source of the blend in the summary: its out-of-fold score and that score's standard deviation over folds."""

    name: str
    folds: int
    score: float
    fold_sd: float
    weight: float
    views: int
    views_dropped: tuple[str, ...]
    note: str               # why it has weight 0
    seconds: float


def training_results(config, fits, path):
    """training_results.json: every fit with every epoch."""
    write_json(path, {
        "config": config,
        "fits": [{"name": f.spec.name, "backbone": f.spec.backbone, "seed": f.spec.seed, "round": f.spec.round,
                  "fold": f.spec.fold, "folder": f.folder.name, "seconds": f.seconds,
                  "peak_memory_bytes": f.peak_memory_bytes, "skipped_steps": f.skipped_steps,
                  "valid_scores": scores, "epochs": list(f.epochs)} for f, scores in fits]})


def closing_lines(final, table, folder):
    """What a run prints last. table: SourceRows."""
    width = max(len("source"), *(len(row.name) for row in table))
    yield f"\nscores are {final['metric']}, {final['better']} is better"
    yield f"{'source':<{width}}  folds  out of fold  fold sd  views  weight  seconds"
    for r in table:
        sd = f"{r.fold_sd:.4f}" if r.folds > 1 else "-"
        yield (f"{r.name:<{width}}  {r.folds:>5}  {r.score:>11.4f}  {sd:>7}  {r.views:>5}  {r.weight:>6.3f}  {r.seconds:>7.0f}"
               + (f"  {r.note}" if r.note else ""))
    for r in table:
        if r.views_dropped:
            yield f"{r.name}: dropped as they hurt on out-of-fold rows: {', '.join(r.views_dropped)}"
    if len(table) > 1:
        blend = final["blend"]
        each = ", ".join(f"{m} {v:.4f}" for m, v in blend.nested_by_method.items())
        yield f"{'blend by ' + blend.method + ', nested':<36} {blend.score_nested:.4f}  (of {each})"
    for r in final["rounds"][1:]:
        yield (f"round {r['round']}: {sum(r['pseudo_labels'].values()):.0f} test images as pseudo-labels; with it the blend "
               f"{r['change']:+.4f} ({r['change_ci90'][0]:+.4f} to {r['change_ci90'][1]:+.4f}), "
               + ("used" if r["used"] else "not used"))
    score = final["score"]
    for key, text in (("oof_clean", "out of fold, images as they are"),
                      ("oof_testlike", "out of fold, made like the test set"),
                      ("expected", f"expected {final['metric']} of the submission")):
        yield f"{text:<36} {score[key]:.4f}  (90 % interval {score[key + '_ci90'][0]:.4f} to {score[key + '_ci90'][1]:.4f})"
    yield f"{'  by sureness on the test images':<36} {score['by_confidence']:.4f}"
    if "test" in score:
        yield f"{'got on the test set':<36} {score['test']:.4f}"
    if final["plan"]["estimated_seconds"]:
        yield f"{'fits':<36} {duration(final['plan']['seconds'])}, planned were {duration(final['plan']['estimated_seconds'])}"
    if final["submission"]:
        yield f"submission  {Path(folder) / final['submission']}"
    yield f"report      {Path(folder) / 'report.html'}  ({len(final['warnings'])} warning(s), {final['seconds']:.0f} s)"


# ---------------------------------------------------------------- the page

def write_page(path, *, final, table, fits, shift, audit, config, command):
    """report.html: one self-contained page. All text is escaped by Jinja2; nothing is fetched."""
    template = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                                  undefined=jinja2.StrictUndefined).get_template("report.html.jinja")
    curves, loss_range = loss_curves([[e["loss"] for e in f.epochs] for f in fits])
    statistics = sorted(shift["statistics"].items(), key=lambda item: -abs(item[1]["auc"] - 0.5))[:MOST_STATISTICS]
    write_atomic(path, template.render(
        final=final, table=table, curves=curves, loss_range=loss_range, shift=shift,
        statistics=[(name, values, quantile_bars(values)) for name, values in statistics],
        strips=strips(audit, shift) if shift["auc_before"] else [], units={k: v[2] for k, v in DISTORTIONS.items()},
        command=command, config=json.dumps(plain(config), indent=1),
        environment=json.dumps(read_json(Path(path).parent / "environment.json"), indent=1)))


def loss_curves(losses, width=640, height=200):
    """SVG points per fit, and the (lowest, highest) loss that the height stands for."""
    low, high = min(map(min, losses)), max(map(max, losses))

    def point(i, loss, n):
        x, y = i / max(1, n - 1), (loss - low) / max(high - low, 1e-9)
        return f"{10 + (width - 20) * x:.1f},{height - 20 - (height - 40) * y:.1f}"

    return [" ".join(point(i, loss, len(fit)) for i, loss in enumerate(fit)) for fit in losses], (low, high)


def quantile_bars(values, width=180):
    """{split: (x of the 10, 50 and 90 % quantile)} on one scale for the three splits of a statistic."""
    splits = ("train", "test", "matched")
    low, high = (f([f(values[split]) for split in splits]) for f in (min, max))
    return {split: [4 + (width - 8) * (q - low) / max(high - low, 1e-9) for q in values[split]] for split in splits}


def strips(audit, shift):
    """[(caption, base64 JPEGs)] of training images, test images and training images under the policy."""
    policies = by_class([ClassGroup.from_json(g) for g in shift["groups"]], audit.train.classes, lambda group: group.policy)
    rng = np.random.default_rng(shift["examples"].get("seed", 0))
    train, test = audit.train_pixels, audit.test_pixels
    rows = rng.permutation(len(train))[:STRIP_IMAGES].tolist()
    matched = [distort(train[r], policies[audit.train.label[r]], r, lambda seed: train[seed % len(train)]) for r in rows]
    return [("Training images", [thumbnail(train[r]) for r in rows]),
            ("Test images", [thumbnail(test[r]) for r in rng.permutation(len(test))[:STRIP_IMAGES].tolist()]),
            ("The training images above, matched", [thumbnail(image) for image in matched])]


def thumbnail(image):
    """uint8 (H, W, 3) RGB as a small base64 JPEG."""
    width = max(1, round(image.shape[1] * STRIP_HEIGHT_PX / image.shape[0]))
    small = cv2.resize(image, (width, STRIP_HEIGHT_PX), interpolation=cv2.INTER_AREA)
    return base64.b64encode(cv2.imencode(".jpg", small[..., ::-1])[1].tobytes()).decode()
