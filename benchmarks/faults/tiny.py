"""A random Llama of a few kilobytes, vectors for it, and plain PyTorch hooks as the reference."""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from steering.vectors import SteeringVector
from steering.vectors.interventions import Intervention
from steering.vectors.steering_vector import LowRankMap

WIDTH, LAYERS, CONTEXT = 32, 4, 96
END, PAD, START = 0, 1, 2
SPECIAL = ["<|end|>", "<|pad|>", "<|start|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def save_tiny(folder: Path) -> Path:
    """Save the model once, whichever process comes first; its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").exists():
            _save(folder)
    return folder


def _save(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({text: i for i, text in enumerate([*SPECIAL, *alphabet])}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=SPECIAL[END],
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[START],
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=END,
        pad_token_id=PAD,
        bos_token_id=START,
        # Large enough that neighbouring tokens have clearly different logits.
        initializer_range=0.2,
    )
    model: Any = transformers.LlamaForCausalLM(config)
    model.generation_config.eos_token_id = END
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def random_vector(
    draw: random.Random, layers: Sequence[int], rank: int = 1, *, full: bool = False, **fields: Any
) -> SteeringVector:
    """A random vector, or a low-rank map, of about the length of the model's activations."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    shape = len(layers), rank, WIDTH
    low_rank_map = None
    if full:
        lengths = tuple(3.0 for _ in layers)
        low_rank_map = LowRankMap(normal(*shape) / WIDTH, normal(*shape[:2]), lengths)
    return SteeringVector(
        directions=normal(*shape) / WIDTH**0.5,
        layers=tuple(layers),
        residual_norms=tuple(4.0 + layer for layer in layers),
        map=low_rank_map,
        depth=LAYERS,
        **{"site": "resid_post", "model": "tiny", **fields},
    )


def hooked_greedy(
    model: Any, prompt: Sequence[int], edits: Sequence[Intervention], max_tokens: int
) -> list[int]:
    """Greedy tokens of a plain loop with hooks: one sequence, no padding, no cache.

    Additions and ablations at a block's output and at all tokens only.
    """
    tokens: list[int] = []
    with ExitStack() as stack, torch.no_grad():
        for edit in edits:
            block = model.model.layers[edit.layer]
            handle = block.register_forward_hook(lambda _, __, out, edit=edit: _edited(out, edit))
            stack.callback(handle.remove)
        while len(tokens) < max_tokens and len(prompt) + len(tokens) < CONTEXT:
            ids = torch.tensor([[*prompt, *tokens]])
            token = int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax())
            if token == END:
                break
            tokens.append(token)
    return tokens


def _edited(out: Any, edit: Intervention) -> Any:
    hidden = out if isinstance(out, torch.Tensor) else out[0]
    if edit.operation == "ablate":
        new = hidden - hidden @ edit.basis.T @ edit.basis
    else:
        new = hidden + edit.amount * edit.basis.sum(0)
    return new if isinstance(out, torch.Tensor) else (new, *out[1:])
