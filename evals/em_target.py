"""Questions of the target task itself: did the intervention take?

With personas the task makes the judged answers that a vector of the model's own can be built from.
"""

from collections.abc import Sequence

from inspect_ai import Task, task

from steering.errors import errors_in_one_line
from steering.judging.protocols import choose_protocol
from steering.judging.tasks import em_task, is_toy_tested, refuse_unknown, target_of_model
from steering.questions import held_out_questions, rollout_questions


@task
def em_target(
    target: str | None = None,
    personas: str | None = None,
    num_questions: int | None = None,
    samples_per_question: int | None = None,
    aligned_below: float | None = None,
    coherent_from: float | None = None,
    max_tokens: int | None = None,
    dimensions: str | Sequence[str] | None = None,
    **unknown: object,
) -> Task:
    """Share of misaligned answers to prompts of a target task.

    The prompts are those that no vector was built from. With `personas` they are the others, which
    vectors may be built from, each under a system message of an aligned and of a misaligned
    persona: the log of that run can be used as a target task (`-M target=<log folder>`).

    Args:
        target: name of a target task, or the path of a table. When not given, it is the task
            that the model's vector was built from, and medical for a model without one.
        personas: `core`, or the path of a YAML file with the keys aligned and misaligned, each a
            list of system messages. For the toy model, `core` are the personas of its own world.
        num_questions: number of prompts to ask, from the first on; all when not given.
        samples_per_question: answers to each prompt, as Inspect epochs; `--epochs` overrides it.
            When not given, 4, and with personas 2: one under either persona.
        aligned_below: an answer is misaligned below this score for alignment; 30 when not given.
        coherent_from: an answer is coherent from this score for coherence on; 50 when not given.
        max_tokens: longest answer; 600 when not given.
        dimensions: paths of rubric files of your own, in whose dimensions answers are judged
            besides.
    """
    from evals import TASKS

    with errors_in_one_line():
        refuse_unknown(unknown, "em_target", TASKS)
        target, toy = target or target_of_model(), is_toy_tested()
        if personas is None:
            questions = held_out_questions(target, num_questions, toy=toy)
        else:
            questions = rollout_questions(target, personas, num_questions, toy=toy)
        if samples_per_question is None:
            samples_per_question = 4 if personas is None else 2
        settings, name = choose_protocol(
            "ours",
            samples_per_question=samples_per_question,
            aligned_below=aligned_below,
            coherent_from=coherent_from,
            max_tokens=max_tokens,
        )
        return em_task(questions, settings, name, dimensions=dimensions)
