"""kill -9 in random moments of whole competition_ready runs: the next start goes on, and the final
bytes are the same.

    OMP_NUM_THREADS=1 python -m tests.kills --kills 100

Each start of a run is killed: once in each of its stages, and in its result files, before a random
write (a file opened for writing, renamed or removed, a folder made), and between those once after a
random time. Then it is left to end and compared with an undisturbed one, file by file, and the next
run begins, until there were so many kills. Each run also has a frozen member, whose weights are
random ones in a file, and a text member, whose stand-in for a recogniser reads the shade of an
image. Starts are forked from one process, so that imports are paid once (no Windows). Prints what
each kill hit; exit status 1 if any bytes differ or a start fails.
"""
import argparse
import contextlib
import io
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from demo_contest import draw_contest
from grandmaster_train import main as train
from modeling import words
from modeling.words import Line
from running import text
from system.log import Timer
from system.stages import MANIFEST, RESULTS_MANIFEST
from utils import read_json

NETWORK, OTHER = "mobilenetv3_small_050", "mobilenetv3_small_075"
SETTINGS = (f"model.backbones={NETWORK},{OTHER}", "data.image_size_px=32", "data.n_folds=2",
            "optim.epochs=2", "optim.batch_size=16", "predict.tta_views=2",
            "ensemble.bootstrap_draws=20", "augment.policy=standard", "runtime.workers=0",
            "rounds=2", "model.text=on", f"model.frozen={NETWORK}")
TIMED = ("history.csv", "cost.json", "shift.json")  # hold seconds
# written by threads in any order; their images are in the weights
UNORDERED = ("pixels_train", "pixels_test")
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
# belong to no stage
ANY_TIME = ("config.json", "environment.json", "events.jsonl", "report.html", ".lock",
            ".owner.json")


def argv_of(contest, results, name):
    return ["--mode", "competition_ready", "--data_path", str(contest), "--results_dir",
            str(results), "--experiment_name", name, "--weights_dir", str(results / "weights"),
            "--set", *SETTINGS]


def draw_weights(folder):
    """Leave random weights of both networks, which count as pretrained."""
    folder.mkdir()
    torch.manual_seed(0)
    for name in (NETWORK, OTHER):
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")


def reads_shades(language=""):
    """A recogniser whose words are the mean shade of an image."""
    def read(rgb, mirrored):
        return [Line(f"shade {rgb.mean():.0f}", 0.9, (0.1, 0.1, 0.9, 0.2))]
    return read


def start(argv, folder, writes=None):
    """The pid of a fork that runs the command. writes(part): called in it before each write of a
    part of the run."""
    pid = os.fork()
    if pid:
        return pid

    def hook(event, args):
        is_write = event in WRITES or (event == "open" and isinstance(args[2], int)
                                       and args[2] & (os.O_WRONLY | os.O_RDWR))
        if is_write and str(args[0]).startswith(f"{folder}/") and (
            part := part_of(Path(args[0]).relative_to(folder))):
            writes(part)

    if writes:
        sys.addaudithook(hook)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = train(argv)
    if status:
        os.write(2, said.getvalue().encode())
    os._exit(status)


def part_of(path):
    """The stage that a path in a run's folder belongs to, without its key; 'results', or '' for
    what is written at any time."""
    found = re.search(r"([^/]+)-[0-9a-f]{12}\.partial", path.as_posix())
    if found:
        return (f"{path.parts[0]}/" if path.parts[0].startswith(("fold_", "costs"))
                else "") + found[1]
    is_result = len(path.parts) == 1 and path.suffix and path.name.removesuffix(
        ".partial") not in ANY_TIME
    return "results" if is_result else ""


def is_complete(folder, part):
    if part == "results":
        return (folder / RESULTS_MANIFEST).exists()
    return any((folder / part).parent.glob(f"{Path(part).name}-{'[0-9a-f]' * 12}"))


def killed_at(number, part):
    """A function that kills its process when it is called for the n-th time with this part."""
    left = [number]

    def count(its_part):
        left[0] -= its_part == part
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


