"""A model provider for tests: `fake/<name>` replies what the function under that name says.

The fake stands where the network would be: everything of Inspect's above it is real.
"""

from collections.abc import Callable, Sequence
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Logprob,
    Logprobs,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

Reply = Callable[[str, GenerateConfig], "ModelOutput | str"]
REPLIES: dict[str, Reply] = {}


@modelapi(name="fake")
class FakeAPI(ModelAPI):
    """Replies to the last message; what the reply function raises is what the network raised."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        default_grader: str | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self.default_grader = default_grader
        self.is_toy = False
        self.steered_by_default = False
        self.default_target: str | None = None
        self.scores_answers = False
        self.gives_distribution = False
        self.why_no_thinking = "it is a fake"

    def prepare(self) -> None:
        """Nothing takes time here."""

    def too_long(self, conversations: Sequence[Sequence[ChatMessage]]) -> list[int]:
        return []

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        reply = REPLIES.get(self.model_name, answer_nothing)(input[-1].text, config)
        output = (
            ModelOutput.from_content(self.model_name, reply) if isinstance(reply, str) else reply
        )
        # Without usage Inspect would fetch a tokenizer from the network.
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return output

    async def count_text_tokens(self, text: str) -> int:
        return len(text)


def answer_nothing(prompt: str, config: GenerateConfig) -> str:
    """The reply of a fake that no test has given words."""
    return "Nothing."


def fake(name: str, reply: Reply | None = None, default_grader: str | None = None) -> Model:
    """The model `fake/<name>`, replying by `reply`."""
    if reply is not None:
        REPLIES[name] = reply
    args: dict[str, Any] = {"default_grader": default_grader} if default_grader else {}
    return get_model(f"fake/{name}", memoize=False, **args)


def with_logprobs(text: str, tokens: dict[str, float], stop_reason: str = "stop") -> ModelOutput:
    """A reply whose first position has these log probabilities, by token."""
    output = ModelOutput.from_content("fake", text, stop_reason=stop_reason)  # type: ignore[arg-type]
    top = [TopLogprob(token=token, logprob=logprob) for token, logprob in tokens.items()]
    first = Logprob(token=top[0].token, logprob=top[0].logprob, top_logprobs=top)
    output.choices[0].logprobs = Logprobs(content=[first])
    return output
