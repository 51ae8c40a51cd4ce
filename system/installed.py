"""Whether this Python and its packages will do: said before any package is imported.

    from system import installed      # before all others; ends the command in one sentence if not

It is read by older versions of Python too, so it keeps to what they understand.
"""
import sys
from importlib.util import find_spec
from pathlib import Path

OLDEST_PYTHON = (3, 11)
REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
# packages that are imported by another name
MODULES = {"opencv-python-headless": "cv2", "scikit-learn": "sklearn", "pillow": "PIL"}
NEEDED_ONCE = ("shtab",)      # for one flag alone
INSTALL = "pip install -r requirements.txt -c constraints.txt"


def packages(text):
    """The names in a file of requirements, of what every run needs."""
    lines = [line.partition("#")[0].partition(">=")[0].partition("==")[0].strip()
             for line in text.splitlines()]
    return [line for line in lines if line and line not in NEEDED_ONCE]


def what_is_wrong(python, names):
    """A sentence on the version of Python, or on packages that it lacks; '' if all is well."""
    if python < OLDEST_PYTHON:
        needed, got = (".".join(map(str, version)) for version in (OLDEST_PYTHON, python))
        return (f"Python must be {needed} or newer, and {sys.executable} is {got}: make an "
                f"environment with a newer one (python{needed} -m venv venv), activate it, and "
                f"install into it: {INSTALL}")
    missing = [name for name in names if find_spec(MODULES.get(name, name)) is None]
    if missing:
        first = ", ".join(missing[:3])
        return (f"{sys.executable} lacks {len(missing)} of the packages that are needed ({first}): "
                f"activate the environment where they are, or {INSTALL}")
    return ""


def check():
    """End the command with status 2 if something is wrong."""
    try:
        names = packages(REQUIREMENTS.read_text(encoding="utf-8"))
    except OSError:      # the file is not needed to run
        names = []
    wrong = what_is_wrong(tuple(sys.version_info[:2]), names)
    if wrong:
        sys.stderr.write(f"error: {wrong}\n")
        raise SystemExit(2)


check()
