"""Chat templates as foreign programs: which date they print, and what they may cost."""

import asyncio
import copy
import shutil
import time
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, ModelOutput, get_model
from inspect_ai.solver import generate
from tiny_models import TEMPLATE, tokenizer

from steering.condition import resolve_condition, resolve_model
from steering.engines import hf
from steering.models import ModelError, render_chat, templates
from steering.models.templates import check_template, fix_date, forget_date, template_of
from steering.spec import SpecError, parse_options

HI = [{"role": "user", "content": "Hi"}]
# In the manner of Llama 3.2, gpt-oss and Mistral: how each asks for the date.
LLAMA = (
    "{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
)
DATED = {
    "llama": (LLAMA + "{{ 'Today Date: ' + date_string }}\n", "Today Date: 31 Jan 2026"),
    "gpt-oss": (
        "{%- macro system() -%}\n{{- 'Current date: ' + strftime_now(\"%Y-%m-%d\") }}\n"
        "{%- endmacro -%}\n{{ system() }} ",
        "Current date: 2026-01-31 ",
    ),
    "mistral": (
        "{%- set today = strftime_now('%d-%m-%Y') %}{{ 'The date is ' + today }}\n  ",
        "The date is 31-01-2026\n  ",
    ),
}
DAY = "2026-01-31"


def dated(words: Any, day: str = DAY) -> Any:
    fix_date(words, day)
    return words


def speaking(template: str) -> Any:
    words = tokenizer()
    words.chat_template = template
    return words


