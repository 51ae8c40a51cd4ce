"""A finished fit predicts: which images, in which views, with which statistics.

    inference = Inference(config, classes, place)
    network = inference.network(spec, source, compute, weights)
    loader = inference.loader({"test": (sample_id, pixels, transform)})
    views = inference.predict(spec, compute, network, loader, "test", views_for(("identity",), 1))
"""
import math
from dataclasses import dataclass, replace

import numpy as np

from config import Config
from data_loader import ImageDataset, SplitLoader
from ensemble.tasks import SINGLE, Task
from modeling.augment import plain_view, testlike_view
from modeling.compute import Compute
from modeling.inference import by_units, predict, read_features, save_views, views_for
from modeling.memory import Room
from modeling.network import build_network
from modeling.norms import adapted_to, fused, norm_statistics
from modeling.train import WEIGHTS, load_weights, write_tensors
from running.place import Place
from running.run import keep_warnings
from shift.groups import by_class
from system.log import Timer

PREDICT_BATCH_SIZE = 32
ADAPTED = "adapted.safetensors"      # in a prediction's folder: statistics of the test images
ADAPTED_IMAGES = 512
ADAPTED_BATCH_SIZE = 64


@dataclass(frozen=True)
class Inference:
    """How fits of these settings predict these classes at one place."""

    config: Config
    classes: tuple[str, ...]
    place: Place
    task: Task = SINGLE

    def network(self, spec, source, compute, weights):
        """The network of a finished fit, on the device. weights: the fit's file."""
        network = network_of(self.config, spec, self.classes, replace(source, path=""))
        load_weights(network, weights)
        plain = replace(compute, compiled=False)
        return plain.prepare(network.to(self.place.device))

    def loader(self, splits):
        """The SplitLoader of {split: (sample ids, PixelStore, transform or one per image)}."""
        datasets = {
            split: ImageDataset(pixels, sample_id, transform, (self.config.seed, "predict", split))
            for split, (sample_id, pixels, transform) in splits.items()}
        return SplitLoader(datasets, predict_batch_size(self.config), self.place.workers,
                           self.place.in_bursts)

    def predict(self, spec, compute, network, loader, split, views, adapted=None):
        """{view name: Predictions} of a loader's split; smaller batches where memory runs out."""
        return predict(network, loader.batches(split), loader.datasets[split].sample_id,
                       self.classes, split=split, source=source_of(spec), views=views,
                       room=self.room(loader, spec.title), adapted=adapted,
                       autocast=self.autocast(compute), decode=self.task.decode,
                       values=self.task.values)

    def autocast(self, compute):
        """How a forward pass computes: numbers in whole precision, which half would round."""
        return (Compute() if self.task.is_exact else compute).autocast(self.place.device)

    def features(self, backbone, compute, network, loader, split, views):
        """Features of a loader's split; smaller batches where memory runs out."""
        return read_features(network, loader.batches(split), loader.datasets[split].sample_id,
                             split=split, views=views, room=self.room(loader, backbone),
                             autocast=self.autocast(compute))

    def room(self, loader, title):
        """The Room for a loader's batches."""
        def told(text):
            self.place.log.warn(f"predicting with {title}: {text}, with the same results")

        return Room(loader.batch_size, self.place.device, told=told)


def network_of(config, spec, classes, source):
    """The network of a fit. A frozen one has a linear head, which reads the last stages too."""
    model = replace(config.model, head="linear") if spec.frozen else config.model
    return build_network(spec.backbone, n_classes=len(classes), weights=source, model=model,
                         image_size_px=config.data.image_size_px,
                         reads_stages=spec.frozen)


def source_of(spec):
    """What a fit's Predictions say that they come from."""
    return f"{spec.name}-fold{spec.fold}"


def predict_batch_size(config):
    """Larger than in training, as nothing is kept for a backward pass."""
    return max(PREDICT_BATCH_SIZE, config.optim.micro_batch_size)


def square_of(config):
    """How every image of a fit becomes square."""
    return {"image_size_px": config.data.image_size_px, "resize": config.data.resize}


