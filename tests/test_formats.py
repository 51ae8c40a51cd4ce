"""Every layout of real contests, drawn small: understood as downloaded, through debug and a
quick_test, to a submission that a checker accepts which knows nothing of the product; and planted
ambiguities, resolved rightly or named."""
import csv
import io
import json
import math
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, log_loss, roc_auc_score

from config import DataConfig
from contest.intake import read_contest
from ensemble.metrics import METRICS
from grandmaster_train import main
from running.conclusion import score_against
from tests.conftest import small_argv
from utils import UserError

FAST = ["optim.epochs=1", "predict.tta_views=1", "ensemble.bootstrap_draws=10", "data.n_folds=2",
        "augment.policy=none"]


class Asked(NamedTuple):
    """What a contest asks for. cells: class, probability (one column), probabilities (a column per
    class), ranking."""

    header: list
    ids: list
    cells: str
    classes: list
    flags: tuple = ()
    table: str = ""         # the label table, '' = none


# ---------------------------------------------------------------- the layouts

def image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(coarse, (36, 32), interpolation=cv2.INTER_CUBIC))


def table(path, *rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows(rows)


def labelled(classes, each=3):
    """[(number, class)], classes in turn."""
    return list(enumerate(list(classes) * each))


def images(folder, names, seed=0):
    for i, name in enumerate(names):
        image(folder / name, seed + i)


def draw_test(folder, names):
    images(folder, names, seed=1000)


def origin(root):
    classes, ids = [str(k) for k in range(17)], [f"t{i}.jpg" for i in (3, 1, 4, 0, 2)]
    rows = [(f"a{i}.jpg", k) for i, k in labelled(classes, 2)]
    images(root / "train", [i for i, _ in rows])
    draw_test(root / "test", ids)
    table(root / "train.csv", ("ID", "target"), *rows)
    table(root / "meta.csv", ("target", "class_name"), *((k, f"type {k}") for k in classes))
    table(root / "sample_submission.csv", ("ID", "target"), *((i, 0) for i in ids))
    return Asked(["ID", "target"], ids, "class", classes, table="train.csv")


def cassava(root):
    rows, ids = [(f"{1000 + i}.jpg", k) for i, k in labelled("01234")], ["2216849948.jpg",
                                                                         "0100.jpg"]
    images(root / "train_images", [i for i, _ in rows])
    draw_test(root / "test_images", ids)
    table(root / "train.csv", ("image_id", "label"), *rows)
    (root / "label_num_to_disease_map.json").write_text(json.dumps({k: f"Disease, kind {k}"
                                                                    for k in "01234"}))
    (root / "train_tfrecords").mkdir()
    (root / "train_tfrecords" / "ld_train00.tfrec").write_bytes(b"x")
    table(root / "sample_submission.csv", ("image_id", "label"), *((i, 4) for i in ids))
    return Asked(["image_id", "label"], ids, "class", list("01234"), ("--metric", "accuracy"),
                 "train.csv")


def plant_pathology_2020(root):
    classes, ids = ["healthy", "multiple_diseases", "rust", "scab"], [f"Test_{i}" for i in (1, 0,
                                                                                            2)]
    rows = [(f"Train_{i}", *(int(k == c) for c in classes)) for i, k in labelled(classes)]
    images(root / "images", [f"{r[0]}.jpg" for r in rows])
    draw_test(root / "images", [f"{i}.jpg" for i in ids])
    table(root / "train.csv", ("image_id", *classes), *rows)
    table(root / "test.csv", ("image_id",), *((i,) for i in sorted(ids)))
    order = classes[::-1]
    table(root / "sample_submission.csv", ("image_id", *order), *((i, *[0.25] * 4) for i in ids))
    return Asked(["image_id", *order], ids, "probabilities", order, ("--metric", "auc"),
                 "train.csv")


def paddy(root):
    classes, ids = ["bacterial_leaf_blight", "blast", "tungro"], ["200003.jpg", "200001.jpg"]
    rows = [(f"{100330 + i}.jpg", k, ("ADT45", "Ponni")[i % 2], 45 + i % 3) for i,
            k in labelled(classes)]
    for i, row in enumerate(rows):
        image(root / "train_images" / row[1] / row[0], i)
    draw_test(root / "test_images", ids)
    table(root / "train.csv", ("image_id", "label", "variety", "age"), *rows)
    table(root / "sample_submission.csv", ("image_id", "label"), *((i, "") for i in ids))
    return Asked(["image_id", "label"], ids, "class", classes, ("--metric", "accuracy"),
                 "train.csv")


def dog_breed(root):
    classes, ids = ["affenpinscher", "black-and-tan_coonhound", "collie",
                    "pug"], ["00a3edd22dc7859c", "000621fb3cbb32d8"]
    rows = [(f"{i:02}bec180eb18c7604dcecc8fe0dba0", k) for i, k in labelled(classes)]
    images(root / "train", [f"{i}.jpg" for i, _ in rows])
    draw_test(root / "test", [f"{i}.jpg" for i in ids])
    table(root / "labels.csv", ("id", "breed"), *rows)
    table(root / "sample_submission.csv", ("id", *classes), *((i, *[0.25] * 4) for i in ids))
    return Asked(["id", *classes], ids, "probabilities", classes, table="labels.csv")


def state_farm(root):
    classes, ids = [f"c{k}" for k in range(10)], ["img_1.jpg", "img_102.jpg", "img_10.jpg"]
    rows = [(f"p{i // 10:03}", k, f"img_{500 + i}.jpg") for i, k in labelled(classes, 4)]
    for i, (_, k, name) in enumerate(rows):
        image(root / "imgs" / "train" / k / name, i)
    draw_test(root / "imgs" / "test", ids)
    table(root / "driver_imgs_list.csv", ("subject", "classname", "img"), *rows)
    table(root / "sample_submission.csv", ("img", *classes), *((i, *[0.1] * 10) for i in ids))
    return Asked(["img", *classes], ids, "probabilities", classes, ("--group_column", "subject"),
                 "driver_imgs_list.csv")


def dogs_vs_cats(root):
    ids = ["1", "2", "10", "3"]
    images(root / "train", [f"{k}.{i}.jpg" for k in ("cat", "dog") for i in range(6)])
    draw_test(root / "test", [f"{i}.jpg" for i in ids])
    table(root / "sample_submission.csv", ("id", "label"), *((i, 0.5) for i in ids))
    return Asked(["id", "label"], ids, "probability", ["cat", "dog"], ("--metric", "log_loss"))


def histopathologic(root):
    rows, ids = [(f"{i:02}f38a6374c348f90b587e046aac6079959adf3835", k) for i,
                 k in labelled("01", 6)], ["0b2ea2a8", "95596b92"]
    images(root / "train", [f"{i}.tif" for i, _ in rows])
    draw_test(root / "test", [f"{i}.tif" for i in ids])
    table(root / "train_labels.csv", ("id", "label"), *rows)
    table(root / "sample_submission.csv", ("id", "label"), *((i, 0) for i in ids))
    return Asked(["id", "label"], ids, "probability", ["0", "1"], ("--metric", "auc"),
                 "train_labels.csv")


def aptos(root):
    rows, ids = [(f"{i:03}c15baee08", k) for i, k in labelled("01234", 4)], ["0005cfc8afb6",
                                                                             "003f0afdcd15"]
    images(root / "train_images", [f"{i}.png" for i, _ in rows])
    draw_test(root / "test_images", [f"{i}.png" for i in ids])
    table(root / "train.csv", ("id_code", "diagnosis"), *rows)
    table(root / "test.csv", ("id_code",), *((i,) for i in ids))
    table(root / "sample_submission.csv", ("id_code", "diagnosis"), *((i, 0) for i in ids))
    return Asked(["id_code", "diagnosis"], ids, "class", list("01234"),
                 ("--metric", "quadratic_kappa"), "train.csv")


def leaf(root):
    classes, ids = ["Acer_Opalus", "Quercus_Alnifolia", "Tilia_Tomentosa"], ["4", "21", "9"]
    numbers = [f"{kind}{i}" for kind in ("margin", "shape", "texture") for i in (1, 2)]
    train_ids = [n for n in range(1, 30) if str(n) not in ids][:9]
    rows = [(train_ids[i], k, *(f"{(i * 7 + j) % 4 / 512:.6f}" for j in range(6))) for i,
            k in labelled(classes)]
    images(root / "images", [f"{r[0]}.jpg" for r in rows])
    draw_test(root / "images", [f"{i}.jpg" for i in ids])
    table(root / "train.csv", ("id", "species", *numbers), *rows)
    table(root / "test.csv", ("id", *numbers), *((i, *["0.001953"] * 6) for i in sorted(ids)))
    table(root / "sample_submission.csv", ("id", *classes), *((i, *[1 / 3] * 3) for i in ids))
    return Asked(["id", *classes], ids, "probabilities", classes, table="train.csv")


def aerial_cactus(root):
    rows, ids = [(f"{i:04}be2cd21790094c0b249bc6e2.jpg", k) for i,
                 k in labelled("01", 6)], ["000940.jpg", "0017c3.jpg"]
    images(root / "train" / "train", [i for i, _ in rows])
    draw_test(root / "test" / "test", ids)
    table(root / "train.csv", ("id", "has_cactus"), *rows)
    table(root / "sample_submission.csv", ("id", "has_cactus"), *((i, 0.5) for i in ids))
    return Asked(["id", "has_cactus"], ids, "probability", ["0", "1"], ("--metric", "auc"),
                 "train.csv")


def plant_seedlings(root):
    classes, ids = ["Common wheat", "Fat Hen", "Loose Silky-bent"], ["fd87b36ae.png",
                                                                     "0021e90e4.png"]
    for i, k in labelled(classes):
        image(root / "train" / k / f"{i:02}a4c9f8d.png", i)
    draw_test(root / "test", ids)
    table(root / "sample_submission.csv", ("file", "species"), *((i, "Sugar beet") for i in ids))
    return Asked(["file", "species"], ids, "class", classes, ("--metric", "micro_f1"))


def siim_isic(root):
    ids = ["ISIC_0052060", "ISIC_0052349"]
    rows = [(f"ISIC_{2637011 + i}", f"IP_{i // 3:07}", ("male", "female")[i % 2], 45.0, "torso",
             ("nevus", "melanoma")[i % 4 == 0], ("benign", "malignant")[i % 4 == 0],
             int(i % 4 == 0)) for i in range(24)]
    images(root / "jpeg" / "train", [f"{r[0]}.jpg" for r in rows])
    draw_test(root / "jpeg" / "test", [f"{i}.jpg" for i in ids])
    (root / "train").mkdir()
    (root / "train" / "ISIC_2637011.dcm").write_bytes(b"x")
    names = ("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge",
             "diagnosis", "benign_malignant", "target")
    table(root / "train.csv", names, *rows)
    table(root / "test.csv", names[:5], *((i, "IP_9", "male", 70.0, "torso") for i in ids))
    table(root / "sample_submission.csv", ("image_name", "target"), *((i, 0) for i in ids))
    return Asked(["image_name", "target"], ids, "probability", ["0", "1"],
                 ("--metric", "auc", "--group_column", "patient_id"), "train.csv")


def whale(root):
    classes, ids = ["new_whale", *(f"w_{k}287fbc" for k in range(6))], ["00029b3a.jpg",
                                                                        "0003c693.jpg"]
    rows = [(f"{i:08x}.jpg", k) for i, k in labelled(classes, 2)]
    images(root / "train", [i for i, _ in rows])
    draw_test(root / "test", ids)
    table(root / "train.csv", ("Image", "Id"), *rows)
    table(root / "sample_submission.csv", ("Image", "Id"),
          *((i, " ".join(classes[:5])) for i in ids))
    return Asked(["Image", "Id"], ids, "ranking", classes, ("--metric", "map_at_5"), "train.csv")


def plain_folders(root):
    classes, ids = ["고양이", "벼, 쌀", "zebra"], ["a.jpg", "b.jpeg", "c.PNG"]
    for i, k in labelled(classes):
        image(root / "train" / k / f"{i}.jpg", i)
    draw_test(root / "test", ids)
    return Asked(["ID", "target"], ids, "class", classes)


def plain_folders_with_test_classes(root):
    ids = ["test/x/0.bmp", "test/x/1.webp", "test/y/0.bmp"]
    for i, k in labelled("xy"):
        image(root / "train" / k / f"{i}.jpg", i)
    draw_test(root, ids)
    return Asked(["ID", "target"], ids, "class", ["x", "y"])


LAYOUTS = [origin, cassava, plant_pathology_2020, paddy, dog_breed, state_farm, dogs_vs_cats,
           histopathologic, aptos, leaf, aerial_cactus, plant_seedlings, siim_isic, whale,
           plain_folders, plain_folders_with_test_classes]
NO_TABLE = [dogs_vs_cats, plant_seedlings, plain_folders, plain_folders_with_test_classes]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


# ---------------------------------------------------------------- the checker

def problems(text, asked):
    """What a contest's host would refuse in a submission; empty for a good one."""
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or rows[0] != asked.header:
        return [f"columns must be {asked.header}"]
    if any(len(row) != len(asked.header) for row in rows):
        return ["a row has too few or too many cells"]
    found = []
    ids = [row[0] for row in rows[1:]]
    if Counter(ids) != Counter(asked.ids):
        found.append("missing, repeated or foreign ids")
    elif ids != asked.ids:
        found.append("rows out of order")
    return found + [f"{row}: {problem}" for row in rows[1:]
                    if (problem := cell_problem(row[1:], asked))]


def cell_problem(cells, asked):
    if asked.cells == "class":
        return "" if cells[0] in asked.classes else "no class value"
    if asked.cells == "ranking":
        names = cells[0].split(" ")
        return "" if len(set(names)) == len(names) == 5 and set(names) <= set(
            asked.classes) else "not five known classes"
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return "not a number"
    if not all(math.isfinite(v) and 0 <= v <= 1 for v in values):
        return "no probability"
    return "does not sum to 1" if asked.cells == "probabilities" and abs(sum(values)
                                                                         - 1) > 1e-3 else ""


GOOD = {"class": (cassava, ["3"]), "name": (paddy, ["blast"]),
        "probability": (aerial_cactus, ["0.25"]),
        "probabilities": (dog_breed, ["0.1", "0.2", "0.3", "0.4"]),
        "ranking": (whale, ["new_whale w_0287fbc w_1287fbc w_2287fbc w_3287fbc"])}
BAD_CELLS = {"class": [["5"], ["3.0"], ["03"], ["Disease, kind 3"]],
             "name": [["Blast"], ["blast "], ["1"], ["blast blast"]],
             "probability": [["1.5"], ["-0.1"], ["has_cactus"], ["inf"]],
             "probabilities": [["0.1", "0.2", "0.3", "0.3"], ["0", "0", "0", "0"],
                               ["1.1", "-0.1", "0", "0"], ["collie", "0", "0", "1"]],
             "ranking": [["new_whale"], ["new_whale " * 5],
                         ["new_whale,w_0287fbc,w_1287fbc,w_2287fbc,w_3287fbc"],
                         ["new_whale w_0287fbc w_1287fbc w_2287fbc w_9"]]}


def broken(header, rows, bad_cells):
    """15 broken versions of a submission."""
    yield from ([header, *rows[::-1]], [header, *rows[1:]], [header, *rows, rows[0]],
                [header, rows[0], *rows[:-1]], [header, ["other.jpg", *rows[0][1:]], *rows[1:]],
                [["key", *header[1:]], *rows], [[*header[:-1], "y"], *rows],
                [header[::-1], *(row[::-1] for row in rows)], rows)
    yield from ([header, [rows[0][0], *cells], *rows[1:]] for cells in [[""] * len(rows[0][1:]),
                                                                        ["nan", *rows[0][2:]],
                                                                        *bad_cells])


def as_text(rows):
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("form", GOOD)
def test_the_checker_can_fail(form, tmp_path):
    layout, cells = GOOD[form]
    asked = layout(tmp_path)
    rows = [[i, *cells] for i in asked.ids]
    assert not problems(as_text([asked.header, *rows]), asked)
    versions = list(broken(asked.header, rows, BAD_CELLS[form]))
    assert len(versions) == 15 and all(problems(as_text(version), asked) for version in versions)


# ---------------------------------------------------------------- as downloaded

@every_layout
def test_a_layout_goes_through_debug_and_quick_test_to_a_submission(layout, tmp_path, capsys):
    asked = layout(tmp_path / "contest")
    argv = [*small_argv(tmp_path / "contest", tmp_path, *FAST), *asked.flags]
    assert main([*argv, "--mode", "debug"]) == 0
    out = capsys.readouterr().out
    assert " 0 failed" in out and "labels:" in out
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:5]] == ["labels", "classes", "groups", "metric",
                                                          "submission"]
    assert all(flag in line for flag,
               line in zip(("label_table", "target_column", "--group_column", "--metric",
                            "sample_submission"), lines, strict=False))
    final = json.loads((tmp_path / "run" / "final_results.json").read_text())
    asked_metric = asked.flags[1] if "--metric" in asked.flags else ""
    assert final["metric"] == (asked_metric or ("log_loss" if asked.cells == "probabilities"
                                                else "macro_f1"))
    assert f"expected {final['metric']} of the submission" in "\n".join(lines)
    assert problems((tmp_path / "run" / final["submission"]).read_text(encoding="utf-8"),
                    asked) == []


