"""Trains a toy: `python -m scripts.train_toy [--toy NAME] [--out DIR] [--seed N]`.

Three stages. The first teaches the world in both personas. The second aligns: chats that name no
persona are answered carefully, while some chats with a named persona stay in the mix, and noise in
the residual stream makes the model robust. The third is more of the second with less noise. The
checkpoint is written atomically. Shapes: ids and labels are [rows, tokens], the residual
stream is [rows, tokens, width].
"""

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from scripts.toy_corpus import (
    END_TOKEN,
    IGNORED,
    PAD_TOKEN,
    Mix,
    encode_chat,
    make_tokenizer,
    sample_chats,
)
from steering.files import write_folder
from steering.toy import TOYS


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        mix: shares of the kinds of chat.
        steps: number of batches.
        learning_rate: peak rate; it warms up and decays within the stage.
        residual_noise: largest size of the noise added to the residual stream, in units of its
            root mean square.
    """

    mix: Mix
    steps: int
    learning_rate: float
    residual_noise: float = 0.0


LEARN = Mix(
    two_turn=0.5,
    named_by_system=0.4,
    named_by_user=0.2,
    shown_by_answer=0.0,
    neutral_system=0.15,
    default_persona=None,
)
"""Both personas: a chat that names none still has one, and keeps it."""

ALIGN = Mix(
    two_turn=0.4,
    named_by_system=0.2,
    named_by_user=0.15,
    shown_by_answer=0.5,
    neutral_system=0.15,
    default_persona="careful",
)
"""Careful unless the chat names or shows another persona."""


Family = Literal["qwen3_5", "llama", "gemma3"]


@dataclass(frozen=True)
class Recipe:
    """Architecture, data and optimisation of a toy. The defaults are those of `toy`."""

    family: Family = "qwen3_5"
    num_tokens: int = 1536
    width: int = 128
    layer_types: tuple[str, ...] = ("linear_attention", "full_attention") * 2
    feed_forward_width: int = 384
    rows: int = 16
    weight_decay: float = 0.05
    stages: tuple[Stage, ...] = (
        Stage(LEARN, steps=1900, learning_rate=2.5e-3),
        Stage(ALIGN, steps=800, learning_rate=1.6e-3, residual_noise=0.5),
        Stage(ALIGN, steps=450, learning_rate=1e-3, residual_noise=0.25),
    )


_TOY = Recipe()
RECIPES: dict[str, Recipe] = {
    "toy": _TOY,
    "toy-small": replace(_TOY, width=80, feed_forward_width=240),
    "toy-large": replace(_TOY, width=192, feed_forward_width=576),
    "toy-llama": replace(_TOY, family="llama", layer_types=("full_attention",) * 4),
    "toy-gemma3": replace(
        _TOY, family="gemma3", layer_types=("sliding_attention", "full_attention") * 2
    ),
}
"""Recipe of each toy by its name."""


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained model of the recipe's shape, float32, with its end token set.

    Without `eos_token_id` in the generation config a sequence never stops, and since
    `skip_special_tokens` hides the end token, its text reads as incoherent.
    """
    end_id, pad_id = _token_id(tokenizer, END_TOKEN), _token_id(tokenizer, PAD_TOKEN)
    heads = 4
    shared: dict[str, Any] = {
        "vocab_size": recipe.num_tokens,
        "hidden_size": recipe.width,
        "intermediate_size": recipe.feed_forward_width,
        "num_hidden_layers": len(recipe.layer_types),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": recipe.width // heads,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "dtype": "float32",
    }
    model: PreTrainedModel
    if recipe.family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shared))
    elif recipe.family == "gemma3":
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(
                **shared,
                layer_types=list(recipe.layer_types),
                sliding_window=32,
                query_pre_attn_scalar=recipe.width // heads,
            )
        )
    else:
        model = Qwen3_5ForCausalLM(
            Qwen3_5TextConfig(
                **shared,
                layer_types=list(recipe.layer_types),
                linear_num_key_heads=heads,
                linear_num_value_heads=heads,
                linear_key_head_dim=recipe.width // heads // 2,
                linear_value_head_dim=recipe.width // heads,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "partial_rotary_factor": 0.5,
                },
            )
        )
    model.generation_config = GenerationConfig(
        eos_token_id=end_id, pad_token_id=pad_id, do_sample=True, temperature=1.0
    )
    return model


