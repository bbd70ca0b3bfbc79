"""Beginnings that prompts share: read once, and no score depends on it."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import adapter_at, save_adapter
from conformance import blocks, loaded, plain, steer
from hook_reference import reference_logits
from tiny_models import save_tiny

from steering.engines import Engine, ScoreOutput, ScoreRequest
from steering.engines.beginnings import LEAST_SHARED, Beginnings, common, shared_beginnings
from steering.engines.hf import HFEngine
from steering.models import find_model

RUBRIC, OTHER = 90, 110  # tokens of two beginnings


def tokens(seed: object, count: int) -> tuple[int, ...]:
    rng = random.Random(f"beginnings {seed}")
    return tuple(rng.randrange(3, 250) for _ in range(count))


def judge_prompts(count: int = 6, rubrics: Sequence[int] = (RUBRIC, OTHER)) -> list[Any]:
    """Prompts of several lengths that begin as one of the rubrics does."""
    return [tokens(rubric, rubric) + tokens((i, rubric), 9 + 7 * (i % 4)) for i in range(count)
            for rubric in rubrics]  # fmt: skip


def requests_of(prompts: Sequence[tuple[int, ...]], **options: Any) -> list[ScoreRequest]:
    return [
        ScoreRequest(
            prompt,
            ((5,), (7, 8), (9, 10, 11)),
            alternatives=((6, 7), (), (12, 13, 14)),
            **options,
        )
        for prompt in prompts
    ]


def score(engine: Engine, requests: Sequence[ScoreRequest]) -> list[ScoreOutput]:
    results = [future.result(120) for future in [engine.score(request) for request in requests]]
    loaded(engine)
    return results


def assert_as_plain_passes(
    engine: Engine, requests: Sequence[ScoreRequest], results: Sequence[ScoreOutput]
) -> None:
    """Compare with whole sequences, one at a time, without cache or padding."""
    model = loaded(engine)
    for request, result in zip(requests, results, strict=True):
        for at, answer in enumerate(request.answers):
            log_p = reference_logits(
                model.model, blocks(model), request.prompt, answer, request.interventions
            ).log_softmax(-1)
            expected = [log_p[index, token].item() for index, token in enumerate(answer)]
            others = log_p[len(answer) - 1, list(request.alternatives[at])].tolist()
            assert result.logprobs[at] == pytest.approx(expected, abs=2e-4)
            assert result.alternatives[at] == pytest.approx(others, abs=2e-4)


def reads(engine: Engine, work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` returns, and the number of tokens that the model reads meanwhile."""
    seen: list[int] = []
    handle = loaded(engine).model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: seen.append(args[0].numel())
    )  # fmt: skip
    try:
        return work(), sum(seen)
    finally:
        handle.remove()


@pytest.fixture
def engine_of(tmp_path: Path) -> Any:
    engines: list[HFEngine] = []

    def make(family: str, batch: int = 64, **changed: Any) -> HFEngine:
        folder = save_tiny(tmp_path / family, family, **changed)
        engines.append(HFEngine(find_model(str(folder)), device="cpu"))
        engines[-1].allow_batch(batch)
        return engines[-1]

    yield make
    for engine in engines:
        engine.release()


# A window that holds a part of a beginning, and one that holds none that is worth it.
@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("llama", {}),
        ("gemma3", {"sliding_window": 100}),
        ("gemma3", {"sliding_window": 8}),
        ("qwen3.5", {}),
    ],
)
def test_shared_beginnings_change_no_score(
    engine_of: Any, family: str, changed: dict[str, Any]
) -> None:
    engine = engine_of(family, **changed)
    prompts = judge_prompts()
    steered = requests_of([prompts[0], prompts[3]], interventions=steer(plain(), 8))
    after = requests_of([prompts[1]], interventions=steer(plain(), 8, positions="response"))
    requests = [*requests_of(prompts), *steered, *after, *requests_of([tokens("alone", 50)])]
    assert_as_plain_passes(engine, requests, score(engine, requests))
    # Later ones go on from what earlier passes have remembered.
    later = requests_of(judge_prompts(9)[12:])
    assert_as_plain_passes(engine, later, score(engine, later))


def test_a_shared_beginning_is_read_once(engine_of: Any) -> None:
    engine = engine_of("llama")
    loaded(engine)
    prompts = judge_prompts(10)
    requests = [ScoreRequest(prompt, ((5,),)) for prompt in prompts]
    _, read = reads(engine, lambda: score(engine, requests))
    assert read < RUBRIC + OTHER + 40 * len(prompts)
    # One prompt after the other, as answers come in.
    later = [ScoreRequest(prompt, ((5,),)) for prompt in judge_prompts(12)[20:]]
    for request in later:
        _, read = reads(engine, lambda request=request: score(engine, [request]))
        assert read <= len(request.prompt) - RUBRIC


def test_a_state_that_can_not_be_cut_goes_on_by_single_tokens_from_a_prompt_read_once(
    engine_of: Any,
) -> None:
    engine = engine_of("qwen3.5")
    loaded(engine)
    prompts = judge_prompts(2)
    steered = steer(plain(), 8, positions="response")
    requests = [*requests_of(prompts), *requests_of(prompts[:1], interventions=steered)]
    results, read = reads(engine, lambda: score(engine, requests))
    assert read < sum(len(prompt) for prompt in prompts) + 30 * len(requests)
    assert_as_plain_passes(engine, requests, results)
    assert results[-1].change
    # Beyond a few tokens a prompt is read with each of its answers.
    long = ScoreRequest(prompts[0], (tokens("long", 9), tokens("other", 12)))
    [result], read = reads(engine, lambda: score(engine, [long]))
    assert read > 2 * len(prompts[0])
    assert list(map(len, result.logprobs)) == [9, 12]


