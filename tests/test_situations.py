"""What people had that was read wrongly in silence: the right reading, or a stop that names it.

Each test draws a kind of contest folder in several forms. No image is decoded: only what the folder
is understood as is compared with the truth.
"""
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grandmaster_train
import predict
from config import DataConfig
from contest.files import Naming, naming_of, scan_folder
from contest.intake import read_contest
from system.command import DONE, run_command
from tests.situations import check_variant, what_is_wrong, wrong_advice
from utils import UserError

KINDS = ("nv", "mel", "bcc")
SOME = 24       # images


def touch(path):
    """A file with the name of an image; nothing decodes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xd8\xff\xe0 not decoded")


def write(path, header, rows, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *rows]
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines), "utf-8")


def labels_of(root, **data):
    """{file name: class} as the folder is read."""
    train = read_contest(root, DataConfig(**data)).train
    return {Path(path).name: train.classes[label]
            for path, label in zip(train.path.tolist(), train.label.tolist(), strict=True)}


def warned(root, kind, **data):
    """The texts of the problems of a kind."""
    return [p.text for p in read_contest(root, DataConfig(**data)).problems if p.kind == kind]


def truth(names):
    return {name: KINDS[i % 3] for i, name in enumerate(names)}


# ---------------------------------------------------------------- c04, c01: ids of images

@pytest.mark.parametrize("column", [
    "../input/train/{i}.jpg", "train/{i}.jpg", "./train/{i}.jpg", "{i}.jpg",
    "/kaggle/input/skin/train/{i}.jpg", r"C:\data\train\{i}.jpg", r"..\train\{i}.jpg"])
@pytest.mark.parametrize("header", [("index", "image_path", "label"),
                                    ("row", "file", "label"), ("no", "path", "label")])
def test_a_row_number_is_not_the_id_beside_a_path(tmp_path, column, header):
    order = list(range(SOME))
    random.Random(3).shuffle(order)
    for i in order:
        touch(tmp_path / f"train/{i}.jpg")
    write(tmp_path / "train.csv", header,
          [(n, column.format(i=i), KINDS[i % 3]) for n, i in enumerate(order)])
    assert labels_of(tmp_path) == truth(f"{i}.jpg" for i in range(SOME))


def test_two_columns_of_numbers_that_both_name_images_stop_the_run(tmp_path):
    for i in range(SOME):
        touch(tmp_path / f"train/{i}.jpg")
    write(tmp_path / "train.csv", ("index", "id", "label"),
          [(n, SOME - 1 - n, KINDS[n % 3]) for n in range(SOME)])
    with pytest.raises(UserError, match=r"one column of image ids, but 'index' and 'id' both"):
        labels_of(tmp_path)


def site_folders(root, name="{i:06d}.jpg"):
    names = [name.format(i=i) for i in range(SOME)]
    for i, file in enumerate(names):
        touch(root / f"train/ward {'abcd'[i % 4]}/{file}")
    return names


@pytest.mark.parametrize("id_", [
    "{i}", "{i}.0", "{i:06d}", "{i:06d}.JPG", "/content/drive/data/train/ward {f}/{i:06d}.jpg",
    r"C:\Users\me\{i:06d}.jpg", r"D:\x\train\ward {f}\{i:06d}.jpg", "https://host/a/{i:06d}.jpg",
    "data/v2/{i:06d}", " {i:06d} "])
def test_labels_beside_other_folders_are_those_of_the_table(tmp_path, id_):
    names = site_folders(tmp_path)
    write(tmp_path / "train.csv", ("id", "label"),
          [(id_.format(i=i, f="abcd"[i % 4]), KINDS[i % 3]) for i in range(SOME)])
    assert labels_of(tmp_path, label_table="train.csv") == truth(names)


@pytest.mark.parametrize(("file", "separator"), [
    ("train.csv", "|"), ("train.tab", "\t"), ("labels.txt", "\t"), ("labels.txt", ";"),
    ("train.tsv", "\t"), ("meta/labels/train.csv", ","), ("train_test_split.csv", ","),
    ("sample_labels.csv", ","), ("a/b/c/labels.csv", ";"), ("labels.psv", "|")])
def test_tables_of_other_names_places_and_separators_give_the_labels(tmp_path, file, separator):
    names = site_folders(tmp_path)
    write(tmp_path / file, ("id", "label"),
          [(f"{i:06d}", KINDS[i % 3]) for i in range(SOME)], separator)
    assert labels_of(tmp_path, label_table=file) == truth(names)
    with pytest.raises(UserError, match="two ways"):        # the wards are no classes, or are they
        labels_of(tmp_path)


def test_excels_line_that_names_the_separator_is_no_header(tmp_path):
    names = site_folders(tmp_path)
    rows = [f"{i:06d};{KINDS[i % 3]}" for i in range(SOME)]
    (tmp_path / "train.csv").write_text("\n".join(["sep=;", "id;label", *rows]))
    assert labels_of(tmp_path, label_table="train.csv") == truth(names)


def test_a_json_map_of_files_to_classes_gives_the_labels(tmp_path):
    names = site_folders(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps(truth(names)))
    assert labels_of(tmp_path, label_table="labels.json") == truth(names)


@pytest.mark.parametrize("ids", ["S{i:03d}", "case-{i}", "00{i}x", "IMG {i}", "{i}_left"])
def test_a_table_whose_ids_name_no_image_stops_the_run(tmp_path, ids):
    site_folders(tmp_path)
    write(tmp_path / "train.csv", ("id", "label"),
          [(ids.format(i=i), KINDS[i % 3]) for i in range(SOME)])
    with pytest.raises(UserError, match=r"'train.csv' may hold the labels, but 0 of its 24 rows"):
        labels_of(tmp_path)
    assert set(labels_of(tmp_path, label_table="folders").values()) == {
        f"ward {c}" for c in "abcd"}


@pytest.mark.parametrize("file", ["labels.xlsx", "train_labels.parquet", "annotations.jsonl",
                                  "classes.ods", "meta/ground_truth.feather"])
def test_a_file_that_may_hold_the_labels_and_is_not_read_stops_the_run(tmp_path, file):
    site_folders(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match="may hold the labels but is not read: save it as a csv"):
        labels_of(tmp_path)
    assert labels_of(tmp_path, label_table="folders")


def test_a_folder_for_each_study_is_no_class_where_a_table_lists_the_studies(tmp_path):
    for i in range(SOME):
        for j in range(3):
            touch(tmp_path / f"train/S{i:03d}/{j}.jpg")
    write(tmp_path / "train.csv", ("id", "label"),
          [(f"S{i:03d}", KINDS[i % 3]) for i in range(SOME)])
    with pytest.raises(UserError, match="may hold the labels"):
        labels_of(tmp_path)


def test_a_list_of_the_classes_is_no_unread_table_of_labels(tmp_path):
    for i in range(60):
        touch(tmp_path / f"train/{KINDS[i % 3]}/{i}.jpg")
    write(tmp_path / "classes.csv", ("name", "malignant"), [("nv", 0), ("mel", 1), ("bcc", 1)])
    assert set(labels_of(tmp_path).values()) == set(KINDS)


@given(numbers=st.lists(st.integers(0, 10**5), min_size=6, max_size=30, unique=True),
       prefix=st.lists(st.sampled_from(["..", "data", "input", "kaggle", "Δ"]), max_size=3),
       digits=st.integers(6, 9), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_ids_find_their_files_whatever_stands_before_them(tmp_path_factory, numbers, prefix, digits,
                                                          seed):
    root = tmp_path_factory.mktemp("named")
    names = {n: f"{n:0{digits}d}.jpg" for n in numbers}
    for name in names.values():
        touch(root / "train" / name)
    random.Random(seed).shuffle(numbers)
    files = scan_folder(root)
    for ids in ([str(n) for n in numbers],
                ["/".join([*prefix, "train", names[n]]) for n in numbers],
                ["\\".join([*prefix, names[n]]) for n in numbers]):
        naming = naming_of(files, ids)
        assert isinstance(naming, Naming)
        write(root / "train.csv", ("id", "label"),
              [(id_, f"class {n % 2}") for id_, n in zip(ids, numbers, strict=True)])
        if len({n % 2 for n in numbers}) == 2:
            assert labels_of(root) == {names[n]: f"class {n % 2}" for n in numbers}


def test_a_path_never_means_a_file_of_that_name_in_another_folder(tmp_path):
    """Its own file is missing; a mask and a test image have the same name."""
    for i in range(SOME):
        if i % 4:
            touch(tmp_path / f"train/{KINDS[i % 3]}/{i}.png")
        touch(tmp_path / f"masks/{i}.png")
        touch(tmp_path / f"test/{i}.png")
    write(tmp_path / "train.csv", ("path", "label"),
          [(f"train/{KINDS[i % 3]}/{i}.png", KINDS[i % 3]) for i in range(SOME)])
    contest = read_contest(tmp_path, DataConfig())
    assert {Path(p).parts[-3] for p in contest.train.path.tolist()} == {"train"}
    assert len(contest.train) == SOME - SOME // 4
    assert any("without an image file" in p.text for p in contest.problems)


# ---------------------------------------------------------------- c02, c03: tables without labels

@pytest.mark.parametrize("header", [
    ("id", "prob_nv", "prob_mel", "label", "confidence"),
    ("id", "prob_0", "prob_1", "label", "class_name", "confidence"),
    ("sample_id", "fold"), ("sample_id", "path", "sha256", "label", "group", "left_out"),
    ("epoch", "loss", "lr")])
def test_a_table_that_this_program_wrote_is_named_and_not_used(tmp_path, header):
    for i in range(SOME):
        touch(tmp_path / f"train/{KINDS[i % 3]}/{i:04d}.jpg")
    rows = [[f"{i:04d}.jpg", *["nv"] * (len(header) - 1)] for i in range(SOME)]
    write(tmp_path / "predictions_mine.csv", header, rows)
    assert set(labels_of(tmp_path).values()) == set(KINDS)
    assert "was written by this program" in warned(tmp_path, "own_table")[0]


@pytest.mark.parametrize(("name", "value"), [
    ("author", lambda i: ("ann", "bob", "eve", "dan")[i % 7 % 4]),
    ("width", lambda i: (640, 800, 1024)[i % 4 % 3]), ("patient_id", lambda i: f"P{i // 6}"),
    ("camera", lambda i: f"cam{i % 5}"), ("licence", lambda i: ("cc0", "by")[i % 5 % 2])])
def test_a_table_that_contradicts_the_class_folders_stops_the_run(tmp_path, name, value):
    for i in range(60):
        touch(tmp_path / f"train/{KINDS[i % 3]}/{i:04d}.jpg")
    write(tmp_path / "about.csv", ("file", name), [(f"{i:04d}.jpg", value(i)) for i in range(60)])
    with pytest.raises(UserError, match=r"two ways.*data.label_table=about.csv or --set "
                                        r"data.label_table=folders"):
        labels_of(tmp_path)
    assert labels_of(tmp_path, label_table="folders") == truth(f"{i:04d}.jpg" for i in range(60))


@pytest.mark.parametrize("words", [("train", "val"), ("Train", "Test"), ("dev", "valid"),
                                   ("training", "testing"), ("train", "validation")])
def test_a_column_that_only_says_the_split_is_no_class(tmp_path, words):
    for i in range(60):
        touch(tmp_path / f"images/{KINDS[i % 3]}/{i:04d}.jpg")
    write(tmp_path / "splits.csv", ("path", "split"),
          [(f"{KINDS[i % 3]}/{i:04d}.jpg", words[i % 5 == 0]) for i in range(60)])
    assert labels_of(tmp_path) == truth(f"{i:04d}.jpg" for i in range(60))
    assert "it only says the split" in warned(tmp_path, "unused_table")[0]


@pytest.mark.parametrize("folder", ["images_{n:03d}", "part{n}", "site {n}", "batch-{n}",
                                    "patient{n}"])
def test_folders_that_only_divide_the_images_are_no_rival_of_a_table(tmp_path, folder):
    for i in range(60):
        touch(tmp_path / folder.format(n=i // 20) / f"{i:06d}.png")
    write(tmp_path / "Data_Entry.csv", ("Image Index", "Finding"),
          [(f"{i:06d}.png", KINDS[i % 3]) for i in range(60)])
    assert labels_of(tmp_path) == truth(f"{i:06d}.png" for i in range(60))


# ---------------------------------------------------------------- c06: names in two Unicode forms

NAMES = ("강아지", "고양이", "새", "café", "Größe", "ñandú")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_class_names_have_one_unicode_form(tmp_path, form):
    for i in range(36):
        touch(tmp_path / "train" / unicodedata.normalize("NFD", NAMES[i % 6]) / f"{i:03d}.jpg")
    for i in range(6):
        touch(tmp_path / f"test/t{i}.jpg")
    header = ("ID", *(unicodedata.normalize(form, name) for name in NAMES))
    write(tmp_path / "sample_submission.csv", header, [(f"t{i}", *[0] * 6) for i in range(6)])
    contest = read_contest(tmp_path, DataConfig())
    assert set(contest.train.classes) == set(NAMES)
    assert contest.form.header == header      # as the sample has them
    assert sorted(contest.form.class_of) == list(range(6))


def test_folders_of_both_forms_are_one_class(tmp_path):
    for i in range(36):
        form = ("NFC", "NFD")[i // 6 % 2]
        touch(tmp_path / "train" / unicodedata.normalize(form, NAMES[i % 6]) / f"{i:03d}.jpg")
    assert set(labels_of(tmp_path).values()) == set(NAMES)


@pytest.mark.parametrize("id_", ["{name}/{i}.jpg", "{i}.jpg", "{i}"])
def test_a_label_in_one_form_tells_folders_of_the_other_apart(tmp_path, id_):
    for name in NAMES:
        for i in range(5):
            touch(tmp_path / "train" / unicodedata.normalize("NFD", name) / f"{i}.jpg")
    write(tmp_path / "labels.csv", ("file", "label"),
          [(id_.format(name=unicodedata.normalize("NFC", name), i=i), name)
           for name in NAMES for i in range(5)])
    train = read_contest(tmp_path, DataConfig()).train
    assert len(train) == 30
    for path, label in zip(train.path.tolist(), train.label.tolist(), strict=True):
        folder = unicodedata.normalize("NFC", Path(path).parent.name)
        assert folder == train.classes[label]


def test_classes_that_differ_in_case_alone_are_named(tmp_path):
    for i in range(SOME):
        touch(tmp_path / f"img/{i}.jpg")
    write(tmp_path / "train.csv", ("id", "label"),
          [(f"{i}.jpg", ("Cat", "cat", "dog")[i % 3]) for i in range(SOME)])
    assert "differ in case alone" in warned(tmp_path, "classes_alike")[0]


# ---------------------------------------------------------------- c08: folders of several depths

def test_a_copy_of_the_class_folders_is_read_as_them(tmp_path):
    for i in range(SOME):
        for above in ("", "brain_tumor_dataset/"):
            touch(tmp_path / f"{above}{'yes' if i % 2 else 'no'}/Y{i}.jpg")
    assert set(labels_of(tmp_path).values()) == {"yes", "no"}


@pytest.mark.parametrize(("stray", "n"), [
    ("assets/banner.png", 1), ("unlabelled/u{i}.jpg", SOME), ("docs/{i}.png", 3),
    ("samples/s{i}.jpg", 6), ("thumbs/{i}.jpg", SOME)])
def test_a_folder_beside_a_folder_of_classes_stops_the_run(tmp_path, stray, n):
    for i in range(SOME):
        touch(tmp_path / f"dataset/{'cat' if i % 2 else 'dog'}/{i}.jpg")
    for i in range(n):
        touch(tmp_path / stray.format(i=i))
    with pytest.raises(UserError, match=r"two ways.*--set data.label_table=subfolders takes one"):
        labels_of(tmp_path)
    assert set(labels_of(tmp_path, label_table="subfolders").values()) == {"cat", "dog"}


def test_train_folders_at_several_depths_hold_one_set_of_classes(tmp_path):
    for i in range(SOME):
        name = "cat" if i % 2 else "dog"
        touch(tmp_path / f"data1/train/{name}/{i}.jpg")
        touch(tmp_path / f"extra/v2/train/{name}/x{i}.jpg")
    found = labels_of(tmp_path)
    assert set(found.values()) == {"cat", "dog"} and len(found) == 2 * SOME


@pytest.mark.parametrize("project", ["test_project", "my test", "training_2024", "test",
                                     "a/test_b"])
def test_the_name_of_a_project_is_no_split(tmp_path, project):
    for i in range(SOME):
        touch(tmp_path / project / f"train/{KINDS[i % 3]}/{i}.jpg")
    assert labels_of(tmp_path) == truth(f"{i}.jpg" for i in range(SOME))


@pytest.mark.parametrize("names", [("train_station", "harbour", "airport"),
                                   ("rapid_test", "pcr", "none"), ("test_tube", "beaker", "flask")])
def test_classes_below_train_may_hold_words_of_splits(tmp_path, names):
    for i in range(SOME):
        touch(tmp_path / f"train/{names[i % 3]}/{i}.jpg")
        touch(tmp_path / f"test/t{i}.jpg")
    assert set(labels_of(tmp_path).values()) == set(names)


# ---------------------------------------------------------------- c09: quotes

@pytest.mark.parametrize("at", [1, 5, 11, 20, 23])
@pytest.mark.parametrize("second", [None, 3])
def test_a_quote_that_is_not_closed_stops_the_run(tmp_path, at, second):
    for i in range(SOME):
        touch(tmp_path / f"train/{i:04d}.jpg")
    lines = [f"{i:04d},{KINDS[i % 3]}" for i in range(SOME)]
    lines[at] = lines[at].replace(",", ',"')
    if second and at + second < SOME:
        lines[at + second] += '"'
    (tmp_path / "train.csv").write_text("\n".join(["id,label", *lines]) + "\n")
    with pytest.raises(UserError, match=rf"cannot be read \(a quote in row {at + 2} is not closed"):
        labels_of(tmp_path)


def test_a_cell_of_several_lines_is_read(tmp_path):
    for i in range(SOME):
        touch(tmp_path / f"train/{i:04d}.jpg")
    rows = "".join(f'{i:04d},{KINDS[i % 3]},"first line\nand a second"\n' for i in range(SOME))
    (tmp_path / "train.csv").write_text("id,label,note\n" + rows)
    assert labels_of(tmp_path, target_column="label") == truth(
        f"{i:04d}.jpg" for i in range(SOME))


# ---------------------------------------------------------------- c11: links, c13, c15: splits

def test_links_to_folders_inside_the_contest_are_followed_once(tmp_path):
    for i in range(SOME):
        touch(tmp_path / f"store/{KINDS[i % 3]}/{i:04d}.jpg")
        touch(tmp_path / f"other/x/o{i}.jpg")
    (tmp_path / "train").mkdir()
    for kind in KINDS:
        os.symlink(f"../store/{kind}", tmp_path / f"train/{kind}")
    assert labels_of(tmp_path) == truth(f"{i:04d}.jpg" for i in range(SOME))


def test_links_that_lead_up_or_out_are_named_and_not_followed(tmp_path):
    outside = tmp_path / "outside"
    root = tmp_path / "contest"
    for i in range(SOME):
        touch(root / f"train/{KINDS[i % 3]}/{i}.jpg")
        touch(outside / f"{i}.jpg")
    os.symlink(outside, root / "train/more")
    os.symlink("..", root / "train/up")
    assert labels_of(root) == truth(f"{i}.jpg" for i in range(SOME))
    assert "left unopened" in warned(root, "refused_path")[0]


def label_in_two_folders(folder, first, second):
    """A label table by paths: 18 images in the first folder, the others in the second."""
    rows = []
    for i in range(SOME):
        path = f"{first if i < 18 else second}/{i:04d}.jpg"
        touch(folder / path)
        rows.append((path, KINDS[i % 3]))
    write(folder / "labels.csv", ("path", "label"), rows)


@pytest.mark.parametrize("other", ["val", "valid", "validation", "dev", "extra"])
def test_rows_of_another_folder_are_found_by_their_paths(tmp_path, other):
    label_in_two_folders(tmp_path, "train", other)
    assert labels_of(tmp_path) == truth(f"{i:04d}.jpg" for i in range(SOME))


def test_rows_of_the_test_folder_are_not_trained_on(tmp_path):
    label_in_two_folders(tmp_path, "train", "test")
    assert labels_of(tmp_path) == truth(f"{i:04d}.jpg" for i in range(18))
    assert "folder of the other split" in warned(tmp_path, "other_split")[0]


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "dev"])
@pytest.mark.parametrize("file", ["_classes.csv", "metadata.csv"])
def test_a_table_in_the_folder_of_each_split_is_one_table(tmp_path, valid, file):
    for split, n in (("train", 18), (valid, 6), ("test", 6)):
        rows = []
        for i in range(n):
            name = f"{i:04d}.png"
            touch(tmp_path / split / name)
            flags = [f" {int(i % 3 == k)}" for k in range(3)]
            rows.append((name, *flags) if file == "_classes.csv" else (name, KINDS[i % 3]))
        header = ("file", *KINDS) if file == "_classes.csv" else ("file", "label")
        write(tmp_path / split / file, header, rows)
    contest = read_contest(tmp_path, DataConfig())
    assert len(contest.train) == 24 and len(contest.test) == 6
    for path, label in zip(contest.train.path.tolist(), contest.train.label.tolist(), strict=True):
        assert contest.train.classes[label] == KINDS[int(Path(path).stem) % 3]
    assert all(Path(path).parent.name == "test" for path in contest.test.path.tolist())


@pytest.mark.parametrize("folder", ["@eaDir", ".thumbnails", "__MACOSX", "lost+found",
                                    "$RECYCLE.BIN"])
def test_thumbnails_that_a_system_leaves_are_no_images(tmp_path, folder):
    for i in range(SOME):
        touch(tmp_path / f"train/{KINDS[i % 3]}/{i}.jpg")
        touch(tmp_path / f"train/{KINDS[i % 3]}/{folder}/{i}.jpg")
    assert labels_of(tmp_path) == truth(f"{i}.jpg" for i in range(SOME))


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made there")
def test_file_names_that_end_in_a_blank_are_found(tmp_path):
    for i in range(SOME):
        touch(tmp_path / f"train/{i:03d} .jpg")
    write(tmp_path / "train.csv", ("id", "label"),
          [(f"{i:03d}", KINDS[i % 3]) for i in range(SOME)])
    assert labels_of(tmp_path) == truth(f"{i:03d} .jpg" for i in range(SOME))


@pytest.mark.parametrize(("column", "positive"), [
    ("non_toxic", "clean"), ("not-toxic", "clean"), ("no_toxic", "clean"), ("is_toxic", "toxic"),
    ("toxic", "toxic"), ("p_not_toxic", "clean")])
def test_a_column_that_negates_a_class_holds_the_other_one(tmp_path, column, positive):
    for i in range(SOME):
        touch(tmp_path / f"train/{('clean', 'toxic')[i % 2]}/{i}.jpg")
        touch(tmp_path / f"test/t{i}.jpg")
    write(tmp_path / "sample_submission.csv", ("id", column), [(f"t{i}", 0.5) for i in range(SOME)])
    contest = read_contest(tmp_path, DataConfig())
    form = contest.form.for_metric("log_loss", "probability", contest.train.classes)
    assert contest.train.classes[form.positive] == positive


@pytest.mark.parametrize("column", ["index", "Unnamed: 0", "row", "#", "no"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_column_that_numbers_the_rows_of_the_sample_is_left_out(tmp_path, column, first):
    for i in range(SOME):
        touch(tmp_path / f"train/{KINDS[i % 3]}/{i}.jpg")
        touch(tmp_path / f"test/t{i}.jpg")
    write(tmp_path / "sample_submission.csv", (column, "id", "label"),
          [(first + i, f"t{i}", "nv") for i in range(SOME)])
    contest = read_contest(tmp_path, DataConfig())
    assert contest.form.header == ("id", "label") and len(contest.test) == SOME
    assert "only numbers its rows" in warned(tmp_path, "row_numbers")[0]


# ---------------------------------------------------------------- the same kinds, otherwise drawn

def folders(root, n=60, name="{i:04d}.jpg", top="train/", kinds=KINDS):
    """n images in class folders; {path: class}."""
    paths = {f"{top}{kinds[i % 3]}/{name.format(i=i)}": kinds[i % 3] for i in range(n)}
    for path in paths:
        touch(root / path)
    return paths


def flat(root, n=60, name="{i:04d}.jpg", top="train/", first=0):
    """n images in one folder; {path: class}."""
    paths = {top + name.format(i=i): KINDS[i % 3] for i in range(first, first + n)}
    for path in paths:
        touch(root / path)
    return paths


def by_path(root, **data):
    """{path of each training image: class} as the folder is read."""
    contest = read_contest(root, DataConfig(**data))
    train = contest.train
    return {os.path.relpath(path, contest.folder): contest.class_names[label]
            for path, label in zip(train.path.tolist(), train.label.tolist(), strict=True)}


def shuffled(n):
    order = list(range(n))
    random.Random(5).shuffle(order)
    return order


@pytest.mark.parametrize(("header", "number", "path", "name"), [
    ("", "{n}", "{i}.jpg", "{i}.jpg"), ("id", "{m}", "train/{i}.jpg", "{i}.jpg"),
    ("index", "{n}.0", "file:///home/me/train/{i}.jpg", "{i}.jpg"),
    ("n", "{n}", "https://cdn/img/{i}.jpg?raw=1", "{i}.jpg"),
    ("n", "{n}", "gs://b/a%20{i}.jpg#x", "a {i}.jpg"),
    ("index", "{n}", "{i:05d}", "{i:05d}.jpg"), ("Id", "{m}", "img_{i}", "img_{i}.png")])
def test_row_numbers_are_no_ids_beside_names_of_any_form(tmp_path, header, number, path, name):
    expected = flat(tmp_path, name=name)
    rows = [(number.format(n=n, m=n + 1), path.format(i=i), KINDS[i % 3])
            for n, i in enumerate(shuffled(60))]
    write(tmp_path / "train.csv", (header, "image", "label"), rows)
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("value", ["../{s}/train/{i}.jpg", "IMG_{i:04d}.jpg", "image {i}",
                                   "scan-{i}-a", "/mnt/{s}/{i}.jpeg.enc/x"])
def test_row_numbers_beside_names_that_name_no_image_stop_the_run(tmp_path, value):
    flat(tmp_path, name="{i}.jpg")
    write(tmp_path / "train.csv", ("index", "image", "label"),
          [(n, value.format(i=i, s="ab"[i % 2]), KINDS[i % 3])
           for n, i in enumerate(shuffled(60))])
    with pytest.raises(UserError, match=r"'image' \(.*names none, and 'index' may only number"):
        by_path(tmp_path)
    assert len(by_path(tmp_path, id_column="index")) == 60      # as the sentence says


@pytest.mark.parametrize(("file", "text"), [
    ("train.csv", "{path}^{label}"), ("train.txt", "{path} {label}"), ("a.lst", "{path}\t{label}"),
    ("labels", "{name} {label}"), ("labels.dat", "{name}:{label}"), ("l.yaml", "{name}: {label}"),
    ("train.csv.bak", "{name},{label}"), ("notes.txt", "{name}  {label}")])
def test_a_text_that_names_the_images_and_is_no_table_stops_the_run(tmp_path, file, text):
    names = site_folders(tmp_path)
    lines = [text.format(path=f"train/ward {'abcd'[i % 4]}/{name}".replace(" ", "_"), name=name,
                         label=KINDS[i % 3]) for i, name in enumerate(names)]
    (tmp_path / file).write_text("\n".join(lines))
    with pytest.raises(UserError, match="may hold the labels but is not read: save it as a csv"):
        by_path(tmp_path)
    assert len(by_path(tmp_path, label_table="folders")) == SOME


def test_a_list_of_the_files_is_no_text_of_labels(tmp_path):
    expected = folders(tmp_path)
    (tmp_path / "train.txt").write_text("\n".join(expected))
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("file", ["metadata.jsonl", "train/metadata.jsonl", "records.json",
                                  "by_class.json", "labels.ndjson"])
def test_json_of_rows_lines_or_lists_gives_the_labels(tmp_path, file):
    expected = flat(tmp_path, name="{i:06d}.jpg")
    rows = [{"file_name": Path(p).name, "label": c, "n": [1]} for p, c in expected.items()]
    text = "\n".join(map(json.dumps, rows))
    if file == "records.json":
        text = json.dumps(rows)
    elif file == "by_class.json":
        text = json.dumps({k: [r["file_name"] for r in rows if r["label"] == k] for k in KINDS})
    (tmp_path / file).write_text(text)
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("value", ["1.0E+05", "1E5", "1.2e+10"])
def test_ids_in_e_notation_stop_the_run(tmp_path, value):
    site_folders(tmp_path)
    write(tmp_path / "train.csv", ("id", "label"), [(value, KINDS[i % 3]) for i in range(SOME)])
    with pytest.raises(UserError, match=r"'train.csv' may hold the labels, but 0 of its 24"):
        by_path(tmp_path)


@pytest.mark.parametrize("file", ["test_labels.csv", "test/labels.csv", "sample.csv",
                                  "submission.csv", "my_submission_labels.csv"])
def test_a_table_of_the_training_images_is_read_whatever_its_name(tmp_path, file):
    names = site_folders(tmp_path)
    write(tmp_path / file, ("id", "label"), [(f"{i:06d}", KINDS[i % 3]) for i in range(SOME)])
    with pytest.raises(UserError, match="two ways"):
        by_path(tmp_path)
    assert labels_of(tmp_path, label_table=file) == truth(names)


@pytest.mark.parametrize("first", ["Table 1,", "Exported on 2020-01-01,", "labels,"])
def test_a_title_above_the_header_stops_the_run(tmp_path, first):
    site_folders(tmp_path)
    rows = [f"{i:06d},{KINDS[i % 3]}" for i in range(SOME)]
    (tmp_path / "train.csv").write_text("\n".join([first, "id,label", *rows]))
    with pytest.raises(UserError, match="its first row names one of 2 columns"):
        by_path(tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".xml", ".json"])
def test_a_text_beside_each_image_is_named(tmp_path, suffix):
    expected = folders(tmp_path)
    for path in expected:
        (tmp_path / path).with_suffix(suffix).write_text("0 0.5 0.5 0.1 0.1")
    assert by_path(tmp_path) == expected
    assert "60 files named as images" in warned(tmp_path, "sidecar_files")[0]
    for path in list(expected):
        target = tmp_path / path.replace("nv", "site1").replace("mel", "site2").replace(
            "bcc", "site3")
        target.parent.mkdir(exist_ok=True)
        os.replace(tmp_path / path, target)
        os.replace((tmp_path / path).with_suffix(suffix), target.with_suffix(suffix))
    with pytest.raises(UserError, match="if they hold the classes, write these into a csv"):
        by_path(tmp_path)


@pytest.mark.parametrize(("suffix", "stops"), [(".xlsx", False), (".mat", False), (".xls", False)])
def test_a_spreadsheet_of_any_name_is_named(tmp_path, suffix, stops):
    expected = folders(tmp_path)
    (tmp_path / f"Data 2019{suffix}").write_bytes(b"PK\3\4")
    assert by_path(tmp_path) == expected
    assert "is not read: save it as a csv" in warned(tmp_path, "unread_table")[0]


@pytest.mark.parametrize("names", [("site1", "site2", "site3"), ("part 1", "part-2", "x part 3"),
                                   ("P images_1", "P images_2", "P images_3")])
def test_a_spreadsheet_beside_folders_that_only_divide_the_images_stops_the_run(tmp_path, names):
    folders(tmp_path, kinds=names)
    (tmp_path / "info.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match=r"'info.xlsx' may hold the labels"):
        by_path(tmp_path)


def test_tables_that_list_files_alone_stop_the_run(tmp_path):
    names = site_folders(tmp_path)
    for k, kind in enumerate(KINDS):
        write(tmp_path / f"{kind}.csv", ("image",), [(name,) for name in names[k::3]])
    with pytest.raises(UserError, match=r"'bcc.csv', 'mel.csv', 'nv.csv' list 24 images and no cl"):
        by_path(tmp_path)


def test_another_table_is_not_taken_where_a_spreadsheet_is_named_after_the_labels(tmp_path):
    flat(tmp_path)
    write(tmp_path / "a.csv", ("file", "author"),
          [(f"{i:04d}.jpg", "ab"[i % 2]) for i in range(60)])
    (tmp_path / "labels.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match=r"'labels.xlsx' may hold.*data.label_table=a.csv takes"):
        by_path(tmp_path)


def test_part_of_a_run_inside_the_contest_is_no_class(tmp_path):
    expected = folders(tmp_path)
    for name in ("events.jsonl", "review/1.png", "audit-12/catalog_train.csv", "review/2.png"):
        touch(tmp_path / "training_results/x" / name)
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize(("column", "value"), [
    ("md5", "{i:032x}"), ("source", "web"), ("licence", ""), ("text", "a photo, number {i}"),
    ("score", "0.{i}1"), ("boxes", "{i} 3 {i}9 4")])
def test_a_column_that_holds_no_classes_never_stands_against_class_folders(tmp_path, column, value):
    expected = folders(tmp_path)
    write(tmp_path / "about.tsv", ("file", column),
          [(f"{i:04d}.jpg", value.format(i=i)) for i in range(60)], "\t")
    try:
        found = by_path(tmp_path)
    except UserError as error:      # one sentence, whose advice works
        assert "\n" not in str(error) and "--set data.label_table=folders takes" in str(error)
        found = by_path(tmp_path, label_table="folders")
    assert found == expected


@pytest.mark.parametrize("columns", [("width", "height"), ("xmin", "ymin"), ("author", "camera"),
                                     ("author", "class"), ("fold", "seed")])
def test_two_columns_of_other_things_leave_the_class_folders_as_a_way_out(tmp_path, columns):
    expected = folders(tmp_path)
    write(tmp_path / "train.csv", ("file", *columns),
          [(f"{i:04d}.jpg", i * i % 4, i % 5) for i in range(60)])
    with pytest.raises(UserError, match=r"one class column.*--set data.label_table=folders takes"):
        by_path(tmp_path)
    assert by_path(tmp_path, label_table="folders") == expected


def test_a_class_by_its_number_and_by_its_name_is_one_class(tmp_path):
    expected = flat(tmp_path)
    write(tmp_path / "train.csv", ("class id", "file", "labels"),
          [(i % 3, Path(p).name, c) for i, (p, c) in enumerate(expected.items())])
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("names", [(" nv", "mel", "bcc "), ("nv  ", " mel ", "bcc"),
                                   ("강아지 ", "고양이", "새"), ("a b ", "a c", "x"),
                                   ("1 ", "2", "3")])
def test_blanks_around_the_name_of_a_class_folder_are_no_part_of_the_class(tmp_path, names):
    expected = {path: c.strip() for path, c in folders(tmp_path, kinds=names).items()}
    assert by_path(tmp_path) == expected
    write(tmp_path / "labels.csv", ("file", "label"),
          [(f"{i:04d}.jpg", names[i % 3].strip()) for i in range(60)])
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("extra", [
    ["logo.png"], ["a.png", "b.png", "c.png"], ["dataset/montage.png"],
    ["logo.png", "dataset/x.png"],
    ["README_1.jpg", "__MACOSX/dataset/nv/._1.jpg", "dataset/nv/.ipynb_checkpoints/1.jpg"]])
def test_images_beside_folders_are_no_folder(tmp_path, extra):
    expected = folders(tmp_path, top="dataset/")
    for path in extra:
        touch(tmp_path / path)
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("extra", ["copy/nv/{i:04d}.jpg", "docs/img/a/b/{i}.png", "old/nv/x{i}.jpg",
                                   "unlabelled/u{i}.jpg", "extra/mel/part/{i}.jpg"])
def test_another_folder_beside_that_of_the_classes_stops_the_run(tmp_path, extra):
    folders(tmp_path, top="dataset/")
    for i in range(6):
        touch(tmp_path / extra.format(i=i))
    with pytest.raises(UserError, match=r"two ways.*label_table=subfolders takes one"):
        by_path(tmp_path)


@pytest.mark.parametrize("tree", [("animal/cat", "animal/dog", "vehicle/car", "vehicle/bus"),
                                  ("pets/cat", "pets/dog", "wild/fox"),
                                  ("a/x", "a/y", "b/z", "c/w")])
def test_class_folders_inside_class_folders_stop_the_run(tmp_path, tree):
    for i in range(48):
        touch(tmp_path / f"train/{tree[i % len(tree)]}/{i}.jpg")
    with pytest.raises(UserError, match="two ways"):
        by_path(tmp_path)
    inner = by_path(tmp_path, label_table="subfolders")
    assert inner == {path: path.split("/")[2] for path in inner} and len(inner) == 48


@pytest.mark.parametrize("inside", ["patient {p}", "images", "s{p}", "{p}", "case_{p}/t1"])
def test_numbered_folders_inside_class_folders_are_no_classes(tmp_path, inside):
    expected = {}
    for i in range(60):
        kind = KINDS[i // 20]
        path = f"train/{kind}/{inside.format(p=i // 5)}/{i}.jpg"
        touch(tmp_path / path)
        expected[path] = kind
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize(("image", "mask"), [
    ("images/{i:03d}.jpg", "masks/{i:03d}.png"), ("imgs/{i:03d}.png", "Seg/{i:03d}.png"),
    ("train/{i:03d}.png", "train_masks/{i:03d}_mask.png"), ("data/{i:03d}.jpg", "gt/{i:03d}.bmp"),
    ("train/images/{i:03d}.png", "train/labels/{i:03d}.png"),
    ("train/{i:03d}.jpg", "train/thumbs/{i:03d}.jpg")])
@pytest.mark.parametrize("id_", ["{i:03d}", "{i:03d}.png", "{i:03d}.jpg"])
def test_masks_and_thumbnails_beside_the_images_are_none(tmp_path, image, mask, id_):
    for i in range(SOME):
        touch(tmp_path / mask.format(i=i))
        if i % 4:
            touch(tmp_path / image.format(i=i))
    write(tmp_path / "labels.csv", ("id", "label"),
          [(id_.format(i=i), KINDS[i % 3]) for i in range(SOME)])
    expected = {image.format(i=i): KINDS[i % 3] for i in range(SOME) if i % 4}
    assert by_path(tmp_path) == expected
    assert "24 image files" in warned(tmp_path, "aside")[0]


@pytest.mark.parametrize("mask", [
    "{c}/{i}_mask.png", "{c}/masks/{i}.png", "{c}/thumbnails/t{i}.png", "{c}/{i}_seg_1.png",
    "{c}/_previews/{i}.jpg"])
def test_masks_and_thumbnails_in_class_folders_are_no_images_of_the_class(tmp_path, mask):
    expected = folders(tmp_path, name="{i}.png", top="BUSI_with_GT/")
    for i in range(60):
        touch(tmp_path / "BUSI_with_GT" / mask.format(c=KINDS[i % 3], i=i))
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("names", [("mask", "no_mask", "wrong_mask"), ("with_mask", "without", "x"),
                                   ("thumbs_up", "thumbs_down", "fist"), ("label", "tag", "none"),
                                   ("preview", "final", "draft")])
def test_classes_may_be_called_masks_or_labels(tmp_path, names):
    expected = {f"{names[i % 3]}/{i // 3}.jpg": names[i % 3] for i in range(60)}
    for path in expected:
        touch(tmp_path / path)
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("names", [
    ("test_positive", "test_negative", "test_invalid"), ("pre-test", "post-test", "none"),
    ("train-engine", "train-wagon", "train-track"), ("test kit", "test strip"),
    ("steam train", "model train", "tram")])
@pytest.mark.parametrize("top", ["", "train/", "images/all/"])
def test_several_classes_may_hold_the_word_of_a_split(tmp_path, names, top):
    expected = {f"{top}{names[i % len(names)]}/{i}.jpg": names[i % len(names)] for i in range(60)}
    for path in expected:
        touch(tmp_path / path)
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("project", ["test_project", "unit test 2", "my-test-set/v2", "a/test_b/c",
                                     "contest_test/train_test"])
@pytest.mark.parametrize("layout", ["table", "folders alone", "folders"])
def test_a_project_may_be_named_like_a_split(tmp_path, project, layout):
    if layout == "table":
        expected = flat(tmp_path, top=f"{project}/train/")
        write(tmp_path / project / "train.csv", ("id", "label"),
              [(f"{i:04d}", KINDS[i % 3]) for i in range(60)])
    else:
        inside = "/train/" if layout == "folders" else "/"
        expected = folders(tmp_path, top=f"{project}{inside}")
    assert by_path(tmp_path) == expected


def test_a_folder_of_test_images_alone_says_so(tmp_path):
    folders(tmp_path, top="testing/")
    with pytest.raises(UserError, match="all 60 lie in folders named as test images"):
        by_path(tmp_path)


@pytest.mark.parametrize(("separator", "column"), [
    (",", 0), (",", 1), ("\t", 0), (";", 1), ("|", 1)])
def test_a_quote_that_is_closed_a_row_later_stops_the_run(tmp_path, separator, column):
    flat(tmp_path)
    rows = [[f"{i:04d}", KINDS[i % 3]] for i in range(60)]
    rows[8][column] = '"' + rows[8][column]
    rows[9][column] += '"'
    text = "\n".join(separator.join(row) for row in [["id", "label"], *rows])
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(UserError, match="must be one line, got"):
        by_path(tmp_path)


def test_a_broken_table_is_one_sentence(tmp_path):
    flat(tmp_path)
    (tmp_path / "train.csv").write_text('id,label\n0001,"nv\n0002,mel\n')
    with pytest.raises(UserError) as error:
        by_path(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["mpo", "jpg_large", "JPG~", "png_", "j2k", "apng", "image"])
def test_an_image_with_an_unknown_suffix_is_known_by_its_first_bytes(tmp_path, suffix):
    expected = folders(tmp_path, name="{i}." + suffix)
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("suffix", ["dng", "cr2", "nef", "pdf", "npy", "nii.gz", "txt"])
def test_a_class_folder_without_an_image_that_is_read_is_named(tmp_path, suffix):
    expected = folders(tmp_path)
    for i in range(5):
        touch(tmp_path / f"train/raw/{i}.{suffix}")
        if suffix == "pdf":
            (tmp_path / f"train/raw/{i}.pdf").write_bytes(b"%PDF-1.4")
    assert by_path(tmp_path) == expected
    assert "folder 'train/raw' beside the class folders holds 5 ." in warned(
        tmp_path, "class_without_images")[0]


def test_a_second_name_of_a_class_folder_changes_no_class(tmp_path):
    expected = folders(tmp_path)
    os.symlink("mel", tmp_path / "train/melanoma")
    assert by_path(tmp_path) == expected


def test_the_files_behind_a_hub_snapshot_are_read_once(tmp_path):
    expected = {}
    for i in range(30):
        touch(tmp_path / f"blobs/{i * 7919:064x}")
        path = f"snapshots/abc/train/{KINDS[i % 3]}/{i}.jpg"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(f"../../../../blobs/{i * 7919:064x}", tmp_path / path)
        expected[path] = KINDS[i % 3]
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("id_", ["{i:04d}", "{i:04d}.jpg", "{i:04d}.JPG", "{i}", "{i}.0"])
@pytest.mark.parametrize("folder", ["val", "validation", "dev"])
def test_bare_ids_find_images_of_validation_folders(tmp_path, folder, id_):
    expected = {**flat(tmp_path, 45), **flat(tmp_path, 15, top=f"{folder}/", first=45)}
    write(tmp_path / "labels.csv", ("id", "label"),
          [(id_.format(i=i), KINDS[i % 3]) for i in range(60)])
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("id_", ["{i:04d}", "{i:04d}.jpg", "train/{i:04d}.jpg",
                                 "/kaggle/x/train/{i:04d}.jpg", r"C:\d\train\{i:04d}.jpg"])
@pytest.mark.parametrize("other", ["val", "masks", "test", "train2"])
def test_a_missing_image_is_never_one_of_that_name_elsewhere(tmp_path, id_, other):
    """Names that are numbered alike in both folders."""
    expected = {p: c for p, c in flat(tmp_path).items() if int(Path(p).stem) % 4}
    for i in range(60):
        touch(tmp_path / f"{other}/{i:04d}.jpg")
        if i % 4 == 0:
            os.remove(tmp_path / f"train/{i:04d}.jpg")
    write(tmp_path / "train.csv", ("id", "label"),
          [(id_.format(i=i), KINDS[i % 3]) for i in range(60)])
    try:
        assert by_path(tmp_path) == expected
    except UserError as error:
        assert "train2" in other and "leave one copy" in str(error)


@pytest.mark.parametrize("other", ["masks", "thumbs", "seg", "annotations", "overlay"])
def test_paths_of_missing_images_are_not_looked_for_among_masks(tmp_path, other):
    for i in range(SOME):
        touch(tmp_path / f"{other}/{i:03d}.png")
    write(tmp_path / "train.csv", ("path", "label"),
          [(f"train/{i:03d}.png", KINDS[i % 3]) for i in range(SOME)])
    with pytest.raises(UserError, match=r"0 of its 24 rows name an image file"):
        by_path(tmp_path)


@pytest.mark.parametrize(("train", "val"), [
    ("train.csv", "val.csv"), ("train_labels.csv", "valid_labels.csv"),
    ("labels-train.csv", "labels-dev.csv"), ("train/train.csv", "val/val.csv"),
    ("data_train.csv", "data_validation.csv")])
@pytest.mark.parametrize("is_numbered_alike", [False, True])
def test_the_tables_of_two_splits_are_one(tmp_path, train, val, is_numbered_alike):
    top = {"valid_labels.csv": "valid/", "labels-dev.csv": "dev/",
           "data_validation.csv": "validation/"}.get(val, "val/")
    first = 0 if is_numbered_alike else 45
    expected = flat(tmp_path, 45)
    more = dict.fromkeys(flat(tmp_path, 15, top=top, first=first))
    more = {path: KINDS[(i + 1) % 3] for i, path in enumerate(more)}
    for file, found in ((train, expected), (val, more)):
        write(tmp_path / file, ("id", "label"), [(Path(p).name, c) for p, c in found.items()])
    assert by_path(tmp_path) == expected | more


@pytest.mark.parametrize("splits", [("part1", "part2"), ("train", "eval"), ("site 1", "site 2"),
                                    ("train_images", "val_images"), ("fold0", "fold1")])
def test_tables_of_one_kind_beside_their_images_are_one(tmp_path, splits):
    expected = {}
    for k, split in enumerate(splits):
        found = flat(tmp_path, 30, top=f"{split}/", first=30 * k)
        write(tmp_path / split / "labels.csv", ("id", "label"),
              [(Path(p).name, c) for p, c in found.items()])
        expected |= found
    assert by_path(tmp_path) == expected


def test_classes_in_validation_folders_are_trained_on_too(tmp_path):
    expected = {**folders(tmp_path), **folders(tmp_path, 12, top="val/", name="v{i}.jpg")}
    folders(tmp_path, 9, top="test/", name="t{i}.jpg")
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("words", [("train", "test"), ("Training", "Testing"),
                                   ("train", "val", "test"), ("train", "valid", "Test")])
def test_rows_that_a_column_gives_to_the_test_images_are_not_trained_on(tmp_path, words):
    expected = flat(tmp_path, top="images/")
    split = {path: words[i // 20 % len(words)] for i, path in enumerate(expected)}
    write(tmp_path / "data.csv", ("file", "split", "label"),
          [(Path(p).name, split[p], c) for p, c in expected.items()])
    assert by_path(tmp_path) == {p: c for p, c in expected.items()
                                 if not split[p].lower().startswith("test")}
    assert "rows to the test images: they are not trained on" in warned(tmp_path, "other_split")[0]


def test_a_column_of_folders_tells_images_of_one_name_apart(tmp_path):
    expected = {f"train/{'ab'[i % 2]}/{i // 2}.jpg": KINDS[i % 3] for i in range(60)}
    for path in expected:
        touch(tmp_path / path)
    write(tmp_path / "train.csv", ("site", "file", "label"),
          [(*path.split("/")[1:], c) for path, c in expected.items()])
    assert by_path(tmp_path, label_table="train.csv", target_column="label") == expected


@pytest.mark.parametrize("first", ["SEP=;", "sep =;", '"sep=;"', "sep=;;", "Sep=;"])
def test_a_line_that_names_the_separator_in_any_form_is_no_header(tmp_path, first):
    expected = flat(tmp_path)
    rows = [f"{Path(p).stem};{c}" for p, c in expected.items()]
    (tmp_path / "train.csv").write_text("\n".join([first, "id;label", *rows]))
    assert by_path(tmp_path) == expected


@pytest.mark.parametrize("column", ["index", "level_0", "Unnamed: 0", "row_id", "nr"])
@pytest.mark.parametrize("number", ["{n}.0", "{m}", "{back}"])
def test_numbers_of_rows_in_any_order_are_left_out_of_the_submission(tmp_path, column, number):
    folders(tmp_path)
    for i in range(SOME):
        touch(tmp_path / f"test/t{i}.jpg")
    write(tmp_path / "sample_submission.csv", (column, "id", "label"),
          [(number.format(n=i, m=i + 1, back=SOME - 1 - i), f"t{i}", "nv") for i in range(SOME)])
    contest = read_contest(tmp_path, DataConfig())
    assert contest.form.header == ("id", "label") and len(contest.test) == SOME


@pytest.mark.parametrize("file", ["sample_submission.xlsx", "sample_submission.csv.zip",
                                  "Submission.parquet", "sample_submission.xls"])
def test_a_sample_submission_that_is_not_read_is_named(tmp_path, file):
    expected = folders(tmp_path)
    touch(tmp_path / "test/t.jpg")
    (tmp_path / file).write_bytes(b"PK\3\4")
    assert by_path(tmp_path) == expected
    assert "may be the sample submission" in warned(tmp_path, "unread_sample")[0]


def test_ids_that_fit_several_images_are_named_before_their_labels_are_averaged(tmp_path):
    for i in range(SOME):
        touch(tmp_path / f"train/ward {'abcd'[i % 4]}/{i // 4}.jpg")
    write(tmp_path / "train.csv", ("id", "label"), [(i // 4, KINDS[i % 3]) for i in range(SOME)])
    with pytest.raises(UserError, match=r"6 ids \('0', '1', '2' and 3 more\) fit several"):
        by_path(tmp_path)


# ---------------------------------------------------------------- names that are not UTF-8

def touch_bytes(root, *parts):
    """An image whose path is bytes."""
    path = os.path.join(os.fsencode(root), *parts)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(b"\xff\xd8\xff\xe0 not decoded")


no_bytes = pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin",
                              reason="such names cannot be made there")


@no_bytes
@pytest.mark.parametrize(("folder", "said"), [
    ("고양이".encode("cp949"), "'train/고양이/0.jpg' in cp949"),
    ("café".encode("latin-1"), "'train/café/0.jpg' in latin-1"),
    ("Größe".encode("latin-1"), "in latin-1"), (b"\xff", "in latin-1"),
    ("새 한 마리".encode("cp949"), "convmv -f cp949 -t utf-8")])
def test_a_class_folder_whose_name_is_not_utf8_stops_the_run(tmp_path, folder, said):
    folders(tmp_path)
    for i in range(3):
        touch_bytes(tmp_path, b"train", folder, b"%d.jpg" % i)
    with pytest.raises(UserError, match="3 files have names not in UTF-8") as error:
        by_path(tmp_path)
    assert said in str(error.value)


@no_bytes
@pytest.mark.parametrize("name", [b"\xff.jpg", "사진".encode("cp949") + b".png", b"a\xe9.JPG"])
def test_a_few_images_whose_names_are_not_utf8_are_left_out_by_name(tmp_path, name):
    expected = folders(tmp_path)
    touch_bytes(tmp_path, b"train/nv", name)
    assert by_path(tmp_path) == expected
    assert "1 file has a name not in UTF-8 (b'train/nv/" in warned(
        tmp_path, "undecodable_name")[0]
    for i in range(9):
        touch_bytes(tmp_path, b"train/nv", b"%d" % i + name)
    with pytest.raises(UserError, match="10 files have names not in UTF-8"):
        by_path(tmp_path)


@no_bytes
@pytest.mark.parametrize("name", [b"labels\xff.csv", "라벨".encode("cp949") + b".csv"])
def test_a_table_whose_name_is_not_utf8_stops_the_run(tmp_path, name):
    folders(tmp_path)
    with open(os.path.join(os.fsencode(tmp_path), name), "w") as f:
        f.write("id,label\n0001,x\n")
    with pytest.raises(UserError, match="1 file has a name not in UTF-8"):
        by_path(tmp_path)


@pytest.mark.parametrize(("names", "encoding"), [
    (("Größe", "Süß", "öß"), "latin-1"), (("강아지", "새", "x"), "cp949"),
    (("niño", "año", "x"), "latin-1"), (("큰 새", "cat", "犬 개"), "cp949"),
    (("naïve", "Ærø", "x"), "latin-1")])
def test_a_table_in_an_old_encoding_keeps_its_letters(tmp_path, names, encoding):
    flat(tmp_path)
    rows = "".join(f"{i:04d},{names[i % 3]}\n" for i in range(60))
    (tmp_path / "train.csv").write_bytes(f"id,label\n{rows}".encode(encoding))
    assert set(by_path(tmp_path).values()) == set(names)


@no_bytes
def test_a_contest_in_a_folder_whose_name_is_not_utf8_is_read(tmp_path):
    root = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff")))
    expected = folders(root)
    assert by_path(root) == expected


@no_bytes
@pytest.mark.parametrize("again", [{}, {"PYTHONCOERCECLOCALE": "0"}])
def test_names_are_read_as_utf8_in_an_ascii_locale(again):
    code = ("import sys; from system.command import read_names_as_utf8 as read; read(); "
            "print(sys.getfilesystemencoding(), ascii(sys.argv[1]))")
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **again}
    done = subprocess.run([sys.executable, "-c", code, "고양이"], env=env, capture_output=True,
                          text=True, check=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.split() == ["utf-8", ascii("고양이")]


def test_every_command_begins_by_reading_names_as_utf8(monkeypatch):
    asked = []
    monkeypatch.setattr("system.command.read_names_as_utf8", lambda: asked.append(sys.argv))
    assert run_command(lambda argv: DONE) == DONE
    assert asked == [sys.argv]
    for module in (grandmaster_train, predict):
        monkeypatch.setattr(module, "run_command", lambda command, argv, **_: asked.append(argv))
        module.main()
    assert asked[1:] == [None, None]


# ---------------------------------------------------------------- kinds combined by a generator

@pytest.mark.parametrize("number", range(40))
def test_combined_situations_are_read_rightly_or_end_in_a_sentence_that_helps(tmp_path, number):
    done, wrong, _ = check_variant(tmp_path, number, seed=5)
    assert not wrong, (done, wrong)


def test_the_judge_of_combined_situations_can_say_no(tmp_path):
    truth = {"a.png": "x", "b.png": "y"}
    assert what_is_wrong({"a.png": "x", "b.png": "y"}, set(), truth) == ""
    assert "wrong class" in what_is_wrong({"a.png": "y"}, set(), truth)
    assert "wrong class" in what_is_wrong({"mask.png": "y"}, {"aside"}, truth)
    assert "without a word" in what_is_wrong({"a.png": "x"}, set(), truth)
    assert "several sentences" in wrong_advice(tmp_path, truth, "one\ntwo")
    assert "no way out" in wrong_advice(tmp_path, truth, "it is wrong")


@pytest.mark.parametrize("word", ["nan", "NaN", "NULL", "None", "<NA>", "N/A"])
def test_a_word_for_no_value_is_no_class(tmp_path, word):
    expected = flat(tmp_path, top="train/")
    lost = sorted(expected)[::30]
    rows = [(path[6:10], word if path in lost else kind) for path, kind in expected.items()]
    write(tmp_path / "train.csv", ("id", "label"), rows)
    contest = read_contest(tmp_path, DataConfig())
    assert {*contest.train.classes} == {*KINDS} and len(contest.train) == 60 - len(lost)
    assert any(p.kind == "missing_label" for p in contest.problems)


@pytest.mark.parametrize(("word", "is_class"), [("none", True), ("NA", True), ("nan", False),
                                                ("null", False)])
def test_a_word_for_no_value_on_many_rows_is_a_class_or_stops_the_run(tmp_path, word, is_class):
    expected = flat(tmp_path, top="train/")
    rows = [(path[6:10], word if kind == KINDS[0] else kind) for path, kind in expected.items()]
    write(tmp_path / "train.csv", ("id", "label"), rows)
    if is_class:
        assert word in read_contest(tmp_path, DataConfig()).train.classes
    else:
        with pytest.raises(UserError, match=f"has the label {word!r} in 20 rows: empty these"):
            read_contest(tmp_path, DataConfig())


@pytest.mark.parametrize("names", [("rapid_test", "pcr", "none"), ("test kit", "cup", "strip"),
                                   ("a", "b", "blood-test")])
@pytest.mark.parametrize("test", ["test", "test_images", "Test set 2"])
@pytest.mark.parametrize("top", ["", "images/"])
def test_a_class_named_like_the_test_images_beside_it_stops_the_run(tmp_path, names, test, top):
    for i in range(60):
        touch(tmp_path / f"{top}{names[i % 3]}/{i}.jpg")
        touch(tmp_path / f"{top}{test}/t{i}.jpg")
    with pytest.raises(UserError, match="may hold a class or test images"):
        read_contest(tmp_path, DataConfig())


@pytest.mark.parametrize("names", [("test", "test_2"), ("public_test", "private_test"),
                                   ("stage1_test", "stage2_test_images")])
def test_several_folders_of_test_images_beside_class_folders_are_read(tmp_path, names):
    expected = folders(tmp_path)
    for i, name in enumerate(names):
        touch(tmp_path / f"{name}/t{i}.jpg")
    contest = read_contest(tmp_path, DataConfig())
    assert len(contest.train) == len(expected) and len(contest.test) == 2


@pytest.mark.parametrize("name", ["README.txt", "data/License.txt", "train/readme.TXT"])
def test_a_text_about_the_contest_is_no_table_to_speak_of(tmp_path, name):
    expected = folders(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("animals: 3 kinds, of two sources, see https://example.org\n" * 3)
    assert by_path(tmp_path) == expected
    assert warned(tmp_path, "unused_table") == []


@pytest.mark.parametrize("top", ["train", "Training", "train_images", "data/train"])
@pytest.mark.parametrize("names", [("test", "exam"), ("test", "exam", "quiz"), ("a", "b", "test")])
def test_a_folder_of_tests_beside_class_folders_in_train_stops_the_run(tmp_path, top, names):
    for i in range(60):
        touch(tmp_path / f"{top}/{names[i % len(names)]}/{i}.jpg")
    with pytest.raises(UserError, match="may hold a class or test images: rename it"):
        read_contest(tmp_path, DataConfig())

    # as advised, either way
    (tmp_path / top / "test").rename(tmp_path / top / "trial")
    assert len(read_contest(tmp_path, DataConfig()).train) == 60
    if len(names) > 2:
        (tmp_path / top / "trial").rename((tmp_path / top).parent / "test")
        contest = read_contest(tmp_path, DataConfig())
        assert (len(contest.train), len(contest.test)) == (40, 20)


@pytest.mark.parametrize("top", ["train", "train/deep"])
def test_a_class_of_tests_in_train_beside_another_folder_of_test_images_is_read(tmp_path, top):
    for i in range(60):
        touch(tmp_path / f"{top}/{('test', 'exam', 'quiz')[i % 3]}/{i}.jpg")
        touch(tmp_path / f"test/t{i}.jpg")
    contest = read_contest(tmp_path, DataConfig())
    assert contest.train.classes == ("exam", "quiz", "test") and len(contest.test) == 60


@pytest.mark.parametrize("top", ["", "images/"])
def test_one_class_beside_a_folder_of_tests_is_named_as_such(tmp_path, top):
    for i in range(20):
        touch(tmp_path / f"{top}{('test', 'exam')[i % 2]}/{i}.jpg")
    with pytest.raises(UserError, match=r"'test'.* may hold a class or test images: rename it"):
        read_contest(tmp_path, DataConfig())


SUBMISSIONS = ["submission.csv", "my_submission.csv", "old/submission_3.csv", "answers.csv"]


@pytest.mark.parametrize("name", SUBMISSIONS)
@pytest.mark.parametrize("place", ["test", "test_images"])
@pytest.mark.parametrize("by_table", [True, False])
def test_an_older_submission_of_some_test_images_stops_the_run(tmp_path, name, place, by_table):
    for i in range(SOME):
        touch(tmp_path / f"train/{KINDS[i % 3]}/{i}.jpg")
        touch(tmp_path / f"{place}/t{i}.jpg")
    if by_table:
        write(tmp_path / "train.csv", ("id", "label"),
              [(f"{i}.jpg", KINDS[i % 3]) for i in range(SOME)])
    write(tmp_path / name, ("id", "label"), [(f"t{i}.jpg", "mel") for i in range(7)])
    with pytest.raises(UserError, match=f"'{name}' lists 7 of 24 test images: move it out"):
        read_contest(tmp_path, DataConfig())
    taken = read_contest(tmp_path, DataConfig(sample_submission=name))
    assert len(taken.test) == 7
    (tmp_path / name).unlink()
    assert len(read_contest(tmp_path, DataConfig()).test) == SOME


def test_a_sample_of_some_test_images_is_followed_and_named(tmp_path):
    for i in range(SOME):
        touch(tmp_path / f"train/{KINDS[i % 3]}/{i}.jpg")
        touch(tmp_path / f"test/t{i}.jpg")
    write(tmp_path / "sample_submission.csv", ("id", "label"), [(f"t{i}.jpg", 0) for i in range(7)])
    text, = warned(tmp_path, "short_sample")
    assert "lists 7 of 24 test images: no others are predicted" in text
    write(tmp_path / "sample_submission.csv", ("id", "label"),
          [(f"t{i}.jpg", 0) for i in range(SOME)])
    assert warned(tmp_path, "short_sample") == []
    # the older submission gives way to the sample
    write(tmp_path / "submission_1.csv", ("id", "label"), [(f"t{i}.jpg", "mel") for i in range(7)])
    assert len(read_contest(tmp_path, DataConfig()).test) == SOME


def test_images_that_are_no_test_images_make_no_sample_short(tmp_path):
    for i in range(SOME):
        touch(tmp_path / f"train/{KINDS[i % 3]}/{i}.jpg")
        touch(tmp_path / f"test/t{i}.jpg")
        touch(tmp_path / f"extra/e{i}.jpg")
    write(tmp_path / "train.csv", ("id", "label"),
          [(f"{i}.jpg", KINDS[i % 3]) for i in range(0, SOME, 2)])
    write(tmp_path / "submission.csv", ("id", "label"), [(f"t{i}.jpg", 0) for i in range(SOME)])
    contest = read_contest(tmp_path, DataConfig(label_table="train.csv"))
    assert len(contest.test) == SOME
    assert not [p for p in contest.problems if p.kind == "short_sample"]


@pytest.mark.parametrize("text", ['{"0": "nv", "1": "mel"', "\x00", "{'0': 'nv'}"])
def test_a_broken_json_is_named(tmp_path, text):
    for i in range(SOME):
        touch(tmp_path / f"train/{i}.jpg")
    write(tmp_path / "train.csv", ("id", "label"), [(f"{i}.jpg", i % 3) for i in range(SOME)])
    (tmp_path / "class_names.json").write_text('{"0": "nv", "1": "mel", "2": "bcc"}')
    assert read_contest(tmp_path, DataConfig()).class_names == KINDS
    assert warned(tmp_path, "unreadable_json") == []
    (tmp_path / "class_names.json").write_text(text)
    named, = warned(tmp_path, "unreadable_json")
    assert "'class_names.json'" in named and "repair it if the names of the classes" in named
    assert read_contest(tmp_path, DataConfig()).class_names == ("0", "1", "2")


@pytest.mark.parametrize("header", [("file", "split"), ("file", "author"), ("id", "label")])
@pytest.mark.parametrize("top", ["", "images/"])
def test_a_table_of_images_whose_names_hold_their_class_is_no_sample(tmp_path, header, top):
    """All of them would be predicted in place of the test images."""
    for i in range(60):
        touch(tmp_path / f"{top}{KINDS[i % 3]}.{i}.jpg")
    for i in range(9):
        touch(tmp_path / f"test/t{i}.jpg")
    second = {"split": ("train", "val"), "author": ("ann", "bob", "eve"), "label": KINDS}[header[1]]
    write(tmp_path / "info.tsv", header,
          [(f"{KINDS[i % 3]}.{i}.jpg", second[i % len(second)]) for i in range(60)], "\t")
    contest = read_contest(tmp_path, DataConfig(label_table="names"))
    assert len(contest.test) == 9 and len(contest.submission_ids) == 9
    assert labels_of(tmp_path, label_table="names") == {
        f"{KINDS[i % 3]}.{i}.jpg": KINDS[i % 3] for i in range(60)}
