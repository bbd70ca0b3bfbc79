"""Engines: requests in, tokens out, each request with its own interventions and sampling.

The protocol that every engine implements, and the one place where engines are shared: a process
has one copy of a model's weights, however many conditions, roles and tasks use it. As in vLLM, the
provider submits a `Request`, and an engine decodes it as a sequence, in a batch with others.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from steering.engines.settings import AnswerLimits, Sampling
from steering.errors import SteeringError
from steering.models import LoadedModel, ModelSource, check_unchanged, weights_digest
from steering.models.adapters import Adapter
from steering.vocabulary import EngineName

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from steering.vectors.interventions import Intervention
    from steering.vectors.monitor import Monitor

StopReason = Literal["stop", "max_tokens", "model_length"]
T = TypeVar("T")


class EngineError(SteeringError):
    """An engine can't do what a request asks for, or did not do it."""


@dataclass(frozen=True)
class Request:
    """One answer to be generated.

    Attributes:
        prompt: Token ids of the rendered prompt.
        sampling: How its tokens are drawn.
        max_tokens: Most tokens to generate.
        interventions: What is done to its activations; none leaves it unsteered.
        stop: Strings that end it; the text ends before them.
        top_logprobs: Number of alternatives to report for each token; None reports no logprobs.
        adapter: The LoRA adapter that is active for it.
        monitor: Directions that its residual stream is projected on at each answer token.

    Raises:
        SteeringError: A limit is impossible; see `AnswerLimits`.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    interventions: "tuple[Intervention, ...]" = ()
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    adapter: Adapter | None = None
    monitor: "Monitor" = ()

    def __post_init__(self) -> None:
        AnswerLimits(max_tokens=self.max_tokens, stop=self.stop, top_logprobs=self.top_logprobs)

    def check_change(self, change: float, num_generated: int) -> None:
        """Make sure that steering changed the activations; see `check_change`."""
        check_change(self.interventions, change, num_generated)


def check_change(
    interventions: "Sequence[Intervention]", change: float, answer_length: int
) -> None:
    """Make sure that steering changed the activations.

    Args:
        interventions: Those of the request.
        change: Largest absolute change of its activations.
        answer_length: Tokens of the answer; the last of them is never an input of the model.

    Raises:
        EngineError: They had to change them, and did not.
    """
    acted = any(item.on_prompt or answer_length > 1 for item in interventions)
    if acted and change == 0 and any(item.must_change for item in interventions):
        raise EngineError(
            "steering changed no activation of this request: the vector is too small for the "
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
    """The answer to a request.

    Attributes:
        tokens: Ids generated, without the end token.
        text: The tokens, decoded, up to a stop string.
        stop_reason: Why it ended.
        num_generated: Tokens generated, the end token included.
        change: Largest absolute change that steering made to its activations; None if unsteered.
        logprobs: One entry for each of `tokens`, if the request asks for them.
        readings: Float32 [num_generated - 1, directions, 2, 2], if the request is monitored: at
            each token that was an input of the model, before and after the interventions, the
            projection on each direction and the norm of the residual stream.
        waited_s: Seconds between submission and start.
        took_s: Seconds between start and end.
    """

    tokens: list[int]
    text: str
    stop_reason: StopReason
    num_generated: int
    change: float | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    readings: "Tensor | None" = None
    waited_s: float = 0.0
    took_s: float = 0.0


@dataclass(frozen=True)
class ScoreRequest:
    """Answers whose tokens are to be scored, each as if the model had generated it.

    Attributes:
        prompt: Token ids of the rendered prompt.
        answers: Token ids of each answer, of at least one token.
        interventions: What is done to its activations; none leaves it unsteered. Positions
            `response` are the tokens of an answer.
        adapter: The LoRA adapter that is active for it.
        divergence: Whether to compare with the same model without intervention and adapter.
        reference_prompt: Token ids of the prompt that this model reads; None for the same prompt.
        alternatives: Of each answer, other tokens that are scored in the place of its last one;
            empty where no answer has any.

    Raises:
        EngineError: There is no answer, or one without a token.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    interventions: "tuple[Intervention, ...]" = ()
    adapter: Adapter | None = None
    divergence: bool = False
    reference_prompt: tuple[int, ...] | None = None
    alternatives: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.prompt or not self.answers or not all(self.answers):
            raise EngineError(
                "a prompt and each answer to be scored need at least one token: give them texts "
                "that are not empty"
            )


