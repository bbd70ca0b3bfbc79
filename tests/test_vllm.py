"""The vLLM engine on its build for CPUs: what it says is what the default engine says.

In an environment of its own, by `make test-vllm`. Each model is loaded by vLLM for real.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import adapter_at, save_adapter
from conformance import CASES, GREEDY, answer, mapped, plain, prompt, steer
from model_families import LAYERS, ON_VLLM, WIDTH
from random_vectors import make_vector
from tiny_models import save_tiny

from steering.engines import (
    Engine,
    EngineError,
    Request,
    RequestOutput,
    release_engines,
    shared_engine,
)
from steering.engines.settings import Sampling
from steering.engines.vllm import VLLMEngine
from steering.engines.vllm_requests import pack, unpack
from steering.models import find_model
from steering.vectors import SteeringVector, VectorError
from steering.vectors.interventions import resolve
from steering.vectors.monitor import Direction, Monitor, directions_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

# vLLM's kernels for CPUs know these widths of heads and no smaller ones.
_HEADS = {"head_dim": 32}
# Whose heads are as wide as the model divided by their number, whatever the config says.
_DIVIDED = ("qwen2.5", "mixtral", "olmo2", "olmo3", "phi2", "phi4", "gpt-neox")
_LINEAR_HEADS = {"linear_key_head_dim": 128, "linear_value_head_dim": 128}
# Its linear attention and its mixtures want bfloat16 there.
_BFLOAT16 = {"qwen3.5", "qwen3.5-moe", "qwen3.5-multimodal", "gpt-oss"}
# Log probabilities of one bfloat16 model by two sets of kernels differ by this much.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.5}
# Gemma 2's soft caps on attention are rounded otherwise on CPUs; tokens are the same. A token that
# rounding sends to another expert comes out further off.
_LOOSER = {"gemma2": 0.05, "qwen3.5-moe": 1.0}
_ALWAYS = ("qwen3", "qwen3.5")
# Of the residual norm, in float32.
_SAME_READING = 1e-3
# What vLLM's build for CPUs can't load, and why.
_NOT_THERE = {"gpt-oss": "no kernel for its experts on CPUs"}


# Directions that some of the cases steer with, and others, at every site.
MONITORS: tuple[Monitor, ...] = (
    directions_of(plain(), "a"),
    tuple(
        item
        for layers, site in (([0, 2], "resid_pre"), ([2], "mlp_out"), ([LAYERS - 1], "resid_post"))
        for item in directions_of(plain(layers, site=site), site)  # type: ignore[arg-type]
    ),
    (),
)


def monitored(requests: Sequence[Request]) -> list[Request]:
    """Each with another monitor than the one before it, and every third with none."""
    return [
        replace(request, monitor=MONITORS[index % len(MONITORS)])
        for index, request in enumerate(requests)
    ]


def check_readings(want: RequestOutput, got: RequestOutput, name: str = "") -> None:
    """The same tokens are read, once each, with the same numbers."""
    assert (got.readings is None) == (want.readings is None), name
    if want.readings is not None and got.readings is not None:
        assert got.readings.shape == want.readings.shape, name
        apart = (got.readings - want.readings).abs() / want.readings[..., 1:].clamp(min=1)
        assert apart.numel() == 0 or apart.max() < _SAME_READING, name


def sizes(family: str) -> dict[str, int]:
    if family == "gpt2":
        return {"n_head": 1, "num_attention_heads": 1}
    if family in _DIVIDED:
        return {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32}
    return _HEADS | (_LINEAR_HEADS if family.startswith("qwen3.5") else {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in folders:
            folders[family] = save_tiny(
                tmp_path_factory.mktemp("vllm") / family, family, **sizes(family)
            )
        return folders[family]

    return of


def on(name: str, folder: Path, dtype: str = "float32") -> Engine:
    where: Any = {"device": "cpu"} if name == "hf" else {"engine": "vllm"}
    engine = shared_engine(find_model(str(folder)), dtype=dtype, **where)
    engine.allow_batch(64)
    return engine


def answers(engine: Engine, requests: Sequence[Request]) -> list[RequestOutput]:
    return [future.result(300) for future in [engine.submit(request) for request in requests]]


@pytest.fixture(scope="module")
def model(folder: Callable[[str], Path]) -> Path:
    return folder("qwen3")


@pytest.fixture(scope="module")
def hf(model: Path) -> Engine:
    return on("hf", model)


@pytest.fixture(scope="module")
def vllm(model: Path) -> Iterator[Engine]:
    engine = on("vllm", model)
    yield engine
    engine.release()


@pytest.mark.shows("vllm")
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in _ALWAYS else [pytest.mark.long]) for name in ON_VLLM],
)
def test_vllm_says_what_the_default_engine_says(
    family: str, folder: Callable[[str], Path], record_property: Callable[[str, str], None]
) -> None:
    """Tokens and readings in float32; in bfloat16, where both round, log probabilities only."""
    dtype = "bfloat16" if family in _BFLOAT16 else "float32"
    exact = dtype == "float32"
    requests = monitored(
        [
            Request(prompt(index), GREEDY, 4 + index % 7 if exact else 1, case, top_logprobs=20)
            for index, case in enumerate(CASES.values())
        ]
    )
    reference, engine = on("hf", folder(family), dtype), on("vllm", folder(family), dtype)
    if family in _NOT_THERE:
        record_property("reason", _NOT_THERE[family])
        with pytest.raises(EngineError, match=r"vLLM can't load.*engine=hf"):
            answers(engine, requests)
        engine.release()
        return
    try:
        expected, outputs = answer(reference, requests), answers(engine, requests)
    finally:
        engine.release()
        reference.release()
    for name, want, got in zip(CASES, expected, outputs, strict=True):
        if exact:
            assert got.tokens == want.tokens, name
            check_readings(want, got, name)
        for one, other in zip(want.logprobs, got.logprobs, strict=True):
            theirs = dict(other.top)
            apart = [abs(value - theirs[token]) for token, value in one.top[:5] if token in theirs]
            assert len(apart) > 2, name
            assert max(apart) < _LOOSER.get(family, _TOLERANCE[dtype]), name
        if want.change is not None:
            # Looked at in more steps, since the tokens of a step change with its requests.
            assert got.change is not None
            assert got.change >= 0.8 * want.change, name


def test_sixty_four_rows_at_once_with_sixty_four_interventions(hf: Engine, vllm: Engine) -> None:
    kinds: list[Any] = list(CASES.values())
    requests = [
        Request(
            prompt(index),
            GREEDY,
            max_tokens=3 + index % 9,
            interventions=steer(
                make_vector(seed=index, layers=[index % LAYERS], width=WIDTH), 3 + index / 8
            )
            + kinds[index % len(kinds)],
        )
        for index in range(64)
    ]
    expected = [result.tokens for result in answer(hf, requests)]
    assert [result.tokens for result in answers(vllm, requests)] == expected
    order = random.Random(1).sample(range(64), 64)
    shuffled = answers(vllm, [requests[index] for index in order])
    assert [result.tokens for result in shuffled] == [expected[index] for index in order]


def test_seeded_rows_are_the_same_alone_and_together(vllm: Engine) -> None:
    requests = [
        Request(prompt(index), Sampling(temperature=0.7, top_p=0.9, seed=index), 9, case)
        for index, case in enumerate(CASES.values())
    ]
    together = [result.tokens for result in answers(vllm, requests)]
    alone = [answers(vllm, [request])[0].tokens for request in requests[:8]]
    assert together[:8] == alone
    again = [
        Request(request.prompt, Sampling(temperature=0.7, seed=99), 9, request.interventions)
        for request in requests[:8]
    ]
    assert [result.tokens for result in answers(vllm, again)] != alone


def test_magnitude_zero_and_no_vector_are_the_plain_model(vllm: Engine) -> None:
    requests = [
        Request(prompt(5), GREEDY, 12, case, top_logprobs=3) for case in [(), steer(plain(), 0)]
    ]
    bare, zero = answers(vllm, requests)
    assert (zero.tokens, zero.logprobs) == (bare.tokens, bare.logprobs)
    assert (bare.change, zero.change) == (None, 0)


def test_stops_lengths_and_biases_are_those_of_the_default_engine(hf: Engine, vllm: Engine) -> None:
    free = answers(vllm, [Request(prompt(9), GREEDY, 30)])[0]
    # One whole character: of parts of characters vLLM makes text later, and a stop with them.
    stop = next(char for char in free.text[3:] if char.isascii())
    requests = [
        Request(prompt(9), GREEDY, 30, stop=(stop,)),
        Request(prompt(9), GREEDY, 7),
        Request(prompt(9), Sampling(temperature=0, logit_bias={0: 100}), 7),
        Request(prompt(9), Sampling(temperature=0, frequency_penalty=1.5), 12),
        Request(prompt(9), Sampling(temperature=0, presence_penalty=1.5), 12),
        Request((5,) * 509, GREEDY, 100),
    ]
    for want, got in zip(answer(hf, requests), answers(vllm, requests), strict=True):
        assert (got.text, got.stop_reason) == (want.text, want.stop_reason)
        assert got.num_generated == want.num_generated


def test_a_cancelled_row_leaves_its_neighbours_alone(vllm: Engine) -> None:
    requests = monitored([Request(prompt(index), GREEDY, 200, CASES["add"]) for index in range(5)])
    alone = answers(vllm, requests)
    futures = [vllm.submit(request) for request in requests]
    assert futures[1].cancel()
    for index, future in enumerate(futures):
        if index != 1:
            result = future.result(60)
            assert result.tokens == alone[index].tokens
            check_readings(alone[index], result)


def test_no_answer_changes_by_a_bit_when_it_is_read(vllm: Engine) -> None:
    """One by one, since in float32 the other rows of a step may change the last bits."""
    for case in ("unsteered", "add", "all three sites"):
        request = Request(prompt(7), GREEDY, 12, CASES[case], top_logprobs=3)
        before, after = [
            answers(vllm, [replace(request, monitor=monitor)])[0] for monitor in ((), MONITORS[1])
        ]
        assert (before.tokens, before.logprobs, before.change) == (
            after.tokens, after.logprobs, after.change
        )  # fmt: skip


def test_a_row_that_vllm_preempts_is_read_once_and_as_if_it_were_alone(
    model: Path, hf: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are read in parts, and there is room for fewer rows than the batch has."""
    from vllm.v1.metrics.reader import get_metrics_snapshot

    from steering.engines import _vllm

    room = {"block_size": 32, "num_gpu_blocks_override": 12, "max_num_batched_tokens": 48}
    room |= {"disable_log_stats": False}
    monkeypatch.setattr(_vllm, "SteeredVLLM", partial(_vllm.SteeredVLLM, **room))
    engine = VLLMEngine(find_model(str(model)), dtype="float32")
    engine.allow_batch(12)
    requests = monitored(
        [
            Request(prompt(index) * 3, GREEDY, 60 + index, case)
            for index, case in enumerate([*CASES.values()][:12])
        ]
    )
    for want, got in zip(answer(hf, requests), answers(engine, requests), strict=True):
        assert got.tokens == want.tokens
        check_readings(want, got)
    counts: dict[str, Any] = {item.name: item for item in get_metrics_snapshot()}
    assert counts["vllm:num_preemptions"].value > 0
    engine.release()


