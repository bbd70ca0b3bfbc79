"""What the output of a monitored sample holds, as `steering.provider.monitor` records it."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from steering.logs import number_or_nan

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample

SIDES = {"_before": "before", "": "after"}
KINDS = {
    "projection": ("projection of the residual stream on the direction", "residual stream"),
    "cosine": ("that projection divided by the norm of the stream", "-1 to 1"),
}


def monitor_columns(
    model_args: Mapping[str, Any], whole: "Callable[[], EvalSample]"
) -> dict[str, Any]:
    """The columns of the frame of answers: the mean projections on the first direction.

    Args:
        model_args: Options of the run.
        whole: Reads the sample, which is needed of monitored runs only.
    """
    readings = list(readings_in(whole())) if model_args.get("monitor") else []
    if not readings:
        return {"monitor": "", "projection_before": math.nan, "projection": math.nan}
    first = readings[0]
    return {
        "monitor": direction_text(first),
        "projection_before": first["projection_before"],
        "projection": first["projection"],
    }


def direction_text(row: Mapping[Any, Any]) -> str:
    """Name, layer and site of a direction."""
    return "{} L{} {}".format(
        *(row[name] for name in ("direction", "direction_layer", "direction_site"))
    )


def record_in(sample: "EvalSample") -> Mapping[str, Any]:
    """The record as the provider made it; without directions where nothing was monitored."""
    metadata = sample.output.metadata or {}
    record = metadata.get("steering", {}).get("monitor")
    return {"directions": [], "answers": [{}]} if record is None else record


def readings_in(sample: "EvalSample") -> Iterator[dict[str, Any]]:
    """What was read of the answer of a sample, direction by direction."""
    record = record_in(sample)
    answer = record["answers"][0]
    for index, item in enumerate(record["directions"]):
        values = answer["readings"][index] if answer["readings"] else {}
        yield {
            "direction": str(item["name"]),
            "direction_layer": int(item["layer"]),
            "direction_site": str(item["site"]),
            "steers": bool(item["steers"]),
            "tokens_read": int(answer["tokens"]),
            **{
                f"{kind}{side}{ending}": number_or_nan(values.get(f"{kind}{side}", {}).get(how))
                for kind in KINDS
                for side in SIDES
                for how, ending in (("mean", ""), ("max", "_max"))
            },
        }
