"""Chapter 08 in miniature, beside calculations that do not use the package."""

import pandas as pd
import pytest
from common import ROOT, counted_answers
from sklearn.metrics import cohen_kappa_score


@pytest.mark.notebook
def test_08_in_miniature(miniature):
    """Kappa by scikit-learn; errors of pruned sets, counted in the shipped characters."""
    tables, given = miniature("08_errors")
    labels = tables["error_labels"]
    found = tables["error_agreement"].set_index(["rater_a", "rater_b"]).kappa
    for pair, kappa in found.items():
        assert kappa == pytest.approx(cohen_kappa_score(*(labels[name] for name in pair)))
    shipped = pd.read_csv(ROOT / "mmlib" / "evidence" / "interventions.csv", dtype=str)
    answers, _ = counted_answers(shipped, given)
    by = ["condition", "keep_ratio", "lang"]
    answers = answers[answers.part.isin(given["parts"]) & (answers.dtype == given["edit_dtype"])]
    pruned = answers[(answers.factor == 0) & (answers.condition != "none")]
    sums = pruned.assign(format=pruned.correct.str.count("f")).groupby(by)[["format", "n"]].sum()
    told = tables["error_shares"].set_index(by).format
    pd.testing.assert_series_equal(told, sums.format / sums.n, check_names=False)
    assert told.max() > 0
