"""Chapter 04 in miniature, beside calculations that do not use the package."""

import pandas as pd
import pytest


@pytest.mark.notebook
def test_04_in_miniature(miniature):
    """Global Jaccard, from the counts of single matrices."""
    tables, _ = miniature("04_overlap")
    overlap = tables["overlap"].set_index(["lang_a", "lang_b", "keep_ratio", "seed"])
    parts = overlap.query("group == 'module'").groupby(level=[0, 1, 2, 3])
    counts = parts[["size_a", "size_b", "intersection"]].sum()
    union = counts.size_a + counts.size_b - counts.intersection
    whole = overlap.query("group == 'global'")
    expected = (counts.intersection / union).reindex(whole.index)
    pd.testing.assert_series_equal(whole.jaccard, expected, check_names=False)
