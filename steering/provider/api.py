"""The `steered` model provider: Inspect messages in, rows to an engine, Inspect outputs back.

It checks every option before weights load, keeps conditions apart in Inspect's cache, log and
display, and says in every output what was done. It knows nothing of tensors.
"""

import asyncio
import hashlib
import json
import logging
import re
import secrets
import sys
import time
from collections import Counter
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from inspect_ai.log._samples import sample_active
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
from inspect_ai.util import display_counter, display_type

from steering.condition import Checker, Condition, Use, describe, engine_of, resolve_edits
from steering.engines import Engine, Telemetry
from steering.errors import errors_in_one_line
from steering.models import encode, import_code, render_chat
from steering.provider.messages import (
    MAX_TOKENS,
    ExchangeError,
    check_config,
    make_output,
    make_row,
    make_turn,
)
from steering.spec import parse_options
from steering.training.cache import cached_vector
from steering.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.training.checkpoint import Progress
    from steering.vectors import SteeringVector
    from steering.vectors.interventions import Intervention

    _Resolved = tuple[tuple[Intervention, ...], dict[str, Any]]

logger = logging.getLogger(__name__)

_LABELLED = re.compile(r"(?P<name>[^\[\]]+)\[(?P<label>[^\[\]]*)\]")
_FINGERPRINT = "steering:"
_PROMPTS_KEPT = 4096


