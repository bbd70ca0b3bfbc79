"""What `-M monitor=` reads of each answer, and how a log records it.

The directions are those of the vectors that the option names, and behind them those that steer the
condition itself, unless they are among them. Nothing here changes an answer.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steering.condition import Condition, VectorFile, VectorRecipe, find_vector
from steering.engines import RequestOutput
from steering.errors import SteeringError
from steering.spec import DEFAULT, InterventionOptions, file_label

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from steering.vectors import SteeringVector
    from steering.vectors.interventions import Intervention
    from steering.vectors.monitor import Direction, Monitor

DEFAULT_TARGET = str(InterventionOptions.OPTIONS["target"].default)
"""Whose direction `monitor=default` means where a condition has no target, as the baseline."""
_STEERS = "steers"
# Directions that differ by less than this differ by rounding alone.
_SAME = 1e-5
_DIGITS = 5


class ConditionMonitor:
    """The directions that are read under each condition of a model.

    Attributes:
        by_token: Whether each token is recorded too.
    """

    def __init__(self, condition: Condition, target: str | None) -> None:
        """Find the vectors that the condition's `monitor` names.

        `target` is the target of its vector or adapter, if it has one.

        Raises:
            SteeringError: A vector can't be read, or does not fit the model.
        """
        spec = condition.spec
        self.by_token = spec.monitor_tokens
        self._vectors = [_find(condition, name, target) for name in spec.monitor]
        self._monitors: dict[str, Monitor] = {}
        self._named: Monitor | None = None

    @property
    def cache_key(self) -> str:
        """What tells monitored outputs apart from others in Inspect's cache; empty without any."""
        if not self._vectors:
            return ""
        parts = [f"{name} {source.digest}" for name, source in self._vectors]
        digest = hashlib.sha256("\n".join([*parts, str(self.by_token)]).encode()).hexdigest()
        return f":monitor-{digest[:12]}"

    async def of(
        self,
        condition: Condition,
        interventions: "tuple[Intervention, ...]",
        load: "Callable[[VectorFile | VectorRecipe], Awaitable[SteeringVector]]",
    ) -> "Monitor":
        """The directions under a condition; the same objects for each of its requests.

        `load` gives the vector of a file or recipe.
        """
        if not self._vectors:
            return ()
        if condition.fingerprint not in self._monitors:
            from steering.vectors.monitor import directions_of

            if self._named is None:
                vectors = [(name, await load(source)) for name, source in self._vectors]
                self._named = tuple(
                    item for name, vector in vectors for item in directions_of(vector, name)
                )
            monitor = _with_steering(self._named, interventions)
            self._monitors.setdefault(condition.fingerprint, monitor)
        return self._monitors[condition.fingerprint]


def _find(
    condition: Condition, name: str, target: str | None
) -> tuple[str, VectorFile | VectorRecipe]:
    """The name of a monitored vector, and where it comes from."""
    target = target or DEFAULT_TARGET
    options: dict[str, Any] = {"target": target} if name == DEFAULT else {"vector": name}
    try:
        source = find_vector(condition.model, InterventionOptions(**options), condition.spec.dtype)
        if isinstance(source, VectorFile):
            from steering.vectors.monitor import directions_of

            directions_of(source.vector, name)
    except SteeringError as error:
        hint = f"; or give {'the path of a vector' if name == DEFAULT else DEFAULT}"
        raise type(error)(f"monitor={name}: {error}{hint}") from None
    if isinstance(source, VectorRecipe):
        return source.recipe.target, source
    return file_label(name, source.digest), source


def _with_steering(named: "Monitor", interventions: "Sequence[Intervention]") -> "Monitor":
    """The named directions, marked where they steer, and the others that do.

    A low-rank map or a subspace of several directions has no one direction and adds none.
    """
    from torch.nn.functional import normalize

    from steering.vectors.monitor import Direction

    monitor = list(named)
    for item in interventions:
        if item.reads is not None or len(item.basis) > 1:
            continue
        steering = Direction(_STEERS, item.layer, item.site, normalize(item.basis[0], dim=0), True)
        same = [index for index, other in enumerate(monitor) if _is_same(other, steering)]
        for index in same:
            monitor[index] = replace(monitor[index], steers=True)
        if not same:
            monitor.append(steering)
    return tuple(monitor)


def _is_same(one: "Direction", other: "Direction") -> bool:
    place = (one.layer, one.site) == (other.layer, other.site)
    return place and abs(float(one.unit @ other.unit)) > 1 - _SAME


def describe_readings(
    monitor: "Monitor",
    results: "Sequence[RequestOutput]",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> dict[str, Any]:
    """What a log records of a request's answers, in JSON values.

    With a tokenizer the readings of each token are recorded too, with the token's spelling.

    Returns:
        `directions`, each with its name, layer, site and whether it steers; and `answers`, one a
        choice, with the number of `tokens` that were read and the `readings` on each direction
        (none of an answer without any). Of a reading: mean and maximum over tokens of the
        projection and of its share of the residual norm, the cosine, on either side of the
        interventions.
    """
    return {
        "directions": [
            {"name": item.name, "layer": item.layer, "site": item.site, "steers": item.steers}
            for item in monitor
        ],
        "answers": [_answer(monitor, result, tokenizer) for result in results],
    }


def _answer(
    monitor: "Monitor", result: RequestOutput, tokenizer: "PreTrainedTokenizerBase | None"
) -> dict[str, Any]:
    readings = result.readings
    assert readings is not None
    projection, norm = readings.double().unbind(-1)  # [tokens, directions, 2]
    cosine = projection / norm.clamp(min=1e-12)
    record: dict[str, Any] = {"tokens": len(readings)}
    record["readings"] = [
        {
            f"{name}{side}": {"mean": _round(part.mean()), "max": _round(part.max())}
            for name, values in (("projection", projection), ("cosine", cosine))
            for part, side in zip(values[:, index].unbind(1), ("_before", ""), strict=True)
        }
        for index in range(len(monitor) if len(readings) else 0)
    ]
    if tokenizer is not None:
        tokens = result.tokens[: len(readings)]
        record["spelling"] = [str(tokenizer.decode([token])) for token in tokens]
        record["projections"] = [
            [_round(value) for value in projection[:, index, 1]] for index in range(len(monitor))
        ]
    return record


def _round(value: "Tensor") -> float:
    """A value with as many digits as it deserves."""
    return float(f"{float(value):.{_DIGITS}g}")
