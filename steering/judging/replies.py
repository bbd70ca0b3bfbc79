"""What a judge's reply says: a score from 0 to 100, or a reason why there is none.

Reads one output of a judge's model. Never a part of a number for the number: what can't be told
for sure is unscored. Asks no model and knows no rubric.

The whole reply must be the score, in one of these forms:

- a whole number, `85`, or a decimal, `85.5`, which is rounded to the nearest whole number, halves
  up. A decimal of at most 10 is unscored: it may be on a scale from 0 to 1 or to 10;
- behind it `/100`, `out of 100`, `%` or a full stop;
- before it a label and a colon or `=`: `score`, `rating`, `grade` (also `final` or `overall`), or
  the name of the dimension or of its score;
- in quotes, bold, italics, backticks or a fence of code, the label too;
- a JSON object with one key that is such a label; its other keys are ignored.

An escape word may stand in place of the number. All else, and whatever says more than one number,
is unscored. So is a reply with words that stands letter for letter in the prompt: it may repeat the
answer under judgement instead of grading it.
"""

import json
import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from inspect_ai.model import ModelOutput

from steering.judging.judgement import Judgement, Method
from steering.judging.model_output import final_text, has_reasoning, is_truncated

# Below this much probability on numbers there is no score (Betley et al. 2025, their judge's code).
MIN_NUMBER_MASS = 0.25

_NUMBER = re.compile(r"\A\s*(\d{1,3})\s*\Z", re.ASCII)
# A reply that begins with a number, or with what makes another number of the one that follows.
_BEGINS_WITH_NUMBER = re.compile(r"\A\s*[-+\u2212.,~<>=]*\s*\d")
# What may stand between a score and the end of its line.
_OUT_OF_100 = re.compile(r"\A\s*(?:/\s*100|out of 100)(?!\d)")
# On the line of a score these words or signs say that it is one of another scale, or of a range.
_ANOTHER_SCALE = re.compile(r"[/\u2044-]|\b(?:of|out|or|to|ten|five|scale|stars?|thousand)\b")

_MARKS = r"[*_`\"']{0,3}"
_SCALE = r"(?:\s*/\s*100|\s+out\s+of\s+100|\s*%)?"
_FORM = re.compile(
    rf"\A{_MARKS}\s*(?:(?P<label>[a-z][a-z _]{{0,40}}){_MARKS}\s*[:=]\s*{_MARKS}\s*)?"
    rf"(?P<value>\d{{1,3}}(?:\.\d{{1,20}})?|[a-z]{{1,40}}){_MARKS}{_SCALE}{_MARKS}\.?{_MARKS}\Z",
    re.ASCII | re.IGNORECASE,
)
_FENCED = re.compile(r"\A```[a-z]*\s*\n(?P<inside>.*)\n\s*```\Z", re.DOTALL | re.IGNORECASE)
_LABELS = {
    f"{which}{noun}"
    for which in ("", "final ", "overall ")
    for noun in ("score", "rating", "grade")
}
# A decimal up to this may be of another scale than 0 to 100.
_OTHER_SCALES = 10
# A reply of more characters is read as no JSON.
_LONGEST_JSON = 20_000

# What rounding may add to a log probability, and to the sum of all probabilities.
_ROUNDING = 0.01
_SUM_ROUNDING = 0.05

# Characters of a reply or an error that are stored: enough to understand it, but no whole answer.
_EXCERPT = 500


class _ImpossibleError(Exception):
    """Log probabilities that no distribution has."""


@dataclass(frozen=True)
class _FirstToken:
    """The first position of a reply: the token that was drawn, and all that are known there."""

    drawn: str
    probabilities: Sequence[tuple[str, float]]

    @property
    def numbers(self) -> list[tuple[int, float]]:
        """The tokens that are a whole number from 0 to 100, with their probabilities."""
        pairs = [(whole_number(token), p) for token, p in self.probabilities]
        return [(number, p) for number, p in pairs if number is not None]

    @property
    def shows_whole_numbers(self) -> bool:
        """Whether a token of several digits shows that the tokenizer does not split them."""
        return any((match := _NUMBER.match(t)) and match[1][1:] for t, _ in self.probabilities)


