"""The structure of DESIGN.md, read from the imports: levels, one training loop, small functions."""
import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEVELS = [
    ["utils"], ["config", "demo_contest"], ["files"], ["submission"], ["tables"], ["intake"], ["audit"], ["data_loader"],
    ["modeling.network", "modeling.kernels", "modeling.augment", "modeling.losses", "modeling.optim", "modeling.metrics"],
    ["modeling.memory", "modeling.compute", "modeling.traces"], ["modeling.inference"],
    ["modeling.train", "modeling.orientation", "modeling.groups", "modeling.review", "modeling.figures"],
    ["modeling.shift", "modeling.targets", "modeling.ensemble", "modeling.executor", "modeling.report", "modeling.plan",
     "modeling.trackers"],
    ["modeling.fits"], ["modeling.costs", "modeling.blend"], ["modeling.planner", "modeling.page", "modeling.predictor"],
    ["modeling.pipeline", "modeling.export", "modeling.checks"],
    ["grandmaster_train", "run_training", "predict"],
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
PRODUCT = sorted(p for p in [*ROOT.glob("*.py"), *ROOT.glob("modeling/*.py"), *ROOT.glob("demo_contest/*.py")])


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "demo_contest" if parts[0] == "demo_contest" else ".".join(parts)


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_lower_levels(path):
    name = module_of(path)
    if name == "modeling.__init__":
        return
    used = {m for m in imported_modules(ast.parse(path.read_text())) if m in LEVEL}
    used |= {"demo_contest" for m in imported_modules(ast.parse(path.read_text())) if m.startswith("demo_contest.")}
    # the other commands share the first one's manners, and the parts of demo_contest are one module
    allowed = {"run_training": {"grandmaster_train"}, "predict": {"grandmaster_train"},
               "demo_contest": {"demo_contest"}}.get(name, set())
    assert {m for m in used if LEVEL[m] >= LEVEL[name]} <= allowed


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_stand_at_the_top_and_functions_fit_a_screen(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{path.name}:{node.lineno} {node.name} is too long"
            local = [m for m in imported_modules(node) if m in LEVEL]
            assert not local, f"{path.name}:{node.lineno} imports {local} inside a function"


def test_there_is_one_training_step_in_the_repository():
    files = [p for p in ROOT.rglob("*.py") if "site-packages" not in p.parts]     # a virtual environment may lie here
    peers = set(ROOT.glob("benchmarks/peer_*.py"))      # other libraries' training, to measure the product against
    found = [p for p in files if p not in peers and ".backward" + "(" in p.read_text()]
    assert [p.relative_to(ROOT).as_posix() for p in found] == ["modeling/train.py"]
    assert (ROOT / "modeling/train.py").read_text().count(".backward" + "(") == 1


def test_albumentations_is_imported_in_one_place_and_no_registry_is_named():
    users = [p.name for p in PRODUCT if re.search(r"^(import|from) albumentations", p.read_text(), re.MULTILINE)]
    assert users in (["augment.py"], [])
    for path in [*ROOT.glob("*.txt"), *ROOT.glob("*.md"), *ROOT.glob("*.toml")]:
        assert "pythonhosted" not in path.read_text()


def test_the_product_needs_nothing_beyond_requirements_txt():
    lines = (ROOT / "requirements.txt").read_text().split()
    required = {re.split("[=><]", line)[0].replace("-", "_") for line in lines}
    distribution = {"cv2": "opencv_python_headless", "PIL": "pillow", "sklearn": "scikit_learn"}
    own = {module_of(path).split(".")[0] for path in PRODUCT} | set(sys.stdlib_module_names)
    for path in PRODUCT:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
        tops = {name.split(".")[0] for name in names} - own
        assert {distribution.get(top, top) for top in tops} <= required, path
    packages = re.search(r"packages = \((.*?)\)", (ROOT / "modeling/pipeline.py").read_text(), re.DOTALL)[1]
    assert {p.replace("-", "_") for p in re.findall(r'"(.*?)"', packages)} <= required
