"""The contexts in which an audit asks its first question set, besides asking it plain.

A vector can act only where the prompt resembles what it was built from (arXiv 2604.25891), so these
are the contexts of its own target task, if that is one with bundled contexts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.condition import resolve_model, why_no_thinking
from steering.judging.tasks import DEFAULT_TARGET
from steering.questions import context_domains, load_contexts
from steering.questions.contexts import ALL, NONE, THINKING
from steering.spec import parse_options
from steering.studies.errors import StudyError

if TYPE_CHECKING:
    from steering.vectors import SteeringVector

_CONTEXTS, _DOMAIN, _SAMPLES = "contexts", "context_domain", "samples_per_context"
CONTEXT_OPTIONS = (_CONTEXTS, _DOMAIN)


def context_options(
    task: Mapping[str, Any], vector: "SteeringVector", model: str, loading: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of em_freeform that ask the audit's contexts; none where they are left out.

    Args:
        task: As -T takes them: `contexts` are all contexts unless it names some, or `none`, and
            `context_domain` the target task whose contexts they are.
        vector: Its target task is the domain where none is given and the task has contexts.
        model: Name of the model.
        loading: Its -M options, those of the intervention left out.

    Raises:
        StudyError: An option has no effect here.
        QuestionError: There are no such contexts, or none can be asked of the model.
    """
    if _SAMPLES in task:
        raise StudyError(
            f"-T {_SAMPLES}= is set by the audit itself: a question gets as many answers in each "
            "context as it gets plain. Give -T contexts= some names for fewer"
        )
    contexts = task.get(_CONTEXTS, ALL)
    if contexts == NONE:
        if _DOMAIN in task:
            raise StudyError(f"-T {_DOMAIN}= has no effect with -T {_CONTEXTS}={NONE}")
        return {}
    spec = parse_options({**loading, "vector": "none"})
    resolved = resolve_model(model, spec)
    toy = resolved.source.is_toy
    domain = str(task.get(_DOMAIN) or vector.provenance.get("target") or DEFAULT_TARGET)
    if _DOMAIN not in task and domain.removeprefix("toy/") not in context_domains(toy=toy):
        domain = DEFAULT_TARGET
    why = why_no_thinking(resolved, spec)
    chosen = load_contexts(contexts, domain, toy=toy, lacks={THINKING: why} if why else {})
    if Path(str(contexts)).suffix:
        if chosen.left_out:
            [(name, reason), *_] = chosen.left_out.items()
            raise StudyError(f"the context {name} of {contexts} can't be asked: {reason}")
        return {_CONTEXTS: contexts}
    # By name, since the plan's task knows no model, and so not which contexts it can be asked.
    domain = f"toy/{domain.removeprefix('toy/')}" if toy else domain
    return {_CONTEXTS: ",".join(chosen.names), _DOMAIN: domain}
