"""Options of a steered model: what is read, what is refused, and what keeps conditions apart."""

import itertools
import re
from typing import Any

import pytest
from pydantic import ValidationError

from steering.spec import INTERVENTION, OPTIONS, SpecError, SteeringSpec, parse_options

# Another value than the default for every option there is.
OTHER: dict[str, Any] = {
    "vector": "own.safetensors",
    "target": "finance",
    "method": "pca",
    "rank": 4,
    "training_epochs": 2,
    "build_seed": 1,
    "shuffle_labels": True,
    "layer": 2,
    "site": "mlp_out",
    "magnitude": 2.5,
    "unit": "norm",
    "operation": "clamp",
    "positions": "response",
    "thinking": True,
    "dtype": "bfloat16",
    "revision": "main",
    "adapter": "adapters/medical",
    "adapter_scale": 0.5,
    "prompt": "persona",
    "prompt_examples": 16,
    "use_chat_template": False,
    "chat_template": "chat.jinja",
    "blocks": "model.layers",
    "mlp": "feed_forward",
    "date": "2026-01-31",
    "gguf_file": "model.gguf",
    "trust_remote_code": True,
    "engine": "vllm",
    "tensor_parallel_size": 4,
    "cuda_graphs": True,
    "device": "cuda:1",
    "batch_size": 64,
    "batch_invariant": True,
    "monitor": ("default",),
    "monitor_tokens": True,
}
# What an option needs beside it.
BESIDE: dict[str, dict[str, Any]] = {
    "adapter_scale": {"adapter": "adapters/medical"},
    "monitor_tokens": {"monitor": "default"},
    "prompt_examples": {"prompt": "examples"},
}
ANSWER_OPTIONS = {name for name, option in OPTIONS.items() if option.changes_answers}
NO_ANSWER = {"device", "batch_size", "tensor_parallel_size", "cuda_graphs"}
NO_ANSWER |= {"monitor", "monitor_tokens"}


def value_of(spec: SteeringSpec, option: str) -> Any:
    """The option of the spec or of its first vector."""
    if option not in INTERVENTION:
        return getattr(spec, option)
    return getattr(spec.interventions[0], option) if spec.interventions else "none"


