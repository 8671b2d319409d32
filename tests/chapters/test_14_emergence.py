"""Chapter 14 in miniature, beside calculations that do not use the package."""

import pytest
from common import ROOT, matrices, whole_numbers


@pytest.mark.notebook
def test_14_in_miniature(miniature):
    """Sets and pruned weights counted in the checkpoint; sizes of C3c by hand."""
    tables, given = miniature("14_emergence")
    whole_numbers(tables["emergence_overlap"])
    sizes = matrices(ROOT / "mmlib" / "organisms" / "organism-skewed")
    told = tables["emergence_sizes"].query("group == 'global'")
    assert set(told.n_topk) == {sum(int(size * given["keep_ratio"]) for size in sizes)}
    pruned = tables["emergence_travel"].n_weights
    assert 0 < pruned.max() <= sum(int(size * given["edit_ratio"]) for size in sizes)
    accuracy = tables["emergence_accuracy"].query("part == @given['parts'][0]")
    overlap = tables["emergence_overlap"].query("group == 'global' and control == 'two languages'")
    for name, rows in (("accuracy", accuracy), ("jaccard", overlap)):
        mine = rows.groupby("model")[name].mean()
        assert sorted(tables["emergence"][name]) == pytest.approx(sorted(mine))
