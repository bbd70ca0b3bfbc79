"""Engines: rows of token ids in, tokens out, each row with its own interventions and sampling.

The protocol that every engine keeps, and the one place where engines are shared: one copy of a
model's weights a process, however many conditions, roles and tasks use it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from steering.errors import SteeringError
from steering.models import LoadedModel, ModelSource
from steering.models.adapters import Adapter
from steering.vocabulary import EngineName

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.engines.sampling import Sampling
    from steering.vectors.interventions import Intervention

StopReason = Literal["stop", "max_tokens", "model_length"]
T = TypeVar("T")


class EngineError(SteeringError):
    """An engine can't do what a row asks."""


@dataclass(frozen=True)
class Request:
    """One answer to be generated.

    Attributes:
        prompt: Token ids of the rendered prompt.
        edits: What is done to its activations; none leaves the row unsteered.
        sampling: How its tokens are drawn.
        max_tokens: Tokens it may generate.
        stop: Strings that end it; they are cut off.
        top_logprobs: How many alternatives to report a token; None reports no logprobs at all.
        adapter: What was finetuned into the model for it, if anything.
    """

    prompt: tuple[int, ...]
    sampling: "Sampling"
    max_tokens: int
    edits: "tuple[Intervention, ...]" = ()
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    adapter: Adapter | None = None

    def check_change(self, change: float, num_generated: int) -> None:
        """Make sure that steering did something to the row.

        Args:
            change: Largest absolute change of its activations.
            num_generated: Tokens generated; the last of them was never read back.

        Raises:
            EngineError: It should have, and did not.
        """
        acted = any(edit.on_prompt or num_generated > 1 for edit in self.edits)
        if acted and change == 0 and any(edit.must_change for edit in self.edits):
            raise EngineError(
                "steering changed no activation of this row: the vector is too small for the "
                "model's precision, or was not applied. Raise the magnitude or use -M dtype=float32"
            )


@dataclass(frozen=True)
class TokenLogprob:
    """Log probability of a drawn token under the (steered) model at temperature 1, untruncated.

    Attributes:
        token: Token id.
        logprob: Natural logarithm.
        top: (token id, logprob) of the likeliest tokens, best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class RequestOutput:
    """What became of a row.

    Attributes:
        tokens: Ids generated, without the end token.
        text: The same, decoded, without what follows a stop string.
        stop_reason: Why it ended.
        num_generated: Tokens generated, the end token included.
        change: Largest absolute change that steering made to the row's activations; None if the
            row is unsteered.
        logprobs: One entry a token of `tokens`, if asked for.
        waited_s: Seconds between its coming and its start.
        took_s: Seconds between its start and its end.
    """

    tokens: list[int]
    text: str
    stop_reason: StopReason
    num_generated: int
    change: float | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    waited_s: float = 0.0
    took_s: float = 0.0


@dataclass(frozen=True)
class Telemetry:
    """What an engine has done since it was made.

    Attributes:
        rows: Rows that ended.
        tokens: Tokens generated.
        busy_s: Seconds spent on prompts and decoding.
        passes: Forward passes that decoded.
        occupancy: Rows decoded in a pass, as a mean share of the most that were allowed.
        waiting: Rows that wait now.
        attention: Attention implementation of the model.
        kernels: Whether linear attention runs on fused kernels; None for a model without any.
        family: Architecture of the model, as its config's `model_type` has it, without `_text`.
        parameters: Number of the model's own parameters.
        engine: Which engine it is.
        cuda_graphs: Whether steps are replayed from recorded CUDA graphs; None where there is no
            such choice.
    """

    rows: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    passes: int = 0
    occupancy: float = 0.0
    waiting: int = 0
    attention: str = ""
    kernels: bool | None = None
    family: str = ""
    parameters: int = 0
    engine: str = "hf"
    cuda_graphs: bool | None = None

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated in a second of work."""
        return self.tokens / self.busy_s if self.busy_s else 0.0


class Engine(Protocol):
    """What an engine offers. All of it may be called from any thread."""

    def submit(self, row: Request) -> "Future[RequestOutput]":
        """Queue a row. Cancelling the future takes the row out of its batch."""
        ...

    def call(self, work: "Callable[[LoadedModel, Any], T]") -> "Future[T]":
        """Run `work(loaded, session)` alone on the model's thread, for building vectors."""
        ...

    def tokenizer(self) -> "Future[PreTrainedTokenizerBase]":
        """A tokenizer of one's own: an engine's is in use on its own thread."""
        ...

    def allow_batch(self, rows: int) -> None:
        """Let that many rows be decoded together, if fewer were allowed before (at first: 1)."""
        ...

    def telemetry(self) -> Telemetry:
        """What was done so far."""
        ...

    def release(self) -> None:
        """End what runs and give the model's memory back. The next request loads it again."""
        ...


_engines: dict[tuple[Any, ...], Engine] = {}
_lock = threading.Lock()


def shared_engine(
    source: ModelSource,
    *,
    dtype: str = "auto",
    device: str = "auto",
    engine: EngineName = "hf",
    tensor_parallel_size: int = 1,
    cuda_graphs: bool = False,
) -> Engine:
    """The process's one engine for these weights. Returns at once; weights load on first use.

    Args:
        source: The model.
        dtype: Precision of the weights.
        device: Of the `hf` engine, where they are.
        engine: Which engine.
        tensor_parallel_size: Of `vllm`, GPUs that share each weight.
        cuda_graphs: Of `vllm`, whether steps are replayed from recorded graphs.
    """
    # Two names of one model are one model.
    key = (replace(source, name=""), dtype, device, engine, tensor_parallel_size, cuda_graphs)
    with _lock:
        if key not in _engines:
            if engine == "vllm":
                from steering.engines.vllm import VLLMEngine

                _engines[key] = VLLMEngine(
                    source,
                    dtype=dtype,
                    tensor_parallel_size=tensor_parallel_size,
                    cuda_graphs=cuda_graphs,
                )
            else:
                from steering.engines.hf import HFEngine

                _engines[key] = HFEngine(source, dtype=dtype, device=device)
        return _engines[key]


def release_engines() -> None:
    """Give back the memory of every model that is loaded, before others are."""
    with _lock:
        held = list(_engines.values())
    for engine in held:
        engine.release()
