"""What a monitor reads, against plain PyTorch hooks on one row, unpadded, without a cache."""

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

from steering.engines import Request, RequestOutput
from steering.engines.hf import HFEngine
from steering.engines.sampling import Sampling
from steering.models import find_model
from steering.vectors import VectorError
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
