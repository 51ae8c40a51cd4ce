import pickle
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import timm
import torch
from safetensors.torch import save_file

from config import BACKBONES, FAMILIES, ModelConfig, build_config
from modeling import norms
from modeling.heads import ArcFaceHead, LinearHead, fold_heads
from modeling.network import (
    Network,
    build_network,
    takes,
    telling_stages,
    timm_arguments,
    with_padding,
)
from modeling.norms import adapted_to, fused, norm_statistics, with_statistics
from modeling.weights import WeightsSource, address_towards, find_weights
from utils import UserError

NAME = "mobilenetv3_small_050"


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr("modeling.weights.hub_reachable", lambda: False)


def build(name=NAME, weights=None, **model):
    return build_network(
        name,
        n_classes=5,
        image_size_px=64,
        weights=weights or WeightsSource(name, "random"),
        model=ModelConfig(**model),
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["linear", "arcface"])
def test_the_tiny_member_of_each_family_takes_raw_pixels(family, head):
    net = build(BACKBONES[family][-1], head=head).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        logits = net(images)
        torch.testing.assert_close(net(images.float()), logits)
    assert logits.shape == (2, 5)


def test_the_network_normalises_with_the_backbones_own_mean_and_std():
    net, cfg = build(), timm.get_pretrained_cfg(NAME)
    images = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    seen = []
    net.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net.eval()(images)
    expected = (1 - torch.tensor(cfg.mean)) / torch.tensor(cfg.std)
    torch.testing.assert_close(seen[0][0, :, 0, 0], expected)


@pytest.mark.parametrize(("name", "stages"), [
    ("mobilenetv3_small_050", (3, 4)), ("vit_tiny_patch16_224", (5, 8)), ("convnext_atto", (2, 3))])
def test_a_frozen_network_is_read_at_its_last_stages_and_a_vit_in_the_middle(name, stages):
    with torch.device("meta"):
        assert telling_stages(timm.create_model(name).feature_info) == stages


def test_stages_join_the_features_in_order():
    name = "vit_tiny_patch16_224"
    plain, network = (build_network(name, n_classes=3, image_size_px=64, reads_stages=reads,
                                    weights=WeightsSource(name, "random"),
                                    model=ModelConfig()).eval() for reads in (False, True))
    network.backbone.load_state_dict(plain.backbone.state_dict())
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        last, read = plain.features(images), network.features(images)
        seen = network.backbone.forward_intermediates(
            (images.float() - network.mean) / network.std, indices=[5, 8],
            intermediates_only=True)
    assert read.shape == (2, 3 * 192)
    torch.testing.assert_close(read[:, :192], last)
    torch.testing.assert_close(read[:, 192:], torch.cat([m.mean((2, 3)) for m in seen], dim=1))


def test_weights_come_from_the_folder_first_and_a_longer_name_is_another_model(tmp_path, no_hub):
    state = timm.create_model("mobilenetv3_small_100").state_dict()
    save_file(state, tmp_path / "mobilenetv3_small_100.anything.safetensors")
    assert find_weights("mobilenetv3_small_100", tmp_path, "auto").kind == "weights_dir"
    assert find_weights(NAME, tmp_path, "auto").kind == "random"
    save_file({"x": torch.zeros(1)}, tmp_path / "convnext_tiny_hnf.safetensors")
    assert find_weights("convnext_tiny", tmp_path, "auto").kind == "random"
    assert find_weights("mobilenetv3_small_100", tmp_path, "off").kind == "random"


