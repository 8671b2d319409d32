"""Intervals, tests and fits, by scipy and statsmodels."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit
from scipy.special import expit

from mmlib.study.tables import check_answers, require_columns


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
    rows, n, total = [], len(x), float(((y - y.mean()) ** 2).sum())
    for shape, parameters, (fitted, where) in (
        ("linear", 2, (np.polyval(np.polyfit(x, y, 1), x), (x.min() + x.max()) / 2)),
        ("sigmoid", 4, _sigmoid(x, y)),
        ("threshold", 3, _threshold(x, y)),
    ):
        rss = max(float(((y - fitted) ** 2).sum()), 1e-12)
        bic = n * np.log(rss / n) + (parameters + 1) * np.log(n)
        rows.append((shape, n, 1 - rss / total if total else 0.0, bic, where))
    table = pd.DataFrame(rows, columns=["shape", "n", "r_squared", "bic", "where"])
    table.insert(4, "above_best", table.bic - table.bic.min())
    return table.sort_values("bic", ignore_index=True)


def fit_curves(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """`shape_fits` of every curve of a table of fractions: columns `by` and those of `shape_fits`.

    The table has the columns `by`, fraction, value, and base, the value where nothing is edited,
    which is the curve's point at fraction 0. Draws of one fraction are asked the same problems, so
    that a curve has one point per fraction: their mean.
    """
    fits = []
    for key, curve in table.groupby(list(by), sort=False):
        means = curve.groupby("fraction").value.mean()
        fit = shape_fits([0.0, *means.index], [curve.base.iloc[0], *means])
        fits.append(fit.assign(**dict(zip(by, key, strict=True))))
    joined = pd.concat(fits, ignore_index=True)
    return joined[[*by, *fits[0].columns.drop(list(by))]]


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


# --- intervals and tests ------------------------------------------------------------------------


class Interval(NamedTuple):
    """A mean over `n` replicates and its two-sided 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def seed_interval(values: Iterable[float]) -> Interval:
    """Student t interval over replicates (calibration seeds); NaN bounds for a single one."""
    from scipy.stats import t

    x = np.asarray(list(values), dtype=np.float64)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"an interval needs finite values, not {x.tolist()}")
    mean, half = float(x.mean()), math.nan
    if x.size > 1:
        half = float(t.ppf(0.975, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def seed_intervals(values: pd.Series, by: str | Sequence[str]) -> pd.DataFrame:
    """`seed_interval` of every group of values, one per replicate, by levels of their index.

    Index `by`, in the order in which the groups occur; columns of `Interval`.
    """
    groups = values.groupby(by, sort=False)
    index = groups.size().index
    return pd.DataFrame([seed_interval(group) for _, group in groups], index)


def seed_means(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """`seed_intervals` of the means that a column has in every seed, with `by` as columns."""
    means = table.groupby([*by, "seed"], sort=False)[value].mean()
    return seed_intervals(means, by).reset_index()


def summarize(answers: pd.DataFrame, by: Sequence[str] = ("lang", "task")) -> pd.DataFrame:
    """Accuracy of each group with its 95 % Wilson interval.

    From one row per problem, with a boolean `correct`: `by`, accuracy, n, n_correct, low, high.
    """
    from statsmodels.stats.proportion import proportion_confint

    require_columns(answers, [*by, "correct"], "the table of answers")
    groups = answers.astype({"correct": bool}).groupby(list(by), sort=False, dropna=False).correct
    table = groups.agg(accuracy="mean", n="size", n_correct="sum").reset_index()
    low, high = proportion_confint(table.n_correct, table.n, alpha=0.05, method="wilson")
    return table.assign(low=np.asarray(low), high=np.asarray(high))


def holm(p_values: Sequence[float] | pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Holm's correction at 5 %: which tests reject, and the corrected p-values, both (n,)."""
    from statsmodels.stats.multitest import multipletests

    gc.freeze()  # it collects garbage: a tenth of a second among what is loaded
    try:
        return multipletests(p_values, method="holm")[:2]
    finally:
        gc.unfreeze()


def paired_changes(
    edited: pd.DataFrame,
    plain: pd.DataFrame,
    *,
    by: Sequence[str],
    on: Sequence[str] = ("problem_id",),
    replicate: str = "seed",
) -> pd.DataFrame:
    """What edits change on the same problems, over replicates (calibration seeds) of each edit.

    A problem counts once: its change is the mean over the replicates of edited - plain. The
    interval is the percentile bootstrap over problems (1999 draws, fixed seed); the test is the
    exact sign test on the problems that changed, which for one replicate is McNemar's.

    Args:
        edited: One row per problem and replicate: `by`, `on`, `replicate` and a boolean `correct`.
        plain: The same problems once, without an edit: `on` and `correct`.
        by: Columns that define an edit.
        on: Columns that identify a problem.
        replicate: Column that tells the replicates apart.

    Returns:
        One row per group: `by`, n (problems), replicates, accuracy, plain, difference, low, high,
        gained and lost (problems), p_value, and p_holm with Holm's correction over all rows.

    Raises:
        ValueError: A column is missing, a problem occurs twice, a group has a problem that `plain`
            lacks, or its replicates have different problems.
    """
    from scipy.stats import binomtest, bootstrap

    check_answers(edited, [*by, *on, replicate])
    check_answers(plain, on)
    for table, key in ((edited, {*by, *on, replicate}), (plain, {*on})):
        if table.duplicated(list(key)).any():
            raise ValueError(f"a problem occurs twice within {', '.join(sorted(key))}")
    known = plain.set_index(list(on)).correct.astype(float)
    rows = []
    for key, group in edited.groupby(list(by), sort=False, dropna=False):
        answers = group.groupby(list(on), sort=True).correct.agg(["mean", "size"])
        before = known.reindex(answers.index)
        if before.isna().any() or (answers["size"] != group[replicate].nunique()).any():
            raise ValueError(f"{dict(zip(by, key, strict=True))}: not the problems of the others")
        change = (answers["mean"] - before).to_numpy()
        options = {"n_resamples": 1999, "batch": 500, "method": "percentile", "rng": 0}
        low = high = change[0]  # no variance, no interval
        if np.ptp(change):
            low, high = bootstrap((change,), np.mean, **options).confidence_interval
        gained, lost = int((change > 0).sum()), int((change < 0).sum())
        p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        counts = (len(change), int(answers["size"].iloc[0]))
        means = (answers["mean"].mean(), before.mean(), change.mean(), low, high)
        rows.append((*key, *counts, *means, gained, lost, p_value))
    names = "n replicates accuracy plain difference low high gained lost p_value"
    table = pd.DataFrame(rows, columns=[*by, *names.split()])
    return table.assign(p_holm=holm(table.p_value)[1])


def equivalence(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    by: Sequence[str],
    on: Sequence[str] = ("problem_id",),
    margin: float = 0.02,
) -> pd.DataFrame:
    """Is the accuracy of `a` lower than that of `b`, on the same problems, or as good as equal?

    Two one-sided tests (Schuirmann 1987) by statsmodels: the 90 % t interval of the paired
    difference b - a lies within the margin exactly where both reject at 5 %.

    Args:
        a: One row per problem: `by`, `on` and a boolean `correct`. Where `b` has several rows for a
            problem (draws of a control), their mean counts.
        b: Likewise.
        by: Columns that define a comparison.
        on: Columns that identify a problem.
        margin: Largest difference that is called no change.

    Returns:
        One row per comparison: `by`, n, accuracy (of a), control (of b), difference (control -
        accuracy), low, high, p_equivalent, and `verdict`: "no measurable change" (interval within
        the margin), "loss" or "gain" (interval beyond it), else "undecided".

    Raises:
        ValueError: A column is missing, a problem of `a` occurs twice or is not in `b`.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    for table in (a, b):
        check_answers(table, [*by, *on])
    key = [*by, *on]
    if a.duplicated(key).any():
        raise ValueError(f"a problem occurs twice within {', '.join(key)}")
    means = b.groupby(key, sort=False).correct.mean().rename("control")
    both = a[[*key, "correct"]].join(means, on=key)
    if both.control.isna().any():
        raise ValueError("a problem has no answer under the control")
    rows = []
    for name, group in both.groupby(list(by), sort=False):
        change = (group.control - group.correct).to_numpy(float)
        low = high = change[0]  # no variance, no interval
        p_value = float(abs(change[0]) >= margin)
        if np.ptp(change):
            stats = DescrStatsW(change)
            low, high = stats.tconfint_mean(alpha=0.1)
            p_value = stats.ttost_mean(-margin, margin)[0]
        verdict = "undecided"
        if -margin < low and high < margin:
            verdict = "no measurable change"
        elif low > margin or high < -margin:
            verdict = "loss" if low > margin else "gain"
        means = (len(change), group.correct.mean(), group.control.mean(), change.mean())
        rows.append((*name, *means, low, high, p_value, verdict))
    names = "n accuracy control difference low high p_equivalent verdict"
    return pd.DataFrame(rows, columns=[*by, *names.split()])


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis; ties share their mean rank."""
    from scipy.stats import rankdata

    a, b = (rankdata(x, axis=-1) - (x.shape[-1] + 1) / 2 for x in (a, b))
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def halfway(values: pd.Series) -> float:
    """The first step at which a quantity is halfway from its first value to its last one.

    The values stand by step, in their order. The step is linear between two; not a number for a
    quantity that does not end above its beginning.
    """
    first, last = values.iloc[0], values.iloc[-1]
    if not last > first:
        return np.nan
    goal = (first + last) / 2
    after = int(np.argmax(values.to_numpy() >= goal))
    steps, heights = values.index[[after - 1, after]], values.iloc[[after - 1, after]]
    return float(np.interp(goal, heights, steps))


# --- verdicts: one test per cell ----------------------------------------------------------------


def cell_tests(
    effects: pd.Series | pd.DataFrame,
    threshold: float = 0.0,
    *,
    level: float = 0.95,
    reach: float = np.inf,
) -> pd.DataFrame:
    """Estimate the effect of every cell, with the interval that its replicates allow.

    What varies is said by the levels of the index; the other levels name the cells:

    - `problem`: items. Bootstrap over problems, 10,000 draws, percentiles. A problem is one
      cluster: its rows within a cell (languages, draws of a control) are averaged first.
    - `seed`: calibration samples or trainings. Student's t.
    - both: trainings of systems that were asked the same problems. Two-way random effects by
      Satterthwaite's approximation, never narrower than Student's t over the trainings. (Drawing
      three trainings with replacement covers 86 to 93 % where 95 are meant; this covers 94 to 97,
      and more where trainings hardly differ.) Of a single training the problems alone.
    - neither: a point, without an interval; or, in a table with a column `se`, a normal interval.

    Where all replicates of a cell have one effect, an exact binomial test takes the place (see
    `_unvaried`): over problems with an interval, over seeds without one.

    Args:
        effects: Effects, or a table with the columns effect and se.
        threshold: What the effects are compared with.
        level: Of the two-sided interval.
        reach: Largest size that the effect of a problem can have, in either direction.

    Returns:
        One row per cell: effect, low, high, se, df (degrees of freedom), seeds and problems (how
        many; 0 without), above and below (one-sided p-values of effect > threshold and of
        effect < threshold). Where nothing varies se is 0, or missing of one replicate, and bounds
        and p-values are missing as far as nothing is known.

    Raises:
        ValueError: A value is missing, or a cell has not every problem in every training.
    """
    table = effects.to_frame("effect") if isinstance(effects, pd.Series) else effects
    if table.empty or not np.isfinite(table.to_numpy(float)).all():
        raise ValueError("a test needs effects, none of them missing or infinite")
    varied = [name for name in ("seed", "problem") if name in table.index.names]
    names = [name for name in table.index.names if name and name not in varied]
    rows = []
    for key, group in table.groupby(names, sort=False, dropna=False) if names else [((), table)]:
        if not varied:
            se = group.se.iloc[0] if "se" in group else np.nan
            estimate = _normal(group.effect.iloc[0], se, np.inf, threshold, level)
        else:
            grid = group.effect.groupby(level=varied).mean()
            grid = grid.unstack("problem") if len(varied) == 2 else grid
            if grid.isna().any(axis=None):
                raise ValueError(f"{key}: give every problem in every training")
            estimate = _ESTIMATES[tuple(varied)](grid.to_numpy(), threshold, level)
            if grid.size > 1 and np.ptp(grid) <= 1e-12:
                sizes = dict(zip(varied, grid.shape, strict=True))
                estimate = _unvaried(estimate[0], sizes, threshold, level, reach)
        counts = [group.index.unique(v).size if v in varied else 0 for v in ("seed", "problem")]
        rows.append((*key, *estimate, *counts))
    columns = ["effect", "low", "high", "se", "df", "above", "below", "seeds", "problems"]
    tests = pd.DataFrame(rows, columns=[*names, *columns])
    return tests.set_index(names) if names else tests


def _normal(mean: float, se: float, df: float, threshold: float, level: float) -> tuple:
    """Student's t from an estimate and its standard error; nothing where that is 0 or missing."""
    from scipy.stats import t

    if not se > 0:
        return mean, np.nan, np.nan, se, df, np.nan, np.nan
    half = t.ppf((1 + level) / 2, df) * se
    below = t.cdf((mean - threshold) / se, df)
    return mean, mean - half, mean + half, se, df, 1 - below, below


def _over_seeds(values: np.ndarray, threshold: float, level: float) -> tuple:
    n = len(values)
    spread = np.ptp(values) if n > 1 else np.nan
    se = values.std(ddof=1) / math.sqrt(n) if spread > 1e-12 else spread
    return _normal(values.mean(), se, n - 1, threshold, level)


def _over_problems(values: np.ndarray, threshold: float, level: float) -> tuple:
    """Percentile bootstrap of a mean; problems of equal effect are drawn together."""
    levels, counts = np.unique(values.round(12), return_counts=True)
    n = len(values)
    mean, se = values.mean(), values.std(ddof=1) / math.sqrt(n) if n > 1 else np.nan
    if len(levels) < 2:
        return mean, np.nan, np.nan, 0.0 if n > 1 else np.nan, np.inf, np.nan, np.nan
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=DRAWS) @ levels / n
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    sides = (threshold - drawn, drawn - threshold)
    above, below = ((1 + (side >= 0).sum()) / (1 + DRAWS) for side in sides)
    return mean, low, high, se, np.inf, above, below


def _over_both(grid: np.ndarray, threshold: float, level: float) -> tuple:
    """Two-way random effects of (trainings, problems); Searle et al. 1992, section 4.4."""
    (k, m), mean = grid.shape, grid.mean()
    if k < 2:
        return _over_problems(grid[0], threshold, level)
    if m < 2:
        return _over_seeds(grid[:, 0], threshold, level)
    rows, columns = grid.mean(axis=1, keepdims=True), grid.mean(axis=0, keepdims=True)
    squares = np.array(
        [
            m * ((rows - mean) ** 2).sum() / (k - 1),
            k * ((columns - mean) ** 2).sum() / (m - 1),
            ((grid - rows - columns + mean) ** 2).sum() / ((k - 1) * (m - 1)),
        ]
    )
    freedom = np.array([k - 1, m - 1, (k - 1) * (m - 1)])
    variance = max(squares[0] + squares[1] - squares[2], squares[:2].max())
    df = k - 1
    if variance > 0:
        df = np.clip(variance**2 / (squares**2 / freedom).sum(), k - 1, m - 1)
    joint = _normal(mean, math.sqrt(variance / (k * m)), df, threshold, level)
    trainings = _over_seeds(grid.mean(axis=1), threshold, level)
    return max(joint, trainings, key=lambda estimate: np.nan_to_num(estimate[2] - estimate[1]))


def _unvaried(
    mean: float, sizes: Mapping[str, int], threshold: float, level: float, reach: float
) -> tuple:
    """Exact bounds of a mean over replicates that are all equal, and exact p-values.

    If none of n problems differs, at most 1 - alpha^(1/n) of all do (Clopper and Pearson), each by
    no more than to `reach`. Of n seeds the sign test: 2^-n is the chance that all lie on a side on
    which not even every second one would. Of both the weaker of the two.
    """
    alpha, reach = (1 - level) / 2, max(reach, abs(mean))
    low, high, above, below = np.nan, np.nan, float(mean <= threshold), float(mean >= threshold)
    if (n := sizes.get("problem", 1)) > 1:
        if np.isinf(reach):
            return mean, np.nan, np.nan, 0.0, np.inf, np.nan, np.nan
        differing = 1 - alpha ** (1 / n)
        low, high = mean - differing * (mean + reach), mean + differing * (reach - mean)
        if mean > threshold:
            above = (1 - (mean - threshold) / (mean + reach)) ** n
        elif mean < threshold:
            below = (1 - (threshold - mean) / (reach - mean)) ** n
    if (n := sizes.get("seed", 1)) > 1:
        above, below = max(above, 2.0**-n), max(below, 2.0**-n)
        if 2.0**-n > alpha:
            low = high = np.nan
    return mean, low, high, 0.0, np.inf, above, below


DRAWS = 10_000
"""Of a bootstrap."""
_ESTIMATES = {
    ("seed",): _over_seeds,
    ("problem",): _over_problems,
    ("seed", "problem"): _over_both,
}


def detectable_effect(se: float, df: float, *, level: float = 0.95) -> float:
    """The effect, beyond the threshold, that a two-sided test of this design finds in 80 %.

    By the standard error of the estimate, its degrees of freedom (infinite for a normal one), and
    `level`, 1 - the size of the test.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, norm, t

    if not np.isfinite(df):
        return float((norm.ppf((1 + level) / 2) + norm.ppf(0.8)) * se)
    critical = t.ppf((1 + level) / 2, df)
    reach = 5 * critical  # the power is surely higher there
    return float(brentq(lambda effect: nct.sf(critical, df, effect) - 0.8, 0, reach) * se)
