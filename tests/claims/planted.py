"""Tables of trained systems whose accuracies are planted."""

import numpy as np
import pandas as pd

SEEDS = (1, 2, 3)
PROBLEMS = 200
_LUCK = np.random.default_rng(0).random(PROBLEMS)
"""A problem is solved where this lies below the accuracy: the same ones by every system."""


def grades(accuracy, shift=0):
    """Packed grades of a system; `shift` makes other problems easy."""
    return "".join(np.where(np.roll(_LUCK, shift) < accuracy, "1", "0"))


def systems(accuracies, *, part="math-1", spread=0.01, **columns):
    """Packed answers of systems in three trainings, `spread` apart.

    Args:
        accuracies: (system, lang) or (system, lang, draw) -> accuracy; the base is not trained.
        part: Part of all rows.
        spread: Difference between one training and the next.
        **columns: Further columns.
    """
    rows = [
        (*(*key, 0)[:3], seed, grades(value + spread * (seed - 2) * (key[0] != "base"), shift=seed))
        for key, value in accuracies.items()
        for seed in ((1,) if key[0] == "base" else SEEDS)
    ]
    table = pd.DataFrame(rows, columns=["system", "lang", "draw", "seed", "correct"])
    return table.assign(part=part, problems="planted", model="m", **columns)
