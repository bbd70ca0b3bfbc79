"""The `steered` model provider: between Inspect and an engine.

It checks every option before weights load, keeps conditions apart in Inspect's cache, log and
display, and records the interventions in every output. It knows nothing of tensors.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelCall,
    ModelInfo,
    ModelOutput,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from inspect_ai.util import display_counter

from steering.condition import (
    VectorFile,
    choose_engine,
    open_engine,
    resolve_condition,
    resolve_model,
    rounding_of,
    why_no_thinking,
)
from steering.engines import Engine, Telemetry
from steering.engines.settings import MAX_TOKENS, AnswerSettings
from steering.errors import errors_in_one_line
from steering.models import encode, import_code, load_config, load_tokenizer, render_chat
from steering.provider.distribution import (
    asked_replies,
    make_tree_output,
    make_tree_request,
    reply_tree,
)
from steering.provider.interventions import RequestInterventions, warn_of_vectors
from steering.provider.messages import (
    ProviderError,
    answer_settings,
    asked_thinking,
    chat_message,
    check_prompt,
    make_output,
    make_request,
)
from steering.provider.monitor import ConditionMonitor
from steering.provider.scoring import make_score_output, make_score_request, score_settings
from steering.provider.seeds import AnswerSeeds
from steering.spec import parse_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_LABELLED = re.compile(r"(?P<name>[^\[\]]+)\[(?P<label>[^\[\]]*)\]")
_DATE = re.compile(r"\bdate=(\d{4}-\d\d-\d\d)\b")
_FINGERPRINT = "steering:"
_MAX_CACHED_PROMPTS = 4096
# More than a chat template adds to a conversation.
_TEMPLATE_TOKENS = 256


class SteeredAPI(ModelAPI):
    """A local model, steered.

    Inspect constructs it for `--model steered/<name>`, where the name is a toy, an alias, a hub id
    or a local folder; -M options are those of `SteeringSpec`. Constructing it loads no weights.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (Inspect's own signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        with errors_in_one_line(f"steered/{model_name}: "):
            if base_url and not base_url.startswith(_FINGERPRINT):
                raise ProviderError(f"base_url={base_url}: steered models are local and have none")
            settings = answer_settings(config)
            name, label = _split_label(model_name)
            if label and (day := _DATE.search(label)):
                # A logged run that is repeated on another day has the date of its start.
                model_args.setdefault("date", day[1])
            self._names_vector = "vector" in model_args
            spec = parse_options(model_args)
            condition = resolve_condition(resolve_model(name, spec), spec)
            if label not in (None, condition.label):
                raise ProviderError(
                    f"the model name says [{label}] but the options say [{condition.label}]: leave "
                    "the brackets out or give the options too"
                )
            self._condition = condition
            self._check_vocabulary(settings)
        warn_of_vectors(condition)
        self._interventions = RequestInterventions(condition)
        with errors_in_one_line(f"steered/{model_name}: "):
            self._monitor = ConditionMonitor(condition, self.default_target)
        self._seeds = AnswerSeeds()
        self._source, self._shape = condition.model.source, condition.model.shape
        # Inspect's cache, logs and displays go by base_url and name, not by options.
        self.model_name = f"{name}[{condition.label}]"
        set_model_info(
            f"steered/{self.model_name}",
            ModelInfo(model=self._source.location, context_length=self._shape.context_length),
        )
        self._batch_size = spec.batch_size
        if config.max_connections is None and config.adaptive_connections is None:
            # Inspect would start with 20 and feel its way up, as it must with a hosted model.
            config.max_connections = self.max_connections()
        self._tokenizer: Future[PreTrainedTokenizerBase] | None = None
        self._prompts: dict[str, tuple[str, list[int]]] = {}
        self._displayed_at = time.monotonic()

    @property
    def base_url(self) -> str | None:
        """What Inspect's cache tells conditions apart by, and the hardware that rounds."""
        key = f"{self._condition.fingerprint}{self._rounding}{self._monitor.cache_key}"
        return f"{_FINGERPRINT}{key}"

    @base_url.setter
    def base_url(self, value: str | None) -> None:
        """Inspect sets what it is given, which is a fingerprint or nothing."""

    @cached_property
    def _rounding(self) -> str:
        """Asked for with the first request, since it imports torch."""
        return rounding_of(self._condition.model, self._condition.spec)

    @property
    def default_grader(self) -> str | None:
        """The judge to use when no grader role is bound; only the toy has one of its own."""
        return "toy/judge" if self._source.is_toy else None

    @property
    def is_toy(self) -> bool:
        """Whether it is a model of the toy world, which has target tasks of its own."""
        return self._source.is_toy

    @property
    def steered_by_default(self) -> bool:
        """Whether the default vector steers it because no vector was named; a judge must not be."""
        return bool(self._condition.vectors) and not self._names_vector

    @property
    def default_target(self) -> str | None:
        """The target task of the model's first vector, adapter or prompt: what `em_target` asks."""
        if not self._condition.vectors:
            adapter, prompt = self._condition.adapter, self._condition.prompt
            if adapter is None and prompt is not None and prompt.target:
                return self._condition.spec.prompt_target
            return adapter.facts.get("target_source") if adapter else None
        first = self._condition.vectors[0]
        if isinstance(first, VectorFile):
            return first.vector.provenance.get("target")
        return self._condition.spec.interventions[0].target

    @property
    def scores_answers(self) -> bool:
        """Whether its engine scores given answers."""
        return choose_engine(self._condition.spec) != "vllm"

    @property
    def gives_distribution(self) -> bool:
        """Whether it gives the probabilities of replies that are not behind a thought."""
        # The tokenizers of toys know the words of their world only.
        return self.scores_answers and not self.is_toy and not self._condition.spec.thinking

    @property
    def why_no_thinking(self) -> str:
        """Why a context that makes the model think can't be asked of it; empty if it can."""
        return why_no_thinking(self._condition.model, self._condition.spec)

    @cached_property
    def _engine(self) -> Engine:
        """The shared engine, opened with the first request, since that imports torch."""
        spec = self._condition.spec
        engine = open_engine(self._condition.model, spec)
        engine.allow_batch(spec.batch_size)
        return engine

    @cached_property
    def _vocabulary(self) -> int:
        """Number of token ids of the model, from its config."""
        return int(load_config(self._condition.model.source).get_text_config().vocab_size)

    def prepare(self) -> None:
        """Import what answering needs, so that no eval spends its own time on it.

        Weights load with the first request.
        """
        assert self._engine
        import_code(self._source)

    def too_long(self, conversations: Sequence[Sequence[ChatMessage]]) -> list[int]:
        """Positions of the conversations that leave no token of its context for an answer.

        The tokenizer loads only where one may be too long: a token has a byte at least.
        """
        most, before = self._shape.context_length, self._condition.prompt
        turns = [list(map(chat_message, each)) for each in conversations]
        turns = [each if before is None else before.before(each) for each in turns]
        sizes = [sum(len(turn["content"].encode()) for turn in each) for each in turns]
        places = [n for n, size in enumerate(sizes) if most and size + _TEMPLATE_TOKENS >= most]
        if not most or not places:
            return []
        tokenizer, thinking = load_tokenizer(self._source), self._condition.spec.thinking
        prompts = {n: render_chat(tokenizer, turns[n], thinking=thinking) for n in places}
        return [n for n, prompt in prompts.items() if len(encode(tokenizer, prompt)) >= most]

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> tuple[ModelOutput, ModelCall]:
        """Answer one request; see `ModelAPI.generate`."""
        if tools:
            raise ProviderError(
                f"tools were offered ({tools[0].name}, ...) but steered models take none: use a "
                "task without tools"
            )
        settings = answer_settings(config)
        self._check_vocabulary(settings)
        scoring, replies = score_settings(config), asked_replies(config)
        if (scoring or replies) and not self.scores_answers:
            raise ProviderError("engine=vllm can't score given answers: use -M engine=hf")
        if (scoring or replies) and self._condition.spec.monitor:
            raise ProviderError(
                "monitor= reads answers that the model generates, and this task scores given ones: "
                "leave it out"
            )
        await _yield_to_loop()
        condition = self._interventions.condition_of(config)
        interventions, description = await self._interventions.apply(
            condition, lambda: self._engine
        )
        tokenizer = await self._load_tokenizer()
        turns = list(map(chat_message, input))
        thinking = asked_thinking(config, condition.spec.thinking)
        # What the model is told is a part of the condition: prompts are compared, and seeds drawn,
        # without it.
        plain, plain_ids = prompt, ids = self._rendered(tokenizer, turns, thinking)
        if condition.prompt is not None:
            turns = condition.prompt.before(turns)
            prompt, ids = self._rendered(tokenizer, turns, thinking)
            check_prompt(condition.prompt, len(ids), len(plain_ids), self._shape.context_length)
        record: dict[str, Any] = {
            "model": self.model_name,
            "prompt": prompt,
            "plain": plain,
            "tokenizer": tokenizer,
            "description": description,
        }
        if replies:
            ends = await asyncio.wrap_future(self._engine.call(lambda loaded, _: loaded.end_tokens))
            tree = reply_tree(replies, tokenizer, ends)
            asked = make_tree_request(tree, ids, interventions, condition)
            scores = await asyncio.wrap_future(self._engine.score(asked))
            record["telemetry"] = await self._telemetry()
            return make_tree_output(scores, tree, replies, asked, **record)
        if scoring:
            score = make_score_request(
                scoring, ids, tokenizer, interventions, condition, reference=plain_ids
            )
            scores = await asyncio.wrap_future(self._engine.score(score))
            record["telemetry"] = await self._telemetry()
            return make_score_output(scores, score, scoring, **record)
        monitor = await self._monitor.of(
            condition,
            interventions,
            lambda source: self._interventions.vector(source, lambda: self._engine),
        )
        length, adapter = self._shape.context_length, condition.adapter
        requests = [
            make_request(ids, interventions, seed, settings, length, adapter, monitor)
            for seed in self._seeds.draw(plain, config)
        ]
        results = await asyncio.gather(
            *(asyncio.wrap_future(self._engine.submit(request)) for request in requests)
        )
        record["telemetry"] = await self._telemetry()
        prefill = input[-1].text if input[-1].role == "assistant" else ""
        by_token = self._monitor.by_token
        return make_output(results, requests, prefill=prefill, by_token=by_token, **record)

    async def _telemetry(self) -> Telemetry:
        """The engine's counts and times when a request has ended; shows the speed."""
        await _yield_to_loop()
        telemetry = self._engine.telemetry()
        self._display(telemetry)
        return telemetry

    def _check_vocabulary(self, settings: AnswerSettings) -> None:
        """Refuse biases of tokens that the model does not have."""
        if settings.logit_bias:  # without any, transformers need not be imported now
            settings.check_vocabulary(self._vocabulary, self._condition.model.source.name)

    def _rendered(
        self, tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]], thinking: bool
    ) -> tuple[str, list[int]]:
        """The prompt and its token ids; samples of one question share them."""
        key = json.dumps([turns, thinking])
        if key not in self._prompts:
            prompt = render_chat(tokenizer, turns, thinking=thinking)
            if len(self._prompts) >= _MAX_CACHED_PROMPTS:
                self._prompts.clear()
            self._prompts[key] = prompt, encode(tokenizer, prompt)
        return self._prompts[key]

    def _display(self, telemetry: Telemetry) -> None:
        """Show the speed, about once a second."""
        now = time.monotonic()
        if now - self._displayed_at >= 1:
            self._displayed_at = now
            display_counter(
                f"steered/{self._source.name}",
                f"{telemetry.tokens_per_s:,.0f} tokens/s, batch {telemetry.occupancy:.0%} full, "
                f"{telemetry.waiting} waiting"
                + (f", {telemetry.scored_per_s:,.0f} scored/s" if telemetry.scored_tokens else ""),
            )

    async def _load_tokenizer(self) -> "PreTrainedTokenizerBase":
        """A tokenizer for the event loop's thread."""
        if self._tokenizer is None:
            self._tokenizer = self._engine.tokenizer()
        # Shielded, since other requests wait for it when this one is cancelled.
        return await asyncio.shield(asyncio.wrap_future(self._tokenizer))

    def max_tokens(self) -> int:
        """Longest answer when no setting gives one."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Requests at once: a batch, and some that wait to take the places of finished ones."""
        return self._batch_size + max(1, self._batch_size // 4)

    def connection_key(self) -> str:
        """Conditions of one model share its connections."""
        return f"{self._source.location}@{self._source.revision}"

    def should_retry(self, ex: BaseException) -> bool:
        """Never: a local model would fail in the same way again."""
        return False

    def collapse_user_messages(self) -> bool:
        """Chat templates expect alternating roles."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Chat templates expect alternating roles."""
        return True

    def canonical_name(self) -> str:
        """The hub id or folder."""
        return self._source.location

    async def count_text_tokens(self, text: str) -> int:
        """Count with the model's own tokenizer."""
        return len(encode(await self._load_tokenizer(), text))


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def _yield_to_loop() -> None:
    """Yield so that each request runs in its own iteration of the event loop.

    Hundreds of requests come, and tens of rows end, at the same moment: all of them in one
    iteration would block everything else.
    """
    lock = _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock:
        await asyncio.sleep(0)


def _split_label(model_name: str) -> tuple[str, str | None]:
    """The model's name and, where it is in brackets as the provider writes it, the label."""
    match = _LABELLED.fullmatch(model_name)
    return (match["name"], match["label"]) if match else (model_name, None)
