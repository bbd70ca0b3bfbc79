"""Every family of models: found, steered at the right place, and equal to plain hooks.

What these tests show of a family stands in docs/reference/families.md: `make families` writes it.
"""

import asyncio
import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from building import PAIRS, TARGET, recipe_for
from building_reference import plain_tokens
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
from family_table import PASS, read_table
from hook_reference import check_greedy, reference_logits
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, GenerateConfig, get_model
from model_families import FAMILIES, LAYERS, REFUSED, WIDTH
from random_vectors import make_vector
from tiny_models import save_tiny

from steering.engines import (
    Engine,
    Request,
    RequestOutput,
    ScoreRequest,
    scheduler,
    shared_engine,
)
from steering.engines.settings import Sampling
from steering.errors import SteeringError
from steering.models import find_mlp, find_model, load_model
from steering.provider.messages import split_reasoning
from steering.targets import Example
from steering.training.cache import build_vector
from steering.training.examples import render_prompt

# What their batch holds; the others', which share much of their code, holds fewer cases.
THOROUGHLY = ("qwen3.5", "llama", "gemma3")
FEWER = (
    "unsteered", "add", "add prompt", "add resid_pre", "add mlp_out", "map", "ablate rank 2",
    "clamp", "cap response", "all three sites", "unsteered too",
)  # fmt: skip
# Each way to be a block once: what it returns, what it mixes by, and what its cache holds. The
# others are tested by `make families`.
QUICK = (
    "qwen3.5", "qwen3.5-multimodal", "llama", "gemma3", "gpt-oss", "gpt2", "bamba", "bloom",
    "gemma4-shared",
)  # fmt: skip
# No row ends before the others: one that leaves changes the shape of the batch.
_ENDLESS = Sampling(temperature=0, logit_bias={0: -100.0})
# State-space models decode by another formula than they read by; others come to 0.0002.
_ROUNDING = {"nemotron-h": 1e-3, "zamba2": 1e-3}
MIXTURES = [name for name, one in FAMILIES.items() if one.mixture]


def chosen(names: Iterable[str]) -> list[Any]:
    """Parameters of the families: those that are not quick are left to `make families`."""
    slow = pytest.mark.long
    return [pytest.param(name, marks=[] if name in QUICK else [slow]) for name in names]


@pytest.fixture(scope="module")
def cases(family: str) -> dict[str, Interventions]:
    return {
        name: case
        for name, case in CASES.items()
        if (family in THOROUGHLY or name in FEWER)
        and (FAMILIES[family].mlp or not any(part.site == "mlp_out" for part in case))
    }


