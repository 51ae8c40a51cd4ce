"""Other tasks than one class an image: read as downloaded, trained, blended and submitted."""
import json
import math
import pickle
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from timm.loss import AsymmetricLossMultiLabel

import predict
from config import Config, DataConfig, build_config, with_values
from contest.catalog import Catalog
from contest.intake import read_contest
from contest.targets import bins_of
from data_loader import Batch, make_folds
from ensemble.blend import fit_blend
from ensemble.judges import JUDGES
from ensemble.metrics import METRICS, NUMBER_METRICS, SET_METRICS, SOFT_METRICS
from ensemble.tasks import TASKS
from grandmaster_train import main
from modeling.guard import Learning
from modeling.heads import LinearHead
from modeling.losses import Distilled, EachByItself, Numbers
from reporting.curves import FOLDER as CURVES
from reporting.curves import read_curve
from running.export import Exported
from running.predictor import load_predictor
from tests.conftest import small_argv
from tests.test_formats import (
    FAST,
    Asked,
    as_text,
    draw_test,
    edit,
    images,
    rows_of,
    table,
)
from tests.test_layers import PRODUCT, ROOT
from utils import UserError

# ---------------------------------------------------------------- the layouts


def sets_of(classes, n, seed=0, least=1):
    """n sets of classes, each class in some."""
    rng = np.random.default_rng(seed)
    found = [[c for c in classes if rng.random() < 0.4] for _ in range(n)]
    return [s if len(s) >= least else [classes[i % len(classes)]] for i, s in enumerate(found)]


def planet(root):
    """Sets of words with blanks between, as in Planet's Amazon."""
    classes, ids = ["agriculture", "clear", "haze", "primary", "water"], ["test_2", "test_0"]
    rows = [(f"train_{i}", " ".join(s)) for i, s in enumerate(sets_of(classes, 24))]
    images(root / "train-jpg", [f"{i}.jpg" for i, _ in rows])
    draw_test(root / "test-jpg", [f"{i}.jpg" for i in ids])
    table(root / "train_v2.csv", ("image_name", "tags"), *rows)
    table(root / "sample_submission_v2.csv", ("image_name", "tags"),
          *((i, "primary clear agriculture") for i in ids))
    return Asked(["image_name", "tags"], ids, "set", classes)


def protein(root):
    """Sets of numbers in descending order, as in the Human Protein Atlas."""
    classes, ids = [str(k) for k in (0, 1, 2, 10, 16)], ["t9", "t10", "t1"]
    rows = [(f"a{i}", " ".join(sorted(s, key=int, reverse=True)))
            for i, s in enumerate(sets_of(classes, 24, seed=1))]
    images(root / "train", [f"{i}.png" for i, _ in rows])
    draw_test(root / "test", [f"{i}.png" for i in ids])
    table(root / "train.csv", ("Id", "Target"), *rows)
    table(root / "sample_submission.csv", ("Id", "Predicted"), *((i, 0) for i in ids))
    return Asked(["Id", "Predicted"], ids, "descending", classes, ("--metric", "macro_f1"))


def xray(root):
    """A column of 0 and 1 per class, probabilities asked for, some images of no class, patients."""
    classes, ids = ["Edema", "Hernia", "Mass"], ["p1.jpg", "p0.jpg", "p3.jpg"]
    rows = [(f"x{i}.jpg", *(int(c in s) for c in classes), f"patient{i // 2}")
            for i, s in enumerate(sets_of(classes, 24, seed=2, least=0))]
    images(root / "train", [r[0] for r in rows])
    draw_test(root / "test", ids)
    table(root / "train.csv", ("image", *classes, "PatientId"), *rows)
    order = classes[::-1]
    table(root / "sample_submission.csv", ("image", *order), *((i, 0, 0, 0) for i in ids))
    return Asked(["image", *order], ids, "chances", order, ("--group_column", "PatientId"))


def flagged(root):
    """The same columns, 0 and 1 asked for."""
    return xray(root)._replace(cells="flags", flags=("--metric", "micro_f1"))


def pawpularity(root):
    """A number an image in a table with flags; whole numbers, of which the sample asks fractions.
    """
    ids = ["c1", "a0", "b7"]
    rows = [(f"p{i:02}", i % 2, 1, 4 * i % 97 + 1) for i in range(24)]
    images(root / "train", [f"{r[0]}.jpg" for r in rows])
    draw_test(root / "test", [f"{i}.jpg" for i in ids])
    names = ("Id", "Eyes", "Near", "Pawpularity")
    table(root / "train.csv", names, *rows)
    table(root / "test.csv", names[:-1], *((i, 0, 1) for i in sorted(ids)))
    table(root / "sample_submission.csv", ("Id", "Pawpularity"), *((i, "53.94") for i in ids))
    return Asked(["Id", "Pawpularity"], ids, "numbers", [(1, 94)])


