"""The member that reads: the words in all images, and a classifier on them in each fold.

    prepared = with_text(setup, prepared, executor.cores, log)     # on or off from there on
    member = Text(prepared, compute)
"""
import time
from dataclasses import dataclass, replace

import numpy as np

from config import AUTO
from ensemble.scores import by_source, folds_of, out_of_fold
from modeling.texts import TextHead, fit_text_heads
from modeling.train import TEXT, write_history
from modeling.words import what_is_missing
from reporting.texts import Judged, texts_content
from running.members import Member
from running.rounds import text_specs
from running.words import (
    FEWEST_WORDS,
    TEST,
    TESTLIKE,
    TRAIN,
    load_lines,
    load_sample,
    load_texts,
    read_words,
    sample_stage,
    sampled,
    splits_to_read,
    words_stage,
)
from system.log import Timer, duration
from system.machine import usable_cores
from system.stages import Stage
from utils import UserError, read_json, write_json

LEAST_SHARE = 0.15      # of the sampled images that must hold words, for auto
BUDGET_SHARE = 0.2      # of the time that is left, which auto may take
SPLITS = {"valid": TRAIN, "valid_testlike": TESTLIKE, "test": TEST}
VIEW = "identity"


def with_text(setup, prepared, cores, log):
    """The Prepared with model.text on or off. Says why. cores: of the process that will read."""
    model = prepared.config.model
    if model.text == "off":
        return prepared
    missing = what_is_missing(model.text_language)
    if missing:
        log.warn(f"no text member: {missing}")
    is_on = not missing and (model.text == "on" or pays(setup, prepared, cores, log))
    return as_decided(prepared, is_on)


def refuse_without_readers(model):
    """UserError if words were asked for that cannot be read here."""
    if model.text == "on" and (missing := what_is_missing(model.text_language)):
        raise UserError(f"model.text=on cannot be had here: {missing}, or leave it out")


def as_decided(prepared, is_on):
    """The Prepared with model.text on or off."""
    config = prepared.config
    model = replace(config.model, text="on" if is_on else "off")
    return replace(prepared, config=replace(config, model=model))


def pays(setup, prepared, cores, log):
    """Whether a sample holds words enough, and the plan has the time to read all. Says so."""
    sample = sampled(prepared, usable_cores(), log)
    words = (f"{sample.share:.0%} of {sample.images} training images hold {FEWEST_WORDS} sure "
             f"words or more, {sample.seconds:.1f} s an image")
    if sample.share < LEAST_SHARE:
        log.say(f"no text member: {words}, and it begins at {LEAST_SHARE:.0%} (model.text=on has "
                "it anyway)")
        return False
    seconds = seconds_to_read(prepared, sample, cores)
    allowed = BUDGET_SHARE * (setup.deadline - time.perf_counter())
    if seconds > allowed:
        log.warn(f"no text member: {words}, and reading all takes about {duration(seconds)}, more "
                 f"than {BUDGET_SHARE:.0%} of --time_budget: model.text=on has it anyway")
        return False
    log.say(f"a text member: {words}, about {duration(seconds)} for all")
    return True


def seconds_to_read(prepared, sample, cores):
    """About how long it takes to read what is not read yet."""
    n_images = {TEST: len(prepared.audit.test)}
    left = sum(n_images.get(split, len(prepared.audit.train)) for split in splits_to_read(prepared)
               if not words_stage(prepared, split).is_done)
    return left * sample.seconds / cores


def rehearsed_text(prepared):
    """(The Prepared with model.text on or off, as far as that is known, a sentence if it is not).
    """
    model = prepared.config.model
    if model.text == "off":
        return as_decided(prepared, is_on=False), ""
    if missing := what_is_missing(model.text_language):
        return as_decided(prepared, is_on=False), f"no text member: {missing}"
    stage = sample_stage(prepared)
    if model.text == AUTO and not stage.is_done:
        return as_decided(prepared, is_on=False), (
            "whether a text member is worth it is found when the run starts, by "
            "the words in some training images")
    is_on = model.text == "on" or load_sample(stage.folder).share >= LEAST_SHARE
    return as_decided(prepared, is_on), ""


