"""MMLU without STEM: the paper's validation text, or Global-MMLU's test questions.

Questions whose number in their id is a multiple of five are asked and the others are calibration
text: no row is in both, each part has all subjects (files are sorted by them), and a question of
Global-MMLU-Lite is in the same part as in Global-MMLU.
"""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mmlib.tasks.languages import LANGUAGES
from mmlib.tasks.records import Benchmark, choice_problems, lettered, listed, with_choices
from mmlib.tasks.sources import Source, fetch

VALIDATION = Source(
    path="mmlu/mmlu_val_{language}.csv",
    id="cais/mmlu",
    config="all",
    revision="c30699e8356da336a370243923dbaf21066bb9fe",
    licence="MIT",
    columns=("question", "subject", "choices", "answer"),
    folder_columns=("qa",),  # what is laid out already is enough for calibration
)
TEST = Source(
    path="global-mmlu/{language}/{split}-00000-of-00001.parquet",
    id="CohereLabs/Global-MMLU",
    config="{language}",
    revision="0e619dbeb34206cd48705a1a0ea7fb21cae09993",
    licence="Apache-2.0",
    columns=("sample_id", "subject", "question", "answer", *(f"option_{c}" for c in "abcd")),
)
LITE = replace(
    TEST,
    path="global-mmlu-lite/global_mmlu_lite_{language}.jsonl",
    id="CohereLabs/Global-MMLU-Lite",
    revision="main",
)
"""400 of them in every language; seven Chinese rows have another answer than the English ones."""
STEM = (
    "abstract_algebra",
    "astronomy",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_physics",
    "conceptual_physics",
    "econometrics",
    "elementary_mathematics",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_mathematics",
    "high_school_physics",
    "high_school_statistics",
    "professional_accounting",
)
"""The MMLU subjects that arXiv 2606.18453 leaves out of its non-math text."""


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    if split == "validation" or (folder and split != "test"):
        return _validation_rows(language, folder)
    return _global_rows(language, folder)


def _asked(rows: pd.DataFrame) -> pd.Series:
    return rows.id.str.rpartition("/")[2].astype(int) % 5 == 0


def _validation_rows(language: str, folder: Path | None) -> pd.DataFrame:
    if folder is None and language != "en":
        raise ValueError(
            "mmlu's validation questions are on the hub in English only: "
            "take split='test' (Global-MMLU), or give data_dir"
        )
    rows = fetch(VALIDATION, folder, "validation", language=language)
    where = rows.attrs["where"]
    if folder:
        parts = [_laid_out(text, where, row) for row, text in enumerate(rows.qa)]
        prompts, responses = zip(*parts, strict=True)
        ids = [str(row) for row in range(len(rows))]
        if {"question", "choices", "answer"} <= set(rows):  # else enough for calibration
            options = [listed(value, where, row) for row, value in enumerate(rows.choices)]
            rows = with_choices(ids, rows, options, where)
        return rows.assign(id=ids, prompt=prompts, response=responses)
    rows = rows[~rows.subject.isin(STEM)]
    ids = [str(row) for row in range(len(rows))]
    return with_choices(ids, rows, [list(choices) for choices in rows.choices], where)


def _global_rows(language: str, folder: Path | None, source: Source = TEST) -> pd.DataFrame:
    if language == "th":
        raise ValueError("mmlu has no test questions in 'th': Global-MMLU lacks Thai")
    rows = fetch(source, folder, "test", language=language)
    where = rows.attrs["where"]
    rows = rows[~rows.subject.isin(STEM)]
    options = rows[[f"option_{letter}" for letter in "abcd"]].astype(str).values.tolist()
    return with_choices(rows.sample_id.tolist(), rows, options, where)


def _laid_out(text: str, where: str, row: int) -> tuple[str, str]:
    """Split the text of a published MMLU file before its answer."""
    found = re.fullmatch(r"(.+\n\n[^\n:]+:)(\s*\S.*)", text, flags=re.DOTALL)
    if not found:
        raise ValueError(f"{where} row {row}: not 'question, choices, answer' ({text[:40]!r})")
    return found.groups()


BENCHMARKS = (
    Benchmark(
        name="mmlu",
        sources=(VALIDATION, TEST),
        languages=tuple(code for code in LANGUAGES if "-" not in code),
        splits={"heldout": "", "calibration": "", "validation": "validation", "test": "test"},
        reader=_rows,
        asked=_asked,
        lay_out=choice_problems,
        documents=lettered,
        config="mmlu",
    ),
    Benchmark(
        name="global-mmlu-lite",
        sources=(LITE,),
        languages=("en", "de", "fr", "hi", "es", "zh", "ja", "sw", "bn"),
        splits={"heldout": "test", "calibration": "test"},
        reader=lambda language, _, folder: _global_rows(language, folder, LITE),
        asked=_asked,
        lay_out=choice_problems,
        documents=lettered,
        config="mmlu",
    ),
)
