"""XQuAD: questions about passages of Wikipedia, whose answers stand in the passage."""

from pathlib import Path

import pandas as pd

from mmlib.tasks.records import Benchmark, choice_problems
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="xquad/xquad_{language}.jsonl",
    id="google/xquad",
    config="xquad.{language}",
    revision="51adfef1c1287aab1d2d91b5bead9bcfb9c68583",
    licence="CC BY-SA 4.0",
    columns=("id", "context", "question", "answers"),
    folder_columns=("context", "qas"),
)
ASKED = 274
"""Questions about its first 10 articles, which are held out: no passage is in both parts."""


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """The hub has a row per question, a folder one per passage."""
    rows = fetch(SOURCE, folder, split, language=language)
    try:
        if folder:
            asked = [
                (q["id"], row.context, q["q"], q["a"]) for row in rows.itertuples() for q in row.qas
            ]
        else:
            asked = [
                (row.id, row.context, row.question, row.answers["text"][0])
                for row in rows.itertuples()
            ]
    except (KeyError, TypeError) as error:
        where = rows.attrs["where"]
        raise ValueError(f"{where}: a question lacks {error}: it needs id, q and a") from None
    table = pd.DataFrame(asked, columns=["id", "article", "question", "target"])
    table = table.replace("\ufeff", "", regex=True)  # byte order marks within texts
    table.attrs = rows.attrs
    return table


BENCHMARKS = (
    Benchmark(
        name="xquad",
        sources=(SOURCE,),
        languages=("en", "de", "es", "hi", "ru", "th", "zh"),
        splits={"heldout": "validation", "calibration": "validation"},
        reader=_rows,
        asked=lambda rows: rows.index < ASKED,
        lay_out=choice_problems,
    ),
)
