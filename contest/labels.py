"""Where the labels are: a table, class folders, or the class in each file's name."""
import posixpath
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from contest.decoding import read_bytes
from contest.files import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    MAP_SUFFIXES,
    candidates,
    is_near_top,
    is_original,
    locate,
    normal,
    report_unlocated,
    split_of,
    suffix_of,
    without_suffix,
)
from contest.host import (
    VALIDATION_WORD,
    columns_of_folds,
    folds_by_folder,
    folds_by_id,
)
from contest.problems import Findings
from contest.sheets import how_to_read
from contest.tables import (
    SPLIT_WORDS,
    SUPPORTED,
    are_apart,
    find_target,
    is_fraction,
    json_value,
    labels_of,
    same_split,
    says_sample,
    says_split,
    split_words_of,
)
from contest.targets import READINGS, how_written, merged
from utils import counted, first_few, nearest

# what pandas, R and SQL write where there is no value; the second may be classes
NO_VALUE = ("nan", "<na>", "#n/a", "null", "nat")
NO_VALUE_OR_CLASS = ("none", "na", "n/a")
# either level of folders may be the class if this share of all (outer, inner) pairs exists
CROSSED = 0.8
# words of names that say no more than the split: test_images, stage1_test, test_a; not test_tube
SPLIT_ALONE = re.compile(
    r"(?:test|train)(?:ing)?(?:set|data|images?)?\d*|(?:image|img|pic|photo|set|data|dataset|file|"
    r"folder|jpe?g|png|tiff?|small|large|full|all|raw|resized|crop(?:ped)?|new|old|final|public|"
    r"private|my|the|stage\d*|phase\d*|part\d*|round\d*|split|kaggle|v?\d+|[a-z])s?")
# folders that only divide the images, as images_001 or site2: no class
SHARD = re.compile(
    r"(?:.*[_\- ])?(?:image|img|pic|photo|part|batch|shard|chunk|split|fold|folder|dir|set|subset|"
    r"site|cent(?:er|re)|hospital|clinic|patient|subject|subj|scan|study|case|series|vol|volume|"
    r"disk|block|group|video|clip|camera|cam|session|day)s?[ _\-]?\d+")
LABEL_WORD = re.compile(
    r"label|train|class|target|annot|meta|ground|truth|gt|categor|diagnos")
FEW_IN_A_FOLDER = 10    # images in the mean, below which a folder may be a case rather than a class
LIST_SUFFIXES = ("", ".csv", ".tsv", ".tab", ".psv", ".txt", ".dat", ".lst", ".list")
TEXT_SUFFIXES = (".yaml", ".yml", ".xml", *MAP_SUFFIXES)
PROBED_IMAGES = 50      # whose names are looked for in a text
LONGEST_TEXT = 2**20
IN_E_NOTATION = re.compile(r"\d(?:\.\d+)?[eE]\+?\d+")     # as a spreadsheet leaves a long number
PIXEL_COLUMN = re.compile(r"\bpixels?[\d_]*\b|\b\d+x\d+\b")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Training rows as found: ids, relative paths, labels as text, group values ('' = none), and
    where they come from.

    offered_groups: columns that could be --group_column. task: of READINGS; labels are texts as it
    reads them.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    id_column: str
    target_columns: tuple[str, ...]
    source: str
    offered_groups: tuple[str, ...] = ()
    setting: str = ""       # of data.label_table that takes this reading
    task: str = "single"
    units: tuple[str, ...] = ()     # the id of each image, where ids have several
    folds: tuple[str, ...] = ()     # the host's fold of each image, '' for none
    hints: tuple[str, ...] = ()     # what else could decide the folds
    joint: str = " "            # between the classes in a cell
    backwards: bool = False     # they stand in descending order

    @property
    def reading(self):
        return READINGS[self.task]

    @property
    def are_classes(self):
        """Whether each label is one class value."""
        return self.reading.one_class and bool(self.reading.parts("class"))


def fail_without_images(files, findings):
    """Stops at a folder without usable images, and says what to do about the formats found."""
    pixels = [path for path in files.tables if PIXEL_COLUMN.search(header_of(files.root / path))]
    if files.images:
        findings.fail(
            "no_images",
            f"{str(files.root)!r} must hold training images, but all {len(files.images)} lie in "
            f"folders named as test images ({first_few(files.images[:1])}): give their folder "
            "another name",
        )
        findings.stop_if_fatal()
    foreign = [path for path in (*files.foreign, *files.closed)
               if suffix_of(path) in FOREIGN_SUFFIXES]
    formats = sorted({FOREIGN_SUFFIXES[suffix_of(path)] for path in foreign})
    if pixels:
        formats.append("pixel csv")

    if formats:
        findings.fail(
            "unsupported",
            f"{str(files.root)!r} holds no training images but {', '.join(formats)} files "
            f"({first_few([*pixels, *foreign])}): unpack or convert them to JPEG or PNG "
            "first",
        )
    else:
        advice = "put them beside their table"
        if files.refused:
            advice += (f"; links out of it and special files ({first_few(files.refused)}) are not "
                       "opened: copy what they lead to")
        findings.fail(
            "no_images",
            f"{str(files.root)!r} must hold training images ({', '.join(IMAGE_SUFFIXES)}), but has "
            f"none: {advice}",
        )
    findings.stop_if_fatal()


