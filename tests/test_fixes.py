"""Labels mended in a report: the file that it saves, read again and applied to a run."""
import csv
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from benchmarks.mended import fixes_of, flipped, mended
from config import DataConfig
from contest.intake import read_contest
from grandmaster_train import config_of, make_parser
from running.pipeline import run
from tests.conftest import make_contest, small_argv
from utils import UserError, csv_rows

SCRIPT = Path(__file__).parent.parent / "reporting/report.js"
HEADER = "id,label,note\n"


def labels_of(contest):
    train = contest.train
    return {i: train.classes[k] for i, k in zip(train.sample_id.tolist(), train.label.tolist(),
                                                strict=True)}


@pytest.fixture
def root(tmp_path):
    return make_contest(tmp_path / "shapes")


def test_a_row_relabels_leaves_out_or_keeps_its_image(root, tmp_path):
    plain = labels_of(read_contest(root, DataConfig()))
    fixes = tmp_path / "mended.csv"
    fixes.write_text(HEADER + "a000.png,cross,by name\na001.png,2,\na002.png,,blurred\n"
                     "a003.png,0,\n")
    contest = read_contest(root, DataConfig(label_fixes=str(fixes)))
    expected = plain | {"a000.png": "1", "a001.png": "2"}
    del expected["a002.png"]
    assert labels_of(contest) == expected
    assert contest.understood[-1] == ("fixes:      mended.csv: 2 labels changed, 1 image left out, "
                                      "1 label kept (--label_fixes FILE)")
    assert np.all(contest.train.sample_id[:-1] <= contest.train.sample_id[1:])


def test_a_file_beside_the_labels_is_found_and_is_no_label_table(root):
    (root / "label_fixes.csv").write_text("\ufeffid;label;note\r\na000.png;1;\r\n",
                                          encoding="utf-8")
    contest = read_contest(root, DataConfig())
    assert labels_of(contest)["a000.png"] == "1"
    assert not contest.problems


def test_another_table_of_that_name_is_a_label_table(root):
    (root / "train.csv").rename(root / "label_fixes.csv")
    contest = read_contest(root, DataConfig())
    assert len(contest.train) == 36 and not contest.fixes


def test_two_files_in_the_folder_are_one_sentence(root):
    for name in ("label_fixes.csv", "train/label_fixes.csv"):
        (root / name).write_text(HEADER + "a000.png,1,\n")
    with pytest.raises(UserError, match=r"must hold one label_fixes\.csv, got 'label_fixes\.csv', "
                       r"'train/label_fixes\.csv': --label_fixes FILE takes one"):
        read_contest(root, DataConfig())
    fixes = DataConfig(label_fixes=str(root / "label_fixes.csv"))
    assert labels_of(read_contest(root, fixes))["a000.png"] == "1"


@pytest.mark.parametrize(("text", "sentence"), [
    (HEADER + "b7.png,1,\n", "must name training images, but this contest has none of 1 id "
                             r"\('b7.png'\)"),
    (HEADER + "a000.png,crosss,\n", "'crosss' is no class; did you mean 'cross'?"),
    (HEADER + "a000.png,1,\na000.png,2,\n", "one label, but gives 'a000.png' both '1' and '2'"),
    ("image,class\na,1\n", "columns id and label, got .* with 'image', 'class'"),
    (HEADER + 'a000.png,"1\n', "cannot be read"),
    (HEADER + "".join(f"a{i:03}.png,,\n" for i in range(24)), "at least 2 classes, and leaves 1"),
])
def test_what_the_file_cannot_mean_is_one_sentence(root, tmp_path, text, sentence):
    fixes = tmp_path / "mended.csv"
    fixes.write_text(text)
    with pytest.raises(UserError, match=sentence) as raised:
        read_contest(root, DataConfig(label_fixes=str(fixes)))
    assert len(raised.value.args) == 1


