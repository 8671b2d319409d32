"""The record of a benchmark, and what the files of several of them share."""

import ast
import io
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmlib.tasks.answers import Extraction
from mmlib.tasks.languages import get_language, parse_number
from mmlib.tasks.numbers import write_number
from mmlib.tasks.sources import Source

Document = dict[str, Any]
"""`id`, `target`, `response` (the worked solution, or empty) and what the YAML fills in; a ranked
task has `choices` and the index `gold` of the right one."""
Folder = str | Path | None


@dataclass(frozen=True)
class Problem:
    """One item: what the model is asked, and what a right answer looks like.

    `id` is equal across languages, so that items with one id are translations of each other.
    """

    id: str
    language: str
    task: str
    prompt: str
    response: str
    """The worked solution, written as it follows `prompt`."""
    target: str
    """The gold answer."""

    @property
    def text(self) -> str:
        """Prompt and response: the calibration text."""
        return self.prompt + self.response


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All that is known of one task; the functions stand beside it in its file."""

    name: str
    reader: Callable[[str, str, Path | None], pd.DataFrame]
    """Language, the owners' name of a split and data folder -> rows."""
    sources: tuple[Source, ...] = ()
    """Where its files lie; none for the tasks of organisms, which lie in their folders."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes; none where the folder says which there are."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """What the splits it takes are called by its owners, or "" where that depends on the folder;
    the owners' names are taken too. A test set is no calibration text, but for xCSQA, whose test
    questions have no published answers."""
    asked: Callable[[pd.DataFrame], Sequence[bool]] | None = None
    """Rows -> whether each is held out, where the splits are parts of one file (see `parted`)."""
    lay_out: Callable[[str, str, pd.DataFrame], list[Problem]] | None = None
    """Task, language and rows -> calibration texts; None for sentences and ranked tasks."""
    documents: Callable[["Benchmark", str, Folder], list[Document]] | None = None
    """The record, language and data folder -> documents in their order; None: not graded."""
    config: str = ""
    """Name of a file in `tasks/harness/`; `{language}` is filled in."""
    examples: Callable[[str, Folder], tuple[list[Document], list[str]]] | None = None
    """Language and data folder -> worked examples and what ends an answer, where the file of
    `config` cannot hold them."""
    extract: Callable[[str, str, Extraction], str | None] | None = None
    """Reads an answer from a response, its language and the mode; None for a ranked task."""

    def read(self, language: str, split: str, data_dir: Folder = None) -> pd.DataFrame:
        """Read the rows of one language, see `mmlib.tasks.problems.read`."""
        if self.languages and language not in self.languages:
            choices = ", ".join(self.languages)
            raise ValueError(f"{self.name} has no {language!r}: choose from {choices}")
        splits = dict.fromkeys(filter(None, [*self.splits, *self.splits.values()]))
        if splits and split not in splits:
            raise ValueError(f"{self.name} has no split {split!r}: choose from {', '.join(splits)}")
        folder = Path(data_dir).expanduser() if data_dir else None
        rows = self.reader(language, self.splits.get(split, split), folder)
        return parted(rows, split, self.asked(rows)) if self.asked else rows


# --- golds and parallel rows ---


def golds(values: pd.Series, where: str) -> list[str]:
    """Golds in canonical form; benchmarks write them in English style, some with commas."""
    numbers = [parse_number(str(value), "en") for value in values]
    if None in numbers:
        row = numbers.index(None)
        raise ValueError(f"{where} row {row}: the gold {[*values][row]!r} is not a number")
    return [write_number(number) for number in numbers]


def same_rows(rows: pd.DataFrame, english: pd.DataFrame) -> None:
    """Refuse to align two files by row when they differ in length."""
    if len(rows) != len(english):
        raise ValueError(
            f"{rows.attrs['where']} has {len(rows)} rows, the English file {len(english)}: which "
            "rows are missing is not said, so ids and golds cannot be taken from the English rows"
        )


def same_golds(golds: list[str], english: list[str], where: str) -> None:
    """Refuse rows that have other golds than their English rows."""
    differing = [
        row for row, pair in enumerate(zip(golds, english, strict=True)) if len({*pair}) > 1
    ]
    if differing:
        row = differing[0]
        raise ValueError(
            f"{where} is not parallel to the English file: row {row} has the gold {golds[row]}, "
            f"the English row {english[row]} ({len(differing)} rows differ)"
        )


def parted(rows: pd.DataFrame, split: str, asked: Sequence[bool]) -> pd.DataFrame:
    """Part one file into what is asked and what is calibrated on; no row is in both.

    Args:
        rows: All rows; `attrs["where"]` says where they come from.
        split: "heldout", "calibration", or another name for all rows.
        asked: Whether each row is held out.

    Raises:
        ValueError: The part has no rows.
    """
    if split not in ("heldout", "calibration"):
        return rows
    kept = rows[np.asarray(asked) == (split == "heldout")].reset_index(drop=True)
    if kept.empty:
        raise ValueError(
            f"{rows.attrs['where']} has {len(rows)} rows, too few for a part {split!r}: give a "
            "longer file, or name the owners' split to take all of them"
        )
    return kept


# --- choices ---


def with_choices(
    ids: list[str], rows: pd.DataFrame, options: list[list[str]], where: str
) -> pd.DataFrame:
    """Rows of questions with choices, of which `rows.answer` says the right one."""
    pairs = enumerate(zip(options, rows.answer, strict=True))
    right = [right_option(*pair, where, row) for row, pair in pairs]
    asked = {"id": ids, "question": rows.question.tolist(), "choices": options, "gold": right}
    targets = [texts[gold] for texts, gold in zip(options, right, strict=True)]
    table = pd.DataFrame(asked).assign(target=targets)
    table.attrs = rows.attrs
    return table


def listed(value: object, where: str, row: int) -> list[str]:
    """Options as a list; CSV files have them as a Python list, some with quotes unescaped."""
    if not isinstance(value, str):
        return list(value)
    try:
        texts = list(ast.literal_eval(value))
        tokens = tokenize.generate_tokens(io.StringIO(value).readline)
        written = sum(token.type == tokenize.STRING for token in tokens)
    except (SyntaxError, ValueError):
        if not (value.strip().startswith("[") and value.strip().endswith("]")):
            raise ValueError(
                f"{where} row {row}: {value[:80]!r} is no list of options; write ['one', 'two']"
            ) from None
        texts = value.strip().removeprefix("['").removesuffix("']").split("', '")
        written = len(texts)
    if len(texts) < max(2, written):  # texts without a comma between them would join
        raise ValueError(
            f"{where} row {row}: read {len(texts)} of {written} options in {value[:80]!r}; write "
            "them as a list with commas, ['one', 'two']"
        )
    return texts


def right_option(options: list[str], answer: object, where: str, row: int) -> int:
    """The index of the right option, which is given as a letter or as an index from 0."""
    index = "ABCDE".find(str(answer)) if str(answer).isalpha() else int(answer)
    if not 0 <= index < len(options):
        raise ValueError(f"{where} row {row}: the answer {answer!r} is none of {options}")
    return index


# --- calibration texts ---


def word_problems(task: str, language: str, rows: pd.DataFrame) -> list[Problem]:
    """Word problems in the published calibration layout."""
    record, problems = get_language(language), []
    for row in rows.itertuples():
        prompt, response = record.word_problem(row.question, row.solution, row.target)
        problems.append(Problem(row.id, language, task, prompt, response, row.target))
    return problems


def choice_problems(task: str, language: str, rows: pd.DataFrame) -> list[Problem]:
    """Questions in the published MMLU layout, with their passage before and choices after them."""
    record, problems = get_language(language), []
    for row in rows.to_dict("records"):
        if "prompt" in row:
            prompt, response = row["prompt"], row["response"]
        else:
            prompt, response = record.choice_problem(
                row["question"], row.get("choices", ()), row.get("target", "")
            )
        passage = f"{row['article'].strip()}\n\n" if "article" in row else ""
        problems.append(
            Problem(row["id"], language, task, passage + prompt, response, response.strip())
        )
    return problems


# --- documents ---


def questions(benchmark: Benchmark, language: str, folder: Folder) -> list[Document]:
    """Word problems as they stand."""
    rows = benchmark.read(language, "heldout", folder)
    rows = rows.rename(columns={"solution": "response"})
    return rows[["id", "question", "response", "target"]].to_dict("records")


def lettered(benchmark: Benchmark, language: str, folder: Folder) -> list[Document]:
    """Lettered options; the answer is a letter."""
    rows = benchmark.read(language, "heldout", folder)
    if "choices" not in rows:
        raise ValueError(
            f"{benchmark.name} in {language!r} has no choices: its file needs question and answer"
        )
    documents = []
    for row in rows.to_dict("records"):
        asked = {"question": row["question"], "options": row["choices"]}
        letters = list("ABCDE"[: len(row["choices"])])
        documents.append(ranked(row["id"], letters, row["gold"], letters[row["gold"]], **asked))
    return documents


def ranked(name: str, choices: list[str], gold: int, target: str, **asked: Any) -> Document:
    """What is answered by the most likely one of several choices."""
    answer = {"response": "", "target": target, "choices": choices, "gold": gold}
    return {"id": name, **asked, **answer}
