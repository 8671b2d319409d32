"""Slides stand alone: no request, no script, the figures and numbers of the book, both decks."""

import itertools
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output

from mmlib.book.chapters import ChapterError, Project
from mmlib.book.slides import DECKS, deck, write_slides

ROOT = Path(__file__).parents[2]
MIME = "application/papermill.record/"
PROJECTOR = {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False}


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    return {path.stem.removeprefix("slides-"): path for path in write_slides(Project(ROOT), out)}


@pytest.fixture
def book(tmp_path):
    """A folder with one executed chapter that shows a number, a word and a figure."""
    shown = {"share": ("plain", "0.25"), "told": ("plain", "'yes'")}
    shown["fig-one"] = ("html", "<div class='mm-figure'><svg></svg></div>")
    cells = [
        new_code_cell(outputs=[
            new_output("display_data", {f"{MIME}text/{kind}": text},
                       metadata={"scrapbook": {"name": name, "mime_prefix": MIME}})
        ])
        for name, (kind, text) in shown.items()
    ]  # fmt: skip
    (tmp_path / "chapters").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "chapters" / "01_one.ipynb")
    return tmp_path


TEXT = """\
# One

{glue:text}`chapters/01_one.ipynb::share:.0%` and {glue:text}`chapters/01_one.ipynb::told:s`
---
<!-- half-day -->
![](chapters/01_one.ipynb::fig-one)
---
## Three
"""


def test_numbers_and_figures_are_those_of_the_chapters(book):
    soup = BeautifulSoup(deck(TEXT, "half-day", "half a day", book), "lxml")
    first, second, third = soup.find_all("section")
    assert first.p.get_text() == "25% and yes"
    assert second.select_one("div.mm-figure > svg") is not None
    assert third.h2.get_text() == "Three"
    ninety = BeautifulSoup(deck(TEXT, "ninety", "90 minutes", book), "lxml")
    assert len(ninety.find_all("section")) == 2


@pytest.mark.parametrize("gone", ["share", "fig-one", "01_one.ipynb"])
def test_what_no_chapter_shows_is_refused_by_name(gone, book):
    with pytest.raises(ChapterError, match="nothing"):
        deck(TEXT.replace(gone, "nothing"), "half-day", "half a day", book)


@pytest.mark.parametrize("name", DECKS)
def test_a_deck_is_one_file_without_a_request(name, decks):
    text = decks[name].read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", text)
    soup = BeautifulSoup(text, "lxml")
    sections = soup.find_all("section")
    assert 8 <= len(sections) <= 30
    assert len(soup.select(".mm-figure")) >= 4
    assert "{glue:" not in text
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in soup.find_all("svg"))


def test_the_plan_of_a_deck_is_that_of_the_notes(decks):
    """Minutes on the slides are those of the page for instructors."""
    notes = (ROOT / "book" / "teach.md").read_text(encoding="utf-8")
    for name, heading in (("ninety", "## Ninety minutes"), ("half-day", "## Half a day")):
        table = BeautifulSoup(decks[name].read_text(encoding="utf-8"), "lxml").find("table")
        shown = re.findall(r"(\d+)–(\d+)", table.get_text())
        told = re.findall(r"^\| (\d+)–(\d+) \|", notes.split(heading)[1].split("\n###")[0], re.M)
        assert shown[-len(told) + 1 :] == told[1:], name
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(shown))


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1300, "light")])
def test_slides_fit_and_the_keyboard_leads_through_them(width, theme, decks, browser):
    browser.look(width, theme)
    browser.open(decks["half-day"])
    assert browser.run("document.documentElement.scrollWidth") <= width
    places = []
    for _ in range(3):
        browser.press("PageDown")
        browser.run("new Promise(done => setTimeout(done, 600))")
        places.append(browser.run("scrollY"))
    assert 0 < places[0] < places[1] < places[2]
    tops = browser.run("[...document.querySelectorAll('section')].map(e => e.offsetTop)")
    if width > 1000:
        assert all(min(abs(place - top) for top in tops) <= 2 for place in places)
    urls = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("name", DECKS)
def test_a_slide_fits_a_projector_and_its_figure_is_large(name, decks, browser):
    browser.open(decks[name])
    browser.call("Emulation.setDeviceMetricsOverride", **PROJECTOR)
    heights = browser.run("[...document.querySelectorAll('section')].map(e => e.offsetHeight)")
    assert set(heights) == {PROJECTOR["height"]}
    panels = "[...document.querySelectorAll('.mm-figure svg[role=img]')]"
    sizes = browser.run(f"{panels}.map(e => e.clientWidth).filter(Boolean)")
    assert min(sizes) > 0.25 * PROJECTOR["width"]
