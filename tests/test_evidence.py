"""What a network looked at: of every family, for the class that is asked for, at a small cost."""
import json
import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from benchmarks.evidence import Drawn, maps_of, shares_of, taught
from config import BACKBONES, FAMILIES, ModelConfig
from grandmaster_train import main
from modeling.evidence import evidence
from modeling.heads import LinearHead
from modeling.network import Network, build_network
from modeling.weights import WeightsSource
from reporting.figures import heated
from tests.conftest import small_argv


def images_of(n, side_px, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(
        256, size=(n, 3, side_px, side_px), dtype=np.uint8))


@pytest.mark.parametrize(("family", "reads_stages"), [
    *((family, False) for family in FAMILIES), ("convnext", True), ("vit", True)])
def test_a_network_of_each_family_says_where_it_sees_a_class(family, reads_stages):
    """reads_stages: of a frozen network, whose classifier reads more than the last features."""
    name = BACKBONES[family][-1]
    torch.manual_seed(0)
    network = build_network(name, n_classes=3, image_size_px=64, reads_stages=reads_stages,
                            weights=WeightsSource(name, "random"), model=ModelConfig())
    images = images_of(2, 64)
    with torch.no_grad():
        before = network.eval()(images)
    maps = evidence(network, images, torch.tensor([0, 2]))
    assert maps.shape[0] == 2 and maps.shape[1] == maps.shape[2] >= 2
    assert torch.isfinite(maps).all() and maps.min() >= 0 and maps.max() > 0
    with torch.no_grad():
        assert torch.equal(network(images), before)      # nothing is left of the hooks


class Colours(nn.Module):
    """Maps of redness, blueness and of what all places have, pooled: a timm backbone in small."""

    num_features = 3

    def forward_features(self, x):
        return torch.cat([x[:, [0, 2]].clamp(min=0), torch.ones_like(x[:, :1])], 1)

    def forward(self, x):
        return self.forward_features(x).mean((2, 3))


def network_of_colours(weight):
    head = nn.Linear(3, len(weight), bias=False)
    head.weight = nn.Parameter(torch.tensor(weight))
    return Network(Colours(), head, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 8)


def red_beside_blue():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, 0, :, :4] = 255
    image[:, 2, :, 4:] = 255
    return image


@pytest.mark.parametrize("common", [0.0, 5.0, -5.0])
def test_what_all_places_have_hides_neither_of_two_things(common):
    """common: what every place says for the one class and against the other."""
    network = network_of_colours([[1.0, 0.0, common], [0.0, 1.0, -common]])
    red, blue = (evidence(network, red_beside_blue(), torch.tensor([k]))[0] for k in (0, 1))
    assert red[:, :4].min() > 0 and red[:, 4:].max() == 0
    assert blue[:, 4:].min() > 0 and blue[:, :4].max() == 0


SMALL = {      # a timm model in small for each kind of what a classifier reads
    "maps": lambda: timm.models.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=0,
                                       output_stride=8, channels=(8, 16, 16, 32)),
    "maps with channels last": lambda: timm.models.SwinTransformer(
        32, patch_size=4, embed_dim=32, depths=(2,), num_heads=(2,), window_size=4, num_classes=0),
    "a class token": lambda: timm.models.VisionTransformer(
        32, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=0),
    "a class token outside the blocks": lambda: timm.models.Cait(
        32, patch_size=4, embed_dim=32, depth=1, num_heads=2, num_classes=0, init_values=1.0),
    "the mean of tokens": lambda: timm.models.Eva(
        32, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=0, global_pool="avg"),
}


@pytest.fixture(scope="module")
def things():
    """(images of one thing, their kinds), (images of two, their kinds)."""
    drawn = Drawn(32, 400, seed=0)
    return drawn.seen, drawn.of_two(20)


