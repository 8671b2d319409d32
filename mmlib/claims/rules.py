"""What a claim and its rule are, and how a rule decides on tables; shared by all parts.

A verdict rests on cells (languages, pairs, models, controls), each with its own interval. A claim
about every cell is an intersection-union test: *yes* where each interval lies beyond the threshold,
which needs no correction; *no* where some cell is on the wrong side after Holm's. Never the minimum
over cells, which is biased to *no*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from mmlib.study.stats import cell_tests, detectable_effect, holm
from mmlib.study.tables import item_costs, item_grades, require_columns

YES, NO, UNDECIDED, NOT_TESTABLE, NO_RUN = VERDICTS = (
    "yes",
    "no",
    "undecided",
    "not testable here",
    "no run yet",
)
EXPLORATORY = {YES: "exploratory yes", NO: "exploratory no"}
"""Verdicts of a rule that was changed after a look."""
SHARED_KEEP_RATIOS = (0.001, 0.01, 0.025, 0.05, 0.1, 0.15)  # on our grid and on the published one
CELL = ["model", "nonmath", "keep_ratio", "seed"]
BOOK = "This book (ours)"
OURS = "our addition"
"""Where a claim of ours is made that stands beside none of the papers'."""
PARTS = {"C": "parameters", "O": "meaning", "S": "slam", "L": "swapping", "R": "advice"}
"""Module of a claim, by the letter of its id; in the order of the ledger."""
UNITS = {
    "items": ("problem",),
    "calibration samples": ("seed",),
    "calibration blocks": ("seed",),
    "repeats": ("seed",),
    "calibration samples and items": (),  # joined in a standard error
    "trainings": ("seed",),
    "trainings and items": ("seed", "problem"),
    "calibration blocks and items": ("seed", "problem"),
}
"""What an interval covers, and the levels of the effects that vary (see `cell_tests`)."""
TESTS = {
    "every": "intersection-union: yes if the 95 % interval of every cell lies above the threshold; "
    "no if some cell lies below it, by Holm over the cells",
    "some": "yes if some cell lies above the threshold, by Holm over the cells; no if the 95 % "
    "interval of every cell lies below it",
    "equal": "TOST: yes if the 90 % interval of every cell lies within the margin; no if some cell "
    "lies outside it, by Holm over the cells",
}
_OPEN = dict.fromkeys(TESTS, "not every cell complies, and none fails by Holm")
_OPEN["some"] = "no cell complies by Holm, and not all fail"
"""Why a claim about several cells is undecided."""
FEWEST = 3
"""With fewer trainings, or calibration blocks, a verdict about them is undecided: they describe."""

Tables = Mapping[str, pd.DataFrame]
Check = Callable[[Tables], pd.Series | pd.DataFrame]


@dataclass(frozen=True)
class Claim:
    """What is claimed, what was published about it, and the rule that decides it on tables."""

    id: str
    words: str
    """Of the paper."""
    restatement: str
    """What is checked on the published numbers."""
    needs: tuple[str, ...]
    """Tables that the rule and its precondition read; `evidence/NAME` in the form that ships."""
    paper: str
    where: str
    satisfied: str
    """By the published numbers, as recorded: "yes", "no" or "not_testable"."""
    figure: str
    """The published numbers."""
    unit: str = ""
    """One of `UNITS`."""
    test: str = "every"
    """One of `TESTS`."""
    threshold: float = 0.0
    """What each effect is compared with; of "equal" the margin."""
    differs: str = ""
    """Where our check is another or a weaker one than the words."""
    note: str = ""
    """What a reader of the verdict must know."""
    committed: str = ""
    """Day on which the rule was committed."""
    seen: str = ""
    """Day on which results that it decides were first seen; empty: not before it was committed."""
    changed: str = ""
    """What was changed after a look at results; it makes a verdict exploratory."""
    reason: str = ""
    """Why no run of ours can decide the claim."""
    reach: float = np.inf
    """Largest size that the effect of one problem can have, of what is right or wrong; with it even
    effects that do not vary are tested (see `cell_tests`)."""
    keep_ratios: tuple[float, ...] = SHARED_KEEP_RATIOS
    """Those that are needed; empty takes whatever there is."""
    precondition: Callable[[Tables], str] | None = None
    """Why the laboratory is unfit, by its numbers, or ""; the docstring is the rule in words."""
    check: Check | None = None
    """From tables to effects by cell and replicate; its docstring is the effect in words."""

    def __post_init__(self):
        if self.test not in TESTS or (self.unit and self.unit not in UNITS):
            raise ValueError(
                f"claim {self.id}: test {self.test!r} and unit {self.unit!r}; choose from "
                f"{', '.join(TESTS)} and {', '.join(UNITS)}"
            )


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
    where=OURS,
    satisfied="not_testable",
    figure="nothing was published that could decide it",
)
"""Record a claim of the book."""


