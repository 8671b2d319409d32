"""Word problems and calibration text as plain records and batches."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from mmlib.languages import get_language
from mmlib.models import ORGANISMS

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
            For gsm8k and mmlu the folder that holds them in their owners' layout:
            `gsm8k/test.jsonl` and `gsm8k-translated/gsm8k_{language}_test.csv`,
            `mmlu/mmlu_val_{language}.csv`.
        split: "heldout" or "calibration" for the organism's tasks; ignored by the others, which
            have one file per language.

    Raises:
        ValueError: Unknown task, language or split, or a file without a needed column.
        FileNotFoundError: The file is not there; the message says where it was looked for.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    return TASKS[task](task, get_language(language).code, data_dir, split)


def _organism(task: str, language: str, data_dir: str | Path | None, split: str) -> list[Problem]:
    name = str(data_dir or FALLBACK_ORGANISM)
    folder = ORGANISMS / name if name.startswith("organism-") else Path(name)
    if split not in ("heldout", "calibration"):
        raise ValueError(f"unknown split {split!r}: choose heldout or calibration")
    columns = ["id", "lang", "task", "prompt", "response", "target"]
    table = _table(folder / f"{split}.parquet", columns)
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


def _gsm8k(task: str, language: str, data_dir: str | Path | None, split: str) -> list[Problem]:
    """GSM8K in the published calibration layout; golds come from the English row (datasets.md)."""
    root, columns = _folder(task, data_dir), ["question", "answer"]
    english = _table(root / "gsm8k" / "test.jsonl", columns)
    path = root / "gsm8k-translated" / f"gsm8k_{language}_test.csv"
    rows = english if language == "en" else _table(path, columns)
    if len(rows) != len(english):
        raise ValueError(f"{path} has {len(rows)} rows, the English file {len(english)}")
    targets = english.answer.str.extract(r"####\s*(-?[\d,]+)\s*$")[0].str.replace(",", "")
    if targets.isna().any():
        row = targets.isna().idxmax()
        raise ValueError(f"gsm8k/test.jsonl row {row}: the answer does not end in '#### number'")
    problems = []
    for row, target in zip(rows.itertuples(), targets, strict=True):
        solution = row.answer.split("####")[0].strip()
        prompt, response = get_language(language).word_problem(row.question, solution, target)
        problems.append(Problem(str(row.Index), language, task, prompt, response, target))
    return problems


def _mmlu(task: str, language: str, data_dir: str | Path | None, split: str) -> list[Problem]:
    """MMLU validation without STEM: the paper's non-math text, as its `qa` column has it."""
    path = _folder(task, data_dir) / "mmlu" / f"mmlu_val_{language}.csv"
    problems = []
    for index, text in enumerate(_table(path, ["qa"]).qa):
        found = re.fullmatch(r"(.+\n\n[^\n:]+:)(\s*\S.*)", text, flags=re.DOTALL)
        if not found:
            raise ValueError(f"{path} row {index}: not 'question, choices, answer' ({text[:40]!r})")
        prompt, response = found.groups()
        problems.append(Problem(str(index), language, task, prompt, response, response.strip()))
    return problems


TASKS: dict[str, Callable] = {
    "organism-math": _organism,
    "organism-reading": _organism,
    "gsm8k": _gsm8k,
    "mmlu": _mmlu,
}


def _folder(task: str, data_dir: str | Path | None) -> Path:
    if not data_dir:
        raise ValueError(f"task {task!r} reads its files from a folder: give data_dir")
    return Path(data_dir)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": pd.read_parquet,
    ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, convert_dates=False),
}


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a file that must have `columns` and at least one row."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: check data_dir, task and language")
    try:
        table = READERS[path.suffix](path)
    except (ValueError, OSError) as error:  # pyarrow's, pandas' and json's errors are among these
        raise ValueError(f"{path} cannot be read: {error}") from error
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{path} lacks the columns {missing}: it has {list(table.columns)}")
    if table.empty:
        raise ValueError(f"{path} has no rows")
    return table


def load_calibration(
    task: str,
    language: str,
    *,
    num_samples: int,
    seed: int,
    replacement: bool = True,
    data_dir: str | Path | None = None,
) -> Calibration:
    """Draw calibration texts, as published: 500 with replacement, seeds 1, 101 and 201.

    The rows are those of the published code on the same file: pandas shuffles them with seed 1,
    then samples with `seed`. One seed draws the same row numbers in every language, so parallel
    files give parallel samples (in the published runs en, de and fr shared their problems).

    Args:
        task: One of `TASKS`.
        language: ISO 639-1 code.
        num_samples: Number of texts, at least 1.
        seed: Seed of the draw.
        replacement: Draw with replacement; without, `num_samples` may not exceed the file.
        data_dir: As in `load_problems`.

    Raises:
        ValueError: As in `load_problems`, or an impossible `num_samples`.
    """
    problems = load_problems(task, language, data_dir=data_dir, split="calibration")
    if num_samples < 1 or not (replacement or num_samples <= len(problems)):
        raise ValueError(
            f"num_samples={num_samples}: give 1 or more, and without replacement at most the "
            f"{len(problems)} texts that {task} has in {language}"
        )
    rows = pd.Series(range(len(problems))).sample(frac=1, random_state=1)
    chosen = [
        problems[row] for row in rows.sample(num_samples, replace=replacement, random_state=seed)
    ]
    return Calibration(
        task=task,
        language=language,
        texts=tuple(problem.text for problem in chosen),
        ids=tuple(problem.id for problem in chosen),
        num_available=len(problems),
        seed=seed,
        replacement=replacement,
    )


def batches(
    tokenizer: PreTrainedTokenizerBase,
    texts: Calibration | Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    sort: bool = True,
) -> list[dict[str, torch.Tensor]]:
    """Tokenise texts into right-padded batches, of similar length and longest first.

    Special tokens are those of the tokenizer's default (BOS for Llama, none for Qwen), as
    published. Longest first shows at once whether the memory suffices.

    Args:
        tokenizer: The model's tokenizer.
        texts: A calibration sample, or plain texts; at least one.
        batch_size: Prompts per batch.
        max_length: Longest text allowed, in tokens (`model.config.max_position_embeddings`).
        sort: Longest first; False keeps the order of the texts.

    Returns:
        Dicts of `input_ids` (int64) and `attention_mask`, both (batch, seq), on the CPU.

    Raises:
        ValueError: No text, an empty text, one that is longer than `max_length`, or a
            `batch_size` below 1.
    """
    texts = list(texts.texts if isinstance(texts, Calibration) else texts)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: give 1 or more")
    if not texts:
        raise ValueError("the calibration set is empty: give at least one prompt")
    rows = tokenizer(texts, add_special_tokens=True)["input_ids"]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    longest, shortest = order[0], order[-1]
    order = order if sort else list(range(len(rows)))
    if max_length and len(rows[longest]) > max_length:
        raise ValueError(
            f"text {longest} has {len(rows[longest])} tokens, the model reads {max_length}: "
            f"shorten or drop it ({texts[longest][:60]!r}…)"
        )
    if not rows[shortest]:
        raise ValueError(f"text {shortest} has no tokens")
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [_pad([rows[index] for index in chunk]) for chunk in chunks]


def _pad(rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Right-pad with id 0, which the attention mask hides: no pad token is needed."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
