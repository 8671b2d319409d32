"""Chapter 23 in miniature."""

import pytest


@pytest.mark.notebook
def test_23_in_miniature(miniature):
    """Every system starts from one expert, trains as many weights, and is read on as many texts."""
    tables, given = miniature("23_align_llm")
    losses, costs = tables["aligned_losses"], tables["aligned_costs"]
    assert set(losses.system) == {"base", *given["systems"]}
    counts = losses[losses.task == "solution"].nats.map(lambda text: len(text.split()))
    assert (counts == given["items"]).all()
    assert set(losses[losses.task == "solution"].lang) == set(given["languages"])
    assert costs.trained.nunique() == 1
    assert len(costs) == len(given["systems"]) * len(given["seeds"])
