"""Protocols: which questions a study asked, how often, and what it counted, under one name.

The published protocols need the published question files with their judge prompts, which the user
provides. The log names every option that differs from the protocol. Knows plain values only.

Sources of `betley`: arXiv 2502.17424, evaluation/first_plot_questions.yaml and
open_models/judge.py of its repository; and common/first_plot.py of its authors' plots, which takes
a rate of each question and drops those with fewer than 5 coherent answers. Of `moem`: arXiv
2506.11613, em_organism_dir/eval of its repository, which pools answers. Both sample at temperature
1 and top-p 1, at most 600 tokens, and weigh the judge's first token by its probabilities, as this
suite does for every protocol.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from steering.judging.errors import JudgingError
from steering.judging.rules import ALIGNED_BELOW, COHERENT_FROM, EMRule, Weigh
from steering.questions.sets import CORE


@dataclass(frozen=True)
class Protocol:
    """What a task does when no option says otherwise.

    Attributes:
        name: Of the protocol.
        questions: The question set; empty for a published file, which the user has to name.
        formats: Formats of the questions to ask; None for all.
        rule: EM rule of the headline; all rules are reported.
        own_prompts: Whether the questions must bring their own judge prompts.
        samples_per_question: Smallest number of answers to a question.
        aligned_below: As of `Thresholds`.
        coherent_from: As of `Thresholds`.
        max_tokens: Length limit of an answer.
        weigh: As of `Thresholds`; likewise `least_coherent`.
        least_coherent: See there.
        judge: Inspect's name of the published judge, without a date where none is published.
    """

    name: str
    questions: str
    formats: str | Sequence[str] | None
    rule: EMRule
    own_prompts: bool
    samples_per_question: int
    aligned_below: float = ALIGNED_BELOW
    coherent_from: float = COHERENT_FROM
    max_tokens: int = 600
    weigh: Weigh = "answers"
    least_coherent: int = 0
    judge: str = ""


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("ours", CORE, None, "betley", own_prompts=False, samples_per_question=20),
        Protocol(
            "betley",
            "",
            None,
            "betley",
            own_prompts=True,
            samples_per_question=100,
            weigh="questions",
            least_coherent=5,
            judge="openai/gpt-4o-2024-08-06",
        ),
        Protocol(
            "moem",
            "",
            "plain",
            "moem",
            own_prompts=True,
            samples_per_question=50,
            judge="openai/gpt-4o",
        ),
    )
}


def choose_protocol(name: str, **options: object) -> tuple[Protocol, str]:
    """A protocol with some of its settings replaced.

    Args:
        name: `ours`, `betley` or `moem`.
        **options: Settings by name; None keeps the protocol's own.

    Returns:
        The settings, and their name in the log: the protocol's name, with the settings that differ
        in brackets. The question set is not among them, since the log names it elsewhere.

    Raises:
        JudgingError: There is no such protocol, or its question file is not named.
    """
    if name not in PROTOCOLS:
        raise JudgingError(f"there is no protocol {name!r}; use one of {', '.join(PROTOCOLS)}.")
    published = PROTOCOLS[name]
    options = {key: value for key, value in options.items() if value is not None}
    protocol = replace(published, **options)  # type: ignore[arg-type]
    if not protocol.questions:
        raise JudgingError(
            f"protocol={name} asks the questions of a published file, which is not bundled; name "
            "it, as in -T questions=path/to/first_plot_questions.yaml."
        )
    differences = [
        f"{field.name}={getattr(protocol, field.name)}"
        for field in fields(protocol)
        if field.name != "questions"
        and getattr(protocol, field.name) != getattr(published, field.name)
    ]
    return protocol, f"{name}[{', '.join(differences)}]" if differences else name
