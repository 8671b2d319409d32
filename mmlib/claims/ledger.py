"""The claims ledger: each claim of the papers and of this book, and three verdicts on it."""

from __future__ import annotations

from collections.abc import Mapping
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


REAL = {
    "overlap": ("evidence/desk_overlap", "evidence/desk_larger"),
    "overlap_controls": "evidence/desk_controls",
    "set_sizes": "desk_set_sizes",
    "accuracy": "desk_accuracy",
    "evidence/interventions": "evidence/desk_edits",
    "likelihoods": "evidence/desk_likelihoods",
    "travel_likelihoods": "evidence/desk_travel",
    "fraction_likelihoods": "evidence/desk_fractions",
    "scaling_likelihoods": "evidence/desk_scaling",
    "transfer": "desk_transfer",
    "ceilings": "evidence/desk_ceilings",
    "firing": "evidence/desk_firing",
    "aligned_losses": "evidence/desk_aligned",
    "aligned_rates": "evidence/desk_aligned_rates",
    "swap_losses": "evidence/desk_swapped",
}
"""Tables of a real LLM, by the name under which rules need them."""


def read() -> tuple[pd.DataFrame, str]:
    """The ledger on tables of the book as far as they are there, and the organism's name.

    Tables are read by `mmlib.study.tables.read_table`.
    """
    organism = _there({name: name for claim in CLAIMS.values() for name in claim.needs})
    real_llm, model = _there(REAL), read_manifest("overlap")["run"]["model"]
    return ledger(organism, real_llm), model


def _there(names: Mapping[str, str | tuple[str, ...]]) -> dict[str, pd.DataFrame]:
    tables = {}
    for needed, places in names.items():
        with suppress(FileNotFoundError):
            parts = [places] if isinstance(places, str) else places
            tables[needed] = pd.concat(map(read_table, parts), ignore_index=True)
    return tables
