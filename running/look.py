"""--look: what was understood of a contest folder, and a page with pictures of each class.

    for line in look(contest, metric, is_asked=False, page=Path("look.html")): print(line)
"""
import time
from html import escape

import numpy as np

from contest.catalog import titles_of
from contest.decoding import decode, read_bytes
from reporting.figures import thumbnail
from utils import seed_of, write_atomic

PICTURES = 3             # of each class
SECONDS = 6.0            # of decoding; classes that come later have a name alone
SIDE_PX = 160
STYLE = ("body{font:16px sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}"
         "pre{white-space:pre-wrap}figure{margin:0 0 1rem}img{margin-right:.5rem}")


def look(contest, metric, is_asked, page):
    """The sentences of a run's beginning; leaves `page`, an HTML file that needs no network."""
    lines = [*contest.describe(metric, is_asked), contest.proof(),
             *(f"warning: {problem.text}" for problem in contest.problems)]
    yield from lines
    write_atomic(page, page_of(contest, lines, time.perf_counter() + SECONDS))
    yield f"pictures of each class: {page.resolve()}"


def page_of(contest, lines, until):
    """The page's HTML. until: by time.perf_counter(), the last moment to decode an image."""
    train = contest.train
    rows = np.random.default_rng(seed_of("look")).permutation(len(train))
    figures = []
    for k, title in enumerate(titles_of(train.classes, contest.class_names)):
        mine = rows[train.of_class(k)[rows]]
        pictures = []
        for row in mine[:PICTURES]:
            if time.perf_counter() < until:
                name = f"{train.sample_id[row]}: {train.title(row, contest.class_names)}"
                pictures.append(picture(train.path[row], name))
        figures.append(f"<figure><figcaption>{escape(title)}, {len(mine)} images</figcaption>"
                       f"{''.join(pictures)}</figure>")
    said = escape("\n".join(lines))
    return (f'<!doctype html><meta charset="utf-8"><title>What was understood</title>'
            f"<style>{STYLE}</style><h1>What was understood</h1><pre>{said}</pre>"
            f"{''.join(figures)}\n")


def picture(path, name):
    """An <img> of a file, or a sentence if it cannot be read; the audit will say why."""
    try:
        image, _, _ = decode(read_bytes(path), SIDE_PX)
    except (OSError, ValueError):      # of many kinds: the page has the other images
        return f"<p>{escape(name)} cannot be read</p>"
    return (f'<img alt="{escape(name)}" title="{escape(name)}" '
            f'src="data:image/jpeg;base64,{thumbnail(image, SIDE_PX)}">')
