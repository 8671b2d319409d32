"""RACE for high schools and middle schools: questions about a passage."""

from functools import partial
from pathlib import Path

import pandas as pd

from mmlib.tasks.records import (
    Benchmark,
    Document,
    Folder,
    choice_problems,
    listed,
    ranked,
    with_choices,
)
from mmlib.tasks.sources import Source, fetch

SOURCE = Source(
    path="race/race_{language}_{variant}_{split}.csv",
    id="ehovy/race",
    config="{variant}",
    revision="2fec9fd81f1dc971569a9b729c43f2f0e6436637",
    licence="for research only",
    columns=("example_id", "article", "question", "options", "answer"),
)


def _rows(language: str, split: str, folder: Path | None, level: str) -> pd.DataFrame:
    """Ids are the passage's and the question's number in it: translations may lack some."""
    if folder is None and language != "en":
        raise ValueError("race is on the hub in English only: give data_dir for translations")
    rows = fetch(SOURCE, folder, split, language=language, variant=level)
    number = rows.groupby("example_id").cumcount()
    ids = [f"{passage}-{n}" for passage, n in zip(rows.example_id, number, strict=True)]
    where = rows.attrs["where"]
    options = [listed(value, where, row) for row, value in enumerate(rows.options)]
    return with_choices(ids, rows, options, where).assign(article=rows.article.tolist())


def _passages(benchmark: Benchmark, language: str, folder: Folder) -> list[Document]:
    """One document per passage: its last question, after the others with their answers."""
    rows = benchmark.read(language, "heldout", folder)
    documents = []
    for _, passage in rows.groupby(rows.id.str.rpartition("-")[0], sort=False):
        *earlier, last = passage.to_dict("records")
        told = [_answered(row["question"], row["target"]) for row in earlier]
        prompt = f"Article: {last['article']}\n\n{''.join(told)}{last['question']}"
        answer = [last[key] for key in ("choices", "gold", "target")]
        documents.append(ranked(last["id"], *answer, prompt=prompt))
    return documents


def _answered(question: str, answer: str) -> str:
    """A question with its answer, which fills the gap of a cloze question."""
    if question.endswith("  _  ."):
        return f"{question[:-5]}{answer}\n"
    return f"Question: {question}\nAnswer: {answer}\n"


BENCHMARKS = tuple(
    Benchmark(
        name=name,
        sources=(SOURCE,),
        languages=("en", "de", "fr", "hi"),
        splits={"heldout": "test", "calibration": "train", "validation": "validation"},
        reader=partial(_rows, level=level),
        lay_out=choice_problems,
        documents=_passages,
        config="race",
    )
    for name, level in {"race": "high", "race-middle": "middle"}.items()
)
