"""Where somebody with a folder of photos hesitated: the words that now say how to go on."""
import logging
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import predict
from config import DataConfig, build_config, resolve
from contest import decoding
from contest.intake import read_contest
from contest.targets import line_of_classes
from modeling.weights import WeightsSource
from reporting import summary
from reporting.summary import closing_lines
from running.introduction import introduce_weights, words_of_fits
from system.command import set_up_packages
from tests.test_formats import images
from utils import UserError


@pytest.mark.parametrize(("counts", "words"), [([30, 30], "30 images each"),
                                               ([12, 25], "12 to 25 images each")])
def test_classes_of_one_size_are_counted_once(counts, words):
    line = line_of_classes("names", np.array(counts), None, ("a", "b"), "'a', 'b'", "")
    assert f", names, {words}: " in line


def test_a_run_without_test_images_ends_with_the_command_for_new_ones(monkeypatch):
    monkeypatch.setattr(summary, "source_lines", lambda _: [])
    monkeypatch.setattr(summary, "score_lines", lambda *_: [])
    final = {"metric": "macro_f1", "better": "larger", "rounds": [1], "score": {}, "seconds": 9.0,
             "plan": {"estimated_seconds": None}, "submission": "", "warnings": []}
    said = "\n".join(closing_lines(final, ["row"], "training_results/my photos"))
    assert "python predict.py 'training_results/my photos' IMAGES_OR_FOLDER" in said
    assert predict.make_parser().parse_args(["training_results/my photos", "x"]).images == ["x"]
    final["submission"] = "submission_x.csv"
    assert "predict.py" not in "\n".join(closing_lines(final, ["row"], "x"))


def test_a_warning_of_random_weights_names_the_command_that_fetches_others():
    said = []
    config = SimpleNamespace(runtime=SimpleNamespace(weights_dir=""),
                             model=SimpleNamespace(pretrained="auto", backbones=("a",)))
    setup = SimpleNamespace(config=config, instead_of=(),
                            weights={"a": WeightsSource("a", "random")})
    introduce_weights(setup, SimpleNamespace(say=lambda *_: None, warn=said.append))
    assert "--fetch_weights FOLDER downloads them" in said[-1]


def test_a_run_that_trains_no_network_does_not_count_epochs():
    config = resolve(build_config("quick_test", overrides=["optim.epochs=3", "data.run_folds=1"]),
                     gpu_memory_bytes=0, n_train=180, metric="macro_f1")
    assert "x 1 round(s) = 1 fit of 3 epochs at 128 px" in words_of_fits(config)
    nothing = replace(config, model=replace(config.model, backbones=()))
    assert words_of_fits(nothing) == "no network is trained; images are read at 128 px"


def test_torch_does_not_speak_of_a_compiler_for_a_gpu_that_is_not_there(monkeypatch):
    logger = logging.getLogger("torch.utils.cpp_extension")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    set_up_packages()
    assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)


# ---------------------------------------------------------------- a folder that is not as it should

@pytest.fixture
def photos(tmp_path):
    """A folder with a class folder of photos for each of three classes."""
    folder = tmp_path / "mine" / "photos"
    for k, name in enumerate(("cat", "dog", "trash")):
        images(folder / name, [f"IMG_{k}{i}.jpg" for i in range(5)], 10 * k)
    return folder


def problems(folder):
    return [p.text for p in read_contest(folder, DataConfig()).problems]


def pack(path, folder):
    """Move a folder into a zip of its images, as a desktop packs them."""
    with zipfile.ZipFile(path, "w") as packed:
        for image in sorted(folder.iterdir()):
            packed.write(image, f"{folder.name}/{image.name}")
            packed.writestr(f"__MACOSX/{folder.name}/._{image.name}", "x")
            image.unlink()
    folder.rmdir()


def test_a_class_folder_that_is_still_packed_stops_the_run(photos):
    pack(photos / "dog.zip", photos / "dog")
    with pytest.raises(UserError, match=r"'dog.zip' holds 5 images \('dog/IMG_10.jpg'.* that the "
                                        r"contest folder lacks: unpack it there, or move it away"):
        read_contest(photos, DataConfig())


def test_test_images_that_are_still_packed_are_named(photos):
    images(photos / "test", [f"new{i}.jpg" for i in range(4)], 90)
    pack(photos / "test.zip", photos / "test")
    said = problems(photos)
    assert any("no test images" in text for text in said)
    assert any(text.startswith("'test.zip' holds 4 images (") for text in said)


def test_an_archive_that_was_unpacked_or_is_broken_is_not_worth_a_word(photos):
    with zipfile.ZipFile(photos / "all.zip", "w") as packed:
        for image in photos.rglob("*.jpg"):
            packed.write(image, image.relative_to(photos))
    (photos / "torn.zip").write_bytes(b"PK no zip")
    assert not any(".zip" in text for text in problems(photos))


def test_the_folder_above_the_one_of_the_classes_is_told_which_to_name(photos):
    images(photos.parent / "new", [f"new{i}.jpg" for i in range(4)], 90)
    with pytest.raises(UserError, match=r"takes one, and so does naming its folder 'photos' as "
                                        r"--data_path$"):
        read_contest(photos.parent, DataConfig())


def test_the_folder_of_one_class_is_told_to_name_the_one_above(photos):
    with pytest.raises(UserError, match=r"'.*/cat' holds 5 images, .*: if it is the folder of one "
                                        r"class, name the one above it, '.*/photos'; supported"):
        read_contest(photos / "cat", DataConfig())


def test_photos_that_need_a_package_are_counted_before_any_is_read(photos, monkeypatch):
    for path in sorted((photos / "dog").iterdir())[:3]:
        path.rename(path.with_suffix(".HEIC"))
    monkeypatch.setattr(decoding, "IMAGE_FORMATS", ("JPEG",))
    assert any(text.startswith("3 HEIC photos ('dog/IMG_10.HEIC', ") and text.endswith(
        "without pillow-heif: pip install -r requirements-extras.txt -c constraints.txt, or "
        "convert them to JPEG") for text in problems(photos))
    monkeypatch.setattr(decoding, "IMAGE_FORMATS", ("JPEG", "HEIF"))
    assert not any("HEIC" in text for text in problems(photos))


def test_what_phones_and_desktops_leave_beside_photos_is_not_worth_a_word(photos):
    before = problems(photos)
    for folder in (photos, photos / "cat", photos / "dog"):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "IMG_1.AAE"):
            (folder / name).write_bytes(b"\xd0\xcf\x11\xe0 x")
    assert problems(photos) == before


def test_a_class_folder_named_as_if_it_held_none_is_asked_about_in_good_english(photos):
    assert ("1 class folder ('trash') is named as if it held no class: move it out of the contest "
            "folder if so") in problems(photos)
    images(photos / "backup", ["b.jpg"], 95)
    assert any(text.startswith("2 class folders ('backup', 'trash') are named as if they held no "
                               "class: move those without one out of") for text in problems(photos))
