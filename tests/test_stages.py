"""What a power cut or a kill leaves: old or new, whole, and known by its digest."""
import contextlib
import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import utils
from system import stages
from system.log import EventLog
from system.stages import (
    Stage,
    changed_files,
    damaged_files,
    digests_in,
    discard,
    exclusive,
    is_alive,
    is_intact,
    make,
    makers_of,
    run_stage,
    write_manifest,
)
from utils import (
    RunError,
    UserError,
    canonical_json,
    digest_bytes,
    digest_file,
    digest_json,
    patiently,
    read_json,
    seed_of,
    sync,
    write_atomic,
    write_json,
)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """[("sync", content on the disk or a folder's name) or ("rename", from, to)] in order."""
    events = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(fd):
        number = os.fstat(fd).st_ino
        path, = (p for p in [tmp_path, *tmp_path.rglob("*")] if p.stat().st_ino == number)
        events.append(("sync", path.read_bytes() if path.is_file() else path.name))
        real_sync(fd)

    def replace(source, target):
        events.append(("rename", Path(source).name, Path(target).name))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return events


def stage_of(folder, name="s", inputs=()):
    return Stage.of(folder, name, version=1, settings={}, inputs=inputs)


def writes(text, name="a.txt"):
    return lambda folder: (folder / name).write_text(text)


# ---------------------------------------------------------------- one file

@pytest.mark.parametrize("data", ["größer", b"\0\xff"])
def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, disk, data):
    write_atomic(str(tmp_path / "x"), data)
    content = data if isinstance(data, bytes) else data.encode()
    assert disk == [("sync", content), ("rename", "x.partial", "x"), ("sync", tmp_path.name)]
    assert (tmp_path / "x").read_bytes() == content and os.listdir(tmp_path) == ["x"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomic(tmp_path / "x", "old")

    def full(fd):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        write_atomic(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"


def test_a_finished_file_of_another_library_is_brought_to_the_disk_unchanged(tmp_path, disk):
    (tmp_path / "x").write_bytes(b"abc")
    sync(tmp_path / "x")
    assert disk == [("sync", b"abc")] and (tmp_path / "x").read_bytes() == b"abc"


def test_json_is_readable_utf_8_that_reads_back(tmp_path):
    value = {"größe": [1, 2.5, None], "path": Path("a/b"), "n": np.int64(3), "x": np.zeros(2),
             "set": (True, "é")}
    write_json(tmp_path / "x.json", value)
    back = {"größe": [1, 2.5, None], "path": "a/b", "n": 3, "x": [0.0, 0.0], "set": [True, "é"]}
    assert read_json(tmp_path / "x.json") == back
    raw = (tmp_path / "x.json").read_bytes()
    assert "größe".encode() in raw and raw.endswith(b"}\n") and raw.count(b"\n") > 6
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"x": float("inf")})
    assert read_json(tmp_path / "x.json") == back


