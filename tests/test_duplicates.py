"""Copies of a picture share a fold; other pictures are not joined."""
import csv

import cv2
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.duplicates import COPIES, found_pairs, found_share
from config import DataConfig, build_config
from contest import likeness
from contest.audit import audit_contest, load_audit
from contest.intake import read_contest
from contest.pixels import shrunk
from data_loader import make_folds
from demo_contest.classes import draw_clean
from running.pipeline import run

DATA = DataConfig(n_folds=2)
N_PICTURES, CLASSES = 60, 4
KINDS = ("mirrored", "upside down", "half turn", "quarter turn", "transposed", "brightness 0.7",
         "brightness 1.4", "crop 5 %", "turn 5")


def pictures(n, coarse=6, side=48, seed=0):
    """n random smooth colour pictures."""
    rng = np.random.default_rng(seed)
    return [cv2.resize(rng.integers(0, 256, (coarse, coarse, 3), np.uint8), (side, side),
                       interpolation=cv2.INTER_CUBIC) for _ in range(n)]


def joined(images, **settings):
    return {(i, j): bool(upright)
            for (i, j), upright in zip(*map(np.ndarray.tolist, found_pairs(images, **settings)),
                                       strict=True)}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_of_a_random_picture_is_found(kind):
    least = 0.8 if "1.4" in kind else 0.95
    assert found_share(pictures(10, coarse=8, side=96), COPIES[kind]) >= least
    if kind != "noise 20":      # more than tiny smooth pictures have details
        assert found_share(pictures(10), COPIES[kind]) >= (0.6 if "1.4" in kind else 0.8)


@pytest.fixture(scope="module")
def drawn():
    """An image of each class of the embedded contest, as an audit at 224 px keeps it."""
    return [shrunk(draw_clean(label, label), 280) for label in range(17)]


@pytest.mark.parametrize("kind", ["mirrored", "half turn", "quarter turn", "brightness 0.7",
                                  "crop 2 %", "crop 5 %", "turn 3", "turn 5", "grey", "half size",
                                  "JPEG 50", "noise 10"])
def test_a_copy_of_a_drawn_document_is_found(drawn, kind):
    assert found_share(drawn, COPIES[kind]) >= 0.75


def test_other_forms_of_one_class_are_not_joined(drawn):
    forms = [shrunk(draw_clean(label, 100 + 10 * label + i), 280) for label in (3, 4, 7, 14)
             for i in range(6)]
    assert joined([*drawn, *forms]) == {}


def test_pictures_of_one_layout_with_other_content_are_not_joined():
    rng = np.random.default_rng(0)
    base = np.full((200, 150, 3), 245, np.uint8)
    for y in range(20, 190, 30):
        cv2.rectangle(base, (10, y), (140, y + 20), (60, 60, 60), 1)
    sheets = []
    for _ in range(10):
        sheet = base.copy()
        for y in range(20, 190, 30):
            text = "".join(map(str, rng.integers(0, 10, 7)))
            cv2.putText(sheet, text, (14, y + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (20, 20, 20), 1)
        sheets.append(sheet)
    assert joined(sheets) == {}


def test_only_mirrored_and_turned_pairs_are_not_upright():
    [picture] = pictures(1)
    cropped = np.ascontiguousarray(COPIES["crop 5 %"](picture))
    flipped = np.ascontiguousarray(picture[:, ::-1])
    assert joined([picture, cropped, flipped]) == {(0, 1): True, (0, 2): False, (1, 2): False}


def test_an_agreement_of_1_joins_nothing():
    [picture] = pictures(1)
    assert joined([picture, picture.copy()]) and joined([picture, picture.copy()],
                                                        agreement=1.0) == {}


def test_pairs_do_not_depend_on_the_order_of_the_images():
    images = pictures(20)
    kinds = ["mirrored", "turn 5", "crop 5 %", "brightness 1.4", "noise 10"]
    images += [np.ascontiguousarray(COPIES[kind](image))
               for kind, image in zip(kinds * 4, images, strict=True)]
    found = {tuple(sorted((images[i].tobytes(), images[j].tobytes())))
             for i, j in joined(images)}
    for seed in (1, 2):
        order = np.random.default_rng(seed).permutation(len(images)).tolist()
        other = [images[row] for row in order]
        assert {tuple(sorted((other[i].tobytes(), other[j].tobytes())))
                for i, j in joined(other)} == found
    assert len(found) >= 18


def test_pairs_do_not_depend_on_the_number_of_workers_or_the_blocks(monkeypatch):
    images = pictures(30)
    images += [np.ascontiguousarray(COPIES["turn 5"](image)) for image in images]
    found = joined(images)
    monkeypatch.setattr(likeness, "IMAGES_AT_ONCE", 7)
    monkeypatch.setattr(likeness, "PAIRS_AT_ONCE", 5)
    assert joined(images, workers=2) == found


def test_many_copies_of_one_picture_stay_one_chain(monkeypatch):
    monkeypatch.setattr(likeness, "MOST_CANDIDATES", 4)
    [picture] = pictures(1)
    rng = np.random.default_rng(0)
    images = [np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)
              for _ in range(16)]
    linked = {0}
    pairs = list(joined(images))
    for _ in images:
        linked |= {row for pair in pairs if linked & set(pair) for row in pair}
    assert len(linked) == len(images)


