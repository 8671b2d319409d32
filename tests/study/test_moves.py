"""Where updates lie, on planted tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from mmlib.merging import LayerPlan
from mmlib.study import moves


def updates(sizes):
    """Two tensors per layer and one outside, by role, seed and layer; `sizes` moved in each."""
    rows = [
        (role, seed, f"layers.{layer}.{kind}", layer, value * factor)
        for (role, seed), values in sizes.items()
        for layer, value in enumerate(values)
        for kind, factor in (("up", 1.0), ("down", 3.0))
    ]
    rows += [(role, seed, "embed", pd.NA, 9.0) for role, seed in sizes]
    table = pd.DataFrame(rows, columns=["role", "seed", "tensor", "layer", "absolute"])
    return table.assign(share=table.absolute / 100).astype({"layer": "Int64"})


def test_shares_are_those_of_the_layers_alone():
    shares = moves.layer_shares(updates({("math", 1): [1, 2, 3, 4], ("sw", 1): [1, 1, 1, 1]}))
    assert shares["math"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert shares["sw"].tolist() == pytest.approx([0.25] * 4)


def test_share_of_the_layers_that_a_swap_takes():
    depth = 8
    table = updates({("math", 1): [1] * depth, ("sw", 1): [1] + [0] * (depth - 1)})
    outer, even = moves.swapped_shares(moves.layer_shares(table))
    assert even == pytest.approx(np.mean(LayerPlan.fitted(depth).weights))
    assert outer["math", 1] == pytest.approx(even)
    assert outer["sw", 1] == pytest.approx(1.0)


def test_experts_are_compared_with_those_of_other_seeds():
    sizes = {("math", 1): [1, 2, 3, 4], ("math", 2): [2, 4, 6, 8], ("sw", 1): [4, 3, 2, 1]}
    table = moves.correlations(updates(sizes | {("sw", 2): [4, 3, 2, 1]}), within_kinds=True)
    told = table.set_index(["role", "other"]).correlation
    assert told["math", "math"] == pytest.approx(1, abs=0.2)
    assert told["math", "sw"] == pytest.approx(-1, abs=0.2)
    # The kind of a tensor is what two experts have in common before it is taken away.
    kinds = moves.correlations(updates(sizes | {("sw", 2): [4, 3, 2, 1]}))
    assert kinds.set_index(["role", "other"]).correlation["math", "sw"] > -0.5
    assert len(table) == 4
