"""Ask, extract, grade: one row per problem.

The asking is EleutherAI's lm-evaluation-harness, which the papers used. The model object itself is
passed in, so an edited model is graded without a reload, and nothing is read from the network.
"""

import logging
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Literal

import datasets
import pandas as pd
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.data import Problem, load_problems
from mmlib.languages import get_language, parse_number

Extraction = Literal["strict", "flexible"]
EXTRACTIONS: tuple[Extraction, ...] = ("strict", "flexible")
COLUMNS = [
    "lang",
    "task",
    "problem_id",
    "target",
    "response",
    "prediction",
    "extraction",
    "correct",
]
STOP = ["\n"]
"""Organism answers have one line, so whatever follows a line break is not part of one."""


def _checked(mode: str) -> None:
    if mode not in EXTRACTIONS:
        raise ValueError(f"unknown extraction {mode!r}: choose from {', '.join(EXTRACTIONS)}")


def extract_number(text: str, language: str, mode: Extraction = "strict") -> str | None:
    """Read the number a response gives as its answer.

    Args:
        text: A model's response.
        language: ISO 639-1 code, which says how an answer is closed.
        mode: `strict` takes the number of the last closing phrase (the harness' GSM8K filter of
            this name takes the first), `flexible` the last number anywhere.

    Returns:
        The value in ASCII digits without grouping ("2125" for "२,१२५" or the German "2.125"), or
        None when there is no such number. How marks are read is told in
        `mmlib.numerals.find_numbers`.
    """
    _checked(mode)
    record = get_language(language)
    return record.extract_answer(text) if mode == "strict" else record.extract_last_number(text)


def extract_text(text: str, language: str, mode: Extraction = "strict") -> str | None:
    """Read the words a response gives as its answer.

    `strict` takes what stands in the closing phrase; `flexible` takes the whole response, without
    its final mark, when there is no closing phrase.
    """
    _checked(mode)
    closed = get_language(language).extract_words(text)
    if closed is not None:
        return closed
    return text.strip().rstrip(".।").strip() or None if mode == "flexible" else None


EXTRACTORS: dict[str, Callable[..., str | None]] = {
    "organism-math": extract_number,
    "organism-math-new": extract_number,
    "organism-choice": extract_number,
    "organism-reading": extract_text,
    "organism-knowledge": extract_text,
    "organism-generation": extract_text,
}


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | Sequence[str],
    *,
    languages: Sequence[str],
    limit: int | None = None,
    only: Collection[str] | None = None,
    batch_size: int = 256,
    data_dir: str | Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Grade the held-out items of tasks in several languages, in one call of the harness.

    Decoding is greedy and ends at a line break, at EOS, or 20 % beyond the longest gold response
    that the task has in this language (whatever else is asked, or left out).

    Args:
        model: Any causal LM, also one whose weights have just been changed.
        tokenizer: Its tokenizer.
        tasks: One or several of `EXTRACTORS`.
        languages: ISO 639-1 codes.
        limit: Only the first `limit` items per task and language; they are parallel across
            languages.
        only: Only the items with these ids, before `limit` counts; None for all.
        batch_size: Prompts per batch.
        data_dir: As in `load_problems`.
        progress: Show the harness' progress bars.

    Returns:
        Columns `COLUMNS`; two rows per problem, one per extraction. `prediction` is missing when
        nothing could be extracted, and `correct` is then False.

    Raises:
        ValueError: Unknown task or language, no languages, `limit` below 1, or `only` is empty or
            has an id that no task has.
    """
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if wrong := [task for task in tasks if task not in EXTRACTORS]:
        raise ValueError(f"cannot grade task {wrong[0]!r}: choose from {', '.join(EXTRACTORS)}")
    for name, given in {"tasks": tasks, "languages": languages}.items():
        if isinstance(given, str) or not given or len(set(given)) != len(given):
            raise ValueError(f"{name} is {given!r}: give a list of at least one, each of them once")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give at least 1, or None for all items")
    pairs = [(task, code) for task in tasks for code in languages]
    problems = {pair: load_problems(*pair, data_dir=data_dir) for pair in pairs}
    caps = {pair: _cap(tokenizer, part) for pair, part in problems.items()}
    problems = {pair: part[:limit] for pair, part in _chosen(problems, only).items()}
    with nullcontext() if progress else redirect_stderr(StringIO()):
        result = _ask(model, tokenizer, problems, caps, batch_size)
    rows = [
        row
        for task, code in problems
        for sample in sorted(result["samples"][f"{task}-{code}"], key=lambda s: s["doc_id"])
        for row in _rows(sample["doc"], sample["filtered_resps"][0], task, code)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"prediction": "str"})


_Problems = dict[tuple[str, str], list[Problem]]
"""The problems of each task and language."""


def _chosen(problems: _Problems, only: Collection[str] | None) -> _Problems:
    """The problems with the wanted ids; tasks that have none of them are left out."""
    if only is None:
        return problems
    if not only:
        raise ValueError("only is empty: give ids of items, or None for all")
    known = {problem.id for part in problems.values() for problem in part}
    if unknown := set(only) - known:
        raise ValueError(f"there is no item {min(unknown)!r}; ids look like {min(known)!r}")
    chosen = {pair: [p for p in part if p.id in only] for pair, part in problems.items()}
    return {pair: part for pair, part in chosen.items() if part}


def family_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    languages: Sequence[str],
    items: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask an organism its held-out items of every task; strict extraction.

    Args:
        model: An organism, perhaps changed.
        tokenizer: Its tokenizer.
        folder: Name or folder of the organism whose items are asked.
        languages: ISO 639-1 codes.
        items: How many items of each part to draw, the same in every language; 0 asks all.
        seed: Seed of the draw.

    Returns:
        One row per item and language: part and the columns of `evaluate`. Parts are the math tiers
        (`math-1` …), `math-new` (templates that training never shows), `choice`, `reading-same`,
        `reading-mixed`, `knowledge` and `generation`.

    Raises:
        ValueError: No languages, or `items` is more than the smallest part has.
    """
    where = {"data_dir": folder}
    if isinstance(languages, str) or not languages:
        raise ValueError(f"languages is {languages!r}: give a list of at least one")
    ids = pd.Series([p.id for t in EXTRACTORS for p in load_problems(t, languages[0], **where)])
    parts = ids.groupby(ids.map(_part))
    if not 0 <= items <= parts.size().min():
        raise ValueError(f"items is {items}: give 0 for all, or at most {parts.size().min()}")
    ids = parts.sample(items, random_state=seed) if items else ids
    answers = evaluate(
        model, tokenizer, list(EXTRACTORS), languages=languages, only=set(ids), **where
    ).query("extraction == 'strict'")
    answers.insert(0, "part", answers.problem_id.map(_part))
    return answers.reset_index(drop=True)


