"""Slides for a course, from one Markdown file and the figures and numbers of the executed chapters.

A deck is one HTML file that needs no network, no script and no server. The browser's own keys lead
through it (Page Down, Page Up and Space, which presenters send too): slides snap to the screen.
Slides are separated by ``---``; one that begins with ``<!-- half-day -->`` or ``<!-- ninety -->``
is in that deck alone. A line ``![](chapters/04_overlap.ipynb::fig-desk-pairs)`` stands for a
figure, ``{glue:text}`chapters/04_overlap.ipynb::desk_lowest:.2f``` for a number, as in the book. In
``<div class="two">`` a figure has its first two panels.
"""

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from markdown_it import MarkdownIt

from mmlib.book.chapters import ChapterError, Project

DECKS = {"ninety": "90 minutes", "half-day": "half a day"}
CSS = """
html { color-scheme: light dark; scroll-snap-type: y mandatory;
  font: clamp(16px, 2.2vmin + .4vw, 30px)/1.4 system-ui, sans-serif; }
body { margin: 0; counter-reset: slide; }
section { box-sizing: border-box; min-height: 100vh; padding: 4vh 6vw; scroll-snap-align: start;
  counter-increment: slide; display: flex; flex-direction: column; justify-content: center; }
section::after { content: counter(slide); align-self: flex-end; font-size: .6em; opacity: .7; }
section > * { box-sizing: border-box; max-width: 60rem; width: 100%; margin: .4em auto; }
h1, h2 { line-height: 1.15; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
section > :not(table) { overflow-wrap: anywhere; }
:is(th, td) { padding: .2em .6em; border-bottom: 1px solid; text-align: left; }
.mm-figure { max-width: 70rem; }
.mm-figure > div > svg { max-width: 100% !important; max-height: 58vh; }
@media (min-aspect-ratio: 1) {
  .mm-figure > div > svg:not(:only-child) { max-width: calc(50% - .5rem) !important; }
  section > .mm-figure > div:has(> :nth-child(3)) > svg {
    flex-basis: 30% !important; max-width: 32% !important; max-height: 29vh; } }
.two svg:nth-child(n + 3) { display: none; }
@media print { section { break-after: page; min-height: 0; } }
"""


def write_slides(project: Project, out: Path) -> list[Path]:
    """Write every deck.

    Args:
        project: Where the executed chapters and ``book/slides/slides.md`` are.
        out: A folder; decks of the same name are replaced.

    Raises:
        ChapterError: A slide names a figure or a number that no executed chapter has.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = (project.root / "book" / "slides" / "slides.md").read_text(encoding="utf-8")
    written = []
    for name, told in DECKS.items():
        written.append(out / f"slides-{name}.html")
        written[-1].write_text(deck(text, name, told, project.root / "book"), encoding="utf-8")
    return written


def deck(text: str, name: str, told: str, book: Path) -> str:
    """One deck as HTML, see the module.

    Args:
        text: Markdown of all slides.
        name: A key of `DECKS`.
        told: How long it takes, for the title.
        book: The folder in which ``chapters`` lies.
    """
    glued = cache(lambda chapter: _glued(book / chapter))
    render = MarkdownIt("commonmark", {"html": True}).enable("table").render
    body = ""
    for slide in re.split(r"(?m)^---\n", text):
        only = re.match(r"\s*<!-- ([\w-]+) -->", slide)
        if only and only[1] in DECKS and only[1] != name:
            continue
        slide = re.sub(
            r"\{glue:text\}`([^`:]+)::(\w+)(?::([^`]*))?`",
            lambda m: format(_value(glued(m[1]), m[1], m[2]), m[3] or ""),
            slide,
        )
        html = re.sub(
            r'<p><img src="([^":]+)::([\w-]+)"[^>]*></p>',
            lambda m: str(_value(glued(m[1]), m[1], m[2])),
            render(slide),
        )
        body += f'<section tabindex="0">\n{html}</section>\n'
    title = f"Math Across Languages: {told}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>'
        f'{title}</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body><main>\n{body}</main></body></html>\n"
    )


def _glued(chapter: Path) -> dict[str, Any]:
    """Name -> number, text or HTML of a figure that a run of the chapter made known."""
    if not chapter.is_file():
        raise ChapterError(f"the slides name {chapter}, which is not there: python -m mmlib list")
    found = {}
    for cell in nbformat.read(chapter, as_version=4).cells:
        for output in cell.get("outputs", []):
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                shown = {key.rpartition("/")[2]: text for key, text in output.data.items()}
                found[name] = shown.get("html") or _parsed(shown["plain"])
    return found


def _parsed(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _value(known: Mapping[str, Any], chapter: str, name: str) -> Any:
    if name not in known:
        raise ChapterError(f"the slides name {name!r}, which {chapter} does not show")
    return known[name]
