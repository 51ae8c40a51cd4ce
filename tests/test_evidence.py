"""What a network looked at: of every family, for the class that is asked for, at a small cost."""
import json
import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from config import BACKBONES, FAMILIES, ModelConfig
from grandmaster_train import main
from modeling.evidence import evidence
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
    """Maps of redness and blueness, pooled: a timm backbone in small."""

    num_features = 2

    def forward_features(self, x):
        return x[:, [0, 2]].clamp(min=0)

    def forward(self, x):
        return self.forward_features(x).mean((2, 3))


def test_an_image_of_two_things_shows_them_apart():
    head = nn.Linear(2, 2, bias=False)
    nn.init.eye_(head.weight)
    network = Network(Colours(), head, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 8)
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, 0, :, :4] = 255       # red on the left, blue on the right
    image[:, 2, :, 4:] = 255
    red, blue = (evidence(network, image, torch.tensor([k]))[0] for k in (0, 1))
    assert red[:, :4].min() > 0 and red[:, 4:].max() == 0
    assert blue[:, 4:].min() > 0 and blue[:, :4].max() == 0


def test_a_class_that_is_told_by_itself_is_seen_by_its_own_logit():
    network = Network(Colours(), nn.Linear(2, 1, bias=False), (0.0,) * 3, (1.0,) * 3, 8)
    nn.init.ones_(network.head.weight)
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, 0, :, :4] = 255
    none, own = (evidence(network, image, torch.tensor([0]), over_mean)[0]
                 for over_mean in (True, False))
    assert none.max() == 0      # the mean of one logit is that logit
    assert own[:, :4].min() > 0 and own[:, 4:].max() == 0


def test_of_a_linear_classifier_on_means_it_is_the_class_activation_map():
    backbone = timm.create_model("resnet10t", num_classes=0).eval()
    network = Network(backbone, nn.Linear(512, 3), (0.5,) * 3, (0.2,) * 3, 64).eval()
    images = images_of(1, 64)
    maps = evidence(network, images, torch.tensor([1]))
    with torch.no_grad():
        features = backbone.forward_features((images.float() - network.mean) / network.std)
        weight = network.head.weight[1] - network.head.weight.mean(0)
        expected = torch.einsum("bchw,c->bhw", features, weight).clamp(min=0) / 4
    assert torch.allclose(maps, expected, atol=1e-5)


def test_a_map_glows_where_it_is_highest_and_is_grey_where_it_is_nothing():
    image = np.full((8, 8, 3), (200, 40, 90), np.uint8)
    values = np.zeros((8, 8))
    values[2, 3] = 4.0
    shown = heated(image, values)
    assert len(set(shown[0, 0].tolist())) == 1 and len(set(shown[2, 3].tolist())) == 3
    assert np.array_equal(heated(image, np.zeros((8, 8))), heated(image, -np.ones((8, 8))))


def test_the_page_shows_maps_unless_they_are_off_or_cannot_be_made(contest, tmp_path, monkeypatch):
    def page(*more):
        assert main(["--quiet", *small_argv(contest, tmp_path, "optim.epochs=1", *more)]) == 0
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
