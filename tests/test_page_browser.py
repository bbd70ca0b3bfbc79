"""The report in a real browser: no error, no request, filters that work, keys, a narrow screen."""

import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from made_answers import condition, frame
from test_page import HOSTILE

from steering.reports.page import PageContent, write_page
from steering.results import conditions_of
from steering.studies.claims import judge_claims

pytestmark = pytest.mark.browser

FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    answers = frame(
        condition("baseline", 0.0),
        condition("medical x1", 0.6, answer=HOSTILE),
        condition("medical x2", 0.3, magnitude=2.0),
        study="magnitude",
    )
    verdicts = [verdict.row() for verdict in judge_claims(answers) if verdict.num_answers]
    conditions = conditions_of(answers)
    made = PageContent("A study", "", answers, conditions, Path("logs/x"), verdicts)
    folder = tmp_path_factory.mktemp("page")
    return write_page(made, folder)[0]


@pytest.fixture(params=[(1200, 900), (360, 740)], ids=["wide", "narrow"])
def browser(request: pytest.FixtureRequest, page: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    assert chromium, "install chromium for this test"
    assert driver, "install chromedriver for this test"
    width, height = request.param
    options = Options()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    found.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    found.get(page.as_uri())
    yield found
    found.quit()


def _by_id(browser: Any, name: str) -> Any:
    return browser.find_element("id", name)


def _count(browser: Any) -> str:
    return str(_by_id(browser, "count").text)


def test_nothing_fails_nothing_is_fetched_and_every_picture_is_there(browser: Any) -> None:
    assert browser.get_log("browser") == []
    asked = [entry["message"] for entry in browser.get_log("performance")]
    sent = [text for text in asked if '"Network.requestWillBeSent"' in text]
    assert not [text for text in sent if '"url":"http' in text]
    sizes = browser.execute_script(
        "return [...document.images].map((image) => image.naturalWidth * image.naturalHeight)"
    )
    assert len(sizes) == 4
    assert all(size > 0 for size in sizes)


def test_the_page_does_not_scroll_sideways(browser: Any) -> None:
    _by_id(browser, "reveal").click()
    wide, shown = browser.execute_script(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    assert wide <= shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding_and_nothing_is_cut(browser: Any, scheme: str) -> None:
    """axe-core checks contrast, names and roles; pictures and tables scroll in their own box."""
    axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    _by_id(browser, "reveal").click()
    browser.execute_script(axe)
    violations = browser.execute_async_script(
        "const done = arguments[0]; axe.run().then((result) => done(result.violations"
        ".map((each) => [each.impact, each.id, each.nodes.map((node) => node.html)])))"
    )
    assert violations == []
    width = browser.execute_script("return document.documentElement.clientWidth")
    ends = browser.execute_script(
        "return [...document.querySelectorAll('figure, .scroll, p, h2, h3')]"
        ".map((each) => each.getBoundingClientRect().right)"
    )
    assert max(ends) <= width
    ground, filter_of = browser.execute_script(
        "return [getComputedStyle(document.body).backgroundColor, "
        "getComputedStyle(document.querySelector('figure img')).filter]"
    )
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert ("invert" in filter_of) == (scheme == "dark")


def test_answers_show_after_the_warning_and_filters_change_them(browser: Any) -> None:
    from selenium.webdriver.support.ui import Select

    gallery = _by_id(browser, "gallery")
    assert not gallery.is_displayed()
    _by_id(browser, "reveal").click()
    assert gallery.is_displayed()
    assert not _by_id(browser, "warned").is_displayed()
    assert _count(browser) == "9 of 72 examples in 3 conditions"
    Select(_by_id(browser, "question")).select_by_value("")
    assert _count(browser) == "72 of 72 examples in 3 conditions"
    Select(_by_id(browser, "condition")).select_by_visible_text("toy[medical x1]")
    assert _count(browser) == "24 of 72 examples in 1 conditions"
    headings = [found.text for found in browser.find_elements("css selector", "#shown h3")]
    assert headings == ["toy[medical x1]"]
    Select(_by_id(browser, "condition")).select_by_visible_text("toy[baseline]")
    _by_id(browser, "search").send_keys("Q3")
    assert _count(browser) == "3 of 72 examples in 1 conditions"
    _by_id(browser, "search").clear()
    _by_id(browser, "misaligned").click()
    assert _count(browser) == "0 of 72 examples in 0 conditions"


def test_the_worst_answers_of_each_condition_stand_in_their_order(browser: Any) -> None:
    from selenium.webdriver.support.ui import Select

    _by_id(browser, "reveal").click()
    Select(_by_id(browser, "which")).select_by_value("worst")
    assert _count(browser) == "30 of 30 examples in 3 conditions"
    Select(_by_id(browser, "condition")).select_by_visible_text("toy[medical x1]")
    summaries = [each.text for each in browser.find_elements("css selector", "#shown summary")]
    assert len(summaries) == 10
    assert all(summary == "q0: misaligned" for summary in summaries)


def test_hostile_answers_are_shown_as_text(browser: Any) -> None:
    _by_id(browser, "reveal").click()
    quotes = [found.text for found in browser.find_elements("css selector", "blockquote")]
    assert any(text.startswith("</script><img src=x") for text in quotes)
    assert browser.title == "A study"
    assert browser.find_elements("css selector", "#shown img") == []


def test_a_heading_sorts_its_column_and_turns_round(browser: Any) -> None:
    def column() -> list[float]:
        rows = "[...document.querySelectorAll('#table tbody tr')]"
        script = f"return {rows}.map((row) => row.cells[1].dataset.sort)"
        return [float(value) for value in browser.execute_script(script)]

    button = browser.find_elements("css selector", "#table th button")[1]
    browser.execute_script("arguments[0].click()", button)
    assert column() == sorted(column(), reverse=True)
    browser.execute_script("arguments[0].click()", button)
    assert column() == sorted(column())
    head = browser.find_elements("css selector", "#table th")[1]
    assert head.get_attribute("aria-sort") == "ascending"


def test_the_keyboard_reaches_every_control_and_opens_an_answer(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def press(key: str) -> str:
        browser.switch_to.active_element.send_keys(key)
        focused = browser.switch_to.active_element
        return str(focused.get_attribute("id") or focused.tag_name)

    reached: list[str] = []
    while "reveal" not in reached and len(reached) < 60:
        reached.append(press(Keys.TAB))
    assert reached[-1] == "reveal"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "which"
    controls = ["question", "condition", "search", "misaligned", "summary"]
    assert [press(Keys.TAB) for _ in controls] == controls
    details = browser.find_element("css selector", "#shown details")
    before = details.get_attribute("open")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert details.get_attribute("open") != before
