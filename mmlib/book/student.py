"""Copies of the chapters for a course: without solutions, and without what the pages found.

A course that asks for a guess needs pages that do not tell. What a run has put into the text goes:
answers at the top and at the end, every paragraph that repeats a number, the section that says what
it shows. Questions, methods, code, exercises and hints stay.
"""

import os
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mmlib.book.chapters import ChapterError, Project

NOTE = "*A copy for a course: results and solutions are left out. Run the cells to see your own.*"
_TOLD = ("{glue:text}", "{numref}", "```{glue:any}", "```{include}")
"""What a paragraph has that repeats a result, or speaks of a figure that is not here."""


def write_copies(project: Project, out: Path, *, book: Path | None = None) -> list[Path]:
    """Write a copy of every chapter with exercises, to be opened in JupyterLab.

    Args:
        project: Where the chapters are.
        out: A folder that is empty, or not there: the work of a participant is not overwritten.
        book: The built book to which links lead; without it they lead to its sources.

    Returns:
        The notebooks.

    Raises:
        ChapterError: The folder has something in it.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ChapterError(f"{out} is not empty: choose another folder or remove it")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in project.chapters:
        copied = copy(nbformat.read(project.source(name), as_version=4))
        if any("exercise" in cell.metadata.get("tags", []) for cell in copied.cells):
            for cell in copied.cells:
                if cell.cell_type == "markdown":
                    pages = book or project.root / "book"
                    for other, page in project.chapters.items():
                        cell.source = cell.source.replace(f"[]({other}", f"[{page.title}]({other}")
                    cell.source = _linked(cell.source, pages, out, built=bool(book))
            written.append(out / f"{name}.ipynb")
            nbformat.write(copied, written[-1])
    return written


def copy(chapter: NotebookNode) -> NotebookNode:
    """A chapter without solutions, outputs and results in its text; the argument is kept."""
    cells = []
    for cell in chapter.cells:
        if "solution" in cell.metadata.get("tags", []):
            continue
        cell = NotebookNode(cell)
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
        else:
            cell.source = without_results(cell.source)
        if cell.source:
            cells.append(cell)
    cells[0].source = cells[0].source.replace("\n", f"\n\n{NOTE}\n", 1)
    return NotebookNode({**chapter, "cells": cells})


def without_results(text: str) -> str:
    """A text of a chapter without what a run has put into it, for JupyterLab.

    In a table a result is left as a question mark, which can be guessed.
    """
    text = re.sub(r"(?ms)^## What this shows.*?(?=^## |\Z)", "", text)
    text = re.sub(r"(?ms)^:::\{admonition\} (At a glance|In short)\n.*?^:::\n?", "", text)
    # Gates that open in one cell and close in another are for the book.
    text = re.sub(r"```\{exercise-start\} (.*)\n:label: .*\n```", r"### \1", text)
    text = re.sub(r"```\{exercise-end\}\n```\n*", "", text)
    text = _plain(text)
    blocks = [_block(block) for block in re.split(r"\n{2,}", text)]
    text = "\n\n".join(filter(None, blocks)).strip()
    return re.sub(r"<details>\n<summary>.*?</summary>\n\n</details>", "", text).strip()


_FENCE = r"(?ms)^:::\{%s\} ([^\n]*)\n(?::[^\n]*\n)*\n?(.*?)\n?^:::$"
_FOLDED = r"<details>\n<summary>\1</summary>\n\n\2\n\n</details>"
_PLAIN = {
    # The cell that draws a figure shows it, and may stand further down than the caption.
    r"(?ms)^```\{glue:figure\}[^\n]*\n(?::[^\n]*\n)*\n?(.*?)^```$": r"*In the figure:* \1",
    _FENCE % "dropdown": _FOLDED,
    _FENCE % "admonition": r"**\1**\n\n\2",
    r"(?ms)^```\{math\}\n(?::[^\n]*\n)*\n?(.*?)^```$": r"$$\n\1$$",
    r"(?m)^\([\w-]+\)=\n": "",
    r"\{cite:[pt]\}`([a-z]+)(\d{4})[^`]*`": lambda cited: f"*{cited[1].title()} {cited[2]}*",
    r"\{term\}`([^`]*)`": r"*\1*",
    r"(?:[Ee]quation )?\{eq\}`[^`]*`": "the equation",
    r"\[([^\]]+)\]\([\w-]+\)": r"\1",  # to a label
}
"""What only the book understands -> what JupyterLab shows too; a hint stays folded."""


def _plain(text: str) -> str:
    for pattern, plain in _PLAIN.items():
        text = re.sub(pattern, plain, text)
    return text


def _block(block: str) -> str:
    """A paragraph, list or table without the items that tell a result."""
    if block.startswith("|"):
        return re.sub(r"\{glue:text\}`[^`]*`", "?", block)
    if block.startswith("- "):
        items = re.split(r"\n(?=- )", block)
        return "\n".join(item for item in items if not any(told in item for told in _TOLD))
    return "" if any(told in block for told in _TOLD) else block


def _linked(text: str, book: Path, out: Path, *, built: bool) -> str:
    """A text whose links to pages of the book, and to its ledger, work from another folder."""
    there = Path(os.path.relpath(book, out)).as_posix()
    text = text.replace("](../", f"]({there}/")
    text = text.replace("](00_at_a_glance", f"]({there}/chapters/00_at_a_glance")
    page = rf"(\]\({re.escape(there)}/[^)#]*)\.(?:md|ipynb)"
    return re.sub(page, r"\1.html", text) if built else text
