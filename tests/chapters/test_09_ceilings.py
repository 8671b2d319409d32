"""Chapter 09 in miniature, beside calculations that do not use the package."""

import pytest
from common import matrices, organism, whole_numbers


@pytest.mark.notebook
def test_09_in_miniature(miniature):
    """Counts add up to the checkpoint's matrices; Jaccards imply whole intersections."""
    tables, given = miniature("09_ceilings")
    table = tables["ceilings"]
    assert (whole_numbers(table) == table.intersection).all()
    whole = table[table.group == "global"]
    assert set(whole.n_scored) == {sum(matrices(organism(given)))}
    key = ["control", "lang_a", "lang_b", "keep_ratio", "seed"]
    parts = table[table.group.isin(["attention", "MLP"])].groupby(key).intersection.sum()
    assert parts.to_dict() == whole.set_index(key).intersection.to_dict()
    ends = tables["ceilings_prompts"].query("line == 'two languages'")
    most = ends[ends.num_samples == given["num_samples"]].set_index("seed").jaccard
    same = whole.query("control == 'math-specific' and keep_ratio == @given['keep_ratio']")
    assert most.to_dict() == pytest.approx(same.set_index("seed").jaccard.to_dict())
