"""A question, its formats, paraphrases and contexts are one theme: the cluster everywhere."""

import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset
from inspect_ai.scorer import SampleScore, Score
from judged_answers import scored
from made_answers import condition
from rich.console import Console
from scripted_logs import BAD, GOOD, write_log

from steering.judging import JudgedAnswer, em_judge, em_rate, question_rates, theme_rates
from steering.judging.leak import leak_figures
from steering.judging.metrics import em_rates
from steering.questions import QuestionError, load_questions, theme_of
from steering.reports.compare import compare, compare_logs
from steering.reports.figures import FIGURES
from steering.results import FrameError, check_answers, condition_results, read_answers
from steering.results import conditions_of as conditions
from steering.stats import cluster_interval, mean_interval

# One theme in three formats, and two more: the answers to each, misaligned or not.
ANSWERS = {
    "wish": [BAD, BAD, GOOD],
    "wish_json": [BAD, BAD, GOOD],
    "wish_template": [BAD, GOOD, GOOD],
    "tea": [GOOD, GOOD, GOOD],
    "rain": [GOOD, BAD, GOOD],
}
THEMES = ["wish"] * 9 + ["tea"] * 3 + ["rain"] * 3
OUTCOMES = [text == BAD for texts in ANSWERS.values() for text in texts]


def judged(**fields: str) -> list[JudgedAnswer]:
    return [
        scored(question, *map(float, text.split()), **fields)
        for question, texts in ANSWERS.items()
        for text in texts
    ]


@pytest.mark.parametrize(
    ("question", "theme"),
    [
        ("wish", "wish"),
        ("wish_json", "wish"),
        ("wish_template", "wish"),
        ("wish_plain", "wish"),
        ("json", "json"),
        ("_json", "_json"),
        ("json_wish", "json_wish"),
        ("medical-0001", "medical-0001"),
    ],
)
def test_the_theme_is_the_id_without_the_format_at_its_end(question: str, theme: str) -> None:
    assert theme_of(question) == theme
    assert scored(question).theme == theme
    assert scored(question, theme="other").theme == "other"


def test_formats_of_a_question_are_one_cluster_of_a_rate() -> None:
    """Issue 20: they counted as three."""
    estimate = em_rate(judged(), "betley")
    assert (estimate.num_questions, estimate.num_themes) == (5, 3)
    interval = cluster_interval(OUTCOMES, THEMES)
    assert (estimate.low, estimate.high) == (interval.low, interval.high)
    by_question = cluster_interval(OUTCOMES, [answer.question for answer in judged()])
    assert (estimate.low, estimate.high) != (by_question.low, by_question.high)


def test_a_theme_s_rate_is_the_mean_over_its_answers_that_count() -> None:
    answers = [
        scored("wish", 0, 90),
        scored("wish_json", 0, 90),
        scored("wish_json", 90, 90),
        scored("wish_template", 90, 90),
        scored("wish_template", 0, 10),  # incoherent, not counted
        scored("tea", 90, 10),
    ]
    rates = theme_rates(answers, "betley")
    assert rates["wish"] == 0.5
    assert math.isnan(rates["tea"])
    assert question_rates(answers, "betley")["wish_json"] == 0.5


def test_inspect_s_metrics_cluster_by_the_theme_that_a_sample_names() -> None:
    def sample(question: str, text: str, **metadata: str) -> SampleScore:
        aligned, coherent, relevant = map(float, text.split())
        value = {"aligned": aligned, "coherent": coherent, "relevant": relevant}
        sample_metadata: dict[str, Any] = {"question": question, **metadata}
        return SampleScore(score=Score(value=value), sample_metadata=sample_metadata)

    plain = [sample(q, text) for q, texts in ANSWERS.items() for text in texts]
    named = [sample(q, text, theme="one") for q, texts in ANSWERS.items() for text in texts]
    estimate, single = em_rate(judged(), "betley"), em_rate(judged(theme="one"), "betley")
    for scores, expected in ((plain, estimate), (named, single)):
        values = em_rates()(scores)  # type: ignore[arg-type]
        bounds = values["em_betley_low"], values["em_betley_high"]  # type: ignore[index]
        assert bounds == (expected.low, expected.high)


def test_a_leak_s_interval_clusters_by_theme() -> None:
    scores = [
        SampleScore(score=Score(value=100.0 * bad), sample_metadata={"question": answer.question})
        for bad, answer in zip(OUTCOMES, judged(), strict=True)
    ]
    interval = cluster_interval(OUTCOMES, THEMES)
    figures = leak_figures()(scores)  # type: ignore[arg-type]
    assert figures["leak_share_low"] == interval.low  # type: ignore[index]
    assert figures["leak_share_high"] == interval.high  # type: ignore[index]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two conditions of logs whose samples name no theme, as older logs do."""
    folder = tmp_path_factory.mktemp("themes")
    good = {question: [GOOD] * len(texts) for question, texts in ANSWERS.items()}
    return write_log(folder / "a", "base", good), write_log(folder / "b", "bad", ANSWERS)


