"""A check says right for the right answer only; the solutions of all chapters are right.

The exercises of a chapter stand alone: their cells run without the cells above them, here and in a
course. So they are run here as they are, in one process.
"""

import ast
import contextlib
import io
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.book.chapters import Project
from mmlib.book.exercises import STUB, Exercise
from mmlib.masks import ParameterMask

PROJECT = Project(Path(__file__).parents[2])
CHANCE = Exercise(0.0122, "how large is the union?", {"the sum counts twice.": 0.012})


def test_a_number_is_right_to_half_a_percent_however_it_is_written(capsys):
    for answer in (0.0122, "0.0122", np.float32(0.0122), torch.tensor(0.01221)):
        CHANCE.check(answer)
    assert capsys.readouterr().out == "Right.\n" * 4


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (..., STUB),
        (0.012, "Not yet: the sum counts twice."),
        (0.5, "Not yet: how large is the union?"),
        (0.0122 * 1.02, "Not yet: how large is the union?"),
        ("a lot", "Not yet: one finite number is asked for."),
        (float("nan"), "Not yet: one finite number is asked for."),
        (None, "Not yet: one finite number is asked for."),
        ([1, 2], "Not yet: the shape of one number is asked for, not (2,)."),
        ([[1], [1, 2]], "Not yet: its rows are of different lengths."),
    ],
)
def test_wrong_answers_get_a_hint(answer, hint):
    assert CHANCE.verdict(answer) == hint


def mask(*members):
    return ParameterMask({"w": torch.tensor(members)})


@pytest.mark.parametrize(
    ("right", "alike", "wrong"),
    [
        ("Format", " format ", "slip"),
        ({1, 2}, {2, 1}, {1}),
        (["en", "hi"], ("en", "hi"), ["hi", "en"]),
        (torch.tensor([True, False]), np.array([1, 0]), [True, True]),
        (torch.ones(2, dtype=torch.bfloat16), [1.0, 1.0], [1.0, 1.1]),
        (pd.Series([1.0, 2.0]), [1, 2], [2, 1]),
        (mask(True, False), mask(True, False), mask(True, True)),
        ({"a": 1, "b": "x"}, {"b": "X", "a": 1.0}, {"a": 1, "b": "y"}),
    ],
)
def test_every_kind_of_answer(right, alike, wrong):
    exercise = Exercise(right, "no")
    assert exercise.verdict(alike) == "Right."
    assert exercise.verdict(wrong).startswith("Not yet: ")
    assert exercise.verdict(None).startswith("Not yet: ")


def test_parts_of_an_answer():
    exercise = Exercise({"a": 1, "b": 2}, "no", {"b is doubled.": {"b": 4}})
    assert exercise.verdict({"a": 1, "b": ...}) == STUB
    assert exercise.verdict({"a": 9, "b": 4}) == "Not yet: b is doubled."
    assert exercise.verdict({"a": 1, "b": 3}) == "Not yet: look at b again."
    assert exercise.verdict({"a": 3, "b": 3}) == "Not yet: no"
    assert exercise.verdict({"a": 1}) == "Not yet: a dict of a, b is asked for."
    assert exercise.verdict(7) == "Not yet: a dict of a, b is asked for."


def test_a_slip_that_is_right_is_refused():
    with pytest.raises(ValueError, match="would get a hint: 'no'"):
        Exercise({"a": 1, "b": 2}, "", {"no": {"b": 2.001}})


# --- those of the chapters


@cache
def section(name):
    """The cells of a chapter's exercises, and those behind them."""
    cells = json.loads(PROJECT.source(name).read_text(encoding="utf-8"))["cells"]
    cells = [{**cell, "source": "".join(cell["source"])} for cell in cells]
    starts = [i for i, cell in enumerate(cells) if cell["source"].startswith("## Exercises")]
    ends = [i for i, cell in enumerate(cells) if cell["source"].startswith("## How this page")]
    return (cells[starts[0] : ends[0]], cells[ends[0] :]) if starts else ([], cells)


def code(cells, tag=None):
    chosen = [cell for cell in cells if cell["cell_type"] == "code"]
    return [c["source"] for c in chosen if tag in (None, *c["metadata"].get("tags", []))]


WITH_CHECKS = [name for name in PROJECT.chapters if name != "00_at_a_glance"]
"""All but the ledger."""


@pytest.mark.parametrize("name", WITH_CHECKS)
def test_solutions_are_right_and_hints_hold_none(name):
    """A check waits at its stub, says right to its solution, and gives each slip its own hint."""
    here, said = {}, {"exercise": [], "solution": []}
    for cell in section(name)[0]:
        if cell["cell_type"] == "code":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(cell["source"], name, "exec"), here)
            for tag in set(cell["metadata"].get("tags", [])) & set(said):
                said[tag] += re.findall(r"^(?:Your turn|Not yet|Right).*", out.getvalue(), re.M)
    exercises = [value for value in here.values() if isinstance(value, Exercise)]
    assert said["solution"] == ["Right."] * len(exercises)
    assert len(said["exercise"]) == len(exercises)
    assert "Right." not in said["exercise"]
    for exercise in exercises:
        for hint, wrong in exercise.slips.items():
            parts = exercise.answer if isinstance(wrong, dict) else {}
            value = {**parts, **wrong} if parts else wrong
            assert exercise.verdict(value) == f"Not yet: {hint}"


def statements(cells):
    return [statement for text in code(cells) for statement in ast.parse(text).body]


def names(statements, context):
    nodes = [node for statement in statements for node in ast.walk(statement)]
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, context)}


@pytest.mark.parametrize("name", WITH_CHECKS)
def test_exercises_change_no_name_that_is_read_behind_them(name):
    """A reader's answer must not get into the tables of the page."""
    inside, behind = (list(statements(cells)) for cells in section(name))
    unset = names(inside, ast.Store)
    for statement in behind:
        assert unset & names([statement], ast.Load) - names([statement], ast.Store) == set()
        unset -= names([statement], ast.Store)


@pytest.mark.parametrize("name", PROJECT.chapters)
def test_every_exercise_has_a_hint_and_a_solution(name):
    text = "\n".join(cell["source"] for cell in section(name)[0])
    labels = re.findall(r"\{exercise-start\}.*\n:label: (\S+)", text)
    assert labels == re.findall(r"\{solution-start\} (\S+)", text)
    assert len(labels) == text.count(":::{dropdown} Hint")
    assert len(re.findall(r"^[●○] [●○] [●○] · \d+ minutes · ", text, re.M)) == len(labels)


@pytest.mark.parametrize("name", WITH_CHECKS)
def test_a_chapter_has_three_to_four_exercises_from_one_dot_to_three(name):
    """Each of them with a check of its own."""
    text = "\n".join(cell["source"] for cell in section(name)[0])
    dots = [line.count("●") for line in re.findall(r"^[●○] [●○] [●○] · ", text, re.M)]
    assert 3 <= len(dots) <= 4
    assert set(dots) == {1, 2, 3}
    assert len(set(re.findall(r"^(\w+) = page\.Exercise\(", text, re.M))) == len(dots)
