"""What a later start could read is never taken for damage: of an image, of weights, of a stage.

A fault of the machine ends the run in one sentence; the next start ends as an undisturbed one.
"""
import ast
import errno
import os
import re

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from safetensors.torch import save_file

import contest.intake
import demo_contest
import modeling.network
import modeling.weights
import system.stages
import utils
from config import ModelConfig
from contest.audit import look_at
from contest.decoding import decode_image, needs_decoder
from grandmaster_train import main
from modeling.compute import pick_device, seconds_of
from modeling.network import build_network
from modeling.train import read_tensors
from modeling.weights import WeightsSource, fetch_weights
from running.executor import owner_of
from running.introduction import kept
from shift.match import load
from system import stages
from system.machine import fault_of
from tests.conftest import small_argv
from tests.test_faults import ended
from tests.test_layers import PRODUCT, ROOT
from tests.test_resume import outcome
from utils import RunError, UserError


def system_error(code):
    return OSError(code, os.strerror(code))


FAULTS = {
    "MemoryError": MemoryError(),
    "CUDA out of memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "a decoder without memory": OSError("out of memory error when reading image file"),
    **{errno.errorcode[code]: system_error(code) for code in (
        errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES, errno.ENOSPC)},
}


@pytest.fixture(params=FAULTS)
def fault(request):
    return FAULTS[request.param]


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(utils, "NETWORK_PAUSES_SECONDS", (0.0, 0.0))


def failing(error, real=None, name=""):
    """A function that raises the error; with `real` only where an argument ends with the name."""
    def fail(*args, **kwargs):
        if real is None or any(str(arg).endswith(name) for arg in args):
            raise error
        return real(*args, **kwargs)

    return fail


# ---------------------------------------------------------------- every broad except is explained

BROAD = {"Exception", "BaseException", "OSError", "IOError", "EnvironmentError"}


