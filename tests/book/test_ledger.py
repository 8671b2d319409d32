"""The ledger in a browser: filtered by keyboard, linked to, and whole without a script."""

import pandas as pd
import pytest
from browsers import ROOT
from bs4 import BeautifulSoup

PAGE = "chapters/00_at_a_glance.html"
SHOWN = "[...document.querySelectorAll('.mm-ledger tbody tr')].filter(r => r.checkVisibility())"
IDS = f"{SHOWN}.map(r => r.id.slice(6))"
STATUS = "document.querySelector('.mm-ledger').previousElementSibling.textContent"


@pytest.fixture(scope="module")
def claims():
    return pd.read_csv(ROOT / "book" / "results" / "ledger.csv").set_index("id")


def quiet(browser):
    entries = [event["entry"] for event in browser.seen("Log.entryAdded")]
    errors = [entry["text"] for entry in entries if entry["level"] == "error"]
    return browser.seen("Runtime.exceptionThrown") == errors == []


@pytest.mark.parametrize("width", [390, 1300])
def test_a_reader_filters_by_keyboard(built, browser, claims, width):
    browser.look(width, "light")
    browser.open(built / PAGE)
    assert browser.run(IDS) == list(claims.index)
    unnamed = "[...document.querySelectorAll('.mm-filter select')].filter(e => !e.labels.length)"
    assert browser.run(f"{unnamed}.length") == 0
    browser.run("document.querySelector('.mm-filter select').focus()")
    browser.press("ArrowDown")
    assert browser.run(IDS) == list(claims.index[claims.paper == claims.paper.iloc[0]])
    browser.press("Tab")
    browser.press("Tab")
    assert browser.run("document.activeElement.name") == "column"
    assert browser.run("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    browser.run("document.querySelector('.mm-filter').reset()")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert browser.run(IDS) == list(claims.index)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert quiet(browser)


def test_an_address_says_what_is_shown(built, browser, claims):
    browser.look(1300, "dark")
    browser.open(built / "index.html")
    browser.open(built / PAGE, "#verdict=undecided&column=organism")
    undecided = list(claims.index[claims.organism == "undecided"])
    assert browser.run(IDS) == undecided
    assert browser.run(STATUS) == f"{len(undecided)} of {len(claims)} claims are shown."
    browser.run("location.hash = '#verdict=no'")
    browser.run("new Promise(done => setTimeout(done, 50))")
    verdicts = claims[["published_data", "real_llm", "organism"]]
    assert browser.run(IDS) == list(claims.index[(verdicts == "no").any(axis=1)])
    # a link to one claim shows it, whatever was filtered before
    browser.run("location.hash = '#claim-L3'")
    browser.run("new Promise(done => setTimeout(done, 50))")
    assert browser.run(IDS) == list(claims.index)
    top = browser.run("document.getElementById('claim-L3').getBoundingClientRect().top")
    assert 0 <= top < 900
    assert quiet(browser)


def test_without_a_script_the_ledger_is_whole(built, claims):
    soup = BeautifulSoup((built / PAGE).read_text(encoding="utf-8"), "lxml")
    rows = soup.select(".mm-ledger tbody tr")
    assert [row["id"] for row in rows] == [f"claim-{claim}" for claim in claims.index]
    assert all(row.select("details dl") and not row.has_attr("hidden") for row in rows)
    figures = [row for row in rows if row.select('a[href*="#fig-"]')]
    assert len(figures) > 0.7 * len(rows)
    assert not soup.select(".mm-filter")
