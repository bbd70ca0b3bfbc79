"""JSON and YAML of others, parsed within the bounds of `limits.py`.

Texts with half of a character (a lone surrogate) are refused too, since no log can store them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from steering.errors import SteeringError
from steering.foreign.limits import LIMITS, NUMBER_LENGTH, ReadingLimits, size_text
from steering.foreign.reading import reason_of

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# The parser in C is twenty times as fast; every wheel of PyYAML has it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBERS = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")}
# The key that takes in the keys of another table.
_MERGE = "<<"
_NUMBER = re.compile(r"[-+]?[0-9.][-+0-9_.:xoa-fA-F]*")


def parse_json(text: str, where: object, kind: str, repeated: Counter[str] | None = None) -> Any:
    """The value of a JSON document.

    Args:
        text: The document.
        where: What it is, for errors.
        kind: One of `LIMITS`, whose bounds on size, depth and number of values hold.
        repeated: Counts the keys that stand in an object again; the last value of each is read.

    Raises:
        SteeringError: It is not JSON, too large or too deep, has a number of more than
            `NUMBER_LENGTH` digits, or a text with half of a character.
    """
    limits = LIMITS[kind]
    _check_size(text, where, limits)
    _check_json_count(text, where, limits)
    return _json_value(text, where, limits, repeated)


def json_lines(
    text: str, where: object, kind: str, repeated: Counter[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Where each line of JSON Lines is, and its value; empty lines are left out.

    Lines end at a line feed alone: JSON allows the other ends of a line within a text. For the
    arguments see `parse_json`.

    Raises:
        SteeringError: As of `parse_json`, of the document or of a line.
    """
    limits = LIMITS[kind]
    _check_size(text, where, limits)
    _check_json_count(text, where, limits)
    start = number = 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        number += 1
        if line := text[start:end].strip():
            place = f"{where}, line {number}"
            yield place, _json_value(line, place, limits, repeated)
        start = end + 1


def parse_yaml(text: str, where: object, kind: str) -> Any:
    """The value of a YAML document: texts, numbers, dates, lists and tables.

    An alias counts as what it stands for, so that a small file can't mean an enormous value.

    Raises:
        SteeringError: It is not YAML, too large or too deep, contains itself, has a key twice in
            one table, or has a number of more than `NUMBER_LENGTH` digits or a text with half of a
            character.
    """
    limits = LIMITS[kind]
    _check_size(text, where, limits)
    if _SURROGATE.search(text):
        raise _half_of_a_character(where)
    try:
        _check_events(text, where, limits)
        value = yaml.load(text, Loader=_LOADER)
    except SteeringError:
        raise
    # Besides errors of its own it passes on those of int(), datetime() and its tables.
    except Exception as error:
        if _ESCAPED_SURROGATE.search(text) and "Unicode" in str(error):
            raise _half_of_a_character(where) from None
        raise SteeringError(f"{where} is not YAML ({_yaml_reason(error)})") from None
    _check_values(value, where, limits)
    return value


def _json_value(
    text: str, where: object, limits: ReadingLimits, repeated: Counter[str] | None
) -> Any:
    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if repeated is not None and len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated.update({key: count - 1 for key, count in counts.items() if count > 1})
        return values

    hook = None if repeated is None else table
    try:
        value = json.loads(text, parse_int=_whole_number, object_pairs_hook=hook)
    except json.JSONDecodeError as error:
        place = f"{where}, line {error.lineno}" if error.lineno > 1 else where
        raise SteeringError(f"{place} is not JSON ({error.msg}, column {error.colno})") from None
    except ValueError as error:
        raise SteeringError(f"{where} is not JSON ({reason_of(error)})") from None
    except RecursionError:
        raise _too_deep(where, limits) from None
    if text.count("[") + text.count("{") > limits.depth or _ESCAPED_SURROGATE.search(text):
        _check_values(value, where, limits)
    return value


def _whole_number(digits: str) -> int:
    if len(digits) > NUMBER_LENGTH:
        raise ValueError(f"a number of {len(digits)} digits; at most {NUMBER_LENGTH} are read")
    return int(digits)


def _check_values(value: Any, where: object, limits: ReadingLimits) -> None:
    """Refuse nesting that is too deep, and half characters. Not recursive."""
    level, depth = [value], 0
    while level:
        for item in level:
            if isinstance(item, str) and not item.isascii() and _SURROGATE.search(item):
                raise _half_of_a_character(where)
        containers = [item for item in level if isinstance(item, dict | list | tuple | set)]
        if containers and depth == limits.depth:
            raise _too_deep(where, limits)
        keys = [key for item in containers for key in item]
        level = keys + [
            part for item in containers if isinstance(item, dict) for part in item.values()
        ]
        depth += 1


