"""Which networks a run trains, and which it reads as they are, by the pretrained weights at hand.

    networks = with_networks(config, n_train, n_test)
    networks.config.model.frozen        # without auto
"""
import functools
from dataclasses import dataclass, replace
from functools import partial

from config import AUTO, FAMILIES, Config, has_own_backbones, member
from modeling.licences import sentence
from modeling.network import build_network
from modeling.weights import (
    WeightsSource,
    find_weights,
    into_weights_dir,
    nearest_in_size,
    networks_in,
)
from running.frozen import n_views, operations_of
from running.rounds import planned_specs, round_epochs
from system.machine import fault_of
from utils import UserError, first_line

# what auto reads without training costs at most the operations of all training times this; without
# gradients and in larger batches they take less than half of its time
FROZEN_SHARE = 2.0
BACKWARD = 2            # passes as long as a forward one
VERSIONS = 3            # of a training image: as it is, made like the test set, augmented
MOST_IMAGES = 50_000    # beyond these auto reads nothing, as features are held in memory


@dataclass(frozen=True)
class Networks:
    """config: without auto in model.frozen. weights: {network: where its weights lie}.

    instead_of: the mode's networks, without weights, that those at hand are trained for. too_long:
    networks at hand that auto leaves out for their time. left_out: sentences on others.
    """

    config: Config
    weights: dict[str, WeightsSource]
    instead_of: tuple[str, ...] = ()
    too_long: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def with_networks(config, n_train, n_test):
    """The Networks of a resolved Config, for so many labelled and test images.

    Where none of a mode's own networks has pretrained weights, those that lie in the weights folder
    are trained. UserError unless all named frozen members have pretrained weights.
    """
    find = functools.cache(partial(find_weights, weights_dir=config.runtime.weights_dir,
                                   pretrained=config.model.pretrained))
    config, instead_of = with_weights_at_hand(config, find)
    model = config.model
    asked = [name for name in model.frozen if name != AUTO]
    weights = {name: find(name) for name in [*model.backbones, *asked]}
    random = [name for name in asked if not weights[name].is_pretrained]
    if random:
        where = into_weights_dir(random[0], config.runtime.weights_dir)
        raise UserError(
            f"model.frozen must name networks with pretrained weights, and none were found for "
            f"{', '.join(random)} (model.pretrained={model.pretrained}): put them {where}, or "
            "leave the network out")

    networks = Networks(config, weights, instead_of)
    if AUTO not in model.frozen:
        return networks
    return with_frozen_at_hand(networks, asked, find, n_train, n_test)


def families(config):
    """The networks of all families at a Config's scale."""
    return [member(family, config.scale) for family in FAMILIES]


def with_weights_at_hand(config, find):
    """(the Config, the networks that it trains others for), as `with_networks` says.

    Those nearest in size to the mode's first network are taken, as many as it has.
    """
    model = config.model
    if (has_own_backbones(config) or model.pretrained != "auto"
            or any(find(name).is_pretrained for name in model.backbones)):
        return config, ()
    lying = nearest_in_size(networks_in(config.runtime.weights_dir), model.backbones[0])
    if not lying:
        return config, ()
    taken = tuple(lying[:len(model.backbones)])
    return replace(config, model=replace(model, backbones=taken)), model.backbones


# ---------------------------------------------------------------- auto in model.frozen

