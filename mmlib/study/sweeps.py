"""Many edits of one model, each graded on the same items: the answers behind the sweeps."""

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from mmlib.edits import scaled
from mmlib.importance import ImportanceScores, largest
from mmlib.masks import ParameterMask, digest, random_mask
from mmlib.study.localisation import Key
from mmlib.study.tables import pack_answers
from mmlib.tasks import skills
from mmlib.tasks.errors import error_kind

CONDITIONS = {
    "math-specific": "top-K(math) - top-K(nonmath): the set of the study",
    "random": "as many weights of every matrix, drawn at random",
    "same magnitude": "as many weights of every matrix, drawn among neighbours in |W|",
    "nonmath-specific": "top-K(nonmath) - top-K(math)",
    "top-K math": "top-K(math), nothing subtracted",
    "highest first": "the math-specific set; a fraction of it has its highest math scores",
    "lowest first": "the math-specific set; a fraction of it has its lowest math scores",
}
"""Which weights are edited."""
DRAWN = ("random", "same magnitude")
"""Conditions whose sets follow a seed."""
ORDERED = ("highest first", "lowest first")
"""Conditions whose fractions follow the scores, not a seed."""
CELL = ["dtype", "lang", "condition", "factor", "keep_ratio", "seed", "fraction", "sample_seed"]
"""What names a cell: precision, a language's set, how it is edited, the seeds of its draws."""


def cells(
    *,
    languages: Sequence[str],
    seeds: Sequence[int],
    keep_ratios: Sequence[float],
    dtypes: Sequence[str] = ("float32",),
    conditions: Sequence[str] = tuple(CONDITIONS),
    factors: Sequence[float] = (0.0,),
    fractions: Sequence[float] = (1.0,),
    sample_seeds: Sequence[int] = (0,),
) -> pd.DataFrame:
    """All combinations of edits, each language's unedited model first.

    Args:
        languages: ISO 639-1 codes; a set is edited and asked in its own language.
        seeds: Calibration seeds.
        keep_ratios: K.
        dtypes: Precisions of the edited model.
        conditions: Some of `CONDITIONS`.
        factors: What the weights are multiplied by; 0 prunes.
        fractions: Shares of the set that are edited.
        sample_seeds: Seeds of random sets and of fractions.

    Returns:
        Columns `CELL`; "none" with factor 1 and zeros is the unedited model. Edits that no draw
        can change have sample_seed 0 and stand there once.

    Raises:
        ValueError: An unknown condition, a list that is empty or has an entry twice, or a number
            that no edit can have.
    """
    if wrong := [name for name in conditions if name not in CONDITIONS]:
        raise ValueError(f"unknown condition {wrong[0]!r}: choose from {', '.join(CONDITIONS)}")
    lists = {"languages": languages, "seeds": seeds, "keep_ratios": keep_ratios, "dtypes": dtypes}
    lists |= {"factors": factors, "fractions": fractions, "sample_seeds": sample_seeds}
    for name, values in lists.items():
        if isinstance(values, str) or not values or len(set(values)) < len(values):
            raise ValueError(f"{name} is {values!r}: give a list of one or more, each once")
    for name, values in {"keep_ratios": keep_ratios, "fractions": fractions}.items():
        if wrong := [value for value in values if not 0 < value <= 1]:
            raise ValueError(f"{name} has {wrong[0]}: give shares above 0 and at most 1")
    if wrong := [factor for factor in factors if not np.isfinite(factor)]:
        raise ValueError(f"factors has {wrong[0]}: give finite numbers, 0 to prune")
    both = list(itertools.product(dtypes, languages))
    plain = [(*pair, "none", 1.0, 0.0, 0, 1.0, 0) for pair in both]
    draws = (conditions, factors, keep_ratios, seeds, fractions, sample_seeds)
    edits = [(*pair, *rest) for pair in both for rest in itertools.product(*draws)]
    table = pd.DataFrame([*plain, *edits], columns=CELL)
    partly = (table.fraction < 1) & ~table.condition.isin(ORDERED)
    drawn = table.condition.isin(DRAWN) | partly
    return table.assign(sample_seed=table.sample_seed.where(drawn, 0)).drop_duplicates(
        ignore_index=True
    )


def edit_set(
    condition: str,
    math: ImportanceScores,
    nonmath: ImportanceScores,
    keep_ratio: float,
    *,
    fraction: float = 1.0,
    seed: int = 0,
) -> ParameterMask:
    """The weights that a condition edits.

    Args:
        condition: One of `CONDITIONS`.
        math: Scores on math text.
        nonmath: Scores on non-math text of the same language.
        keep_ratio: K.
        fraction: Share of the set with the highest or lowest math scores (`ORDERED` only; the
            share of another condition is drawn when the set is edited).
        seed: Seed of the draw of a random set.

    Raises:
        ValueError: An unknown condition.
    """
    if condition == "top-K math":
        return math.top(keep_ratio)
    if condition == "nonmath-specific":
        return nonmath.top(keep_ratio) - math.top(keep_ratio)
    own = math.top(keep_ratio) - nonmath.top(keep_ratio)
    if condition == "math-specific":
        return own
    if condition == "random":
        return random_mask(own, seed=seed)
    if condition == "same magnitude":
        sizes = {name: weight.detach().abs() for name, weight in math.weights.items()}
        return random_mask(own, seed=seed, within=sizes)
    count = round(fraction * len(own))
    if condition == "highest first":
        return _highest(own, math, count)
    if condition == "lowest first":
        return own - _highest(own, math, len(own) - count)
    raise ValueError(f"unknown condition {condition!r}: choose from {', '.join(CONDITIONS)}")