def views_of(config, shift, with_adapted=False):
    """The views of a fit's predictions; with_adapted: also those of its adapted network."""
    return views_for(shift.symmetries, config.predict.tta_views,
                     turned=shift.policy.get("rotate") is not None, with_adapted=with_adapted)


# ---------------------------------------------------------------- what a fit predicts

def predicted_splits(prepared, spec):
    """`splits_of` what a fit predicts: the valid images of its fold and the test images."""
    return splits_of(prepared, prepared.folds.valid_rows(spec.fold))


def splits_of(prepared, rows):
    """{split: (sample ids, PixelStore, transform or one per image)} of rows of the training images
    and of all test images."""
    audit = prepared.audit
    plain = plain_view(**square_of(prepared.config))
    splits = {}
    if len(audit.test):
        splits["test"] = (audit.test.sample_id, audit.test_pixels, plain)
    if not len(rows):
        return splits

    valid = audit.train.take(rows)
    pixels = audit.train_pixels.take(rows)
    splits["valid"] = (valid.sample_id, pixels, plain)
    if not prepared.shift.is_empty:
        testlike = testlike_views(prepared, valid.kinds)
        splits["valid_testlike"] = (valid.sample_id, pixels, [testlike[k] for k in valid.kind])
    return splits


def testlike_views(prepared, classes):
    """One transform per class: its images distorted as its group's test images are."""
    return by_class(prepared.shift.groups, classes, lambda group: testlike_view(
        group.policy, native_scale=prepared.native_scale, **square_of(prepared.config)))


def adapting_split(prepared):
    """Some test images, if they differ from the training images: as `predicted_splits`, else {}."""
    if prepared.shift.is_empty:
        return {}
    audit = prepared.audit
    rows = np.random.default_rng(0).permutation(len(audit.test))[:ADAPTED_IMAGES]
    plain = plain_view(**square_of(prepared.config))
    return {"adapting": (audit.test.sample_id[rows], audit.test_pixels.take(rows), plain)}


def predict_fit(job, place, folder):
    """Leave valid.npz, valid_testlike.npz, test.npz of a FitJob: each its views and their mean."""
    prepared = job.prepared
    spec = job.spec
    inference = Inference(prepared.config, prepared.classes, place, prepared.task)
    source = prepared.weights[spec.backbone]
    weights = job.stages.training.folder / WEIGHTS
    network = inference.network(spec, source, job.compute, weights)
    splits = predicted_splits(prepared, spec)

    with Timer() as timer:
        loader = inference.loader(splits | adapting_split(prepared))
        adapted = adapted_to_test(spec, network, loader, place)
        if adapted:
            write_tensors(norm_statistics(adapted), folder / ADAPTED)
        network = fused(network)
        adapted = adapted and fused(adapted)
        views = views_of(prepared.config, prepared.shift, adapted is not None)
        for split in splits:
            predicted = inference.predict(spec, job.compute, network, loader, split, views, adapted)
            save_views(by_units(predicted, prepared.unit_of(split)), folder / f"{split}.npz")

    keep_warnings(place.log.warnings, folder)
    n_images = sum(len(ids) for ids, _, _ in splits.values())
    place.log.say(f"{job.title} {spec.title}: predicted {n_images} images x {len(views)} views, "
                  f"{timer.seconds:.0f} s", event="predicted", fit=spec.name, fold=spec.fold,
                  images=n_images, seconds=timer.seconds)


def adapted_to_test(spec, network, loader, place):
    """`adapted_to` the loader's split "adapting", None if it has none.

    Fewer images at a time where memory runs out.
    """
    if "adapting" not in loader.datasets:
        return None
    n_images = len(loader.datasets["adapting"])
    room = Room(ADAPTED_BATCH_SIZE, place.device, told=lambda text: place.log.warn(
        f"adapting {spec.title} to test images: {text}"))

    def adapt():
        n_batches = math.ceil(n_images / room.micro_batch_size)
        even = math.ceil(n_images / n_batches)      # each batch counts alike
        batches = loader.batches("adapting", even)
        return adapted_to(network, (batch.images.to(place.device) for batch in batches))

    return room.run_within_memory(adapt)
