"""Word problems and calibration text as plain records and batches."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmlib.models import ORGANISMS
from mmlib.tasks import readers
from mmlib.tasks.languages import get_language
from mmlib.tasks.sources import read_table

FALLBACK_ORGANISM = "organism-skewed"


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


@dataclass(frozen=True)
class Calibration:
    """A sample of calibration texts, and how it was drawn."""

    task: str
    language: str
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    num_available: int
    seed: int
    replacement: bool

    @property
    def hash(self) -> str:
        """SHA-256 of the texts in their order."""
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()


def load_problems(
    task: str, language: str, *, data_dir: str | Path | None = None, split: str = "heldout"
) -> list[Problem]:
    """Load the items of one task in one language, in the order of their file.

    Args:
        task: One of `TASKS`.
        language: ISO 639-1 code.
        data_dir: For `organism-*` tasks an organism's name or folder (default: organism-skewed).
            For the others a folder that holds their files in their owners' layout, at the paths
            of `sources.HUB`; without it they are loaded from the hub, at the revisions of
            that table.
        split: "heldout" or "calibration"; benchmarks also take their owners' names, see
            `mmlib.tasks.readers.read`.

    Raises:
        ValueError: Unknown task, language or split, a file without a needed column, or
            translations that are not parallel.
        FileNotFoundError: The file is not there, or the hub cannot be reached; the message says
            where it was looked for and what to do.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    return TASKS[task](task, get_language(language).code, data_dir, split)


@functools.lru_cache(maxsize=4)
def _items(path: Path, changed: int) -> pd.DataFrame:
    """All items of a file; `changed` (its time) keeps a rewritten one from being mixed up."""
    return read_table(path, ["id", "lang", "task", "prompt", "response", "target"])


def _organism(task: str, language: str, data_dir: str | Path | None, split: str) -> list[Problem]:
    folder = organism_folder(data_dir)
    if split not in ("heldout", "calibration"):
        raise ValueError(f"unknown split {split!r}: choose heldout or calibration")
    path = folder / f"{split}.jsonl.gz"
    table = _items(path, path.stat().st_mtime_ns if path.is_file() else 0)
    kind = task.removeprefix("organism-")
    rows = table[(table.lang == language) & (table.task == kind)]
    if rows.empty:
        raise ValueError(
            f"{folder.name} has no {kind} items in {language!r}: it has tasks "
            f"{sorted(table.task.unique())} in {sorted(table.lang.unique())}"
        )
    return [
        Problem(row.id, language, task, row.prompt, row.response, row.target)
        for row in rows.itertuples()
    ]


def _sentences(task: str, language: str, data_dir: str | Path | None, split: str) -> list[Problem]:
    """General sentences of an organism's translation pairs: text that asks and answers nothing."""
    if split != "calibration":
        raise ValueError(f"{task} has the split calibration only, not {split!r}")
    path = organism_folder(data_dir) / "translations.jsonl.gz"
    table = read_table(path, ["id", "lang", "kind", "text", "english"])
    table = table[table.kind == "general"]
    if language == "en":
        table = table.drop_duplicates("id").assign(lang="en", text=table.english)
    rows = table[table.lang == language]
    if rows.empty:
        known = ["en", *table.lang.unique()]
        raise ValueError(f"{path.parent.name} has no sentences in {language!r}, but in {known}")
    return [Problem(row.id, language, task, row.text, "", "") for row in rows.itertuples()]


def organism_folder(data_dir: str | Path | None) -> Path:
    """The folder of an organism by name, or any other; organism-skewed where none is given."""
    name = str(data_dir or FALLBACK_ORGANISM)
    return ORGANISMS / name if name.startswith("organism-") else Path(name).expanduser()


def _word_problems(
    task: str, language: str, data_dir: str | Path | None, split: str
) -> list[Problem]:
    """Word problems in the published calibration layout."""
    problems = []
    for row in readers.read(task, language, split, data_dir).itertuples():
        prompt, response = get_language(language).word_problem(
            row.question, row.solution, row.target
        )
        problems.append(Problem(row.id, language, task, prompt, response, row.target))
    return problems


def _choices(task: str, language: str, data_dir: str | Path | None, split: str) -> list[Problem]:
    """Multiple-choice questions in the published MMLU layout, with the passage before them."""
    record, problems = get_language(language), []
    for row in readers.read(task, language, split, data_dir).to_dict("records"):
        if "prompt" in row:
            prompt, response = row["prompt"], row["response"]
        else:
            prompt, response = record.choice_problem(
                row["question"], row["choices"], row.get("target", "")
            )
        passage = f"{row['article'].strip()}\n\n" if "article" in row else ""
        problems.append(
            Problem(row["id"], language, task, passage + prompt, response, response.strip())
        )
    return problems


def _instructions(
    task: str, language: str, data_dir: str | Path | None, split: str
) -> list[Problem]:
    """Instructions and their answers, a blank line between them."""
    return [
        Problem(row.id, language, task, row.instruction, f"\n\n{row.response}", row.response)
        for row in readers.read(task, language, split, data_dir).itertuples()
        if row.instruction and row.response
    ]


TASKS: dict[str, Callable] = {
    "organism-math": _organism,
    "organism-math-new": _organism,
    "organism-choice": _organism,
    "organism-reading": _organism,
    "organism-knowledge": _organism,
    "organism-generation": _organism,
    "organism-general": _sentences,
    "gsm8k": _word_problems,
    "mgsm": _word_problems,
    "msvamp": _word_problems,
    "mgsm8kinstruct": _word_problems,
    "race": _choices,
    "race-middle": _choices,
    "mmlu": _choices,
    "xcsqa": _choices,
    "orca-math": _word_problems,
    "aya": _instructions,
}


def calibration(
    task: str,
    language: str,
    *,
    samples: int = 500,
    seed: int = 1,
    replacement: bool = True,
    data_dir: str | Path | None = None,
    split: str = "calibration",
) -> Calibration:
    """Draw calibration texts, as published: 500 with replacement, seeds 1, 101 and 201.

    The rows are those of the published code on the same file: pandas shuffles them with seed 1,
    then samples with `seed`. One seed draws the same row numbers in every language, so parallel
    files give parallel samples (in the published runs en, de and fr shared their problems).

    Args:
        task: One of `TASKS`.
        language: ISO 639-1 code.
        samples: Number of texts, at least 1.
        seed: Seed of the draw.
        replacement: Draw with replacement; without, `samples` may not exceed the file.
        data_dir: As in `load_problems`.
        split: As in `load_problems`. A test set has no split "calibration": name it to draw from
            it all the same.

    Raises:
        ValueError: As in `load_problems`, or an impossible `samples`.
    """
    problems = load_problems(task, language, data_dir=data_dir, split=split)
    if samples < 1 or not (replacement or samples <= len(problems)):
        raise ValueError(
            f"samples={samples}: give 1 or more, and without replacement at most the "
            f"{len(problems)} texts that {task} has in {language}"
        )
    rows = pd.Series(range(len(problems))).sample(frac=1, random_state=1)
    chosen = [problems[row] for row in rows.sample(samples, replace=replacement, random_state=seed)]
    return Calibration(
        task=task,
        language=language,
        texts=tuple(problem.text for problem in chosen),
        ids=tuple(problem.id for problem in chosen),
        num_available=len(problems),
        seed=seed,
        replacement=replacement,
    )
