"""The same work in the product, timm's train.py, fastai, Lightning and AutoGluon MultiModal.

    python -m benchmarks.peers DATA_ROOT ANSWERS_ROOT --weights_dir W --envs ENVS --repeats 3 \\
        [-- --set ..]

DATA_ROOT holds the contest folders docmix and trashnet; ANSWERS_ROOT docmix.csv and trashnet.csv,
read after the last run. Two jobs: mobilenetv2_100 with ImageNet weights at 160 px on docmix,
convnext_atto from random weights at 128 px on trashnet. Images, split, backbone, size, batch and
epochs are the same, then the test set is predicted. Everything else is each competitor's own, as
its peer script says. Environments are made in ENVS once, from the registry; what follows `--` goes
to the product.

The competitors take turns; each run is a command of its own, timed with its start and end. Prints
each run, then per competitor the medians and the ratio to the fastest peer. Images/s are epochs x
training images + test images over all its seconds; peak memory is the PSS of all its processes
(Linux). A competitor that fails is listed with its last line, and the exit status is 1. --every 10
tries it all on a tenth of the images.
"""
import argparse
import contextlib
import csv
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sklearn.metrics import f1_score

from benchmarks.contract import Contract, Job, read_rows, write_contract
from benchmarks.seeds import read_pairs, split_argv
from config import build_config, resolve
from contest.audit import audit_contest, load_audit
from contest.intake import read_contest
from data_loader import load_folds, make_folds
from running.preparing import cache_side_px
from system.log import Timer, no_bars
from system.machine import usable_cores
from utils import read_json

HERE = Path(__file__).resolve().parent
PRODUCT = "product"
JOBS = {"docmix": Job("mobilenetv2_100", 160, 0, 8, weights="mobilenetv2_100*.pth"),
        "trashnet": Job("convnext_atto", 128, 0, 8)}
# timm 1.0.31's rand-m9 posterizes to 0 bits, which pillow 13 refuses; each torchvision fits one
# torch, and AutoGluon's ranges admit several pairs
PACKAGES = {"timm": ["timm", "torchvision", "pillow<13"], "fastai": ["fastai", "timm"],
            "lightning": ["lightning", "timm", "torchvision"],
            "autogluon": ["autogluon.multimodal", "torch<2.13", "torchvision<0.28"]}
SHOWN = {"timm": "timm", "fastai": "fastai", "lightning": "lightning",
         "autogluon": "autogluon.multimodal"}
TAKES = {
    "timm": ("bf16", "channels_last"),
    "fastai": ("channels_last",),
    "lightning": ("bf16", "channels_last"),
    "autogluon": (),
}  # what a peer offers on a CPU
# reading a process's memory delays its page faults: 4 reads a second slowed training by a quarter
SAMPLE_SECONDS = 2.0


# ---------------------------------------------------------------- one command

@dataclass(frozen=True)
class Outcome:
    """One run.

    error: why it has no predictions, else ''. predictions: {id: class}. parts: seconds of train and
    predict.
    """

    name: str
    seconds: float
    peak_bytes: int = 0
    error: str = ""
    parts: dict = field(default_factory=dict)
    predictions: dict = field(default_factory=dict)


def session_pids(session):
    """Processes of a session, read from /proc."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:     # it has ended
            continue
        if int(after_name[3]) == session:
            yield int(stat.parent.name)


def pss_bytes(pid):
    """A process's share of memory: a page that k processes share counts 1/k."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class PeakMemory:
    """The largest sum of PSS over the processes of a session, sampled by a thread; 0 without /proc.
    """

    def __init__(self, session):
        self.session, self.bytes, self.ended = session, 0, threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def sample(self):
        while not self.ended.wait(SAMPLE_SECONDS):
            self.bytes = max(self.bytes, sum(map(pss_bytes, session_pids(self.session))))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def run_command(name, words, log, limit_seconds, environment=None):
    """The Outcome, without predictions, of a command in its own session; all its processes end."""
    with open(log, "w", encoding="utf-8") as out, Timer() as timer:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, cwd=HERE.parent,
                                   start_new_session=True, env={**os.environ, "HF_HUB_OFFLINE": "1",
                                                                **(environment or {})})
        with PeakMemory(process.pid) as memory:
            try:
                status = process.wait(limit_seconds)
                error = "" if status == 0 else f"exit status {status}: {last_line(log)}"
            except subprocess.TimeoutExpired:
                error = f"not done after {limit_seconds:.0f} s"
            finally:
                stop_session(process)
    return Outcome(name, timer.seconds, memory.bytes, error)


