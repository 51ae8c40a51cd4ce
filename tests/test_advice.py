"""What an error or a warning advises is typed as it says, and the error is gone.

Each test makes an error, takes the words to type out of its sentence, and runs again with them.
No image is decoded: runs end with the plan (--dry_run) or are single calls.
"""
import argparse
import errno
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

import predict as prediction
from config import FitSpec, ModelConfig, build_config, known_keys
from contest.audit import report_classes
from contest.catalog import Catalog
from contest.problems import Findings
from data_loader import make_folds
from grandmaster_train import command, make_parser
from modeling import weights as modeling_weights
from modeling.compute import Compute
from modeling.memory import SMALLER, Room
from modeling.network import build_network
from modeling.optim import peak_lr
from modeling.train import diverged
from modeling.weights import WeightsSource, check_model_name, fetch_weights, find_weights
from running import checks
from running.executor import RayExecutor
from system import machine
from system.stages import exclusive
from tests.conftest import SMALL
from tests.test_layers import ROOT
from utils import NoRoom, RunError, UserError

NAME = "mobilenetv3_small_050"


def drawn(folder, classes=("0", "1", "2"), header="ID,target"):
    """A contest of empty images: train/ and train.csv, test/ and a sample of one row each."""
    for split, n in (("train", 12 * len(classes)), ("test", 3)):
        (folder / split).mkdir(parents=True)
        for i in range(n):
            (folder / split / f"{split}{i}.png").touch()
    rows = [f"train{i}.png,{classes[i % len(classes)]}" for i in range(12 * len(classes))]
    (folder / "train.csv").write_text("\n".join(["ID,target", *rows]) + "\n")
    cells = ",0" * header.count(",")
    rows = [f"test{i}.png{cells}" for i in range(3)]
    (folder / "sample_submission.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("numbered") / "contest")


def said(folder, typed, name="run"):
    """The error of a dry run with what was typed, '' if there is none."""
    words = typed.split()
    results = ["--results_dir", str(folder.parent / "results")]
    if "--experiment_name" not in words:
        results += ["--experiment_name", name]
    try:
        command(["--data_path", str(folder), *results, "--set", *SMALL, "data.n_folds=4",
                 *words, "--dry_run"])
    except (UserError, RunError) as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- settings and flags

@pytest.mark.parametrize(("typed", "sentence", "then"), [
    ("--mode quik_test", r"did you mean '(\w+)'", "--mode {}"),
    ("--mode train", r"did you mean '(\w+)'", "--mode {}"),
    ("--set optim.epoch=3", r"did you mean '([\w.]+)'", "--set {}=3"),
    ("--set epochs=3", r"did you mean '([\w.]+)'", "--set {}=3"),
    ("--set lr=1e-3", r"did you mean '([\w.]+)'", "--set {}=1e-3"),
    ("--set batch=8", r"did you mean '([\w.]+)'", "--set {}=8"),
    ("--set Seed=8", r"did you mean '([\w.]+)'", "--set {}=8"),
    ("--set time_budget=8", r"did you mean '([\w.]+)'", "--set {}=8"),
    ("--set rounds=2 rounds[1].alpha=0.5", r"did you mean '([\w.]+)'", "--set rounds=2 {}=0.5"),
    ("--set mode=quick_test", r"a flag: use (--\w+)", "{} quick_test"),
    ("--set experiment_name=x", r"a flag: use (--\w+)", "{} x"),
    ("--set dry_run=on", r"a flag: use (--\w+)", "{}"),
    ("--experiment_name .x", r"without a dot at its beginning, got '\.(x)'",
     "--experiment_name {}"),
    ("--set data.image_size_px=10", r": use (\d+)$", "--set data.image_size_px={}"),
    ("--set data.image_size_px=300", r": use (\d+) or", "--set data.image_size_px={}"),
    ("--set data.image_size_px=300", r" or (\d+)$", "--set data.image_size_px={}"),
    ("--set data.run_folds=9", r"--set (data.run_folds=\d+)", "--set {}"),
    ("--set data.run_folds=9", r"or (data.n_folds=\d+)", "--set data.run_folds=9 {}"),
    ("--set optim.batch_size=9 optim.micro_batch_size=4", r"--set (\S+)$",
     "--set optim.micro_batch_size=4 {}"),
    ("--set optim.batch_size=0 optim.micro_batch_size=7", r"--set (\S+)$",
     "--set optim.micro_batch_size=7 {}"),
    ("--set optim.batch_size=3 optim.micro_batch_size=7", r"--set (\S+)$",
     "--set optim.micro_batch_size=7 {}"),
    ("--set rounds.alpha=0.5", r"add (rounds=\d)", "--set rounds.alpha=0.5 {}"),
    ("--set rounds.unlabelled=off", r"(), or leave it out", "{}"),
    ("--set rounds=2 rounds.unlabelled=off", r"set (rounds.unlabelled=on)", "--set rounds=2 {}"),
    ("--set rounds=2 rounds.unlabelled=off", r"or (rounds.alpha) above 0",
     "--set rounds=2 rounds.unlabelled=off {}=0.1"),
    ("--set ensemble.refit=yes", r"must be (on) or", "--set ensemble.refit={}"),
    ("--set ensemble.refit=yes", r"or (off),", "--set ensemble.refit={}"),
    ("--set optim.epochs=2.5", r"a whole number, got '(2)", "--set optim.epochs={}"),
    ("--set augment.policy=match", r"did you mean '(\w+)'", "--set augment.policy={}"),
    ("--scale huge", r"must be one of (\w+)", "--scale {}"),
    ("--engine dask", r"must be one of (\w+)", "--engine {}"),
    ("--set augment.groups=doc=0", r"did you mean '(\S+)'", "--set augment.groups={}"),
    ("--set augment.groups=photo=x", r"classes are '(\d)'", "--set augment.groups=photo={}"),
    ("--time_budget inf", r"hours that the run may take; (0): no limit", "--time_budget {}"),
    ("--metric F1", r"must be one of (\w+)", "--metric {}"),
    ("--metric acc", r"did you mean '(\w+)'", "--metric {}"),
    ("--metric qudratic_kapa", r"did you mean '(\w+)'", "--metric {}"),
    ("--metric map5", r"did you mean '(\w+)'", "--metric {}"),
    ("--metric logloss", r"did you mean '(log)", "--metric AUTO"),
    ("--metric log_loss", r"choose (\w+) or", "--metric {}"),
    ("--metric auc", r"choose \w+ or (\w+)$", "--metric {}"),
    ("--device gpu", r"of this machine \((\w+)", "--device {}"),
    ("--device meta", r"must be (auto) or", "--device {}"),
    ("--set data.sample_submission=sample.csv", r"did you mean '(\S+)'",
     "--set data.sample_submission={}"),
    ("--set data.sample_submission=train.csv",
     r"'train.csv' cannot be while data.sample_submission names (it)", ""),
    ("--set data.n_folds=30", r"--set (\S+),", "--set {}"),
    ("--set model.backbones=resnet18.x", r": use '(\w+)' without", "--set model.backbones={}"),
    ("--set model.backbones=resnet18.x", r" or '(\S+)'", "--set model.backbones={}"),
    ("--set model.backbones=efficientnetv2_xl.x", r": use '(\w+)'$", "--set model.backbones={}"),
    ("--set model.backbones=resnt18", r"did you mean '(\w+)'", "--set model.backbones={}"),
    ("--verify nothing", r"names? (an) experiment", ""),
    ("--set model.pretrained=auto --weights_dir /no/folder", r"leave the flag (out)", ""),
])
def test_an_error_is_gone_once_its_advice_is_typed(numbered, typed, sentence, then):
    first = said(numbered, typed)
    found = re.search(sentence, first)
    assert found, first
    assert said(numbered, then.format(*found.groups())) == ""


@pytest.mark.parametrize("name", ["ViT", "swinn", "convnxt", "beti", "effnetv2", "maxvt"])
def test_a_family_that_is_misspelt_is_offered_before_other_models(name):
    with pytest.raises(UserError, match="did you mean") as caught:
        check_model_name(name)
    close = re.search("mean '(.*)'", str(caught.value))[1]
    assert build_config("quick_test", [f"model.backbones={close}"])
    assert close in {"vit", "swin", "convnext", "beit", "efficientnetv2", "maxvit"}


def test_no_flag_is_offered_as_a_setting():
    flags = {action.dest for action in make_parser()._actions} - {"help", "set"}
    for flag in sorted(flags - {key.rpartition(".")[2] for key in known_keys()}):
        with pytest.raises(UserError) as caught:
            build_config("quick_test", [f"{flag}=1"])
        close = re.search(r"mean '(.*?)'|use --(\w+)", str(caught.value))
        assert close[1] == "runtime.time_budget_hours" or close[2] == flag


def test_an_empty_name_of_an_experiment_to_verify_is_not_to_be_left_out(numbered):
    with pytest.raises(UserError, match=r"the variable in its place$"):
        command(["--verify", "", "--data_path", str(numbered)])


def test_a_folder_in_use_leaves_another_experiment_name(numbered):
    with exclusive(numbered.parent / "results/taken"):
        assert "choose another --experiment_name" in said(numbered, "", name="taken")
        assert said(numbered, "", name="other") == ""


# ---------------------------------------------------------------- forms of the submission

@pytest.mark.parametrize("metric", ["map_at_5", "quadratic_kappa"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_metric_that_fits_a_column_for_each_class_is_named(tmp_path, metric, number):
    folder = drawn(tmp_path / "contest", header="ID,0,1,2")
    advice = re.search(r"choose (\w+) or (\w+)$", said(folder, f"--metric {metric}"))
    assert said(folder, f"--metric {advice[number]}") == ""


@pytest.mark.parametrize("metric", ["map_at_5", "quadratic_kappa", "log_loss", "auc"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_metric_that_fits_one_column_is_named(tmp_path, metric, number):
    folder = drawn(tmp_path / "contest", ("a b", "c d", "e"))
    advice = re.search(r"choose (\w+) or (\w+)$", said(folder, f"--metric {metric}"))
    assert said(folder, f"--metric {advice[number]}") == ""


def test_class_names_with_spaces_are_renamed_where_the_labels_are(tmp_path):
    folder = drawn(tmp_path / "contest", ("a b", "c d", "e"))
    assert "rename these classes" in said(folder, "--metric map_at_5")
    table = folder / "train.csv"
    table.write_text(table.read_text().replace("a b", "ab").replace("c d", "cd"))
    assert said(folder, "--metric map_at_5") == ""


def test_the_metrics_that_the_plan_offers_for_two_classes_are_taken(tmp_path, capsys):
    folder = drawn(tmp_path / "contest", ("no", "yes"))
    assert said(folder, "") == ""
    offered = re.search(r"--metric (\w+) or (\w+): the probability", capsys.readouterr().out)
    for metric in offered.groups():
        assert said(folder, f"--metric {metric}") == ""
        assert "the probability of 'yes'" in capsys.readouterr().out


def test_class_columns_are_right_once_they_are_renamed(tmp_path):
    folder = drawn(tmp_path / "contest", header="ID,x,y,z")
    assert "rename them" in said(folder, "")
    sample = folder / "sample_submission.csv"
    sample.write_text(sample.read_text().replace("ID,x,y,z", "ID,0,1,2"))
    assert said(folder, "") == ""


# ---------------------------------------------------------------- folds

def catalog_of(*labels):
    rows = [{"sample_id": str(i), "path": "", "label": k} for i, k in enumerate(labels)]
    return Catalog.of(rows, [str(k) for k in sorted(set(labels))])


@pytest.mark.parametrize(("labels", "advice"), [
    ((0, 0, 0, 1, 1), ": --set data.n_folds=3, or add images"), ((0, 1), ": add images")])
def test_fewer_folds_are_advised_only_if_there_can_be_some(labels, advice):
    with pytest.raises(UserError) as caught:
        make_folds(catalog_of(*labels), 5, 0)
    assert str(caught.value).endswith(advice)
    if found := re.search(r"n_folds=(\d)", advice):
        make_folds(catalog_of(*labels), int(found[1]), 0)


@pytest.mark.parametrize(("labels", "advice"), [
    ((0,) * 9 + (1,) * 3, "--set data.n_folds=3 makes fewer"),
    ((0,) * 9 + (1,), "add images of them")])
def test_a_class_smaller_than_the_folds_is_spread_over_as_many_as_are_advised(labels, advice):
    def problems(n_folds):
        findings = Findings()
        train = catalog_of(*labels)
        looks = SimpleNamespace(reason=np.array([""] * len(train)))
        report_classes(SimpleNamespace(train=train), looks, np.ones(len(train), bool),
                       train.group, n_folds, findings)
        return [problem.text for problem in findings.problems]

    said_first, = problems(5)
    assert advice in said_first
    if found := re.search(r"n_folds=(\d)", said_first):
        assert problems(int(found[1])) == []


# ---------------------------------------------------------------- weights

@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(modeling_weights, "hub_reachable", lambda: False)
    monkeypatch.setattr(modeling_weights, "cached_file", lambda hub_id: None)


def put_as_said(sentence, folder):
    """Put weights under the name that a sentence says."""
    name = re.search(r"(\S+\.safetensors) or \.pth", sentence)[1]
    (folder / name).write_bytes(b"")


def test_weights_put_as_a_stop_says_are_found(tmp_path, no_hub):
    with pytest.raises(UserError) as caught:
        find_weights(NAME, tmp_path, "require")
    put_as_said(str(caught.value), tmp_path)
    assert find_weights(NAME, tmp_path, "require").kind == "weights_dir"


def test_weights_put_as_a_failed_download_says_are_found(tmp_path, monkeypatch, no_hub):
    def fail(*args):
        raise OSError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(modeling_weights.huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError) as caught:
        fetch_weights(WeightsSource(NAME, "hub"))
    put_as_said(str(caught.value), tmp_path)
    assert find_weights(NAME, tmp_path, "auto").kind == "weights_dir"
    assert "--set model.pretrained=off" in str(caught.value)
    assert find_weights(NAME, "", "off").kind == "random"


def test_a_weights_file_that_cannot_be_loaded_is_left_out_as_said(tmp_path):
    path = tmp_path / f"{NAME}.safetensors"
    path.write_bytes(b"")
    kinds = {"n_classes": 2, "image_size_px": 32, "model": ModelConfig()}
    with pytest.raises(UserError, match=r"--set model\.pretrained=off"):
        build_network(NAME, weights=find_weights(NAME, tmp_path, "auto"), **kinds)
    build_network(NAME, weights=find_weights(NAME, tmp_path, "off"), **kinds)


# ---------------------------------------------------------------- the debug mode

def checked(*settings):
    return checks.check_backbone(build_config("debug", [*SMALL, *settings]), NAME)


def test_the_debug_mode_asks_for_weights_only_if_they_are_wanted(tmp_path, no_hub):
    state, _, advice = checked("model.pretrained=off")
    assert state == checks.WARNING and "safetensors" not in advice and "leave it out" in advice
    state, _, advice = checked("model.pretrained=auto")
    assert state == checks.WARNING and "pass it as --weights_dir" in advice
    path = tmp_path / re.search(r"\S+\.safetensors or (\.pth)", advice)[0].replace(
        ".safetensors or ", "")
    torch.save(timm.create_model(NAME, num_classes=0).state_dict(), path)
    state, _, advice = checked("model.pretrained=auto", f"runtime.weights_dir={tmp_path}")
    assert (state, advice) == (checks.PASSED, "")


def test_fp32_is_advised_only_where_it_is_not_in_use():
    source = WeightsSource(NAME, "weights_dir", "a.pth")
    half = build_config("debug", ["runtime.precision=bf16", "runtime.device=cpu"])
    advice = checks.after_nonfinite(half, source)
    exact = build_config("debug", [advice.split("--set ")[1], "runtime.device=cpu"])
    assert "precision" not in checks.after_nonfinite(exact, source)
    assert "replace a.pth" in checks.after_nonfinite(exact, source)


def test_the_plan_that_a_small_disk_is_sent_to_is_one(monkeypatch, numbered):
    monkeypatch.setattr(checks, "free_bytes", lambda folder: 0)
    _, _, advice = checks.check_disk(build_config("debug", SMALL), numbered)
    assert said(numbered, advice.split("see ")[1].removesuffix("--dry_run")) == ""


def test_ids_without_a_file_do_not_make_a_folder_too_large_to_be_decoded(tmp_path):
    folder = drawn(tmp_path / "contest")
    with (folder / "sample_submission.csv").open("a", encoding="utf-8") as sample:
        sample.writelines(f"ghost{i}.png,0\n" for i in range(checks.MOST_AUDITED))
    with pytest.raises(UserError, match="none of the 36 training images can be used"):
        checks.check_data(build_config("debug"), folder)


# ---------------------------------------------------------------- training

@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fit_that_diverged_gets_a_lower_rate_and_fp32_if_it_has_not(precision):
    spec = FitSpec(NAME, 0, 0, 0)
    sentence = str(diverged(spec, 5, 1e-4, 3e-3, Compute(precision)))
    asked = build_config("quick_test", re.findall(r"--set ([\w.]+=[\w.-]+)", sentence))
    assert peak_lr(None, asked.optim, True) == pytest.approx(1e-3)
    assert (asked.runtime.precision == "fp32") == (precision != "fp32")


def test_what_takes_less_memory_is_a_setting_that_exists():
    keys = known_keys()
    with pytest.raises(NoRoom) as caught:
        Room(1, torch.device("cpu")).shrink("all taken")
    for sentence in (str(caught.value), machine.fault_of(MemoryError())):
        asked = re.findall(r"--set ([\w.]+)", sentence)
        assert asked and set(asked) <= set(keys)


def test_another_disk_is_not_said_to_continue_the_run(tmp_path):
    with pytest.raises(RunError, match="begin anew with a --results_dir on another disk"):
        machine.need_space(tmp_path, 2**80, "a fit")


# ---------------------------------------------------------------- predict.py

@pytest.mark.parametrize(("given", "error", "advice"), [
    ([], MemoryError(), "(MemoryError): add --fast or --device cpu, or close"),
    (["--fast"], NoRoom(f"for one image: {SMALLER}"), "(for one image): add --device cpu, or"),
    (["--fast", "--device", "cpu"], torch.OutOfMemoryError("CUDA"), "(CUDA): close other")])
def test_predicting_advises_only_flags_that_it_takes_and_lacks(monkeypatch, capsys, given, error,
                                                               advice):
    def fail(argv):
        raise error

    monkeypatch.setattr(prediction, "predict", fail)
    assert prediction.main(["run", "image.png", *given]) == 1
    sentence = capsys.readouterr().err
    assert advice in sentence
    for flag in re.findall(r"--\w+(?: cpu)?", sentence):
        prediction.make_parser().parse_args(["run", "image.png", *given, *flag.split()])


def test_where_the_table_can_go_is_said_of_each_place(tmp_path):
    def at(out):
        return prediction.output_path(argparse.Namespace(out=str(out)), "run")

    with pytest.raises(UserError, match="add a file name to it"):
        at(tmp_path)
    assert at(tmp_path / "a.csv")
    with pytest.raises(UserError, match="create the folder first"):
        at(tmp_path / "new/a.csv")
    (tmp_path / "new").mkdir()
    assert at(tmp_path / "new/a.csv")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file' is no folder, choose another"):
        at(tmp_path / "file/a.csv")


# ---------------------------------------------------------------- packages and Ray

def test_each_optional_package_is_among_those_that_are_to_be_installed():
    listed = Path(ROOT, "requirements-extras.txt").read_text()
    wanted = set()
    for path in Path(ROOT).glob("*/*.py"):
        if "tests" not in path.parts:
            wanted |= set(re.findall(r'import_extra\("([\w.]+)"', path.read_text()))
    assert {"ray", "mlflow", "onnx"} <= wanted
    for module in wanted - {"ray.util.scheduling_strategies"}:
        assert re.search(rf"^{module.split('.')[-1]}\b", listed, re.M)


@pytest.mark.parametrize(("address", "advice"), [
    ("10.0.0.9:1", "unset it .* or set it to the address that `ray start --head` prints"),
    ("", "use --engine local")])
def test_a_ray_that_does_not_answer_is_not_blamed_on_an_address_that_is_not_set(
        monkeypatch, address, advice):
    def fail(*args, **settings):
        raise ConnectionError("no answer")

    monkeypatch.setenv("RAY_ADDRESS", address)
    executor = RayExecutor.__new__(RayExecutor)
    executor.ray = SimpleNamespace(init=fail)
    with pytest.raises(UserError, match=advice) as caught:
        executor.start()
    assert ("RAY_ADDRESS" in str(caught.value)) == bool(address)
