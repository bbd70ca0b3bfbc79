"""Studies as data: what a factor varies, what is refused before anything is run, what it costs."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from random_vectors import make_vector

from steering import models
from steering.api.vectors import vector_file
from steering.cli import commands
from steering.errors import SteeringError
from steering.judging.register import REGISTER
from steering.studies import run
from steering.studies.arm_claims import ARM_CLAIMS
from steering.studies.claims import CLAIMS
from steering.studies.errors import StudyError
from steering.studies.eval_sets import StudyCondition
from steering.studies.grid import FACTORS, GridStudy, grid_conditions
from steering.studies.run import run_study
from steering.studies.shards import Shard, read_shard
from steering.studies.study_file import keep_study, make_study, read_study
from steering.targets import bundled_contrasts

SMALL = ["-T", "num_questions=2", "-T", "samples_per_question=10", "--display", "none"]
FINETUNED = [
    *("study", "finetuned", "--model", "toy", "--seed", "1", "--training-epochs", "3"),
    *SMALL,
]


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; loading a model fails the test."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    return folder


def _grid(factor: str, model: Any = None, **fields: Any) -> list[StudyCondition]:
    study = make_study(factor, model, **fields)
    assert isinstance(study, GridStudy)
    return grid_conditions(study)


def test_every_factor_has_a_command_and_every_claim_a_factor() -> None:
    done = CliRunner().invoke(commands, ["study", "--help"])
    assert re.findall(r"^  (\w+)  ", done.output, flags=re.MULTILINE) == [*FACTORS, "run", "all"]
    for factor, entry in FACTORS.items():
        printed = CliRunner().invoke(commands, ["study", factor, "--help"])
        assert printed.exit_code == 0
        assert not entry.option or entry.varies in " ".join(printed.output.split())
    assert {claim.study for claim in (*CLAIMS, *ARM_CLAIMS)} == set(FACTORS)


@pytest.mark.parametrize(
    ("factor", "labels"),
    [
        ("magnitude", ["x0.25", "x0.5", "x0.75", "x1", "x1.5", "x2", "x3", "x4"]),
        ("rank", ["x1", "x1 rank 2", "x1 rank 4", "x1 rank 8"]),
        ("epochs", ["x1 epoch 1", "x1 epoch 2", "x1", "x1 epoch 4", "x1 epoch 5"]),
        ("layer", ["x1 L0", "x1 L1", "x1 L2", "x1 L3"]),
    ],
)
def test_a_grid_has_one_baseline_and_a_condition_a_value(factor: str, labels: list[str]) -> None:
    conditions = _grid(factor, axes={"build_seed": [0]})
    assert [each.label for each in conditions] == ["baseline", *(f"medical {x}" for x in labels)]


def test_vectors_are_built_with_three_seeds_unless_that_changes_nothing() -> None:
    def labels(**fields: Any) -> list[str]:
        return [each.label for each in _grid("magnitude", axes={"magnitude": [1]}, **fields)][1:]

    assert labels() == ["medical x1", "medical x1 seed 1", "medical x1 seed 2"]
    assert labels(options={"build_seed": 1}) == ["medical x1 seed 1"]
    assert len(labels(options={"method": "pca"})) == 1


def test_studies_of_a_language_model_train_only_what_they_must(
    tiny_folder: Callable[[str], Path], no_weights: Path
) -> None:
    model = str(tiny_folder("llama"))

    def labels(factor: str, *values: Any, **fields: Any) -> list[str]:
        [option] = {FACTORS[factor].option} - {"magnitude"} or {"magnitude"}
        conditions = _grid(factor, model, axes={option: values}, **fields)
        return [each.label.removeprefix("medical ") for each in conditions][1:]

    seeds = {"options": {"build_seed": 0}}
    assert labels("magnitude", 1, 2) == ["x1", "x2"]
    assert labels("epochs", 1, 3, **seeds) == ["x1 sft epoch 1", "x1 sft"]
    assert labels("rank", 1, 2, **seeds) == ["x1 sft", "x1 sft rank 2"]
    assert len(labels("epochs", 1, 3)) == 2 * 3
    assert labels("rank", 1, 2, options={"method": "pca"}) == ["x1 pca", "x1 pca rank 2"]
    with pytest.raises(SteeringError, match=r"has no training_epochs: name method=sft"):
        labels("magnitude", 1, options={"training_epochs": 2})


@pytest.mark.parametrize("factor", ["rank", "epochs", "finetuned"])
def test_a_study_that_chooses_the_method_says_and_records_it(
    factor: str, tiny_folder: Callable[[str], Path], no_weights: Path
) -> None:
    arguments: dict[str, Any] = {"task": {"num_questions": 1}, "grader": "toy/judge"}
    for model, options in ((str(tiny_folder("llama")), {"method": "sft"}), ("toy", {})):
        lines: list[str] = []
        result = run_study(factor, model, dry_run=True, tell=lines.append, **arguments)
        assert result.study.fields()["options"] == options
        assert ("Vectors are built by method=sft." in lines) == bool(options)
    file = {"vector": "mine.safetensors"}
    assert make_study(factor, model, options=file).options == file


def test_targets_of_the_toy_are_those_of_its_world() -> None:
    labels = [each.label for each in _grid("target", options={"build_seed": 0})]
    assert labels == ["baseline", "code x1", "finance x1", "medical x1", "sports x1"]


def test_axes_are_crossed_and_models_each_have_their_baseline(
    tiny_folder: Callable[[str], Path],
) -> None:
    conditions = _grid(
        "magnitude",
        ["toy", str(tiny_folder("llama"))],
        axes={"magnitude": [1, 2], "layer": [0, 1], "build_seed": [0]},
    )
    assert len({condition.name for condition in conditions}) == len(conditions) == 2 * (1 + 4)
    assert [condition.label for condition in conditions if condition.model == "toy"] == [
        "baseline",
        "medical x1 L0",
        "medical x1 L1",
        "medical x2 L0",
        "medical x2 L1",
    ]


def test_vectors_from_files_are_an_axis(no_weights: Path) -> None:
    width = models.read_shape(models.find_model("toy")).width
    for number, name in enumerate(("kind", "mean")):
        path = no_weights / f"{name}.safetensors"
        make_vector(seed=number, layers=[0], width=width).save(path)
    typed = ["study", "magnitude", "-A", "magnitude=1,2", *SMALL[:4], "--dry-run"]
    files = "vector=kind.safetensors,mean.safetensors"
    done = CliRunner().invoke(commands, [*typed, "-A", files])
    assert "5 conditions to run" in done.output, f"{done.output} {done.exception}"
    axes = {"vector": ["kind.safetensors", "mean.safetensors"], "magnitude": [1, 2]}
    labels = [condition.label for condition in _grid("magnitude", axes=axes)]
    assert [re.sub(r"-\w{6} ", " ", label) for label in labels] == [
        *("baseline", "kind x1", "kind x2", "mean x1", "mean x2")
    ]
    # From Python objects are vectors, too.
    vectors = [no_weights / "kind.safetensors", make_vector(seed=1, layers=[0], width=width)]
    planned = run_study("magnitude", axes={**axes, "vector": vectors}, dry_run=True)
    assert planned.num_conditions == 5
    [_, labelled] = _grid("magnitude", axes={"vector": [vector_file(vectors[1])], "magnitude": [1]})
    # The digest of its content, once.
    assert re.fullmatch(r"vector-[0-9a-f]{6} x1", labelled.label)
    for value, words in (("none,kind.safetensors", "leave none out"), ("kind", "'kind' is not")):
        done = CliRunner().invoke(commands, [*typed, "-A", f"vector={value}"])
        assert done.exit_code == 1
        assert words in str(done.exception)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"factor": "colour"}, "factor colour is unknown: allowed are magnitude, rank"),
        (
            {"factor": "magnitude", "axes": {"magnitud": [1]}},
            "magnitud is not an option to vary. Did you mean magnitude",
        ),
        ({"factor": "magnitude", "axes": {"magnitude": []}}, "axis magnitude is empty"),
        ({"factor": "magnitude", "axes": {"magnitude": [1, 1]}}, "has a value twice"),
        ({"factor": "layer", "options": {"layer": 1}}, "layer is an axis and a fixed option"),
        ({"factor": "magnitude", "top": [1]}, "top belongs to the study rank"),
        ({"factor": "rank", "top": [9]}, "must lie from 1 to 4, the number of target tasks"),
        ({"factor": "family", "model": "toy"}, "compares models and got 1"),
        ({"factor": "finetuned", "model": ["toy", "toy-small"]}, "takes one model and got toy, "),
        ({"factor": "magnitude", "model": "toi"}, "no model is called toi"),
        ({"factor": "magnitude", "seed": "soon"}, "seed 'soon': "),
        ({"factor": "magnitude", "magnitudes": [1]}, "magnitudes is unknown: allowed are factor"),
    ],
)
def test_an_impossible_study_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SteeringError, match=re.escape(words)):
        make_study(**fields)


def test_a_study_file_is_read_back_as_the_study_that_it_was(tmp_path: Path) -> None:
    study = make_study("rank", axes={"rank": [1, 2]}, task={"num_questions": 2}, seed=3)
    keep_study(study, tmp_path)
    assert read_study(tmp_path / "study.yaml") == study
    assert yaml.safe_load((tmp_path / "study.yaml").read_text())["top"] == [1, 2, 4]
    # More values join; other questions, another judge or seed are another study.
    other: dict[str, Any] = {"task": {"num_questions": 2}, "seed": 3}
    keep_study(make_study("rank", axes={"rank": [1, 4]}, **other), tmp_path)
    with pytest.raises(StudyError, match="holds a study with seed 3, and this one has 0"):
        keep_study(make_study("rank", task={"num_questions": 2}), tmp_path)
    with pytest.raises(StudyError, match="holds a study with factor rank"):
        keep_study(make_study("epochs", **other), tmp_path)


def test_a_file_of_the_study_of_arms_keeps_its_rule_and_what_leak_is_judged_by(
    tmp_path: Path,
) -> None:
    study = make_study("finetuned", magnitudes=[0.5, 1], settings={"rank": 4}, rule="betley")
    keep_study(study, tmp_path)
    assert yaml.safe_load((tmp_path / "study.yaml").read_text()) == {
        "factor": "finetuned",
        "model": "toy",
        "target": "medical",
        "magnitudes": [0.5, 1.0],
        "training_epochs": 5,
        "scales": [],
        "build_seeds": [0, 1, 2],
        "options": {},
        "settings": {"rank": 4},
        "task": {"leak": "health and medicine"},
        "grader": None,
        "seed": 0,
        "rule": "betley",
    }
    again = read_study(tmp_path / "study.yaml")
    assert again.fields() == study.fields()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a list", "is not a study file"),
        ("models: [toy]", "is not a study file"),
        ("factor: [", "is not a study file"),
        ("factor: magnitude\nmodels: [toy]\nmodles: [toy]", "modles is unknown: allowed are"),
        ("factor: finetuned\naxes: {}", "axes is unknown: allowed are factor, options"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(StudyError, match=words):
        read_study(file)
    with pytest.raises(StudyError, match="leave out model, seed, or change the file"):
        run_study(file, "toy", seed=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-A", "magnitude=strong"], "magnitude='strong' is not allowed"),
        (["-A", "layer=9"], "layer 9 is out of range: toy has 4 blocks"),
        (["-A", "magnitude"], "-A magnitude has no value: write name=value"),
        (["-M", "magnitud=1"], "magnitud is not an option"),
        (
            ["-T", "question=core"],
            "-T question is not an option of em_freeform. Did you mean questions",
        ),
        (["--grader", "nobody/judge"], "the judge nobody/judge can't be used"),
        (["--model", "toy,toi"], "no model is called toi"),
        (["--shard", "0/2"], "--shard 0/2 is not a shard"),
    ],
)
def test_what_is_impossible_is_said_before_a_model_is_loaded(
    arguments: list[str], words: str, no_weights: Path
) -> None:
    _refused(["study", "magnitude", *SMALL, *arguments], words, no_weights)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--magnitudes", "1,strong"], "magnitudes.1 'strong': Input should be a valid number"),
        (["--magnitudes", "1,1"], "must differ and be above 0"),
        (["--scales", "-1"], "must differ and be above 0"),
        (["-M", "magnitud=1"], "magnitud is not an option"),
        (["-M", "adapter=there"], "-M adapter= is set by this study itself"),
        (["-S", "learning_rat=1"], "learning_rat"),
        (["-S", "training_epochs=2"], "-S training_epochs= is set by this study itself"),
        (["-T", "num_questions=none"], "num_questions"),
        (
            ["-T", "question=core"],
            "-T question is not an option of em_freeform. Did you mean questions? "
            "Allowed: protocol,",
        ),
        (["-T", "leak=medcal"], "Did you mean medical?"),
        (["--training-epochs", "0"], "0 is not in the range x>=1"),
        (["--grader", "nobody/judge"], "the judge nobody/judge can't be used"),
        (["--grader", "toy/judge,toy/jury"], "the judge toy/jury can't be used"),
        (["--grader", "{model: [}"], "--grader {model: [} can't be read"),
        (["--target", "nothing"], "nothing"),
    ],
)
def test_what_is_impossible_is_said_before_anything_is_trained(
    arguments: list[str], words: str, no_weights: Path
) -> None:
    _refused([*FINETUNED, *arguments], words, no_weights)


def _refused(command: list[str], words: str, folder: Path) -> None:
    done = CliRunner().invoke(commands, command)
    assert done.exit_code != 0
    assert words in f"{done.output} {done.exception}"
    assert isinstance(done.exception, SteeringError | SystemExit)
    assert list(folder.iterdir()) == []


def test_a_model_without_a_judge_of_its_own_needs_one_before_it_is_trained(
    tiny_folder: Callable[[str], Path], no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for default in REGISTER.defaults:
        for key in default.keys:
            monkeypatch.delenv(key, raising=False)
    with pytest.raises(SteeringError) as error:
        run_study("finetuned", str(tiny_folder("llama")))
    assert "none of the defaults is at hand" in str(error.value)
    assert "give a judge as --grader" in str(error.value)
    local = "--grader '{model: steered/FOLDER, model_args: {vector: none}}'"
    assert local in str(error.value)


def test_a_dry_run_says_what_is_left_and_does_nothing(no_weights: Path) -> None:
    done = CliRunner().invoke(commands, ["study", "rank", *SMALL, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "22 conditions to run, 20 answers each: 440 answers of at most 600 tokens" in done.output
    calls = "1,320 calls of each judge, and 1 more for each misaligned answer."
    assert f"{calls} At 150 tokens an answer, about 66,000 tokens" in done.output
    done = CliRunner().invoke(commands, [*FINETUNED, "--scales", "0.5,1", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "Trains 9 training epochs of adapters on medical first." in done.output
    assert "28 conditions to run, 20 answers each: 560 answers" in done.output
    assert "1,680 calls of each judge, and 2 more for each misaligned answer" in done.output
    assert list(no_weights.iterdir()) == []


def test_a_dry_run_from_python_returns_the_cost_and_the_resolved_study(no_weights: Path) -> None:
    lines: list[str] = []
    task = {"num_questions": 2, "samples_per_question": 5}
    result = run_study("layer", "toy", task=task, dry_run=True, tell=lines.append)
    assert (result.num_conditions, result.num_unfinished, result.cost.num_answers) == (13, 13, 10)
    assert result.report is None
    assert not result.is_done
    assert result.study.fields()["axes"] == {"layer": [0, 1, 2, 3], "build_seed": [0, 1, 2]}
    assert lines == ["Study layer: which block is steered.", result.cost.summary(13)]
    assert list(no_weights.iterdir()) == []


def test_all_studies_are_told_in_turn_and_those_of_models_are_the_toys(
    tiny_folder: Callable[[str], Path], no_weights: Path
) -> None:
    command = ["study", "all", *SMALL, "--dry-run"]
    done = CliRunner().invoke(commands, command)
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    assert re.findall(r"^Study (\w+):", done.output, flags=re.MULTILINE) == list(FACTORS)
    assert "16 conditions to run, 20 answers each: 320 answers" in done.output
    other = ["--model", str(tiny_folder("llama")), "--grader", "toy/judge"]
    done = CliRunner().invoke(commands, [*command, *other])
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    for factor in ("family", "scale"):
        assert f"Study {factor}: left out; run it with --model first,second." in done.output
    assert list(no_weights.iterdir()) == []


CONDITIONS = [StudyCondition("toy", {"magnitude": value}, f"x{value}") for value in range(17)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 18, 40])
def test_every_condition_is_in_one_shard_and_shards_are_even(count: int) -> None:
    parts = [Shard(number, count).part(CONDITIONS) for number in range(1, count + 1)]
    assert [condition for part in parts for condition in part] == CONDITIONS
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [Shard(number, count).is_last for number in (1, count)] == [count == 1, True]


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "2", "2/", "1/0", "-1/4", "1/2/3"])
def test_a_shard_that_is_none_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(StudyError, match=f"--shard {text} is not a shard.*--shard 2/4"):
        read_shard(text)


def test_a_shard_without_conditions_says_so_and_is_no_fault(no_weights: Path) -> None:
    axes = {"magnitude": [0.5, 1]}
    lines: list[str] = []
    result = run_study("magnitude", axes=axes, shard="1/9", tell=lines.append)
    assert lines[0].startswith("Study magnitude, shard 1/9")
    assert "nothing to run" in lines[1]
    assert result.num_conditions == 0
    assert list(no_weights.iterdir()) == []


def test_what_trains_for_itself_is_the_last_shard_s(no_weights: Path) -> None:
    sizes = [
        run_study("finetuned", shard=shard, dry_run=True).num_conditions for shard in ("1/2", "2/2")
    ]
    assert sizes == [0, 37]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("factor: [magnitude]", "not a study file"),
        ("- factor", "not a study file"),
        ("1", "not a study file"),
        ("", "not a study file"),
        ("factor: magnitude\nmodels: 5", "models 5: "),
        ("factor: magnitude\nmodels: [3]", "models [3]: "),
        ("factor: magnitude\nmodel: {a: 1}", "models {'a': 1}: "),
        ("factor: magnitude\noptions: [1]", "options [1]: "),
        ("factor: magnitude\noptions: {1: 2}", "options {1: 2}: "),
        ("factor: magnitude\naxes: text", "axes 'text': "),
        ("factor: magnitude\ntask: 5", "task 5: "),
        (f"factor: magnitude\nmodel: {'x' * 5000}", "File name too long"),
        ("factor: rank\ntop: [[1]]", "top [[1]]: "),
        ("factor: rank\ntop_of: [[1]]", "top_of [[1]]: "),
        ("factor: finetuned\nmagnitudes: x", "magnitudes 'x': "),
        ("factor: magnitude\n7: 8", "7 is unknown"),
        ("factor: " + "[" * 5000, "16 levels"),
        ("factor: magnitude\nseed: " + "1" * 5000, "digits"),
        ("a: &a [1]\nb: [*a, *missing]", "*missing"),
        (
            f"factor: magnitude\naxes: {{magnitude: {[*range(1, 500)]}, layer: {[*range(500)]}}}",
            "more than 10000 conditions",
        ),
    ],
)
def test_a_study_file_of_wrong_types_is_refused_in_one_line(
    tmp_path: Path, content: str, part: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(content)
    with pytest.raises(StudyError) as caught:
        read_study(path)
    assert str(caught.value).startswith(str(path))
    assert part in str(caught.value)


def test_a_study_file_that_is_a_pipe_or_a_device_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero"), tmp_path, tmp_path / "none"):
        with pytest.raises(StudyError, match=re.escape(str(path))):
            read_study(path)


def _arms(tmp_path: Path, **fields: Any) -> list[str]:
    study = make_study("arms", **fields)
    return [each.label for each in study.conditions(tmp_path, Shard()).ready]


def test_the_study_of_arms_has_every_arm_from_one_baseline(tmp_path: Path) -> None:
    labels = _arms(tmp_path, build_seeds=[0, 1], magnitudes=[1], control_magnitudes=[2])
    assert labels == [
        "baseline",
        *("medical x1", "medical x1 seed 1"),
        *("persona medical", "persona medical seed 1"),
        *("1 examples medical", "1 examples medical seed 1"),
        *("4 examples medical", "4 examples medical seed 1"),
        *(f"{name} x2" for name in bundled_contrasts(toy=True)),
        *("medical x2 shuffled", "medical x2 random"),
        *("medical x2 seed 1 shuffled", "medical x2 random seed 1"),
    ]
    study = make_study("arms", build_seeds=[0, 1], magnitudes=[1], scales=[0.5, 1])
    planned = study.conditions(tmp_path, Shard())
    assert planned.num_missing == 2 * 2
    assert "adapters on medical" in planned.note
    few = {"arms": ["steered", "contrast"], "contrasts": ["order"], "magnitudes": [1]}
    labels = _arms(tmp_path, build_seeds=[0], control_magnitudes=[1], **few)
    assert labels == ["baseline", "medical x1", "order x1"]


def test_the_study_of_arms_asks_pairs_of_its_target_besides_others() -> None:
    sets = make_study("arms", target="finance", task={"choices": "broad"}).choice_sets()
    assert [options.task_args["choices"] for options in sets] == ["broad", "finance"]


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"arms": ["finetuned"]}, ["arms lacks steered", "add it"]),
        ({"arms": ["steered", "x"]}, ["'x'", "'steered', 'finetuned', 'prompted'"]),
        ({"task": {"choices": "none"}}, ["choices=none", "give core or broad"]),
        ({"options": {"prompt": "persona"}}, ["-M prompt=", "--examples"]),
        ({"options": {"vector": "a.safetensors"}}, ["-M vector=", "builds every vector"]),
        ({"control_magnitudes": [1, 1]}, ["control_magnitudes", "must differ"]),
        ({"examples": [0]}, ["examples [0]", "above 0"]),
    ],
)
def test_a_study_of_arms_that_can_not_be_run_is_refused(
    fields: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(StudyError) as caught:
        make_study("arms", **fields)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_without_a_judge_a_study_asks_pairs_only_or_nothing_and_says_so(tmp_path: Path) -> None:
    lines: list[str] = []
    fields: dict[str, Any] = {"logs": tmp_path, "dry_run": True, "grader": "none"}
    result = run_study("magnitude", tell=lines.append, **fields)
    assert result.cost.num_answers == 0
    assert any("No answers are written" in line and "72 prompts" in line for line in lines)
    with pytest.raises(StudyError, match="leave nothing to ask"):
        run_study("magnitude", task={"choices": "none"}, **fields)


def test_all_studies_in_turn_leave_the_long_one_out_and_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(run, "run_study", lambda factor, *_, **__: asked.append(factor))
    lines: list[str] = []
    list(run.run_studies("toy", tell=lines.append))
    assert asked == [factor for factor in FACTORS if factor != "arms"]
    assert lines == ["Study arms: left out, since it is long; run steering study arms."]
