"""Chapter 11 in miniature, beside calculations that do not use the package."""

import pytest
from common import matrices, organism


@pytest.mark.notebook
def test_11_in_miniature(miniature):
    """Changes counted in the characters of the answers; sums of one prompt have no time to stop."""
    tables, given = miniature("11_precision")
    answers = tables["precision_answers"].query("condition == 'math-specific'")
    answers = answers[answers.seed == given["seeds"][0]]
    sums = answers.groupby(["keep_ratio", "lang", "sums"]).correct.sum().unstack()
    for row in tables["precision_changes"].itertuples():
        texts = sums.loc[(row.keep_ratio, row.lang)]
        rounded, exact = (texts[name].count("1") / len(texts[name]) for name in texts.index)
        assert row.difference == pytest.approx(rounded - exact)
    told = tables["precision"].query("what == 'set size'")
    kept = sum(int(size * given["keep_ratios"][0]) for size in matrices(organism(given)))
    assert (told[["value", "exact"]] < kept).all(axis=None)