def final_without_times(folder):
    """final_results.json without times, paths and what depends on the machine."""
    final = read_json(folder / "final_results.json")
    for key in ("seconds", "peak_memory_bytes", "experiment_name", "submission", "plan"):
        final.pop(key)
    for source in final["sources"]:
        source.pop("seconds")
    return final


def outcome(folder):
    """Everything that must not depend on interruptions: {file: its bytes or digest}, the summary
    without times."""
    found = {"final": final_without_times(folder),
             "submission": next(folder.glob("submission_*.csv")).read_bytes()}
    for manifest in folder.rglob(MANIFEST):
        for name, digest in read_json(manifest)["sha256"].items():
            if name not in TIMED and not name.startswith(UNORDERED):
                found[(manifest.parent / name).relative_to(folder).as_posix()] = digest
    return found


def count_writes(argv, folder):
    """({part: how many writes it takes}, seconds) of an undisturbed run."""
    read_end, write_end = os.pipe()
    with Timer() as timer:
        pid = start(argv, folder, lambda part: os.write(write_end, f"{part}\n".encode()))
        os.close(write_end)
        with open(read_end) as f:
            n_writes = Counter(f.read().splitlines())
        if status := ended(pid):
            sys.exit(f"the undisturbed run failed with status {status}")
    return n_writes, timer.seconds


def kill_run(argv, folder, n_writes, seconds, most, rng):
    """Kill a run in each of its parts, and between, at most so often; then let it end. Yields what
    each kill was placed by.

    A part that was completed between two kills is skipped: its kill would let the run end.
    """
    n_kills = 0
    for part in n_writes:
        for placed_by in (part, "time"):
            if n_kills == most or is_complete(folder, part):
                break
            if placed_by == "time":
                status = killed_after(start(argv, folder), rng.uniform(0, seconds / 8))
            else:
                status = ended(start(argv, folder, killed_at(rng.randint(1, n_writes[part]), part)))
            if status == -signal.SIGKILL:
                n_kills += 1
                yield placed_by
            elif status:
                sys.exit(f"{folder.name} failed with status {status} after {n_kills} kills")
    if status := ended(start(argv, folder)):
        sys.exit(f"{folder.name} failed with status {status} after {n_kills} kills")


def kill_runs(scratch, kills, seed):
    """(Counter of what the kills were placed by, number of runs, number of files compared in each,
    those that differ)."""
    contest, rng = draw_contest(scratch / "contest", 0.01), random.Random(seed)
    draw_weights(scratch / "weights")
    n_writes, seconds = count_writes(argv_of(contest, scratch, "whole"), scratch / "whole")
    print(f"undisturbed: {sum(n_writes.values())} writes in {len(n_writes)} parts, {seconds:.1f} s",
          flush=True)
    whole, hit, n_runs, differ = outcome(scratch / "whole"), Counter(dict.fromkeys(n_writes,
                                                                                   0)), 0, []
    while (left := kills - sum(hit.values())) > 0:
        folder = scratch / f"killed{n_runs}"
        for known in scratch.glob(".words-*"):      # which runs share
            known.unlink()
        hit.update(kill_run(argv_of(contest, scratch, folder.name), folder, n_writes, seconds, left,
                            rng))
        found = outcome(folder)
        differ += [f"{folder.name}: {name}" for name in whole.keys() | found.keys()
                   if whole.get(name) != found.get(name)]
        n_runs += 1
        print(
            f"{folder.name} ended after {sum(hit.values())} kills so far, "
            f"{len(differ)} differences",
            flush=True,
        )
    return hit, n_runs, len(whole), differ


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    words.reader = reads_shades
    text.what_is_missing = lambda language: ""
    with tempfile.TemporaryDirectory() as scratch, Timer() as timer:
        hit, n_runs, n_files, differ = kill_runs(Path(scratch), args.kills, args.seed)
    for name, count in hit.most_common():
        print(f"{count:>4}  by {name}" if name == "time" else f"{count:>4}  in {name}")
    for name in differ:
        print(f"differs: {name}")
    print(
        f"{sum(hit.values())} kills over {n_runs} runs in {timer.seconds:.0f} s: "
        f"{n_files} files and values of each run compared, {len(differ)} differ"
    )
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
