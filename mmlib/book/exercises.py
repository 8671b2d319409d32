"""Check answers to the book's exercises, with a hint where one is wrong.

Each check takes the reader's answer and prints one sentence: right (to half a percent), or which
step to look at again. The checks compute what they compare with; no solution is stored or printed.
"""

import math

import pandas as pd

from mmlib.masks import chance_jaccard, expected_intersection
from mmlib.study.tables import require_columns


def _close(value: float, target: float) -> bool:
    return math.isclose(value, target, rel_tol=0.005, abs_tol=1e-6)


def _verdict(value: object, target: float, slips: dict[str, float], otherwise: str) -> None:
    """Print the outcome; `slips` maps the hint for a known wrong turn to the value it leads to."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        print(f"Not yet: the answer has to be one finite number, not {value!r}.")
        return
    hints = [hint for hint, wrong in slips.items() if _close(number, wrong)]
    print("Right." if _close(number, target) else f"Not yet: {[*hints, otherwise][0]}")


def check_chance_jaccard(value: float) -> None:
    """Check the Jaccard that random sets of 90 and of 60 among 3,000 weights have by chance.

    Args:
        value: The reader's answer.
    """
    size_a, size_b, n_scored = 90, 60, 3000
    shared = expected_intersection(size_a, size_b, n_scored)
    slips = {
        "that is how many weights the sets share; divide by the size of the union.": shared,
        "the sum of the sizes counts the shared weights twice.": shared / (size_a + size_b),
        "that is a share of all weights; a Jaccard divides by the union.": shared / n_scored,
        "that is a share of the first set; a Jaccard divides by the union.": shared / size_a,
        "that is a share of the second set; a Jaccard divides by the union.": shared / size_b,
    }
    otherwise = (
        "how many of the first set does a random second set hit, and how large is the union?"
    )
    _verdict(value, chance_jaccard(size_a, size_b, shared), slips, otherwise)


def check_pooled_jaccard(value: float, table: pd.DataFrame) -> None:
    """Check the Jaccard of a whole model that a reader computed from its layers.

    Args:
        value: The reader's answer.
        table: The layer rows the exercise gave: `intersection, union, jaccard`, one pair.
    """
    require_columns(table, ["intersection", "union", "jaccard"], "the table of the exercise")
    pooled = table["intersection"].sum() / table["union"].sum()
    slips = {
        "that is the mean of the layers' Jaccards. A layer with few chosen weights counts there as "
        "much as one with many; go back to the counts.": table["jaccard"].mean(),
        "that is the median of the layers; go back to the counts.": table["jaccard"].median(),
    }
    otherwise = "a Jaccard of everything needs two counts of everything. Which columns hold them?"
    _verdict(value, pooled, slips, otherwise)
