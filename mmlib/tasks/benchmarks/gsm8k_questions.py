"""GSM8K train questions with their English ones, for pairs; the hub has them in MGSM8KInstruct."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from mmlib.tasks.benchmarks import mgsm8kinstruct
from mmlib.tasks.languages import get_language
from mmlib.tasks.records import Benchmark, golds, word_problems
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="gsm8k/gsm8k_train_parallel_questions_1500.jsonl",
    id=mgsm8kinstruct.SOURCE.id,
    revision=mgsm8kinstruct.SOURCE.revision,
    licence="Apache-2.0 (MGSM8KInstruct); the file is from github NJUNLP/QAlign @a65ee63",
    columns=mgsm8kinstruct.SOURCE.columns,
    folder_columns=("i", "gold", "answer_en", "q_en"),
)


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """Machine translations: rows with other numbers than the English question are left out.

    `attrs["left_out"]` says how many. Solutions are English: other languages have them in
    `english_solution`, so that no text mixes two languages. They and the golds are those of
    MGSM8KInstruct, not of GSM8K: 47 of the 1,500 golds in the file differ from GSM8K's.
    """
    table = _from_folder(language, folder) if folder else _from_hub(language)
    own, english = get_language(language), get_language("en")
    pairs = zip(table.question, table.english, strict=True)
    same = [own.numbers(text) == english.numbers(translation) for text, translation in pairs]
    kept = table[same].reset_index(drop=True)
    kept.attrs["left_out"] = len(table) - len(kept)
    return kept.assign(solution=kept.english_solution if language == "en" else "")


def _from_folder(language: str, folder: Path) -> pd.DataFrame:
    question = f"q_{language}"
    needed = replace(SOURCE, folder_columns=(*SOURCE.folder_columns, question))
    rows = fetch(needed, folder, "train")
    return pd.DataFrame(
        {
            "id": [f"train-{row}" for row in rows.i],
            "question": rows[question],
            "english": rows.q_en,
            "english_solution": rows.answer_en.str.partition("####")[0].str.strip(),
            "target": golds(rows.gold, rows.attrs["where"]),
        }
    )


def _from_hub(language: str) -> pd.DataFrame:
    (benchmark,) = mgsm8kinstruct.BENCHMARKS
    names = {"question": "english", "solution": "english_solution"}
    english = benchmark.read("en", "train").rename(columns=names).drop(columns="target")
    return benchmark.read(language, "train").drop(columns="solution").merge(english, on="id")


BENCHMARKS = (
    Benchmark(
        name="gsm8k-questions",
        sources=(SOURCE,),
        languages=("en", "de", "es", "fr", "ja", "ru", "sw", "zh"),
        splits={"calibration": "train"},
        reader=_rows,
        lay_out=word_problems,
    ),
)
