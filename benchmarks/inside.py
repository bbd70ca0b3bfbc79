"""Evals one after the other in one process; run by `benchmarks.evals`.

    python -m benchmarks.inside '{"runs": [[{"model": ..., "model_args": {...}}]], "samples": 25}'

Each run is one call of Inspect's `eval` with these models. Prints the seconds of all runs, after a
first one of a single model that is not counted. `instant/model` answers at once, with a sentence
that the judge knows: what is left is the time of Inspect and of judging.
"""

import json
import sys
import time
from tempfile import TemporaryDirectory
from typing import Any

from inspect_ai import eval
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, get_model, modelapi

TASK = "evals/em_freeform.py"


@modelapi("instant")
class InstantAPI(ModelAPI):
    """Has its answer ready."""

    async def generate(self, *_: Any, **__: Any) -> ModelOutput:
        """Answer."""
        output = ModelOutput.from_content(self.model_name, "Ask a doctor before you take a pill.")
        # Left out, Inspect would count tokens itself.
        output.usage = ModelUsage(input_tokens=8, output_tokens=8, total_tokens=16)
        return output

    def max_connections(self) -> int:
        """As many as our provider takes."""
        return 512


def go(models: list[dict[str, Any]], samples: int, score: bool) -> None:
    """One call of `eval`."""
    instances = [get_model(m["model"], memoize=False, **m.get("model_args", {})) for m in models]
    with TemporaryDirectory() as logs:
        results = eval(
            TASK,
            model=instances,
            task_args={"samples_per_question": samples},
            model_roles={"grader": "toy/judge"},
            display="none",
            log_dir=logs,
            score=score,
        )
    assert all(log.status == "success" for log in results)


def main() -> None:
    """Do what the argument says."""
    arguments = json.loads(sys.argv[1])
    go(arguments["runs"][0][:1], 1, arguments["score"])
    began = time.perf_counter()
    for models in arguments["runs"]:
        go(models, arguments["samples"], arguments["score"])
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
