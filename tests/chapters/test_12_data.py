"""Chapter 12 in miniature, beside calculations that do not use the package."""

import json

import pytest
from common import ROOT, matrices, whole_numbers
from scipy.stats import spearmanr

from mmlib.claims.rules import judge


@pytest.mark.notebook
def test_12_in_miniature(miniature):
    """Sets come from the checkpoint's matrices, shares from its manifest, ranks from scipy."""
    tables, given = miniature("12_data")
    whole_numbers(tables["mix_overlap"])
    sizes = tables["data_sizes"]
    names = [*given["models"], *given["cut"]]
    kept = {name: matrices(ROOT / "mmlib" / "organisms" / name) for name in names}
    for name, rows in sizes.groupby("model"):
        assert set(rows.n_topk) == {sum(int(size * 0.1) for size in kept[name])}
        path = ROOT / "mmlib" / "organisms" / name / "manifest.json"
        shares = json.loads(path.read_text())["recipe"]["mix"]["languages"]
        told = rows.drop_duplicates("lang").set_index("lang").share
        assert told.to_dict() == pytest.approx(
            {c: s / sum(shares.values()) for c, s in shares.items()}
        )
    means = tables["mixes"].pivot_table(index="lang", columns="mix", values="n_math_specific")
    shares = tables["mixes"].query("mix == 'skewed'").set_index("lang").share
    rho = {mix: spearmanr(means[mix], shares[means.index]).statistic for mix in means}
    rows = sizes[sizes.model.isin(given["models"])].groupby(["mix", "lang"]).n_math_specific.mean()
    assert means.stack().reorder_levels(["mix", "lang"]).sort_index().tolist() == pytest.approx(
        rows.sort_index().tolist()
    )
    effect = judge("O8", {"mixes": tables["mixes"]}).effect
    assert effect == pytest.approx(rho["skewed"] - rho["even"])
