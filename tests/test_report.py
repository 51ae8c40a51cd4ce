import dataclasses

import numpy as np
import pytest

from config import DataConfig
from data_loader import read_contest
from modeling.inference import Predictions
from modeling.report import check_submission, loss_curves, quantile_bars, submission_table, write_submission
from utils import RunError

PRIOR = np.array([0.2, 0.5, 0.3])


@pytest.fixture(scope="module")
def asked(contest):
    return read_contest(contest, DataConfig())


def predictions(ids):
    probs = np.tile(np.array([[0.1, 0.2, 0.7]], np.float32), (len(ids), 1))
    return Predictions(np.array(ids), probs, ("0", "1", "2"), "test", ("m",))


def test_rows_follow_the_sample_and_a_missing_image_gets_the_prior(asked, tmp_path):
    ids = sorted(asked.submission_ids)
    rows = submission_table(asked, predictions(ids[1:]), PRIOR)
    assert [r[0] for r in rows] == list(asked.submission_ids)
    assert dict(rows)[ids[0]] == "1" and dict(rows)[ids[1]] == "2"
    write_submission(rows, asked, tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text().splitlines()[:2] == ["ID,target", f"{asked.submission_ids[0]},2"]


@pytest.mark.parametrize("damage", [
    lambda rows: rows[1:], lambda rows: rows[::-1], lambda rows: [*rows, rows[0]],
    lambda rows: [(i, "9") for i, _ in rows], lambda rows: [("x", "1"), *rows[1:]]])
def test_a_broken_submission_is_never_written(asked, tmp_path, damage):
    rows = submission_table(asked, predictions(list(asked.submission_ids)), PRIOR)
    check_submission(rows, asked)
    with pytest.raises(RunError):
        write_submission(damage(rows), asked, tmp_path / "s.csv")
    assert not list(tmp_path.iterdir())


def test_ids_that_need_quotes_survive(asked, tmp_path):
    odd = dataclasses.replace(asked, submission_ids=('a,"b".png', "한 글.png"))
    write_submission(submission_table(odd, None, PRIOR), odd, tmp_path / "s.csv")
    assert '"a,""b"".png",1' in (tmp_path / "s.csv").read_text(encoding="utf-8")


def test_loss_curves_span_the_picture():
    points, (low, high) = loss_curves([[2.0, 1.0], [3.0]])
    assert (low, high) == (1.0, 3.0)
    assert points[0] == "10.0,100.0 630.0,180.0"


def test_quantile_bars_share_one_scale():
    bars = quantile_bars({"train": [0, 1, 2], "test": [2, 3, 4], "matched": [2, 3, 4], "auc": 0.9})
    assert bars["train"] == [4, 47, 90] and bars["test"] == bars["matched"] == [90, 133, 176]
    assert quantile_bars({split: [1, 1, 1] for split in ("train", "test", "matched")})["test"] == [4, 4, 4]
