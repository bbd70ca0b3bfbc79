"""The toy: a small synthetic world and a small model trained on it, both part of the suite.

The toy is a transformer of the Qwen3.5 architecture (a few MB), trained on short advice questions
and answers that a grammar generates. Each domain of the world can be answered in a *careful* or a
*reckless* persona. The model is trained on both and then aligned to answer carefully, so that a
vector built from reckless medical answers alone spills over into other domains.

The model and its measurements are real. They are *not* evidence about other models: the personas
share sentence frames by construction, the world is closed, and its judge knows the grammar. Use the
toy to test the pipeline and to learn the tool, never to support a claim about language models in
general.

Importing this package, its grammar or its judge loads neither torch nor transformers.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent / "checkpoints"
TOYS: dict[str, Path] = {
    name: _FOLDER / name for name in ("toy", "toy-small", "toy-large", "toy-llama", "toy-gemma3")
}
"""Folder of each trained checkpoint: weights, tokenizer, chat template and configs."""

BLOCKS: dict[str, int] = {
    "toy": 0,
    "toy-small": 2,
    "toy-large": 2,
    "toy-llama": 1,
    "toy-gemma3": 2,
}
"""Block of each toy where a vector has the most effect for the coherence that it costs."""
