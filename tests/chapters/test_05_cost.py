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
