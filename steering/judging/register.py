"""The register of judges: how each is asked, when it ends, which one judges where none is named.

The facts are data, in `judges.yaml`. Knows names of models and Inspect's settings; never a prompt,
a rubric or a reply.
"""

import logging
from collections.abc import Mapping
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

from inspect_ai.model import GenerateConfig, Model, get_model_info
from pydantic import AfterValidator, BaseModel, ConfigDict

from steering.foreign import parse_yaml

logger = logging.getLogger(__name__)

WARNING_DAYS = 90
"""A judge's end is told of from so many days before it."""


def _fields_of_inspect(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    if unknown := settings.keys() - GenerateConfig.model_fields.keys():
        raise ValueError(f"{', '.join(unknown)}: no setting of Inspect's GenerateConfig")
    GenerateConfig.model_validate(settings)
    return settings


_Settings = Annotated[Mapping[str, Any], AfterValidator(_fields_of_inspect)]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Retirement(_Data):
    """When a vendor ends a model, and who says so."""

    date: date
    source: str


class JudgeCost(_Data):
    """US dollars per million tokens of input and output, when this was read and where."""

    input: float
    output: float
    read: date
    source: str


class JudgeEntry(_Data):
    """What is known of the judges with certain names.

    Attributes:
        names: patterns, as of a shell, of Inspect's names of models.
        settings: fields of GenerateConfig to ask them with.
        retires: when they end, if that is announced.
        replacement: the nearest judge that stays.
        cost: of their use.
    """

    names: tuple[str, ...]
    settings: _Settings
    retires: Retirement | None = None
    replacement: str | None = None
    cost: JudgeCost | None = None


class DefaultJudge(_Data):
    """A judge that may be used where none is named.

    Attributes:
        judge: Inspect's name of its model.
        keys: variables of the environment, one of which its provider needs.
        weights: hub id of a local judge, whose files must be on this machine.
    """

    judge: str
    keys: tuple[str, ...] = ()
    weights: str | None = None


class Register(_Data):
    """Ways of asking by name, entries (the first that matches counts), and defaults in order."""

    settings: Mapping[str, _Settings]
    judges: tuple[JudgeEntry, ...]
    defaults: tuple[DefaultJudge, ...]


_FILE = Path(__file__).with_name("judges.yaml")
REGISTER = Register.model_validate(
    parse_yaml(_FILE.read_text(encoding="utf-8"), "the register of judges", "template")
)


@runtime_checkable
class _TellsReasoning(Protocol):
    """A provider that knows which of its models reason: Inspect's, of OpenAI."""

    def always_reasons(self) -> bool: ...

    def reasons_by_default(self) -> bool: ...


def judge_settings(judge: Model) -> GenerateConfig:
    """The settings to ask a judge with.

    Those of the register for its name, else by what Inspect knows of the model. The settings that
    the user gave with the role win. A judge that is made to reason so has room for it, and is asked
    for nothing that a reasoning model might reject.
    """
    role = judge.config
    if role.reasoning_tokens or role.reasoning_effort not in (None, "none"):
        settings = REGISTER.settings["room"]
    elif entry := entry_of(judge):
        settings = entry.settings
    else:
        settings = REGISTER.settings[_way_of_unknown(judge)]
    config = GenerateConfig(**settings).merge(role)
    if not config.logprobs:
        # An API refuses the one without the other.
        config.top_logprobs = None
    return config


def register_settings(judge: Model) -> dict[str, Any]:
    """Those of the settings that a judge is asked with which the register decides."""
    names = {name for settings in REGISTER.settings.values() for name in settings}
    return judge_settings(judge).model_dump(include=names, exclude_none=True)


def entry_of(judge: Model | str) -> JudgeEntry | None:
    """The register's entry for a judge, None for a judge that it doesn't know.

    A name is also read without its first part (`openrouter/openai/gpt-4o`) and without what stands
    in the middle (`openai/azure/gpt-4o`).
    """
    # A steered model's name ends in the label of its condition.
    name = str(judge).partition("[")[0]
    first, _, rest = name.partition("/")
    canonical = () if isinstance(judge, str) else (judge.canonical_name(),)
    return _entry((name, rest, f"{first}/{rest.rpartition('/')[2]}", *canonical))


@cache
def _entry(names: tuple[str, ...]) -> JudgeEntry | None:
    matches = (
        entry
        for name in names
        for entry in REGISTER.judges
        if any(fnmatchcase(name, pattern) for pattern in entry.names)
    )
    return next(matches, None)


def _way_of_unknown(judge: Model) -> str:
    """The way to ask a judge that the register doesn't know."""
    api = judge.api
    if isinstance(api, _TellsReasoning) and (api.always_reasons() or api.reasons_by_default()):
        return "reasons"
    info = get_model_info(judge)
    if info is None or not info.reasoning:
        return "weighs"
    return "may_reason" if info.reasoning_effort_default in (None, "none") else "room"


def days_left(judge: Model | str) -> int | None:
    """Days until the announced end of a judge, negative behind it; None where none is known."""
    entry = entry_of(judge)
    return (entry.retires.date - _today()).days if entry and entry.retires else None


def has_ended(judge: str) -> bool:
    """Whether the announced end of a judge is over."""
    days = days_left(judge)
    return days is not None and days <= 0


@cache
def warn_of_retirement(judge: str) -> None:
    """Say once that a judge ends soon, or has ended, and which one is nearest to it.

    It is no error: vendors have moved such dates, other services keep a model for longer, and if
    the API refuses it, every reply says so.
    """
    entry, days = entry_of(judge), days_left(judge)
    if entry is None or entry.retires is None or days is None or days > WARNING_DAYS:
        return
    end = f"{entry.retires.date:%-d %B %Y}"
    in_days = f"in {days} day{'s' if days > 1 else ''}"
    when = f"ends on {end}, {in_days}" if days > 0 else f"was to end on {end}"
    nearest = f" The nearest judge that stays is {entry.replacement}." if entry.replacement else ""
    logger.warning(
        "The judge %s %s (%s). No later run can be compared with this one by the same judge: "
        "calibrate its successor on the same answers while both can be asked.%s",
        judge,
        when,
        entry.retires.source,
        nearest,
    )


def cost_text(judge: str) -> str:
    """What a judge costs, in brackets; empty where that is not known."""
    cost = entry.cost if (entry := entry_of(judge)) else None
    return f" (${cost.input:g} in, ${cost.output:g} out per million tokens)" if cost else ""


def _today() -> date:
    return date.today()
