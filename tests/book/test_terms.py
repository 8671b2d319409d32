"""Terms say what they mean on the page where they stand, by pointer, keyboard and finger."""

import re

import pytest
from browsers import SETTLED
from bs4 import BeautifulSoup
from test_pages import PAGES

from mmlib.book.terms import EVERYDAY, GLOSSARY, MOST

CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]


@pytest.fixture(scope="session")
def entries(built):
    """Anchor -> term and meaning, as the page of the glossary shows them."""
    page = BeautifulSoup((built / f"{GLOSSARY}.html").read_text(encoding="utf-8"), "lxml")
    found = {}
    for term in page.select("dl.glossary > dt"):
        meaning = re.sub(r"\\[()]", "", term.find_next_sibling("dd").get_text())  # of formulas
        found[term["id"]] = term.find(string=True).strip(), " ".join(meaning.split())
    return found


def terms(built, page):
    """Anchor, word and meaning of every linked term of a page."""
    soup = BeautifulSoup((built / f"{page}.html").read_text(encoding="utf-8"), "lxml")
    for term in soup.select("article .mm-term"):
        told = term.find(id=term.a["aria-describedby"])
        path, _, anchor = term.a["href"].partition("#")
        assert (built / page).parent.joinpath(path).resolve() == (built / f"{GLOSSARY}.html")
        yield anchor, term.a.get_text(), " ".join(told.get_text().split())


@pytest.mark.parametrize("page", PAGES)
def test_every_term_is_known_and_stands_once(page, built, entries):
    found = list(terms(built, page))
    assert len({anchor for anchor, *_ in found}) == len(found) <= MOST
    for anchor, word, meaning in found:
        name, told = entries[anchor]
        one = word.lower().removesuffix("s")
        assert one == name.lower().removesuffix("s")
        assert meaning == told
        assert one not in EVERYDAY
    assert found or page in (GLOSSARY, "api") or page not in CHAPTERS


def test_chapters_have_about_ten_terms(built):
    numbers = {page: len(list(terms(built, page))) for page in CHAPTERS}
    assert min(numbers.values()) >= 4, numbers
    assert sum(numbers.values()) / len(numbers) >= 8, numbers


# Whether the meaning of the term in focus is there, and nothing cuts or covers it.
SHOWN = """(() => { const e = document.activeElement.parentElement.querySelector('[role=tooltip]');
  const box = e?.getBoundingClientRect();
  const points = box && [[box.left + 4, box.top + 4], [box.right - 4, box.bottom - 4]];
  return Boolean(e?.checkVisibility()) && box.left >= 0 && box.right <= innerWidth
    && points.every(([x, y]) => e.contains(document.elementFromPoint(x, y))); })()"""


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1300, "light")])
def test_a_term_opens_for_the_keyboard_and_closes_with_escape(width, theme, built, browser):
    browser.look(width, theme)
    browser.open(built / "chapters/04_overlap.html")
    browser.run(SETTLED % (theme, width))
    number = browser.run("document.querySelectorAll('.mm-term').length")
    for place in range(number):
        term = f"document.querySelectorAll('.mm-term > a')[{place}]"
        if browser.run(f"{term}.checkVisibility()"):
            browser.run(f"{term}.focus()")
            assert browser.run(SHOWN), place
        assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelector('.mm-term > a').focus()")
    assert browser.run(SHOWN)
    browser.press("Escape")
    assert not browser.run(SHOWN)
    browser.run("document.activeElement.blur(); document.querySelector('.mm-term > a').focus()")
    assert browser.run(SHOWN)


def test_a_finger_opens_a_term_before_it_follows_it(built, browser):
    browser.look(390, "light")
    browser.open(built / "chapters/04_overlap.html")
    browser.run(SETTLED % ("light", 390))
    browser.run("document.querySelector('.mm-term > a').scrollIntoView({block: 'center'})")
    tap = """(() => { const a = document.querySelector('.mm-term > a');
      a.dispatchEvent(new PointerEvent('pointerdown', {bubbles: true, pointerType: 'touch'}));
      return !a.dispatchEvent(new PointerEvent('click',
        {bubbles: true, cancelable: true, pointerType: 'touch'})); })()"""
    assert browser.run(tap)
    assert browser.run(SHOWN)
