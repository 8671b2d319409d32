"""Work that is killed at any change of the disk is finished by the next call, and nothing is half.

`kill -9` at changes drawn by a seed: of every kind of work all changes are counted in a whole run.
"""

import json
import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path

import faults
import pytest
import torch
from checkouts import make_checkout, published, wait_until
from ggufs import write_gguf

from mmlib.book import chapters
from mmlib.book.chapters import Project
from mmlib.files import load_tensors
from mmlib.importance import ActivationNorms
from mmlib.masks import ParameterMask
from mmlib.models import load_model
from mmlib.study.tables import load_table

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux")
SEED = 1


@pytest.fixture(scope="module", autouse=True)
def server():
    faults.start_server()


def contents(folder, *, but=()):
    """Every file below a folder, by its bytes, but those with these names or endings."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [p for p in files if p.name not in but and p.suffix not in but]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def hidden(folder):
    """Files that unfinished writers have left: each lies in a folder of the writer's own."""
    return [p.name for p in folder.rglob("*") if p.is_file() and f".{platform.node()}." in str(p)]


def trials(work, tmp_path, kills, prepare=Path.mkdir):
    """Folders in which the work was killed, one at each drawn moment; the first is of a whole run.

    The second one is that after the work was called again, the third as the kill has left it.
    """
    whole = tmp_path / "whole"
    prepare(whole)
    for at in faults.moments(work, whole, kills, SEED):
        place = tmp_path / f"killed-{at}"
        prepare(place)
        assert not faults.done(work, place, at=at), f"{work.__name__} survived change {at}"
        left = tmp_path / f"left-{at}"  # but for what processes that are left behind write now
        shutil.copytree(place, left, symlinks=True, ignore=shutil.ignore_patterns(".[0p]*"))
        assert faults.done(work, place), f"{work.__name__} does not go on after change {at}"
        yield whole, place, left


def readable(folder):
    """Read what is there under its own name: whole, or told to be damaged."""
    for name, load in (("mask", ParameterMask.load), ("norms", ActivationNorms.load)):
        path = folder / f"{name}.safetensors"
        if path.exists():
            load(path)
    if (folder / "folder").exists():
        assert len(list((folder / "folder").iterdir())) == 3
    if (folder / "table.json").exists():
        with suppress(ValueError):
            assert len(load_table("table", folder)[0]) == 9


@pytest.mark.parametrize("again", [False, True])
def test_what_is_saved_is_whole(tmp_path, again):
    """Also where an older one stands in its place."""

    def prepare(place):
        place.mkdir()
        if again:
            assert faults.done(faults.saves, place)

    for whole, place, left in trials(faults.saves, tmp_path, 8, prepare):
        readable(left)
        assert contents(place) == contents(whole)
        assert hidden(place) == []


def all_norms(folder):
    paths = sorted((folder / "cache/norms").glob("*.safetensors"))
    return {path.name: ActivationNorms.load(path) for path in paths}


def test_norms_that_were_kept_are_not_computed_again(tmp_path):
    for whole, place, left in trials(faults.calibration, tmp_path, 10):
        kept, made, right = (all_norms(folder) for folder in (left, place, whole))
        assert (place / "sources").read_text().split().count("cached") == len(kept)
        assert made.keys() == right.keys()
        for name, one in made.items():  # the others in smaller batches, which round otherwise
            torch.testing.assert_close(one.vectors, right[name].vectors)
        assert hidden(place) == []


