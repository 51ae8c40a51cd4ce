"""On small drawn images: nothing is found where nothing is, single distortions are found, natural
mirrors are told."""
import errno
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import utils
from benchmarks.damages import KINDS_OF
from benchmarks.finds import precision_and_recall
from config import AugmentConfig
from modeling.augment import train_augment
from modeling.inference import views_for
from shift import match
from shift.bank import AXES, DISTORTED_PX, draw_values, trace_row
from shift.distortions import (
    DISTORTIONS,
    SYMMETRIES,
    Distortion,
    ShiftPolicy,
    apply,
    distort,
    turn,
)
from shift.groups import ClassGroup
from shift.match import coupled, load, match_shift, policy_of, with_compression, with_grey_noise
from shift.orientation import (
    ORIENTATIONS,
    UPRIGHT,
    count_orientations,
    flip_shares,
    local_patterns,
    orientation_mixtures,
    orientation_row,
    some_of_classes,
)
from shift.reading import Belief, KindReading, fit_range
from shift.report import ShiftReport
from shift.search import energy_distance, simpler
from shift.traces import border_statistics, jpeg_quality, statistics
from utils import RunError

SIDE = 96


def letter(text, rng):
    """A letter on a shaded ground, at a random place, size and grey."""
    image = np.full((SIDE, SIDE, 3), rng.integers(150, 230, 3), np.uint8)
    place = (int(rng.integers(20, 40)), int(rng.integers(60, 80)))
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(1.3, 2),
                rng.integers(0, 90, 3).tolist(), 3)
    shade = np.linspace(-15, 15, SIDE)[None, :, None] * rng.uniform(-1, 1) + rng.normal(0, 1.5,
                                                                                        image.shape)
    return np.clip(image + shade, 0, 255).astype(np.uint8)


def ring(n_bars, rng):
    """A ring or a cross: the same in all eight symmetries."""
    image = np.full((SIDE, SIDE, 3), rng.integers(150, 230, 3), np.uint8)
    centre, colour = (SIDE - 1) / 2 + rng.uniform(-12, 12, 2), rng.integers(0, 90, 3).tolist()
    if n_bars:
        cv2.drawMarker(image, centre.astype(int).tolist(), colour, cv2.MARKER_CROSS,
                       int(rng.integers(30, 60)), 5)
    else:
        cv2.circle(image, centre.astype(int).tolist(), int(rng.integers(15, 30)), colour, 4)
    return turn(image, (None, *SYMMETRIES)[rng.integers(8)])


def images_of(draw, kinds, n, seed):
    rng = np.random.default_rng(seed)
    return [draw(kinds[i % len(kinds)], rng) for i in range(n)], np.arange(n) % len(kinds)


def save(images, folder):
    folder.mkdir()
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i:04}.png"), image[..., ::-1])
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    images, labels = images_of(letter, "FRG4", 200, seed=0)
    return save(images, tmp_path_factory.mktemp("letters") / "train"), labels


def found(train, tmp_path, *distortions, **settings):
    images, _ = images_of(letter, "FRG4", 200, seed=1)
    policy = ShiftPolicy(tuple(Distortion(*d) for d in distortions), **settings)
    test = [distort(image, policy, i, lambda s: images[s % len(images)]) for i,
            image in enumerate(images)]
    return match_shift(*train, save(test, tmp_path / "test"), seed=0, workers=2, rows=1000)


def test_no_shift_gives_an_empty_policy_and_a_report_that_survives_json(train, tmp_path):
    report = found(train, tmp_path)
    assert report.policy.is_empty and report.natural_symmetries == () and report.symmetries == (
        "identity",)
    assert report.auc_before["value"] < 0.65
    assert ShiftReport.from_json(json.loads(json.dumps(report.to_json()))).policy == report.policy
    assert any("no distortion" in line for line in report.describe())