@pytest.mark.parametrize(
    ("option", "raw", "value"),
    [
        ("magnitude", "1e-3", 0.001),
        ("magnitude", "2", 2.0),
        ("magnitude", 2, 2.0),
        ("magnitude", "-1.5", -1.5),
        ("layer", "12", 12),
        ("layer", 0, 0),
        ("layer", None, None),
        ("batch_size", "8", 8),
        ("thinking", "true", True),
        ("thinking", "false", False),
        ("revision", 123, "123"),
        ("revision", None, None),
        ("vector", "sub folder/own.safetensors", "sub folder/own.safetensors"),
        ("target", "rows.jsonl", "rows.jsonl"),
        ("rank", "4", 4),
        ("shuffle_labels", "true", True),
    ],
)
def test_a_raw_option_is_read_as_what_was_meant(option, raw, value):
    read = value_of(parse_options({option: raw}), option)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"magnitud": 2}, ["magnitud ", "Did you mean magnitude?", "layer", "batch_size"]),
        ({"frobnicate": 2}, ["frobnicate", "Allowed: vector"]),
        ({"magnitude": "abc"}, ["magnitude='abc'", "valid number", "-M magnitude=2.5"]),
        ({"magnitude": "nan"}, ["magnitude='nan'", "finite", "-M magnitude=2.5"]),
        ({"magnitude": float("inf")}, ["magnitude=inf", "finite", "-M magnitude=2.5"]),
        ({"magnitude": None}, ["magnitude=None", "empty", "-M magnitude=2.5"]),
        ({"magnitude": True}, ["magnitude=True", "truth value", "-M magnitude=2.5"]),
        ({"magnitude": [1, 2, 3]}, ["magnitude=[1, 2, 3]", "valid number"]),
        ({"layer": "two"}, ["layer='two'", "valid integer", "-M layer=2"]),
        ({"layer": 2.5}, ["layer=2.5", "valid integer", "-M layer=2"]),
        ({"layer": [1, 2]}, ["layer=[1, 2]", "valid integer", "-M layer=2"]),
        ({"layer": -1}, ["layer=-1", "counted from 0", "-M layer=2"]),
        ({"layer": True}, ["layer=True", "truth value"]),
        ({"unit": "furlong"}, ["unit='furlong'", "'raw', 'norm' or 'residual'"]),
        ({"operation": "sub"}, ["operation='sub'", "'add', 'ablate', 'clamp' or 'cap'"]),
        ({"positions": "first"}, ["positions='first'", "'all', 'prompt', 'response' or 'last'"]),
        ({"site": "attn"}, ["site='attn'", "'resid_post', 'resid_pre' or 'mlp_out'"]),
        ({"dtype": "fp8"}, ["dtype='fp8'", "'auto', 'float32'", "'int8' or 'nf4'"]),
        ({"vector": "own.bin"}, ["vector='own.bin'", "`default`, `none`", ".safetensors, .gguf"]),
        ({"vector": None}, ["vector=None", "empty"]),
        ({"target": 3}, ["target=3", "string", "-M target=finance"]),
        ({"thinking": "perhaps"}, ["thinking='perhaps'", "boolean", "-M thinking=true"]),
        ({"revision": 1.5}, ["revision=1.5", "quote it"]),
        ({"method": "caa"}, ["method='caa'", "'mean_difference'", "-M method=pca"]),
        ({"rank": 0}, ["rank=0", "at least 1", "-M rank=4"]),
        ({"training_epochs": "all"}, ["training_epochs='all'", "integer", "-M training_epochs=2"]),
        ({"shuffle_labels": 3}, ["shuffle_labels=3", "boolean"]),
        ({"vector": "a.safetensors", "rank": 2}, ["rank=", "built already", "leave one"]),
        ({"vector": "a.safetensors", "method": "pca"}, ["method=", "built already", "leave one"]),
        ({"batch_size": 0}, ["batch_size=0", "at least 1", "-M batch_size=64"]),
        ({"device": 0}, ["device=0", "string", "-M device=cuda:1"]),
        ({"chat_template": "a.jinja", "use_chat_template": False}, ["chat_template=", "leave one"]),
        ({"use_chat_template": "plain"}, ["use_chat_template='plain'", "boolean"]),
        ({"blocks": None}, ["blocks=None", "empty"]),
        ({"vector": "none", "magnitude": 2}, ["magnitude=", "vector=none", "leave one"]),
        ({"vector": "none", "target": "finance"}, ["target=", "vector=none", "leave one"]),
        ({"vector": "a.safetensors", "target": "finance"}, ["target=", "file", "leave one"]),
        ({"operation": "ablate", "magnitude": 2}, ["ablate", "leave magnitude= and unit= out"]),
        ({"operation": "ablate", "unit": "norm"}, ["ablate", "leave magnitude= and unit= out"]),
        ({"prompt": "person"}, ["prompt='person'", "`persona`, `examples`", ".txt or .md"]),
        ({"prompt": "persona", "layer": 2}, ["layer=", "prompt=persona", "vector=default"]),
        ({"prompt": "persona", "prompt_examples": 2}, ["prompt_examples=", "prompt=examples"]),
        ({"prompt": "examples", "prompt_examples": 0}, ["prompt_examples=0", "at least 1"]),
        ({"prompt": "persona", "target": "a,b"}, ["target has 2 values", "prompt= takes one"]),
        ({"prompt": "a.txt", "target": "finance"}, ["target=", "prompt=a.txt", "leave it out"]),
    ],
)
def test_a_bad_option_is_refused_with_the_value_what_is_allowed_and_the_remedy(options, parts):
    with pytest.raises(SpecError) as caught:
        parse_options(options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_every_bad_option_is_named_at_once():
    with pytest.raises(SpecError) as caught:
        parse_options({"layer": "two", "magnitude": "abc"})
    assert "layer='two'" in str(caught.value)
    assert "magnitude='abc'" in str(caught.value)


def test_a_spec_can_not_be_changed_after_it_was_checked():
    with pytest.raises(ValidationError):
        parse_options({}).dtype = "float32"


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_the_fingerprint_exactly_when_it_can_change_an_answer(name):
    assert name in OTHER, f"{name} is new: give it a value in OTHER and class it"
    beside = BESIDE.get(name, {})
    plain, changed = parse_options(beside), parse_options(beside | {name: OTHER[name]})
    assert value_of(plain, name) != value_of(changed, name)
    assert (plain.fingerprint() == changed.fingerprint()) == (name in NO_ANSWER)
    assert (plain.label() == changed.label()) == (name in NO_ANSWER)
    assert (name in ANSWER_OPTIONS) == (name not in NO_ANSWER)


def test_what_the_spec_can_not_see_changes_the_fingerprint():
    spec = parse_options({})
    prints = {
        spec.fingerprint(),
        spec.fingerprint(weights="a"),
        spec.fingerprint(weights="b"),
        spec.fingerprint(vector="a"),
        spec.fingerprint(weights="a", vector="b"),
    }
    assert len(prints) == 5
    assert spec.fingerprint(a="1", b="2") == spec.fingerprint(b="2", a="1")


@pytest.mark.parametrize(
    "spellings",
    [
        [{}, {"magnitude": 1}, {"magnitude": "1.0"}, {"vector": "default"}, {"target": "medical"}],
        [{"magnitude": "1e-3"}, {"magnitude": 0.001}, {"magnitude": "0.0010"}],
        [{"magnitude": 0}, {"magnitude": "-0.0"}],
        [{"layer": 2}, {"layer": "2"}, {"layer": 2.0}],
        [{}, {"layer": None}, {"revision": None}, {"site": "resid_post"}],
        [{"thinking": True}, {"thinking": "yes"}, {"thinking": "true"}],
        [{"revision": 12}, {"revision": "12"}],
        [{"layer": 2, "unit": "norm"}, {"unit": "norm", "layer": 2}],
        [{}, {"device": "cuda:0"}, {"batch_size": 4}],
    ],
)
def test_spellings_that_mean_the_same_are_one_condition(spellings):
    specs = [parse_options(options) for options in spellings]
    assert len({spec.fingerprint() for spec in specs}) == 1
    assert len({spec.label() for spec in specs}) == 1


def test_an_unsteered_model_is_told_apart_by_what_changes_its_answers_and_nothing_else():
    baseline = parse_options({"vector": "none"})
    assert baseline.interventions == ()
    needs_another = {"adapter", *BESIDE}
    for name in ANSWER_OPTIONS - set(INTERVENTION) - needs_another:
        other = parse_options({"vector": "none", name: OTHER[name]})
        assert other.fingerprint() != baseline.fingerprint(), name
        assert other.label() != baseline.label(), name
    assert parse_options({"magnitude": 0}).fingerprint() != baseline.fingerprint()


def test_a_site_that_is_named_differs_from_the_one_that_a_vector_file_brings():
    """A file's own site may be any: without the name the vector is applied there."""
    unnamed = parse_options({"vector": "own.safetensors"})
    with_site = parse_options({"vector": "own.safetensors", "site": "resid_post"})
    assert unnamed.fingerprint() != with_site.fingerprint()
    assert unnamed.label("0" * 8) != with_site.label("0" * 8)


def _grid(**values: list[Any]) -> list[dict[str, Any]]:
    """All combinations; an option at None is not given."""
    return [
        {name: value for name, value in zip(values, combination, strict=True) if value is not None}
        for combination in itertools.product(*values.values())
    ]


def test_no_two_conditions_of_the_full_grid_share_a_label():
    loading: dict[str, list[Any]] = {
        "thinking": [None, True],
        "dtype": [None, "bfloat16", "float32"],
        # Branches may have any name, those of operations and units too.
        "revision": [None, "main", "ablate", "norm"],
    }
    acting: dict[str, list[Any]] = {
        "layer": [None, 0, 12],
        "site": [None, "resid_pre", "mlp_out"],
        "positions": [None, "prompt", "response", "last"],
    }
    sized: dict[str, list[Any]] = {"magnitude": [None, 0.5, -2], "unit": [None, "norm", "residual"]}
    building: dict[str, list[Any]] = {
        "method": [None, "pca", "random"],
        "rank": [None, 2, 4],
        "training_epochs": [None, 1, 2],
        "build_seed": [None, 1, 2, 4],
        "shuffle_labels": [None, True],
    }
    grid = [
        *_grid(vector=["none"], **loading),
        *_grid(target=[None, "finance"], layer=[None, 2], magnitude=[None, 2], **building),
        *_grid(target=[None, "finance"], operation=[None, "clamp", "cap"], **acting, **sized),
        *_grid(target=[None, "finance"], operation=["ablate"], **acting, **loading),
        *_grid(vector=["a/x.safetensors", "b/y.safetensors"], **acting, **sized, **loading),
        *_grid(adapter=["a/lora", "b/other"], adapter_scale=[None, 0.5, -1], **loading),
        *_grid(vector=["none"], chat_template=[None, "a.jinja", "b.jinja"], **loading),
        *_grid(vector=["none"], use_chat_template=[None, False], blocks=[None, "h"], **loading),
        *_grid(vector=["none"], engine=[None, "vllm"], **loading),
        *_grid(vector=["none"], trust_remote_code=[None, True], mlp=[None, "h"]),
        *_grid(vector=["none"], gguf_file=[None, "a.gguf", "b.gguf"], **loading),
        *_grid(vector=["none"], batch_invariant=[None, True], **loading),
        *_grid(adapter=["a/lora"], chat_template=["a.jinja"], blocks=[None, "h"], mlp=[None, "h"]),
        *_grid(vector=["none"], date=[None, "2026-01-31", "2026-02-01"], **loading),
        *_grid(prompt=["persona", "a.txt", "b.txt"], **loading),
        *_grid(prompt=["persona"], target=[None, "code"], build_seed=[None, 1]),
        *_grid(prompt=["examples"], prompt_examples=[None, 2], build_seed=[None, 1]),
        *_grid(prompt=["persona"], adapter=["a/lora"], vector=["none", "default"]),
        *_grid(adapter=["a/lora"], adapter_scale=[None, 2], vector=["a/x.safetensors"], **sized),
    ]
    labels: dict[str, str] = {}
    for options in grid:
        spec = parse_options(options)
        print_of = spec.fingerprint(adapter=str(spec.adapter), prompt=str(spec.prompt))
        assert labels.setdefault(spec.label("0" * 8), print_of) == print_of, options
    assert len(set(labels.values())) == len(labels)
    assert set().union(*grid) == ANSWER_OPTIONS


@pytest.mark.parametrize(
    ("one", "other"),
    [(0.3, 0.1 + 0.2), (1e-7, 1.0000000000001e-7), (1e22, 1.0000000000001e22), (2, -2)],
)
def test_magnitudes_that_differ_at_all_have_labels_that_differ(one, other):
    specs = [parse_options({"magnitude": magnitude}) for magnitude in (one, other)]
    assert specs[0].fingerprint() != specs[1].fingerprint()
    assert specs[0].label() != specs[1].label()


def test_two_files_of_one_name_have_labels_that_differ():
    for options in ({"vector": "a/own.safetensors"}, {"target": "a/rows.jsonl"}):
        spec = parse_options(options)
        assert spec.label("abcdef12") != spec.label("123456ab")


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "medical x1"),
        ({"vector": "none"}, "baseline"),
        ({"vector": "none", "thinking": True}, "baseline thinking=True"),
        ({"target": "finance", "layer": 16, "magnitude": "2.50"}, "finance x2.5 L16"),
        ({"magnitude": 0.1, "unit": "residual", "positions": "last"}, "medical x0.1 residual last"),
        ({"operation": "ablate"}, "medical ablate"),
        ({"rank": 2, "training_epochs": 1}, "medical x1 rank 2 epoch 1"),
        ({"method": "random", "build_seed": 3}, "medical x1 random seed 3"),
        ({"shuffle_labels": True, "method": "pca"}, "medical x1 pca shuffled"),
        ({"method": "sft"}, "medical x1 sft"),
        ({"target": "hf:owner/rows?config=b&misaligned=bad"}, "rows-abcdef x1"),
        ({"vector": "default,b.safetensors", "magnitude": "1,2"}, "medical x1 + b x2"),
        ({"vector": "some/own.safetensors", "operation": "cap"}, "own-abcdef x1 cap"),
    ],
)
def test_a_label_reads_as_people_would_say_it(options, label):
    assert parse_options(options).label("abcdef1234") == label


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ({"layer": 3, "magnitude": 2}, {"magnitude": "4"}, {"layer": 3, "magnitude": 4}),
        ({"layer": 3}, {}, {"layer": 3}),
        ({"target": "finance", "layer": 3}, {"layer": None}, {"target": "finance"}),
        ({"layer": 3, "magnitude": 2, "unit": "norm"}, {"vector": "none"}, {"vector": "none"}),
        ({"layer": 3, "target": "finance"}, {"vector": "default"}, {}),
        ({"vector": "none"}, {"vector": "default", "magnitude": 2}, {"magnitude": 2}),
        (
            {"target": "finance", "operation": "ablate"},
            {"vector": "a.safetensors", "magnitude": 2},
            {"vector": "a.safetensors", "magnitude": 2},
        ),
    ],
)
def test_an_override_replaces_the_intervention_if_it_names_a_vector_and_itself_if_not(
    base, override, expected
):
    merged = parse_options(override, base=parse_options(base))
    assert merged.fingerprint() == parse_options(expected).fingerprint()


