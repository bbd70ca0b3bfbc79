"""Requests, interventions, outputs and adapters as vLLM takes and gives them."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load, save
from torch import Tensor

from steering.engines import EngineError, Request, RequestOutput, StopReason, TokenLogprob
from steering.engines.sequences import before_stop
from steering.models.adapters import Adapter
from steering.vectors.interventions import Intervention

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Adapter ranks that vLLM supports.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Fields of an intervention that are JSON values, and those that are tensors or None.
_VALUES = ("amount", "layer", "site", "operation", "positions")
_TENSORS = ("basis", "reads", "offsets")


def pack_interventions(interventions: Sequence[Intervention]) -> tuple[str, bytes]:
    """Interventions as bytes, for worker processes: JSON values, and tensors as safetensors."""
    values = [{name: getattr(item, name) for name in _VALUES} for item in interventions]
    tensors: dict[str, Tensor] = {
        f"{index}.{name}": tensor.contiguous()
        for index, item in enumerate(interventions)
        for name in _TENSORS
        if (tensor := getattr(item, name)) is not None
    }
    return json.dumps(values), save(tensors)


def unpack_interventions(values: str, tensors: bytes) -> tuple[Intervention, ...]:
    """The interventions that `pack_interventions` packed."""
    by_name = load(tensors)
    fields: list[dict[str, Any]] = json.loads(values)
    for index, item in enumerate(fields):
        item |= {name: by_name.get(f"{index}.{name}") for name in _TENSORS}
    return tuple(Intervention(**item) for item in fields)


def sampling_params(request: Request, end_tokens: Sequence[int], name: str, key: str) -> Any:
    """vLLM's settings of a request.

    The request's name and the key of its interventions, empty without any, go to the workers.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    sampling = request.sampling
    extra = {"steering_request": name, "steering_interventions": key} if key else None
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        logit_bias={int(token): bias for token, bias in sampling.logit_bias.items()} or None,
        seed=sampling.seed if sampling.temperature else None,
        max_tokens=request.max_tokens,
        stop=list(request.stop) or None,
        # Otherwise vLLM drops its tokens too; `make_output` cuts the text.
        include_stop_str_in_output=True,
        stop_token_ids=list(end_tokens),
        logprobs=request.top_logprobs,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=extra,
    )


def make_output(
    request: Request, output: Any, tokenizer: "PreTrainedTokenizerBase", end_tokens: Sequence[int]
) -> RequestOutput:
    """vLLM's output of a request as ours."""
    tokens = list(output.token_ids)
    generated = len(tokens)
    reason: StopReason
    if output.finish_reason == "stop":
        reason = "stop"
    elif output.finish_reason == "length":
        reason = "max_tokens" if generated >= request.max_tokens else "model_length"
    else:
        raise EngineError(f"vLLM ended a request for an unknown reason: {output.finish_reason}")
    if tokens and tokens[-1] in end_tokens:
        tokens.pop()
    text = str(tokenizer.decode(tokens, skip_special_tokens=False))
    cut = before_stop(text, request.stop)
    return RequestOutput(
        tokens=tokens,
        text=text if cut is None else cut,
        stop_reason=reason,
        num_generated=generated,
        logprobs=_logprobs(request, tokens, output.logprobs or []),
    )


def _logprobs(request: Request, tokens: list[int], logprobs: Any) -> list[TokenLogprob]:
    """vLLM's log probabilities, which are the model's own, before temperature and truncation."""
    if request.top_logprobs is None:
        return []
    entries = []
    for token, alternatives in zip(tokens, logprobs, strict=False):
        best = sorted(alternatives.items(), key=lambda item: -item[1].logprob)
        top = tuple((other, value.logprob) for other, value in best[: request.top_logprobs])
        entries.append(TokenLogprob(token, alternatives[token].logprob, top))
    return entries


def lora_rank(adapter: Adapter) -> int:
    """The rank that vLLM must support to load the adapter."""
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    largest = max(int(config["r"]), *map(int, (config.get("rank_pattern") or {"": 0}).values()))
    return next((rank for rank in _RANKS if rank >= largest), largest)


def lora_request(adapter: Adapter, number: int) -> Any:
    """vLLM's request for an adapter. vLLM has no scale: it is written into a copy's config."""
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
