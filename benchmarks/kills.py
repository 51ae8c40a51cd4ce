"""kill -9 in random moments of whole competition_ready runs: the next start goes on, and the final bytes are the same.

    OMP_NUM_THREADS=1 python -m benchmarks.kills --kills 100

Each start is killed: every other one before a random write (a file opened for writing, renamed or removed, a folder made), the
others after a random time. A run that ends before its kill is compared with an undisturbed one, file by file, and the next run
begins, until there were so many kills. Starts are forked from one process, so that imports are paid once (no Windows). Prints
what each kill hit; exit status 1 if any bytes differ or a start fails.
"""
import argparse
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from demo_contest import draw_contest
from grandmaster_train import main as train
from utils import MANIFEST, Timer, read_json

SETTINGS = ("model.backbones=mobilenetv3_small_050,mobilenetv3_small_075", "data.image_size_px=32", "data.n_folds=2", "optim.epochs=2",
            "optim.batch_size=16", "predict.tta_views=2", "ensemble.bootstrap_draws=20", "model.pretrained=off",
            "augment.policy=standard", "runtime.workers=0", "rounds=2")
TIMED = ("history.csv", "cost.json", "shift.json")  # hold seconds
UNORDERED = ("pixels_train", "pixels_test")         # written by threads in any order; their images are in the weights
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def argv_of(contest, results, name):
    return ["--mode", "competition_ready", "--data_path", str(contest), "--results_dir", str(results), "--experiment_name", name,
            "--set", *SETTINGS]


def start(argv, folder, writes=None):
    """The pid of a fork that runs the command. writes(): called in it before each write below `folder`."""
    pid = os.fork()
    if pid:
        return pid

    def hook(event, args):
        is_write = event in WRITES or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR))
        if is_write and str(args[0]).startswith(str(folder)):
            writes()

    if writes:
        sys.addaudithook(hook)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = train(argv)
    if status:
        os.write(2, said.getvalue().encode())
    os._exit(status)


def killed_at(number):
    """A function that kills its process when it is called for the n-th time."""
    left = [number]

    def count():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def ended(pid):
    """The exit status of a fork, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_after(pid, seconds):
    """The exit status of a fork that is killed after so many seconds, unless it has ended."""
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


def stage_in_work(folder):
    """What a killed run had begun: the name of its latest partial stage without key, or 'between stages'."""
    partial = sorted(folder.rglob("*.partial"), key=lambda p: p.stat().st_mtime)
    stages = [p for p in partial if p.is_dir()]
    return stages[-1].name.rsplit("-", 1)[0].split("-s42")[0] if stages else "between stages"


def outcome(folder):
    """Everything that must not depend on interruptions: {file: its bytes or digest}, the summary without times."""
    final = read_json(folder / "final_results.json")
    for key in ("seconds", "peak_memory_bytes", "experiment_name", "submission", "plan"):
        final.pop(key)
    for source in final["sources"]:
        source.pop("seconds")
    found = {"final": final, "submission": next(folder.glob("submission_*.csv")).read_bytes()}
    for manifest in folder.rglob(MANIFEST):
        for name, digest in read_json(manifest)["sha256"].items():
            if name not in TIMED and not name.startswith(UNORDERED):
                found[(manifest.parent / name).relative_to(folder).as_posix()] = digest
    return found


def count_writes(argv, folder):
    """(exit status, number of writes, seconds) of an undisturbed run."""
    read_end, write_end = os.pipe()
    with Timer() as timer:
        pid = start(argv, folder, lambda: os.write(write_end, b"."))
        os.close(write_end)
        n_writes = 0
        while chunk := os.read(read_end, 65536):
            n_writes += len(chunk)
        status = ended(pid)
    os.close(read_end)
    return status, n_writes, timer.seconds


def kill_runs(scratch, kills, seed):
    """(Counter of what the kills hit, number of runs ended, number of files compared in each, those that differ)."""
    contest, rng = draw_contest(scratch / "contest", 0.01), random.Random(seed)
    status, n_writes, seconds = count_writes(argv_of(contest, scratch, "whole"), scratch / "whole")
    if status:
        sys.exit(f"the undisturbed run failed with status {status}")
    print(f"undisturbed: {n_writes} writes, {seconds:.1f} s", flush=True)
    whole, hit, n_runs, differ, n_kills = outcome(scratch / "whole"), Counter(), 0, [], 0
    while n_kills < kills or (scratch / f"killed{n_runs}").exists():
        folder = scratch / f"killed{n_runs}"
        argv = argv_of(contest, scratch, folder.name)
        if n_kills == kills:                        # the last run is left to end
            status = ended(start(argv, folder))
        elif n_kills % 2:
            status = ended(start(argv, folder, killed_at(rng.randint(1, n_writes // 4))))
        else:
            status = killed_after(start(argv, folder), rng.uniform(0, seconds / 2))
        if status == -signal.SIGKILL:
            n_kills += 1
            hit[stage_in_work(folder)] += 1
        elif status:
            sys.exit(f"run {n_runs} failed with status {status} after {n_kills} kills")
        else:
            found = outcome(folder)
            differ += [f"{folder.name}: {name}" for name in whole.keys() | found.keys() if whole.get(name) != found.get(name)]
            n_runs += 1
    return hit, n_runs, len(whole), differ


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch, Timer() as timer:
        hit, n_runs, n_files, differ = kill_runs(Path(scratch), args.kills, args.seed)
    for name, count in hit.most_common():
        print(f"{count:>4}  {name}")
    for name in differ:
        print(f"differs: {name}")
    print(f"{sum(hit.values())} kills over {n_runs} runs in {timer.seconds:.0f} s: {n_files} files and values of each run "
          f"compared, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