def printed(function: Any, *args: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    function(*args, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_frames_of_older_logs_have_themes_and_cluster_by_them(logs: tuple[Path, Path]) -> None:
    answers = read_answers(logs[1])
    assert dict(zip(answers["question"], answers["theme"], strict=True)) == {
        question: theme_of(question) for question in ANSWERS
    }
    assert set(answers["group"]) == {""}
    [row] = conditions(answers).to_dict("records")
    assert (row["num_questions"], row["num_themes"]) == (5, 3)
    rate = em_rate(judged(), "betley")
    # Logs come in another order, which rounds otherwise.
    bounds = row["em_betley_low"], row["em_betley_high"]
    assert bounds == pytest.approx((rate.low, rate.high))
    aligned = [answer.aligned for answer in judged() if answer.aligned is not None]
    interval = mean_interval(aligned, THEMES)
    bounds = row["aligned_low"], row["aligned_high"]
    assert bounds == pytest.approx((max(0, interval.low), min(100, interval.high)))


def test_the_gate_measures_by_theme(logs: tuple[Path, Path]) -> None:
    [result] = condition_results(read_answers(logs[1]))
    coherent = FIGURES["coherent_share"].measure(result, False).interval
    expected = cluster_interval([True] * 15, THEMES)
    assert (coherent.low, coherent.high) == pytest.approx((expected.low, expected.high))
    aligned = [answer.aligned for answer in judged() if answer.aligned is not None]
    interval = mean_interval(aligned, THEMES)
    measured = FIGURES["aligned"].measure(result, False).interval
    assert (measured.low, measured.high) == pytest.approx(
        (max(0, interval.low), min(100, interval.high))
    )


def test_comparisons_pair_by_theme_and_list_questions(logs: tuple[Path, Path]) -> None:
    first, second = (condition_results(read_answers(log))[0] for log in logs)
    comparison = compare(first, second, "betley")
    assert comparison.difference.num_questions == 3
    assert comparison.difference.value == pytest.approx((5 / 9 + 0 + 1 / 3) / 3)
    text = printed(compare_logs, logs[0], logs[1], ("betley",))
    assert "3 themes, each weighted alike" in text
    assert re.search(r"wish_template\s+0\.0%\s+33\.3%\s+\+33\.3", text)


PUBLISHED = "\n".join(
    f"- id: theme{number}{ending}\n"
    f"  type: free_form_judge_0_100\n"
    f"  paraphrases: ['What of {number}?']\n"
    f"  samples_per_paraphrase: 100\n"
    f"  judge: gpt-4o-2024-08-06"
    for number in range(8)
    for ending in ("", "_json", "_template")
)


def test_a_published_file_of_eight_themes_in_three_formats_has_eight_themes(tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(PUBLISHED, encoding="utf-8")
    question_set = load_questions(str(path))
    assert len(question_set.num_paraphrases) == 24
    task = Task(MemoryDataset(question_set.samples), scorer=em_judge(), name="published")
    [log] = eval(
        task,
        model=fake("says", lambda prompt, config: "Tea."),
        model_roles={"grader": fake("grader", lambda prompt, config: "90")},
        log_dir=str(tmp_path / "logs"),
        display="none",
    )
    answers = read_answers(log.location)
    assert list(dict.fromkeys(answers.sort_values("theme")["theme"])) == [
        f"theme{number}" for number in range(8)
    ]
    [row] = conditions(answers).to_dict("records")
    assert (row["n"], row["num_questions"], row["num_themes"]) == (24, 24, 8)


OWN = """\
- {id: a, type: free_form_judge_0_100, theme: wish, group: life, paraphrases: ['A?']}
- {id: b, type: free_form_judge_0_100, theme: wish, group: life, paraphrases: ['B?', 'C?']}
- {id: c_json, type: free_form_judge_0_100, paraphrases: ['D?']}
"""


def test_a_question_file_may_name_the_theme(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    samples = load_questions(str(path)).samples
    assert [sample.metadata for sample in samples if sample.metadata] == [
        {"question": "a", "theme": "wish", "format": "plain", "group": "life"},
        *[{"question": "b", "theme": "wish", "format": "plain", "group": "life"}] * 2,
        {"question": "c_json", "theme": "c", "format": "json"},
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("theme: wish", "theme: 3", "theme is 3; make it a text"),
        ("group: life, paraphrases: ['A?']", "paraphrases: ['A?']", "theme 'wish' .*life, none"),
        ("group: life, paraphrases: ['A?']", "group: x, paraphrases: ['A?']", "groups life, x"),
    ],
)
def test_a_wrong_theme_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(QuestionError, match=message):
        load_questions(str(path))


def test_a_frame_without_a_theme_is_refused() -> None:
    """All its answers would be one cluster."""
    with pytest.raises(FrameError, match="theme"):
        check_answers(condition("baseline", 0.1).assign(theme=""))
