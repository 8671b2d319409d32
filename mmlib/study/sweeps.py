"""Edits of one model by which weights, how many and by what factor: cells, sets and the sweep.

What chapters ask with them has a module each: `breaks`, `portions`, `mistakes`, `precision`.
"""

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from mmlib.importance import ImportanceScores, largest, math_specific
from mmlib.masks import ParameterMask, random_mask
from mmlib.study.evidence import Sweep, Taken
from mmlib.study.localisation import Sample
from mmlib.study.settings import Ask, Asking, Loading, Sampling
from mmlib.study.variants import Grade, Variant, edited, record
from mmlib.tasks import skills
from mmlib.tasks.answers import extract_number
from mmlib.tasks.benchmarks.organism import FAMILY
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
PROBLEM = ["dtype", "lang", "part", "problem_id"]
"""What names a problem that a model in some precision is asked."""


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

    A set is edited and asked in its own language. `seeds` are those of calibration, `sample_seeds`
    those of random sets and of fractions; a factor of 0 prunes, and fractions are the shares of the
    set that are edited.

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
    """The weights that a condition edits, before a share of them is drawn.

    From scores on math and on non-math text of one language. `fraction` is the share of the set
    with the highest or lowest math scores (`ORDERED` only), `seed` that of the draw of a random
    set.

    Raises:
        ValueError: An unknown condition.
    """
    if condition == "top-K math":
        return math.top(keep_ratio)
    if condition == "nonmath-specific":
        return math_specific(nonmath, math, keep_ratio)
    own = math_specific(math, nonmath, keep_ratio)
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
    (highest,) = largest(torch.cat(values), [count])
    masks = {}
    parts = highest.split([len(part) for part in values])
    for (name, mask), part in zip(members.items(), parts, strict=True):
        masks[name] = torch.zeros_like(mask)
        masks[name][mask] = part
    return ParameterMask(masks)


class Sets(NamedTuple):
    """What the sets of cells are found in."""

    scores: Mapping[Sample, ImportanceScores]
    """Result of `mmlib.study.localisation.score_samples`."""
    math: str
    """Task of the math scores."""
    nonmath: str
    """Task of the others."""

    def mask(self, cell: Mapping[str, Any]) -> ParameterMask | None:
        """The set of a cell (see `CELL`), before a fraction is drawn; None: not edited."""
        if cell["condition"] == "none":
            return None
        tasks = self.math, self.nonmath
        pair = [self.scores[Sample(cell["lang"], task, cell["seed"])] for task in tasks]
        drawing = {"fraction": cell["fraction"], "seed": _seed(cell)}
        return edit_set(cell["condition"], *pair, cell["keep_ratio"], **drawing)

    def change(self, model: nn.Module, cell: Mapping[str, Any]) -> Callable[[], Any]:
        """The change of a variant (see `edited`) that edits the set of a cell, or a part of it."""
        ordered = cell["condition"] in ORDERED  # the set is the fraction already
        edit = {} if ordered else {"fraction": cell["fraction"], "seed": _seed(cell)}
        return partial(edited, model, partial(self.mask, cell), factor=cell["factor"], **edit)


def _seed(cell: Mapping[str, Any]) -> int:
    # Another language or calibration seed is another draw, so that replicates are independent.
    name = f"{cell['lang']} {cell['seed']} {cell['sample_seed']}"
    return zlib.crc32(name.encode())


def sweep(
    models: Mapping[str, nn.Module],
    sets: Sets,
    wanted: pd.DataFrame,
    ask: Ask,
    *,
    grade: Grade | None = None,
) -> pd.DataFrame:
    """Edit a model, ask it, undo the edit; once per cell.

    The models, by precision, have the same weights. `wanted` are `cells`; with a column `part` one
    row per cell and part that is asked. For `grade` see `mmlib.study.variants.record`.

    Returns:
        Packed answers (see `tables.pack_answers`) of every cell and part, with `n_weights`
        (how many were edited) and `mask` (a digest of the set).
    """
    variants = []
    for values, rows in wanted.groupby(CELL, sort=False):
        cell = dict(zip(CELL, values, strict=True))
        parts = {"parts": list(rows.part)} if "part" in rows else {}
        change = sets.change(models[cell["dtype"]], cell)
        variants.append(Variant(cell, change, {"languages": [cell["lang"]], **parts}))
    return record(variants, ask, by=[*CELL, "part"], grade=grade)


@dataclass(frozen=True)
class Swept(Taken):
    """A sweep and what it was made with; its answers have `CELL`, n_weights and mask."""

    models: Mapping[str, nn.Module]
    sets: Sets
    ask: Ask


def swept(
    given: Mapping[str, Any],
    wanted: pd.DataFrame,
    shipped: Sweep,
    *,
    seeds: Sequence[int],
    dtypes: Sequence[str],
) -> Swept:
    """Edit and ask every cell, or take what is shipped and ask a part of it again.

    `wanted` are cells and parts. Of `seeds` the sets are found; without `sweep` only these are
    asked again. `dtypes` are precisions of the edited model.
    """
    loading, models = Loading.of(given), {}
    for dtype in dict.fromkeys([loading.dtype, *dtypes]):
        models[dtype], tokenizer = loading.load(dtype)
    scored = models[loading.dtype]
    run = loading.run(scored, given)
    scores = Sampling.of(given, seeds=seeds).scores(scored, tokenizer)
    sets = Sets(scores, given["math"], given["nonmath"])
    few = given["items"] if given["sweep"] else min(given["items"], given["audit_items"])
    whole, again = Asking.of(given), Asking.of(given, items=few)
    ask = again.ask(tokenizer)
    compute = partial(sweep, models, sets, ask=ask, grade=grader(given))
    problems, asked_again = (
        pd.concat(asking.problems(code).assign(lang=code) for code in given["languages"])
        for asking in (whole, again)
    )
    asked = {"problems": problems, "asked_again": asked_again}
    done = shipped.taken(wanted, compute, run, **asked, drawn_from=f"seed in {[0, *seeds]}")
    return Swept(**vars(done), models=models, sets=sets, ask=ask)


# --- grades ---------------------------------------------------------------------------------------


def worked_solutions(
    tasks: Sequence[str], languages: Sequence[str], folder: str = ""
) -> dict[tuple[str, str, str], str]:
    """Gold solutions of tasks that are answered by a number: by task, language and id of item."""
    return {
        (task, language, document["id"]): document["response"]
        for task in tasks
        if skills.SKILLS[task].extract is extract_number
        for language in languages
        for document in skills.documents(task, language, folder or None)
    }


def grades(answers: pd.DataFrame, solutions: Mapping[tuple[str, str, str], str]) -> list[str]:
    """One character per answer: 1 for right, the initial of `error_kind`, or 0 where none is told.

    The answers have lang, task, problem_id, target, response and correct; see `worked_solutions`.
    """
    characters = []
    for row in answers.itertuples():
        solution = solutions.get((row.task, row.lang, row.problem_id))
        if row.correct or solution is None:
            characters.append(str(int(row.correct)))
            continue
        by_step = row.task in FAMILY
        kind = error_kind(row.response, row.target, row.lang, solution=solution, by_step=by_step)
        characters.append(kind[0])
    return characters


def grader(given: Mapping[str, Any]) -> Grade:
    """`grades` by the solutions of the tasks that a page asks."""
    return partial(
        grades, solutions=worked_solutions(given["tasks"], given["languages"], given["data_dir"])
    )
