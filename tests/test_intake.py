"""Contest folders as people download them, and as they break: read_contest and the audit."""
import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from config import DataConfig
from contest import audit as audit_module
from contest import decoding, files, pixels
from contest.audit import audit_contest, load_audit
from contest.intake import contest_digests, read_contest
from contest.tables import read_table
from data_loader import make_folds
from utils import UserError

DATA = DataConfig(n_folds=2)


def picture(seed, height=40, width=48):
    """A random smooth colour image (H, W, 3) that no other seed resembles."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)


def write(path, *lines, encoding="utf-8", newline="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(newline.join([*lines, ""]).encode(encoding))


def plain_contest(root, n_train=8, n_test=4, suffix=".png", id_suffix=".png"):
    """train.csv ID,target with classes 0 and 1; meta.csv; sample_submission.csv in reversed order.
    """
    for i in range(n_train):
        draw(root / "train" / f"a{i}{suffix}", i)
    for i in range(n_test):
        draw(root / "test" / f"t{i}{suffix}", 100 + i)
    write(root / "train.csv", "ID,target", *(f"a{i}{id_suffix},{i % 2}" for i in range(n_train)))
    write(root / "sample_submission.csv", "ID,target",
          *(f"t{i}{id_suffix},0" for i in reversed(range(n_test))))
    write(root / "meta.csv", "target,class_name", "0,cat", "1,dog")
    return root


def append(path, *lines):
    path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))


def audited(root, folder, data=DATA):
    contest = read_contest(root, data)
    audit_contest(contest, data, 32, folder, workers=2)
    return contest, load_audit(folder, root)


def kinds(found):
    return {p.kind for p in found.problems}


def problem(found, kind):
    """The one problem of a kind."""
    [one] = [p for p in found.problems if p.kind == kind]
    return one


@pytest.fixture
def root(tmp_path):
    return plain_contest(tmp_path / "contest")


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "audit"
    folder.mkdir()
    return folder


# ---------------------------------------------------------------- what is understood

def test_plain_contest_is_read_without_a_problem(root):
    contest = read_contest(root, DATA)
    assert contest.problems == ()
    assert contest.train.sample_id.tolist() == [f"a{i}.png" for i in range(8)]
    assert contest.train.label.tolist() == [0, 1] * 4
    assert contest.train.classes == ("0", "1") and contest.class_names == ("cat", "dog")
    assert contest.form.header == ("ID", "target")
    assert contest.submission_ids == ("t3.png", "t2.png", "t1.png", "t0.png")
    assert contest.test.sample_id.tolist() == sorted(contest.submission_ids)
    assert len(contest.understood) == 3 and "train.csv" in contest.understood[0]
    assert all(os.path.isabs(p) and os.path.isfile(p) for p in contest.train.path)


def test_the_proof_shows_three_training_images_with_their_own_classes(root):
    proof = read_contest(root, DATA).proof()
    assert proof == read_contest(root, DATA).proof() and proof.startswith("proof:      train/a")
    images = proof.removeprefix("proof:      ").split("; ")
    right = {f"train/a{i}.png is {('0 cat', '1 dog')[i % 2]}" for i in range(8)}
    assert len(set(images)) == 3 and set(images) <= right


def test_the_proof_shows_all_images_of_two_and_a_class_without_a_name_once(tmp_path):
    for i, name in enumerate(("cat", "dog")):
        draw(tmp_path / "train" / name / f"{i}.png", i)
    draw(tmp_path / "test" / "t.png", 9)
    proof = read_contest(tmp_path, DATA).proof()
    assert proof == "proof:      train/cat/0.png is cat; train/dog/1.png is dog"


def test_audit_of_a_plain_contest(root, out):
    contest, audit = audited(root, out)
    assert audit.problems == () and audit.bad_test_ids == ()
    assert audit.train.sample_id.tolist() == contest.train.sample_id.tolist()
    assert audit.train.path.tolist() == contest.train.path.tolist()
    assert len(audit.train_pixels) == 8 and len(audit.test_pixels) == 4
    assert audit.train_pixels[0].shape == (27, 32, 3)
    assert all(len(digest) == 64 for digest in audit.train.sha256)
    assert audit.summary["class_counts"] == {"0": 4, "1": 4}
    assert audit.summary["size_px"]["train"] == {"height_px": [40.0] * 5, "width_px": [48.0] * 5}
    assert str(root) not in (out / "catalog_train.csv").read_text()


def test_pixels_are_the_images_in_catalog_order(root, out):
    _, audit = audited(root, out, DataConfig(n_folds=2))
    for row, sample_id in enumerate(audit.train.sample_id):
        expected = pixels.shrunk(picture(int(sample_id[1])), 32)
        assert np.array_equal(audit.train_pixels[row], expected)


@pytest.mark.parametrize("suffix", [
    ".jpg", ".JPG", ".jpeg", ".jfif", ".jpe", ".PNG", ".tif", ".tiff", ".bmp", ".dib", ".webp",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"])
def test_ids_without_suffix(tmp_path, suffix):
    contest = read_contest(plain_contest(tmp_path, suffix=suffix, id_suffix=""), DATA)
    assert contest.problems == () and len(contest.train) == 8 and "t3" in contest.submission_ids


def test_leading_zeros_and_dots_stay(tmp_path):
    ids = ["0001", "0010", "1.5", "1.50", "x.y.z", "2", "cat.0", "cat.1"]
    for i, name in enumerate(ids):
        draw(tmp_path / "images" / f"{name}.png", i)
    write(tmp_path / "labels.csv", "id,breed", *(f"{name},{'pug' if i % 2 else 'boxer'}" for i,
                                                 name in enumerate(ids)))
    contest = read_contest(tmp_path, DATA)
    assert contest.train.sample_id.tolist() == sorted(ids)
    assert [os.path.basename(p) for p in contest.train.path] == [f"{i}.png" for i in sorted(ids)]
    assert contest.train.classes == ("boxer", "pug") and contest.form.header == ("id", "breed")


def test_same_numbers_in_train_and_test(tmp_path):
    for i in range(6):
        draw(tmp_path / "train" / f"{i}.png", i)
        draw(tmp_path / "test" / f"{i}.png", 50 + i)
    write(tmp_path / "train.csv", "id,y", *(f"{i},{i % 2}" for i in range(6)))
    write(tmp_path / "sample_submission.csv", "id,y", *(f"{i},0" for i in range(6)))
    contest = read_contest(tmp_path, DATA)
    assert all("/train/" in p for p in contest.train.path) and all("/test/" in p
                                                                   for p in contest.test.path)
    assert len(contest.train) == len(contest.test) == 6


def test_train_id_is_never_given_a_test_image(tmp_path):
    for i in range(6):
        draw(tmp_path / "train" / f"{i}.png", i)
        draw(tmp_path / "test" / f"{i + 3}.png", 50 + i)
    write(tmp_path / "train.csv", "id,y", *(f"{i},{i % 2}" for i in range(8)))
    contest = read_contest(tmp_path, DATA)
    assert problem(contest, "missing_file").sample_ids == ("6", "7")


def test_a_test_id_is_never_given_a_training_image(root):
    """Where test images are missing, ids that are numbered alike in both splits."""
    for path in (root / "test").iterdir():
        path.unlink()
    write(root / "sample_submission.csv", "ID,target", *(f"a{i}.png,0" for i in range(6)))
    contest = read_contest(root, DATA)
    assert kinds(contest) == {"no_test_images"} and len(contest.train) == 8


@pytest.mark.parametrize(("train", "test"), [
    ("trainset", "testset"), ("TrainImages", "TestImages"),
    ("pack/training_data", "pack/testing_data"),
    ("train_test_split/train", "train_test_split/test"),
    ("training_2024/train", "training_2024/test"),
    ("my test/a/train", "my test/a/test")])
def test_splits_are_found_in_the_names_of_folders(tmp_path, train, test):
    for i, name in enumerate(("cat", "dog")):
        draw(tmp_path / train / name / f"{i}.png", i)
        draw(tmp_path / test / f"{i}.png", 10 + i)
    contest = read_contest(tmp_path, DATA)
    assert contest.train.classes == ("cat", "dog") and len(contest.train) == len(contest.test) == 2


def test_folders_that_cross_can_be_read_in_two_ways(tmp_path):
    for i, name in enumerate(("p1", "p2", "p3")):
        for k in "01":
            draw(tmp_path / name / k / f"{i}.png", 10 * i + int(k))
    with pytest.raises(
        UserError,
        match=r"two ways, from class folders <class>/ \('p1', 'p2', 'p3'\) and from class folders "
        r"\*/<class>/ \('0', '1'\): --set data.label_table=folders or --set "
        r"data.label_table=subfolders takes one",
    ):
        read_contest(tmp_path, DATA)
    for way, classes in (("folders", ("p1", "p2", "p3")), ("subfolders", ("0", "1"))):
        contest = read_contest(tmp_path, DataConfig(n_folds=2, label_table=way))
        assert contest.train.classes == classes and len(contest.train) == 6


def test_a_second_copy_of_the_images_is_named(root):
    for path in list((root / "train").iterdir()):
        draw(root / "train_small" / path.name, 1)
    with pytest.raises(
        UserError, match=r"'a0\.png' fits 'train/a0\.png', 'train_small/a0\.png'; leave one copy"
    ):
        read_contest(root, DATA)


def test_label_folders_under_train_images(tmp_path):
    """paddy-disease: train_images/<label>/ with a table that has more columns; the same name in two
    label folders."""
    for label, seed in (("blast", 0), ("tungro", 10)):
        for i in range(3):
            draw(tmp_path / "train_images" / label / f"{i}.png", seed + i)
    draw(tmp_path / "test_images" / "9.png", 99)
    write(tmp_path / "train.csv", "image_id,label,variety,age",
          *(f"{i}.png,{label},ADT45,{45 + i}" for label in ("blast", "tungro") for i in range(2)),
          "2.png,blast,ADT45,45")
    write(tmp_path / "sample_submission.csv", "image_id,label", "9.png,")
    contest = read_contest(tmp_path, DATA)      # ids 0 and 1 repeat, told apart by their folders
    assert [(Path(p).parent.name, contest.train.classes[k]) for p, k in zip(
        contest.train.path.tolist(), contest.train.label.tolist(), strict=True)] == [
        *[("blast", "blast")] * 3, *[("tungro", "tungro")] * 2]
    write(tmp_path / "train.csv", "image_id,label,variety,age", "0.png,blast,ADT45,45",
          "1.png,tungro,ADT45,50")
    contest = read_contest(tmp_path, DATA)
    assert [p.split("/")[-2:] for p in contest.train.path] == [["blast", "0.png"],
                                                               ["tungro", "1.png"]]
    assert contest.form.header == ("image_id", "label")
    assert "variety" not in contest.understood[2]


def test_class_folders_with_spaces_and_flat_test(tmp_path):
    for name, seed in (("Common wheat", 0), ("Black-grass", 10), ("벼, 쌀", 20)):
        for i in range(3):
            draw(tmp_path / "train" / name / f"{i}.png", seed + i)
    for i in range(2):
        draw(tmp_path / "test" / f"{i}.png", 50 + i)
    contest = read_contest(tmp_path, DATA)
    assert contest.train.classes == ("Black-grass", "Common wheat", "벼, 쌀")
    assert len(contest.train) == 9 and contest.submission_ids == ("0.png", "1.png")
    assert contest.train.sample_id[0] == "train/Black-grass/0.png" and contest.problems == ()


def test_labels_of_test_folders_are_not_used(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            for i in range(2):
                draw(tmp_path / "data" / split / name / f"{i}.png",
                     len(split) * 10 + ord(name) * 100 + i)
    contest = read_contest(tmp_path, DATA)
    assert set(contest.test.label.tolist()) == {-1} and len(contest.submission_ids) == 4
    assert contest.train.classes == ("a", "b") and len(contest.train) == 4


def test_class_folders_without_a_train_folder(tmp_path):
    for name in ("x", "y"):
        draw(tmp_path / "pack" / name / "1.png", ord(name))
    contest = read_contest(tmp_path, DATA)
    assert contest.train.classes == ("x", "y") and "no_test_images" in kinds(contest)


@pytest.mark.parametrize(("folders", "classes", "n_test"), [
    (("beaker", "flask", "test_tube"), ("beaker", "flask", "test_tube"), 0),
    (("bus", "Train", "truck"), ("Train", "bus", "truck"), 0),
    (("beaker", "flask", "test_images"), ("beaker", "flask"), 1),
    (("harbour", "airport", "train_station"), ("airport", "harbour", "train_station"), 0),
    (("pcr", "none", "rapid_test"), ("none", "pcr", "rapid_test"), 0),
    (("bus", "car", "test_a"), ("bus", "car"), 1),
    (("bus", "car", "test_final"), ("bus", "car"), 1),
    (("bus", "car", "stage1_test"), ("bus", "car"), 1),
    (("cat", "dog", "test cats"), ("cat", "dog"), 1),
    (("bus", "car", "test"), ("bus", "car"), 1)])
def test_a_class_may_be_named_like_a_split_among_others(tmp_path, folders, classes, n_test):
    for k, name in enumerate(folders):
        draw(tmp_path / "data" / name / "1.png", k)
    contest = read_contest(tmp_path, DATA)
    assert contest.train.classes == classes and len(contest.test) == n_test


def test_mixed_folder_with_test_csv(tmp_path):
    for i in range(9):
        draw(tmp_path / "images" / f"{i}.png", i)
    write(tmp_path / "train.csv", "id,species", *(f"{i},{'ab'[i % 2]}" for i in range(5)))
    write(tmp_path / "test.csv", "id,height", *(f"{i},{i * 0.5}" for i in (8, 6, 7)))
    contest = read_contest(tmp_path, DATA)
    assert contest.submission_ids == ("8", "6", "7") and contest.form.header == ("id", "species")
    assert problem(contest, "file_without_id").text.startswith("1 image file ('images/5.png')")


def test_classes_sort_as_numbers_when_all_are(tmp_path):
    for i in range(12):
        draw(tmp_path / "train" / f"{i}.png", i)
    write(tmp_path / "train.csv", "id,y", *(f"{i},{i % 6 * 5}" for i in range(12)))
    assert read_contest(tmp_path, DATA).train.classes == ("0", "5", "10", "15", "20", "25")


def test_json_map_names_the_classes(root):
    (root / "meta.csv").unlink()
    write(root / "label_num_to_disease_map.json", json.dumps({"0": "Blight", "1": "Healthy"}))
    assert read_contest(root, DATA).class_names == ("Blight", "Healthy")


@pytest.mark.parametrize(("encoding", "newline"), [
    ("utf-8-sig", "\r\n"), ("cp949", "\n"), ("utf-16", "\r\n")])
def test_encodings_line_ends_and_empty_lines(root, encoding, newline):
    write(root / "meta.csv", "target,class_name", "0,고양이", "1,개", "", ",", encoding=encoding,
          newline=newline)
    contest = read_contest(root, DATA)
    assert contest.class_names == ("고양이", "개")
    assert kinds(contest) == (set() if encoding == "utf-8-sig" else {"encoding"})


@pytest.mark.parametrize("suffix", [".JPG", ".Jpeg", ".PNG", ".tIf"])
def test_suffixes_in_any_case_are_of_images(tmp_path, suffix):
    contest = read_contest(plain_contest(tmp_path, suffix=suffix, id_suffix=""), DATA)
    assert len(contest.train) == 8 and len(contest.test) == 4


@pytest.mark.parametrize(("encoding", "named"), [
    ("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "UTF-16"), ("cp949", "cp949")])
def test_a_table_is_read_to_its_cells(tmp_path, encoding, named):
    """Quoted commas, quotes and line breaks, an equal column, one of the same name, one without a
    name, empty lines."""
    text = ('ID,이름,이름,이름,\r\n"a,1.png","개 ""x""","개 ""x""",1,\r\n\r\n,,,,\r\n'
            'b.png,"두\r\n줄","두\r\n줄",2,\r\n\r\n')
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    table, read_as = read_table(tmp_path, "t.csv")
    assert read_as == named
    assert table.columns == {"ID": ("a,1.png", "b.png"), "이름": ('개 "x"', "두\r\n줄"),
                             "이름.3": ("1", "2")}


