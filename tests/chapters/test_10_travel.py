"""Chapter 10 in miniature, beside calculations that do not use the package."""

import pytest


@pytest.mark.notebook
def test_10_in_miniature(miniature):
    """Losses counted in the characters of the answers."""
    tables, given = miniature("10_travel")
    answers = tables["transfer_answers"].fillna({"drawn": "", "edited": ""})
    answers["right"] = answers.correct.str.count("1") / answers.correct.str.len()
    answers = answers[answers.part.isin(given["parts"])]
    right = answers.groupby(["weights", "drawn", "edited", "lang"]).right.mean()
    told = tables["transfer"].query("kind == 'math'").fillna({"drawn": ""})
    assert len(told) == 2 * (len(given["languages"]) * 4 + 1)
    for row in told.itertuples():
        whose = "all" if row.weights == "shared" else row.edited
        random = right[row.weights, "matrices", whose, row.lang]
        edited = right[row.weights, row.drawn, row.edited, row.lang]
        assert row.difference == pytest.approx(random - edited)
        assert row.n == given["items"]