def header_of(path):
    """The first line of a table, at most 4,096 characters: the table may be too large to read."""
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.readline(4096)


# ---------------------------------------------------------------- which source gives the labels

def labelled_rows(files, tables, label_table, sample, folders, data, findings):
    """Labelled from the label table, else from class folders, else from file names; else None and
    an error. folders: Labelled of the class folders, or None."""
    if label_table is not None:
        return rows_of_guessed_table(files, tables, label_table, sample, folders, data, findings)
    empty = [t.path for t in tables
             if not t.n_rows and t is not sample and not says_sample(t) and not t.is_of_test]
    if empty and not data.label_table:
        findings.fail(
            "empty_table",
            f"the label table must have rows, but {first_few(empty)} is empty: restore it",
        )
        return None

    rows = rows_without_table(files, folders, data.label_table, findings)
    are_clear = not findings.of_kind("ambiguous_labels")
    if rows and data.task in ("multilabel", "regression"):
        findings.fail("no_table", f"--task {data.task} needs a label table, and the labels come "
                      f"from {rows.source}: name the table by --set data.label_table=FILE")
        return None
    if rows and are_clear and not data.label_table:
        refuse_unread_labels(files, tables, sample, rows, findings)
    if rows is None:
        asked = sample.path if sample and data.sample_submission else ""
        fail_without_labels(files, tables, asked, findings)
    for flag in ("group_column", "fold_column") if rows is not None else ():
        if name := getattr(data, flag):
            findings.fail(flag, f"--{flag} {name!r} needs a label table, and this contest has "
                          f"{rows.source}: leave it out")
    return rows


def rows_of_guessed_table(files, tables, table, sample, folders, data, findings):
    """rows_of_table; an error of a table that no setting names also names the other reading."""
    own = Findings()
    rows = rows_of_table(files, table, sample, folders, data, own)
    others = [other for other in (folders, rows_of_names(files))
              if other is not None and len(set(other.labels)) > 1]
    errors = [p for p in own.problems if p.severity == "error"]
    findings.problems += [p for p in own.problems if p.severity != "error"]
    is_guessed = not (data.label_table or data.target_column or data.group_column)
    for error in errors[:1] if is_guessed else errors:
        text = error.text
        if is_guessed and others and error.kind != "ambiguous_labels":
            text += or_take(others[0])
        findings.fail(error.kind, text, error.sample_ids)
    if is_guessed and not errors and rows is not None and not LABEL_WORD.search(table.name):
        form_columns = sample.columns if sample is not None else ()
        if not set(rows.target_columns) & set(form_columns):
            refuse_closed_labels(files, tables, rows, findings)
    return rows


def rows_without_table(files, folders, asked, findings):
    """Labelled of class folders or of file names, or None; an error if both give labels that
    differ. asked: data.label_table."""
    folders = folders if asked in ("", "folders") else None
    inner = rows_of_folders(files, is_inner=True) if asked in ("", "subfolders") else None
    names = rows_of_names(files) if asked in ("", "names") else None
    if asked == "subfolders":
        return inner
    if folders and names and len(set(folders.labels)) > 1 and not agree(folders, names):
        fail_two_readings(folders, names, findings)
        return folders
    if folders and inner and any(
            test(folders, inner) for test in (are_crossed, are_uneven, are_nested)):
        fail_two_readings(folders, inner, findings)
    if not folders or not names:
        return folders or names
    is_aside = 10 * len(folders.paths) < len(names.paths) and not labels_of_both(folders, names)
    return names if len(set(folders.labels)) < 2 or is_aside else folders


def refuse_unread_labels(files, tables, sample, rows, findings):
    """An error if a table or file that gives no labels looks as if it should, beside the `rows` of
    class folders or file names."""
    taken = or_take(rows)
    refuse_closed_labels(files, tables, rows, findings)
    for broken in findings.of_kind("unreadable_table"):
        findings.fail("unread_labels", f"{broken.text}{taken}")
    for table in tables:
        if table is sample or table.is_of_test or says_sample(table):
            continue
        ids = plausible_ids(table, rows.labels)
        if ids:
            fail_unmatched(table, ids, rows.paths[0], taken, findings)


def fail_unmatched(table, ids, image, taken, findings):
    """The error of a table whose ids name few images."""
    n_found = min(len(table.images), table.n_rows)
    findings.fail(
        "unmatched_table",
        f"table {table.path!r} may hold the labels, but {n_found} of its {table.n_rows} rows name "
        f"an image file: column {ids!r} says {table.columns[ids][0]!r} where files are called "
        f"{image!r}: mend the ids{taken}")


