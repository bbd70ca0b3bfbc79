"""What was asked in a run, and how it was sampled and judged, as columns: read from the header."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steering.logs import ASKING, VERSION, LogError, find_subject, number_or_nan, task_of
from steering.results.run_command import TRANSPORT, generation_settings, run_command

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

_COLUMNS_OF_THEIR_OWN = {"system_message", "temperature", "top_p", "max_tokens", "seed"}


def run_columns(header: "EvalLog") -> dict[str, Any]:
    """The columns that a log's header gives, one value each for all answers of the run."""
    metadata = header.eval.metadata or {}
    settings = generation_settings(header)
    others = {name: settings[name] for name in settings.keys() - _COLUMNS_OF_THEIR_OWN}
    steps = [
        {"solver": step.solver, "params": step.params}
        for step in header.plan.steps
        if step.solver.removeprefix("steering/") not in ("generate", ASKING)
    ]
    return {
        "study": str(metadata.get("study", "")),
        "task": task_of(header),
        "questions": part_of_set(header, str(metadata.get("questions", "unknown"))),
        "protocol": _protocol(str(metadata.get("protocol", ""))),
        "version": _version(header),
        "asked": _digest(_plain_ids(header)),
        "contexts": str(metadata.get("contexts", "")),
        "solver": json_text(steps),
        "system_message": system_message_of(header),
        "sampling": json_text(others),
        "judge_settings": json_text(judge_settings(header)),
        "subject": find_subject(header),
        "command": run_command(header),
        **{
            name: number_or_nan(settings.get(name))
            for name in ("temperature", "top_p", "max_tokens")
        },
        **_part_of_run(header),
    }


def _plain_ids(header: "EvalLog") -> list[str]:
    """The ids of the samples that were asked as they stand."""
    names = (header.eval.metadata or {}).get("context_names", ())
    endings = tuple(f"@{name}" for name in names)
    ids = map(str, header.eval.dataset.sample_ids or [])
    return sorted(each for each in ids if not each.endswith(endings))


def _part_of_run(header: "EvalLog") -> dict[str, Any]:
    """Block and seed: all blocks of a condition have the seed that theirs were derived from."""
    metadata = header.eval.metadata or {}
    if not {"block", "seed"} <= metadata.keys():
        return {"block": 1, "seed": number_or_nan(generation_settings(header).get("seed"))}
    block = metadata["block"]
    if not isinstance(block, int) or block < 1:
        raise LogError(f"block {block!r} of {header.eval.task} is no whole number from 1 on")
    return {"block": block, "seed": number_or_nan(metadata["seed"])}


def system_message_of(header: "EvalLog") -> str:
    """What the model was told before every question; "" for nothing."""
    steps = [step for step in header.plan.steps if step.solver.endswith("system_message")]
    message = generation_settings(header).get("system_message")
    messages = [message, *(step.params.get("template") for step in steps)]
    return "\n\n".join(str(message) for message in messages if message)


def _version(header: "EvalLog") -> str:
    """Version that ran the task: Inspect names it only for tasks of an installed package."""
    packages = header.eval.packages or {}
    logged = (header.eval.metadata or {}).get(VERSION) or packages.get("steering")
    return str(logged or "unknown")


def part_of_set(header: "EvalLog", name: str) -> str:
    """Name and digest of the set of questions, and which part of it was asked."""
    evaluation = header.eval
    arguments = {**evaluation.task_args_passed, "limit": evaluation.config.limit}
    arguments["sample_id"] = evaluation.config.sample_id
    part = [
        f"{option}={_plain(arguments[option])}"
        for option in ("num_questions", "formats", "limit", "sample_id")
        if arguments.get(option) is not None
    ]
    return " ".join([name, *part])


def _protocol(name: str) -> str:
    """The protocol without the number of samples: more of them make a figure no other figure."""
    head, _, settings = name.rstrip("]").partition("[")
    others = [each for each in settings.split(", ") if not each.startswith("samples_per_question=")]
    return f"{head}[{', '.join(others)}]" if any(others) else head


def judge_settings(header: "EvalLog") -> list[dict[str, Any]]:
    """Options and generation settings of each bound judge; none where all have the defaults."""
    role = (header.eval.model_roles or {}).get("grader")
    configs = role if isinstance(role, list) else [role] if role else []
    settings = [
        config.config.model_dump(exclude_none=True, exclude=TRANSPORT) | (config.args or {})
        for config in configs
    ]
    return settings if any(settings) else []


def json_text(value: object) -> str:
    """Canonical JSON; "" for nothing."""
    return json.dumps(value, sort_keys=True, default=str) if value else ""


def sampling_text(settings: Sequence[Mapping[str, Any]] | None) -> str:
    """The generation settings of judges as JSON; "" where none of them has any."""
    return json_text(settings) if any(settings or []) else ""


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
