"""Chapter 19 in miniature, beside calculations that do not use the package."""

import numpy as np
import pytest
from scipy.stats import spearmanr


@pytest.mark.notebook
def test_19_in_miniature(miniature):
    """Rank correlations of a view with a yardstick, layer by layer, by scipy."""
    tables, given = miniature("19_layers")
    cell = ["lang", "seed", "layer"]
    views = tables["layer_views"].set_index(["view", *cell]).value.sort_index()
    change = tables["layer_yardsticks"].set_index(["yardstick", *cell]).change.sort_index()
    pair = ("math update", "take from the base")
    rhos = [
        spearmanr(views[pair[0], code, seed], change[pair[1], code, seed]).statistic
        for code in given["targets"]
        for seed in given["seeds"]
    ]
    told = tables["layer_agreement"].set_index(["left", "right"]).loc["math update", "from base"]
    assert told.rho == pytest.approx(np.mean(rhos))
    assert told.n == len(given["seeds"])
    # What is left of the whole loss when a layer changes is the same for every layer.
    table = tables["layer_yardsticks"]
    whole = (table.loss - table.change).groupby([table.yardstick, table.lang, table.seed])
    assert whole.agg(np.ptp).max() < 1e-9
    assert table.change.abs().max() > 1e-4
