"""A steered model to ask from Python: one call for a prompt or for many, in a script or a notebook.

It goes through the provider, so weights, labels, cached vectors and answers are those of
`inspect eval --model steered/<name>`.
"""

import asyncio
import inspect
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, overload

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageBase,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    StopReason,
    get_model,
)

from steering.api.vectors import with_vector_files
from steering.engines.settings import AnswerSettings
from steering.errors import SteeringError, no_such_option
from steering.provider.seeds import repeatable_seeds
from steering.spec import INTERVENTION

Conversation = Sequence[Mapping[str, str] | ChatMessage]
"""Messages, each of Inspect's types or a mapping with the keys role and content."""
Prompt = str | Conversation

_MESSAGES = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """An answer with what is known of it.

    Attributes:
        text: What the model answered, without its reasoning.
        reasoning: What a thinking model thought before, if anything.
        stop_reason: Why it ended: `stop`, `max_tokens` or `model_length`.
        num_tokens: Tokens generated.
        condition: Label of the condition.
        steering: The interventions and their sizes, as a log records them.
    """

    text: str
    reasoning: str | None
    stop_reason: StopReason
    num_tokens: int
    condition: str
    steering: dict[str, Any]


def load_model(name: str, **options: Any) -> "SteeredModel":
    """A steered model to ask.

    Weights load with the first question, once a process for all conditions of a model. The default
    vector is built with the first question that is steered by it, unless it is in the cache.

    Args:
        name: A toy, an alias, a hub id, a folder or a GGUF file, as after `--model steered/`.
        **options: The -M options: `vector`, `magnitude`, `layer`, `dtype` and the others. A
            `vector` may also be a path, a `SteeringVector`, a tensor or an array.

    Raises:
        SteeringError: There is no such model, or an option is unknown, impossible or without
            effect.
    """
    try:
        options = with_vector_files(options)
        return SteeredModel(get_model(f"steered/{name}", memoize=False, **options))
    except PrerequisiteError as error:
        if isinstance(error.__cause__, SteeringError):
            raise error.__cause__ from None
        raise


class SteeredModel:
    """A model under one condition; `load_model` makes it.

    `ask` returns texts, `answer` returns `Answer` objects. Both take a prompt or a list of prompts,
    which are answered in one batch. A prompt is a text, or a conversation as a list of messages. An
    intervention option (`vector="none"`, `magnitude=2`) holds for that call only, and changes the
    model's own intervention as it would in a request: naming a `vector` replaces all of it.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    def __repr__(self) -> str:
        """The model's name with the label of its condition."""
        return str(self._model)

    @overload
    def ask(self, prompts: str, **settings: Any) -> str: ...

    @overload
    def ask(self, prompts: list[str], **settings: Any) -> list[str]: ...

    @overload
    def ask(self, prompts: Sequence[Any], **settings: Any) -> str | list[str]: ...

    def ask(self, prompts: Prompt | Sequence[Prompt], **settings: Any) -> str | list[str]:
        """The text of the answer to a prompt, or of the answers to several, in their order.

        Takes the arguments of `answer` and raises the same errors.
        """
        answers = self.answer(prompts, **settings)
        if isinstance(answers, Answer):
            return answers.text
        return [answer.text for answer in answers]

    def answer(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        system: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        **steering: Any,
    ) -> Answer | list[Answer]:
        """The answer to a prompt, or those to several, in their order.

        Args:
            prompts: One prompt or a list of them.
            system: A system message before every prompt.
            temperature: 0 is greedy; 1 when not given.
            top_p: Share of the probability that tokens are drawn from; all when not given.
            top_k: Number of the likeliest tokens that are drawn from; all when not given, 0 or -1.
            max_tokens: Longest answer; 1024 when not given.
            stop: A text, or several, that ends the answer and is cut off.
            seed: The same seed gives the same answers; without it they differ from call to call.
            **steering: Intervention options for this call only.

        Raises:
            SteeringError: A prompt or an option can't be used.
        """
        for name in steering:
            if name not in INTERVENTION:
                raise SteeringError(
                    no_such_option(name, [*_SETTINGS, *INTERVENTION], "of a question")
                )
        if not isinstance(prompts, Iterable) or isinstance(prompts, Mapping):
            raise SteeringError(
                f"{prompts!r} is no prompt: give a text, a conversation (a list of messages), or a "
                "list of these"
            )
        steering = with_vector_files(steering)
        single = isinstance(prompts, str) or _is_conversation(prompts)
        batch = [prompts] if single else list(prompts)
        if not batch:
            raise SteeringError("there is no prompt: give a text, or a list with at least one")
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        settings: dict[str, Any] = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        AnswerSettings(**settings, stop=stops)
        config = GenerateConfig(
            **settings,
            stop_seqs=list(stops) or None,
            extra_body={"steering": steering} if steering else None,
        )
        conversations = [_messages(prompt, system) for prompt in batch]
        outputs = _run(self._generate(conversations, config))
        answers = [_answer(output) for output in outputs]
        return answers[0] if single else answers

    async def _generate(
        self, conversations: Sequence[list[ChatMessage]], config: GenerateConfig
    ) -> list[ModelOutput]:
        with repeatable_seeds():
            tasks = [
                asyncio.ensure_future(self._model.generate(messages, config=config))
                for messages in conversations
            ]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            raise


_SETTINGS = [
    parameter.name
    for parameter in inspect.signature(SteeredModel.answer).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
]


def _is_conversation(prompts: Sequence[Any]) -> bool:
    """Whether a list is one conversation rather than several prompts."""
    messages = [isinstance(part, (Mapping, ChatMessageBase)) for part in prompts]
    if any(messages) and not all(messages):
        raise SteeringError(
            "a list mixes messages with prompts: give texts, or conversations as lists of messages"
        )
    return any(messages)


def _messages(prompt: Any, system: str | None) -> list[ChatMessage]:
    """A prompt as Inspect's messages."""
    messages: list[ChatMessage]
    if isinstance(prompt, str):
        messages = [ChatMessageUser(content=prompt)]
    elif isinstance(prompt, Sequence) and prompt and _is_conversation(prompt):
        messages = [_message(part) for part in prompt]
    else:
        raise SteeringError(f"{prompt!r} is no prompt: give a text, or a list of messages")
    if system is not None:
        messages.insert(0, ChatMessageSystem(content=system))
    return messages


def _message(part: Mapping[str, str] | ChatMessage) -> ChatMessage:
    if not isinstance(part, Mapping):
        return part
    role, content = part.get("role"), part.get("content")
    if set(part) != {"role", "content"} or role not in _MESSAGES or not isinstance(content, str):
        raise SteeringError(
            f"{dict(part)!r} is no message: give a role ({', '.join(_MESSAGES)}) and a text as "
            "content"
        )
    return _MESSAGES[role](content=content)


def _answer(output: ModelOutput) -> Answer:
    steering = dict((output.metadata or {})["steering"])
    message = output.choices[0].message
    reasoning = None
    if not isinstance(message.content, str):
        reasoning = "".join(p.reasoning for p in message.content if p.type == "reasoning") or None
    return Answer(
        text=message.text,
        reasoning=reasoning,
        stop_reason=output.stop_reason,
        num_tokens=output.usage.output_tokens if output.usage else 0,
        condition=steering["condition"],
        steering=steering,
    )


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own, since a notebook's thread runs one already."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="steering-ask", daemon=True).start()
    return loop


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Wait for the work to end; an interrupt cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, _event_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
