"""On labels that are pure noise an honest out-of-fold score is chance, whatever a later round is
taught."""
import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from config import Round, build_config
from running.pipeline import run

N, CLASSES = 96, 4
FROZEN = "mobilenetv3_small_050"


def weights_in(folder):
    """A folder with weights of FROZEN: random ones, which count as pretrained."""
    folder.mkdir()
    torch.manual_seed(0)
    save_file(timm.create_model(FROZEN).state_dict(), folder / f"{FROZEN}.safetensors")
    return folder


def noise_contest(folder, seed):
    """Random pictures with random labels; each test image is nearly a training image."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    rows = []
    for i in range(N):
        picture = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (48, 48),
                             interpolation=cv2.INTER_CUBIC)
        nearly = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
        for split, image in (("train", picture), ("test", nearly)):
            cv2.imwrite(str(folder / split / f"{split}{i:03}.png"), image)
        rows.append((f"train{i:03}.png", int(rng.integers(CLASSES))))
    with open(folder / "train.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("ID", "target"), *rows])
    return dict(rows)


@pytest.mark.parametrize("seed", [
    pytest.param(0, marks=pytest.mark.slow),
    *(pytest.param(s, marks=pytest.mark.long) for s in (1, 2))])
def test_taught_rounds_stay_at_chance_on_noise_with_near_duplicates_between_train_and_test(tmp_path,
                                                                                           seed):
    label_of = noise_contest(tmp_path / "noise", seed)
    config = build_config("full_training", ["model.backbones=resnet10t,test_resnet",
                                            "data.n_folds=2",
                                            "data.image_size_px=32", "optim.epochs=15",
                                            "optim.batch_size=16", "optim.label_smoothing=0",
                                            "augment.mix_share=0", "augment.policy=none",
                                            "predict.tta_views=1", "ensemble.bootstrap_draws=10",
                                            "runtime.workers=0", "runtime.measure=off",
                                            f"runtime.weights_dir={weights_in(tmp_path / 'w')}",
                                            f"model.frozen={FROZEN}",
                                            "metric=accuracy", f"seed={seed}"])
    # pseudo-labels, distillation, both with a warm start, each by the round before; every test
    # image teaches, however unsure
    # its teachers are
    pseudo = Round(unlabelled=True, min_confidence=0.0, min_agreement=0.0, class_quota=0.0)
    config = replace(config, rounds=(Round(), pseudo, Round(alpha=0.9),
                                     replace(pseudo, alpha=0.9, warm_start=True)))
    final = run(config, tmp_path / "noise", tmp_path / "run")
    spread = 3 * (0.25 * 0.75 / N) ** 0.5
    assert {s["name"][:2] for s in final["sources"]} == {"r0", "r1", "r2", "r3", "fr"}
    for source in final["sources"]:
        assert abs(source["score"] - 1 / CLASSES) < spread, source["name"]
    assert known_share(tmp_path / "run", label_of) > 0.6


def known_share(folder, label_of):
    """Share of the training images whose test twin was taught with the image's own label: the
    temptation is real."""
    fold_of = {row["sample_id"]: int(row["fold"])
               for row in read_rows(next(folder.glob("folds-*/folds.csv")))}
    same = []
    for path in folder.glob("fold_*/r1-*/pseudo_labels.csv"):
        for row in read_rows(path):
            twin = row["sample_id"].replace("test", "train")
            if f"fold_{fold_of[twin]}" != path.parts[-3]:
                same.append(row["class"] == str(label_of[twin]))
    return np.mean(same)


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.mark.long
@pytest.mark.parametrize(("metric", "header", "cells", "chance", "spread"), [
    ("auc", ("a", "b"), lambda rng: rng.integers(2, size=2), 0.5, 0.14),
    ("r2", ("cm",), lambda rng: [f"{rng.normal(50, 9):.3f}"], -1.0, 1.1),
    ("kl_divergence", ("a", "b"), lambda rng: soft(rng.uniform(0.2, 0.8)), 0.06, 0.05)])
def test_distilled_rounds_of_other_tasks_stay_at_chance_on_noise(metric, header, cells, chance,
                                                                 spread, tmp_path):
    noise_contest(tmp_path / "noise", 0)
    rng = np.random.default_rng(7)
    with open(tmp_path / "noise/train.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("ID", *header), *(
            (f"train{i:03}.png", *cells(rng)) for i in range(N))])
    config = build_config("full_training", ["model.backbones=test_resnet", "model.pretrained=off",
                                            "data.n_folds=2", "data.image_size_px=32",
                                            "optim.epochs=10", "optim.batch_size=16",
                                            "augment.policy=none", "predict.tta_views=1",
                                            "ensemble.bootstrap_draws=10", "runtime.workers=0",
                                            "runtime.measure=off", f"metric={metric}",
                                            f"data.target_column={','.join(header)}"])
    config = replace(config, rounds=(Round(), Round(alpha=0.9, warm_start=True)))
    final = run(config, tmp_path / "noise", tmp_path / "run")
    assert {s["name"][:2] for s in final["sources"]} == {"r0", "r1"}
    for score in (*(s["score"] for s in final["sources"]), final["score"]["oof_testlike"]):
        assert abs(score - chance) < spread, (score, final["sources"])


def soft(share):
    return f"{share:.3f}", f"{1 - share:.3f}"
