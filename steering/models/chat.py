"""How a model is spoken to: the one way in which any condition or training renders a prompt.

A template that has no place for a system message gets it folded into the first question; a model
that thinks is kept from it unless it is asked to.
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
"""For base models: messages with a blank line behind each, an answer with the end token."""
# Of transformers' own extension of Jinja, which marks answers in training.
_MARKS = re.compile(r"{%-?\s*(end)?generation\s*-?%}")

# What models open and close a thought with.
_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
# Harmony, the format of GPT-OSS: each turn has channels, and the last of an answer is `final`.
_CHANNEL = "<|channel|>"
_FINAL = "<|channel|>final<|message|>"
_ANALYSIS = "<|channel|>analysis<|message|>"
_TURN = "<|start|>assistant"
_TURN_ENDS = re.compile(r"<\|(?:end|start|return|channel)\|>")


def read_template(path: str) -> str:
    """The chat template of a file.

    Raises:
        ModelError: It can't be read, or is no Jinja.
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
            f"chat_template={path} is no Jinja template (line {error.lineno}: {error.message})"
        ) from None
    return text


def use_template(tokenizer: "PreTrainedTokenizerBase", template: str) -> None:
    """Make a tokenizer render by another template.

    The plain one begins with the start token where the tokenizer itself puts one before a text.
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
        thinking: Let a thinking model think.
        answered: Whether the last message is the assistant's, rendered as a finished turn.

    Raises:
        ModelError: The tokenizer has no chat template, its template refuses the messages, or the
            model can't think.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template. Of a chat model, "
            "give one as -M chat_template=file.jinja; of a base model, use -M "
            "use_chat_template=false"
        )
    text = _with_system(tokenizer, messages, thinking, answered)
    if answered:
        return text
    silent = text if not thinking else _with_system(tokenizer, messages, False, False)
    silent += _end_of_thought(tokenizer, silent)
    if thinking and silent == text:
        raise ModelError(
            f"thinking=true has no effect on {tokenizer.name_or_path}: its chat template knows no "
            "thinking. Leave it out"
        )
    return text if thinking else silent


def _with_system(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Turn], thinking: bool, answered: bool
) -> str:
    """Rendered; where the template refuses or drops a system message, it opens the question."""
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
    """The messages with the system's text at the head of the first question, if there is one.

    So do the templates of families without a system role that take one all the same (Gemma 3).
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
    """What keeps a model from thinking whose template alone does not."""
    for opened, closed in _THOUGHTS:
        if prompt.rstrip().endswith(opened):
            return "\n" * (1 + prompt.endswith(opened)) + f"{closed}\n\n"
    if prompt.endswith(_TURN) and _CHANNEL in str(tokenizer.chat_template):
        return _FINAL
    return ""


def split_thought(text: str, prompt: str = "") -> tuple[str, str] | None:
    """What a model thought, and what it said; None when it did not think.

    A thought that is never closed leaves nothing said.

    Args:
        text: What the model wrote.
        prompt: The rendered prompt; some templates open the thought at its end.
    """
    body = text.lstrip()
    if prompt.endswith(_TURN) and body.startswith(_CHANNEL):
        thought, closed, said = body.partition(_FINAL)
        thought = _TURN_ENDS.split(thought.removeprefix(_ANALYSIS))[0]
        return thought.strip(), _TURN_ENDS.split(said)[0].strip() if closed else ""
    for opener, closer in _THOUGHTS:
        opened = prompt.rstrip().endswith(opener)
        if body.startswith(opener):
            opened, body = True, body.removeprefix(opener)
        if opened or closer in body:
            thought, closed, said = body.partition(closer)
            return thought.strip(), said.strip() if closed else ""
    return None


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of rendered text. The template has put the special tokens in, so none is added."""
    return tokenizer.encode(text, add_special_tokens=False)


def answer_end_token(tokenizer: "PreTrainedTokenizerBase", end_tokens: Sequence[int]) -> int:
    """The one of the model's end tokens that its chat template puts behind an answer."""
    answer = "An answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    tail = render_chat(tokenizer, turns, answered=True).rpartition(answer)[2]
    return next((token for token in encode(tokenizer, tail) if token in end_tokens), end_tokens[0])
