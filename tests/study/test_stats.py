"""Statistics of answers and seeds, against textbooks and other packages."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmlib.study.stats import seed_interval, summarize


def answers(flags, **columns):
    return pd.DataFrame({"id": range(len(flags)), "correct": flags, **columns})


def test_wilson_interval_of_a_textbook_case():
    row = summarize(answers([True] * 9 + [False], lang="en", task="math")).iloc[0]
    assert (row.accuracy, row.n, row.n_correct) == (0.9, 10, 9)
    assert (row.low, row.high) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_wilson_holds_the_accuracy_and_mirrors(flags):
    table = answers(flags, lang="en", task="math")
    row = summarize(table).iloc[0]
    mirror = summarize(table.assign(correct=~table.correct)).iloc[0]
    assert 0 <= row.low <= row.accuracy + 1e-12
    assert row.accuracy - 1e-12 <= row.high <= 1
    assert mirror.low == pytest.approx(1 - row.high)


def test_groups_keep_their_order():
    table = answers([True, False, True], lang=["hi", "en", "hi"], task="math")
    assert summarize(table, ["lang"]).lang.tolist() == ["hi", "en"]


def test_seed_interval_known_case():
    mean, low, high, n = seed_interval([1.0, 2.0, 3.0])
    assert (mean, n) == (2.0, 3)
    assert high - mean == mean - low == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_seed_interval_edges():
    assert seed_interval([0.3, 0.3])[:3] == (0.3, 0.3, 0.3)
    assert np.isnan(seed_interval([1.0])[1:3]).all()
    for bad in ([], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="finite"):
            seed_interval(bad)
