"""Whether a machine is ready for the book: `python -m mmlib doctor`, one mend per line."""

import json
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from subprocess import DEVNULL
from typing import NamedTuple

from packaging.requirements import Requirement

from mmlib.models import checkpoint_folder, checkpoints, damaged
from mmlib.study.tables import hardware, memory

MEMORY_GIB, DISK_GB = 4, 3
"""What the laptop edition needs: two chapters at a time, and the executed book."""
KERNEL_S = 15
"""How long a kernel may take to start and to import the package."""


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    told: str
    """What is there."""
    mend: str = ""
    """What to do; empty where nothing is to be done."""


def checks(root: Path) -> Iterator[Check]:
    """Look at Python, packages, machine, kernel and fetched checkpoints, in this order."""
    old = "" if sys.version_info >= (3, 11) else "make PYTHON=python3.11, with 3.11 or newer"
    yield Check("Python", sys.version.split()[0], old)
    yield _packages()
    yield _machine(root)
    yield _kernel()
    for name in checkpoints():
        if (checkpoint_folder(name) / "manifest.json").is_file():
            yield _checkpoint(name)


def _packages() -> Check:
    needed = [line for line in requires("mmlib") or () if 'extra == "test"' not in line]
    wrong = []
    for wanted in map(Requirement, needed):
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            there = "nothing"
        # A build for another device has the version that is pinned, and a suffix.
        if there == "nothing" or not wanted.specifier.contains(there, prereleases=True):
            wrong.append(f"{wanted.name} {there} in place of {wanted.specifier}")
    mend = "python -m pip install --editable '.[tasks,study,book,test]'" if wrong else ""
    return Check("packages", "; ".join(wrong) or "as pinned", mend)


def _machine(root: Path) -> Check:
    free, mends = shutil.disk_usage(root).free / 1e9, []
    if memory() < MEMORY_GIB:
        mends.append(f"run chapters one at a time (WORKERS=1): {MEMORY_GIB} GiB are for two")
    if free < DISK_GB:
        mends.append(f"make room: {DISK_GB} GB are needed")
    return Check("machine", f"{hardware()}, {free:.0f} GB free", "; ".join(mends))


def _kernel() -> Check:
    from jupyter_client.manager import run_kernel

    mend, told = "python -m ipykernel install --sys-prefix, in the environment of the book", []
    try:
        with run_kernel(kernel_name="python3", startup_timeout=KERNEL_S, stderr=DEVNULL) as client:
            client.execute_interactive(
                "import sys, mmlib; print(sys.prefix)",
                timeout=KERNEL_S,
                output_hook=lambda message: told.append(message["content"].get("text", "")),
            )
    except TimeoutError:
        return Check("kernel", f"python3 does not import mmlib within {KERNEL_S} s", mend)
    except Exception as error:  # whatever it is, there is no kernel
        return Check("kernel", f"python3 does not start: {error}", mend)
    if Path("".join(told).strip()) != Path(sys.prefix):
        return Check("kernel", "python3 belongs to another environment, or lacks mmlib", mend)
    return Check("kernel", "python3 starts and imports mmlib")


def _checkpoint(name: str) -> Check:
    folder = checkpoint_folder(name)
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    if damage := damaged(folder, files):
        return Check(name, damage, f"remove {folder} and call python -m mmlib fetch {name}")
    return Check(name, f"{len(files)} files as they were fetched")