def empty_files(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")


def test_a_model_with_a_tag_takes_its_own_file_then_one_without_then_another_tag(tmp_path, no_hub):
    tagged = "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384"
    empty_files(tmp_path, "convnext_base.fb_in1k.safetensors")
    other = find_weights(tagged, tmp_path, "auto")
    assert other.tagged == other.timm_name == "convnext_base.fb_in1k"
    empty_files(tmp_path, "convnext_base.pth")
    plain = find_weights(tagged, tmp_path, "auto")
    assert plain.path.endswith("convnext_base.pth") and plain.timm_name == tagged
    empty_files(tmp_path, f"{tagged}.safetensors")
    own = find_weights(tagged, tmp_path, "auto")
    assert own.path.endswith(f"{tagged}.safetensors") and own.tagged == ""


def test_a_file_with_a_tag_is_normalised_and_licensed_as_that_tag(tmp_path, no_hub):
    tagged = "vit_tiny_patch16_224.augreg_in21k"
    empty_files(tmp_path, f"{tagged}.safetensors", "resnext50_32x4d.fb_swsl_ig1b_ft_in1k.pth",
                "convnext_base.eupe_lvd1689m.safetensors")
    source = find_weights("resnext50_32x4d", tmp_path, "auto")
    assert source.licence == "cc-by-nc-4.0"
    source = find_weights("convnext_base", tmp_path, "auto")
    assert source.licence == "fair-noncommercial-research-license"
    clip = replace(source, path="", tagged="convnext_base.clip_laion2b")
    net = build_network("convnext_base", n_classes=2, image_size_px=32, weights=clip,
                        model=build_config("quick_test").model)
    expected = torch.tensor(timm.get_pretrained_cfg("convnext_base.clip_laion2b").mean)
    torch.testing.assert_close(net.mean.flatten(), expected * 255)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_is_really_loaded(tmp_path, no_hub, suffix):
    state = timm.create_model(NAME).state_dict()
    path = tmp_path / f"{NAME}_mine{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    net = build(weights=find_weights(NAME, tmp_path, "require"))
    torch.testing.assert_close(net.backbone.conv_stem.weight, state["conv_stem.weight"], rtol=0,
                               atol=0)
    # only a head on weights begins with zeros
    assert not net.head.linear.weight.any() and build().head.linear.weight.all()


def test_from_random_weights_a_network_of_layer_norms_pools_maxima_and_its_head_folds():
    torch.manual_seed(0)
    pools = {name: find_weights(name, None, "off").global_pool for name in ("convnext_atto", NAME,
                                                                            "vit_tiny_patch16_224")}
    assert pools == {"convnext_atto": "max", NAME: "", "vit_tiny_patch16_224": ""}
    source = find_weights("convnext_atto", None, "off")
    net = build("convnext_atto", source)
    images = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8)
    for _ in range(3):
        net.train()(images)
    net.train()(images[:1])      # one row has no statistics
    torch.nn.init.normal_(net.head.norm.bias)
    with torch.no_grad():
        expected = net.eval()(images)
        fold_heads(net)
        assert torch.allclose(net(images), expected, atol=1e-5) and expected.std(0).min() > 1e-3
    assert net.state_dict().keys() == build("convnext_atto").state_dict().keys()
    in_timm = timm.create_model("convnext_atto", num_classes=0, **timm_arguments(source, 64)).eval()
    in_timm.load_state_dict(net.backbone.state_dict())
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maxima = in_timm.forward_features(pixels).amax((2, 3), keepdim=True)
        assert torch.allclose(in_timm(pixels), in_timm.head.norm(maxima).flatten(1), atol=1e-5)


def test_missing_weights_stop_when_required(tmp_path, no_hub):
    with pytest.raises(UserError, match=f"put them .*as {NAME}.safetensors or .pth into /"):
        find_weights(NAME, tmp_path, "require")
    with pytest.raises(UserError, match="must be an existing folder"):
        find_weights(NAME, tmp_path / "no", "auto")


class Code:
    def __reduce__(self):
        return print, ("this would run",)


@pytest.mark.parametrize("content", ["pickle with code", "garbage", "another model", "empty"])
def test_a_wrong_weights_file_is_refused_in_one_sentence(tmp_path, no_hub, content, capsys):
    path = tmp_path / f"{NAME}.pth"
    if content == "pickle with code":
        torch.save({"conv_stem.weight": Code()}, path)
    elif content == "another model":
        torch.save({f"other.{k}": v for k,
                    v in timm.create_model("resnet10t").state_dict().items()}, path)
    else:
        path.write_bytes(pickle.dumps({})[:3] if content == "garbage" else b"")
    with pytest.raises(UserError, match="must hold a plain state dict"):
        build(weights=find_weights(NAME, tmp_path, "auto"))
    assert "this would run" not in capsys.readouterr().out


def test_unknown_names_and_sizes_are_refused(no_hub):
    with pytest.raises(UserError, match="did you mean 'convnext_tiny'"):
        find_weights("convnext_tinny", "", "auto")
    with pytest.raises(UserError, match="must be a multiple of 32, got 100: use 96 or 128"):
        build_network(NAME, n_classes=2, image_size_px=100, weights=WeightsSource(NAME, "random"),
                      model=ModelConfig())


def textures(n_cells):
    """(32, 3, 64, 64) uint8: random colours, smooth from cell to cell."""
    cells = torch.rand(32, 3, n_cells, n_cells)
    images = torch.nn.functional.interpolate(cells, size=64, mode="bicubic").clamp(0, 1)
    return (images * 255).to(torch.uint8)


@pytest.mark.parametrize("trained_with", ["", "same"])
def test_the_padding_of_weights_is_found_from_their_batch_norms_by_blurred_images_too(
        tmp_path, no_hub, trained_with):
    torch.manual_seed(0)
    images = textures(8)
    teacher = build(weights=WeightsSource(NAME, "random", pad_type=trained_with)).train()
    for _ in range(60):
        teacher.features(images)
    torch.save(teacher.backbone.state_dict(), tmp_path / f"{NAME}.pth")
    source = find_weights(NAME, tmp_path, "auto")
    for seen in (images, textures(5)):
        assert with_padding(source, seen, ModelConfig()).pad_type == trained_with
    assert with_padding(WeightsSource(NAME, "random"), images, ModelConfig()).pad_type == ""


