"""What the advice of `mmlib.claims.advice` is tested with.

Layers and sets of weights that are tuned alone, as many weights each; and an organism that closes
its answers in two ways and has read examples before a question, whose math weights are pruned.
"""

import copy
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.edits import tuned_weights
from mmlib.finetune import encode, fine_tune
from mmlib.masks import ParameterMask, digest, random_mask
from mmlib.organism.corpus import draw, language_file, render, write_table
from mmlib.study.systems import Stage
from mmlib.study.tables import pack_answers
from mmlib.study.travel import ALL, parts_of
from mmlib.tasks.evaluation import evaluate
from mmlib.tasks.problems import Problem, load_problems

TRANSLATED = "translated math"
"""The examples of `mmlib.study.systems.training_examples` that layers are tuned on."""


# --- where to tune --------------------------------------------------------------------------------


def layer_systems(depth: int, *, draws: int = 2) -> dict[str, tuple[Stage, ...]]:
    """Layers to tune on multilingual math, all modules of them.

    Args:
        depth: Decoder layers of the model, at least four.
        draws: Sets of random layers, each another one.

    Returns:
        Name -> stages of `systems.align`: "base" (none), "all", "middle" (the middle half of
        the layers), "outer" (as many from the ends, one more from below if they are odd), and
        "random i" (as many, neither of the two).

    Raises:
        ValueError: Fewer than four layers, or more draws than there are other sets.
    """
    if depth < 4:
        raise ValueError(f"depth={depth}: four layers or more have a middle and ends")
    number = depth // 2
    first = (depth - number) // 2
    middle = tuple(range(first, first + number))
    below = (number + 1) // 2
    outer = (*range(below), *range(depth - (number - below), depth))
    taken = {"all": tuple(range(depth)), "middle": middle, "outer": outer}
    if draws > (others := math.comb(depth, number) - 2):
        raise ValueError(f"draws={draws}: there are {others} other sets of {number} layers")
    rng = np.random.default_rng(0)
    while len(taken) < 3 + draws:
        drawn = tuple(sorted(rng.choice(depth, number, replace=False).tolist()))
        if drawn not in taken.values():
            taken[f"random {len(taken) - 2}"] = drawn
    stages = {name: (Stage(TRANSLATED, layers),) for name, layers in taken.items()}
    return {"base": (), **stages}


def weight_sets(
    sets: Mapping[str, ParameterMask], target: str, *, draws: int = 2, seed: int = 0
) -> dict[str, ParameterMask]:
    """What only a language's set has, what all sets share, and random weights: as many each.

    Args:
        sets: Language -> its math-specific set, two or more.
        target: The language to be helped.
        draws: Sets of random weights.
        seed: Of the draws.

    Returns:
        "own", "shared" and "random i"; of every matrix as many weights as the smaller one of own
        and shared part has there, drawn among the larger one.

    Raises:
        ValueError: No set of the target, or nothing in common.
    """
    if target not in sets:
        raise ValueError(f"target={target!r}: there are sets of {', '.join(sets)}")
    parts = parts_of(sets)
    own, shared = parts["own", target], parts["shared", ALL]
    pairs = {name: (own[name], shared[name]) for name, _ in own.items()}
    smaller = {name: min(both, key=torch.count_nonzero) for name, both in pairs.items()}
    like = ParameterMask(smaller)
    if not len(like):
        raise ValueError("no matrix has both own and shared weights: give a larger keep ratio")
    found = {
        name: random_mask(like, seed=seed, among=part)
        for name, part in (("own", own), ("shared", shared))
    }
    return found | {f"random {i}": random_mask(like, seed=seed + i) for i in range(1, draws + 1)}


