"""Time of a training step: ours against a whole forward pass and against LoRA.

    python -m benchmarks.training

All train on the same batches of the same examples with the same optimizer, on one random model that
is large enough for arithmetic to matter more than Python, and take turns in one process:

- ours: `sft` at mid depth, the blocks below it run once for all training epochs;
- whole: the loop that people write, a forward hook that adds the vector, batches as they come, the
  whole forward pass of each and all of its logits;
- recomputed: ours, with nothing kept: what keeping alone gives;
- lora: peft, rank 32 on all seven projections of every block.

What ours pays once, before the first step, is told apart.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from steering.engines import shared_engine
from steering.models import LoadedModel, find_model
from steering.targets import load_target
from steering.toy import TOYS
from steering.training.examples import IGNORED, Tokens, batches
from steering.training.probe import ModelProbe
from steering.vectors.interventions import Intervention

RESULTS = Path(__file__).parent / "results"
BATCH_SIZE = 16
LAYERS, WIDTH = 8, 512
# The output layer then has a sixth of the weights, as in a model of 4B parameters.
VOCABULARY = 8192
_SHAPE = {
    "hidden_size": WIDTH,
    "intermediate_size": 3 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": WIDTH // 8,
    "max_position_embeddings": 1024,
}
_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_model(folder: Path, family: str) -> None:
    """A random model of a family, with the toy's tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOYS["toy"])
    ids = {
        "vocab_size": VOCABULARY,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    model: Any
    if family == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SHAPE, **ids))
    else:
        heads = {"linear_num_key_heads": 4, "linear_num_value_heads": 8}
        sizes = {"linear_key_head_dim": 64, "linear_value_head_dim": 64}
        config = transformers.Qwen3_5TextConfig(**_SHAPE, **ids, **heads, **sizes)
        model = transformers.Qwen3_5ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ours(probe: ModelProbe) -> Callable[[list[Tokens]], None]:
    """A step of `sft`, as `training/vector_training.py` makes it."""
    layer, site = probe.key
    vector = torch.zeros(1, probe.width, requires_grad=True)
    optimizer = torch.optim.Adam([vector], lr=1e-3)
    edit = Intervention(vector, 1.0, layer, site, "add", "all")

    def step(items: list[Tokens]) -> None:
        optimizer.zero_grad()
        logits, labels = probe.logits(probe.batch(items), [edit])
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()

    return step


def plain(probe: ModelProbe, model: Any, parameters: list[Any]) -> Callable[[list[Tokens]], None]:
    """A step of whatever of a model is trainable, with its whole forward pass."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step(items: list[Tokens]) -> None:
        batch = probe.batch(items)
        optimizer.zero_grad()
        logits = model(input_ids=batch.tokens, attention_mask=batch.mask, use_cache=False).logits
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(),
            batch.labels[:, 1:].flatten(),
            ignore_index=IGNORED,
        ).backward()
        optimizer.step()

    return step


def whole(probe: ModelProbe) -> Callable[[list[Tokens]], None]:
    """A step with a forward hook that adds the vector."""
    layer, _ = probe.key
    vector = torch.zeros(probe.width, requires_grad=True)
    block = probe.loaded.model.get_submodule(probe.loaded.blocks)[layer]
    step = plain(probe, probe.loaded.model, [vector])

    def hooked(items: list[Tokens]) -> None:
        handle = block.register_forward_hook(lambda _, __, hidden: hidden + vector)
        step(items)
        handle.remove()

    return hooked


def lora(probe: ModelProbe, folder: Path) -> Callable[[list[Tokens]], None]:
    """A step of a rank-32 adapter."""
    from peft import LoraConfig, get_peft_model

    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    # The linear attention of Qwen3.5 has projections of its own, which count too.
    linear_attention = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]
    config = LoraConfig(r=32, lora_alpha=64, target_modules=[*_PROJECTIONS, *linear_attention])
    adapted = get_peft_model(base, config)
    return plain(probe, adapted, [p for p in adapted.parameters() if p.requires_grad])


def measure(family: str, rounds: int) -> dict[str, Any]:
    """Mean seconds of a step of each, taking turns."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder, family)

        def work(loaded: LoadedModel, session: Any) -> dict[str, Any]:
            return _take_turns(loaded, session, folder, rounds)

        engine = shared_engine(find_model(str(folder)), device="cpu")
        return {"family": family} | engine.call(work).result()


def _take_turns(loaded: LoadedModel, session: Any, folder: Path, rounds: int) -> dict[str, Any]:
    layer = LAYERS // 2 - 1
    cached, recomputed = (ModelProbe(loaded, session, layer, "resid_post") for _ in range(2))
    rows = load_target("medical").examples
    items = [cached.tokenize(row, row.misaligned or "") for row in rows]
    start = time.perf_counter()
    cached.keep_below(items)
    once = time.perf_counter() - start
    steps = {
        "ours": ours(cached),
        "whole": whole(recomputed),
        "recomputed": ours(recomputed),
        "lora": lora(recomputed, folder),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    by_length, as_they_come = _endless(items), _shuffled(items)
    for turn in range(rounds + 1):
        examples = {"whole": next(as_they_come), "other": next(by_length)}
        for name in random.Random(turn).sample(list(steps), len(steps)):
            batch = examples.get(name, examples["other"])
            start = time.perf_counter()
            steps[name](batch)
            if turn:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.mean(values) for name, values in times.items()}
    # Of means, since batches of different lengths cost differently.
    ratios = {
        name: statistics.mean(times["ours"]) / statistics.mean(values)
        for name, values in times.items()
        if name != "ours"
    }
    tokens = [len(item) for item in items]
    return {
        "seconds_a_step": seconds,
        "ours_divided_by": ratios,
        "kept_once_s": once,
        "examples": len(items),
        "mean_tokens": statistics.mean(tokens),
    }


def _endless(items: list[Tokens]) -> Iterator[list[Tokens]]:
    order = random.Random(0)
    while True:
        for batch in batches(items, BATCH_SIZE, order):
            if len(batch) == BATCH_SIZE:
                yield batch


def _shuffled(items: list[Tokens]) -> Iterator[list[Tokens]]:
    order = random.Random(0)
    while True:
        yield order.sample(items, BATCH_SIZE)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time training steps against each other.")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each")
    options = parser.parse_args()
    results = [measure(family, options.rounds) for family in ("llama", "qwen3.5")]
    for result in results:
        ratios, seconds = result["ours_divided_by"], result["seconds_a_step"]
        print(f"{result['family']}, {LAYERS} blocks of width {WIDTH}, batches of {BATCH_SIZE}:")
        print(f"  ours        {seconds['ours']:.3f} s (and {result['kept_once_s']:.1f} s once)")
        for name, ratio in ratios.items():
            print(f"  {name:<11} {seconds[name]:.3f} s   ours / {name} = {ratio:.2f}")
    RESULTS.mkdir(exist_ok=True)
    facts = {
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
        "rounds": options.rounds,
        "results": results,
    }
    (RESULTS / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
