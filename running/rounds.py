"""Which fits a round has, and which fits of the round before teach them. Needs only the Config.

    for spec in planned_specs(config): print(spec.title, teachers_of(config, spec))
"""
from dataclasses import replace

from config import FitSpec


def allowed_rounds(config, n_test, log):
    """The rounds that this contest allows.

    Without test images, or where the contest forbids training on them, a round keeps only its
    distillation, and goes if it has none.
    """
    rounds = config.rounds
    usage = config.data.test_usage
    may_learn = usage == "train" and n_test
    if may_learn or not any(round_.unlabelled for round_ in rounds):
        return rounds
    kept = tuple(replace(round_, unlabelled=False) for round_ in rounds
                 if round_.alpha or not round_.unlabelled)
    reason = f"data.test_usage={usage}" if n_test else "there are no test images"
    log.warn(f"no pseudo-labels are learnt from, and {len(rounds) - len(kept)} of "
             f"{len(rounds) - 1} later round(s) that teach nothing else were switched off: "
             f"{reason}")
    return kept


def round_specs(config, round_number):
    """The FitSpecs of a round, fold by fold, so that all backbones are there early; refits last.

    On several devices the longest run first, see `plan.longest_first`.
    """
    folds = list(range(config.data.run_folds))
    if config.ensemble.refit:
        folds.append(None)
    return [FitSpec(backbone, config.seed, round_number, fold)
            for fold in folds for backbone in config.model.backbones]


def frozen_specs(config):
    """The FitSpecs of the frozen members: all folds of each, whatever data.run_folds is."""
    return [FitSpec(backbone, config.seed, 0, fold, frozen=True)
            for backbone in config.model.frozen for fold in range(config.data.n_folds)]


def text_specs(config):
    """The FitSpecs of the member that reads words: all folds, if there is one."""
    folds = range(config.data.n_folds) if config.model.text == "on" else ()
    return [FitSpec("text", config.seed, 0, fold, text=True) for fold in folds]


def planned_specs(config):
    """The FitSpecs of all rounds, in the order in which one device trains them.

    Without the members that are not trained, which come before all rounds.
    """
    return [spec for number in range(len(config.rounds)) for spec in round_specs(config, number)]


def round_epochs(config, round_number):
    """Epochs of each fit of a round."""
    return config.rounds[round_number].epochs or config.optim.epochs


def teachers_of(config, spec, available=None):
    """The fits that teach `spec`: in its fold, those of the round before, then frozen members.

    All folds teach a refit, as no score is taken of it. available: leave out all other fits.
    """
    if not config.rounds[spec.round].is_taught:
        return []
    folds = [spec.fold] if spec.fold is not None else [*range(config.data.run_folds), None]
    teachers = [replace(spec, backbone=backbone, round=spec.round - 1, fold=fold)
                for fold in folds for backbone in config.model.backbones]
    if config.rounds[spec.round].unlabelled:
        teachers += [frozen for frozen in frozen_specs(config) if frozen.fold in folds]
    return [teacher for teacher in teachers if available is None or teacher in available]


def calibrators_of(config, spec, available=None):
    """[[FitSpec]]: the teachers of each other fold.

    Their valid images tell which teachers are able, and how sure they may be.
    """
    others = [fold for fold in range(config.data.run_folds) if fold != spec.fold]
    folds = [teachers_of(config, replace(spec, fold=fold), available) for fold in others]
    return [teachers for teachers in folds if teachers]


def start_of(config, spec):
    """The fit whose weights `spec` begins with; None in a round that begins anew."""
    return replace(spec, round=spec.round - 1) if config.rounds[spec.round].warm_start else None


def read_by(config, spec, fitted):
    """{FitSpec: Fitted}: the part of `fitted` that the fit of `spec` reads."""
    heard = sum(calibrators_of(config, spec, fitted), teachers_of(config, spec, fitted))
    start = start_of(config, spec)
    return {other: done for other, done in fitted.items() if other in heard or other == start}
