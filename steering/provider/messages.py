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

from steering.engines import Request, RequestOutput, Telemetry, TokenLogprob
from steering.errors import SteeringError
from steering.models import split_thought

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.models.adapters import Adapter
    from steering.vectors.interventions import Intervention

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

MAX_TOKENS = 1024
"""Longest answer, in tokens, when no setting gives one."""


class ProviderError(SteeringError):
    """A request asks for something that steered models can't do."""


def check_config(config: GenerateConfig) -> None:
    """Refuse settings that would be ignored.

    Raises:
        ProviderError: It names the setting.
    """
    for name in sorted(REFUSED):
        if getattr(config, name):
            raise ProviderError(f"{name} is not supported by steered models: leave it out")
    unknown = set(config.extra_body or {}) - {"steering"}
    if unknown:
        raise ProviderError(f"extra_body holds {sorted(unknown)}; only `steering` is allowed")


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


def make_request(
    ids: Sequence[int],
    interventions: "tuple[Intervention, ...]",
    seed: int,
    config: GenerateConfig,
    context_length: int | None,
    adapter: "Adapter | None" = None,
) -> Request:
    """The engine's request for one answer.

    Args:
        ids: Token ids of the rendered prompt.
        interventions: Of its activations.
        seed: Of its random numbers.
        config: Inspect's settings. Those that are not set leave the model's plain distribution
            (temperature 1, no truncation).
        context_length: Most tokens that the model reads, if known.
        adapter: The LoRA adapter of a finetuned model.

    Raises:
        ProviderError: The prompt fills the context.
    """
    from steering.engines.sampling import Sampling

    if context_length and len(ids) >= context_length:
        raise ProviderError(
            f"the prompt has {len(ids)} tokens, the model reads {context_length}: shorten it"
        )
    wants_logprobs = config.logprobs or config.top_logprobs
    return Request(
        prompt=tuple(ids),
        interventions=interventions,
        adapter=adapter,
        sampling=Sampling(
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            top_k=config.top_k or 0,
            frequency_penalty=config.frequency_penalty or 0.0,
            presence_penalty=config.presence_penalty or 0.0,
            logit_bias=config.logit_bias or {},
            seed=seed,
        ),
        max_tokens=config.max_tokens or MAX_TOKENS,
        stop=tuple(config.stop_seqs or ()),
        top_logprobs=(config.top_logprobs or 0) if wants_logprobs else None,
    )


def make_output(
    results: Sequence[RequestOutput],
    requests: Sequence[Request],
    *,
    model: str,
    prompt: str,
    tokenizer: "PreTrainedTokenizerBase",
    description: dict[str, Any],
    telemetry: Telemetry,
) -> tuple[ModelOutput, ModelCall]:
    """Inspect's output of one call, and the record of that call for the log.

    Args:
        results: One output a choice.
        requests: The request of each.
        model: Name of the model with its condition.
        prompt: The rendered prompt.
        tokenizer: For the spelling of tokens.
        description: As `apply_vectors` gives it.
        telemetry: Of the engine so far.
    """
    choices = [
        ChatCompletionChoice(
            message=ChatMessageAssistant(
                content=split_reasoning(result.text, prompt),
                model=model,
                source="generate",
            ),
            stop_reason=result.stop_reason,
            logprobs=Logprobs(content=[_logprob(item, tokenizer) for item in result.logprobs])
            if requests[0].top_logprobs is not None
            else None,
        )
        for result in results
    ]
    generated = sum(result.num_generated for result in results)
    steering = description | {
        "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        "largest_change": [result.change for result in results],
    }
    output = ModelOutput(
        model=f"steered/{model}",
        choices=choices,
        usage=ModelUsage(
            input_tokens=len(requests[0].prompt),
            output_tokens=generated,
            total_tokens=len(requests[0].prompt) + generated,
        ),
        metadata={"steering": steering, "engine": _engine_metadata(results, telemetry)},
    )
    sampling = requests[0].sampling
    request = {
        "prompt": prompt,
        "steering": _summarize(description),
        "sampling": {**vars(sampling), "seeds": [each.sampling.seed for each in requests]},
        "max_tokens": requests[0].max_tokens,
        "stop": requests[0].stop,
    }
    response = {
        "choices": [{"text": result.text, "stop_reason": result.stop_reason} for result in results]
    }
    return output, ModelCall.create(request, response)


def _summarize(description: dict[str, Any]) -> list[dict[str, Any]]:
    """The interventions as the call shows them: where, how and how strong."""
    summaries = [
        {name: value for name, value in intervention.items() if name != "residual_norms"}
        | {"vector": intervention["vector"]["digest"]}
        for intervention in description.get("interventions", [])
    ]
    if adapter := description.get("adapter"):
        summaries.append({f"adapter_{name}": adapter[name] for name in ("name", "digest", "scale")})
    return summaries


def _engine_metadata(results: Sequence[RequestOutput], telemetry: Telemetry) -> dict[str, Any]:
    """How long an answer took, and the engine's figures at that time."""
    return {
        "waited_s": [round(result.waited_s, 3) for result in results],
        "took_s": [round(result.took_s, 3) for result in results],
        "tokens_per_s": round(telemetry.tokens_per_s, 1),
        "occupancy": round(telemetry.occupancy, 3),
        "waiting": telemetry.waiting,
        "engine": telemetry.engine,
        "cuda_graphs": telemetry.cuda_graphs,
        "attention": telemetry.attention,
        "fused_kernels": telemetry.kernels,
        "family": telemetry.family,
        "parameters": telemetry.parameters,
    }


def split_reasoning(text: str, prompt: str = "") -> str | list[Content]:
    """Separate a model's reasoning from its answer; a prompt may open the reasoning at its end."""
    parts = split_thought(text, prompt)
    if parts is None:
        return text
    reasoning, answer = parts
    return [ContentReasoning(reasoning=reasoning), ContentText(text=answer)]


def _logprob(item: TokenLogprob, tokenizer: "PreTrainedTokenizerBase") -> Logprob:
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
