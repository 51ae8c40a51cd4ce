"""A run on a CPU says in its first seconds how long it will take, and what would halve that."""
from types import SimpleNamespace

import pytest

from running import forecast as forecasts
from running.forecast import Parts, epochs_for, forecast, halving

TRAINS = Parts(reading=10, shift=60, training=900, predicting=30, epochs=30, views=4)


def half_of(parts, settings):
    """Seconds of the Parts with the settings that `halving` names."""
    values = dict(setting.split("=") for setting in settings)
    training = parts.training * int(values.get("optim.epochs", parts.epochs)) / parts.epochs
    shift = 0 if "augment.policy" in values else parts.shift
    predicting = parts.predicting / parts.views if "predict.tta_views" in values else (
        parts.predicting)
    frozen = 0 if "model.frozen" in values else parts.frozen
    words = 0 if "model.text" in values else parts.words
    return parts.reading + shift + words + frozen + training + predicting


@pytest.mark.parametrize(("parts", "names"), [
    (TRAINS, {"optim.epochs"}),
    (Parts(10, 600, 500, 30, 12, 4), {"augment.policy"}),
    (Parts(10, 300, 500, 100, 12, 4), {"augment.policy", "optim.epochs"}),
    (Parts(10, 0, 200, 600, 12, 4), {"predict.tta_views"}),
    (Parts(10, 0, 200, 30, 12, 4, frozen=400), {"model.frozen"}),
    (Parts(10, 0, 200, 30, 12, 4, words=400), {"model.text"}),
])
def test_what_is_named_halves_the_run(parts, names):
    settings = halving(parts)
    assert {setting.partition("=")[0] for setting in settings} == names
    assert half_of(parts, settings) <= parts.total / 2


def test_epochs_are_not_cut_below_the_floor_of_a_time_budget():
    reading = Parts(reading=900, shift=50, training=100, predicting=10, epochs=10, views=4)
    assert halving(reading) == ["optim.epochs=4", "augment.policy=standard", "predict.tta_views=1"]


def test_as_many_epochs_are_kept_as_fit():
    assert epochs_for(TRAINS, 500) == 13 and epochs_for(TRAINS, 5000) == 30
    assert epochs_for(TRAINS, 0) < 0


@pytest.fixture
def setup(tmp_path):
    config = SimpleNamespace(runtime=SimpleNamespace(measure=True, engine="local"),
                             model=SimpleNamespace(backbones=("a",)))
    return SimpleNamespace(config=config, device=SimpleNamespace(type="cpu"), folder=tmp_path,
                           ends_by=float("inf"), deadline=float("inf"))


def said(setup, parts, monkeypatch):
    lines = []
    monkeypatch.setattr(forecasts, "parts_of", lambda _: parts)
    forecast(setup, SimpleNamespace(say=lambda text, **_: lines.append(text)))
    return lines


def test_the_sentence_names_the_parts_and_what_halves_them(setup, monkeypatch):
    assert said(setup, TRAINS, monkeypatch) == [
        "about 17 min on this machine (reading 10 s, measuring the shift 60 s, training 15 min, "
        "predicting 30 s); half of that with --set optim.epochs=13, at a lower score"]


def test_a_run_of_less_than_a_minute_or_one_that_goes_on_is_not_forecast(setup, monkeypatch):
    assert said(setup, Parts(1, 2, 3, 4, 5, 6), monkeypatch) == []
    (setup.folder / "audit-123").mkdir()
    assert said(setup, TRAINS, monkeypatch) == []
