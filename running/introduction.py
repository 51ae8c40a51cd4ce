"""What a run says and keeps before its first stage: what was understood, and where it runs."""
import math
import sys
from pathlib import Path

from modeling.compute import unseen_gpu
from modeling.licences import sentence
from running.rounds import planned_specs
from system.command import TYPED
from system.machine import usable_cores
from system.versions import here
from utils import digest_bytes, plain, read_json, write_json

ENVIRONMENT = "environment.json"


def environment():
    """Versions and hardware, for environment.json."""
    return {**here(), "cores": usable_cores()}


def begin(setup, data_path, log):
    """Keep what was asked and where it runs: config.json, environment.json, the first event."""
    if before := run_to_replace(setup.folder, setup.config, data_path, setup.ends_by < math.inf):
        log.warn(f"{setup.folder} holds a run {before}, whose submission and report are replaced: "
                 "use another --experiment_name to keep both")
    write_json(setup.folder / TYPED, {"command": setup.command})
    write_json(setup.folder / "config.json", setup.short(setup.config))
    data = {"data_path": setup.short(str(Path(data_path).resolve())),
            "data_path_sha256": digest_path(data_path)}
    write_json(setup.folder / ENVIRONMENT, environment() | data)
    log.record("start", mode=setup.config.mode, argv=sys.argv[1:], command=setup.command,
               data_path=str(data_path))


def run_to_replace(folder, config, data_path, chooses_epochs=False):
    """How the run in the folder differs: its contest folder, or the settings of a finished run.

    '' if it does not, or if there is none. chooses_epochs: the run chose them and keeps that.
    """
    before = kept(folder / ENVIRONMENT)
    settings = kept(folder / "config.json")
    if before and not is_of_folder(before, data_path):
        return f"on {before.get('data_path')}"
    if settings and chooses_epochs:
        settings["optim"]["epochs"] = config.optim.epochs
    if settings and kept(folder / "final_results.json"):
        changed = changed_settings(settings, plain(config))
        if changed:
            return f"with other settings ({', '.join(changed)})"
    return ""


def digest_path(data_path):
    """What tells one contest folder's path from another's, where neither is kept."""
    return digest_bytes(str(Path(data_path).resolve()).encode(errors="surrogateescape"))


def is_of_folder(environment, data_path):
    """Whether environment.json's content is of a run on this contest folder."""
    if "data_path_sha256" in environment:
        return environment["data_path_sha256"] == digest_path(data_path)
    return environment.get("data_path") == str(Path(data_path).resolve())      # of older versions


def kept(path):
    """What a JSON file of a run holds; {} if it is missing or someone changed it."""
    try:
        value = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def changed_settings(before, now):
    """Names of the settings, or of their section, that change what a run finds."""
    def deciding(settings):      # of the runtime only the time budget
        return settings | {"runtime": settings.get("runtime", {}).get("time_budget_hours")}

    def differs(now, before):      # a setting that an older version lacks was at its default
        if isinstance(now, dict) and isinstance(before, dict):
            return any(differs(now[key], before[key]) for key in now.keys() & before.keys())
        return now != before

    before = deciding(before)
    now = deciding(now)
    changed = [key for key in now if differs(now[key], before.get(key, now[key]))]
    return ["--time_budget" if key == "runtime" else key for key in changed]


def introduce(setup, log):
    """Say what was understood, with a proof, what will be done and where weights come from."""
    config = setup.config
    for line in setup.contest.describe(setup.metric, config.metric != "auto"):
        log.say(line)
    log.say(setup.contest.proof())
    if config.model.frozen:
        log.say(f"first, without training: classifiers in {config.data.n_folds} folds on the "
                f"features of {', '.join(config.model.frozen)}")
    if setup.too_long:
        named = ",".join([*config.model.frozen, *setup.too_long])
        log.say(f"  {', '.join(setup.too_long)} would take longer than the training does (--set "
                f"model.frozen={named} takes it all the same)")
    log.say(f"{config.mode}: {words_of_fits(config)}, on {setup.machine['device']}")
    introduce_weights(setup, log)
    if setup.config.runtime.device == "auto" and (text := unseen_gpu()):
        log.warn(text)
    for text in setup.adapted:
        log.warn(text)
    for problem in setup.contest.problems:
        log.warn(problem.text)


def words_of_fits(config):
    """How many fits a run has, and of what size."""
    specs = planned_specs(config)
    if not specs:
        return f"no network is trained; images are read at {config.data.image_size_px} px"
    refit = " and a refit" if config.ensemble.refit else ""
    fits = "1 fit" if len(specs) == 1 else f"{len(specs)} fits"
    return (f"{len(config.model.backbones)} backbone(s) x {config.data.run_folds} fold(s){refit} x "
            f"{len(config.rounds)} round(s) = {fits} of {config.optim.epochs} epochs at "
            f"{config.data.image_size_px} px, batch {config.optim.batch_size}")


def introduce_weights(setup, log):
    """Say where weights come from; warn of random ones and of those not for commercial use."""
    runtime = setup.config.runtime
    if setup.instead_of:
        log.warn(f"no pretrained weights were found for {', '.join(setup.instead_of)}: "
                 f"{', '.join(setup.config.model.backbones)} of {runtime.weights_dir} is trained "
                 "instead (--set model.backbones=NAME takes another, model.pretrained=off random "
                 "weights)")
    for source in setup.weights.values():
        log.say(f"weights: {source.describe()}")

    random = [source.model_name for source in setup.weights.values() if not source.is_pretrained]
    if random and setup.config.model.pretrained != "off":
        files = ", ".join(f"{name}.safetensors or .pth" for name in random)
        where = "a folder and pass it as --weights_dir"
        if runtime.weights_dir:
            where = f"{runtime.weights_dir}, where none was found"
        log.warn(f"{', '.join(random)} start(s) from RANDOM WEIGHTS and will score far lower: put "
                 f"{files} into {where} (--fetch_weights FOLDER downloads them where there is a "
                 "network)")

    for source in setup.weights.values():
        text = sentence(source.timm_name, source.licence) if source.is_pretrained else ""
        if text:
            log.warn(text)
