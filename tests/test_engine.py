"""The engine against plain hooks; requests alone, together, and in any order."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import (
    CASES,
    GREEDY,
    Interventions,
    answer,
    blocks,
    loaded,
    mapped,
    plain,
    prompt,
    steer,
)
from random_vectors import make_vector, random_tensor
from replicas import replica, replica_of_map
from tiny_models import LAYERS, WIDTH

from steering import vocabulary
from steering.engines import (
    Engine,
    EngineError,
    Request,
    RequestOutput,
    decoder,
    release_engines,
    shared_engine,
)
from steering.engines.settings import Sampling
from steering.models import find_model
from steering.vectors import SteeringVector, VectorError
from steering.vectors.batch import InterventionBatch, SiteKey
from steering.vectors.interventions import resolve

FAMILIES = ["qwen3.5", "llama", "gemma3"]


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> Engine:
    engine = shared_engine(find_model(str(tiny_folder(request.param))), device="cpu")
    engine.allow_batch(64)
    return engine


@pytest.fixture(scope="module")
def qwen(tiny_folder: Callable[[str], Path]) -> Engine:
    engine = shared_engine(find_model(str(tiny_folder("qwen3.5"))), device="cpu")
    engine.allow_batch(64)
    return engine


def test_the_cases_name_all_that_can_be_asked_for() -> None:
    interventions = [item for case in CASES.values() for item in case]
    for attribute, values in [
        ("operation", vocabulary.OPERATIONS),
        ("positions", vocabulary.POSITIONS),
        ("site", vocabulary.SITES),
        ("layer", range(LAYERS)),
    ]:
        for low_rank_map in (False, True):
            present = {
                getattr(e, attribute)
                for e in interventions
                if (e.reads is not None) == low_rank_map
            }
            assert present == (
                {"add"} if low_rank_map and attribute == "operation" else set(values)
            )


def test_magnitude_zero_and_no_vector_equal_the_plain_model_exactly(qwen: Engine) -> None:
    zeros = [steer(plain(), 0), steer(mapped([0, 2]), 0), steer(plain(rank=2), 0, unit="raw")]
    requests = [Request(prompt(5), GREEDY, 15, case, top_logprobs=3) for case in [(), *zeros]]
    alone = [engine_result(qwen, request) for request in requests]
    for steered in alone[1:]:
        assert steered.tokens == alone[0].tokens
        assert steered.logprobs == alone[0].logprobs
    model = loaded(qwen)
    generated = model.model.generate(
        torch.tensor([requests[0].prompt]), max_new_tokens=15, do_sample=False
    )[0, len(requests[0].prompt) :]
    assert alone[0].tokens == [
        token for token in generated.tolist() if token not in model.end_tokens
    ]


def engine_result(engine: Engine, request: Request) -> RequestOutput:
    return answer(engine, [request])[0]


@pytest.mark.parametrize("vector", [plain(), plain(rank=3), mapped()], ids=["1", "3", "map"])
@pytest.mark.parametrize("positions", vocabulary.POSITIONS)
def test_the_vector_is_on_at_exactly_the_named_tokens(
    qwen: Engine, positions: Any, vector: SteeringVector
) -> None:
    """Captured: at the steered block the difference to the plain model is the vector, or 0."""
    steered = steer(vector, 2, unit="raw", positions=positions)
    request = Request(prompt(7), GREEDY, 8, steered)
    model = loaded(qwen)
    captured: list[torch.Tensor] = []
    block = blocks(model)[1]
    # The neighbour is longer, so the captured request is padded.
    neighbour = Request(prompt(7) * 2, GREEDY, 12)
    handle = block.register_forward_hook(lambda _, __, out: captured.append(out[:1].clone()))
    try:
        result = answer(qwen, [request, neighbour])[0]
    finally:
        handle.remove()
    length = len(request.prompt)
    steps = len(result.tokens)
    got = torch.cat([captured[0][0, -length:], *(step[0] for step in captured[1:steps])])
    unsteered: list[torch.Tensor] = []
    handle = block.register_forward_hook(lambda _, __, out: unsteered.append(out.clone()))
    with torch.no_grad():
        model.model(
            input_ids=torch.tensor([[*request.prompt, *result.tokens[:-1]]]), use_cache=False
        )
    handle.remove()
    on = {
        "all": range(len(got)),
        "prompt": range(length),
        "response": range(length, len(got)),
        "last": range(length - 1, length),
    }[positions]
    hidden = unsteered[0][0]
    expected = hidden.clone()
    for index in on:
        if vector.map is None:
            steered_row = replica("add", hidden[index], vector.directions[0], 2)
        else:
            parts = (vector.directions[0], vector.map.reads[0], vector.map.offsets[0])
            steered_row = replica_of_map(hidden[index], *parts, 2)
        expected[index] = torch.from_numpy(steered_row)
    assert (got - expected).abs().max() < 1e-3
    assert (expected - hidden).abs().amax(-1)[list(on)].min() > 0.1


@pytest.mark.parametrize("vector", [plain(), mapped(), plain([1, 2])], ids=["1", "map", "layers"])
def test_a_steered_row_that_changes_nothing_is_an_error(
    qwen: Engine, vector: SteeringVector
) -> None:
    with pytest.raises(EngineError, match=r"changed no activation.*magnitude"):
        engine_result(qwen, Request(prompt(1), GREEDY, 5, steer(vector, 1e-30)))


def test_an_edit_that_misses_a_pass_is_an_error(
    qwen: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = decoder.InterventionBatch.apply

    def prefill_only(batch: Any, key: Any, hidden: torch.Tensor) -> torch.Tensor:
        return honest(batch, key, hidden) if hidden.shape[1] > 1 else hidden

    monkeypatch.setattr(decoder.InterventionBatch, "apply", prefill_only)
    with pytest.raises(EngineError, match="every pass"):
        engine_result(qwen, Request(prompt(1), GREEDY, 5, CASES["add"]))


def test_a_row_whose_logits_are_nan_fails_alone_and_says_why(qwen: Engine) -> None:
    huge = SteeringVector(torch.full((1, 1, WIDTH), 1e38), (1,), "resid_post")
    overflow = resolve(huge, magnitude=9)
    fine = Request(prompt(1), GREEDY, 5, CASES["add"])
    expected = engine_result(qwen, fine).tokens
    broken, good = [
        qwen.submit(request) for request in (Request(prompt(2), GREEDY, 5, overflow), fine)
    ]
    with pytest.raises(EngineError, match=r"NaN.*magnitude"):
        broken.result(60)
    assert good.result(60).tokens == expected


def test_a_vector_of_another_width_is_refused_and_the_engine_goes_on(qwen: Engine) -> None:
    wide = resolve(make_vector(width=WIDTH + 1))
    with pytest.raises(VectorError, match=f"{WIDTH + 1}.*{WIDTH}"):
        engine_result(qwen, Request(prompt(1), GREEDY, 5, wide))
    assert engine_result(qwen, Request(prompt(1), GREEDY, 5)).tokens


def test_stop_strings_cut_the_text_and_only_their_own_row(qwen: Engine) -> None:
    free = engine_result(qwen, Request(prompt(9), GREEDY, 30))
    stop = free.text[4:6]
    stopped, neighbour = answer(
        qwen, [Request(prompt(9), GREEDY, 30, stop=(stop,)), Request(prompt(9), GREEDY, 30)]
    )
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.stop_reason == "stop"
    assert neighbour.tokens == free.tokens


def test_lengths_are_counted_and_reasons_are_real(qwen: Engine) -> None:
    result = engine_result(qwen, Request(prompt(9), GREEDY, 7))
    assert (result.stop_reason, result.num_generated, len(result.tokens)) == ("max_tokens", 7, 7)
    # A bias that forces the end token after nothing.
    ended = engine_result(qwen, Request(prompt(9), Sampling(temperature=0, logit_bias={0: 100}), 7))
    assert (ended.stop_reason, ended.num_generated, ended.text) == ("stop", 1, "")
    context = loaded(qwen).shape.context_length
    full = engine_result(qwen, Request((5,) * (context - 3), GREEDY, 100))
    assert (full.stop_reason, full.num_generated) == ("model_length", 3)


def test_an_answer_is_handed_over_when_it_ends_and_not_with_its_batch(qwen: Engine) -> None:
    short, long = [qwen.submit(Request(prompt(3), GREEDY, length)) for length in (2, 300)]
    short.result(60)
    assert not long.done()
    long.result(60)


def test_a_cancelled_row_leaves_its_neighbours_alone(qwen: Engine) -> None:
    requests = [Request(prompt(index), GREEDY, 60, CASES["add"]) for index in range(4)]
    alone = [engine_result(qwen, request).tokens for request in requests]
    futures = [qwen.submit(request) for request in requests]
    assert futures[1].cancel()
    remaining = [future.result(60).tokens for index, future in enumerate(futures) if index != 1]
    assert remaining == [tokens for index, tokens in enumerate(alone) if index != 1]


def test_running_out_of_memory_halves_the_batch_and_loses_no_row(
    qwen: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(prompt(index), GREEDY, 8, CASES["add"]) for index in range(7)]
    expected = [result.tokens for result in answer(qwen, requests)]
    honest = decoder.Decoder.forward
    sizes: list[int] = []

    def short_of_memory(self: Any, tokens: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("injected")
        return honest(self, tokens, *rest)

    monkeypatch.setattr(decoder.Decoder, "forward", short_of_memory)
    assert [result.tokens for result in answer(qwen, requests)] == expected
    assert max(sizes) > 2


def test_only_a_row_that_cannot_run_alone_fails_for_memory(
    qwen: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = decoder.Decoder.forward
    requests = [Request((5, 6, 7), GREEDY, 8), Request((9,) * 50, GREEDY, 8)]
    expected = engine_result(qwen, requests[0]).tokens

    def no_long_rows(self: Any, tokens: torch.Tensor, *rest: Any) -> Any:
        if tokens.shape[1] > 40:
            raise torch.OutOfMemoryError("injected")
        return honest(self, tokens, *rest)

    monkeypatch.setattr(decoder.Decoder, "forward", no_long_rows)
    short, long = [qwen.submit(request) for request in requests]
    assert short.result(60).tokens == expected
    with pytest.raises(torch.OutOfMemoryError):
        long.result(60)


def _in_session(engine: Engine, runs: Callable[[Any, Any], Any]) -> Any:
    def work(model: Any, session: Any) -> Any:
        with torch.no_grad():
            return runs(model, session)

    return engine.call(work).result(60)


TOKENS = torch.tensor([prompt(31)[:4], prompt(32)[:4]])


class _Watched:
    """Interventions of one pass over `TOKENS`; keeps the activations at each of their sites."""

    def __init__(self, requests: Sequence[Interventions]) -> None:
        self.batch = InterventionBatch(requests)
        self.batch.begin_prefill(torch.ones(TOKENS.shape))
        self.sites = self.batch.sites
        self.came: dict[SiteKey, torch.Tensor] = {}

    def apply(self, key: SiteKey, hidden: torch.Tensor) -> torch.Tensor:
        self.came[key] = hidden
        return self.batch.apply(key, hidden)


@pytest.mark.parametrize(
    "requests",
    [
        [steer(plain([2]), 10), ()],
        [steer(mapped([2, 3]), 5), steer(plain([2]), operation="ablate")],
        [steer(plain([3], site="resid_pre"), 10), steer(mapped([3], site="mlp_out"), 5)],
        [(), ()],
    ],
    ids=["resid_post of the last skipped block", "maps", "within the next block", "unsteered"],
)
def test_skipping_the_blocks_below_the_edits_changes_no_logit(
    engine: Engine, requests: Sequence[Interventions]
) -> None:
    num_below = 3

    def runs(model: Any, session: Any) -> None:
        ran: list[int] = []
        outputs: list[torch.Tensor] = []
        handles = [
            block.mlp.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
            for layer, block in enumerate(blocks(model))
        ]
        handles.append(
            blocks(model)[num_below - 1].register_forward_hook(
                lambda _, __, out: outputs.append(out)
            )
        )

        def logits(case: Sequence[Interventions], below: Any = None) -> torch.Tensor:
            for _ in range(2):  # the first pass of a session may read sizes of outputs in another
                ran.clear()
                result = session.run(
                    lambda: model.model(input_ids=TOKENS, use_cache=False).logits,
                    _Watched(case),
                    below,
                )
            assert ran == list(range(num_below if below else 0, LAYERS))
            return result

        try:
            unsteered = logits([(), ()])
            below = (num_below, outputs[0].clone())
            expected = logits(requests)
            assert torch.equal(logits(requests, below), expected)
            # Nothing of it is left for the runs that follow.
            assert torch.equal(logits(requests), expected)
            assert torch.equal(logits([(), ()]), unsteered)
            assert torch.equal(logits([(), ()], below), unsteered)
            assert torch.equal(logits([(), ()]), unsteered)
        finally:
            for handle in handles:
                handle.remove()

    _in_session(engine, runs)


def test_what_the_skipped_blocks_would_have_given_is_what_is_gone_on_with(qwen: Engine) -> None:
    """Other activations, other logits: they are read, not made again."""
    replacement = random_tensor(*TOKENS.shape, WIDTH)
    steered = [steer(plain([1]), 10), ()]

    def runs(model: Any, session: Any) -> None:
        watched, nearby = _Watched(steered), _Watched(steered)

        def forward() -> torch.Tensor:
            return model.model(input_ids=TOKENS, use_cache=False).logits

        logits = session.run(forward, watched, (2, replacement))
        assert torch.equal(watched.came[1, "resid_post"], replacement)
        assert not torch.allclose(logits, session.run(forward, nearby, (2, replacement + 1)))

    _in_session(qwen, runs)


@pytest.mark.parametrize(
    "case", [plain([1]), mapped([0, 2]), plain([1], site="resid_pre"), plain([1], site="mlp_out")]
)
@pytest.mark.parametrize("num_below", [0, 1])
def test_leaving_out_the_blocks_above_the_edits_changes_nothing_that_they_see(
    engine: Engine, case: SteeringVector, num_below: int
) -> None:
    steered = [steer(case, 10), steer(plain(case.layers, site=case.site), operation="ablate")]

    def runs(model: Any, session: Any) -> None:
        whole, part = _Watched(steered), _Watched(steered)
        first: list[torch.Tensor] = []
        ran: list[int] = []

        def forward() -> Any:
            return model.model(input_ids=TOKENS, use_cache=False).logits

        below = None
        if num_below:
            handle = blocks(model)[0].register_forward_hook(lambda _, __, out: first.append(out))
            session.run(forward, _Watched([(), ()]))
            handle.remove()
            below = (1, first[0])
        expected = session.run(forward, whole, below)
        above = blocks(model)[case.layers[-1] + 1]
        handle = above.mlp.register_forward_hook(lambda *_: ran.append(1))
        session.run(forward, part, below, up_to_last_site=True)
        handle.remove()
        assert not ran
        assert list(part.came) == list(whole.came) == list(whole.sites)
        assert all(torch.equal(part.came[key], whole.came[key]) for key in whole.sites)
        assert torch.equal(session.run(forward, _Watched(steered), below), expected)

    _in_session(engine, runs)


def test_a_run_that_fails_below_leaves_the_next_one_whole(qwen: Engine) -> None:
    expected = engine_result(qwen, Request(prompt(4), GREEDY, 6, CASES["add"])).tokens
    wrong = torch.zeros(*TOKENS.shape, WIDTH + 1)

    def runs(model: Any, session: Any) -> None:
        session.run(lambda: model.model(input_ids=TOKENS), _Watched([(), ()]), (1, wrong))

    with pytest.raises(Exception, match=str(WIDTH)):
        _in_session(qwen, runs)
    assert engine_result(qwen, Request(prompt(4), GREEDY, 6, CASES["add"])).tokens == expected


def test_all_callers_share_one_copy_of_the_tokenizer(qwen: Engine) -> None:
    # Each condition of a study asks, and a large vocabulary takes half a second to copy.
    [first, second] = (qwen.tokenizer().result() for _ in range(2))
    assert first is second
    assert qwen.call(lambda loaded, _: loaded.tokenizer).result() is not first


def test_one_process_holds_one_engine_of_a_model(tiny_folder: Callable[[str], Path]) -> None:
    source = find_model(str(tiny_folder("llama")))
    assert shared_engine(source) is shared_engine(find_model(str(tiny_folder("llama"))))
    assert shared_engine(source) is not shared_engine(source, dtype="bfloat16")
    assert shared_engine(source) is not shared_engine(find_model(str(tiny_folder("qwen3.5"))))


@pytest.mark.usefixtures("frozen_models")
def test_a_released_engine_gives_its_weights_back_and_loads_them_again(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a study of several models needs room for one."""
    # Engines of other tests stay loaded.
    monkeypatch.setattr("steering.engines._engines", {})
    engine = shared_engine(find_model(str(tiny_folder("llama"))), dtype="float32", device="cpu")
    request = Request(prompt(4), GREEDY, 4)
    before = engine.submit(request).result().tokens
    reference = engine.call(lambda loaded, _: weakref.ref(loaded.model)).result()
    assert reference() is not None
    release_engines()
    assert reference() is None
    assert engine.submit(request).result().tokens == before
