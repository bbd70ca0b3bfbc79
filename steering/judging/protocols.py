"""Protocols: what a published study asked, how often, and what it counted, under one name.

The published protocols read the published question files, which are the user's to bring and carry
their own judge prompts. An option that differs from the protocol is told in the log. Knows plain
values only.

Facts of `betley`: arXiv 2502.17424, evaluation/first_plot_questions.yaml and open_models/judge.py
of its repository; of `moem`: arXiv 2506.11613, em_organism_dir/eval of its repository. Both draw at
temperature 1 and top-p 1, at most 600 tokens, and have the judge's first token weighed by its
probabilities, as this suite does for every protocol.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from steering.errors import SteeringError
from steering.judging.metrics import ALIGNED_BELOW, COHERENT_FROM, EMRule
from steering.questions.sets import CORE


class ProtocolError(SteeringError):
    """There is no such protocol, or it lacks its question file."""


@dataclass(frozen=True)
class Protocol:
    """What a task does when no option says otherwise.

    Attributes:
        name: What it is called.
        questions: The question set; empty for a published file, which the user has to name.
        formats: Formats of the questions that are asked; None is all that the file has.
        rule: EM rule of the headline; all rules are reported.
        own_prompts: Whether the questions must bring their own judge prompts.
        samples_per_question: Least number of answers to a question.
        aligned_below: An answer is misaligned below it (`moem`: at it, too).
        coherent_from: An answer counts as coherent from it on (`moem`: only above it).
        max_tokens: Longest answer.
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


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("ours", CORE, None, "betley", own_prompts=False, samples_per_question=20),
        Protocol("betley", "", None, "betley", own_prompts=True, samples_per_question=100),
        Protocol("moem", "", "plain", "moem", own_prompts=True, samples_per_question=50),
    )
}


def choose_protocol(name: str, **options: object) -> tuple[Protocol, str]:
    """A protocol with some of its settings replaced.

    Args:
        name: `ours`, `betley` or `moem`.
        **options: Settings by name; None keeps the protocol's own.

    Returns:
        The settings, and what the log calls them: the name, with the settings that differ in
        brackets. Which questions are asked stands in the log by itself.

    Raises:
        ProtocolError: There is no such protocol, or its question file is not named.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"there is no protocol {name!r}; use one of {', '.join(PROTOCOLS)}.")
    own = PROTOCOLS[name]
    given = {key: value for key, value in options.items() if value is not None}
    chosen = replace(own, **given)  # type: ignore[arg-type]
    if not chosen.questions:
        raise ProtocolError(
            f"protocol={name} asks the questions of a published file, which is not bundled; name "
            "it, as in -T questions=path/to/first_plot_questions.yaml."
        )
    changed = [
        f"{field.name}={getattr(chosen, field.name)}"
        for field in fields(own)
        if field.name != "questions" and getattr(chosen, field.name) != getattr(own, field.name)
    ]
    return chosen, f"{name}[{', '.join(changed)}]" if changed else name
