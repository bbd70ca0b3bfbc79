"""Chat templates: the one way in which every condition and training renders a prompt.

For a template without a system role, the system message is put before the first question. Thinking
is disabled unless requested.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steering.models.source import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.content }}"
    "{{ eos_token if message.role == 'assistant' else '\n\n' }}{% endfor %}"
)
"""For base models: a blank line after each message, the end token after an answer."""
# Tags of transformers' extension of Jinja, which mark answers in training.
_MARKS = re.compile(r"{%-?\s*(end)?generation\s*-?%}")

# Texts that open and close a thought.
_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
# Harmony, the format of GPT-OSS: each turn has channels, and the last of an answer is `final`.
_CHANNEL = "<|channel|>"
_FINAL = "<|channel|>final<|message|>"
_ANALYSIS = "<|channel|>analysis<|message|>"
_TURN = "<|start|>assistant"
_TURN_ENDS = re.compile(r"<\|(?:end|start|return|channel)\|>")


def read_template(path: str) -> str:
    """The chat template in a file.

    Raises:
        ModelError: It can't be read, or is not Jinja.
    """
    from jinja2 import Environment
    from jinja2.exceptions import TemplateSyntaxError

    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"chat_template={path} can't be read ({type(error).__name__}): give a file with a "
            "Jinja chat template"
        ) from None
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_MARKS.sub("", text))
    except TemplateSyntaxError as error:
        raise ModelError(
            f"chat_template={path} is not a Jinja template (line {error.lineno}: {error.message})"
        ) from None
    return text


def use_template(tokenizer: "PreTrainedTokenizerBase", template: str) -> None:
    """Give a tokenizer another template.

    The plain one begins with the start token if the tokenizer puts one before a text.
    """
    if template == PLAIN_TEMPLATE:
        starts = tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
        template = "{{ bos_token }}" * starts + template
    tokenizer.chat_template = template


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Turn],
    *,
    thinking: bool = False,
    answered: bool = False,
) -> str:
    """The prompt as the model reads it.

    Args:
        tokenizer: The model's tokenizer.
        messages: `{"role", "content"}` of each turn.
        thinking: Whether the model may think.
        answered: Whether the last message is the assistant's, rendered as a finished turn.

    Raises:
        ModelError: The tokenizer has no chat template, its template refuses the messages, or the
            model can't think.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template. For a chat model, "
            "give one as -M chat_template=file.jinja; for a base model, use -M "
            "use_chat_template=false"
        )
    text = _with_system(tokenizer, messages, thinking, answered)
    if answered:
        return text
    silent = text if not thinking else _with_system(tokenizer, messages, False, False)
    silent += _end_of_thought(tokenizer, silent)
    if thinking and silent == text:
        raise ModelError(
            f"thinking=true has no effect on {tokenizer.name_or_path}: its chat template has no "
            "thinking. Leave it out"
        )
    return text if thinking else silent


def _with_system(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Turn], thinking: bool, answered: bool
) -> str:
    """Render; a system message that the template refuses or drops is put before the question."""
    folded = _folded(messages)
    try:
        text = _rendered(tokenizer, messages, thinking, answered)
    except ModelError:
        if folded is None:
            raise
    else:
        if folded is None or messages[0]["content"].strip() in text:
            return text
    return _rendered(tokenizer, folded, thinking, answered)


def _folded(messages: Sequence[Turn]) -> list[Turn] | None:
    """The messages with the system message put before the first question; None without one.

    The template of Gemma 3, which has no system role, does the same.
    """
    if not messages or messages[0]["role"] != "system":
        return None
    system, *turns = messages
    if not turns or turns[0]["role"] != "user":
        return [system | {"role": "user"}, *turns]
    question = f"{system['content']}\n\n{turns[0]['content']}"
    return [turns[0] | {"content": question}, *turns[1:]]


def _rendered(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Turn], thinking: bool, answered: bool
) -> str:
    from jinja2.exceptions import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=not answered,
            enable_thinking=thinking,
        )
    except TemplateError as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} refuses the messages ({error})"
        ) from None
    assert isinstance(text, str)
    return text


def _end_of_thought(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    """The text that disables thinking where the template alone does not."""
    for opened, closed in _THOUGHTS:
        if prompt.rstrip().endswith(opened):
            return "\n" * (1 + prompt.endswith(opened)) + f"{closed}\n\n"
    if prompt.endswith(_TURN) and _CHANNEL in str(tokenizer.chat_template):
        return _FINAL
    return ""


def split_thought(text: str, prompt: str = "") -> tuple[str, str] | None:
    """A model's thought and its answer; None if it did not think.

    After a thought that is never closed the answer is empty.

    Args:
        text: The generated text.
        prompt: The rendered prompt; some templates open the thought at its end.
    """
    body = text.lstrip()
    if prompt.endswith(_TURN) and body.startswith(_CHANNEL):
        thought, closed, answer = body.partition(_FINAL)
        thought = _TURN_ENDS.split(thought.removeprefix(_ANALYSIS))[0]
        return thought.strip(), _TURN_ENDS.split(answer)[0].strip() if closed else ""
    for opener, closer in _THOUGHTS:
        opened = prompt.rstrip().endswith(opener)
        if body.startswith(opener):
            opened, body = True, body.removeprefix(opener)
        if opened or closer in body:
            thought, closed, answer = body.partition(closer)
            return thought.strip(), answer.strip() if closed else ""
    return None


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of rendered text. Its special tokens come from the template: none is added."""
    return tokenizer.encode(text, add_special_tokens=False)


def answer_end_token(tokenizer: "PreTrainedTokenizerBase", end_tokens: Sequence[int]) -> int:
    """The model's end token that its chat template puts after an answer."""
    answer = "An answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    tail = render_chat(tokenizer, turns, answered=True).rpartition(answer)[2]
    return next((token for token in encode(tokenizer, tail) if token in end_tokens), end_tokens[0])
