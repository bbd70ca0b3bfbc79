"""Given answers, scored: as plain hooks score them, alone, together and in any order."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import adapter_at, peft_alone, save_adapter
from adapter_files import blocks as adapter_blocks
from conformance import CASES, GREEDY, answer, blocks, loaded, plain, prompt, steer
from hook_reference import reference_logits

from steering.engines import (
    Engine,
    EngineError,
    Request,
    ScoreOutput,
    ScoreRequest,
    shared_engine,
)
from steering.engines.hf import HFEngine
from steering.engines.score_rows import (
    Row,
    Scoring,
    in_chunks,
    in_passes,
    rows_of,
    with_references,
)
from steering.models import find_model

FAMILIES = ["qwen3.5", "llama", "gemma3"]


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> Iterator[Engine]:
    engine = shared_engine(find_model(str(tiny_folder(request.param))), device="cpu")
    engine.allow_batch(16)
    yield engine
    engine.release()


@pytest.fixture
def llama(tiny_folder: Callable[[str], Path]) -> Engine:
    engine = shared_engine(find_model(str(tiny_folder("llama"))), device="cpu")
    engine.allow_batch(16)
    return engine


def answers(seed: int, count: int = 3) -> tuple[tuple[int, ...], ...]:
    """Random answers; the first has one token."""
    rng = random.Random(f"answers {seed}")
    lengths = [1, *(rng.randrange(2, 30) for _ in range(count - 1))]
    return tuple(tuple(rng.randrange(3, 250) for _ in range(length)) for length in lengths)


def score(engine: Engine, requests: Sequence[ScoreRequest]) -> list[ScoreOutput]:
    results = [future.result(120) for future in [engine.score(request) for request in requests]]
    loaded(engine)  # Waits until the passes are over: only then may a test run the model itself.
    return results


def assert_near(scores: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> None:
    assert list(map(len, scores)) == list(map(len, expected))
    for row, other in zip(scores, expected, strict=True):
        assert row == pytest.approx(other, abs=2e-4)


def reference(engine: Engine, request: ScoreRequest) -> ScoreOutput:
    """What plain hooks come to, an answer at a time, without padding or cache."""
    model = loaded(engine)
    logprobs, divergences, unsteered = [], [], []
    for tokens in request.answers:
        log_p, log_q = (
            reference_logits(model.model, blocks(model), ids, tokens, interventions)[:-1]
            .double()
            .log_softmax(-1)
            for ids, interventions in (
                (request.prompt, request.interventions),
                (request.reference_prompt or request.prompt, ()),
            )
        )
        logprobs.append(log_p.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist())
        divergences.append((log_p.exp() * (log_p - log_q)).sum(-1).tolist())
        unsteered.append(log_q.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist())
    return ScoreOutput(logprobs, divergences, unsteered)


def test_scores_equal_those_of_plain_hooks_under_every_condition(engine: Engine) -> None:
    requests = [
        ScoreRequest(prompt(index % 7), answers(index % 5), case, divergence=bool(index % 3))
        for index, case in enumerate(CASES.values())
    ]
    for request, result in zip(requests, score(engine, requests), strict=True):
        expected = reference(engine, request)
        assert_near(result.logprobs, expected.logprobs)
        assert_near(result.divergences, expected.divergences if request.divergence else [])
        assert_near(result.reference, expected.reference if request.divergence else [])
        assert (result.change is None) == (not request.interventions)


def test_a_request_is_compared_with_the_unsteered_model_on_the_prompt_that_it_names(
    engine: Engine,
) -> None:
    """As a model that is told something is, beside requests that are compared on one prompt."""
    longer = [(*prompt(index), *prompt(index + 1)) for index in range(3)]
    requests = [
        ScoreRequest(ids, answers(index), case, divergence=True, reference_prompt=reference_prompt)
        for index, ids in enumerate(longer)
        for case in ((), steer(plain(), 10))
        for reference_prompt in (prompt(index), None)
    ]
    for request, result in zip(requests, score(engine, requests), strict=True):
        expected = reference(engine, request)
        assert_near(result.logprobs, expected.logprobs)
        assert_near(result.divergences, expected.divergences)
        assert_near(result.reference, expected.reference)


def test_a_scored_answer_has_the_logprobs_with_which_it_was_generated(engine: Engine) -> None:
    requests = [
        Request(prompt(index), GREEDY, 1 + index % 9, case, top_logprobs=0)
        for index, case in enumerate(CASES.values())
    ]
    generated = answer(engine, requests)
    pairs = [(r, g) for r, g in zip(requests, generated, strict=True) if g.tokens]
    assert len(pairs) > 20
    scored = score(
        engine, [ScoreRequest(r.prompt, (tuple(g.tokens),), r.interventions) for r, g in pairs]
    )
    for (request, result), output in zip(pairs, scored, strict=True):
        assert_near(output.logprobs, [[item.logprob for item in result.logprobs]])
        if request.interventions and result.num_generated == len(result.tokens) == 1:
            assert output.change == pytest.approx(result.change, rel=1e-4)


def test_order_and_company_change_no_score(engine: Engine) -> None:
    requests = [
        ScoreRequest(prompt(index % 5), answers(index, 1 + index % 4), case, divergence=True)
        for index, case in enumerate(CASES.values())
    ]
    alone = [score(engine, [request])[0] for request in requests]
    order = random.Random(1).sample(range(len(requests)), len(requests))
    shuffled = score(engine, [requests[index] for index in order])
    for index, result in zip(order, shuffled, strict=True):
        assert_near(result.logprobs, alone[index].logprobs)
        assert_near(result.divergences, alone[index].divergences)
        assert (result.change or 0) == pytest.approx(alone[index].change or 0, rel=1e-4)


def test_an_unsteered_answer_diverges_by_exactly_nothing(engine: Engine) -> None:
    requests = [ScoreRequest(prompt(index), answers(index), divergence=True) for index in range(4)]
    steered = ScoreRequest(prompt(1), answers(1), steer(plain(), 10), divergence=True)
    *results, other = score(engine, [*requests, steered])
    for request, result in zip(requests, results, strict=True):
        assert result.divergences == [[0.0] * len(tokens) for tokens in request.answers]
        assert result.reference == result.logprobs
        assert result.change is None
    assert all(value > 1e-4 for row in other.divergences for value in row)


def test_the_prompt_of_several_answers_is_computed_once(llama: Engine) -> None:
    seen: list[int] = []
    model = loaded(llama)
    handle = model.model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: seen.append(args[0].numel())
    )
    request = ScoreRequest(prompt(1) * 5, tuple(tokens[:2] for tokens in answers(1, 40)))
    try:
        score(llama, [request])
    finally:
        handle.remove()
    assert sum(seen) < len(request.prompt) + 2 * 40


def test_the_head_reads_contiguous_states(llama: Engine) -> None:
    """Of others PyTorch copies the head's matrix once a row on CPUs in bfloat16."""
    shapes: list[tuple[int, ...]] = []
    model = loaded(llama)

    def check(_: Any, args: tuple[torch.Tensor]) -> None:
        assert args[0].is_contiguous()
        shapes.append(tuple(args[0].shape))

    # The answer after one prompt, compared with itself after another: two rows of one pass.
    compared = ScoreRequest(prompt(1), answers(1)[1:2], divergence=True, reference_prompt=prompt(2))
    handle = model.model.get_output_embeddings().register_forward_pre_hook(check)
    try:
        score(llama, [compared])
    finally:
        handle.remove()
    assert [shape[:2] for shape in shapes if shape[0] == 2], shapes


