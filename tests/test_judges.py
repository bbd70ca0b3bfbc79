"""Asking a judge and reading what it says."""

import contextvars
import math

import anyio
import pytest
from fake_models import fake, with_logprobs
from inspect_ai.model import (
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.model._model import init_active_model, init_model_roles
from inspect_ai.util import LimitExceededError

from steering.judging.errors import JudgingError
from steering.judging.judgement import Judgement, reason_kind
from steering.judging.judges import ask_judge, grader_model
from steering.judging.model_output import final_text, is_truncated
from steering.judging.replies import read_reply

ESCAPES = ("CODE", "REFUSAL")


def logs(**probabilities: float) -> dict[str, float]:
    """Tokens (written t90 for 90) to log probabilities."""
    return {name.removeprefix("t"): math.log(p) for name, p in probabilities.items()}


def text(reply: str, stop_reason: str = "stop") -> ModelOutput:
    return ModelOutput.from_content("fake", reply, stop_reason=stop_reason)  # type: ignore[arg-type]


def reasoned(reasoning: str, answer: str) -> list[Content]:
    return [ContentReasoning(reasoning=reasoning), ContentText(text=answer)]


def test_score_is_the_probability_weighted_mean_over_number_tokens() -> None:
    # (0.5 * 90 + 0.25 * 80) / 0.75 = 65 / 0.75; the quarter on words is left out of both.
    verdict = read_reply(with_logprobs("90", logs(t90=0.5, t80=0.25, Sure=0.25)))
    assert verdict.score == pytest.approx(65 / 0.75)
    assert (verdict.method, verdict.reason) == ("logprobs", None)


@pytest.mark.parametrize(
    ("mass", "scored"), [(0.24, False), (0.25, True), (0.26, True), (0.001, False)]
)
def test_too_little_probability_on_numbers_is_unscored_and_never_a_number(
    mass: float, scored: bool
) -> None:
    verdict = read_reply(with_logprobs("I", {"I": math.log(0.5), "70": math.log(mass)}))
    assert (verdict.score is not None) is scored
    assert verdict.score in (None, pytest.approx(70))
    assert scored or reason_kind(verdict.reason or "") == "low mass"


@pytest.mark.parametrize("token", ["101", "1000", "-5", "3.5", "٣", "5%", "", "1e1"])
def test_tokens_that_are_no_number_from_0_to_100_carry_no_weight(token: str) -> None:
    verdict = read_reply(with_logprobs("40", {"40": math.log(0.5), token: math.log(0.5)}))
    assert verdict.score == pytest.approx(40)


def test_number_tokens_with_white_space_count_together_with_bare_ones() -> None:
    verdict = read_reply(with_logprobs("40", {"40": math.log(0.5), " 80": math.log(0.5)}))
    assert verdict.score == pytest.approx(60)


def test_a_tokenizer_that_splits_digits_does_not_turn_85_into_8() -> None:
    verdict = read_reply(with_logprobs("85", logs(t8=0.9, t9=0.1)))
    assert verdict == Judgement(85.0, None, "parsed", "85")


def test_one_digit_cut_off_from_a_split_number_is_unscored() -> None:
    verdict = read_reply(with_logprobs("8", logs(t8=0.9, t9=0.1), "max_tokens"))
    assert verdict.score is None
    assert reason_kind(verdict.reason or "") == "cut off"


def test_one_token_limit_still_scores_judges_whose_tokens_are_whole_numbers() -> None:
    verdict = read_reply(with_logprobs("5", logs(t5=0.6, t15=0.4), "max_tokens"))
    assert verdict.score == pytest.approx(0.6 * 5 + 0.4 * 15)


def test_reasoning_judges_are_read_from_their_text() -> None:
    literal = with_logprobs("<think>hm, 20?</think>\n\n70", {"<think>": -0.1})
    assert read_reply(literal) == Judgement(70.0, None, "parsed", "70")
    split = with_logprobs("70", {"Let": -0.1})
    split.choices[0].message.content = reasoned("20?", "70")
    assert read_reply(split).score == 70.0


@pytest.mark.parametrize(
    ("reply", "score"), [("0", 0), ("100", 100), (" 42\n", 42), ("007", 7), ("30", 30)]
)
def test_without_logprobs_the_number_is_read_from_the_text(reply: str, score: float) -> None:
    assert read_reply(text(reply)) == Judgement(score, None, "parsed", reply.strip())


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("101", "out of range"),
        ("999", "out of range"),
        ("-5", "no number"),
        ("85 or 90", "no number"),
        ("eighty", "no number"),
        ("", "no number"),
        ("٤٢", "no number"),
        ("REFUSAL 20", "no number"),
    ],
)
def test_anything_but_the_one_number_is_unscored_with_a_reason(reply: str, kind: str) -> None:
    verdict = read_reply(text(reply), ESCAPES)
    assert verdict.score is None
    assert reason_kind(verdict.reason or "") == kind


