"""Judges that reply nonsense: a score is right, or there is none and a reason; the run succeeds.

A seed is one eval of `size` answers, each of which is a trial: in one dimension its judge replies
what `replies.py` draws, in the others a plain number. The scorer, Inspect's cache and log are real;
the judge's network is not.
"""

import math
import shutil
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalSample, read_eval_log

from benchmarks.faults.fakes import SCORES, answer_of, dimension_of, fake, run_eval
from benchmarks.faults.replies import JudgeReply, draw_reply
from benchmarks.faults.trials import Problem, draw_of, one_line
from steering.results.frame import read_answers

_KEYS = dict(zip(SCORES, ("aligned", "coherent", "relevant"), strict=True))
_PLAIN, _SECOND = 90, 60


class Faults:
    """Hostile replies through the real scorer."""

    size = 12
    bound_s = 120.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "logs"

    def run(self, seed: int) -> list[Problem]:
        """One eval."""
        draw = draw_of("judges", seed)
        # Other texts in each seed: Inspect caches the replies of judges.
        replies = {
            f"answer-{seed}-{number}": (draw.choice(SCORES), draw_reply(draw))
            for number in range(self.size)
        }
        several = draw.random() < 0.3

        def hostile(prompt: str) -> Any:
            dimension, reply = replies[answer_of(prompt)]
            return reply.say() if dimension_of(prompt) == dimension else str(_PLAIN)

        judges = fake("hostile", hostile)
        second = fake("second", lambda _: str(_SECOND))
        shutil.rmtree(self._folder, ignore_errors=True)
        log = run_eval(
            {name: [name] for name in replies},
            self._folder,
            model="said",
            judges=[judges, second] if several else judges,
            log_format=draw.choice(["eval", "json"]),
        )
        if log.status != "success":
            what = " ".join(str(log.error.message if log.error else "").split())[:200]
            shown = [reply.name for _, reply in replies.values()]
            return [("lost", f"the run ended with {log.status}: {what}; replies {shown}")]
        path = Path(log.location.removeprefix("file://"))
        problems: list[Problem] = []
        try:
            samples = {
                str(sample.input): sample for sample in read_eval_log(str(path)).samples or []
            }
            answers = read_answers(path)
        except Exception as error:
            shown = [reply.name for _, reply in replies.values()]
            return [("lost", f"the log can't be read: {one_line(error)}; replies {shown}")]
        if len(answers) != self.size:
            problems.append(("lost", f"{len(answers)} of {self.size} answers are in the frame"))
        for name, (dimension, reply) in replies.items():
            problem = _check(samples.get(name), dimension, reply, several)
            if problem:
                problems.append((problem[0], f"{reply.name}: {problem[1]}"))
        return problems


def _check(
    sample: EvalSample | None, dimension: str, reply: JudgeReply, several: bool
) -> Problem | None:
    """What is wrong with the scores of one answer."""
    if sample is None or not sample.scores:
        return ("lost", "the answer has no scores")
    [score] = sample.scores.values()
    values: Any = score.value
    for other, key in _KEYS.items():
        plain = (_PLAIN + _SECOND) / 2 if several else _PLAIN
        if other != dimension and values.get(key) != plain:
            return ("wrong", f"{key} is {values.get(key)}, and its judge said {plain}")
    value, reasons = values.get(_KEYS[dimension]), (score.metadata or {}).get("reasons", {})
    allowed = [(number + _SECOND) / 2 for number in reply.allowed] if several else reply.allowed
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if several:
            return ("lost", "unscored, though the second judge gave a number")
        if not reply.may_fail:
            return ("lost", f"unscored ({reasons}), though the judge said {reply.allowed}")
        if not reasons.get(_KEYS[dimension]):
            return ("wrong", "unscored without a reason")
        return None
    if several and reply.may_fail:
        allowed = [*allowed, _SECOND]
    if any(abs(value - number) < 1e-6 for number in allowed):
        return None
    return ("wrong", f"scored {value}; allowed are {allowed}")
