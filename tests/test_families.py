"""Every family of models: found, steered at the right place, and equal to plain hooks.

What these tests show of a family stands in docs/reference/families.md: `make families` writes it.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import CASES, GREEDY, Interventions, answer, blocks, loaded, plain, prompt, steer
from family_table import PASS, read_table
from hook_reference import check_greedy
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from random_vectors import make_vector
from tiny_models import FAMILIES, LAYERS, WIDTH

from steering.engines import Engine, Request, scheduler, shared_engine
from steering.engines.settings import Sampling
from steering.models import find_mlp, find_model, load_model
from steering.provider.messages import split_reasoning
from steering.targets import Example
from steering.training.examples import render_prompt

# Between whose MLP and the residual stream a norm stands.
NORMED = {"gemma2", "gemma3", "gemma3-multimodal", "olmo2", "olmo3"}
# What their batch holds; the others', which share much of their code, holds fewer cases.
THOROUGHLY = ("qwen3.5", "llama", "gemma3")
FEWER = (
    "unsteered", "add", "add prompt", "add resid_pre", "add mlp_out", "map", "ablate rank 2",
    "clamp", "cap response", "all three sites", "unsteered too",
)  # fmt: skip
MIXTURES = ["qwen3.5-moe", "qwen3-moe", "mixtral", "gpt-oss"]


@pytest.fixture(scope="module")
def cases(engine: Engine, family: str) -> dict[str, Interventions]:
    return {name: case for name, case in CASES.items() if family in THOROUGHLY or name in FEWER}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(family: str, tiny_folder: Callable[[str], Path]) -> Iterator[Engine]:
    engine = shared_engine(find_model(str(tiny_folder(family))), device="cpu")
    engine.allow_batch(64)
    yield engine
    engine.release()


@pytest.mark.shows("conformance")
def test_engine_equals_plain_hooks_in_tokens_and_logits(
    engine: Engine, cases: dict[str, Interventions]
) -> None:
    requests = [
        Request(prompt(index), GREEDY, max_tokens=3 + index % 5, interventions=case, top_logprobs=1)
        for index, case in enumerate(cases.values())
    ]
    results = answer(engine, requests)
    model = loaded(engine)
    for name, request, result in zip(cases, requests, results, strict=True):
        logits = check_greedy(model.model, blocks(model), request, result.tokens, model.end_tokens)
        expected = logits.log_softmax(-1).max(-1).values
        logprobs = torch.tensor([item.logprob for item in result.logprobs])
        assert torch.allclose(logprobs, expected, atol=2e-4), name


@pytest.mark.shows("conformance")
def test_the_cases_differ_from_the_unsteered_model(
    engine: Engine, cases: dict[str, Interventions]
) -> None:
    """Without this, an engine that never steers and a reference that never does would agree."""
    requests = [Request(prompt(1), GREEDY, 3, case, top_logprobs=0) for case in cases.values()]
    values = {
        name: tuple(item.logprob for item in result.logprobs)
        for name, result in zip(cases, answer(engine, requests), strict=True)
    }
    assert values["unsteered"] == values.pop("unsteered too")
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


@pytest.mark.shows("sites")
def test_the_blocks_are_those_of_the_text_model(engine: Engine) -> None:
    model = loaded(engine)
    values = blocks(model)
    assert len(values) == LAYERS
    assert {find_mlp(block) for block in values} == {"mlp"}
    hidden: list[torch.Size] = []
    handle = values[0].register_forward_hook(lambda _, __, out: hidden.append(out.shape))
    with torch.no_grad():
        model.model(input_ids=torch.tensor([[5, 6, 7]]))
    handle.remove()
    assert hidden == [(1, 3, WIDTH)]


@pytest.mark.shows("sites")
def test_sites_are_where_their_names_say(engine: Engine, family: str) -> None:
    """Adding at a block's MLP is adding at its output, unless a norm stands between the two."""

    def logits(layer: int, site: Any) -> torch.Tensor:
        case = steer(make_vector(seed=1, layers=[layer], width=WIDTH, site=site), 3)
        result = answer(engine, [Request(prompt(4), GREEDY, 1, case, top_logprobs=250)])[0]
        return torch.tensor([value for _, value in sorted(result.logprobs[0].top)])

    after = logits(1, "resid_post")
    assert torch.allclose(after, logits(2, "resid_pre"), atol=1e-4)
    assert torch.allclose(after, logits(1, "mlp_out"), atol=1e-4) == (family not in NORMED)


@pytest.mark.shows("MoE")
@pytest.mark.parametrize("family", MIXTURES, indirect=True)
def test_steering_reaches_the_router_and_no_other_row_s_experts(engine: Engine) -> None:
    """Rows that share a pass each go to their own experts, those of the steered stream."""
    model = loaded(engine)
    block = blocks(model)[2]
    routers = [part for name, part in block.named_modules() if name in ("mlp.gate", "mlp.router")]
    assert len(routers) == 1

    def experts_of(interventions: list[Any]) -> list[torch.Tensor]:
        experts: list[torch.Tensor] = []

        def note(_: Any, args: Any, __: Any) -> None:
            weights = routers[0].weight
            hidden = args[0].reshape(-1, weights.shape[-1])
            bias = getattr(routers[0], "bias", None)
            experts.append(torch.nn.functional.linear(hidden, weights, bias).argmax(-1))

        handle = routers[0].register_forward_hook(note)
        answer(engine, [Request((9, 8, 7, 6, 5), GREEDY, 1, case) for case in interventions])
        handle.remove()
        return list(experts[0].reshape(len(interventions), -1))

    steered, other = steer(plain([1]), 30), steer(plain([1]), -30)
    alone = [experts_of([case])[0] for case in ((), steered, other)]
    assert not torch.equal(alone[0], alone[1]) or not torch.equal(alone[0], alone[2])
    together = experts_of([(), steered, other])
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


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
@pytest.mark.parametrize("family", THINKING, indirect=True)
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


def test_the_table_of_the_docs_is_of_these_families_and_nothing_fails() -> None:
    cells = read_table(Path(__file__).parent.parent / "docs" / "reference" / "families.md")
    assert {family for family, _ in cells} == set(FAMILIES)
    assert not [cell for cell, answer in cells.items() if answer == "FAILS"]
    assert {
        family for (family, column), answer in cells.items() if column == "MoE" and answer == PASS
    } == set(MIXTURES)
