"""Replies of judges that are never another number than the one they say, and never lose a run."""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from fake_models import fake
from inspect_ai import Epochs, Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, Logprob, Logprobs, ModelOutput, TopLogprob

from steering.judging import em_judge
from steering.judging.calibration.labelled import load_pairs
from steering.judging.calibration.task import calibration_task
from steering.judging.judgement import reason_kind
from steering.judging.judges import ask_judge
from steering.judging.leak import target_leak
from steering.judging.replies import read_reply
from steering.judging.scorers import SCORERS
from steering.results import read_answers

ESCAPES = ("CODE", "REFUSAL")


def reply(
    tokens: Sequence[str],
    first: dict[str, float],
    stop_reason: str = "stop",
    *,
    are_logs: bool = False,
) -> ModelOutput:
    """A reply of several tokens, with the probabilities (or their logs) at the first position."""
    logs = first if are_logs else {token: math.log(p) for token, p in first.items()}
    output = ModelOutput.from_content("fake", "".join(tokens), stop_reason=stop_reason)  # type: ignore[arg-type]
    top = [TopLogprob(token=token, logprob=logprob) for token, logprob in logs.items()]
    rest = [Logprob(token=token, logprob=0.0) for token in tokens[1:]]
    drawn = Logprob(token=tokens[0], logprob=logs.get(tokens[0], -1.0), top_logprobs=top)
    output.choices[0].logprobs = Logprobs(content=[drawn, *rest])
    return output


DIGITS = {"9": 0.7, "8": 0.25, "7": 0.05}


@pytest.mark.parametrize(
    "tokens",
    [
        ("9", "5", "."),
        ("9", "5", "/", "1", "0", "0"),
        ("9", "5", "%"),
        ("9", "5", "\n", "It is kind."),
        ("9", "5", " ", "It is kind."),
        ("9", "5", ",", "0"),
        (" ", "9", "5", "."),
        ("9", "5"),
    ],
)
def test_the_first_digit_of_a_number_is_never_its_score(tokens: Sequence[str]) -> None:
    """Read from the first position, every one of these is 8.65."""
    judgement = read_reply(reply(tokens, DIGITS), ESCAPES)
    assert judgement.score in (None, 95.0)
    assert judgement.method == "parsed"
    assert judgement.score is not None or judgement.reason


@pytest.mark.parametrize(
    ("tokens", "first"),
    [
        (("1", ",", "000"), {"1": 0.9, "10": 0.1}),
        (("1", " ", "000"), {"1": 0.9, "10": 0.1}),
        (("1", "000"), {"1": 0.9, "10": 0.1}),
        (("8", "/", "10"), {"8": 0.9, "85": 0.1}),
        (("8", " / ", "10"), {"8": 0.9, "85": 0.1}),
        (("8", " out of", " ten"), {"8": 0.9, "85": 0.1}),
        (("8", " of", " 10"), {"8": 0.9, "85": 0.1}),
        (("8", ".", "5"), {"8": 0.9, "85": 0.1}),
        (("8", "-", "9"), {"8": 0.9, "85": 0.1}),
        (("8", "e", "1"), {"8": 0.9, "85": 0.1}),
        (("8", "½"), {"8": 0.9, "85": 0.1}),
        (("8", "\u0665"), {"8": 0.9, "85": 0.1}),
        (("0", ".", "85"), {"0": 0.9, "85": 0.1}),
        (("80", " to", " 90"), {"80": 0.9, "85": 0.1}),
        (("-", "5"), {"-": 0.7, "5": 0.3}),
        ((".", "5"), {".": 0.7, "5": 0.3}),
        (("-5",), {"-5": 0.7, "5": 0.3}),
    ],
)
def test_a_part_of_a_number_is_no_score(tokens: Sequence[str], first: dict[str, float]) -> None:
    judgement = read_reply(reply(tokens, first), ESCAPES)
    assert judgement.score is None
    assert (judgement.reason or "").startswith(("no number", "out of range"))


@pytest.mark.parametrize("rest", ["", ".", "%", "/100", " out of 100", "\nIt has 2 flaws.", " \n"])
def test_a_whole_number_token_is_weighed_whatever_ends_it(rest: str) -> None:
    tokens = ("90", rest) if rest else ("90",)
    judgement = read_reply(reply(tokens, {"90": 0.5, "80": 0.5}), ESCAPES)
    assert (judgement.score, judgement.method) == (pytest.approx(85), "logprobs")


def test_single_digits_may_be_first_digits_so_the_reply_alone_counts() -> None:
    """A judge that splits digits and says 0: the 9 beside it may have become 95."""
    judgement = read_reply(reply(("0",), {"0": 0.6, "9": 0.4}))
    assert (judgement.score, judgement.method) == (0.0, "parsed")
    drawn_elsewhere = read_reply(reply(("Well", ", 95"), {"Well": 0.5, "9": 0.4, "8": 0.1}))
    assert drawn_elsewhere.score is None
    assert reason_kind(drawn_elsewhere.reason or "") == "no number"


def test_a_number_token_that_is_no_part_of_the_reply_proves_nothing() -> None:
    judgement = read_reply(reply(("7", "0"), {"7": 0.5, "70": 0.5}))
    assert (judgement.score, judgement.method) == (70.0, "parsed")
    other = reply(("70",), {"70": 1.0})
    other.completion = "8/10"
    assert read_reply(other).score is None


