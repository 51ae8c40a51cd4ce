"""Styles are told on drawn pages and scenes; groups share out all classes; distortions of one style
are found as such."""
import json

import cv2
import numpy as np
import pytest

from config import build_config
from shift import groups as groups_module
from shift.distortions import Distortion, ShiftPolicy, distort
from shift.groups import (
    ClassGroup,
    Jitter,
    by_class,
    find_styles,
    is_document,
    make_groups,
    minorities,
    stroke_and_ground,
)
from shift.match import match_shift
from utils import UserError

CLASSES = ("form", "letter", "car", "tree")
STYLES = ("document", "document", "photo", "photo")


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


def test_styles_are_told_by_strokes_on_an_even_ground():
    assert find_styles(*images_of(60, 0), len(CLASSES)) == STYLES


def test_every_class_is_in_one_group_and_few_are_a_minority():
    groups = make_groups(CLASSES, [90, 30, 80, 100], STYLES, "auto")
    assert {g.name: g.classes for g in groups} == {
        "document": ("form",), "document, few images": ("letter",), "photo": ("car", "tree")}
    assert [g.n_images for g in groups] == [90, 30,
                                            180] and [g.is_minority for g in groups] == [False,
                                                                                         True,
                                                                                         False]
    assert minorities([5, 5, 5, 3]).tolist() == [False] * 4
    assert [g.classes for g in make_groups(CLASSES, [9] * 4, None, "off")] == [CLASSES]


def test_files_call_the_style_look():
    document, photo = make_groups(CLASSES, [1] * 4, STYLES, "auto")
    values = json.loads(json.dumps(photo.to_json()))
    assert list(values) == ["name", "look", "classes", "n_images", "is_minority", "policy"]
    assert values["look"] == "photo" and ClassGroup.from_json(values) == photo != document


def test_groups_by_hand_overrule_what_is_found():
    groups = make_groups(CLASSES, [90, 30, 80, 100], STYLES, "photo=form;minority=tree")
    assert {g.name: g.classes for g in groups} == {
        "document": ("letter",), "photo": ("form", "car"), "photo, few images": ("tree",)}


@pytest.mark.parametrize("setting, named", [
    ("pictures=a", "'pictures=a'"), ("photo=a;document=a", "both for a"), ("a", "'a'")])
def test_bad_groups_are_named(setting, named):
    with pytest.raises(UserError, match=named):
        build_config("quick_test", [f"augment.groups={setting}"])


def test_a_group_of_an_unknown_class_is_named():
    with pytest.raises(UserError, match="got 'boat'"):
        make_groups(CLASSES, [1] * 4, STYLES, "photo=boat")


def ruled(ink, paper, scale=1):
    """A square of 384 px times `scale`, of which lines are a sixth: 4 px thick, 20 px apart."""
    image = np.full((384 * scale, 384 * scale, 3), paper, np.uint8)
    for y in range(12 * scale, 384 * scale, 24 * scale):
        image[y:y + 4 * scale] = ink
    return image


@pytest.mark.parametrize("image", [ruled(20, 230), ruled(230, 20), ruled(20, 230, 2),
                                   ruled(205, 230), ruled(230, 205)])
def test_strokes_are_the_share_of_thin_lines_dark_or_light_at_any_size(image):
    assert stroke_and_ground(image) == pytest.approx((1 / 6, 1.0))


def test_faint_lines_and_soft_shades_are_even_ground():
    for image in (ruled(206, 230), ruled(230, 206)):
        assert stroke_and_ground(image) == pytest.approx((0.0, 1.0))
    for slope, even in ((2.0, 1.0), (6.0, 0.0)):        # grey levels a pixel
        x = np.abs(np.arange(384) % 80 - 40) * slope
        image = np.repeat(np.tile(x, (384, 1))[..., None], 3, axis=2).astype(np.uint8)
        strokes, ground = stroke_and_ground(image)
        assert strokes < 0.05 and ground == pytest.approx(even, abs=0.35)
    half = ruled(20, 230)
    half[:, 192:] = np.kron(np.indices((24, 12)).sum(0) % 2, np.ones((16, 16)))[..., None] * 200
    strokes, ground = stroke_and_ground(half)
    assert strokes == pytest.approx(1 / 12, abs=0.01) and 0.5 < ground < 0.9
    # a wide one is measured by its long side
    assert stroke_and_ground(ruled(20, 230)[:192])[0] == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize(("strokes", "even", "document"), [
    (0.04, 0.5, True), (0.039, 1.0, False), (0.5, 0.49, False)])
