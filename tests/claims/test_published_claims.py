"""Verdicts on the published numbers, beside expressions written without the rules."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmlib.claims.ledger import ledger
from mmlib.claims.rules import published_effect
from mmlib.study.tables import PACKAGE

HERE = Path(__file__).parent
CHECKS = pd.read_csv(HERE / "published_checks.csv", index_col="id").check


@pytest.fixture(scope="module")
def namespace():
    """What an expression may use: the published tables under short names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PACKAGE / "published")
        return runpy.run_path(str(HERE / "published_names.py")) | {"np": np, "pd": pd}


@pytest.mark.parametrize("claim", list(CHECKS.index))
def test_published_verdicts_are_what_the_recorded_expressions_say(claim, namespace):
    verdict = ledger().set_index("id").published_data[claim]
    assert {"yes": True, "no": False}[verdict] == eval(CHECKS[claim], namespace)


def test_claims_without_an_expression_are_not_testable_on_published_data():
    verdicts = ledger().set_index("id").published_data
    assert set(verdicts.drop(CHECKS.index)) == {"not testable here"}


def test_published_figures_are_reproduced():
    assert published_effect("C3b") == pytest.approx(0.8)
    # n(en)/n(hi) at K=.1 is 1.43, 1.60, 1.46: the last step is -.14.
    assert published_effect("C3c") == pytest.approx(-0.14, abs=0.005)
