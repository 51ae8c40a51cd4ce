"""More ways to hold labels: tables that are no text, several images an id, folds of the host."""
import importlib.util
import json
import warnings
from dataclasses import replace as with_fields
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import predict
from config import DataConfig, FitSpec
from contest.audit import audit_contest, load_audit
from contest.catalog import Catalog
from contest.host import looks_like_folds, numbers_of_folds
from contest.intake import read_contest
from contest.units import numbered
from data_loader import Targets, load_folds, make_folds
from ensemble.metrics import METRICS
from grandmaster_train import main
from modeling.inference import Predictions
from running import predictor
from running.fits import fit_targets
from running.predictor import chunks_of
from tests.test_formats import Asked, draw_test, images, labelled, rows_of, table
from tests.test_tasks import run_folder, sets_of, submitted
from utils import UserError

pytest.importorskip("pyarrow")
pytest.importorskip("openpyxl")


def as_excel(path, **sheets):
    """Write an Excel file of {name: frame}."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pd.ExcelWriter(path) as book:
            for name, frame in sheets.items():
                frame.to_excel(book, sheet_name=name, index=False)


# ---------------------------------------------------------------- the layouts

def tags(root):
    """Parquet: a list of classes in each cell, and the sample submission."""
    classes, ids = ["night", "rain", "snow"], ["7.jpg", "3.jpg"]
    sets = sets_of(classes, 24, seed=3)
    images(root / "train", [f"{i:04}.jpg" for i in range(24)])
    draw_test(root / "test", ids)
    pd.DataFrame({"frame": [f"{i:04}.jpg" for i in range(24)], "tags": sets, "speed": np.float32(
        0.1) * np.arange(24)}).to_parquet(root / "train.parquet")
    pd.DataFrame({"frame": ids, "tags": ["night"] * 2}).to_parquet(
        root / "sample_submission.parquet")
    return Asked(["frame", "tags"], ids, "bars", classes)


def clinic(root):
    """Excel: a sheet of grades and one of test images in one file."""
    classes, ids = ["healthy", "ill"], ["t1", "t0"]
    rows = [(f"p{i}", k) for i, k in labelled(classes, 8)]
    images(root / "photos", [f"{i}.png" for i, _ in rows])
    draw_test(root / "test", [f"{i}.png" for i in ids])
    as_excel(root / "clinic.xlsx", patients=pd.DataFrame(rows, columns=["photo", "finding"]),
             sample_submission=pd.DataFrame({"photo": ids, "finding": "healthy"}))
    return Asked(["photo", "finding"], ids, "class", classes)


def eyes(root):
    """A column of left and one of right images, a class and an id a row; one file is missing."""
    classes, ids = ["mild", "none", "severe"], ["p9", "p7", "p8"]
    rows = [(f"p{100 + i}", f"{100 + i}_left.png", f"{100 + i}_right.png", k)
            for i, k in labelled(classes, 6)]
    names = [name for row in rows for name in row[1:3]]
    images(root / "train", names[1:])
    draw_test(root / "test", [f"{i}_{side}.png" for i in ids for side in ("left", "right")])
    header = ("patient", "left", "right", "grade")
    table(root / "train.csv", header, *rows)
    table(root / "test.csv", header[:3], *((i, f"{i}_left.png", f"{i}_right.png")
                                           for i in sorted(ids)))
    table(root / "sample_submission.csv", ("patient", "grade"), *((i, "none") for i in ids))
    return Asked(["patient", "grade"], ids, "class", classes, table="test.csv")


def visits(root):
    """A row a file, the same id on several, one submission row an id: sets of classes."""
    classes, ids = ["cyst", "mass", "scar"], ["c", "a"]
    sets = sets_of(classes, 16, seed=4)
    rows = [(i, f"{i}_{view}.jpg", *(int(c in s) for c in classes)) for i, s in enumerate(sets)
            for view in range(1 + i % 3)]
    images(root / "train_images", [r[1] for r in rows])
    draw_test(root / "test_images", [f"{i}_{view}.jpg" for i in ids for view in range(2)])
    table(root / "train.csv", ("case", "file", *classes), *rows)
    table(root / "test.csv", ("case", "file"), *((i, f"{i}_{view}.jpg") for i in ids
                                                 for view in range(2)))
    table(root / "sample_submission.csv", ("case", *classes), *((i, 0, 0, 0) for i in ids))
    return Asked(["case", *classes], ids, "chances", classes, table="test.csv")


def slices(root):
    """A folder of images an id, in train/ and in test/; numbers."""
    ids = ["s31", "s30"]
    rows = [(f"s{i:02}", f"{i * 1.5:.2f}") for i in range(16)]
    images(root / "train", [f"{i}/{k}.png" for i, _ in rows for k in range(2)])
    draw_test(root / "test", [f"{i}/{k}.png" for i in ids for k in range(3)])
    table(root / "train.csv", ("study", "volume"), *rows)
    table(root / "sample_submission.csv", ("study", "volume"), *((i, "10.5") for i in ids))
    return Asked(["study", "volume"], ids, "numbers", [(0, 22.5)])


def mapped(root):
    """A JSON map of files to classes."""
    classes, ids = ["oak", "yew"], ["t0.jpg", "t1.jpg"]
    rows = [(f"{i:02}.jpg", k) for i, k in labelled(classes, 8)]
    images(root / "train", [i for i, _ in rows])
    draw_test(root / "test", ids)
    (root / "labels.json").write_text(json.dumps(dict(rows)))
    return Asked(["file", "label"], ids, "class", classes)


def kfold(root):
    """A column of the host's folds, some images outside of them."""
    classes, ids = ["a", "b"], ["t1.png", "t0.png"]
    rows = [(f"{i}.png", k, ("0", "1", "2", "-1")[i // 2 % 4]) for i, k in labelled(classes, 16)]
    images(root / "train", [r[0] for r in rows])
    draw_test(root / "test", ids)
    table(root / "train.csv", ("image", "label", "kfold"), *rows)
    table(root / "sample_submission.csv", ("image", "label"), *((i, "a") for i in ids))
    return Asked(["image", "label"], ids, "class", classes, ("--fold_column", "kfold"))


def val_folder(root):
    """Class folders in train/, val/ and test/, val/ validated on."""
    classes, ids = ["owl", "wren"], ["0.jpg", "1.jpg"]
    for split, n, seed in (("train", 10, 0), ("val", 4, 500)):
        for k, name in enumerate(classes):
            images(root / split / name, [f"{split}{i}.jpg" for i in range(n)], seed + 100 * k)
    draw_test(root / "test", ids)
    return Asked(["ID", "target"], ids, "class", classes, ("--valid_folder", "use"))


# ---------------------------------------------------------------- through a run

@pytest.mark.parametrize("layout", [tags, clinic, eyes, visits, slices, kfold, val_folder, mapped],
                         ids=lambda layout: layout.__name__)
def test_a_layout_goes_through_debug_and_a_run_to_a_submission(layout, tmp_path, capsys):
    folder, out, asked = run_folder(layout, tmp_path, capsys)
    final = json.loads((folder / "final_results.json").read_text())
    rows = submitted(folder, final, asked, 10)
    if layout in (kfold, val_folder):
        folds = load_folds(next(folder.glob("folds-*")) / "folds.csv")
        where = {path.rsplit("/", 1)[-1]: fold for path, fold in zip(
            folds.sample_id.tolist(), folds.fold.tolist(), strict=True)}
        expected = {"0.png": 0, "3.png": 1, "5.png": 2, "6.png": -1} if layout is kfold else {
            "val0.jpg": 0, "train0.jpg": -1}
        assert where.items() >= expected.items()
        valid = Predictions.load(folder / final["predictions"]["out_of_fold"])
        assert len(valid.sample_id) == 8      # of fold 0
    if layout not in (eyes, visits, slices):
        return

    assert main(["--results_dir", str(tmp_path), "--verify", "run"]) == 0

    # predict.py averages over the images of an id, too
    assert "whose predictions are averaged" in out
    assert "whose predictions are averaged" in (folder / "report.html").read_text()
    ids = asked.table or "sample_submission.csv"
    for name, by_id in ((ids, True), ("test" if layout is not visits else "test_images", False)):
        capsys.readouterr()
        assert predict.main([str(folder), str(tmp_path / "contest" / name), "--out",
                             str(tmp_path / "p.csv")]) == 0
        assert by_id or "each image is predicted by itself" in capsys.readouterr().err
        header, *said = rows_of(tmp_path / "p.csv")
        assert len(said) == len(asked.ids) * (1 if by_id else 3 if layout is slices else 2)
        if by_id:
            of_id = {row[0]: dict(zip(header, row, strict=True)) for row in said}
    for row in rows[1:]:
        cells = of_id[row[0]]
        if layout is eyes:
            assert cells["label"] == row[1]
            continue
        for column, cell in zip(asked.header[1:], row[1:], strict=True):
            name = f"prob_{column}" if layout is visits else column
            assert float(cells[name]) == pytest.approx(float(cell), abs=1e-4)


# ---------------------------------------------------------------- several images an id

def test_two_columns_of_files_are_two_images_of_one_id(tmp_path):
    eyes(tmp_path)
    contest = read_contest(tmp_path, DataConfig())
    train = contest.train
    assert len(train) == 35 and len(set(train.unit.tolist())) == 18
    names = dict(zip(train.sample_id.tolist(), train.path.tolist(), strict=True))
    assert names["p100"].endswith("100_right.png")      # the left one is missing
    assert names["p101"].endswith("101_left.png") and names["p101 [2]"].endswith("101_right.png")
    assert "36 files of 18 ids in column 'patient'" in contest.understood[0]
    assert len(contest.test) == 6 and contest.form.ids == ("p9", "p7", "p8")
    line = contest.for_metric(METRICS["macro_f1"]).describe(METRICS["macro_f1"], False)[-1]
    assert "each the mean over its 2 to 2 images" in line
    alone = read_contest(tmp_path, DataConfig(id_column="left")).train
    assert alone.sample_id.tolist() == alone.unit.tolist() and len(alone) == 17


@pytest.mark.parametrize(("split", "kept"), [("train", 12), ("train", 1), ("test", 1)])
def test_files_that_a_column_lacks_are_named_and_the_others_are_read(split, kept, tmp_path):
    eyes(tmp_path)
    gone = sorted((tmp_path / split).glob("*_right.png"))[kept:]
    for path in gone:
        path.unlink()
    contest = read_contest(tmp_path, DataConfig())
    assert len(contest.train if split == "train" else contest.test) == {
        "train": 17 + kept, "test": 3 + kept}[split]
    what = {"train": "their ids keep their other images",
            "test": "their ids are predicted from fewer images"}[split]
    [said] = [p.text for p in contest.problems if gone[0].name in p.sample_ids]
    assert said.startswith(f"{split}.csv has ")
    assert said.endswith(f"not in the contest folder: {what}")


def test_a_column_whose_files_are_all_missing_is_named(tmp_path):
    eyes(tmp_path)
    for path in (tmp_path / "train").glob("*_right.png"):
        path.unlink()
    contest = read_contest(tmp_path, DataConfig())
    assert len(contest.train) == 17
    [said] = [p.text for p in contest.problems if p.kind == "lost_column"]
    assert said.startswith("column 'right' of 'train.csv' is not used, as all its 18 files ('1")
    assert said.endswith("are missing: put them into the contest folder, or remove the column")


def test_predict_names_each_missing_file_and_ids_that_have_none_left(tmp_path, capsys):
    eyes(tmp_path)
    names = [f"{i}_{side}.png" for i in ("p7", "p8", "p9") for side in ("left", "right")]
    for name in names[:3]:
        (tmp_path / "test" / name).unlink()
    run = SimpleNamespace(unit="patient", classes=("mild", "none"))
    catalog = predict.find_ids(tmp_path / "test.csv", run)
    assert sorted(set(catalog.unit.tolist())) == ["p8", "p9"] and len(catalog) == 3
    said = capsys.readouterr().err
    assert "left out: 1 id ('p7') without an image file" in said
    assert "1 file ('p8_left.png') not found: their ids are predicted from fewer images" in said


def test_an_id_whose_cells_of_files_are_all_empty_is_named_and_keeps_its_answer(tmp_path):
    for split, n in (("train", 16), ("test", 4)):
        images(tmp_path / split, [f"{split}{i}{eye}.png" for i in range(n) for eye in "lr"])
        grades = ["grade", *("ab"[i % 2] for i in range(n))] if split == "train" else []
        cells = [("patient", "left", "right"), *((f"{split[:2]}p{i}", *(
            "" if i == 3 else f"{split}{i}{eye}.png" for eye in "lr")) for i in range(n))]
        table(tmp_path / f"{split}.csv", *(
            (*row, *grades[k:k + 1]) for k, row in enumerate(cells)))
    contest = read_contest(tmp_path, DataConfig())
    assert len(contest.train) == 30 and contest.form.ids == ("tep0", "tep1", "tep2", "tep3")
    said = [p.sample_ids for p in contest.problems if p.kind == "missing_file"]
    assert ("trp3",) in said and ("tep3",) in said


@pytest.mark.parametrize("layout", [eyes, visits, slices], ids=lambda layout: layout.__name__)
def test_folds_keep_the_images_of_an_id_together(layout, tmp_path):
    layout(tmp_path / "contest")
    contest = read_contest(tmp_path / "contest", DataConfig())
    audit_contest(contest, DataConfig(), 64, tmp_path / "audit", 1)
    audit = load_audit(tmp_path / "audit", contest.folder).with_leaders()
    folds = make_folds(audit.train, 3, seed=0)
    for unit in set(audit.train.unit.tolist()):
        assert len(set(folds.fold[audit.train.unit == unit].tolist())) == 1
    assert set(audit.train.unit.tolist()) <= set(audit.train.sample_id.tolist())


def test_an_unreadable_first_image_leaves_the_id_to_the_second(tmp_path):
    visits(tmp_path / "contest")
    (tmp_path / "contest/train_images/2_0.jpg").write_bytes(b"broken")
    (tmp_path / "contest/test_images/a_0.jpg").write_bytes(b"broken")
    contest = read_contest(tmp_path / "contest", DataConfig())
    audit_contest(contest, DataConfig(), 64, tmp_path / "audit", 1)
    audit = load_audit(tmp_path / "audit", contest.folder).with_leaders()
    paths = dict(zip(audit.train.sample_id.tolist(), audit.train.path.tolist(), strict=True))
    assert paths["2"].endswith("2_1.jpg") and audit.bad_test_ids == ()
    assert audit.test.unit_of["a"] == "a"
    row = audit.train.sample_id.tolist().index("2")
    np.testing.assert_array_equal(audit.train_pixels[row].shape, (32, 36, 3))


def test_what_is_predicted_of_the_images_of_an_id_is_averaged():
    said = Predictions(np.array(["a", "b", "a [2]"]), np.float32([[1, 0], [0.2, 0.8], [0, 1]]),
                       ("x", "y"), "test", ("s",))
    mean = said.by_unit({"a": "a", "a [2]": "a", "b": "b"})
    assert mean.sample_id.tolist() == ["a", "b"]
    np.testing.assert_allclose(mean.probs, [[0.5, 0.5], [0.2, 0.8]])
    assert said.by_unit({}) is said
    assert numbered(["a", "b", "a", "a [2]", "a"]) == ["a", "b", "a [3]", "a [2]", "a [4]"]


def test_images_that_are_predicted_together_hold_whole_ids(monkeypatch):
    monkeypatch.setattr(predictor, "CHUNK_IMAGES", 3)
    ids = ["a1", "a2", "b1", "a3", "c1", "c2", "d1"]
    rows = [{"sample_id": i, "path": i, "unit": i[0]} for i in ids]
    catalog = Catalog.of(rows, ("x", "y"))
    chunks = [[catalog.sample_id[row] for row in rows] for rows in chunks_of(catalog)]
    assert chunks == [["a1", "a2", "a3"], ["b1", "c1", "c2"], ["d1"]]
    each = [rows.tolist() for rows in chunks_of(with_fields(catalog, unit=None))]
    assert each == [[0, 1, 2], [3, 4, 5], [6]]
    assert chunks_of(Catalog.of([], ())) == []


def test_images_of_one_id_with_different_labels_are_left_out_or_stop_the_run(tmp_path):
    eyes(tmp_path)
    _, *rows = rows_of(tmp_path / "train.csv")
    several = [(row[0], name, row[3]) for row in rows for name in row[1:3]]
    several[2] = (*several[2][:2], "severe" if several[2][2] != "severe" else "none")
    table(tmp_path / "train.csv", ("patient", "file", "grade"), *several)
    data = DataConfig(id_column="patient")
    contest = read_contest(tmp_path, data)
    assert "p101" not in contest.train.unit.tolist() and len(contest.train) == 33
    assert any("different labels for 1 id ('p101')" in p.text for p in contest.problems)
    table(tmp_path / "train.csv", ("patient", "file", "grade"),
          *((i, name, "ab"[k % 2]) for k, (i, name, _) in enumerate(several)))
    with pytest.raises(UserError, match=r"different labels for 17 ids .* predicted as one"):
        read_contest(tmp_path, data)


def test_a_file_of_two_ids_stays_with_the_first(tmp_path):
    images(tmp_path / "images", [f"{i}.png" for i in range(16)])
    table(tmp_path / "train.csv", ("patient", "file", "grade"), *(
        (f"p{i // 2}", f"{i}.png", "ab"[i // 2 % 2]) for i in range(16)), ("p4", "0.png", "a"))
    contest = read_contest(tmp_path, DataConfig(id_column="patient"))
    train = contest.train
    assert len(train) == 16 and train.unit[train.path == str(tmp_path / "images/0.png")] == ["p0"]
    assert any("repeats 1 id ('0.png')" in p.text for p in contest.problems)


def test_a_mended_label_is_that_of_all_images_of_an_id(tmp_path):
    eyes(tmp_path)
    (tmp_path / "label_fixes.csv").write_text("id,label,note\np101 [2],severe,\np102,,\n")
    train = read_contest(tmp_path, DataConfig()).train
    own = train.label[train.unit == "p101"]
    assert [train.classes[k] for k in own] == ["severe"] * 2 and "p102" not in train.unit.tolist()


def test_an_id_of_several_images_is_taught_to_each_of_them(tmp_path):
    visits(tmp_path / "contest")
    contest = read_contest(tmp_path / "contest", DataConfig())
    audit_contest(contest, DataConfig(), 64, tmp_path / "audit", 1)
    audit = load_audit(tmp_path / "audit", contest.folder).with_leaders()
    taught = Targets(["c", "a"], np.float32([[1, 0, 1], [0, 1, 0]]), [0.7, 0.9], blind_fold=1,
                     taught=True, values="chances")
    prepared = SimpleNamespace(audit=audit, folds=make_folds(audit.train, 2, seed=0))
    pixels, targets = fit_targets(prepared, FitSpec("b", 0, 0, 1), taught)
    n_labelled = len(pixels) - 4
    assert targets.sample_id[n_labelled:].tolist() == ["c", "c [2]", "a", "a [2]"]
    np.testing.assert_array_equal(targets.probs[n_labelled:, 0], [1, 1, 0, 0])
    np.testing.assert_array_equal(targets.weight[n_labelled:], np.float32([0.7, 0.7, 0.9, 0.9]))


def test_columns_of_numbers_beside_the_labels_are_named_as_unused(tmp_path):
    images(tmp_path / "train", [f"{i}.png" for i in range(12)])
    table(tmp_path / "train.csv", ("no", "image", "label", "age", "height", "male", "site", "fold"),
          *((i, f"{i}.png", "ab"[i % 2], 30 + i % 5, "" if i == 3 else i / 8, i % 2, "xyz"[i % 3],
             i % 4) for i in range(12)))
    contest = read_contest(tmp_path, DataConfig(target_column="label"))
    said = [p.text for p in contest.problems if p.kind == "side_columns"]
    assert said == ["2 columns ('age', 'height') of numbers in 'train.csv' beside the labels: they "
                    "are not used, as networks read images alone"]
    contest = read_contest(tmp_path, DataConfig(target_column="age,height", task="regression"))
    assert "side_columns" not in {p.kind for p in contest.problems}


# ---------------------------------------------------------------- folds of the host

def test_a_column_of_folds_is_hinted_at_and_is_no_class(tmp_path):
    kfold(tmp_path)
    (tmp_path / "sample_submission.csv").unlink()
    contest = read_contest(tmp_path, DataConfig())
    assert contest.train.classes == ("a", "b") and contest.train.fold is None
    assert "'kfold' may hold the host's folds (--fold_column kfold)" in contest.understood[2]
    contest = read_contest(tmp_path, DataConfig(fold_column="kfold"))
    assert "3 fold(s) of the host, '0', '1', '2'; 8 images" in contest.understood[2]
    with pytest.raises(UserError, match=r"must be a column of 'train.csv', got 'cv'"):
        read_contest(tmp_path, DataConfig(fold_column="cv"))


def test_images_in_val_are_offered_as_the_fold_that_is_validated_on(tmp_path):
    val_folder(tmp_path)
    contest = read_contest(tmp_path, DataConfig())
    assert len(contest.train) == 28 and contest.train.fold is None
    assert "8 images in val folders are trained on too (--valid_folder use" in contest.understood[2]
    used = read_contest(tmp_path, DataConfig(valid_folder="use")).train
    assert used.n_host_folds == 1
    assert [("/val/" in path) == (fold == 0) for path, fold in zip(
        used.path.tolist(), used.fold.tolist(), strict=True)] == [True] * 28
    visits(tmp_path / "other")
    with pytest.raises(UserError, match=r"--valid_folder use needs labelled images in a folder"):
        read_contest(tmp_path / "other", DataConfig(valid_folder="use"))


def test_a_class_named_like_a_validation_folder_is_not_held_out(tmp_path):
    for seed, folder in enumerate(("train/valid", "train/dev")):
        images(tmp_path / folder, [f"{seed}{i}.jpg" for i in range(6)], 10 * seed)
    contest = read_contest(tmp_path, DataConfig())
    assert contest.train.classes == ("dev", "valid")
    assert "val folders" not in contest.understood[2]
    with pytest.raises(UserError, match=r"--valid_folder use needs labelled images in a folder"):
        read_contest(tmp_path, DataConfig(valid_folder="use"))
    for seed, folder in enumerate(("valid/valid", "valid/dev"), start=2):
        images(tmp_path / folder, [f"{seed}{i}.jpg" for i in range(3)], 10 * seed)
    train = read_contest(tmp_path, DataConfig(valid_folder="use")).train
    assert [fold == 0 for fold in train.fold.tolist()] == [
        "/valid/valid/" in path or "/valid/dev/" in path for path in train.path.tolist()]


def test_a_column_of_splits_can_say_what_is_validated_on(tmp_path):
    images(tmp_path / "images", [f"{i}.png" for i in range(12)])
    table(tmp_path / "labels.csv", ("image", "label", "split"), *(
        (f"{i}.png", "ab"[i % 2], "valid" if i < 4 else "train") for i in range(12)))
    assert read_contest(tmp_path, DataConfig()).train.fold is None
    train = read_contest(tmp_path, DataConfig(valid_folder="use")).train
    held = {i for i, fold in zip(train.sample_id.tolist(), train.fold.tolist(), strict=True)
            if fold == 0}
    assert held == {"0.png", "1.png", "2.png", "3.png"}


def test_folds_of_the_host_are_numbered_in_order_and_must_hold_images(tmp_path):
    assert numbers_of_folds(["10", "2", "", "2"]) == ([1, 0, -1, 0], ["2", "10"])
    assert numbers_of_folds(["10.0", "", "2.0"]) == ([1, -1, 0], ["2.0", "10.0"])
    eyes(tmp_path)
    train = read_contest(tmp_path, DataConfig()).train
    fold = np.arange(len(train)) % 2
    with pytest.raises(UserError, match=r"images of an id must lie in one fold.* divide 'p1"):
        make_folds(with_fields(train, fold=fold), 2, seed=0)
    with pytest.raises(UserError, match=r"3 folds must hold usable images, and \[2\] hold none"):
        make_folds(with_fields(train, fold=fold, unit=None), 3, seed=0)


def draw_folds(root, folds):
    """A contest of an image for each text of a fold, and its table's rows."""
    rows = [(f"{i}.png", "ab"[i // 2 % 2], fold) for i, fold in enumerate(folds)]
    images(root / "images", [row[0] for row in rows])
    table(root / "train.csv", ("image", "label", "fold"), *rows)
    return rows


@pytest.mark.parametrize("none", ["NA", "nan", "", "-1", "-1.0"])
def test_a_word_for_no_value_in_a_column_of_folds_is_no_fold(none, tmp_path):
    draw_folds(tmp_path, ["0", "1", none] * 6)
    train = read_contest(tmp_path, DataConfig(fold_column="fold")).train
    fold_of = dict(zip(train.sample_id.tolist(), train.fold.tolist(), strict=True))
    assert fold_of == {f"{i}.png": (0, 1, -1)[i % 3] for i in range(18)}
    (tmp_path / "train.csv").unlink()
    draw_folds(tmp_path, [none] * 12)
    with pytest.raises(UserError, match=r"must hold 1 to 50 folds, and 'fold' has 0 different"):
        read_contest(tmp_path, DataConfig(fold_column="fold"))


def test_a_column_of_one_fold_beside_none_looks_like_folds():
    assert looks_like_folds("fold", ("0", "-1", "NA")) and looks_like_folds("k_fold", ("1.0", "2"))
    assert not looks_like_folds("fold", ("0", "NA")) and not looks_like_folds("age", ("0", "1"))


def test_one_fold_of_the_host_needs_images_outside_of_it_to_train_on(tmp_path):
    rows = draw_folds(tmp_path, ["0"] * 12)
    table(tmp_path / "train.csv", ("image", "label", "fold"), *rows, ("missing.png", "a", "1"))
    with pytest.raises(UserError, match=r"must leave images to train on, and 'fold' puts all 12 i"):
        read_contest(tmp_path, DataConfig(fold_column="fold"))
    draw_folds(tmp_path, ["0", "0", "0", "-1"] * 3)
    assert read_contest(tmp_path, DataConfig(fold_column="fold")).train.n_host_folds == 1


def test_classes_that_lie_in_one_fold_of_the_host_are_named(tmp_path):
    rows = [(f"{i}.png", "abc"[i % 3], str(i // 3 % 2) if i % 3 else "1") for i in range(18)]
    images(tmp_path / "images", [row[0] for row in rows])

    def problems(rows, data):
        table(tmp_path / "train.csv", ("image", "label", "fold"), *rows)
        contest = read_contest(tmp_path, data)
        return [p.text for p in contest.problems if p.kind == "class_of_one_fold"]

    by_fold = DataConfig(fold_column="fold")
    assert problems(rows, by_fold) == [
        "all images of 1 class ('a') lie in one fold: the models that are scored on such a class "
        "never trained on it, and miss all of it; divide each class over the folds of "
        "--fold_column fold, or leave that out, and the folds are drawn"]
    assert problems([*rows[1:], (*rows[0][:2], "")], by_fold) == []      # one is always trained on
    one = [(*row[:2], "val" if row[1] == "a" else "train") for row in rows]
    [said] = problems(one, DataConfig(valid_folder="use"))
    assert said.startswith("all images of 1 class ('a') lie in the only fold: no model trains on")
    with pytest.raises(UserError, match=r"^all images of 3 classes .* lie in one fold each"):
        problems([(*row[:2], row[1].translate({97: "0", 98: "1", 99: "2"})) for row in rows],
                 by_fold)


@pytest.mark.parametrize("valid", ["", "use"])
def test_rows_of_one_id_in_different_folds_stop_the_run(valid, tmp_path):
    texts = ["train", "valid"] if valid else ["0", "1"]
    rows = draw_folds(tmp_path, texts * 6)
    table(tmp_path / "train.csv", ("image", "label", "fold"), *rows, (*rows[3][:2], texts[0]))
    data = DataConfig(valid_folder="use") if valid else DataConfig(fold_column="fold")
    with pytest.raises(UserError, match=r"all rows of an id in one fold, .*1 id \('3.png'\)"):
        read_contest(tmp_path, data)


# ---------------------------------------------------------------- sheets

def draw_frame(root, suffix, **columns):
    """A contest of 12 images whose labels are in a Parquet file or an Excel sheet."""
    images(root / "train", [f"{i}.jpg" for i in range(12)])
    frame = pd.DataFrame({"image": range(12), **columns})
    if suffix == "parquet":
        frame.to_parquet(root / "labels.parquet")
    else:
        as_excel(root / "labels.xlsx", all=frame)


every_sheet = pytest.mark.parametrize("suffix", ["parquet", "xlsx"])


@every_sheet
@pytest.mark.parametrize(("columns", "task", "classes"), [
    ({"kind": pd.Categorical(["b", "a"] * 6)}, "single", ("a", "b")),
    ({"grade": pd.array([0, 1, None] * 4, dtype="Int64")}, "single", ("0", "1")),
    ({"cm": [0.1, 1.0, None, 2.5] * 3}, "regression", ("cm",)),
    ({"a": [True, False] * 6, "b": [False, True] * 6}, "single", ("a", "b")),
    ({"a": [True, True, False] * 4, "b": [False, True, True] * 4}, "multilabel", ("a", "b")),
    ({"is_cat": [True, False] * 6}, "single", ("False", "True"))])
def test_cells_of_a_sheet_are_read_as_those_of_a_csv(suffix, columns, task, classes, tmp_path):
    draw_frame(tmp_path, suffix, **columns)
    train = read_contest(tmp_path, DataConfig()).train
    missing = sum(pd.isna(value) for value in next(iter(columns.values())))
    assert (train.task, train.classes, len(train)) == (task, classes, 12 - missing)
    if task == "regression":
        assert sorted(set(train.target[:, 0].tolist())) == pytest.approx([0.1, 1.0, 2.5])


@every_sheet
def test_a_sheet_whose_package_is_missing_says_what_to_install(suffix, tmp_path, monkeypatch):
    draw_frame(tmp_path, suffix, kind=["b", "a"] * 6)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    package = {"parquet": "pyarrow", "xlsx": "openpyxl"}[suffix]
    for data in (DataConfig(), DataConfig(label_table=f"labels.{suffix}")):
        with pytest.raises(UserError, match=rf"labels.{suffix}'.* pip install {package}, or save"):
            read_contest(tmp_path, data)


def test_columns_of_bytes_are_left_out_and_a_sheet_is_named_by_file_and_name(tmp_path):
    draw_frame(tmp_path, "parquet", kind=["b", "a"] * 6, jpeg=[b"\xff\xd8"] * 12,
               box=[{"x": 1}] * 12)
    assert "column 'kind'" in read_contest(tmp_path, DataConfig()).understood[1]
    (tmp_path / "labels.parquet").unlink()
    frame = pd.DataFrame({"image": range(12), "kind": ["c", "d", "e"] * 4})
    as_excel(tmp_path / "all.xlsx", old=frame, new=frame.assign(kind=["f", "g"] * 6))
    with pytest.raises(UserError, match=r"'all.xlsx#old' and 'all.xlsx#new' both could"):
        read_contest(tmp_path, DataConfig())
    contest = read_contest(tmp_path, DataConfig(label_table="all.xlsx#new"))
    assert contest.train.classes == ("f", "g")


def test_a_sample_that_is_a_sheet_is_followed_and_the_csv_is_announced(tmp_path):
    asked = clinic(tmp_path)
    contest = read_contest(tmp_path, DataConfig())
    assert contest.form.ids == tuple(asked.ids) and contest.form.header == tuple(asked.header)
    assert any("written as a csv" in problem.text for problem in contest.problems)
    table(tmp_path / "notes.csv", ("photo", "by"), *((f"p{i}", "xy"[i % 2]) for i in range(16)))
    assert read_contest(tmp_path, DataConfig()).train.classes == ("healthy", "ill")


def test_lists_of_any_kind_are_sets_and_columns_that_stay_unread_are_named(tmp_path):
    arrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    draw_frame(tmp_path, "parquet")
    sets = [["a", "b"], ["b", "c"], ["c", "a"]] * 4
    columns = {"image": [str(i).encode() for i in range(12)], "jpeg": [b"\xff\xd8"] * 12}
    for kind in (arrow.large_list(arrow.string()), arrow.list_(arrow.large_string(), 2)):
        parquet.write_table(arrow.table({**columns, "tags": arrow.array(sets, kind)}),
                            tmp_path / "labels.parquet")
        contest = read_contest(tmp_path, DataConfig())
        assert (contest.train.task, contest.train.classes) == ("multilabel", ("a", "b", "c"))
        said = [p.text for p in contest.problems if p.kind == "unread_columns"]
        assert len(said) == 1 and said[0].startswith("1 column ('jpeg') of 'labels.parquet'")


def test_a_sheet_that_cannot_be_read_is_named_and_loses_no_other(tmp_path):
    images(tmp_path / "train", [f"{i}.jpg" for i in range(12)])
    rows = pd.DataFrame({"image": range(12), "kind": ["c", "d"] * 6})
    notes = pd.DataFrame({"About this data": ["column"], "": ["meaning"]})
    as_excel(tmp_path / "labels.xlsx", README=notes, all=rows)
    contest = read_contest(tmp_path, DataConfig())
    assert len(contest.train) == 12
    said = [p.text for p in contest.problems if p.kind == "unread_sheet"]
    assert said == ["table 'labels.xlsx#README' cannot be read (its first row names one of 2 "
                    "columns, 'About this data'): it is not used; repair or remove it"]


@pytest.mark.parametrize("book", ["train_data #2.xlsx", "test_data.xlsx"])
def test_a_title_of_a_sheet_says_its_split_before_the_name_of_the_file(book, tmp_path):
    images(tmp_path / "images", [f"{i}.jpg" for i in range(18)])
    rows = pd.DataFrame({"image": range(18), "kind": ["c", "d"] * 9})
    as_excel(tmp_path / book, train=rows[:12], test=rows[12:])
    contest = read_contest(tmp_path, DataConfig())
    assert sorted(map(int, contest.train.sample_id)) == list(range(12))
    assert sorted(map(int, contest.test.sample_id)) == list(range(12, 18))
