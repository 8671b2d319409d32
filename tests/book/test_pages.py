"""The book as it is read: it builds without a warning, offline, on a phone and in the dark."""

import ast
import json
import os
import re
import shlex
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browsers import SETTLED
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
TOC = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
PROSE = [*sorted(BOOK.glob("*.md")), ROOT / "README.md"]
LOOKS = [(390, "dark"), (1300, "light")]
"""What does not fit depends on the width alone, and colours on the theme alone."""


def markdown(page):
    """All Markdown of a page of the book."""
    if (BOOK / f"{page}.md").exists():
        return (BOOK / f"{page}.md").read_text(encoding="utf-8")
    cells = json.loads((BOOK / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


# --- sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_contents_exists_once(page):
    assert (BOOK / f"{page}.md").exists() != (BOOK / f"{page}.ipynb").exists()


def test_every_prose_page_is_in_the_contents():
    assert {path.stem for path in BOOK.glob("*.md")} <= set(PAGES)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("chapters/")])
def test_launch_buttons_open_the_source_of_the_chapter(page):
    assert CONFIG["repository"]["path_to_book"] == "notebooks"
    assert (ROOT / "notebooks" / f"{page}.ipynb").exists()


def test_the_book_executes_nothing():
    assert CONFIG["execute"]["execute_notebooks"] == "off"


@pytest.mark.parametrize("page", PAGES)
def test_citations_are_in_the_bibliography(page):
    known = set(re.findall(r"@\w+\{([^,]+),", (BOOK / "references.bib").read_text()))
    cited = re.findall(r"\{cite[^}]*\}`([^`]+)`", markdown(page))
    assert {key.strip() for keys in cited for key in keys.split(",")} <= known


@pytest.mark.parametrize("page", PAGES)
def test_headings_go_down_one_step_at_a_time(page):
    text = re.sub(r"^(`{3,}|:{3,}).*?^\1", "", markdown(page), flags=re.M | re.S)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def mmlib_commands():
    """Every `python -m mmlib …` of the prose, with shell variables and comments taken out."""
    for path in (path for path in PROSE if path.stem != "api"):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.S)
        inline = re.findall(r"`(python -m mmlib [^`]+)`", text)
        for line in (*"\n".join(blocks).splitlines(), *inline):
            if "python -m mmlib " in line and " | " not in line:
                yield pytest.param(
                    line.split("python -m mmlib ")[1], id=f"{path.stem}: {line}"[:70]
                )


@pytest.mark.parametrize("command", mmlib_commands())
def test_commands_in_the_prose_are_accepted(command):
    from mmlib.__main__ import parser
    from mmlib.book.chapters import Project, resolve

    words = shlex.split(command.replace("CHAPTER", "04_overlap"), comments=True)
    arguments = parser().parse_args(words)
    project = Project(ROOT)
    for name in getattr(arguments, "chapter", None) or []:
        if arguments.command == "run":
            given = dict(text.split("=", 1) for text in arguments.given)
            resolve(project, project.chapter(name).name, given)


def test_names_in_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                assert {alias.name for alias in node.names} <= set(dir(import_module(node.module)))
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_gotchas_quote_messages_that_the_package_has():
    code = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "mmlib").rglob("*.py")))
    # string literals broken over lines are one message; a field of an f-string stands for "…"
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    sections = (BOOK / "gotchas.md").read_text(encoding="utf-8").split("\n## ")
    for section in sections[1:-1]:  # the last is about building, which is not ours
        for message in re.findall(r"^### (.+)", section, re.M):
            parts = [part.strip() for part in message.split("…") if part.strip()]
            found = re.search(r"[^\n]*".join(map(re.escape, parts)), code)
            assert found, f"no message of mmlib reads {message!r}"


def test_versions_agree():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == version
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {version} ({citation['date-released']})" in changes
    assert (BOOK / "errata.md").exists()
    assert "(book/errata.md)" in changes


