"""Curves over fractions of a set: the shape that was planted, and every draw at its end."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress
from statsmodels.api import OLS, add_constant

from mmlib.study import portions, stats

SHARES = [0, *[share for share in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8) for _ in range(3)], 1]


@pytest.mark.parametrize(
    ("shape", "curve", "where"),
    [
        ("linear", lambda x: 0.9 - 0.8 * x, 0.5),
        ("sigmoid", lambda x: 0.9 - 0.8 / (1 + np.exp(-(x - 0.3) / 0.08)), 0.3),
        ("threshold", lambda x: np.where(x < 0.15, 0.9, 0.1), 0.15),
    ],
)
def test_the_shape_that_was_planted_fits_best(shape, curve, where):
    x = np.array(SHARES)
    y = curve(x) + np.random.default_rng(1).normal(0, 0.01, len(x))
    fits = stats.shape_fits(x, y)
    assert set(fits["shape"]) == {"linear", "sigmoid", "threshold"}
    best = fits.iloc[0]
    assert (best["shape"], best.above_best) == (shape, 0)
    assert best.r_squared > 0.99
    assert best["where"] == pytest.approx(where, abs=0.02)


def test_the_line_is_that_of_scipy_and_its_criterion_that_of_statsmodels():
    x = np.array(SHARES)
    y = 0.8 - 0.5 * x**2 + np.random.default_rng(2).normal(0, 0.02, len(x))
    line = stats.shape_fits(x, y).set_index("shape").loc["linear"]
    assert line.r_squared == pytest.approx(linregress(x, y).rvalue ** 2)
    n, k = len(x), 3
    likelihood = OLS(y, add_constant(x)).fit().llf
    bic = k * np.log(n) - 2 * likelihood
    assert line.bic == pytest.approx(bic - n * (1 + np.log(2 * np.pi)))
    assert line.n == n


def test_a_flat_curve_has_no_shape_and_few_points_are_refused():
    assert stats.shape_fits(SHARES, [0.5] * len(SHARES)).r_squared.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="6 points at 3 shares"):
        stats.shape_fits([0, 0, 0.5, 0.5, 1, 1], [1] * 6)


def test_every_curve_is_fitted_with_its_unedited_value():
    x = np.array(SHARES[1:])
    line, step = 0.9 - 0.8 * x, np.where(x < 0.15, 0.9, 0.1)
    table = pd.concat(
        pd.DataFrame({"lang": lang, "keep_ratio": 0.1, "fraction": x, "value": y, "base": 0.9})
        for lang, y in (("en", line), ("de", step))
    )
    fits = stats.fit_curves(table, ["lang", "keep_ratio"])
    best = fits[fits.above_best == 0].set_index("lang")["shape"]
    assert best.to_dict() == {"en": "linear", "de": "threshold"}
    alone = stats.shape_fits(sorted(set(SHARES)), [0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert alone.n.tolist() == [8] * 3  # a point per share, not per draw
    pd.testing.assert_frame_equal(fits[fits.lang == "de"][[*alone]].reset_index(drop=True), alone)


GIVEN = {"languages": ["en", "de"], "seeds": [1], "keep_ratios": [0.1], "fractions": [0.5, 1.0]}
GIVEN |= {"edit_dtype": "bfloat16", "sample_seeds": [4, 5], "parts": ["math-1"]}


def test_the_whole_set_is_asked_once_and_belongs_to_every_draw():
    planned = portions.planned(GIVEN)
    assert not planned.duplicated().any()
    per = {"math-specific": 2 + 1, "highest first": 2, "lowest first": 2, "random": 2, "none": 1}
    assert planned.value_counts("condition").to_dict() == {k: 2 * n for k, n in per.items()}
    answers = planned.assign(model="toy", correct=planned.condition == "none")
    values = portions.accuracies(answers)
    assert len(values) == len(planned) - 2
    assert set(values.base) == {1}
    assert set(values.value) == {0}


def test_a_tenth_is_compared_with_the_highest_of_the_same_language():
    rows = [
        (condition, lang, seed, 0.1, fraction, "math-1", problem, right)
        for lang, lifted in (("en", 0), ("de", 20))
        for condition, seed, solved in (
            ("math-specific", 4, 40),
            ("math-specific", 5, 40),
            ("lowest first", 0, 40),
            ("highest first", 0, lifted),
        )
        for fraction in (0.1, 0.2)
        for problem in range(40)
        for right in [problem < (solved if fraction == 0.1 else 0)]
    ]
    names = "condition lang sample_seed keep_ratio fraction part problem_id correct"
    against = portions.tenths(pd.DataFrame(rows, columns=names.split()), 0.1)
    assert against.replicates.tolist() == [2, 1, 2, 1]
    gains = against.set_index(["condition", "lang"]).difference
    assert gains.unstack().to_dict() == {
        lang: dict.fromkeys(["math-specific", "lowest first"], gain)
        for lang, gain in (("en", 1.0), ("de", 0.5))
    }
