"""A finished fit predicts: which images, in which views, with which statistics."""
import math
from dataclasses import replace

import numpy as np
from safetensors.torch import save_file

from data_loader import ImageDataset, SplitLoader
from modeling.augment import plain_view, testlike_view
from modeling.inference import predict, save_views, views_for
from modeling.memory import Room
from modeling.network import build_network
from modeling.norms import adapted_to, fused, norm_statistics
from modeling.train import load_weights
from running.run import WARNINGS
from shift.groups import by_class
from system.log import Timer
from utils import write_json

PREDICT_BATCH_SIZE = 32
ADAPTED = "adapted.safetensors"          # in that of its predictions: statistics of the test images
ADAPTED_IMAGES = 512
ADAPTED_BATCH_SIZE = 64


def keep_warnings(this, folder):
    """Leave in a stage's folder what was warned of while it was made, for a run that finds it done.
    """
    if this.said:
        write_json(folder / WARNINGS, this.said)


def square_of(config):
    """How every image of a fit becomes square."""
    return {"image_size_px": config.data.image_size_px, "resize": config.data.resize}


def predicted_splits(this, spec):
    """{split: (sample ids, PixelStore, transform or one per image)} of what a fit predicts."""
    audit = this.audit
    plain = plain_view(**square_of(this.config))
    splits = {"test": (audit.test.sample_id, audit.test_pixels, plain)} if len(audit.test) else {}
    if spec.fold is None:
        return splits
    rows = this.folds.valid_rows(spec.fold)
    valid = audit.train.take(rows)
    pixels = audit.train_pixels.take(rows)
    splits["valid"] = (valid.sample_id, pixels, plain)
    if not this.shift.is_empty:
        testlike = by_class(this.shift.groups, valid.classes, lambda group: testlike_view(
            group.policy, native_scale=this.native_scale, **square_of(this.config)))
        splits["valid_testlike"] = (valid.sample_id, pixels, [testlike[k] for k in valid.label])
    return splits


def predict_fit(this, spec, weights_folder, folder, title):
    """valid.npz, valid_testlike.npz and test.npz of a finished fit, each with its views and their
    mean."""
    network = new_network_with(this, spec, weights_folder)
    splits = predicted_splits(this, spec)
    with Timer() as timer:
        loader = split_loader(this, splits | adapting_split(this))
        adapted = adapted_to_test(this, spec, network, loader)
        if adapted:
            save_file(norm_statistics(adapted), folder / ADAPTED)
        network = fused(network)
        adapted = adapted and fused(adapted)
        views = views_of(this, adapted is not None)
        for split in splits:
            save_views(predict_images(this, spec, network, loader, split, views, adapted),
                       folder / f"{split}.npz")
    keep_warnings(this, folder)
    n = sum(len(ids) for ids, _, _ in splits.values())
    n_views = len(views)
    this.events.say(
        f"{title} {spec.title}: predicted {n} images x {n_views} views, {timer.seconds:.0f} s",
        event="predicted", fit=spec.name, fold=spec.fold, images=n, seconds=timer.seconds)


def views_of(this, with_adapted=False):
    """The views of a network alone, or of one with its adapted one."""
    return views_for(this.shift.symmetries, this.config.predict.tta_views,
                     turned=this.shift.policy.get("rotate") is not None, with_adapted=with_adapted)


def adapting_split(this):
    """Some test images, where they were found to differ from the training images: as
    `predicted_splits`, else {}."""
    if this.shift.is_empty:
        return {}
    audit = this.audit
    rows = np.random.default_rng(0).permutation(len(audit.test))[:ADAPTED_IMAGES]
    return {"adapting": (audit.test.sample_id[rows], audit.test_pixels.take(rows),
                         plain_view(**square_of(this.config)))}


def adapted_to_test(this, spec, network, loader):
    """`adapted_to` the loader's split "adapting", if it has one; fewer images at a time where
    memory runs out."""
    if "adapting" not in loader.datasets:
        return None
    n = len(loader.datasets["adapting"])
    room = Room(ADAPTED_BATCH_SIZE, this.device,
                told=lambda text: this.warn(f"adapting {spec.title} to test images: {text}"))

    def adapt():
        # batches of about one size: each counts alike
        even = math.ceil(n / math.ceil(n / room.micro_batch_size))
        return adapted_to(network,
                          (batch.images.to(this.device) for batch in loader.batches("adapting",
                                                                                    even)))

    return room.find(adapt)


def predict_batch_size(config):
    """Nothing is kept for a backward pass, so that more fits than in training."""
    return max(PREDICT_BATCH_SIZE, config.optim.micro_batch_size)


def split_loader(this, splits):
    """The SplitLoader of splits as `predicted_splits` gives them."""
    return SplitLoader({split: ImageDataset(pixels, sample_id, transform,
                                            (this.config.seed, "predict", split)) for split,
                        (sample_id, pixels, transform) in splits.items()},
                       predict_batch_size(this.config), this.workers, this.loads_in_bursts)


def predict_images(this, spec, network, loader, split, views, adapted=None):
    """{view name: Predictions} of a split of a SplitLoader in these views; in smaller batches where
    memory runs out."""
    room = Room(loader.batch_size, this.device, told=lambda text: this.warn(
        f"predicting with {spec.title}: {text}, with the same results"))
    return predict(network, loader.batches(split), loader.datasets[split].sample_id,
                   this.contest.train.classes, split=split, source=f"{spec.name}-fold{spec.fold}",
                   views=views, room=room, adapted=adapted,
                   autocast=this.compute_of(spec.backbone).autocast(this.device))


def new_network_with(this, spec, weights_folder):
    """The trained network of a finished fit."""
    network = build_network(spec.backbone, n_classes=len(this.contest.train.classes),
                            image_size_px=this.config.data.image_size_px, model=this.config.model,
                            weights=replace(this.weights[spec.backbone], path=""))
    load_weights(network, weights_folder)
    return replace(this.compute_of(spec.backbone), compiled=False).prepare(network.to(this.device))
