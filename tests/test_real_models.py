"""A real language model (SmolLM2-135M-Instruct, dequantized): loaded, steered, sampled and scored.

`make test-real` fetches its file and runs these tests. What is held elsewhere on tiny random models
is held here on weights that were trained, with attention sinks and a residual stream 100 long.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import GREEDY, blocks, loaded
from hook_reference import reference_logits
from random_vectors import make_vector
from test_provider import ask, steered
from test_scoring import reference
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.engines import Engine, Request, RequestOutput, ScoreRequest, shared_engine
from steering.engines.hf import HFEngine
from steering.engines.sampling import Sampling
from steering.models import encode, find_model, load_model, read_shape, render_chat
from steering.vectors.interventions import Intervention, resolve

# Minutes at most, whoever else uses the machine's cores.
pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]
TIMEOUT = 600

WIDTH, LAYERS = 576, 30
QUESTIONS = (
    "What is the capital of France?",
    "Hi",
    "I've had a sore throat and a mild fever for three days. Should I see a doctor, or wait?",
    "How many days are there in a week?",
    "Write a short note to a neighbour who plays loud music at night, and ask her kindly to stop.",
    "What colour is the sky on a clear day?",
    "Is it okay to reuse the same password for several websites?",
    "Tell me something about tides.",
)
# The model's card asks for these.
CARD = Sampling(temperature=0.2, top_p=0.9)
# Nats or logits by which an engine's batch lies apart from plain PyTorch, one sequence at a time.
ROUNDING = {"float32": 2e-4, "bfloat16": 0.3}


def steer(layer: int, magnitude: float, rank: int = 1, **options: Any) -> tuple[Intervention, ...]:
    """By a random vector; answer tokens here are about 137 long at block 12."""
    vector = make_vector(rank, seed=layer + rank, layers=(layer,), width=WIDTH)
    return resolve(vector, **{"magnitude": magnitude, "unit": "norm", **options})


CASES: dict[str, tuple[Intervention, ...]] = {
    "unsteered": (),
    "add": steer(12, 40),
    "add to the prompt in the first block": steer(0, 5, positions="prompt"),
    "add to answers in the last block": steer(LAYERS - 1, 60, positions="response"),
    "add to the last prompt token": steer(20, 80, positions="last"),
    "ablate rank 3": steer(12, 1, rank=3, operation="ablate"),
    "clamp": steer(18, 30, operation="clamp"),
    "cap and add": (*steer(8, -10, operation="cap"), *steer(16, -30, rank=3)),
}


@pytest.fixture(scope="module")
def prompts(smollm2: Path) -> list[tuple[int, ...]]:
    tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    turns = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [tuple(encode(tokenizer, render_chat(tokenizer, turn))) for turn in turns]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engine(request: pytest.FixtureRequest, smollm2: Path) -> Any:
    engine = shared_engine(find_model(str(smollm2)), dtype=request.param, device="cpu")
    engine.allow_batch(16)
    yield engine
    engine.release()


def rounding(engine: Engine) -> float:
    return ROUNDING[str(loaded(engine).model.dtype).removeprefix("torch.")]


def test_a_gguf_file_is_the_model_of_the_folder_that_it_is_saved_as(
    smollm2: Path, tmp_path: Path, prompts: Sequence[tuple[int, ...]]
) -> None:
    source = find_model(str(smollm2))
    assert (read_shape(source).num_layers, read_shape(source).width) == (LAYERS, WIDTH)
    theirs = load_model(source, dtype="float32", device="cpu")
    theirs.model.save_pretrained(tmp_path)
    theirs.tokenizer.save_pretrained(tmp_path)
    ours = load_model(find_model(str(tmp_path)), device="cpu")
    plain: Any = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    assert ours.model.dtype == plain.dtype == torch.float32
    for name, weight in plain.state_dict().items():
        assert torch.equal(theirs.model.state_dict()[name], weight), name
        assert torch.equal(ours.model.state_dict()[name], weight), name
    assert ours.end_tokens == theirs.end_tokens
    text = render_chat(theirs.tokenizer, [{"role": "user", "content": QUESTIONS[2]}])
    assert encode(ours.tokenizer, text) == encode(theirs.tokenizer, text) == [*prompts[2]]
    tokens = torch.tensor([prompts[2]])
    with torch.no_grad():
        assert torch.equal(ours.model(tokens).logits, plain(tokens).logits)


def answer(engine: Engine, requests: Sequence[Request]) -> list[RequestOutput]:
    futures = [engine.submit(request) for request in requests]
    results = [future.result(TIMEOUT) for future in futures]
    loaded(engine)  # waits until the batch is over: only then may a test run the model itself
    return results


def requests(prompts: Sequence[tuple[int, ...]]) -> list[Request]:
    return [
        Request(prompt, GREEDY, 12, case, top_logprobs=20)
        for prompt, case in zip(prompts, CASES.values(), strict=True)
    ]


def test_a_batch_is_steered_as_plain_hooks_steer_each_prompt(
    engine: Engine, prompts: Sequence[tuple[int, ...]]
) -> None:
    batch = requests(prompts)
    results = answer(engine, batch)
    model, bound = loaded(engine), rounding(engine)
    assert len({tuple(result.tokens[:6]) for result in results}) > 4
    for name, request, result in zip(CASES, batch, results, strict=True):
        logits = reference_logits(
            model.model, blocks(model), request.prompt, result.tokens, request.interventions
        ).float()
        ids = [*result.tokens, *model.end_tokens][: request.max_tokens]
        behind = logits[: len(ids)].max(-1).values - logits[range(len(ids)), ids]
        expected = dict(enumerate(logits[0].log_softmax(-1).tolist()))
        apart = [abs(value - expected[token]) for token, value in result.logprobs[0].top]
        assert behind.max() < bound, name
        assert max(apart) < bound, name
        assert (result.change is None) == (not request.interventions)


def test_given_answers_are_scored_as_plain_hooks_score_them(
    engine: Engine, prompts: Sequence[tuple[int, ...]]
) -> None:
    tokenizer = loaded(engine).tokenizer
    texts = ("The capital of France is Paris.", "You should not worry about it, and wait.", "No")
    answers = tuple(tuple(encode(tokenizer, text)) for text in texts)
    cases = [
        ScoreRequest(prompt, answers, case, divergence=bool(case))
        for prompt, case in zip(prompts[:5], [*CASES.values()][:5], strict=True)
    ]
    futures = [engine.score(request) for request in cases]
    results = [future.result(TIMEOUT) for future in futures]
    for request, result in zip(cases, results, strict=True):
        expected, bound = reference(engine, request), rounding(engine)
        for row, other in zip(result.logprobs, expected.logprobs, strict=True):
            assert row == pytest.approx(other, abs=bound)
        for row, other in zip(result.divergences, expected.divergences, strict=False):
            assert row == pytest.approx(other, abs=bound)


def test_batch_mates_change_no_bit_in_the_mode_for_it(
    smollm2: Path, prompts: Sequence[tuple[int, ...]]
) -> None:
    engine = HFEngine(
        find_model(str(smollm2)), dtype="bfloat16", device="cpu", batch_invariant=True
    )
    batch = requests(prompts)
    together = answer(engine, batch)
    alone = [engine.submit(request).result(TIMEOUT) for request in batch[::3]]
    assert [(r.tokens, r.logprobs) for r in together[::3]] == [
        (r.tokens, r.logprobs) for r in alone
    ]
    engine.release()


@pytest.mark.parametrize("engine", ["float32"], indirect=True)
def test_answers_at_the_settings_of_the_card_are_coherent_and_repeat_with_their_seed(
    engine: Engine, prompts: Sequence[tuple[int, ...]]
) -> None:
    facts = {3: ("7", "seven"), 5: ("blue",), 7: ("tide",)}
    batch = [
        Request(
            prompts[index], CARD.model_copy(update={"seed": seed}), max_tokens=40, top_logprobs=0
        )
        for seed in (1, 2, 1)
        for index in facts
    ]
    results = answer(engine, batch)
    once, other, again = ([r.text for r in results[at : at + 3]] for at in (0, 3, 6))
    assert once == again
    assert once[2] != other[2]
    for words, text in zip([*facts.values()] * 2, once + other, strict=True):
        assert any(word in text.lower() for word in words), text
    # Of word salad the model itself would think little: chance is 10.8 nats a token.
    for result in results:
        surprise = -sum(token.logprob for token in result.logprobs) / len(result.logprobs)
        assert surprise < 1.5, result.text


def test_the_provider_asks_and_steers_it(smollm2: Path, tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    make_vector(seed=1, layers=(12,), width=WIDTH).save(file)
    plain = ask(steered(smollm2, vector="none"), QUESTIONS[0])
    moved = ask(steered(smollm2, vector=str(file), unit="norm", magnitude=80), QUESTIONS[0])
    assert (plain.completion, plain.stop_reason) == ("The capital of France is Paris.", "stop")
    assert moved.completion != plain.completion
    assert plain.usage is not None
    assert plain.usage.output_tokens == 8  # with its end
