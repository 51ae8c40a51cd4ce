"""What people had that was read wrongly in silence: the right reading, or a stop that names it.

Each test draws a kind of contest folder in several forms. No image is decoded: only what the folder
is understood as is compared with the truth.
"""
import json
import os
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import DataConfig
from contest.files import Naming, naming_of, scan_folder
from contest.intake import read_contest
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
    with pytest.raises(UserError, match="cannot be read"):
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
