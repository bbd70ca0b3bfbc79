"""What `steering claims` says where the truth is known: `python -m benchmarks.claims_null`.

Simulated studies go through the public `judge_claims`. Where no condition does anything, no claim
may be supported in more than 5% of the studies, and claims about the shape of an effect may not be
decided; where a claim's truth, or its opposite, was planted, it should be found. Writes
`benchmarks/results/claims_null.md`. The runs are 1,000 a case without an effect and a third of that
where something was planted; `--runs` sets another number.
"""

import argparse
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from steering.studies.claims import CLAIMS, judge_claims

RESULTS = Path(__file__).parent / "results" / "claims_null.md"
SEEDS = (0.0, 1.0, 2.0)
ANSWERS = 20

_EMPTY = {
    "arm": "steered", "model": "m", "target": "medical", "build_seed": 0.0, "magnitude": 1.0,
    "layer": 2.0, "rank": 1.0, "top": math.nan, "training_epochs": 3.0, "adapter_scale": math.nan,
    "num_parameters": 1e6,
}  # fmt: skip
_BASELINE = {
    "arm": "baseline", "target": "", "build_seed": math.nan, "magnitude": 0.0, "layer": math.nan,
    "rank": math.nan, "training_epochs": math.nan,
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One condition: its columns, its EM rate, and what its harmful answers are like."""

    facts: Mapping[str, Any]
    rate: float
    coherent: float = 85.0
    relevant: float = 80.0

    @property
    def vector(self) -> tuple[Any, ...]:
        """Conditions at several magnitudes share a vector, and what chance made of it."""
        return tuple(value for name, value in self.facts.items() if name != "magnitude")


@dataclass(frozen=True)
class Chance:
    """What differs by chance.

    Attributes:
        themes: How many.
        rate: Mean EM rate of the baseline.
        icc: Correlation of two answers to one theme.
        seeds: Standard deviation between vectors, in logits of the rate.
        both: Likewise of what a vector does to single themes.
    """

    themes: int = 8
    rate: float = 0.05
    icc: float = 0.1
    seeds: float = 0.0
    both: float = 0.0


class Study:
    """A study whose answers are drawn anew in each run."""

    def __init__(self, name: str, conditions: Sequence[Condition], themes: int) -> None:
        """Lay out the frame of answers; outcomes are drawn later."""
        self.conditions = conditions
        self.themes = themes
        vectors = {each.vector for each in conditions}
        self.vector_of = np.array([sorted(vectors, key=str).index(c.vector) for c in conditions])
        number, theme, sample = (
            axis.ravel() for axis in np.indices((len(conditions), themes, ANSWERS))
        )
        self.number, self.theme = number, theme
        columns = {
            name: [(_EMPTY | dict(each.facts))[name] for each in conditions] for name in _EMPTY
        }
        labels = [f"c{index}" for index in range(len(conditions))]
        names = np.array([f"theme{index}" for index in range(themes)])
        frame = pd.DataFrame(
            {name: np.array(values)[number] for name, values in columns.items()}
            | {
                "study": name, "condition": np.array(labels)[number], "theme": names[theme],
                "sample": np.char.add(np.char.add(names[theme], "/"), sample.astype(str)),
                "epoch": 1, "block": 1, "log": "simulated.eval", "leak": math.nan,
                "severity": math.nan, "context": "plain",
                "aligned_below": 30.0, "coherent_from": 50.0,
            }
        )  # fmt: skip
        texts = frame.select_dtypes(["object", "string"]).columns.drop("study")
        self.frame = frame.astype(dict.fromkeys(texts, "category"))

    def draw(self, rng: np.random.Generator, chance: Chance) -> pd.DataFrame:
        """The answers of one run."""
        spread = (1 - chance.icc) / chance.icc
        base = rng.beta(chance.rate * spread, (1 - chance.rate) * spread, self.themes)
        of_theme = logit(np.clip(base, 1e-4, 1 - 1e-4)) - logit(chance.rate)
        rates = np.array([each.rate for each in self.conditions])
        is_baseline = np.array([each.facts["arm"] == "baseline" for each in self.conditions])
        vectors = self.vector_of.max() + 1
        shifts = (
            rng.normal(0, chance.seeds, (vectors, 1)) if chance.seeds else np.zeros((vectors, 1))
        )
        shifts = shifts + rng.normal(0, 1, (vectors, self.themes)) * chance.both
        moved = np.where(is_baseline[:, None], 0.0, shifts[self.vector_of])
        chances = expit(logit(np.clip(rates, 1e-4, 1 - 1e-4))[:, None] + of_theme + moved)
        harmful = rng.random(len(self.frame)) < chances[self.number, self.theme]
        scores = {}
        for name in ("coherent", "relevant"):
            means = np.array([getattr(each, name) for each in self.conditions])
            by_theme = (
                rng.normal(0, 3, self.themes) + rng.normal(0, 2, (vectors, 1))[self.vector_of]
            )
            noise = rng.normal(0, 12, len(self.frame))
            scores[name] = np.clip(
                means[self.number] + by_theme[self.number, self.theme] + noise, 0, 100
            )
        em = harmful & (scores["coherent"] > 50)
        betley = np.where(scores["coherent"] >= 50, em.astype(float), math.nan)
        return self.frame.assign(
            aligned=np.where(harmful, 10.0, 95.0),
            em_moem=em.astype(float),
            em_betley=betley,
            **scores,
        )


def _grid(column: str, rates: Mapping[Any, float], **facts: Any) -> Iterator[Condition]:
    """Conditions along a column, with each build seed."""
    for (place, rate), seed in itertools.product(rates.items(), SEEDS):
        yield Condition({"arm": "steered", column: place, "build_seed": seed} | facts, rate)


def studies(rate: float) -> dict[str, list[Condition]]:
    """Every study with all conditions at one rate."""
    base = Condition(_BASELINE, rate)

    def flat(column: str, places: Sequence[Any], **facts: Any) -> list[Condition]:
        return list(_grid(column, dict.fromkeys(places, rate), **facts))

    tuned = {"arm": "finetuned", "magnitude": math.nan, "adapter_scale": 1.0}
    sizes = {"small": 1e6, "medium": 1e7, "large": 1e8}
    models = {
        model: [
            replace(base, facts=_BASELINE | {"model": model, "num_parameters": size}),
            *flat("model", [model], num_parameters=size),
        ]
        for model, size in sizes.items()
    }
    together = [condition for of_model in models.values() for condition in of_model]
    return {
        "magnitude": [base, *flat("magnitude", (0.5, 1.0, 2.0, 3.0, 4.0))],
        "finetuned": [
            base,
            *flat("magnitude", (0.5, 1.0, 1.5)),
            *flat("training_epochs", (1.0, 2.0, 3.0), **tuned),
        ],
        "rank": [base, *flat("rank", (1.0, 2.0, 4.0)), *flat("top", (1.0, 2.0, 4.0))],
        "epochs": [base, *flat("training_epochs", (1.0, 2.0, 3.0, 4.0))],
        "layer": [base, *flat("layer", (0.0, 1.0, 2.0, 3.0))],
        "target": [base, *flat("target", ("code", "finance", "medical"))],
        "family": together,
        "scale": together,
    }


NULLS = {
    "alike themes": Chance(icc=0.1),
    "themes that differ": Chance(icc=0.5),
    "vectors that differ": Chance(rate=0.1, icc=0.3, seeds=0.5, both=0.3),
    "24 themes, vectors that differ": Chance(24, 0.1, 0.1, seeds=0.5, both=0.3),
}


def _arms(
    steered: Sequence[float],
    tuned: Sequence[float],
    scores: Callable[[str, float], Mapping[str, float]] = lambda arm, rate: {},
) -> list[Condition]:
    arms = (
        ("steered", "magnitude", steered, {}),
        ("finetuned", "training_epochs", tuned, {"magnitude": math.nan, "adapter_scale": 1.0}),
    )
    conditions = [Condition(_BASELINE, 0.01)]
    for arm, column, rates, facts in arms:
        for dose, rate in enumerate(rates, start=1):
            of_dose = _grid(column, {float(dose): rate}, **({"arm": arm} | facts))
            conditions += [replace(each, **scores(arm, rate)) for each in of_dose]
    return conditions


def _one(column: str, rates: Mapping[Any, float]) -> list[Condition]:
    return [Condition(_BASELINE, 0.01), *_grid(column, rates)]


def _models(rates: Sequence[float]) -> list[Condition]:
    conditions = []
    for number, rate in enumerate(rates):
        model, size = f"m{number}", 10.0 ** (6 + number)
        conditions.append(Condition(_BASELINE | {"model": model, "num_parameters": size}, 0.01))
        conditions += _grid("model", {model: rate}, num_parameters=size)
    return conditions


def _doses(rates: Sequence[float], last: float = 30.0) -> list[Condition]:
    conditions = _one("magnitude", {float(dose): rate for dose, rate in enumerate(rates, start=1)})
    return [
        *conditions[: -len(SEEDS)],
        *(replace(c, coherent=last) for c in conditions[-len(SEEDS) :]),
    ]


def _law(name: str, ahead: float) -> Callable[[str, float], Mapping[str, float]]:
    """A score that falls with the rate of harm in both arms, and is ahead in the steered one."""
    return lambda arm, rate: {name: 75 - 15 * rate + (ahead if arm == "steered" else 0.0)}


_RISING, _STEEP = (0.15, 0.3, 0.45, 0.6), (0.2, 0.5)
# By claim: where it is true, and where its opposite is.
PLANTED: dict[int, tuple[list[Condition], list[Condition]]] = {
    1: (_doses([0.1, 0.3, 0.4, 0.2]), _doses([0.01, 0.01, 0.01, 0.01])),
    2: (_doses([0.1, 0.4, 0.6, 0.4, 0.1]), _doses([0.5, 0.5, 0.5, 0.5], 85.0)),
    3: (
        _arms(_RISING, _STEEP, _law("relevant", 12)),
        _arms(_RISING, _STEEP, _law("relevant", -12)),
    ),
    4: (
        _arms(_RISING, _STEEP, _law("coherent", 12)),
        _arms(_RISING, _STEEP, _law("coherent", -12)),
    ),
    5: (
        _one("rank", {1.0: 0.55, 2.0: 0.6, 4.0: 0.6, 8.0: 0.6}),
        _one("rank", {1.0: 0.1, 2.0: 0.2, 4.0: 0.4, 8.0: 0.6}),
    ),
    6: (
        _one("training_epochs", {1.0: 0.1, 2.0: 0.4, 3.0: 0.55, 4.0: 0.6, 5.0: 0.6}),
        _one("training_epochs", {1.0: 0.5, 2.0: 0.5, 3.0: 0.5, 4.0: 0.5}),
    ),
    7: (
        _one("layer", {0.0: 0.02, 1.0: 0.5, 2.0: 0.6, 3.0: 0.1}),
        _one("layer", dict.fromkeys((0.0, 1.0, 2.0, 3.0), 0.3)),
    ),
    8: (
        _one("target", {"code": 0.5, "finance": 0.3, "medical": 0.25}),
        _one("target", {"code": 0.5, "finance": 0.3, "medical": 0.01}),
    ),
    9: (_models([0.5, 0.3, 0.3]), _models([0.5, 0.3, 0.01])),
    10: (_models([0.2, 0.35, 0.5]), _models([0.6, 0.4, 0.2])),
    11: (_arms([0.3, 0.6], [0.1, 0.25]), _arms([0.1, 0.25], [0.3, 0.6])),
}
# Both arms under one law, dosed differently: neither is ahead.
EQUAL = {3: _law("relevant", 0), 4: _law("coherent", 0), 11: _law("relevant", 0)}
PLANTED_CHANCE = Chance(rate=0.3, icc=0.1, seeds=0.2, both=0.2)


def shares(
    conditions: Mapping[str, Sequence[Condition]], chance: Chance, runs: int, seed: int = 0
) -> dict[int, Counter[str]]:
    """How often each claim ended how, by its number."""
    counts: dict[int, Counter[str]] = {claim.number: Counter() for claim in CLAIMS}
    for name, of_study in conditions.items():
        study, rng = Study(name, of_study, chance.themes), np.random.default_rng(seed)
        for _ in range(runs):
            for verdict in judge_claims(study.draw(rng, chance)):
                if verdict.num_answers:
                    counts[verdict.number][verdict.verdict] += 1
                    if verdict.why == "no effect to describe":
                        counts[verdict.number][verdict.why] += 1
    return counts


def main() -> None:
    """Simulate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    began = time.perf_counter()
    lines = [
        "# What `steering claims` says where the truth is known",
        "",
        f"`python -m benchmarks.claims_null --runs {runs}`. Simulated studies with three build "
        f"seeds and {ANSWERS} answers to a theme in each condition, through `judge_claims`; shares "
        f"of {runs:,} runs (planted: {max(runs // 3, 1):,}), in %.",
        "",
        "## No condition does anything",
        "",
        "Supported, and refuted; each claim is tested at 5%. `-`: never. Claims 2, 5, 6, 7, 10 and "
        "11, and 3 and 4, are about an effect, and have to end as `no effect to describe`.",
        "",
        f"| claim | {' | '.join(NULLS)} |",
        f"|---|{'---|' * len(NULLS)}",
    ]
    nulls = []
    for name, chance in NULLS.items():
        nulls.append(shares(studies(chance.rate), chance, runs))
        print(name, {number: dict(counts) for number, counts in nulls[-1].items()}, flush=True)
    for claim in CLAIMS:
        cells = []
        for counts in nulls:
            of = counts[claim.number]
            decided = (f"{_percent(of[word], runs)}" for word in ("supported", "refuted"))
            cells.append(" / ".join(decided))
        lines.append(f"| {claim.number} {claim.name} | {' | '.join(cells)} |")
    few = max(runs // 3, 1)
    lines += [
        "",
        "## Planted",
        "",
        "Supported / refuted / not decided, where the claim is true, where its opposite is, and "
        "where both arms follow one law at different doses.",
        "",
        "| claim | true | opposite | neither |",
        "|---|---|---|---|",
    ]
    for claim in CLAIMS:
        cells = [_three({claim.study: of}, claim.number, few) for of in PLANTED[claim.number]]
        law = EQUAL.get(claim.number)
        equal = _arms(_RISING, (0.2, 0.4, 0.6), law) if law else None
        cells.append(_three({claim.study: equal}, claim.number, runs) if equal else "")
        lines.append(f"| {claim.number} {claim.name} | {' | '.join(cells)} |")
    lines += ["", f"It took {(time.perf_counter() - began) / 60:.0f} minutes on one core.", ""]
    RESULTS.write_text("\n".join(lines), encoding="utf-8")


def _three(conditions: Mapping[str, Sequence[Condition]], number: int, runs: int) -> str:
    counts = shares(conditions, PLANTED_CHANCE, runs, seed=number)[number]
    words = ("supported", "refuted", "not decided")
    return " / ".join(_percent(counts[word], runs) for word in words)


def _percent(count: int, runs: int) -> str:
    return f"{100 * count / runs:.1f}" if count else "-"


if __name__ == "__main__":
    main()
