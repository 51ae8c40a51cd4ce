"""How long a run takes, by what a few steps cost, and what to leave out to end within a budget.

    cost = measured_cost(train, predict, teach, n_steps=4, n_images=(64, 192))
    plan = make_plan(works, {"convnext_atto": cost}, seconds_left=3600, weakest=["vit_tiny"])
    plan.epochs[spec], plan.seconds, plan.dropped

All durations are wall-clock seconds on this machine. Fits that share a GPU are taken to be as fast
as alone.
"""
import math
from dataclasses import dataclass, field, replace

from config import FitSpec
from modeling.train import SAVE_SECONDS
from system.log import Timer

FLOOR_SHARE = 0.4       # of the asked epochs: before fits become shorter, some are dropped


@dataclass(frozen=True)
class Cost:
    """What a backbone costs here.

    step_seconds: one optimiser step. image_seconds: one image in all views. start_seconds: all that
    comes once a fit. teach_seconds, weight_bytes: as a teacher, one batch and its weights.
    save_seconds: one checkpoint, written every SAVE_SECONDS if it is_large, else after each epoch.
    micro_batch_size, grad_checkpointing: what it fitted into memory with, 0 if unknown.
    """

    step_seconds: float
    image_seconds: float
    start_seconds: float
    peak_memory_bytes: int
    teach_seconds: float = 0.0
    weight_bytes: int = 0
    micro_batch_size: int = 0
    grad_checkpointing: int = 0
    save_seconds: float = 0.0
    is_large: bool = False

    def scaled(self, factor):
        """All durations times a factor."""
        return replace(self, **{name: factor * value for name, value in vars(self).items()
                                if name.endswith("_seconds")})


UNKNOWN = Cost(0.0, 0.0, 0.0, 0)


@dataclass(frozen=True)
class Work:
    """One fit to be done.

    n_steps: per epoch. n_epochs: asked for. n_images: predicted after it. teachers: backbones that
    it is distilled from.
    """

    spec: FitSpec
    n_steps: int
    n_epochs: int
    n_images: int
    teachers: tuple[str, ...] = ()

    @property
    def floor_epochs(self):
        return math.ceil(FLOOR_SHARE * self.n_epochs)

    def epoch_seconds(self, costs):
        """costs: {backbone: Cost}. A teacher without one is not trained and does not teach."""
        taught = sum(costs.get(name, UNKNOWN).teach_seconds for name in self.teachers)
        return self.n_steps * (costs.get(self.spec.backbone, UNKNOWN).step_seconds + taught)

    def peak_memory_bytes(self, costs):
        teachers = sum(costs.get(name, UNKNOWN).weight_bytes for name in self.teachers)
        return costs.get(self.spec.backbone, UNKNOWN).peak_memory_bytes + teachers

    def seconds(self, costs, n_epochs):
        cost = costs.get(self.spec.backbone, UNKNOWN)
        epoch = self.epoch_seconds(costs)
        saves = saves_of(n_epochs, epoch, cost.is_large) * cost.save_seconds
        return cost.start_seconds + n_epochs * epoch + saves + self.n_images * cost.image_seconds


def saves_of(n_epochs, epoch_seconds, is_large):
    """How many checkpoints a fit writes. They come after whole epochs, none after the last."""
    apart = math.ceil(SAVE_SECONDS / epoch_seconds) if is_large and epoch_seconds else 1
    return max(0, n_epochs - 1) // apart


@dataclass(frozen=True)
class Devices:
    """n GPUs or CPU cores.

    shares: {backbone: share of a device that its fit takes}, a whole one if not listed.
    busy: (seconds still to go, share) of the fits that run now.
    """

    n: int = 1
    shares: dict[str, float] = field(default_factory=dict)
    busy: tuple[tuple[float, float], ...] = ()

    def seconds(self, fits):
        """When the last of [(backbone, seconds)] ends. Each, in order, goes where it begins first.
        """
        devices = [[] for _ in range(self.n)]
        last = 0.0
        to_place = [(seconds, self.shares.get(backbone, 1.0)) for backbone, seconds in fits]
        for seconds, share in [*self.busy, *to_place]:
            begins = [earliest(placed, share) for placed in devices]
            begin = min(begins)
            devices[begins.index(begin)].append((begin + seconds, share))
            last = max(last, begin + seconds)
        return last


ALONE = Devices()      # one fit after the other


def earliest(placed, share):
    """When `share` of a device is free first. placed: (end, share) of what runs there."""
    taken = share
    for end, other in sorted(placed, reverse=True):
        taken += other
        if taken > 1 + 1e-9:
            return end
    return 0.0


@dataclass(frozen=True)
class Plan:
    """epochs: {FitSpec: epochs} of the fits to be done, in order. seconds: when the last one ends.

    dropped: a sentence per thing left out.
    """

    epochs: dict[FitSpec, int]
    seconds: float
    dropped: tuple[str, ...] = ()


