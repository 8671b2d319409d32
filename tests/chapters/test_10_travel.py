"""Chapter 10 in miniature, beside calculations that do not use the package."""

import pytest


@pytest.mark.notebook
def test_10_in_miniature(miniature):
    """Losses counted in the characters of the answers."""
    tables, given = miniature("10_travel")
    answers = tables["transfer_answers"].fillna({"edited": ""})
    answers["right"] = answers.correct.str.count("1") / answers.correct.str.len()
    answers = answers[answers.part.isin(given["parts"])]
    right = answers.groupby(["weights", "edited", "lang"]).right.mean()
    told = tables["transfer"].query("kind == 'math'")
    assert len(told) == 2 * (len(given["languages"]) * 4 + 1)
    for row in told.itertuples():
        kind = row.weights.removeprefix("within ")
        whose = "all" if kind == "shared" else row.edited
        random = right["random " + kind, whose, row.lang]
        assert row.difference == pytest.approx(random - right[row.weights, row.edited, row.lang])
        assert row.n == given["items"]
