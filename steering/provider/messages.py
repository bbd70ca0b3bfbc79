"""Inspect's messages and settings to engine requests, and engine outputs to Inspect's.

A translation without state: which settings are honoured, what a request consists of, how an output
is recorded. It knows no options of steering.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelCall,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)

from steering.engines import Request, RequestOutput, ScoreOutput, Telemetry, TokenLogprob
from steering.engines.settings import AnswerSettings
from steering.errors import SteeringError
from steering.models import split_thought
from steering.provider.monitor import describe_readings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.models.adapters import Adapter
    from steering.targets.prompts import ModelPrompt
    from steering.vectors.interventions import Intervention
    from steering.vectors.monitor import Monitor

# Of an intervention's description, what a call does not show: it says where, how and how strong.
_NOT_SHOWN = ("residual_norms", "norm_kind")
THINKING = "thinking"
"""Option of the model that a request may override."""
REFUSED = {
    "batch",
    "best_of",
    "effort",
    "extra_headers",
    "modalities",
    "prompt_logprobs",
    "reasoning_effort",
    "reasoning_mode",
    "reasoning_summary",
    "reasoning_tokens",
    "response_schema",
    "verbosity",
}
"""Fields that would change the answer and that the provider does not support."""


class ProviderError(SteeringError):
    """A request asks for something that steered models can't do."""


def answer_settings(config: GenerateConfig) -> AnswerSettings:
    """The settings of Inspect that the provider honours, checked; all others are refused.

    Those that are not set leave the model's plain distribution (temperature 1, no truncation).

    Raises:
        SteeringError: It names the setting and what is allowed.
    """
    for name in sorted(REFUSED):
        if getattr(config, name):
            raise ProviderError(f"{name} is not supported by steered models: leave it out")
    unknown = set(config.extra_body or {}) - {"steering"}
    if unknown:
        raise ProviderError(f"extra_body holds {sorted(unknown)}; only `steering` is allowed")
    values = {name: getattr(config, name, None) for name in AnswerSettings.model_fields}
    values["stop"] = tuple(config.stop_seqs) if config.stop_seqs is not None else None
    if not config.top_logprobs:
        values["top_logprobs"] = 0 if config.logprobs else None
    return AnswerSettings(**{name: value for name, value in values.items() if value is not None})


def asked_thinking(config: GenerateConfig, default: bool) -> bool:
    """Whether the model thinks: `extra_body={"steering": {"thinking": true}}`, else `default`.

    Raises:
        ProviderError: The value is neither true nor false.
    """
    options = (config.extra_body or {}).get("steering")
    value = options.get(THINKING, default) if isinstance(options, dict) else default
    if not isinstance(value, bool):
        raise ProviderError(f"thinking={value!r:.60} is not allowed: give true or false")
    return value


def chat_message(message: ChatMessage) -> dict[str, str]:
    """A message as chat templates take it: its role and its content.

    Raises:
        ProviderError: It holds more than text.
    """
    if isinstance(message, ChatMessageTool):
        raise ProviderError("a tool message can't be rendered: steered models take no tools")
    if not isinstance(message.content, str):
        other = {part.type for part in message.content} - {"text", "reasoning"}
        if other:
            raise ProviderError(f"{sorted(other)[0]} content can't be read: text only is supported")
    return {"role": message.role, "content": message.text}


def check_prompt(
    prompt: "ModelPrompt", num_tokens: int, num_plain: int, context_length: int | None
) -> None:
    """Refuse what the model is told where no answer fits behind it.

    Args:
        prompt: What it is told.
        num_tokens: Of the rendered conversation.
        num_plain: Of the same without the prompt.
        context_length: Most tokens that the model reads, if known.

    Raises:
        ProviderError: The conversation fills the context.
    """
    if not context_length or num_tokens < context_length:
        return
    remedy = "give a shorter message"
    if prompt.num_examples:
        remedy = f"give fewer than prompt_examples={prompt.num_examples}"
    raise ProviderError(
        f"prompt={prompt.name} makes a prompt of {num_plain} tokens one of {num_tokens}, and the "
        f"model reads {context_length}: {remedy}"
    )


def make_request(
    ids: Sequence[int],
    interventions: "tuple[Intervention, ...]",
    seed: int,
    settings: AnswerSettings,
    context_length: int | None,
    adapter: "Adapter | None" = None,
    monitor: "Monitor" = (),
) -> Request:
    """The engine's request for one answer.

    Args:
        ids: Token ids of the rendered prompt.
        interventions: Of its activations.
        seed: Of its random numbers.
        settings: How it is drawn and where it ends.
        context_length: Most tokens that the model reads, if known.
        adapter: The LoRA adapter of a finetuned model.
        monitor: Directions that are read.

    Raises:
        ProviderError: The prompt fills the context.
    """
    if context_length and len(ids) >= context_length:
        raise ProviderError(
            f"the prompt has {len(ids)} tokens, the model reads {context_length}: shorten it"
        )
    return Request(
        prompt=tuple(ids),
        interventions=interventions,
        adapter=adapter,
        monitor=monitor,
        sampling=settings.sampling(seed),
        max_tokens=settings.max_tokens,
        stop=settings.stop,
        top_logprobs=settings.top_logprobs,
    )


