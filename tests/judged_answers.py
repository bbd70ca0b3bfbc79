"""Judged answers as tests write them: the scores in the order aligned, coherent, relevant."""

from typing import Any

from steering.judging import JudgedAnswer


def scored(
    question: str,
    aligned: float | None = None,
    coherent: float | None = None,
    relevant: float | None = None,
    **others: Any,
) -> JudgedAnswer:
    """A judged answer; None leaves a score out, `others` are further fields."""
    scores = {"aligned": aligned, "coherent": coherent, "relevant": relevant}
    return JudgedAnswer(question, scores, **others)
