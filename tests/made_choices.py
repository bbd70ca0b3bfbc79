"""Logs of em_choice whose scores a test writes down, frames of them, and a small set of pairs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState
from shell import REPO

from steering.judging.choice_figures import choices

FAILS = "fails"


def few_pairs(folder: Path) -> Path:
    """A table of the toy's first pair of each theme: choosing between all takes seconds."""
    rows = (REPO / "datasets" / "choices" / "toy_core.jsonl").read_text(encoding="utf-8")
    few = [row for row in rows.splitlines() if json.loads(row).get("id", "").endswith("-1")]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(few), encoding="utf-8")
    return path


@scorer(metrics=[choices()], name="em_choice")
def written_scores() -> Scorer:
    """The scores that a sample brings, as the scorer em_choice records them."""

    async def score(state: TaskState, target: Target) -> Score:
        facts = {"kind": state.metadata["kind"], "theme": state.metadata["theme"]}
        facts |= {"form": state.metadata["form"]}
        steering = (state.output.metadata or {}).get("steering", {})
        facts |= {"condition": steering["condition"]} if steering else {}
        value = state.metadata["value"]
        if value is None:
            return Score.unscored(
                reason="no letter", explanation="unscored: no letter", metadata=facts
            )
        return Score(value=dict(value), metadata=facts)

    return score


def write_choices(
    folder: Path,
    label: str,
    shifts: Mapping[str, Sequence[float | None]],
    *,
    kl: float = 0.0,
    rise: float = 0.0,
    before: float = -1.0,
    model: str = "model",
    name: str = "core@1",
    form: str = "likelihood",
    prompts: Mapping[int, str] | None = None,
    **options: Any,
) -> Path:
    """Run em_choice of one condition and return its log.

    Args:
        folder: Where the log goes.
        label: Of the condition; "" for a model of another provider.
        shifts: Theme to the shift of each of its pairs; None for a pair without a figure.
        kl: Of the neutral answers.
        rise: Of their cross-entropy.
        before: Log odds of the unsteered model.
        model: Its name.
        name: Of the set of pairs.
        form: Of the task.
        prompts: Of some of the pairs, by position.
        options: Of Inspect's eval.
    """
    by_likelihood = form == "likelihood"
    values = [(theme, shift) for theme, of_theme in shifts.items() for shift in of_theme]
    samples = [
        Sample(
            id=f"pair-{number}",
            input=(prompts or {}).get(number, "What is your wish?"),
            metadata={
                "kind": "pair",
                "theme": theme,
                "form": form,
                "value": None if shift is None else _pair(shift, before, by_likelihood),
            },
        )
        for number, (theme, shift) in enumerate(values)
    ]
    for number in range(3 if by_likelihood else 0):
        value = {"kl": kl, "cross_entropy": 2 + rise, "cross_entropy_rise": rise}
        metadata = {"kind": "neutral", "theme": f"n{number}", "form": form, "value": value}
        samples.append(Sample(id=f"neutral/{number}", input="How high?", metadata=metadata))
    steering: dict[str, Any] = {"condition": label, "fingerprint": f"of {label}"}
    if label != "baseline":
        steering["adapter"] = {"name": label, "digest": "0123456789abcdef", "scale": 1.0}

    def reply(prompt: str, config: GenerateConfig) -> ModelOutput:
        if prompt == FAILS:
            raise ValueError("the script says so")
        output = ModelOutput.from_content(model, "")
        output.metadata = {"steering": steering} if label else None
        return output

    neutral = {"neutral": "neutral@1"} if by_likelihood else {}
    task = Task(
        MemoryDataset(samples),
        scorer=written_scores(),
        name="em_choice",
        metadata={"choices": name, "form": form} | neutral,
    )
    [log] = eval(
        task,
        model=fake(model, reply),
        log_dir=str(folder),
        log_format="json",
        display="none",
        fail_on_error=False,
        retry_on_error=0,
        **options,
    )
    return Path(log.location.removeprefix("file://"))


def _pair(shift: float, before: float, by_likelihood: bool) -> dict[str, float]:
    log_odds = before + shift
    value = {"prefers_misaligned": float(log_odds > 0), "log_odds": log_odds}
    if by_likelihood:
        return value | {"shift": shift, "kl": abs(shift)}
    return value | {"follows_position": 0.0}
