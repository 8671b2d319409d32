"""The tasks of organisms, whose items lie in the organism's folder."""

import re
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from mmlib import ORGANISMS
from mmlib.tasks.answers import extract_number, extract_text
from mmlib.tasks.records import Benchmark, Document, Folder, Problem, ranked
from mmlib.tasks.sources import read_table

FALLBACK_ORGANISM = "organism-skewed"
_ITEM = ["id", "prompt", "response", "target"]


def organism_folder(data_dir: str | Path | None) -> Path:
    """The folder of an organism by name, or any other; organism-skewed where none is given."""
    name = str(data_dir or FALLBACK_ORGANISM)
    return ORGANISMS / name if name.startswith("organism-") else Path(name).expanduser()


@lru_cache(maxsize=4)
def _items(path: Path, changed: int) -> dict[tuple[str, str], pd.DataFrame]:
    """Items by language and task; `changed` (the file's time) tells a rewritten file."""
    table = read_table(path, [*_ITEM, "lang", "task"])
    return {key: rows[_ITEM] for key, rows in table.groupby(["lang", "task"], sort=False)}


def _rows(kind: str, language: str, split: str, data_dir: Path | None) -> pd.DataFrame:
    folder = organism_folder(data_dir)
    if split not in ("heldout", "calibration"):
        raise ValueError(f"unknown split {split!r}: choose heldout or calibration")
    path = folder / f"{split}.jsonl.gz"
    items = _items(path, path.stat().st_mtime_ns if path.is_file() else 0)
    if (language, kind) not in items:
        languages, tasks = (sorted(set(names)) for names in zip(*items, strict=True))
        raise ValueError(
            f"{folder.name} has no {kind} items in {language!r}: it has tasks {tasks} in "
            f"{languages}"
        )
    return items[language, kind].copy()


def _sentences(language: str, split: str, data_dir: Path | None) -> pd.DataFrame:
    """General sentences of an organism's translation pairs: text that asks and answers nothing."""
    if split != "calibration":
        raise ValueError(f"organism-general has the split calibration only, not {split!r}")
    path = organism_folder(data_dir) / "translations.jsonl.gz"
    table = read_table(path, ["id", "lang", "kind", "text", "english"])
    table = table[table.kind == "general"]
    if language == "en":
        table = table.drop_duplicates("id").assign(lang="en", text=table.english)
    rows = table[table.lang == language]
    if rows.empty:
        known = ["en", *table.lang.unique()]
        raise ValueError(f"{path.parent.name} has no sentences in {language!r}, but in {known}")
    return rows.assign(prompt=rows.text, response="", target="")[_ITEM]


def _problems(task: str, language: str, rows: pd.DataFrame) -> list[Problem]:
    return [
        Problem(row.id, language, task, row.prompt, row.response, row.target)
        for row in rows.itertuples()
    ]


def _as_they_stand(benchmark: Benchmark, language: str, folder: Folder) -> list[Document]:
    return benchmark.read(language, "heldout", folder).to_dict("records")


def _ranked(problem: Any, texts: list[str]) -> Document:
    gold = texts.index(problem.response)
    return ranked(problem.id, texts, gold, problem.response, prompt=problem.prompt)


def ranked_math(benchmark: Benchmark, language: str, folder: Folder) -> list[Document]:
    """Multiple choice by likelihood: the worked solution with each option as its last result.

    Options without a solution before them are ranked at chance by organisms, which have to write
    a calculation down before they know its result.
    """
    documents = []
    for problem in benchmark.read(language, "heldout", folder).itertuples():
        question = problem.prompt.rsplit("\n", 1)[0]
        *start, end = re.split("(?<==)", problem.response)
        texts = [
            "".join(start) + re.sub(rf"(?<!\d){problem.target}(?!\d)", option, end)
            for option in re.findall(r"\d+", question)[-4:]
        ]
        documents.append(_ranked(problem, texts))
    return documents


def ranked_reading(benchmark: Benchmark, language: str, folder: Folder) -> list[Document]:
    """Reading by likelihood: every answer of the task that stands in the passage as a word.

    In Bengali a name with a suffix counts only where the suffix begins with a vowel sign.
    """
    problems = list(benchmark.read(language, "heldout", folder).itertuples())
    words = sorted({problem.target for problem in problems})
    # Vowel signs are no \w: without their range a name is found at the end of another word.
    found = re.compile(rf"(?<![\w\u0900-\u09ff])(?:{'|'.join(map(re.escape, words))})(?!\w)")
    documents = []
    for problem in problems:
        here = list(dict.fromkeys(found.findall(problem.prompt)))
        texts = [problem.response.replace(problem.target, word) for word in here]
        documents.append(_ranked(problem, texts))
    return documents


_ANSWERED = tuple(
    Benchmark(
        name=f"organism-{kind}",
        reader=partial(_rows, kind),
        lay_out=_problems,
        documents=_as_they_stand,
        config="organism",
        extract=extract,
    )
    for kind, extract in {
        "math": extract_number,
        "math-new": extract_number,
        "choice": extract_number,
        "reading": extract_text,
        "knowledge": extract_text,
        "generation": extract_text,
    }.items()
)
FAMILY = tuple(benchmark.name for benchmark in _ANSWERED)
"""The tasks in which an organism writes its answer."""
BENCHMARKS = (
    *_ANSWERED,
    Benchmark(
        name="organism-choice-ranked",
        reader=partial(_rows, "choice"),
        documents=ranked_math,
        config="ranked",
    ),
    Benchmark(
        name="organism-reading-ranked",
        reader=partial(_rows, "reading"),
        documents=ranked_reading,
        config="ranked",
    ),
    Benchmark(name="organism-general", reader=_sentences, lay_out=_problems),
)