DAYS = {"committed": "2026-11-21", "seen": "2026-11-21"}
"""Of the first rules: committed, and decided, on one day."""


class NotTestableError(Exception):
    """These tables cannot decide the claim; the message is the ledger's reason."""


class NoRunError(NotTestableError):
    """No run asked what the claim is about; the message says what is missing."""


def table_of(tables: Tables, name: str, *columns: str) -> pd.DataFrame:
    """A table that has the given columns; without one it is refused by name (ValueError)."""
    require_columns(tables[name], columns, f"table {name!r}")
    return tables[name]


def trained_grades(table: pd.DataFrame, parts: tuple[str, ...], *systems: str) -> pd.DataFrame:
    """Grades of trained systems on the same problems, which vary by training and by problem.

    Args:
        table: Packed answers (see `item_grades`) with the columns system, seed, lang and perhaps
            draw, the number of a random system.
        parts: Those that count.
        systems: Those that are compared.

    Returns:
        A row per seed, lang and problem (the levels of the index), a column per system with 1.0 or
        0.0, of random systems their mean over the draws. The base, which nobody trains, has its
        grades in every training.

    Raises:
        NotTestableError: A system is missing in a training or language, or has two grades there;
            or the table is a published one, which says how many `items` there were.
    """
    if "items" in table:
        raise NotTestableError("published without the grades of single problems")
    require_columns(table, ["system", "seed", "part", "lang"], "the table of systems")
    rows = table[table.part.isin(parts) & table.system.isin(systems)]
    if absent := sorted(set(systems) - set(rows.system)):
        raise NotTestableError(f"needs {', '.join(absent)} on {' or '.join(parts)}")
    rows = rows if "draw" in rows else rows.assign(draw=0)
    grades = item_grades(rows[["system", "draw", "seed", "part", "lang", "problems", "correct"]])
    keys = ["seed", "lang", "problem"]
    base = grades[grades.system == "base"].drop_duplicates([*keys[1:], "correct"])
    trained = grades[grades.system != "base"]
    if trained.duplicated(["system", "draw", *keys]).any() or base.duplicated(keys[1:]).any():
        raise NotTestableError("needs one grade per system, training, language and problem")
    wide = trained.pivot(index=keys, columns=["system", "draw"], values="correct")
    wide = wide.T.groupby(level="system").apply(lambda draws: draws.mean(skipna=False)).T
    if "base" in systems:
        wide = wide.join(base.set_index(keys[1:]).correct.rename("base"))
    if wide.unstack("seed").isna().any(axis=None):
        raise NotTestableError(f"needs {', '.join(systems)} in every training and language")
    return wide


def trained_losses(
    tables: Tables,
    name: str,
    task: str,
    *systems: str,
    by: Sequence[str] = ("seed", "lang", "problem"),
) -> pd.DataFrame:
    """Losses of trained systems on one kind of text, in nats per token, as `trained_grades`.

    From a table of packed losses (see `mmlib.study.tables.pack_losses`): a row per `by`, a column
    per system that there is. Refused if one of `systems` is missing.
    """
    columns = ("model", "system", "task", "lang", "problems", "nats")
    table = table_of(tables, name, *columns, *by[:-1])
    losses = item_costs(table[table.task == task], "system", "base")
    wide = losses.pivot_table("nats", [*by], "system")
    wide = wide.assign(base=losses.groupby([*by]).plain.first())
    if absent := sorted({*systems} - {*wide}):
        raise NotTestableError(f"needs {', '.join(absent)}")
    return wide


