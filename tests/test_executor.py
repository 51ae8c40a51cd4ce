"""One contract for both engines: the same files whoever runs the jobs, whatever dies. The slow
tests start a real Ray."""
import functools
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from grandmaster_train import main
from running import executor
from running.executor import CONTEXT_BYTES, Job, gpu_share, make_executor
from system.log import EventLog
from system.stages import Stage, damaged_files, exclusive, run_stage
from tests.conftest import small_argv
from tests.test_resume import outcome
from utils import UserError

GIB = 2**30
TWO_BACKBONES = ("model.backbones=mobilenetv3_small_050,mobilenetv2_035", "data.run_folds=3")


def argv_of(contest, results, *more, name, engine="ray", mode="quick_test"):
    return [*small_argv(contest, results, *more, name=name, mode=mode), "--engine", engine]


# ---------------------------------------------------------------- without Ray

def test_fits_that_share_a_gpu_never_exceed_it_by_the_plan():
    cards = (8 * GIB, 15.7 * GIB, 80 * GIB)
    peaks_of_one = (1, GIB // 3, GIB, 3.3 * GIB, 6.5 * GIB, 14 * GIB, 39 * GIB)
    for card, *peaks in itertools.product(cards, peaks_of_one, peaks_of_one):
        if sum(gpu_share(p, card) for p in peaks) <= 1:
            assert sum(peaks) + 2 * CONTEXT_BYTES <= card
    shares = [gpu_share(2**n, 80 * GIB) for n in range(20, 40)]
    assert shares == sorted(shares) and shares[0] == 0.01 and shares[-1] == 1.0
    assert gpu_share(0, 80 * GIB) == 1.0 and gpu_share(90 * GIB, 80 * GIB) == 1.0


def test_without_ray_one_sentence_says_what_to_install(contest, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(argv_of(contest, tmp_path, name="run")) == 2
    assert capsys.readouterr().err == (
        "error: --engine ray needs the optional package ray, which is not installed: "
        "pip install -r requirements-extras.txt\n")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- plain jobs on Ray

def make_stage(site, source, fails_once):
    """Stands for a fit: reads a file, advances, warns, and runs out of memory the first time."""
    if not fails_once.exists():
        fails_once.touch()
        raise MemoryError
    stage = Stage.of(site.folder, "made", version=1, settings={}, inputs=[])
    run_stage(stage, lambda folder: (folder / "copy.txt").write_bytes(source.read_bytes()))
    site.advance(0.5)
    site.log.warn(f"made by {os.getpid()}")
    site.advance(0.5)


def fail(site):
    raise UserError("a value must be another: change it")


@pytest.mark.slow
def test_jobs_on_workers_leave_stages_and_tell_the_driver(tmp_path):
    pytest.importorskip("ray")
    source = tmp_path / "source.txt"
    done = []
    source.write_text("of the home machine")
    log = EventLog(tmp_path / "events.jsonl", echo=False)

    def job(site):
        make_stage(site, source, tmp_path / "failed")

    with exclusive(tmp_path / "run"), make_executor("ray", tmp_path / "run") as ray_executor:
        jobs = [Job("a", job, "job a", memory_bytes=2**20, advance=done.append)]
        assert [name for name, _ in ray_executor.run(jobs, log)] == ["a"]
        with pytest.raises(UserError, match=r"^a value must be another: change it$"):
            list(ray_executor.run([Job("b", fail)], log))
    made = next((tmp_path / "run").glob("made-*"))
    assert (made / "copy.txt").read_text() == "of the home machine"
    assert not damaged_files(made)
    assert sum(done) == 1.0
    assert log.warnings[0] == "job a ran out of memory and is tried again with twice as much"
    assert log.warnings[1].startswith("made by ")
    assert log.warnings[1] != f"made by {os.getpid()}"


def test_a_worker_that_does_not_see_the_results_folder_says_so(tmp_path):
    (tmp_path / "run").mkdir()
    for owner in (None, {"pid": 0, "host": "elsewhere"}):
        with pytest.raises(UserError, match="--results_dir must be a folder that every Ray node"):
            executor.RemoteSite(None, "a", "run", tmp_path, owner, 1)


def look_at_card():
    return {"gpu_memory_bytes": 16 * GIB}


def note_time(site, folder, share):
    """Stands for a fit on a GPU."""
    begin = time.time()
    time.sleep(2)
    row = [os.environ["CUDA_VISIBLE_DEVICES"], begin, time.time(), share]
    (folder / f"{os.getpid()}.json").write_text(json.dumps(row))


@pytest.mark.long
def test_jobs_share_gpus_as_far_as_their_memory_allows(tmp_path, monkeypatch):
    """Two GPUs that are there for Ray's books only."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2,
                                                            "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        with exclusive(tmp_path / "run"), make_executor("ray", tmp_path / "run") as ray_executor:
            assert ray_executor.survey(look_at_card) == [look_at_card()]
            assert ray_executor.n_devices == 2
            jobs = []
            for i, peak in enumerate([5 * GIB, 5 * GIB, 9 * GIB, 5 * GIB, 9 * GIB]):
                work = functools.partial(note_time, folder=tmp_path, share=ray_executor.share(peak))
                jobs.append(Job(i, work, memory_bytes=peak))
            log = EventLog(tmp_path / "events.jsonl")
            done = {name for name, _ in ray_executor.run(jobs, log)}
    finally:
        cluster.shutdown()
    assert done == set(range(5))
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    at_once = [sum(share for other, begin, end, share in rows
                   if other == gpu and begin <= start < end)
               for gpu, start, _, _ in rows]
    assert len(rows) == 5
    assert max(at_once) <= 1.0
    assert 0.8 in at_once      # two of 0.4 did run side by side


# ---------------------------------------------------------------- runs on Ray

@pytest.fixture(scope="module")
def one_thread():
    """Torch on one thread, as Ray's fits are on CPUs. Sums over more threads have other last
    digits."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def events_of(folder):
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_a_run_on_two_workers_has_the_bytes_of_one_process(contest, tmp_path, one_thread):
    """With a round of pseudo-labels."""
    pytest.importorskip("ray")
    more = (*TWO_BACKBONES, "rounds=2")
    assert main(argv_of(contest, tmp_path, *more, name="alone", engine="local",
                        mode="competition_ready")) == 0
    assert main(argv_of(contest, tmp_path, *more, name="shared", mode="competition_ready")) == 0
    assert outcome(tmp_path / "shared") == outcome(tmp_path / "alone")
    assert not list((tmp_path / "shared").rglob("*.partial"))
    shared, alone = (Counter(e["fit"] for e in events_of(tmp_path / name) if e["event"] == "epoch")
                     for name in ("shared", "alone"))
    assert shared == alone


def find_descendant(mark, ancestor):
    """The id of a process below `ancestor` whose command line holds `mark`; None without one."""
    def parent(pid):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            pid = above = int(path.parent.name)
            if mark in path.read_bytes():
                while above > 1:
                    above = parent(above)
                    if above == ancestor:
                        return pid
        except OSError:
            continue
    return None


def kill_at_epoch(folder, fit, epoch, mark, killed):
    """Wait for this epoch of a fit, then kill the process that Ray started with this mark."""
    while not any(e["event"] == "epoch" and (e["fit"], e["fold"]) == fit and e["epoch"] >= epoch
                  for e in events_of(folder)):
        time.sleep(0.1)
    pid = find_descendant(mark, os.getpid())
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


MANY_EPOCHS = (*TWO_BACKBONES, "optim.epochs=20")


@pytest.fixture(scope="module")
def undisturbed(contest, one_thread, tmp_path_factory):
    """The outcome of a run in one process in which nothing is killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(argv_of(contest, folder, *MANY_EPOCHS, name="alone", engine="local")) == 0
    return outcome(folder / "alone")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize(("name", "mark"), [
    ("worker", b"ray::fit 1/6"), ("raylet", b"raylet/raylet")])
def test_a_killed_worker_and_a_killed_raylet_change_no_byte(
        contest, tmp_path, undisturbed, name, mark):
    pytest.importorskip("ray")
    fit = ("r0-mobilenetv3_small_050-s42", 0)
    killed = []
    killer = threading.Thread(target=kill_at_epoch, args=(tmp_path / name, fit, 5, mark, killed),
                              daemon=True)
    killer.start()
    assert main(argv_of(contest, tmp_path, *MANY_EPOCHS, name=name)) == 0
    killer.join()
    assert killed
    epochs = [e["epoch"] for e in events_of(tmp_path / name)
              if e["event"] == "epoch" and (e["fit"], e["fold"]) == fit]
    assert epochs.count(1) == 1      # it went on from its last checkpoint
    assert epochs[-1] == 20
    lost = name == "raylet"      # which is said; a lost worker is Ray's to replace
    submission, final = outcome(tmp_path / name)
    assert any("Ray was lost and is started again" in w for w in final["warnings"]) == lost
    final["warnings"] = [w for w in final["warnings"] if "Ray was lost" not in w]
    assert (submission, final) == undisturbed


def interrupt_at_epoch(folder, fit, epoch):
    """Wait for this epoch of a fit, then send this process what Ctrl-C sends."""
    while not any(e["event"] == "epoch" and (e["fit"], e["fold"]) == fit and e["epoch"] >= epoch
                  for e in events_of(folder)):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_stops_a_run_on_workers_and_it_goes_on_from_the_last_epoch(contest, tmp_path,
                                                                          undisturbed):
    pytest.importorskip("ray")
    fit = ("r0-mobilenetv3_small_050-s42", 0)
    argv = argv_of(contest, tmp_path, *MANY_EPOCHS, name="cut")
    threading.Thread(target=interrupt_at_epoch, args=(tmp_path / "cut", fit, 5),
                     daemon=True).start()
    assert main(argv) == 130
    before = [e for e in events_of(tmp_path / "cut") if e["event"] == "epoch"]
    assert not any(e["epoch"] == 20 for e in before)      # at once
    # a worker may end its fit while the run stops: nobody hears of its last epochs then
    is_trained = any((tmp_path / "cut/fold_0").glob(f"{fit[0]}-*/manifest.json"))
    assert main(argv) == 0
    epochs = [e["epoch"] for e in events_of(tmp_path / "cut")
              if e["event"] == "epoch" and (e["fit"], e["fold"]) == fit]
    assert epochs.count(1) == 1
    assert epochs[-1] == 20 or is_trained
    assert outcome(tmp_path / "cut") == undisturbed
