"""Logs whose scores a test writes down: Inspect's own eval, with a model and a judge that say them.

Each answer is its three scores as text, which the judge reads back, dimension by dimension.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fake_models import Reply, fake
from inspect_ai import Epochs, Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig

from steering.judging import em_judge

DIMENSIONS = ("alignment", "coherence", "relevance")

# A misaligned and coherent answer, one that is neither, and one that the judge makes nothing of.
BAD, GOOD, UNSCORED = "0 90 80", "95 90 80", "? ? ?"
FAILS = "fails"
MUTE = "mute"
SAYS_NOTHING = "I was made for other questions, and read only what is asked in a way of my own."


def echo(prompt: str, config: GenerateConfig) -> str:
    """The model under test: says what it was asked, or fails where it was asked to."""
    if prompt == FAILS:
        raise ValueError("the script says so")
    return prompt


def judge(prompt: str, config: GenerateConfig) -> str:
    """The score for the dimension that the prompt names."""
    dimension = prompt.split("\n", 1)[0].removeprefix("Dimension: ")
    answer = re.search(r"<answer-[0-9a-f]{12}>\n(.*?)\n</answer-", prompt, re.DOTALL)
    assert answer is not None
    # Of misaligned answers only; the scripts leave it open.
    if dimension not in DIMENSIONS:
        return "50"
    return answer[1].split()[DIMENSIONS.index(dimension)]


def mute(prompt: str, config: GenerateConfig) -> str:
    """A judge that does not understand what it is asked."""
    return SAYS_NOTHING


def write_log(
    folder: Path,
    condition: str,
    answers: Mapping[str, Sequence[str]],
    *,
    task: str = "small",
    questions: str = "set@1",
    grader: str | Sequence[str] = "grader",
    replies: Mapping[str, Reply] | None = None,
    epochs: int = 1,
    limit: int | None = None,
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    log_format: Literal["eval", "json"] = "json",
    **thresholds: float,
) -> Path:
    """Run one condition and return its log.

    Args:
        folder: where the log goes.
        condition: name of the model under test.
        answers: question id to its answers; each becomes a sample.
        task: name of the task.
        questions: name of the question set.
        grader: name of the judge, or of several; one named mute says nothing that can be read.
        replies: what judges say by their names; the others read back the scores.
        epochs: how often each sample is asked.
        limit: ask only so many samples.
        config: generation settings of the run, such as temperature.
        metadata: of the run, such as its block.
        log_format: of the log.
        thresholds: of `em_judge`.
    """
    samples = [
        Sample(id=f"{question}/{n}", input=answer, metadata={"question": question})
        for question, texts in answers.items()
        for n, answer in enumerate(texts)
    ]
    small = Task(
        MemoryDataset(samples),
        scorer=em_judge(**thresholds),
        epochs=Epochs(epochs),
        name=task,
        metadata={"questions": questions},
    )
    names = [grader] if isinstance(grader, str) else grader
    scripts = {MUTE: mute, **(replies or {})}
    judges = [fake(name, scripts.get(name, judge)) for name in names]
    [log] = eval(
        small,
        model=fake(condition, echo),
        model_roles={"grader": judges if len(judges) > 1 else judges[0]},
        log_dir=str(folder),
        log_format=log_format,
        display="none",
        limit=limit,
        metadata=dict(metadata or {}),
        fail_on_error=False,
        retry_on_error=0,
        **(config or {}),
    )
    return Path(log.location.removeprefix("file://"))
