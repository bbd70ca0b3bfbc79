"""Chat templates as files: where a model's lies, what it may cost, and which date it prints.

A template is a program of whoever made the model. It is tried in a child process, with limits on
time and memory, before it runs in this one.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.foreign import LIMITS, MIB, in_child, parse_json, read_text
from steering.models.source import ModelError, ModelSource, commit_of, config_location

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.content }}"
    "{{ eos_token if message.role == 'assistant' else '\n\n' }}{% endfor %}"
)
"""For base models: a blank line after each message, the end token after an answer."""
# Tags of transformers' extension of Jinja, which mark answers in training.
_MARKS = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
_MEMORY = 512 * MIB
_QUESTION = {"role": "user", "content": "What is the capital of France?"}
# The function by which transformers tells a template the date.
_DATE = "strftime_now"
_MACRO = "{%- macro " + _DATE + "(format) -%}"
# What `strftime` knows, on all systems or some.
_DIRECTIVES = "aAbBcdDeFfGHIjklmMnpPrRsStTuUVwWxXyYzZ"


def read_template(path: str) -> str:
    """The text of a file that the user gives as a chat template.

    Raises:
        ModelError: It can't be read.
    """
    try:
        return read_text(Path(path).expanduser(), "template")
    except SteeringError as error:
        raise ModelError(
            f"chat_template={path}: {error}. Give a file with a Jinja chat template"
        ) from None


def template_of(source: ModelSource) -> str | None:
    """The chat template that a model's tokenizer will have, from its files; None without one.

    A hub model's files are downloaded if they are not cached.

    Raises:
        SteeringError: A file can't be read.
    """
    if source.template is not None:
        return source.template
    # First what lies on this machine, since a question to a hub that is out of reach takes long.
    for download in (False,) if source.local or source.gguf else (False, True):
        # In this order, as transformers reads them.
        if path := _file(source, "chat_template.jinja", download):
            return read_text(path, "template")
        if path := _file(source, "tokenizer_config.json", download):
            config = parse_json(read_text(path, "config"), path, "config")
            template = config.get("chat_template") if isinstance(config, dict) else None
            if isinstance(template, list):  # of named ones
                named = {entry.get("name"): entry for entry in template if isinstance(entry, dict)}
                template = named.get("default", {}).get("template")
            if isinstance(template, str):
                return template
    return None


def _file(source: ModelSource, name: str, download: bool) -> Path | None:
    """A file of a model, if it has one of that name that can be had."""
    if source.local or source.gguf:
        path = Path(config_location(source)) / name
        return path if path.exists() else None
    from huggingface_hub import get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache

    commit = commit_of(source)
    cached = try_to_load_from_cache(source.location, name, revision=commit)
    if cached is not None or not download:  # a path, or a mark that there is no such file
        return Path(cached) if isinstance(cached, str) else None
    with suppress(Exception):  # of the network: loading will say so if it can't do without
        # Without a network, the download would retry for half a minute.
        get_session().head(hf_hub_url(source.location, name, revision=commit), timeout=10)
        return Path(hf_hub_download(source.location, name, revision=commit))
    return None


def use_template(tokenizer: "PreTrainedTokenizerBase", template: str) -> None:
    """Give a tokenizer another template.

    The plain one begins with the start token if the tokenizer puts one before a text.
    """
    if template == PLAIN_TEMPLATE:
        starts = tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
        template = "{{ bos_token }}" * starts + template
    tokenizer.chat_template = template


def check_template(template: str, where: str) -> None:
    """Try a template on short conversations, unless it was tried before or is our own.

    Args:
        template: Its text.
        where: Whose it is, for errors.

    Raises:
        ModelError: It is not Jinja, draws random numbers, or takes more time or memory than a
            template may.
    """
    if template == PLAIN_TEMPLATE:
        return
    try:
        fault = _fault_of(template)
    except SteeringError as error:
        fault = f"can't be used: {error}"
    if fault:
        raise ModelError(f"{where} {fault}. Give another as -M chat_template=file.jinja")


@cache
def _fault_of(template: str) -> str:
    """What is wrong with a template; empty if nothing is."""
    limits = LIMITS["template"]
    return in_child(
        try_template, template, memory=_MEMORY, seconds=limits.seconds, where="its text"
    )


def try_template(template: str) -> str:
    """What is wrong with a template; to be called in a child process.

    What it refuses, such as a system message, is seen when a real conversation is rendered.
    """
    from jinja2 import nodes
    from jinja2.exceptions import TemplateSyntaxError

    environment = _environment()
    text = _MARKS.sub("", template)
    try:
        tree = environment.parse(text)
    except TemplateSyntaxError as error:
        return f"is not a Jinja template (line {error.lineno}: {error.message})"
    filters = {node.name for node in tree.find_all(nodes.Filter)}
    names = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
    if "random" in filters or "lipsum" in names:
        return "draws random numbers, so no two prompts would be equal"
    compiled = environment.from_string(text)
    question = _QUESTION
    answer = {"role": "assistant", "content": "Paris, of course."}
    for system in ([], [{"role": "system", "content": "Be brief."}]):
        for turns in ([question], [question, answer], [question, answer, question]):
            for asked in (True, False):
                try:
                    rendered = compiled.render(
                        messages=system + turns,
                        add_generation_prompt=asked,
                        enable_thinking=asked,
                        bos_token="<s>",
                        eos_token="</s>",
                    )
                except MemoryError:
                    raise
                except Exception:
                    continue
                if len(rendered) > LIMITS["template"].unpacked:
                    return f"makes {len(rendered):,} characters of a short conversation"
    return ""


def openings(template: str) -> tuple[str, str] | None:
    """A question as a template that was tried renders it: with thinking on, and with it off.

    None for a template that refuses it or needs more than messages.
    """
    with suppress(Exception):
        compiled = _environment().from_string(_MARKS.sub("", template))
        texts = [
            compiled.render(
                messages=[_QUESTION],
                add_generation_prompt=True,
                enable_thinking=thinking,
                bos_token="<s>",
                eos_token="</s>",
            )
            for thinking in (True, False)
        ]
        return texts[0], texts[1]
    return None


def _environment() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {_DATE: datetime.now().strftime, "raise_exception": _refuse}
    environment.filters["tojson"] = lambda value, **_: json.dumps(value)
    return environment


def _refuse(message: str) -> None:
    raise ValueError(message)


@cache
def today() -> str:
    """The date on which this process first asked for it, so that it is one for all conditions."""
    return date.today().isoformat()


def date_of(template: str | None, where: str, chosen: str | None) -> str | None:
    """The date that a template prints; None if it prints none.

    Args:
        template: Its text.
        where: Whose it is, for errors.
        chosen: The date that the user chose; otherwise it is today's.

    Raises:
        ModelError: A date was chosen for a template that prints none.
    """
    if _DATE in (template or ""):
        return chosen or today()
    if chosen is not None:
        raise ModelError(f"date={chosen} has no effect: {where} prints no date. Leave it out")
    return None


def fix_date(tokenizer: "PreTrainedTokenizerBase", day: str) -> None:
    """Make a tokenizer's template print a date (YYYY-MM-DD, 0 o'clock) instead of today's."""
    _change(tokenizer, lambda template: _date_macro(day) + template)


