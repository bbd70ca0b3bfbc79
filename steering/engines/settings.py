"""Settings of an answer: checked where they are made, so that every door and engine has one rule.

Imports no torch: settings are checked before a model loads.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from steering.errors import SteeringError

MAX_TOKENS = 1024
"""Longest answer, in tokens, when no setting gives one."""
MOST_LOGPROBS = 20
"""Most alternatives that are reported for a token: the limit of Inspect, OpenAI and vLLM."""
_LONGEST = 60
# What is allowed, as an error says it.
_ALLOWED = {
    "temperature": "0 (greedy), or a number from 0.01 to 100. Without it, it is 1",
    "top_p": "a number above 0 and up to 1. Without it, all tokens are drawn from",
    "top_k": "a whole number from 1; 0 or -1 is all tokens",
    "frequency_penalty": "a number from -2 to 2. Leave it out for none",
    "presence_penalty": "a number from -2 to 2. Leave it out for none",
    "logit_bias": "token ids, whole numbers from 0, each with a number from -100 (never drawn) "
    "to 100",
    "seed": "a whole number of 64 bits, from -2^63 to 2^63 - 1",
    "max_tokens": f"a whole number from 1 to 2^31 - 1. Without it, it is {MAX_TOKENS}",
    "stop": "texts of at least one character (stop_seqs of Inspect). Leave it out for none",
    "top_logprobs": f"a whole number from 0 to {MOST_LOGPROBS}",
    "num_choices": "a whole number from 1 to 4096. For more answers use epochs",
}


def _greedy_or_above(value: float) -> float:
    # vLLM raises lower ones to 0.01; the logits of float32 overflow far below.
    if 0 < value < 0.01:
        raise ValueError("too close to 0")
    return value


def _writable(value: str) -> str:
    value.encode()  # a ValueError for half of a surrogate pair
    return value


Penalty = Annotated[float, Field(ge=-2, le=2)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_writable)]


class _Settings(BaseModel):
    """Settings that can't be impossible: a wrong value is a `SteeringError` in one line."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_line(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(values)
        except ValidationError as error:
            problem = error.errors()[0]
            name, *inside = (part for part in problem["loc"] if part != "[key]")
            if name not in _ALLOWED:
                raise
            is_key = "[key]" in problem["loc"]
            place = "" if is_key else "".join(f"[{part}]" for part in inside)
            value = repr(problem["input"])[:_LONGEST]
            raise SteeringError(
                f"{name}{place}={value} is not allowed: give {_ALLOWED[str(name)]}"
            ) from None


class Sampling(_Settings):
    """How the tokens of one answer are drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: Draw from the most likely tokens that together reach this probability.
        top_k: Draw from this many most likely tokens; 0 is all, and so is -1, which vLLM says.
        frequency_penalty: Subtracted from a token's logit for each time it was generated.
        presence_penalty: Subtracted once from the logit of a token that was generated.
        logit_bias: Added to the logits of these token ids.
        seed: Seed of the answer's own random numbers.

    Raises:
        SteeringError: A value is out of range.
    """

    temperature: Annotated[float, Field(ge=0, le=100), AfterValidator(_greedy_or_above)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: Mapping[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] = (
        Field(default_factory=dict)
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0

    @field_validator("top_k", mode="before")
    @classmethod
    def _all_tokens(cls, value: Any) -> Any:
        return 0 if value == -1 else value


class AnswerLimits(_Settings):
    """Where an answer ends, and what is reported of its tokens: the fields of `Request`."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] = MAX_TOKENS
    stop: tuple[Text, ...] = ()
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None


class AnswerSettings(Sampling, AnswerLimits):
    """All settings of a request for answers.

    Attributes:
        num_choices: Number of answers.
    """

    num_choices: Annotated[int, Field(ge=1, le=4096)] = 1

    def sampling(self, seed: int) -> Sampling:
        """How one of the answers is drawn."""
        values = {name: getattr(self, name) for name in Sampling.model_fields}
        return Sampling(**values | {"seed": seed})

    def check_vocabulary(self, size: int, model: str) -> None:
        """Refuse the id of a token that the model does not have.

        Args:
            size: Number of token ids of the model.
            model: Its name, for the error.

        Raises:
            SteeringError: It names the id and the range.
        """
        token = max(self.logit_bias, default=0)
        if token >= size:
            raise SteeringError(
                f"logit_bias={{{token}: {self.logit_bias[token]}}} is not allowed: {model} has "
                f"{size} token ids (0-{size - 1}). Give one of them, or leave it out"
            )
