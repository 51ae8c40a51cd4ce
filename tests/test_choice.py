"""Which networks lose their later rounds to a time budget."""
from types import SimpleNamespace

import pytest

from config import build_config
from ensemble.scores import SourceRow
from running import choice
from running.choice import adding_least, idle_members, known_choice, make_choice
from system.log import EventLog
from tests.test_scores import ACCURACY, fits_of, prepared_of


def row(name, weight, adds=None, ci90=(), score=0.8, note=""):
    return SourceRow(name, 3, score, None, weight, 1, (), note, 1.0, adds, ci90)


def test_what_has_no_weight_or_may_add_nothing_goes_and_the_best_stays():
    table = [row("r0-a", 0.3, 0.01, (-0.01, 0.03)), row("r0-b", 0.4, 0.02, (0.005, 0.04)),
             row("r0-c", 0.0, note="no better than the class shares"),
             row("r0-d", 0.1, 0.001, (-0.01, 0.02)), row("frozen-a", 0.2, 0.0, (-0.01, 0.01))]
    names = {f"r0-{name}": name for name in "abcd"}
    found = adding_least(table, names, 1)
    assert [name for name, _ in found] == ["c", "d", "a"]
    assert found[0][1] == "as its weight in the blend is 0 (no better than the class shares)"
    assert found[1][1] == ("as what it adds to the blend may be nothing (+0.0010, 90 % interval "
                           "-0.0100 to +0.0200)")
    # one stays even if none adds anything
    assert [name for name, _ in adding_least(table[2:4], names, 1)] == ["c"]
    equal = [row("r0-a", 0.0, score=0.3), row("r0-b", 0.0, score=0.5)]
    assert [name for name, _ in adding_least(equal, names, 1)] == ["a"]
    assert [name for name, _ in adding_least(equal, names, -1)] == ["b"]      # of a loss


def test_a_network_that_knows_nothing_beside_one_that_does_is_found_out_of_fold(tmp_path):
    fits = fits_of(tmp_path, {("good", 0): 3.0, ("poor", 0): 0.0}, test_strength=1.0)
    setup = SimpleNamespace(metric=ACCURACY)
    log = EventLog(tmp_path / "events.jsonl")
    found = idle_members(setup, prepared_of(tmp_path), fits, log)
    assert [name for name, _ in found] == ["poor"] and not log.warnings
    alone = {spec: done for spec, done in fits.items() if spec.backbone == "poor"}
    assert idle_members(setup, prepared_of(tmp_path), alone, log) == []


@pytest.fixture
def choosing(tmp_path, monkeypatch):
    """choosing(the fewest backbones without later rounds that end in time) -> the choice."""
    monkeypatch.setattr(choice, "idle_members", lambda *_: [("a", "as x"), ("b", "as y")])
    config = build_config("competition_ready", ["runtime.time_budget_hours=1"])
    keys = SimpleNamespace(folds="f", shift="s")
    prepared = SimpleNamespace(folder=tmp_path, config=config, keys=keys)
    log = EventLog(tmp_path / "events.jsonl")

    def choose(fewest):
        return make_choice(None, prepared, {}, lambda gone: len(gone) >= fewest, log)

    choose.prepared = prepared
    choose.events = tmp_path / "events.jsonl"
    return choose


@pytest.mark.parametrize(("fewest", "expected"), [
    (0, {}), (1, {"a": "as x"}), (2, {"a": "as x", "b": "as y"}), (9, {"a": "as x", "b": "as y"})])
def test_no_more_networks_go_than_the_time_asks_for(choosing, fewest, expected):
    assert known_choice(choosing.prepared) == {}
    assert choosing(fewest) == known_choice(choosing.prepared) == expected


def test_a_choice_stands_when_the_run_is_started_again(choosing):
    assert choosing(1) == choosing(0) == choosing(2) == {"a": "as x"}
    assert choosing.events.read_text().count("a is left out of the later rounds, as x") == 1


def test_an_interrupted_choice_is_made_again(choosing, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(choice, "write_json", killed)
        choosing(1)
    assert known_choice(choosing.prepared) == {} and choosing(1) == {"a": "as x"}
