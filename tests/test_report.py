from modeling.report import loss_curves, quantile_bars


def test_loss_curves_span_the_picture():
    points, (low, high) = loss_curves([[2.0, 1.0], [3.0]])
    assert (low, high) == (1.0, 3.0)
    assert points[0] == "10.0,100.0 630.0,180.0"


def test_quantile_bars_share_one_scale():
    bars = quantile_bars({"train": [0, 1, 2], "test": [2, 3, 4], "matched": [2, 3, 4], "auc": 0.9})
    assert bars["train"] == [4, 47, 90] and bars["test"] == bars["matched"] == [90, 133, 176]
    assert quantile_bars({split: [1, 1, 1] for split in ("train", "test", "matched")})["test"] == [4, 4, 4]