def or_take(rows):
    """The end of an error's advice: the setting that takes `rows`, '' if they are one class."""
    if len(set(rows.labels)) < 2:
        return ""
    return f"; or --set data.label_table={rows.setting} takes {rows.source} instead"


def refuse_closed_labels(files, tables, rows, findings):
    """An error for each file that is no table to us and may hold the labels: by its name, by the
    names of images in it, or because the classes of `rows` are `site 1`, `site 2`, ..."""
    named = {path for table in tables for path in (table.path, *table.joined)}
    named.update(path for own in findings.of_kind("own_table") for path in own.sample_ids)
    rest = [p for p in (*files.tables, *files.maps, *files.others)
            if suffix_of(p) in (*LIST_SUFFIXES, *TEXT_SUFFIXES) and is_near_top(p)]
    lists = {table.path for table in tables if len(table.columns) == 1}
    are_unsure = rows.setting == "names" or (
        rows.setting == "folders" and all(map(is_shard, set(rows.labels))))
    report_sidecars(files, rows, are_unsure, findings)
    report_lists(tables, rows, findings)
    for path in (*files.closed, *rest):
        says_so = LABEL_WORD.search(path.lower().rsplit("/", 1)[-1])
        is_broken = path in files.maps and json_value(files.root / path) is None
        if (path in files.closed or is_broken) and (says_so or are_unsure):
            is_suspect = True
        elif path in named and path not in lists:
            is_suspect = False
        else:
            is_suspect = names_images(files, path, rows)
        if is_suspect:
            findings.fail("unread_labels",
                          f"{path!r} may hold the labels but is not read: {how_to_read(path)} of "
                          "one row an image, its id and its class, beneath a row of column names"
                          f"{or_take(rows)}")
        elif path in files.closed:
            findings.warn("unread_table", f"{path!r} is not read: {how_to_read(path)} if it holds "
                          "the labels")


def report_sidecars(files, rows, are_unsure, findings):
    """A warning if most images have a text of their name, or an error if the classes of `rows` are
    `site 1`, `site 2`, ..."""
    stems = {without_suffix(normal(path.rsplit("/", 1)[-1])) for path in rows.paths}
    beside = [path for path in files.others if suffix_of(path) in (".txt", ".xml", ".json")
              and normal(path.rsplit("/", 1)[-1]).rpartition(".")[0] in stems]
    if 2 * len(beside) < len(rows.paths):
        return
    say = findings.fail if are_unsure else findings.warn
    say("sidecar_files",
        f"{len(beside)} files named as images ({first_few(beside)}) are not read: if they hold the "
        f"classes, write these into a csv of one row an image, its id and its class{or_take(rows)}")


def report_lists(tables, rows, findings):
    """An error if several tables that list files alone divide the images of `rows`."""
    lists = [t for t in tables if len(t.columns) == 1 and t.id_column and not split_words_of(t)]
    n_listed = len(set().union(*(t.images for t in lists)))
    if len(lists) > 1 and are_apart(lists) and 2 * n_listed > len(rows.paths):
        findings.fail(
            "lists",
            f"tables {first_few([t.path for t in lists])} list {n_listed} images and no class: if "
            "each is a class, write one csv of one row an image, its id and its class"
            f"{or_take(rows)}")