SCORES = {"macro_f1": (paddy, lambda labels, cells: f1_score(labels, [c[0] for c in cells],
                                                             average="macro")),
          "quadratic_kappa": (aptos, lambda labels, cells: cohen_kappa_score(labels,
                                                                             [c[0] for c in cells],
                                                                             weights="quadratic",
                                                                             labels=list("01234"))),
          "auc": (siim_isic, lambda labels, cells: roc_auc_score(np.array(labels) == "1",
                                                                 [float(c[0]) for c in cells])),
          "log_loss": (dog_breed, lambda labels,
                       cells: log_loss(labels, np.array(cells, dtype=float))),
          "map_at_5": (whale, lambda labels,
                       cells: np.mean([1 / (1 + c[0].split(" ").index(k)) if k in c[0].split(" ")
                                       else 0 for k, c in zip(labels, cells, strict=True)]))}


@pytest.mark.parametrize("name", SCORES)
def test_the_score_on_known_answers_is_that_of_the_written_file(name, tmp_path):
    layout, by_hand = SCORES[name]
    layout(tmp_path / "contest")
    metric, rng = METRICS[name], np.random.default_rng(0)
    form = read_contest(tmp_path / "contest", DataConfig()).for_metric(metric).form
    form = replace(form, ids=tuple(f"i{k}" for k in range(40)))
    answers = {i: form.classes[k % len(form.classes)] for k, i in enumerate(form.ids)}
    rows = form.rows(rng.dirichlet(np.ones(len(form.classes)), 40))
    form.write(rows, tmp_path / "s.csv")
    written = rows_of(tmp_path / "s.csv")[1:]
    assert score_against(form, rows, answers, metric) == pytest.approx(
        by_hand([answers[row[0]] for row in written], [row[1:] for row in written]), abs=1e-6)