# --- the built pages ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def soup(built):
    """A function from a page to its parsed HTML."""
    parsed = {}

    def parse(page):
        if page not in parsed:
            text = (built / f"{page}.html").read_text(encoding="utf-8")
            parsed[page] = BeautifulSoup(text, "lxml")
        return parsed[page]

    return parse


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_elsewhere(page, soup, built):
    here = (built / page).parent
    loaded = [(tag, tag.get("src")) for tag in soup(page).select("[src]")]
    loaded += [(tag, tag.get("href")) for tag in soup(page).select("head link[href]")]
    for tag, target in loaded:
        if set(tag.get("rel") or []) & {"canonical", "next", "prev", "search", "index", "author"}:
            continue
        url = urlsplit(target)
        assert url.scheme in ("", "data"), f"{tag.name} {target}"
        assert not url.netloc, f"{tag.name} {target}"
        if url.path and not url.scheme:
            assert (here / unquote(url.path)).exists(), target
    for script in soup(page).find_all("script", src=False):
        assert not re.search(r"import\s[^;]*https?://|src\s*=\s*[\"']https?://", script.text)


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_has_words(page, soup):
    for image in soup(page).find_all("img"):
        assert image.get("alt", "").strip() or "logo" in str(image.get("class")), image
        assert image.get("alt") != image.get("src")
    for svg in soup(page).find_all("svg"):
        assert svg.get("aria-label") or svg.get("aria-hidden") == "true", str(svg)[:200]


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_book_lead_somewhere(page, soup, built):
    for link in soup(page).select("main a[href], nav a[href]"):
        url = urlsplit(link["href"])
        if url.scheme or url.netloc:
            assert url.scheme in ("https", "mailto", "javascript"), link["href"]
            continue
        target = (built / page).parent / unquote(url.path) if url.path else built / f"{page}.html"
        assert target.exists(), link["href"]
        if url.fragment and target.suffix == ".html":
            other = soup(str(target.resolve().relative_to(built.resolve()).with_suffix("")))
            assert other.find(id=unquote(url.fragment)), link["href"]


@pytest.mark.parametrize("page", PAGES)
def test_no_page_shows_an_error_or_an_unfinished_number(page, soup):
    article = soup(page).select_one("article")
    assert not article.select(".output.traceback, .output.stderr")
    words = article.get_text(" ")
    assert not re.search(r"np\.(float|int)\d*\(|\bnan\b", words)
    assert "{glue:" not in words


def test_the_readme_has_the_findings_of_the_index(soup):
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## What came out")[1]
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text.split("\n\n")[1].replace("**", ""))
    told = [" ".join(item.split()) for item in re.split(r"^\d+\. ", text, flags=re.M)[1:]]
    for meaning in soup("index").select(".mm-term > [role=tooltip]"):
        meaning.extract()  # no part of the sentence
    shown = soup("index").select_one("article ol").find_all("li", recursive=False)
    assert told == [" ".join(item.get_text().split()) for item in shown]


def test_our_ids_are_unique_on_a_page(soup):
    for page in PAGES:
        figures = soup(page).select(".mm-figure [id]")
        ids = [tag["id"] for tag in figures]
        assert len(ids) == len(set(ids)), page


# --- the pages in a browser ---------------------------------------------------------------------


