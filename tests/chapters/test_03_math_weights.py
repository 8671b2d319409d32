"""Chapter 03 in miniature, beside calculations that do not use the package."""

import pytest
from common import matrices, organism


@pytest.mark.notebook
def test_03_in_miniature(miniature):
    """Selected weights: int(size * K), summed over the matrices of the checkpoint file."""
    tables, given = miniature("03_math_weights")
    sizes = tables["set_sizes"].query("group == 'global'")
    numel = matrices(organism(given))
    expected = {ratio: sum(int(n * ratio) for n in numel) for ratio in given["keep_ratios"]}
    assert sizes.n_topk.tolist() == [expected[ratio] for ratio in sizes.keep_ratio]
    assert set(sizes.n_scored) == {sum(numel)}
