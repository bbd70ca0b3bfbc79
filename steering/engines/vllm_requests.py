"""Requests, outputs, adapters and errors as vLLM takes and gives them."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from steering.engines import EngineError, Request, RequestOutput, StopReason, TokenLogprob
from steering.engines.sequences import before_stop
from steering.models.adapters import Adapter
from steering.vectors.interventions import Intervention, check_width
from steering.vectors.monitor import Direction

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Adapter ranks that vLLM supports.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
T = TypeVar("T", Intervention, Direction)
Packed = tuple[str, bytes]
"""What goes to worker processes: JSON values, and tensors as safetensors."""


def pack_request(request: Request, width: int) -> tuple[str, Packed, Packed]:
    """A key of what is done to a request and read of it, and these, for worker processes.

    Raises:
        VectorError: A vector does not have the model's `width`.
    """
    for item in request.interventions:
        check_width(item.basis.shape[-1], width)
    for direction in request.monitor:
        check_width(len(direction.unit), width)
    parts = pack(request.interventions), pack(request.monitor)
    content = b"".join(values.encode() + tensors for values, tensors in parts)
    return hashlib.sha256(content).hexdigest()[:16], *parts


def pack(items: Sequence[Intervention] | Sequence[Direction]) -> Packed:
    """Interventions, or the directions of a monitor, for worker processes."""
    values: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for index, item in enumerate(items):
        values.append({})
        for name, value in vars(item).items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                values[index][name] = value
    return json.dumps(values), save(tensors)


def unpack(kind: type[T], packed: Packed) -> tuple[T, ...]:
    """What `pack` packed."""
    values: list[dict[str, Any]] = json.loads(packed[0])
    for place, tensor in load(packed[1]).items():
        index, name = place.split(".")
        values[int(index)][name] = tensor
    return tuple(kind(**item) for item in values)


def read_by_monitor(request: Request, readings: bytes, num_generated: int) -> Tensor | None:
    """The readings of an answer, as a worker packs them; None if the request is not monitored.

    vLLM may run a step more than an answer needs, whose tokens are read in vain.

    Raises:
        EngineError: Tokens were not read.
    """
    if not request.monitor:
        return None
    width = (len(request.monitor), 2, 2)
    read = load(readings)["readings"] if readings else torch.empty((0, *width))
    if len(read) < num_generated - 1:
        raise EngineError(
            f"the monitor read {len(read)} of the {num_generated - 1} tokens that the model read: "
            "vLLM did not run nnsight's worker in every step"
        )
    return read[: num_generated - 1]


def sampling_params(request: Request, end_tokens: Sequence[int], name: str, key: str) -> Any:
    """vLLM's settings of a request.

    The request's name and the key of its interventions and monitor, empty without either, go to
    the workers.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    sampling = request.sampling
    extra = {"steering_request": name, "steering_key": key} if key else None
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


def failure_of(event: str, error: Exception) -> EngineError:
    """An error of vLLM itself, with a way to its log and a way around it."""
    return EngineError(
        f"{event} ({in_one_line(error)}). VLLM_LOGGING_LEVEL=INFO shows vLLM's log; "
        "-M engine=hf runs the model without vLLM"
    )


def in_one_line(error: Exception) -> str:
    """What an error says, at most 300 characters of it."""
    return " ".join(str(error).split())[:300]
