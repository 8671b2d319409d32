"""The rules that decide the claims of the papers, and their published numbers in our columns.

A check reduces tidy tables to one effect per replicate (a calibration seed); the claim holds where
the effect exceeds a threshold. The same check reads the published tables, where the one replicate
decides by its sign, and ours, where the interval over replicates decides. Rules are committed
before the run they decide; claims without a rule here get theirs with a later chapter.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmlib.claims.rules import CELL, MATH_TASKS, NotTestableError, Tables, decides, weakest
from mmlib.study.stats import rank_correlation
from mmlib.study.tables import published, require_columns

# --- from tables to one effect per calibration seed ---------------------------------------------


def _rows(tables: Tables, name: str, group: str, columns: str) -> pd.DataFrame:
    """The rows of one group of a table that has the given columns."""
    require_columns(tables[name], [*CELL, "group", *columns.split()], f"table {name!r}")
    rows = tables[name][tables[name].group == group]
    if rows.empty:
        raise NotTestableError(f"needs rows of the group {group!r}")
    return rows


def _overlap(tables: Tables, group: str) -> pd.DataFrame:
    """Overlap of different languages, with `jaccard` from the counts."""
    t = _rows(tables, "overlap", group, "lang_a lang_b layer size_a size_b intersection union")
    t = t[t.lang_a != t.lang_b]
    if t.empty or (t.union == 0).any():
        raise NotTestableError("needs non-empty sets of at least two languages")
    return t.assign(jaccard=t.intersection / t.union).set_index("seed")


@decides("C1", "overlap")
def _partial_overlap(tables: Tables) -> pd.Series:
    """Smallest of J - K(1-K)/(K^2-K+2) and 2/3 - J over all pairs and K."""
    t = _overlap(tables, "global")
    k = t.keep_ratio
    above = t.jaccard - k * (1 - k) / (k**2 - k + 2)
    return weakest(np.minimum(above, 2 / 3 - t.jaccard))


@decides("C1b", "overlap")
def _above_size_matched(tables: Tables) -> pd.Series:
    """Smallest J - size-matched chance over all pairs and K.

    Chance is the J of an expected intersection: summed over matrices where the table has it, else
    size_a * size_b / n_scored.
    """
    t = _overlap(tables, "global")
    require_columns(t, ["n_scored"], "table 'overlap'")
    expected = (t.size_a / t.n_scored) * t.size_b
    if "expected_intersection" in t:
        expected = t.expected_intersection.fillna(expected)
    chance = expected / (t.size_a + t.size_b - expected)
    return weakest(t.jaccard - chance)


def _middle_half(tables: Tables) -> pd.DataFrame:
    """Overlap by layer, with `middle`: n//4 <= layer < n - n//4 in a model of n layers."""
    t = _overlap(tables, "layer")
    n = t.groupby("model").layer.transform("max").astype(int) + 1
    if n.min() < 4:
        raise NotTestableError(f"needs at least 4 layers, the model has {n.min()}")
    return t.assign(middle=(t.layer >= n // 4) & (t.layer < n - n // 4))


def _middle_minus_outer(jaccard: pd.Series) -> pd.Series:
    sides = jaccard.unstack("middle")
    return weakest(sides[True] - sides[False])


@decides("C2", "overlap", keep_ratios=(0.1,))
def _middle_peak(tables: Tables) -> pd.Series:
    """Highest pair-mean J of a layer in the middle half - highest outside it."""
    layers = _middle_half(tables).groupby([*CELL, "middle", "layer"]).jaccard.mean()
    return _middle_minus_outer(layers.groupby([*CELL, "middle"]).max())


@decides("C2b", "overlap")
def _middle_above_outer(tables: Tables) -> pd.Series:
    """Smallest mean J of the middle half - mean J of the other layers over all pairs and K."""
    pairs = _middle_half(tables).groupby([*CELL, "lang_a", "lang_b", "middle"])
    return _middle_minus_outer(pairs.jaccard.mean())


def _set_sizes(tables: Tables, *needed: str, name: str = "set_sizes") -> pd.DataFrame:
    """Set sizes of whole models: one column per language, one row per `CELL`."""
    t = _rows(tables, name, "global", "lang n_topk n_math_specific")
    wide = t.pivot(index=CELL, columns="lang", values="n_math_specific")
    return _complete(wide, *needed or wide.columns)


def _complete(wide: pd.DataFrame, *languages: str) -> pd.DataFrame:
    if absent := [lang for lang in languages if lang not in wide or wide[lang].isna().any()]:
        raise NotTestableError(f"needs {', '.join(absent)} in every model, K and seed")
    return wide.astype(float)


@decides("C3a", "set_sizes")
def _size_order(tables: Tables) -> pd.Series:
    """Smallest of en - max(de, fr) and min(de, fr) - hi over all K; set sizes as a share of en."""
    w = _set_sizes(tables, "en", "de", "fr", "hi")
    middle = w[["de", "fr"]]
    return weakest(np.minimum(w.en - middle.max(axis=1), middle.min(axis=1) - w.hi) / w.en)


def _math_answers(tables: Tables, sizes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Correct and asked math problems: a row per model, the columns of `sizes`."""
    t = tables["accuracy"]
    require_columns(t, ["lang", "task", "accuracy", "n", "low", "high"], "table 'accuracy'")
    t = t[t.task.isin(MATH_TASKS) & t.lang.isin(sizes.columns)]
    models = sizes.index.unique("model")
    if "model" not in t:  # one model was measured: the one whose sets these are
        t = t.assign(model=models[0])
    bounds = t.groupby("model").agg(low=("low", "max"), high=("high", "min"))
    if t.empty or not (bounds.low > bounds.high).all():
        raise NotTestableError("no two languages differ in math accuracy beyond their intervals")
    t = t.assign(correct=t.accuracy * t.n)
    sides = [t.pivot(index="model", columns="lang", values=v) for v in ("correct", "n")]
    correct, asked = (_complete(side.reindex(models), *sizes.columns) for side in sides)
    return correct[sizes.columns], asked[sizes.columns]


def _joint_interval(tables: Tables, *, draws: int = 4000) -> tuple[float, float]:
    """Percentile interval of rho: each draw takes one seed's sets and new accuracies.

    An accuracy is drawn from Beta(correct + 1/2, wrong + 1/2), the binomial posterior under
    Jeffreys' prior: plain binomial draws would keep 500 of 500 at 1.0 and so invent ties.
    """
    sizes = _set_sizes(tables)
    correct, asked = _math_answers(tables, sizes)
    rng = np.random.default_rng(0)
    drawn = rng.beta(correct + 0.5, asked - correct + 0.5, size=(draws, *correct.shape))
    row_of_model = correct.index.get_indexer(sizes.index.get_level_values("model"))
    rho = rank_correlation(np.broadcast_to(sizes, (draws, *sizes.shape)), drawn[:, row_of_model])
    seeds = sizes.index.get_level_values("seed")
    chosen = rng.choice(seeds.unique(), size=(draws, 1)) == seeds.to_numpy()
    low, high = np.quantile(np.where(chosen, rho, np.inf).min(axis=1), [0.025, 0.975])
    return float(low), float(high)


_SAME_ORDER = {"keep_ratios": (0.1,), "threshold": 1 - 1e-9, "interval": _joint_interval}


@decides("C3b", "set_sizes", "accuracy", **_SAME_ORDER)
def _size_follows_accuracy(tables: Tables) -> pd.Series:
    """Spearman's rho over languages between set size and math accuracy (1: the same order)."""
    sizes = _set_sizes(tables)
    if sizes.shape[1] < 3:
        raise NotTestableError("needs at least 3 languages to speak of an order")
    correct, asked = _math_answers(tables, sizes)
    observed = (correct / asked).loc[sizes.index.get_level_values("model")]
    return weakest(pd.Series(rank_correlation(sizes.to_numpy(), observed.to_numpy()), sizes.index))


@decides("C3c", "model_sets", keep_ratios=(0.1,))
def _grows_with_size(tables: Tables) -> pd.Series:
    """Smallest step of n(en)/n(hi) from one model size to the next, of at least 3 sizes."""
    w = _set_sizes(tables, "en", "hi", name="model_sets")
    models = tables["model_sets"].query("group == 'global'").groupby("model").n_topk.max()
    if models.nunique() < 3:
        raise NotTestableError(f"needs at least 3 model sizes, there is {models.nunique()}")
    ratios = (w.en / w.hi).unstack("model")[models.sort_values().index]
    return weakest(ratios.diff(axis=1).iloc[:, 1:].min(axis=1, skipna=False))


# --- edits --------------------------------------------------------------------------------------

_EDIT = "model parameters nonmath lang condition factor keep_ratio seed kind value base"
SIZES = {
    "meta-llama/Llama-3.2-1B-Instruct": 1.24e9,
    "Qwen/Qwen3-4B-Instruct-2507": 4.02e9,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03e9,
}
"""Parameters of the papers' models."""


def _edits(tables: Tables, condition: str, kind: str, *factors: float) -> pd.DataFrame:
    """Values of edited models, one row per cell, with `rel`, the relative change.

    `kind` is "math", "nonmath" or "" for both. Only whole sets count, and the first precision.
    """
    t = tables["interventions"]
    require_columns(t, _EDIT.split(), "table 'interventions'")
    t = t[(t.condition == condition) & t.factor.isin(factors) & t.kind.str.contains(f"^{kind}")]
    if "fraction" in t:
        t = t[t.fraction == 1]
    if "dtype" in t:
        t = t[t.dtype == tables["interventions"].dtype.iloc[0]]
    if t.empty:
        raise NotTestableError(f"needs {kind} answers of a model with edited {condition} weights")
    if (t.base == 0).any():
        raise NotTestableError("a skill that the model lacks cannot fall or rise")
    return t.assign(rel=t.value / t.base - 1).set_index("seed")


@decides("C4a", "interventions", keep_ratios=(0.01,))
def _pruning_destroys_math(tables: Tables) -> pd.Series:
    """Smallest relative fall of math over models and languages when the set is zeroed - 90 %.

    Sets made with MMLU as non-math text do not count, as in the claim.
    """
    edits = _edits(tables, "math-specific", "math", 0.0)
    edits = edits[edits.nonmath != "mmlu"]
    if edits.empty:
        raise NotTestableError("needs sets made with another non-math text than MMLU")
    return weakest(-edits.rel - 0.9)


@decides("C4b", "interventions", keep_ratios=(0.01, 0.1))
def _pruning_keeps_the_rest(tables: Tables) -> pd.Series:
    """5 % - largest relative fall of the non-math skill over models, languages and K."""
    return weakest(_edits(tables, "math-specific", "nonmath", 0.0).rel + 0.05)


@decides("C4c", "interventions", keep_ratios=())
def _without_subtraction_all_goes(tables: Tables) -> pd.Series:
    """Smallest of .01 - math and .30 - non-math accuracy when top scores are zeroed, all cells."""
    t = _edits(tables, "top-K math", "", 0.0)
    return weakest(np.where(t.kind == "math", 0.01, 0.30) - t.value)


@decides("C5a", "interventions", keep_ratios=())
def _scaling_lifts_english(tables: Tables) -> pd.Series:
    """Largest relative gain of English math over models and K at factor 1.01, less the control's.

    Where random sets were scaled, the largest of their gains is subtracted (means over their
    draws), so that both sides have the same luck.
    """
    gains = _english_gains(tables, "math-specific")
    best = gains.groupby(level="seed").max()
    if (tables["interventions"].condition == "random").any():
        control = _english_gains(tables, "random")
        if not gains.index.isin(control.index).all():
            raise NotTestableError("needs a random set for every model, K and seed")
        best = best - control.groupby(level="seed").max()
    return best


def _english_gains(tables: Tables, condition: str) -> pd.Series:
    t = _edits(tables, condition, "math", 1.01).reset_index()
    t = t[t.lang == "en"]
    if t.empty:
        raise NotTestableError("needs English math")
    return t.groupby(CELL, sort=False).rel.mean()


@decides("C5b", "interventions", keep_ratios=())
def _scaling_keeps_the_rest(tables: Tables) -> pd.Series:
    """.006 - largest change of a non-math accuracy at factor 1.01, in all cells."""
    t = _edits(tables, "math-specific", "nonmath", 1.01)
    if "n" in t and t.n.min() < 1 / 0.006:
        raise NotTestableError(f"one of {t.n.min()} answers is more than the limit of .006")
    return weakest(0.006 - (t.value - t.base).abs())


@decides("C5c", "interventions", keep_ratios=())
def _scaling_lifts_small_models(tables: Tables) -> pd.Series:
    """Best gain of the smallest model - best gain of the others, of at least 3 sizes."""
    gains = _english_gains(tables, "math-specific").groupby(["seed", "model"]).max().unstack()
    sizes = tables["interventions"].groupby("model").parameters.first().sort_values()
    sizes = sizes[sizes.index.isin(gains.columns)]
    if sizes.nunique() < 3:
        raise NotTestableError(f"needs at least 3 model sizes, there is {sizes.nunique()}")
    return gains[sizes.index[0]] - gains[sizes.index[1:]].max(axis=1)


def published_edits() -> pd.DataFrame:
    """The published interventions in our columns, means over calibration seeds (`seed` 0).

    Of the control without subtraction every run has a row.

    Baselines are those of the project page, for MMLU the mean of the stored ones. The control that
    subtracts nothing is that of `mathlang_controls`, the highest scores of the whole model.
    """
    t = published("mathlang_interventions")
    t = t[t.metric != "flexible"].assign(kind=t.task.map({"gsm8k": "math"}).fillna("nonmath"))
    name = ["model", "lang", "task"]
    page = t[t.variant == "page_table"].set_index(name).value
    main = t[t.variant == "main"]
    stored = main[main.intervention == "none"].groupby(name).value.mean()
    base = page.combine_first(stored).rename("base")
    cells = ["model", "nonmath", "lang", "task", "kind", "intervention", "factor", "keep_ratio"]
    edits = main[main.intervention != "none"].groupby(cells, sort=False).value.mean().reset_index()
    edits = edits.drop(columns="intervention").assign(condition="math-specific")
    whole = published("mathlang_controls").query("control == 'highest_scores_first'")
    whole = whole[whole.metric != "flexible"]
    whole = whole.assign(kind=whole.task.map({"gsm8k": "math"}).fillna("nonmath"), factor=0.0)
    columns = ["model", "nonmath", "lang", "task", "kind", "factor", "keep_ratio", "value"]
    both = pd.concat([edits, whole[columns].assign(condition="top-K math")])
    sizes = both.model.map(SIZES)
    return both.join(base, on=name).assign(seed=0, parameters=sizes).drop(columns="task")


# --- errors and fractions -----------------------------------------------------------------------


def _pruned_or_scaled(tables: Tables, condition: str, columns: str, wanted: str) -> pd.DataFrame:
    """Rows of the table of errors about one kind of set, by seed."""
    t = tables["errors"]
    require_columns(t, [*CELL, "lang", "condition", "factor"], "table 'errors'")
    t = t[t.condition == condition].query(wanted)
    if t.empty:
        raise NotTestableError(f"needs errors of a model with {condition} weights, {wanted}")
    require_columns(t, columns.split(), "table 'errors'")
    return t.set_index("seed")


@decides("C6a", "errors", keep_ratios=())
def _gains_are_arithmetic(tables: Tables) -> pd.Series:
    """Share of slips among the answers that scaling corrected, over languages, K, factors, - 1/2.

    Where nine tenths of the unedited model's errors are slips, this would be so by chance.
    """
    columns = "corrected corrected_slips broken wrong wrong_slips"
    t = _pruned_or_scaled(tables, "math-specific", columns, "factor > 1")
    total = t.groupby(level="seed")[columns.split()].sum()
    if (total.corrected - total.broken).sum() <= 0:
        raise NotTestableError("scaling gains nothing, so that there is no gain to explain")
    if (total.corrected == 0).any():
        raise NotTestableError("a calibration seed without a corrected answer")
    if (share := (total.wrong_slips / total.wrong).max()) >= 0.9:
        raise NotTestableError(f"{share:.0%} of all errors are slips, so any gain would be one")
    return total.corrected_slips / total.corrected - 0.5


@decides("C6b", "errors", keep_ratios=())
def _pruning_repairs_format(tables: Tables) -> pd.Series:
    """Largest gain of strict accuracy with as large a fall of format errors, less the control's.

    That is, the largest over models, languages and K of the smaller of the two, when the set is
    zeroed; where random sets were zeroed too, their largest is subtracted.
    """
    columns = "value base format base_format"
    t = _pruned_or_scaled(tables, "math-specific", columns, "factor == 0")
    if t.base_format.max() < 0.01:
        raise NotTestableError("fewer than 1 % of the unedited model's answers fail by format")
    repaired = _repaired(t)
    if (tables["errors"].condition == "random").any():
        repaired -= _repaired(_pruned_or_scaled(tables, "random", columns, "factor == 0"))
    return repaired


def _repaired(t: pd.DataFrame) -> pd.Series:
    both = np.minimum(t.value - t.base, t.base_format - t.format)
    return both.groupby(level="seed").max()


def _fractions(tables: Tables) -> pd.DataFrame:
    """Math accuracy after pruning random fractions of the set; `seed` is that of their draw."""
    t = tables["fractions"]
    columns = ["model", "lang", "condition", "keep_ratio", "fraction", "seed", "value", "base"]
    require_columns(t, columns, "table 'fractions'")
    t = t[t.condition == "math-specific"]
    if t.empty or (t.base == 0).any():
        raise NotTestableError("needs math accuracies of a model that can do math")
    return t


CURVE = ["seed", "model", "lang", "keep_ratio"]


_DRAWS = {"keep_ratios": (), "replicates": "seeds of the drawn fraction"}


@decides("C7a", "fractions", **_DRAWS)
def _linear_in_the_fraction(tables: Tables) -> pd.Series:
    """Smallest R^2 of accuracy on fraction - .9, over models, languages and K.

    Curves that fall by less than 10 points from nothing to the whole set have no slope to explain
    and do not count.
    """
    curves = {}
    for name, t in _fractions(tables).groupby(CURVE):
        x, y = [0.0, *t.fraction], [t.base.iloc[0], *t.value]
        if t.base.iloc[0] - t.value[t.fraction == 1].mean() >= 0.1:
            curves[name] = np.corrcoef(x, y)[0, 1] ** 2 - 0.9
    if not curves:
        raise NotTestableError("no set lowers accuracy by 10 points when all of it is pruned")
    effects = pd.Series(curves)
    effects.index = pd.MultiIndex.from_tuples(curves, names=CURVE)
    return weakest(effects)


@decides("C7b", "fractions", **_DRAWS)
def _no_critical_few(tables: Tables) -> pd.Series:
    """Smallest share of the accuracy that is left without 5 % of the set - .7, all curves."""
    t = _fractions(tables)
    t = t[t.fraction.round(9) == 0.05]
    if t.empty:
        raise NotTestableError("needs the fraction .05")
    return weakest(t.set_index(CURVE).pipe(lambda t: t.value / t.base) - 0.7)


def published_fractions() -> pd.DataFrame:
    """The published fraction curves in our columns, means over sampling seeds (`seed` 0)."""
    t = published("mathlang_fraction_pruning").query("task == 'gsm8k' and metric == 'strict'")
    curve = ["model", "lang", "keep_ratio"]
    t = t.groupby([*curve, "fraction"]).value.mean().reset_index()
    base = t[t.fraction == 0].set_index(curve).value.rename("base")
    about = {"condition": "math-specific", "nonmath": "race", "seed": 0}
    return t[t.fraction > 0].join(base, on=curve).assign(**about)


def published_errors() -> pd.DataFrame:
    """Published edits as a table of errors: `format` is |strict - flexible|, the best there is.

    An answer whose last number is not its result is wrong by flexible reading only, so that this
    gap is no count of format errors.
    """
    t = published("mathlang_interventions").query("task == 'gsm8k'")
    name = ["model", "nonmath", "lang", "intervention", "factor", "keep_ratio"]
    main = t[t.variant == "main"]
    means = main.groupby([*name, "metric"], dropna=False).value.mean().unstack()
    means = means.dropna().assign(format=lambda m: (m.flexible - m.strict).abs()).reset_index()
    plain = means[means.intervention == "none"].set_index(["model", "nonmath", "lang"])
    base = plain[["strict", "format"]].set_axis(["base", "base_format"], axis=1)
    edits = means[means.intervention == "prune"].join(base, on=base.index.names, how="inner")
    return edits.rename(columns={"strict": "value"}).assign(condition="math-specific", seed=0)