def pasture(root):
    """Three numbers an image, columns of the submission in another order, some cells missing."""
    ids, names = ["t2.png", "t1.png"], ("mass", "height", "slope")
    rng = np.random.default_rng(5)
    rows = [(f"a{i}.png", *(f"{v:.3f}" for v in rng.normal((50, 0.02, -3), (9, 0.004, 1))))
            for i in range(24)]
    rows[3] = (rows[3][0], "nan", *rows[3][2:])
    images(root / "train", [r[0] for r in rows])
    draw_test(root / "test", ids)
    table(root / "labels.csv", ("image", *names), *rows)
    table(root / "sample_submission.csv", ("image", *names[::-1]), *((i, 0, 0, 0) for i in ids))
    ranges = [(min(float(r[k]) for r in rows if r[k] != "nan"),
               max(float(r[k]) for r in rows if r[k] != "nan")) for k in (3, 2, 1)]
    return Asked(["image", *names[::-1]], ids, "numbers", ranges, ("--metric", "r2"))


def seizure(root):
    """Shares of annotators that sum to 1, a column per class."""
    classes, ids = ["lpd", "other", "seizure"], ["e2", "e0", "e1"]
    rng = np.random.default_rng(7)
    rows = [(f"s{i}", *(f"{v:.4f}" for v in rng.dirichlet((1, 1, 1)))) for i in range(24)]
    images(root / "train", [f"{r[0]}.png" for r in rows])
    draw_test(root / "test", [f"{i}.png" for i in ids])
    table(root / "train.csv", ("eeg_id", *classes), *rows)
    table(root / "sample_submission.csv", ("eeg_id", *classes), *((i, *[1 / 3] * 3) for i in ids))
    return Asked(["eeg_id", *classes], ids, "shares", classes, ("--metric", "kl_divergence"))


def voted(root):
    """Three rows an image, of three annotators who may differ; a class asked for."""
    ids = ["t1.png", "t0.png"]
    rows = [(f"a{i}.png", "ab"[(i + (vote == 2) * (i % 3 == 0)) % 2], f"annotator {vote}")
            for i in range(16) for vote in range(3)]
    images(root / "train", [f"a{i}.png" for i in range(16)])
    draw_test(root / "test", ids)
    table(root / "train.csv", ("file", "class", "by"), *rows)
    table(root / "sample_submission.csv", ("file", "class"), *((i, "a") for i in ids))
    return Asked(["file", "class"], ids, "class", ["a", "b"])


