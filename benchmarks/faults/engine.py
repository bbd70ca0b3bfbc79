"""Requests in one engine, with faults while they run: the others answer as they do alone.

The reference of a request is its answer alone, in float32, in an engine without faults; of greedy
requests with plain additions and ablations it is checked against plain hooks. A trial sends some of
these requests in a random order with pauses, and injects faults at random passes.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults import tiny
from benchmarks.faults.trials import Problem, draw_of, one_line
from steering.engines import Request, RequestOutput, hf
from steering.engines.hf import HFEngine
from steering.engines.sampling import Sampling
from steering.errors import SteeringError
from steering.models import LoadedModel, find_model, load_model
from steering.models.source import ModelSource
from steering.vectors.interventions import Intervention, resolve

_POOL = 64
_ANSWERS_S = 30
_TOLERANCE = 2e-4
# What is injected, and how often.
_FAULTS = {
    "cancel": 4,
    "out of memory": 4,
    "exception": 3,
    "poison": 3,
    "nan logits": 2,
    "nan activations": 2,
    "bad request": 4,
    "release": 3,
    "failing call": 1,
    "nothing": 1,
}


class Injected(RuntimeError):
    """What a forward pass raises in a trial."""


@dataclass
class Plan:
    """What is injected into the passes of a trial.

    Attributes:
        raises: Number of a pass to the error that it raises, once.
        poison: A token; each pass whose input or past has its sequence raises.
        most: Rows above which each pass runs out of memory.
        broken: Number of a pass to the value that replaces logits or activations of one row.
        passes: Passes so far.
        hurt: Whether a row's numbers were replaced.
    """

    raises: dict[int, Exception] = field(default_factory=dict)
    poison: int | None = None
    most: int | None = None
    broken: dict[int, tuple[str, float]] = field(default_factory=dict)
    passes: int = 0
    hurt: bool = False
    pick: random.Random = field(default_factory=random.Random)

    def before(self, _: Any, args: tuple[torch.Tensor, ...]) -> None:
        """At the embeddings: the first thing that a pass does."""
        self.passes += 1
        if error := self.raises.pop(self.passes, None):
            raise error
        if self.most is not None and args[0].shape[0] > self.most:
            raise torch.OutOfMemoryError("injected: too many rows")
        if self.poison is not None and args[0].shape[1] > 1 and (args[0] == self.poison).any():
            raise Injected("injected: poison")

    def at(self, place: str, out: Any) -> Any:
        """Replace numbers of one row of logits or activations."""
        where, value = self.broken.get(self.passes, ("", 0.0))
        if where != place:
            return out
        self.broken.pop(self.passes)
        self.hurt = True
        hidden = out if isinstance(out, torch.Tensor) else out[0]
        hidden = hidden.clone()
        hidden[self.pick.randrange(hidden.shape[0])] = value
        return hidden if isinstance(out, torch.Tensor) else (hidden, *out[1:])


class Faults:
    """The engine under injected faults."""

    size = 1
    bound_s = 120.0

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._source = find_model(str(tiny.save_tiny(folder.parent / "tiny-llama")))
        self._loaded = load_model(self._source, dtype="float32", device="cpu")
        self._pool = [_request(draw_of("pool", number)) for number in range(_POOL)]
        engine = self._engine(Plan())
        self._alone = [engine.submit(request).result(60) for request in self._pool]
        engine.release()
        self._check_against_hooks()

    def _check_against_hooks(self) -> None:
        for request, alone in zip(self._pool, self._alone, strict=True):
            simple = all(
                item.site == "resid_post" and item.positions == "all" and item.reads is None
                and item.operation in ("add", "ablate")
                for item in request.interventions
            )  # fmt: skip
            if simple and request.sampling == Sampling(temperature=0) and not request.stop:
                tokens = tiny.hooked_greedy(
                    self._loaded.model, request.prompt, request.interventions, request.max_tokens
                )
                if alone.tokens != tokens:
                    raise RuntimeError(f"alone is not as with plain hooks: {request}")

    def _engine(self, plan: Plan) -> HFEngine:
        """A new engine whose weights are a copy of those in memory, with the plan's hooks."""

        def load(source: ModelSource, **_: Any) -> LoadedModel:
            loaded = replace(self._loaded, model=deepcopy(self._loaded.model))
            model: Any = loaded.model
            model.get_input_embeddings().register_forward_pre_hook(plan.before)
            model.lm_head.register_forward_hook(lambda _, __, out: plan.at("logits", out))
            block = model.model.layers[1]
            block.register_forward_hook(lambda _, __, out: plan.at("activations", out))
            return loaded

        hf.load_model = load  # type: ignore[assignment]
        engine = HFEngine(self._source, dtype="float32", device="cpu")
        engine.allow_batch(32)
        return engine

    def run(self, seed: int) -> list[Problem]:
        """One trial."""
        draw = draw_of("engine", seed)
        plan = Plan(pick=random.Random(seed))
        engine = self._engine(plan)
        engine.call(lambda *_: None).result(_ANSWERS_S)
        plan.passes = 0  # those of loading do not count
        numbers = draw.sample(range(_POOL), draw.randrange(2, 12))
        kinds = draw.choices(list(_FAULTS), list(_FAULTS.values()), k=draw.randrange(1, 4))
        self._inject(plan, kinds, draw)
        bad = [_bad_request(draw, self._pool) for kind in kinds if kind == "bad request"]
        cancelled = draw.sample(numbers, min(len(numbers) - 1, 2)) if "cancel" in kinds else []
        order: list[Request | int] = [*numbers, *filter(None, bad)]
        draw.shuffle(order)
        futures: dict[int, Future[RequestOutput]] = {}
        others: list[Future[Any]] = []
        timers: list[threading.Timer] = []

        def later(work: Callable[[], object]) -> None:
            timers.append(threading.Timer(draw.uniform(0, 0.15), work))
            timers[-1].start()

        if "release" in kinds:
            later(engine.release)
        for item in order:
            if draw.random() < 0.3:
                time.sleep(draw.uniform(0, 0.03))
            if isinstance(item, int):
                futures[item] = engine.submit(self._pool[item])
                if item in cancelled:
                    later(futures[item].cancel)
            else:
                others.append(engine.submit(item))
            if "failing call" in kinds and draw.random() < 0.3:
                others.append(engine.call(_fails))
        for timer in timers:
            timer.join()
        every = [*futures.values(), *others]
        pending = wait(every, _ANSWERS_S).not_done
        problems: list[Problem] = []
        if pending:
            problems.append(("lost", f"{len(pending)} of {len(every)} futures pending; {kinds}"))
        plan.raises.clear()
        plan.poison = plan.most = None
        plan.broken.clear()
        problems += self._compare(futures, plan, kinds)
        if not pending:
            problems += self._goes_on(engine, draw, kinds)
        threading.Thread(target=engine.release, daemon=True).start()
        return problems

    def _inject(self, plan: Plan, kinds: list[str], draw: random.Random) -> None:
        for kind in kinds:
            at = draw.randrange(1, 25)
            if kind == "out of memory" and draw.random() < 0.3:
                plan.most = draw.randrange(1, 4)
            elif kind == "out of memory":
                plan.raises[at] = torch.OutOfMemoryError("CUDA out of memory (injected)")
            elif kind == "exception":
                plan.raises[at] = draw.choice(
                    [Injected("injected"), ValueError("injected"), MemoryError(), KeyError("x"),
                     IndexError("injected"), AssertionError(), StopIteration()]
                )  # fmt: skip
            elif kind == "poison":
                plan.poison = draw.randrange(3, 250)
            elif kind in ("nan logits", "nan activations"):
                value = draw.choice([float("nan"), float("inf"), float("-inf")])
                plan.broken[at] = (kind.removeprefix("nan "), value)

    def _compare(
        self, futures: dict[int, Future[RequestOutput]], plan: Plan, kinds: list[str]
    ) -> list[Problem]:
        """Every answer against the answer alone."""
        problems: list[Problem] = []
        may_fail = {"out of memory", "exception", "poison", "release", "nan logits"}
        may_fail |= {"nan activations"}
        for number, future in futures.items():
            if not future.done() or future.cancelled():
                continue
            if error := future.exception():
                if not may_fail & set(kinds):
                    problems.append(("lost", f"a bystander failed: {one_line(error)}; {kinds}"))
                continue
            if difference := _difference(future.result(), self._alone[number]):
                problems.append(("wrong", f"request {number}: {difference}; {kinds}"))
        return problems

    def _goes_on(self, engine: HFEngine, draw: random.Random, kinds: list[str]) -> list[Problem]:
        """The engine still answers, and rightly."""
        number = draw.randrange(_POOL)
        try:
            output = engine.submit(self._pool[number]).result(_ANSWERS_S)
        except TimeoutError:
            return [("lost", f"no answer after the fault; {kinds}")]
        except Exception as error:
            return [("lost", f"no answer after the fault: {one_line(error)}; {kinds}")]
        difference = _difference(output, self._alone[number])
        return [("wrong", f"after the fault: {difference}; {kinds}")] if difference else []


