"""NTREX: news without math, translated by people and parallel by sentence."""

from pathlib import Path

import pandas as pd

from mmlib.tasks.benchmarks import flores
from mmlib.tasks.records import Benchmark, Problem, same_rows
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="ntrex/{language}.txt",
    id="davidstap/NTREX",
    config="{variant}",
    revision="fd20d54141b6da952d5c68a2989472892489da0f",
    licence="CC BY-SA 4.0",
    columns=("text",),
)
CODES = flores.CODES | {"sw": "swa_Latn"}
ASKED = 395
"""Sentences of its first 25 documents, which are held out: no document is in both parts."""


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    rows = fetch(SOURCE, folder, split, language=language, variant=CODES[language])
    if language != "en":
        same_rows(rows, fetch(SOURCE, folder, split, language="en", variant=CODES["en"]))
    ids = [f"ntrex-{row}" for row in range(len(rows))]
    table = pd.DataFrame({"id": ids, "sentence": rows.text.str.strip()})
    table.attrs = rows.attrs
    return table


def _sentences(task: str, language: str, rows: pd.DataFrame) -> list[Problem]:
    """Sentences as they stand: text that asks and answers nothing."""
    return [Problem(row.id, language, task, row.sentence, "", "") for row in rows.itertuples()]


BENCHMARKS = (
    Benchmark(
        name="ntrex",
        sources=(SOURCE,),
        languages=tuple(CODES),
        splits={"heldout": "test", "calibration": "test"},
        reader=_rows,
        asked=lambda rows: rows.index < ASKED,
        lay_out=_sentences,
    ),
)