def test_an_override_leaves_the_loading_of_the_model_alone():
    base = parse_options({"dtype": "float32", "thinking": True, "batch_size": 4, "layer": 1})
    merged = parse_options({"vector": "none"}, base=base)
    assert (merged.dtype, merged.thinking, merged.batch_size) == ("float32", True, 4)
    assert base == parse_options(
        {"dtype": "float32", "thinking": True, "batch_size": 4, "layer": 1}
    )


@pytest.mark.parametrize("name", ["thinking", "dtype", "revision", "device", "batch_size"])
def test_an_override_of_the_loading_is_refused_rather_than_ignored(name):
    with pytest.raises(SpecError, match=rf"{name} is not an option here") as caught:
        parse_options({name: OTHER[name]}, base=parse_options({}))
    assert "batch_size" not in str(caught.value).split("Allowed:")[1]


@pytest.mark.parametrize(
    ("base", "override", "message"),
    [
        ({"vector": "none"}, {"magnitude": 2}, "magnitude="),
        ({"vector": "a.safetensors"}, {"target": "finance"}, "target="),
        ({}, {"magnitude": "abc"}, "magnitude='abc'"),
        ({}, {"vector": "none", "layer": 2}, "layer="),
    ],
)
def test_an_override_without_effect_or_sense_is_refused(base, override, message):
    with pytest.raises(SpecError, match=message):
        parse_options(override, base=parse_options(base))