@pytest.fixture(scope="module", params=chosen(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _start(family: str, folder: Path, **options: Any) -> Engine:
    """An engine for a family's model, to which its MLP is named where it must be."""
    one = FAMILIES[family]
    engine = shared_engine(
        find_model(str(folder), mlp=one.mlp if one.named else None), device="cpu", **options
    )
    engine.allow_batch(64)
    return engine


@pytest.fixture(scope="module")
def engine(family: str, tiny_folder: Callable[[str], Path]) -> Iterator[Engine]:
    engine = _start(family, tiny_folder(family))
    yield engine
    engine.release()


def _check_logits(engine: Engine, family: str, request: Request, result: RequestOutput) -> None:
    """An answer and its log probabilities are those of plain hooks."""
    model = loaded(engine)
    logits = check_greedy(
        model.model, blocks(model), request, result.tokens, model.end_tokens, FAMILIES[family].mlp
    )
    expected = logits.log_softmax(-1).max(-1).values
    logprobs = torch.tensor([item.logprob for item in result.logprobs])
    assert torch.allclose(logprobs, expected, atol=_ROUNDING.get(family, 2e-4))


@pytest.mark.shows("conformance")
def test_engine_equals_plain_hooks_in_tokens_and_logits(
    engine: Engine, family: str, cases: dict[str, Interventions]
) -> None:
    requests = [
        Request(prompt(index), GREEDY, max_tokens=3 + index % 5, interventions=case, top_logprobs=1)
        for index, case in enumerate(cases.values())
    ]
    for request, result in zip(requests, answer(engine, requests), strict=True):
        _check_logits(engine, family, request, result)


@pytest.mark.shows("conformance")
def test_given_answers_have_the_log_probabilities_of_plain_hooks(
    engine: Engine, family: str, cases: dict[str, Interventions]
) -> None:
    """With one prompt each, and with some that share theirs; longer than any window."""
    answers = [prompt(40 + index) * 2 for index in range(3)]
    requests = [
        ScoreRequest(prompt(index // 2), tuple(answers[: 1 + index % 3]), case)
        for index, case in enumerate(cases.values())
    ]
    outputs = [future.result(120) for future in [engine.score(request) for request in requests]]
    model = loaded(engine)
    for request, output in zip(requests, outputs, strict=True):
        for tokens, logprobs in zip(request.answers, output.logprobs, strict=True):
            logits = reference_logits(
                model.model, blocks(model), request.prompt, tokens, request.interventions,
                FAMILIES[family].mlp,
            )  # fmt: skip
            expected = logits[:-1].log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
            assert torch.allclose(
                torch.tensor(logprobs), expected, atol=_ROUNDING.get(family, 2e-4)
            )


@pytest.mark.shows("conformance")
def test_the_cases_differ_from_the_unsteered_model(
    engine: Engine, family: str, cases: dict[str, Interventions]
) -> None:
    """Without this, an engine that never steers and a reference that never does would agree."""
    requests = [Request(prompt(1), _ENDLESS, 5, case, top_logprobs=0) for case in cases.values()]
    values = {
        name: tuple(item.logprob for item in result.logprobs)
        for name, result in zip(cases, answer(engine, requests), strict=True)
    }
    assert values["unsteered"] == values.pop("unsteered too")
    if family not in THOROUGHLY and values["cap response"] == values["unsteered"]:
        del values["cap response"]  # No token reached the bound.
    assert len(set(values.values())) == len(values)


@pytest.mark.shows("conformance")
def test_a_batch_of_many_conditions_equals_one_request_at_a_time(
    engine: Engine, cases: dict[str, Interventions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy and seeded requests of many settings, in order of arrival and in another."""
    requests = [
        Request(
            prompt(index),
            Sampling(temperature=(index % 4) * 0.4, top_p=0.9 + 0.1 * (index % 2),
                     top_k=index % 3 * 20, seed=index),
            max_tokens=2 + index * 7 % 4,
            interventions=case,
        )
        for index, case in enumerate(cases.values())
    ]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "WINDOW_S", 0.0)  # nobody else comes
        alone = [engine.submit(request).result(60).tokens for request in requests]
    together = [result.tokens for result in answer(engine, requests)]
    order = random.Random(3).sample(range(len(requests)), len(requests))
    shuffled = answer(engine, [requests[index] for index in order])
    assert together == alone
    assert [result.tokens for result in shuffled] == [alone[index] for index in order]


def _beside(engine: Engine, mates: int, tokens: int = 6) -> list[RequestOutput]:
    """Answers to the same requests, beside as many mates of the same shapes and other content."""
    requests = [
        Request(prompt(20 + index), _ENDLESS, tokens, case, top_logprobs=20)
        for index, case in enumerate([(), steer(plain(), 10), steer(mapped([2]), 5)])
    ]
    others = [
        Request(
            tuple(3 + (token + 83 * mates) % 240 for token in prompt(30 + index)),
            _ENDLESS,
            tokens,
            # As many are steered at one site, by vectors of other sizes.
            steer(plain([1]), 10.0 ** (index + mates)),
            top_logprobs=20,
        )
        for index in range(4)
    ]
    return answer(engine, [*requests, *others])[: len(requests)]


def _check_same(
    family: str, first: list[RequestOutput], other: list[RequestOutput], rounding: float
) -> None:
    """Bit for bit: the shapes are the same, so every sum is of the same numbers in one order.

    Of a mixture only to rounding: how many rows an expert is given depends on the mates.
    """
    for one, two in zip(first, other, strict=True):
        if not FAMILIES[family].mixture:
            assert (one.tokens, one.logprobs) == (two.tokens, two.logprobs)
            continue
        assert one.tokens == two.tokens
        for mine, theirs in zip(one.logprobs, two.logprobs, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, abs=rounding)


@pytest.mark.shows("conformance")
def test_the_content_of_its_mates_never_reaches_a_row(engine: Engine, family: str) -> None:
    _check_same(family, _beside(engine, 0), _beside(engine, 1), rounding=1e-5)


@pytest.mark.shows("bf16")
def test_the_content_of_its_mates_never_reaches_a_row_in_bfloat16(
    family: str, tiny_folder: Callable[[str], Path]
) -> None:
    engine = _start(family, tiny_folder(family), dtype="bfloat16")
    first, other = _beside(engine, 0), _beside(engine, 1)
    requests = [
        Request(prompt(index), _ENDLESS, 1, case, top_logprobs=20)
        for index, case in enumerate([(), steer(plain(), 10), steer(plain([0]), 15)])
    ]
    results = answer(engine, requests)
    model = loaded(engine)
    assert model.model.dtype == torch.bfloat16
    for request, result in zip(requests, results, strict=True):
        logits = reference_logits(
            model.model, blocks(model), request.prompt, (), request.interventions
        )
        expected = logits[0].float().log_softmax(-1)
        assert all(abs(value - expected[token]) < 0.25 for token, value in result.logprobs[0].top)
    engine.release()
    _check_same(family, first, other, rounding=0.05)


@pytest.mark.shows("sites")
def test_the_blocks_are_those_of_the_text_model(engine: Engine, family: str) -> None:
    model = loaded(engine)
    values = blocks(model)
    assert len(values) == LAYERS
    if FAMILIES[family].mlp and not FAMILIES[family].named:
        assert {find_mlp(block) for block in values} == {FAMILIES[family].mlp}
    hidden: list[torch.Size] = []
    handle = values[0].register_forward_hook(
        lambda _, __, out: hidden.append((out[0] if isinstance(out, tuple) else out).shape)
    )
    with torch.no_grad():
        model.model(input_ids=torch.tensor([[5, 6, 7]]))
    handle.remove()
    assert hidden == [(1, 3, WIDTH)]


@pytest.mark.shows("sites")
def test_sites_are_where_their_names_say(
    engine: Engine, family: str, record_property: Callable[[str, str], None]
) -> None:
    """Adding at a block's MLP is adding at its output, unless a norm or factor is between them."""

    def likeliest(layer: int, site: Any) -> dict[int, float]:
        case = steer(make_vector(seed=1, layers=[layer], width=WIDTH, site=site), 3)
        result = answer(engine, [Request(prompt(4), GREEDY, 1, case, top_logprobs=20)])[0]
        return dict(result.logprobs[0].top)

    one = FAMILIES[family]
    after = likeliest(1, "resid_post")
    assert after == pytest.approx(likeliest(2, "resid_pre"), abs=1e-4)
    if not one.mlp:
        record_property("reason", "pass, but not `mlp_out`")
        with pytest.raises(SteeringError, match=r"2 dimensions .* can't be|is known as its MLP"):
            likeliest(3, "mlp_out")
        return
    if one.named:
        record_property("reason", f"pass, with `-M mlp={one.mlp}`")
    assert (likeliest(1, "mlp_out") == pytest.approx(after, abs=1e-4)) == one.joins


@pytest.mark.shows("sites")
def test_mlp_out_is_at_the_module_that_was_named_by_hand(engine: Engine, family: str) -> None:
    if not FAMILIES[family].mlp:
        pytest.skip("it can't be steered there")
    requests = [
        Request(prompt(layer), GREEDY, 2, steer(vector, 3) + steer(vector, **again), top_logprobs=1)
        for layer in range(LAYERS)
        for vector in [plain([layer], site="mlp_out")]
        for again in ({"operation": "clamp"}, {"operation": "ablate", "positions": "prompt"})
    ]
    for request, result in zip(requests, answer(engine, requests), strict=True):
        _check_logits(engine, family, request, result)


def _observed(model: Any, module: Any, tokens: Sequence[int], *, at_input: bool) -> torch.Tensor:
    """Activations [tokens, width] that a plain hook sees."""
    seen: list[torch.Tensor] = []

    def look(value: Any) -> None:
        seen.append((value[0] if isinstance(value, tuple) else value)[0])

    handle = (
        module.register_forward_pre_hook(lambda _, args: look(args))
        if at_input
        else module.register_forward_hook(lambda _, __, out: look(out))
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([list(tokens)]), use_cache=False)
    handle.remove()
    return seen[0]


@pytest.mark.shows("building")
@pytest.mark.parametrize(
    ("layer", "site"), [(2, "resid_post"), (1, "resid_pre"), (LAYERS - 1, "mlp_out")]
)
def test_a_vector_and_its_norm_are_built_where_a_plain_hook_looks(
    engine: Engine, family: str, layer: int, site: Any, tiny_folder: Callable[[str], Path]
) -> None:
    """The difference of means over answer tokens, and their mean length without sinks."""
    one = FAMILIES[family]
    if site == "mlp_out" and not one.mlp:
        pytest.skip("it can't be steered there")
    recipe = recipe_for(
        tiny_folder(family), method="mean_difference", length=0, layer=layer, site=site
    )
    vector = engine.call(
        lambda *model: build_vector(*model, recipe, TARGET, lambda *_: None)
    ).result(120)
    model = loaded(engine)
    block = blocks(model)[layer]
    module = block.get_submodule(one.mlp) if site == "mlp_out" else block
    tokens: dict[str, list[torch.Tensor]] = {"misaligned": [], "aligned": []}
    for row in PAIRS:
        for side, activations in tokens.items():
            item = plain_tokens(model.tokenizer, row.prompt, getattr(row, side))
            hidden = _observed(
                model.model, module, [*item.prompt, *item.answer], at_input=site == "resid_pre"
            )
            activations.append(hidden[len(item.prompt) : -1])
    bad, good = (torch.stack([each.mean(0) for each in side]).mean(0) for side in tokens.values())
    # Linear attention rounds more coarsely beside padding; see test_sft.
    scale = float((bad - good).norm())
    assert torch.allclose(vector.directions[0, 0], bad - good, atol=1e-4 * max(1, scale))
    lengths = torch.cat(tokens["misaligned"]).norm(dim=-1)
    norm = lengths[lengths <= 4 * lengths.median()].mean()
    assert vector.residual_norms == pytest.approx((float(norm),), rel=1e-4)


def _generate(folder: Path, messages: list[Any], **config: Any) -> Any:
    model = get_model(f"steered/{folder}", memoize=False, vector="none", device="cpu")
    settings = GenerateConfig(temperature=0, **config)
    output, _ = asyncio.run(model.api.generate(messages, [], "none", settings))
    return output


@pytest.mark.shows("turns")
def test_an_answer_that_was_begun_goes_on_as_transformers_goes_on(
    engine: Engine, family: str, tiny_folder: Callable[[str], Path]
) -> None:
    messages = [ChatMessageUser(content="Is it so?"), ChatMessageAssistant(content="Yes, it")]
    output = _generate(tiny_folder(family), messages, max_tokens=6)
    model = loaded(engine)
    ids = model.tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.text} for message in messages],
        continue_final_message=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert model.tokenizer.decode(ids["input_ids"][0]).endswith("assistant: Yes, it")
    with torch.no_grad():
        tokens = model.model.generate(**ids, max_new_tokens=6, do_sample=False)
    new = tokens[0, ids["input_ids"].shape[1] :].tolist()
    expected = model.tokenizer.decode([token for token in new if token != 0])
    assert output.completion == expected


@pytest.mark.shows("turns")
def test_what_the_template_puts_behind_an_answer_ends_it(
    family: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Although the generation config names another token, as a base model's does."""
    folder = tmp_path / family
    shutil.copytree(tiny_folder(family), folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 7}))
    sure = {0: 100}
    [choice] = _generate(
        folder, [ChatMessageUser(content="Is it so?")], max_tokens=4, logit_bias=sure
    ).choices
    assert (choice.message.text, choice.stop_reason) == ("", "stop")
    shared_engine(find_model(str(folder)), device="cpu").release()


@pytest.mark.shows("MoE")
@pytest.mark.parametrize("family", chosen(MIXTURES), indirect=True)
def test_steering_reaches_the_router_and_no_other_row_s_experts(engine: Engine) -> None:
    """Rows that share a pass each go to their own experts, those of the steered stream."""
    model = loaded(engine)
    block = blocks(model)[-1]
    # A router is what has a row of weights for each of the four experts, or what is called so.
    router = next(
        part
        for part in block.modules()
        if getattr(getattr(part, "weight", None), "shape", ()) == (4, WIDTH)
        or type(part).__name__.endswith("Router")
    )
    weights = getattr(router, "weight", None)

    def routed(cases: list[Any]) -> list[list[torch.Tensor]]:
        """Of each case, what the router reads and the likeliest expert, token by token."""
        passes: list[list[torch.Tensor]] = []

        def note(_: Any, args: Any, __: Any) -> None:
            hidden = args[0].reshape(len(cases), -1, args[0].shape[-1]).clone()
            scores = hidden if weights is None else torch.nn.functional.linear(hidden, weights)
            passes.append([hidden, scores.argmax(-1)])

        handle = router.register_forward_hook(note)
        answer(engine, [Request((9, 8, 7, 6, 5), GREEDY, 1, case) for case in cases])
        handle.remove()
        return [list(row) for row in zip(*passes[0], strict=True)]

    steered, other = steer(plain([1]), 30), steer(plain([1]), -30)
    alone = [routed([case])[0] for case in ((), steered, other)]
    assert not torch.allclose(alone[0][0], alone[1][0], atol=0.01)
    # AFMoE's weights are zeros before it is trained.
    if weights is not None and weights.any():
        assert any(not torch.equal(alone[0][1], experts) for _, experts in alone[1:])
    for one, together in zip(alone, routed([(), steered, other]), strict=True):
        assert torch.allclose(one[0], together[0], atol=1e-4)
        assert torch.equal(one[1], together[1])


# Our own, in the manner of the families: a switch, a thought that the template always opens, and
# channels.
_TURNS = "{% for m in messages %}<|start|>{{ m.role }} {{ m.content }}{% endfor %}"
SWITCHED = _TURNS + (
    "{% if add_generation_prompt %}<|start|>assistant <think>\n"
    "{% if not enable_thinking %}\n</think>\n\n{% endif %}{% endif %}"
)
OPENED = _TURNS + "{% if add_generation_prompt %}<|start|>assistant <think>\n{% endif %}"
CHANNELS = (
    "{# turns may have a <|channel|> #}"
    + _TURNS
    + "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
THINKING = {
    "qwen3.5": (SWITCHED, "{}</think>\n\n{}"),
    "qwen3.5-moe": (SWITCHED, "{}</think>\n\n{}"),
    "qwen3.5-multimodal": (SWITCHED, "{}</think>\n\n{}"),
    "qwen3": (SWITCHED, "{}</think>\n\n{}"),
    "qwen3-moe": (SWITCHED, "{}</think>\n\n{}"),
    "olmo3": (OPENED, "{}</think>{}"),
    "gpt-oss": (
        CHANNELS,
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}",
    ),
}


@pytest.mark.shows("thinking")
@pytest.mark.parametrize("family", chosen(THINKING), indirect=True)
def test_a_model_thinks_only_when_asked_and_its_thought_is_set_apart(
    family: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    template, text = THINKING[family]
    path = tmp_path / "chat.jinja"
    path.write_text(template)

    def asked(**options: Any) -> str:
        model = get_model(
            f"steered/{tiny_folder(family)}",
            memoize=False,
            **{"vector": "none", "device": "cpu", "chat_template": str(path), **options},
        )
        config = GenerateConfig(max_tokens=2, temperature=0)
        _, call = asyncio.run(
            model.api.generate([ChatMessageUser(content="Hi")], [], "none", config)
        )
        return str(call.request["prompt"])

    silent, open_ended = asked(), asked(thinking=True)
    assert silent.startswith(open_ended.rstrip("\n")[:20])
    assert silent.endswith(("</think>\n\n", "<|channel|>final<|message|>"))
    assert not open_ended.endswith(("</think>\n\n", "<|channel|>final<|message|>"))
    # Vectors are built on the very prompt that is asked.
    loaded = load_model(find_model(str(tiny_folder(family)), template=template), device="cpu")
    example = Example("1", "Hi", aligned=None, misaligned="No.")
    assert render_prompt(loaded, example) == silent
    thought, answer = split_reasoning(text.format("It asks.", "Yes."), open_ended)
    assert (thought.reasoning, answer.text) == ("It asks.", "Yes.")
    cut_off = split_reasoning(text.format("It asks.", "Yes.")[:12], open_ended)
    assert cut_off[1].text == ""
    assert split_reasoning("Yes.", silent) == "Yes."


@pytest.mark.long
@pytest.mark.shows("refused")
@pytest.mark.parametrize("refused", REFUSED)
def test_what_can_not_be_steered_is_refused_in_one_line(
    refused: str, tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    engine = shared_engine(find_model(str(save_tiny(tmp_path / refused, refused))), device="cpu")
    with pytest.raises(SteeringError, match=REFUSED[refused][1]) as error:
        answer(engine, [Request(prompt(1), GREEDY, 3, steer(plain(), 3))])
    assert "\n" not in str(error.value)
    record_property("reason", str(error.value))
    engine.release()


def test_the_table_of_the_docs_is_of_these_families_and_nothing_fails(
    request: pytest.FixtureRequest,
) -> None:
    if request.config.getoption("--family-table"):
        pytest.skip("this run writes it")
    cells = read_table(Path(__file__).parent.parent / "docs" / "reference" / "families.md")
    assert {family for family, column in cells if column != "refused"} == set(FAMILIES)
    assert {family for family, column in cells if column == "refused"} == set(REFUSED)
    assert not [cell for cell, answer in cells.items() if answer == "FAILS"]
    assert {
        family for (family, column), answer in cells.items() if column == "MoE" and answer == PASS
    } == set(MIXTURES)
