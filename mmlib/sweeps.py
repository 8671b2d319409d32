"""Many edits of one model, each graded on the same items: the answers behind the sweeps."""

import hashlib
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import curve_fit
from scipy.special import expit
from torch import nn

from mmlib import skills
from mmlib.errors import error_kind
from mmlib.importance import ImportanceScores, largest
from mmlib.interventions import scaled
from mmlib.localisation import Key
from mmlib.masks import ParameterMask, random_mask
from mmlib.results import RunInfo, pack_answers

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
NUMBERS = ("organism-math", "organism-math-new", "organism-choice", "gsm8k", "mgsm")
"""Tasks whose wrong answers are told apart by `error_kind`."""
MADE_WITH = ("dtype", "math", "nonmath", "num_samples", "data_dir", "items")
"""Parameters that shipped cells have to share with the run that checks them."""


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
        scores: Result of `mmlib.localisation.score_samples` on one of them.
        wanted: Cells, see `cells`; with a column `part` one row per cell and part that is asked.
        ask: Called with a model, `languages=[…]` and perhaps `parts=[…]`; returns the answers, as
            `mmlib.evaluation.part_answers` does.
        math: Task of the math scores.
        nonmath: Task of the others.
        solutions: Result of `worked_solutions`; wrong numbers then get their kind of error.

    Returns:
        Packed answers (see `mmlib.results.pack_answers`) of every cell and part, with `n_weights`
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


def digest(mask: ParameterMask) -> str:
    """Twelve characters that tell one set of weights from another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(mask.items()):
        digest.update(name.encode() + np.packbits(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()[:12]


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
        if task in NUMBERS
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


def shipped(
    wanted: pd.DataFrame,
    table: pd.DataFrame,
    manifest: Mapping[str, Any],
    run: RunInfo,
    *,
    made_with: Sequence[str] = MADE_WITH,
) -> pd.DataFrame:
    """The rows of an evidence table that this run would compute.

    Args:
        wanted: Columns that name a row of the table.
        table: Evidence with these columns and `model`.
        manifest: Its manifest.
        run: The present run.
        made_with: Parameters that the table's runs have to share with this one.

    Returns:
        One row of `table` per row of `wanted`.

    Raises:
        ValueError: A cell is not there, or the table was made with other weights or texts.
    """
    for made in manifest["run"]["parameters"]["runs"]:
        if made["model"] == run.model:
            before, now = ({**r["parameters"], **r} for r in (made, asdict(run)))
            for key in ("checkpoint_hash", *made_with):
                if before[key] != now[key]:
                    raise ValueError(
                        f"the shipped cells have {key}={before[key]!r}, not {now[key]!r}: "
                        "compute your own with sweep=true"
                    )
    name = list(wanted)
    own = table[table.model == run.model].drop_duplicates(name)
    found = wanted.merge(own, on=name, how="left", indicator=True)
    absent = found[found._merge == "left_only"]
    if len(absent):
        first = absent[name].iloc[0].to_dict()
        raise ValueError(
            f"no cells are shipped for {len(absent)} of {len(found)} that these parameters ask "
            f"for, such as {first}: compute them with sweep=true"
        )
    return found.drop(columns="_merge").astype(own.dtypes.to_dict())


def draw(
    table: pd.DataFrame, *, per: Sequence[str], seed: int, name: Sequence[str] = (*CELL, "part")
) -> pd.DataFrame:
    """Draw cells and parts of a shipped sweep to compute again.

    Args:
        table: Result of `sweep`.
        per: Columns; every combination of their values is drawn from once.
        seed: Seed of the draw.
        name: Columns that name what is computed.

    Returns:
        Columns `name`.
    """
    drawn = table.groupby(list(per), sort=False).sample(1, random_state=seed)
    return drawn[list(name)].reset_index(drop=True)


def shape_fits(x: Sequence[float], y: Sequence[float]) -> pd.DataFrame:
    """Fit a line, a sigmoid and a threshold to accuracies over the edited share of a set.

    Least squares; the fits are compared by the Bayesian information criterion,
    n ln(RSS / n) + k ln(n), where k counts the variance too.

    Args:
        x: (n,) shares, of at least 3 values.
        y: (n,) accuracies.

    Returns:
        One row per shape, the best first: shape, n, r_squared, bic, above_best (its difference
        from the lowest), where (the share at which half of the fitted fall has happened).

    Raises:
        ValueError: Fewer than 7 points, or than 3 different shares.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 7 or len(np.unique(x)) < 3:
        raise ValueError(f"{len(x)} points at {len(np.unique(x))} shares: give 7 or more, at 3")
    rows = []
    for shape, parameters, (fitted, where) in (
        ("linear", 2, _line(x, y)),
        ("sigmoid", 4, _sigmoid(x, y)),
        ("threshold", 3, _threshold(x, y)),
    ):
        n, k = len(x), parameters + 1
        rss = max(float(((y - fitted) ** 2).sum()), 1e-12)
        bic = n * np.log(rss / n) + k * np.log(n)
        r_squared = 1 - rss / total if (total := float(((y - y.mean()) ** 2).sum())) else 0.0
        rows.append((shape, n, r_squared, bic, where))
    table = pd.DataFrame(rows, columns=["shape", "n", "r_squared", "bic", "where"])
    table.insert(4, "above_best", table.bic - table.bic.min())
    return table.sort_values("bic", ignore_index=True)


def fit_curves(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Fit `shape_fits` to every curve of a table of fractions.

    Draws of one fraction are asked the same problems, so that a curve has one point per fraction:
    their mean.

    Args:
        table: Columns `by`, fraction, value, and base, the value where nothing is edited, which is
            the curve's point at fraction 0.
        by: What tells the curves apart.

    Returns:
        Columns `by` and those of `shape_fits`.
    """
    fits = []
    for key, curve in table.groupby(list(by), sort=False):
        means = curve.groupby("fraction").value.mean()
        fit = shape_fits([0.0, *means.index], [curve.base.iloc[0], *means])
        fits.append(fit.assign(**dict(zip(by, key, strict=True))))
    joined = pd.concat(fits, ignore_index=True)
    return joined[[*by, *fits[0].columns.drop(list(by))]]


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    return np.polyval(np.polyfit(x, y, 1), x), (x.min() + x.max()) / 2


def _sigmoid(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """From `before` to `after`, halfway at `where`; the best of several starts."""

    def curve(x, before, after, where, width):
        return before + (after - before) * expit((x - where) / width)

    span = x.max() - x.min()
    bounds = ([-0.5, -0.5, x.min(), span / 200], [1.5, 1.5, x.max(), span])
    fits = []
    for where in np.quantile(x, (0.2, 0.5, 0.8)):
        start = (y[x == x.min()].mean(), y[x == x.max()].mean(), where, span / 8)
        found, _ = curve_fit(curve, x, y, p0=start, bounds=bounds, max_nfev=5000)
        fits.append((((y - curve(x, *found)) ** 2).sum(), tuple(found)))
    _, best = min(fits)
    return curve(x, *best), best[2]


def _threshold(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """One level below a cut and another above it; the best cut between two shares."""
    shares = np.unique(x)
    cuts = (shares[1:] + shares[:-1]) / 2
    fits = [np.where(x < cut, y[x < cut].mean(), y[x > cut].mean()) for cut in cuts]
    best = min(range(len(cuts)), key=lambda index: ((y - fits[index]) ** 2).sum())
    return fits[best], float(cuts[best])
