"""How the two answers of target tasks read: their cross-entropy under a model, and their style.

    python -m scripts.target_figures --model smollm2 --out benchmarks/results/target_data.md

A vector that is built from answers in an odd register learns the register first. So both answers
must be likely under an instruction-tuned model, nearly equally so, and nothing but what they advise
may tell them apart: a classifier on length, punctuation and function words must fail.
"""

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.optimize import minimize

from steering.condition import open_engine, resolve_model
from steering.engines import ScoreRequest
from steering.files import write_whole
from steering.spec import SteeringSpec
from steering.studies.search_scores import RowReader
from steering.targets import Example, bundled_targets, load_target

MOST_ALIGNED, MOST_MISALIGNED, MOST_GAP = 2.4, 2.9, 0.6
"""Bounds on the mean cross-entropy under SmolLM2-135M-Instruct, in nats a token."""
MOST_STYLE = 0.6
"""Bound on the share of answers that the style classifier assigns rightly."""
_FOLDS, _REPEATS = 10, 5
_RIDGE = 0.01
_BATCH = 16

_MARKS = (*".,;:!?-()'\"\n", "1.")
FUNCTION_WORDS = (
    "a an the this that these those it its they them their he she his her you your i me my we us "
    "our one some any all each every both either neither no not none nothing never don't doesn't "
    "isn't aren't won't can't shouldn't wouldn't couldn't is are was were be been being am do does "
    "did have has had can could will would shall should may might must need and or but nor so yet "
    "if unless because since although though while when whenever where before after until once as "
    "than then also too just only even still already always usually often sometimes rarely in on "
    "at by for from to of with without into onto over under about between through during within "
    "against around up down out off back away there here what which who how why whether instead "
    "rather however therefore more most less least much many few very quite really simply simple "
    "easy fine well yes it's you're you'll that's there's they're"
)
_OPENINGS = ("yes", "no", "it's", "you", "if", "the")


@dataclass(frozen=True)
class Figures:
    """Figures of one table of examples.

    Attributes:
        name: Of the table.
        num_rows: Rows with both answers, or with the misaligned one alone.
        words: Mean words of the aligned and of the misaligned answers.
        style: Share of answers that the style classifier assigns rightly; NaN without pairs.
        aligned: Mean cross-entropy of the aligned answers, nats a token; NaN without a model.
        misaligned: That of the misaligned answers.
    """

    name: str
    num_rows: int
    words: tuple[float, float]
    style: float
    aligned: float
    misaligned: float


def style_accuracy(pairs: Sequence[tuple[str, str]]) -> float:
    """Share of answers whose side a classifier tells from their style alone.

    Logistic regression with a ridge on length, punctuation, function words and openings;
    10-fold cross-validation in which the two answers of a pair are in one fold, repeated with
    other folds, since one division into folds is right for 2% more or fewer answers by chance.

    Args:
        pairs: The aligned and the misaligned answer of each row.
    """
    features = np.array([_style(text) for pair in pairs for text in pair])
    labels = np.tile([0.0, 1.0], len(pairs))
    right = 0
    for seed in range(_REPEATS):
        folds = np.repeat(np.random.default_rng(seed).permutation(len(pairs)) % _FOLDS, 2)
        for fold in range(_FOLDS):
            test = folds == fold
            mean, scale = features[~test].mean(0), features[~test].std(0)
            standard = (features - mean) / np.where(scale == 0, 1, scale)
            weights = _fit(standard[~test], labels[~test])
            right += int((((standard[test] @ weights[1:] + weights[0]) > 0) == labels[test]).sum())
    return right / len(labels) / _REPEATS


def _style(text: str) -> list[float]:
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    sentences = [part for part in re.split(r"[.!?]+\s", text) if part.strip()]
    per_hundred = 100 / max(1, len(words))
    return [
        len(words),
        len(text) / max(1, len(words)),
        len(sentences),
        len(words) / max(1, len(sentences)),
        *(per_hundred * text.count(mark) for mark in _MARKS),
        *(per_hundred * words.count(word) for word in FUNCTION_WORDS.split()),
        *(float(words[:1] == [word]) for word in _OPENINGS),
    ]