def test_a_condition_that_changes_nothing_is_an_error(llama: Engine) -> None:
    tiny = steer(plain(), 1e-30, unit="raw")
    good = llama.score(ScoreRequest(prompt(1), answers(1)))
    with pytest.raises(EngineError, match="changed no activation"):
        score(llama, [ScoreRequest(prompt(1), answers(1), tiny)])
    assert good.result(60).logprobs
    # The one token of the answer is no input of the model.
    only = steer(plain(), 5, positions="response")
    assert score(llama, [ScoreRequest(prompt(1), ((5,),), only)])[0].change == 0


def test_an_answer_without_a_token_is_refused() -> None:
    for wrong in [(), ((3, 4), ())]:
        with pytest.raises(EngineError, match="at least one token"):
            ScoreRequest((1, 2), wrong)


def test_a_row_whose_logits_are_nan_fails_alone_and_says_why(llama: Engine) -> None:
    broken = ScoreRequest(prompt(2), answers(2), steer(plain(), 1e38, unit="raw"))
    good = ScoreRequest(prompt(2), answers(2), steer(plain(), 3))
    futures = [llama.score(request) for request in (good, broken, good)]
    with pytest.raises(EngineError, match=r"NaN or infinite.*dtype=float32"):
        futures[1].result(60)
    assert futures[0].result(60).logprobs == futures[2].result(60).logprobs


