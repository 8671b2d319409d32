"""Chapter 04 in miniature, beside calculations that do not use the package."""

import pandas as pd
import pytest


@pytest.mark.notebook
def test_04_in_miniature(miniature):
    """Global Jaccard, from the counts of single matrices; what both have, by layer, likewise."""
    tables, given = miniature("04_overlap")
    overlap = tables["overlap"].set_index(["lang_a", "lang_b", "keep_ratio", "seed"])
    parts = overlap.query("group == 'module'").groupby(level=[0, 1, 2, 3])
    counts = parts[["size_a", "size_b", "intersection"]].sum()
    union = counts.size_a + counts.size_b - counts.intersection
    whole = overlap.query("group == 'global'")
    expected = (counts.intersection / union).reindex(whole.index)
    pd.testing.assert_series_equal(whole.jaccard, expected, check_names=False)
    keep_ratio = given["keep_ratio"]
    used = overlap[overlap.group == "layer"].xs(keep_ratio, level="keep_ratio", drop_level=False)
    layers = used.droplevel("keep_ratio").set_index("layer", append=True)
    both = tables["parts"].query("others == 1").set_index(["lang", "layer", "seed"]).n_weights
    alone = tables["parts"].query("others == 0").set_index(["lang", "layer", "seed"]).n_weights
    for (a, b, seed, layer), row in layers.iterrows():
        assert both[a, layer, seed] == both[b, layer, seed] == row.intersection
        assert alone[a, layer, seed] == row.size_a - row.intersection
