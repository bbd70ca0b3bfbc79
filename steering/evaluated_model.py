"""What a local model under test promises to tasks and judges.

A leaf: judging reads these promises and the provider fulfils them, and neither imports the other.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from inspect_ai.model import ChatMessage


@runtime_checkable
class EvaluatedModel(Protocol):
    """A model provider that knows its own judge and target task.

    Providers that do not fulfil it, such as those of hosted models, get the defaults of the tasks.
    """

    @property
    def default_grader(self) -> str | None:
        """Name of the judge to use when no `grader` role is bound, if the model brings one."""

    @property
    def is_toy(self) -> bool:
        """Whether it is a model of the toy world, which has target tasks of its own."""

    @property
    def steered_by_default(self) -> bool:
        """Whether the default vector steers it because its options name none."""

    @property
    def default_target(self) -> str | None:
        """The target task of its first vector or of its adapter, if it has one."""

    @property
    def scores_answers(self) -> bool:
        """Whether it gives log probabilities of the tokens of given answers."""

    @property
    def gives_distribution(self) -> bool:
        """Whether it gives the probabilities of given replies; not where it thinks before it."""

    @property
    def why_no_thinking(self) -> str:
        """Why it can't be made to think for single answers; empty if it can."""

    def prepare(self) -> None:
        """Import what answering needs, so that no eval spends its own time on it."""

    def too_long(self, conversations: "Sequence[Sequence[ChatMessage]]") -> list[int]:
        """Positions of the conversations that leave no token of its context for an answer."""
