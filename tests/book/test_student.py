"""Copies for a course have the questions of a chapter, and none of its answers."""

import re
from pathlib import Path

import nbformat
import pytest
import torch

from mmlib.__main__ import main
from mmlib.book import student
from mmlib.book.chapters import Project
from mmlib.importance import ActivationNorms, ImportanceScores, math_specific

ROOT = Path(__file__).parents[2]
PROJECT = Project(ROOT)
PAGE = """(ch-toy)=
# How much?

:::{admonition} At a glance
:class: tip
- **Answer:** a half.
:::

```{glue:figure} fig-toy
:name: fig-toy

Share by layer.
```

| What is claimed | published |
|---|---|
| much | {glue:text}`published_C1` |

- One item.
- It is {glue:text}`half:.0%`,
  on average.

{numref}`fig-toy` draws this.

## What this shows and what it does not

Half of it.

## Exercises

```{exercise-start} Guess
:label: ex-toy
```

● ○ ○ · 5 minutes · How much?

```{exercise-end}
```

:::{dropdown} Hint
Count.
:::"""


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The copies of all chapters by name, and their folder."""
    out = tmp_path_factory.mktemp("course") / "student"
    assert main(["--root", str(ROOT), "student", str(out)]) == 0
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted(out.iterdir())}, out


def test_a_page_without_its_results():
    assert student.without_results(PAGE) == (
        "# How much?\n\n*In the figure:* Share by layer.\n\n"
        "| What is claimed | published |\n|---|---|\n| much | ? |\n\n- One item.\n\n"
        "## Exercises\n\n### Guess\n\n● ○ ○ · 5 minutes · How much?\n\n"
        "<details>\n<summary>Hint</summary>\n\nCount.\n\n</details>"
    )


def test_every_chapter_but_the_ledger_is_copied(copies):
    assert set(copies[0]) == set(PROJECT.chapters) - {"00_at_a_glance"}


def test_no_result_and_no_solution_is_left(copies):
    for copied in copies[0].values():
        nbformat.validate(copied)
        for cell in copied.cells:
            assert "solution" not in cell.metadata.get("tags", [])
            assert not cell.get("outputs")
            if cell.cell_type == "markdown":
                assert not re.search(r"\{glue:|\{numref\}|exercise-(start|end)", cell.source)
                # roles, directives and labels of the book, which JupyterLab shows as they are
                assert not re.search(r"\{[\w:]+\}`|^(:::|```\{|\(\w[\w-]+\)=)", cell.source, re.M)
                assert cell.source.count("<details>") == cell.source.count("</details>")
                assert not re.search(r"^(## What this shows|:::\{.*At a glance)", cell.source, re.M)


def test_code_and_exercises_are_those_of_the_chapter(copies):
    for name, copied in copies[0].items():
        source = nbformat.read(PROJECT.source(name), as_version=4)
        kept = [
            cell.source
            for cell in source.cells
            if cell.cell_type == "code" and "solution" not in cell.metadata.get("tags", [])
        ]
        assert [cell.source for cell in copied.cells if cell.cell_type == "code"] == kept
        count = "\n".join(cell.source for cell in source.cells).count("{exercise-start}")
        text = "\n".join(cell.source for cell in copied.cells)
        assert len(re.findall(r"^[●○] [●○] [●○] · ", text, re.M)) == count
        assert student.NOTE in copied.cells[0].source


def test_links_to_pages_of_the_book_work(copies):
    notebooks, out = copies
    links = {
        link
        for copied in notebooks.values()
        for cell in copied.cells
        if cell.cell_type == "markdown"
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+\.[^)#\s]+)", cell.source)
    }
    assert links
    assert [link for link in links if not (out / link).is_file()] == []


def test_the_work_of_a_participant_is_kept(tmp_path, capsys):
    (tmp_path / "mine.ipynb").write_text("", encoding="utf-8")
    assert main(["--root", str(ROOT), "student", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.ipynb"]


def test_the_score_by_hand_is_that_of_the_package():
    """What the plan of the course expects on paper."""
    weights = {"w": torch.tensor([[2, -1, 0.5], [-3, 0.2, 1]])}
    on_math, on_other = (
        ImportanceScores(weights, ActivationNorms({"w": torch.tensor(x)}, {"w": "w"}, 1))
        for x in ([1.0, 4.0, 2.0], [4.0, 1.0, 2.0])
    )
    expected = [[[2, 4, 1], [3, 0.8, 2]], [[8, 1, 1], [12, 0.2, 2]]]
    for scores, rows in zip((on_math, on_other), expected, strict=True):
        torch.testing.assert_close(scores.matrix("w"), torch.tensor(rows))
    chosen = math_specific(on_math, on_other, 1 / 3)
    assert chosen["w"].tolist() == [[False, True, False], [False, False, False]]


def test_references_are_words_outside_of_the_book(copies):
    texts = [
        c.source for page in copies[0].values() for c in page.cells if c.cell_type == "markdown"
    ]
    text = "\n".join(texts)
    assert "*Shomali 2026* measure it" in text
    assert "[Where are the math weights?](03_math_weights.ipynb)" in text
    assert not re.findall(r"\[\]\(\d|\w+\d{4}[a-z]+\*|the equation the equation", text)
    labels = set(re.findall(r"(?m)^\(([\w-]+)\)=$", "\n".join(map(_source, PROJECT.chapters))))
    assert labels
    assert not [label for label in labels if f"]({label})" in text]


def _source(name):
    cells = nbformat.read(PROJECT.source(name), as_version=4).cells
    return "\n".join(cell.source for cell in cells)
