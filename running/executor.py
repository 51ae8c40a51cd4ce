"""Where fits run: in this process, or as Ray tasks. One contract, and the pipeline does not know
which executor it has:

    with make_executor("ray", folder) as executor:
        for name, seconds in executor.run((Job("fit 1/6", train, memory_bytes=2**30), ...), events): ...

A job is a function of a Site, the place where it runs. What it makes are finished stages, whose
folders lie in the run's folder when the job's name is yielded. Devices are GPUs or, where there are
none, CPU cores; Ray places the jobs, tries those again whose worker or node died, and carries files
where a worker does not see the run's folder. No number here needs torch.
"""
import io
import math
import os
import shutil
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from system.log import Timer, progress
from system.machine import is_out_of_memory, usable_cores
from system.stages import MANIFEST, OWNER, damaged_files
from utils import RunError, UserError, digest_bytes, digest_json, import_extra, read_json

CODE = Path(__file__).resolve().parent.parent
# of a GPU's memory: CUDA's own; what tensors fill of what torch reserves
CONTEXT_BYTES = 2**29
ALLOCATED_SHARE = 0.85
RETRIES = 5             # of a job whose worker, node or Ray died
TOLD_SECONDS = 1.0      # between two looks at what the workers said


@dataclass(frozen=True)
class Job:
    """name: what `run` yields; function(site): the work; memory_bytes: its planned peak, 0 where
    that is not known; advance(share): called in this process with the share of it that was done
    since the last call."""

    name: Hashable
    function: Callable
    title: str = ""
    memory_bytes: int = 0
    advance: Callable = lambda share: None


# ---------------------------------------------------------------- in this process

@dataclass
class Site:
    """The place where a job runs: the run's folder there, the log, the cores that it may use."""

    folder: Path
    events: object
    advance: Callable
    cores: int
    is_home = True        # in the process that asked

    def fetch(self, path):
        """A file or folder of the home machine, as it can be read here."""
        return Path(path)

    def recall(self, folder):
        """Get a finished stage of the run's folder, if there is one there."""

    def deliver(self, folder):
        """Bring a finished stage into the run's folder."""


class LocalExecutor:
    """One job after the other in this process."""

    n_devices = 1

    def __init__(self, folder, device="auto"):
        self.folder = Path(folder)
        self.cores = usable_cores()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def survey(self, look):
        """The answers of `look()` on each machine where jobs may run."""
        return [look()]

    def share(self, memory_bytes):
        """How much of a device a job takes."""
        return 1.0

    def run(self, jobs, events):
        """(name, seconds) of each Job as it is done. jobs: an iterable, which is only advanced when
        a job can start."""
        for job in jobs:
            with Timer() as timer:
                job.function(Site(self.folder, events, job.advance, self.cores))
            yield job.name, timer.seconds


# ---------------------------------------------------------------- folders as bytes