def leads(grades: pd.DataFrame, system: str, *others: str, by: str = "control") -> pd.Series:
    """Grade of a system - that of each other one, whose name is the first level of the index."""
    return pd.concat({name: grades[system] - grades[name] for name in others}, names=[by])


# --- verdicts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A verdict, the cell that decides it (the weakest one), and how many cells comply."""

    verdict: str
    effect: float = np.nan
    """Of that cell, with its interval."""
    low: float = np.nan
    high: float = np.nan
    seeds: int = 0
    """Its calibration samples, repeats or trainings, as far as they vary."""
    problems: int = 0
    """Its problems, as far as they vary."""
    cell: str = ""
    cells: int = 0
    complying: int = 0
    """Cells whose interval lies beyond the threshold (for points: whose effect does)."""
    detectable: float = np.nan
    """Distance from the threshold that this design detects with 80 % power; of undecided ones."""
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


def _falls(p_values: pd.Series) -> pd.Series:
    """Which two-sided tests reject at 5 % by Holm's correction; one without a value does not."""
    rejected = pd.Series(False, p_values.index)
    known = (2 * p_values.dropna()).clip(upper=1)
    if len(known):
        rejected[known.index] = holm(known)[0]
    return rejected


def decide(claim: Claim, effects: pd.Series | pd.DataFrame) -> Outcome:
    """Test every cell, and join the tests to one verdict.

    Args:
        claim: Its test, threshold and unit count.
        effects: As `cell_tests` takes them. Where nothing varies, by one replicate or none (a
            published number), there is no interval, and the verdict is undecided.

    Raises:
        NotTestableError: The effects have not the levels of the unit, or in no cell do the
            replicates differ, and they are too few for an exact test.
    """
    if not {*UNITS[claim.unit]} & {*effects.index.names} and "se" not in effects:
        raise NotTestableError(f"needs {' or '.join(UNITS[claim.unit])} of every effect")
    limit, equal = claim.threshold, claim.test == "equal"
    level = 0.9 if equal else 0.95
    test = partial(cell_tests, effects, level=level, reach=claim.reach)
    tests = test(limit).reset_index(drop=True)
    still, alpha = tests.se == 0, (1 - level) / 2
    beyond = (tests.low > limit) | (still & (tests.above <= alpha))
    short = (tests.high < limit) | (still & (tests.below <= alpha))
    size, against, complies = tests.effect, _falls(tests.below), beyond
    if equal:
        other = test(-limit).reset_index(drop=True)
        against, size = _falls(np.minimum(tests.above, other.below)), -size.abs()
        complies = short & ((tests.low > -limit) | (still & (other.above <= alpha)))
    yes, no = complies.all(), against.any()
    if claim.test == "some":
        complies = _falls(tests.above) & (size > limit)
        yes, no = complies.any(), short.all()
    row = tests.loc[size.idxmax() if claim.test == "some" else size.idxmin()]
    reason = ""
    varied = claim.unit.split(" and ")[0]
    if few := varied in ("trainings", "calibration blocks") and tests.seeds.min() < FEWEST:
        reason = f"{max(1, tests.seeds.min())} of at least {FEWEST} {varied}: too few to decide"
    elif row.isna().low:
        reason = f"nothing varies, so that there is no interval (one of the {claim.unit})"
    verdict = YES if yes and not few else NO if no and not few else UNDECIDED
    if still.all() and verdict == UNDECIDED:
        raise NotTestableError("no variation: every replicate gives the same number")
    if row.se == 0 and verdict != UNDECIDED:
        reason = f"no variation: an exact test over the {claim.unit}"
    if verdict == UNDECIDED and not reason:
        alone = "the interval contains the threshold"
        reason = _OPEN[claim.test] if len(tests) > 1 else alone
    detectable = np.nan
    if verdict == UNDECIDED and not few and row.se > 0:
        detectable = detectable_effect(row.se, row.df, level=0.9 if equal else 0.95)
    return Outcome(
        verdict,
        *row[["effect", "low", "high"]].astype(float),
        seeds=int(row.seeds),
        problems=int(row.problems),
        cell=_cell(effects, row.name),
        cells=len(tests),
        complying=int(complies.sum()),
        detectable=detectable,
        reason=reason,
    )