@pytest.mark.parametrize("vector", [plain(), mapped(), plain([1, 2])], ids=["1", "map", "layers"])
def test_a_steered_row_that_changes_nothing_is_an_error(
    vllm: Engine, vector: SteeringVector
) -> None:
    with pytest.raises(EngineError, match=r"changed no activation.*magnitude"):
        answers(vllm, [Request(prompt(1), GREEDY, 5, steer(vector, 1e-30))])


def test_a_row_of_nan_fails_alone_and_says_why(vllm: Engine) -> None:
    huge = SteeringVector(make_vector(width=WIDTH).directions * 0 + 1e38, (1,), "resid_post")
    fine = Request(prompt(1), GREEDY, 5, CASES["add"])
    expected = answers(vllm, [fine])[0].tokens
    broken, good = [
        vllm.submit(request)
        for request in (Request(prompt(2), GREEDY, 5, resolve(huge, magnitude=9)), fine)
    ]
    with pytest.raises(EngineError, match=r"NaN.*magnitude"):
        broken.result(60)
    assert good.result(60).tokens == expected


def test_a_vector_of_another_width_is_refused_and_the_engine_goes_on(vllm: Engine) -> None:
    wide = make_vector(width=WIDTH + 1)
    for parts in ({"interventions": resolve(wide)}, {"monitor": directions_of(wide, "wide")}):
        with pytest.raises(VectorError, match=f"{WIDTH + 1}.*{WIDTH}"):
            answers(vllm, [Request(prompt(1), GREEDY, 5, **parts)])
    assert answers(vllm, [Request(prompt(1), GREEDY, 5)])[0].tokens


