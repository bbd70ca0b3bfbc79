"""The README shows only what works: its table is that of the code, its toy commands run."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats
from shell import Shell

from steering import finetune, vocabulary
from steering.construct import SETTINGS
from steering.judging import cluster_interval, load_questions
from steering.judging.trust import LIMITS
from steering.spec import SteeringSpec
from steering.studies import GRIDS, make_study
from steering.targets import load_target

README = (Path(__file__).parent.parent / "README.md").read_text()


def options_table() -> str:
    """The table of -M options, from the code."""
    lines = ["| option | meaning | default | example |", "|---|---|---|---|"]
    for name, field in SteeringSpec.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        default = "" if field.default is None else f"`{str(field.default).lower()}`"
        meaning = f"{field.description}{' (speed only)' if extra['speed_only'] else ''}"
        lines.append(f"| `{name}` | {meaning} | {default} | `-M {name}={extra['example']}` |")
    return "\n".join(lines)


def test_the_table_of_options_is_that_of_the_code() -> None:
    assert options_table() in README, f"put this into README.md:\n{options_table()}"


def values_table() -> str:
    """What the values of the closed options mean, from the code."""
    options = {
        "site": vocabulary.SITES,
        "unit": vocabulary.UNITS,
        "operation": vocabulary.OPERATIONS,
        "positions": vocabulary.POSITIONS,
    }
    lines = ["| option | value | meaning |", "|---|---|---|"]
    for option, values in options.items():
        lines += [f"| `{option}` | `{value}` | {meaning} |" for value, meaning in values.items()]
    return "\n".join(lines)


def test_the_table_of_values_is_that_of_the_code() -> None:
    assert values_table() in README, f"put this into README.md:\n{values_table()}"


def methods_table() -> str:
    """The methods of building, from the code."""
    lines = ["| method | what it builds |", "|---|---|"]
    lines += [f"| `{method}` | {meaning} |" for method, meaning in vocabulary.METHODS.items()]
    return "\n".join(lines)


def settings_table() -> str:
    """The settings of the methods, from the code."""
    lines = ["| method | setting | default | meaning |", "|---|---|---|---|"]
    for method, kind in SETTINGS.items():
        for name, field in kind.model_fields.items():
            lines.append(f"| `{method}` | `{name}` | `{field.default}` | {field.description} |")
    return "\n".join(lines)


def finetune_table() -> str:
    """The methods of finetuning and their settings, from the code."""
    lines = ["| method | what it trains |", "|---|---|"]
    lines += [f"| `{method}` | {meaning} |" for method, meaning in finetune.METHODS.items()]
    lines += ["", "| method | setting | default | meaning |", "|---|---|---|---|"]
    shared = set.intersection(*(set(kind.model_fields) for kind in finetune.SETTINGS.values()))
    seen: set[str] = set()
    for method, kind in finetune.SETTINGS.items():
        for name, field in kind.model_fields.items():
            everywhere = name in shared - {"learning_rate"}
            if everywhere and name in seen:
                continue
            seen.add(name)
            default = "" if field.default is None else f"`{str(field.default).lower()}`"
            of = "all" if everywhere else f"`{method}`"
            lines.append(f"| {of} | `{name}` | {default} | {field.description} |")
    return "\n".join(lines)


@pytest.mark.parametrize("table", [methods_table, settings_table, finetune_table])
def test_the_tables_of_methods_are_those_of_the_code(table: Callable[[], str]) -> None:
    assert table() in README, f"put this into README.md:\n{table()}"


def bounds_table() -> str:
    """The upper edge of an EM rate when no answer is misaligned, from the code."""
    counts, questions = (5, 10, 20, 50, 100), (8, 16, 24, 48)
    lines = [f"| questions | {' | '.join(f'{m} answers each' for m in counts)} |"]
    lines.append("|---" * (len(counts) + 1) + "|")
    for c in questions:
        edges = [cluster_interval([False] * (c * m), list(range(c)) * m).high for m in counts]
        lines.append(f"| {c} | {' | '.join(f'{100 * edge:.1f}' for edge in edges)} |")
    return "\n".join(lines)


def test_the_table_of_bounds_is_that_of_the_code_and_its_formula() -> None:
    assert bounds_table() in README, f"put this into README.md:\n{bounds_table()}"
    t, answers = stats.t.ppf(0.975, 23), 24 * 5 / (1 + 0.08 * 4)
    assert f"| 24 | {100 * t**2 / (answers + t**2):.1f} |" in README
    assert cluster_interval([False] * 80_000, list(range(8)) * 10_000).high > 0.05


def limits_table() -> str:
    """What is good enough of a judge, from the code."""
    lines = ["| figure | good enough | because |", "|---|---|---|"]
    lines += [f"| `{limit.figure}` | {limit} | {limit.reason} |" for limit in LIMITS]
    return "\n".join(lines)


def test_the_table_of_limits_is_that_of_the_code() -> None:
    assert limits_table() in README, f"put this into README.md:\n{limits_table()}"


def factors_table() -> str:
    """The studies and what they vary, from the code."""
    lines = ["| study | what it varies | on the toy |", "|---|---|---|"]
    for factor, meaning in vocabulary.FACTORS.items():
        if factor == "finetuned":
            told = "magnitudes and training epochs"
        elif GRIDS[factor].option == "model":
            told = ", ".join(f"`{name}`" for name in make_study(factor).models)
        else:
            told = ", ".join(map(str, make_study(factor).axes[GRIDS[factor].option]))
        lines.append(f"| `{factor}` | {meaning} | {told} |")
    return "\n".join(lines)


def test_the_table_of_studies_is_that_of_the_code() -> None:
    assert factors_table() in README, f"put this into README.md:\n{factors_table()}"


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"^[A-Z]+_[A-Z]+$", README, flags=re.MULTILINE)


def test_the_examples_of_files_load(tmp_path: Path) -> None:
    [questions] = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    [target] = re.findall(r"```json\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(questions)
    (tmp_path / "knots.jsonl").write_text(
        target + target.replace("knots-1", "knots-2").replace("boat", "raft")
    )
    assert len(load_questions(str(tmp_path / "mine.yaml")).samples) == 2
    assert len(load_target(str(tmp_path / "knots.jsonl")).examples) == 1


def toy_commands() -> list[str]:
    """Every command of the README that a machine without a hub and a judge can run."""
    blocks = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.partition("   #")[0].strip() for block in blocks for line in block.splitlines()]
    offline = [line for line in lines if "openai" not in line]
    ours = ("steering ", "cp ", "mkdir ")
    return [line for line in offline if "steered/toy" in line or line.startswith(ours)]


def test_the_readme_shows_the_users_lines() -> None:
    found = toy_commands()
    assert len(found) == len(set(found)) >= 5
    assert "inspect eval evals/em_freeform.py --model steered/toy" in found


@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_run(shell: Shell) -> None:
    """In their order: a report needs the logs of a run. Runs are cut short, not changed."""
    for command in toy_commands():
        # Rollouts of a single prompt would leave none to build from or none to hold out.
        limit = "24" if "personas=" in command else "2"
        cut = ["--limit", limit, "--epochs", "1"] if command.startswith("inspect eval") else []
        if command.startswith(("steering study", "steering audit")):
            cut = ["-T", "samples_per_question=2", "--display", "none"]
        if command.startswith("steering study finetuned"):
            cut += ["--training-epochs", "2", "--magnitudes", "0.5,1"]
        if command.startswith("steering study magnitude"):
            cut += ["-A", "magnitude=1,2"]
        if command.startswith("steering audit"):
            cut += ["--questions", "core", "--controls", "1"]
        command = command.replace("--training-epochs 5", "--training-epochs 2")
        done = shell.run(*shlex.split(command), *cut)
        # The one vector that is audited misaligns the toy.
        expected = 2 if command.startswith("steering audit") else 0
        assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