def test_flips_and_blur_are_found_together(train, tmp_path):
    policy = found(train, tmp_path, ("flip_vertical", 0.5, 0, 0), ("blur", 1.0, 1.0, 2.5)).policy
    assert policy.get("flip_vertical").probability == pytest.approx(0.5, abs=0.15)
    blur = policy.get("blur")
    assert blur.probability > 0.8 and blur.low > 0.6 and blur.high < 3.5
    assert all(d.probability <= 0.2 for d in policy.distortions if d.kind not in ("flip_vertical",
                                                                                  "blur"))


def test_a_second_kind_goes_where_the_first_alone_explains_the_test_set(train, tmp_path):
    """From a reading that holds two kinds for what one did: the search may end there, by its seed
    and the processor."""
    images, _ = images_of(letter, "FRG4", 200, seed=1)
    policy = ShiftPolicy((Distortion("blur", 1.0, 1.0, 2.5),))
    test = [trace_row(distort(image, policy, i)) for i, image in enumerate(images)]
    both = KindReading("motion_blur", 0.95, 3.0, 3.69, 234, 4), KindReading("blur", 1.0, 0.91, 1.92,
                                                                            1166, 0)
    found = Belief({finding.kind: finding for finding in both})
    left = simpler(found, load(train[0], 0, 2, 200, DISTORTED_PX), np.array(test), 0, 2, 400).kinds
    assert set(left) == {"blur"} and left["blur"].low > 0.6 and 2 < left["blur"].high < 3.5


def test_two_kinds_that_both_are_there_stay(train, tmp_path):
    images, _ = images_of(letter, "FRG4", 200, seed=1)
    policy = ShiftPolicy((Distortion("rotate", 1.0, -25, 25), Distortion("scale", 1.0, 0.6, 0.75)),
                         fill=(0.0, 1.0, 0.0, 0.0))
    test = [trace_row(distort(image, policy, i)) for i, image in enumerate(images)]
    kinds = {d.kind: KindReading(d.kind, 1.0, d.low, d.high, 500, 4) for d in policy.distortions}
    found = Belief(kinds, fill=policy.fill, expand=0.0, geometry_first=0.0)
    assert set(simpler(found, load(train[0], 0, 2, 200, DISTORTED_PX), np.array(test), 0, 2,
                       400).kinds) == set(kinds)


def test_energy_distance_sees_a_second_difference_and_no_outlier():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 5))
    same = rng.normal(size=(200, 5))
    shift = np.array([9, 0, 0, 0, 0])
    alike, moved = (energy_distance(same + k * shift, rows) for k in range(2))
    further = energy_distance(same + shift + np.array([0, 9, 0, 0, 0]), rows)
    assert alike < 0.02 < moved < 0.8 * further
    rows[0] = 1e6
    assert energy_distance(same + shift, rows) == pytest.approx(moved, rel=0.05)
    assert energy_distance(1000 * same, 1000 * rows) == pytest.approx(energy_distance(same, rows))
    # by its definition, on quantiles among the test rows: of 3 and 9 in (1, 3, 3, 5), 0.5 and 1
    few = energy_distance(np.array([[3.0], [9.0]]), np.array([[1.0], [3.0], [3.0], [5.0]]))
    test = [0.125, 0.5, 0.5, 0.875]
    assert few == pytest.approx(
        2 * np.mean([abs(a - b) for a in (0.5, 1.0) for b in test]) - 0.25
        - np.mean([abs(a - b) for a in test for b in test]))
    assert energy_distance(np.ones((5, 2)), np.ones((4, 2))) == 0


def test_a_belief_without_a_kind_draws_all_others_alike():
    kinds = {kind: KindReading(kind, 0.6, low, high, 1, 0)
             for kind, low, high in (("ghost", 0.2, 0.4), ("offset", -80, -20), ("jpeg", 20, 60))}
    without = {kind: reading for kind, reading in kinds.items() if kind != "ghost"}
    for seed in range(30):
        drawn = draw_values(np.random.default_rng(seed), Belief(kinds))
        drawn.pop("ghost", None)
        assert drawn == draw_values(np.random.default_rng(seed), Belief(without))


