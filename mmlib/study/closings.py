"""Two ways to close a worked answer: texts that teach both, questions that ask for one of them."""

import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.finetune import encode
from mmlib.organism.corpus import draw, language_file, render, write_table
from mmlib.tasks.evaluation import evaluate
from mmlib.tasks.problems import Problem, load_problems


def two_closings(other: str) -> tuple[str, str]:
    """The closing phrase of the corpus in English, which the grader reads, and another one.

    Args:
        other: With `{x}` where the answer stands.

    Raises:
        ValueError: `other` has no `{x}`, or is what the corpus has.
    """
    asked = language_file("en")["closing"]
    if "{x}" not in other or other == asked:
        raise ValueError(f"other closing {other!r}: give another one than {asked!r}, with {{x}}")
    return asked, other


def closed(problem: Problem, phrases: Sequence[str], phrase: str) -> str:
    """The worked solution of a problem, closed with `phrase` in place of the first of `phrases`."""
    end = phrases[0].format(x=problem.target)
    if not problem.response.endswith(end):
        raise ValueError(f"{problem.response!r} does not end with {end!r}")
    return problem.response.removesuffix(end) + phrase.format(x=problem.target)


def with_shots(problem: Problem, shots: Sequence[Problem], phrases, phrase: str) -> str:
    """The prompt of a problem after worked examples that are all closed alike."""
    before = [shot.prompt + closed(shot, phrases, phrase) for shot in shots]
    return "\n\n".join([*before, problem.prompt])


def closing_examples(
    tokenizer: PreTrainedTokenizerBase,
    phrases: Sequence[str],
    *,
    number: int,
    seed: int,
    shots: int = 2,
) -> list[dict[str, list[int]]]:
    """Fresh English math of the corpus, closed in either way; every second one after examples.

    Without examples either closing is as likely; after examples it is that of the examples. Never
    an item that is asked: items are drawn from the corpus' training part.

    Args:
        tokenizer: The model's.
        phrases: See `two_closings`.
        number: Examples, with a loss on the last solution only.
        seed: Of the draws.
        shots: Worked examples before every second question.
    """
    rng, texts = random.Random(f"closings {seed}"), []
    for index in range(number):
        rows = [render(draw(rng, "math"), "en") for _ in range(1 + shots * (index % 2))]
        first, *before = [
            Problem("", "en", "math", row["prompt"], row["response"], row["target"]) for row in rows
        ]
        phrase = rng.choice(list(phrases))
        texts.append((with_shots(first, before, phrases, phrase), closed(first, phrases, phrase)))
    return encode(tokenizer, texts)


def closing_items(
    out: str | Path,
    phrases: Sequence[str],
    phrase: str,
    *,
    shots: int,
    items: int,
    data_dir: str,
) -> Path:
    """Write held-out math with worked examples before it, in a folder that `data_dir` can be.

    Args:
        out: Folder, made if need be.
        phrases: See `two_closings`.
        phrase: One of them, which the examples are closed with.
        shots: Worked examples before each question, from the calibration part.
        items: How many English questions, the first ones.
        data_dir: As in `mmlib.tasks.problems.load_problems`.

    Raises:
        ValueError: There are not as many questions.
    """
    load = partial(load_problems, "organism-math", "en", data_dir=data_dir or None)
    asked, pool = load(), load(split="calibration")
    if not 0 < items <= len(asked):
        raise ValueError(f"items={items}: there are {len(asked)} questions")
    rng, rows = np.random.default_rng(0), []
    for problem in asked[:items]:
        before = [pool[i] for i in rng.choice(len(pool), shots, replace=False)]
        row = {"id": problem.id, "lang": "en", "task": "math", "target": problem.target}
        row["prompt"] = with_shots(problem, before, phrases, phrase)
        rows.append(row | {"response": closed(problem, phrases, phrase)})
    Path(out).mkdir(parents=True, exist_ok=True)
    write_table(pd.DataFrame(rows), Path(out) / "heldout.jsonl.gz")
    return Path(out)


def closing_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folders: Mapping[tuple[int, str], Path],
    *,
    batch_size: int = 256,
) -> pd.DataFrame:
    """Ask the items of `closing_items` and see how the answers are closed.

    Args:
        model: Any causal LM, perhaps changed.
        tokenizer: Its tokenizer.
        folders: (shots, phrase) -> folder.
        batch_size: Prompts per batch.

    Returns:
        shots, phrase, n, as_asked (share of answers that end with the phrase and a number), strict
        and flexible (share of right ones, by what reads them).
    """
    rows = []
    for (shots, phrase), folder in folders.items():
        asking = {"languages": ["en"], "data_dir": folder, "batch_size": batch_size}
        answers = evaluate(model, tokenizer, "organism-math", **asking)
        right = answers.groupby("extraction").correct.mean()
        responses = answers[answers.extraction == "strict"].response
        ends = [ends_with(text, phrase) for text in responses]
        shares = (float(np.mean(ends)), float(right["strict"]), float(right["flexible"]))
        rows.append((shots, phrase, len(responses), *shares))
    names = ["shots", "phrase", "n", "as_asked", "strict", "flexible"]
    return pd.DataFrame(rows, columns=names)


def ends_with(text: str, phrase: str) -> bool:
    """Whether a text ends with a closing phrase and some number in it."""
    head, _, tail = phrase.partition("{x}")
    return bool(re.search(re.escape(head) + r"-?\d+" + re.escape(tail) + r"\s*$", text))
