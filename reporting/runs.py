"""index.html: all runs of a results folder, oldest first, each with what it changed.

    write_index(Path("training_results"))       # reads small files of each run, no predictions
"""
import time
from pathlib import Path

from reporting.figures import padded, place
from reporting.render import render
from system.log import duration
from utils import plain, read_json

NAME = "index.html"
MOST_CHANGES = 12      # settings that are named in a row


def write_index(results_dir):
    """Write the page of all runs in a folder."""
    rows = runs_of(results_dir)
    before = None
    for row in rows:
        row["changes"] = changes(before, row)
        before = row
    scaled(rows)
    render("index.html.jinja", Path(results_dir) / NAME,
           {"folder": Path(results_dir).resolve().name, "rows": rows, "most": MOST_CHANGES,
            "written": time.strftime("%Y-%m-%d %H:%M")})


def runs_of(results_dir):
    """What is known of each run in a folder, the one that began first at the top."""
    rows = [row_of(log.parent) for log in Path(results_dir).glob("*/config.json")]
    return sorted(rows, key=lambda row: (row["time"], row["name"]))


def row_of(folder):
    """A run's name, settings and, if it has finished, its scores. time: of its last result."""
    final = read_kept(folder / "final_results.json")
    settings = read_kept(folder / "config.json")
    data = str(read_kept(folder / "environment.json").get("data_path", ""))
    kept = folder / ("final_results.json" if final else "config.json")
    score = final.get("score")
    row = {"name": folder.name, "mode": settings.get("mode", ""), "settings": flat(settings),
           "data": data.rstrip("/").rpartition("/")[2], "time": kept.stat().st_mtime,
           "has_page": (folder / "report.html").exists(), "is_done": isinstance(score, dict)}
    row["ended"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["time"]))
    if row["is_done"]:
        row |= {"metric": final.get("metric", ""), "expected": score.get("expected"),
                "ci90": score.get("expected_ci90"), "oof": score.get("oof_clean"),
                "test": score.get("test"), "submission": final.get("submission", ""),
                "n_fits": final.get("n_fits"), "seconds": duration(final.get("seconds", 0)),
                "n_warnings": len(final.get("warnings", ()))}
    return row


def read_kept(path):
    """A JSON object of a run; {} if it is missing or someone changed it."""
    try:
        value = read_json(path)
    except (OSError, ValueError):      # one unreadable run must not cost the list of all
        return {}
    return value if isinstance(value, dict) else {}


def flat(value, prefix=""):
    """{dotted name: value} of the settings that change what a run finds."""
    found = {}
    for name, item in value.items():
        if prefix == "" and name in ("mode", "runtime"):
            continue
        if isinstance(item, dict):
            found |= flat(item, f"{prefix}{name}.")
        else:
            found[prefix + name] = item
    if prefix == "" and (hours := value.get("runtime", {}).get("time_budget_hours")):
        found["time_budget"] = hours
    return found


def changes(before, row):
    """[(name, value before, value)] of what differs from the row above; [] for the first row."""
    if before is None:
        return []
    old, new = before["settings"], row["settings"]
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [(name, in_words(old.get(name)), in_words(new.get(name))) for name in names]


def in_words(value):
    """A setting as a person writes it."""
    if value in (None, "", [], ()):
        return "none"
    if isinstance(value, list):
        return ", ".join(in_words(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{name} {in_words(item)}" for name, item in plain(value).items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def scaled(rows):
    """Give each finished row its places in % on the scale of all runs on its data and metric."""
    alike = {}
    for row in rows:
        if row["is_done"] and row["expected"] is not None and row["ci90"]:
            alike.setdefault((row["data"], row["metric"]), []).append(row)
    for those in alike.values():
        low, high = padded([value for row in those for value in row["ci90"]])
        for row in those:
            ends = [place(value, low, high, 0, 100) for value in row["ci90"]]
            row["at"] = {"dot": place(row["expected"], low, high, 0, 100), "low": ends[0],
                         "width": ends[1] - ends[0]}