def _fails(*_: Any) -> None:
    raise Injected("injected: a call")


def _difference(output: RequestOutput, alone: RequestOutput) -> str:
    """How an answer differs from the answer alone; empty if it does not."""
    for name in ("tokens", "text", "stop_reason", "num_generated"):
        if getattr(output, name) != getattr(alone, name):
            return f"{name} {getattr(output, name)!r:.60}, alone {getattr(alone, name)!r:.60}"
    pairs = zip(output.logprobs, alone.logprobs, strict=True)
    apart = max((abs(one.logprob - other.logprob) for one, other in pairs), default=0.0)
    return f"log probabilities differ by {apart:.1e}" if apart > _TOLERANCE else ""


def _request(draw: random.Random) -> Request:
    """A random request for the pool."""
    prompt = tuple(draw.randrange(3, 250) for _ in range(draw.choice([1, 3, 8, 20, 40])))
    max_tokens = draw.randrange(1, 16)
    if draw.random() < 0.05:  # runs to the end of the context
        prompt, max_tokens = prompt * 40, 40
        prompt = prompt[: tiny.CONTEXT - 8]
    sampling = Sampling(temperature=0)
    if draw.random() < 0.6:
        sampling = Sampling(
            temperature=draw.choice([0.5, 1.0, 1.5]),
            top_p=draw.choice([1.0, 0.9, 0.3]),
            top_k=draw.choice([0, 0, 1, 5, 500]),
            frequency_penalty=draw.choice([0.0, 0.0, 0.7]),
            presence_penalty=draw.choice([0.0, 0.0, -0.4]),
            logit_bias=draw.choice([{}, {}, {tiny.END: -100.0}, {40: 3.0, 41: -3.0}]),
            seed=draw.randrange(2**31),
        )
    return Request(
        prompt,
        sampling,
        max_tokens,
        _interventions(draw),
        stop=draw.choice([(), (), ("a",), ("zz", "é")]),
        top_logprobs=draw.choice([None, None, 0, 3]),
    )


