"""Chapter 05 in miniature, beside calculations that do not use the package."""

import numpy as np
import pytest

WIDTH, INNER, LAYERS = 128, 256, 4
"""Of the smallest shape, which has full attention."""


@pytest.mark.notebook
def test_05_in_miniature(miniature):
    tables, given = miniature("05_cost")
    grown, fitted = tables["cost_growth"], tables["cost_exponents"]
    assert set(grown.grows) == {"weights", "prompts", "keep ratios", "languages"}
    assert (grown.groupby(["grows", "way", "times"]).size() == given["repeats"]).all()
    matrices = [LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER), 8 * (4 * 512**2 + 3 * 512 * 1408)]
    assert grown[grown.grows == "weights"].times.max() == pytest.approx(matrices[1] / matrices[0])
    least = grown[(grown.times == 1) & (grown.way == "ours")].seconds.median()
    assert np.allclose(grown.cost, grown.seconds / least)
    for row in fitted[fitted.quantity == "time"].itertuples():
        line = grown[(grown.grows == row.grows) & (grown.way == row.way)]
        slope = np.polyfit(np.log(line.times), np.log(line.seconds), 1)[0]
        assert row.exponent == pytest.approx(slope)
        assert row.low < slope < row.high
    stored = fitted[fitted.quantity == "stored bytes"].set_index("way").exponent
    assert stored["as published"] == pytest.approx(1)
    assert 0.5 < stored["ours"] < 0.75  # a vector for a square; deeper models have more of them
    fits = tables["largest_models"]
    assert (fits.as_published < fits.ours).all()
    assert (fits.ours < fits.memory_gib * 2**30 / 2 / 1e9).all()  # two bytes a weight
    grid = tables["grid_hours"].set_index("GPUs")
    assert grid.index.to_list() == [1, 8, 64]
    assert (grid.diff().dropna() <= 0).all().all()
    assert (grid.loc[1] <= 64 * grid.loc[64]).all()
    costs = tables["localisation_cost"].set_index("quantity")
    costs = costs[costs["shape"] == "170M"].value
    ratio = costs["published accumulation / forward pass"] / costs["localisation / forward pass"]
    # Both texts anew for two other texts and ten keep ratios, where ours reads three texts once.
    times = grid.at[1, "sets, as published"] / grid.at[1, "sets, ours"]
    assert times == pytest.approx(ratio * 2 * 2 * 10 / 3)
    layer = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    tokens = 4 * 3 * 3 * 500 * np.mean(given["lengths"])
    alone = 2 * 32 * layer / 4e14 * tokens * costs["localisation / forward pass"] / 3600
    assert grid.at[64, "sets, ours"] == pytest.approx(alone)  # of the largest model, in one run