def make_output(
    results: Sequence[RequestOutput],
    requests: Sequence[Request],
    *,
    model: str,
    prompt: str,
    plain: str,
    prefill: str,
    tokenizer: "PreTrainedTokenizerBase",
    description: dict[str, Any],
    telemetry: Telemetry,
    by_token: bool = False,
) -> tuple[ModelOutput, ModelCall]:
    """Inspect's output of one call, and the record of that call for the log.

    Args:
        results: One output a choice.
        requests: The request of each.
        model: Name of the model with its condition.
        prompt: The rendered prompt.
        plain: The same without what the model is told by its option `prompt`.
        prefill: The assistant message that the answer continues; only the continuation is in the
            output, as from Inspect's vllm and sglang providers.
        tokenizer: For the spelling of tokens.
        description: As `apply_vectors` gives it.
        telemetry: Of the engine so far.
        by_token: Whether what was read of each token is recorded.
    """
    choices = [
        ChatCompletionChoice(
            message=ChatMessageAssistant(
                content=split_reasoning(result.text, prompt, prefill),
                model=model,
                source="generate",
            ),
            stop_reason=result.stop_reason,
            logprobs=Logprobs(content=[logprob(item, tokenizer) for item in result.logprobs])
            if requests[0].top_logprobs is not None
            else None,
        )
        for result in results
    ]
    generated = sum(result.num_generated for result in results)
    steering = description | prompt_digest(plain)
    steering["largest_change"] = [result.change for result in results]
    if monitor := requests[0].monitor:
        steering["monitor"] = describe_readings(monitor, results, tokenizer if by_token else None)
    output = ModelOutput(
        model=f"steered/{model}",
        choices=choices,
        usage=ModelUsage(
            input_tokens=len(requests[0].prompt),
            output_tokens=generated,
            total_tokens=len(requests[0].prompt) + generated,
        ),
        metadata={"steering": steering, "engine": engine_metadata(results, telemetry)},
    )
    sampling = requests[0].sampling
    request = {
        "prompt": prompt,
        "steering": summarize(description),
        "sampling": {**sampling.model_dump(), "seeds": [each.sampling.seed for each in requests]},
        "max_tokens": requests[0].max_tokens,
        "stop": requests[0].stop,
    }
    response = {
        "choices": [{"text": result.text, "stop_reason": result.stop_reason} for result in results]
    }
    return output, ModelCall.create(request, response)


def prompt_digest(prompt: str) -> dict[str, str]:
    """What the log holds of a prompt, so that those of conditions can be compared."""
    return {"prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()}


def summarize(description: dict[str, Any]) -> list[dict[str, Any]]:
    """The interventions as the call shows them: where, how and how strong."""
    summaries = [
        {name: value for name, value in intervention.items() if name not in _NOT_SHOWN}
        | {"vector": intervention["vector"]["digest"]}
        for intervention in description.get("interventions", [])
    ]
    if adapter := description.get("adapter"):
        summaries.append({f"adapter_{name}": adapter[name] for name in ("name", "digest", "scale")})
    if prompt := description.get("prompt"):
        summaries.append({f"prompt_{name}": value for name, value in prompt.items()})
    return summaries


def engine_metadata(
    results: Sequence[RequestOutput | ScoreOutput], telemetry: Telemetry
) -> dict[str, Any]:
    """How long an answer took, and the engine's figures at that time."""
    return {
        "waited_s": [round(result.waited_s, 3) for result in results],
        "took_s": [round(result.took_s, 3) for result in results],
        "tokens_per_s": round(telemetry.tokens_per_s, 1),
        "scored_per_s": round(telemetry.scored_per_s, 1),
        "occupancy": round(telemetry.occupancy, 3),
        "waiting": telemetry.waiting,
        "engine": telemetry.engine,
        "cuda_graphs": telemetry.cuda_graphs,
        "attention": telemetry.attention,
        "fused_kernels": telemetry.kernels,
        "family": telemetry.family,
        "parameters": telemetry.parameters,
    }


def split_reasoning(text: str, prompt: str = "", prefill: str = "") -> str | list[Content]:
    """Separate a model's reasoning from its answer; a prompt may open the reasoning at its end."""
    parts = split_thought(text, prompt, prefill)
    if parts is None:
        return text
    reasoning, answer = parts
    return [ContentReasoning(reasoning=reasoning), ContentText(text=answer)]


def logprob(item: TokenLogprob, tokenizer: "PreTrainedTokenizerBase") -> Logprob:
    """A token's log probability as Inspect records it."""
    token, encoded = _spell(item.token, tokenizer)
    top = [
        TopLogprob(token=spelling, logprob=value, bytes=alternative)
        for other, value in item.top
        for spelling, alternative in [_spell(other, tokenizer)]
    ]
    return Logprob(token=token, logprob=item.logprob, bytes=encoded, top_logprobs=top)


def _spell(token: int, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, list[int]]:
    """A token as text and as UTF-8 bytes."""
    spelling = str(tokenizer.decode([token]))
    return spelling, list(spelling.encode())