def with_frozen_at_hand(networks, asked, find, n_train, n_test):
    """The Networks with auto replaced by networks with pretrained weights, then those `asked` for.

    First comes the first one that is trained, then others that are and those that lie in the
    weights folder, the fastest first, as long as FROZEN_SHARE allows. If nothing is trained, the
    first family with weights or else the first network in the folder is all.
    """
    config = networks.config
    trained = config.model.backbones
    lying = []
    if config.model.pretrained != "off":
        lying = networks_in(config.runtime.weights_dir)
    if not trained:
        everything = [*families(config), *lying]
        taken = [name for name in everything if find(name).is_pretrained][:1]
        if not taken and not asked and config.model.text != "on":
            raise UserError(
                "with an empty model.backbones a run needs pretrained weights, and none were found "
                f"for {', '.join(families(config))}: put one "
                f"{into_weights_dir('NAME', config.runtime.weights_dir)}"
                ", or name a network in model.frozen")
    elif n_train + n_test > MOST_IMAGES:
        taken = []
        if any(find(name).is_pretrained for name in [*trained, *lying]):
            networks = replace(networks, left_out=(
                f"no network is read without training, as the contest has more than {MOST_IMAGES} "
                "images (--set model.frozen=NAME reads one all the same)",))
    else:
        taken = [name for name in trained if find(name).is_pretrained][:1]
        # a file may serve a name with a tag and one without
        others = {find(name).path or name: find(name) for name in [*lying, *trained]}
        for name in [*taken, *asked]:
            others.pop(find(name).path or name, None)
        others = [source for source in others.values() if source.is_pretrained]
        networks = with_others(networks, taken, others, n_train, n_test)
        taken = networks.config.model.frozen
    names = tuple(dict.fromkeys([*taken, *asked]))
    return replace(networks, config=replace(config, model=replace(config.model, frozen=names)),
                   weights=networks.weights | {name: find(name) for name in names})


def with_others(networks, taken, others, n_train, n_test):
    """The Networks whose frozen members are the names `taken`, and as many `others` as time allows.

    others: [WeightsSource]. A network is loaded only once it is known to take little time.
    """
    config = networks.config
    names = list(taken)
    too_long = []
    problems = {source.model_name: problem_of(config, source) for source in others}
    able = [source for source in others if not problems[source.model_name]]
    if able and not problem_in(lambda: training_operations(config, n_train)):
        budget = FROZEN_SHARE * training_operations(config, n_train)
        spent = sum(reading_operations(config, name, n_train, n_test) for name in taken)
        for source in sorted(able, key=lambda source: operations_of(config, source.model_name)):
            name = source.model_name
            spent += reading_operations(config, name, n_train, n_test)
            if spent > budget:
                too_long.append(name)
            elif not (problem := problem_of_file(config, source)):
                names.append(name)
            else:
                problems[name] = problem
    left_out = [f"{name} lies in {config.runtime.weights_dir} and is left out of the networks that "
                f"are read without training: {problem}" for name, problem in problems.items()
                if problem]
    return replace(networks, config=replace(config, model=replace(config.model,
                                                                  frozen=tuple(names))),
                   too_long=tuple(too_long), left_out=tuple(left_out))


def problem_of(config, source):
    """Why a network with pretrained weights that nobody named is not read; '' if it may be."""
    name = source.model_name
    is_trained = name in config.model.backbones
    licence = "" if is_trained else sentence(source.timm_name, source.licence)
    return licence or problem_in(lambda: operations_of(config, name))


def problem_of_file(config, source):
    """Why the weights of a network that nobody named are not read; '' if they can be."""
    if source.model_name in config.model.backbones:
        return ""
    return problem_in(lambda: build_network(source.model_name, n_classes=2, weights=source,
                                            model=config.model,
                                            image_size_px=config.data.image_size_px))


def problem_in(work):
    """Why work() fails, '' if it does not. A fault of the machine is raised."""
    try:
        work()
        return ""
    except Exception as error:
        # some networks take images of one size alone, and a file may hold anything
        if fault_of(error):
            raise
        return first_line(error)[:200]


def reading_operations(config, name, n_train, n_test):
    """Operations that all images of a contest take a network that is not trained, at most."""
    return operations_of(config, name) * reading_passes(config, n_train, n_test)


def reading_passes(config, n_train, n_test):
    """Forward passes of an image in which a network that is not trained reads a contest, at most.
    """
    n = n_views(config)
    return (VERSIONS + n - 1) * n_train + n * n_test


def training_operations(config, n_train):
    """Operations of all fits of a run, without unlabelled images."""
    total = 0
    for spec in planned_specs(config):
        share = 1.0 if spec.fold is None else 1 - 1 / config.data.n_folds
        n_seen = share * n_train * round_epochs(config, spec.round)
        total += (1 + BACKWARD) * n_seen * operations_of(config, spec.backbone)
    return total
