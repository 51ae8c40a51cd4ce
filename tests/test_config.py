from importlib import metadata

import pytest
import timm

from config import (
    BACKBONES,
    FAMILIES,
    PRESETS,
    SCALES,
    FitSpec,
    build_config,
    known_keys,
    resolve,
    settings_text,
)
from grandmaster_train import config_of, make_parser
from utils import UserError, digest_json


def test_every_mode_is_a_value_and_resolves():
    for mode in PRESETS:
        config = resolve(build_config(mode), gpu_memory_bytes=0, n_train=1570)
        assert (config.scale, config.data.image_size_px) == ("tiny", 128)
        assert config.optim.batch_size % config.optim.micro_batch_size == 0
    assert build_config("full_training").model.backbones == FAMILIES
    assert len(build_config("competition_ready").rounds) == 2
    with pytest.raises(UserError, match=r"rounds\[1\] must be taught something"):
        build_config("full_training", ["rounds=2", "rounds.unlabelled=off"])


def test_the_target_machine_gets_384_px_and_batch_64_as_8_micro_batches():
    config = resolve(build_config("full_training"), gpu_memory_bytes=16 * 2**30, n_train=4000)
    assert (config.scale, config.data.image_size_px) == ("large", 384)
    assert (config.optim.batch_size, config.optim.micro_batch_size) == (64, 8)
    assert config.model.backbones[:2] == (
        "tf_efficientnetv2_xl", "convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_384")


@pytest.mark.parametrize(("scale", "settings", "epochs"), [
    ("large", [], 1), ("large", ["rounds.epochs=4"], 4), ("tiny", [], 0),
    ("base", ["rounds.warm_start=off"], 0)])
def test_large_networks_are_taught_for_one_epoch_so_that_the_mode_keeps_its_hours(
        scale, settings, epochs):
    config = build_config("competition_ready", [f"scale={scale}", *settings])
    rounds = resolve(config, gpu_memory_bytes=0, n_train=1570).rounds
    assert [round_.epochs for round_ in rounds] == [0, epochs]
    optim = resolve(config, gpu_memory_bytes=0, n_train=1570).optim
    assert optim.epochs == {1: 10, 4: 12, 0: 32 if scale == "tiny" else 12}[epochs]


@pytest.mark.parametrize(("n_train", "settings", "n_epochs"), [
    (50000, [], 12), (1570, [], 32), (100, [], 60), (2, [], 60), (1570, ["data.n_folds=2"], 50),
    (1570, ["optim.epochs=8"], 8), (1570, ["scale=large"], 12)])
def test_few_images_are_passed_over_more_often(n_train, settings, n_epochs):
    optim = resolve(build_config("full_training", settings), gpu_memory_bytes=0,
                    n_train=n_train).optim
    assert optim.epochs == n_epochs


def test_each_family_has_a_known_member_at_each_scale():
    assert set(BACKBONES) == set(FAMILIES)
    for names in BACKBONES.values():
        assert len(names) == len(SCALES)
        assert all(timm.is_model(name) for name in names)


def test_overrides_are_parsed_with_the_fields_type():
    config = build_config("quick_test", ["optim.epochs=8", "model.backbones=mobilenetv2_100,vit",
                                         "ensemble.refit=on", "rounds=3", "seed=7",
                                         "optim.lr=1e-3"])
    assert config.optim.epochs == 8 and config.seed == 7 and config.ensemble.refit is True
    assert config.model.backbones == ("mobilenetv2_100", "vit") and config.optim.lr == 1e-3
    assert [r.is_taught for r in config.rounds] == [False, True, True]
    config = build_config("quick_test", ["rounds.alpha=0.7", "rounds=2", "rounds.unlabelled=off"])
    assert [(r.alpha, r.unlabelled) for r in config.rounds] == [(0.0, False), (0.7, False)]