def test_other_columns_are_tolerated_and_groups_offered(root):
    write(root / "train.csv", "patient,ID,target,target,",
          *(f"p{i % 3},a{i}.png,{i % 2},{i % 2}," for i in range(8)))
    contest = read_contest(root, DATA)
    assert contest.problems == () and "patient" in contest.understood[2]
    grouped = read_contest(root, DataConfig(n_folds=2, group_column="patient"))
    assert grouped.train.group.tolist() == [f"patient=p{i % 3}" for i in range(8)]
    with pytest.raises(
        UserError,
        match=r"--group_column must be a column of 'train.csv', got 'patients'; "
              r"did you mean 'patient'",
    ):
        read_contest(root, DataConfig(n_folds=2, group_column="patients"))


def test_semicolons_and_tabs(tmp_path):
    for i in range(4):
        draw(tmp_path / "train" / f"{i}.png", i)
    write(tmp_path / "info" / "labels.tsv", "file\tkind",
          *(f"{i}.png\t{'xy'[i % 2]}, big" for i in range(4)))
    assert read_contest(tmp_path, DATA).train.classes == ("x, big", "y, big")
    (tmp_path / "info" / "labels.tsv").unlink()
    write(tmp_path / "labels.csv", "file;kind", *(f"{i}.png;{'xy'[i % 2]}" for i in range(4)))
    assert read_contest(tmp_path, DATA).train.classes == ("x", "y")


