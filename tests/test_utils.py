import ctypes
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from system.log import EventLog, Overall, duration, no_bars, progress, safe_streams
from system.parallel import parallel_map
from system.stages import Stage, damaged_files, exclusive, run_stage
from utils import (
    UserError,
    canonical_json,
    digest_json,
    read_json,
    seed_of,
    write_atomic,
    write_json,
)

ROOT = Path(__file__).resolve().parent.parent


def test_seeds_and_digests_are_functions_of_names_alone():
    assert seed_of(42, "fit", 3) == seed_of(42, "fit", 3)
    assert seed_of(42, "fit", 3) != seed_of(42, "fit", 4)
    assert digest_json({"b": 1, "a": (1, 2)}) == digest_json({"a": [1, 2], "b": np.int64(1)})
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_a_stage_runs_once_and_keeps_its_partial_folder_after_a_failure(tmp_path):
    stage = Stage.of(tmp_path, "folds", version=1, settings={"n": 5}, inputs=["abc"])
    calls = []

    def build(folder):
        calls.append(sorted(p.name for p in folder.iterdir()))
        (folder / "a.txt").write_text("1")
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, build)
    assert not stage.is_done and stage.partial.is_dir()
    run_stage(stage, build)
    run_stage(stage, build)
    kept = "made_by.scratch"      # what versions worked on it
    assert calls == [[kept], ["a.txt", kept]] and stage.is_done
    assert {p.name for p in stage.folder.iterdir()} == {"a.txt", "manifest.json"}
    assert damaged_files(stage.folder) == []
    (stage.folder / "a.txt").write_text("2")
    assert damaged_files(stage.folder) == ["a.txt"]


def test_a_key_depends_on_version_settings_and_inputs(tmp_path):
    def key(version=1, settings=1, inputs=("x",)):
        return Stage.of(tmp_path, "s", version=version, settings=settings, inputs=inputs).key
    assert len({key(), key(version=2), key(settings=2), key(inputs=("y",))}) == 4
    assert len(key()) == 12


def test_atomic_write_replaces_the_whole(tmp_path):
    path = tmp_path / "x.json"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x.json"]


def test_a_name_that_is_not_utf8_is_written_as_an_escape_that_json_reads_back(tmp_path):
    name = os.fsdecode(b"a\xff.png")
    write_json(tmp_path / "a.json", {"name": name})
    assert read_json(tmp_path / "a.json") == {"name": name}
    write_atomic(tmp_path / "a.csv", f"id\n{name}\n")
    assert (tmp_path / "a.csv").read_text("utf-8") == "id\na\\udcff.png\n"


def test_a_second_process_is_refused_by_pid_and_a_dead_ones_lock_is_free(tmp_path):
    hold = ("import sys\nfrom system.stages import exclusive\n"
            "with exclusive(sys.argv[1]):\n print('held', flush=True); sys.stdin.readline()")
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(UserError, match=f"process {other.pid} on "), exclusive(tmp_path):
            pass
        other.kill()
    with exclusive(tmp_path):
        pass


def test_parallel_map_keeps_the_order():
    assert parallel_map(abs, range(-9, 9), workers=2) == [abs(i) for i in range(-9, 9)]


@pytest.mark.parametrize(("seconds", "text"), [
    (45.2, "45 s"), (700, "12 min"), (11100, "3 h 05 min")])
def test_durations_are_read_easily(seconds, text):
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(monkeypatch, stream, hidden):
    """What the overall bar writes when half of the work is done."""
    monkeypatch.setattr(sys, "stderr", stream)
    with no_bars(hidden):
        overall = Overall("all fits")
        overall.plan(10)
        overall.advance(4)
        overall.plan(4)          # a fit was dropped: less is left
        overall.close()
    return stream.getvalue()


def test_the_overall_bar_is_drawn_in_a_terminal_alone_without_colour_and_not_when_hidden(
    monkeypatch):
    text = drawn(monkeypatch, Terminal(), hidden=False)
    assert "all fits  50%" in text and " left" in text and "\x1b[3" not in text
    assert drawn(monkeypatch, Terminal(), hidden=True) == drawn(monkeypatch, io.StringIO(),
                                                                hidden=False) == ""


class Gone(Terminal):
    """A terminal that goes away after `left` writes."""

    def __init__(self, left, error):
        super().__init__()
        self.left = left
        self.error = error

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("error", [
    BrokenPipeError(), OSError(errno.EIO, "gone"), ValueError("closed")])
def test_prints_bars_and_the_log_go_silent_at_the_first_failed_write(tmp_path, monkeypatch, error):
    out, err = Gone(2, error), Gone(3, error)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    log = EventLog(tmp_path / "events.jsonl")
    with safe_streams():
        print("heard")
        for number in progress(range(9), mininterval=0):
            print("unheard", number)
            log.say(f"line {number}")
        assert not sys.stdout.isatty()
    assert out.getvalue() == "heard\n" and out.left == -1
    assert err.getvalue() and err.left == -1
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 9
    assert sys.stdout is out and sys.stderr is err


@pytest.mark.parametrize("stream", [None, "closed"])
def test_printing_without_any_stream_is_no_error(monkeypatch, stream):
    if stream:
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    with safe_streams():
        print("unheard", flush=True)
        assert list(progress(range(3))) == [0, 1, 2]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of glibc")
def test_freed_memory_is_kept_until_it_is_returned():
    """In a process of its own: both change how all of its memory is had."""
    code = """
import numpy as np
from system.machine import keep_freed_memory, return_freed_memory
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) // 256      # MiB, of pages of 4 KiB
keep_freed_memory()
begun = resident()
np.ones(1 << 25)
kept = resident()
return_freed_memory()
print(kept - begun, resident() - begun)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 200 and left < 50
