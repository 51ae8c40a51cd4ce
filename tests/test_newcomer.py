"""Where somebody with a folder of photos hesitated: the words that now say how to go on."""
from types import SimpleNamespace

import numpy as np
import pytest

import predict
from contest.targets import line_of_classes
from modeling.weights import WeightsSource
from reporting import summary
from reporting.summary import closing_lines
from running.introduction import introduce_weights


@pytest.mark.parametrize(("counts", "words"), [([30, 30], "30 images each"),
                                               ([12, 25], "12 to 25 images each")])
def test_classes_of_one_size_are_counted_once(counts, words):
    line = line_of_classes("names", np.array(counts), None, ("a", "b"), "'a', 'b'", "")
    assert f", names, {words}: " in line


def test_a_run_without_test_images_ends_with_the_command_for_new_ones(monkeypatch):
    monkeypatch.setattr(summary, "source_lines", lambda _: [])
    monkeypatch.setattr(summary, "score_lines", lambda *_: [])
    final = {"metric": "macro_f1", "better": "larger", "rounds": [1], "score": {}, "seconds": 9.0,
             "plan": {"estimated_seconds": None}, "submission": "", "warnings": []}
    said = "\n".join(closing_lines(final, ["row"], "training_results/my photos"))
    assert "python predict.py 'training_results/my photos' IMAGES_OR_FOLDER" in said
    assert predict.make_parser().parse_args(["training_results/my photos", "x"]).images == ["x"]
    final["submission"] = "submission_x.csv"
    assert "predict.py" not in "\n".join(closing_lines(final, ["row"], "x"))


def test_a_warning_of_random_weights_names_the_command_that_fetches_others():
    said = []
    config = SimpleNamespace(runtime=SimpleNamespace(weights_dir=""),
                             model=SimpleNamespace(pretrained="auto", backbones=("a",)))
    setup = SimpleNamespace(config=config, instead_of=(),
                            weights={"a": WeightsSource("a", "random")})
    introduce_weights(setup, SimpleNamespace(say=lambda *_: None, warn=said.append))
    assert "--fetch_weights FOLDER downloads them" in said[-1]
