"""The debug mode: are machine, contest folder and backbones ready? One table, under a minute.

Each check returns (state, what was found, what to do: a line or several). Only `failed` makes the
exit status 1.
"""
import platform
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from packaging.version import Version

from config import MICRO_BATCH_SIZE, member, resolve
from contest.audit import audit_contest, load_audit
from contest.intake import read_contest
from data_loader import noise_batch
from ensemble.tasks import TASKS
from modeling.compute import pick_device, precisions, suits_channels_last, unseen_gpu, untimed
from modeling.losses import Supervised
from modeling.memory import is_too_large
from modeling.network import build_network
from modeling.norms import checkpoint_gradients
from modeling.optim import clip_norm_of, make_optimizer, peak_lr, set_lr
from modeling.train import seed_everything, split_batch, train_step
from modeling.weights import WeightsSource, find_weights, into_weights_dir
from running.costs import machine_facts
from system.log import Timer, show
from system.machine import fault_of, free_bytes, usable_cores
from utils import RunError, UserError, json_text

PASSED = "passed"
WARNING = "warning"
FAILED = "FAILED"
STEP_SIZE_PX = 64
STEP_IMAGES = 4
# what 84 fits write at most: parameters and checkpoints
MOST_GIB = {"large": 100, "base": 30, "small": 10, "tiny": 3}
MOST_AUDITED = 3000      # larger folders are listed, not decoded, to stay under a minute


def run_checks(config, data_path, folder):
    """Print the table of all checks; returns how many ended in each state: {state: number}."""
    checks = {
        "data": partial(check_data, config, data_path),
        "python": check_python,
        "memory and cores": check_machine,
        "gpu": partial(check_gpu, config),
        "disk": partial(check_disk, config, folder),
        **{name: partial(check_backbone, config, name) for name in config.model.backbones},
    }
    tell = show_as_json if config.runtime.json else show_row
    counts = dict.fromkeys((PASSED, FAILED, WARNING), 0)
    if not config.runtime.json:
        show(f"{'check':<17} {'state':<8} found")
    for name, check in checks.items():
        state, found, advice = attempt(check)
        counts[state] += 1
        lines = [advice] if isinstance(advice, str) else advice
        tell(name, state, found, [line for line in lines if line])
    if not config.runtime.json:
        show(f"{counts[PASSED]} passed, {counts[FAILED]} failed, {counts[WARNING]} warnings")
    return counts


def show_row(name, state, found, advice):
    show(f"{name:<17} {state:<8} {found}")
    for line in advice:
        show(f"{'':<26} -> {line}")


def show_as_json(name, state, found, advice):
    show(json_text({"event": "check", "name": name, "state": state.lower(), "found": found,
                    "advice": advice}))


def attempt(check):
    """A check's answer; an error becomes a failed check, so that the table is always complete."""
    try:
        return check()
    except (UserError, RunError) as error:
        return FAILED, "; ".join(map(str, error.args)), "mend this, then run the debug mode again"
    except Exception as error:   # a check exists to find what is broken, whatever it raises
        if fault := fault_of(error):
            return FAILED, fault, ""
        advice = "a package may be missing or broken: install as README.md says"
        return FAILED, f"{type(error).__name__}: {error}", advice


def check_python():
    import albumentations
    import timm
    found = (f"Python {platform.python_version()}, torch {torch.__version__}, "
             f"timm {timm.__version__}, albumentations {albumentations.__version__}")
    if sys.version_info < (3, 11) or Version(torch.__version__) < Version("2.11"):
        return FAILED, found, "Python 3.11 and torch 2.11 or newer are needed"
    return PASSED, found, ""


def check_machine():
    return PASSED, f"{usable_cores()} cores, {torch.get_num_threads()} threads for computing", ""


def check_gpu(config):
    device = pick_device(config.runtime.device)
    if device.type != "cuda":
        found = f"no CUDA GPU, computing on {device}"
        if text := unseen_gpu():
            return WARNING, found, text
        return WARNING, found, "the tiny scale is made for this; expect lower scores"
    free, total = torch.cuda.mem_get_info(device)
    found = (f"{torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of "
             f"{total / 2**30:.1f} GiB free, {precisions(device)[0]}")
    if free > 0.5 * total:
        return PASSED, found, ""
    return WARNING, found, "another process holds much of the GPU's memory"


def check_disk(config, folder):
    gib = free_bytes(folder) / 2**30
    scale = scaled(config).scale
    found = f"{gib:.0f} GiB free for {Path(folder).parent}"
    if gib > MOST_GIB[scale]:
        return PASSED, found, ""
    return WARNING, found, (f"competition_ready writes about {MOST_GIB[scale]} GiB at scale "
                            f"{scale}: see --mode competition_ready --dry_run")


