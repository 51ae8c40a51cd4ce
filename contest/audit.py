"""One look at every image: digests, problems, near-duplicates, and the cache of reduced pixels.

    audit_contest(contest, DataConfig(), 320, folder, workers=2)    # decodes every image once
    # usable samples only, near-duplicates grouped
    audit = load_audit(folder, contest.folder)
    audit.train_pixels[0]                                           # uint8 (H, W, 3) RGB

Every fit reads the cache. Letters: n samples, H x W pixels.
"""
from collections import Counter
from dataclasses import dataclass, fields
from dataclasses import replace as with_fields
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from contest.catalog import OPTIONAL, Catalog, as_strings
from contest.decoding import (
    IMAGE_FORMATS,
    UNREADABLE,
    WANTED_FORMATS,
    WHITE_LEVEL,
    decode,
    needs_decoder,
    read_bytes,
)
from contest.duplicates import (
    FLAT_LEVELS,
    equal_rows,
    joined_groups,
    near_duplicates,
    train_test_twins,
)
from contest.files import path_inside
from contest.intake import digest_or_empty
from contest.pixels import PixelStore, PixelWriter, shrunk
from contest.problems import Findings, Problem
from system.machine import is_out_of_memory
from system.parallel import parallel_map
from utils import (
    NoRoom,
    counted,
    csv_rows,
    csv_text,
    digest_bytes,
    quoted_cell,
    read_json,
    unquoted_cell,
    write_atomic,
    write_json,
)

THUMBNAIL_PX = 32
CLIPPED_LEVELS = (5, 250)        # at or beyond them a level may have been cut off
FEWER_BITS = (8, 10, 12, 14)     # that 16-bit files may hold
CONTRADICTED = "equal files with different labels"      # why they are left out
TARGET = "target_train.npy"      # where labels are more than a class
CATALOG_COLUMNS = ("sample_id", "path", "sha256", "label", "group", "left_out")


# ---------------------------------------------------------------- one look at every image

class Look(NamedTuple):
    """What one image shows.

    reason: why it is unusable, '' = fine. thumbnail: grey. is_flat: it is a blank page.
    n_clipped: pixels of the thumbnail that are about black or white. largest_level: of a 16-bit
    grey image, 0 for others.
    """

    reason: str
    sha256: str = ""
    size_px: tuple[int, int] = (0, 0)
    thumbnail: np.ndarray = np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    is_flat: bool = True
    n_clipped: int = 0
    largest_level: int = 0


def look_at(path, row, writer, long_side_px, white_level):
    """Reads, digests, decodes and shrinks one image. Its pixels go to the writer.

    NoRoom names the image for which memory is too short.
    """
    if not path:
        return Look("no file")
    sha256 = ""
    try:
        data = read_bytes(path)
        sha256 = digest_bytes(data)
        rgb, size_px, largest_level = decode(data, long_side_px, white_level)
    except ValueError as error:
        return Look(str(error), sha256)
    except (MemoryError, OSError, RuntimeError) as error:      # memory runs out as any of them
        if not is_out_of_memory(error):
            raise
        raise NoRoom(
            f"there was not enough memory to read {path} ({str(error) or type(error).__name__}): "
            "close other programs, then run the same command again to continue; if that never "
            "helps, the file is damaged: remove it") from None

    image = shrunk(rgb, long_side_px)
    writer.write(row, image)
    return look_of(image, sha256, size_px, largest_level)


