"""The command that runs the condition of a log again, as Inspect's command line takes it.

It runs as it stands where paths that were given as relative ones lead to the same files; what lay
below the working folder is named from there, and tasks of this suite by their package.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from steering.logs import VERSION, task_of
from steering.text import shell_line

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog
    from inspect_ai.model import GenerateConfig, ModelConfig

# Generation settings that change how an answer is fetched and not what it says.
TRANSPORT = {
    *("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections"),
    *("adaptive_connections", "cache", "batch", "extra_headers", "max_tool_output"),
}
# Of the command line, those with a word for false.
_SWITCHES = {"parallel_tool_calls", "internal_tools", "fail_on_refusal"}
_TASKS = Path(__file__).parents[2] / "evals"


def generation_settings(header: "EvalLog") -> dict[str, Any]:
    """The settings that answers were generated with, of the model and of the run."""
    config: GenerateConfig = header.eval.model_generate_config.merge(header.plan.config)
    return config.model_dump(exclude_none=True, exclude=TRANSPORT)


def run_command(header: "EvalLog") -> str:
    """The command that runs the condition again."""
    evaluation, config = header.eval, header.eval.config
    words = ["inspect", "eval", _task(header), "--model", evaluation.model.partition("[")[0]]
    if evaluation.model_base_url:
        words += ["--model-base-url", evaluation.model_base_url]
    words += _options("-M", evaluation.model_args) + _options("-T", evaluation.task_args_passed)
    if evaluation.solver:
        words += ["--solver", evaluation.solver, *_options("-S", evaluation.solver_args or {})]
    for role, judges in (evaluation.model_roles or {}).items():
        words += ["--model-role", f"{role}={_judges(judges)}"]
    if config.limit is not None:
        words += ["--limit", _limit(config.limit)]
    if config.sample_id is not None:
        ids = config.sample_id if isinstance(config.sample_id, list) else [config.sample_id]
        words += ["--sample-id", ",".join(map(str, ids))]
    if config.epochs is not None:
        words += ["--epochs", str(config.epochs)]
    for name, value in generation_settings(header).items():
        words += _setting(name, value)
    return shell_line(*words)


def _task(header: "EvalLog") -> str:
    """The task: one of this suite by its package, from which it runs anywhere; else its file."""
    evaluation = header.eval
    name, file = task_of(header), evaluation.task_file
    if file is None:
        return evaluation.task
    is_ours = VERSION in (evaluation.metadata or {}) and (_TASKS / f"{name}.py").is_file()
    if is_ours and Path(file).parent.name == _TASKS.name and Path(file).stem == name:
        return f"steering/{name}"
    function = (evaluation.task_registry_name or "").rpartition("/")[2]
    return _from_here(file) + (f"@{function}" if function else "")


def _options(flag: str, options: Mapping[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (flag, f"{name}={_in_yaml(value)}")]


def _judges(judges: "ModelConfig | list[ModelConfig]") -> str:
    """All judges of a role, as names or, where one has settings, as mappings."""
    texts: list[Any] = []
    for judge in judges if isinstance(judges, list) else [judges]:
        settings = judge.config.model_dump(exclude_none=True, exclude=TRANSPORT)
        args = judge.args | ({"base_url": judge.base_url} if judge.base_url else {})
        settings |= {"model_args": args} if args else {}
        texts.append({"model": judge.model, **settings} if settings else judge.model)
    if all(isinstance(text, str) for text in texts):
        return ",".join(texts)
    return _in_yaml(texts if len(texts) > 1 else texts[0])


def _limit(limit: int | tuple[int, int]) -> str:
    """A number of samples, or a range: Inspect counts from 0, its command line from 1."""
    return str(limit) if isinstance(limit, int) else f"{limit[0] + 1}-{limit[1]}"


def _setting(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if name in _SWITCHES:
        return [f"--{flag}" if value else f"--no-{flag}"]
    if value is True:
        return [f"--{flag}"]
    if name == "logit_bias":
        value = [f"{token}={bias}" for token, bias in value.items()]  # type: ignore[attr-defined]
    if isinstance(value, list):
        return [f"--{flag}", ",".join(map(str, value))]
    return [f"--{flag}", _in_yaml(value) if isinstance(value, dict | bool) else str(value)]


def _in_yaml(value: object) -> str:
    """A value as YAML reads it back, in one line."""
    value = _from_here(value) if isinstance(value, str) else value
    text = yaml.safe_dump(
        [value], default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6
    )
    return text.strip()[1:-1]


def _from_here(path: str) -> str:
    """A path below the working folder from there; any other text as it is."""
    if not path.startswith("/"):
        return path
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
