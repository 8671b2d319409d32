"""Intervals of verdicts against cases whose answer is known, and against libraries."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from mmlib.study import stats

TRUTH = 0.1


def crossed(rng, repeats, *, trainings, problems, between, items=0.4, both=0.3):
    """Effects of (repeats, trainings, problems) with the three sources of variation."""
    size = (repeats, trainings, problems)
    values = TRUTH + rng.normal(0, between, (*size[:2], 1)) + rng.normal(0, both, size)
    return values + rng.normal(0, items, (repeats, 1, problems))


def series(values, *names):
    places = pd.MultiIndex.from_product([range(n) for n in np.shape(values)], names=names)
    return pd.Series(np.ravel(values), places)


def covered(values, *varied):
    """Share of repeats whose interval contains the truth, and the p-values of more than it."""
    estimate = stats._ESTIMATES[varied]
    tests = np.array([estimate(grid, TRUTH, 0.95) for grid in values], float)
    return ((tests[:, 1] <= TRUTH) & (tests[:, 2] >= TRUTH)).mean(), tests[:, 5]


@pytest.mark.parametrize("between", [0.05, 0.1])
def test_intervals_over_trainings_and_problems_cover_the_truth(between):
    rng = np.random.default_rng(1)
    values = crossed(rng, 2000, trainings=3, problems=200, between=between)
    share, above = covered(values, "seed", "problem")
    assert 0.935 <= share <= 0.965
    assert (above < 0.05).mean() <= 0.06  # a null claim is called "above" as rarely


def test_intervals_over_problems_cover_the_truth(monkeypatch):
    monkeypatch.setattr(stats, "DRAWS", 2000)
    rng = np.random.default_rng(2)
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=(2000, 120))
    share, above = covered(values, "problem")
    assert 0.935 <= share <= 0.965
    assert (above < 0.05).mean() <= 0.06


def test_intervals_over_few_seeds_cover_the_truth():
    share, _ = covered(np.random.default_rng(3).normal(TRUTH, 1, (2000, 3)), "seed")
    assert 0.935 <= share <= 0.965


def test_drawing_three_trainings_with_replacement_would_not():
    """Why the interval over trainings and problems is no hierarchical bootstrap."""
    rng = np.random.default_rng(4)
    shape = {"trainings": 3, "problems": 50, "between": 0.2}
    inside = []
    for grid in crossed(rng, 300, **shape):
        rows, columns = rng.integers(3, size=(500, 3)), rng.integers(50, size=(500, 50))
        drawn = grid[rows[:, :, None], columns[:, None]].mean((1, 2))
        low, high = np.quantile(drawn, [0.025, 0.975])
        inside.append(low <= TRUTH <= high)
    assert np.mean(inside) < 0.9


def test_seeds_are_student_t():
    values = np.random.default_rng(5).normal(size=7)
    row = stats.cell_tests(series(values, "seed"), 0.3).iloc[0]
    expected = scipy_stats.ttest_1samp(values, 0.3, alternative="greater")
    interval = scipy_stats.ttest_1samp(values, 0.3).confidence_interval(0.95)
    assert [row.low, row.high, row.above] == pytest.approx([*interval, expected.pvalue])
    assert row.above + row.below == pytest.approx(1)


def test_problems_are_scipys_bootstrap_of_their_means():
    values = np.random.default_rng(6).choice([-1.0, 0.0, 0.5, 1.0], size=(2, 300))
    both = series(values, "lang", "problem").groupby("problem").mean()
    row = stats.cell_tests(both).iloc[0]
    options = {"method": "percentile", "n_resamples": 10_000, "rng": 1}
    bounds = scipy_stats.bootstrap((both.to_numpy(),), np.mean, **options).confidence_interval
    assert [row.low, row.high] == pytest.approx([*bounds], abs=0.004)


def test_trainings_and_problems_use_the_mean_squares_of_an_analysis_of_variance():
    grid = crossed(np.random.default_rng(7), 1, trainings=5, problems=60, between=0, items=2)[0]
    table = series(grid, "seed", "problem").rename("effect").reset_index()
    squares = anova_lm(ols("effect ~ C(seed) + C(problem)", table).fit())["mean_sq"]
    trainings, problems, rest = squares["C(seed)"], squares["C(problem)"], squares["Residual"]
    variance = max(trainings + problems - rest, trainings, problems) / grid.size
    row = stats.cell_tests(table.set_index(["seed", "problem"]).effect).iloc[0]
    assert row.se == pytest.approx(np.sqrt(variance))


def test_nothing_that_varies_means_no_interval():
    points = stats.cell_tests(series([1.0, 2.0], "lang"))
    assert points.effect.tolist() == [1, 2]
    assert points[["low", "high", "above"]].isna().all(None)
    for names in (["seed"], ["problem"], ["seed", "problem"]):
        same = stats.cell_tests(series(np.ones([4] * len(names)), *names)).iloc[0]
        assert (same.se, np.isnan(same.low)) == (0, True), names
    single = stats.cell_tests(series([[0.0, 1.0]], "lang", "seed").xs(0, level="lang").iloc[:1])
    assert np.isnan(single.se.iloc[0])


def test_a_standard_error_gives_a_normal_interval():
    table = pd.DataFrame({"effect": [1.0], "se": [0.5]}, pd.Index(["en"], name="lang"))
    row = stats.cell_tests(table).iloc[0]
    assert [row.low, row.high] == pytest.approx([1 - 0.98, 1 + 0.98], abs=0.001)


def test_holes_and_missing_values_are_refused():
    effects = series(np.arange(6.0).reshape(2, 3), "seed", "problem")
    with pytest.raises(ValueError, match="every problem in every training"):
        stats.cell_tests(effects.iloc[:-1])
    with pytest.raises(ValueError, match="missing or infinite"):
        stats.cell_tests(effects.replace(0, np.nan))


def test_answers_to_one_problem_are_one_cluster():
    """Asked in another language, or under another draw, it is no second problem."""
    values = np.random.default_rng(9).choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=100)
    once = series(values, "problem")
    pd.testing.assert_frame_equal(stats.cell_tests(pd.concat([once] * 4)), stats.cell_tests(once))


@pytest.mark.parametrize(("n", "df"), [(4, 3), (200, np.inf)])
def test_the_detectable_effect_is_found_four_times_in_five(n, df):
    effect = stats.detectable_effect(1 / np.sqrt(n), df)
    drawn = np.random.default_rng(8).normal(effect, 1, (4000, n))
    found = scipy_stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.025)