def test_sample_submission_is_found_without_its_name(root):
    (root / "sample_submission.csv").rename(root / "form.csv")
    assert read_contest(root, DATA).submission_ids == ("t3.png", "t2.png", "t1.png", "t0.png")


def test_class_folders_with_a_sample_submission(tmp_path):
    """plant-seedlings: folders only, and a form with its own column names."""
    for name, seed in (("Maize", 0), ("Fat Hen", 10)):
        for i in range(3):
            draw(tmp_path / "train" / name / f"{i}.png", seed + i)
    for i in (1, 2):
        draw(tmp_path / "test" / f"{i}.png", 50 + i)
    write(tmp_path / "sample_submission.csv", "file,species", "2.png,Maize", "1.png,Maize")
    contest = read_contest(tmp_path, DATA)
    assert contest.form.header == ("file", "species")
    assert contest.submission_ids == ("2.png", "1.png") and contest.train.classes == ("Fat Hen",
                                                                                      "Maize")


def test_class_names_are_told_from_test_lists_with_small_numbers(tmp_path):
    """Ids, labels and class numbers are all 0, 1, 2, ...: no sample submission, a test.csv with a
    measurement."""
    for i in range(8):
        draw(tmp_path / "train" / f"{i}.png", i)
        draw(tmp_path / "test" / f"{i}.png", 50 + i)
    write(tmp_path / "latest_train.csv", "id,y", *(f"{i},{i % 2}" for i in range(8)))
    write(tmp_path / "meta.csv", "y,y_name", "0,sun", "1,rain")
    contest = read_contest(tmp_path, DATA)
    assert contest.class_names == ("sun", "rain") and len(contest.submission_ids) == 8
    write(tmp_path / "test.csv", "id,height", *(f"{i},{i}.5" for i in range(6)))
    contest = read_contest(tmp_path, DATA)
    assert contest.class_names == ("sun", "rain") and len(contest.submission_ids) == 6
    assert all("/test/" in p for p in contest.test.path)


