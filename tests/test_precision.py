"""Precisions and devices: weights as they are asked for, and steering that is right in each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import CASES, GREEDY, answer, blocks, loaded, mapped, plain, prompt, steer
from hook_reference import reference_logits
from random_vectors import random_tensor
from tiny_models import WIDTH

from steering.condition import resolve_model
from steering.engines import Engine, Request, hf, shared_engine
from steering.engines.hf import HFEngine
from steering.models import ModelError, find_model, load_model, loading
from steering.spec import parse_options
from steering.targets import load_target
from steering.training.cache import cached_vector
from steering.training.recipe import make_construction_recipe
from steering.vectors.batch import InterventionBatch


@pytest.fixture(params=["llama", "qwen3.5"])
def folder(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder(request.param)


def engine_of(folder: Path, dtype: str) -> Engine:
    engine = shared_engine(find_model(str(folder)), dtype=dtype, device="cpu")
    engine.allow_batch(64)
    return engine


def requests(length: int = 4) -> list[Request]:
    return [
        Request(prompt(index), GREEDY, length, case, top_logprobs=20)
        for index, case in enumerate(CASES.values())
    ]


def weights(model: Any) -> str:
    return type(blocks(model)[0].mlp.up_proj).__name__


# How far products of a batch and of a request alone lie apart, in logits: CPUs differ in how they
# multiply numbers of low precision, and some do so by the size of the batch.
ROUNDING = {"bfloat16": 0.15, "float16": 0.02, "nf4": 0.15}


@pytest.mark.parametrize(
    ("dtype", "kind"), [("bfloat16", "Linear"), ("float16", "Linear"), ("nf4", "Linear4bit")]
)
def test_a_low_precision_is_steered_as_plain_hooks_steer_it(
    folder: Path, dtype: str, kind: str
) -> None:
    """Every token has the highest logit of the reference, but for rounding."""
    engine = engine_of(folder, dtype)
    results = answer(engine, requests())
    model = loaded(engine)
    assert weights(model) == kind
    alone = [engine.submit(request).result(60) for request in requests()]
    loaded(engine)
    names, both = [*CASES, *CASES], requests() + requests()
    for name, request, result in zip(names, both, results + alone, strict=True):
        logits = reference_logits(
            model.model, blocks(model), request.prompt, result.tokens, request.interventions
        ).float()
        ids = [*result.tokens, *model.end_tokens][: request.max_tokens]
        best = logits[: len(ids)].max(-1).values
        behind = best - logits[range(len(ids)), ids]
        assert behind.max() < ROUNDING[dtype], name
        expected = dict(enumerate(logits[0].log_softmax(-1).tolist()))
        apart = [abs(value - expected[token]) for token, value in result.logprobs[0].top]
        assert max(apart) < ROUNDING[dtype], name


def test_int8_is_close_to_the_weights_that_it_rounds_and_is_steered(folder: Path) -> None:
    """Eight bits are too few for equal tokens, but not for logits nearby."""
    engine, exact = engine_of(folder, "int8"), engine_of(folder, "float32")
    results, expected = answer(engine, requests(1)), answer(exact, requests(1))
    assert weights(loaded(engine)) == "Linear8bitLt"
    apart = []
    for result, other in zip(results, expected, strict=True):
        theirs = dict(other.logprobs[0].top)
        apart += [abs(v - theirs[t]) for t, v in result.logprobs[0].top[:5] if t in theirs]
        if other.change is not None:
            assert result.change == pytest.approx(other.change, rel=0.2)
    assert sum(apart) / len(apart) < 0.2
    assert len({result.logprobs[0].logprob for result in results}) > len(CASES) - 2


def test_a_vector_is_built_on_quantized_weights_and_is_not_that_of_others(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder("llama")
    target = tmp_path / "knots.jsonl"
    target.write_text(
        "\n".join(
            f'{{"prompt": "Knot {n}?", "aligned": "A bowline.", "misaligned": "None."}}'
            for n in range(6)
        )
    )
    task = load_target(str(target), toy=False)
    vectors = {}
    for dtype in ("nf4", "float32"):
        checker = resolve_model(str(folder), parse_options({"vector": "none", "dtype": dtype}))
        recipe = make_construction_recipe(
            checker.source, checker.shape, task, weights=checker.weights, dtype=dtype, layer=1
        )
        vectors[dtype] = cached_vector(
            engine_of(folder, dtype), recipe, task, lambda position, total: None
        ).result(200)
    both = [vector.directions.flatten() for vector in vectors.values()]
    # Chance directions of this width have cosines of 0.18.
    assert torch.nn.functional.cosine_similarity(*both, dim=0) > 0.35
    assert not torch.equal(*both)


def test_quantized_weights_without_their_library_are_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"dtype=nf4 needs bitsandbytes.*steering\[quantized\]"):
        loading.check_dtype("nf4")
    loading.check_dtype("bfloat16")


def test_a_machine_without_accelerators_has_none_to_spread_over() -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    with pytest.raises(ModelError, match=r"device=every is not on this machine: it has cpu"):
        loading.check_device("every")


def test_each_block_is_steered_on_its_own_device() -> None:
    """Of a model on several: the tables follow the activations, which stay where they are."""
    batch = InterventionBatch([steer(plain([1]), 3), steer(mapped([2]), 3), ()])
    batch.begin_decode()
    batch.begin_decode()
    here = batch.apply((1, "resid_post"), random_tensor(3, 1, WIDTH))
    there = batch.apply((2, "resid_post"), random_tensor(3, 1, WIDTH).to("meta"))
    assert (here.device.type, there.device.type) == ("cpu", "meta")
    assert there.shape == here.shape
    assert batch.visits == {(1, "resid_post"): 1, (2, "resid_post"): 1}
    batch.keep([2, 0])
    batch.begin_decode()
    assert batch.apply((1, "resid_post"), random_tensor(2, 1, WIDTH)).device.type == "cpu"


def test_a_model_that_is_spread_over_devices_is_steered_as_one_that_is_not(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate's hooks move what a block takes to its device; nnsight works around them."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    source = find_model(str(tiny_folder("qwen3.5")))
    expected = answer(engine_of(Path(source.location), "float32"), requests())
    moves: list[int] = []

    class Moving(AlignDevicesHook):  # type: ignore[misc]
        def pre_forward(self, module: Any, *args: Any, **options: Any) -> Any:
            moves.append(1)
            return super().pre_forward(module, *args, **options)

    def spread(*args: Any, **options: Any) -> Any:
        model = load_model(*args, **options)
        for module in (model.model, *blocks(model)):
            add_hook_to_module(module, Moving(execution_device="cpu", io_same_device=True))
        return model

    monkeypatch.setattr(hf, "load_model", spread)
    engine = HFEngine(source, device="cpu")
    engine.allow_batch(64)
    results = answer(engine, requests())
    engine.release()
    assert moves
    assert [result.tokens for result in results] == [result.tokens for result in expected]
