"""What a rule is, and what the rules of all parts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

SHARED_KEEP_RATIOS = (0.001, 0.01, 0.025, 0.05, 0.1, 0.15)  # on our grid and on the published one
MATH_TASKS = ("gsm8k", "organism-math", "math", "mgsm", "msvamp")
CELL = ["model", "nonmath", "keep_ratio", "seed"]

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Rule:
    """How one claim is decided; the docstring of `check` is the rule in words."""

    check: Callable[[Tables], pd.Series]
    needs: tuple[str, ...]
    keep_ratios: tuple[float, ...] = SHARED_KEEP_RATIOS
    """Those that are needed; empty takes whatever there is."""
    threshold: float = 0.0
    interval: Callable[[Tables], tuple[float, float]] | None = None
    replicates: str = "calibration seeds"


RULES: dict[str, Rule] = {}


def decides(claim: str, *needs: str, **options: Any) -> Callable:
    """Register a check as the `Rule` of a claim; `needs` and `options` are its other fields."""

    def register(check: Callable[[Tables], pd.Series]) -> Callable[[Tables], pd.Series]:
        RULES[claim] = Rule(check, needs, **options)
        return check

    return register


class NotTestableError(Exception):
    """These tables cannot decide the claim; the message is the ledger's reason."""


def weakest(effects: pd.Series) -> pd.Series:
    """Smallest effect per seed: a claim about every cell is as strong as its weakest one."""
    by_seed = effects.groupby(level="seed")
    if by_seed.count().nunique() > 1 or effects.isna().any():
        raise NotTestableError(f"seeds cover different cells: {by_seed.count().to_dict()}")
    return by_seed.min()
