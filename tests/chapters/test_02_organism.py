"""Chapter 02 in miniature, beside calculations that do not use the package."""

import pandas as pd
import pytest
from common import ROOT
from scipy.stats import binomtest


@pytest.mark.notebook
def test_02_in_miniature(miniature):
    """Accuracies counted in the shipped characters, Wilson intervals by SciPy."""
    tables, given = miniature("02_organism")
    shipped = pd.read_csv(ROOT / "mmlib" / "evidence" / "family_answers.csv", dtype=str)
    shipped = shipped.set_index(["model", "part", "lang"]).correct
    models = 1 + len(given["family"])
    assert len(tables["accuracy_by_part"]) == 9 * len(given["languages"]) * models
    for row in tables["accuracy_by_part"].itertuples():
        correct = shipped[row.model, row.part, row.lang]
        assert (row.n_correct, row.n) == (correct.count("1"), len(correct))
    for row in pd.concat([tables["accuracy_by_part"], tables["accuracy"]]).itertuples():
        interval = binomtest(row.n_correct, row.n).proportion_ci(method="wilson")
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    assert len(tables["answers"]) == len(tables["accuracy_by_part"])
