"""The command that sets finetuning beside steering vectors, inside the model."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steering.cli._options import loading_options, name_files, vector_files

if TYPE_CHECKING:
    from steering.condition import ResolvedModel
    from steering.models.adapters import Adapter
    from steering.studies.finetuning_shift import BlockShift
    from steering.targets import Target
    from steering.vectors import SteeringVector


@click.command()
@vector_files
@click.option("--model", required=True, help="toy, an alias, a hub id or a local folder")
@click.option("--adapter", required=True, help="LoRA adapter: a folder or a hub id")
@click.option("--target", help="target task whose held-out answers are read [default: adapter's]")
@click.option("--questions", help="read the prompts of a question file instead, as in core")
@loading_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="CSV file for the figures of all blocks"
)
def shift(
    files: tuple[Path, ...],
    model: str,
    adapter: str,
    target: str | None,
    questions: str | None,
    loading: dict[str, Any],
    out: Path | None,
) -> None:
    """Compare what finetuning does to the residual stream with the steering vectors in FILES.

    Reads the misaligned answers to the target's held-out prompts (all their tokens), or with
    --questions the last token of each question's prompt.
    """
    from steering.condition import resolve_condition, resolve_model
    from steering.spec import parse_options
    from steering.studies.finetuning_shift import ShiftError
    from steering.vectors import SteeringVector

    if target and questions:
        raise ShiftError("--target and --questions both say what is read: leave one out")
    if out is not None and out.exists():
        raise ShiftError(f"{out} is there already: give another --out, or remove it")
    spec = parse_options(loading | {"adapter": adapter})
    checker = resolve_model(model, spec)
    found = resolve_condition(checker, spec).adapter
    assert found is not None
    vectors = {name: SteeringVector.load(path) for name, path in name_files(files).items()}
    for vector in vectors.values():
        vector.check_fits(
            width=checker.shape.width, num_layers=checker.shape.num_layers, model=model
        )
    task = None if questions else _target(target, found, checker)
    turns = _turns(questions) if questions else []
    measured = _measure(checker, found, vectors, task, turns, spec.dtype, spec.device)
    read = f"prompts of {questions}" if questions else f"held-out answers of {task and task.name}"
    _print(measured, vectors, read, checker.shape.width)
    if out is not None:
        _write(measured, out)
        click.echo(f"written: {out}")


def _target(named: str | None, adapter: "Adapter", checker: "ResolvedModel") -> "Target":
    """The target task that is read: the one that is named, or the adapter's own.

    Raises:
        ShiftError: There is none, or it has no misaligned answer that is held out.
    """
    from steering.studies.finetuning_shift import ShiftError
    from steering.targets import load_target

    name = named or adapter.facts.get("target_source")
    if not name:
        raise ShiftError(
            "the adapter does not say what it was trained on: give --target, or --questions"
        )
    task = load_target(name, toy=checker.source.is_toy)
    if not any(example.misaligned for example in task.held_out):
        raise ShiftError(f"target {name} has no held-out misaligned answer: give --questions")
    return task


def _turns(questions: str) -> list[list[dict[str, str]]]:
    """Each question as the turns of a chat."""
    from steering.provider.messages import chat_message
    from steering.questions import load_questions

    return [
        [{"role": "user", "content": sample.input}]
        if isinstance(sample.input, str)
        else [chat_message(message) for message in sample.input]
        for sample in load_questions(questions).samples
    ]


def _measure(
    checker: "ResolvedModel",
    adapter: "Adapter",
    vectors: "Mapping[str, SteeringVector]",
    task: "Target | None",
    turns: Sequence[list[dict[str, str]]],
    dtype: str,
    device: str,
) -> "dict[str, list[BlockShift]]":
    from steering.engines import shared_engine
    from steering.models import encode, render_chat
    from steering.studies.finetuning_shift import measure_shift
    from steering.training.checkpoint import progress_bar
    from steering.training.examples import Tokens, tokenize

    def work(loaded: Any, session: Any) -> "dict[str, list[BlockShift]]":
        if task is not None:
            items = [
                tokenize(loaded, example, example.misaligned)
                for example in task.held_out
                if example.misaligned
            ]
        else:
            prompts = [render_chat(loaded.tokenizer, turn) for turn in turns]
            items = [Tokens(tuple(encode(loaded.tokenizer, prompt)), ()) for prompt in prompts]
        bar = progress_bar("reading")
        return measure_shift(loaded, session, items, adapter, vectors, bar)

    engine = shared_engine(checker.source, dtype=dtype, device=device)
    return engine.call(work).result()


def _print(
    measured: "Mapping[str, list[BlockShift]]",
    vectors: "Mapping[str, SteeringVector]",
    read: str,
    width: int,
) -> None:
    from rich.console import Console

    from steering.reports.tables import plain_table, print_note

    console = Console()
    for name, rows in measured.items():
        layers = vectors[name].layers
        table = plain_table(
            f"{name}, at block {', '.join(map(str, layers))} {vectors[name].site}: finetuned "
            f"against steered at magnitude 1, {read}",
            ["block"],
            ["finetuned", "steered", "cosine", "with the vector", "of the mean", "of tokens"],
        )
        for row in rows:
            own = " *" if row.layer in layers else ""
            cosines = (row.steered_cosine, row.vector_cosine)
            table.add_row(
                f"{row.layer}{own}",
                *(f"{length:.1%}" for length in (row.finetuned, row.steered)),
                *("-" if math.isnan(cosine) else f"{cosine:+.2f}" for cosine in cosines),
                *(_percent(share) for share in (row.mean_explained, row.tokens_explained)),
            )
        console.print(table)
    print_note(
        console,
        "finetuned, steered: length of the mean shift of the residual stream after the block, in "
        "its mean norm. cosine: of the two mean shifts; with the vector: of the finetuned one with "
        "what the vector adds. of the mean, of tokens: share of the finetuned shift inside the "
        f"vector's subspace; a random direction would hold {1 / width:.1%} of it. *: a block that "
        "the vector acts on.",
    )


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _write(measured: "Mapping[str, list[BlockShift]]", out: Path) -> None:
    """As CSV, a row a vector and block."""
    from dataclasses import asdict

    from steering.files import write_csv
    from steering.studies.finetuning_shift import ShiftError

    rows = [{"vector": name} | asdict(row) for name, found in measured.items() for row in found]
    try:
        write_csv(out, rows)
    except OSError as error:
        raise ShiftError(f"{out} can't be written ({error.strerror})") from None
