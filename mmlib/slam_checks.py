"""The rules that decide the claims of SLAM on runs of ours.

As in `mmlib.checks`, each rule was committed before the run that decides it; of S2 a trial of 100
questions had been seen. Figures of the paper have no printed values, so that shapes are checked.
"""

from __future__ import annotations

import pandas as pd

from mmlib.checks import NotTestableError, Tables, decides, weakest
from mmlib.results import require_columns

_SHAPES = {"keep_ratios": (), "replicates": "samples of questions"}


def _thirds(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Means of the first, middle and last third of the layers, by seed and language."""
    depth = table.groupby("model").layer.transform("max") + 1
    if depth.min() < 6:
        raise NotTestableError(f"needs at least 6 layers to tell a shape, there are {depth.min()}")
    if table.duplicated(["seed", "model", "lang", "layer"]).any():
        raise NotTestableError("needs one value per model, language, layer and seed")
    third = (table.layer * 3 // depth).map({0: "first", 1: "middle", 2: "last"})
    return table.assign(third=third).pivot_table(
        index=["seed", "model", "lang"], columns="third", values=value
    )


def _firing(tables: Tables, name: str, value: str) -> pd.DataFrame:
    require_columns(tables[name], ["model", "seed", "lang", "layer", value], f"table {name!r}")
    return tables[name]


@decides("S2", "firing", **_SHAPES)
def _falls_then_flattens(tables: Tables) -> pd.Series:
    """Smallest over languages of the fall from the first to the middle third - |later change|."""
    t = _thirds(_firing(tables, "firing", "rate"), "rate")
    return weakest((t["first"] - t["middle"]) - (t["middle"] - t["last"]).abs())


@decides("S3", "firing_overlap", **_SHAPES)
def _rises_then_flattens(tables: Tables) -> pd.Series:
    """Smallest over languages of the rise - |later change|, and of the gain by training.

    The rise goes from the first to the middle third of the layers before training; the gain is the
    mean over layers of the overlap after selective alignment - that before.
    """
    t = _firing(tables, "firing_overlap", "overlap")
    require_columns(t, ["state"], "table 'firing_overlap'")
    if not {"before", "after"} <= set(t.state):
        raise NotTestableError("needs the overlap before and after alignment")
    shape = _thirds(t[t.state == "before"], "overlap")
    rise = (shape["middle"] - shape["first"]) - (shape["last"] - shape["middle"]).abs()
    means = t.groupby(["seed", "model", "lang", "state"]).overlap.mean().unstack("state")
    return weakest(pd.concat([rise, means.after - means.before]))
