"""Sets of classes and numbers on real images, beside a plain script: same network, epochs, images.

    python -m benchmarks.targets sets ../shared/data/cifar10s OUT      # two to four images in one
    python -m benchmarks.targets angle ../shared/data/trashnet OUT     # by how much one is turned

Draws the contest into OUT, trains it with the program and with `reference`, a plain training of
the fold's images, and scores both on the same test images.
"""
import argparse
import csv
import json
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from torch.nn import functional as F

from data_loader import load_folds
from ensemble.metrics import NUMBER_METRICS, SET_METRICS
from grandmaster_train import main as train
from modeling.inference import Predictions
from modeling.train import seed_everything
from utils import csv_rows

SIZE_PX = 64
SIDE_PX = 96
NETWORK = "resnet10t"
BATCH = 32
LR = 1e-3
N_TEST = 500


# ---------------------------------------------------------------- the contests

def source(folder):
    """[(path, class)] of a contest's training images."""
    rows = csv_rows(folder / "train.csv")
    return [(folder / "train" / row["ID"], row["target"]) for row in rows]


def pasted(images, rng):
    """(two to four images side by side, their classes joined by blanks)."""
    picked = [images[i] for i in rng.integers(len(images), size=rng.integers(2, 5))]
    squares = [cv2.resize(cv2.imread(str(path)), (32, 32)) for path, _ in picked]
    return np.hstack(squares), " ".join(sorted({c for _, c in picked}))


def turned(images, rng):
    """(the centre of an image turned by -45 to 45 degrees, that angle)."""
    path, _ = images[rng.integers(len(images))]
    image = cv2.imread(str(path))
    angle = rng.uniform(-45, 45)
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    side = min(height, width) * 7 // 10
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top:top + side, left:left + side]
    return cv2.resize(square, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), f"{angle:.3f}"


def draw(make, data, folder, n_train):
    """A contest of images and their labels; test images come from others than training images."""
    rng = np.random.default_rng(0)
    images = source(data)
    order = rng.permutation(len(images))
    held = len(images) // 4
    parts = {"test": (order[:held], N_TEST), "train": (order[held:], n_train)}
    tables = {}
    for split, (rows, n) in parts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        table = tables[split] = []
        for i in range(n):
            image, label = make([images[row] for row in rows], rng)
            cv2.imwrite(str(folder / split / f"{split}{i}.png"), image)
            table.append((f"{split}{i}.png", label))
        write(folder.parent / "answers.csv" if split == "test" else folder / "train.csv", table)
    write(folder / "sample_submission.csv", [(name, label) for (name, _), (_, label) in zip(
        tables["test"], tables["train"], strict=False)])


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("ID", "target"), *rows])


# ---------------------------------------------------------------- the plain script

def reference(folder, rows, test, targets, loss, flip, n_epochs):
    """Logits (n, C) of the test images by a network trained on `rows` [(name, ..)] and targets."""
    seed_everything("reference")
    images = torch.stack([read(folder / "train" / name) for name in rows])
    network = timm.create_model(NETWORK, num_classes=targets.shape[1])
    steps = n_epochs * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    for _ in range(n_epochs):
        for batch in torch.randperm(len(rows)).split(BATCH):
            shown = images[batch]
            if flip and torch.rand(()) < 0.5:
                shown = shown.flip(3)
            optimizer.zero_grad()
            objective = loss(network(shown), targets[batch])
            getattr(objective, "back" + "ward")()      # the one training step is the program's
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(torch.stack([read(folder / "test" / name) for name in names]))
                          for names in np.array_split(test, 8)]).numpy()


