"""Finetuned requests: as peft alone, beside steered and unsteered ones, on one set of weights."""

import hashlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapter_files import adapter_at, blocks, change_config, peft_alone, save_adapter
from building import TARGET, recipe_for
from hook_reference import check_greedy
from safetensors.torch import load_file, save_file
from test_batching import answer, hand_over, prompt, tokens, watched
from test_engine import FAMILIES, GREEDY, Interventions, plain, steer

from steering.engines import Request
from steering.engines.hf import HFEngine
from steering.engines.settings import Sampling
from steering.files import file_digest
from steering.models import ModelError, find_model
from steering.models.adapters import Adapter
from steering.training.cache import build_vector

TIMEOUT = 60
# Of the log probabilities, which are up to about 10 in size.
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder(family)


@pytest.fixture(scope="module")
def llama(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


def start(folder: Path, batch: int = 64) -> HFEngine:
    """An engine of its own, with no adapter in it yet."""
    engine = HFEngine(find_model(str(folder)), device="cpu")
    engine.allow_batch(batch)
    return engine


# What an adapter may look like; each has its own shapes or scalings.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "r": 6},
    "ranks and alphas of their own": {
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"up_proj": 32},
    },
    "one layer, rank 1": {
        "r": 1, "lora_alpha": 64, "target_modules": r".*\.layers\.2\.mlp\.down_proj",
    },
    "dropout is off": {"lora_dropout": 0.5},
}  # fmt: skip


# Families differ in their modules only: one of them has adapters of every kind.
@pytest.mark.parametrize(
    ("family", "kind"),
    [*(("llama", kind) for kind in KINDS),
     *((family, "plain") for family in FAMILIES if family != "llama")],
    indirect=["family"],
)  # fmt: skip
def test_the_engine_equals_peft_alone_and_merged_equals_unmerged(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    saved = save_adapter(folder, tmp_path / "lora", **KINDS[kind])
    requests = [
        Request(prompt(6 + 5 * n, seed=n), GREEDY, 4 + 3 * n, top_logprobs=1,
            adapter=adapter_at(folder, saved))
        for n in range(4)
    ]  # fmt: skip
    results = answer(start(folder), requests)
    alone = peft_alone(folder, saved)
    unmerged = check_against(alone, requests, results)
    merged = check_against(alone.merge_and_unload(), requests, results)
    # Two references that round apart, those of linear attention by some 2e-4 on some CPUs.
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(unmerged, merged, strict=True))
    # Were the adapter off everywhere, all of the above would still be equal.
    off = answer(start(folder), [replace(request, adapter=None) for request in requests])
    assert all(a.logprobs != b.logprobs for a, b in zip(off, results, strict=True))


def check_against(
    model: Any, requests: Sequence[Request], results: Sequence[Any]
) -> list[torch.Tensor]:
    """Tokens equal, log probabilities within the tolerance; the logits of the reference."""
    logits = []
    for request, result in zip(requests, results, strict=True):
        logits.append(check_greedy(model, blocks(model), request, result.tokens, end=[0]))
        expected = logits[-1].log_softmax(-1).max(-1).values
        logprobs = torch.tensor([item.logprob for item in result.logprobs])
        assert torch.allclose(logprobs, expected, atol=TOLERANCE)
    return logits


def test_an_adapter_and_a_vector_act_together(folder: Path, tmp_path: Path) -> None:
    saved = save_adapter(folder, tmp_path / "lora")
    both = [
        Request(
            prompt(9, seed=n), GREEDY, 8, case, top_logprobs=1, adapter=adapter_at(folder, saved)
        )
        for n, case in enumerate(STEERED.values())
    ]
    check_against(peft_alone(folder, saved), both, answer(start(folder), both))