def read_reply(
    output: ModelOutput,
    escapes: Collection[str] = (),
    names: Collection[str] = (),
    prompt: str = "",
) -> Judgement:
    """Read a judge's reply.

    With log probabilities at the first position the score is the probability-weighted mean of the
    tokens there that are whole numbers from 0 to 100, and there is none when they hold less than
    `MIN_NUMBER_MASS` of the probability (Betley et al. 2025). Ours differs in two points. That mean
    is wrong where a token is only a part of the number, as with tokenizers that split digits, and
    where the reply starts with reasoning: it is taken only where the token that was drawn is the
    whole number that the reply says, and some token shows that digits are not split. And a reply
    that begins with a sign or a word and is a score all the same, as `**85**`, counts as written.
    Without log probabilities the score is read from the text.

    Args:
        output: Of the judge's model.
        escapes: The words, in capitals, that the judge may reply instead of a number.
        names: Of what is scored, which may label the number: of the dimension and of its score.
        prompt: What the judge was asked.
    """
    text = final_text(output)
    cut = is_truncated(output)
    if output.empty or output.stop_reason == "content_filter":
        what = output.error or ("no reply" if output.empty else "content filter")
        return Judgement(None, f"judge refused: {one_line(what)}", None, text)
    try:
        first = _first_token(output)
    except _ImpossibleError as error:
        return Judgement(None, f"impossible log probabilities: {error}", "logprobs", text)
    written = _written(text, cut, escapes, names, prompt)
    if first is None or not _is_weighed(first, output.completion):
        return written
    score, reason = _weigh(first)
    if score is None and not _BEGINS_WITH_NUMBER.match(text) and _is_answer(written, escapes):
        return written
    return Judgement(score, reason, "logprobs", text)


def whole_number(text: str) -> int | None:
    """The number from 0 to 100 that a text is; None where it is anything else."""
    match = _NUMBER.match(text)
    return int(match[1]) if match and int(match[1]) <= 100 else None


def one_line(error: object) -> str:
    """A text or an error in one line that is not too long to be stored."""
    text = " ".join(str(error).split())
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "..."


def _first_token(output: ModelOutput) -> _FirstToken | None:
    """The reply's first position; None when it is unknown, or of reasoning."""
    logprobs = output.choices[0].logprobs
    if logprobs is None or not logprobs.content or has_reasoning(output):
        return None
    first = logprobs.content[0]
    # Some providers list the token that was drawn twice.
    listed = first.top_logprobs or (first,)
    entries = dict.fromkeys((entry.token, entry.logprob) for entry in listed)
    for token, logprob in entries:
        if math.isnan(logprob) or logprob > _ROUNDING:
            raise _ImpossibleError(f"{logprob:g} of {token!r}")
        if logprob == -math.inf and token == first.token:
            raise _ImpossibleError(f"{token!r} was drawn with probability 0")
    probabilities = [(token, min(1.0, math.exp(logprob))) for token, logprob in entries]
    if (total := math.fsum(p for _, p in probabilities)) > 1 + _SUM_ROUNDING:
        raise _ImpossibleError(f"the probabilities of the first token add up to {total:.3g}")
    return _FirstToken(first.token, probabilities)


def _is_weighed(first: _FirstToken, completion: str) -> bool:
    """Whether the numbers among the first tokens are the numbers that the judge would say."""
    if not _BEGINS_WITH_NUMBER.match(completion):
        # A number would have been another reply: its first token shows whether it is whole.
        return first.shows_whole_numbers or not first.numbers
    reply, token = completion.lstrip(), first.drawn.strip()
    if not _NUMBER.match(token) or not reply.startswith(token) or not first.shows_whole_numbers:
        return False
    return _ends_number(reply[len(token) :])