@pytest.mark.parametrize(("override", "message"), [
    ("optim.epoch=8", "did you mean 'optim.epochs'"),
    ("optim.epochs=many", "optim.epochs must be a whole number, got 'many'"),
    ("optim.epochs=-1", "optim.epochs must be at least 0, got -1"),
    ("augment.policy=match", "augment.policy must be one of matched, standard, none, got 'match'; "
     "did you mean 'matched'"),
    ("data.run_folds=9", "data.run_folds must be at most data.n_folds = 5, got 9"),
    ("optim.lr", "--set takes KEY=VALUE, got 'optim.lr'"),
    ("rounds=0", "rounds must be at least 1, got 0"),
    ("rounds.alpha=0.5",
     "rounds.alpha is for the rounds after the first, and there are none: add rounds=2, or leave"),
    ("rounds.alfa=0.5", "did you mean 'rounds.alpha'"),
    ("data.image_size_px=300", "must be a multiple of 32, got 300: use 288 or 320"),
    ("model.backbones=vit,vit", "model.backbones must be different names"),
])
def test_a_bad_override_is_named(override, message):
    with pytest.raises(UserError, match=message):
        build_config("quick_test", [override])


def test_all_problems_are_raised_together():
    with pytest.raises(UserError) as error:
        build_config("quick_test", ["optim.epochs=-1", "data.n_folds=1"])
    assert str(error.value).count("must be at least") == 2


def test_an_unknown_mode_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'quick_test'"):
        build_config("quick_tst")


def test_every_setting_has_a_sentence_and_the_documented_keys_exist():
    documented = """
        model.backbones model.head model.pretrained data.image_size_px data.n_folds data.run_folds
        data.resize data.test_usage augment.policy optim.epochs optim.batch_size
        optim.micro_batch_size optim.lr predict.tta_views rounds runtime.workers runtime.precision
        runtime.compile seed"""
    assert set(documented.split()) <= set(known_keys())


def test_config_is_hashable_into_a_key_and_fits_have_names():
    assert digest_json(build_config("debug")) != digest_json(build_config("quick_test"))
    assert FitSpec("vit_tiny", 42, 1, 3).name == "r1-vit_tiny-s42"
    assert [FitSpec("a", 42, 0, fold).title for fold in (3, None)] == ["r0-a-s42 fold 3",
                                                                       "r0-a-s42 refit"]


def test_the_help_shows_each_setting_once_with_its_default():
    keys = [line.split("=")[0].strip() for line in settings_text().splitlines() if "=" in line
            and line[2] != " "]
    assert sorted(keys) == sorted(known_keys())
    assert (
        "  data.resize=letterbox (letterbox, squash, crop)\n      how an image" in settings_text()
    )


@pytest.mark.parametrize(("metric", "asked", "power"), [
    ("macro_f1", (), 0.5), ("log_loss", (), 0.0),
    ("log_loss", ("optim.class_weight_power=1",), 1.0),
    ("macro_f1", ("optim.class_weight_power=0",), 0.0)])
def test_classes_are_weighted_but_where_probabilities_are_scored(metric, asked, power):
    config = build_config("quick_test", overrides=list(asked))
    assert resolve(config, gpu_memory_bytes=0, n_train=100,
                   metric=metric).optim.class_weight_power == power


def test_the_home_folder_is_known_where_a_shell_leaves_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    args = make_parser().parse_args(["--results_dir=~/runs", "--set", "runtime.weights_dir=~/w"])
    runtime = config_of(args).runtime
    assert runtime.results_dir == str(tmp_path / "runs")
    assert runtime.weights_dir == str(tmp_path / "w")


def test_help_fits_a_screen_and_names_where_the_settings_are(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    for argv, n_lines in ((["--help"], range(20, 61)), (["--help", "all"], range(120, 400))):
        with pytest.raises(SystemExit):
            make_parser().parse_args(argv)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) in n_lines and max(map(len, lines)) <= 100
        assert ("  seed=42" in lines) == (argv[-1] == "all")
        assert any("--help all" in line for line in lines)
    with pytest.raises(UserError, match="--help is followed by all or nothing, got 'settings'"):
        make_parser().parse_args(["--help", "settings"])
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--version"])
    assert f"torch {metadata.version('torch')}" in capsys.readouterr().out
