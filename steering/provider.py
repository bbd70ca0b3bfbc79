"""The `steered` model provider: Inspect messages in, rows to an engine, Inspect outputs back.

It checks every option before weights load, keeps conditions apart in Inspect's cache, log and
display, and says in every output what was done. It knows nothing of tensors.
"""

import asyncio
import copy
import hashlib
import re
import secrets
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspect_ai._util.error import PrerequisiteError
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
from tqdm import tqdm

from steering.construct import Recipe, cached_vector, default_recipe
from steering.engines import Engine, shared_engine
from steering.errors import SteeringError
from steering.exchange import (
    MAX_TOKENS,
    ExchangeError,
    check_config,
    make_output,
    make_row,
    make_turn,
)
from steering.models import (
    check_layer,
    encode,
    find_model,
    read_shape,
    render_chat,
    weights_digest,
)
from steering.spec import DEFAULT, DEFAULT_SITE, SteeringSpec, parse_options
from steering.targets import Target, load_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.vector import SteeringVector

_LABELLED = re.compile(r"(?P<name>[^\[\]]+)\[(?P<label>[^\[\]]*)\]")
_FINGERPRINT = "steering:"


@dataclass(frozen=True)
class _Condition:
    """A checked spec with what it names: what there is to know before weights load.

    Attributes:
        spec: The options.
        recipe: Of the default vector, if that is what steers.
        target: The target task of that recipe.
        label: For people.
        fingerprint: Differs wherever an answer may differ.
    """

    spec: SteeringSpec
    recipe: Recipe | None
    target: Target | None
    label: str
    fingerprint: str


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
        try:
            if base_url and not base_url.startswith(_FINGERPRINT):
                raise ExchangeError(f"base_url={base_url}: steered models are local and have none")
            check_config(config)
            name, label = _split_label(model_name)
            spec = parse_options(model_args)
            self._source = find_model(name, spec.revision)
            self._shape = read_shape(self._source)
            self._weights = weights_digest(self._source)
            self._condition = self._check(spec)
            if label not in (None, self._condition.label):
                raise ExchangeError(
                    f"the model name says [{label}] but the options say "
                    f"[{self._condition.label}]: leave the brackets out or give the options too"
                )
        except SteeringError as error:
            raise PrerequisiteError(f"steered/{model_name}: {error}") from None
        # Inspect's cache, logs and displays go by base_url and name, not by options.
        self.base_url = f"{_FINGERPRINT}{self._condition.fingerprint}"
        self.model_name = f"{name}[{self._condition.label}]"
        set_model_info(
            f"steered/{self.model_name}",
            ModelInfo(model=self._source.location, context_length=self._shape.context_length),
        )
        self._batch_size = spec.batch_size
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._building: dict[str, Future[SteeringVector]] = {}
        self._occurrences: Counter[str] = Counter()

    @property
    def default_grader(self) -> str | None:
        """The judge to use when no grader role is bound; only the toy has one of its own."""
        return "toy/judge" if self._source.is_toy else None

    @cached_property
    def _engine(self) -> Engine:
        """The shared engine; asked for with the first request, since it brings torch with it."""
        spec = self._condition.spec
        engine = shared_engine(self._source, dtype=spec.dtype, device=spec.device)
        engine.allow_batch(spec.batch_size)
        return engine

    def _check(self, spec: SteeringSpec) -> _Condition:
        """Everything about a spec that can be checked without weights."""
        recipe, target = None, None
        identity = {"weights": self._weights}
        if spec.layer is not None:
            check_layer(spec.layer, self._shape, self._source)
        content = ""
        if spec.steered and spec.vector == DEFAULT:
            target = load_target(spec.target)
            recipe = default_recipe(
                self._source,
                self._shape,
                target,
                layer=spec.layer,
                site=spec.site or DEFAULT_SITE,
            )
            identity["vector"] = recipe.digest
            content = target.digest
        elif spec.steered:
            from steering.vector import file_digest

            self._load(spec)
            content = identity["vector"] = file_digest(Path(spec.vector))
        return _Condition(spec, recipe, target, spec.label(content), spec.fingerprint(**identity))

    def _load(self, spec: SteeringSpec) -> "SteeringVector":
        """The vector of a file, if it fits the model."""
        from steering.vector import SteeringVector

        vector = SteeringVector.load(Path(spec.vector))
        vector.check_fits(
            width=self._shape.width, num_layers=self._shape.num_layers, model=self._source.name
        )
        return vector

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
        condition = self._condition
        if override := (config.extra_body or {}).get("steering"):
            condition = self._check(parse_options(override, base=condition.spec))
        edits, intervention = await self._intervention(condition)
        tokenizer = await self._own_tokenizer()
        turns = [make_turn(message) for message in input]
        prompt = render_chat(tokenizer, turns, thinking=condition.spec.thinking)
        ids = encode(tokenizer, prompt)
        rows = [
            make_row(ids, edits, seed, config, self._shape.context_length)
            for seed in self._seeds(prompt, config)
        ]
        results = await asyncio.gather(
            *(asyncio.wrap_future(self._engine.submit(row)) for row in rows)
        )
        return make_output(
            results,
            rows,
            model=self.model_name,
            prompt=prompt,
            tokenizer=tokenizer,
            intervention=intervention,
        )

    async def _own_tokenizer(self) -> "PreTrainedTokenizerBase":
        """A tokenizer for the event loop: the engine's own is in use on the model's thread."""
        if self._tokenizer is None:
            copied = self._engine.call(lambda loaded, _: copy.deepcopy(loaded.tokenizer))
            self._tokenizer = await asyncio.wrap_future(copied)
        return self._tokenizer

    async def _vector(self, condition: _Condition) -> "SteeringVector":
        """The condition's vector, built or read once."""
        if condition.recipe is None or condition.target is None:
            return self._load(condition.spec)
        digest = condition.recipe.digest
        if digest not in self._building:
            self._building[digest] = cached_vector(
                self._engine, condition.recipe, condition.target, self._progress(condition)
            )
        try:
            # Shielded, since others wait for the same vector when one request is cancelled.
            return await asyncio.shield(asyncio.wrap_future(self._building[digest]))
        except Exception:
            self._building.pop(digest, None)
            raise

    async def _intervention(self, condition: _Condition) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The edits of a condition, and what the log says of them."""
        spec = condition.spec
        said: dict[str, Any] = {"condition": condition.label, "fingerprint": condition.fingerprint}
        if not spec.steered:
            return (), said
        vector = await self._vector(condition)
        from steering.interventions import resolve

        edit = resolve(
            vector,
            magnitude=spec.magnitude,
            unit=spec.unit,
            operation=spec.operation,
            positions=spec.positions,
            layer=spec.layer,
            site=spec.site,
        )
        said |= {
            "layer": edit.layer,
            "site": edit.site,
            "operation": edit.operation,
            "positions": edit.positions,
            "magnitude": spec.magnitude,
            "unit": spec.unit,
            "vector_norm": float(vector.directions.norm()),
            "residual_norm": vector.residual_norm,
            "vector": dict(vector.provenance),
        }
        return (edit,), said

    def _progress(self, condition: _Condition) -> Callable[[int, int], None]:
        """A bar for people, where the display leaves room for one."""
        assert condition.recipe is not None
        caption = f"building the {condition.recipe.target} vector of {self._source.name}"
        if sys.stdout.isatty() and display_type() in ("full", "conversation", "rich"):
            loop = asyncio.get_running_loop()

            async def show(done: int, total: int) -> None:
                display_counter(caption, f"{done}/{total}")

            def report(done: int, total: int) -> None:
                asyncio.run_coroutine_threadsafe(show(done, total), loop)

            return report
        bar: list[tqdm[Any]] = []

        def advance(done: int, total: int) -> None:
            if not bar:
                bar.append(tqdm(total=total, desc=caption, unit="step", mininterval=1))
            bar[0].update(1)
            if done == total:
                bar[0].close()

        return advance

    def _seeds(self, prompt: str, config: GenerateConfig) -> list[int]:
        """A seed for each choice.

        A fixed `seed` gives the n-th request of one prompt its own numbers, so that repeated
        samples differ, and gives every condition the same ones, so that conditions pair up.
        """
        count = config.num_choices or 1
        if config.seed is None:
            return [secrets.randbits(63) for _ in range(count)]
        key = f"{config.seed}\0{prompt}"
        seeds = []
        for _ in range(count):
            counter = f"{key}\0{config.extra_body}"
            text = f"{key}\0{self._occurrences[counter]}"
            self._occurrences[counter] += 1
            seeds.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))
        return seeds

    def max_tokens(self) -> int:
        """Tokens of an answer when nobody says."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Requests under way at once: a batch's worth."""
        return self._batch_size

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


def _split_label(model_name: str) -> tuple[str, str | None]:
    """A model name as the provider itself writes it holds the condition's label in brackets."""
    match = _LABELLED.fullmatch(model_name)
    return (match["name"], match["label"]) if match else (model_name, None)
