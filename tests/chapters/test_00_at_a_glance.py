"""Chapter 00 in miniature, beside calculations that do not use the package."""

import pandas as pd
import pytest
from common import ROOT

from mmlib.claims.ledger import CLAIMS


@pytest.mark.notebook
def test_00_in_miniature(miniature):
    """Effect of C1 in the published table, straight from the file."""
    tables, _ = miniature("00_at_a_glance")
    rows = pd.read_csv(ROOT / "mmlib" / "published" / "mathlang_overlap.csv").query(
        "group == 'global' and lang_a != lang_b"
    )
    k, jaccard = rows.keep_ratio, rows.intersection / rows.union
    effect = min((jaccard - k * (1 - k) / (k * k - k + 2)).min(), (2 / 3 - jaccard).min())
    ledger = tables["ledger"].set_index("id")
    assert ledger.published_effect["C1"] == pytest.approx(effect)
    assert set(ledger.index) == set(CLAIMS)
