"""`benchmarks.gpu --dry`: every part that a CPU can do, with small networks."""
import json
import time
from dataclasses import replace

from benchmarks import gpu


def test_the_dry_form_fills_every_part_and_ends(tmp_path):
    lines = []
    path = tmp_path / "gpu.json"
    results = gpu.measured(gpu.lab_of(is_dry=True), path, show=lines.append)
    assert json.loads(path.read_text()) == results
    assert list(results) == [part.__name__ for part in gpu.PARTS]
    assert not any("FAILED" in line for line in lines)
    empty = {name for name, rows in results.items() if not rows}
    assert empty == {"half", "compiled"}      # of a GPU alone
    assert all(abs(row["loss_change"]) < 0.01 for row in results["recomputed"].values())
    assert all(row["batch_norms_differ_by"] < 1e-4 for row in results["recomputed"].values())


def test_a_part_that_fails_is_a_line_and_the_time_ends_the_rest(tmp_path, monkeypatch):
    def broken(lab):
        yield "first", {"value": 1.0}
        raise RuntimeError("no such operation")

    def second(lab):
        yield "x", {"value": 2.0}

    def never(lab):
        raise AssertionError

    lab = gpu.lab_of(is_dry=True)
    monkeypatch.setattr(gpu, "PARTS", (broken, second))
    results = gpu.measured(lab, tmp_path / "a.json", show=lambda line: None)
    assert results["broken"]["FAILED"] == "RuntimeError: no such operation"
    assert results["second"] == {"x": {"value": 2.0}}
    monkeypatch.setattr(gpu, "PARTS", (second, never))
    late = replace(lab, until=time.monotonic() - 1)
    results = gpu.measured(late, tmp_path / "b.json", show=lambda line: None)
    assert "never" not in results and results["ended"].startswith("after second")
