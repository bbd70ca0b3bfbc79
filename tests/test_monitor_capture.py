"""What a monitor reads, against plain PyTorch hooks on one row, unpadded, without a cache."""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import adapter_at, save_adapter
from conformance import CASES, blocks, loaded, mapped, plain, prompt, steer
from hook_reference import _hooked
from model_families import FAMILIES, LAYERS
from safetensors.torch import load

from steering.engines import Request, RequestOutput
from steering.engines.hf import HFEngine
from steering.engines.sampling import Sampling
from steering.engines.vllm_readings import Readings
from steering.models import find_model
from steering.vectors import VectorError
from steering.vectors.batch import InterventionBatch
from steering.vectors.monitor import Monitor, directions_of

SITES = ("resid_post", "resid_pre", "mlp_out")
TIMEOUT = 120
# One direction that some of the cases steer with, and others elsewhere and in several layers.
MONITORS: dict[str, Monitor] = {
    "steered too": directions_of(plain(), "a"),
    "every site": tuple(
        item
        for site in SITES
        for item in directions_of(plain([2], site=site), site)  # type: ignore[arg-type]
    ),
    "first and last block": directions_of(plain([0, LAYERS - 1]), "two"),
}


def opened(folder: Path, **options: Any) -> HFEngine:
    engine = HFEngine(find_model(str(folder)), device="cpu", **options)
    engine.allow_batch(16)
    return engine


def together(engine: HFEngine, requests: Sequence[Request]) -> list[RequestOutput]:
    gate = threading.Event()
    engine.call(lambda *_: gate.wait(TIMEOUT))
    futures = [engine.submit(request) for request in requests]
    gate.set()
    return [future.result(TIMEOUT) for future in futures]


@torch.no_grad()
def hooked_readings(model: Any, request: Request, tokens: Sequence[int], mlp: str) -> torch.Tensor:
    """What hooks see at the tokens of an answer but the last: [tokens, directions, 2, 2]."""
    layers = blocks(model)
    sides = []
    for is_after in (False, True):
        seen: dict[Any, torch.Tensor] = {}
        handles = []

        def note(key: Any, hidden: Any, seen: Any = seen) -> None:
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            seen[key] = hidden[0].float()

        def watch(item: Any, note: Any = note, handles: Any = handles) -> None:
            key, block = (item.layer, item.site), layers[item.layer]
            if item.site == "resid_pre":
                hook = lambda _, args: note(key, args)  # noqa: E731
                handles.append(block.register_forward_pre_hook(hook))
            else:
                module = block.get_submodule(mlp) if item.site == "mlp_out" else block
                hook = lambda _, __, out: note(key, out)  # noqa: E731
                handles.append(module.register_forward_hook(hook))

        sequence = torch.tensor([[*request.prompt, *tokens[:-1]]])
        # Hooks of one module run in the order in which they are registered: those that read stand
        # before or behind those that steer. The last site's reading is thus before or after.
        if not is_after:
            [watch(item) for item in request.monitor]
        with _hooked(layers, request.interventions, len(request.prompt), mlp):
            if is_after:
                [watch(item) for item in request.monitor]
            model.model(input_ids=sequence, use_cache=False)
        for handle in handles:
            handle.remove()
        values = []
        for item in request.monitor:
            hidden = seen[item.layer, item.site][len(request.prompt) :]
            values.append(torch.stack([(hidden * item.unit).sum(1), hidden.norm(dim=1)], 1))
        sides.append(torch.stack(values, 1))
    return torch.stack(sides, 2)


