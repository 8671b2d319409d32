"""The claims ledger: each claim of the papers and of this book, and three verdicts on it."""

from __future__ import annotations

from contextlib import suppress

import pandas as pd

from mmlib.claims import advice, meaning, parameters, slam, swapping  # noqa: F401 (they record)
from mmlib.claims.rules import CLAIMS, OURS, PARTS, Tables, verdicts
from mmlib.study.tables import read_manifest, read_table


def _place(name: str) -> tuple[bool, int, int, str]:
    """Claims of the papers come first, with ours beside them, then the rest of ours; by number."""
    number = int("".join(filter(str.isdigit, name)))
    return CLAIMS[name].where == OURS, list(PARTS).index(name[0]), number, name


def ledger(organism: Tables | None = None, real_llm: Tables | None = None) -> pd.DataFrame:
    """One row per claim, with three verdicts kept apart: those of the papers, then our own.

    Args:
        organism: Tables of the organism (see `judge`), which the columns of an `Outcome` (effect,
            low, high, seeds, problems, cell, cells, complying, detectable, reason) describe.
        real_llm: Tables of a run on a real LLM.
    """
    return verdicts(sorted(CLAIMS, key=_place), organism, real_llm)


def read() -> tuple[pd.DataFrame, str]:
    """The ledger on tables of the book as far as they are there, and the model they are about.

    Tables are read by `mmlib.study.tables.read_table`.
    """
    organism = {}
    for name in dict.fromkeys(name for claim in CLAIMS.values() for name in claim.needs):
        with suppress(FileNotFoundError):
            organism[name] = read_table(name)
    return ledger(organism), read_manifest("overlap")["run"]["model"]
