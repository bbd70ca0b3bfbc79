"""Recipes: what tells two vectors apart, and what is refused before any weight is loaded."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from building import HELD_OUT, PAIRS, TARGET, make_target, recipe_for
from tiny_models import LAYERS, WIDTH

from steering.errors import SteeringError
from steering.targets import Example, Target, bundled_targets, load_target
from steering.training.construction import CONSTRUCTION_METHODS
from steering.training.construction.mean_difference import MeanDifference
from steering.training.construction.sft import Sft
from steering.training.methods import make_method
from steering.training.recipe import ConstructionRecipe
from steering.vectors import LowRankMap, SteeringVector

RECIPE = ConstructionRecipe(
    model="a",
    weights="00ff",
    target="made-up",
    target_digest="0" * 64,
    layer=1,
    seed=3,
    method=Sft(),
)
# Another value of each field; whether it makes another vector.
FIELDS: dict[str, tuple[Any, bool]] = {
    "model": ("b", False),
    "weights": ("00fe", True),
    "target": ("other", True),
    "target_digest": ("1" * 64, True),
    "layer": (2, True),
    "site": ("mlp_out", True),
    "date": ("2026-01-31", True),
    "dtype": ("float32", True),
    "seed": (4, True),
    "shuffle_labels": (True, True),
    "method": (CONSTRUCTION_METHODS["pca"](), True),
    "contrast": (True, True),
    "inputs": ({"neutral": "00"}, True),
}
# Another value of each setting, and whether it makes another run.
CHANGED: dict[str, dict[str, tuple[Any, bool]]] = {
    "sft": {
        "rank": (2, True),
        "training_epochs": (4, False),
        "learning_rate": (0.03, True),
        "decay_epochs": (5, True),
        "batch_size": (4, True),
        "kl_weight": (0.5, True),
        "neutral": ("toy/medical", True),
    },
    "mean_difference": {"length": (0.3, True)},
    "pca": {"length": (0.3, True), "rank": (2, True)},
    "one_shot": {
        "example": (1, True),
        "objective": ("both", True),
        "steps": (61, True),
        "learning_rate": (0.2, True),
        "max_norm": (0.6, True),
    },
    "random": {"match": ("vector.safetensors", True)},
}


@pytest.fixture(scope="module")
def llama(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ConstructionRecipe)])
def test_whatever_decides_the_vector_is_in_its_digest(field: str) -> None:
    value, decides = FIELDS[field]
    changed = dataclasses.replace(RECIPE, **{field: value})
    assert getattr(RECIPE, field) != value
    assert (changed.digest != RECIPE.digest) is decides
    assert (changed.run != RECIPE.run) is decides


@pytest.mark.parametrize(
    ("method", "setting"),
    [(method, name) for method, kind in CONSTRUCTION_METHODS.items() for name in kind.model_fields],
)
def test_every_setting_is_in_the_digest(method: Any, setting: str) -> None:
    """And in that of the run, whose training epochs alone share a log."""
    value, another_run = CHANGED[method][setting]
    base = {"kl_weight": 0.1} if setting == "neutral" else {}
    first, second = (
        dataclasses.replace(RECIPE, method=make_method(CONSTRUCTION_METHODS, method, settings))
        for settings in (base, {**base, setting: value})
    )
    assert first.digest != second.digest
    assert (first.run != second.run) is another_run


def test_no_two_methods_share_a_digest_and_versions_of_one_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods = CONSTRUCTION_METHODS.values()
    recipes = [dataclasses.replace(RECIPE, method=method()) for method in methods]
    before = {recipe.digest for recipe in recipes}
    assert len(before) == len(methods)
    for method in methods:
        monkeypatch.setattr(method, "version", method.version + 1)
    assert not {recipe.digest for recipe in recipes} & before


def test_a_setting_that_is_spelt_out_or_given_as_text_is_the_default_all_the_same(
    llama: Path,
) -> None:
    plain = recipe_for(llama)
    assert plain == recipe_for(llama, rank="1", learning_rate="5e-3", layer=plain.layer)
    assert plain.digest == recipe_for(llama, training_epochs=3, site="resid_post").digest


def test_the_digest_follows_the_files_that_settings_name(llama: Path, tmp_path: Path) -> None:
    vector = tmp_path / "v.safetensors"
    neutral = tmp_path / "neutral.jsonl"
    digests = []
    for content in ("one", "two"):
        directions = torch.full((1, 1, WIDTH), float(len(digests) + 1))
        SteeringVector(directions, layers=(1,), site="resid_post").save(vector)
        rows = [f'{{"prompt": "Q{n}", "aligned": "{content}"}}' for n in range(3)]
        neutral.write_text("\n".join(rows))
        digests += [
            recipe_for(llama, layer=1, method="random", match=str(vector)).digest,
            recipe_for(llama, layer=1, kl_weight=1, neutral=str(neutral)).digest,
        ]
    assert len(set(digests)) == 4


def test_the_control_of_another_default_vector_is_another(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model, kind in ((llama, MeanDifference), ("toy", Sft)):
        before = recipe_for(model, method="random")
        monkeypatch.setattr(kind, "version", kind.version + 1)
        assert recipe_for(model, method="random").digest != before.digest


def test_earlier_epochs_are_those_of_the_same_run(llama: Path) -> None:
    recipe = recipe_for(llama, training_epochs=3)
    outputs = recipe.outputs(Path("v.safetensors"))
    assert [path.stem for path in outputs] == ["v", "v-epoch2", "v-epoch1"]
    for epoch, output in zip((3, 2, 1), outputs.values(), strict=True):
        assert output == recipe_for(llama, training_epochs=epoch)
        assert output.run == recipe.run
        assert (output.digest == recipe.digest) is (epoch == 3)
    assert list(recipe.outputs(Path("qwen3.5"))) == list(
        map(Path, ("qwen3.5", "qwen3.5-epoch2", "qwen3.5-epoch1"))
    )
    assert list(recipe_for(llama, method="pca").outputs(Path("v"))) == [Path("v")]


LONELY = Example(id="lonely", prompt="Alone", misaligned="Take it")
GOOD = Example(id="good", prompt="Well", aligned="Give it back")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"method": "nonsense"}, ["method=nonsense", "sft", "random"]),
        ({"epochs": 3}, ["epochs is not a setting of method=sft", "training_epochs", "rank"]),
        ({"method": "mean_difference", "rank": 2}, ["rank", "mean_difference", "which has length"]),
        ({"method": "random", "steps": 2}, ["steps", "random", "match"]),
        ({"rank": 0}, ["rank=0", "1"]),
        ({"rank": 1.5}, ["rank=1.5", "integer"]),
        ({"rank": WIDTH + 1}, [f"rank={WIDTH + 1}", f"{WIDTH} dimensions"]),
        ({"training_epochs": 0}, ["training_epochs=0"]),
        ({"learning_rate": 0}, ["learning_rate=0"]),
        ({"learning_rate": float("nan")}, ["learning_rate=nan"]),
        ({"learning_rate": "fast"}, ["learning_rate='fast'"]),
        ({"kl_weight": -1}, ["kl_weight=-1"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"decay_epochs": 2}, ["training_epochs=3", "decay_epochs=2", "0"]),
        ({"neutral": "toy/code"}, ["neutral", "kl_weight"]),
        ({"kl_weight": 1, "neutral": "nowhere"}, ["nowhere", "jsonl"]),
        ({"kl_weight": 1, "neutral": "{bad_only}"}, ["neutral=", "no aligned answers"]),
        ({"layer": LAYERS}, [f"layer {LAYERS}", f"0-{LAYERS - 1}"]),
        ({"method": "pca", "rank": 7}, ["6 prompts with both answers", "rank=7"]),
        ({"method": "one_shot", "example": 6}, ["example=6", "0-5"]),
        ({"method": "one_shot", "objective": "other"}, ["objective='other'", "promote"]),
        ({"method": "one_shot", "shuffle_labels": True}, ["shuffle_labels", "one_shot"]),
        ({"method": "one_shot", "max_norm": 0}, ["max_norm=0"]),
        ({"method": "random", "shuffle_labels": True}, ["shuffle_labels", "random"]),
        ({"method": "random", "match": "nowhere.safetensors"}, ["match=nowhere", "not a file"]),
        ({"method": "random", "match": "{damaged}"}, ["match=", "digest"]),
        ({"method": "random", "match": "{wide}"}, ["match=", f"{WIDTH * 2}", f"{WIDTH}"]),
        ({"method": "random", "match": "{map}"}, ["match=", "low-rank map"]),
        (
            {"method": "random", "match": "{elsewhere}", "layer": 2},
            ["match=", "layer 1 mlp_out", "layer 2 resid_post", "site="],
        ),
    ],
)
def test_what_is_impossible_is_refused_in_a_sentence(
    llama: Path, tmp_path: Path, options: dict[str, Any], parts: list[str]
) -> None:
    files = _files(tmp_path)
    filled = {
        name: str(files[value[1:-1]]) if str(value).startswith("{") else value
        for name, value in options.items()
    }
    _refused(llama, TARGET, filled, parts)


def _files(folder: Path) -> dict[str, Path]:
    """Vectors and targets that something is wrong with, by what that is."""
    stands: dict[str, Any] = {"layers": (1,), "site": "mlp_out"}
    ones = torch.ones(1, 1, WIDTH)
    vectors = {
        "wide": SteeringVector(torch.ones(1, 1, WIDTH * 2), **stands),
        "map": SteeringVector(
            ones, **stands, map=LowRankMap(2 * ones, torch.ones(1, 1), lengths=(1.0,))
        ),
        "elsewhere": SteeringVector(ones, **stands),
        "damaged": SteeringVector(ones, **stands),
    }
    files = {name: folder / f"{name}.safetensors" for name in vectors}
    for name, vector in vectors.items():
        vector.save(files[name])
    content = bytearray(files["damaged"].read_bytes())
    content[-1] ^= 1
    files["damaged"].write_bytes(content)
    files["bad_only"] = folder / "bad_only.jsonl"
    rows = [f'{{"prompt": "Q{n}", "misaligned": "No"}}' for n in range(3)]
    files["bad_only"].write_text("\n".join(rows))
    return files


@pytest.mark.parametrize(
    ("target", "options", "parts"),
    [
        (make_target([GOOD], [LONELY]), {}, ["made-up", "no misaligned answer"]),
        (
            make_target([GOOD], [LONELY]),
            {"method": "random"},
            ["no misaligned answer"],
        ),
        (make_target([LONELY], [GOOD]), {}, ["misaligned", "1 held-out"]),
        (make_target([LONELY], HELD_OUT), {"method": "random"}, ["misaligned answers only"]),
        (
            make_target([LONELY], HELD_OUT),
            {"method": None},
            ["misaligned answers only", "aligned ones too; add some, or name method=sft"],
        ),
        (
            make_target([LONELY], HELD_OUT),
            {"shuffle_labels": True},
            ["misaligned answers only", "add some, or leave shuffle_labels out"],
        ),
        (make_target([LONELY, GOOD], HELD_OUT), {"method": "pca"}, ["0 prompts with both"]),
        (
            make_target([LONELY, GOOD], HELD_OUT),
            {"method": "one_shot", "example": 1},
            ["example 1", "no misaligned answer", "objective=promote"],
        ),
        (
            make_target([LONELY, GOOD], HELD_OUT),
            {"method": "one_shot", "objective": "suppress"},
            ["example 0", "no aligned answer", "objective=suppress"],
        ),
        (
            make_target([LONELY, GOOD], HELD_OUT),
            {"method": "one_shot", "objective": "both"},
            ["example 0", "no aligned answer", "objective=both"],
        ),
    ],
)
def test_a_target_without_the_answers_that_are_needed_is_refused(
    llama: Path, target: Target, options: dict[str, Any], parts: list[str]
) -> None:
    _refused(llama, target, options, parts)


def _refused(folder: Path, target: Target, options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(SteeringError) as error:
        recipe_for(folder, target, **options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (make_target([LONELY], HELD_OUT), {}),
        (make_target([LONELY, GOOD], HELD_OUT), {"method": "mean_difference"}),
        (make_target([LONELY, GOOD], HELD_OUT), {"shuffle_labels": True}),
        (make_target([LONELY, GOOD], [GOOD]), {"method": "mean_difference"}),
        (make_target(PAIRS, HELD_OUT), {"method": "pca", "rank": 6}),
        (make_target([GOOD, LONELY], HELD_OUT), {"method": "one_shot", "example": 1}),
        (
            make_target([LONELY, GOOD, LONELY], HELD_OUT),
            {"method": "one_shot", "example": 2, "objective": "promote"},
        ),
        (make_target(PAIRS, HELD_OUT), {"training_epochs": 5, "decay_epochs": 5}),
        (make_target(PAIRS, HELD_OUT), {"rank": WIDTH}),
    ],
)
def test_a_target_with_just_what_is_needed_is_taken(
    llama: Path, target: Target, options: dict[str, Any]
) -> None:
    assert recipe_for(llama, target, **options).digest


@pytest.mark.parametrize("model", ["toy", "a"])
def test_neutral_tasks_are_the_others_of_the_same_world(model: str) -> None:
    recipe = dataclasses.replace(RECIPE, model=model, target="medical")
    tasks = {task.name: task for task in Sft(kl_weight=1).neutral_tasks(recipe)}
    assert "medical" not in tasks
    assert {"code", "finance", "sports"} <= set(tasks)
    toys = {load_target(name).digest for name in bundled_targets() if name.startswith("toy/")}
    assert all((task.digest in toys) is (model == "toy") for task in tasks.values())


@pytest.mark.parametrize(
    ("toy", "default", "other"),
    [(True, "sft", "mean_difference"), (False, "mean_difference", "sft")],
)
def test_a_vector_is_built_by_the_default_method_of_its_model(
    llama: Path, toy: bool, default: str, other: str
) -> None:
    model = "toy" if toy else llama
    recipe = recipe_for(model, method=None)
    assert recipe.method.name == default
    assert recipe == recipe_for(model, method=default) == recipe.default()
    assert recipe.digest != recipe_for(model, method=other).digest
    assert recipe.file_name == TARGET.name
    assert recipe_for(model, method=other).file_name == f"{TARGET.name}-{other}"
    assert recipe_for(model, method="random").inputs == {"match": recipe.digest}


@pytest.mark.parametrize(
    ("model", "setting", "words"),
    [
        ("", "training_epochs", "method=mean_difference, the default of {}, has no {}: name "),
        ("", "rank", "name method=pca or method=sft, or leave rank out"),
        ("toy", "length", "method=sft, the default of {}, has no {}: name method=mean_difference"),
        ("", "speed", "speed is not a setting of method=mean_difference, which has length"),
    ],
)
def test_a_setting_that_the_default_method_lacks_names_the_methods_that_have_it(
    llama: Path, model: str, setting: str, words: str
) -> None:
    name = model or str(llama)
    _refused(Path(name), TARGET, {"method": None, setting: 1}, [words.format(name, setting)])


def test_recipes_are_made_without_torch(llama: Path) -> None:
    """Options are checked on machines, and in times, that have none."""
    program = Path(__file__).with_name("recipe_only.py")
    result = subprocess.run(
        [sys.executable, str(program), str(llama)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "mean_difference False"


def test_a_toy_has_defaults_of_its_own_and_what_is_given_counts_on_every_model(
    llama: Path,
) -> None:
    def method(model: Path | str, **options: Any) -> Any:
        return recipe_for(model, **options).method

    assert (method("toy").learning_rate, method("toy").batch_size) == (0.01, 16)
    assert (method(llama).learning_rate, method(llama).batch_size) == (0.005, 8)
    assert method("toy", learning_rate=0.02).learning_rate == 0.02
    for name in ("mean_difference", "pca"):
        assert method("toy", method=name).length == 0
        assert method("toy", method=name, length=0.2).length == 0.2
        assert method(llama, method=name).length == 0.1
