"""The structure, read from the imports: layers, one training loop, small functions."""
import ast
import re
import sys
from pathlib import Path

import pytest

from system.versions import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
# bottom up: a room imports only from rooms above it in this list
ROOMS = ["utils", "config", "system", "contest", "demo_contest", "data_loader", "shift", "modeling",
         "ensemble", "reporting", "running"]
COMMANDS = ["grandmaster_train", "run_training", "predict"]
FOLDERS = [name for name in ROOMS if (ROOT / name).is_dir()]
PRODUCT = sorted([*ROOT.glob("*.py"), *(p for name in FOLDERS for p in ROOT.glob(f"{name}/*.py"))])


def module_of(path):
    """The dotted name of a file of the product; a folder's own for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): path for path in PRODUCT}


def imported_modules(tree):
    """Names of all modules that a syntax tree imports, and of what it may import from packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path):
    """Modules of the product that a file imports, itself left out."""
    found = set(imported_modules(ast.parse(path.read_text()))) & set(MODULES)
    return found - {module_of(path)}


def test_the_top_folder_holds_the_commands_and_three_modules():
    assert {p.stem for p in ROOT.glob("*.py")} == {*COMMANDS, "config", "data_loader", "utils"}
    assert set(ROOMS) | set(COMMANDS) == {name.split(".")[0] for name in MODULES}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_room_imports_only_from_lower_rooms(path):
    room = module_of(path).split(".")[0]
    used = {name.split(".")[0] for name in own_imports(path)} - {room}
    lower = ROOMS if room in COMMANDS else ROOMS[:ROOMS.index(room)]
    assert used <= set(lower), f"{path.name} imports {sorted(used - set(lower))}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_files_of_a_room_do_not_import_each_other_in_a_circle(folder):
    files = {module_of(p): own_imports(p) for p in ROOT.glob(f"{folder}/*.py")}
    files.pop(folder, None)
    left = {name: used & set(files) for name, used in files.items()}
    while free := {name for name, used in left.items() if not used & set(left)}:
        left = {name: used for name, used in left.items() if name not in free}
    assert not left


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name != "demo_contest"])
def test_a_room_says_what_it_holds_in_the_order_of_reading(folder):
    text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
    listed = re.findall(r"^([a-z_]+)  +\S", text, re.MULTILINE)
    files = [p.stem for p in ROOT.glob(f"{folder}/*.py") if p.stem != "__init__"]
    assert sorted(listed) == sorted(files)
    assert "May import" in text


def test_no_room_holds_more_than_a_quarter_of_the_lines():
    lines = {path: len(path.read_text().splitlines()) for path in PRODUCT}
    for folder in FOLDERS:
        own = sum(n for path, n in lines.items() if path.parent.name == folder)
        share = own / sum(lines.values())
        assert share <= 0.25, f"{folder} holds {share:.0%} of all lines"


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_stand_at_the_top_and_functions_fit_a_screen(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, (
                f"{path.name}:{node.lineno} {node.name} is too long"
            )
            local = [m for m in imported_modules(node) if m in MODULES]
            assert not local, f"{path.name}:{node.lineno} imports {local} inside a function"


def test_there_is_one_training_step_in_the_repository():
    # a virtual environment may lie here
    files = [p for p in ROOT.rglob("*.py") if "site-packages" not in p.parts]
    # other libraries' training, to measure the product against
    peers = set(ROOT.glob("benchmarks/peer_*.py"))
    found = [p for p in files if p not in peers and ".backward" + "(" in p.read_text()]
    assert [p.relative_to(ROOT).as_posix() for p in found] == ["modeling/train.py"]
    assert (ROOT / "modeling/train.py").read_text().count(".backward" + "(") == 1


def test_albumentations_is_imported_in_one_place_and_no_registry_is_named():
    users = [p.name for p in PRODUCT if re.search(r"^(import|from) albumentations", p.read_text(),
                                                  re.MULTILINE)]
    assert users == ["augment.py"]
    for path in [*ROOT.glob("*.txt"), *ROOT.glob("*.md"), *ROOT.glob("*.toml")]:
        assert "pythonhosted" not in path.read_text()


def test_the_product_needs_nothing_beyond_requirements_txt():
    lines = (ROOT / "requirements.txt").read_text().split()
    required = {re.split("[=><]", line)[0].replace("-", "_") for line in lines}
    distribution = {"cv2": "opencv_python_headless", "PIL": "pillow", "sklearn": "scikit_learn"}
    own = {module_of(path).split(".")[0] for path in PRODUCT} | set(sys.stdlib_module_names)
    for path in PRODUCT:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import)
                 for alias in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        tops = {name.split(".")[0] for name in names} - own
        assert {distribution.get(top, top) for top in tops} <= required, path
    assert {name.replace("-", "_") for name in PACKAGES} <= required
