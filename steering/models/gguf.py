"""A model in one GGUF file: checked from its header, and described by a folder in the cache.

The folder holds what transformers reads out of the header (config, tokenizer, chat template), under
the digest of the file. Reading it takes seconds, and every command needs it; the weights stay in
the file, and are dequantized from there each time that the model loads.
"""

import hashlib
import re
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steering.errors import SteeringError
from steering.files import cache_folder, write_folder
from steering.foreign import GGUFHeader, check_file, read_gguf_header, reason_of, size_text
from steering.models.folder import MOST_POSITIONS, check_size, remembered_digest

ENDING = ".gguf"
KIND = "gguf"
_AGAIN = "download the file again"
_MODEL = "Give a GGUF file of a whole language model"
_ARCHITECTURE, _TYPE = "general.architecture", "general.type"
# What other GGUF files are, by general.type or by architecture, and what to do with them.
_OTHERS = {
    "adapter": "a LoRA adapter; convert it to peft's format, and give that as -M adapter=",
    "mmproj": "the image encoder of a model; give the file of the language model beside it",
    "clip": "the image encoder of a model; give the file of the language model beside it",
    "imatrix": "an importance matrix; give the model that it was made for",
    "controlvector": "a steering vector; give it as -M vector=, and its model as --model",
}
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_BLOCK = re.compile(r"blk\.(\d+)\.")
# Numbers of GGML's types that hold plain values; all others are blocks of quantized ones.
_FLOATS = {0: "float32", 1: "float16", 30: "bfloat16"}
# Increment when the description's content changes.
_DESCRIPTION = 1


@dataclass(frozen=True)
class GGUFFacts:
    """What a header says of a whole language model.

    Attributes:
        architecture: llama.cpp's name of it.
        dtype: The precision in which the weights are loaded by default: that of the file where it
            holds plain values, of which norms are always float32; bfloat16, as most language models
            are published, where it is quantized.
    """

    architecture: str
    dtype: str


def check_gguf(path: Path) -> GGUFFacts:
    """Check that a GGUF file holds a whole language model, from its header; no weight is read.

    Raises:
        SteeringError: The file is damaged, cut off, one part of several, or something else than a
            language model.
    """
    size = check_file(path, KIND)
    stat = path.stat()
    return _facts(path, size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=64)
def _facts(path: Path, size: int, *_: int) -> GGUFFacts:
    with path.open("rb") as file:
        header = read_gguf_header(file, size, path, KIND)
    _check_kind(path, header)
    _check_extents(path, header, size)
    _check_shape(path, header)
    types = {tensor.type for tensor in header.tensors}
    dtype = "bfloat16"
    if types <= _FLOATS.keys():
        dtype = next(_FLOATS[type_] for type_ in (30, 1, 0) if type_ in types)
    return GGUFFacts(header.metadata[_ARCHITECTURE], dtype)


def _check_kind(path: Path, header: GGUFHeader) -> None:
    facts = header.metadata
    architecture, kind = facts.get(_ARCHITECTURE), facts.get(_TYPE)
    for name in (kind, architecture):
        if isinstance(name, str) and name in _OTHERS:
            raise SteeringError(f"{path} is no model but {_OTHERS[name]}")
    part = _PART.search(path.name)
    count = int(part[1]) if part else facts.get("split.count", 1)
    if count not in (0, 1):
        raise SteeringError(
            f"{path} is one of {count} parts of a model: join the parts with llama.cpp's "
            "`llama-gguf-split --merge`, and give the file that it writes"
        )
    if not isinstance(architecture, str):
        raise SteeringError(f"{path} has no {_ARCHITECTURE} in its metadata. {_MODEL}")
    if header.order != "<":
        raise SteeringError(f"{path} is written for big-endian machines. {_MODEL} of the usual one")
    if not facts.get("tokenizer.ggml.tokens"):
        raise SteeringError(f"{path} has no tokenizer (tokenizer.ggml.tokens). {_MODEL}")


