"""Three pieces of advice that readers draw from the first study, and the rules that test them.

As in `parameters`, each rule was committed before the run that decides it; the systems that are
compared are trained in the chapter of the advice.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mmlib.claims.rules import (
    NotTestableError,
    Tables,
    ours,
)
from mmlib.claims.slam import TRAININGS
from mmlib.study.tables import MATH_PARTS, require_columns


def _means(rows: pd.DataFrame, value: str, wanted: set[str]) -> pd.DataFrame:
    """Mean of a value by seed; a column per system, the random ones together.

    Raises:
        NotTestableError: A system is missing, or they were not asked the same.
    """
    if missing := wanted - set(rows.system):
        raise NotTestableError(f"needs {', '.join(sorted(missing))}")
    rows = rows[rows.system.isin(wanted)]
    counts = rows.groupby(["seed", "system", "draw"]).size()
    if counts.nunique() > 1:
        raise NotTestableError("needs the same questions to every system in every training")
    means = rows.groupby(["seed", "system"])[value].mean().unstack()
    if means.isna().any(axis=None):
        raise NotTestableError("needs every system in every training")
    return means


@ours(
    "R1",
    "To teach math in many languages, fine-tune the middle layers.",
    "mean accuracy after tuning the middle half of the layers above that after tuning the outer"
    " half and random layers, as many each",
    "advice_layers",
    committed="2026-11-22",
    **TRAININGS,
)
def _middle_layers_best(tables: Tables) -> pd.Series:
    """Accuracy after tuning the middle layers - the higher of outer ones and random ones.

    Means over all languages and parts of math, and over the draws of random layers.
    """
    table = tables["advice_layers"]
    columns = ["seed", "system", "draw", "lang", "part", "accuracy"]
    require_columns(table, columns, "table 'advice_layers'")
    rows = table[table.part.isin(MATH_PARTS)]
    means = _means(rows, "accuracy", {"middle", "outer", "random"})
    return means["middle"] - np.maximum(means["outer"], means["random"])


@ours(
    "R2",
    "To help a weak language, tune the math weights that only it has.",
    "its accuracy after tuning them above that after tuning shared math weights and random "
    "weights, as many per matrix each",
    "advice_weights",
    committed="2026-11-22",
    **TRAININGS,
)
def _own_weights_best(tables: Tables) -> pd.Series:
    """Accuracy after tuning a language's own weights - the higher of shared and random ones.

    In the language that is tuned; means over these languages, parts of math, and random draws.
    """
    table = tables["advice_weights"]
    columns = ["seed", "system", "draw", "target", "lang", "part", "accuracy"]
    require_columns(table, columns, "table 'advice_weights'")
    rows = table[table.part.isin(MATH_PARTS) & (table.lang == table.target)]
    means = _means(rows, "accuracy", {"own", "shared", "random"})
    return means["own"] - np.maximum(means["shared"], means["random"])


@ours(
    "R3",
    "Pruning a few math weights mends the form of answers.",
    "at K = .001 more answers are closed as asked, without examples and as in the examples, "
    "than in the whole model (where it leaves something to mend) and after pruning random "
    "weights",
    "advice_format",
    committed="2026-11-22",
    keep_ratios=(0.001,),
)
def _pruning_mends_form(tables: Tables) -> pd.Series:
    """Share of answers closed as asked after pruning - the higher of none and random, the smaller.

    The smaller of that without examples (closed as the grader reads it) and with some (closed as
    they are, mean over the phrases that examples have); one of which the whole model leaves less
    than 2 % in every training does not count, as nothing is to be mended there.
    """
    table = tables["advice_format"]
    columns = ["seed", "system", "draw", "shots", "phrase", "as_asked"]
    require_columns(table, columns, "table 'advice_format'")
    sides = [
        _means(rows, "as_asked", {"math", "whole", "random"})
        for _, rows in table.groupby(table.shots > 0)
    ]
    if len(sides) < 2:
        raise NotTestableError("needs answers without examples and with some")
    found = [
        means["math"] - np.maximum(means["whole"], means["random"])
        for means in sides
        if means["whole"].min() <= 0.98
    ]
    if not found:
        raise NotTestableError("the whole model closes all but 2 % of its answers as asked")
    return pd.concat(found, axis=1).min(axis=1)
