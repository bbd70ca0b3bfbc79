"""The house: who imports whom, what stays light, how long modules are, how things are named."""

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ARCHITECTURE = REPOSITORY / "docs" / "project" / "architecture.md"

# From top to bottom: a room may import those below it, and itself.
ROOMS = [
    "evals",
    "steering.cli",
    "steering.studies",
    "steering.reports",
    "steering.results",
    "steering.judging",
    "steering.questions",
    "steering.stats",
    "steering.api",
    "steering.provider",
    "steering.condition",
    "steering.spec",
    "steering.training",
    "steering.engines",
    "steering.vectors",
    "steering.models",
    "steering.targets",
    "steering.toy",
    "steering.logs",
    "steering.foreign",
    "steering.text",
]
# These import nothing of the project, not even one another.
LEAVES = [
    "steering.vocabulary",
    "steering.evaluated_model",
    "steering.errors",
    "steering.data",
    "steering.files",
]
# Inspect opens every room through it; no room imports it.
ENTRY_POINT = "steering._registry"
# The package itself has the version and the names of the public functions.
PACKAGE = "steering"

MAX_LINES = 400

# Past participles that say nothing of what a variable holds. Terms of the field are no such words:
# steered, finetuned, aligned, coherent, truncated.
PARTICIPLES = {
    *("asked", "brought", "chosen", "counted", "done", "drawn", "found", "given", "gone", "held"),
    *("kept", "known", "left", "made", "meant", "mine", "named", "own", "said", "seen", "shown"),
    *("taken", "theirs", "thought", "told", "understood", "written"),
}


def _module(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    _module(path): path
    for package in ("steering", "evals")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}
TREES = {
    module: ast.parse(path.read_text(encoding="utf-8"), str(path))
    for module, path in MODULES.items()
}


def imports_of(tree: ast.AST) -> set[str]:
    """Modules that a file imports anywhere: in functions and under TYPE_CHECKING too."""
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            assert node.module
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            outer = {node.module} if len(inner) < len(node.names) else set()
            modules |= inner | outer
    return modules


def room_of(module: str) -> str:
    """The room of a module of the project."""
    if module == PACKAGE:
        return PACKAGE
    for room in [*ROOMS, *LEAVES, ENTRY_POINT]:
        if module == room or module.startswith(room + "."):
            return room
    raise AssertionError(f"{module} is in no room: add its room to tests/test_house.py")


def may_import(room: str, other: str) -> bool:
    """Whether one room may import another."""
    if other in (room, PACKAGE) or room == ENTRY_POINT:
        return True
    if other in LEAVES:
        return room in ROOMS
    return other in ROOMS and room in ROOMS and ROOMS.index(other) > ROOMS.index(room)


def arrows() -> dict[str, set[str]]:
    """The other rooms that each room imports."""
    rooms: dict[str, set[str]] = {room: set() for room in [*ROOMS, *LEAVES]}
    for module, tree in TREES.items():
        if (room := room_of(module)) in rooms:
            names = {name for name in imports_of(tree) if name.split(".")[0] in (PACKAGE, "evals")}
            rooms[room] |= {room_of(name) for name in names} - {room, PACKAGE}
    return rooms


def test_imports_run_downward_only() -> None:
    upward = [
        f"{module} imports {name}"
        for module, tree in TREES.items()
        for name in sorted(imports_of(tree))
        if name.split(".")[0] in (PACKAGE, "evals")
        and not may_import(room_of(module), room_of(name))
    ]
    assert upward == []


def test_the_rule_itself_tells_up_from_down() -> None:
    for room, other, allowed in (
        ("steering.provider", "steering.spec", True),
        ("steering.spec", "steering.provider", False),
        ("steering.vectors", "steering.vectors", True),
        ("steering.toy", "steering.errors", True),
        ("steering.errors", "steering.data", False),
        ("steering.errors", "steering.toy", False),
        ("steering.errors", "steering", True),
        ("steering", "steering.errors", False),
        ("steering._registry", "steering.provider", True),
        ("steering.cli", "steering._registry", False),
    ):
        assert may_import(room, other) == allowed, (room, other)


def test_an_import_is_seen_wherever_it_stands() -> None:
    tree = ast.parse(
        "import steering.toy\n"
        "from steering import spec, __version__\n"
        "if TYPE_CHECKING:\n    from steering.vectors import SteeringVector\n"
        "def work():\n    from steering.engines import hf\n"
    )
    assert imports_of(tree) == {
        "steering.toy",
        "steering",
        "steering.spec",
        "steering.vectors",
        "steering.engines.hf",
    }


