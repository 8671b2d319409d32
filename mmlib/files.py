"""Where the shipped models lie; and writing a file or a folder as a whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ORGANISMS = Path(__file__).parent / "organisms"


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Give a path to write a file or a folder to, which takes the place of `target` at the end.

    The path is on the same disk and has the same name. If the block raises, what it wrote is
    removed and `target` stays as it was.

    Args:
        target: File or folder; its parents are made.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        path = Path(folder) / target.name
        yield path
        replace(path, target)


def replace(source: Path, target: Path) -> None:
    """Move a file or a folder to `target` on the same disk, in the place of what stands there."""
    source.stat()  # it is there, before anything else moves
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as old:
        if target.is_dir():  # one that is not empty cannot be replaced in one step
            target.rename(Path(old) / "old")
        os.replace(source, target)
