"""Ask, extract, grade: one row per problem.

The asking is EleutherAI's lm-evaluation-harness, which the papers used. The model object itself is
passed in, so an edited model is graded without a reload, and nothing is read from the network.
"""

import functools
import logging
import math
import warnings
from collections.abc import Collection, Sequence
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path

import datasets
import pandas as pd
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib import skills
from mmlib.languages import parse_number
from mmlib.skills import EXTRACTIONS, FAMILY, SKILLS, Document

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
UNSOLVED = 300
"""Tokens that an answer may have where no solutions are known (the published cap of Hindi)."""


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
        tasks: One or several of `mmlib.skills.SKILLS`.
        languages: ISO 639-1 codes.
        limit: Only the first `limit` items per task and language; they are parallel across
            languages.
        only: Only the items with these ids, before `limit` counts; None for all.
        batch_size: Prompts per batch.
        data_dir: As in `load_problems`.
        progress: Show the harness' progress bars.

    Returns:
        Columns `COLUMNS`; two rows per problem that is answered in words, one per extraction
        (`prediction` is missing when nothing could be extracted, and `correct` is then False), and
        one for a ranked choice (`extraction` is then "likelihood", and the most likely text both
        response and prediction).

    Raises:
        ValueError: Unknown task or language, no languages, `limit` below 1, or `only` is empty or
            has an id that no task has.
        FileNotFoundError: As in `load_problems`.
    """
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if wrong := [task for task in tasks if task not in SKILLS]:
        raise ValueError(f"cannot grade task {wrong[0]!r}: choose from {', '.join(SKILLS)}")
    for name, given in {"tasks": tasks, "languages": languages}.items():
        if isinstance(given, str) or not given or len(set(given)) != len(given):
            raise ValueError(f"{name} is {given!r}: give a list of at least one, each of them once")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give at least 1, or None for all items")
    pairs = [(task, code) for task in tasks for code in languages]
    asked = {pair: skills.documents(*pair, data_dir) for pair in pairs}
    configs = {pair: skills.config(*pair, data_dir) for pair in pairs}
    for pair, documents in asked.items():
        if SKILLS[pair[0]].extract:
            configs[pair]["generation_kwargs"]["max_gen_toks"] = _cap(tokenizer, documents)
    asked = {pair: part[:limit] for pair, part in _chosen(asked, only).items()}
    with nullcontext() if progress else redirect_stderr(StringIO()):
        result = _ask(model, tokenizer, asked, configs, batch_size)
    rows = [
        row
        for task, code in asked
        for sample in sorted(result["samples"][f"{task}-{code}"], key=lambda s: s["doc_id"])
        for row in _rows(sample["doc"], sample["filtered_resps"], task, code)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"prediction": "str"})


_Asked = dict[tuple[str, str], list[Document]]
"""The documents of each task and language."""


def _chosen(asked: _Asked, only: Collection[str] | None) -> _Asked:
    """The documents with the wanted ids; tasks that have none of them are left out."""
    if only is None:
        return asked
    if not only:
        raise ValueError("only is empty: give ids of items, or None for all")
    known = {document["id"] for part in asked.values() for document in part}
    if unknown := set(only) - known:
        raise ValueError(f"there is no item {min(unknown)!r}; ids look like {min(known)!r}")
    chosen = {pair: [d for d in part if d["id"] in only] for pair, part in asked.items()}
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
    if isinstance(languages, str) or not languages:
        raise ValueError(f"languages is {languages!r}: give a list of at least one")
    ids = pd.Series([d["id"] for t in FAMILY for d in skills.documents(t, languages[0], folder)])
    parts = ids.groupby(ids.map(_part))
    if not 0 <= items <= parts.size().min():
        raise ValueError(f"items is {items}: give 0 for all, or at most {parts.size().min()}")
    ids = parts.sample(items, random_state=seed) if items else ids
    answers = evaluate(
        model, tokenizer, FAMILY, languages=languages, only=set(ids), data_dir=folder
    ).query("extraction == 'strict'")
    answers.insert(0, "part", answers.problem_id.map(_part))
    return answers.reset_index(drop=True)


def _part(problem_id: str) -> str:
    return problem_id.split("-heldout")[0]


def _ask(model, tokenizer, asked: _Asked, configs: dict, batch_size: int) -> dict:
    """Run the harness on everything at once; returns its results and logged samples."""
    tasks = [_harness_task(*pair, part, configs[pair]) for pair, part in asked.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of the harness about defaults we set on purpose
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        return simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=tasks,
            task_manager=_task_manager(),
            bootstrap_iters=0,
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )


@functools.cache
def _task_manager() -> TaskManager:
    return TaskManager(include_defaults=False)


def _cap(tokenizer, documents: Sequence[Document]) -> int:
    """Tokens that an answer may have: 20 % more than the longest gold with its EOS."""
    texts = [document["response"] for document in documents]
    if not all(texts):
        return UNSOLVED
    encoded = tokenizer(texts, add_special_tokens=False).input_ids
    return math.ceil(1.2 * (max(map(len, encoded)) + 1))


def _harness_task(task: str, language: str, documents: list[Document], config: dict) -> dict:
    """A task of the harness, with our documents and grading."""
    data = datasets.Dataset.from_list(documents)

    def grade(document: dict, responses: list) -> dict[str, float]:
        rows = _rows(document, responses, task, language)
        return {row["extraction"]: float(row["correct"]) for row in rows}

    metrics = EXTRACTIONS if SKILLS[task].extract else ("likelihood",)
    return config | {
        "task": f"{task}-{language}",
        "custom_dataset": lambda **_: {"test": data},
        "test_split": "test",
        "process_results": grade,
        "metric_list": [
            {"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics
        ],
    }


def _rows(document: dict, responses: list, task: str, language: str) -> list[dict]:
    """The graded rows of one response, or of the log-likelihoods of the choices."""
    extract = SKILLS[task].extract
    if extract is None:
        best = max(range(len(responses)), key=lambda index: responses[index][0])
        text = document["choices"][best]
        readings = [("likelihood", text, text, best == document["gold"])]
    else:
        text, readings = responses[0], []
        for mode in EXTRACTIONS:
            found = extract(text, language, mode)
            right = found is not None and _same(found, document["target"])
            readings.append((mode, text, found, right))
    known = [language, task, document["id"], document["target"]]
    return [
        dict(zip(COLUMNS, [*known, response, prediction, mode, correct], strict=True))
        for mode, response, prediction, correct in readings
    ]


def _same(prediction: str, target: str) -> bool:
    """Whether two answers are the same words, or the same number however it is written."""
    if prediction == target:
        return True
    value = parse_number(prediction, "en")
    return value is not None and value == parse_number(target, "en")
