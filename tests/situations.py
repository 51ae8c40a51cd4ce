"""Contest folders drawn by a seeded generator that combines kinds of situations, with known truth:
each must be read rightly, or stop with one sentence whose advice works.

    OMP_NUM_THREADS=1 python -m tests.situations --n 300
    OMP_NUM_THREADS=1 python -m tests.situations --only 41 --keep DIR

A variant is a place of the images, a way to say their classes, and up to three circumstances.
No image is decoded. Wrong is: an image with another class than its own, an image that has none, a
traceback, or a stop none of whose settings leads to the right reading, unless its sentence says
what to mend. Images that are left out must be named by a warning. Exit status 1 if one is wrong.
"""
import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
import unicodedata
from collections import Counter
from pathlib import Path

from config import DataConfig
from contest.intake import read_contest
from utils import UserError

N_IMAGES = 48
KINDS = (("nv", "mel", "bcc"), ("강아지", "고양이", "새"), ("café", "ñandú", "Größe"),
         ("0", "1", "2"), ("test kit", "rapid_test", "none"), ("Old owl", "cat, big", "dog"))
TOPS = ("", "train/", "data/", "Dataset/images/", "test_project/train/", "a b/v1/train/", "훈련/")
NAMES = ("{i:06d}.jpg", "{i}.png", "IMG_{i:04d}.JPG", "사진 {i}.jpeg", "a.b.{i:03d}.tif", "{i:x}f")
JPEG = b"\xff\xd8\xff\xe0 not decoded"
SETTING = re.compile(
    r"--set data\.(label_table|id_column|target_column)=(.+?)(?= or --set| takes|$)")


