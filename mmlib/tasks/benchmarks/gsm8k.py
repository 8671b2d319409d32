"""GSM8K, and its translations with golds of the English rows.

Calibration text is the train split. A folder without it has the test file only: then the rows that
MGSM has too are asked, and the others are calibration text. No row is in both, in no language.
"""

import re
from difflib import SequenceMatcher
from pathlib import Path

import pandas as pd

from mmlib.tasks.answers import extract_number
from mmlib.tasks.records import Benchmark, golds, parted, questions, same_rows, word_problems
from mmlib.tasks.sources import Source, fetch

ENGLISH = Source(
    path="gsm8k/{split}.jsonl",
    id="openai/gsm8k",
    config="main",
    revision="e53f048856ff4f594e959d75785d2c2d37b678ee",
    licence="MIT",
    columns=("question", "answer"),
)
TRANSLATED = Source(
    path="gsm8k-translated/gsm8k_{language}_{split}.csv",
    id="math-across-languages/gsm8k-translated",
    config="{language}",  # as its card is described; we have not seen its configurations
    revision="main",
    licence="other, for research use",
    columns=("question", "answer"),
)
ASKED = 250
"""MGSM's problems: the first test rows."""


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    if folder and not (folder / ENGLISH.path.format(split="train")).is_file():
        rows = _whole(language, "train" if split == "train" else "test", folder)
        return parted(rows, split, rows.index < ASKED)
    return _whole(language, {"heldout": "test", "calibration": "train"}.get(split, split), folder)


def _whole(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """Golds come from the English row: many translated ones are lost or garbled."""
    english = fetch(ENGLISH, folder, split)
    rows = english if language == "en" else fetch(TRANSLATED, folder, split, language=language)
    if split == "train" and len(rows) != len(english):
        rows, english = _by_calculations(rows, english)
    same_rows(rows, english)
    marked = english.answer.str.extract(r"####\s*(\S+)\s*$")[0]
    if marked.isna().any():
        where, row = english.attrs["where"], marked.isna().idxmax()
        raise ValueError(f"{where} row {row}: the answer does not end in '#### number'")
    prefix = "" if split == "test" else f"{split}-"
    table = pd.DataFrame(
        {
            "id": [f"{prefix}{row}" for row in english.index],
            "question": rows.question.tolist(),
            "solution": [answer.split("####")[0].strip() for answer in rows.answer],
            "target": golds(marked, english.attrs["where"]),
        }
    )
    table.attrs = rows.attrs
    return table


def _by_calculations(
    rows: pd.DataFrame, english: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair translated solutions with English ones by their `<<calculations>>`, kept verbatim.

    Hindi train lacks two rows, so row numbers do not say what is parallel. Rows between two pairs
    are paired in their order where as many are left on both sides, and left out otherwise.

    Returns:
        The paired rows of both files; the English ones keep their row numbers. Both files as they
        are when less than 99 % of the rows can be paired.
    """
    theirs, ours = (
        [tuple(re.findall("<<(.*?)>>", answer)) for answer in table.answer]
        for table in (english, rows)
    )
    pairs = [
        pair
        for _, i, i_end, j, j_end in SequenceMatcher(
            None, theirs, ours, autojunk=False
        ).get_opcodes()
        if i_end - i == j_end - j
        for pair in zip(range(i, i_end), range(j, j_end), strict=True)
    ]
    if len(pairs) < 0.99 * min(len(rows), len(english)):
        return rows, english
    theirs, ours = zip(*pairs, strict=True)
    return rows.iloc[list(ours)], english.iloc[list(theirs)]


BENCHMARKS = (
    Benchmark(
        name="gsm8k",
        sources=(ENGLISH, TRANSLATED),
        languages=("en", "de", "fr", "hi"),
        splits={name: name for name in ("heldout", "calibration", "test", "train")},
        reader=_rows,
        lay_out=word_problems,
        documents=questions,
        config="gsm8k_{language}",
        extract=extract_number,
    ),
)
