"""What passing tests show of each family of models, as the table of docs/reference/families.md.

A test says by the mark `shows` which column it speaks for, and by its parameter `family` which row.
A run brings the cells up that it has tests for and leaves the others as they are.
"""

from pathlib import Path

import pytest
from tiny_models import FAMILIES

COLUMNS = ("conformance", "sites", "thinking", "MoE", "vllm")
PASS = "pass"
# Where there is nothing to test.
NOTHING = {"thinking": "its templates know none", "MoE": "dense", "vllm": "not tried"}
HEAD = """# Families of models

`make families` and `make test-vllm` write this table from the results of their tests. The tests
use tiny random models of each family (4 blocks, random weights) on a CPU. `pass` has these
meanings:

- **conformance**: in one batch of many conditions (operations, positions, sites, ranks, maps,
  several vectors), tokens and log probabilities equal those of plain PyTorch hooks on one
  sequence without padding or cache. Every sequence equals the sequence that is decoded alone,
  greedy and seeded, in any order.
- **sites**: the blocks are those of the text model. `resid_post` of a block equals `resid_pre` of
  the next block. Adding at `mlp_out` equals adding at `resid_post` exactly if there is no norm
  between them.
- **thinking**: the model does not think unless you ask for it. Training and generation use the
  same prompt. The reasoning is separated from the answer.
- **MoE**: steering changes the input of the router, and does not change the experts of any other
  sequence.
- **vllm**: `-M engine=vllm` gives the same result as the default engine under every condition. In
  float32 the tokens are equal. In bfloat16 the log probabilities of the first token differ by
  less than 0.5 (for `qwen3.5-moe` by less than 1, because rounding can select another expert).
  `make test-vllm` tests `qwen3` and `qwen3.5`. `make test-vllm WHICH=vllm` tests all families in
  a quarter of an hour.

"""
_outcomes = pytest.StashKey[dict[tuple[str, str], list[str]]]()


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Take note of how a test went, if it shows anything."""
    mark = item.get_closest_marker("shows")
    if mark is None or (report.when != "call" and report.passed):
        return
    cell = (item.callspec.params["family"], mark.args[0])  # type: ignore[attr-defined]
    outcome = dict(report.user_properties).get("reason", PASS) if report.passed else "FAILS"
    item.session.stash.setdefault(_outcomes, {}).setdefault(cell, []).append(str(outcome))


def read_table(path: Path) -> dict[tuple[str, str], str]:
    """Cells of the table in a file, by family and column."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| `")
    ]
    return {
        (family.strip("`"), column): cell
        for family, *cells in rows
        for column, cell in zip(COLUMNS, cells, strict=True)
    }


def write_table(path: Path, session: pytest.Session) -> None:
    """Bring up the cells that a run has had tests for."""
    cells = read_table(path)
    for cell, outcome in session.stash.get(_outcomes, {}).items():
        cells[cell] = next((word for word in outcome if word != PASS), PASS)
    lines = [
        f"| family | {' | '.join(COLUMNS)} |",
        "|---" * (len(COLUMNS) + 1) + "|",
        *(
            f"| `{family}` | "
            + " | ".join(
                cells.get((family, column)) or NOTHING.get(column, "not tried")
                for column in COLUMNS
            )
            + " |"
            for family in FAMILIES
        ),
    ]
    path.write_text(HEAD + "\n".join(lines) + "\n")
