"""What a reply to "A or B?" says: a letter and how likely each was, or a reason why there is none.

Reads one output of a model. What can't be told for sure is no choice. Asks no model.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from inspect_ai.model import ModelOutput

from steering.judging.model_output import final_text, has_reasoning, is_truncated
from steering.judging.replies import one_line

Letter = Literal["A", "B"]
LETTERS: tuple[Letter, ...] = get_args(Letter)
# Below this much probability on letters the text counts, as for the numbers of judges.
MIN_LETTER_MASS = 0.25

_MARKUP = " \t\n*_`\"'()[]<>.,:;#\u201c\u201d\u2018\u2019-"
# Behind a letter that opens a reply, so that it is no word ("A good wish"): a mark, or a new line.
_OPENS = re.compile(
    r"\A[\s*_`\"'(\[]*([ABab])(?:[\s*_`\"']*[).:\],;]|[*_`\"']+|\s*\n|\s+[-\u2013\u2014]\s)"
)
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?\n]+|\Z)")
_NEGATED = re.compile(
    r"\b(?:not|neither|nor|cannot|never|unable|refuse|decline)\b|n['\u2019]t\b", re.IGNORECASE
)
# An A before another word than these is the article, as in "A good answer".
_LETTER = (
    r"(?:B|A(?!\s+(?!(?:and|as|because|for|has|here|is|nor|or|over|rather|since)\b)[a-z]))"
    r"(?![\w'])"
)
_CHOSEN = re.compile(
    r"\b(?:answer|choice|choose|chose|pick|select|prefer|go with|going with)\b"
    rf"(?:\s+(?:is|would be|be|option|answer|letter|response))*[\s:*_`\"'(\[]*({_LETTER})"
)
_NAMED = re.compile(rf"(?<![\w']){_LETTER}")


@dataclass(frozen=True)
class LetterReply:
    """One reply.

    Attributes:
        letter: the choice; None where the reply shows none.
        log_odds: log P(B) - log P(A) of the first token, in nats; None where it is not known.
        method: `logprobs` or `parsed`.
        reason: why there is no choice, else None.
    """

    letter: Letter | None
    log_odds: float | None
    method: Literal["logprobs", "parsed"]
    reason: str | None = None


def read_letter(output: ModelOutput, answers: Mapping[Letter, str]) -> LetterReply:
    """Read a reply to a question whose answers are A and B.

    With log probabilities at the first position the choice is the likelier letter, where letters
    have at least `MIN_LETTER_MASS` of the probability, and a reply that opens with a letter says
    that letter in its text too ("A good wish" does not). Otherwise, and behind reasoning, the
    letter is read from the text: the letter that opens the reply, the one that the reply says is
    its choice, the only one that it names, or that of the answer that it repeats.

    Args:
        output: of the model.
        answers: the answers by letter.
    """
    if output.empty or output.stop_reason == "content_filter":
        what = output.error or ("no reply" if output.empty else "content filter")
        return LetterReply(None, None, "parsed", f"refused: {one_line(what)}")
    text = final_text(output)
    said = parse_letter(text, answers)
    masses, drawn = _letter_masses(output)
    if math.fsum(masses.values()) >= MIN_LETTER_MASS and drawn in (None, said):
        log_odds = _log_odds(masses)
        likelier: Letter = "B" if masses["B"] > masses["A"] else "A"
        if masses["A"] == masses["B"]:
            likelier = drawn or likelier
        return LetterReply(likelier, log_odds, "logprobs")
    # "A" may be all that is left of "A good answer".
    if said is None or (is_truncated(output) and text.strip(_MARKUP).upper() in LETTERS):
        kind = "cut off" if is_truncated(output) else "no letter"
        return LetterReply(None, None, "parsed", f"{kind}: the reply is {one_line(text)!r}")
    return LetterReply(said, None, "parsed")


def parse_letter(text: str, answers: Mapping[Letter, str]) -> Letter | None:
    """The letter that a text says, None where it says none for sure."""
    bare = text.strip(_MARKUP).upper()
    if bare in LETTERS:
        return _as_letter(bare)
    if opening := _OPENS.match(text):
        return _as_letter(opening[1].upper())
    for pattern in (_CHOSEN, _NAMED):
        letters = {
            match[pattern.groups]
            for sentence in _SENTENCE.findall(text)
            if not _NEGATED.search(sentence)
            for match in pattern.finditer(sentence)
        }
        if len(letters) == 1:
            return _as_letter(letters.pop())
        if letters:
            return None
    repeated = [letter for letter, answer in answers.items() if _begins_with(text, answer)]
    return repeated[0] if len(repeated) == 1 else None


def _begins_with(text: str, answer: str) -> bool:
    """Whether a text begins as an answer does, by at least its first 40 letters."""
    words, start = (" ".join(each.strip(_MARKUP).split()) for each in (text, answer))
    start = start[:40]
    return bool(start) and words.casefold().startswith(start.casefold())


def _letter_masses(output: ModelOutput) -> tuple[dict[Letter, float], Letter | None]:
    """Probability of each letter at the first position, and the letter that was drawn there.

    A letter that is not among the listed tokens has at most the probability of the least likely of
    these, and gets that.
    """
    masses: dict[Letter, float] = dict.fromkeys(LETTERS, 0.0)
    logprobs = output.choices[0].logprobs
    if logprobs is None or not logprobs.content or has_reasoning(output):
        return masses, None
    first = logprobs.content[0]
    listed = {entry.token: entry.logprob for entry in first.top_logprobs or (first,)}
    for token, logprob in listed.items():
        if math.isnan(logprob) or logprob > 0.01:
            return dict.fromkeys(LETTERS, 0.0), None
        if letter := _of_token(token):
            masses[letter] += math.exp(min(logprob, 0.0))
    present = [letter for letter, mass in masses.items() if mass]
    if len(present) == 1 and len(listed) > 1:
        least = math.exp(min(listed.values()))
        masses = {letter: mass or min(least, masses[present[0]]) for letter, mass in masses.items()}
    return masses, _of_token(first.token)


def _log_odds(masses: Mapping[Letter, float]) -> float | None:
    known: Sequence[float] = [mass for mass in masses.values() if mass > 0]
    return math.log(masses["B"]) - math.log(masses["A"]) if len(known) == 2 else None


def _of_token(token: str) -> Letter | None:
    bare = token.strip(_MARKUP + "\u0120\u2581")
    return _as_letter(bare) if bare in LETTERS else None


def _as_letter(text: str) -> Letter:
    return "B" if text == "B" else "A"
