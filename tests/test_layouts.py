"""More ways to hold labels: tables that are no text, several images an id, folds of the host."""
import importlib.util
import json
import warnings

import numpy as np
import pandas as pd
import pytest

from config import DataConfig
from contest.intake import read_contest
from tests.test_formats import Asked, draw_test, images, labelled, table
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


# ---------------------------------------------------------------- through a run

@pytest.mark.parametrize("layout", [tags, clinic], ids=lambda layout: layout.__name__)
def test_a_layout_goes_through_debug_and_a_run_to_a_submission(layout, tmp_path, capsys):
    folder, _, asked = run_folder(layout, tmp_path, capsys)
    final = json.loads((folder / "final_results.json").read_text())
    submitted(folder, final, asked, 10)


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