def test_finds_are_scored_by_what_a_recipe_holds_and_may_be_read_as():
    runs = [("dark", {"offset", "noise", "ghost"}), ("scan", {"noise"}),
            ("phone", {"rotate", "blur", "brightness", "impulse", "jpeg", "contrast"})]
    assert precision_and_recall(runs) == (9 / 10, 8 / 9)
    assert precision_and_recall([("scan", set())]) == (None, 0.0)
    assert precision_and_recall([]) == (None, None)
    assert all(kinds <= DISTORTIONS.keys() for pair in KINDS_OF.values() for kinds in pair)


def test_a_range_is_as_wide_as_the_rows_leave_it_open():
    """Rows that only tell that there is an offset below zero, and rows that tell which."""
    classes = AXES["offset"].classes.max() + 1
    below = AXES["offset"].edges[AXES["offset"].edges < 0]
    vague = np.full((200, classes), 0.01)
    vague[:, 1:len(below)] = 5.0
    exact = np.full((200, classes), 0.01)
    exact[:, 3] = 20.0
    (_, low, high, _), (p, lowest, highest, gain) = (fit_range(r, "offset") for r in (vague, exact))
    assert high - low > 30 and p > 0.85 and gain > 0
    assert below[2] - 3 < lowest < highest < below[3] + 3


@pytest.mark.slow
def test_an_offset_that_clips_is_found_and_nothing_else(train, tmp_path):
    policy = found(train, tmp_path, ("offset", 0.8, -100, -60)).policy
    assert [d.kind for d in policy.distortions] == ["offset"]
    offset = policy.get("offset")
    assert offset.probability == pytest.approx(0.8, abs=0.15)
    assert offset.low == pytest.approx(-100, rel=0.2) and offset.high == pytest.approx(-60, rel=0.2)


@pytest.mark.slow
def test_rotation_and_its_fill_are_found(train, tmp_path):
    policy = found(train, tmp_path, ("rotate", 1.0, -25, 25), fill=(0.0, 1.0, 0.0, 0.0)).policy
    turned = policy.get("rotate")
    assert (
        turned.probability > 0.8
        and turned.low == pytest.approx(-25, abs=8)
        and turned.high == pytest.approx(25, abs=8)
    )
    assert policy.fill[1] > 0.8


def symmetries_used(train, labels, test):
    """Those of test-time views, and those that training images are turned by, natural or matched.
    """
    report = match_shift(train, labels, test, seed=0, workers=2, rows=400)
    views = {view.symmetry for view in views_for(report.symmetries, 8)}
    turns = [train_augment(AugmentConfig(), g, image_size_px=64, resize="letterbox").policy
             for g in report.groups]
    return views, {kind for p in turns for kind in (*p.natural,
                                                    *(d.kind for d in p.distortions
                                                      if d.kind in SYMMETRIES))}


@pytest.mark.parametrize(("draw", "kinds", "used"), [
    (letter, "bdpq", set()), (ring, (0, 2), set(SYMMETRIES))])
def test_no_mirror_of_letters_survives_in_views_and_augmentation_and_all_of_rings_do(tmp_path, draw,
                                                                                     kinds, used):
    (train, y), (test, _) = (images_of(draw, kinds, 120, seed) for seed in (2, 3))
    views, turns = symmetries_used(save(train, tmp_path / "train"), y,
                                   save(test, tmp_path / "test"))
    assert views == used | {"identity"} and turns == used


def test_noise_of_grey_images_is_grey_as_far_as_test_images_are():
    policy = ShiftPolicy((Distortion("noise", 0.5, 5, 9),))
    found = [with_grey_noise(policy, 0.8, theirs).grey_noise for theirs in (0.9, 0.8, 0.6, 0.4,
                                                                            0.1)]
    assert found == pytest.approx([1, 1, 0.5, 0, 0])
    assert with_grey_noise(policy, 0.0, 0.5) == policy and with_grey_noise(ShiftPolicy(), 1.0,
                                                                           0.5) == ShiftPolicy()


