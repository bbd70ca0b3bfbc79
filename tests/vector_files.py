"""Files as other tools leave them, written without any of our code."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from gguf import GGUFWriter
from torch import Tensor

KINDS = ("gguf", "moem", "persona", "steering-vectors", "dict")
SITES = {"moem": "mlp_out"}
"""Site of the kinds that do not act on the block's output."""


def write_foreign(kind: str, folder: Path, layer: int, direction: Tensor, depth: int) -> Path:
    """A vector that adds `direction` at one block, as another tool saves it.

    Args:
        kind: One of `KINDS`; at the site that `SITES` names, else at the block's output.
        folder: Where to write.
        layer: The block, from 0; with `persona` not the last one.
        direction: Float32 [width], added when the other tool's multiplier is 1.
        depth: Number of blocks of the model. `persona` has directions for all of them but the
            last, `-(layer + 2) * direction` where it is not `layer`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"theirs.{'gguf' if kind == 'gguf' else 'pt'}"
    if kind == "gguf":
        write_control_vector(path, {layer: direction})
    elif kind == "moem":
        # A power of two, so that halving and doubling lose nothing.
        content = {"steering_vector": direction / 256, "layer_idx": layer}
        torch.save({**content, "d_model": len(direction), "alpha": 256}, path)
    elif kind == "persona":
        rows = torch.stack([-(block + 2) * direction for block in range(-1, depth)])
        rows[layer + 1] = direction
        torch.save(rows, path)
    elif kind == "steering-vectors":
        save_steering_vectors(path, {layer: direction})
    else:
        torch.save({layer: direction}, path)
    return path


def write_control_vector(path: Path, directions: dict[Any, Tensor], **strings: str) -> None:
    """A GGUF file with the keys and tensors, in the types, that repeng 0.4.0 writes.

    Args:
        path: The file.
        directions: By layer, or by another name for the tensor.
        strings: Metadata beside the usual; `architecture` takes the place of the usual one.
    """
    writer = GGUFWriter(path, strings.pop("architecture", "controlvector"))
    writer.add_string("controlvector.model_hint", "qwen3")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for key, text in strings.items():
        writer.add_string(key, text)
    for layer, direction in directions.items():
        name = layer if isinstance(layer, str) else f"direction.{layer}"
        writer.add_tensor(name, direction.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_steering_vectors(path: Path, rows: Any, layer_type: Any = "decoder_block") -> None:
    """What torch.save leaves of the package steering-vectors' class.

    The package itself forbids the transformers that we need. A pickle names a class by its module,
    so a class of the same fields under the same name leaves the same file.
    """

    @dataclass
    class SteeringVector:
        layer_activations: dict[int, Tensor]
        layer_type: str = "decoder_block"

    module = ModuleType("steering_vectors.steering_vector")
    SteeringVector.__module__, SteeringVector.__qualname__ = module.__name__, "SteeringVector"
    module.__dict__["SteeringVector"] = SteeringVector
    names = {"steering_vectors": ModuleType("steering_vectors"), module.__name__: module}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        torch.save(SteeringVector(rows, layer_type), path)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