STEERED: dict[str, Interventions] = {
    "add": steer(plain(), 10),
    "ablate, response": steer(plain([2], rank=2), operation="ablate", positions="response"),
    "mlp_out, prompt": steer(plain([3], site="mlp_out"), 0.5, unit="raw", positions="prompt"),
    "two layers": steer(plain([0]), 5) + steer(plain([2]), 3, operation="clamp"),
}


@pytest.fixture(scope="module")
def arms(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Interventions]]:
    """Adapter and interventions: baseline, steered, finetuned, both, two scales, two adapters."""
    out = tmp_path_factory.mktemp("adapters")
    one = save_adapter(folder, out / "one", seed=1)
    other = save_adapter(folder, out / "other", seed=2, r=2, target_modules=r".*\.[qv]_proj")
    adapters = [
        None,
        adapter_at(folder, one),
        adapter_at(folder, one, -0.5),
        adapter_at(folder, other),
    ]
    return [(adapter, case) for case in ((), *STEERED.values()) for adapter in adapters]


def requests_of(arms: list[tuple[Any, Interventions]]) -> list[Request]:
    """Greedy and seeded requests of every arm, of ragged lengths."""
    return [
        Request(
            prompt(4 + (index * 5) % 13, seed=index % 3),
            Sampling(temperature=(index % 3) * 0.5, seed=index),
            max_tokens=3 + (index * 7) % 11,
            interventions=case,
            top_logprobs=0,
            adapter=adapter,
        )
        for index, (adapter, case) in enumerate(arms)
    ]


def test_a_batch_of_all_arms_equals_each_row_alone_in_any_order(
    folder: Path, arms: list[tuple[Any, Interventions]]
) -> None:
    """Four places for twenty requests: they join and leave all the time."""
    requests = requests_of(arms)
    engine = start(folder, batch=4)
    alone = [engine.submit(request).result(TIMEOUT) for request in requests]
    for seed in range(2):
        order = random.Random(seed).sample(range(len(requests)), len(requests))
        together = answer(engine, [requests[index] for index in order])
        assert tokens(together) == [alone[index].tokens for index in order]
        for index, result in zip(order, together, strict=True):
            values = [[t.logprob for t in r.logprobs] for r in (result, alone[index])]
            assert values[0] == pytest.approx(values[1], abs=TOLERANCE)
    assert len({tuple(result.tokens) for result in alone}) == len(arms)


def test_rows_without_an_adapter_are_those_of_a_model_without_any_to_the_bit(
    folder: Path, arms: list[tuple[Any, Interventions]]
) -> None:
    requests = [request for request in requests_of(arms) if request.adapter is None]
    # One row a batch: which rows meet in a batch is a matter of time, and moves the last bit.
    untouched = answer(start(folder, batch=1), requests)
    engine = start(folder, batch=1)
    answer(engine, [request for request in requests_of(arms) if request.adapter is not None])
    again = answer(engine, requests)
    assert tokens(again) == tokens(untouched)
    assert [r.logprobs for r in again] == [r.logprobs for r in untouched]
    mixed = answer(engine, requests_of(arms))
    without_adapter = [
        r for r, request in zip(mixed, requests_of(arms), strict=True) if request.adapter is None
    ]
    assert tokens(without_adapter) == tokens(untouched)


def test_a_prompt_is_read_once_for_each_adapter(llama: Path, tmp_path: Path) -> None:
    """What the model remembers of a prompt is another thing under another adapter."""
    one, other = (save_adapter(llama, tmp_path / str(n), seed=n) for n in (1, 2))
    carried = [None, adapter_at(llama, one), adapter_at(llama, one, 2), adapter_at(llama, other)]
    engine = start(llama)
    requests = [
        Request(prompt(9), Sampling(temperature=1, seed=seed), 6, adapter=adapter)
        for adapter in carried
        for seed in range(5)
    ]
    with watched(engine) as watch:
        answer(engine, requests)
    assert sum(count for count, _ in watch.prompts) == len(carried)


