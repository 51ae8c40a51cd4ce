"""Catalog: the samples of one split. Contest: its two catalogs and the form of its submission."""
from collections import Counter
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path

import numpy as np

from contest.files import path_inside
from contest.problems import Problem
from contest.submission import Form
from contest.targets import READINGS
from utils import UserError, first_few, seed_of

PROOF_IMAGES = 3
OPTIONAL = ("unit", "fold")      # fields of a Catalog


def as_strings(values):
    return np.asarray(values, dtype=str) if len(values) else np.zeros(0, dtype="<U1")


def titles_of(classes, names):
    """Class values, each with its name where that says more."""
    pairs = zip(classes, names, strict=True)
    return [value if value == name else f"{value} {name}" for value, name in pairs]


@dataclass(frozen=True, eq=False)
class Catalog:
    """n samples, sorted by id. All fields up to group have shape (n,).

    path: absolute, '' = no file. sha256: of the file's bytes, '' = not read. label: index in
    classes, -1 = missing. group: samples with the same value stay in one fold.

    task: what labels are, of READINGS. target (n, C) float32: what is learnt, None where the label
    says it all. With a target that gives an image no one class, equal labels are equal targets.

    unit (n,): the id that an image is one of several of, None where each image has its own id. The
    images of a unit stay in one fold; what is predicted of them is averaged, under the unit's id.
    fold (n,): the host's fold of each image, -1 for those that are always trained on; None if the
    host gives none.
    """

    sample_id: np.ndarray
    path: np.ndarray
    sha256: np.ndarray
    label: np.ndarray
    group: np.ndarray
    classes: tuple[str, ...]
    task: str = "single"
    target: np.ndarray | None = None
    unit: np.ndarray | None = None
    fold: np.ndarray | None = None

    def __post_init__(self):
        for name in ("sample_id", "path", "sha256", "group"):
            object.__setattr__(self, name, as_strings(getattr(self, name)))
        if self.unit is not None:
            object.__setattr__(self, "unit", as_strings(self.unit))
        if self.fold is not None:
            object.__setattr__(self, "fold", np.asarray(self.fold, dtype=np.int8))
        object.__setattr__(self, "label", np.asarray(self.label, dtype=np.int64))
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))

        per_sample = ("sample_id", "path", "sha256", "label", "group", *self.optional)
        lengths = {name: len(getattr(self, name)) for name in per_sample}
        if len(set(lengths.values())) > 1:
            raise UserError(f"the fields of a Catalog must have one length, got {lengths}")
        repeated = [i for i, count in Counter(self.sample_id.tolist()).items() if count > 1]
        if repeated:
            raise UserError(f"sample ids must be unique, but these repeat: {first_few(repeated)}")
        if np.any(self.sample_id[:-1] > self.sample_id[1:]):
            raise UserError("the samples of a Catalog must be sorted by id")
        if self.target is not None and self.target.shape != (len(self), len(self.classes)):
            raise UserError(f"the target of a Catalog must be of shape ({len(self)}, "
                            f"{len(self.classes)}), got {self.target.shape}")
        wrong = self.sample_id[(self.label < -1) | (self.label >= len(self.classes))]
        if len(wrong) and self.reading.one_class:
            raise UserError(
                f"labels must be -1 or an index of the {len(self.classes)} classes; wrong for "
                f"{first_few(wrong)}")

    def __len__(self):
        return len(self.sample_id)

    def take(self, rows):
        """The samples at `rows` (indices or a mask) as a Catalog. Rows must keep the order by id.
        """
        target = None if self.target is None else self.target[rows]
        more = {name: getattr(self, name)[rows] for name in self.optional}
        return Catalog(self.sample_id[rows], self.path[rows], self.sha256[rows], self.label[rows],
                       self.group[rows], self.classes, self.task, target, **more)

    @property
    def optional(self):
        """The fields of shape (n,) that only some contests have, and this one has."""
        return tuple(name for name in OPTIONAL if getattr(self, name) is not None)

    @property
    def unit_of(self):
        """{sample id: the id that predictions of it are averaged under}; {} if each has its own."""
        if self.unit is None:
            return {}
        return dict(zip(self.sample_id.tolist(), self.unit.tolist(), strict=True))

    @property
    def n_host_folds(self):
        """How many folds the host gives, 0 if it gives none."""
        return 0 if self.fold is None else int(self.fold.max()) + 1

    @property
    def reading(self):
        return READINGS[self.task]

    @property
    def truth(self):
        """What predictions are compared with: label (n,), or target (n, C) where there is one."""
        return self.label if self.target is None else self.target

    @property
    def known(self):
        """What teachers are judged by: label (n,) where an image shows one class, else target."""
        return self.label if self.reading.one_class else self.target

    @property
    def kinds(self):
        """Names of the kinds of images that may be augmented in their own way: the classes."""
        return self.classes if self.reading.one_class else ("images",)

    @property
    def kind(self):
        """(n,) int: the kind of each image, an index in `kinds`."""
        return self.label if self.reading.one_class else np.zeros_like(self.label)

    def of_class(self, k):
        """(n,) bool: the images that show class k."""
        if self.target is None:
            return self.label == k
        if self.reading.values == "numbers":
            return np.ones(len(self), dtype=bool)
        return self.label == k if self.reading.one_class else self.target[:, k] > 0

    def title(self, row, names):
        """The label of a sample for people. names: of the classes."""
        target = None if self.target is None else self.target[row]
        return self.reading.title(target, self.label[row], names)

    def with_paths_of(self, other):
        """These samples where another Catalog, which holds them all, says that they lie."""
        path_of = dict(zip(other.sample_id.tolist(), other.path.tolist(), strict=True))
        return with_fields(self, path=[path_of[i] for i in self.sample_id.tolist()])

    @classmethod
    def of(cls, rows, classes, task="single"):
        """From dicts with sample_id, path, and perhaps label, target, group, unit and fold, in any
        order.

        A sample without a group is a group of its own, or with its unit.
        """
        rows = sorted(rows, key=lambda r: r["sample_id"])
        targets = [r["target"] for r in rows if r.get("target") is not None]
        return cls(
            sample_id=[r["sample_id"] for r in rows],
            path=[r["path"] for r in rows],
            sha256=[""] * len(rows),
            label=[r.get("label", -1) for r in rows],
            group=[r.get("group") or r.get("unit") or r["sample_id"] for r in rows],
            classes=classes,
            task=task,
            target=np.stack(targets) if targets else None,
            **{name: [r[name] for r in rows] for name in OPTIONAL if rows and name in rows[0]},
        )


