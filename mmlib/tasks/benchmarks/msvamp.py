"""MSVAMP, asked as MGSM is: with MGSM's eight examples."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from mmlib.tasks.benchmarks.mgsm import MGSM, parallel
from mmlib.tasks.sources import Source

SOURCE = Source(
    path="msvamp/test_{name}.json",
    id="Mathoctopus/MSVAMP",
    config="{language}",
    revision="main",
    licence="Apache-2.0",
    columns=("m_query", "response"),
)
LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "th", "zh")
"""Those of its owners' data sets."""


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    return parallel(SOURCE, language, folder, prefix="msvamp-")


BENCHMARKS = (replace(MGSM, name="msvamp", sources=(SOURCE,), languages=LANGUAGES, reader=_rows),)
