import numpy as np
import pytest
import torch

from modeling.inference import SYMMETRIES, Predictions, View, load_views, save_views, views_for
from utils import RunError

CLASSES = ("a", "b")


def predictions(ids, first=0.5):
    probs = np.full((len(ids), 2), 0.5, np.float32)
    probs[:, 0] = np.linspace(first, 0.9, len(ids))
    probs[:, 1] = 1 - probs[:, 0]
    return Predictions(np.array(ids), probs, CLASSES, "test", ("m",))


def test_align_is_by_id_and_names_the_first_missing_and_extra():
    p = predictions(["x", "y", "z"])
    np.testing.assert_array_equal(p.align(["z", "x", "y"]), p.probs[[2, 0, 1]])
    with pytest.raises(RunError, match=r"1 missing \(first \['w'\]\), 1 extra \(first \['z'\]\)"):
        p.align(["x", "y", "w"])


@pytest.mark.parametrize(("probs", "message"), [
    ([[0.5, 0.4]], "sum to 1"), ([[np.nan, 1.0]], "finite"), ([[1.0, 0.0], [1.0, 0.0]], "shape")])
def test_rows_are_checked_when_built(probs, message):
    with pytest.raises(RunError, match=message):
        Predictions(np.array(["x"]), np.array(probs, np.float32), CLASSES, "test", ("m",))


def test_save_and_load_give_the_same(tmp_path):
    p = predictions(["x", "ü", "한"])
    p.save(tmp_path / "p.npz")
    q = Predictions.load(tmp_path / "p.npz")
    np.testing.assert_array_equal(p.align(["한", "x", "ü"]), q.align(["한", "x", "ü"]))
    assert (q.classes, q.split, q.sources) == (CLASSES, "test", ("m",))


def test_a_file_of_views_is_read_as_them_or_as_their_mean(tmp_path):
    views = {"identity": predictions(["x", "y"]), "rotate_180": predictions(["x", "y"], first=0.7)}
    save_views(views, tmp_path / "v.npz")
    back, mean = load_views(tmp_path / "v.npz"), Predictions.load(tmp_path / "v.npz")
    assert list(back) == list(views) and back["rotate_180"].sources == ("m",)
    np.testing.assert_array_equal(back["rotate_180"].probs, views["rotate_180"].probs)
    np.testing.assert_allclose(mean.align(["y", "x"])[:, 0], [0.9, 0.6])


def test_the_mean_joins_by_id():
    p, q = predictions(["x", "y"]), predictions(["y", "x"])
    np.testing.assert_allclose(Predictions.mean([p, q]).probs[:, 0], [0.7, 0.7])


def test_the_eight_symmetries_differ_and_keep_the_pixels():
    image = torch.arange(27.0).view(1, 3, 3, 3)
    views = [SYMMETRIES[name](image) for name in SYMMETRIES]
    assert len({tuple(v.flatten().tolist()) for v in views}) == 8
    assert all(sorted(v.flatten().tolist()) == list(range(27)) for v in views)
    torch.testing.assert_close(SYMMETRIES["rotate_90"](SYMMETRIES["rotate_270"](image)), image)


def test_views_begin_plain_and_are_as_many_as_asked():
    assert views_for([], 1) == (View(),)
    names = [v.symmetry for v in views_for(["flip_vertical"], 4)]
    assert names == ["identity", "flip_vertical", "identity", "flip_vertical"]
    assert len(views_for([*SYMMETRIES], 8, turned=True)) == 8
    views = views_for(["flip_vertical"], 8, with_adapted=True)
    assert [v.name for v in views] == ["identity", "flip_vertical adapted", "identity x1.1",
                                       "flip_vertical x1.1 adapted", "identity x0.93",
                                       "flip_vertical x0.93 adapted", "identity adapted",
                                       "flip_vertical"]
    assert [v.adapted for v in views_for([], 4, with_adapted=True)] == [False, True, False, True]
    assert views_for([], 1, with_adapted=True) == (View(),)
    image = torch.rand(2, 3, 16, 16)
    assert View("rotate_90", 1.1, 8.0)(image).shape == image.shape
    torch.testing.assert_close(View(scale=1.0000001)(image), image, atol=1e-4, rtol=1e-4)


def test_a_zoom_and_a_turn_are_the_same_in_half_precision():
    images, view = torch.rand(2, 3, 96, 96), View("identity", 1.1, 8.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = view(images)
    torch.testing.assert_close(inside, view(images), rtol=0, atol=0)