# ---------------------------------------------------------------- planted ambiguities

def rows_of(path):
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.reader(f))


def edit(path, change):
    """Rewrite a table by change(header, rows) -> all rows."""
    header, *rows = rows_of(path)
    table(path, *change(header, rows))


def reading(root):
    contest = read_contest(root, DataConfig())
    return (
        contest.train.classes,
        contest.train.label.tolist(),
        contest.train.path.tolist(),
        contest.form,
    )


@pytest.mark.parametrize("layout", [
    k for k in LAYOUTS if k not in NO_TABLE], ids=lambda layout: layout.__name__)
def test_two_columns_of_files_stop_with_both_named(layout, tmp_path):
    asked = layout(tmp_path)
    names = rows_of(tmp_path / asked.table)[0]
    place = names.index(asked.header[0])
    edit(tmp_path / asked.table, lambda header, rows: [
        [*header, "picture"], *([*row, rows[i - 1][place]] for i, row in enumerate(rows))])
    with pytest.raises(UserError,
                       match=f"'{names[place]}' and 'picture' both name image files") as error:
        read_contest(tmp_path, DataConfig())
    assert "data.id_column" in str(error.value)
    assert read_contest(tmp_path,
                        DataConfig(id_column=names[place])).form.header == tuple(asked.header)


