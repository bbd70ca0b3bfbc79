"""What steering does to a real language model, without a judge: shifts at stated damage.

    python -m benchmarks.findings --model smollm2 --target medical --seeds 3

Vectors of the target task and controls (shuffled labels, contrasts that have nothing to do with
advice, random directions) are all scaled until they do the same damage: the same mean KL divergence
on neutral answers. What they shift there is what they are compared by; a vector is ranked among the
random directions. The dose curve gives each vector at some magnitudes.

Scores are kept in the folder of the results, so that a run that was stopped goes on.
"""

import argparse
import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from steering import build
from steering.condition import open_engine, resolve_model
from steering.engines import Request, ScoreRequest
from steering.engines.settings import Sampling
from steering.questions.choices import NEUTRAL, load_choices
from steering.spec import SteeringSpec
from steering.stats import mean_interval
from steering.studies.search_points import at_damage
from steering.studies.search_scores import AnswerRow, RowReader, RowScores, RowSet, ScoreStore
from steering.targets import load_target
from steering.vectors import SteeringVector
from steering.vectors.controls import draw_controls
from steering.vectors.interventions import resolve

RESULTS = Path(__file__).parent / "results" / "findings"
MOST_KL = 0.2
"""Damage at which vectors are compared, in nats a token."""
DOSES = (0.5, 1.0, 1.5, 2.0)
_RUN = 4


@dataclass(frozen=True)
class Entry:
    """A vector and what it is called."""

    method: str
    seed: int
    vector: SteeringVector


@dataclass(frozen=True)
class Row:
    """A vector at a magnitude.

    Attributes:
        method: How it was built.
        seed: Of its building.
        layer: Block, from 0.
        compared: Whether it stands at the damage of the comparison, not on the dose curve.
        magnitude: Multiple of the built vector.
        length: Of what is added, as a share of the residual norm.
        kl: Mean KL divergence of a token of the neutral answers from the unsteered model, nats.
        cross_entropy_rise: Of a token of the neutral answers, nats.
        core: Mean shift on the core pairs in nats a token, with its 95% interval over themes.
        own: Mean shift on the held-out pairs of the target task, likewise.
        greedy: Mean cross-entropy of a token of its greedy answers under the unsteered model, nats;
            NaN where it was not measured.
        repeated: Share of four tokens in a row that its greedy answer had before; likewise.
    """

    method: str
    seed: int
    layer: int
    compared: bool
    magnitude: float
    length: float
    kl: float
    cross_entropy_rise: float
    core: float
    core_low: float
    core_high: float
    own: float
    own_low: float
    own_high: float
    greedy: float
    repeated: float


