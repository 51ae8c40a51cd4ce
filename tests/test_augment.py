"""Distortions do what their unit says, policies refuse nonsense, augmentations are a function of
the seed alone."""
import multiprocessing
import pickle
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch

from config import AugmentConfig
from modeling.augment import BatchMix, framed, plain_view, testlike_view, train_augment
from shift.distortions import (
    DISTORTIONS,
    SYMMETRIES,
    Distortion,
    ShiftPolicy,
    apply,
    distort,
    draw,
    turn,
)
from shift.groups import MINORITY_JITTER, ClassGroup, Jitter, by_class
from utils import UserError

testlike_view.__test__ = False
SQUARE = {"image_size_px": 64, "resize": "letterbox"}
POLICY = ShiftPolicy((Distortion("flip_vertical", 0.5, 0, 0), Distortion("ghost", 0.5, 0.1, 0.4),
                      Distortion("blur", 0.5, 0.5, 2), Distortion("noise", 0.5, 5, 20),
                      Distortion("rotate", 0.8, -30, 30), Distortion("jpeg", 0.5, 20, 60)),
                     fill=(0.5, 0.5, 0.0, 0.0), expand=0.5, geometry_first=0.5,
                     natural=("flip_horizontal",))


def group(policy=POLICY, is_minority=False, classes=("a",)):
    return ClassGroup("all", "any", classes, 10, is_minority, policy)


@pytest.fixture(scope="module")
def picture():
    """(60, 90, 3) with an upright shape, smooth parts and edges."""
    image = np.full((60, 90, 3), (180, 150, 120), np.uint8)
    cv2.putText(image, "Rb", (10, 45), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (20, 40, 200), 3)
    return image


def other(seed):
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)


def only(image, seed=0, native_scale=1.0, fill="white", **values):
    return apply(image, values | {"fill": fill}, np.random.default_rng(seed), other, native_scale)


def test_noise_of_a_grey_image_is_of_one_channel_or_of_three():
    grey, colour = np.full((2, 64, 64, 3), 128, np.uint8)
    colour[0, 0, 0] = 0
    def is_of_one(image, seed, share=0.5):
        policy = ShiftPolicy((Distortion("noise", 1.0, 20, 20),), grey_noise=share)
        noisy = distort(image, policy, seed)
        assert 15 < noisy.std() < 25
        return bool((noisy[..., 0] == noisy[..., 1]).all())

    assert 5 < sum(is_of_one(grey, seed) for seed in range(20)) < 15
    assert all(is_of_one(grey, seed, 1.0) for seed in range(20)) and not any(is_of_one(grey, seed,
                                                                                       0.0)
                                                                             for seed in range(20))
    assert not any(is_of_one(colour, seed, 1.0) for seed in range(20))


@pytest.mark.parametrize("kind", [k for k in DISTORTIONS if k not in SYMMETRIES])
def test_every_distortion_changes_the_image_and_keeps_its_type(picture, kind):
    low, high, _ = DISTORTIONS[kind]
    out = only(picture, **{kind: low + 0.7 * (high - low)})
    assert out.dtype == np.uint8 and out.shape == picture.shape and not np.array_equal(out, picture)


def test_symmetries_are_the_group_of_the_square(picture):
    reference = {
        "flip_horizontal": cv2.flip(picture, 1),
        "flip_vertical": cv2.flip(picture, 0),
        "rotate_180": cv2.rotate(picture, cv2.ROTATE_180),
        "transpose": cv2.transpose(picture),
        "rotate_90": cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE),
        "rotate_270": cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE),
        "transverse": cv2.rotate(cv2.transpose(picture), cv2.ROTATE_180),
    }
    assert all(np.array_equal(turn(picture, s), reference[s]) for s in SYMMETRIES)


def test_noise_has_the_asked_standard_deviation_and_shrinks_with_the_image():
    grey = np.full((200, 200, 3), 128, np.uint8)
    assert only(grey, noise=12.0).std() == pytest.approx(12, rel=0.05)
    assert only(grey, noise=12.0, native_scale=0.5).std() == pytest.approx(6, rel=0.05)


