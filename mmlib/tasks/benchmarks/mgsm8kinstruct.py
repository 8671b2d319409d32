"""MGSM8KInstruct: GSM8K train in ten languages, mixed in one file."""

import re
from pathlib import Path

import pandas as pd

from mmlib.tasks.benchmarks import msvamp
from mmlib.tasks.languages import LANGUAGES, get_language
from mmlib.tasks.records import Benchmark, word_problems
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="mgsm8kinstruct/MGSM8KInstruct_Parallel.json",
    id="Mathoctopus/GSM8KInstruct_Parallel",
    revision="main",
    licence="Apache-2.0",
    columns=("prompt", "chosen"),
)
_SPOKEN = {language.name: code for code, language in LANGUAGES.items()}


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """Rows that follow their English row and have its gold share its id.

    The file has no ids. An English row opens a group and its translations follow it (as public
    code that reads the file assumes); a row is taken for a translation when it is the first of
    its language in the group and has the English gold, or none that can be read. Other rows get
    an id of their own; those of them without a gold are left out.
    """
    rows = fetch(SOURCE, folder, split)
    where = rows.attrs["where"]
    found, group, seen, english_gold = [], -1, set(), ""
    for row, (prompt, chosen) in enumerate(zip(rows.prompt, rows.chosen, strict=True)):
        code, question = _instruction(prompt, where, row)
        solution, gold = _instruct_gold(chosen, code)
        if code == "en":
            group, seen, english_gold = group + 1, set(), gold
        matched = group >= 0 and code not in seen and gold in (english_gold, None)
        seen.add(code)
        target = english_gold if matched else gold
        if code == language and target:
            name = f"instruct-{group}" if matched else f"instruct-{code}-row-{row}"
            found.append((name, question, solution, target, matched))
    table = pd.DataFrame(found, columns=["id", "question", "solution", "target", "matched"])
    if table.empty or table.pop("matched").mean() < 0.5:
        raise ValueError(
            f"{where}: fewer than half of the {len(found)} rows in {language!r} follow an English "
            "row with their gold: the file is not in its owners' order"
        )
    return table


def _instruction(prompt: str, where: str, row: int) -> tuple[str, str]:
    """Language and question of a prompt."""
    head, _, body = prompt.partition("### Instruction:")
    spoken = re.search(rf"\bin ({'|'.join(_SPOKEN)})\b", head)
    question = body.strip().split("\n\n")[0].strip()
    if not (spoken and question):
        raise ValueError(
            f"{where} row {row}: no language before '### Instruction:' or no question after it "
            f"({prompt[:60]!r})"
        )
    return _SPOKEN[spoken[1]], question


def _instruct_gold(chosen: str, code: str) -> tuple[str, str | None]:
    """Solution and gold of a response: what follows `####`, or else its last number."""
    solution, mark, gold = chosen.partition("####")
    return solution.strip(), get_language(code).extract_last_number(gold if mark else solution)


BENCHMARKS = (
    Benchmark(
        name="mgsm8kinstruct",
        sources=(SOURCE,),
        languages=msvamp.LANGUAGES,
        splits={"calibration": "train"},
        reader=_rows,
        lay_out=word_problems,
    ),
)
