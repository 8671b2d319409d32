"""Verdicts on the published numbers, beside expressions written without the rules."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmlib.claims.ledger import ledger
from mmlib.claims.rules import published_outcome
from mmlib.study.tables import PACKAGE

HERE = Path(__file__).parent
CHECKS = pd.read_csv(HERE / "published_checks.csv", index_col="id").check


@pytest.fixture(scope="module")
def namespace():
    """What an expression may use: the published tables under short names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PACKAGE / "published")
        return runpy.run_path(str(HERE / "published_names.py")) | {"np": np, "pd": pd}


@pytest.fixture(scope="module")
def rows():
    return ledger().set_index("id")


@pytest.mark.parametrize("claim", list(CHECKS.index))
def test_published_points_are_what_the_recorded_expressions_say(claim, namespace, rows):
    row = rows.loc[claim]
    points = {"yes": True, "no": False}.get(row.published_data)
    if row.published_reason != "point only":  # items are known: so does the cell that decides
        size = row.threshold - abs(row.published_effect)
        points = (size if row.test == "equal" else row.published_effect - row.threshold) > 0
        assert row.published_data in ("undecided", "yes" if points else "no")
    assert points == eval(CHECKS[claim], namespace)


def test_claims_without_an_expression_are_not_testable_on_published_data(rows):
    assert set(rows.published_data.drop(CHECKS.index)) == {"not testable here"}


def test_items_leave_undecided_what_two_hundred_problems_cannot_tell(rows):
    of_edits = rows[[name.startswith("C") for name in rows.index]].published_data
    undecided = set(of_edits.index[of_edits == "undecided"])
    assert undecided == {"C3b", "C4a", "C4c", "C5a", "C5b", "C5c", "C6b", "C7b"}


def test_published_figures_are_reproduced():
    # n(en)/n(hi) at K=.1 is 1.43, 1.60, 1.46: the last step is -.14.
    assert published_outcome("C3c").effect == pytest.approx(-0.14, abs=0.005)
    smallest = published_outcome("C4a")  # 0.185 -> 0.017, of 200 problems
    assert smallest.effect == pytest.approx(0.1 * 0.185 - 0.0167, abs=1e-4)
    error = np.sqrt(0.01 * 0.185 * 0.815 / 200 + 0.0167 * 0.9833 / 200)
    assert smallest.high - smallest.low == pytest.approx(2 * 1.96 * error, rel=1e-3)


def test_errata_has_the_present_verdicts_of_every_claim():
    text = (PACKAGE.parent / "book" / "errata.md").read_text(encoding="utf-8")
    now = pd.read_csv(PACKAGE.parent / "book" / "results" / "ledger.csv", index_col="id")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if " | " in line]
    rows = [(name, *(cell.split(" → ")[-1] for cell in cells)) for name, *cells in rows]
    both = {row[0]: row[1:3] for row in rows if row[0] in now.index and len(row) == 4}
    real = {row[0]: row[1] for row in rows if row[0] in now.index and len(row) == 3}
    told = zip(now.organism, now.published_data, strict=True)
    assert both == dict(zip(now.index, told, strict=True))
    assert real == now.real_llm[now.real_cells > 0].to_dict()
