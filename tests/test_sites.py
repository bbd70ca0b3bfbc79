"""Which part of a block is its MLP: never a mixer, never the stream, and never a guess."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import GREEDY, answer, blocks, loaded, plain, prompt, steer
from hook_reference import check_greedy
from model_families import LAYERS
from torch import nn

from steering.engines import Request, shared_engine
from steering.errors import SteeringError
from steering.models import ModelError, find_blocks, find_mlp, find_model


class _Block(nn.Module):
    """A block of these parts."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class _GraniteMoeMambaLayer(nn.Linear):
    """A mixer whose class has the name of a mixture of experts within its own."""


class _TinyMoE(nn.Linear):
    pass


class _AddingMLP(nn.Module):
    """An MLP that adds the residual stream itself."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, hidden: Any, residual: Any) -> Any:
        return self.down(self.up(hidden)) + residual


ATTENTION, NORM = nn.MultiheadAttention(4, 1), nn.LayerNorm(4)
FEED, OTHER, PACKED = (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)) for _ in range(3))
# As vLLM leaves a linear layer on CPUs.
for layer in PACKED:
    layer.weight = nn.Parameter(torch.empty(0))


@pytest.mark.parametrize(
    ("parts", "mlp"),
    [
        ({"norm": NORM, "self_attn": ATTENTION, "feed_forward": FEED}, "feed_forward"),
        ({"ffn": FEED, "attention": ATTENTION, "norm": NORM}, "ffn"),
        ({"mlp": FEED, "per_layer_projection": nn.Linear(4, 4)}, "mlp"),
        ({"feed_forward": FEED, "mamba": nn.Linear(4, 4), "self_attn": ATTENTION}, "feed_forward"),
        ({"shared_mlp": FEED, "mamba": _GraniteMoeMambaLayer(4, 4)}, "shared_mlp"),
        ({"norm": NORM, "mixer": _TinyMoE(4, 4)}, "mixer"),
        ({"self_attn": ATTENTION, "fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)}, "fc2"),
        ({"mlp_norm": NORM, "mlp": FEED, "conv": nn.Linear(4, 4)}, "mlp"),
        ({"mlp_norm": NORM, "mlp": PACKED, "self_attn": ATTENTION}, "mlp"),
    ],
)
def test_the_mlp_is_taken_and_not_what_stands_behind_it(
    parts: dict[str, nn.Module], mlp: str
) -> None:
    assert find_mlp(_Block(**parts)) == mlp


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"self_attn": ATTENTION, "norm": NORM},
            r"self_attn \(MultiheadAttention\), norm.*resid_post.*-M mlp=",
        ),
        ({"norm": NORM, "mixer": _GraniteMoeMambaLayer(4, 4)}, r"no part.*mixer \(_Gr.*-M mlp"),
        ({"self_attn": ATTENTION, "other": nn.Linear(4, 4)}, r"no part.*other \(Linear\).*-M mlp"),
        ({"block_sparse_moe": FEED, "shared_mlp": OTHER}, "sparse_moe and shared_mlp of.*-M mlp="),
        ({"mlp": FEED, "experts": OTHER}, "mlp and experts of _Block"),
        ({"mlp": _AddingMLP()}, r"_AddingMLP adds the residual stream.*mlp\.up, mlp\.down"),
    ],
)
def test_a_choice_is_left_to_the_user(parts: dict[str, nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_mlp(_Block(**parts))


def test_the_part_that_the_user_names_is_taken() -> None:
    block = _Block(mlp=_AddingMLP(), other=nn.Linear(4, 4))
    assert find_mlp(block, "mlp.down") == "mlp.down"
    assert find_mlp(block, "other") == "other"
    for wrong in ("feed_forward", ""):
        with pytest.raises(ModelError, match=rf"mlp={wrong} is not a part of _Block.*mlp.*other"):
            find_mlp(block, wrong)


def test_several_lists_of_blocks_are_a_choice_too() -> None:
    def lists(**named: int) -> nn.Module:
        return _Block(**{
            name: nn.ModuleList(_Block(mlp=FEED) for _ in range(length))
            for name, length in named.items()
        })  # fmt: skip

    with pytest.raises(ModelError, match=r"several lists of 3 blocks: low, high.*-M blocks=low"):
        find_blocks(lists(low=3, high=3), 3)
    assert find_blocks(lists(vision=3, language_model=3), 3) == "language_model"
    assert find_blocks(lists(low=3, high=3), 3, "high") == "high"
    # Neither as many norms nor as many experts of a block are blocks.
    model = lists(blocks=3)
    model.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))
    model.blocks[0].experts = nn.ModuleList(_Block(mlp=FEED) for _ in range(3))
    assert find_blocks(model, 3) == "blocks"


HYBRIDS = {
    "falcon-h1": ("feed_forward", None),
    "granite4": ("shared_mlp", None),
    "granite4-moe": ("block_sparse_moe", "block_sparse_moe"),
    "nemotron-h": ("mixer", None),
}


@pytest.mark.parametrize("family", HYBRIDS)
def test_mlp_out_is_at_the_module_that_was_named_by_hand(
    family: str, tiny_folder: Callable[[str], Path]
) -> None:
    """In blocks with a state-space mixer too; the other families are in test_families."""
    mlp, named = HYBRIDS[family]
    engine = shared_engine(find_model(str(tiny_folder(family)), mlp=named), device="cpu")
    engine.allow_batch(8)
    # Of nemotron-h's blocks, those that are an MLP or a mixture of experts.
    layers = [2, 3] if family == "nemotron-h" else range(LAYERS)
    requests = [
        Request(
            prompt(layer),
            GREEDY,
            3,
            steer(plain([layer], site="mlp_out"), operation="ablate")
            + steer(plain([layer], site="mlp_out"), 4),
            top_logprobs=1,
        )
        for layer in layers
    ]
    results = answer(engine, requests)
    model = loaded(engine)
    for request, result in zip(requests, results, strict=True):
        logits = check_greedy(
            model.model, blocks(model), request, result.tokens, model.end_tokens, mlp
        )
        expected = logits.log_softmax(-1).max(-1).values
        logprobs = torch.tensor([item.logprob for item in result.logprobs])
        assert torch.allclose(logprobs, expected, atol=2e-4), request
    engine.release()


@pytest.mark.parametrize(
    ("family", "layer", "message"),
    [
        ("granite4-moe", 1, "block_sparse_moe and shared_mlp of GraniteMoeHybridDecoderLayer"),
        ("nemotron-h", 0, r"no part that is known as its MLP.*mixer \(NemotronHMamba2Mixer\)"),
        ("nemotron-h", 1, r"no part that is known as its MLP.*mixer \(NemotronHAttention\)"),
        ("bloom", 1, r"BloomMLP adds the residual stream.*mlp\.dense_4h_to_h"),
        ("mpt", 1, r"MptMLP adds the residual stream.*ffn\.down_proj"),
        # The output of its MLP has lost which tokens are of which row.
        ("opt", 1, r"2 dimensions \(\d+, 32\).*another site"),
    ],
)
def test_an_engine_refuses_a_site_that_it_would_guess(
    family: str, layer: int, message: str, tiny_folder: Callable[[str], Path]
) -> None:
    engine = shared_engine(find_model(str(tiny_folder(family))), device="cpu")
    case = steer(plain([layer], site="mlp_out"), 1)
    with pytest.raises(SteeringError, match=message):
        answer(engine, [Request(prompt(1), GREEDY, 2, case)])
    # The next request is answered.
    answer(engine, [Request(prompt(1), GREEDY, 2, ())])
    engine.release()
