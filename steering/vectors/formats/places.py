"""Where names of other tools say that a vector acts, and what they say is done with it.

A name is a module's (`model.layers.3.mlp`), a hook's (`blocks.3.hook_resid_pre`), or a number with
or without a word (`3`, `layer_3`).
"""

import re
from collections.abc import Mapping
from typing import Any, get_args

from steering.vectors.errors import VectorError
from steering.vocabulary import Operation, Site

_BLOCK = re.compile(
    r"(?:(?:.*[._/])?(?:layers?|blocks?|h|direction)[._\[]?)?(\d{1,6})\]?(?:\.(.+))?", re.IGNORECASE
)
_SITES: Mapping[str, Site] = {
    **dict.fromkeys(("resid_pre", "input"), "resid_pre"),
    **dict.fromkeys(("resid_post", "output", "resid", "residual"), "resid_post"),
    **dict.fromkeys(("residual_stream", "hidden_states", "decoder_block"), "resid_post"),
    **dict.fromkeys(("mlp_out", "mlp", "mlp.down_proj", "mlp.c_proj", "mlp.fc2"), "mlp_out"),
    **dict.fromkeys(("mlp.dense_4h_to_h", "feed_forward", "block_sparse_moe"), "mlp_out"),
}
_OPERATIONS: Mapping[str, Operation] = {
    **dict.fromkeys(("add", "addition", "additive", "actadd", "caa", "direct"), "add"),
    **dict.fromkeys(("ablate", "ablation", "erase", "directional_ablation"), "ablate"),
    **dict.fromkeys(("project", "projection", "project_out", "projection_out"), "ablate"),
    **dict.fromkeys(("orthogonalize", "orthogonalise", "orthogonalization"), "ablate"),
    "clamp": "clamp",
    "cap": "cap",
}
# Keys that say what is done with a vector, and keys that may say it or how it was built.
_STATES_OPERATION = ("operation", "action", "mode", "intervention", "kind")
_MAY_STATE_OPERATION = ("type", "algorithm", "method")


def place_of(name: str) -> tuple[int, Site | None] | None:
    """The block and the site that a name means; the site is None where it names a block alone.

    Returns:
        None if it names no block.

    Raises:
        VectorError: It names a part of a block that is no site here, as an attention head.
    """
    match = _BLOCK.fullmatch(name.strip())
    if match is None:
        return None
    if match[2] is not None:
        return int(match[1]), site_of(match[2])
    # A module's path is where its hook was.
    return int(match[1]), "resid_post" if "." in name or "[" in name else None


def site_of(name: str) -> Site:
    """The site that a name of a part of a block means.

    Raises:
        VectorError: It is no site here.
    """
    site = _SITES.get(name.strip().lower().removeprefix("hook_"))
    if site is None:
        raise VectorError(
            f"it acts at {name!r}, which can't be steered here: allowed are "
            f"{', '.join(get_args(Site))}"
        )
    return site


def operation_in(facts: Mapping[str, Any], *, strict: bool = False) -> Operation | None:
    """The operation that a file's facts state; None where they state none.

    Args:
        facts: Values by key.
        strict: Whether `type` and `algorithm` state an operation too; else they may also say how
            the vector was built, and count only where they name an operation.

    Raises:
        VectorError: They state one that is unknown.
    """
    for key in (*_STATES_OPERATION, *_MAY_STATE_OPERATION):
        value = facts.get(key)
        if not isinstance(value, str) or not value:
            continue
        operation = _OPERATIONS.get(value.strip().lower().replace("-", "_").replace(" ", "_"))
        if operation is not None:
            return operation
        if key in _STATES_OPERATION or (strict and key != "method"):
            raise VectorError(
                f"its {key} is {value!r}, which is no operation here: say which it is meant for "
                f"with --operation ({', '.join(get_args(Operation))}), if it is a direction"
            )
    return None
