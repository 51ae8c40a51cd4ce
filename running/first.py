"""Which members begin a run, before any training, and what they leave."""
from running.frozen import Frozen, in_time
from running.members import compute_of
from running.text import Text
from running.words import sample_stage


def members_of(setup, prepared):
    """[Member] of model.frozen and model.text, where no setting is auto any more."""
    compute = compute_of(setup)
    model = prepared.config.model
    members = [Frozen(prepared, compute, name) for name in model.frozen]
    return [*members, Text(prepared, compute)] if model.text == "on" else members


def affordable(setup, log, members):
    """Those of [Member] that there is time for. Whether words are read was decided before."""
    frozen = [member for member in members if isinstance(member, Frozen)]
    kept = in_time(setup, frozen, log)
    return [member for member in members if member in kept or member not in frozen]


def frozen_stages(setup, prepared):
    """{FitSpec: FitStages} of all frozen members, which teach in later rounds."""
    return {spec: member.stages(spec) for member in members_of(setup, prepared)
            if isinstance(member, Frozen) for spec in member.specs}


def stages_of_members(setup, prepared):
    """The folders of what the run's members read of images and learnt of all folds."""
    members = members_of(setup, prepared)
    stages = [stage for member in members for stage in (*member.seen, member.heads)]
    return [stage.folder for stage in (*stages, sample_stage(prepared)) if stage.is_done]