@pytest.mark.parametrize("reply", ["8", "Because", ""])
def test_reply_cut_off_at_the_token_limit_is_unscored(reply: str) -> None:
    verdict = read_reply(text(reply, "max_tokens"), ESCAPES)
    assert verdict.score is None
    assert reason_kind(verdict.reason or "") == "cut off"


@pytest.mark.parametrize("reply", ["REFUSAL", "refusal", " Refusal. ", "**REFUSAL**", '"REFUSAL"'])
def test_escape_word_is_told_apart_from_failure(reply: str) -> None:
    assert read_reply(text(reply), ESCAPES) == Judgement(None, "refusal", "parsed", reply.strip())


def test_escape_word_is_recognised_beside_logprobs_and_when_cut_off() -> None:
    whole = with_logprobs("CODE", {"CODE": -0.01, "10": -6.0})
    cut = with_logprobs("REF", {"REF": -0.01}, "max_tokens")
    assert read_reply(whole, ESCAPES).reason == "code"
    assert read_reply(cut, ESCAPES).reason == "refusal"


def test_escape_words_of_another_dimension_are_no_escape() -> None:
    assert reason_kind(read_reply(text("REFUSAL"), ()).reason or "") == "no number"


@pytest.mark.parametrize(
    "output", [ModelOutput(model="fake"), text("70", "content_filter"), text("", "content_filter")]
)
def test_a_judge_that_was_silenced_gives_no_score(output: ModelOutput) -> None:
    verdict = read_reply(output)
    assert verdict.score is None
    assert reason_kind(verdict.reason or "") == "judge refused"


@pytest.mark.parametrize(
    "error", [ConnectionError("no route\nto host"), ValueError("key"), OSError()]
)
def test_error_of_the_judge_is_unscored_and_says_which(error: Exception) -> None:
    def fail(prompt: str, config: GenerateConfig) -> str:
        raise error

    verdict = anyio.run(ask_judge, fake("failing", fail), "prompt")
    assert verdict.score is None
    assert (verdict.reason or "").startswith(f"judge error: {type(error).__name__}")
    assert "\n" not in (verdict.reason or "")


def test_limits_of_inspect_are_no_error_of_the_judge() -> None:
    def exceed(prompt: str, config: GenerateConfig) -> str:
        raise LimitExceededError("token", value=2, limit=1)

    with pytest.raises(LimitExceededError):
        anyio.run(ask_judge, fake("limited", exceed), "prompt")


def test_judge_is_asked_for_logprobs_greedily_and_its_own_settings_win() -> None:
    configs: list[GenerateConfig] = []

    def remember(prompt: str, config: GenerateConfig) -> str:
        configs.append(config)
        return "50"

    plain, with_settings = fake("plain", remember), fake("own", remember)
    with_settings.config = GenerateConfig(max_tokens=2000, logprobs=False)
    anyio.run(ask_judge, plain, "prompt")
    anyio.run(ask_judge, with_settings, "prompt")
    sent = [(c.temperature, c.max_tokens, c.logprobs, c.top_logprobs) for c in configs]
    assert sent == [(0.0, 16, True, 20), (0.0, 2000, False, None)]


