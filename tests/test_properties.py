"""What holds of the intake for any names, labels and tables, and of any bytes: found by hypothesis,
not by examples."""
import csv
import io
import os
import re
import socket
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from config import DataConfig
from contest.audit import audit_contest, load_audit
from contest.decoding import decode
from contest.files import is_unsafe
from contest.intake import read_contest
from contest.tables import read_table
from data_loader import make_folds, save_folds
from utils import UserError, csv_text, printable, quoted_cell, unquoted_cell

DATA = DataConfig(n_folds=2)
quickly = settings(max_examples=40, deadline=None, derandomize=True,
                   suppress_health_check=list(HealthCheck))

characters = st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0")
stems = st.text(characters, min_size=1, max_size=20).filter(lambda s: s == s.strip()
                                                            and not s.startswith(".")
                                                            and len(s.encode()) < 200
                                                            and not re.match("[A-Za-z]:", s))
labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1,
                 max_size=12).filter(lambda s: s == s.strip() and s != "")
cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
                max_size=12) | st.sampled_from(["=1+1", "+x", "@a", "\t=x", "'=x", "a\rb", 'a"b',
                                                "a\nb"])


def contest_of(folder, stems_, classes, suffix, in_table):
    """A contest whose training images have these names, its classes in turn, with a test set of
    one."""
    for split, names in (("train", stems_), ("test", ["t"])):
        (folder / split).mkdir(parents=True)
        for i, stem in enumerate(names):
            pixels = np.random.default_rng(i).integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{stem}{suffix}", format="PNG")
    rows = [(f"{stem}{suffix if in_table else ''}", classes[i % len(classes)]) for i,
            stem in enumerate(stems_)]
    (folder / "train.csv").write_text(csv_text([("ID", "target"), *rows]), encoding="utf-8",
                                      newline="")
    return dict(rows)


@quickly
@given(st.lists(stems, min_size=4, max_size=8, unique_by=str.casefold),
       st.lists(labels, min_size=2, max_size=3, unique=True),
       st.sampled_from([".png", ".PNG", ".jpg"]), st.booleans())
@example(["고양이", "🦉 owl", "a.b.c", "0001"], ["벼, 쌀", 'say "x"'], ".png", False)
@example(["-rf", "=1+1", "a\nb", "\x1b[2J"], ["=cmd", "a\rb"], ".png", True)
def test_every_image_gets_its_label_or_is_named(names, classes, suffix, in_table):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "contest"
        try:
            label_of = contest_of(root, names, classes, suffix, in_table)
        except OSError:
            assume(False)           # a name that this file system does not take
        try:
            contest = read_contest(root, DATA)
        except UserError as error:
            # names that could be classes, sets of classes, ...: one sentence each
            assert str(error) and "\n\n" not in str(error)
            return
        named = {i for p in contest.problems for i in p.sample_ids}
        got = {i: contest.train.classes[k] for i, k in zip(contest.train.sample_id.tolist(),
                                                           contest.train.label, strict=True)}
        if contest.understood[0].startswith("labels:     table"):
            assert all(got.get(i) == label or i in named for i, label in label_of.items())
        assert all(Path(p).resolve().is_relative_to(root.resolve())
                   for p in contest.train.path.tolist())
        check_audit(contest, Path(scratch) / "audit", root)


def check_audit(contest, folder, root):
    """The audit keeps every image or names it, and its files are read back as they were written."""
    try:
        audit_contest(contest, DATA, 16, folder, 1)
    except UserError:
        return
    audit = load_audit(folder, root)
    named = {i for p in audit.problems for i in p.sample_ids}
    assert set(contest.train.sample_id.tolist()) - set(audit.train.sample_id.tolist()) <= named
    folds = make_folds(audit.train, 2, 0)
    save_folds(folds, folder / "folds.csv")
    with open(folder / "folds.csv", newline="", encoding="utf-8") as f:
        assert [unquoted_cell(row["sample_id"])
                for row in csv.DictReader(f)] == audit.train.sample_id.tolist()


@quickly
@given(st.binary(max_size=300))
@example(b"\xff\xfe\x00")
@example(b'"' * 9)
@example(b"ID,target\r\n\x00,\x00\r\n")
def test_any_bytes_are_a_table_or_one_reason(data):
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "t.csv").write_bytes(data)
        try:
            table, _ = read_table(Path(root), "t.csv")
        except (ValueError, csv.Error) as error:
            assert str(error)
        else:
            assert all(len(values) == table.n_rows for values in table.columns.values())


@quickly
@given(st.binary(max_size=200), st.sampled_from([
    b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"BM", b"RIFF"]))
def test_any_bytes_are_an_image_or_one_reason(data, magic):
    try:
        image = decode(magic + data).rgb
    except ValueError as error:
        assert str(error)
    else:
        assert image.ndim == 3 and image.shape[2] == 3


@quickly
@given(st.lists(cells, min_size=2, max_size=5))
@example(["'=x", "a\rb", "-1", "-x"])
def test_our_csv_files_are_read_back_and_none_of_their_cells_is_a_formula(row):
    back = list(csv.reader(io.StringIO(csv_text([[quoted_cell(cell) for cell in row], ["x"]]),
                                       newline="")))
    assert [[unquoted_cell(cell) for cell in cells] for cells in back] == [row, ["x"]]
    assert not any(re.match(r"[=@\t\r]|[+-](?![0-9.])", cell) for row in back for cell in row)


@quickly
@given(st.text(max_size=60))
def test_a_printed_text_holds_no_control_character_and_can_be_encoded(text):
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printable(text))
    printable(text).encode()


@quickly
@given(st.lists(st.sampled_from(["..", ".", "a", "b.png", "", "C:", "~", "etc"]),
                min_size=1, max_size=5),
       st.sampled_from("/\\"))
def test_a_safe_id_stays_in_its_folder(parts, separator):
    name = separator.join(parts)
    if not is_unsafe(name):
        assert (Path("/contest") / name.replace("\\", "/")).resolve().is_relative_to("/contest")


@pytest.mark.slow
def test_a_table_of_a_million_rows_is_read(tmp_path):
    """With quoted commas, a byte order mark, CRLF and trailing empty lines."""
    body = "".join(f'"img {i}.png","class, {i % 7}"\r\n' for i in range(10**6))
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + b"ID,target\r\n" + body.encode()
                                         + b"\r\n\r\n")
    table, encoding = read_table(tmp_path, "train.csv")
    assert table.n_rows == 10**6 and not encoding and table.columns["target"][
        -1] == f"class, {(10**6 - 1) % 7}"


@pytest.mark.parametrize("kind", ["device", "socket"])
def test_devices_and_sockets_are_named_and_not_opened(tmp_path, monkeypatch, kind):
    root = tmp_path / "contest"
    contest_of(root, ["a", "b", "c", "d"], ["x", "y"], ".png", True)
    path = root / "train" / "a.png"
    path.unlink()
    try:
        if kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        else:
            with socket.socket(socket.AF_UNIX) as s:
                monkeypatch.chdir(root / "train")       # a socket's path must be short
                s.bind("a.png")
    except PermissionError:
        pytest.skip("devices cannot be made here")
    contest = read_contest(root, DATA)
    assert [p.sample_ids for p in contest.problems
            if p.kind == "refused_path"] == [("train/a.png",), ("a.png",)]