class Variant:
    """What is drawn: the truth {path: class}, and what must not be trained on."""

    def __init__(self, root, rng):
        self.root = root
        self.rng = rng
        self.done = []
        self.kinds = rng.choice(KINDS)
        self.top = rng.choice(TOPS)
        self.name = rng.choice(NAMES)
        self.truth = {}

    def touch(self, path, kind=None, data=JPEG):
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)
        if kind is not None:
            self.truth[path] = kind

    def table(self, path, header, rows, separator=",", encoding="utf-8"):
        def quoted(cell):
            cell = str(cell)
            return f'"{cell}"' if separator in cell else cell

        text = "".join(separator.join(map(quoted, row)) + "\n" for row in [header, *rows])
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(text.encode(encoding))

    def kind_of(self, i):
        return self.kinds[i * 7 // 2 % 3]


# ---------------------------------------------------------------- places and labels

def in_class_folders(variant):
    inner = variant.rng.choice(("", "", "p{p}/", "images/"))
    for i in range(N_IMAGES):
        kind = variant.kind_of(i)
        folder = unicodedata.normalize(variant.rng.choice(("NFC", "NFD")), kind)
        variant.touch(f"{variant.top}{folder}/{inner.format(p=i // 6)}{variant.name.format(i=i)}",
                      kind)


def in_a_table(variant):
    rng = variant.rng
    shard = rng.choice(("", "", "part{p}/", "images_00{p}/", "site {p}/"))
    rows = []
    order = list(range(N_IMAGES))
    rng.shuffle(order)
    form = rng.choice(("name", "stem", "path", "absolute", "windows", "url", "below"))
    for i in order:
        kind = variant.kind_of(i)
        path = f"{variant.top}{shard.format(p=i % 3)}{variant.name.format(i=i)}"
        variant.touch(path, kind)
        name = path.rsplit("/", 1)[-1]
        sample_id = {
            "name": name, "path": path, "stem": os.path.splitext(name)[0],
            "absolute": f"/kaggle/input/x/{path}", "windows": "C:\\me\\" + path.replace("/", "\\"),
            "url": f"https://host/d/{path.replace(' ', '%20')}?dl=1", "below": f"./{path}"}[form]
        rows.append((sample_id, kind))
    header = rng.choice((("id", "label"), ("image", "class"), ("Image Index", "Finding Labels")))
    if rng.random() < 0.4:
        header = (rng.choice(("", "index", "Unnamed: 0")), *header)
        rows = [(n, *row) for n, row in enumerate(rows)]
    if rng.random() < 0.3:
        header = header[::-1]
        rows = [row[::-1] for row in rows]
    separator = rng.choice((",", ",", ";", "\t", "|"))
    file = rng.choice(("train.csv", "labels.csv", "meta/labels.csv", "train_labels.txt", "x.tsv"))
    variant.table(file, header, rows, separator)
    variant.done.append(f"{form} ids in {file}")


def in_file_names(variant):
    variant.kinds = ("cat", "dog", "old owl")
    for i in range(N_IMAGES):
        variant.touch(f"{variant.top}{variant.kind_of(i)}.{i}.jpg", variant.kind_of(i))


def in_json(variant):
    in_rows = {}
    for i in range(N_IMAGES):
        path = f"{variant.top}{variant.name.format(i=i)}"
        variant.touch(path, variant.kind_of(i))
        in_rows[path.rsplit("/", 1)[-1]] = variant.kind_of(i)
    lists = {kind: [n for n, k in in_rows.items() if k == kind] for kind in variant.kinds}
    lines = [json.dumps({"file_name": n, "label": k}) for n, k in in_rows.items()]
    file, text = variant.rng.choice((
        ("labels.json", json.dumps(in_rows)), ("labels.json", json.dumps(lists)),
        ("metadata.jsonl", "\n".join(lines)), ("train.json", f"[{','.join(lines)}]")))
    (variant.root / file).write_text(text)


# ---------------------------------------------------------------- circumstances

def masks(variant):
    folder = variant.rng.choice(("masks", "Segmentation", "thumbs", "gt"))
    for path in list(variant.truth):
        stem = os.path.splitext(path[len(variant.top):])[0]
        variant.touch(f"{variant.top}{folder}/{stem}.png")


def system_folders(variant):
    path = next(iter(variant.truth))
    for folder in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", ".thumbnails"):
        variant.touch(f"{path.rpartition('/')[0] or '.'}/{folder}/{path.rsplit('/', 1)[-1]}")


def another_table(variant):
    """Authors, sizes or boxes of the images."""
    rng = variant.rng
    column, value = rng.choice((
        ("author", lambda i: "abcd"[i * i % 4]), ("width", lambda i: 100 + i % 7),
        ("md5", lambda i: f"{i:032x}"), ("split", lambda i: ("train", "val")[i % 5 == 0]),
        ("licence", lambda i: "cc0"), ("score", lambda i: f"0.{i}1")))
    paths = sorted(variant.truth)
    variant.table(rng.choice(("about.csv", "info.tsv", "attribution.csv")), ("file", column),
                  [(path.rsplit("/", 1)[-1], value(i)) for i, path in enumerate(paths)])
    variant.done.append(column)


def own_output(variant):
    paths = sorted(variant.truth)
    rows = [(p.rsplit("/", 1)[-1], 0.9, variant.kinds[0], 0.9) for p in paths]
    variant.table("predictions_run.csv", ("id", "prob_x", "label", "confidence"), rows)


def spreadsheet(variant):
    variant.touch(variant.rng.choice(("notes.xlsx", "labels.xlsx", "a.ods", "x.parquet")),
                  data=b"PK\3\4")


def stray_images(variant):
    variant.touch(variant.rng.choice(("logo.png", "banner.gif", "figure 1.png")))


def assets(variant):
    for i in range(3):
        variant.touch(f"{variant.rng.choice(('assets', 'docs/img'))}/fig{i}a.png")


def test_images(variant):
    place = variant.top.replace("train", "test") if "train" in variant.top else "test/"
    for i in range(9):
        variant.touch(f"{place}T{i:03d}.jpg")
    if variant.rng.random() < 0.5:
        variant.table("sample_submission.csv", ("index", "id", "label"),
                      [(i, f"T{i:03d}", variant.kinds[0]) for i in range(9)])


def unread_images(variant):
    path = next(iter(variant.truth))
    for i in range(2):
        variant.touch(f"{path.rpartition('/')[0] or '.'}/raw{i}.cr2", data=b"II*\0CR")


def unicode_of_files(variant):
    for path in list(variant.truth):
        other = unicodedata.normalize("NFD", path)
        if other != path:
            (variant.root / other).parent.mkdir(parents=True, exist_ok=True)
            os.replace(variant.root / path, variant.root / other)
            variant.truth[other] = variant.truth.pop(path)


def links(variant):
    if "/" not in variant.top:
        return
    first = variant.top.split("/")[0]
    (variant.root / first).rename(variant.root / "store of images")
    os.symlink("store of images", variant.root / first)


LABELS = (in_class_folders, in_a_table, in_a_table, in_file_names, in_json)
CIRCUMSTANCES = (masks, system_folders, another_table, own_output, spreadsheet, stray_images,
                 assets, test_images, unread_images, unicode_of_files, links)


# ---------------------------------------------------------------- one variant

def draw_variant(root, number, seed):
    rng = random.Random(f"{seed}/{number}/situations")
    variant = Variant(root, rng)
    label = rng.choice(LABELS)
    label(variant)
    chosen = rng.sample(CIRCUMSTANCES, rng.choice((0, 1, 1, 2, 3)))
    for circumstance in sorted(chosen, key=CIRCUMSTANCES.index):
        circumstance(variant)
    variant.done = [variant.top or ".", variant.name, label.__name__,
                    *(c.__name__ for c in chosen), *variant.done]
    return variant


def read(root, **data):
    """({path: class}, kinds of warnings)."""
    contest = read_contest(root, DataConfig(**data))
    train = contest.train
    names = ["no class"] * len(train) if train.task != "single" else [
        contest.class_names[k] for k in train.label.tolist()]
    found = {os.path.relpath(path, contest.folder): name
             for path, name in zip(train.path.tolist(), names, strict=True)}
    return found, {p.kind for p in contest.problems}


def what_is_wrong(found, warned, truth):
    """What is wrong with a reading, '' for nothing."""
    wrong = {path: kind for path, kind in found.items() if truth.get(path) != kind
             and not ("no_class" in warned and kind in ("assets", "docs"))}
    if wrong:
        return f"{len(wrong)} of {len(found)} with a wrong class: {list(wrong.items())[:2]}"
    if len(found) < len(truth) and not warned:
        return f"{len(truth) - len(found)} images lost without a word"
    return ""


def check_variant(root, number, seed):
    """(what was done, what is wrong or '', how it ended)."""
    variant = draw_variant(root, number, seed)
    try:
        found, warned = read(root)
    except UserError as error:
        said = str(error)
        return variant.done, wrong_advice(root, variant.truth, said), "one sentence"
    except Exception:
        return variant.done, traceback.format_exc(), "a traceback"
    how = "read in part, with a warning" if len(found) < len(variant.truth) else "read"
    return variant.done, what_is_wrong(found, warned, variant.truth), how


def wrong_advice(root, truth, said):
    """'' if one of the settings that a sentence advises gives the right reading, or if it says what
    to mend; none may end in the same sentence."""
    if "\n" in said:
        return f"several sentences: {said}"
    outcomes = []
    for key, value in dict.fromkeys(SETTING.findall(said)):
        if value in ("NAME", "FILE"):
            continue
        try:
            found, warned = read(root, **{key: value})
            outcomes.append(what_is_wrong(found, warned, truth))
        except UserError as error:
            if str(error) == said:
                return f"{key}={value} ends in the same sentence: {said}"
            outcomes.append(str(error))
    mends = re.search("mend the ids|save it as a csv|takes one|another table|leave one copy|"
                      "rename|close the quote|repair", said)
    return "" if "" in outcomes or mends else f"no way out of: {said}; {outcomes}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=300, help="number of variants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this variant alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave folders there")
    args = parser.parse_args(argv)
    numbers = range(args.n) if args.only is None else [args.only]
    n_wrong = 0
    endings = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for number in numbers:
            root = (args.keep or Path(scratch)) / str(number)
            root.mkdir(parents=True)
            done, wrong, how = check_variant(root, number, args.seed)
            endings[how] += 1
            if wrong:
                n_wrong += 1
                print(f"wrong: variant {number} ({', '.join(done)}): {wrong}", flush=True)
            if not args.keep:
                shutil.rmtree(root)
    for how, count in endings.most_common():
        print(f"{count:>4}  {how}")
    print(f"{len(numbers) - n_wrong} of {len(numbers)} situations (seed {args.seed}) were read "
          "rightly or ended in a sentence that helps")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
