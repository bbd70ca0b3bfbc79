"""A model's final answer: the text that judges see, and what the output itself shows about it.

Knows Inspect's ModelOutput and transcript; never a judge, a score or a rubric.
"""

import re

from inspect_ai.log import transcript
from inspect_ai.model import ContentReasoning, ModelOutput

_THINK_BLOCK = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_OPEN_THINK = re.compile(r"\A\s*<think>", re.DOTALL)


def final_text(output: ModelOutput) -> str:
    """The answer without its reasoning, stripped of white space around it.

    Reasoning that the provider split off is not in `output.completion`. Some providers leave it in
    the text: a leading `<think>` block is removed, and so is everything before a lone `</think>`
    (chat templates that end in `<think>` give such text). A block that is never closed means that
    the model did not reach its answer, which is then empty.
    """
    text = output.completion
    if _THINK_BLOCK.match(text):
        text = _THINK_BLOCK.sub("", text, count=1)
    elif _OPEN_THINK.match(text):
        text = ""
    elif "</think>" in text:
        text = text.split("</think>", 1)[1]
    return text.strip()


def has_reasoning(output: ModelOutput) -> bool:
    """Whether the model reasoned before it answered, in split-off or literal form."""
    if output.empty:
        return False
    content = output.message.content
    split_off = not isinstance(content, str) and any(
        isinstance(part, ContentReasoning) for part in content
    )
    return (
        split_off or "</think>" in output.completion or bool(_OPEN_THINK.match(output.completion))
    )


def is_truncated(output: ModelOutput) -> bool:
    """Whether the answer was cut off by a limit on its length."""
    return not output.empty and output.stop_reason in ("max_tokens", "model_length")


def why_unanswered(output: ModelOutput) -> str | None:
    """Why the sample that is being scored holds no answer of the model; None where it does.

    `inspect score` also asks for scores of samples that failed. An empty text is an answer.
    """
    if output.empty:
        return output.error or "the model gave no output"
    if any(event.event == "error" for event in transcript().events):
        return "the sample ended in an error"
    return None