def test_batch_norms_take_the_statistics_of_other_images_and_share_the_parameters():
    network = build().eval()
    images = torch.randint(0, 80, (64, 3, 64, 64), dtype=torch.uint8)
    before = {name: value.clone() for name, value in norm_statistics(network).items()}
    adapted = adapted_to(network, images.split(32))
    seen = []
    first = next(m for m in adapted.modules() if isinstance(m, torch.nn.BatchNorm2d))
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        adapted(images)
    torch.testing.assert_close(first.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(first.running_var, seen[0].var((0, 2, 3)), atol=1e-3, rtol=1e-2)
    assert not adapted.training and next(adapted.parameters()) is next(network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in norm_statistics(network).items())
    again = with_statistics(network, norm_statistics(adapted))
    with torch.inference_mode():
        torch.testing.assert_close(again(images), adapted(images))
        assert not torch.allclose(network(images), adapted(images))


def test_a_network_without_batch_norm_has_no_adapted_one():
    assert adapted_to(build("vit_tiny_patch16_224").eval(), [torch.zeros(2, 3, 64, 64)]) is None


@pytest.mark.parametrize("name", [
    NAME, "resnet18", "tf_efficientnetv2_b0", "maxvit_rmlp_pico_rw_256"])
def test_a_fused_network_has_the_same_outputs_without_batch_norms_after_convolutions(name):
    torch.manual_seed(0)
    network = build(name)
    images = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        for _ in range(3):
            network.train()(images)      # statistics that are not 0 and 1
        expected, before = network.eval()(images), network.state_dict()
        other = fused(network)
        assert torch.allclose(other(images), expected, rtol=1e-3,
                              atol=1e-3 * float(expected.abs().max()))
    assert len(norms.batch_norms(other)) < len(norms.batch_norms(network))
    assert network.state_dict().keys() == before.keys()


def test_a_convolution_that_is_read_twice_is_not_fused():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.num_features = torch.nn.Conv2d(3, 3,
                                                                      1), torch.nn.BatchNorm2d(3), 3
            self.norm.running_mean.fill_(5.0)

        def forward(self, images):
            found = self.conv(images)
            return (found + self.norm(found)).mean((2, 3))

    network = Network(Twice(), torch.nn.Identity(), (0.5,) * 3, (0.2,) * 3, 32)
    assert fused(network) is network


def test_an_arcface_head_has_the_same_cosines_in_half_precision():
    torch.manual_seed(0)
    head, features = ArcFaceHead(64, 5, 0.0), torch.randn(3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(features)
    torch.testing.assert_close(inside, head(features), rtol=0, atol=0)


def test_a_row_alone_is_normed_as_it_will_be_when_predicting():
    torch.manual_seed(0)
    head = LinearHead(6, 3, 0.0, is_normed=True).train()
    for _ in range(20):
        head(3 + 2 * torch.randn(8, 6))
    one = torch.randn(1, 6)
    alone, before = head(one), head.norm.running_mean.clone()
    torch.testing.assert_close(alone, head.eval()(one))
    torch.testing.assert_close(before, head.norm.running_mean, rtol=0, atol=0)


def test_stochastic_depth_is_left_to_the_backbones_that_have_it():
    assert (
        build("vgg11", drop_path_rate=0.1)
        and not takes("vgg11", drop_path_rate=0.1)
        and takes(NAME, drop_path_rate=0.1)
    )


@pytest.mark.parametrize(("url", "proxies", "address"), [
    ("https://huggingface.co", {}, ("huggingface.co", 443)),
    ("http://mirror:8080/hf", {}, ("mirror", 8080)),
    ("http://mirror", {}, ("mirror", 80)),
    ("https://huggingface.co", {"https": "http://proxy:3128"}, ("proxy", 3128)),
    ("https://huggingface.co", {"all": "proxy:8888"}, ("proxy", 8888)),
    ("https://huggingface.co", {"https": "http://proxy:3128", "no": "huggingface.co"},
     ("huggingface.co", 443))])
def test_the_hub_is_looked_for_where_requests_go(monkeypatch, url, proxies, address):
    for name in ("http", "https", "all", "no"):
        for variable in (f"{name}_proxy", f"{name}_proxy".upper()):
            monkeypatch.delenv(variable, raising=False)
        if name in proxies:
            monkeypatch.setenv(f"{name}_proxy", proxies[name])
    assert address_towards(urlsplit(url)) == address