def test_a_prompt_that_fills_the_context_is_refused_and_the_engine_goes_on(vllm: Engine) -> None:
    with pytest.raises(EngineError, match="vLLM refuses a request"):
        answers(vllm, [Request((5,) * 600, GREEDY, 5)])
    assert answers(vllm, [Request(prompt(1), GREEDY, 5)])[0].tokens


def test_vectors_are_built_beside_it_and_the_tokenizer_is_one_s_own(vllm: Engine) -> None:
    depth = vllm.call(lambda loaded, session: loaded.shape.num_layers).result(60)
    assert depth == LAYERS
    assert vllm.tokenizer().result(60).decode([70, 71])


def test_telemetry_says_which_engine_it_is(vllm: Engine) -> None:
    answers(vllm, [Request(prompt(1), GREEDY, 5)])
    telemetry = vllm.telemetry()
    assert (telemetry.engine, telemetry.cuda_graphs, telemetry.family) == ("vllm", False, "qwen3")
    assert telemetry.requests > 0
    assert telemetry.tokens_per_s > 0


def test_adapters_act_on_their_own_rows_and_at_their_scale(
    model: Path, hf: Engine, vllm: Engine, tmp_path: Path
) -> None:
    """An adapter comes while the model runs without room for any: it is loaded again."""
    trained = save_adapter(model, tmp_path / "lora", size=0.1)
    requests = [
        Request(prompt(3), GREEDY, 8, CASES["add"], top_logprobs=1, adapter=adapter)
        for adapter in (adapter_at(model, trained), None, adapter_at(model, trained, 0.5))
    ]
    expected, got = answer(hf, requests), answers(vllm, requests)
    assert [result.tokens for result in got] == [result.tokens for result in expected]
    firsts = [result.logprobs[0].logprob for result in got]
    assert len(set(firsts)) == 3
    for one, other in zip(expected, got, strict=True):
        assert abs(one.logprobs[0].logprob - other.logprobs[0].logprob) < 1e-3