@dataclass
class ScoreOutput:
    """The tokens of given answers, scored.

    Attributes:
        logprobs: Natural logarithm of the probability of each token of each answer, under the
            (steered) model at temperature 1, untruncated.
        divergences: KL divergence in nats from the model without intervention and adapter to the
            (steered) one, sum of p log(p / q) with p of the steered model, of the distribution from
            which each token of each answer comes; empty unless the request asks for them.
        reference: `logprobs` of the model without intervention and adapter; empty likewise.
        change: Largest absolute change that steering made to the activations; None if unsteered.
        waited_s: Seconds between submission and start.
        took_s: Seconds between start and end.
        alternatives: Log probability of each of the request's `alternatives`, by answer.
    """

    logprobs: list[list[float]]
    divergences: list[list[float]] = field(default_factory=list)
    reference: list[list[float]] = field(default_factory=list)
    change: float | None = None
    waited_s: float = 0.0
    took_s: float = 0.0
    alternatives: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Telemetry:
    """What an engine has done since it was created.

    Attributes:
        requests: Requests that ended.
        tokens: Tokens generated.
        busy_s: Seconds spent on prompts and decoding.
        passes: Forward passes that decoded.
        occupancy: Mean number of sequences in such a pass, as a share of the allowed batch.
        waiting: Requests that wait now.
        attention: Attention implementation of the model.
        kernels: Whether linear attention runs on fused kernels; None for a model without any.
        family: Architecture of the model: the `model_type` of its config, without `_text`.
        parameters: Number of the model's parameters, without adapters.
        engine: Name of the engine.
        cuda_graphs: Whether steps are replayed from recorded CUDA graphs; None for an engine
            without that choice.
        scored_tokens: Tokens of given answers that were scored; they are none of `tokens`.
        scoring_s: Seconds spent on them; they are none of `busy_s`.
    """

    requests: int = 0
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
    scored_tokens: int = 0
    scoring_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second of `busy_s`."""
        return self.tokens / self.busy_s if self.busy_s else 0.0

    @property
    def scored_per_s(self) -> float:
        """Tokens of given answers that were scored per second of `scoring_s`."""
        return self.scored_tokens / self.scoring_s if self.scoring_s else 0.0


class Engine(Protocol):
    """What every engine offers. All of it may be called from any thread."""

    def submit(self, request: Request) -> "Future[RequestOutput]":
        """Queue a request. Cancelling the future takes it out of its batch."""
        ...

    def score(self, request: ScoreRequest) -> "Future[ScoreOutput]":
        """Queue answers to be scored, in passes with those of other conditions."""
        ...

    def call(self, work: "Callable[[LoadedModel, Any], T]") -> "Future[T]":
        """Run `work(loaded, session)` between passes on the model's thread, to build vectors."""
        ...

    def tokenizer(self) -> "Future[PreTrainedTokenizerBase]":
        """A copy of the tokenizer for one thread of callers: the engine's thread uses another."""
        ...

    def allow_batch(self, size: int) -> None:
        """Raise the number of sequences that are decoded together to `size` (at first 1)."""
        ...

    def telemetry(self) -> Telemetry:
        """Counts and times so far."""
        ...

    def release(self) -> None:
        """End what runs and free the model's memory. The next request loads it again."""
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
    batch_invariant: bool = False,
    weights: str | None = None,
) -> Engine:
    """The process's one engine for these weights. Returns at once; weights load at first use.

    `weights` is their digest, as they were looked at; None for what the model's files hold now. An
    engine of the files before, if they have changed, is released for one of those of now.

    `device` and `batch_invariant` (answers do not depend on batch mates in any precision) are for
    `hf` only; `vllm` has the number of GPUs that share each weight, and whether steps are replayed
    from recorded CUDA graphs.
    """
    # Two names of one model are one model.
    options = (dtype, device, engine, tensor_parallel_size, cuda_graphs, batch_invariant)
    model = (replace(source, name=""), *options)
    key = (*model, weights or weights_digest(source))
    with _lock:
        if key in _engines:
            return _engines[key]
        outdated = [other for other in _engines if other[:-1] == model]
        if outdated:
            check_unchanged(source, key[-1])
        released = [_engines.pop(other) for other in outdated]
    for other_engine in released:
        other_engine.release()
    with _lock:
        if key not in _engines:
            if engine == "vllm":
                from steering.engines.vllm import VLLMEngine

                _engines[key] = VLLMEngine(
                    source,
                    dtype=dtype,
                    tensor_parallel_size=tensor_parallel_size,
                    cuda_graphs=cuda_graphs,
                    weights=key[-1],
                )
            else:
                from steering.engines.hf import HFEngine

                _engines[key] = HFEngine(
                    source,
                    dtype=dtype,
                    device=device,
                    batch_invariant=batch_invariant,
                    weights=key[-1],
                )
        return _engines[key]


def release_engines() -> None:
    """Free the memory of every loaded model, before others are loaded."""
    with _lock:
        engines = list(_engines.values())
    for engine in engines:
        engine.release()
