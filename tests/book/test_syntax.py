"""A change of the code counts for a chapter where it can change what the chapter shows."""

import ast
from pathlib import Path

import pytest

from mmlib.book import syntax
from mmlib.book.syntax import code_hashes, digest, shape
from mmlib.claims import ledger  # noqa: F401 (it records)
from mmlib.claims.ledger import CLAIMS

ROOT = Path(__file__).parents[2]
PACKAGE = {
    "study.py": "def mean(x):\n    return sum(x)\n",
    "page.py": "from mmlib.claims import rules\n\ndef verdicts(t, *ids):\n    return rules\n",
    "claims/rules.py": "CLAIMS = {}\n",
    "claims/ledger.py": "from mmlib.claims import first, second\n",
    "claims/first.py": '''"""The first paper."""
from mmlib.claims.rules import record
from mmlib.study import mean

LEAST = 0.5
LISTS = {}
"""Tables."""


def helper(table):
    return mean(table) > LEAST


@record("A1", "words")
def _one(table):
    return helper(table)


@record("A2", "other words")
def _two(table):
    return 2


LISTS.update(a=1)
''',
    "claims/second.py": """from mmlib.claims.first import helper
from mmlib.claims.rules import record

record("B1", "a claim that nothing decides")


@record("B2", "words")
def _two(table):
    return helper(table)


def table():
    return 1
""",
}
ASKS = 'import mmlib.page as page\npage.verdicts(t, "A1")'
FIRST, SECOND = "mmlib/claims/first.py", "mmlib/claims/second.py"


@pytest.fixture
def root(tmp_path):
    for name, text in PACKAGE.items():
        path = tmp_path / "mmlib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def changed(root, code, path, old, new):
    """Keys whose hash changes for a chapter with this code."""
    before = code_hashes(root, ast.parse(code))
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new))
    after = code_hashes(root, ast.parse(code))
    return sorted(k for k in {*before, *after} if before.get(k) != after.get(k))


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        (FIRST, "other words", "new words", []),
        (FIRST, "return 2", "return 3", []),
        (FIRST, '"words"', '"new words"', ["claims.first.A1"]),
        (FIRST, "LEAST = 0.5", "LEAST = 0.6", ["claims.first.A1"]),
        (FIRST, "> LEAST", ">= LEAST", ["claims.first.A1"]),
        (FIRST, "a=1", "a=2", ["claims.first.A1"]),
        (FIRST, '"""Tables."""', '"""All tables."""', []),
        (FIRST, "The first paper", "The paper", []),
        (SECOND, "helper(table)", "not helper(table)", []),
        ("mmlib/study.py", "sum(x)", "max(x)", ["study"]),
        ("mmlib/claims/rules.py", "{}", "dict()", ["claims.rules"]),
        ("mmlib/claims/ledger.py", "first, second", "second, first", []),
    ],
)
def test_a_changed_rule_counts_where_its_claim_is_named(root, path, old, new, expected):
    assert changed(root, ASKS, path, old, new) == expected


def test_a_helper_of_another_part_counts(root):
    code = ASKS.replace("A1", "B2")
    assert changed(root, code, FIRST, "LEAST = 0.5", "LEAST = 0.6") == ["claims.second.B2"]


@pytest.mark.parametrize(
    "code",
    [
        "from mmlib.claims.ledger import ledger\nledger(t)",
        'from mmlib.claims.ledger import ledger\nfrom mmlib import page\npage.verdicts(t, "A1")',
        "from mmlib.page import verdicts\nverdicts(t, *names)",
    ],
)
def test_a_chapter_that_names_no_claim_depends_on_all(root, code):
    names = code_hashes(root, ast.parse(code))
    assert {"claims.first", "claims.second", "claims.rules"} <= set(names)
    assert changed(root, code, FIRST, "return 2", "return 3") == ["claims.first"]


def test_a_chapter_that_asks_for_no_verdict_depends_on_no_claim(root):
    assert set(code_hashes(root, ast.parse('import mmlib.page\nx = "A1"'))) == {
        "page",
        "claims.rules",
    }


def test_an_imported_name_counts_with_what_it_needs(root):
    code = "from mmlib.claims.second import table"
    assert list(code_hashes(root, ast.parse(code))) == ["claims.second.table"]
    assert changed(root, code, SECOND, "return 1", "return 2") == ["claims.second.table"]
    assert changed(root, code, SECOND, "return helper(table)", "return table") == []


def test_every_claim_of_the_book_is_seen():
    paths = [p for p in (ROOT / "mmlib/claims").glob("*.py") if p.stem not in syntax.WHOLE]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    seen = [claim for text in texts for claim in syntax._part(text).claims]
    assert sorted(seen) == sorted(CLAIMS)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("def f(x, *y): pass", "def f(x: int, *y: str) -> None: pass", True),
        ("f = 1", "from typing import Any\nfrom collections.abc import Sequence\nf = 1", True),
        ("async def f(): pass", "async def f() -> int: pass", True),
        ("def f(x=1): pass", "def f(x: int = 2) -> None: pass", False),
        ("class A:\n    x: int", "class A:\n    x: float", False),
        ("import typing", "import math", False),
    ],
)
def test_annotations_of_functions_change_nothing(old, new, same):
    before, after = (digest(shape(ast.parse(text))) for text in (old, new))
    assert (before == after) is same


def test_records_that_a_module_reads_count_with_it(tmp_path):
    room = tmp_path / "mmlib" / "speech"
    for folder in (room / "forms", room / "organs"):
        folder.mkdir(parents=True)
    (room / "organs" / "__init__.py").touch()  # a room of its own
    (room / "tongues.py").write_text("import yaml\n")
    (room / "teeth.py").write_text("x = 1\n")

    def hashes(module):
        return code_hashes(tmp_path, ast.parse(f"import mmlib.speech.{module}"))

    for name in ("tongues.yaml", "forms/short.yaml", "organs/lips.yaml"):
        before = hashes("tongues"), hashes("teeth")
        (room / name).write_text("en: 1\n")
        assert (hashes("tongues") != before[0]) is ("organs" not in name)
        assert hashes("teeth") == before[1]
