"""Chapter 13 in miniature, beside calculations that do not use the package."""

import pytest
from common import whole_numbers


@pytest.mark.notebook
def test_13_in_miniature(miniature):
    """Jaccards imply whole intersections; changed sets have one size wherever they occur."""
    tables, given = miniature("13_format")
    rows = tables["formats"]
    whole_numbers(rows)
    own = tables["format_rows"].query("what == 'form'").set_index(["form", "lang_a", "seed"])
    pairs = tables["format_rows"].query("what == 'language'")
    for row in pairs.itertuples():
        for code, size in ((row.lang_a, row.size_a), (row.lang_b, row.size_b)):
            assert own.size_b[row.form, code, row.seed] == size
    sample = own.loc["another sample"].reset_index().query("lang_a == 'en'").iloc[0]
    first, second = given["seeds"]
    sizes = own.size_b["as it is"]["en"]
    assert (sample.size_a, sample.size_b) == (sizes[first], sizes[second])
