"""A check says right for the right answer only, and its hints never hold the answer."""

import pandas as pd
import pytest

from mmlib.book.exercises import check_chance_jaccard, check_pooled_jaccard

CHANCE = (90 * 60 / 3000) / (90 + 60 - 90 * 60 / 3000)
LAYERS = pd.DataFrame({"intersection": [10, 300, 5], "union": [20, 1000, 400]})
LAYERS["jaccard"] = LAYERS["intersection"] / LAYERS["union"]
POOLED = 315 / 1420


@pytest.mark.parametrize("answer", [CHANCE, round(CHANCE, 4), str(CHANCE)])
def test_chance_accepts_the_right_number(answer, capsys):
    assert check_chance_jaccard(answer) is None
    assert capsys.readouterr().out == "Right.\n"


def test_pooled_accepts_counts_only(capsys):
    check_pooled_jaccard(POOLED, LAYERS)
    assert capsys.readouterr().out == "Right.\n"
    check_pooled_jaccard(LAYERS["jaccard"].mean(), LAYERS)
    assert "mean of the layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (1.8, "how many weights the sets share"),
        (1.8 / 150, "twice"),
        (1.8 / 3000, "share of all weights"),
        (1.8 / 90, "first set"),
        (1.8 / 60, "second set"),
        (0.5, "how many of the first set"),
        (CHANCE * 1.02, "how many of the first set"),
        ("a lot", "finite number"),
        (float("nan"), "finite number"),
        (None, "finite number"),
    ],
)
def test_wrong_answers_get_a_hint_without_the_solution(answer, hint, capsys):
    check_chance_jaccard(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ")
    assert hint in said
    assert f"{CHANCE:.3f}" not in said


def test_pooled_says_which_column_is_missing():
    with pytest.raises(ValueError, match="union"):
        check_pooled_jaccard(0.1, LAYERS.drop(columns="union"))
