"""The stages before the first fit: audit, weights, shift, folds -> Prepared."""
import math
import time
from dataclasses import replace

import numpy as np
import torch

from contest.audit import audit_contest, changed_images, load_audit, undecoded_formats
from contest.decoding import read_bytes
from contest.files import path_inside
from contest.intake import contest_digests
from data_loader import divided, load_folds, make_folds, save_folds
from ensemble.tasks import TASKS
from modeling.augment import plain_view
from modeling.compute import Compute, precisions
from modeling.network import build_network, with_padding
from modeling.norms import fused
from modeling.train import seed_everything
from modeling.weights import fetch_weights, weights_digest
from running.place import n_workers
from running.rounds import allowed_rounds
from running.run import Keys, Prepared
from shift.groups import make_groups
from shift.match import FEWEST, match_shift
from shift.report import ShiftReport
from system.machine import need_space, usable_cores
from system.stages import Stage, make
from utils import RunError, counted, digest_bytes, read_json, seed_of, write_json

CACHE_FACTOR = 1.25      # cached images over the network's input: room for zooms and turns
PROBE_SIZE_PX = 128      # input where pretrained features measure the shift
PADDING_SIZE_PX = 64     # and where batch norms tell the padding: tiny images are hardly enlarged
PROBE_IMAGES = 64
# of the time that is left then, which measuring the shift takes of a run that ends in minutes
SHIFT_SHARE = 0.35


def prepare(setup, log, may_measure=True):
    """The Prepared of a run. Each part is a stage, read if it is complete.

    With may_measure false: None unless the long ones, audit and shift, are complete.
    """
    file_digests = digests_of(setup)
    audit_stage = stage_of_audit(setup, file_digests)
    if not (may_measure or audit_stage.is_done):
        return None
    audit = audited(setup, audit_stage, file_digests, log)
    weights, digests = fetched_weights(setup, audit, log)

    shift_stage = stage_of_shift(setup, audit, audit_stage.key, weights, digests)
    if not (may_measure or shift_stage.is_done):
        return None
    shift = matched(setup, audit, weights, shift_stage, log)
    task = TASKS[audit.train.task]
    if not task.turns(setup.config):
        shift = shift.without_turns()
    folds_stage = stage_of_folds(setup, audit_stage.key)
    folds = folded(setup, audit, folds_stage, log)
    keys = Keys(audit_stage.key, shift_stage.key, folds_stage.key)
    rounds = allowed_rounds(setup.config, len(audit.test), log)
    return Prepared(replace(setup.config, rounds=rounds), setup.folder, audit, shift, folds,
                    weights, digests, keys, task)


# ---------------------------------------------------------------- audit

def loading_workers(setup):
    return n_workers(setup.config.runtime, setup.device, usable_cores())


def digests_of(setup):
    """`contest_digests` of the contest as it is now."""
    return contest_digests(setup.contest, loading_workers(setup))


def stage_of_audit(setup, digests):
    """The stage of the audit; its key digests every file of the contest.

    It also names formats without a decoder: their images are read once there is one. digests: by
    `digests_of`.
    """
    config = setup.config
    settings = {"near_duplicate_agreement": config.data.near_duplicate_agreement,
                "group_column": config.data.group_column, "n_folds": config.data.n_folds,
                "long_side_px": cache_side_px(config)}
    return Stage.of(setup.folder, "audit", version=5, settings=settings,
                    inputs=[*digests,
                            *undecoded_formats(setup.contest, loading_workers(setup))])


def cache_side_px(config):
    """Long side of a cached image."""
    return round(config.data.image_size_px * CACHE_FACTOR)


def audited(setup, stage, digests, log):
    """The Audit: every image was decoded once, and reduced. Its paths are those of today."""
    contest = setup.contest
    side_px = cache_side_px(setup.config)

    def build(folder):
        audit_contest(contest, setup.config.data, side_px, folder, usable_cores())
        if changed := changed_images(folder, contest.folder, digests[:-1]):
            raise RunError(f"{counted(changed, 'image')} changed or went away while the run read "
                           "them: put them back if they are gone, then run the same command again")

    if not stage.is_done:
        n_images = len(contest.train) + len(contest.test)
        need_space(setup.folder, 3 * side_px**2 * n_images, f"{n_images} reduced images")
    make(stage, build, log)
    audit = load_audit(stage.folder, contest.folder)
    audit = replace(audit, train=audit.train.with_paths_of(contest.train),
                    test=audit.test.with_paths_of(contest.test)).with_leaders()
    for problem in audit.problems:
        log.warn(problem.text)
    return audit


# ---------------------------------------------------------------- weights

def fetched_weights(setup, audit, log):
    """({backbone: WeightsSource on this machine}, {backbone: digest of its weights}).

    Each source also gets the padding that its weights were trained with, by its batch norms.
    """
    images = probe_images(audit)
    weights = {}
    digests = {}
    for name, source in setup.weights.items():
        source = fetch_weights(source)
        digests[name] = weights_digest(source)
        weights[name] = with_padding(source, images, setup.config.model)
        if weights[name].pad_type:
            log.say(f"weights: {name}'s were trained with TensorFlow's padding, so its layers pad "
                    "likewise")
    return weights, digests


def probe_images(audit):
    """Some training images (n, 3, S, S) uint8."""
    square = plain_view(PADDING_SIZE_PX, "crop")
    rows = np.random.default_rng(seed_of("probe")).permutation(len(audit.train))[:PROBE_IMAGES]
    images = np.stack([square(audit.train_pixels[row]) for row in rows])
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def pretrained_source(weights):
    """The first pretrained backbone, whose features help to measure; None if all are random."""
    return next((source for source in weights.values() if source.is_pretrained), None)


# ---------------------------------------------------------------- shift