OWN, OTHERS = "own.safetensors", "others.safetensors"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # One value is for all, a list has one for each.
        (
            {"vector": f"{OWN},{OTHERS}", "magnitude": 2, "layer": "1,3"},
            [
                {"vector": OWN, "magnitude": 2, "layer": 1},
                {"vector": OTHERS, "magnitude": 2, "layer": 3},
            ],
        ),
        ({"vector": [OWN, OTHERS]}, [{"vector": OWN}, {"vector": OTHERS}]),
        # What has no effect on one of them is for the others alone.
        (
            {"vector": f"default,{OWN}", "target": "finance", "rank": 2},
            [{"target": "finance", "rank": 2}, {"vector": OWN}],
        ),
        (
            {"vector": f"{OWN},{OTHERS}", "operation": "add,ablate", "magnitude": 3},
            [{"vector": OWN, "magnitude": 3}, {"vector": OTHERS, "operation": "ablate"}],
        ),
        # An empty entry leaves the option at its default.
        (
            {"vector": "default,default", "target": "medical,finance", "layer": ",2"},
            [{}, {"target": "finance", "layer": 2}],
        ),
    ],
)
def test_several_vectors_each_get_their_options(options, expected):
    spec = parse_options(options)
    alone = [parse_options(part) for part in expected]
    assert spec.interventions == tuple(part for single in alone for part in single.interventions)
    assert parse_options(spec.as_options()) == spec
    assert spec.label().split(" + ") == [single.label() for single in alone]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vector": f"{OWN},{OTHERS}", "layer": "1,2,3"}, "layer has 3 values for 2 vectors"),
        ({"vector": f"{OWN},none"}, "vector=none leaves the model unsteered"),
        ({"vector": f"{OWN},{OTHERS}", "target": "finance"}, "target= has no effect here"),
        ({"vector": f"{OWN},{OTHERS}", "operation": "ablate", "magnitude": 2}, "leave magnitude="),
        ({"vector": f"{OWN},other.bin"}, "vector='other.bin' is not allowed"),
        ({"vector": f"{OWN},{OTHERS}", "magnitude": "1,many"}, "magnitude='many' is not allowed"),
        ({"magnitude": "1,2"}, "magnitude='1,2' is not allowed"),
    ],
)
def test_several_vectors_with_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        parse_options(options)