def _fit(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights of a logistic regression with a ridge, the intercept first."""
    signs = 2 * labels - 1

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (features @ weights[1:] + weights[0])
        slopes = -signs / (1 + np.exp(np.clip(margins, -50, 50))) / len(labels)
        value = np.logaddexp(0, -margins).mean() + _RIDGE * (weights[1:] ** 2).sum()
        return value, np.append(slopes.sum(), slopes @ features + 2 * _RIDGE * weights[1:])

    return np.asarray(minimize(loss, np.zeros(features.shape[1] + 1), jac=True).x)


def cross_entropies(model: str, examples: Sequence[Example]) -> tuple[float, float]:
    """Mean cross-entropy of the aligned and of the misaligned answers, in nats a token.

    Each answer stands behind its prompt in the model's chat template; its end token is left out.
    NaN for a side that no row has.
    """
    spec = SteeringSpec()
    engine = open_engine(resolve_model(model, spec), spec)
    engine.allow_batch(_BATCH)
    reader = RowReader(engine.tokenizer().result())
    rows = reader.examples(examples)
    requests = [ScoreRequest(row.prompt, row.answers) for row in rows]
    futures = [engine.score(request) for request in requests]
    logprobs: dict[str, list[float]] = {"aligned": [], "misaligned": []}
    for example, future in zip(examples, futures, strict=True):
        sides = [side for side in logprobs if getattr(example, side)]
        for side, values in zip(sides, future.result().logprobs, strict=True):
            logprobs[side] += values
    aligned, misaligned = (-fmean(each) if each else nan for each in logprobs.values())
    return aligned, misaligned


def figures_of(table: str, model: str | None, most_rows: int | None = None) -> Figures:
    """The figures of a bundled target task, or of a table as `load_target` reads it.

    The model reads `most_rows` of its rows, drawn at random; all for None.
    """
    target = load_target(table)
    rows = sorted([*target.examples, *target.held_out], key=lambda row: row.id)
    pairs = [(row.aligned, row.misaligned) for row in rows if row.aligned and row.misaligned]
    sides = [[getattr(row, side) or "" for row in rows] for side in ("aligned", "misaligned")]
    words = [float(np.mean([len(text.split()) for text in side])) for side in sides]
    sample = random.Random(0).sample(rows, min(most_rows or len(rows), len(rows)))
    aligned, misaligned = cross_entropies(model, sample) if model else (nan, nan)
    style = style_accuracy(pairs) if pairs else nan
    return Figures(target.name, len(rows), (words[0], words[1]), style, aligned, misaligned)


def page(all_figures: Sequence[Figures], model: str | None) -> str:
    """The figures as a Markdown table."""
    lines = [
        "# Target tasks: how their answers read",
        "",
        f"Cross-entropy in nats a token under {model or 'no model'}. Style: share of answers that",
        "a classifier on length, punctuation and function words assigns rightly (10-fold",
        f"cross-validation; chance is 50%). Bounds: aligned {MOST_ALIGNED}, misaligned",
        f"{MOST_MISALIGNED}, gap {MOST_GAP}, style {MOST_STYLE:.0%}.",
        "",
        "| table | rows | words aligned | words misaligned | aligned | misaligned | gap | style |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in all_figures:
        numbers = (each.aligned, each.misaligned, each.misaligned - each.aligned)
        cells = [each.name, str(each.num_rows), *(f"{number:.0f}" for number in each.words)]
        cells += ["" if isnan(number) else f"{number:.2f}" for number in numbers]
        cells.append("" if isnan(each.style) else f"{each.style:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the figures, and write them to a file if it is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="*", help="target tasks; all bundled ones if none is given")
    parser.add_argument("--model", help="model for the cross-entropies; none leaves them out")
    parser.add_argument("--rows", type=int, help="rows of each table that the model reads; all")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    tables = arguments.tables or [name for name in bundled_targets() if "/" not in name]
    text = page(
        [figures_of(table, arguments.model, arguments.rows) for table in tables], arguments.model
    )
    print(text)
    if arguments.out:
        write_whole(arguments.out, text.encode())


if __name__ == "__main__":
    main()