def test_names_that_are_numbered_keep_their_names(tmp_path):
    for i in range(4):
        draw(tmp_path / "train" / f"a{i}.png", i)
    write(tmp_path / "train.csv", "id,y", *(f"a{i},{['sun', 'rain'][i % 2]}" for i in range(4)))
    write(tmp_path / "classes.json", json.dumps({"sun": 0, "rain": 1}))
    assert read_contest(tmp_path, DATA).class_names == ("rain", "sun")


# ---------------------------------------------------------------- two readings stop with both named

def test_two_sample_submissions(root):
    write(root / "sample_submission_2.csv", "ID,target", "t0.png,0")
    with pytest.raises(
        UserError, match=r"'sample_submission.csv' and 'sample_submission_2.csv' both look like it"
    ):
        read_contest(root, DATA)


def test_two_label_tables(root):
    write(root / "train_b.csv", "ID,target", *(f"a{i}.png,0" for i in range(7)), "a7.png,1")
    with pytest.raises(UserError, match=r"'train.csv' and 'train_b.csv' both could"):
        read_contest(root, DATA)


def test_two_id_columns(root):
    write(root / "train.csv", "ID,ID2,target",
          *(f"a{i}.png,a{(i + 1) % 8}.png,{i % 2}" for i in range(8)))
    with pytest.raises(UserError, match=r"'ID' and 'ID2' both name image files"):
        read_contest(root, DATA)


def test_two_target_columns(root):
    (root / "sample_submission.csv").unlink()
    write(root / "train.csv", "ID,colour,kind",
          *(f"a{i}.png,{'rgb'[i % 3]},{'xy'[i % 2]}" for i in range(8)))
    with pytest.raises(UserError, match=r"one class column, got 'colour', 'kind'"):
        read_contest(root, DATA)


def test_another_text_in_each_row_is_no_class(tmp_path):
    root = plain_contest(tmp_path, n_train=24)
    (root / "sample_submission.csv").unlink()
    (root / "meta.csv").unlink()
    write(root / "train.csv", "ID,note", *(f"a{i}.png,note_{i}" for i in range(24)))
    with pytest.raises(
        UserError, match=r"which are not classes; supported are contests with one class per image"
    ) as error:
        read_contest(root, DATA)
    assert "\n" not in str(error.value)


def test_one_hot_columns_need_no_sample_submission(root):
    (root / "sample_submission.csv").unlink()
    write(root / "train.csv", "ID,cat,dog", *(f"a{i}.png,{i % 2}.0,{1 - i % 2}" for i in range(7)),
          "a7.png,0,0")
    contest = read_contest(root, DATA)
    assert contest.train.classes == ("cat", "dog") and contest.train.label.tolist() == [1, 0, 1, 0,
                                                                                        1, 0, 1]
    assert problem(contest, "missing_label").sample_ids == ("a7.png",)
    assert "one-hot in 2 columns" in contest.understood[1]


def test_many_rows_without_a_1_are_images_of_none_of_the_classes(root):
    (root / "meta.csv").unlink()
    write(root / "sample_submission.csv", "ID,dent,rust", *(f"t{i}.png,0,0" for i in range(4)))
    write(root / "train.csv", "ID,dent,rust",
          *(f"a{i}.png,{int(i < 2)},{int(2 <= i < 4)}" for i in range(8)))
    train = read_contest(root, DATA).train
    assert train.task == "multilabel"
    assert train.target.tolist() == [[1, 0]] * 2 + [[0, 1]] * 2 + [[0, 0]] * 4
    single = read_contest(root, replace(DATA, task="single"))
    assert single.train.task == "single" and len(problem(single, "missing_label").sample_ids) == 4


def test_names_of_several_words_are_classes_where_their_column_is_asked_for(tmp_path):
    root = plain_contest(tmp_path, n_train=106)
    (root / "meta.csv").unlink()
    cards = ["joker", *(f"{rank} of {suit}" for rank in range(2, 15) for suit in ("spades",
                                                                                  "hearts", "clubs",
                                                                                  "diamonds"))]
    write(root / "train.csv", "ID,target",
          *(f"a{i}.png,{card}" for i, card in enumerate(2 * cards)))
    with pytest.raises(
        UserError,
        match=r"several classes to 104 of 106 .*--task multilabel .*--task single each value",
    ):
        read_contest(root, DATA)
    for asked in ({"target_column": "target"}, {"task": "single"}):
        contest = read_contest(root, DataConfig(n_folds=2, **asked))
        assert len(contest.train.classes) == 53 and "9 of clubs" in contest.train.classes
        found = [p.text for p in contest.problems if p.kind == "names_of_words"]
        assert [("--task multilabel" in text) for text in found] == [True] * ("task" not in asked)


def test_one_class_in_the_file_names_is_none(tmp_path):
    for i in range(3):
        draw(tmp_path / "train" / f"cat.{i}.png", i)
    draw(tmp_path / "test" / "1.png", 9)
    write(tmp_path / "sample_submission.csv", "id,label", "1,0.5")
    with pytest.raises(
        UserError,
        match=r"which image has which class.*supported are contests with one class per image",
    ):
        read_contest(tmp_path, DATA)


def test_settings_name_the_nearest_table_and_column(root):
    for setting, message in (
        ({"label_table": "trian.csv"}, "data.label_table must be .*; did you mean 'train.csv'"),
        ({"sample_submission": "x"}, "data.sample_submission must be the path of one table"),
        (
            {"id_column": "Id"},
            "data.id_column must be a column of a table, got 'Id'; did you mean 'ID'",
        ),
        ({"target_column": "tagret"}, "data.target_column must be .*; did you mean 'target'"),
    ):
        with pytest.raises(UserError, match=message):
            read_contest(root, DataConfig(n_folds=2, **setting))


def test_class_columns_that_lack_a_class_stop_and_idle_ones_are_named(root):
    write(root / "sample_submission.csv", "ID,cat,bird,fish", "t0.png,0.5,0.5,0")
    with pytest.raises(UserError,
                       match=r"without a column: 'dog'; without a class: 'bird', 'fish'"):
        read_contest(root, DATA)
    write(root / "sample_submission.csv", "ID,Cat,bird,DOG", "t0.png,0.5,0.5,0")
    contest = read_contest(root, DATA)
    assert contest.form.class_of == (0, -1, 1) and "'bird'" in problem(contest,
                                                                       "class_without_images").text


