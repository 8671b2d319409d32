"""Chapter 08 in miniature, beside calculations that do not use the package."""

import pandas as pd
import pytest
from common import ROOT, counted_answers
from sklearn.metrics import cohen_kappa_score


@pytest.mark.notebook
def test_08_in_miniature(miniature):
    """Kappa by scikit-learn; the errors of a cell, counted in the shipped characters."""
    tables, given = miniature("08_errors")
    labels = tables["error_labels"]
    found = tables["error_agreement"].set_index(["rater_a", "rater_b"]).kappa
    for pair, kappa in found.items():
        assert kappa == pytest.approx(cohen_kappa_score(*(labels[name] for name in pair)))
    shipped = pd.read_csv(ROOT / "mmlib" / "evidence" / "interventions.csv", dtype=str)
    answers, cell = counted_answers(shipped, given)
    answers = answers[answers.part.isin(given["parts"]) & (answers.dtype == given["edit_dtype"])]
    formats = answers.assign(format=answers.correct.str.count("f")).groupby(cell[:6])
    counted = (formats.format.sum() / formats.n.sum()).rename("counted")
    told = tables["errors"].join(counted, on=cell[:6])
    assert told.format.tolist() == pytest.approx(told.counted.tolist())
    assert told.format.max() > 0
    assert len(told) == len(counted) - 1