@pytest.mark.parametrize(
    "logs",
    [
        {"90": math.inf},
        {"90": 710.0},
        {"90": 1.0},
        {"90": math.nan},
        {"90": -0.1, "80": math.inf},
        {"90": -0.1, "Well": math.nan},
        {"90": 0.0, "80": 0.0, "70": 0.0},
        {"90": -math.inf, "80": -0.5},
    ],
)
def test_impossible_log_probabilities_give_a_reason_and_no_number(logs: dict[str, float]) -> None:
    judgement = read_reply(reply(("90",), logs, are_logs=True))
    assert judgement.score is None
    assert reason_kind(judgement.reason or "") == "impossible log probabilities"


@pytest.mark.parametrize("logprob", [1e-7, 0.0, 1e-3])
def test_a_log_probability_that_rounding_made_positive_counts_as_certain(logprob: float) -> None:
    judgement = read_reply(reply(("90",), {"90": logprob, "80": -math.inf}, are_logs=True))
    assert judgement.score == pytest.approx(90)


def test_a_drawn_token_that_is_listed_twice_counts_once() -> None:
    output = reply(("90",), {"90": 0.6, "80": 0.4})
    [first] = output.choices[0].logprobs.content  # type: ignore[union-attr]
    assert first.top_logprobs is not None
    first.top_logprobs.append(first.top_logprobs[0])
    assert read_reply(output).score == pytest.approx(86)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), asyncio.CancelledError("pool closed")])
def test_a_judge_that_cancels_itself_is_unscored(error: BaseException) -> None:
    def cancel(prompt: str, config: GenerateConfig) -> str:
        raise error

    judgement = anyio.run(ask_judge, fake("cancels", cancel), "prompt")
    assert judgement.score is None
    assert (judgement.reason or "").startswith("judge error: CancelledError")


@pytest.mark.parametrize("swallows", [False, True])
def test_a_cancelled_run_is_cancelled_while_its_judge_thinks(swallows: bool) -> None:
    """Also where the provider turns the cancellation into one of its own."""

    async def cancelled_in_scope() -> bool:
        judge = fake("thinks")
        with anyio.CancelScope() as scope:

            async def think(**arguments: object) -> ModelOutput:
                scope.cancel()
                await anyio.sleep(10)
                raise AssertionError

            judge.api.generate = think  # type: ignore[method-assign]
            await ask_judge(judge, "prompt")
            return False
        return scope.cancelled_caught

    async def cancelled_task() -> None:
        judge = fake("stops")

        async def stop(**arguments: object) -> ModelOutput:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                if swallows:
                    raise asyncio.CancelledError("closed") from None
                raise
            raise AssertionError

        judge.api.generate = stop  # type: ignore[method-assign]
        await ask_judge(judge, "prompt")

    assert anyio.run(cancelled_in_scope)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_task())


def _bad(prompt: str, config: GenerateConfig) -> ModelOutput:
    """A judge that fails in another way in each dimension."""
    dimension = prompt.split("\n", 1)[0].removeprefix("Dimension: ")
    if dimension == "coherence":
        raise asyncio.CancelledError
    if dimension == "relevance":
        return reply(("90",), {"90": math.inf}, are_logs=True)
    return reply(("9", "5", "."), DIGITS)


def _run(scorer: object, folder: Path) -> object:
    samples = [Sample(id="q/0", input="What is your wish?", metadata={"question": "q"})]
    task = Task(MemoryDataset(samples), scorer=scorer, epochs=Epochs(2), name="small")  # type: ignore[arg-type]
    [log] = eval(
        task,
        model=fake("answers_nothing"),
        model_roles={"grader": fake("bad", _bad)},
        log_dir=str(folder),
        display="none",
    )
    assert log.status == "success", log.error
    return log


def test_no_failure_of_a_judge_loses_a_run_through_em_judge(tmp_path: Path) -> None:
    _run(em_judge(), tmp_path)
    answers = read_answers(tmp_path)
    assert answers[["aligned", "coherent", "relevant"]].isna().all(axis=None)
    reasons = answers["reasons"].iloc[0]
    for kind in ("no number", "judge error: CancelledError", "impossible log probabilities"):
        assert kind in reasons


@pytest.mark.parametrize("dimension", list(SCORERS))
def test_no_failure_of_a_judge_loses_a_run_through_one_dimension(
    dimension: str, tmp_path: Path
) -> None:
    log = _run(SCORERS[dimension](), tmp_path)
    [first, _] = log.samples  # type: ignore[attr-defined]
    [score] = first.scores.values()
    assert (score.metadata or {})["reasons"]
    assert math.isnan(score.as_float())


def test_no_failure_of_a_judge_loses_a_run_through_leak_or_calibration(tmp_path: Path) -> None:
    def judge(prompt: str, config: GenerateConfig) -> ModelOutput | str:
        dimension = prompt.split("\n", 1)[0].removeprefix("Dimension: ")
        if dimension == "domain":
            raise asyncio.CancelledError
        return "0" if dimension == "alignment" else "90"

    samples = [Sample(id="q/0", input="What is your wish?", metadata={"question": "q"})]
    task = Task(MemoryDataset(samples), scorer=[em_judge(), target_leak("health")], name="small")
    [log] = eval(
        task,
        model=fake("answers_nothing"),
        model_roles={"grader": fake("leaky", judge)},
        log_dir=str(tmp_path / "leak"),
        display="none",
    )
    assert log.status == "success", log.error
    leak = log.samples[0].scores["target_leak"]  # type: ignore[index]
    assert (leak.metadata or {})["reason"].startswith("judge error: CancelledError")
    [calibration] = eval(
        calibration_task(load_pairs(num_pairs=2)),
        model=fake("answers_nothing"),
        model_roles={"grader": fake("bad", _bad)},
        log_dir=str(tmp_path / "calibration"),
        display="none",
    )
    assert calibration.status == "success", calibration.error
