"""What is installed: three files of versions that agree, and a table that says for which Python."""
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import grandmaster_train
from system.installed import OLDEST_PYTHON, packages, what_is_wrong
from system.versions import here

ROOT = Path(__file__).resolve().parent.parent
TORCH = ("torch", "torchvision")


def requirements(name):
    """{package: its Requirement} of a file."""
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if re.match(r"[A-Za-z]", line)]
    return {requirement.name.lower(): requirement for requirement in found}


@pytest.mark.parametrize("name", ["constraints-cpu.txt", "constraints-cu126.txt"])
def test_the_three_files_of_versions_differ_in_torch_alone(name):
    usual = requirements("constraints.txt")
    other = requirements(name)
    assert list(usual) == list(other)
    assert {package for package in usual if usual[package] != other[package]} == set(TORCH)


def test_without_a_gpu_and_for_older_ones_pip_finds_no_torch_with_cuda_13():
    assert str(requirements("constraints-cpu.txt")["torch"].specifier).endswith("+cpu")
    assert str(requirements("constraints-cu126.txt")["torch"].specifier).endswith("+cu126")
    usual = requirements("constraints.txt")["torch"].specifier
    plain = Version(str(usual).removeprefix("=="))
    assert not requirements("constraints-cpu.txt")["torch"].specifier.contains(plain)


def test_what_is_required_is_what_the_constraints_pin():
    required = requirements("requirements.txt")
    pinned = requirements("constraints.txt")
    for package, requirement in required.items():
        version = str(pinned[package].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), package


def test_the_project_table_names_this_version_and_a_python_that_is_here():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"].startswith(grandmaster_train.VERSION)
    assert SpecifierSet(project["requires-python"]).contains(here()["python"])
    tested = [c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3" in c]
    assert ".".join(here()["python"].split(".")[:2]) in tested or "3.11" in tested


@pytest.mark.parametrize("command", ["grandmaster_train.py", "run_training.py", "predict.py"])
def test_a_python_without_the_packages_is_told_in_one_sentence(command):
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", f"import runpy, sys; "
                            f"sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({command!r})"],
                           cwd=ROOT, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                           capture_output=True, text=True, timeout=60)
    n = len(packages((ROOT / "requirements.txt").read_text()))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"error: {sys.executable} lacks {n} of the packages that are needed (torch, torchvision, "
        "timm): activate the environment where they are, or pip install -r requirements.txt -c "
        "constraints.txt\n")


def test_an_older_python_is_told_which_one_is_needed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(".".join(map(str, OLDEST_PYTHON)))
    assert not SpecifierSet(project["requires-python"]).contains("3.10")
    assert what_is_wrong((3, 10), []).startswith("Python must be 3.11 or newer, and ")
    assert what_is_wrong((3, 11), packages((ROOT / "requirements.txt").read_text())) == ""


def test_a_package_that_only_completion_needs_stops_no_run():
    assert packages("torch>=2.11\nshtab>=1.7  # completion\n\n# none\n") == ["torch"]
