"""Orca-Math: English word problems with free solutions."""

from pathlib import Path

import pandas as pd

from mmlib.tasks.languages import get_language
from mmlib.tasks.records import Benchmark, word_problems
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="orca-math/{split}-00000-of-00001.parquet",
    id="microsoft/orca-math-word-problems-200k",
    revision="main",
    licence="MIT",
    columns=("question", "answer"),
)


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """The last number of a solution is taken for the gold; rows without one are left out."""
    rows = fetch(SOURCE, folder, split)
    golds = rows.answer.map(get_language("en").extract_last_number)
    kept = rows.assign(target=golds).dropna(subset="target")
    return pd.DataFrame(
        {
            "id": [f"orca-{row}" for row in kept.index],
            "question": kept.question.str.strip().tolist(),
            "solution": kept.answer.str.strip().tolist(),
            "target": kept.target.tolist(),
        }
    )


BENCHMARKS = (
    Benchmark(
        name="orca-math",
        sources=(SOURCE,),
        languages=("en",),
        splits={"calibration": "train"},
        reader=_rows,
        lay_out=word_problems,
    ),
)