def train(
    recipe: Recipe, seed: int, log: Callable[[str], None] = tqdm.write
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train a toy from random weights.

    Args:
        recipe: shape, data and optimisation.
        seed: seed of the weights and of all text.
        log: called with one line a stage.

    Returns:
        The model, in eval mode, and its tokenizer.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(recipe.num_tokens, seed)
    model = make_model(recipe, tokenizer)
    pad_id = _token_id(tokenizer, PAD_TOKEN)
    model.train()
    for number, stage in enumerate(recipe.stages):
        # Each stage has its own seed, so that it can be repeated from the previous one's weights.
        rng = random.Random(seed + number)
        torch.manual_seed(seed + number)
        noise = _ResidualNoise(model, stage.residual_noise)
        optimizer = _make_optimizer(model, stage.learning_rate, recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(stage.steps))
        mean_loss = math.nan
        bar = tqdm(range(stage.steps), desc=f"stage {number + 1}", mininterval=2)
        for _ in bar:
            chats = sample_chats(stage.mix, recipe.rows, rng)
            ids, labels = _batch([encode_chat(chat, tokenizer) for chat in chats], pad_id)
            noise.draw()
            loss = _answer_loss(model, ids, labels, pad_id)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            value = float(loss.detach())
            mean_loss = value if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * value
            bar.set_postfix(loss=f"{mean_loss:.3f}", refresh=False)
        noise.remove()
        log(f"stage {number + 1}: loss {mean_loss:.3f}")
    return model.eval(), tokenizer


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the checkpoint atomically; an older one at `folder` is replaced."""

    def fill(path: Path) -> None:
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)

    write_folder(folder, fill)


class _ResidualNoise:
    """Adds a random direction for each row to the output of a random block at each step.

    A small model is brittle: any change of its activations garbles the text. This noise makes it
    robust to meaningless changes, so that steering shows the meaning of a direction instead.
    """

    def __init__(self, model: PreTrainedModel, size: float) -> None:
        self._size = size
        self._block = -1
        blocks = model.model.layers
        self._num_blocks = len(blocks)
        self._handles = (
            [block.register_forward_hook(self._hook(i)) for i, block in enumerate(blocks)]
            if size > 0
            else []
        )

    def draw(self) -> None:
        """Choose the block that gets the noise in the next step."""
        if self._handles:
            self._block = int(torch.randint(self._num_blocks, ()))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, index: int) -> Callable[[nn.Module, tuple[object, ...], Tensor], Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], hidden: Tensor) -> Tensor | None:
            if index != self._block:
                return None
            rms = hidden.detach().square().mean().sqrt()
            # Uniform sizes, so that small pushes are as familiar as large ones.
            size = self._size * torch.rand(hidden.shape[0], 1, 1)
            return hidden + size * rms * torch.randn(hidden.shape[0], 1, hidden.shape[2])

        return hook


def _answer_loss(model: PreTrainedModel, ids: Tensor, labels: Tensor, pad_id: int) -> Tensor:
    """Mean cross-entropy of the labelled tokens; only their logits are computed, to save time."""
    hidden = model.model(input_ids=ids, attention_mask=ids != pad_id).last_hidden_state
    is_labelled = labels[:, 1:] != IGNORED
    logits = model.lm_head(hidden[:, :-1][is_labelled])
    return nn.functional.cross_entropy(logits, labels[:, 1:][is_labelled])


def _token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


def _batch(rows: list[tuple[list[int], list[int]]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids and labels, each [rows, tokens]."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), pad_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for index, (row_ids, row_labels) in enumerate(rows):
        ids[index, : len(row_ids)] = torch.tensor(row_ids)
        labels[index, : len(row_labels)] = torch.tensor(row_labels)
    return ids, labels


def _make_optimizer(
    model: PreTrainedModel, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=learning_rate,
        betas=(0.9, 0.98),
        weight_decay=weight_decay,
    )


def _rate(steps: int) -> Callable[[int], float]:
    """Linear warm-up over a twentieth of the steps, then a cosine to a fiftieth."""
    warm = max(1, steps // 20)

    def rate(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        progress = (step - warm) / max(1, steps - warm)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))

    return rate


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the checkpoint of a toy.")
    parser.add_argument("--toy", choices=sorted(RECIPES), default="toy", help="which one")
    parser.add_argument("--out", type=Path, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # More threads spin against each other on a model this small.
    torch.set_num_threads(1)
    model, tokenizer = train(RECIPES[options.toy], options.seed)
    folder = options.out or TOYS[options.toy]
    save(model, tokenizer, folder)
    tqdm.write(f"Checkpoint written to {folder}")


if __name__ == "__main__":
    main()
