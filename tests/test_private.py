"""What stays on this machine: no program phones home, and no socket of a run is open to others."""
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from grandmaster_train import main
from predict import main as predict
from run_training import started_by
from running import executor, trackers
from system.privacy import ShortPaths
from tests.conftest import cut_before, make_contest, small_argv
from tests.test_resume import outcome

ROOT = Path(__file__).resolve().parent.parent
# as a person's shell: not the variables by which packages know a test
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if name not in ("CI", "PYTEST_CURRENT_TEST", "HF_HUB_OFFLINE",
                               "NO_ALBUMENTATIONS_UPDATE", "HF_HUB_DISABLE_TELEMETRY",
                               "MLFLOW_DISABLE_TELEMETRY")}

# ---------------------------------------------------------------- nothing is left elsewhere

WRITING = "wax+"
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate",
           "os.chmod", "shutil.copyfile", "shutil.move", "shutil.rmtree")
watching = []      # where the hook writes what it sees; a hook can never be removed


def see(event, args):
    """Notes paths that Python writes, makes, moves or deletes, and ports that are opened."""
    if not watching or threading.get_ident() != watching[0][0]:
        return
    if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
        if (isinstance(args[1], str) and set(args[1]) & set(WRITING)) or (
                args[1] is None and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            watching[0][1].append(os.path.abspath(os.fsdecode(args[0])))
    elif event in CHANGES:
        watching[0][1].extend(os.path.abspath(os.fsdecode(path)) for path in args
                              if isinstance(path, str | bytes | os.PathLike))
    elif event == "socket.bind" and isinstance(args[1], tuple):
        watching[0][1].append(f"port {args[1]}")


def test_a_run_writes_only_into_its_results_folder_and_opens_no_port(tmp_path, monkeypatch):
    """Files of libraries outside Python are looked for in the person's folders, all empty."""
    contest = make_contest(tmp_path / "contest")
    before = {path: path.stat().st_mtime_ns for path in contest.rglob("*")}
    mine = [tmp_path / name for name in ("home", "here", "temporary")]
    for folder in mine:
        folder.mkdir()
    monkeypatch.setenv("HOME", str(mine[0]))
    monkeypatch.chdir(mine[1])
    monkeypatch.setenv("TMPDIR", str(mine[2]))
    monkeypatch.setattr(tempfile, "tempdir", None)
    sys.addaudithook(see)
    watching.append((threading.get_ident(), touched := []))
    try:
        assert main(small_argv(contest, tmp_path / "results", "runtime.measure=on")) == 0
    finally:
        watching.clear()
    assert len(touched) > 50
    own = (str(tmp_path / "results"), str(mine[2]), os.devnull, "/dev/shm/", "/proc/self/")
    assert [path for path in touched if not path.startswith(own)] == []
    assert [path for folder in mine for path in folder.iterdir()] == []
    assert {path: path.stat().st_mtime_ns for path in contest.rglob("*")} == before


# ---------------------------------------------------------------- nothing goes out

# tells of each host that Python asks for or connects to (loopback and sockets of files are at
# home), and of packages that are imported before they are told not to phone home
WATCHED = """
import socket, sys
asked = []
def at_home(host):
    return host in (None, "", "localhost", "::1") or str(host).startswith("127.")
def watch(name, owner, host_of):
    real = getattr(owner, name)
    def watched(*args, **kwargs):
        if not at_home(host_of(args)):
            asked.append((name, host_of(args)))
            raise OSError("no network here")
        return real(*args, **kwargs)
    setattr(owner, name, watched)
def host(address):
    return address[0] if isinstance(address, tuple) else None
watch("getaddrinfo", socket, lambda args: args[0])
for method in ("connect", "connect_ex"):
    watch(method, socket.socket, lambda args: host(args[1]))
import builtins, os
told = {"timm": "HF_HUB_DISABLE_TELEMETRY", "huggingface_hub": "HF_HUB_DISABLE_TELEMETRY",
        "albumentations": "NO_ALBUMENTATIONS_UPDATE"}
real_import = builtins.__import__
def importing(name, *args, **kwargs):
    variable = told.get(name.split(".")[0])
    if variable and os.environ.get(variable) != "1":
        asked.append((name, "is imported before", variable))
    return real_import(name, *args, **kwargs)
builtins.__import__ = importing
from grandmaster_train import main
status = main(sys.argv[1:])
import threading
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(3)
print("asked:", asked)
sys.exit(status)
"""


def asked_for(argv):
    """What a run in a process of its own asked of the network."""
    done = subprocess.run([sys.executable, "-c", WATCHED, *argv], cwd=ROOT, env=ENVIRONMENT,
                          capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("asked: ")


def test_a_run_without_pretrained_weights_asks_nothing_of_the_network(contest, tmp_path):
    assert asked_for(small_argv(contest, tmp_path, "optim.epochs=1")) == "[]"


@pytest.mark.slow
def test_a_run_with_mlflow_asks_nothing_of_the_network(contest, tmp_path):
    pytest.importorskip("mlflow")
    argv = small_argv(contest, tmp_path, "optim.epochs=1", "runtime.tracker=mlflow")
    assert asked_for(argv) == "[]"
    assert (tmp_path / "run" / "mlruns" / "mlflow.db").exists()


def environment_at_import(monkeypatch, module, name):
    """The value of a variable when `module` imports an optional package."""
    monkeypatch.delenv(name, raising=False)
    seen = []

    def imported(*_):
        seen.append(os.environ.get(name))
        raise ImportError

    monkeypatch.setattr(module, "import_extra", imported)
    return seen


def test_mlflow_is_told_not_to_phone_home_before_it_is_imported(tmp_path, monkeypatch):
    seen = environment_at_import(monkeypatch, trackers, "MLFLOW_DISABLE_TELEMETRY")
    with pytest.raises(ImportError), trackers.tracker("mlflow", tmp_path):
        pass
    assert seen == ["true"]


# ---------------------------------------------------------------- nothing is open to others

@pytest.mark.parametrize(("name", "value", "address"), [
    ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0", ""), ("RAY_USAGE_STATS_ENABLED", "0", ""),
    ("RAY_USAGE_STATS_ENABLED", "0", "10.0.0.1:6379"),
    ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None, "10.0.0.1:6379")])
def test_ray_is_told_to_keep_to_itself_before_it_is_imported(tmp_path, monkeypatch, name, value,
                                                             address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    for variable in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.delenv(variable, raising=False)
    seen = environment_at_import(monkeypatch, executor, name)
    with pytest.raises(ImportError):
        executor.make_executor("ray", tmp_path)
    assert seen == [value]


LISTENING = """
import json, os, sys
from pathlib import Path
from running.executor import Job, make_executor
from system.log import EventLog
from system.stages import exclusive

def inodes_of(pid):
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(link)
        except OSError:
            continue
        if name.startswith("socket:["):
            yield name[8:-1]

def family(ancestor):
    parents = {int(p.parent.name): int(p.read_text().rpartition(")")[2].split()[1])
               for p in Path("/proc").glob("[0-9]*/stat")}
    members, more = set(), {ancestor}
    while more:
        members |= more
        more = {pid for pid, parent in parents.items() if parent in members} - members
    return members

def job(site):
    mine = {inode for pid in family(DRIVER) for inode in inodes_of(pid)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in mine:      # it listens
                found.append(fields[1].split(":")[0])
    (site.folder / "listening.json").write_text(json.dumps(found))

DRIVER = os.getpid()
with exclusive(sys.argv[1]), make_executor("ray", sys.argv[1], "cpu") as ray:
    list(ray.run([Job("a", job)], EventLog(os.devnull, echo=False)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_socket_of_a_local_ray_listens_on_the_loopback_interface_alone(tmp_path):
    pytest.importorskip("ray")
    environment = {key: value for key, value in ENVIRONMENT.items() if not key.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", LISTENING, str(tmp_path)], cwd=ROOT, env=environment,
                   check=True, timeout=200)
    addresses = json.loads((tmp_path / "listening.json").read_text())
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    assert len(addresses) >= 4
    assert set(addresses) <= set(loopback)


# ---------------------------------------------------------------- what a run leaves

SECRET = "ann's secret (1)"


def holding(folder, *texts):
    """Files below a folder that hold one of the texts in their content or name, in any spelling."""
    words = {spelled.encode() for text in texts for spelled in
             (text, repr(text)[1:-1], json.dumps(text)[1:-1], text.replace("'", "&#39;"),
              text.replace("'", "'\"'\"'"), text.replace("'", "&#39;&#34;&#39;&#34;&#39;"))}
    return [path.name for path in folder.rglob("*") if path.is_file()
            and any(word in path.read_bytes() + path.name.encode() for word in words)]


@pytest.fixture(scope="module")
def below_a_secret(tmp_path_factory):
    """(run folder, its argv): images that match, a damaged image, a weights folder, all in SECRET.
    """
    top = tmp_path_factory.mktemp("top") / SECRET
    contest = make_contest(top / "data" / "shapes", per_class=12, n_test=24)
    (contest / "train" / "a001.png").write_bytes(b"")
    (top / "my weights").mkdir()
    argv = [*small_argv(contest, top / "results", "augment.policy=matched", "optim.epochs=1",
                        "model.pretrained=auto"), "--weights_dir", str(top / "my weights")]
    assert main(argv) == 0
    return top / "results" / "run", argv


def test_no_output_of_a_run_holds_what_lies_above_its_folders(below_a_secret):
    run, _ = below_a_secret
    assert holding(run, SECRET, str(Path.home()), str(ROOT)) == []
    host = platform.node()
    texts = [path for path in run.rglob("*") if path.suffix in (".json", ".jsonl", ".html", ".csv")]
    assert not any(f'"{host}"' in path.read_text(encoding="utf-8") for path in texts)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "--data_path .../shapes" in page.replace("&#39;", "")      # still says which
    assert "as read from .../shapes" in page
    examples = json.loads(next(run.glob("shift-*/shift.json")).read_text())["examples"]
    assert len(examples["train"]) == 8 and all(p.startswith("train/") for p in examples["train"])


def test_such_a_run_is_found_done_and_verified_and_predicts_where_it_is_moved(below_a_secret,
                                                                              tmp_path, capsys):
    run, argv = below_a_secret
    before = outcome(run)
    capsys.readouterr()
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "done before" in said and "holds a run" not in said
    assert str(run / "report.html") in said      # the terminal names whole paths
    assert outcome(run) == before
    assert main(["--verify", "run", "--results_dir", str(run.parent)]) == 0
    moved = shutil.copytree(run, tmp_path / "moved")
    images = argv[argv.index("--data_path") + 1] + "/test"
    assert predict([str(moved), images, "--out", str(tmp_path / "p.csv")]) == 0


def test_another_contest_folder_of_the_same_name_is_still_told_apart(below_a_secret, tmp_path,
                                                                     capsys):
    run, argv = below_a_secret
    moved = shutil.copytree(run, tmp_path / "results" / "run")
    other = shutil.copytree(argv[argv.index("--data_path") + 1], tmp_path / "data" / "shapes")
    there = list(argv)
    there[argv.index("--data_path") + 1] = str(other)
    there[argv.index("--results_dir") + 1] = str(moved.parent)
    assert main(there) == 0
    assert "holds a run on .../shapes, whose submission" in capsys.readouterr().out


def test_an_interrupted_run_keeps_its_command_for_the_menu_until_it_ends(contest, tmp_path,
                                                                         monkeypatch):
    argv = small_argv(contest, tmp_path, "optim.epochs=1")
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        cut_before("measure_shift", patch)
        assert main(argv) == 130
    assert started_by(run) == argv
    assert main(argv) == 0
    assert not (run / ".command.json").exists()
    assert started_by(run) is None      # its log says .../shapes


def test_a_setting_keeps_whole_paths(contest, tmp_path):
    argv = small_argv(contest, tmp_path, "optim.epochs=1", "runtime.record_paths=on")
    assert main(argv) == 0
    found = holding(tmp_path / "run", str(contest))
    assert {"environment.json", "events.jsonl", "report.html"} <= set(found)
    assert started_by(tmp_path / "run") == argv


@pytest.mark.skipif(os.name == "nt", reason="paths of other systems")
@pytest.mark.parametrize(("text", "short"), [
    ("/home/ann/data/x.png is gone", ".../data/x.png is gone"),
    ("the disk of /home/ann/data", "the disk of .../data"),
    ("'/home/ann' and (/home/ann), /home/ann: no", "'...' and (...), ...: no"),
    ("file:///home/ann/data", "file://.../data"), ("/home/annika", ".../annika"),
    ("a/home/ann/data", "a/home/ann/data"), ("../home/ann", "../home/ann"),
    ("https://x.org/home/ann", "https://x.org/home/ann"), ("--out=/home/ann/y", "--out=.../y")])
def test_paths_are_shortened_whatever_stands_around_them(text, short):
    shorten = ShortPaths(["/home/ann/data"])
    assert shorten({"a": [text, 1]}) == {"a": [short, 1]}
    assert ShortPaths()(text) == text
