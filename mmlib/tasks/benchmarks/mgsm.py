"""MGSM: the first 250 GSM8K test problems in eleven languages, asked with its eight examples."""

import itertools
import re
from pathlib import Path

import pandas as pd

from mmlib.tasks.answers import extract_number
from mmlib.tasks.records import (
    Benchmark,
    Document,
    Folder,
    golds,
    questions,
    same_golds,
    same_rows,
    word_problems,
)
from mmlib.tasks.sources import Source, fetch, read_table

SOURCE = Source(  # its loading script no longer runs, its files are those of google-research
    path="mgsm/mgsm_{language}.tsv",
    id="juletxara/mgsm",
    file="mgsm_{language}.tsv",
    revision="f52417ca77bd71e9888ddc29f92587660725d2b4",
    licence="CC BY 4.0 (google-research/url-nlp); CC BY-SA 4.0 on the card",
    columns=("question", "answer"),
)


def _rows(language: str, split: str, folder: Path | None) -> pd.DataFrame:
    """Ids are those of GSM8K's test rows."""
    return parallel(SOURCE, language, folder)


def parallel(source: Source, language: str, folder: Path | None, prefix: str = "") -> pd.DataFrame:
    """A test set without solutions, which must be parallel to its English file by row.

    The columns of its source are the question and the answer.
    """
    question, answer = source.columns
    rows = fetch(source, folder, "test", language=language)
    where = rows.attrs["where"]
    # MGSM's Parquet copies have the gold in a column of its own, and no text in `answer`.
    answer = "answer_number" if "answer_number" in rows else answer
    targets = golds(rows[answer], where)
    if language != "en":
        english = fetch(source, folder, "test", language="en")
        same_rows(rows, english)
        same_golds(targets, golds(english[answer], english.attrs["where"]), where)
    ids = [f"{prefix}{row}" for row in range(len(rows))]
    return pd.DataFrame({"id": ids, "question": rows[question], "solution": "", "target": targets})


def _labelled(benchmark: Benchmark, language: str, folder: Folder) -> list[Document]:
    """Labels are those of MGSM's examples in this language."""
    example = _exemplars(language, folder)[0]
    ask, cue = _label(example["question"]), _label(example["answer"])
    return [
        document | {"prompt": f"{ask} {document['question']}\n{cue}"}
        for document in questions(benchmark, language, folder)
    ]


def _examples(language: str, folder: Folder) -> tuple[list[Document], list[str]]:
    """MGSM's examples in this language; the next question ends an answer."""
    rows = _exemplars(language, folder)
    return [_shot(row) for row in rows], [_label(rows[0]["question"]), "</s>", "<|im_end|>"]


def _label(text: str) -> str:
    """What stands before the first colon, and the colon."""
    return re.match("[^:：]*[:：]", text)[0]


def _exemplars(language: str, folder: Folder) -> list[dict]:
    """MGSM's eight worked examples."""
    path = Path(folder or ".").expanduser() / "mgsm" / "exemplars.jsonl"
    hint = (
        "MGSM is asked with its eight examples, which are not on the hub as data; put "
        "exemplars.jsonl (language, id, question, answer) into data_dir/mgsm"
    )
    rows = read_table(path, ["language", "id", "question", "answer"], hint).to_dict("records")
    rows = [row for row in rows if row["language"] == language]
    if len(rows) != 8:
        raise ValueError(f"{path} has {len(rows)} examples in {language!r}: MGSM has 8 of each")
    for row, part in itertools.product(rows, ("question", "answer")):
        if not re.search("[:：]", str(row[part])):
            raise ValueError(
                f"{path}: the {part} of example {row['id']} in {language!r} has no label with a "
                f"colon before it ({row[part]!r}); write it as in MGSM, 'Question: …'"
            )
    return sorted(rows, key=lambda row: int(row["id"]))


def _shot(row: dict) -> Document:
    cue = _label(row["answer"])
    return {"prompt": f"{row['question']}\n{cue}", "target": row["answer"][len(cue) :].strip()}


MGSM = Benchmark(
    name="mgsm",
    sources=(SOURCE,),
    languages=("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"),
    splits={"heldout": "test"},
    reader=_rows,
    lay_out=word_problems,
    documents=_labelled,
    config="mgsm",
    examples=_examples,
    extract=extract_number,
)
BENCHMARKS = (MGSM,)
