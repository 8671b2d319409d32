"""Rows, word problems and calibration text of every task, as plain records."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmlib.tasks.benchmarks import (
    aya,
    flores,
    gsm8k,
    gsm8k_questions,
    mgsm,
    mgsm8kinstruct,
    mmlu,
    msvamp,
    ntrex,
    orca_math,
    organism,
    race,
    xcsqa,
    xquad,
)
from mmlib.tasks.languages import get_language
from mmlib.tasks.records import Problem

_FILES = (
    *(organism, gsm8k, mgsm, msvamp, mgsm8kinstruct, race, mmlu, xcsqa, orca_math, aya, flores),
    *(ntrex, xquad, gsm8k_questions),
)
BENCHMARKS = {benchmark.name: benchmark for file in _FILES for benchmark in file.BENCHMARKS}
"""Everything that is known of each task, by its name."""
TASKS = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.lay_out}
"""Those that have calibration texts."""


DRAWINGS = {
    "replacement": "drawn with replacement by the seed, as published",
    "once": "drawn without replacement by the seed",
    "blocks": "disjoint: the seed is the number of the block, from 1",
}
"""How a calibration sample is taken from the shuffled texts. Draws share texts; blocks do not."""


@dataclass(frozen=True)
class Calibration:
    """A sample of calibration texts, and how it was drawn."""

    task: str
    language: str
    texts: tuple[str, ...]
    ids: tuple[str, ...]
    num_available: int
    seed: int
    drawing: str


def read(task: str, language: str, split: str, data_dir: str | Path | None = None) -> pd.DataFrame:
    """Read the rows of one task in one language, in the order of their file.

    Args:
        task: One of `BENCHMARKS`.
        language: ISO 639-1 code.
        split: "heldout" (what is asked), "calibration", or the owners' own name, which is all rows.
            No row is in the first two, in any language. GSM8K is calibrated on its train split;
            from a folder without `gsm8k/train.jsonl` on test rows from 250, and the rows before
            them, which are MGSM's, are asked. Of MMLU every fifth question is asked: from a folder
            of the validation rows, from the hub of the test rows of Global-MMLU, the one split that
            it has in every language.
        data_dir: A folder with the files at the paths of their sources; without it, the hub.

    Returns:
        `id` (equal in all languages for translations of one item), `question` and `target` (a
        number in canonical form, or the text of the right choice); `solution` of a word problem
        (empty in test files that have none); `choices`, the index `gold` of the right one
        (translations may have two equal choices) and, in RACE, `article` of a question with
        choices (`choices` alone where answers are not published), of XQuAD `article` without
        choices; `sentence` alone of FLORES and NTREX; `english` and `english_solution` of
        translated train questions, and in `attrs["left_out"]` how many rows were left out;
        `instruction` and `response` alone of Aya, whose rows are not parallel. The
        published MMLU files are laid out already, as `prompt` and `response`.

    Raises:
        ValueError: A language or split that the task does not have, a file without a needed
            column or with a row that cannot be read, or translations that are not parallel.
        FileNotFoundError: The file is not there, or the hub cannot be reached.
    """
    return BENCHMARKS[task].read(language, split, data_dir)


def load_problems(
    task: str, language: str, *, data_dir: str | Path | None = None, split: str = "heldout"
) -> list[Problem]:
    """Load the items of one task in one language, in the order of their file.

    Args:
        task: One of `TASKS`.
        language: ISO 639-1 code.
        data_dir: For `organism-*` tasks an organism's name or folder (default: organism-skewed).
            For the others a folder that holds their files in their owners' layout, at the paths
            of their sources; without it they are loaded from the hub, at the revisions that
            stand there.
        split: "heldout" or "calibration"; benchmarks also take their owners' names, see `read`.

    Raises:
        ValueError: Unknown task, language or split, a file without a needed column, or
            translations that are not parallel.
        FileNotFoundError: The file is not there, or the hub cannot be reached; the message says
            where it was looked for and what to do.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    code = get_language(language).code
    try:
        return TASKS[task].lay_out(task, code, read(task, code, split, data_dir))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{task} in {code}: a value is no text: {error}") from error


def calibration(
    task: str,
    language: str,
    *,
    samples: int = 500,
    seed: int = 1,
    drawing: str = "blocks",
    data_dir: str | Path | None = None,
    split: str = "calibration",
) -> Calibration:
    """Calibration texts: a block of the shuffled rows, or drawn as published.

    Blocks share no text. The published samples are 500 with replacement, seeds 1, 101 and 201: the
    rows of the published code on the same file, which pandas shuffles with seed 1, then samples
    with `seed`. One seed draws the same row numbers in every language, so parallel files give
    parallel samples (in the published runs en, de and fr shared their problems).

    Args:
        task: One of `TASKS`.
        language: ISO 639-1 code.
        samples: Number of texts, at least 1.
        seed: Seed of the draw, or number of the block.
        drawing: One of `DRAWINGS`.
        data_dir: As in `load_problems`.
        split: As in `load_problems`. A test set has no split "calibration": name it to draw from
            it all the same.

    Raises:
        ValueError: As in `load_problems`, an unknown `drawing`, or more texts than there are.
    """
    if drawing not in DRAWINGS:
        raise ValueError(f"unknown drawing {drawing!r}: choose from {', '.join(DRAWINGS)}")
    problems = load_problems(task, language, data_dir=data_dir, split=split)
    last = samples * seed if drawing == "blocks" else samples
    if samples < 1 or last < samples or (drawing != "replacement" and last > len(problems)):
        raise ValueError(
            f"samples={samples} and seed={seed} with drawing={drawing!r}: {task} has "
            f"{len(problems)} texts in {language}. Give 1 or more, and no more than these without "
            "replacement; blocks are numbered from 1 and need samples x seed texts"
        )
    rows = pd.Series(range(len(problems))).sample(frac=1, random_state=1)
    if drawing == "blocks":
        rows = rows[last - samples : last]
    else:
        rows = rows.sample(samples, replace=drawing == "replacement", random_state=seed)
    chosen = [problems[row] for row in rows]
    return Calibration(
        task=task,
        language=language,
        texts=tuple(problem.text for problem in chosen),
        ids=tuple(problem.id for problem in chosen),
        num_available=len(problems),
        seed=seed,
        drawing=drawing,
    )
