"""Chapter 05 in miniature, beside calculations that do not use the package."""

import pytest


@pytest.mark.notebook
def test_05_in_miniature(miniature):
    """Stored sizes of the smallest shape: width 128, inner width 256, 4 layers, full attention."""
    tables, _ = miniature("05_cost")
    cost = tables["localisation_cost"]
    value = cost[cost["shape"] == "1M"].groupby("quantity").value.first()
    stored, ratio = (value[f"stored per calibration{end}"] for end in ("", ", published / ours"))
    assert stored * ratio == pytest.approx(2 * 4 * (4 * 128 * 128 + 3 * 128 * 256))
    assert 0 < stored - 4 * 4 * (3 * 128 + 256) < 5000  # names and shared inputs
