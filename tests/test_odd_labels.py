"""Labels of one task that could be taken for those of another: read rightly, or one sentence."""
import numpy as np
import pytest
import torch

from config import DataConfig
from contest.audit import what_labels_say
from contest.catalog import Catalog
from contest.intake import read_contest
from contest.submission import Form
from ensemble.metrics import NUMBER_METRICS, SET_METRICS
from modeling.losses import Distilled, EachByItself, Numbers
from tests.test_formats import images, table
from utils import UserError

N = 60


def read(root, cells, header=("id", "label"), sep=",", **data):
    """The training Catalog of a table: cells(i) of image i."""
    rows = [(f"a{i}.png", *np.atleast_1d(cells(i)).tolist()) for i in range(N)]
    images(root / "train", [row[0] for row in rows])
    lines = [header, *rows]
    (root / "train.csv").write_text("".join(sep.join(map(str, line)) + "\n" for line in lines))
    return read_contest(root, DataConfig(**data)).train


@pytest.mark.parametrize("cell", [lambda i: f"{i % 5},5", lambda i: f"1,{200 + i % 3}"])
def test_numbers_with_commas_are_no_sets(cell, tmp_path):
    assert read(tmp_path, cell, sep=";").task != "multilabel"


def test_one_cell_of_several_classes_among_many_of_one_is_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr("contest.tables.LEAST_SETS", 0.05)
    with pytest.raises(UserError, match=r"--task multilabel reads sets .* --task single"):
        read(tmp_path, lambda i: "cat dog" if i == 3 else ("cat", "dog")[i % 2])


def test_one_fraction_among_classes_is_no_number_to_predict(tmp_path):
    train = read(tmp_path, lambda i: "2.5" if i == 3 else str(i % 4))
    assert train.task == "single"


def test_codes_beside_0_and_1_are_no_numbers_to_predict(tmp_path):
    with pytest.raises(UserError, match=r"must hold 0 or 1, got '-1.0'; --task regression"):
        read(tmp_path, lambda i: (f"{i % 2}.0", "-1.0" if i % 7 == 0 else "1.0"),
             ("id", "edema", "mass"), target_column="edema,mass")


def test_a_class_a_row_and_several_rows_an_image_are_sets_where_they_are_asked_for(tmp_path):
    images(tmp_path / "train", [f"a{i}.png" for i in range(N)])
    rows = [(f"a{i}.png", c) for i in range(N) for c in ("x", "y", "z")[:1 + i % 3]]
    table(tmp_path / "train.csv", ("id", "label"), *rows)
    train = read_contest(tmp_path, DataConfig(task="multilabel")).train
    assert train.classes == ("x", "y", "z") and len(train) == N
    assert train.target[train.sample_id.tolist().index("a2.png")].tolist() == [1, 1, 1]


def test_a_task_of_tables_is_refused_where_folders_give_the_classes(tmp_path):
    for kind in "ab":
        images(tmp_path / "train" / kind, [f"{kind}{i}.png" for i in range(6)])
    with pytest.raises(UserError, match="--task regression needs a label table"):
        read_contest(tmp_path, DataConfig(task="regression"))


def test_classes_that_hold_what_stands_between_them_are_refused_before_training():
    form = Form(header=("id", "label"), id_column="id", ids=("a",), joint=" ")
    with pytest.raises(UserError, match=r"must not hold ' '.*'No Finding'"):
        form.for_metric("samples_f1", "set", ("Edema", "No Finding"))


def test_equal_numbers_are_equal_labels_whatever_their_bins():
    target = np.array([[1.0], [1.0], [2.0]], dtype=np.float32)
    catalog = Catalog(["a", "b", "c"], [""] * 3, [""] * 3, [0, 1, 1], ["a", "b", "c"], ("x",),
                      target=target, task="regression")
    first, second, third = what_labels_say(catalog).tolist()
    assert first == second != third


def test_a_student_of_sets_learns_under_autocast():
    objective = EachByItself(0.0, torch.full((3,), 0.5))
    answers = torch.tensor([[0.2, 0.0, 1.0]])
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.apart(torch.logit(answers.clamp(1e-6, 1 - 1e-6)), answers, 1.0)
    assert loss.isfinite().all() and loss.abs().max() < 1e-3


@pytest.mark.parametrize("cell", [lambda i: ("cat dog", "cat", "dog")[i % 3],
                                  lambda i: ("cat;dog", "cat;owl", "owl")[i % 3]])
def test_sets_in_a_column_that_is_named_are_sets(cell, tmp_path):
    assert read(tmp_path, cell, target_column="label").task == "multilabel"
    assert read(tmp_path, cell, target_column="label", task="single").task == "single"


def test_few_sets_in_a_column_that_is_named_are_asked_about_too(tmp_path, monkeypatch):
    monkeypatch.setattr("contest.tables.LEAST_SETS", 0.05)
    with pytest.raises(UserError, match=r"--task multilabel reads sets .* --task single"):
        read(tmp_path, lambda i: "cat dog" if i == 3 else ("cat", "dog")[i % 2],
             target_column="label")


def test_a_table_of_numbers_beside_folders_of_sites_is_the_labels(tmp_path):
    rows = [(f"site {i % 3}/a{i}.png", f"{i / 7:.3f}") for i in range(N)]
    images(tmp_path / "train", [row[0] for row in rows])
    table(tmp_path / "values.csv", ("file", "height"), *rows)
    train = read_contest(tmp_path, DataConfig()).train
    assert train.task == "regression" and len(train) == N
    assert read_contest(tmp_path, DataConfig(label_table="folders")).train.classes == (
        "site 0", "site 1", "site 2")


def test_a_table_of_numbers_beside_folders_of_classes_is_not(tmp_path):
    rows = [(f"{('cat', 'dog')[i % 2]}/a{i}.png", f"{i / 7:.3f}") for i in range(N)]
    images(tmp_path / "train", [row[0] for row in rows])
    table(tmp_path / "values.csv", ("file", "height"), *rows)
    contest = read_contest(tmp_path, DataConfig())
    assert contest.train.classes == ("cat", "dog")
    assert any(problem.kind == "unused_table" for problem in contest.problems)


def test_a_teacher_of_numbers_answers_in_whole_precision():
    teacher = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(teacher.weight, 1234.567)
    distilled = Distilled(Numbers([0.0], [1.0]), [teacher], alpha=1.0, temperature=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(distilled.teacher_probs(torch.ones(1, 1))) == pytest.approx(1234.567, rel=1e-6)


def test_numbers_are_clipped_to_the_range_of_all_training_labels():
    metric = NUMBER_METRICS["rmse"]
    truth = np.array([[0.0, 5.0], [10.0, 6.0], [3.0, 9.0]])
    assert metric.final_cuts(truth, metric.fit_cuts(truth[:1], truth[:1])) == (0, 5, 10, 9)
    assert metric.final_cuts(truth, ()) == ()
    assert SET_METRICS["samples_f1"].final_cuts(truth > 4, (0.3, 0.4, 0.0)) == (0.3, 0.4, 0.0)
