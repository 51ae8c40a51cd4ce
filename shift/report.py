"""ShiftReport: what was measured of the shift, as JSON and as sentences."""
from dataclasses import dataclass, field, replace

from shift.distortions import DISTORTIONS, SYMMETRIES, ShiftPolicy
from shift.groups import ClassGroup
from utils import plain

# a policy that explains so much of the difference is for all training images; one that explains
# less, for as many fewer
EXPLAINED = 0.75
LEAST_EXPLAINED = 0.4      # below it nothing is matched


@dataclass(frozen=True)
class ShiftReport:
    """What was measured. All values are plain, so it is a JSON object as it stands."""

    policy: ShiftPolicy = field(default_factory=ShiftPolicy)
    natural_symmetries: tuple = ()                     # common to all groups
    groups: tuple[ClassGroup, ...] = ()                # each with a policy of its own
    auc_before: dict | None = None                     # value, ci90; None without test images
    auc_after: dict | None = None
    # energy distance from train and from matched images to the test images, 0: alike
    distance_before: float | None = None
    distance_after: float | None = None
    left_out: tuple[str, ...] = ()      # kinds that were read and explain too little
    # name -> train, test, matched: quantiles 10, 50, 90 %; auc
    statistics: dict = field(default_factory=dict)
    orientation: dict = field(default_factory=dict)    # symmetry -> share, ci90 in the test set
    examples: dict = field(default_factory=dict)       # train, test: paths; seed
    n_train: int = 0
    n_test: int = 0
    seconds: float = 0.0

    @property
    def is_empty(self):
        return self.policy.is_empty and all(g.policy.is_empty for g in self.groups)

    @property
    def trained_share(self):
        """Share of the training images that the policy is for.

        If much of the difference is left after matching, part of what was found stands for
        something else, so the network learns to do without it as well.
        """
        if self.is_empty or self.explained is None:
            return 1.0
        return round(min(1.0, max(0.0, self.explained) / EXPLAINED), 2)

    @property
    def explained(self):
        """How much of the distance to the test images the policy takes away, at most 1; None if
        nothing was compared, or symmetries alone, which the distance hardly shows."""
        if not self.distance_before:
            return None
        return 1 - self.distance_after / self.distance_before

    @property
    def symmetries(self):
        """The identity, the natural symmetries and those of the test images."""
        shown = [d.kind for d in self.policy.distortions if d.kind in SYMMETRIES]
        return ("identity", *dict.fromkeys([*self.natural_symmetries, *shown]))

    def without_turns(self):
        """This report without natural symmetries, for images whose answer turns with them."""
        groups = tuple(replace(g, policy=replace(g.policy, natural=())) for g in self.groups)
        return replace(self, groups=groups, natural_symmetries=(),
                       policy=replace(self.policy, natural=()))

    def to_json(self):
        return plain(self) | {"groups": plain([g.to_json() for g in self.groups])}

    @classmethod
    def from_json(cls, values):
        return cls(**(values | {
            "policy": ShiftPolicy.from_json(values["policy"]),
            "groups": tuple(ClassGroup.from_json(g) for g in values["groups"]),
            "natural_symmetries": tuple(values["natural_symmetries"]),
        }))

    def describe(self):
        """Sentences for the person who waits."""
        if len(self.groups) > 1:
            yield "augmentation groups: " + "; ".join(
                f"{g.name}: {len(g.classes)} classes, {g.n_images} images" for g in self.groups)
        policies = {g.style: g.policy for g in self.groups} or {"": self.policy}
        for styles, symmetry in shared_items(policies, lambda policy: policy.natural):
            yield f"natural symmetry of {styles or 'the training images'}: {symmetry}"
        if self.auc_before is None:
            return

        yield (f"train and test images are told apart with AUC {self.auc_before['value']:.2f}, "
               f"after matching {self.auc_after['value']:.2f} (0.5: alike)")
        for styles, d in shared_items(policies, lambda policy: policy.distortions):
            whose = f" of {styles}" if styles else ""
            values = "" if d.kind in SYMMETRIES else f" {d.low:.3g}..{d.high:.3g}"
            yield (f"test images{whose}: {d.kind}{values}, {d.probability:.0%} of them "
                   f"({DISTORTIONS[d.kind][2]}; {d.evidence})")
        if self.is_empty:
            yield "test images show no distortion that training images lack"


def shared_items(policies, items):
    """(names of the styles that have it, item) for each different item of {style: policy}.

    The names are "" if all styles have it.
    """
    for item in dict.fromkeys(item for policy in policies.values() for item in items(policy)):
        having = [style for style, policy in policies.items() if item in items(policy)]
        yield ("" if len(having) == len(policies) else ", ".join(having)), item
