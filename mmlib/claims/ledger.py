"""The claims ledger: each claim of the papers and of this book, and three verdicts on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from mmlib.claims import advice, meaning, slam, swapping  # noqa: F401 (rules register)
from mmlib.claims.parameters import published_edits, published_errors, published_fractions
from mmlib.claims.rules import RULES, SHARED_KEEP_RATIOS, NotTestableError, Rule, Tables
from mmlib.study.stats import seed_interval
from mmlib.study.tables import published, require_columns

VERDICTS = ("yes", "no", "undecided", "not testable here", "no run yet")
YES, NO, UNDECIDED, NOT_TESTABLE, NO_RUN = VERDICTS


@dataclass(frozen=True)
class Outcome:
    """A verdict, its effect (mean over n seeds), 95 % interval and reason."""

    verdict: str
    effect: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    reason: str = ""


ELSEWHERE = {
    "S8": "about the shapes of Llama 2",
    "S9": "about percentages in the printed text",
    "S10": "about RFT-MuggleMath, which does not run here",
    "S12": "about LangBridge, which does not run here",
}
"""Claims that no run of ours can decide, and why; the published numbers do."""


def _at(tables: Tables, rule: Rule) -> dict[str, pd.DataFrame]:
    """The tables at the rule's keep ratios, all of which have to be there."""
    chosen = {name: tables[name] for name in rule.needs}
    for name, table in chosen.items():
        if name == "accuracy" or not rule.keep_ratios:
            continue
        require_columns(table, ["keep_ratio"], f"table {name!r}")
        ratios = table.keep_ratio.round(9)
        if absent := [f"{k:g}" for k in rule.keep_ratios if not (ratios == k).any()]:
            raise NotTestableError(f"needs keep_ratio {', '.join(absent)}")
        chosen[name] = table[ratios.isin(rule.keep_ratios)]
    return chosen


def judge(claim: str, tables: Tables | None) -> Outcome:
    """Decide one claim on tables of ours by the 95 % interval over calibration seeds.

    Args:
        claim: id of the claim, such as `"C2"`.
        tables: `overlap`, `set_sizes`, `accuracy`, `interventions`, `errors` and `fractions` (for
            the columns of the last three see `published_edits`, `published_errors` and
            `published_fractions`), `model_sets` (set sizes of models of several sizes) and the
            tables that `meaning`, `slam` and `swapping` name, as far
            as there are any (None: there was no run). Rows of control models do not belong here: a
            claim about every model is checked on each.
    """
    if claim in ELSEWHERE:
        return Outcome(NO_RUN if tables is None else NOT_TESTABLE, reason=ELSEWHERE[claim])
    if claim not in RULES:
        return Outcome(NO_RUN, reason="its check comes with a later chapter")
    rule = RULES[claim]
    if absent := [name for name in rule.needs if tables is None or name not in tables]:
        return Outcome(NO_RUN, reason=f"needs the table(s) {', '.join(absent)}")
    try:
        chosen = _at(tables, rule)
        effect, low, high, n = seed_interval(rule.check(chosen))
        if rule.interval and n > 1:
            low, high = rule.interval(chosen)
    except NotTestableError as error:
        return Outcome(NOT_TESTABLE, reason=str(error))
    verdict = YES if low > rule.threshold else NO if high < rule.threshold else UNDECIDED
    undecided = "one seed has no interval" if n == 1 else "the interval holds the threshold"
    return Outcome(verdict, effect, low, high, n, undecided if verdict == UNDECIDED else "")


@cache
def published_effect(claim: str) -> float:
    """Effect of the published numbers: one calibration seed, every published keep ratio.

    Not a number where they cannot decide the claim.
    """
    from statsmodels.stats.proportion import proportion_confint

    sizes, values = published("mathlang_set_sizes"), published("mathlang_interventions")
    strict = values[(values.variant == "page_table") & (values.metric == "strict")]
    strict = strict.rename(columns={"value": "accuracy", "n_items": "n"})
    low, high = proportion_confint(strict.accuracy * strict.n, strict.n, method="wilson")
    sizes = sizes[sizes.source == "jaccard_file"]
    tables = {
        "overlap": published("mathlang_overlap"),
        "set_sizes": sizes,
        "model_sets": sizes,
        "accuracy": strict.assign(low=low, high=high),
        "interventions": published_edits(),
        "errors": published_errors(),
        "fractions": published_fractions(),
    }
    rule = RULES[claim]
    if not set(rule.needs) <= set(tables):
        return np.nan
    whole_grid = rule.keep_ratios == SHARED_KEEP_RATIOS
    try:
        return float(rule.check(tables if whole_grid else _at(tables, rule)).min())
    except NotTestableError:
        return np.nan


def ledger(organism: Tables | None = None, research: Tables | None = None) -> pd.DataFrame:
    """One row per claim, with three verdicts kept apart: `published/claims.csv`, then our own.

    Args:
        organism: tables of the organism's run (see `judge`), which the columns effect, low, high,
            n, smallest_detectable_effect (half width of the interval) and reason describe.
        research: tables of a run on the papers' own models.
    """
    papers = published("claims").rename(columns={"figure": "published_numbers"})
    about = {"paper": meaning.BOOK, "where": "our addition", "satisfied": "not_testable"}
    about["published_numbers"] = "nothing was published that could decide it"
    added = pd.concat([meaning.CLAIMS, advice.CLAIMS]).assign(**about)
    claims = pd.concat([papers, added], ignore_index=True).fillna("")
    rules_of = [RULES.get(claim) for claim in claims.id]
    effect = [published_effect(c) if c in RULES else np.nan for c in papers.id]
    effect = np.array([*effect, *[np.nan] * len(added)])
    threshold = np.array([rule.threshold if rule else np.nan for rule in rules_of])
    recorded = claims.satisfied.map({"yes": YES, "no": NO, "not_testable": NOT_TESTABLE})
    computed = np.where(effect > threshold, YES, NO)
    ours, theirs = (
        pd.DataFrame([judge(c, tables) for c in claims.id]) for tables in (organism, research)
    )
    return claims[["id", "paper", "claim", "where", "restatement"]].assign(
        published_data=recorded.where(np.isnan(effect), computed),
        organism=ours.verdict,
        research_run=theirs.verdict,
        published_numbers=claims.published_numbers,
        published_effect=effect,
        **ours[["effect", "low", "high", "n"]],
        threshold=threshold,
        smallest_detectable_effect=(ours.high - ours.low) / 2,
        reason=ours.reason,
        research_reason=theirs.reason,
    )


def rules() -> pd.DataFrame:
    """Each check in words: effect, what makes it yes or no, interval, keep ratios, tables."""
    joint = "95 % percentile, joint over calibration seeds and math accuracies"
    return pd.DataFrame(
        {
            "id": claim,
            "effect": " ".join((rule.check.__doc__ or "").split()),
            "yes_if": f"interval {'at 1' if rule.threshold else 'above 0'}",
            "no_if": f"interval below {1 if rule.threshold else 0}",
            "interval": joint if rule.interval else f"95 % t over {rule.replicates}",
            "keep_ratios": ", ".join(f"{ratio:g}" for ratio in rule.keep_ratios),
            "needs": ", ".join(rule.needs),
        }
        for claim, rule in RULES.items()
    )
