"""The rules that decide the claims of the papers, and their published numbers in our columns.

A check reduces tidy tables to effects by cell and replicate; the same check reads the published
tables. Thresholds (2/3, 90 %, 5 %, .9 and so on) are ours.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from mmlib.claims.rules import (
    BOOK,
    CELL,
    PUBLISHED,
    NotTestableError,
    Tables,
    record,
    weakest,
)
from mmlib.study.stats import rank_correlation
from mmlib.study.tables import MATH_TASKS, chance_jaccard, published, require_columns

claim = partial(record, paper="LLM Parameters for Math Across Languages (2606.18453)")

# --- from tables to one effect per calibration seed ---------------------------------------------


def _rows(tables: Tables, name: str, group: str, columns: str) -> pd.DataFrame:
    """The rows of one group of a table that has the given columns."""
    require_columns(tables[name], [*CELL, "group", *columns.split()], f"table {name!r}")
    rows = tables[name][tables[name].group == group]
    if rows.empty:
        raise NotTestableError(f"needs rows of the group {group!r}")
    return rows


_PAIR = [*CELL, "lang_a", "lang_b"]


def _overlap(tables: Tables, group: str) -> pd.DataFrame:
    """Overlap of different languages, with `jaccard` from the counts."""
    t = _rows(tables, "overlap", group, "lang_a lang_b layer size_a size_b intersection union")
    t = t[t.lang_a != t.lang_b]
    if t.empty or (t.union == 0).any():
        raise NotTestableError("needs non-empty sets of at least two languages")
    return t.assign(jaccard=t.intersection / t.union).set_index(_PAIR)


_THIS_MODEL = {"unit": "calibration draws", "committed": "2026-11-21", "seen": "2026-11-21"}
"""Draws from one pool share texts, so that an interval over them is about this model alone."""
_PILOT = "on one real LLM of 0.5B, overlaps of 50 prompts had been seen before"


@claim(
    "C1",
    "Math-associated weight sets of different languages overlap partially: more than chance, "
    "but far from identical.",
    "every global Jaccard is above the authors' chance line K(1-K)/(K^2-K+2) and below 2/3",
    "overlap",
    where="abstract; project page; README",
    satisfied="yes",
    figure="126 rows: Jaccard 0.120-0.530; ratio to the authors' chance 2.13-9313; smallest at "
    "K=.15 (2.13-6.19)",
    note=f"an untrained network passes this too: O1, more than untrained, is the claim that "
    f"counts; {_PILOT}",
    **_THIS_MODEL,
)
def _partial_overlap(tables: Tables) -> pd.Series:
    """J - K(1-K)/(K^2-K+2), and 2/3 - J, of every pair and K."""
    t = _overlap(tables, "global")
    k = t.index.get_level_values("keep_ratio")
    above = t.jaccard - k * (1 - k) / (k**2 - k + 2)
    return pd.concat({"above chance": above, "below 2/3": 2 / 3 - t.jaccard}, names=["side"])


@claim(
    "C1b",
    "(stricter reading of C1) overlap also exceeds a chance level computed from the actual set "
    "sizes.",
    "every global Jaccard exceeds q1*q2/(q1+q2-q1*q2), q = set size / weights compared",
    "overlap",
    paper=BOOK,
    where="beside C1, a stricter reading of it",
    satisfied="yes",
    figure="ratio to the size-matched chance 13.2-26394; at K=.1 17.9-50.9",
    note=f"an untrained network passes this too, see O1; {_PILOT}",
    **_THIS_MODEL,
)
def _above_size_matched(tables: Tables) -> pd.Series:
    """J - size-matched chance of every pair and K.

    Chance is the J of an expected intersection: summed over matrices where the table has it, else
    size_a * size_b / n_scored.
    """
    t = _overlap(tables, "global")
    require_columns(t, ["n_scored"], "table 'overlap'")
    expected = (t.size_a / t.n_scored) * t.size_b
    if "expected_intersection" in t:
        expected = t.expected_intersection.fillna(expected)
    return t.jaccard - chance_jaccard(t.size_a, t.size_b, expected)


def _middle_half(tables: Tables) -> pd.DataFrame:
    """Overlap by layer, with `middle`: n//4 <= layer < n - n//4 in a model of n layers."""
    t = _overlap(tables, "layer")
    n = t.groupby("model").layer.transform("max").astype(int) + 1
    if n.min() < 4:
        raise NotTestableError(f"needs at least 4 layers, the model has {n.min()}")
    return t.assign(middle=(t.layer >= n // 4) & (t.layer < n - n // 4))


def _middle_minus_outer(jaccard: pd.Series) -> pd.Series:
    sides = jaccard.unstack("middle")
    return sides[True] - sides[False]


@claim(
    "C2",
    "Overlap between languages is strongest in intermediate layers and weaker in the first and "
    "last ones.",
    "at keep_ratio .1, for each of the 3 models, the layer with the highest Jaccard averaged "
    "over the 6 pairs lies in the middle half (n//4 <= layer < n-n//4); lm_head excluded",
    "overlap",
    where="abstract; project page",
    satisfied="yes",
    figure="1B: L7 of 16; 4B: L21 of 36; 8B: L13 of 32; over all K 20/21 (model,K) inside the "
    "middle half, not inside: 8B K=0.0001 L7",
    keep_ratios=(0.1,),
    changed="asked again of a new organism after the answer of the first one was known",
    **_THIS_MODEL,
)
def _middle_peak(tables: Tables) -> pd.Series:
    """Highest pair-mean J of a layer in the middle half - highest outside it."""
    layers = _middle_half(tables).groupby([*CELL, "middle", "layer"]).jaccard.mean()
    return _middle_minus_outer(layers.groupby([*CELL, "middle"]).max())


@claim(
    "C2b",
    "(stricter reading of C2) the middle half beats the outer quarters for each pair.",
    "for every model, K and pair: mean Jaccard over the middle half > mean over the first and "
    "last quarters together",
    "overlap",
    paper=BOOK,
    where="beside C2, a stricter reading of it",
    satisfied="yes",
    figure="126/126 (model,K,pair) cells; K=.1 means first/middle/last: 1B 0.181/0.236/0.161; "
    "4B 0.187/0.315/0.200; 8B 0.217/0.267/0.134",
    **_THIS_MODEL,
)
def _middle_above_outer(tables: Tables) -> pd.Series:
    """Mean J of the middle half - mean J of the other layers, of every pair and K."""
    pairs = _middle_half(tables).groupby([*_PAIR, "middle"])
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


@claim(
    "C3a",
    "English has the largest set of math-specific weights; Hindi the smallest; German and "
    "French lie between and are close to each other.",
    "in the set sizes stored with the Jaccard files (seed 1, RACE): for every model and K, en >"
    " max(de,fr) and hi < min(de,fr)",
    "set_sizes",
    where="abstract; project page Fig. 2",
    satisfied="yes",
    figure="en largest 21/21, hi smallest 21/21; de/fr between 0.930 and 1.019; 3-seed means of"
    " the prune logs (both non-math sets, 10 K): en largest 52/52, hi smallest 52/52, fr>de "
    "49/52",
    committed="2026-11-21",
)
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


_SAME_ORDER = {
    "keep_ratios": (0.1,),
    "threshold": 1 - 1e-9,
}


@claim(
    "C3b",
    "The ordering of set sizes mirrors the ordering of GSM8K accuracy across languages.",
    "Spearman rank correlation over the 4 languages between set size (seed 1, RACE, K=.1) and "
    "baseline strict GSM8K is 1 for every model",
    "set_sizes",
    "accuracy",
    where="abstract (digests); project page",
    satisfied="no",
    figure="rho at K=.1: 1B 0.8, 4B 1.0, 8B 1.0; at K=.01: 1B 0.8, 4B 1.0, 8B 1.0; 1B breaks "
    "it: French has more weights than German (15.33 M vs 15.18 M) but lower accuracy (.185 vs "
    ".235); with the 3-seed mean sizes of the prune logs at K=.1 rho is 1B 0.8, 4B 1.0, 8B 0.8;"
    " 4 points per model, and only the fr/de order can differ once C3a holds",
    committed="2026-11-21",
    **_SAME_ORDER,
)
def _size_follows_accuracy(tables: Tables) -> pd.Series:
    """Spearman's rho over languages between set size and math accuracy (1: the same order)."""
    sizes = _set_sizes(tables)
    if sizes.shape[1] < 3:
        raise NotTestableError("needs at least 3 languages to speak of an order")
    correct, asked = _math_answers(tables, sizes)
    observed = (correct / asked).loc[sizes.index.get_level_values("model")]
    return weakest(pd.Series(rank_correlation(sizes.to_numpy(), observed.to_numpy()), sizes.index))


@claim(
    "C3c",
    "The size gap between languages is more pronounced in larger models.",
    "n(en)/n(hi) at K=.1 (seed 1, RACE) increases from 1B to 4B to 8B",
    "model_sets",
    where="project page (digest)",
    satisfied="no",
    figure="en/hi 1B,4B,8B: K=0.0001 1.66,1.78,1.77; K=0.001 1.71,2.19,1.58; K=0.01 "
    "1.57,1.83,1.48; K=0.025 1.43,1.70,1.34; K=0.05 1.37,1.66,1.48; K=0.1 1.43,1.60,1.46; "
    "K=0.15 1.42,1.58,1.29",
    committed="2026-11-21",
    keep_ratios=(0.1,),
)
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


@claim(
    "C4a",
    "Setting the math-specific weights to zero destroys GSM8K accuracy (up to -98 %).",
    "RACE-based sets, K=.01: mean strict GSM8K over 3 seeds falls by at least 90 % relative to "
    "the baseline in every stored model x language cell",
    "interventions",
    where="abstract/project page",
    satisfied="yes",
    figure="K=.01: 10 cells, smallest drop 1B fr K=0.01 0.185->0.017 (-91.0 %); K=.1: smallest "
    "drop 1B hi K=0.1 0.145->0.010 (-93.1 %); largest drop of all 8B hi K=0.025 0.415->0.002 "
    "(-99.6 %); en at K=.1: 4B en K=0.1 0.735->0.015 (-98.0 %), 8B en K=0.1 0.765->0.003 (-99.6"
    " %), 1B en K=0.1 0.340->0.022 (-93.6 %)",
    committed="2026-11-21",
    keep_ratios=(0.01,),
)
def _pruning_destroys_math(tables: Tables) -> pd.Series:
    """Smallest relative fall of math over models and languages when the set is zeroed - 90 %.

    Sets made with MMLU as non-math text do not count, as in the claim.
    """
    edits = _edits(tables, "math-specific", "math", 0.0)
    edits = edits[edits.nonmath != "mmlu"]
    if edits.empty:
        raise NotTestableError("needs sets made with another non-math text than MMLU")
    return weakest(-edits.rel - 0.9)


@claim(
    "C4b",
    "... with minimal loss on the non-math task used for subtraction.",
    "K=.01 and K=.1: RACE (RACE-based sets) and MMLU (MMLU-based sets) fall by less than 5 % "
    "relative in every stored cell",
    "interventions",
    where="abstract/project page",
    satisfied="no",
    figure="RACE K=.01: median -3.6 %, worst 8B fr K=0.01 0.413->0.382 (-7.4 %); RACE K=.1: "
    "median -8.2 %, worst 1B fr K=0.1 0.348->0.303 (-12.8 %); MMLU K=.01: median -9.0 %, worst "
    "1B fr K=0.01 0.360->0.305 (-15.3 %); MMLU K=.1: median -14.3 %, worst 8B hi K=0.1 "
    "0.455->0.353 (-22.3 %)",
    committed="2026-11-21",
    keep_ratios=(0.01, 0.1),
)
def _pruning_keeps_the_rest(tables: Tables) -> pd.Series:
    """5 % - largest relative fall of the non-math skill over models, languages and K."""
    return weakest(_edits(tables, "math-specific", "nonmath", 0.0).rel + 0.05)


@claim(
    "C4c",
    "(control, not in the paper) the selectivity comes from subtracting the non-math top-K.",
    "zeroing as few as 5 % of |T| weights taken from the top of the global math-score ranking "
    "(no subtraction) gives strict GSM8K = 0 and RACE < .30 in every stored cell",
    "interventions",
    paper=BOOK,
    where="beside C4, from unpublished runs stored in the repository",
    satisfied="yes",
    figure="114 cells (en/de/hi): GSM8K 0, RACE 0.189-0.286; |T|-many weights sampled from the "
    "top scores (en): K=1e-4 GSM8K 1B 0.280, 4B 0.828, 8B 0.683; K=.001 1B 0.000 (RACE 0.214), "
    "4B 0.600 (RACE 0.396), 8B 0.080 (RACE 0.272); K>=.005 all 0",
    committed="2026-11-21",
    keep_ratios=(),
)
def _without_subtraction_all_goes(tables: Tables) -> pd.Series:
    """Smallest of .01 - math and .30 - non-math accuracy when top scores are zeroed, all cells."""
    t = _edits(tables, "top-K math", "", 0.0)
    return weakest(np.where(t.kind == "math", 0.01, 0.30) - t.value)


@claim(
    "C5a",
    "Multiplying the set by a constant slightly above 1 improves English GSM8K of Llama-1B by "
    "up to 9.7 %.",
    "max over K and non-math set of mean strict GSM8K / baseline - 1 for Llama-1B en rounds to "
    "between 9.5 % and 10 %",
    "interventions",
    where="project page; README",
    satisfied="yes",
    figure="1B en K=0.15 0.340->0.373 (+9.8 %) on MMLU-based sets (+9.7 % if .373 is divided by"
    " .340); factor in the files is 1.01; 1B en over all K and both sets: +0.0 to +9.8 %; "
    "pruning 363 weights (K=1e-6) also gives .373",
    committed="2026-11-21",
    keep_ratios=(),
)
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


@claim(
    "C5b",
    "... while the non-math task does not change.",
    "scale runs: |RACE or MMLU - baseline| <= .006 in every cell",
    "interventions",
    where="project page",
    satisfied="yes",
    figure="max |change| 0.0055, mean 0.0011 over 216 cells",
    committed="2026-11-21",
    keep_ratios=(),
)
def _scaling_keeps_the_rest(tables: Tables) -> pd.Series:
    """.006 - largest change of a non-math accuracy at factor 1.01, in all cells."""
    t = _edits(tables, "math-specific", "nonmath", 1.01)
    if "n" in t and t.n.min() < 1 / 0.006:
        raise NotTestableError(f"one of {t.n.min()} answers is more than the limit of .006")
    return weakest(0.006 - (t.value - t.base).abs())


@claim(
    "C5c",
    "Scaling gains are smaller in larger models.",
    "English: max relative gain over K and non-math set is larger for 1B than for 4B and 8B",
    "interventions",
    where="README; digests",
    satisfied="yes",
    figure="1B en K=0.15 0.340->0.373 (+9.8 %); 4B en K=0.001 0.735->0.750 (+2.0 %); 8B en "
    "K=1e-05 0.765->0.783 (+2.4 %); against the baseline stored in the same run directory 8B is"
    " .785 (scale/results_gsm8k_race), i.e. no gain; share of all scale cells above the page "
    "baseline: 0.76 of 216",
    committed="2026-11-21",
    keep_ratios=(),
)
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


@claim(
    "C6a",
    "Scaling gains come mainly from corrected arithmetic rather than from better reasoning.",
    "needs per-item generations; not expressible over these tables",
    "errors",
    where="abstract (digest); project page",
    satisfied="not_testable",
    figure="the repository stores samples of a few runs only; not exported",
    committed="2026-11-21",
    keep_ratios=(),
)
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


@claim(
    "C6b",
    "Pruning can raise GSM8K by repairing the output format.",
    "Qwen3-4B en, RACE sets, K=1e-5: strict accuracy rises while the strict-flexible gap "
    "shrinks in absolute value",
    "errors",
    where="project page; Appendix E (digest)",
    satisfied="yes",
    figure="strict 0.735 -> 0.877, flexible 0.815 -> 0.853 (3 seeds); seed-42 repeats: strict "
    "0.871, flexible 0.864",
    committed="2026-11-21",
    keep_ratios=(),
)
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


_DRAWS = {
    "keep_ratios": (),
}


@claim(
    "C7a",
    "Removing a random fraction of the set lowers accuracy roughly linearly in the fraction (a "
    "collective effect).",
    "for each model x language x K curve (fractions 0,.05,.1,.2,.4,.6,.8,1; end points from the"
    " plot script) R^2 of accuracy on fraction >= .9",
    "fractions",
    where="project page; abstract",
    satisfied="no",
    figure="22/27 curves have R^2>=.9, median 0.945; below: 4B de K=0.001 0.82, 4B en K=0.001 "
    "0.29, 4B en K=0.01 0.85, 4B hi K=0.001 0.88, 1B hi K=0.1 0.81; Llamas only: 17/18",
    committed="2026-11-21",
    **_DRAWS,
)
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


@claim(
    "C7b",
    "No small group of critical weights: removing 5 % of the set has little effect.",
    "at fraction .05 every curve keeps at least 70 % of its baseline accuracy (mean over 3 "
    "sampling seeds)",
    "fractions",
    where="project page",
    satisfied="yes",
    figure="relative change at .05: -27.6 to +8.6 %, median -2.0 %; monotone (within .01): "
    "17/27 curves; uniform sampling cannot reveal a few critical weights, cf. C4c",
    committed="2026-11-21",
    **_DRAWS,
)
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


def _published_sizes() -> pd.DataFrame:
    return published("mathlang_set_sizes").query("source == 'jaccard_file'")


def _published_accuracy() -> pd.DataFrame:
    """Strict accuracy of the unedited models with Wilson's interval."""
    from statsmodels.stats.proportion import proportion_confint

    t = published("mathlang_interventions").query("variant == 'page_table' and metric == 'strict'")
    t = t.rename(columns={"value": "accuracy", "n_items": "n"})
    low, high = proportion_confint(t.accuracy * t.n, t.n, method="wilson")
    return t.assign(low=low, high=high)


PUBLISHED.update(
    {
        "overlap": lambda: published("mathlang_overlap"),
        "set_sizes": _published_sizes,
        "model_sets": _published_sizes,
        "accuracy": _published_accuracy,
        "interventions": published_edits,
        "errors": published_errors,
        "fractions": published_fractions,
    }
)
