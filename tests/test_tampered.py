"""A damaged contest folder, through the command: a named problem, never a traceback, and a run
wherever one makes sense."""
import csv
import json
import shutil

import pytest

from grandmaster_train import main
from tests.conftest import small_argv

RUNS, REFUSED = 0, 2


def truncate(folder):
    path = next((folder / "train").iterdir())
    path.write_bytes(path.read_bytes()[:200])
    return path.name


def truncate_jpeg(folder):
    path = folder / "train" / "a000.png"
    path.write_bytes(b"\xff\xd8\xff\xe0" + b"\x00" * 300)
    return "a000.png"


def zero_bytes(folder):
    (folder / "train" / "a001.png").write_bytes(b"")
    return "a001.png"


def text_as_image(folder):
    (folder / "train" / "a002.png").write_text("not an image")
    return "a002.png"


def bad_test_image(folder):
    (folder / "test" / "t003.png").write_bytes(b"broken")
    return "t003.png"


def add_rows(folder, *rows):
    with open(folder / "train.csv", "a") as f:
        f.writelines(f"{row}\n" for row in rows)


def id_without_file(folder):
    add_rows(folder, "nowhere.png,1")
    return "nowhere.png"


def repeated_id(folder):
    add_rows(folder, "a003.png,0", "a004.png,2")
    return "a004.png"


def label_not_in_meta(folder):
    shutil.copy(folder / "train" / "a005.png", folder / "train" / "new.png")
    add_rows(folder, "new.png,77")
    return "77"


def id_that_leaves(folder):
    shutil.copy(folder / "train" / "a006.png", folder.parent / "outside.png")
    add_rows(folder, "../outside.png,1")
    return "../outside.png"


def empty_table(folder):
    (folder / "train.csv").write_text("")
    return "train.csv"


def no_test_folder(folder):
    shutil.rmtree(folder / "test")
    return "test"


def no_images(folder):
    shutil.rmtree(folder / "train")
    return str(folder)


CASES = [(truncate, RUNS), (truncate_jpeg, RUNS), (zero_bytes, RUNS), (text_as_image, RUNS),
         (bad_test_image, RUNS), (id_without_file, RUNS), (repeated_id, RUNS),
         (label_not_in_meta, RUNS), (id_that_leaves, RUNS), (empty_table, REFUSED),
         (no_test_folder, RUNS), (no_images, REFUSED)]


@pytest.mark.parametrize(("tamper", "status"), CASES, ids=[case[0].__name__ for case in CASES])
def test_damage_is_named(tamper, status, contest, tmp_path, capsys):
    folder = tmp_path / "contest"
    shutil.copytree(contest, folder)
    named = tamper(folder)
    got = main(small_argv(folder, tmp_path, "optim.epochs=1", "predict.tta_views=1"))
    out, err = capsys.readouterr()
    assert got == status, out + err
    assert "Traceback" not in out + err
    if status == REFUSED:
        assert err.startswith("error: ") and named in err
        return
    final = json.loads((tmp_path / "run" / "final_results.json").read_text())
    assert any(named in warning for warning in final["warnings"]), final["warnings"]
    if tamper is no_test_folder:
        assert final["submission"] == ""
        return
    with open(tmp_path / "run" / final["submission"], newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["ID"] for row in rows] == [f"t{i:03}.png" for i in reversed(range(10))]
    assert {row["target"] for row in rows} <= {"0", "1", "2"}