def measured_cost(train, save, predict, teach, n_steps, n_images):
    """The Cost of a backbone.

    train() -> FitResult of two epochs of `n_steps`. save() -> whether the checkpoint that it writes
    is large. predict(n): predicts n images; n_images: two different numbers of them. teach(): what
    a teacher does in one step.
    """
    few, many = n_images
    with Timer() as training:
        result = train()
    seconds = [epoch["seconds"] for epoch in result.epochs]
    with Timer() as saving:
        is_large = save()
    saved = 0.0 if is_large else saving.seconds      # in training, between its two epochs
    predict(few)          # the first batches of their size also pay for memory
    timers = []
    for n in n_images:
        with Timer() as timer:
            predict(n)
        timers.append(timer.seconds)
    image = max(0.0, timers[1] - timers[0]) / (many - few)
    start = max(0.0, training.seconds - 2 * seconds[1] - saved) + max(
        0.0, timers[0] - few * image)
    teach()
    with Timer() as teaching:
        teach()
    last = result.epochs[-1]
    return Cost(seconds[1] / n_steps, image, start, last["peak_memory_bytes"], teaching.seconds,
                micro_batch_size=last["micro_batch_size"],
                grad_checkpointing=last["grad_checkpointing"], save_seconds=saving.seconds,
                is_large=is_large)


def make_plan(works, costs, seconds_left=math.inf, weakest=(), at_least_one=True, devices=ALONE):
    """The Plan of [Work] that ends within `seconds_left`.

    costs: {backbone: Cost}. weakest: backbones, the weakest first. devices: where they run.
    at_least_one: one fit stays whatever it takes, with one epoch if need be.

    Left out are, in this order: epochs, down to FLOOR_SHARE of them; folds, the last ones of the
    weakest backbones first, down to one each; backbones; of the last one refits, then later rounds.
    Time that is left over then goes to epochs.
    """
    kept = list(works)
    asked = {w.spec: w.n_epochs for w in works}
    seconds = total(kept, costs, asked, devices)
    if not works or seconds <= seconds_left:
        return Plan(asked, seconds)
    shortest = {w.spec: w.floor_epochs for w in works}
    for gone in in_order_of_dropping(works, weakest, at_least_one):
        if total(kept, costs, shortest, devices) <= seconds_left:
            break
        kept = [w for w in kept if w.spec not in gone]
    epochs = {w.spec: w.floor_epochs for w in kept}
    while (total(kept, costs, epochs, devices) > seconds_left
           and max(epochs.values(), default=1) > 1):
        epochs = {spec: max(1, n - 1) for spec, n in epochs.items()}
    epochs = lengthened(kept, costs, epochs, seconds_left, devices)
    return Plan(epochs, total(kept, costs, epochs, devices), tuple(differences(works, epochs)))


def longest_first(works, costs):
    """The works of each round from the longest to the shortest, refits after all folds.

    On several devices the last to end are then short ones.
    """
    return sorted(works, key=lambda work: (
        work.spec.round, work.spec.fold is None, -work.seconds(costs, work.n_epochs)))


def total(works, costs, epochs, devices):
    """Seconds until the last of the works ends. epochs: {FitSpec: epochs}."""
    return devices.seconds([(w.spec.backbone, w.seconds(costs, epochs[w.spec])) for w in works])


def in_order_of_dropping(works, weakest, at_least_one):
    """Sets of FitSpecs, in the order in which they go.

    First one fold of one backbone in all rounds at a time, then whole backbones. Of the last one
    its refits, its later rounds and, unless at_least_one, all.
    """
    backbones = list(dict.fromkeys(w.spec.backbone for w in works))
    order = [*(b for b in weakest if b in backbones),
             *(b for b in reversed(backbones) if b not in weakest)]
    for backbone in order:
        folds = sorted({w.spec.fold for w in works if w.spec.backbone == backbone
                        and w.spec.fold is not None})
        for fold in folds[:0:-1]:
            yield {w.spec for w in works if (w.spec.backbone, w.spec.fold) == (backbone, fold)}
    for backbone in order[:-1]:
        yield {w.spec for w in works if w.spec.backbone == backbone}
    rest = sorted((w.spec for w in works if w.spec.backbone == order[-1]),
                  key=lambda s: (s.round, s.fold is None, s.fold))
    yield {spec for spec in rest[at_least_one:] if spec.fold is None}
    yield {*rest[at_least_one:]}


def lengthened(works, costs, epochs, seconds_left, devices):
    """The epochs with what time is left: always one more for the fit with the smallest share."""
    epochs = dict(epochs)
    open_ = {w.spec: w for w in works}
    while open_:
        spec = min(open_, key=lambda s: epochs[s] / open_[s].n_epochs)
        more = {**epochs, spec: epochs[spec] + 1}
        if more[spec] > open_[spec].n_epochs or total(works, costs, more, devices) > seconds_left:
            del open_[spec]
        else:
            epochs = more
    return epochs


def differences(works, epochs):
    """Sentences: what of the works is shorter or missing."""
    for backbone in dict.fromkeys(w.spec.backbone for w in works):
        mine = [w for w in works if w.spec.backbone == backbone]
        gone = [w for w in mine if w.spec not in epochs]
        if len(gone) == len(mine):
            yield f"{backbone}: all its fits"
            continue
        lost = {w.spec.fold for w in gone} - {w.spec.fold for w in mine if w.spec in epochs}
        folds = sorted(fold for fold in lost if fold is not None)
        if folds:
            yield f"{backbone}: fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"
        if None in lost:
            yield f"{backbone}: its refit"
        shorter = [(epochs[w.spec], w.n_epochs) for w in mine
                   if epochs.get(w.spec, w.n_epochs) < w.n_epochs]
        if shorter:
            low = min(shorter)[0]
            high = max(shorter)[0]
            n_epochs = str(low) if low == high else f"{low} to {high}"
            yield f"{backbone}: {n_epochs} of {shorter[0][1]} epochs"