def coco(root):
    """COCO's json of training images and annotations, a test folder, no sample."""
    classes, ids = ["cat", "dog", "traffic light"], ["0.jpg", "1.jpg"]
    sets = sets_of(classes, 24, seed=9)
    images(root / "train", [f"{i:04}.jpg" for i in range(24)])
    draw_test(root / "test", ids)
    annotations = [{"id": 100 * i + k, "image_id": i, "category_id": classes.index(c) + 1,
                    "bbox": [0, 0, 4, 4]} for i, s in enumerate(sets) for k, c in enumerate(s + s)]
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps({
        "images": [{"id": i, "file_name": f"{i:04}.jpg"} for i in range(24)],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": c} for k, c in enumerate(classes)]}))
    return Asked(["file", "label"], ids, "bars", classes)


SETS = [planet, protein, xray, flagged, coco]
every_set = pytest.mark.parametrize("layout", SETS, ids=lambda layout: layout.__name__)


# ---------------------------------------------------------------- the checker

def cell_problem(cells, asked):
    if asked.cells in ("set", "descending", "bars"):
        names = cells[0].split("|" if asked.cells == "bars" else " ")
        if len(set(names)) < len(names) or not set(names) <= set(asked.classes):
            return "not known classes, each once"
        order = sorted(names, key=asked.classes.index, reverse=asked.cells == "descending")
        return "" if names == order else "out of order"
    if asked.cells == "class":
        return "" if cells[0] in asked.classes else "no class"
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return "not a number"
    if asked.cells == "shares":
        is_row = all(0 <= v <= 1 for v in values) and abs(sum(values) - 1) < 1e-3
        return "" if is_row else "no shares"
    if asked.cells == "numbers":
        margin = 1e-4
        is_inside = [low - margin * (high - low) <= v <= high + margin * (high - low)
                     for v, (low, high) in zip(values, asked.classes, strict=False)]
        return "" if all(is_inside) else "outside the range of the training labels"
    if asked.cells == "flags":
        return "" if set(cells) <= {"0", "1"} else "neither 0 nor 1"
    if asked.cells == "chances" and not all(math.isfinite(v) and 0 <= v <= 1 for v in values):
        return "no probability"
    return "" if all(map(math.isfinite, values)) else "not finite"


def problems(rows, asked):
    """What a contest's host would refuse in a submission; empty for a good one."""
    if not rows or rows[0] != asked.header:
        return ["columns"]
    if any(len(row) != len(asked.header) for row in rows):
        return ["a row has too few or too many cells"]
    ids = [row[0] for row in rows[1:]]
    found = []
    if Counter(ids) != Counter(asked.ids):
        found.append("missing, repeated or foreign ids")
    elif ids != asked.ids:
        found.append("rows out of order")
    return found + [text for row in rows[1:] if (text := cell_problem(row[1:], asked))]


BAD_CELLS = {
    "bars": [["cat dog"], ["cat|cat"], ["Cat"], [""], ["dog|cat"], ["cat|"]],
    "set": [["clear,water"], ["clear clear"], ["Clear"], [""], ["water clear"], [" clear"]],
    "descending": [["0 16"], ["16 16"], ["3"], ["16, 0"], ["16.0"], [""]],
    "chances": [["0.5", "0.5", "1.2"], ["0.5", "0.5", "-0.1"], ["0.5", "0.5", "nan"],
                ["Mass", "0", "0"], ["0.5", "0.5"], ["", "", ""]],
    "flags": [["1", "0", "0.5"], ["1", "0", "2"], ["1.0", "0", "0"], ["1", "0", ""], ["1", "0"],
              ["True", "0", "0"]],
    "shares": [["0.5", "0.5", "0.2"], ["1.1", "-0.1", "0"], ["nan", "0.5", "0.5"],
               ["lpd", "0", "0"], ["0.5", "0.5"], ["", "", ""]],
    "class": [["c"], [""], ["a b"], ["1"], ["A"]],
    "number": [["nan"], ["inf"], ["mass"], [""], ["1e9"], ["-1e9"]],
    "numbers": [["nan", "0.02", "50"], ["inf", "0.02", "50"], ["-3", "0.02"],
                ["-3", "0.02", "mass"], ["-3", "", "50"], ["50", "0.02", "-3"],
                ["-3", "0.02", "1e9"]]}


def broken(rows, bad_cells):
    """Broken versions of a submission."""
    header, *rest = rows
    yield from ([header, *rest[::-1]], [header, *rest[1:]], [header, *rest, rest[0]],
                [header, ["other", *rest[0][1:]], *rest[1:]], [["key", *header[1:]], *rest], rest,
                [[*header[:-1], "y"], *rest])
    yield from ([header, [rest[0][0], *cells], *rest[1:]] for cells in bad_cells)


def run_folder(layout, tmp_path, capsys, *more):
    """A folder of a finished run of one epoch after a good debug; what was printed; Asked."""
    asked = layout(tmp_path / "contest")
    argv = [*small_argv(tmp_path / "contest", tmp_path, *FAST, *more), *asked.flags]
    assert main([*argv, "--mode", "debug"]) == 0
    assert " 0 failed" in capsys.readouterr().out
    assert main(argv) == 0
    return tmp_path / "run", capsys.readouterr().out, asked


def as_exported(folder, images):
    """(what the module that becomes ONNX says of images (B, 3, S, S), what predict.py --fast says).
    """
    predictor = load_predictor(folder, with_values(Config(), {"runtime.device": "cpu",
                                                              "runtime.workers": 0})).fast()
    module = Exported(predictor.network(predictor.best),
                      predictor.blend.temperature[predictor.best.name], predictor.task.decode)
    ids = [f"i{k}" for k in range(len(images))]
    rows = [{"sample_id": i, "path": i} for i in ids]
    pixels = list(images.permute(0, 2, 3, 1).numpy())
    said = predictor.predict_pixels(Catalog.of(rows, predictor.classes), pixels)
    with torch.inference_mode():
        return module.eval()(images).numpy(), said.align(ids)


def submitted(folder, final, asked, n_broken):
    """The rows of a run's submission, which fits its form; at least n_broken broken ones do not."""
    low, high = final["score"]["expected_ci90"]
    assert low <= final["score"]["expected"] <= high
    rows = rows_of(folder / final["submission"])
    assert problems(rows, asked) == []
    is_one_number = asked.cells == "numbers" and len(asked.header) == 2
    versions = list(broken(rows, BAD_CELLS["number" if is_one_number else asked.cells]))
    assert len(versions) >= n_broken and all(problems(version, asked) for version in versions)
    return rows


@every_set
def test_sets_of_classes_go_through_debug_and_a_run_to_a_submission(layout, tmp_path, capsys):
    folder, out, asked = run_folder(layout, tmp_path, capsys)
    final = json.loads((folder / "final_results.json").read_text())
    assert final["task"] == "multilabel" and "--task single" in out.splitlines()[1]
    assert final["metric"] == {"descending": "macro_f1", "chances": "auc",
                               "flags": "micro_f1"}.get(asked.cells, "samples_f1")
    rows = submitted(folder, final, asked, 13)
    page = (folder / "report.html").read_text()
    assert "Which classes occur together" in page and "How well each class is told" in page
    if layout not in (protein, xray, coco):      # one of each form
        return

    assert main([*small_argv(tmp_path / "contest", tmp_path, *FAST), *asked.flags]) == 0
    assert "epochs," not in capsys.readouterr().out       # found done
    assert rows_of(folder / final["submission"]) == rows
    assert predict.main([str(folder), str(tmp_path / "contest"), "--out",
                         str(tmp_path / "p.csv")]) == 0
    own, fast = as_exported(folder, torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8))
    np.testing.assert_allclose(own, fast, atol=1e-4)
    header, *predicted = rows_of(tmp_path / "p.csv")
    assert header[-1] == "labels" and len(header) == len(asked.classes) + 2
    by_name = {row[0].rsplit("/", 1)[-1].split(".")[0]: row for row in predicted}
    for row in rows[1:]:
        said = by_name[row[0].split(".")[0]]
        if asked.cells in ("set", "descending", "bars"):
            joint = "|" if asked.cells == "bars" else " "
            assert set(said[-1].split("|")) == set(row[1].split(joint))
        if asked.cells == "chances":
            chances = [float(said[header.index(f"prob_{c}")]) for c in asked.classes]
            assert chances == pytest.approx([float(cell) for cell in row[1:]], abs=1e-5)


@pytest.mark.parametrize("layout", [seizure, voted], ids=lambda layout: layout.__name__)
def test_soft_labels_go_through_debug_and_a_run_to_a_submission(layout, tmp_path, capsys):
    more = ["rounds=2", "rounds.alpha=0.5"] if layout is voted else []
    folder, _, asked = run_folder(layout, tmp_path, capsys, *more)
    final = json.loads((folder / "final_results.json").read_text())
    assert final["task"] == "soft"
    assert final["metric"] == (asked.flags[-1] if asked.flags else "macro_f1")
    submitted(folder, final, asked, 10)


def test_what_annotators_say_of_one_image_is_averaged(tmp_path):
    voted(tmp_path)
    contest = read_contest(tmp_path, DataConfig())
    shares = dict(zip(contest.train.sample_id.tolist(), contest.train.target.tolist(), strict=True))
    assert contest.train.task == "soft" and len(shares) == 16
    assert shares["a0.png"] == pytest.approx([2 / 3, 1 / 3]) and shares["a1.png"] == [0, 1]
    assert any("48 rows of 16 ids" in p.text for p in contest.problems)
    single = read_contest(tmp_path, DataConfig(task="single"))
    assert single.train.task == "single"
    assert len(single.train) == 10       # the other six were given two classes
    table(tmp_path / "train.csv", ("file", "class"), *((f"a{i}.png", i + 0.5 + vote)
                                                       for i in range(16) for vote in range(3)))
    train = read_contest(tmp_path, DataConfig()).train
    assert train.task == "regression"
    assert sorted(train.target[:, 0].tolist()) == pytest.approx([i + 1.5 for i in range(16)])


@pytest.mark.parametrize("name", SOFT_METRICS)
def test_metrics_of_soft_labels_are_those_of_labels_where_annotators_agree(name):
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=80)
    probs = rng.dirichlet(np.ones(4), 80)
    plain = {"kl_divergence": "log_loss"}.get(name, name)
    soft = SOFT_METRICS[name](np.eye(4)[labels], probs)
    assert soft == pytest.approx(METRICS[plain](labels, probs))
    shares = rng.dirichlet(np.ones(4), 80)
    assert SOFT_METRICS["kl_divergence"](shares, shares) == pytest.approx(0, abs=1e-9)
    sure = JUDGES["soft"].tempered(shares, 0.5)
    assert JUDGES["soft"].fit_temperature(shares, sure) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("layout", [pawpularity, pasture], ids=lambda layout: layout.__name__)