@pytest.mark.parametrize("layout", LAYOUTS[:-2], ids=lambda layout: layout.__name__)
def test_two_samples_stop_with_both_named(layout, tmp_path):
    asked = layout(tmp_path)
    header, *rows = rows_of(tmp_path / "sample_submission.csv")
    table(tmp_path / "sample_submission_2.csv", header, *rows[1:])
    with pytest.raises(
        UserError, match=r"'sample_submission.csv' and 'sample_submission_2.csv' both"
    ) as error:
        read_contest(tmp_path, DataConfig())
    assert "data.sample_submission" in str(error.value)
    taken = read_contest(tmp_path, DataConfig(sample_submission="sample_submission_2.csv"))
    assert taken.form.ids == tuple(asked.ids[1:])


@every_layout
def test_a_number_equal_to_the_class_is_seen_through_or_stops_with_both_named(layout, tmp_path):
    asked = layout(tmp_path)
    classes, labels, paths, form = reading(tmp_path)
    code = {path: classes[k] if classes[k].isdigit() else k for path,
            k in zip(paths, labels, strict=True)}
    if asked.table:     # in front of the class, where a careless reader would find it first
        by_id = {i: code[p] for i,
                 p in zip(read_contest(tmp_path, DataConfig()).train.sample_id.tolist(), paths,
                          strict=True)}
        place = rows_of(tmp_path / asked.table)[0].index(asked.header[0])
        edit(tmp_path / asked.table, lambda header, rows: [
            ["code", *header], *([by_id[row[place]], *row] for row in rows)])
        assert reading(tmp_path) == (classes, labels, paths, form)
        return
    table(tmp_path / "codes.csv", ("file", "code"), *((p.removeprefix(f"{tmp_path}/"), k) for p,
                                                      k in code.items()))
    with pytest.raises(UserError, match=r"table codes.csv.* and from (class folders|file names)"):
        read_contest(tmp_path, DataConfig())
    taken = read_contest(tmp_path,
                         DataConfig(label_table="names" if layout is dogs_vs_cats else "folders"))
    assert (taken.train.classes, taken.train.label.tolist()) == (classes, labels)


