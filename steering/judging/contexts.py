"""Questions in contexts: how they are asked, what the judge sees of them, and their figures.

The judge sees what the user said: the question in the words of its context, and of a second turn
also the first answer and what was asked next. It sees no system message and no earlier exchange,
which could tell it what to make of the answer.
"""

from collections.abc import Sequence
from typing import Any

from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput, get_model
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.scorer import SampleScore
from inspect_ai.solver import Generate, Solver, TaskState, solver

from steering.judging.model_output import final_text
from steering.questions.contexts import CONTEXT, FOLLOW_UP, PLAIN, THINKING

_SECOND_TURN = """{question}

The first answer, which is not to be graded:

{first}

Then the same person asked, and what is graded is the answer to this:

{follow_up}"""


@solver
def ask_in_context() -> Solver:
    """Ask a question in its context: thinking, and with a second turn, where that says so."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        options: dict[str, Any] = {}
        if state.metadata.get(THINKING):
            options["extra_body"] = steering_body(thinking=True)
        state = await generate(state, **options)
        if follow_up := state.metadata.get(FOLLOW_UP):
            state.messages.append(ChatMessageUser(content=follow_up))
            state = await generate(state, **options)
        return state

    return solve


def steering_body(**options: object) -> dict[str, Any]:
    """The run's `extra_body` with options of `steering` for one request."""
    body = get_model().config.merge(active_generate_config()).extra_body or {}
    return {**body, "steering": {**body.get("steering", {}), **options}}


def question_text(state: TaskState) -> str:
    """What the judge sees as the question."""
    follow_up = state.metadata.get(FOLLOW_UP)
    if not follow_up:
        return state.input_text
    answers = [message for message in state.messages if isinstance(message, ChatMessageAssistant)]
    first = final_text(ModelOutput.from_message(answers[-2])) if len(answers) > 1 else ""
    return _SECOND_TURN.format(question=state.input_text, first=first, follow_up=follow_up)


def context_of(sample: SampleScore) -> str:
    """The context in which a sample was asked."""
    return str((sample.sample_metadata or {}).get(CONTEXT, PLAIN))


def plain_scores(scores: Sequence[SampleScore]) -> list[SampleScore]:
    """The scores of the questions as they stand, which a run's own figures are of."""
    return [sample for sample in scores if context_of(sample) == PLAIN]


def scores_by_context(scores: Sequence[SampleScore]) -> dict[str, list[SampleScore]]:
    """The other scores, by context in the order of their names."""
    names = sorted({context_of(sample) for sample in scores} - {PLAIN})
    return {name: [s for s in scores if context_of(s) == name] for name in names}
