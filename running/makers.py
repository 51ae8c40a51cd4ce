"""Which versions made what a run uses. No key holds them: a run goes on after an update.

    warn_of_other_versions(folder, stages_used(prepared, folders_of_fits), log)
"""
from system.stages import makers_of
from system.versions import changes, here
from utils import canonical_json, counted

UNKNOWN_MAKER = {"python": None, "packages": {}}


def stages_used(prepared, folders_of_fits):
    """The folders of the stages that a run uses: those that every fit reads, and those of fits."""
    first = [prepared.folder / f"{name}-{key}" for name, key in prepared.keys._asdict().items()]
    return [*first, *folders_of_fits]


def other_versions(folder, stages):
    """[("3 stages ('a', 'b', 'c')", "torch 2.11.0, now 2.15.0")] of the stage folders of a run that
    other versions made."""
    found = {}
    for stage in stages:
        for maker in makers_of(stage):
            changed = changes(maker, here())
            words = "; ".join(f"{name} {before}, now {now}" for name, before, now in changed)
            if words:
                found.setdefault(words, {})[stage.relative_to(folder).as_posix()] = True
    return [(counted(sorted(names), "stage"), words) for words, names in found.items()]


def warn_of_other_versions(folder, stages, log):
    """Warn where this run mixes its results with those of other versions."""
    for named, words in other_versions(folder, stages):
        log.warn(f"other versions made {named} of this run ({words}): results of both mix; to make "
                 "all anew, choose another --experiment_name")


def credits_of(folder, stages):
    """[what `here` said, and under "stages" what was made there] of the stage folders of a run.

    A stage of several makers is named by each; one of an earlier version of this program by a
    maker without packages.
    """
    made = {}
    for stage in stages:
        for maker in makers_of(stage) or [UNKNOWN_MAKER]:
            names = made.setdefault(canonical_json(maker), maker | {"stages": []})["stages"]
            names.append(stage.relative_to(folder).as_posix())
    return list(made.values())
