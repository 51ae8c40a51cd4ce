"""Members that are not trained: something read of all images once, and a classifier in each fold.

    fits = member_fits(members, allowed, executor, log)      # {FitSpec: Fitted}, all folds of each

Each fold has the two stages of any fit: what predicts, and what it predicts.
"""
from dataclasses import dataclass
from functools import partial

import numpy as np

from config import key_spec
from modeling.compute import Compute, untimed
from modeling.frozen import LAYERS
from modeling.inference import Predictions, by_units, save_views
from modeling.losses import class_weights
from running.executor import Job
from running.predicting import source_of, splits_of
from running.run import FitStages, Prepared, finished_fit
from system.stages import Stage, make


def compute_of(setup):
    """How members that are not trained compute."""
    return untimed(setup.config.runtime, setup.machine["precision"])


def member_fits(members, allowed, executor, log):
    """{FitSpec: Fitted} of all [Member], those finished before too.

    allowed([Member] to do) -> those of them that there is time for.
    """
    def finished(member):
        optim = member.prepared.config.optim
        each = {spec: finished_fit(spec, member.stages(spec), member.compute, optim, log)
                for spec in member.specs}
        return {spec: done for spec, done in each.items() if done}

    before = [finished(member) for member in members]
    to_do = allowed([member for member, done in zip(members, before, strict=True)
                     if len(done) < len(member.specs)])
    jobs = [Job(member.name, member, member.name) for member in to_do]
    for _ in executor.run(jobs, log):
        pass
    fits = [finished(member) if member in to_do else done
            for member, done in zip(members, before, strict=True)]
    return {spec: done for each in fits for spec, done in each.items()}


def described(members, cores):
    """The members in a plan, line by line. cores: of the process that makes them."""
    for member in members:
        is_done = all(member.stages(spec).state == "done" for spec in member.specs)
        state = "done" if is_done else f"to do{member.cost(cores)}"
        yield (f"{member.specs[0].name}  {len(member.specs)} folds without training, before all "
               f"fits: {state}")


@dataclass(frozen=True, eq=False)
class Member:
    """Makes all stages of one member. Call it with a Site."""

    prepared: Prepared
    compute: Compute

    version = 1      # of what a fold keeps
    # of each kind: name, specs, seen (the Stages of what is read of images), heads (the Stage of
    # the classifiers of all folds), read(site), train(site, folder), keep(spec, folder),
    # logits(spec, split, ids)

    def __call__(self, site):
        self.read(site)
        make(self.heads, partial(self.train, site), site.log)
        for spec in self.specs:
            training, prediction = self.stages(spec)
            make(training, partial(self.keep, spec), site.log, prediction)
            make(prediction, partial(self.predict, spec), site.log)

    def stages(self, spec):
        """The FitStages of a fold."""
        parent = self.prepared.folder / f"fold_{spec.fold}"
        training = Stage.of(parent, spec.name, version=self.version,
                            settings=key_spec(spec), inputs=[self.heads.key])
        prediction = Stage.of(parent, f"predict-{spec.name}", version=1, settings={},
                              inputs=[training.key])
        return FitStages(training, prediction)

    def cost(self, cores):
        """What a plan says of its cost on so many cores, '' if nothing."""
        return ""

    def say_fitted(self, log, heads, seconds):
        """Say how the classifiers of all folds, [Linear], came out."""
        log.say(f"{self.name}: classifiers of {len(heads)} folds, {seconds:.0f} s; strengths "
                f"{', '.join(f'{head.strength:g}' for head in heads)}")

    def predict(self, spec, folder):
        """Leave valid.npz, valid_testlike.npz, test.npz as any fit."""
        prepared = self.prepared
        rows = prepared.folds.valid_rows(spec.fold)
        decode = LAYERS[prepared.task.values].decode
        for split, (sample_id, _, _) in splits_of(prepared, rows).items():
            ids = np.asarray(sample_id)
            views = {view: Predictions(ids, decode(logits), tuple(prepared.classes), split,
                                       (source_of(spec),), prepared.task.values)
                     for view, logits in self.logits(spec, split, ids.tolist()).items()}
            save_views(by_units(views, prepared.unit_of(split)), folder / f"{split}.npz")

    def weigh(self, labels):
        """The weight (C,) of an image of each class in the loss, by labels (n,)."""
        counts = np.bincount(labels, minlength=len(self.prepared.classes))
        return class_weights(counts, self.prepared.config.optim.class_weight_power).numpy()
