"""Chapter 07 in miniature, beside calculations that do not use the package."""

import numpy as np
import pytest
from common import counted_answers


@pytest.mark.notebook
def test_07_in_miniature(miniature):
    """R squared of the line by NumPy, from accuracies counted in the characters of the answers."""
    tables, given = miniature("07_all_or_few")
    answers, cell = counted_answers(tables["fraction_edits"], given)
    sums = answers.groupby(cell)[["right", "n"]].sum()
    values = (sums.right / sums.n).rename("value").reset_index()
    own = values.query("condition == 'math-specific' and keep_ratio in @given['keep_ratios']")
    base = values[values.condition == "none"].value.item()
    means = own.groupby("fraction").value.mean()
    r = np.corrcoef([0, *means.index], [base, *means])[0, 1]
    line = tables["fraction_fits"].query("condition == 'random part' and shape == 'linear'")
    assert line.r_squared.item() == pytest.approx(r**2)