def test_an_offset_is_added_and_clipped():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    expected = np.clip(ramp.astype(int) - 60, 0, 255)
    np.testing.assert_array_equal(only(ramp, offset=-60.0), expected)


def test_impulses_are_a_share_of_the_pixels_half_of_them_black():
    grey = np.full((200, 200, 3), 128, np.uint8)
    struck = only(grey, impulse=0.1)
    assert (struck == 255).mean() == pytest.approx(0.05, rel=0.15)
    assert (struck == 0).mean() == pytest.approx(0.05, rel=0.15)
    assert only(grey, impulse=0.1, native_scale=0.25).std() == pytest.approx(struck.std() / 4,
                                                                             rel=0.15)


def test_a_shadow_takes_its_share_of_the_light_at_the_darkest_side():
    grey = np.full((80, 120, 3), 200, np.uint8)
    for seed in range(10):
        shaded = only(grey, seed, shadow=0.5)
        assert shaded.min() == pytest.approx(100, abs=4) or shaded.min() > 100
        assert shaded.max() <= 200 and shaded.std() > 5


def test_erased_rectangles_are_of_one_colour_and_small_ones_hide_a_quarter_at_most():
    noisy = other(3)
    for seed in range(20):
        for side in (0.1, 0.3, 0.6):
            hidden = (only(noisy, seed, erase=side) != noisy).any(2).mean()
            assert 0.8 * side**2 < hidden < max(0.27, 1.1 * side**2)


def test_a_blocky_reduction_leaves_squares_of_one_colour(picture):
    smooth = only(picture, downscale=0.25, blocky=False)
    blocky = only(picture, downscale=0.25, blocky=True)
    equal = [(image[:, 1:] == image[:, :-1]).all(2).mean() for image in (smooth, blocky)]
    assert equal[1] > 0.74 and equal[1] > equal[0]


def test_damage_then_reduction_equals_reduction_then_converted_damage():
    image = cv2.GaussianBlur(other(1).repeat(8, 0).repeat(8, 1), (0, 0), 2)
    def reduce(x):
        return cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(float)
    late, early = only(reduce(image).astype(np.uint8), blur=4.0,
                       native_scale=0.5), reduce(only(image, blur=4.0))
    assert np.abs(late - early).mean() < 1.5


def test_rotation_turns_counter_clockwise_in_the_frame_and_fills(picture):
    out = only(picture, rotate=30.0, fill="black")
    assert out.shape == picture.shape and (out[0, 0] == 0).all()
    right = np.zeros((61, 61, 3), np.uint8)
    right[29:32, 50:] = 255
    rows, columns = np.nonzero(only(right, rotate=90.0, fill="black")[..., 0])
    assert rows.mean() < 15 and abs(columns.mean() - 30) < 2
    grown = only(picture, rotate=45.0, expand=True)
    assert max(grown.shape) == max(picture.shape) and grown.shape != picture.shape


def test_probabilities_and_ranges_are_met():
    policy = ShiftPolicy((Distortion("flip_vertical", 0.3, 0, 0),
                          Distortion("rotate_90", 0.2, 0, 0), Distortion("blur", 0.6, 1, 3)))
    values = [draw(policy, np.random.default_rng(i)) for i in range(4000)]
    turned = [v.get("symmetry") for v in values]
    assert turned.count("flip_vertical") / 4000 == pytest.approx(0.3, abs=0.03)
    assert turned.count("rotate_90") / 4000 == pytest.approx(0.2, abs=0.03)
    sigma = [v["blur"] for v in values if "blur" in v]
    assert len(sigma) / 4000 == pytest.approx(0.6, abs=0.03) and min(sigma) >= 1 and max(sigma) <= 3


@pytest.mark.parametrize("values, text", [
    (("smear", 0.5, 0, 1), "Distortion.kind must be one of"),
    (("blur", 1.5, 0, 1), "probability of blur must be 0..1"),
    (("blur", 0.5, 2, 1), "range of blur must be low <= high"),
    (("jpeg", 0.5, 50, 101), "within -2000..100")])
