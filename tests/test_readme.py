"""The papers: every command is one that its own parser takes, every link leads to a file, every
figure stands in a record, and pages are short."""
import argparse
import importlib
import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

import predict
from config import BACKBONES
from grandmaster_train import config_of, make_parser

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.ko.md")
DOCS = tuple(sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
RESULTS = "benchmarks/RESULTS.md"
RECORDS = tuple(sorted(path.relative_to(ROOT).as_posix()
                       for path in ROOT.glob("benchmarks/records/*.md")))
PAGES = (*READMES, "CONTRIBUTING.md", *DOCS, RESULTS)
MOST_LINES = 120
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
OPTIONAL = ("tensorboard", "mlflow", "ruff", "mutmut")        # not installed with requirements.txt


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    """The fenced blocks of a page in that language."""
    return [textwrap.dedent(text) for _, tongue, text in FENCED.findall(read(name))
            if tongue == language]


def links(name):
    """The files that a page links to, relative to the repository."""
    targets = re.findall(r"\]\(([^)#]+)", FENCED.sub("", read(name)))
    folder = (ROOT / name).parent
    return [(folder / target).resolve() for target in targets if "://" not in target]


def commands(name):
    """Every command of a page: lines of bash blocks, and code in a sentence that is one."""
    lines = [line for block in blocks(name, "bash") for line in block.splitlines()]
    prose = FENCED.sub("", read(name))
    lines += [" ".join(code.split())
              for code in re.findall(r"`((?:[A-Z_]+=\S+ )?python [^`]+|(?:uv )?pip [^`]+)`", prose)]
    # settings alone: of the mode that has them all
    lines += [f"python grandmaster_train.py --mode competition_ready {code}"
              for code in re.findall(r"`(--set [^`]*=[^`]*)`", prose)]
    return [part.strip() for line in lines if line.strip() and not line.startswith("#")
            and "..." not in line for part in line.split("&&")]


# ---------------------------------------------------------------- commands

class Parsed(Exception):
    """A benchmark's parser took its arguments; nothing else of it runs."""


def check_module(name, words, monkeypatch):
    """`python -m name words`: parsed by what the module's main() builds."""
    main = importlib.import_module(name).main
    parse = argparse.ArgumentParser.parse_args

    def stop(self, argv=None, namespace=None):
        parse(self, argv, namespace)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [name, *words])
        with pytest.raises((Parsed, SystemExit)) as raised:
            main()
    assert raised.type is Parsed or raised.value.code == 0      # 0: --help
    if "--" in words:       # what the benchmark passes on to a run
        config_of(make_parser().parse_args(words[words.index("--") + 1:]))


def check_python(words, monkeypatch):
    """What follows `python` in a command."""
    script, *rest = words
    if script == "-c":
        compile(rest[0], "-c", "exec")
    elif script == "-m" and rest[0] == "pytest":
        assert all((ROOT / word.split("::")[0]).exists() for word in rest if word.endswith(".py"))
    elif script == "-m":
        check_module(rest[0], rest[1:], monkeypatch)
    elif script == "grandmaster_train.py" and rest[:1] == ["--help"]:
        with pytest.raises(SystemExit):
            make_parser().parse_args(rest)
    elif script == "grandmaster_train.py":
        config_of(make_parser().parse_args(rest))
    elif script == "predict.py":
        predict.make_parser().parse_args(rest)
    else:
        assert script == "run_training.py" and not rest


def check(command, monkeypatch):
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):       # an environment variable
        words = words[1:]
    if words[0] == "python":
        check_python(words[1:], monkeypatch)
    elif words[0] in ("pip", "uv"):
        assert all((ROOT / word).exists() for word in words if word.endswith(".txt"))
    elif words[0] == "bash":
        assert (ROOT / words[1]).exists()
    else:
        assert words[0] in OPTIONAL


@pytest.mark.parametrize(("name", "command"), [(name, command) for name in PAGES
                                               for command in dict.fromkeys(commands(name))])