@dataclass
class _Node:
    """A YAML node that is open: its anchor, and what is below it so far.

    `keys` are those of a table, and `num_closed` counts its keys and values, which alternate.
    """

    anchor: str | None = None
    keys: set[str] | None = None
    values: int = 0
    characters: int = 0
    levels: int = 0
    num_closed: int = 0


def _check_events(text: str, where: object, limits: ReadingLimits) -> None:
    """Refuse a YAML document by its events, before any value is made."""
    anchors: dict[str, tuple[int, int, int]] = {}
    nodes = [_Node()]

    def close(anchor: str | None, values: int, characters: int, levels: int) -> None:
        if anchor is not None:
            anchors[anchor] = values, characters, levels
        node = nodes[-1]
        node.num_closed += 1
        node.values += values
        node.characters += characters
        node.levels = max(node.levels, levels)
        _check_count(node.values, where, limits)
        if node.characters > limits.unpacked:
            raise SteeringError(
                f"{where} means more than {size_text(limits.unpacked)} of text once its aliases "
                "are written out: write fewer aliases"
            )
        if len(nodes) - 1 + levels > limits.depth:
            raise _too_deep(where, limits)

    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.ScalarEvent):
            if len(event.value) > NUMBER_LENGTH and _may_be_a_number(event):
                raise SteeringError(
                    f"{where}, line {_line_of(event)} has a number of "
                    f"{len(event.value)} digits; at most {NUMBER_LENGTH} are read"
                )
            _check_key(nodes[-1], event, where)
            close(event.anchor, 1, len(event.value), 0)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise SteeringError(
                    f"{where}, line {_line_of(event)} has the alias *{event.anchor}, "
                    "which names nothing above it or contains itself"
                )
            close(None, *anchors[event.anchor])
        elif isinstance(event, yaml.CollectionStartEvent):
            keys = set[str]() if isinstance(event, yaml.MappingStartEvent) else None
            nodes.append(_Node(event.anchor, keys, values=1))
            if len(nodes) - 1 > limits.depth:
                raise _too_deep(where, limits)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = nodes.pop()
            close(node.anchor, node.values, node.characters, node.levels + 1)


def _check_key(node: _Node, event: yaml.ScalarEvent, where: object) -> None:
    """Refuse a key that its table has already: YAML allows none, and PyYAML reads the last."""
    if node.keys is None or node.num_closed % 2 or event.value == _MERGE:
        return
    if event.value in node.keys:
        raise SteeringError(
            f"{where}, line {_line_of(event)} has the key {event.value!r} again in one table: "
            "leave one out"
        )
    node.keys.add(event.value)


def _may_be_a_number(event: yaml.ScalarEvent) -> bool:
    if event.tag is not None:
        return event.tag in _NUMBERS
    return not event.style and _NUMBER.fullmatch(event.value) is not None


def _line_of(event: Any) -> int:
    return event.start_mark.line + 1


def _yaml_reason(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or reason_of(error)
    return f"{problem}, line {mark.line + 1}" if mark else problem


def _check_size(text: str, where: object, limits: ReadingLimits) -> None:
    if len(text) > limits.bytes:
        raise SteeringError(
            f"{where} has {len(text)} characters, and at most {limits.bytes} are read: give a "
            "smaller one"
        )


def _check_json_count(text: str, where: object, limits: ReadingLimits) -> None:
    """Refuse JSON with too many values, each of which follows one of three characters."""
    if sum(map(text.count, "[{,")) >= limits.items:
        # The characters stand within texts too.
        bare = _JSON_STRING.sub("", text)
        _check_count(sum(map(bare.count, "[{,")) + 1, where, limits)


def _check_count(count: int, where: object, limits: ReadingLimits) -> None:
    if count > limits.items:
        raise SteeringError(
            f"{where} has more than {limits.items} values, which is the most that is read: give a "
            "smaller one"
        )


def _too_deep(where: object, limits: ReadingLimits) -> SteeringError:
    return SteeringError(
        f"{where} is nested more than {limits.depth} levels deep, which is the most that is read"
    )


def _half_of_a_character(where: object) -> SteeringError:
    return SteeringError(
        f"{where} contains half of a character (a lone surrogate): remove it, or write the whole "
        "character"
    )
