"""Chat templates: the one way in which every condition and training renders a prompt.

For a template without a system role, the system message is put before the first question. Thinking
is disabled unless requested.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steering.foreign import LIMITS, reason_of
from steering.models.source import ModelError
from steering.models.templates import openings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]

# Times that a template may repeat the messages.
_MOST_COPIES = 16
# Texts that open and close a thought.
_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
# Harmony, the format of GPT-OSS: each turn has channels, and the last of an answer is `final`.
_CHANNEL = "<|channel|>"
_FINAL = "<|channel|>final<|message|>"
_ANALYSIS = "<|channel|>analysis<|message|>"
_TURN = "<|start|>assistant"
_TURN_ENDS = re.compile(r"<\|(?:end|start|return|channel)\|>")


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Turn],
    *,
    thinking: bool = False,
    answered: bool = False,
) -> str:
    """The prompt as the model reads it.

    A conversation that ends in an assistant message is continued: its last turn stays open, and the
    model writes on. The template may trim the whitespace at the end of the message.

    Args:
        tokenizer: The model's tokenizer.
        messages: `{"role", "content"}` of each turn.
        thinking: Whether the model may think.
        answered: Whether the last message is the assistant's, rendered as a finished turn.

    Raises:
        ModelError: The tokenizer has no chat template, its template refuses the messages or leaves
            out the message to be continued, or the model can't think.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template. For a chat model, "
            "give one as -M chat_template=file.jinja; for a base model, use -M "
            "use_chat_template=false"
        )
    continued = not answered and bool(messages) and messages[-1]["role"] == "assistant"
    ending = {
        "add_generation_prompt": not answered and not continued,
        "continue_final_message": continued,
    }
    text = _with_system(tokenizer, messages, enable_thinking=thinking, **ending)
    if answered or continued:
        return text
    silent = text
    if thinking:
        silent = _with_system(tokenizer, messages, enable_thinking=False, **ending)
    silent += _end_of_thought(str(tokenizer.chat_template), silent)
    if thinking and silent == text:
        raise ModelError(
            f"thinking=true has no effect on {tokenizer.name_or_path}: its chat template has no "
            "thinking. Leave it out"
        )
    return text if thinking else silent


def _with_system(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Turn], **settings: bool
) -> str:
    """Render; a system message that the template refuses or drops is put before the question."""
    folded = _folded(messages)
    try:
        text = _rendered(tokenizer, messages, settings)
    except ModelError:
        if folded is None:
            raise
    else:
        if folded is None or messages[0]["content"].strip() in text:
            return text
    return _rendered(tokenizer, folded, settings)


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
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Turn], settings: Mapping[str, Any]
) -> str:
    from jinja2.exceptions import TemplateError

    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, **settings)
    except TemplateError as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} refuses the messages "
            f"({reason_of(error)})"
        ) from None
    except Exception as error:  # of a program that is not ours
        if settings["continue_final_message"] and isinstance(error, ValueError):
            raise ModelError(
                f"the chat template of {tokenizer.name_or_path} leaves out or changes the last "
                "assistant message, so it can't be continued: end the conversation with a user "
                "message"
            ) from None
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} can't be rendered "
            f"({type(error).__name__}: {reason_of(error)}). Give another as -M "
            "chat_template=file.jinja"
        ) from None
    assert isinstance(text, str)
    longest = LIMITS["template"].unpacked
    longest += _MOST_COPIES * sum(len(message["content"]) for message in messages)
    if len(text) > longest:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} makes {len(text):,} characters of "
            f"messages from which {longest:,} may come. Give another as -M chat_template=file.jinja"
        )
    return text


def can_think(template: str) -> bool:
    """Whether a chat template lets its model think: thinking changes the prompt."""
    texts = openings(template)
    if texts is None:
        return False
    thinking, silent = texts
    return thinking != silent + _end_of_thought(template, silent)


def _end_of_thought(template: str, prompt: str) -> str:
    """The text that disables thinking where the template alone does not."""
    for opened, closed in _THOUGHTS:
        if prompt.rstrip().endswith(opened):
            return "\n" * (1 + prompt.endswith(opened)) + f"{closed}\n\n"
    if prompt.endswith(_TURN) and _CHANNEL in template:
        return _FINAL
    return ""


def split_thought(text: str, prompt: str = "", prefill: str = "") -> tuple[str, str] | None:
    """A model's thought and its answer; None if it did not think.

    After a thought that is never closed the answer is empty.

    Args:
        text: The generated text.
        prompt: The rendered prompt; some templates open the thought at its end.
        prefill: The assistant message that the text continues, which may have opened the thought.
    """
    body = text.lstrip()
    if prompt.endswith(_TURN) and body.startswith(_CHANNEL):
        thought, closed, answer = body.partition(_FINAL)
        thought = _TURN_ENDS.split(thought.removeprefix(_ANALYSIS))[0]
        return thought.strip(), _TURN_ENDS.split(answer)[0].strip() if closed else ""
    for opener, closer in _THOUGHTS:
        opened = prompt.rstrip().endswith(opener)
        opened = opened or prefill.rfind(opener) > prefill.rfind(closer)
        if body.startswith(opener):
            opened, body = True, body.removeprefix(opener)
        if opened or closer in body:
            thought, closed, answer = body.partition(closer)
            return thought.strip(), answer.strip() if closed else ""
    return None


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of rendered text. Its special tokens come from the template: none is added."""
    return tokenizer.encode(text, add_special_tokens=False)


def answer_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The first special token that the chat template puts behind an answer.

    None without a template, and where the template puts nothing or plain text only, which stop
    strings can end.
    """
    if not tokenizer.chat_template:
        return None
    answer = "An answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    try:
        _, rendered, tail = render_chat(tokenizer, turns, answered=True).rpartition(answer)
    except ModelError:  # a template for single questions
        return None
    special = tokenizer.added_tokens_decoder if rendered else {}
    # Some tokenizers have runs of spaces among them.
    ends = {token for token, added in special.items() if added.content.strip()}
    return next((token for token in encode(tokenizer, tail) if token in ends), None)


def answer_end_token(tokenizer: "PreTrainedTokenizerBase", end_tokens: Sequence[int]) -> int:
    """The token that ends an answer in training: that of the template, else the model's own."""
    end = answer_end(tokenizer)
    return end_tokens[0] if end is None else end
