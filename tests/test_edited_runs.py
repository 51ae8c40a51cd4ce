"""predict.py with the folder of a run that somebody edited: one sentence, or the run's own
probabilities. Never a traceback, and never other probabilities in silence.

With --no_verify it may give others, but still no traceback.
"""
import copy
import json
import shutil

import pytest

from grandmaster_train import main as train
from modeling.inference import View
from modeling.train import read_tensors, write_tensors
from predict import main as predict
from running.stored import NAME
from system.stages import MANIFEST, RESULTS_MANIFEST, write_manifest
from tests.conftest import make_contest, small_argv
from utils import read_json, write_json


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two folds with an adapted view; its contest is gone but for one image."""
    folder = tmp_path_factory.mktemp("edited")
    contest = make_contest(folder / "shapes")
    assert train(small_argv(contest, folder, "data.n_folds=2", "data.run_folds=2",
                            "optim.epochs=1", mode="full_training")) == 0
    shutil.copy(contest / "test" / "t001.png", folder / "image.png")
    shutil.rmtree(contest)
    add_adapted_view(folder / "run")
    return folder / "run"


def add_adapted_view(run):
    """Give each fit statistics of other images, and the blend a view that uses them."""
    model = read_json(run / NAME)
    for fit in model["fits"]:
        weights = read_tensors(run / fit["weights"])
        stage = next((run / fit["weights"]).parent.parent.glob("predict-*"))
        write_tensors({name: 1.1 * value for name, value in weights.items()
                       if name.endswith(("running_mean", "running_var"))},
                      stage / "adapted.safetensors")
        fit["adapted"] = (stage / "adapted.safetensors").relative_to(run).as_posix()
        write_manifest(stage / MANIFEST, [p for p in stage.iterdir() if p.name != MANIFEST])
    adapted = next(View(**view).name for view in model["views"] if view["adapted"])
    for kept in model["blend"]["views"].values():
        kept.append(adapted)
    write_json(run / NAME, model)
    write_manifest(run / RESULTS_MANIFEST, [*run.rglob(MANIFEST), run / NAME])


def answer(run, capsys, *flags):
    """(exit status, the table's bytes or None, what standard error says) of predict.py."""
    out = run.parent / "p.csv"
    out.unlink(missing_ok=True)
    status = predict([str(run), str(run.parent / "image.png"), "--out", str(out), *flags])
    return status, out.read_bytes() if out.exists() else None, capsys.readouterr().err


def is_one_sentence(status, table, said):
    return (status in (1, 2) and table is None and said.count("\n") == 1
            and said.startswith(("error: ", "the run failed: ")))


# ---------------------------------------------------------------- edits

OTHER_VALUES = (None, "x", 3, -1, 0, 1.5, True, [], {}, [1], {"a": 1}, 10**30, "../x")


def json_edits(value, path=()):
    """Yields (where, the edit, a new document) of a JSON value: every key removed, every value
    replaced by others of all types, every list shortened, doubled, turned."""
    def changed(new):
        document = copy.deepcopy(value)
        place = document
        for key in path[:-1]:
            place = place[key]
        if new is REMOVED:
            del place[path[-1]]
        else:
            place[path[-1]] = new
        return document

    here = value
    for key in path:
        here = here[key]
    if path:
        yield path, "removed", changed(REMOVED)
        for other in OTHER_VALUES:
            if other != here or type(other) is not type(here):
                yield path, repr(other), changed(other)
    if isinstance(here, list) and path:
        for name, new in (("shorter", here[1:]), ("doubled", here * 2), ("turned", here[::-1])):
            if new != here:
                yield path, name, changed(new)
    keys = here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
    for key in keys:
        yield from json_edits(value, (*path, key))


REMOVED = object()


def texts(value):
    """Yields (name, bytes) of whole JSON files that are none of the program's."""
    text = json.dumps(value)
    yield from {"empty": b"", "zeros": b"\0" * len(text), "cut off": text[:-9].encode(),
                "no UTF-8": b"\xff" + text.encode(), "a list": b"[]", "null": b"null",
                "a number": b"3", "an object": b"{}", "deep": b"[" * 10**5,
                "NaN": b'{"fits": NaN}', "text": b"hello"}.items()


def damages(data):
    """Yields (name, bytes) of a damaged file."""
    middle = len(data) // 2
    yield "empty", b""
    yield "zeros", b"\0" * len(data)
    yield "truncated", data[:middle]
    yield "longer", data + b"\0"
    yield "one bit", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]
    yield "other header", b"\x10" + data[1:]


