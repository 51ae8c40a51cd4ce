import numpy as np
import pytest

from contest.submission import Form, match_columns, probs_of_ids
from modeling.inference import Predictions
from utils import RunError, UserError

PROBS = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
ONE = Form(("ID", "target"), "ID", ("b", "a"), source="sample.csv")
SEVERAL = Form(("dog", "ID", "cat", "fox", "bird"), "ID", ("b", "a"), (1, 0, 2, -1), "sample.csv")
CLASSES = ("cat", "dog", "fox")
KINDS = {"class": (ONE, "class", CLASSES), "ranking": (ONE, "ranking", CLASSES),
         "positive": (ONE, "probability", ("0", "1")), "probabilities": (SEVERAL, "probability",
                                                                         CLASSES)}


def decided(kind):
    form, answer, classes = KINDS[kind]
    return form.for_metric("some", answer, classes), PROBS[:, : len(classes)] / PROBS[
        :, : len(classes)
    ].sum(1, keepdims=True)


@pytest.mark.parametrize(("kind", "row"), [
    ("class", ("b", "fox")), ("ranking", ("b", "fox dog cat")),
    ("positive", ("b", "0.666666666667")),
    ("probabilities", ("0.2", "b", "0.1", "0.7", "0"))])
def test_rows_hold_what_the_metric_scores_and_say_it_back(kind, row):
    form, probs = decided(kind)
    rows = form.rows(probs)
    form.check(rows)
    assert form.kind == kind and rows[0] == row
    said = form.probs(rows)
    assert said.argmax(1).tolist() == probs.argmax(1).tolist() and said.sum(1) == pytest.approx(1)
    if form.kind in ("positive", "probabilities"):
        assert said == pytest.approx(probs, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [
    lambda rows: rows[1:], lambda rows: rows[::-1], lambda rows: [*rows, rows[0]],
    lambda rows: [("x", "y"), *rows[1:]],
    lambda rows: [tuple("nan" if c not in "ab" else c for c in rows[0]), *rows[1:]],
    lambda rows: [tuple("1.8" if c not in "ab" else c for c in rows[0]), *rows[1:]],
    lambda rows: [tuple("bird" if c not in "ab" else c for c in rows[0]), *rows[1:]],
    lambda rows: [rows[0][:-1], *rows[1:]]])
def test_a_broken_submission_is_never_written(kind, damage, tmp_path):
    form, probs = decided(kind)
    with pytest.raises(RunError):
        form.write(damage(form.rows(probs)), tmp_path / "s.csv")
    assert not list(tmp_path.iterdir())


def test_ids_that_need_quotes_survive(tmp_path):
    form = Form(("ID", "target"), "ID", ('a,"b".png', "한 글.png")).for_metric("some", "class",
                                                                             CLASSES)
    form.write(form.rows(PROBS), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines() == [
        "ID,target", '"a,""b"".png",fox', "한 글.png,cat"]


def test_cells_are_separated_as_in_the_sample(tmp_path):
    form = Form(("ID", "target"), "ID", ("a;b", "c"), separator=";").for_metric("some", "class",
                                                                                CLASSES)
    form.write(form.rows(PROBS), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines() == ["ID;target",
                                                                             '"a;b";fox', "c;cat"]


def test_an_id_without_a_prediction_gets_the_class_shares():
    predictions = Predictions(np.array(["a"]), np.array([[0.2, 0.8]], np.float32), ("x", "y"),
                              "test", ("m",))
    assert probs_of_ids(("b", "a", "b"), predictions, np.array([0.9, 0.1])) == pytest.approx(
        np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]))
    assert probs_of_ids(("b",), None, np.array([0.9, 0.1])).tolist() == [[0.9, 0.1]]


@pytest.mark.parametrize(("columns", "classes", "found"), [
    (("dog", "cat"), ("cat", "dog"), (1, 0)), (("c0", "c1", "c10"), ("c0", "c1", "c10"), (0, 1, 2)),
    (("Fat Hen", "Black-grass"), ("black grass", "fat_hen"), (1, 0)),
    (("prob_0", "prob_1"), ("0", "1"), (0, 1)),
    (("prob_cat", "prob_car"), ("car", "cat"), (1, 0)), (("p_c0", "p_c1"), ("c0", "c1"), (0, 1)),
    (("a b", "a_b"), ("a b", "a_b"), (0, 1)), (("a-b", "c"), ("a b", "a_b"), (-1, -1)),
    (("x", "cat"), ("cat", "dog"), (-1, 0)), (("prediction",), ("n", "y"), (-1,)),
    (("y",), ("n", "y"), (1,)),
    (("is_y",), ("n", "y"), (1,)), ((), ("n", "y"), ()), (("Is Dog",), ("dog", "cat"), (0,))])
def test_columns_are_matched_by_name(columns, classes, found):
    assert match_columns(columns, classes) == found


def test_columns_may_be_named_after_the_names_of_numbered_classes():
    assert match_columns(("Rust", "Scab"), ("0", "1"), ("scab", "rust")) == (1, 0)


def test_the_positive_class_is_the_last_or_the_one_that_the_column_is_named_after():
    assert ONE.for_metric("auc", "probability", ("cat", "dog")).rows([[0.3, 0.7]] * 2)[0] == ("b",
                                                                                              "0.7")
    cat = Form(("ID", "cat"), "ID", ("b",), (0,)).for_metric("auc", "probability", ("cat", "dog"))
    assert cat.rows([[0.3, 0.7]]) == [("b", "0.3")] and "'cat'" in cat.describe()


def test_without_a_sample_the_metric_makes_the_columns():
    form = Form(("ID", "target"), "ID", ("b", "a"))
    assert form.for_metric("log_loss", "probability", CLASSES).header == ("ID", *CLASSES)
    assert form.for_metric("accuracy", "class", CLASSES).header == ("ID", "target")


@pytest.mark.parametrize(("form", "answer", "classes", "message"), [
    (ONE, "probability", CLASSES, "one probability column for each of the 3 classes"),
    (SEVERAL, "ranking", CLASSES, "has 4, one per class"),
    (SEVERAL, "grade", CLASSES, "has 4, one per class"),
    (ONE, "ranking", ("a b", "c"), "without spaces"),
    (ONE, "grade", ("0", "2"), "consecutive whole numbers")])
def test_a_form_that_cannot_hold_the_answer_is_refused(form, answer, classes, message):
    with pytest.raises(UserError, match=message):
        form.for_metric("some", answer, classes)
