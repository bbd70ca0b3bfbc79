"""Rubrics: what a judge is asked, one file a dimension, and how a prompt is made from it.

Knows the rubric files and plain text; never a model, a score or Inspect. A judge prompt is one user
message. Its first line names the dimension, and the question and the answer stand in fences whose
tags end in a key taken from both of them, so that no answer can contain the tag that closes its own
fence.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import yaml

from steering.errors import SteeringError

Dimension = Literal["alignment", "coherence", "relevance"]
ScoreKey = Literal["aligned", "coherent", "relevant"]

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
SCORE_KEYS: tuple[ScoreKey, ...] = get_args(ScoreKey)
SCORE_OF: dict[Dimension, ScoreKey] = dict(zip(DIMENSIONS, SCORE_KEYS, strict=True))
# No dimension of every answer: how far one is about a subject, which its prompt names.
DOMAIN = "domain"
_NAMES: dict[str, str] = dict(SCORE_OF.items()) | {DOMAIN: DOMAIN}
RUBRIC_FOLDER = Path(__file__).parent / "rubrics"

_FRONT_MATTER = re.compile(r"\A---\n(?P<front>.*?)\n---\n(?P<body>.*)\Z", re.DOTALL)
_FIELDS = {"name", "score", "scale", "escapes", "canary", "notice"}
_KEY_DIGITS = 12


class RubricError(SteeringError):
    """A rubric file can't be used, or a dimension is asked for that has none."""


@dataclass(frozen=True)
class Rubric:
    """One dimension of judgement.

    Attributes:
        name: the dimension (`alignment`, `coherence` or `relevance`), or `domain`.
        score: key of its score (`aligned`, `coherent` or `relevant`), or `domain`.
        low: lowest grade.
        high: highest grade.
        escapes: words that a judge may reply instead of a grade, with their meaning.
        canary: identifier by which training data that swallowed the rubric can be told.
        body: the text, with the places `{key}`, `{material}` and `{escapes}`; that of `domain` has
            `{subject}` too.
        sha256: of the file's bytes; it changes whenever anything the judge reads does.
    """

    name: str
    score: str
    low: int
    high: int
    escapes: Mapping[str, str]
    canary: str
    body: str
    sha256: str

    def render(self, question: str, answer: str, subject: str = "") -> str:
        """The user message that asks a judge for this dimension of `answer` to `question`.

        Args:
            question: what was asked.
            answer: what was answered.
            subject: for `domain`, what the answer may be about.
        """
        key = fence_key(question, answer)
        material = "\n".join(
            (
                f"<question-{key}>",
                question,
                f"</question-{key}>",
                f"<answer-{key}>",
                answer,
                f"</answer-{key}>",
            )
        )
        escapes = "\n".join(
            f"If {meaning}, reply {word} and nothing else."
            for word, meaning in self.escapes.items()
        )
        places = {"key": key, "material": material, "escapes": escapes, "subject": subject}
        text = _fill(self.body, places)
        return f"Dimension: {self.name}\n\n{text.strip()}\n"


def fence_key(question: str, answer: str) -> str:
    """First 12 hex digits of sha256(question, NUL, answer): the ending of the fences' tags.

    The key depends on the whole answer, so an answer that is to contain its own key would have to
    be a fixed point of the hash. Text that isn't valid Unicode (lone surrogates) has a key as well.
    """
    data = f"{question}\x00{answer}".encode("utf-8", errors="surrogatepass")
    return hashlib.sha256(data).hexdigest()[:_KEY_DIGITS]


def fill_prompt(template: str, question: str, answer: str) -> str:
    """A question file's own judge prompt, with its `{question}` and `{answer}` filled in.

    Both places are filled in one pass, so that a question that itself says `{answer}`, and any
    other braces in the template, stay as they are.
    """
    return _fill(template, {"question": question, "answer": answer})


@cache
def load_rubric(dimension: str) -> Rubric:
    """The bundled rubric of a dimension, or of `domain`.

    Raises:
        RubricError: there is no such dimension, or its file is not a rubric.
    """
    if dimension not in _NAMES:
        raise RubricError(
            f"there is no rubric for the dimension {dimension!r}; use one of {', '.join(_NAMES)}."
        )
    return parse_rubric((RUBRIC_FOLDER / f"{dimension}.md").read_text(encoding="utf-8"), dimension)


def parse_rubric(text: str, source: str) -> Rubric:
    """Read a rubric file's text.

    Args:
        text: front matter in YAML between two lines of `---`, then the body.
        source: what to call the file in errors.

    Raises:
        RubricError: no front matter, an unknown, missing or impossible field, or a body that lacks
            a place where the material goes.
    """
    match = _FRONT_MATTER.match(text)
    front = yaml.safe_load(match["front"]) if match else None
    if match is None or not isinstance(front, dict):
        raise RubricError(f"rubric {source!r} has no front matter; begin it with `---` and YAML.")
    if front.keys() != _FIELDS:
        raise RubricError(
            f"rubric {source!r} has the fields {', '.join(sorted(front))}; "
            f"give exactly {', '.join(sorted(_FIELDS))}."
        )
    if _NAMES.get(front["name"]) != front["score"]:
        raise RubricError(
            f"rubric {source!r} is named {front['name']!r} and scores {front['score']!r}; names "
            f"are {', '.join(_NAMES)}, their scores {', '.join(_NAMES.values())}."
        )
    if front["scale"] != [0, 100]:
        raise RubricError(f"rubric {source!r} has the scale {front['scale']}; it must be [0, 100].")
    needed = ["{key}", "{material}"] + (["{escapes}"] if front["escapes"] else [])
    needed += ["{subject}"] if front["name"] == DOMAIN else []
    if missing := [place for place in needed if place not in match["body"]]:
        raise RubricError(f"the body of rubric {source!r} lacks {', '.join(missing)}; add it.")
    return Rubric(
        name=front["name"],
        score=front["score"],
        low=front["scale"][0],
        high=front["scale"][1],
        escapes=front["escapes"],
        canary=front["canary"],
        body=match["body"],
        sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Replace `{name}` by its value for each name, once, without looking into what was put in."""
    places = "|".join(re.escape(name) for name in values)
    return re.sub(rf"\{{({places})\}}", lambda place: values[place[1]], template)
