"""Where the shipped models lie; and writing a file or a folder as a whole, or not at all."""

import hashlib
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

ORGANISMS = Path(__file__).parent / "organisms"
HERE = f".{platform.node()}."


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Give a path to write a file or a folder to, which takes the place of `target` at the end.

    The path is on the same disk and has the same name. If the block raises, what it wrote is
    removed and `target` stays as it was.

    Args:
        target: File or folder; its parents are made.
    """
    target = Path(target)
    with _beside(target) as folder:
        path = folder / target.name
        yield path
        replace(path, target)


def replace(source: Path, target: Path) -> None:
    """Move a file or a folder to `target` on the same disk, in the place of what stands there."""
    source.stat()  # it is there, before anything else moves
    with _beside(target) as folder:
        if target.is_dir():  # one that is not empty cannot be replaced in one step
            target.rename(folder / "old")
        os.replace(source, target)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`; those that killed writers have left there go first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    tidy(target.parent)
    prefix = f".{target.name}{HERE}{os.getpid()}."
    with TemporaryDirectory(prefix=prefix, dir=target.parent) as folder:
        yield Path(folder)


def tidy(folder: Path) -> None:
    """Remove what killed writers have left; what one had put aside comes back where it lacks."""
    for left in folder.glob(f".*{escape(HERE)}*"):
        name, _, writer = left.name[1:].rpartition(HERE)
        process = writer.partition(".")[0]
        if process.isdecimal() and not _is_running(int(process)):
            if (left / "old").exists() and not left.with_name(name).exists():
                (left / "old").rename(left.with_name(name))
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # it is another account's
    return True


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays as safetensors, with a checksum of everything that the file says.

    Raises:
        OSError: It cannot be written, for instance because the disk is full.
    """
    told = {**metadata, "sha256": _checksum(tensors, metadata)}
    with replacing(path) as file:
        try:
            whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
            save_file(whole, file, metadata=told)
        except SafetensorError as error:  # what the system says, such as that the disk is full
            raise OSError(f"{path} cannot be written: {error}") from error


def load_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays and the metadata that `save_tensors` has written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or another kind of file.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it and make it again") from error
    if metadata.pop("sha256", "") != _checksum(tensors, metadata):
        raise ValueError(f"{path} does not have its checksum: remove it and make it again")
    return tensors, metadata


def _checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()
