"""The residual norm of every block of a model, against plain PyTorch hooks.

    python -m benchmarks.residual_norms MODEL_FOLDER [--examples 16]

The answers are the misaligned ones of the target task `medical`. The hooks are on a model that
transformers loads and on texts that its tokenizer renders: of this suite they share only the rows.
Writes results/residual_norms.md.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.engines import shared_engine
from steering.models import find_model
from steering.targets import Example, load_target
from steering.training.probe import ModelProbe

RESULTS = Path(__file__).with_name("results") / "residual_norms.md"
HEAD = """# Residual norms

Written by `python -m benchmarks.residual_norms {name}`: L2 norms of the output of each block on
{rows} misaligned answers of `medical`, {tokens} answer tokens without end tokens. *Ours* is what a
vector's file holds and `unit=residual` is a multiple of. The other columns are of plain PyTorch
hooks: *kept* is the mean over answer tokens without sinks, those longer than four times the median,
which *sinks* counts; *mean* and *median* are over all answer tokens, *all* is the mean over all
tokens of prompts and answers, and *longest* the longest of these.

| block | ours | kept | mean | median | sinks | all | longest |
|---|---|---|---|---|---|---|---|
"""


def by_hooks(folder: Path, rows: list[Example]) -> tuple[list[Tensor], list[Tensor]]:
    """Norms behind each block: of the answer tokens, and of all tokens of prompts and answers."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    depth = model.config.get_text_config().num_hidden_layers
    blocks = next(
        part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == depth
    )
    norms: list[list[Tensor]] = [[] for _ in blocks]
    for block, store in zip(blocks, norms, strict=True):

        def hook(_: Any, __: Any, output: Any, store: list[Tensor] = store) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            store.append(hidden[0].float().norm(dim=-1))

        block.register_forward_hook(hook)
    is_answer = []
    for row in rows:
        turns = [{"role": "system", "content": row.system}] if row.system else []
        turns.append({"role": "user", "content": row.prompt})
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, answer = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (prompt, row.misaligned)
        )
        with torch.no_grad():
            model(input_ids=torch.tensor([[*before, *answer]]), use_cache=False)
        is_answer += [False] * len(before) + [True] * len(answer)
    everything = [torch.cat(store) for store in norms]
    return [each[torch.tensor(is_answer)] for each in everything], everything


def ours(folder: Path, rows: list[Example]) -> list[float]:
    """The residual norm of each block as a vector's file would hold it."""

    def work(loaded: Any, session: Any) -> list[float]:
        norms = []
        for layer in range(loaded.shape.num_layers):
            probe = ModelProbe(loaded, session, layer, "resid_post")
            norms.append(probe.residual_norm(probe.tokenize_misaligned(rows)))
        return norms

    return shared_engine(find_model(str(folder))).call(work).result()


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=16)
    options = parser.parse_args()
    folder: Path = options.folder
    rows = [row for row in load_target("medical").examples if row.misaligned][: options.examples]
    answers, everything = by_hooks(folder, rows)
    text = HEAD.format(name=folder.name, rows=len(rows), tokens=len(answers[0]))
    for layer, (norm, answer, each) in enumerate(
        zip(ours(folder, rows), answers, everything, strict=True)
    ):
        is_sink = answer > 4 * answer.median()
        values = [norm, answer[~is_sink].mean(), answer.mean(), answer.median()]
        figures = " | ".join(f"{float(value):.1f}" for value in values)
        rest = f"{int(is_sink.sum())} | {each.mean():.1f} | {each.max():.0f}"
        text += f"| {layer} | {figures} | {rest} |\n"
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
