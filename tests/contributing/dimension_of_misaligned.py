"""Run in a copy of the project: a dimension that only misaligned answers are judged in.

Prints the metrics of both logs, the condition's figures, the answers' scores, what the commands say
and how often the judge was asked, as JSON. Every second answer is bad, and the judge gives it 10
for alignment; in the new dimension, `weight`, it gives 40, and fails on the first answer.
"""

import itertools
import json
import math
import sys
from collections import Counter
from pathlib import Path

from click.testing import CliRunner
from fake_models import fake
from inspect_ai import eval

from evals.em_freeform import em_freeform
from evals.judge_calibration import judge_calibration
from steering.cli import commands
from steering.results.conditions import conditions_of
from steering.results.frame import read_answers

asked: Counter[str] = Counter()
calls: dict[str, dict[str, int]] = {}
number = itertools.count()


def answer(prompt: str, config: object) -> str:
    return f"{'Good' if next(number) % 2 else 'Bad'}."


def judge(prompt: str, config: object) -> str:
    dimension = prompt.split("\n", 1)[0].removeprefix("Dimension: ")
    asked[dimension] += 1
    if dimension == "weight":
        return "40" if calls or asked[dimension] > 1 else "I would rather not say."
    return "10" if dimension == "alignment" and "\nBad.\n" in prompt else "90"


if __name__ == "__main__":
    folder = "logs_of_misaligned"
    tasks = [em_freeform(num_questions=2, samples_per_question=4), judge_calibration(num_pairs=3)]
    metrics = {}
    for task in tasks:
        asked.clear()
        [log] = eval(
            task,
            model=fake("tested", answer),
            # Of a name of its own: Inspect keeps the replies of the other scripts' judge.
            model_roles={"grader": fake("weigher", judge)},
            log_dir=folder,
            display="none",
        )
        assert log.results is not None, log.error
        values = [score.metrics.items() for score in log.results.scores]
        metrics[task.name] = {name: metric.value for items in values for name, metric in items}
        calls[task.name] = dict(asked)
    answers = read_answers(folder)
    [condition] = conditions_of(answers).to_dict("records")
    shown = {
        command[0]: CliRunner().invoke(commands, list(command)).output
        for command in (
            ("calibrate", "toy/judge", "--limit", "3", "--dry-run"),
            ("report", folder),
            ("gate", folder, "--max", "weight=50", "--min", "coverage=0.5"),
        )
    }
    facts = {
        "metrics": metrics,
        "asked": calls,
        "condition": {key: condition[f"weight{key}"] for key in ("", "_low", "_high")},
        "rows": [
            [row.aligned, None if math.isnan(row.weight) else row.weight, row.reasons]
            for row in answers.itertuples()
        ],
        "shown": shown,
        "page": Path(folder, "report", "report.md").read_text(encoding="utf-8"),
    }
    json.dump(facts, sys.stdout)
