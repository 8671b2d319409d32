"""Files and folders are written as a whole, at one place."""

import re
from pathlib import Path

import pytest

from mmlib.files import replacing

PACKAGE = Path(__file__).parents[2] / "mmlib"


def write_file(path, text):
    path.write_text(text)


def write_folder(path, text):
    path.mkdir()
    (path / f"{text}.txt").write_text(text)


def content(path):
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [file.read_text() for file in files]


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_replaces_what_stands_there_and_leaves_nothing_else(tmp_path, write):
    target = tmp_path / "new" / "target.csv"
    for text in ("old", "new"):
        with replacing(target) as path:
            write(path, text)
            assert path not in target.parent.glob("*.csv")  # readers of the folder overlook it
        assert content(target) == [text]
        assert list(target.parent.iterdir()) == [target]


def fail_half_way(target, write):
    with replacing(target) as path:
        write(path, "half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_writer_that_fails_half_way_changes_nothing(tmp_path, write):
    target = tmp_path / "target"
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(target, write)
    assert not list(tmp_path.iterdir())
    write(target, "old")
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(target, write)
    assert list(tmp_path.iterdir()) == [target]
    assert content(target) == ["old"]


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_block_that_writes_nothing_is_an_error(tmp_path, write):
    target = tmp_path / "target"
    write(target, "old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert content(target) == ["old"]


def test_nobody_else_moves_files():
    moves = re.compile(
        r"os\.(replace|rename)\b|shutil\.move|\.(replace|rename)\((out|path|file|folder|target)\)"
    )
    files = [file for file in PACKAGE.rglob("*.py") if moves.search(file.read_text("utf-8"))]
    assert files == [PACKAGE / "files.py"]