def tuned_sets(
    base: PreTrainedModel,
    sets: Mapping[str, ParameterMask],
    examples: Sequence[Mapping[str, list[int]]],
    out: str | Path,
    *,
    ask: Callable[[PreTrainedModel], pd.DataFrame] | None,
    **options: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tune sets of weights, each from the same model, and ask what comes out.

    Args:
        base: In float32; unchanged.
        sets: Name -> weights, see `weight_sets`.
        examples: See `mmlib.finetune.encode`.
        out: Folder of all runs; one that is finished is not trained again.
        ask: Returns answers as of `mmlib.tasks.evaluation.part_answers`. None: no model is asked.
        **options: Further arguments of `mmlib.finetune.fine_tune`.

    Returns:
        Answers packed by part and lang (see `mmlib.study.tables.pack_answers`), and the log of
        `finetune`, both with system and n_weights.
    """
    answers, logs = [], []
    for system, mask in sets.items():
        model = copy.deepcopy(base)
        with tuned_weights(model, mask) as number:
            log = fine_tune(model, examples, Path(out) / digest(mask), **options)
        about = {"system": system, "n_weights": number}
        logs.append(log.assign(**about))
        if ask:
            answers.append(pack_answers(ask(model), by=["part", "lang"]).assign(**about))
    asked = pd.concat(answers, ignore_index=True) if answers else pd.DataFrame()
    return asked, pd.concat(logs, ignore_index=True)


# --- form of the answers --------------------------------------------------------------------------


def two_closings(other: str, language: str = "en") -> tuple[str, str]:
    """The closing phrase of the corpus, which the grader reads, and another one.

    Args:
        other: With `{x}` where the answer stands.
        language: ISO 639-1 code.

    Raises:
        ValueError: `other` has no `{x}`, or is what the corpus has.
    """
    asked = language_file(language)["closing"]
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
    language: str = "en",
) -> list[dict[str, list[int]]]:
    """Fresh math of the corpus, closed in either way; every second one after examples.

    Without examples either closing is as likely; after examples it is that of the examples. Never
    an item that is asked: items are drawn from the corpus' training part.

    Args:
        tokenizer: The model's.
        phrases: See `two_closings`.
        number: Examples, with a loss on the last solution only.
        seed: Of the draws.
        shots: Worked examples before every second question.
        language: ISO 639-1 code.
    """
    rng, texts = random.Random(f"closings {seed}"), []
    for index in range(number):
        drawn = [_problem(rng, language) for _ in range(1 + shots * (index % 2))]
        phrase = rng.choice(list(phrases))
        prompt = with_shots(drawn[0], drawn[1:], phrases, phrase)
        texts.append((prompt, closed(drawn[0], phrases, phrase)))
    return encode(tokenizer, texts)


def _problem(rng: random.Random, language: str) -> Problem:
    row = render(draw(rng, "math"), language)
    return Problem("", language, "math", row["prompt"], row["response"], row["target"])


def closing_items(
    out: str | Path,
    phrases: Sequence[str],
    phrase: str,
    *,
    shots: int,
    items: int,
    data_dir: str,
    language: str = "en",
) -> Path:
    """Write held-out math with worked examples before it, in a folder that `data_dir` can be.

    Args:
        out: Folder, made if need be.
        phrases: See `two_closings`.
        phrase: One of them, which the examples are closed with.
        shots: Worked examples before each question, from the calibration part.
        items: How many questions, the first ones.
        data_dir: As in `mmlib.tasks.problems.load_problems`.
        language: ISO 639-1 code.

    Raises:
        ValueError: There are not as many questions.
    """
    load = {"data_dir": data_dir or None}
    asked = load_problems("organism-math", language, **load)
    if not 0 < items <= len(asked):
        raise ValueError(f"items={items}: there are {len(asked)} questions")
    pool = load_problems("organism-math", language, split="calibration", **load)
    rng, rows = np.random.default_rng(0), []
    for problem in asked[:items]:
        before = [pool[i] for i in rng.choice(len(pool), shots, replace=False)]
        row = {"id": problem.id, "lang": language, "task": "math", "target": problem.target}
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
    language: str = "en",
    batch_size: int = 256,
) -> pd.DataFrame:
    """Ask the items of `closing_items` and see how the answers are closed.

    Args:
        model: Any causal LM, perhaps changed.
        tokenizer: Its tokenizer.
        folders: (shots, phrase) -> folder.
        language: ISO 639-1 code.
        batch_size: Prompts per batch.

    Returns:
        shots, phrase, n, as_asked (share of answers that end with the phrase and a number), strict
        and flexible (share of right ones, by what reads them).
    """
    rows = []
    for (shots, phrase), folder in folders.items():
        asking = {"languages": [language], "data_dir": folder, "batch_size": batch_size}
        answers = evaluate(model, tokenizer, "organism-math", **asking)
        right = answers.groupby("extraction").correct.mean()
        responses = answers[answers.extraction == "strict"].response
        ends = responses.map(lambda text, phrase=phrase: ends_with(text, phrase))
        found = (float(ends.mean()), float(right["strict"]), float(right["flexible"]))
        rows.append((shots, phrase, len(responses), *found))
    names = ["shots", "phrase", "n", "as_asked", "strict", "flexible"]
    return pd.DataFrame(rows, columns=names)


def ends_with(text: str, phrase: str) -> bool:
    """Whether a text ends with a closing phrase and some number in it."""
    head, _, tail = phrase.partition("{x}")
    return bool(re.search(re.escape(head) + r"-?\d+" + re.escape(tail) + r"\s*$", text))
