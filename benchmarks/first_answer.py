"""The processor's seconds until an eval's first answer; run by `benchmarks.evals`.

    python -m benchmarks.first_answer eval evals/em_freeform.py --model steered/toy

Runs Inspect's own command with these arguments, prints the processor's seconds of this process,
from its start to the first answer of any model, and ends there.
"""

import os
import sys
import time

from inspect_ai.hooks import Hooks, ModelUsageData, hooks


@hooks(name="first_answer", description="Ends the process at the first answer.")
class FirstAnswer(Hooks):
    """Ends the process at the first answer."""

    async def on_model_usage(self, data: ModelUsageData) -> None:
        """Print the seconds and exit."""
        del data
        print(time.process_time(), flush=True)
        os._exit(0)


if __name__ == "__main__":
    from inspect_ai._cli.main import main

    sys.argv[0] = "inspect"
    main()
    sys.exit("no model gave an answer")