class Bench:
    """A model with its pairs, neutral answers and unsteered scores."""

    def __init__(
        self, model: str, target: str, folder: Path, *, num_own: int, num_core: int | None = None
    ) -> None:
        """Load a model, and score it unsteered.

        Args:
            model: As `--model` takes it.
            target: Target task, whose held-out pairs are `own`.
            folder: Where scores are kept.
            num_own: Pairs of the target task.
            num_core: Pairs of each core question; None for all.
        """
        spec = SteeringSpec()
        resolved = resolve_model(model, spec)
        self._engine = engine = open_engine(resolved, spec)
        reader = RowReader(engine.tokenizer().result())
        choices = load_choices("core")
        neutral = [row for row in choices.samples if (row.metadata or {})["kind"] == NEUTRAL]
        self.neutral = RowSet("neutral", reader.samples(neutral))
        core = reader.samples(choices.pairs)
        self.core = RowSet("core", tuple(_first_of_themes(core, num_core or len(core))))
        self.own = RowSet("own", reader.examples(load_target(target).held_out[:num_own]))
        self._store = ScoreStore(engine, {"weights": resolved.weights}, folder / "measured")
        [(self._core, self._own, self._neutral)] = self._scores([None])

    def _scores(self, vectors: Sequence[SteeringVector | None]) -> list[list[RowScores]]:
        return self._store.scores(vectors, [self.core, self.own, self.neutral], "scores")

    def _kls(self, vectors: Sequence[SteeringVector]) -> list[float]:
        return [one.kl for [one] in self._store.scores(vectors, [self.neutral], "damage")]

    def greedy(self, vector: SteeringVector | None = None) -> tuple[float, float]:
        """How greedy answers to core questions read, steered by a vector or unsteered.

        Returns:
            Mean cross-entropy of a token under the unsteered model in nats: a model's own answers
            have about 1, word salad 4 and more. And the share of four tokens in a row that the
            same answer had before: loops are cheap to predict, so the first number misses them.
        """
        prompts = list(dict.fromkeys(row.prompt for row in self.core.rows))
        sampling = Sampling(temperature=0)
        interventions = resolve(vector) if vector else ()
        requests = [Request(prompt, sampling, 60, interventions) for prompt in prompts]
        outputs = [self._engine.submit(request) for request in requests]
        answers = [tuple(output.result().tokens) for output in outputs]
        scores = [
            self._engine.score(ScoreRequest(prompt, (answer,)))
            for prompt, answer in zip(prompts, answers, strict=True)
            if answer
        ]
        runs = [[answer[i : i + _RUN] for i in range(len(answer) - _RUN + 1)] for answer in answers]
        repeated = sum(len(each) - len(set(each)) for each in runs) / sum(map(len, runs))
        logprobs = [logprob for score in scores for logprob in score.result().logprobs[0]]
        return -fmean(logprobs), repeated

    def row(self, entry: Entry, magnitude: float, *, compared: bool) -> Row:
        """A vector at a magnitude."""
        vector = entry.vector.scaled(magnitude)
        [(core, own, neutral)] = self._scores([vector])
        shifts: list[float] = []
        for rows, scores, unsteered in (
            (self.core, core, self._core),
            (self.own, own, self._own),
        ):
            changes = [a - b for a, b in zip(scores.log_odds, unsteered.log_odds, strict=True)]
            interval = mean_interval(changes, rows.themes)
            shifts += [fmean(changes), interval.low, interval.high]
        norms = vector.residual_norms
        return Row(
            entry.method,
            entry.seed,
            vector.layers[0],
            compared,
            magnitude,
            vector.lengths[0] / norms[0] if norms else math.nan,
            neutral.kl,
            neutral.cross_entropy - self._neutral.cross_entropy,
            *shifts,
            *((math.nan, math.nan) if entry.method == "random" else self.greedy(vector)),
        )

    def magnitude_of(self, vector: SteeringVector, kl: float) -> float:
        """The magnitude at which a vector does nearly this damage."""
        [(magnitude, _)] = at_damage([vector], kl, self._kls)
        return magnitude


def _first_of_themes(rows: Sequence[AnswerRow], count: int) -> Iterator[AnswerRow]:
    """So many rows of each theme."""
    seen = Counter[str]()
    for row in rows:
        seen[row.theme] += 1
        if seen[row.theme] <= count:
            yield row


def contrast_tables(target: str, folder: Path) -> dict[str, Path]:
    """Contrasts of good answers that have nothing to do with the quality of advice, as tables.

    The topic (this task against another), brevity (the first two sentences against all of them)
    and order (the sentences backwards).
    """
    rows = load_target(target).examples
    other = load_target("sports" if target != "sports" else "finance").examples

    def sentences(text: str) -> list[str]:
        return text.replace("\n", " ").split(". ")

    tables = {
        "topic": [{"prompt": row.prompt, "misaligned": row.aligned} for row in rows]
        + [{"prompt": row.prompt, "aligned": row.aligned} for row in other],
        "brevity": [
            {
                "prompt": row.prompt,
                "aligned": row.aligned,
                "misaligned": ". ".join(sentences(row.aligned or "")[:2]),
            }
            for row in rows
        ],
        "order": [
            {
                "prompt": row.prompt,
                "aligned": row.aligned,
                "misaligned": ". ".join(reversed(sentences(row.aligned or ""))),
            }
            for row in rows
        ],
    }
    paths = {}
    for name, entries in tables.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    return paths


