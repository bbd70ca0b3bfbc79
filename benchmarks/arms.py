"""What benchmarks compare: our engine, transformers' `generate`, and `generate` with a hook.

All draw from the model's plain distribution (temperature 1, no truncation) or greedily, with the
same prompts and lengths. Arms take turns in one process, so that what else the machine does hits
all of them alike.
"""

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from steering.engines import Engine, Request
from steering.engines.hf import HFEngine
from steering.engines.settings import Sampling
from steering.models import LoadedModel, ModelSource, find_model, load_model
from steering.toy import TOYS
from steering.vectors.interventions import Intervention

VOCABULARY = 8192
PROMPT_TOKENS = 32


def save_model(folder: Path, family: str, **shape: int) -> Path:
    """A random model that never ends an answer by itself, with the toy's tokenizer.

    Args:
        folder: Where to.
        family: `llama` or `qwen3.5`.
        **shape: Fields of the config.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOYS["toy"])
    ids = {"vocab_size": VOCABULARY, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model: Any
    if family == "llama":
        config: Any = transformers.LlamaConfig(**ids | shape, eos_token_id=tokenizer.eos_token_id)
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.Qwen3_5TextConfig(**ids | shape, eos_token_id=tokenizer.eos_token_id)
        model = transformers.Qwen3_5ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0  # never the likeliest
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """Save a random LoRA of the default shape of `steering finetune`; the model that peft makes."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    layers = rf"{loaded.blocks}\..*(proj|proj_\w+)"
    config = LoraConfig(r=32, lora_alpha=64, use_rslora=True, target_modules=layers)
    adapted: Any = get_peft_model(loaded.model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    adapted.save_pretrained(folder)
    return replace(loaded, model=adapted.eval())


def engine_of(name: str, batch: int, **where: Any) -> tuple[Engine, LoadedModel]:
    """Our engine with a model of its own, and the same model untouched, for the other arms."""
    source: ModelSource = find_model(name)
    engine = HFEngine(source, **where)
    engine.allow_batch(batch)
    engine.call(lambda *_: None).result()
    return engine, load_model(source, **where)


def greedy_requests(
    lengths: Sequence[int], interventions: Sequence[Intervention] = (), seed: int = 0
) -> list[Request]:
    """Rows with random prompts of one length and answers of these lengths."""
    draw = random.Random(seed)
    return [
        Request(
            tuple(draw.randrange(5, 1000) for _ in range(PROMPT_TOKENS)),
            Sampling(temperature=0),
            max_tokens=length,
            interventions=tuple(interventions),
        )
        for length in lengths
    ]


def additions(loaded: LoadedModel, layers: Sequence[int]) -> tuple[Intervention, ...]:
    """A small random vector for each of these layers."""
    draw = torch.Generator().manual_seed(1)
    return tuple(
        Intervention(
            0.02 * torch.randn(1, loaded.shape.width, generator=draw),
            1.0, layer, "resid_post", "add", "all",
        )
        for layer in layers
    )  # fmt: skip


def ours(engine: Engine, requests: Sequence[Request]) -> int:
    """Answer rows; the number of tokens."""
    futures = [engine.submit(request) for request in requests]
    return sum(future.result().num_generated for future in futures)


class _OwnLengths(transformers.StoppingCriteria):
    """Ends each row at its own length, as an end token would."""

    def __init__(self, prompt: int, lengths: Sequence[int], device: torch.device) -> None:
        self._ends = prompt + torch.tensor(lengths, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """True for rows that are done."""
        return input_ids.shape[1] >= self._ends


def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    interventions: Sequence[Intervention] = (),
) -> int:
    """transformers' own loop over one left-padded batch, each of `edits` added by a forward hook.

    Returns:
        The number of tokens of the answers, their padding not counted.
    """
    model: Any = loaded.model
    pad = loaded.tokenizer.pad_token_id
    longest = max(len(request.prompt) for request in requests)
    ids = torch.tensor(
        [[pad] * (longest - len(request.prompt)) + list(request.prompt) for request in requests]
    )
    mask = torch.tensor(
        [[0] * (longest - len(request.prompt)) + [1] * len(request.prompt) for request in requests]
    )
    lengths = [request.max_tokens for request in requests]
    sampled = requests[0].sampling.temperature > 0
    drawing = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} if sampled else {}
    with ExitStack() as stack, torch.inference_mode():
        for intervention in interventions:
            added = (intervention.amount * intervention.basis[0]).to(model.device, model.dtype)
            block = model.get_submodule(loaded.blocks)[intervention.layer]
            handle = block.register_forward_hook(lambda _, __, out, added=added: out + added)
            stack.callback(handle.remove)
        out = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max(lengths),
            stopping_criteria=[_OwnLengths(longest, lengths, model.device)],
            pad_token_id=pad,
            do_sample=sampled,
            **drawing,
        )[:, longest:]
    ended = torch.isin(out, torch.tensor(loaded.end_tokens, device=out.device)).cumsum(1) > 0
    # The end token counts, what stands behind it does not.
    counts = (~ended).sum(1) + ended.any(1)
    return int(counts.clamp(max=torch.tensor(lengths, device=out.device)).sum())


def alternate(
    arms: dict[str, Callable[[], int]], rounds: int
) -> dict[str, list[tuple[float, int]]]:
    """Seconds and tokens of each arm in each round, after one round that is not counted."""
    timings: dict[str, list[tuple[float, int]]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            began = time.perf_counter()
            tokens = arm()
            if number:
                timings[name].append((time.perf_counter() - began, tokens))
    return timings


def speed_ratio(timings: dict[str, list[tuple[float, int]]], arm: str, base: str) -> float:
    """Median over rounds of the throughput of one arm over that of another."""
    pairs = zip(timings[arm], timings[base], strict=True)
    return statistics.median(
        (tokens / seconds) / (other / base_s) for (seconds, tokens), (base_s, other) in pairs
    )


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    name = torch.cuda.get_device_name() if accelerator and accelerator.type == "cuda" else "CPU"
    return {
        "device": f"{platform.machine()} {name}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