def _cell(effects: pd.Series | pd.DataFrame, place: int) -> str:
    """Name of a cell: what tells it from the others."""
    names = [n for n in effects.index.names if n and n not in ("seed", "problem")]
    cells = effects.index.to_frame(index=False)[names].drop_duplicates(ignore_index=True)
    telling = [name for name in names if cells[name].nunique() > 1]
    parts = {name: cells[name].iloc[place] for name in telling}
    return ", ".join(f"{n} {v:g}" if isinstance(v, float) else str(v) for n, v in parts.items())


def _at(tables: Tables, claim: Claim) -> dict[str, pd.DataFrame]:
    """The tables at the claim's keep ratios, all of which have to be there; unedited rows stay."""
    chosen = {name: tables[name] for name in claim.needs}
    for name, table in chosen.items():
        if "keep_ratio" not in table or not claim.keep_ratios:
            continue
        ratios = table.keep_ratio.round(9)
        if absent := [f"{k:g}" for k in claim.keep_ratios if not (ratios == k).any()]:
            raise NotTestableError(f"needs keep_ratio {', '.join(absent)}")
        chosen[name] = table[ratios.isin([0, *claim.keep_ratios])]
    return chosen


def judge(name: str, tables: Tables | None) -> Outcome:
    """Decide one claim on tables of ours.

    Args:
        name: Id of the claim, such as `"C2"`.
        tables: Those that the claim needs, as far as there are any (None: there was no run). Rows
            of control models do not belong here: a claim about every model is checked on each.

    Returns:
        The outcome; of an unfit laboratory *not testable here*, with the numbers that came out. A
        yes or no of a rule that was changed after a look is an "exploratory" one.
    """
    claim = claim_of(name)
    if claim.check is None:
        return Outcome(NO_RUN if tables is None else NOT_TESTABLE, reason=claim.reason)
    if absent := [table for table in claim.needs if tables is None or table not in tables]:
        return Outcome(NO_RUN, reason=f"needs the table(s) {', '.join(absent)}")
    unfit = ""
    try:
        chosen = _at(tables, claim)
        unfit = claim.precondition(chosen) if claim.precondition else ""
        outcome = decide(claim, claim.check(chosen))
    except NotTestableError as error:
        verdict = NO_RUN if isinstance(error, NoRunError) else NOT_TESTABLE
        outcome = Outcome(verdict, reason=str(error))
    if claim.changed and outcome.verdict in EXPLORATORY:
        outcome = replace(outcome, verdict=EXPLORATORY[outcome.verdict], reason=claim.changed)
    if not unfit or outcome.verdict == NO_RUN:
        return outcome
    alone = outcome.reason if outcome.verdict == NOT_TESTABLE else outcome.verdict
    reason = f"laboratory unfit: {unfit} (the test alone: {alone})"
    return replace(outcome, verdict=NOT_TESTABLE, reason=reason, detectable=np.nan)


@cache
def published_outcome(name: str) -> Outcome:
    """The verdict on the published numbers, by the same test wherever their items are known.

    Where only points are known, their reason is "point only". Where the rule cannot read the
    published numbers, the recorded verdict stands, without an effect.
    """
    claim = claim_of(name)
    recorded = {"yes": YES, "no": NO, "not_testable": NOT_TESTABLE}[claim.satisfied]
    points = Outcome(recorded, reason="" if recorded == NOT_TESTABLE else "point only")
    if recorded == NOT_TESTABLE or claim.check is None or not set(claim.needs) & set(PUBLISHED):
        return points
    tables = {table: PUBLISHED[table]() for table in claim.needs if table in PUBLISHED}
    known = replace(claim, needs=tuple(tables))
    whole_grid = claim.keep_ratios == SHARED_KEEP_RATIOS
    try:
        effects = claim.check(tables if whole_grid else _at(tables, known))
        if "se" in effects:
            return decide(claim, effects)
    except NotTestableError:
        return points
    limit = claim.threshold
    size = limit - effects.abs() if claim.test == "equal" else effects - limit
    place = int(np.argmax(size) if claim.test == "some" else np.argmin(size))
    holds = (size > 0).any() if claim.test == "some" else (size > 0).all()
    return Outcome(
        YES if holds else NO,
        float(effects.iloc[place]),
        cell=_cell(effects, place),
        cells=len(effects),
        complying=int((size > 0).sum()),
        reason="point only",
    )


