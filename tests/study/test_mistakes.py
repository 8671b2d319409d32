"""Wrong answers get the kind of their error; flips are counted problem by problem."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from mmlib.study import mistakes, sweeps


def test_grades_are_right_or_the_kind_of_the_error(heldout):
    solutions = sweeps.worked_solutions(["organism-math", "organism-reading"], ["en"], heldout)
    assert {task for task, _, _ in solutions} == {"organism-math"}
    (task, lang, name), solution = next(iter(solutions.items()))
    target = solution.rpartition(" ")[2].rstrip(".")
    rows = [
        (task, lang, name, target, solution, True),
        (task, lang, name, target, "", False),
        (task, lang, name, target, solution.rpartition(".")[0].rpartition(".")[0], False),
        ("organism-reading", lang, "x", "blue", "", False),
    ]
    names = ["task", "lang", "problem_id", "target", "response", "correct"]
    graded = sweeps.grades(pd.DataFrame(rows, columns=names), solutions)
    assert graded == ["1", "i", "f", "0"]


def answers_of(condition, kinds, factor=1.1, seed=1):
    edit = {"condition": condition, "factor": factor, "keep_ratio": 0.1, "seed": seed}
    table = pd.DataFrame({"problem_id": range(len(kinds)), "kind": kinds})
    place = {"model": "toy", "dtype": "float32", "lang": "en", "part": "math-1"}
    return table.assign(correct=table.kind == "right", **place, **edit)


def test_flips_are_what_changed_between_right_and_wrong():
    before = answers_of("none", ["right", "slip", "plan", "right", "format"], factor=1.0, seed=0)
    after = ["slip", "right", "right", "right", "format"]
    answers = pd.concat([before, answers_of("random", after)])
    flips = mistakes.flips(answers)
    assert flips.corrected.tolist() == [False, True, True, False, False]
    assert flips.corrected_slips.tolist() == [False, True, False, False, False]
    assert flips.broken.tolist() == [True, False, False, False, False]
    (row,) = mistakes.flip_counts(answers).reset_index().to_dict("records")
    assert (row["corrected"], row["corrected_slips"], row["broken"]) == (2, 1, 1)
    assert row["smallest_p_holm"] == 1  # 2 against 1 is chance


def test_shares_of_kinds_add_up_and_a_kind_that_is_absent_has_none():
    shares = mistakes.shares(answers_of("random", ["right", "slip", "slip", "plan"]))
    assert shares.sum(axis=1).tolist() == pytest.approx([1])
    assert shares.iloc[0][["right", "slip", "plan", "language"]].tolist() == [0.25, 0.5, 0.25, 0]


def test_agreement_of_raters_is_kappa():
    rng = np.random.default_rng(0)
    first = pd.Series(rng.choice(["slip", "plan", "format"], 200))
    second = first.where(rng.random(200) < 0.8, "plan")
    labels = pd.DataFrame({"rater_a": first, "rater_b": second, "classifier": first})
    table = mistakes.rater_agreement(labels)
    assert table.rater_a.tolist() == ["rater_a", "rater_a", "rater_b"]
    assert table.rater_b.tolist() == ["rater_b", "classifier", "classifier"]
    assert table.kappa[0] == pytest.approx(cohen_kappa_score(first, second))
    assert table.same.tolist() == [(first == second).sum(), 200, (first == second).sum()]
    assert table.low[0] < table.kappa[0] < table.high[0] < 1
    assert table[["kappa", "low", "high"]].loc[1].tolist() == [1, 1, 1]
