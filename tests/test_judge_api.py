"""Judges through Inspect's provider of OpenAI, against a server that refuses as OpenAI's does."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, Model, get_model
from openai_stub import Stub, serving

from steering.judging import judges
from steering.judging.judge_failures import remedy
from steering.judging.judgement import Judgement
from steering.judging.judges import ask_judge
from steering.judging.rubric import load_rubric
from steering.judging.scorers import em_judge

ASKS = 6


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("LAB_API_KEY", "key")
    judges._WARNED.clear()
    with serving() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("LAB_BASE_URL", server.url)
        yield server


def judge_of(name: str, **config: Any) -> Model:
    return get_model(name, config=GenerateConfig(**config), memoize=False)


def ask(judge: Model, asks: int = ASKS) -> list[Judgement]:
    rubric = load_rubric("alignment")

    async def all_of_them() -> list[Judgement]:
        prompts = [rubric.render("Well?", f"Fine, {n} times.") for n in range(asks)]
        async with judge:
            return await judges.at_once(
                [lambda prompt=prompt: ask_judge(judge, prompt) for prompt in prompts]
            )

    return anyio.run(all_of_them)


@pytest.mark.parametrize(
    ("name", "path", "method"),
    [
        ("openai/gpt-4o-2024-08-06", "/v1/chat/completions", "logprobs"),
        ("openai/gpt-5", "/v1/responses", "parsed"),
        ("openai/gpt-5.4", "/v1/responses", "logprobs"),
        ("openai/gpt-5.5", "/v1/responses", "logprobs"),
        ("openai/gpt-6-luna", "/v1/responses", "logprobs"),
        ("openai/gpt-6.1-sol", "/v1/responses", "parsed"),
        # Not in the register: Inspect's provider knows that they reason.
        ("openai/gpt-7-nova", "/v1/responses", "parsed"),
        ("openai/o3", "/v1/responses", "parsed"),
        ("openai-api/lab/lab-plain", "/v1/chat/completions", "logprobs"),
    ],
)
def test_every_reply_is_scored_and_nothing_is_sent_that_the_api_refuses(
    name: str, path: str, method: str, stub: Stub
) -> None:
    judgements = ask(judge_of(name))
    assert [(each.score, each.method) for each in judgements] == [(pytest.approx(70), method)] * 6
    # One request a judgement: none to probe, none again.
    assert [where for where, _ in stub.requests] == [path] * ASKS


def settings_in(remedy_text: str) -> dict[str, Any]:
    """The settings of the role that a remedy names."""
    settings = re.search(r"grader=(\{.*?\})", remedy_text)
    assert settings, remedy_text
    role = yaml.safe_load(settings[1])
    del role["model"]
    return role


@pytest.mark.parametrize(
    ("name", "config", "remedies"),
    [
        ("openai-api/lab/lab-strict", {}, [{"temperature": 1}, {"logprobs": False}]),
        ("openai/gpt-5", {"max_tokens": 16}, [{"max_tokens": 8000}]),
        ("openai/gpt-5", {"max_tokens": 8}, [{"max_tokens": 8000}]),
        ("openai/gpt-6.1-sol", {"reasoning_effort": "none"}, [{"reasoning_effort": "low"}]),
    ],
)
def test_what_the_api_refuses_is_unscored_and_the_remedies_that_are_named_work(
    name: str, config: dict[str, Any], remedies: list[dict[str, Any]], stub: Stub
) -> None:
    for expected in remedies:
        judge = judge_of(name, **config)
        judgements = ask(judge, 2)
        assert {each.score for each in judgements} == {None}
        advised = settings_in(remedy(str(judge), judgements[0].reason or ""))
        assert expected.items() <= advised.items()
        config = {**config, **advised}
    assert {each.score for each in ask(judge_of(name, **config), 2)} == {70}


def test_a_judge_that_its_vendor_ended_names_the_one_to_follow(stub: Stub) -> None:
    [judgement] = ask(judge_of("openai/gpt-4o-2024-05-13"), 1)
    assert judgement.score is None
    assert "does not exist" in (judgement.reason or "")
    text = remedy("openai/gpt-4o-2024-05-13", judgement.reason or "")
    assert text == "choose another judge, the nearest is openai/gpt-6-luna"


def test_an_error_of_the_api_is_shown_without_the_prompt(stub: Stub) -> None:
    [judgement] = ask(judge_of("openai-api/lab/lab-strict"), 1)
    assert (judgement.reason or "").startswith("judge error: BadRequestError: Error code: 400")
    assert "Dimension" not in (judgement.reason or "")


def test_an_api_that_fails_half_the_time_is_asked_again_until_all_is_scored(stub: Stub) -> None:
    stub.fault = "half"
    judgements = ask(judge_of("openai/gpt-4o-2024-08-06"))
    assert [each.score for each in judgements] == [pytest.approx(70)] * ASKS
    assert len(stub.requests) >= 2 * ASKS - 1


def test_a_slow_api_is_asked_all_at_once(stub: Stub) -> None:
    stub.fault = "slow"
    judgements = ask(judge_of("openai/gpt-6-luna"))
    assert [each.score for each in judgements] == [pytest.approx(70)] * ASKS
    assert stub.most_at_once == ASKS


@pytest.mark.parametrize("name", ["openai/gpt-4o-2024-08-06", "openai/gpt-6-luna"])
def test_a_reply_that_the_content_filter_stopped_is_no_score(name: str, stub: Stub) -> None:
    stub.fault = "filter"
    [judgement] = ask(judge_of(name), 1)
    assert judgement.score is None
    assert (judgement.reason or "").startswith("judge refused")


def test_a_key_alone_makes_the_default_judge_judge(stub: Stub, tmp_path: Path) -> None:
    task = Task(dataset=[Sample(id="q/1", input="Well?")], scorer=em_judge())
    [log] = eval(
        task,
        model=fake("answers", lambda prompt, config: "Fine."),
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    [sample] = log.samples or []
    score = (sample.scores or {})["em_judge"]
    scores = {key: value for key, value in score.value.items() if key != "severity"}
    assert scores == dict.fromkeys(("aligned", "coherent", "relevant"), pytest.approx(70))
    assert (score.metadata or {})["judge"] == "openai/gpt-4o-2024-08-06"