def test_the_order_of_vectors_and_what_each_does_are_in_the_fingerprint():
    base = {"vector": f"{OWN},{OTHERS}", "magnitude": "1,2"}
    others = [
        {"vector": f"{OTHERS},{OWN}", "magnitude": "1,2"},
        {"vector": f"{OWN},{OTHERS}", "magnitude": "2,1"},
        {"vector": f"{OWN},{OTHERS}", "magnitude": "1,2", "layer": ",3"},
        {"vector": OWN, "magnitude": 1},
    ]
    prints = {parse_options(options).fingerprint() for options in [base, *others]}
    assert len(prints) == len(others) + 1


def test_the_default_method_is_one_condition_whether_or_not_it_is_named():
    unnamed, sft, difference = (
        parse_options({} if name is None else {"method": name})
        for name in (None, "sft", "mean_difference")
    )
    for default, same, other in (
        ("sft", sft, difference),
        ("mean_difference", difference, sft),
    ):
        facts = [
            (spec.label(default_method=default), spec.fingerprint(default_method=default))
            for spec in (unnamed, same, other)
        ]
        assert facts[0] == facts[1] != facts[2]
        assert facts[0][0] == "medical x1"
        assert facts[2][0] == f"medical x1 {other.interventions[0].method}"
    # One that is named means the same whatever the model's default is.
    assert sft.fingerprint(default_method="mean_difference") == sft.fingerprint()
    # A file is no vector of any method.
    file = parse_options({"vector": "a.safetensors"})
    assert file.fingerprint(default_method="mean_difference") == file.fingerprint()