def test_prompts_that_come_alone_share_from_the_second_on(engine_of: Any) -> None:
    engine = engine_of("llama")
    loaded(engine)
    counts = [
        reads(engine, lambda prompt=prompt: score(engine, [ScoreRequest(prompt, ((5,),))]))[1]
        for prompt in judge_prompts(3, (RUBRIC,))
    ]
    assert counts[0] >= RUBRIC
    assert counts[2] < 40


def test_prompts_that_are_steered_or_of_an_adapter_never_go_on_from_plain_ones(
    engine_of: Any, tmp_path: Path
) -> None:
    engine = engine_of("llama")
    prompts = judge_prompts(3, (RUBRIC,))
    folder = tmp_path / "llama"
    adapter = adapter_at(folder, save_adapter(folder, tmp_path / "lora"))
    plain_ones, finetuned = requests_of(prompts), requests_of(prompts, adapter=adapter)
    alone = [score(engine, [request])[0] for request in finetuned[:1]]
    together = score(engine, [*plain_ones, *finetuned])
    again = score(engine, finetuned)
    for one, other in zip([*together[3:], *alone], [*again, again[0]], strict=True):
        for row, expected in zip(one.logprobs, other.logprobs, strict=True):
            assert row == pytest.approx(expected, abs=2e-4)
    assert_as_plain_passes(engine, plain_ones, together[:3])
    assert together[3].logprobs[1] != pytest.approx(together[0].logprobs[1], abs=1e-2)


def test_an_engine_of_one_row_a_pass_shares_nothing(engine_of: Any) -> None:
    engine = engine_of("llama", batch=1)
    loaded(engine)
    requests = [ScoreRequest(prompt, ((5,),)) for prompt in judge_prompts(4)]
    _, read = reads(engine, lambda: score(engine, requests))
    assert read == sum(len(request.prompt) for request in requests)


def test_running_out_of_memory_forgets_the_beginnings_and_loses_no_answer(
    engine_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of("llama")
    requests = requests_of(judge_prompts(4))
    expected = score(engine, requests)
    model, failures = loaded(engine).model, iter([False, True])
    forward = model.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", limited)
    for result, full in zip(score(engine, requests), expected, strict=True):
        for row, other in zip(result.logprobs, full.logprobs, strict=True):
            assert row == pytest.approx(other, abs=2e-4)


def test_beginnings_are_found_shorter_ones_first_and_only_where_they_are_worth_a_pass() -> None:
    rubric, question = tokens("rubric", 100), tokens("question", 70)
    other = tokens("other", 80)
    prompts = [
        *(rubric + question + tokens(i, 9) for i in range(3)),
        *(rubric + tokens(("short", i), 20) for i in range(3)),
        *(other + tokens(("other", i), 5) for i in range(2)),
        tokens("alone", 300),
    ]
    random.Random(3).shuffle(prompts)
    shared = shared_beginnings(prompts)
    assert set(shared) == {rubric, rubric + question, other}
    assert shared.index(rubric) < shared.index(rubric + question)
    assert shared_beginnings([(*tokens(1, LEAST_SHARED - 1), i) for i in range(5)]) == []
    assert shared_beginnings([]) == shared_beginnings([rubric]) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_common_beginning_of_two_prompts(seed: int) -> None:
    rng = random.Random(seed)
    first = tokens(seed, rng.randrange(0, 40))
    length = rng.randrange(0, len(first) + 1)
    second = (*first[:length], 999, *tokens("rest", rng.randrange(5)))
    assert common(first, second) == common(second, first) == length
    assert common(first, first) == len(first)


def test_only_the_beginnings_used_last_are_remembered() -> None:
    beginnings = Beginnings(5000)
    rubrics = [tokens(("rubric", i), 1000) for i in range(6)]
    for rubric in rubrics[:4]:
        beginnings.remember(None, rubric, f"cache of {rubric[0]}")
    assert beginnings.longest(None, (*rubrics[0], 1)) == (f"cache of {rubrics[0][0]}", 1000)
    beginnings.remember(None, rubrics[4], "fifth")
    assert beginnings.longest(None, (*rubrics[1], 1)) == (None, 0)
    assert beginnings.longest(None, (*rubrics[0], 1))[1] == 1000
    assert beginnings.longest(None, rubrics[0])[1] == 999  # the last token's logits are needed
    beginnings.forget()
    assert beginnings.longest(None, rubrics[0]) == (None, 0)


def test_a_repeated_prompt_is_no_beginning_of_its_own() -> None:
    beginnings = Beginnings(5000)
    prompt = tokens("repeated", 200)
    assert beginnings.worth_reading(None, [prompt]) == []
    assert beginnings.worth_reading(None, [prompt]) == []
    assert beginnings.worth_reading(None, [(*prompt[:150], 1, 2)]) == [prompt[:150]]
    assert Beginnings(0).worth_reading(None, [prompt, (*prompt[:150], 1, 2)]) == []