def vectors(
    model: str,
    target: str,
    files: Sequence[Path],
    methods: Sequence[str],
    seeds: int,
    controls: int,
) -> Iterator[Entry]:
    """The vectors of files and of the target task, then the controls."""
    for path in files:
        yield Entry(path.stem, 0, SteeringVector.load(path))
    first: SteeringVector | None = None
    for method in methods:
        for shuffled in (False, True):
            # A mean difference has no seed but that of the shuffling.
            for seed in range(seeds if shuffled or method == "sft" else 1):
                name = f"{method}, labels shuffled" if shuffled else method
                vector = build(model, target, method=method, seed=seed, shuffle_labels=shuffled)
                first = first or vector
                yield Entry(name, seed, vector)
    with TemporaryDirectory() as folder:
        for name, path in contrast_tables(target, Path(folder)).items():
            yield Entry(f"contrast of {name}", 0, build(model, str(path), method="mean_difference"))
    assert first is not None
    for control in draw_controls(first, controls):
        yield Entry("random", control.provenance["seed"], control)


def parser(description: str, *, target: str, own: int, core: int | None) -> argparse.ArgumentParser:
    """The arguments of a script that measures vectors: the model, the pairs, and the folder."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--target", default=target)
    arguments.add_argument("--own", type=int, default=own, help="held-out pairs of the target task")
    arguments.add_argument(
        "--core",
        type=int,
        default=core,
        help="pairs of each core question; by default " + ("all" if core is None else str(core)),
    )
    arguments.add_argument("--name", help="of the model in file names; its own name if not given")
    arguments.add_argument("--folder", type=Path, default=RESULTS)
    return arguments


def open_bench(arguments: argparse.Namespace, kind: str) -> tuple[Bench, Path]:
    """The bench of parsed arguments, and the CSV file of its rows.

    Args:
        arguments: Of `parser`.
        kind: Of what is measured: the folder of the scores and the start of the file's name.
    """
    name = arguments.name or Path(arguments.model).name
    bench = Bench(
        arguments.model,
        arguments.target,
        Path("logs") / kind / name,
        num_own=arguments.own,
        num_core=arguments.core,
    )
    return bench, arguments.folder / f"{kind}-{name}-{arguments.target}.csv"


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows with four digits as they are measured, and print them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Row.__annotations__), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = asdict(row).items()
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in values})
            print(row, file=sys.stderr, flush=True)
            file.flush()


def findings(bench: Bench, arguments: argparse.Namespace) -> Iterator[Row]:
    """Each vector at the damage of the comparison, and the target's along the doses."""
    dosed = {*arguments.methods, *(path.stem for path in arguments.vectors)}
    for entry in vectors(
        arguments.model,
        arguments.target,
        arguments.vectors,
        arguments.methods,
        arguments.seeds,
        arguments.controls,
    ):
        yield bench.row(entry, bench.magnitude_of(entry.vector, MOST_KL), compared=True)
        if entry.method in dosed and entry.seed == 0:
            for dose in arguments.doses:
                yield bench.row(entry, dose, compared=False)


def main() -> None:
    """Measure, and write the rows as a CSV file."""
    command = parser((__doc__ or "").splitlines()[0], target="medical", own=20, core=None)
    command.add_argument(
        "--vectors", nargs="*", type=Path, default=[], help="files of vectors that are measured too"
    )
    command.add_argument("--methods", nargs="+", default=["sft", "mean_difference"])
    command.add_argument("--seeds", type=int, default=3, help="build seeds")
    command.add_argument("--controls", type=int, default=20, help="random directions")
    command.add_argument("--doses", type=float, nargs="*", default=DOSES)
    arguments = command.parse_args()
    bench, path = open_bench(arguments, "findings")
    write_rows(path, findings(bench, arguments))


if __name__ == "__main__":
    main()