def test_a_wrong_distortion_is_refused(values, text):
    with pytest.raises(UserError, match=text):
        Distortion(*values)


def test_a_wrong_policy_is_refused():
    half = Distortion("flip_vertical", 0.6, 0, 0)
    with pytest.raises(UserError, match="must differ"):
        ShiftPolicy((half, half))
    with pytest.raises(UserError, match="sum to at most 1"):
        ShiftPolicy((half, Distortion("rotate_90", 0.6, 0, 0)))
    with pytest.raises(UserError, match=r"ShiftPolicy\.fill"):
        ShiftPolicy(fill=(1.0, 1.0, 0.0, 0.0))


def test_a_policy_survives_json():
    assert ShiftPolicy.from_json(POLICY.to_json()) == POLICY and POLICY.get("blur").high == 2
    assert ShiftPolicy().is_empty and not POLICY.is_empty and POLICY.get("scale") is None


@pytest.mark.parametrize("policy", ["matched", "standard", "none"])
@pytest.mark.parametrize("resize", ["letterbox", "squash", "crop"])
def test_an_augmentation_is_a_function_of_the_seed(picture, policy, resize):
    augment = train_augment(AugmentConfig(policy=policy), group(), image_size_px=64, resize=resize,
                            native_scale=0.7)
    copy = pickle.loads(pickle.dumps(augment))
    out = [augment(picture, seed, other) for seed in range(8)]
    assert all(o.shape == (64, 64, 3) and o.dtype == np.uint8 for o in out)
    assert all(np.array_equal(o, copy(picture, seed, other)) for seed, o in enumerate(out))
    assert (len({o.tobytes() for o in out}) == 1) == (policy == "none")


def test_a_share_of_the_images_goes_without_damage(picture):
    dark = group(ShiftPolicy((Distortion("brightness", 1.0, 0.2, 0.2),)))
    for share, low, high in ((0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)):
        augment = train_augment(AugmentConfig(), dark, share=share, image_size_px=64,
                                resize="squash")
        assert low <= sum(np.median(augment(picture, seed)) < 0.5 * np.median(picture)
                          for seed in range(200)) <= high


@pytest.mark.parametrize("resize", ["letterbox", "squash", "crop"])
def test_tiny_images_are_enlarged_alike_in_training_and_later_and_sharper_than_by_lines(picture,
                                                                                        resize):
    large = cv2.resize(picture, (64, 64))
    tiny = cv2.resize(large, (32, 32), interpolation=cv2.INTER_AREA)
    seen = plain_view(64, resize)(tiny)
    trained = framed(tiny, 64, resize, Jitter().times(0.0), np.random.default_rng(0))
    assert np.array_equal(trained[4:-4, 4:-4], seen[4:-4, 4:-4])    # borders fade to the fill

    def error(image):
        return np.abs(image.astype(float) - large).mean()
    assert error(seen) < 0.9 * error(cv2.resize(tiny, (64, 64), interpolation=cv2.INTER_LINEAR))


def test_workers_that_are_spawned_agree(picture):
    augment = train_augment(AugmentConfig(), group(), **SQUARE)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(augment, (picture, 3)), augment(picture, 3))


def test_matched_without_shift_is_standard_and_flips_only_what_is_natural(picture):
    empty = ShiftPolicy(natural=("flip_horizontal",))
    matched, standard = (train_augment(AugmentConfig(policy=p), group(empty), **SQUARE)
                         for p in ("matched", "standard"))
    assert matched == standard
    def mirrored_share(augment):
        plain = plain_view(64, "letterbox")(picture).astype(float)
        return np.mean([np.abs(o - plain[:, ::-1]).mean() < np.abs(o - plain).mean()
                        for o in (augment(picture, s).astype(float) for s in range(100))])
    assert 0.3 < mirrored_share(matched) < 0.7
    assert mirrored_share(train_augment(AugmentConfig(), group(replace(empty, natural=())),
                                        **SQUARE)) < 0.1


