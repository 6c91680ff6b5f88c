"""The page in headless Chromium: widths, themes, keyboard, contrast, print. It asks for nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slimgpt_bench.report.job import make_report
from slimgpt_bench.results import save
from tests import result_samples as samples

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *(
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
    ),
    *("--disable-component-update", "--no-first-run", "--mute-audio"),
]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
THEMES = ("light", "dark")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]

Open = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of everything, some of it wrong."""
    folder = tmp_path_factory.mktemp("report")
    busy, requests = samples.load()
    busy["levels"][4] |= {"valid": False, "problems": ["the client was saturated"]}
    documents = {
        "compare": (samples.compare(), None),
        "latency": (samples.latency(problems=["not steady"]), None),
        "load": (busy, requests),
        "load-dense": samples.load(6.5, samples.artefact()),
        "capacity": (samples.capacity(), None),
        "quality": (samples.judged(valid=False, problems=["x" * 300]), None),
    }
    for name, (document, records) in documents.items():
        save(folder / name, document, records)
    (folder / "pruned").mkdir()
    (folder / "pruned" / "slimgpt.json").write_text(json.dumps(samples.manifest()))
    make_report([folder / name for name in (*documents, "pruned")], folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    os.environ.setdefault("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
    with playwright.sync_playwright() as running:
        made = running.chromium.launch(executable_path=found, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Open]:
    """Opens the page in a size and a theme; fails afterwards on what it said or asked for."""
    said: list[str] = []
    contexts = []

    def open_in(size: str, theme: str) -> Any:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda asked: said.append(asked.url))
        page.goto(page_file.as_uri())
        return page

    yield open_in
    for context in contexts:
        context.close()
    assert [x for x in said if x != page_file.as_uri() and not x.startswith("data:")] == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_screen(opened, size, theme):
    page = opened(size, theme)
    width = SIZES[size][0]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("document.querySelectorAll('details').forEach(x => x.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = """
        [...document.querySelectorAll('body *')].filter(x =>
            !x.closest('.scroll') && !x.classList.contains('skip') && !x.closest('svg')
            && x.getBoundingClientRect().right > innerWidth + 1).length
    """
    assert page.evaluate(outside) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "theme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")]
)
def test_the_accessibility_linter_has_nothing_to_say(opened, size, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    page = opened(size, theme)
    page.locator("details > summary").first.click()  # all folds have the same parts
    options = {"runOnly": {"type": "tag", "values": RULES}}
    found = axe.Axe().run(page, options=options).response
    told = [(x["id"], x["nodes"][0]["html"][:200]) for x in found["violations"]]
    assert told == []
    assert "color-contrast" in {x["id"] for x in found["passes"]}


def test_drawings_have_enough_contrast_in_both_themes(opened):
    """WCAG 1.4.11: marks that carry meaning, 3 to 1 on the page; axe does not look at them."""
    ask = """
        () => { const at = getComputedStyle(document.documentElement);
        return ['--paper','--plain','--s1','--s2','--s3','--s4','--s5','--good','--bad','--unsure']
            .map(x => at.getPropertyValue(x).trim()); }
    """
    for theme in THEMES:
        paper, *marks = opened("desktop", theme).evaluate(ask)
        assert min(_contrast(paper, mark) for mark in marks) >= 4.5


def _contrast(one: str, other: str) -> float:
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    values = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_link_fold_and_table_is_reached_by_keyboard_in_reading_order(opened):
    page = opened("desktop", "light")
    folds = page.locator("details > summary").count()
    places, kinds = [], []
    focus = """
        () => { const x = document.activeElement; x.scrollIntoView();
        return [x.tagName, x.getBoundingClientRect().top + scrollY,
                getComputedStyle(x).outlineStyle, x.getAttribute('href')]; }
    """
    page.evaluate("window.scrollTo({top: 0, behavior: 'instant'})")
    for _ in range(400):
        page.keyboard.press("Tab")
        tag, top, outline, link = page.evaluate(focus)
        if tag == "BODY":
            break
        if link != "#verdict":
            places.append(top)
        kinds.append(tag)
        assert outline != "none"
    assert places == sorted(places)
    assert kinds.count("SUMMARY") == folds
    visible = page.locator(".scroll").evaluate_all(
        "all => all.filter(x => !x.closest('details')).length"
    )
    assert kinds.count("DIV") == visible
    assert kinds.count("A") == page.locator("a").count()


def test_a_fold_opens_by_keyboard_and_a_link_leads_to_its_section(opened):
    page = opened("phone", "dark")
    page.locator("details > summary").first.press("Enter")
    assert page.locator("details").first.evaluate("x => x.open")
    page.locator("nav a", has_text="Capacity").press("Enter")
    place = "document.querySelector('#capacity').getBoundingClientRect().top"
    for _ in range(100):
        if abs(page.evaluate(place)) < 5:
            break
        page.wait_for_timeout(50)
    assert page.evaluate("location.hash") == "#capacity"
    assert abs(page.evaluate(place)) < 5


def test_it_prints_on_paper_in_dark_ink_from_either_theme(opened):
    for theme in THEMES:
        page = opened("desktop", theme)
        page.emulate_media(media="print")
        shown = page.evaluate(
            "(({backgroundColor, color}) => [backgroundColor, color])"
            "(getComputedStyle(document.body))"
        )
        assert shown == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
        made = page.pdf(format="A4")
        assert made.startswith(b"%PDF")
        assert 4 <= made.count(b"/Type /Page\n") <= 40


def test_text_is_readable_on_a_phone(opened):
    """Drawings shrink with the screen; their text stays above ten pixels."""
    page = opened("phone", "light")
    ask = """
        [...document.querySelectorAll('figure svg')].map(x =>
            parseFloat(getComputedStyle(x.querySelector('text')).fontSize)
            * x.getBoundingClientRect().width / x.viewBox.baseVal.width)
    """
    assert min(page.evaluate(ask)) > 10
