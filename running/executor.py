"""Where fits run: in this process, or as Ray tasks. The pipeline does not know which:

    with make_executor("ray", folder) as executor:
        for name, seconds in executor.run([Job("fit 1/6", train, memory_bytes=2**30)], log): ...

A job is a function of a Site. It leaves finished stages in the run's folder, which every node sees.
Devices are GPUs or, without any, CPU cores. Ray places the jobs and tries those again whose worker
or node died. Nothing here needs torch.
"""
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from system.log import SHARE_BAR, Timer, progress
from system.machine import is_out_of_memory, usable_cores
from system.stages import OWNER
from utils import RunError, UserError, digest_json, import_extra, patiently, read_json

CODE = Path(__file__).resolve().parent.parent
CONTEXT_BYTES = 2**29       # of a GPU's memory: CUDA's own
ALLOCATED_SHARE = 0.85      # of what torch reserves: filled by tensors
RETRIES = 5                 # of a job that lost its worker or lacked memory, and of Ray itself
RELAY_SECONDS = 1.0         # between two looks into the mailbox


@dataclass(frozen=True)
class Job:
    """One piece of work for an executor.

    name: what `run` yields. function(site): the work, picklable. memory_bytes: its planned peak, 0
    if unknown. advance(share): called in this process with the share done since the last call.
    """

    name: Hashable
    function: Callable
    title: str = ""
    memory_bytes: int = 0
    advance: Callable = lambda share: None


# ---------------------------------------------------------------- in this process

@dataclass
class Site:
    """Where a job runs: the run's folder, the log, the cores that it may use.

    may_fork: whether the system lets loading processes live; jobs set it to False when it does not.
    """

    folder: Path
    cores: int
    log: object = None
    advance: Callable = lambda share: None
    may_fork: bool = True
    is_home = True        # in the process that asked


class LocalExecutor:
    """One job after the other in this process."""

    n_devices = 1
    kind = "process"

    def __init__(self, folder, device="auto"):
        self.site = Site(Path(folder), usable_cores())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def cores(self):
        return self.site.cores

    def survey(self, machine_facts):
        """The answers of `machine_facts()` on each machine where jobs may run."""
        return [machine_facts()]

    def share(self, memory_bytes):
        """How much of a device a job takes."""
        return 1.0

    def run(self, jobs, log):
        """Yields (name, seconds) of each Job as it is done.

        jobs: an iterable. It is advanced only when a job can start.
        """
        self.site.log = log
        for job in jobs:
            self.site.advance = job.advance
            with Timer() as timer:
                job.function(self.site)
            yield job.name, timer.seconds


# ---------------------------------------------------------------- on a Ray worker

