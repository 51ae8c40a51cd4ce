import numpy as np
import pytest

from config import Round
from data_loader import Targets
from modeling.inference import Predictions
from modeling.targets import pseudo_targets
from utils import RunError

IDS = np.array(["t0", "t1", "t2", "t3"])


def teacher(first):
    first = np.array(first, np.float32)
    return Predictions(IDS, np.stack([first, 1 - first], 1), ("a", "b"), "test", ("m",))


TEACHERS = [teacher([0.99, 0.9, 0.02, 0.6]), teacher([0.97, 1.0, 0.04, 0.4])]


def test_sure_and_agreed_rows_are_kept_with_their_confidence():
    targets = pseudo_targets(TEACHERS, Round(teacher=True, unlabelled=True, min_confidence=0.95), fold=2)
    assert targets.sample_id.tolist() == ["t0", "t1", "t2"]
    np.testing.assert_allclose(targets.weight, [0.98, 0.95, 0.97], atol=1e-6)
    disagreed = pseudo_targets(TEACHERS, Round(teacher=True, unlabelled=True, min_confidence=0.0), fold=2)
    assert disagreed.sample_id.tolist() == ["t0", "t1", "t2"]


def test_targets_of_one_fold_are_refused_by_another():
    targets = pseudo_targets(TEACHERS, Round(teacher=True, unlabelled=True), fold=2)
    assert targets.for_fold(2) is targets
    with pytest.raises(RunError, match=r"fold 1 .*blind to fold 2"):
        targets.for_fold(1)
    assert Targets(IDS[:1], np.array([[1.0, 0.0]]), np.ones(1)).for_fold(1)
