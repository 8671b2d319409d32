"""Where the shipped models lie; and writing a file or a folder as a whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ORGANISMS = Path(__file__).parent / "organisms"


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Give a path to write a file or a folder to, and put that in the place of `target` at the end.

    The path lies beside `target`, is hidden and bears the number of this process. If the block
    raises, what it wrote is removed and `target` stays as it was.

    Args:
        target: File or folder; its parents are made.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _beside(target, "unfinished")
    try:
        yield unfinished
        replace(unfinished, target)
    finally:
        _remove(unfinished)


def replace(source: Path, target: Path) -> None:
    """Move a file or a folder to `target` on the same disk, in the place of what stands there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_dir():
        os.replace(source, target)
        return
    old = _beside(target, "replaced")  # a folder that is not empty cannot be replaced in one step
    target.rename(old)
    source.rename(target)
    _remove(old)


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{what}{os.getpid()}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