@dataclass(frozen=True, eq=False)
class Text(Member):
    """The words in the images."""

    name = "text"

    @property
    def specs(self):
        return text_specs(self.prepared.config)

    @property
    def seen(self):
        return [words_stage(self.prepared, split) for split in splits_to_read(self.prepared)]

    @property
    def heads(self):
        prepared = self.prepared
        inputs = [prepared.keys.folds, *(stage.key for stage in self.seen)]
        return Stage.of(prepared.folder / "words", "heads", version=1, inputs=inputs,
                        settings={"class_weight_power": prepared.config.optim.class_weight_power})

    def cost(self, cores):
        stage = sample_stage(self.prepared)
        if not stage.is_done:
            return ""
        seconds = seconds_to_read(self.prepared, load_sample(stage.folder), cores)
        return f", reading in about {duration(seconds)}"

    def texts(self, split):
        """{sample id: text} of a split of predictions."""
        return load_texts(words_stage(self.prepared, SPLITS[split]).folder)

    def read(self, site):
        for split in splits_to_read(self.prepared):
            read_words(self.prepared, split, site.cores, site.log)

    def train(self, site, folder):
        """Leave the classifiers of all folds."""
        prepared = self.prepared
        train = prepared.audit.train
        splits = [split for split, read in SPLITS.items()
                  if read in splits_to_read(prepared) and split != "test"]
        texts = [[said[sample] for sample in train.sample_id.tolist()]
                 for said in map(self.texts, splits)]
        with Timer() as timer:
            heads = fit_text_heads(texts, train.label, prepared.folds.fold, self.weigh, site.cores)
        self.say_fitted(site.log, [head.linear for head in heads.values()], timer.seconds)
        for fold, head in heads.items():
            head.save(folder / f"fold_{fold}.npz")
        write_json(folder / "cost.json", {"seconds": timer.seconds})

    def head(self, fold):
        return TextHead.load(self.heads.folder / f"fold_{fold}.npz")

    def keep(self, spec, folder):
        """Leave the classifier and the history of a fold."""
        head = self.head(spec.fold)
        head.save(folder / TEXT)
        costs = [read_json(stage.folder / "cost.json") for stage in self.seen]
        reading = sum(cost["seconds"] for cost in costs)
        fitting = read_json(self.heads.folder / "cost.json")["seconds"]
        n_images = sum(cost["images"] for cost in costs)
        write_history([{
            "epoch": 1, "loss": head.linear.loss, "skipped_steps": 0,
            "seconds": (reading + fitting) / self.prepared.folds.n_folds,
            "images_per_second": n_images / max(reading, 1e-3),
            "micro_batch_size": self.prepared.config.optim.micro_batch_size,
            "grad_checkpointing": 0, "out_of_memory": 0, "peak_memory_bytes": 0,
            "strength": head.linear.strength}], folder)

    def logits(self, spec, split, ids):
        """{view: (n, C)} of samples."""
        said = self.texts(split)
        logits = self.head(spec.fold).logits([said[sample] for sample in ids])
        return {VIEW: np.asarray(logits, np.float32)}


# ---------------------------------------------------------------- on the page

def words_shown(prepared, fits, blend, log):
    """What the page shows of the words, None without a text member."""
    name = next((spec.name for spec in fits if spec.text), None)
    if name is None:
        return None
    try:
        heads = [TextHead.load(done.result.weights) for spec, done in fits.items() if spec.text]
        texts = load_lines(words_stage(prepared, TRAIN).folder)
        said = {sample: " / ".join(line.text for line in lines) for sample, lines in texts.items()}
        return texts_content(prepared.audit, heads, said, judged(fits, blend, name))
    except Exception as error:      # whatever is wrong with the words, the page is worth more
        log.say(f"no words in report.html ({type(error).__name__}: {error})")
        return None


def judged(fits, blend, name):
    """The Judged rows of the folds that all sources have; None if the words decide nothing."""
    weights = {other: weight for other, weight in blend.weights.items() if weight > 0}
    left = sum(weights.values()) - weights.get(name, 0)
    if name not in weights or left <= 0:
        return None
    sources = {other: members for other, members in by_source(fits).items() if other in weights}
    common = set.intersection(*folds_of(sources))
    rows = {other: out_of_fold(members, lambda fitted: fitted.testlike, common)
            for other, members in sources.items()}
    whole = blend.apply(rows)
    ids = whole.sample_id.tolist()
    without = {other: weight / left if other != name else 0.0
               for other, weight in blend.weights.items()}
    alone = {other: float(other == name) for other in blend.weights}
    return Judged(ids, whole.probs, *(replace(blend, weights=some).apply(rows).align(ids)
                                      for some in (without, alone)))
