"""Chapter 22 in miniature, beside calculations that do not use the package."""

import numpy as np
import pytest


@pytest.mark.notebook
def test_22_in_miniature(miniature):
    """As many losses as items in every row; random sets are as large as the others."""
    tables, given = miniature("22_likelihood")
    losses, answers = tables["likelihoods"], tables["examples"]
    counts = losses.nats.map(lambda text: len(text.split()))
    assert (counts == given["items"]).all()
    values = np.concatenate(losses.nats.map(lambda text: np.array(text.split(), float)))
    assert (values >= 0).all()
    sizes = losses[losses.condition != "none"].pivot_table(
        index=["lang", "seed"], columns="condition", values="n_weights", aggfunc=["min", "max"]
    )
    assert (sizes.nunique(axis=1) == 1).all()
    solved = tables["answers"]
    assert (solved.correct.str.len() == given["solve"]).all()
    assert len(solved) == 2 * len(given["languages"])  # strictly and flexibly read
    assert len(answers) == len(given["languages"]) * (2 + len(given["example_sets"]))
    assert answers.problem_id.nunique() == 1
