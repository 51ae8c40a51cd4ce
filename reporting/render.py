"""A template of this folder -> a page on disk. Text is escaped."""
from pathlib import Path

import jinja2

from utils import printable, write_atomic

HERE = Path(__file__).parent


def render(template, path, content):
    """Write a page."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True,
                                     trim_blocks=True, lstrip_blocks=True, finalize=shown,
                                     undefined=jinja2.StrictUndefined)
    write_atomic(path, environment.get_template(template).render(content))


def shown(value):
    """A value of a template, a text in one line. HTML stays as it is: what macros return."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return printable(value) if is_text else value
