"""What is installed: three files of versions that agree, and a table that says for which Python."""
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import grandmaster_train
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
