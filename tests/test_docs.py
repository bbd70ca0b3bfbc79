"""The documentation is true: generated pages equal the code, names and links exist, commands run.

A fence `sh` is run as it stands, in the order of the page, in a copy of the repository. A fence
`text` behind it shows lines of its output; their figures may differ. A fence with a title is
written to that file first. A fence `console` is only shown.
"""

import ast
import importlib
import os
import re
import runpy
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from shell import BIN, REPO, Shell

from steering.cli import commands
from steering.stats import cluster_interval

USER_REPO = REPO / "examples" / "user-repo"
PAGES = {
    str(path.relative_to(REPO)): path.read_text()
    for path in [
        REPO / "README.md",
        REPO / "CONTRIBUTING.md",
        USER_REPO / "README.md",
        *sorted(REPO.glob("docs/**/*.md")),
    ]
}
README = PAGES["README.md"]
REFERENCE = runpy.run_path(str(REPO / "docs" / "reference.py"))
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: +title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^ *```$",
    flags=re.DOTALL | re.MULTILINE,
)
_MEMBERS = re.compile(r"^::: (\S+)\n    options:\n      members: \[(.+)\]$", flags=re.MULTILINE)
_ROOMS = "steering|evals|tests|datasets|docs|examples|benchmarks"
_PATH = re.compile(rf"`((?:{_ROOMS})/[\w./-]*(?:\.\w+|/))`")


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    text: str

    def commands(self) -> list[str]:
        """The commands of the block, with continued lines joined and comments removed."""
        lines = self.text.replace("\\\n", " ").splitlines()
        commands = [line.partition("   #")[0].strip() for line in lines]
        return [command for command in commands if command]


def blocks_of(page: str) -> list[Block]:
    return [
        Block(match["language"], match["title"], match["text"]) for match in _FENCE.finditer(page)
    ]


def prose_of(page: str) -> str:
    return re.sub(_FENCE, "", page)


@pytest.mark.parametrize("name", REFERENCE["PAGES"])
def test_a_generated_page_equals_the_output_of_its_function(name: str) -> None:
    assert PAGES[f"docs/reference/{name}"] == REFERENCE["PAGES"][name](), "run `make reference`"


def test_the_bounds_in_the_reference_are_those_of_the_intervals() -> None:
    page = PAGES["docs/reference/metrics.md"]
    # On these questions none of 120 answers gives Clopper and Pearson's 1 - 0.025^(1/120).
    assert f"| 24 | {100 * (1 - 0.025 ** (1 / 120)):.1f} |" in page
    bound = cluster_interval([False] * 120, list(range(24)) * 5).high
    assert f"| 24 | {100 * bound:.1f} |" in page
    assert cluster_interval([False] * 80_000, list(range(8)) * 10_000).high > 0.25


@pytest.mark.parametrize("page", PAGES)
def test_fences_name_a_language_and_are_closed(page: str) -> None:
    blocks = blocks_of(PAGES[page])
    languages = {block.language for block in blocks}
    assert languages <= {"sh", "console", "text", "python", "bash", "yaml", "json"}
    assert PAGES[page].count("```") == 2 * len(blocks)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_exist(page: str) -> None:
    prose = prose_of(PAGES[page])
    for link, _, anchor in re.findall(r"\]\(([^)\s#]*)(#([^)\s]+))?\)", prose):
        if "://" in link:
            continue
        file = (REPO / page).parent / link if link else REPO / page
        assert file.exists(), link
        assert not anchor or anchor in anchors_of(file.read_text()), f"{link}#{anchor}"
    for path in _PATH.findall(prose):
        assert (REPO / path).exists() or (USER_REPO / path).exists(), path


def anchors_of(page: str) -> list[str]:
    """The anchors that the site gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return [re.sub(r"[^\w\s-]", "", h).strip().lower().replace(" ", "-") for h in headings]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_a_file_as_it_is(page: str) -> None:
    for block in blocks_of(PAGES[page]):
        if block.title and (REPO / block.title).is_file():
            assert block.text == (REPO / block.title).read_text(), block.title


@pytest.mark.parametrize("page", PAGES)
def test_python_names_on_a_page_can_be_imported(page: str) -> None:
    names = re.findall(r"^::: (steering[\w.]+)$", prose_of(PAGES[page]), flags=re.MULTILINE)
    for block in blocks_of(PAGES[page]):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and node.module:
                    names += [f"{node.module}.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.Import):
                    names += [alias.name for alias in node.names]
    for name in names:
        assert is_importable(name), name
    for name, members in _MEMBERS.findall(PAGES[page]):
        module, _, attribute = name.rpartition(".")
        documented = getattr(importlib.import_module(module), attribute)
        for member in members.split(", "):
            assert hasattr(documented, member) or member in documented.__annotations__, member


def is_importable(name: str) -> bool:
    """Whether `name` is a module, or an attribute of a module."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return bool(module) and hasattr(importlib.import_module(module), attribute)
    return True


