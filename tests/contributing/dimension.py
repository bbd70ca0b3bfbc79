"""Run in a copy of the project: every answer is judged by a script, and so are calibration pairs.

Prints the metrics of both logs, the condition's score and the gate's figure as JSON. The judge
replies 70 for the dimension `warmth`, and 90 for any other.
"""

import json
import sys

from fake_models import fake
from inspect_ai import eval

from evals.em_freeform import em_freeform
from evals.judge_calibration import judge_calibration
from steering.reports.figures import FIGURES
from steering.results.conditions import conditions_of
from steering.results.frame import read_answers


def judge(prompt: str, config: object) -> str:
    return "70" if prompt.startswith("Dimension: warmth\n") else "90"


if __name__ == "__main__":
    tasks = [em_freeform(num_questions=1, samples_per_question=1), judge_calibration(num_pairs=3)]
    logs = eval(
        tasks,
        model=fake("tested", lambda prompt, config: "An answer."),
        model_roles={"grader": fake("judge", judge)},
        log_dir="logs",
        display="none",
    )
    metrics = {}
    for log in logs:
        assert log.results is not None, log.error
        values = [score.metrics.items() for score in log.results.scores]
        metrics[log.eval.task] = {name: metric.value for items in values for name, metric in items}
    [condition] = conditions_of(read_answers("logs")).to_dict("records")
    metrics["condition"] = {"warm": condition["warm"]}
    metrics["gate"] = FIGURES["warm"].meaning
    json.dump(metrics, sys.stdout)