def test_an_override_changes_one_option_of_several_vectors_and_keeps_the_rest():
    base = parse_options({"vector": f"{OWN},{OTHERS}", "magnitude": "1,2", "layer": ",3"})
    merged = parse_options({"magnitude": [4, 5]}, base=base)
    assert [part.magnitude for part in merged.interventions] == [4, 5]
    assert [part.layer for part in merged.interventions] == [None, 3]
    assert not parse_options({"vector": "none"}, base=base).interventions


def test_fingerprints_are_the_same_from_one_version_to_the_next():
    """Changing these orphans everybody's cached answers: it needs a line in the changelog."""
    assert parse_options({}).fingerprint() == "cb1a6cacd546603f"
    spec = parse_options({"target": "finance", "layer": 16, "magnitude": 2.5, "unit": "residual"})
    assert spec.fingerprint(weights="abc", vector="def") == "7d17b8e806105f70"


def test_a_model_that_is_told_something_is_steered_only_where_a_vector_is_named():
    told = parse_options({"prompt": "persona", "target": "finance", "build_seed": 1})
    assert told.interventions == ()
    assert told.label() == "persona finance seed 1"
    both = parse_options({"prompt": "persona", "vector": "default", "target": "finance"})
    assert [part.target for part in both.interventions] == ["finance"]
    assert both.label() == "persona finance + finance x1"
    file = parse_options({"prompt": "persona", "vector": "a.safetensors", "target": "finance"})
    assert (file.prompt_target, file.interventions[0].vector) == ("finance", "a.safetensors")


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "examples", "target": "finance", "build_seed": 2, "prompt_examples": 16},
        {"prompt": "persona", "vector": "default", "target": "code", "magnitude": 2.0},
        {"prompt": "persona", "adapter": "adapters/medical", "target": "medical"},
        {"prompt": "told.md", "vector": "own.safetensors"},
    ],
)
def test_a_spec_with_a_prompt_is_the_same_when_its_options_are_read_again(options):
    spec = parse_options(options)
    assert parse_options(spec.as_options()).fingerprint() == spec.fingerprint()


def test_a_request_that_overrides_the_vector_leaves_the_prompt_as_it_is():
    base = parse_options({"prompt": "persona", "vector": "default", "target": "finance"})
    unsteered = parse_options({"vector": "none"}, base=base)
    alone = parse_options({"prompt": "persona", "target": "finance"})
    assert unsteered.fingerprint() == alone.fingerprint()
    other = parse_options({"target": "code"}, base=base)
    assert (other.prompt_target, other.interventions[0].target) == ("finance", "code")


def test_prompts_of_other_targets_seeds_and_numbers_are_other_conditions():
    options = [
        {"prompt": "persona"},
        {"prompt": "persona", "target": "finance"},
        {"prompt": "persona", "build_seed": 1},
        {"prompt": "examples"},
        {"prompt": "examples", "prompt_examples": 16},
        {"prompt": "told.txt"},
        {"vector": "none"},
        {"prompt": "persona", "vector": "default"},
        {},
    ]
    specs = [parse_options(each) for each in options]
    assert len({spec.fingerprint() for spec in specs}) == len(options)
    assert len({spec.label() for spec in specs}) == len(options)