@pytest.mark.slow
def test_a_fetched_checkpoint_is_whole(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    for whole, place, left in trials(faults.fetch, tmp_path, 8):
        for folder in (left, place):
            if (folder / "checkpoints/tiny").exists():
                load_model(str(folder / "checkpoints/tiny"))
        assert contents(place) == contents(whole)
        assert {path.name for path in (place / "checkpoints").iterdir()} <= {"tiny", ".tiny.lock"}


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.slow
def test_a_chapter_is_whole_and_its_kernel_ends(tmp_path):
    for whole, place, left in trials(faults.chapter, tmp_path, 8, make_checkout):
        there = [path for path in published(Project(left)) if f".{platform.node()}." not in path]
        assert set(there) <= published(Project(whole)).keys()
        record = chapters.run_record(left / "book/chapters/01_toy.ipynb")
        assert not record or "tables" in record
        results = [published(Project(folder)) for folder in (whole, place)]
        notebooks = [made.pop("book/chapters/01_toy.ipynb") for made in results]
        assert results[0] == results[1]
        cells = [json.loads(text)["cells"] for text in notebooks]
        assert cells[0] == cells[1]  # no time of day is in them
        assert list((place / "runs/.partial").iterdir()) == []
        assert hidden(place) == []
        pid = left / "kernel.pid"
        if pid.exists():
            wait_until(lambda pid=pid: not is_running(pid.read_text()))


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_runs_that_are_not_there(tmp_path):
    def prepare(place):
        make_checkout(place)
        (place / "two.yml").write_text("chapter: 01_toy\nvary: {seed: [2, 3]}\n")

    for whole, place, left in trials(faults.sweep, tmp_path, 6, prepare):
        tables = [sorted((f / "runs").glob("01_toy-*/toy.csv")) for f in (whole, place)]
        assert [len(found) for found in tables] == [2, 2]
        assert [p.read_text() for p in tables[0]] == [p.read_text() for p in tables[1]]
        for table in (left / "runs").glob("01_toy-*/toy.csv"):  # was whole, and stays as it is
            assert table.stat().st_mtime == (place / table.relative_to(left)).stat().st_mtime
        assert hidden(place) == []


@pytest.mark.slow
def test_a_training_goes_on_from_its_last_state(tmp_path):
    for whole, place, left in trials(faults.training, tmp_path, 8):
        state = left / "organism.partial/state.safetensors"
        saved = int(load_tensors(state)[1]["step"]) if state.exists() else 0
        steps = place.with_name(f"{place.name}.steps").read_text().split()
        assert steps == [] or int(steps[0]) == saved
        results = contents(place / "organism", but=["manifest.json", "training_log.csv"])
        assert results == contents(whole / "organism", but=["manifest.json", "training_log.csv"])
        left_over = {path.name for path in place.iterdir()} - {".organism.lock"}
        assert left_over == {"organism", "organism-step1"}
        load_model(str(place / "organism"))


@pytest.mark.slow
def test_a_fine_tuning_goes_on(tmp_path):
    for whole, place, left in trials(faults.tuning, tmp_path, 8):
        assert (left / "run").exists() or not os.listdir(left)
        weights = [load_tensors(f / "run/finished.safetensors")[0] for f in (whole, place)]
        assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
        assert not list(place.rglob("checkpoint-*"))


PAGES = {
    "_toc.yml": "format: jb-book\nroot: index\nchapters:\n  - file: more\n",
    "_config.yml": "title: Toy\nexecute: {execute_notebooks: 'off'}\n",
    "index.md": "# Index\n\nOne [more](more.md).\n",
    "more.md": "# More\n\nText.\n",
}


@pytest.mark.slow
def test_a_build_is_finished_by_the_next_one(tmp_path):
    def prepare(place):
        place.mkdir()
        for name, text in PAGES.items():
            (place / name).write_text(text)

    for whole, place, _ in trials(faults.book, tmp_path, 6, prepare):
        built = [contents(f / "_build/html", but=[".buildinfo", ".js"]) for f in (whole, place)]
        assert built[0].keys() == built[1].keys()
        for name in ("index.html", "more.html"):
            texts = [made[name].replace(str(f).encode(), b"") for made, f in
                     zip(built, (whole, place), strict=True)]  # fmt: skip
            assert texts[0] == texts[1]