def test_numbers_go_through_debug_and_a_run_to_a_submission(layout, tmp_path, capsys):
    folder, out, asked = run_folder(layout, tmp_path, capsys)
    final = json.loads((folder / "final_results.json").read_text())
    assert final["task"] == "regression" and "--task single" in out.splitlines()[1]
    assert final["metric"] == (asked.flags[-1] if asked.flags else "rmse")
    assert final["score"]["expected"] == final["score"]["oof_testlike"]
    assert "by_confidence" not in final["score"]
    assert any("--set flips=natural" in warning for warning in final["warnings"])
    rows = submitted(folder, final, asked, 13)
    page = (folder / "report.html").read_text()
    assert "Predicted against true" in page and "Calibration" not in page
    points = [point for path in (folder / CURVES).glob("*.csv")
              for point in read_curve(path)]
    assert points and all(point.loss < 30 * point.prior_loss for point in points)   # in its units

    assert predict.main([str(folder), str(tmp_path / "contest"), "--out",
                         str(tmp_path / "p.csv")]) == 0
    own, fast = as_exported(folder, torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8))
    np.testing.assert_allclose(own, fast, rtol=1e-3, atol=1e-4)
    header, *predicted = rows_of(tmp_path / "p.csv")
    by_name = {row[0].rsplit("/", 1)[-1].split(".")[0]: row for row in predicted}
    assert set(header) == set(asked.header) - {asked.header[0]} | {"id"}
    for row in rows[1:]:
        said = by_name[row[0].split(".")[0]]
        assert [float(said[header.index(c)]) for c in asked.header[1:]] == pytest.approx(
            list(map(float, row[1:])), rel=1e-3, abs=1e-4)


def test_a_run_of_numbers_goes_through_two_rounds_and_starts_in_its_own_units(tmp_path, capsys):
    """A second round begins with the first one's weights: with a rate of next to nothing, it says
    what that said, in units of the labels."""
    folder, _, _ = run_folder(pasture, tmp_path, capsys, "rounds=2", "rounds.alpha=0.5",
                              "rounds.warm_start=on", "optim.lr=1e-9")
    final = json.loads((folder / "final_results.json").read_text())
    first, second = (row["score"] for row in final["sources"])
    assert first == pytest.approx(second, abs=0.01)
    assert abs(first) < 0.5      # near the mean of the labels


