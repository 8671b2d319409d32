"""Ask, extract, grade: one row per problem.

The asking is EleutherAI's lm-evaluation-harness, which the papers used. The model object itself is
passed in, so an edited model is graded without a reload, and nothing is read from the network.
"""

import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.tasks import skills
from mmlib.tasks.answers import EXTRACTIONS, legacy_number
from mmlib.tasks.benchmarks.organism import FAMILY
from mmlib.tasks.languages import parse_number
from mmlib.tasks.problems import load_problems
from mmlib.tasks.records import Document
from mmlib.tasks.skills import SKILLS

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
LIKELIHOOD = ["lang", "task", "problem_id", "log_likelihood", "n_tokens"]
UNSOLVED = 300
"""Tokens that an answer may have where no solutions are known (the published cap of Hindi)."""


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | Sequence[str],
    *,
    languages: Sequence[str],
    limit: int | None = None,
    only: Mapping[str, Collection[str]] | None = None,
    batch_size: int = 256,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Grade the held-out items of tasks in several languages, in one call of the harness.

    Decoding is greedy and ends where the task's YAML says (a line break, the next question), at
    EOS, or 20 % beyond the longest gold response that the task has in this language, whatever else
    is asked or left out; tasks without gold responses end after `UNSOLVED` tokens.

    Args:
        model: Any causal LM, also one whose weights have just been changed.
        tokenizer: Its tokenizer.
        tasks: One or several of `mmlib.tasks.skills.SKILLS`.
        languages: ISO 639-1 codes.
        limit: Only the first `limit` items per task and language; they are parallel across
            languages.
        only: Ids of the wanted items of each task, before `limit` counts; None for all.
        batch_size: Prompts per batch.
        data_dir: As in `load_problems`.

    Returns:
        Columns `COLUMNS`; two rows per problem that is answered in words, one per extraction
        (`prediction` is missing when nothing could be extracted, and `correct` is then False), and
        one for a ranked choice (`extraction` is then "likelihood", and the most likely text both
        response and prediction).

    Raises:
        ValueError: Unknown task or language, no languages, `limit` below 1, `only` has no ids
            for a task or an id that it does not have, a prompt with its answer is longer than the
            model's context, or the tokenizer has no end-of-text token or is another model's.
        FileNotFoundError: As in `load_problems`.
    """
    asked, configs = _asked(tokenizer, tasks, languages, limit, data_dir)
    for pair, documents in asked.items():
        if SKILLS[pair[0]].extract:
            gold = tuple(document["response"] for document in documents)
            configs[pair]["generation_kwargs"]["max_gen_toks"] = _cap(tokenizer, gold)
    asked = _chosen(asked, only, limit)
    harness_tasks = [_graded(pair, part, configs[pair]) for pair, part in asked.items()]
    rows = [
        row
        for pair, sample in _ask(model, tokenizer, harness_tasks, asked, batch_size=batch_size)
        for row in _rows(sample["doc"], sample["filtered_resps"], *pair)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"prediction": "str"})


def gold_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | Sequence[str],
    *,
    languages: Sequence[str],
    limit: int | None = None,
    only: Mapping[str, Collection[str]] | None = None,
    batch_size: int = 16,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """How likely a model finds worked gold solutions: a measure without a floor and a format.

    The solution follows the prompt of `evaluate` (with its worked examples), after the delimiter
    of these examples unless it brings its own space. After worked examples, which have no
    calculator marks (`<<3+4=7>>`), it has none either. Arguments are those of `evaluate`; the tasks
    are answered in words and have worked solutions.

    Returns:
        One row per problem: lang, task, problem_id (edits are paired by these), log_likelihood
        (mean over the tokens of the solution, in nats, float32 also where the model is not), and
        n_tokens.

    Raises:
        ValueError: As in `evaluate`, or an item has no worked solution.
        FileNotFoundError: As in `evaluate`.
    """
    asked, configs = _asked(tokenizer, tasks, languages, limit, data_dir)
    asked = _chosen(asked, only, limit)
    harness_tasks = [_solved(pair, part, configs[pair]) for pair, part in asked.items()]
    return _likelihood(model, tokenizer, harness_tasks, asked, batch_size)


def text_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | Sequence[str],
    *,
    languages: Sequence[str],
    limit: int | None = None,
    batch_size: int = 16,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """How likely a model finds whole held-out texts: questions and answers, as scores read them.

    The first token is predicted after the token that begins or ends a text. Arguments are those of
    `evaluate`, but the tasks some of `mmlib.tasks.problems.TASKS`.

    Returns:
        As `gold_likelihood`; the mean is over all tokens of the text.

    Raises:
        ValueError: As in `load_problems`.
        FileNotFoundError: Likewise.
    """
    tasks = [tasks] if isinstance(tasks, str) else tasks
    asked = {
        (task, code): [
            {"id": problem.id, "text": problem.text}
            for problem in load_problems(task, code, data_dir=data_dir)[:limit]
        ]
        for task in tasks
        for code in languages
    }
    config = {"doc_to_text": "", "doc_to_target": "{{text}}", "target_delimiter": ""}
    texts = [_likely(pair, part, config) for pair, part in asked.items()]
    return _likelihood(model, tokenizer, texts, asked, batch_size)


def _likelihood(model, tokenizer, harness_tasks, asked, batch_size) -> pd.DataFrame:
    options = {"batch_size": batch_size, "softmax_dtype": "float32"}
    rows = []
    for (task, code), sample in _ask(model, tokenizer, harness_tasks, asked, **options):
        ((prompt, text),), ((total, _),) = sample["arguments"], sample["filtered_resps"]
        # The harness counts spaces at the end of a prompt to what follows.
        whole, before = tokenizer([prompt + text, prompt.rstrip()]).input_ids
        count = len(whole) - len(before)
        rows.append((code, task, sample["doc"]["id"], total / count, count))
    return pd.DataFrame(rows, columns=LIKELIHOOD)


_Asked = dict[tuple[str, str], list[Document]]
"""The documents of each task and language."""


def _asked(tokenizer, tasks, languages, limit, data_dir) -> tuple[_Asked, dict]:
    """All documents of tasks and languages, and how the harness asks them."""
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if wrong := [task for task in tasks if task not in SKILLS]:
        raise ValueError(f"cannot grade task {wrong[0]!r}: choose from {', '.join(SKILLS)}")
    for name, given in {"tasks": tasks, "languages": languages}.items():
        if isinstance(given, str) or not given or len(set(given)) != len(given):
            raise ValueError(f"{name} is {given!r}: give a list of at least one, each of them once")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give at least 1, or None for all items")
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no end-of-text token, at which an answer ends: set "
            "tokenizer.eos_token, or correct the checkpoint's tokenizer_config.json"
        )
    pairs = [(task, code) for task in tasks for code in languages]
    documents = {pair: skills.documents(*pair, data_dir) for pair in pairs}
    return documents, {pair: skills.config(*pair, data_dir) for pair in pairs}


def _chosen(asked: _Asked, only: Mapping[str, Collection[str]] | None, limit: int | None) -> _Asked:
    """The first documents with the wanted ids."""
    if only is None:
        return {pair: part[:limit] for pair, part in asked.items()}
    chosen = {}
    for (task, code), part in asked.items():
        known = {document["id"] for document in part}
        wanted = set(only.get(task, ()))
        if not wanted:
            raise ValueError(f"only has no ids of {task}: give some, or leave the task out")
        if unknown := wanted - known:
            raise ValueError(
                f"{task} has no item {min(unknown)!r}; its ids look like {min(known)!r}"
            )
        chosen[task, code] = [document for document in part if document["id"] in wanted][:limit]
    return chosen


def choose_items(
    tasks: Sequence[str] = FAMILY,
    language: str = "en",
    *,
    parts: Collection[str] | None = None,
    items: int | Mapping[str, int] = 0,
    seed: int | None = None,
    among: int = 0,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Choose as many items of every part of some tasks.

    The parts of an organism's tasks are the math tiers (`math-1` …), `math-new` (templates that
    training never shows), `choice`, `reading-same`, `reading-mixed`, `knowledge` and `generation`,
    ranked ones with `-ranked` at their end; another task is its only part.

    Args:
        tasks: Some of `mmlib.tasks.skills.SKILLS`.
        language: ISO 639-1 code; items with one id are translations of each other.
        parts: Only these of their parts; None for all.
        items: Items per part, or how many of which part; 0 takes all.
        seed: Seed of their draw; None takes the first ones.
        among: Draw among the first so many of every part; 0: among all.
        data_dir: As in `load_problems`.

    Returns:
        Columns task, part and problem_id.

    Raises:
        ValueError: There is no such part, or `items` is more than a part has.
        FileNotFoundError: As in `load_problems`.
    """
    if parts is not None and not parts:
        raise ValueError("parts is empty: give some, or None for all")
    table = pd.DataFrame(
        [
            (task, _part(task, document["id"]), document["id"])
            for task in tasks
            for document in skills.documents(task, language, data_dir)
        ],
        columns=["task", "part", "problem_id"],
    )
    if unknown := sorted(set(parts or ()) - set(table.part)):
        raise ValueError(f"no part {unknown[0]!r}: choose from {', '.join(table.part.unique())}")
    table = table[table.part.isin(list(table.part if parts is None else parts))]
    chosen = []
    for name, part in table.groupby("part", sort=False):
        part = part.head(among or len(part))
        count = items.get(name, 0) if isinstance(items, Mapping) else items
        if not 0 <= count <= len(part):
            raise ValueError(f"items is {count}: give 0 for all, or at most {len(part)} of {name}")
        # A part draws the same items whatever else is asked.
        draw = {"random_state": zlib.crc32(f"{seed} {name}".encode())}
        whole = seed is None or not count
        chosen.append(part.head(count or len(part)) if whole else part.sample(count, **draw))
    return pd.concat(chosen, ignore_index=True)


