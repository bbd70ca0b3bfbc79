"""Conversations of others: lists of messages with role and content, as OpenAI's files have them."""

from collections import Counter
from typing import Any, NamedTuple

from steering.errors import SteeringError
from steering.foreign.columns import WEIGHT
from steering.foreign.documents import parse_json
from steering.foreign.tables import is_empty

ROLES = ("system", "user", "assistant")
SHAREGPT = "conversations"
SHAREGPT_REMEDY = (
    'conversations of ShareGPT: write each as messages, [{"role": "user", "content": ...}, '
    '{"role": "assistant", "content": ...}]'
)
# What Inspect writes beside role and content, and what no model is shown.
_UNSEEN = {"role", "content", WEIGHT, "id", "source", "model"}


class Turn(NamedTuple):
    """A message; what can't be read as one text is in `text` as it is."""

    role: str
    text: Any
    weight: Any = None


def read_turns(messages: object, place: str, kind: str, unread: Counter[str]) -> list[Turn]:
    """The turns of a conversation.

    Args:
        messages: A list of objects with role and content, or a text of JSON that says it.
        place: Where it stands, for errors.
        kind: One of `LIMITS`, for JSON in a cell.
        unread: Counts the other keys that messages have.

    Raises:
        SteeringError: It is anything else, has a role other than `ROLES`, or calls of tools.
    """
    if isinstance(messages, str):
        messages = parse_json(messages, f"{place}, messages", kind)
    if not isinstance(messages, list) or not messages:
        raise SteeringError(f"{place}: messages must be a list of at least one message.")
    return [
        _turn(message, f"{place}, message {number}", unread)
        for number, message in enumerate(messages, start=1)
    ]


def unread_notes(unread: Counter[str]) -> list[str]:
    """What to tell of keys that `read_turns` has counted; nothing without any."""
    keys = ", ".join(f"{key} ({count} times)" for key, count in unread.items())
    return [f"keys of messages that are not read: {keys}"] if keys else []


def _turn(message: object, place: str, unread: Counter[str]) -> Turn:
    if isinstance(message, dict) and {"from", "value"} <= message.keys():
        raise SteeringError(f"{place} is a turn of {SHAREGPT_REMEDY}")
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise SteeringError(f"{place} must be an object with role and content.")
    role = message["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise SteeringError(f"{place} has the role {role!r}; use {', '.join(ROLES)}.")
    keys = [key for key, value in message.items() if key not in _UNSEEN and not is_empty(value)]
    if "tool_calls" in keys:
        raise SteeringError(f"{place} calls tools, which are not offered here: leave it out.")
    unread.update(keys)
    return Turn(role, text_of(message["content"]), message.get(WEIGHT))


def text_of(content: Any) -> Any:
    """The text of a message whose content is in parts, as OpenAI's files have it.

    Content of any other kind is returned as it is.
    """
    parts = content
    if isinstance(content, dict) and content.get("content_type") == "text":
        parts = content.get("parts")
    if isinstance(parts, list) and len(parts) == 1:
        [part] = parts
        if isinstance(part, dict) and part.get("type") == "text":
            part = part.get("text")
        return part if isinstance(part, str) else content
    return content