def look_of(image, sha256, size_px, largest_level=0):
    """The Look at a readable image (H, W, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    is_flat = thumbnail.std() < FLAT_LEVELS
    low, high = CLIPPED_LEVELS
    n_clipped = np.count_nonzero((thumbnail <= low) | (thumbnail >= high))
    return Look("", sha256, size_px, thumbnail, is_flat, n_clipped, largest_level)


@dataclass(frozen=True, eq=False)
class Looks:
    """The looks at n images, one array per field of Look.

    reason, sha256 (n,) str; size_px (n, 2); thumbnail (n, 32, 32); is_flat (n,) bool; n_clipped,
    largest_level (n,) int.
    """

    reason: np.ndarray
    sha256: np.ndarray
    size_px: np.ndarray
    thumbnail: np.ndarray
    is_flat: np.ndarray
    n_clipped: np.ndarray
    largest_level: np.ndarray

    @classmethod
    def of(cls, looks):
        n = len(looks)
        return cls(
            reason=as_strings([k.reason for k in looks]),
            sha256=as_strings([k.sha256 for k in looks]),
            size_px=np.array([k.size_px for k in looks], dtype=np.int64).reshape(n, 2),
            thumbnail=np.array([k.thumbnail for k in looks]).reshape(n, THUMBNAIL_PX, THUMBNAIL_PX),
            is_flat=np.array([k.is_flat for k in looks], dtype=bool),
            n_clipped=np.array([k.n_clipped for k in looks], dtype=np.int64),
            largest_level=np.array([k.largest_level for k in looks], dtype=np.int64),
        )

    def with_rows(self, rows, others):
        """These looks, with `others` in place of those at `rows`."""
        changed = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, values in changed.items():
            values[rows] = getattr(others, name)
        return Looks(**changed)

    @property
    def is_readable(self):
        return self.reason == ""


def look_at_all(catalog, path, long_side_px, workers, description, white_level=WHITE_LEVEL):
    """Looks at all images of a catalog, in parallel. Their pixels go to path.bin and path.npz."""
    return looks_at(catalog, range(len(catalog)), PixelWriter(path, len(catalog)), long_side_px,
                    workers, description, white_level)


def looks_at(catalog, rows, pixels, long_side_px, workers, description, white_level):
    """The Looks at some rows of a catalog. pixels: a PixelWriter."""
    def look(row):
        return look_at(str(catalog.path[row]), row, writer, long_side_px, white_level)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)    # the images are spread over the cores instead
    try:
        with pixels as writer:
            return Looks.of(parallel_map(look, rows, workers, description))
    finally:
        cv2.setNumThreads(threads)


def white_level_of(looks):
    """The level that is white in all 16-bit images, by the largest of them: 2^bits - 1."""
    largest = max((int(k.largest_level.max(initial=0)) for k in looks), default=0)
    levels = (2**bits - 1 for bits in FEWER_BITS)
    return next((level for level in levels if 0 < largest <= level), WHITE_LEVEL)


def undecoded_formats(contest, workers):
    """The formats of the contest's files that this machine has no decoder for, sorted."""
    if set(IMAGE_FORMATS) == set(WANTED_FORMATS):
        return []
    paths = [path for path in (*contest.train.path.tolist(), *contest.test.path.tolist()) if path]
    return sorted({*parallel_map(needs_decoder, paths, workers)} - {""})


def look_at_both(contest, folder, long_side_px, workers):
    """(Looks at the training images, at the test images, the white level of 16-bit images).

    Where 16-bit images hold fewer bits, they are read again in that one range.
    """
    splits = {"train": (contest.train, "training"), "test": (contest.test, "test")}
    looks = {split: look_at_all(catalog, folder / f"pixels_{split}", long_side_px, workers,
                                f"audit: {noun} images")
             for split, (catalog, noun) in splits.items()}
    white_level = white_level_of(looks.values())
    if white_level < WHITE_LEVEL:
        for split, (catalog, noun) in splits.items():
            rows = np.flatnonzero(looks[split].largest_level)
            again = looks_at(catalog, rows, PixelWriter.again(folder / f"pixels_{split}"),
                             long_side_px, workers, f"audit: 16-bit {noun} images", white_level)
            looks[split] = looks[split].with_rows(rows, again)
    return looks["train"], looks["test"], white_level


# ---------------------------------------------------------------- the stage

def what_labels_say(catalog):
    """(n,) int: equal where two samples have the same label, or the same row of the target."""
    if catalog.target is None:
        return catalog.label
    return np.unique(catalog.target, axis=0, return_inverse=True)[1].ravel()