@pytest.mark.parametrize("page", PAGES)
def test_extras_on_a_page_are_those_of_the_project(page: str) -> None:
    installs = re.findall(r"pip install [^\n]*\.\[([\w,]+)\]", PAGES[page])
    extras = {extra for install in installs for extra in install.split(",")}
    extras |= set(re.findall(r"\bextra `(\w+)`", PAGES[page]))
    assert extras <= EXTRAS.keys()


def test_the_readme_has_the_main_commands() -> None:
    """`make test-docs` runs all of them; tests/test_inspect_cli.py runs similar ones."""
    lines = [c for b in blocks_of(README) if b.language == "sh" for c in b.commands()]
    assert "inspect eval evals/em_freeform.py --model steered/toy" in lines
    assert "make demo" in lines
    assert {"steering build", "steering audit", "steering study"} <= {
        " ".join(line.split()[:2]) for line in lines
    }


def test_the_contents_list_every_page() -> None:
    contents = (REPO / "mkdocs.yml").read_text()
    missing = [
        page
        for page in PAGES
        if page.startswith("docs/") and page.removeprefix("docs/") not in contents
    ]
    assert missing == []
    assert yaml.safe_load(contents)["exclude_docs"] == "*.py"


def test_the_page_on_licences_lists_every_dependency() -> None:
    extras = [name for extra, names in EXTRAS.items() if extra != "dev" for name in names]
    packages = [re.split(r"[\[><=]", name)[0] for name in PROJECT["dependencies"] + extras]
    page = PAGES["docs/project/licences.md"]
    assert [name for name in packages if name not in page] == []


def test_the_documentation_shows_every_command() -> None:
    for name in commands.commands:
        assert any(f"steering {name} " in page for page in PAGES.values()), name


@pytest.mark.parametrize("page", PAGES)
def test_options_on_a_page_are_those_of_the_command(page: str) -> None:
    """Also of commands that cannot be run here."""
    for block in blocks_of(PAGES[page]):
        if block.language not in ("sh", "console"):
            continue
        for line in block.commands():
            if not line.startswith("steering "):
                continue
            words = line.partition(" ||")[0].split()
            options = {word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}
            group = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
            for command in (group, group[:1]):
                result = CliRunner().invoke(commands, [*command, "--help"])
                if result.exit_code == 0 and "Commands:" not in result.output:
                    break
            assert result.exit_code == 0, line
            allowed = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", result.output))
            assert options <= allowed, f"{line}: {options - allowed}"


RUNNABLE = [
    name for name, page in PAGES.items() if any(b.language == "sh" for b in blocks_of(page))
]


def without_outputs(folder: str, names: list[str]) -> set[str]:
    """The `names` in `folder` that a fresh clone does not have."""
    ignored = [".git", ".venv*", ".*_cache", "__pycache__"]
    if Path(folder) == REPO:
        ignored += ["logs", "vectors", "adapters", "site"]
    return shutil.ignore_patterns(*ignored)(folder, names)


@pytest.mark.docs
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", RUNNABLE)
def test_a_page_can_be_followed_word_for_word(page: str, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(REPO, clone, ignore=without_outputs)
    (clone / ".venv").symlink_to(BIN.parent)
    for path in ("pyproject.toml", "constraints.txt"):
        os.utime(
            clone / path, (0, 0)
        )  # older than the installation, so that make does not repeat it
    shell = Shell(clone, patience=1500)
    output = ""
    for block in blocks_of(PAGES[page]):
        if block.title is not None:
            (clone / block.title).parent.mkdir(parents=True, exist_ok=True)
            (clone / block.title).write_text(block.text)
        elif block.language == "sh":
            process = shell.run("bash", "-euo", "pipefail", "-c", block.text)
            output = process.stdout + process.stderr
            assert process.returncode == 0, f"{block.text}\n{output}"
        elif block.language == "text":
            missing = wording_of(block.text) - wording_of(output)
            assert not missing, f"not in the output: {missing}\n{output}"
    assert shell.network_tries() == []


def wording_of(output: str) -> set[str]:
    """The lines of an output, without their figures and widths."""
    lines = [re.sub(r"\d[\d.,]*", "0", re.sub("─+", "─", line)) for line in output.splitlines()]
    return {" ".join(line.split()) for line in lines}