def _check_extents(path: Path, header: GGUFHeader, size: int) -> None:
    """Refuse tensors of types that can't be dequantized, or that the file ends before."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    sizes = {int(type_): pair for type_, pair in GGML_QUANT_SIZES.items()}
    for type_ in {tensor.type for tensor in header.tensors}:
        try:
            zeros = np.zeros((1, sizes[type_][1]), np.uint8)
            dequantize(zeros, GGMLQuantizationType(type_))
        except (KeyError, NotImplementedError):
            known = {int(each): each.name for each in GGMLQuantizationType}
            raise SteeringError(
                f"{path} holds tensors of type {known.get(type_, type_)}, which the gguf package "
                f"{version('gguf')} can't dequantize: give a file in another quantization, such as "
                "Q8_0 or Q4_K_M"
            ) from None
    end = 0
    for tensor in header.tensors:
        length, num_bytes = sizes[tensor.type]
        end = max(end, tensor.offset + -(-tensor.num_values // length) * num_bytes)
    if end > size:
        raise SteeringError(
            f"{path} is cut off, with {size_text(size)} of {size_text(end)}: {_AGAIN}"
        )


def _check_shape(path: Path, header: GGUFHeader) -> None:
    """Refuse metadata that describe another model than the tensors are of."""
    facts, architecture = header.metadata, header.metadata[_ARCHITECTURE]
    for name in ("block_count", "embedding_length"):
        check_size(name, facts.get(f"{architecture}.{name}"), path)
    context = facts.get(f"{architecture}.context_length")
    if context is not None:
        check_size("context_length", context, path, MOST_POSITIONS)
    blocks = {int(block[1]) for each in header.tensors if (block := _BLOCK.match(each.name))}
    num_blocks, width = (
        facts[f"{architecture}.block_count"],
        facts[f"{architecture}.embedding_length"],
    )
    if len(blocks) < num_blocks:
        raise SteeringError(
            f"{path} describes {num_blocks} blocks, but holds tensors of {len(blocks)}: {_AGAIN}"
        )
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and tensor.shape[:1] != (width,):
            raise SteeringError(
                f"{path} describes a width of {width}, but its embedding has {tensor.shape[:1]}: "
                f"{_AGAIN}"
            )


def describe_gguf(path: Path) -> Path:
    """The folder in the cache with config, tokenizer and chat template of a GGUF file.

    Raises:
        SteeringError: As of `check_gguf`, transformers does not know the architecture, or the cache
            can't be written to.
    """
    facts = check_gguf(path)
    identity = (
        f"{remembered_digest(path)} {version('transformers')} {version('gguf')} {_DESCRIPTION}"
    )
    folder = cache_folder() / "gguf" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if folder.is_dir():
        return folder
    try:
        config, tokenizer = _read_description(path, facts)
    except (ValueError, NotImplementedError) as error:
        if "support" not in str(error):
            raise
        raise SteeringError(
            f"{path} is of the architecture {facts.architecture}, which transformers "
            f"{version('transformers')} does not load from GGUF ({reason_of(error)}): give the "
            "original checkpoint, as a folder or hub id"
        ) from None

    def fill(new: Path) -> None:
        config.save_pretrained(new)
        tokenizer.save_pretrained(new)

    try:
        write_folder(folder, fill)
    except OSError as error:
        raise SteeringError(
            f"the cache {cache_folder()} can't be written to ({reason_of(error)}): free some "
            "space, or set STEERING_CACHE to another folder"
        ) from None
    return folder


def _read_description(path: Path, facts: GGUFFacts) -> tuple[Any, Any]:
    """Config and tokenizer as transformers reads them out of the header."""
    from transformers import AutoConfig, AutoTokenizer

    # Of an empty folder, or files beside the GGUF file would count too.
    with tempfile.TemporaryDirectory() as empty:
        where: dict[str, Any] = {"gguf_file": str(path.resolve()), "local_files_only": True}
        config = AutoConfig.from_pretrained(empty, **where)
        tokenizer = AutoTokenizer.from_pretrained(empty, config=config, **where)
    config.dtype = facts.dtype
    return config, tokenizer