def test_of_many_classes_some_are_looked_at_with_images_enough_to_compare():
    rows, few, many = np.random.default_rng(0).permutation(3000), np.arange(3000) % 40, np.arange(
        3000) % 300
    assert some_of_classes(rows, few, 240).tolist() == rows[:240].tolist()
    picked = some_of_classes(rows, many, 240)
    assert len(set(picked.tolist())) == 240 and set(np.unique(many[picked],
                                                              return_counts=True)[1].tolist()) == {
                                                                  6}


def test_without_test_images_only_the_natural_symmetries_are_measured(train):
    report = match_shift(*train, [], seed=0, workers=1)
    assert report.policy.is_empty and report.auc_before is None and list(report.describe()) == []


@pytest.mark.parametrize("n", [1, 3])
def test_too_few_test_images_tell_of_no_shift(train, n):
    report = match_shift(*train, train[0][:n], seed=0, workers=1)
    assert report.policy.is_empty and report.auc_before is None


def test_broken_files_are_left_out(train, tmp_path):
    paths, labels = train
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert match_shift([*paths, tmp_path / "broken.png"], [*labels, 0], [], seed=0,
                       workers=1).n_train == len(paths)


def test_images_of_fewer_bits_are_measured_in_the_range_of_the_audit(tmp_path):
    images, _ = images_of(letter, "FR", 6, seed=3)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    plain = save([np.repeat(image[..., None], 3, axis=2) for image in grey], tmp_path / "plain")
    (tmp_path / "deep").mkdir()
    for path, image in zip(plain, grey, strict=True):
        deep = np.rint(image * (4095 / 255)).astype(np.uint16)
        cv2.imwrite(str(tmp_path / "deep" / path.name), deep)
    deep = load(sorted((tmp_path / "deep").iterdir()), 0, 1, 10, DISTORTED_PX, white_level=4095)
    expected = load(plain, 0, 1, 10, DISTORTED_PX)
    for one, other in zip(deep.images, expected.images, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("n_failures", [2, 99])
def test_a_stale_handle_is_tried_again_and_no_image_is_left_out_silently(train, monkeypatch,
                                                                         n_failures):
    paths, _ = train
    real = os.open
    left = [n_failures]

    def stale(path, *args, **kwargs):
        if str(path) == str(paths[3]) and left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", stale)
    monkeypatch.setattr(utils, "NETWORK_PAUSES_SECONDS", (0.01, 0.01, 0.01))
    if n_failures == 2:
        sample = load(paths[:6], 0, 1, 10, DISTORTED_PX)
        assert left == [0] and sorted(sample.index.tolist()) == [0, 1, 2, 3, 4, 5]
    else:
        with pytest.raises(RunError, match=f"{paths[3].name} could not be read"):
            load(paths[:6], 0, 1, 10, DISTORTED_PX)


@pytest.mark.parametrize(("after", "found", "share"), [
    (0.5, True, 0.67), (0.2, True, 1.0), (0.02, True, 1.0), (1.2, True, 0.0), (0.9, False, 1.0)])
def test_a_policy_is_for_fewer_training_images_the_more_it_leaves_unexplained(after, found, share):
    policy = ShiftPolicy((Distortion("blur", 0.5, 1, 2),) if found else ())
    report = ShiftReport(policy, distance_before=1.0, distance_after=after)
    assert report.trained_share == share
    assert ShiftReport(policy).trained_share == 1.0      # nothing was read


def matched_report(monkeypatch, kinds, turned, after, before=1.0):
    """`with_match` of test images that seem to have `kinds` and to be `turned`, by the distances
    before and after it."""
    readings = {kind: KindReading(kind, 0.5, 1.0, 2.0, 90.0, 1.0) for kind in kinds}
    part = match.Part(Belief(readings), turned)
    sample = SimpleNamespace(quality=np.zeros(3), scale=np.ones(3), images=[None] * 3)
    sample._replace = lambda **values: sample
    monkeypatch.setattr(match, "read_test", lambda *_: match.Reading(part, [part], (0.0, 0.0)))
    monkeypatch.setattr(match, "compared_images", lambda *_: {})
    monkeypatch.setattr(match, "with_comparison", lambda report, *_: replace(
        report, distance_before=before, distance_after=after))
    group = ClassGroup("photo", "photo", ("a",), 3)
    return match.with_match(ShiftReport(groups=(group,)), sample, np.zeros(3, int), sample, None,
                            None, 0, 1, 400)


TURNED = {"identity": {"share": 0.8, "ci90": [0.7, 0.9]},
          "flip_vertical": {"share": 0.2, "ci90": [0.1, 0.3]}}


def test_what_explains_little_of_the_difference_is_not_matched(monkeypatch):
    assert matched_report(monkeypatch, ("blur",), TURNED, 0.0, before=0.0).is_empty
    report = matched_report(monkeypatch, ("blur",), TURNED, 0.61)
    assert report.is_empty and report.left_out == ("flip_vertical", "blur")
    kept = matched_report(monkeypatch, ("blur",), TURNED, 0.59)
    assert not kept.is_empty and kept.left_out == () and kept.trained_share == 0.55


def test_turned_images_alone_are_matched_whatever_the_distance_says(monkeypatch):
    report = matched_report(monkeypatch, (), TURNED, 0.99)
    assert not report.is_empty and report.left_out == () and report.trained_share == 1.0


@pytest.mark.parametrize("shape", [(1, 3000), (2000, 32), (9, 700), (1, 1)])
def test_lines_are_measured_like_other_images(tmp_path, shape):
    paths = save([np.full((*shape, 3), 120, np.uint8)], tmp_path / "lines")
    sample = load(paths, 0, 1, 10, DISTORTED_PX)
    rows = sample.distorted([{}, {"rotate": 10, "expand": True, "fill": "white"},
                             {"downscale": 0.3}], 0, trace_row, 1)
    assert np.isfinite(rows).all() and np.shape(rows) == (3,
                                                          len(statistics(np.zeros((9, 9, 3),
                                                                                  np.uint8))))


def test_statistics_are_finite_on_odd_images():
    for shape in ((8, 8), (8, 500), (300, 9), (37, 41)):
        for image in (np.zeros((*shape, 3), np.uint8), np.random.default_rng(0).integers(0, 256,
                                                                                         (*shape,
                                                                                          3),
                                                                                         np.uint8)):
            assert np.isfinite(list(statistics(image).values())).all()


@pytest.mark.parametrize("shape", [(8, 8), (37, 41), (120, 90)])
def test_steps_between_pixels_are_counted_as_they_are_defined(shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    image[: shape[0] // 2] = 7
    found = statistics(image)
    g = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    steps = {"x": np.abs(np.diff(g, axis=1)), "y": np.abs(np.diff(g, axis=0)),
             "d": np.abs(g[1:, 1:] - g[:-1, :-1]), "e": np.abs(g[1:, :-1] - g[:-1, 1:])}
    for name, each in steps.items():
        thinned = np.sort(each[::3, ::3].ravel())
        assert found[f"edge_{name}"] == thinned[int(0.99 * (thinned.size - 1))]
        assert found[f"equal_{name}"] == pytest.approx(np.mean(each == 0))
        assert found[f"log_step_{name}"] == pytest.approx(np.log(each.mean()))
    for name, lines in {"x": steps["x"].mean(0), "y": steps["y"].mean(1)}.items():
        on_grid = lines[7::8].sum() / max(1, len(lines) // 8)
        assert found[f"blocking_{name}"] == pytest.approx(
            np.log(max(on_grid / (lines.mean() + 1e-3), 1e-3)), rel=1e-5)

    rows, columns = (side // 8 for side in shape)
    blocks = g[:8 * rows, :8 * columns].reshape(rows, 8, columns, 8).swapaxes(1, 2)
    zero = np.mean([np.abs(cv2.dct(block)) < 1 for block in blocks.reshape(-1, 8, 8)], axis=0)
    band = np.isin(np.add.outer(np.arange(8), np.arange(8)), (3, 4))
    assert found["zero_dct_3"] == pytest.approx(zero[band].mean(), abs=1e-3)


def test_wedges_tell_the_angle():
    image = np.random.default_rng(0).integers(60, 200, (120, 160, 3), np.uint8)
    policy = ShiftPolicy((Distortion("rotate", 1, 20, 20),), fill=(1.0, 0, 0, 0))
    grey = cv2.cvtColor(distort(image, policy, 0), cv2.COLOR_RGB2GRAY)
    assert border_statistics(grey)["wedge_tilt"] == pytest.approx(20, abs=2)


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_the_header_tells_the_quality_of_a_jpeg(quality):
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert jpeg_quality(data) == pytest.approx(quality, abs=1)
    assert jpeg_quality(cv2.imencode(".png", image)[1].tobytes()) == 100


def test_files_saved_alike_are_simulated_as_they_are_and_coarser_ones_become_a_distortion():
    ours = np.array([75, 90, 60, 90])
    assert coupled(ours, np.array([60, 75, 90, 90, 60, 75, 90, 90])).tolist() == ours.tolist()
    theirs = coupled(ours, np.array([20, 30, 20, 30]))
    jpeg = with_compression(ShiftPolicy(), ours, theirs).get("jpeg")
    assert jpeg.probability == 1 and (jpeg.low, jpeg.high) == (20, 30)
    assert with_compression(ShiftPolicy(), ours, np.full(4, 75)).is_empty


def test_a_policy_is_in_units_of_the_original_images():
    """Measured on images of a quarter of the side: cached ones of that size are damaged by the same
    as those are."""
    def finding(kind, low, high):
        return SimpleNamespace(kind=kind, low=low, high=high, probability=0.5, gain=9.0, chance=1.0)

    kinds = {f.kind: f for f in (finding("blur", 1.0, 2.0), finding("downscale", 0.4, 0.8),
                                 finding("jpeg", 80, 90), finding("impulse", 0.01, 0.1))}
    policy = policy_of(Belief(kinds), {}, native=4.0)
    assert [(d.kind, round(d.low, 6), round(d.high, 6)) for d in policy.distortions] == [
        ("blur", 4.0, 8.0), ("downscale", 0.1, 0.2), ("jpeg", 20, 60),
        ("impulse", 0.16, 0.9)]
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), (120, 120))
    # nothing is lost on the way there
    strong = {f.kind: f for f in (finding("noise", 30, 50), finding("jpeg", 10, 30))}
    policy = policy_of(Belief(strong), {}, native=4.0)
    assert [(round(d.low), round(d.high)) for d in policy.distortions] == [(120, 200), (-260, -180)]
    for values, native in (({"downscale": 0.4}, {"downscale": 0.1}), ({"jpeg": 80}, {"jpeg": 20}),
                           ({"jpeg": 10}, {"jpeg": -260})):
        measured, cached = (apply(image, v | {"fill": "white"}, np.random.default_rng(0), None, s)
                            for v, s in ((values, 1.0), (native, 0.25)))
        np.testing.assert_array_equal(measured, cached)


@pytest.mark.slow
def test_the_last_compression_of_the_test_files_is_no_distortion(train, tmp_path):
    images, _ = images_of(letter, "FRG4", 200, seed=1)
    (tmp_path / "test").mkdir()
    paths = [str(tmp_path / "test" / f"{i:04}.jpg") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(path, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert match_shift(*train, paths, seed=0, workers=2).policy.is_empty


def test_independent_flips_make_the_group_of_the_square():
    shares = dict(zip(ORIENTATIONS, flip_shares(1.0, 0.0, 1.0), strict=True))
    assert shares["rotate_90"] == 1.0
    assert np.allclose(orientation_mixtures()[0].sum(1), 1)


def turned_bank(n):
    """(ours (n, 8), y, source): `linear_ratios` of a bank whose rows show how they were turned."""
    rng = np.random.default_rng(0)
    source = np.arange(n) % 50
    y = np.resize([0, 0, *range(8)], n)
    ours = np.full((n, 8), 0.2)
    ours[np.arange(n), y] = 6.6
    return ours * rng.uniform(0.9, 1.1, ours.shape), y, source


def test_images_that_are_like_no_turned_image_are_not_read_as_turned():
    """Half of the rows could be anything: a third of them mirrored would be their likeliest
    mixture, at a quarter of the gain of mirrored images."""
    ours, y, source = turned_bank(400)
    unlike = np.full((50, 8), 0.2)
    unlike[:, :2] = 0.2, 1.6
    theirs = np.concatenate([ours[y == 0][:50], unlike])
    assert count_orientations(ours, theirs, y, source, 0, misfit=0.0) == UPRIGHT
    mirrored = np.concatenate([ours[y == 0][:50], np.tile(ours[y == 1], (2, 1))[:50]])
    found = count_orientations(ours, mirrored, y, source, 0, misfit=0.0)
    assert found["flip_horizontal"]["share"] == pytest.approx(0.5, abs=0.1)


def test_a_few_turned_images_do_not_count_beside_a_strong_misfit():
    """100 rows, of which 30 look mirrored: a gain that counts alone, and not if the test images
    hold something else that explains ten times as much."""
    ours, y, source = turned_bank(400)
    theirs = np.tile(ours[y == 0], (2, 1))[:70]
    theirs = np.concatenate([theirs, ours[y == 1][:30]])
    found = count_orientations(ours, theirs, y, source, 0, misfit=0.0)
    assert found["flip_horizontal"]["share"] == pytest.approx(0.3, abs=0.1)
    assert count_orientations(ours, theirs, y, source, 0, misfit=60.0) == UPRIGHT


@pytest.mark.parametrize("side", [0, 1])
def test_a_shadow_is_not_read_as_a_quarter_turn(side):
    rng = np.random.default_rng(0)
    sky = np.linspace(230, 60, SIDE)[:, None, None] + rng.normal(0, 20, (SIDE, SIDE, 3))
    sky = sky.clip(0, 255).astype(np.uint8)
    shadow = np.linspace(1, 0.3, SIDE)[:: 1 - 2 * side, None]
    shaded = (sky * shadow).astype(np.uint8)

    def unlike(one, other, is_shaded):
        rows = [orientation_row(image, is_shaded) for image in (one, other)]
        return np.linalg.norm(rows[0] - rows[1])

    turned = np.rot90(sky, 3 if side else 1).copy()
    assert unlike(shaded, sky, True) < unlike(shaded, turned, True)
    assert unlike(shaded, sky, True) < 0.7 * unlike(shaded, sky, False)


def local_binary_patterns(image):
    """`local_patterns` as it is defined."""
    g, rows = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int), []
    for _ in range(2):
        h, w = g.shape[0] - 2, g.shape[1] - 2
        around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
        codes = sum((g[y:y + h, x:x + w] > g[1:-1, 1:-1] + 12) << bit for bit,
                    (y, x) in enumerate(around))
        counts = np.bincount(codes.ravel(), minlength=256)[1:]
        rows.append(np.sqrt(counts / (counts.sum() + 1)))
        g = cv2.resize(g.astype(np.int16), None, fx=0.5, fy=0.5,
                       interpolation=cv2.INTER_AREA).astype(int)
    return np.concatenate(rows)


@pytest.mark.parametrize("shape", [(90, 70, 3), (33, 47, 3)])
def test_local_patterns_are_what_they_are_defined_as(shape):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
                             (0, 0), 0.7)
    assert np.array_equal(local_patterns(image), local_binary_patterns(image))