def _highest(members: ParameterMask, scores: ImportanceScores, count: int) -> ParameterMask:
    """The weights of a set with the highest scores, compared over all matrices."""
    values = [scores.matrix(name)[mask] for name, mask in members.items()]
    (chosen,) = largest(torch.cat(values), [count])
    parts = chosen.split([len(part) for part in values])
    found = {}
    for (name, mask), part in zip(members.items(), parts, strict=True):
        found[name] = torch.zeros_like(mask)
        found[name][mask] = part
    return ParameterMask(found)


def sweep(
    models: Mapping[str, nn.Module],
    scores: Mapping[Key, ImportanceScores],
    wanted: pd.DataFrame,
    ask: Callable[..., pd.DataFrame],
    *,
    math: str,
    nonmath: str,
    solutions: Mapping[tuple[str, str, str], str] | None = None,
) -> pd.DataFrame:
    """Edit a model, ask it, undo the edit; once per cell.

    Args:
        models: Precision -> the model in it; all have the same weights.
        scores: Result of `mmlib.study.localisation.score_samples` on one of them.
        wanted: Cells, see `cells`; with a column `part` one row per cell and part that is asked.
        ask: Called with a model, `languages=[…]` and perhaps `parts=[…]`; returns the answers, as
            `mmlib.tasks.evaluation.part_answers` does.
        math: Task of the math scores.
        nonmath: Task of the others.
        solutions: Result of `worked_solutions`; wrong numbers then get their kind of error.

    Returns:
        Packed answers (see `tables.pack_answers`) of every cell and part, with `n_weights`
        (how many were edited) and `mask` (a digest of the set).
    """
    tables = []
    for values, rows in wanted.groupby(CELL, sort=False):
        cell = dict(zip(CELL, values, strict=True))
        only = {"parts": list(rows.part)} if "part" in rows else {}
        model = models[cell["dtype"]]
        mask, edit = _edit(model, scores, cell, math, nonmath)
        with edit as count:
            answers = ask(model, languages=[cell["lang"]], **only)
        answers = answers.assign(grade=grades(answers, solutions or {}))
        answers = answers.drop(columns="lang").assign(**cell)
        packed = pack_answers(answers, by=[*CELL, "part"])
        tables.append(packed.assign(n_weights=count, mask=mask))
    return pd.concat(tables, ignore_index=True)


def _edit(
    model: nn.Module, scores: Mapping[Key, ImportanceScores], cell: Mapping[str, Any], *tasks: str
) -> tuple[str, AbstractContextManager]:
    """Digest of a cell's set, and the edit as a context manager that yields its size."""
    if cell["condition"] == "none":
        return "", nullcontext(0)
    pair = [scores[cell["lang"], task, cell["seed"]] for task in tasks]
    # Another language or calibration seed is another draw, so that replicates are independent.
    name = f"{cell['lang']} {cell['seed']} {cell['sample_seed']}"
    draw = {"fraction": cell["fraction"], "seed": zlib.crc32(name.encode())}
    mask = edit_set(cell["condition"], *pair, cell["keep_ratio"], **draw)
    if cell["condition"] in ORDERED:
        draw = {}
    return digest(mask), scaled(model, mask, factor=cell["factor"], **draw)


def worked_solutions(
    tasks: Sequence[str], languages: Sequence[str], folder: str = ""
) -> dict[tuple[str, str, str], str]:
    """The gold solutions of the tasks that are answered by a number.

    Returns:
        Task, language and id of an item -> its solution.
    """
    return {
        (task, language, document["id"]): document["response"]
        for task in tasks
        if skills.SKILLS[task].extract is skills.extract_number
        for language in languages
        for document in skills.documents(task, language, folder or None)
    }


def grades(answers: pd.DataFrame, solutions: Mapping[tuple[str, str, str], str]) -> list[str]:
    """One character per answer: 1 for right, the initial of `error_kind`, or 0 where none is told.

    Args:
        answers: One row per problem: lang, task, problem_id, target, response, correct.
        solutions: Result of `worked_solutions`.
    """
    found = []
    for row in answers.itertuples():
        solution = solutions.get((row.task, row.lang, row.problem_id))
        if row.correct or solution is None:
            found.append(str(int(row.correct)))
            continue
        by_step = row.task.startswith("organism-")
        kind = error_kind(row.response, row.target, row.lang, solution=solution, by_step=by_step)
        found.append(kind[0])
    return found
