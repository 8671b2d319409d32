"""FLORES: sentences that are parallel by row, for pairs."""

from pathlib import Path

import pandas as pd

from mmlib.tasks.records import Benchmark, same_rows
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="flores/{split}/{variant}.{split}",
    id="facebook/flores",
    config="{variant}",
    revision="refs/convert/parquet",  # its main branch has a loading script
    licence="CC BY-SA 4.0",
    columns=("sentence",),
)
CODES = {
    "en": "eng_Latn",
    "de": "deu_Latn",
    "fr": "fra_Latn",
    "hi": "hin_Deva",
    "es": "spa_Latn",
    "ru": "rus_Cyrl",
    "zh": "zho_Hans",
    "ja": "jpn_Jpan",
    "th": "tha_Thai",
    "sw": "swh_Latn",
    "bn": "ben_Beng",
    "te": "tel_Telu",
}
"""FLORES' own codes."""


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    rows = fetch(SOURCE, folder, split, variant=CODES[language])
    if language != "en":
        same_rows(rows, fetch(SOURCE, folder, split, variant=CODES["en"]))
    return pd.DataFrame({"id": [str(n) for n in range(len(rows))], "sentence": rows.sentence})


BENCHMARKS = (
    Benchmark(
        name="flores",
        sources=(SOURCE,),
        languages=tuple(CODES),
        splits={"calibration": "dev", "devtest": "devtest"},
        reader=_rows,
    ),
)
