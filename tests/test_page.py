"""The page of a real small run whose first class is called <script>: at each point of the run, and
at its end."""
import base64
import contextlib
import hashlib
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from contest.catalog import Catalog
from grandmaster_train import main
from modeling.weights import WeightsSource
from reporting import page as page_module
from reporting.page import Page, samples, weight_rows, write_page
from running.run import Setup
from system.log import EventLog
from tests.conftest import make_contest, small_argv

EVIL = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """Every tag, and whatever an attribute lets a browser fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched, self.policy = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if ("http-equiv", "Content-Security-Policy") in attributes:
            self.policy = dict(attributes)["content"]
        self.fetched += [v for k, v in attributes if k in ("src", "href", "srcset", "data",
                                                           "action") and v]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(run folder, contents of the page in the order they were written) of a run of two folds."""
    folder, patch, contents = tmp_path_factory.mktemp("page"), pytest.MonkeyPatch(), []
    contest = make_contest(folder / "shapes")
    (contest / "meta.csv").write_text(f"target,class_name\n0,{EVIL}\n1,cross\n2,stripes\n")
    (contest / "train" / "a000.png").write_bytes((contest / "train" / "a001.png").read_bytes())
    patch.setattr(page_module, "PAUSE_FACTOR", 0)
    patch.setattr(page_module, "write_page", lambda path, content: (contents.append(content),
                                                                    write_page(path, content)))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["--quiet", *small_argv(contest, folder, "data.run_folds=2",
                                            mode="full_training")]) == 0
    patch.undo()
    (folder / "said.txt").write_text(said.getvalue())
    return folder / "run", contents


def test_a_class_name_is_text_and_nothing_is_fetched(shown):
    text = (shown[0] / "report.html").read_text()
    page = Tags(text)
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text
    assert all(v.startswith(("data:", "#"))
               for v in page.fetched) and "url(" not in text and len(text) < 5_000_000


def test_the_one_script_of_the_page_is_the_one_that_its_policy_names(shown):
    text = (shown[0] / "report.html").read_text()
    assert Tags(text).tags.count("script") == 1
    script = text.partition("<script>")[2].partition("</script>")[0]
    assert script == (Path(page_module.__file__).parent / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = Tags(text).policy
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert "connect-src" not in policy and "innerHTML" not in script


def test_the_page_grows_while_the_run_goes_on(shown):
    assert [c["n_done"] for c in shown[1]] == [0, 1, 2, 2]
    assert [bool(c["oof"]) for c in shown[1]] == [False, True, True, True]
    assert [json.loads(c["mend"])["running"] for c in shown[1]] == [True, True, True, False]
    assert [len(c["oof"]["hardest"]) for c in shown[1][1:]] == [12, 12, 12]
    for content in shown[1][:-1]:
        write_page(shown[0] / "then.html", content)
        assert f"{content['n_done']} of 2" in (shown[0] / "then.html").read_text()


def test_the_page_begins_with_an_image_of_each_class_and_folder(shown):
    folder, contents = shown
    assert [(p["label"], p["id"]) for p in contents[0]["samples"]] == [
        (f"0 {EVIL}", "train/a000.png"), ("1 cross", "train/a012.png"),
        ("2 stripes", "train/a024.png")]
    assert contents[0]["n_more_samples"] == 0
    text = (folder / "report.html").read_text()
    assert text.index("train/a024.png") < text.index("expected macro_f1 of the submission")


def of_class_and_folder(n_classes, n_folders):
    """An audit of one image per class and folder."""
    places = [(k, j) for k in range(n_classes) for j in range(n_folders)]
    train = Catalog.of([{"sample_id": f"{k:03}-{j}", "label": k, "path": f"/data/{j}/{k:03}.png"}
                        for k, j in places], [f"{k:03}" for k in range(n_classes)])
    return SimpleNamespace(train=train, summary={"class_names": train.classes},
                           train_pixels=np.zeros((len(places), 8, 8, 3), np.uint8))


@pytest.mark.parametrize(("n_classes", "n_folders", "n_more"), [
    (3, 2, 0), (30, 2, 20), (50, 1, 10)])
def test_every_class_is_shown_before_a_second_folder_of_any(n_classes, n_folders, n_more):
    found = samples(of_class_and_folder(n_classes, n_folders), Path("/data"))
    assert found["n_more_samples"] == n_more
    assert len(found["samples"]) == n_classes * n_folders - n_more
    labels = [p["label"] for p in found["samples"]]
    assert labels == sorted(labels) and len(set(labels)) == min(n_classes, 40)
    assert found["samples"][0]["id"] == "0/000.png"


def test_the_page_shows_the_runs_own_numbers_and_command(shown):
    folder, content = shown[0], shown[1][-1]
    final = json.loads((folder / "final_results.json").read_text())
    text = (folder / "report.html").read_text()
    assert (
        f"{final['score']['expected']:.3f}" in text and f"{final['score']['oof_clean']:.4f}" in text
    )
    assert "python grandmaster_train.py --quiet --mode full_training --data_path" in text
    right = sum(cells[i][1] for i, (_, cells) in enumerate(content["oof"]["matrices"][0]["rows"]))
    assert right == content["oof"]["matrices"][0]["right"] and content["oof"]["n"] == 24
    assert [image["id"] for image in content["sets"][0]["images"]] == ["a000.png", "a001.png"]
    assert not [w for w in final["warnings"] if "report.html" in w]


def test_quiet_leaves_warnings_and_the_closing_table(shown):
    said = (shown[0].parent / "said.txt").read_text()
    assert "warning: " in said and "expected macro_f1" in said and "report  " in said
    assert "fit 1/2" not in said and "plan" not in said and "labels:" not in said
    assert "fit 1/2" in (shown[0] / "events.jsonl").read_text()


def test_a_non_commercial_licence_is_loud(shown, tmp_path):
    source = WeightsSource("resnext101_32x32d", "weights_dir", "w.pth", "cc-by-nc-4.0")
    write_page(tmp_path / "page.html", shown[1][-1] | {"weights": weight_rows([source])})
    assert "NOT FOR COMMERCIAL USE: the weights of resnext101_32x32d" in (tmp_path
                                                                          / "page.html").read_text()
    assert "NOT FOR COMMERCIAL USE" not in (shown[0] / "report.html").read_text()
    assert not weight_rows([replace(source, licence="apache-2.0")])[0]["loud"]
    assert not weight_rows([replace(source, kind="random")])[0]["loud"]
    assert "LICENCE UNKNOWN" in weight_rows([replace(source, licence="")])[0]["loud"]


def test_a_page_that_cannot_be_written_is_a_line_in_the_log(tmp_path, capsys):
    setup = Setup(None, None, None, tmp_path, None, {}, {})
    Page(setup, None, None, EventLog(tmp_path / "events.jsonl")).show({}, [])
    assert "report.html could not be written (AttributeError" in capsys.readouterr().out
    assert (
        "report.html" in (tmp_path / "events.jsonl").read_text()
        and not (tmp_path / "report.html").exists()
    )
