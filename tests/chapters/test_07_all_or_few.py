"""Chapter 07 in miniature, beside calculations that do not use the package."""

import numpy as np
import pytest
from common import counted_answers


@pytest.mark.notebook
def test_07_in_miniature(miniature):
    """Accuracies counted in the characters of the answers; R squared of the line by NumPy."""
    tables, given = miniature("07_all_or_few")
    answers, cell = counted_answers(tables["fraction_edits"], given)
    sums = answers.groupby(cell)[["right", "n"]].sum()
    values = (sums.right / sums.n).rename("value").reset_index()
    own = values.query("condition == 'math-specific' and keep_ratio in @given['keep_ratios']")
    base = values[values.condition == "none"].value.item()
    told = tables["fractions"]
    assert len(told) == (len(given["fractions"])) * len(given["sample_seeds"])
    assert (told.base == base).all()
    assert sorted(told[told.fraction < 1].value) == sorted(own[own.fraction < 1].value)
    means = own.groupby("fraction").value.mean()
    r = np.corrcoef([0, *means.index], [base, *means])[0, 1]
    line = tables["fraction_fits"].query("condition == 'random part' and shape == 'linear'")
    assert line.r_squared.item() == pytest.approx(r**2)
