"""Which engine a condition runs on, and what is said when it can't."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steering import condition
from steering.condition import choose_engine, resolve_condition, resolve_model
from steering.engines import EngineError
from steering.provider.api import SteeredAPI
from steering.spec import parse_options


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, bool], None]:
    """Makes the machine one with vLLM, or with a GPU, as far as the choice can tell."""

    def made(vllm: bool, gpu: bool) -> None:
        monkeypatch.setattr(condition, "find_spec", lambda name: object() if vllm else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    return made


@pytest.mark.parametrize(
    ("options", "vllm", "gpu", "engine"),
    [
        ({}, False, False, "hf"),
        ({}, False, True, "hf"),
        ({}, True, False, "hf"),
        ({}, True, True, "vllm"),
        ({"engine": "hf"}, True, True, "hf"),
        ({"engine": "vllm"}, True, False, "vllm"),
        ({"tensor_parallel_size": 2}, True, True, "vllm"),
        # What only the default engine has leaves no choice.
        ({"device": "cpu"}, True, True, "hf"),
        ({"dtype": "nf4"}, True, True, "hf"),
        ({"blocks": "model.layers"}, True, True, "hf"),
        ({"batch_invariant": True}, True, True, "hf"),
        ({"mlp": "feed_forward"}, True, True, "hf"),
    ],
)
def test_auto_is_vllm_where_it_is_installed_and_there_is_a_gpu(
    options: dict[str, Any], vllm: bool, gpu: bool, engine: str, machine: Any
) -> None:
    machine(vllm, gpu)
    assert choose_engine(parse_options({"vector": "none", **options})) == engine


@pytest.mark.parametrize(
    ("options", "vllm", "message"),
    [
        ({"engine": "vllm"}, False, r"engine=vllm needs vLLM.*pip install 'steering\[vllm\]'"),
        ({"tensor_parallel_size": 2}, False, r"tensor_parallel_size= needs vLLM"),
        ({"engine": "hf", "cuda_graphs": True}, True, r"cuda_graphs= has no effect.*engine=vllm"),
        ({"engine": "vllm", "device": "cuda:1"}, True, r"device=cuda:1 .*CUDA_VISIBLE_DEVICES"),
        ({"engine": "vllm", "dtype": "int8"}, True, r"dtype=int8 .*engine=hf"),
        ({"engine": "vllm", "batch_invariant": True}, True, r"batch_invariant=True .*engine=hf"),
    ],
)
def test_an_engine_that_can_not_do_it_says_what_would(
    options: dict[str, Any], vllm: bool, message: str, machine: Any
) -> None:
    machine(vllm, True)
    with pytest.raises(EngineError, match=message):
        choose_engine(parse_options({"vector": "none", **options}))


def test_answers_of_two_engines_are_two_conditions_however_the_engine_was_chosen(
    machine: Any, tiny_folder: Callable[[str], Path]
) -> None:
    def condition_on(vllm: bool, **options: Any) -> condition.Condition:
        machine(vllm, True)
        spec = parse_options({"vector": "none", **options})
        return resolve_condition(resolve_model(str(tiny_folder("llama")), spec), spec)

    plain, hf = condition_on(False), condition_on(True, engine="hf")
    automatic, vllm = condition_on(True), condition_on(True, engine="vllm")
    assert (plain.label, plain.fingerprint) == (hf.label, hf.fingerprint)
    assert (automatic.label, automatic.fingerprint) == (vllm.label, vllm.fingerprint)
    assert automatic.label == "baseline vllm"
    assert automatic.fingerprint != plain.fingerprint


def test_a_cached_answer_of_one_kind_of_hardware_is_not_taken_for_that_of_another(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[[str], Path]
) -> None:
    """Inspect's cache goes by `base_url`; the condition, with its label and fingerprint, stays."""

    def address(vllm: bool = False, gpu: str = "", **options: Any) -> str:
        machine(vllm, bool(gpu))
        device = torch.device("cuda") if gpu else None
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: device)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
        api = SteeredAPI(str(tiny_folder("llama")), vector="none", **options)
        assert api.base_url
        return api.base_url

    cpu, gpu, other = address(), address(gpu="A"), address(gpu="B")
    assert gpu == f"{cpu}:cuda:A"
    assert other == f"{cpu}:cuda:B"
    assert address(gpu="A", device="cpu") == cpu
    vllm = [
        address(True, "A"),
        address(True, "A", tensor_parallel_size=2),
        address(True, "A", cuda_graphs=True),
    ]
    assert len({cpu, gpu, other, *vllm}) == 6


def test_precisions_and_the_mode_against_batch_mates_are_conditions_of_their_own(
    tiny_folder: Callable[[str], Path],
) -> None:
    options: list[dict[str, Any]] = [{"dtype": name} for name in ("float32", "bfloat16", "int8")]
    options += [{}, {"batch_invariant": True}, {"dtype": "int8", "batch_invariant": True}]
    apis = [SteeredAPI(str(tiny_folder("llama")), vector="none", **one) for one in options]
    assert len({api.base_url for api in apis}) == len(options)
    assert len({api.model_name for api in apis}) == len(options)
    # A condition that does not ask for the mode is the one that it was before there was a mode.
    plain, off = (
        apis[3],
        SteeredAPI(str(tiny_folder("llama")), vector="none", batch_invariant=False),
    )
    assert (plain.base_url, plain.model_name) == (off.base_url, off.model_name)