def test_classes_of_a_group_share_an_augmentation_and_few_images_get_more_of_it():
    groups = group(classes=("b",)), group(classes=("a", "c"), is_minority=True)
    b, a, c = by_class(groups, ("b", "a", "c"), lambda g: train_augment(AugmentConfig(), g,
                                                                        **SQUARE))
    assert a is c and a.policy == b.policy and a.jitter == b.jitter.times(MINORITY_JITTER)
    assert ClassGroup.from_json(groups[1].to_json()) == groups[1]


def test_testlike_is_the_policy_and_nothing_else(picture):
    view = testlike_view(POLICY, **SQUARE, native_scale=1.0)
    expected = plain_view(64, "letterbox")(distort(picture, POLICY, 5, other))
    assert np.array_equal(view(picture, 5, other), expected)


class Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor
    weight: torch.Tensor
    index: torch.Tensor


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_mixed_targets_are_the_shares_of_the_pixels(alphas, dtype):
    images = torch.arange(8).mul(30).to(dtype)[:, None, None, None].expand(8, 3, 32, 32)
    batch = Batch(images, torch.eye(8), torch.ones(8), torch.arange(8))
    mix = BatchMix(AugmentConfig(mixup_alpha=alphas[0], cutmix_alpha=alphas[1], mix_share=1.0))
    for seed in range(5):
        out = mix(batch, torch.Generator().manual_seed(seed))
        again = mix(batch, torch.Generator().manual_seed(seed))
        assert torch.equal(out.images, again.images) and out.images.dtype == dtype
        assert torch.allclose(out.targets.sum(1), torch.ones(8)) and torch.allclose(out.weight,
                                                                                    torch.ones(8))
        mean = out.images.float().mean((1, 2, 3))
        assert torch.allclose(mean, out.targets @ (torch.arange(8.0) * 30), atol=0.6)


def test_batches_are_left_alone_when_mixing_is_off():
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.eye(2), torch.ones(2), torch.arange(2))
    for off in ({"mix_share": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "mix_share": 1.0}):
        assert BatchMix(AugmentConfig(**off))(batch, torch.Generator().manual_seed(0)) is batch


def test_symmetries_for_training_go_half_way_to_equal_shares_of_the_group_they_generate():
    def shares(**measured):
        policy = ShiftPolicy(tuple(Distortion(kind, p, 0, 0) for kind,
                                   p in measured.items())).widened()
        return {d.kind: round(d.probability, 3) for d in policy.distortions}
    assert shares(flip_vertical=0.5) == {"flip_vertical": 0.5}
    assert shares(flip_vertical=0.3) == {"flip_vertical": 0.4}
    assert shares(flip_horizontal=0.4, flip_vertical=0.2) == {
        "flip_horizontal": 0.325, "flip_vertical": 0.225, "rotate_180": 0.125}
    assert len(shares(flip_horizontal=0.4, rotate_90=0.2)) == 7
    # too rare to be taken for more than a misreading
    assert shares(transpose=0.04) == {"transpose": 0.02}


def test_damage_comes_in_epoch_by_epoch(picture):
    """None in the first of five epochs, half of the share in the third, all in the last."""
    policy = ShiftPolicy((Distortion("brightness", 1.0, 0.2, 0.2),))
    augment = train_augment(AugmentConfig(), group(policy), image_size_px=32, resize="squash",
                            share=0.8, n_epochs=5)

    def damaged(epoch):
        return np.mean([np.median(augment(picture, seed, epoch=epoch)) < 0.5 * np.median(picture)
                        for seed in range(200)])

    assert damaged(0) == 0
    assert damaged(2) == pytest.approx(0.4, abs=0.1)
    assert damaged(4) == damaged(7) == damaged(None) == pytest.approx(0.8, abs=0.08)
    # a single epoch has it all, as prediction has
    assert replace(augment, whole_from=0)(picture, 3, epoch=0).tolist() == augment(
        picture, 3, epoch=4).tolist()