@dataclass(frozen=True, eq=False)
class Contest:
    """A contest folder as understood, before any image is decoded.

    class_names: of train.classes, in the same order. form: what the submission must look like.
    understood: how labels, classes and groups were read, one line each. fixes: contest.fixes.Fix
    of each image that label_fixes.csv names.
    """

    folder: Path
    train: Catalog
    test: Catalog
    class_names: tuple[str, ...]
    form: Form
    problems: tuple[Problem, ...]
    understood: tuple[str, ...]
    fixes: tuple = ()

    @property
    def submission_ids(self):
        return self.form.ids

    def for_metric(self, metric):
        """The contest with the form of its submission decided by the metric."""
        form = self.form.for_metric(metric.name, metric.answer, self.train.classes)
        return with_fields(self, form=form)

    def describe(self, metric, is_asked):
        """The five lines printed first, each with the flag that changes it.

        `form` must be decided by the metric; is_asked: whether the user chose the metric.
        """
        if is_asked:
            why = "as asked"
        elif self.form.has_class_columns and self.form.kind != "numbers":
            why = "by the submission's class columns"
        else:
            why = "the default"
        if metric.answer == "grade":
            why += ", classes are grades on a scale"
        return (*self.understood, f"metric:     {metric.name}, {why} (--metric NAME)",
                f"submission: {self.form.describe()}{self.averaged()} "
                "(--set data.sample_submission=FILE)")

    @property
    def unit_column(self):
        """The column of ids that have several images, '' if each image is predicted by itself."""
        has_units = self.train.unit is not None or self.test.unit is not None
        return self.form.id_column if has_units else ""

    def averaged(self):
        """That ids of the submission have several images, '' if each has one."""
        if self.test.unit is None or not len(self.test):
            return ""
        n_images = Counter(self.test.unit.tolist()).values()
        return f", each the mean over its {min(n_images)} to {max(n_images)} images"

    def proof(self):
        """A few random training images with their classes, in one line; the same ones each time."""
        n_train = len(self.train)
        rng = np.random.default_rng(seed_of("proof", n_train))
        rows = rng.choice(n_train, min(PROOF_IMAGES, n_train), replace=False)
        titles = titles_of(self.train.classes, self.class_names)
        images = []
        for row in sorted(rows.tolist()):
            name = path_inside(self.train.path[row], self.folder)
            images.append(f"{name} is {self.train.title(row, titles)}")
        return f"proof:      {'; '.join(images)}"
