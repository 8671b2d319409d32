"""X-CSQA: common-sense questions with five lettered options."""

from pathlib import Path

import pandas as pd

from mmlib.tasks.records import Benchmark, choice_problems, lettered, with_choices
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="xcsqa/{language}/{split}.jsonl",
    id="INK-USC/xcsr",
    config="X-CSQA-{variant}",
    revision="main",
    licence="MIT",
    columns=("id", "question", "answerKey"),
)


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """The hub has the options as lists, the owners' files as records."""
    named = "validation" if split == "dev" and folder is None else split
    code = "jap" if language == "ja" else language
    rows = fetch(SOURCE, folder, named, language=language, variant=code)
    stems = [question["stem"] for question in rows.question]
    options = [_texts(question["choices"]) for question in rows.question]
    if split == "test":
        return pd.DataFrame({"id": rows.id.tolist(), "question": stems, "choices": options})
    rows = rows.assign(question=stems, answer=rows.answerKey)
    return with_choices(rows.id.tolist(), rows, options, rows.attrs["where"])


def _texts(choices: dict | list) -> list[str]:
    return list(choices["text"]) if isinstance(choices, dict) else [own["text"] for own in choices]


BENCHMARKS = (
    Benchmark(
        name="xcsqa",
        sources=(SOURCE,),
        languages=("en", "de", "fr", "hi", "es", "ru", "zh", "ja", "sw"),
        splits={"heldout": "dev", "calibration": "test"},
        reader=_rows,
        lay_out=choice_problems,
        documents=lettered,
        config="xcsqa",
    ),
)