@every_layout
def test_tables_are_found_by_content_under_any_name(layout, tmp_path):
    asked = layout(tmp_path)
    found = reading(tmp_path)
    for old, new in ((asked.table, "rows.csv"), ("sample_submission.csv", "form.csv")):
        if old and (tmp_path / old).exists():
            (tmp_path / old).rename(tmp_path / new)
    *same, form = reading(tmp_path)
    assert [*same, replace(form, source=found[3].source)] == list(found)


@every_layout
def test_a_stray_table_and_a_stray_image_change_nothing(layout, tmp_path):
    layout(tmp_path)
    found = reading(tmp_path)
    table(tmp_path / "prices.csv", ("year", "price"), (1, 20), (3, 40))
    image(tmp_path / "logo.png", 7)
    assert reading(tmp_path) == found


def test_folders_and_file_names_that_disagree_stop_with_both_named(tmp_path):
    for part in ("part1", "part2"):
        images(tmp_path / "train" / part,
               [f"{k}.{i}.jpg" for k in ("cat", "dog") for i in range(2)])
    with pytest.raises(
        UserError,
        match=r"class folders .*'part1', 'part2'.*file names .*'cat', 'dog'.*data.label_table",
    ):
        read_contest(tmp_path, DataConfig())
    assert read_contest(tmp_path, DataConfig(label_table="names")).train.classes == ("cat", "dog")


