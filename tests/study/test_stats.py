"""Statistics of answers and seeds, against textbooks and other packages."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from mmlib.study import stats
from mmlib.study.stats import compare, seed_interval, summarize


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


def test_compare_known_case_and_antisymmetry():
    a = answers([True] * 10 + [False] * 10)
    b = answers([True] * 4 + [False] * 16)
    one, other = compare(a, b), compare(b.sample(frac=1, random_state=0), a)
    assert (one["only_a"], one["only_b"], one["n"]) == (6, 0, 20)
    assert one["p_value"] == pytest.approx(2 * 0.5**6)  # exact sign test on 6 discordant pairs
    assert one["difference"] == pytest.approx(0.3)
    assert 0 < one["low"] < 0.3 < one["high"] < 0.6
    assert other["difference"] == pytest.approx(-one["difference"])
    assert other["p_value"] == one["p_value"]


def test_compare_with_itself_finds_nothing():
    a = answers([True, False, True])
    same = compare(a, a)
    assert (same["difference"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)


def test_compare_refuses_other_problems():
    a = answers([True, False])
    with pytest.raises(ValueError, match="2 problems are in one table only"):
        compare(a, a.assign(id=[1, 2]))
    with pytest.raises(ValueError, match="correct"):
        compare(a, a.drop(columns="correct"))
    with pytest.raises(pd.errors.MergeError):
        compare(a.assign(id=0), a)


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


def test_agreement_is_kappa_and_refuses_unknown_labels():
    rng = np.random.default_rng(0)
    first = pd.Series(rng.choice(["slip", "plan", "format"], 200))
    second = first.where(rng.random(200) < 0.8, "plan")
    labels = pd.DataFrame({"a": first, "b": second, "c": first})
    table = stats.agreement(labels, ["slip", "plan", "format", "language"])
    assert table[["rater_a", "rater_b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert table.kappa[0] == pytest.approx(cohen_kappa_score(first, second))
    assert table.same.tolist() == [(first == second).sum(), 200, (first == second).sum()]
    assert table.low[0] < table.kappa[0] < table.high[0] < 1
    assert table[["kappa", "low", "high"]].loc[1].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="'typo': choose from slip, plan"):
        stats.agreement(labels.replace("format", "typo"), ["slip", "plan"])
    with pytest.raises(ValueError, match="give two or more"):
        stats.agreement(labels[["a"]], ["slip"])