def test_a_missing_file_is_one_sentence(root):
    with pytest.raises(UserError, match=r"--label_fixes must name a file, and 'no\.csv' is none"):
        read_contest(root, DataConfig(label_fixes="no.csv"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: folder} of a run and of the same with mended labels. Equal files have two labels."""
    folder = tmp_path_factory.mktemp("mended")
    contest = make_contest(folder / "shapes")
    shutil.copy(contest / "train/a000.png", contest / "train/a012.png")
    fixes = folder / "label_fixes.csv"
    fixes.write_text(HEADER + "a012.png,0,\na001.png,1,\na002.png,,\n")
    found = {}
    for name, more in (("plain", []), ("mended", ["--label_fixes", str(fixes)])):
        argv = [*more, "--quiet", *small_argv(contest, folder, "optim.epochs=1", name=name)]
        found[name] = folder / name
        run(config_of(make_parser().parse_args(argv)), contest, folder / name,
            command=["python", "grandmaster_train.py", *argv])
    return found


def test_the_audit_and_the_page_name_what_was_mended(runs):
    def audit_of(name):
        return json.loads(next(runs[name].glob("audit-*/audit.json")).read_text())

    assert "label_fixes" not in audit_of("plain")["summary"]
    mended = audit_of("mended")
    assert mended["summary"]["label_fixes"] == [
        {"sample_id": "a012.png", "before": "1", "label": "0"},
        {"sample_id": "a001.png", "before": "0", "label": "1"},
        {"sample_id": "a002.png", "before": "0", "label": ""}]
    words = "2 labels changed, 1 image left out"
    assert any(words in line for line in mended["summary"]["understood"])
    assert words in (runs["mended"] / "report.html").read_text()
    assert words not in (runs["plain"] / "report.html").read_text()


def test_mended_labels_make_other_fits_and_the_submission_has_the_same_rows(runs):
    fits = {name: {path.name for path in folder.glob("fold_0/*")} for name, folder in runs.items()}
    assert not fits["plain"] & fits["mended"]
    ids = {name: [row["ID"] for row in csv_rows(folder / f"submission_{name}.csv")]
           for name, folder in runs.items()}
    assert ids["plain"] == ids["mended"]


def test_equal_files_with_different_labels_are_shown_until_they_agree(runs):
    page = (runs["plain"] / "report.html").read_text()
    assert "equal files: all are left out until they agree" in page
    assert "left out until they agree" not in (runs["mended"] / "report.html").read_text()


# ---------------------------------------------------------------- in a browser

# presses keys as a person would, then leaves what would be saved in the page
PRESS = """
const file = [];
URL.createObjectURL = (blob) => { blob.text().then((text) => {
  const made = document.createElement("pre");
  made.id = "saved";
  made.textContent = text + "|" + document.querySelector("#mending output").textContent;
  document.body.append(made);
}); return "blob:none"; };
HTMLAnchorElement.prototype.click = () => {};
const figures = [...document.querySelectorAll("figure[data-image]")];
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true}));
figures[0].focus();
for (const key of KEYS) press(key);
document.querySelector("#mending .save").click();
"""


def driven(page, script, folder, *changes):
    """The DOM of a page after a script, in a browser as wide as a phone. changes: (text, text in
    its place)."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("there is no Chromium")
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / "driven.html"
    path.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/user",
         "--window-size=390,844", "--virtual-time-budget=60000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def saved_after(page, keys, folder):
    """(rows of label_fixes.csv, the counts below) after these keys on the first image of a page."""
    dom = driven(page, PRESS.replace("KEYS", json.dumps(keys)), folder)
    saved = re.search(r'<pre id="saved">(.*?)</pre>', dom, re.DOTALL)[1]
    text, _, counts = saved.rpartition("|")
    return list(csv.reader(text.splitlines())), counts


def test_keys_mend_labels_and_undo(runs, tmp_path):
    page = runs["plain"] / "report.html"
    mend = json.loads(unescape(re.search(r'data-mend="([^"]*)"', page.read_text())[1]))
    ids = [image[0] for image in mend["images"]]
    keys = ["2", "ArrowRight", "x", "ArrowRight", "k", "ArrowRight", "1", "u", "ArrowLeft", "u",
            "ArrowRight", "0"]
    rows, counts = saved_after(page, keys, tmp_path)
    assert rows[0] == ["id", "label", "note"]
    assert [row[:2] for row in rows[1:]] == [[ids[0], "1"], [ids[1], ""], [ids[3], ""]]
    assert counts in ("1 relabelled, 2 left out, 0 kept", "0 relabelled, 2 left out, 1 kept")


# goes through every image, forwards and back, and leaves which of them the bar covers
COVERED = """
(async () => {
  const images = [...document.querySelectorAll("figure[data-image]")];
  const covered = [];
  const moment = () => new Promise((done) => setTimeout(done, 50));
  images[0].focus();
  for (const key of [...images.map(() => "ArrowRight"), ...images.map(() => "ArrowLeft")]) {
    await moment();
    const card = document.activeElement.getBoundingClientRect();
    const bar = document.querySelector("#mending").getBoundingClientRect();
    if (bar.height < 20 || (card.bottom > bar.top && card.top < bar.bottom)) covered.push(key);
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  }
  document.body.append(Object.assign(document.createElement("pre"),
    {id: "saved", textContent: `${images.length} images, covered: ${covered}`}));
})();
"""


def test_the_bar_covers_no_image_that_the_keys_go_to(runs, tmp_path):
    dom = driven(runs["plain"] / "report.html", COVERED, tmp_path)
    assert re.search(r'<pre id="saved">[1-9][0-9]* images, covered: </pre>', dom)


def test_a_page_reloads_itself_while_its_run_goes_on(runs, tmp_path):
    dom = driven(runs["mended"] / "report.html", "", tmp_path,
                 ("location.reload();", "document.title = 'loaded again';"),
                 ("&#34;running&#34;: false", "&#34;running&#34;: true"))
    assert "<title>loaded again</title>" in dom


# ---------------------------------------------------------------- the benchmark of mending

def test_the_benchmark_flips_a_share_of_labels_and_mends_the_listed_ones():
    labels = np.arange(100) % 3
    wrong = flipped(labels, 0.05, 3, seed=0)
    assert (wrong != labels).sum() == 5 and set(wrong.tolist()) == {0, 1, 2}
    rows = np.flatnonzero(wrong != labels)
    fixed = mended(wrong, labels, [*rows[:2], 0])
    assert np.flatnonzero(fixed != labels).tolist() == rows[2:].tolist()


def test_the_benchmark_looks_at_each_image_that_a_page_lets_one_mend(runs):
    page = (runs["plain"] / "report.html").read_text()
    wrong = {f"a{k:03}.png": "0" for k in range(200)}
    fixes = fixes_of(page, wrong, wrong | {"a012.png": "1"})
    assert ("a012.png", "1", "relabelled, was 0") in fixes and len(fixes) > 2
    assert {fix[1:] for fix in fixes if fix[0] != "a012.png"} == {("0", "kept")}