def test_running_out_of_memory_halves_the_passes_and_loses_no_answer(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [
        ScoreRequest(prompt(index), answers(index), steer(plain(), 2 + index), divergence=True)
        for index in range(8)
    ]
    expected = score(llama, requests)
    model = loaded(llama).model
    forward, sizes = model.forward, []

    def limited(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", limited)
    for result, full in zip(score(llama, requests), expected, strict=True):
        assert_near(result.logprobs, full.logprobs)
        assert_near(result.divergences, full.divergences)
    assert max(sizes) > 3
    llama.release()


def test_rows_of_adapters_score_as_peft_alone_beside_steered_ones(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder("llama")
    saved = save_adapter(folder, tmp_path / "lora")
    adapter = adapter_at(folder, saved)
    both, plain_one, steered = (
        ScoreRequest(prompt(1), answers(1), case, lora, divergence=True)
        for case, lora in [(steer(plain(), 8), adapter), ((), adapter), (steer(plain(), 8), None)]
    )
    engine = HFEngine(find_model(str(folder)), device="cpu")
    engine.allow_batch(16)
    results = score(engine, [both, plain_one, steered])
    alone = peft_alone(folder, saved)
    for request, result in zip([both, plain_one], results, strict=False):
        for tokens, logprobs in zip(request.answers, result.logprobs, strict=True):
            logits = reference_logits(
                alone, adapter_blocks(alone), request.prompt, tokens, request.interventions
            )
            expected = logits[:-1].log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])
            assert logprobs == pytest.approx(expected[:, 0].tolist(), abs=2e-4)
    assert results[1].change is None
    # The finetuned model differs from the plain one, which is what it is compared with.
    assert all(value > 0 for row in results[1].divergences for value in row)
    assert_near(results[2].divergences, reference(engine, steered).divergences)
    engine.release()


def test_telemetry_counts_scored_tokens_apart_from_generated_ones(
    tiny_folder: Callable[[str], Path],
) -> None:
    engine = HFEngine(find_model(str(tiny_folder("llama"))), device="cpu")
    [generated] = answer(engine, [Request(prompt(1), GREEDY, 5)])
    before = engine.telemetry()
    score(engine, [ScoreRequest(prompt(1), answers(1), divergence=True)])
    after = engine.telemetry()
    assert (after.tokens, after.busy_s) == (before.tokens, before.busy_s)
    assert before.tokens == generated.num_generated
    assert after.scored_tokens == sum(map(len, answers(1)))
    assert after.scored_per_s == pytest.approx(after.scored_tokens / after.scoring_s)
    assert after.requests == before.requests + 1 == 2
    engine.release()


def test_a_cancelled_request_leaves_the_others_alone_and_a_release_ends_all(
    tiny_folder: Callable[[str], Path],
) -> None:
    engine = HFEngine(find_model(str(tiny_folder("llama"))), device="cpu")
    requests = [ScoreRequest(prompt(index), answers(index)) for index in range(4)]
    expected = score(engine, requests)
    gate = threading.Event()
    engine.call(lambda *_: gate.wait(60))
    futures = [engine.score(request) for request in requests]
    assert futures[1].cancel()
    gate.set()
    for index in (0, 2, 3):
        assert_near(futures[index].result(60).logprobs, expected[index].logprobs)
    engine.call(lambda *_: gate.wait(60))
    engine.call(lambda *_: engine.release())
    ended = [engine.score(request) for request in requests]
    for index, future in enumerate(ended):
        with suppress(EngineError):
            assert_near(future.result(60).logprobs, expected[index].logprobs)
    engine.release()


def test_scoring_goes_on_beside_decoding(llama: Engine) -> None:
    requests = [Request(prompt(index), GREEDY, 40, top_logprobs=0) for index in range(6)]
    expected = answer(llama, requests)
    scores = [ScoreRequest(prompt(index), answers(index)) for index in range(6)]
    alone = score(llama, scores)
    generating = [llama.submit(request) for request in requests]
    scoring = [llama.score(request) for request in scores]
    for one, other in zip([future.result(60) for future in scoring], alone, strict=True):
        assert_near(one.logprobs, other.logprobs)
    for one, other in zip([future.result(60) for future in generating], expected, strict=True):
        assert one.tokens == other.tokens


def rows_for(seed: int) -> list[Row]:
    """Rows of requests of all shapes: few or many conditions, long or short, compared or not."""
    rng = random.Random(f"rows {seed}")
    conditions = [(), *(steer(plain(), index + 1) for index in range(rng.choice([1, 3, 40])))]
    prompts = [(5,) * rng.choice([3, 40, 3000]) + (index,) for index in range(rng.choice([1, 9]))]
    texts = [(7,) * rng.choice([1, 20, 200]) + (index,) for index in range(rng.choice([1, 5]))]
    requests = [
        ScoreRequest(prompt, tuple(texts), condition, divergence=rng.random() < 0.5)
        for condition in conditions
        for prompt in prompts
    ]
    return rows_of([Scoring(request, Future()) for request in requests])


@pytest.mark.parametrize("seed", range(12))
def test_every_row_is_in_one_pass_that_is_no_larger_than_allowed(seed: int) -> None:
    rows = rows_for(seed)
    max_rows, max_logits, whole = [(1, 999), (5, 3000), (64, 10**6)][seed % 3] + (seed % 2 > 0,)
    chunks = in_chunks(rows, max_rows)
    assert sorted(map(id, chain(*chunks))) == sorted(map(id, rows))
    for chunk in chunks:
        prompts = {row.prefix for row in with_references(chunk)}
        width = max(len(row.prompt) for row in chunk)
        assert len(prompts) <= 2 or (len(prompts) <= max_rows and len(prompts) * width <= 8192)
        passes = in_passes(chunk, max_rows, max_logits, whole=whole)
        assert sorted(map(id, chain(*passes))) == sorted(map(id, chunk))
        for part in passes:
            count = len(with_references(part))
            answer = max(len(row.answer) for row in part)
            width = max(len(row.prompt) for row in part) + answer
            logits = count * (width if whole else answer)
            assert (
                (len({(row.prompt, row.answer) for row in part}) == 1 and len(part) == 1)
                or (count <= max_rows and count * width <= 8192 and logits <= max_logits)
            )  # fmt: skip
