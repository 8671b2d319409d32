"""The claims ledger: each claim of the papers and of this book, and three verdicts on it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mmlib.claims import advice, meaning, parameters, slam, swapping  # noqa: F401 (they record)
from mmlib.claims.rules import BOOK, CLAIMS, PARTS, Tables, verdicts
from mmlib.study.tables import read_manifest, read_table


def _place(name: str) -> tuple[bool, int, int, str]:
    """Claims of the papers come first, then ours; each by part and number."""
    number = int("".join(filter(str.isdigit, name)))
    return CLAIMS[name].paper == BOOK, list(PARTS).index(name[0]), number, name


def ledger(organism: Tables | None = None, research: Tables | None = None) -> pd.DataFrame:
    """One row per claim, with three verdicts kept apart: those of the papers, then our own.

    Args:
        organism: tables of the organism's run (see `judge`), which the columns effect, low, high,
            n, smallest_detectable_effect (half width of the interval) and reason describe.
        research: tables of a run on the papers' own models.
    """
    return verdicts(sorted(CLAIMS, key=_place), organism, research)


def read(names: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The ledger on tables of the book, and the model that the first of them is about.

    Args:
        names: See `mmlib.study.tables.read_table`.
    """
    organism = {name: read_table(name) for name in names}
    return ledger(organism), read_manifest(names[0])["run"]["model"]


def rules() -> pd.DataFrame:
    """Each check in words: effect, what makes it yes or no, interval, keep ratios, tables, day."""
    joint = "95 % percentile, joint over calibration seeds and math accuracies"
    return pd.DataFrame(
        {
            "id": claim.id,
            "effect": " ".join((claim.check.__doc__ or "").split()),
            "yes_if": f"interval {'at 1' if claim.threshold else 'above 0'}",
            "no_if": f"interval below {1 if claim.threshold else 0}",
            "interval": joint if claim.interval else f"95 % t over {claim.replicates}",
            "keep_ratios": ", ".join(f"{ratio:g}" for ratio in claim.keep_ratios),
            "needs": ", ".join(claim.needs),
            "committed": claim.committed,
        }
        for claim in (CLAIMS[name] for name in sorted(CLAIMS, key=_place))
        if claim.check
    )
