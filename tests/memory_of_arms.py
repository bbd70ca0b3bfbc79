"""Prints the bytes of a model's weights, and resident memory with one arm and with three."""

import sys
from pathlib import Path

import torch
from adapter_files import adapter_at, save_adapter
from random_vectors import make_vector
from tiny_models import tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from steering.engines import Request
from steering.engines.hf import HFEngine
from steering.engines.settings import Sampling
from steering.models import find_model
from steering.vectors.interventions import resolve

WIDTH = 512


def resident() -> int:
    """Bytes of this process that are in memory, mapped files too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main(folder: Path) -> None:
    """Save the model and an adapter in a folder, and measure."""
    words = tokenizer()
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=12,
        num_attention_heads=8, vocab_size=len(words), eos_token_id=0, pad_token_id=1,
        max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    save_adapter(folder / "model", folder / "lora")
    source = find_model(str(folder / "model"))
    adapter = adapter_at(folder / "model", folder / "lora")
    steered = resolve(make_vector(layers=[3], width=WIDTH), magnitude=1, unit="raw")
    plain = Request(tuple(range(3, 20)), Sampling(temperature=0), 4)
    arms = [plain, Request(*_of(plain), steered), Request(*_of(plain), adapter=adapter)]

    engine = HFEngine(source, device="cpu")
    engine.allow_batch(8)
    # Memory that was freed may stay with the process; another model's load would hide in it.
    before = resident()
    weights = sum(p.numel() * 4 for p in engine.call(lambda m, _: m.model).result().parameters())
    engine.submit(plain).result()
    one_arm = resident() - before
    for future in [engine.submit(row) for row in arms]:
        future.result()
    sys.stdout.write(f"{weights} {one_arm} {resident() - before}\n")


def _of(row: Request) -> tuple[tuple[int, ...], Sampling, int]:
    return row.prompt, row.sampling, row.max_tokens


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
