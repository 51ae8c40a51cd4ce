import numpy as np

from reporting.figures import (
    WHOLE_BYTES,
    learning_curves,
    nice_ticks,
    padded,
    quantile_bars,
    reliability_points,
    thumbnail,
    whole,
)
from reporting.review import Bin


def test_ticks_are_round_and_inside():
    assert nice_ticks(0.71, 0.93) == [0.75, 0.8, 0.85, 0.9]
    assert nice_ticks(1, 12) == [2, 4, 6, 8, 10, 12] and nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8,
                                                                              1.0]
    assert nice_ticks(0.5, 0.5) == [0.5]


def test_a_scale_has_room_but_stays_inside_what_a_score_can_be():
    assert padded([0.99, 1.0], limits=(0.0, 1.0))[1] == 1.0 and padded([0.5, 0.5]) == (0.45, 0.55)


def test_learning_curves_span_the_panel():
    panel = learning_curves({"a": [(1, 2.0), (2, 1.0)], "b": [(1, 3.0)]}, low=1.0, high=3.0)
    assert panel["lines"] == [("a", "36.0,88.0 310.0,166.0"), ("b", "36.0,10.0")]
    assert [text for _, text in panel["x_ticks"]] == ["1", "2"] and panel["y_ticks"][0] == (166.0,
                                                                                            "1")


def test_a_perfect_bin_lies_on_the_diagonal():
    (x, y, radius, _), = reliability_points([Bin(1.0, 1.0, 7)])
    assert (x, y, radius) == (292.0, 8.0, 10.0)


def test_quantile_bars_share_one_scale():
    bars = quantile_bars({"train": [0, 1, 2], "test": [2, 3, 4], "matched": [2, 3, 4], "auc": 0.9})
    assert bars["train"] == [4, 47, 90] and bars["test"] == bars["matched"] == [90, 133, 176]
    assert quantile_bars({split: [1, 1, 1] for split in ("train", "test",
                                                         "matched")})["test"] == [4, 4, 4]


def test_a_thumbnail_is_small_and_keeps_a_thin_image():
    assert len(thumbnail(np.zeros((400, 4000, 3), np.uint8))) < 2000
    assert thumbnail(np.zeros((1, 4000, 3), np.uint8))


def test_even_an_image_of_noise_is_small_enough_to_be_shown_whole():
    noise = np.random.default_rng(0).integers(256, size=(480, 300, 3), dtype=np.uint8)
    assert len(whole(noise)) <= WHOLE_BYTES * 4 / 3 + 4
    plain = np.full((300, 200, 3), 90, np.uint8)
    assert whole(plain) == thumbnail(plain, 400)
