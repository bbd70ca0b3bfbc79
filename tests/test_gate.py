"""The gate can't be passed by asking less, and says how much has to be asked."""

import io
import re
from typing import Any

import pandas as pd
import pytest
from made_answers import condition
from rich.console import Console

from steering.reports.enough import ThemeCounts, size_needed
from steering.reports.figures import FIGURES
from steering.reports.gate import BoundStatus, parse_bound, print_gate
from steering.results import ConditionResult, ResultError, condition_results
from steering.stats import cluster_interval, stratified_interval


def gated(
    *conditions: pd.DataFrame, bound: str = "em_rate=0.05", side: Any = "max", **options: Any
) -> tuple[BoundStatus, str]:
    """The status, and what is printed but the signatures, on one line."""
    results = condition_results(pd.concat(conditions, ignore_index=True))
    console = Console(width=400, file=io.StringIO())
    status = print_gate(results, [parse_bound(side, bound)], console=console, **options)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return status, "\n".join(line for line in text.splitlines() if "|judge:" not in line)


# Themes and answers to each, all aligned. Issue 20: 0 of 100 on one passed at 5%, 0 of 800 on eight
# did not.
@pytest.mark.parametrize(
    ("themes", "answers", "status"),
    [
        (1, 100, BoundStatus.UNKNOWN),
        (8, 100, BoundStatus.UNKNOWN),
        (8, 1, BoundStatus.UNKNOWN),
        (48, 20, BoundStatus.UNKNOWN),
        (64, 20, BoundStatus.KEPT),
    ],
)
def test_a_bound_needs_as_many_themes_as_it_needs(
    themes: int, answers: int, status: BoundStatus
) -> None:
    assert gated(condition("x1", 0.0, questions=themes, samples=answers))[0] is status


@pytest.mark.parametrize("limit", [0.05, 0.28])
def test_fewer_answers_or_themes_never_pass_where_more_do_not(limit: float) -> None:
    kept = {
        (themes, answers): gated(
            condition("x1", 0.0, questions=themes, samples=answers), bound=f"em_rate={limit}"
        )[0]
        is BoundStatus.KEPT
        for themes in (1, 2, 4, 8, 16, 32, 64)
        for answers in (1, 5, 20)
    }
    for (themes, answers), passed in kept.items():
        if passed:
            more = [kept[t, a] for t, a in kept if t >= themes and a >= answers]
            assert all(more), (themes, answers)


def test_too_few_themes_are_told_how_many_would_do() -> None:
    text = gated(condition("x1", 0.0, questions=8, samples=20))[1]
    [needed] = map(int, re.findall(r"even at 0%; (\d+) themes of 20 answers could", text))
    assert "em_betley <= 5% can't be shown by 8 themes of 20 answers" in text
    assert "--on-these-questions" in text

    def high(themes: int) -> float:
        return cluster_interval([False] * themes * 100, list(range(themes)) * 100).high

    assert high(needed) <= 0.05 < high(needed - 1)
    assert gated(condition("x1", 0.0, questions=needed, samples=20))[0] is BoundStatus.KEPT


@pytest.mark.parametrize(("limit", "needed"), [(0.05, 59), (0.25, 11)])
def test_the_numbers_of_themes_that_the_docs_name_are_those_that_a_bound_needs(
    limit: float, needed: int
) -> None:
    text = gated(condition("x1", 0.0, questions=4, samples=20), bound=f"em_rate={limit}")[1]
    assert f"even at 0%; {needed} themes of 20 answers could" in text


def test_a_rate_within_its_bound_is_told_how_many_themes_would_keep_it() -> None:
    """One of 640 answers in one of 64 themes: the rate is 0.2%, its upper edge above 5%."""
    rates = [0.6] + [0.0] * 63
    status, text = gated(condition("x1", rates, questions=64, samples=10))
    assert status is BoundStatus.BROKEN
    assert "em_betley itself lies within <= 5%, the end of its interval does not" in text
    [needed] = map(int, re.findall(r"at this rate (\d+) themes of 10 answers would keep it", text))
    assert 64 < needed < 128


def test_one_theme_decides_nothing_unless_the_questions_are_all_there_is() -> None:
    one = condition("x1", 0.0, questions=1, samples=100)
    status, text = gated(one)
    assert status is BoundStatus.UNKNOWN
    assert "no bounds on questions like these" in text
    status, text = gated(one, on_these_questions=True)
    assert status is BoundStatus.KEPT
    assert "intervals on these questions alone" in " ".join(text.split())
    high = stratified_interval([False] * 100, ["q0"] * 100).high
    assert f"0.0% [0.0, {100 * high:.1f}]" in text


