"""The closed lists of terms that options, files and code share, with the meaning of each.

A leaf: it imports nothing of the project. The room spec validates with these lists, vectors keys
its operations by them, and the documentation's tables are written from them.
"""

from typing import Literal, get_args

Operation = Literal["add", "ablate", "clamp", "cap"]
Positions = Literal["all", "prompt", "response", "last"]
Site = Literal["resid_post", "resid_pre", "mlp_out"]
Unit = Literal["raw", "norm", "residual"]
Convention = Literal["blocks", "blocks+embedding", "rank"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]
EngineName = Literal["hf", "vllm"]
# What a residual norm is, as files, logs and recipes say it. Where they say anything else, or
# nothing, their norms are of another kind and are not used.
RESIDUAL_NORM = "mean over answer tokens, sinks left out"

OPERATIONS: dict[Operation, str] = {
    "add": "add the vector, times the magnitude",
    "ablate": "project the subspace out",
    "clamp": "set the projection on the direction to the magnitude",
    "cap": "bound the projection on the direction by the magnitude",
}
POSITIONS: dict[Positions, str] = {
    "all": "every token of the prompt and of the response",
    "prompt": "every token of the prompt, none that is generated",
    "response": "every generated token that is read back, none of the prompt",
    "last": "the last token of the prompt only",
}
SITES: dict[Site, str] = {
    "resid_pre": "input of the block",
    "mlp_out": "output of the block's MLP, before it joins the residual stream",
    "resid_post": "output of the block",
}
UNITS: dict[Unit, str] = {
    "raw": "of the vector as it is stored",
    "norm": "of the vector scaled to length 1",
    "residual": "of the residual norm at the site: the mean L2 norm over answer tokens, attention "
    "sinks left out",
}
CONVENTIONS: dict[Convention, str] = {
    "blocks": "row i belongs to block i: its output, or the site that is named",
    "blocks+embedding": "transformers' hidden_states: row 0 is the embedding, row i the output of "
    "block i - 1, and the last row, behind the final norm, is left out",
    "rank": "the rows are the directions of one block, which is named",
}
VECTOR_FILES = (".safetensors", ".gguf", ".pt", ".pth", ".npy", ".npz", ".csv")
"""Suffixes of the files that steering vectors are read from."""

assert set(OPERATIONS) == set(get_args(Operation))
assert set(POSITIONS) == set(get_args(Positions))
assert set(SITES) == set(get_args(Site))
assert set(UNITS) == set(get_args(Unit))
assert set(CONVENTIONS) == set(get_args(Convention))