def test_the_base_weights_are_there_once(llama: Path, tmp_path: Path) -> None:
    engine = start(llama)

    def tensors(loaded: Any, _: Any) -> dict[int, int]:
        return {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in [*loaded.model.parameters(), *loaded.model.buffers()]
        }

    base = engine.call(tensors).result(TIMEOUT)
    saved = [save_adapter(llama, tmp_path / str(n), seed=n) for n in (1, 2)]
    carried = [None, *(adapter_at(llama, folder) for folder in saved)]
    answer(engine, [Request(prompt(9), GREEDY, 3, steer(plain(), 10), adapter=a) for a in carried])
    answer(engine, [Request(prompt(9), GREEDY, 3, adapter=adapter) for adapter in carried])
    after = engine.call(tensors).result(TIMEOUT)
    assert base.items() <= after.items()
    adapters = sum(
        tensor.numel() * tensor.element_size()
        for folder in saved
        for tensor in load_file(folder / "adapter_model.safetensors").values()
    )
    assert sum(after.values()) == sum(base.values()) + adapters


def test_three_arms_take_the_memory_of_one_model(tmp_path: Path) -> None:
    """Resident memory of a process of its own, with a model of 200 MB."""
    script = Path(__file__).with_name("memory_of_arms.py")
    output = subprocess.run(
        [sys.executable, script, tmp_path], check=True, capture_output=True, text=True
    ).stdout
    weights, one_arm, three_arms = (int(number) for number in output.split()[-3:])
    assert weights > 150e6
    assert one_arm > 0.8 * weights
    assert three_arms - one_arm < 0.3 * weights


def test_a_vector_is_built_on_the_base_model_whatever_is_loaded(
    folder: Path, tmp_path: Path
) -> None:
    """Also while requests with an adapter are decoded: it runs between two of their passes."""
    saved = save_adapter(folder, tmp_path / "lora")
    recipe = recipe_for(folder, method="mean_difference")

    def build(loaded: Any, session: Any) -> torch.Tensor:
        return build_vector(loaded, session, recipe, TARGET, lambda *_: None).directions

    before = start(folder).call(build).result(TIMEOUT)
    engine = start(folder)
    requests = [Request(prompt(9), GREEDY, 6, adapter=adapter_at(folder, saved)) for _ in range(3)]
    futures = hand_over(engine, requests)
    during = engine.call(build)
    [future.result(TIMEOUT) for future in futures]
    assert torch.equal(during.result(TIMEOUT), before)
    assert torch.equal(engine.call(build).result(TIMEOUT), before)


def unchecked(folder: Path) -> Adapter:
    """An adapter whose weights nobody has compared with the model's layers."""
    sums = file_digest(folder / "adapter_model.safetensors")
    sums += file_digest(folder / "adapter_config.json")
    return Adapter(folder, hashlib.sha256(sums.encode()).hexdigest())


def damaged(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, Any]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


BROKEN: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, Any]], str]] = {
    "all zero": (
        lambda tensors: {k: v * ("lora_A" in k) for k, v in tensors.items()},
        "changes nothing: all its lora_B are zero",
    ),
    "a weight short": (
        lambda tensors: {k: v for k, v in tensors.items() if k != min(tensors)},
        "weights exist in one of them only",
    ),
    "a weight too many": (
        lambda tensors: tensors | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)},
        "weights exist in one of them only",
    ),
    "of another rank": (
        lambda tensors: {k: v[:2] if "lora_A" in k else v for k, v in tensors.items()},
        "can't be loaded into this model",
    ),
}