def audit_contest(contest, data, long_side_px, folder, workers):
    """Decodes every image once and writes what `load_audit` reads into `folder`.

    Files: audit.json, catalog_train.csv, catalog_test.csv, pixels_train and pixels_test (.bin +
    .npz, rows as in the catalog, long side at most `long_side_px`). data: DataConfig. UserError
    with all problems if too little is left to train on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    findings = Findings()
    train, test, white_level = look_at_both(contest, folder, long_side_px, workers)
    report_unreadable(contest, train, test, findings)
    report_white_level(white_level, train, test, findings)

    # equal files with different labels are left out
    copies = equal_rows(train.sha256, train.is_readable)
    said = what_labels_say(contest.train)
    contradicted = [rows for rows in copies if len(set(said[rows].tolist())) > 1]
    usable = train.is_readable.copy()
    usable[[row for rows in contradicted for row in rows]] = False
    pixels = PixelStore.open(folder / "pixels_train")
    pixels = pixels.concat(PixelStore.open(folder / "pixels_test"))
    near, is_upright = near_duplicates(train, test, pixels, data.near_duplicate_agreement, workers)
    of_train = (near < len(contest.train)).all(axis=1)
    of_train[of_train] = usable[near[of_train]].all(axis=1)
    near_train = near[of_train & is_upright]
    turned = near[of_train & ~is_upright]
    report_copies(contest.train, copies, contradicted, near_train, turned, findings)
    twins = train_test_twins(contest, train, test, near[is_upright])
    report_twins(twins, findings)

    # images of the same picture stay in one fold
    same = [*copies, *near_train.tolist()]
    same_fold = [*same, *turned.tolist(), *rows_of_units(contest.train, usable)]
    group = joined_groups(contest.train.group, usable, same_fold)
    group, divided = divided_classes(contest.train, group, usable, data.n_folds)
    report_divided([contest.train.classes[k] for k in divided], findings)
    report_classes(contest, train, usable, group, data.n_folds, findings)

    ids = contest.train.sample_id
    pictures = equal_rows(joined_groups(ids, usable, same), usable)
    summary = {
        **summary_of(contest, train, test, usable, group),
        "n_exact_duplicates": sum(map(len, copies)),
        "n_near_duplicate_pairs": len(near_train),
        "n_turned_pairs": len(turned),
        "twins": twins,
        "long_side_px": long_side_px,
        "white_level": white_level,
        "same_pictures": [ids[rows].tolist() for rows in pictures],
    }
    left_out = np.where(train.is_readable, np.where(usable, "", CONTRADICTED), train.reason)
    write_catalog(folder / "catalog_train.csv",
                  with_fields(contest.train, sha256=train.sha256, group=group), left_out,
                  contest.folder)
    write_catalog(folder / "catalog_test.csv", with_fields(contest.test, sha256=test.sha256),
                  test.reason, contest.folder)
    write_json(folder / "audit.json", {"problems": findings.problems, "summary": summary,
                                       **written_target(contest.train, folder)})
    findings.stop_if_fatal()


def rows_of_units(catalog, usable):
    """Lists of the usable rows of each id that has several."""
    return [] if catalog.unit is None else equal_rows(catalog.unit, usable)


def written_target(catalog, folder):
    """Write what labels say beyond a class, if they do; returns what audit.json says of classes."""
    if catalog.target is None:
        return {"classes": catalog.classes}
    np.save(folder / TARGET, catalog.target)
    return {"classes": catalog.classes, "task": catalog.task}


def report_unreadable(contest, train, test, findings):
    """Warnings that name the unreadable images of each split and the reasons."""
    for split, catalog, looks, consequence in (
        ("training", contest.train, train, "they are left out"),
        ("test", contest.test, test, "their submission rows get the class prior"),
    ):
        rows = np.flatnonzero(~looks.is_readable & (catalog.path != ""))
        if len(rows):
            named = [f"{catalog.sample_id[row]} ({looks.reason[row]})" for row in rows]
            findings.warn(f"unreadable_{split}_image",
                          f"{counted(named, f'{split} image')} cannot be decoded: {consequence}",
                          catalog.sample_id[rows])


def report_white_level(white_level, train, test, findings):
    """A warning where 16-bit images hold fewer bits."""
    if white_level < WHITE_LEVEL:
        n = np.count_nonzero(train.largest_level) + np.count_nonzero(test.largest_level)
        findings.warn(
            "fewer_bits",
            f"its 16-bit images hold {white_level.bit_length()} bits: {white_level} becomes white "
            f"in each ({n} in all), and in images that are predicted later",
        )


def report_copies(catalog, copies, contradicted, near, turned, findings):
    """Warnings for training images that show the same picture.

    turned: pairs mirrored or turned by 90 or 180 degrees. Their labels may rightly differ.
    """
    label = what_labels_say(catalog)

    def warn(kind, rows, text):
        ids = catalog.sample_id[rows]
        if len(ids):
            findings.warn(kind, f"{counted(ids, 'training image')} {text}", ids)

    warn("exact_duplicates", [row for rows in copies if rows not in contradicted for row in rows],
         "with equal bytes: kept, each set in one fold")
    warn("contradicted_image", [row for rows in contradicted for row in rows],
         "with equal bytes but different labels: all are left out")
    warn("near_duplicates", np.unique(near),
         "are near-duplicates of others: each set stays in one fold")
    warn("near_duplicate_labels", np.unique(near[label[near[:, 0]] != label[near[:, 1]]]),
         "are near-duplicates of images with another label: kept, look at them")
    warn("turned_copies", np.unique(turned),
         "are others mirrored or turned: each set stays in one fold")


def report_twins(twins, findings):
    """Warnings for test images that show the same picture as a training image."""
    for kind, words in (("exact", "the same file"), ("near", "a near-duplicate")):
        found = [f"{a} = {b}" for a, b, k in twins if k == kind]
        if found:
            findings.warn(
                f"{kind}_twins",
                f"{counted(found, 'pair')} of a training image and a test image that is {words}: "
                "reported only",
                sorted({b for _, b, k in twins if k == kind}),
            )


def report_classes(contest, looks, usable, group, n_folds, findings):
    """Problems of the classes that the usable images leave."""
    classes = contest.train.classes
    shows = [contest.train.of_class(k) & usable for k in range(len(classes))]
    counts = np.array([mine.sum() for mine in shows])
    if not usable.any():
        reasons = Counter(reason for reason in looks.reason.tolist() if reason)
        why = "".join(f" ({reason})" for reason, _ in reasons.most_common(1))
        findings.fail(
            "no_usable_images",
            f"none of the {len(usable)} training images can be used{why}: check that the files are "
            "complete",
        )
    elif (counts > 0).sum() < min(2, len(classes)):
        findings.fail(
            "too_few_classes",
            f"training needs usable images of at least 2 classes, got {(counts > 0).sum()}",
        )
    gone = [c for c, count in zip(classes, counts, strict=True) if count == 0]
    if gone and usable.any():
        findings.warn("class_without_images",
                      f"{counted(gone, 'class')} without a usable training image: never predicted",
                      gone)
    n_groups = [len(set(group[mine].tolist())) for mine in shows]
    small = [c for c, n in zip(classes, n_groups, strict=True) if 0 < n < n_folds]
    if small:
        fewest = min(n for n in n_groups if n)
        fewer = f"--set data.n_folds={fewest} makes fewer" if fewest > 1 else "add images of them"
        findings.warn(
            "small_class",
            f"{counted(small, 'class')} with fewer images or groups than the {n_folds} folds: "
            f"missing from some folds ({fewer})",
            small,
        )


def divided_classes(catalog, group, usable, n_folds):
    """(group (n,), classes): `group` with that of each class that lies in one group divided.

    Such a class, one video or one patient, would lie in one fold as a whole: its fold validates
    what it never trained on. Its images become `n_folds` groups of neighbours by id.
    """
    label = catalog.label
    group = group.astype(object)
    divided = []
    if not catalog.reading.one_class or catalog.optional:      # units and the host's folds stay
        return as_strings(group), divided
    for k in np.unique(label[usable]).tolist():
        rows = np.flatnonzero(usable & (label == k))
        if len(rows) < 2 or len(set(group[rows].tolist())) > 1:
            continue
        divided.append(k)
        for part, few in enumerate(np.array_split(rows, min(n_folds, len(rows)))):
            group[few] = [f"{name} of class {k}, part {part}" for name in group[few]]
    return as_strings(group), divided


def report_divided(classes, findings):
    """A warning for classes that lie in one group each."""
    if classes:
        findings.warn(
            "divided_class",
            f"{counted(classes, 'class')} each in one group (a video, a patient, near-duplicates): "
            "a fold that held it whole would validate what it never trained on, so its images are "
            "divided over the folds and its scores are too good",
            classes,
        )


def summary_of(contest, train, test, usable, group):
    """Numbers for the report: counts, quantiles of sizes, groups."""
    classes = contest.train.classes
    counts = [int((contest.train.of_class(k) & usable).sum()) for k in range(len(classes))]
    sizes = Counter(group[usable].tolist())
    fixes = {"label_fixes": [fix._asdict() for fix in contest.fixes]} if contest.fixes else {}
    return {
        **fixes,
        "n_train": int(usable.sum()),
        "n_train_left_out": int((~usable).sum()),
        "n_test": int(test.is_readable.sum()),
        "n_test_unreadable": int((~test.is_readable).sum()),
        "class_names": contest.class_names,
        "class_counts": dict(zip(classes, counts, strict=True)),
        "size_px": {"train": size_quantiles(train), "test": size_quantiles(test)},
        "groups": {"n_groups": len(sizes), "n_shared": sum(n > 1 for n in sizes.values()),
                   "largest": max(sizes.values(), default=0)},
        "submission_ids": contest.submission_ids,
        "understood": contest.understood,
    }


def size_quantiles(looks):
    """Heights and widths in px of the readable images, at 0, 25, 50, 75 and 100 %."""
    sizes = looks.size_px[looks.is_readable]
    if not len(sizes):
        return {"height_px": [], "width_px": []}
    height_px, width_px = np.quantile(sizes, (0, 0.25, 0.5, 0.75, 1), axis=0).T.tolist()
    return {"height_px": height_px, "width_px": width_px}


# ---------------------------------------------------------------- catalogs as files

def write_catalog(path, catalog, left_out, contest_folder):
    """Writes a csv of all samples, with paths relative to the contest folder.

    left_out: why a sample is not used, '' = used.
    """
    rows = [(*CATALOG_COLUMNS, *catalog.optional)]
    for row in range(len(catalog)):
        full = str(catalog.path[row])
        relative = path_inside(full, contest_folder) if full else ""
        cells = (catalog.sample_id[row], relative, catalog.sha256[row], catalog.label[row],
                 catalog.group[row], left_out[row])
        cells += tuple(getattr(catalog, name)[row] for name in catalog.optional)
        rows.append([quoted_cell(cell) for cell in cells])
    write_atomic(path, csv_text(rows))


def read_catalog(path, classes, contest_folder, task="single", target_path=None):
    """(Catalog, left_out (n,) str) that write_catalog wrote. target_path: of its target, if any."""
    rows = csv_rows(path)
    columns = {name: [unquoted_cell(row[name]) for row in rows] for name in CATALOG_COLUMNS}
    paths = [str(Path(contest_folder) / p) if p else "" for p in columns["path"]]
    labels = [int(v) for v in columns["label"]]
    target = np.load(target_path) if target_path and target_path.exists() else None
    more = {name: [unquoted_cell(row[name]) for row in rows]
            for name in OPTIONAL if rows and name in rows[0]}
    catalog = Catalog(columns["sample_id"], paths, columns["sha256"], labels, columns["group"],
                      classes, task, target, **more)
    return catalog, as_strings(columns["left_out"])


def changed_images(folder, contest_folder, digests):
    """Images that the audit in a folder did not see as their digests say: paths, with reasons.

    digests: sha256 of each training and test file, in catalog order, as `contest_digests`. A file
    that was away for a moment would else stay left out.
    """
    rows = csv_rows(Path(folder) / "catalog_train.csv")
    rows += csv_rows(Path(folder) / "catalog_test.csv")
    changed = []
    for row, digest in zip(rows, digests, strict=True):
        path = unquoted_cell(row["path"])
        seen = row["sha256"]
        if not seen and not row["left_out"].startswith(UNREADABLE):
            seen = digest_or_empty(Path(contest_folder) / path)      # empty or too large, or gone
        if path and seen != digest:
            reason = row["left_out"]
            changed.append(f"{path} ({reason})" if reason else path)
    return changed


@dataclass(frozen=True, eq=False)
class Audit:
    """What training may use: usable training images and readable test images.

    The rows of the pixel stores are those of the catalogs. bad_test_ids: test ids without a
    readable image, in the submission's order; each still needs a row there. contradicted,
    contradicted_pixels: training images left out because equal files have different labels.
    """

    train: Catalog
    test: Catalog
    problems: tuple[Problem, ...]
    summary: dict
    train_pixels: PixelStore
    test_pixels: PixelStore
    bad_test_ids: tuple[str, ...]
    contradicted: Catalog | None = None
    contradicted_pixels: PixelStore | None = None

    @property
    def white_level(self):
        """The level of 16-bit images that is white; audits of earlier versions name none."""
        return self.summary.get("white_level", WHITE_LEVEL)

    def with_leaders(self):
        """This audit, the first usable image of each unit under the unit's own id: what is
        predicted of the unit is found by it."""
        train, rows = led(self.train)
        test, test_rows = led(self.test)
        return with_fields(self, train=train, train_pixels=self.train_pixels.take(rows), test=test,
                           test_pixels=self.test_pixels.take(test_rows))


def led(catalog):
    """(the Catalog in which the first image of each unit has the unit's id, its rows in this one).
    """
    if catalog.unit is None:
        return catalog, np.arange(len(catalog))
    ids = catalog.sample_id.tolist()
    named = set(ids)
    for row, unit in enumerate(catalog.unit.tolist()):
        if unit not in named:
            named.add(unit)
            ids[row] = unit
    ids = as_strings(ids)
    rows = np.argsort(ids, kind="stable")
    changed = {name: getattr(catalog, name)[rows]
               for name in ("path", "sha256", "label", "group", *catalog.optional)}
    target = None if catalog.target is None else catalog.target[rows]
    return with_fields(catalog, sample_id=ids[rows], target=target, **changed), rows


def load_audit(folder, contest_folder):
    """The Audit in a folder that audit_contest wrote."""
    folder = Path(folder)
    contest_folder = Path(contest_folder).expanduser().resolve()
    stored = read_json(folder / "audit.json")

    def load_split(split):
        catalog, left_out = read_catalog(folder / f"catalog_{split}.csv", stored["classes"],
                                         contest_folder, stored.get("task", "single"),
                                         folder / TARGET if split == "train" else None)
        is_used = left_out == ""
        pixels = PixelStore.open(folder / f"pixels_{split}")
        return catalog, pixels, left_out, is_used

    every, pixels, left_out, is_used = load_split("train")
    train, train_pixels = every.take(is_used), pixels.take(is_used)
    contradicted = every.take(left_out == CONTRADICTED)
    contradicted_pixels = pixels.take(left_out == CONTRADICTED)
    test, pixels, _, is_used = load_split("test")
    unit = test.sample_id if test.unit is None else test.unit
    bad = set(unit[~is_used].tolist()) - set(unit[is_used].tolist())
    problems = [Problem(**{**p, "sample_ids": tuple(p["sample_ids"])}) for p in stored["problems"]]
    bad_test_ids = dict.fromkeys(i for i in stored["summary"]["submission_ids"] if i in bad)
    return Audit(train, test.take(is_used), tuple(problems), stored["summary"], train_pixels,
                 pixels.take(is_used), tuple(bad_test_ids), contradicted, contradicted_pixels)