def verdicts(
    names: list[str], organism: Tables | None = None, real_llm: Tables | None = None
) -> pd.DataFrame:
    """Rows of the ledger (see `mmlib.claims.ledger.ledger`); only these claims are decided."""
    claims = [claim_of(name) for name in names]
    table = pd.DataFrame([vars(claim) for claim in claims]).rename(columns={"words": "claim"})
    published = pd.DataFrame([published_outcome(name) for name in names])
    run, real = (
        pd.DataFrame([judge(name, tables) for name in names]) for tables in (organism, real_llm)
    )
    kept = ["id", "paper", "claim", "where", "restatement", "differs", "note", "unit", "test"]
    kept += ["threshold", "committed", "seen", "changed"]
    return table[kept].assign(
        threshold=table.threshold.where(table.check.notna()),
        measured=[_words(claim.check) for claim in claims],
        precondition=[_words(claim.precondition) for claim in claims],
        published_data=published.verdict,
        real_llm=real.verdict,
        organism=run.verdict,
        published_numbers=table.figure,
        **published.drop(columns="verdict").add_prefix("published_"),
        **run.drop(columns="verdict"),
        **real.drop(columns="verdict").add_prefix("real_"),
    )


def _words(rule: Callable | None) -> str:
    return " ".join((rule.__doc__ or "").split()) if rule else ""


def effect(row: Mapping[str, Any], prefix: str = "") -> str:
    """The effect of the cell that decides, with its interval as far as it has one; else nothing.

    Args:
        row: A row of `verdicts`.
        prefix: "published_" for the published numbers, "real_" for a real LLM.
    """
    value, low, high = (row[prefix + name] for name in ("effect", "low", "high"))
    if np.isnan(value):
        return ""
    level = "90 %: " if row["test"] == "equal" else ""
    return f"{value:z.3g}" + ("" if np.isnan(low) else f" ({level}{low:z.3g} to {high:z.3g})")


def told(row: Mapping[str, Any], prefix: str = "") -> str:
    """What came out of a rule, in words: cells that comply, the one that decides, the reason.

    The arguments are those of `effect`.
    """
    outcome = {field.name: row.get(prefix + field.name) for field in fields(Outcome)}
    parts = []
    if cells := outcome["cells"]:
        parts.append(f"holds in {outcome['complying']} of {cells} cells")
    if value := effect(row, prefix):
        whose = f"the one that decides ({outcome['cell']})" if outcome["cell"] else "the effect"
        limit = f"{'±' if row['test'] == 'equal' else ''}{row['threshold']:.3g}"
        parts.append(f"{whose} is {value} against {limit}{_counts(row, outcome)}")
    if not np.isnan(outcome["detectable"]):
        parts.append(f"80 % power at a distance of {outcome['detectable']:.3g}")
    return "; ".join([*parts, outcome["reason"]] if outcome["reason"] else parts)


def _counts(row: Mapping[str, Any], outcome: Mapping[str, Any]) -> str:
    """How many replicates an interval is over, by the unit of the claim."""
    names = {"seeds": row["unit"].split(" and ")[0], "problems": "problems"}
    counts = [
        f"{outcome[key]:,} {name if outcome[key] > 1 else name.removesuffix('s')}"
        for key, name in names.items()
        if outcome[key]
    ]
    return f", over {' and '.join(counts)}" if counts else ""
