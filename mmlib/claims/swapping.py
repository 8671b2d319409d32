"""The rules that decide the claims of layer swapping on runs of ours.

As in `parameters`, each rule was committed before the run that decides it. The paper's table by
language could not be read, so that nothing published can decide them.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from mmlib.claims.rules import (
    NotTestableError,
    Tables,
    ours,
    record,
    weakest,
)
from mmlib.claims.slam import TRAININGS, accuracies, of_language
from mmlib.study.stats import rank_correlation
from mmlib.study.tables import MATH_PARTS, require_columns

claim = partial(record, paper="Layer Swapping (2410.01335)")

ALTERNATIVES = (
    "math expert",
    "language expert",
    "joint",
    "soup",
    "adjusted soup",
    "task arithmetic",
    "TIES",
)
"""What the paper compares a swap with: the experts, training on both, other ways of merging."""
_WEAK, _STRONG = ("sw", "bn", "hi", "te"), ("de", "ja")
_EQUAL = 0.02
"""Mean accuracies that differ by less than two points are called equal."""


def _foreign(tables: Tables, *systems: str) -> pd.DataFrame:
    """Math accuracy by seed and language, without English; a column per system."""
    require_columns(tables["swap"], ["lang"], "table 'swap'")
    own = {"swap": tables["swap"][tables["swap"].lang != "en"]}
    wide = accuracies(own, MATH_PARTS, *systems, name="swap")
    if wide.groupby(level="seed").size().nunique() > 1:
        raise NotTestableError("needs the same languages in every training")
    return wide


def _mean_accuracies(tables: Tables, *systems: str) -> pd.DataFrame:
    """Mean accuracy over languages, by seed; a column per system."""
    return _foreign(tables, *systems).groupby(level="seed").mean()


def _gains(tables: Tables) -> pd.Series:
    """Accuracy of the swap - that of its math expert, by seed and language."""
    wide = _foreign(tables, "swap", "math expert")
    return wide["swap"] - wide["math expert"]


@claim(
    "L1",
    "Merged models beat the individual experts and other merging methods on MGSM by 10 % across"
    " four languages.",
    "mean over the four languages of swap / best alternative - 1 is about .10",
    "swap",
    where="abstract (seed 003)",
    satisfied="not_testable",
    figure="only the headline is known; no per-language table could be read; whether 10 % is "
    "relative is not said in the abstract",
    committed="2026-11-22",
    **TRAININGS,
)
def _beats_alternatives(tables: Tables) -> pd.Series:
    """Mean accuracy of the swap over that of the best alternative, - 1.05: half of the claim.

    The means are over languages. Alternatives: either expert, training on both data sets, an equal
    soup, one adjusted by magnitude, task arithmetic, TIES.
    """
    means = _mean_accuracies(tables, "swap", *ALTERNATIVES)
    best = means[list(ALTERNATIVES)].max(axis=1)
    if not (best > 0).all():
        raise NotTestableError("no alternative solves a problem: there is nothing to compare with")
    return means["swap"] / best - 1.05


@claim(
    "L2",
    "The advantage is largest for the lower-resource languages (Swahili, Telugu, Bengali); for "
    "Japanese swapping is below the math experts on average.",
    "sign of (swap - mean of math experts) is + for sw, te, bn and - for ja",
    "swap",
    where="reviews (second-hand)",
    satisfied="not_testable",
    figure="qualitative only",
    committed="2026-11-22",
    **TRAININGS,
)
def _weak_languages_gain(tables: Tables) -> pd.Series:
    """Smallest gain of sw, bn, hi, te over the math expert, or -1 times the largest of de, ja.

    The smaller of the two.
    """
    gains = _gains(tables)
    return np.minimum(weakest(of_language(gains, *_WEAK)), weakest(-of_language(gains, *_STRONG)))


@claim(
    "L3",
    "Training-free swap needs no transition zones: adding them makes no significant difference.",
    "|swap with - swap without transition layers| not significant",
    "swap",
    where="seed 004; second-hand notes",
    satisfied="not_testable",
    figure="qualitative only",
    committed="2026-11-22",
    **TRAININGS,
)
def _transition_is_idle(tables: Tables) -> pd.Series:
    """2 points - |mean accuracy with transition layers - that without|."""
    means = _mean_accuracies(tables, "swap", "no transition")
    return _EQUAL - (means["swap"] - means["no transition"]).abs()


@ours(
    "L4",
    "A swap needs both ends, and these layers.",
    "mean accuracy of the swap above that of its bottom or top alone, of the experts exchanged,"
    " of the base's layers in their place and of random layers",
    "swap",
    committed="2026-11-22",
    **TRAININGS,
)
def _every_part_counts(tables: Tables) -> pd.Series:
    """Mean accuracy of the swap - the highest of its parts and controls.

    These are the bottom alone, the top alone, the experts exchanged, layers of the base instead of
    the language expert's, and the mean of random layers.
    """
    table = tables["swap"]
    require_columns(table, ["system", "draw"], "table 'swap'")
    draws = sorted(set(table.draw[table.system == "random"]))
    if not draws:
        raise NotTestableError("needs swaps of random layers")
    parts = ["bottom only", "top only", "reversed", "revert"]
    means = _mean_accuracies(tables, "swap", *parts)
    of_draws = [
        _mean_accuracies({"swap": table[table.draw.isin([0, draw])]}, "swap", "random").random
        for draw in draws
    ]
    random = pd.concat(of_draws, axis=1).mean(axis=1)
    return means["swap"] - means[parts].assign(random=random).max(axis=1)


@ours(
    "L5",
    "Transition zones matter once the experts were trained for long.",
    "the gain by averaged layers grows from the shortest to the longest training",
    "swap_lengths",
    committed="2026-11-22",
    **TRAININGS,
)
def _long_training_needs_transition(tables: Tables) -> pd.Series:
    """Gain by a transition layer on each side after the longest training - after the shortest."""
    table = tables["swap_lengths"]
    columns = ["transition", "length", "seed", "lang", "part", "accuracy"]
    require_columns(table, columns, "table 'swap_lengths'")
    rows = table[table.part.isin(MATH_PARTS) & table.transition.isin([0, 1]) & (table.lang != "en")]
    keys = ["seed", "length", "lang", "part"]
    if rows.duplicated([*keys, "transition"]).any():
        raise NotTestableError("needs one value per training, length, zone, part and language")
    wide = rows.pivot(index=keys, columns="transition", values="accuracy")
    if set(wide) != {0, 1} or wide.isna().any(axis=None):
        raise NotTestableError("needs swaps with one and without transition layers")
    gains = (wide[1] - wide[0]).unstack("length")
    if gains.shape[1] < 2 or gains.isna().any(axis=None):
        raise NotTestableError("needs the same lengths of training, two or more, in every seed")
    return (gains.iloc[:, -1] - gains.iloc[:, 0]).groupby(level="seed").mean()


@ours(
    "L6",
    "The weaker a language, the more a swap brings it.",
    "rank correlation of gain over the math expert and accuracy of the base is negative",
    "swap",
    committed="2026-11-22",
    **TRAININGS,
)
def _weaker_gains_more(tables: Tables) -> pd.Series:
    """-1 times the rank correlation, over languages, of gain and accuracy of the base."""
    gains = _gains(tables).unstack("lang")
    if gains.shape[1] < 4:
        raise NotTestableError(f"needs 4 languages, there are {gains.shape[1]}")
    base = accuracies(tables, MATH_PARTS, "swap", "base", name="swap").base.unstack("lang")
    if (gains.nunique(axis=1) < 2).any() or (base.nunique(axis=1) < 2).any():
        raise NotTestableError("languages that are all equal have no ranks")
    return pd.Series(-rank_correlation(base.to_numpy(), gains.to_numpy()), base.index)
