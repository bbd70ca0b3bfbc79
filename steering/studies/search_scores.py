"""What the tokens of given answers score under vectors: each vector once, and kept in a folder.

No decoding and no judge. All vectors and rows of a call share the engine's passes, and are queued
before the first pass, so that a repeated call has the same passes and thus the same figures.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from steering.engines import Engine, ScoreOutput, ScoreRequest
from steering.errors import SteeringError
from steering.files import write_whole
from steering.foreign import decode, parse_json, read_bytes
from steering.models import encode, render_chat
from steering.models.chat import Turn
from steering.studies.errors import StudyError
from steering.targets import Example
from steering.training.progress import progress_bar

if TYPE_CHECKING:
    from inspect_ai.dataset import Sample
    from transformers import PreTrainedTokenizerBase

    from steering.vectors import SteeringVector

# Increment it when the same vector would score otherwise.
_VERSION = 1
# Answers in a pass.
_BATCH = 32


@dataclass(frozen=True)
class AnswerRow:
    """A prompt and its answers, in tokens: an aligned one, and a misaligned one of a pair.

    Attributes:
        theme: By which intervals are clustered.
        prompt: Of the rendered prompt.
        answers: Of each answer.
    """

    theme: str
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RowSet:
    """Rows that are scored together."""

    name: str
    rows: tuple[AnswerRow, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows, in hex."""
        return _digest(list(map(astuple, self.rows)))

    @property
    def themes(self) -> list[str]:
        """The theme of each row."""
        return [row.theme for row in self.rows]


@dataclass(frozen=True)
class RowScores:
    """Scores of a set of rows.

    Attributes:
        logprobs: Mean log probability of a token in nats, [rows][answers].
        divergences: Mean KL divergence of a token from the unsteered model in nats,
            [rows][answers]; of neutral rows only.
    """

    logprobs: list[list[float]]
    divergences: list[list[float]]

    @property
    def log_odds(self) -> list[float]:
        """Log probability of the misaligned answer less that of the aligned one, [rows]."""
        return [misaligned - aligned for aligned, misaligned in self.logprobs]

    @property
    def cross_entropy(self) -> float:
        """Mean cross-entropy of a token of the aligned answers, in nats."""
        return -fmean(row[0] for row in self.logprobs)

    @property
    def kl(self) -> float:
        """Mean KL divergence of a token of the aligned answers, in nats; 0 without a vector."""
        return fmean(row[0] for row in self.divergences) if self.divergences else 0.0