def test_offered_groups_are_neither_measurements_nor_the_class(root):
    write(root / "train.csv", "patient,size,ID,target,kind", *(
        f"p{i % 3},{i % 2}.5,a{i}.png,{i % 2},{'xy'[i % 2]}" for i in range(8)))
    assert read_contest(root, DATA).understood[2] == (
        "groups:     near-duplicates stay in one fold; columns that repeat over images: 'patient' "
        "(--group_column NAME)"
    )


def test_table_without_header(root):
    lines = (root / "train.csv").read_text().splitlines()
    write(root / "train.csv", *lines[1:])
    with pytest.raises(
        UserError, match=r"'train.csv' must begin with a row of column names, got 'a0.png', '0'"
    ):
        read_contest(root, DATA)


def test_foreign_formats_say_what_to_do(tmp_path):
    write(tmp_path / "train" / "1.dcm", "x")
    write(tmp_path / "train.csv", "id,y", "1,0")
    with pytest.raises(UserError, match=r"DICOM files .*convert them to JPEG or PNG"):
        read_contest(tmp_path, DATA)


def test_images_without_a_suffix_are_known_by_their_first_bytes(tmp_path):
    root = plain_contest(tmp_path, id_suffix="")
    for number, path in enumerate(sorted([*root.glob("train/*"), *root.glob("test/*")])):
        kind = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")[number % 7]
        Image.open(path).convert("RGB").save(path.with_suffix(""), kind)
        path.unlink()
    for name in ("README", "LICENSE", "train/Makefile", "train/VERSION"):
        (root / name).write_text("BMW and P6, 2 of many words\n")
    contest = read_contest(root, DATA)
    assert contest.problems == ()
    assert contest.train.sample_id.tolist() == [f"a{i}" for i in range(8)]
    assert [os.path.basename(path) for path in contest.train.path] == [f"a{i}" for i in range(8)]
    assert all(contest.test.path)


def test_the_number_at_the_end_of_a_name_is_no_suffix(tmp_path):
    root = plain_contest(tmp_path)
    for path in sorted([*root.glob("train/*"), *root.glob("test/*")]):
        path.rename(path.with_name(f"{path.stem}.0001"))
    write(root / "train.csv", "ID,target", *(f"a{i}.0001,{i % 2}" for i in range(8)))
    write(root / "sample_submission.csv", "ID,target", *(f"t{i}.0001,0" for i in range(4)))
    contest = read_contest(root, DATA)
    assert contest.problems == () and len(contest.train) == 8


def test_a_special_file_without_a_suffix_is_not_read(root):
    os.mkfifo(root / "train" / "pipe")
    assert problem(read_contest(root, DATA), "refused_path").sample_ids == ("train/pipe",)


def test_files_of_kinds_that_nothing_reads_are_counted_by_suffix(root):
    for i in range(5):
        write(root / "train" / f"drawing{i}.SVG", "<svg/>")
    for name in ("test/deeper/a.psd", "test/b.psd"):
        write(root / name, "8BPS")
    for name in ("train/notes.txt", "train/a0.xml", "docs/logo.svg", "train/.DS_Store", "a.tar"):
        write(root / name, "x")
    found = problem(read_contest(root, DATA), "unread_file")
    assert found.text == ("5 .svg and 2 .psd files beside the images are not read: convert them to "
                          "PNG if they are pictures")
    assert len(found.sample_ids) == 7 and "train/drawing0.SVG" in found.sample_ids


def test_dicom_beside_images_is_counted_with_or_without_a_suffix(root):
    write(root / "train" / "x.dcm", "x")
    (root / "train" / "IM0001").write_bytes(bytes(128) + b"DICM")
    assert problem(read_contest(root, DATA), "unread_file").text == (
        "1 .dcm and 1 suffixless files beside the images are not read: convert them to PNG if they "
        "are pictures")


def test_one_file_and_many_kinds_are_said_in_good_english():
    assert files.by_suffix(["a.svg"]) == "1 .svg file"
    many = ["a.svg", "b.svg", "a.psd", "a.cr2", "a.xcf", "a.nef"]
    assert files.by_suffix(many) == "2 .svg, 1 .cr2, 1 .nef and 2 other files"


def test_a_folder_of_unread_files_names_their_kinds(tmp_path):
    write(tmp_path / "train" / "a.svg", "<svg/>")
    with pytest.raises(UserError, match=r"holds neither tables nor images \(1 \.svg file\)"):
        read_contest(tmp_path, DATA)


