"""README.md and README.ko.md: the same commands, each of which the parsers take, and files that are
there."""
import re
import shlex
from pathlib import Path

import pytest

import predict
from grandmaster_train import config_of, make_parser

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "README.ko.md")


def blocks(name, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"),
                       re.DOTALL | re.MULTILINE)
    return [text for tongue, text in found if tongue == language]


def layout(name):
    """The paths of the layout block, those in a folder with their folder."""
    folder, paths = "", []
    for line in next(b for b in blocks(name, "") if "pipeline.py" in b).splitlines():
        path = line.split()[0]
        folder = folder if line.startswith(" ") else ""
        paths.append(folder + path)
        folder = path if path.endswith("/") else folder
    return paths


def test_both_languages_have_the_same_commands_and_figures():
    for language in ("bash", "python"):
        english, korean = (blocks(name, language) for name in FILES)
        assert english == korean and english
    numbers = [sorted(re.findall(r"(?<!\d)0\.\d{3}(?!\d)",
                                 (ROOT / name).read_text(encoding="utf-8"))) for name in FILES]
    assert numbers[0] == numbers[1]
    text = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    assert all(number in text for number in numbers[0])


@pytest.mark.parametrize("line", [
    line for block in blocks(FILES[0], "bash") for line in block.splitlines() if line])
def test_every_command_is_one_that_the_parsers_take(line):
    for part in line.split("&&"):
        words = shlex.split(part)
        if words[0] == "pip":
            assert all((ROOT / w).exists() for w in words if w.endswith(".txt"))
        elif words[1] == "grandmaster_train.py":
            config_of(make_parser().parse_args(words[2:]))
        elif words[1] == "predict.py":
            predict.make_parser().parse_args(words[2:])
        elif words[0] not in ("tensorboard", "mlflow"):      # optional packages
            assert words[1] in ("run_training.py", "-m") and (words[1] == "-m"
                                                              or (ROOT / words[1]).exists())


@pytest.mark.parametrize("name", FILES)
def test_the_layout_is_that_of_the_repository(name):
    paths = layout(name)
    assert all((ROOT / path).exists() for path in paths)
    modules = {p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.py"),
                                                        *ROOT.glob("modeling/*.py")]}
    assert modules - set(paths) == {"modeling/__init__.py"}
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_the_picture_is_small():
    assert (ROOT / "docs/report.png").stat().st_size < 300_000