def stop_session(process):
    process.kill()
    for pid in session_pids(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def last_line(log):
    lines = [line.strip() for line in Path(log).read_text(encoding="utf-8",
                                                          errors="replace").splitlines()
             if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


# ---------------------------------------------------------------- environments

def python_of(envs, name):
    return envs / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environment(envs, name):
    """Make the peer's environment unless it is there. '' if it has all packages, else why not."""
    made = envs / name / "made.json"
    if made.exists() and read_json(made) == PACKAGES[name]:
        return ""
    envs.mkdir(parents=True, exist_ok=True)
    log, python = envs / f"{name}.log", str(python_of(envs, name))
    for words in ([sys.executable, "-m", "venv", str(envs / name)],
                  [python, "-m", "pip", "install", "-q", *PACKAGES[name]]):
        with open(log, "w", encoding="utf-8") as out:
            if subprocess.run(words, stdout=out, stderr=subprocess.STDOUT).returncode:
                return f"no environment: {last_line(log)}"
    made.write_text(json.dumps(PACKAGES[name]))
    return ""


def versions(envs, name):
    """The peer's version and torch's, as its environment says."""
    code = ("import sys; from importlib.metadata import version; "
            "print(*(f'{p} {version(p)}' for p in sys.argv[1:]), sep=', ')")
    words = [str(python_of(envs, name)), "-c", code, *dict.fromkeys([SHOWN[name], "timm", "torch"])]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def ways_of(name, ways):
    """The ways of computing that the peer offers on a CPU."""
    return [way for way in ways if not any(way[key] for key in ("bf16", "channels_last")
                                           if key not in TAKES[name])]


def choose_computing(envs, name, contract, folder):
    """(the contract with the peer's fastest way of computing, '' or why its environment fails)"""
    write_contract(folder, contract)
    words = [str(python_of(envs, name)), str(HERE / "contract.py"), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        return (
            contract,
            f"its environment fails: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}",
        )
    best = min(ways_of(name, json.loads(done.stdout.splitlines()[-1])),
               key=lambda way: way["seconds"])
    chosen = {key: best[key] for key in ("bf16", "channels_last")}
    print(
        f"{name:<10} {versions(envs, name)}; a step takes {best['seconds']:.2f} s with "
        f"{' and '.join(key for key in chosen if chosen[key]) or 'neither bf16 nor channels_last'}",
        flush=True,
    )
    contract = replace(contract, job=replace(contract.job, **chosen))
    write_contract(folder, contract)
    return contract, ""


# ---------------------------------------------------------------- the work

def thinned(source, folder, every):
    """A copy of a contest with every n-th training and test image."""
    for table, split in (("train.csv", "train"), ("sample_submission.csv", "test")):
        (folder / split).mkdir(parents=True)
        with open(source / table, newline="", encoding="utf-8") as f:
            header, *rows = csv.reader(f)
        # by class, so that all keep their share
        rows = sorted(rows, key=lambda row: row[::-1])[::every]
        with open(folder / table, "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([header, *rows])
        for name, *_ in rows:
            shutil.copyfile(source / split / name, folder / split / name)
    return folder


def settings_of(job):
    """The product's settings for a job."""
    return [f"model.backbones={job.backbone}", f"data.image_size_px={job.image_size_px}",
            f"optim.epochs={job.epochs}", f"optim.batch_size={job.batch_size}",
            *([] if job.weights else ["model.pretrained=off"])]


def contract_of(data_path, job, scratch):
    """The Contract with the product's own split: its audit, its folds, the first held out.

    Batch 0 means the product's.
    """
    config = build_config("quick_test", settings_of(job))
    contest = read_contest(data_path, config.data)
    config = resolve(config, gpu_memory_bytes=0, n_train=len(contest.train))
    with no_bars():
        audit_contest(contest, config.data, cache_side_px(config), scratch, usable_cores())
    audit = load_audit(scratch, contest.folder)
    folds = make_folds(audit.train, config.data.n_folds, config.seed)
    train, valid = (tuple((str(audit.train.path[row]), int(audit.train.label[row])) for row in rows)
                    for rows in (folds.train_rows(0), folds.valid_rows(0)))
    test = tuple(zip(audit.test.path.tolist(), audit.test.sample_id.tolist(), strict=True))
    return Contract(replace(job, batch_size=config.optim.batch_size), audit.train.classes, train,
                    valid, test)


def run_product(data_path, contract, folder, args, passed):
    """The Outcome of the product's command; its split must be the contract's. It trains the one
    network that the peers train."""
    words = [sys.executable, "grandmaster_train.py", "--mode", "quick_test", "--data_path",
             str(data_path), "--results_dir", str(folder), "--experiment_name", "run",
             *(["--weights_dir", str(args.weights_dir)] if args.weights_dir else []), "--set",
             *settings_of(contract.job), "model.frozen=", *passed]
    outcome = run_command(PRODUCT, words, folder / "log.txt", args.limit_seconds)
    if outcome.error:
        return outcome
    folds_file, = (folder / "run").glob("folds-*/folds.csv")
    folds = load_folds(folds_file)
    held_out = {Path(path).name for path, _ in contract.valid}
    if {Path(name).name for name in folds.sample_id[folds.valid_rows(0)].tolist()} != held_out:
        return replace(outcome, error="its split is not the one that the peers got")
    return replace(outcome, predictions=read_pairs(folder / "run" / "submission_run.csv"),
                   parts=product_parts(folder / "run"))


def product_parts(run):
    """Seconds of the product's epochs, without validation."""
    history, = run.glob("fold_0/r0-*/history.csv")
    with open(history, newline="", encoding="utf-8") as f:
        return {"train": sum(float(row.get("seconds", "nan")) for row in csv.DictReader(f))}


def run_peer(name, contract_folder, folder, args):
    words = [str(python_of(args.envs, name)), str(HERE / f"peer_{name}.py"), str(contract_folder),
             str(folder)]
    outcome = run_command(name, words, folder / "log.txt", args.limit_seconds)
    if outcome.error:
        return outcome
    return replace(outcome, parts=read_json(folder / "timing.json"),
                   predictions=dict(read_rows(folder / "predictions.csv")))


# ---------------------------------------------------------------- what is printed

def macro_f1(predictions, answers):
    """Macro-F1, joined by id. Raises ValueError if ids differ."""
    if set(predictions) != set(answers):
        raise ValueError(
            f"predictions of other ids than the answers': "
            f"{len(set(answers) - set(predictions))} missing, "
            f"{len(set(predictions) - set(answers))} extra"
        )
    ids = list(answers)
    return f1_score([answers[i] for i in ids], [predictions[i] for i in ids], average="macro")


def scored(outcome, answers):
    """(Outcome, macro-F1 or None); predictions that do not fit the answers are an error."""
    if outcome.error:
        return outcome, None
    try:
        return outcome, macro_f1(outcome.predictions, answers)
    except ValueError as error:
        return replace(outcome, error=str(error)), None


def spread(values, form):
    """The median, with the range if there are several."""
    middle = format(statistics.median(values), form)
    return middle if len(
        values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def table(runs, n_images):
    """Lines per competitor: medians over good runs, seconds over the fastest peer's, faults.

    runs: (Outcome, macro-F1 or None). n_images: how many go through a network in a run, each epoch
    counted.
    """
    names = list(dict.fromkeys(outcome.name for outcome, _ in runs))
    good = {name: [(o, f1) for o, f1 in runs if o.name == name and not o.error] for name in names}
    seconds = {name: statistics.median(o.seconds for o, _ in good[name]) for name in names
               if good[name]}
    fastest = min((seconds[name] for name in seconds if name != PRODUCT), default=None)
    yield ("| competitor | runs | seconds | images/s | peak memory, GB | macro-F1 | "
           "seconds over fastest peer's |")
    yield "|---|---|---|---|---|---|---|"
    for name in names:
        tries = [o for o, _ in runs if o.name == name]
        if good[name]:
            outcomes, scores = zip(*good[name], strict=True)
            yield (
                f"| {name} | {len(outcomes)} of {len(tries)} | "
                f"{spread([o.seconds for o in outcomes], '.1f')} | "
                f"{n_images / seconds[name]:.1f} | "
                f"{max(o.peak_bytes for o in outcomes) / 1e9:.2f} | "
                f"{spread(scores, '.4f')} | "
                + (f"{seconds[name] / fastest:.2f} |" if fastest else "- |")
            )
        for error in dict.fromkeys(o.error for o in tries if o.error):
            yield f"| {name} | FAILED | {error} | | | | |"


def run_line(number, outcome):
    parts = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in outcome.parts.items())
    return (
        f"{number}  {outcome.name:<10} {outcome.seconds:7.1f} s  "
        f"{outcome.peak_bytes / 1e9:5.2f} GB  load "
        f"{os.getloadavg()[0]:.1f}  " + (f"FAILED: {outcome.error}" if outcome.error else parts)
    )


# ---------------------------------------------------------------- the whole

def all_runs(name, job, args, passed, out):
    """(Outcomes of a job, the Contract). Each repeat begins with another competitor."""
    data_path = thinned(args.data_root / name, out / "data",
                        args.every) if args.every > 1 else args.data_root / name
    contract = contract_of(data_path, job, out / "audit")
    job = contract.job
    print(
        f"\n{name}: {job.backbone}, {job.image_size_px} px, {job.epochs} epochs, "
        f"batch {job.batch_size}, {len(contract.train)} images to train on, "
        f"{len(contract.valid)} held out, {len(contract.test)} to predict; "
        f"{'weights ' + Path(job.weights).name if job.weights else 'random weights'}",
        flush=True,
    )
    faults = {}
    for peer in (n for n in args.only if n != PRODUCT):
        faults[peer] = make_environment(args.envs, peer) or choose_computing(args.envs, peer,
                                                                             contract,
                                                                             out / peer)[1]
    outcomes = []
    for repeat in range(args.repeats):
        shift = repeat % len(args.only)
        for competitor in (*args.only[shift:], *args.only[:shift]):
            folder = out / f"{competitor}-{repeat}"
            folder.mkdir(parents=True)
            outcomes.append(Outcome(competitor, 0.0, error=faults[competitor])
                            if faults.get(competitor) else run_product(data_path, contract, folder,
                                                                       args, passed) if competitor
                            == PRODUCT else run_peer(competitor, out / competitor, folder, args))
            print(run_line(repeat + 1, outcomes[-1]), flush=True)
    return outcomes, contract


def with_weights(job, weights_dir):
    """The job with the file that matches its pattern."""
    if not job.weights:
        return job
    found = sorted(Path(weights_dir).glob(job.weights)) if weights_dir else []
    if len(found) != 1:
        sys.exit(
            f"--weights_dir must hold one {job.weights}, got {[f.name for f in found]} "
            f"in {weights_dir}"
        )
    return replace(job, weights=str(found[0].resolve()))


def parse(own):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_root", type=Path)
    parser.add_argument("answers_root", type=Path)
    parser.add_argument("--weights_dir", type=Path)
    parser.add_argument("--envs", type=Path, required=True, metavar="DIR",
                        help="environments of the peers, made where missing")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--only", nargs="+", default=[PRODUCT, *PACKAGES],
                        choices=[PRODUCT, *PACKAGES])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=0,
                        help="of all competitors; 0: what the product takes by itself")
    parser.add_argument("--workers", type=int, default=2, help="loading processes of the peers")
    parser.add_argument("--every", type=int, default=1, metavar="N",
                        help="only every n-th image, to try things")
    parser.add_argument("--limit_seconds", type=float, default=7200.0, help="for one run")
    parser.add_argument("--keep", type=Path, metavar="DIR",
                        help="leave logs, predictions and runs there: a new folder")
    args = parser.parse_args(own)
    for key in ("data_root", "answers_root", "weights_dir", "envs", "keep"):
        if getattr(args, key):
            setattr(args, key, getattr(args, key).absolute())
    return args


def main():
    own, passed = split_argv()
    args, runs = parse(own), {}
    with tempfile.TemporaryDirectory() as scratch:
        out = args.keep or Path(scratch)
        for name in args.jobs:
            job = replace(with_weights(JOBS[name], args.weights_dir), epochs=args.epochs,
                          batch_size=args.batch_size, workers=args.workers)
            runs[name] = all_runs(name, job, args, passed, out / name)
    failed = False
    for name, (outcomes, contract) in runs.items():
        answers, ids = read_pairs(args.answers_root / f"{name}.csv"), {i for _, i in contract.test}
        results = [scored(o, {i: answers[i] for i in answers if i in ids}) for o in outcomes]
        n_images = contract.job.epochs * len(contract.train) + len(contract.test)
        print(f"\n{name}, {contract.job.backbone}, medians of {args.repeats} (smallest to largest)")
        print("\n".join(table(results, n_images)))
        failed |= any(o.error for o, _ in results)
        if args.keep:
            rows = [{**asdict(o), "predictions": len(o.predictions), "macro_f1": f1} for o,
                    f1 in results]
            (args.keep / f"{name}.json").write_text(json.dumps(rows, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
