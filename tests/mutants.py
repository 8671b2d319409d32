"""Make deliberate errors, each of which has to be found by the tests: `make mutants`.

Each of `mutants.yml` is made in a copy of the checkout. Exit code 1 if one survives: write a test.
"""

import argparse
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "_build", "runs", "*.partial", "*-step*")
LIMIT_S = 1200  # of one pytest
# Each pytest is forked from a process that has imported what takes longest, and nothing of ours.
SERVER = get_context("forkserver")
SLOW = ["torch", "transformers.trainer", "transformers.models.llama.modeling_llama", "peft"]
SLOW += ["lm_eval.models.huggingface", "lm_eval.evaluator", "lm_eval.tasks", "statsmodels.api"]
SLOW += ["scipy.stats", "papermill", "jupyter_client.manager", "hypothesis", "pytest"]
SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")


class Mutant(NamedTuple):
    name: str
    file: str
    old: str  # once in the file
    new: str
    tests: list[str]  # files that find it, so that it is quick

    def edited(self, text: str) -> str:
        """The text of its file with the error."""
        assert text.count(self.old) == 1, f"{self.name}: not once in {self.file}"
        return text.replace(self.old, self.new)


def read() -> list[Mutant]:
    """All mutants, in the order of the file."""
    records = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))
    return [Mutant(**record) for record in records]


def judged(code: int | None, output: str) -> tuple[str, str]:
    """Verdict and why: a test that failed, not one that was not collected, set up or crashed."""
    lines = output.strip().splitlines() or ["no output"]
    if code == 0:
        return "survived", lines[-1]
    failed = next((line for line in lines if line.startswith("FAILED ")), "")
    crashed = re.search(r" - (NameError|UnboundLocalError|ImportError|ModuleNotFoundError)", failed)
    if code == 1 and failed and not crashed and not re.search(r"\d+ errors?\b", lines[-1]):
        return "caught", failed.removeprefix("FAILED ").partition(" - ")[0]
    return "broken", failed or (lines[-1] if code is not None else f"not done after {LIMIT_S} s")


def run(copy: Path, words: list[str]) -> None:
    """Run pytest in a copy of the checkout, in this process."""
    os.chdir(copy)
    sys.path[0] = str(copy)  # in place of this folder, and before every installed package
    os.environ["MMLIB_CACHE"] = str(copy / ".cache")
    with (copy / ".told").open("w") as file:
        _ = [os.dup2(file.fileno(), stream) for stream in (1, 2)]
    sys.exit(int(pytest.main(words)))


def tried(pristine: Path, mutant: Mutant) -> tuple[str, int, str, str]:
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
        words = ["-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        words += [f"--basetemp={place}/tmp", *mutant.tests]
        process = SERVER.Process(target=run, args=(copy, words))
        process.start()
        process.join(LIMIT_S)
        code = process.exitcode
        process.kill()  # what waits for ever
        verdict, told = judged(code, (copy / ".told").read_text(encoding="utf-8"))
    result = (verdict, round(time.monotonic() - start), mutant.name, told)
    print(*result[:3], sep="\t", flush=True)
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
    SERVER.set_forkserver_preload(SLOW)
    os.environ |= dict.fromkeys(SWITCHES, "1") | {"COLUMNS": "200"}
    os.environ.pop("PYTHONPATH", None)  # it would reach kernels
    with TemporaryDirectory(prefix="mutants-") as place, ThreadPoolExecutor(given.workers) as pool:
        pristine = shutil.copytree(ROOT, Path(place, "checkout"), ignore=LEFT_OUT)
        done = list(pool.map(partial(tried, pristine), [control, *mutants]))
    print("", *("\t".join(map(str, result)) for result in done), sep="\n")
    caught = sum(verdict == "caught" for verdict, *_ in done)
    print(f"\n{caught} of {len(mutants)} mutants caught")
    return int(caught < len(mutants) or done[0][0] != "survived")


if __name__ == "__main__":
    sys.exit(main())
