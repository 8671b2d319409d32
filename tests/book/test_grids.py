"""Every grid of the book can be run, and what it fills is what is shipped."""

from pathlib import Path

import pytest
import yaml

from mmlib.book import sweep
from mmlib.book.chapters import Project, resolve
from mmlib.organism.training import RECIPES, vary
from mmlib.study.evidence import read_evidence

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def book():
    return Project(ROOT)


AUDITS = [str(path) for path in (ROOT / sweep.FOLDER / "audits").glob("*.yml")]


@pytest.mark.parametrize("name", [*sweep.names(Project(ROOT)), *AUDITS])
def test_a_grid_of_the_book_resolves_and_its_evidence_is_what_it_keeps(book, name):
    grid = sweep.find(book, name)
    assert sweep.order(book, [name])[-1] == grid
    for texts in grid.combinations:
        resolve(book, grid.chapter, texts)
    for job in grid.trainings:
        if job.command[0] == "train":
            pairs = [word.partition("=") for word in job.command if "=" in word]
            given = {key: yaml.safe_load(value) for key, _, value in pairs}
            assert vary(RECIPES[job.command[1]], given).mix.documents > 0
    for table, fill in grid.fills.items():
        rows, manifest = read_evidence(table)
        text = (book.places["evidence"] / f"{table}.csv").read_text(encoding="utf-8")
        columns = text.partition("\n")[0].split(",")
        assert list(rows) == columns == list(manifest["columns"])
        assert not fill.where or len(rows.query(fill.where)) == len(rows)
        assert f"evidence/{table}" in read_by(book)


def read_by(book):
    return {entry for chapter in book.chapters.values() for entry in chapter.reads}


def test_every_evidence_table_is_filled_once(book):
    filled = [table for name in sweep.names(book) for table in sweep.find(book, name).fills]
    shipped = {path.stem for path in book.places["evidence"].glob("*.csv")}
    assert sorted(filled) == sorted(shipped - {"labelled_errors"})  # people labelled these
