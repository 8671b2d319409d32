"""Three pieces of advice that readers draw from the first study, and the rules that test them."""

from __future__ import annotations

from functools import partial

import pandas as pd

from mmlib.claims.rules import NotTestableError, Tables, leads, ours, table_of, trained_grades
from mmlib.study.tables import MATH_PARTS

_ALIKE = 0.1
"""Held-out losses that differ by less than this share of the larger one are called equal."""


def _leads(table: pd.DataFrame, system: str, *controls: str) -> pd.Series:
    """Grade of a system - that of each control, by training and problem, in all languages."""
    grades = trained_grades(table, MATH_PARTS, system, *controls)
    by = ["control", "seed", "problem"]
    return leads(grades, system, *controls).groupby(by, sort=False).mean()


def _unfit(study: str, tables: Tables) -> str:
    losses = tables["advice_losses"].query("study == @study and system not in ['all', 'base']")
    rates = sorted(losses.learning_rate.unique())
    rate = tables[f"advice_{study}"].learning_rate.max()
    unfit = []
    if rate in (rates[0], rates[-1]):
        tried = ", ".join(f"{value:g}" for value in rates)
        unfit.append(f"the rate {rate:g} lies at the edge of those tried ({tried})")
    means = losses[losses.learning_rate == rate].groupby("system").heldout_loss.mean()
    if means.min() < (1 - _ALIKE) * means.max():
        spread = f"{means.min():.4f} ({means.idxmin()}) to {means.max():.4f} ({means.idxmax()})"
        unfit.append(f"equal steps, not equal held-out loss: {spread} nats per token")
    return "; ".join(unfit)


def _fit_layers(tables: Tables) -> str:
    """Systems end at held-out losses within a tenth, at a rate inside the range that was tried."""
    return _unfit("layers", tables)


def _fit_weights(tables: Tables) -> str:
    """Systems end at held-out losses within a tenth, at a rate inside the range that was tried."""
    return _unfit("weights", tables)


claim = partial(ours, keep_ratios=(), committed="2026-11-22", seen="2026-11-22")


@claim(
    "R1",
    "To teach math in many languages, fine-tune the middle layers.",
    "mean accuracy after tuning the middle half of the layers above that after tuning the outer"
    " half and random layers, as many each",
    "advice_layers",
    "advice_losses",
    unit="trainings and items",
    precondition=_fit_layers,
)
def _middle_layers_best(tables: Tables) -> pd.Series:
    """Accuracy after tuning the middle layers - that after tuning outer ones and random ones.

    Means over all languages and parts of math, and over the draws of random layers.
    """
    return _leads(tables["advice_layers"], "middle", "outer", "random")


@claim(
    "R2",
    "To help a weak language, tune the math weights that only it has.",
    "its accuracy after tuning them above that after tuning shared math weights and random "
    "weights, as many per matrix each",
    "advice_weights",
    "advice_losses",
    unit="trainings and items",
    precondition=_fit_weights,
    changed="the rates that were tried had their lowest loss at the highest, .01; all systems were "
    "trained again with it after those of .003 had been undecided",
)
def _own_weights_best(tables: Tables) -> pd.Series:
    """Accuracy after tuning a language's own weights - that after shared ones and random ones.

    In the language that is tuned; means over these languages, parts of math, and random draws.
    """
    table = table_of(tables, "advice_weights", "target")
    return _leads(table[table.lang == table.target], "own", "shared", "random")


@claim(
    "R3",
    "Pruning a few math weights mends the form of answers.",
    "at K = .001 more answers are closed as asked, without examples and as in the examples, "
    "than in the whole model (where it leaves something to mend) and after pruning random "
    "weights",
    "advice_format",
    unit="trainings",
    keep_ratios=(0.001,),
)
def _pruning_mends_form(tables: Tables) -> pd.Series:
    """Share of answers closed as asked after pruning - that of the whole model and of random sets.

    Without examples (closed as the grader reads it) and with some (closed as they are, mean over
    the phrases that examples have); one of which the whole model leaves less than 2 % in every
    training does not count, as nothing is to be mended there.
    """
    table = table_of(tables, "advice_format", "seed", "system", "shots", "as_asked")
    if missing := {"math", "whole", "random"} - set(table.system):
        raise NotTestableError(f"needs {', '.join(sorted(missing))}")
    with_examples = (table.shots > 0).map({True: "with examples", False: "without examples"})
    means = table.groupby([with_examples.rename("examples"), "seed", "system"]).as_asked.mean()
    means = means.unstack("system")
    if means.isna().any(axis=None) or means.index.unique("examples").size < 2:
        raise NotTestableError("needs every system in every training, with and without examples")
    to_mend = means.whole.groupby("examples").min() <= 0.98
    if not to_mend.any():
        raise NotTestableError("the whole model closes all but 2 % of its answers as asked")
    means = means[to_mend.reindex(means.index.get_level_values("examples")).to_numpy()]
    return leads(means, "math", "whole", "random")
