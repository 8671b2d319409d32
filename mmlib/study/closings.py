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

    Raises:
        ValueError: `other` has no `{x}`, where the answer stands, or is what the corpus has.
    """
    asked = language_file("en")["closing"]
    if "{x}" not in other or other == asked:
        raise ValueError(f"other closing {other!r}: give another one than {asked!r}, with {{x}}")
    return asked, other


def closed(
    problem: Problem, shots: Sequence[Problem], phrases: Sequence[str], phrase: str
) -> tuple[str, str]:
    """A prompt after worked examples, and its solution, all closed with `phrase`.

    It stands in place of the first of `phrases`.
    """
    solutions, end = [], phrases[0]
    for each in (*shots, problem):
        if not each.response.endswith(closing := end.format(x=each.target)):
            raise ValueError(f"{each.response!r} does not end with {closing!r}")
        solutions.append(each.response.removesuffix(closing) + phrase.format(x=each.target))
    before = [shot.prompt + solution for shot, solution in zip(shots, solutions, strict=False)]
    return "\n\n".join([*before, problem.prompt]), solutions[-1]


def closing_examples(
    tokenizer: PreTrainedTokenizerBase,
    phrases: Sequence[str],
    *,
    number: int,
    seed: int,
    shots: int = 2,
) -> list[dict[str, list[int]]]:
    """Fresh English math of the corpus, closed in either way; every second one after examples.

    Without examples either closing is as likely; after `shots` worked ones it is that of the
    examples. The loss is on the last solution only. Never an item that is asked: items are drawn
    from the corpus' training part.
    """
    rng, texts = random.Random(f"closings {seed}"), []
    for index in range(number):
        rows = [render(draw(rng, "math"), "en") for _ in range(1 + shots * (index % 2))]
        first, *before = [
            Problem("", "en", "math", row["prompt"], row["response"], row["target"]) for row in rows
        ]
        texts.append(closed(first, before, phrases, rng.choice(list(phrases))))
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

    The first `items` English questions, each after `shots` examples from the calibration part that
    are closed with `phrase`, one of `phrases`.

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
        row["prompt"], row["response"] = closed(problem, before, phrases, phrase)
        rows.append(row)
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
    """Ask the items of `closing_items`, by their shots and phrase, and see how answers are closed.

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
