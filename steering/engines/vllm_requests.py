"""Rows as vLLM's requests, its outputs as results, and adapters by the names that it gives them."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.engines import EngineError, Request, RequestOutput, StopReason, TokenLogprob
from steering.models.adapters import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Ranks that vLLM makes room for.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def sampling_params(row: Request, end_tokens: Sequence[int], name: str, edits: str) -> Any:
    """What vLLM is told of a row.

    Args:
        row: The row.
        end_tokens: Ids that end an answer.
        name: The row's own.
        edits: Key of its edits; empty when it has none.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    sampling = row.sampling
    extra = {"steering_row": name, "steering_edits": edits} if edits else None
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        logit_bias={int(token): bias for token, bias in sampling.logit_bias.items()} or None,
        seed=sampling.seed if sampling.temperature else None,
        max_tokens=row.max_tokens,
        stop=list(row.stop) or None,
        # Else vLLM hides its tokens too; the text is cut here.
        include_stop_str_in_output=True,
        stop_token_ids=list(end_tokens),
        logprobs=row.top_logprobs,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=extra,
    )


def make_result(
    row: Request, output: Any, tokenizer: "PreTrainedTokenizerBase", end_tokens: Sequence[int]
) -> RequestOutput:
    """What became of a row, in our terms."""
    tokens = list(output.token_ids)
    generated = len(tokens)
    reason: StopReason
    if output.finish_reason == "stop":
        reason = "stop"
    elif output.finish_reason == "length":
        reason = "max_tokens" if generated >= row.max_tokens else "model_length"
    else:
        raise EngineError(f"vLLM ended a row for a reason of its own: {output.finish_reason}")
    if tokens and tokens[-1] in end_tokens:
        tokens.pop()
    text = str(tokenizer.decode(tokens, skip_special_tokens=False))
    found = [at for string in row.stop if (at := text.find(string)) >= 0]
    return RequestOutput(
        tokens=tokens,
        text=text[: min(found)] if found else text,
        stop_reason=reason,
        num_generated=generated,
        logprobs=_logprobs(row, tokens, output.logprobs or []),
    )


def _logprobs(row: Request, tokens: list[int], told: Any) -> list[TokenLogprob]:
    """vLLM's log probabilities, which are the model's own, before temperature and cuts."""
    if row.top_logprobs is None:
        return []
    found = []
    for token, alternatives in zip(tokens, told, strict=False):
        best = sorted(alternatives.items(), key=lambda item: -item[1].logprob)
        top = tuple((other, value.logprob) for other, value in best[: row.top_logprobs])
        found.append(TokenLogprob(token, alternatives[token].logprob, top))
    return found


def lora_rank(adapter: Adapter) -> int:
    """The rank that vLLM must make room for."""
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    largest = max(int(config["r"]), *map(int, (config.get("rank_pattern") or {"": 0}).values()))
    return next((rank for rank in _RANKS if rank >= largest), largest)


def lora_request(adapter: Adapter, number: int) -> Any:
    """vLLM's way to name an adapter; it knows no scale, so that is written into a copy's config."""
    from vllm.lora.request import LoRARequest

    folder = adapter.folder
    if adapter.scale != 1:
        folder = Path(tempfile.mkdtemp(prefix="steering-adapter-"))
        for path in adapter.folder.iterdir():
            (folder / path.name).symlink_to(path.resolve())
        config = json.loads((adapter.folder / "adapter_config.json").read_text())
        config["lora_alpha"] *= adapter.scale
        (folder / "adapter_config.json").unlink()
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return LoRARequest(adapter.name, number, str(folder))
