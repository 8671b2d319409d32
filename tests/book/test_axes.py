"""Logarithmic axes: every value has its place, and the numbers beside them are plain."""

import numpy as np
import pandas as pd
import pytest

from mmlib.book import figures as plotting

NAMES = {"x": "times", "y": "cost", "panel": "grows", "line": "way"}


def drawn(times, cost, **labels):
    table = pd.DataFrame({"times": times, "cost": cost, "grows": "weights", "way": "ours"})
    return plotting.curves(table, "Cost", **NAMES, **labels).panels[0].axes[0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.6, 7, ["1", "2", "5"]),
        (0.02, 0.3, ["0.02", "0.05", "0.1", "0.2"]),
        (0.001, 200, ["0.001", "0.01", "0.1", "1", "10", "100"]),
    ],
)
def test_both_logarithmic_axes_are_labelled_with_plain_numbers(low, high, ticks):
    steps = np.geomspace(low, high, 5)
    axes = drawn(steps, steps, xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        assert [tick.get_text() for tick in axis.get_ticklabels(which="both")] == ticks
        assert axis.get_ticklocs() == pytest.approx([float(text) for text in ticks])


@pytest.mark.parametrize("ticks", [[0.001, 0.01, 0.1], [0.0, 0.001, 0.01, 0.1]])
def test_a_step_of_zero_has_its_place_on_a_logarithmic_axis(ticks):
    axes = drawn(ticks, 0.5)
    assert axes.get_xticks().tolist() == pytest.approx(ticks)
    assert axes.lines[0].get_xdata().tolist() == pytest.approx(ticks)
    # an equal factor is an equal distance, and all is in view
    places = axes.transData.transform([(x, 0.5) for x in ticks])[:, 0]
    assert np.diff(places)[-2:] == pytest.approx(np.diff(places)[-1], rel=0.15)
    assert 0 <= axes.transAxes.inverted().transform((places[0], 0))[0] < 0.1
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [f"{x:g}" for x in ticks]
