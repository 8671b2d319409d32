"""Does math need all weights of a set, or a few? Prune fractions, drawn or in the scores' order."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mmlib.study.evidence import Sweep
from mmlib.study.likelihoods import desk_losses
from mmlib.study.stats import fit_curves, paired_changes
from mmlib.study.sweeps import CELL, ORDERED, Swept, cells, swept
from mmlib.study.tables import item_costs

GROUPS = ["lang", "condition"]
SWEEP = Sweep("fractions", name=[*CELL, "part"], per=GROUPS, by=GROUPS)
LINES = {"math-specific": "random part", "random": "of a random set"}
"""Names of conditions where a fraction of them is pruned."""
CURVE = ["condition", "keep_ratio", "lang"]
"""What names a curve of accuracy over the fraction."""


def planned(given: Mapping[str, Any]) -> pd.DataFrame:
    """Every cell and part of the sweep, by a page's parameters; of a random set one draw."""
    grid = {name: given[name] for name in ("languages", "seeds", "keep_ratios", "fractions")}
    grid["dtypes"], draws = [given["edit_dtype"]], given["sample_seeds"]
    of_the_set = cells(**grid, conditions=["math-specific", *ORDERED], sample_seeds=draws)
    control = cells(**grid, conditions=["random"], sample_seeds=draws[:1])
    table = pd.concat([of_the_set, control]).drop_duplicates(ignore_index=True)
    return table.merge(pd.DataFrame({"part": given["parts"]}), how="cross")


def rows(given: Mapping[str, Any]) -> Swept:
    """Prune fractions of the set of every language and ask it, or take what is shipped.

    Then one cell of every language and condition is asked `audit_items` items per part.
    """
    dtypes = [given["edit_dtype"]]
    return swept(given, planned(given), SWEEP, seeds=given["seeds"], dtypes=dtypes)


def accuracies(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every cell beside that of the unedited model.

    From `Swept.answers`, one row per edit: model, `CELL`, value, base and panel, the keep ratio in
    words; `condition` as in `LINES`.
    """
    table = answers.groupby(["model", *CELL], sort=False).correct.mean().rename("value")
    table = table.reset_index()
    plain = table.condition == "none"
    base = table[plain].set_index("lang").value.rename("base")
    table = table[~plain].join(base, on="lang").replace({"condition": LINES})
    return table.assign(panel=table.keep_ratio.map("keep ratio {:g}".format))


def tenths(answers: pd.DataFrame, keep_ratio: float) -> pd.DataFrame:
    """A random tenth of the set and the lowest, each against the tenth with the highest scores.

    Rows of `mmlib.study.stats.paired_changes` by condition and lang.
    """
    table = answers[(answers.fraction == 0.1) & (answers.keep_ratio == keep_ratio)]
    highest, lowest = ORDERED
    against = table[table.condition == highest].drop(columns="condition")
    others = table[table.condition.isin(["math-specific", lowest])]
    by, on = ["condition", "lang"], ["lang", "part", "problem_id"]
    return paired_changes(others, against, by=by, on=on, replicate="sample_seed")


def desk() -> pd.DataFrame:
    """What pruning a part of the English set costs worked solutions, in a real LLM.

    Returns:
        Columns model, condition (as in `LINES`), keep_ratio, fraction, seed (the calibration block)
        and cost, the mean over the problems in nats per token.
    """
    by = ["model", "condition", "keep_ratio", "fraction", "seed"]
    costs = item_costs(desk_losses("fractions")).groupby(by, sort=False).cost.mean()
    return costs.reset_index().replace({"condition": LINES})


def shapes(values: pd.DataFrame) -> pd.DataFrame:
    """Line, sigmoid or threshold? One row per curve and shape, see `mmlib.study.stats.shape_fits`.

    From `accuracies`; curves of random sets are left out.
    """
    return fit_curves(values[values.condition != LINES["random"]], CURVE)


def shape_counts(published: pd.DataFrame) -> pd.DataFrame:
    """How many published curves of each model have which shape, and where a line is clearly worse.

    `published` has the columns model, lang, keep_ratio, fraction, value, base.
    """
    fits = fit_curves(published, ["model", "lang", "keep_ratio"])
    best, line = fits[fits.above_best == 0], fits[fits["shape"] == "linear"].set_index("model")
    counts = pd.crosstab(best.model, best["shape"])
    return counts.assign(line_clearly_worse=(line.above_best > 10).groupby("model").sum())
