"""Where a backbone's pretrained weights come from: a file, the hub's cache, the hub, or none.

    source = fetch_weights(find_weights("convnext_atto", weights_dir="weights", pretrained="auto"))
"""
import errno
import functools
import math
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import huggingface_hub
import timm
import torch
from huggingface_hub import constants as hub_constants
from timm.layers import SelectAdaptivePool2d

from config import BACKBONES
from modeling.norms import batch_norms
from system.machine import FULL
from utils import UserError, digest_file, first_few, nearest

WEIGHT_SUFFIXES = (".safetensors", ".pth")
HUB_TIMEOUT_SECONDS = 3.0
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# faults of the disk where the hub's cache lies, and of this process
OF_THE_CACHE = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOMEM,
                errno.EMFILE, errno.ENFILE)


# ---------------------------------------------------------------- where weights come from

@dataclass(frozen=True)
class WeightsSource:
    """kind: weights_dir, hub_cache, hub (not downloaded yet), random. `path` is '' for hub and
    random.

    pad_type: '' (timm's default for the model) or 'same', see `network.with_padding`. global_pool:
    '' or 'max', see `pool_of`. tagged: timm's name with the tag of a file of other weights than
    the model's own, else ''.
    """

    model_name: str
    kind: str
    path: str = ""
    licence: str = ""
    pad_type: str = ""
    global_pool: str = ""
    tagged: str = ""

    @property
    def timm_name(self):
        """The name by which timm knows the weights' mean, standard deviation and licence."""
        return self.tagged or self.model_name

    @property
    def is_pretrained(self):
        return self.kind != "random"

    def describe(self):
        where = {
            "weights_dir": self.path,
            "hub_cache": f"the local hub cache ({self.path})",
            "hub": "the hub (to be downloaded)",
            "random": "RANDOM WEIGHTS",
        }
        return f"{self.model_name}: {where[self.kind]}"


def check_model_name(model_name):
    """UserError unless timm knows the model, and its tag if it has one."""
    if not timm.is_model(model_name):
        raise UserError(
            f"model.backbones must hold family names or timm model names, got {model_name!r}"
            f"{nearest(model_name, [*BACKBONES, *timm.list_models(exclude_filters='test_*')])}")
    try:
        timm.get_pretrained_cfg(model_name)
    except RuntimeError:      # a model that timm knows, with a tag that it does not
        tagged = timm.list_pretrained(model_name.split(".")[0] + ".*")
        plain = model_name.split(".")[0]
        known = f"{plain!r} without a tag or {first_few(tagged)}" if tagged else repr(plain)
        raise UserError(
            "model.backbones must hold timm model names without a tag or with one that timm knows, "
            f"got {model_name!r}: use {known}"
        ) from None


def find_weights(model_name, weights_dir, pretrained):
    """The first of: file in weights_dir, local hub cache, hub, random. `pretrained`: auto, off
    (random) or require (UserError instead of random)."""
    check_model_name(model_name)
    if pretrained == "off":
        return random_source(model_name)
    if path := file_in(weights_dir, model_name):
        tagged = tagged_name(model_name, path)
        return WeightsSource(model_name, "weights_dir", str(path), licence_of(tagged or model_name),
                             tagged=tagged)

    cfg = timm.get_pretrained_cfg(model_name)
    hub_id = cfg.hf_hub_id if cfg is not None else None
    if hub_id:
        licence = cfg.license or ""
        if path := cached_file(hub_id):
            return WeightsSource(model_name, "hub_cache", str(path), licence)
        if hub_reachable():
            return WeightsSource(model_name, "hub", "", licence)

    if pretrained == "require":
        origin = f"(from {hub_id}) " if hub_id else ""
        raise UserError(
            f"model.pretrained=require needs weights for {model_name}, and none were found in "
            f"--weights_dir {weights_dir or '(not given)'}, the hub cache or the hub: put them "
            f"{origin}{into_weights_dir(model_name, weights_dir)}")
    return random_source(model_name)


def refuse_missing(weights_dir):
    """UserError unless the folder exists."""
    if not Path(weights_dir).is_dir():
        raise UserError(
            f"--weights_dir must be an existing folder, got {weights_dir!r}: create it or leave "
            "the flag out")


def into_weights_dir(model_name, weights_dir=""):
    """Where `file_in` finds a model's weights, in words that follow "put them"."""
    where = weights_dir or "a folder and pass it as --weights_dir"
    return f"as {model_name}.safetensors or .pth into {where}"


def random_source(model_name):
    return WeightsSource(model_name, "random", global_pool=pool_of(model_name))


def licence_of(timm_name):
    """The licence that timm records for weights; '' if it does not say."""
    cfg = timm.get_pretrained_cfg(timm_name)
    return (cfg.license or "") if cfg is not None else ""


