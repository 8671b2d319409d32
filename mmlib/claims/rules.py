"""What a claim and its rule are, and how a rule decides on tables; shared by all parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from mmlib.study.stats import seed_interval
from mmlib.study.tables import require_columns

VERDICTS = ("yes", "no", "undecided", "not testable here", "no run yet")
YES, NO, UNDECIDED, NOT_TESTABLE, NO_RUN = VERDICTS
SHARED_KEEP_RATIOS = (0.001, 0.01, 0.025, 0.05, 0.1, 0.15)  # on our grid and on the published one
MATH_TASKS = ("gsm8k", "organism-math", "math", "mgsm", "msvamp")
CELL = ["model", "nonmath", "keep_ratio", "seed"]
BOOK = "This book (ours)"
PARTS = {"C": "parameters", "O": "meaning", "S": "slam", "L": "swapping", "R": "advice"}
"""Module of a claim, by the letter of its id; in the order of the ledger."""

Tables = Mapping[str, pd.DataFrame]
Check = Callable[[Tables], pd.Series]


@dataclass(frozen=True)
class Claim:
    """What is claimed, what was published about it, and the rule that decides it on tables."""

    id: str
    words: str
    restatement: str
    needs: tuple[str, ...]
    """Tables that the rule reads."""
    paper: str
    where: str
    satisfied: str
    """By the published numbers, as recorded: "yes", "no" or "not_testable"."""
    figure: str
    """The published numbers."""
    committed: str = ""
    """Day on which the rule was committed."""
    reason: str = ""
    """Why no run of ours can decide the claim."""
    keep_ratios: tuple[float, ...] = SHARED_KEEP_RATIOS
    """Those that are needed; empty takes whatever there is."""
    threshold: float = 0.0
    interval: Callable[[Tables], tuple[float, float]] | None = None
    replicates: str = "calibration seeds"
    check: Check | None = None
    """From tables to one effect per replicate; its docstring is the rule in words."""


CLAIMS: dict[str, Claim] = {}
PUBLISHED: dict[str, Callable[[], pd.DataFrame]] = {}
"""Published tables in our columns, by the name under which rules need them."""


def record(
    name: str, words: str, restatement: str, *needs: str, **fields: Any
) -> Callable[[Check], Check]:
    """Record a claim; the check that is decorated decides it (see the fields of `Claim`)."""
    CLAIMS[name] = Claim(name, words, restatement, needs, **fields)

    def register(check: Check) -> Check:
        CLAIMS[name] = replace(CLAIMS[name], check=check)
        return check

    return register


ours = partial(
    record,
    paper=BOOK,
    where="our addition",
    satisfied="not_testable",
    figure="nothing was published that could decide it",
)
"""Record a claim of the book."""


class NotTestableError(Exception):
    """These tables cannot decide the claim; the message is the ledger's reason."""


def weakest(effects: pd.Series) -> pd.Series:
    """Smallest effect per seed: a claim about every cell is as strong as its weakest one."""
    by_seed = effects.groupby(level="seed")
    if by_seed.count().nunique() > 1 or effects.isna().any():
        raise NotTestableError(f"seeds cover different cells: {by_seed.count().to_dict()}")
    return by_seed.min()


# --- verdicts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A verdict, its effect (mean over n seeds), 95 % interval and reason."""

    verdict: str
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    reason: str = ""


def claim_of(name: str) -> Claim:
    """The record of a claim, for which only its part is imported.

    Raises:
        ValueError: There is no such claim.
    """
    if name not in CLAIMS and name[:1] in PARTS:
        import_module(f"mmlib.claims.{PARTS[name[:1]]}")
    if name not in CLAIMS:
        raise ValueError(f"unknown claim {name!r}; recorded are {', '.join(CLAIMS) or 'none'}")
    return CLAIMS[name]


def _at(tables: Tables, claim: Claim) -> dict[str, pd.DataFrame]:
    """The tables at the claim's keep ratios, all of which have to be there."""
    chosen = {name: tables[name] for name in claim.needs}
    for name, table in chosen.items():
        if name == "accuracy" or not claim.keep_ratios:
            continue
        require_columns(table, ["keep_ratio"], f"table {name!r}")
        ratios = table.keep_ratio.round(9)
        if absent := [f"{k:g}" for k in claim.keep_ratios if not (ratios == k).any()]:
            raise NotTestableError(f"needs keep_ratio {', '.join(absent)}")
        chosen[name] = table[ratios.isin(claim.keep_ratios)]
    return chosen


def judge(name: str, tables: Tables | None) -> Outcome:
    """Decide one claim on tables of ours by the 95 % interval over its replicates.

    Args:
        name: Id of the claim, such as `"C2"`.
        tables: Those that the claim needs, as far as there are any (None: there was no run). Rows
            of control models do not belong here: a claim about every model is checked on each.
    """
    claim = claim_of(name)
    if claim.check is None:
        return Outcome(NO_RUN if tables is None else NOT_TESTABLE, reason=claim.reason)
    if absent := [table for table in claim.needs if tables is None or table not in tables]:
        return Outcome(NO_RUN, reason=f"needs the table(s) {', '.join(absent)}")
    try:
        chosen = _at(tables, claim)
        effect, low, high, n = seed_interval(claim.check(chosen))
        if claim.interval and n > 1:
            low, high = claim.interval(chosen)
    except NotTestableError as error:
        return Outcome(NOT_TESTABLE, reason=str(error))
    verdict = YES if low > claim.threshold else NO if high < claim.threshold else UNDECIDED
    undecided = "one seed has no interval" if n == 1 else "the interval holds the threshold"
    return Outcome(verdict, effect, low, high, n, undecided if verdict == UNDECIDED else "")


@cache
def published_effect(name: str) -> float:
    """Effect of the published numbers: one calibration seed, every published keep ratio.

    Not a number where they cannot decide the claim.
    """
    claim = claim_of(name)
    if claim.check is None or not set(claim.needs) <= set(PUBLISHED):
        return np.nan
    tables = {table: PUBLISHED[table]() for table in claim.needs}
    whole_grid = claim.keep_ratios == SHARED_KEEP_RATIOS
    try:
        return float(claim.check(tables if whole_grid else _at(tables, claim)).min())
    except NotTestableError:
        return np.nan


def verdicts(
    names: list[str], organism: Tables | None = None, research: Tables | None = None
) -> pd.DataFrame:
    """Rows of the ledger (see `mmlib.claims.ledger.ledger`); only these claims are decided."""
    claims = pd.DataFrame([vars(claim_of(name)) for name in names])
    effect = np.array([published_effect(name) for name in names])
    threshold = claims.threshold.where(claims.check.notna())
    recorded = claims.satisfied.map({"yes": YES, "no": NO, "not_testable": NOT_TESTABLE})
    computed = np.where(effect > threshold, YES, NO)
    run, theirs = (
        pd.DataFrame([judge(name, tables) for name in names]) for tables in (organism, research)
    )
    claims = claims.rename(columns={"words": "claim"})
    return claims[["id", "paper", "claim", "where", "restatement"]].assign(
        published_data=recorded.where(np.isnan(effect), computed),
        organism=run.verdict,
        research_run=theirs.verdict,
        published_numbers=claims.figure,
        published_effect=effect,
        **run[["effect", "low", "high", "n"]],
        threshold=threshold,
        smallest_detectable_effect=(run.high - run.low) / 2,
        reason=run.reason,
        research_reason=theirs.reason,
    )
