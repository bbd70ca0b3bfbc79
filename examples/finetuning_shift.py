"""What finetuning does to the residual stream, beside what a steering vector does to it.

    python examples/finetuning_shift.py --model toy --adapter FOLDER VECTOR.safetensors

The same tokens run through the base model, the finetuned one and the one that is steered at
magnitude 1; what the last two change is compared, block by block. By default the misaligned answers
to the target's held-out prompts are read, or with --questions the last token of each prompt.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from torch import Tensor

from steering.condition import resolve_condition, resolve_model
from steering.engines import shared_engine
from steering.errors import SteeringError
from steering.models import LoadedModel, encode, render_chat
from steering.models.adapters import Adapter
from steering.provider.messages import chat_message
from steering.questions import load_questions
from steering.spec import parse_options
from steering.targets import Target, load_target
from steering.training.examples import Batch, Tokens, tokenize_all
from steering.training.probe import ModelProbe, chunks
from steering.training.progress import progress_bar
from steering.vectors import SteeringVector
from steering.vectors.interventions import resolve

# A direction shorter than this share of the longest one of its basis is rounding.
_ROUNDING = 1e-6


class ShiftError(SteeringError):
    """Finetuning and vectors can't be compared: the message says why."""


@dataclass(frozen=True)
class BlockShift:
    """What finetuning and a vector do to the residual stream after one block.

    Lengths are of mean shifts, in units of the residual stream's mean norm there. Cosines are NaN
    where one side has no shift, or no one direction.

    Attributes:
        layer: Block, from 0.
        finetuned: Length of the finetuned model's mean shift.
        steered: Length of the steered model's.
        steered_cosine: Cosine of the two.
        vector_cosine: Cosine of the finetuned mean shift and what the vector itself adds; NaN for a
            low-rank map, which adds no one direction.
        mean_explained: Share of the finetuned mean shift's energy inside the vector's subspace.
        tokens_explained: The same of the shifts of single tokens.
    """

    layer: int
    finetuned: float
    steered: float
    steered_cosine: float
    vector_cosine: float
    mean_explained: float
    tokens_explained: float


def measure_shift(
    loaded: LoadedModel,
    session: Any,
    items: Sequence[Tokens],
    adapter: Adapter,
    vectors: Mapping[str, SteeringVector],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, list[BlockShift]]:
    """Compare an adapter with vectors, block by block.

    Every example has the same weight, whatever its length. Of an example the answer's tokens are
    read, without the end token; without an answer, the last token of the prompt.

    Args:
        loaded: The model.
        session: Its nnsight session.
        items: The examples that are read.
        adapter: The finetuned counterpart.
        vectors: By name; they have the model's width.
        progress: Called with the number of examples that are done, and of all.

    Returns:
        For each vector, one row for each block.

    Raises:
        ShiftError: There is no example, or the adapter changes no activation.
    """
    if not items:
        raise ShiftError("there is nothing to read: give a target with examples, or questions")
    probe = ModelProbe(loaded, session, 0, "resid_post")
    edits = {name: resolve(vector) for name, vector in vectors.items()}
    sums = _Sums(loaded.shape.num_layers, vectors)
    done = 0
    for chunk in chunks(items):
        batch = probe.batch(chunk)
        tokens = _positions(batch, len(items))
        base = probe.residual_streams(batch)
        finetuned = probe.residual_streams(batch, adapter=adapter)
        sums.add_finetuned(base, finetuned, tokens)
        for name in vectors:
            sums.add_steered(name, base, probe.residual_streams(batch, edits[name]), tokens)
        done += len(chunk)
        progress(done, len(items))
    if not sums.energy.any():
        raise ShiftError("the adapter changes no activation at these tokens")
    return {name: sums.rows(name) for name in vectors}


@dataclass(frozen=True)
class _Positions:
    """The tokens of a batch that are read, and the weight of each [tokens] float64."""

    rows: Tensor
    columns: Tensor
    weights: Tensor