def test_a_document_has_both_strokes_and_ground(monkeypatch, strokes, even, document):
    monkeypatch.setattr(groups_module, "stroke_and_ground", lambda image: (strokes, even))
    assert is_document(None) == document


@pytest.mark.parametrize(("votes", "styles"), [
    ([1, 1, 0, 0, 0, 1], ("document", "photo", "document")),     # half of a class, half of all
    ([1, 0, 0, 0, 0, 1], ("document", "photo", "photo")),
    ([1, 1, 0, 1, 1, 1], ("document", "document", "document"))])
def test_a_class_has_the_style_of_most_of_its_images_or_else_of_all(monkeypatch, votes, styles):
    monkeypatch.setattr(groups_module, "is_document", bool)
    assert find_styles(votes, [0, 0, 1, 1, 1, 0], 3, workers=1) == styles
    assert find_styles([1, 0, 0, 0, 0], [0, 0, 1, 1, 1], 2) == ("document", "photo")


def test_a_minority_has_less_than_three_fifths_of_the_median_class():
    assert minorities([100, 100, 100, 60, 59, 0]).tolist() == [False] * 4 + [True] * 2
    assert minorities([0, 0]).tolist() == [False, False]
    assert minorities([10, 0, 0, 0]).tolist() == [False, True, True, True]
    assert minorities([1, 2, 1]).tolist() == [False, False, False]


def test_a_minority_is_shown_in_more_ways():
    plain = ClassGroup("all", "any", ("a",), 9)
    few = ClassGroup("few", "any", ("b",), 2, is_minority=True)
    assert plain.jitter == Jitter()
    for name, value in vars(Jitter()).items():
        assert getattr(few.jitter, name) == pytest.approx(1.25 * value)


def test_each_class_gets_the_one_object_of_its_group():
    groups = make_groups(CLASSES, [90, 30, 80, 100], STYLES, "auto")
    made = []

    def make(group):
        made.append(group.name)
        return [group.name]

    given = by_class(groups, ("tree", "letter", "car", "form"), make)
    assert given == [["photo"], ["document, few images"], ["photo"], ["document"]]
    assert given[0] is given[2] and sorted(made) == sorted(g.name for g in groups)


def test_without_groups_all_classes_are_one():
    group, = make_groups(CLASSES, [9, 8, 1, 2], None, "off")
    assert group == ClassGroup("all", "any", CLASSES, 20)
    assert type(group.n_images) is int and not group.is_minority
    first, second = make_groups(("a", "b"), np.array([10, 1]), ("photo", "photo"), "minority=a")
    assert (first.name, first.classes) == ("photo", ("b",)) and first.style == "photo"
    assert (second.name, second.n_images) == ("photo, few images", 10) and second.is_minority
    assert type(second.n_images) is int and not first.is_minority
    by_hand = make_groups(CLASSES, [9] * 4, STYLES, "document=car")
    assert {g.name: g.classes for g in by_hand} == {"document": ("form", "letter", "car"),
                                                    "photo": ("tree",)}


def test_a_distortion_of_photos_alone_is_found_as_such(tmp_path):
    train, labels = images_of(240, 1)
    test, test_labels = images_of(240, 2)
    noise = ShiftPolicy((Distortion("noise", 1.0, 15, 30),))
    test = [distort(image, noise, i) if STYLES[k] == "photo" else image
            for i, (image, k) in enumerate(zip(test, test_labels, strict=True))]
    report = match_shift(save(train, tmp_path / "train"), labels, save(test, tmp_path / "test"),
                         seed=0, workers=2, classes=CLASSES, groups="auto")
    policy = {g.style: g.policy for g in report.groups}
    assert policy["photo"].get("noise").probability > 0.8 and policy["document"].get(
        "noise") is None
    assert any("of photo: noise" in line for line in report.describe())
    assert not report.is_empty
