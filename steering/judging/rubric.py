"""Rubrics: what a judge is asked, one file for each dimension, and the prompt that asks it.

The judged dimensions are the files in `rubrics/`, in the order of their names; score keys, scorers,
metrics, columns and calibration figures follow from them. Each is asked of every answer, with two
exceptions: a rubric that says `only: misaligned` is asked of the answers that an EM rule counts as
misaligned, and one whose text names a `{subject}` (`domain`) only where there is a subject.

A judge prompt is one user message. Its first line names the dimension. All that comes before the
question and the answer is the same in every prompt of a dimension (and subject), so that an engine
computes it once. The question and the answer stand in fences whose tags end in a key computed from
both, so that no answer can contain the tag that closes its own fence. Knows the files and plain
text; never a model, a score or Inspect.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steering.foreign import parse_yaml
from steering.judging.errors import JudgingError

RUBRIC_FOLDER = Path(__file__).parent / "rubrics"
ONLY, MISALIGNED = "only", "misaligned"
"""The field of the front matter that says of which answers a rubric is asked, and its value."""
DOMAIN = "domain"
"""The rubric that grades how far an answer is about a subject, and the key of that score."""

_FRONT_MATTER = re.compile(r"\A---\n(?P<front>.*?)\n---\n(?P<body>.*)\Z", re.DOTALL)
_FIELDS = {"name", "score", "scale", "escapes", "canary", "notice"}
_SUBJECT = "{subject}"
_MATERIAL = "{material}"
_KEY_DIGITS = 12


@dataclass(frozen=True)
class Rubric:
    """One judged dimension.

    Attributes:
        name: of the dimension and of its file, such as `alignment`.
        score: key of its score, 0 to 100, such as `aligned`.
        escapes: words that a judge may reply instead of a grade, with their meaning.
        canary: identifier that shows whether the rubric was in a model's training data.
        body: the text, with the places `{escapes}` and, in a rubric that needs one, `{subject}`
            before `{material}`, and `{key}` behind it.
        sha256: of the file's bytes, so that it changes with anything that the judge reads.
        only_misaligned: whether it is asked only of answers that an EM rule counts as misaligned.
    """

    name: str
    score: str
    escapes: Mapping[str, str]
    canary: str
    body: str
    sha256: str
    only_misaligned: bool = False

    @property
    def needs_subject(self) -> bool:
        """Whether the rubric asks about a subject, and so can't be asked of every answer."""
        return _SUBJECT in self.body

    def render(self, question: str, answer: str, subject: str = "") -> str:
        """The user message that asks a judge to grade `answer` to `question` in this dimension.

        `subject` is for a rubric that needs one.
        """
        key = fence_key(question, answer)
        material = (
            f"<question-{key}>\n{question}\n</question-{key}>\n"
            f"<answer-{key}>\n{answer}\n</answer-{key}>"
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

    The key depends on the whole answer, so an answer that contains its own key would have to be a
    fixed point of the hash. Text that isn't valid Unicode (lone surrogates) has a key as well.
    """
    data = f"{question}\x00{answer}".encode("utf-8", errors="surrogatepass")
    return hashlib.sha256(data).hexdigest()[:_KEY_DIGITS]


def fill_prompt(template: str, question: str, answer: str) -> str:
    """A question file's own judge prompt with its `{question}` and `{answer}` filled in.

    Both places are filled in one pass, so that a question that itself says `{answer}`, and any
    other braces in the template, stay as they are.
    """
    return _fill(template, {"question": question, "answer": answer})


def load_rubric(dimension: str) -> Rubric:
    """The bundled rubric of a dimension.

    Raises:
        JudgingError: there is no such dimension.
    """
    if dimension not in RUBRICS:
        raise JudgingError(
            f"there is no rubric for the dimension {dimension!r}; use one of {', '.join(RUBRICS)}."
        )
    return RUBRICS[dimension]


def parse_rubric(text: str, name: str) -> Rubric:
    """Read a rubric file's text: front matter in YAML between two lines of `---`, then the body.

    Raises:
        JudgingError: no front matter, an unknown, missing or impossible field, or a body in which a
            place is missing or on the wrong side of the material.
    """
    match = _FRONT_MATTER.match(text)
    front = parse_yaml(match["front"], f"rubric {name!r}", "template") if match else None
    if match is None or not isinstance(front, dict):
        raise JudgingError(f"rubric {name!r} has no front matter; begin it with `---` and YAML.")
    if front.keys() - {ONLY} != _FIELDS:
        raise JudgingError(
            f"rubric {name!r} has the fields {', '.join(sorted(front))}; "
            f"give exactly {', '.join(sorted(_FIELDS))}, and {ONLY} where you want."
        )
    if front.get(ONLY, MISALIGNED) != MISALIGNED:
        raise JudgingError(
            f"rubric {name!r} has {ONLY}: {front[ONLY]!r}; give `{ONLY}: {MISALIGNED}`, or "
            "leave it out to ask about every answer."
        )
    if front["name"] != name:
        raise JudgingError(
            f"rubric {name!r} is named {front['name']!r} in its front matter; give the name of the "
            "file."
        )
    if not str(front["score"]).isidentifier():
        raise JudgingError(
            f"rubric {name!r} has the score {front['score']!r}; give one word of letters, digits "
            "and underscores, such as `aligned`."
        )
    if front["scale"] != [0, 100]:
        raise JudgingError(f"rubric {name!r} has the scale {front['scale']}; it must be [0, 100].")
    check_body(match["body"], f"the body of rubric {name!r}", has_escapes=bool(front["escapes"]))
    if ONLY in front and _SUBJECT in match["body"]:
        raise JudgingError(
            f"rubric {name!r} has {ONLY}: {MISALIGNED} and a subject; leave one of them out."
        )
    return Rubric(
        name=name,
        score=str(front["score"]),
        escapes=front["escapes"],
        canary=front["canary"],
        body=match["body"],
        sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
        only_misaligned=ONLY in front,
    )


def check_body(body: str, where: str, *, has_escapes: bool) -> None:
    """Refuse a rubric's text in which a place is missing or on the wrong side of the material.

    Args:
        body: The text.
        where: What it is called in a message.
        has_escapes: Whether a judge may reply some words instead of a grade.

    Raises:
        JudgingError: A place is missing, or on the wrong side.
    """
    escapes = ["{escapes}"] if has_escapes else []
    if missing := [p for p in ["{key}", _MATERIAL, *escapes] if p not in body]:
        raise JudgingError(f"{where} lacks {', '.join(missing)}; add it.")
    before, _, behind = body.partition(_MATERIAL)
    misplaced = [p for p in ("{escapes}", _SUBJECT, _MATERIAL) if p in behind]
    if misplaced := misplaced + ["{key}"] * ("{key}" in before):
        raise JudgingError(
            f"{where} has {', '.join(misplaced)} on the wrong side of "
            "{material}; put {escapes} and {subject} before it, {key} behind it, and {material} "
            "once, so that the prompts of a dimension begin alike."
        )


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Replace `{name}` by its value for each name, in one pass over the template."""
    places = "|".join(re.escape(name) for name in values)
    return re.sub(rf"\{{({places})\}}", lambda place: values[place[1]], template)


RUBRICS: Mapping[str, Rubric] = {
    path.stem: parse_rubric(path.read_text(encoding="utf-8"), path.stem)
    for path in sorted(RUBRIC_FOLDER.glob("*.md"))
}
"""The bundled rubrics by the name of their dimension."""

SCORE_OF: Mapping[str, str] = {
    name: rubric.score for name, rubric in RUBRICS.items() if not rubric.needs_subject
}
"""Score key by dimension, for the dimensions that answers are judged in without a subject."""

DIMENSIONS = tuple(SCORE_OF)
SCORE_KEYS = tuple(SCORE_OF.values())

OF_MISALIGNED = tuple(name for name in DIMENSIONS if RUBRICS[name].only_misaligned)
"""The dimensions that are asked only of misaligned answers, after all others."""
OF_ALL = tuple(name for name in DIMENSIONS if name not in OF_MISALIGNED)
"""The dimensions that every answer is judged in."""
KEYS_OF_MISALIGNED = tuple(SCORE_OF[name] for name in OF_MISALIGNED)
KEYS_OF_ALL = tuple(SCORE_OF[name] for name in OF_ALL)

ESCAPE_REASONS = tuple(
    dict.fromkeys(word.lower() for rubric in RUBRICS.values() for word in rubric.escapes)
)
"""Reasons for no score that say something about the answer; all others are the judge's failures."""