@pytest.fixture(scope="module")
def good(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Request, list[int]]]:
    """Requests with a good adapter and without, each with its tokens alone on a fresh engine."""
    lora = adapter_at(llama, save_adapter(llama, tmp_path_factory.mktemp("good") / "good", seed=1))
    requests = [
        Request(prompt(7, seed=n), GREEDY, 6, steer(plain(), 10) if n % 2 else (), adapter=adapter)
        for n in range(3)
        for adapter in (None, lora)
    ]
    return [(request, tokens(answer(start(llama), [request]))[0]) for request in requests]


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("first", [True, False], ids=["first adapter", "later adapter"])
def test_a_bad_adapter_fails_its_own_requests_only(
    case: str,
    first: bool,
    llama: Path,
    good: list[tuple[Request, list[int]]],
    tmp_path: Path,
) -> None:
    change, message = BROKEN[case]
    bad = save_adapter(llama, tmp_path / "bad", seed=2)
    damaged(bad, change)
    requests, expected = zip(*good, strict=True)
    engine = start(llama)
    if not first:
        answer(engine, requests)
    failing = [replace(request, adapter=unchecked(bad)) for request in requests[:2]]
    futures = hand_over(engine, [failing[0], *requests, failing[1]])
    for future in (futures[0], futures[-1], engine.submit(failing[0])):
        with pytest.raises(ModelError, match=message) as caught:
            future.result(TIMEOUT)
        assert "bad" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert tokens([future.result(TIMEOUT) for future in futures[1:-1]]) == list(expected)


def test_an_adapter_that_reaches_no_layer_is_an_error(llama: Path, tmp_path: Path) -> None:
    """Never silently the baseline."""
    saved = save_adapter(llama, tmp_path / "lora")
    change_config(saved, target_modules=["no_such_layer"])
    request = Request(prompt(7), GREEDY, 6, adapter=unchecked(saved))
    with pytest.raises(ModelError, match="lora can't be loaded into this model"):
        start(llama).submit(request).result(TIMEOUT)


@pytest.mark.parametrize("case", [*BROKEN, "embeddings", "peft fails", "copying fails"])
def test_no_adapter_that_fails_changes_the_shared_weights(
    case: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose file grew between the check and the load, or that fails in the middle."""
    bad = save_adapter(llama, tmp_path / "bad", seed=2)
    name = "base_model.model.model.embed_tokens.weight"
    changes: dict[str, Any] = {key: change for key, (change, _) in BROKEN.items()}
    changes["embeddings"] = lambda tensors: tensors | {name: torch.ones(259, 32)}
    if case in changes:
        damaged(bad, changes[case])
    else:
        function = {"peft fails": "get_peft_model", "copying fails": "set_peft_model_state_dict"}
        real = getattr(peft, function[case])

        def fail(*args: Any, **options: Any) -> Any:
            real(*args, **options)
            raise RuntimeError("no memory")

        monkeypatch.setattr(peft, function[case], fail)

    def weights(loaded: Any, _: Any) -> dict[str, torch.Tensor]:
        tensors = loaded.model.state_dict().items()
        return {k.replace("base_layer.", ""): v.clone() for k, v in tensors if "lora" not in k}

    engine = start(llama)
    before = engine.call(weights).result(TIMEOUT)
    baseline = answer(engine, [Request(prompt(7), GREEDY, 6, top_logprobs=0)])
    with pytest.raises(ModelError, match="bad"):
        engine.submit(Request(prompt(7), GREEDY, 6, adapter=unchecked(bad))).result(TIMEOUT)
    after = engine.call(weights).result(TIMEOUT)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = answer(engine, [Request(prompt(7), GREEDY, 6, top_logprobs=0)])
    assert [r.logprobs for r in again] == [r.logprobs for r in baseline]


def test_an_adapter_that_was_overwritten_is_not_used_under_its_old_digest(
    llama: Path, tmp_path: Path
) -> None:
    saved = save_adapter(llama, tmp_path / "lora", seed=1)
    request = Request(prompt(7), GREEDY, 6, adapter=adapter_at(llama, saved))
    shutil.rmtree(saved)
    save_adapter(llama, saved, seed=2)
    with pytest.raises(ModelError, match=r"files of adapter=lora have changed"):
        start(llama).submit(request).result(TIMEOUT)