def reads_test(config, audit):
    """Whether test images may be looked at to match them, and are there."""
    is_asked = config.augment.policy == "matched" and config.data.test_usage != "none"
    return is_asked and len(audit.test) > 0


def stage_of_shift(setup, audit, audit_key, weights, digests):
    """The stage of the measured shift."""
    config = setup.config
    source = pretrained_source(weights)
    settings = {"reads_test": reads_test(config, audit), "seed": config.seed,
                "augment": config.augment.policy != "none", "groups": config.augment.groups}
    if setup.ends_by < math.inf:
        settings["in_time"] = True      # rows of the search are an outcome of the run
    return Stage.of(setup.folder, "shift", version=12, settings=settings,
                    inputs=[audit_key, digests[source.model_name] if source else "none"])


def matched(setup, audit, weights, stage, log):
    """The ShiftReport: how test images differ, and what matches them.

    With `data.test_usage=none` only the training images are measured.
    """
    make(stage, lambda folder: write_json(
        folder / "shift.json", measure_shift(setup, audit, weights).to_json()), log)
    shift = ShiftReport.from_json(read_json(stage.folder / "shift.json"))
    for line in shift.describe():
        log.say(line)
    if warning := shift_warning(setup.config, audit, shift):
        log.warn(warning)
    return shift


def measure_shift(setup, audit, weights):
    """Measure the images at their own resolution; nothing with `augment.policy=none`."""
    config = setup.config
    train = audit.train
    if config.augment.policy == "none":
        return unmeasured_shift(train.kinds, len(train))
    test_paths = audit.test.path if reads_test(config, audit) else []
    seconds = max(1.0, SHIFT_SHARE * (setup.ends_by - time.perf_counter()))
    report = match_shift(train.path, train.kind, test_paths, seed=config.seed,
                         workers=usable_cores(), classes=train.kinds,
                         embed=make_embed(setup, pretrained_source(weights)),
                         groups=config.augment.groups, white_level=audit.white_level,
                         read=reader_of(audit), seconds=seconds)
    inside = {split: [path_inside(path, setup.contest.folder) for path in report.examples[split]]
              for split in ("train", "test") if split in report.examples}
    return replace(report, examples=report.examples | inside)


def reader_of(audit):
    """A function: path -> bytes of an image. RunError unless they are those that the audit saw."""
    sha256 = {}
    for catalog in (audit.train, audit.test):
        sha256.update(zip(catalog.path.tolist(), catalog.sha256.tolist(), strict=True))

    def read(path):
        data = read_bytes(path)
        if digest_bytes(data) != sha256[path]:
            raise RunError(f"{path} has changed, and the run has read it before: put it back as it "
                           "was, then run the same command again to continue")
        return data

    return read


def unmeasured_shift(classes, n_train):
    """The ShiftReport that says nothing: one group of all classes."""
    return ShiftReport(groups=make_groups(classes, [n_train], None, "off"))


def shift_warning(config, audit, shift):
    """Why the augmentation does not match the test set, or not for every image; '' if it does."""
    if config.augment.policy == "matched" and not reads_test(config, audit):
        reason = "data.test_usage=none" if len(audit.test) else "there are no test images"
        return f"the augmentation is not matched to the test set: {reason}"
    if reads_test(config, audit) and shift.auc_before is None:
        return (f"the augmentation is not matched to the test set: {len(audit.train)} training "
                f"and {len(audit.test)} test images, and a shift shows in {FEWEST} readable ones "
                "of each at the earliest")
    if shift.left_out:
        explained = max(0.0, shift.explained or 0.0)
        return ("the augmentation is not matched to the test set: what was found "
                f"({', '.join(shift.left_out)}) explains {explained:.0%} of how test images "
                "differ, too little to stand for it")
    if shift.trained_share < 1:
        return (f"the measured distortions explain {max(0.0, shift.explained):.0%} of how test "
                f"images differ, so that only {shift.trained_share:.0%} of the training images "
                "have them: compare the strips of images in report.html, and the score with --set "
                "augment.policy=standard")
    return ""


def make_embed(setup, source):
    """A function: images -> pooled pretrained features (n, D). None without pretrained weights."""
    if source is None:
        return None
    device = setup.device
    seed_everything("embed")
    network = fused(build_network(source.model_name, n_classes=2, image_size_px=PROBE_SIZE_PX,
                                  weights=source, model=setup.config.model).to(device))
    square = plain_view(PROBE_SIZE_PX, "letterbox")
    autocast = Compute(precisions(device)[-1]).autocast(device)

    @torch.inference_mode()
    def embed_batch(images):
        squares = torch.from_numpy(np.stack([square(image) for image in images]))
        with autocast():
            features = network.features(squares.permute(0, 3, 1, 2).to(device))
        return features.float().cpu().numpy()

    def embed(images):
        return np.concatenate([embed_batch(images[start:start + 32])
                               for start in range(0, len(images), 32)])

    return embed


# ---------------------------------------------------------------- folds

def stage_of_folds(setup, audit_key):
    config = setup.config
    return Stage.of(setup.folder, "folds", version=1, inputs=[audit_key],
                    settings={"n_folds": config.data.n_folds, "seed": config.seed})


def folded(setup, audit, stage, log):
    """The Folds of the training images."""
    config = setup.config
    make(stage, lambda folder: save_folds(
        make_folds(audit.train, config.data.n_folds, config.seed), folder / "folds.csv"), log)
    folds = load_folds(stage.folder / "folds.csv")
    if n_divided := len(divided(audit.train.group, folds.fold)):
        log.warn(f"the host's folds divide {n_divided} group(s) of near-duplicates or equal values "
                 "of a column: a fold validates what it trained on, and its score is too good")
    return folds
