"""What is asked after which edit, and when a set may be called math-specific."""

import pandas as pd
import pytest

from mmlib.study import breaks

GIVEN = {
    "languages": ["en", "de"],
    "seeds": [1, 101],
    "edit_dtypes": ["bfloat16", "float32"],
    "keep_ratios": [0.01, 0.1],
    "keep_ratio": 0.1,
    "conditions": ["math-specific", "random", "top-K math"],
    "factors": [1.1],
    "parts": ["math-1", "generation"],
    "scale_parts": ["math-1"],
}


def test_all_is_pruned_two_are_scaled_and_both_again_in_every_precision():
    planned = breaks.planned(GIVEN)
    assert not planned.duplicated().any()
    first = planned[planned.dtype == "bfloat16"]
    per_part = 2 * 2 * 2  # languages, seeds, keep ratios
    assert len(first[(first.factor == 0) & (first.part == "generation")]) == 3 * per_part
    assert len(first[(first.factor == 1.1) & (first.part == "math-1")]) == 2 * per_part
    assert len(first[(first.factor == 1.1) & (first.part == "generation")]) == 0
    other = planned[(planned.dtype == "float32") & (planned.condition != "none")]
    assert set(other.keep_ratio) == {0.1}
    assert set(other.part) == {"math-1"}
    assert len(other) == 2 * 2 * 2 * 2  # conditions, factors, languages, seeds
    assert (planned[planned.condition == "none"].groupby("dtype").size() == [4, 2]).all()


def pruned(skills, condition="math-specific"):
    """Rows of `changes`: what falls counts, and the lower end of its interval."""
    rows = [(condition, 0.1, "en", skill, *told) for skill, told in skills.items()]
    names = ["condition", "keep_ratio", "lang", "skill", "falls", "low"]
    return pd.DataFrame(rows, columns=names)


MATH = {"math": (True, -0.9), "math, ranked": (True, -0.5)}
REST = {"reading": (False, -0.02), "reading, ranked": (False, -0.04), "generation": (True, -0.03)}


@pytest.mark.parametrize(
    ("skills", "passes"),
    [
        (MATH | REST, True),
        (MATH | REST | {"math, ranked": (False, -0.5)}, False),
        (MATH | REST | {"generation": (True, -0.06)}, False),
        (MATH | {"reading": (False, 0.0), "generation": (False, 0.0)}, False),
    ],
)
def test_a_set_is_math_specific_if_math_alone_falls_in_both_forms(skills, passes):
    table = pd.concat([pruned(skills), pruned(REST, "random")])
    rule = breaks.math_specific(table)
    assert rule["math-specific"].tolist() == [passes]
    assert rule.drop(columns="math-specific").all(axis=1).tolist() == [passes]


def test_a_fall_counts_after_holms_correction():
    rows = [
        (condition, factor, "math-1", "math", n, right)
        for condition, factor, solved in (
            ("none", 1.0, 30),
            ("random", 0.0, 29),
            ("random", 1.1, 0),
        )
        for n in range(30)
        for right in [n < solved]
    ]
    names = ["condition", "factor", "part", "skill", "problem_id", "correct"]
    answers = pd.DataFrame(rows, columns=names)
    answers = answers.assign(dtype="float32", lang="en", keep_ratio=0.1, seed=1)
    changes = breaks.changes(answers).set_index("factor")
    assert changes.falls.to_dict() == {0.0: False, 1.1: True}
    assert changes.difference.to_dict() == pytest.approx({0.0: -1 / 30, 1.1: -1})
