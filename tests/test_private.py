"""What stays on this machine: no program phones home, and no socket of a run is open to others."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from running import executor, trackers
from tests.conftest import small_argv

ROOT = Path(__file__).resolve().parent.parent
# as a person's shell: not the variables by which packages know a test
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if name not in ("CI", "PYTEST_CURRENT_TEST", "HF_HUB_OFFLINE",
                               "NO_ALBUMENTATIONS_UPDATE", "HF_HUB_DISABLE_TELEMETRY",
                               "MLFLOW_DISABLE_TELEMETRY")}

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