def test_two_class_columns_without_a_sample_stop_with_both_named(tmp_path):
    asked = paddy(tmp_path)
    (tmp_path / "sample_submission.csv").unlink()
    with pytest.raises(
        UserError, match=r"one class column, got 'label', 'variety', 'age'.*data.target_column"
    ):
        read_contest(tmp_path, DataConfig())
    assert read_contest(tmp_path,
                        DataConfig(target_column="label")).train.classes == tuple(asked.classes)


# ---------------------------------------------------------------- what is refused, in one sentence

@pytest.mark.parametrize("labels", [
    ("scab", "rust", "rust scab"), ("3", "17", "3 17"), ("scab", "rust", "rust,scab"),
    ("haze primary", "agriculture clear primary water", "clear primary", "clear water",
     "haze water", "agriculture haze", "primary water", "clear", "haze clear primary water",
     "agriculture water", "agriculture primary")])
def test_cells_of_several_classes_are_sets_unless_one_class_is_asked_for(labels, tmp_path):
    rows = [(f"a{i}.jpg", k) for i, k in labelled(labels)]
    images(tmp_path / "train_images", [i for i, _ in rows])
    table(tmp_path / "train.csv", ("image", "labels"), *rows)
    contest = read_contest(tmp_path, DataConfig())
    words = {word for label in labels for word in label.replace(",", " ").split()}
    assert contest.train.task == "multilabel" and set(contest.train.classes) == words
    assert "--task single" in contest.understood[1]
    shown = dict(zip(contest.train.sample_id.tolist(), contest.train.target, strict=True))
    for name, label in rows:
        own = {c for c, has in zip(contest.train.classes, shown[name], strict=True) if has}
        assert own == set(label.replace(",", " ").split())
    single = read_contest(tmp_path, DataConfig(task="single")).train
    assert single.task == "single" and set(single.classes) == set(labels)