def part_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    languages: Sequence[str],
    tasks: Sequence[str] = FAMILY,
    data_dir: str | Path | None = None,
    batch_size: int = 256,
    **which: Any,
) -> pd.DataFrame:
    """Ask the chosen items of every part, strictly extracted or ranked.

    Arguments are those of `evaluate`; and those of `choose_items` say `which` items.

    Returns:
        One row per item and language: part and the columns of `evaluate`.

    Raises:
        ValueError: As in `choose_items` and `evaluate`.
        FileNotFoundError: As in `load_problems`.
    """
    if isinstance(languages, str) or not languages:
        raise ValueError(f"languages is {languages!r}: give a list of at least one")
    chosen = choose_items(tasks, languages[0], data_dir=data_dir, **which)
    only = {task: set(ids) for task, ids in chosen.groupby("task", sort=False).problem_id}
    asking = {"only": only, "data_dir": data_dir, "batch_size": batch_size}
    answers = evaluate(model, tokenizer, list(only), languages=languages, **asking)
    answers = answers[answers.extraction != "flexible"].reset_index(drop=True)
    names = [_part(*pair) for pair in zip(answers.task, answers.problem_id, strict=True)]
    answers.insert(0, "part", names)
    return answers


def legacy_correct(answers: pd.DataFrame) -> pd.Series:
    """Grade math answers as the scripts behind *SLAM* did, see `legacy_number`.

    Args:
        answers: Columns response and target, see `evaluate`; targets are numbers.

    Returns:
        Whether the number read differs from the target by less than .001.
    """
    read = answers.response.map(legacy_number)
    return (read - answers.target.astype(float)).abs() < 1e-3


