"""The deliberate errors of `make mutants` fit the code as it is, so that each can be made."""

import ast
from collections import Counter

import pytest
from mutants import ROOT, judged, read

MUTANTS = read()
TEXTS = {mutant.file: (ROOT / mutant.file).read_text(encoding="utf-8") for mutant in MUTANTS}


def test_there_are_at_least_two_dozen_and_each_has_a_name():
    assert len(MUTANTS) >= 24
    assert [name for name, n in Counter(m.name for m in MUTANTS).items() if n > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_changes_one_place_to_other_code_and_names_tests(mutant):
    text = TEXTS[mutant.file]
    assert ast.dump(ast.parse(mutant.edited(text))) != ast.dump(ast.parse(text))
    assert mutant.tests
    assert all((ROOT / path).is_file() for path in mutant.tests)


@pytest.mark.parametrize(
    ("code", "output", "verdict"),
    [
        (1, "FAILED tests/a.py::test_b - assert 1 == 2\n1 failed, 3 passed in 1 s", "caught"),
        (0, "4 passed in 1 s", "survived"),
        (1, "ERROR tests/a.py::test_b - KeyError\n3 passed, 1 error in 1 s", "broken"),
        (1, "FAILED tests/a.py::test_b - NameError: name 'x'\n1 failed in 1 s", "broken"),
        (2, "ERROR tests/a.py - ImportError\n1 error in 1 s", "broken"),
        (5, "no tests ran in 1 s", "broken"),
        (None, "", "broken"),
    ],
)
def test_only_a_test_that_fails_catches(code, output, verdict):
    assert judged(code, output)[0] == verdict
