"""Every method builds where blocks return tuples, mix in several ways or share keys and values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import building_reference as reference
import pytest
import torch
from building import PAIRS, TARGET, build, on_model
from building_reference import Place, PlainTokens, plain_tokens
from tiny_models import LAYERS, WIDTH

from steering.training.probe import ModelProbe

Folders = Callable[[str], Path]

FAMILIES = [
    "bamba",
    "bloom",
    "codegen",
    "falcon",
    "falcon-h1",
    "gemma4-shared",
    "gpt-j",
    "gpt-neo",
    "mpt",
    "nemotron-h",
    "opt",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))


def _place(loaded: Any, layer: int, site: str) -> Place:
    return Place(loaded.model, loaded.model.get_submodule(loaded.blocks), layer, site)


def _items(loaded: Any, side: str) -> list[PlainTokens]:
    return [plain_tokens(loaded.tokenizer, row.prompt, str(getattr(row, side))) for row in PAIRS]


def _by_hooks(folder: Path, layer: int, site: str) -> tuple[torch.Tensor, float]:
    """Paired differences of mean activations [prompts, width], and the residual norm."""

    def work(loaded: Any, _: Any) -> tuple[torch.Tensor, float]:
        place = _place(loaded, layer, site)
        misaligned, aligned = (
            torch.stack(
                [
                    hidden.double().mean(0)
                    for hidden in reference.answer_activations(place, _items(loaded, side))
                ]
            )
            for side in ("misaligned", "aligned")
        )
        norm = reference.residual_norm(place, _items(loaded, "misaligned"))
        return misaligned - aligned, norm

    result: tuple[torch.Tensor, float] = on_model(folder, work)
    return result


@pytest.mark.parametrize(("layer", "site"), [(1, "resid_post"), (2, "resid_pre")])
@pytest.mark.parametrize("family", FAMILIES)
def test_closed_forms_equal_those_of_plain_hooks(
    tiny_folder: Folders, family: str, layer: int, site: str
) -> None:
    folder = tiny_folder(family)
    differences, norm = _by_hooks(folder, layer, site)
    size = differences.norm()
    mean = build(folder, method="mean_difference", length=0, layer=layer, site=site)
    error = mean.directions[0, 0].double() - differences.mean(0)
    assert error.norm() < 1e-4 * size
    assert mean.residual_norms == pytest.approx((norm,), rel=1e-4)
    principal = build(folder, method="pca", length=0, rank=2, layer=layer, site=site)
    axes = torch.linalg.svd(differences, full_matrices=False)[2][:2]
    expected = (axes @ differences.mean(0))[:, None] * axes
    assert (principal.directions[0].double() - expected).norm() < 1e-3 * size


@pytest.mark.parametrize(("layer", "site"), [(1, "resid_post"), (3, "resid_pre")])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_equals_adam_by_hand(
    tiny_folder: Folders, family: str, layer: int, site: str
) -> None:
    """All examples are in one batch, so its order plays no part."""
    folder = tiny_folder(family)
    vector = build(
        folder,
        layer=layer,
        site=site,
        training_epochs=3,
        batch_size=len(PAIRS),
        learning_rate=0.02,
    )

    def work(loaded: Any, _: Any) -> tuple[torch.Tensor, list[float]]:
        place, items = _place(loaded, layer, site), _items(loaded, "misaligned")
        norm = reference.residual_norm(place, items)
        parts = reference.start(1, WIDTH, norm, 0)
        rates = {"directions": 0.02 * norm / WIDTH**0.5}
        losses = reference.train(place, parts, rates, [(items, [], 1.0)] * 3)
        return parts["directions"].detach(), losses

    expected, losses = on_model(folder, work)
    assert vector.provenance["measured"]["loss"] == pytest.approx(losses, rel=1e-4)
    assert (vector.directions[0] - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_methods_build(tiny_folder: Folders, family: str) -> None:
    folder = tiny_folder(family)
    one = build(folder, method="one_shot", layer=1, steps=2)
    assert one.lengths[0] > 0
    control = build(folder, method="random", layer=1)
    default = build(folder, method=None, layer=1)
    assert control.lengths == pytest.approx(default.lengths, rel=1e-6)


@pytest.mark.parametrize(
    ("family", "layer", "cached"),
    [
        ("gpt-j", 1, True),
        ("bamba", 1, True),
        # Its blocks 2 and 3 read keys and values of 0 and 1, so these run every time.
        ("gemma4-shared", 1, False),
        ("gemma4-shared", LAYERS - 1, True),
    ],
)
def test_blocks_below_run_once_unless_blocks_above_read_their_keys(
    tiny_folder: Folders, family: str, layer: int, cached: bool
) -> None:
    def work(loaded: Any, session: Any) -> int:
        probe = ModelProbe(loaded, session, layer, "resid_post")
        items = probe.tokenize_misaligned(TARGET.examples)
        probe.keep_below(items)
        calls: list[int] = []
        inside = next(loaded.model.get_submodule(loaded.blocks)[0].children())
        hook = inside.register_forward_hook(lambda *_: calls.append(0))
        probe.mean_loss(items, ())
        hook.remove()
        return len(calls)

    assert on_model(tiny_folder(family), work) == (0 if cached else 1)