def test_digests_are_sha256_of_content_and_of_canonical_json(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_bytes(b"abc") == digest_file(tmp_path / "x") == known
    assert canonical_json({"b": (1, np.float32(0.5)), "a": {2: "é"}}) == (
        '{"a":{"2":"\\u00e9"},"b":[1,0.5]}')
    for number in (np.nan, np.inf):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json({"x": number})
    stage = Stage("s", "k", Path("f"))
    assert canonical_json([stage]) == '[{"folder":"f","key":"k","name":"s"}]'
    assert digest_json("abc") == digest_bytes(b'"abc"')[:12]
    assert seed_of("abc") == int.from_bytes(bytes.fromhex(digest_bytes(b'["abc"]'))[:4], "little")


def test_a_network_file_is_asked_again_and_other_faults_are_not(monkeypatch):
    waited = []
    monkeypatch.setattr(utils.time, "sleep", waited.append)
    faults = [OSError(errno.ESTALE, "stale"), OSError(errno.ETIMEDOUT, "late")]

    def read():
        if faults:
            raise faults.pop()
        return "content"

    assert patiently("file", read) == "content" and waited == [0.1, 1.0]

    for code, of, named in ((errno.ENOENT, "other", "other"), (errno.EIO, None, "file")):
        def failing(code=code, of=of):
            raise OSError(code, "no such", of)

        with pytest.raises(OSError, match="no such") as raised:
            patiently(Path("file"), failing)
        assert raised.value.filename == named       # the name that it has, or the one it lacks

    def stale():
        raise OSError(errno.ESTALE, "stale handle")

    del waited[:]
    with pytest.raises(RunError, match=r"file could not be read \(stale handle\), even after 6 s"):
        patiently("file", stale)
    assert waited == [0.1, 1.0, 5.0]
    monkeypatch.setattr(utils, "open", lambda *_: stale(), raising=False)
    with pytest.raises(RunError, match=r"weights\.bin could not be read"):
        digest_file("weights.bin")


# ---------------------------------------------------------------- a stage

def test_all_files_of_a_stage_are_on_the_disk_before_it_is_complete(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(stages, "here", lambda: {"python": "3"})
    def build(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "b.bin").write_bytes(b"bb")
        (folder / "a.txt").write_text("aa")
        (folder / ("c" + stages.SCRATCH)).write_text("cc")
        (folder / ("d" + stages.BEGUN)).write_text("dd")

    stage = run_stage(stage_of(tmp_path), build)
    manifest = (stage.folder / stages.MANIFEST).read_bytes()
    # who makes it comes first
    _, _, _, *synced, sealed, renamed, manifest_named, complete, stage_named = disk
    assert manifest_named == ("sync", stage.partial.name)
    assert stage_named == ("sync", stage.folder.parent.name)
    assert sorted(synced) == [("sync", b"aa"), ("sync", b"bb")]
    assert sealed == ("sync", manifest)
    assert renamed == ("rename", "manifest.json.partial", "manifest.json")
    assert complete == ("rename", stage.partial.name, stage.folder.name)
    assert json.loads(manifest) == {
        "stage": "s", "key": stage.key, "made_by": [{"python": "3"}],
        "sha256": {"a.txt": digest_bytes(b"aa"), "deep/b.bin": digest_bytes(b"bb")}}
    left = sorted(p.relative_to(stage.folder).as_posix() for p in stage.folder.rglob("*")
                  if p.is_file())
    assert left == ["a.txt", "deep/b.bin", "manifest.json"] and not stage.partial.exists()


def test_a_stage_is_its_folder(tmp_path):
    stage = stage_of(tmp_path, "folds")
    assert stage.folder == tmp_path / f"folds-{stage.key}" and stage.name == "folds"
    assert stage.partial == tmp_path / f"folds-{stage.key}.partial" and not stage.is_done
    stage.folder.write_text("a file is no stage")
    assert not stage.is_done
    assert stage.key == digest_json({"stage": "folds", "version": 1, "settings": {}, "inputs": []})
    assert stage_of(tmp_path, "folds", iter(["a"])).key == stage_of(tmp_path, "folds", ["a"]).key


def test_a_sealed_stage_is_renamed_and_a_torn_one_is_built_again(tmp_path):
    stage = stage_of(tmp_path / "below")
    stage.partial.mkdir(parents=True)
    writes("sealed")(stage.partial)
    write_manifest(stage.partial / stages.MANIFEST, [stage.partial / "a.txt"])
    run_stage(stage, writes("built"))
    assert (stage.folder / "a.txt").read_text() == "sealed"

    other = stage_of(tmp_path / "below", "other")
    other.partial.mkdir()
    writes("sealed")(other.partial)
    write_manifest(other.partial / stages.MANIFEST, [other.partial / "a.txt"])
    writes("torn")(other.partial)
    seen = []

    def build(folder):
        seen.append(sorted(p.name for p in folder.iterdir()))
        writes("built")(folder)

    run_stage(other, build)
    assert seen == [["a.txt", "made_by.scratch"]] and damaged_files(other.folder) == []
    assert (other.folder / "a.txt").read_text() == "built"


def test_a_changed_stage_is_told_of_and_made_again(tmp_path):
    told = []
    stage = run_stage(stage_of(tmp_path), writes("1"), told.append)
    assert run_stage(stage, writes("2"), told.append) is stage and told == []
    assert (stage.folder / "a.txt").read_text() == "1"
    writes("edited")(stage.folder)
    run_stage(stage, writes("2"), told.append)
    assert told == [["a.txt"]] and (stage.folder / "a.txt").read_text() == "2"
    (stage.folder / "a.txt").unlink()
    run_stage(stage, writes("3"), told.append)
    assert told == [["a.txt"]] * 2
    for text in ("{", "[]", '{"sha256": 3}', "{}"):
        (stage.folder / stages.MANIFEST).write_text(text)
        assert digests_in(stage.folder / stages.MANIFEST) is None
        run_stage(stage, writes("4"), told.append)
        assert told[-1] == [stages.MANIFEST] and damaged_files(str(stage.folder)) == []
    run_stage(stage, writes("edited"))
    writes("edited")(stage.folder)
    run_stage(stage, writes("5"))           # nobody has to be told
    assert (stage.folder / "a.txt").read_text() == "5"


def test_what_was_made_of_a_changed_stage_is_made_again_too(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    stage, reader, other = (stage_of(tmp_path, name) for name in ("s", "reader", "other"))
    for each in (stage, reader, other):
        assert make(each, writes("1"), log, reader) is each
    assert is_intact(stage, log, reader) and log.warnings == []
    writes("edited")(stage.folder)
    (reader.partial / "left").mkdir(parents=True)
    assert not is_intact(stage, log, reader)
    assert [each.is_done for each in (stage, reader, other)] == [False, False, True]
    assert not reader.partial.exists() and not stage.partial.exists()
    assert log.warnings == [f"{stage.folder.name} is made again: 'a.txt' changed on the disk after "
                            "it was complete"]
    make(stage, writes("2"), log, reader)
    make(reader, writes("2"), log)
    writes("edited")(stage.folder)
    make(stage, writes("3"), log, reader)
    assert (stage.folder / "a.txt").read_text() == "3" and not reader.is_done
    discard(reader)         # there is none


def test_a_stage_half_discarded_is_never_complete(tmp_path, monkeypatch):
    stage = run_stage(stage_of(tmp_path), writes("1"))

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        discard(stage)
    assert damaged_files(stage.folder) == [stages.MANIFEST]
    monkeypatch.undo()
    discard(stage)
    assert os.listdir(tmp_path) == []


def test_every_changed_file_below_a_folder_is_named(tmp_path):
    one = run_stage(stage_of(tmp_path / "fold_0", "one"), writes("1"))
    def build(folder):
        for name in ("a.txt", "b.txt"):
            writes("2", name)(folder)

    two = run_stage(stage_of(tmp_path, "two"), build)
    partial = tmp_path / "three-0.partial"
    partial.mkdir()
    (partial / stages.MANIFEST).write_text("{")
    (tmp_path / "submission.csv").write_text("x")
    write_manifest(tmp_path / "top.json", [tmp_path / "submission.csv", one.folder / "a.txt"])
    assert changed_files(tmp_path, "top.json") == (4, [])
    assert changed_files(str(tmp_path), "none.json") == (3, [])
    writes("edited")(one.folder)
    (two.folder / "a.txt").unlink()
    (tmp_path / "submission.csv").write_text("y")
    assert changed_files(tmp_path, "top.json") == (4, [
        f"fold_0/{one.folder.name}/a.txt", "submission.csv", f"{two.folder.name}/a.txt"])
    (two.folder / stages.MANIFEST).write_text("{")
    count, changed = changed_files(tmp_path, "top.json")
    assert count == 3 and f"{two.folder.name}/{stages.MANIFEST}" in changed


def test_a_stage_names_all_that_made_it_each_once_in_order(tmp_path, monkeypatch):
    stage = stage_of(tmp_path)

    def stopped(folder):
        raise KeyboardInterrupt

    for maker, build in (("a", stopped), ("b", stopped), ("a", stopped), ("b", writes("1"))):
        monkeypatch.setattr(stages, "here", lambda maker=maker: {"python": maker})
        with contextlib.suppress(KeyboardInterrupt):
            run_stage(stage, build)
    assert makers_of(stage.folder) == makers_of(str(stage.folder)) == [{"python": "a"},
                                                                      {"python": "b"}]
    for text in ("{", "{}", '{"made_by": 3}', '{"made_by": ["a"]}', "[]", '{"made_by": {"a": {}}}'):
        (stage.folder / stages.MANIFEST).write_text(text)
        assert makers_of(stage.folder) == []
    assert makers_of(tmp_path / "none") == []
    other = stage_of(tmp_path, "other")
    other.partial.mkdir()
    (other.partial / "made_by.scratch").write_text("[")         # torn
    run_stage(other, writes("1"))
    assert makers_of(other.folder) == [{"python": "b"}]


def test_a_fault_of_the_machine_is_no_change_of_a_stage(tmp_path, monkeypatch):
    stage = run_stage(stage_of(tmp_path), writes("1"))

    def failing(*_, **__):
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "read_json", failing)
        for read in (digests_in, lambda path: makers_of(path.parent)):
            with pytest.raises(OSError, match="input/output"):
                read(stage.folder / stages.MANIFEST)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "digest_file", failing)
        with pytest.raises(OSError, match="input/output"):
            run_stage(stage, writes("2"))
    assert stage.is_done and damaged_files(stage.folder) == []
    (stage.folder / "a.txt").unlink()
    (stage.folder / "a.txt").mkdir()
    assert damaged_files(stage.folder) == ["a.txt"]
    for value in ('{"a.txt": 3}', "[]", '"a"', "null"):
        (stage.folder / stages.MANIFEST).write_text(f'{{"sha256": {value}}}')
        assert digests_in(stage.folder / stages.MANIFEST) is None


# ---------------------------------------------------------------- one process a folder

def owner_of(folder, **who):
    folder.mkdir(exist_ok=True)
    write_json(folder / stages.OWNER, {"pid": os.getpid(), "host": platform.node()} | who)
    return folder / stages.OWNER


def test_an_owner_may_live_on_another_host_and_is_dead_here_without_its_process(
    tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert is_alive(owner_of(tmp_path))
    assert not is_alive(owner_of(tmp_path, pid=gone.pid))
    assert is_alive(owner_of(tmp_path, pid=gone.pid, host="elsewhere"))
    here = json.dumps(platform.node())
    for text in ("{", '{"pid": 1}', '{"host": ' + here + "}", "[]", '{"pid": "x", "host": ' + here
                 + "}", '{"pid": 1' + "0" * 40 + ', "host": ' + here + "}"):
        (tmp_path / stages.OWNER).write_text(text)
        assert not is_alive(tmp_path / stages.OWNER)
    assert not is_alive(tmp_path / "none")
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, signal: sent.append((pid, signal)))
    assert is_alive(owner_of(tmp_path)) and sent == [(os.getpid(), 0)]      # only asked

    def of_another(pid, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", of_another)
    assert is_alive(owner_of(tmp_path))


def test_a_held_folder_names_its_owner_until_it_is_left(tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "run"
    monkeypatch.setattr(stages, "ORPHAN_SECONDS", 0.05)
    with exclusive(str(folder)):
        assert read_json(folder / stages.OWNER) == {"pid": os.getpid(), "host": platform.node()}
        held = f"and process {os.getpid()} on {platform.node()} is using it"
        with pytest.raises(UserError, match=held), exclusive(folder):
            pass
        (folder / stages.OWNER).write_text("{")
        with pytest.raises(UserError, match="and another process is using it"), exclusive(folder):
            pass
    assert not (folder / stages.OWNER).exists()
    with pytest.raises(ValueError, match="in the run"), exclusive(folder):
        raise ValueError("in the run")
    with exclusive(folder):
        pass