def packed(path):
    """A file or folder as the bytes of a tar, under its own name."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(path, arcname=Path(path).name)
    return data.getvalue()


def unpack(data, digest, path):
    """Put what was `packed` at `path`, in one step. RunError unless its sha256 is `digest` and, of
    a stage, each file's is what its manifest says."""
    if digest_bytes(data) != digest:
        raise RunError(
            f"{path.name} must arrive with sha256 {digest}, got {digest_bytes(data)}: run the same command again"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as work:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(work, filter="data")
        arrived = next(Path(work).iterdir())
        damaged = damaged_files(arrived) if (arrived / MANIFEST).exists() else []
        if damaged:
            raise RunError(
                f"{path.name} must arrive as its manifest says, but {', '.join(damaged)} differ(s): run the same "
                "command again"
            )
        try:
            os.replace(arrived, path)
        except OSError:
            # else another worker of this machine unpacked the same in the meantime
            if not path.exists():
                raise


def owner_of(folder):
    """What the lock of an experiment folder says of its holder; None where the folder is not seen.
    """
    try:
        return read_json(Path(folder) / OWNER)
    except (OSError, ValueError):
        return None


# ---------------------------------------------------------------- on a Ray worker

class Home:
    """The run's folder for workers: an actor on the driver's machine. Keeps what they tell until
    the driver asks for it, gives out files and takes in finished stages."""

    def __init__(self, folder, directory):
        os.chdir(directory)
        self.ray = import_extra("ray", "--engine ray")
        self.folder = folder
        self.heard = []
        self.given = {}

    def tell(self, name, method, args, values):
        self.heard.append((name, method, args, values))

    def told(self):
        heard = self.heard
        self.heard = []
        return heard

    def give(self, path):
        """(sha256, reference to the packed bytes) of a file or folder, (None, None) where there is
        none."""
        if path not in self.given:
            if not path.exists():
                return None, None
            data = packed(path)
            self.given[path] = digest_bytes(data), self.ray.put(data)
        return self.given[path]

    def take(self, relative, data, digest):
        """A finished stage from a worker that does not see the folder; what was begun of it here is
        void."""
        path = self.folder / relative
        unpack(data, digest, path)
        shutil.rmtree(path.with_name(path.name + ".partial"), ignore_errors=True)


class RemoteLog:
    """An EventLog's methods on a worker: the driver's log does what they say."""

    def __init__(self, tell):
        self.tell = tell

    def record(self, event, **values):
        self.tell("record", event, **values)

    def say(self, text, event="note", **values):
        self.tell("say", text, event, **values)

    def warn(self, text):
        self.tell("warn", text)


class RemoteSite:
    """A Site on a Ray worker. Where it sees the run's folder it works in it; else in a folder of
    its own machine, into which the home machine's files are copied on demand and from which
    finished stages are sent back."""

    is_home = False

    def __init__(self, home, name, folder, directory, owner, cores):
        self.ray = import_extra("ray", "--engine ray")
        self.home = home
        self.name = name
        self.cores = cores
        self.events = RemoteLog(self.tell)
        self.done = 0.0
        self.told_at = time.monotonic()
        self.home_folder = folder
        self.sees_home = owner is not None and owner_of(Path(directory) / folder) == owner
        if self.sees_home:
            os.chdir(directory)
        self.folder = (
            folder
            if self.sees_home
            else (
                Path(tempfile.gettempdir())
                / f"grandmaster-{digest_json([(owner or {}).get('host'), directory, folder])}"
            )
        )
        self.folder.mkdir(parents=True, exist_ok=True)

    def tell(self, method, *args, **values):
        self.home.tell.remote(self.name, method, args, values)

    def advance(self, share):
        self.done += share
        if time.monotonic() - self.told_at > TOLD_SECONDS:
            self.tell("advance", self.done)
            self.done = 0.0
            self.told_at = time.monotonic()

    def flush(self):
        """Returns when all that was told has arrived."""
        self.ray.get(self.home.tell.remote(self.name, "advance", (self.done,), {}))

    def fetch(self, path):
        path = Path(path)
        if self.sees_home and path.exists():
            return path
        digest, reference = self.ray.get(self.home.give.remote(path))
        if digest is None:
            raise RunError(
                f"{path} must be readable on the machine where the run was started, and is not: put it back"
            )
        here = self.folder / "fetched" / digest / path.name
        if not here.exists():
            unpack(self.ray.get(reference), digest, here)
        return here

    def recall(self, folder):
        if not self.sees_home and not folder.exists():
            digest, reference = self.ray.get(self.home.give.remote(self.home_folder
                                                                   / folder.relative_to(
                                                                       self.folder)))
            if digest:
                unpack(self.ray.get(reference), digest, folder)

    def deliver(self, folder):
        if not self.sees_home:
            data = packed(folder)
            self.ray.get(self.home.take.remote(folder.relative_to(self.folder), data,
                                               digest_bytes(data)))


def call(function):
    return function()


def work(function, home, name, *where):
    """What a Ray task does; returns its seconds. The lock keeps out a worker whose node was given
    up too early."""
    site = RemoteSite(home, name, *where)
    lock = site.folder / f".{digest_json(str(name))}.lock"
    with FileLock(lock), Timer() as timer:
        function(site)
    lock.unlink(missing_ok=True)
    site.flush()
    return timer.seconds


# ---------------------------------------------------------------- Ray

def gpu_share(memory_bytes, card_bytes):
    """The share of a GPU for a planned peak of tensors, in hundredths rounded up: fits whose shares
    add up to at most 1 fit into it together. A whole GPU where the peak is not known or is more
    than the GPU has."""
    if not memory_bytes or not card_bytes:
        return 1.0
    return min(1.0, math.ceil(100 * (memory_bytes / ALLOCATED_SHARE + CONTEXT_BYTES) / card_bytes)
               / 100)


class RayExecutor:
    """Jobs as Ray tasks, each with its share of a GPU or with one CPU core; on the cluster of
    RAY_ADDRESS, else on a Ray that is started on this machine for the run."""

    def __init__(self, folder, device="auto"):
        self.ray = import_extra("ray", "--engine ray")
        self.folder = Path(folder)
        self.device = device
        self.card_bytes = 0
        self.lost = Counter()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ray.shutdown()

    def start(self):
        """Connect; learn what the nodes have."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # else Ray warns that this will be its default
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = os.environ.get("RAY_ADDRESS")
        path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
        try:
            # without an address Ray would join any cluster that it finds on this machine
            self.ray.init(address or "local", log_to_driver=False, logging_level="error",
                          runtime_env={"env_vars": {"PYTHONPATH": path}},
                          **({} if address else {"include_dashboard": False}))
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise UserError(
                "RAY_ADDRESS must be the address of a running Ray cluster, or not be set for a Ray on this machine,"
                f" got {address!r} ({str(error).splitlines()[0]}): start one by `ray start --head`"
            ) from None
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpu_nodes = [node for node in nodes if node.get("GPU")] if self.device != "cpu" else []
        self.kind = "GPU" if gpu_nodes else "CPU"
        self.cores_each = min(n.get("CPU", 1) / n["GPU"] for n in gpu_nodes) if gpu_nodes else 1
        self.largest_memory = max(node.get("memory", 0) for node in nodes)
        self.home = self.ray.remote(Home).options(num_cpus=0, scheduling_strategy=self.on_node(
            self.ray.get_runtime_context().get_node_id())).remote(self.folder, Path.cwd())

    def on_node(self, node_id):
        strategies = import_extra("ray.util.scheduling_strategies", "--engine ray")
        return strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)

    @property
    def n_devices(self):
        """GPUs, or CPU cores, of all nodes now."""
        return max(1, int(self.ray.cluster_resources().get(self.kind, 1)))

    @property
    def cores(self):
        return max(1, int(self.cores_each))

    def survey(self, look):
        """The answers of `look()` on each node with GPUs; where there are none, on this machine."""
        task = self.ray.remote(call)
        if self.kind == "CPU":
            for _ in range(self.n_devices):
                task.remote(look)       # that workers start and import meanwhile
            return [look()]
        answers = self.ray.get([task.options(num_cpus=0, num_gpus=0.01,
                                             scheduling_strategy=self.on_node(
                                                 node["NodeID"])).remote(look)
                                for node in self.ray.nodes() if node["Alive"]
                                and node["Resources"].get("GPU")])
        self.card_bytes = min(answer["gpu_memory_bytes"] for answer in answers)
        return answers

    def share(self, memory_bytes):
        return gpu_share(memory_bytes, self.card_bytes) if self.kind == "GPU" else 1.0

    def submit(self, job):
        share = self.share(job.memory_bytes)
        cores = math.floor(100 * share * self.cores_each) / 100
        needs = {"num_gpus": share, "num_cpus": cores, "max_calls": 1} if self.kind == "GPU" else {
            # one that asks for more never starts
            "num_cpus": 1, "memory": min(job.memory_bytes, self.largest_memory // 2)}
        return self.ray.remote(**needs, max_retries=RETRIES)(work).options(name=job.title
                                                                           or str(job.name)).remote(
                                                                               job.function,
                                                                               self.home, job.name,
                                                                               self.folder,
                                                                               Path.cwd(),
                                                                               owner_of(
                                                                                   self.folder),
                                                                               max(1, int(cores)))

    def run(self, jobs, events):
        """As LocalExecutor's, several at a time. A job is asked for while a device has room, so
        that at most one waits."""
        jobs = iter(jobs)
        running = {}
        bars = {}
        advanced = Counter()
        while True:
            while sum(self.share(j.memory_bytes)
                      for j in running.values()) < self.n_devices and (job := next(jobs, None)):
                running[self.submit(job)] = job
                bars[job.name] = progress(total=1.0, desc=job.title, bar_format=(
                    "{desc} {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left"))
            if not running:
                return
            try:
                done, _ = self.ray.wait(list(running), timeout=TOLD_SECONDS)
                self.relay({job.name: job for job in running.values()}, bars, advanced, events)
                ended = [(reference, self.result(reference, running[reference]))
                         for reference in done]
            except self.ray.exceptions.RayError as error:
                self.restart(error, events)
                running = {self.submit(job): job for job in running.values()}
                continue
            for reference, seconds in ended:
                job = running.pop(reference)
                if seconds is None:
                    job = replace(job, memory_bytes=2 * job.memory_bytes)
                    events.warn(
                        f"{job.title} ran out of memory and is tried again with twice as much")
                    running[self.submit(job)] = job
                    continue
                bars.pop(job.name).close()
                self.lost.clear()
                yield job.name, seconds

    def relay(self, jobs, bars, advanced, events):
        """Do what the workers told: log, advance. A job that was begun again advances to its end
        only once."""
        for name, method, args, values in self.ray.get(self.home.told.remote()):
            if method != "advance":
                getattr(events, method)(*args, **values)
            elif name in jobs:
                share = min(args[0], 1.0 - advanced[name])
                advanced[name] += share
                bars[name].update(share)
                jobs[name].advance(share)

    def result(self, reference, job):
        """The seconds of an ended task; None where it ran out of memory and more may help."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{job.title} was lost {RETRIES + 1} times with its worker ({reason}): see how much memory is free "
                "there, then run the same command again"
            ) from None
        except errors.RayTaskError as error:
            cause = error.cause
        self.lost[job.name] += 1
        if is_out_of_memory(cause) and job.memory_bytes and self.lost[job.name] <= RETRIES:
            return None
        raise cause

    def restart(self, error, events):
        """After Ray itself was lost: connect again, or start it again."""
        self.lost[None] += 1
        reason = str(error).splitlines()[0]
        if self.lost[None] > RETRIES:
            raise RunError(
                f"Ray was lost {RETRIES + 1} times ({reason}): run the same command again to continue"
            ) from None
        events.warn(
            f"Ray was lost and is started again; fits go on from their last epoch ({reason})")
        self.ray.shutdown()
        self.start()


EXECUTORS = {"local": LocalExecutor, "ray": RayExecutor}


def make_executor(engine, folder, device="auto"):
    """The executor of runtime.engine for a run's folder. UserError where a package is missing."""
    return EXECUTORS[engine](folder, device)