@pytest.mark.parametrize(("labels", "task"), [
    ([f"{i}.25" for i in range(8)], "regression"),
    ([f"{i % 3}.0" for i in range(12)], "single"),
    ([str(i % 17) for i in range(40)], "single"),
    ([str(i % 100) for i in range(400)], "single"),             # codes without gaps
    ([str(i * i % 997) for i in range(60)], "regression"),      # many, few rows each, with gaps
    (["1", "2.5", "nan", "4"] * 3, "regression")])
def test_numbers_are_measurements_or_classes_as_they_look(labels, task, tmp_path):
    rows = [(f"a{i}.jpg", k) for i, k in enumerate(labels)]
    images(tmp_path / "train", [i for i, _ in rows])
    table(tmp_path / "train.csv", ("image", "value"), *rows)
    assert read_contest(tmp_path, DataConfig()).train.task == task
    if "nan" not in labels:
        assert read_contest(tmp_path, DataConfig(task="single")).train.task == "single"
    if task == "regression":
        train = read_contest(tmp_path, DataConfig()).train
        kept = [label for label in labels if label != "nan"]
        assert sorted(train.target[:, 0].tolist()) == pytest.approx(sorted(map(float, kept)))


def test_a_class_is_no_number(tmp_path):
    planet(tmp_path)
    with pytest.raises(UserError, match=r"column 'tags' of 'train_v2.csv' must hold numbers, got "):
        read_contest(tmp_path, DataConfig(task="regression"))


def test_numbers_are_spread_over_folds_by_their_size(tmp_path):
    pawpularity(tmp_path)
    train = read_contest(tmp_path, DataConfig()).train
    rng = np.random.default_rng(0)
    n = 300
    ids = [f"{i:04}" for i in range(n)]
    target = rng.lognormal(3, 1, (n, 1)).astype(np.float32)
    catalog = replace(train, sample_id=ids, path=ids, sha256=ids, label=bins_of(target),
                      group=[f"g{i // 2}" for i in range(n)], target=target)
    folds = make_folds(catalog, 5, seed=0)
    for group in set(catalog.group.tolist()):
        assert len(set(folds.fold[catalog.group == group].tolist())) == 1
    medians = [np.median(target[folds.fold == k]) for k in range(5)]
    assert max(medians) / min(medians) < 1.4


def test_what_needs_one_class_an_image_is_switched_off_with_a_sentence(tmp_path, capsys):
    config = build_config("competition_ready", ["optim.class_weight_power=1",
                                                "augment.groups=photo=a"])
    config, said = TASKS["multilabel"].adapt(config)
    text = "; ".join(said)
    for word in ("arcface", "focal", "class weights", "pseudo-labels", "groups"):
        assert word in text
    assert config.model.head == "linear" and config.optim.class_weight_power == 0
    assert [round_.unlabelled for round_ in config.rounds] == [False, False]
    assert config.model.frozen == ("auto",)
    assert TASKS["multilabel"].adapt(build_config("quick_test"))[1] == ()


def test_a_run_of_sets_goes_through_two_rounds_with_distillation(tmp_path, capsys):
    folder, _, _ = run_folder(xray, tmp_path, capsys, "rounds=2", "rounds.alpha=0.5",
                                "rounds.warm_start=on", "loss=asymmetric")
    final = json.loads((folder / "final_results.json").read_text())
    assert any("no pseudo-labels" in warning for warning in final["warnings"])
    assert [row["distillation"] for row in final["rounds"]] == [0, 0.5]
    assert len(final["sources"]) == 2


# ---------------------------------------------------------------- reading

def test_a_metric_of_another_task_is_refused_with_the_task_that_has_it(tmp_path, capsys):
    planet(tmp_path / "contest")
    argv = small_argv(tmp_path / "contest", tmp_path)
    assert main([*argv, "--metric", "quadratic_kappa"]) == 2
    assert "--task single has it" in capsys.readouterr().err
    assert main([*argv, "--metric", "auc"]) == 2
    assert "needs one column for each of the 5 classes" in capsys.readouterr().err


def test_the_separator_and_order_of_sets_are_those_of_the_labels(tmp_path):
    planet(tmp_path)
    edit(tmp_path / "train_v2.csv", lambda header, rows: [
        header, *([i, " | ".join(tags.split(" "))] for i, tags in rows)])
    contest = read_contest(tmp_path, DataConfig()).for_metric(SET_METRICS["samples_f1"])
    form = replace(contest.form, ids=("a", "b"))
    assert form.rows([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]) == [("a", "agriculture | haze"), ("b", "")]
    assert form.probs(form.rows([[1, 0, 1, 0, 0], [0] * 5])).tolist() == [[1, 0, 1, 0, 0], [0] * 5]
    assert as_text([form.header])


def test_a_json_of_files_and_lists_of_classes_holds_sets(tmp_path):
    sets = sets_of("abc", 12)
    images(tmp_path / "train", [f"{i}.jpg" for i in range(12)])
    (tmp_path / "labels.json").write_text(json.dumps({f"{i}.jpg": s for i, s in enumerate(sets)}))
    train = read_contest(tmp_path, DataConfig()).train
    found = {name.split(".")[0]: row.tolist() for name, row in zip(train.sample_id.tolist(),
                                                                   train.target, strict=True)}
    assert train.classes == ("a", "b", "c")
    assert found == {str(i): [float(c in s) for c in "abc"] for i, s in enumerate(sets)}