def test_every_command_is_one_that_its_parser_takes(name, command, monkeypatch):
    check(command, monkeypatch)


@pytest.mark.parametrize("command", [
    "python grandmaster_train.py --mod full_training", "python predict.py --export onx RUN",
    "python grandmaster_train.py --set optim.epoch=3", "python -m benchmarks.memory --no_such",
    "python -m benchmarks.seeds DIR A.csv -- --set a=b", "python no_such.py", "rm -r /",
    "pip install -r no_such.txt"])
def test_a_command_that_no_parser_takes_is_seen(command, monkeypatch):
    with pytest.raises((Exception, SystemExit)):
        check(command, monkeypatch)


@pytest.mark.parametrize("name", PAGES)
def test_every_python_block_compiles(name):
    for text in blocks(name, "python"):
        compile(text, name, "exec")


# ---------------------------------------------------------------- pages

@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short(name):
    assert len(read(name).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", [*PAGES, *RECORDS])
def test_every_link_leads_to_a_file(name):
    assert links(name)
    for target in links(name):
        assert target.exists(), target


def test_the_readme_leads_to_every_page_and_folder():
    linked = {path.relative_to(ROOT).as_posix() for path in links("README.md")}
    assert {*DOCS, RESULTS, "CONTRIBUTING.md"} <= linked
    folders = {path.parent.name for path in [*ROOT.glob("[!.]*/*.py"), *ROOT.glob("[!.]*/*.md")]}
    assert folders <= {target.split("/")[0] for target in linked}
    assert all(path.name in read("README.md") for path in ROOT.glob("*.py"))


def test_both_languages_have_the_same_commands_links_and_figures():
    english, korean = READMES
    assert blocks(english, "bash") == blocks(korean, "bash")
    assert {p for p in links(english) if p.name not in READMES} == {
        p for p in links(korean) if p.name not in READMES}
    assert figures(english) == figures(korean)


def figures(name):
    return set(re.findall(r"(?<![\d.=])0\.\d{3,4}(?!\d)", read(name)))


@pytest.mark.parametrize("name", [*READMES, *DOCS, RESULTS])
def test_every_figure_stands_in_a_record(name):
    pages = RECORDS if name == RESULTS else (RESULTS, *RECORDS)
    measured = "\n".join(map(read, pages))
    assert [figure for figure in sorted(figures(name)) if figure not in measured] == []


def test_the_index_of_records_is_complete():
    listed = re.findall(r"^- \[.*?\]\((records/.*?)\): .+", read(RESULTS), re.MULTILINE)
    assert [f"benchmarks/{path}" for path in listed] == list(RECORDS)


def test_the_table_of_weights_is_that_of_the_config():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", read("docs/weights.md"), re.MULTILINE)
    table = {family: tuple(names.split(" | ")) for family, names in rows}
    assert {family: table.get(family) for family in BACKBONES} == BACKBONES


@pytest.mark.parametrize("row", [
    line for line in read("docs/faults.md").splitlines() if re.match(r"\| (?!what |---)", line)])
def test_every_promise_names_tests_that_are_where_it_says(row):
    """A test without a path is in the file named before it, else in tests/test_faults.py."""
    where = "tests/test_faults.py"
    n_tests = 0
    for path, name in re.findall(r"`(?:(tests/\w+\.py)::)?(test_\w+)(?:\.\.\.)?`", row):
        where = path or where
        found = re.findall(rf"^def ({name}\w*)\(", read(where), re.MULTILINE)
        assert found and (f"{name}..." in row or name in found), f"{where}::{name}"
        n_tests += 1
    assert n_tests


def test_what_contributing_names_is_there():
    named = re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", read("CONTRIBUTING.md"))
    assert named
    for name, path in named:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert hasattr(module, name), f"{path} has no {name}"


def test_the_picture_is_small():
    assert (ROOT / "docs/report.png").stat().st_size < 300_000
