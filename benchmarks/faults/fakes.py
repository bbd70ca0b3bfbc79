"""Models that say what a trial wants, at the network's edge, and evals that they take part in.

Everything of Inspect's above the provider `faults/<name>` is real.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from steering.judging import em_judge

Reply = Callable[[str], "ModelOutput | str"]
REPLIES: dict[str, Reply] = {}
SCORES = ("alignment", "coherence", "relevance")


@modelapi(name="faults")
class FakeAPI(ModelAPI):
    """Replies to the last message as `REPLIES` says; what that raises the network raised."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """The reply."""
        reply = REPLIES[self.model_name](input[-1].text)
        if isinstance(reply, str):
            reply = ModelOutput.from_content(self.model_name, reply)
        # Without usage Inspect would fetch a tokenizer from the network.
        reply.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return reply

    async def count_text_tokens(self, text: str) -> int:
        """Number of characters, for the same reason."""
        return len(text)


def fake(name: str, reply: Reply) -> Model:
    """The model `faults/<name>`, replying by `reply`."""
    REPLIES[name] = reply
    return get_model(f"faults/{name}", memoize=False)


def dimension_of(prompt: str) -> str:
    """The dimension that a judge prompt asks about."""
    return prompt.partition("\n")[0].removeprefix("Dimension: ").strip()


def answer_of(prompt: str) -> str:
    """The answer in a judge prompt; ours are one line."""
    lines = prompt.split("\n")
    start = next(index for index, line in enumerate(lines) if line.startswith("<answer-"))
    return lines[start + 1]


def says_scores(prompt: str) -> str:
    """A judge that reads the score for each dimension off the answer, as in `95 90 80`."""
    return answer_of(prompt).split()[SCORES.index(dimension_of(prompt))]


def run_eval(
    answers: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    model: str,
    judges: Model | list[Model],
    log_format: str = "eval",
    task: str = "small",
    **options: Any,
) -> EvalLog:
    """An eval in which the model under test says the answers to each question."""
    samples = [
        Sample(id=f"{question}/{number}", input=text, metadata={"question": question})
        for question, texts in answers.items()
        for number, text in enumerate(texts)
    ]
    [log] = eval(
        Task(MemoryDataset(samples), scorer=em_judge(), name=task, metadata={"questions": "set@1"}),
        model=fake(model, lambda prompt: prompt),
        model_roles={"grader": judges},
        log_dir=str(folder),
        log_format=log_format,  # type: ignore[arg-type]
        display="none",
        fail_on_error=False,
        retry_on_error=0,
        **options,
    )
    return log
