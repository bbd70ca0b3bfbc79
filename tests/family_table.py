"""What passing tests show of each family of models, as the table of docs/reference/families.md.

A test says by the mark `shows` which column it speaks for, and by its parameter `family` which row;
a test of what is refused, by its parameter `refused`. A run brings the cells up that it has tests
for and leaves the others as they are.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from model_families import FAMILIES, REFUSED

COLUMNS = ("conformance", "sites", "building", "bf16", "turns", "thinking", "MoE", "vllm")
PASS = "pass"
# Where there is nothing to test.
_NOTHING = {"MoE": "dense"}
HEAD = """# Families of models

`make families` and `make test-vllm` write this table from the results of their tests. The tests
use tiny random models of each family (4 blocks, random weights) on a CPU: most of the families of
causal language models in transformers. `pass` has these meanings:

- **conformance**: in one batch of many conditions (operations, positions, sites, ranks, maps,
  several vectors), tokens and log probabilities, of generated and of given answers, equal those of
  plain PyTorch hooks on one sequence without padding or cache. Every sequence equals the sequence
  that is decoded alone, greedy and seeded, in any order. The content of the other sequences in a
  batch changes nothing: with others of the same shapes, each logarithm of a probability is the same
  number (in a mixture of experts, up to rounding: 0.00001).
- **sites**: the blocks are those of the text model. `resid_post` of a block equals `resid_pre` of
  the next block. `mlp_out` is the output of the module that was named by hand, in every block.
  Adding there equals adding at `resid_post` exactly if no norm or factor stands between the two.
  Where `-M mlp=` is needed, the engine refuses `mlp_out` without it.
- **building**: a `mean_difference` vector and its residual norm, at each site, equal those of
  plain hooks on one example at a time.
- **bf16**: in bfloat16 too, the content of the other sequences changes nothing (in a mixture of
  experts, less than 0.05). The log probabilities of the first token are those of plain hooks to
  0.25, which is rounding.
- **turns**: a conversation that ends in an assistant message goes on as in `generate` of
  transformers. The token that the chat template puts behind an answer ends an answer, although
  the generation config names another.
- **thinking**: the model does not think unless you ask for it. Training and generation use the
  same prompt. The reasoning is separated from the answer.
- **MoE**: steering changes the input of the router, and does not change the experts of any other
  sequence.
- **vllm**: `-M engine=vllm` gives the same result as the default engine under every condition. In
  float32 the tokens are equal. In bfloat16 the log probabilities of the first token differ by
  less than 0.5 (for `qwen3.5-moe` by less than 1, because rounding can select another expert).
  `make test-vllm` tests `qwen3` and `qwen3.5`. `make test-vllm WHICH=vllm` tests the first twenty
  families in a quarter of an hour.

"""
_REFUSED_HEAD = """
## What is refused

The default engine refuses these, before the first answer, with this line:

"""
_outcomes = pytest.StashKey[dict[tuple[str, str], list[str]]]()


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Take note of how a test went, if it shows anything."""
    mark = item.get_closest_marker("shows")
    if mark is None or report.skipped or (report.when != "call" and report.passed):
        return
    parameters = item.callspec.params  # type: ignore[attr-defined]
    cell = (parameters.get("family") or parameters["refused"], mark.args[0])
    outcome = dict(report.user_properties).get("reason", PASS) if report.passed else "FAILS"
    item.session.stash.setdefault(_outcomes, {}).setdefault(cell, []).append(str(outcome))


def read_table(path: Path) -> dict[tuple[str, str], str]:
    """Cells of the tables in a file, by family and column."""
    cells: dict[tuple[str, str], str] = {}
    columns: list[str] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        first, *others = [cell.strip() for cell in line.strip("|").split("|")]
        if first == "family":
            columns = others
        elif line.startswith("| `"):
            cells |= {
                (first.strip("`"), column): cell
                for column, cell in zip(columns, others, strict=True)
            }
    return cells


def write_table(path: Path, session: pytest.Session) -> None:
    """Bring up the cells that a run has had tests for."""
    cells = read_table(path)
    for cell, outcome in session.stash.get(_outcomes, {}).items():
        failed = ["FAILS"] if "FAILS" in outcome else []
        cells[cell] = next((word for word in failed + outcome if word != PASS), PASS)
    path.write_text(
        HEAD
        + _lines(FAMILIES, COLUMNS, cells)
        + _REFUSED_HEAD
        + _lines(REFUSED, ["refused"], cells)
    )


def _lines(
    families: Iterable[str], columns: Sequence[str], cells: dict[tuple[str, str], str]
) -> str:
    rows = [
        [f"`{family}`"]
        + [cells.get((family, column)) or _NOTHING.get(column, "not tested") for column in columns]
        for family in families
    ]
    return "".join(
        f"| {' | '.join(row)} |\n"
        for row in [["family", *columns], ["---"] * (len(columns) + 1), *rows]
    )
