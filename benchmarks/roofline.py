"""Plain forward passes of a sweep's tokens in one batch: what a sweep takes at least.

    python -m benchmarks.roofline FOLDER ROWS PROMPT_TOKENS ANSWER_TOKENS

Imports torch and transformers, loads the model, reads ROWS prompts at once and draws ANSWER_TOKENS
for each with the cache of transformers: no Inspect, no judge, no steering. Run by
`benchmarks.evals`, which takes the seconds of the whole process.
"""

import sys

import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def main() -> None:
    """Do what the arguments say."""
    folder, rows, prompt_tokens, answer_tokens = sys.argv[1], *map(int, sys.argv[2:])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(5, 1000, (rows, prompt_tokens), generator=torch.manual_seed(0))
    cache = None
    for _ in range(answer_tokens):
        output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        ids = output.logits[:, -1].softmax(-1).multinomial(1)


if __name__ == "__main__":
    main()
