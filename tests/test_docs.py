"""The documentation shows only what works: pages made by the code are those of the code, commands
run, links lead somewhere.

A fence `sh` is run as it stands, in the order of the page, in a copy of the repository; one with a
title is a file that stands there before; `console` is only shown.
"""

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
from scipy import stats
from shell import BIN, REPO, Shell

from steering.cli import commands
from steering.stats import cluster_interval

PAGES = {
    str(path.relative_to(REPO)): path.read_text()
    for path in [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted(REPO.glob("docs/**/*.md"))]
}
README = PAGES["README.md"]
REFERENCE = runpy.run_path(str(REPO / "docs" / "reference.py"))
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: +title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^ *```$",
    flags=re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    text: str

    def commands(self) -> list[str]:
        """Its lines without comments and what they are continued by."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [kept for line in lines if (kept := line.partition("   #")[0].strip())]


def blocks_of(page: str) -> list[Block]:
    return [
        Block(found["language"], found["title"], found["text"]) for found in _FENCE.finditer(page)
    ]


@pytest.mark.parametrize("name", REFERENCE["PAGES"])
def test_a_page_of_the_reference_is_what_the_code_says(name: str) -> None:
    made = REFERENCE["PAGES"][name]()
    assert PAGES[f"docs/reference/{name}"] == made, "run `make reference`"


def test_the_bounds_of_the_reference_are_those_of_its_formula() -> None:
    t, answers = stats.t.ppf(0.975, 23), 24 * 5 / (1 + 0.08 * 4)
    page = PAGES["docs/reference/metrics.md"]
    assert f"| 24 | {100 * t**2 / (answers + t**2):.1f} |" in page
    assert cluster_interval([False] * 80_000, list(range(8)) * 10_000).high > 0.05


@pytest.mark.parametrize("page", PAGES)
def test_fences_say_what_they_are_and_links_lead_to_files(page: str) -> None:
    told = {block.language for block in blocks_of(PAGES[page])}
    assert told <= {"sh", "console", "text", "python", "bash", "yaml", "json"}
    assert PAGES[page].count("```") == 2 * len(blocks_of(PAGES[page]))
    outside = re.sub(_FENCE, "", PAGES[page])
    for link in re.findall(r"\]\(([^)\s#]+)", outside):
        if "://" not in link:
            assert (REPO / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_is_shown_is_the_file(page: str) -> None:
    for block in blocks_of(PAGES[page]):
        if block.title and (REPO / block.title).is_file():
            assert block.text == (REPO / block.title).read_text(), block.title


def test_the_readme_has_the_users_lines() -> None:
    """All of them are typed by `make test-docs`; tests/test_inspect_cli.py types their like."""
    typed = [c for b in blocks_of(README) if b.language == "sh" for c in b.commands()]
    assert "inspect eval evals/em_freeform.py --model steered/toy" in typed
    assert "make demo" in typed
    assert {"steering build", "steering audit", "steering study"} <= {
        " ".join(command.split()[:2]) for command in typed
    }


def test_every_page_stands_in_the_contents() -> None:
    contents = (REPO / "mkdocs.yml").read_text()
    missing = [
        page
        for page in PAGES
        if page.startswith("docs/") and page.removeprefix("docs/") not in contents
    ]
    assert missing == []
    assert yaml.safe_load(contents)["exclude_docs"] == "*.py"


def test_the_licence_of_every_dependency_is_told() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = [name for extra, names in project["optional-dependencies"].items() if extra != "dev"
              for name in names]  # fmt: skip
    named = [re.split(r"[\[><=]", name)[0] for name in project["dependencies"] + extras]
    assert [name for name in named if name not in PAGES["docs/project/licences.md"]] == []


def test_every_command_stands_in_the_documentation() -> None:
    for name in commands.commands:
        assert any(f"steering {name} " in page for page in PAGES.values()), name


@pytest.mark.parametrize("page", PAGES)
def test_what_the_documentation_types_is_known_to_the_commands(page: str) -> None:
    """Also where it can't be run: options of `steering` are those of its commands."""
    for block in blocks_of(PAGES[page]):
        if block.language not in ("sh", "console"):
            continue
        for line in block.commands():
            if not line.startswith("steering "):
                continue
            words = line.partition(" ||")[0].split()
            told = {word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}
            group = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
            for known in (group, group[:1]):
                shown = CliRunner().invoke(commands, [*known, "--help"])
                if shown.exit_code == 0 and "Commands:" not in shown.output:
                    break
            assert shown.exit_code == 0, line
            options = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", shown.output))
            assert told <= options, f"{line}: {told - options}"


TRIED = [name for name, page in PAGES.items() if any(b.language == "sh" for b in blocks_of(page))]


@pytest.mark.docs
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", TRIED)
def test_a_page_can_be_followed_word_for_word(page: str, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    left = (".git", ".venv*", ".*_cache", "__pycache__", "logs", "vectors", "adapters", "site")
    shutil.copytree(REPO, clone, ignore=shutil.ignore_patterns(*left))
    (clone / ".venv").symlink_to(BIN.parent)
    for asked in ("pyproject.toml", "constraints.txt"):
        os.utime(clone / asked, (0, 0))  # older than the install, which make is to leave alone
    shell = Shell(clone, patience=1500)
    for block in blocks_of(PAGES[page]):
        if block.title is not None:
            (clone / block.title).parent.mkdir(parents=True, exist_ok=True)
            (clone / block.title).write_text(block.text)
        elif block.language == "sh":
            done = shell.run("bash", "-euo", "pipefail", "-c", block.text)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
    assert shell.network_tries() == []
