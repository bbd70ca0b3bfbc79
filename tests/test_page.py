"""The report's page and Markdown: self-contained, the frame's figures, answers that do no harm."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_answers import condition, frame

from steering.errors import SteeringError
from steering.reports.page import PageContent, headline_of, write_page
from steering.results import conditions_of
from steering.results.worst import worst_answers
from steering.studies.claims import judge_claims

HOSTILE = "</script><img src=x onerror=document.title='caught'><b>bold</b> & \u2028 <!--"


class _Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1] == "script":
            self.scripts[-1] += data
        elif not self._in or self._in[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    made = [
        condition("baseline", 0.0),
        condition("medical x1", 0.6, answer=HOSTILE),
        condition("medical x2", 0.3, magnitude=2.0, coherent=40.0),
    ]
    return frame(*made, study="magnitude")


def _report(answers: pd.DataFrame, **changed: Any) -> PageContent:
    told: dict[str, Any] = {
        "title": "A study of <toys>",
        "headline": "",
        "answers": answers,
        "conditions": conditions_of(answers),
        "logs": Path("logs/studies/magnitude"),
        "verdicts": [v.row() for v in judge_claims(answers) if v.num_answers],
    }
    return PageContent(**(told | changed))


@pytest.fixture(scope="module")
def folder(answers: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("report")
    written = write_page(_report(answers), made)
    assert [path.name for path in written] == ["index.html", "report.md"]
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> _Page:
    return _Page((folder / "index.html").read_text(encoding="utf-8"))


def test_the_page_loads_nothing(page: _Page) -> None:
    loaded = [
        (tag, name, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "poster", "data", "action") and value
    ]
    assert all(value.startswith(("data:", "#")) for _, _, value in loaded)
    assert not page.all("iframe") + page.all("object") + page.all("base")
    assert len(page.all("link")) == 1


def test_every_picture_says_what_it_shows(page: _Page, folder: Path) -> None:
    images = page.all("img")
    assert len(images) == 4
    assert all(image["alt"] and len(image["alt"]) > 40 for image in images)
    assert len(list((folder / "pictures").glob("*.png"))) == 4
    assert len(list((folder / "pictures").glob("*.svg"))) == 4


def test_what_a_model_says_is_data_and_never_markup(page: _Page) -> None:
    assert not page.all("b") or all("onerror" not in attributes for attributes in page.all("b"))
    assert not [image for image in page.all("img") if image.get("src") == "x"]
    assert "caught" not in "".join(page.words)
    examples = json.loads(page.scripts[0])
    assert HOSTILE in {example["answer"] for example in examples}
    assert "<" not in page.scripts[0]
    assert "A study of <toys>" in "".join(page.words)


def test_examples_are_the_first_of_each_question_and_condition(
    page: _Page, answers: pd.DataFrame
) -> None:
    examples = [e for e in json.loads(page.scripts[0]) if e["first"]]
    assert len(examples) == 3 * 8 * 3
    first = [e for e in examples if (e["condition"], e["question"]) == ("toy[medical x1]", "q0")]
    expected = answers[(answers["condition"] == "medical x1") & (answers["question"] == "q0")]
    expected = expected.sort_values(["sample", "epoch"]).head(3)
    assert [e["misaligned"] for e in first] == (expected["em_moem"] == 1).tolist()
    assert [e["scores"]["aligned"] for e in first] == expected["aligned"].tolist()


def test_the_worst_of_each_condition_are_the_least_aligned_that_count(tmp_path: Path) -> None:
    answers = frame(condition("baseline", 0.0), condition("medical x1", 0.6), study="magnitude")
    steered = answers.index[answers["condition"] == "medical x1"]
    # Noise scores lower than harm, and does not count; severity tells harm from harm.
    answers.loc[steered[0], ["aligned", "coherent", "em_betley"]] = [0.0, 10.0, math.nan]
    answers.loc[steered[27], ["aligned", "coherent"]] = [1.0, 60.0]
    answers.loc[steered[45], "severity"] = 70.0
    expected = [answers.loc[steered[place], "sample"] for place in (27, 45, 1, 10)]

    table = worst_answers(answers, 4)
    assert table["sample"].tolist() == expected
    assert table["aligned"].tolist() == [1.0, 5.0, 5.0, 5.0]
    baseline = answers[answers["condition"] == "baseline"]
    assert worst_answers(baseline, 2)["sample"].tolist() == ["q0/0", "q0/1"]
    with pytest.raises(SteeringError, match="0 worst answers are none: ask for 1 or more"):
        worst_answers(answers, 0)

    [page, _] = write_page(_report(answers), tmp_path)
    examples = json.loads(_Page(page.read_text(encoding="utf-8")).scripts[0])
    worst = sorted((e for e in examples if e["worst"]), key=lambda e: (e["condition"], e["worst"]))
    assert [e["worst"] for e in worst] == [*range(1, 11)] * 2
    assert [e["question"] for e in worst if e["condition"] == "toy[medical x1]"][:2] == ["q1", "q2"]
    # The place of an answer among the worst changes nothing in the first of each question.
    assert [e["first"] for e in examples].count(True) == 2 * 8 * 3


def test_controls_have_labels_and_the_warning_comes_first(page: _Page) -> None:
    names = [attributes["id"] for attributes in page.all("select")]
    assert names == ["which", "question", "condition"]
    assert {attributes["type"] for attributes in page.all("button")} == {"button"}
    assert len(page.all("label")) == 5
    hidden = [attributes for attributes in page.all("div") if attributes.get("id") == "gallery"]
    assert "hidden" in hidden[0]


def test_the_page_and_the_markdown_have_the_figures_of_the_frame(
    page: _Page, folder: Path, answers: pd.DataFrame
) -> None:
    words = " ".join("".join(page.words).split())
    text = (folder / "report.md").read_text(encoding="utf-8")
    row = conditions_of(answers).set_index("condition").loc["medical x1"]
    rate = f"{100 * row['em_moem']:.0f}% [{100 * row['em_moem_low']:.0f}, "
    for told in (words, text):
        assert rate in told
        assert "toy[medical x1]" in told
        assert "supported" in told or "not decided" in told
        assert "480 answers to 8 questions (core@0123456789ab)" in told
        assert "inspect view --log-dir logs/studies/magnitude" in told
    for match in re.findall(r"\]\((pictures/[^)]+)\)", text):
        assert (folder / match).is_file()


def test_the_headline_is_what_is_certainly_most_misaligned(answers: pd.DataFrame) -> None:
    line = headline_of(conditions_of(answers))
    assert line.startswith(
        "toy[medical x1] has the highest lower bound of all conditions but baselines: 60% ["
    )
    assert "unsteered 0.0% [0," in line
    # The table shows a higher rate, of fewer answers: the headline says so too.
    few = condition("medical x4", 0.9, magnitude=4.0, questions=2, samples=10)
    assert headline_of(conditions_of(frame(answers, few))).startswith(line[:-1])
    assert "The highest rate, with more doubt, is that of toy[medical x4]: 90% [" in headline_of(
        conditions_of(frame(answers, few))
    )
    assert "highest rate" not in line
    only = conditions_of(answers[answers["condition"] == "baseline"])
    assert headline_of(only) == "No condition beside the baseline has a rate with bounds."


def test_a_headline_that_is_given_is_kept(answers: pd.DataFrame, tmp_path: Path) -> None:
    write_page(_report(answers, headline="Broad misalignment found.", verdicts=()), tmp_path)
    text = (tmp_path / "report.md").read_text()
    heading, rule = re.findall(r"^\|.* condition \|.*\n\|[-|]+$", text, re.MULTILINE)[0].split("\n")
    assert heading.count("|") == rule.count("|")
    assert "**Broad misalignment found.**" in text
    assert "claims" not in text


@pytest.mark.long
def test_many_conditions_give_a_page_that_still_opens(tmp_path: Path) -> None:
    made = [condition(f"c{n}", 0.5, questions=48, samples=2, answer="x" * 900) for n in range(120)]
    write_page(_report(frame(*made, study=""), verdicts=()), tmp_path)
    assert (tmp_path / "index.html").stat().st_size < 5_000_000


def test_the_headline_compares_with_the_baseline_that_was_asked_alike() -> None:
    colder = condition("baseline (temperature 0)", 0.5, arm="baseline", temperature=0.0)
    warm = frame(condition("baseline", 0.0), condition("x1", 1.0)).assign(temperature=1.0)
    conditions = conditions_of(frame(colder, warm))
    assert headline_of(conditions).endswith("unsteered 0.0% [0, 28].")


def test_the_headline_ranks_no_conditions_without_a_misaligned_answer() -> None:
    conditions = conditions_of(frame(condition("baseline", 0.0), condition("x1", 0.0)))
    line = "No coherent answer of any condition is misaligned (rule betley); "
    assert headline_of(conditions) == f"{line}the 95% intervals reach 28%."


def test_a_condition_without_bounds_is_no_condition_without_misaligned_answers() -> None:
    one_theme = condition("x2", 1.0, questions=1)
    line = headline_of(conditions_of(frame(condition("x1", 0.0), one_theme)))
    assert "No coherent answer" not in line
    assert line.endswith("with more doubt, is that of toy[x2]: 100% [-, -].")


def test_the_headline_says_what_it_leaves_out_where_nothing_is_misaligned() -> None:
    asked = frame(condition("baseline", 0.5), condition("x1", 0.0))
    line = headline_of(conditions_of(asked))
    assert line.startswith("No coherent answer of a condition beside the baseline is misaligned")
    line = headline_of(conditions_of(asked.assign(contexts="medical@1[json]")))
    assert line.startswith("No coherent answer to a plain question of a condition beside")