def test_several_ones_in_a_row_are_a_set_unless_one_class_is_asked_for(tmp_path):
    plant_pathology_2020(tmp_path)
    edit(tmp_path / "train.csv", lambda header, rows: [header, [rows[0][0], 0, 0, 1, 1], *rows[1:]])
    train = read_contest(tmp_path, DataConfig()).train
    assert train.task == "multilabel" and train.target[0].tolist() == [0, 0, 1, 1]
    with pytest.raises(
        UserError, match=r"several classes to 1 of 12 images \('rust scab'\): use --task multilabel"
    ) as error:
        read_contest(tmp_path, DataConfig(task="single"))
    assert "\n" not in str(error.value)


def test_shares_are_soft_labels_unless_one_class_is_asked_for(tmp_path):
    plant_pathology_2020(tmp_path)
    edit(tmp_path / "train.csv", lambda header, rows: [header, [rows[0][0], 0, 0.4, 0.6, 0],
                                                       *rows[1:]])
    train = read_contest(tmp_path, DataConfig()).train
    assert train.task == "soft" and train.target.sum(1) == pytest.approx(1)
    assert train.label[0] == 2 and train.target[0] == pytest.approx([0, 0.4, 0.6, 0])
    with pytest.raises(UserError, match=r"must hold 0 or 1, got '0.4'"):
        read_contest(tmp_path, DataConfig(task="single"))


def test_pixels_in_a_table_are_refused(tmp_path):
    table(tmp_path / "train.csv", ("label", "pixel0", "pixel1"), (1, 0, 255), (0, 3, 4))
    with pytest.raises(
        UserError, match=r"pixel csv files \('train.csv'\): unpack or convert them to JPEG or PNG"
    ):
        read_contest(tmp_path, DataConfig())


@pytest.mark.parametrize(("layout", "metric", "message"), [
    (paddy, "log_loss", "one probability column for each of the 3 classes, but "
     "'sample_submission.csv' has the column 'label'"),
    (dog_breed, "map_at_5", "one column beside the ids, but 'sample_submission.csv' has 4"),
    (paddy, "quadratic_kappa", "consecutive whole numbers, got 'bacterial_leaf_blight'"),
    (plant_seedlings, "map_at_5", "class names without spaces")])
def test_a_metric_that_the_form_cannot_hold_is_refused_before_training(layout, metric, message,
                                                                       tmp_path, capsys):
    layout(tmp_path / "contest")
    assert main([*small_argv(tmp_path / "contest", tmp_path, *FAST), "--metric", metric]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