def names_in(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if node else set()


def broad_catches(path):
    """Yields the number of each line of a file that catches what it does not name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler) and (
                node.type is None or names_in(node.type) & BROAD):
            yield node.lineno
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress") and any(
                names_in(arg) & BROAD for arg in node.args):
            yield node.lineno
        if isinstance(node, ast.keyword) and node.arg == "ignore_errors":
            yield node.value.lineno


def is_explained(lines, number):
    """Whether a line, the one before or the one after it holds a comment, or it asks which error
    it is."""
    near = lines[max(0, number - 2):number + 1]
    return any("#" in line for line in near) or "error.errno" in lines[number]


def test_whatever_catches_more_than_it_names_says_why():
    unexplained = []
    for path in PRODUCT:
        lines = path.read_text().splitlines()
        unexplained += [f"{path.relative_to(ROOT)}:{number} {lines[number - 1].strip()}"
                        for number in broad_catches(path) if not is_explained(lines, number)]
    assert unexplained == []


# ---------------------------------------------------------------- images

@pytest.mark.parametrize("place", ["open", "Image.load", "Image.getexif", "Image.convert"])
def test_a_fault_of_the_machine_in_a_decoder_is_no_damage(tmp_path, monkeypatch, fault, place):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    owner, _, name = place.rpartition(".")
    with monkeypatch.context() as patch, pytest.raises(type(fault)):
        patch.setattr(getattr(Image, owner) if owner else Image, name, failing(fault))
        decode_image(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png").shape == (30, 40, 3)


@pytest.mark.parametrize("error", [
    OSError("image file is truncated (3 bytes not processed)"), SyntaxError("broken PNG file"),
    OSError(-2), EOFError(), KeyError(3), RuntimeError("decoding error")])
def test_a_decoders_own_error_is_damage(tmp_path, monkeypatch, error):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", failing(error))
    with pytest.raises(ValueError, match=r"truncated|damaged"):
        decode_image(tmp_path / "a.png")


def test_the_image_for_which_memory_is_too_short_is_named(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", failing(FAULTS["a decoder without memory"]))
    with pytest.raises(RunError, match=r"not enough memory to read .*a\.png \(out of memory"):
        look_at(str(tmp_path / "a.png"), 0, None, 32, 65535)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ESTALE, errno.EBUSY])
def test_a_file_that_the_machine_cannot_open_now_is_not_left_out(tmp_path, monkeypatch, code):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    monkeypatch.setattr(os, "open", failing(system_error(code)))
    monkeypatch.setattr(contest.intake, "digest_file", failing(system_error(code)))
    for read in (decode_image, needs_decoder, contest.intake.digest_or_empty):
        with pytest.raises((OSError, RunError)) as caught:
            read(path)
        assert isinstance(caught.value, RunError) or caught.value.errno == code


def test_images_that_the_audit_read_are_not_left_out_of_the_shift(tmp_path):
    with pytest.raises(RunError, match=r"gone\.png was read before, but cannot be read \(No such"):
        load([tmp_path / "gone.png"], 0, 1, 10, 64)


# ---------------------------------------------------------------- weights, devices, small files

def test_a_fault_of_the_machine_is_no_fault_of_a_weights_file(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(modeling.network, "load_state_dict", failing(fault))
    source = WeightsSource("resnet10t", "weights_dir", path=str(tmp_path / "x.pth"))
    with pytest.raises(type(fault)):
        build_network("resnet10t", n_classes=2, image_size_px=32, weights=source,
                      model=ModelConfig())


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_a_fault_of_the_machine_is_no_damage_of_a_fits_weights(tmp_path, monkeypatch, code):
    save_file({"x": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr("pathlib.Path.read_bytes", failing(system_error(code)))
        read_tensors(tmp_path / "weights.safetensors")
    assert caught.value.errno == code and "weights.safetensors" in fault_of(caught.value)
    assert list(read_tensors(tmp_path / "weights.safetensors")) == ["x"]


def test_a_full_disk_is_not_the_hubs_fault(monkeypatch):
    source = WeightsSource("resnet10t.c3_in1k", "hub")
    for error, expected in ((system_error(errno.ENOSPC), OSError),
                            (system_error(errno.EACCES), OSError),
                            (system_error(errno.ECONNREFUSED), UserError)):
        monkeypatch.setattr("huggingface_hub.hf_hub_download", failing(error))
        with pytest.raises(expected):
            fetch_weights(source)
    assert issubclass(HfHubHTTPError, OSError)


def test_a_busy_gpu_is_no_wrong_device_and_a_lost_one_no_slow_way(monkeypatch):
    monkeypatch.setattr(torch, "zeros", failing(FAULTS["CUDA out of memory"]))
    with pytest.raises(torch.OutOfMemoryError):
        pick_device("cuda")
    with pytest.raises(RuntimeError, match="CUDA error"):
        seconds_of(failing(RuntimeError("CUDA error: unspecified launch failure")))
    assert seconds_of(failing(RuntimeError("not implemented for 'BFloat16'"))) == float("inf")


@pytest.mark.parametrize("read", [
    lambda folder: kept(folder / "config.json"),
    owner_of,
    lambda folder: stages.digests_in(folder / "manifest.json"),
    lambda folder: stages.damaged_files(folder),
    lambda folder: demo_contest._is_drawn(folder, {}),
], ids=["kept", "owner", "digests", "damaged", "demo"])
def test_a_small_file_that_cannot_be_read_now_is_not_missing(tmp_path, monkeypatch, read):
    (tmp_path / "any").write_text("")
    monkeypatch.setattr("pathlib.Path.read_text", failing(system_error(errno.EIO)))
    with pytest.raises(OSError, match="Input/output error"):
        read(tmp_path)


# ---------------------------------------------------------------- through the command

@pytest.fixture(scope="module")
def undisturbed(contest, tmp_path_factory):
    """The outcome of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(small_argv(contest, folder)) == 0
    return outcome(folder / "run")


@pytest.mark.parametrize(("place", "error", "sentence"), [
    ("PIL.Image.Image.load", MemoryError(), "not enough memory to read "),
    ("PIL.Image.Image.load", system_error(errno.EMFILE), "a file could not be used"),
    ("contest.intake.digest_file", system_error(errno.EIO), "a file could not be used"),
    ("os.open", system_error(errno.EACCES), "1 image ('train/a004.png (cannot be read (Perm"),
])
def test_what_the_machine_did_not_read_is_read_by_the_next_start(
        contest, undisturbed, tmp_path, monkeypatch, capsys, place, error, sentence):
    with monkeypatch.context() as patch:
        real = None if place.startswith("PIL") else (os.open if place == "os.open"
                                                     else utils.digest_file)
        patch.setattr(place, failing(error, real, "train/a004.png"))
        assert main(small_argv(contest, tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.startswith("the run failed: ") and sentence in said and said.count("\n") == 1
    assert not list(tmp_path.glob("run/**/*-" + "[0-9a-f]" * 12))     # nothing is sealed
    assert main(small_argv(contest, tmp_path)) == 0
    assert ended(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_stage_that_cannot_be_read_now_is_not_made_again(contest, undisturbed, tmp_path,
                                                           monkeypatch, capsys, name):
    argv = small_argv(contest, tmp_path)
    assert main(argv) == 0
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/**/manifest.json")}
    with monkeypatch.context() as patch:
        for reader in ("read_json", "digest_file"):
            real = getattr(system.stages, reader)
            patch.setattr(system.stages, reader, failing(system_error(errno.EIO), real, name))
        assert main(argv) == 1
    assert re.search("a file could not be used .*Input/output", capsys.readouterr().err)
    assert main(argv) == 0
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/**/manifest.json")}
    assert ended(tmp_path / "run", undisturbed)
