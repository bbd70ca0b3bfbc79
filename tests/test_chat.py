"""How models are spoken to: by templates with and without a place for it, and by none at all."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import (
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from tiny_models import END, START, TEMPLATE, tokenizer

from steering.errors import SteeringError
from steering.models import (
    PLAIN_TEMPLATE,
    ModelError,
    encode,
    find_model,
    load_model,
    read_template,
    render_chat,
    split_thought,
    weights_digest,
)

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "Hi"}
# Our own, in the manner of families without a system role: one refuses it, one drops it.
_USERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}<u>{{ m.content }}</u>{% elif m.role == 'assistant' %}"
    "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
DROPPING = _USERS
REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + _USERS
)


def speaking(template: str) -> Any:
    words = tokenizer()
    words.chat_template = template
    return words


@pytest.mark.parametrize("template", [REFUSING, DROPPING], ids=["refused", "dropped"])
def test_a_system_message_without_a_place_opens_the_first_question(template: str) -> None:
    words = speaking(template)
    assert render_chat(words, [SYSTEM, HI]) == f"{START}<u>Be brief.\n\nHi</u>"
    assert render_chat(words, [HI]) == f"{START}<u>Hi</u>"
    assert render_chat(words, [SYSTEM]) == f"{START}<u>Be brief.</u>"
    answered = [SYSTEM, HI, {"role": "assistant", "content": "Yo"}]
    assert render_chat(words, answered, answered=True).endswith(f"</u>Yo{END}")


def test_a_system_message_with_a_place_stays_there() -> None:
    assert "system: Be brief." in render_chat(speaking(TEMPLATE), [SYSTEM, HI])


def test_a_template_that_refuses_more_than_a_system_message_says_so() -> None:
    words = speaking("{{ raise_exception('roles must take turns') }}")
    for turns in ([HI], [SYSTEM, HI]):
        with pytest.raises(ModelError, match="roles must take turns"):
            render_chat(words, turns)


def test_thinking_where_nothing_thinks_is_refused() -> None:
    with pytest.raises(ModelError, match="thinking=true has no effect"):
        render_chat(speaking(TEMPLATE), [HI], thinking=True)


@pytest.mark.parametrize(
    ("text", "prompt", "parts"),
    [
        ("Yes.", "<u>", None),
        ("<think>Hm</think>Yes.", "", ("Hm", "Yes.")),
        ("Hm</think>\n\nYes.", "<u><think>\n", ("Hm", "Yes.")),
        ("Hm, I", "<u><think>\n", ("Hm, I", "")),
        ("[THINK]Hm[/THINK]Yes.", "", ("Hm", "Yes.")),
        ("<|channel|>analysis<|message|>Hm", "<|start|>assistant", ("Hm", "")),
        ("<|channel|>final<|message|>Yes.", "<|start|>assistant", ("", "Yes.")),
    ],
)
def test_a_thought_is_told_from_what_was_said(text: str, prompt: str, parts: Any) -> None:
    assert split_thought(text, prompt) == parts


def ask(folder: Path, **options: Any) -> tuple[ModelOutput, Any]:
    options = {"vector": "none", "device": "cpu", **options}
    model = get_model(f"steered/{folder}", memoize=False, **options)
    config = GenerateConfig(max_tokens=3, temperature=0)
    messages = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="Hi")]
    return asyncio.run(model.api.generate(messages, [], "none", config))  # type: ignore[return-value]


def test_a_base_model_reads_the_bare_text(tiny_folder: Callable[[str], Path]) -> None:
    folder = tiny_folder("llama")
    output, call = ask(folder, use_chat_template=False)
    assert call.request["prompt"] == "Be brief.\n\nHi\n\n"
    assert output.usage
    assert output.usage.input_tokens == len("Be brief.\n\nHi\n\n")
    text = (output.metadata or {})["steering"]
    with_template, other = ask(folder)
    assert other.request["prompt"] != call.request["prompt"]
    assert text["prompt_sha256"] != (with_template.metadata or {})["steering"]["prompt_sha256"]
    assert text["fingerprint"] != (with_template.metadata or {})["steering"]["fingerprint"]


def test_a_base_model_gets_the_start_token_that_its_tokenizer_puts_and_one_only(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    from tokenizers.processors import TemplateProcessing

    source = find_model(str(tiny_folder("llama")), template=PLAIN_TEMPLATE)
    bare = load_model(source, device="cpu").tokenizer
    assert render_chat(bare, [HI]) == "Hi\n\n"
    starting = tokenizer()
    starting.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, 2)]
    )
    from steering.models.templates import use_template

    use_template(starting, PLAIN_TEMPLATE)
    text = render_chat(starting, [HI])
    assert text == f"{START}Hi\n\n"
    assert encode(starting, text).count(2) == 1


def test_a_template_of_one_s_own_is_used_and_told_apart(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    folder, path = tiny_folder("llama"), tmp_path / "mine.jinja"
    path.write_text(DROPPING)
    output, call = ask(folder, chat_template=str(path))
    assert call.request["prompt"] == f"{START}<u>Be brief.\n\nHi</u>"
    assert "template mine-" in output.model
    source = find_model(str(folder))
    mine = find_model(str(folder), template=read_template(str(path)))
    assert weights_digest(mine) != weights_digest(source)
    path.write_text(DROPPING.replace("<u>", "<v>"))
    changed, _ = ask(folder, chat_template=str(path))
    assert changed.model != output.model


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"chat_template=.*can't be read \(No such file.*Jinja"),
        ("{% for m in messages %}", r"not a Jinja template \(line 1"),
    ],
)
def test_a_template_file_that_is_none_is_refused_before_weights_load(
    content: str | None, message: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    path = tmp_path / "broken.jinja"
    if content is not None:
        path.write_text(content)
    with pytest.raises((SteeringError, Exception), match=message):
        get_model(
            f"steered/{tiny_folder('llama')}", memoize=False, vector="none", chat_template=str(path)
        )


def test_marks_of_answers_and_early_ends_of_loops_are_jinja_too(tmp_path: Path) -> None:
    path = tmp_path / "marked.jinja"
    path.write_text(
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    )
    assert render_chat(speaking(read_template(str(path))), [HI]) == "Hi"
