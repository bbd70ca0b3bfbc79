"""The rate at which given answers are scored, against plain forward passes of transformers.

    python -m benchmarks.scoring [--model MODEL ...]

Both score the same rows of prompt and answer on the same weights, in batches of the same size,
sorted by length, and take turns, so that a busy machine slows both. The plain passes compute the
logits of the answers only. Writes `benchmarks/results/scoring.md`.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from steering.engines import ScoreRequest
from steering.engines.hf import HFEngine
from steering.models import find_model
from steering.vectors.interventions import Intervention

RESULTS = Path(__file__).parent / "results" / "scoring.md"
BATCH, CONDITIONS = 8, 8
STEERED, COMPARED = f"{CONDITIONS} conditions", f"{CONDITIONS} conditions, with divergence"
CASES = ((1, "unsteered"), (1, STEERED), (2, STEERED), (8, STEERED), (2, COMPARED))
# Tokens of prompts and answers, as of a chat model's; the toy's are shorter.
LENGTHS = ((30, 60), (60, 140))
TOY_LENGTHS = ((10, 20), (10, 30))

Row = tuple[tuple[int, ...], tuple[int, ...]]


def requests_of(
    num_rows: int, answers: int, vocabulary: int, lengths: Any, seed: int = 0
) -> list[ScoreRequest]:
    """Random prompts of many lengths, each with several answers of similar lengths."""
    rng = random.Random(seed)

    def tokens(bounds: tuple[int, int]) -> tuple[int, ...]:
        return tuple(rng.randrange(10, vocabulary) for _ in range(rng.randint(*bounds)))

    requests = []
    for _ in range(num_rows // answers):
        length = rng.randint(*lengths[1])
        near = (length, length + length // 10)
        requests.append(
            ScoreRequest(tokens(lengths[0]), tuple(tokens(near) for _ in range(answers)))
        )
    return requests


def plain_scores(model: Any, rows: Sequence[Row], batch: int) -> None:
    """Log probabilities of answers, by right-padded batches of whole rows of similar length."""
    ordered = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    for at in range(0, len(ordered), batch):
        part = ordered[at : at + batch]
        tensors = [torch.tensor(prompt + answer) for prompt, answer in part]
        tokens = pad_sequence(tensors, batch_first=True).to(model.device)
        mask = pad_sequence([torch.ones_like(one) for one in tensors], batch_first=True)
        first = min(len(prompt) for prompt, _ in part) - 1
        logits = model(
            input_ids=tokens, attention_mask=mask.to(model.device), use_cache=False,
            logits_to_keep=tokens.shape[1] - first,
        ).logits  # fmt: skip
        values = []
        for index, (prompt, answer) in enumerate(part):
            begin = len(prompt) - 1 - first
            picked = logits[index, begin : begin + len(answer)].float().log_softmax(-1)
            values.append(picked.gather(1, tokens[index, len(prompt) :][: len(answer), None]))
        torch.cat(values).cpu()


def conditions_of(width: int, layer: int) -> list[tuple[Intervention, ...]]:
    """Additions of different random vectors in the middle of the model."""
    bases = torch.randn(CONDITIONS, 1, width, generator=torch.Generator().manual_seed(0))
    return [(Intervention(basis, 0.1, layer, "resid_post", "add", "all"),) for basis in bases]


def ratio_of(
    engine: HFEngine, requests: Sequence[ScoreRequest], plain: Callable[[], None], rounds: int
) -> tuple[float, float, float]:
    """Tokens scored per second by the engine and by plain passes, and the ratio: medians."""
    count = sum(len(answer) for request in requests for answer in request.answers)
    times: list[tuple[float, float]] = []
    engine.score(requests[0]).result()  # which warms up
    for _ in range(rounds):
        start = time.monotonic()
        for future in [engine.score(request) for request in requests]:
            future.result()
        between = time.monotonic()
        plain()
        times.append((between - start, time.monotonic() - between))
    ours, theirs = (median(column) for column in zip(*times, strict=True))
    return count / ours, count / theirs, median(other / own for own, other in times)


def measured(name: str, dtype: str, num_rows: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Rows of the table for one model."""
    engine = HFEngine(find_model(name), dtype=dtype)
    engine.allow_batch(BATCH)
    loaded = engine.call(lambda model, _: model).result()
    vocabulary = int(loaded.model.config.get_text_config().vocab_size)
    lengths = TOY_LENGTHS if name.startswith("toy") else LENGTHS
    steered = conditions_of(loaded.shape.width, loaded.shape.num_layers // 2)

    def run(requests: Sequence[ScoreRequest], passes: int = 1) -> tuple[float, float, float]:
        rows = [(one.prompt, answer) for one in requests for answer in one.answers]

        def work(*_: Any) -> None:
            with torch.inference_mode():
                for _ in range(passes):
                    plain_scores(loaded.model, rows, BATCH)

        return ratio_of(engine, requests, lambda: engine.call(work).result(), rounds)

    for answers, kind in CASES:
        asked = requests_of(num_rows, answers, vocabulary, lengths)
        if kind != "unsteered":
            asked = [
                replace(one, interventions=steered[index % CONDITIONS], divergence=kind == COMPARED)
                for index, one in enumerate(asked)
            ]
        ours, theirs, ratio = run(asked, passes=1 + (kind == COMPARED))
        numbers = f"{ours:,.0f}", f"{theirs:,.0f}", f"{ratio:.2f}"
        yield Path(name).name, dtype, str(answers), kind, *numbers
    engine.release()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["toy"], help="names, hub ids or folders")
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    kind = torch.accelerator.current_accelerator()
    where = f"{torch.get_num_threads()} thread(s) of a CPU" if kind is None else str(kind)
    lines = [
        "# Scoring given answers",
        "",
        f"Written by `python -m benchmarks.scoring` on {where}: tokens of answers scored per "
        f"second, for {arguments.rows} rows in batches of {BATCH}, medians of "
        f"{arguments.rounds} turns, of which the ratio is the median too. The plain passes of "
        "transformers read every prompt with each of its answers, the engine reads it once. With "
        "divergence both score each row twice; the plain passes leave the divergence out. The "
        "target is a ratio of 0.8 with one answer.",
        "",
        "| model | precision | answers of a prompt | condition | engine | plain | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in arguments.model:
        for dtype in arguments.dtypes:
            for row in measured(model, dtype, arguments.rows, arguments.rounds):
                lines.append(f"| {' | '.join(row)} |")
                print(lines[-1], flush=True)
                # After each row, since a model of some size takes its time.
                RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