def tagged_name(model_name, path):
    """timm's name with the tag that a weights file bears, as files of the hub do; '' without one,
    or if that is what timm takes for `model_name` anyway."""
    if "." not in path.stem or not timm.models.is_model_pretrained(path.stem):
        return ""
    own = timm.get_pretrained_cfg(model_name)
    tag = path.stem.split(".", 1)[1]
    return "" if own is not None and own.tag == tag else path.stem


def file_in(weights_dir, model_name):
    """<model_name>*.safetensors or .pth, but no file of a model whose longer name begins alike. A
    model with a tag also takes a file without one, then one of another tag. None if there is none.
    """
    if not weights_dir:
        return None
    refuse_missing(weights_dir)
    plain = model_name.split(".")[0]
    longer_names = tuple(timm.list_models(f"{plain}?*"))
    found = [path for path in Path(weights_dir).iterdir()
             if path.name.startswith(plain) and not path.name.startswith(longer_names)
             and path.suffix in WEIGHT_SUFFIXES and path.is_file()]

    def order(path):
        is_own = path.name.startswith(model_name)
        has_other_tag = plain != model_name and not is_own and path.stem != plain
        return not is_own, has_other_tag, WEIGHT_SUFFIXES.index(path.suffix), path.name

    return min(found, key=order, default=None)


def networks_in(weights_dir):
    """Names of timm's networks that have a file in a folder, in order of name."""
    if not weights_dir:
        return []
    refuse_missing(weights_dir)
    stems = {path.name.split(".")[0] for path in Path(weights_dir).iterdir()
             if path.suffix in WEIGHT_SUFFIXES}
    # mobilenetv2_100_in1k_imagenetnorm: the longest name that the file's begins with
    models = timm.list_models()
    names = {max((name for name in models if stem.startswith(name)), key=len, default="")
             for stem in stems}
    return sorted(name for name in names if name and file_in(weights_dir, name))


def nearest_in_size(names, model_name):
    """`names` in the order of how near they come to a network in number of parameters."""
    def log_size(name):
        return math.log(sum(p.numel() for p in without_weights(name).parameters()))

    size = log_size(model_name)
    return sorted(names, key=lambda name: abs(log_size(name) - size))


def cached_file(hub_id):
    """The weights of a hub repository in the local cache; None if they are not there. Does not ask
    the network."""
    for name in HUB_FILES:
        path = huggingface_hub.try_to_load_from_cache(hub_id, name)
        if isinstance(path, str):
            return path
    return None


@functools.cache
def hub_reachable():
    """Whether the hub, or the proxy towards it, answers. Asked once per process; never if
    HF_HUB_OFFLINE is set."""
    hub = urlsplit(hub_constants.ENDPOINT)
    if hub_constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        socket.create_connection(address_towards(hub), timeout=HUB_TIMEOUT_SECONDS).close()
    except (OSError, ValueError):      # whatever keeps the hub away: random weights are warned of
        return False
    return True


def address_towards(url):
    """(host, port) that a request for a split URL connects to: its own, or those of the
    environment's proxy."""
    proxies = {} if proxy_bypass(url.hostname or "") else getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy:
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    default_port = 443 if url.scheme == "https" else 80
    return url.hostname, url.port or default_port


def fetch_weights(source):
    """A source whose file is on this machine. Downloads a `hub` source, returns others as they are.
    """
    if source.kind != "hub":
        return source
    hub_id = timm.get_pretrained_cfg(source.model_name).hf_hub_id
    for name in HUB_FILES:
        try:
            path = huggingface_hub.hf_hub_download(hub_id, name)
            return WeightsSource(source.model_name, "hub_cache", path, source.licence)
        except Exception as error:
            # a download that breaks off raises the errors of the client's own HTTP library; but a
            # full disk is not the hub's fault
            if getattr(error, "errno", None) in OF_THE_CACHE:
                raise
    raise UserError(
        f"the weights of {source.model_name} could not be downloaded from {hub_id}: put them "
        f"{into_weights_dir(source.model_name)}, or go on with random weights by "
        "--set model.pretrained=off")


def without_weights(model_name, **kwargs):
    """timm's model without classifier, to look at. Takes no memory and leaves torch's random state
    as it is."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return timm.create_model(model_name, num_classes=0, **kwargs)


@functools.cache
def pool_of(model_name):
    """How a network with random weights pools its last feature maps: 'max' if it has no batch
    norms, '' for its own way or if it has no such maps.

    Under layer norms, random features have nearly the same mean over every image, and a few epochs
    do not tell these means apart. They do tell apart maxima that the head batch-norms
    (benchmarks/RESULTS.md).
    """
    network = without_weights(model_name)
    has_maps = any(isinstance(m, SelectAdaptivePool2d) for m in network.modules())
    return "max" if has_maps and not batch_norms(network) else ""


def weights_digest(source):
    """What stands for the weights in a fit's key: the file's sha256, or 'random'."""
    return digest_file(source.path) if source.path else source.kind
