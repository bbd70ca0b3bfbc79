"""Requests to score given answers: `extra_body={"steering": {"score": [...]}}`, and their outputs.

A translation without state, as `steering.provider.messages` is for answers that are generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    GenerateConfig,
    Logprobs,
    ModelCall,
    ModelOutput,
    ModelUsage,
)

from steering.engines import ScoreOutput, ScoreRequest, Telemetry, TokenLogprob
from steering.models import encode
from steering.provider.messages import (
    THINKING,
    ProviderError,
    engine_metadata,
    logprob,
    prompt_digest,
    summarize,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.condition import Condition
    from steering.vectors.interventions import Intervention

DISTRIBUTION = "distribution"
SCORING = ("score", "divergence", DISTRIBUTION)
BESIDES = (*SCORING, THINKING)
"""What `steering` of an `extra_body` may hold besides options of interventions."""
MOST_ANSWERS = 64
"""Most answers of one request."""
# They ask for choices or for alternatives to tokens, where both are given. Settings of how tokens
# are drawn have no effect, as they have none on the log probabilities of generated answers.
_CONTRADICTING = ("num_choices", "top_logprobs")


@dataclass(frozen=True)
class ScoreSettings:
    """Answers to be scored, and whether to compare with the unsteered model."""

    answers: tuple[str, ...]
    divergence: bool = False


def score_settings(config: GenerateConfig) -> ScoreSettings | None:
    """What a request asks to be scored; None if it asks for an answer.

    Raises:
        ProviderError: Answers are missing, empty, too many or no texts, or a setting contradicts.
    """
    options = (config.extra_body or {}).get("steering")
    if not isinstance(options, dict) or not options.keys() & set(SCORING[:2]):
        return None
    answers, divergence = options.get("score"), options.get("divergence", False)
    if not isinstance(answers, list) or not answers or not all(map(is_text, answers)):
        raise ProviderError(
            f"score={answers!r:.60} is not allowed: give a list of answers, each a text of at "
            "least one character"
        )
    if len(answers) > MOST_ANSWERS:
        raise ProviderError(
            f"score holds {len(answers)} answers, a request takes {MOST_ANSWERS}: use several"
        )
    if not isinstance(divergence, bool):
        raise ProviderError(f"divergence={divergence!r:.60} is not allowed: give true or false")
    check_settings(config, "score")
    if config.logprobs is False:
        raise ProviderError("logprobs=false contradicts score, which returns them: leave it out")
    return ScoreSettings(tuple(answers), divergence)


def check_settings(config: GenerateConfig, asked: str) -> None:
    """Refuse settings that contradict a request for `asked`.

    Raises:
        ProviderError: One does.
    """
    for name in _CONTRADICTING:
        if (value := getattr(config, name)) is not None:
            raise ProviderError(
                f"{name}={value} contradicts {asked}, which is about given texts only: leave it out"
            )


def is_text(value: Any) -> bool:
    """Whether a value is a text that has an encoding, of at least one character."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def make_score_request(
    settings: ScoreSettings,
    ids: Sequence[int],
    tokenizer: "PreTrainedTokenizerBase",
    interventions: "tuple[Intervention, ...]",
    condition: "Condition",
    *,
    reference: Sequence[int],
) -> ScoreRequest:
    """The engine's request to score answers to a prompt.

    Args:
        settings: The answers.
        ids: Token ids of the rendered prompt.
        tokenizer: For the answers, which get the tokens that they have in training.
        interventions: Of the activations.
        condition: Whose adapter and context length hold.
        reference: Token ids of the prompt without what the model is told by its option `prompt`:
            what the unsteered model reads, with which the divergence compares.

    Raises:
        ProviderError: The prompt with an answer is longer than the model's context.
    """
    answers = tuple(tuple(encode(tokenizer, answer)) for answer in settings.answers)
    check_length(ids, answers, condition)
    return ScoreRequest(
        tuple(ids),
        answers,
        interventions,
        condition.adapter,
        divergence=settings.divergence,
        reference_prompt=tuple(reference),
    )


def check_length(
    ids: Sequence[int], answers: Sequence[Sequence[int]], condition: "Condition"
) -> None:
    """Refuse a prompt that is longer than the model's context together with one of its answers.

    Raises:
        ProviderError: It is.
    """
    most, longest = condition.model.shape.context_length, len(ids) + max(map(len, answers))
    if most and longest > most:
        raise ProviderError(
            f"the prompt and its longest answer have {longest} tokens ({len(ids)} of the prompt), "
            f"the model reads {most}: shorten them"
        )


def make_score_output(
    result: ScoreOutput,
    request: ScoreRequest,
    settings: ScoreSettings,
    *,
    model: str,
    prompt: str,
    plain: str,
    tokenizer: "PreTrainedTokenizerBase",
    description: dict[str, Any],
    telemetry: Telemetry,
) -> tuple[ModelOutput, ModelCall]:
    """Inspect's output of one call, a choice for each answer, and the record of the call.

    Args:
        result: The scores.
        request: The engine's request.
        settings: The answers as texts.
        model: Name of the model with its condition.
        prompt: The rendered prompt.
        plain: The same without what the model is told by its option `prompt`.
        tokenizer: For the spelling of tokens.
        description: As `apply_vectors` gives it.
        telemetry: Of the engine so far.
    """
    choices = [
        ChatCompletionChoice(
            message=ChatMessageAssistant(content=answer, model=model, source="generate"),
            stop_reason="stop",
            logprobs=Logprobs(
                content=[
                    logprob(TokenLogprob(token, value), tokenizer)
                    for token, value in zip(tokens, values, strict=True)
                ]
            ),
        )
        for answer, tokens, values in zip(
            settings.answers, request.answers, result.logprobs, strict=True
        )
    ]
    scored = sum(map(len, request.answers))
    steering = description | prompt_digest(plain) | {"largest_change": [result.change]}
    if settings.divergence:
        steering["divergences"] = result.divergences
        steering["reference"] = result.reference
    output = ModelOutput(
        model=f"steered/{model}",
        choices=choices,
        usage=ModelUsage(
            input_tokens=len(request.prompt),
            output_tokens=scored,
            total_tokens=len(request.prompt) + scored,
        ),
        metadata={"steering": steering, "engine": engine_metadata([result], telemetry)},
    )
    call = {
        "prompt": prompt,
        "steering": summarize(description),
        "score": list(settings.answers),
        "divergence": settings.divergence,
    }
    response = {
        "choices": [
            {"text": answer, "tokens": len(values), "logprob": sum(values)}
            for answer, values in zip(settings.answers, result.logprobs, strict=True)
        ]
    }
    return output, ModelCall.create(call, response)
