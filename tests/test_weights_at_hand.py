"""A mode's networks have no weights, and others lie in the folder: those are trained, and it is
said."""
from types import SimpleNamespace

import pytest

from config import build_config, resolve
from modeling.weights import nearest_in_size, networks_in
from running.introduction import introduce_weights
from running.networks import with_networks
from system.log import EventLog

LYING = ("mobilenetv2_100_in1k_mine.pth", "tf_efficientnet_lite2.safetensors",
         "mobilenetv3_small_050.lamb_in1k.safetensors", "vit_small_patch14_dinov2.pth")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr("modeling.weights.hub_reachable", lambda: False)


@pytest.fixture
def folder(tmp_path):
    for name in (*LYING, "notes.txt", "weights.pth", "resnet50.md"):
        (tmp_path / name).touch()
    return tmp_path


def networks(folder, *settings, mode="quick_test"):
    config = build_config(mode, ["model.frozen=", *settings],
                          {"runtime.weights_dir": str(folder)})
    found = with_networks(resolve(config, gpu_memory_bytes=0, n_train=1000), 1000, 1000)
    return found.config, found.weights, found.instead_of


def test_files_are_known_by_the_longest_network_that_their_names_begin_with(folder):
    assert networks_in(folder) == ["mobilenetv2_100", "mobilenetv3_small_050",
                                   "tf_efficientnet_lite2", "vit_small_patch14_dinov2"]
    assert networks_in("") == []


def test_the_nearest_in_size_comes_first():
    names = ["mobilenetv3_small_050", "resnet50", "mobilenetv2_100"]
    assert nearest_in_size(names, "mobilenetv3_small_100") == [
        "mobilenetv2_100", "mobilenetv3_small_050", "resnet50"]


def test_the_network_at_hand_that_is_nearest_in_size_is_trained_for_the_modes_own(folder):
    config, weights, instead_of = networks(folder)
    assert config.model.backbones == ("tf_efficientnet_lite2",) == tuple(weights)
    assert weights["tf_efficientnet_lite2"].is_pretrained
    assert instead_of == ("tf_efficientnetv2_b0",)


def test_the_run_says_what_is_trained_for_what(folder, tmp_path):
    config, weights, instead_of = networks(folder)
    log = EventLog(tmp_path / "events.jsonl")
    introduce_weights(SimpleNamespace(config=config, weights=weights, instead_of=instead_of), log)
    assert log.warnings[0].startswith("no pretrained weights were found for tf_efficientnetv2_b0: "
                                      f"tf_efficientnet_lite2 of {folder} is trained instead")


def test_a_mode_of_seven_networks_trains_all_that_lie_there(folder):
    config, _, instead_of = networks(folder, mode="full_training")
    assert len(instead_of) == 7
    assert sorted(config.model.backbones) == networks_in(folder)


def test_networks_of_the_mode_with_weights_stay(folder):
    (folder / "tf_efficientnetv2_b0.pth").touch()
    config, _, instead_of = networks(folder)
    assert config.model.backbones == ("tf_efficientnetv2_b0",) and instead_of == ()
    assert len(networks(folder, mode="full_training")[0].model.backbones) == 7


@pytest.mark.parametrize("settings", [
    ("model.backbones=resnet10t",), ("model.pretrained=off",)])
def test_what_was_asked_for_stays(folder, settings):
    config, weights, instead_of = networks(folder, *settings)
    assert instead_of == () and not any(source.is_pretrained for source in weights.values())
    assert config.model.backbones in (("resnet10t",), ("tf_efficientnetv2_b0",))


def test_an_empty_folder_changes_nothing(tmp_path):
    config, _, instead_of = networks(tmp_path)
    assert config.model.backbones == ("tf_efficientnetv2_b0",) and instead_of == ()