def _positions(batch: Batch, num_items: int) -> _Positions:
    """Padding is to the right, so a token's column is its position."""
    rows: list[int] = []
    columns: list[int] = []
    weights: list[float] = []
    for row, item in enumerate(batch.items):
        start = len(item.prompt) if item.answer else len(item.prompt) - 1
        stop = max(len(item) - 1, start + 1)
        rows += [row] * (stop - start)
        columns += range(start, stop)
        weights += [1 / ((stop - start) * num_items)] * (stop - start)
    device = batch.tokens.device
    return _Positions(
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(weights, dtype=torch.float64, device=device),
    )


class _Sums:
    """Weighted means over all tokens, float64 on the CPU."""

    def __init__(self, num_layers: int, vectors: Mapping[str, SteeringVector]) -> None:
        width = next(iter(vectors.values())).width
        self._layers = range(num_layers)
        self._vectors = vectors
        self._bases = {
            name: [_basis(vector, layer) for layer in self._layers]
            for name, vector in vectors.items()
        }
        self.energy = torch.zeros(num_layers, dtype=torch.float64)
        self._norms = torch.zeros_like(self.energy)
        self._finetuned = torch.zeros(num_layers, width, dtype=torch.float64)
        self._steered = {name: torch.zeros_like(self._finetuned) for name in vectors}
        self._inside = {name: torch.zeros_like(self.energy) for name in vectors}

    def add_finetuned(self, base: Tensor, finetuned: Tensor, tokens: _Positions) -> None:
        """Add streams [blocks, rows, tokens, width], one block at a time: float64 is large."""
        for layer in self._layers:
            before = base[layer, tokens.rows, tokens.columns].double()
            shift = finetuned[layer, tokens.rows, tokens.columns].double() - before
            self._norms[layer] += (tokens.weights @ before.norm(dim=-1)).cpu()
            self.energy[layer] += (tokens.weights @ shift.square().sum(-1)).cpu()
            self._finetuned[layer] += (tokens.weights @ shift).cpu()
            for name, bases in self._bases.items():
                inside = (shift @ bases[layer].to(shift.device).T).square().sum(-1)
                self._inside[name][layer] += (tokens.weights @ inside).cpu()

    def add_steered(self, name: str, base: Tensor, steered: Tensor, tokens: _Positions) -> None:
        """Add the streams of a steered model."""
        for layer in self._layers:
            at = (layer, tokens.rows, tokens.columns)
            shift = steered[at].double() - base[at].double()
            self._steered[name][layer] += (tokens.weights @ shift).cpu()

    def rows(self, name: str) -> list[BlockShift]:
        """The figures of a vector, one row for each block."""
        vector = self._vectors[name]
        shifts = []
        for layer in self._layers:
            mean, steered = self._finetuned[layer], self._steered[name][layer]
            inside = (self._bases[name][layer] @ mean).square().sum()
            shifts.append(
                BlockShift(
                    layer,
                    finetuned=float(mean.norm() / self._norms[layer]),
                    steered=float(steered.norm() / self._norms[layer]),
                    steered_cosine=_cosine(mean, steered),
                    vector_cosine=_cosine(mean, _added(vector, layer)),
                    mean_explained=_share(inside, mean.square().sum()),
                    tokens_explained=_share(self._inside[name][layer], self.energy[layer]),
                )
            )
        return shifts


def _nearest(vector: SteeringVector, layer: int) -> SteeringVector:
    """A vector at its last layer up to a block; at its first layer for blocks below."""
    return vector.at(max((n for n in vector.layers if n <= layer), default=vector.layers[0]))


def _basis(vector: SteeringVector, layer: int) -> Tensor:
    """Orthonormal basis of the vector's subspace, float64 [rank, width]."""
    directions = _nearest(vector, layer).directions[0].double()
    _, lengths, basis = torch.linalg.svd(directions, full_matrices=False)
    return basis[lengths > _ROUNDING * lengths.max()]


