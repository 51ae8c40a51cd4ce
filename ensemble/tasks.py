"""What a contest asks of its images. A task is a value: everything that differs between tasks is
one of its fields, and no other code asks which task it is.

    task = TASKS[contest.train.task]
    metric = task.find_metric("auto", contest.form.has_class_columns)
    config, sentences = task.adapted(config)
    objective = task.objective(config, truth, targets, network.head.with_margin)

single      one class an image
soft        one class an image, of which annotators are not sure: a share of each class
multilabel  any number of classes an image
regression  one number or several

How labels are read is in contest/targets.py, how predictions are judged in judges.py.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from config import BASE
from ensemble.judges import JUDGES
from ensemble.metrics import METRICS, NUMBER_METRICS, SET_METRICS, SOFT_METRICS
from modeling.inference import softmax
from modeling.losses import EachByItself, Numbers, Supervised, class_weights
from utils import UserError, nearest


@dataclass(frozen=True)
class Task:
    """One of TASKS.

    values: what rows of predictions hold, of data_loader.VALUES. part: of the page, of
    reporting.page.PARTS. metrics: {name: Metric}.
    defaults: names of the metric for one column in the submission, and for a column per class.
    adapt(config) -> (Config, sentences of what it changes). objective(config, truth, targets,
    margin) -> nn.Module, of modeling.losses; truth: of the labelled images that are learnt from.
    decode(logits (B, C)) -> (B, C). settings(config): what a fit's key also holds. row(answers
    (C,), probs (C,), classes, names) -> {column: cell} of a prediction for people. turns(config):
    whether images may be flipped and turned, where they look natural so. is_exact: predictions need
    whole precision.
    """

    name: str
    values: str
    part: str
    metrics: dict
    defaults: tuple[str, str]
    adapt: Callable
    objective: Callable
    decode: Callable
    settings: Callable
    row: Callable
    turns: Callable
    is_exact: bool = False

    @property
    def judge(self):
        return JUDGES[next(iter(self.metrics.values())).values]

    def find_metric(self, name, has_class_columns=False):
        """The metric of that name; `auto` goes by whether the submission has a column per class.

        Raises UserError, with the nearest name, for one that this task does not have.
        """
        plain = name.lower().replace("-", "_").replace("@", "_at_")
        plain = {"mean_f1": "samples_f1"}.get(plain, plain)
        if plain == "auto":
            return self.metrics[self.defaults[has_class_columns]]
        if plain not in self.metrics:
            choices = ("auto", *self.metrics)
            others = [task.name for task in TASKS.values() if plain in task.metrics]
            hint = f"; --task {others[0]} has it" if others else nearest(plain, choices)
            of_task = "" if self.name == "single" else f" of task {self.name}"
            raise UserError(
                f"--metric{of_task} must be one of {', '.join(choices)}, got {name!r}{hint}")
        return self.metrics[plain]


# ---------------------------------------------------------------- one class an image

def as_it_is(config):
    return config, ()


def class_objective(config, truth, targets, margin):
    """Cross-entropy, by class weights that make up for pseudo-labels."""
    n_labelled = np.bincount(truth, minlength=targets.probs.shape[1])
    n_taught = (targets.probs * targets.weight[:, None]).sum(0)
    weights = class_weights(n_labelled, config.optim.class_weight_power, n_taught)
    return Supervised(config.optim, weights, margin)


def soft_objective(config, truth, targets, margin):
    """As `class_objective`; a class has as many images as its shares sum to."""
    n_taught = (targets.probs * targets.weight[:, None]).sum(0)
    weights = class_weights(truth.sum(0), config.optim.class_weight_power, n_taught)
    return Supervised(config.optim, weights, margin)


def no_settings(config):
    return {}


def turned(config):
    return True


def with_probabilities(probs, classes):
    return {f"prob_{c}": f"{p:.9g}" for c, p in zip(classes, probs, strict=True)}


def class_row(answers, probs, classes, names):
    """The class, its name if that differs, and its probability."""
    k = answers.argmax()
    named = {"class_name": names[k]} if names != classes else {}
    return {**with_probabilities(probs, classes), "label": classes[k], **named,
            "confidence": f"{probs[k]:.9g}"}


# ---------------------------------------------------------------- any number of classes an image

# of the asymmetric loss: those of its paper, arXiv 2009.14119
ASYMMETRIC = {"negative_gamma": 4.0, "positive_gamma": 1.0, "shift": 0.05}


def without_class_parts(config, why):
    """(Config, sentences): without what needs one class an image; said where it was asked for."""
    said = []
    model = config.model
    if model.head != "linear":
        said.append(f"the head is linear: {model.head} {why}")
    if model.text == "on":
        said.append(f"no text member: its classifier {why}")
    optim = config.optim
    if optim.focal_gamma:
        said.append(f"no focal loss: it {why}")
    if optim.class_weight_power > 0:
        said.append(f"no class weights: optim.class_weight_power {why}")
    if config.augment.groups not in ("auto", "off"):
        said.append(f"no groups of classes: augment.groups {why}")
    rounds = tuple(replace(round_, unlabelled=False) for round_ in config.rounds
                   if round_.alpha or not round_.unlabelled)
    if any(round_.unlabelled for round_ in config.rounds):
        n_out = len(config.rounds) - len(rounds)
        also = f", and {n_out} round(s) of them alone left out" if n_out else ""
        said.append(f"no pseudo-labels{also}: they {why.replace('needs', 'need')}")
    config = replace(
        config, rounds=rounds, model=replace(model, head="linear", text="off"),
        augment=replace(config.augment, groups="off"),
        optim=replace(optim, focal_gamma=0.0, class_weight_power=0.0))
    return config, tuple(said)


def for_sets(config):
    return without_class_parts(config, "needs one class an image")


def set_objective(config, truth, targets, margin):
    """Binary cross-entropy of each class, or the asymmetric loss."""
    asymmetric = ASYMMETRIC if config.loss == "asymmetric" else {}
    return EachByItself(config.optim.label_smoothing, targets.probs.mean(0), **asymmetric)


def loss_settings(config):
    return {"loss": config.loss}


def set_row(answers, probs, classes, names):
    """The classes, separated by |."""
    named = "|".join(c for c, has in zip(names, answers, strict=True) if has)
    return {**with_probabilities(probs, classes), "labels": named}


# ---------------------------------------------------------------- numbers

def for_numbers(config):
    """Without what needs classes, and mixes of images, whose numbers need not mix."""
    config, said = without_class_parts(config, "needs classes")
    said = list(said)
    if config.optim.label_smoothing != BASE.optim.label_smoothing:
        said.append("no label smoothing: it needs classes")
    mixing = (config.augment.mix_share, config.augment.mixup_alpha, config.augment.cutmix_alpha)
    base = BASE.augment
    if mixing != (base.mix_share, base.mixup_alpha, base.cutmix_alpha):
        said.append("no mixup or cutmix: a mix of images need not have the mean of their numbers")
    if config.flips == "auto":
        said.append("images are not flipped or turned in training and in views, as that may change "
                    "their number: --set flips=natural allows it")
    return replace(config, augment=replace(config.augment, mix_share=0.0),
                   optim=replace(config.optim, label_smoothing=0.0)), tuple(said)


def number_objective(config, truth, targets, margin):
    """Smooth L1 on standardised targets."""
    return Numbers(targets.probs.mean(0), targets.probs.std(0))


def as_numbers(logits):
    return logits


def number_settings(config):
    return {"flips": config.flips}


def number_row(answers, probs, classes, names):
    return {c: f"{value:.9g}" for c, value in zip(classes, answers, strict=True)}


def turned_if_asked(config):
    return config.flips == "natural"


TASKS = {task.name: task for task in (
    Task("single", "shares", "classes", METRICS, ("macro_f1", "log_loss"), as_it_is,
         class_objective, softmax, no_settings, class_row, turned),
    Task("soft", "shares", "classes", SOFT_METRICS, ("macro_f1", "log_loss"), as_it_is,
         soft_objective, softmax, no_settings, class_row, turned),
    Task("multilabel", "chances", "sets", SET_METRICS, ("samples_f1", "auc"), for_sets,
         set_objective, torch.sigmoid, loss_settings, set_row, turned),
    Task("regression", "numbers", "numbers", NUMBER_METRICS, ("rmse", "rmse"), for_numbers,
         number_objective, as_numbers, number_settings, number_row, turned_if_asked,
         is_exact=True),
)}
SINGLE = TASKS["single"]
EVERY_METRIC = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.metrics))