def forget_date(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Undo `fix_date`, before a tokenizer is saved."""
    _change(
        tokenizer,
        lambda text: text.partition("\n")[2] if text.startswith(_MACRO) else text,
    )


def _change(tokenizer: "PreTrainedTokenizerBase", change: Callable[[str], str]) -> None:
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):  # of named ones
        template = {name: change(text) for name, text in template.items()}
    elif template:
        template = change(template)
    tokenizer.chat_template = template


def _date_macro(day: str) -> str:
    """A line of Jinja that takes the place of `strftime_now`.

    Transformers passes no function of ours to a template. The line ends in a newline, which Jinja
    drops, so that the template's first line begins as it did.
    """
    moment = datetime.fromisoformat(day)
    directives = [*_DIRECTIVES, *(f"-{letter}" for letter in "dmHIMSjyUWV")]
    replaced = ["replace('%%', '\\x00')"]
    for directive in directives:
        with suppress(ValueError):  # this system does not know it
            value = moment.strftime(f"%{directive}")
            if not value.startswith("%"):
                replaced.append(f"replace('%{directive}', {json.dumps(value)})")
    replaced.append("replace('\\x00', '%')")
    return f"{_MACRO}{{{{- format | {' | '.join(replaced)} -}}}}{{%- endmacro %}}\n"
