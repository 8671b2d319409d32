"""Make deliberate errors, each of which has to be found by the tests: `make mutants`.

They are listed in `mutants.yml`. Each is made in a copy of the checkout, never in the checkout.
Exit code 1 if one survives: then a test is missing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "_build", "runs", "*.partial", "*-step*")
LIMIT_S = 1200  # of one pytest


class Mutant(NamedTuple):
    """One deliberate error."""

    name: str
    file: str
    old: str
    """Occurs once in the file."""
    new: str
    tests: list[str]
    """Files that find it, relative to the checkout, so that it is quick."""

    def edited(self, text: str) -> str:
        """The text of its file with the error."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is {text.count(self.old)} times in it")
        return text.replace(self.old, self.new)


class Result(NamedTuple):
    name: str
    verdict: str
    seconds: float
    told: str


def read() -> list[Mutant]:
    """All mutants, in the order of the file."""
    records = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
    return [Mutant(**record) for record in records]


def judged(code: int | None, output: str) -> tuple[str, str]:
    """Say "caught", "survived" or "broken", and by which test or why.

    Only a failed test counts: not one that could not be collected or set up, or met a crash.
    """
    lines = output.strip().splitlines() or ["no output"]
    if code == 0:
        return "survived", lines[-1]
    failed = next((line for line in lines if line.startswith("FAILED ")), "")
    crashed = re.search(r" - (NameError|UnboundLocalError|ImportError|ModuleNotFoundError)", failed)
    if code == 1 and failed and not crashed and not re.search(r"\d+ errors?\b", lines[-1]):
        return "caught", failed.removeprefix("FAILED ").partition(" - ")[0]
    return "broken", failed or (lines[-1] if code is not None else f"not done after {LIMIT_S} s")


def tried(pristine: Path, mutant: Mutant) -> Result:
    """Make one error in a copy, and run its tests there up to the first that fails."""
    start = time.monotonic()
    with TemporaryDirectory(prefix="mutant-") as place:
        copy = Path(place, "checkout")
        shutil.copytree(pristine, copy, copy_function=os.link)  # a file is replaced, not written to
        if mutant.file:
            path = copy / mutant.file
            text = mutant.edited(path.read_text(encoding="utf-8"))
            path.unlink()
            path.write_text(text, encoding="utf-8")
        # `-m` puts the copy before every installed package; a PYTHONPATH would reach kernels too.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"MMLIB_CACHE": f"{place}/cache", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
        command += [f"--basetemp={place}/tmp", *mutant.tests]
        how = {"cwd": copy, "env": environment, "timeout": LIMIT_S}
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
            verdict, told = judged(done.returncode, done.stdout)
        except subprocess.TimeoutExpired:
            verdict, told = judged(None, "")
    result = Result(mutant.name, verdict, time.monotonic() - start, told)
    print(f"{verdict:<9}{result.seconds:4.0f} s  {mutant.name}", flush=True)
    return result


def main() -> int:
    """Try all mutants, or those of the given names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="mutants whose names have this in them (all)")
    parser.add_argument("--workers", type=int, default=1, help="pytests at a time (default: 1)")
    given = parser.parse_args()
    mutants = [m for m in read() if not given.names or any(n in m.name for n in given.names)]
    # What fails without an error would "catch" everything.
    control = Mutant("(no error)", "", "", "", sorted({t for m in mutants for t in m.tests}))
    with TemporaryDirectory(prefix="mutants-") as place, ThreadPoolExecutor(given.workers) as pool:
        pristine = shutil.copytree(ROOT, Path(place, "checkout"), ignore=LEFT_OUT)
        done = list(pool.map(partial(tried, pristine), [control, *mutants]))
    print("\n" + "\n".join(f"{r.verdict:<9}{r.seconds:4.0f} s  {r.name}: {r.told}" for r in done))
    caught = sum(result.verdict == "caught" for result in done[1:])
    print(f"\n{caught} of {len(mutants)} mutants caught")
    return int(caught < len(mutants) or done[0].verdict != "survived")


if __name__ == "__main__":
    sys.exit(main())