def names_images(files, path, rows):
    """Whether a text names most of some images of `rows`, and more than them in its lines."""
    suffix = suffix_of(path)
    if suffix not in (*LIST_SUFFIXES, *TEXT_SUFFIXES):
        return False
    try:
        text = read_bytes(files.root / path)[:LONGEST_TEXT].decode("utf-8", "replace")
    except ValueError:
        return False

    lines = [re.findall(r"[^\s\"',;:|^\[\]{}()<>=]+", line) for line in text.splitlines()]
    lines = [words for words in lines if words]
    if suffix in LIST_SUFFIXES and 2 * sum(len(words) > 1 for words in lines) <= len(lines):
        return False
    known = {normal(word.replace("\\", "/").rsplit("/", 1)[-1])
             for words in lines for word in words}

    some = rows.paths[::max(1, len(rows.paths) // PROBED_IMAGES)]
    n_named = 0
    for image in some:
        name = normal(image.rsplit("/", 1)[-1])
        stem = without_suffix(name)
        n_named += name in known or (len(stem) > 3 and stem in known)
    return 2 * n_named > len(some)


def plausible_ids(table, labels=()):
    """The column of a table that could be ids of images beside one of classes, '' for none.

    Not those of a list of the classes in `labels`, nor of one whose ids do name most images.
    """
    if table.n_rows < 5 or 2 * min(len(table.images), table.n_rows) >= table.n_rows:
        return ""
    classes = set(labels)
    for column, values in table.columns.items():
        is_key = len(set(values)) >= 0.95 * table.n_rows and not any(map(is_fraction, values))
        is_key = is_key or all(map(IN_E_NOTATION.fullmatch, values))
        are_classes = (2 * len(classes & set(values)) > len(classes)
                       and len(labels) >= FEW_IN_A_FOLDER * len(classes))
        if not is_key or are_classes:
            continue
        others = [table.columns[c] for c in table.columns if c != column]
        if any(1 < len(set(v)) <= table.n_rows / 2 and not any(map(is_fraction, v))
               for v in others):
            return column
    return ""


def fail_without_labels(files, tables, asked, findings):
    """The error if nothing says which image has which class.

    asked: path of the table that data.sample_submission names, '' for none.
    """
    unreadable = [*findings.of_kind("unreadable_table"), *findings.of_kind("unread_sheet")]
    for broken in unreadable:
        findings.fail(broken.kind, broken.text)
    for table in tables:
        ids = plausible_ids(table) if files.images else ""
        if ids and not table.is_of_test:
            fail_unmatched(table, ids, files.images[0], "", findings)
            return
    if unreadable:
        return
    if files.images and not tables and not any("/" in path for path in files.images):
        findings.fail(
            "no_labels",
            f"{str(files.root)!r} holds {len(files.images)} images, and neither a table, nor class "
            "folders, nor their names say which image has which class: if it is the folder of one "
            f"class, name the one above it, {str(files.root.parent)!r}; {SUPPORTED}")
        return
    known = first_few([t.path for t in tables]) or "it has none"
    if files.closed:
        known += f"; {first_few(files.closed)} is not read: {how_to_read(files.closed[0])}"
    if asked:
        known += f"; {asked!r} cannot be while data.sample_submission names it"
    findings.fail(
        "no_labels",
        f"{str(files.root)!r} must say which image has which class, but none of its tables "
        f"({known}) has a column of image ids beside a class column, and neither folders nor file "
        f"names do; {SUPPORTED}",
    )


def agree(one, other):
    """Whether two Labelled differ only in the names of the classes, and in which images have one.
    """
    pairs = labels_of_both(one, other)
    return not pairs or same_split(*zip(*pairs, strict=True))


def labels_of_both(one, other):
    """[(label in one, label in other)] of the images that two Labelled share."""
    label_of = dict(zip(other.paths, other.labels, strict=True))
    return [(label, label_of[path]) for path, label in zip(one.paths, one.labels, strict=True)
            if path in label_of]


def fail_two_readings(one, other, findings):
    ways = [f"from {rows.source} ({first_few(sorted(set(rows.labels)))})" for rows in (one, other)]
    findings.fail("ambiguous_labels",
                  f"the labels can be read in two ways, {ways[0]} and {ways[1]}: --set "
                  f"data.label_table={one.setting} or --set data.label_table={other.setting} takes "
                  f"one{or_below(one, other)}")


def or_below(one, other):
    """That the folder which holds all class folders of one reading can be named instead, '' if it
    is no folder of the other reading alone."""
    if (one.setting, other.setting) != ("folders", "subfolders"):
        return ""
    shared = posixpath.commonpath([path.rpartition("/")[0] for path in other.paths])
    top = shared.split("/")[0]
    return f", and so does naming its folder {top!r} as --data_path" if top in one.labels else ""


# ---------------------------------------------------------------- a table

def rows_of_table(files, table, sample, folders, data, findings):
    """Labelled of a label table, or None and an error. Leaves out rows without a label, with a
    refused id, or repeated with another label."""
    group = data.group_column
    if not has_columns(table, group, findings):
        return None
    form_columns = sample.others(table.id_column, table.unit) if sample is not None else []
    if sample is not None and not sample.id_column and not (
            {table.id_column, table.unit} & set(sample.columns)):
        form_columns = form_columns[1:]     # none of its ids is an image, so they stand first
    target = find_target(table, form_columns, data, findings)
    if not target:
        return None
    ids = table.columns[table.id_column]
    task, labels = labels_of(table, target, data, findings, sample)
    groups = table.columns[group] if group else ("",) * len(ids)
    units = table.columns[table.unit] if table.unit else ids
    offered = offered_groups(table, target, group, labels)

    def at(rows, *columns):
        return [tuple(values[row] for row in rows) for values in columns]

    for values in [labels, *(table.columns[c] for c in table.others(*target))]:
        ids = told_apart_by_folder(files, ids, labels, values, table.naming)
    fold_of = folds_by_id(table, ids, data, findings)
    left_out = rows_of_test(table, target, findings)
    ids, labels, groups, units = at([row for row in range(len(ids)) if row not in left_out],
                                    ids, labels, groups, units)
    unit_of = dict(zip(ids[::-1], units[::-1], strict=True))    # of the first row, which is kept
    task, voted, ids, labels, groups = with_votes(table, task, data, ids, labels, groups, findings)
    keep = unrepeated_rows(table.path, ids, labels, findings)
    ids, labels, groups = at(keep, ids, labels, groups)
    refuse_several_lines(table.path, ids, labels, findings)
    located = locate(files, ids, "train", labels, naming=table.naming)
    consequence, noun = ("their ids keep their other images", "file") if table.unit else (
        "these rows are left out", "id")
    report_unlocated(files, located, table.path, consequence, findings, table.naming, noun)
    with_file = [row for row, path in enumerate(located.paths) if path]
    ids, labels, groups, paths = at(with_file, ids, labels, groups, located.paths)
    groups = tuple(f"{group}={g}" if g else "" for g in groups)
    if table.unit:
        units = tuple(unit_of[i] for i in ids)
        kept = rows_of_one_label(table, units, labels, findings)
        ids, labels, groups, paths, units = at(kept, ids, labels, groups, paths, units)
    tables = " and ".join([table.path, *table.joined])
    source = f"table {tables}, {rows_of(table)}{table.naming.describe()}"
    found = Labelled(ids, paths, labels, groups, table.unit or table.id_column, voted or target,
                     source, offered, table.path, task, units if table.unit else (),
                     tuple(fold_of.get(i, "") for i in ids) if fold_of else (),
                     hints_of(table, data), *how_written(table.columns[target[0]]))

    is_named_by_sample = set(target) & set(form_columns) or len(form_columns) > 1
    if not (data.label_table or data.target_column or is_named_by_sample):
        refuse_other_readings(files, found, folders, data, findings)
    return found


def refuse_other_readings(files, found, folders, data, findings):
    """An error if folders or file names divide the images of a guessed column in another way."""
    if found.are_classes or data.task == "auto":
        others = [rows for rows in (folders, rows_of_names(files)) if rows is not None]
        if found.are_classes:
            refuse_other_names(found, others, findings)
        refuse_other_labels(found, others, findings)


def has_columns(table, group, findings):
    """Whether a label table has a column of ids and that of groups; errors if not."""
    if not table.id_column:
        findings.fail(
            "no_ids",
            f"table {table.path!r} must have a column of image ids, but none of "
            f"{first_few(table.columns)} names image files: --set data.label_table=FILE takes "
            "another table",
        )
        return False
    if group and group not in (*table.others(), table.unit):
        findings.fail("group_column",
                      f"--group_column must be a column of {table.path!r}, got {group!r}"
                      f"{nearest(group, table.others())}; columns: {', '.join(table.others())}")
        return False
    return True


def hints_of(table, data):
    """Sentences on columns of folds that are not used."""
    if data.fold_column:
        return ()
    return tuple(f"column {name!r} may hold the host's folds (--fold_column {name})"
                 for name in columns_of_folds(table))


def with_host_folds(files, rows, data, findings):
    """The Labelled with the folds of the images in val/, if they are asked for, else with a hint.
    """
    if rows is None:
        return rows
    if data.fold_column:
        if "" not in rows.folds and len(set(rows.folds)) == 1:
            findings.fail("fold_column", "--fold_column must leave images to train on, and "
                          f"{data.fold_column!r} puts all {len(rows.folds)} images into one fold, "
                          f"{rows.folds[0]!r}: name another column, or leave it out, and the folds "
                          "are drawn")
        return rows
    held = folds_by_folder(files, rows.paths, rows.labels)
    n_held = sum(map(bool, held))
    if data.valid_folder == "use":
        folds = rows.folds or held
        if not 0 < sum(map(bool, folds)) < len(folds):
            findings.fail("valid_folder", "--valid_folder use needs labelled images in a folder "
                          "val/, valid/, validation/ or dev/, or a column of splits that names "
                          "them, beside others to train on: leave it out")
        return replace(rows, folds=folds)
    if not 0 < n_held < len(held):
        return rows
    hint = f"{n_held} images in val folders are trained on too (--valid_folder use: validated on)"
    return replace(rows, hints=(*rows.hints, hint))


def rows_of(table):
    """How many rows a label table has, and where its ids are."""
    if not table.unit:
        return f"{table.n_rows} rows, ids in column {table.id_column!r}"
    n_ids = len(set(table.columns[table.unit]))
    return (f"{table.n_rows} files of {n_ids} ids in column {table.unit!r}, whose predictions are "
            "averaged")


def rows_of_one_label(table, units, labels, findings):
    """Rows of the ids whose images all have one label. An error if those are few."""
    labels_of = defaultdict(set)
    for unit, label in zip(units, labels, strict=True):
        labels_of[unit].add(label)
    differ = [unit for unit, found in labels_of.items() if len(found) > 1]
    say = findings.fail if 2 * len(differ) > len(labels_of) else findings.warn
    if differ:
        say("contradicted_id",
            f"{table.path!r} gives images of one id in column {table.unit!r} different labels for "
            f"{counted(differ, 'id')}, and an id's images are predicted as one: these rows are "
            "left out, so mend them", differ)
    return [row for row, unit in enumerate(units) if len(labels_of[unit]) == 1]


def with_votes(table, task, data, ids, labels, groups, findings):
    """(task, classes, ids, labels, groups) of one row an id, see `targets.merged`."""
    if data.task == "single":      # which takes no votes
        return task, (), ids, labels, groups
    task, classes, kept, labels = merged(task, ids, labels)
    if len(kept) < len(ids):
        how = ("put together" if task == "multilabel" else
               "averaged, as of several annotators (--task multilabel: put together)")
        findings.warn("annotators", f"{table.path!r} has {len(ids)} rows of {len(kept)} ids: what "
                      f"they say of one id is {how}")
        group_of = dict(zip(ids, groups, strict=True))
        groups = tuple(group_of[i] for i in kept)
    return task, classes, kept, labels, groups


def told_apart_by_folder(files, ids, labels, values, naming):
    """The ids, as paths where one name in several folders has several labels: cat/0.jpg, dog/0.jpg.

    They stay as they are unless each row's value, its label or that of another column, is the
    folder of just one of its files.
    """
    labels_of_id = defaultdict(set)
    for sample_id, label in zip(ids, labels, strict=True):
        labels_of_id[sample_id].add(label)
    apart = []
    if all(len(found) == 1 for found in labels_of_id.values()):
        return ids
    for sample_id, value in zip(ids, values, strict=True):
        if len(labels_of_id[sample_id]) == 1:
            apart.append(sample_id)
            continue
        own = [path for path in candidates(files, sample_id, naming)
               if normal(value) in normal(path).split("/")[:-1]]
        if len(own) != 1:
            return ids
        apart.append(own[0])
    return tuple(apart)


def rows_of_test(table, target, findings):
    """Rows that a column of splits gives to the test images, if it gives others to training."""
    for column in table.others(*target):
        values = [value.lower() for value in table.columns[column]]
        if not says_split(values) or not {"train", "training"} & set(values):
            continue
        found = {row for row, value in enumerate(values) if value in ("test", "testing")}
        if found:
            findings.warn("other_split", f"column {column!r} of {table.path!r} gives {len(found)} "
                          "rows to the test images: they are not trained on")
        return found
    return set()


def refuse_several_lines(where, ids, labels, findings):
    """An error for an id or a class of several lines: a quote before it was not closed."""
    for values in (labels, ids):
        broken = [value for value in values if "\n" in value]
        if broken:
            findings.fail(
                "several_lines",
                f"each id and class of {where!r} must be one line, got {broken[0]!r}: close the "
                "quote before it")
            return


def refuse_other_names(found, others, findings):
    """An error if folders or file names give the table's classes other names, because it is unclear
    which of the names to write."""
    for other in others:
        label_of = dict(zip(other.paths, other.labels, strict=True))
        labels = [label_of.get(path, "") for path in found.paths]
        if set(labels) != set(found.labels) and same_split(found.labels, labels):
            fail_two_readings(found, other, findings)


def refuse_other_labels(found, others, findings):
    """An error if folders or file names divide the table's images into other classes."""
    for other in others:
        pairs = labels_of_both(found, other)
        names = {name for _, name in pairs}
        are_classes = 1 < len(names) <= len(pairs) / 2 and not all(map(is_shard, names))
        if other.setting == "names":
            are_classes = are_classes and not any(re.search(r"\d", name) for name in names)
        if not are_classes or 2 * len(pairs) <= len(found.paths):
            continue
        if not same_split(*zip(*pairs, strict=True)):
            fail_two_readings(found, other, findings)
            return


def is_shard(name):
    """Whether a folder's name says that it only divides the images."""
    return SHARD.fullmatch(name.lower()) is not None


def offered_groups(table, target, group, labels):
    """Columns whose values repeat over images, finest first. Leaves out measurements and the class
    by another name."""
    n_values = {c: len(set(table.columns[c])) for c in table.others(*target, group)}
    offered = [c for c, n in n_values.items() if 1 < n <= table.n_rows / 2
               and not same_split(labels, table.columns[c])
               and not any(map(is_fraction, table.columns[c]))]
    return tuple(sorted(offered, key=lambda c: -n_values[c]))


def without_no_values(where, labels, findings):
    """The labels, with '' in place of words that programs write where there is no value.

    A word on at least half as many rows as the rarest other label may be a class, as `none` is in
    some contests. `nan` and `NULL` then stop the run.
    """
    counts = Counter(labels)
    words = {label for label in counts if label.strip().lower() in {*NO_VALUE, *NO_VALUE_OR_CLASS}}
    if not words:
        return labels
    rarest = min((n for label, n in counts.items() if label and label not in words), default=0)
    common = {word for word in words if 2 * counts[word] >= rarest}
    unclear = sorted(word for word in common if word.strip().lower() in NO_VALUE)
    if unclear:
        findings.fail(
            "no_value", f"{where} has the label {unclear[0]!r} in {counts[unclear[0]]} rows: empty "
            "these cells if they have no label, or write another name if it is a class")
    return ["" if label in words - common else label for label in labels]


def unrepeated_rows(where, ids, labels, findings):
    """Rows to keep: the first of each id; none of an id with two labels, or without id or label."""
    labels = without_no_values(where, labels, findings)
    labels_of_id = defaultdict(list)
    first_row = {}
    for row, (sample_id, label) in enumerate(zip(ids, labels, strict=True)):
        labels_of_id[sample_id].append(label)
        first_row.setdefault(sample_id, row)

    found_labels = labels_of_id.items()
    unlabelled = [i for i, found in found_labels if not i or not all(found)]
    repeated = [i for i, found in found_labels if len(found) > 1 and len(set(found)) == 1]
    contradicted = [i for i, found in found_labels if len(set(found)) > 1 and all(found)]

    if unlabelled:
        findings.warn(
            "missing_label",
            f"{where} has {counted(unlabelled, 'row')} without id or label: they are left out",
            unlabelled,
        )
    if repeated:
        findings.warn("repeated_id",
                      f"{where} repeats {counted(repeated, 'id')}: one row of each is kept",
                      repeated)
    if contradicted:
        findings.warn(
            "contradicted_id",
            f"{where} gives different labels to {counted(contradicted, 'id')}: all their rows are "
            "left out",
            contradicted,
        )
    out = {*unlabelled, *contradicted}
    return [row for sample_id, row in first_row.items() if sample_id not in out]


# ---------------------------------------------------------------- class folders and file names

def are_crossed(folders, inner):
    """Whether nearly all class folders hold folders of the same names, as <patient>/<class>/ or
    <class>/<patient>/."""
    if folders.paths != inner.paths:
        return False
    n_outer = len(set(folders.labels))
    n_inner = len(set(inner.labels))
    n_pairs = len(set(zip(folders.labels, inner.labels, strict=True)))
    return min(n_outer, n_inner) > 1 and n_pairs >= CROSSED * n_outer * n_inner


def rows_of_folders(files, is_inner=False):
    """Labelled of class folders train/<class>/... (or <class>/... in the folder itself), or None.

    is_inner: the folders inside these are the classes. A folder that repeats the class folders
    beside it is a copy of them. The classes in val/ beside train/ are trained on too.
    """
    by_class = classes_named_like_a_split(files)
    train = [] if by_class else [p for p in files.images if files.split_of(p) == "train"]
    base = train or [p for p in files.images if by_class or files.split_of(p) != "test"]
    below = [below_split(p, files.n_wrappers) if train else p.split("/") for p in base]
    if train:
        more = rows_beside_train(files, {parts[0] for parts in below if len(parts) > 1})
        base = [*base, *(path for path, _ in more)]
        below = [*below, *(parts for _, parts in more)]
    depth = 0       # of the class folders
    while is_wrapped(below, depth):
        depth += 1
    base = [path for path, parts in zip(base, below, strict=True) if len(parts) > depth]
    below = [parts[depth:] for parts in below if len(parts) > depth]
    if not is_inner:
        below = without_copies(below)

    level = int(is_inner)
    found = [(path, normal(parts[level]).strip()) for path, parts in zip(base, below, strict=True)
             if len(parts) > level + 1]
    if not found:
        return None
    paths, labels = zip(*found, strict=True)
    above = paths[0].split("/")
    above = above[:len(above) - len(below[base.index(paths[0])])]
    where = "/".join([*above, *["*"] * level, "<class>/"])
    return Labelled(paths, paths, labels, ("",) * len(paths), "ID", ("target",),
                    f"class folders {where}", setting="subfolders" if is_inner else "folders")


def rows_beside_train(files, classes):
    """[(path, parts below val/)] of the images in val/<class>/ beside train/, if its classes are
    some of those of train/."""
    found = []
    for path in files.images:
        parts = path.split("/")
        at = next((i for i, part in enumerate(parts[:-1]) if i >= files.n_wrappers
                   and VALIDATION_WORD.fullmatch(part.lower())), None)
        if at is not None and not files.split_of(path):
            found.append((path, parts[at + 1:]))
    names = {parts[0] for _, parts in found if len(parts) > 1}
    return [(p, parts) for p, parts in found if len(parts) > 1] if names <= classes else []


def below_split(path, n_wrappers):
    """The parts of a path below its folder of a split."""
    parts = path.split("/")
    at = next((i for i in range(n_wrappers, len(parts) - 1) if split_of(parts[i] + "/")), -1)
    return parts[at + 1:]


def is_wrapped(parts, depth):
    """Whether all paths, split into `parts`, share the folder at `depth`, and some go on below it.
    Images beside folders, as a banner, say nothing."""
    inside = [p for p in parts if len(p) > depth + 1]
    return (len({tuple(p[:depth + 1]) for p in inside}) == 1
            and any(len(p) > depth + 2 for p in inside))


def depths_of(below):
    """({class folders that hold images}, {folder that only holds folders: their names})."""
    flat = {parts[0] for parts in below if len(parts) == 2}
    inside = {}
    for parts in below:
        if len(parts) > 2 and parts[0] not in flat:
            inside.setdefault(parts[0], set()).add(parts[1])
    return flat, inside


def without_copies(below):
    """The paths, those in a folder that repeats the class folders beside it as if they lay there.
    """
    flat, inside = depths_of(below)
    copies = {folder for folder, names in inside.items() if names == flat and len(flat) > 1}
    return [parts[1:] if parts[0] in copies else parts for parts in below]


def are_uneven(folders, inner):
    """Whether some class folders hold images and others hold folders of them, as in dataset/cat/
    and dataset/dog/ beside assets/."""
    if len(set(inner.labels)) < 2:
        return False
    inner_paths = set(inner.paths)
    outside = {label for path, label in zip(folders.paths, folders.labels, strict=True)
               if path not in inner_paths}
    deep = {label for path, label in zip(folders.paths, folders.labels, strict=True)
            if path in inner_paths} - outside
    return bool(outside) and bool(deep) and not set(inner.labels) <= outside


def are_nested(folders, inner):
    """Whether class folders hold other class folders, as animal/cat/, animal/dog/, vehicle/car/.

    Not if those inside are numbered, as patients, or all of one name, as images/.
    """
    names = {label for label in inner.labels if not re.search(r"\d", label)
             and not is_original(label)}
    inside = defaultdict(set)
    outer = dict(zip(folders.paths, folders.labels, strict=True))
    for path, label in zip(inner.paths, inner.labels, strict=True):
        if label in names and path in outer:
            inside[outer[path]].add(label)
    same = all(found == {label} for label, found in inside.items())
    return not same and len(names) > 1 and any(len(found) > 1 for found in inside.values()) and (
        len(set(folders.labels)) > 1)


def classes_named_like_a_split(files):
    """Whether folders named like a split are classes: the vehicle `train`, a `test_tube`, or
    `test_positive` and `test_negative`.

    All of them must lie in one folder and say the same split. Their names must say more than that
    they hold test images, or images of the class of a folder beside them.
    """
    places = set()
    for path in files.images:
        parts = path.split("/")[:-1]
        at = next((i for i in range(files.n_wrappers, len(parts)) if split_of(f"{parts[i]}/")), -1)
        if at >= 0:
            places.add("/".join(parts[:at]))
    if len(places) != 1:
        return False
    place = places.pop()
    start = f"{place}/" if place else ""
    inside = [path[len(start):].split("/") for path in files.images if path.startswith(start)]
    names = {parts[0].lower() for parts in inside if len(parts) > 1}
    is_flat = all(len(parts) < 3 for parts in inside)
    alike = [name for name in names if split_of(f"{name}/")]
    if len({split_of(f"{name}/") for name in alike}) != 1 or len(names) < 2:
        return False
    if len(names) < 3 and len(alike) < len(names):
        return False
    return all(says_more(name, names, is_flat and len(alike) == 1) for name in alike)


def says_more(name, names, may_be_train):
    """Whether the name of a folder says more than a split and the class of another folder."""
    if name == "train" and may_be_train:
        return True
    others = {other.rstrip("s") for other in names - {name}}
    if others & {word.rstrip("s") for word in words_of_split(name)}:
        return False
    return not says_split_alone(name)


def words_of_split(name):
    return re.split(r"[_\- ]+", name)


def says_split_alone(name):
    """Whether the name of a folder says no more than a split, as train_images or test_2."""
    return all(map(SPLIT_ALONE.fullmatch, words_of_split(name.lower())))


def rows_of_names(files):
    """Labelled of file names that begin with the class and end with a number, as cat.0.jpg or
    maine_coon_12.jpg, or None."""
    paths = [p for p in files.images if files.split_of(p) == "train"]
    if not paths:
        paths = [p for p in files.images if files.split_of(p) != "test"]
    label_of = {}
    for path in paths:
        stem = normal(without_suffix(path.rsplit("/", 1)[-1]))
        label = re.sub(r"[._\- (]*\d+\)?$", "", stem)
        if label != stem:
            label_of[path] = label
    counts = Counter(label_of.values())
    # a banner or a figure beside the images says nothing
    few = {label for label, n in counts.items() if n == 1} if len(counts) > 2 else set()
    label_of = {path: label for path, label in label_of.items() if label not in few}
    counts = Counter(label_of.values())

    are_numbered = 10 * (len(paths) - len(label_of)) <= len(paths)
    have_letters = all(re.search(r"[^\W\d_]", label) for label in counts)
    if len(counts) < 2 or min(counts.values()) < 2 or not are_numbered or not have_letters:
        return None
    if {label.lower() for label in counts} <= SPLIT_WORDS:
        return None     # the names say the split
    found = tuple(label_of)
    return Labelled(found, found, tuple(label_of.values()), ("",) * len(found), "ID", ("target",),
                    "file names <class>.<number>", setting="names")