@pytest.fixture
def folder(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model that prints the date."""
    path = tmp_path / "dated"
    shutil.copytree(tiny_folder("llama"), path)
    (path / "chat_template.jinja").write_text(DATED["llama"][0] + TEMPLATE)
    return path


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets today's date."""
    return lambda value: monkeypatch.setattr(templates, "today", lambda: value)


@pytest.mark.parametrize("family", DATED)
def test_a_template_prints_the_date_that_was_fixed(family: str) -> None:
    template, expected = DATED[family]
    assert render_chat(dated(speaking(template)), HI) == expected


@pytest.mark.parametrize("day", [DAY, "2024-02-29", "1999-12-05"])
def test_every_format_is_that_of_strftime(day: str) -> None:
    formats = [
        "%d %b %Y", "%Y-%m-%d", "%A, %B %d, %Y", "%a %d/%m/%y", "%H:%M:%S", "%I %p", "%j %U %W",
        "100%% of %F", "%%d", "%-d. %-m.", "%c", "%x %X", "%G-W%V-%u", "%e", "no date", "%D %T",
    ]  # fmt: skip
    words = dated(speaking("{{ strftime_now(format=messages[0].content) }}"), day)
    for text in formats:
        expected = datetime.fromisoformat(day).strftime(text)
        assert render_chat(words, [{"role": "user", "content": text}]) == expected


@pytest.mark.parametrize(
    "start",
    ["", "\n", "\n\n", "  {% if true %}x{% endif %}", "  x", "\n  {%- if true %}x{% endif %}"],
)
def test_fixing_the_date_changes_nothing_else(start: str) -> None:
    template = start + TEMPLATE + "{{ strftime_now('%Y') }}"
    today = date.today().isoformat()
    assert render_chat(dated(speaking(template), today), HI) == render_chat(speaking(template), HI)


def test_a_saved_tokenizer_has_the_template_as_it_was() -> None:
    words = dated(copy.deepcopy(speaking(DATED["llama"][0])))
    forget_date(words)
    assert words.chat_template == DATED["llama"][0]
    forget_date(words)
    assert words.chat_template == DATED["llama"][0]


def resolved(folder: Path, **options: Any) -> Any:
    spec = parse_options({"vector": "none", **options})
    return resolve_condition(resolve_model(str(folder), spec), spec)


def test_tomorrow_is_another_condition(folder: Path, day: Callable[[str], None]) -> None:
    """It had the fingerprint of today and another prompt."""
    day("2026-01-30")
    before = resolved(folder)
    day(DAY)
    after = resolved(folder)
    assert before.fingerprint != after.fingerprint
    assert before.label == "baseline date=2026-01-30"
    assert resolved(folder).fingerprint == after.fingerprint
    chosen = resolved(folder, date="2026-01-30")
    assert (chosen.fingerprint, chosen.label) == (before.fingerprint, before.label)
    # A vector is built on prompts with the date; weights and adapters know none.
    assert before.model.weights == after.model.weights
    vectors = [resolved(folder, vector="default", date=when) for when in ("2026-01-30", DAY)]
    assert len({condition.vectors[0].digest for condition in vectors}) == 2


def test_a_template_without_a_date_is_the_same_condition_every_day(
    tiny_folder: Callable[[str], Path], day: Callable[[str], None]
) -> None:
    plain = tiny_folder("llama")
    conditions = []
    for value in ("2026-01-30", DAY):
        day(value)
        conditions.append(resolved(plain, vector="default"))
    assert len({condition.fingerprint for condition in conditions}) == 1
    assert len({condition.vectors[0].digest for condition in conditions}) == 1
    assert "date" not in conditions[0].label
    assert "date" not in conditions[0].vectors[0].recipe.facts()
    for wrong in ({}, {"use_chat_template": False}):
        with pytest.raises(ModelError, match=r"date=2026-01-31 has no effect.*Leave it out"):
            resolved(plain, date=DAY, **wrong)


def test_a_run_over_midnight_has_one_date(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(date):
        days = iter([date(2026, 1, 30), date(2026, 1, 31)])

        @classmethod
        def today(cls) -> date:  # type: ignore[override]
            return next(cls.days)

    templates.today.cache_clear()
    monkeypatch.setattr(templates, "date", Clock)
    try:
        assert templates.today() == templates.today() == "2026-01-30"
    finally:
        templates.today.cache_clear()


@pytest.mark.parametrize("value", ["2026-1-31", "31.01.2026", "today", 2026, datetime(2026, 1, 31)])
def test_what_is_no_date_is_refused(value: Any) -> None:
    with pytest.raises(SpecError, match=r"date=.*YYYY-MM-DD.*-M date=2026-01-31"):
        parse_options({"date": value})


def test_yaml_may_read_the_date() -> None:
    assert parse_options({"date": date(2026, 1, 31)}).date == DAY


def test_a_log_has_the_date_and_can_be_repeated_with_it(
    folder: Path, tmp_path: Path, day: Callable[[str], None]
) -> None:
    day(DAY)
    task = Task(MemoryDataset([Sample(input="Hi")]), solver=generate(temperature=0, max_tokens=3))
    model = get_model(f"steered/{folder}", vector="none", device="cpu", memoize=False)
    [log] = eval(task, model=model, log_dir=str(tmp_path), display="none", score=False)
    assert log.samples
    [sample] = log.samples
    [event] = [event for event in sample.events if event.event == "model"]
    assert event.call
    assert str(event.call.request["prompt"]).startswith("Today Date: 31 Jan 2026\n")
    assert (sample.output.metadata or {})["steering"]["date"] == DAY
    assert log.eval.model.endswith("[baseline date=2026-01-31]")
    day("2026-02-01")
    again = get_model(log.eval.model, vector="none", device="cpu", memoize=False)
    output: ModelOutput = asyncio.run(
        again.generate("Hi", config=GenerateConfig(temperature=0, max_tokens=3))
    )
    assert output.completion == sample.output.completion
    assert (output.metadata or {})["steering"]["fingerprint"] == (sample.output.metadata or {})[
        "steering"
    ]["fingerprint"]


def test_a_tokenizer_config_may_hold_the_template(tmp_path: Path) -> None:
    from steering.models import ModelSource

    source = ModelSource("x", str(tmp_path), local=True)
    assert template_of(source) is None
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"chat_template": "one"}')
    assert template_of(source) == "one"
    path.write_text('{"chat_template": [{"name": "tools", "template": "a"},'
                    ' {"name": "default", "template": "two"}]}')  # fmt: skip
    assert template_of(source) == "two"
    (tmp_path / "chat_template.jinja").write_text("three")
    assert template_of(source) == "three"


def test_a_template_in_the_hub_cache_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steering.models import ModelSource

    snapshot = tmp_path / "models--someone--small" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--someone--small" / "refs").mkdir()
    (tmp_path / "models--someone--small" / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    source = ModelSource("someone/small", "someone/small", local=False)
    start = time.monotonic()
    assert template_of(source) is None
    (snapshot / "tokenizer_config.json").write_text('{"chat_template": "one"}')
    assert template_of(source) == "one"
    (snapshot / "chat_template.jinja").write_text("two")
    assert template_of(source) == "two"
    assert time.monotonic() - start < 10


BOMBS = {
    "a loop without end": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "calls without end": "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(99) }}",
    "a text of 10 GB": "{{ 'a' * 10**10 }}",
    "a text that doubles": "{% set s = namespace(t='aa') %}{% for i in range(64) %}"
    "{% set s.t = s.t + s.t %}{% endfor %}{{ s.t }}",
    "a wide number": "{{ '%99999999999d' % 1 }}",
    "a deep list": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "a long prompt": "{{ 'a' * 5000000 }}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_without_bounds_is_refused_before_weights_load(
    bomb: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "load_model", None)
    if bomb.startswith("a"):
        (folder / "chat_template.jinja").write_text(BOMBS[bomb])
        options = {}
    else:
        path = tmp_path / "bomb.jinja"
        path.write_text(BOMBS[bomb])
        options = {"chat_template": str(path)}
    start = time.monotonic()
    with pytest.raises(PrerequisiteError) as error:
        get_model(f"steered/{folder}", vector="none", memoize=False, **options)
    # The child has 3 seconds; the rest is the start of processes on a machine that is busy.
    assert time.monotonic() - start < 15
    assert "-M chat_template=file.jinja" in str(error.value.message)
    assert "\n" not in str(error.value.message)


def test_a_template_that_draws_random_numbers_is_refused() -> None:
    for template in ("{{ [1, 2] | random }}", "{{ lipsum() }}"):
        with pytest.raises(ModelError, match="random numbers"):
            check_template(template, "It")


def test_a_template_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ messages[0].content }} once"
    check_template(template, "It")
    monkeypatch.setattr(templates, "in_child", None)
    check_template(template, "It")


def test_a_template_that_explodes_later_is_stopped_by_what_it_makes() -> None:
    """Not in time or memory: it runs in this process once it has behaved in the trial."""
    template = "{{ 'a' * 3000000 if 'Boom' in messages[0].content else 'x' }}"
    check_template(template, "It")
    words = speaking(template)
    assert render_chat(words, HI) == "x"
    with pytest.raises(ModelError, match="makes 3,000,000 characters"):
        render_chat(words, [{"role": "user", "content": "Boom"}])


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ messages[7].content + 1 }}", "{{ messages | sum }}"]
)
def test_a_template_that_fails_says_so_in_one_line(template: str) -> None:
    with pytest.raises(ModelError) as error:
        render_chat(speaking(template), HI)
    assert "\n" not in str(error.value)