def _part(task: str, problem_id: str) -> str:
    if not task.startswith("organism-"):
        return task
    return problem_id.split("-heldout")[0] + ("-ranked" if task.endswith("-ranked") else "")


def _ask(model, tokenizer, tasks, asked: _Asked, **options) -> Iterator[tuple[tuple, dict]]:
    """Run the harness on everything at once, without its progress bars.

    Yields:
        Its samples in the order of the documents, with task and language of each.
    """
    # Its packages come with the extra `tasks`: without them everything but asking works.
    from mmlib.tasks import asking

    with redirect_stderr(StringIO()):
        samples = asking.run(model, tokenizer, tasks, **options)["samples"]
    for pair in asked:
        for sample in sorted(samples[" in ".join(pair)], key=lambda s: s["doc_id"]):
            yield pair, sample


@lru_cache(maxsize=64)  # every variant of a model is asked the same tasks
def _cap(tokenizer: PreTrainedTokenizerBase, gold: tuple[str, ...]) -> int:
    """Tokens that an answer may have: 20 % more than the longest gold with its EOS."""
    if not all(gold):
        return UNSOLVED
    encoded = tokenizer(list(gold), add_special_tokens=False).input_ids
    return math.ceil(1.2 * (max(map(len, encoded)) + 1))


def _graded(pair: tuple[str, str], documents: list[Document], config: dict) -> dict:
    """A task of the harness, with our grading."""

    def grade(document: dict, responses: list) -> dict[str, float]:
        rows = _rows(document, responses, *pair)
        return {row["extraction"]: float(row["correct"]) for row in rows}

    metrics = EXTRACTIONS if SKILLS[pair[0]].extract else ("likelihood",)
    return _harness_task(pair, documents, config, grade, metrics)


def _solved(pair: tuple[str, str], documents: list[Document], config: dict) -> dict:
    """A task of the harness that asks how likely the worked solutions are."""
    task, language = pair
    delimiter, given = config.get("target_delimiter", " "), []
    for document in documents:
        solution = document["response"]
        if config.get("num_fewshot"):
            solution = re.sub("<<.*?>>", "", solution)
        if SKILLS[task].extract is None or not solution.strip():
            raise ValueError(
                f"{task} in {language!r}: item {document['id']!r} has no worked solution; take a "
                "task that has some (gsm8k, those of organisms)"
            )
        given.append(document | {"worked": delimiter * (not solution[0].isspace()) + solution})
    # Examples have a target only.
    config = config | {"doc_to_target": "{{worked | default(target)}}"}
    config.pop("generation_kwargs", None)
    return _likely(pair, given, config)


def _likely(pair: tuple[str, str], documents: list[Document], config: dict) -> dict:
    """A task of the harness that asks how likely a text is after its prompt."""
    config = config | {"output_type": "loglikelihood"}
    return _harness_task(pair, documents, config, lambda _, found: {"gold": found[0][0]}, ["gold"])


def _harness_task(pair, documents, config, grade, metrics) -> dict:
    return {
        "num_fewshot": 0,
        **config,
        "task": " in ".join(pair),
        "documents": documents,
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