# ---------------------------------------------------------------- random labels

def random_contest(folder, kind, seed=0):
    """Pictures with random labels, each with a copy that has its label, and a small test set."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    rows = []
    for i, picture in enumerate(pictures(N_PICTURES, seed=seed)):
        label = int(rng.integers(CLASSES))
        for name, image in ((f"a{i}.png", picture), (f"b{i}.png", COPIES[kind](picture))):
            cv2.imwrite(str(folder / "train" / name), np.ascontiguousarray(image))
            rows.append((name, label))
    for i, picture in enumerate(pictures(4, seed=seed + 1)):
        cv2.imwrite(str(folder / "test" / f"t{i}.png"), picture)
    with open(folder / "train.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("ID", "target"), *rows])
    with open(folder / "sample_submission.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("ID", "target"), *((f"t{i}.png", 0) for i in range(4))])


@pytest.mark.parametrize("kind", KINDS)
def test_random_labels_of_copied_pictures_score_chance(tmp_path, kind):
    """The nearest neighbour in all symmetries knows each copy that lies in another fold."""
    random_contest(tmp_path / "data", kind)
    contest = read_contest(tmp_path / "data", DATA)
    audit_contest(contest, DATA, 48, tmp_path / "audit", workers=1)
    audit = load_audit(tmp_path / "audit", contest.folder)
    folds = make_folds(audit.train, 5, 0)

    features = np.array([cv2.resize(audit.train_pixels[row], (16, 16)).astype(float)
                         for row in range(len(audit.train))])
    features -= features.mean((1, 2, 3), keepdims=True)
    features /= features.std((1, 2, 3), keepdims=True)
    label = audit.train.label
    right = []
    for fold in range(5):
        train = folds.train_rows(fold)
        views = np.concatenate([likeness.mirrored(features[train], s) for s in range(8)])
        model = KNeighborsClassifier(1).fit(views.reshape(len(views), -1), np.tile(label[train], 8))
        valid = folds.valid_rows(fold)
        right.extend(model.predict(features[valid].reshape(len(valid), -1)) == label[valid])
    shares = np.bincount(label, minlength=CLASSES) / len(label)
    chance = (shares**2).sum()
    # an image and its copy are right together: N_PICTURES independent answers
    assert abs(np.mean(right) - chance) < 3 * (chance * (1 - chance) / N_PICTURES) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half turn", "crop 5 %"])
def test_a_network_on_random_labels_of_copied_pictures_scores_chance(tmp_path, kind):
    random_contest(tmp_path / "data", kind)
    config = build_config("full_training", [
        "model.backbones=test_resnet", "model.pretrained=off", "data.n_folds=4",
        "data.image_size_px=32", "optim.epochs=30", "optim.batch_size=16", "augment.mix_share=0",
        "augment.policy=none", "predict.tta_views=1", "ensemble.bootstrap_draws=10",
        "runtime.workers=0", "runtime.measure=off", "metric=accuracy"])
    final = run(config, tmp_path / "data", tmp_path / "run")
    chance = 1 / CLASSES
    spread = 3 * (chance * (1 - chance) / N_PICTURES) ** 0.5
    for source in final["sources"]:
        assert abs(source["score"] - chance) < spread, source["name"]