# Contrast of our own text with the first opaque background behind it (WCAG 2 formula).
CONTRAST = """
(() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = numbers(c).slice(0, 3).map(v => {
    v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor, n = numbers(c);
    if (n.length < 4 || n[3] > .99) return c; } return 'rgb(255, 255, 255)'; };
  const bad = [];
  for (const e of document.querySelectorAll(
      '.mm-figure text, .mm-figure li, .mm-badge, .mm-ledger td, .mm-ledger th, .mm-ledger small,' +
      '.mm-ledger caption, .mm-provenance dt, .mm-provenance dd, ' +
      '#mm-explorer :is(th, td, caption, legend, label, p)')) {
    const style = getComputedStyle(e), ink = e.tagName == 'text' ? style.fill : style.color;
    if (e.tagName == 'text' && ink != getComputedStyle(e.ownerSVGElement).color) continue;
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5)
      bad.push(`${e.textContent.slice(0, 40)}: ${ink} on ${behind(e)}`);
  }
  return bad.slice(0, 5);
})()
"""
# What is wider than the page and not inside a box that scrolls.
WIDE = """
[...document.querySelectorAll('main *')].filter(e => {
  if (e.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let p = e; p && p.tagName != 'MAIN'; p = p.parentElement)
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(p).overflowX)) return false;
  return true; }).slice(0, 3).map(e => e.outerHTML.slice(0, 120))
"""
# How large the smallest text of a figure is on the screen, in pixels.
SMALLEST = """
Math.min(99, ...[...document.querySelectorAll('.mm-figure text')].filter(e =>
  e.checkVisibility({contentVisibilityAuto: true})).map(e =>
  parseFloat(getComputedStyle(e).fontSize) * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b)))
"""
# Where the first figure of a page begins at the last width, in pixels from the top; 0 without one.
FIRST = """
Math.max(0, ...[...document.querySelectorAll('.mm-figure')].slice(0, 1).map(e =>
  e.getBoundingClientRect().top + scrollY))
"""
# Words of a figure that are cut off, and panels that are higher than a screen.
CLIPPED = """
[...document.querySelectorAll('.mm-figure svg[viewBox]')].filter(e => e.checkVisibility())
  .flatMap(svg => { const box = svg.getBoundingClientRect(); return box.height > 1000 ? [svg] :
    [...svg.querySelectorAll('text')].filter(e => { const at = e.getBoundingClientRect();
      return at.left < box.left - 1 || at.right > box.right + 1 || at.bottom > box.bottom + 1; });
  }).map(e => e.textContent.trim().slice(0, 80))
"""
# How long a page is at the last width, in pixels, with what is folded folded.
HEIGHT = "document.querySelector('main').scrollHeight"
LONG = {"chapters/00_at_a_glance", "api"}
"""Pages that are looked up in, not read."""
# Lines of code that are cut off.
CUT = """
[...document.querySelectorAll('main div.highlight pre')].filter(e =>
  e.checkVisibility() && e.scrollWidth > e.clientWidth).map(e => e.textContent.slice(0, 80))
"""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_offline_on_a_phone_and_in_the_dark(page, built, browser):
    browser.look(*LOOKS[0])
    browser.open(built / f"{page}.html")
    for width, theme in LOOKS:
        browser.look(width, theme)
        browser.run(SETTLED % (theme, width))
        assert browser.run("document.documentElement.dataset.theme") == theme
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(WIDE) == [], (width, theme)
        assert browser.run(CONTRAST) == [], (width, theme)
        assert browser.run(SMALLEST) >= 9, (width, theme)
        assert browser.run(CUT) == [], (width, theme)
        assert browser.run(CLIPPED) == [], (width, theme)
    assert browser.run(FIRST) <= 1500
    assert page in LONG or browser.run(HEIGHT) <= 9000
    assert browser.run("[...document.querySelectorAll('mjx-merror')].length") == 0
    urls = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert browser.seen("Runtime.exceptionThrown") == []
    entries = [event["entry"] for event in browser.seen("Log.entryAdded")]
    assert [entry["text"] for entry in entries if entry["level"] == "error"] == []


# Barriers by the rules of WCAG 2.2 A and AA.
AXE = """
axe.run({preload: false, resultTypes: ['violations'],
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})
  .then(found => found.violations.map(each =>
    [each.id, ...each.nodes.slice(0, 3).map(node => node.html.slice(0, 150))]))
"""


@pytest.fixture(scope="session")
def axe():
    """The script of axe-core: `npm install axe-core` in the checkout, or its path in AXE_CORE."""
    path = Path(os.environ.get("AXE_CORE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
    if not path.is_file():
        pytest.skip("axe-core is not installed: npm install axe-core")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_a_barrier_that_axe_knows(page, built, browser, axe):
    width, theme = LOOKS[sum(map(ord, page)) % 2]
    browser.look(width, theme)
    browser.open(built / f"{page}.html")
    browser.run(SETTLED % (theme, width))
    browser.run(axe)
    assert browser.run(AXE) == [], (width, theme)