def owner_of(folder):
    """What the lock of an experiment folder says of its holder; None where it is not seen."""
    path = Path(folder) / OWNER
    try:
        return patiently(path, lambda: read_json(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        return None


class Mailbox:
    """An actor on the driver's machine. Keeps the workers' calls until the driver takes them."""

    def __init__(self):
        self.calls = []

    def post(self, name, method, args, values):
        """Add a call of `method` for the job of this name."""
        self.calls.append((name, method, args, values))

    def take(self):
        """All calls since the last `take`, in order."""
        calls = self.calls
        self.calls = []
        return calls


class RemoteLog:
    """An EventLog's methods on a worker: the driver's log does what they say."""

    def __init__(self, post):
        self.post = post

    def record(self, event, **values):
        self.post("record", event, **values)

    def say(self, text, event="note", **values):
        self.post("say", text, event, **values)

    def warn(self, text):
        self.post("warn", text)


class RemoteSite:
    """A Site on a Ray worker, in the driver's working directory."""

    is_home = False
    may_fork = True

    def __init__(self, mailbox, name, folder, directory, owner, cores):
        if owner is None or owner_of(Path(directory) / folder) != owner:
            raise UserError(
                f"--results_dir must be a folder that every Ray node sees at the same path, got "
                f"{str(folder)!r} in {str(directory)!r}, which a worker does not see: use a shared "
                "drive, or --engine local")
        os.chdir(directory)
        self.ray = import_extra("ray", "--engine ray")
        self.mailbox = mailbox
        self.name = name
        self.folder = folder
        self.cores = cores
        self.log = RemoteLog(self.post)
        self.done = 0.0      # the share not yet posted
        self.posted_at = time.monotonic()

    def post(self, method, *args, **values):
        self.mailbox.post.remote(self.name, method, args, values)

    def advance(self, share):
        self.done += share
        if time.monotonic() - self.posted_at > RELAY_SECONDS:
            self.post("advance", self.done)
            self.done = 0.0
            self.posted_at = time.monotonic()

    def flush(self):
        """Post the rest; returns when all that was posted has arrived."""
        self.ray.get(self.mailbox.post.remote(self.name, "advance", (self.done,), {}))


def call(function):
    return function()


def work(function, mailbox, name, folder, directory, owner, cores):
    """What a Ray task does; returns its seconds.

    Ray may restart a job elsewhere while the first worker, cut off, still runs: the lock makes the
    second wait.
    """
    site = RemoteSite(mailbox, name, folder, directory, owner, cores)
    lock = site.folder / f".{digest_json(str(name))}.lock"
    with FileLock(lock), Timer() as timer:
        function(site)
    lock.unlink(missing_ok=True)
    site.flush()
    return timer.seconds


# ---------------------------------------------------------------- Ray

def gpu_share(memory_bytes, card_bytes):
    """The share of a GPU for a planned peak of tensors, in hundredths rounded up.

    Jobs whose shares sum to at most 1 can share the GPU. An unknown peak, or one above the GPU's
    memory, takes it whole.
    """
    if not memory_bytes or not card_bytes:
        return 1.0
    needed_bytes = memory_bytes / ALLOCATED_SHARE + CONTEXT_BYTES
    return min(1.0, math.ceil(100 * needed_bytes / card_bytes) / 100)


class RayExecutor:
    """Jobs as Ray tasks, each with its share of a GPU or with one CPU core; on the cluster of
    RAY_ADDRESS, else on a Ray that is started on this machine for the run."""

    def __init__(self, folder, device="auto"):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # else Ray warns that this will be its default
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if not os.environ.get("RAY_ADDRESS"):
            # what Ray does on Windows and macOS, of its own: it listens on the loopback interface
            # alone. Asked at its import.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        self.ray = import_extra("ray", "--engine ray")
        self.folder = Path(folder)
        self.device = device
        self.card_bytes = 0
        self.memory_retries = Counter()      # by job
        self.ray_restarts = 0                # since a job was done

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ray.shutdown()

    def start(self):
        """Connect; learn what the nodes have."""
        address = os.environ.get("RAY_ADDRESS")
        path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
        try:
            # without an address Ray would join any cluster that it finds on this machine
            self.ray.init(address or "local", log_to_driver=False, logging_level="error",
                          runtime_env={"env_vars": {"PYTHONPATH": path}},
                          **({} if address else {"include_dashboard": False}))
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            reason = str(error).splitlines()[0]
            if not address:
                raise UserError(
                    f"--engine ray must be able to start Ray on this machine, and it did not start "
                    f"({reason}): use --engine local"
                ) from None
            raise UserError(
                f"RAY_ADDRESS must be the address of a running Ray cluster, got {address!r} "
                f"({reason}): unset it for a Ray on this machine, or set it to the address that "
                "`ray start --head` prints"
            ) from None
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpu_nodes = [node for node in nodes if node.get("GPU")] if self.device != "cpu" else []
        self.kind = "GPU" if gpu_nodes else "CPU"
        self.cores_each = min(n.get("CPU", 1) / n["GPU"] for n in gpu_nodes) if gpu_nodes else 1
        self.largest_memory = max(node.get("memory", 0) for node in nodes)
        here = self.on_node(self.ray.get_runtime_context().get_node_id())
        actor = self.ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here)
        self.mailbox = actor.remote()

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

    def survey(self, machine_facts):
        """The answers of `machine_facts()` on each node with GPUs; without any, of this machine.

        Also remembers the smallest GPU, which `share` needs; on CPUs it starts the workers.
        """
        task = self.ray.remote(call)
        if self.kind == "CPU":
            for _ in range(self.n_devices):
                task.remote(machine_facts)      # workers start and import meanwhile
            return [machine_facts()]

        asked = []
        for node in self.ray.nodes():
            if node["Alive"] and node["Resources"].get("GPU"):
                there = self.on_node(node["NodeID"])
                small = task.options(num_cpus=0, num_gpus=0.01, scheduling_strategy=there)
                asked.append(small.remote(machine_facts))
        answers = self.ray.get(asked)
        self.card_bytes = min(answer["gpu_memory_bytes"] for answer in answers)
        return answers

    def share(self, memory_bytes):
        return gpu_share(memory_bytes, self.card_bytes) if self.kind == "GPU" else 1.0

    def submit(self, job):
        """Start a Job with the share of a device that it needs; returns Ray's reference to it."""
        share = self.share(job.memory_bytes)
        cores = math.floor(100 * share * self.cores_each) / 100
        if self.kind == "GPU":
            needs = {"num_gpus": share, "num_cpus": cores, "max_calls": 1}
        else:      # a task that asks for more memory than any node has never starts
            memory = min(job.memory_bytes, self.largest_memory // 2)
            needs = {"num_cpus": 1, "memory": memory}

        task = self.ray.remote(**needs, max_retries=RETRIES)(work)
        named = task.options(name=job.title or str(job.name))
        return named.remote(job.function, self.mailbox, job.name, self.folder, Path.cwd(),
                            owner_of(self.folder), max(1, int(cores)))

    def run(self, jobs, log):
        """As LocalExecutor's, several at a time.

        A job is asked for while a device has room, so that at most one waits.
        """
        jobs = iter(jobs)
        running = {}      # {Ray's reference: Job}
        bars = {}
        advanced = Counter()
        while True:
            while self.has_room(running) and (job := next(jobs, None)):
                running[self.submit(job)] = job
                bars[job.name] = progress(total=1.0, desc=job.title,
                                          bar_format=SHARE_BAR)
            if not running:
                return

            try:
                done, _ = self.ray.wait(list(running), timeout=RELAY_SECONDS)
                self.relay({job.name: job for job in running.values()}, bars, advanced, log)
                ended = {reference: self.result(reference, running[reference])
                         for reference in done}
            except self.ray.exceptions.RayError as error:
                self.restart(error, log)
                running = {self.submit(job): job for job in running.values()}
                continue

            for reference, seconds in ended.items():
                job = running.pop(reference)
                if seconds is None:
                    job = replace(job, memory_bytes=2 * job.memory_bytes)
                    log.warn(
                        f"{job.title} ran out of memory and is tried again with twice as much")
                    running[self.submit(job)] = job
                    continue
                bars.pop(job.name).close()
                self.memory_retries.pop(job.name, None)
                self.ray_restarts = 0
                yield job.name, seconds

    def has_room(self, running):
        """Whether the running jobs leave a part of a device free."""
        return sum(self.share(job.memory_bytes) for job in running.values()) < self.n_devices

    def relay(self, jobs, bars, advanced, log):
        """Do what the workers posted. A job that starts over never moves its bar past the end."""
        for name, method, args, values in self.ray.get(self.mailbox.take.remote()):
            if method != "advance":
                getattr(log, method)(*args, **values)
            elif name in jobs:
                share = min(args[0], 1.0 - advanced[name])
                advanced[name] += share
                bars[name].update(share)
                jobs[name].advance(share)

    def result(self, reference, job):
        """The seconds of an ended task; None if it ran out of memory and may be tried again."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{job.title} was lost {RETRIES + 1} times with its worker ({reason}): see how "
                "much memory is free there, then run the same command again"
            ) from None
        except errors.RayTaskError as error:
            cause = error.cause
        if self.may_retry(job, cause):
            return None
        raise cause      # not in the except clause: there Ray's error would become its context

    def may_retry(self, job, cause):
        """Whether more memory may help a job that failed by `cause`. Counts the retries."""
        if not (is_out_of_memory(cause) and job.memory_bytes):
            return False
        self.memory_retries[job.name] += 1
        return self.memory_retries[job.name] <= RETRIES

    def restart(self, error, log):
        """After Ray itself was lost: connect again, or start it again."""
        self.ray_restarts += 1
        reason = str(error).splitlines()[0]
        if self.ray_restarts > RETRIES:
            raise RunError(
                f"Ray was lost {RETRIES + 1} times ({reason}): run the same command again to "
                "continue") from None
        log.warn(f"Ray was lost and is started again; fits go on from their last epoch ({reason})")
        self.ray.shutdown()
        self.start()


EXECUTORS = {"local": LocalExecutor, "ray": RayExecutor}


def make_executor(engine, folder, device="auto"):
    """The executor of runtime.engine for a run's folder. UserError where a package is missing."""
    return EXECUTORS[engine](folder, device)