def _interventions(draw: random.Random) -> tuple[Intervention, ...]:
    edits: tuple[Intervention, ...] = ()
    for _ in range(draw.choice([0, 1, 1, 1, 2])):
        layers = sorted(draw.sample(range(tiny.LAYERS), draw.choice([1, 1, 2])))
        operation = draw.choice(["add", "add", "add", "ablate", "clamp", "cap"])
        rank = 1 if operation in ("clamp", "cap") else draw.choice([1, 1, 3])
        vector = tiny.random_vector(
            draw, layers, rank, full=operation == "add" and draw.random() < 0.3,
            site=draw.choice(["resid_post", "resid_post", "resid_pre", "mlp_out"]),
        )  # fmt: skip
        positions = draw.choice(["all", "all", "all", "prompt", "response", "last"])
        magnitude = {} if operation == "ablate" else {"magnitude": draw.choice([-2.0, 0.5, 3.0])}
        edits += resolve(vector, operation=operation, positions=positions, **magnitude)  # type: ignore[arg-type]
    return edits


def _bad_request(draw: random.Random, pool: list[Request]) -> Request | None:
    """A request that no engine can answer; what it comes to does not matter, as long as it ends."""
    good = draw.choice(pool)
    basis = torch.ones(1, tiny.WIDTH + draw.choice([-1, 1, 32]))
    edit = Intervention(basis, 1.0, 1, "resid_post", "add", "all")
    fitting = replace(edit, basis=torch.ones(1, tiny.WIDTH))
    # Settings that can't be made are the provider's; these are made around its checks.
    nan = good.sampling.model_copy(update={"temperature": float("nan")})
    far = good.sampling.model_copy(update={"logit_bias": {10**7: 1.0}})
    make = draw.choice(
        [
            lambda: replace(good, interventions=(edit,)),
            lambda: replace(good, interventions=(replace(fitting, layer=99),)),
            lambda: replace(good, interventions=(replace(fitting, amount=1e38),)),
            lambda: replace(good, interventions=(replace(fitting, amount=float("nan")),)),
            lambda: replace(good, prompt=(*good.prompt, 10**6)),
            lambda: replace(good, prompt=(*good.prompt, -5)),
            lambda: replace(good, prompt=()),
            lambda: replace(good, prompt=good.prompt * 200),
            lambda: replace(good, max_tokens=0),
            lambda: replace(good, max_tokens=-3),
            lambda: replace(good, sampling=nan),
            lambda: replace(good, sampling=far),
            lambda: replace(good, top_logprobs=10**5),
            lambda: replace(good, stop=("",)),
        ]
    )
    try:
        return make()
    except SteeringError:
        return None  # refused before it reaches an engine
