"""The stages before the first fit: audit, weights, shift, folds."""
import numpy as np
import torch

from contest.audit import audit_contest, load_audit
from contest.intake import contest_digests
from data_loader import load_folds, make_folds, save_folds
from modeling.augment import plain_view
from modeling.compute import Compute, precisions
from modeling.network import build_network, with_padding
from modeling.norms import fused
from modeling.train import seed_everything
from modeling.weights import fetch_weights, weights_digest
from shift.groups import make_groups
from shift.match import FEWEST, match_shift
from shift.report import ShiftReport
from system.machine import need_space, usable_cores
from system.stages import Stage
from utils import read_json, seed_of, write_json

# cached images are this much larger than the network's input, for zooms and turns
CACHE_FACTOR = 1.25
# input where pretrained features are used as they are: to measure the shift and the padding
PROBE_SIZE_PX = 128
PROBE_IMAGES = 64


# ---------------------------------------------------------------- audit, shift, folds

def audit_stage(this):
    data = this.config.data
    settings = {"near_duplicate_bits": data.near_duplicate_bits, "group_column": data.group_column,
                "n_folds": data.n_folds, "long_side_px": cache_side_px(this.config)}
    return Stage.of(this.folder, "audit", version=3, settings=settings,
                    inputs=contest_digests(this.contest, this.workers))


def cache_side_px(config):
    return round(config.data.image_size_px * CACHE_FACTOR)


def run_audit(this):
    stage = audit_stage(this)
    contest = this.contest
    if not stage.is_done:
        n_images = len(contest.train) + len(contest.test)
        need_space(this.folder, 3 * cache_side_px(this.config)**2 * n_images,
                   f"{n_images} reduced images")
    this.run_stage(stage, lambda folder: audit_contest(
        this.contest, this.config.data, cache_side_px(this.config), folder, usable_cores()))
    this.audit = load_audit(stage.folder, this.contest.folder)
    this.keys["audit"] = stage.key
    for problem in this.audit.problems:
        this.warn(problem.text)


def reads_test(this):
    return (this.config.augment.policy == "matched" and this.config.data.test_usage != "none"
            and len(this.audit.test) > 0)


def pretrained_source(this):
    """The first backbone with pretrained weights, whose features help to measure; None where all
    are random."""
    return next((s for s in this.weights.values() if s.is_pretrained), None)


def shift_stage(this):
    config = this.config
    source = pretrained_source(this)
    settings = {"reads_test": reads_test(this), "seed": config.seed,
                "augment": config.augment.policy != "none", "groups": config.augment.groups}
    return Stage.of(this.folder, "shift", version=7, settings=settings,
                    inputs=[this.keys["audit"], this.digests[source.model_name] if source
                            else "none"])


def run_shift(this):
    """Measure how test images differ and match it; with `data.test_usage=none` training images are
    measured alone."""
    config = this.config
    audit = this.audit
    stage = shift_stage(this)
    this.run_stage(stage, lambda folder: write_json(
        folder / "shift.json", measure_shift(this, config.augment.policy != "none").to_json()))
    this.shift = ShiftReport.from_json(read_json(stage.folder / "shift.json"))
    this.keys["shift"] = stage.key
    for line in this.shift.describe():
        this.events.say(line)
    if config.augment.policy == "matched" and not reads_test(this):
        this.warn("the augmentation is not matched to the test set: "
                  + ("data.test_usage=none" if len(audit.test) else "there are no test images"))
    elif reads_test(this) and this.shift.auc_before is None:
        this.warn(
            f"the augmentation is not matched to the test set: {len(audit.train)} training and {len(audit.test)} test "
            f"images, and a shift shows in {FEWEST} readable ones of each at the earliest"
        )
    elif this.shift.trained_share < 1:
        this.warn(
            "training images with the measured distortions are still told from test images (AUC "
            f"{this.shift.auc_after['value']:.2f}), so that only {this.shift.trained_share:.0%} of those trained on have "
            "them: compare the strips of images in report.html, and the score with --set augment.policy=standard"
        )


def measure_shift(this, wanted):
    """The ShiftReport of this contest's images, from files at their own resolution."""
    audit = this.audit
    if not wanted:
        return ShiftReport(groups=make_groups(audit.train.classes, [len(audit.train)], None, "off"))
    return match_shift(audit.train.path, audit.train.label, audit.test.path if reads_test(this)
                       else [], seed=this.config.seed, workers=usable_cores(),
                       embed=make_embed(this, pretrained_source(this)), classes=audit.train.classes,
                       groups=this.config.augment.groups)


def make_embed(this, source):
    """images -> pooled pretrained features (n, D), or None where all weights are random."""
    if source is None:
        return None
    seed_everything("embed")
    network = fused(build_network(source.model_name, n_classes=2, image_size_px=PROBE_SIZE_PX,
                                  weights=source, model=this.config.model).to(this.device))
    square = plain_view(PROBE_SIZE_PX, "letterbox")
    autocast = Compute(precisions(this.device)[-1]).autocast(this.device)

    @torch.inference_mode()
    def embed(images):
        def rows(batch):
            squares = torch.from_numpy(np.stack([square(image) for image in batch])).permute(0, 3,
                                                                                             1, 2)
            with autocast():
                return network.features(squares.to(this.device)).float().cpu().numpy()

        return np.concatenate([rows(images[i:i + 32]) for i in range(0, len(images), 32)])

    return embed


def run_folds(this):
    config = this.config
    stage = Stage.of(this.folder, "folds", version=1, settings={"n_folds": config.data.n_folds,
                                                                "seed": config.seed},
                     inputs=[this.keys["audit"]])
    this.run_stage(stage, lambda folder: save_folds(
        make_folds(this.audit.train, config.data.n_folds, config.seed), folder / "folds.csv"))
    this.folds = load_folds(stage.folder / "folds.csv")
    this.keys["folds"] = stage.key


def run_weights(this):
    """Get every backbone's weights onto this machine, their digests, and the padding they were
    trained with."""
    config = this.config
    square = plain_view(PROBE_SIZE_PX, "crop")
    rows = np.random.default_rng(seed_of("probe")).permutation(len(this.audit.train))[:PROBE_IMAGES]
    images = np.stack([square(this.audit.train_pixels[row]) for row in rows]).transpose(0, 3, 1, 2)
    for name, source in this.weights.items():
        source = fetch_weights(source)
        this.weights[name] = with_padding(source, torch.from_numpy(images.copy()), PROBE_SIZE_PX,
                                          config.model)
        this.digests[name] = weights_digest(source)
        if this.weights[name].pad_type:
            this.events.say(
                f"weights: {name} was trained with '{this.weights[name].pad_type}' padding, by its batch norms"
            )
