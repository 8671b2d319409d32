"""The kit of a course: what it is made of, and what it refuses. No package is fetched here."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from mmlib.book import kit
from mmlib.book.chapters import ChapterError, Project

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A root that has everything of the real one, and a book of one page."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("book", "notebooks", "mmlib", "pyproject.toml"):
        (root / name).symlink_to(ROOT / name)
    (root / "_build" / "html" / "chapters").mkdir(parents=True)
    (root / "_build" / "html" / "index.html").write_text("a book", encoding="utf-8")
    calls = []

    def pip(command, check):
        calls.append(command)
        wheels = Path(command[command.index("--wheel-dir") + 1])
        wheels.mkdir(parents=True, exist_ok=True)
        (wheels / f"{len(calls)}.whl").write_bytes(b"12345")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(kit.subprocess, "run", pip)
    return Project(root), calls


def test_a_kit_has_packages_copies_slides_and_the_book(checkout, tmp_path):
    project, calls = checkout
    out = tmp_path / "kit"
    sizes = kit.write_kit(project, out)
    assert sizes["wheels"] == 10
    assert sizes["book"] == len("a book")
    assert {path.name for path in out.iterdir()} == {*sizes, "README.md"}
    assert next(command[-1].partition("==")[0] for command in calls) == "torch"
    assert calls[1][-1] == f"{project.root}[tasks,study,book]"
    commands = re.findall(r"^    (.*)", (out / "README.md").read_text(encoding="utf-8"), re.M)
    assert "--no-index --find-links wheels 'mmlib[tasks,study,book]'" in commands[1]
    copied = nbformat.read(out / "student" / "04_overlap.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in copied.cells)
    pages = re.findall(r"\]\((\.\./[^)#]+)", text)
    assert pages
    assert all(page.startswith("../book/") and page.endswith(".html") for page in pages)


def test_what_cannot_be_packed_is_refused_before_a_package_is_fetched(checkout, tmp_path):
    project, calls = checkout
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ChapterError, match="not empty"):
        kit.write_kit(project, tmp_path / "full")
    (project.root / "_build" / "html" / "index.html").unlink()
    with pytest.raises(ChapterError, match="make html"):
        kit.write_kit(project, tmp_path / "kit")
    assert calls == []
    assert not (tmp_path / "kit").exists()