def test_a_released_engine_loads_its_weights_again(vllm: Engine) -> None:
    request = Request(prompt(4), GREEDY, 6, CASES["add"])
    before = answers(vllm, [request])[0].tokens
    release_engines()
    assert answers(vllm, [request])[0].tokens == before


def test_a_model_that_breaks_vllm_down_fails_every_row_and_nobody_waits(tmp_path: Path) -> None:
    """Its heads are too narrow for the kernels, which vLLM finds out when it first uses them."""
    engine = on("vllm", save_tiny(tmp_path / "narrow", "gpt2"))
    futures = [engine.submit(Request(prompt(1), GREEDY, 5, case)) for case in CASES.values()]
    for future in futures:
        with pytest.raises(EngineError, match=r"vLLM (broke down|can't load).*engine=hf"):
            future.result(300)
    engine.release()


def test_parts_of_a_request_are_the_same_after_their_way_to_the_workers() -> None:
    for items in [*CASES.values(), *MONITORS]:
        kind: Any = type(items[0]) if items else Direction
        back = unpack(kind, pack(items))
        assert len(back) == len(items)
        for one, other in zip(items, back, strict=True):
            assert type(one) is type(other)
            for name, value in vars(one).items():
                same = getattr(other, name)
                assert torch.equal(value, same) if torch.is_tensor(value) else value == same


def test_a_step_that_misses_a_site_is_told_to_its_steered_and_read_rows_only() -> None:
    from torch import nn

    from steering.engines._vllm import _Steering

    root = nn.Module()
    root.layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(LAYERS)])
    steering = _Steering(root, root, LAYERS, torch.device("cpu"))
    steering.register("steer", pack(CASES["add"]), pack(()))
    steering.register("read", pack(()), pack(MONITORS[0]))
    steering.begin([("a", "steer", 0, 3, 3), ("b", None, 0, 2, 2), ("c", "read", 4, 1, 4)])
    steering.end(None)
    steered, untouched, read = steering.report(["a", "b", "c"])
    assert "did not run" in steered[1]
    assert "did not run" in read[1]
    assert (untouched, read[2]) == ((0.0, "", b""), b"")


def test_the_command_line_runs_a_task_on_it(tmp_path: Path) -> None:
    """The default vector is built by the other engine; every answer says how it came about."""
    repository = Path(__file__).parent.parent
    process = subprocess.run(
        [
            str(Path(sys.executable).parent / "inspect"), "eval", "evals/em_freeform.py",
            "--model", "steered/toy-llama", "-M", "engine=vllm", "-M", "monitor=default",
            "-T", "num_questions=2",
            "-T", "samples_per_question=4", "--log-dir", str(tmp_path / "logs"),
            "--log-format", "json", "--display", "plain",
        ],
        cwd=repository,
        env=os.environ | {"STEERING_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    [path] = (tmp_path / "logs").glob("*.json")
    log = json.loads(path.read_text())
    assert log["eval"]["model"] == "steered/toy-llama[medical x1 vllm]"
    telemetry = [sample["output"]["metadata"] for sample in log["samples"]]
    assert len(telemetry) >= 8
    assert {entry["engine"]["engine"] for entry in telemetry} == {"vllm"}
    assert all(change > 0 for entry in telemetry for change in entry["steering"]["largest_change"])
    for entry in telemetry:
        record = entry["steering"]["monitor"]
        assert [direction["steers"] for direction in record["directions"]] == [True]
        for [reading] in (item["readings"] for item in record["answers"] if item["tokens"]):
            # What is added lies along the direction.
            assert reading["projection"]["mean"] > reading["projection_before"]["mean"] + 0.1
