"""Chapter 24 in miniature."""

import pytest


@pytest.mark.notebook
def test_24_in_miniature(miniature):
    """Every merger of the experts is read on the same texts, and layers' shares sum to one."""
    tables, given = miniature("24_swap_llm")
    losses, moves, log = (tables[f"swapped_{name}"] for name in ("losses", "moves", "log"))
    assert set(losses.system) == set(given["systems"])
    read = {("solution", "en"), ("solution", "sw"), ("text", "sw")}
    for _, rows in losses.groupby(["system", "draw"]):
        assert set(zip(rows.task, rows.lang, strict=True)) == read
        counts = rows.nats.str.split().str.len()
        assert (counts[rows.task == "solution"] == given["items"]).all()
        assert (counts[rows.task == "text"] == given["heldout"]).all()
    assert moves.groupby("role").share.sum().to_numpy() == pytest.approx([1, 1])
    assert set(log.role) == {"math", "sw"}