def read(path):
    """(3, S, S), the whole image on grey, normalised."""
    image = cv2.imread(str(path))[:, :, ::-1]
    scale = SIZE_PX / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    square = np.full((SIZE_PX, SIZE_PX, 3), 124, dtype=np.uint8)
    top, left = ((SIZE_PX - side) // 2 for side in image.shape[:2])
    square[top:top + image.shape[0], left:left + image.shape[1]] = image
    return (torch.from_numpy(square.transpose(2, 0, 1).copy()) / 255 - 0.45) / 0.25


# ---------------------------------------------------------------- both

def product(folder, out, metric, n_epochs):
    """(final_results.json, the run's folder) of the program."""
    run = out / f"run-{metric}"
    settings = [f"model.backbones={NETWORK}", f"data.image_size_px={SIZE_PX}", "data.run_folds=1",
                f"optim.epochs={n_epochs}", f"optim.batch_size={BATCH}", "predict.tta_views=1",
                "augment.policy=standard", "model.pretrained=off", "runtime.measure=off"]
    status = train(["--data_path", str(folder), "--results_dir", str(out), "--experiment_name",
                    run.name, "--metric", metric, "--set", *settings])
    assert status == 0
    return json.loads((run / "final_results.json").read_text()), run


def of_fold(run):
    """Names of the images that the run's fold 0 trained on."""
    folds = load_folds(next(run.glob("folds-*")) / "folds.csv")
    return folds.sample_id[folds.fold != 0].tolist()


def compare_sets(folder, out, labels, answers, n_epochs):
    classes = sorted({c for text in labels.values() for c in text.split()})
    final, run = product(folder, out, "samples_f1", n_epochs)

    def flags(texts):
        return np.array([[float(c in text.split()) for c in classes] for text in texts])

    test = Predictions.load(run / final["predictions"]["test"])
    truth = flags([answers[name] for name in test.sample_id.tolist()])
    rows = of_fold(run)
    logits = reference(folder, rows, test.sample_id.tolist(),
                       torch.tensor(flags([labels[name] for name in rows]), dtype=torch.float32),
                       F.binary_cross_entropy_with_logits, True, n_epochs)
    auc, f1 = SET_METRICS["auc"], SET_METRICS["samples_f1"]
    written = {row["ID"]: row["target"] for row in csv_rows(run / final["submission"])}
    print(f"AUC: program {auc(truth, test.probs):.4f}, reference {auc(truth, logits):.4f}")
    print(f"samples F1 of the program: thresholds "
          f"{f1(truth, flags([written[name] for name in test.sample_id.tolist()])):.4f}, "
          f"0.5 {f1(truth, test.probs):.4f}; expected {final['score']['expected']:.4f} "
          f"{final['score']['expected_ci90']}")


def compare_angles(folder, out, labels, answers, n_epochs):
    final, run = product(folder, out, "rmse", n_epochs)
    rmse = NUMBER_METRICS["rmse"]
    names = list(answers)
    truth = np.array([[float(answers[name])] for name in names])
    rows = of_fold(run)
    targets = torch.tensor([[float(labels[name])] for name in rows])
    mean, deviation = targets.mean(0), targets.std(0)
    said = reference(folder, rows, names, (targets - mean) / deviation, F.smooth_l1_loss,
                     False, n_epochs) * deviation.numpy() + mean.numpy()
    written = {row["ID"]: float(row["target"]) for row in csv_rows(run / final["submission"])}
    own = np.array([[written[name]] for name in names])
    print(f"RMSE: program {rmse(truth, own):.3f}, reference {rmse(truth, said):.3f}; expected "
          f"{final['score']['expected']:.3f} {final['score']['expected_ci90']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kind", choices=("sets", "angle"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=1500, help="to train on (default 1500)")
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    folder = args.out / "contest"
    is_sets = args.kind == "sets"
    if not folder.exists():
        draw(pasted if is_sets else turned, args.data, folder, args.images)
    labels = {row["ID"]: row["target"] for row in csv_rows(folder / "train.csv")}
    answers = {row["ID"]: row["target"] for row in csv_rows(args.out / "answers.csv")}
    (compare_sets if is_sets else compare_angles)(folder, args.out, labels, answers,
                                                     args.epochs)


if __name__ == "__main__":
    main()