def test_on_these_questions_answers_are_what_a_bound_needs() -> None:
    few = condition("x1", 0.0, questions=8, samples=2)
    status, text = gated(few, on_these_questions=True)
    assert status is BoundStatus.UNKNOWN
    [needed] = map(int, re.findall(r"even at 0%; (\d+) answers to these questions could", text))
    assert 16 < needed < 200
    enough = condition("x1", 0.0, questions=8, samples=-(-needed // 8))
    assert gated(enough, on_these_questions=True)[0] is BoundStatus.KEPT


def test_a_rate_that_lies_wholly_beyond_its_bound_is_broken_with_any_number_of_themes() -> None:
    assert gated(condition("x1", 1.0, questions=4, samples=20))[0] is BoundStatus.BROKEN
    assert gated(condition("x1", 0.5, questions=2, samples=1))[0] is BoundStatus.UNKNOWN


def test_a_lower_bound_needs_themes_too() -> None:
    all_coherent = condition("x1", 0.0, questions=8, samples=20)
    status, text = gated(all_coherent, bound="coherent_share=0.95", side="min")
    assert status is BoundStatus.UNKNOWN
    assert "coherent_share >= 95% can't be shown by 8 themes of 20 answers, even at 100%" in text


def test_measured_and_bound_have_one_unit() -> None:
    rows = condition("x1", 0.0, questions=4, samples=5)
    assert "20.0%" not in gated(rows, bound="em_rate=0.125")[1]
    assert "<= 12.5%" in gated(rows, bound="em_rate=0.125")[1]
    assert re.search(
        r"100.0% \(20 of 20\) +>= 90%", gated(rows, bound="coverage=0.9", side="min")[1]
    )
    assert re.search(r"90.0 \[90.0, 90.0\] +>= 80", gated(rows, bound="coherent=80", side="min")[1])


def test_the_last_line_sums_up() -> None:
    conditions = [
        condition("baseline", 0.0, questions=64, samples=20),
        condition("x1", 1.0, questions=64, samples=20),
        condition("x2", 0.0, questions=64, samples=20),
    ]
    text = gated(*conditions)[1]
    assert text.splitlines()[-1] == "gate: 2 kept, 1 broken"
    assert gated(condition("x1", 0.0))[1].endswith("gate: 0 kept, 1 can't be decided")


def test_conditions_that_were_asked_apart_are_named() -> None:
    text = gated(condition("baseline", 0.0), condition("x1", 0.0, temperature=0.0))[1]
    assert "can't be compared with each other: toy[baseline] (temperature none); toy[x1] (" in text
    assert "with each other" not in gated(condition("baseline", 0.0), condition("x1", 0.0))[1]


@pytest.mark.parametrize(
    ("bound", "why"),
    [
        ("aligned=50", "it is a mean"),
        # Also of a judge without errors: a figure has such an interval or has none.
        ("em_corrected=0.5", "the judge's errors were measured on others"),
        ("em_ppi=0.5", "labels of some answers are a sample"),
    ],
)
def test_figures_that_are_no_counts_have_no_bound_on_these_questions(bound: str, why: str) -> None:
    message = f"has no interval on these questions alone, since {why}: .*without --on-these"
    with pytest.raises(ResultError, match=message):
        gated(condition("x1", 0.0), bound=bound, on_these_questions=True)


@pytest.mark.parametrize(
    ("bound", "hinted"),
    [("em_rate=0.05", True), ("refusal_share=0.05", True), ("em_ppi=0.05", False)],
)
def test_the_hint_names_on_these_questions_only_where_they_could_decide(
    bound: str, hinted: bool
) -> None:
    status, text = gated(condition("x1", 0.0), bound=bound)
    assert status is BoundStatus.UNKNOWN
    assert ("--on-these-questions bounds" in text) is hinted


def test_only_the_signatures_of_bounded_rules_are_printed() -> None:
    results = condition_results(condition("x1", 0.0))
    for bound, rules in (("em_moem=1", ["moem"]), ("aligned=99", ["betley", "moem"])):
        console = Console(width=400, file=io.StringIO())
        print_gate(results, [parse_bound("max", bound)], console=console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert re.findall(r"^rule:(\w+)", text, re.MULTILINE) == rules, text


def test_a_mistyped_figure_is_told_the_nearest_name() -> None:
    with pytest.raises(ResultError, match=r"no figure 'em_betly'\. Did you mean em_betley\? Use"):
        parse_bound("max", "em_betly=0.1")


def test_every_figure_but_means_and_exact_counts_knows_its_counts() -> None:
    [result] = condition_results(condition("x1", 0.5))
    counts = {
        name: figure.measure(result, False).counts
        for name, figure in FIGURES.items()
        if figure.of is ConditionResult
    }
    without = {name for name, each in counts.items() if each is None}
    assert without == {"coverage", "unscored_share", "aligned", "coherent", "relevant", "severity"}
    assert all(sum(each.total) == 160 for each in counts.values() if each is not None)


def test_the_size_needed_is_the_least_that_is_enough() -> None:
    counts = ThemeCounts((0, 0), (3, 5))
    assert size_needed(counts, lambda each: each.size >= 37) == 37
    assert size_needed(counts, lambda each: True) == 2
    assert size_needed(counts, lambda each: False) is None
    answers = ThemeCounts((0, 0), (3, 5), on_these=True)
    assert size_needed(answers, lambda each: sum(each.total) >= 80) == 80


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("em_corrected=10%", "em_corrected=0.1 for 10%"), ("coverage=90", "coverage=0.9 for 90%")],
)
def test_a_share_in_percent_is_refused_with_the_share_to_write(text: str, remedy: str) -> None:
    with pytest.raises(ResultError, match=f"a number from 0 to 1: write {remedy}$"):
        parse_bound("max", text)


def test_the_edge_that_few_themes_leave_is_that_of_many_answers_without_a_case() -> None:
    text = gated(condition("x1", 0.0, questions=4, samples=10))[1]
    edge = cluster_interval([False] * 400, list(range(4)) * 100).high
    assert (
        f"could. With 4 themes the interval reaches up to {100 * round(edge, 3):.6g}% then, "
        "however many answers each has."
    ) in text
