"""ShiftReport: what was measured of the shift and found, as JSON and as sentences."""
from dataclasses import dataclass, field, fields

from shift.distortions import DISTORTIONS, SYMMETRIES, ShiftPolicy
from shift.groups import ClassGroup
from utils import plain

# adversarial AUC after matching, above which the policy is not trusted with every training image
UNEXPLAINED_AUC = 0.9
UNEXPLAINED_SHARE = 0.5    # of them then get it (benchmarks/RESULTS.md)


@dataclass(frozen=True)
class ShiftReport:
    """What was measured and found; plain values only, so that it is a JSON object as it stands."""

    policy: ShiftPolicy = field(default_factory=ShiftPolicy)
    natural_symmetries: tuple = ()       # of all groups
    groups: tuple[ClassGroup, ...] = ()  # each with the policy of its own
    auc_before: dict | None = None       # value, ci90; None where no test images were read
    auc_after: dict | None = None
    # name -> train, test, matched: quantiles 10, 50, 90 %; auc
    statistics: dict = field(default_factory=dict)
    # symmetry -> share, ci90 among the test images
    orientation: dict = field(default_factory=dict)
    examples: dict = field(default_factory=dict)       # train, test: paths; seed
    n_train: int = 0
    n_test: int = 0
    seconds: float = 0.0

    @property
    def is_empty(self):
        return all(policy.is_empty for policy in (self.policy, *(g.policy for g in self.groups)))

    @property
    def trained_share(self):
        """Share of the training images that the policy is for: where the test images are easily
        told apart after matching too, part of what was found may stand for something else, and
        doing without it is taught as well."""
        is_apart = not self.is_empty and self.auc_after is not None and self.auc_after[
            "value"] > UNEXPLAINED_AUC
        return UNEXPLAINED_SHARE if is_apart else 1.0

    @property
    def symmetries(self):
        """Identity, the natural symmetries and those that the test images show."""
        shown = [d.kind for d in self.policy.distortions if d.kind in SYMMETRIES]
        return ("identity", *dict.fromkeys([*self.natural_symmetries, *shown]))

    def to_json(self):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain(values | {"policy": self.policy.to_json(),
                               "groups": [g.to_json() for g in self.groups]})

    @classmethod
    def from_json(cls, values):
        return cls(**(values | {"policy": ShiftPolicy.from_json(values["policy"]),
                                "groups": tuple(ClassGroup.from_json(g) for g in values["groups"]),
                                "natural_symmetries": tuple(values["natural_symmetries"])}))

    def describe(self):
        """Sentences for the person who waits."""
        if len(self.groups) > 1:
            yield "augmentation groups: " + "; ".join(
                f"{g.name}: {len(g.classes)} classes, {g.n_images} images" for g in self.groups)
        looks = {g.look: g.policy for g in self.groups} or {"": self.policy}
        for names, symmetry in shared_items(looks, lambda policy: policy.natural):
            yield f"natural symmetry of {names or 'the training images'}: {symmetry}"
        if self.auc_before is None:
            return
        yield (f"train and test images are told apart with AUC {self.auc_before['value']:.2f}, "
               f"after matching {self.auc_after['value']:.2f} (0.5: alike)")
        for names, d in shared_items(looks, lambda policy: policy.distortions):
            values = "" if d.kind in SYMMETRIES else f" {d.low:.3g}..{d.high:.3g}"
            yield (
                f"test images{f' of {names}' if names else ''}: {d.kind}{values}, {d.probability:.0%} of them "
                f"({DISTORTIONS[d.kind][2]}; {d.evidence})"
            )
        if self.is_empty:
            yield "test images show no distortion that training images lack"


def shared_items(looks, items):
    """(the looks that have it, item) for each different item of {look: policy}; no names for what
    all have."""
    for item in dict.fromkeys(item for policy in looks.values() for item in items(policy)):
        having = [look for look, policy in looks.items() if item in items(policy)]
        yield ("" if len(having) == len(looks) else ", ".join(having)), item
