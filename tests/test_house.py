"""The order of the rooms: who may import whom, what stays light, and how long a module may be."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# From top to bottom: a room may import those below it, and itself.
ROOMS = [
    "evals",
    "steering.cli",
    "steering.studies",
    "steering.reports",
    "steering.judging",
    "steering.provider.api",
    "steering.provider.messages",
    "steering.condition",
    "steering.spec",
    "steering.training.finetune",
    "steering.studies.finetuning_shift",
    "steering.training.cache",
    "steering.engines",
    "steering.vectors.batch",
    "steering.vectors.interventions",
    "steering.vectors.formats",
    "steering.models.adapters",
    "steering.vectors.subspace",
    "steering.vectors.controls",
    "steering.vectors.steering_vector",
    "steering.models",
    "steering.targets",
    "steering.logs",
    "steering.toy",
]
# These import nothing of the project, one another included.
LEAVES = [
    "steering.vocabulary",
    "steering.evaluated_model",
    "steering.errors",
    "steering.data",
    "steering.files",
]
# Opens every room at Inspect's request; nobody opens it from within.
DOOR = "steering._registry"
# Everybody may ask for the version.
NAME = "steering"

MAX_LINES = 400


def _module(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    _module(path): path
    for package in ("steering", "evals")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}


def _imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere: in functions and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: a relative import"
            assert node.module
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            outer = {node.module} if len(inner) < len(node.names) else set()
            found |= inner | outer
    return found


def _room(module: str) -> str:
    """The room that a module of the project stands in."""
    if module == NAME:
        return NAME
    for room in [*ROOMS, *LEAVES, DOOR]:
        if module == room or module.startswith(room + "."):
            return room
    raise AssertionError(f"{module} stands in no room: say in this file where it belongs")


def _may_import(room: str, other: str) -> bool:
    if other in (room, NAME) or room == DOOR:
        return True
    if other in LEAVES:
        return room in ROOMS
    return other in ROOMS and room in ROOMS and ROOMS.index(other) > ROOMS.index(room)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward_only(module):
    room = _room(module)
    own = {name for name in _imports(MODULES[module]) if name.split(".")[0] in (NAME, "evals")}
    upward = sorted(name for name in own if not _may_import(room, _room(name)))
    assert not upward, f"{module} imports {upward}"


@pytest.mark.parametrize(
    ("room", "other", "allowed"),
    [
        ("steering.provider.api", "steering.spec", True),
        ("steering.spec", "steering.provider.api", False),
        ("steering.vectors.steering_vector", "steering.vectors.steering_vector", True),
        ("steering.toy", "steering.errors", True),
        ("steering.errors", "steering.data", False),
        ("steering.errors", "steering.toy", False),
        ("steering.errors", "steering", True),
        ("steering", "steering.errors", False),
        ("steering._registry", "steering.provider.api", True),
        ("steering.cli", "steering._registry", False),
    ],
)
def test_the_rule_itself_knows_up_from_down(room, other, allowed):
    assert _may_import(room, other) == allowed


def test_an_import_is_seen_wherever_it_stands(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        "import steering.toy\n"
        "from steering import spec, __version__\n"
        "if TYPE_CHECKING:\n    from steering.vectors.steering_vector import SteeringVector\n"
        "def work():\n    from steering.engines import hf\n"
    )
    assert _imports(source) == {
        "steering.toy",
        "steering",
        "steering.spec",
        "steering.vectors.steering_vector",
        "steering.engines.hf",
    }


def test_the_page_on_the_architecture_lists_the_rooms_in_their_order():
    page = (REPOSITORY / "docs" / "project" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w.]+)` \|", page, flags=re.MULTILINE) == ROOMS
    assert all(f"`{leaf.partition('.')[2]}`" in page for leaf in LEAVES)


def test_one_file_of_each_engine_speaks_to_nnsight():
    speaking = {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] == "nnsight" for name in _imports(path))
    }
    assert speaking == {"steering.engines._nnsight", "steering.engines._vllm"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_read_in_one_go(module):
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines: split it"


@pytest.mark.parametrize(
    "module",
    [
        "steering.spec",
        "steering.targets",
        "steering.judging",
        "steering._registry",
        "steering.toy",
        "steering.toy.grammar",
        "steering.toy.judge",
    ],
)
def test_torch_is_not_loaded_by(module):
    """Options, questions and judges are read on machines, and in times, that have no torch."""
    code = f"import sys, {module}; sys.exit('torch was loaded' if 'torch' in sys.modules else 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