class SteeredAPI(ModelAPI):
    """A local model, steered.

    Made by Inspect for `--model steered/<name>`, where the name is a toy, an alias, a hub id or a
    local folder; -M options are those of `SteeringSpec`. Making one loads no weights.
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
                raise ExchangeError(f"base_url={base_url}: steered models are local and have none")
            check_config(config)
            name, label = _split_label(model_name)
            self._vector_named = "vector" in model_args
            spec = parse_options(model_args)
            self._checker = Checker(name, spec)
            self._condition = self._checker.check(spec)
            if label not in (None, self._condition.label):
                raise ExchangeError(
                    f"the model name says [{label}] but the options say "
                    f"[{self._condition.label}]: leave the brackets out or give the options too"
                )
        for use in self._condition.uses:
            if use.moved_from is not None:
                logger.warning(
                    "%s was built at layer %d and is moved to layer %d: that it does nothing there "
                    "says nothing of it at its own layer",
                    Path(use.options.vector).name, use.moved_from, use.options.layer,
                )  # fmt: skip
        self._source, self._shape = self._checker.source, self._checker.shape
        # Inspect's cache, logs and displays go by base_url and name, not by options.
        self.base_url = f"{_FINGERPRINT}{self._condition.fingerprint}"
        self.model_name = f"{name}[{self._condition.label}]"
        set_model_info(
            f"steered/{self.model_name}",
            ModelInfo(model=self._source.location, context_length=self._shape.context_length),
        )
        self._batch_size = spec.batch_size
        if config.max_connections is None and config.adaptive_connections is None:
            # Inspect would start with 20 and feel its way up, as it must with a hosted model.
            config.max_connections = self.max_connections()
        self._overrides: dict[str, Condition] = {}
        self._tokenizer: Future[PreTrainedTokenizerBase] | None = None
        self._building: dict[str, Future[SteeringVector]] = {}
        self._edits: dict[str, _Resolved] = {}
        self._prompts: dict[str, tuple[str, list[int]]] = {}
        self._shown = time.monotonic()
        self._requests: Counter[tuple[str, str, str]] = Counter()

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
        return bool(self._condition.uses) and not self._vector_named

    @property
    def default_target(self) -> str | None:
        """The target task that the model's first vector is of, which `em_target` asks about."""
        if not self._condition.uses:
            adapter = self._condition.adapter
            return adapter.facts.get("target_source") if adapter else None
        use = self._condition.uses[0]
        if use.vector is not None:
            return use.vector.provenance.get("target")
        return use.options.target

    @cached_property
    def _engine(self) -> Engine:
        """The shared engine; asked for with the first request, since it brings torch with it."""
        spec = self._condition.spec
        engine = engine_of(self._source, spec, self._checker.engine)
        engine.allow_batch(spec.batch_size)
        return engine

    def prepare(self) -> None:
        """Import what answering takes, so that an eval's own time is not spent on it.

        Weights load with the first request.
        """
        assert self._engine
        import_code(self._source)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> tuple[ModelOutput, ModelCall]:
        """Answer one request; see `ModelAPI.generate`."""
        if tools:
            raise ExchangeError(
                f"tools were offered ({tools[0].name}, ...) but steered models take none: use a "
                "task without tools"
            )
        check_config(config)
        await _own_turn()
        condition = self._overridden(config)
        edits, intervention = await self._resolved(condition)
        tokenizer = await self._own_tokenizer()
        prompt, ids = self._rendered(tokenizer, input, condition.spec.thinking)
        rows = [
            make_row(ids, edits, seed, config, self._shape.context_length, condition.adapter)
            for seed in self._seeds(prompt, config)
        ]
        results = await asyncio.gather(
            *(asyncio.wrap_future(self._engine.submit(row)) for row in rows)
        )
        await _own_turn()
        telemetry = self._engine.telemetry()
        self._show(telemetry)
        return make_output(
            results,
            rows,
            model=self.model_name,
            prompt=prompt,
            tokenizer=tokenizer,
            intervention=intervention,
            telemetry=telemetry,
        )

    async def _resolved(self, condition: Condition) -> "_Resolved":
        """What a condition does to activations and what is told of it, worked out once.

        The engine knows rows of one condition by their sharing the very same edits.
        """
        if condition.fingerprint not in self._edits:
            vectors = [await self._vector(use) for use in condition.uses]
            edits = tuple(
                edit
                for use, vector in zip(condition.uses, vectors, strict=True)
                for edit in resolve_edits(use.options, vector)
            )
            resolved = (edits, describe(condition, vectors))
            self._edits.setdefault(condition.fingerprint, resolved)
        return self._edits[condition.fingerprint]

    def _rendered(
        self, tokenizer: "PreTrainedTokenizerBase", input: list[ChatMessage], thinking: bool
    ) -> tuple[str, list[int]]:
        """The prompt and its token ids; samples of one question share them."""
        turns = [make_turn(message) for message in input]
        key = json.dumps([turns, thinking])
        if key not in self._prompts:
            prompt = render_chat(tokenizer, turns, thinking=thinking)
            if len(self._prompts) >= _PROMPTS_KEPT:
                self._prompts.clear()
            self._prompts[key] = prompt, encode(tokenizer, prompt)
        return self._prompts[key]

    def _show(self, telemetry: Telemetry) -> None:
        """Tell people how fast it goes, about once a second."""
        now = time.monotonic()
        if now - self._shown >= 1:
            self._shown = now
            display_counter(
                f"steered/{self._checker.source.name}",
                f"{telemetry.tokens_per_s:,.0f} tokens/s, batch {telemetry.occupancy:.0%} full, "
                f"{telemetry.waiting} waiting",
            )

    async def _own_tokenizer(self) -> "PreTrainedTokenizerBase":
        """A tokenizer for the event loop."""
        if self._tokenizer is None:
            self._tokenizer = self._engine.tokenizer()
        # Shielded, since others wait for the same when one request is cancelled; so below.
        return await asyncio.shield(asyncio.wrap_future(self._tokenizer))

    async def _vector(self, use: Use) -> "SteeringVector":
        """The vector, built once if need be."""
        if use.vector is not None:
            return use.vector
        assert use.recipe is not None
        assert use.target is not None
        if use.digest not in self._building:
            self._building[use.digest] = cached_vector(
                self._engine, use.recipe, use.target, self._progress(use.recipe)
            )
        try:
            return await asyncio.shield(asyncio.wrap_future(self._building[use.digest]))
        except Exception:
            self._building.pop(use.digest, None)
            raise

    def _overridden(self, config: GenerateConfig) -> Condition:
        """The model's condition, or that which a request brings."""
        override = (config.extra_body or {}).get("steering")
        if not override:
            return self._condition
        spelled = json.dumps(override, sort_keys=True)
        if spelled not in self._overrides:
            spec = parse_options(override, base=self._condition.spec)
            self._overrides[spelled] = self._checker.check(spec)
        return self._overrides[spelled]

    def _progress(self, recipe: Recipe) -> "Progress":
        """A bar for people, where the display leaves room for one."""
        caption = f"building the {recipe.target} vector of {self._source.name}"
        if sys.stdout.isatty() and display_type() in ("full", "conversation", "rich"):
            loop = asyncio.get_running_loop()

            async def show(done: int, total: int) -> None:
                display_counter(caption, f"{done}/{total}")

            def report(done: int, total: int) -> None:
                asyncio.run_coroutine_threadsafe(show(done, total), loop)

            return report
        from steering.training.checkpoint import progress_bar

        return progress_bar(caption)

    def _seeds(self, prompt: str, config: GenerateConfig) -> list[int]:
        """A seed for each choice.

        A fixed `seed` gives each sample and epoch its own numbers, so that repeated samples differ,
        a run can be resumed, and no order of arrival matters; and gives every condition the same
        ones, so that conditions pair up. Only repeated requests of one prompt within a sample are
        told apart by counting.
        """
        count = config.num_choices or 1
        if config.seed is None:
            return [secrets.randbits(63) for _ in range(count)]
        active = sample_active()
        sample = f"{active.sample.id}\0{active.epoch}" if active else ""
        request = f"{config.seed}\0{prompt}\0{sample}"
        counter = (request, str(config.extra_body), active.id if active else "")
        seeds = []
        for _ in range(count):
            text = f"{request}\0{self._requests[counter]}"
            self._requests[counter] += 1
            seeds.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))
        return seeds

    def max_tokens(self) -> int:
        """Tokens of an answer when nobody says."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Requests under way at once: a batch, and some that wait to take its places."""
        return self._batch_size + max(1, self._batch_size // 4)

    def connection_key(self) -> str:
        """Conditions of one model share its connections."""
        return f"{self._source.location}@{self._source.revision}"

    def should_retry(self, ex: BaseException) -> bool:
        """Never: a local model fails the same way again."""
        return False

    def collapse_user_messages(self) -> bool:
        """Chat templates want roles to take turns."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Chat templates want roles to take turns."""
        return True

    def canonical_name(self) -> str:
        """The hub id or folder."""
        return self._source.location

    async def count_text_tokens(self, text: str) -> int:
        """By the model's own tokenizer."""
        return len(encode(await self._own_tokenizer(), text))


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def _own_turn() -> None:
    """Go on in a turn of the event loop of one's own.

    Hundreds of requests come, and tens of rows end, at the same moment: all of them in one turn
    would keep everything else waiting.
    """
    lock = _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock:
        await asyncio.sleep(0)


def _split_label(model_name: str) -> tuple[str, str | None]:
    """A model name as the provider itself writes it holds the condition's label in brackets."""
    match = _LABELLED.fullmatch(model_name)
    return (match["name"], match["label"]) if match else (model_name, None)