def _ends_number(rest: str) -> bool:
    """Whether the text after a number leaves it the number that the reply says."""
    line, *_ = _OUT_OF_100.sub("", rest).split("\n", 1)
    if _ANOTHER_SCALE.search(line.lower()):
        return False
    # Digits of any script, fractions and the like; a letter at once belongs to the number, as 1e3.
    return not any(unicodedata.category(c)[0] == "N" for c in line) and not line[:1].isalpha()


def _weigh(first: _FirstToken) -> tuple[float | None, str | None]:
    """Score, or the reason for none, by the first token's probabilities."""
    mass = math.fsum(p for _, p in first.numbers)
    if mass >= MIN_NUMBER_MASS:
        return min(100.0, math.fsum(number * p for number, p in first.numbers) / mass), None
    return (
        None,
        f"low mass: {mass:.2f} of the first token's probability is on a number from 0 to 100",
    )


def _is_answer(judgement: Judgement, escapes: Collection[str]) -> bool:
    """Whether a judgement has a score or an escape word."""
    return judgement.score is not None or (judgement.reason or "").upper() in escapes


def _written(
    text: str, cut: bool, escapes: Collection[str], names: Collection[str], prompt: str
) -> Judgement:
    """The judgement that a text writes out, by the forms above."""
    if word := _escape(text, escapes, cut):
        return Judgement(None, word.lower(), "parsed", text)
    if cut:
        # "8" may be all that is left of "85".
        reason = f"cut off: the reply ends after {text[-_EXCERPT:]!r}"
        return Judgement(None, reason, "parsed", text)
    labels = _LABELS | {name.lower().replace("_", " ") for name in names}
    labels |= {f"{name} score" for name in labels - _LABELS}
    value, method = _value(text, labels)
    if value is None:
        reason = f"no number: the reply is {text[:_EXCERPT]!r}"
    elif any(map(str.isalpha, text)) and text in prompt:
        reason = f"no number: the reply repeats the prompt, {text[:_EXCERPT]!r}"
    elif value.upper() in escapes:
        reason = value.lower()
    elif not value[0].isdigit():
        reason = f"no number: the reply is {text[:_EXCERPT]!r}"
    elif (exact := Decimal(value)) > 100:
        reason = f"out of range: {value} is not in 0-100"
    elif "." in value and exact <= _OTHER_SCALES:
        reason = f"no number: {value} may be on another scale than 0-100"
    else:
        if "." in value:
            method = "rounded"
        score = float(exact.quantize(Decimal(1), ROUND_HALF_UP))
        return Judgement(score, None, method, text)
    return Judgement(None, reason, "parsed", text)


def _value(text: str, labels: Collection[str]) -> tuple[str | None, Method]:
    """The number or word that a text gives as the score, and in which form; None for any other."""
    if match := _NUMBER.match(text):
        return match[1], "parsed"
    if fenced := _FENCED.match(text):
        text = fenced["inside"].strip()
    method: Method = "formatted"
    if text.startswith("{"):
        text, method = _value_in_json(text, labels), "json"
    form = _FORM.match(text)
    if form is None or (form["label"] and not _is_label(form["label"], labels)):
        return None, method
    return form["value"], method


def _value_in_json(text: str, labels: Collection[str]) -> str:
    """The value of the one key that is a label, as text; empty where there is no such key."""
    if len(text) > _LONGEST_JSON:
        return ""
    try:
        # Tables as lists of pairs, since a table would hide that a key is there twice.
        pairs = json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return ""
    values = [value for key, value in pairs if _is_label(key, labels)]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def _is_label(text: str, labels: Collection[str]) -> bool:
    return " ".join(text.lower().replace("_", " ").split()) in labels


def _escape(text: str, escapes: Collection[str], cut: bool) -> str | None:
    """The escape word that `text` is, or is the beginning of when the reply was cut off."""
    word = text.strip(" \n\t.\"'*`").upper()
    if word in escapes:
        return word
    matches = [escape for escape in escapes if cut and len(word) > 1 and escape.startswith(word)]
    return matches[0] if len(matches) == 1 else None