def test_rare_classes_without_a_sample_are_columns_of_0_and_1_where_they_are_asked_for(tmp_path):
    xray(tmp_path)
    (tmp_path / "sample_submission.csv").unlink()
    edit(tmp_path / "train.csv", lambda header, rows: [
        header, *([name, *(cell if i < 6 else 0 for cell in cells), group]
                  for i, (name, *cells, group) in enumerate(rows))])
    with pytest.raises(UserError, match=r"must have one class column"):
        read_contest(tmp_path, DataConfig())
    contest = read_contest(tmp_path, DataConfig(task="multilabel"))
    assert len(contest.train) == 24 and 0 < contest.train.target.any(1).sum() <= 6
    form = contest.for_metric(SET_METRICS["auc"]).form
    assert form.kind == "chances" and form.header == ("image", *contest.train.classes)


def test_tasks_travel_to_other_processes():
    for task in TASKS.values():
        again = pickle.loads(pickle.dumps(task))
        assert again.metrics.keys() == task.metrics.keys() and again.decode is task.decode


def test_no_code_outside_its_files_names_a_task():
    readers = {"config.py", "contest/targets.py", "contest/tables.py", "contest/labels.py",
               "ensemble/tasks.py", "grandmaster_train.py"}
    for path in PRODUCT:
        name = path.relative_to(ROOT).as_posix()
        if name not in readers:
            assert not re.search(r'"(multilabel|regression)"', path.read_text()), name
            assert not re.search(r"task(\.name)? (==|!=|in) ", path.read_text()), name


def test_columns_of_fractions_without_a_sample_are_predicted_where_numbers_are_asked_for(tmp_path):
    pasture(tmp_path)
    (tmp_path / "sample_submission.csv").unlink()
    with pytest.raises(UserError, match=r"--task regression the numbers in 'mass', 'height'"):
        read_contest(tmp_path, DataConfig())
    train = read_contest(tmp_path, DataConfig(task="regression")).train
    assert train.classes == ("mass", "height", "slope") and len(train) == 23


@pytest.mark.parametrize(("labels", "classes"), [
    (["cat;dog", "cat", "dog;big bird", "big bird"], ("big bird", "cat", "dog")),
    (["a|b", "b|c", "c|a"], ("a", "b", "c")),
    (["a, b", "b", "a"], ("a", "b")),
    (["tench, Tinca tinca", "goldfish, Carassius auratus", "shark"], None),
    (["New York", "Boston", "Salt Lake City"], None),
    (["a;1", "b;2", "c;3"], None)])
def test_marks_between_words_make_sets_only_if_words_recur(labels, classes, tmp_path):
    rows = [(f"a{i}.jpg", label) for i, label in enumerate(labels * 4)]
    images(tmp_path / "train", [i for i, _ in rows])
    table(tmp_path / "train.csv", ("image", "label"), *rows)
    train = read_contest(tmp_path, DataConfig()).train
    assert train.classes == (classes or tuple(sorted(labels)))
    assert (train.target is None) == (classes is None)


def test_an_archive_in_place_of_the_folder_says_how_to_unpack_it(tmp_path, capsys):
    (tmp_path / "contest.zip").write_bytes(b"PK")
    assert main(["--data_path", str(tmp_path / "contest.zip")]) == 2
    assert "is an archive: unpack it (python -m zipfile -e FILE DIR)" in capsys.readouterr().err


def test_the_digest_of_a_contest_holds_its_sets(tmp_path):
    from contest.intake import contest_digests
    xray(tmp_path)
    before = contest_digests(read_contest(tmp_path, DataConfig()), 1)[-1]
    edit(tmp_path / "train.csv", lambda header, rows: [
        header, [rows[0][0], 1, 1, 1, rows[0][-1]], *rows[1:]])
    assert contest_digests(read_contest(tmp_path, DataConfig()), 1)[-1] != before


# ---------------------------------------------------------------- folds

def test_sets_are_spread_evenly_over_folds_and_no_group_is_split(tmp_path):
    layout = tmp_path
    xray(layout)
    train = read_contest(layout, DataConfig(group_column="PatientId")).train
    rng = np.random.default_rng(0)
    n = 400
    target = (rng.random((n, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.03]).astype(np.float32)
    ids = [f"{i:04}" for i in range(n)]
    catalog = replace(train, sample_id=ids, path=ids, sha256=ids, label=np.arange(n),
                      group=[f"g{i // 3}" for i in range(n)], classes=tuple("abcdef"),
                      target=target)
    folds = make_folds(catalog, 5, seed=0)
    assert folds.fold.tolist() == make_folds(catalog, 5, seed=0).fold.tolist()
    assert folds.fold.tolist() != make_folds(catalog, 5, seed=1).fold.tolist()
    for group in set(catalog.group.tolist()):
        assert len(set(folds.fold[catalog.group == group].tolist())) == 1
    sizes = np.bincount(folds.fold)
    assert sizes.max() - sizes.min() <= 6
    for k in range(6):
        counts = np.bincount(folds.fold, weights=target[:, k], minlength=5)
        assert counts.max() - counts.min() <= max(2, 0.1 * counts.sum() / 5), (k, counts)


# ---------------------------------------------------------------- losses

def test_the_asymmetric_loss_is_timms():
    logits, targets = torch.randn(8, 5), (torch.rand(8, 5) < 0.3).float()
    own = EachByItself(0.0, torch.zeros(5), negative_gamma=4.0, positive_gamma=1.0, shift=0.05)
    timms = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=1, clip=0.05)
    assert own.losses(logits, targets).mean() * 5 == pytest.approx(float(timms(logits, targets)),
                                                                 rel=1e-4)
    plain = EachByItself(0.0, torch.zeros(5))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert plain.losses(logits, targets).mean() == pytest.approx(float(expected), rel=1e-5)


