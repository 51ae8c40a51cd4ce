"""Looks are told on drawn pages and scenes; groups share out all classes; distortions of one look
are found as such."""
import cv2
import numpy as np
import pytest

from config import build_config
from shift.distortions import Distortion, ShiftPolicy, distort
from shift.groups import find_styles, make_groups, minorities
from shift.match import match_shift
from utils import UserError

CLASSES = ("form", "letter", "car", "tree")
LOOKS = ("document", "document", "photo", "photo")


def page(kind, rng, side=160):
    """Lines of text on paper; a form has rules as well."""
    image = np.full((side, int(side * 0.8), 3), rng.integers(200, 250), np.uint8)
    for y in range(14, side - 6, 12):
        cv2.putText(image, "".join(rng.choice(list("abc defgh ijk"), 18)), (6, y),
                    cv2.FONT_HERSHEY_SIMPLEX, 0.35, rng.integers(0, 80, 3).tolist(), 1)
        if kind == "form":
            cv2.line(image, (4, y + 4), (120, y + 4), (60, 60, 60), 1)
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def scene(kind, rng, side=160):
    """Large soft shapes on a gradient; a tree stands upright."""
    image = np.linspace(rng.integers(20, 120, 3), rng.integers(100, 220, 3), side)[:, None,
                                                                                   :].repeat(
                                                                                       int(side
                                                                                           * 0.8),
                                                                                       1)
    for _ in range(6):
        centre, axes = rng.integers(10, side - 20, 2).tolist(), rng.integers(8, 45, 2)
        axes = sorted(axes.tolist(), reverse=kind == "car")
        cv2.ellipse(image, centre, axes, 0, 0, 360, rng.integers(0, 255, 3).tolist(), -1)
    image = cv2.GaussianBlur(image, (0, 0), 1.5)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def images_of(n, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    return [(page if k < 2 else scene)(CLASSES[k], rng) for k in labels], labels


def save(images, folder):
    folder.mkdir()
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i:04}.png"), image[..., ::-1])
    return sorted(folder.iterdir())


def test_looks_are_told_by_strokes_on_an_even_ground():
    assert find_styles(*images_of(60, 0), len(CLASSES)) == LOOKS


def test_every_class_is_in_one_group_and_few_are_a_minority():
    groups = make_groups(CLASSES, [90, 30, 80, 100], LOOKS, "auto")
    assert {g.name: g.classes for g in groups} == {
        "document": ("form",), "document, few images": ("letter",), "photo": ("car", "tree")}
    assert [g.n_images for g in groups] == [90, 30,
                                            180] and [g.is_minority for g in groups] == [False,
                                                                                         True,
                                                                                         False]
    assert minorities([5, 5, 5, 3]).tolist() == [False] * 4
    assert [g.classes for g in make_groups(CLASSES, [9] * 4, None, "off")] == [CLASSES]


def test_groups_by_hand_overrule_what_is_found():
    groups = make_groups(CLASSES, [90, 30, 80, 100], LOOKS, "photo=form;minority=tree")
    assert {g.name: g.classes for g in groups} == {
        "document": ("letter",), "photo": ("form", "car"), "photo, few images": ("tree",)}


@pytest.mark.parametrize("setting, named", [
    ("pictures=a", "'pictures=a'"), ("photo=a;document=a", "both for a"), ("a", "'a'")])
def test_bad_groups_are_named(setting, named):
    with pytest.raises(UserError, match=named):
        build_config("quick_test", [f"augment.groups={setting}"])


def test_a_group_of_an_unknown_class_is_named():
    with pytest.raises(UserError, match="got 'boat'"):
        make_groups(CLASSES, [1] * 4, LOOKS, "photo=boat")


def test_a_distortion_of_photos_alone_is_found_as_such(tmp_path):
    train, labels = images_of(240, 1)
    test, test_labels = images_of(240, 2)
    noise = ShiftPolicy((Distortion("noise", 1.0, 15, 30),))
    test = [distort(image, noise, i) if LOOKS[k] == "photo" else image
            for i, (image, k) in enumerate(zip(test, test_labels, strict=True))]
    report = match_shift(save(train, tmp_path / "train"), labels, save(test, tmp_path / "test"),
                         seed=0, workers=2, classes=CLASSES, groups="auto")
    policy = {g.look: g.policy for g in report.groups}
    assert policy["photo"].get("noise").probability > 0.8 and policy["document"].get(
        "noise") is None
    assert any("of photo: noise" in line for line in report.describe())
    assert not report.is_empty
