"""benchmarks.peers: what it hands to the peers and what it makes of their runs. No environment is
made, no peer trained."""
import json
import shutil
import sys
from dataclasses import replace

import pytest

from benchmarks.contract import (
    Contract,
    Images,
    Job,
    Peer,
    read_contract,
    read_rows,
    untargeted,
    write_contract,
)
from benchmarks.peers import (
    PRODUCT,
    Outcome,
    contract_of,
    last_line,
    macro_f1,
    make_environment,
    run_command,
    scored,
    table,
    thinned,
)
from data_loader import load_folds
from grandmaster_train import main as train
from tests.conftest import small_argv

JOB = Job("mobilenetv3_small_050", 32, 8, 2)
CONTRACT = Contract(JOB, ("b", "a,1"), (("/x/1.png", 1), ("/x/2.png", 0)), (("/x/3.png", 1),),
                    (("/y/t.png", "t"), ("/y/s.png", "s")))
ANSWERS = {"s": "a", "t": "b"}


def test_a_contract_is_read_as_it_was_written(tmp_path):
    write_contract(tmp_path, CONTRACT)
    assert read_contract(tmp_path) == CONTRACT
    assert (tmp_path / "train.csv").read_text().splitlines() == ["path,label", '/x/1.png,"a,1"',
                                                                 "/x/2.png,b"]
    assert read_rows(tmp_path / "test.csv") == [["t", "/y/t.png"], ["s", "/y/s.png"]]


def test_a_peer_leaves_its_predictions_by_id_and_its_seconds(tmp_path):
    write_contract(tmp_path / "contract", CONTRACT)
    with Peer([tmp_path / "contract", tmp_path / "out"]) as peer, peer.timed("train"):
        peer.write([1, 0])
    assert dict(read_rows(tmp_path / "out/predictions.csv")) == {"t": "a,1", "s": "b"}
    assert list(json.loads((tmp_path / "out/timing.json").read_text())) == ["train"]


def test_images_are_rgb_and_go_through_the_transform(contest):
    image, target = Images(untargeted([(str(contest / "test" / "t000.png"), "t000.png")]),
                           lambda image: image)[0]
    assert (image.mode, image.size, target) == ("RGB", (56, 40), 0)


def test_the_contract_has_the_split_of_the_product(contest, tmp_path):
    assert train(small_argv(contest, tmp_path, "data.n_folds=5", "optim.epochs=1")) == 0
    folds = load_folds(next((tmp_path / "run").glob("folds-*/folds.csv")))
    made = contract_of(contest, replace(JOB, batch_size=0), tmp_path / "audit")
    held_out = {path.rsplit("/", 1)[1] for path, _ in made.valid}
    assert held_out == set(folds.sample_id[folds.valid_rows(0)].tolist())
    assert len(made.train) + len(made.valid) == 36 and len(made.test) == 10
    assert made.classes == ("0", "1", "2") and made.job.batch_size == 8


def test_a_thinned_contest_keeps_all_classes(contest, tmp_path):
    thin = thinned(contest, tmp_path / "thin", 4)
    rows = read_rows(thin / "train.csv")
    assert len(rows) == 9 and {label for _, label in rows} == {"0", "1", "2"}
    assert {p.name for p in (thin / "train").iterdir()} == {name for name, _ in rows}
    assert len(list((thin / "test").iterdir())) == len(read_rows(thin
                                                                 / "sample_submission.csv")) == 3


def test_scores_are_joined_by_id():
    assert macro_f1({"t": "b", "s": "a"}, ANSWERS) == 1.0
    with pytest.raises(ValueError, match="1 missing, 2 extra"):
        macro_f1({"t": "b", "u": "a", "v": "a"}, ANSWERS)
    outcome, score = scored(Outcome("timm", 1.0, predictions={"t": "b"}), ANSWERS)
    assert score is None and outcome.error.startswith("predictions of other ids")


def test_the_table_has_ratios_and_failures():
    right = {"s": "a", "t": "b"}
    runs = [(Outcome(PRODUCT, 30.0, 2 * 10**9, predictions=right), 1.0),
            (Outcome("timm", 20.0, 10**9, predictions=right), 0.5),
            (Outcome("timm", 24.0, 10**9, predictions=right), 0.7),
            (Outcome("timm", 9.0, error="exit status 1: full"), None),
            (Outcome("fastai", 3.0, error="no environment: offline"), None)]
    lines = list(table(runs, n_images=660))
    assert lines[2] == "| product | 1 of 1 | 30.0 | 22.0 | 2.00 | 1.0000 | 1.36 |"
    assert lines[3] == ("| timm | 2 of 3 | 22.0 (20.0 to 24.0) | 30.0 | 1.00 | "
                        "0.6000 (0.5000 to 0.7000) | 1.00 |")
    assert lines[4] == "| timm | FAILED | exit status 1: full | | | | |"
    assert lines[5] == "| fastai | FAILED | no environment: offline | | | | |"


def test_a_table_without_any_peer_has_no_ratio():
    assert list(table([(Outcome(PRODUCT, 30.0), 1.0)], 30))[2].endswith("| - |")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_peak_memory_counts_child_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.SAMPLE_SECONDS", 0.2)
    child = "import time; held = b'x' * 80_000_000; time.sleep(1.0)"
    parent = ("import subprocess, sys; held = b'x' * 80_000_000; "
              f"subprocess.run([sys.executable, '-c', {child!r}])")
    outcome = run_command("both", [sys.executable, "-c", parent], tmp_path / "log", 60)
    assert outcome.error == "" and 160e6 < outcome.peak_bytes < 260e6


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
def test_a_failed_and_an_endless_command_say_so(tmp_path):
    failed = run_command("timm",
                         [sys.executable, "-c", "print('a'); raise SystemExit('no such backbone')"],
                         tmp_path / "a", 60)
    assert failed.error == "exit status 1: no such backbone"
    endless = run_command("timm", [sys.executable, "-c", "import time; time.sleep(60)"],
                          tmp_path / "b", 0.5)
    assert endless.error == "not done after 0 s" and endless.seconds < 10
    assert last_line(tmp_path / "b") == "it said nothing"


@pytest.mark.skipif(not shutil.which("false"), reason="there is no command that fails")
def test_an_environment_that_cannot_be_made_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.sys.executable", shutil.which("false"))
    assert make_environment(tmp_path, "timm").startswith("no environment:")