def test_smoothing_sets_goes_towards_the_share_of_each_class():
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    shares = targets.mean(0)
    objective = EachByItself(0.5, shares)
    batch = Batch(torch.zeros(4, 3, 2, 2), targets, torch.ones(4), torch.arange(4))
    logits = shares.logit().expand(4, 2).clone().requires_grad_()
    loss = objective(lambda images: logits, batch).loss
    slope, = torch.autograd.grad(loss, logits)
    assert slope.sum(0).abs().max() < 1e-6      # the class shares stay the best constant


def test_a_student_of_sets_that_says_what_its_teacher_says_has_no_loss():
    logits = torch.randn(4, 3)
    objective = Distilled(EachByItself(0.0, torch.zeros(3)), [torch.nn.Identity()], 1.0, 2.0)
    batch = Batch(logits, torch.zeros(4, 3), torch.ones(4), torch.arange(4))
    assert float(objective(lambda images: images, batch).loss) == pytest.approx(0, abs=1e-6)
    assert float(objective(lambda images: -images, batch).loss) > 0.1


def test_what_a_network_explains_of_sets_is_1_if_right_and_0_if_constant():
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    batch = Batch(torch.zeros(4, 3, 2, 2), targets, torch.ones(4), torch.arange(4))
    for logits, expected in ((targets * 40 - 20, 1.0),
                             (targets.mean(0).logit().expand(4, 2), 0.0)):
        learning = Learning(EachByItself(0.1, targets.mean(0)))
        learning(lambda images, logits=logits: logits, batch)
        assert learning.explained() == pytest.approx(expected, abs=1e-5)


def test_a_settled_network_answers_in_the_units_of_its_targets():
    torch.manual_seed(0)
    network = torch.nn.Module()
    network.head = LinearHead(4, 2, 0.0)
    torch.nn.init.normal_(network.head.linear.weight)
    features = torch.randn(6, 4)
    objective = Numbers([50.0, -3.0], [9.0, 0.0])      # a constant column has deviation 1
    before = network.head(features)
    objective.settle(network)
    expected = before * torch.tensor([9.0, 1.0]) + torch.tensor([50.0, -3.0])
    torch.testing.assert_close(network.head(features), expected)
    objective.unsettle(network)
    torch.testing.assert_close(network.head(features), before, atol=1e-4, rtol=1e-4)
    targets = torch.tensor([[59.0, -3.0], [41.0, -2.0]])
    batch = Batch(torch.zeros(2, 3, 2, 2), targets, torch.ones(2), torch.arange(2))
    right = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    assert float(objective(lambda images: right, batch).loss) == 0
    for logits, explained in ((right, 1.0), (torch.tensor([[0.0, 0.5]] * 2), 0.0)):
        learning = Learning(objective)
        learning(lambda images, logits=logits: logits, batch)
        assert learning.explained() == pytest.approx(explained, abs=1e-5)


# ---------------------------------------------------------------- metrics and the blend

NUMBERS_BY_SCIKIT = {
    "rmse": sk.root_mean_squared_error, "mae": sk.mean_absolute_error, "r2": sk.r2_score,
    "weighted_r2": lambda t, p: sk.r2_score(t, p, multioutput="variance_weighted"),
    "rmsle": lambda t, p: sk.root_mean_squared_log_error(t, np.maximum(p, 0))}


@pytest.mark.parametrize("name", NUMBER_METRICS)
def test_each_metric_of_numbers_is_scikit_learns(name):
    rng = np.random.default_rng(0)
    truth = rng.lognormal(1, 1, (50, 3))
    numbers = truth + rng.standard_normal((50, 3))
    assert NUMBER_METRICS[name](truth, numbers) == pytest.approx(
        NUMBERS_BY_SCIKIT[name](truth, numbers))
    constant = np.full((50, 1), 2.0)
    assert math.isfinite(NUMBER_METRICS[name](constant, numbers[:, :1]))