class Edited:
    """Files of a run replaced inside a block: {path: bytes, or None for no such file}."""

    def __init__(self, run, files):
        self.files = {run / name: data for name, data in files.items()}

    def __enter__(self):
        self.before = {path: path.read_bytes() for path in self.files}
        self.write(self.files)

    def __exit__(self, *_):
        self.write(self.before)

    @staticmethod
    def write(files):
        for path, data in files.items():
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)


def files_read(run, n_fits=2):
    """The names of the files that predict.py reads for its first fits, model.json first."""
    fits = read_json(run / NAME)["fits"][:n_fits]
    tensors = [fit[kind] for fit in fits for kind in ("weights", "adapted")]
    manifests = [f"{name.rpartition('/')[0]}/{MANIFEST}" for name in tensors]
    return [NAME, RESULTS_MANIFEST, *manifests, *tensors]


def edits_of_files(run, names):
    """Yields (what, {name: bytes}): these files removed, damaged, swapped."""
    for name in names:
        data = (run / name).read_bytes()
        yield f"{name} removed", {name: None}
        for how, new in damages(data):
            yield f"{name} {how}", {name: new}
        if name.endswith(".json"):
            for how, new in texts(json.loads(data)):
                yield f"{name} {how}", {name: new}
    tensors = [name for name in names if name.endswith(".safetensors")]
    for i, first in enumerate(tensors):
        for second in tensors[:i]:
            yield f"{first} and {second} swapped", {first: (run / second).read_bytes(),
                                                    second: (run / first).read_bytes()}
            yield f"{first} twice", {second: (run / first).read_bytes()}


def edits_of_values(run, name):
    value = read_json(run / name)
    for path, how, document in json_edits(value):
        yield f"{name}: {'.'.join(map(str, path))} {how}", {name: json.dumps(document).encode()}


# ---------------------------------------------------------------- the campaign

def ended_badly(run, edits, capsys, flags, is_well):
    """[what ended otherwise than is_well(status, table, said)], and how many edits there were."""
    bad = []
    n = 0
    for what, files in edits:
        n += 1
        with Edited(run, files):
            got = answer(run, capsys, *flags)
        if not is_well(*got):
            bad.append(f"{what}: {got[0]} {got[2][-300:]}")
    return bad, n


# the default suite takes each step-th edit of a value: at each place others
each_step = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])


@each_step
def test_every_edit_of_what_is_read_ends_in_one_sentence(run, capsys, step):
    values = [*edits_of_values(run, NAME), *edits_of_values(run, RESULTS_MANIFEST)]
    edits = [*edits_of_files(run, files_read(run)), *values[::step]]
    _, own, _ = answer(run, capsys)

    def is_well(status, table, said):
        return is_one_sentence(status, table, said) or (status == 0 and table == own)

    bad, n = ended_badly(run, edits, capsys, (), is_well)
    assert bad == [] and n > 300 and own


def test_what_is_not_read_may_be_edited(run, capsys):
    _, own, _ = answer(run, capsys)
    used = set(files_read(run))
    others = {path.relative_to(run).as_posix(): b"edited" for path in run.rglob("*")
              if path.is_file()}
    others = {name: data for name, data in others.items() if name not in used}
    with Edited(run, others):
        assert answer(run, capsys)[:2] == (0, own)
    with Edited(run, dict.fromkeys(others)):
        assert answer(run, capsys)[:2] == (0, own)