def test_the_page_on_the_architecture_has_each_room_with_what_it_imports() -> None:
    """A row a room, from top to bottom: the room, what it does, which rooms it imports."""
    page = ARCHITECTURE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \|$", page, flags=re.MULTILINE)
    documented = {room: set(re.findall(r"`(\w+)`", imports)) for room, imports in rows}
    assert [room for room, _ in rows] == ROOMS
    actual = arrows()
    for room in ROOMS:
        names = {name.removeprefix("steering.") for name in actual[room] if name not in LEAVES}
        assert documented[room] == names, f"{room} imports {sorted(names)}"
    assert all(f"`{leaf.partition('.')[2]}`" in page for leaf in LEAVES)


def test_one_file_of_each_engine_uses_nnsight() -> None:
    users = {
        module
        for module, tree in TREES.items()
        if any(name.split(".")[0] == "nnsight" for name in imports_of(tree))
    }
    assert users == {"steering.engines._nnsight", "steering.engines._vllm"}


def test_no_module_is_too_long_to_read_in_one_sitting() -> None:
    lengths = {
        module: len(path.read_text(encoding="utf-8").splitlines())
        for module, path in MODULES.items()
    }
    assert {module: n for module, n in lengths.items() if n > MAX_LINES} == {}


def test_every_module_says_what_it_holds() -> None:
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_no_two_classes_share_a_name() -> None:
    classes = Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name: count for name, count in classes.items() if count > 1} == {}


def bindings_of(tree: ast.AST) -> Iterator[str]:
    """Names that a file binds: variables and parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def participles() -> tuple[Counter[str], int]:
    """How often each empty participle is bound in the product, and the number of all bindings."""
    names = Counter(name for tree in TREES.values() for name in bindings_of(tree))
    empty = {name: count for name, count in names.items() if name.strip("_") in PARTICIPLES}
    return Counter(empty), names.total()


def test_variables_are_nouns_and_not_empty_participles() -> None:
    empty, total = participles()
    assert empty.total() < 0.01 * total, f"{empty.total()} of {total}: {empty.most_common(20)}"


def test_what_is_heavy_is_not_loaded_where_options_questions_and_judges_are_read() -> None:
    """In one process, since each start takes seconds: what needs least is imported first."""
    slow = ["torch", "transformers"]
    modules = {
        "steering.cli": [*slow, "inspect_ai", "gguf", "numpy"],
        "steering.spec": [*slow, "inspect_ai"],
        "steering.engines.settings": slow,
        "steering.targets": slow,
        "steering.judging": [*slow, "nnsight", "scipy", "pandas"],
        "steering.judging.tasks": [*slow, "nnsight", "scipy", "pandas"],
        "steering.questions": slow,
        "steering.toy": slow,
        "steering.toy.grammar": slow,
        "steering.toy.judge": slow,
        "steering.results": ["torch"],
        "steering._registry": ["torch"],
    }
    code = (
        "import importlib, sys\n"
        f"for name, heavy in {modules!r}.items():\n"
        "    importlib.import_module(name)\n"
        "    assert not set(heavy) & set(sys.modules), (name, set(heavy) & set(sys.modules))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert process.returncode == 0, process.stderr


# What Inspect has behind an underscore alone, and what is asked of it there.
PRIVATE_TO_INSPECT = {
    "PrerequisiteError": "an error that ends the command in one line",
    "ModelGenerateError": "the provider's error behind a failed call of a judge",
    "active_model": "the model under evaluation, while a task is made",
    "active_generate_config": "the settings that the command line gave the model",
    "sample_active": "the sample that a request belongs to",
    "parse_model_role_cli_args": "judges as Inspect's command line reads them",
}
DOORS = (
    "inspect_ai",
    *(f"inspect_ai.{name}" for name in ("model", "log", "util", "scorer", "hooks")),
)


def test_what_is_private_to_inspect_is_imported_only_while_no_public_door_has_it() -> None:
    private = {
        alias.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and re.match(r"inspect_ai\b.*\._", node.module or "")
        for alias in node.names
    }
    assert private == set(PRIVATE_TO_INSPECT)
    opened = [
        f"from {door} import {name}"
        for door in DOORS
        for name in private
        if hasattr(importlib.import_module(door), name)
    ]
    assert opened == []
