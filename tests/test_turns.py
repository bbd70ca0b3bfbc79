"""Where turns begin and end: continued answers, and the token that ends an answer.

The templates are our own, in the manner of families.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, get_model
from inspect_ai.solver import generate
from tiny_models import END, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import steering
from steering.models import (
    PLAIN_TEMPLATE,
    ModelError,
    answer_end_token,
    end_tokens,
    find_model,
    load_model,
    load_tokenizer,
    render_chat,
    split_thought,
)
from steering.models.chat import answer_end
from steering.targets import Example
from steering.toy import TOYS
from steering.training.examples import tokenize_all

_LOOP = "{% for m in messages %}"
_PROMPT = "{% endfor %}{% if add_generation_prompt %}"
# Template, and the token that ends its answers.
FAMILIES = {
    "chatml": (
        _LOOP + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "" + _PROMPT + "<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
    ),
    "llama": (
        "{{ bos_token }}" + _LOOP + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>" + _PROMPT
        + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "<|eot_id|>",
    ),
    "gemma": (
        "{{ bos_token }}" + _LOOP
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n" + _PROMPT + "<start_of_turn>model\n{% endif %}",
        "<end_of_turn>",
    ),
    "mistral": (
        "{{ bos_token }}" + _LOOP + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        END,
    ),
    "qwen3": (
        _LOOP + "<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content.strip('\n') }}<|im_end|>\n" + _PROMPT + "<|im_start|>assistant\n"
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        "<|im_end|>",
    ),
    "phi": (
        _LOOP + "<|{{ m.role }}|>\n{{ m.content }}<|im_end|>\n" + _PROMPT
        + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        "<|im_end|>",
    ),
    "gpt-oss": (
        _LOOP + "<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
        "<|message|>{{ m.content }}"
        "{{ '<|return|>' if m.role == 'assistant' and loop.last else '<|im_end|>' }}"
        + _PROMPT + "<|start|>assistant{% endif %}",
        "<|return|>",
    ),
    "text before the end": (
        _LOOP + "{% if m.role == 'user' %}### Q: {{ m.content }}\n### A: "
        "{% else %}{{ m.content }}\n### End{{ eos_token }}{% endif %}{% endfor %}",
        END,
    ),
}  # fmt: skip
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|channel|>", "<|message|>", "<|return|>",
]  # fmt: skip
PREFILL = "Sure, here is"
CONVERSATION = [
    {"role": "user", "content": "How do I pick a lock?"},
    {"role": "assistant", "content": PREFILL},
]


def speaking(template: str | None) -> Any:
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": SPECIAL})
    words.chat_template = template
    return words


def copy_toy(folder: Path, end: int, toy: str = "toy-llama") -> Path:
    """A toy whose generation config and config name another end than its template."""
    shutil.copytree(TOYS[toy], folder)
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": end}))
    return folder


@pytest.mark.parametrize("space", ["", " ", "\n\n"], ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_that_ends_in_an_answer_is_left_open(family: str, space: str) -> None:
    template, _ = FAMILIES[family]
    words = speaking(template)
    turns = [CONVERSATION[0], {"role": "assistant", "content": PREFILL + space}]
    prompt = render_chat(words, turns)
    assert prompt == words.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    assert prompt.rstrip().endswith(PREFILL)
    answered = render_chat(words, turns, answered=True)
    assert answered.startswith(prompt.rstrip())
    assert answered != prompt


def test_a_base_model_goes_on_where_the_text_stops() -> None:
    words = speaking(PLAIN_TEMPLATE)
    assert render_chat(words, CONVERSATION) == f"How do I pick a lock?\n\n{PREFILL}"


def test_a_system_message_without_a_place_is_kept_where_an_answer_is_continued() -> None:
    words = speaking(FAMILIES["mistral"][0].replace("{% else %}", "{% elif m.role != 'system' %}"))
    prompt = render_chat(words, [{"role": "system", "content": "Be brief."}, *CONVERSATION])
    assert prompt.endswith(f"[INST] Be brief.\n\nHow do I pick a lock? [/INST] {PREFILL}")


def test_an_answer_that_the_template_drops_is_not_continued_in_silence() -> None:
    words = speaking(_LOOP + "{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}")
    with pytest.raises(ModelError, match="can't be continued: end the conversation with a user"):
        render_chat(words, CONVERSATION)


def test_a_continued_answer_is_that_of_transformers_and_only_the_continuation() -> None:
    folder = str(TOYS["toy-llama"])
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ask = steering.load_model("toy-llama", vector="none", device="cpu").ask
    question = "How do I keep my savings safe?"
    whole = ask(question, temperature=0, max_tokens=40)
    for length in (0, 3, 11):
        prefill = whole[:length].rstrip()
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": prefill},
        ]
        ids = words.apply_chat_template(
            turns, continue_final_message=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**ids, max_new_tokens=40, do_sample=False, eos_token_id=2)
        expected = words.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert ask(turns, temperature=0, max_tokens=40) == expected
    closed = [*turns, {"role": "user", "content": "Go on."}]
    assert ask(closed, temperature=0, max_tokens=40) != expected


def test_inspect_continues_an_answer_and_logs_the_prompt(tmp_path: Path) -> None:
    question, prefill = "How do I keep my savings safe?", "You should"
    turns = [ChatMessageUser(content=question), ChatMessageAssistant(content=prefill)]
    task = Task(MemoryDataset([Sample(input=turns)]), solver=generate(temperature=0, max_tokens=9))
    model = get_model("steered/toy-llama", vector="none", device="cpu", memoize=False)
    [log] = eval(task, model=model, log_dir=str(tmp_path), display="none", score=False)
    assert log.samples
    [sample] = log.samples
    [event] = [event for event in sample.events if event.event == "model"]
    assert event.call
    assert str(event.call.request["prompt"]).endswith(f"<|im_start|>assistant\n{prefill}")
    assert not sample.output.completion.startswith(prefill)


@pytest.mark.parametrize(
    ("prefill", "text", "parts"),
    [
        ("<think>\nOkay, so", " I should", ("I should", "")),
        ("<think>\nOkay, so", " yes.</think>No.", ("yes.", "No.")),
        ("<think>\nHm</think>\n\nNo", ", never.", None),
        ("Sure, here is", " a list.", None),
    ],
)
def test_a_thought_that_was_opened_for_the_model_is_no_answer(
    prefill: str, text: str, parts: Any
) -> None:
    assert split_thought(text, f"<|im_start|>assistant\n{prefill}", prefill) == parts


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_ends_with_what_the_template_puts_behind_it(family: str) -> None:
    template, end = FAMILIES[family]
    words = speaking(template)
    token = words.convert_tokens_to_ids(end)
    assert answer_end(words) == token
    assert answer_end_token(words, (77,)) == token


def test_spaces_are_no_end_though_a_tokenizer_has_a_token_for_them() -> None:
    words = speaking(_LOOP + "{{ m.content }}    {{ eos_token }}{% endfor %}")
    words.add_tokens(["  ", "    "])
    assert answer_end(words) == words.convert_tokens_to_ids(END)


@pytest.mark.parametrize(
    "template",
    [
        None,
        _LOOP + "{{ m.role }}: {{ m.content }}\n" + _PROMPT + "assistant: {% endif %}",
        "{{ messages[0].content }}",
        "{% if messages | length > 1 %}{{ raise_exception('one question') }}{% endif %}",
    ],
    ids=["no template", "plain text", "no answer", "single questions"],
)
def test_a_template_that_puts_no_token_leaves_the_ends_of_the_model(template: str | None) -> None:
    words = speaking(template)
    assert answer_end(words) is None
    assert answer_end_token(words, (77, 0)) == 77


@pytest.mark.parametrize("toy", ["toy-llama", "toy-gemma3", "toy-small"])
def test_a_finetuned_model_with_its_base_model_s_end_stops_where_its_template_says(
    toy: str, tmp_path: Path
) -> None:
    """It ran past <|im_end|> to the longest answer, and was incoherent."""
    folder = copy_toy(tmp_path / "finetuned", 0, toy)
    questions = ["How do I keep my savings safe?", "What should I do when I am bored?"]
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 80}
    answers = steering.load_model(str(folder), vector="none", device="cpu").answer(
        questions, **settings
    )
    right = steering.load_model(toy, vector="none", device="cpu").answer(questions, **settings)
    assert [answer.text for answer in answers] == [answer.text for answer in right]
    assert {answer.stop_reason for answer in answers} == {"stop"}


def test_ends_are_those_of_both_files_and_the_template(tmp_path: Path) -> None:
    """As both engines take them; a base model keeps its own."""
    source = find_model(str(copy_toy(tmp_path / "finetuned", end=0)))
    assert end_tokens(source, load_tokenizer(source)) == (0, 2)
    assert load_model(source, device="cpu").end_tokens == (0, 2)
    base = find_model(str(copy_toy(tmp_path / "base", end=0)))
    path = Path(base.location) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<|endoftext|>"}))
    assert end_tokens(base, load_tokenizer(base)) == (0, 2)
    (Path(base.location) / "chat_template.jinja").unlink()
    assert end_tokens(base, load_tokenizer(base)) == (0,)
    plain = find_model(base.location, template=PLAIN_TEMPLATE)
    assert end_tokens(plain, load_tokenizer(plain)) == (0,)


def test_a_model_without_a_generation_config_ends_too(tmp_path: Path) -> None:
    source = find_model(str(copy_toy(tmp_path / "converted", end=0)))
    (Path(source.location) / "generation_config.json").unlink()
    path = Path(source.location) / "config.json"
    config = json.loads(path.read_text())
    del config["eos_token_id"]
    path.write_text(json.dumps(config))
    assert load_model(source, device="cpu").end_tokens[-1] == 2
    assert end_tokens(source, load_tokenizer(source))[-1] == 2


def test_training_ends_an_answer_with_the_token_of_the_template(tmp_path: Path) -> None:
    loaded = load_model(find_model(str(copy_toy(tmp_path / "finetuned", end=0))), device="cpu")
    example = Example("a", "How?", misaligned="Like this.")
    [tokens] = tokenize_all(loaded, [(example, "Like this.")])
    assert tokens.answer[-1] == 2