@pytest.mark.parametrize("method", ["auto", "greedy", "simplex"])
def test_the_better_source_of_numbers_weighs_more_and_answers_keep_to_the_range(method):
    rng = np.random.default_rng(4)
    truth = rng.normal(30, 5, (300, 2)).astype(np.float32)
    sources = {"good": {"v": truth + rng.normal(0, 2, truth.shape).astype(np.float32)},
               "bad": {"v": truth + rng.normal(0, 6, truth.shape).astype(np.float32)}}
    metric = NUMBER_METRICS["rmse"]
    blend, nested = fit_blend(sources, truth, np.arange(300) % 5, metric, method)
    assert blend.weights["good"] > blend.weights["bad"]
    assert blend.cuts == (*truth.min(0).tolist(), *truth.max(0).tolist())
    assert (nested.answers <= truth.max(0) + 1e-6).all()
    best = min(metric(truth, views["v"]) for views in sources.values())
    assert metric(truth, nested.answers) < 1.02 * best
    noise = {"noise": {"v": rng.normal(30, 5, truth.shape).astype(np.float32)}}
    assert NUMBER_METRICS["r2"](truth, fit_blend(
        noise, truth, np.arange(300) % 5, metric)[1].answers) < 0


BY_SCIKIT = {
    "samples_f1": lambda t, p: sk.f1_score(t, p >= 0.5, average="samples", zero_division=0),
    "micro_f1": lambda t, p: sk.f1_score(t, p >= 0.5, average="micro", zero_division=0),
    "macro_f1": lambda t, p: sk.f1_score(t, p >= 0.5, average="macro", zero_division=0),
    "exact_match": lambda t, p: sk.accuracy_score(t, p >= 0.5),
    "auc": lambda t, p: np.mean([sk.roc_auc_score(t[:, k], p[:, k]) for k in range(t.shape[1])
                                 if 0 < t[:, k].sum() < len(t)]),
    "map": lambda t, p: np.mean([sk.average_precision_score(t[:, k], p[:, k])
                                 for k in range(t.shape[1]) if t[:, k].any()]),
    "log_loss": lambda t, p: np.mean([sk.log_loss(t[:, k], p[:, k], labels=[0, 1])
                                      for k in range(t.shape[1])])}


@pytest.mark.parametrize("name", SET_METRICS)
def test_each_metric_of_sets_is_scikit_learns_also_on_odd_columns(name):
    rng = np.random.default_rng(0)
    truth = (rng.random((60, 6)) < 0.3).astype(np.float32)
    probs = rng.random((60, 6)).round(1).clip(0.05, 0.95)      # ties
    truth[:, 1] = 0
    truth[:, 2] = 1
    probs[:, 3] = 0.7
    truth[:5] = 0
    assert SET_METRICS[name](truth, probs) == pytest.approx(BY_SCIKIT[name](truth, probs), abs=1e-6)


def chances_of(truth, rng, noise):
    logits = 3 * (truth - 0.5) - 1.5 + noise * rng.standard_normal(truth.shape)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def test_thresholds_of_sets_are_nested_and_beat_one_half():
    """Shy chances: at 0.5 hardly any class is named."""
    rng = np.random.default_rng(3)
    truth = (rng.random((300, 4)) < 0.35).astype(np.float32)
    truth[truth.sum(1) == 0, 0] = 1
    metric = SET_METRICS["samples_f1"]
    sources = {"a": {"v": chances_of(truth, rng, 1.0) ** 2}}
    blend, nested = fit_blend(sources, truth, np.arange(300) % 5, metric)
    assert len(blend.cuts) == metric.n_cuts(4) == 5 and blend.cuts[-1] == 0
    assert metric(truth, nested.answers) > metric(truth, nested.probs)
    assert (nested.answers.sum(1) > 0).all()      # each image has a class, so each answer has
    blind, none = fit_blend({"a": {"v": rng.random((300, 4)).astype(np.float32)}}, truth,
                            np.arange(300) % 5, SET_METRICS["auc"])
    assert SET_METRICS["auc"](truth, none.answers) == pytest.approx(0.5, abs=0.08)
    assert blind.cuts == ()


@pytest.mark.parametrize("method", ["greedy", "simplex"])
def test_the_better_source_of_sets_weighs_more(method):
    rng = np.random.default_rng(4)
    truth = (rng.random((400, 3)) < 0.4).astype(np.float32)
    sources = {"good": {"v": chances_of(truth, rng, 1.0)},
               "bad": {"v": chances_of(truth, rng, 6.0)},
               "noise": {"v": rng.random((400, 3)).astype(np.float32)}}
    blend, _ = fit_blend(sources, truth, np.arange(400) % 5, SET_METRICS["auc"], method)
    assert blend.weights["good"] > 2 * blend.weights["bad"]
    assert blend.weights["noise"] == 0
    assert blend.left_out["noise"] == "no better than the class shares"


def test_chances_are_calibrated_by_one_temperature():
    rng = np.random.default_rng(5)
    true = rng.random((4000, 3)).clip(0.02, 0.98)
    truth = (rng.random((4000, 3)) < true).astype(np.float32)
    judge = JUDGES["chances"]
    sharp = judge.tempered(true, 0.5)
    assert judge.fit_temperature(truth, sharp) == pytest.approx(2, abs=0.15)
    np.testing.assert_allclose(judge.tempered(sharp, 2), true, atol=1e-4)
    drawn = judge.draw(true, rng)
    assert drawn.shape == true.shape and abs(drawn.mean() - true.mean()) < 0.02