def test_heic_without_its_package_is_named_with_what_to_install(root, out, monkeypatch):
    formats = tuple(name for name in decoding.IMAGE_FORMATS if name != "HEIF")
    monkeypatch.setattr(decoding, "IMAGE_FORMATS", formats)
    (root / "train" / "a0.png").unlink()
    (root / "train" / "a0.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"0" * 100)
    contest, audit = audited(root, out)
    assert [p.kind for p in contest.problems] == ["heic"] and len(audit.train) == 7
    assert ("a0.png (HEIC needs pillow-heif: pip install -r requirements-extras.txt)"
            in problem(audit, "unreadable_training_image").text)
    for path in (root / "train").iterdir():
        path.write_bytes(b"\0\0\0\x18ftypheic" + b"0" * 100)
    with pytest.raises(UserError, match=r"none of the 8 .* can be used \(HEIC needs pillow-heif:"):
        audit_contest(contest, DATA, 32, out, 2)


def test_only_formats_without_a_decoder_are_named_for_the_audits_key(root, monkeypatch):
    (root / "train" / "a0.png").write_bytes(b"\0\0\0\x18ftypheic" + b"0" * 100)
    contest = read_contest(root, DATA)
    for module in (decoding, audit_module):
        monkeypatch.setattr(module, "IMAGE_FORMATS", ("JPEG", "PNG"))
    assert audit_module.undecoded_formats(contest, 2) == ["HEIF"]
    for module in (decoding, audit_module):
        monkeypatch.setattr(module, "IMAGE_FORMATS", tuple(decoding.WANTED_FORMATS))
    assert audit_module.undecoded_formats(contest, 2) == []


# ---------------------------------------------------------------- tampered folders

def test_folder_missing_empty_or_a_file(tmp_path):
    with pytest.raises(UserError, match=r"'.*nowhere' does not exist"):
        read_contest(tmp_path / "nowhere", DATA)
    with pytest.raises(UserError, match="holds neither tables nor images"):
        read_contest(tmp_path, DATA)
    write(tmp_path / "f.txt", "x")
    with pytest.raises(UserError, match="is a file"):
        read_contest(tmp_path / "f.txt", DATA)


def test_unreadable_images_are_left_out_by_name(root, out):
    whole = (root / "train" / "a1.png").read_bytes()
    Image.fromarray(picture(0, 300, 300)).save(root / "x.jpg")
    (root / "train" / "a0.png").write_bytes((root / "x.jpg").read_bytes()[:2000])
    (root / "x.jpg").unlink()
    (root / "train" / "a1.png").write_bytes(whole[:len(whole) // 2])
    (root / "train" / "a2.png").write_bytes(b"")
    (root / "train" / "a3.png").write_text("this is text")
    (root / "test" / "t1.png").write_text("this is text")
    contest, audit = audited(root, out)
    assert contest.problems == ()
    assert audit.train.sample_id.tolist() == ["a4.png", "a5.png", "a6.png", "a7.png"]
    assert len(audit.train_pixels) == 4 and np.array_equal(audit.train_pixels[0],
                                                           pixels.shrunk(picture(4), 32))
    assert problem(audit, "unreadable_training_image").sample_ids == ("a0.png", "a1.png", "a2.png",
                                                                      "a3.png")
    assert "truncated" in problem(audit, "unreadable_training_image").text
    assert audit.bad_test_ids == ("t1.png",) and audit.test.sample_id.tolist() == ["t0.png",
                                                                                   "t2.png",
                                                                                   "t3.png"]
    left_out = (out / "catalog_train.csv").read_text()
    assert "zero bytes" in left_out and "not an image" in left_out


def test_ids_without_file_and_files_without_id(root, out):
    append(root / "train.csv", "ghost.png,1")
    append(root / "sample_submission.csv", "phantom.png,0")
    draw(root / "train" / "extra.png", 77)
    contest, audit = audited(root, out)
    train, test = (p for p in contest.problems if p.kind == "missing_file")
    assert train.sample_ids == ("ghost.png",) and test.sample_ids == ("phantom.png",)
    assert problem(contest, "file_without_id").sample_ids == ("train/extra.png",)
    assert contest.submission_ids[-1] == "phantom.png" and audit.bad_test_ids == ("phantom.png",)
    assert len(audit.train) == 8 and len(audit.test) == 4


def test_repeated_ids(root):
    append(root / "train.csv", "a0.png,0", "a1.png,0", "a2.png,")
    contest = read_contest(root, DATA)
    assert problem(contest, "repeated_id").sample_ids == ("a0.png",)
    assert problem(contest, "contradicted_id").sample_ids == ("a1.png",)
    assert problem(contest, "missing_label").sample_ids == ("a2.png",)
    assert contest.train.sample_id.tolist() == ["a0.png", *(f"a{i}.png" for i in range(3, 8))]


def test_label_not_in_meta(root):
    draw(root / "train" / "b.png", 60)
    append(root / "train.csv", "b.png,7")
    contest = read_contest(root, DATA)
    assert "does not name 1 label ('7')" in problem(contest, "unknown_label").text
    assert len(contest.train) == 8 and contest.train.classes == ("0", "1")


@pytest.mark.parametrize("bad", [
    "../secret.png", "train/../../secret.png", "{root}/../secret.png", "..\\secret.png",
    "C:\\secret.png"])
def test_ids_that_leave_the_folder(root, out, bad):
    draw(root.parent / "secret.png", 5)
    bad = bad.replace("{root}", str(root))
    append(root / "train.csv", f"{bad},1")
    append(root / "sample_submission.csv", f"{bad},0")
    contest, audit = audited(root, out)
    assert [p.sample_ids for p in contest.problems if p.kind == "refused_path"] == [(bad,), (bad,)]
    assert audit.bad_test_ids == (bad,) and contest.submission_ids[-1] == bad
    assert not any("secret" in p for p in [*contest.train.path, *contest.test.path])


def test_links_and_special_files(root, out):
    draw(root.parent / "secret.png", 5)
    (root / "train" / "link.png").symlink_to(root.parent / "secret.png")
    (root / "train" / "folder").symlink_to(root.parent)
    (root / "train" / "alias.png").symlink_to(root / "train" / "a0.png")
    os.mkfifo(root / "train" / "pipe.png")
    append(root / "train.csv", "link.png,1", "pipe.png,0")
    contest, audit = audited(root, out)
    refused = [set(p.sample_ids) for p in contest.problems if p.kind == "refused_path"]
    assert refused == [{"train/link.png", "train/folder", "train/pipe.png"},
                       {"link.png", "pipe.png"}]
    assert problem(contest, "file_without_id").sample_ids == ("train/alias.png",)
    assert len(audit.train) == 8


def test_images_behind_a_link_out_of_the_folder_are_asked_for(tmp_path):
    draw(tmp_path / "elsewhere" / "a.png", 5)
    (tmp_path / "contest").mkdir()
    (tmp_path / "contest" / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        UserError,
        match=r"has none.*links out of it and special files \('train'\) are not opened: copy what",
    ):
        read_contest(tmp_path / "contest", DATA)


@pytest.mark.parametrize("content", ["", "ID,target\n", "\n\n"])
def test_empty_train_csv(root, content):
    (root / "train.csv").write_text(content)
    with pytest.raises(UserError,
                       match=r"the label table must have rows, but 'train.csv' is empty"):
        read_contest(root, DATA)


def test_a_sample_without_rows_is_no_label_table(tmp_path):
    for i in range(8):
        draw(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", i)
        draw(tmp_path / "test" / f"t{i}.png", 100 + i)
    write(tmp_path / "sample_submission.csv", "image_id,label")
    contest = read_contest(tmp_path, DATA)
    assert contest.train.classes == ("a", "b") and len(contest.submission_ids) == 8
    assert "'sample_submission.csv' has no rows and is not followed" in problem(contest,
                                                                                "empty_sample").text


def test_cells_of_the_submission_are_separated_as_those_of_the_sample(root):
    write(root / "sample_submission.csv", "ID;target", *(f"t{i}.png;0" for i in range(4)))
    assert read_contest(root, DATA).form.separator == ";"


def test_broken_train_csv_is_named(root):
    write(root / "train.csv", "ID,target", "a0.png,0,1", "a1.png,1")
    with pytest.raises(UserError,
                       match=r"'train.csv' cannot be read \(row 2 has 3 cells, its header has 2\)"):
        read_contest(root, DATA)


def test_no_test_folder(root, out):
    for path in (root / "test").iterdir():
        path.unlink()
    (root / "test").rmdir()
    contest, audit = audited(root, out)
    assert kinds(contest) == {"no_test_images"}
    assert contest.submission_ids == () and len(contest.test) == 0 and audit.bad_test_ids == ()
    assert len(audit.test) == len(audit.test_pixels) == 0 and len(audit.train) == 8


def test_a_form_whose_ids_are_no_images(root):
    write(root / "sample_submission.csv", "ID,target", "z1.png,0", "z2.png,0")
    contest = read_contest(root, DATA)
    assert (
        "none of the 2 ids of 'sample_submission.csv' is an image file"
        in problem(contest, "no_test_images").text
    )
    assert contest.submission_ids == ()


def test_one_class(root):
    write(root / "train.csv", "ID,target", *(f"a{i}.png,0" for i in range(8)))
    with pytest.raises(UserError, match="at least 2 classes, got 1"):
        read_contest(root, DATA)


def test_no_image_at_all(root, tmp_path, out):
    for path in (root / "train").iterdir():
        path.write_text("text")
    contest = read_contest(root, DATA)
    with pytest.raises(UserError, match="none of the 8 training images can be used"):
        audit_contest(contest, DATA, 32, out, 2)
    for path in (root / "train").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="must hold training images"):
        read_contest(root, DATA)


def test_all_fatal_problems_at_once(root):
    write(root / "sample_submission_2.csv", "ID,target", "t0.png,0")
    write(root / "train.csv", "ID,ID2,target",
          *(f"a{i}.png,a{(i + 1) % 8}.png,{i % 2}" for i in range(8)))
    with pytest.raises(UserError) as error:
        read_contest(root, DATA)
    assert len(str(error.value).splitlines()) == 2


def test_a_repeated_test_id_keeps_its_rows(root):
    append(root / "sample_submission.csv", "t0.png,0")
    contest = read_contest(root, DATA)
    assert contest.submission_ids[-2:] == ("t0.png", "t0.png") and len(contest.test) == 4
    assert "repeated_id" in kinds(contest)


# ---------------------------------------------------------------- the same picture twice

def test_exact_duplicates(root, out):
    (root / "train" / "a2.png").write_bytes((root / "train" / "a0.png").read_bytes())
    (root / "train" / "a5.png").write_bytes((root / "train" / "a4.png").read_bytes())
    (root / "test" / "t0.png").write_bytes((root / "train" / "a6.png").read_bytes())
    _, audit = audited(root, out)
    assert problem(audit, "exact_duplicates").sample_ids == ("a0.png", "a2.png")
    assert problem(audit, "contradicted_image").sample_ids == ("a4.png", "a5.png")
    assert audit.train.sample_id.tolist() == [f"a{i}.png" for i in (0, 1, 2, 3, 6, 7)]
    assert audit.train.group.tolist() == ["a0.png", "a1.png", "a0.png", "a3.png", "a6.png",
                                          "a7.png"]
    assert audit.summary["twins"] == [["a6.png", "t0.png",
                                       "exact"]] and "exact_twins" in kinds(audit)


def test_near_duplicates_join_groups(root, out):
    near = cv2.resize(picture(0, 400, 480), (96, 80), interpolation=cv2.INTER_AREA)
    Image.fromarray(near).save(root / "train" / "a3.png")
    Image.fromarray(np.clip(picture(1).astype(int) + 3, 0, 255).astype(np.uint8)).save(root / "test"
                                                                                       / "t2.png")
    write(root / "train.csv", "ID,target,who",
          *(f"a{i}.png,{i % 2},{'p' if i in (3, 6) else i}" for i in range(8)))
    _, audit = audited(root, out, DataConfig(n_folds=2, group_column="who"))
    assert problem(audit, "near_duplicates").sample_ids == ("a0.png", "a3.png")
    assert problem(audit, "near_duplicate_labels").sample_ids == ("a0.png", "a3.png")
    assert audit.train.group[0] == audit.train.group[3] == audit.train.group[6]
    assert audit.summary["same_pictures"] == [["a0.png", "a3.png"]]
    assert len(set(audit.train.group)) == 6
    assert audit.summary["twins"] == [["a1.png", "t2.png", "near"]]


def test_a_class_in_one_group_is_divided_so_that_each_fold_trains_on_it(root, out):
    """One patient, p0, has the images of class 2, and one of class 0."""
    rows = [("p0", 0), ("p1", 0), ("p2", 0), ("p1", 1), ("p2", 1), ("p0", 2), ("p0", 2), ("p0", 2)]
    write(root / "train.csv", "ID,target,who",
          *(f"a{i}.png,{label},{who}" for i, (who, label) in enumerate(rows)))
    _, audit = audited(root, out, DataConfig(n_folds=2, group_column="who"))
    assert problem(audit, "divided_class").sample_ids == ("2",)
    assert "its scores are too good" in problem(audit, "divided_class").text
    folds = make_folds(audit.train, 2, seed=1)
    for fold in range(2):
        assert set(audit.train.label[folds.train_rows(fold)].tolist()) == {0, 1, 2}
    assert audit.train.group[0] == "who=p0"     # as it was


def test_a_class_of_near_duplicates_is_in_every_fold(root, out):
    """The frames of one video."""
    for i in range(0, 8, 2):
        frame = np.clip(picture(0).astype(int) + i, 0, 255).astype(np.uint8)
        Image.fromarray(frame).save(root / "train" / f"a{i}.png")
    _, audit = audited(root, out)
    assert problem(audit, "divided_class").sample_ids == ("0",)
    folds = make_folds(audit.train, 2, seed=1)
    assert all(0 in audit.train.label[folds.train_rows(fold)] for fold in range(2))


@pytest.mark.parametrize("groups", [("v0", "v1"), ("0", "1"), ("same", "same")])
def test_a_group_column_that_keeps_each_class_in_one_group_stops_the_run(root, groups):
    write(root / "train.csv", "ID,target,video",
          *(f"a{i}.png,{i % 2},{groups[i % 2]}" for i in range(8)))
    with pytest.raises(UserError, match=r"each of the 2 classes lies in one group of 'video'"):
        read_contest(root, DataConfig(n_folds=2, group_column="video", target_column="target"))
    assert len(read_contest(root, DataConfig(n_folds=2, target_column="target")).train) == 8


def test_blank_images_do_not_chain_into_one_group(root, out):
    for i in range(6):
        Image.fromarray(np.full((40, 48, 3), 250 - i, np.uint8)).save(root / "train" / f"a{i}.png")
    _, audit = audited(root, out)
    assert len(set(audit.train.group)) == 8


def test_same_shape_in_another_colour_is_no_duplicate(root, out):
    Image.fromarray(np.ascontiguousarray(picture(0)[:, :, ::-1])).save(root / "train" / "a2.png")
    _, audit = audited(root, out)
    assert "near_duplicates" not in kinds(audit)


def test_a_mirrored_copy_shares_a_fold_and_may_have_another_label(root, out):
    Image.fromarray(np.ascontiguousarray(picture(0)[:, ::-1])).save(root / "train" / "a3.png")
    _, audit = audited(root, out)
    assert problem(audit, "turned_copies").sample_ids == ("a0.png", "a3.png")
    assert kinds(audit) == {"turned_copies"}
    assert audit.train.group[0] == audit.train.group[3] and len(set(audit.train.group)) == 7
    assert audit.summary["same_pictures"] == [] and audit.summary["n_turned_pairs"] == 1


def test_a_mirrored_copy_in_the_test_set_is_no_twin(root, out):
    Image.fromarray(np.ascontiguousarray(picture(1)[:, ::-1])).save(root / "test" / "t2.png")
    _, audit = audited(root, out)
    assert audit.summary["twins"] == []


def grey_contest(root, white_level):
    """A contest of 16-bit grey images whose brightest level is white_level."""
    plain_contest(root)
    for path in sorted([*root.glob("train/*"), *root.glob("test/*")]):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        grey[0, 0] = 255
        deep = np.rint(grey * (white_level / 255)).astype(np.uint16)
        cv2.imwrite(str(path), deep)
    return root


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_16_bit_images_of_fewer_bits_are_read_in_one_range(tmp_path, out, bits):
    white_level = 2**bits - 1
    root = grey_contest(tmp_path / "contest", white_level)
    expected = {path.name: decoding.decode(path.read_bytes(), 0, white_level).rgb
                for path in [*root.glob("train/*"), *root.glob("test/*")]}
    _, audit = audited(root, out)
    assert audit.white_level == audit.summary["white_level"] == white_level
    text = problem(audit, "fewer_bits").text
    assert text.startswith(f"its 16-bit images hold {bits} bits: {white_level} becomes white")
    assert "(12 in all)" in text
    for catalog, store in ((audit.train, audit.train_pixels), (audit.test, audit.test_pixels)):
        for row, name in enumerate(catalog.sample_id.tolist()):
            assert np.array_equal(store[row], pixels.shrunk(expected[name], 32))
            assert store[row].max() > 150


@pytest.mark.parametrize("bright", ["train/a3.png", "test/t2.png"])
def test_one_bright_image_of_either_split_keeps_all_16_bits(tmp_path, out, bright):
    root = grey_contest(tmp_path / "contest", 4095)
    image = cv2.imread(str(root / bright), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(root / bright), image * 16)
    _, audit = audited(root, out)
    assert audit.problems == () and audit.white_level == 65535
    assert audit.train_pixels[0].max() <= 16


def test_a_contest_without_16_bit_images_is_read_once(root, out, monkeypatch):
    read = []
    real = audit_module.read_bytes
    monkeypatch.setattr(audit_module, "read_bytes", lambda path: read.append(path) or real(path))
    _, audit = audited(root, out)
    assert len(read) == len(set(read)) == 12 and audit.white_level == 65535


def test_only_16_bit_images_are_read_twice(root, out, monkeypatch):
    cv2.imwrite(str(root / "train" / "a0.png"), np.arange(1024, dtype=np.uint16).reshape(32, 32))
    read = []
    real = audit_module.read_bytes
    monkeypatch.setattr(audit_module, "read_bytes", lambda path: read.append(path) or real(path))
    _, audit = audited(root, out)
    assert len(read) == 13 and audit.white_level == 1023
    assert np.array_equal(audit.train_pixels[1], pixels.shrunk(picture(1), 32))


def test_an_audit_of_an_earlier_version_reads_as_it_did(root, out):
    audited(root, out)
    stored = json.loads((out / "audit.json").read_text())
    del stored["summary"]["white_level"]
    (out / "audit.json").write_text(json.dumps(stored))
    assert load_audit(out, root).white_level == 65535


def test_small_classes_are_named(root, out):
    draw(root / "train" / "b.png", 61)
    append(root / "train.csv", "b.png,2")
    append(root / "meta.csv", "2,bird", "3,fish")
    contest, audit = audited(root, out)
    assert "1 class ('2')" in problem(audit, "small_class").text
    assert problem(contest, "class_without_images").sample_ids == ("3",)
    assert contest.class_names == ("cat", "dog", "bird")


# ---------------------------------------------------------------- digests

def test_digests_change_with_content_and_labels_only(root):
    first = contest_digests(read_contest(root, DATA), 2)
    assert first == contest_digests(read_contest(root, DATA), 1) and len(first) == 8 + 4 + 1
    moved = root.rename(root.parent / "moved")
    assert contest_digests(read_contest(moved, DATA), 2) == first
    draw(moved / "train" / "a0.png", 999)
    changed = contest_digests(read_contest(moved, DATA), 2)
    assert changed[0] != first[0] and changed[1:] == first[1:]
    draw(moved / "train" / "in_no_table.png", 998)
    assert contest_digests(read_contest(moved, DATA), 2) == changed
    write(moved / "train.csv", "ID,target", *(f"a{i}.png,{(i + 1) % 2}" for i in range(8)))
    assert contest_digests(read_contest(moved, DATA), 2)[-1] != first[-1]


def test_audit_is_the_same_for_any_number_of_workers(root, tmp_path):
    texts = []
    for workers in (0, 3):
        folder = tmp_path / f"w{workers}"
        folder.mkdir()
        audit_contest(read_contest(root, DATA), DATA, 32, folder, workers)
        audit = load_audit(folder, root)
        texts.append([(folder / name).read_text() for name in ("audit.json", "catalog_train.csv",
                                                               "catalog_test.csv")]
                     + [image.tobytes() for image in (audit.train_pixels[i] for i in range(8))])
    assert texts[0] == texts[1]


def test_our_own_runs_are_no_part_of_the_contest_that_they_lie_in(tmp_path):
    root = plain_contest(tmp_path / "contest")
    (root / "sample_submission.csv").unlink()
    before = read_contest(root, DATA)
    for name in ("events.jsonl", "environment.json", "config.json"):
        write(root / "run" / name, "{}")
    write(root / "run" / "submission_run.csv", "ID,target", "t0.png,0")
    draw(root / "run" / "figures" / "x.png", 7)
    after = read_contest(root, DATA)
    assert after.form.ids == before.form.ids and len(after.test) == len(before.test) == 4
    assert kinds(after) == kinds(before)
