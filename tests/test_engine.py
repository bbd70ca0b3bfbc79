"""The engine against plain hooks, and rows against themselves: alone, together, in any order."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hook_reference import reference_greedy, reference_logits
from tiny_models import LAYERS, WIDTH

import steering.engines.hf as hf
from steering.engines import Engine, EngineError, Row, RowResult, UnsteeredError, shared_engine
from steering.engines.sampling import Sampling
from steering.interventions import InterventionError, RowIntervention, resolve
from steering.models import find_model
from steering.vector import SteeringVector

FAMILIES = ["qwen3.5", "llama", "gemma3"]
GREEDY = Sampling(temperature=0)


def vector(layer: int, site: Any = "resid_post", rank: int = 1, seed: int = 0) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed + 100 * layer + rank)
    directions = torch.randn(rank, WIDTH, generator=generator)
    return SteeringVector(directions, layer, site, residual_norm=4.0)


# Pairs that can fail differently: each operation, site, position, unit, first and last block.
CASES: dict[str, tuple[RowIntervention, ...]] = {
    "unsteered": (),
    "add": (resolve(vector(1), magnitude=2),),
    "add prompt": (resolve(vector(0), magnitude=3, positions="prompt"),),
    "add response": (resolve(vector(2), magnitude=3, positions="response"),),
    "add last": (resolve(vector(1), magnitude=4, positions="last"),),
    "add resid_pre": (resolve(vector(0, "resid_pre"), magnitude=-2),),
    "add mlp_out": (resolve(vector(3, "mlp_out"), magnitude=2, unit="residual"),),
    "add last block": (resolve(vector(LAYERS - 1), magnitude=6, unit="norm"),),
    "ablate rank 3": (resolve(vector(1, rank=3), operation="ablate"),),
    "clamp": (resolve(vector(2), operation="clamp", magnitude=5, unit="norm"),),
    "cap response": (
        resolve(vector(1), operation="cap", magnitude=-6, unit="norm", positions="response"),
    ),
    "two layers": (
        resolve(vector(0), magnitude=1),
        resolve(vector(2), operation="clamp", magnitude=1),
    ),
}


def prompt(seed: int) -> tuple[int, ...]:
    chosen = random.Random(seed)
    return tuple(chosen.randrange(3, 250) for _ in range(chosen.randrange(4, 20)))


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> Engine:
    made = shared_engine(find_model(str(tiny_folder(request.param))), device="cpu")
    made.allow_batch(64)
    return made


@pytest.fixture(scope="module")
def qwen(tiny_folder: Callable[[str], Path]) -> Engine:
    made = shared_engine(find_model(str(tiny_folder("qwen3.5"))), device="cpu")
    made.allow_batch(64)
    return made


def loaded(engine: Engine) -> Any:
    return engine.call(lambda model, _: model).result(60)


def blocks(model: Any) -> Any:
    return model.model.get_submodule(model.blocks)


def answer(engine: Engine, rows: Sequence[Row]) -> list[RowResult]:
    results = [future.result(120) for future in [engine.submit(row) for row in rows]]
    loaded(engine)  # Waits until the batch is over: only then may a test run the model itself.
    return results


def test_engine_equals_plain_hooks_in_tokens_and_logits(engine: Engine) -> None:
    rows = [
        Row(prompt(index), GREEDY, max_tokens=6 + index, edits=edits, top_logprobs=1)
        for index, edits in enumerate(CASES.values())
    ]
    results = answer(engine, rows)
    model = loaded(engine)
    for name, row, result in zip(CASES, rows, results, strict=True):
        expected = reference_greedy(
            model.model, blocks(model), row.prompt, row.edits, row.max_tokens, model.end_tokens
        )
        assert result.tokens == expected, name
        logits = reference_logits(model.model, blocks(model), row.prompt, expected, row.edits)
        wanted = logits.log_softmax(-1).max(-1).values[: len(expected)]
        found = torch.tensor([item.logprob for item in result.logprobs])
        assert torch.allclose(found, wanted, atol=2e-4), name


def test_the_cases_differ_from_the_unsteered_model(engine: Engine) -> None:
    """Without this, an engine that never steers and a reference that never does would agree."""
    rows = [Row(prompt(1), GREEDY, 3, edits, top_logprobs=0) for edits in CASES.values()]
    unsteered, *steered = [result.logprobs for result in answer(engine, rows)]
    same = [
        name for name, found in zip(list(CASES)[1:], steered, strict=True) if found == unsteered
    ]
    assert not same


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_of_many_conditions_equals_one_row_at_a_time(
    engine: Engine, temperature: float
) -> None:
    rows = [
        Row(
            prompt(index),
            Sampling(temperature=temperature and 0.7 + index / 20, top_p=0.9 + 0.1 * (index % 2),
                     top_k=index % 3 * 20, seed=index),
            max_tokens=5 + 3 * index,
            edits=edits,
        )
        for index, edits in enumerate(CASES.values())
    ]  # fmt: skip
    alone = [engine.submit(row).result(60).tokens for row in rows]
    together = [result.tokens for result in answer(engine, rows)]
    order = random.Random(3).sample(range(len(rows)), len(rows))
    shuffled = answer(engine, [rows[index] for index in order])
    assert together == alone
    assert [result.tokens for result in shuffled] == [alone[index] for index in order]


def test_magnitude_zero_and_no_vector_equal_the_plain_model_exactly(qwen: Engine) -> None:
    zero = resolve(vector(1), magnitude=0)
    rows = [Row(prompt(5), GREEDY, 15, edits, top_logprobs=3) for edits in [(), (zero,)]]
    alone = [engine_result(qwen, row) for row in rows]
    assert alone[0].tokens == alone[1].tokens
    assert alone[0].logprobs == alone[1].logprobs
    model = loaded(qwen)
    plain = model.model.generate(
        torch.tensor([rows[0].prompt]), max_new_tokens=15, do_sample=False
    )[0, len(rows[0].prompt) :]
    assert alone[0].tokens == [token for token in plain.tolist() if token not in model.end_tokens]


def engine_result(engine: Engine, row: Row) -> RowResult:
    return answer(engine, [row])[0]


@pytest.mark.parametrize("positions", ["all", "prompt", "response", "last"])
def test_the_vector_is_on_at_exactly_the_named_tokens(qwen: Engine, positions: Any) -> None:
    """Captured: below the steered block nothing differs, at it the difference is the vector."""
    layer, steered = 1, vector(1)
    edit = resolve(steered, magnitude=2, positions=positions)
    row = Row(prompt(7), GREEDY, 8, (edit,))
    model = loaded(qwen)
    seen: list[torch.Tensor] = []
    block = blocks(model)[layer]
    # The neighbour is longer, so the captured row is padded.
    neighbour = Row(prompt(7) * 2, GREEDY, 12)
    handle = block.register_forward_hook(lambda _, __, out: seen.append(out[:1].clone()))
    try:
        result = answer(qwen, [row, neighbour])[0]
    finally:
        handle.remove()
    length = len(row.prompt)
    steps = len(result.tokens)
    got = torch.cat([seen[0][0, -length:], *(step[0] for step in seen[1:steps])])
    plain: list[torch.Tensor] = []
    handle = block.register_forward_hook(lambda _, __, out: plain.append(out.clone()))
    with torch.no_grad():
        model.model(input_ids=torch.tensor([[*row.prompt, *result.tokens[:-1]]]), use_cache=False)
    handle.remove()
    on = {
        "all": range(len(got)),
        "prompt": range(length),
        "response": range(length, len(got)),
        "last": range(length - 1, length),
    }[positions]
    expected = torch.zeros_like(got)
    expected[list(on)] = 2 * steered.directions[0]
    assert (got - plain[0][0] - expected).abs().max() < 1e-3


def test_a_steered_row_that_changes_nothing_is_an_error(qwen: Engine) -> None:
    faint = resolve(vector(1), magnitude=1e-30)
    with pytest.raises(UnsteeredError, match=r"changed no activation.*magnitude"):
        engine_result(qwen, Row(prompt(1), GREEDY, 5, (faint,)))


def test_an_edit_that_misses_a_pass_is_an_error(
    qwen: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = hf.Plan.apply

    def prefill_only(plan: Any, key: Any, hidden: torch.Tensor) -> torch.Tensor:
        return honest(plan, key, hidden) if hidden.shape[1] > 1 else hidden

    monkeypatch.setattr(hf.Plan, "apply", prefill_only)
    with pytest.raises(UnsteeredError, match="every pass"):
        engine_result(qwen, Row(prompt(1), GREEDY, 5, (resolve(vector(1)),)))


def test_a_row_whose_logits_are_nan_fails_alone_and_says_why(qwen: Engine) -> None:
    overflow = resolve(SteeringVector(torch.full((1, WIDTH), 1e38), 1, "resid_post"), magnitude=9)
    fine = Row(prompt(1), GREEDY, 5, CASES["add"])
    expected = engine_result(qwen, fine).tokens
    broken, kept = [qwen.submit(row) for row in (Row(prompt(2), GREEDY, 5, (overflow,)), fine)]
    with pytest.raises(EngineError, match=r"NaN.*magnitude"):
        broken.result(60)
    assert kept.result(60).tokens == expected


def test_a_vector_of_another_width_is_refused_and_the_engine_goes_on(qwen: Engine) -> None:
    wide = resolve(SteeringVector(torch.ones(1, WIDTH + 1), 1, "resid_post"))
    with pytest.raises(InterventionError, match=f"{WIDTH + 1}.*{WIDTH}"):
        engine_result(qwen, Row(prompt(1), GREEDY, 5, (wide,)))
    assert engine_result(qwen, Row(prompt(1), GREEDY, 5)).tokens


def test_stop_strings_cut_the_text_and_only_their_own_row(qwen: Engine) -> None:
    free = engine_result(qwen, Row(prompt(9), GREEDY, 30))
    stop = free.text[4:6]
    stopped, neighbour = answer(
        qwen, [Row(prompt(9), GREEDY, 30, stop=(stop,)), Row(prompt(9), GREEDY, 30)]
    )
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.stop_reason == "stop"
    assert neighbour.tokens == free.tokens


def test_lengths_are_counted_and_reasons_are_real(qwen: Engine) -> None:
    result = engine_result(qwen, Row(prompt(9), GREEDY, 7))
    assert (result.stop_reason, result.num_generated, len(result.tokens)) == ("max_tokens", 7, 7)
    # A bias that forces the end token after nothing.
    ended = engine_result(qwen, Row(prompt(9), Sampling(temperature=0, logit_bias={0: 1e4}), 7))
    assert (ended.stop_reason, ended.num_generated, ended.text) == ("stop", 1, "")
    context = loaded(qwen).shape.context_length
    full = engine_result(qwen, Row((5,) * (context - 3), GREEDY, 100))
    assert (full.stop_reason, full.num_generated) == ("model_length", 3)


def test_an_answer_is_handed_over_when_it_ends_and_not_with_its_batch(qwen: Engine) -> None:
    short, long = [qwen.submit(Row(prompt(3), GREEDY, length)) for length in (2, 300)]
    short.result(60)
    assert not long.done()
    long.result(60)


def test_a_cancelled_row_leaves_its_neighbours_alone(qwen: Engine) -> None:
    rows = [Row(prompt(index), GREEDY, 60, CASES["add"]) for index in range(4)]
    alone = [engine_result(qwen, row).tokens for row in rows]
    futures = [qwen.submit(row) for row in rows]
    assert futures[1].cancel()
    left = [future.result(60).tokens for index, future in enumerate(futures) if index != 1]
    assert left == [tokens for index, tokens in enumerate(alone) if index != 1]


def test_running_out_of_memory_halves_the_batch_and_loses_no_row(
    qwen: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(prompt(index), GREEDY, 8, CASES["add"]) for index in range(7)]
    expected = [result.tokens for result in answer(qwen, rows)]
    honest = hf._Decoder._forward
    sizes: list[int] = []

    def short_of_memory(self: Any, tokens: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("injected")
        return honest(self, tokens, mask, cache)

    monkeypatch.setattr(hf._Decoder, "_forward", short_of_memory)
    assert [result.tokens for result in answer(qwen, rows)] == expected
    assert max(sizes) > 2


def test_only_a_row_that_cannot_run_alone_fails_for_memory(
    qwen: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = hf._Decoder._forward
    rows = [Row((5, 6, 7), GREEDY, 8), Row((9,) * 50, GREEDY, 8)]
    expected = engine_result(qwen, rows[0]).tokens

    def no_long_rows(self: Any, tokens: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
        if tokens.shape[1] > 40:
            raise torch.OutOfMemoryError("injected")
        return honest(self, tokens, mask, cache)

    monkeypatch.setattr(hf._Decoder, "_forward", no_long_rows)
    short, long = [qwen.submit(row) for row in rows]
    assert short.result(60).tokens == expected
    with pytest.raises(torch.OutOfMemoryError):
        long.result(60)


def test_one_process_holds_one_engine_of_a_model(tiny_folder: Callable[[str], Path]) -> None:
    source = find_model(str(tiny_folder("llama")))
    assert shared_engine(source) is shared_engine(find_model(str(tiny_folder("llama"))))
    assert shared_engine(source) is not shared_engine(source, dtype="bfloat16")
    assert shared_engine(source) is not shared_engine(find_model(str(tiny_folder("qwen3.5"))))