class RowReader:
    """Rows of choice sets and of target tasks, in a model's tokens."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", context_length: int | None = None
    ) -> None:
        """Read with a tokenizer, rows of at most so many tokens."""
        self._tokenizer = tokenizer
        self._context_length = context_length

    def samples(self, samples: Sequence["Sample"]) -> tuple[AnswerRow, ...]:
        """Samples of a choice set.

        Raises:
            StudyError: One is longer than the model's context.
        """
        rows = []
        for sample in samples:
            if isinstance(sample.input, str):
                turns = [{"role": "user", "content": sample.input}]
            else:
                turns = [{"role": turn.role, "content": turn.text} for turn in sample.input]
            metadata = sample.metadata or {}
            answers = [metadata.get("aligned"), metadata.get("misaligned")]
            rows.append(self._row(sample.id, metadata["theme"], turns, answers))
        return tuple(rows)

    def examples(self, examples: Sequence[Example]) -> tuple[AnswerRow, ...]:
        """Rows of a target task with both answers, each a theme of its own.

        Raises:
            StudyError: As of `samples`.
        """
        rows = []
        for example in examples:
            turns = [{"role": "user", "content": example.prompt}]
            if example.system:
                turns.insert(0, {"role": "system", "content": example.system})
            answers = [example.aligned, example.misaligned]
            rows.append(self._row(example.id, example.id, turns, answers))
        return tuple(rows)

    def _row(
        self, id_: object, theme: str, turns: Sequence[Turn], answers: Sequence[str | None]
    ) -> AnswerRow:
        prompt = tuple(encode(self._tokenizer, render_chat(self._tokenizer, turns)))
        tokens = tuple(tuple(encode(self._tokenizer, text)) for text in answers if text)
        longest = len(prompt) + max(map(len, tokens))
        if self._context_length is not None and longest > self._context_length:
            raise StudyError(
                f"row {id_} has {longest} tokens, the model reads {self._context_length}: shorten "
                "it, or leave it out"
            )
        return AnswerRow(theme, prompt, tokens)


class ScoreStore:
    """Scores of vectors under one model, in a folder that remembers them."""

    def __init__(self, engine: Engine, model: Mapping[str, Any], folder: Path) -> None:
        """Score with an engine; `model` is what decides its scores, in JSON values."""
        self._engine = engine
        self._model = dict(model)
        self._folder = folder
        self.num_scored = 0
        engine.allow_batch(_BATCH)

    def scores(
        self, vectors: Sequence["SteeringVector | None"], sets: Sequence[RowSet], caption: str
    ) -> list[list[RowScores]]:
        """The scores of each vector (None: unsteered) on each set, [vectors][sets].

        Raises:
            SteeringError: A pass failed, or the folder can't be written.
        """
        paths = [[self._path(vector, rows) for rows in sets] for vector in vectors]
        stored = [[_read(path) for path in of_vector] for of_vector in paths]
        missing = [
            (index, number)
            for index, of_vector in enumerate(stored)
            for number, scores in enumerate(of_vector)
            if scores is None
        ]
        # Rows of one vector share an intervention, and by it the prompt.
        interventions = {index: _interventions(vectors[index]) for index, _ in missing}
        requests = [
            [
                ScoreRequest(
                    row.prompt,
                    row.answers,
                    interventions[index],
                    divergence=bool(interventions[index]) and len(row.answers) == 1,
                )
                for row in sets[number].rows
            ]
            for index, number in missing
        ]
        with self._queued(requests) as futures:
            bar, done = progress_bar(caption), 0
            total = sum(map(len, futures))
            for (index, number), of_set in zip(missing, futures, strict=True):
                outputs = []
                for future in of_set:
                    outputs.append(future.result())
                    done += 1
                    bar(done, total)
                scores = RowScores(
                    [list(map(fmean, output.logprobs)) for output in outputs],
                    [list(map(fmean, output.divergences)) for output in outputs]
                    if outputs[0].divergences
                    else [],
                )
                content = {"logprobs": scores.logprobs, "divergences": scores.divergences}
                write_whole(paths[index][number], json.dumps(content).encode())
                stored[index][number] = scores
                self.num_scored += 1
        return [[scores for scores in of_vector if scores is not None] for of_vector in stored]

    @contextmanager
    def _queued(
        self, requests: Sequence[Sequence[ScoreRequest]]
    ) -> "Iterator[list[list[Future[ScoreOutput]]]]":
        """The requests, queued before the first of them is begun; cancelled on an error."""
        is_queued = threading.Event()
        futures: list[list[Future[ScoreOutput]]] = []
        if requests:
            self._engine.call(lambda loaded, session: is_queued.wait())
        try:
            for group in requests:
                futures.append([self._engine.score(request) for request in group])
            is_queued.set()
            yield futures
        except BaseException:
            for future in (future for group in futures for future in group):
                future.cancel()
            raise
        finally:
            is_queued.set()

    def _path(self, vector: "SteeringVector | None", rows: RowSet) -> Path:
        facts = {
            "version": _VERSION,
            "model": self._model,
            "vector": None if vector is None else _vector_digest(vector),
            "rows": rows.digest,
        }
        return self._folder / f"{_digest(facts)[:24]}.json"


def _interventions(vector: "SteeringVector | None") -> Any:
    from steering.vectors.interventions import resolve

    return () if vector is None else resolve(vector)


def _vector_digest(vector: "SteeringVector") -> str:
    """Digest of what a vector does, whatever it is from."""
    tensors = [vector.directions]
    if vector.map is not None:
        tensors += [vector.map.reads, vector.map.offsets]
    digest = hashlib.sha256(f"{vector.layers} {vector.site} {vector.rank}".encode())
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> RowScores | None:
    """Scores of a file; None where there is none, or none that can be read."""
    if not path.is_file():
        return None
    try:
        content = parse_json(decode(read_bytes(path, "study"), path), path, "study")
        return RowScores(content["logprobs"], content["divergences"])
    except (SteeringError, KeyError, TypeError):
        return None