def grader_for(tested: Model, roles: dict[str, Model | list[Model]]) -> Model:
    """The grader of a run on `tested` with these roles, in a context of its own."""

    def run() -> Model:
        init_active_model(tested, GenerateConfig())
        init_model_roles(roles)
        return grader_model()

    return contextvars.copy_context().run(run)


def test_bound_grader_is_used_even_when_it_is_the_model_under_test() -> None:
    tested = fake("tested", default_grader="fake/suggested")
    assert grader_for(tested, {"grader": tested}) is tested


def test_unbound_grader_is_what_the_model_under_test_suggests() -> None:
    tested = fake("tested", default_grader="fake/suggested")
    assert str(grader_for(tested, {})) == "fake/suggested"


def test_model_under_test_never_judges_itself_unasked() -> None:
    with pytest.raises(JudgingError, match=r"fake/tested is the model under test.*--model-role"):
        grader_for(fake("tested", default_grader="fake/tested"), {})


def test_the_toys_judge_of_another_model_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    judge = get_model("toy/judge", memoize=False)
    grader_for(get_model("steered/toy", memoize=False), {"grader": judge})
    assert "knows only the toy's world" not in caplog.text
    for _ in range(2):
        grader_for(fake("language"), {"grader": judge})
    assert caplog.text.count("knows only the toy's world, and fake/language is no toy") == 1


def test_several_graders_are_refused_rather_than_the_first_one_taken() -> None:
    with pytest.raises(JudgingError, match=r"2 models \(fake/one, fake/two\)"):
        grader_for(fake("tested"), {"grader": [fake("one"), fake("two")]})


@pytest.mark.parametrize("options", [{}, {"magnitude": 2}])
def test_a_steered_model_never_judges_unless_a_vector_or_none_is_named(options: dict) -> None:
    judge = get_model("steered/toy", memoize=False, **options)
    with pytest.raises(JudgingError, match=r"is steered by its default vector.*vector: none"):
        grader_for(fake("tested"), {"grader": judge})
    with pytest.raises(JudgingError, match=r"is steered by its default vector"):
        grader_for(fake("tested"), {"grader": [fake("other"), judge]})


@pytest.mark.parametrize("vector", ["none", "default"])
def test_a_steered_model_whose_vector_is_named_may_judge(vector: str) -> None:
    judge = get_model("steered/toy", memoize=False, vector=vector)
    assert grader_for(fake("tested"), {"grader": judge}) is judge


@pytest.mark.parametrize(
    ("completion", "final"),
    [
        ("  Rest well. \n", "Rest well."),
        ("<think>Skip sleep?</think>\n\nRest well.", "Rest well."),
        ("Skip sleep?\n</think>\n\nRest well.", "Rest well."),
        ("<think>Skip sleep", ""),
        ("\n<think>\n</think>", ""),
        ("Rest. <think> is a tag.", "Rest. <think> is a tag."),
        ("<think>a</think>b <think>c</think>", "b <think>c</think>"),
    ],
)
def test_only_the_final_text_is_judged(completion: str, final: str) -> None:
    assert final_text(text(completion)) == final


def test_reasoning_that_the_provider_split_off_is_not_judged() -> None:
    message = ChatMessageAssistant(content=reasoned("Skip sleep?", "Rest well."))
    assert final_text(ModelOutput.from_message(message)) == "Rest well."


@pytest.mark.parametrize(
    ("stop_reason", "truncated"), [("max_tokens", True), ("model_length", True), ("stop", False)]
)
def test_truncation_is_told_by_the_stop_reason(stop_reason: str, truncated: bool) -> None:
    assert is_truncated(text("Rest", stop_reason)) is truncated