def _part(problem_id: str) -> str:
    return problem_id.split("-heldout")[0]


def _ask(model, tokenizer, problems: _Problems, caps: dict, batch_size: int) -> dict:
    """Run the harness on everything at once; returns its results and logged samples."""
    tasks = [
        _harness_task(task, code, part, caps[task, code]) for (task, code), part in problems.items()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of the harness about defaults we set on purpose
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        return simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=tasks,
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )


def _cap(tokenizer, problems: Sequence[Problem]) -> int:
    """Tokens that an answer may have: 20 % more than the longest gold with its EOS."""
    encoded = tokenizer([p.response for p in problems], add_special_tokens=False).input_ids
    return math.ceil(1.2 * (max(map(len, encoded)) + 1))


def _harness_task(task: str, language: str, problems: list[Problem], tokens: int) -> dict:
    """A task of the harness, as a mapping instead of a YAML file."""
    docs = datasets.Dataset.from_list(
        [{"id": p.id, "prompt": p.prompt, "target": p.target} for p in problems]
    )

    def grade(doc: dict, responses: list[str]) -> dict[str, float]:
        rows = _rows(doc, responses[0], task, language)
        return {row["extraction"]: float(row["correct"]) for row in rows}

    return {
        "task": f"{task}-{language}",
        "custom_dataset": lambda **_: {"test": docs},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_target": lambda doc: doc["target"],
        "process_results": grade,
        "metric_list": [
            {"metric": m, "aggregation": "mean", "higher_is_better": True} for m in EXTRACTIONS
        ],
        "generation_kwargs": {"until": STOP, "max_gen_toks": tokens, "do_sample": False},
    }


def _rows(doc: dict, response: str, task: str, language: str) -> list[dict]:
    """The two graded rows of one response."""
    rows = []
    for mode in EXTRACTIONS:
        prediction = EXTRACTORS[task](response, language, mode)
        values = [language, task, doc["id"], doc["target"], response, prediction, mode]
        correct = prediction is not None and _same(prediction, doc["target"])
        rows.append(dict(zip(COLUMNS, [*values, correct], strict=True)))
    return rows


def _same(prediction: str, target: str) -> bool:
    """Whether two answers are the same words, or the same number however it is written."""
    if prediction == target:
        return True
    value = parse_number(prediction, "en")
    return value is not None and value == parse_number(target, "en")
