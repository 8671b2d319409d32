"""Aya: instructions that people wrote and answered in the language itself."""

from pathlib import Path

import pandas as pd

from mmlib.tasks.benchmarks import flores
from mmlib.tasks.records import Benchmark, Problem
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="aya/{split}-00000-of-00001.parquet",
    id="CohereLabs/aya_dataset",
    revision="main",
    licence="Apache-2.0",
    columns=("inputs", "targets", "language_code"),
)
CODES = {code: name[:3] for code, name in flores.CODES.items()}
"""Aya's own codes, with which those of FLORES begin."""


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    rows = fetch(SOURCE, folder, split)
    where = rows.attrs["where"]
    rows = rows[rows.language_code == CODES[language]]
    if rows.empty:
        raise ValueError(f"{where} has no rows in {CODES[language]!r}")
    return pd.DataFrame(
        {
            "id": [f"aya-{row}" for row in rows.index],
            "instruction": rows.inputs.str.strip().tolist(),
            "response": rows.targets.str.strip().tolist(),
        }
    )


def _instructions(task: str, language: str, rows: pd.DataFrame) -> list[Problem]:
    """Instructions and their answers, a blank line between them."""
    return [
        Problem(row.id, language, task, row.instruction, f"\n\n{row.response}", row.response)
        for row in rows.itertuples()
        if row.instruction and row.response
    ]


BENCHMARKS = (
    Benchmark(
        name="aya",
        sources=(SOURCE,),
        languages=tuple(CODES),
        splits={"heldout": "test", "calibration": "train"},
        reader=_rows,
        lay_out=_instructions,
    ),
)