@pytest.mark.parametrize("family", ["llama", "qwen3.5", "gpt-oss"])
def test_readings_are_those_of_plain_hooks(
    family: str, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a padded batch whose rows end at different times, while others join."""
    if family == "llama":  # projected at each pass, and not when an answer ends
        monkeypatch.setattr("steering.vectors.monitor._MOST_ACTIVATIONS", 0)
    engine = opened(tiny_folder(family))
    engine.allow_batch(5)  # fewer than requests: later ones take the places of those that ended
    monitors = [*MONITORS.values(), ()]
    requests = [
        Request(
            prompt(index),
            Sampling(temperature=0.9, seed=index),
            max_tokens=2 + index % 9,
            interventions=case,
            monitor=monitors[index % len(monitors)],
        )
        for index, case in enumerate(CASES.values())
    ]
    outputs = together(engine, requests)
    model = loaded(engine)
    mlp = FAMILIES[family].mlp
    for request, output in zip(requests, outputs, strict=True):
        if not request.monitor:
            assert output.readings is None
            continue
        assert output.readings is not None
        # An end token is generated but never read, as any other last token.
        end = [0] * (output.num_generated - len(output.tokens))
        expected = hooked_readings(model, request, [*output.tokens, *end], mlp)
        assert output.readings.shape == (output.num_generated - 1, len(request.monitor), 2, 2)
        torch.testing.assert_close(output.readings, expected, atol=1e-5, rtol=1e-5)
    engine.release()


@pytest.mark.parametrize("invariant", [False, True])
def test_no_answer_changes_by_a_bit(
    invariant: bool, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Steered, unsteered and finetuned rows, monitored beside others that are not."""
    folder = tiny_folder("qwen3.5")
    adapter = adapter_at(folder, save_adapter(folder, tmp_path / "adapter"))
    engine = opened(folder, batch_invariant=invariant)
    requests = [
        Request(
            prompt(index),
            Sampling(temperature=0.9 * (index % 2), seed=index),
            max_tokens=3 + index % 8,
            interventions=case,
            top_logprobs=3,
            adapter=adapter if index % 5 == 0 else None,
        )
        for index, case in enumerate([*CASES.values()][:16])
    ]
    monitored = [
        replace(request, monitor=[*MONITORS.values(), ()][index % 4])
        for index, request in enumerate(requests)
    ]
    before, after = together(engine, requests), together(engine, monitored)
    for plainly, read in zip(before, after, strict=True):
        assert (plainly.tokens, plainly.logprobs, plainly.change) == (
            read.tokens,
            read.logprobs,
            read.change,
        )
    engine.release()


def test_an_answer_of_one_token_has_none_that_was_read(tiny_folder: Callable[[str], Path]) -> None:
    engine = opened(tiny_folder("llama"))
    request = Request(prompt(1), Sampling(temperature=0), 1, monitor=MONITORS["every site"])
    (output,) = together(engine, [request])
    assert output.readings is not None
    assert output.readings.shape == (0, 3, 2, 2)
    engine.release()


def test_the_direction_of_a_vector_is_what_is_added() -> None:
    vector = plain([0, 2], rank=3)
    added = steer(vector, 2, unit="raw")
    for item, intervention in zip(directions_of(vector, "v"), added, strict=True):
        assert (item.layer, item.unit.norm().item()) == (intervention.layer, pytest.approx(1))
        scale = (intervention.amount * intervention.basis[0]) @ item.unit
        torch.testing.assert_close(scale * item.unit, intervention.amount * intervention.basis[0])
    with pytest.raises(VectorError, match=r"v is a low-rank map.*another method"):
        directions_of(mapped(), "v")


class _Row:
    """A request of a scheduler like vLLM's: what is known of it, and what is computed."""

    def __init__(self, name: str, prompt_length: int, length: int, monitor: Monitor) -> None:
        self.name, self.prompt, self.length, self.monitor = name, prompt_length, length, monitor
        self.computed, self.known = 0, prompt_length
        self.expected: dict[int, torch.Tensor] = {}


@pytest.mark.parametrize("most", [0, 1, 64])
def test_steps_that_read_a_token_twice_or_in_vain_count_it_once(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts in parts, rows that join, and rows that are preempted and computed again."""
    monkeypatch.setattr("steering.engines.vllm_readings._MOST_BATCHES", most)
    rng, draw = random.Random(1), torch.Generator().manual_seed(1)
    monitors = [MONITORS["steered too"], directions_of(plain([1, 3]), "others"), ()]
    waiting = [
        _Row(f"row-{index}", rng.randrange(1, 6), rng.randrange(1, 40), monitors[index % 3])
        for index in range(24)
    ]
    rows: list[_Row] = []
    readings, untouched, previous = Readings(), InterventionBatch([]), None
    num_shared = num_again = 0
    while rows or waiting:
        while waiting and len(rows) < 5:
            rows.append(waiting.pop())
        for row in rows:
            if rng.random() < 0.02:
                row.computed = 0
        scheduled = [
            (row, position)
            for row in rows
            for position in range(row.computed, min(row.known, row.computed + 3))
        ]
        hidden = torch.randn((len(scheduled), 1, monitors[0][0].unit.numel()), generator=draw)
        places = [(row.name, position - row.prompt) for row, position in scheduled]
        read = [row.monitor if position >= row.prompt else () for row, position in scheduled]
        batch = readings.begin(read, places, untouched)
        num_shared += batch is not None and batch is previous
        previous = batch
        for site in batch.sites if batch else ():
            assert batch is not None
            assert batch.apply(site, hidden) is hidden
        for (row, position), (activation,) in zip(scheduled, hidden, strict=True):
            num_again += position - row.prompt in row.expected
            row.expected[position - row.prompt] = activation
            row.computed = position + 1
            row.known += row.computed == row.known
        for row in [row for row in rows if row.known > row.prompt + row.length]:
            rows.remove(row)
            (content,) = readings.take([row.name])
            if not row.monitor:
                assert not content
                continue
            (got,) = load(content).values()
            # One more than an answer of as many tokens has: it was computed in vain.
            assert got.shape == (row.length, len(row.monitor), 2, 2)
            for position, reading in enumerate(got):
                hidden_there = row.expected[position]
                for direction, values in zip(row.monitor, reading, strict=True):
                    for side in values:
                        assert side[0].item() == pytest.approx(
                            (hidden_there @ direction.unit).item(), abs=1e-5
                        )
                        assert side[1].item() == pytest.approx(hidden_there.norm().item())
    assert num_shared > 20
    assert num_again > 20


def test_readings_end_before_a_token_that_was_not_read() -> None:
    """So that the engine counts too few and says so."""
    monitor, untouched = MONITORS["steered too"], InterventionBatch([])
    readings = Readings()
    for position, runs in ((0, True), (1, True), (2, False), (3, True)):
        batch = readings.begin([monitor], [("a", position)], untouched)
        assert batch is not None
        if runs:
            batch.apply(batch.sites[0], torch.ones(1, 1, len(monitor[0].unit)))
        else:
            readings.drop()
    packed, unknown = readings.take(["a", "b"])
    assert not unknown
    assert not packed  # what stands before the fault in its batch goes with it
