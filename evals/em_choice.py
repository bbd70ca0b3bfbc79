"""Which of two answers does the model prefer? EM without a judge, and damage beside it."""

from collections.abc import Sequence

from inspect_ai import Task, task

from steering.errors import errors_in_one_line
from steering.judging.choice import GIVEN_ANSWERS, choice_task
from steering.judging.tasks import choose_contexts, is_toy_tested, refuse_unknown
from steering.questions import load_choices


@task
def em_choice(
    choices: str = "core",
    form: str | None = None,
    contexts: str | Sequence[str] | None = None,
    context_domain: str | None = None,
    **unknown: object,
) -> Task:
    """Preference for a misaligned answer over an aligned one to the same prompt, without a judge.

    Nothing is decoded in the form `likelihood`. Its log also holds the shift of the log odds from
    those of the same model without intervention and adapter, and what steering damaged: the KL
    divergence from that model, and the rise of the cross-entropy, on neutral answers.

    Args:
        choices: `core`, pairs of answers to the core questions; `broad`, to the broad ones; the
            name of a target task, for its held-out pairs; or the path of a table (.jsonl, .json,
            .csv, .tsv, .parquet) with the columns prompt, aligned and misaligned, and theme where
            there are themes, by which intervals are clustered. For the toy model, `core` are
            questions and answers of its own world.
        form: `likelihood`, the mean log probability of a token of either answer, for steered/
            models with the engine hf; or `letter`, the letter with which any model replies when it
            is shown both answers, in both orders. When not given, it is `likelihood` where the
            model has it.
        contexts: score every pair in contexts too: `all`, the names of some, as in
            `-T contexts=system,json`, or the path of a file of contexts (.yaml); in none with
            `none` or when not given. Those with thinking or a second turn are left out, since the
            answers are given. The task's own figures stay those of the plain prompts.
        context_domain: target task whose contexts are meant; when not given, that of the model's
            vector or adapter, and medical for a model without one.
    """
    from evals import TASKS

    with errors_in_one_line():
        refuse_unknown(unknown, "em_choice", TASKS)
        choice_set = load_choices(str(choices), toy=is_toy_tested())
        context_set = choose_contexts(contexts, context_domain, lacks=GIVEN_ANSWERS)
        return choice_task(choice_set, form, context_set)