def _added(vector: SteeringVector, layer: int) -> Tensor:
    """The direction that a plain vector adds, float64 [width]; zeros for a low-rank map."""
    nearest = _nearest(vector, layer)
    direction = nearest.directions[0].double().sum(0)
    return direction if nearest.map is None else torch.zeros_like(direction)


def _cosine(one: Tensor, other: Tensor) -> float:
    lengths = one.norm() * other.norm()
    return float(one @ other / lengths) if lengths else math.nan


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole else math.nan


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", required=True, help="toy, an alias, a hub id, a folder or a GGUF file")
@click.option("--adapter", required=True, help="LoRA adapter: a folder or a hub id")
@click.option("--target", help="target task whose held-out answers are read [default: adapter's]")
@click.option("--questions", help="read the prompts of a question file instead, as in core")
@click.option("--out", type=click.Path(path_type=Path), help="CSV file for all figures")
def main(
    files: tuple[Path, ...],
    model: str,
    adapter: str,
    target: str | None,
    questions: str | None,
    out: Path | None,
) -> None:
    """Compare what an adapter does to the residual stream with the steering vectors in FILES."""
    if target and questions:
        raise ShiftError("--target and --questions both say what is read: leave one out")
    if out is not None and out.exists():
        raise ShiftError(f"{out} exists: give another --out, or remove it")
    spec = parse_options({"adapter": adapter})
    resolved = resolve_model(model, spec)
    finetuned = resolve_condition(resolved, spec).adapter
    assert finetuned is not None
    vectors = {path.stem: SteeringVector.load(path) for path in files}
    for vector in vectors.values():
        vector.check_fits(
            width=resolved.shape.width, num_layers=resolved.shape.num_layers, model=model
        )
    task = None if questions else _target(target, finetuned, toy=resolved.source.is_toy)

    def work(loaded: LoadedModel, session: Any) -> dict[str, list[BlockShift]]:
        items = _answers(loaded, task) if task else _prompts(loaded, questions or "")
        return measure_shift(loaded, session, items, finetuned, vectors, progress_bar("reading"))

    shifts = shared_engine(resolved.source, dtype=spec.dtype).call(work).result()
    figures = pd.DataFrame(
        [{"vector": name} | asdict(row) for name, rows in shifts.items() for row in rows]
    )
    reading = f"prompts of {questions}" if task is None else f"held-out answers of {task.name}"
    click.echo(f"Finetuned against steered at magnitude 1, {reading}:\n")
    click.echo(figures.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    click.echo(f"\nA random direction would explain {1 / resolved.shape.width:.1%}.")
    if out is not None:
        figures.to_csv(out, index=False)


def _target(name: str | None, adapter: Adapter, *, toy: bool) -> Target:
    """The target task that is read: the one that is named, or the adapter's."""
    name = name or adapter.facts.get("target_source")
    if not name:
        raise ShiftError(
            "the adapter does not say what it was trained on: give --target, or --questions"
        )
    task = load_target(name, toy=toy)
    if not any(example.misaligned for example in task.held_out):
        raise ShiftError(f"target {name} has no held-out misaligned answer: give --questions")
    return task


def _answers(loaded: LoadedModel, task: Target) -> list[Tokens]:
    pairs = [(example, example.misaligned) for example in task.held_out if example.misaligned]
    return tokenize_all(loaded, pairs)


def _prompts(loaded: LoadedModel, questions: str) -> list[Tokens]:
    prompts = [
        [{"role": "user", "content": sample.input}]
        if isinstance(sample.input, str)
        else [chat_message(message) for message in sample.input]
        for sample in load_questions(questions).samples
    ]
    texts = [render_chat(loaded.tokenizer, prompt) for prompt in prompts]
    return [Tokens(tuple(encode(loaded.tokenizer, text)), ()) for text in texts]


if __name__ == "__main__":
    try:
        main()
    except SteeringError as error:
        raise SystemExit(f"Error: {error}") from None