def check_data(config, data_path):
    """Read the contest folder and, unless it has many image files, each of them."""
    contest = read_contest(data_path, config.data)
    metric = TASKS[contest.train.task].find_metric(config.metric, contest.form.has_class_columns)
    contest = contest.for_metric(metric)
    found = (f"{len(contest.train)} train and {len(contest.test)} test images, "
             f"{len(contest.train.classes)} classes")
    problems = list(contest.problems)
    if sum((rows.path != "").sum() for rows in (contest.train, contest.test)) <= MOST_AUDITED:
        with tempfile.TemporaryDirectory() as folder:
            audit_contest(contest, config.data, 64, Path(folder), usable_cores())
            problems += load_audit(Path(folder), contest.folder).problems
    else:
        found += f" (over {MOST_AUDITED}: listed, not decoded)"
    lines = [*contest.describe(metric, config.metric != "auto"), contest.proof(),
             *(p.text for p in problems)]
    return (WARNING if problems else PASSED), found, lines


def scaled(config):
    """The Config as a run on this machine would have it."""
    facts = machine_facts(config.runtime.device)
    return resolve(config, gpu_memory_bytes=facts["gpu_memory_bytes"], n_train=STEP_IMAGES)


def check_backbone(config, backbone):
    """Find a backbone's weights for this machine's scale, load them, and train one step.

    On a GPU the member that a run would train takes the step, at its size and micro-batch. Else a
    family takes it with its tiny member.
    """
    own = scaled(config)
    device = pick_device(config.runtime.device)
    name = member(backbone, own.scale)
    is_real = takes_real_step(device)
    small = name if is_real else member(backbone, "tiny")
    source = find_weights(name, config.runtime.weights_dir, config.model.pretrained)
    if source.path and name != small:
        build_network(name, n_classes=4, image_size_px=own.data.image_size_px, model=config.model,
                      weights=source)
    step_source = WeightsSource(small, "random")
    if source.path and name == small:
        step_source = source
    with Timer() as timer:
        if is_real:
            size_px = own.data.image_size_px
            loss = one_step(own, step_source, device, size_px, MICRO_BATCH_SIZE[own.scale])
        else:
            loss = one_step(own, step_source, device)
    whose = "" if name == small else f" of {small}"
    found = (f"{source.describe()}; one step{whose} in {timer.seconds:.1f} s, "
             f"loss {loss:.2f}")
    if not np.isfinite(loss):
        return FAILED, found, after_nonfinite(own, step_source)
    if not source.is_pretrained and config.model.pretrained == "off":
        return WARNING, found, "model.pretrained=off asks for them: leave it out to score higher"
    if not source.is_pretrained:
        where = into_weights_dir(name, config.runtime.weights_dir)
        return WARNING, found, f"put pretrained weights {where}"
    return PASSED, found, ""


def after_nonfinite(config, source):
    """What to do after a step whose loss is not finite."""
    runtime = config.runtime
    if untimed(runtime, precisions(pick_device(runtime.device))[0]).precision != "fp32":
        return "the loss is not finite: use --set runtime.precision=fp32"
    if source.path:
        return f"the loss is not finite: replace {source.path}, or use --set model.pretrained=off"
    return "the loss is not finite: choose another backbone by --set model.backbones=NAME"


def takes_real_step(device):
    """Whether large networks take a step in seconds here."""
    return device.type == "cuda"


def one_step(config, source, device, size_px=STEP_SIZE_PX, n_images=STEP_IMAGES):
    """The loss of one training step on noise images. UserError if the weights do not fit."""
    seed_everything("debug", source.model_name)
    network = build_network(source.model_name, n_classes=4, image_size_px=size_px,
                            model=config.model, weights=source).to(device).train()
    if config.runtime.grad_checkpointing == "on" or is_too_large(source.model_name, device):
        checkpoint_gradients(network)
    batch = noise_batch(n_images, 4, size_px)
    compute = untimed(config.runtime, precisions(device)[0],
                      suits_channels_last(source.model_name, device.type))
    compute.prepare(network)
    optimizer = make_optimizer(network, config.optim, pretrained=False)
    set_lr(optimizer, peak_lr(network, config.optim, pretrained=False))
    objective = Supervised(config.optim, torch.ones(4), network.head.with_margin).to(device)
    loss, _ = train_step(network, objective, optimizer, compute.scaler(device),
                         split_batch(batch, n_images, device),
                         autocast=compute.autocast(device),
                         clip_norm=clip_norm_of(network, config.optim))
    return float(loss)