@each_step
def test_without_the_check_no_edit_ends_in_a_traceback(run, capsys, step):
    values = list(edits_of_values(run, NAME))
    names = [name for name in files_read(run, n_fits=1) if not name.endswith(MANIFEST)]
    edits = [*edits_of_files(run, names), *values[::5 * step]]

    def is_well(status, table, said):
        return is_one_sentence(status, table, said) or (status == 0 and b"nan" not in table)

    bad, n = ended_badly(run, edits, capsys, ("--no_verify", "--fast"), is_well)
    assert bad == [] and n > 70


@pytest.mark.parametrize("edit", [
    lambda model: model.update(classes=["a"] * len(model["classes"])),
    lambda model: model.update(class_names=[]),
    lambda model: model.update(long_side_px=0),
    lambda model: model.update(white_level=0),
    lambda model: model["views"][0].update(scale=0),
    lambda model: model["views"][0].update(symmetry="x"),
    lambda model: model["fits"][0]["compute"].update(precision="int3"),
    lambda model: model["fits"][0].update(timm={"pad_type": "x"}),
    lambda model: model["fits"][0].update(adapted=""),
    lambda model: model["blend"].update(cuts=[0.5] * 9),
    lambda model: [views.append("x") for views in model["blend"]["views"].values()],
    lambda model: model["blend"]["temperature"].clear(),
])
def test_a_value_that_cannot_be_right_is_named_without_the_check_too(run, capsys, edit):
    model = read_json(run / NAME)
    edit(model)
    with Edited(run, {NAME: json.dumps(model).encode()}):
        status, table, said = answer(run, capsys, "--no_verify")
    assert is_one_sentence(status, table, said)
    assert f"{NAME} must be as its run wrote it, but" in said


@pytest.mark.parametrize("flags", [(), ("--fast",)])
def test_zeroed_weights_are_named_unless_the_check_is_left_out(run, capsys, flags):
    _, own, _ = answer(run, capsys, *flags)
    name = read_json(run / NAME)["fits"][0]["weights"]
    zeroed = run.parent / "zeroed.safetensors"
    write_tensors({key: 0 * value for key, value in read_tensors(run / name).items()}, zeroed)
    with Edited(run, {name: zeroed.read_bytes()}):
        status, table, said = answer(run, capsys, *flags)
        assert is_one_sentence(status, table, said) and f"{name!r} changed" in said
        assert "--no_verify" in said
        status, table, _ = answer(run, capsys, "--no_verify", *flags)
        assert status == 0 and table != own


def test_only_what_is_read_is_checked(run, capsys):
    last = read_json(run / NAME)["fits"][-1]["weights"]
    with Edited(run, {last: (run / last).read_bytes()[:-1] + b"\1"}):
        assert answer(run, capsys, "--fast")[0] == 0
        assert answer(run, capsys)[0] == 2


def test_the_file_that_is_named_is_the_one_that_is_read(run, capsys):
    """And not its neighbour weights.safetensors."""
    model = read_json(run / NAME)
    _, own, _ = answer(run, capsys, "--fast")
    name = model["fits"][0]["weights"]
    moved = name.replace("weights.", "moved.")
    (run / moved).write_bytes((run / name).read_bytes())
    model["fits"][0]["weights"] = moved
    with Edited(run, {NAME: json.dumps(model).encode(), name: b"neighbour"}):
        assert answer(run, capsys, "--fast", "--no_verify")[:2] == (0, own)
    (run / moved).unlink()


def test_a_run_that_cannot_be_checked_says_so(run, capsys):
    with Edited(run, {RESULTS_MANIFEST: None}):
        status, table, said = answer(run, capsys)
        assert is_one_sentence(status, table, said) and "--no_verify" in said
        assert answer(run, capsys, "--no_verify")[0] == 0