@pytest.mark.parametrize("name", ["cait_xxs24_224", "xcit_nano_12_p16_224", "volo_d1_224"])
def test_a_class_token_that_joins_after_the_blocks_sees_places(name):
    torch.manual_seed(0)
    sizes = {} if "xcit" in name else {"img_size": 64}
    backbone = timm.create_model(name, num_classes=0, **sizes)
    network = Network(backbone, nn.Linear(backbone.num_features, 3), (0.5,) * 3, (0.2,) * 3, 64)
    images = images_of(2, 64)
    with torch.no_grad():
        before = network.eval()(images)
    maps = evidence(network, images, torch.tensor([0, 2]))
    assert maps.shape == (2, 4, 4) and maps.amax((1, 2)).min() > 0
    with torch.no_grad():
        assert torch.allclose(network(images), before, atol=1e-6)


@pytest.mark.parametrize("read", SMALL)
def test_two_things_in_one_image_are_shown_apart(things, read):
    """read: what the classifier reads."""
    torch.manual_seed(0)
    backbone = SMALL[read]()
    network = Network(backbone, LinearHead(backbone.num_features, 4, 0.0), (0.5,) * 3, (0.25,) * 3,
                      32)
    (images, kinds), (images_of_two, both) = things
    taught(network, images, kinds, 4, n_steps=80, lr=0.005)
    share = shares_of([maps_of(network, images_of_two, side) for side in both.T])
    assert (share > 0.5).sum() >= 30, f"{(share > 0.5).sum()} of 40, mean {share.mean():.2f}"


def test_a_class_that_is_told_by_itself_is_seen_by_its_own_logit():
    network = network_of_colours([[1.0, 0.0, 0.0]])
    none, own = (evidence(network, red_beside_blue(), torch.tensor([0]), over_mean)[0]
                 for over_mean in (True, False))
    assert none.max() == 0      # the mean of one logit is that logit
    assert own[:, :4].min() > 0 and own[:, 4:].max() == 0


def test_of_a_linear_classifier_on_means_it_is_the_class_activation_map_less_its_mean():
    backbone = timm.create_model("resnet10t", num_classes=0).eval()
    network = Network(backbone, nn.Linear(512, 3), (0.5,) * 3, (0.2,) * 3, 64).eval()
    images = images_of(1, 64)
    maps = evidence(network, images, torch.tensor([1]))
    with torch.no_grad():
        features = backbone.forward_features((images.float() - network.mean) / network.std)
        weight = network.head.weight[1] - network.head.weight.mean(0)
        expected = torch.einsum("bchw,c->bhw", features, weight) / 4
        expected = (expected - expected.mean()).clamp(min=0)
    assert torch.allclose(maps, expected, atol=1e-5)


def test_a_map_of_one_place_is_none():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    network = Network(timm.create_model("resnet10t", num_classes=0), nn.Linear(512, 3), (0.5,) * 3,
                      (0.2,) * 3, 8)
    assert evidence(network, image, torch.tensor([1])) is None


def test_a_map_glows_where_it_is_highest_and_is_grey_where_it_is_nothing():
    image = np.full((8, 8, 3), (200, 40, 90), np.uint8)
    values = np.zeros((8, 8))
    values[2, 3] = 4.0
    shown = heated(image, values)
    assert len(set(shown[0, 0].tolist())) == 1 and len(set(shown[2, 3].tolist())) == 3
    assert np.array_equal(heated(image, np.zeros((8, 8))), heated(image, -np.ones((8, 8))))


def test_the_page_shows_maps_unless_they_are_off_or_cannot_be_made(contest, tmp_path, monkeypatch):
    def page(*more):
        argv = small_argv(contest, tmp_path, "optim.epochs=1", "data.image_size_px=64", *more)
        assert main(["--quiet", *argv]) == 0
        return (tmp_path / "run/report.html").read_text()

    shown = page()
    images = re.findall(r'class="heat" alt="where ([^"]*) is seen"', shown)
    assert images and {name.split()[0] for name in images} <= {"0", "1", "2"}
    assert len(shown) < 5_000_000 and 'class="heat"' not in page("runtime.heatmaps=off")
    monkeypatch.setattr("running.heatmaps.evidence", lambda *args: 1 / 0)
    assert 'class="heat"' not in page()
    log = (tmp_path / "run/events.jsonl").read_text()
    events = [json.loads(line) for line in log.splitlines()]
    assert "no heat maps in report.html (ZeroDivisionError" in log
    assert [e["images"] > 0 for e in events if e["event"] == "heatmaps"] == [True]
